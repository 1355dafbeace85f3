//! A person behind the gate, in front of a server that wants an account: what the official conformance suite runs as
//! `conformance client --command …` (interop/upstream_auth.py).
//!
//! `upstream URL`: asks the server at `URL` for its tools and calls the first one, with the gate's own client. Where an
//! account has to be linked, a browser without a face links it by the gate's own pages. The suite says in
//! `MCP_CONFORMANCE_*` what the operator would have written into the configuration.

#![expect(clippy::indexing_slicing, reason = "an object of `json!` takes every member")]
#![expect(clippy::print_stderr, reason = "it is run by a person, or by a program that keeps what it says")]
#![expect(
    clippy::disallowed_methods,
    reason = "the suite speaks through the environment, and the browser is no part of the gate"
)]

use std::{
    collections::BTreeSet,
    error::Error,
    io::{Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bartizan_audit::{AuditFolder, Options};
use bartizan_egress::{Egress, Peer, TlsOptions};
use bartizan_gateway::{
    Asker,
    call::own_info,
    legacy::{Way, shake_hands},
    record::{IdentityLedger, Recorder},
    server::{
        ModernLink, NotModern, Pinning, Server, ServerSettings, Transport, final_message, modern_headers,
    },
    upstream::{Answer, Failure, http::Wire},
};
use bartizan_mcp::{Era, Message, message};
use bartizan_model::{Caller, Secret, SecretRef, ServerName, SystemClock, Timestamp};
use bartizan_oauth::{
    EgressFetch, Fetch, Fetching, NamedBy, Probing, Sent, SubjectTokens,
    facade::{Asked, Person},
    outbound::{self, Assertions, CredentialConfig, Linking, Made, Means, Secrets},
};
use bartizan_shield::{Trust, drift::Identity};
use bartizan_store::{Database, OsEntropy, Sealer, StoredLinks, StoredProviderTokens};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use url::Url;

/// How often an account may have to be linked: at first, for more, and at another authorization server.
const LINKINGS: usize = 3;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Fallible<()> {
    let url: Url = std::env::args().nth(1).ok_or("usage: upstream URL")?.parse()?;
    let folder = tempfile::tempdir()?;
    let scene = Scene::set(&url, folder.path()).await?;
    for _ in 0..=LINKINGS {
        match scene.converse().await {
            Err(Failure::NeedsLinking(at)) => scene.link(&at.parse()?).await?,
            other => return Ok(other?),
        }
    }
    Err("the server wants an account to be linked again and again".into())
}

struct Scene {
    server: Arc<Server>,
    linking: Option<Linking>,
    asker: Asker,
    person: Person,
    era: Era,
}

impl Scene {
    async fn set(url: &Url, folder: &std::path::Path) -> Fallible<Self> {
        let variable = |name: &str| std::env::var(format!("MCP_CONFORMANCE_{name}")).unwrap_or_default();
        let era = if variable("PROTOCOL_VERSION") == "2026-07-28" { Era::Modern } else { Era::Legacy };
        let context: Value = serde_json::from_str(&variable("CONTEXT")).unwrap_or_default();
        let base: Url = "http://localhost:8787/".parse()?;
        let egress = Egress::new(bartizan_egress::Config {
            dangerous_allow: vec!["127.0.0.0/8".parse()?, "::1/128".parse()?],
            ..bartizan_egress::Config::default()
        });
        let fetch = || Arc::new(Near(EgressFetch::new(egress.clone(), TlsOptions::default())));
        let sealer = Arc::new(Sealer::from_file(&folder.join("seal.key"), &OsEntropy)?);
        let database = Database::sqlite(&folder.join("store.db")).await?;
        let means = Means {
            ask: fetch(),
            issuers: fetch(),
            secrets: Arc::new(Given(context.clone())),
            read: Arc::new(|_| Err("only the asynchronous reader is there".to_owned())),
            subjects: Arc::new(SubjectTokens::new(Arc::default(), Arc::new(SystemClock))),
            assertions: Assertions::new(
                Arc::new(StoredProviderTokens::new(database.clone(), Arc::clone(&sealer))),
                Arc::new(SystemClock),
            ),
            provider: None,
            links: Arc::new(StoredLinks::new(database, Arc::clone(&sealer))),
            sealer,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            base,
            // The address at which the suite believes our document to be.
            document: Some("https://conformance-test.local/client-metadata.json".parse()?),
        };
        let name: ServerName = "up".parse()?;
        let config = operator(&variable("SCENARIO"), &context, url, means.ask.as_ref()).await?;
        let made = outbound::credential(&config, &name, url, &means)?;
        let peer = Peer { url: url.clone(), tls: TlsOptions::default(), dangerous_plaintext: false };
        let settings = ServerSettings {
            name,
            transport: Transport::Url(egress.endpoint(&peer)?),
            credential: made.credential(),
            era: Some(era),
            shared: false,
            allow_methods: Vec::new(),
            identity: Identity::Url {
                origin: url.origin().ascii_serialization(),
                authority: None,
                key: None,
            },
            watches_program: true,
            pinning: Pinning::DangerousNone,
            trust: Trust::Untrusted,
            inspects: true,
            validates: false,
            app_hosts: None,
            pins_resources: false,
            second_opinions: Vec::new(),
            is_wrapped: false,
            fingerprint: String::new(),
        };
        let audit = AuditFolder::open(&folder.join("audit"), Arc::new(OsEntropy))?;
        let (log, _) = audit.start_any("example", Arc::new(SystemClock), Options::default())?;
        let recorder = Arc::new(Recorder::new(log, Arc::new(SystemClock)));
        let linking = match made {
            Made::Personal(credential) => {
                let ledger = IdentityLedger::new(&recorder, Default::default());
                Some(Linking::new([credential], means, Arc::new(ledger)))
            }
            Made::Nothing | Made::Common(_) => None,
        };
        let person = Person {
            issuer: "https://id.example".to_owned(),
            subject: "ann".to_owned(),
            name: Some("Ann".to_owned()),
            methods: Vec::new(),
            contexts: Vec::new(),
            at: Timestamp::from_unix(1),
            roles: Default::default(),
            groups: Default::default(),
            sign_in: None,
        };
        let asker = Asker::new(Caller::new(&person.issuer, &person.subject, "conformance"));
        Ok(Self { server: Arc::new(Server::new(settings, recorder)), linking, asker, person, era })
    }

    /// Lists tools and calls the first.
    async fn converse(&self) -> Result<(), Failure> {
        match self.era {
            Era::Modern => match self.server.modern(Some(&self.asker), "{}").await {
                Ok(ModernLink::Wire(wire)) => {
                    let listed = modern(&wire, "tools/list", None, json!({})).await?;
                    let Some(tool) = first_tool(&listed) else { return Ok(()) };
                    let params = json!({ "name": tool, "arguments": {} });
                    modern(&wire, "tools/call", Some(&tool), params).await.map(|_| ())
                }
                Ok(ModernLink::Process(_)) => Ok(()),
                Err(NotModern::Legacy) => Err(Failure::Protocol("it speaks the other era".into())),
                Err(NotModern::Failed(failure)) => Err(failure),
            },
            Era::Legacy => {
                let hello = format!(
                    r#"{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{}}}"#,
                    own_info()
                );
                let (way, answer) = shake_hands(&self.server, Some(&self.asker), &hello).await?;
                let (Way::Wire(wire), true) = (way, answer.result().is_some()) else {
                    return Err(Failure::Protocol("it refuses the handshake".into()));
                };
                let told = message::notification("notifications/initialized", None);
                wire.clone().post(told, HeaderMap::new()).await?;
                let listed = legacy(&wire, 2, "tools/list", "{}").await?;
                if let Some(tool) = first_tool(&listed) {
                    let params = json!({ "name": tool, "arguments": {} }).to_string();
                    legacy(&wire, 3, "tools/call", &params).await?;
                }
                wire.delete().await;
                Ok(())
            }
        }
    }

    /// What a person does at `/connect/…`: looks, presses the button, is sent to the authorization server and back.
    async fn link(&self, at: &Url) -> Fallible<()> {
        let linking = self.linking.as_ref().ok_or("nobody can link an account here")?;
        let mut jar = HeaderMap::new();
        let page = self.browse(linking, Method::GET, at, &jar, "").await?;
        let csrf =
            page.body().split_once("name=\"csrf\" value=\"").and_then(|(_, rest)| rest.split_once('"'));
        let (csrf, _) = csrf.ok_or_else(|| format!("there is no form: {}", page.body()))?;
        let away = self.browse(linking, Method::POST, at, &jar, &format!("csrf={csrf}&do=link")).await?;
        let line = |name| away.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        let to = line(header::LOCATION).ok_or("the gate sends nobody anywhere; its log says why")?;
        let cookie =
            line(header::SET_COOKIE).and_then(|l| l.split(';').next()).ok_or("there is no cookie")?;
        jar.insert(header::COOKIE, cookie.parse()?);
        let back = follow(&to.parse()?)?;
        let done = self.browse(linking, Method::GET, &back, &jar, "").await?;
        if done.status().is_success() { Ok(()) } else { Err(format!("not linked: {}", done.body()).into()) }
    }

    async fn browse(
        &self,
        linking: &Linking,
        method: Method,
        url: &Url,
        jar: &HeaderMap,
        body: &str,
    ) -> Fallible<http::Response<String>> {
        let mut headers = jar.clone();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
        let asked = Asked {
            method: &method,
            path: url.path(),
            query: url.query(),
            headers: &headers,
            body: body.as_bytes(),
            peer: [127, 0, 0, 1].into(),
            is_tls: false,
        };
        let response =
            linking.answer(&asked, &self.person, &BTreeSet::new()).await.ok_or("there is no such page")?;
        Ok(response.map(|body| String::from_utf8_lossy(&body).into_owned()))
    }
}

/// What an operator would have configured for this scenario.
async fn operator(scenario: &str, context: &Value, url: &Url, ask: &dyn Fetch) -> Fallible<CredentialConfig> {
    let text = |name: &str| context.get(name).and_then(Value::as_str);
    let given = |name: &str| text(name).map(|_| json!({ "env": name }));
    let scopes = match scenario {
        "auth/scope-omitted-when-undefined" => json!([]),
        "auth/scope-retry-limit" => json!(["mcp:admin"]),
        _ => json!(["mcp:basic", "mcp:read", "mcp:write"]),
    };
    let mut config = if scenario.starts_with("auth/client-credentials") {
        json!({
            "kind": "client-credentials", "private_key": given("private_key_pem"),
            "issuer": issuer_of(url, ask).await?,
        })
    } else {
        json!({ "kind": "user-oauth", "scopes": scopes })
    };
    let is_registered = text("client_id").is_some();
    if is_registered {
        config["client_id"] = json!(text("client_id"));
        config["client_secret"] = json!(given("client_secret"));
        if let Some(issuer) = text("issuer") {
            config["issuer"] = json!(issuer);
        }
    }
    Ok(serde_json::from_value(config)?)
}

/// Where an operator, who has nothing but the server's address, finds out whom it trusts.
async fn issuer_of(url: &Url, ask: &dyn Fetch) -> Fallible<String> {
    let place = url.join(&format!("/.well-known/oauth-protected-resource{}", url.path()))?;
    let metadata: Value = serde_json::from_slice(&ask.get(&place, NamedBy::Operator).await?.body)?;
    let issuer = metadata.pointer("/authorization_servers/0").and_then(Value::as_str);
    Ok(issuer.ok_or("the server names no authorization server")?.to_owned())
}

/// Secrets that the suite gave.
struct Given(Value);

#[async_trait]
impl Secrets for Given {
    async fn read(&self, from: &SecretRef) -> Result<Secret, String> {
        let SecretRef::Env { env } = from else { return Err("only the suite has secrets".into()) };
        let text = self.0.get(env).and_then(Value::as_str).ok_or("the suite gave no such secret")?;
        Ok(Secret::new(text.to_owned()))
    }
}

/// The suite's authorization servers are on this machine, under a name: near ones count as the operator's.
struct Near(EgressFetch);

impl Near {
    fn judge(url: &Url, named_by: NamedBy) -> NamedBy {
        if url.host_str() == Some("localhost") { NamedBy::Operator } else { named_by }
    }
}

impl Fetch for Near {
    fn get<'a>(&'a self, url: &'a Url, named_by: NamedBy) -> Fetching<'a> {
        self.0.get(url, Self::judge(url, named_by))
    }

    fn post<'a>(&'a self, url: &'a Url, authorization: Option<&'a Secret>, form: Secret) -> Fetching<'a> {
        self.0.post(url, authorization, form)
    }

    fn send<'a>(&'a self, url: &'a Url, named_by: NamedBy, sent: Sent) -> Fetching<'a> {
        self.0.send(url, Self::judge(url, named_by), sent)
    }

    fn probe<'a>(&'a self, url: &'a Url) -> Probing<'a> {
        self.0.probe(url)
    }
}

