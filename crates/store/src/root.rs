//! The root key: what the file of all other keys is wrapped by.
//!
//! A provider keeps it and never gives it away: it wraps and unwraps keys of 32 bytes. Here is the one that needs nobody,
//! [`FileRoot`], and those that are asked by HTTP: [`azure::AzureRoot`] and [`transit::TransitRoot`]. What needs the
//! operating system or a library of somebody else's is made by whoever starts the gate.

pub mod azure;
#[cfg(test)]
mod tests;
pub mod transit;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{Entropy, Secret};
use zeroize::Zeroizing;

use crate::{
    KeyError, create_once,
    ring::{DataKey, KEY, KeyBytes, fresh},
    seal::read_private,
};

/// A key as the provider wrapped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// Which of its keys the provider used, in its own words.
    pub key_id: String,
    /// What it answered: text of its own choice.
    pub text: String,
}

/// Why the root key did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RootError {
    /// Nobody answered, or not in time.
    #[error("the key provider does not answer: {0}")]
    Away(String),
    /// It answered that it will not: no permission, a key that is disabled or gone.
    #[error("the key provider refuses: {0}")]
    Refused(String),
    /// The key was not wrapped by it, or the answer makes no sense.
    #[error("the key provider cannot unwrap this: {0}")]
    Wrong(String),
    /// Its own file cannot be used.
    #[error(transparent)]
    File(Arc<KeyError>),
}

impl From<KeyError> for RootError {
    fn from(error: KeyError) -> Self {
        Self::File(Arc::new(error))
    }
}

/// Keeps the root key.
#[async_trait]
pub trait RootKey: Send + Sync {
    /// Its name in `[keys] provider`.
    fn provider(&self) -> &'static str;

    /// Wraps `key` under the newest key.
    ///
    /// # Errors
    /// [`RootError`].
    async fn wrap(&self, key: &[u8; KEY]) -> Result<Wrapped, RootError>;

    /// What it wrapped.
    ///
    /// # Errors
    /// [`RootError`].
    async fn unwrap(&self, wrapped: &Wrapped) -> Result<KeyBytes, RootError>;

    /// Makes a newer key, where that is ours to do; older ones go on unwrapping until [`Self::forget_older`].
    ///
    /// # Errors
    /// [`RootError`]; nothing changed then.
    async fn renew(&self) -> Result<(), RootError> {
        Ok(())
    }

    /// Destroys every key but the newest, where that is ours to do.
    ///
    /// # Errors
    /// [`RootError`].
    async fn forget_older(&self) -> Result<(), RootError> {
        Ok(())
    }
}

/// 32 bytes from a provider.
pub fn key_bytes(bytes: &[u8]) -> Result<KeyBytes, RootError> {
    let key: [u8; KEY] =
        bytes.try_into().map_err(|_| RootError::Wrong(format!("{} bytes are no key", bytes.len())))?;
    Ok(Zeroizing::new(key))
}

/// A root key in a file of mode 0600: 32 bytes for each key, the newest first.
pub struct FileRoot {
    path: PathBuf,
    entropy: Arc<dyn Entropy>,
}

/// What the file's own wrapping is bound to.
const CONTEXT: &[u8] = b"bartizan root key";

impl FileRoot {
    /// The key in `path`, made if there is none.
    pub fn new(path: &Path, entropy: Arc<dyn Entropy>) -> Self {
        Self { path: path.to_owned(), entropy }
    }

    /// The keys, the newest first; the file is made if there is none.
    fn keys(&self) -> Result<Vec<KeyBytes>, KeyError> {
        let made = fresh(&*self.entropy);
        create_once(&self.path, made.as_ref())
            .map_err(|source| KeyError::Io { path: self.path.clone(), source })?;
        self.read()
    }

    /// The keys that are there. One that is lost is not made anew: it would only be in the way of the right one.
    fn read(&self) -> Result<Vec<KeyBytes>, KeyError> {
        let mut bytes = read_private(&self.path)?;
        if is_wiped(&bytes) {
            // Opened just before it was replaced, and read after it was overwritten: by now another is in its place.
            bytes = read_private(&self.path)?;
        }
        let (keys, rest) = bytes.as_chunks::<KEY>();
        // Zeros are no key: whatever was wrapped by them would be open to everybody, and to us no more.
        if keys.is_empty() || !rest.is_empty() || is_wiped(&bytes) {
            return Err(KeyError::Length(self.path.clone()));
        }
        Ok(keys.iter().map(|key| Zeroizing::new(*key)).collect())
    }

    fn write(&self, keys: &[KeyBytes]) -> Result<(), KeyError> {
        let content = Zeroizing::new(keys.iter().flat_map(|key| **key).collect::<Vec<u8>>());
        replace(&self.path, &content).map_err(|source| KeyError::Io { path: self.path.clone(), source })
    }
}

