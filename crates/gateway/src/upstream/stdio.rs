//! Servers behind standard input and output (26/stdio, 25/tr; spec.md C.3).

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bartizan_audit::EventId;
use bartizan_mcp::{Era, Kind, Message, era, json::quote, message};
use bartizan_model::ServerName;
use bartizan_sandbox::{Child, Ladder, Launch};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    Failure, Item,
    scrub::Scrub,
    under_way::{UnderWay, Within},
};
use crate::{
    limits::{ANSWER_BYTES, PIPE_BYTES, PIPE_BYTES_WITH_RESPONSES, PIPE_MESSAGES, STDERR_LINE, WRITE_WAIT},
    record::Voice,
    server::Slot,
};

/// Takes the messages that answer no request.
pub type Sink = Arc<dyn Fn(Message) + Send + Sync>;

/// A running server process. Dropping the last handle stops it by the ladder (spec.md C-39).
pub struct Process {
    shared: Arc<Shared>,
    lines: mpsc::Sender<String>,
    /// Its end tells the supervisor to stop the process.
    _stop: mpsc::Sender<()>,
}

/// What the reading side and the asking side share.
struct Shared {
    server: ServerName,
    era: Era,
    routes: Mutex<Routes>,
    sink: Mutex<Option<Sink>>,
    /// Several clients use it: what it says unasked is nobody's in particular.
    is_shared: AtomicBool,
    ended: watch::Sender<Option<String>>,
    /// The next id of ours: what is below was asked.
    next: AtomicU64,
    /// Bytes of its messages that nobody has fetched yet.
    load: Arc<AtomicUsize>,
    /// Its end was counted against its server.
    is_counted: AtomicBool,
}

/// What waits to be fetched.
enum Queued {
    /// A message, and the place it takes.
    Message(Message, Load),
    /// There was no room for the response.
    NoRoom,
}

/// The bytes of a message that waits.
struct Load(Arc<AtomicUsize>, usize);

impl Load {
    /// What a message takes beside its text.
    const BESIDE: usize = 512;

