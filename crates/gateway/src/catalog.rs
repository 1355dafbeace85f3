//! Which definitions may be shown and called: the pins at work (attacks.md PO-01, PO-04, PO-08, PO-13, PO-14, PO-16).
//!
//! A list is judged before the client sees it, a call before the server does. Whatever the store cannot say is not
//! approved. Tools, prompts, templates and instructions are pinned; entries of `resources/list` are data that comes
//! and goes, and are left to the policy and the shield unless the operator has them pinned (`pin_resources`).

pub mod faces;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use bartizan_mcp::{
    Era, Message, Refusal, Splice, code, era,
    json::{Value, quote},
};
use bartizan_model::{CallerKey, ServerName};
use bartizan_shield::{Catalogue, Shield, Verdict, drift::Definition, schema::Contract};
use bartizan_store::{
    Digest, Keeper,
    pins::{
        Decision, Event, Extent, Finding, IDENTITY, Kind, Look, Observation, Offered, PinError, Policy,
        Reason, Ruling,
    },
};
use tokio::time::Instant;

use faces::Faces;

use crate::{
    Asker,
    contract::{self, Contracts},
    inspect,
    inventory::{self, DefinitionKind},
    merged, program,
    record::Recorder,
    server::{Pinning, Server, ServerSettings},
    upstream::{Failure, stdio::lock},
};

/// Lists whose judgement is remembered.
const REMEMBERED: usize = 1024;

/// For how long. The keeper's own memory is as short, so that "last seen" stays true.
const REMEMBER: Duration = Duration::from_secs(60);

/// How often a server is looked at without anybody asking.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// How long after a look the next one may begin, whatever a server announces (attacks.md PO-16).
const REST: Duration = Duration::from_secs(1);

/// How long a server that could not be looked at is left alone.
const FAILED_REST: Duration = Duration::from_secs(5);

/// What stands between a server's definitions and those who use them.
pub struct Catalog {
    keeper: Arc<Keeper>,
    shield: Arc<ArcSwap<Shield>>,
    recorder: Arc<Recorder>,
    /// What every server offers, at one version of the pins: for look-alikes (attacks.md PO-05, PO-10).
    offered: Mutex<Option<(u64, Arc<Catalogue>)>>,
    contracts: Contracts,
    judged: Mutex<HashMap<[u8; 32], Judged>>,
}

struct Judged {
    version: u64,
    at: Instant,
    withheld: Arc<[Withheld]>,
}

/// A definition that is not shown.
#[derive(Clone, Debug)]
pub struct Withheld {
    /// Its place in the list.
    pub at: usize,
    /// The server's name for it.
    pub name: String,
    /// Why, in a stable word.
    pub reason: &'static str,
}

/// Why a server could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The store failed.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The server did.
    #[error(transparent)]
    Server(#[from] Failure),
}

impl Catalog {
    /// A catalog over `keeper`'s pins, whose definitions `shield` judges.
    pub fn new(keeper: Arc<Keeper>, shield: Arc<ArcSwap<Shield>>, recorder: Arc<Recorder>) -> Self {
        Self {
            keeper,
            shield,
            recorder,
            offered: Mutex::default(),
            contracts: Contracts::default(),
            judged: Mutex::default(),
        }
    }

    /// Forgets what was judged, after the shield changed.
    pub fn forget(&self) {
        lock(&self.judged).clear();
    }

    /// What every server offers now.
    fn offered(&self) -> Arc<Catalogue> {
        let set = self.keeper.approved();
        let mut offered = lock(&self.offered);
        match &*offered {
            Some((version, catalogue)) if *version == set.version() => Arc::clone(catalogue),
            _ => {
                let names = set.all(Kind::Tool).map(|(server, name)| (server.as_str(), name));
                let fresh = Arc::new(Catalogue::new(names));
                *offered = Some((set.version(), Arc::clone(&fresh)));
                fresh
            }
        }
    }

