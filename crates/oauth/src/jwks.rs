//! An issuer's keys, kept: one question at a time, not too often, and never believed for too long.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bartizan_model::{Clock, Timestamp};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

use crate::{
    Error,
    discovery::{Fault, KeyPlace},
    fetch::Fetch,
    key::{Key, KeySet},
};

/// How old keys may be before they are asked for again: a key that its issuer withdrew is refused after this time.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// How old keys may be while their issuer does not answer. Then nobody comes in (attacks.md AA-20).
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// Between two questions, whatever tokens say (AA-31).
const COOL_DOWN: Duration = Duration::from_secs(30);
/// Between two questions while there are no keys at all.
const RETRY: Duration = Duration::from_secs(5);
/// For one question, metadata and keys together.
const WITHIN: Duration = Duration::from_secs(10);
/// How long a request waits for newer keys when there are some that will do.
const PATIENCE: Duration = Duration::from_secs(1);

/// The keys of one issuer. Those of another are never looked at for its tokens (AA-12).
pub(crate) struct IssuerKeys(Arc<Inner>);

struct Inner {
    issuer: String,
    place: KeyPlace,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    held: ArcSwapOption<Held>,
    /// When the issuer was last asked. Whoever holds the lock asks; the others wait for the answer.
    asked: Arc<Mutex<Option<Timestamp>>>,
}

struct Held {
    keys: KeySet,
    since: Timestamp,
}

impl IssuerKeys {
    pub fn new(issuer: String, place: KeyPlace, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let (held, asked) = (ArcSwapOption::empty(), Arc::default());
        Self(Arc::new(Inner { issuer, place, fetch, clock, held, asked }))
    }

    /// The key that the issuer calls `kid`, or without one its only key.
    ///
    /// # Errors
    /// [`Error::KeyUnknown`] if the issuer has none of that name, or was asked too shortly before;
    /// [`Error::IssuerUnavailable`] if no keys can be had.
    pub async fn find(&self, kid: Option<&str>) -> Result<Arc<Key>, Error> {
        let held = self.0.usable();
        let found = held.as_ref().and_then(|held| held.keys.find(kid));
        let is_fresh = held.as_ref().is_some_and(|held| self.0.clock.now().since(held.since) < FRESH);
        if is_fresh && let Some(key) = found {
            return Ok(key);
        }
        let (turn, patience) = match found {
            // These keys will do while somebody else asks for new ones.
            Some(key) => match Arc::clone(&self.0.asked).try_lock_owned() {
                Ok(turn) => (turn, PATIENCE),
                Err(_) => return Ok(key),
            },
            None => (Arc::clone(&self.0.asked).lock_owned().await, WITHIN),
        };
        if self.0.may_ask(*turn) {
            let inner = Arc::clone(&self.0);
            // A task of its own: a client that hangs up must not cut off the question that others wait for.
            let asking = tokio::spawn(async move { inner.ask(turn).await });
            // It fails when it takes too long, the runtime ends or the fetcher panicked; there are no new keys then.
            let _ = timeout(patience, asking).await;
        }
        let held = self.0.usable().ok_or_else(|| Error::IssuerUnavailable(self.0.issuer.clone()))?;
        held.keys.find(kid).ok_or(Error::KeyUnknown)
    }
}

impl Inner {
    fn usable(&self) -> Option<Arc<Held>> {
        self.held.load_full().filter(|held| self.clock.now().since(held.since) <= MAX_AGE)
    }

    fn may_ask(&self, asked: Option<Timestamp>) -> bool {
        let wait = if self.usable().is_some() { COOL_DOWN } else { RETRY };
        asked.is_none_or(|asked| self.clock.now().since(asked) >= wait)
    }

    async fn ask(&self, mut turn: OwnedMutexGuard<Option<Timestamp>>) {
        let now = self.clock.now();
        *turn = Some(now);
        let fetched = timeout(WITHIN, self.place.fetch_keys(&self.issuer, &*self.fetch)).await;
        let fetched = fetched.unwrap_or(Err(Fault::Slow));
        let parsed = fetched.and_then(|(url, text)| {
            KeySet::parse(&text).map_err(|what| Fault::Document { url, what: what.to_string() })
        });
        match parsed {
            // The age counts from before the question.
            Ok(keys) => self.held.store(Some(Arc::new(Held { keys, since: now }))),
            Err(error) => tracing::warn!(issuer = self.issuer, %error, "an issuer's keys were not to be had"),
        }
    }
}
