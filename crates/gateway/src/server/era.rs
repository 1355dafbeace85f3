//! Which era a server speaks: found out by `server/discover`, never by a caller's own request (spec.md C-47).

use std::sync::{Arc, atomic::Ordering};

use aws_lc_rs::digest;
use bartizan_mcp::{
    Era, Message, Revision, era,
    json::{Value, quote},
};
use bartizan_model::CallerKey;
use bartizan_sandbox::Launch;
use http::HeaderMap;
use tokio::time::Instant;

use super::{
    Server, Transport, modern_headers,
    processes::{PoolKey, Pooled},
};
use crate::{
    Asker,
    call::own_modern_request,
    limits::{CONTROL_WAIT, ERA_MEMORY, START_WAIT},
    upstream::{
        Answer, Failure, Item,
        http::Wire,
        scrub::Scrub,
        stdio::{Process, lock},
    },
};

/// A way to a server that speaks the modern era.
pub enum ModernLink {
    /// Over HTTP.
    Wire(Wire),
    /// Over a process.
    Process(Arc<Process>),
}

/// Why a modern request cannot be asked.
pub enum NotModern {
    /// The server speaks the legacy era only.
    Legacy,
    /// It cannot be found out.
    Failed(Failure),
}

impl From<Failure> for NotModern {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Server {
    /// A way to ask it a modern request on behalf of `asker`, whose client can do `capabilities` (a JSON text); `None` is
    /// the gate itself.
    ///
    /// The era is found out by `server/discover`, never by the caller's own request (spec.md C-47).
    ///
    /// # Errors
    /// [`NotModern`].
    pub async fn modern(
        self: &Arc<Self>,
        asker: Option<&Asker>,
        capabilities: &str,
    ) -> Result<ModernLink, NotModern> {
        if self.settings.era == Some(Era::Legacy) {
            return Err(NotModern::Legacy);
        }
        let key = match &self.settings.transport {
            Transport::Url(endpoint) if self.is_modern.load(Ordering::Relaxed) => {
                return Ok(ModernLink::Wire(self.wire(endpoint, asker)));
            }
            Transport::Command { .. } if !self.settings.shared => {
                (asker.map_or_else(CallerKey::nobody, |a| a.key.clone()), digest_of(capabilities))
            }
            _ => (CallerKey::nobody(), [0; 32]),
        };
        let (me, asker) = (Arc::clone(self), asker.cloned());
        // A task of its own: a client that gives up early must not stop a slow server from ever starting.
        let finding = tokio::spawn(async move {
            match &me.settings.transport {
                Transport::Url(endpoint) => {
                    me.modern_wire(me.wire(endpoint, asker.as_ref())).await.map(ModernLink::Wire)
                }
                Transport::Command { launch, secrets } => {
                    let asker = asker.as_ref().filter(|_| !me.settings.shared);
                    me.modern_process(key, asker, launch, secrets).await.map(ModernLink::Process)
                }
            }
        });
        finding
            .await
            .unwrap_or_else(|_| Err(NotModern::Failed(Failure::Lost("finding out its era failed".into()))))
    }

    /// Has the era found out again, after an answer that no modern server gives (C-48).
    pub fn doubt_era(&self) {
        self.is_modern.store(false, Ordering::Relaxed);
        if let Ok(mut known) = self.era.try_lock() {
            *known = None;
        }
    }

    async fn modern_wire(&self, wire: Wire) -> Result<Wire, NotModern> {
        let asked = Instant::now();
        let mut known = self.era.lock().await;
        match *known {
            Some((Era::Modern, _)) => return Ok(wire),
            Some((Era::Legacy, at)) if at.elapsed() < ERA_MEMORY => return Err(NotModern::Legacy),
            _ => {}
        }
        // Whoever waited while another asked in vain does not ask in vain again: a line of them would only grow.
        if let Some((at, failure)) = &*lock(&self.unfound)
            && *at > asked
        {
            return Err(NotModern::Failed(failure.clone()));
        }
        let found = Self::find_era(&wire).await;
        if let Err(NotModern::Failed(failure)) = &found
            && !failure.is_of_caller()
        {
            *lock(&self.unfound) = Some((Instant::now(), failure.clone()));
        }
        let found = found?;
        self.remember(&mut known, found);
        if found == Era::Modern { Ok(wire) } else { self.legacy_found() }
    }

    /// Asks a server behind a URL which era it speaks.
    async fn find_era(wire: &Wire) -> Result<Era, NotModern> {
        let sent = wire.clone().post(own_modern_request(1, "server/discover", None), discover_headers());
        let posted = tokio::time::timeout(CONTROL_WAIT, async {
            let mut answer = Answer::sending(async { sent.await.map(|(posted, _)| posted) });
            answer.next().await
        });
        match posted.await {
            Err(_) => Err(NotModern::Failed(Failure::Timeout(CONTROL_WAIT.as_secs()))),
            Ok(Ok(Some(Item::Message(answer)))) => era_of(&answer),
            // A refusal without a JSON-RPC body, or an answer that is none: nothing modern (C-45).
            Ok(Ok(_) | Err(Failure::Status(400..=499) | Failure::Protocol(_))) => Ok(Era::Legacy),
            Ok(Err(failure)) => Err(NotModern::Failed(failure)),
        }
    }

