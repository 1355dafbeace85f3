//! The egress proxy.

use std::sync::{Arc, Mutex};

use bartizan_egress::{Config, Egress, Error, FetchLimits, Peer as Named, Resolver, Resolving, TlsOptions};
use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    peer::{LONG, Peer, ok},
    tls::{Authority, start},
};

/// A proxy that tunnels whatever it is asked for to `target`, or answers with `refusal`.
async fn proxy(target: u16, refusal: Option<&'static str>) -> (url::Url, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            noted.lock().unwrap().push(String::from_utf8(head).unwrap());
            if let Some(refusal) = refusal {
                client.write_all(refusal.as_bytes()).await.unwrap();
                continue;
            }
            #[expect(clippy::disallowed_methods, reason = "the test's own proxy, on loopback")]
            let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (url, asked)
}

/// With a proxy, nobody should ask.
struct NeverAsked;

impl Resolver for NeverAsked {
    fn resolve(&self, host: &str) -> Resolving {
        panic!("{host} was looked up")
    }
}

fn behind(proxy: &url::Url) -> Egress {
    let config = Config { proxy: Some(proxy.clone()), ..Config::default() };
    Egress::with_resolver(config, Arc::new(NeverAsked))
}

async fn get(egress: &Egress, url: &str, tls: TlsOptions) -> Result<Vec<u8>, Error> {
    let peer = Named { url: url.parse().unwrap(), tls, dangerous_plaintext: true };
    let response = egress.endpoint(&peer)?.send(Method::GET, HeaderMap::new(), Bytes::new(), LONG).await?;
    response.into_body().collect_within(100, LONG).await
}

#[tokio::test]
async fn everything_goes_through_the_proxy() {
    let authority = Authority::new();
    let (port, _) = start(authority.server("api.example", None, b"http/1.1")).await;
    let (url, asked) = proxy(port, None).await;
    let tls = TlsOptions { ca: Some(authority.ca()), ..TlsOptions::default() };
    assert_eq!(get(&behind(&url), "https://api.example/mcp", tls).await.unwrap(), b"sealed");

    let plain = Peer::start(|_| ok("plain")).await;
    let (url, asked_plain) = proxy(plain.address.port(), None).await;
    assert_eq!(
        get(&behind(&url), "http://10.9.8.7:8080/mcp", TlsOptions::default()).await.unwrap(),
        b"plain"
    );
    assert!(plain.seen.requests()[0].starts_with("GET /mcp HTTP/1.1\r\n"));

    assert_eq!(*asked.lock().unwrap(), ["CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n"]);
    assert!(asked_plain.lock().unwrap()[0].starts_with("CONNECT 10.9.8.7:8080 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn the_proxy_is_not_asked_for_what_is_forbidden_or_ours() {
    let peer = Peer::start(|_| ok("ours")).await;
    let (url, asked) = proxy(peer.address.port(), None).await;
    let egress = behind(&url);
    let limits = FetchLimits { max_bytes: 100, timeout: LONG, max_redirects: 0 };
    for stranger in [
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://localhost./",
    ] {
        let error = egress.fetch(&stranger.parse().unwrap(), limits).await.unwrap_err();
        assert!(matches!(error, Error::ForbiddenAddress), "{stranger}: {error}");
    }
    let error = get(&egress, "https://169.254.169.254/", TlsOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::ForbiddenAddress), "{error}");
    assert_eq!(get(&egress, peer.url("/").as_str(), TlsOptions::default()).await.unwrap(), b"ours");
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_that_does_not_let_us_through_is_named() {
    for (refusal, named) in [
        ("HTTP/1.1 407 Secret words\r\n\r\n", "407"),
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n", "302"),
        ("secret words\r\n\r\n", "no HTTP"),
    ] {
        let (url, _) = proxy(0, Some(refusal)).await;
        let error = get(&behind(&url), "https://api.example/", TlsOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Proxy(_)) && error.sent_nothing(), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("proxy") && text.contains(named) && !text.to_lowercase().contains("secret"),
            "{text}"
        );
    }
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let egress = behind(&format!("http://{gone}").parse().unwrap());
    let error = get(&egress, "https://api.example/", TlsOptions::default()).await;
    assert!(matches!(error, Err(Error::Proxy(why)) if why.contains("cannot be reached")));
    for unusable in ["https://proxy.example", "http://user:pw@proxy.example", "socks5://proxy.example"] {
        let error =
            get(&behind(&unusable.parse().unwrap()), "https://api.example/", TlsOptions::default()).await;
        assert!(matches!(error, Err(Error::Proxy(why)) if why.contains("http://host:port")), "{unusable}");
    }
}
