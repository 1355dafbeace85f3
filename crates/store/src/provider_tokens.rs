//! What the identity provider gave the gate at each sign-in, for acting in the person's name at servers that know the same
//! provider (Entra's on-behalf-of), and for asking the provider whether the person is still there.
//!
//! One row for each sign-in, sealed under the person's own key: one that is copied to another person or another sign-in opens
//! nowhere (attacks.md TP-02). Of several processes that want to renew one row, one may.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Secret, Timestamp};
use sqlx::Row;

use crate::{
    Database, DatabaseError, Sealer,
    columns::{seconds, time},
    links::LinkError,
    persons::{self, Person},
};

/// Which sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// The identity provider.
    pub issuer: String,
    /// The person there.
    pub subject: String,
    /// The gate's own name for the sign-in.
    pub id: String,
}

/// What is kept of one sign-in.
#[derive(Clone)]
pub struct KeptTokens {
    /// A text of the owner's choice.
    pub content: Secret,
    /// Counts the changes of this row.
    pub revision: u64,
    /// When the provider last stood by the person: at the sign-in, at a renewal, or when it was asked.
    pub confirmed_at: Timestamp,
}

/// Where it is kept.
#[async_trait]
pub trait ProviderTokens: Send + Sync {
    /// What is kept of a sign-in.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn of(&self, sign_in: &SignIn) -> Result<Option<KeptTokens>, LinkError>;

    /// Keeps what a sign-in brought.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn keep(&self, sign_in: &SignIn, content: &Secret, now: Timestamp) -> Result<(), LinkError>;

    /// Lets the caller alone renew revision `revision` for as long as `within`. Whether it may: not while somebody else does,
    /// nor after the row changed.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn claim(
        &self,
        sign_in: &SignIn,
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
        sign_in: &SignIn,
        revision: u64,
        content: &Secret,
        now: Timestamp,
    ) -> Result<bool, LinkError>;

    /// Ends a claim without a change.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn release(&self, sign_in: &SignIn, revision: u64) -> Result<(), LinkError>;

    /// Notes that the provider stands by the person still.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn confirm(&self, sign_in: &SignIn, now: Timestamp) -> Result<(), LinkError>;

    /// Forgets a sign-in that is over.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn end(&self, sign_in: &SignIn) -> Result<(), LinkError>;

    /// Forgets every sign-in of a person.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn forget(&self, issuer: &str, subject: &str) -> Result<(), LinkError>;

    /// Forgets sign-ins that nobody used since `before`; the answer is how many there were.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn sweep(&self, before: Timestamp) -> Result<u64, LinkError>;
}

/// [`ProviderTokens`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredProviderTokens {
    database: Database,
    sealer: Arc<Sealer>,
}

const TABLE: &str = "provider_tokens";

pub(crate) fn context<'a>(issuer: &'a str, subject: &'a str, sign_in: &'a str) -> [&'a [u8]; 4] {
    [TABLE.as_bytes(), issuer.as_bytes(), subject.as_bytes(), sign_in.as_bytes()]
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
        sign_in: &SignIn,
        content: &Secret,
        now: Timestamp,
    ) -> Result<String, DatabaseError> {
        let SignIn { issuer, subject, id } = sign_in;
        let (context, plain) = (context(issuer, subject, id), content.reveal().as_bytes());
        let person = Person { issuer, subject };
        persons::seal(&self.database, &self.sealer, person, now, &context, plain).await
    }

    /// Runs a statement whose first three parameters name the sign-in; how many rows it changed.
    async fn change(
        &self,
        statement: &'static str,
        sign_in: &SignIn,
        more: impl IntoIterator<Item = i64>,
    ) -> Result<u64, LinkError> {
        let mut query = sqlx::query(statement).bind(&sign_in.issuer).bind(&sign_in.subject).bind(&sign_in.id);
        for parameter in more {
            query = query.bind(parameter);
        }
        Ok(query.execute(self.database.writer()).await?.rows_affected())
    }
}

