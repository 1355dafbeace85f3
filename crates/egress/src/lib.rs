//! The only way out.
//!
//! Every connection is checked when it is made: the name is resolved once, each answer is judged, and only a judged
//! address is dialled, so a name cannot mean one thing to the check and another to the connection (spec.md G-20 to
//! G-27; attacks.md CD-03). [`Egress::endpoint`] is for servers the operator named, [`Egress::fetch`] for addresses
//! that came from a stranger, [`Egress::stream`] for receivers of bytes that speak no HTTP, [`Egress::connection`] for
//! services that do not speak HTTP.

mod address;
mod connect;
mod connection;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use url::Url;

pub use connect::{Resolver, Resolving, SystemResolver};
pub use connection::Connection;
pub use stream::StreamEndpoint;
pub use tls::TlsOptions;

use address::Zone;
use connect::{Connector, Dial, Purpose, Tcp, zone_of};
use tls::Platform;

#[expect(clippy::disallowed_types, reason = "this crate is the one door to the network")]
type Client = hyper_util::client::legacy::Client<Connector, Full<Bytes>>;

/// How to go out.
#[derive(Clone, Debug)]
pub struct Config {
    /// Networks that may be connected to whatever the rules say. For trials whose peers live on loopback.
    pub dangerous_allow: Vec<IpNet>,
    /// An HTTP proxy, `http://host:port`, through which everything goes by CONNECT but what is on loopback. It resolves
    /// names and is then the one that must refuse private addresses; literal ones are still refused here.
    pub proxy: Option<Url>,
    /// How long a connection may take, TLS included.
    pub connect_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { dangerous_allow: Vec::new(), proxy: None, connect_timeout: Duration::from_secs(10) }
    }
}

/// Why nothing came back. The text never repeats an answer; still, it says more about a network than a stranger should
/// learn, so tell whoever supplied the URL of a [`fetch`](Egress::fetch) only that it failed (spec.md G-26).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used.
    #[error("the URL cannot be used: {0}")]
    Url(&'static str),
    /// Plain HTTP to another machine.
    #[error(
        "plain http:// is only used to loopback; use https://, or set `dangerous_plaintext = true` for this server"
    )]
    Plaintext,
    /// A certificate, key or TLS setting cannot be used, or the handshake failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The name has no address.
    #[error("the name cannot be resolved ({0})")]
    Resolve(io::ErrorKind),
    /// The name stands for an address that may not be connected to.
    #[error("the address is one the gateway does not connect to")]
    ForbiddenAddress,
    /// Nobody accepts the connection.
    #[error("the connection failed ({0})")]
    Connect(io::ErrorKind),
    /// The connection took too long.
    #[error("the connection took too long")]
    ConnectTimeout,
    /// The egress proxy does not let us through.
    #[error("the egress proxy: {0}")]
    Proxy(String),
    /// The request may have been read before something broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// No answer in time; the request may have been read.
    #[error("no answer came in time")]
    Timeout,
    /// A redirect, which is never followed to an operator's server.
    #[error("the server redirects; set its final address")]
    Redirected,
    /// More redirects than allowed, or one that leads nowhere good.
    #[error("a redirect was refused")]
    Redirects,
    /// More bytes than allowed.
    #[error("the answer is too long")]
    TooLong,
}

impl Error {
    /// Whether the peer cannot have read anything, so that asking again repeats nothing.
    pub fn sent_nothing(&self) -> bool {
        !matches!(self, Self::Broken(_) | Self::Timeout | Self::Redirected | Self::Redirects | Self::TooLong)
    }
}

/// The door.
#[derive(Clone)]
pub struct Egress {
    config: Arc<Config>,
    resolver: Arc<dyn Resolver>,
    dialer: Arc<dyn Dial>,
    platform: Arc<Platform>,
}

/// A server the operator named.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is: `http` or `https` (for a stream `tcp` or `tls`), no user, no fragment.
    pub url: Url,
    /// Whom to trust and who we are.
    pub tls: TlsOptions,
    /// Plain HTTP to other machines.
    pub dangerous_plaintext: bool,
}

