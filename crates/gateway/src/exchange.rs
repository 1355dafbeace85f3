//! The path of a request, read downwards. Each stage takes what the stage before it made.

use std::sync::Arc;

use bartizan_mcp::{Era, Kind, Message, Refusal, Revision, code, era, headers};
use bartizan_policy::limits::Held;
use bartizan_store::sessions::End;
use http::{Method, Response};
use tracing::Instrument;

use crate::{
    Asker, Gate,
    body::Body,
    flow::{Replies, Reply},
    legacy, limits,
    listener::{Admitted, Door, Peer, Received, admit},
    modern, pages,
    respond::{self, Answer},
};

/// Answers one HTTP request.
pub async fn exchange(
    gate: &Arc<Gate>,
    door: &Arc<Door>,
    request: http::Request<Body>,
    peer: &Peer,
) -> Response<Answer> {
    let admitted = {
        let _stage = tracing::debug_span!("listener.admit").entered();
        admit(door, request, peer)
    };
    let received = match admitted {
        Ok(Admitted::Received(received)) => *received,
        Ok(Admitted::Visit(visit)) => return pages::answer(door, *visit).await,
        Err(answer) => return answer,
    };
    let origin = received.cors_origin.clone();
    let address = received.sender.address;
    let authenticator = door.authenticator.load_full();
    let identifying = authenticator.identify(received.shown());
    let asker = match identifying.instrument(tracing::debug_span!("authenticator.identify")).await {
        Ok(asker) => asker.at(address),
        Err(refusal) => {
            gate.recorder().stranger(&refusal, Some(address));
            return respond::with_cors(respond::refused(&refusal, None), origin.as_ref());
        }
    };
    if let Err(refusal) = gate.responses().admit(&asker).await {
        gate.recorder().turned_away(&asker, &refusal);
        return respond::with_cors(respond::refused(&refusal, None), origin.as_ref());
    }
    let answering = async {
        match received.method {
            Method::POST => post(gate, &asker, received).await,
            Method::GET => listen(gate, &asker, &received).await,
            _ => end(gate, &asker, &received),
        }
    };
    let answer = tokio::select! {
        answer = answering => answer,
        () = asker.until_revoked() => respond::refused(&revoked(), None),
    };
    respond::with_cors(answer, origin.as_ref())
}

/// The answer to a request whose token was taken back while it was under way (attacks.md AA-29).
fn revoked() -> Refusal {
    Refusal::new(401, code::UNAUTHENTICATED, "the access token was revoked")
        .with_data(r#"{"source":"bartizan","reason":"token.denied"}"#)
}

/// The answer, whose stream ends with the token it was asked for by: listening must not outlive the right to listen.
fn while_good(gate: &Arc<Gate>, asker: &Asker, answer: Response<Answer>) -> Response<Answer> {
    if asker.access.is_none() {
        return answer;
    }
    let (gate, asker) = (Arc::clone(gate), asker.clone());
    respond::until(answer, async move { asker.until_expired(gate.clock()).await })
}

/// The answer, whose stream ends when the token is taken back: a call that was admitted may outlive it otherwise.
fn unless_revoked(asker: &Asker, answer: Response<Answer>) -> Response<Answer> {
    if asker.access.is_none() {
        return answer;
    }
    let asker = asker.clone();
    respond::until(answer, async move { asker.until_revoked().await })
}

/// One message, or in a 2025-03-26 session a batch.
async fn post(gate: &Arc<Gate>, asker: &Asker, mut received: Received) -> Response<Answer> {
    let bytes = match received.body(gate.quotas().request_bytes()).await {
        Ok(bytes) => bytes,
        Err(refusal) => return respond::refused(&refusal, None),
    };
    if let Err(refusal) = gate.servers(&received.target) {
        // Under the request's id, without which its client would not know what the words are about.
        let asked = Message::parse(bytes).ok().filter(|message| message.kind() == Kind::Request);
        let id = asked.as_ref().and_then(Message::id_value).map(|id| id.text());
        return respond::refused(&refusal, id);
    }
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        return match batch(gate, asker, &received, bytes).await {
            Ok(answer) => answer,
            Err(refusal) => respond::refused(&refusal, None),
        };
    }
    let message = match Message::parse(bytes) {
        Ok(message) => message,
        Err(fault) => return respond::refused(&fault.into(), None),
    };
    let id = message.id_value().filter(|_| message.kind() == Kind::Request).map(|v| v.text().to_owned());
    let answered = match era::of_message(&message, Some(&received.headers)) {
        Era::Modern => {
            let slot = match message.method().as_ref() {
                "subscriptions/listen" => match gate.quotas().hold(Held::Stream, asker).await {
                    Ok(slot) => Some(slot),
                    Err(refusal) => return respond::refused(&refusal, id.as_deref()),
                },
                _ => None,
            };
            let reply =
                modern::exchange(gate, asker, &received.target, &message, Some(&received.headers)).await;
            let answer = match reply {
                Ok(reply) => Ok(respond::modern(reply, &received).await),
                Err(refusal) => Err(refusal),
            };
            // A subscription ends by itself with the token it was asked for by, and says so.
            answer.map(|answer| respond::holding(unless_revoked(asker, answer), slot))
        }
        Era::Legacy => legacy_message(gate, asker, &received, &message).await,
    };
    answered.unwrap_or_else(|refusal| respond::refused(&refusal, id.as_deref()))
}

