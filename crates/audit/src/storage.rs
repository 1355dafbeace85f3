//! Where segments are kept, behind a trait: tests own the disk too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::private::{make_folder, sync_folder};

/// Keeps the segments of one log. A segment is named by the number of its first entry.
///
/// Whoever implements it answers for two promises: one writer at a time, and nothing is called durable that a crash
/// could take back.
pub trait Storage: Send + Sync {
    /// The segments there are, in order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// Makes a new, empty segment whose name is durable.
    ///
    /// # Errors
    /// What the system says; also if there is such a segment.
    fn create(&self, first: u64) -> io::Result<Box<dyn Segment>>;

    /// Opens a segment to go on writing it.
    ///
    /// # Errors
    /// What the system says.
    fn resume(&self, first: u64) -> io::Result<Box<dyn Segment>>;

    /// Opens a segment for reading from its start.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, first: u64) -> io::Result<Box<dyn Reading>>;

    /// How long a segment is, in bytes, with the room behind the log in it.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self, first: u64) -> io::Result<u64>;

    /// Removes a segment. That there is none is no error.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, first: u64) -> io::Result<()>;

    /// Keeps bytes that were cut from a segment, for whoever looks into it later.
    ///
    /// # Errors
    /// What the system says.
    fn keep_aside(&self, first: u64, cut: &[u8]) -> io::Result<()>;

    /// A segment will not change any more; a good time to index it.
    fn sealed(&self, _first: u64) {}
}

/// A segment being read.
pub trait Reading: Read + Seek + Send {}

impl<R: Read + Seek + Send> Reading for R {}

/// A segment being written.
pub trait Segment: Send {
    /// Writes `bytes` from the byte `at` on, over what is there and on from the end. After an error, any part of them may
    /// have been written.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// What the system says; nothing since the last success counts as durable then.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the segment to `length` bytes.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A folder, mode 0700, that one process at a time holds.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    /// Unlocked when dropped, or by the kernel when we die.
    lock: File,
}

/// Why a folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process holds it.
    #[error("another process writes the audit log in {0}")]
    Held(PathBuf),
    /// The folder cannot be used.
    #[error("cannot use the audit folder {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are 1,000 logs in use already.
    #[error("all of the 1,000 audit logs in {0} are in use")]
    NoneFree(PathBuf),
}

impl Disk {
    /// Takes the folder `folder`, which is made if there is none.
    ///
    /// # Errors
    /// [`DiskError::Held`] if another process has it, [`DiskError::Io`].
    pub fn take(folder: &Path) -> Result<Self, DiskError> {
        let io = |source| DiskError::Io { path: folder.to_owned(), source };
        make_folder(folder).map_err(io)?;
        let lock =
            private_file().write(true).create(true).truncate(false).open(folder.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), lock }),
            Err(fs::TryLockError::WouldBlock) => Err(DiskError::Held(folder.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Takes the first free of the folders `{name}-0`, `{name}-1` … in `parent`: for processes of which there may be
    /// several at once, and which never share a log. Returns the folder's name too.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn take_any(parent: &Path, name: &str) -> Result<(Self, String), DiskError> {
        for number in 0..1000 {
            let node = format!("{name}-{number}");
            match Self::take(&parent.join(&node)) {
                Err(DiskError::Held(_)) => {}
                taken => return Ok((taken?, node)),
            }
        }
        Err(DiskError::NoneFree(parent.to_owned()))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, first: u64) -> PathBuf {
        segment_path(&self.folder, first)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Closing is not enough: a child that is forked and has not yet called exec holds the file open too.
        let _ = self.lock.unlock();
    }
}

impl Storage for Disk {
    fn list(&self) -> io::Result<Vec<u64>> {
        segments(&self.folder)
    }

    fn create(&self, first: u64) -> io::Result<Box<dyn Segment>> {
        let file = private_file().write(true).create_new(true).open(self.path(first))?;
        sync_folder(&self.folder)?;
        Ok(Box::new(OnDisk(file)))
    }

    fn resume(&self, first: u64) -> io::Result<Box<dyn Segment>> {
        Ok(Box::new(OnDisk(OpenOptions::new().write(true).open(self.path(first))?)))
    }

    fn read(&self, first: u64) -> io::Result<Box<dyn Reading>> {
        Ok(Box::new(File::open(self.path(first))?))
    }

    fn length(&self, first: u64) -> io::Result<u64> {
        Ok(fs::metadata(self.path(first))?.len())
    }

    fn remove(&self, first: u64) -> io::Result<()> {
        let _ = fs::remove_file(self.path(first).with_extension("index"));
        match fs::remove_file(self.path(first)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_folder(&self.folder),
        }
    }

    fn keep_aside(&self, first: u64, cut: &[u8]) -> io::Result<()> {
        let name = |n| self.folder.join(format!("{first:020}.cut-{n}"));
        // There are as many as crashes; after a thousand, nobody looks.
        let path = (0..1000).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0));
        let mut file = private_file().write(true).create(true).truncate(true).open(path)?;
        file.write_all(cut)?;
        file.sync_all()
    }

    fn sealed(&self, first: u64) {
        let path = self.path(first);
        // Searching makes the index itself if this fails.
        let _ = std::thread::Builder::new().name("audit-index".to_owned()).spawn(move || {
            let _ = crate::index::build(&path);
        });
    }
}

struct OnDisk(File);

impl Segment for OnDisk {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

/// The segments in `folder`, by the number of their first entry, in order.
///
/// # Errors
/// What the system says.
pub fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        found.extend(digits.filter(|d| d.len() == 20).and_then(|d| d.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// The file of the segment that starts with entry `first`.
pub fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.jsonl"))
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}
