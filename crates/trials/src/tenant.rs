//! A tenant of Microsoft Entra ID as far as a gate sees it, by the published contract: metadata, keys, version 2.0 access
//! tokens; what its token endpoint and Graph answer is the trial's to say.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use bartizan_model::{Clock, SystemClock};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{Heard, Pen, Upstream, issuer::merge};

/// The tenant's id.
const ID: &str = "11111111-2222-3333-4444-555555555555";

/// A tenant on loopback.
pub struct Tenant {
    server: Upstream,
    key: RsaKeyPair,
}

impl Tenant {
    /// A tenant whose POST endpoints answer by `script`.
    ///
    /// # Panics
    /// If no key can be made.
    pub fn start(script: impl Fn(&Heard, &mut Pen) + Send + Sync + 'static) -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key can be made");
        // RSAPublicKey (RFC 8017 §A.1.1) of 2048 bits: nine bytes of DER stand before the modulus.
        let modulus = key.public_key().as_ref().get(9..265).map(|n| URL_SAFE_NO_PAD.encode(n));
        let jwk = json!({ "kty": "RSA", "use": "sig", "kid": "k1", "n": modulus, "e": "AQAB" });
        let keys = json!({ "keys": [jwk] }).to_string();
        let server = Upstream::modern(move |heard, pen| {
            let base = format!("http://{}/{ID}", heard.line("host").unwrap_or_default());
            let place = heard.path().trim_start_matches('/').trim_start_matches(ID);
            match (heard.method(), place) {
                ("GET", "/v2.0/.well-known/openid-configuration") => pen.json(
                    &json!({
                        "issuer": format!("{base}/v2.0"), "jwks_uri": format!("{base}/discovery/v2.0/keys"),
                        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
                        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
                    })
                    .to_string(),
                ),
                ("GET", "/discovery/v2.0/keys") => pen.json(&keys),
                ("POST", _) => script(heard, pen),
                _ => pen.empty("404 Not Found"),
            }
            true
        });
        Self { server, key }
    }

    /// Where it is.
    pub fn origin(&self) -> String {
        self.server.origin()
    }

    /// `iss` of its tokens.
    pub fn issuer(&self) -> String {
        format!("{}/{ID}/v2.0", self.origin())
    }

    /// `[[identity.issuers]]` for it.
    pub fn config(&self) -> String {
        let origin = self.origin();
        format!(
            "[[identity.issuers]]\nkind = \"entra\"\ntenant = \"{ID}\"\nauthority = \"{origin}\"\nsts = \"{origin}\"\n"
        )
    }

    /// `[identity.provider]` for it, without its kind and a credential.
    pub fn provider(&self) -> String {
        let origin = self.origin();
        format!("tenant = \"{ID}\"\nclient_id = \"gate\"\nauthority = \"{origin}\"\nsts = \"{origin}\"\n")
    }

    /// `app` for it: a registration whose secret is in this file.
    pub fn app(&self, secret: &std::path::Path) -> String {
        self.app_with(&format!("{{ method = \"client_secret_post\", secret = {{ file = {secret:?} }} }}"))
    }

    /// `app` for it, with this credential.
    pub fn app_with(&self, credential: &str) -> String {
        format!(
            "{{ tenant = \"{ID}\", client_id = \"gate\", authority = \"{}\", credential = {credential} }}",
            self.origin()
        )
    }

    /// What was POSTed to its token endpoint.
    pub fn forms(&self) -> Vec<String> {
        let place = format!("/{ID}/oauth2/v2.0/token");
        self.server.heard().into_iter().filter(|h| h.path() == place).map(|h| h.body).collect()
    }

    /// A token of the person `oid` for `audience`, with other claims where `more` has them; `null` takes one out.
    ///
    /// # Panics
    /// If the key does not sign.
    pub fn token(&self, oid: &str, audience: &str, more: Value) -> String {
        let now = SystemClock.now().as_unix();
        let claims = json!({
            "ver": "2.0", "iss": self.issuer(), "aud": audience, "tid": ID, "oid": oid, "sub": format!("pairwise-{oid}"),
            "azp": "app", "scp": "mcp:read", "uti": format!("{oid}-{now}"), "iat": now, "nbf": now, "exp": now + 3000,
            "groups": ["people"],
        });
        let header = json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" }).to_string();
        let claims = merge(claims, more).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("a key signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
