//! Sealing: values that go out into other hands and must come back unread and unchanged.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use aws_lc_rs::hkdf;
use bartizan_model::Entropy;
use zeroize::Zeroizing;

use crate::{
    DatabaseError,
    keyfile::Contents,
    punctured::Punctured,
    ring::{DataKey, KEY, KeyBytes, Ring, frame},
};

/// Unwrapped keys of persons that are remembered at most.
const REMEMBERED: usize = 10_000;

/// Seals small values with AES-256-GCM under the gate's keys, and holds what opens the keys of persons.
///
/// What is sealed is bound to a context: opening it under another context fails exactly as a forgery does. A text says by
/// its first character how, and by what follows under which key it was sealed, so that keys can change while the gate runs:
///
/// * `2.KEY.…`: for other hands, see [`Self::seal`]; without `2.KEY.`, as the first versions wrote it;
/// * `3.KEY.…`: a column of a row that is nobody's in particular, see [`Self::seal_row`];
/// * `4.KEY.…`: a column of a row that is somebody's, under that person's own key.
pub struct Sealer {
    ring: ArcSwap<Ring>,
    entropy: Arc<dyn Entropy>,
    /// Keys of persons, by what they were wrapped as; in memory only.
    opened: Mutex<HashMap<String, Arc<DataKey>>>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {path}: {source}{}", advice(source))]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("the key file {0} must belong to you and be readable by you alone; run `chmod 600` on it")]
    Permissions(PathBuf),
    /// The file does not hold 32 bytes, or nothing but zeros.
    #[error(
        "the key file {0} does not hold a key of 32 bytes; put a copy of it back: another key opens nothing of what this one sealed"
    )]
    Length(PathBuf),
    /// The operating system gave no randomness, or the cipher refused.
    #[error("the cryptographic library refused the key")]
    Refused,
}

/// What to do about a key file that is not there.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "; put a copy of it back: another key opens nothing of what this one sealed"
        }
        _ => "",
    }
}

impl Sealer {
    /// A sealer under the one key `key`, 32 bytes, from which everything else is derived.
    ///
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn new(key: &[u8; KEY]) -> Result<Self, KeyError> {
        let mut seed: KeyBytes = Zeroizing::new([0; KEY]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"bartizan persons v1")
            .extract(key)
            .expand(&[b"root"], hkdf::HKDF_SHA256)
            .and_then(|o| o.fill(seed.as_mut()))
            .map_err(|_| KeyError::Refused)?;
        let ring = Ring { gate: vec![DataKey::new(key)?], persons: vec![Punctured::of(seed)] };
        Ok(Self::with(ring, Arc::new(OsEntropy)))
    }

    /// A sealer under the keys of a key file.
    ///
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn of(contents: &Contents, entropy: Arc<dyn Entropy>) -> Result<Self, KeyError> {
        Ok(Self::with(contents.ring()?, entropy))
    }

    fn with(ring: Ring, entropy: Arc<dyn Entropy>) -> Self {
        Self { ring: ArcSwap::from_pointee(ring), entropy, opened: Mutex::default() }
    }

    /// Goes by the keys of `contents` from now on.
    ///
    /// # Errors
    /// [`KeyError::Refused`]; nothing changed then.
    pub fn adopt(&self, contents: &Contents) -> Result<(), KeyError> {
        self.ring.store(Arc::new(contents.ring()?));
        self.forget_persons();
        Ok(())
    }

    /// Forgets every key: nothing is sealed or opened until [`Self::adopt`].
    pub fn lock(&self) {
        self.ring.store(Arc::default());
        self.forget_persons();
    }

    /// Whether there is no key.
    pub fn is_locked(&self) -> bool {
        self.ring.load().gate.is_empty()
    }

    /// A sealer under the key in the file `path`, made with mode 0600 if there is none. Several processes may ask at
    /// once: all get the same key.
    ///
    /// # Errors
    /// [`KeyError`] if the file is unusable; a bad file is never replaced.
    pub fn from_file(path: &Path, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let fresh = crate::ring::fresh(entropy);
        create_once(path, fresh.as_ref()).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        let bytes = read_private(path)?;
        let key: &[u8; KEY] = bytes.as_slice().try_into().map_err(|_| KeyError::Length(path.to_owned()))?;
        Self::new(key)
    }

    /// `plain` sealed under `context`, as text for URLs and headers; equal inputs give equal texts, so that a handle that
    /// is sealed twice stays the same handle, until the gate's key changes.
    ///
    /// The nonce is a MAC of context and content: only equal inputs share one. Without a key the text is empty, which
    /// opens nowhere.
    pub fn seal(&self, context: &[&[u8]], plain: &[u8]) -> String {
        let ring = self.ring.load();
        let Some(key) = ring.gate.first() else { return String::new() };
        let sealed = key.seal_handle(&frame(context), plain);
        sealed.map(|sealed| format!("2.{}.{sealed}", key.id())).unwrap_or_default()
    }

