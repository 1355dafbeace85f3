//! Where things stand in a client's JSON, which may have comments and commas too many: what is changed is cut in, so that everything
//! else stays as its owner wrote it.

use std::ops::Range;

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

/// The members of the object that begins at byte `at` of `text`; `None` if there is none, or it is not well formed.
pub fn members(text: &str, at: usize) -> Option<Vec<Member>> {
    let mut found = Vec::new();
    let mut at = enter(text, at, b'{')?;
    loop {
        at = skip(text, at)?;
        match text.as_bytes().get(at)? {
            b'}' => return Some(found),
            b',' => at += 1,
            b'"' => {
                let end = string_end(text, at)?;
                let name = serde_json::from_str(text.get(at..end)?).ok()?;
                let colon = skip(text, end)?;
                let value = skip(text, enter(text, colon, b':')?)?;
                let behind = value_end(text, value, DEEPEST)?;
                found.push(Member { name, start: at, value: value..behind });
                at = behind;
            }
            _ => return None,
        }
    }
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
fn skip(text: &str, mut at: usize) -> Option<usize> {
    loop {
        let rest = text.get(at..)?;
        if let Some(comment) = rest.strip_prefix("//") {
            at += 2 + comment.find('\n').unwrap_or(comment.len());
        } else if let Some(comment) = rest.strip_prefix("/*") {
            at += 4 + comment.find("*/")?;
        } else if rest.starts_with([' ', '\t', '\n', '\r']) {
            at += 1;
        } else {
            return Some(at);
        }
    }
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
    match text.as_bytes().get(at)? {
        b'"' => string_end(text, at),
        open @ (b'{' | b'[') => {
            let close = if *open == b'{' { b'}' } else { b']' };
            let mut at = at + 1;
            loop {
                at = skip(text, at)?;
                match text.as_bytes().get(at)? {
                    byte if *byte == close => return Some(at + 1),
                    b',' | b':' => at += 1,
                    _ => at = value_end(text, at, left)?,
                }
            }
        }
        _ => {
            let rest = text.get(at..)?;
            let length = rest.find([',', '}', ']', ' ', '\t', '\n', '\r', '/', ':']).unwrap_or(rest.len());
            (length > 0).then_some(at + length)
        }
    }
}

/// The items of the array that is `text`, which may have comments, as JSON each.
pub fn items(text: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut at = enter(text, 0, b'[')?;
    loop {
        at = skip(text, at)?;
        match text.as_bytes().get(at)? {
            b']' => return Some(found),
            b',' => at += 1,
            _ => {
                let end = value_end(text, at, DEEPEST)?;
                found.push(text.get(at..end)?);
                at = end;
            }
        }
    }
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
}