#[async_trait]
impl RootKey for FileRoot {
    fn provider(&self) -> &'static str {
        "file"
    }

    async fn wrap(&self, key: &[u8; KEY]) -> Result<Wrapped, RootError> {
        let keys = self.keys()?;
        let newest = keys.first().ok_or_else(|| RootError::Wrong("there is no key".into()))?;
        wrap_by(newest, key, &*self.entropy)
    }

    async fn unwrap(&self, wrapped: &Wrapped) -> Result<KeyBytes, RootError> {
        unwrap_by(&self.read()?, wrapped, &self.path.display().to_string())
    }

    async fn renew(&self) -> Result<(), RootError> {
        let mut keys = self.keys()?;
        keys.insert(0, fresh(&*self.entropy));
        Ok(self.write(&keys)?)
    }

    async fn forget_older(&self) -> Result<(), RootError> {
        let keys = self.keys()?;
        Ok(self.write(keys.get(..1).unwrap_or_default())?)
    }
}

/// Whether any key in these bytes was overwritten with zeros, as [`replace`] does.
fn is_wiped(bytes: &[u8]) -> bool {
    bytes.as_chunks::<KEY>().0.contains(&[0; KEY])
}

/// Wraps `key` under `root`, for providers that give us the root key itself.
///
/// # Errors
/// [`RootError::Wrong`] if the cipher refuses.
pub fn wrap_by(root: &KeyBytes, key: &[u8; KEY], entropy: &dyn Entropy) -> Result<Wrapped, RootError> {
    let wrong = || RootError::Wrong("the cipher refused the key".into());
    let root = DataKey::new(root).map_err(|_| wrong())?;
    let text = root.seal_row(CONTEXT, key, entropy).ok_or_else(wrong)?;
    Ok(Wrapped { key_id: root.id().to_owned(), text })
}

/// What one of `roots`, which are kept at `place`, wrapped.
///
/// # Errors
/// [`RootError::Wrong`].
pub fn unwrap_by(roots: &[KeyBytes], wrapped: &Wrapped, place: &str) -> Result<KeyBytes, RootError> {
    let roots = roots.iter().filter_map(|root| DataKey::new(root).ok());
    let opened = roots
        .filter(|root| root.id() == wrapped.key_id)
        .find_map(|root| root.open_row(CONTEXT, &wrapped.text).map(Zeroizing::new));
    let opened = opened.ok_or_else(|| {
        RootError::Wrong(format!("{place} holds another key than the one named {}", wrapped.key_id))
    })?;
    key_bytes(&opened)
}

/// Puts `content` in the place of the file at `path`, whole or not at all, and overwrites what was there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    draft.write_all(content)?;
    draft.as_file().sync_all()?;
    let old = fs::OpenOptions::new().write(true).open(path).ok();
    draft.persist(path).map_err(|refused| refused.error)?;
    fs::File::open(folder)?.sync_all()?;
    // Most file systems overwrite in place; on those that do not, the disk's own encryption must do.
    if let Some(mut old) = old {
        let length = usize::try_from(old.metadata()?.len()).unwrap_or(0);
        old.write_all(&vec![0; length])?;
        old.sync_all()?;
    }
    Ok(())
}

/// What is sent to a provider.
pub struct Ask<'a> {
    /// The whole address.
    pub url: String,
    /// Header lines beside the content type.
    pub headers: Vec<(&'static str, Secret)>,
    /// JSON; nothing for a GET.
    pub body: Option<Zeroizing<String>>,
    /// How long everything may take.
    pub within: Duration,
    /// What it is about, for error messages: never a secret.
    pub what: &'a str,
}

/// What came back.
pub struct Told {
    /// The HTTP status.
    pub status: u16,
    /// The body, as far as it was read.
    pub body: Zeroizing<Vec<u8>>,
}

