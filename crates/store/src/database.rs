//! One database, two kinds: SQLite in a file of ours, or Postgres shared by replicas.
//!
//! Statements are written once, in the SQL both understand (`$1` parameters, `ON CONFLICT`, `RETURNING`), with
//! integers as `BIGINT`, flags as 0 and 1, times in Unix seconds and digests as hexadecimal text.

use std::{
    fs, io, net::IpAddr, os::unix::fs::MetadataExt, path::Path, str::FromStr, sync::Arc, time::Duration,
};

use sqlx::{
    Any, AnyConnection, AnyPool, ConnectOptions, Connection, Executor, Transaction,
    any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers},
};
use url::{Host, Url};

use crate::{
    commits::{Commits, State},
    create_once, migrate,
};

/// Connections of one process to Postgres, and those to a file that read.
const CONNECTIONS: u32 = 8;
/// See [`CONNECTIONS`]. SQLite has one writer at a time, and whoever else wants to write asks again and again, in no order, until it
/// gives up: those of one process wait in line for the one connection that writes.
const READERS: u32 = 4;

/// How long we wait for a connection.
const WAIT: Duration = Duration::from_secs(10);
/// How long for the one that writes to a file, and how long that waits for another process.
const TURN: Duration = Duration::from_secs(30);

/// From when on a statement is slow, to whoever looks for that.
const SLOW: Duration = Duration::from_secs(1);

/// Settings of every SQLite connection. What is deleted is overwritten; what is committed is on the disk.
const PRAGMAS: &str = "PRAGMA busy_timeout = 30000; PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; \
                       PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;";
/// And of those that read: a write that went past the line would be the one that finds the database locked.
const READS_ONLY: &str = "PRAGMA query_only = ON;";

/// A database whose tables are the ones this program knows.
#[derive(Clone)]
pub struct Database {
    /// Who reads; of Postgres, who writes too.
    pool: AnyPool,
    writer: AnyPool,
    dialect: Dialect,
    /// Of a file; what others commit to Postgres is only known by asking.
    commits: Option<Arc<Commits>>,
}

/// Which SQL a database speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Postgres 14 and newer.
    Postgres,
    /// SQLite, built in.
    Sqlite,
}

/// Why the database could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// What is kept beside the database, so that an older one is noticed, is not as it was written.
    #[error("a file beside the database cannot be used: {0}")]
    Beside(String),
    /// What is in its file is no database, or not as it was written.
    #[error("the database file is damaged: put the newest copy of it back")]
    Damaged,
    /// The database refused or is out of reach.
    #[error("the database failed: {0}")]
    Failed(#[from] sqlx::Error),
    /// Its file cannot be used.
    #[error("cannot use the database file: {0}")]
    File(#[from] io::Error),
    /// A key is not at hand: the root key is away, or another process changed the keys a moment ago.
    #[error("the keys that seal the store are not at hand; see `bartizan keys status`")]
    Locked,
    /// A migration that was applied is not the one this program has.
    #[error("the database's tables were made by another build: migration {0} differs")]
    Migration(i64),
    /// It was used by a newer program.
    #[error(
        "the database was used by a newer version (its tables are at {found}, this program knows {known})"
    )]
    Newer {
        /// The newest migration applied to it.
        found: i64,
        /// The newest one we have.
        known: i64,
    },
    /// Others can read the file.
    #[error("the database file must belong to you and be readable by you alone; run `chmod 600` on it")]
    Permissions,
    /// A value in it cannot be what we wrote.
    #[error("the database holds an impossible value in `{0}`")]
    Value(&'static str),
    /// The connection would not be protected.
    #[error(
        "a Postgres server on another machine needs `sslmode=verify-full` (spelled so or left out) and a host name"
    )]
    Unprotected,
    /// The URL is none of Postgres.
    #[error("the store's URL is not a `postgres://` URL")]
    Url,
}

impl DatabaseError {
    /// Whether it says only that the database could not be asked just now: too much is going on, or it is out of reach. Nothing is
    /// wrong with what is in it, as far as this tells.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Failed(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => true,
            Self::Failed(sqlx::Error::Database(error)) => is_passing(&error.code().unwrap_or_default()),
            _ => false,
        }
    }
}

/// Whether what the database calls `code` says nothing of what is in it.
fn is_passing(code: &str) -> bool {
    match code.parse::<u32>() {
        // SQLite's: the low byte says which, the next one what of it (sqlite.org/rescode.html). Postgres has five digits or letters.
        Ok(number) if code.len() < 5 => PASSING.contains(&(number & 0xff)) && !LASTING.contains(&number),
        _ => PASSING_CLASSES.iter().any(|class| code.starts_with(class)),
    }
}

