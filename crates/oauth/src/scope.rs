//! Scopes: exact words, never patterns (RFC 6749 §3.3; attacks.md AA-21).

use std::collections::{BTreeMap, BTreeSet};

/// The words of a `scope` text. A text outside RFC 6749's grammar has none: what a lenient reader would see in it is
/// not what was granted.
pub(crate) fn parse(text: &str) -> BTreeSet<String> {
    let words: Vec<_> = text.split(' ').collect();
    if words.iter().all(|word| is_scope(word)) {
        words.into_iter().map(str::to_owned).collect()
    } else {
        BTreeSet::new()
    }
}

/// Whether `word` is one scope: visible ASCII but `"` and `\`.
pub(crate) fn is_scope(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
}

/// Which scopes hold others (spec.md E-09), by the operator's word.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hierarchy(BTreeMap<String, Vec<String>>);

impl Hierarchy {
    pub fn new(implies: BTreeMap<String, Vec<String>>) -> Self {
        Self(implies)
    }

    /// `scopes` and all they hold, however far.
    pub fn widen(&self, mut scopes: BTreeSet<String>) -> BTreeSet<String> {
        let mut to_look_at: Vec<_> = scopes.iter().cloned().collect();
        while let Some(scope) = to_look_at.pop() {
            for held in self.0.get(&scope).into_iter().flatten() {
                if scopes.insert(held.clone()) {
                    to_look_at.push(held.clone());
                }
            }
        }
        scopes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_grammar_of_the_rfc_has_words() {
        let set = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(parse("mcp:read mcp:write"), set(&["mcp:read", "mcp:write"]));
        for none in ["", " ", "a ", " a", "a  b", "a\tb", "a\nb", "mcp:write\u{a0}", "a \"b\"", "a\\b", "ä"]
        {
            assert_eq!(parse(none), set(&[]), "{none:?}");
        }
        assert_eq!(
            parse("mcp:read,mcp:write"),
            set(&["mcp:read,mcp:write"]),
            "a comma is a letter like any other"
        );
    }

    #[test]
    fn a_scope_holds_others_even_in_a_circle() {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let hierarchy = Hierarchy::new(BTreeMap::from([
            ("admin".to_owned(), list(&["write"])),
            ("write".to_owned(), list(&["read", "admin"])),
        ]));
        assert_eq!(hierarchy.widen(parse("admin")), parse("admin write read"));
        assert_eq!(hierarchy.widen(parse("read")), parse("read"));
    }
}
