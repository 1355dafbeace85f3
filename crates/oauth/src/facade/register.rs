//! Registration by the client itself (RFC 7591; spec.md F-24; attacks.md AA-26). Off unless the operator turns it on.

use std::{collections::BTreeSet, time::Duration};

use bartizan_store::{Digest, clients::Registration as Kept};
use bytes::Bytes;
use http::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::json;

use super::{
    Asked, Facade, GrantType, Registration, answer,
    client::Method,
    described::{self, Allowed, Fault},
    redirect,
    refusal::Refusal,
};
use crate::{Deed, Report, json::Object};

/// How long a registration lives after it was used: somebody let the client in, or it refreshed what it had been granted.
pub(crate) const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long one lives that was never used: long enough for a person to sign in and consent.
const UNUSED: Duration = Duration::from_secs(3600);
/// Registrations that are alive at once. More than strangers can make in [`UNUSED`], so that theirs never fill it.
const AT_MOST: u32 = 10_000;
const _: () = assert!(UNUSED.as_secs() / 60 * (ALL_PER_MINUTE as u64) < AT_MOST as u64 / 2);
/// Bytes of a registration.
const MAX_BYTES: usize = 16 * 1024;
/// Registrations in a minute: from one address, and from all together. The programs of one machine are all together too: a
/// dozen servers in one editor's settings are a dozen clients.
pub(crate) const EACH_PER_MINUTE: u32 = 10;
pub(crate) const ALL_PER_MINUTE: u32 = 60;

/// The beginning of an id that we give.
const ID: &str = "r_";

/// Whether an id can be one that we gave.
pub(crate) fn is_id(id: &str) -> bool {
    id.strip_prefix(ID).is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Facade {
    /// The registration endpoint.
    pub(crate) async fn register(&self, asked: &Asked<'_>) -> Result<Response<Bytes>, Refusal> {
        // A page of anywhere can send every other type without asking first (Fetch §3.2.2), and would spend what others may.
        let kind = asked.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(Refusal::Metadata("send the metadata as application/json"));
        }
        let now = self.clock.now();
        self.registering.count(asked.peer, now).map_err(Refusal::TooOften)?;
        if asked.body.len() > MAX_BYTES {
            return Err(Refusal::Metadata("the metadata is too long"));
        }
        let text = Object::parse(asked.body).map_err(|_| Refusal::Metadata("the body is no JSON object"))?;
        if text.has("client_id") {
            return Err(Refusal::Metadata("`client_id` is not the client's to choose"));
        }
        let id = format!("{ID}{}", self.id());
        let allowed = Allowed { secrets: true, keys_elsewhere: false };
        let described = described::read(&id, &text, &allowed).map_err(|fault| match fault {
            Fault::Metadata(why) => Refusal::Metadata(why),
            Fault::RedirectUri(why) => Refusal::RedirectUri(why),
        })?;
        let mut metadata = described.metadata;
        let is_loopback = metadata.redirect_uris.iter().all(|uri| redirect::is_loopback(uri));
        if self.config.registration == Registration::Loopback && !is_loopback {
            return Err(Refusal::RedirectUri("only loopback redirect URIs may register here"));
        }
        if let Some(scopes) = metadata.scopes.take() {
            metadata.scopes = self.known_scopes(scopes)?;
        }
        let secret = described.wants_secret.then(|| self.secret());
        if let Some(secret) = &secret {
            metadata.method = Method::Secret(Digest::of(secret.reveal().as_bytes()).to_string());
        }
        let kept = Kept {
            id,
            content: serde_json::to_string(&metadata).unwrap_or_default(),
            made_at: now,
            expires_at: now.plus(UNUSED),
        };
        let report = Report {
            client: Some(kept.id.clone()),
            scopes: metadata.scopes.iter().flatten().cloned().collect(),
            redirect_uri: metadata.redirect_uris.first().cloned(),
            metadata: Some((None, metadata.digest())),
            ..Report::new(Deed::ClientRegistered, "registration.made").at(asked.peer)
        };
        self.ledger.enter(report).await?;
        if !self.registrations.add(&kept, AT_MOST, now).await? {
            return Err(Refusal::TooOften(3600));
        }
        tracing::info!(client = kept.id, "a client registered");
        let mut answer = json!({
            "client_id": kept.id,
            "client_id_issued_at": now.as_unix(),
            "client_name": metadata.name,
            "redirect_uris": metadata.redirect_uris,
            "response_types": ["code"],
            "grant_types": metadata.grants.iter().map(|grant| GrantType::name(*grant)).collect::<Vec<_>>(),
            "token_endpoint_auth_method": match (&metadata.method, text.text("token_endpoint_auth_method")) {
                (Method::Public, _) => "none",
                (Method::PrivateKey, _) => "private_key_jwt",
                (Method::Secret(_), Ok(Some("client_secret_post"))) => "client_secret_post",
                (Method::Secret(_), _) => "client_secret_basic",
            },
            "dpop_bound_access_tokens": metadata.dpop,
        });
        let mut add = |name: &str, value: serde_json::Value| {
            if let Some(members) = answer.as_object_mut() {
                members.insert(name.to_owned(), value);
            }
        };
        if let Some(scopes) = metadata.scopes.as_ref().filter(|scopes| !scopes.is_empty()) {
            add("scope", scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ").into());
        }
        if let Some(secret) = &secret {
            add("client_secret", secret.reveal().into());
            // The secret lives as long as the registration, and that longer with each use, which one time cannot say. A client that
            // goes by the time of now would register anew in an hour, and its people would sign in anew.
            add("client_secret_expires_at", 0.into());
        }
        Ok(answer::json(StatusCode::CREATED, &answer))
    }

    /// What of the scopes that a client names it can be granted: what no resource knows is left out, which the answer says
    /// (attacks.md AA-22). `None`, whatever there is, only for one that names none.
    fn known_scopes(&self, mut scopes: BTreeSet<String>) -> Result<Option<BTreeSet<String>>, Refusal> {
        // It asks for a refresh token, and for nothing in particular (spec.md F-37).
        if scopes.remove("offline_access") && scopes.is_empty() {
            return Ok(None);
        }
        scopes.retain(|scope| self.resources.iter().any(|resource| resource.scopes.contains_key(scope)));
        // Where no resource has any, a client without a scope may ask for all the same.
        if scopes.is_empty() && self.resources.iter().any(|resource| !resource.scopes.is_empty()) {
            return Err(Refusal::Metadata(
                "none of the scopes in `scope` is known here; leave it out, or name others",
            ));
        }
        Ok(Some(scopes))
    }
}
