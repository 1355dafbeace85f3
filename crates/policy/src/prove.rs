//! Proofs over all requests at once, by an SMT solver (Cutler et al., *Cedar: A New Language for Expressive, Fast, Safe,
//! and Analyzable Authorization*, OOPSLA 2024).
//!
//! What is proved is said of the policies as Cedar reads them, which permit at least as much as a [`Bundle`] does: the
//! bundle also denies what cannot be read and what cannot be evaluated. Known facts go in with them: which tools there
//! are, where they belong and which labels they carry. Who is in which group is left open, so a counterexample may name
//! anybody.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
};

use cedar_policy::{EntityUid, Policy, PolicyId, PolicySet, RequestEnv};
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet, Env, err::Error as SymbolicError};

pub use cedar_policy_symcc::solver::{self, Solver};

use crate::{
    Bundle, Obligation, names,
    schema::{CALL, FLEET, uid},
};

/// What is to be proved of a bundle.
pub enum Claim<'a> {
    /// Another bundle permits exactly the same, whoever has approved a request.
    Equivalent(&'a Bundle),
    /// Nothing in this scope is ever permitted, whatever a person approves: a policy's scope and conditions, such as
    /// `principal in Role::"contractor", action in Action::"call", resource in Server::"payments"`.
    Never(&'a str),
    /// Whatever another bundle permits, this one does, and by no other approvals than that one.
    Subsumes(&'a Bundle),
}

/// What became of a claim.
#[derive(Debug)]
pub enum Verdict {
    /// It holds for every request.
    Proved {
        /// Kinds of requests that were looked at.
        kinds: usize,
    },
    /// It does not: this request shows it.
    Refuted(Box<Counterexample>),
    /// The solver gave up on these kinds of requests; the others hold.
    Unknown(Vec<String>),
}

/// A request that a claim is wrong about.
#[derive(Debug)]
pub struct Counterexample {
    env: Env,
    /// The roles whose approval it has.
    approved: BTreeSet<String>,
}

/// Why a claim cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The scope of [`Claim::Never`] is no Cedar scope, or fits no request.
    #[error("`{claim}` is no scope that any request fits: {reason}")]
    Claim {
        /// The scope.
        claim: String,
        /// What the parser or type checker says.
        reason: String,
    },
    /// No server is known, so nothing is asked of any: whatever is said of it would be proved.
    #[error(
        "no server is known, so any claim would hold: name a configuration whose gate has run, or a catalogue"
    )]
    NoServer,
    /// The policies cannot be put into formulas.
    #[error("the policies cannot be analysed: {0}")]
    Analysis(String),
    /// The solver failed.
    #[error("the solver failed: {0}")]
    Solver(String),
}

/// Judges `claim` of `bundle` with `solver`, a fresh process that understands SMT-LIB 2.7 with cvc5's sets.
///
/// # Errors
/// [`ProveError`].
pub async fn prove<S: Solver>(bundle: &Bundle, claim: &Claim<'_>, solver: S) -> Result<Verdict, ProveError> {
    let analysis = |error: &dyn fmt::Display| ProveError::Analysis(error.to_string());
    if bundle.servers.is_empty() {
        return Err(ProveError::NoServer);
    }
    let mut compiler = CedarSymCompiler::new(solver).map_err(|e| analysis(&e))?;
    let region = match claim {
        Claim::Never(scope) => Some(region(bundle, scope)?),
        Claim::Equivalent(_) | Claim::Subsumes(_) => None,
    };
    let kinds: Vec<RequestEnv> = match &region {
        Some(region) => region.get_valid_request_envs(&bundle.schema).collect(),
        None => bundle.schema.request_envs().collect(),
    };
    // The group of all calls is an action only for the type checker; nobody asks for it.
    let kinds: Vec<RequestEnv> =
        kinds.into_iter().filter(|kind| *kind.action() != bundle.types.action(CALL)).collect();
    let approvals = approvals(bundle, claim);
    let mut unknown = BTreeSet::new();
    for kind in &kinds {
        let compile =
            |set: &PolicySet| CompiledPolicySet::compile(set, kind, &bundle.schema).map_err(|e| explain(&e));
        let facts = fact_policy(bundle, kind)?;
        for approved in &approvals {
            let ours = compile(&with(bundle, &facts, approved)?)?;
            let found = match (claim, &region) {
                (Claim::Never(_), Some(region)) => {
                    let theirs =
                        compile(&PolicySet::from_policies([region.clone()]).map_err(|e| analysis(&e))?)?;
                    compiler.check_disjoint_with_counterexample_opt(&ours, &theirs).await
                }
                (Claim::Equivalent(other), _) => {
                    let theirs = compile(&with(other, &facts, approved)?)?;
                    compiler.check_equivalent_with_counterexample_opt(&ours, &theirs).await
                }
                (Claim::Subsumes(other), _) => {
                    let theirs = compile(&with(other, &facts, approved)?)?;
                    compiler.check_implies_with_counterexample_opt(&theirs, &ours).await
                }
                (Claim::Never(_), None) => continue,
            };
            match found {
                Ok(None) => {}
                Ok(Some(env)) => {
                    return Ok(Verdict::Refuted(Box::new(Counterexample {
                        env,
                        approved: approved.clone(),
                    })));
                }
                Err(SymbolicError::SolverUnknown) => {
                    unknown.insert(format!("{} on {}", kind.action(), kind.resource()));
                }
                Err(SymbolicError::SolverError(error)) => return Err(ProveError::Solver(error.to_string())),
                Err(error) => return Err(explain(&error)),
            }
        }
    }
    Ok(if unknown.is_empty() {
        Verdict::Proved { kinds: kinds.len() }
    } else {
        Verdict::Unknown(unknown.into_iter().collect())
    })
}

