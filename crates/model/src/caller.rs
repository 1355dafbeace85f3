//! Who is asking.

use std::fmt;

/// The verified identity behind a request: never taken from anything the client merely says (spec.md E-17, A-18).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    issuer: String,
    subject: String,
    client: String,
}

impl Caller {
    /// Names a caller by the issuer of its identity, its subject there, and the application it uses.
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>, client: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), subject: subject.into(), client: client.into() }
    }

    /// The owner of this machine, known by the local token or by having started the process.
    pub fn local_owner() -> Self {
        Self::new("local", "owner", "local")
    }

    /// Who vouches for the subject.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The person or workload, unique within the issuer.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The application through which the subject acts.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// One unambiguous string for this caller, for binding handles (spec.md B-30, A-92).
    pub fn key(&self) -> CallerKey {
        // Lengths go in front, so that no choice of names makes two callers share a key.
        CallerKey(format!(
            "{}:{}{}:{}{}:{}",
            self.issuer.len(),
            self.issuer,
            self.subject.len(),
            self.subject,
            self.client.len(),
            self.client
        ))
    }
}

/// See [`Caller::key`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallerKey(String);

impl CallerKey {
    /// The key of no caller at all: for what all callers share. No caller's key is empty.
    pub fn nobody() -> Self {
        Self(String::new())
    }

    /// The key's bytes, as they go into a digest.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} via {}", self.issuer, self.subject, self.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_whose_names_run_together_have_different_keys() {
        assert_ne!(Caller::new("a", "bc", "d").key(), Caller::new("ab", "c", "d").key());
        assert_ne!(Caller::new("a", "1:b", "c").key(), Caller::new("a", "1", ":bc").key());
    }
}
