//! Browsers in which somebody is signed in.
//!
//! The browser holds a random value, the database its digest: whoever reads the database cannot sign in with it. What
//! is known of the person is sealed to its row.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::Row;

use crate::{
    Database, DatabaseError, Digest, Sealer,
    columns::{seconds, time},
    persons::{self, Person},
};

/// Between two notes of when a browser was last seen; a page with several requests is one visit.
const SEEN_EVERY: Duration = Duration::from_secs(60);

/// A browser in which somebody signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browser {
    /// The digest of its cookie.
    pub id: Digest,
    /// Who vouches for the person.
    pub issuer: String,
    /// The person there.
    pub subject: String,
    /// What else is known of them, in the caller's own format.
    pub person: Vec<u8>,
    /// When they signed in.
    pub opened_at: Timestamp,
    /// When they are signed out at the latest.
    pub expires_at: Timestamp,
}

/// Where browsers are kept.
#[async_trait]
pub trait Browsers: Send + Sync {
    /// Signs a person in.
    ///
    /// # Errors
    /// [`DatabaseError`]; nobody is signed in then.
    async fn open(&self, browser: &Browser) -> Result<(), DatabaseError>;

    /// The browser of this id, if it was seen within `idle` and has not expired; it is seen now.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn find(
        &self,
        id: &Digest,
        idle: Duration,
        now: Timestamp,
    ) -> Result<Option<Browser>, DatabaseError>;

    /// Signs one browser out.
    ///
    /// # Errors
    /// [`DatabaseError`]; it may be signed in still.
    async fn close(&self, id: &Digest) -> Result<(), DatabaseError>;

    /// Signs all browsers of a person out; the answer is how many there were.
    ///
    /// # Errors
    /// [`DatabaseError`]; they may be signed in still.
    async fn close_all(&self, issuer: &str, subject: &str) -> Result<u64, DatabaseError>;

    /// Forgets what expired before `before`; the answer is how many there were.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError>;
}

/// [`Browsers`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredBrowsers {
    database: Database,
    sealer: Arc<Sealer>,
}

impl StoredBrowsers {
    /// Browsers in `database`, their persons sealed by `sealer`.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }
}

#[async_trait]
impl Browsers for StoredBrowsers {
    async fn open(&self, browser: &Browser) -> Result<(), DatabaseError> {
        let id = browser.id.to_string();
        let whose = Person { issuer: &browser.issuer, subject: &browser.subject };
        let context = context(&id, &browser.issuer, &browser.subject);
        let person =
            persons::seal(&self.database, &self.sealer, whose, browser.opened_at, &context, &browser.person)
                .await?;
        sqlx::query(
            "INSERT INTO browsers (id, issuer, subject, person, opened_at, seen_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $5, $6)",
        )
        .bind(&id)
        .bind(&browser.issuer)
        .bind(&browser.subject)
        .bind(person)
        .bind(seconds(browser.opened_at))
        .bind(seconds(browser.expires_at))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn find(
        &self,
        id: &Digest,
        idle: Duration,
        now: Timestamp,
    ) -> Result<Option<Browser>, DatabaseError> {
        let text = id.to_string();
        let row = sqlx::query(
            "SELECT issuer, subject, person, opened_at, seen_at, expires_at FROM browsers \
             WHERE id = $1 AND expires_at > $2",
        )
        .bind(&text)
        .bind(seconds(now))
        .fetch_optional(self.database.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let seen = time(&row, "seen_at")?;
        if now.since(seen) >= idle {
            return Ok(None);
        }
        let (issuer, subject): (String, String) = (row.try_get("issuer")?, row.try_get("subject")?);
        let sealed: String = row.try_get("person")?;
        let whose = Person { issuer: &issuer, subject: &subject };
        let context = context(&text, &issuer, &subject);
        let person = persons::open(&self.database, &self.sealer, whose, &context, &sealed).await?;
        let person = person.ok_or(DatabaseError::Value("person"))?;
        if now.since(seen) >= SEEN_EVERY.min(idle / 2) {
            sqlx::query("UPDATE browsers SET seen_at = $2 WHERE id = $1 AND seen_at < $2")
                .bind(&text)
                .bind(seconds(now))
                .execute(self.database.writer())
                .await?;
        }
        let (opened_at, expires_at) = (time(&row, "opened_at")?, time(&row, "expires_at")?);
        Ok(Some(Browser { id: *id, issuer, subject, person, opened_at, expires_at }))
    }

    async fn close(&self, id: &Digest) -> Result<(), DatabaseError> {
        sqlx::query("DELETE FROM browsers WHERE id = $1")
            .bind(id.to_string())
            .execute(self.database.writer())
            .await?;
        Ok(())
    }

    async fn close_all(&self, issuer: &str, subject: &str) -> Result<u64, DatabaseError> {
        let closed = sqlx::query("DELETE FROM browsers WHERE issuer = $1 AND subject = $2")
            .bind(issuer)
            .bind(subject)
            .execute(self.database.writer())
            .await?;
        Ok(closed.rows_affected())
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError> {
        let forgotten = sqlx::query("DELETE FROM browsers WHERE expires_at < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?;
        Ok(forgotten.rows_affected())
    }
}

pub(crate) fn context<'a>(id: &'a str, issuer: &'a str, subject: &'a str) -> [&'a [u8]; 4] {
    [b"browser", id.as_bytes(), issuer.as_bytes(), subject.as_bytes()]
}
