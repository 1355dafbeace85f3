//! One token for another (RFC 8693; attacks.md AA-36). It narrows: fewer scopes, an earlier end, never another person, and
//! for a token of ours never another resource.

use std::time::Duration;

use bartizan_model::Timestamp;
use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::{
    Error, IssuerConfig, Principal, VerifiedToken,
    facade::{
        ExchangeIssuer, Facade, FacadeSurroundings, Person,
        mint::{Mint, Who},
        refusal::Refusal,
        token::Request,
    },
    jws::{KeyFrom, Unverified},
    scope,
    verify::{Issuer, verified},
};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// The longest life of a token that is exchanged.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Somebody whose tokens are exchanged for ours.
pub(crate) struct Exchanged {
    issuer: Issuer,
    audience: String,
}

impl Exchanged {
    /// One for each `iss` the issuer's tokens can have.
    pub fn of(config: &ExchangeIssuer, lent: &FacadeSurroundings<'_>) -> Vec<Self> {
        let issuers: Vec<_> = match &config.issuer {
            IssuerConfig::Oidc(oidc) => {
                vec![oidc.issuer((lent.fetch)(oidc.ca.as_deref()), &lent.clock, MAX_LIFE)]
            }
            IssuerConfig::Entra(entra) => {
                let of_version = |version| {
                    entra.issuer_of(version, (lent.fetch)(entra.ca.as_deref()), &lent.clock, MAX_LIFE)
                };
                entra.versions.iter().copied().map(of_version).collect()
            }
        };
        let exchanged = |issuer| Self { issuer, audience: config.audience.clone() };
        issuers.into_iter().flatten().map(exchanged).collect()
    }
}

impl Facade {
    pub(crate) async fn exchange(&self, request: Request<'_>) -> Result<Response<Bytes>, Refusal> {
        let Request { form, client, proof, peer, .. } = request;
        if form.has("actor_token") || form.has("actor_token_type") {
            return Err(Refusal::Request("nobody acts for another here: leave out `actor_token`"));
        }
        if !matches!(form.get("subject_token_type"), Some(ACCESS_TOKEN | JWT)) {
            return Err(Refusal::Request("`subject_token_type` is an access token's"));
        }
        if !matches!(form.get("requested_token_type"), None | Some(ACCESS_TOKEN | JWT)) {
            return Err(Refusal::Request("`requested_token_type` is an access token's"));
        }
        let token = form.get("subject_token").ok_or(Refusal::Request("`subject_token` is missing"))?;
        let subject = self.subject(token).await.map_err(|error| {
            tracing::info!(client = client.id(), %error, reason = "exchange.subject", "a subject token is refused");
            Refusal::Grant("exchange.subject")
        })?;
        if subject.principal() != Principal::User || subject.identity.groups_elsewhere {
            return Err(Refusal::Grant("exchange.subject"));
        }
        let binding = &subject.binding;
        let jkt = proof.as_ref().map(|proof| &proof.jkt);
        if binding.certificate.is_some() || (binding.jkt.is_some() && binding.jkt.as_ref() != jkt) {
            return Err(Refusal::Grant("exchange.binding"));
        }
        let ours = subject.identity.ours.as_ref();
        let asked = match (form.get("resource"), form.get("audience")) {
            (Some(resource), Some(audience)) if resource != audience => return Err(Refusal::Target),
            (Some(resource), _) | (None, Some(resource)) => Some(resource),
            (None, None) => ours.map(|_| subject.resource()),
        };
        let resource = self.resource_unasked(asked).ok_or(Refusal::Target)?;
        if ours.is_some() && resource.url.as_str() != subject.resource() {
            return Err(Refusal::Target);
        }
        let scopes: Vec<String> = match form.get("scope").map(scope::parse) {
            Some(asked) if !asked.is_subset(subject.scopes()) => return Err(Refusal::Scope),
            Some(asked) => asked.into_iter().collect(),
            None => subject.scopes().iter().cloned().collect(),
        };
        let is_known = |scope: &String| resource.scopes.contains_key(scope) && client.may_have(scope);
        let scopes: Vec<_> = scopes.into_iter().filter(is_known).collect();
        if scopes.is_empty() {
            return Err(Refusal::Scope);
        }
        let person = Person {
            issuer: subject.caller().issuer().to_owned(),
            subject: subject.caller().subject().to_owned(),
            name: None,
            methods: subject.authentication_methods().to_vec(),
            contexts: subject.authentication_contexts().to_vec(),
            // When nobody says it, long ago: a fresh token is no fresh sign-in.
            at: subject.authenticated_at().unwrap_or(Timestamp::from_unix(0)),
            roles: subject.roles().clone(),
            groups: subject.groups().clone(),
            sign_in: subject.sign_in().map(|sign_in| sign_in.id),
        };
        let mint = Mint {
            who: Who::Person(&person),
            client: client.id(),
            resource: resource.url.as_str(),
            scopes: &scopes,
            grant: ours.and_then(|ours| ours.grant.as_deref()),
            key: &self.use_up(proof).await?,
            until: Some(subject.expires_at()),
            reason: "token.exchanged",
            peer,
        };
        self.give(&mint, json!({ "issued_token_type": ACCESS_TOKEN })).await
    }

    /// What a subject token says, if it is ours or a configured issuer's and for being exchanged here.
    async fn subject(&self, token: &str) -> Result<VerifiedToken, Error> {
        let unverified = Unverified::parse(token, KeyFrom::Issuer)?;
        let issuer = unverified.issuer()?;
        if issuer == self.issuer {
            return self.own_token(token).await;
        }
        let exchanged = self.exchanged.iter().find(|exchanged| exchanged.issuer.name == issuer);
        let Exchanged { issuer, audience } = exchanged.ok_or(Error::IssuerUnknown)?;
        let now = self.clock.now();
        let (claims, times) = issuer.read(unverified, now).await?;
        if claims.one_or_more("aud")?.as_deref() != Some(&[audience.as_str()]) {
            return Err(Error::AudienceWrong { resource: audience.clone() });
        }
        let identity = issuer.profile.identify(&claims)?;
        let token = verified(&claims, identity, times, audience)?;
        if self.denied.denies(&token) { Err(Error::Denied) } else { Ok(token) }
    }
}
