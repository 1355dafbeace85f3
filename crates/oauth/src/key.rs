//! Public keys of issuers and clients (RFC 7517, RFC 7518), each good for exactly one algorithm (RFC 8725 §3.1).

use aws_lc_rs::{
    digest,
    rsa::PublicKeyComponents,
    signature::{self, ParsedPublicKey, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    json::{Object, Value},
};

/// A signature algorithm (RFC 7518 §3.1, RFC 8037). `none` and the symmetric ones are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Algorithm {
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "ES512")]
    Es512,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "PS384")]
    Ps384,
    #[serde(rename = "PS512")]
    Ps512,
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "RS384")]
    Rs384,
    #[serde(rename = "RS512")]
    Rs512,
}

impl Algorithm {
    /// The algorithm of a JOSE name; names are case-sensitive (RFC 7515 §4.1.1).
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            // RFC 9864 gives Ed25519 a name of its own; no other curve is taken under either.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
        }
    }

    fn rsa(self) -> Option<&'static signature::RsaParameters> {
        Some(match self {
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::EdDsa | Self::Es256 | Self::Es384 | Self::Es512 => return None,
        })
    }
}

/// A public key.
pub(crate) struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    public: ParsedPublicKey,
}

/// Why a JWK is no key for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unusable(&'static str);

/// The members of a private key (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "dp", "dq", "k", "oth", "p", "q", "qi"];

impl Key {
    /// The key of a JWK that is for checking signatures.
    ///
    /// A key that does not name its algorithm (Entra's do not) has the one its type is mostly used with: RS256, or the
    /// one of its curve.
    pub fn from_jwk(jwk: &Object) -> Result<Self, Unusable> {
        Self::read(jwk, None)
    }

    /// The key of a JWK that comes with a signature under `algorithm` (RFC 9449 §4.2).
    pub fn from_jwk_for(jwk: &Object, algorithm: Algorithm) -> Result<Self, Unusable> {
        Self::read(jwk, Some(algorithm))
    }

