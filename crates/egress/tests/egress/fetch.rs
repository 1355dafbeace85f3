//! Addresses that came from a stranger.

use bartizan_egress::{Config, Egress, Error, FetchLimits, Fetched};
use http::{HeaderMap, StatusCode, header};
use url::Url;

use crate::peer::{Answer, LONG, Peer, SHORT, ok, redirect};

const LIMITS: FetchLimits = FetchLimits { max_bytes: 1000, timeout: LONG, max_redirects: 2 };

async fn fetch(url: &Url, limits: FetchLimits) -> Result<Fetched, Error> {
    let config = Config { dangerous_allow: vec!["127.0.0.1/32".parse().unwrap()], ..Config::default() };
    Egress::new(config).fetch(url, limits).await
}

#[tokio::test]
async fn documents_are_fetched() {
    let peer = Peer::start(|_| ok("{}")).await;
    let fetched = fetch(&peer.url("/.well-known/x?y=z"), LIMITS).await.unwrap();
    assert_eq!((fetched.status, fetched.body), (StatusCode::OK, b"{}".to_vec()));
    assert!(peer.seen.requests()[0].starts_with("GET /.well-known/x?y=z HTTP/1.1\r\n"));
}

#[tokio::test]
async fn without_the_operators_word_loopback_is_not_reached() {
    let peer = Peer::start(|_| ok("")).await;
    let egress = Egress::new(Config::default());
    let https = format!("https://{}/", peer.address).parse().unwrap();
    assert!(matches!(egress.fetch(&https, LIMITS).await, Err(Error::ForbiddenAddress)));
    assert!(matches!(egress.fetch(&peer.url("/"), LIMITS).await, Err(Error::Url(_))));
    for url in
        ["http://example.com/", "file:///etc/passwd", "gopher://example.com/", "https://user:pw@example.com/"]
    {
        assert!(matches!(egress.fetch(&url.parse().unwrap(), LIMITS).await, Err(Error::Url(_))), "{url}");
    }
    assert_eq!(peer.seen.connections(), 0);
}

#[tokio::test]
async fn redirects_are_counted() {
    let peer = Peer::start(|r| match r.split(' ').nth(1) {
        Some("/0") => redirect("/1"),
        Some("/1") => redirect("2?x"),
        Some("/2?x") => ok("there"),
        _ => redirect("/loop"),
    })
    .await;
    assert_eq!(fetch(&peer.url("/0"), LIMITS).await.unwrap().body, b"there");
    assert_eq!(peer.seen.requests().len(), 3);
    for (path, max_redirects) in [("/0", 0), ("/0", 1), ("/loop", 2)] {
        let error = fetch(&peer.url(path), FetchLimits { max_redirects, ..LIMITS }).await.unwrap_err();
        assert!(matches!(error, Error::Redirects), "{path} {max_redirects}: {error}");
    }
    assert_eq!(peer.seen.requests().len(), 3 + 1 + 2 + 3);
}

#[tokio::test]
async fn every_hop_is_judged() {
    for location in
        ["https://169.254.169.254/latest", "https://127.0.0.2/", "https://[::1]/", "https://0x0a000001/"]
    {
        let peer = Peer::start(move |_| redirect(location)).await;
        let error = fetch(&peer.url("/"), LIMITS).await.unwrap_err();
        assert!(matches!(error, Error::ForbiddenAddress), "{location}: {error}");
    }
    for location in ["http://10.0.0.1/", "http://localhost/", "file:///etc/passwd", "//user@127.0.0.1/"] {
        let peer = Peer::start(move |_| redirect(location)).await;
        let error = fetch(&peer.url("/"), LIMITS).await.unwrap_err();
        assert!(matches!(error, Error::Url(_)), "{location}: {error}");
    }
    let peer = Peer::start(|_| Answer::Write("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".into())).await;
    assert!(matches!(fetch(&peer.url("/"), LIMITS).await, Err(Error::Redirects)));
}

#[tokio::test]
async fn what_is_posted_to_a_stranger_goes_to_that_address_or_nowhere() {
    let config = Config { dangerous_allow: vec!["127.0.0.1/32".parse().unwrap()], ..Config::default() };
    let egress = Egress::new(config);
    let submit = async |url: &Url| {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, "Basic x".parse().unwrap())]);
        egress.submit(url, headers, "code=c".into(), LIMITS).await
    };
    let canary = Peer::start(|_| ok("")).await;
    let peer = Peer::start(|_| ok("{}")).await;
    assert_eq!(submit(&peer.url("/token")).await.unwrap().body, b"{}");
    let heard = peer.seen.requests().remove(0);
    assert!(heard.starts_with("POST /token ") && heard.contains("authorization: Basic x"), "{heard}");
    let location: &'static str = canary.url("/").to_string().leak();
    let away = Peer::start(move |_| redirect(location)).await;
    assert!(matches!(submit(&away.url("/")).await, Err(Error::Redirected)), "not even to where it may fetch");
    for private in ["https://169.254.169.254/", "https://[::1]/", "https://10.0.0.1/", "https://127.0.0.2/"] {
        assert!(matches!(submit(&private.parse().unwrap()).await, Err(Error::ForbiddenAddress)), "{private}");
    }
    for plain in ["http://localhost/", "http://example.com/", "https://u:p@example.com/"] {
        assert!(matches!(submit(&plain.parse().unwrap()).await, Err(Error::Url(_))), "{plain}");
    }
    assert_eq!(canary.seen.connections(), 0);
}

#[tokio::test]
async fn size_and_time_are_bounded_and_nothing_is_reflected() {
    let long = Peer::start(|_| ok(&"internal banner ".repeat(100))).await;
    let error = fetch(&long.url("/"), LIMITS).await.unwrap_err();
    assert!(matches!(error, Error::TooLong) && !error.to_string().contains("banner"), "{error}");

    let garbage = Peer::start(|_| Answer::Write("220 internal banner ready\r\n\r\n".into())).await;
    let error = fetch(&garbage.url("/"), LIMITS).await.unwrap_err();
    assert!(matches!(error, Error::Broken(_)) && !error.to_string().contains("banner"), "{error}");

    for stalled in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal"] {
        let mut peer = Peer::start(move |_| Answer::Stall(stalled.into())).await;
        let error = fetch(&peer.url("/"), FetchLimits { timeout: SHORT, ..LIMITS }).await.unwrap_err();
        assert!(matches!(error, Error::Timeout), "{error}");
        peer.wait_closed().await;
    }
}