#[async_trait]
impl ProviderTokens for StoredProviderTokens {
    async fn of(&self, sign_in: &SignIn) -> Result<Option<KeptTokens>, LinkError> {
        let SignIn { issuer, subject, id } = sign_in;
        let found = sqlx::query(
            "SELECT sealed, revision, confirmed_at FROM provider_tokens \
             WHERE issuer = $1 AND subject = $2 AND sign_in = $3",
        )
        .bind(issuer)
        .bind(subject)
        .bind(id)
        .fetch_optional(self.database.pool())
        .await?;
        let Some(row) = found else { return Ok(None) };
        let sealed: String = row.try_get("sealed")?;
        let person = Person { issuer, subject };
        let context = context(issuer, subject, id);
        let opened = persons::open(&self.database, &self.sealer, person, &context, &sealed).await?;
        let content = opened.and_then(|bytes| String::from_utf8(bytes).ok()).map(Secret::new);
        let content = content.ok_or(LinkError::Unsealed(TABLE))?;
        let revision: i64 = row.try_get("revision")?;
        let revision = u64::try_from(revision).map_err(|_| DatabaseError::Value("revision"))?;
        Ok(Some(KeptTokens { content, revision, confirmed_at: time(&row, "confirmed_at")? }))
    }

    async fn keep(&self, sign_in: &SignIn, content: &Secret, now: Timestamp) -> Result<(), LinkError> {
        let sealed = self.seal(sign_in, content, now).await?;
        sqlx::query(
            "INSERT INTO provider_tokens \
             (issuer, subject, sign_in, sealed, revision, kept_at, confirmed_at, renewing_until) \
             VALUES ($1, $2, $3, $4, 1, $5, $5, 0) \
             ON CONFLICT (issuer, subject, sign_in) DO UPDATE SET sealed = excluded.sealed, \
             revision = provider_tokens.revision + 1, kept_at = excluded.kept_at, \
             confirmed_at = excluded.confirmed_at, renewing_until = 0",
        )
        .bind(&sign_in.issuer)
        .bind(&sign_in.subject)
        .bind(&sign_in.id)
        .bind(sealed)
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn claim(
        &self,
        sign_in: &SignIn,
        revision: u64,
        now: Timestamp,
        within: Duration,
    ) -> Result<bool, LinkError> {
        let statement = "UPDATE provider_tokens SET renewing_until = $5 \
             WHERE issuer = $1 AND subject = $2 AND sign_in = $3 AND revision = $4 AND renewing_until <= $6";
        let more = [number(revision), seconds(now.plus(within)), seconds(now)];
        Ok(self.change(statement, sign_in, more).await? == 1)
    }

    async fn renew(
        &self,
        sign_in: &SignIn,
        revision: u64,
        content: &Secret,
        now: Timestamp,
    ) -> Result<bool, LinkError> {
        let sealed = self.seal(sign_in, content, now).await?;
        let renewed = sqlx::query(
            "UPDATE provider_tokens SET sealed = $5, revision = revision + 1, confirmed_at = $6, renewing_until = 0 \
             WHERE issuer = $1 AND subject = $2 AND sign_in = $3 AND revision = $4",
        )
        .bind(&sign_in.issuer)
        .bind(&sign_in.subject)
        .bind(&sign_in.id)
        .bind(number(revision))
        .bind(sealed)
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    async fn release(&self, sign_in: &SignIn, revision: u64) -> Result<(), LinkError> {
        let statement = "UPDATE provider_tokens SET renewing_until = 0 \
             WHERE issuer = $1 AND subject = $2 AND sign_in = $3 AND revision = $4";
        self.change(statement, sign_in, [number(revision)]).await.map(drop)
    }

    async fn confirm(&self, sign_in: &SignIn, now: Timestamp) -> Result<(), LinkError> {
        let statement = "UPDATE provider_tokens SET confirmed_at = $4 \
             WHERE issuer = $1 AND subject = $2 AND sign_in = $3 AND confirmed_at < $4";
        self.change(statement, sign_in, [seconds(now)]).await.map(drop)
    }

    async fn end(&self, sign_in: &SignIn) -> Result<(), LinkError> {
        let statement = "DELETE FROM provider_tokens WHERE issuer = $1 AND subject = $2 AND sign_in = $3";
        self.change(statement, sign_in, []).await.map(drop)
    }

    async fn forget(&self, issuer: &str, subject: &str) -> Result<(), LinkError> {
        sqlx::query("DELETE FROM provider_tokens WHERE issuer = $1 AND subject = $2")
            .bind(issuer)
            .bind(subject)
            .execute(self.database.writer())
            .await?;
        Ok(())
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, LinkError> {
        let swept = sqlx::query("DELETE FROM provider_tokens WHERE confirmed_at < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?;
        Ok(swept.rows_affected())
    }
}
