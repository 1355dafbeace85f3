//! `[shield.bundle]`

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PublicKey;

/// Rules and a model from a signed bundle, beside and in place of those of the build: packs of the same name are replaced,
/// others are added. Without a bundle that passes every check the last good one stays, or what the build has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    /// Its file, which is read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Where it is fetched from instead, by https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The authorities to trust for `url` instead of the system's (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whose signatures count: public keys, `ed25519:` and Base64, as `bartizan shield bundle keygen` prints them.
    pub keys: Vec<String>,
    /// How many of them must have signed it.
    #[serde(default = "one")]
    pub threshold: usize,
    /// How often `url` is asked: a number and `s`, `m`, `h` or `d`.
    #[serde(default = "six_hours")]
    pub poll: Span,
    /// From which age on a bundle is stale and an alarm is raised. It stays in use.
    #[serde(default = "thirty_days")]
    pub max_age: Span,
}

fn one() -> usize {
    1
}

fn six_hours() -> Span {
    Span(Duration::from_secs(6 * 3600))
}

fn thirty_days() -> Span {
    Span(Duration::from_secs(30 * 86_400))
}

impl BundleConfig {
    /// The keys.
    ///
    /// # Errors
    /// The place of one that is none, in words.
    pub fn public_keys(&self) -> Result<Vec<PublicKey>, String> {
        let parse =
            |(index, key): (usize, &String)| key.parse().map_err(|error| format!("keys[{index}]: {error}"));
        self.keys.iter().enumerate().map(parse).collect()
    }

    /// What no single field shows.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.path.is_some() == self.url.is_some() {
            found.push("set `path` or `url`, one of them".to_owned());
        }
        if self.url.as_ref().is_some_and(|url| !url.starts_with("https://")) {
            found.push("url: a feed is fetched by https:// only".to_owned());
        }
        if self.ca.is_some() && self.url.is_none() {
            found.push("`ca` is for `url`".to_owned());
        }
        match self.public_keys() {
            Err(problem) => found.push(problem),
            Ok(mut keys) => {
                keys.sort();
                keys.dedup();
                if keys.len() != self.keys.len() {
                    found.push("keys: one is there twice".to_owned());
                }
                if keys.is_empty() {
                    found.push("keys: name at least one; nobody's signature would count".to_owned());
                } else if self.threshold == 0 || self.threshold > keys.len() {
                    found.push(format!("threshold: at least 1, at most the number of keys, {}", keys.len()));
                }
            }
        }
        if self.poll.0 < Duration::from_secs(10) {
            found.push("poll: at least 10s".to_owned());
        }
        if self.max_age.0.is_zero() {
            found.push("max_age: more than nothing".to_owned());
        }
        found
    }
}

/// A length of time, written as a whole number and `s`, `m`, `h` or `d`: `6h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub struct Span(pub Duration);

/// A text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no length of time: write a whole number and s, m, h or d, such as 6h")]
pub struct InvalidSpan(String);

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan(text.to_owned());
        let (unit, seconds) =
            UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit)).ok_or_else(invalid)?;
        let digits = text.strip_suffix(unit).unwrap_or_default();
        if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let count: u64 = digits.parse().map_err(|_| invalid())?;
        Ok(Self(Duration::from_secs(count * seconds)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let fits = |(_, unit): &(char, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
        let (unit, length) = UNITS.into_iter().find(fits).unwrap_or(('s', 1));
        write!(f, "{}{unit}", seconds / length)
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}
