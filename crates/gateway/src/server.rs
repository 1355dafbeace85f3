//! A server as the operator named it, and what has been learnt of it.

mod tools;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bartizan_egress::Endpoint;
use bartizan_mcp::{
    Era, Message, Revision, code, era, headers,
    json::{Value, quote},
    tool::Mirror,
};
use bartizan_model::{CallerKey, ServerName};
use bartizan_oauth::outbound::{Credential, Unobtainable};
use bartizan_sandbox::Launch;
use bartizan_shield::{Trust, drift::Identity};
use bartizan_store::Keeper;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

pub use tools::ToolHeaders;

use crate::{
    Asker,
    call::{own_info, own_modern_request},
    legacy::{Link, greet},
    limits::{
        CONTROL_WAIT, CRASH_REST, CRASHES, ERA_MEMORY, PAGES, PROCESS_IDLE, PROCESSES, PROGRAM_AGE,
        START_WAIT,
    },
    program,
    record::{Recorder, Voice},
    upstream::{
        Answer, Failure, Item,
        http::{Badge, Posted, Wire, no_credential},
        scrub::Scrub,
        stdio::{Process, lock},
    },
};

/// How a server is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// A process of ours, over its standard streams.
    Command {
        /// How it starts.
        launch: Launch,
        /// Values that its log lines must not show.
        secrets: Scrub,
    },
    /// A URL.
    Url(Endpoint),
}

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The operator's name for it.
    pub name: ServerName,
    /// How it is reached.
    pub transport: Transport,
    /// What the gate shows it; only servers behind a URL are shown anything.
    pub credential: Option<Arc<dyn Credential>>,
    /// The era it is held to, if the operator knows better than detection.
    pub era: Option<Era>,
    /// One process for everybody.
    pub shared: bool,
    /// Methods outside the revision that pass all the same.
    pub allow_methods: Vec<String>,
    /// Who it is, for its pins.
    pub identity: Identity,
    /// What its command runs, by content, is part of who it is.
    pub watches_program: bool,
    /// What the first sight of a definition is worth.
    pub pinning: Pinning,
    /// Entries of `resources/list` are pinned too.
    pub pins_resources: bool,
    /// Arguments and structured results are compared with the approved schemas.
    pub validates: bool,
    /// What goes to it and comes from it is judged by the shield.
    pub inspects: bool,
    /// Services that are asked about what goes to it and comes from it, by name.
    pub second_opinions: Vec<String>,
    /// How far the operator trusts what it says.
    pub trust: Trust,
    /// Which hosts its apps may reach; without a list it may show none.
    pub app_hosts: Option<Vec<String>>,
    /// Everything above as it was written: equal texts mean that nothing changed.
    pub fingerprint: String,
}

/// What the first sight of a server's definitions is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Nothing: a person approves them.
    ByHand,
    /// They are approved, unless a scan finds something bad.
    FirstUse,
    /// They are not pinned at all, and may change as they like.
    DangerousNone,
}

/// A server behind the gate.
pub struct Server {
    settings: ServerSettings,
    /// What its processes must be, to be started.
    keeper: Option<Arc<Keeper>>,
    /// When what it runs was looked at last.
    identified: Mutex<Option<Instant>>,
    voice: Arc<Voice>,
    tools: ToolHeaders,
    /// The last thing that was learnt of an HTTP server's or a command's era.
    era: tokio::sync::Mutex<Option<(Era, Instant)>>,
    /// An HTTP server that is known to be modern: the one thing every request asks.
    is_modern: AtomicBool,
    /// It announced that its definitions changed, and nobody has looked yet.
    has_changed: AtomicBool,
    /// When the gate itself last looked at what it defines, and how that went.
    looked: tokio::sync::Mutex<Option<Looked>>,
    pool: tokio::sync::Mutex<HashMap<(CallerKey, String), Pooled>>,
    processes: Arc<AtomicUsize>,
    crashes: Mutex<Vec<Instant>>,
    /// The one process of a shared legacy server, what it said to our handshake, and who listens to it.
    common: tokio::sync::Mutex<Option<(Arc<Process>, Message)>>,
    listeners: Arc<Mutex<Vec<Weak<Link>>>>,
}

/// When the gate looked at a server, and how that went.
pub type Looked = (Instant, Result<(), Failure>);

struct Pooled {
    process: Arc<Process>,
    used: Instant,
}

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

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.settings.name)
    }
}

impl Server {
    /// A server nothing is known of yet.
    pub fn new(settings: ServerSettings, recorder: Arc<Recorder>) -> Self {
        Self {
            voice: Arc::new(Voice::new(recorder, settings.name.clone())),
            settings,
            keeper: None,
            identified: Mutex::default(),
            tools: ToolHeaders::default(),
            era: tokio::sync::Mutex::new(None),
            is_modern: AtomicBool::new(false),
            has_changed: AtomicBool::new(false),
            looked: tokio::sync::Mutex::default(),
            pool: tokio::sync::Mutex::default(),
            processes: Arc::default(),
            crashes: Mutex::default(),
            common: tokio::sync::Mutex::default(),
            listeners: Arc::default(),
        }
    }

