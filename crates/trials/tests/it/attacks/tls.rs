//! Over TLS: HTTP/2, renewed certificates, tokens that are bound to one (RFC 8705).

use std::{fs, path::PathBuf, sync::Arc};

use bartizan_trials::{Gate, Issuer, Upstream, eventually, modern_text};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::{net::TcpStream, runtime::Runtime};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// An authority, and a folder with what it signed.
pub struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: rcgen::Issuer::new(params, key), folder }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Signs a certificate for `name` into `{file}.pem` and `{file}.key`.
    pub fn sign(&self, name: &str, file: &str) {
        let (params, key) =
            (CertificateParams::new(vec![name.to_owned()]).unwrap(), KeyPair::generate().unwrap());
        fs::write(self.at(&format!("{file}.key")), key.serialize_pem()).unwrap();
        fs::write(self.at(&format!("{file}.pem")), params.signed_by(&key, &self.issuer).unwrap().pem())
            .unwrap();
    }

    fn certificate(&self, file: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.at(&format!("{file}.pem"))).unwrap()
    }

    /// A connection to `gate` that speaks `protocol`, with the client certificate `shown`.
    pub async fn connect(&self, gate: &Gate, protocol: &str, shown: Option<&str>) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.at("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let key = PrivateKeyDer::from_pem_file(self.at(&format!("{file}.key"))).unwrap();
                builder.with_client_auth_cert(vec![self.certificate(file)], key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        #[expect(clippy::disallowed_methods, reason = "a trial's client stands outside the gate")]
        let tcp = TcpStream::connect(gate.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }
}

/// `[server]` with the certificate of `authority` in its place; more lines of it may follow.
pub fn tls(authority: &Authority) -> String {
    let at = |name: &str| authority.at(name).display().to_string();
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ntls = {{ cert = {:?}, key = {:?}, client_ca = {:?} }}\n",
        at("gate.pem"),
        at("gate.key"),
        at("ca.pem")
    )
}

/// A modern call; `uri` is the request target, `host` a header beside it.
fn ask(uri: &str, host: Option<&str>, token: &str) -> http::Request<Full<Bytes>> {
    let body = modern_text("1", "tools/call", r#""name":"echo","arguments":{}"#, "{}");
    let mut request = http::Request::post(uri)
        .header("Content-Type", "application/json")
        .header("Accept", "application/json, text/event-stream")
        .header("MCP-Protocol-Version", "2026-07-28")
        .header("Mcp-Method", "tools/call")
        .header("Mcp-Name", "echo")
        .header("Authorization", format!("Bearer {token}"));
    if let Some(host) = host {
        request = request.header("Host", host);
    }
    request.body(Full::new(Bytes::from(body))).unwrap()
}

async fn over_http2(stream: TlsStream<TcpStream>, request: http::Request<Full<Bytes>>) -> u16 {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let status = sender.send_request(request).await.map_or(0, |response| response.status().as_u16());
    driving.abort();
    status
}

async fn over_http1(stream: TlsStream<TcpStream>, request: http::Request<Full<Bytes>>) -> u16 {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let status = sender.send_request(request).await.map_or(0, |response| response.status().as_u16());
    driving.abort();
    status
}

#[test]
fn aa_02_over_http2_authority_and_host_must_agree() {
    let authority = Authority::new();
    authority.sign("localhost", "gate");
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&format!("{}{}", tls(&authority), up.config("up", "")));
    let own = format!("localhost:{}", gate.address().port());
    let try_one = |uri: String, host: Option<&str>| {
        Runtime::new().unwrap().block_on(async {
            let stream = authority.connect(&gate, "h2", None).await;
            over_http2(stream, ask(&uri, host, &gate.token())).await
        })
    };
    let here = format!("https://{own}/mcp/up");
    for (uri, host) in [
        (here.clone(), Some("evil.example")),
        ("https://evil.example/mcp/up".to_owned(), Some(own.as_str())),
        ("https://evil.example/mcp/up".to_owned(), None),
        (format!("https://{own}.evil.example/mcp/up"), None),
    ] {
        let status = try_one(uri.clone(), host);
        assert!(matches!(status, 400 | 421), "{uri} with {host:?}: {status}");
    }
    assert!(up.heard_of("tools/call").is_empty());
    assert_eq!(try_one(here.clone(), None), 200);
    assert_eq!(try_one(here, Some(&own)), 200);
}

#[test]
fn a_renewed_certificate_is_served_without_a_restart() {
    let authority = Authority::new();
    authority.sign("localhost", "gate");
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&format!("{}{}", tls(&authority), up.config("up", "")));
    let served = || {
        Runtime::new().unwrap().block_on(async {
            let stream = authority.connect(&gate, "http/1.1", None).await;
            stream.get_ref().1.peer_certificates().unwrap()[0].clone()
        })
    };
    assert_eq!(served(), authority.certificate("gate"));
    authority.sign("localhost", "gate");
    eventually("the new certificate", || (served() == authority.certificate("gate")).then_some(()));
}

/// Also: AA-28.
#[test]
fn aa_39_a_token_that_is_bound_to_a_certificate_needs_it() {
    let authority = Authority::new();
    authority.sign("localhost", "gate");
    authority.sign("client", "mine");
    authority.sign("client", "other");
    let (issuer, up) = (Issuer::start(1), Upstream::modern(|_, _| false));
    let gate = Gate::start(&format!(
        "{}public_url = \"https://localhost\"\n[identity]\nmode = \"resource-server\"\n{}\
         [policy.roles.people]\ngroups = [\"people\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}",
        tls(&authority),
        issuer.config(),
        up.config("up", ""),
    ));
    let mine = authority.certificate("mine");
    let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &mine);
    let bound = json!({ "cnf": { "x5t#S256": URL_SAFE_NO_PAD.encode(print) } });
    let token = issuer.token("ann", "https://localhost/mcp/up", bound);
    let own = format!("localhost:{}", gate.address().port());
    let try_with = |shown: Option<&str>, forwarded: Option<&str>| {
        Runtime::new().unwrap().block_on(async {
            let stream = authority.connect(&gate, "http/1.1", shown).await;
            let mut request = ask("/mcp/up", Some(&own), &token);
            if let Some(forwarded) = forwarded {
                request.headers_mut().insert("client-cert", forwarded.parse().unwrap());
            }
            over_http1(stream, request).await
        })
    };
    assert_eq!(try_with(None, None), 401);
    assert_eq!(try_with(Some("other"), None), 401);
    let forwarded = format!(":{}:", base64::engine::general_purpose::STANDARD.encode(&mine));
    assert_eq!(try_with(None, Some(&forwarded)), 401, "a header of a stranger is no certificate");
    assert!(up.heard_of("tools/call").is_empty());
    assert_eq!(try_with(Some("mine"), None), 200);
}
