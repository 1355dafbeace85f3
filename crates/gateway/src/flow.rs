//! A request under way: the server's answer, message by message, as the client may see it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bartizan_audit::{EventId, Lost, Receipt};
use bartizan_mcp::{Era, Kind, Message, code, json::Value};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tracing::Instrument;

use crate::{
    Gate, badge,
    call::{Call, Down, Vetted},
    legacy::Errand,
    limits::{REQUEST_CAP, REQUEST_IDLE},
    listening,
    news::{List, Listener},
    quota::Taken,
    record::{self, Recorder, Unasked},
    stages,
    upstream::{Answer, Failure, Item, stdio::lock},
};

/// One thing for the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// A notification or a server's request.
    Message(String),
    /// The response, with the HTTP status it takes if it is the whole answer.
    Final {
        /// HTTP status.
        status: u16,
        /// The response.
        text: String,
    },
    /// The server sent its client away for so many milliseconds; more comes afterwards (legacy).
    Interrupted(u64),
}

type Over = Pin<Box<dyn Future<Output = ()> + Send>>;
type Recording = Pin<Box<dyn Future<Output = Result<Receipt, Lost>> + Send>>;

/// The end of a call on its way into the audit log.
struct Closing {
    out: Out,
    recorded: Recording,
    /// The call counts as under way until its end is recorded.
    _slot: Option<Taken>,
}

/// One request and its answer. Dropping it cancels a modern request and only forgets a legacy one (spec.md A-74,
/// B-16).
pub struct Flow {
    call: Call,
    answer: Answer,
    began: Instant,
    /// When the server last said something. Whoever asks for the next thing asks several times while it says nothing.
    heard: Instant,
    is_done: bool,
    /// A message that is being vetted.
    held: Option<Message>,
    recorder: Arc<Recorder>,
    /// The call in the audit log, until it is closed.
    opened: Option<stages::Opened>,
    /// The last thing for the client, until it is recorded.
    closing: Option<Closing>,
    errand: Option<Errand>,
    /// Bytes that may still come.
    left: usize,
    /// What would let the client in where its token was not enough, if the answer can still say so.
    challenges: Vec<String>,
    /// When a subscription is over, which has no other end.
    over: Option<Over>,
    /// What is decided about the server, for a subscription.
    news: Option<Subscribed>,
}

/// A subscription that hears what is decided.
struct Subscribed {
    told: Arc<Told>,
    /// The client was told what it will hear of: nothing else comes first (26/sub).
    is_acknowledged: bool,
    _listener: Arc<Listener>,
}

/// The lists of which something was decided and that the client was not told of: each once, however often.
#[derive(Default)]
struct Told {
    waiting: Mutex<Vec<List>>,
    more: Notify,
}

impl Told {
    fn add(&self, list: List) {
        let mut waiting = lock(&self.waiting);
        if !waiting.contains(&list) {
            waiting.push(list);
        }
        drop(waiting);
        self.more.notify_one();
    }

    async fn next(&self) -> List {
        loop {
            if let Some(list) = lock(&self.waiting).pop() {
                return list;
            }
            self.more.notified().await;
        }
    }
}

impl Subscribed {
    fn new(gate: &Gate, call: &Call) -> Self {
        let told = Arc::<Told>::default();
        let to = Arc::clone(&told);
        let tell = move |list| to.add(list);
        let listener = gate.news().listen(&call.server, &call.asker, call.era, tell);
        Self { told, is_acknowledged: false, _listener: listener }
    }
}

impl Flow {
    /// The answer to `call`, which is on its way. `errand` ties it to its legacy session.
    pub fn new(
        gate: &Arc<Gate>,
        call: Call,
        opened: stages::Opened,
        answer: Answer,
        errand: Option<Errand>,
    ) -> Self {
        let listens = call.method == "subscriptions/listen";
        let over = listens.then(|| {
            let over = listening::Listener::new(gate, &call.asker).over(Some(Arc::clone(&call.server)));
            Box::pin(over) as Over
        });
        let news = listens.then(|| Subscribed::new(gate, &call));
        let began = Instant::now();
        Self {
            call,
            answer,
            began,
            heard: began,
            is_done: false,
            held: None,
            recorder: Arc::clone(&gate.recorder),
            opened: Some(opened),
            closing: None,
            errand,
            // Listening has no end.
            left: if over.is_some() { usize::MAX } else { gate.quotas.answer_bytes() },
            challenges: Vec::new(),
            over,
            news,
        }
    }

