//! One legacy conversation with one server: an HTTP session or a process.

mod client_tasks;
mod errand;
mod handshake;
mod questions;
mod related;
mod reopening;
mod unasked;
mod visits;
mod wishes;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bartizan_audit::EventId;
use bartizan_mcp::{Era, Id, Message, Refusal, Revision, era, json::quote, message};
use bartizan_shield::Inspector;
use http::HeaderMap;
use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};
use tracing::Instrument;

pub use errand::Errand;
pub use handshake::{NoLink, greet, revision_of, shake_hands};
pub use questions::Taken;
pub use wishes::audience;

use super::session::{Hub, Turn};
use crate::{
    Asker, Gate,
    call::{Call, Line},
    flow::Flow,
    handles::{Home, Task},
    limits::{ANSWER_BYTES, CONTROL_WAIT},
    news::{List, Listener},
    server::{Server, final_message},
    stages,
    upstream::{
        Answer, Failure,
        http::{Posted, Wire},
        stdio::{Process, lock},
    },
};
use client_tasks::ClientTasks;
use errand::Errands;
use wishes::Memory;

/// A conversation with a server on behalf of one session.
pub struct Link {
    gate: Weak<Gate>,
    server: Arc<Server>,
    asker: Asker,
    is_merged: bool,
    hub: Arc<Hub>,
    /// The parameters of the client's `initialize`, to open the conversation again.
    hello: String,
    /// The revision that the server chose.
    revision: Option<Revision>,
    /// Where it leads, and in which of its lives that began.
    way: Mutex<(Way, u64)>,
    /// Held while it is opened again, from when its session or process was found lost until there is another that `way` leads to,
    /// or there can be none now. One opens it; whoever has a request waits, for it would fail in the one that is lost, and must not
    /// come before the end of the handshake in the next. What the client had set is set again after that, beside requests.
    opening: tokio::sync::Mutex<()>,
    /// Why it could not be opened again the last time, and when that was known.
    unopened: Mutex<Option<(Instant, Failure)>>,
    /// How often it was opened again: what was asked before is answered to nobody.
    lives: AtomicU64,
    /// Its session is over: it is not opened again.
    is_over: AtomicBool,
    /// Others are asked about one message after the other.
    turn: tokio::sync::Mutex<()>,
    /// Bytes of messages that wait for that turn, and of replies that wait to be written (attacks.md PH-22).
    room: Arc<Semaphore>,
    next: AtomicU64,
    inflight: Mutex<HashMap<Id, Errands>>,
    memory: Mutex<Memory>,
    client_tasks: ClientTasks,
    listening: Mutex<Option<AbortHandle>>,
    /// What was said that answers no request, for what is split over several messages.
    unasked: Mutex<Inspector>,
    /// What is decided about its server, for the session's general stream.
    _news: Arc<Listener>,
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

impl Way {
    /// The number of the process, if that is everybody's.
    fn everybodys(&self) -> Option<u64> {
        match self {
            Self::Shared(process) => process.everybodys(),
            Self::Process(_) | Self::Wire(_) => None,
        }
    }
}

/// Where a message comes from that its server did not write in answer.
#[derive(Clone)]
pub enum Whence {
    /// From the session or process that was its in this of its lives; that process, if it is one.
    Life(u64, Weak<Process>),
    /// From a process of everybody's, which may be another than the one that its requests go to.
    Shared(Arc<Process>),
}

/// A refusal as a legacy client reads it: inside the conversation, unless it is HTTP's own to say.
fn over_legacy(refusal: Refusal) -> Refusal {
    if refusal.challenges.is_empty() { Refusal { status: 200, ..refusal } } else { refusal }
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
        let general = Arc::clone(&hub);
        let tell = move |list: List| general.general().push(list.told(None));
        let news = gate.news().listen(server, &asker, Era::Legacy, tell);
        let link = Arc::new(Self {
            gate: Arc::downgrade(gate),
            server: Arc::clone(server),
            asker,
            is_merged,
            hub,
            hello,
            revision: revision_of(&answer).ok(),
            way: Mutex::new((way, 0)),
            opening: tokio::sync::Mutex::default(),
            unopened: Mutex::default(),
            lives: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            room: Arc::new(Semaphore::new(ANSWER_BYTES)),
            next: AtomicU64::new(2),
            inflight: Mutex::default(),
            memory: Mutex::default(),
            client_tasks: ClientTasks::default(),
            listening: Mutex::default(),
            unasked: Mutex::default(),
            _news: news,
        });
        link.attach(&link.way(), 0);
        Ok((link, answer))
    }

