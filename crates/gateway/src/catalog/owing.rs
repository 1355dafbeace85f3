//! Servers of which a look could not be written down: what they announced is still to be looked at.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use bartizan_model::ServerName;
use tokio::time::Instant;

use super::{faces::Face, looking::DOUBT_REST};
use crate::upstream::stdio::lock;

/// How long a look may go on after the store was last known to be away, and have failed for that.
const LATE: Duration = Duration::from_secs(10);

/// The looks that are owed.
#[derive(Default)]
pub struct Owed(Mutex<Looks>);

#[derive(Default)]
struct Looks {
    /// When they failed, and as whom the server is to be looked at besides: it may describe what it has to each in another way.
    failed: HashMap<ServerName, (Instant, Vec<Face>)>,
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

    /// A look at `server` could not be written down, or not one as each of `faces`.
    pub fn note(&self, server: &ServerName, faces: Vec<Face>, now: Instant) {
        let mut looks = lock(&self.0);
        let (at, owed) = looks.failed.entry(server.clone()).or_insert((now, Vec::new()));
        *at = now;
        for face in faces {
            if !owed.contains(&face) {
                owed.push(face);
            }
        }
    }

    /// As whom `server` is to be looked at again, besides as ourselves, if it is time: the store answers once more, or did all along and
    /// time has passed. Whoever is told so does.
    pub fn take(&self, server: &ServerName, now: Instant) -> Option<Vec<Face>> {
        let mut looks = lock(&self.0);
        let at = looks.failed.get(server)?.0;
        let is_back = looks.away.is_some_and(|away| at < away + LATE);
        let is_due = looks.answers && (is_back || now >= at + DOUBT_REST);
        if !is_due {
            return None;
        }
        looks.failed.remove(server).map(|(_, faces)| faces)
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
        let is_due = |seconds| owed.take(&server, after(seconds)).is_some();
        owed.asked(false, began);
        assert!(!is_due(0), "nothing is owed");
        owed.note(&server, Vec::new(), after(1));
        owed.asked(false, after(100));
        assert!(!is_due(100), "that would be in vain again");
        owed.asked(true, after(101));
        assert!(is_due(101));
        assert!(!is_due(101), "once");
        // It fails though the store answers: it is not asked all the time.
        owed.note(&server, Vec::new(), after(120));
        owed.asked(true, after(121));
        assert!(!is_due(121));
        assert!(is_due(120 + DOUBT_REST.as_secs()));
    }

    #[test]
    fn a_look_as_somebody_else_is_owed_as_that_one() {
        let (owed, server) = (Owed::default(), "files".parse().unwrap());
        let now = Instant::now();
        let face = |name| Face { name, version: "1", user_agent: name, is_legacy: false };
        owed.note(&server, vec![face("a"), face("b")], now);
        owed.note(&server, vec![face("b")], now);
        owed.note(&server, Vec::new(), now);
        owed.asked(true, now);
        assert_eq!(owed.take(&server, now + DOUBT_REST), Some(vec![face("a"), face("b")]));
        assert_eq!(owed.take(&server, now + DOUBT_REST), None);
    }
}