/// `SQLITE_BUSY`, `SQLITE_LOCKED`, `SQLITE_NOMEM`, `SQLITE_READONLY` (a disk that is), `SQLITE_INTERRUPT`, `SQLITE_IOERR`, `SQLITE_FULL`,
/// `SQLITE_CANTOPEN`, `SQLITE_PROTOCOL`.
const PASSING: [u32; 9] = [5, 6, 7, 8, 9, 10, 13, 14, 15];
/// `SQLITE_READONLY_DBMOVED`, `SQLITE_IOERR_DATA`, `SQLITE_IOERR_CORRUPTFS`: another file is in its place, or what is in it is not what
/// was written.
const LASTING: [u32; 3] = [1032, 8202, 8458];
/// Connection exceptions, serialization failures, insufficient resources, locks that are held, operators at work, a standby.
const PASSING_CLASSES: [&str; 6] = ["08", "40", "53", "55P03", "57", "25006"];

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        write!(f, "Database({:?})", self.dialect)
    }
}

impl Database {
    /// The SQLite database in the file `path`, made with mode 0600 if there is none. Several processes may use it.
    ///
    /// # Errors
    /// [`DatabaseError`]; a file that others could read is not used.
    pub async fn sqlite(path: &Path) -> Result<Self, DatabaseError> {
        create_once(path, b"")?;
        let about = fs::symlink_metadata(path)?;
        if !about.is_file() || about.mode() & 0o077 != 0 || about.uid() != rustix::process::geteuid().as_raw()
        {
            return Err(DatabaseError::Permissions);
        }
        let path = fs::canonicalize(path)?;
        let mut url = Url::from_file_path(&path).map_err(|()| DatabaseError::Url)?;
        url.set_query(Some("mode=rw"));
        // `Url` does not let `file:` become another scheme.
        let url = url.as_str().replacen("file:", "sqlite:", 1);
        install_default_drivers();
        try_open(&url).await?;
        let writer = options(1, TURN)
            // A file does not hang up: asking whether it is there would cost as much as asking what is in it.
            .test_before_acquire(false)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(PRAGMAS).await.map(|_| ()) })
            })
            .connect_with(quiet(&url)?)
            .await?;
        // The switch to WAL is the one statement whose lock does not wait; the file remembers it.
        let mut tries = 0;
        while let Err(error) = writer.execute("PRAGMA journal_mode = WAL").await {
            tries += 1;
            if tries == 100 {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // In WAL mode nobody who reads waits for whoever writes. Opened when they are needed.
        let pool = options(READERS, WAIT)
            .test_before_acquire(false)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(PRAGMAS).await?;
                    connection.execute(READS_ONLY).await.map(|_| ())
                })
            })
            .connect_lazy_with(quiet(&url)?);
        Self::prepared(pool, writer, Dialect::Sqlite, Some(Arc::new(Commits::new(&path)))).await
    }

    /// The Postgres database at `url`: `postgres://user:password@host/name?…`. Off loopback the server must prove its
    /// name (`sslmode=verify-full`, which is then the default); `sslrootcert=FILE` names its authority.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn postgres(url: &str) -> Result<Self, DatabaseError> {
        let url = protected(url)?;
        install_default_drivers();
        let pool = options(CONNECTIONS, WAIT).connect_with(quiet(url.as_str())?).await?;
        Self::prepared(pool.clone(), pool, Dialect::Postgres, None).await
    }

    async fn prepared(
        pool: AnyPool,
        writer: AnyPool,
        dialect: Dialect,
        commits: Option<Arc<Commits>>,
    ) -> Result<Self, DatabaseError> {
        let database = Self { pool, writer, dialect, commits };
        migrate::run(&database).await?;
        Ok(database)
    }

    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The state that is committed now, if that can be told without asking: what was read after it was seen is still so when it
    /// is seen again.
    pub(crate) fn state(&self) -> Option<State> {
        self.commits.as_ref()?.state()
    }

    /// Something was committed here since the state `before`: it must be another now.
    pub(crate) fn has_committed(&self, before: Option<State>) {
        if let Some(commits) = &self.commits {
            commits.has_committed(before);
        }
    }

    /// For statements that stand alone and read.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// For statements that stand alone and write.
    pub(crate) fn writer(&self) -> &AnyPool {
        &self.writer
    }

    /// A transaction that will write. SQLite takes its write lock at once: a lock taken later could not wait.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Any>, sqlx::Error> {
        match self.dialect {
            Dialect::Postgres => self.writer.begin().await,
            Dialect::Sqlite => self.writer.begin_with("BEGIN IMMEDIATE").await,
        }
    }

    /// A transaction that reads one state of several tables.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Any>, sqlx::Error> {
        match self.dialect {
            Dialect::Postgres => {
                self.pool.begin_with("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await
            }
            Dialect::Sqlite => self.pool.begin().await,
        }
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
        // The last one takes the log of the file along, and must be able to.
        self.writer.close().await;
    }

    /// Whether somebody closed it.
    pub fn is_closed(&self) -> bool {
        self.writer.is_closed()
    }
}

