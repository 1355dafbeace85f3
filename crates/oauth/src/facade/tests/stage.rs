//! The stage: a facade and its gate on one store, and the moves of clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bartizan_model::{Clock, ManualClock, Secret, SecretRef, SeededEntropy, Timestamp};
use bartizan_store::{
    Database, Digest, Grants, Registrations, Sealer, StoredGrants, StoredRegistrations, StoredSigningKeys,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use super::cast::{Keys, People, Strangers};
use crate::{
    AuthenticationRequired, DenyList, Error, Facade, FacadeConfig, FacadeResource, FacadeSurroundings, Fetch,
    MemoryReplays, Presented, ResourceServer, ResourceServerConfig, ResourceSettings, Surroundings,
    VerifiedToken, dpop,
    facade::{Asked, AuthorizationRequest, Person, Unanswerable},
    tests::{
        notebook::Notebook,
        scene::{NOW, Net, SharedNet, Signer},
    },
};

pub const ISSUER: &str = "https://mcp.example.com";
/// Who signs people in.
pub const PROVIDER: &str = "https://idp.example";
pub const A: &str = "https://mcp.example.com/mcp/a";
pub const B: &str = "https://mcp.example.com/mcp/b";
/// To which a person lets clients in, each time anew.
pub const ASKING: &str = "https://mcp.example.com/mcp/asking";
/// The redirect URI of most clients here.
pub const BACK: &str = "https://c.example/cb";
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// Every configured client's secret.
pub const SECRET: &str = "s3cret & more, 16 of them";

/// The clients of most tests.
pub const CONFIG: &str = r#"
    [[clients]]
    id = "editor"
    name = "The Editor"
    redirect_uris = ["https://c.example/cb", "http://127.0.0.1/cb"]

    [[clients]]
    id = "server"
    name = "The Server"
    redirect_uris = ["https://s.example/cb"]
    secret = { env = "SECRET" }
    grants = ["authorization_code", "refresh_token", "client_credentials", "token_exchange", "jwt_bearer"]

    [[clients]]
    id = "other"
    name = "The Other"
    redirect_uris = ["https://c.example/cb"]
"#;

/// A facade and a gate on one store.
pub struct Stage {
    pub facade: Arc<Facade>,
    pub gate: ResourceServer,
    pub clock: Arc<ManualClock>,
    pub net: Arc<Net>,
    pub strangers: Arc<Strangers>,
    pub directory: Arc<People>,
    pub keys: Arc<Keys>,
    pub notebook: Arc<Notebook>,
    grants: Arc<StoredGrants>,
    registrations: Arc<StoredRegistrations>,
    config: FacadeConfig,
    folder: Arc<tempfile::TempDir>,
}

/// An answer, its body read.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn text(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }

    /// Status and OAuth error.
    pub fn error(&self) -> (u16, &str) {
        (self.status, self.text("error"))
    }
}

pub fn header_map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers
            .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

pub fn encode(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// `pairs` with those of `changes` in place of theirs; an empty value takes one out.
pub fn change<'a>(pairs: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = pairs.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes.iter().filter(|(_, value)| !value.is_empty())).copied().collect()
}

pub fn basic(id: &str, secret: &str) -> String {
    let part = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", part(id), part(secret))))
}

pub fn resource(url: &str) -> FacadeResource {
    let scopes = [("mcp:read", "Read"), ("mcp:write", "Change things")];
    FacadeResource {
        name: url.rsplit('/').next().unwrap().to_owned(),
        url: url.parse().unwrap(),
        scopes: BTreeMap::from(scopes.map(|(scope, words)| (scope.to_owned(), words.to_owned()))),
        default_scopes: vec!["mcp:read".to_owned()],
        by_consent_only: url == ASKING,
    }
}

