//! Servers that answer what nobody asked them, or ask what they may not (attacks.md SH-11).
//!
//! One such message is dropped and may be a slip; many within a while are a server that is broken or tries something. What was
//! under way there ends then, and the audit log says so once.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::upstream::stdio::lock;

/// From how many within [`WITHIN`] a server counts as faulty.
pub const MANY: usize = 10;
/// See [`MANY`].
const WITHIN: Duration = Duration::from_secs(10 * 60);
/// How long after a server was told of as faulty it is not told of again.
const TOLD: Duration = Duration::from_secs(60);

/// What one server did lately.
#[derive(Default)]
pub struct Faults(Mutex<Lately>);

#[derive(Default)]
struct Lately {
    recent: VecDeque<Instant>,
    told: Option<Instant>,
}

/// What a fault makes of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing yet.
    Slip,
    /// It is faulty.
    Faulty {
        /// Whether that was told a moment ago.
        is_known: bool,
    },
}

impl Faults {
    /// Notes one. After [`MANY`] they are counted from nothing again.
    pub fn note(&self, now: Instant) -> Fault {
        let mut lately = lock(&self.0);
        lately.recent.retain(|at| now.saturating_duration_since(*at) < WITHIN);
        lately.recent.push_back(now);
        if lately.recent.len() < MANY {
            return Fault::Slip;
        }
        lately.recent.clear();
        let is_known = lately.told.is_some_and(|at| now.saturating_duration_since(at) < TOLD);
        if !is_known {
            lately.told = Some(now);
        }
        Fault::Faulty { is_known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_within_a_while_are_told_of_once() {
        let (faults, start) = (Faults::default(), Instant::now());
        let many = |from: Duration| (0..MANY).map(|_| faults.note(start + from)).collect::<Vec<_>>();
        let mut expected = vec![Fault::Slip; MANY];
        expected[MANY - 1] = Fault::Faulty { is_known: false };
        assert_eq!(many(Duration::ZERO), expected);
        expected[MANY - 1] = Fault::Faulty { is_known: true };
        assert_eq!(many(Duration::from_secs(1)), expected, "counted anew, and told of a moment ago");
        expected[MANY - 1] = Fault::Faulty { is_known: false };
        assert_eq!(many(TOLD + Duration::from_secs(1)), expected);

        let faults = Faults::default();
        for nth in 0..100 {
            assert_eq!(faults.note(start + WITHIN / 8 * nth), Fault::Slip, "a slip now and then is none");
        }
    }
}
