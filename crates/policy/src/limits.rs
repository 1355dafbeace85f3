//! How often and how many at once: by caller, client, server and tool (attacks.md EP-06).
//!
//! Rates follow the generic cell rate algorithm (ITU-T I.371, as a virtual schedule): one number for each key says when
//! the next request would be due, and a burst may run ahead of it. A request must fit every limit that concerns it, or
//! it counts against none.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Keys after which those that are idle are forgotten.
const SWEEP_AT: usize = 10_000;

/// `[limits]`: what one caller, client, server or tool may do. A limit that is written is written whole: what it does not
/// set is not limited.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Each caller, whatever he uses.
    pub caller: Limit,
    /// Each application, whoever uses it.
    pub client: Limit,
    /// Each server, whoever calls it.
    pub server: Limit,
    /// Each caller at each tool.
    pub tool: Limit,
    /// Legacy sessions of one caller at once.
    pub sessions: NonZeroU32,
    /// Streams on which one caller listens at once.
    pub streams: NonZeroU32,
    /// Bytes of one request.
    pub request_bytes: NonZeroUsize,
    /// Bytes of everything that one request brings back, messages on the way and response together. Listening has no end
    /// and therefore no such limit.
    pub answer_bytes: NonZeroUsize,
    /// A Redis server in which several gates count together: `redis://127.0.0.1:6379`, or `rediss://…` (TLS) on another
    /// machine. Rates, requests under way, sessions and streams: what a gate that dies had counts for another 30 seconds. Which
    /// DPoP proofs were used is known there too, if the database is SQLite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// A file with the password of `shared`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_password_file: Option<PathBuf>,
    /// The authorities to trust for `shared` (PEM), instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_ca: Option<PathBuf>,
    /// Let requests pass by this gate's own count alone while `shared` cannot be reached; otherwise they are refused.
    pub dangerous_fail_open: bool,
}

impl Default for LimitsConfig {
    /// Bounds that one person's tools never meet and that keep one runaway client from taking the whole gate.
    fn default() -> Self {
        const fn some(number: u32) -> Option<NonZeroU32> {
            NonZeroU32::new(number)
        }
        let caller = Limit { per_minute: some(1_200_000), burst: some(20_000), concurrent: some(1024) };
        Self {
            caller,
            client: Limit::default(),
            server: Limit::default(),
            tool: Limit::default(),
            sessions: NonZeroU32::MIN.saturating_add(19_999),
            streams: NonZeroU32::MIN.saturating_add(255),
            request_bytes: NonZeroUsize::MIN.saturating_add(4 * 1024 * 1024 - 1),
            answer_bytes: NonZeroUsize::MIN.saturating_add(256 * 1024 * 1024 - 1),
            shared: None,
            shared_password_file: None,
            shared_ca: None,
            dangerous_fail_open: false,
        }
    }
}

/// One limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Requests per minute, spread evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<NonZeroU32>,
    /// Requests that may come at once after a pause; by default a tenth of `per_minute`, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
    /// Requests under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<NonZeroU32>,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A caller.
    Caller,
    /// An application.
    Client,
    /// A server.
    Server,
    /// A caller's sessions.
    Session,
    /// A caller's listening streams.
    Stream,
    /// A caller at a tool.
    Tool,
}

impl Scope {
    /// The word in reasons and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Client => "client",
            Self::Server => "server",
            Self::Session => "session",
            Self::Stream => "stream",
            Self::Tool => "tool",
        }
    }
}

/// What a request counts against. All names are verified or the operator's own.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The user's name, as [`crate::Claims::user`] makes it.
    pub caller: &'a str,
    /// The application.
    pub client: &'a str,
    /// The server, if it is for one.
    pub server: Option<&'a str>,
    /// The tool, if it is a call; the server is then set.
    pub tool: Option<&'a str>,
}

/// Over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// Too many in a time.
    #[error("too many requests of one {}; the next may come in {} ms", .scope.as_str(), .retry_after.as_millis())]
    Rate {
        /// Whose limit.
        scope: Scope,
        /// Until when to wait; a request that waits so long fits this limit if no other comes first.
        retry_after: Duration,
    },
    /// Too many at once.
    #[error("too many requests of one {} at once", .scope.as_str())]
    Concurrent {
        /// Whose limit.
        scope: Scope,
    },
}

impl OverLimit {
    /// For `Retry-After` (RFC 9110 §10.2.3): whole seconds, rounded up, at least 1.
    pub fn retry_after_s(&self) -> u64 {
        match self {
            Self::Rate { retry_after, .. } => {
                u64::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
            }
            Self::Concurrent { .. } => 1,
        }
    }
}

