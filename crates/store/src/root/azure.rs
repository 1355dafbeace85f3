//! Azure Key Vault and Managed HSM: `wrapkey` and `unwrapkey` of the REST API, version 7.4.

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_model::Secret;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Ask, RootError, RootKey, WITHIN, Wire, Wrapped, key_bytes};
use crate::ring::{KEY, KeyBytes};

/// The version of the REST API.
pub const API: &str = "7.4";

/// How keys are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// For RSA keys.
    RsaOaep256,
    /// For AES keys of a Managed HSM.
    A256Kw,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::RsaOaep256 => "RSA-OAEP-256",
            Self::A256Kw => "A256KW",
        }
    }
}

/// Where the key is.
#[derive(Clone, Debug)]
pub struct AzureKey {
    /// The vault: `https://contoso.vault.azure.net`, without a slash at its end.
    pub vault: String,
    /// The key's name.
    pub key: String,
    /// How it wraps.
    pub algorithm: Algorithm,
}

/// Gives access tokens for Key Vault.
#[async_trait]
pub trait AzureTokens: Send + Sync {
    /// One that is good now. `again` asks for another than the last.
    ///
    /// # Errors
    /// In words.
    async fn token(&self, again: bool) -> Result<Secret, String>;
}

/// The root key in Key Vault.
pub struct AzureRoot {
    key: AzureKey,
    tokens: Arc<dyn AzureTokens>,
    wire: Arc<dyn Wire>,
}

impl AzureRoot {
    /// The key at `key`, asked for with `tokens` by `wire`.
    pub fn new(key: AzureKey, tokens: Arc<dyn AzureTokens>, wire: Arc<dyn Wire>) -> Self {
        Self { key, tokens, wire }
    }

    async fn post(&self, key: &str, verb: &str, value: &[u8]) -> Result<Value, RootError> {
        let what = format!("{verb} by `{}` of Key Vault", self.key.key);
        let body = json!({ "alg": self.key.algorithm.name(), "value": URL_SAFE_NO_PAD.encode(value) });
        let body = Zeroizing::new(body.to_string());
        for again in [false, true] {
            let token = self.tokens.token(again).await.map_err(RootError::Away)?;
            let ask = Ask {
                url: format!("{key}/{verb}?api-version={API}"),
                headers: vec![("authorization", Secret::new(format!("Bearer {}", token.reveal())))],
                body: Some(body.clone()),
                within: WITHIN,
                what: &what,
            };
            let told =
                self.wire.ask(ask).await.map_err(|error| RootError::Away(format!("{what}: {error}")))?;
            // A token that was taken back: once more with another.
            if told.status != 401 || again {
                return told.json(&what);
            }
        }
        Err(RootError::Refused(what))
    }

    fn base(&self) -> String {
        format!("{}/keys/{}", self.key.vault, self.key.key)
    }
}

#[async_trait]
impl RootKey for AzureRoot {
    fn provider(&self) -> &'static str {
        "azure-key-vault"
    }

    async fn wrap(&self, key: &[u8; KEY]) -> Result<Wrapped, RootError> {
        let answer = self.post(&self.base(), "wrapkey", key).await?;
        let field = |name: &str| {
            let text = answer.get(name).and_then(Value::as_str).map(str::to_owned);
            text.ok_or_else(|| RootError::Wrong(format!("Key Vault's answer has no `{name}`")))
        };
        Ok(Wrapped { key_id: field("kid")?, text: field("value")? })
    }

    async fn unwrap(&self, wrapped: &Wrapped) -> Result<KeyBytes, RootError> {
        // The id comes from a file of ours; it must not lead the token to somebody else.
        if !wrapped.key_id.starts_with(&format!("{}/", self.base())) {
            return Err(RootError::Wrong(format!(
                "it was wrapped by {}, and the configuration names {}",
                wrapped.key_id,
                self.base()
            )));
        }
        let wrong = |_| RootError::Wrong("what was wrapped is no Base64".into());
        let bytes = URL_SAFE_NO_PAD.decode(&wrapped.text).map_err(wrong)?;
        let answer = self.post(&wrapped.key_id, "unwrapkey", &bytes).await?;
        let text = answer.get("value").and_then(Value::as_str);
        let text = text.ok_or_else(|| RootError::Wrong("Key Vault's answer has no `value`".into()))?;
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map(Zeroizing::new);
        key_bytes(&bytes.map_err(|_| RootError::Wrong("Key Vault's `value` is no Base64".into()))?)
    }
}
