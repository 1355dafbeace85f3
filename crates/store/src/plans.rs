//! Plans: what is done about a compromised server, step by step, each step's end kept as it comes.
//!
//! A plan that a crash cut short goes on where it stopped: what is [`Standing::Done`] is not done again. Secrets that the
//! server held are marked beside it, each until its value is another one.

use std::fmt;

use async_trait::async_trait;
use bartizan_model::{ServerName, Timestamp};
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError,
    columns::{seconds, server, time},
};

/// What is done about one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Unguessable only by accident; it names the plan in records.
    pub id: String,
    /// The server.
    pub server: ServerName,
    /// Since when it cannot be trusted, if that is known.
    pub since: Option<Timestamp>,
    /// Why, in the words of whoever began it.
    pub why: String,
    /// Who began it.
    pub by: String,
    /// When.
    pub begun_at: Timestamp,
    /// When its last step was done.
    pub ended_at: Option<Timestamp>,
}

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Nothing of it is called or shown any more.
    Quarantine,
    /// What people granted the gate there is revoked and forgotten.
    Grants,
    /// What it held is marked to be rotated, and rotated where that can be done from here.
    Secrets,
    /// Its definitions are again what they were before.
    Pins,
    /// Whom and what it saw.
    Exposure,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 5] = [Self::Quarantine, Self::Grants, Self::Secrets, Self::Pins, Self::Exposure];

    /// The step as it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Grants => "grants",
            Self::Secrets => "secrets",
            Self::Pins => "pins",
            Self::Exposure => "exposure",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }
}

/// How far a step, or a piece of one, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not done yet.
    Waiting,
    /// Done; it is not done again.
    Done,
    /// It was tried and did not succeed; the next run tries again.
    Failed,
    /// A person has to do it; the plan goes on without.
    ByHand,
}

impl Standing {
    const ALL: [Self; 4] = [Self::Waiting, Self::Done, Self::Failed, Self::ByHand];

    /// The standing as it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::ByHand => "by-hand",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.as_str() == text)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A step of a plan, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which step.
    pub step: Step,
    /// Which piece of it; empty for the step itself. Never somebody's name: people go by their pseudonyms.
    pub name: String,
    /// How far it is.
    pub standing: Standing,
    /// What came of it.
    pub words: String,
    /// When it came to stand so.
    pub at: Option<Timestamp>,
}

/// A secret that a compromised server held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretMark {
    /// The server.
    pub server: ServerName,
    /// Where the secret is kept: `env:NAME` or `file:PATH`.
    pub place: String,
    /// The plan that marked it.
    pub plan: String,
    /// A keyed digest of its value when it was marked; empty if the value could not be read.
    pub fingerprint: String,
    /// When.
    pub marked_at: Timestamp,
    /// When another value stood in its place, or somebody said so.
    pub rotated_at: Option<Timestamp>,
}

/// Where plans are kept.
#[async_trait]
pub trait Plans: Send + Sync {
    /// Begins `plan`, unless one for its server is under way: then that one is the answer.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was begun then.
    async fn begin(&self, plan: &Plan) -> Result<Plan, DatabaseError>;

    /// The plan for `server` that was begun last, whether it is done or not.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn latest(&self, server: &ServerName) -> Result<Option<Plan>, DatabaseError>;

    /// Every step and piece of a plan, in order.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn items(&self, plan: &str) -> Result<Vec<Item>, DatabaseError>;

    /// Writes how far an item is, as of now.
    ///
    /// # Errors
    /// [`DatabaseError`]; it stands as before then.
    async fn settle(&self, plan: &str, item: &Item) -> Result<(), DatabaseError>;

    /// Ends a plan.
    ///
    /// # Errors
    /// [`DatabaseError`]; it goes on then.
    async fn end(&self, plan: &str, now: Timestamp) -> Result<(), DatabaseError>;

    /// Marks a secret. One that is marked already keeps the older mark, unless that one was rotated.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn mark(&self, mark: &SecretMark) -> Result<(), DatabaseError>;

    /// The secrets of a server that are marked, those rotated since included, by place.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn marks(&self, server: &ServerName) -> Result<Vec<SecretMark>, DatabaseError>;

    /// A marked secret is another one now. Whether it was marked and not rotated yet.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn rotated(&self, server: &ServerName, place: &str, now: Timestamp) -> Result<bool, DatabaseError>;
}

/// [`Plans`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredPlans(Database);

impl StoredPlans {
    /// Plans in `database`.
    pub fn new(database: Database) -> Self {
        Self(database)
    }
}

/// 0 stands for a time that is not known.
fn or_zero(time: Option<Timestamp>) -> i64 {
    time.map_or(0, seconds)
}

fn not_zero(row: &AnyRow, column: &'static str) -> Result<Option<Timestamp>, DatabaseError> {
    Ok(Some(time(row, column)?).filter(|time| time.as_unix() > 0))
}

const COLUMNS: &str = "SELECT id, server, bad_since, why, done_by, begun_at, ended_at FROM plans";

fn plan(row: &AnyRow) -> Result<Plan, DatabaseError> {
    Ok(Plan {
        id: row.try_get("id")?,
        server: server(row)?,
        since: not_zero(row, "bad_since")?,
        why: row.try_get("why")?,
        by: row.try_get("done_by")?,
        begun_at: time(row, "begun_at")?,
        ended_at: not_zero(row, "ended_at")?,
    })
}

