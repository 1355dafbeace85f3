//! An ID token, and the person it vouches for (OpenID Connect Core §3.1.3.7).

use std::time::Duration;

use bartizan_model::Timestamp;

use super::{Asking, Lost};
use crate::{
    Error,
    entra::{Entra, groups_elsewhere},
    facade::Person,
    json::Object,
    jwks::IssuerKeys,
    jws::{KeyFrom, Unverified},
    key::Algorithm,
    profile::{authentication, is_elsewhere, words, words_at},
    times,
};

/// The longest life of an ID token; it is looked at once, at its beginning.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long ago the ID token may have been made: it comes straight from the token endpoint.
const MAX_AGE: Duration = Duration::from_secs(600);
/// How far the provider's clock may be from ours when `max_age` is compared.
pub(in crate::signin) const SKEW: u64 = 60;

/// What an ID token must say.
pub(super) struct Expected<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    pub algorithms: &'a [Algorithm],
    pub asking: &'a Asking,
}

/// The claims of an ID token that was made by the provider, for us, for this sign-in, now.
///
/// # Errors
/// [`Lost::IdToken`], [`Lost::Nonce`], [`Lost::NotRecent`].
pub(super) async fn verify(
    text: &str,
    expected: &Expected<'_>,
    keys: &IssuerKeys,
    now: Timestamp,
) -> Result<Object, Lost> {
    let claims = signed(text, expected, keys).await.map_err(Lost::IdToken)?;
    let needed = times::Needed { issued_at: true, not_before: false };
    let (issued_at, _) = times::check(&claims, needed, MAX_LIFETIME, now).map_err(Lost::IdToken)?;
    if now.since(issued_at) > MAX_AGE {
        return Err(Lost::IdToken(Error::Expired));
    }
    let text = |name| claims.needed_text(name).map_err(|fault| Lost::IdToken(fault.into()));
    if text("nonce")? != expected.asking.nonce {
        return Err(Lost::Nonce);
    }
    if let Some(max) = expected.asking.max_age_s {
        let signed_in = claims.time("auth_time").map_err(|fault| Lost::IdToken(fault.into()))?;
        let age = signed_in.map(|at| now.since(at).as_secs());
        if age.is_none_or(|age| age > max.saturating_add(SKEW)) {
            return Err(Lost::NotRecent);
        }
    }
    Ok(claims)
}

async fn signed(text: &str, expected: &Expected<'_>, keys: &IssuerKeys) -> Result<Object, Error> {
    let unverified = Unverified::parse(text, KeyFrom::Issuer)?;
    // An access token or a logout token says what it is.
    if !matches!(unverified.kind.as_deref(), None | Some("jwt")) {
        return Err(Error::TokenTypeWrong);
    }
    if unverified.issuer()? != expected.issuer {
        return Err(Error::IssuerUnknown);
    }
    if !expected.algorithms.contains(&unverified.algorithm) {
        return Err(Error::AlgorithmRefused);
    }
    let key = keys.find(unverified.kid.as_deref()).await?;
    let signed = unverified.verify(&key)?;
    let claims = signed.claims();
    // We trust no other audience, so there is none (§3.1.3.7, 3).
    if claims.one_or_more("aud")?.ok_or(Error::ClaimMissing("aud"))? != [expected.client_id] {
        return Err(Error::AudienceWrong { resource: expected.client_id.to_owned() });
    }
    match claims.text("azp")? {
        Some(party) if party != expected.client_id => {
            Err(Error::AudienceWrong { resource: expected.client_id.to_owned() })
        }
        _ => Ok(claims.clone()),
    }
}

/// How the ID tokens of a provider are read.
pub(super) enum Reading {
    Entra(Entra),
    Oidc { roles_claim: Vec<String>, groups_claim: Vec<String> },
}

impl Reading {
    /// The person, and whether their groups are to be looked up elsewhere.
    ///
    /// # Errors
    /// [`Error`]: who cannot be told apart from everybody else is nobody.
    pub fn person(&self, claims: &Object, issuer: &str) -> Result<(Person, bool), Error> {
        let (subject, roles, groups, are_elsewhere) = match self {
            Self::Oidc { roles_claim, groups_claim } => {
                if is_elsewhere(claims, roles_claim)? {
                    return Err(Error::GroupsUnknown);
                }
                (
                    claims.needed_text("sub")?,
                    words_at(claims, roles_claim, "roles")?,
                    words_at(claims, groups_claim, "groups")?,
                    is_elsewhere(claims, groups_claim)?,
                )
            }
            Self::Entra(entra) => {
                if claims.needed_text("ver")? != "2.0" {
                    return Err(Error::ClaimMalformed("ver"));
                }
                if claims.needed_text("tid")? != entra.tenant {
                    return Err(Error::TenantWrong);
                }
                if !entra.allow_guests && entra.is_guest(claims)? {
                    return Err(Error::GuestRefused);
                }
                let words_of = |name: &'static str| {
                    claims
                        .value(name)
                        .map(|value| words(value, name))
                        .transpose()
                        .map(Option::unwrap_or_default)
                };
                (
                    claims.needed_text("oid")?,
                    words_of("roles")?,
                    words_of("groups")?,
                    groups_elsewhere(claims)?,
                )
            }
        };
        let authentication = authentication(claims)?;
        // Names can be changed by whoever bears them, so they are shown to that person and mean nothing.
        let name = ["name", "preferred_username", "email"]
            .into_iter()
            .find_map(|claim| claims.text(claim).ok().flatten())
            .map(|name| name.chars().take(200).collect());
        let person = Person {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            name,
            methods: authentication.methods,
            contexts: authentication.contexts,
            // A provider that does not say when leaves it as long ago as can be: too long, for whoever cares.
            at: authentication.at.unwrap_or(Timestamp::from_unix(0)),
            roles,
            groups,
        };
        Ok((person, are_elsewhere))
    }
}
