//! Connecting: resolve once, check every address, connect to a checked one.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

use crate::{
    Error,
    address::{Zone, is_allowed},
};

/// What comes of a look-up that is under way.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Turns names into addresses.
pub trait Resolver: Send + Sync {
    /// Every address of `host`.
    fn resolve(&self, host: &str) -> Resolving;
}

/// The operating system's resolver.
#[derive(Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: &str) -> Resolving {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|a| a.ip()).collect()) })
    }
}

/// Opens a TCP connection to an address that was checked; tests put their own in its place to see which were.
pub(crate) trait Dial: Send + Sync {
    fn dial(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;
}

/// The network.
pub(crate) struct Tcp;

impl Dial for Tcp {
    fn dial(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> {
        #[expect(clippy::disallowed_methods, reason = "the one place that connects, after the check")]
        Box::pin(TcpStream::connect(address))
    }
}

/// Opens connections for one purpose. hyper clones it for every request, so it is one pointer.
#[derive(Clone)]
pub(crate) struct Connector(pub Arc<Purpose>);

/// What the connections of a [`Connector`] have in common.
pub(crate) struct Purpose {
    pub zone: Zone,
    pub dangerous_allow: Vec<IpNet>,
    pub resolver: Arc<dyn Resolver>,
    pub dialer: Arc<dyn Dial>,
    pub tls: Arc<rustls::ClientConfig>,
    pub proxy: Option<Url>,
    pub timeout: Duration,
}

impl Purpose {
    pub async fn connect(self: Arc<Self>, uri: Uri) -> Result<Stream, Error> {
        let host = uri.host().ok_or(Error::Url("it names no host"))?.trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        self.open(host, port, is_tls).await
    }

    /// Connects to `host`, an IPv6 address without its brackets.
    pub(crate) async fn open(&self, host: String, port: u16, is_tls: bool) -> Result<Stream, Error> {
        let connecting = async {
            let tcp = match &self.proxy {
                // Loopback and the platform are ours; to the proxy their names would mean its own.
                Some(proxy) if !matches!(self.zone, Zone::Loopback | Zone::Platform) => {
                    self.tunnel(proxy, &host, port).await?
                }
                _ => self.dial(&host, port, self.zone).await?,
            };
            if !is_tls {
                return Ok(Stream::Plain(TokioIo::new(tcp)));
            }
            let name =
                ServerName::try_from(host).map_err(|_| Error::Url("its host is no name TLS can check"))?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
            let tls = connector.connect(name, tcp).await.map_err(|e| Error::Tls(e.to_string()))?;
            Ok(Stream::Tls(Box::new(TokioIo::new(tls))))
        };
        tokio::time::timeout(self.timeout, connecting).await.map_err(|_| Error::ConnectTimeout)?
    }

    /// Resolves, checks every candidate and connects to one of the checked: no second look-up that could differ.
    async fn dial(&self, host: &str, port: u16, zone: Zone) -> Result<TcpStream, Error> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(host).await.map_err(|e| Error::Resolve(e.kind()))?,
        };
        // One bad answer spoils the name: an honest one has no reason to mix.
        if addresses.iter().any(|a| !is_allowed(*a, zone, &self.dangerous_allow)) {
            return Err(Error::ForbiddenAddress);
        }
        // Each gets a share of the time, so that a silent one (IPv6 without a route, say) does not spend it all.
        let share = self.timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut last = Error::Resolve(io::ErrorKind::NotFound);
        for address in addresses {
            match tokio::time::timeout(share, self.dialer.dial(SocketAddr::new(address, port))).await {
                Ok(Ok(tcp)) => {
                    // Small messages wait for nothing.
                    let _ = tcp.set_nodelay(true);
                    return Ok(tcp);
                }
                Ok(Err(error)) => last = Error::Connect(error.kind()),
                Err(_) => last = Error::ConnectTimeout,
            }
        }
        Err(last)
    }

    /// A tunnel through the egress proxy (RFC 9110 §9.3.6), which resolves names itself and must judge what they stand
    /// for; literal addresses and names of loopback are judged here all the same.
    async fn tunnel(&self, proxy: &Url, host: &str, port: u16) -> Result<TcpStream, Error> {
        let is_refused = match host.parse::<IpAddr>() {
            Ok(address) => !is_allowed(address, self.zone, &self.dangerous_allow),
            Err(_) => is_localhost(host),
        };
        if is_refused {
            return Err(Error::ForbiddenAddress);
        }
        let proxy_host = proxy.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let proxy_port = proxy.port_or_known_default().unwrap_or(80);
        let unreached = |e: Error| Error::Proxy(format!("it cannot be reached: {e}"));
        let mut tcp = self.dial(proxy_host, proxy_port, zone_of(proxy)).await.map_err(unreached)?;
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let ask = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let broken = |e: io::Error| Error::Proxy(e.to_string());
        tcp.write_all(ask.as_bytes()).await.map_err(broken)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 8 * 1024 {
                return Err(Error::Proxy("its answer is too long".into()));
            }
            head.push(tcp.read_u8().await.map_err(broken)?);
        }
        let status = head.split(|b| *b == b' ').nth(1).and_then(|s| http::StatusCode::from_bytes(s).ok());
        match status {
            Some(status) if status.is_success() => Ok(tcp),
            Some(status) => Err(Error::Proxy(format!("it answered {} to CONNECT", status.as_u16()))),
            None => Err(Error::Proxy("its answer is no HTTP".into())),
        }
    }
}

/// The zone of an address the operator wrote down.
pub(crate) fn zone_of(url: &Url) -> Zone {
    let is_loopback = match url.host() {
        Some(url::Host::Ipv4(v4)) => v4.is_loopback(),
        Some(url::Host::Ipv6(v6)) => v6.is_loopback(),
        Some(url::Host::Domain(name)) => is_localhost(name),
        None => false,
    };
    if is_loopback { Zone::Loopback } else { Zone::Operator }
}

/// A name of loopback (RFC 6761 §6.3).
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(Arc::clone(&self.0).connect(uri))
    }
}

/// A connection to a peer.
pub(crate) enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(_) => Connected::new(),
            Self::Tls(tls) if tls.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Self::Tls(_) => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bytes),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bytes),
        }
    }
}
