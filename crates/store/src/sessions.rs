//! Live sessions of the legacy era: whose each is, which node holds its conversation, and whether it has ended.
//!
//! The conversation itself is in one node's memory, so nobody else can go on with it; what the row adds is that everybody
//! can end it. A node opens its rows before it gives their ids out, closes what others ended ([`Sessions::ended`]), and
//! notes in batches what was used. The number of a session is kept as a digest: whoever reads the rows cannot ask for one.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{Caller, ServerName, Timestamp};
use sqlx::{Any, AnyConnection, AssertSqlSafe, any::AnyArguments, query::Query};

use crate::{Database, DatabaseError, Dialect, Digest, columns::seconds};

/// Rows that one statement changes at most: others wait for its locks.
const ROWS: usize = 1_000;

/// The end of a statement's choice of rows it will change, [`ROWS`] at most. In Postgres it passes over those that somebody
/// else is changing, so that nobody waits for rows in a circle.
fn choice(dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => format!("LIMIT {ROWS} FOR UPDATE SKIP LOCKED"),
        Dialect::Sqlite => format!("LIMIT {ROWS}"),
    }
}

/// The ids in the parameter $1, which are joined by commas in Postgres, and a JSON array in SQLite.
const fn listed(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "SELECT unnest(string_to_array($1, ','))",
        Dialect::Sqlite => "SELECT value FROM json_each($1)",
    }
}

/// `ids` as [`listed`] takes them.
fn list(dialect: Dialect, ids: &[Digest]) -> String {
    let texts: Vec<_> = ids.iter().map(Digest::to_string).collect();
    match dialect {
        Dialect::Postgres => texts.join(","),
        Dialect::Sqlite => format!("[\"{}\"]", texts.join("\",\"")),
    }
}

/// How long a session is remembered that its node has closed.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// How long a session may go without a sign of its node before it counts as lost, and is remembered then for the node to
/// close.
const LOST: Duration = Duration::from_secs(24 * 60 * 60);

/// A session, as it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The digest of its number.
    pub id: Digest,
    /// Whose it is.
    pub caller: Caller,
    /// The server it is with; `None` for all of them.
    pub server: Option<ServerName>,
    /// The protocol revision that was negotiated.
    pub revision: String,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Its client said so.
    Client,
    /// The person was erased.
    Erased,
    /// Nobody used it for a while.
    Idle,
    /// Its node died.
    Lost,
    /// Its token was taken back, or the person or client was cut off.
    Revoked,
    /// Its server is cut off, gone, or another by now.
    Server,
    /// Its node stopped.
    Stopped,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Erased => "erased",
            Self::Idle => "idle",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
            Self::Server => "server",
            Self::Stopped => "stopped",
        }
    }
}

/// Where one node keeps the rows of its sessions.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Closes what an earlier process of this node's name left open, for that process is gone; the answer is how many there
    /// were. To be asked before the node opens any.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn begin(&self, now: Timestamp) -> Result<u64, DatabaseError>;

    /// Opens a session of this node.
    ///
    /// # Errors
    /// [`DatabaseError`]; its id must not be given out then.
    async fn open(&self, session: &Session, now: Timestamp) -> Result<(), DatabaseError>;

    /// Notes that these sessions of this node were used; the answer is which of them are not live any more.
    ///
    /// # Errors
    /// [`DatabaseError`]; some may be noted.
    async fn seen(&self, ids: &[Digest], now: Timestamp) -> Result<Vec<Digest>, DatabaseError>;

    /// The sessions of this node that were ended, and whose conversation it has not closed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn ended(&self) -> Result<Vec<Digest>, DatabaseError>;

    /// Notes that the conversations of these sessions of this node are over, for this reason unless they had ended before.
    ///
    /// # Errors
    /// [`DatabaseError`]; some may be noted. Noting one twice changes nothing.
    async fn close(&self, sessions: &[(Digest, End)], now: Timestamp) -> Result<(), DatabaseError>;

    /// Notes that the conversations of all sessions of this node are over, for this reason unless they had ended before; the
    /// answer is how many there were. What somebody else is changing meanwhile may be left for [`Sessions::begin`].
    ///
    /// # Errors
    /// [`DatabaseError`]; some may be noted.
    async fn close_all(&self, end: End, now: Timestamp) -> Result<u64, DatabaseError>;

    /// Forgets sessions that were closed an hour ago, or that ended a day ago and were never closed, and ends those of nodes
    /// that have given no sign for a day; the answer is how many were forgotten.
    ///
    /// # Errors
    /// [`DatabaseError`]; some may be forgotten.
    async fn tidy(&self, now: Timestamp) -> Result<u64, DatabaseError>;
}

/// [`Sessions`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredSessions {
    database: Database,
    node: String,
}

impl StoredSessions {
    /// Those that the node `node` holds, in `database`. No two processes may go by one name at a time.
    pub fn new(database: Database, node: impl Into<String>) -> Self {
        Self { database, node: node.into() }
    }