    /// The same, whose processes start only as `keeper`'s pins have them.
    #[must_use]
    pub fn with_pins(mut self, keeper: Arc<Keeper>) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// Whether it is time to look at what it runs; whoever is told so does.
    pub fn is_due(&self) -> bool {
        if !matches!(self.settings.transport, Transport::Command { .. }) || !self.settings.watches_program {
            return false;
        }
        let mut identified = lock(&self.identified);
        let is_due = identified.is_none_or(|at| at.elapsed() >= PROGRAM_AGE);
        if is_due {
            *identified = Some(Instant::now());
        }
        is_due
    }

    /// What it does and says beside its answers, on its way into the audit log.
    pub fn voice(&self) -> &Arc<Voice> {
        &self.voice
    }

    /// Its name.
    pub fn name(&self) -> &ServerName {
        &self.settings.name
    }

    /// Its configuration.
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// How many processes of its run.
    pub fn processes(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.processes)
    }

    /// Whether `method` passes though it is not part of the protocol.
    pub fn allows(&self, method: &str) -> bool {
        self.settings.allow_methods.iter().any(|m| m == method)
    }

    /// Whether each caller shows it a credential of their own.
    pub fn is_personal(&self) -> bool {
        self.settings.credential.as_ref().is_some_and(|c| c.is_personal())
    }

    /// Why `asker` has no account of their own there, if each caller needs one.
    pub async fn missing_link(&self, asker: &Asker) -> Option<Failure> {
        let credential = self.settings.credential.as_ref().filter(|c| c.is_personal())?;
        match credential.headers(Some(&asker.asking())).await {
            Err(Unobtainable::NeedsLinking(url)) => Some(Failure::NeedsLinking(url.into())),
            Ok(_) | Err(_) => None,
        }
    }

    /// Why `asker` is not one in whose name it can be used now, if its credential is had in exchange for theirs.
    pub async fn not_for(&self, asker: &Asker) -> Option<Failure> {
        let credential = self.settings.credential.as_ref().filter(|c| c.is_exchanged())?;
        match credential.headers(Some(&asker.asking())).await {
            Err(why @ (Unobtainable::StepUp(_) | Unobtainable::NotForCaller(_))) => Some(no_credential(why)),
            Ok(_) | Err(_) => None,
        }
    }

    /// A wire to it for `asker`; `None` is the gate itself.
    pub fn wire(&self, endpoint: &Endpoint, asker: Option<&Asker>) -> Wire {
        let badge = self
            .settings
            .credential
            .as_ref()
            .map(|credential| Badge { credential: Arc::clone(credential), asking: asker.map(Asker::asking) });
        Wire::new(endpoint.clone(), badge)
    }

    /// The gate's last look at what it defines; whoever holds this is looking.
    pub fn looked(&self) -> &tokio::sync::Mutex<Option<Looked>> {
        &self.looked
    }

    /// Notes that it announced other definitions.
    pub fn note_change(&self) {
        self.tools.forget();
        self.has_changed.store(true, Ordering::Relaxed);
    }

    /// Whether it announced other definitions since this was last asked.
    pub fn take_change(&self) -> bool {
        self.has_changed.swap(false, Ordering::Relaxed)
    }

    /// Which headers mirror the parameters of its tools.
    pub fn tools(&self) -> &ToolHeaders {
        &self.tools
    }

    /// Starts a process, if the caps allow it.
    ///
    /// # Errors
    /// [`Failure::Limit`] at the cap, or while a server that keeps crashing rests.
    pub async fn start(&self, launch: &Launch, secrets: &Scrub, era: Era) -> Result<Arc<Process>, Failure> {
        if let Some(keeper) = &self.keeper {
            program::clear(&self.settings, keeper).await?;
        }
        let crashes = {
            let mut crashes = lock(&self.crashes);
            crashes.retain(|at| at.elapsed() < CRASH_REST);
            u32::try_from(crashes.len()).unwrap_or(u32::MAX)
        };
        if crashes >= CRASHES {
            let rest = CRASH_REST.as_secs();
            return Err(Failure::Limit(format!(
                "its process ended {crashes} times in the last {rest} seconds; it is left alone for that long"
            )));
        }
        if crashes > 0 {
            tokio::time::sleep(Duration::from_millis(100u64 << crashes.min(6))).await;
        }
        let slot = Slot::take(&self.processes).ok_or_else(|| {
            Failure::Limit(format!("{PROCESSES} of its processes are running, which is the most"))
        })?;
        let voice = Arc::clone(&self.voice);
        Process::start(self.name(), launch, era, secrets.clone(), slot, voice)
            .inspect_err(|_| self.note_crash())
    }

    /// Counts a process that ended by itself or never answered.
    pub fn note_crash(&self) {
        lock(&self.crashes).push(Instant::now());
    }

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
                (asker.map_or_else(CallerKey::nobody, |a| a.key.clone()), capabilities.to_owned())
            }
            _ => (CallerKey::nobody(), String::new()),
        };
        let (me, asker) = (Arc::clone(self), asker.cloned());
        // A task of its own: a client that gives up early must not stop a slow server from ever starting.
        let finding = tokio::spawn(async move {
            match &me.settings.transport {
                Transport::Url(endpoint) => {
                    me.modern_wire(me.wire(endpoint, asker.as_ref())).await.map(ModernLink::Wire)
                }
                Transport::Command { launch, secrets } => {
                    me.modern_process(key, launch, secrets).await.map(ModernLink::Process)
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
        let mut known = self.era.lock().await;
        match *known {
            Some((Era::Modern, _)) => return Ok(wire),
            Some((Era::Legacy, at)) if at.elapsed() < ERA_MEMORY => return Err(NotModern::Legacy),
            _ => {}
        }
        let sent = wire.clone().post(own_modern_request(1, "server/discover", None), discover_headers());
        let posted = tokio::time::timeout(CONTROL_WAIT, async {
            let mut answer = Answer::sending(async { sent.await.map(|(posted, _)| posted) });
            answer.next().await
        });
        let found = match posted.await {
            Err(_) => return Err(NotModern::Failed(Failure::Timeout(CONTROL_WAIT.as_secs()))),
            Ok(Ok(Some(Item::Message(answer)))) => era_of(&answer)?,
            // A refusal without a JSON-RPC body, or an answer that is none: nothing modern (C-45).
            Ok(Ok(_) | Err(Failure::Status(400..=499) | Failure::Protocol(_))) => Era::Legacy,
            Ok(Err(failure)) => return Err(NotModern::Failed(failure)),
        };
        self.remember(&mut known, found);
        if found == Era::Modern { Ok(wire) } else { self.legacy_found() }
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
        key: (CallerKey, String),
        launch: &Launch,
        secrets: &Scrub,
    ) -> Result<Arc<Process>, NotModern> {
        let mut pool = self.pool.lock().await;
        if let Some(pooled) = pool.get_mut(&key) {
            if pooled.process.ended().is_none() {
                pooled.used = Instant::now();
                return Ok(Arc::clone(&pooled.process));
            }
            pool.remove(&key);
            self.note_crash();
        }
        let mut known = self.era.lock().await;
        if let Some((Era::Legacy, at)) = *known
            && at.elapsed() < ERA_MEMORY
        {
            return Err(NotModern::Legacy);
        }
        let process = self.start(launch, secrets, Era::Modern).await?;
        let id = process.mint();
        let asked = async {
            let mut pipe =
                process.request(id, own_modern_request(id, "server/discover", None), None, false).await?;
            pipe.next().await
        };
        let found = match tokio::time::timeout(START_WAIT, asked).await {
            Ok(Ok(Some(Item::Message(answer)))) => era_of(&answer)?,
            // Silence and every other answer mean the handshake (C-43, C-44); an end of the process means nothing.
            Err(_) | Ok(Ok(_)) => Era::Legacy,
            Ok(Err(failure)) => {
                self.note_crash();
                return Err(NotModern::Failed(failure));
            }
        };
        self.remember(&mut known, found);
        if found == Era::Legacy {
            return self.legacy_found();
        }
        pool.insert(key, Pooled { process: Arc::clone(&process), used: Instant::now() });
        Ok(process)
    }

    /// The process that all legacy sessions share, and its answer to our handshake: no client's own capabilities
    /// are true of all of them, so it is told of none. `hello` says which version to ask for.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn shared_process(&self, hello: &str) -> Result<(Arc<Process>, Message), Failure> {
        let Transport::Command { launch, secrets } = &self.settings.transport else {
            return Err(Failure::Limit("only commands can be shared".into()));
        };
        let mut common = self.common.lock().await;
        if let Some((process, answer)) = &*common
            && process.ended().is_none()
        {
            return Ok((Arc::clone(process), answer.clone()));
        }
        if common.take().is_some() {
            self.note_crash();
        }
        let process = self.start(launch, secrets, Era::Legacy).await?;
        process.set_shared();
        let listeners = Arc::clone(&self.listeners);
        process.set_sink(Arc::new(move |message| {
            let all: Vec<_> = lock(&listeners).iter().filter_map(Weak::upgrade).collect();
            all.iter().for_each(|link| link.unasked(&message));
        }));
        let version = Value::of(hello).get("protocolVersion").map_or("\"2025-11-25\"", Value::text);
        let ours =
            format!(r#"{{"protocolVersion":{version},"capabilities":{{}},"clientInfo":{}}}"#, own_info());
        let answer = greet(&process, &ours).await.inspect_err(|_| self.note_crash())?;
        if answer.result().is_some() {
            process.send(bartizan_mcp::message::notification("notifications/initialized", None)).await?;
            *common = Some((Arc::clone(&process), answer.clone()));
        }
        Ok((process, answer))
    }

    /// Has `link` told what the shared process says to everybody.
    pub fn attach_shared(&self, link: &Arc<Link>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|l| l.strong_count() > 0 && l.as_ptr() != Arc::as_ptr(link));
        listeners.push(Arc::downgrade(link));
    }

    /// Stops every process that is not a session's own; those end with their sessions.
    pub async fn stop_all(&self) {
        self.pool.lock().await.clear();
        self.common.lock().await.take();
    }

    /// Stops processes that nobody used for a while.
    pub async fn stop_idle(&self) {
        let mut pool = self.pool.lock().await;
        pool.retain(|_, pooled| {
            let idle = pooled.used.elapsed() > PROCESS_IDLE && pooled.process.busy() == 0;
            !idle && pooled.process.ended().is_none()
        });
    }

    /// The headers that mirror the parameters of `tool`, asking the server for its tools if that is not known.
    pub async fn mirrors(&self, tool: &str, link: &ModernLink) -> Arc<[Mirror]> {
        if let Some(known) = self.tools.of(tool) {
            return known;
        }
        if let Err(failure) = self.fetch_tools(link).await {
            // Never seen: sent without headers, and the server says so if it minds (C-08).
            tracing::debug!(server = %self.name(), %failure, "its tools could not be listed");
        }
        self.tools.of(tool).unwrap_or_default()
    }

    async fn fetch_tools(&self, link: &ModernLink) -> Result<(), Failure> {
        let mut cursor: Option<String> = None;
        for page in 0..PAGES {
            let mut answer = match link {
                ModernLink::Wire(wire) => {
                    let sent = wire.clone().post(
                        own_modern_request(1, "tools/list", cursor.as_deref()),
                        modern_headers("tools/list", None),
                    );
                    Answer::sending(async { sent.await.map(|(posted, _)| posted) })
                }
                ModernLink::Process(process) => {
                    let id = process.mint();
                    Answer::pipe(
                        process
                            .request(id, own_modern_request(id, "tools/list", cursor.as_deref()), None, true)
                            .await?,
                    )
                }
            };
            let listed = tokio::time::timeout(CONTROL_WAIT, final_message(&mut answer));
            let listed = listed.await.map_err(|_| Failure::Timeout(CONTROL_WAIT.as_secs()))??;
            let Some(tools) = listed.result().and_then(|r| r.get("tools")) else { return Ok(()) };
            let next = listed.result().and_then(|r| r.get("nextCursor")).map(|c| c.text().to_owned());
            self.tools.learn(tools, page == 0 && next.is_none(), self.name());
            // A cursor that leads to itself leads nowhere (attacks.md PH-29).
            if next.is_none() || next == cursor {
                break;
            }
            cursor = next;
        }
        // Also where the list has no end: what is not in so much of it is not asked for again at every call.
        self.tools.complete();
        Ok(())
    }
}

/// The response that ends `answer`, whatever comes before it.
///
/// # Errors
/// [`Failure`].
pub async fn final_message(answer: &mut Answer) -> Result<Message, Failure> {
    loop {
        match answer.next().await? {
            Some(Item::Message(message)) if message.kind() == bartizan_mcp::Kind::Response => {
                return Ok(message);
            }
            Some(_) => {}
            None => return Err(Failure::Lost("its stream ended without a response".into())),
        }
    }
}

/// The headers of a modern request (C-02); `name` is what `Mcp-Name` mirrors.
pub fn modern_headers(method: &str, name: Option<&str>) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(8);
    out.insert(headers::PROTOCOL_VERSION, HeaderValue::from_static(Revision::V2026_07_28.name()));
    out.insert(headers::METHOD, headers::encode(method));
    if let Some(name) = name {
        out.insert(headers::NAME, headers::encode(name));
    }
    out
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

/// Whether the server refused a call for its `Mcp-Param-*` headers, so that asking for its tools again may help.
pub fn is_header_mismatch(answer: &Posted) -> bool {
    match answer {
        Posted::Whole { messages, .. } => {
            messages.iter().any(|m| m.error_code() == Some(i64::from(code::HEADER_MISMATCH)))
        }
        _ => false,
    }
}

/// One of a server's processes, counted while it runs.
pub struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = count.fetch_add(1, Ordering::Relaxed) < PROCESSES;
        let slot = Self(Arc::clone(count));
        taken.then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
