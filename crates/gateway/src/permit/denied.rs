//! What becomes of a decision: the proof that a request was permitted, or what the caller reads.

use bartizan_mcp::{Era, Refusal, code, json::quote};
use bartizan_oauth::{AuthenticationRequired, Error};
use bartizan_policy::{Decision, Denial, Obligation, Reason};
use bartizan_store::DatabaseError;

use super::Permitted;
use crate::{Asker, server::Server};

/// The proof, or what the caller reads. Whoever records the refusal tells the operator of it too.
pub(super) fn permitted(
    decision: Decision,
    asker: &Asker,
    server: &Server,
    era: Era,
    because: &str,
) -> Result<Permitted, Refusal> {
    match decision {
        Decision::Permit(permit) => Ok(Permitted {
            policies: permit.policies().to_vec(),
            approvals: Vec::new(),
            labels: Vec::new(),
            attributes: None,
        }),
        Decision::Deny(denial) => {
            Err(denied(&denial, asker, server, era, because).with_policies(&denial.policies))
        }
    }
}

fn denied(denial: &Denial, asker: &Asker, server: &Server, era: Era, because: &str) -> Refusal {
    let status = |modern| if era == Era::Modern { modern } else { 200 };
    if matches!(denial.reason, Reason::Unknown) {
        return unknown();
    }
    let needs: Vec<_> = denial
        .obligations
        .iter()
        .map(|obligation| match obligation {
            Obligation::Approval(role) => format!("an approval by `{role}`"),
            Obligation::MaxAge(seconds) => format!("a sign-in no older than {seconds} seconds"),
            Obligation::Mfa => "a sign-in with a second factor".to_owned(),
            Obligation::StepUp(scope) => format!("the scope `{scope}`"),
        })
        .collect();
    let mut text = format!("the policy does not permit it: {}", denial.reason);
    if !needs.is_empty() {
        text = format!("{text} ({})", needs.join(", "));
    }
    // What entered the window is no reason why an argument or an address cannot be read.
    let is_decided = matches!(denial.reason, Reason::Forbidden | Reason::NoPermit | Reason::Obligation);
    if is_decided && !because.is_empty() {
        text = format!("{text}, because {because}");
    }
    let refusal = Refusal::new(status(403), code::FORBIDDEN, text).with_data(format!(
        r#"{{"source":"bartizan","reason":"{}","server":{}}}"#,
        denial.reason.code(),
        quote(server.name().as_str())
    ));
    match step_up(&denial.obligations, asker) {
        // The challenge is HTTP's, in either era.
        Some((status, challenges)) => Refusal { status, ..refusal.with_challenges(challenges) },
        None => refusal,
    }
}

/// The status and challenge by which a client gets a token that meets `obligations`, if a token can (spec.md E-07, E-08;
/// RFC 9470).
fn step_up(obligations: &[Obligation], asker: &Asker) -> Option<(u16, Vec<String>)> {
    let access = asker.access.as_ref()?;
    let mut scopes = Vec::new();
    let mut sign_in = AuthenticationRequired::default();
    for obligation in obligations {
        match obligation {
            // Asked for once the token is good enough.
            Obligation::Approval(_) => {}
            Obligation::MaxAge(seconds) => sign_in.max_age_s = Some(*seconds),
            Obligation::Mfa => sign_in.contexts.push("mfa".to_owned()),
            Obligation::StepUp(scope) => scopes.push(scope.clone()),
        }
    }
    let error = if !scopes.is_empty() {
        Error::ScopeInsufficient { needed: scopes }
    } else if sign_in == AuthenticationRequired::default() {
        return None;
    } else {
        access.token().lacking(&sign_in, sign_in.contexts.is_empty())
    };
    Some((error.verdict().status, access.challenge(&error)))
}

/// A tool that may not be seen is answered for as one that is not there.
pub(super) fn unknown() -> Refusal {
    Refusal::new(200, code::INVALID_PARAMS, "there is no such tool")
}

pub(super) fn unusable(error: DatabaseError) -> Refusal {
    tracing::error!(%error, "the record of information flow cannot be used");
    unready()
}

pub(super) fn unready() -> Refusal {
    Refusal::new(503, code::LIMIT, "the policy cannot be asked now; try again later")
        .with_data(r#"{"source":"bartizan","reason":"policy.unavailable"}"#)
}
