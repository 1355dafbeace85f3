//! The file of keys: the gate's own, and the root of those of persons, wrapped by the root key.
//!
//! It lies outside the database, so that a copy of the database opens nothing, and can be changed as a copy cannot: when a
//! person is erased, what is needed for that person's key leaves this file, and every copy of the database is as blind as
//! the database itself. So it must not be kept with copies of the database; the newest one is the one to keep.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bartizan_model::{Entropy, Timestamp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    KeyError,
    punctured::Punctured,
    ring::{DataKey, KEY, KeyBytes, Ring, fresh},
    root::{RootError, RootKey, Wrapped, replace},
    seal::read_private,
};

/// How long a key of the gate's that was replaced still opens what went out into other hands: cursors, session ids. Longer where the
/// rotation that replaced it has not ended by then.
pub const RETIRED: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The root key.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file is not as we wrote it.
    #[error("{0} is not as it was written; put the newest copy of it back")]
    Malformed(PathBuf),
    /// Another provider wrapped it.
    #[error(
        "the keys in {path} are wrapped by `{found}`, and [keys] provider is `{wanted}`; to change it, run `bartizan keys \
         rotate --from OLD.toml` with the configuration until now"
    )]
    Provider {
        /// The file.
        path: PathBuf,
        /// Who wrapped it.
        found: String,
        /// Who was asked.
        wanted: &'static str,
    },
    /// There is none.
    #[error("there is no {0}")]
    Missing(PathBuf),
}

/// What the file holds.
pub struct Contents {
    /// The gate's keys; the first seals.
    pub(crate) gate: Vec<GateKey>,
    /// Roots of persons' keys; the first wraps.
    pub(crate) persons: Vec<Punctured>,
    /// When a rotation began that has not ended.
    pub(crate) rotating: Option<Timestamp>,
    /// How many persons were erased since the root is in use.
    pub(crate) erased: u64,
}

/// A key of the gate's.
pub(crate) struct GateKey {
    pub key: KeyBytes,
    pub retired_at: Option<Timestamp>,
}

impl Contents {
    /// Fresh keys. `earlier` is the gate's key until now, if there is one.
    pub fn new(earlier: Option<KeyBytes>, entropy: &dyn Entropy) -> Self {
        let key = earlier.unwrap_or_else(|| fresh(entropy));
        Self {
            gate: vec![GateKey { key, retired_at: None }],
            persons: vec![Punctured::new(entropy)],
            rotating: None,
            erased: 0,
        }
    }

    /// The keys, ready for use.
    pub(crate) fn ring(&self) -> Result<Ring, KeyError> {
        let gate = self.gate.iter().map(|key| DataKey::new(&key.key)).collect::<Result<_, _>>()?;
        Ok(Ring { gate, persons: self.persons.clone() })
    }

    /// The id of the gate's key that seals, and of the root of persons' keys that wraps.
    pub fn ids(&self) -> Option<(String, String)> {
        let gate = DataKey::new(&self.gate.first()?.key).ok()?;
        Some((gate.id().to_owned(), self.persons.first()?.id().to_owned()))
    }

    /// How many keys of the gate's are kept only to open.
    pub fn older(&self) -> usize {
        self.gate.len().saturating_sub(1)
    }

    /// When a rotation began that has not ended.
    pub fn rotating(&self) -> Option<Timestamp> {
        self.rotating
    }

    /// How many persons were erased since the last rotation.
    pub fn erased(&self) -> u64 {
        self.erased
    }

    /// Takes the keys of these persons away for good.
    pub fn puncture(&mut self, ids: &[String]) {
        for number in ids.iter().filter_map(|id| u64::from_str_radix(id, 16).ok()) {
            for root in &mut self.persons {
                root.puncture(number);
            }
        }
        self.erased += 1;
    }

