//! Which calls a process may be speaking of where nothing it writes says so: on its standard error, and in what it tells unasked.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bartizan_audit::EventId;
use tokio::time::Instant;

/// How long a call that has ended may still be spoken of while others are under way: two pipes are not read in step.
const BESIDE_OTHERS: Duration = Duration::from_millis(100);

/// How long the last one may be while there is none.
const ALONE: Duration = Duration::from_secs(1);

/// How many calls that have ended are remembered.
const ENDED: usize = 16;

/// How many calls are named where it may be any of several.
const NAMED: usize = 8;

/// Requests of a process that are under way, or were a moment ago.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// By our id; our own requests are in no call.
    now: BTreeMap<u64, Option<EventId>>,
    ended: VecDeque<(Option<EventId>, Instant)>,
}

/// What words of a process belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Within {
    /// The call, if it can be no other.
    pub call: Option<EventId>,
    /// Else the calls it may be, the newest eight.
    pub calls: Vec<EventId>,
}

impl Within {
    /// This call and no other.
    pub fn call(call: Option<EventId>) -> Self {
        Self { call, calls: Vec::new() }
    }
}

impl UnderWay {
    /// The request `id`, of `call` if it is one's, is about to be sent.
    pub fn begin(&mut self, id: u64, call: Option<EventId>) {
        self.now.insert(id, call);
    }

    /// The request `id` has its answer, or nobody waits for it any more.
    pub fn end(&mut self, id: u64, at: Instant) {
        let Some(call) = self.now.remove(&id) else { return };
        self.ended.truncate(ENDED - 1);
        self.ended.push_front((call, at));
    }

    /// What words belong to that are read at `now`.
    pub fn within(&self, now: Instant) -> Within {
        let since = |at: &Instant| now.saturating_duration_since(*at);
        let last = self.ended.front().filter(|(_, at)| self.now.is_empty() && since(at) < ALONE);
        // What ended beside the last one, or beside what is under way.
        let beside = self.ended.iter().skip(usize::from(last.is_some())).filter(|(_, at)| match last {
            Some((_, end)) => end.saturating_duration_since(*at) < BESIDE_OTHERS,
            None => !self.now.is_empty() && since(at) < BESIDE_OTHERS,
        });
        let ended = last.into_iter().chain(beside).map(|(call, _)| *call);
        let all: Vec<_> = self.now.values().rev().copied().chain(ended).collect();
        match all.as_slice() {
            [one] => Within::call(*one),
            several => Within { call: None, calls: several.iter().flatten().take(NAMED).copied().collect() },
        }
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::SeededEntropy;

    use super::*;

    #[test]
    fn words_belong_to_a_call_where_it_can_be_no_other() {
        let entropy = SeededEntropy::new(1);
        let ids: Vec<_> = (0..12).map(|_| EventId::random(&entropy)).collect();
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut calls = UnderWay::default();
        assert_eq!(calls.within(start), Within::default());
        calls.begin(1, Some(ids[0]));
        assert_eq!(calls.within(start), Within::call(Some(ids[0])));
        calls.begin(2, Some(ids[1]));
        assert_eq!(calls.within(start), Within { call: None, calls: vec![ids[1], ids[0]] });

        // A line may be read a little after the answer that followed it.
        calls.end(2, start);
        assert_eq!(calls.within(start + ms(50)).calls, [ids[0], ids[1]]);
        assert_eq!(calls.within(start + ms(150)), Within::call(Some(ids[0])));
        calls.end(1, start + ms(500));
        assert_eq!(calls.within(start + ms(900)), Within::call(Some(ids[0])));
        assert_eq!(calls.within(start + ms(1600)), Within::default());

        // Our own requests are no call, and may be what is spoken of.
        let mut calls = UnderWay::default();
        calls.begin(1, None);
        assert_eq!(calls.within(start), Within::default());
        calls.begin(2, Some(ids[0]));
        assert_eq!(calls.within(start), Within { call: None, calls: vec![ids[0]] });

        // Of many the newest are named, and those that ended are not remembered without end.
        let mut calls = UnderWay::default();
        (0..).zip(&ids).for_each(|(n, id)| calls.begin(n, Some(*id)));
        assert_eq!(calls.within(start).calls, ids.iter().rev().take(8).copied().collect::<Vec<_>>());
        (0..12).for_each(|n| calls.end(n, start));
        (12..99).for_each(|n| (calls.begin(n, None), calls.end(n, start)).1);
        assert_eq!(calls.ended.len(), ENDED);
        calls.end(7, start);
        assert_eq!(calls.ended.len(), ENDED, "what is not under way does not end");
    }
}