    /// The next thing for the client; `None` after the response, or after the client cancelled. Dropping the future
    /// loses nothing. The response comes only when it is recorded.
    pub async fn next(&mut self) -> Option<Out> {
        if self.closing.is_none() {
            match self.step().await {
                Some(Out::Final { status, text }) => self.close(status, text),
                Some(Out::Message(text)) => {
                    if let Some(opened) = &self.opened {
                        let told = self.call.told_on_the_way(&text);
                        self.recorder.passed(opened.call(), &self.call, text.len(), told);
                    }
                    return Some(Out::Message(text));
                }
                other => return other,
            }
        }
        let recorded = (&mut self.closing.as_mut()?.recorded).await;
        let closing = self.closing.take()?;
        Some(match recorded {
            Ok(_receipt) => closing.out,
            Err(lost) => {
                let refusal = record::unrecorded(&lost).as_answer(&self.call.method);
                let status = if self.call.era == Era::Legacy { 200 } else { refusal.status };
                Out::Final { status, text: refusal.to_text(Some(&self.call.client_id)) }
            }
        })
    }

    /// Begins to record the end of the call.
    fn close(&mut self, status: u16, text: String) {
        let took = self.began.elapsed();
        let told = self.call.told(&text);
        let person = self.opened.as_ref().and_then(|opened| opened.call().person());
        let answered = self.recorder.answered(person.map(Arc::as_ref), &text, took, told);
        let log = self.recorder.log().clone();
        let ending = std::mem::take(&mut self.call.ending);
        let (recorded, slot): (Recording, _) = match self.opened.take().map(stages::Opened::into_parts) {
            Some((opened, slot)) => {
                let closing = Recorder::close(log, opened, ending, answered);
                (Box::pin(closing.instrument(tracing::debug_span!("audit.close"))), Some(slot))
            }
            // Closed already: nothing comes after the response.
            None => (Box::pin(std::future::ready(Err(Lost::Closed))), None),
        };
        self.closing = Some(Closing { out: Out::Final { status, text }, recorded, _slot: slot });
    }

    async fn step(&mut self) -> Option<Out> {
        while !self.is_done {
            if let Some(message) = &self.held {
                let vetting = self.call.vet(message);
                let vetted = vetting.instrument(tracing::debug_span!("shield.inspect_answer")).await;
                let Some(message) = self.held.take() else { continue };
                let taken = vetted.and_then(|mut vetted| {
                    let message = vetted.changed.take().unwrap_or(message);
                    if vetted.drops {
                        self.let_go(&message);
                        return Ok(None);
                    }
                    self.take(&message, &vetted)
                });
                match taken {
                    Ok(Some(out)) => return Some(out),
                    Ok(None) => continue,
                    Err(failure) => return self.fail(&failure),
                }
            }
            let cancelled = self.errand.as_ref().map(Errand::cancelled);
            // A listen has all the time there is.
            let until =
                self.over.is_none().then(|| (self.heard + REQUEST_IDLE).min(self.began + REQUEST_CAP));
            let item = tokio::select! {
                biased;
                () = wait_for(cancelled) => {
                    self.is_done = true;
                    return None;
                }
                () = ended(&mut self.over) => {
                    self.is_done = true;
                    return Some(Out::Final { status: 200, text: self.call.subscription_ended() });
                }
                list = told(&mut self.news) => {
                    match self.call.decided(list) {
                        Some(text) => return Some(Out::Message(text)),
                        None => continue,
                    }
                }
                item = item_until(&mut self.answer, until) => item,
            };
            let waited = self.heard.elapsed().as_secs();
            self.heard = Instant::now();
            match item.unwrap_or_else(|| Err(Failure::Timeout(self.began.elapsed().as_secs()))) {
                // Kept until it is vetted, so that dropping this future loses nothing.
                Ok(Some(Item::Message(message))) => {
                    match self.left.checked_sub(message.text().len()) {
                        Some(left) => self.left = left,
                        None => {
                            return self.fail(&Failure::Limit("it is longer than one answer may be".into()));
                        }
                    }
                    self.held = Some(message);
                }
                Ok(Some(Item::Interrupted { retry })) => {
                    return Some(Out::Interrupted(retry.unwrap_or(1000)));
                }
                Ok(None) => return self.fail(&Failure::Lost("its answer ended without a response".into())),
                Err(failure) => {
                    tracing::debug!(server = %self.call.server.name(), method = %self.call.method, %failure, waited, "a request failed");
                    return self.fail(&failure);
                }
            }
        }
        None
    }

