//! The way to an issuer, over real sockets (attacks.md AA-20, TP-05; spec.md G-20, G-23).

use std::sync::{Arc, Mutex};

use bartizan_egress::{Config, Egress, Error, TlsOptions};
use bartizan_model::Secret;
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use url::Url;

use crate::{EgressFetch, Fetch, NamedBy, Sent};

/// Answers every request with `answer` and keeps what it read.
async fn peer(answer: String) -> (Url, Arc<Mutex<String>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
    let heard: Arc<Mutex<String>> = Arc::default();
    let ears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut buffer = vec![0; 8 * 1024];
            let read = tcp.read(&mut buffer).await.unwrap();
            ears.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            // A peer that was hung up on has nothing more to say.
            let _ = tcp.write_all(answer.as_bytes()).await;
        }
    });
    (url, heard)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn fetch() -> EgressFetch {
    EgressFetch::new(Egress::new(Config::default()), TlsOptions::default())
}

#[tokio::test]
async fn a_document_of_the_operators_comes_whole() {
    let (url, heard) = peer(ok("{}")).await;
    let document = fetch().get(&url, NamedBy::Operator).await.unwrap();
    assert_eq!((document.status, document.body.as_slice()), (200, b"{}".as_slice()));
    assert!(heard.lock().unwrap().to_ascii_lowercase().contains("accept: application/json"));
}

#[tokio::test]
async fn a_form_goes_out_with_its_credential() {
    let (url, heard) = peer(ok("{}")).await;
    let (authorization, form) = (Secret::new("Basic eA==".into()), Secret::new("token=t".into()));
    assert_eq!(fetch().post(&url, Some(&authorization), form).await.unwrap().status, 200);
    let heard = heard.lock().unwrap().clone();
    assert!(
        heard.starts_with("POST /keys ")
            && heard.contains("Basic eA==")
            && heard.ends_with("\r\n\r\ntoken=t"),
        "{heard}"
    );
    assert!(heard.contains("application/x-www-form-urlencoded"));
}

#[tokio::test]
async fn redirects_and_floods_are_errors() {
    let (canary, heard) = peer(ok("{}")).await;
    for status in [301, 302, 303, 307, 308] {
        let redirect = format!(
            "HTTP/1.1 {status} X\r\nLocation: {canary}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let (url, _) = peer(redirect).await;
        assert!(matches!(fetch().get(&url, NamedBy::Operator).await, Err(Error::Redirected)), "{status}");
        let authorization = Secret::new("Basic x".into());
        let posted = fetch().post(&url, Some(&authorization), Secret::new("token=t".into())).await;
        assert!(matches!(posted, Err(Error::Redirected)));
    }
    assert_eq!(*heard.lock().unwrap(), "", "nobody followed");
    let (url, _) = peer(ok(&"x".repeat(5 * 1024 * 1024))).await;
    assert!(matches!(fetch().get(&url, NamedBy::Operator).await, Err(Error::TooLong)));
}

#[tokio::test]
async fn a_probe_shows_nothing_and_brings_back_the_challenge_alone() {
    let refusal = "HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer scope=\"a\"\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\
                   Connection: close\r\n\r\n";
    let (url, heard) = peer(refusal.to_owned()).await;
    let lines = fetch().probe(&url).await.unwrap();
    assert_eq!((lines.len(), lines["www-authenticate"].to_str().unwrap()), (1, "Bearer scope=\"a\""));
    let heard = heard.lock().unwrap().to_lowercase();
    assert!(heard.starts_with("post ") && heard.contains("server/discover"), "{heard}");
    assert!(!heard.contains("authorization") && !heard.contains("cookie"), "{heard}");
    let (url, _) = peer(ok("{}")).await;
    assert!(fetch().probe(&url).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_address_that_only_an_issuer_named_must_be_public_and_https() {
    let (url, heard) = peer(ok("{}")).await;
    assert!(fetch().get(&url, NamedBy::Issuer).await.is_err());
    for private in
        ["https://127.0.0.1:1/", "https://10.0.0.1:1/", "https://169.254.169.254/", "https://localhost:1/"]
    {
        let refused = fetch().get(&private.parse().unwrap(), NamedBy::Issuer).await;
        assert!(matches!(refused, Err(Error::ForbiddenAddress)), "{private}");
        let sent = Sent { headers: HeaderMap::new(), body: Secret::new("code=c".into()) };
        let refused = fetch().send(&private.parse().unwrap(), NamedBy::Issuer, sent).await;
        assert!(matches!(refused, Err(Error::ForbiddenAddress)), "{private}");
    }
    let sent = Sent { headers: HeaderMap::new(), body: Secret::new("code=c".into()) };
    assert!(fetch().send(&url, NamedBy::Issuer, sent).await.is_err());
    assert_eq!(*heard.lock().unwrap(), "");
}
