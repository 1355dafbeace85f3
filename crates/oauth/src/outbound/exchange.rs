//! Tokens for a server that were exchanged for a person's: each is that person's, through that client, at that server, and is
//! used no longer than the token it came of (spec.md G-03; attacks.md TP-01, TP-02).

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bartizan_model::{Clock, Secret, Timestamp};
use http::{HeaderMap, HeaderValue, header};

use super::{
    Asking, Refused, Retry, Unobtainable,
    challenge::Challenge,
    sensitive,
    token::{Denied, Tokens},
};
use crate::{StepUp, SubjectTokens, cache::CacheKey, subjects::Subject};

/// Exchanged tokens of one server that are kept at once.
const ROOM: usize = 4096;
/// Between two questions for one person, the first of which failed.
const REST: Duration = Duration::from_secs(5);
/// How young a refused token may be without another one being worth a question.
const YOUNG: Duration = Duration::from_secs(10);

/// The exchanged tokens of one server.
pub(super) struct Exchanges {
    slots: Mutex<HashMap<CacheKey, Slot>>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone)]
struct Slot {
    /// The end of the token it came of.
    until: Timestamp,
    /// Whoever holds the lock asks; the others wait for the answer.
    held: Arc<tokio::sync::Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    given: Option<Given>,
    failed: Option<(Timestamp, Unobtainable)>,
    /// What the server wants the next token to show (Entra's `claims`).
    claims: Option<String>,
}

struct Given {
    line: HeaderValue,
    until: Timestamp,
    since: Timestamp,
}

impl Exchanges {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { slots: Mutex::default(), clock }
    }

    /// The header lines for whoever showed `subject`. `ask` is given what the server wants the token to show, if it wants
    /// something.
    pub async fn headers<F>(
        &self,
        subject: &Subject,
        ask: impl FnOnce(Option<String>) -> F,
    ) -> Result<HeaderMap, Unobtainable>
    where
        F: Future<Output = Result<Tokens, Unobtainable>>,
    {
        let slot = self.slot(subject);
        let mut held = slot.held.lock().await;
        let now = self.clock.now();
        if let Some(given) = &held.given
            && now < given.until
        {
            return Ok(HeaderMap::from_iter([(header::AUTHORIZATION, given.line.clone())]));
        }
        if let Some((at, why)) = &held.failed
            && now.since(*at) < REST
        {
            return Err(why.clone());
        }
        let asked = ask(held.claims.clone()).await.and_then(|tokens| {
            // An endpoint that answers with the question would make a passthrough of us.
            if tokens.access.reveal().contains(subject.token.reveal()) {
                return Err(Unobtainable::Failed(
                    "the token endpoint gave the caller's own token back".into(),
                ));
            }
            let line = sensitive(&Secret::new(format!("Bearer {}", tokens.access.reveal())))?;
            Ok(Given { line, until: tokens.until.min(subject.verified.expires_at()), since: now })
        });
        match asked {
            Ok(given) => {
                let line = given.line.clone();
                *held = Held { given: Some(given), failed: None, claims: None };
                Ok(HeaderMap::from_iter([(header::AUTHORIZATION, line)]))
            }
            Err(why) => {
                held.given = None;
                held.failed = Some((now, why.clone()));
                Err(why)
            }
        }
    }

    /// What follows from a refusal of what was shown for `subject`.
    pub async fn challenged(&self, subject: &Subject, refused: Refused<'_>) -> Retry {
        // What is asked for is the operator's choice: a wider token is not to be had.
        if refused.status != 401 {
            return Retry::No;
        }
        let slot = self.slot(subject);
        let mut held = slot.held.lock().await;
        let shown = refused.shown.get(header::AUTHORIZATION);
        let Some(given) = held.given.as_ref().filter(|given| Some(&given.line) == shown) else {
            // Somebody has got another one meanwhile.
            return Retry::Once;
        };
        let claims = Challenge::of(refused.answer).and_then(|challenge| challenge.claims);
        if claims.is_none() && self.clock.now().since(given.since) < YOUNG {
            return Retry::No;
        }
        *held = Held { given: None, failed: None, claims };
        Retry::Once
    }

    fn slot(&self, subject: &Subject) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&subject.key) {
            return slot.clone();
        }
        let now = self.clock.now();
        if slots.len() >= ROOM {
            slots.retain(|_, slot| now < slot.until);
        }
        // Any one will do: it is asked for again.
        if slots.len() >= ROOM
            && let Some(any) = slots.keys().next().copied()
        {
            slots.remove(&any);
        }
        let slot = Slot { until: subject.verified.expires_at(), held: Arc::default() };
        slots.insert(subject.key, slot.clone());
        slot
    }
}

/// The token that is exchanged for `asking`.
///
/// # Errors
/// [`Unobtainable`]: the gate itself has none, and neither has somebody who came in without an access token.
pub(super) fn subject(asking: Option<&Asking>, tokens: &SubjectTokens) -> Result<Subject, Unobtainable> {
    let verified = asking.ok_or(Unobtainable::Nobody)?.token().ok_or(Unobtainable::NotForCaller(
        "it takes an access token to be exchanged, and you came in without one",
    ))?;
    tokens.find(verified).ok_or_else(|| {
        Unobtainable::Failed("the caller's token has ended, or is not at hand any more; ask again".into())
    })
}

/// Why an exchange failed, for whom it concerns.
pub(super) fn refused(denied: Denied) -> Unobtainable {
    match denied {
        Denied::Interaction(Some(claims)) => Unobtainable::StepUp(StepUp::relay(claims)),
        Denied::Interaction(None) => Unobtainable::StepUp(StepUp::sign_in_again()),
        Denied::Consent => {
            tracing::warn!(
                "a token exchange was refused for want of consent; an administrator of the directory must grant it"
            );
            Unobtainable::NotForCaller("nobody has consented yet to the gateway acting for you there")
        }
        other => Unobtainable::Failed(other.to_string()),
    }
}
