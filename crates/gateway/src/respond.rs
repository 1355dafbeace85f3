//! Answers on the wire.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bartizan_mcp::{Refusal, headers, sse};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

use crate::{
    Asker,
    flow::{Out, Replies, Reply},
    legacy::{Hub, Session},
    limits::{KEEP_ALIVE, STREAM_AFTER},
    listener::Received,
    outbox::{Outbox, Read, Reader},
};

/// A response body: one piece, or an event stream.
pub enum Answer {
    /// Nothing more, or one piece.
    Whole(Option<Bytes>),
    /// Frames as they come.
    Events(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(piece) => Poll::Ready(piece.take().map(|p| Ok(Frame::data(p)))),
            Self::Events(stream) => stream.poll_next_unpin(cx).map(|frame| frame.map(|f| Ok(Frame::data(f)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(piece) => SizeHint::with_exact(piece.as_ref().map_or(0, |p| p.len() as u64)),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// The answer, whose stream ends when `over` does.
pub fn until(
    response: Response<Answer>,
    over: impl Future<Output = ()> + Send + 'static,
) -> Response<Answer> {
    response.map(|answer| match answer {
        Answer::Whole(piece) => Answer::Whole(piece),
        Answer::Events(stream) => Answer::Events(Box::pin(stream.take_until(Box::pin(over)))),
    })
}

/// The answer, whose stream keeps `held` until it ends.
pub fn holding(response: Response<Answer>, held: impl Send + 'static) -> Response<Answer> {
    response.map(|answer| match answer {
        Answer::Whole(piece) => Answer::Whole(piece),
        Answer::Events(stream) => Answer::Events(Box::pin(stream.inspect(move |_| {
            let _ = &held;
        }))),
    })
}

/// A public JSON document, readable by pages of every origin (RFC 9728 §3; spec.md E-02).
pub fn document(body: Bytes) -> Response<Answer> {
    let mut response = empty(200);
    *response.body_mut() = Answer::Whole(Some(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A response without a body.
pub fn empty(status: u16) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(None));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// A JSON response.
pub fn json(status: u16, text: String) -> Response<Answer> {
    let mut response = empty(status);
    *response.body_mut() = Answer::Whole(Some(Bytes::from(text)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The same with these `WWW-Authenticate` lines.
fn challenging(mut response: Response<Answer>, challenges: &[String]) -> Response<Answer> {
    for line in challenges {
        if let Ok(line) = HeaderValue::from_str(line) {
            response.headers_mut().append(header::WWW_AUTHENTICATE, line);
        }
    }
    response
}

/// A refusal, as the answer to the request `id` (a JSON text) if its id could be read.
pub fn refused(refusal: &Refusal, id: Option<&str>) -> Response<Answer> {
    tracing::debug!(status = refusal.status, code = refusal.code, reason = %refusal.message, "refused");
    let mut response = challenging(json(refusal.status, refusal.to_text(id)), &refusal.challenges);
    if let Some(Ok(nonce)) = refusal.dpop_nonce.as_deref().map(HeaderValue::from_str) {
        response.headers_mut().insert("dpop-nonce", nonce);
    }
    if refusal.status == 401 && refusal.challenges.is_empty() {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bartizan\""));
    }
    let retry_after = refusal.retry_after_s.or((refusal.status == 503).then_some(10));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to `initialize`, with the session's id.
pub fn session_opened(text: String, sealed: &str) -> Response<Answer> {
    let mut response = json(200, text);
    if let Ok(id) = HeaderValue::from_str(sealed) {
        response.headers_mut().insert(headers::SESSION_ID, id);
    }
    response
}

/// Lets a browser page of an allowed origin read the answer (Fetch §3.2).
pub fn with_cors(mut response: Response<Answer>, origin: Option<&HeaderValue>) -> Response<Answer> {
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("Mcp-Session-Id, WWW-Authenticate, DPoP-Nonce"),
        );
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    response
}

fn events(stream: impl Stream<Item = Bytes> + Send + 'static) -> Response<Answer> {
    let mut response = Response::new(Answer::Events(Box::pin(stream)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    // Proxies must hand events over one by one (spec.md A-71).
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What the first wait for an answer came to.
enum First {
    /// The whole answer.
    Final(u16, String),
    /// The request was cancelled.
    Nothing,
    /// There will be more, this first.
    Stream(Option<Out>),
}

async fn first(replies: &mut Replies, accepts_events: bool) -> First {
    if !accepts_events {
        // Whoever takes no stream gets the response alone (spec.md A-14).
        while let Some(out) = replies.next().await {
            if let Out::Final { status, text } = out {
                return First::Final(status, text);
            }
        }
        return First::Nothing;
    }
    match tokio::time::timeout(STREAM_AFTER, replies.next()).await {
        Ok(Some(Out::Final { status, text })) => First::Final(status, text),
        Ok(Some(out)) => First::Stream(Some(out)),
        Ok(None) => First::Nothing,
        Err(_) => First::Stream(None),
    }
}

/// The answer to a modern request. Its stream is the request: when the client closes it, both are given up.
pub async fn modern(reply: Reply, received: &Received) -> Response<Answer> {
    let mut replies = match reply {
        Reply::Accepted => return empty(202),
        Reply::Message { status, text } => return json(status, text),
        Reply::Replies(replies) => replies,
    };
    let early = match first(&mut replies, received.accepts_events).await {
        First::Final(status, text) => return challenging(json(status, text), replies.challenges()),
        First::Nothing => return empty(202),
        First::Stream(early) => early,
    };
    events(futures::stream::unfold((replies, early, false), |(mut replies, early, is_over)| async move {
        if is_over {
            return None;
        }
        let out = match early {
            Some(out) => Some(out),
            None => match tokio::time::timeout(KEEP_ALIVE, replies.next()).await {
                Ok(out) => out,
                Err(_) => return Some((sse::KEEP_ALIVE, (replies, None, false))),
            },
        };
        match out? {
            Out::Message(text) => Some((sse::frame(None, &text), (replies, None, false))),
            Out::Final { text, .. } => Some((sse::frame(None, &text), (replies, None, true))),
            Out::Interrupted(_) => Some((sse::KEEP_ALIVE, (replies, None, false))),
        }
    }))
}

/// The answer to a legacy message. Its stream belongs to the session: it goes on without the client, who may come
/// back for it (spec.md B-16).
pub async fn legacy(
    reply: Reply,
    asker: &Asker,
    session: &Arc<Session>,
    received: &Received,
) -> Response<Answer> {
    let mut replies = match reply {
        Reply::Accepted => return empty(202),
        Reply::Message { status, text } => return json(status, text),
        Reply::Replies(replies) => replies,
    };
    let early = match first(&mut replies, received.accepts_events).await {
        // A server that answers by a stream is answered for by a stream, which a client can come back for.
        First::Final(status, text) if received.accepts_events && replies.is_stream() => {
            Some(Out::Final { status, text })
        }
        First::Final(status, text) => return challenging(json(status, text), replies.challenges()),
        First::Nothing if !received.accepts_events => return empty(202),
        First::Nothing => return events(futures::stream::empty()),
        First::Stream(early) => early,
    };
    let outbox = session.hub().open_stream();
    let reader = outbox.read_after(0);
    tokio::spawn(fill(Arc::clone(session.hub()), outbox, replies, early, asker.clone()));
    stream(Arc::clone(session), reader, true)
}

async fn fill(hub: Arc<Hub>, outbox: Arc<Outbox>, mut replies: Replies, early: Option<Out>, asker: Asker) {
    let mut early = early;
    // One wait for all of it: a new one for each message would ask its issuer about the token only where a server pauses for long.
    // It is never left alone, for it may have a turn at its issuer's that others wait for.
    let mut revoked = pin!(asker.until_revoked());
    loop {
        let next = match early.take() {
            Some(out) => Some(out),
            None => tokio::select! {
                next = replies.next() => next,
                // The session is over: so is what it asked for.
                () = outbox.ended() => return,
                () = &mut revoked => break,
            },
        };
        match next {
            Some(Out::Message(text) | Out::Final { text, .. }) => {
                tokio::select! {
                    () = outbox.room() => outbox.push(text),
                    () = &mut revoked => break,
                }
            }
            Some(Out::Interrupted(retry)) => outbox.interrupt(retry),
            None => break,
        }
    }
    hub.close_stream(&outbox);
}

/// An event stream of a legacy session; a resumed one is not primed, for its client has an id already.
pub fn stream(session: Arc<Session>, reader: Reader, is_new: bool) -> Response<Answer> {
    let primes = is_new && session.revision().primes_streams();
    let priming = primes.then(|| sse::priming(&reader.start_id()));
    events(futures::stream::unfold((reader, priming, false), |(mut reader, priming, is_over)| async move {
        if let Some(priming) = priming {
            return Some((priming, (reader, None, false)));
        }
        if is_over {
            return None;
        }
        match tokio::time::timeout(KEEP_ALIVE, reader.next()).await {
            Err(_) => Some((sse::KEEP_ALIVE, (reader, None, false))),
            Ok(Read::Message(number, text)) => {
                let text = std::str::from_utf8(&text).unwrap_or_default();
                Some((sse::frame(Some(&reader.event_id(number)), text), (reader, None, false)))
            }
            Ok(Read::Retry(wait)) => Some((sse::retry(wait), (reader, None, true))),
            Ok(Read::End) => None,
        }
    }))
}

/// A short answer of the listener's own.
pub fn plain(status: u16, text: &'static str) -> Response<Answer> {
    let mut response = empty(status);
    *response.body_mut() = Answer::Whole(Some(Bytes::from_static(text.as_bytes())));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
