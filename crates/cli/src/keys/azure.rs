//! Access tokens for Azure Key Vault: the machine's managed identity, or client credentials with a secret or a federated token
//! (RFC 7523).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use async_trait::async_trait;
use bartizan_egress::{Endpoint, Peer};
use bartizan_model::{Clock, Secret, SystemClock, Timestamp};
use bartizan_store::root::azure::AzureTokens;
use tokio::sync::Mutex;

use crate::{
    config::{Config, Given},
    endpoints,
    managed_identity::ManagedIdentity,
    token_endpoint,
};

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
    Secret(Given),
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
        let (token, lasts) = token_endpoint::ask(&self.endpoint, self.form()?).await?;
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
}
