//! The cast. The database is a real one, the network a table, and the browsers keep cookies as browsers do.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{ManualClock, Secret, SeededEntropy, Timestamp};
use bartizan_store::{Database, Sealer, StoredBrowsers, StoredConsents, StoredPending, StoredProviderTokens};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::{
    Fetch, GroupSource,
    facade::{Application, Asked, AuthorizationRequest, Person},
    outbound::Assertions,
    signin::{
        Decisions, Described, Desk, Entered, Held, Noted, ProviderConfig, SignIn, SignInSettings,
        SignInSurroundings, Standing, Unanswerable, Undecided, Withheld,
    },
    tests::{
        notebook::Notebook,
        scene::{NOW, Net, SharedNet, Signer, merge},
    },
};

pub const ISSUER: &str = "https://idp.example";
pub const PUBLIC: &str = "https://gate.example";
pub const SERVER: &str = "https://gate.example/mcp/files";
pub const ALL_SERVERS: &str = "https://gate.example/mcp";
/// A resource whose consent is never remembered.
pub const ADMINISTRATION: &str = "https://gate.example/api";

pub const OIDC: &str = r#"
    kind = "oidc"
    issuer = "https://idp.example"
    client_id = "gate"
    credential = { method = "client_secret_basic", secret = { env = "SECRET" } }
"#;

/// The half that speaks OAuth, for clients that are whatever their request says.
#[derive(Default)]
pub struct FakeDesk {
    pub granted: Mutex<Vec<(AuthorizationRequest, Person)>>,
    pub withdrawn: Mutex<Vec<(String, String, String)>>,
}

#[async_trait]
impl Desk for FakeDesk {
    async fn begin(&self, asked: &Asked<'_>) -> Result<AuthorizationRequest, Unanswerable> {
        let query = asked.query.unwrap_or_default().as_bytes();
        let fields: BTreeMap<_, _> = form_urlencoded::parse(query).into_owned().collect();
        let of = |name: &str, usual: &str| fields.get(name).cloned().unwrap_or_else(|| usual.to_owned());
        match of("client", "https://app.example/client").as_str() {
            "unknown" => Err(Unanswerable::Page {
                status: http::StatusCode::BAD_REQUEST,
                words: "Nobody knows <this> client.".into(),
            }),
            client @ ("confused" | "confused stranger") => Err(Unanswerable::Redirect {
                location: "https://app.example/cb?error=invalid_scope&state=%22%3E".into(),
                stranger: (client != "confused").then(|| "<b>Notes\u{202e}</b>".into()),
                words: "no such `scope`",
            }),
            client => Ok(AuthorizationRequest {
                client: Application {
                    id: client.to_owned(),
                    name: of("name", "Notes"),
                    verified_host: Some(of("host", "app.example")).filter(|host| !host.is_empty()),
                    is_preregistered: false,
                    metadata: of("metadata", "m1"),
                    only_loopback: of("redirect_uri", "").starts_with("http://"),
                },
                redirect_uri: of("redirect_uri", "https://app.example/cb"),
                scopes: of("scope", "mcp:read").split(' ').map(str::to_owned).collect(),
                resource: of("resource", SERVER),
                state: Some("client's own".into()),
                code_challenge: "challenge".into(),
                dpop_jkt: None,
                max_age_s: fields.get("max_age").and_then(|age| age.parse().ok()),
                contexts: fields.get("acr_values").map(|c| vec![c.clone()]).unwrap_or_default(),
                claims: fields.get("claims").cloned(),
            }),
        }
    }

    async fn complete(&self, request: AuthorizationRequest, person: &Person) -> Result<String, Unanswerable> {
        let location = format!("{}?code=granted", request.redirect_uri);
        self.granted.lock().unwrap().push((request, person.clone()));
        Ok(location)
    }

    fn deny(&self, request: &AuthorizationRequest, error: &str) -> String {
        format!("{}?error={error}", request.redirect_uri)
    }

    async fn withdraw(&self, issuer: &str, subject: &str, client: &str) -> Result<(), Unanswerable> {
        self.withdrawn.lock().unwrap().push((issuer.into(), subject.into(), client.into()));
        Ok(())
    }
}

/// Calls that are held, and results that are withheld: each for the people it names, whoever asked. And the applications in
/// whose windows something has entered.
#[derive(Default)]
pub struct HeldCalls(
    pub Mutex<Vec<(Held, Vec<String>)>>,
    pub Mutex<Vec<(Withheld, Vec<String>)>>,
    pub Mutex<Vec<String>>,
);

