//! Providers that are asked by HTTP, against fakes that answer as their documents say, errors included.
//!
//! Vault: <https://developer.hashicorp.com/vault/api-docs/secret/transit> and `/vault/api-docs#http-status-codes`. Key Vault:
//! <https://learn.microsoft.com/rest/api/keyvault/keys/wrap-key> and its error codes.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bartizan_model::{Secret, SeededEntropy, Timestamp};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Ask, RootError, RootKey, Told, Wire, Wrapped,
    azure::{Algorithm, AzureKey, AzureRoot, AzureTokens},
    transit::{TransitKey, TransitRoot},
};
use crate::{KEY, KeyFile, KeysError, ring::DataKey};

const KEK: [u8; KEY] = [5; KEY];

fn told(status: u16, body: Value) -> Result<Told, String> {
    Ok(Told { status, body: Zeroizing::new(body.to_string().into_bytes()) })
}

fn body(ask: &Ask<'_>) -> Value {
    serde_json::from_str(ask.body.as_deref().unwrap()).unwrap()
}

fn header<'a>(ask: &'a Ask<'_>, name: &str) -> Option<&'a str> {
    ask.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.reveal())
}

/// Wraps as a provider would: under the key of a version, which the text names.
fn sealed(version: usize, plain: &[u8]) -> String {
    let entropy = SeededEntropy::new(3);
    let key = DataKey::new(&KEK).unwrap();
    key.seal_row(&version.to_be_bytes(), plain, &entropy).unwrap()
}

fn opened(version: usize, text: &str) -> Option<Vec<u8>> {
    DataKey::new(&KEK).unwrap().open_row(&version.to_be_bytes(), text)
}

/// Vault with one transit key.
struct FakeVault {
    version: AtomicUsize,
    oldest: AtomicUsize,
    state: Mutex<&'static str>,
}

#[async_trait]
impl Wire for FakeVault {
    async fn ask(&self, ask: Ask<'_>) -> Result<Told, String> {
        match *self.state.lock().unwrap() {
            "away" => return Err("connection refused".into()),
            "sealed" => return told(503, json!({ "errors": ["Vault is sealed"] })),
            _ => {}
        }
        if header(&ask, "x-vault-token") != Some("s.good")
            || header(&ask, "x-vault-namespace") != Some("team")
        {
            return told(403, json!({ "errors": ["permission denied"] }));
        }
        let wanted = body(&ask);
        match ask.url.as_str() {
            "https://vault.example:8200/v1/infra/transit/encrypt/bartizan" => {
                let plain = STANDARD.decode(wanted["plaintext"].as_str().unwrap()).unwrap();
                let version = self.version.load(Ordering::SeqCst);
                let text = format!("vault:v{version}:{}", sealed(version, &plain));
                told(200, json!({ "data": { "ciphertext": text, "key_version": version } }))
            }
            "https://vault.example:8200/v1/infra/transit/decrypt/bartizan" => {
                let text = wanted["ciphertext"].as_str().unwrap();
                let Some((version, rest)) = text.strip_prefix("vault:v").and_then(|t| t.split_once(':'))
                else {
                    return told(400, json!({ "errors": ["invalid ciphertext: no prefix"] }));
                };
                let version: usize = version.parse().unwrap();
                if version < self.oldest.load(Ordering::SeqCst) {
                    let error = "ciphertext or signature version is disallowed by policy (too old)";
                    return told(400, json!({ "errors": [error] }));
                }
                match opened(version, rest) {
                    Some(plain) => told(200, json!({ "data": { "plaintext": STANDARD.encode(plain) } })),
                    None => told(400, json!({ "errors": ["cipher: message authentication failed"] })),
                }
            }
            other => told(404, json!({ "errors": [format!("no handler for route {other}")] })),
        }
    }
}

fn vault() -> Arc<FakeVault> {
    Arc::new(FakeVault { version: 1.into(), oldest: 1.into(), state: Mutex::new("up") })
}

fn transit(vault: &Arc<FakeVault>, token: &'static str) -> TransitRoot {
    let key = TransitKey {
        address: "https://vault.example:8200".into(),
        mount: "infra/transit".into(),
        key: "bartizan".into(),
        namespace: Some("team".into()),
    };
    TransitRoot::new(key, Arc::new(move || Ok(Secret::new(token.into()))), vault.clone())
}

#[tokio::test]
async fn transit_wraps_by_the_newest_version_and_unwraps_what_is_allowed() {
    let vault = vault();
    let root = transit(&vault, "s.good");
    let first = root.wrap(&[1; KEY]).await.unwrap();
    assert_eq!(first.key_id, "bartizan:v1");
    vault.version.store(2, Ordering::SeqCst);
    let second = root.wrap(&[2; KEY]).await.unwrap();
    assert_eq!(second.key_id, "bartizan:v2");
    assert_eq!(*root.unwrap(&first).await.unwrap(), [1; KEY]);
    assert_eq!(*root.unwrap(&second).await.unwrap(), [2; KEY]);

    vault.oldest.store(2, Ordering::SeqCst);
    assert!(matches!(root.unwrap(&first).await, Err(RootError::Refused(e)) if e.contains("too old")));
    let forged = Wrapped { text: second.text.replace(":v2:", ":v3:"), ..second.clone() };
    assert!(matches!(root.unwrap(&forged).await, Err(RootError::Refused(_))));
    let stranger = transit(&vault, "s.bad").unwrap(&second).await;
    assert!(matches!(stranger, Err(RootError::Refused(e)) if e.contains("permission denied")));
    for state in ["sealed", "away"] {
        *vault.state.lock().unwrap() = state;
        assert!(matches!(root.unwrap(&second).await, Err(RootError::Away(_))), "{state}");
    }
}

