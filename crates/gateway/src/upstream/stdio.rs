//! Servers behind standard input and output (26/stdio, 25/tr; spec.md C.3).

mod reading;
mod routes;

/// What lines of servers' standard error are logged under.
pub const SERVER_STDERR: &str = "server_stderr";

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bartizan_audit::EventId;
use bartizan_mcp::{Era, Kind, Message, message};
use bartizan_model::ServerName;
use bartizan_sandbox::{Child, Ladder, Launch};
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStdin, ChildStdout},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{Failure, Item, scrub::Scrub, under_way::Within};
use crate::{
    limits::{PIPE_MESSAGES, WRITE_WAIT},
    record::Voice,
    server::Slot,
    starts::Turn,
};
use reading::{log_stderr, read_messages};
use routes::{Queued, Shared};

/// How many were started, of all servers.
static STARTED: AtomicU64 = AtomicU64::new(1);

/// Takes the messages that answer no request.
pub type Sink = Arc<dyn Fn(Message) + Send + Sync>;

/// A running server process. Dropping the last handle stops it by the ladder (spec.md C-39).
pub struct Process {
    shared: Arc<Shared>,
    began: Instant,
    lines: mpsc::Sender<String>,
    number: u64,
    /// A word, or its end, tells the supervisor to stop the process.
    stop: mpsc::Sender<()>,
}

impl Process {
    /// Starts the server; its slot is held until the process is gone, its turn to begin until it says something.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] if it does not start.
    pub fn start(
        server: &ServerName,
        launch: &Launch,
        era: Era,
        secrets: Scrub,
        (slot, turn): (Slot, Turn),
        voice: Arc<Voice>,
    ) -> Result<Arc<Self>, Failure> {
        let mut child = launch.start().map_err(|error| Failure::Unreachable(error.to_string()))?;
        tracing::info!(%server, pid = child.id(), "server process started");
        voice.started(child.id());
        let missing = || Failure::Unreachable("its standard streams are missing".into());
        let stdin = child.take_stdin().ok_or_else(missing)?;
        let stdout = child.take_stdout().ok_or_else(missing)?;
        let (lines, to_write) = mpsc::channel(64);
        let (stop, stopped) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            server: server.clone(),
            era,
            routes: Mutex::default(),
            sink: Mutex::default(),
            is_shared: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            next: AtomicU64::new(1),
            load: Arc::default(),
            is_counted: AtomicBool::new(false),
            turn: Mutex::new(Some(turn)),
        });
        if let Some(stderr) = child.take_stderr() {
            let (voice, pid, secrets) = (Arc::clone(&voice), child.id(), secrets.clone());
            tokio::spawn(log_stderr(Arc::downgrade(&shared), server.clone(), stderr, secrets, voice, pid));
        }
        let (deaf, is_deaf) = oneshot::channel();
        tokio::spawn(write_lines(stdin, to_write, deaf));
        let ends = Ends { stopped, is_deaf };
        tokio::spawn(supervise(child, stdout, ends, Arc::clone(&shared), slot, voice, secrets));
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { shared, began: Instant::now(), lines, number, stop }))
    }

    /// When it started.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Where messages go that answer no request, those that came already too; replaces the one before.
    pub fn set_sink(&self, sink: Sink) {
        self.shared.tell(sink);
    }

    /// Makes what it says unasked go to the sink alone, for it may concern any of several clients.
    pub fn set_shared(&self) {
        self.shared.is_shared.store(true, Ordering::Relaxed);
    }

    /// Stops it by the ladder, whoever still waits for an answer.
    pub fn stop(&self) {
        // There is room unless it is told already.
        let _ = self.stop.try_send(());
    }

    /// Its number among the processes that the gate has started, if it is everybody's.
    pub fn everybodys(&self) -> Option<u64> {
        self.shared.is_shared.load(Ordering::Relaxed).then_some(self.number)
    }

    /// An id no other request to this process has.
    pub fn mint(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Why the process ended, if it did.
    pub fn ended(&self) -> Option<String> {
        self.shared.ended.borrow().clone()
    }

    /// Whether its end is yet to be counted against its server: however often it is found dead, it died once.
    pub fn count_end(&self) -> bool {
        !self.shared.is_counted.swap(true, Ordering::Relaxed)
    }

    /// Requests that wait for an answer.
    pub fn busy(&self) -> usize {
        lock(&self.shared.routes).waiting.len()
    }

    /// What it speaks of now, where it does not say.
    pub fn within(&self) -> Within {
        self.shared.within()
    }

    /// Sends a request whose id is `id`, from [`Process::mint`], and which belongs to `call` if it is none of ours. Giving its
    /// [`Pipe`] up before the response sends `notifications/cancelled` if `cancel_on_drop`.
    ///
    /// # Errors
    /// [`Failure`] if the process is gone or does not read.
    pub async fn request(
        self: &Arc<Self>,
        id: u64,
        text: String,
        call: Option<EventId>,
        cancel_on_drop: bool,
    ) -> Result<Pipe, Failure> {
        let (to, from) = mpsc::channel(PIPE_MESSAGES);
        {
            let mut routes = lock(&self.shared.routes);
            if routes.closed {
                return Err(Failure::Unreachable(self.why()));
            }
            routes.waiting.insert(id, to);
            routes.under_way.begin(id, call);
        }
        let pipe = Pipe { process: Arc::clone(self), id, from, cancel_on_drop, done: false };
        self.send(text).await?;
        Ok(pipe)
    }

    /// Sends a notification or a response.
    ///
    /// # Errors
    /// [`Failure`] if the process is gone or does not read.
    pub async fn send(&self, text: String) -> Result<(), Failure> {
        match tokio::time::timeout(WRITE_WAIT, self.lines.send(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Failure::Unreachable(self.why())),
            Err(_) => Err(Failure::Unreachable("it does not read its standard input".into())),
        }
    }

    fn why(&self) -> String {
        self.ended().unwrap_or_else(|| "the process ended".into())
    }
}

