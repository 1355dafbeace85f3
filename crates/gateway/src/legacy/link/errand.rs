//! Requests under way in a conversation, by the client's ids.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use bartizan_mcp::{Id, Message, Refusal, code};
use tokio::sync::Notify;

use super::{Link, Way, Whence};
use crate::{
    limits::SESSION_REQUESTS,
    upstream::{Failure, stdio::lock},
};

pub(super) struct Errands {
    /// Our id for it, and the way it went, once it is put to the server.
    sent: Option<(u64, Way)>,
    cancelled: Arc<Notify>,
    is_cancelled: bool,
}

/// A request's place in its session; dropping it makes its id free.
pub struct Errand {
    pub(super) link: Arc<Link>,
    pub(super) key: Id,
    pub(super) cancelled: Arc<Notify>,
    /// In which of the conversation's lives it was put to the server, and so in which that asks what comes with the answer.
    pub(super) life: Arc<AtomicU64>,
    /// The address it asks to be told of, if that is new.
    pub(super) subscribes: Option<String>,
}

impl Errand {
    /// An error of ours in the place of the response.
    pub fn failed(&self, failure: &Failure) -> Refusal {
        self.link.failed(failure)
    }

    /// It is put to the server now, as `id` on this way, which began in this `life`. Whether it may be: not if the client has cancelled
    /// it.
    pub(super) fn begin(&self, id: u64, way: &Way, life: u64) -> bool {
        self.life.store(life, Ordering::Relaxed);
        self.mine(|errand| {
            errand.sent = Some((id, way.clone()));
            !errand.is_cancelled
        })
    }

    /// Whether the client has cancelled it.
    pub(super) fn is_cancelled(&self) -> bool {
        !self.mine(|errand| !errand.is_cancelled)
    }

    /// What `look` says of its place; `false` where it has none any more.
    fn mine(&self, look: impl FnOnce(&mut Errands) -> bool) -> bool {
        let mut inflight = lock(&self.link.inflight);
        let mine = inflight.get_mut(&self.key).filter(|e| Arc::ptr_eq(&e.cancelled, &self.cancelled));
        mine.is_some_and(look)
    }

    /// Where the messages come from that come with its answer.
    pub(super) fn whence(&self) -> Whence {
        let mut process = Weak::new();
        self.mine(|errand| {
            if let Some((_, Way::Process(own))) = &errand.sent {
                process = Arc::downgrade(own);
            }
            true
        });
        Whence::Life(self.life.load(Ordering::Relaxed), process)
    }

    /// Told when the client cancels.
    pub fn cancelled(&self) -> Arc<Notify> {
        Arc::clone(&self.cancelled)
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
    /// Takes a request in, which is under way from now on.
    ///
    /// # Errors
    /// The refusal of one too many, or of an id that is in use.
    pub(super) fn note(self: &Arc<Self>, request: &Message) -> Result<Errand, Refusal> {
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
        let errand = Errands { sent: None, cancelled: Arc::clone(&cancelled), is_cancelled: false };
        inflight.insert(key.clone(), errand);
        Ok(Errand { link: Arc::clone(self), key, cancelled, life: Arc::default(), subscribes: None })
    }

    /// Whether requests are under way.
    pub fn is_busy(&self) -> bool {
        !lock(&self.inflight).is_empty()
    }

    /// Cancels the request that the client calls `id` (B-17), if there is one.
    ///
    /// The client may be gone a moment later, and the server may take its time to hear of it: neither holds it up.
    pub fn cancel(self: &Arc<Self>, id: &Id, notification: &Message) {
        let (sent, cancelled) = match lock(&self.inflight).get_mut(id) {
            Some(errand) => {
                errand.is_cancelled = true;
                (errand.sent.clone(), Arc::clone(&errand.cancelled))
            }
            None => return,
        };
        cancelled.notify_one();
        // What the server was not asked it need not leave.
        let Some((ours, way)) = sent else { return };
        let mut splice = notification.splice();
        if let Some(named) = notification.param("requestId") {
            splice.replace(named, ours.to_string());
        }
        let text = splice.finish();
        let Some(room) = self.room(text.len()) else {
            tracing::warn!(server = %self.server.name(), "it does not hear what is cancelled");
            return;
        };
        let me = Arc::clone(self);
        tokio::spawn(async move {
            let _room = room;
            let told = match way {
                // In another one that took its place the same number is another request.
                Way::Process(process) | Way::Shared(process) => process.send(text).await,
                Way::Wire(_) => me.tell(text).await,
            };
            if let Err(failure) = told {
                tracing::debug!(server = %me.server.name(), %failure, "a cancellation was not delivered");
            }
        });
    }
}