    /// Whether a key of the gate's has been retired for long enough. While a rotation has not ended none has: rows may be under
    /// it still, which only it opens, however long ago somebody stopped in the middle.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        let is_over = |key: &GateKey| key.retired_at.is_some_and(|at| now.since(at) >= RETIRED);
        self.rotating.is_none() && self.gate.iter().any(is_over)
    }

    fn drop_expired(&mut self, now: Timestamp) {
        if self.rotating.is_none() {
            self.gate.retain(|key| key.retired_at.is_none_or(|at| now.since(at) < RETIRED));
        }
    }

    /// Puts new keys behind those that seal: everybody learns to open what they will seal before anybody seals by them.
    /// Nothing happens to a rotation that has begun.
    pub(crate) fn begin(&mut self, now: Timestamp, entropy: &dyn Entropy) {
        if self.rotating.is_none() {
            self.rotating = Some(now);
            self.gate.insert(1.min(self.gate.len()), GateKey { key: fresh(entropy), retired_at: None });
            self.persons.push(Punctured::new(entropy));
        }
    }

    /// Seals by the new keys from now on.
    pub(crate) fn promote(&mut self, now: Timestamp) {
        if self.gate.get(1).is_some_and(|next| next.retired_at.is_none()) && self.rotating.is_some() {
            self.gate.swap(0, 1);
            if let Some(old) = self.gate.get_mut(1) {
                old.retired_at = Some(now);
            }
            self.persons.reverse();
        }
    }

    /// Ends a rotation: what is sealed by older keys is nowhere any more.
    pub(crate) fn end(&mut self, at_once: bool) {
        self.rotating = None;
        self.persons.truncate(1);
        self.erased = 0;
        if at_once {
            self.gate.truncate(1);
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Outside {
    version: u32,
    provider: String,
    key_id: String,
    wrapped: String,
    sealed: String,
}

/// Depth, leading bits and seed: see [`Punctured::parts`].
type Subtree = (u8, u64, String);

#[derive(Serialize, Deserialize)]
struct Inside {
    gate: Vec<(String, Option<u64>)>,
    persons: Vec<(String, Vec<Subtree>)>,
    rotating: Option<u64>,
    erased: u64,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.gate.iter_mut().for_each(|(key, _)| key.zeroize());
        self.persons.iter_mut().flat_map(|(_, left)| left).for_each(|(_, _, seed)| seed.zeroize());
    }
}

/// Between two tries to read a file that may be being replaced.
const AGAIN: Duration = Duration::from_millis(50);

/// The format of the file.
const VERSION: u32 = 1;

/// The file.
pub struct KeyFile {
    path: PathBuf,
    root: Arc<dyn RootKey>,
    entropy: Arc<dyn Entropy>,
}

impl KeyFile {
    /// The file `path`, wrapped by `root`.
    pub fn new(path: &Path, root: Arc<dyn RootKey>, entropy: Arc<dyn Entropy>) -> Self {
        Self { path: path.to_owned(), root, entropy }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who wraps it.
    pub fn root(&self) -> &Arc<dyn RootKey> {
        &self.root
    }

    /// The keys; made if there are none, with `earlier` as the gate's.
    ///
    /// # Errors
    /// [`KeysError`].
    pub async fn open(&self, earlier: Option<KeyBytes>) -> Result<Contents, KeysError> {
        if !self.exists()? {
            let _lock = self.lock()?;
            if !self.exists()? {
                self.write(&Contents::new(earlier, &*self.entropy)).await?;
            }
        }
        self.read().await
    }

    /// The keys that are there.
    ///
    /// # Errors
    /// [`KeysError`].
    pub async fn read(&self) -> Result<Contents, KeysError> {
        let mut tries = 0;
        loop {
            match self.read_once().await {
                // Somebody may be replacing this file, or the root key's, this very moment.
                Err(KeysError::Malformed(_) | KeysError::Root(RootError::Wrong(_))) if tries < 5 => {
                    tries += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    async fn read_once(&self) -> Result<Contents, KeysError> {
        let outside = self.outside()?;
        if outside.provider != self.root.provider() {
            return Err(KeysError::Provider {
                path: self.path.clone(),
                found: outside.provider,
                wanted: self.root.provider(),
            });
        }
        let malformed = || KeysError::Malformed(self.path.clone());
        let aad = aad(&outside);
        let wrapped = Wrapped { key_id: outside.key_id, text: outside.wrapped };
        let key = DataKey::new(&*self.root.unwrap(&wrapped).await?)?;
        let plain = Zeroizing::new(key.open_row(&aad, &outside.sealed).ok_or_else(malformed)?);
        let inside: Inside = serde_json::from_slice(&plain).map_err(|_| malformed())?;
        contents(&inside).ok_or_else(malformed)
    }

    /// Changes the keys, alone among all processes.
    ///
    /// # Errors
    /// [`KeysError`]; nothing changed then.
    pub async fn change(
        &self,
        now: Timestamp,
        how: impl FnOnce(&mut Contents, &dyn Entropy) + Send,
    ) -> Result<Contents, KeysError> {
        let _lock = self.lock()?;
        let mut contents = self.read().await?;
        contents.drop_expired(now);
        how(&mut contents, &*self.entropy);
        self.write(&contents).await?;
        Ok(contents)
    }

    /// Wraps the keys that `from` unwraps by this file's own provider instead. Both are the same file.
    ///
    /// # Errors
    /// [`KeysError`]; nothing changed then.
    pub async fn move_from(&self, from: &Self) -> Result<(), KeysError> {
        let _lock = self.lock()?;
        let contents = from.read().await?;
        self.write(&contents).await
    }

    /// Who wrapped it, and by which key: `(provider, key)`.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn wrapped_by(&self) -> Result<(String, String), KeysError> {
        let outside = self.outside()?;
        Ok((outside.provider, outside.key_id))
    }

    /// Changes whenever the file does: when it was written, and which file it is.
    pub fn stamp(&self) -> Option<(u64, i64, i64)> {
        use std::os::unix::fs::MetadataExt;
        let about = fs::metadata(&self.path).ok()?;
        Some((about.ino(), about.ctime(), about.ctime_nsec()))
    }

    fn exists(&self) -> Result<bool, KeyError> {
        self.path.try_exists().map_err(|source| self.io(source))
    }

    fn outside(&self) -> Result<Outside, KeysError> {
        let bytes = match read_private(&self.path) {
            Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(KeysError::Missing(self.path.clone()));
            }
            other => other?,
        };
        let outside: Option<Outside> = serde_json::from_slice(&bytes).ok();
        let known = outside.filter(|outside| outside.version == VERSION);
        known.ok_or_else(|| KeysError::Malformed(self.path.clone()))
    }

    async fn write(&self, contents: &Contents) -> Result<(), KeysError> {
        let key = fresh(&*self.entropy);
        let wrapped = self.root.wrap(&key).await?;
        let mut outside = Outside {
            version: VERSION,
            provider: self.root.provider().to_owned(),
            key_id: wrapped.key_id,
            wrapped: wrapped.text,
            sealed: String::new(),
        };
        let malformed = || KeysError::Malformed(self.path.clone());
        let plain = Zeroizing::new(serde_json::to_vec(&inside(contents)).map_err(|_| malformed())?);
        let sealed = DataKey::new(&key)?.seal_row(&aad(&outside), &plain, &*self.entropy);
        outside.sealed = sealed.ok_or_else(malformed)?;
        let text = serde_json::to_vec_pretty(&outside).map_err(|_| malformed())?;
        replace(&self.path, &text).map_err(|source| self.io(source))?;
        Ok(())
    }

    /// Keeps every other rotation of these keys out for as long as the answer lives; `None` if one is under way.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(crate) fn only_rotation(&self) -> Result<Option<fs::File>, KeyError> {
        let path = self.path.with_extension("rotating");
        let lock = || {
            let file = lock_file(&path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(file)),
                Err(fs::TryLockError::WouldBlock) => Ok(None),
                Err(fs::TryLockError::Error(error)) => Err(error),
            }
        };
        lock().map_err(|source| KeyError::Io { path: path.clone(), source })
    }

    fn lock(&self) -> Result<fs::File, KeyError> {
        let path = self.path.with_extension("lock");
        let lock = || {
            let file = lock_file(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|source| KeyError::Io { path: path.clone(), source })
    }

    fn io(&self, source: io::Error) -> KeyError {
        KeyError::Io { path: self.path.clone(), source }
    }
}

fn aad(outside: &Outside) -> Vec<u8> {
    crate::ring::frame(&[b"bartizan keys", outside.provider.as_bytes(), outside.key_id.as_bytes()])
}

fn inside(contents: &Contents) -> Inside {
    let text = |key: &[u8; KEY]| URL_SAFE_NO_PAD.encode(key);
    let gate = contents.gate.iter().map(|key| (text(&key.key), key.retired_at.map(Timestamp::as_unix)));
    let persons = contents.persons.iter().map(|root| {
        let left = root.parts().map(|(depth, bits, seed)| (depth, bits, text(seed)));
        (root.id().to_owned(), left.collect())
    });
    Inside {
        gate: gate.collect(),
        persons: persons.collect(),
        rotating: contents.rotating.map(Timestamp::as_unix),
        erased: contents.erased,
    }
}

fn contents(inside: &Inside) -> Option<Contents> {
    let key = |text: &str| {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let key: [u8; KEY] = bytes.as_slice().try_into().ok()?;
        Some(Zeroizing::new(key))
    };
    let gate = inside.gate.iter().map(|(text, retired)| {
        Some(GateKey { key: key(text)?, retired_at: retired.map(Timestamp::from_unix) })
    });
    let persons = inside.persons.iter().map(|(id, left)| {
        let left = left.iter().map(|(depth, bits, seed)| Some(((*depth, *bits), key(seed)?)));
        Some(Punctured::from_parts(id.clone(), left.collect::<Option<_>>()?))
    });
    let contents = Contents {
        gate: gate.collect::<Option<_>>()?,
        persons: persons.collect::<Option<_>>()?,
        rotating: inside.rotating.map(Timestamp::from_unix),
        erased: inside.erased,
    };
    (!contents.gate.is_empty() && !contents.persons.is_empty()).then_some(contents)
}

/// A file that processes lock, made if there is none.
pub(crate) fn lock_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600).open(path)
}
