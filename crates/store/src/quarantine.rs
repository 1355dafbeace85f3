//! Results that wait for a person: withheld from whoever asked, sealed, and given once if they are released.
//!
//! A result is bound to who asked, which server answered, and the SHA-256 of the request. Once a person released it, the
//! same caller's next identical request is answered with it, without asking the server again. Whoever can write to the
//! database can neither read a result, nor put one in, nor release one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Caller, Entropy, ServerName, Timestamp};
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Digest, Sealer,
    columns::{digest, seconds, server, time},
    persons::{self, Person},
};

/// Bytes of a result that is kept.
pub const BYTES: usize = 1 << 20;
/// Results of one server that are kept at once: a server cannot fill the disk, nor tire whoever looks.
pub const PER_SERVER: i64 = 64;
/// How long a result waits, and stays released.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whose answer to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Who asked.
    pub caller: Caller,
    /// Who answered.
    pub server: ServerName,
    /// SHA-256 of the request's method and parameters.
    pub request: Digest,
}

/// A result to be kept.
#[derive(Clone, Debug)]
pub struct Suspect<'s> {
    /// Whose answer to what.
    pub binding: Binding,
    /// The method.
    pub method: &'s str,
    /// The tool, prompt or address that was asked for.
    pub name: &'s str,
    /// The rules that found something, separated by blanks.
    pub found: &'s str,
    /// The result, a JSON text.
    pub result: &'s str,
}

/// A result that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its id: unguessable.
    pub id: String,
    /// Whose answer to what.
    pub binding: Binding,
    /// The method.
    pub method: String,
    /// The tool, prompt or address that was asked for: any text at all.
    pub name: String,
    /// The rules that found something, separated by blanks.
    pub found: String,
    /// Whether a person released it.
    pub is_released: bool,
    /// When it was kept.
    pub kept_at: Timestamp,
    /// When it is forgotten.
    pub expires_at: Timestamp,
    /// Who released it; empty before.
    pub decided_by: String,
}

/// Why a result was not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Too many are kept of this server.
    #[error("{PER_SERVER} results of this server are kept already")]
    Full,
    /// It is not as it was written.
    #[error("the result `{0}` is not as it was written: discard it")]
    Forged(String),
    /// It is longer than [`BYTES`].
    #[error("the result is longer than {BYTES} bytes")]
    TooLong,
    /// There is no such result, or it has expired.
    #[error("there is no result `{0}`")]
    Unknown(String),
}

impl From<sqlx::Error> for QuarantineError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Where withheld results are kept.
#[async_trait]
pub trait Quarantine: Send + Sync {
    /// Keeps a result. An earlier one of the same request that nobody released yet is replaced.
    ///
    /// # Errors
    /// [`QuarantineError`]; nothing was kept then.
    async fn keep(&self, suspect: &Suspect<'_>, now: Timestamp) -> Result<Item, QuarantineError>;

    /// Everything that is kept, the oldest first.
    ///
    /// # Errors
    /// [`QuarantineError::Database`].
    async fn list(&self, now: Timestamp) -> Result<Vec<Item>, QuarantineError>;

    /// One result, with its text.
    ///
    /// # Errors
    /// [`QuarantineError`].
    async fn read(&self, id: &str, now: Timestamp) -> Result<(Item, String), QuarantineError>;

    /// Lets the same caller's next identical request have the result, as `by` wishes.
    ///
    /// # Errors
    /// [`QuarantineError`]; nothing was released then.
    async fn release(&self, id: &str, by: &str, now: Timestamp) -> Result<Item, QuarantineError>;

    /// Forgets a result.
    ///
    /// # Errors
    /// [`QuarantineError`].
    async fn discard(&self, id: &str, now: Timestamp) -> Result<Item, QuarantineError>;

    /// The released result of a request, which is forgotten by it: of any number of requests at once, one gets it.
    ///
    /// # Errors
    /// [`QuarantineError::Database`].
    async fn redeem(
        &self,
        binding: &Binding,
        now: Timestamp,
    ) -> Result<Option<(Item, String)>, QuarantineError>;
}

/// [`Quarantine`] in a [`Database`].
#[derive(Clone)]
pub struct StoredQuarantine {
    database: Database,
    sealer: Arc<Sealer>,
    entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for StoredQuarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredQuarantine({:?})", self.database)
    }
}

