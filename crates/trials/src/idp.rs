//! An OpenID provider that vouches for whomever a trial wants, in whatever way.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;
use bartizan_model::{Clock, SystemClock};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::{Heard, Issuer, Pen, encode, merge, parameter};

/// The codes that are out: the challenge each is bound to, and the ID token it is good for.
type Codes = Arc<Mutex<BTreeMap<String, (String, String)>>>;

/// A provider on loopback. It keeps OpenID Connect where a trial does not have it otherwise: a code is good once, for the
/// verifier of its challenge.
pub struct Idp {
    issuer: Issuer,
    codes: Codes,
}

impl Idp {
    /// A provider whose key comes of this seed.
    pub fn start(seed: u8) -> Self {
        Self::with(seed, json!({}))
    }

    /// The same with other metadata; `null` takes a member out.
    pub fn with(seed: u8, more: Value) -> Self {
        let codes = Codes::default();
        let known = Arc::clone(&codes);
        let metadata = move |issuer: &str| {
            let own = json!({
                "authorization_endpoint": format!("{issuer}/authorize"), "token_endpoint": format!("{issuer}/token"),
                "authorization_response_iss_parameter_supported": true,
            });
            merge(own, more.clone())
        };
        let issuer = Issuer::with(seed, metadata, move |heard, pen| redeem(&known, heard, pen));
        Self { issuer, codes }
    }

    /// `iss`
    pub fn name(&self) -> String {
        self.issuer.name()
    }

    /// `[identity.provider]` for it; the gate's secret is `IDP_SECRET`.
    pub fn config(&self) -> String {
        format!(
            "[identity.provider]\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"gate\"\n\
             credential = {{ method = \"client_secret_basic\", secret = {{ env = \"IDP_SECRET\" }} }}\n",
            self.name()
        )
    }

    /// Everything it was asked.
    pub fn heard(&self) -> Vec<Heard> {
        self.issuer.heard()
    }

    /// How often somebody wanted a token.
    pub fn redemptions(&self) -> usize {
        self.heard().iter().filter(|heard| heard.path() == "/token").count()
    }

    /// Signs `subject` in, who was sent to `address`; the answer is where the browser goes back to, without the host.
    pub fn sign_in(&self, address: &str, subject: &str) -> String {
        self.sign_in_with(address, json!({}), json!({ "sub": subject }))
    }

    /// The same with another header and other claims of the ID token; `null` takes one out.
    pub fn sign_in_with(&self, address: &str, header: Value, claims: Value) -> String {
        let header = merge(json!({ "alg": "EdDSA", "kid": "key", "typ": "JWT" }), header);
        let claims = merge(self.claims(address), claims);
        self.answer(address, &self.issuer.sign(&header.to_string(), &claims.to_string()))
    }

    /// What the ID token of a good sign-in says.
    pub fn claims(&self, address: &str) -> Value {
        let now = SystemClock.now().as_unix();
        json!({
            "iss": self.name(), "aud": "gate", "sub": "ann", "nonce": parameter(address, "nonce"), "iat": now,
            "exp": now + 300, "auth_time": now, "amr": ["pwd"], "groups": ["people"],
        })
    }

    /// Sends the browser back with a code that is good for this ID token.
    pub fn answer(&self, address: &str, id_token: &str) -> String {
        let challenge = parameter(address, "code_challenge").unwrap_or_default();
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let code = format!("provider-code-{}", codes.len());
        codes.insert(code.clone(), (challenge, id_token.to_owned()));
        drop(codes);
        self.back(address, &[("code", &code)])
    }

    /// Sends the browser back with these parameters, `state` and `iss`.
    pub fn back(&self, address: &str, parameters: &[(&str, &str)]) -> String {
        let (state, name) = (parameter(address, "state").unwrap_or_default(), self.name());
        let own = [("state", state.as_str()), ("iss", name.as_str())];
        format!("/oauth/callback?{}", encode(&[parameters, &own].concat()))
    }
}

/// The token endpoint (OpenID Connect Core §3.1.3).
fn redeem(codes: &Codes, heard: &Heard, pen: &mut Pen) -> bool {
    if heard.path() != "/token" {
        return false;
    }
    let form: BTreeMap<_, _> = form_urlencoded::parse(heard.body.as_bytes()).into_owned().collect();
    let of = |name: &str| form.get(name).map_or("", String::as_str);
    let taken = codes.lock().unwrap_or_else(PoisonError::into_inner).insert(
        of("code").to_owned(),
        // Spent, and no challenge answers it.
        (String::new(), String::new()),
    );
    let hash = digest::digest(&digest::SHA256, of("code_verifier").as_bytes());
    match taken {
        Some((challenge, id_token)) if challenge == URL_SAFE_NO_PAD.encode(hash) => {
            let body = json!({
                "token_type": "Bearer", "access_token": "planted-provider-token", "expires_in": 60,
                "id_token": id_token,
            });
            pen.json(&body.to_string());
        }
        _ => pen.whole("400 Bad Request", "application/json", "", r#"{"error":"invalid_grant"}"#),
    }
    true
}
