//! Clients that describe themselves (RFC 7591; Client ID Metadata Documents; MCP authorization).

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use bartizan_trials::{Answer, BACK, Browser, Facade, Idp, Upstream, field, merge, onward, parameter};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::tls::Authority;

const ID: &str = "https://app.example/client.json";

/// A page at its address: status, header lines (each ended by CR LF), body.
type Pages = Arc<Mutex<BTreeMap<String, (&'static str, String, String)>>>;

/// The world outside, behind a proxy: `app.example`, whose certificate the gate has reason to trust.
struct World {
    proxy: String,
    authority: Authority,
    pages: Pages,
    asked: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        authority.sign("app.example", "app");
        let config = server_config(authority.at("app.pem"), authority.at("app.key"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let (pages, asked) = (Pages::default(), Arc::<Mutex<Vec<String>>>::default());
        let (known, heard) = (Arc::clone(&pages), Arc::clone(&asked));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (config, known, heard) = (Arc::clone(&config), Arc::clone(&known), Arc::clone(&heard));
                thread::spawn(move || serve(socket, config, &known, &heard));
            }
        });
        Self { proxy, authority, pages, asked }
    }

    fn says(&self, path: &str, status: &'static str, lines: &str, body: impl ToString) {
        let page = (status, lines.to_owned(), body.to_string());
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// What was asked of it, by host and path.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn facade(&self) -> Facade {
        let egress = format!("[egress]\nproxy = \"{}\"\n", self.proxy);
        let ca = self.authority.at("ca.pem").display().to_string();
        Facade::on(Idp::start(7), "", &egress, &[("SSL_CERT_FILE", &ca)])
    }
}

