//! `kind = "client-credentials"`: the gate's own access tokens, the same for everybody (RFC 6749 §4.4).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Clock, Entropy, Secret, Timestamp};
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::Mutex;
use url::Url;

use super::{
    Asking, ClientCredentialsConfig, Credential, Means, Refused, Retry, Secrets, Unobtainable,
    client::{Client, Form, Proof, SigningKey},
    metadata::{self, AuthorizationServer, Identity},
    sensitive,
    token::{self, Tokens},
};
use crate::fetch::Fetch;

/// Between two questions that fail, whatever is asked of us.
const REST: Duration = Duration::from_secs(5);

/// How old a refused token must be for another one to be worth a question.
const YOUNG: Duration = Duration::from_secs(10);

/// Tokens of the gate's own at one authorization server.
pub struct ClientCredentials {
    server: Url,
    config: ClientCredentialsConfig,
    /// Reaches the server.
    ask: Arc<dyn Fetch>,
    /// Reaches the authorization server.
    issuers: Arc<dyn Fetch>,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Whoever holds the lock asks; the others wait for the answer.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    token: Option<(HeaderValue, Tokens)>,
    asked: Option<Timestamp>,
    failed: Option<String>,
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCredentials({})", self.config.client_id)
    }
}

impl ClientCredentials {
    /// A credential as configured, for the server at `server`.
    pub(super) fn new(server: &Url, config: &ClientCredentialsConfig, means: &Means) -> Self {
        Self {
            server: server.clone(),
            config: config.clone(),
            ask: Arc::clone(&means.ask),
            issuers: Arc::clone(&means.issuers),
            secrets: Arc::clone(&means.secrets),
            clock: Arc::clone(&means.clock),
            entropy: Arc::clone(&means.entropy),
            held: Mutex::default(),
        }
    }

    async fn obtain(&self) -> Result<Tokens, String> {
        let (resource, server) = self.places().await?;
        let proof = match (&self.config.private_key, &self.config.client_secret) {
            (Some(key), _) => Proof::Key(SigningKey::from_pem(&self.secrets.read(key).await?)?),
            (None, Some(secret)) => Proof::secret(self.secrets.read(secret).await?, &server),
            (None, None) => return Err("it has neither `client_secret` nor `private_key`".into()),
        };
        let client = Client { id: self.config.client_id.clone(), proof };
        let form = Form::new("client_credentials")
            .with("resource", &resource)
            .with_some("scope", &self.config.scopes.join(" "));
        let (clock, entropy) = (self.clock.as_ref(), self.entropy.as_ref());
        token::request(&server, &client, form, self.issuers.as_ref(), clock, entropy)
            .await
            .map_err(|denied| denied.to_string())
    }

    /// What tokens are for, and who gives them.
    async fn places(&self) -> Result<(String, AuthorizationServer), String> {
        let config = &self.config;
        let said = |fault: metadata::Fault| fault.to_string();
        let resource = match (&config.resource, &config.issuer) {
            (Some(resource), _) => resource.clone(),
            (None, Some(issuer)) => {
                // One that calls itself something else is named by the operator, as `resource`.
                metadata::resource(&self.server, None, Some(issuer), Identity::Exact, self.ask.as_ref())
                    .await
                    .map_err(said)?
                    .identifier
            }
            (None, None) => metadata::canonical(&self.server),
        };
        let server = match (&config.token_url, &config.issuer) {
            (Some(url), issuer) => {
                let issuer = issuer.clone().unwrap_or_else(|| url.to_string());
                AuthorizationServer::bare(issuer, url.clone())
            }
            (None, Some(issuer)) => {
                let named = Url::parse(issuer).map_err(|_| "`issuer` is no URL".to_owned())?;
                metadata::authorization_server(issuer, &[&named], self.issuers.as_ref())
                    .await
                    .map_err(said)?
            }
            (None, None) => return Err("it has neither `issuer` nor `token_url`".into()),
        };
        Ok((resource, server))
    }

    /// The line, asking for a token if there is none that is good.
    async fn line(&self, held: &mut Held) -> Result<HeaderValue, Unobtainable> {
        let now = self.clock.now();
        if let Some((line, tokens)) = &held.token
            && now < tokens.until
        {
            return Ok(line.clone());
        }
        if let (Some(why), Some(asked)) = (&held.failed, held.asked)
            && now.since(asked) < REST
        {
            return Err(Unobtainable::Failed(why.clone()));
        }
        held.asked = Some(now);
        match self.obtain().await {
            Ok(tokens) => {
                let line = sensitive(&Secret::new(format!("Bearer {}", tokens.access.reveal())))?;
                held.failed = None;
                held.token = Some((line.clone(), tokens));
                Ok(line)
            }
            Err(why) => {
                held.failed = Some(why.clone());
                Err(Unobtainable::Failed(why))
            }
        }
    }
}

#[async_trait]
impl Credential for ClientCredentials {
    async fn headers(&self, _asking: Option<&Asking>) -> Result<HeaderMap, Unobtainable> {
        let line = self.line(&mut *self.held.lock().await).await?;
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, line)]))
    }

    async fn challenged(
        &self,
        _asking: Option<&Asking>,
        refused: Refused<'_>,
    ) -> Result<Retry, Unobtainable> {
        // What is asked for is the operator's choice: a wider token is not to be had.
        if refused.status != 401 {
            return Ok(Retry::No);
        }
        let mut held = self.held.lock().await;
        let is_current =
            held.token.as_ref().map(|(line, _)| line) == refused.shown.get(header::AUTHORIZATION);
        let is_young = held.asked.is_some_and(|at| self.clock.now().since(at) < YOUNG);
        if is_current && is_young {
            return Ok(Retry::No);
        }
        if is_current {
            held.token = None;
        }
        self.line(&mut held).await?;
        Ok(Retry::Once)
    }
}
