//! Why a decision is what it is, in words.

use std::{collections::BTreeSet, fmt};

use cedar_policy::Effect;

use crate::{Bundle, Decision, Obligation, Query, decision::Reason, record::RecordedQuery};

/// A decision with everything that led to it.
#[derive(Debug)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The user's name in policies.
    pub user: String,
    /// The roles that the configuration gives him.
    pub roles: BTreeSet<String>,
    /// The action's name in policies.
    pub action: String,
    /// Every policy whose scope fits, in order of its id.
    pub considered: Vec<Considered>,
}

/// One policy whose scope fits.
#[derive(Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its id.
    pub id: String,
    /// It permits; otherwise it forbids.
    pub permits: bool,
    /// Whether its conditions hold.
    pub outcome: Outcome,
    /// What lifts it.
    pub obligations: Vec<Obligation>,
}

/// What became of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It could not be evaluated.
    Failed(String),
    /// Its conditions hold.
    Matches,
    /// They do not.
    Misses,
    /// The question never came so far, since arguments or addresses have two readings.
    NotAsked,
}

/// Explains what `bundle` answers to `recorded`.
pub fn explain(bundle: &Bundle, recorded: &RecordedQuery) -> Explanation {
    recorded
        .with(bundle, |bundle, query| explain_query(bundle, query, recorded.action.name(&recorded.server)))
}

fn explain_query(bundle: &Bundle, query: &Query<'_>, action: String) -> Explanation {
    let considered = bundle.considered(query);
    let considered = considered.into_iter().filter_map(|(id, outcome)| {
        let policy = bundle.policies.get(&id)?;
        let permits = policy.policy.effect() == Effect::Permit;
        Some(Considered { permits, outcome, obligations: policy.obligations.clone(), id })
    });
    Explanation {
        decision: bundle.authorize(query),
        user: query.principal.claims().user(),
        roles: query.principal.roles().clone(),
        action,
        considered: considered.collect(),
    }
}

impl fmt::Display for Obligation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approval(role) if role == "self" => f.write_str("the caller's own approval"),
            Self::Approval(role) => write!(f, "an approval by the role `{role}`"),
            Self::MaxAge(seconds) => write!(f, "a sign-in not older than {seconds} s"),
            Self::Mfa => f.write_str("a sign-in with a second factor"),
            Self::StepUp(scope) => write!(f, "the scope `{scope}`"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = if self.roles.is_empty() {
            "no role".to_owned()
        } else {
            list("role", self.roles.iter().map(String::as_str))
        };
        match &self.decision {
            Decision::Permit(_) => writeln!(f, "permitted")?,
            Decision::Deny(denial) => {
                writeln!(f, "denied ({}): {}", denial.reason.code(), denial.reason)?;
                for obligation in &denial.obligations {
                    writeln!(f, "  it would turn with {obligation}")?;
                }
            }
        }
        writeln!(f, "  user   {} ({roles})\n  action {}", self.user, self.action)?;
        if self.considered.is_empty() {
            writeln!(f, "  no policy speaks of this user, action and resource")?;
        }
        for Considered { id, permits, outcome, .. } in &self.considered {
            let effect = if *permits { "permit" } else { "forbid" };
            match outcome {
                Outcome::Failed(why) => writeln!(f, "  {effect} `{id}` cannot be evaluated: {why}")?,
                Outcome::Matches => writeln!(f, "  {effect} `{id}` matches")?,
                Outcome::Misses => {
                    writeln!(f, "  {effect} `{id}` fits in scope, but its conditions do not hold")?
                }
                Outcome::NotAsked => writeln!(f, "  {effect} `{id}` fits in scope, but was not asked")?,
            }
        }
        if let Some(Reason::Unmapped) = self.decision.denial().map(|d| &d.reason) {
            writeln!(f, "  `policy schema` shows which arguments policies can read; this call has others")?;
        }
        Ok(())
    }
}

fn list<'a>(of: &str, names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{of}{plural} {}", names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::RecordedAction,
        scene::{load, reader, surroundings},
    };

    #[test]
    fn says_which_policies_decided_and_what_would_turn_it() {
        let bundle = load(
            "@id(\"tools\") permit (principal in Role::\"reader\", action in Action::\"call\", resource);
             @id(\"apps\") permit (principal, action in Action::\"call\", resource) when { principal.app };
             @id(\"ask\") @approval(\"boss\") forbid (principal, action == Action::\"call:files.delete_file\", resource);
             @id(\"other\") permit (principal in Role::\"writer\", action in Action::\"call\", resource);",
        );
        let recorded = |tool: &str, arguments: &str| RecordedQuery {
            claims: reader(),
            client: "agent".into(),
            server: "files".into(),
            action: RecordedAction::Call { tool: tool.into(), arguments: Some(arguments.into()) },
            address: None,
            time: surroundings().now.as_unix(),
            era: Era::Modern,
            flow: Default::default(),
            approved: Vec::new(),
        };
        let text = explain(&bundle, &recorded("delete_file", "{}")).to_string();
        assert_eq!(
            text,
            "denied (policy.obligation): it needs more: a scope, a fresh sign-in or an approval\n\
             \x20 it would turn with an approval by the role `boss`\n\
             \x20 user   https://idp#rita (role reader)\n\
             \x20 action call:files.delete_file\n\
             \x20 permit `apps` fits in scope, but its conditions do not hold\n\
             \x20 forbid `ask` matches\n\
             \x20 forbid `flow.untrusted-meets-private` fits in scope, but its conditions do not hold\n\
             \x20 permit `tools` matches\n"
        );
        let unknown = explain(&bundle, &recorded("nothing", "{}")).to_string();
        assert!(unknown.contains("policy.unknown") && unknown.contains("no policy speaks"), "{unknown}");
    }

    use crate::Era;
}
