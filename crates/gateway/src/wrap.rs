//! The same path over standard input and output, for clients that launch servers themselves.

use std::{collections::HashMap, future::Future, pin::pin, sync::Arc, task::Poll};

use bartizan_mcp::{Era, Id, Kind, Message, Refusal, code, era};
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
        tasks: JoinSet::new(),
        telling: JoinSet::new(),
        running: HashMap::new(),
        turns,
        untold: Arc::new(Semaphore::new(UNTOLD)),
        to,
    };
    let mut reader = BufReader::new(input);
    let mut line = Vec::new();
    let mut stop = pin!(stop);
    let (mut ended, mut is_stopped) = (Ok(()), false);
    loop {
        line.clear();
        let longest = client.gate.quotas().request_bytes();
        let read = tokio::select! {
            read = read_line(&mut reader, &mut line, longest) => read,
            () = &mut stop => {
                is_stopped = true;
                break;
            }
        };
        let read = match read {
            Ok(read) => read,
            // Whoever cannot be read any more is gone, and what was begun for them ends as it would otherwise.
            Err(error) => {
                ended = Err(error);
                break;
            }
        };
        while client.tasks.try_join_next().is_some() {}
        match read {
            Line::End => break,
            Line::TooLong => {
                let refusal =
                    Refusal::new(413, code::LIMIT, format!("the line is longer than {longest} bytes"));
                client.say(refusal.to_text(None)).await;
            }
            Line::Whole if line.iter().all(u8::is_ascii_whitespace) => {}
            Line::Whole => {
                tokio::select! {
                    () = client.take(std::mem::take(&mut line)) => {}
                    () = &mut stop => {
                        is_stopped = true;
                        break;
                    }
                }
            }
        }
    }
    if !is_stopped {
        // What was asked before the end is still answered, if that takes not too long.
        let answered = async { while client.tasks.join_next().await.is_some() {} };
        tokio::select! {
            _ = tokio::time::timeout(LAST_ANSWERS, answered) => {}
            () = &mut stop => {}
        }
    }
    client.tasks.shutdown().await;
    client.telling.shutdown().await;
    if let Some(session) = client.session.take() {
        client.gate.sessions().end(&session, End::Client);
    }
    drop(client);
    // It ends with the last of those who write to it.
    let _ = tokio::time::timeout(LAST_ANSWERS, writer).await;
    ended
}

enum Line {
    Whole,
    TooLong,
    End,
}

async fn read_line(
    reader: &mut (impl AsyncBufReadExt + Unpin),
    line: &mut Vec<u8>,
    longest: usize,
) -> std::io::Result<Line> {
    let mut is_long = false;
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(if line.is_empty() { Line::End } else { Line::Whole });
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        is_long |= line.len() + piece.len() > longest;
        if !is_long {
            line.extend_from_slice(piece);
        }
        let used = piece.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(if is_long { Line::TooLong } else { Line::Whole });
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

    async fn take(&mut self, line: Vec<u8>) {
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

    /// The handshake, and what does not wait.
    async fn legacy(&mut self, message: &Message) -> Result<(), Refusal> {
        if message.kind() == Kind::Request && message.method() == "initialize" && self.session.is_none() {
            let (session, _, text) =
                legacy::initialize(&self.gate, &self.asker, &self.target, message).await?;
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
            return Ok(());
        }
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
