//! One legacy conversation with one server: an HTTP session or a process.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bartizan_audit::EventId;
use bartizan_mcp::{
    Era, Id, Kind, Message, Refusal, Revision, code, era,
    json::{Value, quote},
    message,
};
use bartizan_model::Entropy;
use bartizan_shield::{Finding, Inspector};
use futures::future::BoxFuture;
use http::HeaderMap;
use tokio::{sync::Notify, task::AbortHandle};
use tracing::Instrument;

use super::session::Hub;
use crate::{
    Asker, Gate,
    call::{Call, Down, Vetted},
    documents,
    flow::Flow,
    inspect::{self, Known, Passed},
    limits::{CONTROL_WAIT, SESSION_REQUESTS, START_WAIT},
    merged, naming, opinions,
    permit::Question,
    record::{Ending, Unasked},
    server::{Server, Transport, final_message},
    stages,
    upstream::{
        Answer, Failure, Item, Within,
        http::{Posted, Wire},
        stdio::{Process, lock},
    },
};

/// A conversation with a server on behalf of one session.
pub struct Link {
    gate: Weak<Gate>,
    server: Arc<Server>,
    asker: Asker,
    is_merged: bool,
    hub: Arc<Hub>,
    /// The parameters of the client's `initialize`, to open the conversation again.
    hello: String,
    way: Mutex<Way>,
    opening: tokio::sync::Mutex<()>,
    /// Others are asked about one message after the other.
    turn: tokio::sync::Mutex<()>,
    next: AtomicU64,
    inflight: Mutex<HashMap<Id, Errands>>,
    memory: Mutex<Memory>,
    listening: Mutex<Option<AbortHandle>>,
    /// What was said that answers no request, for what is split over several messages.
    unasked: Mutex<Inspector>,
}

/// How a conversation's messages travel.
#[derive(Clone)]
pub enum Way {
    /// Over HTTP, in a session of its own.
    Wire(Wire),
    /// To a process of its own.
    Process(Arc<Process>),
    /// To a process of everybody's, which knows no single client.
    Shared(Arc<Process>),
}

struct Errands {
    id: u64,
    cancelled: Arc<Notify>,
}

/// What a server must be told again after its session was lost (C-26).
#[derive(Default)]
struct Memory {
    level: Option<String>,
    subscribed: BTreeSet<String>,
}

/// A refusal as a legacy client reads it: inside the conversation, unless it is HTTP's own to say.
fn over_legacy(refusal: Refusal) -> Refusal {
    if refusal.challenges.is_empty() { Refusal { status: 200, ..refusal } } else { refusal }
}

/// Why no conversation began.
pub enum NoLink {
    /// The server speaks the modern era only.
    Modern,
    /// It refused the handshake with this error.
    Refused(Message),
    /// It gave no answer.
    Failed(Failure),
}

impl From<Failure> for NoLink {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Link {
    /// Opens a conversation with `server` by the client's own handshake. Answers the server's `initialize` response.
    ///
    /// # Errors
    /// [`NoLink`].
    pub async fn open(
        gate: &Arc<Gate>,
        server: &Arc<Server>,
        asker: Asker,
        is_merged: bool,
        hub: Arc<Hub>,
        hello: String,
    ) -> Result<(Arc<Self>, Message), NoLink> {
        if server.settings().era == Some(Era::Modern) {
            return Err(NoLink::Modern);
        }
        gate.responses().pass(server.name(), &asker.caller)?;
        let (way, answer) = shake_hands(server, Some(&asker), &hello).await?;
        if answer.result().is_none() {
            return Err(match server.modern(Some(&asker), "{}").await {
                Ok(_) => NoLink::Modern,
                Err(_) => NoLink::Refused(answer),
            });
        }
        let link = Arc::new(Self {
            gate: Arc::downgrade(gate),
            server: Arc::clone(server),
            asker,
            is_merged,
            hub,
            hello,
            way: Mutex::new(way),
            opening: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            next: AtomicU64::new(2),
            inflight: Mutex::default(),
            memory: Mutex::default(),
            listening: Mutex::default(),
            unasked: Mutex::default(),
        });
        link.attach();
        Ok((link, answer))
    }

