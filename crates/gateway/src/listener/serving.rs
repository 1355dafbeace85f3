//! Connections: accepted, counted, and served in HTTP/1.1 or HTTP/2 until the gate stops.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, Sleep, sleep},
};

use super::{
    Door, Peer,
    streams::{Carried, Pauses, Streams},
};
use crate::{
    Gate,
    body::Body,
    exchange::exchange,
    limits::{CONNECTIONS, CONNECTIONS_PER_ADDRESS, DRAIN, HEAD_BYTES, HEAD_LINES, HEAD_WAIT, HTTP2_STREAMS},
    upstream::stdio::lock,
};

/// A port and how it is served.
pub struct Listening {
    /// The bound socket.
    pub socket: TcpListener,
    /// TLS, replaced when certificates are renewed; `None` for plain HTTP.
    pub tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// Only declared proxies may connect, which end TLS in front of it: those that the [`Door`] knows then.
    pub only_proxies: bool,
}

/// Serves until `stop` says so, then lets requests under way finish for a while.
pub async fn serve(listening: Listening, gate: Arc<Gate>, door: Arc<Door>, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let peers = Peers::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listening.socket.accept() => accepted,
            _ = stop.wait_for(|s| *s) => break,
            Some(_) = connections.join_next() => continue,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others must end before more can begin.
                tracing::warn!(%error, "a connection was not accepted");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // A socket on `[::]` has IPv4 peers in IPv6's clothes.
        let address = peer.ip().to_canonical();
        let is_proxy = door.proxies.borrow().include(&address);
        if listening.only_proxies && !is_proxy {
            tracing::warn!(%peer, "refused: plain HTTP is for the declared proxies only");
            continue;
        }
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        // A proxy stands for many, but not for its neighbours.
        let most = if is_proxy || address.is_loopback() { CONNECTIONS } else { CONNECTIONS_PER_ADDRESS };
        let counted = if is_proxy { (address, WHOLE) } else { network_of(address) };
        let Some(place) = Place::take(&peers, counted, most) else { continue };
        let tls = listening.tls.as_ref().map(|t| t.load_full());
        let (gate, door, stop) = (Arc::clone(&gate), Arc::clone(&door), stop.clone());
        connections.spawn(async move {
            let _held = (slot, place);
            let mut proxies = door.proxies.subscribe();
            tokio::select! {
                () = connection(tcp, address, tls, gate, door, stop) => {}
                _ = proxies.wait_for(|now| !now.include(&address)), if is_proxy => {
                    tracing::warn!(%peer, "hung up on: it is a declared proxy no more");
                }
            }
        });
    }
    drop(listening.socket);
    gate.drain();
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, finish).await.is_err() {
        tracing::warn!("requests were still under way after {} seconds and are cut", DRAIN.as_secs());
    }
    gate.close_and_wait().await;
}

/// An address, and how many of its bits tell it from others.
type Counted = (IpAddr, u8);

/// All bits of an address, of either family.
const WHOLE: u8 = 128;

/// How many connections each peer has.
type Peers = Arc<Mutex<HashMap<Counted, usize>>>;

/// One of a peer's connections.
struct Place(Peers, Counted);

impl Place {
    /// A place among the `most` that `peer` may have.
    fn take(peers: &Peers, peer: Counted, most: usize) -> Option<Self> {
        let mut counts = lock(peers);
        let count = counts.entry(peer).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(peers), peer))
    }
}

/// What one peer can choose its address from: of IPv6 a whole /64 (RFC 6177 §2).
fn network_of(address: IpAddr) -> Counted {
    match address {
        IpAddr::V6(address) if !address.is_loopback() => {
            (IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))), 64)
        }
        other => (other, WHOLE),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.0);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

