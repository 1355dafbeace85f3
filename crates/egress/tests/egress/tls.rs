//! TLS, both ways.

use std::{path::PathBuf, sync::Arc};

use bartizan_egress::{Config, Egress, Endpoint, Error, Peer as Named, TlsOptions};
use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{net::TcpListener, sync::mpsc};

use crate::peer::{LONG, Script, Seen, ok, serve};

/// An authority, and a folder with what it signed.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key files for `name`.
    pub fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let (params, key) =
            (CertificateParams::new(vec![name.to_owned()]).unwrap(), KeyPair::generate().unwrap());
        let at = |end: &str| self.folder.path().join(format!("{name}.{end}.pem"));
        std::fs::write(at("cert"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        (at("cert"), at("key"))
    }

    /// A server's configuration; with `clients`, only for clients that it signed.
    pub fn server(&self, name: &str, clients: Option<&Self>, alpn: &[u8]) -> ServerConfig {
        let (cert, key) = self.sign(name);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
        let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }
}

/// Serves HTTP/1 over TLS; gives its port and what it saw.
pub async fn start(config: ServerConfig) -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let seen = Arc::new(Seen::default());
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        let script: Script = Arc::new(|_| ok("sealed"));
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let (close, _) = mpsc::unbounded_channel();
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&noted), close));
            }
        }
    });
    (port, seen)
}

fn endpoint(port: u16, tls: TlsOptions) -> Result<Endpoint, Error> {
    let url = format!("https://localhost:{port}/mcp").parse().unwrap();
    Egress::new(Config::default()).endpoint(&Named { url, tls, dangerous_plaintext: false })
}

async fn get(endpoint: &Endpoint) -> Result<Vec<u8>, Error> {
    let response = endpoint.send(Method::GET, HeaderMap::new(), Bytes::new(), LONG).await?;
    response.into_body().collect_within(100, LONG).await
}

#[tokio::test]
async fn a_servers_certificate_is_verified() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (port, seen) = start(ours.server("localhost", None, b"http/1.1")).await;
    let trusting = |ca: Option<PathBuf>| endpoint(port, TlsOptions { ca, ..TlsOptions::default() }).unwrap();
    assert_eq!(get(&trusting(Some(ours.ca()))).await.unwrap(), b"sealed");
    for ca in [Some(theirs.ca()), None] {
        let error = get(&trusting(ca)).await.unwrap_err();
        assert!(matches!(error, Error::Tls(_)) && error.sent_nothing(), "{error}");
    }
    let (port, _) = start(ours.server("other.example", None, b"http/1.1")).await;
    let misnamed = endpoint(port, TlsOptions { ca: Some(ours.ca()), ..TlsOptions::default() }).unwrap();
    assert!(matches!(get(&misnamed).await, Err(Error::Tls(_))));
    assert_eq!(seen.requests().len(), 1, "only the trusting client's request was sent");
}

/// A key pin comes on top of the certificate and in place of nothing (RFC 7469 §2.6).
#[tokio::test]
async fn a_pinned_key_is_asked_for_beside_a_good_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (cert, key) = ours.sign("localhost");
    let certificate = CertificateDer::from_pem_file(&cert).unwrap();
    let spki = rustls::server::ParsedCertificate::try_from(&certificate).unwrap().subject_public_key_info();
    let mut pin = [0; 32];
    pin.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki.as_ref()).as_ref());
    let own = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let (port, seen) = start(own).await;
    let with = |ca: PathBuf, pins: Vec<[u8; 32]>| {
        endpoint(port, TlsOptions { ca: Some(ca), pins, ..TlsOptions::default() }).unwrap()
    };
    assert_eq!(get(&with(ours.ca(), vec![pin])).await.unwrap(), b"sealed");
    assert_eq!(
        get(&with(ours.ca(), vec![[7; 32], pin])).await.unwrap(),
        b"sealed",
        "the next key may be pinned ahead"
    );
    for (ca, pins) in [(ours.ca(), vec![[7; 32]]), (theirs.ca(), vec![pin])] {
        let error = get(&with(ca, pins)).await.unwrap_err();
        assert!(matches!(error, Error::Tls(_)) && error.sent_nothing(), "{error}");
    }
    assert_eq!(seen.requests().len(), 2);
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_asks() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let (port, seen) = start(servers.server("localhost", Some(&clients), b"http/1.1")).await;
    let (cert, key) = clients.sign("gateway.example");
    let tls = TlsOptions {
        client_cert: Some(cert.clone()),
        key: Some(key.clone()),
        ca: Some(servers.ca()),
        pins: Vec::new(),
    };
    assert_eq!(get(&endpoint(port, tls.clone()).unwrap()).await.unwrap(), b"sealed");

    let nobody = TlsOptions { client_cert: None, key: None, ..tls.clone() };
    assert!(get(&endpoint(port, nobody).unwrap()).await.is_err());
    let (cert, key) = servers.sign("stranger.example");
    let stranger = TlsOptions { client_cert: Some(cert), key: Some(key), ..tls.clone() };
    assert!(get(&endpoint(port, stranger).unwrap()).await.is_err());
    assert_eq!(seen.requests().len(), 1);

    for broken in [TlsOptions { key: None, ..tls.clone() }, TlsOptions { client_cert: None, ..tls.clone() }] {
        assert!(matches!(endpoint(port, broken), Err(Error::Tls(why)) if why.contains("belong together")));
    }
    let missing = TlsOptions { ca: Some("/no/such/ca.pem".into()), ..tls.clone() };
    assert!(matches!(endpoint(port, missing), Err(Error::Tls(why)) if why.contains("/no/such/ca.pem")));
    let empty = TlsOptions { ca: tls.key.clone(), ..tls };
    assert!(matches!(endpoint(port, empty), Err(Error::Tls(why)) if why.contains("holds no certificate")));
}

#[tokio::test]
async fn http2_is_spoken_to_those_who_offer_it() {
    let ours = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(ours.server("localhost", None, b"h2")));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let stream = hyper_util::rt::TokioIo::new(acceptor.accept(tcp).await.unwrap());
            let answer =
                hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                    Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::new(
                        Bytes::from(host),
                    )))
                });
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(stream, answer));
        }
    });
    let endpoint = endpoint(port, TlsOptions { ca: Some(ours.ca()), ..TlsOptions::default() }).unwrap();
    for _ in 0..2 {
        let response = endpoint.send(Method::GET, HeaderMap::new(), Bytes::new(), LONG).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        let body = response.into_body().collect_within(100, LONG).await.unwrap();
        assert_eq!(body, format!("localhost:{port}").as_bytes());
    }
}
