//! The pins a gate works with: looks go through to the store only when they could be news.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bartizan_model::{Clock, ServerName, Timestamp};
use tokio::sync::watch;

use super::{Extent, Key, Kind, Look, Observation, Offered, PinError, PinSet, Pins, Policy, Reason, State};
use crate::Digest;

/// For how long an unchanged look is answered from memory.
const REMEMBER: Duration = Duration::from_secs(60);

/// Definitions in remembered looks, all together: some 20 MB.
const REMEMBERED: usize = 100_000;

/// For how long what was approved stays so while the store cannot be asked. It was asked every second until then: what somebody
/// decides meanwhile is not heard of for as long, and nothing is approved that was not.
const LAST_KNOWN: Duration = Duration::from_secs(60);

/// Looks that go to the store at once, at most; those that are equal go in one lane.
const LANES: usize = 64;

/// Keeps [`Pins`] and a gate together: [`Keeper::observe`] on every list and inventory, [`Keeper::is_approved`] on every
/// call, [`Keeper::refresh`] every second or so for what other processes decided.
pub struct Keeper {
    pins: Arc<dyn Pins>,
    clock: Arc<dyn Clock>,
    /// What the store said last, without what is in doubt.
    set: ArcSwap<PinSet>,
    version: watch::Sender<u64>,
    looks: Mutex<Looks>,
    /// Of equal looks at once, one goes to the store; the others find its answer in memory. When one did so in vain.
    asking: [tokio::sync::Mutex<Option<Instant>>; LANES],
    standing: Mutex<Standing>,
    /// One refresh at a time, so that an older set never replaces a newer one.
    refreshing: tokio::sync::Mutex<()>,
}

/// What is known of the store, and of how things are where that is not what it says.
struct Standing {
    /// What it said last.
    said: Arc<PinSet>,
    /// When that was what it says.
    at: Timestamp,
    /// Whether it could not be asked since.
    is_away: bool,
    /// What looks showed to be otherwise than approved.
    doubts: HashMap<ServerName, HashMap<Place, Doubt>>,
}

/// Where a definition is within its server.
type Place = (Kind, String);

