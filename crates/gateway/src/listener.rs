//! Who may come in, and how fast.

mod serving;
mod streams;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bartizan_mcp::{Refusal, code, headers};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header, uri::Authority};
use ipnet::IpNet;
use tokio::sync::watch;

pub use serving::{Listening, serve};

use crate::{
    Target,
    authenticator::{Authenticator, Shown},
    body::Body,
    limits::{HEAD_BYTES, HTTP2_IDLE, WRITE_WAIT},
    pages::{Pages, Visit},
    respond::{self, Answer},
};

/// What the listener goes by; all of it can change while it runs.
pub struct Door {
    /// Who is let in.
    pub authenticator: ArcSwap<Authenticator>,
    /// Under which names.
    pub names: ArcSwap<Names>,
    /// Who answers beside the MCP endpoints.
    pub pages: ArcSwap<Vec<Arc<dyn Pages>>>,
    /// The proxies that say truly who is behind them. A connection of one that is declared no more is cut.
    pub proxies: watch::Sender<Proxies>,
    /// How patient it is with connections that begin.
    pub waits: ArcSwap<Waits>,
}

/// How long a client may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// While an answer waits for it, of which it takes no byte; of HTTP/2 that of one stream.
    pub write: Duration,
    /// While nothing is under way on its HTTP/2 connection.
    pub idle: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { write: WRITE_WAIT, idle: HTTP2_IDLE }
    }
}

/// Proxies in front of us that are believed about who is behind them: by which address, and over TLS.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Their networks.
    pub networks: Vec<IpNet>,
    /// Whether they are believed about client certificates, too: only proxies that take `Client-Cert` out of what they
    /// forward, or write it themselves, may be (RFC 9440 §4).
    pub show_certificates: bool,
}

impl Proxies {
    /// Whether `address`, in its canonical form, is one of theirs.
    fn include(&self, address: &IpAddr) -> bool {
        self.networks.iter().any(|net| net.contains(address))
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Whether what it sends comes over TLS.
    pub is_tls: bool,
    /// The certificate it has proven to hold (DER).
    pub certificate: Option<Arc<[u8]>>,
}

impl Peer {
    /// Who sent a request: the peer, or whom it forwards for, if it is one of `proxies`. From anybody else, forwarding
    /// headers are words (attacks.md AA-28).
    ///
    /// # Errors
    /// What is said where a proxy does not say by an address whom it forwards for: the proxy's own is not theirs, and may be allowed
    /// more.
    fn sender(&self, proxies: &Proxies, headers: &HeaderMap) -> Result<Self, &'static str> {
        let is_proxy = |address: &IpAddr| proxies.include(address);
        if !is_proxy(&self.address) {
            return Ok(self.clone());
        }
        // Each proxy appends whom it heard from; what stands before the last one that is no proxy anybody may have written.
        let mut address = self.address;
        let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        // Each by itself: what a client wrote must not spoil what a proxy appended to it.
        let named = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for name in named {
            if !is_proxy(&address) {
                break;
            }
            address = address_in(name).ok_or(UNREADABLE)?.to_canonical();
        }
        // A certificate of the proxy itself says nothing of whom it forwards for.
        let certificate = forwarded_certificate(headers).filter(|_| proxies.show_certificates);
        Ok(Self { address, is_tls: true, certificate })
    }
}

/// See [`Peer::sender`].
const UNREADABLE: &str = "what a trusted proxy appended to `X-Forwarded-For` is no address; have it write the client's, \
                          see `[server] trusted_proxies`";

/// An address as a proxy writes it: some add the port, which Azure Application Gateway always does.
fn address_in(name: &[u8]) -> Option<IpAddr> {
    let name = std::str::from_utf8(name).ok()?.trim();
    let with_port = || name.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    name.trim_matches(['[', ']']).parse().ok().or_else(with_port)
}

/// `Client-Cert` (RFC 9440 §2.2), a byte sequence of structured fields, once.
fn forwarded_certificate(headers: &HeaderMap) -> Option<Arc<[u8]>> {
    let mut lines = headers.get_all("client-cert").iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let text = line.to_str().ok()?.strip_prefix(':')?.strip_suffix(':')?;
    STANDARD.decode(text).ok().map(Arc::from)
}

