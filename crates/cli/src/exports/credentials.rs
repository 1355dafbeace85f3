//! An access token for an application of its own (RFC 6749 §4.4).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bartizan_egress::Endpoint;
use bartizan_model::{Clock, Secret, Timestamp};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;

use crate::managed_identity::ManagedIdentity;

/// How long a token endpoint may take.
const WITHIN: Duration = Duration::from_secs(15);

/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;

/// A token is not used in the last minutes of its life: it must not expire on the way.
const MARGIN: Duration = Duration::from_secs(120);

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

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
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
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let words = |error: bartizan_egress::Error| format!("the token endpoint: {error}");
        let response = self.endpoint.send(Method::POST, headers, form.into(), WITHIN).await.map_err(words)?;
        let status = response.status();
        let body = response.into_body().collect_within(LONGEST, WITHIN).await.map_err(words)?;
        if !status.is_success() {
            // The description may quote what we sent; the code is one of a list.
            let code = serde_json::from_slice::<Refused>(&body).map(|refused| refused.error);
            let code = code.ok().filter(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
            return Err(format!("the token endpoint answered {}{code}", status.as_u16()));
        }
        let granted: Granted =
            serde_json::from_slice(&body).map_err(|_| "the token endpoint gave no token".to_owned())?;
        let token = Secret::new(granted.access_token);
        let lasts = Duration::from_secs(granted.expires_in).saturating_sub(MARGIN);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((token.clone(), now.plus(lasts)));
        Ok(token)
    }

    /// Forgets the token: the receiver did not take it.
    pub fn forget(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
