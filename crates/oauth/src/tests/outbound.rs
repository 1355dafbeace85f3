//! Scenes: a gate with accounts at one server, `up`, whose authorization server is `as`; two people; a browser each.

mod exchange;
mod gate;
mod people;
mod records;
mod revoking;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bartizan_model::{Caller, Clock, ManualClock, Secret, SecretRef, SeededEntropy, ServerName, Timestamp};
use bartizan_store::{Database, Sealer, StoredLinks, StoredProviderTokens};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use serde_json::json;
use url::Url;

use super::{
    notebook::Notebook,
    scene::{NOW, Net, SharedNet},
};
use crate::{
    Fetch, SubjectTokens,
    facade::{Asked, Person},
    outbound::{
        self, Assertions, Credential, Linking, Made, Means, Refused, Retry, Secrets, Unlinked, Unobtainable,
    },
};

const UP: &str = "https://up.example/mcp";
const AS: &str = "https://as.example";
const TOKENS: &str = "https://as.example/token";
const METADATA: &str = "https://as.example/.well-known/oauth-authorization-server";
const RESOURCE_METADATA: &str = "https://up.example/.well-known/oauth-protected-resource/mcp";

/// Secrets that tests write down.
struct Written(std::sync::Mutex<Option<String>>, AtomicUsize);

#[async_trait]
impl Secrets for Written {
    async fn read(&self, _from: &SecretRef) -> Result<Secret, String> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.lock().unwrap().clone().map(Secret::new).ok_or_else(|| "it is gone".to_owned())
    }
}

struct Scene {
    net: Arc<Net>,
    clock: Arc<ManualClock>,
    secrets: Arc<Written>,
    means: Means,
    made: Made,
    notebook: Arc<Notebook>,
    folder: tempfile::TempDir,
}

fn name() -> ServerName {
    "up".parse().unwrap()
}

fn caller(issuer: &str, subject: &str) -> Caller {
    Caller::new(issuer, subject, "editor")
}

fn person(subject: &str) -> Person {
    Person {
        issuer: "https://id.example".to_owned(),
        subject: subject.to_owned(),
        name: Some(format!("<b>{subject}</b>")),
        methods: Vec::new(),
        contexts: Vec::new(),
        at: Timestamp::from_unix(NOW - 60),
        roles: Default::default(),
        groups: Default::default(),
        sign_in: None,
    }
}

fn ann() -> Caller {
    caller("https://id.example", "ann")
}

fn tokens(access: &str, more: serde_json::Value) -> serde_json::Value {
    let base = json!({ "access_token": access, "token_type": "Bearer", "expires_in": 3600 });
    super::scene::merge(base, more)
}

impl Scene {
    async fn new(config: &str) -> Self {
        let net = Arc::new(Net::default());
        let server = json!({
            "issuer": AS, "authorization_endpoint": "https://as.example/authorize?tenant=1", "token_endpoint": TOKENS,
            "registration_endpoint": "https://as.example/register", "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true, "scopes_supported": ["read", "write", "everything"],
        });
        net.says(METADATA, 200, server);
        net.says(RESOURCE_METADATA, 200, json!({ "resource": UP, "authorization_servers": [AS] }));
        net.says(
            "https://as.example/register",
            201,
            json!({ "client_id": "gate", "client_secret": "s3cret" }),
        );
        net.says(TOKENS, 200, tokens("access-1", json!({ "refresh_token": "refresh-1" })));
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(NOW)));
        let sealer = Arc::new(Sealer::new(&[7; 32]).unwrap());
        let database = Database::sqlite(&folder.path().join("store.db")).await.unwrap();
        let secrets = Arc::new(Written(Some("vaulted".to_owned()).into(), AtomicUsize::new(0)));
        let fetch: Arc<dyn Fetch> = Arc::new(SharedNet(Arc::clone(&net)));
        let means = Means {
            ask: Arc::clone(&fetch),
            issuers: fetch,
            secrets: secrets.clone(),
            read: Arc::new(|_| Ok(Secret::new("vaulted".to_owned()))),
            subjects: Arc::new(SubjectTokens::new(Arc::default(), clock.clone())),
            assertions: Assertions::new(
                Arc::new(StoredProviderTokens::new(database.clone(), Arc::clone(&sealer))),
                clock.clone(),
            ),
            provider: None,
            links: Arc::new(StoredLinks::new(database, Arc::clone(&sealer))),
            sealer,
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(1)),
            base: "https://gate.example/".parse().unwrap(),
            document: None,
        };
        let config = toml::from_str(config).unwrap();
        let made = outbound::credential(&config, &name(), &UP.parse().unwrap(), &means).unwrap();
        Self { net, clock, secrets, means, made, notebook: Arc::default(), folder }
    }

    /// A server at which people have accounts.
    async fn personal() -> Self {
        Self::new("kind = \"user-oauth\"\nscopes = [\"read\", \"write\"]\n").await
    }

    fn credential(&self) -> Arc<dyn Credential> {
        self.made.credential().unwrap()
    }

    fn linking(&self) -> Linking {
        let Made::Personal(credential) = &self.made else { panic!("nobody links anything here") };
        Linking::new([credential.clone()], self.means.clone(), self.notebook.clone())
    }

    /// The line shown for `caller`, or why there is none.
    async fn line(&self, caller: &Caller) -> Result<String, Unobtainable> {
        let headers = self.credential().headers(Some(&caller.clone().into())).await?;
        let line = headers.get(header::AUTHORIZATION).unwrap();
        assert!(line.is_sensitive());
        Ok(line.to_str().unwrap().to_owned())
    }

    /// The server refuses what `caller` showed.
    async fn refused(&self, caller: &Caller, status: u16, challenge: &str) -> Result<Retry, Unobtainable> {
        let credential = self.credential();
        let shown = credential.headers(Some(&caller.clone().into())).await?;
        let mut answer = HeaderMap::new();
        answer.insert(header::WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
        credential
            .challenged(Some(&caller.clone().into()), Refused { status, answer: &answer, shown: &shown })
            .await
    }

    /// The forms that came to the token endpoint.
    fn forms(&self) -> Vec<String> {
        let posted = self.net.posted.lock().unwrap();
        posted.iter().map(|(_, body)| body.clone()).filter(|body| body.contains("grant_type=")).collect()
    }
}