/// Reaches providers; whoever starts the gate has the one door out.
#[async_trait]
pub trait Wire: Send + Sync {
    /// One request.
    ///
    /// # Errors
    /// In words, why there is no answer.
    async fn ask(&self, ask: Ask<'_>) -> Result<Told, String>;
}

/// How long a provider may take.
pub const WITHIN: Duration = Duration::from_secs(15);

impl Told {
    /// The JSON of a success.
    fn json(&self, what: &str) -> Result<serde_json::Value, RootError> {
        let said = || match reason(&self.body) {
            Some(reason) => format!("{what}: HTTP {}: {reason}", self.status),
            None => format!("{what}: HTTP {}", self.status),
        };
        match self.status {
            200..=299 => serde_json::from_slice(&self.body)
                .map_err(|_| RootError::Wrong(format!("{what}: the answer is no JSON"))),
            // What passes by itself: too many requests, sealed or standby (Vault: 429, 472, 473, 503), and trouble of its own.
            429 | 472 | 473 | 500..=599 => Err(RootError::Away(said())),
            _ => Err(RootError::Refused(said())),
        }
    }
}

/// Why a provider refuses, where it says so in a few plain words: Azure's `error.code`, the first of Vault's `errors`. Whatever
/// else an answer holds may quote what was sent, and is left out.
fn reason(body: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let said = ["/error/code", "/errors/0"].iter().find_map(|place| answer.pointer(place)?.as_str())?;
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b" .,:;'()_-".contains(&c);
    let are_words = said.split(' ').all(|word| word.len() <= 24);
    (said.len() <= 120 && said.bytes().all(is_plain) && are_words).then(|| said.to_owned())
}

#[cfg(test)]
mod file_tests {
    use std::os::unix::fs::MetadataExt;

    use bartizan_model::SeededEntropy;

    use super::*;

    #[test]
    fn of_a_refusal_only_plain_words_are_repeated() {
        let said = |body: &str| reason(body.as_bytes());
        for (body, words) in [
            (r#"{"errors":["permission denied"]}"#, "permission denied"),
            (r#"{"error":{"code":"Forbidden","message":"the key s.9hUq... may not"}}"#, "Forbidden"),
            (
                r#"{"errors":["version is disallowed by policy (too old)"]}"#,
                "version is disallowed by policy (too old)",
            ),
        ] {
            assert_eq!(said(body).as_deref(), Some(words));
        }
        for body in [
            "",
            "<html>a page</html>",
            r#"{"errors":[]}"#,
            r#"{"errors":["bad ciphertext vault:v1:bm90IGEgc2VjcmV0IGJ1dCBsaWtlIG9uZQ"]}"#,
            r#"{"errors":["line\nforged"]}"#,
            r#"{"error":{"code":"\u001b[2J"}}"#,
        ] {
            assert_eq!(said(body), None, "{body}");
        }
        assert_eq!(said(&format!(r#"{{"errors":["{}"]}}"#, "a b ".repeat(60))), None);
    }

    /// Another process replaces the file between our opening and our reading it, and overwrites what was there.
    #[tokio::test]
    async fn nothing_is_wrapped_by_a_key_that_was_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        let root = FileRoot::new(&path, Arc::new(SeededEntropy::new(1)));
        let key = [9; KEY];
        let wrapped = root.wrap(&key).await.unwrap();
        let good = fs::read(&path).unwrap();
        for wiped in [vec![0; KEY], vec![0; 2 * KEY], [good.as_slice(), &[0; KEY]].concat()] {
            fs::write(&path, &wiped).unwrap();
            assert!(matches!(root.wrap(&key).await, Err(RootError::File(_))), "{} bytes", wiped.len());
            assert!(matches!(root.unwrap(&wrapped).await, Err(RootError::File(_))));
            assert!(root.renew().await.is_err() && root.forget_older().await.is_err());
            assert_eq!(fs::read(&path).unwrap(), wiped, "it is left for whoever looks");
        }
        fs::write(&path, good).unwrap();
        assert_eq!(*root.unwrap(&wrapped).await.unwrap(), key);
    }

    #[tokio::test]
    async fn a_file_unwraps_what_it_wrapped_until_it_forgets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        let root = FileRoot::new(&path, Arc::new(SeededEntropy::new(1)));
        let key = [9; KEY];
        let wrapped = root.wrap(&key).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        root.renew().await.unwrap();
        assert_eq!(*root.unwrap(&wrapped).await.unwrap(), key);
        let newer = root.wrap(&key).await.unwrap();
        assert_ne!(newer.key_id, wrapped.key_id);
        root.forget_older().await.unwrap();
        assert!(matches!(root.unwrap(&wrapped).await, Err(RootError::Wrong(_))), "destroyed");
        assert_eq!(*root.unwrap(&newer).await.unwrap(), key);
        let other = FileRoot::new(&folder.path().join("other.key"), Arc::new(SeededEntropy::new(2)));
        assert!(matches!(other.unwrap(&newer).await, Err(RootError::File(_))), "no key");
        assert!(!folder.path().join("other.key").exists(), "a lost key is not made anew");
        other.wrap(&key).await.unwrap();
        assert!(matches!(other.unwrap(&newer).await, Err(RootError::Wrong(_))), "another key");
        let mut forged = newer.clone();
        forged.text.replace_range(0..1, if newer.text.starts_with('A') { "B" } else { "A" });
        assert!(root.unwrap(&forged).await.is_err());
    }
}