async fn legacy_message(
    gate: &Arc<Gate>,
    asker: &Asker,
    received: &Received,
    message: &Message,
) -> Result<Response<Answer>, Refusal> {
    if message.kind() == Kind::Request
        && message.method() == "initialize"
        && !received.headers.contains_key(headers::SESSION_ID)
    {
        check_version(received, None)?;
        let (_, sealed, text) = legacy::initialize(gate, asker, &received.target, message).await?;
        return Ok(respond::session_opened(text, &sealed));
    }
    let session = bind(gate, asker, received)?;
    let reply = legacy::exchange(gate, asker, &session, message, None).await?;
    Ok(respond::legacy(reply, asker, &session, received).await)
}

/// A batch is for 2025-03-26 sessions only, and never opens one (spec.md B-03, B-10; attacks.md PH-13).
async fn batch(
    gate: &Arc<Gate>,
    asker: &Asker,
    received: &Received,
    bytes: Vec<u8>,
) -> Result<Response<Answer>, Refusal> {
    let batches = Refusal::from(bartizan_mcp::message::Fault::Batch);
    let is_sessionless = !received.headers.contains_key(headers::SESSION_ID);
    if is_sessionless {
        return Err(batches);
    }
    let session = bind(gate, asker, received)?;
    if !session.revision().has_batches() {
        return Err(batches);
    }
    let messages = Message::parse_batch(bytes)?;
    if messages.len() > limits::BATCH {
        let text = format!("a batch has at most {} messages; send them in several", limits::BATCH);
        return Err(Refusal::new(413, code::LIMIT, text));
    }
    // Before any of the others is done.
    if messages.iter().any(|message| message.method() == "initialize") {
        return Err(Refusal::new(400, code::INVALID_REQUEST, "`initialize` must not be part of a batch"));
    }
    // Its answers come on a stream: nothing is done whose answer would not arrive.
    if !received.accepts_events && messages.iter().any(|message| message.kind() == Kind::Request) {
        let text = "a batch is answered by a stream; accept `text/event-stream` too";
        return Err(Refusal::new(406, code::INVALID_REQUEST, text));
    }
    let mut flows = Vec::new();
    for message in messages {
        let id = message.id_value().map(|v| v.text().to_owned());
        match legacy::exchange(gate, asker, &session, &message, None).await {
            Ok(Reply::Accepted) => {}
            Ok(Reply::Message { text, .. }) => flows.push(Replies::ready(text)),
            Ok(Reply::Replies(replies)) => flows.push(replies),
            Err(refusal) if message.kind() == Kind::Request => {
                flows.push(Replies::ready(refusal.to_text(id.as_deref())));
            }
            // A notification is never answered (A-12).
            Err(refusal) => tracing::debug!(reason = %refusal.message, "a message of a batch was refused"),
        }
    }
    let reply = if flows.is_empty() { Reply::Accepted } else { Reply::Replies(Replies::merge(flows)) };
    Ok(respond::legacy(reply, asker, &session, received).await)
}

