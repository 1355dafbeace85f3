//! Which bundles of the shield's were taken up: for each key the newest version it signed, which only rises; and for each
//! configuration how far the chain of its signing keys was followed, which only grows.
//!
//! *Attack.* Somebody serves last month's bundle, rightly signed, which does not know this week's attack (TUF's rollback
//! attack), or one by a key that has been replaced. *Answer.* What is below the version a key was seen with is refused, and
//! so is a chain that ends sooner than before, on every gate of the database. Rows carry the gate's mark, and a file beside
//! the database remembers the same ([`seen`]), so that whoever writes to the database goes back no further.

mod seen;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::{AnyConnection, Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Digest, Sealer,
    columns::{digest, seconds},
};
use seen::Seen;

/// What is marked and remembered: the newest version of a key.
pub(crate) const VERSION: &str = "bundle version";
/// The last link of a chain.
pub(crate) const CHAIN: &str = "bundle chain";

/// What was taken up of one key, or of one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The version; of a chain the number of its last link.
    pub version: u64,
    /// What tells its content from another's.
    pub digest: Digest,
}

/// How far a chain of keys was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Its last link.
    pub last: Taken,
    /// Its links, as whoever follows chains writes them. None if the database has lost them, or has others than were written
    /// there: they must be shown again.
    pub links: Option<String>,
}

/// Where it is kept.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// The newest bundle that any of `keys` signed and that was taken up, by version.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is to be taken up then.
    async fn newest(&self, keys: &[String]) -> Result<Option<Taken>, DatabaseError>;

    /// How far the chain that begins with `root` was followed.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is to be taken up then.
    async fn followed(&self, root: &str) -> Result<Option<Followed>, DatabaseError>;

    /// Records that `taken`, which `keys` signed, is taken up at `now`, and with it the chain of keys that led there: its
    /// root, its last link and its links. `false`, with nothing changed, if one of the keys has a newer one by now, or
    /// another content of this version, or if the chain is longer by now, or another.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing is to be taken up then.
    async fn advance(
        &self,
        keys: &[String],
        taken: Taken,
        chain: Option<(&str, Taken, &str)>,
        now: Timestamp,
    ) -> Result<bool, DatabaseError>;
}

/// [`Bundles`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredBundles {
    database: Database,
    sealer: Arc<Sealer>,
    seen: Arc<Seen>,
}

impl StoredBundles {
    /// Bundles in `database`. A row that `sealer` did not mark counts for nothing; the file `seen` remembers the same as
    /// the rows of this gate.
    pub fn new(database: Database, sealer: Arc<Sealer>, seen: Option<PathBuf>) -> Self {
        Self { database, sealer, seen: Arc::new(Seen::new(seen)) }
    }

    /// Writes the file beside the database again, under the key that marks now.
    pub(crate) fn renew_seen(&self) -> Result<(), DatabaseError> {
        self.seen.renew(&self.sealer)
    }

    /// What the row of a key says, if it is ours.
    fn version_of(&self, key: &str, row: &AnyRow) -> Option<Taken> {
        let read = || {
            let (taken, mark) = (taken(row, "version").ok()?, row.try_get::<String, _>("mark").ok()?);
            with_parts(VERSION, key, taken, |parts| self.sealer.is_marked(parts, &mark)).then_some(taken)
        };
        read().or_else(|| not_ours(VERSION, key))
    }

    /// What the row of a chain says, and its links, if it is ours.
    fn chain_of(&self, root: &str, row: &AnyRow) -> Option<(Taken, String)> {
        let read = || {
            let (last, mark) = (taken(row, "number").ok()?, row.try_get::<String, _>("mark").ok()?);
            let links: String = row.try_get("links").ok()?;
            let is_ours = with_links(root, last, &links, |parts| self.sealer.is_marked(parts, &mark));
            is_ours.then_some((last, links))
        };
        read().or_else(|| not_ours(CHAIN, root))
    }

    /// Raises the row of `name` in `table` to `taken`, for a chain with its `links`. `false` if it has another of that number, or
    /// a higher one.
    async fn raise(
        &self,
        database: &mut AnyConnection,
        table: &Table,
        (name, taken, links): (&str, Taken, Option<&str>),
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let row = sqlx::query(table.read).bind(name).fetch_optional(&mut *database).await?;
        let is_ours = |row: &AnyRow| match links {
            None => self.version_of(name, row).is_some(),
            Some(_) => self.chain_of(name, row).is_some(),
        };
        if let Some(row) = row.filter(|row| !is_ours(row)) {
            // Unless somebody wrote another meanwhile.
            let mark: String = row.try_get("mark")?;
            sqlx::query(table.forget).bind(name).bind(mark).execute(&mut *database).await?;
        }
        let mark = |parts: &[&[u8]]| self.sealer.mark(parts);
        let mark = match links {
            None => with_parts(VERSION, name, taken, mark),
            Some(links) => with_links(name, taken, links, mark),
        };
        let number = i64::try_from(taken.version).map_err(|_| DatabaseError::Value("version"))?;
        let mut write = sqlx::query(table.write)
            .bind(name)
            .bind(number)
            .bind(taken.digest.to_string())
            .bind(seconds(now))
            .bind(mark);
        if let Some(links) = links {
            write = write.bind(links);
        }
        Ok(write.execute(database).await?.rows_affected() > 0)
    }
}

