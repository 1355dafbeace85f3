//! The processes of a server: how many may run, which are shared, and when they stop.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bartizan_mcp::{Era, Message, json::Value};
use bartizan_model::{Caller, CallerKey};
use bartizan_sandbox::Launch;
use tokio::time::Instant;

use super::{Server, Transport};
use crate::{
    Asker,
    call::own_info,
    legacy::{Link, Whence, audience, greet},
    limits::{CRASH_REST, CRASHES, OUTDATED_GRACE, PROCESS_IDLE, PROCESSES, PROCESSES_OF_CALLER},
    program,
    starts::Running,
    upstream::{
        Failure,
        scrub::Scrub,
        stdio::{Process, lock},
    },
};

/// How soon a process is stopped that starts while all are.
const STOP_AGAIN: Duration = Duration::from_millis(200);

/// A process for modern requests.
pub(super) struct Pooled {
    pub(super) process: Arc<Process>,
    pub(super) used: Instant,
}

/// Whose such a process is, and the digest of what its client can do.
pub(super) type PoolKey = (CallerKey, [u8; 32]);

/// A place for one, which whoever starts it holds: nobody else waits for that.
pub(super) type Berth = Arc<tokio::sync::Mutex<Option<Pooled>>>;

/// The processes for modern requests.
pub(super) type Pool = Mutex<HashMap<PoolKey, Berth>>;

/// How many processes run for which caller.
pub(super) type Shares = Arc<Mutex<HashMap<CallerKey, usize>>>;

impl Server {
    /// Starts a process, if the caps allow it; it counts for `asker` if it is for them alone.
    ///
    /// # Errors
    /// [`Failure::Limit`] at a cap, or while a server that keeps crashing, for them or for many, rests.
    pub async fn start(
        &self,
        launch: &Launch,
        secrets: &Scrub,
        era: Era,
        asker: Option<&Asker>,
    ) -> Result<Arc<Process>, Failure> {
        let whose = asker.map(|asker| &*asker.caller);
        let crashes = self.crashes.counted_for(whose);
        if crashes >= CRASHES {
            let rest = CRASH_REST.as_secs();
            return Err(Failure::Limit(format!(
                "its process ended {crashes} times in the last {rest} seconds; it is left alone for that long"
            )));
        }
        if crashes > 0 {
            tokio::time::sleep(Duration::from_millis(100u64 << crashes.min(6))).await;
        }
        // Every client of a laptop's owner is the owner, who takes from nobody.
        let sharing = asker.filter(|asker| *asker.caller != Caller::local_owner());
        let running = self.starts.count()?;
        let slot = Slot::take(&self.processes, &self.shares, sharing.map(|asker| &asker.key), running)?;
        let turn = self.starts.begin().await;
        // Last: what it runs can be exchanged for as long as anything is waited for after this (attacks.md SC-01).
        if let Some(keeper) = &self.keeper {
            program::clear(&self.settings, keeper).await?;
        }
        let voice = Arc::clone(&self.voice);
        let process = Process::start(self.name(), launch, era, secrets.clone(), (slot, turn), voice)
            .inspect_err(|_| self.note_crash(asker))?;
        let mut live = lock(&self.live);
        live.retain(|process| process.strong_count() > 0);
        live.push(Arc::downgrade(&process));
        Ok(process)
    }

    /// Counts a process that ended by itself or never answered, and was `whose` alone.
    pub fn note_crash(&self, whose: Option<&Asker>) {
        self.crashes.note(whose.map(|asker| &*asker.caller));
    }

    /// Counts a process that is found dead. Whoever asks again and again for one that cannot be started now, since they have as
    /// many as they may, must not have the server left alone for everybody.
    pub fn note_end(&self, process: &Process, whose: Option<&Asker>) {
        if process.count_end() {
            self.note_crash(whose);
        }
    }

