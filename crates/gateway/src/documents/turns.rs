//! Whose turn it is to use one of a few places, so that one server's work never keeps another server's waiting.
//!
//! A server never holds the last place, and a place that falls free goes to the waiting server that has used least
//! (start-time fair queueing; Goyal, Vin and Cheng, SIGCOMM 1996): one that comes seldom waits for at most the work that is
//! under way, however much others have queued. Within a server it is first come, first served.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bartizan_model::ServerName;
use tokio::{sync::oneshot, time::Instant};

/// What a turn counts at least, so that many small ones count too.
const LEAST: Duration = Duration::from_millis(1);

/// A few places, and who waits for one.
pub struct Turns {
    places: usize,
    /// How many of one server may wait.
    waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// One for each server that ever came; the configuration bounds them.
    lines: HashMap<ServerName, Line>,
    taken: usize,
    /// How much had been used by the server whose turn came last, at that moment.
    clock: Duration,
    arrivals: u64,
}

/// One server's part.
#[derive(Default)]
struct Line {
    taken: usize,
    /// How long it has used places, or what [`State::clock`] was when it last came from nowhere, if that is more: who did
    /// not come for a while has saved up nothing.
    used: Duration,
    /// By arrival.
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
}

/// The right to use one place, until it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    server: ServerName,
    since: Instant,
}

impl Turns {
    /// `places`, for which at most `waiting` of one server may wait.
    pub fn new(places: usize, waiting: usize) -> Arc<Self> {
        Arc::new(Self { places, waiting, state: Mutex::default() })
    }

    /// Waits until it is `server`'s turn. None if too many of it wait already. Dropping the future gives up the wait.
    pub async fn take(self: &Arc<Self>, server: &ServerName) -> Option<Turn> {
        let turn = {
            let mut state = self.state();
            let (clock, arrival) = (state.clock, state.arrivals);
            state.arrivals += 1;
            let line = state.lines.entry(server.clone()).or_default();
            // Who gave up waits no more.
            line.waiting.retain(|(_, who)| !who.is_closed());
            if line.waiting.len() >= self.waiting {
                return None;
            }
            if line.taken == 0 && line.waiting.is_empty() {
                line.used = line.used.max(clock);
            }
            let (give, turn) = oneshot::channel();
            line.waiting.push_back((arrival, give));
            turn
        };
        self.pass_on();
        turn.await.ok()
    }

    /// Gives free places to those whose turn it is.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let (who, turn) = {
                let mut state = self.state();
                if state.taken >= self.places {
                    return;
                }
                let most = self.places.saturating_sub(1).max(1);
                for line in state.lines.values_mut() {
                    while line.waiting.front().is_some_and(|(_, who)| who.is_closed()) {
                        line.waiting.pop_front();
                    }
                }
                let next = state
                    .lines
                    .iter_mut()
                    .filter(|(_, line)| line.taken < most)
                    .filter_map(|(server, line)| Some((line.used, line.waiting.front()?.0, server, line)))
                    .min_by_key(|(used, arrival, ..)| (*used, *arrival));
                let Some((used, _, server, line)) = next else { return };
                let Some((_, who)) = line.waiting.pop_front() else { return };
                line.taken += 1;
                let turn = Turn { turns: Arc::clone(self), server: server.clone(), since: Instant::now() };
                state.taken += 1;
                state.clock = state.clock.max(used);
                (who, turn)
            };
            // To whoever gave up at this very moment it comes back, and is passed on.
            drop(who.send(turn));
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.state();
            state.taken = state.taken.saturating_sub(1);
            if let Some(line) = state.lines.get_mut(&self.server) {
                line.taken = line.taken.saturating_sub(1);
                line.used = line.used.saturating_add(self.since.elapsed().max(LEAST));
            }
        }
        self.turns.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use futures::{FutureExt, poll};

    use super::*;

    fn name(of: &str) -> ServerName {
        of.parse().unwrap()
    }

    #[tokio::test]
    async fn a_server_never_holds_the_last_place() {
        let turns = Turns::new(2, 8);
        let flood = name("flood");
        let _first = turns.take(&flood).await.unwrap();
        let mut second = pin!(turns.take(&flood));
        assert!(poll!(second.as_mut()).is_pending(), "one place stays free for others");
        let neighbour = turns.take(&name("neighbour")).now_or_never().flatten();
        assert!(neighbour.is_some(), "a neighbour does not wait");
        drop(neighbour);
        assert!(poll!(second.as_mut()).is_pending(), "what the neighbour left stays free too");
    }

    #[tokio::test]
    async fn one_place_serves_everybody_in_turn() {
        let turns = Turns::new(1, 8);
        let _only = turns.take(&name("a")).await.unwrap();
        assert!(poll!(pin!(turns.take(&name("a")))).is_pending());
    }

    #[tokio::test]
    async fn who_comes_seldom_is_before_what_others_queued() {
        let turns = Turns::new(2, 8);
        let ready = |server: &ServerName| {
            let (turns, server) = (Arc::clone(&turns), server.clone());
            async move { (server.clone(), turns.take(&server).await.unwrap()) }.boxed()
        };
        // Three that flood keep both places busy, and each has more to come.
        let floods = ["a", "b", "c"].map(name);
        let mut waiting: Vec<_> = (0..6).flat_map(|_| floods.iter().map(&ready)).collect();
        let (mut held, mut order) = (VecDeque::new(), Vec::new());
        let honest = name("honest");
        for step in 0..12 {
            if step == 6 {
                waiting.push(ready(&honest));
            }
            let mut left = Vec::new();
            for mut one in waiting {
                match poll!(one.as_mut()) {
                    Poll::Ready((server, turn)) => {
                        order.push(server);
                        held.push_back(turn);
                    }
                    Poll::Pending => left.push(one),
                }
            }
            waiting = left;
            drop(held.pop_front());
        }
        let at = order.iter().position(|server| *server == honest);
        // Whose turn it was already, one on each place, and one that had used as little.
        assert!(at.is_some_and(|at| at <= 9), "{order:?}");
        for server in &floods {
            let count = order.iter().filter(|who| *who == server).count();
            assert!((3..=5).contains(&count), "those that flood share alike: {order:?}");
        }
    }

    #[tokio::test]
    async fn those_who_wait_are_counted_and_who_gave_up_is_not() {
        let turns = Turns::new(2, 2);
        let server = name("s");
        let first = turns.take(&server).await.unwrap();
        {
            let (mut one, mut two) = (pin!(turns.take(&server)), pin!(turns.take(&server)));
            assert!(poll!(one.as_mut()).is_pending() && poll!(two.as_mut()).is_pending());
            assert!(matches!(poll!(pin!(turns.take(&server))), Poll::Ready(None)), "the line is full");
        }
        let mut late = pin!(turns.take(&server));
        assert!(poll!(late.as_mut()).is_pending(), "two gave up, so there is room in the line");
        drop(first);
        assert!(late.now_or_never().flatten().is_some(), "and nobody who gave up holds the place");
    }

    #[tokio::test]
    async fn whoever_gives_up_with_the_turn_in_hand_leaves_it_to_the_next() {
        let turns = Turns::new(2, 8);
        let server = name("s");
        let first = turns.take(&server).await.unwrap();
        let mut gone = Box::pin(turns.take(&server));
        assert!(poll!(gone.as_mut()).is_pending());
        drop(first);
        // The turn was sent to it, and it never looked.
        drop(gone);
        assert!(turns.take(&server).now_or_never().flatten().is_some());
    }
}
