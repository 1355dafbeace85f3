//! Asking issuers: the one small trait through which this crate reaches the network.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bartizan_egress::{Egress, Endpoint, FetchLimits, Peer, TlsOptions};
use bartizan_model::Secret;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use url::Url;

/// Bytes of the longest document that is read; Entra's key set has about 20 KiB.
const MAX_BYTES: usize = 256 * 1024;
/// For one question, connection and answer.
const WITHIN: Duration = Duration::from_secs(5);

/// An answer that is under way.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Document, bartizan_egress::Error>> + Send + 'a>>;

/// Whose idea an address was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The operator's, or of the same origin as one of theirs: it may be private.
    Operator,
    /// An issuer's metadata: https and public addresses only (spec.md G-20, G-21).
    Issuer,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Document {
    /// The HTTP status; never a redirect.
    pub status: u16,
    /// The body, at most 256 KiB.
    pub body: Vec<u8>,
}

/// What a way that only reads answers to the rest.
const ONLY_READS: bartizan_egress::Error = bartizan_egress::Error::Url("nothing is posted this way");

/// Reaches the endpoints of one issuer; what only reads leaves the rest as it is. Redirects are errors (attacks.md AA-20, TP-05).
pub trait Fetch: Send + Sync {
    /// GETs a document.
    fn get<'a>(&'a self, url: &'a Url, named_by: NamedBy) -> Fetching<'a>;

    /// GETs a document at an endpoint the operator named, with this `Authorization`.
    fn get_as<'a>(&'a self, _url: &'a Url, _authorization: &'a Secret) -> Fetching<'a> {
        Box::pin(async { Err(ONLY_READS) })
    }

    /// POSTs a form to an endpoint the operator named, with this `Authorization` if there is one.
    fn post<'a>(&'a self, _url: &'a Url, _authorization: Option<&'a Secret>, _form: Secret) -> Fetching<'a> {
        Box::pin(async { Err(ONLY_READS) })
    }

    /// POSTs something to an endpoint.
    fn send<'a>(&'a self, _url: &'a Url, _named_by: NamedBy, _sent: Sent) -> Fetching<'a> {
        Box::pin(async { Err(ONLY_READS) })
    }

    /// Asks an MCP server the operator named for what anybody may ask, without any credential, and answers the
    /// `WWW-Authenticate` lines of its refusal; none if it does not refuse.
    fn probe<'a>(&'a self, _url: &'a Url) -> Probing<'a> {
        Box::pin(async { Err(ONLY_READS) })
    }
}

/// What is POSTed.
pub struct Sent {
    /// Header lines beside `Accept: application/json`; those with credentials are marked as sensitive.
    pub headers: HeaderMap,
    /// The body.
    pub body: Secret,
}

/// A refusal that is awaited.
pub type Probing<'a> = Pin<Box<dyn Future<Output = Result<HeaderMap, bartizan_egress::Error>> + Send + 'a>>;

/// Changes nothing, and is refused like everything else by a server that wants to know who asks.
const PROBE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

/// [`Fetch`] by way of egress, which judges every address.
pub struct EgressFetch {
    egress: Egress,
    tls: TlsOptions,
    /// A handful: the addresses the operator wrote down, and what lies beside them.
    endpoints: Mutex<HashMap<Url, Endpoint>>,
}

impl EgressFetch {
    /// A way to one issuer; `tls` says whom to trust as it.
    pub fn new(egress: Egress, tls: TlsOptions) -> Self {
        Self { egress, tls, endpoints: Mutex::default() }
    }

