//! Keys that sign access tokens, shared by all processes on one database.
//!
//! A key is written before it signs and stays after it has stopped, so that whoever checks signatures knows it all the
//! time that something signed with it is alive.

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_model::{Secret, Timestamp};
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Dialect, Sealer,
    columns::{seconds, time},
};

/// A key pair.
#[derive(Clone)]
pub struct SigningKey {
    /// `kid`
    pub id: String,
    /// The private key, as text. It is sealed at rest.
    pub private: Secret,
    /// The public key (a JWK).
    pub public: String,
    /// From when on it signs.
    pub signs_from: Timestamp,
    /// From when on it signs no more.
    pub signs_until: Timestamp,
    /// From when on nothing it signed is alive.
    pub verifies_until: Timestamp,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where signing keys are kept.
#[async_trait]
pub trait SigningKeys: Send + Sync {
    /// Every key that is worth something, the oldest first.
    ///
    /// # Errors
    /// [`DatabaseError::Value`] for one that was sealed under another key file; [`DatabaseError`].
    async fn all(&self, now: Timestamp) -> Result<Vec<SigningKey>, DatabaseError>;

    /// Adds a key, unless there is one that signs after its `signs_from` already; the answer is whether it was added.
    /// Of several processes at once, one is first.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was added then.
    async fn add(&self, key: &SigningKey) -> Result<bool, DatabaseError>;

    /// Forgets every key that is alive, at once: what they signed is worth nothing. For a key that got out.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing has changed then.
    async fn end_all(&self, now: Timestamp) -> Result<u64, DatabaseError>;

    /// Forgets the keys that were worth nothing before `before`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError>;
}

/// [`SigningKeys`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredSigningKeys {
    database: Database,
    sealer: Arc<Sealer>,
}

impl StoredSigningKeys {
    /// Keys in `database`, sealed by `sealer`.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }

    fn key(&self, row: &AnyRow) -> Result<SigningKey, DatabaseError> {
        let (id, public): (String, String) = (row.try_get("id")?, row.try_get("public")?);
        let opened = self.sealer.open(&context(&id, &public), row.try_get("private")?);
        let private = opened.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(SigningKey {
            private: Secret::new(private.ok_or(DatabaseError::Value("private"))?),
            signs_from: time(row, "signs_from")?,
            signs_until: time(row, "signs_until")?,
            verifies_until: time(row, "verifies_until")?,
            id,
            public,
        })
    }
}

/// The public half is part of it: nobody can put another in its place.
pub(crate) fn context<'a>(id: &'a str, public: &'a str) -> [&'a [u8]; 3] {
    [b"signing key", id.as_bytes(), public.as_bytes()]
}

#[async_trait]
impl SigningKeys for StoredSigningKeys {
    async fn all(&self, now: Timestamp) -> Result<Vec<SigningKey>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT id, private, public, signs_from, signs_until, verifies_until FROM signing_keys \
             WHERE verifies_until > $1 ORDER BY signs_from, id",
        )
        .bind(seconds(now))
        .fetch_all(self.database.pool())
        .await?;
        rows.iter().map(|row| self.key(row)).collect()
    }

    async fn add(&self, key: &SigningKey) -> Result<bool, DatabaseError> {
        let mut transaction = self.database.write().await?;
        // In SQLite the transaction has the lock, in Postgres this is it.
        if self.database.dialect() == Dialect::Postgres {
            sqlx::query("LOCK TABLE signing_keys IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
        }
        let others: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM signing_keys WHERE signs_until > $1")
            .bind(seconds(key.signs_from))
            .fetch_one(&mut *transaction)
            .await?;
        if others > 0 {
            return Ok(false);
        }
        let sealed = self.sealer.seal_row(&context(&key.id, &key.public), key.private.reveal().as_bytes())?;
        sqlx::query(
            "INSERT INTO signing_keys (id, private, public, signs_from, signs_until, verifies_until) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&key.id)
        .bind(sealed)
        .bind(&key.public)
        .bind(seconds(key.signs_from))
        .bind(seconds(key.signs_until))
        .bind(seconds(key.verifies_until))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn end_all(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let ended = sqlx::query("DELETE FROM signing_keys WHERE verifies_until > $1")
            .bind(seconds(now))
            .execute(self.database.writer())
            .await?;
        Ok(ended.rows_affected())
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError> {
        let forgotten = sqlx::query("DELETE FROM signing_keys WHERE verifies_until < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?;
        Ok(forgotten.rows_affected())
    }
}
