//! What a bundle has that another had not.

use std::fmt;

use super::Bundle;

/// The ids of the policies in which two bundles differ, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Policies that were not there before.
    pub added: Vec<String>,
    /// Policies that were there under the same id and said something else.
    pub changed: Vec<String>,
    /// Policies that are there no more.
    pub removed: Vec<String>,
}

impl Changes {
    /// All of them.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        [&self.added, &self.changed, &self.removed].into_iter().flatten().map(String::as_str)
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let said = said.iter().filter(|(_, ids)| !ids.is_empty());
        let said: Vec<_> = said.map(|(verb, ids)| format!("{verb} `{}`", ids.join("`, `"))).collect();
        if said.is_empty() {
            return f.write_str("the policies are the same; roles, labels or approved definitions changed");
        }
        f.write_str(&said.join("; "))
    }
}

impl Bundle {
    /// What this bundle changes where `before` was in force.
    pub fn changes_since(&self, before: &Self) -> Changes {
        let mut changes = Changes::default();
        for (id, policy) in &self.policies {
            match before.policies.get(id) {
                None => changes.added.push(id.clone()),
                Some(known) if known.json != policy.json => changes.changed.push(id.clone()),
                Some(_) => {}
            }
        }
        changes.removed =
            before.policies.keys().filter(|id| !self.policies.contains_key(*id)).cloned().collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Catalog, Roles, Source, Sources};

    fn bundle(policies: &[(&str, &str)]) -> Bundle {
        let policies = policies
            .iter()
            .map(|(id, rest)| Source { name: format!("{id}.cedar"), text: format!("@id(\"{id}\") {rest}") });
        let sources = Sources { policies: policies.collect(), ..Sources::default() };
        Bundle::load(&sources, &Catalog::default(), &Roles::default()).unwrap().bundle
    }

    #[test]
    fn added_changed_and_removed_policies_are_named_and_the_others_are_not() {
        let (all, none) = ("permit (principal, action, resource);", "forbid (principal, action, resource);");
        let before = bundle(&[("kept", all), ("turned", all), ("gone", all)]);
        let after = bundle(&[("kept", all), ("turned", none), ("new", none)]);
        let changes = after.changes_since(&before);
        assert_eq!(changes.ids().collect::<Vec<_>>(), ["new", "turned", "gone"]);
        assert_eq!(changes.to_string(), "added `new`; changed `turned`; removed `gone`");
        let same = bundle(&[("kept", all), ("turned", all), ("gone", all)]).changes_since(&before);
        assert_eq!(same, Changes::default());
        assert!(same.to_string().starts_with("the policies are the same"));
    }
}
