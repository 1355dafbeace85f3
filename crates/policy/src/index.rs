//! Which policies can matter for a question: Cedar evaluates every policy it is given, so it is given few.
//!
//! A policy is filed under what its scope demands of action, resource and principal. A question opens the drawers of
//! its own action, resource and principal and of everything above them. What is in the other drawers could not match,
//! so leaving it out changes no decision.

use std::collections::{BTreeSet, HashMap};

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};

use crate::{
    cedar::{self, Asked, Condition},
    compile::Compiled,
    reads::Reads,
    schema::{ASK, CALL, OBTAIN, USE},
};

/// The number of an entity that some scope names.
pub(crate) type Key = u32;
/// The number of a scope that demands nothing.
pub(crate) const ANY: Key = 0;

/// Every policy, filed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    keys: HashMap<EntityUid, Key>,
    drawers: HashMap<(Key, Key), HashMap<Key, Drawer>>,
}

/// The policies with one demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drawer {
    exact: Policies,
    /// What decides before there are arguments; see [`Index::open`].
    loose: Policies,
    loosened: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
struct Policies {
    permits: Vec<Condition>,
    forbids: Vec<Condition>,
    reads: Reads,
}

/// With which policies to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As they are written.
    Exact,
    /// As they could turn out for some arguments and approvals: permits without what reads arguments; no forbid that
    /// reads arguments or that an obligation lifts.
    Loose,
}

/// Which policies matched.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    pub permits: BTreeSet<String>,
    pub forbids: BTreeSet<String>,
    /// Policies that could not be evaluated, with Cedar's words.
    pub errors: Vec<(String, String)>,
}

impl Index {
    pub fn new<'a>(policies: impl IntoIterator<Item = &'a Compiled>) -> Self {
        let mut index = Self::default();
        for compiled in policies {
            let principal = match compiled.policy.principal_constraint() {
                PrincipalConstraint::Any | PrincipalConstraint::Is(_) => ANY,
                PrincipalConstraint::In(of)
                | PrincipalConstraint::Eq(of)
                | PrincipalConstraint::IsIn(_, of) => index.key(of),
            };
            let resource = match compiled.policy.resource_constraint() {
                ResourceConstraint::Any | ResourceConstraint::Is(_) => ANY,
                ResourceConstraint::In(of) | ResourceConstraint::Eq(of) | ResourceConstraint::IsIn(_, of) => {
                    index.key(of)
                }
            };
            let actions = match compiled.policy.action_constraint() {
                ActionConstraint::Any => BTreeSet::from([ANY]),
                ActionConstraint::Eq(of) => BTreeSet::from([index.key(of)]),
                ActionConstraint::In(of) => of.into_iter().map(|a| index.key(a)).collect(),
            };
            for action in actions {
                index
                    .drawers
                    .entry((action, resource))
                    .or_default()
                    .entry(principal)
                    .or_default()
                    .file(compiled);
            }
        }
        index
    }

    fn key(&mut self, of: EntityUid) -> Key {
        // More than four thousand million entities in scopes do not fit in memory.
        let next = Key::try_from(self.keys.len() + 1).unwrap_or(Key::MAX);
        *self.keys.entry(of).or_insert(next)
    }

    /// The numbers of those of `entities` that some scope names, and [`ANY`].
    pub fn keys<'a>(&self, entities: impl IntoIterator<Item = &'a EntityUid>) -> Vec<Key> {
        let mut keys = vec![ANY];
        keys.extend(entities.into_iter().filter_map(|e| self.keys.get(e).copied()));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Every drawer that a question with these numbers must open.
    pub fn open(&self, actions: &[Key], resources: &[Key], principals: &[Key]) -> Vec<&Drawer> {
        let mut found = Vec::new();
        for action in actions {
            for resource in resources {
                let Some(by_principal) = self.drawers.get(&(*action, *resource)) else { continue };
                found.extend(principals.iter().filter_map(|p| by_principal.get(p)));
            }
        }
        found
    }
}