/// The live session of a legacy request (spec.md B-26, B-27, B-30, B-33 to B-35).
fn bind(gate: &Gate, asker: &Asker, received: &Received) -> Result<Arc<legacy::Session>, Refusal> {
    let mut lines = received.headers.get_all(headers::SESSION_ID).iter();
    let id = lines.next().ok_or_else(|| {
        Refusal::new(
            400,
            code::INVALID_REQUEST,
            "send `Mcp-Session-Id` from the answer to `initialize`, or begin with `initialize`",
        )
    })?;
    if lines.next().is_some() {
        return Err(Refusal::new(400, code::INVALID_REQUEST, "`Mcp-Session-Id` is sent more than once"));
    }
    let found = id.to_str().ok().and_then(|id| gate.sessions().find(id, &asker.key, &received.target));
    let session = found.ok_or_else(|| {
        Refusal::new(404, code::NOT_FOUND, "there is no such session; begin with `initialize`")
    })?;
    check_version(received, Some(session.revision()))?;
    Ok(session)
}

fn check_version(received: &Received, negotiated: Option<Revision>) -> Result<(), Refusal> {
    let bad = |text: &str| Refusal::new(400, code::INVALID_REQUEST, text);
    let sent =
        headers::read(&received.headers, &headers::PROTOCOL_VERSION).map_err(|f| bad(&f.to_string()))?;
    match (sent.map(|v| (Revision::named(&v), v)), negotiated) {
        (None, _) => Ok(()),
        (Some((Some(sent), _)), Some(negotiated)) if sent == negotiated => Ok(()),
        // A handshake may come with the version it asks for, whatever that is.
        (Some((_, _)), None) => Ok(()),
        (Some((Some(_), _)), Some(_)) => {
            Err(bad("`MCP-Protocol-Version` differs from the version of the session"))
        }
        (Some((None, _)), _) => Err(bad("`MCP-Protocol-Version` names a version that is not spoken here")),
    }
}

/// The stream of what answers no request, or a broken stream from where it broke.
async fn listen(gate: &Arc<Gate>, asker: &Asker, received: &Received) -> Response<Answer> {
    let opening = async {
        let session = bind(gate, asker, received)?;
        let slot = gate.quotas().hold(Held::Stream, asker).await?;
        let resumed = received.headers.get(headers::LAST_EVENT_ID);
        let reader = match resumed {
            // Not 404, which would mean the session (spec.md B-28).
            Some(id) => id.to_str().ok().and_then(|id| session.hub().resume(id)).ok_or_else(|| {
                Refusal::new(
                    400,
                    code::INVALID_REQUEST,
                    "nothing is kept under this `Last-Event-ID`; leave it out",
                )
            })?,
            None => {
                session.listen();
                session.hub().general().read_on()
            }
        };
        let stream = respond::stream(session, reader, resumed.is_none());
        Ok(respond::holding(while_good(gate, asker, stream), slot))
    };
    opening.await.unwrap_or_else(|refusal| respond::refused(&refusal, None))
}

/// Ends a session (spec.md B-29).
fn end(gate: &Gate, asker: &Asker, received: &Received) -> Response<Answer> {
    match bind(gate, asker, received) {
        Ok(session) => {
            gate.sessions().end(&session, End::Client);
            respond::empty(204)
        }
        Err(refusal) => respond::refused(&refusal, None),
    }
}
