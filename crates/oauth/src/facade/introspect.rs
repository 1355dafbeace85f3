//! What a token of ours means (RFC 7662; attacks.md AA-40). Only a client that proves who it is may ask: about its own
//! tokens, or, where the operator says that it is a resource server, about all.

use bartizan_store::Digest;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use super::{Asked, Facade, answer, authorize::Granted, known::Known, refusal::Refusal, token::form};
use crate::{
    Error, VerifiedToken,
    json::Object,
    jws::{KeyFrom, Unverified},
    verify::verified,
};

impl Facade {
    /// The introspection endpoint. Of a token that is unknown, over, or not the asker's to know, it says no more than that
    /// it is not active.
    pub(crate) async fn introspect(
        &self,
        asked: &Asked<'_>,
        known: &mut Known,
    ) -> Result<Response<Bytes>, Refusal> {
        let form = form(asked)?;
        if form.is_repeating() {
            return Err(Refusal::Request("a parameter is there twice"));
        }
        let client = self.authenticate(asked, &form, known).await?;
        if client.is_public() {
            return Err(Refusal::Client { by_header: false });
        }
        let token = form.get("token").ok_or(Refusal::Request("`token` is missing"))?;
        let may_know = |of: &str| client.introspects || of == client.id();
        let now = self.clock.now();
        let inactive = json!({ "active": false });
        let said = if let Some(found) = self.grants.of_refresh(Digest::of(token.as_bytes())).await? {
            let granted = serde_json::from_str::<Granted>(&found.grant.content).ok();
            let is_alive = found.used_at.is_none() && !found.is_ended && now < found.until;
            match granted.filter(|_| is_alive && may_know(&found.grant.client)) {
                None => inactive,
                Some(granted) => json!({
                    "active": true,
                    "iss": self.issuer,
                    "client_id": found.grant.client,
                    "scope": granted.scopes.join(" "),
                    "exp": found.until.as_unix(),
                }),
            }
        } else {
            match self.own_claims(token).await {
                Ok((claims, token)) if may_know(token.caller().client()) && now < token.expires_at() => {
                    let mut said = serde_json::Value::from(&claims);
                    if let Some(members) = said.as_object_mut() {
                        let kind = if token.is_sender_constrained() { "DPoP" } else { "Bearer" };
                        members.insert("active".to_owned(), true.into());
                        members.insert("token_type".to_owned(), kind.into());
                    }
                    said
                }
                _ => inactive,
            }
        };
        Ok(answer::json(StatusCode::OK, &said))
    }

    /// What an access token of ours says, if it is alive.
    pub(crate) async fn own_token(&self, token: &str) -> Result<VerifiedToken, Error> {
        let (_, mut token) = self.own_claims(token).await?;
        self.own.profile.look_up(&mut token.identity, None).await?;
        Ok(token)
    }

    async fn own_claims(&self, token: &str) -> Result<(Object, VerifiedToken), Error> {
        let unverified = Unverified::parse(token, KeyFrom::Issuer)?;
        if unverified.issuer()? != self.issuer {
            return Err(Error::IssuerUnknown);
        }
        let (claims, times) = self.own.read(unverified, self.clock.now()).await?;
        let identity = self.own.profile.identify(&claims)?;
        let token = verified(&claims, identity, times, claims.needed_text("aud")?)?;
        if self.denied.denies(&token) { Err(Error::Denied) } else { Ok((claims, token)) }
    }
}