    /// Its server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Has the process tell us what answers no request.
    fn attach(self: &Arc<Self>) {
        match &*lock(&self.way) {
            Way::Process(process) => {
                let me = Arc::downgrade(self);
                process.set_sink(Arc::new(move |message| {
                    if let Some(me) = me.upgrade() {
                        me.unasked(&message);
                    }
                }));
            }
            Way::Shared(_) => self.server.attach_shared(self),
            Way::Wire(_) => {}
        }
    }

    fn way(&self) -> Way {
        lock(&self.way).clone()
    }

    /// Opens the conversation again if the server lost it; `stale` is the session that was lost. What was under way
    /// fails; what the client had set is set again (C-26, C-40).
    fn reopen(self: &Arc<Self>, stale: Way) -> BoxFuture<'static, Result<(), Failure>> {
        // Boxed, for asking reopens and reopening asks.
        let me = Arc::clone(self);
        Box::pin(async move { me.reopen_now(&stale).await })
    }

    async fn reopen_now(self: &Arc<Self>, stale: &Way) -> Result<(), Failure> {
        let _one_at_a_time = self.opening.lock().await;
        let is_done = match (&self.way(), stale) {
            (Way::Wire(now), Way::Wire(then)) => now.session != then.session,
            (Way::Process(now), Way::Process(then)) | (Way::Shared(now), Way::Shared(then)) => {
                !Arc::ptr_eq(now, then)
            }
            _ => true,
        };
        if is_done {
            return Ok(());
        }
        tracing::warn!(server = %self.server.name(), "the server lost a session; opening it again");
        if matches!(stale, Way::Process(_)) {
            self.server.note_crash();
        }
        let (way, answer) = shake_hands(&self.server, Some(&self.asker), &self.hello).await?;
        if answer.result().is_none() {
            return Err(Failure::Unreachable("it refuses to open the session again".into()));
        }
        *lock(&self.way) = way;
        self.attach();
        self.tell(message::notification("notifications/initialized", None)).await?;
        let repeat = {
            let memory = lock(&self.memory);
            let level = memory.level.iter().map(|l| ("logging/setLevel", format!(r#"{{"level":{l}}}"#)));
            let uris = memory.subscribed.iter().map(|u| ("resources/subscribe", format!(r#"{{"uri":{u}}}"#)));
            level.chain(uris).collect::<Vec<_>>()
        };
        for (method, params) in repeat {
            let id = self.mint();
            let mut answer =
                self.ask(id, message::request(&id.to_string(), method, Some(&params)), method, None).await?;
            let _ = tokio::time::timeout(CONTROL_WAIT, final_message(&mut answer)).await;
        }
        Ok(())
    }

    fn mint(&self) -> u64 {
        match &*lock(&self.way) {
            Way::Process(process) | Way::Shared(process) => process.mint(),
            Way::Wire(_) => self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A way that was alive a moment ago.
    async fn live_way(self: &Arc<Self>) -> Result<Way, Failure> {
        let way = self.way();
        match &way {
            Way::Process(process) | Way::Shared(process) if process.ended().is_some() => {
                self.reopen(way).await?;
                Ok(self.way())
            }
            _ => Ok(way),
        }
    }

    /// Sends a request, which belongs to `call` if it is none of ours.
    async fn ask(
        self: &Arc<Self>,
        id: u64,
        text: String,
        method: &str,
        call: Option<EventId>,
    ) -> Result<Answer, Failure> {
        match self.way() {
            Way::Process(process) | Way::Shared(process) => {
                Ok(Answer::pipe(process.request(id, text, call, false).await?))
            }
            Way::Wire(wire) => {
                let (me, method) = (Arc::clone(self), method.to_owned());
                Ok(Answer::sending(async move { me.post(wire, text, &method).await }))
            }
        }
    }

    /// POSTs a request; one that changes nothing is sent again to a reopened session, any other is not (C-14, C-26).
    async fn post(self: Arc<Self>, wire: Wire, text: String, method: &str) -> Result<Posted, Failure> {
        match wire.clone().post(text.clone(), HeaderMap::new()).await {
            Err(Failure::SessionGone) => {
                self.reopen(Way::Wire(wire)).await?;
                let Way::Wire(fresh) = self.way() else { return Err(Failure::SessionGone) };
                if !era::is_repeatable(method) {
                    return Err(Failure::SessionGone);
                }
                fresh.post(text, HeaderMap::new()).await.map(|(posted, _)| posted)
            }
            other => other.map(|(posted, _)| posted),
        }
    }

    /// Sends the client's request; `asker` is who sends this one, by the token it came with.
    ///
    /// # Errors
    /// The refusal, if it cannot or must not be sent.
    pub async fn call(
        self: &Arc<Self>,
        gate: &Arc<Gate>,
        asker: &Asker,
        request: &Message,
    ) -> Result<Flow, Refusal> {
        let opened = stages::enter(gate, asker, &self.server, Era::Legacy, self.is_merged, request)
            .await
            .map_err(|refusal| self.shown(over_legacy(refusal)))?;
        let putting = self.put(gate, asker, request, opened.call().id());
        match putting.instrument(tracing::debug_span!("upstream.send")).await {
            Ok((call, answer, errand)) => Ok(Flow::new(gate, call, opened, answer, Some(errand))),
            Err(refusal) => Err(opened.unsent(gate, refusal).await),
        }
    }

    /// Puts a request that entered as `entry` to the server.
    async fn put(
        self: &Arc<Self>,
        gate: &Arc<Gate>,
        asker: &Asker,
        request: &Message,
        entry: EventId,
    ) -> Result<(Call, Answer, Errand), Refusal> {
        let failed = |failure: Failure| self.failed(&failure);
        self.live_way().await.map_err(failed)?;
        let id = self.mint();
        let mut call = Call::new(
            gate,
            Arc::clone(&self.server),
            asker.clone(),
            Era::Legacy,
            self.is_merged,
            id,
            request,
        );
        let text = call.outgoing(request)?;
        let errand = self.note(request, id)?;
        self.remember(request);
        let answer = match call.released().await {
            Some(answer) => answer,
            None => self.ask(id, text, &call.method, Some(entry)).await.map_err(failed)?,
        };
        Ok((call, answer, errand))
    }

    /// An error of ours in the place of a response. To a client that can show a URL, an account that is not linked is a
    /// URL to show (spec.md B-41, C-66).
    fn failed(&self, failure: &Failure) -> Refusal {
        let refusal = Refusal { status: 200, ..failure.refusal(self.server.name().as_str()) };
        let Failure::NeedsLinking(url) = failure else { return refusal };
        self.shown(Refusal { visits: [url.clone()].into(), ..refusal })
    }

    /// The refusal; to a client that can show a URL, the pages where a person can lift it are URLs to show.
    fn shown(&self, refusal: Refusal) -> Refusal {
        let revision = match self.way() {
            Way::Wire(wire) => wire.revision,
            Way::Process(_) | Way::Shared(_) => None,
        };
        match self.gate.upgrade() {
            Some(gate) if !refusal.visits.is_empty() && shows_urls(&self.hello, revision) => {
                url_elicitation(refusal, gate.entropy.as_ref())
            }
            _ => refusal,
        }
    }

    fn note(self: &Arc<Self>, request: &Message, id: u64) -> Result<Errand, Refusal> {
        let refused = |text: &str| Refusal::new(200, code::INVALID_REQUEST, text);
        let key = request.id().ok_or_else(|| refused("a request needs an id"))?;
        let cancelled = Arc::new(Notify::new());
        let mut inflight = lock(&self.inflight);
        if inflight.len() >= SESSION_REQUESTS {
            return Err(Refusal::new(
                200,
                code::LIMIT,
                format!("{SESSION_REQUESTS} requests are under way; wait for some"),
            ));
        }
        if inflight.contains_key(&key) {
            return Err(refused("a request with this id is still under way"));
        }
        inflight.insert(key.clone(), Errands { id, cancelled: Arc::clone(&cancelled) });
        Ok(Errand { link: Arc::clone(self), key, cancelled })
    }

    fn remember(&self, request: &Message) {
        let text = |name| request.param(name).map(|v: Value<'_>| v.text().to_owned());
        let uri = || {
            let uri = request.param("uri").and_then(Value::as_str)?;
            Some(quote(merged::split_uri(&uri).filter(|_| self.is_merged).map_or(&uri, |(_, bare)| bare)))
        };
        let mut memory = lock(&self.memory);
        match request.method().as_ref() {
            "logging/setLevel" => memory.level = text("level"),
            "resources/subscribe" => memory.subscribed.extend(uri()),
            "resources/unsubscribe" => {
                if let Some(uri) = uri() {
                    memory.subscribed.remove(&uri);
                }
            }
            _ => {}
        }
    }

    /// Sends a notification or a response.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn tell(&self, text: String) -> Result<(), Failure> {
        match self.way() {
            // What one client says of itself is not true of the others.
            Way::Shared(_) => Ok(()),
            Way::Process(process) => process.send(text).await,
            Way::Wire(wire) => wire.post(text, HeaderMap::new()).await.map(|_| ()),
        }
    }

    /// Cancels the request that the client calls `id` (B-17). Whether there is one.
    pub async fn cancel(&self, id: &Id, notification: &Message) -> bool {
        let Some((ours, cancelled)) = lock(&self.inflight).get(id).map(|e| (e.id, Arc::clone(&e.cancelled)))
        else {
            return false;
        };
        let mut splice = notification.splice();
        if let Some(named) = notification.param("requestId") {
            splice.replace(named, ours.to_string());
        }
        let text = splice.finish();
        let told = match self.way() {
            Way::Shared(process) => process.send(text).await,
            _ => self.tell(text).await,
        };
        if let Err(failure) = told {
            tracing::debug!(server = %self.server.name(), %failure, "a cancellation was not delivered");
        }
        cancelled.notify_one();
        true
    }

    /// A message that answers no request: for the session's general stream.
    pub fn unasked(self: &Arc<Self>, message: &Message) {
        let Some(gate) = self.gate.upgrade() else { return };
        if gate.responses().pass(self.server.name(), &self.asker.caller).is_err() {
            return;
        }
        if self.server.settings().second_opinions.is_empty() {
            return self.judge_unasked(&gate, message, &[]);
        }
        let (me, message) = (Arc::clone(self), message.clone());
        tokio::spawn(async move {
            // One after the other, as they came.
            let _turn = me.turn.lock().await;
            // What answers nothing carries no documents.
            let documents = documents::unread(&message);
            let Ok(text) = inspect::said_words(&message, None, &documents) else { return };
            let shield = gate.shield.load_full();
            let found = opinions::ask(&shield, &me.server.settings().second_opinions, &text).await;
            if message.kind() == Kind::Request && !found.is_empty() {
                tracing::warn!(server = %me.server.name(), "a question was dropped for a second opinion");
                return;
            }
            me.judge_unasked(&gate, &message, &found);
        });
    }

    fn judge_unasked(self: &Arc<Self>, gate: &Arc<Gate>, message: &Message, found: &[Finding]) {
        // Questions are judged where they are taken.
        let changed = match message.kind() {
            Kind::Notification => {
                let inspector = &mut *lock(&self.unasked);
                let (shield, entropy) = (gate.shield.load(), gate.entropy.as_ref());
                let known = Known { found, ..Known::default() };
                let (server, ending) = (&self.server, &mut Ending::default());
                match inspect::answer(&shield, inspector, server, message, known, entropy, ending) {
                    Ok(Passed::AsItIs) => None,
                    Ok(Passed::Changed(changed)) => Some(*changed),
                    Ok(Passed::Dropped) | Err(_) => return,
                }
            }
            Kind::Request | Kind::Response => None,
        };
        let message = changed.as_ref().unwrap_or(message);
        let errand = Errand { link: Arc::clone(self), key: Id::from(0), cancelled: Arc::default() };
        if message.kind() == Kind::Notification && message.method() == "notifications/message" {
            let within = match self.way() {
                Way::Process(process) | Way::Shared(process) => process.within(),
                Way::Wire(_) => Within::default(),
            };
            self.server.voice().logged(Some(&self.asker), within, message);
        }
        match errand.take_from_server(message, None) {
            Taken::Done => {}
            Taken::Send(text) => self.hub.general().push(text),
            Taken::Theirs if message.kind() == Kind::Response => {}
            Taken::Theirs => {
                let mut call = Call::new(
                    gate,
                    Arc::clone(&self.server),
                    self.asker.clone(),
                    Era::Legacy,
                    self.is_merged,
                    0,
                    message,
                );
                if let Ok(Down::Pass(text)) = call.incoming(message, &Vetted::default()) {
                    self.hub.general().push(text);
                }
            }
        }
    }

    /// Listens to what an HTTP server says unasked, from now until the session ends. Only once.
    pub fn listen(self: &Arc<Self>) {
        let Way::Wire(_) = self.way() else { return };
        let mut listening = lock(&self.listening);
        if listening.is_none() {
            *listening = Some(tokio::spawn(listen_on(Arc::downgrade(self))).abort_handle());
        }
    }

    /// Ends the conversation (C-27).
    pub fn end(&self) {
        if let Some(task) = lock(&self.listening).take() {
            task.abort();
        }
        if let Way::Wire(wire) = self.way() {
            tokio::spawn(async move { wire.delete().await });
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.listening).take() {
            task.abort();
        }
    }
}

/// Whether a client of this handshake can be told to show a URL (spec.md B-41).
fn shows_urls(hello: &str, revision: Option<Revision>) -> bool {
    let elicitation = Value::of(hello).get("capabilities").and_then(|c| c.get("elicitation"));
    revision == Some(Revision::V2025_11_25) && elicitation.is_some_and(|e| e.get("url").is_some())
}

/// The refusal as the error that has a client show where it can be lifted (25/elic). Each place has an id, which tells this
/// occasion from others.
fn url_elicitation(refusal: Refusal, entropy: &dyn Entropy) -> Refusal {
    let words = quote(&refusal.message);
    let elicitations = refusal.visits.iter().map(|url| {
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let (id, url) = (id.iter().map(|b| format!("{b:02x}")).collect::<String>(), quote(url));
        format!(r#"{{"mode":"url","elicitationId":"{id}","url":{url},"message":{words}}}"#)
    });
    let data = format!(r#"{{"elicitations":[{}]}}"#, elicitations.collect::<Vec<_>>().join(","));
    Refusal { code: code::URL_ELICITATION_REQUIRED, ..refusal }.with_data(data)
}

async fn listen_on(link: Weak<Link>) {
    let mut pause = Duration::from_millis(500);
    loop {
        let Some(wire) = link.upgrade().and_then(|l| if let Way::Wire(w) = l.way() { Some(w) } else { None })
        else {
            return;
        };
        match wire.listen(None).await {
            Ok(mut events) => {
                pause = Duration::from_millis(500);
                while let Ok(Some(item)) = events.next().await {
                    let Some(link) = link.upgrade() else { return };
                    if let Item::Message(message) = item {
                        link.unasked(&message);
                    }
                }
            }
            // It offers none (B-18); or the session ended.
            Err(
                Failure::Status(400..=499)
                | Failure::SessionGone
                | Failure::Unauthorized(_)
                | Failure::NeedsLinking(_)
                | Failure::NotForCaller(_)
                | Failure::StepUp(_),
            ) => {
                return;
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// Opens a conversation with `server` for `asker`, or for the gate itself; `hello` is the parameters of `initialize`. Answers its response too, which may
/// be an error.
///
/// # Errors
/// [`Failure`] if there is no response.
pub async fn shake_hands(
    server: &Arc<Server>,
    asker: Option<&Asker>,
    hello: &str,
) -> Result<(Way, Message), Failure> {
    match &server.settings().transport {
        Transport::Url(endpoint) => {
            let mut wire = server.wire(endpoint, asker);
            let text = message::request("1", "initialize", Some(hello));
            let posting = async {
                let (posted, head) = wire.clone().post(text, HeaderMap::new()).await?;
                let mut answer = Answer::sending(async { Ok(posted) });
                Ok::<_, Failure>((final_message(&mut answer).await?, head))
            };
            let (answer, head) = match tokio::time::timeout(START_WAIT, posting).await {
                Ok(Ok(answered)) => answered,
                // Nothing JSON came back: a modern server's plain 4xx, or none at all.
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Err(Failure::Timeout(START_WAIT.as_secs())),
            };
            if answer.result().is_some() {
                wire.revision = Some(revision_of(&answer)?);
                wire.enter_session(&head);
            }
            Ok((Way::Wire(wire), answer))
        }
        Transport::Command { .. } if server.settings().shared => {
            let (process, answer) = server.shared_process(hello).await?;
            Ok((Way::Shared(process), answer))
        }
        Transport::Command { launch, secrets } => {
            let process = server.start(launch, secrets, Era::Legacy).await?;
            let answer = greet(&process, hello).await.inspect_err(|_| server.note_crash())?;
            if answer.result().is_some() {
                revision_of(&answer)?;
            }
            Ok((Way::Process(process), answer))
        }
    }
}

/// Sends `initialize` to a fresh process.
///
/// # Errors
/// [`Failure`].
pub async fn greet(process: &Arc<Process>, hello: &str) -> Result<Message, Failure> {
    let id = process.mint();
    let mut answer = Answer::pipe(
        process
            .request(id, message::request(&id.to_string(), "initialize", Some(hello)), None, false)
            .await?,
    );
    let answered = tokio::time::timeout(START_WAIT, final_message(&mut answer)).await;
    answered.map_err(|_| Failure::Timeout(START_WAIT.as_secs()))?
}

/// The revision a server chose (C-32).
///
/// # Errors
/// [`Failure::Protocol`] if it is none of ours.
pub fn revision_of(answer: &Message) -> Result<Revision, Failure> {
    let named =
        answer.result().and_then(|r| r.get("protocolVersion")).and_then(Value::as_str).unwrap_or_default();
    Revision::named(&named).filter(|r| r.era() == Era::Legacy).ok_or_else(|| {
        Failure::Protocol(format!(
            "it chose the protocol version {}, which the gateway does not speak",
            quote(&named)
        ))
    })
}

/// A request's place in its session; dropping it makes its id free.
pub struct Errand {
    link: Arc<Link>,
    key: Id,
    cancelled: Arc<Notify>,
}

/// What became of a server's message.
pub enum Taken {
    /// It is an ordinary message of the request.
    Theirs,
    /// It is settled here.
    Done,
    /// This goes to the client in its place.
    Send(String),
}

impl Errand {
    /// An error of ours in the place of the response.
    pub fn failed(&self, failure: &Failure) -> Refusal {
        self.link.failed(failure)
    }

    /// Told when the client cancels.
    pub fn cancelled(&self) -> Arc<Notify> {
        Arc::clone(&self.cancelled)
    }

    /// Takes what only the session can answer: a server's requests, and its taking them back. `call` is the call in the
    /// audit log that it came with.
    pub fn take_from_server(&self, message: &Message, call: Option<EventId>) -> Taken {
        let method = message.method();
        match message.kind() {
            Kind::Request => self.link.ask_client(message, &method, call),
            Kind::Notification if method == "notifications/cancelled" => {
                match message
                    .param("requestId")
                    .and_then(|id| self.link.hub.forget(&self.link, id.text()).map(|d| (id, d)))
                {
                    Some((named, ours)) => {
                        let mut splice = message.splice();
                        splice.replace(named, ours.to_string());
                        Taken::Send(splice.finish())
                    }
                    None => Taken::Done,
                }
            }
            _ => Taken::Theirs,
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let mut inflight = lock(&self.link.inflight);
        if inflight.get(&self.key).is_some_and(|e| Arc::ptr_eq(&e.cancelled, &self.cancelled)) {
            inflight.remove(&self.key);
        }
    }
}

impl Link {
    /// Whether the client takes such a question and the policy lets it be put; a refusal is recorded.
    fn is_permitted(&self, message: &Message, method: &str) -> bool {
        let Some(gate) = self.gate.upgrade() else { return false };
        // What the operator added by `allow_methods` he permitted.
        let Some(question) = Question::of(method) else { return true };
        let params = message.params();
        let judged = match Value::of(&self.hello).get("capabilities") {
            Some(declared) if question.is_declared(declared, params) => {
                let client = self.asker.caller.client();
                gate.policy.may_ask(&self.server, client, Era::Legacy, question, params)
            }
            _ => Err(Refusal::new(
                200,
                code::FORBIDDEN,
                "the client did not declare that it can be asked this",
            )
            .with_data(r#"{"source":"bartizan","reason":"policy.question"}"#)),
        };
        let Err(refusal) = judged else { return true };
        tracing::warn!(server = %self.server.name(), method, reason = %refusal.message, "a question was not put");
        gate.recorder.stopped(&self.asker.caller, self.server.name(), method, &refusal);
        false
    }

    /// Whether the shield lets a server's question pass.
    fn may_ask(&self, message: &Message) -> bool {
        let Some(gate) = self.gate.upgrade() else { return false };
        let judged = inspect::answer(
            &gate.shield.load(),
            &mut Inspector::default(),
            &self.server,
            message,
            Known::default(),
            gate.entropy.as_ref(),
            &mut Ending::default(),
        );
        matches!(judged, Ok(Passed::AsItIs))
    }

    /// Takes a server's request: pings are answered here, unknown methods refused, the rest put to the client (C-29).
    fn ask_client(self: &Arc<Self>, message: &Message, method: &str, call: Option<EventId>) -> Taken {
        let id = message.id_value().map(|v| v.text().to_owned()).unwrap_or_default();
        let refused = match method {
            "ping" => None,
            _ if matches!(&*lock(&self.way), Way::Shared(_)) => Some(Unasked::Shared),
            _ if !era::is_server_request(Era::Legacy, method) && !self.server.allows(method) => {
                Some(Unasked::UnknownMethod)
            }
            _ if !self.is_permitted(message, method) => Some(Unasked::Policy),
            _ if !self.may_ask(message) => Some(Unasked::Shield),
            _ => {
                let named = naming::request(self.server.name(), message);
                match self.hub.ask(self, named.as_ref().unwrap_or(message)) {
                    Some(text) => {
                        self.server.voice().asked_by_name(&self.asker, call, method);
                        return Taken::Send(text);
                    }
                    None => Some(Unasked::Limit),
                }
            }
        };
        if refused == Some(Unasked::UnknownMethod) && self.server.voice().faulted(Some(&self.asker)) {
            self.end();
        }
        let reply = match refused {
            None => message::result(&id, "{}"),
            Some(why) => {
                self.server.voice().asked(&self.asker, call, method, Some(why));
                let (code, text) = match why {
                    Unasked::Shared => {
                        (code::METHOD_NOT_FOUND, "this process is shared; no one client can be asked")
                    }
                    Unasked::UnknownMethod | Unasked::Stateless => {
                        (code::METHOD_NOT_FOUND, "the gateway does not know this method")
                    }
                    Unasked::Policy => (code::FORBIDDEN, "the gateway does not put this question"),
                    Unasked::Shield => (code::WITHHELD, "the gateway does not put this question"),
                    Unasked::Limit => (code::LIMIT, "too many requests wait for the client"),
                };
                message::error(Some(&id), code, text, None)
            }
        };
        let me = Arc::clone(self);
        tokio::spawn(async move {
            let told = match me.way() {
                Way::Shared(process) => process.send(reply).await,
                _ => me.tell(reply).await,
            };
            if let Err(failure) = told {
                tracing::debug!(server = %me.server.name(), %failure, "a reply was not delivered");
            }
        });
        Taken::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_that_said_so_in_the_newest_handshake_are_told_to_show_a_url() {
        let hello = |elicitation: &str| format!(r#"{{"capabilities":{{"elicitation":{elicitation}}}}}"#);
        let newest = Some(Revision::V2025_11_25);
        assert!(shows_urls(&hello(r#"{"url":{}}"#), newest));
        assert!(!shows_urls(&hello(r#"{"url":{}}"#), Some(Revision::V2025_06_18)));
        assert!(!shows_urls(&hello(r#"{"url":{}}"#), None), "a process has no URL to link at");
        for other in ["{}", r#"{"form":{}}"#] {
            assert!(!shows_urls(&hello(other), newest), "{other}");
        }
        assert!(!shows_urls("{}", newest));

        let url = "https://gate.example/connect/up?for=\"x";
        let refusal = Failure::NeedsLinking(url.to_owned()).refusal("up");
        let refusal =
            Refusal { visits: [url.to_owned(), "https://gate.example/2".to_owned()].into(), ..refusal };
        let told = url_elicitation(refusal, &bartizan_model::SeededEntropy::new(1));
        let data = told.data.unwrap();
        assert_eq!(told.code, -32042);
        let one = Value::of(&data).get("elicitations").unwrap().elements().next().unwrap();
        let text = |key| one.get(key).and_then(Value::as_str).unwrap().into_owned();
        assert_eq!((text("mode"), text("url")), ("url".to_owned(), url.to_owned()));
        assert_eq!(text("elicitationId").len(), 32);
        let ids = Value::of(&data)
            .get("elicitations")
            .unwrap()
            .elements()
            .map(|e| e.get("elicitationId").unwrap().text());
        assert_eq!(ids.collect::<BTreeSet<_>>().len(), 2, "each place has its own");
    }
}
