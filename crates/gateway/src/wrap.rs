//! The same path over standard input and output, for clients that launch servers themselves.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::pin,
    sync::Arc,
    task::Poll,
};

use bartizan_mcp::{Era, Id, Kind, Message, Refusal, code, era, message};
use bartizan_store::sessions::End;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{Semaphore, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use crate::{
    Asker, Gate, Target,
    flow::{Out, Reply},
    legacy::{self, Session, Turn},
    limits::{BATCH, LAST_ANSWERS, UNTOLD, WRAP_TURN},
    modern,
    outbox::Read,
    upstream::stdio::one_line,
};

/// Serves one client on `input` and `output` until `input` ends, or `stop` comes, which waits for no answers.
///
/// # Errors
/// What reading `input` says.
pub async fn serve(
    gate: Arc<Gate>,
    asker: Asker,
    target: Target,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (to, lines) = mpsc::channel(64);
    let writer = tokio::spawn(write(output, lines));
    let (turns, given) = mpsc::unbounded_channel();
    tokio::spawn(give(given));
    let mut client = Client {
        gate,
        asker,
        target,
        session: None,
        opening: None,
        tasks: JoinSet::new(),
        telling: JoinSet::new(),
        running: HashMap::new(),
        turns,
        untold: Arc::new(Semaphore::new(UNTOLD)),
        to,
    };
    let mut lines = Lines { reader: BufReader::new(input), line: Vec::new(), is_long: false };
    let mut stop = pin!(stop);
    let (mut ended, mut is_stopped) = (Ok(()), false);
    loop {
        let longest = client.gate.quotas().request_bytes();
        let has_room = client.has_room(longest);
        let heard = tokio::select! {
            opened = opened(&mut client.opening) => Heard::Opened(opened),
            read = lines.next(longest), if has_room => Heard::Line(read),
            () = &mut stop => {
                is_stopped = true;
                break;
            }
        };
        while client.tasks.try_join_next().is_some() {}
        let taking = async {
            match heard {
                Heard::Opened(opened) => client.enter(opened).await,
                Heard::Line(Ok(Line::Whole(line))) if line.iter().all(u8::is_ascii_whitespace) => {}
                Heard::Line(Ok(Line::Whole(line))) => client.take(line).await,
                Heard::Line(Ok(Line::TooLong)) => {
                    let text = format!("the line is longer than {longest} bytes");
                    client.say(Refusal::new(413, code::LIMIT, text).to_text(None)).await;
                }
                Heard::Line(Ok(Line::End)) => return Some(Ok(())),
                // Whoever cannot be read any more is gone, and what was begun for them ends as it would otherwise.
                Heard::Line(Err(error)) => return Some(Err(error)),
            }
            None
        };
        tokio::select! {
            end = taking => if let Some(end) = end {
                ended = end;
                break;
            },
            () = &mut stop => {
                is_stopped = true;
                break;
            }
        }
    }
    if !is_stopped {
        // What was asked before the end is still answered, if that takes not too long.
        let answered = async {
            // A handshake has its own time.
            while client.opening.is_some() {
                let opened = opened(&mut client.opening).await;
                client.enter(opened).await;
            }
            let all = async { while client.tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_ANSWERS, all).await;
        };
        tokio::select! {
            () = answered => {}
            () = &mut stop => {}
        }
    }
    client.tasks.shutdown().await;
    client.telling.shutdown().await;
    client.give_up();
    if let Some(session) = client.session.take() {
        client.gate.sessions().end(&session, End::Client);
    }
    drop(client);
    // It ends with the last of those who write to it.
    let _ = tokio::time::timeout(LAST_ANSWERS, writer).await;
    ended
}

/// What there is to be done next.
enum Heard {
    Opened(Opened),
    Line(std::io::Result<Line>),
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

/// The lines of `reader`.
struct Lines<R> {
    reader: R,
    /// What was read of the next one.
    line: Vec<u8>,
    is_long: bool,
}

impl<R: AsyncBufReadExt + Unpin> Lines<R> {
    /// The next line. Dropping the future loses nothing.
    async fn next(&mut self, longest: usize) -> std::io::Result<Line> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() && self.line.is_empty() && !self.is_long {
                return Ok(Line::End);
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let is_last = chunk.is_empty();
            let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            self.is_long |= self.line.len() + piece.len() > longest;
            if !self.is_long {
                self.line.extend_from_slice(piece);
            }
            let used = piece.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() || is_last {
                let line = std::mem::take(&mut self.line);
                return Ok(if std::mem::take(&mut self.is_long) { Line::TooLong } else { Line::Whole(line) });
            }
        }
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        let mut line = one_line(line);
        line.push('\n');
        if output.write_all(line.as_bytes()).await.is_err() || output.flush().await.is_err() {
            return;
        }
    }
}

struct Client {
    gate: Arc<Gate>,
    asker: Asker,
    target: Target,
    session: Option<Arc<Session>>,
    opening: Option<Opening>,
    tasks: JoinSet<()>,
    /// Passes on what answers no request.
    telling: JoinSet<()>,
    /// Modern requests under way; ending one cancels it.
    running: HashMap<Id, AbortHandle>,
    /// The turns of a session's messages. As many wait as requests may be under way, and as messages are taken in that are not
    /// answered.
    turns: mpsc::UnboundedSender<Given>,
    /// Room for messages that are not answered.
    untold: Arc<Semaphore>,
    to: mpsc::Sender<String>,
}

/// A handshake that is under way.
struct Opening {
    /// The client's id for it, as written.
    id: Option<String>,
    opened: oneshot::Receiver<Opened>,
    /// What came meanwhile and is for the session, or whatever there is then.
    waiting: VecDeque<Vec<u8>>,
}

/// A session, and what its client is answered.
type Opened = Result<(Arc<Session>, String), Refusal>;

/// What comes of a handshake that is under way, if one is.
async fn opened(opening: &mut Option<Opening>) -> Opened {
    match opening {
        Some(opening) => {
            let failed = || Refusal::new(500, code::INTERNAL_ERROR, "the handshake failed; see the log");
            (&mut opening.opened).await.unwrap_or_else(|_| Err(failed()))
        }
        None => std::future::pending().await,
    }
}

/// One turn: dropping the first gives it, the other is closed once it is over.
type Given = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// Gives one turn after the other: messages reach their server in the order they came, unless one takes long when it is its turn.
async fn give(mut turns: mpsc::UnboundedReceiver<Given>) {
    while let Some((come, is_sent)) = turns.recv().await {
        drop(come);
        let _ = tokio::time::timeout(WRAP_TURN, is_sent).await;
    }
}

impl Client {
    async fn say(&self, text: String) {
        // The client is gone if this fails; its input ends too.
        let _ = self.to.send(text).await;
    }

    /// Whether another line may be read, where one has `longest` bytes at most: not once so much waits for the end of the handshake.
    fn has_room(&self, longest: usize) -> bool {
        let waiting = self.opening.as_ref().map(|opening| &opening.waiting);
        waiting
            .is_none_or(|lines| lines.len() < UNTOLD && lines.iter().map(Vec::len).sum::<usize>() < longest)
    }

    async fn take(&mut self, line: Vec<u8>) {
        if let Some(opening) = &mut self.opening {
            match meanwhile(&line, opening, &self.running) {
                Meanwhile::Answer(text) => self.say(text).await,
                Meanwhile::GiveUp => {
                    let waiting = self.give_up();
                    self.take_waiting(waiting).await;
                }
                Meanwhile::Now(message) => self.take_message(message).await,
                Meanwhile::Wait => opening.waiting.push_back(line),
            }
            return;
        }
        self.take_now(line).await;
    }

    /// Has nothing come of the handshake that is under way; what waited for it is answered.
    fn give_up(&mut self) -> VecDeque<Vec<u8>> {
        let Some(mut opening) = self.opening.take() else { return VecDeque::new() };
        // Whoever opens it ends it from now on.
        opening.opened.close();
        if let Ok(Ok((session, _))) = opening.opened.try_recv() {
            self.gate.sessions().end(&session, End::Client);
        }
        opening.waiting
    }

    /// Takes lines that waited for a handshake. One of them may begin another, for which the rest waits.
    async fn take_waiting(&mut self, waiting: VecDeque<Vec<u8>>) {
        for line in waiting {
            match &mut self.opening {
                Some(opening) => opening.waiting.push_back(line),
                None => self.take_now(line).await,
            }
        }
    }

    async fn take_now(&mut self, line: Vec<u8>) {
        let batches = self.session.as_ref().is_some_and(|s| s.revision().has_batches());
        let read = if batches { Message::parse_batch(line) } else { Message::parse(line).map(|m| vec![m]) };
        match read {
            Ok(messages) if messages.len() > BATCH => {
                let text = format!("a batch has at most {BATCH} messages; send them in several");
                self.say(Refusal::new(413, code::LIMIT, text).to_text(None)).await;
            }
            Ok(messages) => {
                for message in messages {
                    self.take_message(message).await;
                }
            }
            Err(fault) => self.say(Refusal::from(fault).to_text(None)).await,
        }
    }

    async fn take_message(&mut self, message: Message) {
        let id = message.id_value().filter(|_| message.kind() == Kind::Request).map(|v| v.text().to_owned());
        let is_modern = era::of_message(&message, None) == Era::Modern;
        if message.kind() == Kind::Notification && message.method() == "notifications/cancelled" {
            let named = message.param("requestId").map(Id::of);
            if let Some(running) = named.and_then(|id| self.running.remove(&id)) {
                running.abort();
                return;
            }
        }
        if is_modern {
            return self.spawn_modern(message, id);
        }
        if let (Some(session), Some(id)) = (&self.session, &id) {
            let (session, id) = (Arc::clone(session), id.clone());
            return self.spawn_legacy(session, message, id).await;
        }
        if let Some(session) = self.session.as_ref().filter(|_| may_wait(&message)) {
            let session = Arc::clone(session);
            return self.spawn_untold(session, message).await;
        }
        if id.is_some() && message.method() == "initialize" && self.session.is_none() {
            return self.open(message, id);
        }
        match self.legacy(&message).await {
            Ok(()) => {}
            Err(refusal) if id.is_some() => self.say(refusal.to_text(id.as_deref())).await,
            Err(refusal) => tracing::debug!(reason = %refusal.message, "a message was refused"),
        }
    }

    /// Has a request of the session judged and sent while further lines are read: what comes next may be that it is cancelled. It is
    /// judged at once, and sent when it is its turn.
    async fn spawn_legacy(&mut self, session: Arc<Session>, message: Message, id: String) {
        let (gate, asker, to) = (Arc::clone(&self.gate), self.asker.clone(), self.to.clone());
        let (turn, sent) = self.turn();
        let mut sending =
            Box::pin(async move { legacy::exchange(&gate, &asker, &session, &message, Some(turn)).await });
        // Begun here, so that it is known to be under way by the time that the next line is read.
        let begun = std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
        self.tasks.spawn(async move {
            let answered = match begun {
                Poll::Ready(answered) => answered,
                Poll::Pending => sending.await,
            };
            drop(sent);
            match answered {
                Ok(reply) => drain(reply, &to).await,
                Err(refusal) => drop(to.send(refusal.to_text(Some(&id))).await),
            }
        });
    }

    /// Has what is never answered judged and passed on while further lines are read: notifications when it is their turn, answers to a
    /// server's questions, which waits for them, at once.
    async fn spawn_untold(&mut self, session: Arc<Session>, message: Message) {
        // Nobody takes it back, so it is only taken in while there is room.
        let Ok(room) = Arc::clone(&self.untold).acquire_owned().await else { return };
        let (gate, asker) = (Arc::clone(&self.gate), self.asker.clone());
        let (turn, sent) = (message.kind() == Kind::Notification).then(|| self.turn()).unzip();
        self.tasks.spawn(async move {
            if let Some(turn) = turn {
                let _ = turn.await;
            }
            if let Err(refusal) = legacy::exchange(&gate, &asker, &session, &message, None).await {
                tracing::debug!(reason = %refusal.message, "a message was refused");
            }
            drop((sent, room));
        });
    }

    /// A turn behind all that were given before, and what is to be dropped once its message is with its server, or is not going
    /// there.
    fn turn(&self) -> (Turn, oneshot::Sender<()>) {
        let ((come, turn), (sent, is_sent)) = (oneshot::channel(), oneshot::channel());
        // It gives turns for as long as there is somebody to take them.
        let _ = self.turns.send((come, is_sent));
        (turn, sent)
    }

    fn spawn_modern(&mut self, message: Message, id: Option<String>) {
        let (gate, asker, target, to) =
            (Arc::clone(&self.gate), self.asker.clone(), self.target.clone(), self.to.clone());
        let key = message.id();
        let task = self.tasks.spawn(async move {
            match modern::exchange(&gate, &asker, &target, &message, None).await {
                Ok(reply) => drain(reply, &to).await,
                // A notification is never answered.
                Err(refusal) => {
                    if id.is_some() {
                        let _ = to.send(refusal.to_text(id.as_deref())).await;
                    }
                }
            }
        });
        self.running.retain(|_, running| !running.is_finished());
        if let Some(key) = key {
            self.running.insert(key, task);
        }
    }

    /// Begins the handshake; what the client says meanwhile is read.
    fn open(&mut self, message: Message, id: Option<String>) {
        let (gate, asker, target) = (Arc::clone(&self.gate), self.asker.clone(), self.target.clone());
        let (to, opened) = oneshot::channel();
        self.tasks.spawn(async move {
            let opened = legacy::initialize(&gate, &asker, &target, &message).await;
            let opened = opened.map(|(session, _, text)| (session, text));
            if let Err(Ok((session, _))) = to.send(opened) {
                gate.sessions().end(&session, End::Client);
            }
        });
        self.opening = Some(Opening { id, opened, waiting: VecDeque::new() });
    }

    /// Goes on in the session that was opened, or without.
    async fn enter(&mut self, opened: Opened) {
        let Some(Opening { id, waiting, .. }) = self.opening.take() else { return };
        match opened {
            Ok((session, text)) => {
                self.say(text).await;
                session.listen();
                let (general, to) = (session.hub().general(), self.to.clone());
                self.telling.spawn(async move {
                    let mut reader = general.read_on();
                    while let Read::Message(_, text) = reader.next().await {
                        let text = String::from_utf8_lossy(&text).into_owned();
                        if to.send(text).await.is_err() {
                            return;
                        }
                    }
                });
                self.session = Some(session);
            }
            Err(refusal) => self.say(refusal.to_text(id.as_deref())).await,
        }
        self.take_waiting(waiting).await;
    }

    /// What does not wait.
    async fn legacy(&self, message: &Message) -> Result<(), Refusal> {
        let session = self.session.as_ref().ok_or_else(|| {
            Refusal::new(
                400,
                code::INVALID_REQUEST,
                "begin with `initialize`, or put the 2026-07-28 `_meta` into each request",
            )
        })?;
        legacy::exchange(&self.gate, &self.asker, session, message, None).await.map(drop)
    }
}

/// What becomes of a line that comes while a handshake is under way.
enum Meanwhile {
    /// This answers it.
    Answer(String),
    /// The client takes the handshake back.
    GiveUp,
    /// It needs no session.
    Now(Message),
    /// It is for the session.
    Wait,
}

fn meanwhile(line: &[u8], opening: &Opening, running: &HashMap<Id, AbortHandle>) -> Meanwhile {
    // What is wrong with it is said when it is known which revision it must keep to.
    let Ok(message) = Message::parse(line.to_vec()) else { return Meanwhile::Wait };
    let is_modern = era::of_message(&message, None) == Era::Modern;
    match (message.kind(), &*message.method()) {
        (Kind::Request, "ping") if !is_modern => {
            let id = message.id_value().map(|id| id.text().to_owned()).unwrap_or_default();
            Meanwhile::Answer(message::result(&id, "{}"))
        }
        (Kind::Notification, "notifications/cancelled") => {
            // Of the session's requests none is under way yet.
            match message.param("requestId") {
                Some(named) if opening.id.as_deref() == Some(named.text()) => Meanwhile::GiveUp,
                Some(named) if running.contains_key(&Id::of(named)) => Meanwhile::Now(message),
                _ => Meanwhile::Wait,
            }
        }
        _ if is_modern => Meanwhile::Now(message),
        _ => Meanwhile::Wait,
    }
}

/// Whether what is not answered may be judged beside what comes next. That a request is taken back comes before its turn; and the end of
/// the handshake before everything else.
fn may_wait(message: &Message) -> bool {
    message.kind() != Kind::Request
        && !matches!(&*message.method(), "notifications/cancelled" | "notifications/initialized")
}

async fn drain(reply: Reply, to: &mpsc::Sender<String>) {
    match reply {
        Reply::Accepted => {}
        Reply::Message { text, .. } => drop(to.send(text).await),
        Reply::Replies(mut replies) => {
            while let Some(out) = replies.next().await {
                if let Out::Message(text) | Out::Final { text, .. } = out
                    && to.send(text).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_turn_comes_after_the_other_and_what_takes_long_in_its_turn_keeps_it_for_a_while() {
        let (turns, given) = mpsc::unbounded_channel();
        tokio::spawn(give(given));
        let turn = || {
            let ((come, turn), (sent, is_sent)) = (oneshot::channel::<()>(), oneshot::channel());
            turns.send((come, is_sent)).unwrap();
            (turn, sent)
        };
        let began = Instant::now();
        let ((first, sent), (mut second, slow), (third, _gone)) = (turn(), turn(), turn());
        assert!(first.await.is_err(), "it is given by being closed");
        tokio::task::yield_now().await;
        assert_eq!(second.try_recv(), Err(oneshot::error::TryRecvError::Empty), "the first is not sent");
        drop(sent);
        assert!(second.await.is_err() && began.elapsed().is_zero());
        assert!(third.await.is_err());
        assert_eq!(began.elapsed(), WRAP_TURN, "the second had its turn, and no more");
        drop(slow);
        let (refused, sent) = turn();
        drop((refused, sent));
        assert!(turn().0.await.is_err(), "who does not want their turn holds up nobody");
    }
}