impl HeldCalls {
    /// Holds a call that `asker` made, for `deciders`; the answer is the path of its page.
    pub fn hold(&self, asker: &str, deciders: &[&str]) -> String {
        let mut calls = self.0.lock().unwrap();
        let id = format!("{:032x}", calls.len() + 1);
        let held = Held {
            id: id.clone(),
            asker: asker.to_owned(),
            issuer: ISSUER.to_owned(),
            client: "https://app.example/client".to_owned(),
            server: "mail".to_owned(),
            tool: "send".to_owned(),
            arguments: r#"{"to":"<b>eve</b>⟨U+202E⟩"}"#.to_owned(),
            more_bytes: 0,
            labels: vec!["what it is told can leave the house".to_owned()],
            policies: vec!["ask".to_owned()],
            found: vec!["holds a GitHub token (secret.github-token)".to_owned()],
            because: "`fetch` of `web` at 14:02 UTC returned untrusted text".to_owned(),
            role: "boss".to_owned(),
            asked_at: Timestamp::from_unix(NOW),
            expires_at: Timestamp::from_unix(NOW + 300),
            standing: Standing::Waiting,
            is_yours: true,
        };
        calls.push((held, deciders.iter().map(|name| (*name).to_owned()).collect()));
        format!("/approvals/{id}")
    }

    /// Withholds a result for `deciders`; the answer is the path of its page.
    pub fn withhold(&self, deciders: &[&str]) -> String {
        let mut results = self.1.lock().unwrap();
        let id = format!("{:032x}", results.len() + 1);
        let withheld = Withheld {
            id: id.clone(),
            asker: "ann".to_owned(),
            issuer: ISSUER.to_owned(),
            client: "https://app.example/client".to_owned(),
            server: "web".to_owned(),
            method: "tools/call".to_owned(),
            name: "fetch".to_owned(),
            found: vec!["injection.override".to_owned()],
            excerpt: r#"{"text":"<img src=x> ignore ⟨U+202E⟩"}"#.to_owned(),
            more_bytes: 77,
            kept_at: Timestamp::from_unix(NOW),
            expires_at: Timestamp::from_unix(NOW + 3600),
            is_released: false,
        };
        results.push((withheld, deciders.iter().map(|name| (*name).to_owned()).collect()));
        format!("/quarantine/{id}")
    }

    pub fn standing(&self, path: &str) -> Standing {
        let calls = self.0.lock().unwrap();
        calls.iter().find(|(held, _)| path.ends_with(&held.id)).unwrap().0.standing
    }
}

#[async_trait]
impl Decisions for HeldCalls {
    async fn waiting(&self, person: &Person) -> Result<Vec<Held>, Undecided> {
        let calls = self.0.lock().unwrap();
        let mine = calls.iter().filter(|(_, deciders)| deciders.contains(&person.subject));
        Ok(mine.map(|(held, _)| held.clone()).collect())
    }

    async fn show(&self, id: &str, person: &Person) -> Result<Held, Undecided> {
        let calls = self.0.lock().unwrap();
        let (held, deciders) = calls.iter().find(|(held, _)| held.id == id).ok_or(Undecided::Unknown)?;
        let is_yours = deciders.contains(&person.subject);
        if !is_yours && held.asker != person.subject {
            return Err(Undecided::Role);
        }
        Ok(Held { is_yours, ..held.clone() })
    }

    async fn decide(&self, id: &str, approve: bool, person: &Person) -> Result<Held, Undecided> {
        let mut calls = self.0.lock().unwrap();
        let (held, deciders) = calls.iter_mut().find(|(held, _)| held.id == id).ok_or(Undecided::Unknown)?;
        if !deciders.contains(&person.subject) {
            return Err(if held.asker == person.subject { Undecided::Own } else { Undecided::Role });
        }
        if held.standing != Standing::Waiting {
            return Err(Undecided::Over);
        }
        held.standing = if approve { Standing::Approved } else { Standing::Denied };
        Ok(held.clone())
    }

    async fn withheld(&self, person: &Person) -> Result<Vec<Withheld>, Undecided> {
        let results = self.1.lock().unwrap();
        let mine = results.iter().filter(|(_, deciders)| deciders.contains(&person.subject));
        Ok(mine.map(|(withheld, _)| withheld.clone()).collect())
    }

