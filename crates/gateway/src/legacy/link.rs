//! One legacy conversation with one server: an HTTP session or a process.

mod client_tasks;
mod errand;
mod handshake;
mod questions;
mod related;
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
use bartizan_mcp::{Era, Id, Message, Refusal, Revision, era, message};
use bartizan_shield::Inspector;
use futures::future::BoxFuture;
use http::HeaderMap;
use tokio::{sync::Semaphore, task::AbortHandle};
use tracing::Instrument;

pub use errand::Errand;
pub use handshake::{NoLink, greet, revision_of, shake_hands};
pub use questions::Taken;
pub use wishes::audience;

use super::session::Hub;
use crate::{
    Asker, Gate,
    call::Call,
    flow::Flow,
    limits::{ANSWER_BYTES, CONTROL_WAIT},
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
    way: Mutex<Way>,
    opening: tokio::sync::Mutex<()>,
    /// Held from when a session was found lost until there is another, which needs less than all that opening does.
    changing: tokio::sync::Mutex<()>,
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
        let link = Arc::new(Self {
            gate: Arc::downgrade(gate),
            server: Arc::clone(server),
            asker,
            is_merged,
            hub,
            hello,
            revision: revision_of(&answer).ok(),
            way: Mutex::new(way),
            opening: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
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
        });
        link.attach(&link.way());
        Ok((link, answer))
    }

    /// Its server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Has the process of `way` tell us what answers no request.
    fn attach(self: &Arc<Self>, way: &Way) {
        match way {
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
        Box::pin(async move {
            // A task of its own: a client that goes away in the middle must not leave a conversation that is half opened.
            let reopening = tokio::spawn(async move { me.reopen_now(&stale).await });
            reopening.await.unwrap_or(Err(Failure::SessionGone))
        })
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
        if self.is_over.load(Ordering::Acquire) {
            return Err(Failure::SessionGone);
        }
        tracing::warn!(server = %self.server.name(), "the server lost a session; opening it again");
        let changing = self.changing.lock().await;
        // Its next life counts its questions anew: an answer to an old one would answer another.
        self.lives.fetch_add(1, Ordering::Relaxed);
        self.hub.forget_all(self);
        if let Way::Process(process) = stale {
            self.server.note_end(process, Some(&self.asker));
        }
        let (way, answer) = shake_hands(&self.server, Some(&self.asker), &self.hello).await?;
        if answer.result().is_none() {
            return Err(Failure::Unreachable("it refuses to open the session again".into()));
        }
        self.attach(&way);
        // Before anybody else speaks in it.
        let telling = tell_by(&way, message::notification("notifications/initialized", None));
        let told = tokio::time::timeout(CONTROL_WAIT, telling).await;
        match told {
            // It has heard it, however badly it says so, or whether it says so at all: it is no worse than at the first handshake.
            Ok(Ok(()) | Err(Failure::Protocol(_) | Failure::Status(_))) | Err(_) => {}
            Ok(Err(failure)) => {
                if let Way::Wire(wire) = &way {
                    wire.delete().await;
                }
                return Err(failure);
            }
        }
        *lock(&self.way) = way;
        drop(changing);
        // It ended meanwhile, when there was only the lost session to end: this one would be nobody's.
        if self.is_over.load(Ordering::Acquire) {
            self.part();
            return Err(Failure::SessionGone);
        }
        // It listened to the session that was lost.
        let listened = lock(&self.listening).take();
        if let Some(task) = listened {
            task.abort();
            self.listen();
        }
        // Nobody waits longer than this: how much there is to repeat is the client's choice, and how long that takes the server's.
        // It goes on without them.
        let (me, life) = (Arc::clone(self), self.life());
        let repeating = tokio::spawn(async move { me.repeat(life).await });
        match tokio::time::timeout(CONTROL_WAIT, repeating).await {
            Ok(repeated) => repeated.unwrap_or(Err(Failure::SessionGone)),
            Err(_) => Ok(()),
        }
    }

    /// Sets again what the client had set.
    async fn repeat(self: &Arc<Self>, life: u64) -> Result<(), Failure> {
        let repeat = lock(&self.memory).requests();
        let is_shared = matches!(self.way(), Way::Shared(_));
        for (method, params) in repeat.into_iter().filter(|(m, _)| !is_shared || *m != "logging/setLevel") {
            // The next life repeats for itself.
            if self.life() != life || self.is_over.load(Ordering::Acquire) {
                return Ok(());
            }
            let id = self.mint();
            let text = message::request(&id.to_string(), method, Some(&params));
            let mut answer = match self.way() {
                // A session that is lost again is for the next request to find: opening it waits for this to end.
                Way::Wire(wire) => Answer::sending(async move {
                    wire.post(text, HeaderMap::new()).await.map(|(posted, _)| posted)
                }),
                Way::Process(_) | Way::Shared(_) => self.ask(id, text, method, None).await?,
            };
            // What it refuses now it refuses.
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

    /// Which of its lives this is.
    pub(super) fn life(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
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
            Way::Wire(_) => {
                let (me, method) = (Arc::clone(self), method.to_owned());
                Ok(Answer::sending(async move { me.post(text, &method).await }))
            }
        }
    }

    /// POSTs a request; one that changes nothing is sent again to a reopened session, any other is not (C-14, C-26).
    async fn post(self: Arc<Self>, text: String, method: &str) -> Result<Posted, Failure> {
        // Whoever comes while the session is known to be lost would fail in it, and need not.
        drop(self.changing.lock().await);
        let Way::Wire(wire) = self.way() else { return Err(Failure::SessionGone) };
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
        // Before it is judged, which may take a while in which it can be cancelled.
        let errand = self.note(request);
        let opened = stages::enter(gate, asker, &self.server, Era::Legacy, self.is_merged, request)
            .await
            .map_err(|refusal| self.shown(over_legacy(refusal)))?;
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
        errand.subscribes = self.remember(request)?;
        let here = self.settled_here(request, id);
        let answer = match here.or(call.released().await) {
            Some(answer) => answer,
            None if !errand.begin(id) => Answer::nothing(),
            None => self.ask(id, text, &call.method, Some(entry)).await.map_err(failed)?,
        };
        Ok((call, answer, errand))
    }

    /// Sends a notification or a response.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn tell(&self, text: String) -> Result<(), Failure> {
        tell_by(&self.way(), text).await
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
