//! The token endpoint (RFC 6749 §3.2): which grant is meant, and who asks for it.

use std::net::IpAddr;

use bartizan_store::Digest;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, header};

use super::{
    Asked, Facade, GrantType, authenticate::Proven, form::Parameters, known::Known, refusal::Refusal,
};
use crate::{
    config::Constraint,
    dpop::{self, Proof},
};

/// A request whose client is known.
pub(crate) struct Request<'a> {
    pub form: &'a Parameters,
    pub client: Proven,
    /// The DPoP proof that was shown. It may have been used before: [`Facade::use_up`].
    pub proof: Option<Proof>,
    /// Where it comes from.
    pub peer: IpAddr,
    /// What comes to be known of it.
    pub known: &'a mut Known,
}

/// The thumbprint of the DPoP key that a request showed by a proof, which is used up; or that it showed none. Only
/// [`Facade::use_up`] makes one, and no token is made without.
pub(crate) struct ShownKey(Option<String>);

impl ShownKey {
    pub fn thumbprint(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl Facade {
    /// The token endpoint.
    pub(crate) async fn token(
        &self,
        asked: &Asked<'_>,
        known: &mut Known,
    ) -> Result<Response<Bytes>, Refusal> {
        let form = form(asked)?;
        if form.is_broken("resource") {
            return Err(Refusal::Target);
        }
        if form.is_repeating() {
            return Err(Refusal::Request("a parameter is there twice"));
        }
        let name = form.get("grant_type").ok_or(Refusal::Request("`grant_type` is missing"))?;
        let grant =
            GrantType::named(name).filter(|grant| self.offers(*grant)).ok_or(Refusal::UnsupportedGrant)?;
        let client = self.authenticate(asked, &form, known).await?;
        if !client.may(grant) || (client.is_public() && grant.needs_proof()) {
            return Err(Refusal::UnauthorizedClient);
        }
        let proof = self.proof(asked.headers)?;
        let needs_proof = client.metadata.dpop || self.config.dpop == Constraint::Required;
        if needs_proof && proof.is_none() {
            return Err(Refusal::Proof("a DPoP proof is needed"));
        }
        let request = Request { form: &form, client, proof, peer: asked.peer, known };
        match grant {
            GrantType::AuthorizationCode => self.redeem(request).await,
            GrantType::ClientCredentials => self.act_for_itself(request).await,
            GrantType::JwtBearer => self.take_assertion(request).await,
            GrantType::RefreshToken => self.refresh(request).await,
            GrantType::TokenExchange => self.exchange(request).await,
        }
    }

    /// Whether a grant is offered at all.
    pub(crate) fn offers(&self, grant: GrantType) -> bool {
        let is_configured = || self.config.clients.iter().any(|client| client.grants.contains(&grant));
        match grant {
            GrantType::AuthorizationCode | GrantType::RefreshToken => true,
            GrantType::ClientCredentials | GrantType::TokenExchange => is_configured(),
            GrantType::JwtBearer => !self.config.assertion_issuers.is_empty() && is_configured(),
        }
    }

    /// The request's DPoP proof, if it has one (RFC 9449 §5).
    fn proof(&self, headers: &HeaderMap) -> Result<Option<Proof>, Refusal> {
        let mut lines = headers.get_all("dpop").iter();
        let line = match (lines.next(), lines.next()) {
            (None, _) => return Ok(None),
            (Some(line), None) => line.to_str().map_err(|_| Refusal::Proof("the DPoP proof is wrong"))?,
            (Some(_), Some(_)) => return Err(Refusal::Proof("there are two DPoP proofs")),
        };
        let now = self.clock.now();
        let proof = dpop::read(line, &Method::POST, &self.token_url, None, now).map_err(|error| {
            tracing::info!(%error, reason = "proof.invalid", "a DPoP proof at the token endpoint is refused");
            Refusal::Proof("the DPoP proof is wrong")
        })?;
        dpop::check_nonce(&proof, self.nonces.as_ref()).map_err(|_| Refusal::Nonce)?;
        Ok(Some(proof))
    }

    /// Uses a proof up. Last, when nothing but that stands against the grant: anybody makes proofs, and each that is noted is a
    /// durable write, which others wait for.
    ///
    /// # Errors
    /// [`Refusal::ProofReplayed`]; [`Refusal::Unavailable`].
    pub(crate) async fn use_up(&self, proof: Option<Proof>) -> Result<ShownKey, Refusal> {
        let Some(proof) = proof else { return Ok(ShownKey(None)) };
        if !self.grants.first_use(Digest(proof.id), proof.until, self.clock.now()).await? {
            return Err(Refusal::ProofReplayed);
        }
        Ok(ShownKey(Some(proof.jkt)))
    }
}

/// The form of a request (RFC 6749 §3.2). What stands in the query counts for nothing: queries end up in logs.
pub(crate) fn form(asked: &Asked<'_>) -> Result<Parameters, Refusal> {
    let kind =
        asked.headers.get(header::CONTENT_TYPE).and_then(|line| line.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Refusal::Request("send a form: application/x-www-form-urlencoded"));
    }
    Ok(Parameters::parse(asked.body))
}