    /// Its server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Has the process of `way`, which is that of its `life`, tell us what answers no request.
    fn attach(self: &Arc<Self>, way: &Way, life: u64) {
        match way {
            Way::Process(process) => {
                let (me, whence) = (Arc::downgrade(self), Whence::Life(life, Arc::downgrade(process)));
                process.set_sink(Arc::new(move |message| {
                    if let Some(me) = me.upgrade() {
                        me.unasked(&message, &whence);
                    }
                }));
            }
            Way::Shared(_) => self.server.attach_shared(self),
            Way::Wire(_) => {}
        }
    }

    fn way(&self) -> Way {
        self.lived_way().0
    }

    /// Where it leads, and in which of its lives that began.
    fn lived_way(&self) -> (Way, u64) {
        lock(&self.way).clone()
    }

    /// An id that no other request on this way has.
    fn mint(&self, way: &Way) -> u64 {
        match way {
            Way::Process(process) | Way::Shared(process) => process.mint(),
            Way::Wire(_) => self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Which of its lives this is.
    pub(super) fn life(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// A way that was alive a moment ago, and in which of its lives it began.
    async fn live_way(self: &Arc<Self>) -> Result<(Way, u64), Failure> {
        if let Way::Process(_) | Way::Shared(_) = self.way() {
            self.opened_again().await?;
        }
        let (way, life) = self.lived_way();
        match &way {
            Way::Process(process) | Way::Shared(process)
                if process.ended().is_some() || self.server.is_to_be_left(process) =>
            {
                self.reopen(way).await?;
                Ok(self.lived_way())
            }
            _ => Ok((way, life)),
        }
    }

    /// Sends a request, which belongs to `call` if it is none of ours, on the way that `id` is from; `life` is told in which of its
    /// lives a session got it.
    async fn ask(
        self: &Arc<Self>,
        way: Way,
        id: u64,
        text: String,
        method: &str,
        call: Option<EventId>,
        life: &Arc<AtomicU64>,
    ) -> Result<Answer, Failure> {
        match way {
            Way::Process(process) | Way::Shared(process) => {
                Ok(Answer::pipe(process.request(id, text, call, false).await?))
            }
            Way::Wire(_) => {
                let (me, method, life) = (Arc::clone(self), method.to_owned(), Arc::clone(life));
                Ok(Answer::sending(async move { me.post(text, &method, &life).await }))
            }
        }
    }

    /// POSTs a request; one that changes nothing is sent again to a reopened session, any other is not (C-14, C-26).
    async fn post(self: Arc<Self>, text: String, method: &str, life: &AtomicU64) -> Result<Posted, Failure> {
        self.opened_again().await?;
        let (Way::Wire(wire), now) = self.lived_way() else { return Err(Failure::SessionGone) };
        life.store(now, Ordering::Relaxed);
        match wire.clone().post(text.clone(), HeaderMap::new()).await {
            Err(Failure::SessionGone) => {
                self.reopen(Way::Wire(wire)).await?;
                let (Way::Wire(fresh), now) = self.lived_way() else { return Err(Failure::SessionGone) };
                life.store(now, Ordering::Relaxed);
                if !era::is_repeatable(method) {
                    return Err(Failure::SessionGone);
                }
                fresh.post(text, HeaderMap::new()).await.map(|(posted, _)| posted)
            }
            other => other.map(|(posted, _)| posted),
        }
    }

    /// Sends the client's request when it is its `turn`; `asker` is who sends this one, by the token it came with.
    ///
    /// # Errors
    /// The refusal, if it cannot or must not be sent.
    pub async fn call(
        self: &Arc<Self>,
        gate: &Arc<Gate>,
        asker: &Asker,
        request: &Message,
        turn: Option<Turn>,
    ) -> Result<Flow, Refusal> {
        // Before it is judged, which may take a while in which it can be cancelled.
        let errand = self.note(request);
        // Not the process of everybody's that was started last: this one's may be another.
        let there = (&self.server, self.home());
        let opened = stages::enter(gate, asker, there, Era::Legacy, self.is_merged, request)
            .await
            .map_err(|refusal| self.shown(over_legacy(refusal)))?;
        if let Some(turn) = turn {
            // It ends by being given up.
            let _ = turn.await;
        }
        let putting = self.put(gate, asker, request, errand, opened.call().id());
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
        errand: Result<Errand, Refusal>,
        entry: EventId,
    ) -> Result<(Call, Answer, Errand), Refusal> {
        let mut errand = errand?;
        let failed = |failure: Failure| self.failed(&failure);
        // For what was taken back while it was judged, no process is started, nothing is remembered, and no answer used up.
        let is_over = errand.is_cancelled();
        let (way, life) = if is_over { self.lived_way() } else { self.live_way().await.map_err(failed)? };
        let id = self.mint(&way);
        let mut call = Call::new(
            gate,
            Arc::clone(&self.server),
            asker.clone(),
            Era::Legacy,
            self.is_merged,
            Line { id, process: way.everybodys() },
            request,
        );
        let text = call.outgoing(request)?;
        if is_over {
            return Ok((call, Answer::nothing(), errand));
        }
        errand.subscribes = self.remember(request)?;
        let mut here = self.settled_here(request, id);
        if here.is_none() && !errand.is_cancelled() {
            here = call.released().await;
        }
        if here.is_none()
            && !errand.is_cancelled()
            && let Some(task) = call.uncertain_task()
        {
            let found = self.task(&way, task).await.map_err(failed)?;
            call.is_certain(&found).map_err(over_legacy)?;
        }
        let answer = match here {
            Some(answer) => answer,
            None if !errand.begin(id, &way, life) => Answer::nothing(),
            None => {
                let sent = self.ask(way, id, text, &call.method, Some(entry), &errand.life);
                sent.await.map_err(failed)?
            }
        };
        Ok((call, answer, errand))
    }

    /// What its server says of `task`.
    async fn task(self: &Arc<Self>, way: &Way, task: &Task) -> Result<Message, Failure> {
        let id = self.mint(way);
        let params = format!(r#"{{"taskId":{}}}"#, quote(&task.id));
        let text = message::request(&id.to_string(), "tasks/get", Some(&params));
        let mut answer = self.ask(way.clone(), id, text, "tasks/get", None, &Arc::default()).await?;
        let answered = tokio::time::timeout(CONTROL_WAIT, final_message(&mut answer)).await;
        answered.map_err(|_| Failure::Timeout(CONTROL_WAIT.as_secs()))?
    }

    /// Whose the tasks are that its server names.
    fn home(&self) -> Home<'_> {
        Home { server: self.server.name(), process: lock(&self.way).0.everybodys() }
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn tell(&self, text: String) -> Result<(), Failure> {
        tell_by(&self.way(), text).await
    }

    /// Sends what answers a question of its `life`: another one counts its questions anew.
    ///
    /// # Errors
    /// [`Failure::SessionGone`] if that is over.
    pub async fn tell_in(&self, life: u64, text: String) -> Result<(), Failure> {
        let (way, now) = self.lived_way();
        if now != life {
            return Err(Failure::SessionGone);
        }
        tell_by(&way, text).await
    }

    /// Ends the conversation for good (C-27).
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.part();
    }

    /// Ends what was agreed with the server; whoever asks it again opens the conversation anew.
    fn part(&self) {
        if let Some(task) = lock(&self.listening).take() {
            task.abort();
        }
        if let Way::Wire(wire) = self.way() {
            tokio::spawn(async move { wire.delete().await });
        }
    }
}

async fn tell_by(way: &Way, text: String) -> Result<(), Failure> {
    match way {
        // What one client says of itself is not true of the others.
        Way::Shared(_) => Ok(()),
        Way::Process(process) => process.send(text).await,
        Way::Wire(wire) => wire.clone().post(text, HeaderMap::new()).await.map(|_| ()),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A conversation that no session came of, or whose session was not kept, is over too.
        if self.is_over.load(Ordering::Acquire) || tokio::runtime::Handle::try_current().is_err() {
            if let Some(task) = lock(&self.listening).take() {
                task.abort();
            }
            return;
        }
        self.part();
    }
}
