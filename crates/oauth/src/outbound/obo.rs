//! `kind = "entra-obo"`: Microsoft Entra's on-behalf-of flow (attacks.md §2.2). The gate shows the tenant the person's token for
//! the gate, and gets one for the server in that person's name.
//!
//! Which token that is depends on who signed the person in. A token of the tenant that came in is it; behind a token of the
//! gate's own stands a sign-in at the tenant, which left one ([`super::Assertions`]). People only: an application has nobody
//! on whose behalf it could act (AA-32).

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bartizan_model::{Secret, ServerName};
use http::HeaderMap;

use super::{
    Asking, Credential, EntraOboConfig, Means, Refused, Retry, Unobtainable,
    entra_app::{EntraApp, EntraMeans},
    exchange::{Exchanges, refused, subject},
    token::Tokens,
};
use crate::{Principal, StepUp, subjects::Subject};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Tokens of one tenant in the name of whoever calls.
pub struct EntraObo {
    name: ServerName,
    config: EntraOboConfig,
    app: Arc<EntraApp>,
    means: Means,
    exchanges: Exchanges,
}

impl fmt::Debug for EntraObo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntraObo({})", self.name)
    }
}

impl EntraObo {
    /// A credential as configured, for the server `name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(name: &ServerName, config: &EntraOboConfig, means: &Means) -> Result<Self, String> {
        let app = config.app.as_ref().or(means.provider.as_ref()).ok_or(
            "it needs `app`: the gate's registration in the tenant; only a gate whose [identity.provider] is of kind \"entra\" can \
             do without",
        )?;
        let lent = EntraMeans {
            fetch: Arc::clone(&means.issuers),
            secret: Arc::clone(&means.read),
            clock: Arc::clone(&means.clock),
            entropy: Arc::clone(&means.entropy),
        };
        Ok(Self {
            name: name.clone(),
            config: config.clone(),
            app: Arc::new(EntraApp::new(app, lent)?),
            means: means.clone(),
            exchanges: Exchanges::new(Arc::clone(&means.clock)),
        })
    }

    fn subject(&self, asking: Option<&Asking>) -> Result<Subject, Unobtainable> {
        let subject = subject(asking, &self.means.subjects)?;
        let verified = &subject.verified;
        if verified.principal() != Principal::User {
            return Err(Unobtainable::NotForCaller(
                "it is used in the name of people, and you are an application",
            ));
        }
        // Another issuer's token is nothing to show to this one.
        if verified.caller().issuer() != self.app.issuer {
            return Err(Unobtainable::NotForCaller("it takes people of another directory than yours"));
        }
        Ok(subject)
    }

    async fn obtain(&self, subject: &Subject, claims: Option<String>) -> Result<Tokens, Unobtainable> {
        let assertion = self.assertion(subject).await?;
        let scopes = self.config.scopes.join(" ");
        let mut members = vec![
            ("grant_type", GRANT),
            ("assertion", assertion.reveal()),
            ("scope", scopes.as_str()),
            ("requested_token_use", "on_behalf_of"),
        ];
        if let Some(claims) = &claims {
            members.push(("claims", claims));
        }
        let tokens = self.app.ask(&members).await.map_err(refused)?;
        // The subject's own token is compared by whoever keeps the answer.
        if tokens.access.reveal().contains(assertion.reveal()) {
            return Err(Unobtainable::Failed("the token endpoint gave the assertion back".into()));
        }
        Ok(tokens)
    }

    /// What the tenant itself signed for the gate in this person's name.
    async fn assertion(&self, subject: &Subject) -> Result<Secret, Unobtainable> {
        if !subject.verified.is_ours() {
            return Ok(subject.token.clone());
        }
        let sign_in = subject.verified.sign_in();
        let sign_in = sign_in.ok_or_else(|| Unobtainable::StepUp(StepUp::sign_in_again()))?;
        self.means.assertions.current(&self.app, sign_in).await
    }
}

#[async_trait]
impl Credential for EntraObo {
    async fn headers(&self, asking: Option<&Asking>) -> Result<HeaderMap, Unobtainable> {
        let subject = self.subject(asking)?;
        self.exchanges.headers(&subject, |claims| self.obtain(&subject, claims)).await
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
