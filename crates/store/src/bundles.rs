//! Which bundles of the shield's were taken up: for each key the newest version it signed, which only rises.
//!
//! *Attack.* Somebody serves last month's bundle, rightly signed, which does not know this week's attack (TUF's rollback
//! attack). *Answer.* What is below the version a key was seen with is refused, on every gate of the database.

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::Row;

use crate::{Database, DatabaseError, Digest, columns::seconds};

/// What was taken up of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The version.
    pub version: u64,
    /// What tells its content from another's.
    pub digest: Digest,
}

/// Where it is kept.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// The newest bundle that any of `keys` signed and that was taken up, by version.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is to be taken up then.
    async fn newest(&self, keys: &[String]) -> Result<Option<Taken>, DatabaseError>;

    /// Records that `taken`, which `keys` signed, is taken up at `now`. `false`, with nothing changed, if one of them has a
    /// newer one by now, or another content of this version.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is to be taken up then.
    async fn advance(&self, keys: &[String], taken: Taken, now: Timestamp) -> Result<bool, DatabaseError>;
}

/// [`Bundles`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredBundles(Database);

impl StoredBundles {
    /// Bundles in `database`.
    pub fn new(database: Database) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Bundles for StoredBundles {
    async fn newest(&self, keys: &[String]) -> Result<Option<Taken>, DatabaseError> {
        let mut newest: Option<Taken> = None;
        for key in keys {
            let row = sqlx::query("SELECT version, digest FROM bundle_versions WHERE key_id = $1")
                .bind(key)
                .fetch_optional(self.0.pool())
                .await?;
            let Some(row) = row else { continue };
            let version: i64 = row.try_get("version")?;
            let version = u64::try_from(version).map_err(|_| DatabaseError::Value("version"))?;
            let digest: String = row.try_get("digest")?;
            let digest = digest.parse().map_err(|_| DatabaseError::Value("digest"))?;
            if newest.is_none_or(|known| known.version < version) {
                newest = Some(Taken { version, digest });
            }
        }
        Ok(newest)
    }

    async fn advance(&self, keys: &[String], taken: Taken, now: Timestamp) -> Result<bool, DatabaseError> {
        let version = i64::try_from(taken.version).map_err(|_| DatabaseError::Value("version"))?;
        let mut transaction = self.0.write().await?;
        for key in keys {
            // Rises, or stays with the same content; anything else changes no row.
            let changed = sqlx::query(
                "INSERT INTO bundle_versions (key_id, version, digest, taken_at) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (key_id) DO UPDATE SET version = excluded.version, digest = excluded.digest, \
                 taken_at = excluded.taken_at WHERE bundle_versions.version < excluded.version \
                 OR (bundle_versions.version = excluded.version AND bundle_versions.digest = excluded.digest)",
            )
            .bind(key)
            .bind(version)
            .bind(taken.digest.to_string())
            .bind(seconds(now))
            .execute(&mut *transaction)
            .await?;
            if changed.rows_affected() == 0 {
                return Ok(false);
            }
        }
        transaction.commit().await?;
        Ok(true)
    }
}
