//! The gate's own looks at what servers define, and at who they are (attacks.md PO-16, SC-01).

use std::{collections::HashMap, sync::Arc, time::Duration};

use bartizan_mcp::{Era, era, json::quote};
use bartizan_model::{CallerKey, ServerName, Timestamp};
use bartizan_shield::drift::Definition;
use bartizan_store::{
    Digest,
    pins::{Event, Extent, Form, IDENTITY, Key, Kind, Look, PinError, Policy, Ruling},
};
use futures::future::join_all;
use tokio::time::Instant;

use super::{
    Catalog,
    faces::{Face, Faces},
    is_pinned, offer,
    owing::Owed,
    pinned_kind,
    renewing::Identities,
};
use crate::{
    Gate,
    inventory::{self, DefinitionKind},
    program,
    server::{Pinning, Server, ServerSettings, Transport},
    upstream::Failure,
};

/// How often a server is looked at without anybody asking.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// How long after a look the next one may begin, whatever a server announces (attacks.md PO-16).
const REST: Duration = Duration::from_secs(1);

/// How many times as long as judging what it defines took, besides.
const RESTS: u32 = 8;

/// How long a server that could not be looked at is left alone.
const FAILED_REST: Duration = Duration::from_secs(5);

/// How long after a look the next one is at a server of which something is not approved until a look can be written down.
pub(super) const DOUBT_REST: Duration = Duration::from_secs(30);

/// How long the store may take to say what is cut off.
const PATIENCE: Duration = Duration::from_secs(10);

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
        let began = Instant::now();
        let (mut kinds, mut offered) = (Vec::new(), Vec::new());
        if let Some(instructions) = &found.instructions {
            kinds.push(Kind::Instructions);
            offered.append(&mut self.read(server, Kind::Instructions, &[&quote(instructions)]).offered);
        }
        for kind in DefinitionKind::ALL {
            let Some(pinned) = pinned_kind(server, kind) else { continue };
            let entries: Vec<_> =
                found.definitions.iter().filter(|(k, _)| *k == kind).map(|(_, raw)| raw.as_str()).collect();
            kinds.push(pinned);
            offered.append(&mut self.read(server, pinned, &entries).offered);
        }
        // All at once: one look is written down once.
        self.observe(server.settings(), &nobody, Extent::Whole(kinds), offered).await?;
        if !server.note_seen()
            && let Some(news) = self.news.get()
        {
            news.begin(server.name());
        }
        // Whoever has much to be judged rests for longer: however often a server announces another list, most of the time is for
        // others.
        *looked = Some((Instant::now() + began.elapsed() * RESTS, Ok(())));
        Ok(())
    }

    /// Looks at everything `server` defines, and as each of `faces`; those it was looked at as are taken away. The answer is whether
    /// that was all: what is in doubt is compared with nothing.
    ///
    /// # Errors
    /// [`LookError`].
    async fn look_fully(&self, server: &Arc<Server>, faces: &mut Vec<Face>) -> Result<bool, LookError> {
        self.look_at(server, true).await?;
        while let Some(face) = faces.first() {
            if self.keeper.approved().version_of(server.name()).is_none() {
                return Ok(false);
            }
            self.look_as(server, *face).await?;
            faces.remove(0);
        }
        Ok(true)
    }

    /// Writes down what callers of `servers` were shown when it could not be: they may not look again.
    pub(super) async fn write_owed(&self, servers: &[Arc<Server>]) {
        for look in self.keeper.owed() {
            // Of one that is not configured any more it is on record, too.
            let server = servers.iter().find(|server| *server.name() == look.server);
            match self.keeper.observe(&look).await {
                Ok(observed) => server.into_iter().for_each(|server| self.tell(server.settings(), &observed)),
                // Nor could the next.
                Err(error) => {
                    tracing::warn!(%error, "what a caller was shown cannot be written down yet");
                    return;
                }
            }
        }
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
        let key = Key { server: settings.name.clone(), kind: Kind::Identity, name: IDENTITY.to_owned() };
        let look = identity_of(settings, identity.definition());
        let set = self.keeper.approved();
        let approved = match set.get(&settings.name, Kind::Identity, IDENTITY) {
            // While it is in doubt, or nothing can be read, the store may say what is approved: more of the same would be written
            // down as a change.
            None if set.version() == 0 || set.version_of(&settings.name).is_none() => {
                self.keeper.look_up(&key, &look).await?
            }
            approved => approved.cloned(),
        };
        if let Some(approved) = approved.filter(|approved| program::says_more(&identity, approved)) {
            self.extend(settings, &key, approved.hash, &look).await?;
        }
        let Look { caller, extent, offered, .. } = look;
        self.observe(settings, &caller, extent, offered).await.map(|_| ())
    }

    /// Has what `look` shows take the place of `from`, which says less of the same, unless somebody decided otherwise meanwhile: then it is
    /// a change like any other.
    async fn extend(
        &self,
        settings: &ServerSettings,
        key: &Key,
        from: Digest,
        look: &Look,
    ) -> Result<(), PinError> {
        let forms = look.offered.iter().map(|offered| Form {
            hash: offered.hash,
            body: offered.body,
            text: offered.text.clone(),
            first_seen: Timestamp::from_unix(0),
            approved_at: None,
            findings: Vec::new(),
        });
        let rulings: Vec<_> = forms.map(|form| Ruling::Extend { key: key.clone(), from, form }).collect();
        match self.keeper.rule(&rulings, "first sight of what the command runs").await {
            Ok(()) => {
                self.recorder.pins(key, Event::FirstSeen, None);
                tracing::info!(server = %settings.name, "what its command runs is pinned from now on");
                Ok(())
            }
            Err(PinError::Moved(_)) => Ok(()),
            Err(error) => {
                self.keeper.suspect(look);
                Err(error)
            }
        }
    }

    /// Has nothing of a server behind a URL be approved that is configured as another than what was approved, until that is on record. What
    /// a command runs is looked at when it starts.
    pub fn doubt_others(&self, settings: &ServerSettings) {
        let is_pinned = settings.pinning != Pinning::DangerousNone;
        let is_address = matches!(settings.transport, Transport::Url(_));
        let look = (is_pinned && is_address).then(|| identity_of(settings, settings.identity.definition()));
        let identity = look.as_ref().and_then(|look| look.offered.first()).map(|offered| offered.hash);
        self.keeper.expect(&settings.name, identity);
        if let Some(look) = look {
            self.keeper.suspect(&look);
        }
    }
}

