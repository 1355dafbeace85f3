//! Names that lie, seen from inside: which addresses were really dialled (attacks.md CD-03; spec.md G-21, G-24).

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::net::TcpStream;
use url::Url;

use super::{Config, Egress, Error, FetchLimits, Peer, Resolver, Resolving, TlsOptions, connect::Dial};

/// A public address by every rule. Nothing is sent to it: [`Recorder`] refuses what is not on loopback.
const PUBLIC: &str = "1.1.1.1";

/// Gives its answers in turn, for ever, and counts the questions.
struct Turns {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Turns {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|a| a.parse().unwrap()).collect();
        Arc::new(Self { answers: Mutex::new(answers.iter().map(parse).collect()), asked: Mutex::default() })
    }
}

impl Resolver for Turns {
    fn resolve(&self, host: &str) -> Resolving {
        self.asked.lock().unwrap().push(host.to_owned());
        let mut answers = self.answers.lock().unwrap();
        answers.rotate_left(1);
        let answer = answers.back().cloned().unwrap_or_default();
        Box::pin(async move { Ok(answer) })
    }
}

/// Notes every address it is asked to connect to; connects to loopback, so that a canary there would notice.
#[derive(Default)]
struct Recorder(Mutex<Vec<IpAddr>>);

impl Dial for Recorder {
    fn dial(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> {
        self.0.lock().unwrap().push(address.ip());
        Box::pin(async move {
            if !address.ip().to_canonical().is_loopback() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            #[expect(clippy::disallowed_methods, reason = "a test that stays on loopback")]
            TcpStream::connect(address).await
        })
    }
}

/// An egress whose resolver and dialler are watched, and a listener on loopback that nobody should reach.
struct Scene {
    egress: Egress,
    resolver: Arc<Turns>,
    dialer: Arc<Recorder>,
    canary: TcpListener,
}

impl Scene {
    fn new(config: Config, answers: &[&[&str]]) -> Self {
        let canary = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        canary.set_nonblocking(true).unwrap();
        let (resolver, dialer) = (Turns::new(answers), Arc::new(Recorder::default()));
        let mut egress = Egress::with_resolver(config, resolver.clone());
        egress.dialer = dialer.clone();
        Self { egress, resolver, dialer, canary }
    }

    fn url(&self, host: &str) -> Url {
        format!("https://{host}:{}/", self.canary.local_addr().unwrap().port()).parse().unwrap()
    }

    async fn fetch(&self, host: &str) -> Error {
        let limits = FetchLimits { max_bytes: 1000, timeout: Duration::from_secs(10), max_redirects: 3 };
        self.egress.fetch(&self.url(host), limits).await.unwrap_err()
    }

    async fn send(&self, host: &str) -> Error {
        let peer = Peer { url: self.url(host), tls: TlsOptions::default(), dangerous_plaintext: false };
        let endpoint = self.egress.endpoint(&peer).unwrap();
        let get =
            endpoint.send(http::Method::GET, Default::default(), Default::default(), Duration::from_secs(10));
        get.await.unwrap_err()
    }

    fn dialled(&self) -> Vec<String> {
        self.dialer.0.lock().unwrap().iter().map(ToString::to_string).collect()
    }

