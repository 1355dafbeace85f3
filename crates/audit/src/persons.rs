//! People in the log, and how they are forgotten.
//!
//! The log itself cannot be edited, so it never holds who somebody is. It holds a random pseudonym, and digests and
//! sealed values under that person's own key; name and key live in one small private file per person, outside the
//! log. Erasing the file erases the person from every entry, backup and index at once, and no hash changes.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
};
use bartizan_model::{Caller, Entropy};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    event::{Digest, Pseudonym, Sealed},
    private::{self, PrivateFileError, sync_folder},
};

/// Bytes in a key.
const KEY: usize = 32;

/// The people in one or several logs on this machine: a folder, mode 0700, with a private file per person.
pub struct Persons {
    folder: PathBuf,
    /// Names the files, so that a listing of the folder tells nobody who is in it.
    naming: hmac::Key,
    entropy: Arc<dyn Entropy>,
    /// By [`name`].
    known: Mutex<HashMap<String, Known>>,
}

/// What was read of a person before.
struct Known {
    path: PathBuf,
    stamp: Stamp,
    person: Arc<Person>,
}

impl std::fmt::Debug for Persons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Persons").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Which file was read: an erased person who returns has another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// Somebody's name in the log and what is kept under his key.
pub struct Person {
    pseudonym: Pseudonym,
    identity: Identity,
    digests: hmac::Key,
    sealing: LessSafeKey,
}

/// Who a pseudonym stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Who vouches for the subject.
    pub issuer: String,
    /// The person or workload, unique within the issuer.
    pub subject: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    pseudonym: Pseudonym,
    key: String,
    #[serde(flatten)]
    identity: Identity,
}

