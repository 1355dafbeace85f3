//! Who the gate is at an authorization server, and how it proves it at the token endpoint (RFC 6749 §2.3, RFC 7523 §2.2).

use std::time::Duration;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use bartizan_model::{Clock, Entropy, Secret};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::json;
use url::form_urlencoded;

use super::metadata::AuthorizationServer;

/// How long an assertion of ours is good.
const ASSERTION_LIFE: Duration = Duration::from_secs(60);

/// A client of one authorization server.
pub(super) struct Client {
    pub id: String,
    pub proof: Proof,
}

/// How a client proves that it is the one.
pub(super) enum Proof {
    /// Not at all: it is public.
    None,
    /// By a secret in `Authorization` (`client_secret_basic`).
    Basic(Secret),
    /// By a secret in the form (`client_secret_post`).
    Post(Secret),
    /// By a signature (`private_key_jwt`).
    Key(SigningKey),
}

/// A private key of ours.
pub(super) enum SigningKey {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// A form for an authorization server, as it is put together.
pub(super) struct Form(Vec<(&'static str, Secret)>);

impl Form {
    /// A form with this `grant_type`.
    pub fn new(grant_type: &str) -> Self {
        Self::bare().with("grant_type", grant_type)
    }

    /// A form with nothing in it yet.
    pub fn bare() -> Self {
        Self(Vec::new())
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.push((name, Secret::new(value.to_owned())));
        self
    }

    /// `value` where there is one.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(name, value) }
    }

    /// As `application/x-www-form-urlencoded`.
    pub fn encode(&self) -> Secret {
        let mut text = form_urlencoded::Serializer::new(String::new());
        for (name, value) in &self.0 {
            text.append_pair(name, value.reveal());
        }
        Secret::new(text.finish())
    }
}

impl Client {
    /// Adds to a form what shows who we are; answers the `Authorization` line if that is where it belongs.
    ///
    /// # Errors
    /// A key that does not sign.
    pub fn sign(
        &self,
        form: Form,
        issuer: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<(Form, Option<Secret>), String> {
        Ok(match &self.proof {
            Proof::None => (form.with("client_id", &self.id), None),
            Proof::Basic(secret) => {
                let encode =
                    |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = Secret::new(format!("{}:{}", encode(&self.id), encode(secret.reveal())));
                (form, Some(Secret::new(format!("Basic {}", STANDARD.encode(pair.reveal())))))
            }
            Proof::Post(secret) => {
                (form.with("client_id", &self.id).with("client_secret", secret.reveal()), None)
            }
            Proof::Key(key) => {
                let now = clock.now();
                let claims = json!({
                    // The issuer alone, never an endpoint: an assertion must be good at one server only.
                    "iss": self.id, "sub": self.id, "aud": issuer, "jti": random(entropy),
                    "iat": now.as_unix(), "exp": now.plus(ASSERTION_LIFE).as_unix(),
                });
                let header = json!({ "alg": key.algorithm(), "typ": "JWT" });
                let signed = format!(
                    "{}.{}",
                    URL_SAFE_NO_PAD.encode(header.to_string()),
                    URL_SAFE_NO_PAD.encode(claims.to_string())
                );
                let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?));
                let form = form
                    .with("client_id", &self.id)
                    .with("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                    .with("client_assertion", &assertion);
                (form, None)
            }
        })
    }
}

impl Proof {
    /// A secret, shown in the way the server knows; `Authorization` is the one every server must know (RFC 6749 §2.3.1).
    pub fn secret(secret: Secret, server: &AuthorizationServer) -> Self {
        let knows = |method: &str| server.auth_methods.iter().any(|m| m == method);
        if knows("client_secret_post") && !knows("client_secret_basic") {
            Self::Post(secret)
        } else {
            Self::Basic(secret)
        }
    }
}

impl SigningKey {
    /// The key in a PEM text (PKCS #8): P-256, Ed25519, or RSA.
    ///
    /// # Errors
    /// What is wrong with it; nothing of the key.
    pub fn from_pem(text: &Secret) -> Result<Self, String> {
        let body = text
            .reveal()
            .split_once("-----BEGIN PRIVATE KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PRIVATE KEY-----"))
            .map(|(body, _)| body)
            .ok_or("the private key is no PKCS #8 in PEM (`BEGIN PRIVATE KEY`)")?;
        let body = Secret::new(body.split_ascii_whitespace().collect());
        let der = STANDARD.decode(body.reveal()).map_err(|_| "the private key is no Base64")?;
        let der = zeroize::Zeroizing::new(der);
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der) {
            return Ok(Self::Ec(key));
        }
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            return Ok(Self::Ed(key));
        }
        RsaKeyPair::from_pkcs8(&der)
            .map(Self::Rsa)
            .map_err(|_| "the private key is neither P-256, nor Ed25519, nor RSA".to_owned())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |_| "the private key does not sign".to_owned();
        match self {
            Self::Ec(key) => {
                key.sign(&SystemRandom::new(), message).map(|s| s.as_ref().to_vec()).map_err(failed)
            }
            Self::Ed(key) => Ok(key.sign(message).as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

/// 256 random bits as base64url.
pub(super) fn random(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}
