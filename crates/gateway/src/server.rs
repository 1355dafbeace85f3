//! A server as the operator named it, and what has been learnt of it.

mod crashes;
mod era;
mod mirrors;
mod processes;
mod settings;
mod tools;

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use bartizan_egress::Endpoint;
use bartizan_mcp::{Era, Message, Revision, headers};
use bartizan_model::ServerName;
use bartizan_oauth::outbound::Unobtainable;
use bartizan_store::Keeper;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

pub use era::{ModernLink, NotModern};
pub use mirrors::is_header_mismatch;
pub use processes::Slot;
pub use settings::{Pinning, ServerSettings, Transport};
pub use tools::ToolHeaders;

use crashes::Crashes;
use processes::{Pool, Shares};

use crate::{
    Asker,
    handles::Home,
    legacy::Link,
    limits::PROGRAM_AGE,
    record::{Recorder, Voice},
    starts::Starts,
    upstream::{
        Answer, Failure, Item,
        http::{Badge, Wire, no_credential},
        stdio::{Process, lock},
    },
};

/// A server behind the gate.
pub struct Server {
    settings: ServerSettings,
    /// What its processes must be, to be started.
    keeper: Option<Arc<Keeper>>,
    /// Where its processes wait for their turn.
    starts: Arc<Starts>,
    /// When what it runs was looked at last.
    identified: Mutex<Option<Instant>>,
    identifying: tokio::sync::Mutex<()>,
    voice: Arc<Voice>,
    tools: ToolHeaders,
    /// The last thing that was learnt of an HTTP server's or a command's era.
    era: tokio::sync::Mutex<Option<(Era, Instant)>>,
    /// Why its era could not be found out over HTTP the last time, and when that was known.
    unfound: Mutex<Option<(Instant, Failure)>>,
    /// An HTTP server that is known to be modern: the one thing every request asks.
    is_modern: AtomicBool,
    /// It announced that its definitions changed, and nobody has looked yet.
    has_changed: AtomicBool,
    /// When the gate itself last looked at what it defines, and how that went.
    looked: tokio::sync::Mutex<Option<Looked>>,
    /// The gate has looked at it once.
    is_seen: AtomicBool,
    pool: Pool,
    processes: Arc<AtomicUsize>,
    shares: Shares,
    /// Those that may still run.
    live: Mutex<Vec<Weak<Process>>>,
    crashes: Crashes,
    /// The one process of a shared legacy server, what it said to our handshake, and who listens to it.
    common: tokio::sync::Mutex<Option<(Arc<Process>, Message)>>,
    listeners: Arc<Mutex<Vec<Weak<Link>>>>,
    /// The number of the process of everybody's that was started last for clients of the legacy era, and for others; 0 is none.
    everybodys: [AtomicU64; 2],
    /// When it was approved as something else: processes that started until then are what it was.
    renewed: Mutex<Option<Instant>>,
}

/// When the gate looked at a server, and how that went.
pub type Looked = (Instant, Result<(), Failure>);

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
            starts: Arc::default(),
            identified: Mutex::default(),
            identifying: tokio::sync::Mutex::default(),
            tools: ToolHeaders::default(),
            era: tokio::sync::Mutex::new(None),
            unfound: Mutex::default(),
            is_modern: AtomicBool::new(false),
            has_changed: AtomicBool::new(false),
            looked: tokio::sync::Mutex::default(),
            is_seen: AtomicBool::new(false),
            pool: Pool::default(),
            processes: Arc::default(),
            shares: Shares::default(),
            live: Mutex::default(),
            crashes: Crashes::default(),
            common: tokio::sync::Mutex::default(),
            listeners: Arc::default(),
            everybodys: Default::default(),
            renewed: Mutex::default(),
        }
    }

    /// The same, whose processes start only as `keeper`'s pins have them.
    #[must_use]
    pub fn with_pins(mut self, keeper: Arc<Keeper>) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// The same, whose processes begin in turn with those of others.
    #[must_use]
    pub fn starting_in(mut self, starts: Arc<Starts>) -> Self {
        self.starts = starts;
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

    /// Whose the tasks are that clients of `era` ask it for.
    pub fn home(&self, era: Era) -> Home<'_> {
        let number = self.everybodys(era).load(Ordering::Relaxed);
        Home { server: self.name(), process: (number != 0).then_some(number) }
    }

    fn everybodys(&self, era: Era) -> &AtomicU64 {
        let [legacy, modern] = &self.everybodys;
        if era == Era::Legacy { legacy } else { modern }
    }

    /// Notes that `process` is everybody's of this era.
    fn share(&self, era: Era, process: &Process) {
        process.set_shared();
        self.everybodys(era).store(process.everybodys().unwrap_or_default(), Ordering::Relaxed);
    }

    /// Whether each caller shows it a credential of their own.
    pub fn is_personal(&self) -> bool {
        self.settings.credential.as_ref().is_some_and(|c| c.is_personal())
    }

    /// Whether it sees one client in each caller: a process of their own, or a credential of their own.
    pub fn tells_callers_apart(&self) -> bool {
        let has_process =
            matches!(self.settings.transport, Transport::Command { .. }) && !self.settings.shared;
        has_process || self.is_personal()
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

    /// Notes that the gate has looked at it; whether it had before.
    pub fn note_seen(&self) -> bool {
        self.is_seen.swap(true, Ordering::AcqRel)
    }

    /// Whether what is approved of it may still be its first sight alone, here or in another process.
    pub fn is_new(&self) -> bool {
        self.settings.pinning == Pinning::FirstUse
            && !self.is_personal()
            && !self.is_seen.load(Ordering::Acquire)
    }

    /// Held while it is looked at what it runs.
    pub fn identifying(&self) -> &tokio::sync::Mutex<()> {
        &self.identifying
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
