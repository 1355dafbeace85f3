//! An identity assertion for a token: enterprise-managed authorization (ID-JAG, RFC 7523 §2.1; spec.md F-46 to F-50;
//! attacks.md AA-36). The enterprise's policy at the identity provider stands in for consent, so there is no page.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bartizan_model::Timestamp;
use bytes::Bytes;
use http::Response;
use serde_json::json;
use url::Url;

use crate::{
    Algorithm,
    binding::Binding,
    discovery::KeyPlace,
    facade::{
        AssertionIssuer, Facade, FacadeSurroundings, Person,
        mint::{Mint, Who},
        refusal::Refusal,
        token::Request,
    },
    json::Object,
    jwks::IssuerKeys,
    jws::{KeyFrom, Unverified},
    profile::authentication,
    scope,
};

/// How far ahead an assertion may expire.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// An identity provider whose assertions are taken.
pub(crate) struct Trusted {
    issuer: String,
    algorithms: BTreeSet<Algorithm>,
    keys: IssuerKeys,
}

impl Trusted {
    /// `None` if its URL is none, which is one of the configuration's problems already.
    pub fn new(config: &AssertionIssuer, lent: &FacadeSurroundings<'_>) -> Option<Self> {
        let place = match &config.jwks_url {
            Some(url) => KeyPlace::Keys(url.clone()),
            None => KeyPlace::of_issuer(&Url::parse(&config.issuer).ok()?),
        };
        let fetch = (lent.fetch)(config.ca.as_deref());
        Some(Self {
            issuer: config.issuer.clone(),
            algorithms: config.algorithms.clone(),
            keys: IssuerKeys::new(config.issuer.clone(), place, fetch, Arc::clone(&lent.clock)),
        })
    }
}

impl Facade {
    pub(crate) async fn take_assertion(&self, request: Request<'_>) -> Result<Response<Bytes>, Refusal> {
        let Request { form, client, proof, peer, .. } = request;
        let assertion = form.get("assertion").ok_or(Refusal::Request("`assertion` is missing"))?;
        let claims = self.check_identity(assertion, client.id()).await?;
        let bad = |_| Refusal::Grant("assertion.claims");
        let named = claims.one_or_more("resource").map_err(bad)?.unwrap_or_default();
        let [named] = named.as_slice() else { return Err(Refusal::Grant("assertion.resource")) };
        if form.has("resource") && form.get("resource") != Some(named) {
            return Err(Refusal::Target);
        }
        let resource = self.resource_unasked(Some(named)).ok_or(Refusal::Target)?;
        let binding = Binding::of(&claims).map_err(|_| Refusal::Grant("assertion.binding"))?;
        let jkt = proof.as_ref().map(|proof| &proof.jkt);
        if binding.certificate.is_some() || (binding.jkt.is_some() && binding.jkt.as_ref() != jkt) {
            return Err(Refusal::Grant("assertion.binding"));
        }
        // What the identity provider allows, what is asked for, and what the resource knows: all three.
        let scopes = match claims.text("scope").map_err(bad)?.map(scope::parse) {
            None => self.scopes(form.get("scope"), resource, &client).ok_or(Refusal::Scope)?,
            Some(allowed) => {
                let asked = form.get("scope").map(scope::parse);
                if asked.as_ref().is_some_and(|asked| !asked.is_subset(&allowed)) {
                    return Err(Refusal::Scope);
                }
                let is_known = |scope: &String| resource.scopes.contains_key(scope) && client.may_have(scope);
                let scopes: Vec<_> = asked.unwrap_or(allowed).into_iter().filter(is_known).collect();
                if scopes.is_empty() { Err(Refusal::Scope) } else { Ok(scopes) }?
            }
        };
        let authentication = authentication(&claims).map_err(|_| Refusal::Grant("assertion.claims"))?;
        claims.needed_time("iat").map_err(bad)?;
        let person = Person {
            // Issuer and subject, never an address of e-mail: that may be somebody else's tomorrow (F-50).
            issuer: claims.needed_text("iss").map_err(bad)?.to_owned(),
            subject: claims.needed_text("sub").map_err(bad)?.to_owned(),
            name: None,
            methods: authentication.methods,
            contexts: authentication.contexts,
            // When the provider does not say it, long ago: a fresh assertion is no fresh sign-in (spec.md F-50).
            at: authentication.at.unwrap_or(Timestamp::from_unix(0)),
            roles: BTreeSet::new(),
            groups: BTreeSet::new(),
            sign_in: None,
        };
        // Last of all that can fail, so that a request with a slip in it can be repeated.
        let key = self.use_up(proof).await?;
        self.use_once(&claims, LIFE).await?;
        let mint = Mint {
            who: Who::Person(&person),
            client: client.id(),
            resource: resource.url.as_str(),
            scopes: &scopes,
            grant: None,
            key: &key,
            until: None,
            reason: "assertion.taken",
            peer,
        };
        self.give(&mint, json!({})).await
    }

    /// The claims of an assertion that a trusted identity provider made for this server and this client.
    async fn check_identity(&self, assertion: &str, client: &str) -> Result<Object, Refusal> {
        let bad = Refusal::Grant;
        let unverified =
            Unverified::parse(assertion, KeyFrom::Issuer).map_err(|_| bad("assertion.malformed"))?;
        if unverified.kind.as_deref() != Some("oauth-id-jag+jwt") {
            return Err(bad("assertion.type"));
        }
        let issuer = unverified.issuer().map_err(|_| bad("assertion.issuer"))?;
        let trusted = self.trusted.iter().find(|trusted| trusted.issuer == issuer);
        let trusted = trusted.ok_or(bad("assertion.issuer"))?;
        if !trusted.algorithms.contains(&unverified.algorithm) {
            return Err(bad("assertion.algorithm"));
        }
        let key = trusted.keys.find(unverified.kid.as_deref()).await.map_err(|_| bad("assertion.key"))?;
        let claims = unverified.verify(&key).map_err(|_| bad("assertion.signature"))?.into_claims();
        let audience = claims.one_or_more("aud").ok().flatten();
        if audience.as_deref() != Some(&[self.issuer.as_str()]) {
            return Err(bad("assertion.audience"));
        }
        if claims.text("client_id").ok().flatten() != Some(client) {
            return Err(bad("assertion.client"));
        }
        Ok(claims)
    }
}
