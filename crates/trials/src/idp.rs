//! An OpenID provider that vouches for whomever a trial wants, in whatever way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest;
use bartizan_model::{Clock, SystemClock};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::{Heard, Issuer, Pen, encode, merge, parameter};

/// What it has given out, and to whom it gives no more.
#[derive(Default)]
struct Given {
    /// The codes that are out: the challenge each is bound to, and the ID token it is good for.
    codes: BTreeMap<String, (String, String)>,
    /// Codes that bring a refresh token along.
    offline: BTreeSet<String>,
    /// Refresh tokens that are good, for whom; and access tokens.
    refresh: BTreeMap<String, String>,
    access: BTreeMap<String, String>,
    /// How many were made.
    made: usize,
    /// People who are gone.
    gone: BTreeSet<String>,
    /// Whether it answers nothing but 503.
    is_down: bool,
}

type Shared = Arc<Mutex<Given>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Given> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A provider on loopback. It keeps OpenID Connect where a trial does not have it otherwise: a code is good once, for the
/// verifier of its challenge.
pub struct Idp {
    issuer: Issuer,
    given: Shared,
    recheck: Option<String>,
}

impl Idp {
    /// A provider whose key comes of this seed.
    pub fn start(seed: u8) -> Self {
        Self::with(seed, json!({}))
    }

    /// The same with other metadata; `null` takes a member out.
    pub fn with(seed: u8, more: Value) -> Self {
        let given = Shared::default();
        let known = Arc::clone(&given);
        let metadata = move |issuer: &str| {
            let own = json!({
                "authorization_endpoint": format!("{issuer}/authorize"), "token_endpoint": format!("{issuer}/token"),
                "userinfo_endpoint": format!("{issuer}/userinfo"), "authorization_response_iss_parameter_supported": true,
            });
            merge(own, more.clone())
        };
        let issuer = Issuer::with(seed, metadata, move |heard, pen| answer(&known, heard, pen));
        Self { issuer, given, recheck: None }
    }

    /// The same, which the gate asks about people as `recheck` says (the inside of an inline table).
    pub fn rechecked(self, recheck: &str) -> Self {
        Self { recheck: Some(format!("recheck = {{ {recheck} }}\n")), ..self }
    }

    /// From now on this person is nobody here: what they were given is worth nothing.
    pub fn dismiss(&self, subject: &str) {
        lock(&self.given).gone.insert(subject.to_owned());
    }

    /// Whether it answers at its token and userinfo endpoints.
    pub fn be_down(&self, is_down: bool) {
        lock(&self.given).is_down = is_down;
    }

    /// `iss`
    pub fn name(&self) -> String {
        self.issuer.name()
    }

    /// `[identity.provider]` for it; the gate's secret is `IDP_SECRET`.
    pub fn config(&self) -> String {
        format!(
            "[identity.provider]\nkind = \"oidc\"\nissuer = \"{}\"\nclient_id = \"gate\"\n\
             credential = {{ method = \"client_secret_basic\", secret = {{ env = \"IDP_SECRET\" }} }}\n{}",
            self.name(),
            self.recheck.as_deref().unwrap_or_default()
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
        let is_offline =
            parameter(address, "scope").is_some_and(|scope| scope.split(' ').any(|s| s == "offline_access"));
        let mut given = lock(&self.given);
        let code = format!("provider-code-{}", given.codes.len());
        given.codes.insert(code.clone(), (challenge, id_token.to_owned()));
        if is_offline {
            given.offline.insert(code.clone());
        }
        drop(given);
        self.back(address, &[("code", &code)])
    }

    /// Sends the browser back with these parameters, `state` and `iss`.
    pub fn back(&self, address: &str, parameters: &[(&str, &str)]) -> String {
        let (state, name) = (parameter(address, "state").unwrap_or_default(), self.name());
        let own = [("state", state.as_str()), ("iss", name.as_str())];
        format!("/oauth/callback?{}", encode(&[parameters, &own].concat()))
    }
}

/// The token endpoint (OpenID Connect Core §3.1.3, §12) and the userinfo endpoint (§5.3).
fn answer(shared: &Shared, heard: &Heard, pen: &mut Pen) -> bool {
    let is_ours = matches!(heard.path(), "/token" | "/userinfo");
    if is_ours && lock(shared).is_down {
        pen.whole("503 Service Unavailable", "application/json", "", "{}");
        return true;
    }
    match heard.path() {
        "/token" => give(shared, heard, pen),
        "/userinfo" => tell(shared, heard, pen),
        _ => {}
    }
    is_ours
}

fn give(shared: &Shared, heard: &Heard, pen: &mut Pen) {
    let form: BTreeMap<_, _> = form_urlencoded::parse(heard.body.as_bytes()).into_owned().collect();
    let of = |name: &str| form.get(name).map_or("", String::as_str);
    let refused = r#"{"error":"invalid_grant"}"#;
    let mut given = lock(shared);
    let (subject, id_token, is_offline) = if of("grant_type") == "refresh_token" {
        // Good once.
        match given.refresh.remove(of("refresh_token")).filter(|subject| !given.gone.contains(subject)) {
            Some(subject) => (subject, None, true),
            None => return pen.whole("400 Bad Request", "application/json", "", refused),
        }
    } else {
        let taken = given.codes.insert(
            of("code").to_owned(),
            // Spent, and no challenge answers it.
            (String::new(), String::new()),
        );
        let hash = digest::digest(&digest::SHA256, of("code_verifier").as_bytes());
        match taken {
            Some((challenge, id_token)) if challenge == URL_SAFE_NO_PAD.encode(hash) => {
                (subject_of(&id_token), Some(id_token), given.offline.contains(of("code")))
            }
            _ => return pen.whole("400 Bad Request", "application/json", "", refused),
        }
    };
    given.made += 1;
    let number = given.made;
    let access = format!("planted-provider-token-{number}");
    given.access.insert(access.clone(), subject.clone());
    let mut body = json!({ "token_type": "Bearer", "access_token": access, "expires_in": 60 });
    if let Some(id_token) = id_token {
        body = merge(body, json!({ "id_token": id_token }));
    }
    if is_offline {
        let refresh = format!("planted-provider-refresh-{number}");
        given.refresh.insert(refresh.clone(), subject);
        body = merge(body, json!({ "refresh_token": refresh }));
    }
    drop(given);
    pen.json(&body.to_string());
}

fn tell(shared: &Shared, heard: &Heard, pen: &mut Pen) {
    let line = heard.line("authorization").unwrap_or_default().to_owned();
    let given = lock(shared);
    let subject = line.strip_prefix("Bearer ").and_then(|token| given.access.get(token).cloned());
    let subject = subject.filter(|subject| !given.gone.contains(subject));
    drop(given);
    match subject {
        Some(subject) => pen.json(&json!({ "sub": subject }).to_string()),
        None => pen.whole("401 Unauthorized", "application/json", "", r#"{"error":"invalid_token"}"#),
    }
}

/// `sub` of an ID token, whatever else is wrong with it.
fn subject_of(id_token: &str) -> String {
    let payload = id_token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Value = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned()
}