/// Key Vault with one key.
struct FakeKeyVault {
    version: Mutex<&'static str>,
    disabled: Mutex<Option<&'static str>>,
}

#[async_trait]
impl Wire for FakeKeyVault {
    async fn ask(&self, ask: Ask<'_>) -> Result<Told, String> {
        let error = |status, code: &str| told(status, json!({ "error": { "code": code, "message": code } }));
        match header(&ask, "authorization") {
            Some("Bearer fresh") => {}
            Some("Bearer stale") => return error(401, "Unauthorized"),
            _ => return error(403, "Forbidden"),
        }
        let base = "https://contoso.vault.azure.net/keys/root";
        let Some(rest) = ask.url.strip_prefix(base) else { return error(404, "KeyNotFound") };
        let (path, query) = rest.split_once('?').unwrap();
        assert_eq!(query, "api-version=7.4");
        let wanted = body(&ask);
        assert_eq!(wanted["alg"], "RSA-OAEP-256");
        let Ok(value) = URL_SAFE_NO_PAD.decode(wanted["value"].as_str().unwrap()) else {
            return error(400, "BadParameter");
        };
        let newest = *self.version.lock().unwrap();
        let (version, verb) = match path.trim_start_matches('/').split_once('/') {
            None => (newest, path.trim_start_matches('/')),
            Some((version, verb)) => (version, verb),
        };
        if *self.disabled.lock().unwrap() == Some(version) {
            return error(403, "Forbidden");
        }
        let number = version.len();
        let answer = match verb {
            "wrapkey" => sealed(number, &value).into_bytes(),
            "unwrapkey" => match opened(number, &String::from_utf8(value).unwrap()) {
                Some(plain) => plain,
                None => return error(400, "BadParameter"),
            },
            _ => return error(404, "NotFound"),
        };
        told(200, json!({ "kid": format!("{base}/{version}"), "value": URL_SAFE_NO_PAD.encode(answer) }))
    }
}

/// Its first token was taken back.
struct Tokens(AtomicUsize);

#[async_trait]
impl AzureTokens for Tokens {
    async fn token(&self, again: bool) -> Result<Secret, String> {
        let given = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Secret::new(if again || given > 0 { "fresh" } else { "stale" }.into()))
    }
}

#[tokio::test]
async fn key_vault_wraps_by_the_newest_version_and_unwraps_by_the_named_one() {
    let vault = Arc::new(FakeKeyVault { version: Mutex::new("0a"), disabled: Mutex::default() });
    let root = |key: &str| {
        let key = AzureKey {
            vault: "https://contoso.vault.azure.net".into(),
            key: key.into(),
            algorithm: Algorithm::RsaOaep256,
        };
        AzureRoot::new(key, Arc::new(Tokens(0.into())), vault.clone())
    };
    let own = root("root");
    let first = own.wrap(&[1; KEY]).await.unwrap();
    assert_eq!(first.key_id, "https://contoso.vault.azure.net/keys/root/0a");
    *vault.version.lock().unwrap() = "00b";
    let second = own.wrap(&[2; KEY]).await.unwrap();
    assert_ne!(first.key_id, second.key_id);
    assert_eq!(*own.unwrap(&first).await.unwrap(), [1; KEY]);
    assert_eq!(*own.unwrap(&second).await.unwrap(), [2; KEY]);

    *vault.disabled.lock().unwrap() = Some("0a");
    assert!(matches!(own.unwrap(&first).await, Err(RootError::Refused(_))));
    let swapped = Wrapped { key_id: second.key_id.replace("00b", "000c"), ..second.clone() };
    assert!(matches!(own.unwrap(&swapped).await, Err(RootError::Refused(_))));
    // The token is shown to no other address, whatever the file says.
    for elsewhere in ["https://evil.example/keys/root/0a", "https://contoso.vault.azure.net/keys/rootkit/0a"]
    {
        let moved = Wrapped { key_id: elsewhere.into(), ..second.clone() };
        assert!(matches!(own.unwrap(&moved).await, Err(RootError::Wrong(_))), "{elsewhere}");
    }
    assert!(matches!(root("other").wrap(&[1; KEY]).await, Err(RootError::Refused(_))), "no such key");
}

#[tokio::test]
async fn a_key_file_waits_for_its_provider_and_moves_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let (path, vault) = (folder.path().join("keys.json"), vault());
    let entropy = Arc::new(SeededEntropy::new(1));
    let far = KeyFile::new(&path, Arc::new(transit(&vault, "s.good")), entropy.clone());
    let near = super::FileRoot::new(&folder.path().join("seal.key"), entropy.clone());
    let near = KeyFile::new(&path, Arc::new(near), entropy);
    *vault.state.lock().unwrap() = "away";
    assert!(matches!(far.open(None).await, Err(KeysError::Root(RootError::Away(_)))));
    assert!(!path.exists(), "nothing half-made is left");
    *vault.state.lock().unwrap() = "up";
    let ids = far.open(None).await.unwrap().ids();
    *vault.state.lock().unwrap() = "away";
    assert!(matches!(far.read().await, Err(KeysError::Root(RootError::Away(_)))));
    let refused = far.change(Timestamp::from_unix(1), |keys, _| keys.puncture(&[])).await;
    assert!(refused.is_err());
    *vault.state.lock().unwrap() = "up";
    assert_eq!(far.read().await.unwrap().erased(), 0, "nothing changed");
    assert!(matches!(near.read().await, Err(KeysError::Provider { .. })));
    near.move_from(&far).await.unwrap();
    assert_eq!(near.read().await.unwrap().ids(), ids);
    assert!(matches!(far.read().await, Err(KeysError::Provider { .. })));
}
