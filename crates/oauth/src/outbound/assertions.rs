//! What a sign-in at the tenant left: a token of the person's for the gate itself, and the means to renew it. It is shown to
//! the tenant that made it and to nobody else (attacks.md §2.2, TP-01, TP-02).

use std::{fmt, sync::Arc, time::Duration};

use bartizan_model::{Clock, Secret, Timestamp};
use bartizan_store::{ProviderTokens, links::LinkError};
use serde::{Deserialize, Serialize};

use super::{Unobtainable, entra_app::EntraApp, exchange::refused, token::Tokens};
use crate::StepUp;

/// How long one process may take to renew a token; then another may try.
const RENEWING: Duration = Duration::from_secs(30);
/// How often, and how many times, the others look whether it is done.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: u32 = 60;

/// What people's sign-ins left.
#[derive(Clone)]
pub struct Assertions {
    store: Arc<dyn ProviderTokens>,
    clock: Arc<dyn Clock>,
}

#[derive(Serialize, Deserialize)]
struct Held {
    access: String,
    refresh: Option<String>,
    /// Seconds since 1970.
    until: u64,
}

impl fmt::Debug for Assertions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assertions")
    }
}

impl Held {
    fn of(tokens: &Tokens, past: Option<&Self>) -> Self {
        let refresh = tokens.refresh.as_ref().map(|refresh| refresh.reveal().to_owned());
        Self {
            access: tokens.access.reveal().to_owned(),
            // One that was not replaced stays (RFC 6749 §6).
            refresh: refresh.or_else(|| past.and_then(|past| past.refresh.clone())),
            until: tokens.until.as_unix(),
        }
    }

    fn write(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }
}

fn stored(error: LinkError) -> Unobtainable {
    Unobtainable::Failed(error.to_string())
}

impl Assertions {
    /// What is kept in `store`.
    pub fn new(store: Arc<dyn ProviderTokens>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Keeps what a sign-in of this person brought.
    pub(crate) async fn keep(&self, issuer: &str, subject: &str, tokens: &Tokens) -> Result<(), LinkError> {
        let held = Held::of(tokens, None);
        self.store.keep(issuer, subject, &held.write(), self.clock.now()).await
    }

    /// Forgets a person.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    pub async fn forget(&self, issuer: &str, subject: &str) -> Result<(), LinkError> {
        self.store.forget(issuer, subject).await
    }

    /// The token of a person of the tenant, renewed if it must be.
    ///
    /// # Errors
    /// [`Unobtainable::StepUp`] for somebody whose sign-in left nothing, or nothing that is still good.
    pub(super) async fn current(&self, app: &Arc<EntraApp>, subject: &str) -> Result<Secret, Unobtainable> {
        // In a task of its own: a client that hangs up must not lose a refresh token that was used up.
        let (me, app, subject) = (self.clone(), Arc::clone(app), subject.to_owned());
        let looking = tokio::spawn(async move { me.look(&app, &subject).await });
        looking.await.unwrap_or_else(|_| Err(Unobtainable::Failed("renewing a token failed".into())))
    }

    async fn look(&self, app: &EntraApp, subject: &str) -> Result<Secret, Unobtainable> {
        let again = || Unobtainable::StepUp(StepUp::sign_in_again());
        for _ in 0..LOOKS {
            let kept = self.store.of(&app.issuer, subject).await.map_err(stored)?.ok_or_else(again)?;
            let held: Held = serde_json::from_str(kept.content.reveal())
                .map_err(|_| Unobtainable::Failed("what a sign-in left cannot be read".into()))?;
            if self.clock.now() < Timestamp::from_unix(held.until) {
                return Ok(Secret::new(held.access));
            }
            if held.refresh.is_none() {
                return Err(again());
            }
            let now = self.clock.now();
            let is_mine = self.store.claim(&app.issuer, subject, kept.revision, now, RENEWING).await;
            if is_mine.map_err(stored)? {
                return self.refresh(app, subject, held, kept.revision).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(Unobtainable::Failed("another process is renewing the token and does not finish".into()))
    }

    async fn refresh(
        &self,
        app: &EntraApp,
        subject: &str,
        held: Held,
        revision: u64,
    ) -> Result<Secret, Unobtainable> {
        let scope = format!("{} offline_access", app.own_scope());
        let asked = app
            .ask(&[
                ("grant_type", "refresh_token"),
                ("refresh_token", held.refresh.as_deref().unwrap_or_default()),
                ("scope", &scope),
            ])
            .await;
        match asked {
            Ok(tokens) => {
                let next = Held::of(&tokens, Some(&held));
                // Whoever signed in meanwhile brought a newer one, which stays.
                let (now, next) = (self.clock.now(), next.write());
                let renewed = self.store.renew(&app.issuer, subject, revision, &next, now).await;
                renewed.map_err(stored)?;
                Ok(tokens.access)
            }
            Err(denied) => {
                self.store.release(&app.issuer, subject, revision).await.map_err(stored)?;
                Err(match denied {
                    // The sign-in is over: the person signs in anew.
                    denied if denied.is_over() => Unobtainable::StepUp(StepUp::sign_in_again()),
                    denied => refused(denied),
                })
            }
        }
    }
}