/// The approvals under which `claim` has to hold, by role, so that it holds under any.
///
/// What somebody may approve, everybody might. So nothing ever happens that does not happen after all have approved. Two
/// bundles permit the same under whatever approvals if they do when all have approved, and when all but one have, whichever
/// that is: a request that needs other approvals here than there is permitted by one of them alone while one of those is
/// lacking.
fn approvals(bundle: &Bundle, claim: &Claim<'_>) -> Vec<BTreeSet<String>> {
    let other = match claim {
        Claim::Equivalent(other) | Claim::Subsumes(other) => Some(*other),
        Claim::Never(_) => None,
    };
    let policies = [Some(bundle), other].into_iter().flatten().flat_map(|bundle| bundle.policies.values());
    let role = |obligation: &Obligation| match obligation {
        Obligation::Approval(role) => Some(role.clone()),
        Obligation::MaxAge(_) | Obligation::Mfa | Obligation::StepUp(_) => None,
    };
    let all: BTreeSet<String> =
        policies.flat_map(|policy| policy.obligations.iter().filter_map(role)).collect();
    let but_one = all.iter().map(|role| all.iter().filter(|one| *one != role).cloned().collect());
    let but_one: Vec<BTreeSet<String>> = but_one.filter(|_| other.is_some()).collect();
    [vec![all], but_one].concat()
}

fn explain(error: &SymbolicError) -> ProveError {
    ProveError::Analysis(error.to_string())
}

