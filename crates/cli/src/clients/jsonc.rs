//! Where things stand in a client's JSON, which may have comments and commas too many: what is changed is cut in, so that everything
//! else stays as its owner wrote it.

use std::{collections::BTreeSet, ops::Range};

use serde::de::IgnoredAny;

/// How deep objects and arrays are followed.
const DEEPEST: usize = 64;

/// A member of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, unescaped.
    pub name: String,
    /// Where its name begins.
    pub start: usize,
    /// Bytes of its value.
    pub value: Range<usize>,
}

/// The members of the object that begins at byte `at` of `text`; `None` if there is none, it is not well formed, or it has a name
/// twice: of two, some clients take the first and some the last.
pub fn members(text: &str, at: usize) -> Option<Vec<Member>> {
    let (mut found, mut names) = (Vec::new(), BTreeSet::new());
    let mut at = skip(text, enter(text, at, b'{')?)?;
    while *text.as_bytes().get(at)? != b'}' {
        let end = string_end(text, at)?;
        let name: String = serde_json::from_str(text.get(at..end)?).ok()?;
        let value = behind_colon(text, end)?;
        let behind = value_end(text, value, DEEPEST)?;
        if !names.insert(name.clone()) {
            return None;
        }
        found.push(Member { name, start: at, value: value..behind });
        at = next(text, behind, b'}')?;
    }
    Some(found)
}

/// The whole value that `text` is, and nothing behind it.
pub fn whole(text: &str) -> Option<Range<usize>> {
    let start = skip(text, if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 })?;
    let end = value_end(text, start, DEEPEST)?;
    (skip(text, end)? == text.len()).then_some(start..end)
}

/// Behind `byte`, if it is what stands at `at`.
fn enter(text: &str, at: usize, byte: u8) -> Option<usize> {
    (text.as_bytes().get(at) == Some(&byte)).then_some(at + 1)
}

/// Behind blanks and comments.
pub fn skip(text: &str, mut at: usize) -> Option<usize> {
    loop {
        let rest = text.get(at..)?;
        if let Some(comment) = rest.strip_prefix("//") {
            let line = comment.split('\n').next().unwrap_or_default();
            // Whether such a comment ends there is not the same for all who read it.
            if line.trim_end_matches('\r').contains('\r') {
                return None;
            }
            at += 2 + line.len();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            at += 4 + comment.find("*/")?;
        } else if rest.starts_with([' ', '\t', '\n', '\r']) {
            at += 1;
        } else {
            return Some(at);
        }
    }
}

/// The comma behind the value that ends at `at`, if there is one.
pub fn comma(text: &str, at: usize) -> Option<usize> {
    skip(text, at).filter(|at| text.as_bytes().get(*at) == Some(&b','))
}

/// Where the next item is, or `close`, behind the item that ends at `at`: there is a comma between two, and one at most behind the last.
fn next(text: &str, at: usize, close: u8) -> Option<usize> {
    match comma(text, at) {
        Some(comma) => skip(text, comma + 1),
        None => skip(text, at).filter(|at| text.as_bytes().get(*at) == Some(&close)),
    }
}

/// Where the value is whose name ends at `at`.
fn behind_colon(text: &str, at: usize) -> Option<usize> {
    skip(text, enter(text, skip(text, at)?, b':')?)
}

fn string_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = enter(text, at, b'"')?;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            b'\n' => return None,
            _ => at += 1,
        }
    }
}

fn value_end(text: &str, at: usize, depth: usize) -> Option<usize> {
    let left = depth.checked_sub(1)?;
    let end = match text.as_bytes().get(at)? {
        b'"' => string_end(text, at)?,
        b'{' => {
            let mut at = skip(text, at + 1)?;
            while *text.as_bytes().get(at)? != b'}' {
                let value = behind_colon(text, string_end(text, at)?)?;
                at = next(text, value_end(text, value, left)?, b'}')?;
            }
            return Some(at + 1);
        }
        b'[' => {
            let mut at = skip(text, at + 1)?;
            while *text.as_bytes().get(at)? != b']' {
                at = next(text, value_end(text, at, left)?, b']')?;
            }
            return Some(at + 1);
        }
        _ => {
            let rest = text.get(at..)?;
            at + rest.find([',', '}', ']', ' ', '\t', '\n', '\r', '/', ':']).unwrap_or(rest.len())
        }
    };
    serde_json::from_str::<IgnoredAny>(text.get(at..end)?).ok()?;
    Some(end)
}

/// The items of the array that is `text`, which may have comments, as JSON each.
pub fn items(text: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut at = skip(text, enter(text, 0, b'[')?)?;
    while *text.as_bytes().get(at)? != b']' {
        let end = value_end(text, at, DEEPEST)?;
        found.push(text.get(at..end)?);
        at = next(text, end, b']')?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_between_comments() {
        let text = r#"
        // mine: { "a": 1 }
        { "a": 1, /* "b": 2, */ "c\u0041": { "}": "\"}", "x": [1, {}, "]"] },
          "d" : "e", // the last
        }"#;
        let object = whole(text).unwrap();
        let found = members(text, object.start).unwrap();
        let shown: Vec<_> =
            found.iter().map(|m| (m.name.as_str(), text.get(m.value.clone()).unwrap())).collect();
        assert_eq!(shown, [("a", "1"), ("cA", r#"{ "}": "\"}", "x": [1, {}, "]"] }"#), ("d", r#""e""#)]);
        let inside = members(text, found[1].value.start).unwrap();
        assert_eq!(items(text.get(inside[1].value.clone()).unwrap()).unwrap(), ["1", "{}", "\"]\""]);
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for text in
            ["", "[]", "{", "{\"a\"}", "{\"a\": }", "{a: 1}", "{\"a\": \"\n\"}", "{} {}", "{\"a\": 1} x"]
        {
            let found = whole(text).and_then(|object| members(text, object.start));
            assert_eq!(found, None, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(whole(&deep), None);
    }

    #[test]
    fn what_no_client_reads_is_not_read() {
        for value in [
            r#"["b" "c"]"#,
            "[1:2]",
            "[,1]",
            "[1,,2]",
            "[1,,]",
            "[,]",
            "{,}",
            r#"{"a":1,,"b":2}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a","b"}"#,
            r#"{"a":1:2}"#,
            "nothing",
            "01",
            r#""\q""#,
        ] {
            let text = format!("{{\"x\": {value}}}");
            assert_eq!(whole(&text), None, "{text}");
            assert_eq!(members(&text, 0), None, "{text}");
        }
        assert_eq!(whole("// a\r{}\n{}"), None);
        assert_eq!(items("[1, 2, ]").unwrap(), ["1", "2"]);
        assert_eq!(members("{,\"a\": 1}", 0), None);
    }

    #[test]
    fn of_two_members_of_one_name_none_is_taken() {
        assert_eq!(members(r#"{"a": 1, "b": 2, "\u0061": 3}"#, 0), None);
        assert_eq!(members(r#"{"a": 1, "b": {"a": 2}}"#, 0).unwrap().len(), 2);
    }
}
