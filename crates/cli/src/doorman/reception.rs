//! What is served beside the MCP endpoints.

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_gateway::pages::Pages;
use bartizan_model::Caller;
use bartizan_oauth::{
    Facade,
    facade::{Asked, Person},
    outbound::Linking,
    signin::SignIn,
};
use bartizan_store::{Responses, StoredResponses, responses::Target};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

/// Everything that is served beside the MCP endpoints.
pub(super) struct Reception {
    pub facade: Arc<Facade>,
    pub sign_in: Arc<SignIn>,
    pub linking: Arc<Linking>,
    pub responses: StoredResponses,
}

impl Reception {
    /// Whether this is where accounts at a server in quarantine are linked, or `person` was cut off: what is granted there now
    /// would have to be revoked again. What cannot be found out is taken for so.
    async fn is_cut_off(&self, path: &str, person: Option<&Person>) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        let caller = person.map(|person| Caller::new(&person.issuer, &person.subject, ""));
        let Ok(in_force) = self.responses.all().await else { return true };
        in_force.iter().any(|response| match &response.target {
            Target::Server(server) => server.as_str() == name,
            target => caller.as_ref().is_some_and(|caller| target.is(caller)),
        })
    }
}

fn cut_off() -> Response<Bytes> {
    let words = "This server is in quarantine, or your access was revoked. No account is linked until an operator releases it.\n";
    let mut response = Response::new(Bytes::from_static(words.as_bytes()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[async_trait]
impl Pages for Reception {
    async fn answer(&self, asked: &Asked<'_>) -> Option<Response<Bytes>> {
        if let Some(answer) = self.facade.answer(asked).await {
            return Some(answer);
        }
        if let Some(answer) = self.sign_in.answer(asked).await {
            return Some(answer);
        }
        if let Some(answer) = self.linking.document(asked) {
            return Some(answer);
        }
        if !asked.path.starts_with("/connect/") {
            return None;
        }
        let person = self.sign_in.person(asked).await;
        if self.is_cut_off(asked.path, person.as_ref()).await {
            return Some(cut_off());
        }
        match person {
            Some(person) => self.linking.answer(asked, &person).await,
            None => Some(sign_in_first()),
        }
    }
}

/// Nobody links an account before we know whose it will be.
fn sign_in_first() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static("/account"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
