//! How often processes of a server failed to start, or ended by themselves, and whose they were: who has theirs crash again and again
//! takes the server from nobody else.

use std::sync::Mutex;

use bartizan_model::Caller;
use tokio::time::Instant;

use crate::{limits::CRASH_REST, upstream::stdio::lock};

/// Those of the last [`CRASH_REST`].
#[derive(Default)]
pub(super) struct Crashes(Mutex<Vec<Crash>>);

struct Crash {
    at: Instant,
    /// Issuer and subject, whichever the client; `None` for a process that was nobody's in particular.
    whose: Option<(String, String)>,
}

impl Crashes {
    /// Counts one more, of a process that was `whose` alone.
    pub fn note(&self, whose: Option<&Caller>) {
        lock(&self.0).push(Crash { at: Instant::now(), whose: whose.map(person) });
    }

    /// How many count for `whose`, or for nobody in particular: their own and nobody's all, and of everybody else one each. So a server that
    /// is broken is left alone by all, and one that somebody breaks by that person.
    pub fn counted_for(&self, whose: Option<&Caller>) -> u32 {
        let mut crashes = lock(&self.0);
        crashes.retain(|crash| crash.at.elapsed() < CRASH_REST);
        let whose = whose.map(person);
        let mut others = Vec::new();
        let mut count: u32 = 0;
        for crash in crashes.iter() {
            if crash.whose.is_some() && crash.whose != whose {
                if others.contains(&&crash.whose) {
                    continue;
                }
                others.push(&crash.whose);
            }
            count = count.saturating_add(1);
        }
        count
    }
}

fn person(caller: &Caller) -> (String, String) {
    (caller.issuer().to_owned(), caller.subject().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_crashes_are_their_own_and_those_of_many_are_the_servers() {
        let caller = |name: &str, client: &str| Caller::new("https://id.example", name, client);
        let (ann, bob) = (caller("ann", "editor"), caller("bob", "editor"));
        let crashes = Crashes::default();
        for n in 0..5 {
            crashes.note(Some(&caller("ann", &format!("client-{n}"))));
        }
        assert_eq!(crashes.counted_for(Some(&ann)), 5, "whichever the client");
        assert_eq!((crashes.counted_for(Some(&bob)), crashes.counted_for(None)), (1, 1));
        crashes.note(None);
        assert_eq!((crashes.counted_for(Some(&ann)), crashes.counted_for(Some(&bob))), (6, 2));
        for name in ["carol", "dave", "erin"] {
            crashes.note(Some(&caller(name, "editor")));
        }
        assert_eq!(crashes.counted_for(Some(&bob)), 5, "it fails for everybody");
    }
}
