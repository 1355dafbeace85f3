//! The pins a gate works with: looks go through to the store only when they could be news.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bartizan_model::{Clock, ServerName, Timestamp};
use tokio::sync::watch;

use super::{Extent, Key, Kind, Look, Observation, PinError, PinSet, Pins, Policy, Reason, State};
use crate::Digest;

/// For how long an unchanged look is answered from memory.
const REMEMBER: Duration = Duration::from_secs(60);

/// Definitions in remembered looks, all together: some 20 MB.
const REMEMBERED: usize = 100_000;

/// Keeps [`Pins`] and a gate together: [`Keeper::observe`] on every list and inventory, [`Keeper::is_approved`] on every
/// call, [`Keeper::refresh`] every second or so for what other processes decided.
pub struct Keeper {
    pins: Arc<dyn Pins>,
    clock: Arc<dyn Clock>,
    set: ArcSwap<PinSet>,
    version: watch::Sender<u64>,
    looks: Mutex<Looks>,
    /// One refresh at a time, so that an older set never replaces a newer one.
    refreshing: tokio::sync::Mutex<()>,
}

/// Looks by digest.
#[derive(Default)]
struct Looks {
    past: HashMap<Digest, Remembered>,
    /// How many definitions they show.
    size: usize,
}

struct Remembered {
    at: Timestamp,
    observation: Arc<Observation>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keeper(version {})", self.set.load().version())
    }
}

impl Keeper {
    /// A keeper that knows what the store knows now.
    ///
    /// # Errors
    /// [`PinError`]; without a store there is no keeper.
    pub async fn new(pins: Arc<dyn Pins>, clock: Arc<dyn Clock>) -> Result<Arc<Self>, PinError> {
        let set = pins.snapshot().await?;
        Ok(Arc::new(Self {
            pins,
            clock,
            version: watch::Sender::new(set.version()),
            set: ArcSwap::from_pointee(set),
            looks: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }))
    }

    /// Whether a definition may be called now. In memory.
    pub fn is_approved(&self, server: &ServerName, kind: Kind, name: &str) -> bool {
        self.set.load().get(server, kind, name).is_some()
    }

    /// Why a definition may not be called; none if nobody was ever offered it.
    ///
    /// # Errors
    /// [`PinError`].
    pub async fn held(&self, key: &Key) -> Result<Option<Reason>, PinError> {
        let Some(record) = self.pins.read(key).await? else { return Ok(None) };
        Ok(Some(match record.pin.state {
            State::Rejected => Reason::Rejected,
            State::Pending => Reason::Pending,
            State::Approved if record.pin.is_open() => Reason::Identity,
            State::Approved | State::Withdrawn => Reason::Changed,
        }))
    }

    /// Everything that may be called and shown now. In memory.
    pub fn approved(&self) -> Arc<PinSet> {
        self.set.load_full()
    }

    /// Told whenever [`Keeper::approved`] differs; the value is its version, 0 if the store was lost.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// What may be shown of what a server offers. After it, [`Keeper::approved`] is at least as new as the answer, or
    /// empty. A caller that goes away meanwhile must not cancel this: the news would be lost.
    ///
    /// # Errors
    /// [`PinError`]; nothing may be shown then.
    pub async fn observe(&self, look: &Look) -> Result<Arc<Observation>, PinError> {
        let now = self.clock.now();
        let digest = digest(look);
        let known = self.set.load().version();
        {
            let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(past) = looks.past.get(&digest)
                && past.observation.version == known
                && now.since(past.at) < REMEMBER
            {
                return Ok(Arc::clone(&past.observation));
            }
        }
        let observation = match self.pins.observe(look, now).await {
            Ok(observation) => observation,
            // That is the look's fault, and says nothing of the store.
            Err(error @ PinError::Forged(_)) => return Err(error),
            Err(error) => {
                self.lose();
                return Err(error);
            }
        };
        // The look is on record, so its news must reach somebody even if the store is lost right now: nothing is approved
        // then, and the next refresh tells.
        if observation.version != known
            && let Err(error) = self.refresh().await
        {
            tracing::error!(%error, "the pins cannot be read; nothing is approved until they can");
        }
        // News is told once; what is remembered has none.
        let mut quiet = observation.clone();
        quiet.withdrawn.clear();
        for sight in &mut quiet.sights {
            sight.news = None;
        }
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.size + quiet.sights.len() > REMEMBERED {
            *looks = Looks::default();
        }
        looks.size += quiet.sights.len() + 1;
        let quiet = Remembered { at: now, observation: Arc::new(quiet) };
        if let Some(replaced) = looks.past.insert(digest, quiet) {
            looks.size -= replaced.observation.sights.len() + 1;
        }
        Ok(Arc::new(observation))
    }

    /// Carries out rulings; they are in force here when this returns.
    ///
    /// # Errors
    /// [`PinError`]; nothing changed then.
    pub async fn rule(&self, rulings: &[super::Ruling], by: &str) -> Result<(), PinError> {
        self.pins.decide(rulings, by, self.clock.now()).await?;
        self.refresh().await.map(|_| ())
    }

    /// Takes over what other processes, or people, decided; the answer is whether anything did.
    ///
    /// # Errors
    /// [`PinError`]; until a refresh succeeds, nothing is approved.
    pub async fn refresh(&self) -> Result<bool, PinError> {
        let _turn = self.refreshing.lock().await;
        let fresh = async {
            if self.pins.version().await? == self.set.load().version() {
                return Ok(None);
            }
            self.pins.snapshot().await.map(Some)
        };
        match fresh.await {
            Ok(None) => Ok(false),
            Ok(Some(set)) => {
                let version = set.version();
                self.set.store(Arc::new(set));
                self.version.send_replace(version);
                Ok(true)
            }
            Err(error) => {
                self.lose();
                Err(error)
            }
        }
    }

    /// What cannot be looked up is not approved.
    fn lose(&self) {
        self.set.store(Arc::new(PinSet::nothing()));
        self.version.send_replace(0);
    }
}

/// One look from another.
fn digest(look: &Look) -> Digest {
    let mut framed = Vec::new();
    let mut put = |part: &[u8]| {
        framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        framed.extend_from_slice(part);
    };
    put(look.server.as_str().as_bytes());
    put(look.caller.as_bytes());
    put(match look.policy {
        Policy::ApproveByHand => b"hand",
        Policy::TrustOnFirstUse => b"first",
    });
    match &look.extent {
        Extent::Part => put(b"part"),
        Extent::Whole(kinds) => {
            put(b"whole");
            for kind in kinds {
                put(kind.as_str().as_bytes());
            }
        }
    }
    // Kinds and definitions have other lengths.
    put(b"offered");
    for offered in &look.offered {
        put(offered.kind.as_str().as_bytes());
        put(offered.name.as_bytes());
        put(&offered.hash.0);
    }
    Digest::of(&framed)
}
