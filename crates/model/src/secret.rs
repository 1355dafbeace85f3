//! A value that never prints.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret string: no `Debug`, no `Display`, no `Serialize`, wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Whether `candidate` is this secret, in a time that tells nothing of where they differ (attacks.md PH-31).
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    /// The secret itself, for the one place that must send or store it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_matches() {
        let secret = Secret::new("bz_0123456789".to_owned());
        assert!(secret.matches(b"bz_0123456789"));
        for wrong in ["", "bz_012345678", "bz_01234567890", "bz_0123456788", "BZ_0123456789"] {
            assert!(!secret.matches(wrong.as_bytes()), "{wrong:?} matched");
        }
    }
}