    /// The response, whatever comes before it.
    pub async fn last(mut self) -> Option<Message> {
        while let Some(out) = self.next().await {
            if let Out::Final { text, .. } = out {
                return Message::from_spliced(text).ok();
            }
        }
        None
    }

    /// Lets go of what does not pass; a legacy server that asked is told so.
    fn let_go(&self, message: &Message) {
        if let Some(errand) = &self.errand {
            errand.drop_from_server(message, self.opened.as_ref().map(|opened| opened.call().id()));
        }
    }

    fn take(&mut self, message: &Message, vetted: &Vetted) -> Result<Option<Out>, Failure> {
        let opened = self.opened.as_ref().map(|opened| opened.call().id());
        self.record_words(message, opened);
        if let Some(errand) = &self.errand {
            match errand.take_from_server(message, opened) {
                crate::legacy::Taken::Theirs => {}
                crate::legacy::Taken::Done => return Ok(None),
                crate::legacy::Taken::Send(text) => return Ok(Some(Out::Message(text))),
            }
        }
        if message.kind() == Kind::Response {
            // Errors of requests that could not be read have no id (JSON-RPC 2.0 §5.1); others must have ours.
            let is_ours = message.id_value().is_none_or(|id| id.as_u64() == Some(self.call.id));
            if !is_ours {
                tracing::warn!(server = %self.call.server.name(), "a response to another request was dropped");
                return self.fault();
            }
        }
        if message.kind() == Kind::Request && self.call.era == Era::Modern {
            // Modern servers have none to send (spec.md A-69, C-37).
            tracing::warn!(server = %self.call.server.name(), "a request from a modern server was dropped");
            return self.fault();
        }
        let named = match &self.errand {
            Some(errand) => errand.visits(message, opened)?,
            None => None,
        };
        if named.is_some() {
            self.call.ending.named();
        }
        let message = named.as_ref().unwrap_or(message);
        if let Some(news) = self.news.as_mut().filter(|news| !news.is_acknowledged)
            && let Some(acknowledged) = self.call.listens_alone(message)
        {
            // The gate goes on by itself.
            news.is_acknowledged = true;
            self.answer = Answer::sending(std::future::pending());
            return Ok(Some(Out::Message(acknowledged)));
        }
        let down = self.call.incoming(message, vetted)?;
        for refused in self.call.refused() {
            let server = self.call.server.name();
            self.recorder.stopped(&self.call.asker.caller, server, &refused.method, &refused.refusal);
        }
        Ok(match down {
            Down::Drop => None,
            Down::Pass(text) => {
                if let Some(news) = &mut self.news {
                    news.is_acknowledged |= message.method() == "notifications/subscriptions/acknowledged";
                }
                Some(Out::Message(text))
            }
            Down::Final(text) => {
                self.is_done = true;
                if let Some(errand) = &self.errand {
                    errand.answered(message);
                }
                self.call.ending.answered(message);
                Some(Out::Final { status: self.status(message), text })
            }
        })
    }

    /// A message of its server's that nobody may see is dropped; of a server with many, the answer ends.
    fn fault(&self) -> Result<Option<Out>, Failure> {
        if self.call.server.voice().faulted(Some(&self.call.asker)) {
            return Err(Failure::Protocol(
                "it answers and asks again and again what it was not asked".into(),
            ));
        }
        Ok(None)
    }

    /// What the server says and asks on the way to its answer.
    fn record_words(&self, message: &Message, opened: Option<EventId>) {
        let (voice, asker) = (self.call.server.voice(), &self.call.asker);
        if message.kind() == Kind::Notification && message.method() == "notifications/message" {
            voice.logged(Some(asker), self.answer.within(opened), message);
        }
        if message.kind() == Kind::Request && self.call.era == Era::Modern {
            voice.asked(asker, opened, &message.method(), Some(Unasked::Stateless));
        }
        // In the stateless era questions come in the place of an answer.
        for question in message.field("inputRequests").into_iter().flat_map(Value::members) {
            let method = question.value.get("method").and_then(Value::as_str).unwrap_or_default();
            voice.asked(asker, opened, &method, None);
        }
    }

    /// Modern errors have two statuses that mean something (spec.md ): the server's own over HTTP, the
    /// code's where there is no HTTP. Legacy ones have none.
    fn status(&self, message: &Message) -> u16 {
        let Some(code) = message.error_code().filter(|_| self.call.era == Era::Modern) else { return 200 };
        match (self.answer.status, i32::try_from(code)) {
            (status @ (400 | 404), _) => status,
            (_, Ok(code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION)) => 400,
            (_, Ok(code::METHOD_NOT_FOUND)) => 404,
            _ => 200,
        }
    }

