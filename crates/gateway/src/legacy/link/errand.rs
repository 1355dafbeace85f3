//! Requests under way in a conversation, by the client's ids.

use std::sync::{Arc, atomic::Ordering};

use bartizan_mcp::{Id, Message, Refusal, code};
use tokio::sync::Notify;

use super::{Link, Way};
use crate::{
    limits::SESSION_REQUESTS,
    upstream::{Failure, stdio::lock},
};

pub(super) struct Errands {
    id: u64,
    cancelled: Arc<Notify>,
}

/// A request's place in its session; dropping it makes its id free.
pub struct Errand {
    pub(super) link: Arc<Link>,
    pub(super) key: Id,
    pub(super) cancelled: Arc<Notify>,
    /// The address it asks to be told of, if that is new.
    pub(super) subscribes: Option<String>,
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
}

impl Drop for Errand {
    fn drop(&mut self) {
        let mut inflight = lock(&self.link.inflight);
        if inflight.get(&self.key).is_some_and(|e| Arc::ptr_eq(&e.cancelled, &self.cancelled)) {
            inflight.remove(&self.key);
        }
    }
}

/// A request that is judged, before it has a place.
pub(super) struct Entering<'l>(&'l Link);

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.0.entering.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Link {
    /// Counts a request as under way until it has its place, or none.
    pub(super) fn entering(&self) -> Entering<'_> {
        self.entering.fetch_add(1, Ordering::AcqRel);
        Entering(self)
    }

    pub(super) fn note(self: &Arc<Self>, request: &Message, id: u64) -> Result<Errand, Refusal> {
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
        Ok(Errand { link: Arc::clone(self), key, cancelled, subscribes: None })
    }

    /// Whether requests are under way.
    pub fn is_busy(&self) -> bool {
        // A request has its place before it is no longer counted.
        self.entering.load(Ordering::Acquire) > 0 || !lock(&self.inflight).is_empty()
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
}
