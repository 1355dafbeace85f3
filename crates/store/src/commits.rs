//! Whether anything was committed to an SQLite database since somebody looked, without asking SQLite: a question costs a hop to
//! another thread and back, and nearly every call has two.
//!
//! In WAL mode every commit of every process is published by writing the header of the WAL index, `NAME-shm`, which is also what
//! SQLite itself compares to see whether what a connection remembers is still so (sqlite.org/walformat.html §2.1: 48 bytes, written
//! twice, the second copy first). A file that is mapped and a file that is read are the same pages; on a file system where they are not,
//! which a commit of our own shows, only the question tells.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// Bytes of one copy of the header.
const COPY: usize = 48;
/// Where a copy says that it was written at all.
const IS_INIT: usize = 12;
/// How many files are opened, one after the other: each stays open for good.
const OPENED: usize = 16;

/// The state of a database: two that are equal are the same, to the byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State([u8; COPY]);

/// The commits to one database.
pub struct Commits {
    index: PathBuf,
    files: Mutex<Files>,
    /// A commit did not show.
    is_blind: AtomicBool,
}

#[derive(Default)]
struct Files {
    /// Never closed: the locks that SQLite has on it in this process would go with any descriptor of the same file
    /// (`fcntl(2)`, advisory record locking).
    current: Option<&'static File>,
    opened: usize,
}

impl Commits {
    /// The commits to the database in the file `database`.
    pub fn new(database: &Path) -> Self {
        let mut index = OsString::from(database);
        index.push("-shm");
        Self { index: index.into(), files: Mutex::default(), is_blind: AtomicBool::new(false) }
    }

    /// The state that a question would be answered from that is asked now; `None` if only the question can tell. What was read
    /// from the database *after* some state was seen is what is in it for as long as that state is.
    pub fn state(&self) -> Option<State> {
        if self.is_blind.load(Ordering::Relaxed) {
            return None;
        }
        let mut files = self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = match files.current {
            Some(file) => file,
            None => files.open(&self.index)?,
        };
        let mut header = [0; 2 * COPY];
        file.read_exact_at(&mut header, 0).ok()?;
        // Looked at after it was read: what was in a file that nobody has open any more is not what is committed.
        if file.metadata().ok()?.nlink() == 0 {
            files.current = None;
            return None;
        }
        let (copies, _) = header.as_chunks::<COPY>();
        let [one, other] = copies else { return None };
        (one == other && one.get(IS_INIT) == Some(&1)).then_some(State(*one))
    }

    /// Something was committed since the state `before`; if it is the same now, no state is worth anything.
    pub fn has_committed(&self, before: Option<State>) {
        if before.is_some() && self.state() == before {
            tracing::warn!("commits to the database do not show in its index: it is asked for every call");
            self.is_blind.store(true, Ordering::Relaxed);
        }
    }
}

impl Files {
    fn open(&mut self, index: &Path) -> Option<&'static File> {
        if self.opened == OPENED {
            return None;
        }
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nofollow).open(index).ok()?;
        self.opened += 1;
        let file: &'static File = Box::leak(Box::new(file));
        self.current = Some(file);
        self.current
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Executor;

    use super::*;
    use crate::Database;

    #[tokio::test]
    async fn a_commit_of_any_process_is_another_state_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let (one, other) = (Database::sqlite(&path).await.unwrap(), Database::sqlite(&path).await.unwrap());
        let commits = Commits::new(&path);
        let before = commits.state().expect("it is written");
        let mut transaction = other.write().await.unwrap();
        transaction.execute("UPDATE flow_resets SET resets = resets + 1").await.unwrap();
        assert!(commits.state() == Some(before), "it is not committed");
        transaction.commit().await.unwrap();
        let after = commits.state();
        assert!(after.is_some() && after != Some(before));
        commits.has_committed(Some(before));
        assert!(commits.state() == after, "it showed");
        let blind = Commits::new(&path);
        blind.has_committed(after);
        assert!(blind.state().is_none(), "it did not show, so nothing will");
        one.pool().execute("SELECT resets FROM flow_resets").await.unwrap();
        let mut transaction = one.write().await.unwrap();
        transaction.execute("UPDATE flow_resets SET resets = resets + 1").await.unwrap();
        transaction.rollback().await.unwrap();
        assert!(commits.state() == after, "nothing was committed");
        one.writer().execute("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
        one.writer().execute("UPDATE flow_resets SET resets = resets + 1").await.unwrap();
        assert!(commits.state().is_some_and(|state| Some(state) != after && state != before));
        one.close().await;
        other.close().await;
    }

    #[tokio::test]
    async fn an_index_that_nobody_uses_any_more_tells_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let commits = Commits::new(&path);
        assert!(commits.state().is_none(), "there is no database");
        for _ in 0..2 {
            let database = Database::sqlite(&path).await.unwrap();
            assert!(commits.state().is_some());
            database.close().await;
            // The last connection takes the index with it.
            assert!(commits.state().is_none());
        }
    }
}
