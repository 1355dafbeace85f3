//! Opaque tokens: their issuer says what they mean (RFC 7662).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bartizan_model::{Secret, Timestamp};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use url::{Url, form_urlencoded};

use crate::{
    Error,
    cache::CacheKey,
    fetch::Fetch,
    json::{Object, Value},
    verify::OPAQUE_KEPT,
};

/// Questions under way at once; a flood of made-up tokens must not become a flood at the issuer.
const AT_ONCE: usize = 32;
/// The same for tokens that were good a moment ago: made-up ones take nothing from those.
const AGAIN_AT_ONCE: usize = 32;
/// How long a request waits for the turn of its token that was good a moment ago.
const TURN: Duration = Duration::from_secs(5);
/// How long an answer may take. No longer than one is believed: whoever waits for another's answer gets none that is older.
const WITHIN: Duration = OPAQUE_KEPT;

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

/// What the issuer of a token said about it.
#[derive(Clone)]
pub(crate) struct Said {
    /// The claims of a token that is active.
    pub claims: Arc<Object>,
    /// A time before it was asked.
    pub since: Timestamp,
}

/// A question that is under way, and what came of it.
type Answer = watch::Receiver<Option<Result<Said, Error>>>;

/// Asks one introspection endpoint, about each token one question at a time.
pub(crate) struct Introspector(Arc<Inner>);

struct Inner {
    issuer: String,
    url: Url,
    authorization: Secret,
    fetch: Arc<dyn Fetch>,
    slots: Semaphore,
    slots_again: Semaphore,
    /// Of many that ask about one token at once, one does; the others wait for what it hears.
    under_way: Mutex<HashMap<CacheKey, Answer>>,
}

/// A question that is among those under way, until it is answered or given up.
struct Asking {
    inner: Arc<Inner>,
    key: CacheKey,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.inner.under_way().remove(&self.key);
    }
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
        Self(Arc::new(Inner {
            issuer,
            url,
            authorization,
            fetch,
            slots: Semaphore::new(AT_ONCE),
            slots_again: Semaphore::new(AGAIN_AT_ONCE),
            under_way: Mutex::default(),
        }))
    }

    /// What the issuer says about `bearer`, which is known by `key`, if it is active. Whoever asks while another question about it
    /// is under way hears what comes of that one, good or bad, and takes up no place among [`AT_ONCE`].
    ///
    /// # Errors
    /// [`Error::Inactive`]; [`Error::IssuerUnknown`] for a token of somebody else's; [`Error::IntrospectionUnavailable`].
    pub async fn ask(
        &self,
        bearer: &Arc<Bearer>,
        key: CacheKey,
        question: Question,
        now: Timestamp,
    ) -> Result<Said, Error> {
        let mut answer = self.answer(bearer, key, question, now);
        // It does not come when the runtime ends or the fetcher panicked; and late when too much is asked again.
        let heard = timeout(TURN + WITHIN, answer.wait_for(Option::is_some)).await;
        heard.ok().and_then(|heard| heard.ok()?.clone()).unwrap_or(Err(Error::IntrospectionUnavailable))
    }

    /// The answer that somebody else waits for, or that of a new question.
    fn answer(&self, bearer: &Arc<Bearer>, key: CacheKey, question: Question, now: Timestamp) -> Answer {
        let mut under_way = self.0.under_way();
        if let Some(answer) = under_way.get(&key) {
            return answer.clone();
        }
        let (tell, answer) = watch::channel(None);
        under_way.insert(key, answer.clone());
        let (asking, bearer) = (Asking { inner: Arc::clone(&self.0), key }, Arc::clone(bearer));
        // A task of its own: a client that hangs up, or does not read, must not hold up the answer that others wait for.
        tokio::spawn(async move {
            let said = asking.inner.ask(&bearer, question).await;
            drop(asking);
            // Nobody may be waiting any more.
            let _ = tell.send(Some(said.map(|claims| Said { claims: Arc::new(claims), since: now })));
        });
        answer
    }
}

impl Inner {
    fn under_way(&self) -> MutexGuard<'_, HashMap<CacheKey, Answer>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, bearer: &Bearer, question: Question) -> Result<Object, Error> {
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
        let lost = |what: &str| {
            tracing::warn!(issuer = self.issuer, what, "the introspection endpoint cannot be asked");
            Error::IntrospectionUnavailable
        };
        let answered = timeout(WITHIN, self.fetch.post(&self.url, Some(&self.authorization), form)).await;
        let document =
            answered.map_err(|_| lost("it does not answer"))?.map_err(|error| lost(&error.to_string()))?;
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