    /// `plain` sealed under `context` and a random nonce, for a column.
    ///
    /// # Errors
    /// [`DatabaseError::Locked`] without a key.
    pub fn seal_row(&self, context: &[&[u8]], plain: &[u8]) -> Result<String, DatabaseError> {
        let ring = self.ring.load();
        let key = ring.gate.first().ok_or(DatabaseError::Locked)?;
        let sealed = key.seal_row(&frame(context), plain, &*self.entropy).ok_or(DatabaseError::Locked)?;
        Ok(format!("3.{}.{sealed}", key.id()))
    }

    /// A mark over `parts`, as text for URLs and headers: what is kept in the open can carry it, and nobody without the
    /// key can make one for other parts. Without a key it is empty, which marks nothing.
    pub fn mark(&self, parts: &[&[u8]]) -> String {
        let ring = self.ring.load();
        let Some(key) = ring.gate.first() else { return String::new() };
        format!("2.{}.{}", key.id(), key.mark(&frame(parts)))
    }

    /// Whether `mark` is ours over `parts`.
    pub fn is_marked(&self, parts: &[&[u8]], mark: &str) -> bool {
        let (ring, framed) = (self.ring.load(), frame(parts));
        match Stored::parse(mark) {
            Some(Stored { form: '2', key, body }) => {
                ring.gate(key).is_some_and(|key| key.is_marked(&framed, body))
            }
            Some(_) => false,
            None => ring.gate.iter().any(|key| key.is_marked(&framed, mark)),
        }
    }

    /// Whether the key that made `mark` is at hand. Without it nobody can tell whether the mark is over these parts or others.
    pub fn knows(&self, mark: &str) -> bool {
        Stored::parse(mark).is_some_and(|stored| self.ring.load().gate(stored.key).is_some())
    }

    /// What `sealed` holds, if it was sealed under a key of the gate and `context`.
    pub fn open(&self, context: &[&[u8]], sealed: &str) -> Option<Vec<u8>> {
        let (ring, framed) = (self.ring.load(), frame(context));
        match Stored::parse(sealed) {
            Some(Stored { form: '2', key, body }) => ring.gate(key)?.open_handle(&framed, body),
            Some(Stored { form: '3', key, body }) => ring.gate(key)?.open_row(&framed, body),
            Some(_) => None,
            None => ring.gate.iter().find_map(|key| key.open_handle(&framed, sealed)),
        }
    }

    /// The id of the gate's key that seals; `None` without one.
    pub fn key_id(&self) -> Option<String> {
        self.ring.load().gate.first().map(|key| key.id().to_owned())
    }

    /// The id of the root under which keys of persons are wrapped.
    pub(crate) fn persons_id(&self) -> Option<String> {
        self.ring.load().persons.first().map(|root| root.id().to_owned())
    }

    /// A fresh key of a person: what it is called, and how it is kept.
    pub(crate) fn make_person(&self, context: &[&[u8]]) -> Result<(String, String, String), DatabaseError> {
        let ring = self.ring.load();
        let root = ring.persons.first().ok_or(DatabaseError::Locked)?;
        let mut number = [0; 8];
        self.entropy.fill(&mut number);
        let number = u64::from_be_bytes(number);
        let wrapping = root.key(number).ok_or(DatabaseError::Locked)?;
        let wrapping = DataKey::new(&wrapping).map_err(|_| DatabaseError::Locked)?;
        let key = crate::ring::fresh(&*self.entropy);
        let wrapped = wrapping.seal_row(&frame(context), key.as_ref(), &*self.entropy);
        Ok((format!("{number:016x}"), root.id().to_owned(), wrapped.ok_or(DatabaseError::Locked)?))
    }