/// The names this gate goes by.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// `host` or `host:port`, lower case: what `Host` may say (attacks.md PH-01, AA-02).
    pub hosts: Vec<String>,
    /// Origins of pages that may call and read the answers (attacks.md PH-08, PH-10).
    pub origins: Vec<String>,
}

impl Names {
    /// The names of a listener at `address`, with what the operator adds.
    pub fn new(
        address: SocketAddr,
        public_url: Option<&url::Url>,
        hosts: &[String],
        origins: &[String],
    ) -> Self {
        let mut names =
            Self { hosts: Vec::new(), origins: origins.iter().map(|o| o.to_ascii_lowercase()).collect() };
        if address.ip().is_loopback() {
            for host in ["localhost", "127.0.0.1", "[::1]"] {
                names.add_host(&format!("{host}:{}", address.port()), address.port() == 80);
            }
        } else if !address.ip().is_unspecified() {
            names.add_host(&address.to_string(), matches!(address.port(), 80 | 443));
        }
        if let Some(url) = public_url
            && let Some(host) = url.host_str()
        {
            let port = url.port_or_known_default().unwrap_or(443);
            names.add_host(&format!("{host}:{port}"), url.port().is_none());
        }
        hosts.iter().for_each(|h| names.hosts.push(h.to_ascii_lowercase()));
        names
    }

    fn add_host(&mut self, with_port: &str, may_drop_port: bool) {
        let with_port = with_port.to_ascii_lowercase();
        if may_drop_port && let Some((host, _)) = with_port.rsplit_once(':') {
            self.hosts.push(host.to_owned());
        }
        self.hosts.push(with_port);
    }

    fn knows_host(&self, authority: &str) -> bool {
        self.hosts.iter().any(|h| h.eq_ignore_ascii_case(authority))
    }

    /// Whether a page of `origin` may call: one of ours, or one the operator named.
    fn knows_origin(&self, origin: &str, is_tls: bool) -> bool {
        let own = |host: &String| {
            origin
                .strip_prefix(if is_tls { "https://" } else { "http://" })
                .is_some_and(|o| o.eq_ignore_ascii_case(host))
        };
        self.names_origin(origin) || self.hosts.iter().any(own)
    }

    fn names_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|o| o.eq_ignore_ascii_case(origin))
    }
}

/// A request that was let in.
pub enum Admitted {
    /// To an MCP endpoint.
    Received(Box<Received>),
    /// To something else.
    Visit(Box<Visit>),
}

/// A request to an MCP endpoint.
pub struct Received {
    /// POST, GET or DELETE.
    pub method: Method,
    /// The endpoint, parsed once for router and everybody after it (attacks.md AA-02, AA-09).
    pub target: Target,
    /// The header lines.
    pub headers: HeaderMap,
    /// Who sent it, as far as the connection tells.
    pub sender: Peer,
    /// Whether the client takes event streams.
    pub accepts_events: bool,
    /// The foreign origin to which the answer is readable.
    pub cors_origin: Option<HeaderValue>,
    body: Option<Body>,
}

impl Received {
    /// What it shows of who sent it.
    pub fn shown(&self) -> Shown<'_> {
        Shown {
            target: &self.target,
            method: &self.method,
            headers: &self.headers,
            certificate: self.sender.certificate.as_deref(),
        }
    }

    /// The body, once, of at most `limit` bytes.
    ///
    /// # Errors
    /// See [`Body::read`].
    pub async fn body(&mut self, limit: usize) -> Result<Vec<u8>, Refusal> {
        match self.body.take() {
            Some(body) => body.read(limit).await,
            None => Ok(Vec::new()),
        }
    }
}