/// Our own look at who a server is.
pub(super) fn identity_of(settings: &ServerSettings, definition: Definition) -> Look {
    Look {
        server: settings.name.clone(),
        caller: CallerKey::nobody(),
        policy: Policy::ApproveByHand,
        extent: Extent::Whole(vec![Kind::Identity]),
        offered: vec![offer(Kind::Identity, definition, Vec::new())],
    }
}

/// Pins who each server of `gate` is, before anybody asks for anything of it. Of one of which that cannot be noted just now nothing
/// is approved until it is.
///
/// # Errors
/// [`PinError`], if the store is not what it was; nothing is approved then.
pub async fn identify_all(gate: &Gate) -> Result<(), PinError> {
    let servers = gate.all_servers();
    let pinned = servers.iter().filter(|server| is_pinned(server)).map(|server| async move {
        let turn = gate.starts.look().await;
        let done = gate.catalog().identify(server.settings()).await;
        drop(turn);
        match done {
            Err(error) if error.is_passing() => {
                tracing::error!(server = %server.name(), %error, "who it is could not be pinned; nothing of it is approved until it is");
                Ok(())
            }
            done => done,
        }
    });
    join_all(pinned).await.into_iter().collect()
}

/// Looks at every server of `gate` again and again, takes over what other processes decide, and tells whoever listens, until it is
/// dropped.
pub async fn watch(gate: Arc<Gate>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut due: HashMap<ServerName, Instant> = HashMap::new();
    let mut faces = Faces::default();
    let mut identities = Identities::default();
    // Nothing yet: what was cut off before is looked at once.
    let mut cut_off = None;
    let owed = Arc::new(Owed::default());
    let writing = Arc::new(tokio::sync::Mutex::new(()));
    loop {
        ticks.tick().await;
        // The keeper says itself what comes of it.
        let read = gate.catalog().keeper.refresh().await;
        if let Err(error) = &read {
            tracing::debug!(%error, "the pins cannot be read");
        }
        owed.asked(read.is_ok(), Instant::now());
        if read.is_ok()
            && gate.catalog().keeper.has_owed()
            && let Ok(one) = Arc::clone(&writing).try_lock_owned()
        {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                gate.catalog().write_owed(&gate.all_servers()).await;
                drop(one);
            });
        }
        identities.renew(&gate);
        let doubted = gate.catalog().keeper.doubted();
        match tokio::time::timeout(PATIENCE, gate.responses().refresh()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "what is cut off cannot be read; nothing is served until it can");
            }
            Err(_) => {
                tracing::error!("what is cut off cannot be read in time; nothing is served until it can")
            }
        }
        // A request that found it out of date may have read it before us.
        let changes = gate.responses().changes();
        if cut_off.replace(changes) != Some(changes) {
            gate.cut_off().await;
        }
        gate.news().tell();
        for server in gate.all_servers() {
            if gate.responses().is_quarantined(server.name()) {
                // One that was about to start then.
                server.stop_live();
                continue;
            }
            if is_pinned(&server) && server.is_due() {
                let (gate, server) = (Arc::clone(&gate), Arc::clone(&server));
                tokio::spawn(async move {
                    // However long the store takes, one waits for it.
                    let Ok(_one) = server.identifying().try_lock() else { return };
                    if let Err(error) = gate.catalog().identify(server.settings()).await {
                        tracing::error!(server = %server.name(), %error, "what it runs could not be pinned");
                    }
                });
            }
            let now = Instant::now();
            let first = due.entry(server.name().clone()).or_insert(now);
            if doubted.contains(server.name()) {
                *first = (*first).min(now + DOUBT_REST);
            }
            let due_faces = owed.take(server.name(), now);
            let is_owed = due_faces.is_some();
            if !server.take_change() && !is_owed && *first > now {
                continue;
            }
            // A quarter more or less, so that servers are not all asked at once and cannot know when.
            let [when, chance] = {
                let mut bytes = [0; 2];
                gate.entropy().fill(&mut bytes);
                bytes
            };
            *first = now + LOOK_AGAIN.mul_f32(0.75 + f32::from(when) / 512.0);
            let mut left = due_faces.unwrap_or_default();
            let others = faces.after_look(server.name(), now, chance).iter();
            left.extend(others.filter(|face| !left.contains(face)).copied().collect::<Vec<_>>());
            let (gate, owed) = (Arc::clone(&gate), Arc::clone(&owed));
            tokio::spawn(async move {
                let turn = gate.starts.look().await;
                let looked = gate.catalog().look_fully(&server, &mut left).await;
                // One that is owed stays so until it was made, and as whom it was.
                let stays_owed = match &looked {
                    Ok(is_all) => !is_all,
                    Err(LookError::Pins(_)) => true,
                    Err(LookError::Server(_)) => is_owed,
                };
                if let Err(error) = &looked {
                    tracing::warn!(server = %server.name(), %error, "the server could not be looked at");
                }
                if stays_owed {
                    owed.note(server.name(), left, Instant::now());
                }
                drop(turn);
            });
        }
    }
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
