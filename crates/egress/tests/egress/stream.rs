//! Receivers of bytes.

use std::{sync::Arc, time::Duration};

use bartizan_egress::{Config, Egress, Error, Peer, StreamEndpoint, TlsOptions};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::{
    peer::{LONG, SHORT},
    tls::Authority,
};

fn named(url: &str) -> Peer {
    Peer { url: url.parse().unwrap(), tls: TlsOptions::default(), dangerous_plaintext: false }
}

fn stream(url: &str, tls: TlsOptions) -> Result<StreamEndpoint, Error> {
    Egress::new(Config::default()).stream(&Peer { tls, ..named(url) })
}

/// How a receiver ends.
#[derive(Clone, Copy)]
enum End {
    /// It closes when all is read.
    Orderly,
    /// It hangs up before it has read anything.
    Abrupt,
    /// It never closes.
    Never,
}

/// Reads whatever comes on each connection; gives its port and what it read.
async fn receiver(tls: Option<ServerConfig>, end: End) -> (u16, mpsc::UnboundedReceiver<Vec<u8>>) {
    async fn take(
        mut from: impl AsyncRead + AsyncWrite + Unpin,
        end: End,
        to: mpsc::UnboundedSender<Vec<u8>>,
    ) {
        let mut all = Vec::new();
        match end {
            End::Abrupt => return,
            _ => from.read_to_end(&mut all).await.unwrap(),
        };
        to.send(all).unwrap();
        match end {
            End::Never => tokio::time::sleep(Duration::from_secs(60)).await,
            _ => from.shutdown().await.unwrap(),
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
    let (to, read) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (to, acceptor) = (to.clone(), acceptor.clone());
            tokio::spawn(async move {
                match acceptor {
                    None => take(tcp, end, to).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(tcp).await {
                            take(stream, end, to).await;
                        }
                    }
                }
            });
        }
    });
    (port, read)
}

#[tokio::test]
async fn what_is_delivered_was_read() {
    let big = vec![b'x'; 3 << 20];
    let (port, mut read) = receiver(None, End::Orderly).await;
    let plain = stream(&format!("tcp://127.0.0.1:{port}"), TlsOptions::default()).unwrap();
    plain.deliver(&big, LONG).await.unwrap();
    assert_eq!(read.recv().await.unwrap(), big);

    let ours = Authority::new();
    let (port, mut read) = receiver(Some(ours.server("localhost", None, b"x")), End::Orderly).await;
    let sealed = stream(
        &format!("tls://localhost:{port}"),
        TlsOptions { ca: Some(ours.ca()), ..TlsOptions::default() },
    );
    sealed.unwrap().deliver(&big, LONG).await.unwrap();
    assert_eq!(read.recv().await.unwrap(), big);
}

#[tokio::test]
async fn a_receiver_that_does_not_close_in_good_order_is_not_believed() {
    let ours = Authority::new();
    let trusting = TlsOptions { ca: Some(ours.ca()), ..TlsOptions::default() };
    let (port, _read) = receiver(Some(ours.server("localhost", None, b"x")), End::Abrupt).await;
    let abrupt = stream(&format!("tls://localhost:{port}"), trusting.clone()).unwrap();
    let error = abrupt.deliver(b"lost", LONG).await.unwrap_err();
    assert!(matches!(error, Error::Broken(_)) && !error.sent_nothing(), "{error}");
    let (port, _read) = receiver(Some(ours.server("localhost", None, b"x")), End::Never).await;
    let silent = stream(&format!("tls://localhost:{port}"), trusting).unwrap();
    assert!(matches!(silent.deliver(b"?", SHORT).await, Err(Error::Timeout)));
}

#[tokio::test]
async fn both_sides_of_a_stream_prove_who_they_are() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let (port, mut read) =
        receiver(Some(servers.server("localhost", Some(&clients), b"x")), End::Orderly).await;
    let url = format!("tls://localhost:{port}");
    let (cert, key) = clients.sign("gateway.example");
    let tls =
        TlsOptions { client_cert: Some(cert), key: Some(key), ca: Some(servers.ca()), pins: Vec::new() };
    stream(&url, tls.clone()).unwrap().deliver(b"known", LONG).await.unwrap();
    assert_eq!(read.recv().await.unwrap(), b"known");

    let (cert, key) = servers.sign("stranger.example");
    let stranger = TlsOptions { client_cert: Some(cert), key: Some(key), ..tls.clone() };
    let nobody = TlsOptions { client_cert: None, key: None, ..tls.clone() };
    for refused in [stranger, nobody] {
        let error = stream(&url, refused).unwrap().deliver(b"unknown", LONG).await.unwrap_err();
        assert!(matches!(error, Error::Broken(_) | Error::Tls(_)), "{error}");
    }
    let mistaken = TlsOptions { ca: Some(clients.ca()), ..tls };
    let error = stream(&url, mistaken).unwrap().deliver(b"secret", LONG).await.unwrap_err();
    assert!(matches!(error, Error::Tls(_)) && error.sent_nothing(), "{error}");
    assert!(read.try_recv().is_err(), "only what came from somebody known was read");
}

#[tokio::test]
async fn a_stream_goes_where_it_may_and_in_the_clear_to_loopback_alone() {
    let egress = Egress::new(Config::default());
    for url in
        ["tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1", "tls://siem.example", "tls://10.0.0.1:1"]
    {
        assert!(egress.stream(&named(url)).is_ok(), "{url}");
    }
    for url in ["tcp://10.0.0.1:1", "tcp://siem.example:1", "tcp://localhost.example.com:1"] {
        assert!(matches!(egress.stream(&named(url)), Err(Error::Plaintext)), "{url}");
    }
    for url in [
        "tcp://127.0.0.1",
        "tls://a@siem.example",
        "tls://siem.example/x",
        "tls://siem.example?x",
        "https://a/",
    ] {
        assert!(matches!(egress.stream(&named(url)), Err(Error::Url(_))), "{url}");
    }
    for url in ["tls://169.254.169.254:1", "tls://[fd00:ec2::254]:1", "tls://2852039166:1", "tls://0.0.0.0:1"]
    {
        let error = egress.stream(&named(url)).unwrap().deliver(b"x", LONG).await.unwrap_err();
        assert!(matches!(error, Error::ForbiddenAddress) && error.sent_nothing(), "{url}: {error}");
    }
}