    fn legacy_found<T>(&self) -> Result<T, NotModern> {
        if self.settings.era == Some(Era::Modern) {
            // A pinned era is a promise; a downgrade must not pass for one (C-49).
            return Err(NotModern::Failed(Failure::Protocol(
                "it is pinned to 2026-07-28 and does not speak it".into(),
            )));
        }
        Err(NotModern::Legacy)
    }

    fn remember(&self, known: &mut Option<(Era, Instant)>, found: Era) {
        if let Some((before, _)) = known
            && *before != found
        {
            tracing::warn!(server = %self.name(), ?before, now = ?found, "the server changed its protocol era");
        }
        *known = Some((found, Instant::now()));
        self.is_modern.store(found == Era::Modern, Ordering::Relaxed);
    }

    async fn modern_process(
        &self,
        key: PoolKey,
        asker: Option<&Asker>,
        launch: &Launch,
        secrets: &Scrub,
    ) -> Result<Arc<Process>, NotModern> {
        let berth = self.berth(&key);
        let mut pooled = berth.lock().await;
        let found = self.pooled_process(&mut pooled, asker, launch, secrets).await;
        let is_empty = pooled.is_none();
        drop(pooled);
        if is_empty {
            self.vacate(&key, &berth);
        }
        found
    }

    /// The process in `pooled`, or a new one.
    async fn pooled_process(
        &self,
        pooled: &mut Option<Pooled>,
        asker: Option<&Asker>,
        launch: &Launch,
        secrets: &Scrub,
    ) -> Result<Arc<Process>, NotModern> {
        if let Some(now) = pooled {
            if now.process.ended().is_none() {
                now.used = Instant::now();
                return Ok(Arc::clone(&now.process));
            }
            self.note_end(&now.process, asker);
            *pooled = None;
        }
        let known = self.era.lock().await;
        // One finds the era out for all; once it is known, nobody waits until another's process has started.
        let last = *known;
        let finding = match last {
            Some((Era::Legacy, at)) if at.elapsed() < ERA_MEMORY => return Err(NotModern::Legacy),
            Some((Era::Modern, _)) => {
                drop(known);
                None
            }
            _ => Some(known),
        };
        let process = self.start(launch, secrets, Era::Modern, asker).await?;
        if self.settings.shared {
            self.share(Era::Modern, &process);
        }
        let found = self.discover(&process, asker).await?;
        let mut known = match finding {
            Some(known) => known,
            None => self.era.lock().await,
        };
        self.remember(&mut known, found);
        drop(known);
        if found == Era::Legacy {
            return self.legacy_found();
        }
        *pooled = Some(Pooled { process: Arc::clone(&process), used: Instant::now() });
        Ok(process)
    }

    /// Asks a fresh process which era it speaks.
    async fn discover(&self, process: &Arc<Process>, asker: Option<&Asker>) -> Result<Era, NotModern> {
        let id = process.mint();
        let asked = async {
            let mut pipe =
                process.request(id, own_modern_request(id, "server/discover", None), None, false).await?;
            pipe.next().await
        };
        match tokio::time::timeout(START_WAIT, asked).await {
            Ok(Ok(Some(Item::Message(answer)))) => era_of(&answer),
            // Silence and every other answer mean the handshake (C-43, C-44); an end of the process means nothing.
            Err(_) | Ok(Ok(_)) => Ok(Era::Legacy),
            Ok(Err(failure)) => {
                self.note_crash(asker);
                Err(NotModern::Failed(failure))
            }
        }
    }
}

/// What tells apart what clients can do, however they write it.
fn digest_of(capabilities: &str) -> [u8; 32] {
    let mut bytes = Vec::new();
    // The text came out of a checked message.
    era::canonical(Value::of(capabilities), &mut bytes);
    let digest = digest::digest(&digest::SHA256, &bytes);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

fn discover_headers() -> HeaderMap {
    modern_headers("server/discover", None)
}

/// What an answer to `server/discover` says of the server's era.
fn era_of(answer: &Message) -> Result<Era, NotModern> {
    if !era::shows_modern(answer) {
        return Ok(Era::Legacy);
    }
    let offered = answer
        .result()
        .and_then(|r| r.get("supportedVersions"))
        .or_else(|| answer.error().and_then(|e| e.get("data")).and_then(|d| d.get("supported")));
    let speaks =
        |v: Value<'_>| v.elements().any(|v| v.as_str().as_deref() == Some(Revision::V2026_07_28.name()));
    match offered {
        Some(list) if !speaks(list) => {
            // Modern, but none of ours: falling back is not allowed (C-43, C-11).
            let has_legacy =
                list.elements().filter_map(|v| v.as_str()).any(|v| Revision::named(&v).is_some());
            if answer.result().is_some() && has_legacy {
                return Ok(Era::Legacy);
            }
            let names: Vec<_> =
                list.elements().filter_map(|v| v.as_str()).map(|v| quote(&v)).take(8).collect();
            let text = format!("it speaks only {}; the gateway speaks 2026-07-28", names.join(", "));
            Err(NotModern::Failed(Failure::Protocol(text)))
        }
        _ => Ok(Era::Modern),
    }
}
