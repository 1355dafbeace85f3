//! Servers of which a look could not be written down: what they announced is still to be looked at.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use bartizan_model::ServerName;
use tokio::time::Instant;

use super::looking::DOUBT_REST;
use crate::upstream::stdio::lock;

/// How long a look may go on after the store was last known to be away, and have failed for that.
const LATE: Duration = Duration::from_secs(10);

/// The looks that are owed.
#[derive(Default)]
pub struct Owed(Mutex<Looks>);

#[derive(Default)]
struct Looks {
    /// When they failed.
    failed: HashMap<ServerName, Instant>,
    /// Whether the store answers, and when it last did not.
    answers: bool,
    away: Option<Instant>,
}

impl Owed {
    /// The store was asked.
    pub fn asked(&self, answers: bool, now: Instant) {
        let mut looks = lock(&self.0);
        looks.answers = answers;
        if !answers {
            looks.away = Some(now);
        }
    }

    /// A look at `server` could not be written down.
    pub fn note(&self, server: &ServerName, now: Instant) {
        lock(&self.0).failed.insert(server.clone(), now);
    }

    /// Whether it is time to look at `server` again: the store answers once more, or did all along and time has passed. Whoever is told
    /// so does.
    pub fn take(&self, server: &ServerName, now: Instant) -> bool {
        let mut looks = lock(&self.0);
        let Some(at) = looks.failed.get(server).copied() else { return false };
        let is_back = looks.away.is_some_and(|away| at < away + LATE);
        let is_due = looks.answers && (is_back || now >= at + DOUBT_REST);
        if is_due {
            looks.failed.remove(server);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_failed_is_owed_until_the_store_answers() {
        let (owed, server) = (Owed::default(), "files".parse().unwrap());
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        owed.asked(false, began);
        assert!(!owed.take(&server, began), "nothing is owed");
        owed.note(&server, after(1));
        owed.asked(false, after(100));
        assert!(!owed.take(&server, after(100)), "that would be in vain again");
        owed.asked(true, after(101));
        assert!(owed.take(&server, after(101)));
        assert!(!owed.take(&server, after(101)), "once");
        // It fails though the store answers: it is not asked all the time.
        owed.note(&server, after(120));
        owed.asked(true, after(121));
        assert!(!owed.take(&server, after(121)));
        assert!(owed.take(&server, after(120) + DOUBT_REST));
    }
}