/// How a row is read, removed if it is not ours, and written: it rises, or stays with the same content; anything else changes
/// no row.
struct Table {
    read: &'static str,
    forget: &'static str,
    write: &'static str,
}

const VERSIONS: Table = Table {
    read: "SELECT * FROM bundle_versions WHERE key_id = $1",
    forget: "DELETE FROM bundle_versions WHERE key_id = $1 AND mark = $2",
    write: "INSERT INTO bundle_versions (key_id, version, digest, taken_at, mark) VALUES ($1, $2, $3, $4, $5) \
            ON CONFLICT (key_id) DO UPDATE SET version = excluded.version, digest = excluded.digest, \
            taken_at = excluded.taken_at, mark = excluded.mark WHERE bundle_versions.version < excluded.version \
            OR (bundle_versions.version = excluded.version AND bundle_versions.digest = excluded.digest)",
};

const CHAINS: Table = Table {
    read: "SELECT * FROM bundle_chains WHERE root = $1",
    forget: "DELETE FROM bundle_chains WHERE root = $1 AND mark = $2",
    write: "INSERT INTO bundle_chains (root, number, digest, taken_at, mark, links) VALUES ($1, $2, $3, $4, $5, $6) \
            ON CONFLICT (root) DO UPDATE SET number = excluded.number, digest = excluded.digest, \
            links = excluded.links, taken_at = excluded.taken_at, mark = excluded.mark \
            WHERE bundle_chains.number < excluded.number \
            OR (bundle_chains.number = excluded.number AND bundle_chains.digest = excluded.digest)",
};

/// Says that a row is not ours.
fn not_ours<T>(what: &str, name: &str) -> Option<T> {
    tracing::error!(what, name, "a row about bundles is not as it was written; it counts for nothing");
    None
}

/// What a row says, whoever wrote it; its number is in `column`.
pub(crate) fn taken(row: &AnyRow, column: &'static str) -> Result<Taken, DatabaseError> {
    let version: i64 = row.try_get(column)?;
    let version = u64::try_from(version).map_err(|_| DatabaseError::Value(column))?;
    Ok(Taken { version, digest: digest(row, "digest")? })
}

/// Hands `use_parts` everything about the row of a key, or a line of the file beside the database, that must be as we wrote it.
pub(crate) fn with_parts<T>(
    what: &str,
    name: &str,
    taken: Taken,
    use_parts: impl FnOnce(&[&[u8]]) -> T,
) -> T {
    use_parts(&[what.as_bytes(), name.as_bytes(), &taken.version.to_be_bytes(), &taken.digest.0])
}

/// The same for the row of a chain: its links too, or somebody takes them away and no bundle is taken up any more.
pub(crate) fn with_links<T>(
    root: &str,
    last: Taken,
    links: &str,
    use_parts: impl FnOnce(&[&[u8]]) -> T,
) -> T {
    let links = Digest::of(links.as_bytes()).0;
    with_parts(CHAIN, root, last, |parts| use_parts(&[parts, &[&links[..]]].concat()))
}

#[async_trait]
impl Bundles for StoredBundles {
    async fn newest(&self, keys: &[String]) -> Result<Option<Taken>, DatabaseError> {
        let seen = self.seen.read(&self.sealer)?;
        let mut newest: Option<Taken> = None;
        for key in keys {
            let row = sqlx::query(VERSIONS.read).bind(key).fetch_optional(self.database.pool()).await?;
            let row = row.and_then(|row| self.version_of(key, &row));
            for taken in row.into_iter().chain(seen.get(VERSION, key)) {
                if newest.is_none_or(|known| known.version < taken.version) {
                    newest = Some(taken);
                }
            }
        }
        Ok(newest)
    }

    async fn followed(&self, root: &str) -> Result<Option<Followed>, DatabaseError> {
        let seen = self.seen.read(&self.sealer)?.get(CHAIN, root);
        let row = sqlx::query(CHAINS.read).bind(root).fetch_optional(self.database.pool()).await?;
        let stored = row.and_then(|row| self.chain_of(root, &row));
        let stored = stored.map(|(last, links)| Followed { last, links: Some(links) });
        Ok(match (stored, seen) {
            (Some(stored), Some(seen)) if stored.last.version < seen.version => {
                Some(Followed { last: seen, links: None })
            }
            (None, Some(seen)) => Some(Followed { last: seen, links: None }),
            (stored, _) => stored,
        })
    }

    async fn advance(
        &self,
        keys: &[String],
        taken: Taken,
        chain: Option<(&str, Taken, &str)>,
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let mut news: Vec<_> = keys.iter().map(|key| (VERSION, key.as_str(), taken)).collect();
        news.extend(chain.map(|(root, last, _)| (CHAIN, root, last)));
        if !self.seen.read(&self.sealer)?.permits(&news) {
            return Ok(false);
        }
        let mut transaction = self.database.write().await?;
        for key in keys {
            if !self.raise(&mut transaction, &VERSIONS, (key, taken, None), now).await? {
                return Ok(false);
            }
        }
        if let Some((root, last, links)) = chain
            && !self.raise(&mut transaction, &CHAINS, (root, last, Some(links)), now).await?
        {
            return Ok(false);
        }
        transaction.commit().await?;
        self.seen.remember(&self.sealer, &news)?;
        Ok(true)
    }
}