    fn canary_was_reached(&self) -> bool {
        // A connection that was made waits in the backlog.
        self.canary.accept().is_ok()
    }
}

#[tokio::test]
async fn a_name_that_alternates_is_dialled_only_where_it_was_checked() {
    let scene = Scene::new(Config::default(), &[&[PUBLIC], &["127.0.0.1"]]);
    for turn in 0..6 {
        let error = scene.fetch("rebind.example").await;
        if turn % 2 == 0 {
            assert!(matches!(error, Error::Connect(io::ErrorKind::ConnectionRefused)), "{error}");
        } else {
            assert!(matches!(error, Error::ForbiddenAddress), "{error}");
        }
        assert!(error.sent_nothing());
    }
    assert_eq!(scene.dialled(), [PUBLIC; 3], "the loopback answers were dialled");
    assert_eq!(scene.resolver.asked.lock().unwrap().len(), 6, "one look-up for each connection");
    assert!(!scene.canary_was_reached());
}

#[tokio::test]
async fn an_operators_name_that_alternates_is_dialled_only_where_it_was_checked() {
    let scene = Scene::new(Config::default(), &[&["10.1.2.3"], &["127.0.0.1"], &["169.254.169.254"]]);
    for _ in 0..6 {
        scene.send("server.corp.example").await;
    }
    assert_eq!(scene.dialled(), ["10.1.2.3"; 2]);
    assert!(!scene.canary_was_reached());
}

#[tokio::test]
async fn one_bad_answer_spoils_the_name() {
    for bad in
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "fe80::1", "64:ff9b::7f00:1"]
    {
        let scene = Scene::new(Config::default(), &[&[PUBLIC, bad], &[bad, PUBLIC]]);
        for _ in 0..2 {
            assert!(matches!(scene.fetch("mixed.example").await, Error::ForbiddenAddress), "{bad}");
        }
        assert!(scene.dialled().is_empty() && !scene.canary_was_reached(), "{bad}");
    }
}

#[tokio::test]
async fn the_canary_can_be_reached_where_the_operator_says_so() {
    // Without this, the trials above could pass because nothing ever connects.
    let config = Config { dangerous_allow: vec!["127.0.0.1/32".parse().unwrap()], ..Config::default() };
    let scene = Scene::new(config, &[&["127.0.0.1"]]);
    let port = scene.canary.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/").parse().unwrap();
    let limits = FetchLimits { max_bytes: 1000, timeout: Duration::from_secs(20), max_redirects: 0 };
    let canary = tokio::net::TcpListener::from_std(scene.canary).unwrap();
    tokio::select! {
        fetched = scene.egress.fetch(&url, limits) => panic!("the canary was not reached: {fetched:?}"),
        accepted = canary.accept() => assert!(accepted.is_ok()),
    }
}

#[tokio::test]
async fn every_spelling_of_an_address_is_the_address() {
    let scene = Scene::new(Config::default(), &[&["127.0.0.1"]]);
    let spellings = r"
        2130706433 0x7f000001 0x7f.1 017700000001 0177.0.0.1 127.1 127.0.0.1. ①②⑦.0.0.1 0 [::] [::1]
        [::ffff:7f00:1] [::ffff:127.0.0.1] [::7f00:1] [2002:7f00:1::] [64:ff9b::a9fe:a9fe]
        [64:ff9b:1::1] [fec0::1] [fe80::1] [fd00:ec2::254] [2001:0:7f00:1::] 168.63.129.16
        169.254.169.254 0xa9fea9fe 10.0.0.1 localhost localhost. localtest.example
        evil.example\@127.0.0.1
    ";
    for host in spellings.split_whitespace() {
        let error = scene.fetch(host).await;
        assert!(matches!(error, Error::ForbiddenAddress), "{host}: {error}");
    }
    assert!(matches!(scene.fetch("someone@127.0.0.1").await, Error::Url(_)));
    assert!(scene.dialled().is_empty() && !scene.canary_was_reached());
}

#[tokio::test]
async fn an_operators_server_may_be_private_but_never_metadata() {
    let scene = Scene::new(Config::default(), &[&["192.168.7.7"]]);
    for host in ["10.0.0.1", "172.16.0.9", "[fd12::1]", "server.corp.example"] {
        assert!(matches!(scene.send(host).await, Error::Connect(_)), "{host}");
    }
    let never =
        "169.254.169.254 [fe80::1] 168.63.129.16 [fd00:ec2::254] 224.0.0.1 0.0.0.0 [::ffff:127.0.0.1]";
    for host in never.split(' ') {
        assert!(matches!(scene.send(host).await, Error::ForbiddenAddress), "{host}");
    }
    // A name that says loopback and means another machine would be trusted with plain text.
    assert!(matches!(scene.send("localhost").await, Error::ForbiddenAddress));
    assert_eq!(scene.dialled(), ["10.0.0.1", "172.16.0.9", "fd12::1", "192.168.7.7"]);
}

