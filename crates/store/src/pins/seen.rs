//! The highest version of the pins that was seen, outside the database: an older database put back is noticed.
//!
//! Whoever can write the state folder can put both back. This is against a lost race with a backup, and against whoever
//! reaches the database only.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::PinError;
use crate::{Sealer, beside};

/// What the file's mark is over.
const MARK: &[u8] = b"pins.seen";

/// The highest version this process and, with a file, its predecessors have seen.
#[derive(Debug)]
pub struct Seen {
    file: Option<PathBuf>,
    highest: AtomicU64,
}

impl Seen {
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, highest: AtomicU64::new(0) }
    }

    /// The version that whoever looks at the database from now on must find, or a higher one. To be asked before the
    /// transaction begins: what was committed before is visible in it, what is committed meanwhile need not be.
    pub fn known(&self, sealer: &Sealer) -> Result<u64, PinError> {
        Ok(self.highest.load(Ordering::SeqCst).max(self.read(sealer).map_err(PinError::Seen)?))
    }

    /// Refuses a version older than the one that was known before the look.
    pub fn check(&self, known: u64, found: u64) -> Result<(), PinError> {
        if found < known {
            return Err(PinError::RolledBack { found, known });
        }
        self.highest.fetch_max(found, Ordering::SeqCst);
        Ok(())
    }

    /// Remembers a version that is committed.
    pub fn remember(&self, sealer: &Sealer, version: u64) -> Result<(), PinError> {
        self.highest.fetch_max(version, Ordering::SeqCst);
        let Some(file) = &self.file else { return Ok(()) };
        if self.read(sealer).map_err(PinError::Seen)? >= version {
            return Ok(());
        }
        Self::write(sealer, file, version)
    }

    /// Writes the file again, under the key that marks now.
    pub fn renew(&self, sealer: &Sealer) -> Result<(), PinError> {
        match (&self.file, self.read(sealer).map_err(PinError::Seen)?) {
            (None, _) | (_, 0) => Ok(()),
            (Some(file), version) => Self::write(sealer, file, version),
        }
    }

    fn write(sealer: &Sealer, file: &Path, version: u64) -> Result<(), PinError> {
        let mark = sealer.mark(&[MARK, &version.to_be_bytes()]);
        beside::put(file, &format!("{version} {mark}\n")).map_err(PinError::Seen)
    }

    fn read(&self, sealer: &Sealer) -> io::Result<u64> {
        let Some(file) = &self.file else { return Ok(0) };
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            text => text?,
        };
        let parsed = text.trim_end().split_once(' ').and_then(|(version, mark)| {
            let version: u64 = version.parse().ok()?;
            sealer.is_marked(&[MARK, &version.to_be_bytes()], mark).then_some(version)
        });
        parsed.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it is not as we wrote it"))
    }
}
