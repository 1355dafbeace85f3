//! Verified tokens, kept for a moment, so that the next request of the same client costs one hash.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use bartizan_model::Timestamp;

use crate::VerifiedToken;

/// What a verification is kept under: the SHA-256 of the whole token and the resource it was for. Nothing less could
/// tell two tokens apart that share a subject, an id or a beginning (attacks.md AA-37).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey([u8; 32]);

impl CacheKey {
    pub fn new(token: &str, resource: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        // The length keeps the two apart.
        context.update(&(token.len() as u64).to_be_bytes());
        context.update(token.as_bytes());
        context.update(resource.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self(key)
    }

    /// Which of `count` shards it belongs to.
    pub fn shard(&self, count: usize) -> usize {
        let [first, ..] = self.0;
        usize::from(first) % count.max(1)
    }
}

struct Kept {
    token: Arc<VerifiedToken>,
    until: Timestamp,
}

impl Kept {
    fn is_remembered(&self, now: Timestamp) -> bool {
        now < self.until.plus(REMEMBERED).min(self.token.expires_at())
    }
}

const SHARDS: usize = 16;

/// How long it is known of a token that it was good, after that is no longer enough to let it in.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// Bounded; only tokens that were good take up room.
pub(crate) struct Cache {
    shards: [Mutex<HashMap<CacheKey, Kept>>; SHARDS],
    room: usize,
}

impl Cache {
    /// Room for about `room` tokens.
    pub fn new(room: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), room: room.div_ceil(SHARDS) }
    }

    fn shard(&self, key: &CacheKey) -> std::sync::MutexGuard<'_, HashMap<CacheKey, Kept>> {
        let [shard, ..] = &self.shards;
        let shard = self.shards.get(key.shard(SHARDS)).unwrap_or(shard);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, key: &CacheKey, now: Timestamp) -> Option<Arc<VerifiedToken>> {
        self.shard(key).get(key).filter(|kept| now < kept.until).map(|kept| Arc::clone(&kept.token))
    }

    /// Whether it was good a moment ago, and has not expired since: no stranger made it up.
    pub fn was_good(&self, key: &CacheKey, now: Timestamp) -> bool {
        self.shard(key).get(key).is_some_and(|kept| kept.is_remembered(now))
    }

    /// Forgets a token that is good no more.
    pub fn forget(&self, key: &CacheKey) {
        self.shard(key).remove(key);
    }

    /// Keeps `token` until `until`, which is not after its expiry.
    pub fn keep(&self, key: CacheKey, token: Arc<VerifiedToken>, until: Timestamp, now: Timestamp) {
        if until <= now {
            return;
        }
        let mut shard = self.shard(&key);
        if shard.len() >= self.room {
            shard.retain(|_, kept| kept.is_remembered(now));
            // What is good counts for more than what was.
            if shard.len() >= self.room {
                shard.retain(|_, kept| now < kept.until);
            }
            // Any one will do: it is verified again when it comes back.
            if shard.len() >= self.room
                && let Some(any) = shard.keys().next().copied()
            {
                shard.remove(&any);
            }
        }
        shard.insert(key, Kept { token, until });
    }
}
