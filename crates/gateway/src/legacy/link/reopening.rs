//! A conversation that its server lost: opened again, with what its client had set (spec.md C-26, C-40).

use std::sync::{Arc, atomic::Ordering};

use bartizan_mcp::message;
use futures::future::BoxFuture;
use http::HeaderMap;
use tokio::time::Instant;

use super::{Link, Way, shake_hands, tell_by};
use crate::{
    limits::CONTROL_WAIT,
    server::final_message,
    upstream::{Answer, Failure, stdio::lock},
};

impl Link {
    /// Opens the conversation again if the server lost it, or is another now; `stale` is the session that was. What was under way
    /// fails; what the client had set is set again (C-26, C-40).
    pub(super) fn reopen(self: &Arc<Self>, stale: Way) -> BoxFuture<'static, Result<(), Failure>> {
        // Boxed, for asking reopens and reopening asks.
        let me = Arc::clone(self);
        Box::pin(async move {
            // A task of its own: a client that goes away in the middle must not leave a conversation that is half opened.
            let reopening = tokio::spawn(async move { me.reopen_now(&stale).await });
            reopening.await.unwrap_or(Err(Failure::SessionGone))
        })
    }

    async fn reopen_now(self: &Arc<Self>, stale: &Way) -> Result<(), Failure> {
        let asked = Instant::now();
        let opening = self.opening.lock().await;
        self.known_since(asked)?;
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
        let is_lost = match stale {
            Way::Wire(_) => true,
            Way::Process(process) | Way::Shared(process) => process.ended().is_some(),
        };
        if is_lost {
            tracing::warn!(server = %self.server.name(), "the server lost a session; opening it again");
        } else {
            tracing::info!(server = %self.server.name(), "a session is opened again in a process of what was approved");
        }
        // Its next life counts its questions anew: an answer to an old one would answer another.
        let life = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        self.withdraw(stale);
        if let Way::Process(process) = stale
            && is_lost
        {
            self.server.note_end(process, Some(&self.asker));
        }
        if let Err(failure) = self.begin_anew(life).await {
            *lock(&self.unopened) = Some((Instant::now(), failure.clone()));
            return Err(failure);
        }
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
        drop(opening);
        // Whoever found it lost goes on once everything is as it was, but waits no longer than this: how much there is to repeat is
        // the client's choice, and how long that takes the server's. It goes on without them.
        let me = Arc::clone(self);
        let repeating = tokio::spawn(async move { me.repeat(life).await });
        match tokio::time::timeout(CONTROL_WAIT, repeating).await {
            Ok(repeated) => repeated.unwrap_or(Err(Failure::SessionGone)),
            Err(_) => Ok(()),
        }
    }

    /// Takes back what was asked on the way `stale`: its client is told, and so is who asked, if they are still there, and would wait for
    /// an answer.
    fn withdraw(self: &Arc<Self>, stale: &Way) {
        for (ours, theirs) in self.hub.forget_all(self) {
            let params = format!(r#"{{"requestId":{ours},"reason":"the server that asked was replaced"}}"#);
            self.hub.general().push(message::notification("notifications/cancelled", Some(&params)));
            if let Way::Process(process) = stale
                && process.ended().is_none()
            {
                self.refuse_from_before(&theirs, process);
            }
        }
    }

    /// Shakes hands anew, and has `way` lead to what came of it, in its `life`.
    async fn begin_anew(self: &Arc<Self>, life: u64) -> Result<(), Failure> {
        let (way, answer) = shake_hands(&self.server, Some(&self.asker), &self.hello).await?;
        if answer.result().is_none() {
            return Err(Failure::Unreachable("it refuses to open the session again".into()));
        }
        // What a process says and asks from now on is answered to it, and to no other.
        if let Way::Process(_) | Way::Shared(_) = &way {
            *lock(&self.way) = (way.clone(), life);
            self.attach(&way, life);
        }
        // Before any request.
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
        *lock(&self.way) = (way, life);
        Ok(())
    }

    /// Waits while it is opened again.
    ///
    /// # Errors
    /// Why it was not: whoever waited for that does not try in vain again, for a line of them would only grow.
    pub(super) async fn opened_again(&self) -> Result<(), Failure> {
        let asked = Instant::now();
        drop(self.opening.lock().await);
        self.known_since(asked)
    }

    /// Whether nobody has tried in vain to open it again since `then`.
    ///
    /// # Errors
    /// Why they could not.
    fn known_since(&self, then: Instant) -> Result<(), Failure> {
        match &*lock(&self.unopened) {
            Some((at, failure)) if *at > then => Err(failure.clone()),
            _ => Ok(()),
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
            let way = self.way();
            let id = self.mint(&way);
            let text = message::request(&id.to_string(), method, Some(&params));
            let mut answer = match way {
                // A session that is lost again is for the next request to find.
                Way::Wire(wire) => Answer::sending(async move {
                    wire.post(text, HeaderMap::new()).await.map(|(posted, _)| posted)
                }),
                Way::Process(process) | Way::Shared(process) => {
                    Answer::pipe(process.request(id, text, None, false).await?)
                }
            };
            // What it refuses now it refuses.
            let _ = tokio::time::timeout(CONTROL_WAIT, final_message(&mut answer)).await;
        }
        Ok(())
    }
}
