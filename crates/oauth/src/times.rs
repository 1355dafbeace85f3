//! When a token is valid (RFC 7519 §4.1; attacks.md AA-19, AA-38).

use std::time::Duration;

use bartizan_model::Timestamp;

use crate::{Error, json::Object};

/// How far an issuer's clock may be from ours.
const SKEW: Duration = Duration::from_secs(60);

/// Which times a token must have, beside `exp`.
#[derive(Clone, Copy)]
pub(crate) struct Needed {
    pub issued_at: bool,
    pub not_before: bool,
}

/// Checks the times of a token; answers when it was issued (1970 if it does not say) and when it expires.
pub(crate) fn check(
    claims: &Object,
    needed: Needed,
    max_lifetime: Duration,
    now: Timestamp,
) -> Result<(Timestamp, Timestamp), Error> {
    let expires_at = claims.needed_time("exp")?;
    let issued_at = claims.time("iat")?;
    let not_before = claims.time("nbf")?;
    if needed.issued_at && issued_at.is_none() {
        return Err(Error::ClaimMissing("iat"));
    }
    if needed.not_before && not_before.is_none() {
        return Err(Error::ClaimMissing("nbf"));
    }
    if now >= expires_at.plus(SKEW) {
        return Err(Error::Expired);
    }
    let is_early = |time: &Timestamp| time.since(now) > SKEW;
    if not_before.is_some_and(|time| is_early(&time)) || issued_at.is_some_and(|time| is_early(&time)) {
        return Err(Error::NotYetValid);
    }
    if expires_at.since(issued_at.unwrap_or(now)) > max_lifetime {
        return Err(Error::LifetimeTooLong);
    }
    Ok((issued_at.unwrap_or(Timestamp::from_unix(0)), expires_at))
}