    /// The key of a person that is kept as `wrapped` under the number `id` of the root `root`. `None` if the person was
    /// erased, or if it is not as it was written.
    ///
    /// # Errors
    /// [`DatabaseError::Locked`] for a root that is not known here, or not yet.
    pub(crate) fn person(
        &self,
        context: &[&[u8]],
        (id, root, wrapped): (&str, &str, &str),
    ) -> Result<Option<Arc<DataKey>>, DatabaseError> {
        let framed = frame(context);
        let name = format!("{root}.{id}.{}.{wrapped}", hex::encode(&framed));
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(&name) {
            return Ok(Some(Arc::clone(known)));
        }
        let ring = self.ring.load();
        let root = ring.persons(root).ok_or(DatabaseError::Locked)?;
        let unwrapped =
            u64::from_str_radix(id, 16).ok().and_then(|number| root.key(number)).and_then(|key| {
                let bytes = Zeroizing::new(DataKey::new(&key).ok()?.open_row(&framed, wrapped)?);
                let key: &[u8; KEY] = bytes.as_slice().try_into().ok()?;
                DataKey::new(key).ok().map(Arc::new)
            });
        if let Some(key) = &unwrapped {
            if opened.len() >= REMEMBERED {
                opened.clear();
            }
            opened.insert(name, Arc::clone(key));
        }
        Ok(unwrapped)
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    fn forget_persons(&self) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A sealed text: its form, the id of its key, and the rest.
pub(crate) struct Stored<'a> {
    pub form: char,
    pub key: &'a str,
    pub body: &'a str,
}

impl<'a> Stored<'a> {
    /// `None` for what the first versions wrote, which names no key.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (form, rest) = text.split_once('.')?;
        let (key, body) = rest.split_once('.')?;
        Some(Self { form: form.chars().next().filter(|_| form.len() == 1)?, key, body })
    }
}

/// The content of a file that is ours alone.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let about = fs::symlink_metadata(path).map_err(io)?;
    if !about.is_file() || about.mode() & 0o077 != 0 || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Permissions(path.to_owned()));
    }
    Ok(Zeroizing::new(fs::read(path).map_err(io)?))
}

/// Writes `content` to a new file at `path` with mode 0600, unless there is one. The file appears whole or not at
/// all, and the first of several writers wins.
///
/// # Errors
/// What the system says.
pub fn create_once(path: &Path, content: &[u8]) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Mode 0600 from the start.
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    draft.write_all(content)?;
    draft.as_file().sync_all()?;
    match draft.persist_noclobber(path) {
        Err(refused) if refused.error.kind() != io::ErrorKind::AlreadyExists => Err(refused.error),
        _ => Ok(()),
    }
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    /// # Panics
    /// If the operating system has no randomness to give: nothing safe can be done without.
    fn fill(&self, out: &mut [u8]) {
        #[expect(clippy::panic, reason = "an all-zero secret would be worse than a stop")]
        if aws_lc_rs::rand::fill(out).is_err() {
            panic!("the operating system gave no randomness");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bartizan_model::SeededEntropy;

    use super::*;

    #[test]
    fn opens_only_what_it_sealed_under_the_same_context() {
        let sealer = Sealer::new(&[7; KEY]).unwrap();
        let sealed = sealer.seal(&[b"cursor", b"alice"], b"page 2");
        assert_eq!(sealer.open(&[b"cursor", b"alice"], &sealed).unwrap(), b"page 2");
        assert_eq!(sealed, sealer.seal(&[b"cursor", b"alice"], b"page 2"), "a handle stays itself");
        assert!(sealer.open(&[b"cursor", b"bob"], &sealed).is_none());
        assert!(sealer.open(&[b"cursora", b"lice"], &sealed).is_none());
        assert!(Sealer::new(&[8; KEY]).unwrap().open(&[b"cursor", b"alice"], &sealed).is_none());
        for forged in ["", "AA", "not base64!", sealed.get(1..).unwrap(), &format!("{sealed}A")] {
            assert!(sealer.open(&[b"cursor", b"alice"], forged).is_none(), "{forged}");
        }
    }

    #[test]
    fn a_mark_holds_for_its_parts_only() {
        let sealer = Sealer::new(&[7; KEY]).unwrap();
        let mark = sealer.mark(&[b"pin", b"read"]);
        assert!(sealer.is_marked(&[b"pin", b"read"], &mark));
        assert!(!sealer.is_marked(&[b"pinr", b"ead"], &mark));
        assert!(!sealer.is_marked(&[b"pin", b"read", b""], &mark));
        assert!(!sealer.is_marked(&[b"pin", b"read"], ""));
        let other = Sealer::new(&[8; KEY]).unwrap();
        assert!(!other.is_marked(&[b"pin", b"read"], &mark));
        assert!(sealer.knows(&mark) && !other.knows(&mark) && !sealer.knows(""));
    }

    #[test]
    fn the_key_file_is_private_and_shared_by_racing_processes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        let sealed: Vec<_> = std::thread::scope(|scope| {
            let run = |seed| {
                let path = &path;
                scope.spawn(move || {
                    Sealer::from_file(path, &SeededEntropy::new(seed)).unwrap().seal(&[], b"x")
                })
            };
            let threads: Vec<_> = (0..8).map(run).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(sealed.windows(2).all(|w| w[0] == w[1]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Sealer::from_file(&path, &SeededEntropy::new(1)), Err(KeyError::Permissions(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(matches!(Sealer::from_file(&path, &SeededEntropy::new(1)), Err(KeyError::Length(_))));
        assert_eq!(fs::read(&path).unwrap(), b"short", "a bad key file is never replaced");
    }
}
