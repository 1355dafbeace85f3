//! How the gate proves at the token endpoint that it is the client it says (OpenID Connect Core §9, RFC 7523).
//!
//! What proves it is read each time, so that a rotated secret, key or federated assertion is picked up.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaEncoding, RsaKeyPair,
    },
};
use bartizan_model::{Clock, Entropy, Secret, SecretRef};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::json;
use url::{Url, form_urlencoded};

use crate::{
    key::Algorithm,
    signin::{AssertionKey, CredentialConfig, ReadSecret, random},
};

/// Seconds an assertion is good for: a clock's error and a slow network.
const LIFETIME_S: u64 = 120;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The gate as a client.
pub(crate) struct Credential {
    config: CredentialConfig,
    client_id: String,
    secret: ReadSecret,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
}

/// What goes along with a token request.
pub(crate) struct Proof {
    pub authorization: Option<Secret>,
    /// Members of the form.
    pub members: Vec<(&'static str, Secret)>,
}

impl Credential {
    pub fn new(
        config: &CredentialConfig,
        client_id: &str,
        secret: ReadSecret,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { config: config.clone(), client_id: client_id.to_owned(), secret, entropy, clock }
    }

    /// Whether it can be used as things are.
    ///
    /// # Errors
    /// Why not, for the operator. A federated assertion may come later than we do.
    pub fn check(&self) -> Result<(), String> {
        if matches!(self.config, CredentialConfig::FederatedAssertion { .. }) {
            return Ok(());
        }
        let nowhere = Url::parse("https://provider.invalid/token").map_err(|error| error.to_string())?;
        self.prove(&nowhere).map(|_| ())
    }

    /// The proof for a request to this token endpoint.
    ///
    /// # Errors
    /// Why there is none, for the operator.
    pub fn prove(&self, token_endpoint: &Url) -> Result<Proof, String> {
        let client_id = || ("client_id", Secret::new(self.client_id.clone()));
        let asserted = |assertion: Secret| Proof {
            authorization: None,
            members: vec![
                client_id(),
                ("client_assertion_type", Secret::new(ASSERTION_TYPE.to_owned())),
                ("client_assertion", assertion),
            ],
        };
        Ok(match &self.config {
            CredentialConfig::ClientSecretBasic { secret } => {
                // RFC 6749 §2.3.1: both are form-encoded before they are joined.
                let encode =
                    |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let secret = Secret::new(encode(self.read(secret)?.reveal()));
                let pair = Secret::new(format!("{}:{}", encode(&self.client_id), secret.reveal()));
                let line = Secret::new(format!("Basic {}", STANDARD.encode(pair.reveal())));
                Proof { authorization: Some(line), members: Vec::new() }
            }
            CredentialConfig::ClientSecretPost { secret } => {
                let members = vec![client_id(), ("client_secret", self.read(secret)?)];
                Proof { authorization: None, members }
            }
            CredentialConfig::FederatedAssertion { assertion } => {
                asserted(Secret::new(self.read(assertion)?.reveal().trim().to_owned()))
            }
            CredentialConfig::ManagedIdentity { identity_client_id } => {
                let place = SecretRef::ManagedIdentity { client_id: identity_client_id.clone() };
                asserted(self.read(&place)?)
            }
            CredentialConfig::PrivateKeyJwt(key) => asserted(self.assert(key, token_endpoint)?),
        })
    }

    fn read(&self, secret: &SecretRef) -> Result<Secret, String> {
        let read = (self.secret)(secret)?;
        if read.reveal().is_empty() { Err("is empty".to_owned()) } else { Ok(read) }
    }

    /// An assertion of our own (RFC 7523 §3).
    fn assert(&self, config: &AssertionKey, token_endpoint: &Url) -> Result<Secret, String> {
        let pem = self.read(&config.key)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.reveal().as_bytes());
        let der = der.map_err(|_| "`key` is no PKCS #8 private key in PEM".to_owned())?;
        let certificate = match &config.certificate {
            None => None,
            Some(place) => {
                let read = CertificateDer::from_pem_slice(self.read(place)?.reveal().as_bytes());
                Some(read.map_err(|_| "`certificate` is no certificate in PEM".to_owned())?)
            }
        };
        let key = Signing::from_pkcs8(der.secret_pkcs8_der())?;
        let algorithm = config.algorithm.unwrap_or(match (&key, &certificate) {
            (Signing::Ed25519(_), _) => Algorithm::EdDsa,
            (Signing::P256(_), _) => Algorithm::Es256,
            (Signing::Rsa(_), Some(_)) => Algorithm::Ps256,
            (Signing::Rsa(_), None) => Algorithm::Rs256,
        });
        let mut header = BTreeMap::from([("alg", algorithm.name().to_owned()), ("typ", "JWT".to_owned())]);
        if let Some(kid) = &config.key_id {
            header.insert("kid", kid.clone());
        }
        if let Some(certificate) = &certificate {
            let thumbprint = digest::digest(&digest::SHA256, certificate);
            header.insert("x5t#S256", URL_SAFE_NO_PAD.encode(thumbprint));
        }
        let now = self.clock.now().as_unix();
        let claims = json!({
            "iss": self.client_id, "sub": self.client_id, "jti": random(&*self.entropy),
            "aud": config.audience.as_deref().unwrap_or(token_endpoint.as_str()),
            "iat": now, "nbf": now, "exp": now + LIFETIME_S,
        });
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&json!(header)), encode(&claims));
        let signature = key.sign(algorithm, signed.as_bytes())?;
        Ok(Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

/// A private key of one of the kinds that providers take.
enum Signing {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signing {
    fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        if let Ok(key) = RsaKeyPair::from_pkcs8(der) {
            return Ok(Self::Rsa(key));
        }
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Ok(Self::P256(key));
        }
        let refused = |_| "`key` is neither RSA nor P-256 nor Ed25519".to_owned();
        Ed25519KeyPair::from_pkcs8(der).map(Self::Ed25519).map_err(refused)
    }

    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |_| "`key` does not sign".to_owned();
        let random = SystemRandom::new();
        match (self, algorithm) {
            (Self::Ed25519(key), Algorithm::EdDsa) => Ok(key.sign(message).as_ref().to_vec()),
            (Self::P256(key), Algorithm::Es256) => {
                Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_vec())
            }
            (Self::Rsa(key), algorithm) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
                    Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::EdDsa | Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => {
                        return Err("`algorithm` is not the key's".to_owned());
                    }
                };
                let mut signed = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signed).map_err(failed)?;
                Ok(signed)
            }
            (Self::Ed25519(_) | Self::P256(_), _) => Err("`algorithm` is not the key's".to_owned()),
        }
    }
}
