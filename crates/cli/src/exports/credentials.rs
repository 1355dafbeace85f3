//! An access token for an application of its own (RFC 6749 §4.4).

use std::sync::{Arc, Mutex, PoisonError};

use bartizan_egress::Endpoint;
use bartizan_model::{Clock, Secret, Timestamp};

use crate::{managed_identity::ManagedIdentity, token_endpoint};

/// Who asks for access tokens.
pub enum Credentials {
    /// An application with a secret.
    Application(ClientCredentials),
    /// The identity that Azure manages for this machine; its tokens are for one resource.
    Machine(ManagedIdentity),
}

impl Credentials {
    /// A token for `scope`: the last one while it lasts.
    ///
    /// # Errors
    /// What went wrong, in words that repeat no secret.
    pub async fn token(&self, scope: &str) -> Result<Secret, String> {
        match self {
            Self::Application(application) => application.token(scope).await,
            Self::Machine(machine) => machine.token().await,
        }
    }

    /// Forgets the token: the receiver did not take it.
    pub async fn forget(&self) {
        match self {
            Self::Application(application) => application.forget(),
            Self::Machine(machine) => machine.forget().await,
        }
    }
}

/// The application, and the last token it got.
pub struct ClientCredentials {
    endpoint: Endpoint,
    client_id: String,
    client_secret: Secret,
    clock: Arc<dyn Clock>,
    token: Mutex<Option<(Secret, Timestamp)>>,
}

impl ClientCredentials {
    /// An application known to the token endpoint `endpoint`.
    pub fn new(endpoint: Endpoint, client_id: String, client_secret: Secret, clock: Arc<dyn Clock>) -> Self {
        Self { endpoint, client_id, client_secret, clock, token: Mutex::default() }
    }

    /// A token for `scope`: the last one while it lasts.
    ///
    /// # Errors
    /// What went wrong, in words that repeat no secret.
    pub async fn token(&self, scope: &str) -> Result<Secret, String> {
        let now = self.clock.now();
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((token, until)) = known
            && now < until
        {
            return Ok(token);
        }
        let form: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", self.client_secret.reveal())
            .append_pair("scope", scope)
            .finish();
        let (token, lasts) = token_endpoint::ask(&self.endpoint, form.into()).await?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((token.clone(), now.plus(lasts)));
        Ok(token)
    }

    /// Forgets the token: the receiver did not take it.
    pub fn forget(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