#[tokio::test]
async fn all_checked_addresses_are_tried() {
    let scene = Scene::new(Config::default(), &[&["10.0.0.1", "10.0.0.2", "fd12::1"]]);
    assert!(matches!(scene.send("many.corp.example").await, Error::Connect(_)));
    assert_eq!(scene.dialled(), ["10.0.0.1", "10.0.0.2", "fd12::1"]);
    let nobody = Scene::new(Config::default(), &[&[]]);
    assert!(matches!(nobody.send("none.corp.example").await, Error::Resolve(_)));
}

/// Takes every connection to one listener on loopback, whatever address it was for.
struct Detour(SocketAddr, Mutex<Vec<SocketAddr>>);

impl Dial for Detour {
    fn dial(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> {
        self.1.lock().unwrap().push(address);
        let there = self.0;
        #[expect(clippy::disallowed_methods, reason = "a test that stays on loopback")]
        Box::pin(TcpStream::connect(there))
    }
}

/// The instance metadata service's contract: `GET /metadata/identity/oauth2/token` at 169.254.169.254, in the clear; whoever asks
/// marks the request by `Metadata: true`. It is the same in whatever the operator allows beside it.
#[tokio::test]
async fn the_machines_identity_is_asked_for_at_one_address_and_a_redirect_is_not_followed() {
    use std::io::{Read, Write};

    fn of(named: Option<&Url>) -> super::ManagedIdentity<'_> {
        super::ManagedIdentity { named, resource: "https://vault.azure.net", client_id: Some("one of ours") }
    }

    let service = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let there = service.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut line, _) = service.accept().unwrap();
        let mut asked = Vec::new();
        let mut piece = [0; 1024];
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = line.read(&mut piece).unwrap();
            asked.extend_from_slice(&piece[..read]);
        }
        line.write_all(b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        String::from_utf8(asked).unwrap().to_lowercase()
    });
    let mut egress = Egress::with_resolver(Config::default(), Turns::new(&[&[PUBLIC]]));
    let detour = Arc::new(Detour(there, Mutex::default()));
    egress.dialer = detour.clone();
    let ask = |endpoint: super::Endpoint| async move {
        let mark = (http::HeaderName::from_static("metadata"), http::HeaderValue::from_static("true"));
        let headers = http::HeaderMap::from_iter([mark]);
        endpoint.send(http::Method::GET, headers, Default::default(), Duration::from_secs(10)).await
    };
    let answer = ask(egress.managed_identity(&of(None)).unwrap()).await;
    assert!(matches!(answer, Err(Error::Redirected)));
    let asked = serving.join().unwrap();
    let line = "get /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3a%2f%2fvault.azure.net\
                &client_id=one+of+ours http/1.1\r\n";
    assert!(asked.starts_with(line), "{asked}");
    assert!(
        asked.contains("\r\nhost: 169.254.169.254\r\n") && asked.contains("\r\nmetadata: true\r\n"),
        "{asked}"
    );
    assert_eq!(*detour.1.lock().unwrap(), ["169.254.169.254:80".parse().unwrap()]);

    // A name that the environment gives may lead nowhere but here or beside here.
    let named = Url::parse("http://identity.example/msi/token").unwrap();
    let refused = ask(egress.managed_identity(&of(Some(&named))).unwrap()).await.unwrap_err();
    assert!(matches!(refused, Error::ForbiddenAddress), "{refused}");
    for bad in ["https://127.0.0.1/msi/token", "http://u:p@127.0.0.1/msi/token", "file:///msi/token"] {
        let bad = Url::parse(bad).unwrap();
        assert!(matches!(egress.managed_identity(&of(Some(&bad))), Err(Error::Url(_))), "{bad}");
    }
    assert_eq!(detour.1.lock().unwrap().len(), 1, "nothing else was dialled");
}
