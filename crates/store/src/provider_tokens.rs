//! What the identity provider gave the gate when people signed in, for acting in their name at servers that know the same
//! provider (Entra's on-behalf-of).
//!
//! One row for each person, sealed under the person's own key: one that is copied to another person opens nowhere (attacks.md TP-02). Of several
//! processes that want to renew one row, one may.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Secret, Timestamp};
use sqlx::Row;

use crate::{
    Database, DatabaseError, Sealer,
    columns::seconds,
    links::LinkError,
    persons::{self, Person},
};

/// What is kept of one person.
#[derive(Clone)]
pub struct KeptTokens {
    /// A text of the owner's choice.
    pub content: Secret,
    /// Counts the changes of this row.
    pub revision: u64,
}

/// Where it is kept.
#[async_trait]
pub trait ProviderTokens: Send + Sync {
    /// What is kept of a person.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn of(&self, issuer: &str, subject: &str) -> Result<Option<KeptTokens>, LinkError>;

    /// Keeps what a sign-in brought, in the place of what was there.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn keep(
        &self,
        issuer: &str,
        subject: &str,
        content: &Secret,
        now: Timestamp,
    ) -> Result<(), LinkError>;

    /// Lets the caller alone renew revision `revision` for as long as `within`. Whether it may: not while somebody else does,
    /// nor after the row changed.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn claim(
        &self,
        issuer: &str,
        subject: &str,
        revision: u64,
        now: Timestamp,
        within: Duration,
    ) -> Result<bool, LinkError>;

    /// Puts another content in the place of revision `revision`, and ends the claim. Whether it was still there.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn renew(
        &self,
        issuer: &str,
        subject: &str,
        revision: u64,
        content: &Secret,
        now: Timestamp,
    ) -> Result<bool, LinkError>;

    /// Ends a claim without a change.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn release(&self, issuer: &str, subject: &str, revision: u64) -> Result<(), LinkError>;

    /// Forgets a person.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn forget(&self, issuer: &str, subject: &str) -> Result<(), LinkError>;
}

/// [`ProviderTokens`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredProviderTokens {
    database: Database,
    sealer: Arc<Sealer>,
}

const TABLE: &str = "provider_tokens";

pub(crate) fn context<'a>(issuer: &'a str, subject: &'a str) -> [&'a [u8]; 3] {
    [TABLE.as_bytes(), issuer.as_bytes(), subject.as_bytes()]
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

impl StoredProviderTokens {
    /// Tokens in `database`, sealed by `sealer`.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }

    async fn seal(
        &self,
        issuer: &str,
        subject: &str,
        content: &Secret,
        now: Timestamp,
    ) -> Result<String, DatabaseError> {
        let person = Person { issuer, subject };
        let (context, plain) = (context(issuer, subject), content.reveal().as_bytes());
        persons::seal(&self.database, &self.sealer, person, now, &context, plain).await
    }
}

#[async_trait]
impl ProviderTokens for StoredProviderTokens {
    async fn of(&self, issuer: &str, subject: &str) -> Result<Option<KeptTokens>, LinkError> {
        let found =
            sqlx::query("SELECT sealed, revision FROM provider_tokens WHERE issuer = $1 AND subject = $2")
                .bind(issuer)
                .bind(subject)
                .fetch_optional(self.database.pool())
                .await?;
        let Some(row) = found else { return Ok(None) };
        let sealed: String = row.try_get("sealed")?;
        let person = Person { issuer, subject };
        let context = context(issuer, subject);
        let opened = persons::open(&self.database, &self.sealer, person, &context, &sealed).await?;
        let content = opened.and_then(|bytes| String::from_utf8(bytes).ok()).map(Secret::new);
        let content = content.ok_or(LinkError::Unsealed(TABLE))?;
        let revision: i64 = row.try_get("revision")?;
        let revision = u64::try_from(revision).map_err(|_| DatabaseError::Value("revision"))?;
        Ok(Some(KeptTokens { content, revision }))
    }

    async fn keep(
        &self,
        issuer: &str,
        subject: &str,
        content: &Secret,
        now: Timestamp,
    ) -> Result<(), LinkError> {
        let sealed = self.seal(issuer, subject, content, now).await?;
        sqlx::query(
            "INSERT INTO provider_tokens (issuer, subject, sealed, revision, kept_at, renewing_until) \
             VALUES ($1, $2, $3, 1, $4, 0) \
             ON CONFLICT (issuer, subject) DO UPDATE SET sealed = excluded.sealed, \
             revision = provider_tokens.revision + 1, kept_at = excluded.kept_at, renewing_until = 0",
        )
        .bind(issuer)
        .bind(subject)
        .bind(sealed)
        .bind(seconds(now))
        .execute(self.database.pool())
        .await?;
        Ok(())
    }

    async fn claim(
        &self,
        issuer: &str,
        subject: &str,
        revision: u64,
        now: Timestamp,
        within: Duration,
    ) -> Result<bool, LinkError> {
        let claimed = sqlx::query(
            "UPDATE provider_tokens SET renewing_until = $4 \
             WHERE issuer = $1 AND subject = $2 AND revision = $3 AND renewing_until <= $5",
        )
        .bind(issuer)
        .bind(subject)
        .bind(number(revision))
        .bind(seconds(now.plus(within)))
        .bind(seconds(now))
        .execute(self.database.pool())
        .await?;
        Ok(claimed.rows_affected() == 1)
    }

    async fn renew(
        &self,
        issuer: &str,
        subject: &str,
        revision: u64,
        content: &Secret,
        now: Timestamp,
    ) -> Result<bool, LinkError> {
        let sealed = self.seal(issuer, subject, content, now).await?;
        let renewed = sqlx::query(
            "UPDATE provider_tokens SET sealed = $4, revision = revision + 1, renewing_until = 0 \
             WHERE issuer = $1 AND subject = $2 AND revision = $3",
        )
        .bind(issuer)
        .bind(subject)
        .bind(number(revision))
        .bind(sealed)
        .execute(self.database.pool())
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    async fn release(&self, issuer: &str, subject: &str, revision: u64) -> Result<(), LinkError> {
        sqlx::query(
            "UPDATE provider_tokens SET renewing_until = 0 WHERE issuer = $1 AND subject = $2 AND revision = $3",
        )
        .bind(issuer)
        .bind(subject)
        .bind(number(revision))
        .execute(self.database.pool())
        .await?;
        Ok(())
    }

    async fn forget(&self, issuer: &str, subject: &str) -> Result<(), LinkError> {
        sqlx::query("DELETE FROM provider_tokens WHERE issuer = $1 AND subject = $2")
            .bind(issuer)
            .bind(subject)
            .execute(self.database.pool())
            .await?;
        Ok(())
    }
}