/// Judges a request by everything but its body and its bearer.
///
/// # Errors
/// The answer to a request that goes no further.
#[expect(clippy::result_large_err, reason = "made once for a request that goes no further")]
pub fn admit(door: &Door, request: Request<Body>, peer: &Peer) -> Result<Admitted, Response<Answer>> {
    let (head, body) = request.into_parts();
    let refuse =
        |status, text: &str| Err(respond::refused(&Refusal::new(status, code::FORBIDDEN, text), None));
    // Whatever stands in for a load balancer's probe has no name to check.
    if let (&Method::GET | &Method::HEAD, "/healthz" | "/readyz") = (&head.method, head.uri.path()) {
        return Err(respond::plain(200, "ok\n"));
    }
    if !is_plain(&head.headers) {
        return refuse(400, "`Transfer-Encoding` may be `chunked`, once, and nothing else");
    }
    // The reader's own bound is on what it buffers, which may be a little more.
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > HEAD_BYTES {
        return Err(respond::refused(&Refusal::new(431, code::LIMIT, "the header lines are too long"), None));
    }
    let names = door.names.load();
    if let Err(text) = check_host(&names, &head.headers, head.uri.authority()) {
        return refuse(421, text);
    }
    let sender = match peer.sender(&door.proxies.borrow(), &head.headers) {
        Ok(sender) => sender,
        Err(text) => return refuse(400, text),
    };
    let Some(target) = target_of(head.uri.path()) else {
        return Ok(Admitted::Visit(Box::new(Visit { head, sender, body })));
    };
    let cors_origin = match check_origin(&names, &head.headers, sender.is_tls) {
        Ok(origin) => origin,
        Err(text) => return refuse(403, text),
    };
    if head.method == Method::OPTIONS && cors_origin.is_some() {
        return Err(preflight(&head.headers, cors_origin.as_ref()));
    }
    if !matches!(head.method, Method::POST | Method::GET | Method::DELETE) {
        let mut answer = respond::plain(405, "method not allowed\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
        return Err(answer);
    }
    let accepts = |wanted: &str| accepts(&head.headers, wanted);
    let accepts_events = accepts("text/event-stream");
    match head.method {
        Method::POST => {
            if !headers::is_json(&head.headers) {
                return refuse(415, "`Content-Type` must be application/json, in UTF-8");
            }
            if head.headers.contains_key(header::CONTENT_ENCODING) {
                return refuse(415, "compressed bodies are not taken; send it plain");
            }
            if !accepts_events && !accepts("application/json") {
                return refuse(406, "`Accept` must list application/json and text/event-stream");
            }
        }
        Method::GET if !accepts_events => return refuse(406, "`Accept` must list text/event-stream"),
        _ => {}
    }
    Ok(Admitted::Received(Box::new(Received {
        method: head.method,
        target,
        headers: head.headers,
        sender,
        accepts_events,
        cors_origin,
        body: Some(body),
    })))
}

/// Whether the body comes as it is, or in chunks and no coding besides: what hyper takes out of those is no body yet to whoever in
/// front of us knows the other coding (RFC 9112 §6.1; attacks.md PH-06).
fn is_plain(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

fn check_host(names: &Names, headers: &HeaderMap, target: Option<&Authority>) -> Result<(), &'static str> {
    let mut lines = headers.get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err("`Host` is sent more than once");
    }
    let host = line.map(|l| l.to_str().unwrap_or_default());
    // HTTP/2, and HTTP/1 in absolute form, name the host twice; both must say the same (RFC 9113 §8.3.1).
    let host = match (host, target.map(Authority::as_str)) {
        (Some(host), Some(target)) if !host.eq_ignore_ascii_case(target) => {
            return Err("`Host` differs from the request target");
        }
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err("`Host` is missing"),
    };
    if names.knows_host(host) {
        Ok(())
    } else {
        Err("this gate does not go by that `Host`; see `[server] allowed_hosts`")
    }
}

fn check_origin(
    names: &Names,
    headers: &HeaderMap,
    is_tls: bool,
) -> Result<Option<HeaderValue>, &'static str> {
    let mut lines = headers.get_all(header::ORIGIN).iter();
    match (lines.next(), lines.next()) {
        (None, _) => match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
            None | Some(b"none" | b"same-origin") => Ok(None),
            Some(_) => Err("a page of another site may not call this gate"),
        },
        (Some(_), Some(_)) => Err("`Origin` is sent more than once"),
        (Some(line), None) => {
            let origin = line.to_str().unwrap_or_default();
            if names.knows_origin(origin, is_tls) {
                Ok(names.names_origin(origin).then(|| line.clone()))
            } else {
                Err("pages of this `Origin` may not call; see `[server] allowed_origins`")
            }
        }
    }
}

/// The endpoint that a path names, compared as it was sent: nothing is decoded, so nothing can be read in two ways.
fn target_of(path: &str) -> Option<Target> {
    match path.strip_prefix("/mcp")? {
        "" => Some(Target::Merged),
        rest => rest.strip_prefix('/')?.parse().ok().map(Target::Server),
    }
}

fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let mut lines = headers.get_all(header::ACCEPT).iter().peekable();
    if lines.peek().is_none() {
        // RFC 9110 §12.5.1: no preference.
        return true;
    }
    let main = wanted.split('/').next().unwrap_or_default();
    lines.filter_map(|l| l.to_str().ok()).flat_map(|l| l.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default();
        let is_named = range.eq_ignore_ascii_case(wanted) || range == "*/*" || range == format!("{main}/*");
        is_named && !parts.any(|p| matches!(p, "q=0" | "q=0.0"))
    })
}

/// What pages may send: each tool has its own `Mcp-Param-*` lines, which cannot be listed beforehand.
const ALLOWED_LINES: &str = "Authorization, DPoP, Content-Type, Accept, MCP-Protocol-Version, Mcp-Session-Id, Mcp-Method, Mcp-Name, Last-Event-ID";

fn preflight(asked: &HeaderMap, origin: Option<&HeaderValue>) -> Response<Answer> {
    let mut answer = respond::empty(204);
    let lines = asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|l| l.to_str().ok());
    let names =
        lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
    let mirrors = names.filter(|name| name.as_str().starts_with(headers::PARAM_PREFIX));
    let allowed = mirrors.fold(ALLOWED_LINES.to_owned(), |all, name| format!("{all}, {name}"));
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE"));
    let allowed = HeaderValue::from_str(&allowed).unwrap_or_else(|_| HeaderValue::from_static(ALLOWED_LINES));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    respond::with_cors(answer, origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_proxies_are_asked_where_a_request_came_from() {
        let peer = |address: &str, proxies: &[&str]| {
            let peer = Peer { address: address.parse().unwrap(), is_tls: false, certificate: None };
            let networks = proxies.iter().map(|p| p.parse().unwrap()).collect();
            (peer, Proxies { networks, show_certificates: false })
        };
        let read = |(peer, proxies): &(Peer, Proxies), lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
            }
            peer.sender(proxies, &headers).map(|sender| sender.address.to_string())
        };
        let from = |who: &(Peer, Proxies), lines: &[&str]| {
            read(who, &lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>()).unwrap()
        };
        let direct = peer("192.0.2.1", &[]);
        assert_eq!(from(&direct, &["198.51.100.9"]), "192.0.2.1", "anybody may write the header");
        let behind = peer("10.0.0.1", &["10.0.0.0/8"]);
        assert_eq!(from(&behind, &["198.51.100.9"]), "198.51.100.9");
        assert_eq!(
            from(&behind, &["203.0.113.5, 198.51.100.9"]),
            "198.51.100.9",
            "what the client wrote is left"
        );
        assert_eq!(from(&behind, &["203.0.113.5", "198.51.100.9, 10.0.0.2"]), "198.51.100.9", "two proxies");
        for client in [&b"\xff"[..], b"nonsense", "\u{e9}".as_bytes(), b""] {
            let line = [client, b", 198.51.100.9"].concat();
            assert_eq!(read(&behind, &[&line]).unwrap(), "198.51.100.9", "{client:?} hides nobody");
            assert_eq!(read(&behind, &[client, b"198.51.100.9, 10.0.0.2"]).unwrap(), "198.51.100.9");
            // Whoever is behind it, the proxy is not the client.
            let line = [b"198.51.100.9, ", client].concat();
            assert_eq!(read(&behind, &[&line]), Err(UNREADABLE), "{client:?}");
            let line = [b"198.51.100.9, ", client, b", 10.0.0.2"].concat();
            assert_eq!(read(&behind, &[&line]), Err(UNREADABLE), "{client:?} of the proxy before it");
            assert_eq!(read(&direct, &[client]).unwrap(), "192.0.2.1");
        }
        // Whoever is taken for the proxy stands inside its network.
        assert_eq!(from(&behind, &["10.0.0.7, 198.51.100.9:50123"]), "198.51.100.9", "with its port");
        for ipv6 in ["2001:db8::9", "[2001:db8::9]", "[2001:db8::9]:50123"] {
            assert_eq!(from(&behind, &[ipv6]), "2001:db8::9", "{ipv6}");
        }
        assert_eq!(from(&behind, &[]), "10.0.0.1");
    }
}