    /// Runs `statement`, which changes as many rows as [`choice`] lets it, until there is less than that to change. The answer
    /// is how many rows it changed.
    async fn in_batches(
        &self,
        statement: &str,
        bind: impl Fn(Statement) -> Statement + Send + Sync,
    ) -> Result<u64, DatabaseError> {
        let mut all = 0;
        loop {
            let done = bind(sqlx::query(AssertSqlSafe(statement))).execute(self.database.writer()).await?;
            all += done.rows_affected();
            if usize::try_from(done.rows_affected()).is_ok_and(|rows| rows < ROWS) {
                return Ok(all);
            }
        }
    }
}

impl StoredSessions {
    /// Closes those of `ids` that nobody else is changing, in one statement; the answer is which are left.
    async fn close_free(
        &self,
        ids: &[Digest],
        end: End,
        now: Timestamp,
    ) -> Result<Vec<String>, DatabaseError> {
        let dialect = self.database.dialect();
        let open = format!(
            "SELECT id FROM sessions WHERE id IN ({}) AND node = $2 AND closed_at IS NULL",
            listed(dialect)
        );
        let list = list(dialect, ids);
        let closed = self.close_ids(&format!("{open} {}", choice(dialect)), &list, end, now).await?;
        if usize::try_from(closed).is_ok_and(|closed| closed == ids.len()) {
            return Ok(Vec::new());
        }
        let left = sqlx::query_scalar(AssertSqlSafe(open))
            .bind(&list)
            .bind(&self.node)
            .fetch_all(self.database.pool());
        Ok(left.await?)
    }

    /// Closes sessions of this node: those that `chosen` selects from `ids`, which are its $1. The answer is how many there were.
    async fn close_ids(
        &self,
        chosen: &str,
        ids: &str,
        end: End,
        now: Timestamp,
    ) -> Result<u64, DatabaseError> {
        let statement = format!(
            "UPDATE sessions SET closed_at = $3, ended_at = COALESCE(ended_at, $3), ended_by = COALESCE(ended_by, $4) \
             WHERE id IN ({chosen}) AND node = $2 AND closed_at IS NULL"
        );
        let closed = sqlx::query(AssertSqlSafe(statement))
            .bind(ids)
            .bind(&self.node)
            .bind(seconds(now))
            .bind(end.name())
            .execute(self.database.writer())
            .await?;
        Ok(closed.rows_affected())
    }
}

/// A statement whose parameters are bound one after the other.
type Statement = Query<'static, Any, AnyArguments>;

#[async_trait]
impl Sessions for StoredSessions {
    async fn begin(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let left = sqlx::query("SELECT 1 FROM sessions WHERE node = $1 AND closed_at IS NULL LIMIT 1")
            .bind(&self.node)
            .fetch_optional(self.database.pool())
            .await?;
        // Nearly always: no turn among those who write is needed for that.
        if left.is_none() {
            return Ok(0);
        }
        let closed = sqlx::query(
            "UPDATE sessions SET closed_at = $2, ended_at = COALESCE(ended_at, $2), ended_by = COALESCE(ended_by, 'lost') \
             WHERE node = $1 AND closed_at IS NULL",
        )
        .bind(&self.node)
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        Ok(closed.rows_affected())
    }

