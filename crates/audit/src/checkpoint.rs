//! Signed tree heads: C2SP tlog-checkpoint in a C2SP signed note, Ed25519.
//!
//! A checkpoint says "the log called *origin* had *size* entries with this root". Its signature line bears the
//! origin as the key's name, so that one key can sign for several logs and no checkpoint passes for another log's.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use bartizan_model::Entropy;
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    private::{self, PrivateFileError},
    tree::Hash,
};

/// The algorithm byte of Ed25519 in signed notes (C2SP signed-note, "Signature types").
const ED25519_TYPE: u8 = 1;

/// A log's name: 1 to 255 visible ASCII characters without `+`, best a URL without its scheme (C2SP tlog-checkpoint).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(String);

/// A text that cannot name a log or a key.
#[derive(Debug, thiserror::Error)]
#[error("an origin is 1 to 255 visible ASCII characters without `+`")]
pub struct InvalidOrigin;

impl Origin {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The log `node` of several that share this name.
    ///
    /// # Errors
    /// [`InvalidOrigin`] if the two together are too long.
    pub fn node(&self, node: &str) -> Result<Self, InvalidOrigin> {
        format!("{self}/{node}").parse()
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'+';
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidOrigin)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a log looked like at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose head this is.
    pub origin: Origin,
    /// How many entries there were.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The note text that is signed: origin, size and root, a line each.
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let origin = lines.next()?.parse().ok()?;
        let digits = lines.next()?;
        let size = digits.parse().ok().filter(|size: &u64| size.to_string() == digits)?;
        // Lines after the third are extensions, which we neither write nor read.
        Some(Self { origin, size, root: lines.next()?.parse().ok()? })
    }
}

/// What signs checkpoints. Never prints.
pub struct Signer(Ed25519KeyPair);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(…)")
    }
}

impl Signer {
    /// A signer from an Ed25519 seed (RFC 8032 §5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// The signer whose seed is in the file `path`, made with mode 0600 if there is none; racing processes get the same.
    ///
    /// # Errors
    /// [`PrivateFileError`] if the file is unusable; a bad file is never replaced.
    pub fn from_file(path: &std::path::Path, entropy: &dyn Entropy) -> Result<Self, PrivateFileError> {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(seed.as_mut());
        let bytes = private::create_or_read(path, seed.as_ref())?;
        let seed = bytes.as_slice().try_into().map_err(|_| PrivateFileError::Malformed(path.to_owned()))?;
        Ok(Self::from_seed(seed))
    }

    /// What verifies this signer's checkpoints.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// `checkpoint` as a signed note.
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        self.sign_note(&checkpoint.text(), checkpoint.origin.as_str())
    }

    /// The signature over `message` (RFC 8032).
    pub(crate) fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    fn sign_note(&self, text: &str, name: &str) -> String {
        let mut blob = self.public_key().key_id(name).to_vec();
        blob.extend_from_slice(self.0.sign(text.as_bytes()).as_ref());
        format!("{text}\n— {name} {}\n", STANDARD.encode(blob))
    }
}

/// An Ed25519 public key. As text, a C2SP verifier key (`name+id+key`); any name will do for reading one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A text that is not a verifier key.
#[derive(Debug, thiserror::Error)]
#[error("not a verifier key: expected `name+12345678+Base64…` (C2SP signed note, Ed25519)")]
pub struct InvalidPublicKey;

impl PublicKey {
    /// The verifier key for notes that `name` signs.
    pub fn verifier_key(&self, name: &Origin) -> String {
        let mut typed = vec![ED25519_TYPE];
        typed.extend_from_slice(&self.0);
        format!("{name}+{}+{}", hex::encode(self.key_id(name.as_str())), STANDARD.encode(typed))
    }

    /// The key's bytes.
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 hexadecimal digits of the key's SHA-256.
    pub fn fingerprint(&self) -> String {
        hex::encode(digest(&SHA256, &self.0)).chars().take(16).collect()
    }

    /// The checkpoint in `note`, if this key signed it under its origin's name. Other signatures, such as a
    /// witness's, are not looked at.
    pub fn open(&self, note: &str) -> Option<Checkpoint> {
        let checkpoint = Checkpoint::from_text(note.split_once("\n\n")?.0)?;
        self.verify_note(note, checkpoint.origin.as_str())?;
        Some(checkpoint)
    }