/// Where the authorization server sends a browser.
fn follow(url: &Url) -> Fallible<Url> {
    let host = url.host_str().ok_or("no host")?;
    let mut socket = TcpStream::connect((host, url.port_or_known_default().unwrap_or(80)))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let path = url.query().map_or_else(|| url.path().to_owned(), |q| format!("{}?{q}", url.path()));
    let authority = url.authority();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let lines = answer.lines().filter_map(|line| line.split_once(':'));
    let mut locations = lines.filter(|(name, _)| name.eq_ignore_ascii_case("location"));
    let location = locations.next().ok_or_else(|| format!("no redirect: {answer}"))?.1.trim();
    Ok(url.join(location)?)
}

async fn modern(
    wire: &Wire,
    method: &str,
    name: Option<&str>,
    mut params: Value,
) -> Result<Message, Failure> {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "bartizan", "version": env!("CARGO_PKG_VERSION") },
    });
    let text = message::request("1", method, Some(&params.to_string()));
    ask(wire, text, modern_headers(method, name)).await
}

async fn legacy(wire: &Wire, id: u64, method: &str, params: &str) -> Result<Message, Failure> {
    ask(wire, message::request(&id.to_string(), method, Some(params)), HeaderMap::new()).await
}

async fn ask(wire: &Wire, text: String, headers: HeaderMap) -> Result<Message, Failure> {
    let sent = wire.clone().post(text, headers);
    let mut answer = Answer::sending(async { sent.await.map(|(posted, _)| posted) });
    final_message(&mut answer).await
}

fn first_tool(listed: &Message) -> Option<String> {
    let tools = listed.result()?.get("tools")?;
    let name = tools.elements().next()?.get("name")?.as_str()?;
    Some(name.into_owned())
}
