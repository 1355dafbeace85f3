//! What is denied before its time is up: the only revocation that external JWTs know, and it takes effect at once.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bartizan_model::Timestamp;
use bartizan_store::grants::{Revocation, RevokedKind};
use tokio::sync::watch;

use crate::VerifiedToken;

/// What is denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// Everything an issuer granted to a client, for whomever.
    Client {
        /// The issuer, as `Caller::issuer` has it.
        issuer: String,
        /// The client.
        client: String,
    },
    /// Everything that stands on one grant of ours.
    Grant {
        /// The grant's id.
        grant: String,
    },
    /// Everything an issuer granted to a subject, through whichever client.
    Subject {
        /// The issuer, as `Caller::issuer` has it.
        issuer: String,
        /// The subject.
        subject: String,
    },
    /// One token, by its `jti` (Entra: `uti`).
    Token {
        /// The issuer, as `Caller::issuer` has it.
        issuer: String,
        /// The id.
        token_id: String,
    },
}

#[derive(Clone, Copy)]
struct Entry {
    /// Tokens issued at this time or before are denied; later ones are new grants.
    issued_until: Timestamp,
    /// When no token the entry is about can be alive any more.
    until: Timestamp,
}

#[derive(Default)]
struct Entries {
    by_what: HashMap<Denied, Entry>,
    swept: Option<Timestamp>,
}

/// The deny list. It is asked for every request, after the cache of verified tokens.
#[derive(Default)]
pub struct DenyList {
    entries: RwLock<Entries>,
    /// How many there are; most of the time none, and then nothing is looked up.
    count: AtomicUsize,
    added: watch::Sender<()>,
}

impl DenyList {
    /// Denies what `what` names among the tokens issued until `issued_until`, and remembers it until `until`: at least
    /// the longest life of a token later.
    pub fn deny(&self, what: Denied, issued_until: Timestamp, until: Timestamp, now: Timestamp) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Once a second at most: sweeping looks at everything, and an incident denies thousands at once.
        if entries.swept != Some(now) {
            entries.swept = Some(now);
            entries.by_what.retain(|_, entry| entry.until >= now);
        }
        let entry = entries.by_what.entry(what).or_insert(Entry { issued_until, until });
        *entry = Entry { issued_until: entry.issued_until.max(issued_until), until: entry.until.max(until) };
        self.count.store(entries.by_what.len(), Ordering::Release);
        drop(entries);
        self.added.send_replace(());
    }

    /// Denies what was revoked, by whichever process.
    pub fn note(&self, revocation: &Revocation, now: Timestamp) {
        let Revocation { kind, issuer, name, at, until } = revocation.clone();
        let (what, issued_until) = match kind {
            RevokedKind::Client => (Denied::Client { issuer, client: name }, at),
            RevokedKind::Grant => (Denied::Grant { grant: name }, until),
            RevokedKind::Subject => (Denied::Subject { issuer, subject: name }, at),
            RevokedKind::Token => (Denied::Token { issuer, token_id: name }, until),
        };
        self.deny(what, issued_until, until, now);
    }

    /// Tells of everything that is denied from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.added.subscribe()
    }

    /// Waits until `token` is denied: what goes on under it ends then.
    pub async fn denied(&self, token: &VerifiedToken) {
        let mut added = self.added.subscribe();
        while !self.denies(token) {
            if added.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes an entry back.
    pub fn allow(&self, what: &Denied) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.by_what.remove(what);
        self.count.store(entries.by_what.len(), Ordering::Release);
    }

    /// Whether `token` is denied.
    pub fn denies(&self, token: &VerifiedToken) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let caller = token.caller();
        let issuer = || caller.issuer().to_owned();
        let ours = token.identity.ours.as_ref();
        let client = |issuer| Denied::Client { issuer, client: caller.client().to_owned() };
        let named = [
            Some(Denied::Subject { issuer: issuer(), subject: caller.subject().to_owned() }),
            Some(client(issuer())),
            // An operator who names a client alone means it wherever it comes from.
            Some(client(String::new())),
            token.token_id().map(|id| Denied::Token { issuer: issuer(), token_id: id.to_owned() }),
            // A token of ours speaks for somebody whom another issuer vouches for; its client is ours all the same.
            ours.map(|ours| client(ours.issuer.clone())),
            ours.and_then(|ours| ours.grant.clone()).map(|grant| Denied::Grant { grant }),
        ];
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let is_denied =
            |what| entries.by_what.get(&what).is_some_and(|entry| token.issued_at() <= entry.issued_until);
        named.into_iter().flatten().any(is_denied)
    }
}
