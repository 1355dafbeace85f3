//! Answers to browsers, and the headers that every one of them has (attacks.md CD-10; spec.md F-29, G-40).

use askama::Template;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use url::Url;

use super::{
    decisions::Undecided,
    desk::Unanswerable,
    pages::{self, Message},
    refusal::Refusal,
    seen,
};
use crate::{
    Deed, Report,
    facade::{AuthorizationRequest, Person},
};

/// What happened, for the audit trail: among the extensions of every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// A stable code: `consent.granted`, `signin.state-foreign`.
    pub reason: &'static str,
    /// The client it is about.
    pub client: Option<String>,
    /// The resource the client asks for.
    pub resource: Option<String>,
    /// What it asks to do there.
    pub scopes: Vec<String>,
    /// Where its answer is to go.
    pub redirect_uri: Option<String>,
    /// Issuer and subject of the person it is about, where they are known.
    pub person: Option<(String, String)>,
}

/// No scripts, no frames, nothing from elsewhere. Forms go here only: what leads on after a form is a page of ours, since
/// Chromium holds the redirects of a form to `form-action` too.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// An answer in the making.
pub(super) struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
    location: Option<String>,
    cookies: Vec<String>,
    allow: Option<&'static str>,
    /// Seconds.
    retry_after: Option<u64>,
    caching: &'static str,
    noted: Noted,
}

impl Reply {
    pub fn page(page: &impl Template, reason: &'static str) -> Self {
        Self::with_status(StatusCode::OK, page, reason)
    }

    fn with_status(status: StatusCode, page: &impl Template, reason: &'static str) -> Self {
        // Only a template's own code can fail, and ours has none that does; an empty page still says nothing wrong.
        let html = page.render().unwrap_or_default();
        Self {
            status,
            kind: "text/html; charset=utf-8",
            body: html.into(),
            location: None,
            cookies: Vec::new(),
            allow: None,
            retry_after: None,
            caching: "no-store",
            noted: Noted {
                reason,
                client: None,
                resource: None,
                scopes: Vec::new(),
                redirect_uri: None,
                person: None,
            },
        }
    }

    /// To another address, by GET (RFC 9700 §4.12).
    pub fn redirect(location: String, reason: &'static str) -> Self {
        if !is_web(&location) {
            return Refusal::Internal.into();
        }
        let mut reply = Self::page(&pages::Onward::new(&location, ""), reason);
        reply.status = StatusCode::SEE_OTHER;
        reply.location = Some(location);
        reply
    }

    /// To another address by way of a page: the answer to a form.
    pub fn onward(location: &str, name: &str, reason: &'static str) -> Self {
        if !is_web(location) {
            return Refusal::Internal.into();
        }
        Self::page(&pages::Onward::new(location, name), reason)
    }

    pub fn style() -> Self {
        let mut reply = Self::page(&Message { title: "", words: "", onward: None }, "signin.style");
        reply.kind = "text/css; charset=utf-8";
        reply.body = Bytes::from_static(pages::STYLE.as_bytes());
        reply.caching = "max-age=3600";
        reply
    }

    pub fn cookie(mut self, line: String) -> Self {
        self.cookies.push(line);
        self
    }

    pub fn about(mut self, request: &AuthorizationRequest) -> Self {
        self.noted.resource = Some(request.resource.clone());
        self.noted.scopes.clone_from(&request.scopes);
        self.noted.redirect_uri = Some(request.redirect_uri.clone());
        self.about_client(&request.client.id)
    }

    pub fn about_client(mut self, client: &str) -> Self {
        self.noted.client = Some(client.to_owned());
        self
    }

    pub fn about_person(mut self, person: &Person) -> Self {
        self.noted.person = Some((person.issuer.clone(), person.subject.clone()));
        self
    }

    /// What is to be recorded of it. What gives somebody something is on record before it is done.
    pub fn report(&self) -> Option<Report> {
        let Noted { reason, client, resource, scopes, redirect_uri, person } = self.noted.clone();
        let deed = match reason {
            "consent.asked" => Deed::ConsentAsked,
            "consent.denied" => Deed::ConsentDenied,
            "consent.withdrawn" => Deed::ConsentWithdrawn,
            "signin.refused" => Deed::SignInRefused,
            "signin.signed-out" => Deed::SignedOut,
            _ => return None,
        };
        Some(Report { client, resource, scopes, redirect_uri, person, ..Report::new(deed, reason) })
    }

    pub fn finish(self) -> Response<Bytes> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self.noted);
        let headers = response.headers_mut();
        let fixed = [
            (header::CONTENT_TYPE, self.kind),
            (header::CACHE_CONTROL, self.caching),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Some(methods) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(location) = &self.location
            && !add(headers, header::LOCATION, location)
        {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
        for line in &self.cookies {
            add(response.headers_mut(), header::SET_COOKIE, line);
        }
        response
    }
}

/// Whether a browser can go there and run nothing (spec.md G-38): whoever let another address through, it ends here.
fn is_web(location: &str) -> bool {
    let is_ours = location.starts_with('/') && !location.starts_with("//");
    is_ours || location.starts_with("https://") || location.starts_with("http://")
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) -> bool {
    HeaderValue::from_str(value).map(|value| headers.append(name, value)).is_ok()
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let said = refusal.said();
        match &refusal {
            Refusal::Database(error) => tracing::error!(%error, "a person could not be answered"),
            Refusal::Undecided(Undecided::Unavailable(why)) => {
                tracing::error!(%why, "a person could not be shown what waits");
            }
            Refusal::Provider(lost) => tracing::warn!(%lost, reason = said.reason, "a sign-in failed"),
            _ => tracing::info!(reason = said.reason, "a person was turned away"),
        }
        if let Refusal::Desk(Unanswerable::Redirect { location, stranger: None, .. }) = refusal {
            return Self::redirect(location, said.reason);
        }
        let status = StatusCode::from_u16(said.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let tell;
        let onward = match &refusal {
            Refusal::Desk(Unanswerable::Redirect { location, .. }) if is_web(location) => {
                let host = Url::parse(location).ok().and_then(|url| url.host_str().map(seen::address));
                tell = format!("Go to {}", host.unwrap_or_default());
                Some((location.as_str(), tell.as_str()))
            }
            refusal => refusal.onward(),
        };
        let page = Message { title: said.title, words: &said.words, onward };
        let mut reply = Self::with_status(status, &page, said.reason);
        match refusal {
            Refusal::Method(methods) => reply.allow = Some(methods),
            Refusal::Crowded(seconds) => reply.retry_after = Some(seconds),
            _ => {}
        }
        reply
    }
}