fn item(row: &AnyRow) -> Result<Item, DatabaseError> {
    let text = |column| row.try_get::<String, _>(column);
    Ok(Item {
        step: Step::named(&text("step")?).ok_or(DatabaseError::Value("step"))?,
        name: text("name")?,
        standing: Standing::named(&text("standing")?).ok_or(DatabaseError::Value("standing"))?,
        words: text("words")?,
        at: not_zero(row, "settled_at")?,
    })
}

fn mark(row: &AnyRow) -> Result<SecretMark, DatabaseError> {
    Ok(SecretMark {
        server: server(row)?,
        place: row.try_get("place")?,
        plan: row.try_get("plan")?,
        fingerprint: row.try_get("fingerprint")?,
        marked_at: time(row, "marked_at")?,
        rotated_at: not_zero(row, "rotated_at")?,
    })
}

#[async_trait]
impl Plans for StoredPlans {
    async fn begin(&self, new: &Plan) -> Result<Plan, DatabaseError> {
        let mut transaction = self.0.write().await?;
        let statement = format!("{COLUMNS} WHERE server = $1 AND ended_at = 0 ORDER BY begun_at LIMIT 1");
        let under_way = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(new.server.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(row) = under_way {
            return plan(&row);
        }
        sqlx::query(
            "INSERT INTO plans (id, server, bad_since, why, done_by, begun_at, ended_at) VALUES ($1, $2, $3, $4, $5, $6, 0)",
        )
        .bind(&new.id)
        .bind(new.server.as_str())
        .bind(or_zero(new.since))
        .bind(&new.why)
        .bind(&new.by)
        .bind(seconds(new.begun_at))
        .execute(&mut *transaction)
        .await?;
        for step in Step::ALL {
            sqlx::query(
                "INSERT INTO plan_items (plan, step, name, standing, words, settled_at) VALUES ($1, $2, '', 'waiting', '', 0)",
            )
            .bind(&new.id)
            .bind(step.as_str())
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(Plan { ended_at: None, ..new.clone() })
    }

    async fn latest(&self, server: &ServerName) -> Result<Option<Plan>, DatabaseError> {
        // One that is under way before those that ended.
        let statement = format!(
            "{COLUMNS} WHERE server = $1 ORDER BY CASE ended_at WHEN 0 THEN 0 ELSE 1 END, begun_at DESC, id LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(server.as_str())
            .fetch_optional(self.0.pool())
            .await?;
        row.as_ref().map(plan).transpose()
    }

    async fn items(&self, plan: &str) -> Result<Vec<Item>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT step, name, standing, words, settled_at FROM plan_items WHERE plan = $1 ORDER BY name",
        )
        .bind(plan)
        .fetch_all(self.0.pool())
        .await?;
        let mut items = rows.iter().map(item).collect::<Result<Vec<_>, _>>()?;
        items.sort_by_key(|item| item.step);
        Ok(items)
    }

    async fn settle(&self, plan: &str, item: &Item) -> Result<(), DatabaseError> {
        sqlx::query(
            "INSERT INTO plan_items (plan, step, name, standing, words, settled_at) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (plan, step, name) DO UPDATE SET standing = excluded.standing, words = excluded.words, \
             settled_at = excluded.settled_at",
        )
        .bind(plan)
        .bind(item.step.as_str())
        .bind(&item.name)
        .bind(item.standing.as_str())
        .bind(&item.words)
        .bind(or_zero(item.at))
        .execute(self.0.writer())
        .await?;
        Ok(())
    }

    async fn end(&self, plan: &str, now: Timestamp) -> Result<(), DatabaseError> {
        sqlx::query("UPDATE plans SET ended_at = $2 WHERE id = $1 AND ended_at = 0")
            .bind(plan)
            .bind(seconds(now))
            .execute(self.0.writer())
            .await?;
        Ok(())
    }

    async fn mark(&self, mark: &SecretMark) -> Result<(), DatabaseError> {
        sqlx::query(
            "INSERT INTO secret_marks (server, place, plan, fingerprint, marked_at, rotated_at) \
             VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT (server, place) DO UPDATE SET plan = excluded.plan, \
             fingerprint = excluded.fingerprint, marked_at = excluded.marked_at, rotated_at = 0 \
             WHERE secret_marks.rotated_at > 0",
        )
        .bind(mark.server.as_str())
        .bind(&mark.place)
        .bind(&mark.plan)
        .bind(&mark.fingerprint)
        .bind(seconds(mark.marked_at))
        .execute(self.0.writer())
        .await?;
        Ok(())
    }

    async fn marks(&self, server: &ServerName) -> Result<Vec<SecretMark>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT server, place, plan, fingerprint, marked_at, rotated_at FROM secret_marks WHERE server = $1 ORDER BY place",
        )
        .bind(server.as_str())
        .fetch_all(self.0.pool())
        .await?;
        rows.iter().map(mark).collect()
    }

    async fn rotated(&self, server: &ServerName, place: &str, now: Timestamp) -> Result<bool, DatabaseError> {
        let done = sqlx::query(
            "UPDATE secret_marks SET rotated_at = $3 WHERE server = $1 AND place = $2 AND rotated_at = 0",
        )
        .bind(server.as_str())
        .bind(place)
        .bind(seconds(now))
        .execute(self.0.writer())
        .await?;
        Ok(done.rows_affected() > 0)
    }
}
