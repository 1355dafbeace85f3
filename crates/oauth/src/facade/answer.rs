//! Answers in JSON, and which pages of other origins may read them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::Serialize;
use url::Url;

use super::redirect;

/// A JSON answer that nobody keeps.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    // Our own values always have a JSON form.
    let mut response = Response::new(Bytes::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A JSON document that everybody may keep for a while (spec.md H-19).
pub(crate) fn document(body: &impl Serialize) -> Response<Bytes> {
    let mut response = json(StatusCode::OK, body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

pub(crate) fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whose pages may call an endpoint.
#[derive(Clone, Copy)]
pub(crate) enum Readers {
    /// Pages of every origin: the document is public, and nothing but public.
    All,
    /// Pages on loopback and of the configured origins.
    Configured,
    /// No page.
    None,
}

/// An endpoint: how it is asked, and by whose pages.
pub(crate) struct Endpoint {
    pub methods: &'static [Method],
    pub allow: &'static str,
    pub readers: Readers,
}

impl Endpoint {
    /// The answer to a question before the question: `OPTIONS`.
    pub fn preflight(&self) -> Response<Bytes> {
        let mut response = empty(StatusCode::NO_CONTENT);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(self.allow));
        response
    }

    /// The answer to a method that the endpoint does not know.
    pub fn wrong_method(&self) -> Response<Bytes> {
        let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(self.allow));
        response
    }

    /// Adds what a page needs to read the answer, if it may (Fetch §3.2).
    pub fn share(&self, response: &mut Response<Bytes>, asked: &HeaderMap, origins: &[String]) {
        let headers = response.headers_mut();
        let reader = match self.readers {
            Readers::None => return,
            Readers::All => HeaderValue::from_static("*"),
            Readers::Configured => {
                headers.append(header::VARY, HeaderValue::from_static("Origin"));
                let mut lines = asked.get_all(header::ORIGIN).iter();
                let (Some(origin), None) = (lines.next(), lines.next()) else { return };
                let is_reader = origin
                    .to_str()
                    .is_ok_and(|origin| origins.iter().any(|known| known == origin) || is_loopback(origin));
                if !is_reader {
                    return;
                }
                origin.clone()
            }
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, reader);
        let lines = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, self.allow),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, DPoP, MCP-Protocol-Version"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "WWW-Authenticate, Retry-After, DPoP-Nonce"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        for (name, value) in lines {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// The origin of a page on this very machine: a local client's, such as the Inspector's.
fn is_loopback(origin: &str) -> bool {
    redirect::is_loopback(origin)
        && Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == origin)
}
