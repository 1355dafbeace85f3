//! An authorization server that signs whatever a trial wants.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bartizan_model::{Clock, SystemClock};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{Heard, Pen, Upstream};

/// An issuer of access tokens on loopback, with one Ed25519 key.
pub struct Issuer {
    server: Upstream,
    key: Ed25519KeyPair,
    fetches: Arc<AtomicUsize>,
    id_token: Arc<Mutex<String>>,
}

/// `issuers` for a role that goes by the groups of every `issuer` in `config`.
pub fn issuers_of(config: &str) -> String {
    let named = config.split("issuer = \"").skip(1).filter_map(|rest| rest.split('"').next());
    format!("issuers = {:?}\n", named.collect::<Vec<_>>())
}

/// `base` with the members of `more`; `null` takes one out.
pub fn merge(mut base: Value, more: Value) -> Value {
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

/// A parameter of an address; empty if it is not there.
pub(crate) fn query_of(address: &str, name: &str) -> String {
    let query = address.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(named, _)| *named == name).map(|(_, value)| value.to_owned()).next().unwrap_or_default()
}

impl Issuer {
    /// An issuer whose key comes of this seed.
    ///
    /// # Panics
    /// Never: every seed makes a key.
    pub fn start(seed: u8) -> Self {
        Self::with(seed, |_| json!({}), |_, _| false)
    }

    /// The same, whose metadata has these members too, by its name, and that leaves what it does not answer to `script`.
    ///
    /// # Panics
    /// Never: every seed makes a key.
    pub fn with(
        seed: u8,
        more: impl Fn(&str) -> Value + Send + Sync + 'static,
        script: impl Fn(&Heard, &mut Pen) -> bool + Send + Sync + 'static,
    ) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed");
        let jwk = json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "key",
            "x": URL_SAFE_NO_PAD.encode(key.public_key().as_ref()),
        }] });
        let fetches = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&fetches);
        let id_token = Arc::<Mutex<String>>::default();
        let given = Arc::clone(&id_token);
        let server = Upstream::modern(move |heard, pen| {
            let issuer = format!("http://{}", heard.line("host").unwrap_or_default());
            let id_token = given.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if (heard.method(), heard.path()) == ("POST", "/token") && !id_token.is_empty() {
                let answer = json!({ "token_type": "Bearer", "access_token": "opaque", "expires_in": 60, "id_token": id_token });
                pen.json(&answer.to_string());
                return true;
            }
            if heard.method() != "GET" {
                return script(heard, pen);
            }
            match heard.path() {
                "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration" => {
                    let own = json!({
                        "issuer": issuer, "jwks_uri": format!("{issuer}/jwks"),
                        "authorization_endpoint": format!("{issuer}/authorize"), "token_endpoint": format!("{issuer}/token"),
                    });
                    pen.json(&merge(own, more(&issuer)).to_string());
                }
                "/jwks" => {
                    counted.fetch_add(1, Ordering::Relaxed);
                    pen.json(&jwk.to_string());
                }
                _ => pen.empty("404 Not Found"),
            }
            true
        });
        Self { server, key, fetches, id_token }
    }

    /// `iss`
    pub fn name(&self) -> String {
        self.server.url().trim_end_matches("/mcp").to_owned()
    }

    /// Everything it was asked.
    pub fn heard(&self) -> Vec<Heard> {
        self.server.heard()
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

    /// `[identity.provider]` for it: whoever signs in is whom [`Issuer::signs_in`] says.
    pub fn provider(&self) -> String {
        format!(
            "[identity.provider]\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"gate\"\n\
             credential = {{ method = \"client_secret_basic\", secret = {{ env = \"PROVIDER_SECRET\" }} }}\n",
            self.name()
        )
    }

    /// The next browser that comes back from where `departure` sent it is signed in as `subject`, with these groups.
    pub fn signs_in(&self, departure: &str, subject: &str, groups: &[&str]) {
        self.signs_in_with(departure, subject, groups, json!({}));
    }

    /// The same with other claims of the ID token; `null` takes one out.
    pub fn signs_in_with(&self, departure: &str, subject: &str, groups: &[&str], more: Value) {
        let nonce = query_of(departure, "nonce");
        let now = SystemClock.now().as_unix();
        let header = json!({ "alg": "EdDSA", "kid": "key", "typ": "JWT" });
        let claims = json!({
            "iss": self.name(), "aud": "gate", "sub": subject, "nonce": nonce, "iat": now, "exp": now + 300,
            "auth_time": now, "groups": groups,
        });
        let token = self.sign(&header.to_string(), &merge(claims, more).to_string());
        *self.id_token.lock().unwrap_or_else(PoisonError::into_inner) = token;
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