/// What goes on without end and is only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A legacy session.
    Session,
    /// A stream on which a caller listens.
    Stream,
}

/// A rate that is counted elsewhere: the same algorithm, over one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Whose.
    pub scope: Scope,
    /// What is counted, among those of the same scope.
    pub key: Box<str>,
    /// Time between two requests that come evenly.
    pub interval: Duration,
    /// How far a burst may run ahead.
    pub ahead: Duration,
}

/// Room for what is under way at once that is counted elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Whose.
    pub scope: Scope,
    /// What is counted, among those of the same scope.
    pub key: Box<str>,
    /// How many there is room for.
    pub most: NonZeroU32,
}

/// The limits of one node, in memory.
pub struct Limits {
    config: LimitsConfig,
    cells: Arc<Mutex<Cells>>,
}

type Key = (Scope, Box<str>);

#[derive(Default)]
struct Cells {
    by_key: HashMap<Key, Cell>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    /// When the next request is due if all come evenly (the algorithm's theoretical arrival time).
    due: Duration,
    under_way: u32,
}

/// A request under way; it counts until this is dropped.
#[must_use = "the request counts as over when this is dropped"]
pub struct Slot {
    cells: Arc<Mutex<Cells>>,
    keys: Vec<Key>,
}

impl Limits {
    /// Limits that nothing counts against yet.
    pub fn new(config: LimitsConfig) -> Self {
        Self { config, cells: Arc::default() }
    }

    /// Other limits for what this one has counted so far.
    #[must_use]
    pub fn next(&self, config: LimitsConfig) -> Self {
        Self { config, cells: Arc::clone(&self.cells) }
    }

    /// What was configured.
    pub fn config(&self) -> &LimitsConfig {
        &self.config
    }

    /// Lets a request in, or says what it is over.
    ///
    /// `now` is the time since any fixed moment on a clock that does not step back.
    ///
    /// # Errors
    /// [`OverLimit`]: of several, the one that asks for the longest wait. The request counts against no limit then.
    pub fn enter(&self, load: Load<'_>, now: Duration) -> Result<Slot, OverLimit> {
        self.take(self.keyed(load), now)
    }

    /// Lets a request in as far as what is under way at once here is concerned; answers the rates and the rooms that it must
    /// fit besides.
    ///
    /// # Errors
    /// [`OverLimit::Concurrent`].
    pub fn enter_but_rates(
        &self,
        load: Load<'_>,
        now: Duration,
    ) -> Result<(Slot, Vec<Rate>, Vec<Room>), OverLimit> {
        let keyed = self.keyed(load);
        let rooms = keyed.iter().filter_map(|((scope, key), limit)| {
            Some(Room { scope: *scope, key: key.clone(), most: limit.concurrent? })
        });
        let rooms = rooms.collect();
        let rates = keyed.iter().filter_map(|((scope, key), limit)| {
            let (interval, ahead) = limit.pace()?;
            Some(Rate { scope: *scope, key: key.clone(), interval, ahead })
        });
        let rates = rates.collect();
        let places = keyed.into_iter().filter(|(_, limit)| limit.concurrent.is_some());
        let places = places.map(|(key, limit)| (key, Limit { per_minute: None, ..limit })).collect();
        Ok((self.take(places, now)?, rates, rooms))
    }

    /// Counts something that goes on until the answer is dropped.
    ///
    /// # Errors
    /// [`OverLimit::Concurrent`].
    pub fn hold(&self, held: Held, caller: &str, now: Duration) -> Result<Slot, OverLimit> {
        let Room { scope, key, most } = self.room(held, caller);
        let limit = Limit { concurrent: Some(most), ..Limit::default() };
        self.take(vec![((scope, key), limit)], now)
    }

    /// The room that something which goes on must fit besides, where it is counted elsewhere too.
    pub fn room(&self, held: Held, caller: &str) -> Room {
        let (scope, most) = match held {
            Held::Session => (Scope::Session, self.config.sessions),
            Held::Stream => (Scope::Stream, self.config.streams),
        };
        Room { scope, key: caller.into(), most }
    }

