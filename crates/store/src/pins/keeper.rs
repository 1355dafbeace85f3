//! The pins a gate works with: looks go through to the store only when they could be news.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bartizan_model::{Clock, ServerName, Timestamp};
use tokio::sync::watch;

use super::{
    Extent, Key, Kind, Look, Observation, Offered, PinError, PinSet, Pinned, Pins, Policy, Reason, State,
    doubts::{Doubts, Until},
};
use crate::Digest;

/// For how long an unchanged look is answered from memory.
const REMEMBER: Duration = Duration::from_secs(60);

/// Definitions in remembered looks, all together: some 20 MB.
const REMEMBERED: usize = 100_000;

/// For how long what was approved stays so while the store cannot be asked. It was asked every second until then: what somebody
/// decides meanwhile is not heard of for as long, and nothing is approved that was not.
const LAST_KNOWN: Duration = Duration::from_secs(60);

/// How long the store may take to say what is approved: a lock or a silent link in between must not keep what was approved so.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the store may take over one look, beyond the 30 s that writers of SQLite wait in line for: what it shows is in doubt
/// then. It may be on record all the same, and the next one finds it.
const LOOK_PATIENCE: Duration = Duration::from_secs(40);

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
    /// How often that became another.
    editions: AtomicU64,
    looks: Mutex<Looks>,
    /// Of equal looks at once, one goes to the store; the others find its answer in memory. When one did so in vain.
    asking: [tokio::sync::Mutex<Option<Instant>>; LANES],
    standing: Mutex<Standing>,
    /// [`Standing::at`], for calls.
    at: AtomicU64,
    /// One refresh at a time, so that an older set never replaces a newer one. When one was in vain.
    refreshing: tokio::sync::Mutex<Option<Instant>>,
}

