//! Policies that say nothing, or not what they seem to.

use std::fmt;

use cedar_policy::{ActionConstraint, Effect, EntityUid, PrincipalConstraint, ResourceConstraint};
use serde_json::{Value, json};

use crate::{
    Bundle, Obligation,
    compile::Compiled,
    schema::{CALL, CALLER_ACTIONS, FLEET, USE},
};

/// One thing worth looking at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The policy.
    pub policy: String,
    /// What about it.
    pub kind: Kind,
}

/// What can be wrong with a policy that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes by groups or roles of whichever issuer, where there are several: one may give another's identifiers away.
    AnyIssuer,
    /// A forbid without conditions covers all that this permits.
    ForbiddenAnyway(String),
    /// A forbid on a list argument asks what *all* elements are, so one harmless element lifts it.
    ListInForbid(String),
    /// Another policy of the same effect, without conditions, covers this one.
    Shadowed(String),
    /// It asks for a scope or sign-in but its conditions do not look at it, so nothing ever lifts it.
    UnliftableStepUp,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy `{}`: ", self.policy)?;
        match &self.kind {
            Kind::AnyIssuer => f.write_str(
                "it goes by groups or roles, and there are several issuers: have it look at `principal.issuer` too, or go by a role \
                 that says whose by `issuers`, for two may give one identifier to two groups",
            ),
            Kind::ForbiddenAnyway(by) => {
                write!(f, "it never permits anything, since `{by}` forbids all of it")
            }
            Kind::ListInForbid(argument) => {
                write!(
                    f,
                    "it asks what all elements of `{argument}` are; a forbid should ask for any of them (`any_…`)"
                )
            }
            Kind::Shadowed(by) => write!(f, "it adds nothing, since `{by}` covers all of it"),
            Kind::UnliftableStepUp => f.write_str(
                "it asks for a scope or sign-in that its conditions do not look at, so nothing lifts it",
            ),
        }
    }
}

/// Looks at every policy and at every pair.
pub fn lint(bundle: &Bundle) -> Vec<Finding> {
    let mut found = Vec::new();
    let policies: Vec<&Compiled> = bundle.policies.values().collect();
    let unconditional: Vec<&Compiled> =
        policies.iter().filter(|p| !p.policy.has_non_scope_constraint()).copied().collect();
    for policy in policies {
        let mut note = |kind| found.push(Finding { policy: policy.id().to_owned(), kind });
        let is_permit = policy.policy.effect() == Effect::Permit;
        let mut others =
            unconditional.iter().filter(|other| other.id() != policy.id() && covers(other, policy));
        let forbids =
            |other: &&&Compiled| other.policy.effect() == Effect::Forbid && other.obligations.is_empty();
        if let Some(by) = others.clone().find(|o| is_permit && forbids(o)) {
            note(Kind::ForbiddenAnyway(by.id().to_owned()));
        } else if let Some(by) = others.find(|o| {
            // Of two that cover each other the later in order is the superfluous one.
            let is_twin =
                !policy.policy.has_non_scope_constraint() && covers(policy, o) && policy.id() < o.id();
            o.policy.effect() == policy.policy.effect() && o.obligations == policy.obligations && !is_twin
        }) {
            note(Kind::Shadowed(by.id().to_owned()));
        }
        if !is_permit {
            if let Some(argument) = list_argument(bundle, policy) {
                note(Kind::ListInForbid(argument));
            }
            if is_unliftable(policy) {
                note(Kind::UnliftableStepUp);
            }
        }
    }
    found
}

/// The policies that go by groups or roles of whichever issuer. To be looked at where there are several.
///
/// A forbid of a whole group forbids at most too much; one that spares a group is like a permit.
pub fn of_any_issuer(bundle: &Bundle) -> Vec<Finding> {
    let goes_by_any = |policy: &&Compiled| {
        let is_group = |literal: &EntityUid| *literal.type_name() == bundle.types.group;
        let in_scope = matches!(
            policy.policy.principal_constraint(),
            PrincipalConstraint::In(of) | PrincipalConstraint::IsIn(_, of) if is_group(&of)
        );
        let groups = policy.policy.entity_literals().into_iter().filter(is_group).count();
        let is_permit = policy.policy.effect() == Effect::Permit;
        let by_group = groups > usize::from(in_scope && !is_permit);
        (by_group || reads_user(policy, "groups") || reads_user(policy, "roles"))
            && !reads_user(policy, "issuer")
    };
    let found = bundle.policies.values().filter(goes_by_any);
    found.map(|policy| Finding { policy: policy.id().to_owned(), kind: Kind::AnyIssuer }).collect()
}

