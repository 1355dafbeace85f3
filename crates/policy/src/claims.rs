//! Who asks: what a verified token says, and which roles that gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bartizan_model::Caller;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{bundle::Version, cedar::Known};

/// The role of this machine's owner, which the shipped policies know.
pub const OWNER: &str = "owner";

/// A verified identity. Nothing in it comes from what a client merely says (attacks.md AA-28).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Claims {
    /// Who vouches for the subject.
    pub issuer: String,
    /// The person or workload, unique within the issuer.
    pub subject: String,
    /// A workload acting for itself, with no person behind it.
    pub app: bool,
    /// Group identifiers of the identity provider.
    pub groups: BTreeSet<String>,
    /// Application roles of the token.
    pub roles: BTreeSet<String>,
    /// Scope tokens (RFC 6749 §3.3), compared byte by byte (attacks.md AA-21).
    pub scopes: BTreeSet<String>,
    /// Authentication methods (RFC 8176).
    pub amr: BTreeSet<String>,
    /// Authentication context class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// When the person authenticated, in seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
}

impl Claims {
    /// A caller of whom nothing but the name is known.
    pub fn of_caller(caller: &Caller) -> Self {
        Self { issuer: caller.issuer().to_owned(), subject: caller.subject().to_owned(), ..Self::default() }
    }

    /// The name of the `User` in policies and of a subject in configuration: `issuer#subject`.
    ///
    /// `%` and `#` of the issuer are percent-encoded, so that no two callers share a name (attacks.md AA-37).
    pub fn user(&self) -> String {
        format!("{}#{}", self.issuer.replace('%', "%25").replace('#', "%23"), self.subject)
    }
}

/// Who has which role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Roles(pub BTreeMap<String, Members>);

/// Who has a role; any one of the three suffices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Members {
    /// Groups of the identity provider, by identifier.
    pub groups: BTreeSet<String>,
    /// Application roles in the token.
    pub app_roles: BTreeSet<String>,
    /// Whose groups and roles those are: issuers, as the names of people have them; for Entra the tenant's version 2.0 issuer.
    /// Empty for whoever's: only where there is one issuer, for two may give one identifier to two groups.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub issuers: BTreeSet<String>,
    /// Single people or workloads, as `issuer#subject`.
    pub subjects: BTreeSet<String>,
}

impl Members {
    /// Whether it goes by groups or roles without saying whose.
    pub fn names_no_issuer(&self) -> bool {
        self.issuers.is_empty() && !(self.groups.is_empty() && self.app_roles.is_empty())
    }
}

impl Roles {
    /// The roles of `claims`; the local owner is always [`OWNER`].
    pub fn of(&self, claims: &Claims) -> BTreeSet<String> {
        let user = claims.user();
        let has = |m: &Members| {
            let is_theirs = m.issuers.is_empty() || m.issuers.contains(&claims.issuer);
            let by_name = !m.groups.is_disjoint(&claims.groups) || !m.app_roles.is_disjoint(&claims.roles);
            m.subjects.contains(&user) || (is_theirs && by_name)
        };
        let mut found: BTreeSet<String> =
            self.0.iter().filter(|(_, m)| has(m)).map(|(name, _)| name.clone()).collect();
        let local = Claims::of_caller(&Caller::local_owner());
        if (&claims.issuer, &claims.subject) == (&local.issuer, &local.subject) {
            found.insert(OWNER.to_owned());
        }
        found
    }
}

/// An identity made ready for decisions of one bundle. Worth keeping for as long as the token is: it costs more to
/// make than a decision.
#[derive(Clone, Debug)]
pub struct Principal {
    pub(crate) claims: Arc<Claims>,
    pub(crate) version: Version,
    pub(crate) entity: Known,
    pub(crate) keys: Vec<u32>,
    pub(crate) roles: Arc<BTreeSet<String>>,
}

impl Principal {
    /// The identity it was made from.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The roles it has in the bundle that made it.
    pub fn roles(&self) -> &BTreeSet<String> {
        &self.roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_from_groups_app_roles_and_subjects_of_one_issuer() {
        let roles: Roles = toml::from_str(
            "[reader]\ngroups = [\"g\"]\n[writer]\napp_roles = [\"w\"]\n[boss]\nsubjects = [\"https://idp#ann\"]\n",
        )
        .unwrap();
        let of = |claims: Claims| roles.of(&claims).into_iter().collect::<Vec<_>>();
        let one = |text: &str| BTreeSet::from([text.to_owned()]);
        let ann = |issuer: &str| Claims { issuer: issuer.into(), subject: "ann".into(), ..Claims::default() };
        assert_eq!(of(ann("https://idp")), ["boss"]);
        assert!(of(ann("https://other")).is_empty());
        assert_eq!(of(Claims { groups: one("g"), roles: one("w"), ..ann("x") }), ["reader", "writer"]);
        assert!(
            of(Claims { groups: one("w"), roles: one("g"), scopes: one("reader"), ..ann("x") }).is_empty()
        );
        assert_eq!(of(Claims::of_caller(&Caller::local_owner())), [OWNER]);
        assert!(toml::from_str::<Roles>("[reader]\ngruops = [\"g\"]\n").is_err());
    }

    #[test]
    fn the_groups_of_one_issuer_are_not_anothers() {
        let roles: Roles = toml::from_str(
            "[reader]\nissuers = [\"https://idp\"]\ngroups = [\"g\"]\napp_roles = [\"r\"]\nsubjects = [\"https://other#bob\"]\n\
             [any]\ngroups = [\"g\"]\n",
        )
        .unwrap();
        let one = |text: &str| BTreeSet::from([text.to_owned()]);
        let of = |issuer: &str, subject: &str| {
            let claims = Claims { issuer: issuer.into(), subject: subject.into(), ..Claims::default() };
            roles.of(&Claims { groups: one("g"), roles: one("r"), ..claims }).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of("https://idp", "ann"), ["any", "reader"]);
        assert_eq!(of("https://other", "ann"), ["any"]);
        assert_eq!(of("https://other", "bob"), ["any", "reader"], "a person is named with their issuer");
        assert!(roles.0["any"].names_no_issuer() && !roles.0["reader"].names_no_issuer());
    }

    #[test]
    fn names_that_run_together_stay_apart() {
        let user = |issuer: &str, subject: &str| {
            Claims { issuer: issuer.into(), subject: subject.into(), ..Claims::default() }.user()
        };
        assert_ne!(user("a#b", "c"), user("a", "b#c"));
        assert_ne!(user("a%23b", "c"), user("a#b", "c"));
    }
}
