//! Whose signatures count: Ed25519 (RFC 8032).

use std::{fmt, str::FromStr};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use bartizan_model::Secret;
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::drift::sha256;

/// The lines around a private key (RFC 7468 §10).
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

const PREFIX: &str = "ed25519:";

/// A text or bytes that are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is written `ed25519:` and the Base64 of its 32 bytes; `bartizan shield bundle keygen` makes one"
)]
pub struct InvalidKey;

/// A public key: `ed25519:` and 32 bytes in Base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// By what a key is known: the first 16 hexadecimal digits of its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl PublicKey {
    /// Its short name.
    pub fn id(&self) -> KeyId {
        KeyId(hex::encode(sha256(&self.0)).chars().take(16).collect())
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let bytes = text.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(InvalidKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl KeyId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let is_id = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Self(text.to_owned())).ok_or(InvalidKey)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A private key. Never prints.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key with this seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// The key in a PKCS #8 document (PEM), as `openssl genpkey -algorithm ed25519` makes it too.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn from_pem(text: &Secret) -> Result<Self, InvalidKey> {
        let body = text.reveal().trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let body: String = body.ok_or(InvalidKey)?.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| InvalidKey)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| InvalidKey)
    }

    /// As a PKCS #8 document (PEM).
    ///
    /// # Errors
    /// [`InvalidKey`] if the library cannot write it.
    pub fn to_pem(&self) -> Result<Secret, InvalidKey> {
        let document = self.0.to_pkcs8v1().map_err(|_| InvalidKey)?;
        Ok(Secret::new(format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(document.as_ref()))))
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(self.0.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}
