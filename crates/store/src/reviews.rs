//! Reviews of rights: when the last one was, what it found, and what people decided about that until when.
//!
//! Several gates share a database; [`Reviews::begin`] lets one of them review. A finding is known by a stable name, so that what a
//! person decided about it outlives the next review; it goes when a review does not find it any more.

use std::time::Duration;

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError,
    columns::{maybe_time, seconds, time},
};

/// The review of what the policy permits.
const POLICY: &str = "policy";
/// After how long a review that did not end is begun again.
const STUCK: Duration = Duration::from_secs(3600);

/// What a person decided about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right, and will be put right until then.
    Accepted,
    /// It may stay as it is until then.
    Waived,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Waived => "waived",
        }
    }
}

/// A decision about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What was decided.
    pub verdict: Verdict,
    /// By whom.
    pub by: String,
    /// Why.
    pub why: String,
    /// When.
    pub at: Timestamp,
    /// Until when it counts.
    pub until: Timestamp,
}

/// What a review found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its stable name.
    pub id: String,
    /// What it is, for people.
    pub words: String,
    /// When it was first found.
    pub found_at: Timestamp,
    /// What a person decided.
    pub decided: Option<Decided>,
}

impl Finding {
    /// Whether nobody has decided about it, or what was decided has run out.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.decided.as_ref().is_none_or(|decided| decided.until <= now)
    }
}

/// When reviews were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// When the last one was begun, or, before the first one, when it was first thought of.
    pub begun_at: Timestamp,
    /// When the last one that ended did.
    pub done_at: Option<Timestamp>,
}

/// Where reviews are kept.
#[async_trait]
pub trait Reviews: Send + Sync {
    /// Begins a review if the last one is `every` ago; of several who ask, one is told to. The first one is due `every` after
    /// the first question: before, nothing was recorded to go by.
    ///
    /// # Errors
    /// [`DatabaseError`]; nobody is to review then.
    async fn begin(&self, every: Duration, now: Timestamp) -> Result<bool, DatabaseError>;

    /// Keeps what a review found, by name and words, in place of what the one before did. Answers the names that are new.
    ///
    /// # Errors
    /// [`DatabaseError`]; what was there stays then.
    async fn finish(&self, found: &[(String, String)], now: Timestamp) -> Result<Vec<String>, DatabaseError>;

    /// When reviews were; `None` if there was never to be one.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn last(&self) -> Result<Option<Reviewed>, DatabaseError>;

    /// What the last review found, by name.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn findings(&self) -> Result<Vec<Finding>, DatabaseError>;

    /// Keeps what a person decided about a finding; `false` if there is no such finding.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was decided then.
    async fn decide(&self, id: &str, decided: &Decided) -> Result<bool, DatabaseError>;
}

/// [`Reviews`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredReviews(Database);

impl StoredReviews {
    /// Reviews in `database`.
    pub fn new(database: Database) -> Self {
        Self(database)
    }
}

#[async_trait]
impl Reviews for StoredReviews {
    async fn begin(&self, every: Duration, now: Timestamp) -> Result<bool, DatabaseError> {
        let added =
            sqlx::query("INSERT INTO reviews (name, begun_at) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                .bind(POLICY)
                .bind(seconds(now))
                .execute(self.0.writer())
                .await?;
        if added.rows_affected() > 0 {
            return Ok(false);
        }
        let before = |ago: Duration| Timestamp::from_unix(now.as_unix().saturating_sub(ago.as_secs()));
        let begun = sqlx::query(
            "UPDATE reviews SET begun_at = $2 WHERE name = $1 AND (begun_at <= $3 \
             OR (begun_at <= $4 AND done_at IS NOT NULL AND done_at < begun_at))",
        )
        .bind(POLICY)
        .bind(seconds(now))
        .bind(seconds(before(every)))
        .bind(seconds(before(STUCK)))
        .execute(self.0.writer())
        .await?;
        Ok(begun.rows_affected() > 0)
    }

    async fn finish(&self, found: &[(String, String)], now: Timestamp) -> Result<Vec<String>, DatabaseError> {
        let mut transaction = self.0.write().await?;
        let known: Vec<String> =
            sqlx::query_scalar("SELECT id FROM review_findings").fetch_all(&mut *transaction).await?;
        for gone in known.iter().filter(|id| !found.iter().any(|(found, _)| found == *id)) {
            sqlx::query("DELETE FROM review_findings WHERE id = $1")
                .bind(gone)
                .execute(&mut *transaction)
                .await?;
        }
        for (id, words) in found {
            sqlx::query(
                "INSERT INTO review_findings (id, words, found_at) VALUES ($1, $2, $3) \
                 ON CONFLICT (id) DO UPDATE SET words = excluded.words",
            )
            .bind(id)
            .bind(words)
            .bind(seconds(now))
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query("UPDATE reviews SET done_at = $2 WHERE name = $1")
            .bind(POLICY)
            .bind(seconds(now))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(found.iter().map(|(id, _)| id.clone()).filter(|id| !known.contains(id)).collect())
    }

    async fn last(&self) -> Result<Option<Reviewed>, DatabaseError> {
        let row = sqlx::query("SELECT begun_at, done_at FROM reviews WHERE name = $1")
            .bind(POLICY)
            .fetch_optional(self.0.pool())
            .await?;
        let reviewed = |row: AnyRow| {
            Ok(Reviewed { begun_at: time(&row, "begun_at")?, done_at: maybe_time(&row, "done_at")? })
        };
        row.map(reviewed).transpose()
    }

    async fn findings(&self) -> Result<Vec<Finding>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT id, words, found_at, decision, decided_by, why, decided_at, until FROM review_findings ORDER BY id",
        )
        .fetch_all(self.0.pool())
        .await?;
        rows.iter().map(finding).collect()
    }

    async fn decide(&self, id: &str, decided: &Decided) -> Result<bool, DatabaseError> {
        let changed = sqlx::query(
            "UPDATE review_findings SET decision = $2, decided_by = $3, why = $4, decided_at = $5, until = $6 \
             WHERE id = $1",
        )
        .bind(id)
        .bind(decided.verdict.as_str())
        .bind(&decided.by)
        .bind(&decided.why)
        .bind(seconds(decided.at))
        .bind(seconds(decided.until))
        .execute(self.0.writer())
        .await?;
        Ok(changed.rows_affected() > 0)
    }
}

fn finding(row: &AnyRow) -> Result<Finding, DatabaseError> {
    let text =
        |column: &str| Ok::<_, DatabaseError>(row.try_get::<Option<String>, _>(column)?.unwrap_or_default());
    let verdict = match text("decision")?.as_str() {
        "" => None,
        "accepted" => Some(Verdict::Accepted),
        "waived" => Some(Verdict::Waived),
        _ => return Err(DatabaseError::Value("decision")),
    };
    let decided = match verdict {
        None => None,
        Some(verdict) => Some(Decided {
            verdict,
            by: text("decided_by")?,
            why: text("why")?,
            at: time(row, "decided_at")?,
            until: time(row, "until")?,
        }),
    };
    Ok(Finding {
        id: row.try_get("id")?,
        words: row.try_get("words")?,
        found_at: time(row, "found_at")?,
        decided,
    })
}
