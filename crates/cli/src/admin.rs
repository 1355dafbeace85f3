//! The admin listener: `/metrics`, apart from the port that clients use (attacks.md PH-27).
//!
//! On loopback it answers whoever names it by a name of loopback, which no web page can; elsewhere only over TLS and with
//! the local token.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use arc_swap::ArcSwap;
use bartizan_gateway::Gate;
use bartizan_model::Secret;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{bundles::Bundles, config::ServerConfig, exports::Exporters, metrics::Metrics, state::State};

/// Where it listens if the configuration does not say.
const DEFAULT: ([u8; 4], u16) = ([127, 0, 0, 1], 8788);

/// How many connections it has at once.
const CONNECTIONS: usize = 32;

/// How long a request's head, or a handshake, may take.
const HEAD_WAIT: Duration = Duration::from_secs(10);

/// How long a connection may last.
const LIFE: Duration = Duration::from_secs(60);

/// Everything it tells of.
pub struct Admin {
    /// The gate.
    pub gate: Arc<Gate>,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// Its exporters.
    pub exporters: Arc<Exporters>,
    /// The shield's bundle.
    pub bundles: Arc<Bundles>,
}

/// A bound admin listener.
pub struct Listening {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// What callers must show; `None` on loopback.
    token: Option<Secret>,
}

impl Listening {
    /// Binds where the configuration says. Where it says nothing, a port that is taken, by another gate most likely, is no
    /// reason not to serve.
    ///
    /// # Errors
    /// If the address that was asked for cannot be had.
    pub async fn bind(
        config: &ServerConfig,
        tls: Option<&Arc<ArcSwap<rustls::ServerConfig>>>,
        state: &State,
    ) -> anyhow::Result<Option<Self>> {
        let wanted = config.admin_listen.unwrap_or_else(|| SocketAddr::from(DEFAULT));
        let socket = match TcpListener::bind(wanted).await {
            Ok(socket) => socket,
            Err(error) if config.admin_listen.is_none() => {
                tracing::warn!(%error, "there is no admin listener: {wanted} cannot be had; set `[server] admin_listen`");
                return Ok(None);
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("[server] admin_listen: cannot listen on {wanted}"));
            }
        };
        let address = socket.local_addr()?;
        let is_open = address.ip().is_loopback();
        Ok(Some(Self {
            socket,
            address,
            tls: tls.filter(|_| !is_open).cloned(),
            token: if is_open { None } else { Some(state.token()?) },
        }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped.
    pub async fn serve(self, admin: Admin) {
        let (me, admin) = (Arc::new(self), Arc::new(admin));
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((tcp, _)) = me.socket.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (me, admin) = (Arc::clone(&me), Arc::clone(&admin));
            tokio::spawn(async move {
                let _ = tokio::time::timeout(LIFE, me.connection(tcp, admin)).await;
                drop(slot);
            });
        }
    }

    async fn connection(self: Arc<Self>, tcp: TcpStream, admin: Arc<Admin>) {
        let Some(tls) = &self.tls else { return self.http(tcp, admin).await };
        let handshake = tokio_rustls::TlsAcceptor::from(tls.load_full()).accept(tcp);
        if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_WAIT, handshake).await {
            self.http(stream, admin).await;
        }
    }

    async fn http(
        self: &Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        admin: Arc<Admin>,
    ) {
        let me = Arc::clone(self);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = me.answer(&request, &admin);
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(io), service);
        let _ = serving.await;
    }

    fn answer(&self, request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
        if let Err((status, words)) = self.admit(request.headers()) {
            return plain(status, words);
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let mut page = plain(
                    StatusCode::OK,
                    admin.metrics.render(&admin.gate, &admin.exporters, &admin.bundles),
                );
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                page.headers_mut().insert(header::CONTENT_TYPE, kind);
                page
            }
            (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"),
            _ => plain(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// Whether a request may be answered (attacks.md AA-01, PH-27; DNS rebinding).
    fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        match &self.token {
            Some(token) => {
                let shown = headers
                    .get(header::AUTHORIZATION)
                    .and_then(|line| line.as_bytes().strip_prefix(b"Bearer "));
                let is_known = shown.is_some_and(|shown| token.matches(shown));
                if is_known {
                    Ok(())
                } else {
                    Err((StatusCode::UNAUTHORIZED, "show the token of `bartizan token`\n"))
                }
            }
            None => {
                let mut lines = headers.get_all(header::HOST).iter();
                let host = lines.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
                let names = ["localhost", "127.0.0.1", "[::1]"];
                let is_ours = names
                    .iter()
                    .any(|name| host.eq_ignore_ascii_case(&format!("{name}:{}", self.address.port())));
                let is_page = headers.contains_key(header::ORIGIN)
                    || headers
                        .get("sec-fetch-site")
                        .is_some_and(|site| site != "none" && site != "same-origin");
                if is_ours && lines.next().is_none() && !is_page {
                    Ok(())
                } else {
                    Err((StatusCode::MISDIRECTED_REQUEST, "this listener goes by names of loopback alone\n"))
                }
            }
        }
    }
}

fn plain(status: StatusCode, words: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}