/// A browser in which somebody is signed in at the gate.
struct Browser {
    person: Person,
    cookie: Option<String>,
    /// Servers at which nobody links an account now.
    closed: BTreeSet<ServerName>,
}

impl Browser {
    fn of(subject: &str) -> Self {
        Self { person: person(subject), cookie: None, closed: BTreeSet::new() }
    }

    async fn ask(
        &self,
        scene: &Scene,
        method: Method,
        url: &str,
        body: &str,
        lines: &[(&'static str, &str)],
    ) -> Response<Bytes> {
        let url: Url = url.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(cookie) = &self.cookie {
            headers.insert("cookie", HeaderValue::from_str(&format!("other=1; {cookie}")).unwrap());
        }
        for (name, value) in lines {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let asked = Asked {
            method: &method,
            path: url.path(),
            query: url.query(),
            headers: &headers,
            body: body.as_bytes(),
            peer: [192, 0, 2, 1].into(),
            is_tls: true,
        };
        scene.linking().answer(&asked, &self.person, &self.closed).await.unwrap()
    }

    async fn open(&self, scene: &Scene, url: &str) -> Response<Bytes> {
        self.ask(scene, Method::GET, url, "", &[]).await
    }

    /// The hidden field of the form.
    async fn csrf(&self, scene: &Scene) -> String {
        let page = text(&self.open(scene, "https://gate.example/connect/up").await);
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    /// Presses the button; the answer is where it leads.
    async fn leave(&mut self, scene: &Scene) -> Url {
        let form = format!("csrf={}&do=link", self.csrf(scene).await);
        let sent = self.ask(scene, Method::POST, "https://gate.example/connect/up", &form, &[]).await;
        assert_eq!(sent.status(), 303, "{}", text(&sent));
        let cookie = sent.headers()[header::SET_COOKIE].to_str().unwrap();
        assert!(
            cookie.starts_with("__Host-") && cookie.contains("; HttpOnly; SameSite=Lax; Secure"),
            "{cookie}"
        );
        self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        sent.headers()[header::LOCATION].to_str().unwrap().parse().unwrap()
    }

    /// Comes back from where the button led.
    async fn back(&self, scene: &Scene, away: &Url, answer: &str) -> Response<Bytes> {
        let (callback, state) = (parameter(away, "redirect_uri").unwrap(), parameter(away, "state").unwrap());
        self.open(scene, &format!("{callback}?state={state}&{answer}")).await
    }

    async fn link(&mut self, scene: &Scene) {
        let away = self.leave(scene).await;
        let done = self.back(scene, &away, GOOD).await;
        assert_eq!(done.status(), 200, "{}", text(&done));
    }
}

/// What an honest authorization server says.
const GOOD: &str = "code=c0de&iss=https%3A%2F%2Fas.example";

fn text(page: &Response<Bytes>) -> String {
    String::from_utf8(page.body().to_vec()).unwrap()
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned())
}

fn now_at(scene: &Scene) -> u64 {
    scene.clock.now().as_unix()
}
