//! Taking a server's own secrets out of what it writes for people (spec.md C-36; attacks.md PH-23).

use std::{fmt, sync::Arc};

use bartizan_model::Secret;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

/// Bytes of the shortest secret that is looked for: shorter ones are words that occur anyway.
const SHORTEST: usize = 8;

/// What a line shows in the place of a secret.
const HIDDEN: &str = "[redacted]";

/// Values that no log line may show: as they are, line by line, and in Base64.
#[derive(Clone, Default)]
pub struct Scrub(Arc<[Secret]>);

impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrub({})", self.0.len())
    }
}

impl Scrub {
    /// Looks for these values.
    pub fn new(values: impl IntoIterator<Item = Secret>) -> Self {
        let mut forms: Vec<Secret> = Vec::new();
        for value in values {
            let text = value.reveal();
            let encoded =
                [(0, 0), (1, 2), (2, 3)].map(|(before, skipped)| encoded_after(text, before, skipped));
            for form in text.lines().map(str::trim).chain(encoded.iter().map(Secret::reveal)) {
                if form.len() >= SHORTEST {
                    forms.push(Secret::new(form.to_owned()));
                }
            }
        }
        // The longest first: what is left of it must not show where a shorter one was.
        forms.sort_by_key(|form| std::cmp::Reverse(form.reveal().len()));
        Self(forms.into())
    }

    /// `line` without them. Of a line that `is_cut`, the beginning of one at its end goes too.
    pub fn hide(&self, line: &str, is_cut: bool) -> String {
        let mut text = line.to_owned();
        for secret in self.0.iter().map(Secret::reveal) {
            if text.contains(secret) {
                text = text.replace(secret, HIDDEN);
            }
            let begun =
                || (4..secret.len()).rev().filter_map(|n| secret.get(..n)).find(|b| text.ends_with(b));
            if is_cut && let Some(begun) = begun() {
                text.truncate(text.len() - begun.len());
                text.push_str(HIDDEN);
            }
        }
        text
    }
}

/// What of the Base64 of `text` is always the same when `before` other bytes, modulo three, stand in front of it: not its
/// first `skipped` characters, nor a last one that ends with bits of what follows.
fn encoded_after(text: &str, before: usize, skipped: usize) -> Secret {
    let mut bytes = Zeroizing::new(vec![0; before]);
    bytes.extend_from_slice(text.as_bytes());
    let encoded = Secret::new(STANDARD_NO_PAD.encode(&*bytes));
    let whole = bytes.len() * 8 / 6;
    Secret::new(encoded.reveal().get(skipped..whole).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_secret_is_hidden_in_every_form_a_log_line_may_have() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----";
        let scrub = Scrub::new(
            ["hunter2-hunter2", "hunter2-hunter2-long", key, "key"].map(|s| Secret::new(s.into())),
        );
        let hide = |line: &str| scrub.hide(line, false);
        assert_eq!(hide("a hunter2-hunter2-long b hunter2-hunter2"), "a [redacted] b [redacted]");
        assert_eq!(hide("> MIIEvQIBADANBgkq"), "> [redacted]");
        assert_eq!(hide("key=aHVudGVyMi1odW50ZXIy="), "key=[redacted]=");
        for around in ["u:%", "us:%", "use:%", "u:%x", "%xy"] {
            let line = STANDARD.encode(around.replace('%', "hunter2-hunter2"));
            let left: Vec<_> = hide(&line).split("[redacted]").map(str::len).collect();
            assert!(left.len() == 2 && left.iter().all(|n| *n <= 7), "{around}: {}", hide(&line));
        }
        assert_eq!(scrub.hide("token hunter2-hun", true), "token [redacted]");
        assert_eq!(scrub.hide("token hunter2-hun", false), "token hunter2-hun", "it is no secret");
        assert!(!format!("{scrub:?}").contains("hunter2"));
    }
}