    fn endpoint(&self, url: &Url) -> Result<Endpoint, bartizan_egress::Error> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = endpoints.get(url) {
            return Ok(endpoint.clone());
        }
        let peer = Peer { url: url.clone(), tls: self.tls.clone(), dangerous_plaintext: false };
        let endpoint = self.egress.endpoint(&peer)?;
        // An issuer that names a new address of its own each time must not fill our memory.
        if endpoints.len() >= 16 {
            endpoints.clear();
        }
        endpoints.insert(url.clone(), endpoint.clone());
        Ok(endpoint)
    }

    async fn ask(
        &self,
        url: &Url,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Document, bartizan_egress::Error> {
        let response = self.endpoint(url)?.send(method, headers, body, WITHIN).await?;
        let status = response.status().as_u16();
        Ok(Document { status, body: response.into_body().collect_within(MAX_BYTES, WITHIN).await? })
    }
}

impl Fetch for EgressFetch {
    fn get<'a>(&'a self, url: &'a Url, named_by: NamedBy) -> Fetching<'a> {
        Box::pin(async move {
            match named_by {
                NamedBy::Operator => self.ask(url, Method::GET, json_wanted(), Bytes::new()).await,
                NamedBy::Issuer => {
                    let limits = FetchLimits { max_bytes: MAX_BYTES, timeout: WITHIN, max_redirects: 0 };
                    let fetched = self.egress.fetch(url, limits).await?;
                    Ok(Document { status: fetched.status.as_u16(), body: fetched.body })
                }
            }
        })
    }

    fn get_as<'a>(&'a self, url: &'a Url, authorization: &'a Secret) -> Fetching<'a> {
        Box::pin(async move {
            let mut headers = json_wanted();
            headers.insert(header::AUTHORIZATION, line_of(authorization)?);
            self.ask(url, Method::GET, headers, Bytes::new()).await
        })
    }

    fn post<'a>(&'a self, url: &'a Url, authorization: Option<&'a Secret>, form: Secret) -> Fetching<'a> {
        Box::pin(async move {
            let mut headers = json_wanted();
            if let Some(authorization) = authorization {
                headers.insert(header::AUTHORIZATION, line_of(authorization)?);
            }
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(header::CONTENT_TYPE, kind);
            self.ask(url, Method::POST, headers, Bytes::copy_from_slice(form.reveal().as_bytes())).await
        })
    }

    fn send<'a>(&'a self, url: &'a Url, named_by: NamedBy, sent: Sent) -> Fetching<'a> {
        Box::pin(async move {
            let mut headers = json_wanted();
            headers.extend(sent.headers);
            let body = Bytes::copy_from_slice(sent.body.reveal().as_bytes());
            match named_by {
                NamedBy::Operator => self.ask(url, Method::POST, headers, body).await,
                NamedBy::Issuer => {
                    let limits = FetchLimits { max_bytes: MAX_BYTES, timeout: WITHIN, max_redirects: 0 };
                    let fetched = self.egress.submit(url, headers, body, limits).await?;
                    Ok(Document { status: fetched.status.as_u16(), body: fetched.body })
                }
            }
        })
    }

    fn probe<'a>(&'a self, url: &'a Url) -> Probing<'a> {
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            let lines = [
                ("accept", "application/json, text/event-stream"),
                ("content-type", "application/json"),
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "server/discover"),
            ];
            headers.extend(
                lines.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
            );
            let body = Bytes::from_static(PROBE.as_bytes());
            let answer = self.endpoint(url)?.send(Method::POST, headers, body, WITHIN).await?;
            let refuses = answer.status() == StatusCode::UNAUTHORIZED;
            let lines = answer.headers().get_all(header::WWW_AUTHENTICATE).iter();
            let lines = lines.map(|line| (header::WWW_AUTHENTICATE, line.clone()));
            Ok(if refuses { lines.collect() } else { HeaderMap::new() })
        })
    }
}

/// A credential as a header line that no log shows.
fn line_of(authorization: &Secret) -> Result<HeaderValue, bartizan_egress::Error> {
    let mut line = HeaderValue::from_str(authorization.reveal())
        .map_err(|_| bartizan_egress::Error::Url("its credential is no header value"))?;
    line.set_sensitive(true);
    Ok(line)
}

fn json_wanted() -> HeaderMap {
    HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))])
}
