//! Words from outside, made harmless before they are written (attacks.md PH-23, CWE-117).

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize};

/// How many characters of a text are kept.
const LIMIT: usize = 1024;

/// A text in which nothing can start a line, drive a terminal, reorder what a reader sees or hide from him: control
/// characters, line separators, bidirectional controls, invisible and private characters are written as `<U+001B>`,
/// and the brace of `${` too, which some log readers evaluate. At most 1,024 characters of the original, with a
/// marker when there were more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Text(String);

impl Text {
    /// Makes `raw` harmless, and no longer than 1,024 characters.
    pub fn new(raw: &str) -> Self {
        Self::limited(raw, LIMIT)
    }

    /// Makes `raw` harmless, and no longer than `limit` characters.
    pub fn limited(raw: &str, limit: usize) -> Self {
        match raw.char_indices().nth(limit) {
            None => Self(harmless(raw).into_owned()),
            Some((end, _)) => {
                let (kept, cut) = raw.split_at(end);
                Self(format!("{} [{} bytes more]", harmless(kept), cut.len()))
            }
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(raw: &str) -> Self {
        Self::new(raw)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    /// What is read back may have been written by somebody else: it is made harmless again, which changes nothing in
    /// what we wrote.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = String::deserialize(deserializer)?;
        Ok(Self(harmless(&raw).into_owned()))
    }
}

/// `raw` with everything dangerous to a reader written out.
pub fn harmless(raw: &str) -> Cow<'_, str> {
    let mut before = ' ';
    let first = raw.char_indices().find(|&(_, c)| {
        let found = dangerous(c) || (before == '$' && c == '{');
        before = c;
        found
    });
    let Some((start, _)) = first else { return Cow::Borrowed(raw) };
    let (clean, rest) = raw.split_at(start);
    let mut out = String::with_capacity(raw.len() + 16);
    out.push_str(clean);
    for c in rest.chars() {
        if dangerous(c) || (c == '{' && out.ends_with('$')) {
            out.push_str(&format!("<U+{:04X}>", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{E000}'..='\u{F8FF}' | '\u{FEFF}' | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFFB}' | '\u{FFFE}' | '\u{FFFF}' | '\u{E0000}'..='\u{10FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attack PH-23: each of these would forge a line, paint a terminal, reorder or hide text, or be evaluated.
    #[test]
    fn nothing_in_a_text_can_forge_hide_or_reorder_what_a_reader_sees() {
        for (attack, written) in [
            ("a\r\n{\"seq\":9}", "a<U+000D><U+000A>{\"seq\":9}"),
            ("\u{1b}[2J\u{9b}31m", "<U+001B>[2J<U+009B>31m"),
            ("line\u{2028}line\u{2029}line\u{85}", "line<U+2028>line<U+2029>line<U+0085>"),
            ("invoice\u{202e}fdp.exe", "invoice<U+202E>fdp.exe"),
            ("a\u{2066}b\u{2069}\u{200e}", "a<U+2066>b<U+2069><U+200E>"),
            ("ig\u{200b}no\u{feff}re", "ig<U+200B>no<U+FEFF>re"),
            ("tag\u{e0041}\u{e007f}", "tag<U+E0041><U+E007F>"),
            ("${jndi:ldap://x}", "$<U+007B>jndi:ldap://x}"),
            ("nul\0 bell\u{7} del\u{7f}", "nul<U+0000> bell<U+0007> del<U+007F>"),
        ] {
            assert_eq!(Text::new(attack).as_str(), written);
            let read: Text = serde_json::from_str(&serde_json::to_string(attack).unwrap()).unwrap();
            assert_eq!(read.as_str(), written, "reading back is as careful");
            assert_eq!(harmless(written), written, "twice is once");
        }
        for honest in ["", "Grüße, 世界 🦀", "a|b=c\\d \"e\" ]", "{$}"] {
            assert_eq!(Text::new(honest).as_str(), honest);
        }
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let cut = Text::new(&"ä".repeat(2000));
        assert_eq!(cut.as_str(), format!("{} [1952 bytes more]", "ä".repeat(1024)));
        assert_eq!(Text::new(&"x".repeat(1024)).as_str().len(), 1024);
    }
}