/// What is known of the store, and of how things are where that is not what it says.
struct Standing {
    /// What it said last.
    said: Arc<PinSet>,
    /// What it said before that was lost: what looks show is still compared with it.
    before: Arc<PinSet>,
    /// When that was what it says.
    at: Timestamp,
    /// Whether it could not be asked since.
    is_away: bool,
    /// What looks showed to be otherwise than approved.
    doubts: Doubts,
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
        let before = Arc::default();
        let standing =
            Standing { said: Arc::clone(&set), before, at, is_away: false, doubts: Doubts::default() };
        Ok(Arc::new(Self {
            pins,
            clock,
            version: watch::Sender::new(set.version()),
            editions: AtomicU64::new(0),
            set: ArcSwap::new(set),
            looks: Mutex::default(),
            asking: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            standing: Mutex::new(standing),
            at: AtomicU64::new(at.as_unix()),
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

    /// Has [`Keeper::approved`] be what the store said within the last minute, or nothing, even where whoever refreshes it stands
    /// still. In memory, but for then.
    pub async fn keep_fresh(&self) {
        let now = self.clock.now();
        let at = Timestamp::from_unix(self.at.load(Ordering::Acquire));
        // Nothing is as good as new.
        if !is_recent(at, now) && self.set.load().version() != 0 {
            // What cannot be read is lost then.
            let _ = self.refresh().await;
        }
    }

    /// What the store says is approved of `key`, whatever [`Keeper::approved`] has; `look` shows what is offered of it.
    ///
    /// # Errors
    /// [`PinError`]; what `look` shows to be otherwise than approved is not approved then until a look is written down.
    pub async fn look_up(&self, key: &Key, look: &Look) -> Result<Option<Pinned>, PinError> {
        let record = match in_time(self.pins.read(key)).await {
            Ok(record) => record,
            Err(error) => {
                self.fail(look, &error);
                return Err(error);
            }
        };
        Ok(record.filter(|record| record.pin.is_open()).and_then(|record| {
            let form = record.forms.into_iter().find(|form| Some(form.hash) == record.pin.approved)?;
            Some(Pinned { hash: form.hash, text: form.text.into() })
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
            self.doubt(look, Until::Written);
            return Err(sqlx::Error::PoolTimedOut.into());
        }
        let now = self.clock.now();
        let observation = match in_time(self.pins.observe(look, now)).await {
            Ok(observation) => observation,
            // That is the look's fault, and says nothing of the store.
            Err(error @ PinError::Forged(_)) => return Err(error),
            Err(error) => {
                if let Some(in_vain) = &mut in_vain {
                    **in_vain = Some(Instant::now());
                }
                self.fail(look, &error);
                return Err(error);
            }
        };
        // The look is on record, so its news must reach somebody even if the store is lost right now: what it holds back is in doubt
        // then, as is what was before, and the next refresh tells.
        if observation.version <= self.set.load().version()
            || self.catch_up(observation.version).await.is_ok()
        {
            self.settle(look, &observation);
        } else {
            self.doubt(look, Until::Read);
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

    /// What follows from a look that could not be written down.
    fn fail(&self, look: &Look, error: &PinError) {
        self.doubt(look, Until::Written);
        if !error.is_passing() {
            self.lose();
        }
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
        let began = Instant::now();
        let mut in_vain = self.refreshing.lock().await;
        self.read(began, &mut in_vain).await
    }

    /// [`Keeper::refresh`], unless somebody did meanwhile.
    async fn catch_up(&self, version: u64) -> Result<(), PinError> {
        let began = Instant::now();
        let mut in_vain = self.refreshing.lock().await;
        if self.standing().said.version() < version {
            self.read(began, &mut in_vain).await?;
        }
        Ok(())
    }

    /// Reads what the store says, for somebody who `began` to wait for it then; `in_vain` is when that failed last.
    async fn read(&self, began: Instant, in_vain: &mut Option<Instant>) -> Result<bool, PinError> {
        // Whoever waited while another asked in vain does not ask in vain again.
        if in_vain.is_some_and(|at| at > began) {
            return Err(sqlx::Error::PoolTimedOut.into());
        }
        // Before the question: what is decided while it is answered is read the next time.
        let now = self.clock.now();
        let said = Arc::clone(&self.standing().said);
        let read = tokio::time::timeout(PATIENCE, self.pins.since(&said)).await;
        let error = match read.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into())) {
            Ok(fresh) => {
                let has_changed = fresh.is_some();
                self.take_in(fresh, now);
                return Ok(has_changed);
            }
            Err(error) => error,
        };
        *in_vain = Some(Instant::now());
        let mut standing = self.standing();
        // However long the question took: what it is asked about is as old as when the last one that was answered began.
        let is_recent = is_recent(standing.at, self.clock.now());
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

    /// Takes in what the store says at `now`: something else than before, or the same.
    fn take_in(&self, fresh: Option<PinSet>, now: Timestamp) {
        let mut standing = self.standing();
        standing.at = now;
        self.at.store(now.as_unix(), Ordering::Release);
        if std::mem::take(&mut standing.is_away) {
            tracing::info!("the pins can be read again");
        }
        let mut has_changed = standing.doubts.read();
        if let Some(fresh) = fresh {
            standing.said = Arc::new(fresh);
            has_changed = true;
        }
        if has_changed {
            self.take_over(&standing);
        }
    }

    /// What cannot be looked up is not approved.
    fn lose(&self) {
        let mut standing = self.standing();
        if standing.said.version() != 0 {
            tracing::error!("the pins cannot be read; nothing is approved until they can");
            standing.before = Arc::clone(&standing.said);
        }
        standing.is_away = true;
        standing.said = Arc::new(PinSet::nothing());
        self.take_over(&standing);
    }

    /// Takes what `look` shows to be otherwise than approved for not approved until it, or another by the same, is written down.
    pub fn suspect(&self, look: &Look) {
        self.doubt(look, Until::Written);
    }

    /// Who `server` is as it is configured now, where that tells it: our own looks at another one prove nothing of this one.
    pub fn expect(&self, server: &ServerName, identity: Option<Digest>) {
        self.standing().doubts.expect(server, identity);
    }

    /// A number that is another one whenever what is approved may be, doubts included.
    pub fn edition(&self) -> u64 {
        self.editions.load(Ordering::Acquire)
    }

    /// Whether there is anything in [`Keeper::owed`].
    pub fn has_owed(&self) -> bool {
        self.standing().doubts.has_owed()
    }

    /// The servers of which something is not approved until a look at them can be written down.
    pub fn doubted(&self) -> Vec<ServerName> {
        self.standing().doubts.servers()
    }

    /// What callers were shown otherwise than approved, and could not be written down: looks for [`Keeper::observe`], which is to have
    /// them before anybody can call what they are about. Whoever was shown it may never look again, and others may be shown what was
    /// approved.
    pub fn owed(&self) -> Vec<Look> {
        self.standing().doubts.owed()
    }

    /// Takes what a look shows to be otherwise than approved for not approved for now.
    fn doubt(&self, look: &Look, until: Until) {
        let mut standing = self.standing();
        let differs = |offered: &&Offered| {
            let approved = |set: &PinSet| {
                set.get(&look.server, offered.kind, &offered.name).map(|approved| approved.hash)
            };
            match approved(&standing.said) {
                Some(hash) => hash != offered.hash,
                // Without a word about who the server is, nothing of it is approved.
                None if offered.kind == Kind::Identity => true,
                // What was lost may come back as it was.
                None => {
                    standing.said.version() == 0
                        && approved(&standing.before).is_some_and(|hash| hash != offered.hash)
                }
            }
        };
        let differing: Vec<_> = look.offered.iter().filter(differs).collect();
        if differing.is_empty() {
            return;
        }
        standing.doubts.raise(look, &differing, until);
        self.take_over(&standing);
    }

    /// What a look showed is on record, as `observation` says, and read.
    fn settle(&self, look: &Look, observation: &Observation) {
        let mut standing = self.standing();
        if standing.doubts.lift(look, observation) {
            self.take_over(&standing);
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what the store said last count, but for what is in doubt.
    fn take_over(&self, standing: &Standing) {
        let mut set = Arc::clone(&standing.said);
        for (server, kind, name) in standing.doubts.all() {
            let set = Arc::make_mut(&mut set);
            set.doubt(server);
            match kind {
                Kind::Identity => set.remove_server(server),
                _ => set.remove(server, kind, name),
            }
        }
        let version = set.version();
        self.set.store(set);
        self.editions.fetch_add(1, Ordering::Release);
        self.version.send_replace(version);
    }
}

/// What the store answers a look, within [`LOOK_PATIENCE`].
async fn in_time<T>(asked: impl Future<Output = Result<T, PinError>>) -> Result<T, PinError> {
    let answered = tokio::time::timeout(LOOK_PATIENCE, asked).await;
    answered.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into()))
}

/// Whether what was so `at` may be taken for so `now`. Nor is it known what was so at a time that is still to come, after the clock
/// was set back.
fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    at <= now && now.since(at) < LAST_KNOWN
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
