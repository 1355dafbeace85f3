//! Connections that are not HTTP.

use std::sync::Arc;

use bartizan_egress::{Config, Egress, Error, TlsOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::tls::Authority;

async fn exchange(egress: &Egress, host: &str, port: u16, tls: Option<&TlsOptions>) -> Result<String, Error> {
    let mut connection = egress.connection(host, port, tls).await?;
    connection.write_all(b"ask").await.unwrap();
    let mut answer = [0; 3];
    connection.read_exact(&mut answer).await.unwrap();
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

#[tokio::test]
async fn plain_connections_stay_on_this_machine() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tcp.write_all(b"yes").await.unwrap();
        }
    });
    let egress = Egress::new(Config::default());
    assert_eq!(exchange(&egress, "127.0.0.1", port, None).await.unwrap(), "yes");
    assert_eq!(exchange(&egress, "localhost", port, None).await.unwrap(), "yes");
    for away in ["192.0.2.1", "redis.example", "169.254.169.254"] {
        let refused = exchange(&egress, away, port, None).await;
        assert!(matches!(refused, Err(Error::Plaintext)), "{away}: {refused:?}");
    }
    let metadata = egress.connection("169.254.169.254", port, Some(&TlsOptions::default())).await;
    assert!(matches!(metadata.err(), Some(Error::ForbiddenAddress)));
}

#[tokio::test]
async fn a_certificate_of_somebody_else_ends_the_connection() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(ours.server("localhost", None, b"other")));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                tls.write_all(b"yes").await.unwrap();
                let _ = tls.flush().await;
            }
        }
    });
    let egress = Egress::new(Config::default());
    let trusting = |authority: &Authority| TlsOptions { ca: Some(authority.ca()), ..TlsOptions::default() };
    assert_eq!(exchange(&egress, "localhost", port, Some(&trusting(&ours))).await.unwrap(), "yes");
    let refused = exchange(&egress, "localhost", port, Some(&trusting(&theirs))).await;
    assert!(matches!(refused, Err(Error::Tls(_))), "{refused:?}");
}