/// How much of the library's own words is for operators: who waits for which connection is not, what comes of it is said elsewhere.
const WORDS: &str = "debug";

fn options(most: u32, wait: Duration) -> AnyPoolOptions {
    let options = AnyPoolOptions::new().max_connections(most).acquire_timeout(wait);
    match WORDS.parse() {
        Ok(level) => options.acquire_slow_level(level),
        Err(_) => options,
    }
}

/// Opens the SQLite database at `url` once. A pool would try again and again, and say in the end only that there is no connection.
async fn try_open(url: &str) -> Result<(), DatabaseError> {
    let opening = async {
        let mut connection = AnyConnection::connect_with(&quiet(url)?).await?;
        connection.execute(PRAGMAS).await?;
        connection.close().await
    };
    let Err(error) = opening.await else { return Ok(()) };
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        // Others hold it: worth waiting for.
        Some(BUSY | LOCKED) => Ok(()),
        Some(CORRUPT | NO_DATABASE) => Err(DatabaseError::Damaged),
        _ => Err(error.into()),
    }
}

/// `SQLITE_BUSY`
const BUSY: u32 = 5;
/// `SQLITE_LOCKED`
const LOCKED: u32 = 6;
/// `SQLITE_CORRUPT`
const CORRUPT: u32 = 11;
/// `SQLITE_NOTADB`
const NO_DATABASE: u32 = 26;

/// How to connect to `url`.
fn quiet(url: &str) -> Result<AnyConnectOptions, sqlx::Error> {
    let options = AnyConnectOptions::from_str(url)?;
    Ok(match WORDS.parse() {
        Ok(level) => options.log_slow_statements(level, SLOW),
        Err(_) => options,
    })
}

