//! Cosignatures (C2SP tlog-cosignature, `cosignature/v1`): "as of this time, this is the longest I have seen of this log".

use std::{fmt, path::Path, str::FromStr};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use bartizan_model::{Entropy, Timestamp};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{Origin, Signer, private::PrivateFileError};

/// The algorithm byte of `cosignature/v1` with Ed25519.
const COSIGNATURE_TYPE: u8 = 4;

/// A witness's name and public key. As text, a C2SP verifier key of type 4 (`name+id+key`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessKey {
    name: Origin,
    key: [u8; 32],
}

/// A text that is not a witness's key.
#[derive(Debug, thiserror::Error)]
#[error("not a witness's key: expected `name+12345678+Base64…` of type 4 (C2SP tlog-cosignature, Ed25519)")]
pub struct InvalidWitnessKey;

impl WitnessKey {
    /// The witness's name.
    pub fn name(&self) -> &Origin {
        &self.name
    }

    /// When this witness cosigned `note`, if it did; the latest time, if more than once.
    pub fn cosigned(&self, note: &str) -> Option<Timestamp> {
        let (text, signatures) = parts(note)?;
        signatures.strip_suffix('\n')?.split('\n').filter_map(|line| self.check(text, line)).max()
    }

    /// The time in `line`, if it is this witness's signature over `text`.
    pub(super) fn check(&self, text: &str, line: &str) -> Option<Timestamp> {
        let blob = line.strip_prefix("— ")?.strip_prefix(self.name.as_str())?.strip_prefix(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let signed = blob.strip_prefix(&self.id())?;
        let (time, signature) = signed.split_first_chunk::<8>()?;
        let time = u64::from_be_bytes(*time);
        let key = UnparsedPublicKey::new(&ED25519, self.key);
        key.verify(message(text, time).as_bytes(), signature).ok()?;
        (i64::try_from(time).is_ok()).then_some(Timestamp::from_unix(time))
    }

    /// `SHA-256(name || 0x0A || 0x04 || key)`, its first 4 bytes.
    fn id(&self) -> [u8; 4] {
        let mut input = Vec::from(self.name.as_str());
        input.extend_from_slice(&[b'\n', COSIGNATURE_TYPE]);
        input.extend_from_slice(&self.key);
        let sum = digest(&SHA256, &input);
        *sum.as_ref().first_chunk().expect("SHA-256 gives 32 bytes")
    }
}

/// The text that is signed and the signature lines.
pub(super) fn parts(note: &str) -> Option<(&str, &str)> {
    let at = note.rfind("\n\n")?;
    Some((note.get(..=at)?, note.get(at + 2..)?))
}

fn message(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut typed = vec![COSIGNATURE_TYPE];
        typed.extend_from_slice(&self.key);
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(typed))
    }
}

impl FromStr for WitnessKey {
    type Err = InvalidWitnessKey;

    fn from_str(text: &str) -> Result<Self, InvalidWitnessKey> {
        let mut parts = text.trim().splitn(3, '+');
        let mut part = || parts.next().ok_or(InvalidWitnessKey);
        let (name, id, key) = (part()?, part()?, part()?);
        let key = STANDARD.decode(key).map_err(|_| InvalidWitnessKey)?;
        let key = key.strip_prefix(&[COSIGNATURE_TYPE]).ok_or(InvalidWitnessKey)?;
        let key = key.try_into().map_err(|_| InvalidWitnessKey)?;
        let key = Self { name: name.parse().map_err(|_| InvalidWitnessKey)?, key };
        (hex::encode(key.id()) == id).then_some(key).ok_or(InvalidWitnessKey)
    }
}

/// What makes cosignatures. Never prints its key.
#[derive(Debug)]
pub struct Cosigner {
    signer: Signer,
    name: Origin,
}

impl Cosigner {
    /// The cosigner called `name`, whose seed is in the file `path`, made with mode 0600 if there is none.
    ///
    /// # Errors
    /// [`PrivateFileError`] if the file is unusable; a bad file is never replaced.
    pub fn from_file(path: &Path, name: Origin, entropy: &dyn Entropy) -> Result<Self, PrivateFileError> {
        Ok(Self { signer: Signer::from_file(path, entropy)?, name })
    }

    /// The cosigner with this seed.
    pub fn from_seed(seed: &[u8; 32], name: Origin) -> Self {
        Self { signer: Signer::from_seed(seed), name }
    }

    /// What verifies its cosignatures.
    pub fn key(&self) -> WitnessKey {
        WitnessKey { name: self.name.clone(), key: *self.signer.public_key().as_bytes() }
    }

    /// The signature line, with its newline, over the text of a note.
    pub(super) fn cosign(&self, text: &str, now: Timestamp) -> String {
        let time = now.as_unix();
        let mut blob = self.key().id().to_vec();
        blob.extend_from_slice(&time.to_be_bytes());
        blob.extend_from_slice(&self.signer.sign_bytes(message(text, time).as_bytes()));
        format!("— {} {}\n", self.name, STANDARD.encode(blob))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosigner(seed: u8, name: &str) -> Cosigner {
        Cosigner::from_seed(&[seed; 32], name.parse().unwrap())
    }

    #[test]
    fn a_cosignature_is_one_witnesss_over_one_text_at_one_time() {
        let text = "log.example/a\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
        let witness = cosigner(1, "witness.example/w");
        let now = Timestamp::from_unix(1_679_315_147);
        let note = format!("{text}\n— log.example/a AAAA\n{}", witness.cosign(text, now));
        assert_eq!(witness.key().cosigned(&note), Some(now));
        let later = format!("{note}{}", witness.cosign(text, now.plus(std::time::Duration::from_secs(1))));
        assert_eq!(witness.key().cosigned(&later).map(Timestamp::as_unix), Some(1_679_315_148));
        for stranger in [cosigner(2, "witness.example/w"), cosigner(1, "witness.example/v")] {
            assert_eq!(stranger.key().cosigned(&note), None);
        }
        assert_eq!(witness.key().cosigned(&note.replace("\n3\n", "\n4\n")), None);
        // The time is signed too: an old cosignature cannot be passed off as a new one.
        let line = witness.cosign(text, now);
        let blob = line.trim_end().rsplit(' ').next().unwrap();
        let mut bytes = STANDARD.decode(blob).unwrap();
        bytes[11] ^= 1;
        assert_eq!(witness.key().check(text, &line.trim_end().replace(blob, &STANDARD.encode(&bytes))), None);
    }

    /// The example of C2SP tlog-cosignature; its witness's key is not published, but its shape is.
    #[test]
    fn the_published_example_has_the_shape_that_is_read() {
        let blob = "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==";
        let bytes = STANDARD.decode(blob).unwrap();
        assert_eq!(bytes.len(), 4 + 8 + 64);
        let time = u64::from_be_bytes(*bytes[4..].first_chunk().unwrap());
        assert_eq!(time, 1_679_315_147, "the time of the example's signed message");
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_not_as_keys_of_logs() {
        let key = cosigner(1, "witness.example/w").key();
        assert_eq!(key.to_string().parse::<WitnessKey>().unwrap(), key);
        let log =
            Signer::from_seed(&[1; 32]).public_key().verifier_key(&"witness.example/w".parse().unwrap());
        assert!(log.parse::<WitnessKey>().is_err(), "type 1 is a log's");
        assert!(key.to_string().replace("example/w", "example/v").parse::<WitnessKey>().is_err());
        assert!(key.to_string().parse::<crate::PublicKey>().is_err());
    }
}
