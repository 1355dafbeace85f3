//! The floor: a bare hyper reverse proxy that knows nothing of MCP. Bodies stream through untouched; connections to
//! the upstream are pooled. What a gateway costs beyond this is what it does; what it costs up to this is HTTP.
//!
//! `floor LISTEN UPSTREAM`, both `HOST:PORT`.
#![expect(
    clippy::disallowed_types,
    reason = "the floor is the bare client that the gateway is compared with"
)]

use std::net::SocketAddr;

use clap::Parser;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST};
use hyper::http::uri::{Authority, Scheme};
use hyper::service::service_fn;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;

#[derive(Parser)]
struct Args {
    /// Where to listen.
    listen: SocketAddr,
    /// Whom to forward to.
    upstream: Authority,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build::<_, Incoming>(connector);
    let listener = TcpListener::bind(args.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, upstream) = (client.clone(), args.upstream.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(upstream.clone());
            // A path and an authority make a URI; if hyper ever disagrees, the client's error shows it.
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(CONNECTION);
            client.request(request)
        });
        let serve = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // A client that goes away ends its connection and nothing else.
        tokio::spawn(async move { serve.await.ok() });
    }
}
