//! The live sessions, and their rows in the store.
//!
//! The conversation is in this process's memory, the authority is the row: a session is live while both are. Whoever shares
//! the store can end one there, and what they ended is closed here within [`ENDED_AGE`]. What happens to a session on the
//! way of a request touches memory alone; rows are brought up to date by [`keep`].

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock},
};

use bartizan_mcp::{Refusal, code};
use bartizan_model::{CallerKey, Clock};
use bartizan_store::{
    DatabaseError, Digest, Sealer, Sessions as Stored,
    sessions::{End, Session as Row},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Session;
use crate::{
    Gate, Target,
    limits::{ENDED_AGE, SEEN_EVERY, SESSION_ROWS_KEPT, SESSIONS},
    upstream::stdio::lock,
};

/// What a session's id holds, sealed.
pub type Number = [u8; 16];

/// The live sessions. A session id is a sealed number, bound to its caller and endpoint: strangers are refused without a
/// look-up, but the authority is what it names (spec.md B-25, B-27, B-30).
pub struct Sessions {
    live: Mutex<HashMap<Number, Arc<Session>>>,
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

impl Sessions {
    /// No session yet.
    pub fn new(sealer: Arc<Sealer>) -> Self {
        Self { live: Mutex::default(), sealer, rows: OnceLock::new() }
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
    /// 503 if there are too many, or its row cannot be written; the session is over then.
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
        if let Err(error) = rows.stored.open(&row_of(&session), rows.clock.now()).await {
            tracing::error!(%error, "a session cannot be kept, and is not opened");
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
        if lock(&self.live).remove(&session.number()).is_some() {
            self.over(session, why);
        }
    }

    /// Ends sessions that nobody used for a while, and those for which `has_ended` has a reason.
    pub fn sweep(&self, has_ended: impl Fn(&Session) -> Option<End>) {
        let ended: Vec<_> = {
            let mut live = lock(&self.live);
            let reason = |s: &Session| has_ended(s).or_else(|| s.is_idle().then_some(End::Idle));
            let ended: Vec<_> = live.values().filter_map(|s| Some((Arc::clone(s), reason(s)?))).collect();
            ended.iter().for_each(|(s, _)| drop(live.remove(&s.number())));
            live.shrink_to_fit();
            live.values().for_each(|s| s.hub().sweep());
            ended
        };
        ended.iter().for_each(|(session, why)| self.over(session, *why));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Ends them all, for this node stops.
    pub fn end_all(&self) {
        let all: Vec<_> = lock(&self.live).drain().map(|(_, s)| s).collect();
        all.iter().for_each(|s| self.over(s, End::Stopped));
    }

    fn over(&self, session: &Session, why: End) {
        session.end();
        if let Some(rows) = self.rows.get() {
            lock(&rows.over).push((digest(session), why));
        }
    }

    /// Notes in the rows which sessions are over.
    ///
    /// # Errors
    /// [`DatabaseError`]; what is not noted is the next time.
    pub async fn settle(&self) -> Result<(), DatabaseError> {
        let Some(rows) = self.rows.get() else { return Ok(()) };
        let _one_at_a_time = rows.writing.lock().await;
        let over = lock(&rows.over).clone();
        if over.is_empty() {
            return Ok(());
        }
        rows.stored.close(&over, rows.clock.now()).await?;
        // Others only append.
        lock(&rows.over).drain(..over.len());
        Ok(())
    }

    /// Ends the sessions that somebody ended in the store.
    async fn close_ended(&self) -> Result<(), DatabaseError> {
        let Some(rows) = self.rows.get() else { return Ok(()) };
        let ended = rows.stored.ended().await?;
        if ended.is_empty() {
            return Ok(());
        }
        // Those that are over here are noted so, whether or not this process ever had them.
        lock(&rows.over).extend(ended.iter().map(|id| (*id, End::Stopped)));
        self.end_those(&ended);
        self.settle().await
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