    async fn show_withheld(&self, id: &str, person: &Person) -> Result<Withheld, Undecided> {
        let results = self.1.lock().unwrap();
        let (withheld, deciders) = results.iter().find(|(one, _)| one.id == id).ok_or(Undecided::Unknown)?;
        if deciders.contains(&person.subject) { Ok(withheld.clone()) } else { Err(Undecided::Role) }
    }

    async fn decide_withheld(&self, id: &str, release: bool, person: &Person) -> Result<Withheld, Undecided> {
        let withheld = self.show_withheld(id, person).await?;
        let mut results = self.1.lock().unwrap();
        match release {
            true => {
                results.iter_mut().filter(|(one, _)| one.id == id).for_each(|(one, _)| one.is_released = true)
            }
            false => results.retain(|(one, _)| one.id != id),
        }
        Ok(withheld)
    }

    async fn entered(&self, _person: &Person) -> Result<Vec<Entered>, Undecided> {
        let clients = self.2.lock().unwrap();
        let entered = |client: &String| Entered {
            client: client.clone(),
            shown_client: client.clone(),
            words: vec!["untrusted: fetch of web".to_owned(), "private: read of files".to_owned()],
            have_met: true,
        };
        Ok(clients.iter().map(entered).collect())
    }

    async fn reset_entered(&self, client: &str, _person: &Person) -> Result<(), Undecided> {
        let mut clients = self.2.lock().unwrap();
        let before = clients.len();
        clients.retain(|known| known != client);
        if clients.len() < before { Ok(()) } else { Err(Undecided::Unknown) }
    }
}

pub struct Scene {
    pub held: Arc<HeldCalls>,
    pub signin: SignIn,
    pub net: Arc<Net>,
    pub clock: Arc<ManualClock>,
    pub desk: Arc<FakeDesk>,
    pub notebook: Arc<Notebook>,
    /// Signs the provider's ID tokens, under the id `k1`.
    pub signer: Signer,
    /// What the gate's secret reads as.
    pub secret: Arc<Mutex<String>>,
    /// What sign-ins left.
    pub left: Arc<StoredProviderTokens>,
    _folder: tempfile::TempDir,
}

pub fn described() -> Vec<Described> {
    let scopes = BTreeMap::from([
        ("mcp:read".to_owned(), "read what is there".to_owned()),
        ("mcp:write".to_owned(), "change what is there".to_owned()),
    ]);
    let of = |url: &str, servers: &[&str]| Described {
        url: url.to_owned(),
        servers: servers.iter().map(|name| (*name).to_owned()).collect(),
        scopes: scopes.clone(),
        asks_each_time: false,
    };
    vec![
        of(SERVER, &["files"]),
        of(ALL_SERVERS, &["files", "mail", "web"]),
        Described { asks_each_time: true, ..of(ADMINISTRATION, &[]) },
    ]
}