    /// The pins themselves.
    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// What of a list may not be shown, in order. `is_whole` says that it is the server's whole list of that kind.
    ///
    /// # Errors
    /// [`PinError`]; nothing may be shown then.
    pub async fn judge(
        &self,
        server: &Arc<Server>,
        caller: &CallerKey,
        kind: DefinitionKind,
        list: Value<'_>,
        is_whole: bool,
    ) -> Result<Arc<[Withheld]>, PinError> {
        let key = digest_of(server, caller, kind, is_whole, list.text());
        let version = self.keeper.approved().version();
        if let Some(judged) = lock(&self.judged).get(&key)
            && judged.version == version
            && judged.at.elapsed() < REMEMBER
        {
            return Ok(Arc::clone(&judged.withheld));
        }
        let entries: Vec<_> = list.elements().map(Value::text).collect();
        let withheld: Arc<[Withheld]> = match pinned_kind(server, kind) {
            Some(pinned) => {
                if server.settings().pinning == Pinning::FirstUse {
                    // Our own look is the first: a client that is shown less must not end first use for all others.
                    if let Err(error) = self.look_at(server, false).await {
                        tracing::debug!(server = %server.name(), %error, "a client saw the server before we did");
                    }
                }
                let extent = if is_whole { Extent::Whole(vec![pinned]) } else { Extent::Part };
                self.look(server, caller, pinned, &entries, extent).await?.into()
            }
            None => self.scan_only(server, &entries).into(),
        };
        let version = self.keeper.approved().version();
        let mut judged = lock(&self.judged);
        if judged.len() >= REMEMBERED {
            judged.clear();
        }
        judged.insert(key, Judged { version, at: Instant::now(), withheld: Arc::clone(&withheld) });
        Ok(withheld)
    }

    /// What of definitions that are not pinned the shield does not let pass.
    fn scan_only(&self, server: &Server, entries: &[&str]) -> Vec<Withheld> {
        let (shield, offered) = (self.shield.load_full(), self.offered());
        let bad = |raw: &str| {
            inspect::definition(&shield, server, &offered, raw).is_none_or(|v| !v.decision.passes())
        };
        let bad: Vec<_> = entries.iter().enumerate().filter(|(_, raw)| bad(raw)).map(|(at, _)| at).collect();
        if !bad.is_empty() {
            tracing::warn!(server = %server.name(), count = bad.len(), "definitions were withheld by the shield");
        }
        bad.into_iter().map(|at| Withheld { at, name: String::new(), reason: "shield.definition" }).collect()
    }

    /// Brings raw definitions of one kind before the keeper.
    async fn look(
        &self,
        server: &Server,
        caller: &CallerKey,
        kind: Kind,
        entries: &[&str],
        extent: Extent,
    ) -> Result<Vec<Withheld>, PinError> {
        let (shield, others) = (self.shield.load_full(), self.offered());
        let mut withheld = Vec::new();
        let (mut offered, mut places) = (Vec::new(), Vec::new());
        for (at, raw) in entries.iter().enumerate() {
            match Definition::read(kind.as_str(), &lasting(kind, raw)) {
                Ok(definition) => {
                    places.push(at);
                    let mut findings = findings(inspect::definition(&shield, server, &others, raw));
                    if kind == Kind::Tool && server.settings().validates {
                        let contract = self.contracts.of(Digest(definition.hash()), definition.text());
                        findings.extend(contract::findings(&contract));
                    }
                    offered.push(offer(kind, definition, findings));
                }
                Err(reason) => {
                    tracing::warn!(server = %server.name(), kind = kind.as_str(), %reason, "a definition was withheld");
                    let reason = Reason::Unkeepable.code();
                    withheld.push(Withheld { at, name: String::new(), reason });
                }
            }
        }
        let observed = self.observe(server.settings(), caller, extent, offered).await?;
        for (at, sight) in places.into_iter().zip(&observed.sights) {
            if let Decision::Withhold(reason) = sight.decision {
                withheld.push(Withheld { at, name: sight.key.name.clone(), reason: reason.code() });
            }
        }
        withheld.sort_by_key(|w| w.at);
        Ok(withheld)
    }