    /// The process that all legacy sessions share, and its answer to our handshake: no client's own capabilities
    /// are true of all of them, so it is told of none. `hello` says which version to ask for.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn shared_process(self: &Arc<Self>, hello: &str) -> Result<(Arc<Process>, Message), Failure> {
        let (me, hello) = (Arc::clone(self), hello.to_owned());
        // A task of its own: a client that gives up early must not stop a slow server from ever starting.
        let finding = tokio::spawn(async move { me.find_shared_process(&hello).await });
        finding.await.unwrap_or_else(|_| Err(Failure::Lost("starting it failed".into())))
    }

    async fn find_shared_process(&self, hello: &str) -> Result<(Arc<Process>, Message), Failure> {
        let Transport::Command { launch, secrets } = &self.settings.transport else {
            return Err(Failure::Limit("only commands can be shared".into()));
        };
        let mut common = self.common.lock().await;
        if let Some((process, answer)) = &*common
            && process.ended().is_none()
        {
            return Ok((Arc::clone(process), answer.clone()));
        }
        if let Some((process, _)) = common.take() {
            self.note_end(&process, None);
        }
        let process = self.start(launch, secrets, Era::Legacy, None).await?;
        self.share(Era::Legacy, &process);
        let (listeners, me) = (Arc::clone(&self.listeners), Arc::downgrade(&process));
        process.set_sink(Arc::new(move |message| {
            // It is about to be stopped: nobody needs it any more.
            let Some(process) = me.upgrade() else { return };
            let all: Vec<_> = lock(&listeners).iter().filter_map(Weak::upgrade).collect();
            let whence = Whence::Shared(process);
            audience(all, &message).iter().for_each(|link| link.unasked(&message, &whence));
        }));
        let version = Value::of(hello).get("protocolVersion").map_or("\"2025-11-25\"", Value::text);
        let ours =
            format!(r#"{{"protocolVersion":{version},"capabilities":{{}},"clientInfo":{}}}"#, own_info());
        let answer = greet(&process, &ours).await.inspect_err(|_| self.note_crash(None))?;
        if answer.result().is_some() {
            process.send(bartizan_mcp::message::notification("notifications/initialized", None)).await?;
            *common = Some((Arc::clone(&process), answer.clone()));
        }
        Ok((process, answer))
    }

    /// Has `link` told what the shared process says to everybody.
    pub fn attach_shared(&self, link: &Arc<Link>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|l| l.strong_count() > 0 && l.as_ptr() != Arc::as_ptr(link));
        listeners.push(Arc::downgrade(link));
    }

    /// Whether a session of the shared process subscribed to `uri`.
    pub fn is_listened_to(&self, uri: &str) -> bool {
        let all: Vec<_> = lock(&self.listeners).iter().filter_map(Weak::upgrade).collect();
        all.iter().any(|link| link.listens_to(uri))
    }

    /// The place for the process of `key`.
    pub(super) fn berth(&self, key: &PoolKey) -> Berth {
        Arc::clone(lock(&self.pool).entry(key.clone()).or_default())
    }

    /// Takes a place away in which nothing was started, if nobody else waits for it.
    pub(super) fn vacate(&self, key: &PoolKey, berth: &Berth) {
        let mut pool = lock(&self.pool);
        // The pool's and the caller's.
        if Arc::strong_count(berth) <= 2 && pool.get(key).is_some_and(|now| Arc::ptr_eq(now, berth)) {
            pool.remove(key);
        }
    }

    /// Lets go of every process that is not a session's own: those end with their sessions, these with what is under way there.
    pub async fn let_go(&self) {
        lock(&self.pool).clear();
        self.common.lock().await.take();
    }

    /// Stops every process, whatever is under way there.
    pub async fn stop_all(&self) {
        // Whoever waits for the greeting of one holds the place of the shared process meanwhile, and may be about to start it.
        let mut gone = std::pin::pin!(self.let_go());
        loop {
            self.stop_live();
            tokio::select! {
                () = &mut gone => break,
                () = tokio::time::sleep(STOP_AGAIN) => {}
            }
        }
        self.stop_live();
    }

    /// Stops every process that runs now.
    pub fn stop_live(&self) {
        lock(&self.live).drain(..).filter_map(|process| process.upgrade()).for_each(|process| process.stop());
    }

    /// Has what is asked from now on asked of processes that start from now on; those of before end with what is under way there.
    pub async fn renew(&self) {
        *lock(&self.renewed) = Some(Instant::now());
        self.let_go().await;
    }

    /// Whether the next request of a session in `process` goes to another.
    pub fn is_to_be_left(&self, process: &Process) -> bool {
        let renewed = lock(&self.renewed).filter(|renewed| process.began() <= *renewed);
        is_to_be_left(process.busy(), renewed.map(|renewed| renewed.elapsed()))
    }

    /// Stops processes that nobody used for a while.
    pub fn stop_idle(&self) {
        lock(&self.pool).retain(|_, berth| {
            // Somebody is about to use it, or to start it.
            if Arc::strong_count(berth) > 1 {
                return true;
            }
            let Ok(pooled) = berth.try_lock() else { return true };
            pooled.as_ref().is_some_and(|pooled| {
                let idle = pooled.used.elapsed() > PROCESS_IDLE && pooled.process.busy() == 0;
                !idle && pooled.process.ended().is_none()
            })
        });
    }
}