    /// The text of `note`, if this key signed it as `name`.
    fn verify_note<'a>(&self, note: &'a str, name: &str) -> Option<&'a str> {
        // The text ends with a newline; the blank line after it is not signed.
        let at = note.rfind("\n\n")?;
        let (text, signatures) = (note.get(..=at)?, note.get(at + 2..)?);
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        let signed_by_us = |line: &str| {
            let blob = line.strip_prefix("— ")?.strip_prefix(name)?.strip_prefix(' ')?;
            let blob = STANDARD.decode(blob).ok()?;
            let signature = blob.strip_prefix(&self.key_id(name))?;
            key.verify(text.as_bytes(), signature).ok()
        };
        let ours = signatures.strip_suffix('\n')?.split('\n').any(|line| signed_by_us(line).is_some());
        ours.then_some(text)
    }

    /// The first 4 bytes of `SHA-256(name || 0x0A || type || key)` (C2SP signed-note, "Signatures").
    fn key_id(&self, name: &str) -> [u8; 4] {
        let mut input = Vec::from(name);
        input.extend_from_slice(&[b'\n', ED25519_TYPE]);
        input.extend_from_slice(&self.0);
        let sum = digest(&SHA256, &input);
        *sum.as_ref().first_chunk().expect("SHA-256 gives 32 bytes")
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let mut parts = text.trim().splitn(3, '+');
        let mut part = || parts.next().ok_or(InvalidPublicKey);
        let (name, id, key) = (part()?, part()?, part()?);
        let key = STANDARD.decode(key).map_err(|_| InvalidPublicKey)?;
        let key = Self(
            key.strip_prefix(&[ED25519_TYPE])
                .ok_or(InvalidPublicKey)?
                .try_into()
                .map_err(|_| InvalidPublicKey)?,
        );
        (hex::encode(key.key_id(name)) == id).then_some(key).ok_or(InvalidPublicKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the documentation of Go's `sumdb/note`.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const LINE: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn signs_and_verifies_the_published_note() {
        let secret = STANDARD.decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz").unwrap();
        let signer = Signer::from_seed(secret[1..].try_into().unwrap());
        assert_eq!(signer.public_key(), KEY.parse().unwrap());
        assert_eq!(signer.public_key().verifier_key(&"PeterNeumann".parse().unwrap()), KEY);
        let note = signer.sign_note(TEXT, "PeterNeumann");
        assert_eq!(note, format!("{TEXT}\n{LINE}"));
        assert_eq!(signer.public_key().verify_note(&note, "PeterNeumann"), Some(TEXT));
        assert!(signer.public_key().verify_note(&note.replace("don't", "do"), "PeterNeumann").is_none());
        assert!(signer.public_key().verify_note(&note, "EnochRoot").is_none());
    }

    #[test]
    fn a_checkpoint_opens_only_whole_unchanged_and_under_its_own_name() {
        let signer = Signer::from_seed(&[7; 32]);
        let checkpoint =
            Checkpoint { origin: "gate.example/a".parse().unwrap(), size: 12, root: Hash::leaf(b"x") };
        let note = signer.sign(&checkpoint);
        let key = signer.public_key();
        assert_eq!(key.open(&note), Some(checkpoint.clone()));
        let cosigned = format!("{note}— witness.example/w AAAAAAAA\n");
        assert_eq!(key.open(&cosigned), Some(checkpoint));
        assert!(key.open(&note.replace("gate.example/a", "gate.example/b")).is_none());
        assert!(key.open(&note.replace("\n12\n", "\n012\n")).is_none());
        assert!(key.open(note.trim_end()).is_none());
        assert!(Signer::from_seed(&[8; 32]).public_key().open(&note).is_none());
        for byte in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[byte] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(key.open(&changed).is_none(), "byte {byte}");
            }
        }
        assert!("no name".parse::<PublicKey>().is_err());
        assert!(KEY.replace("c74f", "c74e").parse::<PublicKey>().is_err());
        for bad in ["", "a b", "a+b", "ä"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad:?}");
        }
    }
}
