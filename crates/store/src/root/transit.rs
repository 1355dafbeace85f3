//! HashiCorp Vault's transit engine (HTTP API `/v1/{mount}/encrypt|decrypt/{key}`), and OpenBao's, which is the same.

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_model::Secret;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Ask, RootError, RootKey, WITHIN, Wire, Wrapped, key_bytes};
use crate::ring::{KEY, KeyBytes};

/// Where the key is.
#[derive(Clone, Debug)]
pub struct TransitKey {
    /// The server: `https://vault.example.com:8200`, without a slash at its end.
    pub address: String,
    /// Where the engine is mounted: `transit`.
    pub mount: String,
    /// The key's name.
    pub key: String,
    /// The namespace, for Vault Enterprise and HCP.
    pub namespace: Option<String>,
}

/// A token for Vault, read anew for each request.
pub type VaultToken = Arc<dyn Fn() -> Result<Secret, String> + Send + Sync>;

/// The root key in Vault.
pub struct TransitRoot {
    key: TransitKey,
    token: VaultToken,
    wire: Arc<dyn Wire>,
}

impl TransitRoot {
    /// The key at `key`, asked for with `token` by `wire`.
    pub fn new(key: TransitKey, token: VaultToken, wire: Arc<dyn Wire>) -> Self {
        Self { key, token, wire }
    }

    async fn post(&self, verb: &str, body: Value) -> Result<Value, RootError> {
        let what = format!("{verb} by `{}` of Vault", self.key.key);
        let TransitKey { address, mount, key, .. } = &self.key;
        let mut headers = vec![("x-vault-token", (self.token)().map_err(RootError::Away)?)];
        if let Some(namespace) = &self.key.namespace {
            headers.push(("x-vault-namespace", Secret::new(namespace.clone())));
        }
        let url = format!("{address}/v1/{mount}/{verb}/{key}");
        let ask =
            Ask { url, headers, body: Some(Zeroizing::new(body.to_string())), within: WITHIN, what: &what };
        let told = self.wire.ask(ask).await.map_err(|error| RootError::Away(format!("{what}: {error}")))?;
        told.json(&what)
    }
}

#[async_trait]
impl RootKey for TransitRoot {
    fn provider(&self) -> &'static str {
        "hashicorp-transit"
    }

    async fn wrap(&self, key: &[u8; KEY]) -> Result<Wrapped, RootError> {
        let answer = self.post("encrypt", json!({ "plaintext": STANDARD.encode(key) })).await?;
        let text = answer.pointer("/data/ciphertext").and_then(Value::as_str);
        let text = text.ok_or_else(|| RootError::Wrong("Vault's answer has no `ciphertext`".into()))?;
        // `vault:v3:…` says which version of the key it was.
        let mut parts = text.splitn(3, ':');
        let version = match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(version), Some(_)) => version,
            _ => return Err(RootError::Wrong("Vault's `ciphertext` names no version".into())),
        };
        Ok(Wrapped { key_id: format!("{}:{version}", self.key.key), text: text.to_owned() })
    }

    async fn unwrap(&self, wrapped: &Wrapped) -> Result<KeyBytes, RootError> {
        let answer = self.post("decrypt", json!({ "ciphertext": wrapped.text })).await?;
        let text = answer.pointer("/data/plaintext").and_then(Value::as_str);
        let text = text.ok_or_else(|| RootError::Wrong("Vault's answer has no `plaintext`".into()))?;
        let bytes = STANDARD.decode(text).map(Zeroizing::new);
        key_bytes(&bytes.map_err(|_| RootError::Wrong("Vault's `plaintext` is no Base64".into()))?)
    }
}
