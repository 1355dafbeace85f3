//! Names that outsiders' rules depend on, and so never change.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that is not in the list.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is not one of: {known}")]
pub struct UnknownName {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: String,
}

/// An enum whose variants have stable names as text and in JSON.
macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        pub enum $name { $($(#[doc = $doc])+ #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// Every variant, in the order of the specification.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::event::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let known = || Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ");
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
                    .ok_or_else(|| crate::event::UnknownName { name: text.to_owned(), known: known() })
            }
        }
    };
}

pub(super) use named;

/// A stable reason code: 1 to 64 of `a-z`, `0-9`, `_`, `-` and `.`, such as `policy.denied`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String")]
pub struct Reason(Cow<'static, str>);

/// A text that cannot be a reason code.
#[derive(Debug, thiserror::Error)]
#[error("a reason code is 1 to 64 of a-z, 0-9, `_`, `-` and `.`")]
pub struct InvalidReason;

impl Reason {
    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<(), InvalidReason> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.');
        ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then_some(()).ok_or(InvalidReason)
    }
}

impl FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        Self::check(text)?;
        Ok(Self(Cow::Owned(text.to_owned())))
    }
}

impl TryFrom<&'static str> for Reason {
    type Error = InvalidReason;

    fn try_from(text: &'static str) -> Result<Self, InvalidReason> {
        Self::check(text)?;
        Ok(Self(Cow::Borrowed(text)))
    }
}

impl TryFrom<String> for Reason {
    type Error = InvalidReason;

    fn try_from(text: String) -> Result<Self, InvalidReason> {
        text.parse()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