impl Persons {
    /// The people in `folder`, which is made if there is none.
    ///
    /// # Errors
    /// [`PrivateFileError`] if the folder or its naming key is unusable.
    pub fn open(folder: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, PrivateFileError> {
        let io = |source| PrivateFileError::Io { path: folder.to_owned(), source };
        private::make_folder(folder).map_err(io)?;
        if fs::metadata(folder).map_err(io)?.mode() & 0o077 != 0 {
            return Err(PrivateFileError::Permissions(folder.to_owned()));
        }
        let mut fresh = Zeroizing::new([0; KEY]);
        entropy.fill(fresh.as_mut());
        let path = folder.join("naming.key");
        let naming = private::create_or_read(&path, fresh.as_ref())?;
        if naming.len() != KEY {
            return Err(PrivateFileError::Malformed(path));
        }
        let naming = hmac::Key::new(hmac::HMAC_SHA256, &naming);
        Ok(Self { folder: folder.to_owned(), naming, entropy, known: Mutex::default() })
    }

    /// The person behind `caller`, who gets a pseudonym and a key when first seen.
    ///
    /// # Errors
    /// [`PrivateFileError`]; nothing about this person can be recorded then.
    pub fn of(&self, caller: &Caller) -> Result<Arc<Person>, PrivateFileError> {
        let name = name(caller);
        if let Some(known) = self.known(&name) {
            return Ok(known);
        }
        let path = self.path(caller);
        let mut pseudonym = [0; 16];
        let mut key = Zeroizing::new([0; KEY]);
        self.entropy.fill(&mut pseudonym);
        self.entropy.fill(key.as_mut());
        let kept = Kept {
            pseudonym: Pseudonym::from_bytes(pseudonym),
            key: URL_SAFE_NO_PAD.encode(key.as_ref()),
            identity: Identity { issuer: caller.issuer().to_owned(), subject: caller.subject().to_owned() },
        };
        let malformed = || PrivateFileError::Malformed(path.clone());
        let fresh = Zeroizing::new(serde_json::to_vec(&kept).map_err(|_| malformed())?);
        let person = Arc::new(Person::parse(&private::create_or_read(&path, &fresh)?).ok_or_else(malformed)?);
        if let Some(stamp) = stamp(&path) {
            self.remember(name, Known { path, stamp, person: Arc::clone(&person) });
        }
        Ok(person)
    }

    /// The person behind `caller` if the log has ever seen him.
    pub fn find(&self, caller: &Caller) -> Option<Arc<Person>> {
        let read = || Person::parse(&private::read(&self.path(caller)).ok()?).map(Arc::new);
        self.known(&name(caller)).or_else(read)
    }

    /// Everybody who is not erased, by pseudonym.
    ///
    /// # Errors
    /// [`PrivateFileError`] if the folder cannot be read; a file that cannot be read is left out.
    pub fn everybody(&self) -> Result<HashMap<Pseudonym, Arc<Person>>, PrivateFileError> {
        Self::in_folder(&self.folder)
    }

    /// Everybody in `folder` who is not erased, for readers who write nothing.
    ///
    /// # Errors
    /// As [`Persons::everybody`].
    pub fn in_folder(folder: &Path) -> Result<HashMap<Pseudonym, Arc<Person>>, PrivateFileError> {
        let io = |source| PrivateFileError::Io { path: folder.to_owned(), source };
        let files = fs::read_dir(folder).map_err(io)?.filter_map(|entry| Some(entry.ok()?.path()));
        let people = files.filter(|path| path.extension().is_some_and(|e| e == "person"));
        let read = people.filter_map(|path| Person::parse(&private::read(&path).ok()?).map(Arc::new));
        Ok(read.map(|person| (person.pseudonym, person)).collect())
    }

    /// Forgets the person behind `caller` for good: no entry can be tied to him or opened again. `false` if the log
    /// does not know him. Should he return, he gets a new pseudonym.
    ///
    /// # Errors
    /// [`PrivateFileError`] if the file could not be removed for certain: then he is not forgotten.
    pub fn erase(&self, caller: &Caller) -> Result<bool, PrivateFileError> {
        let path = self.path(caller);
        let io = |source| PrivateFileError::Io { path: path.clone(), source };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&name(caller));
        let length = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => usize::try_from(other.map_err(io)?.len()).unwrap_or(0),
        };
        // Most file systems overwrite in place; on those that do not, removal and the disk's own encryption must do.
        let file = fs::OpenOptions::new().write(true).open(&path).map_err(io)?;
        io::Write::write_all(&mut &file, &vec![0; length]).and_then(|()| file.sync_all()).map_err(io)?;
        fs::remove_file(&path).and_then(|()| sync_folder(&self.folder)).map_err(io)?;
        Ok(true)
    }

    /// Whether there is a file of the person behind `caller`, readable or not.
    pub(crate) fn has_file(&self, caller: &Caller) -> bool {
        fs::symlink_metadata(self.path(caller)).is_ok()
    }

    fn path(&self, caller: &Caller) -> PathBuf {
        let mut mac = hmac::Context::with_key(&self.naming);
        mac.update(&(caller.issuer().len() as u64).to_be_bytes());
        mac.update(caller.issuer().as_bytes());
        mac.update(caller.subject().as_bytes());
        self.folder.join(format!("{}.person", hex::encode(mac.sign())))
    }

    /// What we read before, if the file is still the same: another process may have erased the person meanwhile.
    fn known(&self, name: &str) -> Option<Arc<Person>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { path, stamp: then, person } = known.get(name)?;
        if Some(*then) == stamp(path) {
            return Some(Arc::clone(person));
        }
        known.remove(name);
        None
    }

    fn remember(&self, name: String, fresh: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= 10_000 {
            known.clear();
        }
        known.insert(name, fresh);
    }
}

/// A person's place in memory; two clients of one person share it.
fn name(caller: &Caller) -> String {
    format!("{}:{}{}", caller.issuer().len(), caller.issuer(), caller.subject())
}

fn stamp(path: &Path) -> Option<Stamp> {
    let about = fs::metadata(path).ok()?;
    Some(Stamp { inode: about.ino(), changed_s: about.ctime(), changed_ns: about.ctime_nsec() })
}

/// No two persons have the same pseudonym.
impl PartialEq for Person {
    fn eq(&self, other: &Self) -> bool {
        self.pseudonym == other.pseudonym
    }
}

impl std::fmt::Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Person").field(&self.pseudonym).finish()
    }
}

