//! Access tokens for Azure Key Vault: the machine's managed identity, or client credentials with a secret or a federated token
//! (RFC 7523).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use bartizan_egress::{Endpoint, Peer};
use bartizan_model::{Clock, Secret, SystemClock, Timestamp};
use bartizan_store::root::{WITHIN, azure::AzureTokens};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{
    config::{Config, SecretRef},
    endpoints,
    managed_identity::ManagedIdentity,
};

/// A token is not used in the last minutes of its life.
const MARGIN: Duration = Duration::from_secs(120);

/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;

/// Tokens for `[vaults.azure]`.
pub fn tokens(config: &Config, base: &Path) -> anyhow::Result<Arc<dyn AzureTokens>> {
    let azure = config.vaults.azure.as_ref().context("[vaults.azure] is missing")?;
    if azure.managed_identity {
        let (egress, resource) = (endpoints::egress(config), azure.scope.trim_end_matches("/.default"));
        let clock = Arc::new(SystemClock);
        let identity = ManagedIdentity::new(&egress, resource, azure.identity(), clock);
        return Ok(Arc::new(identity.context("[vaults.azure] managed_identity")?));
    }
    let missing = || anyhow::anyhow!("[vaults.azure] needs `tenant` and `client_id`");
    let tenant = azure.tenant.as_deref().ok_or_else(missing)?;
    let client_id = azure.client_id.clone().ok_or_else(missing)?;
    let mut url = azure.authority.clone();
    url.path_segments_mut()
        .map_err(|()| anyhow::anyhow!("[vaults.azure] authority takes no path"))?
        .pop_if_empty()
        .extend([tenant, "oauth2", "v2.0", "token"]);
    let peer = Peer { url, tls: super::tls(base, azure.ca.as_deref()), dangerous_plaintext: false };
    let proof = match (&azure.client_secret, &azure.federated_token_file) {
        (Some(secret), _) => Proof::Secret(secret.clone()),
        (None, Some(file)) => Proof::Federated(base.join(file)),
        (None, None) => anyhow::bail!("[vaults.azure] needs `client_secret` or `federated_token_file`"),
    };
    Ok(Arc::new(EntraTokens {
        endpoint: endpoints::egress(config).endpoint(&peer).context("[vaults.azure] authority")?,
        client_id,
        scope: azure.scope.clone(),
        proof,
        base: base.to_owned(),
        held: Mutex::default(),
    }))
}

enum Proof {
    Secret(SecretRef),
    Federated(PathBuf),
}

/// Tokens of Microsoft's identity platform for one application.
struct EntraTokens {
    endpoint: Endpoint,
    client_id: String,
    scope: String,
    proof: Proof,
    base: PathBuf,
    held: Mutex<Option<(Secret, Timestamp)>>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

#[async_trait]
impl AzureTokens for ManagedIdentity {
    async fn token(&self, again: bool) -> Result<Secret, String> {
        if again {
            self.forget().await;
        }
        Self::token(self).await
    }
}

#[async_trait]
impl AzureTokens for EntraTokens {
    async fn token(&self, again: bool) -> Result<Secret, String> {
        // Whoever waits finds it there.
        let mut held = self.held.lock().await;
        if let Some((token, until)) = &*held
            && !again
            && SystemClock.now() < *until
        {
            return Ok(token.clone());
        }
        *held = None;
        let now = SystemClock.now();
        let granted = self.ask().await?;
        let token = Secret::new(granted.access_token);
        let lasts = Duration::from_secs(granted.expires_in).saturating_sub(MARGIN);
        *held = Some((token.clone(), now.plus(lasts)));
        Ok(token)
    }
}

impl EntraTokens {
    /// What the token endpoint is sent.
    fn form(&self) -> Result<bytes::Bytes, String> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.client_id)
            .append_pair("scope", &self.scope);
        match &self.proof {
            Proof::Secret(secret) => {
                let secret = secret
                    .read(&self.base)
                    .map_err(|error| format!("[vaults.azure] client_secret: {error:#}"))?;
                form.append_pair("client_secret", secret.reveal());
            }
            Proof::Federated(file) => {
                let token = std::fs::read_to_string(file)
                    .map_err(|error| format!("[vaults.azure] federated_token_file: {error}"))?;
                form.append_pair(
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                )
                .append_pair("client_assertion", token.trim_end());
            }
        }
        Ok(form.finish().into())
    }

    async fn ask(&self) -> Result<Granted, String> {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let words = |error: bartizan_egress::Error| format!("the token endpoint: {error}");
        let body = self.form()?;
        let response = self.endpoint.send(Method::POST, headers, body, WITHIN).await.map_err(words)?;
        let status = response.status();
        let body = response.into_body().collect_within(LONGEST, WITHIN).await.map_err(words)?;
        if !status.is_success() {
            // The description may quote what we sent; the code is one of a list.
            let code = serde_json::from_slice::<Refused>(&body).map(|refused| refused.error);
            let code = code.ok().filter(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
            return Err(format!("the token endpoint answered {}{code}", status.as_u16()));
        }
        serde_json::from_slice(&body).map_err(|_| "the token endpoint gave no token".to_owned())
    }
}