/// Which identity a platform is asked to vouch for, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct ManagedIdentity<'a> {
    /// The endpoint that the platform's environment names (`IDENTITY_ENDPOINT`); without one, the instance metadata service.
    pub named: Option<&'a Url>,
    /// Who the tokens are for.
    pub resource: &'a str,
    /// Which identity, for a machine that has several.
    pub client_id: Option<&'a str>,
}

impl Egress {
    /// A door with the system's resolver.
    pub fn new(config: Config) -> Self {
        Self::with_resolver(config, Arc::new(SystemResolver))
    }

    /// A door with another resolver.
    pub fn with_resolver(config: Config, resolver: Arc<dyn Resolver>) -> Self {
        Self { config: Arc::new(config), resolver, dialer: Arc::new(Tcp), platform: Arc::default() }
    }

    fn purpose(&self, zone: Zone, tls: Arc<rustls::ClientConfig>) -> Result<Arc<Purpose>, Error> {
        // Anything else would be left out silently, or spoken to in plain text on a TLS port.
        let is_plain_proxy = |p: &Url| {
            p.scheme() == "http" && p.has_host() && p.username().is_empty() && p.password().is_none()
        };
        if self.config.proxy.as_ref().is_some_and(|p| !is_plain_proxy(p)) {
            return Err(Error::Proxy("set it as `http://host:port`, without user or password".into()));
        }
        Ok(Arc::new(Purpose {
            zone,
            dangerous_allow: self.config.dangerous_allow.clone(),
            resolver: Arc::clone(&self.resolver),
            dialer: Arc::clone(&self.dialer),
            tls,
            proxy: self.config.proxy.clone(),
            timeout: self.config.connect_timeout,
        }))
    }

    fn client(&self, zone: Zone, tls: Arc<rustls::ClientConfig>) -> Result<Client, Error> {
        let connector = Connector(self.purpose(zone, tls)?);
        #[expect(clippy::disallowed_types, reason = "this crate is the one door to the network")]
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(256)
            // The peer may close an idle connection just as we reuse it. hyper then hands the request back if its
            // dispatcher had not taken it, so nothing was written and asking again repeats nothing; a request that was
            // taken fails instead, as `Error::Broken`.
            .retry_canceled_requests(true)
            // All requests share one HTTP/2 connection, so one that died silently would take them all.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(20))
            .build(connector);
        Ok(client)
    }