impl Person {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let kept: Kept = serde_json::from_slice(bytes).ok()?;
        let key = Zeroizing::new(URL_SAFE_NO_PAD.decode(&kept.key).ok()?);
        if key.len() != KEY {
            return None;
        }
        // Two uses, two keys (RFC 5869).
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bartizan audit person v1").extract(&key);
        let derive = |purpose: &[u8]| {
            let mut out = Zeroizing::new([0; KEY]);
            root.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|o| o.fill(out.as_mut())).ok()?;
            Some(out)
        };
        Some(Self {
            pseudonym: kept.pseudonym,
            identity: kept.identity,
            digests: hmac::Key::new(hmac::HMAC_SHA256, derive(b"digest")?.as_ref()),
            sealing: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derive(b"seal")?.as_ref()).ok()?),
        })
    }

    /// What the log calls this person.
    pub const fn pseudonym(&self) -> Pseudonym {
        self.pseudonym
    }

    /// Who this is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// HMAC-SHA-256 of `content` under this person's key: equal contents of one person have equal digests, and once
    /// the key is gone a digest says nothing.
    pub fn digest(&self, content: &[u8]) -> Digest {
        Digest::of(hmac::sign(&self.digests, content).as_ref())
    }

    /// `plain` sealed under this person's key (AES-256-GCM, random nonce).
    pub fn seal(&self, plain: &[u8], entropy: &dyn Entropy) -> Option<Sealed> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        let mut body = plain.to_vec();
        let aad = Aad::from(self.pseudonym.to_string().into_bytes());
        self.sealing.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body).ok()?;
        let mut out = Vec::from(nonce);
        out.append(&mut body);
        Some(Sealed::from_base64(URL_SAFE_NO_PAD.encode(out)))
    }

    /// What `sealed` holds, if it was sealed for this person.
    pub fn open(&self, sealed: &Sealed) -> Option<Vec<u8>> {
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed.as_str()).ok()?;
        let mut body = bytes.split_off(NONCE_LEN.min(bytes.len()));
        let nonce = Nonce::try_assume_unique_for_key(&bytes).ok()?;
        let aad = Aad::from(self.pseudonym.to_string().into_bytes());
        let length = self.sealing.open_in_place(nonce, aad, &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::SeededEntropy;

    use super::*;

    fn people(folder: &Path, seed: u64) -> Persons {
        Persons::open(&folder.join("people"), Arc::new(SeededEntropy::new(seed))).unwrap()
    }

    #[test]
    fn an_erased_person_cannot_be_tied_to_what_the_log_says() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (people(folder.path(), 1), people(folder.path(), 2));
        let alice = Caller::new("https://id.example", "alice", "ide");
        let before = ours.of(&alice).unwrap();
        assert_eq!(theirs.of(&alice).unwrap().pseudonym(), before.pseudonym(), "processes agree");
        let sealed = before.seal(b"department: finance", &SeededEntropy::new(3)).unwrap();
        assert_eq!(theirs.of(&alice).unwrap().open(&sealed).unwrap(), b"department: finance");
        assert_eq!(ours.everybody().unwrap()[&before.pseudonym()].identity().subject, "alice");
        let listing: Vec<_> = fs::read_dir(folder.path().join("people")).unwrap().collect();
        assert!(!format!("{listing:?}").contains("alice"), "file names tell nobody");

        assert!(theirs.erase(&alice).unwrap());
        assert!(!theirs.erase(&alice).unwrap());
        assert!(ours.find(&alice).is_none(), "another process's erasure counts here");
        assert!(ours.everybody().unwrap().is_empty());
        let after = ours.of(&alice).unwrap();
        assert_ne!(after.pseudonym(), before.pseudonym());
        assert_ne!(after.digest(b"x"), before.digest(b"x"));
        assert!(after.open(&sealed).is_none());
    }

    #[test]
    fn people_and_issuers_are_told_apart_and_clients_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let people = people(folder.path(), 1);
        let pseudonym = |i, s, c| people.of(&Caller::new(i, s, c)).unwrap().pseudonym();
        assert_ne!(pseudonym("a", "bc", "x"), pseudonym("ab", "c", "x"));
        assert_eq!(pseudonym("a", "bc", "x"), pseudonym("a", "bc", "y"));
        let (one, two) =
            (people.of(&Caller::new("a", "1", "")).unwrap(), people.of(&Caller::new("a", "2", "")).unwrap());
        assert_ne!(one.digest(b"same"), two.digest(b"same"));
        assert_eq!(one.digest(b"same"), one.digest(b"same"));
        let sealed = one.seal(b"x", &SeededEntropy::new(1)).unwrap();
        assert!(two.open(&sealed).is_none());
    }

    #[test]
    fn files_of_people_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let people = people(folder.path(), 1);
        people.of(&Caller::local_owner()).unwrap();
        for entry in fs::read_dir(folder.path().join("people")).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
        }
    }
}