    async fn observe(
        &self,
        settings: &ServerSettings,
        caller: &CallerKey,
        extent: Extent,
        offered: Vec<Offered>,
    ) -> Result<Arc<Observation>, PinError> {
        let policy = match settings.pinning {
            Pinning::FirstUse => Policy::TrustOnFirstUse,
            Pinning::ByHand | Pinning::DangerousNone => Policy::ApproveByHand,
        };
        let look = Look { server: settings.name.clone(), caller: caller.clone(), policy, extent, offered };
        let observed = self.keeper.observe(&look).await?;
        for sight in &observed.sights {
            let Some(news) = sight.news else { continue };
            let held = match sight.decision {
                Decision::Show => None,
                Decision::Withhold(reason) => Some(reason),
            };
            self.recorder.pins(&sight.key, news, held);
            let (server, kind, name) = (&sight.key.server, sight.key.kind.as_str(), quote(&sight.key.name));
            match sight.decision {
                Decision::Show => tracing::info!(%server, kind, %name, event = news.as_str(), "pins"),
                Decision::Withhold(reason) => {
                    tracing::warn!(%server, kind, %name, event = news.as_str(), reason = reason.code(),
                        "withheld until a person has looked: bartizan tools diff --server {server}");
                }
            }
        }
        for gone in &observed.withdrawn {
            self.recorder.pins(gone, Event::Withdrawn, None);
            tracing::warn!(server = %gone.server, kind = gone.kind.as_str(), name = %quote(&gone.name), "no longer offered");
        }
        Ok(observed)
    }

    /// Whether a server's `instructions` may be shown.
    pub async fn shows_instructions(&self, server: &Server, caller: &CallerKey, text: &str) -> bool {
        let raw = quote(text);
        if !is_pinned(server) {
            return self.scan_only(server, &[&raw]).is_empty();
        }
        let looked = self
            .look(server, caller, Kind::Instructions, &[&raw], Extent::Whole(vec![Kind::Instructions]))
            .await;
        match looked {
            Ok(withheld) => withheld.is_empty(),
            Err(error) => {
                tracing::error!(server = %server.name(), %error, "its instructions were withheld");
                false
            }
        }
    }

    /// Lets a call through whose tool or prompt is approved.
    ///
    /// # Errors
    /// The refusal: an unknown name reads as such, a withheld one says what must happen (attacks.md PO-01).
    pub async fn admit(
        &self,
        asker: &Asker,
        server: &Arc<Server>,
        era: Era,
        is_merged: bool,
        message: &Message,
    ) -> Result<(), Refusal> {
        let kind = match message.method().as_ref() {
            "tools/call" => Kind::Tool,
            "prompts/get" => Kind::Prompt,
            _ => return Ok(()),
        };
        if !is_pinned(server) {
            return Ok(());
        }
        // That it is there was checked by `mcp::era`.
        let named = message.param("name").and_then(Value::as_str).unwrap_or_default();
        let bare = if is_merged { merged::split_name(&named).map_or("", |(_, bare)| bare) } else { &named };
        let name = server.name();
        if self.keeper.is_approved(name, kind, bare) {
            return Ok(());
        }
        let looked = self.look_at(server, false).await;
        if self.keeper.is_approved(name, kind, bare) {
            return Ok(());
        }
        let status = |modern| if era == Era::Modern { modern } else { 200 };
        match (self.held(server, kind, bare).await?, looked) {
            (Some(withheld), _) => Err(Refusal { status: status(403), ..withheld }),
            (None, Err(LookError::Server(failure))) => {
                let refusal = failure.refusal(name.as_str());
                Err(Refusal { status: status(refusal.status), ..refusal })
            }
            (None, Err(LookError::Pins(error))) => {
                tracing::error!(server = %name, %error, "the pins cannot be read");
                Err(unreadable())
            }
            (None, Ok(())) => {
                // Nobody may have listed anything yet for want of an account.
                if let Some(failure) = server.missing_link(asker).await {
                    let refusal = failure.refusal(name.as_str());
                    return Err(Refusal { status: status(refusal.status), ..refusal });
                }
                let what = kind.as_str();
                Err(Refusal::new(status(400), code::INVALID_PARAMS, format!("there is no such {what}")))
            }
        }
    }

