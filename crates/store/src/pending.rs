//! What happens once and soon: sign-ins under way at the identity provider, one-time links, forms that were sent.
//!
//! Each is known by the digest of a random value that somebody else holds, and taking it is one statement: of any
//! number who come with the same value, one gets it (spec.md F-31).

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_model::Timestamp;

use crate::{Database, DatabaseError, Digest, Sealer, columns::seconds};

/// What is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingKind {
    /// A form that was sent; it is not taken again.
    Form,
    /// A link by which the owner of this machine signs in.
    Link,
    /// A sign-in at the identity provider.
    SignIn,
    /// A request that waits for its browser to sign in.
    Waiting,
}

impl PendingKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Link => "link",
            Self::SignIn => "sign-in",
            Self::Waiting => "waiting",
        }
    }
}

/// Where what is pending is kept.
#[async_trait]
pub trait Pending: Send + Sync {
    /// Keeps `body` until `until`. The answer is whether there was nothing of that id: what is there stays.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is kept then.
    async fn keep(
        &self,
        kind: PendingKind,
        id: &Digest,
        body: &[u8],
        until: Timestamp,
    ) -> Result<bool, DatabaseError>;

    /// Keeps `body` until `until` in place of what is there.
    ///
    /// # Errors
    /// [`DatabaseError`]; what was there stays then.
    async fn replace(
        &self,
        kind: PendingKind,
        id: &Digest,
        body: &[u8],
        until: Timestamp,
    ) -> Result<(), DatabaseError>;

    /// What is kept, if its time is not over; it stays.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn peek(
        &self,
        kind: PendingKind,
        id: &Digest,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, DatabaseError>;

    /// What is kept, for one taker; it is gone afterwards, whether or not its time was over.
    ///
    /// # Errors
    /// [`DatabaseError`]; it may be there still.
    async fn take(
        &self,
        kind: PendingKind,
        id: &Digest,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, DatabaseError>;

    /// Forgets what expired before `before`; the answer is how much there was.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError>;
}

/// [`Pending`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredPending {
    database: Database,
    sealer: Arc<Sealer>,
}

impl StoredPending {
    /// What is pending in `database`, sealed by `sealer`.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }

    fn open(&self, kind: PendingKind, id: &str, sealed: &str) -> Result<Vec<u8>, DatabaseError> {
        self.sealer.open(&context(kind, id), sealed).ok_or(DatabaseError::Value("body"))
    }
}

#[async_trait]
impl Pending for StoredPending {
    async fn keep(
        &self,
        kind: PendingKind,
        id: &Digest,
        body: &[u8],
        until: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let id = id.to_string();
        let kept = sqlx::query(
            "INSERT INTO pending (kind, id, body, expires_at) VALUES ($1, $2, $3, $4) ON CONFLICT (kind, id) DO NOTHING",
        )
        .bind(kind.as_str())
        .bind(&id)
        .bind(self.sealer.seal_row(&context(kind, &id), body)?)
        .bind(seconds(until))
        .execute(self.database.writer())
        .await?;
        Ok(kept.rows_affected() == 1)
    }

    async fn replace(
        &self,
        kind: PendingKind,
        id: &Digest,
        body: &[u8],
        until: Timestamp,
    ) -> Result<(), DatabaseError> {
        let id = id.to_string();
        sqlx::query(
            "INSERT INTO pending (kind, id, body, expires_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body, expires_at = excluded.expires_at",
        )
        .bind(kind.as_str())
        .bind(&id)
        .bind(self.sealer.seal_row(&context(kind, &id), body)?)
        .bind(seconds(until))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn peek(
        &self,
        kind: PendingKind,
        id: &Digest,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, DatabaseError> {
        let id = id.to_string();
        let sealed: Option<String> =
            sqlx::query_scalar("SELECT body FROM pending WHERE kind = $1 AND id = $2 AND expires_at > $3")
                .bind(kind.as_str())
                .bind(&id)
                .bind(seconds(now))
                .fetch_optional(self.database.pool())
                .await?;
        sealed.map(|sealed| self.open(kind, &id, &sealed)).transpose()
    }

    async fn take(
        &self,
        kind: PendingKind,
        id: &Digest,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, DatabaseError> {
        let id = id.to_string();
        let taken: Option<(String, i64)> =
            sqlx::query_as("DELETE FROM pending WHERE kind = $1 AND id = $2 RETURNING body, expires_at")
                .bind(kind.as_str())
                .bind(&id)
                .fetch_optional(self.database.writer())
                .await?;
        let in_time = taken.filter(|(_, until)| *until > seconds(now));
        in_time.map(|(sealed, _)| self.open(kind, &id, &sealed)).transpose()
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError> {
        let forgotten = sqlx::query("DELETE FROM pending WHERE expires_at < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?;
        Ok(forgotten.rows_affected())
    }
}

fn context(kind: PendingKind, id: &str) -> [&[u8]; 3] {
    [b"pending", kind.as_str().as_bytes(), id.as_bytes()]
}
