//! The keys that sign our access tokens: shared by all replicas, rotated without a gap (spec.md F-38).

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use bartizan_model::{Secret, Timestamp};
use bartizan_store::{DatabaseError, SigningKeys, signing::SigningKey};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    Error,
    json::Object,
    key::{Key, thumbprint},
};

/// How long a key signs.
const SIGNS: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long before it signs it is published, so that nobody meets a signature by a key they do not know.
const PUBLISHED_BEFORE: Duration = Duration::from_secs(24 * 3600);
/// How long after it has stopped it is published: longer than a token lives, and clocks are apart.
const PUBLISHED_AFTER: Duration = Duration::from_secs(20 * 60);

/// Our keys, in memory.
#[derive(Default)]
pub(crate) struct Keyring {
    keys: ArcSwap<Vec<Arc<Pair>>>,
}

struct Pair {
    id: String,
    pair: EcdsaKeyPair,
    public: Arc<Key>,
    jwk: serde_json::Value,
    signs_from: Timestamp,
    verifies_until: Timestamp,
}

/// Why the authorization server is not in step with its store. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum FacadeError {
    /// A signing key cannot be read.
    #[error("a signing key in the store is none")]
    Broken,
    /// The store is out of reach, or its keys were sealed under another key file.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// No new key could be made.
    #[error("the cryptographic library made no key")]
    Refused,
}

impl Keyring {
    /// Reads the keys from the store, and adds the next one when its time has come.
    pub async fn catch_up(&self, store: &dyn SigningKeys, now: Timestamp) -> Result<(), FacadeError> {
        let mut kept = store.all(now).await?;
        let last = kept.iter().map(|key| key.signs_until).max();
        if last.is_none_or(|last| last <= now.plus(PUBLISHED_BEFORE)) {
            store.add(&fresh(last.unwrap_or(now).max(now))?).await?;
            // Whoever was first, their key is the one.
            kept = store.all(now).await?;
            store.forget(now).await?;
        }
        let keys: Result<Vec<_>, _> = kept.iter().map(read).collect();
        self.keys.store(Arc::new(keys?));
        Ok(())
    }

    /// The public key of this id.
    ///
    /// # Errors
    /// [`Error::KeyUnknown`]; every token of ours names its key.
    pub fn find(&self, kid: Option<&str>, now: Timestamp) -> Result<Arc<Key>, Error> {
        let keys = self.keys.load();
        let found = keys.iter().find(|key| Some(key.id.as_str()) == kid && now < key.verifies_until);
        found.map(|key| Arc::clone(&key.public)).ok_or(Error::KeyUnknown)
    }

    /// The JWK set that is published (RFC 7517 §5).
    pub fn published(&self, now: Timestamp) -> serde_json::Value {
        let keys = self.keys.load();
        let alive = keys.iter().filter(|key| now < key.verifies_until);
        json!({ "keys": alive.map(|key| &key.jwk).collect::<Vec<_>>() })
    }

    /// An access token with these claims (RFC 9068 §2); `None` while there is no key.
    pub fn sign(&self, claims: &impl Serialize, now: Timestamp) -> Option<Secret> {
        let keys = self.keys.load();
        // With a clock behind the other replicas', the first key's time may not have come here.
        let mut alive = keys.iter().filter(|key| now < key.verifies_until);
        let key = alive.clone().rev().find(|key| key.signs_from <= now).or(alive.next())?;
        let header = json!({ "alg": "ES256", "kid": key.id, "typ": "at+jwt" }).to_string();
        let claims = serde_json::to_vec(claims).ok()?;
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = key.pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Some(Secret::new(token))
    }
}

/// A key that signs from `from` on. Its randomness, like that of its signatures, is the cryptographic library's own:
/// ECDSA has no other way in there.
fn fresh(from: Timestamp) -> Result<SigningKey, FacadeError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| FacadeError::Refused)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())
        .map_err(|_| FacadeError::Refused)?;
    // An uncompressed point (SEC 1 §2.3.3): 4, x, y.
    let point = pair.public_key().as_ref();
    let half =
        |range| point.get(range).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).ok_or(FacadeError::Refused);
    let mut jwk = json!({ "kty": "EC", "crv": "P-256", "x": half(1..33)?, "y": half(33..65)? });
    let read = Object::parse(jwk.to_string().as_bytes()).map_err(|_| FacadeError::Refused)?;
    let id = thumbprint(&read).ok_or(FacadeError::Refused)?;
    for (name, value) in [("kid", id.as_str()), ("alg", "ES256"), ("use", "sig")] {
        if let Some(members) = jwk.as_object_mut() {
            members.insert(name.to_owned(), value.into());
        }
    }
    Ok(SigningKey {
        id,
        private: Secret::new(STANDARD.encode(document.as_ref())),
        public: jwk.to_string(),
        signs_from: from,
        signs_until: from.plus(SIGNS),
        verifies_until: from.plus(SIGNS).plus(PUBLISHED_AFTER),
    })
}

fn read(key: &SigningKey) -> Result<Arc<Pair>, FacadeError> {
    let broken = |()| FacadeError::Broken;
    let document = STANDARD.decode(key.private.reveal()).map_err(|_| broken(()))?;
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document).map_err(|_| broken(()))?;
    let jwk = Object::parse(key.public.as_bytes()).map_err(|_| broken(()))?;
    Ok(Arc::new(Pair {
        id: key.id.clone(),
        pair,
        public: Arc::new(Key::from_jwk(&jwk).map_err(|_| broken(()))?),
        jwk: serde_json::from_str(&key.public).map_err(|_| broken(()))?,
        signs_from: key.signs_from,
        verifies_until: key.verifies_until,
    }))
}
