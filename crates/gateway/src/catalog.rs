//! Which definitions may be shown and called: the pins at work (attacks.md PO-01, PO-04, PO-08, PO-13, PO-14, PO-16).
//!
//! A list is judged before the client sees it, a call before the server does. Whatever the store cannot say is not
//! approved. Tools, prompts, templates and instructions are pinned; entries of `resources/list` are data that comes
//! and goes, and are left to the policy and the shield unless the operator has them pinned (`pin_resources`).

mod admitting;
pub mod faces;
mod looking;
mod owing;
mod renewing;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
};
use bartizan_mcp::json::{Kind as Json, Member, Value, quote};
use bartizan_model::{CallerKey, Entropy};
use bartizan_shield::{Catalogue, Scene, Shield, drift::Definition};
use bartizan_store::{
    Digest, Keeper,
    pins::{
        Decision, Event, Extent, Finding, Kind, Look, Observation, Offered, PinError, Policy, Reason, Sight,
    },
};
use tokio::time::Instant;

pub use looking::{LookError, announces_change, identify_all, watch};

use crate::{
    contract::{self, Contracts},
    inspect,
    inventory::DefinitionKind,
    news::News,
    record::Recorder,
    server::{Pinning, Server, ServerSettings},
    upstream::stdio::lock,
};

/// Lists whose judgement is remembered.
const REMEMBERED: usize = 1024;

/// How long the schemas of one list may take to be read; of the definitions left then, none is approved unseen (attacks.md PO-07).
const READING: Duration = Duration::from_secs(2);

/// For how long. The keeper's own memory is as short, so that "last seen" stays true.
const REMEMBER: Duration = Duration::from_secs(60);

/// What stands between a server's definitions and those who use them.
pub struct Catalog {
    keeper: Arc<Keeper>,
    shield: Arc<ArcSwap<Shield>>,
    recorder: Arc<Recorder>,
    /// What every server offers, at one version of the pins: for look-alikes (attacks.md PO-05, PO-10).
    offered: Mutex<Option<(u64, Arc<Catalogue>)>>,
    contracts: Contracts,
    recognition: Recognition,
    judged: Mutex<HashMap<Recognised, Judged>>,
    /// Who is told what is decided, if anybody is.
    news: OnceLock<Arc<News>>,
}

struct Judged {
    /// At which version of what it depends on; see [`bartizan_store::PinSet::version_of`].
    version: u64,
    at: Instant,
    list: List,
}

/// A list that was judged.
#[derive(Clone)]
pub struct List {
    /// What of it may not be shown, in order.
    pub withheld: Arc<[Withheld]>,
    /// What its entries are called by, in order: name or address.
    pub names: Arc<[Option<String>]>,
}

/// Definitions as the keeper takes them, where in the list each was, and those that cannot be kept.
#[derive(Default)]
struct Read {
    offered: Vec<Offered>,
    places: Vec<usize>,
    withheld: Vec<Withheld>,
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

impl Catalog {
    /// A catalog over `keeper`'s pins, whose definitions `shield` judges.
    pub fn new(
        keeper: Arc<Keeper>,
        shield: Arc<ArcSwap<Shield>>,
        recorder: Arc<Recorder>,
        entropy: &dyn Entropy,
    ) -> Self {
        Self {
            keeper,
            shield,
            recorder,
            offered: Mutex::default(),
            contracts: Contracts::default(),
            recognition: Recognition::new(entropy),
            judged: Mutex::default(),
            news: OnceLock::new(),
        }
    }

