//! What policies read of whoever asks, as it is recorded with a call, sealed under his key: a review of rights asks again by it.

use std::collections::BTreeSet;

use bartizan_policy::{Claims, PolicyConfig, Source};
use serde::{Deserialize, Serialize};

use super::{Permitted, Policy};
use crate::Asker;

/// What a call was permitted by, beside what its entry says in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// What was known of the caller; who it is, the entry says.
    pub claims: Claims,
    /// The roles that had approved the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<String>,
}

/// Which groups and roles of people policies go by: most that a token lists are nobody's business here.
#[derive(Default)]
pub(super) struct Relevant {
    groups: Names,
    roles: Names,
}

enum Names {
    All,
    These(BTreeSet<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Names {
    fn of<'n>(word: &str, policies: &[Source], named: impl Iterator<Item = &'n String>) -> Self {
        // A policy that speaks of them by itself may compare them with anything.
        if policies.iter().any(|source| source.text.contains(word)) {
            return Self::All;
        }
        Self::These(named.cloned().collect())
    }

    fn keep(&self, all: &mut BTreeSet<String>) {
        if let Self::These(these) = self {
            all.retain(|name| these.contains(name));
        }
    }
}

impl Relevant {
    pub fn of(config: &PolicyConfig, policies: &[Source]) -> Self {
        let members = || config.roles.0.values();
        Self {
            groups: Names::of("groups", policies, members().flat_map(|m| &m.groups)),
            roles: Names::of("roles", policies, members().flat_map(|m| &m.app_roles)),
        }
    }
}

impl Policy {
    /// What `permitted` was decided by, as JSON; `None` if that is all in the clear.
    pub fn attributes(&self, asker: &Asker, permitted: &Permitted) -> Option<String> {
        let ready = self.ready()?;
        let known = self.principal(asker, &ready.bundle);
        let mut claims = Claims { issuer: String::new(), subject: String::new(), ..known.claims().clone() };
        ready.relevant.groups.keep(&mut claims.groups);
        ready.relevant.roles.keep(&mut claims.roles);
        let approved = permitted.approvals().iter().map(|approval| approval.role.clone()).collect();
        let attributes = Attributes { claims, approved };
        (attributes != Attributes::default()).then(|| serde_json::to_string(&attributes).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_policy_goes_by_is_left_out() {
        let config: PolicyConfig = serde_json::from_str(
            r#"{"roles":{"a":{"groups":["g1"]},"b":{"groups":["g2"],"app_roles":["r1"]}}}"#,
        )
        .unwrap();
        let kept = |text: &str| {
            let policies = [Source { name: "a.cedar".to_owned(), text: text.to_owned() }];
            let relevant = Relevant::of(&config, &policies);
            let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
            let (mut groups, mut roles) = (set(&["g1", "g3", "r1"]), set(&["g1", "r1", "r2"]));
            relevant.groups.keep(&mut groups);
            relevant.roles.keep(&mut roles);
            (groups.into_iter().collect::<Vec<_>>(), roles.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(
            kept("permit (principal, action, resource);"),
            (vec!["g1".to_owned()], vec!["r1".to_owned()])
        );
        assert_eq!(kept("… when { principal.groups.contains(\"g3\") }").0, ["g1", "g3", "r1"]);
        assert_eq!(kept("… when { principal.roles.contains(\"r2\") }").1, ["g1", "r1", "r2"]);
    }
}