    /// A server the operator named: its address may be private, and loopback if the URL says so.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Plaintext`] or [`Error::Tls`] for a peer that cannot be used.
    pub fn endpoint(&self, peer: &Peer) -> Result<Endpoint, Error> {
        let url = &peer.url;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Url("it holds a user name or password"));
        }
        if url.fragment().is_some() || url.host_str().is_none_or(str::is_empty) {
            return Err(Error::Url("it needs a host and takes no fragment"));
        }
        let zone = zone_of(url);
        match url.scheme() {
            "https" => {}
            "http" if zone == Zone::Loopback || peer.dangerous_plaintext => {}
            "http" => return Err(Error::Plaintext),
            _ => return Err(Error::Url("it is neither http nor https")),
        }
        let uri: Uri = url.as_str().parse().map_err(|_| Error::Url("it is no URI"))?;
        let tls = tls::client(&peer.tls, &self.platform, url.scheme() == "https", &[tls::H2, tls::HTTP_1])?;
        Ok(Endpoint(Arc::new(Target { client: self.client(zone, tls)?, uri })))
    }

    /// Where the platform gives out tokens for the identity it manages for this machine: Azure's instance metadata service,
    /// or what its environment names. This is the one way to a link-local address, and no request has a say in it.
    ///
    /// # Errors
    /// [`Error::Url`] for a named address that is not plain http, on this machine or beside it.
    pub fn managed_identity(&self, identity: &ManagedIdentity<'_>) -> Result<Endpoint, Error> {
        let (place, version) = match identity.named {
            Some(url) => (url.as_str(), "2019-08-01"),
            None => ("http://169.254.169.254/metadata/identity/oauth2/token", "2018-02-01"),
        };
        let mut url = Url::parse(place).map_err(|_| Error::Url("it is no URL"))?;
        if url.scheme() != "http" || !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Url("a platform's identity endpoint is plain http, without user or password"));
        }
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("api-version", version).append_pair("resource", identity.resource);
            if let Some(client_id) = identity.client_id {
                query.append_pair("client_id", client_id);
            }
        }
        let uri: Uri = url.as_str().parse().map_err(|_| Error::Url("it is no URI"))?;
        let tls = tls::client(&TlsOptions::default(), &self.platform, false, &[tls::HTTP_1])?;
        Ok(Endpoint(Arc::new(Target { client: self.client(Zone::Platform, tls)?, uri })))
    }

    /// Fetches a document from an address that a stranger gave: https and public addresses only (http for addresses
    /// in `dangerous_allow`).
    ///
    /// # Errors
    /// [`Error`]; every redirect is judged like the first address.
    pub async fn fetch(&self, url: &Url, limits: FetchLimits) -> Result<Fetched, Error> {
        tokio::time::timeout(limits.timeout, self.fetch_untimed(url, limits))
            .await
            .map_err(|_| Error::Timeout)?
    }

    /// POSTs to an address that a stranger gave, judged as by [`Egress::fetch`]. No redirect is followed, whatever
    /// `limits` say: what is posted may be a secret.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Redirected`] for a redirect.
    pub async fn submit(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        limits: FetchLimits,
    ) -> Result<Fetched, Error> {
        let submitting = async {
            let endpoint = self.stranger(url)?;
            let response = endpoint.send(Method::POST, headers, body, limits.timeout).await?;
            let (head, body) = response.into_parts();
            let body = body.collect_within(limits.max_bytes, limits.timeout).await?;
            Ok(Fetched { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(limits.timeout, submitting).await.map_err(|_| Error::Timeout)?
    }

    /// An endpoint at an address that a stranger gave.
    fn stranger(&self, url: &Url) -> Result<Endpoint, Error> {
        self.judge_stranger(url)?;
        let tls =
            tls::client(&TlsOptions::default(), &self.platform, url.scheme() == "https", &[tls::HTTP_1])?;
        let client = self.client(Zone::Public, tls)?;
        let uri: Uri = url.as_str().parse().map_err(|_| Error::Url("it is no URI"))?;
        Ok(Endpoint(Arc::new(Target { client, uri })))
    }

    async fn fetch_untimed(&self, url: &Url, limits: FetchLimits) -> Result<Fetched, Error> {
        let mut url = url.clone();
        for _ in 0..=limits.max_redirects {
            let endpoint = self.stranger(&url)?;
            let response =
                endpoint.send_any(Method::GET, HeaderMap::new(), Bytes::new(), limits.timeout).await?;
            if response.status().is_redirection() {
                let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
                url = location.and_then(|l| url.join(l).ok()).ok_or(Error::Redirects)?;
                continue;
            }
            let (head, body) = response.into_parts();
            let body = body.collect_within(limits.max_bytes, limits.timeout).await?;
            return Ok(Fetched { status: head.status, headers: head.headers, body });
        }
        Err(Error::Redirects)
    }

    fn judge_stranger(&self, url: &Url) -> Result<(), Error> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Url("it holds a user name or password"));
        }
        let is_excepted = match url.host() {
            Some(url::Host::Ipv4(a)) => {
                self.config.dangerous_allow.iter().any(|n| n.contains(&std::net::IpAddr::V4(a)))
            }
            Some(url::Host::Ipv6(a)) => {
                self.config.dangerous_allow.iter().any(|n| n.contains(&std::net::IpAddr::V6(a)))
            }
            _ => false,
        };
        match url.scheme() {
            "https" => Ok(()),
            "http" if is_excepted => Ok(()),
            _ => Err(Error::Url("only https is fetched")),
        }
    }
}

/// Bounds of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Bytes of the body.
    pub max_bytes: usize,
    /// For everything together.
    pub timeout: Duration,
    /// Redirects that are followed.
    pub max_redirects: usize,
}

