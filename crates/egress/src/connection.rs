//! Bare connections, for services of the operator's that do not speak HTTP.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use url::Url;

use crate::{
    Egress, Error, TlsOptions,
    address::Zone,
    connect::{Stream, zone_of},
    tls,
};

/// A connection to a service the operator named.
pub struct Connection(Inner);

enum Inner {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Egress {
    /// Connects to a service the operator named, by TLS if `tls` says how. Its address is judged as that of an
    /// [`endpoint`](Egress::endpoint): it may be private, and loopback if `host` says so.
    ///
    /// # Errors
    /// [`Error::Plaintext`] without TLS to another machine; otherwise [`Error`].
    pub async fn connection(
        &self,
        host: &str,
        port: u16,
        tls: Option<&TlsOptions>,
    ) -> Result<Connection, Error> {
        // As a URL of the web its host has the same reading as every other.
        let url =
            Url::parse(&format!("https://{host}:{port}")).map_err(|_| Error::Url("it names no host"))?;
        let zone = zone_of(&url);
        if tls.is_none() && zone != Zone::Loopback {
            return Err(Error::Plaintext);
        }
        let plain = TlsOptions::default();
        let mut config = (*tls::client(tls.unwrap_or(&plain), &self.platform, tls.is_some(), &[])?).clone();
        // What is spoken here is not HTTP.
        config.alpn_protocols.clear();
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = self.purpose(zone, Arc::new(config))?.open(host, port, tls.is_some()).await?;
        Ok(Connection(match stream {
            Stream::Plain(io) => Inner::Plain(TokioIo::into_inner(io)),
            Stream::Tls(io) => Inner::Tls(Box::new(TokioIo::into_inner(*io))),
        }))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Inner::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Inner::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Inner::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Inner::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Inner::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