/// How long something is in doubt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Until a look at it can be written down.
    Unwritten,
    /// Until what was written down can be read.
    Unread,
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
    /// At which version of its server.
    version: u64,
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
        let at = clock.now();
        let set = Arc::new(pins.snapshot().await?);
        let standing = Standing { said: Arc::clone(&set), at, is_away: false, doubts: HashMap::new() };
        Ok(Arc::new(Self {
            pins,
            clock,
            version: watch::Sender::new(set.version()),
            set: ArcSwap::new(set),
            looks: Mutex::default(),
            asking: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            standing: Mutex::new(standing),
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

    /// What may be shown of what a server offers. After it, [`Keeper::approved`] is at least as new as the answer, or holds
    /// nothing that the look shows to be otherwise. A caller that goes away meanwhile must not cancel this: the news would be lost.
    ///
    /// # Errors
    /// [`PinError`]; nothing may be shown then.
    pub async fn observe(&self, look: &Look) -> Result<Arc<Observation>, PinError> {
        let digest = digest(look);
        if let Some(past) = self.remembered(&digest, look) {
            return Ok(past);
        }
        let began = Instant::now();
        let mut in_vain = match self.lane(&digest) {
            Some(lane) => Some(lane.lock().await),
            None => None,
        };
        if let Some(past) = self.remembered(&digest, look) {
            return Ok(past);
        }
        // Whoever waited while another asked in vain does not ask in vain again: a line of them would only grow.
        if in_vain.as_ref().and_then(|at| **at).is_some_and(|at| at > began) {
            self.doubt(look, Doubt::Unwritten);
            return Err(sqlx::Error::PoolTimedOut.into());
        }
        let now = self.clock.now();
        let observation = match self.pins.observe(look, now).await {
            Ok(observation) => observation,
            // That is the look's fault, and says nothing of the store.
            Err(error @ PinError::Forged(_)) => return Err(error),
            Err(error) => {
                if let Some(in_vain) = &mut in_vain {
                    **in_vain = Some(Instant::now());
                }
                self.doubt(look, Doubt::Unwritten);
                if !error.is_passing() {
                    self.lose();
                }
                return Err(error);
            }
        };
        self.settle(look);
        // The look is on record, so its news must reach somebody even if the store is lost right now: what it holds back is in doubt
        // then, and the next refresh tells.
        if observation.version > self.set.load().version()
            && self.catch_up(observation.version).await.is_err()
        {
            self.doubt(look, Doubt::Unread);
        }
        // News is told once; what is remembered has none.
        let mut quiet = observation.clone();
        quiet.withdrawn.clear();
        for sight in &mut quiet.sights {
            sight.news = None;
        }
        // Unless something was decided meanwhile.
        let version = self.set.load().version_of(&look.server);
        if let Some(version) = version.filter(|version| *version <= observation.version) {
            self.remember(digest, Remembered { at: now, version, observation: Arc::new(quiet) });
        }
        Ok(Arc::new(observation))
    }

    fn lane(&self, look: &Digest) -> Option<&tokio::sync::Mutex<Option<Instant>>> {
        self.asking.get(look.0.first().map_or(0, |byte| usize::from(*byte) % LANES))
    }

    /// What came of an equal look a moment ago.
    fn remembered(&self, digest: &Digest, look: &Look) -> Option<Arc<Observation>> {
        let known = self.set.load().version_of(&look.server)?;
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let past = looks.past.get(digest)?;
        let is_good = past.version == known && self.clock.now().since(past.at) < REMEMBER;
        is_good.then(|| Arc::clone(&past.observation))
    }

    fn remember(&self, look: Digest, seen: Remembered) {
        let size = seen.observation.sights.len() + 1;
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.size + size > REMEMBERED {
            *looks = Looks::default();
        }
        looks.size += size;
        if let Some(replaced) = looks.past.insert(look, seen) {
            looks.size -= replaced.observation.sights.len() + 1;
        }
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
    /// [`PinError`]. If that is only that the store cannot be asked just now, what was approved stays so for a minute, and nothing
    /// more; until a refresh succeeds, nothing is approved then.
    pub async fn refresh(&self) -> Result<bool, PinError> {
        let _turn = self.refreshing.lock().await;
        self.read().await
    }

    /// [`Keeper::refresh`], unless somebody did meanwhile.
    async fn catch_up(&self, version: u64) -> Result<(), PinError> {
        let _turn = self.refreshing.lock().await;
        if self.standing().said.version() < version {
            self.read().await?;
        }
        Ok(())
    }

    async fn read(&self) -> Result<bool, PinError> {
        // Before the question: what is decided while it is answered is read the next time.
        let now = self.clock.now();
        let said = Arc::clone(&self.standing().said);
        let read = self.pins.since(&said).await;
        let error = match read {
            Ok(fresh) => {
                let mut standing = self.standing();
                standing.at = now;
                if std::mem::take(&mut standing.is_away) {
                    tracing::info!("the pins can be read again");
                }
                for doubts in standing.doubts.values_mut() {
                    doubts.retain(|_, doubt| *doubt != Doubt::Unread);
                }
                standing.doubts.retain(|_, doubts| !doubts.is_empty());
                let has_changed = fresh.is_some();
                if let Some(fresh) = fresh {
                    standing.said = Arc::new(fresh);
                    self.take_over(&standing);
                }
                return Ok(has_changed);
            }
            Err(error) => error,
        };
        let mut standing = self.standing();
        // Nor is it known what was so at a time that is still to come, after the clock was set back.
        let is_recent = standing.at <= now && now.since(standing.at) < LAST_KNOWN;
        let was_away = std::mem::replace(&mut standing.is_away, true);
        if error.is_passing() && is_recent {
            if !was_away {
                tracing::warn!(%error, "the pins cannot be read: what was approved a moment ago stays so for up to a minute, \
                    and what is decided meanwhile is not heard of");
            }
            return Err(error);
        }
        drop(standing);
        self.lose();
        Err(error)
    }

    /// What cannot be looked up is not approved.
    fn lose(&self) {
        let mut standing = self.standing();
        if standing.said.version() != 0 {
            tracing::error!("the pins cannot be read; nothing is approved until they can");
        }
        standing.is_away = true;
        standing.said = Arc::new(PinSet::nothing());
        self.take_over(&standing);
    }

    /// The servers of which something is not approved until a look at them can be written down.
    pub fn doubted(&self) -> Vec<ServerName> {
        self.standing().doubts.keys().cloned().collect()
    }

    /// Takes what a look shows to be otherwise than approved for not approved for now.
    fn doubt(&self, look: &Look, doubt: Doubt) {
        let mut standing = self.standing();
        let differs = |offered: &&Offered| {
            let approved = standing.said.get(&look.server, offered.kind, &offered.name);
            // Without a word about who the server is, nothing of it is approved.
            approved.map_or(offered.kind == Kind::Identity, |approved| approved.hash != offered.hash)
        };
        let differing: Vec<_> = look.offered.iter().filter(differs).map(|o| (place(o), doubt)).collect();
        if differing.is_empty() {
            return;
        }
        standing.doubts.entry(look.server.clone()).or_default().extend(differing);
        self.take_over(&standing);
    }

    /// What a look showed is on record.
    fn settle(&self, look: &Look) {
        let mut standing = self.standing();
        let Some(doubts) = standing.doubts.get_mut(&look.server) else { return };
        for offered in &look.offered {
            doubts.remove(&place(offered));
        }
        if doubts.is_empty() {
            standing.doubts.remove(&look.server);
        }
        self.take_over(&standing);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what the store said last count, but for what is in doubt.
    fn take_over(&self, standing: &Standing) {
        let mut set = Arc::clone(&standing.said);
        for (server, doubts) in &standing.doubts {
            let set = Arc::make_mut(&mut set);
            set.doubt(server);
            for (kind, name) in doubts.keys() {
                match kind {
                    Kind::Identity => set.remove_server(server),
                    _ => set.remove(server, *kind, name),
                }
            }
        }
        let version = set.version();
        self.set.store(set);
        self.version.send_replace(version);
    }
}

fn place(offered: &Offered) -> Place {
    (offered.kind, offered.name.clone())
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
