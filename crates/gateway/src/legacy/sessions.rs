//! The live sessions, and their rows in the store.
//!
//! The conversation is in this process's memory, the authority is the row: a session is live while both are. Whoever shares
//! the store can end one there, and what they ended is closed here within [`ENDED_AGE`]. What happens to a session on the
//! way of a request touches memory alone; rows are brought up to date by [`keep`].

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use bartizan_mcp::{Refusal, code};
use bartizan_model::{CallerKey, Clock};
use bartizan_store::{
    DatabaseError, Digest, Sealer, Sessions as Stored,
    sessions::{End, Session as Row},
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Session;
use crate::{
    Gate, Target,
    limits::{ENDED_AGE, SEEN_EVERY, SESSION_ROWS_KEPT, SESSIONS},
    upstream::stdio::lock,
};

/// How long a node that stops waits for the store, for each of two things that it notes there.
const NOTING: Duration = Duration::from_secs(3);

/// What a session's id holds, sealed.
pub type Number = [u8; 16];

/// What becomes of the requests of a session that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// They end with it.
    AtOnce,
    /// They go on for a while; it takes no more.
    WhenDone,
}

/// The live sessions. A session id is a sealed number, bound to its caller and endpoint: strangers are refused without a
/// look-up, but the authority is what it names (spec.md B-25, B-27, B-30).
pub struct Sessions {
    live: Mutex<HashMap<Number, Arc<Session>>>,
    /// Those that take no more requests and wait for the last answer.
    finishing: Mutex<Vec<Weak<Session>>>,
    sealer: Arc<Sealer>,
    rows: OnceLock<Rows>,
}

/// Where the sessions have rows.
struct Rows {
    stored: Arc<dyn Stored>,
    clock: Arc<dyn Clock>,
    /// Those that are over and not noted yet.
    over: Mutex<Vec<(Digest, End)>>,
    /// One writes them, the others wait: nothing is noted out of turn.
    writing: tokio::sync::Mutex<()>,
}

impl Rows {
    fn over(&self, id: Digest, why: End) {
        lock(&self.over).push((id, why));
    }

    /// Those that were ended in the store are over, whether or not this process ever had them. They are found there again
    /// until that is noted.
    fn ended(&self, ids: &[Digest]) {
        let mut over = lock(&self.over);
        let known: HashSet<_> = over.iter().map(|(id, _)| *id).collect();
        over.extend(ids.iter().filter(|id| !known.contains(id)).map(|id| (*id, End::Stopped)));
    }

    /// Writes the row of a session that is live before and, by `is_live`, after. Otherwise the session is over: what was noted
    /// of it may have been so before there was a row.
    async fn open(&self, row: &Row, is_live: impl FnOnce() -> bool) -> Result<(), Option<DatabaseError>> {
        let done = self.stored.open(row, self.clock.now()).await;
        if done.is_ok() && is_live() {
            return Ok(());
        }
        // One that could not be written may be there all the same.
        self.over(row.id, End::Stopped);
        Err(done.err())
    }

    async fn settle(&self) -> Result<(), DatabaseError> {
        let _one_at_a_time = self.writing.lock().await;
        let over = lock(&self.over).clone();
        if over.is_empty() {
            return Ok(());
        }
        self.stored.close(&over, self.clock.now()).await?;
        // Others only append.
        lock(&self.over).drain(..over.len());
        Ok(())
    }

    /// Notes which sessions were over before this node stopped.
    async fn settle_earlier(&self) -> Result<(), DatabaseError> {
        let _one_at_a_time = self.writing.lock().await;
        let mut over = lock(&self.over).clone();
        over.retain(|(_, why)| *why != End::Stopped);
        self.stored.close(&over, self.clock.now()).await
    }
}

impl Sessions {
    /// No session yet.
    pub fn new(sealer: Arc<Sealer>) -> Self {
        Self { live: Mutex::default(), finishing: Mutex::default(), sealer, rows: OnceLock::new() }
    }

    /// Gives each session a row in `stored` from now on; without, a session is this process's alone. The first one stays.
    pub fn keep_in(&self, stored: Arc<dyn Stored>, clock: Arc<dyn Clock>) {
        let rows = Rows { stored, clock, over: Mutex::default(), writing: tokio::sync::Mutex::default() };
        let _ = self.rows.set(rows);
    }

