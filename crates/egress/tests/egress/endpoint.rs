//! Servers the operator named.

use std::sync::Arc;

use bartizan_egress::{Body, Config, Egress, Endpoint, Error, Peer as Named, TlsOptions};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;

use crate::peer::{Always, Answer, LONG, Peer, SHORT, ok, redirect};

fn named(url: &str) -> Named {
    Named { url: url.parse().unwrap(), tls: TlsOptions::default(), dangerous_plaintext: false }
}

fn endpoint(peer: &Peer, path: &str) -> Endpoint {
    Egress::new(Config::default()).endpoint(&named(peer.url(path).as_str())).unwrap()
}

async fn post(endpoint: &Endpoint, body: &'static str) -> Result<Response<Body>, Error> {
    endpoint.send(Method::POST, HeaderMap::new(), Bytes::from_static(body.as_bytes()), LONG).await
}

#[tokio::test]
async fn requests_share_a_connection_and_keep_their_url() {
    let peer = Peer::start(|_| ok("hello")).await;
    let endpoint = endpoint(&peer, "/a%2Fb/mcp?key=1");
    for _ in 0..3 {
        let mut headers = HeaderMap::new();
        headers.insert("mcp-session-id", HeaderValue::from_static("s1"));
        let response = endpoint.send(Method::POST, headers, Bytes::from_static(b"{}"), LONG).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().collect_within(5, LONG).await.unwrap(), b"hello");
    }
    assert_eq!(peer.seen.connections(), 1);
    for request in peer.seen.requests() {
        assert!(request.starts_with("POST /a%2Fb/mcp?key=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {}\r\n", peer.address)), "{request}");
        assert!(request.contains("mcp-session-id: s1\r\n") && request.ends_with("\r\n\r\n{}"), "{request}");
    }
    assert!(!format!("{endpoint:?}").contains("key=1"), "a query may hold a key: {endpoint:?}");
}

#[tokio::test]
async fn plain_text_stays_on_the_machine() {
    let egress = Egress::new(Config::default());
    for url in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/", "https://example.com/"] {
        assert!(egress.endpoint(&named(url)).is_ok(), "{url}");
    }
    for url in [
        "http://10.0.0.1/",
        "http://example.com/",
        "http://localhost.example.com/",
        "http://[::ffff:7f00:1]/",
    ] {
        let error = egress.endpoint(&named(url)).unwrap_err();
        assert!(matches!(error, Error::Plaintext), "{url}: {error}");
        assert!(error.to_string().contains("dangerous_plaintext"), "{error}");
        assert!(egress.endpoint(&Named { dangerous_plaintext: true, ..named(url) }).is_ok(), "{url}");
    }
    for url in [
        "https://user@example.com/",
        "https://:pw@example.com/",
        "https://example.com/#a",
        "ftp://example.com/",
    ] {
        assert!(matches!(egress.endpoint(&named(url)), Err(Error::Url(_))), "{url}");
    }
}

#[tokio::test]
async fn only_a_name_of_loopback_reaches_loopback() {
    let peer = Peer::start(|_| ok("")).await;
    let egress = Egress::with_resolver(Config::default(), Arc::new(Always("127.0.0.1")));
    let at = |host: &str| Named {
        dangerous_plaintext: true,
        ..named(&format!("http://{host}:{}/", peer.address.port()))
    };
    let error = post(&egress.endpoint(&at("server.example")).unwrap(), "{}").await.unwrap_err();
    assert!(matches!(error, Error::ForbiddenAddress) && error.sent_nothing(), "{error}");
    assert_eq!(peer.seen.connections(), 0);
    assert!(post(&egress.endpoint(&at("localhost")).unwrap(), "{}").await.is_ok());
    assert!(post(&egress.endpoint(&at("127.0.0.1")).unwrap(), "{}").await.is_ok());
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Peer::start(|_| ok("")).await;
    let location = other.url("/elsewhere").to_string();
    let peer = Peer::start(move |_| redirect(&location)).await;
    let error = post(&endpoint(&peer, "/"), "{}").await.unwrap_err();
    assert!(matches!(error, Error::Redirected) && !error.sent_nothing(), "{error}");
    assert_eq!(other.seen.connections(), 0);
}

#[tokio::test]
async fn a_slow_head_is_given_up() {
    let mut peer = Peer::start(|_| Answer::Stall("HTTP/1.1 200".into())).await;
    let sent =
        endpoint(&peer, "/").send(Method::POST, HeaderMap::new(), Bytes::from_static(b"{}"), SHORT).await;
    let error = sent.unwrap_err();
    assert!(matches!(error, Error::Timeout) && !error.sent_nothing(), "{error}");
    peer.wait_closed().await;
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoint = Egress::new(Config::default()).endpoint(&named(&format!("http://{gone}/"))).unwrap();
    let error = post(&endpoint, "{}").await.unwrap_err();
    assert!(matches!(error, Error::Connect(std::io::ErrorKind::ConnectionRefused)), "{error}");
    assert!(error.sent_nothing());
}

#[tokio::test]
async fn a_request_that_was_read_is_never_repeated() {
    // On a new connection, and on one that answered before: hyper may repeat on the latter only what it has not sent.
    for answered_first in [0, 1, 3] {
        let peer = Peer::start(|r| if r.ends_with("buy") { Answer::Close } else { ok("") }).await;
        let endpoint = endpoint(&peer, "/");
        for _ in 0..answered_first {
            post(&endpoint, "look").await.unwrap().into_body().collect_within(0, LONG).await.unwrap();
        }
        let error = post(&endpoint, "buy").await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)) && !error.sent_nothing(), "{error}");
        let bought = peer.seen.requests().iter().filter(|r| r.ends_with("buy")).count();
        assert_eq!((bought, peer.seen.connections()), (1, 1), "after {answered_first} answers");
    }
}

#[tokio::test]
async fn a_dropped_body_closes_the_connection() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut peer = Peer::start(move |_| Answer::Stall(format!("{head}9\r\ndata: 1\n\n\r\n"))).await;
    let mut body = post(&endpoint(&peer, "/"), "{}").await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    drop(body);
    peer.wait_closed().await;
}

#[tokio::test]
async fn bodies_are_bounded() {
    let announced =
        Peer::start(|_| Answer::Stall("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nsecret".into())).await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nsecret\r\n6\r\nbanner\r\n";
    let unannounced = Peer::start(move |_| Answer::Stall(chunked.into())).await;
    for peer in [&announced, &unannounced] {
        let body = post(&endpoint(peer, "/"), "{}").await.unwrap().into_body();
        let error = body.collect_within(10, LONG).await.unwrap_err();
        assert!(matches!(error, Error::TooLong) && !error.sent_nothing(), "{error}");
        assert!(!error.to_string().contains("secret"));
        let body = post(&endpoint(peer, "/"), "{}").await.unwrap().into_body();
        let error = body.collect_within(1000, SHORT).await.unwrap_err();
        assert!(matches!(error, Error::Timeout) && !error.sent_nothing(), "{error}");
    }
}
