//! What a caller has to do before a server's own credential can be had for them, said before anything is sent: a challenge is
//! HTTP's to carry, and an answer that has begun carries none.

use std::sync::Arc;

use bartizan_mcp::{Era, Refusal};
use bartizan_oauth::Error;

use crate::{Asker, server::Server, upstream::Failure};

/// Checks that `asker` need not sign in again for the credential of `server`, and is one of those it is for.
///
/// # Errors
/// 401 with the challenge that says how to sign in (Entra's `claims`, RFC 9470), or 403. Whatever else is wrong is found when
/// the request is sent.
pub async fn check(asker: &Asker, server: &Arc<Server>, era: Era) -> Result<(), Refusal> {
    let Some(failure) = server.not_for(asker).await else { return Ok(()) };
    let refusal = refusal(&failure, server.name().as_str(), asker);
    let is_over_http = era == Era::Modern || !refusal.challenges.is_empty();
    Err(if is_over_http { refusal } else { Refusal { status: 200, ..refusal } })
}

/// A failure as `asker` reads it, with the challenge that would repair it, if one would.
pub fn refusal(failure: &Failure, server: &str, asker: &Asker) -> Refusal {
    failure.refusal(server).with_challenges(challenges(failure, asker))
}

/// The challenge that would repair `failure` for `asker`, if one would.
pub fn challenges(failure: &Failure, asker: &Asker) -> Vec<String> {
    match (failure, &asker.access) {
        (Failure::StepUp(step_up), Some(access)) => {
            access.challenge(&Error::AuthenticationInsufficient(step_up.clone()))
        }
        _ => Vec::new(),
    }
}
