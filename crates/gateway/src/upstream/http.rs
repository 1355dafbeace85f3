//! Servers behind a URL (Streamable HTTP; spec.md C.1, C.2).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bartizan_egress::{Body, Endpoint};
use bartizan_mcp::{
    Message, Revision, headers,
    sse::{Decoder, Event},
};
use bartizan_oauth::outbound::{Asking, Credential, Refused, Retry, Unobtainable};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::{Failure, Item};
use crate::limits::{ANSWER_BYTES, CONTROL_WAIT, REQUEST_IDLE, RESUME_ATTEMPTS};

/// A server's credential in the hands of one caller, or of the gate itself.
#[derive(Clone, Debug)]
pub struct Badge {
    /// The credential.
    pub credential: Arc<dyn Credential>,
    /// Whom requests are made for; `None` is the gate.
    pub asking: Option<Asking>,
}

/// What a POST was answered with.
pub enum Posted {
    /// 202: a notification or response was taken.
    Accepted,
    /// A JSON body.
    Whole {
        /// Its HTTP status.
        status: u16,
        /// One message, or a 2025-03-26 batch.
        messages: Vec<Message>,
    },
    /// An event stream.
    Events(Box<Events>),
}

/// What identifies a legacy session to its server; it never leaves the gateway (spec.md C-34).
#[derive(Clone, Debug)]
pub struct Wire {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// What it shows the server, if anything. It stays what it was, so that no session changes hands.
    pub badge: Option<Badge>,
    /// `Mcp-Session-Id`, if the server gave one.
    pub session: Option<HeaderValue>,
    /// The negotiated revision, once there is one.
    pub revision: Option<Revision>,
}

impl Wire {
    /// A wire to `endpoint` outside any session.
    pub fn new(endpoint: Endpoint, badge: Option<Badge>) -> Self {
        Self { endpoint, badge, session: None, revision: None }
    }

    /// Sends a request with the server's credential; once more if it was refused and another one can be had. The server
    /// has done nothing then (RFC 9110 §15.5.2), so nothing happens twice.
    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        headers_within: Duration,
    ) -> Result<Response<Body>, Failure> {
        let Some(badge) = &self.badge else {
            let sent = self.endpoint.send(method, headers, body, headers_within).await;
            return sent.map_err(|error| failure(&error));
        };
        let mut is_last = false;
        loop {
            let shown = badge.credential.headers(badge.asking.as_ref()).await.map_err(no_credential)?;
            let mut lines = headers.clone();
            lines.extend(shown.clone());
            let sent = self.endpoint.send(method.clone(), lines, body.clone(), headers_within).await;
            let response = sent.map_err(|error| failure(&error))?;
            let status = response.status();
            if is_last || !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Ok(response);
            }
            let refused = Refused { status: status.as_u16(), answer: response.headers(), shown: &shown };
            match badge.credential.challenged(badge.asking.as_ref(), refused).await {
                Ok(Retry::Once) => is_last = true,
                Ok(Retry::No) => return Ok(response),
                Err(why) => return Err(no_credential(why)),
            }
        }
    }

    /// From now on it speaks in the session that the head of an answer names, if it names one.
    pub fn enter_session(&mut self, head: &HeaderMap) {
        // Copied: the line shares memory with all that was read in one go with it, kilobytes for each session.
        let named = head.get(headers::SESSION_ID).map(HeaderValue::as_bytes);
        self.session = named.and_then(|id| HeaderValue::from_bytes(id).ok());
    }

    fn session_headers(&self, to: &mut HeaderMap) {
        if let Some(session) = &self.session {
            to.insert(headers::SESSION_ID, session.clone());
        }
        // 2025-03-26 does not know the header (spec.md B.0).
        if let Some(revision) = self.revision.filter(|r| *r >= Revision::V2025_06_18) {
            to.insert(headers::PROTOCOL_VERSION, HeaderValue::from_static(revision.name()));
        }
    }

    /// POSTs one message with the session's headers and `extra`.
    ///
    /// # Errors
    /// [`Failure`]; `SessionGone` for a 404 inside a session.
    pub async fn post(self, body: String, mut extra: HeaderMap) -> Result<(Posted, HeaderMap), Failure> {
        extra.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        extra.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.session_headers(&mut extra);
        let response = self.send(Method::POST, extra, Bytes::from(body), REQUEST_IDLE).await?;
        let (head, body) = response.into_parts();
        let posted = self.read(head.status, &head.headers, body).await?;
        Ok((posted, head.headers))
    }

    async fn read(self, status: StatusCode, head: &HeaderMap, body: Body) -> Result<Posted, Failure> {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(Failure::Unauthorized(status.as_u16()));
            }
            StatusCode::NOT_FOUND if self.session.is_some() => return Err(Failure::SessionGone),
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => return Ok(Posted::Accepted),
            _ => {}
        }
        if status.is_success() && headers::is_event_stream(head) {
            return Ok(Posted::Events(Box::new(Events::new(self, body))));
        }
        let is_json = headers::is_json(head);
        if !is_json && !status.is_success() {
            return Err(Failure::Status(status.as_u16()));
        }
        let bytes =
            body.collect_within(ANSWER_BYTES, REQUEST_IDLE).await.map_err(|error| lost(failure(&error)))?;
        if bytes.is_empty() && status.is_success() {
            return Ok(Posted::Accepted);
        }
        if !is_json {
            return Err(Failure::Protocol("its body is neither JSON nor an event stream".into()));
        }
        let batches = self.revision.is_some_and(Revision::has_batches);
        match read_messages(bytes, batches) {
            Ok(messages) => Ok(Posted::Whole { status: status.as_u16(), messages }),
            Err(failure) if status.is_success() => Err(failure),
            // An error page that happens to be JSON.
            Err(_) => Err(Failure::Status(status.as_u16())),
        }
    }

    /// Opens the stream of messages that answer nothing, or resumes one after `last_event` (spec.md C-28).
    ///
    /// # Errors
    /// [`Failure::Status`] 405 if the server offers none.
    pub async fn listen(&self, last_event: Option<&str>) -> Result<Events, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_event {
            let value = HeaderValue::from_str(id)
                .map_err(|_| Failure::Protocol("its event id fits no header".into()))?;
            headers.insert(headers::LAST_EVENT_ID, value);
        }
        self.session_headers(&mut headers);
        let response = self.send(Method::GET, headers, Bytes::new(), CONTROL_WAIT).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Failure::SessionGone);
        }
        if !response.status().is_success() || !headers::is_event_stream(response.headers()) {
            return Err(Failure::Status(response.status().as_u16()));
        }
        Ok(Events::new(self.clone(), response.into_body()))
    }

    /// Ends the session; servers that cannot are left alone (spec.md C-27).
    pub async fn delete(&self) {
        if self.session.is_none() {
            return;
        }
        let mut headers = HeaderMap::new();
        self.session_headers(&mut headers);
        // Whatever comes back, the session is not used again.
        let _ = self.send(Method::DELETE, headers, Bytes::new(), CONTROL_WAIT).await;
    }
}

