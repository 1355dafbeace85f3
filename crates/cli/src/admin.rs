//! The admin listener: `/metrics` and the [`api`], apart from the port that clients use (attacks.md PH-27).
//!
//! On loopback it answers whoever names it by a name of loopback, which no web page can; elsewhere only over TLS. Metrics are
//! then for whoever holds the local token or a role; the API is for people with a role wherever it listens.

pub mod api;
pub mod command;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use arc_swap::{ArcSwap, ArcSwapOption};
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

use api::Api;

use crate::{
    bundles::Bundles, config::ServerConfig, exports::Exporters, metrics::Metrics, state::State,
    witness::Witnessing,
};

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
    /// Its log's witness.
    pub witnessing: Arc<Witnessing>,
    /// The API, if there is one.
    pub api: Arc<ArcSwapOption<Api>>,
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
            let (me, admin) = (Arc::clone(&me), Arc::clone(&admin));
            async move { Ok::<_, std::convert::Infallible>(me.answer(request, &admin).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(io), service);
        let _ = serving.await;
    }

    async fn answer(&self, request: Request<Incoming>, admin: &Arc<Admin>) -> Response<Full<Bytes>> {
        if let Err((status, words)) = self.admit_host(request.headers()) {
            return plain(status, words);
        }
        let api = admin.api.load_full();
        let path = request.uri().path();
        if let Some(api) = &api {
            if api.is_at(path) {
                return api.answer(request, admin).await;
            }
            if let (&Method::GET, Some(document)) = (request.method(), api.metadata(path)) {
                let mut page = plain(StatusCode::OK, document);
                let kind = header::HeaderValue::from_static("application/json");
                page.headers_mut().insert(header::CONTENT_TYPE, kind);
                return page;
            }
        }
        if path != "/metrics" {
            // A stranger learns nothing of what else there might be.
            let known = self.is_known(request.headers());
            return if known { plain(StatusCode::NOT_FOUND, "not found\n") } else { unauthorized() };
        }
        let is_known = self.is_known(request.headers())
            || match &api {
                Some(api) => api.is_viewer(&request, admin).await,
                None => false,
            };
        match request.method() {
            _ if !is_known => unauthorized(),
            &Method::GET | &Method::HEAD => {
                let text =
                    admin.metrics.render(&admin.gate, &admin.exporters, &admin.witnessing, &admin.bundles);
                let mut page = plain(StatusCode::OK, text);
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                page.headers_mut().insert(header::CONTENT_TYPE, kind);
                page
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"),
        }
    }

    /// Whether whoever asks may look at metrics without a role: anybody of this machine, or the holder of the local token.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return false };
        line.as_bytes().strip_prefix(b"Bearer ").is_some_and(|shown| token.matches(shown))
    }

    /// On loopback: whether it is asked by a name of loopback, and by no web page (attacks.md AA-01, PH-27; DNS rebinding).
    fn admit_host(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if self.token.is_some() {
            return Ok(());
        }
        let mut lines = headers.get_all(header::HOST).iter();
        let host = lines.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let names = ["localhost", "127.0.0.1", "[::1]"];
        let is_ours =
            names.iter().any(|name| host.eq_ignore_ascii_case(&format!("{name}:{}", self.address.port())));
        let is_page = headers.contains_key(header::ORIGIN)
            || headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin");
        if is_ours && lines.next().is_none() && !is_page {
            Ok(())
        } else {
            Err((StatusCode::MISDIRECTED_REQUEST, "this listener goes by names of loopback alone\n"))
        }
    }
}

fn unauthorized() -> Response<Full<Bytes>> {
    plain(StatusCode::UNAUTHORIZED, "show the token of `bartizan token`\n")
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
