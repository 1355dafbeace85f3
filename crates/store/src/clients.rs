//! Clients that registered themselves (RFC 7591), until they expire.

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Sealer,
    columns::{seconds, time},
};

/// A registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// `client_id`
    pub id: String,
    /// The registered metadata, as whoever registers wrote it. It is sealed at rest.
    pub content: String,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it is forgotten, unless it is used before.
    pub expires_at: Timestamp,
}

/// Where registrations are kept.
#[async_trait]
pub trait Registrations: Send + Sync {
    /// Adds a registration, if fewer than `at_most` are alive; the answer is whether it was added.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was added then.
    async fn add(
        &self,
        registration: &Registration,
        at_most: u32,
        now: Timestamp,
    ) -> Result<bool, DatabaseError>;

    /// The registration of this client, unless it has expired.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn find(&self, id: &str, now: Timestamp) -> Result<Option<Registration>, DatabaseError>;

    /// Moves the end of a registration that was used to `until`, if that is later.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn extend(&self, id: &str, until: Timestamp) -> Result<(), DatabaseError>;

    /// Forgets a registration; the answer is whether there was one.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn remove(&self, id: &str) -> Result<bool, DatabaseError>;

    /// The registrations that are alive, the oldest first.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn list(&self, now: Timestamp) -> Result<Vec<Registration>, DatabaseError>;

    /// Forgets what expired before `before`; the answer is how many there were.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError>;
}

/// [`Registrations`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredRegistrations {
    database: Database,
    sealer: Arc<Sealer>,
}

impl StoredRegistrations {
    /// Registrations in `database`. What `sealer` did not seal is none: whoever can write to the database cannot give
    /// a client another redirect URI.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }

    /// `None` for a row that we did not write.
    fn registration(&self, row: &AnyRow) -> Result<Option<Registration>, DatabaseError> {
        let id: String = row.try_get("id")?;
        let opened = self.sealer.open(&[b"client", id.as_bytes()], row.try_get("content")?);
        let Some(content) = opened.and_then(|bytes| String::from_utf8(bytes).ok()) else {
            tracing::error!(id, "a registered client is not as it was written; it counts for nothing");
            return Ok(None);
        };
        let (made_at, expires_at) = (time(row, "made_at")?, time(row, "expires_at")?);
        Ok(Some(Registration { id, content, made_at, expires_at }))
    }
}

const COLUMNS: &str = "SELECT id, content, made_at, expires_at FROM registered_clients";

#[async_trait]
impl Registrations for StoredRegistrations {
    async fn add(
        &self,
        registration: &Registration,
        at_most: u32,
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let mut transaction = self.database.write().await?;
        let alive: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM registered_clients WHERE expires_at > $1")
            .bind(seconds(now))
            .fetch_one(&mut *transaction)
            .await?;
        // In Postgres a few that come at once may each be the last one: the bound is against floods.
        if alive >= i64::from(at_most) {
            return Ok(false);
        }
        let content = self
            .sealer
            .seal_row(&[b"client", registration.id.as_bytes()], registration.content.as_bytes())?;
        sqlx::query(
            "INSERT INTO registered_clients (id, content, made_at, expires_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(&registration.id)
        .bind(content)
        .bind(seconds(registration.made_at))
        .bind(seconds(registration.expires_at))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn find(&self, id: &str, now: Timestamp) -> Result<Option<Registration>, DatabaseError> {
        let statement = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE id = $1 AND expires_at > $2"));
        let row =
            sqlx::query(statement).bind(id).bind(seconds(now)).fetch_optional(self.database.pool()).await?;
        row.as_ref().map_or(Ok(None), |row| self.registration(row))
    }

    async fn extend(&self, id: &str, until: Timestamp) -> Result<(), DatabaseError> {
        sqlx::query("UPDATE registered_clients SET expires_at = $2 WHERE id = $1 AND expires_at < $2")
            .bind(id)
            .bind(seconds(until))
            .execute(self.database.writer())
            .await?;
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<bool, DatabaseError> {
        let removed = sqlx::query("DELETE FROM registered_clients WHERE id = $1")
            .bind(id)
            .execute(self.database.writer())
            .await?;
        Ok(removed.rows_affected() == 1)
    }

    async fn list(&self, now: Timestamp) -> Result<Vec<Registration>, DatabaseError> {
        let statement = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE expires_at > $1 ORDER BY made_at, id"));
        let rows = sqlx::query(statement).bind(seconds(now)).fetch_all(self.database.pool()).await?;
        rows.iter().filter_map(|row| self.registration(row).transpose()).collect()
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError> {
        let forgotten = sqlx::query("DELETE FROM registered_clients WHERE expires_at < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?;
        Ok(forgotten.rows_affected())
    }
}