    /// What the tool that `message` calls takes and gives; none where nothing is pinned, or the operator wants no comparison.
    pub fn contract(&self, server: &Server, is_merged: bool, message: &Message) -> Option<Arc<Contract>> {
        if message.method() != "tools/call" || !is_pinned(server) || !server.settings().validates {
            return None;
        }
        let named = message.param("name").and_then(Value::as_str).unwrap_or_default();
        let bare = if is_merged { merged::split_name(&named).map_or("", |(_, bare)| bare) } else { &named };
        let set = self.keeper.approved();
        set.get(server.name(), Kind::Tool, bare).map(|pinned| self.contracts.of(pinned.hash, &pinned.text))
    }

    /// What every approved tool of `server` takes and gives.
    pub fn contracts(&self, server: &Server) -> Vec<Arc<Contract>> {
        if !is_pinned(server) || !server.settings().validates {
            return Vec::new();
        }
        let set = self.keeper.approved();
        set.of(server.name(), Kind::Tool)
            .map(|(_, pinned)| self.contracts.of(pinned.hash, &pinned.text))
            .collect()
    }

    /// Why a definition that was offered before is withheld.
    async fn held(&self, server: &Server, kind: Kind, bare: &str) -> Result<Option<Refusal>, Refusal> {
        let (name, what) = (server.name(), kind.as_str());
        let key = bartizan_store::pins::Key { server: name.clone(), kind, name: bare.to_owned() };
        let reason = self.keeper.held(&key).await.map_err(|error| {
            tracing::error!(server = %name, %error, "the pins cannot be read");
            unreadable()
        })?;
        let text = format!(
            "the {what} `{bare}` of the server `{name}` is withheld until its operator has looked at it: \
             bartizan tools diff --server {name}"
        );
        Ok(reason.map(|reason| {
            let (reason, server, bare) = (reason.code(), quote(name.as_str()), quote(bare));
            Refusal::new(403, code::WITHHELD, text).with_data(format!(
                r#"{{"source":"bartizan","reason":"{reason}","server":{server},"name":{bare}}}"#
            ))
        }))
    }

    /// Looks at everything a server defines, unless that was done a moment ago; `again` looks at one already known too.
    ///
    /// # Errors
    /// [`LookError`].
    pub async fn look_at(&self, server: &Arc<Server>, again: bool) -> Result<(), LookError> {
        // Where everybody has an account of their own the gate has none: what its callers list is what is pinned.
        if !is_pinned(server) || server.is_personal() {
            return Ok(());
        }
        // One at a time: whoever waits finds it done.
        let mut looked = server.looked().lock().await;
        match &*looked {
            Some((at, Ok(()))) if again && at.elapsed() < REST => {
                // What was announced meanwhile is looked at when the rest is over, not forgotten.
                server.note_change();
                return Ok(());
            }
            Some((at, Ok(()))) if !again && at.elapsed() < LOOK_AGAIN * 2 => return Ok(()),
            Some((at, Err(failure))) if at.elapsed() < FAILED_REST => return Err(failure.clone().into()),
            _ => {}
        }
        let nobody = CallerKey::nobody();
        self.identify(server.settings()).await?;
        let found = match inventory::take(server).await {
            Ok(found) => found,
            Err(failure) => {
                *looked = Some((Instant::now(), Err(failure.clone())));
                return Err(failure.into());
            }
        };
        if let Some(instructions) = &found.instructions {
            self.shows_instructions(server, &nobody, instructions).await;
        }
        for kind in DefinitionKind::ALL {
            let Some(pinned) = pinned_kind(server, kind) else { continue };
            let entries: Vec<_> =
                found.definitions.iter().filter(|(k, _)| *k == kind).map(|(_, raw)| raw.as_str()).collect();
            self.look(server, &nobody, pinned, &entries, Extent::Whole(vec![pinned])).await?;
        }
        *looked = Some((Instant::now(), Ok(())));
        Ok(())
    }

