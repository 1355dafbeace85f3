//! Who the gate is at an authorization server it was not told about (spec.md C-58, C-59): by a registration of the
//! operator's, by its client metadata document, or by registering itself (RFC 7591).

use bartizan_model::Secret;
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use super::{
    client::{Client, Proof},
    metadata::AuthorizationServer,
    user::Inner,
};
use crate::{
    fetch::Sent,
    json::{Object, Value},
};

/// Who we are where we registered ourselves.
#[derive(Serialize, Deserialize)]
struct Registration {
    client_id: String,
    client_secret: Option<String>,
    /// `token_endpoint_auth_method`
    method: String,
    /// Seconds since 1970; 0 for never (RFC 7591 §3.2.1).
    secret_until: u64,
}

impl Registration {
    fn client(self) -> Client {
        let proof = match (self.client_secret.map(Secret::new), self.method.as_str()) {
            (Some(secret), "client_secret_post") => Proof::Post(secret),
            (Some(secret), "client_secret_basic") => Proof::Basic(secret),
            _ => Proof::None,
        };
        Client { id: self.client_id, proof }
    }
}

/// Who we are at `server`, as somebody new to it may have to find out.
///
/// # Errors
/// What the operator has to do.
pub(super) async fn client(at: &Inner, server: &AuthorizationServer) -> Result<Client, String> {
    if let Some(client) = configured(at, server).await? {
        return Ok(client);
    }
    // By a document the gate is one client at all of them, with one address to come back to. So it takes one that says whose
    // answer it is: another's is not told from it otherwise (attacks.md AA-33).
    let takes_document = server.takes_client_documents && server.says_iss;
    if let Some(document) = at.means.document.as_ref().filter(|_| takes_document) {
        return Ok(Client { id: document.to_string(), proof: Proof::None });
    }
    if let Some(registration) = stored(at, server, &at.means.callback(server)).await? {
        return Ok(registration.client());
    }
    register(at, server).await.map(Registration::client)
}

/// The client `id`, if we still are it at `server`.
///
/// # Errors
/// Why that cannot be found out now.
pub(super) async fn known(
    at: &Inner,
    server: &AuthorizationServer,
    id: &str,
) -> Result<Option<Client>, String> {
    if let Some(client) = configured(at, server).await? {
        return Ok(Some(client).filter(|client| client.id == id));
    }
    if at.means.document.as_ref().is_some_and(|document| document.as_str() == id) {
        return Ok(Some(Client { id: id.to_owned(), proof: Proof::None }));
    }
    // Wherever it was to send people back to when we registered: what was linked then is renewed by that client.
    for callback in [at.means.common_callback(), at.means.own_callback(&server.issuer)] {
        if let Some(registration) = stored(at, server, &callback).await?
            && registration.client_id == id
        {
            return Ok(Some(registration.client()));
        }
    }
    Ok(None)
}

/// Forgets who we are there, after `server` did.
pub(super) async fn forget(at: &Inner, server: &AuthorizationServer) {
    let nothing = Secret::new("{}".to_owned());
    let (links, redirect) = (&at.means.links, at.means.callback(server));
    if let Err(error) =
        links.register(&server.issuer, redirect.as_str(), &nothing, at.means.clock.now()).await
    {
        tracing::warn!(%error, "a registration that is worth nothing could not be removed");
    }
}

async fn configured(at: &Inner, server: &AuthorizationServer) -> Result<Option<Client>, String> {
    let Some(id) = &at.config.client_id else { return Ok(None) };
    if at.config.issuer.as_deref() != Some(&server.issuer) {
        return Err("the configured `client_id` is for another authorization server".into());
    }
    let proof = match &at.config.client_secret {
        Some(secret) => Proof::secret(at.means.secrets.read(secret).await?, server),
        None => Proof::None,
    };
    Ok(Some(Client { id: id.clone(), proof }))
}

async fn stored(
    at: &Inner,
    server: &AuthorizationServer,
    callback: &Url,
) -> Result<Option<Registration>, String> {
    let found = at.means.links.registration(&server.issuer, callback.as_str()).await;
    let found = found.map_err(|error| error.to_string())?;
    let registration = found.and_then(|text| serde_json::from_str::<Registration>(text.reveal()).ok());
    let now = at.means.clock.now().as_unix();
    Ok(registration.filter(|r| r.secret_until == 0 || now < r.secret_until))
}

async fn register(at: &Inner, server: &AuthorizationServer) -> Result<Registration, String> {
    let callback = at.means.callback(server);
    let Some((url, named_by)) = &server.registration_endpoint else {
        return Err(format!(
            "the authorization server {} lets nobody register: register the gate there by hand, with the redirect URI {callback}, and \
             set `issuer` and `client_id`",
            server.issuer,
        ));
    };
    // One that says nothing means the first (RFC 7591 §2).
    let knows =
        |method: &&str| server.auth_methods.is_empty() || server.auth_methods.iter().any(|m| m == method);
    let method = ["client_secret_basic", "client_secret_post", "none"].into_iter().find(knows);
    let method =
        method.ok_or("the authorization server wants its clients to prove themselves in no way we know")?;
    let mut wish = at.means.self_description(&callback);
    wish.insert("token_endpoint_auth_method".into(), json!(method));
    if !at.config.scopes.is_empty() {
        wish.insert("scope".into(), json!(at.config.scopes.join(" ")));
    }
    let json = HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
    let sent = Sent { headers, body: Secret::new(serde_json::Value::Object(wish).to_string()) };
    let answer =
        at.means.issuers.send(url, *named_by, sent).await.map_err(|error| format!("registering: {error}"))?;
    if !matches!(answer.status, 200 | 201) {
        return Err(format!(
            "the authorization server refuses to register the gate (HTTP {}): register it by hand, with the redirect URI {callback}, and \
             set `issuer` and `client_id`",
            answer.status,
        ));
    }
    let registration = read(&answer.body, method).ok_or("the answer to a registration holds no client")?;
    let content = Secret::new(serde_json::to_string(&registration).unwrap_or_default());
    let links = &at.means.links;
    let kept = links.register(&server.issuer, callback.as_str(), &content, at.means.clock.now()).await;
    kept.map_err(|error| error.to_string())?;
    Ok(registration)
}

fn read(body: &[u8], wished: &str) -> Option<Registration> {
    let answer = Object::parse(body).ok()?;
    let text = |name| answer.text(name).ok().flatten().map(str::to_owned);
    let secret_until = match answer.value("client_secret_expires_at") {
        Some(Value::Unsigned(seconds)) => *seconds,
        _ => 0,
    };
    Some(Registration {
        client_id: text("client_id")?,
        client_secret: text("client_secret"),
        method: text("token_endpoint_auth_method").unwrap_or_else(|| wished.to_owned()),
        secret_until,
    })
}
