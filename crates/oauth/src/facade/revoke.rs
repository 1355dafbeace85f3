//! Taking back what was given: by the client (RFC 7009), by the person, by the operator. It holds here at once, and in other
//! processes on the same store within seconds, by [`Facade::catch_up`] (spec.md F-34, F-36; attacks.md AA-25, AA-40).

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use bartizan_model::Timestamp;
use bartizan_store::{
    DatabaseError, Digest,
    grants::{Revocation, RevokedKind, Which},
};
use bytes::Bytes;
use http::{Response, StatusCode};

use super::{
    Asked, Facade, FacadeError, answer, authorize::Granted, known::Known, refusal::Refusal, token::form,
};
use crate::{Deed, Denied, Report};

/// How long a grant or token that was taken back is remembered: longer than an access token of ours lives.
const REMEMBERED: Duration = Duration::from_secs(20 * 60);
/// The same for people and clients, whose tokens may be of other issuers too.
const REMEMBERED_LONG: Duration = Duration::from_secs(24 * 3600);
/// How far the clocks of replicas may be apart.
const APART: Duration = Duration::from_secs(120);
/// Between two looks at the store.
const EVERY: Duration = Duration::from_secs(2);

/// A grant, as the person reads it who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenGrant {
    /// The grant's id.
    pub id: String,
    /// `client_id`
    pub client: String,
    /// The resource its tokens are for.
    pub resource: String,
    /// What it allows.
    pub scopes: Vec<String>,
    /// When it was given.
    pub made_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Facade {
    /// The revocation endpoint. It answers the same for a token that was revoked, is unknown, or is another client's.
    pub(crate) async fn revoke(
        &self,
        asked: &Asked<'_>,
        known: &mut Known,
    ) -> Result<Response<Bytes>, Refusal> {
        let form = form(asked)?;
        if form.is_repeating() {
            return Err(Refusal::Request("a parameter is there twice"));
        }
        let client = self.authenticate(asked, &form, known).await?;
        let token = form.get("token").ok_or(Refusal::Request("`token` is missing"))?;
        if let Some(found) = self.grants.of_refresh(Digest::of(token.as_bytes())).await? {
            if found.grant.client == client.id() {
                known.grant(&found.grant);
                self.end(&Which::Grant(&found.grant.id)).await?;
                let known = std::mem::take(known);
                self.ledger.mention(known.report(Deed::TokenRevoked, "refresh.revoked", asked));
            }
        } else if let Ok(token) = self.own_token(token).await
            && token.caller().client() == client.id()
            && let Some(id) = token.token_id()
        {
            self.take_back(RevokedKind::Token, token.caller().issuer(), id, REMEMBERED).await?;
            let caller = token.caller();
            self.ledger.mention(Report {
                person: Some((caller.issuer().to_owned(), caller.subject().to_owned())),
                client: Some(client.id().to_owned()),
                resource: Some(token.resource().to_owned()),
                scopes: token.scopes().iter().cloned().collect(),
                grant: token.identity.ours.as_ref().and_then(|ours| ours.grant.clone()),
                ..Report::new(Deed::TokenRevoked, "token.revoked").at(asked.peer)
            });
        }
        Ok(answer::empty(StatusCode::OK))
    }

    /// Ends everything that a person granted, and every token that speaks for them and was issued until now. `issuer` and
    /// `subject` are the identity provider's.
    ///
    /// # Errors
    /// [`DatabaseError`]; not everything has ended then: try again.
    pub async fn revoke_person(&self, issuer: &str, subject: &str) -> Result<(), DatabaseError> {
        self.take_back(RevokedKind::Subject, issuer, subject, REMEMBERED_LONG).await?;
        self.end(&Which::Person { issuer, subject }).await
    }

    /// Ends everything that anybody granted to a client, every token it holds for itself, and its registration.
    ///
    /// # Errors
    /// [`DatabaseError`]; not everything has ended then: try again.
    pub async fn revoke_client(&self, client: &str) -> Result<(), DatabaseError> {
        let issuer = self.issuer.clone();
        self.take_back(RevokedKind::Client, &issuer, client, REMEMBERED_LONG).await?;
        self.end(&Which::Client(client)).await?;
        self.registrations.remove(client).await?;
        Ok(())
    }

    /// Ends what one person granted to one client.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing has ended then.
    pub async fn revoke_consent(
        &self,
        issuer: &str,
        subject: &str,
        client: &str,
    ) -> Result<(), DatabaseError> {
        self.end(&Which::Consent { issuer, subject, client }).await
    }

    /// What a person has granted that is alive, the oldest first.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn granted_by(&self, issuer: &str, subject: &str) -> Result<Vec<GivenGrant>, DatabaseError> {
        let grants = self.grants.of_person(issuer, subject, self.clock.now()).await?;
        let read = |grant: bartizan_store::grants::Grant| {
            let granted: Granted =
                serde_json::from_str(&grant.content).map_err(|_| DatabaseError::Value("content"))?;
            Ok(GivenGrant {
                id: grant.id,
                client: grant.client,
                resource: granted.resource,
                scopes: granted.scopes,
                made_at: grant.made_at,
                expires_at: grant.expires_at,
            })
        };
        grants.into_iter().map(read).collect()
    }

    /// Ends grants, here at once.
    pub(crate) async fn end(&self, which: &Which<'_>) -> Result<(), DatabaseError> {
        let now = self.clock.now();
        let until = now.plus(REMEMBERED);
        for grant in self.grants.end(which, until, now).await? {
            self.denied.deny(Denied::Grant { grant }, until, until, now);
        }
        Ok(())
    }

    async fn take_back(
        &self,
        kind: RevokedKind,
        issuer: &str,
        name: &str,
        remembered: Duration,
    ) -> Result<(), DatabaseError> {
        let now = self.clock.now();
        let (issuer, name) = (issuer.to_owned(), name.to_owned());
        let revocation = Revocation { kind, issuer, name, at: now, until: now.plus(remembered) };
        // Here first: what cannot be written down is denied all the same.
        self.denied.note(&revocation, now);
        self.grants.revoke(&revocation).await
    }

    /// Makes a new signing key, for an old one that got out: what the old ones signed is worth nothing any more, here at
    /// once, in other processes within seconds, and to whoever keeps our key set by its age. A verified token may be
    /// remembered for a minute.
    ///
    /// # Errors
    /// [`FacadeError`]; try again.
    pub async fn replace_keys(&self) -> Result<(), FacadeError> {
        let now = self.clock.now();
        self.signing_keys.end_all(now).await?;
        self.keyring.catch_up(&*self.signing_keys, now).await
    }

    /// Reads what other processes on the same store have revoked, and their keys; makes the first key, and the next one
    /// when its time has come. To be called once before anything else, and then by [`Self::keep_up`].
    ///
    /// # Errors
    /// [`FacadeError`]; what was known before still holds.
    pub async fn catch_up(&self) -> Result<(), FacadeError> {
        let now = self.clock.now();
        // Before the keys: that one of ours cannot be read keeps nothing from us that others have revoked.
        let since = *self.caught_up.lock().unwrap_or_else(PoisonError::into_inner);
        for revocation in self.grants.revocations(since, now).await? {
            self.denied.note(&revocation, now);
        }
        let looked_at = Timestamp::from_unix(now.as_unix().saturating_sub(APART.as_secs()));
        *self.caught_up.lock().unwrap_or_else(PoisonError::into_inner) = looked_at;
        self.keyring.catch_up(&*self.signing_keys, now).await
    }

    /// Keeps up with the store for as long as the future lives: revocations of other processes hold here within seconds.
    pub async fn keep_up(self: Arc<Self>) {
        let mut swept = self.clock.now();
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.catch_up().await {
                tracing::error!(%error, "the authorization server cannot keep up with its store");
            }
            let now = self.clock.now();
            if now.since(swept) >= REMEMBERED {
                swept = now;
                let forgotten = async {
                    self.grants.forget(now).await?;
                    self.registrations.forget(now).await
                };
                if let Err(error) = forgotten.await {
                    tracing::warn!(%error, "what has expired could not be forgotten");
                }
            }
        }
    }
}
