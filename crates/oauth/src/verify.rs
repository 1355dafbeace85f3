//! A bearer string goes in, a [`VerifiedToken`] comes out, or nothing does.

use std::{sync::Arc, time::Duration};

use bartizan_model::Timestamp;

use crate::{
    Blame, Error, ResourceServer, VerifiedToken,
    binding::Binding,
    cache::CacheKey,
    facade::Keyring,
    introspect::{Bearer, Introspector, Question, Said},
    json::Object,
    jwks::IssuerKeys,
    jws::{self, KeyFrom, Unverified},
    key::Algorithm,
    profile::{Profile, authentication},
    resource::Resource,
    times,
    token::Identity,
};

/// How long a verified JWT is believed without looking again: what an issuer's withdrawn key may outlive, at most.
const JWT_KEPT: Duration = Duration::from_secs(60);
/// The same for an introspected token, whose issuer may have revoked it meanwhile.
pub(crate) const OPAQUE_KEPT: Duration = Duration::from_secs(5);

/// Somebody whose tokens are taken.
pub(crate) struct Issuer {
    /// The exact string of `iss`.
    pub name: String,
    pub keys: Keys,
    pub algorithms: Vec<Algorithm>,
    pub profile: Profile,
    pub needs_not_before: bool,
    pub max_lifetime: Duration,
}

/// Where an issuer's keys come from.
pub(crate) enum Keys {
    /// From the issuer, over the network.
    Fetched(IssuerKeys),
    /// From our own memory: they sign our own tokens.
    Ours(Arc<Keyring>),
}

impl Issuer {
    /// The claims of an access token that this issuer signed, when it was issued, and when it expires.
    ///
    /// # Errors
    /// See [`Error`]; nothing of the token is believed before its signature is.
    pub async fn read(
        &self,
        unverified: Unverified<'_>,
        now: Timestamp,
    ) -> Result<(Object, (Timestamp, Timestamp)), Error> {
        if !self.algorithms.contains(&unverified.algorithm) {
            return Err(Error::AlgorithmRefused);
        }
        let kid = unverified.kid.as_deref();
        let key = match &self.keys {
            Keys::Fetched(keys) => keys.find(kid).await?,
            Keys::Ours(keyring) => keyring.find(kid, now)?,
        };
        let kind = unverified.kind.clone();
        let claims = unverified.verify(&key)?.into_claims();
        self.profile.check_kind(kind.as_deref(), &claims)?;
        let needed = times::Needed { issued_at: true, not_before: self.needs_not_before };
        let times = times::check(&claims, needed, self.max_lifetime, now)?;
        Ok((claims, times))
    }
}

/// Somebody whose opaque tokens are taken.
pub(crate) struct OpaqueIssuer {
    pub introspector: Introspector,
    pub profile: Profile,
    pub max_lifetime: Duration,
}

impl ResourceServer {
    /// Verifies a token for `resource`.
    ///
    /// # Errors
    /// See [`Error`]; nothing of the token is believed before its signature is, or before its issuer has spoken.
    pub(crate) async fn verify(&self, token: &str, resource: &Resource) -> Result<Arc<VerifiedToken>, Error> {
        if token.len() > jws::MAX_BYTES {
            return Err(Error::TokenTooLong);
        }
        let now = self.clock.now();
        let key = CacheKey::new(token, resource.identifier());
        let verified = match self.cache.find(&key, now) {
            Some(verified) => verified,
            None if looks_like_jwt(token) => {
                let verified = self.verify_jwt(token, resource, now).await?;
                self.keep(key, verified, now.plus(JWT_KEPT), now)
            }
            None => self.verify_shown(token, key, resource, now).await?,
        };
        // After the cache, so that a revocation does not wait for it.
        if self.denied.denies(&verified) { Err(Error::Denied) } else { Ok(verified) }
    }

    /// Keeps a token that was good, until `until` at most.
    fn keep(
        &self,
        key: CacheKey,
        verified: VerifiedToken,
        until: Timestamp,
        now: Timestamp,
    ) -> Arc<VerifiedToken> {
        let verified = Arc::new(VerifiedToken { shown: Some(key), ..verified });
        self.cache.keep(key, Arc::clone(&verified), until.min(verified.expires_at), now);
        verified
    }