const COLUMNS: &str = "id, issuer, subject, client, server, method, name, request, found, state, kept_at, \
                       expires_at, decided_by, sealed, mark";

impl StoredQuarantine {
    /// Results in `database`, sealed by `sealer`, with ids from `entropy`.
    pub fn new(database: Database, sealer: Arc<Sealer>, entropy: Arc<dyn Entropy>) -> Self {
        Self { database, sealer, entropy }
    }

    /// A row as it was written, with what is sealed in it.
    async fn open(&self, row: &AnyRow) -> Result<(Item, String), QuarantineError> {
        let item = item(row)?;
        let forged = || QuarantineError::Forged(item.id.clone());
        let mark = row.try_get::<String, _>("mark")?;
        if !with_parts(&item, |parts| self.sealer.is_marked(parts, &mark)) {
            return Err(forged());
        }
        let sealed = row.try_get::<String, _>("sealed")?;
        let context: [&[u8]; 2] = [b"quarantine", item.id.as_bytes()];
        let whose = whose(&item);
        let opened = persons::open(&self.database, &self.sealer, whose, &context, &sealed).await?;
        let text = String::from_utf8(opened.ok_or_else(forged)?).map_err(|_| forged())?;
        Ok((item, text))
    }

    async fn row(&self, id: &str, now: Timestamp) -> Result<AnyRow, QuarantineError> {
        let statement = format!("SELECT {COLUMNS} FROM quarantine WHERE id = $1 AND expires_at > $2");
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(id)
            .bind(seconds(now))
            .fetch_optional(self.database.pool())
            .await?;
        row.ok_or_else(|| QuarantineError::Unknown(id.to_owned()))
    }
}

#[async_trait]
impl Quarantine for StoredQuarantine {
    async fn keep(&self, suspect: &Suspect<'_>, now: Timestamp) -> Result<Item, QuarantineError> {
        if suspect.result.len() > BYTES {
            return Err(QuarantineError::TooLong);
        }
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        // Postgres keeps no NUL.
        let text = |text: &str| text.replace('\0', "\u{fffd}");
        let item = Item {
            id: hex::encode(id),
            binding: suspect.binding.clone(),
            method: text(suspect.method),
            name: text(suspect.name),
            found: text(suspect.found),
            is_released: false,
            kept_at: now,
            expires_at: now.plus(LIFETIME),
            decided_by: String::new(),
        };
        let Binding { caller, server, request } = &item.binding;
        let context: [&[u8]; 2] = [b"quarantine", item.id.as_bytes()];
        let result = suspect.result.as_bytes();
        // Before the transaction: the person's first key is written beside it.
        let sealed = persons::seal(&self.database, &self.sealer, whose(&item), now, &context, result).await?;
        let mut transaction = self.database.write().await?;
        sqlx::query("DELETE FROM quarantine WHERE expires_at <= $1")
            .bind(seconds(now))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "DELETE FROM quarantine WHERE issuer = $1 AND subject = $2 AND client = $3 AND server = $4 \
             AND request = $5 AND state = 'held'",
        )
        .bind(caller.issuer())
        .bind(caller.subject())
        .bind(caller.client())
        .bind(server.as_str())
        .bind(request.to_string())
        .execute(&mut *transaction)
        .await?;
        let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM quarantine WHERE server = $1")
            .bind(server.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        if kept >= PER_SERVER {
            return Err(QuarantineError::Full);
        }
        sqlx::query(
            "INSERT INTO quarantine (id, issuer, subject, client, server, method, name, request, found, state, \
             kept_at, expires_at, sealed, mark) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'held', $10, $11, $12, $13)",
        )
        .bind(&item.id)
        .bind(caller.issuer())
        .bind(caller.subject())
        .bind(caller.client())
        .bind(server.as_str())
        .bind(&item.method)
        .bind(&item.name)
        .bind(request.to_string())
        .bind(&item.found)
        .bind(seconds(item.kept_at))
        .bind(seconds(item.expires_at))
        .bind(sealed)
        .bind(with_parts(&item, |parts| self.sealer.mark(parts)))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(item)
    }