/// The answer to one request of a process.
pub struct Pipe {
    process: Arc<Process>,
    id: u64,
    from: mpsc::Receiver<Queued>,
    cancel_on_drop: bool,
    done: bool,
}

impl Pipe {
    /// What words of the process belong to that are read now.
    pub fn within(&self) -> Within {
        self.process.within()
    }

    /// The next message that belongs to the request.
    ///
    /// # Errors
    /// [`Failure::Lost`] if the process ended, [`Failure::Limit`] if there was no room for the response.
    pub async fn next(&mut self) -> Result<Option<Item>, Failure> {
        if self.done {
            return Ok(None);
        }
        match self.from.recv().await {
            Some(Queued::Message(message, _load)) => {
                self.done = message.kind() == Kind::Response;
                Ok(Some(Item::Message(message)))
            }
            Some(Queued::NoRoom) => {
                self.done = true;
                Err(Failure::Limit("too many of its answers wait to be fetched".into()))
            }
            None => {
                // The supervisor learns why a little after the pipe breaks.
                let mut ended = self.process.shared.ended.subscribe();
                let wait = ended.wait_for(Option::is_some);
                let why = tokio::time::timeout(Duration::from_secs(2), wait).await;
                let why = why.ok().and_then(Result::ok).and_then(|w| w.clone());
                // Only now: whoever dropped this future and asks again is still told why.
                self.done = true;
                Err(Failure::Lost(why.unwrap_or_else(|| "the process closed its output".into())))
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut routes = lock(&self.process.shared.routes);
        routes.waiting.remove(&self.id);
        routes.under_way.end(self.id, Instant::now());
        drop(routes);
        if self.cancel_on_drop && !self.done {
            let params = format!(r#"{{"requestId":{},"reason":"the client went away"}}"#, self.id);
            let text = message::notification("notifications/cancelled", Some(&params));
            let Err(mpsc::error::TrySendError::Full(text)) = self.process.lines.try_send(text) else {
                return;
            };
            // Many ask it just now; if it reads nothing for so long that this is in vain, it is stopped.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let process = Arc::clone(&self.process);
                runtime.spawn(async move { drop(process.send(text).await) });
            }
        }
    }
}

/// Writes lines until nobody has any more. A process that does not take one is of no use to anybody: `deaf` tells why.
async fn write_lines(
    mut stdin: ChildStdin,
    mut lines: mpsc::Receiver<String>,
    deaf: oneshot::Sender<&'static str>,
) {
    while let Some(line) = lines.recv().await {
        let mut line = one_line(line);
        line.push('\n');
        let why = match tokio::time::timeout(WRITE_WAIT, stdin.write_all(line.as_bytes())).await {
            Ok(Ok(())) => continue,
            Ok(Err(_)) => "the process closed its input",
            Err(_) => "the process does not read its input",
        };
        let _ = deaf.send(why);
        return;
    }
}

/// Line ends outside strings are white space; inside strings the strict check allows none.
pub fn one_line(text: String) -> String {
    if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text }
}

/// What ends a process beside itself.
struct Ends {
    /// Nobody needs it any more.
    stopped: mpsc::Receiver<()>,
    /// It takes nothing more, and why; closed where there is nothing more to take.
    is_deaf: oneshot::Receiver<&'static str>,
}

impl Ends {
    /// Why it is to be stopped, once it is. What one that closed its input wrote before that is still read.
    async fn come(mut self) -> &'static str {
        tokio::select! {
            _ = self.stopped.recv() => "the process was stopped",
            Ok(why) = &mut self.is_deaf => {
                let _ = tokio::time::timeout(LAST_WORDS, self.stopped.recv()).await;
                why
            }
        }
    }
}

/// How long a process that takes nothing more, or says nothing more, has to end by itself.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is said of a command that started its server and went: the server goes with it (docs/decisions/0008).
const LEFT_BEHIND: &str = ", and what it left behind was ended: a command that starts a server must wait for it, or become it by `exec`";

async fn supervise(
    mut child: Child,
    stdout: ChildStdout,
    ends: Ends,
    shared: Arc<Shared>,
    slot: Slot,
    voice: Arc<Voice>,
    secrets: Scrub,
) {
    let pid = child.id();
    let mut reading = pin!(read_messages(stdout, &shared, &voice, &secrets));
    let why = tokio::select! {
        fault = &mut reading => {
            shared.close();
            let fault = fault.err();
            match tokio::time::timeout(LAST_WORDS, child.wait()).await {
                Ok(Ok(status)) if fault.is_none() => format!("the process ended ({status})"),
                _ => fault.unwrap_or_else(|| "the process closed its output".into()),
            }
        }
        // Another that it started may keep its output open, and would be waited for in vain.
        Ok(status) = child.wait() => {
            let fault = tokio::time::timeout(LAST_WORDS, &mut reading).await.ok().and_then(Result::err);
            let is_launcher = status.success() && child.has_left_others();
            let left = if is_launcher { LEFT_BEHIND } else { "" };
            fault.unwrap_or_else(|| format!("the process ended ({status}){left}"))
        }
        why = ends.come() => why.to_owned(),
    };
    shared.close();
    tracing::info!(server = %shared.server, %why, "server process ended");
    voice.stopped(pid, &why);
    // Before it is stopped: whoever waits for its answer need not wait for the ladder.
    shared.ended.send_replace(Some(why));
    // Even where the leader is gone, its group may not be.
    child.stop(Ladder::default()).await;
    drop(slot);
}

/// A lock that a panic elsewhere does not take away.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