/// `url` with the protection its host needs.
fn protected(url: &str) -> Result<Url, DatabaseError> {
    let mut url = Url::parse(url).map_err(|_| DatabaseError::Url)?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(DatabaseError::Url);
    }
    let is_near = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        // Hosts of a scheme that is not the web's are not parsed as addresses.
        Some(Host::Domain(name)) => {
            name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
        }
        None => false,
    };
    // These name the host a second time, and would win over what we looked at. A socket in the file system is near.
    let mut again = url.query_pairs().filter(|(key, _)| matches!(key.as_ref(), "host" | "hostaddr" | "port"));
    let is_socket = match (again.next(), again.next()) {
        (None, _) => false,
        (Some((key, value)), None) if url.host().is_none() && key == "host" && value.starts_with('/') => true,
        _ => return Err(DatabaseError::Unprotected),
    };
    let modes: Vec<_> = url
        .query_pairs()
        .filter(|(key, _)| matches!(key.as_ref(), "sslmode" | "ssl-mode"))
        .map(|(_, value)| value.into_owned())
        .collect();
    if !is_near && !is_socket {
        if url.host().is_none() || modes.iter().any(|mode| mode != "verify-full") {
            return Err(DatabaseError::Unprotected);
        }
        if modes.is_empty() {
            url.query_pairs_mut().append_pair("sslmode", "verify-full");
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What was approved stays so for a minute only where nothing says that the file is another one.
    #[test]
    fn a_file_that_is_not_what_it_was_is_no_passing_matter() {
        for passing in ["5", "8", "10", "13", "261", "266", "08006", "40001", "55P03"] {
            assert!(is_passing(passing), "{passing}");
        }
        for lasting in ["1032", "8202", "8458", "11", "26", "267", "23505", "XX001", ""] {
            assert!(!is_passing(lasting), "{lasting}");
        }
    }

    #[test]
    fn a_server_elsewhere_must_prove_its_name() {
        let shown = |url: &str| protected(url).map(|u| u.query().unwrap_or_default().to_owned());
        assert_eq!(shown("postgres://u@127.0.0.1/db").unwrap(), "");
        assert_eq!(shown("postgres://u@[::1]:5432/db?sslmode=disable").unwrap(), "sslmode=disable");
        assert_eq!(shown("postgres:///db?host=/run/postgresql").unwrap(), "host=/run/postgresql");
        assert_eq!(shown("postgresql://u:p@db.example.com/db").unwrap(), "sslmode=verify-full");
        assert_eq!(
            shown("postgres://db.example.com/db?sslrootcert=ca.pem").unwrap(),
            "sslrootcert=ca.pem&sslmode=verify-full"
        );
        for bad in [
            "postgres://db.example.com/db?sslmode=prefer",
            "postgres://db.example.com/db?sslmode=verify-full&sslmode=disable",
            "postgres://db.example.com/db?ssl-mode=require",
            "postgres://127.0.0.1/db?host=db.example.com",
            "postgres:///db?hostaddr=10.0.0.1",
            "postgres:///db",
            "mysql://127.0.0.1/db",
            "no url",
        ] {
            assert!(protected(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn whoever_writes_waits_in_line_and_nobody_goes_past_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("st.db");
        let database = Database::sqlite(&path).await.unwrap();
        assert!(database.pool().execute("UPDATE flow_resets SET resets = resets + 1").await.is_err());
        let first = database.write().await.unwrap();
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let database = database.clone();
                tokio::spawn(async move {
                    let mut transaction = database.write().await?;
                    transaction.execute("UPDATE flow_resets SET resets = resets + 1").await?;
                    transaction.commit().await
                })
            })
            .collect();
        let resets = async || {
            let count = sqlx::query_scalar::<_, i64>("SELECT resets FROM flow_resets");
            count.fetch_one(database.pool()).await.unwrap()
        };
        let before = resets().await;
        first.rollback().await.unwrap();
        for writer in waiting {
            writer.await.unwrap().unwrap();
        }
        assert_eq!(resets().await, before + 100);
        database.close().await;
    }

    #[test]
    fn only_what_says_that_it_cannot_be_asked_just_now_is_passing() {
        assert!(DatabaseError::from(sqlx::Error::PoolTimedOut).is_passing());
        assert!(DatabaseError::from(sqlx::Error::Io(io::ErrorKind::TimedOut.into())).is_passing());
        assert!(!DatabaseError::from(sqlx::Error::RowNotFound).is_passing());
        assert!(!DatabaseError::Value("hash").is_passing());
        assert!(!DatabaseError::Newer { found: 2, known: 1 }.is_passing());
    }

    #[tokio::test]
    async fn a_database_that_others_hold_for_long_is_passing_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("st.db");
        let database = Database::sqlite(&path).await.unwrap();
        let other = Database::sqlite(&path).await.unwrap();
        let held = other.write().await.unwrap();
        database.writer().execute("PRAGMA busy_timeout = 1").await.unwrap();
        assert!(DatabaseError::from(database.write().await.unwrap_err()).is_passing());
        held.rollback().await.unwrap();
        let absent = database.pool().execute("SELECT * FROM nothing").await.unwrap_err();
        assert!(!DatabaseError::from(absent).is_passing());
        database.close().await;
        other.close().await;
    }

    #[tokio::test]
    async fn a_damaged_file_is_told_of_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("st.db");
        Database::sqlite(&path).await.unwrap().close().await;
        let whole = fs::read(&path).unwrap();
        for damaged in [b"garbage".as_slice(), &vec![7; whole.len()]] {
            fs::write(&path, damaged).unwrap();
            let began = std::time::Instant::now();
            assert!(matches!(Database::sqlite(&path).await, Err(DatabaseError::Damaged)));
            assert!(began.elapsed() < WAIT);
        }
        fs::write(&path, whole).unwrap();
        Database::sqlite(&path).await.unwrap().close().await;
    }

    #[tokio::test]
    async fn the_file_is_private_and_one_that_others_could_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("st 50%.db");
        let database = Database::sqlite(&path).await.unwrap();
        for file in fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", file.file_name());
        }
        let settings: Vec<String> = ["journal_mode", "synchronous", "secure_delete"]
            .map(|p| format!("SELECT CAST({p} AS TEXT) FROM pragma_{p}"))
            .to_vec();
        let mut found = Vec::new();
        for setting in settings {
            let one: String =
                sqlx::query_scalar(sqlx::AssertSqlSafe(setting)).fetch_one(database.pool()).await.unwrap();
            found.push(one);
        }
        assert_eq!(found, ["wal", "2", "1"]);
        database.close().await;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Database::sqlite(&path).await, Err(DatabaseError::Permissions)));
    }
}
