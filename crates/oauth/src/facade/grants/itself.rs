//! A token for the client itself (RFC 6749 §4.4; spec.md F-41 to F-45). It speaks for nobody else, and is not refreshed.

use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::facade::{
    Facade,
    mint::{Mint, Who},
    refusal::Refusal,
    token::Request,
};

impl Facade {
    pub(crate) async fn act_for_itself(&self, request: Request<'_>) -> Result<Response<Bytes>, Refusal> {
        let Request { form, client, proof, peer, .. } = request;
        let resource = self.resource_unasked(form.get("resource")).ok_or(Refusal::Target)?;
        let scopes = self.scopes(form.get("scope"), resource, &client).ok_or(Refusal::Scope)?;
        let mint = Mint {
            who: Who::Client,
            client: client.id(),
            resource: resource.url.as_str(),
            scopes: &scopes,
            grant: None,
            key: &self.use_up(proof).await?,
            until: None,
            reason: "client.itself",
            peer,
        };
        self.give(&mint, json!({})).await
    }
}
