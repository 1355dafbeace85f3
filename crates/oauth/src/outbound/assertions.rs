//! What a sign-in at the identity provider left: a token of the person's for the gate itself, and the means to renew it. It is
//! shown to the provider that made it and to nobody else (attacks.md §2.2, TP-01), and serves what came of that one sign-in:
//! what a person showed for one client lifts no other (TP-02).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Clock, Secret, Timestamp};
use bartizan_store::{
    ProviderTokens,
    links::LinkError,
    provider_tokens::{KeptTokens, SignIn},
};
use serde::{Deserialize, Serialize};

use super::{
    Unobtainable,
    exchange::refused,
    token::{Denied, Tokens},
};
use crate::StepUp;

/// How long one process may take to renew a token; then another may try.
const RENEWING: Duration = Duration::from_secs(30);
/// How often, and how many times, the others look whether it is done.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: u32 = 60;

/// Who made the tokens, and renews them (RFC 6749 §6).
#[async_trait]
pub(crate) trait Renews: Send + Sync {
    /// What the refresh token of a sign-in is worth now.
    ///
    /// # Errors
    /// [`Denied`].
    async fn renew(&self, refresh: &Secret, sign_in: &SignIn) -> Result<Tokens, Denied>;
}

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

    fn read(kept: &KeptTokens) -> Result<Self, Unobtainable> {
        serde_json::from_str(kept.content.reveal())
            .map_err(|_| Unobtainable::Failed("what a sign-in left cannot be read".into()))
    }

    fn write(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }
}

fn stored(error: LinkError) -> Unobtainable {
    Unobtainable::Failed(error.to_string())
}

/// The sign-in is over, or left nothing: the person signs in anew.
fn again() -> Unobtainable {
    Unobtainable::StepUp(StepUp::sign_in_again())
}

impl Assertions {
    /// What is kept in `store`.
    pub fn new(store: Arc<dyn ProviderTokens>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Keeps what a sign-in brought.
    pub(crate) async fn keep(&self, sign_in: &SignIn, tokens: &Tokens) -> Result<(), LinkError> {
        self.store.keep(sign_in, &Held::of(tokens, None).write(), self.clock.now()).await
    }

    /// Forgets a sign-in that is over.
    pub(crate) async fn end(&self, sign_in: &SignIn) -> Result<(), LinkError> {
        self.store.end(sign_in).await
    }

    /// Forgets a person.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    pub async fn forget(&self, issuer: &str, subject: &str) -> Result<(), LinkError> {
        self.store.forget(issuer, subject).await
    }

    /// Forgets what nobody used for as long as `kept`.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn sweep(&self, kept: Duration) -> Result<u64, LinkError> {
        let now = self.clock.now().as_unix();
        self.store.sweep(Timestamp::from_unix(now.saturating_sub(kept.as_secs()))).await
    }

    /// The token of a sign-in as it is, good or not, and when the provider last stood by the person; `None` if nothing is left.
    pub(crate) async fn held(&self, sign_in: &SignIn) -> Result<Option<(Secret, Timestamp)>, Unobtainable> {
        let Some(kept) = self.store.of(sign_in).await.map_err(stored)? else { return Ok(None) };
        Ok(Some((Secret::new(Held::read(&kept)?.access), kept.confirmed_at)))
    }

    /// Notes that the provider stands by the person now.
    pub(crate) async fn confirm(&self, sign_in: &SignIn) -> Result<(), LinkError> {
        self.store.confirm(sign_in, self.clock.now()).await
    }

    /// The token of a sign-in, renewed if it must be.
    ///
    /// # Errors
    /// [`Unobtainable::StepUp`] for a sign-in that left nothing, or nothing that is still good.
    pub(crate) async fn current(
        &self,
        provider: &Arc<impl Renews + 'static>,
        sign_in: SignIn,
    ) -> Result<Secret, Unobtainable> {
        self.apart(provider, sign_in, false).await
    }

    /// The same, renewed in any case: the provider has been asked since this was called.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub(crate) async fn renewed(
        &self,
        provider: &Arc<impl Renews + 'static>,
        sign_in: SignIn,
    ) -> Result<Secret, Unobtainable> {
        self.apart(provider, sign_in, true).await
    }

    /// In a task of its own: a client that hangs up must not lose a refresh token that was used up.
    async fn apart(
        &self,
        provider: &Arc<impl Renews + 'static>,
        sign_in: SignIn,
        must_renew: bool,
    ) -> Result<Secret, Unobtainable> {
        let (me, provider) = (self.clone(), Arc::clone(provider));
        let looking = tokio::spawn(async move { me.look(&*provider, &sign_in, must_renew).await });
        looking.await.unwrap_or_else(|_| Err(Unobtainable::Failed("renewing a token failed".into())))
    }

    async fn look(
        &self,
        provider: &dyn Renews,
        sign_in: &SignIn,
        must_renew: bool,
    ) -> Result<Secret, Unobtainable> {
        let mut first = None;
        for _ in 0..LOOKS {
            let kept = self.store.of(sign_in).await.map_err(stored)?.ok_or_else(again)?;
            let held = Held::read(&kept)?;
            // What somebody else renewed meanwhile is as new as can be.
            let is_new = *first.get_or_insert(kept.revision) != kept.revision;
            if self.clock.now() < Timestamp::from_unix(held.until) && (is_new || !must_renew) {
                return Ok(Secret::new(held.access));
            }
            if held.refresh.is_none() {
                return Err(again());
            }
            let now = self.clock.now();
            let is_mine = self.store.claim(sign_in, kept.revision, now, RENEWING).await;
            if is_mine.map_err(stored)? {
                return self.refresh(provider, sign_in, held, kept.revision).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(Unobtainable::Failed("another process is renewing the token and does not finish".into()))
    }

    async fn refresh(
        &self,
        provider: &dyn Renews,
        sign_in: &SignIn,
        held: Held,
        revision: u64,
    ) -> Result<Secret, Unobtainable> {
        let refresh = Secret::new(held.refresh.clone().unwrap_or_default());
        match provider.renew(&refresh, sign_in).await {
            Ok(tokens) => {
                let next = Held::of(&tokens, Some(&held));
                let (now, next) = (self.clock.now(), next.write());
                let renewed = self.store.renew(sign_in, revision, &next, now).await;
                renewed.map_err(stored)?;
                Ok(tokens.access)
            }
            Err(denied) => {
                self.store.release(sign_in, revision).await.map_err(stored)?;
                Err(if denied.is_over() { again() } else { refused(denied) })
            }
        }
    }
}
