//! The gate's own looks at what servers define, and at who they are (attacks.md PO-16, SC-01).

use std::{collections::HashMap, sync::Arc, time::Duration};

use bartizan_mcp::{Era, era};
use bartizan_model::{CallerKey, ServerName};
use bartizan_store::pins::{Event, Extent, IDENTITY, Key, Kind, Look, PinError, Policy, Ruling};
use tokio::time::Instant;

use super::{Catalog, faces::Faces, is_pinned, offer, pinned_kind, renewing::Identities};
use crate::{
    Gate,
    inventory::{self, DefinitionKind},
    program,
    server::{Server, ServerSettings},
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
        if let Some(instructions) = &found.instructions {
            self.shows_instructions(server, &nobody, instructions).await;
        }
        for kind in DefinitionKind::ALL {
            let Some(pinned) = pinned_kind(server, kind) else { continue };
            let entries: Vec<_> =
                found.definitions.iter().filter(|(k, _)| *k == kind).map(|(_, raw)| raw.as_str()).collect();
            self.look(server, &nobody, pinned, &entries, Extent::Whole(vec![pinned])).await?;
        }
        // Whoever has much to be judged rests for longer: however often a server announces another list, most of the time is for
        // others.
        *looked = Some((Instant::now() + began.elapsed() * RESTS, Ok(())));
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
        let key = Key { server, kind: Kind::Identity, name: IDENTITY.to_owned() };
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
pub async fn identify_all(gate: &Gate) -> Result<(), PinError> {
    for server in gate.all_servers() {
        if is_pinned(&server) {
            gate.catalog().identify(server.settings()).await?;
        }
    }
    Ok(())
}

/// Looks at every server of `gate` again and again, and takes over what other processes decide, until it is dropped.
pub async fn watch(gate: Arc<Gate>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut due: HashMap<ServerName, Instant> = HashMap::new();
    let mut faces = Faces::default();
    let mut identities = Identities::default();
    loop {
        ticks.tick().await;
        if let Err(error) = gate.catalog().keeper.refresh().await {
            tracing::error!(%error, "the pins cannot be read; nothing is approved until they can");
        }
        identities.renew(&gate);
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

/// Whether a legacy or modern notification says that definitions of `server` changed.
pub fn announces_change(server: &Server, method: &str) -> bool {
    let is_of_pins = match method {
        "notifications/tools/list_changed" | "notifications/prompts/list_changed" => true,
        "notifications/resources/list_changed" => server.settings().pins_resources,
        _ => false,
    };
    is_of_pins && era::is_server_notification(Era::Legacy, method)
}
