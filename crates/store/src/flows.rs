//! Flow labels: what has entered whose conversation, and when.
//!
//! What the labels are and when two of them must not meet is policy's; here they are words. The one promise is that
//! admitting is serial: of two calls of the same caller, the second is judged with the first on record, whichever
//! process each runs in, so parallel calls cannot slip past each other.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{Caller, ServerName, Timestamp};
use sqlx::{AnyConnection, Row};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    Database, DatabaseError,
    columns::{seconds, server, time},
    commits::State,
};

/// One admitted call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// When it was admitted.
    pub at: Timestamp,
    /// The server it went to.
    pub server: ServerName,
    /// The tool, by the server's name for it.
    pub tool: String,
    /// The labels it brought: words without white space.
    pub labels: Vec<String>,
    /// The call's id, for explanations and the audit.
    pub call: String,
}

/// Whether a call may join the flows on record.
pub type Judge<'a> = &'a (dyn Fn(&[Flow]) -> bool + Send + Sync);

/// Where flows are kept, for each person and client.
#[async_trait]
pub trait Flows: Send + Sync {
    /// Shows `judge` what has entered since `since`, the oldest first, and, if it says so, adds `flow`; the answer is
    /// what it said. Nobody else's call of this caller is admitted meanwhile.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was added then, and the call may not be made.
    async fn admit(
        &self,
        caller: &Caller,
        since: Timestamp,
        flow: &Flow,
        judge: Judge<'_>,
    ) -> Result<bool, DatabaseError>;

    /// Adds `flow` without a question.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was added then.
    async fn append(&self, caller: &Caller, flow: &Flow) -> Result<(), DatabaseError>;

    /// What has entered since `since`, the oldest first.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn window(&self, caller: &Caller, since: Timestamp) -> Result<Arc<[Flow]>, DatabaseError>;

    /// Everybody for whom something has entered since `since`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn callers(&self, since: Timestamp) -> Result<Vec<Caller>, DatabaseError>;

    /// How often anybody's flows were reset. Whoever remembers what is on record compares this with what it was *before* he
    /// put it there: if it differs, it may not be on record any more.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing that is remembered counts then.
    async fn resets(&self) -> Result<i64, DatabaseError>;

    /// What [`Self::resets`] would answer now, where that is known without asking.
    fn known_resets(&self) -> Option<i64>;

    /// Forgets all of a caller's flows, as `by` wishes; the answer is how many there were. [`Self::resets`] is another
    /// from then on.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was forgotten then.
    async fn reset(&self, caller: &Caller, by: &str, now: Timestamp) -> Result<u64, DatabaseError>;

    /// Forgets everybody's flows from before `before`; the answer is how many there were.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError>;
}

/// [`Flows`] in a [`Database`].
#[derive(Clone)]
pub struct StoredFlows {
    database: Database,
    /// What [`Flows::resets`] is asked over, which is asked for most calls: to lend a connection and to take it back costs more than
    /// the question.
    asking: Arc<Mutex<Option<Kept>>>,
    known: Arc<std::sync::Mutex<Known>>,
}

/// What was read, and in which state of the database: it is so as long as that state is.
#[derive(Default)]
struct Known {
    resets: Option<(State, i64)>,
    /// When, and since when, the windows are of.
    of: Option<(State, Timestamp)>,
    windows: HashMap<Caller, Arc<[Flow]>>,
}

/// Windows that are kept at most.
const WINDOWS: usize = 1_024;

/// The connection for [`Flows::resets`].
struct Kept {
    connection: AnyConnection,
    made: Instant,
}

/// How long the answer to [`Flows::resets`] may take. Calls wait for it one after the other, and a network that swallows
/// everything says nothing for many minutes.
const WITHIN: Duration = Duration::from_secs(5);
/// How long a connection is kept: not past the patience of what lies between here and the database, nor long after it moved.
const KEPT: Duration = Duration::from_secs(300);

impl std::fmt::Debug for StoredFlows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredFlows").field("database", &self.database).finish_non_exhaustive()
    }
}