fn server_config(chain: PathBuf, key: PathBuf) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_file(chain).unwrap()];
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn head(from: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if from.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

fn serve(
    mut socket: TcpStream,
    config: Arc<ServerConfig>,
    pages: &Pages,
    asked: &Mutex<Vec<String>>,
) -> Option<()> {
    let tunnel = head(&mut socket)?;
    let host = tunnel.split(' ').nth(1)?.to_owned();
    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, socket);
    let request = head(&mut stream)?;
    let path = request.split(' ').nth(1)?.to_owned();
    asked.lock().unwrap().push(format!("{host}{path}"));
    let page = pages.lock().unwrap().get(&path).cloned();
    let (status, lines, body) = page.unwrap_or(("404 Not Found", String::new(), String::new()));
    let answer = format!(
        "HTTP/1.1 {status}\r\n{lines}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}

/// A visit that comes from a network of its own, so that no limit for one network counts.
fn visit(browser: &mut Browser, query: &str, number: usize) -> Answer {
    let ask = browser.visit(query).line("X-Forwarded-For", &format!("203.0.113.{number}"));
    browser.send(ask)
}

fn register(facade: &Facade, number: usize, body: impl AsRef<[u8]>) -> Answer {
    facade
        .gate
        .stranger()
        .post("/oauth/register", body)
        .with("Host", "gate.example")
        .line("X-Forwarded-For", &format!("198.51.100.{number}"))
        .send()
}

#[test]
fn aa_26_what_could_harm_is_not_registered_and_nobody_floods() {
    let facade = Facade::with("registration = \"on\"", "");
    let good = || json!({ "client_name": "Mine", "redirect_uris": [BACK] });
    let mut number = 0;
    let mut refused = |change: Value| {
        number += 1;
        let answer = register(&facade, number, merge(good(), change.clone()).to_string());
        assert_eq!(answer.status, 400, "{change}: {}", answer.text());
        answer.json()["error"].as_str().unwrap().to_owned()
    };
    for uri in [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "http://c.example/cb",
        "https://c.example/cb#f",
        "https://*.example/cb",
        "https://u@c.example/cb",
        "myapp://cb",
    ] {
        assert_eq!(refused(json!({ "redirect_uris": [uri] })), "invalid_redirect_uri", "{uri}");
    }
    let private = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": "AAAA" }] });
    for change in [
        json!({ "redirect_uris": [] }),
        json!({ "redirect_uris": null }),
        json!({ "grant_types": ["password"] }),
        json!({ "grant_types": ["implicit"] }),
        json!({ "grant_types": ["client_credentials", "authorization_code"] }),
        json!({ "scope": "*" }),
        json!({ "client_id": "https://known.example/client.json" }),
        json!({ "client_secret": "mine" }),
        json!({ "jwks": private, "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "jwks_uri": "http://169.254.169.254/", "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "response_types": ["token"] }),
    ] {
        let error = refused(change.clone());
        assert!(
            matches!(error.as_str(), "invalid_redirect_uri" | "invalid_client_metadata"),
            "{change}: {error}"
        );
    }
    let huge = register(&facade, 100, "x".repeat(1 << 20));
    assert!(matches!(huge.status, 400 | 413), "{}", huge.status);
    let answer = register(&facade, 101, good().to_string());
    assert_eq!(answer.status, 201, "{}", answer.text());
    let id = answer.json()["client_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("r_"), "an id nobody chose: {id}");
    let client = facade.gate.stranger();
    for path in [format!("/oauth/register/{id}"), "/oauth/register".to_owned()] {
        for method in ["PUT", "DELETE"] {
            let status = client.request(method, &path).with("Host", "gate.example").body("{}").send().status;
            assert!(matches!(status, 404 | 405), "{method} {path}: {status}");
        }
    }
    // One network has ten a minute; another is not held up by it.
    let statuses: Vec<_> = (0..12).map(|_| register(&facade, 102, good().to_string()).status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 10, "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429));
    assert_eq!(register(&facade, 103, good().to_string()).status, 201);

    let code = facade.code("ann", &[("client_id", &id)]);
    assert_eq!(facade.redeem(&code, &[("client_id", &id)]).outcome(), 200, "the honest client goes on");
}

#[test]
fn aa_27_a_metadata_document_that_is_not_exactly_right_is_none() {
    let world = World::new();
    let facade = world.facade();
    let json_line = "Content-Type: application/json\r\n";
    let document = |path: &str, change: Value| {
        let good = json!({
            "client_id": format!("https://app.example{path}"), "client_name": "An app", "redirect_uris": [BACK],
            "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"],
        });
        merge(good, change).to_string()
    };
    let own = |path: &str| document(path, json!({}));
    let mut bad: Vec<(&'static str, String, String)> = vec![
        ("404 Not Found", json_line.to_owned(), own("/0")),
        ("302 Found", format!("{json_line}Location: https://app.example/client.json\r\n"), own("/1")),
        ("201 Created", json_line.to_owned(), own("/2")),
        ("200 OK", "Content-Type: text/html\r\n".to_owned(), own("/3")),
        ("200 OK", json_line.to_owned(), "<html>".to_owned()),
        ("200 OK", json_line.to_owned(), format!("{}{}", own("/5"), " ".repeat(5 * 1024))),
    ];
    let private = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": "AAAA" }] });
    for change in [
        json!({ "client_id": "https://APP.example/6" }),
        json!({ "client_id": "https://app.example:443/7" }),
        json!({ "client_id": null }),
        json!({ "client_secret": "x" }),
        json!({ "token_endpoint_auth_method": "client_secret_basic" }),
        json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": private }),
        json!({ "redirect_uris": ["https://c.example/another"] }),
        json!({ "redirect_uris": ["javascript:x"] }),
    ] {
        let path = format!("/{}", bad.len());
        bad.push(("200 OK", json_line.to_owned(), document(&path, change)));
    }
    for (number, (status, lines, body)) in bad.iter().enumerate() {
        let path = format!("/{number}");
        world.says(&path, status, lines, body);
        let id = format!("https://app.example{path}");
        let answer = visit(&mut facade.browser(), &Facade::query(&[("client_id", &id)]), number);
        assert!(
            answer.status == 400 && onward(&answer).is_none(),
            "{path} {status} {body}: {}",
            answer.text()
        );
        let asked = world.asked().iter().filter(|asked| asked.ends_with(&path)).count();
        assert_eq!(asked, 1, "{path}: fetched once, and no redirect followed");
    }
    let before = world.asked().len();
    for id in [
        "http://app.example/client.json",
        "https://app.example",
        "https://app.example/",
        "https://u@app.example/client.json",
        "https://app.example/x/../client.json",
        "https://app.example/client.json#x",
        "HTTPS://app.example/client.json",
        "https://app.example:443/client.json",
    ] {
        let answer = visit(&mut facade.browser(), &Facade::query(&[("client_id", id)]), 50);
        assert!(answer.status == 400 && onward(&answer).is_none(), "{id}: {}", answer.text());
    }
    assert_eq!(world.asked().len(), before, "what is no address of a document is not asked for");

    // What was not there is asked for again: a failure is not remembered.
    let query = Facade::query(&[("client_id", ID)]);
    assert_eq!(visit(&mut facade.browser(), &query, 60).status, 400);
    world.says("/client.json", "200 OK", json_line, own("/client.json"));
    let page = visit(&mut facade.browser(), &query, 61);
    assert!(field(&page, "form").is_some() && page.text().contains("app.example"), "{}", page.text());
    let fetched = world.asked().len();
    let location = facade.grant(&mut facade.browser(), "ann", &[("client_id", ID)]);
    let tokens = facade.redeem(&parameter(&location, "code").unwrap(), &[("client_id", ID)]);
    assert_eq!(tokens.outcome(), 200, "{}", tokens.text());
    assert_eq!(facade.shows("a", tokens.json()["access_token"].as_str().unwrap()), 200);
    assert_eq!(world.asked().len(), fetched, "a good one is kept");
}

/// Also: CD-03.
#[test]
fn cd_07_no_client_id_or_metadata_makes_the_gate_ask_an_internal_address() {
    let canary = Upstream::modern(|_, _| false);
    let port = canary.origin().rsplit(':').next().unwrap().to_owned();
    let facade = Facade::with("registration = \"on\"", "");
    let mut said = Vec::new();
    for (number, place) in [
        format!("127.0.0.1:{port}"),
        "127.0.0.1:1".to_owned(),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::ffff:7f00:1]:{port}"),
        format!("localhost:{port}"),
        "169.254.169.254".to_owned(),
        "10.0.0.1".to_owned(),
        "192.168.0.1:8443".to_owned(),
        "100.64.0.1".to_owned(),
        "[fd00:ec2::254]".to_owned(),
        "[fe80::1]".to_owned(),
        "[64:ff9b::a9fe:a9fe]".to_owned(),
        "[2002:7f00:1::]".to_owned(),
        format!("2130706433:{port}"),
        format!("0x7f.1:{port}"),
        format!("127.1:{port}"),
        format!("017700000001:{port}"),
        format!("①②⑦.0.0.1:{port}"),
        format!("localhost.:{port}"),
        format!("c.example@127.0.0.1:{port}"),
        format!("c.example\\\\@127.0.0.1:{port}"),
        "[fec0::1]".to_owned(),
        "168.63.129.16".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("https://{place}/client.json");
        let answer = visit(&mut facade.browser(), &Facade::query(&[("client_id", &id)]), number);
        assert!(
            answer.status == 400 && onward(&answer).is_none(),
            "{id}: {} {}",
            answer.status,
            answer.text()
        );
        said.push(answer.text());
    }
    // Open, closed and filtered ports are one answer; an id that is none at all is another.
    said.sort_unstable();
    said.dedup();
    assert!(said.len() <= 2, "{said:#?}");
    for text in &said {
        assert!(
            !text.contains("refused") && !text.contains("127.0.0.1") && !text.contains("169.254"),
            "{text}"
        );
    }
    for member in ["jwks_uri", "logo_uri", "sector_identifier_uri", "client_uri", "policy_uri", "tos_uri"] {
        let metadata =
            json!({ "client_name": "M", "redirect_uris": [BACK], member: format!("{}/x", canary.origin()) });
        let answer = register(&facade, 7, metadata.to_string());
        assert!(matches!(answer.status, 201 | 400), "{member}: {}", answer.text());
        assert!(!answer.text().contains(&port), "{member}: {}", answer.text());
    }
    let by_reference = Facade::query(&[("request_uri", &format!("{}/request", canary.origin()))]);
    let answer = facade.browser().get(&by_reference);
    assert_eq!(parameter(&onward(&answer).unwrap(), "error").as_deref(), Some("request_uri_not_supported"));
    assert_eq!(canary.connections(), 0, "nobody came");
    facade.serves();
}
