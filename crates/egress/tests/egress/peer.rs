//! A peer that does what a test tells it to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bartizan_egress::{Resolver, Resolving};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

/// Long enough that only a hang reaches it.
pub const LONG: Duration = Duration::from_secs(20);
/// Short enough to wait for.
pub const SHORT: Duration = Duration::from_millis(150);

/// What a peer does with a request it read.
pub enum Answer {
    /// Writes this, then reads the next request.
    Write(String),
    /// Writes this, then nothing until the connection closes, which it reports.
    Stall(String),
    /// Closes the connection.
    Close,
}

/// A 200 with `body`.
pub fn ok(body: &str) -> Answer {
    Answer::Write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// A 302 to `location`.
pub fn redirect(location: &str) -> Answer {
    Answer::Write(format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"))
}

pub type Script = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// What a peer saw.
#[derive(Default)]
pub struct Seen {
    pub requests: Mutex<Vec<String>>,
    pub connections: AtomicUsize,
}

impl Seen {
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An HTTP/1 server on loopback.
pub struct Peer {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    /// Gets one message for each connection that closed during [`Answer::Stall`].
    pub closed: mpsc::UnboundedReceiver<()>,
}

impl Peer {
    pub async fn start(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (close, closed) = mpsc::unbounded_channel();
        let (script, noted): (Script, _) = (Arc::new(script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                noted.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&noted), close.clone()));
            }
        });
        Self { address, seen, closed }
    }

    pub fn url(&self, path: &str) -> url::Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    pub async fn wait_closed(&mut self) {
        tokio::time::timeout(LONG, self.closed.recv()).await.expect("the connection stays open").unwrap();
    }
}

/// Reads requests from `stream` and does what `script` says.
pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Script,
    seen: Arc<Seen>,
    close: mpsc::UnboundedSender<()>,
) {
    while let Some(request) = read_request(&mut stream).await {
        seen.requests.lock().unwrap().push(request.clone());
        match script(&request) {
            Answer::Write(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Answer::Stall(text) => {
                stream.write_all(text.as_bytes()).await.unwrap();
                // The end of the stream or a reset: either way the client is gone.
                let _ = stream.read_u8().await;
                let _ = close.send(());
                return;
            }
            Answer::Close => return,
        }
    }
}

/// One request, head and body, as text.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut text = String::from_utf8(head).unwrap();
    let length = text.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    text.push_str(std::str::from_utf8(&body).unwrap());
    Some(text)
}

/// A resolver that says the same of every name.
pub struct Always(pub &'static str);

impl Resolver for Always {
    fn resolve(&self, _: &str) -> Resolving {
        let address: IpAddr = self.0.parse().unwrap();
        Box::pin(async move { Ok(vec![address]) })
    }
}
