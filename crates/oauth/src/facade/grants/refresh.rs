//! The next token of a grant (RFC 6749 §6, RFC 9700 §4.14; spec.md F-36, F-37; attacks.md AA-25).
//!
//! A refresh token is good for one use, whoever's it is, and a second use ends its grant: one of the two users is a
//! thief. The one exception is an answer that was lost on the way: a client that proves who it is, by its credential or by
//! the DPoP key the token is bound to, may ask again with the token it used last, for a few seconds and while the one that
//! followed was not used, and gets that same one. A public client without a key proves nothing, so it has no second try.

use std::time::Duration;

use bartizan_model::{Secret, Timestamp};
use bartizan_store::{
    Digest,
    grants::{Refreshable, Which},
};
use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::{
    Deed,
    facade::{
        Facade, Person, Standing,
        authorize::Granted,
        mint::{Mint, Who},
        refusal::Refusal,
        token::Request,
    },
};

impl Facade {
    pub(crate) async fn refresh(&self, request: Request<'_>) -> Result<Response<Bytes>, Refusal> {
        let Request { form, client, proof, peer, known } = request;
        let token = form.get("refresh_token").ok_or(Refusal::Request("`refresh_token` is missing"))?;
        let hash = Digest::of(token.as_bytes());
        let found = self.grants.of_refresh(hash).await?.ok_or(Refusal::Grant("refresh.unknown"))?;
        let grant = &found.grant;
        if grant.client != client.id() {
            return Err(Refusal::Grant("refresh.client"));
        }
        known.grant(grant);
        if found.binding.is_some() && found.binding.as_ref() != proof.as_ref().map(|proof| &proof.jkt) {
            return Err(Refusal::Grant("refresh.dpop"));
        }
        let now = self.clock.now();
        if found.is_ended || now >= grant.expires_at || now >= found.until {
            return Err(Refusal::Grant("refresh.expired"));
        }
        // The provider that vouched for the person is none of ours any more: nobody says that they may still come in.
        if grant.issuer != self.people_of {
            return Err(Refusal::Grant("refresh.issuer"));
        }
        let granted: Granted =
            serde_json::from_str(&grant.content).map_err(|_| Refusal::Grant("refresh.unreadable"))?;
        if form.has("resource") && form.get("resource") != Some(&granted.resource) {
            return Err(Refusal::Target);
        }
        // A resource or scope that is gone, or that the client may have no more, is not granted any longer.
        let resource = self.resource(Some(&granted.resource)).ok_or(Refusal::Grant("refresh.resource"))?;
        let is_alive = |scope: &&String| resource.scopes.contains_key(*scope) && client.may_have(scope);
        let alive: Vec<_> = granted.scopes.iter().filter(is_alive).cloned().collect();
        if alive.is_empty() && !granted.scopes.is_empty() {
            return Err(Refusal::Grant("refresh.scope"));
        }
        // Less may be asked for, never more; the grant stays what it was.
        let scopes = match form.get("scope") {
            None => alive,
            Some(asked) => {
                let asked: Vec<_> =
                    asked.split(' ').filter(|word| *word != "offline_access").map(str::to_owned).collect();
                if asked.is_empty() || !asked.iter().all(|scope| alive.contains(scope)) {
                    return Err(Refusal::Scope);
                }
                asked
            }
        };
        let key = self.use_up(proof).await?;
        // Whoever shows a spent token is no reason to ask anybody: that its grant ends must not wait for the provider.
        if found.used_at.is_none() {
            self.check_standing(&granted.person, &grant.id).await?;
        }
        let mint = Mint {
            who: Who::Person(&granted.person),
            client: client.id(),
            resource: &granted.resource,
            scopes: &scopes,
            grant: Some(&grant.id),
            key: &key,
            until: Some(grant.expires_at),
            reason: "refresh.rotated",
            peer,
        };
        // A token that was spent stays spent, so its successor is on record before: an honest client whose answer could not
        // be recorded still has a token that is good.
        let mut recorded = None;
        if found.used_at.is_none() {
            recorded = Some(self.record(&mint, self.prepare(&mint)?, Deed::TokenRefreshed).await?);
        }
        let next = self.successor(&grant.id, token);
        let next_hash = Digest::of(next.reveal().as_bytes());
        let until = self.refresh_until(now, grant.expires_at);
        if !self.grants.rotate(hash, next_hash, until, now).await? {
            let used = self.grants.of_refresh(hash).await?.ok_or(Refusal::Grant("refresh.unknown"))?;
            let proves_itself = !client.is_public() || found.binding.is_some();
            if !(proves_itself && self.may_repeat(&used, next_hash, now).await?) {
                self.end(&Which::Grant(&grant.id)).await?;
                tracing::warn!(
                    client = client.id(),
                    grant = grant.id,
                    "a refresh token was used twice; its grant has ended"
                );
                return Err(Refusal::Grant("refresh.replayed"));
            }
        }
        self.clients.used(&client).await;
        let recorded = match recorded {
            Some(recorded) => recorded,
            None => {
                let again = Mint { reason: "refresh.repeated", ..mint };
                self.record(&again, self.prepare(&again)?, Deed::TokenRefreshed).await?
            }
        };
        Ok(recorded.answer(json!({ "refresh_token": next.reveal() })))
    }

    /// Whether the directory stands by the person of a grant, if there is one. What it does not stand by ends.
    async fn check_standing(&self, person: &Person, grant: &str) -> Result<(), Refusal> {
        let Some(directory) = &self.directory else { return Ok(()) };
        match directory.standing(person).await {
            Ok(Standing::Active) => Ok(()),
            Ok(Standing::Gone) => {
                self.revoke_person(&person.issuer, &person.subject).await?;
                Err(Refusal::Grant("refresh.person"))
            }
            Ok(Standing::SignInOver) => {
                self.end(&Which::Grant(grant)).await?;
                Err(Refusal::Grant("refresh.sign-in"))
            }
            Err(error) => {
                tracing::warn!(%error, "a token is not refreshed");
                Err(Refusal::Unavailable)
            }
        }
    }

    /// Whether a token that was used may be used again, for the answer that was lost.
    async fn may_repeat(&self, used: &Refreshable, next: Digest, now: Timestamp) -> Result<bool, Refusal> {
        let window = Duration::from_secs(self.config.refresh_retry_s);
        let is_recent = used.used_at.is_some_and(|at| now.since(at) <= window) && !window.is_zero();
        if !is_recent || used.is_ended {
            return Ok(false);
        }
        Ok(self.grants.of_refresh(next).await?.is_some_and(|next| next.used_at.is_none()))
    }

    /// The token that follows `token`. Only we can tell it from `token`, and always the same: so a repeated question has
    /// the same answer, though no token is kept anywhere.
    fn successor(&self, grant: &str, token: &str) -> Secret {
        Secret::new(self.sealer.mark(&[b"refresh token after", grant.as_bytes(), token.as_bytes()]))
    }

    /// Until when a refresh token is good that is made now.
    pub(crate) fn refresh_until(&self, now: Timestamp, grant_until: Timestamp) -> Timestamp {
        now.plus(Duration::from_secs(self.config.refresh_token_s)).min(grant_until)
    }
}