    async fn verify_jwt(
        &self,
        token: &str,
        resource: &Resource,
        now: Timestamp,
    ) -> Result<VerifiedToken, Error> {
        let unverified = Unverified::parse(token, KeyFrom::Issuer)?;
        // The one use of an unverified claim: it chooses whose keys must have signed it.
        let issuer = self.issuers.get(unverified.issuer()?).ok_or(Error::IssuerUnknown)?;
        let (claims, times) = issuer.read(unverified, now).await?;
        self.believe(&claims, &issuer.profile, times, resource).await
    }

    /// The same for an opaque token that a request shows.
    async fn verify_shown(
        &self,
        token: &str,
        key: CacheKey,
        resource: &Resource,
        now: Timestamp,
    ) -> Result<Arc<VerifiedToken>, Error> {
        let question = if self.cache.was_good(&key, now) { Question::Known } else { Question::First };
        let answered = self.verify_opaque(Arc::new(Bearer::new(token)), key, resource, question, now).await;
        if answered.as_ref().is_err_and(|error| error.verdict().blame == Blame::Client) {
            self.cache.forget(&key);
        }
        answered
    }

    /// What the issuer of an opaque token says that it means. It is kept for a moment, from when the issuer was asked.
    pub(crate) async fn verify_opaque(
        &self,
        bearer: Arc<Bearer>,
        key: CacheKey,
        resource: &Resource,
        question: Question,
        now: Timestamp,
    ) -> Result<Arc<VerifiedToken>, Error> {
        let issuer = self.opaque.as_ref().ok_or(Error::TokenMalformed)?;
        let Said { claims, since } = issuer.introspector.ask(&bearer, key, question, now).await?;
        let needed = times::Needed { issued_at: false, not_before: false };
        let times = times::check(&claims, needed, issuer.max_lifetime, now)?;
        let believed = self.believe(&claims, &issuer.profile, times, resource).await?;
        let believed = VerifiedToken { bearer: Some(bearer), ..believed };
        Ok(self.keep(key, believed, since.plus(OPAQUE_KEPT), now))
    }

    /// What claims mean that an issuer vouches for.
    async fn believe(
        &self,
        claims: &Object,
        profile: &Profile,
        times: (Timestamp, Timestamp),
        resource: &Resource,
    ) -> Result<VerifiedToken, Error> {
        let audience = claims.one_or_more("aud")?.ok_or(Error::ClaimMissing("aud"))?;
        // Every member: a token that is good elsewhere too could be replayed here from there (AA-05).
        if !audience.iter().all(|member| resource.audience.iter().any(|accepted| accepted == member)) {
            return Err(Error::AudienceWrong { resource: resource.identifier().to_owned() });
        }
        let mut identity = profile.identify(claims)?;
        identity.scopes = self.hierarchy.widen(identity.scopes);
        profile.look_up(&mut identity, self.groups.as_deref()).await?;
        verified(claims, identity, times, resource.identifier())
    }
}

/// A token whose claims an issuer vouches for, good for `resource`.
pub(crate) fn verified(
    claims: &Object,
    identity: Identity,
    (issued_at, expires_at): (Timestamp, Timestamp),
    resource: &str,
) -> Result<VerifiedToken, Error> {
    let audience = claims.one_or_more("aud")?.ok_or(Error::ClaimMissing("aud"))?;
    let token_id = match claims.text("jti")? {
        Some(id) => Some(id),
        None => claims.text("uti")?,
    };
    Ok(VerifiedToken {
        resource: resource.to_owned(),
        audience: audience.into_iter().map(str::to_owned).collect(),
        identity,
        authentication: authentication(claims)?,
        binding: Binding::of(claims)?,
        token_id: token_id.map(str::to_owned),
        issued_at,
        expires_at,
        shown: None,
        bearer: None,
    })
}

/// Whether a token is read here rather than asked about. What begins like a JWT is never sent to an introspection
/// endpoint: a JWT that fails here must not get a second chance there.
fn looks_like_jwt(token: &str) -> bool {
    token.starts_with("eyJ") || token.bytes().filter(|b| *b == b'.').count() == 2
}
