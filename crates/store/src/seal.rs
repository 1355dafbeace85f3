//! Sealing: values that go out into other hands and must come back unread and unchanged.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
};
use bartizan_model::Entropy;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Bytes in a key.
const KEY: usize = 32;

/// Seals small values with AES-256-GCM under one key.
///
/// What is sealed is bound to a context: opening it under another context fails exactly as a forgery does.
pub struct Sealer {
    key: LessSafeKey,
    nonces: hmac::Key,
    marks: hmac::Key,
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
    #[error("cannot use the key file {path}: {source}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("the key file {0} must belong to you and be readable by you alone; run `chmod 600` on it")]
    Permissions(PathBuf),
    /// The file does not hold 32 bytes.
    #[error("the key file {0} does not hold a key of 32 bytes; remove it to have a new one made")]
    Length(PathBuf),
    /// The operating system gave no randomness, or the cipher refused.
    #[error("the cryptographic library refused the key")]
    Refused,
}

impl Sealer {
    /// A sealer under `key`, 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn new(key: &[u8; KEY]) -> Result<Self, KeyError> {
        let refused = |_| KeyError::Refused;
        // Three uses, three keys (RFC 5869).
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bartizan seal v1").extract(key);
        let mut sealing = Zeroizing::new([0; KEY]);
        let mut nonces = Zeroizing::new([0; KEY]);
        root.expand(&[b"seal"], hkdf::HKDF_SHA256).and_then(|o| o.fill(sealing.as_mut())).map_err(refused)?;
        root.expand(&[b"nonce"], hkdf::HKDF_SHA256).and_then(|o| o.fill(nonces.as_mut())).map_err(refused)?;
        let mut marks = Zeroizing::new([0; KEY]);
        root.expand(&[b"mark"], hkdf::HKDF_SHA256).and_then(|o| o.fill(marks.as_mut())).map_err(refused)?;
        let unbound = UnboundKey::new(&AES_256_GCM, sealing.as_ref()).map_err(refused)?;
        Ok(Self {
            key: LessSafeKey::new(unbound),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, nonces.as_ref()),
            marks: hmac::Key::new(hmac::HMAC_SHA256, marks.as_ref()),
        })
    }

    /// A sealer under the key in the file `path`, made with mode 0600 if there is none. Several processes may ask at
    /// once: all get the same key.
    ///
    /// # Errors
    /// [`KeyError`] if the file is unusable; a bad file is never replaced.
    pub fn from_file(path: &Path, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let mut fresh = Zeroizing::new([0; KEY]);
        entropy.fill(fresh.as_mut());
        let io = |source| KeyError::Io { path: path.to_owned(), source };
        create_once(path, fresh.as_ref()).map_err(io)?;
        let about = fs::symlink_metadata(path).map_err(io)?;
        if !about.is_file() || about.mode() & 0o077 != 0 || about.uid() != rustix::process::geteuid().as_raw()
        {
            return Err(KeyError::Permissions(path.to_owned()));
        }
        let bytes = Zeroizing::new(fs::read(path).map_err(io)?);
        let key: &[u8; KEY] = bytes.as_slice().try_into().map_err(|_| KeyError::Length(path.to_owned()))?;
        Self::new(key)
    }

    /// `plain` sealed under `context`, as URL-safe Base64 without padding; equal inputs give equal texts, so that a
    /// handle that is sealed twice stays the same handle.
    ///
    /// The nonce is a MAC of context and content: only equal inputs share one.
    pub fn seal(&self, context: &[&[u8]], plain: &[u8]) -> String {
        let aad = frame(context);
        let mut mac = hmac::Context::with_key(&self.nonces);
        mac.update(&aad);
        mac.update(plain);
        let tag = mac.sign();
        let mut out = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(tag.as_ref().get(..NONCE_LEN).unwrap_or_default());
        let Ok(nonce) = Nonce::try_assume_unique_for_key(&out) else { return String::new() };
        let mut body = plain.to_vec();
        // It fails only on bodies of 64 GiB and more; an empty text opens nowhere.
        if self.key.seal_in_place_append_tag(nonce, Aad::from(&aad), &mut body).is_err() {
            return String::new();
        }
        out.extend_from_slice(&body);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// A mark over `parts`, as URL-safe Base64 without padding: what is kept in the open can carry it, and nobody
    /// without the key can make one for other parts.
    pub fn mark(&self, parts: &[&[u8]]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.marks, &frame(parts)))
    }

    /// Whether `mark` is ours over `parts`.
    pub fn is_marked(&self, parts: &[&[u8]], mark: &str) -> bool {
        URL_SAFE_NO_PAD.decode(mark).is_ok_and(|mark| hmac::verify(&self.marks, &frame(parts), &mark).is_ok())
    }

    /// What `sealed` holds, if it was sealed under this key and `context`.
    pub fn open(&self, context: &[&[u8]], sealed: &str) -> Option<Vec<u8>> {
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let mut body = bytes.split_off(NONCE_LEN.min(bytes.len()));
        let nonce = Nonce::try_assume_unique_for_key(&bytes).ok()?;
        let length = self.key.open_in_place(nonce, Aad::from(frame(context)), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

/// The parts of a context with their lengths, so that no two contexts look alike.
fn frame(context: &[&[u8]]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(context.iter().map(|part| part.len() + 4).sum());
    for part in context {
        framed.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(part);
    }
    framed
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
        assert!(!Sealer::new(&[8; KEY]).unwrap().is_marked(&[b"pin", b"read"], &mark));
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
