//! Admin roles that were granted for a time: whoever holds one may act at the admin listener until it ends.

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError,
    columns::{seconds, time},
};

/// A role somebody holds for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The role's name.
    pub role: String,
    /// Who vouches for the person.
    pub issuer: String,
    /// The person.
    pub subject: String,
    /// Who granted it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// When it ends.
    pub until: Timestamp,
}

/// Where granted roles are kept.
#[async_trait]
pub trait Admins: Send + Sync {
    /// Grants a role, in the place of one that the person holds already.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was granted then.
    async fn grant(&self, held: &Held) -> Result<(), DatabaseError>;

    /// Takes a role back before its end. Whether there was one that had not ended.
    ///
    /// # Errors
    /// [`DatabaseError`]; it is held still.
    async fn take(
        &self,
        role: &str,
        issuer: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<bool, DatabaseError>;

    /// The roles that a person holds now.
    ///
    /// # Errors
    /// [`DatabaseError`]; nobody holds any then.
    async fn of(&self, issuer: &str, subject: &str, now: Timestamp) -> Result<Vec<String>, DatabaseError>;

    /// Everything that is held now, in order.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn all(&self, now: Timestamp) -> Result<Vec<Held>, DatabaseError>;
}

/// [`Admins`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredAdmins(Database);

impl StoredAdmins {
    /// Roles in `database`.
    pub fn new(database: Database) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Admins for StoredAdmins {
    async fn grant(&self, held: &Held) -> Result<(), DatabaseError> {
        sqlx::query(
            "INSERT INTO admin_roles (role, issuer, subject, granted_by, granted_at, good_until) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (role, issuer, subject) DO UPDATE SET \
             granted_by = excluded.granted_by, granted_at = excluded.granted_at, good_until = excluded.good_until",
        )
        .bind(&held.role)
        .bind(&held.issuer)
        .bind(&held.subject)
        .bind(&held.by)
        .bind(seconds(held.at))
        .bind(seconds(held.until))
        .execute(self.0.pool())
        .await?;
        Ok(())
    }

    async fn take(
        &self,
        role: &str,
        issuer: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let row = sqlx::query(
            "DELETE FROM admin_roles WHERE role = $1 AND issuer = $2 AND subject = $3 RETURNING good_until",
        )
        .bind(role)
        .bind(issuer)
        .bind(subject)
        .fetch_optional(self.0.pool())
        .await?;
        row.map_or(Ok(false), |row| Ok(time(&row, "good_until")? > now))
    }

    async fn of(&self, issuer: &str, subject: &str, now: Timestamp) -> Result<Vec<String>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT role FROM admin_roles WHERE issuer = $1 AND subject = $2 AND good_until > $3 ORDER BY role",
        )
        .bind(issuer)
        .bind(subject)
        .bind(seconds(now))
        .fetch_all(self.0.pool())
        .await?;
        rows.iter().map(|row| Ok(row.try_get("role")?)).collect()
    }

    async fn all(&self, now: Timestamp) -> Result<Vec<Held>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT role, issuer, subject, granted_by, granted_at, good_until FROM admin_roles WHERE good_until > $1 \
             ORDER BY role, issuer, subject",
        )
        .bind(seconds(now))
        .fetch_all(self.0.pool())
        .await?;
        let held = |row: &AnyRow| {
            Ok(Held {
                role: row.try_get("role")?,
                issuer: row.try_get("issuer")?,
                subject: row.try_get("subject")?,
                by: row.try_get("granted_by")?,
                at: time(row, "granted_at")?,
                until: time(row, "good_until")?,
            })
        };
        rows.iter().map(held).collect()
    }
}
