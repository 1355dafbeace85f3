//! `bartizan audit witness`: a second machine of the operator's that remembers how far each log was.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use bartizan_audit::{
    Origin,
    witness::{Cosigner, KnownLog, LONGEST_BODY, Reply, Witness},
};
use bartizan_model::SystemClock;
use bartizan_store::OsEntropy;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{config::TlsFiles, endpoints, print, say_error};

/// How many connections it has at once.
const CONNECTIONS: usize = 64;
/// How long a handshake, a head, or a whole request may take.
const WAIT: Duration = Duration::from_secs(10);
/// How long a connection may last.
const LIFE: Duration = Duration::from_secs(300);

/// `bartizan audit witness`
#[derive(Args)]
pub struct WitnessArgs {
    /// Where to listen. Off loopback it needs --tls-cert and --tls-key.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8790")]
    listen: SocketAddr,
    /// Where it remembers, and keeps its key. Keep it where whoever runs the gate cannot write.
    #[arg(long, value_name = "DIR", default_value = "bartizan-witness")]
    state: PathBuf,
    /// The name it signs with, best a URL without its scheme; made anew it is another witness.
    #[arg(long, value_name = "NAME", default_value = "bartizan-witness")]
    name: Origin,
    /// The public key of logs to witness: a copy of their `audit.pub`. May be repeated.
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Serve HTTPS with this chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The chain's key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Print its verifier key, for `[audit.witness] key`, and end.
    #[arg(long)]
    print_key: bool,
    /// Forget a log, by its origin, and end: after you found out why it is not what it was.
    #[arg(long, value_name = "ORIGIN", conflicts_with = "print_key")]
    forget: Option<Origin>,
}

/// Serves until a signal says stop.
pub fn witness(arguments: WitnessArgs) -> anyhow::Result<ExitCode> {
    crate::start_log("info");
    if !arguments.listen.ip().is_loopback() && arguments.tls_cert.is_none() {
        bail!(
            "--listen {} is reachable from other machines: give --tls-cert and --tls-key",
            arguments.listen
        );
    }
    let logs = arguments.logs.iter().map(|file| known(file)).collect::<anyhow::Result<Vec<_>>>()?;
    private_folder(&arguments.state)?;
    let cosigner =
        Cosigner::from_file(&arguments.state.join("witness.key"), arguments.name.clone(), &OsEntropy)?;
    if arguments.print_key {
        print(&format!("{}\n", cosigner.key()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let witness = Witness::open(&arguments.state, cosigner, logs, Arc::new(SystemClock))?;
    if let Some(origin) = &arguments.forget {
        let was_known = witness.forget(origin)?;
        say_error(&format!("{origin}: {}\n", if was_known { "forgotten" } else { "was not known" }));
        return Ok(ExitCode::from(u8::from(!was_known)));
    }
    if arguments.logs.is_empty() {
        bail!("give the public key of at least one log: --log audit.pub");
    }
    crate::runtime()?.block_on(serve(arguments, witness))
}

fn known(file: &Path) -> anyhow::Result<KnownLog> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.parse().with_context(|| format!("{} holds no key of a log", file.display()))
}

/// Its key lies there.
fn private_folder(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot create {}", folder.display()))
}

async fn serve(arguments: WitnessArgs, witness: Witness) -> anyhow::Result<ExitCode> {
    let tls = match (arguments.tls_cert, arguments.tls_key) {
        (Some(cert), Some(key)) => {
            Some(endpoints::listener_tls(&TlsFiles { cert, key, client_ca: None }, Path::new("."))?)
        }
        _ => None,
    };
    let socket = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = socket.local_addr()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    say_error(&format!(
        "The witness listens on {scheme}://{address}\n\n[audit.witness]\nurl = \"{scheme}://{address}\"\nkey = \"{}\"\n",
        witness.key()
    ));
    let (witness, slots) = (Arc::new(witness), Arc::new(Semaphore::new(CONNECTIONS)));
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((tcp, _)) = socket.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (witness, tls) = (Arc::clone(&witness), tls.clone());
            tokio::spawn(async move {
                let _ = tokio::time::timeout(LIFE, connection(tcp, tls, witness)).await;
                drop(slot);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        stopped = crate::run::wait_for_stop() => stopped?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn connection(tcp: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, witness: Arc<Witness>) {
    let Some(tls) = tls else { return http(tcp, witness).await };
    let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(tcp);
    if let Ok(Ok(stream)) = tokio::time::timeout(WAIT, handshake).await {
        http(stream, witness).await;
    }
}

async fn http(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, witness: Arc<Witness>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let witness = Arc::clone(&witness);
        async move { Ok::<_, std::convert::Infallible>(answer(request, witness).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(WAIT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), service);
    let _ = serving.await;
}

async fn answer(request: Request<Incoming>, witness: Arc<Witness>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/add-checkpoint" {
        return respond(plain(404, "not found\n"));
    }
    if request.method() != Method::POST {
        return respond(plain(405, "method not allowed\n"));
    }
    let body = Limited::new(request.into_body(), LONGEST_BODY).collect();
    let Ok(Ok(body)) = tokio::time::timeout(WAIT, body).await else {
        return respond(plain(400, "the body is too long, or did not come\n"));
    };
    let body = body.to_bytes();
    // It waits for the disk.
    let done = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body)).await;
    respond(match done {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            tracing::error!(%error, "a checkpoint could not be witnessed");
            plain(500, "the witness cannot use its memory\n")
        }
        Err(_) => plain(500, "the witness failed\n"),
    })
}

fn plain(status: u16, words: &str) -> Reply {
    Reply { status, kind: "text/plain; charset=utf-8", body: words.to_owned() }
}

fn respond(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(reply.kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}