/// The policy that permits what must never be permitted.
fn region(bundle: &Bundle, scope: &str) -> Result<Policy, ProveError> {
    let wrong = |reason: String| ProveError::Claim { claim: scope.to_owned(), reason };
    let (scope_part, conditions) = match scope.find(" when ").into_iter().chain(scope.find(" unless ")).min()
    {
        Some(at) => scope.split_at_checked(at).unwrap_or((scope, "")),
        None => (scope, ""),
    };
    let policy = Policy::parse(Some(PolicyId::new("claim")), format!("permit ({scope_part}) {conditions};"))
        .map_err(|e| wrong(e.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let set = PolicySet::from_policies([policy.clone()]).map_err(|e| wrong(e.to_string()))?;
    let result = cedar_policy::Validator::new(bundle.schema.clone())
        .validate(&set, cedar_policy::ValidationMode::Strict);
    if let Some(error) = result.validation_errors().next() {
        return Err(wrong(error.to_string()));
    }
    // Of what there is not, and of what cannot be, anything would be proved.
    if let Some(warning) = result.validation_warnings().next() {
        return Err(wrong(warning.to_string()));
    }
    match names::unknown(&policy, (&bundle.catalog, &bundle.roles), &bundle.types).into_iter().next() {
        Some(unknown) => Err(wrong(unknown)),
        None => Ok(policy),
    }
}

/// The policies that are left of `bundle` once all of these roles have approved a request, and what is known.
fn with(bundle: &Bundle, facts: &Policy, approved: &BTreeSet<String>) -> Result<PolicySet, ProveError> {
    let is_met = |o: &Obligation| matches!(o, Obligation::Approval(role) if approved.contains(role));
    let is_lifted = |obligations: &[Obligation]| !obligations.is_empty() && obligations.iter().all(is_met);
    let kept = bundle.policies.values().filter(|p| !is_lifted(&p.obligations)).map(|p| p.policy.clone());
    PolicySet::from_policies(kept.chain([facts.clone()])).map_err(|e| ProveError::Analysis(e.to_string()))
}

/// A forbid of everything that contradicts what is known of this kind of request.
fn fact_policy(bundle: &Bundle, kind: &RequestEnv) -> Result<Policy, ProveError> {
    let mut all = vec!["true".to_owned()];
    let action: &str = kind.action().id().unescaped();
    for (server, entry) in &bundle.servers {
        for (tool, facts) in &entry.tools {
            if crate::schema::call_action(server, tool) == action {
                let labels = facts.labels;
                all.push(format!("resource == {}", facts.entity.uid));
                all.push(belongs(bundle, server));
                for (name, value) in [
                    ("sees_untrusted", labels.sees_untrusted),
                    ("reads_private", labels.reads_private),
                    ("sends_out", labels.sends_out),
                    ("destructive", labels.destructive),
                ] {
                    all.push(format!("resource.{name} == {value}"));
                }
                all.push("context.unmapped == false".into());
            }
        }
    }
    let types = &bundle.types;
    let any = |of: &dyn Fn(&str) -> String| {
        let mut each: Vec<String> = bundle.servers.keys().map(|name| format!("({})", of(name))).collect();
        each.sort();
        if each.is_empty() { "false".to_owned() } else { format!("({})", each.join(" || ")) }
    };
    let server = |name: &str| uid(&types.server, name);
    let fleet = uid(&types.fleet, FLEET);
    if *kind.resource() == types.resource || *kind.resource() == types.prompt {
        all.push(any(&|name| belongs(bundle, name)));
    }
    if *kind.action() == types.action("get") {
        all.push("context.unmapped == false".into());
    }
    if *kind.resource() == types.server {
        all.push(any(&|name| format!("resource == {} && resource in {fleet}", server(name))));
    }
    if *kind.principal() == types.server {
        all.push(any(&|name| format!("principal == {} && principal in {fleet}", server(name))));
    }
    let text = format!(
        "forbid (principal, action == {}, resource) unless {{ {} }};",
        kind.action(),
        all.join(" && ")
    );
    Policy::parse(Some(PolicyId::new("facts")), text).map_err(|e| ProveError::Analysis(e.to_string()))
}

/// The resource belongs to this server and no other.
fn belongs(bundle: &Bundle, name: &str) -> String {
    let mut text = format!("resource in {}", uid(&bundle.types.fleet, FLEET));
    let mut names: Vec<&String> = bundle.servers.keys().collect();
    names.sort();
    for other in names {
        let of: EntityUid = uid(&bundle.types.server, other);
        // Writing to a text does not fail.
        let _ = match other == name {
            true => write!(text, " && resource in {of} && resource.server == {of}"),
            false => write!(text, " && !(resource in {of})"),
        };
    }
    text
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Env { request, entities } = &self.env;
        let show = |of: Option<&EntityUid>| of.map_or_else(|| "?".to_owned(), ToString::to_string);
        writeln!(
            f,
            "principal {}\naction    {}\nresource  {}",
            show(request.principal()),
            show(request.action()),
            show(request.resource())
        )?;
        if let Some(context) = request.context() {
            writeln!(f, "context   {context}")?;
        }
        if !self.approved.is_empty() {
            let roles: Vec<_> = self.approved.iter().map(String::as_str).collect();
            writeln!(f, "approved  by {}", roles.join(", "))?;
        }
        // The solver fills in everything the schema knows; of interest is whom and what the request is about.
        let both = [request.principal(), request.resource()];
        let about = |uid: EntityUid| both.iter().flatten().any(|of| **of == uid);
        let mut lines: Vec<String> =
            entities.iter().filter(|e| about(e.uid())).map(ToString::to_string).collect();
        lines.sort();
        lines.iter().try_for_each(|line| writeln!(f, "entity    {line}"))
    }
}

#[cfg(test)]
mod tests;
