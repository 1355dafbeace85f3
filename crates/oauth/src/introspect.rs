//! Opaque tokens: their issuer says what they mean (RFC 7662).

use std::{fmt, sync::Arc, time::Duration};

use bartizan_model::Secret;
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{sync::Semaphore, time::timeout};
use url::{Url, form_urlencoded};

use crate::{
    Error,
    fetch::Fetch,
    json::{Object, Value},
};

/// Questions under way at once; a flood of made-up tokens must not become a flood at the issuer.
const AT_ONCE: usize = 32;
/// The same for tokens that were good a moment ago: made-up ones take nothing from those.
const AGAIN_AT_ONCE: usize = 32;
/// How long a request waits for the turn of its token that was good a moment ago.
const TURN: Duration = Duration::from_secs(5);

/// Which question about a token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Anybody's: nothing is known of the token. If too many are asked, it is not.
    First,
    /// A request's, about one that its issuer has vouched for a moment ago. It takes what strangers leave, or waits for a while.
    Known,
    /// About one that its issuer has vouched for, under which something goes on. It waits for its turn.
    Again,
}

/// An opaque token, about which its issuer can be asked, again and again. Only this module reads it, and nothing else can be done
/// with it: it is as good as forgotten (spec.md G-03; attacks.md TP-01).
pub(crate) struct Bearer(Secret);

impl Bearer {
    pub fn new(token: &str) -> Self {
        Self(Secret::new(token.to_owned()))
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

/// Asks one introspection endpoint.
pub(crate) struct Introspector {
    issuer: String,
    url: Url,
    authorization: Secret,
    fetch: Arc<dyn Fetch>,
    slots: Semaphore,
    slots_again: Semaphore,
}

impl Introspector {
    /// `client_id` and `client_secret` are the gate's own at the issuer (RFC 7662 §2.1; RFC 6749 §2.3.1).
    pub fn new(
        issuer: String,
        url: Url,
        client_id: &str,
        client_secret: &Secret,
        fetch: Arc<dyn Fetch>,
    ) -> Self {
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = Secret::new(format!("{}:{}", encode(client_id), encode(client_secret.reveal())));
        let authorization = Secret::new(format!("Basic {}", STANDARD.encode(pair.reveal())));
        Self {
            issuer,
            url,
            authorization,
            fetch,
            slots: Semaphore::new(AT_ONCE),
            slots_again: Semaphore::new(AGAIN_AT_ONCE),
        }
    }

    /// What the issuer says about `bearer`, if it is active.
    ///
    /// # Errors
    /// [`Error::Inactive`]; [`Error::IssuerUnknown`] for a token of somebody else's; [`Error::IntrospectionUnavailable`].
    pub async fn ask(&self, bearer: &Bearer, question: Question) -> Result<Object, Error> {
        let slot = match question {
            Question::First => self.slots.try_acquire().ok(),
            Question::Known => match self.slots.try_acquire() {
                Ok(slot) => Some(slot),
                Err(_) => timeout(TURN, self.slots_again.acquire()).await.ok().and_then(Result::ok),
            },
            Question::Again => self.slots_again.acquire().await.ok(),
        };
        let Some(_slot) = slot else {
            tracing::warn!(issuer = self.issuer, "too many tokens are being introspected");
            return Err(Error::IntrospectionUnavailable);
        };
        let encoded = form_urlencoded::byte_serialize(bearer.0.reveal().as_bytes()).collect::<String>();
        let form = Secret::new(format!("token={encoded}&token_type_hint=access_token"));
        let answered = self.fetch.post(&self.url, Some(&self.authorization), form).await;
        let lost = |what: &str| {
            tracing::warn!(issuer = self.issuer, what, "the introspection endpoint cannot be asked");
            Error::IntrospectionUnavailable
        };
        let document = answered.map_err(|error| lost(&error.to_string()))?;
        if document.status != 200 {
            return Err(lost(&format!("it answered {}", document.status)));
        }
        let claims = Object::parse(&document.body).map_err(|_| lost("its answer is no JSON object"))?;
        match claims.value("active") {
            Some(Value::Boolean(true)) => {}
            Some(Value::Boolean(false)) => return Err(Error::Inactive),
            _ => return Err(lost("its answer has no `active`")),
        }
        // Optional (RFC 7662 §2.2); where it is, it is right.
        match claims.text("iss")? {
            Some(issuer) if issuer != self.issuer => Err(Error::IssuerUnknown),
            _ => Ok(claims),
        }
    }
}