    /// The limits that concern a request, each with what it counts.
    fn keyed(&self, load: Load<'_>) -> Vec<(Key, Limit)> {
        let at = load.server.zip(load.tool);
        let tool =
            at.map(|(server, tool)| [load.caller, server, tool].map(|p| format!("{}:{p}", p.len())).concat());
        let wanted = [
            (Scope::Caller, self.config.caller, Some(load.caller)),
            (Scope::Client, self.config.client, Some(load.client)),
            (Scope::Server, self.config.server, load.server),
            (Scope::Tool, self.config.tool, tool.as_deref()),
        ];
        let keyed =
            wanted.into_iter().filter_map(|(scope, limit, key)| Some(((scope, Box::from(key?)), limit)));
        keyed.filter(|(_, l)| l.per_minute.is_some() || l.concurrent.is_some()).collect()
    }

    fn take(&self, keyed: Vec<(Key, Limit)>, now: Duration) -> Result<Slot, OverLimit> {
        let mut cells = lock(&self.cells);
        let mut next = Vec::with_capacity(keyed.len());
        let mut worst: Option<OverLimit> = None;
        for (key, limit) in &keyed {
            let cell = cells.by_key.get(key).copied().unwrap_or_default();
            match limit.admit(key.0, cell, now) {
                Ok(cell) => next.push(cell),
                Err(over) if worst.is_none_or(|w| w.retry_after_s() < over.retry_after_s()) => {
                    worst = Some(over)
                }
                Err(_) => {}
            }
        }
        if let Some(over) = worst {
            return Err(over);
        }
        let keys: Vec<Key> = keyed.into_iter().map(|(key, _)| key).collect();
        for (key, cell) in keys.iter().zip(next) {
            cells.by_key.insert(key.clone(), cell);
        }
        cells.sweep(now);
        Ok(Slot { cells: self.cells.clone(), keys })
    }
}

impl Limit {
    /// The time between two requests that come evenly, and how far a burst may run ahead of them.
    fn pace(&self) -> Option<(Duration, Duration)> {
        let per_minute = self.per_minute?;
        let interval = Duration::from_secs(60) / per_minute.get();
        let burst = self.burst.map_or((per_minute.get() / 10).max(1), NonZeroU32::get);
        Some((interval, interval * (burst - 1)))
    }

    fn admit(&self, scope: Scope, mut cell: Cell, now: Duration) -> Result<Cell, OverLimit> {
        if self.concurrent.is_some_and(|most| cell.under_way >= most.get()) {
            return Err(OverLimit::Concurrent { scope });
        }
        if let Some((interval, ahead)) = self.pace() {
            let due = cell.due.max(now);
            if due > now + ahead {
                return Err(OverLimit::Rate { scope, retry_after: due - now - ahead });
            }
            cell.due = due + interval;
        }
        cell.under_way += 1;
        Ok(cell)
    }
}

impl Cells {
    /// Forgets keys that are as good as new. Runs each time the table has doubled, so that it costs little per request.
    fn sweep(&mut self, now: Duration) {
        if self.by_key.len() >= self.sweep_at.max(SWEEP_AT) {
            self.by_key.retain(|_, cell| cell.under_way > 0 || cell.due > now);
            self.sweep_at = self.by_key.len() * 2;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut cells = lock(&self.cells);
        for key in &self.keys {
            if let Some(cell) = cells.by_key.get_mut(key) {
                cell.under_way = cell.under_way.saturating_sub(1);
            }
        }
    }
}

fn lock(cells: &Mutex<Cells>) -> MutexGuard<'_, Cells> {
    // Nothing in here panics half way through a change.
    cells.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn limits(text: &str) -> Limits {
        Limits::new(toml::from_str(text).unwrap())
    }

    fn load<'a>(caller: &'a str, tool: &'a str) -> Load<'a> {
        Load { caller, client: "agent", server: Some("s"), tool: Some(tool) }
    }

    #[test]
    fn a_burst_passes_and_then_the_even_rate() {
        let limits = limits("caller = { per_minute = 60, burst = 3 }");
        let at = |ms: u64| limits.enter(load("ann", "t"), MS(ms)).map(drop);
        for _ in 0..3 {
            assert_eq!(at(5_000), Ok(()));
        }
        let over = at(5_000).unwrap_err();
        assert_eq!(over, OverLimit::Rate { scope: Scope::Caller, retry_after: MS(1_000) });
        assert!(at(5_999).is_err());
        assert_eq!(at(6_000), Ok(()));
        assert!(at(6_000).is_err());
        assert_eq!(limits.enter(load("bob", "t"), MS(6_000)).map(drop), Ok(()));
    }

    #[test]
    fn over_a_long_time_no_more_than_the_rate_gets_through() {
        let limits = limits("tool = { per_minute = 600, burst = 20 }");
        let passed =
            (0..60_000).step_by(7).filter(|ms| limits.enter(load("ann", "t"), MS(*ms)).is_ok()).count();
        assert!((600..=620).contains(&passed), "{passed}");
    }