/// A document.
#[derive(Debug)]
pub struct Fetched {
    /// The HTTP status.
    pub status: StatusCode,
    /// The header lines.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

/// A pool of connections to one server.
#[derive(Clone)]
pub struct Endpoint(Arc<Target>);

struct Target {
    client: Client,
    uri: Uri,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the query, where keys are sometimes kept.
        write!(f, "Endpoint({}{})", self.0.uri.authority().map_or("", |a| a.as_str()), self.0.uri.path())
    }
}

impl Endpoint {
    /// Sends one request to the endpoint's URL and waits at most `headers_within` for the head of the answer.
    ///
    /// # Errors
    /// [`Error`]; redirects are refused, not followed.
    pub async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        headers_within: Duration,
    ) -> Result<Response<Body>, Error> {
        let response = self.send_any(method, headers, body, headers_within).await?;
        // 304 sends nobody elsewhere (RFC 9110 §15.4.5).
        let redirects = response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
        if redirects { Err(Error::Redirected) } else { Ok(response) }
    }

    async fn send_any(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        headers_within: Duration,
    ) -> Result<Response<Body>, Error> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.0.uri.clone();
        *request.headers_mut() = headers;
        let sent = tokio::time::timeout(headers_within, self.0.client.request(request));
        match sent.await {
            Ok(Ok(response)) => Ok(response.map(Body)),
            Ok(Err(error)) => Err(cause(&error)),
            Err(_) => Err(Error::Timeout),
        }
    }
}

/// What a failed exchange means; our own connector's error lies inside hyper's.
fn cause(error: &hyper_util::client::legacy::Error) -> Error {
    let mut inner: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(ours) = inner.downcast_ref::<Error>() {
            return ours.again();
        }
        match inner.source() {
            Some(source) => inner = source,
            // The innermost is the one that says what happened.
            None if error.is_connect() => return Error::Connect(io::ErrorKind::Other),
            None => return Error::Broken(inner.to_string()),
        }
    }
}

impl Error {
    /// The same error once more, for hyper only lends it.
    fn again(&self) -> Self {
        match self {
            Self::Url(text) => Self::Url(text),
            Self::Plaintext => Self::Plaintext,
            Self::Tls(text) => Self::Tls(text.clone()),
            Self::Resolve(kind) => Self::Resolve(*kind),
            Self::ForbiddenAddress => Self::ForbiddenAddress,
            Self::Connect(kind) => Self::Connect(*kind),
            Self::ConnectTimeout => Self::ConnectTimeout,
            Self::Proxy(text) => Self::Proxy(text.clone()),
            Self::Broken(text) => Self::Broken(text.clone()),
            Self::Timeout => Self::Timeout,
            Self::Redirected => Self::Redirected,
            Self::Redirects => Self::Redirects,
            Self::TooLong => Self::TooLong,
        }
    }
}

/// The body of an answer. Dropping it before its end closes the connection, which tells an HTTP/1 peer to stop.
#[derive(Debug)]
pub struct Body(Incoming);

impl Body {
    /// The whole body.
    ///
    /// # Errors
    /// [`Error::TooLong`] over `limit` bytes, [`Error::Timeout`] after `within`.
    pub async fn collect_within(mut self, limit: usize, within: Duration) -> Result<Vec<u8>, Error> {
        let announced = http_body::Body::size_hint(&self.0).lower();
        if announced > limit as u64 {
            return Err(Error::TooLong);
        }
        // An announcement is believed only so far.
        let expected = usize::try_from(announced).unwrap_or(0).min(64 * 1024);
        let collecting = async {
            let mut whole = BytesMut::with_capacity(expected);
            while let Some(frame) = self.0.frame().await {
                let frame = frame.map_err(|e| Error::Broken(e.to_string()))?;
                if let Ok(data) = frame.into_data() {
                    if whole.len() + data.len() > limit {
                        return Err(Error::TooLong);
                    }
                    whole.extend_from_slice(&data);
                }
            }
            Ok(Vec::from(whole))
        };
        tokio::time::timeout(within, collecting).await.map_err(|_| Error::Timeout)?
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