pub fn metadata() -> Value {
    json!({
        "issuer": ISSUER, "authorization_endpoint": "https://idp.example/auth?tenant=1",
        "token_endpoint": "https://idp.example/token", "jwks_uri": "https://idp.example/keys",
        "authorization_response_iss_parameter_supported": true,
    })
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(PUBLIC, Some(OIDC), None).await
    }

    pub async fn local() -> Self {
        Self::with("http://127.0.0.1:8931", None, None).await
    }

    pub async fn configured(provider: &str) -> Self {
        Self::with(PUBLIC, Some(provider), None).await
    }

    pub async fn with(
        public_url: &str,
        provider: Option<&str>,
        groups: Option<Arc<dyn GroupSource>>,
    ) -> Self {
        Self::build(public_url, provider, groups).await.map_err(|problems| problems.join("\n")).unwrap()
    }

    pub async fn build(
        public_url: &str,
        provider: Option<&str>,
        groups: Option<Arc<dyn GroupSource>>,
    ) -> Result<Self, Vec<String>> {
        Self::build_with_secret(public_url, provider, groups, "s3cret & more").await
    }

    pub async fn build_with_secret(
        public_url: &str,
        provider: Option<&str>,
        groups: Option<Arc<dyn GroupSource>>,
        secret: &str,
    ) -> Result<Self, Vec<String>> {
        Self::build_keeping(public_url, provider, groups, secret, false).await
    }

    /// The same, where what a sign-in leaves may be kept.
    pub async fn build_keeping(
        public_url: &str,
        provider: Option<&str>,
        groups: Option<Arc<dyn GroupSource>>,
        secret: &str,
        keeps: bool,
    ) -> Result<Self, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::sqlite(&folder.path().join("store.db")).await.unwrap();
        let sealer = Arc::new(Sealer::new(&[7; 32]).unwrap());
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(NOW)));
        let (net, desk) = (Arc::new(Net::default()), Arc::new(FakeDesk::default()));
        let (signer, notebook) = (Signer::ed(1), Arc::<Notebook>::default());
        net.says("https://idp.example/.well-known/openid-configuration", 200, metadata());
        let key = signer.jwk_with(json!({ "kid": "k1", "use": "sig" }));
        net.says("https://idp.example/keys", 200, json!({ "keys": [key] }));
        let secret = Arc::new(Mutex::new(secret.to_owned()));
        let held = Arc::new(HeldCalls::default());
        let (reachable, readable) = (Arc::clone(&net), Arc::clone(&secret));
        let left = Arc::new(StoredProviderTokens::new(database.clone(), Arc::clone(&sealer)));
        let assertions = keeps.then(|| Assertions::new(left.clone(), clock.clone()));
        let signin = SignIn::new(
            SignInSettings {
                public_url: public_url.parse().unwrap(),
                provider: provider.map(|text| toml::from_str::<ProviderConfig>(text).unwrap()),
                browsers: Default::default(),
                resources: described(),
            },
            SignInSurroundings {
                desk: desk.clone(),
                clock: clock.clone(),
                entropy: Arc::new(SeededEntropy::new(1)),
                consents: Arc::new(StoredConsents::new(database.clone(), Arc::clone(&sealer))),
                browsers: Arc::new(StoredBrowsers::new(database.clone(), Arc::clone(&sealer))),
                pending: Arc::new(StoredPending::new(database, Arc::clone(&sealer))),
                sealer,
                fetch: &move |_: Option<&Path>| Arc::new(SharedNet(Arc::clone(&reachable))) as Arc<dyn Fetch>,
                secret: Arc::new(move |_| Ok(Secret::new(readable.lock().unwrap().clone()))),
                groups,
                ledger: notebook.clone(),
                decisions: Some(held.clone()),
                assertions,
            },
        )?;
        Ok(Self { held, signin, net, clock, desk, notebook, signer, secret, left, _folder: folder })
    }

    pub fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub fn granted(&self) -> usize {
        self.desk.granted.lock().unwrap().len()
    }

    pub fn asked_of_provider(&self) -> usize {
        self.net.asked.lock().unwrap().len()
    }

    /// What the ID token of a good sign-in says.
    pub fn claims(&self, departure: &Departure) -> Value {
        json!({
            "iss": ISSUER, "aud": "gate", "sub": "ann", "name": "Ann Example", "nonce": departure.of("nonce"),
            "iat": NOW, "exp": NOW + 300, "auth_time": NOW - 10, "amr": ["pwd", "otp"], "acr": "high",
            "groups": ["dev"], "roles": ["reader"],
        })
    }

    /// The provider will answer the code of this departure by an ID token that differs from a good one by this.
    pub fn vouches(&self, departure: &Departure, header: Value, claims: Value) {
        let good = json!({ "alg": "EdDSA", "kid": "k1", "typ": "JWT" });
        let token = self.signer.token(&merge(good, header), &merge(self.claims(departure), claims));
        self.answers_token(&token);
    }

    pub fn answers_token(&self, id_token: &str) {
        self.net.says(
            "https://idp.example/token",
            200,
            json!({ "token_type": "Bearer", "access_token": "planted-secret", "expires_in": 60, "id_token": id_token }),
        );
    }

    /// A browser in which `subject` has signed in and allowed the usual client the usual thing.
    pub async fn signed_in(&self, subject: &str) -> Browser<'_> {
        let mut browser = Browser::new(self);
        let departure = browser.allow("").await;
        self.vouches(&departure, json!({}), json!({ "sub": subject }));
        assert_eq!(browser.get(&departure.back("")).await.status, 303);
        self.desk.granted.lock().unwrap().clear();
        browser
    }
}

/// Somebody's browser.
pub struct Browser<'a> {
    scene: &'a Scene,
    pub cookies: BTreeMap<String, String>,
}

/// What a browser gets.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    pub reason: &'static str,
    pub noted: Noted,
}

