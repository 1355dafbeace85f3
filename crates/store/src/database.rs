//! One database, two kinds: SQLite in a file of ours, or Postgres shared by replicas.
//!
//! Statements are written once, in the SQL both understand (`$1` parameters, `ON CONFLICT`, `RETURNING`), with
//! integers as `BIGINT`, flags as 0 and 1, times in Unix seconds and digests as hexadecimal text.

use std::{fs, io, net::IpAddr, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use sqlx::{
    Any, AnyPool, Executor, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
};
use url::{Host, Url};

use crate::{
    commits::{Commits, State},
    create_once, migrate,
};

/// Connections of one process.
const CONNECTIONS: u32 = 8;

/// How long a statement of SQLite's waits for another process, and how long we wait for a connection.
const WAIT: Duration = Duration::from_secs(10);

/// Settings of every SQLite connection. What is deleted is overwritten; what is committed is on the disk.
const PRAGMAS: &str = "PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; \
                       PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;";

/// A database whose tables are the ones this program knows.
#[derive(Clone)]
pub struct Database {
    pool: AnyPool,
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
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(WAIT)
            // A file does not hang up: asking whether it is there would cost as much as asking what is in it.
            .test_before_acquire(false)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(PRAGMAS).await.map(|_| ()) })
            })
            .connect(&url)
            .await?;
        // The switch to WAL is the one statement whose lock does not wait; the file remembers it.
        let mut tries = 0;
        while let Err(error) = pool.execute("PRAGMA journal_mode = WAL").await {
            tries += 1;
            if tries == 100 {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self::prepared(pool, Dialect::Sqlite, Some(Arc::new(Commits::new(&path)))).await
    }

    /// The Postgres database at `url`: `postgres://user:password@host/name?…`. Off loopback the server must prove its
    /// name (`sslmode=verify-full`, which is then the default); `sslrootcert=FILE` names its authority.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn postgres(url: &str) -> Result<Self, DatabaseError> {
        let url = protected(url)?;
        install_default_drivers();
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(WAIT)
            .connect(url.as_str())
            .await?;
        Self::prepared(pool, Dialect::Postgres, None).await
    }

    async fn prepared(
        pool: AnyPool,
        dialect: Dialect,
        commits: Option<Arc<Commits>>,
    ) -> Result<Self, DatabaseError> {
        let database = Self { pool, dialect, commits };
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

    /// For statements that stand alone.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// A transaction that will write. SQLite takes its write lock at once: a lock taken later could not wait.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Any>, sqlx::Error> {
        match self.dialect {
            Dialect::Postgres => self.pool.begin().await,
            Dialect::Sqlite => self.pool.begin_with("BEGIN IMMEDIATE").await,
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
    }
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
