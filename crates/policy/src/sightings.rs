//! What callers may know of, remembered for as long as it cannot have changed.
//!
//! A list is asked for again and again by the same caller, and what it may hold of the list is a decision for every entry.
//! The memory's key is everything that such a decision is made from: the bundle (its policies, roles, pinned tools and
//! labels, by digest), the whole identity, application, server, era, what has entered the window, and the list itself;
//! the address where any policy reads addresses. What depends on the time is not remembered at all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest;

use crate::{
    bundle::{Bundle, Version},
    claims::Claims,
    flow::FlowContext,
    query::{Action, Era, Query},
};

/// Lists that are remembered, of all callers together.
const MOST: usize = 4096;

/// A memory of [`Bundle::may_see`]. It outlives bundles: what another bundle said is never found.
#[derive(Debug, Default)]
pub struct Sightings {
    known: Mutex<HashMap<Key, Arc<[bool]>>>,
}

/// Everything that says what a caller may know of, and that a decision is made from which looks at neither arguments nor time.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    version: Version,
    claims: Arc<Claims>,
    client: String,
    server: String,
    era: Era,
    flow: FlowContext,
    /// `None` where no policy reads it.
    address: Option<Option<IpAddr>>,
    /// SHA-256 over the kinds and names, in order.
    list: [u8; 32],
}

impl Sightings {
    /// Whether the caller of `query` may know of each of `actions`, in their order; see [`Bundle::may_see`], with which
    /// this always agrees. The action of `query` is ignored.
    pub fn of(&self, bundle: &Bundle, query: &Query<'_>, actions: &[Action<'_>]) -> Arc<[bool]> {
        let key = Key::of(bundle, query, actions);
        if let Some(known) = self.lock().get(&key) {
            return Arc::clone(known);
        }
        let (seen, depends_on_time) = bundle.sees_each(query, actions);
        let seen: Arc<[bool]> = seen.into();
        if !depends_on_time {
            let mut known = self.lock();
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(key, Arc::clone(&seen));
        }
        seen
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<[bool]>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    /// The key of a question about `actions`; the action of `query` is ignored.
    pub fn of(bundle: &Bundle, query: &Query<'_>, actions: &[Action<'_>]) -> Self {
        Self {
            version: bundle.version(),
            claims: Arc::clone(&query.principal.claims),
            client: query.client.to_owned(),
            server: query.server.to_owned(),
            era: query.surroundings.era,
            flow: query.surroundings.flow,
            address: bundle.reads_address().then_some(query.surroundings.address),
            list: digest_of(actions),
        }
    }
}

/// What [`Bundle::may_see`] reads of actions: their kind and name. No two lists have one digest text.
fn digest_of(actions: &[Action<'_>]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for action in actions {
        let (kind, name) = match action {
            Action::Call { tool, .. } => (0, *tool),
            Action::CompletePrompt { prompt, .. } => (1, *prompt),
            Action::CompleteResource { uri } => (2, *uri),
            Action::Get { prompt, .. } => (3, *prompt),
            Action::List => (4, ""),
            Action::Notify => (5, ""),
            Action::Read { uri } => (6, *uri),
            Action::SubscribeResource { uri } => (7, *uri),
            Action::SubscribeServer => (8, ""),
            Action::Task => (9, ""),
        };
        context.update(&[kind]);
        context.update(&u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(name.as_bytes());
    }
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bartizan_model::Timestamp;

    use super::*;
    use crate::{
        Surroundings,
        scene::{load, query, reader, surroundings},
    };

    fn fetch() -> [Action<'static>; 1] {
        [Action::Call { tool: "fetch", arguments: None }]
    }

    #[test]
    fn what_is_the_same_is_looked_up() {
        let bundle = load("permit (principal in Role::\"reader\", action, resource);");
        let (rita, memory) = (bundle.identify(reader()), Sightings::default());
        let asked = query(&rita, "web", Action::List);
        let first = memory.of(&bundle, &asked, &fetch());
        assert_eq!(*first, [true]);
        // The same identity of another token, from elsewhere, later: no policy reads that.
        let again = bundle.identify(reader());
        let later = Surroundings {
            now: Timestamp::from_unix(surroundings().now.as_unix() + 3600),
            address: Some([198, 51, 100, 1].into()),
            ..surroundings()
        };
        let again = Query { principal: &again, surroundings: later, ..asked };
        assert!(Arc::ptr_eq(&first, &memory.of(&bundle, &again, &fetch())));
    }

    #[test]
    fn what_depends_on_the_time_is_asked_every_time() {
        let bundle = load(
            "permit (principal in Role::\"reader\", action in Action::\"call\", resource)
             when { context.time < datetime(\"2030-01-01\") };
             permit (principal in Role::\"reader\", action == Action::\"list\", resource);",
        );
        let (rita, memory) = (bundle.identify(reader()), Sightings::default());
        let at = |now| {
            let around = Surroundings { now: Timestamp::from_unix(now), ..surroundings() };
            let asked = Query { surroundings: around, ..query(&rita, "web", Action::List) };
            memory.of(&bundle, &asked, &fetch())
        };
        assert_eq!((&*at(1_893_455_999), &*at(1_893_456_000)), (&[true][..], &[false][..]));
        assert!(memory.lock().is_empty());
        // The list of another kind does not depend on it.
        memory.of(&bundle, &query(&rita, "web", Action::List), &[Action::List]);
        assert_eq!(memory.lock().len(), 1);
    }

    #[test]
    fn lists_that_run_together_stay_apart() {
        let call = |tool| Action::Call { tool, arguments: None };
        let all = [
            digest_of(&[call("ab"), call("c")]),
            digest_of(&[call("a"), call("bc")]),
            digest_of(&[call("c"), call("ab")]),
            digest_of(&[Action::Read { uri: "ab" }, call("c")]),
            digest_of(&[call("ab")]),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