async fn connection(
    tcp: TcpStream,
    address: IpAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    gate: Arc<Gate>,
    door: Arc<Door>,
    stop: watch::Receiver<bool>,
) {
    let _ = tcp.set_nodelay(true);
    let (waits, pauses) = (**door.waits.load(), Pauses::default());
    let io = Patient { inner: tcp, wait: waits.write, waiting: None, pauses: Arc::clone(&pauses) };
    let Some(tls) = tls else {
        let peer = Peer { address, is_tls: false, certificate: None };
        return http1(TokioIo::new(io), gate, door, peer, stop).await;
    };
    let handshake = tokio_rustls::TlsAcceptor::from(tls).accept(io);
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD_WAIT, handshake).await else { return };
    let session = stream.get_ref().1;
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let peer = Peer { address, is_tls: true, certificate: leaf.map(|leaf| Arc::from(leaf.as_ref())) };
    if session.alpn_protocol() == Some(b"h2") {
        http2(TokioIo::new(stream), gate, door, peer, Streams::new(waits, pauses), stop).await;
    } else {
        http1(TokioIo::new(stream), gate, door, peer, stop).await;
    }
}

async fn http1<I>(
    io: TokioIo<I>,
    gate: Arc<Gate>,
    door: Arc<Door>,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, door, peer) = (Arc::clone(&gate), Arc::clone(&door), peer.clone());
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let asked_first = request.headers().contains_key(header::EXPECT);
        let (head, body) = request.into_parts();
        let (body, unread) = Body::shared(body);
        async move {
            let mut answer = exchange(&gate, &door, Request::from_parts(head, body), &peer).await;
            let is_whole = unread.skip(asked_first).await;
            if is_chunked || !is_whole {
                // hyper hides a `Content-Length` beside it; what a proxy that goes by the length takes for the rest of
                // this request must not become the next one (RFC 9112 §6.1; attacks.md PH-06).
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_LINES)
        .serve_connection(io, service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stop.wait_for(|s| *s) => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

async fn http2<I>(
    io: TokioIo<I>,
    gate: Arc<Gate>,
    door: Arc<Door>,
    peer: Peer,
    streams: Streams,
    mut stop: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, door, peer) = (Arc::clone(&gate), Arc::clone(&door), peer.clone());
        let request = request.map(Body::new);
        async move {
            let answer = exchange(&gate, &door, request, &peer).await;
            Ok::<_, std::convert::Infallible>(answer.map(Carried::new))
        }
    });
    let serving = hyper::server::conn::http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .serve_connection(io, service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = streams.untaken() => return,
        () = streams.idle() => {}
        _ = stop.wait_for(|s| *s) => {}
    }
    serving.as_mut().graceful_shutdown();
    tokio::select! {
        _ = serving => {}
        () = streams.untaken() => {}
        // It was asked to go (GOAWAY), and has no reason to stay.
        () = streams.idle() => {}
    }
}

/// A connection whose peer must take something of what is written within `wait` (attacks.md PH-20).
struct Patient<I> {
    inner: I,
    wait: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    pauses: Pauses,
}

impl<I> Patient<I> {
    fn judge<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        self.pauses.fetch_add(1, Ordering::Relaxed);
        let wait = self.wait;
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + wait)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.judge(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_as_many_places_as_one_address_however_many_it_has() {
        let peers = Peers::default();
        let peer = |text: &str| network_of(text.parse::<IpAddr>().unwrap());
        let held: Vec<_> =
            (0..3).map(|n| Place::take(&peers, peer(&format!("2001:db8::{n}")), 3).unwrap()).collect();
        assert!(Place::take(&peers, peer("2001:db8::ffff:ffff:ffff:ffff"), 3).is_none());
        let neighbour = Place::take(&peers, peer("2001:db8:0:1::"), 3);
        assert!(neighbour.is_some());
        let first = Place::take(&peers, peer("192.0.2.1"), 1);
        assert!(first.is_some() && Place::take(&peers, peer("192.0.2.2"), 1).is_some());
        assert!(Place::take(&peers, peer("192.0.2.1"), 1).is_none());
        // A declared proxy is an address, whatever its neighbours do; even the first one of a network.
        let proxy = Place::take(&peers, ("2001:db8::".parse().unwrap(), WHOLE), 1);
        assert!(proxy.is_some());
        drop((held, neighbour, first, proxy));
        assert!(lock(&peers).is_empty());
    }
}
