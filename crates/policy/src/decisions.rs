//! Permits, remembered for as long as they cannot have changed.
//!
//! The same caller calls the same tool again and again, and few policies read its arguments. What is remembered is keyed by
//! everything that it was decided by ([`Key`]); a decision for which a policy looked at the arguments, the time or the age of
//! the sign-in is made anew every time, and so is every denial.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    bundle::Bundle,
    decision::{Decision, Permit},
    query::Query,
    sightings::Key,
};

/// Permits that are remembered, of all callers together.
const MOST: usize = 4096;

/// A memory of [`Bundle::authorize`]. It outlives bundles: what another bundle said is never found.
#[derive(Debug, Default)]
pub struct Decisions {
    known: Mutex<HashMap<Key, Permit>>,
}

impl Decisions {
    /// Decides as [`Bundle::authorize`], with which this always agrees.
    pub fn authorize(&self, bundle: &Bundle, query: &Query<'_>) -> Decision {
        // What somebody approved is for one call.
        if !query.approved.is_empty() {
            return bundle.authorize(query);
        }
        let key = Key::of(bundle, query, &[query.action]);
        if let Some(permit) = self.lock().get(&key) {
            return Decision::Permit(permit.clone());
        }
        let (decision, lasts) = bundle.decide(query);
        if let (Decision::Permit(permit), true) = (&decision, lasts) {
            let mut known = self.lock();
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(key, permit.clone());
        }
        decision
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Permit>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::Timestamp;

    use super::*;
    use crate::{
        Action, Surroundings,
        flow::FlowContext,
        scene::{load, query, reader, surroundings},
    };

    const FETCH: Action<'static> =
        Action::Call { tool: "fetch", arguments: Some("{\"url\":\"https://a.example/\"}") };

    #[test]
    fn what_reads_no_argument_is_decided_once_for_all_arguments() {
        let bundle = load("permit (principal in Role::\"reader\", action, resource);");
        let (rita, memory) = (bundle.identify(reader()), Decisions::default());
        let other = Action::Call { tool: "fetch", arguments: Some("{\"url\":\"https://b.example/\"}") };
        for action in [FETCH, other, FETCH] {
            assert!(memory.authorize(&bundle, &query(&rita, "web", action)).is_permit());
        }
        assert_eq!(memory.lock().len(), 1);
    }

    #[test]
    fn what_depends_on_the_time_is_decided_every_time() {
        let bundle = load(
            "permit (principal in Role::\"reader\", action in Action::\"call\", resource)
             when { context.time < datetime(\"2030-01-01\") };",
        );
        let (rita, memory) = (bundle.identify(reader()), Decisions::default());
        let at = |now| {
            let around = Surroundings { now: Timestamp::from_unix(now), ..surroundings() };
            memory
                .authorize(&bundle, &Query { surroundings: around, ..query(&rita, "web", FETCH) })
                .is_permit()
        };
        assert!(at(1_893_455_999) && !at(1_893_456_000));
    }

    #[test]
    fn another_person_server_window_or_bundle_is_another_question() {
        let text = "permit (principal in Role::\"reader\", action, resource);
             forbid (principal, action in Action::\"call\", resource) when { context.flow.private };";
        let (bundle, memory) = (load(text), Decisions::default());
        let (rita, anybody) = (bundle.identify(reader()), bundle.identify(crate::scene::person("pia", &[])));
        let asked = query(&rita, "web", FETCH);
        assert!(memory.authorize(&bundle, &asked).is_permit());
        assert!(!memory.authorize(&bundle, &Query { principal: &anybody, ..asked }).is_permit());
        let flow = FlowContext { private: true, ..FlowContext::default() };
        let around = Surroundings { flow, ..surroundings() };
        assert!(!memory.authorize(&bundle, &Query { surroundings: around, ..asked }).is_permit());
        assert!(!memory.authorize(&bundle, &Query { server: "mail", ..asked }).is_permit());
        let stricter = load("permit (principal in Role::\"writer\", action, resource);");
        assert!(!memory.authorize(&stricter, &asked).is_permit());
        assert!(memory.authorize(&bundle, &asked).is_permit());
    }
}
