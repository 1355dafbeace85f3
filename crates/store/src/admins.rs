//! Admin roles that were granted for a time: whoever holds one may act at the admin listener until it ends.

mod ended;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use self::ended::Ended;
use crate::{
    Database, DatabaseError, Sealer,
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
    /// [`DatabaseError`]; nothing was granted then, and what was held already may count no more.
    async fn grant(&self, held: &Held) -> Result<(), DatabaseError>;

    /// Takes a role back before its end. Whether there was one that had not ended.
    ///
    /// # Errors
    /// [`DatabaseError`]; it may be held still.
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
pub struct StoredAdmins {
    database: Database,
    sealer: Arc<Sealer>,
    ended: Arc<Ended>,
}

const COLUMNS: &str = "role, issuer, subject, granted_by, granted_at, good_until, seal";

impl StoredAdmins {
    /// Roles in `database`. A row without `sealer`'s mark is as good as none: whoever can write to the database grants nothing, and
    /// makes nothing last longer. What was taken back or replaced is remembered in the file `ended`, were its row in the database then or
    /// not: a row of it that is put in again counts for nothing. Without that file it counts until its own end.
    pub fn new(database: Database, sealer: Arc<Sealer>, ended: Option<PathBuf>) -> Self {
        Self { database, sealer, ended: Arc::new(Ended::new(ended)) }
    }

    /// Writes the file beside the database again, under the key that marks now.
    pub(crate) fn renew_ended(&self) -> Result<(), DatabaseError> {
        self.ended.renew(&self.sealer)
    }

    /// Takes every role of a person back for good, as [`Admins::take`] does; the answer is how many there were. For whoever is erased: a
    /// row that is put back is nobody's.
    ///
    /// # Errors
    /// [`DatabaseError`]; some may be held still.
    pub async fn take_all(&self, issuer: &str, subject: &str, now: Timestamp) -> Result<u64, DatabaseError> {
        let roles: Vec<String> =
            sqlx::query_scalar("SELECT role FROM admin_roles WHERE issuer = $1 AND subject = $2")
                .bind(issuer)
                .bind(subject)
                .fetch_all(self.database.pool())
                .await?;
        let mut taken = 0;
        for role in roles {
            taken += u64::from(self.take(&role, issuer, subject, now).await?);
        }
        Ok(taken)
    }

    /// Those of `rows` that were granted here, and not taken back.
    fn ours(&self, rows: &[AnyRow]) -> Result<Vec<Held>, DatabaseError> {
        let ended = self.ended.read(&self.sealer)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let (held, seal) = (held(row)?, row.try_get::<String, _>("seal")?);
            let problem = if !with_mark(&held, |parts| self.sealer.is_marked(parts, &seal)) {
                "an admin role is not as it was granted; it counts for nothing"
            } else if ended.has(&held) {
                "an admin role that was taken back is in the database again; it counts for nothing"
            } else {
                found.push(held);
                continue;
            };
            tracing::error!(role = held.role, problem);
        }
        Ok(found)
    }

    /// Removes what a person holds by this role; the answer is that, if the row was ours.
    async fn remove(
        &self,
        database: &mut AnyConnection,
        role: &str,
        issuer: &str,
        subject: &str,
    ) -> Result<Vec<Held>, DatabaseError> {
        let row = sqlx::query(AssertSqlSafe(format!(
            "DELETE FROM admin_roles WHERE role = $1 AND issuer = $2 AND subject = $3 RETURNING {COLUMNS}"
        )))
        .bind(role)
        .bind(issuer)
        .bind(subject)
        .fetch_optional(database)
        .await?;
        self.ours(row.as_slice())
    }
}

/// Hands `make` what the mark of a role is over.
pub(crate) fn with_mark<T>(held: &Held, make: impl FnOnce(&[&[u8]]) -> T) -> T {
    let Held { role, issuer, subject, by, at, until } = held;
    let (at, until) = (at.as_unix().to_be_bytes(), until.as_unix().to_be_bytes());
    let texts = [role, issuer, subject, by].map(|text| text.as_bytes());
    let [role, issuer, subject, by] = texts;
    make(&[b"admin_roles", role, issuer, subject, by, &at, &until])
}

/// The role in a row, whoever put it there.
pub(crate) fn held(row: &AnyRow) -> Result<Held, DatabaseError> {
    Ok(Held {
        role: row.try_get("role")?,
        issuer: row.try_get("issuer")?,
        subject: row.try_get("subject")?,
        by: row.try_get("granted_by")?,
        at: time(row, "granted_at")?,
        until: time(row, "good_until")?,
    })
}

#[async_trait]
impl Admins for StoredAdmins {
    async fn grant(&self, held: &Held) -> Result<(), DatabaseError> {
        let mut transaction = self.database.write().await?;
        let before = self.remove(&mut transaction, &held.role, &held.issuer, &held.subject).await?;
        let whose = [held.role.as_str(), held.issuer.as_str(), held.subject.as_str()];
        self.ended.remember(&self.sealer, whose, &before, Some(held), held.at)?;
        let mark = with_mark(held, |parts| self.sealer.mark(parts));
        sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO admin_roles ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (role, issuer, subject) DO UPDATE SET granted_by = excluded.granted_by, \
             granted_at = excluded.granted_at, good_until = excluded.good_until, seal = excluded.seal"
        )))
        .bind(&held.role)
        .bind(&held.issuer)
        .bind(&held.subject)
        .bind(&held.by)
        .bind(seconds(held.at))
        .bind(seconds(held.until))
        .bind(mark)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    async fn take(
        &self,
        role: &str,
        issuer: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let mut transaction = self.database.write().await?;
        let taken = self.remove(&mut transaction, role, issuer, subject).await?;
        // A row that somebody hid meanwhile is over too, though nobody can read it now.
        self.ended.remember(&self.sealer, [role, issuer, subject], &taken, None, now)?;
        transaction.commit().await?;
        Ok(taken.iter().any(|held| held.until > now))
    }

    async fn of(&self, issuer: &str, subject: &str, now: Timestamp) -> Result<Vec<String>, DatabaseError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM admin_roles WHERE issuer = $1 AND subject = $2 AND good_until > $3 ORDER BY role"
        )))
        .bind(issuer)
        .bind(subject)
        .bind(seconds(now))
        .fetch_all(self.database.pool())
        .await?;
        Ok(self.ours(&rows)?.into_iter().map(|held| held.role).collect())
    }

    async fn all(&self, now: Timestamp) -> Result<Vec<Held>, DatabaseError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM admin_roles WHERE good_until > $1 ORDER BY role, issuer, subject"
        )))
        .bind(seconds(now))
        .fetch_all(self.database.pool())
        .await?;
        self.ours(&rows)
    }
}
