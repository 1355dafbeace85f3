//! The facade as the browser's half knows it.

use async_trait::async_trait;
use http::StatusCode;

use super::{Asked, AuthorizationRequest, Facade, Incomplete, Person, Unanswerable};
use crate::signin::{self, Desk};

impl From<Unanswerable> for signin::Unanswerable {
    fn from(no: Unanswerable) -> Self {
        match no {
            Unanswerable::Page { status, words, .. } => Self::Page {
                status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
                words: words.to_owned(),
            },
            Unanswerable::Redirect { location, stranger, words, .. } => {
                Self::Redirect { location, stranger, words }
            }
        }
    }
}

impl From<Incomplete> for signin::Unanswerable {
    fn from(no: Incomplete) -> Self {
        let status = match no {
            Incomplete::ClientChanged => StatusCode::CONFLICT,
            Incomplete::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::Page { status, words: no.to_string() }
    }
}

#[async_trait]
impl Desk for Facade {
    async fn begin(&self, asked: &Asked<'_>) -> Result<AuthorizationRequest, signin::Unanswerable> {
        Ok(Self::begin(self, asked).await?)
    }

    async fn complete(
        &self,
        request: AuthorizationRequest,
        person: &Person,
    ) -> Result<String, signin::Unanswerable> {
        Ok(Self::complete(self, request, person).await?)
    }

    fn deny(&self, request: &AuthorizationRequest, error: &str) -> String {
        Self::deny(self, request, error)
    }

    async fn withdraw(&self, issuer: &str, subject: &str, client: &str) -> Result<(), signin::Unanswerable> {
        let done = self.revoke_consent(issuer, subject, client).await;
        Ok(done.map_err(|_| Incomplete::Unavailable)?)
    }
}
