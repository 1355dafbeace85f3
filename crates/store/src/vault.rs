//! Secrets by name, sealed under the gate's key: what the configuration means by `{ vault = "NAME" }`.

use std::sync::Arc;

use bartizan_model::{Secret, Timestamp};
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Sealer,
    columns::{seconds, time},
};

/// The longest secret, in bytes.
pub const LONGEST: usize = 64 << 10;

/// Why a secret cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// There is none of this name.
    #[error("the vault holds no secret `{0}`; put it there by `bartizan secrets set {0}`")]
    Unknown(String),
    /// There is one already.
    #[error("the vault holds a secret `{0}` already; replace it by `bartizan secrets rotate {0}`")]
    Known(String),
    /// It is not as it was written.
    #[error("the secret `{0}` does not open: it was changed, moved, or sealed under another key")]
    Unsealed(String),
    /// No name.
    #[error("`{0}` is no name of a secret: use 1 to 64 of A-Z, a-z, 0-9, `-`, `_` and `.`")]
    Name(String),
    /// Too long, or nothing.
    #[error("a secret has 1 to {LONGEST} bytes of UTF-8")]
    Length,
}

impl From<sqlx::Error> for VaultError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Counts its values.
    pub revision: u64,
    /// When the first was set.
    pub made_at: Timestamp,
    /// When this one was.
    pub changed_at: Timestamp,
}

/// The secrets in a [`Database`].
#[derive(Clone, Debug)]
pub struct Vault {
    database: Database,
    sealer: Arc<Sealer>,
}

impl Vault {
    /// Secrets in `database`, sealed by `sealer`.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }

    /// The value of a secret.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn read(&self, name: &str) -> Result<Secret, VaultError> {
        let row = sqlx::query("SELECT revision, sealed FROM vault_secrets WHERE name = $1")
            .bind(name)
            .fetch_optional(self.database.pool())
            .await?;
        let row = row.ok_or_else(|| VaultError::Unknown(name.to_owned()))?;
        if self.sealer.is_locked() {
            return Err(DatabaseError::Locked.into());
        }
        let (revision, sealed): (i64, String) = (row.try_get("revision")?, row.try_get("sealed")?);
        let opened = self.sealer.open(&context(name, &revision.to_be_bytes()), &sealed);
        let text = opened.and_then(|bytes| String::from_utf8(bytes).ok());
        text.map(Secret::new).ok_or_else(|| VaultError::Unsealed(name.to_owned()))
    }

    /// Adds a secret.
    ///
    /// # Errors
    /// [`VaultError::Known`] if there is one of this name; [`VaultError`].
    pub async fn add(&self, name: &str, value: &Secret, now: Timestamp) -> Result<(), VaultError> {
        check(name, value)?;
        let added = sqlx::query(
            "INSERT INTO vault_secrets (name, revision, sealed, made_at, changed_at) VALUES ($1, 1, $2, $3, $3) \
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(self.sealer.seal_row(&context(name, &1_i64.to_be_bytes()), value.reveal().as_bytes())?)
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        if added.rows_affected() == 1 { Ok(()) } else { Err(VaultError::Known(name.to_owned())) }
    }

    /// Puts a new value in the place of the old; the answer is its revision.
    ///
    /// # Errors
    /// [`VaultError::Unknown`] if there is none; [`VaultError`].
    pub async fn replace(&self, name: &str, value: &Secret, now: Timestamp) -> Result<u64, VaultError> {
        check(name, value)?;
        let mut transaction = self.database.write().await?;
        // The row is ours from here on: the revision is part of what the value is sealed to.
        let revision: Option<i64> = sqlx::query_scalar(
            "UPDATE vault_secrets SET revision = revision + 1, changed_at = $2 WHERE name = $1 RETURNING revision",
        )
        .bind(name)
        .bind(seconds(now))
        .fetch_optional(&mut *transaction)
        .await?;
        let revision = revision.ok_or_else(|| VaultError::Unknown(name.to_owned()))?;
        sqlx::query("UPDATE vault_secrets SET sealed = $2 WHERE name = $1")
            .bind(name)
            .bind(self.sealer.seal_row(&context(name, &revision.to_be_bytes()), value.reveal().as_bytes())?)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        u64::try_from(revision).map_err(|_| DatabaseError::Value("revision").into())
    }

    /// Removes a secret. Whether there was one.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn remove(&self, name: &str) -> Result<bool, VaultError> {
        let removed = sqlx::query("DELETE FROM vault_secrets WHERE name = $1")
            .bind(name)
            .execute(self.database.writer())
            .await?;
        Ok(removed.rows_affected() == 1)
    }

    /// Every secret, by name, without its value.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn list(&self) -> Result<Vec<Listed>, VaultError> {
        let rows = sqlx::query("SELECT name, revision, made_at, changed_at FROM vault_secrets ORDER BY name")
            .fetch_all(self.database.pool())
            .await?;
        rows.iter().map(listed).collect()
    }
}

/// What a value is bound to: an older one that is put back opens no more.
pub(crate) fn context<'a>(name: &'a str, revision: &'a [u8; 8]) -> [&'a [u8]; 3] {
    [b"vault_secrets", name.as_bytes(), revision]
}

/// Whether a secret may have this name and this value.
///
/// # Errors
/// [`VaultError::Name`] and [`VaultError::Length`].
pub fn check(name: &str, value: &Secret) -> Result<(), VaultError> {
    let is_name = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !is_name {
        return Err(VaultError::Name(name.to_owned()));
    }
    if value.reveal().is_empty() || value.reveal().len() > LONGEST {
        return Err(VaultError::Length);
    }
    Ok(())
}

fn listed(row: &AnyRow) -> Result<Listed, VaultError> {
    let revision: i64 = row.try_get("revision")?;
    Ok(Listed {
        name: row.try_get("name")?,
        revision: u64::try_from(revision).map_err(|_| DatabaseError::Value("revision"))?,
        made_at: time(row, "made_at")?,
        changed_at: time(row, "changed_at")?,
    })
}