    async fn open(&self, session: &Session, now: Timestamp) -> Result<(), DatabaseError> {
        sqlx::query(
            "INSERT INTO sessions (id, node, issuer, subject, client, server, revision, opened_at, seen_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        )
        .bind(session.id.to_string())
        .bind(&self.node)
        .bind(session.caller.issuer())
        .bind(session.caller.subject())
        .bind(session.caller.client())
        .bind(session.server.as_ref().map_or("", ServerName::as_str))
        .bind(&session.revision)
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn seen(&self, ids: &[Digest], now: Timestamp) -> Result<Vec<Digest>, DatabaseError> {
        let dialect = self.database.dialect();
        let note = format!(
            "UPDATE sessions SET seen_at = $3 WHERE id IN \
             (SELECT id FROM sessions WHERE id IN ({}) AND node = $2 AND ended_at IS NULL {})",
            listed(dialect),
            choice(dialect),
        );
        let look = format!(
            "SELECT id FROM sessions WHERE id IN ({}) AND node = $2 AND ended_at IS NULL",
            listed(dialect)
        );
        let mut gone = Vec::new();
        for batch in ids.chunks(ROWS) {
            let list = list(dialect, batch);
            sqlx::query(AssertSqlSafe(note.as_str()))
                .bind(&list)
                .bind(&self.node)
                .bind(seconds(now))
                .execute(self.database.writer())
                .await?;
            // What was passed over may be live all the same.
            let live: Vec<String> = sqlx::query_scalar(AssertSqlSafe(look.as_str()))
                .bind(&list)
                .bind(&self.node)
                .fetch_all(self.database.pool())
                .await?;
            let live: HashSet<_> = live.into_iter().collect();
            gone.extend(batch.iter().filter(|id| !live.contains(&id.to_string())));
        }
        Ok(gone)
    }

    async fn ended(&self) -> Result<Vec<Digest>, DatabaseError> {
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT id FROM sessions WHERE node = $1 AND ended_at IS NOT NULL AND closed_at IS NULL",
        )
        .bind(&self.node)
        .fetch_all(self.database.pool())
        .await?;
        ids.iter().map(|id| id.parse().map_err(|_| DatabaseError::Value("id"))).collect()
    }

    async fn close(&self, sessions: &[(Digest, End)], now: Timestamp) -> Result<(), DatabaseError> {
        let mut of_reason: BTreeMap<End, Vec<Digest>> = BTreeMap::new();
        for (id, end) in sessions {
            of_reason.entry(*end).or_default().push(*id);
        }
        for (end, ids) in of_reason {
            for batch in ids.chunks(ROWS) {
                // What was passed over is waited for, one row at a time: nobody waits for rows in a circle then.
                for left in self.close_free(batch, end, now).await? {
                    self.close_ids("$1", &left, end, now).await?;
                }
            }
        }
        Ok(())
    }

    async fn close_all(&self, end: End, now: Timestamp) -> Result<u64, DatabaseError> {
        let statement = format!(
            "UPDATE sessions SET closed_at = $2, ended_at = COALESCE(ended_at, $2), ended_by = COALESCE(ended_by, $3) \
             WHERE id IN (SELECT id FROM sessions WHERE node = $1 AND closed_at IS NULL {})",
            choice(self.database.dialect()),
        );
        self.in_batches(&statement, |query| query.bind(&self.node).bind(seconds(now)).bind(end.name())).await
    }

    async fn tidy(&self, now: Timestamp) -> Result<u64, DatabaseError> {
        let now = seconds(now);
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let choice = choice(self.database.dialect());
        // This node's own it knows itself, however long the machine slept.
        let lose = format!(
            "UPDATE sessions SET ended_at = $3, ended_by = 'lost' WHERE id IN \
             (SELECT id FROM sessions WHERE ended_at IS NULL AND seen_at < $1 AND node <> $2 {choice})",
        );
        self.in_batches(&lose, |query| query.bind(before(LOST)).bind(&self.node).bind(now)).await?;
        // None is closed or ended before it is seen.
        let forget = format!(
            "DELETE FROM sessions WHERE id IN \
             (SELECT id FROM sessions WHERE seen_at < $1 AND (closed_at < $1 OR ended_at < $2) {choice})",
        );
        self.in_batches(&forget, |query| query.bind(before(KEPT)).bind(before(LOST))).await
    }
}

/// Whose sessions end.
pub(crate) enum Whose<'a> {
    Client { issuer: &'a str, client: &'a str },
    Person { issuer: &'a str, subject: &'a str },
    Server(&'a str),
}

/// Ends sessions of every node, in a transaction; each closes its own within seconds. The answer is how many there were.
pub(crate) async fn end(
    transaction: &mut AnyConnection,
    whose: Whose<'_>,
    end: End,
    now: Timestamp,
) -> Result<u64, sqlx::Error> {
    let (statement, issuer, name) = match whose {
        Whose::Client { issuer, client } => (
            "UPDATE sessions SET ended_at = $3, ended_by = $4 \
             WHERE client = $2 AND ($1 = '' OR issuer = $1) AND ended_at IS NULL",
            issuer,
            client,
        ),
        Whose::Person { issuer, subject } => (
            "UPDATE sessions SET ended_at = $3, ended_by = $4 \
             WHERE issuer = $1 AND subject = $2 AND ended_at IS NULL",
            issuer,
            subject,
        ),
        Whose::Server(server) => (
            "UPDATE sessions SET ended_at = $3, ended_by = $4 \
             WHERE server = $2 AND $1 = '' AND ended_at IS NULL",
            "",
            server,
        ),
    };
    let ended = sqlx::query(statement)
        .bind(issuer)
        .bind(name)
        .bind(seconds(now))
        .bind(end.name())
        .execute(transaction)
        .await?;
    Ok(ended.rows_affected())
}

/// Ends the sessions of a person who is erased, and takes the person out of their rows.
pub(crate) async fn erase(
    transaction: &mut AnyConnection,
    issuer: &str,
    subject: &str,
    now: Timestamp,
) -> Result<u64, sqlx::Error> {
    end(transaction, Whose::Person { issuer, subject }, End::Erased, now).await?;
    let erased = sqlx::query(
        "UPDATE sessions SET issuer = '', subject = '', client = '' WHERE issuer = $1 AND subject = $2",
    )
    .bind(issuer)
    .bind(subject)
    .execute(transaction)
    .await?;
    Ok(erased.rows_affected())
}