    async fn list(&self, now: Timestamp) -> Result<Vec<Item>, QuarantineError> {
        let statement =
            format!("SELECT {COLUMNS} FROM quarantine WHERE expires_at > $1 ORDER BY kept_at, id");
        let rows =
            sqlx::query(AssertSqlSafe(statement)).bind(seconds(now)).fetch_all(self.database.pool()).await?;
        Ok(rows.iter().map(item).collect::<Result<_, _>>()?)
    }

    async fn read(&self, id: &str, now: Timestamp) -> Result<(Item, String), QuarantineError> {
        self.open(&self.row(id, now).await?).await
    }

    async fn release(&self, id: &str, by: &str, now: Timestamp) -> Result<Item, QuarantineError> {
        let (known, _) = self.read(id, now).await?;
        if known.is_released {
            return Ok(known);
        }
        let released = Item { is_released: true, decided_by: by.replace('\0', "\u{fffd}"), ..known };
        let changed = sqlx::query(
            "UPDATE quarantine SET state = 'released', decided_by = $2, mark = $3 WHERE id = $1 AND state = 'held'",
        )
        .bind(id)
        .bind(&released.decided_by)
        .bind(with_parts(&released, |parts| self.sealer.mark(parts)))
        .execute(self.database.writer())
        .await?;
        if changed.rows_affected() == 1 { Ok(released) } else { Err(QuarantineError::Unknown(id.to_owned())) }
    }

    async fn discard(&self, id: &str, now: Timestamp) -> Result<Item, QuarantineError> {
        let known = item(&self.row(id, now).await?)?;
        sqlx::query("DELETE FROM quarantine WHERE id = $1").bind(id).execute(self.database.writer()).await?;
        Ok(known)
    }

    async fn redeem(
        &self,
        binding: &Binding,
        now: Timestamp,
    ) -> Result<Option<(Item, String)>, QuarantineError> {
        let statement = format!(
            "SELECT {COLUMNS} FROM quarantine WHERE issuer = $1 AND subject = $2 AND client = $3 AND server = $4 \
             AND request = $5 AND state = 'released' AND expires_at > $6 ORDER BY kept_at, id LIMIT 1"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(binding.caller.issuer())
            .bind(binding.caller.subject())
            .bind(binding.caller.client())
            .bind(binding.server.as_str())
            .bind(binding.request.to_string())
            .bind(seconds(now))
            .fetch_optional(self.database.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let (item, text) = match self.open(&row).await {
            Ok(opened) => opened,
            Err(QuarantineError::Forged(id)) => {
                tracing::error!(id, "a withheld result is not as it was written; it counts for nothing");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // Of several that came this far, the one that takes the row has it.
        let taken = sqlx::query("DELETE FROM quarantine WHERE id = $1 AND state = 'released'")
            .bind(&item.id)
            .execute(self.database.writer())
            .await?;
        Ok((taken.rows_affected() == 1).then_some((item, text)))
    }
}

fn whose(item: &Item) -> Person<'_> {
    let caller = &item.binding.caller;
    Person { issuer: caller.issuer(), subject: caller.subject() }
}

/// Hands `use_parts` everything that says whose answer it is, to what, and whether it may be given.
pub(crate) fn with_parts<T>(item: &Item, use_parts: impl FnOnce(&[&[u8]]) -> T) -> T {
    use_parts(&[
        b"quarantine",
        item.id.as_bytes(),
        item.binding.caller.key().as_bytes(),
        item.binding.server.as_str().as_bytes(),
        &item.binding.request.0,
        item.method.as_bytes(),
        item.name.as_bytes(),
        item.found.as_bytes(),
        if item.is_released { b"released" } else { b"held" },
        item.decided_by.as_bytes(),
        &item.expires_at.as_unix().to_be_bytes(),
    ])
}

pub(crate) fn item(row: &AnyRow) -> Result<Item, DatabaseError> {
    let text = |column: &str| row.try_get::<String, _>(column);
    Ok(Item {
        id: text("id")?,
        binding: Binding {
            caller: Caller::new(text("issuer")?, text("subject")?, text("client")?),
            server: server(row)?,
            request: digest(row, "request")?,
        },
        method: text("method")?,
        name: text("name")?,
        found: text("found")?,
        is_released: text("state")? == "released",
        kept_at: time(row, "kept_at")?,
        expires_at: time(row, "expires_at")?,
        decided_by: row.try_get::<Option<String>, _>("decided_by")?.unwrap_or_default(),
    })
}