    fn read(jwk: &Object, wanted: Option<Algorithm>) -> Result<Self, Unusable> {
        let bad = |_| Unusable("a member is not what it must be");
        if PRIVATE.iter().any(|name| jwk.has(name)) {
            return Err(Unusable("it is symmetric, or a private key"));
        }
        if jwk.text("use").map_err(bad)?.is_some_and(|used| used != "sig") {
            return Err(Unusable("it is not for signatures"));
        }
        let operations = jwk.value("key_ops").map(|ops| ops.texts().unwrap_or_default());
        if operations.is_some_and(|ops| !ops.contains(&"verify")) {
            return Err(Unusable("it is not for verifying"));
        }
        let declared = match jwk.text("alg").map_err(bad)? {
            Some(name) => Some(Algorithm::named(name).ok_or(Unusable("its algorithm is not known"))?),
            None => wanted,
        };
        let bytes = |name| {
            let text = jwk.text(name).map_err(bad)?.ok_or(Unusable("a member is missing"))?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| Unusable("a member is no base64url"))
        };
        let refused = |_| Unusable("it is no key of its kind");
        let curve = jwk.text("crv").map_err(bad)?;
        let (algorithm, public) = match (jwk.text("kty").map_err(bad)?, curve) {
            (Some("RSA"), _) => {
                let algorithm = declared.unwrap_or(Algorithm::Rs256);
                let parameters = algorithm.rsa().ok_or(Unusable("its algorithm is not RSA"))?;
                let (n, e) = (bytes("n")?, bytes("e")?);
                let n: Vec<u8> = n.into_iter().skip_while(|b| *b == 0).collect();
                let bits = n.len() * 8 - n.first().map_or(0, |b| b.leading_zeros() as usize);
                if !(2048..=8192).contains(&bits) {
                    return Err(Unusable("it has less than 2048 bits, or more than 8192"));
                }
                (algorithm, PublicKeyComponents { n, e }.to_parsed_public_key(parameters).map_err(refused)?)
            }
            (Some("EC"), Some(curve)) => {
                let (algorithm, length, parameters): (_, _, &'static dyn signature::VerificationAlgorithm) =
                    match curve {
                        "P-256" => (Algorithm::Es256, 32, &signature::ECDSA_P256_SHA256_FIXED),
                        "P-384" => (Algorithm::Es384, 48, &signature::ECDSA_P384_SHA384_FIXED),
                        "P-521" => (Algorithm::Es512, 66, &signature::ECDSA_P521_SHA512_FIXED),
                        _ => return Err(Unusable("its curve is not known")),
                    };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != length || y.len() != length {
                    return Err(Unusable("its coordinates have the wrong length"));
                }
                // An uncompressed point (SEC 1 §2.3.3).
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                (algorithm, UnparsedPublicKey::new(parameters, point).parse().map_err(refused)?)
            }
            (Some("OKP"), Some("Ed25519")) => {
                let parsed = UnparsedPublicKey::new(&signature::ED25519, bytes("x")?).parse();
                (Algorithm::EdDsa, parsed.map_err(refused)?)
            }
            _ => return Err(Unusable("its type is not known")),
        };
        if declared.is_some_and(|declared| declared != algorithm) {
            return Err(Unusable("its algorithm is not its type's"));
        }
        let kid = jwk.text("kid").map_err(bad)?.map(str::to_owned);
        Ok(Self { kid, algorithm, public })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Error> {
        self.public.verify_sig(message, signature).map_err(|_| Error::SignatureWrong)
    }
}

/// The SHA-256 thumbprint of a public JWK (RFC 7638), as base64url. The JWK is one that [`Key::from_jwk`] took.
pub(crate) fn thumbprint(jwk: &Object) -> Option<String> {
    let text = |name| jwk.text(name).ok().flatten();
    // Base64url and names of curves need no escapes.
    let canonical = match text("kty")? {
        "EC" => {
            format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, text("crv")?, text("x")?, text("y")?)
        }
        "OKP" => format!(r#"{{"crv":"{}","kty":"OKP","x":"{}"}}"#, text("crv")?, text("x")?),
        "RSA" => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text("e")?, text("n")?),
        _ => return None,
    };
    Some(URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes())))
}

/// An issuer's keys (RFC 7517 §5).
pub(crate) struct KeySet(Vec<std::sync::Arc<Key>>);

/// Keys in one set; more are not honest.
const MAX_KEYS: usize = 100;

impl KeySet {
    /// The usable keys of a JWK set; the others are left out, as RFC 7517 §5 has it.
    ///
    /// # Errors
    /// A text that is no JWK set, or none of whose keys can be used.
    pub fn parse(text: &[u8]) -> Result<Self, Unusable> {
        let document = Object::parse(text).map_err(|_| Unusable("it is no JSON object"))?;
        let Some(Value::Array(jwks)) = document.value("keys") else {
            return Err(Unusable("it has no `keys`"));
        };
        if jwks.len() > MAX_KEYS {
            return Err(Unusable("it has too many keys"));
        }
        let mut keys = Vec::new();
        for jwk in jwks {
            let Value::Object(jwk) = jwk else { return Err(Unusable("a key is no object")) };
            match Key::from_jwk(jwk) {
                Ok(key) => keys.push(std::sync::Arc::new(key)),
                Err(reason) => tracing::debug!(%reason, "a key of a JWK set is left out"),
            }
        }
        // Two keys of one name: which is meant would be anybody's choice, so neither is.
        let names: Vec<_> = keys.iter().map(|key| key.kid.clone()).collect();
        keys.retain(|key| key.kid.is_none() || names.iter().filter(|name| **name == key.kid).count() == 1);
        if keys.is_empty() { Err(Unusable("none of its keys can be used")) } else { Ok(Self(keys)) }
    }

    /// The key of this id; a token without one means the only key there is (attacks.md AA-18).
    pub fn find(&self, kid: Option<&str>) -> Option<std::sync::Arc<Key>> {
        match (kid, self.0.as_slice()) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid)).cloned(),
            (None, [only]) => Some(std::sync::Arc::clone(only)),
            (None, _) => None,
        }
    }
}