    /// Has `news` know what servers themselves add and take away. The first one stays.
    pub fn inform(&self, news: Arc<News>) {
        let _ = self.news.set(news);
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

    /// What of a list may not be shown. `is_whole` says that it is the server's whole list of that kind.
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
    ) -> Result<List, PinError> {
        let key = self.recognition.of(server, caller, kind, is_whole, list.text());
        let pinned = pinned_kind(server, kind);
        // What is not pinned is judged beside what all servers offer.
        let now = || {
            let approved = self.keeper.approved();
            if pinned.is_some() { approved.version_of(server.name()) } else { Some(approved.version()) }
        };
        let version = now();
        let is_good = |judged: &&Judged| version == Some(judged.version) && judged.at.elapsed() < REMEMBER;
        let known = |key| Some(lock(&self.judged).get(key).filter(is_good)?.list.clone());
        if let Some(list) = key.as_ref().and_then(known) {
            return Ok(list);
        }
        let entries: Vec<_> = list.elements().map(Value::text).collect();
        // At which version of what it depends on the answer is certainly so.
        let (withheld, seen): (Arc<[Withheld]>, _) = match pinned {
            Some(pinned) => {
                if server.settings().pinning == Pinning::FirstUse {
                    // Our own look is the first: a client that is shown less must not end first use for all others.
                    if let Err(error) = self.look_at(server, false).await {
                        tracing::debug!(server = %server.name(), %error, "a client saw the server before we did");
                    }
                }
                let extent = if is_whole { Extent::Whole(vec![pinned]) } else { Extent::Part };
                let (withheld, seen) = self.look(server, caller, pinned, &entries, extent).await?;
                (withheld.into(), Some(seen))
            }
            None => (self.scan_only(server, &entries).into(), version),
        };
        let name = |entry: Value<'_>| Some(entry.get(kind.key())?.as_str()?.into_owned());
        let list = List { withheld, names: list.elements().map(name).collect() };
        // Unless something was decided meanwhile.
        let Some(version) = now().filter(|version| seen.is_some_and(|seen| *version <= seen)) else {
            return Ok(list);
        };
        let mut judged = lock(&self.judged);
        if judged.len() >= REMEMBERED {
            judged.clear();
        }
        judged.extend(key.map(|key| (key, Judged { version, at: Instant::now(), list: list.clone() })));
        Ok(list)
    }

    /// What of definitions that are not pinned the shield does not let pass.
    fn scan_only(&self, server: &Server, entries: &[&str]) -> Vec<Withheld> {
        let (shield, offered) = (self.shield.load_full(), self.offered());
        let scene = Scene { catalogue: Some(&offered), ..inspect::scene(server) };
        let bad = |raw: &str| inspect::definition(&shield, &scene, raw).is_none_or(|v| !v.decision.passes());
        let bad: Vec<_> = entries.iter().enumerate().filter(|(_, raw)| bad(raw)).map(|(at, _)| at).collect();
        if !bad.is_empty() {
            tracing::warn!(server = %server.name(), count = bad.len(), "definitions were withheld by the shield");
        }
        bad.into_iter().map(|at| Withheld { at, name: String::new(), reason: "shield.definition" }).collect()
    }

    /// Reads raw definitions of one kind, and what is found in them.
    fn read(&self, server: &Server, kind: Kind, entries: &[&str]) -> Read {
        let (shield, others) = (self.shield.load_full(), self.offered());
        let scene = Scene { catalogue: Some(&others), ..inspect::scene(server) };
        let mut withheld = Vec::new();
        let mut reading = Duration::ZERO;
        let (mut offered, mut places) = (Vec::new(), Vec::new());
        for (at, raw) in entries.iter().enumerate() {
            match Definition::read(kind.as_str(), &lasting(kind, raw)) {
                Ok(definition) => {
                    places.push(at);
                    let mut findings = scan(&shield, &scene, raw);
                    if kind == Kind::Tool && server.settings().validates {
                        let began = Instant::now();
                        let hash = Digest(definition.hash());
                        findings.extend(if reading > READING && !self.contracts.has(hash) {
                            vec![contract::unread()]
                        } else {
                            contract::findings(&self.contracts.of(hash, definition.text()))
                        });
                        reading += began.elapsed();
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
        Read { offered, places, withheld }
    }

    /// Brings raw definitions of one kind before the keeper; the answer is so at the version of the pins beside it.
    async fn look(
        &self,
        server: &Server,
        caller: &CallerKey,
        kind: Kind,
        entries: &[&str],
        extent: Extent,
    ) -> Result<(Vec<Withheld>, u64), PinError> {
        let Read { offered, places, mut withheld } = self.read(server, kind, entries);
        let observed = self.observe(server.settings(), caller, extent, offered).await?;
        for (at, sight) in places.into_iter().zip(&observed.sights) {
            if let Decision::Withhold(reason) = sight.decision {
                withheld.push(Withheld { at, name: sight.key.name.clone(), reason: reason.code() });
            }
        }
        withheld.sort_by_key(|w| w.at);
        Ok((withheld, observed.version))
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
        self.tell(settings, &observed);
        Ok(observed)
    }

    /// Records what a look was the first to see.
    fn tell(&self, settings: &ServerSettings, observed: &Observation) {
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
                        "withheld until a person has looked: {}", settings.look_command());
                }
            }
        }
        for gone in &observed.withdrawn {
            self.recorder.pins(gone, Event::Withdrawn, None);
            tracing::warn!(server = %gone.server, kind = gone.kind.as_str(), name = %quote(&gone.name), "no longer offered");
        }
        if let Some(news) = self.news.get() {
            let is_own = |sight: &&Sight| matches!(sight.news, Some(Event::FirstSeen | Event::Returned));
            let come = observed.sights.iter().filter(is_own).map(|sight| &sight.key);
            let own: Vec<_> =
                come.chain(&observed.withdrawn).map(|key| (key.kind, key.name.as_str())).collect();
            news.pass_over(&settings.name, &own);
        }
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
            Ok((withheld, _)) => withheld.is_empty(),
            Err(error) => {
                tracing::error!(server = %server.name(), %error, "its instructions were withheld");
                false
            }
        }
    }
}