    fn context<'a>(caller: &'a CallerKey, target: &'a Target) -> [&'a [u8]; 3] {
        [b"session", caller.as_bytes(), target.key()]
    }

    /// Takes a session in; answers its id.
    ///
    /// # Errors
    /// 503 if there are too many, or its row cannot be written, or it was ended meanwhile; the session is over then.
    pub(super) async fn add(&self, session: Session) -> Result<(Arc<Session>, String), Refusal> {
        let id = self.sealer.seal(&Self::context(&session.asker().key, session.target()), &session.number());
        let session = Arc::new(session);
        {
            let mut live = lock(&self.live);
            if live.len() >= SESSIONS {
                return Err(Refusal::new(503, code::LIMIT, "too many sessions are open; try again later"));
            }
            // Before its row is written: whoever goes away meanwhile leaves a session that is swept like others.
            live.insert(session.number(), Arc::clone(&session));
        }
        let Some(rows) = self.rows.get() else { return Ok((session, id)) };
        let is_live = || lock(&self.live).contains_key(&session.number());
        if let Err(error) = rows.open(&row_of(&session), is_live).await {
            match error {
                Some(error) => tracing::error!(%error, "a session cannot be kept, and is not opened"),
                None => tracing::info!("a session was ended before it was opened"),
            }
            self.end(&session, End::Stopped);
            return Err(Refusal::new(503, code::LIMIT, "the session cannot be kept now; try again later"));
        }
        session.keep();
        Ok((session, id))
    }

    /// The live session that `id` names, for this caller at this endpoint.
    pub fn find(&self, id: &str, caller: &CallerKey, target: &Target) -> Option<Arc<Session>> {
        let number: Number = self.sealer.open(&Self::context(caller, target), id)?.try_into().ok()?;
        let session = lock(&self.live).get(&number).cloned()?;
        session.touch();
        Some(session)
    }

    /// Ends a session, for this reason; its id is unknown from now on.
    pub fn end(&self, session: &Session, why: End) {
        if let Some(session) = lock(&self.live).remove(&session.number()) {
            self.over(&session, why, Manner::AtOnce);
        }
    }

    /// Ends sessions that nobody used for a while, and those for which `has_ended` has a reason.
    pub fn sweep(&self, has_ended: impl Fn(&Session) -> Option<(End, Manner)>) {
        let ended: Vec<_> = {
            let mut live = lock(&self.live);
            let idle = (End::Idle, Manner::AtOnce);
            let reason = |s: &Session| has_ended(s).or_else(|| s.is_idle().then_some(idle));
            let ended: Vec<_> = live.values().filter_map(|s| Some((Arc::clone(s), reason(s)?))).collect();
            ended.iter().for_each(|(s, _)| drop(live.remove(&s.number())));
            live.shrink_to_fit();
            live.values().for_each(|s| s.hub().sweep());
            ended
        };
        ended.iter().for_each(|(session, (why, manner))| self.over(session, *why, *manner));
        let finishing: Vec<_> = lock(&self.finishing).iter().filter_map(Weak::upgrade).collect();
        let is_cut = |session: &Session| matches!(has_ended(session), Some((_, Manner::AtOnce)));
        finishing.iter().filter(|session| is_cut(session)).for_each(|session| session.end());
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Ends them all, for this node stops.
    pub fn end_all(&self, manner: Manner) {
        let all: Vec<_> = lock(&self.live).drain().map(|(_, s)| s).collect();
        all.iter().for_each(|s| self.over(s, End::Stopped, manner));
        if manner == Manner::AtOnce {
            let finishing = std::mem::take(&mut *lock(&self.finishing));
            finishing.iter().filter_map(Weak::upgrade).for_each(|session| session.end());
        }
    }

    fn over(&self, session: &Arc<Session>, why: End, manner: Manner) {
        match manner {
            Manner::AtOnce => session.end(),
            Manner::WhenDone => {
                let mut finishing = lock(&self.finishing);
                finishing.retain(|session| session.strong_count() > 0);
                finishing.push(Arc::downgrade(session));
                drop(finishing);
                session.finish();
            }
        }
        if let Some(rows) = self.rows.get() {
            rows.over(digest(session), why);
        }
    }

    /// Notes in the rows which sessions are over.
    ///
    /// # Errors
    /// [`DatabaseError`]; what is not noted is the next time.
    pub async fn settle(&self) -> Result<(), DatabaseError> {
        match self.rows.get() {
            Some(rows) => rows.settle().await,
            None => Ok(()),
        }
    }

    /// Notes in the rows that all sessions of this node are over, for it stops. What cannot be noted within seconds is when
    /// the node begins again.
    pub async fn settle_all(&self) {
        self.settle_all_within(NOTING).await;
    }

    async fn settle_all_within(&self, limit: Duration) {
        let Some(rows) = self.rows.get() else { return };
        let earlier = timeout(limit, rows.settle_earlier()).await;
        let all = timeout(limit, rows.stored.close_all(End::Stopped, rows.clock.now())).await;
        for done in [earlier, all.map(|done| done.map(drop))] {
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "that the sessions are over could not be noted"),
                Err(_) => tracing::warn!("that the sessions are over could not be noted in time"),
            }
        }
    }

    /// Ends the sessions that somebody ended in the store.
    async fn close_ended(&self) -> Result<(), DatabaseError> {
        let Some(rows) = self.rows.get() else { return Ok(()) };
        let ended = rows.stored.ended().await?;
        if ended.is_empty() {
            return Ok(());
        }
        self.end_those(&ended);
        rows.ended(&ended);
        rows.settle().await
    }

    /// Notes which sessions were used since `then`, and ends those whose rows are not live.
    async fn note_seen(&self, then: Instant) -> Result<(), DatabaseError> {
        let Some(rows) = self.rows.get() else { return Ok(()) };
        let used: Vec<_> = {
            let live = lock(&self.live);
            live.values().filter(|s| s.is_kept() && s.is_used_since(then)).map(|s| digest(s)).collect()
        };
        let gone = rows.stored.seen(&used, rows.clock.now()).await?;
        self.end_those(&gone);
        Ok(())
    }

    fn end_those(&self, ids: &[Digest]) {
        if ids.is_empty() {
            return;
        }
        let ids: HashSet<_> = ids.iter().collect();
        let all: Vec<_> = lock(&self.live).values().cloned().collect();
        for session in all.iter().filter(|s| ids.contains(&digest(s))) {
            self.end(session, End::Stopped);
        }
    }
}