/// Whether a process of so many requests is left, which is outdated since then: started before its server was approved as something
/// else. At once if it has nothing to do, and soon in any case: everybody's may never have nothing to do.
fn is_to_be_left(busy: usize, outdated: Option<Duration>) -> bool {
    outdated.is_some_and(|outdated| busy == 0 || outdated >= OUTDATED_GRACE)
}

/// One of a server's processes, counted while it runs, and in its caller's share.
pub struct Slot {
    count: Arc<AtomicUsize>,
    share: Option<(Shares, CallerKey)>,
    _running: Running,
}

impl Slot {
    fn take(
        count: &Arc<AtomicUsize>,
        shares: &Shares,
        caller: Option<&CallerKey>,
        running: Running,
    ) -> Result<Self, Failure> {
        let is_free = count.fetch_add(1, Ordering::Relaxed) < PROCESSES;
        let mut slot = Self { count: Arc::clone(count), share: None, _running: running };
        if !is_free {
            return Err(Failure::Limit(format!(
                "{PROCESSES} of its processes are running, which is the most"
            )));
        }
        if let Some(caller) = caller {
            let mut taken = lock(shares);
            let share = taken.entry(caller.clone()).or_default();
            if *share >= PROCESSES_OF_CALLER {
                return Err(Failure::Limit(format!(
                    "{PROCESSES_OF_CALLER} of its processes are running for you, which is the most"
                )));
            }
            *share += 1;
            slot.share = Some((Arc::clone(shares), caller.clone()));
        }
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let Some((shares, caller)) = &self.share else { return };
        let mut taken = lock(shares);
        if let Some(share) = taken.get_mut(caller) {
            *share -= 1;
            if *share == 0 {
                taken.remove(caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::starts::Starts;

    #[test]
    fn sessions_leave_an_outdated_process_however_busy_it_is() {
        let soon = OUTDATED_GRACE - Duration::from_secs(1);
        for (busy, outdated, is_left) in [
            (0, None, false),
            (3, None, false),
            (0, Some(Duration::ZERO), true),
            (3, Some(soon), false),
            (3, Some(OUTDATED_GRACE), true),
        ] {
            assert_eq!(is_to_be_left(busy, outdated), is_left, "{busy} {outdated:?}");
        }
    }

    #[test]
    fn one_caller_leaves_processes_for_others() {
        let (count, shares, starts) = (Arc::default(), Shares::default(), Starts::default());
        let take = |caller| Slot::take(&count, &shares, caller, starts.count().unwrap());
        let key = |name: &str, client: &str| Caller::new("https://id.example", name, client).key();
        let (ann, other) = (key("ann", "editor"), key("ann", "agent"));
        let mut hers: Vec<_> = (0..PROCESSES_OF_CALLER).map(|_| take(Some(&ann)).unwrap()).collect();
        assert!(take(Some(&ann)).is_err(), "her share");
        let others = take(Some(&other)).unwrap();
        hers.pop();
        hers.push(take(Some(&ann)).unwrap());
        let rest = PROCESSES - PROCESSES_OF_CALLER - 1;
        let rest: Vec<_> = (0..rest).map(|_| take(None).unwrap()).collect();
        assert!(take(Some(&other)).is_err(), "there are no more for anybody");
        drop((hers, others, rest));
        assert_eq!((count.load(Ordering::Relaxed), lock(&shares).len()), (0, 0));
    }
}
