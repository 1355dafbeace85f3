//! Identities and digests as fixed-length hexadecimal, sealed values and notes.

use serde::{Deserialize, Serialize};

/// A text that is not an identity of the kind asked for.
#[derive(Debug, thiserror::Error)]
#[error("expected {digits} hexadecimal digits")]
pub struct InvalidId {
    /// How many digits there should be.
    pub digits: usize,
}

macro_rules! hexadecimal {
    ($(#[$about:meta])* $name:ident, $length:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "String"))]
        pub struct $name([u8; $length]);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut bytes = [0; $length];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidId { digits: $length * 2 })?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

hexadecimal!(
    /// One event: 16 random bytes.
    EventId, 16
);
hexadecimal!(
    /// A person's name in the log: 16 random bytes.
    Pseudonym, 16
);
hexadecimal!(
    /// HMAC-SHA-256 under a person's key.
    Digest, 32
);

impl EventId {
    /// An identity nobody has.
    pub fn random(entropy: &dyn bartizan_model::Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self(bytes)
    }
}

impl Pseudonym {
    /// The pseudonym with these bytes.
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl Digest {
    pub(crate) fn of(mac: &[u8]) -> Self {
        Self(mac.try_into().expect("HMAC-SHA-256 gives 32 bytes"))
    }
}

/// A value sealed under a person's key, as URL-safe Base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sealed(String);

impl Sealed {
    pub(crate) const fn from_base64(text: String) -> Self {
        Self(text)
    }

    /// The sealed bytes as Base64.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A signed note: printable characters and line ends, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String")]
pub struct Note(String);

/// A text that cannot be a note.
#[derive(Debug, thiserror::Error)]
#[error("a note has printable characters and line ends only")]
pub struct InvalidNote;

impl Note {
    /// The note's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Note {
    type Error = InvalidNote;

    fn try_from(text: String) -> Result<Self, InvalidNote> {
        let printable = |line: &str| matches!(crate::text::harmless(line), std::borrow::Cow::Borrowed(_));
        if text.split('\n').all(printable) { Ok(Self(text)) } else { Err(InvalidNote) }
    }
}
