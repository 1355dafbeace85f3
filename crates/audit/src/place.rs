//! The audit folder: its key, its people, and the logs of the processes that share it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bartizan_model::{Clock, Entropy};

use crate::{
    checkpoint::{InvalidOrigin, Origin, PublicKey, Signer},
    log::{Log, OpenError, Options, Setup},
    persons::Persons,
    private::{PrivateFileError, make_folder},
    storage::{Disk, DiskError},
};

/// An audit folder: `signing.key` (mode 0600), `audit.pub` (the verifier key, for whoever verifies), `people/`, and a
/// folder per log.
pub struct AuditFolder {
    root: PathBuf,
    key_file: PathBuf,
    persons: Arc<Persons>,
    entropy: Arc<dyn Entropy>,
}

/// Why an audit folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The log of this process cannot be had.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The folder or the public key cannot be written.
    #[error("cannot use the audit folder {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log's name cannot be part of its origin.
    #[error("a log's name must be able to stand in its origin: {0}")]
    Name(#[from] InvalidOrigin),
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The key or the people cannot be had.
    #[error(transparent)]
    Private(#[from] PrivateFileError),
}

impl AuditFolder {
    /// The folder `root`, made with a key if there is none.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(root: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, FolderError> {
        let io = |source| FolderError::Io { path: root.to_owned(), source };
        make_folder(root).map_err(io)?;
        let key_file = root.join("signing.key");
        let persons = Arc::new(Persons::open(&root.join("people"), Arc::clone(&entropy))?);
        let folder = Self { root: root.to_owned(), key_file, persons, entropy };
        let key = folder.signer()?.public_key();
        let line = format!("{}\n", key.verifier_key(&origin_of(&key)));
        if fs::read_to_string(root.join("audit.pub")).ok().as_deref() != Some(&line) {
            fs::write(root.join("audit.pub"), line).map_err(io)?;
        }
        Ok(folder)
    }

    /// Starts the log `name`, which no other process may be writing.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn start(&self, name: &str, clock: Arc<dyn Clock>, options: Options) -> Result<Log, FolderError> {
        let disk = Disk::take(&self.root.join(name))?;
        self.start_on(disk, name, clock, options)
    }

    /// Starts the first log of `{name}-0`, `{name}-1` … that no other process is writing, and tells its name.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn start_any(
        &self,
        name: &str,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<(Log, String), FolderError> {
        let (disk, node) = Disk::take_any(&self.root, name)?;
        Ok((self.start_on(disk, &node, clock, options)?, node))
    }

    /// The people in these logs.
    pub fn persons(&self) -> &Arc<Persons> {
        &self.persons
    }

    /// Where the log `name` is, for an exporter.
    pub fn log_folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn start_on(
        &self,
        disk: Disk,
        name: &str,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Log, FolderError> {
        let signer = self.signer()?;
        let origin = origin_of(&signer.public_key()).node(name)?;
        let (persons, entropy) = (Arc::clone(&self.persons), Arc::clone(&self.entropy));
        Ok(Log::start(disk, Setup { origin, signer, persons, clock, entropy, options })?)
    }

    fn signer(&self) -> Result<Signer, PrivateFileError> {
        Signer::from_file(&self.key_file, self.entropy.as_ref())
    }
}

/// The name all logs under `key` share: told by the key, so that two installations never share one.
fn origin_of(key: &PublicKey) -> Origin {
    format!("bartizan-{}", key.fingerprint()).parse().expect("hexadecimal digits can stand in an origin")
}

#[cfg(test)]
mod tests {
    use bartizan_model::{ManualClock, SeededEntropy, Timestamp};

    use super::*;
    use crate::verify::Verification;

    #[test]
    fn processes_that_share_a_folder_have_logs_of_their_own_under_one_key() {
        let root = tempfile::tempdir().unwrap();
        let folder = |seed| AuditFolder::open(root.path(), Arc::new(SeededEntropy::new(seed))).unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(0)));
        let (one, two) = (folder(1), folder(2));
        let start =
            |folder: &AuditFolder| folder.start_any("wrap", clock.clone(), Options::default()).unwrap();
        let ((first, first_name), (second, second_name)) = (start(&one), start(&two));
        assert_eq!((first_name.as_str(), second_name.as_str()), ("wrap-0", "wrap-1"));
        assert!(matches!(
            two.start("wrap-0", clock.clone(), Options::default()),
            Err(FolderError::Disk(DiskError::Held(_)))
        ));
        drop((first, second));
        let key = fs::read_to_string(root.path().join("audit.pub")).unwrap().parse().unwrap();
        let (reports, missing) = Verification { key: &key, expected: &[] }.all(root.path()).unwrap();
        assert!(missing.is_empty());
        let origins: Vec<_> =
            reports.iter().map(|report| report.checkpoint.as_ref().unwrap().0.origin.to_string()).collect();
        assert!(reports.iter().all(|report| report.problem.is_none()));
        let fingerprint = key.fingerprint();
        assert_eq!(origins, [0, 1].map(|n| format!("bartizan-{fingerprint}/wrap-{n}")));
        fs::rename(root.path().join("wrap-0"), root.path().join("wrap-2")).unwrap();
        let moved = two.start("wrap-2", clock, Options::default());
        assert!(
            matches!(moved, Err(FolderError::Open(OpenError::Tampered(_)))),
            "a log is not passed off as another"
        );
    }
}