/// An event stream, read message by message.
pub struct Events {
    wire: Wire,
    body: Option<Body>,
    decoder: Decoder,
    ready: VecDeque<Message>,
    last_event: Option<String>,
    retry: Option<u64>,
    resumptions: u32,
    /// Whether this stream answers a request, whose response is its last message.
    ended: bool,
}

impl Events {
    fn new(wire: Wire, body: Body) -> Self {
        Self {
            wire,
            body: Some(body),
            decoder: Decoder::new(ANSWER_BYTES),
            ready: VecDeque::new(),
            last_event: None,
            retry: None,
            resumptions: 0,
            ended: false,
        }
    }

    /// The next message.
    ///
    /// A stream that ends early is resumed where the server gave ids to resume by, else it is lost (C-14, C-28).
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn next(&mut self) -> Result<Option<Item>, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.ended |= message.kind() == bartizan_mcp::Kind::Response;
                return Ok(Some(Item::Message(message)));
            }
            if let Some(event) = self.decoder.next_event().map_err(|f| Failure::Protocol(f.to_string()))? {
                self.take(event)?;
                continue;
            }
            let Some(body) = &mut self.body else {
                self.resume().await?;
                continue;
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.feed(data);
                    }
                }
                end => {
                    self.body = None;
                    if self.ended {
                        return Ok(None);
                    }
                    let why = match end {
                        Some(Err(error)) => error.to_string(),
                        _ => "its stream ended without a response".to_owned(),
                    };
                    if self.last_event.is_none() || self.wire.revision.is_none() {
                        return Err(Failure::Lost(why));
                    }
                    self.decoder = Decoder::new(ANSWER_BYTES);
                    return Ok(Some(Item::Interrupted { retry: self.retry }));
                }
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), Failure> {
        if let Some(id) = event.id {
            self.last_event = (!id.is_empty()).then(|| id.to_string());
        }
        if event.retry.is_some() {
            self.retry = event.retry;
        }
        if event.data.is_empty() || event.event.as_deref().is_some_and(|name| name != "message") {
            return Ok(());
        }
        self.resumptions = 0;
        let batches = self.wire.revision.is_some_and(Revision::has_batches);
        self.ready.extend(read_messages(event.data.into(), batches)?);
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), Failure> {
        self.resumptions += 1;
        if self.resumptions > RESUME_ATTEMPTS {
            return Err(Failure::Lost("its stream kept breaking".into()));
        }
        // `retry: 0` must not make a tight loop (attacks.md PH-21).
        let wait = self.retry.unwrap_or(500).clamp(50, 30_000) * u64::from(self.resumptions);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match self.wire.listen(self.last_event.as_deref()).await {
            Ok(mut resumed) => self.body = resumed.body.take(),
            Err(Failure::Unreachable(_) | Failure::Timeout(_)) => {}
            Err(failure) => return Err(lost(failure)),
        }
        Ok(())
    }
}

fn read_messages(bytes: Vec<u8>, batches: bool) -> Result<Vec<Message>, Failure> {
    let read = if batches { Message::parse_batch(bytes) } else { Message::parse(bytes).map(|m| vec![m]) };
    read.map_err(|fault| Failure::Protocol(fault.to_string()))
}

fn failure(error: &bartizan_egress::Error) -> Failure {
    match error {
        bartizan_egress::Error::Timeout => Failure::Timeout(REQUEST_IDLE.as_secs()),
        _ if error.sent_nothing() => Failure::Unreachable(error.to_string()),
        _ => Failure::Lost(error.to_string()),
    }
}

pub(crate) fn no_credential(why: Unobtainable) -> Failure {
    match why {
        Unobtainable::NeedsLinking(url) => Failure::NeedsLinking(url.into()),
        Unobtainable::StepUp(step_up) => Failure::StepUp(step_up),
        Unobtainable::NotForCaller(why) => Failure::NotForCaller(why),
        Unobtainable::Nobody | Unobtainable::Failed(_) => {
            tracing::warn!(%why, "a server's credential is missing");
            Failure::NoCredential
        }
    }
}

/// After an answer began, the request was sent, whatever broke later.
fn lost(failure: Failure) -> Failure {
    match failure {
        Failure::Unreachable(why) => Failure::Lost(why),
        other => other,
    }
}
