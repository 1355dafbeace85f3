//! The pages for people, on loopback, in front of a desk that grants whatever is allowed: for looking at them in a browser,
//! and for trying identity providers.
//!
//! ```text
//! cargo run -p bartizan-oauth --example signin                    local mode; prints a link
//! cargo run -p bartizan-oauth --example signin -- provider.toml   `[identity.provider]`, its secrets in files
//! cargo run … -- provider.toml https://gate.example               behind a TLS proxy of that name
//! ```
//!
//! Then open <http://127.0.0.1:3999/oauth/authorize>; `?name=…&redirect_uri=…&max_age=…` changes the request.

#![expect(clippy::print_stdout, reason = "it talks to whoever runs it")]

use std::{
    collections::BTreeMap, convert::Infallible, env, fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use bartizan_egress::{Config, Egress, TlsOptions};
use bartizan_model::{Secret, SecretRef, SystemClock};
use bartizan_oauth::{
    EgressFetch, Fetch, Ledger, Report, Unrecorded,
    facade::{Application, Asked, AuthorizationRequest, Person},
    signin::{Described, Desk, Noted, SignIn, SignInSettings, SignInSurroundings, Unanswerable},
};
use bartizan_store::{Database, OsEntropy, Sealer, StoredBrowsers, StoredConsents, StoredPending};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use url::form_urlencoded;

const HERE: &str = "http://127.0.0.1:3999";

/// The desk of a gate with this merged endpoint.
struct Generous(String);

#[async_trait]
impl Desk for Generous {
    async fn begin(&self, asked: &Asked<'_>) -> Result<AuthorizationRequest, Unanswerable> {
        let query = asked.query.unwrap_or_default().as_bytes();
        let fields: BTreeMap<_, _> = form_urlencoded::parse(query).into_owned().collect();
        let of = |name: &str, usual: &str| fields.get(name).cloned().unwrap_or_else(|| usual.to_owned());
        let redirect_uri = of("redirect_uri", "http://127.0.0.1:3998/callback");
        Ok(AuthorizationRequest {
            client: Application {
                id: of("client_id", "https://app.example/client"),
                name: of("name", "Example editor"),
                verified_host: fields.get("host").cloned(),
                is_preregistered: false,
                metadata: "m".to_owned(),
                only_loopback: redirect_uri.starts_with("http://"),
            },
            redirect_uri,
            scopes: vec!["mcp:read".to_owned(), "mcp:write".to_owned()],
            resource: self.0.clone(),
            state: fields.get("state").cloned(),
            code_challenge: String::new(),
            dpop_jkt: None,
            max_age_s: fields.get("max_age").and_then(|age| age.parse().ok()),
            contexts: Vec::new(),
            claims: None,
        })
    }

    async fn complete(&self, request: AuthorizationRequest, person: &Person) -> Result<String, Unanswerable> {
        println!("granted to {}: {person:?}", request.client.id);
        Ok(format!("{}?code=granted", request.redirect_uri))
    }

    fn deny(&self, request: &AuthorizationRequest, error: &str) -> String {
        format!("{}?error={error}", request.redirect_uri)
    }

    async fn withdraw(&self, issuer: &str, subject: &str, client: &str) -> Result<(), Unanswerable> {
        println!("{subject} of {issuer} revoked what {client} had");
        Ok(())
    }
}

/// The record is what is printed.
struct Paper;

#[async_trait]
impl Ledger for Paper {
    async fn enter(&self, report: Report) -> Result<(), Unrecorded> {
        self.mention(report);
        Ok(())
    }

    fn mention(&self, report: Report) {
        println!("{report:?}");
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let provider = match env::args().nth(1) {
        None => None,
        Some(file) => Some(toml::from_str(&fs::read_to_string(&file).context(file)?)?),
    };
    let public_url = env::args().nth(2).unwrap_or_else(|| HERE.to_owned());
    let merged = format!("{public_url}/mcp");
    let folder = tempfile::tempdir()?;
    let database = Database::sqlite(&folder.path().join("store.db")).await?;
    let sealer = Arc::new(Sealer::from_file(&folder.path().join("seal.key"), &OsEntropy)?);
    let scopes = BTreeMap::from([
        ("mcp:read".to_owned(), "read your files, mail and pages".to_owned()),
        ("mcp:write".to_owned(), "change and delete them".to_owned()),
    ]);
    let servers = ["files", "mail", "web"].map(str::to_owned).to_vec();
    let settings = SignInSettings {
        public_url: public_url.parse()?,
        provider,
        browsers: Default::default(),
        resources: vec![Described { url: merged.clone(), servers, scopes, asks_each_time: false }],
    };
    let egress = Egress::new(Config::default());
    let surroundings = SignInSurroundings {
        desk: Arc::new(Generous(merged)),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        consents: Arc::new(StoredConsents::new(database.clone(), Arc::clone(&sealer))),
        browsers: Arc::new(StoredBrowsers::new(database.clone(), Arc::clone(&sealer))),
        pending: Arc::new(StoredPending::new(database, Arc::clone(&sealer))),
        sealer,
        fetch: &|_: Option<&Path>| {
            Arc::new(EgressFetch::new(egress.clone(), TlsOptions::default())) as Arc<dyn Fetch>
        },
        secret: Arc::new(|place| match place {
            SecretRef::File { file } => {
                let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
                Ok(Secret::new(text.trim_end().to_owned()))
            }
            _ => Err("stands in a file, here".to_owned()),
        }),
        groups: None,
        ledger: Arc::new(Paper),
        decisions: None,
        assertions: None,
    };
    let signin = SignIn::new(settings, surroundings);
    let signin = Arc::new(signin.map_err(|problems| anyhow::anyhow!(problems.join("\n")))?);
    println!("{public_url}/oauth/authorize");
    println!("{}", signin.mint_link().await?.reveal());
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 3999)).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let signin = Arc::clone(&signin);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let signin = Arc::clone(&signin);
                async move { Ok::<_, Infallible>(serve(&signin, request).await) }
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
            // Whoever hangs up has seen enough.
            let _ = tokio::time::timeout(Duration::from_secs(600), serving).await;
        });
    }
}

async fn serve(signin: &SignIn, request: Request<Incoming>) -> Response<Full<bytes::Bytes>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, 64 * 1024).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let asked = Asked {
        method: &head.method,
        path: head.uri.path(),
        query: head.uri.query(),
        headers: &head.headers,
        body: &body,
        peer: Ipv4Addr::LOCALHOST.into(),
        is_tls: false,
    };
    let answer = signin.answer(&asked).await.unwrap_or_else(|| {
        let mut missing = Response::new(bytes::Bytes::from_static(b"no such page"));
        *missing.status_mut() = http::StatusCode::NOT_FOUND;
        missing
    });
    let noted = answer.extensions().get::<Noted>().map_or("-", |noted| noted.reason);
    println!("{} {} {} {noted}", head.method, head.uri.path(), answer.status().as_u16());
    answer.map(Full::new)
}