impl Got {
    pub fn line(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |line| line.to_str().unwrap())
    }

    /// The value of a hidden field, or where a page goes on.
    pub fn field(&self, name: &str) -> String {
        let (_, rest) =
            self.body.split_once(&format!(r#"name="{name}" value=""#)).expect("the field is there");
        unescape(rest.split('"').next().unwrap())
    }

    /// Where the browser goes from here by itself.
    pub fn onward(&self) -> String {
        let location = self.line("location");
        if !location.is_empty() {
            return location.to_owned();
        }
        let (_, rest) = self.body.split_once(r#"content="0; url="#).expect("the page goes on");
        unescape(rest.split('"').next().unwrap())
    }

    pub fn is_consent_page(&self) -> bool {
        self.status == 200 && self.reason == "consent.asked"
    }

    /// The names of the cookies it sets, and not those it takes away.
    pub fn sets(&self) -> Vec<String> {
        let lines = self.headers.get_all(header::SET_COOKIE).iter().map(|line| line.to_str().unwrap());
        let kept = lines.filter(|line| !line.contains("Max-Age=0"));
        kept.map(|line| line.split('=').next().unwrap().to_owned()).collect()
    }
}

fn unescape(text: &str) -> String {
    text.replace("&#38;", "&")
        .replace("&#60;", "<")
        .replace("&#62;", ">")
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
}

/// A departure to the provider.
#[derive(Clone, Debug)]
pub struct Departure(pub Url);

impl Departure {
    pub fn of(&self, name: &str) -> String {
        self.find(name).expect("the parameter is there")
    }

    pub fn find(&self, name: &str) -> Option<String> {
        self.0.query_pairs().find(|(named, _)| named == name).map(|(_, value)| value.into_owned())
    }

    /// Where the provider sends the browser back to.
    pub fn back(&self, more: &str) -> String {
        format!("/oauth/callback?state={}&iss=https%3A%2F%2Fidp.example&code=good{more}", self.of("state"))
    }
}

impl<'a> Browser<'a> {
    pub fn new(scene: &'a Scene) -> Self {
        Self { scene, cookies: BTreeMap::new() }
    }

    pub async fn get(&mut self, address: &str) -> Got {
        self.send(&Method::GET, address, &[], "").await
    }

    /// Sends a form as a page of ours does.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Got {
        self.post_with(path, fields, &[]).await
    }

    /// Sends a form with header lines that differ; an empty one is left out.
    pub async fn post_with(&mut self, path: &str, fields: &[(&str, &str)], lines: &[(&str, &str)]) -> Got {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut all = BTreeMap::from([
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", "null"),
            ("sec-fetch-site", "same-origin"),
        ]);
        all.extend(lines.iter().copied());
        let lines: Vec<_> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        self.send(&Method::POST, path, &lines, &body).await
    }

    pub async fn send(&mut self, method: &Method, address: &str, lines: &[(&str, &str)], body: &str) -> Got {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            headers.insert(header::COOKIE, HeaderValue::from_str(&cookies.join("; ")).unwrap());
        }
        let (path, query) = match address.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (address, None),
        };
        let asked = Asked {
            method,
            path,
            query,
            headers: &headers,
            body: body.as_bytes(),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            is_tls: false,
        };
        let got = read(self.scene.signin.answer(&asked).await.expect("a page"));
        for line in got.headers.get_all(header::SET_COOKIE) {
            let (pair, attributes) = line.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        got
    }

    /// Asks for the usual thing, but for what `query` changes.
    pub async fn ask(&mut self, query: &str) -> Got {
        self.get(&format!("/oauth/authorize?{query}")).await
    }

    /// Asks, and presses a button.
    pub async fn decide(&mut self, query: &str, decision: &str) -> Got {
        let page = self.ask(query).await;
        assert!(page.is_consent_page(), "{page:?}");
        self.post("/oauth/consent", &[("form", &page.field("form")), ("decision", decision)]).await
    }

    /// Asks and allows; the browser is at the provider then.
    pub async fn allow(&mut self, query: &str) -> Departure {
        let got = self.decide(query, "allow").await;
        assert_eq!((got.status, got.reason), (200, "signin.begun"), "{got:?}");
        Departure(got.onward().parse().unwrap())
    }
}

fn read(response: Response<Bytes>) -> Got {
    let noted = response.extensions().get::<Noted>().expect("every answer says what happened").clone();
    let (head, body) = response.into_parts();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Got { status: head.status.as_u16(), headers: head.headers, body, reason: noted.reason, noted }
}