    #[test]
    fn a_refused_request_counts_against_no_limit() {
        let limits = limits("caller = { per_minute = 60, burst = 2 }\ntool = { per_minute = 60, burst = 1 }");
        let enter = |tool| limits.enter(load("ann", tool), MS(0)).map(drop);
        assert_eq!(enter("a"), Ok(()));
        assert!(matches!(enter("a"), Err(OverLimit::Rate { scope: Scope::Tool, .. })));
        assert_eq!(enter("b"), Ok(()));
        assert!(matches!(enter("c"), Err(OverLimit::Rate { scope: Scope::Caller, .. })));
    }

    #[test]
    fn places_are_given_back_however_a_request_ends() {
        let limits = limits("server = { concurrent = 2 }");
        let enter = |caller| limits.enter(load(caller, "t"), MS(0));
        let (first, _second) = (enter("ann").ok(), enter("bob").ok());
        assert_eq!(enter("eve").map(drop), Err(OverLimit::Concurrent { scope: Scope::Server }));
        drop(first);
        assert!(enter("eve").is_ok());
    }

    #[test]
    fn names_that_run_together_are_counted_apart() {
        let limits = limits("tool = { per_minute = 1, burst = 1 }");
        let enter = |caller, server, tool| {
            limits.enter(Load { caller, client: "c", server: Some(server), tool: Some(tool) }, MS(0)).is_ok()
        };
        assert!(enter("ab", "c", "d") && enter("a", "bc", "d") && !enter("a", "bc", "d"));
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let limits = limits("caller = { per_minute = 60 }");
        for i in 0..50_000 {
            drop(limits.enter(load(&format!("u{i}"), "t"), MS(i * 10)).unwrap());
        }
        assert!(lock(&limits.cells).by_key.len() <= SWEEP_AT);
    }

    #[test]
    fn what_goes_on_is_counted_for_its_caller_until_it_ends() {
        let limits = limits("sessions = 2\nstreams = 1");
        let hold = |held, caller| limits.hold(held, caller, MS(0));
        let (first, _second) = (hold(Held::Session, "ann"), hold(Held::Session, "ann"));
        let over = OverLimit::Concurrent { scope: Scope::Session };
        assert_eq!(hold(Held::Session, "ann").map(drop), Err(over));
        assert!(hold(Held::Session, "bob").is_ok() && hold(Held::Stream, "ann").is_ok());
        drop(first);
        assert!(hold(Held::Session, "ann").is_ok());
        let room = limits.room(Held::Stream, "ann");
        let most = NonZeroU32::MIN;
        assert_eq!(room, Room { scope: Scope::Stream, key: "ann".into(), most }, "the same, elsewhere");
    }

    #[test]
    fn rates_that_are_counted_elsewhere_come_out_whole() {
        let limits =
            limits("caller = { per_minute = 60, burst = 3, concurrent = 1 }\nserver = { concurrent = 1 }");
        let (slot, rates, rooms) = limits.enter_but_rates(load("ann", "t"), MS(0)).unwrap();
        let caller = Rate { scope: Scope::Caller, key: "ann".into(), interval: MS(1000), ahead: MS(2000) };
        assert_eq!(rates, [caller]);
        let room = |scope, key: &str| Room { scope, key: key.into(), most: NonZeroU32::MIN };
        assert_eq!(rooms, [room(Scope::Caller, "ann"), room(Scope::Server, "s")]);
        assert!(limits.enter_but_rates(load("ann", "t"), MS(0)).is_err(), "places are counted here");
        drop(slot);
        for _ in 0..9 {
            assert!(limits.enter_but_rates(load("ann", "t"), MS(0)).is_ok(), "rates are not");
        }
    }

    #[test]
    fn other_limits_go_on_from_what_was_counted() {
        let before = limits("caller = { per_minute = 60, burst = 1 }");
        assert!(before.enter(load("ann", "t"), MS(0)).is_ok());
        let after = before.next(toml::from_str("caller = { per_minute = 1, burst = 1 }").unwrap());
        assert!(after.enter(load("ann", "t"), MS(500)).is_err());
        assert!(after.enter(load("bob", "t"), MS(500)).is_ok());
    }

    #[test]
    fn retry_after_is_in_whole_seconds() {
        let over = |ms| OverLimit::Rate { scope: Scope::Tool, retry_after: MS(ms) }.retry_after_s();
        assert_eq!((over(1), over(1000), over(1001)), (1, 1, 2));
    }
}