    /// Pins who the server is: its command and what that runs, or its address (attacks.md SC-01).
    ///
    /// What more becomes known of the same command, a package that was installed meanwhile or what an older gate did not look
    /// at, is pinned at its first sight and told of; from then on it changes for nobody unseen.
    ///
    /// # Errors
    /// [`PinError`].
    pub async fn identify(&self, settings: &ServerSettings) -> Result<(), PinError> {
        let identity = program::identity(settings).await;
        let offered = offer(Kind::Identity, identity.definition(), Vec::new());
        let extent = Extent::Whole(vec![Kind::Identity]);
        let approved = self.keeper.approved();
        let approved = approved.get(&settings.name, Kind::Identity, IDENTITY);
        if approved.is_none_or(|approved| !program::says_more(&identity, approved)) {
            return self.observe(settings, &CallerKey::nobody(), extent, vec![offered]).await.map(|_| ());
        }
        let (server, hash) = (settings.name.clone(), offered.hash);
        let key = bartizan_store::pins::Key { server, kind: Kind::Identity, name: IDENTITY.to_owned() };
        let look = Look {
            server: settings.name.clone(),
            caller: CallerKey::nobody(),
            policy: Policy::ApproveByHand,
            extent,
            offered: vec![offered],
        };
        self.keeper.observe(&look).await?;
        let ruling = Ruling::Approve { key: key.clone(), hash };
        self.keeper.rule(&[ruling], "first sight of what the command runs").await?;
        self.recorder.pins(&key, Event::FirstSeen, None);
        tracing::info!(server = %settings.name, "what its command runs is pinned from now on");
        Ok(())
    }
}

/// Pins who each server of `gate` is, before anybody asks for anything of it.
///
/// # Errors
/// [`PinError`]; nothing is approved then.
pub async fn identify_all(gate: &crate::Gate) -> Result<(), PinError> {
    for server in gate.all_servers() {
        if is_pinned(&server) {
            gate.catalog().identify(server.settings()).await?;
        }
    }
    Ok(())
}

/// Looks at every server of `gate` again and again, and takes over what other processes decide, until it is dropped.
pub async fn watch(gate: Arc<crate::Gate>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut due: HashMap<ServerName, Instant> = HashMap::new();
    let mut faces = Faces::default();
    loop {
        ticks.tick().await;
        if let Err(error) = gate.catalog().keeper.refresh().await {
            tracing::error!(%error, "the pins cannot be read; nothing is approved until they can");
        }
        match gate.responses().refresh().await {
            Ok(false) => {}
            Ok(true) => gate.cut_off().await,
            Err(error) => {
                tracing::error!(%error, "what is cut off cannot be read; nothing is served until it can");
            }
        }
        for server in gate.all_servers() {
            if gate.responses().is_quarantined(server.name()) {
                continue;
            }
            if is_pinned(&server) && server.is_due() {
                let (gate, server) = (Arc::clone(&gate), Arc::clone(&server));
                tokio::spawn(async move {
                    if let Err(error) = gate.catalog().identify(server.settings()).await {
                        tracing::error!(server = %server.name(), %error, "what it runs could not be pinned");
                    }
                });
            }
            let now = Instant::now();
            let first = due.entry(server.name().clone()).or_insert(now);
            if !server.take_change() && *first > now {
                continue;
            }
            // A quarter more or less, so that servers are not all asked at once and cannot know when.
            let [when, chance] = {
                let mut bytes = [0; 2];
                gate.entropy().fill(&mut bytes);
                bytes
            };
            *first = now + LOOK_AGAIN.mul_f32(0.75 + f32::from(when) / 512.0);
            let faces = faces.after_look(server.name(), now, chance);
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                let looking = async {
                    gate.catalog().look_at(&server, true).await?;
                    for face in faces {
                        gate.catalog().look_as(&server, *face).await?;
                    }
                    Ok::<(), LookError>(())
                };
                if let Err(error) = looking.await {
                    tracing::warn!(server = %server.name(), %error, "the server could not be looked at");
                }
            });
        }
    }
}