/// Whether a policy looks at this attribute of whoever asks.
fn reads_user(policy: &Compiled, attribute: &str) -> bool {
    contains(&policy.json, &json!({ ".": { "left": { "Var": "principal" }, "attr": attribute } }))
}

/// Whether every question in the scope of `narrow` is in the scope of `wide`.
fn covers(wide: &Compiled, narrow: &Compiled) -> bool {
    use PrincipalConstraint as P;
    use ResourceConstraint as R;
    let principal = match (wide.policy.principal_constraint(), narrow.policy.principal_constraint()) {
        (P::Any, _) => true,
        (P::Is(of), P::Is(it) | P::IsIn(it, _)) => of == it,
        (P::Is(of), P::Eq(it)) => of == *it.type_name(),
        (P::Eq(of), P::Eq(it)) => of == it,
        (P::In(of), P::Eq(it) | P::In(it) | P::IsIn(_, it)) => is_in(&it, &of),
        (P::IsIn(kind, of), P::IsIn(other, it)) => kind == other && is_in(&it, &of),
        _ => false,
    };
    let resource = match (wide.policy.resource_constraint(), narrow.policy.resource_constraint()) {
        (R::Any, _) => true,
        (R::Is(of), R::Is(it) | R::IsIn(it, _)) => of == it,
        (R::Is(of), R::Eq(it)) => of == *it.type_name(),
        (R::Eq(of), R::Eq(it)) => of == it,
        (R::In(of), R::Eq(it) | R::In(it) | R::IsIn(_, it)) => is_in(&it, &of),
        (R::IsIn(kind, of), R::IsIn(other, it)) => kind == other && is_in(&it, &of),
        _ => false,
    };
    principal
        && resource
        && covers_action(&wide.policy.action_constraint(), &narrow.policy.action_constraint())
}

fn covers_action(wide: &ActionConstraint, narrow: &ActionConstraint) -> bool {
    use ActionConstraint as A;
    match (wide, narrow) {
        (A::Any, _) => true,
        (_, A::Any) => false,
        (A::Eq(of), A::Eq(it)) => of == it,
        (A::Eq(of), A::In(all)) => all.iter().all(|it| it == of && !is_group(it)),
        (A::In(groups), A::Eq(it)) => groups.iter().any(|of| is_in(it, of)),
        (A::In(groups), A::In(all)) => all.iter().all(|it| groups.iter().any(|of| is_in(it, of))),
    }
}

fn is_group(action: &EntityUid) -> bool {
    let name: &str = action.id().unescaped();
    !CALLER_ACTIONS.contains(&name) && !name.starts_with("call:")
}

/// Whether `inner` is `outer` or below it, as far as names alone tell.
fn is_in(inner: &EntityUid, outer: &EntityUid) -> bool {
    if inner == outer {
        return true;
    }
    let kind = |of: &EntityUid| of.type_name().basename().to_owned();
    let (inner_id, outer_id): (&str, &str) = (inner.id().unescaped(), outer.id().unescaped());
    match (kind(inner).as_str(), kind(outer).as_str()) {
        ("Action", "Action") => match outer_id {
            USE => inner_id == CALL || inner_id.starts_with("call:") || !is_group(inner),
            CALL => inner_id.starts_with("call:"),
            _ => false,
        },
        ("Server" | "Tool" | "Resource" | "Prompt", "Fleet") => outer_id == FLEET,
        ("Tool" | "Resource" | "Prompt", "Server") => {
            inner_id.split_once('/').is_some_and(|(server, _)| server == outer_id)
        }
        ("Host", "Host") => inner_id.strip_suffix(outer_id).is_some_and(|rest| rest.ends_with('.')),
        _ => false,
    }
}

/// A list argument of which a forbid asks what all its elements are.
fn list_argument(bundle: &Bundle, policy: &Compiled) -> Option<String> {
    let lists = bundle
        .servers
        .values()
        .flat_map(|s| s.tools.values())
        .flat_map(|t| t.shape.texts().filter(|(name, _)| t.shape.is_list(name)).map(|(name, _)| name));
    let reads = |part: &str, name: &str, attribute: &str| {
        let context = json!({ ".": { "left": { "Var": "context" }, "attr": part } });
        contains(
            &policy.json,
            &json!({ ".": { "left": { ".": { "left": context, "attr": name } }, "attr": attribute } }),
        )
    };
    let all = [("paths", "ancestors"), ("urls", "hosts"), ("urls", "domains"), ("urls", "schemes")];
    lists
        .into_iter()
        .find(|name| all.iter().any(|(part, attribute)| reads(part, name, attribute)))
        .map(str::to_owned)
}

