//! What is served beside the MCP endpoints: metadata for whoever asks, and pages for people in browsers. None of it enters
//! the path of a request.

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_oauth::facade::Asked;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header, request::Parts};

use crate::{
    body::Body,
    limits::PAGE_BYTES,
    listener::{Door, Peer},
    respond::{self, Answer},
};

/// Answers for the paths it knows.
#[async_trait]
pub trait Pages: Send + Sync {
    /// The answer; `None` if the path is not one of its own.
    async fn answer(&self, asked: &Asked<'_>) -> Option<Response<Bytes>>;
}

/// A request for something else than an MCP endpoint.
pub struct Visit {
    /// Its head.
    pub head: Parts,
    /// Who sent it, as far as the connection tells.
    pub sender: Peer,
    /// Its body, not read yet.
    pub body: Body,
}

/// Answers a visit.
pub async fn answer(door: &Arc<Door>, visit: Visit) -> Response<Answer> {
    let Visit { head, sender, body } = visit;
    if let Some(body) = door.authenticator.load().document(head.uri.path()) {
        return document(&head.method, body);
    }
    let pages = door.pages.load_full();
    if pages.is_empty() {
        return respond::plain(404, "not found\n");
    }
    let body = match body.read(PAGE_BYTES).await {
        Ok(body) => body,
        Err(refusal) => return respond::refused(&refusal, None),
    };
    let asked = Asked {
        method: &head.method,
        path: head.uri.path(),
        query: head.uri.query(),
        headers: &head.headers,
        body: &body,
        peer: sender.address,
        is_tls: sender.is_tls,
    };
    for pages in pages.iter() {
        if let Some(answer) = pages.answer(&asked).await {
            return answer.map(|body| Answer::Whole(Some(body)));
        }
    }
    respond::plain(404, "not found\n")
}

/// What is published beside the endpoints, to everybody (RFC 9728 §3; spec.md E-02).
fn document(method: &Method, body: Bytes) -> Response<Answer> {
    let mut answer = match *method {
        Method::GET | Method::HEAD => respond::document(body),
        Method::OPTIONS => respond::document(Bytes::new()),
        _ => respond::plain(405, "method not allowed\n"),
    };
    let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
    answer.headers_mut().insert(header::ALLOW, methods.clone());
    answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let headers = HeaderValue::from_static("MCP-Protocol-Version");
    answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
    answer
}