impl Drawer {
    fn file(&mut self, compiled: &Compiled) {
        let effect = compiled.policy.effect();
        let proven = proves_scope(&compiled.policy);
        self.exact.add(effect, Condition::of(&compiled.policy, proven), &compiled.reads);
        match (effect, &compiled.loose) {
            (Effect::Permit, Some(loose)) => {
                self.loosened.insert(compiled.id().to_owned());
                self.loose.add(effect, Condition::of(loose, proven), &compiled.reads);
            }
            (Effect::Forbid, _) if compiled.reads.arguments || !compiled.obligations.is_empty() => {}
            _ => self.loose.add(effect, Condition::of(&compiled.policy, proven), &compiled.reads),
        }
    }

    /// The ids of its policies.
    pub fn ids(&self) -> impl Iterator<Item = String> {
        self.exact.permits.iter().chain(&self.exact.forbids).map(|condition| condition.id.to_string())
    }

    /// What its policies read.
    pub fn reads(&self, mode: Mode) -> &Reads {
        &self.policies(mode).reads
    }

    fn policies(&self, mode: Mode) -> &Policies {
        match mode {
            Mode::Exact => &self.exact,
            Mode::Loose => &self.loose,
        }
    }
}

/// Whether a question that opens a policy's drawer is in the policy's scope, so that only its conditions are left.
///
/// A drawer is opened by an entity or by something below it. That is what `in` says. `==` says more, unless nothing can
/// be below the entity; `is` is not filed at all.
fn proves_scope(policy: &Policy) -> bool {
    let is_lowest = |of: &EntityUid| {
        let kind = of.type_name().to_string();
        matches!(kind.as_str(), "User" | "Tool" | "Resource" | "Prompt" | "Secret")
    };
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
        PrincipalConstraint::Eq(of) => is_lowest(&of),
        PrincipalConstraint::Is(_) | PrincipalConstraint::IsIn(..) => false,
    };
    let action = match policy.action_constraint() {
        ActionConstraint::Any | ActionConstraint::In(_) => true,
        ActionConstraint::Eq(of) => {
            ![USE, ASK, OBTAIN, CALL].contains(&AsRef::<str>::as_ref(of.id().unescaped()))
        }
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Any | ResourceConstraint::In(_) => true,
        ResourceConstraint::Eq(of) => is_lowest(&of),
        ResourceConstraint::Is(_) | ResourceConstraint::IsIn(..) => false,
    };
    principal && action && resource
}

/// Evaluates the policies of all `drawers`.
pub(crate) fn evaluate(drawers: &[&Drawer], mode: Mode, asked: &Asked) -> Matched {
    let evaluator = asked.evaluator();
    let mut matched = Matched::default();
    for drawer in drawers {
        let policies = drawer.policies(mode);
        let permits = policies.permits.iter().map(|condition| (condition, true));
        let forbids = policies.forbids.iter().map(|condition| (condition, false));
        for (condition, is_permit) in permits.chain(forbids) {
            let id = condition.id.as_ref();
            match cedar::matches(&evaluator, condition) {
                Ok(true) if is_permit => drop(matched.permits.insert(id.to_owned())),
                Ok(true) => drop(matched.forbids.insert(id.to_owned())),
                Ok(false) => {}
                // A loosened permit may fail where the exact one would not have come so far; then it does not match.
                Err(_) if mode == Mode::Loose && drawer.loosened.contains(id) => {}
                Err(why) => matched.errors.push((id.to_owned(), why)),
            }
        }
    }
    matched
}

impl Policies {
    fn add(&mut self, effect: Effect, condition: Condition, reads: &Reads) {
        self.reads.join(reads);
        match effect {
            Effect::Permit => self.permits.push(condition),
            Effect::Forbid => self.forbids.push(condition),
        }
    }
}
