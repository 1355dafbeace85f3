//! An authorization server that signs whatever a trial wants.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bartizan_model::{Clock, SystemClock};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::Upstream;

/// An issuer of access tokens on loopback, with one Ed25519 key.
pub struct Issuer {
    server: Upstream,
    key: Ed25519KeyPair,
    fetches: Arc<AtomicUsize>,
}

/// `base` with the members of `more`; `null` takes one out.
pub(crate) fn merge(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        for (name, value) in more {
            match value {
                Value::Null => drop(base.remove(&name)),
                value => drop(base.insert(name, value)),
            }
        }
    }
    base
}

impl Issuer {
    /// An issuer whose key comes of this seed.
    ///
    /// # Panics
    /// Never: every seed makes a key.
    pub fn start(seed: u8) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed");
        let jwk = json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "key",
            "x": URL_SAFE_NO_PAD.encode(key.public_key().as_ref()),
        }] });
        let fetches = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&fetches);
        let server = Upstream::modern(move |heard, pen| {
            if heard.method() != "GET" {
                return false;
            }
            let issuer = format!("http://{}", heard.line("host").unwrap_or_default());
            match heard.path() {
                "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration" => {
                    pen.json(&json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/jwks") }).to_string());
                }
                "/jwks" => {
                    counted.fetch_add(1, Ordering::Relaxed);
                    pen.json(&jwk.to_string());
                }
                _ => pen.empty("404 Not Found"),
            }
            true
        });
        Self { server, key, fetches }
    }

    /// `iss`
    pub fn name(&self) -> String {
        self.server.url().trim_end_matches("/mcp").to_owned()
    }

    /// Its public key, without a name.
    pub fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref()) })
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }

    /// `[[identity.issuers]]` for it.
    pub fn config(&self) -> String {
        format!("[[identity.issuers]]\nkind = \"oidc\"\nissuer = \"{}\"\n", self.name())
    }

    /// A good access token of `subject` for `audience`, with other claims where `more` has them; `null` takes one out.
    pub fn token(&self, subject: &str, audience: &str, more: Value) -> String {
        self.token_with(json!({}), subject, audience, more)
    }

    /// The same with another header, too.
    pub fn token_with(&self, header: Value, subject: &str, audience: &str, more: Value) -> String {
        let now = SystemClock.now().as_unix();
        let header = merge(json!({ "alg": "EdDSA", "kid": "key", "typ": "at+jwt" }), header);
        let claims = json!({
            "iss": self.name(), "sub": subject, "aud": audience, "client_id": "app", "jti": format!("{subject}-{now}"),
            "iat": now, "nbf": now, "exp": now + 300, "scope": "mcp:read", "groups": ["people"],
        });
        self.sign(&header.to_string(), &merge(claims, more).to_string())
    }

    /// Signs a header and claims as they are written.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
