//! Access tokens that outlive their verification, for one purpose: the gate exchanges them for tokens of its own at a server
//! (RFC 8693; Entra's on-behalf-of). They stay inside this crate, and what comes out is never one of them (attacks.md TP-01).
//!
//! Nothing is kept unless an endpoint's server needs it, and nothing outlives the token's end or its denial.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bartizan_model::{CallerKey, Clock, Secret, Timestamp};

use crate::{DenyList, VerifiedToken, cache::CacheKey};

/// Tokens that are kept at once, each at most 16 KiB.
const ROOM: usize = 4096;

/// The access tokens of callers whose servers take tokens that were exchanged for them. One is made for the life of a gate;
/// whoever holds it can neither read nor name a token.
pub struct SubjectTokens {
    inside: Mutex<Kept>,
    denied: Arc<DenyList>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Kept {
    /// The resources at which tokens are kept, by identifier.
    resources: BTreeSet<String>,
    tokens: HashMap<CacheKey, Subject>,
    /// The token that somebody showed last at a resource: sessions outlive the token they began with.
    last: HashMap<(CallerKey, String), CacheKey>,
}

/// A kept token.
#[derive(Clone)]
pub(crate) struct Subject {
    /// What it is kept under.
    pub key: CacheKey,
    /// The token itself.
    pub token: Secret,
    /// What it says.
    pub verified: Arc<VerifiedToken>,
}

impl fmt::Debug for SubjectTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectTokens")
    }
}

impl SubjectTokens {
    /// Keeps nothing yet. `denied` is the resource server's own.
    pub fn new(denied: Arc<DenyList>, clock: Arc<dyn Clock>) -> Self {
        Self { inside: Mutex::default(), denied, clock }
    }

    /// Keeps tokens that are shown at these resources from now on, and forgets those of others.
    pub fn keep_for(&self, resources: impl IntoIterator<Item = String>) {
        let mut kept = self.kept();
        kept.resources = resources.into_iter().collect();
        let Kept { resources, tokens, last } = &mut *kept;
        tokens.retain(|_, subject| resources.contains(subject.verified.resource()));
        last.retain(|_, key| tokens.contains_key(key));
    }

    /// Forgets what has expired or was denied.
    pub fn sweep(&self) {
        let now = self.clock.now();
        self.forget_dead(&mut self.kept(), now);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept().tokens.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps `token`, which was verified and is in its sender's hands, if it was shown where one is needed.
    pub(crate) fn keep(&self, token: &str, verified: &Arc<VerifiedToken>) {
        let Some(key) = verified.shown else { return };
        let mut kept = self.kept();
        if !kept.resources.contains(verified.resource()) {
            return;
        }
        let now = self.clock.now();
        if !kept.tokens.contains_key(&key) {
            if kept.tokens.len() >= ROOM {
                self.forget_dead(&mut kept, now);
            }
            // Any one will do: whoever goes on using it shows it again with the next request.
            if kept.tokens.len() >= ROOM
                && let Some(any) = kept.tokens.keys().next().copied()
            {
                kept.tokens.remove(&any);
                kept.last.retain(|_, last| *last != any);
            }
            let token = Secret::new(token.to_owned());
            kept.tokens.insert(key, Subject { key, token, verified: Arc::clone(verified) });
        }
        kept.last.insert((verified.caller().key(), verified.resource().to_owned()), key);
    }

    /// The token behind `verified`; or, once that has expired, the one that the same person showed last through the same
    /// client at the same resource. `None` for one that is over, denied or not kept: then there is no exchange.
    pub(crate) fn find(&self, verified: &VerifiedToken) -> Option<Subject> {
        let now = self.clock.now();
        let kept = self.kept();
        let is_alive =
            |subject: &&Subject| now < subject.verified.expires_at && !self.denied.denies(&subject.verified);
        let own = verified.shown.and_then(|key| kept.tokens.get(&key));
        // One that was taken back has no successor.
        if self.denied.denies(verified) {
            return None;
        }
        let last = || {
            let key = kept.last.get(&(verified.caller().key(), verified.resource().to_owned()))?;
            kept.tokens.get(key).filter(is_alive)
        };
        own.filter(is_alive).or_else(last).cloned()
    }

    fn forget_dead(&self, kept: &mut Kept, now: Timestamp) {
        let Kept { tokens, last, .. } = kept;
        tokens
            .retain(|_, subject| now < subject.verified.expires_at && !self.denied.denies(&subject.verified));
        last.retain(|_, key| tokens.contains_key(key));
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
