//! The operator's name for a server.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A server's name: 1 to 32 characters of `a-z`, `0-9` and `-`, starting with a letter or digit.
///
/// It is chosen by the operator, never by the server (spec.md A-58), and appears in paths, merged tool names
/// (`{server}__{tool}`) and wrapped resource URIs; neither `_` nor `+` can occur in it, so both forms take apart
/// in one way only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

/// A server name that is not 1 to 32 of `a-z`, `0-9`, `-`, or starts with `-`.
#[derive(Debug, thiserror::Error)]
#[error("a server name is 1 to 32 characters of a-z, 0-9 and -, and starts with a letter or digit")]
pub struct InvalidServerName;

impl ServerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = InvalidServerName;

    fn from_str(text: &str) -> Result<Self, InvalidServerName> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidServerName)
        }
    }
}

impl TryFrom<String> for ServerName {
    type Error = InvalidServerName;

    fn try_from(text: String) -> Result<Self, InvalidServerName> {
        text.parse()
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.0
    }
}

impl Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_make_merged_names_ambiguous_are_refused() {
        for good in ["a", "files", "git-hub", "0", &"x".repeat(32)] {
            assert!(good.parse::<ServerName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a+b", "a/b", "a.b", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad}");
        }
    }
}