pub fn ann() -> Person {
    Person {
        issuer: PROVIDER.to_owned(),
        subject: "ann".to_owned(),
        name: Some("Ann".to_owned()),
        methods: vec!["pwd".to_owned(), "otp".to_owned()],
        contexts: vec!["mfa".to_owned(), "c1".to_owned()],
        at: Timestamp::from_unix(NOW - 30),
        roles: BTreeSet::from(["developer".to_owned()]),
        groups: BTreeSet::from(["team-1".to_owned()]),
        sign_in: None,
    }
}

/// A good request of the client `editor`.
pub const ASKED: [(&str, &str); 8] = [
    ("response_type", "code"),
    ("client_id", "editor"),
    ("redirect_uri", BACK),
    ("code_challenge", CHALLENGE),
    ("code_challenge_method", "S256"),
    ("resource", A),
    ("scope", "mcp:read mcp:write"),
    ("state", "xyz"),
];

impl Stage {
    pub async fn new() -> Self {
        Self::configured(CONFIG).await
    }

    pub async fn configured(config: &str) -> Self {
        Self::with(config, &[A, B]).await
    }

    pub async fn with(config: &str, urls: &[&str]) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(NOW)));
        let config = toml::from_str(config).unwrap();
        let resources = urls.iter().map(|url| resource(url)).collect();
        Self::on(folder, clock, config, resources, Arc::default(), 1, PROVIDER).await
    }

    /// The same store behind another identity provider.
    pub async fn behind(&self, provider: &str) -> Self {
        let resources = self.facade.resources().to_vec();
        let (folder, clock) = (Arc::clone(&self.folder), Arc::clone(&self.clock));
        Self::on(folder, clock, self.config.clone(), resources, Arc::default(), 4, provider).await
    }

    /// Another process on the same store.
    pub async fn replica(&self) -> Self {
        let resources = self.facade.resources().to_vec();
        let (folder, clock) = (Arc::clone(&self.folder), Arc::clone(&self.clock));
        Self::on(folder, clock, self.config.clone(), resources, Arc::clone(&self.strangers), 2, PROVIDER)
            .await
    }

    /// The same store under another configuration.
    pub async fn reconfigured(&self, config: &str) -> Self {
        let resources = self.facade.resources().to_vec();
        let (folder, clock) = (Arc::clone(&self.folder), Arc::clone(&self.clock));
        let config = toml::from_str(config).unwrap();
        Self::on(folder, clock, config, resources, Arc::clone(&self.strangers), 3, PROVIDER).await
    }

    /// The same store, whose resources have no scopes.
    pub async fn without_scopes(&self) -> Self {
        let bare = |resource: &FacadeResource| FacadeResource {
            scopes: BTreeMap::new(),
            default_scopes: Vec::new(),
            ..resource.clone()
        };
        self.offering(self.facade.resources().iter().map(bare).collect()).await
    }

    /// The same store, whose resources have the usual scopes.
    pub async fn with_scopes(&self) -> Self {
        self.offering(self.facade.resources().iter().map(|known| resource(known.url.as_str())).collect())
            .await
    }

    async fn offering(&self, resources: Vec<FacadeResource>) -> Self {
        let (folder, clock) = (Arc::clone(&self.folder), Arc::clone(&self.clock));
        Self::on(folder, clock, self.config.clone(), resources, Arc::clone(&self.strangers), 5, PROVIDER)
            .await
    }

    async fn on(
        folder: Arc<tempfile::TempDir>,
        clock: Arc<ManualClock>,
        config: FacadeConfig,
        resources: Vec<FacadeResource>,
        strangers: Arc<Strangers>,
        seed: u64,
        provider: &str,
    ) -> Self {
        let people_of = provider.to_owned();
        let database = Database::sqlite(&folder.path().join("store.db")).await.unwrap();
        let sealer = Arc::new(Sealer::new(&[7; 32]).unwrap());
        let net = Arc::new(Net::default());
        let denied = Arc::new(DenyList::default());
        let fetch_net = Arc::clone(&net);
        let fetch = move |_: Option<&Path>| Arc::new(SharedNet(Arc::clone(&fetch_net))) as Arc<dyn Fetch>;
        let (directory, notebook) = (Arc::<People>::default(), Arc::<Notebook>::default());
        let secret = |_: &SecretRef| Ok(Secret::new(SECRET.to_owned()));
        let grants = Arc::new(StoredGrants::new(database.clone(), sealer.clone()));
        let keys = Arc::new(Keys {
            stored: StoredSigningKeys::new(database.clone(), sealer.clone()),
            are_unreadable: AtomicBool::new(false),
        });
        let registrations = Arc::new(StoredRegistrations::new(database.clone(), sealer.clone()));
        let lent = FacadeSurroundings {
            public_url: ISSUER.parse().unwrap(),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            fetch: &fetch,
            strangers: strangers.clone(),
            secret: &secret,
            grants: grants.clone(),
            registrations: registrations.clone(),
            signing_keys: keys.clone(),
            sealer,
            denied: denied.clone(),
            directory: Some(directory.clone()),
            people_of,
            ledger: notebook.clone(),
        };
        let facade = Facade::new(config.clone(), resources.clone(), lent).map_err(|p| p.join("\n")).unwrap();
        facade.catch_up().await.unwrap();
        let settings = |resource: &FacadeResource| ResourceSettings {
            name: resource.name.clone(),
            url: resource.url.clone(),
            audience: Vec::new(),
            required_scopes: vec!["mcp:read".to_owned()],
            authentication: AuthenticationRequired::default(),
        };
        let rules: ResourceServerConfig = toml::from_str("issuers = []\nallow_applications = true").unwrap();
        let gate = ResourceServer::new(
            &rules,
            resources.iter().map(settings).collect(),
            Surroundings {
                clock: clock.clone(),
                fetch: &fetch,
                secret: &secret,
                replays: Arc::new(MemoryReplays::new(100)),
                groups: None,
                denied,
                subjects: None,
                nonces: None,
                facade: Some(&facade),
            },
        );
        let gate = gate.map_err(|problems| problems.join("\n")).unwrap();
        Self {
            facade,
            gate,
            clock,
            net,
            strangers,
            directory,
            keys,
            notebook,
            grants,
            registrations,
            config,
            folder,
        }
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        lines: &[(&str, &str)],
        body: &str,
    ) -> Option<Answer> {
        let headers = header_map(lines);
        let asked = Asked {
            method: &method,
            path,
            query: None,
            headers: &headers,
            body: body.as_bytes(),
            peer: "192.0.2.1".parse().unwrap(),
            is_tls: true,
        };
        let (head, body) = self.facade.answer(&asked).await?.into_parts();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        Some(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    pub async fn post(&self, path: &str, lines: &[(&str, &str)], form: &[(&str, &str)]) -> Answer {
        let kind = ("content-type", "application/x-www-form-urlencoded");
        let lines: Vec<_> = lines.iter().copied().chain([kind]).collect();
        self.ask(Method::POST, path, &lines, &encode(form)).await.unwrap()
    }

    pub async fn token(&self, form: &[(&str, &str)]) -> Answer {
        self.post("/oauth/token", &[], form).await
    }

    /// The token endpoint as the confidential client `server` asks it.
    pub async fn token_of_server(&self, form: &[(&str, &str)]) -> Answer {
        self.post("/oauth/token", &[("authorization", &basic("server", SECRET))], form).await
    }

    pub async fn begin(&self, query: &str) -> Result<AuthorizationRequest, Unanswerable> {
        self.begin_from("192.0.2.1", query).await
    }

    pub async fn begin_from(&self, peer: &str, query: &str) -> Result<AuthorizationRequest, Unanswerable> {
        let headers = HeaderMap::new();
        let asked = Asked {
            method: &Method::GET,
            path: "/oauth/authorize",
            query: Some(query),
            headers: &headers,
            body: b"",
            peer: peer.parse().unwrap(),
            is_tls: true,
        };
        self.facade.begin(&asked).await
    }

    /// A good request with changes.
    pub async fn authorize(&self, changes: &[(&str, &str)]) -> Result<AuthorizationRequest, Unanswerable> {
        self.begin(&encode(&change(&ASKED, changes))).await
    }

    /// A code that Ann consented to.
    pub async fn code(&self, changes: &[(&str, &str)]) -> String {
        let request = self.authorize(changes).await.unwrap();
        let location = self.facade.complete(request, &ann()).await.unwrap();
        parameter(&location, "code").unwrap()
    }

    /// Redeems a code of `editor`'s, with changes to a good form.
    pub async fn redeem(&self, code: &str, changes: &[(&str, &str)]) -> Answer {
        self.token(&change(&redemption(code), changes)).await
    }

    /// Access and refresh token of `editor`'s.
    pub async fn tokens(&self) -> (String, String) {
        let answer = self.redeem(&self.code(&[]).await, &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        (answer.text("access_token").to_owned(), answer.text("refresh_token").to_owned())
    }

    pub async fn refresh(&self, token: &str, changes: &[(&str, &str)]) -> Answer {
        let form = [("grant_type", "refresh_token"), ("client_id", "editor"), ("refresh_token", token)];
        self.token(&change(&form, changes)).await
    }

    /// Shows a token at the gate.
    pub async fn show(&self, path: &str, token: &str) -> Result<Arc<VerifiedToken>, Error> {
        self.show_with(path, &[("authorization", &format!("Bearer {token}"))]).await
    }

    pub async fn show_with(&self, path: &str, lines: &[(&str, &str)]) -> Result<Arc<VerifiedToken>, Error> {
        let headers = header_map(lines);
        let presented = Presented { method: &Method::POST, headers: &headers, certificate: None };
        self.gate.authenticate(self.gate.resource(path).unwrap(), presented).await
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(std::time::Duration::from_secs(seconds));
    }

    pub fn now(&self) -> u64 {
        self.clock.now().as_unix()
    }

    /// How many registrations are alive.
    pub async fn registered(&self) -> usize {
        self.registrations.list(self.clock.now()).await.unwrap().len()
    }

    /// Whether a proof for the token endpoint has been noted as used; from then on it is.
    pub async fn was_noted(&self, proof: &str) -> bool {
        let (url, now) = (format!("{ISSUER}/oauth/token").parse().unwrap(), self.clock.now());
        let proof = dpop::read(proof, &Method::POST, &url, None, now).unwrap();
        !self.grants.first_use(Digest(proof.id), proof.until, now).await.unwrap()
    }

    /// A proof for the token endpoint by `key`.
    pub fn proof(&self, key: &Signer, id: &str) -> String {
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": key.jwk() });
        let claims =
            json!({ "htm": "POST", "htu": format!("{ISSUER}/oauth/token"), "iat": self.now(), "jti": id });
        key.token(&header, &claims)
    }
}

pub fn redemption(code: &str) -> [(&str, &str); 5] {
    [
        ("grant_type", "authorization_code"),
        ("client_id", "editor"),
        ("code", code),
        ("redirect_uri", BACK),
        ("code_verifier", VERIFIER),
    ]
}

/// A query parameter of a location.
pub fn parameter(location: &str, name: &str) -> Option<String> {
    let url = Url::parse(location).unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// What a JWT says, unverified.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

pub fn header(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, index: usize) -> Value {
    let segment = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).unwrap()).unwrap()
}

pub fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Digest::of(text.as_bytes()).0)
}

/// The redirect of a refusal: its error.
pub fn redirected(refused: &Unanswerable) -> String {
    match refused {
        Unanswerable::Redirect { location, .. } => {
            assert_eq!(parameter(location, "iss").as_deref(), Some(ISSUER));
            assert_eq!(parameter(location, "code"), None);
            parameter(location, "error").unwrap()
        }
        Unanswerable::Page { words, .. } => panic!("a page: {words}"),
    }
}