fn is_unliftable(policy: &Compiled) -> bool {
    let reads_age =
        contains(&policy.json, &json!({ ".": { "left": { "Var": "context" }, "attr": "auth_age_s" } }));
    policy.obligations.iter().any(|obligation| match obligation {
        Obligation::Approval(_) => false,
        Obligation::MaxAge(_) => !reads_age,
        Obligation::Mfa => !reads_user(policy, "amr") && !reads_user(policy, "acr"),
        Obligation::StepUp(_) => !reads_user(policy, "scopes"),
    })
}

fn contains(tree: &Value, part: &Value) -> bool {
    tree == part
        || match tree {
            Value::Object(object) => object.values().any(|child| contains(child, part)),
            Value::Array(children) => children.iter().any(|child| contains(child, part)),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::load;

    fn findings(text: &str) -> Vec<(String, Kind)> {
        lint(&load(text)).into_iter().map(|f| (f.policy, f.kind)).collect()
    }

    #[test]
    fn the_shipped_policies_are_clean() {
        assert_eq!(findings(""), []);
    }

    #[test]
    fn finds_what_never_counts() {
        let found = findings(
            "@id(\"wide\") permit (principal in Role::\"reader\", action in Action::\"call\", resource in Server::\"files\");
             @id(\"narrow\") permit (principal in Role::\"reader\", action == Action::\"call:files.read_file\", resource == Tool::\"files/read_file\");
             @id(\"kept\") permit (principal in Role::\"writer\", action == Action::\"call:files.read_file\", resource);
             @id(\"none\") forbid (principal, action in Action::\"call\", resource in Server::\"mail\");
             @id(\"dead\") permit (principal, action == Action::\"call:mail.send\", resource == Tool::\"mail/send\");
             @id(\"live\") permit (principal, action == Action::\"call:mail.send\", resource);",
        );
        assert_eq!(
            found,
            [
                ("dead".to_owned(), Kind::ForbiddenAnyway("none".into())),
                ("narrow".to_owned(), Kind::Shadowed("wide".into())),
            ]
        );
    }

    #[test]
    fn finds_what_goes_by_the_groups_of_whoever_vouches() {
        let bundle = load(
            "@id(\"scope\") permit (principal in Group::\"g\", action in Action::\"use\", resource);
             @id(\"when\") permit (principal, action in Action::\"use\", resource) when { principal in Group::\"g\" };
             @id(\"groups\") permit (principal, action in Action::\"use\", resource) when { principal.groups.contains(\"g\") };
             @id(\"roles\") permit (principal, action in Action::\"use\", resource) when { principal.roles.contains(\"r\") };
             @id(\"spared\") forbid (principal, action in Action::\"use\", resource) unless { principal in Group::\"g\" };
             @id(\"issuer\") permit (principal in Group::\"g\", action in Action::\"use\", resource) when { principal.issuer == \"https://idp\" };
             @id(\"role\") permit (principal in Role::\"reader\", action, resource);
             @id(\"forbidden\") forbid (principal in Group::\"g\", action in Action::\"use\", resource);",
        );
        let found: Vec<_> = of_any_issuer(&bundle).into_iter().map(|f| f.policy).collect();
        assert_eq!(found, ["groups", "roles", "scope", "spared", "when"]);
        assert!(of_any_issuer(&bundle).iter().all(|f| f.kind == Kind::AnyIssuer));
    }

    #[test]
    fn of_twins_one_is_superfluous() {
        let found = findings(
            "@id(\"a\") permit (principal, action, resource); @id(\"b\") permit (principal, action, resource);",
        );
        let b = ("b".to_owned(), Kind::Shadowed("a".into()));
        assert!(found.contains(&b) && found.iter().all(|(id, _)| id != "a"), "{found:?}");
    }

    #[test]
    fn finds_forbids_that_do_not_hold_what_they_seem_to() {
        let found = findings(
            "@id(\"list\") forbid (principal, action == Action::\"call:files.read_many\", resource)
                when { context.paths has paths && context.paths.paths.ancestors.contains(\"/etc\") };
             @id(\"any\") forbid (principal, action == Action::\"call:files.read_many\", resource)
                when { context.paths has paths && context.paths.paths.any_ancestors.contains(\"/etc\") };
             @id(\"stuck\") @step_up(\"x\") forbid (principal, action == Action::\"list\", resource);
             @id(\"free\") @step_up(\"x\") forbid (principal, action == Action::\"list\", resource) unless { principal.scopes.contains(\"x\") };",
        );
        let list = ("list".to_owned(), Kind::ListInForbid("paths".into()));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.contains(&list) && found.contains(&("stuck".to_owned(), Kind::UnliftableStepUp)));
        // What is unconditional and never lifted covers the conditional one beside it.
        assert!(!found.iter().any(|(id, _)| id == "any"));
    }
}
