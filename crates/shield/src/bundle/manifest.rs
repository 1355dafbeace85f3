//! What a bundle says of itself, and what is signed.

use serde::{Deserialize, Serialize};

use super::Refusal;

/// Files of one bundle.
const FILES: usize = 64;

/// The highest version: what every reader of JSON holds exactly.
const VERSIONS: u64 = (1 << 53) - 1;

/// The manifest. Its canonical form is this, as JSON without white space, members in this order (RFC 8785, whose order this
/// is), files by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// When it was made, in Unix seconds.
    pub created: u64,
    /// From when on it is not taken up any more, in Unix seconds.
    pub expires: u64,
    /// Every file.
    pub files: Vec<File>,
    /// Whose it is, for people: 1 to 64 of `a-z`, `0-9`, `.` and `-`.
    pub name: String,
    /// Its version, from 1. It rises with every bundle that a key signs.
    pub version: u64,
}

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `rules/NAME.toml`, `model/ngrams.bin` or `model/vectors.json`.
    pub path: String,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
}

impl Manifest {
    /// Reads a manifest that is in its canonical form.
    ///
    /// # Errors
    /// [`Refusal::Format`].
    pub fn read(text: &[u8]) -> Result<Self, Refusal> {
        let fault = |what: &str| Refusal::Format(format!("its manifest {what}"));
        let manifest: Self = serde_json::from_slice(text)
            .map_err(|error| Refusal::Format(format!("its manifest cannot be read: {error}")))?;
        if manifest.canonical() != text {
            return Err(fault("is not in its canonical form"));
        }
        if !(1..=VERSIONS).contains(&manifest.version) {
            return Err(fault("has no version from 1 to 2^53 - 1"));
        }
        if !is_name(&manifest.name) {
            return Err(fault("has no `name` of 1 to 64 of a-z, 0-9, . and -"));
        }
        if manifest.expires <= manifest.created {
            return Err(fault("expires before it begins"));
        }
        if manifest.files.is_empty() || manifest.files.len() > FILES {
            return Err(fault("lists no file, or more than 64"));
        }
        if !manifest.files.is_sorted_by(|a, b| a.path < b.path) {
            return Err(fault("lists its files in another order than their paths'"));
        }
        if let Some(file) = manifest.files.iter().find(|file| Place::of(&file.path).is_none()) {
            return Err(fault(&format!(
                "has the file `{}`; there are `rules/NAME.toml`, `model/ngrams.bin` and `model/vectors.json`",
                file.path
            )));
        }
        Ok(manifest)
    }

    /// The bytes that are signed.
    pub fn canonical(&self) -> Vec<u8> {
        // Numbers, strings and lists have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What a file of a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'p> {
    /// A pack of rules, by its name.
    Rules(&'p str),
    /// The model.
    Model,
    /// The model's reference values.
    Vectors,
}

impl<'p> Place<'p> {
    pub fn of(path: &'p str) -> Option<Self> {
        match path {
            "model/ngrams.bin" => Some(Self::Model),
            "model/vectors.json" => Some(Self::Vectors),
            _ => {
                let name = path.strip_prefix("rules/")?.strip_suffix(".toml")?;
                (is_name(name) && !name.contains('.')).then_some(Self::Rules(name))
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
}
