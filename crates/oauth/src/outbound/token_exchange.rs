//! `kind = "token-exchange"`: a token for the server in exchange for the caller's own (RFC 8693), at a token endpoint the
//! operator names. The caller's token goes there and nowhere else.

use std::fmt;

use async_trait::async_trait;
use bartizan_model::ServerName;
use http::HeaderMap;
use url::Url;

use super::{
    Asking, Credential, Means, Refused, Retry, TokenExchangeConfig, Unobtainable,
    client::{Client, Form, Proof, SigningKey},
    exchange::{Exchanges, refused, subject},
    metadata::{self, AuthorizationServer},
    token::{self, Tokens},
};
use crate::subjects::Subject;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Tokens that an authorization server gives in exchange for those of callers.
pub struct TokenExchange {
    name: ServerName,
    server: Url,
    config: TokenExchangeConfig,
    means: Means,
    exchanges: Exchanges,
}

impl fmt::Debug for TokenExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenExchange({})", self.name)
    }
}

impl TokenExchange {
    /// A credential as configured, for the server `name` at `server`.
    pub(super) fn new(name: &ServerName, server: &Url, config: &TokenExchangeConfig, means: &Means) -> Self {
        Self {
            name: name.clone(),
            server: server.clone(),
            config: config.clone(),
            means: means.clone(),
            exchanges: Exchanges::new(means.clock.clone()),
        }
    }

    /// The caller's token, if its issuer is one whose tokens are exchanged.
    fn subject(&self, asking: Option<&Asking>) -> Result<Subject, Unobtainable> {
        let subject = subject(asking, &self.means.subjects)?;
        let issuers = &self.config.subject_issuers;
        if !issuers.is_empty() && !issuers.iter().any(|issuer| issuer == subject.verified.signed_by()) {
            return Err(Unobtainable::NotForCaller("it takes access tokens of another issuer than yours"));
        }
        Ok(subject)
    }

    async fn obtain(&self, subject: &Subject) -> Result<Tokens, Unobtainable> {
        let (config, Means { secrets, issuers, clock, entropy, .. }) = (&self.config, &self.means);
        let failed = Unobtainable::Failed;
        let server = self.server().await.map_err(failed)?;
        let proof = match (&config.private_key, &config.client_secret) {
            (Some(key), _) => {
                let key = secrets.read(key).await.map_err(failed)?;
                Proof::Key(SigningKey::from_pem(&key).map_err(failed)?)
            }
            (None, Some(secret)) => Proof::secret(secrets.read(secret).await.map_err(failed)?, &server),
            (None, None) => return Err(failed("it has neither `client_secret` nor `private_key`".into())),
        };
        let client = Client { id: config.client_id.clone(), proof };
        let canonical = metadata::canonical(&self.server);
        let resource = match (&config.resource, &config.audience) {
            (Some(resource), _) => resource,
            (None, Some(_)) => "",
            (None, None) => &canonical,
        };
        let form = Form::new(GRANT)
            .with("subject_token", subject.token.reveal())
            .with("subject_token_type", ACCESS_TOKEN)
            .with("requested_token_type", ACCESS_TOKEN)
            .with_some("resource", resource)
            .with_some("audience", config.audience.as_deref().unwrap_or_default())
            .with_some("scope", &config.scopes.join(" "));
        let given =
            token::request(&server, &client, form, issuers.as_ref(), clock.as_ref(), entropy.as_ref()).await;
        let tokens = given.map_err(refused)?;
        // RFC 8693 §2.2.1: it must say what it gave. An ID token or a refresh token is nothing for a server.
        if !matches!(tokens.issued.as_deref(), Some(ACCESS_TOKEN | JWT)) {
            return Err(failed("the token endpoint does not say that it gave an access token".into()));
        }
        Ok(tokens)
    }

    async fn server(&self) -> Result<AuthorizationServer, String> {
        match (&self.config.token_url, &self.config.issuer) {
            (Some(url), issuer) => {
                let issuer = issuer.clone().unwrap_or_else(|| url.to_string());
                Ok(AuthorizationServer::bare(issuer, url.clone()))
            }
            (None, Some(issuer)) => {
                let named = Url::parse(issuer).map_err(|_| "`issuer` is no URL".to_owned())?;
                metadata::authorization_server(issuer, &[&named], self.means.issuers.as_ref())
                    .await
                    .map_err(|fault| fault.to_string())
            }
            (None, None) => Err("it has neither `issuer` nor `token_url`".into()),
        }
    }
}

#[async_trait]
impl Credential for TokenExchange {
    async fn headers(&self, asking: Option<&Asking>) -> Result<HeaderMap, Unobtainable> {
        let subject = self.subject(asking)?;
        self.exchanges.headers(&subject, |_| self.obtain(&subject)).await
    }

    async fn challenged(&self, asking: Option<&Asking>, refused: Refused<'_>) -> Result<Retry, Unobtainable> {
        Ok(self.exchanges.challenged(&self.subject(asking)?, refused).await)
    }

    fn is_personal(&self) -> bool {
        true
    }

    fn is_exchanged(&self) -> bool {
        true
    }
}