    fn fail(&mut self, failure: &Failure) -> Option<Out> {
        self.is_done = true;
        self.call.ending.failed(failure);
        if let Failure::Question { method, refusal } = failure {
            self.recorder.stopped(&self.call.asker.caller, self.call.server.name(), method, refusal);
        }
        self.challenges = badge::challenges(failure, &self.call.asker);
        let (status, text) = match &self.errand {
            // A challenge is HTTP's, in either era.
            Some(errand) if !self.challenges.is_empty() => {
                (401, errand.failed(failure).to_text(Some(&self.call.client_id)))
            }
            Some(errand) => (200, errand.failed(failure).to_text(Some(&self.call.client_id))),
            None => self.call.failed(failure),
        };
        Some(Out::Final { status, text })
    }
}

/// The next list of which something was decided.
async fn told(news: &mut Option<Subscribed>) -> List {
    match news.as_ref().filter(|news| news.is_acknowledged) {
        Some(news) => news.told.next().await,
        None => std::future::pending().await,
    }
}

async fn ended(over: &mut Option<Over>) {
    match over {
        Some(over) => over.await,
        None => std::future::pending().await,
    }
}

async fn wait_for(notify: Option<Arc<Notify>>) {
    match notify {
        Some(notify) => notify.notified().await,
        None => std::future::pending().await,
    }
}

/// The next item, if it is there before `until`; one that is there already always is.
async fn item_until(answer: &mut Answer, until: Option<Instant>) -> Option<Result<Option<Item>, Failure>> {
    match until {
        Some(until) => timeout_at(until, answer.next()).await.ok(),
        None => Some(answer.next().await),
    }
}

/// The answers to what one client sent at once.
pub enum Replies {
    /// One that is known already.
    Ready(Option<String>),
    /// To one request.
    One(Box<Flow>),
    /// To several, as they come; dropping it gives them all up.
    Many(mpsc::Receiver<Out>, JoinSet<()>),
}

impl Replies {
    /// An answer of our own.
    pub fn ready(text: String) -> Self {
        Self::Ready(Some(text))
    }

    /// Several answers in one. Each final answer is passed on as a message, for it ends only its own part.
    pub fn merge(flows: Vec<Replies>) -> Self {
        let (to, from) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        for mut flow in flows {
            let to = to.clone();
            tasks.spawn(async move {
                while let Some(out) = flow.next().await {
                    let out = match out {
                        Out::Final { text, .. } => Out::Message(text),
                        other => other,
                    };
                    if to.send(out).await.is_err() {
                        return;
                    }
                }
            });
        }
        Self::Many(from, tasks)
    }

    /// Whether the answer came as a stream.
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::One(flow) if flow.answer.is_stream())
    }

    /// The `WWW-Authenticate` lines that go with the final answer, where it is the whole answer.
    pub fn challenges(&self) -> &[String] {
        match self {
            Self::One(flow) => &flow.challenges,
            Self::Ready(_) | Self::Many(..) => &[],
        }
    }

    /// The next thing for the client. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Out> {
        match self {
            Self::Ready(text) => text.take().map(|text| Out::Final { status: 200, text }),
            Self::One(flow) => flow.next().await,
            Self::Many(from, _) => from.recv().await,
        }
    }
}

/// What the client gets for one POST or one line.
pub enum Reply {
    /// Nothing: a notification or a response was taken.
    Accepted,
    /// One response of our own making.
    Message {
        /// HTTP status.
        status: u16,
        /// The response.
        text: String,
    },
    /// Answers from servers.
    Replies(Replies),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up_however_often_it_is_asked() {
        let mut answer = Answer::sending(std::future::pending());
        let began = Instant::now();
        // As an event stream asks, which says meanwhile that it lives.
        let keep_alive = crate::limits::KEEP_ALIVE;
        let until = Some(began + REQUEST_IDLE);
        let mut asked = 0;
        while tokio::time::timeout(keep_alive, item_until(&mut answer, until)).await.is_err() {
            asked += 1;
            assert!(began.elapsed() <= REQUEST_IDLE, "asked {asked} times");
        }
        assert_eq!(began.elapsed(), REQUEST_IDLE);
        assert!(item_until(&mut Answer::nothing(), until).await.is_some(), "what is there is taken");
    }
}