impl StoredFlows {
    /// Flows in `database`.
    pub fn new(database: Database) -> Self {
        Self { database, asking: Arc::default(), known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoredFlows {
    /// Asks how often flows were reset, over the connection for that.
    async fn ask_resets(&self, asking: &mut Option<Kept>) -> Result<i64, DatabaseError> {
        // Whoever stops waiting in the middle of an answer takes the connection with him. One that is old is not asked over, and what
        // was asked over one that was cut is asked anew; but who has waited in vain once does not wait again, with others behind him.
        let mut old = asking.take();
        if let Some(mut kept) = old.take_if(|kept| kept.made.elapsed() < KEPT) {
            match timeout(WITHIN, resets(&mut kept.connection)).await {
                Ok(Ok(count)) => {
                    *asking = Some(kept);
                    return Ok(count);
                }
                Ok(Err(_)) => {}
                Err(_) => return Err(late()),
            }
        }
        let mut connection = self.database.pool().acquire().await?.detach();
        let count = timeout(WITHIN, resets(&mut connection)).await.map_err(|_| late())??;
        *asking = Some(Kept { connection, made: Instant::now() });
        // Only now: the last connection to a file takes along what tells whether anything was committed to it.
        drop(old);
        Ok(count)
    }
}

/// The question of [`Flows::resets`].
async fn resets(database: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT resets FROM flow_resets").fetch_one(database).await
}

/// The database did not answer [`WITHIN`] the time it has.
fn late() -> DatabaseError {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer came in time")).into()
}

#[async_trait]
impl Flows for StoredFlows {
    async fn admit(
        &self,
        caller: &Caller,
        since: Timestamp,
        flow: &Flow,
        judge: Judge<'_>,
    ) -> Result<bool, DatabaseError> {
        let mut transaction = self.database.write().await?;
        lock(&mut transaction, caller, flow.at).await?;
        let past = read(&mut transaction, caller, since).await?;
        if !judge(&past) {
            return Ok(false);
        }
        add(&mut transaction, caller, flow).await?;
        let before = self.database.state();
        transaction.commit().await?;
        self.database.has_committed(before);
        Ok(true)
    }

    async fn append(&self, caller: &Caller, flow: &Flow) -> Result<(), DatabaseError> {
        let mut transaction = self.database.write().await?;
        lock(&mut transaction, caller, flow.at).await?;
        add(&mut transaction, caller, flow).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn window(&self, caller: &Caller, since: Timestamp) -> Result<Arc<[Flow]>, DatabaseError> {
        let state = self.database.state();
        if let Some(state) = state {
            let known = &mut *self.known();
            if known.of != Some((state, since)) {
                // Nobody asks for those again.
                known.windows.clear();
                known.of = Some((state, since));
            }
            if let Some(flows) = known.windows.get(caller) {
                return Ok(Arc::clone(flows));
            }
        }
        let mut database = self.database.pool().acquire().await?;
        let flows: Arc<[Flow]> = read(&mut database, caller, since).await?.into();
        if let Some(state) = state {
            let known = &mut *self.known();
            if known.of == Some((state, since)) && known.windows.len() < WINDOWS {
                known.windows.insert(caller.clone(), Arc::clone(&flows));
            }
        }
        Ok(flows)
    }

    async fn callers(&self, since: Timestamp) -> Result<Vec<Caller>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT DISTINCT issuer, subject, client FROM flows WHERE at >= $1 ORDER BY issuer, subject, client",
        )
        .bind(seconds(since))
        .fetch_all(self.database.pool())
        .await?;
        let text = |row: &sqlx::any::AnyRow, column: &str| row.try_get::<String, _>(column);
        let caller = |row| Ok(Caller::new(text(row, "issuer")?, text(row, "subject")?, text(row, "client")?));
        rows.iter().map(caller).collect()
    }

    async fn resets(&self) -> Result<i64, DatabaseError> {
        let mut asking = self.asking.lock().await;
        // Whoever comes behind one who has asked need not ask.
        if let Some(count) = self.known_resets() {
            return Ok(count);
        }
        let state = self.database.state();
        let count = self.ask_resets(&mut asking).await?;
        self.known().resets = state.map(|state| (state, count));
        Ok(count)
    }

    fn known_resets(&self) -> Option<i64> {
        let (of, count) = self.known().resets?;
        (self.database.state()? == of).then_some(count)
    }

    async fn reset(&self, caller: &Caller, by: &str, now: Timestamp) -> Result<u64, DatabaseError> {
        let mut transaction = self.database.write().await?;
        lock(&mut transaction, caller, now).await?;
        sqlx::query(
            "UPDATE flow_owners SET reset_by = $4, reset_at = $5 \
             WHERE issuer = $1 AND subject = $2 AND client = $3",
        )
        .bind(caller.issuer())
        .bind(caller.subject())
        .bind(caller.client())
        .bind(by)
        .bind(seconds(now))
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE flow_resets SET resets = resets + 1").execute(&mut *transaction).await?;
        let forgotten = sqlx::query("DELETE FROM flows WHERE issuer = $1 AND subject = $2 AND client = $3")
            .bind(caller.issuer())
            .bind(caller.subject())
            .bind(caller.client())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        transaction.commit().await?;
        Ok(forgotten)
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError> {
        let forgotten = sqlx::query("DELETE FROM flows WHERE at < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?
            .rows_affected();
        sqlx::query("DELETE FROM flow_owners WHERE last_used < $1")
            .bind(seconds(before))
            .execute(self.database.writer())
            .await?;
        Ok(forgotten)
    }
}

async fn lock(database: &mut AnyConnection, caller: &Caller, now: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO flow_owners (issuer, subject, client, last_used) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (issuer, subject, client) DO UPDATE SET last_used = excluded.last_used",
    )
    .bind(caller.issuer())
    .bind(caller.subject())
    .bind(caller.client())
    .bind(seconds(now))
    .execute(database)
    .await?;
    Ok(())
}

async fn add(database: &mut AnyConnection, caller: &Caller, flow: &Flow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO flows (issuer, subject, client, at, server, tool, labels, call) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(caller.issuer())
    .bind(caller.subject())
    .bind(caller.client())
    .bind(seconds(flow.at))
    .bind(flow.server.as_str())
    .bind(&flow.tool)
    .bind(flow.labels.join(" "))
    .bind(&flow.call)
    .execute(database)
    .await?;
    Ok(())
}

async fn read(
    database: &mut AnyConnection,
    caller: &Caller,
    since: Timestamp,
) -> Result<Vec<Flow>, DatabaseError> {
    let found = sqlx::query(
        "SELECT at, server, tool, labels, call FROM flows \
         WHERE issuer = $1 AND subject = $2 AND client = $3 AND at >= $4 ORDER BY id",
    )
    .bind(caller.issuer())
    .bind(caller.subject())
    .bind(caller.client())
    .bind(seconds(since))
    .fetch_all(database)
    .await?;
    let flow = |row: &sqlx::any::AnyRow| {
        Ok(Flow {
            at: time(row, "at")?,
            server: server(row)?,
            tool: row.try_get("tool")?,
            labels: row.try_get::<String, _>("labels")?.split_ascii_whitespace().map(str::to_owned).collect(),
            call: row.try_get("call")?,
        })
    };
    found.iter().map(flow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the connection was made that is asked over the next time.
    async fn made(flows: &StoredFlows) -> Instant {
        flows.asking.lock().await.as_ref().expect("one is kept").made
    }

    #[tokio::test]
    async fn the_connection_that_is_kept_for_one_question_is_kept_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::sqlite(&folder.path().join("store.db")).await.unwrap();
        let flows = StoredFlows::new(database.clone());
        assert_eq!(flows.resets().await.unwrap(), 0);
        let first = made(&flows).await;
        flows.reset(&Caller::new("i", "ann", "c"), "ann", Timestamp::from_unix(9)).await.unwrap();
        assert_eq!(flows.resets().await.unwrap(), 1);
        assert_eq!(made(&flows).await, first, "it is asked over again");
        flows.reset(&Caller::new("i", "ann", "c"), "ann", Timestamp::from_unix(9)).await.unwrap();
        tokio::time::pause();
        tokio::time::advance(KEPT).await;
        tokio::time::resume();
        assert_eq!(flows.resets().await.unwrap(), 2);
        assert!(made(&flows).await >= first + KEPT, "it was too old");
        assert_eq!(flows.known_resets(), Some(2), "what tells of commits did not go with it");
        database.close().await;
    }
}