/// Runs work that takes long where it holds up nobody else's messages.
pub fn long_work<T>(work: impl FnOnce() -> T) -> T {
    let is_pool = tokio::runtime::Handle::try_current()
        .is_ok_and(|h| h.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if is_pool { tokio::task::block_in_place(work) } else { work() }
}

fn is_pinned(server: &Server) -> bool {
    server.settings().pinning != Pinning::DangerousNone
}

/// What a scan of one definition as it was listed finds, as the pins keep it. `scene` says what other servers offer.
pub fn scan(shield: &Shield, scene: &Scene<'_>, raw: &str) -> Vec<Finding> {
    let Some(verdict) = inspect::definition(shield, scene, raw) else {
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
    let pinned = kind.pinned();
    (is_pinned(server) && (pinned != Kind::Resource || server.settings().pins_resources)).then_some(pinned)
}

/// What of a definition its server wrote once: how large a resource is and when it changed is news of its content
/// (26/resources), if that is what is said there. Anything else in its place is part of the definition.
fn lasting(kind: Kind, raw: &str) -> Cow<'_, str> {
    if kind != Kind::Resource {
        return raw.into();
    }
    let resource = Value::of(raw);
    let is_size = |member: &Member<'_>| member.is("size") && member.value.kind() == Json::Number;
    let is_change =
        |member: &Member<'_>| member.is("lastModified") && member.value.as_str().is_some_and(|t| is_time(&t));
    let kept = resource.members().filter(|member| !is_size(member)).map(|member| {
        if !member.is("annotations") || !member.value.members().any(|inner| is_change(&inner)) {
            return written(&member, member.value.text());
        }
        let others = member.value.members().filter(|inner| !is_change(inner));
        let others: Vec<_> = others.map(|inner| written(&inner, inner.value.text())).collect();
        written(&member, &format!("{{{}}}", others.join(",")))
    });
    match resource.kind() {
        Json::Object => format!("{{{}}}", kept.collect::<Vec<_>>().join(",")).into(),
        _ => raw.into(),
    }
}

/// A member of an object with another value, a JSON text.
fn written(member: &Member<'_>, value: &str) -> String {
    format!("\"{}\":{value}", member.raw_key())
}

/// Whether `text` may be a point in time (ISO 8601), and nothing that says more.
fn is_time(text: &str) -> bool {
    text.len() <= 40
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'.' | b'+' | b'T' | b'Z' | b' '))
}

/// What lists that were judged are recognised by: GMAC (NIST SP 800-38D), under a key that only this process has and with one
/// nonce for all. Its tags are kept and shown to nobody, so that nobody can make two lists that share one; and it is far quicker than a
/// digest.
struct Recognition(LessSafeKey);

/// Whose list it is and how it was asked for, by digest, and what it says, by tag.
type Recognised = ([u8; 32], [u8; 16]);

impl Recognition {
    fn new(entropy: &dyn Entropy) -> Self {
        let mut key = [0; 32];
        entropy.fill(&mut key);
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("the key has the length of the algorithm");
        Self(LessSafeKey::new(key))
    }

    fn of(
        &self,
        server: &Server,
        caller: &CallerKey,
        kind: DefinitionKind,
        is_whole: bool,
        list: &str,
    ) -> Option<Recognised> {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [server.settings().fingerprint.as_bytes(), caller.as_bytes(), kind.method().as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.update(&[u8::from(is_whole)]);
        let whose = context.finish().as_ref().first_chunk().copied()?;
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(list.as_bytes()), &mut []).ok()?;
        Some((whose, tag.as_ref().first_chunk().copied()?))
    }
}