    /// The place for `message`, if no more than `most` bytes wait then.
    fn take(all: &Arc<AtomicUsize>, message: &Message, most: usize) -> Option<Self> {
        let bytes = message.text().len() + Self::BESIDE;
        let added = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |load| {
            load.checked_add(bytes).filter(|load| *load <= most)
        });
        added.is_ok().then(|| Self(Arc::clone(all), bytes))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Routes {
    /// What it may be speaking of.
    under_way: UnderWay,
    /// Requests on their way, by our id.
    waiting: BTreeMap<u64, mpsc::Sender<Queued>>,
    /// Requests of ours to the process whose subscription outlives nothing but themselves.
    closed: bool,
}

impl Process {
    /// Starts the server; `slot` is held until the process is gone.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] if it does not start.
    pub fn start(
        server: &ServerName,
        launch: &Launch,
        era: Era,
        secrets: Scrub,
        slot: Slot,
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
            sink: Mutex::new(None),
            is_shared: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            next: AtomicU64::new(1),
            load: Arc::default(),
            is_counted: AtomicBool::new(false),
        });
        if let Some(stderr) = child.take_stderr() {
            let (voice, pid) = (Arc::clone(&voice), child.id());
            tokio::spawn(log_stderr(Arc::downgrade(&shared), server.clone(), stderr, secrets, voice, pid));
        }
        let (deaf, is_deaf) = oneshot::channel();
        tokio::spawn(write_lines(stdin, to_write, deaf));
        tokio::spawn(supervise(child, stdout, Ends { stopped, is_deaf }, Arc::clone(&shared), slot, voice));
        Ok(Arc::new(Self { shared, lines, _stop: stop }))
    }

    /// Where messages go that answer no request; replaces the one before.
    pub fn set_sink(&self, sink: Sink) {
        *lock(&self.shared.sink) = Some(sink);
    }

    /// Makes what it says unasked go to the sink alone, for it may concern any of several clients.
    pub fn set_shared(&self) {
        self.shared.is_shared.store(true, Ordering::Relaxed);
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

async fn supervise(
    mut child: Child,
    stdout: ChildStdout,
    ends: Ends,
    shared: Arc<Shared>,
    slot: Slot,
    voice: Arc<Voice>,
) {
    let pid = child.id();
    let mut reading = pin!(read_messages(stdout, &shared, &voice));
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
            fault.unwrap_or_else(|| format!("the process ended ({status})"))
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

/// Reads messages, one a line, until the end of the stream, a line that is none (spec.md C-35), or too many that nobody asked
/// for.
async fn read_messages(stdout: ChildStdout, shared: &Shared, voice: &Voice) -> Result<(), String> {
    let mut reader = BufReader::with_capacity(16 * 1024, stdout);
    loop {
        let Some(line) = read_line(&mut reader, ANSWER_BYTES).await? else { return Ok(()) };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let messages = Message::parse_batch(line)
            .map_err(|fault| format!("it wrote a line that is no message: {fault}"))?;
        for message in messages {
            if !shared.deliver(message) && voice.faulted(None) {
                return Err("it answered and asked again and again what it was not asked".into());
            }
        }
    }
}

async fn read_line(
    reader: &mut (impl AsyncBufReadExt + Unpin),
    limit: usize,
) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    loop {
        let chunk = reader.fill_buf().await.map_err(|error| error.to_string())?;
        if chunk.is_empty() {
            return Ok(if line.is_empty() { None } else { Some(line) });
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        if line.len() + piece.len() > limit {
            return Err(format!("it wrote a line of more than {limit} bytes"));
        }
        line.extend_from_slice(piece);
        let used = piece.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

impl Shared {
    fn within(&self) -> Within {
        lock(&self.routes).under_way.within(Instant::now())
    }

    fn close(&self) {
        let mut routes = lock(&self.routes);
        routes.closed = true;
        routes.waiting.clear();
    }

    /// Hands a message to the request it belongs to, else to the sink. Answers whether it may send such a message at all: a late
    /// answer it may, one to what it was never asked it may not.
    fn deliver(&self, message: Message) -> bool {
        let rest = {
            let mut routes = lock(&self.routes);
            match self.route_of(&message, &routes) {
                Some(id) if message.kind() == Kind::Response => {
                    routes.under_way.end(id, Instant::now());
                    if let Some(to) = routes.waiting.remove(&id) {
                        let queued = match Load::take(&self.load, &message, PIPE_BYTES_WITH_RESPONSES) {
                            Some(load) => Queued::Message(message, load),
                            None => Queued::NoRoom,
                        };
                        // Notifications leave one place free, so a response always has it.
                        let _ = to.try_send(queued);
                    }
                    return id < self.next.load(Ordering::Relaxed);
                }
                Some(id) => {
                    if let Some(to) = routes.waiting.get(&id) {
                        let load = Load::take(&self.load, &message, PIPE_BYTES).filter(|_| to.capacity() > 1);
                        match load {
                            Some(load) => drop(to.try_send(Queued::Message(message, load))),
                            None => {
                                tracing::warn!(server = %self.server, "a flood of notifications was cut");
                            }
                        }
                    }
                    return true;
                }
                None => message,
            }
        };
        if rest.kind() == Kind::Response {
            tracing::debug!(server = %self.server, "a response to no request was dropped");
            // Errors of what could not be read have no id (JSON-RPC 2.0 §5.1).
            return rest.id_value().is_none_or(|id| id.is_null());
        }
        // Servers of the stateless era send no requests (spec.md A-69, C-37).
        let may_be = self.era == Era::Legacy || rest.kind() != Kind::Request;
        let sink = lock(&self.sink).clone();
        match sink {
            Some(sink) => sink(rest),
            None => tracing::debug!(server = %self.server, method = %quote(&rest.method()), "nobody to tell"),
        }
        may_be
    }

    fn route_of(&self, message: &Message, routes: &Routes) -> Option<u64> {
        let number = |value: bartizan_mcp::json::Value<'_>| value.as_u64();
        if message.kind() == Kind::Response {
            return message.id_value().and_then(number);
        }
        let method = message.method();
        if method == "notifications/progress" {
            return message.param("progressToken").and_then(number).or(Some(0));
        }
        if let Some(listen) = message.meta(era::META_SUBSCRIPTION) {
            return number(listen).or(Some(0));
        }
        if era::is_change(&method) || method == "notifications/cancelled" {
            return None;
        }
        if self.is_shared.load(Ordering::Relaxed) {
            return None;
        }
        // On stdio nothing says which request a log line or a question belongs to; it is the newest one's, as the
        // streams of HTTP would have it (spec.md B-15). Without one it goes to the sink.
        (self.era == Era::Legacy || method == "notifications/message")
            .then(|| routes.waiting.keys().next_back().copied())
            .flatten()
    }
}

async fn log_stderr(
    shared: Weak<Shared>,
    server: ServerName,
    stderr: impl AsyncRead + Unpin,
    secrets: Scrub,
    voice: Arc<Voice>,
    pid: Option<u32>,
) {
    let mut reader = BufReader::with_capacity(STDERR_LINE, stderr);
    let (mut line, mut is_cut) = (Vec::new(), false);
    loop {
        let (end, used) = match reader.fill_buf().await {
            Ok([]) | Err(_) => return,
            Ok(chunk) => {
                let end = chunk.iter().position(|b| *b == b'\n');
                let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
                let room = STDERR_LINE.saturating_sub(line.len());
                line.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
                is_cut |= room < piece.len();
                (end.is_some(), piece.len() + usize::from(end.is_some()))
            }
        };
        reader.consume(used);
        if end {
            let words = sanitise(&line, is_cut, &secrets);
            let within = shared.upgrade().map(|shared| shared.within()).unwrap_or_default();
            // What is too much for one log is too much for the other.
            if voice.stderr(pid, within, &words) {
                tracing::info!(%server, "{words}");
            }
            (line, is_cut) = (Vec::new(), false);
        }
    }
}

/// A line that can do nothing to a terminal or a log: control characters shown, secrets hidden (attacks.md PH-23).
fn sanitise(line: &[u8], is_cut: bool, secrets: &Scrub) -> String {
    let text = secrets.hide(&String::from_utf8_lossy(line), is_cut);
    text.trim_end()
        .chars()
        .flat_map(|c| {
            let hidden = c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let shown: Vec<char> = if hidden && c != '\t' { c.escape_unicode().collect() } else { vec![c] };
            shown
        })
        .collect()
}

/// A lock that a panic elsewhere does not take away.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bartizan_model::Secret;

    use super::*;

    #[test]
    fn log_lines_are_harmless() {
        let line = b"key=abcdefgh1 \x1b[2Jforged\r\xff\xe2\x80\xa8next";
        assert_eq!(
            sanitise(line, false, &Scrub::new(["abcdefgh1", "key"].map(|s| Secret::new(s.into())))),
            "key=[redacted] \\u{1b}[2Jforged\\u{d}\u{fffd}\\u{2028}next"
        );
    }

    /// A process that is asked `ids`, and what comes of each.
    fn asked(ids: std::ops::Range<u64>) -> (Shared, Vec<mpsc::Receiver<Queued>>) {
        let mut routes = Routes::default();
        let open = |id: u64| {
            let (to, from) = mpsc::channel(PIPE_MESSAGES);
            routes.waiting.insert(id, to);
            from
        };
        let next = AtomicU64::new(ids.end);
        let answers = ids.map(open).collect();
        let shared = Shared {
            server: "up".parse().unwrap(),
            era: Era::Legacy,
            routes: Mutex::new(routes),
            sink: Mutex::new(None),
            is_shared: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            next,
            load: Arc::default(),
            is_counted: AtomicBool::new(false),
        };
        (shared, answers)
    }

    fn message(text: String) -> Message {
        Message::parse(text.into_bytes()).unwrap()
    }

    #[test]
    fn what_nobody_fetches_is_bounded() {
        let (shared, mut answers) = asked(1..5);
        let load = || shared.load.load(Ordering::Relaxed);
        let mib = "x".repeat(1024 * 1024);
        let progress = |id: u64, text: &str| {
            let params = format!(r#"{{"progressToken":{id},"progress":1,"message":"{text}"}}"#);
            shared.deliver(message(message::notification("notifications/progress", Some(&params))));
        };
        let answer = |id: u64, text: &str| {
            shared.deliver(message(message::result(&id.to_string(), &format!(r#"{{"a":"{text}"}}"#))));
        };
        // However many requests are under way, and however few messages that takes.
        (0..40).for_each(|n| progress(1 + n % 2, &mib));
        assert!(load() > PIPE_BYTES - 2 * mib.len() && load() <= PIPE_BYTES, "{}", load());
        let most = "x".repeat(ANSWER_BYTES - 100);
        (2..5).for_each(|id| answer(id, &most));
        assert!(load() <= PIPE_BYTES_WITH_RESPONSES, "{}", load());
        // An answer that fits still comes, after what was before it; one that does not fails its request alone.
        let mut last = |at: usize| {
            let mut last = None;
            while let Ok(queued) = answers[at].try_recv() {
                last = Some(matches!(queued, Queued::Message(m, _) if m.kind() == Kind::Response));
            }
            last
        };
        assert_eq!((last(2), last(3)), (Some(true), Some(false)));
        assert_eq!(last(1), Some(true));
        answer(1, "small");
        assert_eq!(last(0), Some(true));
        assert_eq!(load(), 0, "what is fetched makes room");
        progress(9, &mib);
        assert_eq!(load(), 0, "what nobody waits for takes none");
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let mut reader = BufReader::new(&b"one\ntwo"[..]);
        assert_eq!(read_line(&mut reader, 10).await.unwrap().unwrap(), b"one");
        assert_eq!(read_line(&mut reader, 10).await.unwrap().unwrap(), b"two");
        assert!(read_line(&mut reader, 10).await.unwrap().is_none());
        let mut reader = BufReader::with_capacity(4, &b"0123456789ab\n"[..]);
        assert!(read_line(&mut reader, 10).await.is_err());
    }
}