/// Runs work that takes long where it holds up nobody else's messages.
pub fn long_work<T>(work: impl FnOnce() -> T) -> T {
    let is_pool = tokio::runtime::Handle::try_current()
        .is_ok_and(|h| h.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if is_pool { tokio::task::block_in_place(work) } else { work() }
}

fn unreadable() -> Refusal {
    Refusal::new(503, code::LIMIT, "the approvals cannot be read now; try again later")
}

fn is_pinned(server: &Server) -> bool {
    server.settings().pinning != Pinning::DangerousNone
}

/// What a scan found, as the pins keep it.
fn findings(verdict: Option<Verdict>) -> Vec<Finding> {
    let Some(verdict) = verdict else {
        return vec![Finding {
            rule: "unjudged".into(),
            severity: "critical".into(),
            words: "the definition could not be judged".into(),
            blocks: true,
        }];
    };
    verdict
        .findings
        .iter()
        .map(|judged| Finding {
            rule: judged.finding.rule.to_string(),
            severity: judged.finding.severity.as_str().to_owned(),
            words: format!("{}: {}", judged.finding.title, judged.finding.excerpt),
            blocks: !judged.decision.passes(),
        })
        .collect()
}

fn offer(kind: Kind, definition: Definition, findings: Vec<Finding>) -> Offered {
    Offered {
        kind,
        name: definition.name().to_owned(),
        hash: Digest(definition.hash()),
        body: Digest(definition.body()),
        text: definition.text().to_owned(),
        findings,
    }
}

/// As what a listed definition of `server` is pinned, if it is.
fn pinned_kind(server: &Server, kind: DefinitionKind) -> Option<Kind> {
    let pinned = match kind {
        DefinitionKind::Prompt => Kind::Prompt,
        DefinitionKind::Resource => Kind::Resource,
        DefinitionKind::Template => Kind::Template,
        DefinitionKind::Tool => Kind::Tool,
    };
    (is_pinned(server) && (pinned != Kind::Resource || server.settings().pins_resources)).then_some(pinned)
}

/// What of a definition its server wrote once: how large a resource is and when it changed is news of its content
/// (26/resources).
fn lasting(kind: Kind, raw: &str) -> Cow<'_, str> {
    if kind != Kind::Resource {
        return raw.into();
    }
    let resource = Value::of(raw);
    let mut splice = Splice::new(raw);
    match resource.get("annotations").filter(|a| a.get("lastModified").is_some()) {
        None => splice.retain(resource, |key| key != "size"),
        Some(annotations) => {
            let others = annotations.members().filter(|m| !m.is("lastModified"));
            let others: Vec<_> = others.map(|m| format!("\"{}\":{}", m.raw_key(), m.value.text())).collect();
            let kept = resource.members().filter(|m| !m.is("size")).map(|m| {
                let value = if m.is("annotations") {
                    format!("{{{}}}", others.join(","))
                } else {
                    m.value.text().to_owned()
                };
                format!("\"{}\":{value}", m.raw_key())
            });
            let kept: Vec<_> = kept.collect();
            splice.replace(resource, format!("{{{}}}", kept.join(",")));
        }
    }
    splice.finish().into()
}

fn digest_of(
    server: &Server,
    caller: &CallerKey,
    kind: DefinitionKind,
    is_whole: bool,
    list: &str,
) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [server.settings().fingerprint.as_bytes(), caller.as_bytes(), kind.method().as_bytes()] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.update(&[u8::from(is_whole)]);
    context.update(list.as_bytes());
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// Whether a legacy or modern notification says that definitions of `server` changed.
pub fn announces_change(server: &Server, method: &str) -> bool {
    let is_of_pins = match method {
        "notifications/tools/list_changed" | "notifications/prompts/list_changed" => true,
        "notifications/resources/list_changed" => server.settings().pins_resources,
        _ => false,
    };
    is_of_pins && era::is_server_notification(Era::Legacy, method)
}