/// Keeps the rows of `gate`'s sessions up to date, and closes what others end there, until it is aborted.
///
/// What cannot be read is said and tried again. Nothing is served meanwhile: whoever is cut off is read from the same store,
/// and must have been read a moment ago.
pub async fn keep(gate: Arc<Gate>) {
    let sessions = gate.sessions();
    let Some(rows) = sessions.rows.get() else { return };
    let mut ticks = interval(ENDED_AGE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut tidied) = (Instant::now(), None::<Instant>);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let mut done = sessions.settle().await.and(sessions.close_ended().await);
        if done.is_ok() && now.duration_since(seen) >= SEEN_EVERY {
            done = sessions.note_seen(seen).await;
            if done.is_ok() {
                seen = now;
            }
        }
        if done.is_ok() && tidied.is_none_or(|then| now.duration_since(then) >= SESSION_ROWS_KEPT) {
            done = rows.stored.tidy(rows.clock.now()).await.map(drop);
            tidied = Some(now);
        }
        if let Err(error) = done {
            tracing::error!(%error, "the rows of sessions cannot be brought up to date");
        }
    }
}

fn digest(session: &Session) -> Digest {
    Digest::of(&session.number())
}

fn row_of(session: &Session) -> Row {
    Row {
        id: digest(session),
        caller: session.asker().caller.as_ref().clone(),
        server: match session.target() {
            Target::Server(name) => Some(name.clone()),
            Target::Merged => None,
        },
        revision: session.revision().name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use bartizan_model::{Caller, ManualClock, Timestamp};

    use super::*;

    /// A store of one node that can refuse to be written, or never answer.
    #[derive(Default)]
    struct Double {
        /// Those with a row, and why each was closed.
        rows: Mutex<Vec<(Digest, Option<End>)>>,
        /// Those that somebody ended.
        ended: Mutex<Vec<Digest>>,
        is_full: AtomicBool,
        hangs: AtomicBool,
    }

    impl Double {
        async fn written(&self) -> Result<(), DatabaseError> {
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.is_full.load(Ordering::Relaxed) { Err(DatabaseError::Value("id")) } else { Ok(()) }
        }
    }

    #[async_trait]
    impl Stored for Double {
        async fn begin(&self, _: Timestamp) -> Result<u64, DatabaseError> {
            Ok(0)
        }

        async fn open(&self, session: &Row, _: Timestamp) -> Result<(), DatabaseError> {
            self.written().await?;
            self.rows.lock().unwrap().push((session.id, None));
            Ok(())
        }

        async fn seen(&self, _: &[Digest], _: Timestamp) -> Result<Vec<Digest>, DatabaseError> {
            Ok(Vec::new())
        }

        async fn ended(&self) -> Result<Vec<Digest>, DatabaseError> {
            let (rows, ended) = (self.rows.lock().unwrap(), self.ended.lock().unwrap());
            let open = rows.iter().filter(|(id, why)| why.is_none() && ended.contains(id));
            Ok(open.map(|(id, _)| *id).collect())
        }

        async fn close(&self, sessions: &[(Digest, End)], _: Timestamp) -> Result<(), DatabaseError> {
            self.written().await?;
            let mut rows = self.rows.lock().unwrap();
            for (id, end) in sessions {
                let open = rows.iter_mut().filter(|(row, why)| row == id && why.is_none());
                open.for_each(|(_, why)| *why = Some(*end));
            }
            Ok(())
        }

        async fn close_all(&self, end: End, _: Timestamp) -> Result<u64, DatabaseError> {
            self.written().await?;
            let mut rows = self.rows.lock().unwrap();
            rows.iter_mut().for_each(|(_, why)| *why = why.or(Some(end)));
            Ok(rows.len() as u64)
        }

        async fn tidy(&self, _: Timestamp) -> Result<u64, DatabaseError> {
            Ok(0)
        }
    }

    fn scene() -> (Sessions, Arc<Double>) {
        let sessions = Sessions::new(Arc::new(Sealer::new(&[7; 32]).unwrap()));
        let stored = Arc::new(Double::default());
        sessions.keep_in(stored.clone(), Arc::new(ManualClock::new(Timestamp::from_unix(1_800_000_000))));
        (sessions, stored)
    }

    fn row(number: u8) -> Row {
        let caller = Caller::new("https://id.example", "ann", "editor");
        Row { id: Digest::of(&[number]), caller, server: None, revision: "2025-11-25".to_owned() }
    }

    #[tokio::test]
    async fn a_session_that_ended_while_its_row_was_written_leaves_no_open_row() {
        let (sessions, stored) = scene();
        let rows = sessions.rows.get().unwrap();
        rows.open(&row(0), || true).await.unwrap();
        // Swept, and noted, before there is a row.
        rows.over(row(1).id, End::Idle);
        sessions.settle().await.unwrap();
        assert!(rows.open(&row(1), || false).await.unwrap_err().is_none(), "its id is not given out");
        sessions.settle().await.unwrap();
        let kept = stored.rows.lock().unwrap().clone();
        assert_eq!(kept, [(row(0).id, None), (row(1).id, Some(End::Stopped))]);
        stored.is_full.store(true, Ordering::Relaxed);
        assert!(rows.open(&row(2), || true).await.unwrap_err().is_some());
    }

    #[tokio::test]
    async fn what_was_ended_in_the_store_is_noted_once_however_often_that_fails() {
        let (sessions, stored) = scene();
        let rows = sessions.rows.get().unwrap();
        for number in 0..3 {
            rows.open(&row(number), || true).await.unwrap();
        }
        rows.over(row(0).id, End::Client);
        *stored.ended.lock().unwrap() = vec![row(0).id, row(1).id];
        stored.is_full.store(true, Ordering::Relaxed);
        for _ in 0..5 {
            sessions.close_ended().await.unwrap_err();
        }
        assert_eq!(*lock(&rows.over), [(row(0).id, End::Client), (row(1).id, End::Stopped)]);
        stored.is_full.store(false, Ordering::Relaxed);
        sessions.close_ended().await.unwrap();
        assert!(lock(&rows.over).is_empty());
        assert!(stored.ended().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_node_that_stops_closes_every_row_and_waits_for_no_store_that_hangs() {
        let (sessions, stored) = scene();
        let rows = sessions.rows.get().unwrap();
        for number in 0..3 {
            rows.open(&row(number), || true).await.unwrap();
        }
        rows.over(row(0).id, End::Client);
        rows.over(row(1).id, End::Stopped);
        stored.hangs.store(true, Ordering::Relaxed);
        sessions.settle_all_within(Duration::from_millis(10)).await;
        assert!(stored.rows.lock().unwrap().iter().all(|(_, why)| why.is_none()));
        stored.hangs.store(false, Ordering::Relaxed);
        sessions.settle_all().await;
        let why: Vec<_> = stored.rows.lock().unwrap().iter().map(|(_, why)| *why).collect();
        assert_eq!(why, [Some(End::Client), Some(End::Stopped), Some(End::Stopped)]);
    }
}
