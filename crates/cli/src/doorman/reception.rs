//! What is served beside the MCP endpoints.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use bartizan_gateway::pages::Pages;
use bartizan_model::{Caller, ServerName};
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
    /// The servers in quarantine. `None` if this is where accounts at one of those are linked, or `person` was cut off: what is
    /// granted there now would have to be revoked again. What cannot be found out is taken for so.
    async fn closed(&self, path: &str, person: Option<&Person>) -> Option<BTreeSet<ServerName>> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let caller = person.map(|person| Caller::new(&person.issuer, &person.subject, ""));
        let in_force = self.responses.all().await.ok()?;
        let is_he = |target: &Target| caller.as_ref().is_some_and(|caller| target.is(caller));
        if in_force.iter().any(|response| is_he(&response.target)) {
            return None;
        }
        let closed: BTreeSet<_> = in_force
            .into_iter()
            .filter_map(|response| match response.target {
                Target::Server(server) => Some(server),
                _ => None,
            })
            .collect();
        (!closed.contains(name)).then_some(closed)
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
        let Some(closed) = self.closed(asked.path, person.as_ref()).await else { return Some(cut_off()) };
        match person {
            Some(person) => self.linking.answer(asked, &person, &closed).await,
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
