//! Whether an opaque token under which something goes on is still good: its issuer is asked again, for it alone knows (RFC 7662;
//! attacks.md AA-29).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::{
    Blame, Error, ResourceServer, VerifiedToken,
    cache::CacheKey,
    introspect::{Bearer, Question},
    verify::OPAQUE_KEPT,
};

/// How long something goes on under a token that nobody vouches for, because its issuer does not answer.
const DOUBT: Duration = Duration::from_secs(60);
/// How long a token waits for its turn to be asked about. Whoever has the turn may be held up by a client that does not read. Longer
/// than [`DOUBT`]: who waits behind a question that is never answered hears of that, and does not find out for another minute.
const TURN: Duration = Duration::from_secs(65);

/// Lines in which tokens wait to be asked about again. In each one is asked about after the other: many streams under one token
/// ask once, and all of them together are no flood at the issuer. Each knows when the first of the questions began that have
/// failed since its issuer answered one.
#[derive(Default)]
pub(crate) struct Standing([Mutex<Option<Instant>>; 16]);

impl ResourceServer {
    /// Waits until `token` is good no more by its issuer's word, which is asked for again every few seconds; or until the issuer
    /// has given none for a minute, from the first question that failed. What was not introspected is waited for in vain.
    pub async fn until_inactive(&self, token: &VerifiedToken) {
        let (Some(bearer), Some(key)) = (&token.bearer, token.shown) else {
            return std::future::pending().await;
        };
        let Standing(lines) = &self.standing;
        let [first, ..] = lines;
        let line = lines.get(key.shard(lines.len())).unwrap_or(first);
        let mut vouched = Instant::now();
        let mut doubted: Option<Instant> = None;
        loop {
            sleep(OPAQUE_KEPT).await;
            // That many wait here is no silence of the issuer's.
            let mut turn = timeout(TURN, line.lock()).await.ok();
            let began = Instant::now();
            // The issuer is silent for all who wait in a line, so that they do not each find out for a minute.
            let silent = turn.as_deref().copied().flatten().map(|silent| silent.max(vouched));
            let since = silent.into_iter().chain(doubted).min().unwrap_or(began);
            let left = DOUBT.saturating_sub(since.elapsed());
            let asked = timeout(left, self.ask_again(token, bearer, key)).await;
            let is_refused = matches!(&asked, Ok(Err(error)) if error.verdict().blame == Blame::Client);
            let has_answered = is_refused || matches!(asked, Ok(Ok(())));
            if let Some(turn) = &mut turn {
                **turn = if has_answered { None } else { (**turn).or(Some(began)) };
            }
            match asked {
                Ok(Ok(())) => (vouched, doubted) = (Instant::now(), None),
                Ok(Err(error)) if is_refused => {
                    tracing::info!(%error, "what goes on under a token ends: its issuer took it back");
                    return;
                }
                Ok(Err(_)) if since.elapsed() < DOUBT => doubted = doubted.or(Some(began)),
                Ok(Err(_)) | Err(_) => {
                    tracing::error!(
                        "what goes on under a token ends: its issuer has not vouched for it for a minute"
                    );
                    return;
                }
            }
        }
    }

    /// Whether `token` is still good, and still what it was.
    async fn ask_again(
        &self,
        token: &VerifiedToken,
        bearer: &Arc<Bearer>,
        key: CacheKey,
    ) -> Result<(), Error> {
        let Some(resource) = self.resources.iter().find(|r| r.identifier() == token.resource()) else {
            return Err(Error::AudienceWrong { resource: token.resource().to_owned() });
        };
        let now = self.clock.now();
        let fresh = match self.cache.find(&key, now) {
            // Somebody else has asked meanwhile.
            Some(fresh) => fresh,
            None => self.verify_opaque(Arc::clone(bearer), key, resource, Question::Again, now).await?,
        };
        if fresh.caller() != token.caller() || fresh.binding != token.binding {
            return Err(Error::Inactive);
        }
        fresh.require_scopes(&resource.required_scopes, &[])
    }
}
