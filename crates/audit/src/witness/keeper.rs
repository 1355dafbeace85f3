//! The witness itself: what it remembers of each log, and when it signs.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use bartizan_model::Clock;

use super::{cosign::Cosigner, message::AddCheckpoint};
use crate::{
    Checkpoint, InvalidPublicKey, Origin, PublicKey,
    private::{make_folder, sync_folder},
    tree::{Hash, verify_consistency},
};

/// The logs of one installation: all that one key signs, under its name or `name/…`.
#[derive(Clone, Debug)]
pub struct KnownLog {
    name: String,
    key: PublicKey,
}

impl std::str::FromStr for KnownLog {
    type Err = InvalidPublicKey;

    /// A verifier key as `audit.pub` holds it: its name is the origin, or what the origins begin with.
    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let key = text.parse()?;
        let name = text.trim().split('+').next().ok_or(InvalidPublicKey)?.to_owned();
        Ok(Self { name, key })
    }
}

impl KnownLog {
    fn is(&self, origin: &Origin) -> bool {
        let rest = origin.as_str().strip_prefix(self.name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Why a witness cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The folder cannot be used.
    #[error("cannot use the witness's folder {path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process is this witness.
    #[error("another process is the witness of {0}")]
    Held(PathBuf),
    /// What was remembered is not what we wrote.
    #[error(
        "{0} holds no checkpoint: look into it before you remove it, for the witness forgets that log then"
    )]
    Malformed(PathBuf),
}

/// What is answered over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `Content-Type`
    pub kind: &'static str,
    /// The body.
    pub body: String,
}

/// A witness. One process is it: two with one memory each would sign two histories.
pub struct Witness {
    folder: PathBuf,
    cosigner: Cosigner,
    logs: Vec<KnownLog>,
    clock: Arc<dyn Clock>,
    /// Held from the look at what is remembered until the next is durable: requests come one after the other.
    turn: Mutex<()>,
    /// Unlocked when dropped, or by the kernel when we die.
    _lock: fs::File,
}

fn reply(status: u16, body: impl Into<String>) -> Reply {
    Reply { status, kind: "text/plain; charset=utf-8", body: body.into() }
}

impl Witness {
    /// The witness of `logs` that remembers in `folder`, which is made if there is none.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn open(
        folder: &Path,
        cosigner: Cosigner,
        logs: Vec<KnownLog>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WitnessError> {
        let io = |source| WitnessError::Io { path: folder.to_owned(), source };
        make_folder(folder).map_err(io)?;
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("lock"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(WitnessError::Held(folder.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        Ok(Self { folder: folder.to_owned(), cosigner, logs, clock, turn: Mutex::default(), _lock: lock })
    }

    /// What it is known by.
    pub fn key(&self) -> super::WitnessKey {
        self.cosigner.key()
    }

    /// Answers `POST …/add-checkpoint`. It waits for the disk.
    ///
    /// # Errors
    /// [`WitnessError`] if its memory cannot be used; nothing was signed then.
    pub fn add_checkpoint(&self, body: &[u8]) -> Result<Reply, WitnessError> {
        let asked = std::str::from_utf8(body).ok().and_then(AddCheckpoint::parse);
        let Some(asked) = asked else { return Ok(reply(400, "this is no add-checkpoint request\n")) };
        let named = asked.checkpoint.split('\n').next().and_then(|line| line.parse::<Origin>().ok());
        let Some(origin) = named else { return Ok(reply(400, "the checkpoint has no origin\n")) };
        let mut keys = self.logs.iter().filter(|log| log.is(&origin)).peekable();
        if keys.peek().is_none() {
            return Ok(reply(404, "this log is not known here\n"));
        }
        let Some(new) = keys.find_map(|log| log.key.open(&asked.checkpoint)) else {
            return Ok(reply(403, "the log's own signature is missing\n"));
        };
        if asked.old > new.size {
            return Ok(reply(400, "the old size is larger than the checkpoint's\n"));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.judge(&asked, &new)
    }

    fn judge(&self, asked: &AddCheckpoint, new: &Checkpoint) -> Result<Reply, WitnessError> {
        let before = self.remembered(&new.origin)?;
        let (old_size, old_root) =
            before.as_ref().map_or((0, Hash::empty()), |checkpoint| (checkpoint.size, checkpoint.root));
        let conflict = Reply { status: 409, kind: "text/x.tlog.size", body: format!("{old_size}\n") };
        if asked.old != old_size {
            return Ok(conflict);
        }
        if new.size == old_size && before.is_some() && new.root != old_root {
            // A fork: two logs of one length and one name.
            return Ok(conflict);
        }
        let is_consistent = if old_size == 0 {
            asked.proof.is_empty() && (new.size > 0 || new.root == Hash::empty())
        } else {
            verify_consistency((old_size, old_root), (new.size, new.root), &asked.proof)
        };
        if !is_consistent {
            return Ok(reply(422, "the consistency proof does not hold\n"));
        }
        self.remember(&asked.checkpoint, &new.origin)?;
        let text = super::cosign::parts(&asked.checkpoint).map_or("", |(text, _)| text);
        Ok(reply(200, self.cosigner.cosign(text, self.clock.now())))
    }

    /// Forgets a log: the next checkpoint of its is signed whatever came before. Whether it was known.
    ///
    /// # Errors
    /// [`WitnessError`]; it is remembered still.
    pub fn forget(&self, origin: &Origin) -> Result<bool, WitnessError> {
        let path = self.file(origin);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_file(&path).and_then(|()| sync_folder(&self.folder)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(WitnessError::Io { path, source }),
        }
    }

    fn file(&self, origin: &Origin) -> PathBuf {
        // Names of logs hold slashes; their digests do not.
        let sum = digest(&SHA256, origin.as_str().as_bytes());
        self.folder.join(format!("{}.checkpoint", hex::encode(sum)))
    }

    fn remembered(&self, origin: &Origin) -> Result<Option<Checkpoint>, WitnessError> {
        let path = self.file(origin);
        let note = match fs::read_to_string(&path) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(WitnessError::Io { path, source }),
        };
        let opened = self.logs.iter().find_map(|log| log.key.open(&note));
        opened
            .filter(|checkpoint| checkpoint.origin == *origin)
            .map(Some)
            .ok_or(WitnessError::Malformed(path))
    }

    /// Durable when this returns: only then may it be signed.
    fn remember(&self, note: &str, origin: &Origin) -> Result<(), WitnessError> {
        let path = self.file(origin);
        let write = || {
            let mut draft = tempfile::NamedTempFile::new_in(&self.folder)?;
            draft.write_all(note.as_bytes())?;
            draft.as_file().sync_all()?;
            draft.persist(&path).map_err(|error| error.error)?;
            sync_folder(&self.folder)
        };
        write().map_err(|source| WitnessError::Io { path: path.clone(), source })
    }
}
