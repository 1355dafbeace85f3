//! The strict pass: one look at every byte, before anything is believed.

use std::{borrow::Cow, collections::HashSet, ops::Range};

use crate::names;

/// How much structure a text may have. Its length is bounded before it is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arrays and objects inside one another.
    pub depth: usize,
    /// Values of any kind, keys not counted.
    pub values: usize,
    /// Bytes in one key, as written.
    pub key: usize,
}

impl Default for Limits {
    /// 64 levels, 500,000 values, keys of 16 KiB.
    fn default() -> Self {
        Self { depth: 64, values: 500_000, key: 16 * 1024 }
    }
}

/// Why a text was refused. The byte offset says where; the text itself is never echoed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// RFC 8259 §4 leaves the meaning of repeated names open, so each parser picks its own.
    #[error("an object names the same key twice (byte {0})")]
    DuplicateKey(usize),
    /// Only shortest-form UTF-8 without surrogates is text.
    #[error("the text is not UTF-8 (byte {0})")]
    InvalidUtf8(usize),
    /// A key longer than [`Limits::key`].
    #[error("a key is too long (byte {0})")]
    KeyTooLong(usize),
    /// An escape that names half a character.
    #[error("a \\u escape names half of a surrogate pair (byte {0})")]
    LoneSurrogate(usize),
    /// A key with U+0000 in it, which some languages read as its end.
    #[error("a key contains U+0000 (byte {0})")]
    NulInKey(usize),
    /// Not JSON.
    #[error("not valid JSON (byte {0})")]
    Syntax(usize),
    /// Deeper than [`Limits::depth`].
    #[error("nested too deeply (byte {0})")]
    TooDeep(usize),
    /// More than [`Limits::values`].
    #[error("too many values (byte {0})")]
    TooManyValues(usize),
}

/// Checks that `text` is exactly one JSON value (with white space around it) within `limits`.
///
/// # Errors
/// The first [`Fault`], with its byte offset.
pub fn check(text: &[u8], limits: Limits) -> Result<&str, Fault> {
    let valid = std::str::from_utf8(text).map_err(|e| Fault::InvalidUtf8(e.valid_up_to()))?;
    let mut scan = Scan { text, limits, values: 0, keys: Vec::new(), outline: None, is_odd: None };
    let end = scan.value(scan.blank(0), 0)?;
    let end = scan.blank(end);
    if end == text.len() { Ok(valid) } else { Err(Fault::Syntax(end)) }
}

/// Where the members of the outermost object lie, and theirs: `{"a":{"b":1}}` has the members `a` and `a.b`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outline {
    /// In the order in which they end, so that a member follows its own.
    pub(crate) members: Vec<OutlineMember>,
}

/// One member, by byte positions in the text.
#[derive(Clone, Debug)]
pub(crate) struct OutlineMember {
    /// 1 for a member of the outermost object, 2 for a member of that.
    pub(crate) depth: usize,
    /// The key between its quotes.
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// How many members an outline holds; a text that has more is walked instead.
const OUTLINE: usize = 256;

/// What a check found out on its way.
pub(crate) struct Outlined {
    /// Where things are; none if there are too many of them.
    pub(crate) outline: Option<Outline>,
    /// Some key, wherever it stands, looks like a name of the protocol and is none.
    pub(crate) is_odd: bool,
}

/// As [`check`], and remembers where things are.
pub(crate) fn check_outlined(text: &[u8], limits: Limits) -> Result<Outlined, Fault> {
    std::str::from_utf8(text).map_err(|e| Fault::InvalidUtf8(e.valid_up_to()))?;
    let outline = Some(Outline::default());
    let mut scan = Scan { text, limits, values: 0, keys: Vec::new(), outline, is_odd: Some(false) };
    let end = scan.value(scan.blank(0), 0)?;
    let end = scan.blank(end);
    if end != text.len() {
        return Err(Fault::Syntax(end));
    }
    Ok(Outlined { outline: scan.outline, is_odd: scan.is_odd == Some(true) })
}

/// Above this many keys in one object a hash set takes over from comparing each with each.
const MANY_KEYS: usize = 24;

struct Scan<'a> {
    text: &'a [u8],
    limits: Limits,
    values: usize,
    /// The keys of every object now open, innermost last, unescaped.
    keys: Vec<Cow<'a, [u8]>>,
    outline: Option<Outline>,
    /// Whether a key was odd, where that is asked.
    is_odd: Option<bool>,
}

impl<'a> Scan<'a> {
    fn at(&self, at: usize) -> u8 {
        // A NUL outside a string is never valid JSON, so it can stand for the end of the text.
        self.text.get(at).copied().unwrap_or(0)
    }

    fn blank(&self, mut at: usize) -> usize {
        while matches!(self.at(at), b' ' | b'\t' | b'\n' | b'\r') {
            at += 1;
        }
        at
    }

    /// Reads the value that starts at `at`; answers where it ends.
    fn value(&mut self, at: usize, depth: usize) -> Result<usize, Fault> {
        self.values += 1;
        if self.values > self.limits.values {
            return Err(Fault::TooManyValues(at));
        }
        match self.at(at) {
            b'"' => Ok(self.string(at)?.0.end + 1),
            b'{' => self.object(at, depth + 1),
            b'[' => self.array(at, depth + 1),
            b't' => self.word(at, b"true"),
            b'f' => self.word(at, b"false"),
            b'n' => self.word(at, b"null"),
            b'-' | b'0'..=b'9' => self.number(at),
            _ => Err(Fault::Syntax(at)),
        }
    }

    fn word(&self, at: usize, word: &[u8]) -> Result<usize, Fault> {
        let end = at + word.len();
        if self.text.get(at..end) == Some(word) { Ok(end) } else { Err(Fault::Syntax(at)) }
    }

    fn digits(&self, mut at: usize) -> Result<usize, Fault> {
        let start = at;
        while self.at(at).is_ascii_digit() {
            at += 1;
        }
        if at == start { Err(Fault::Syntax(at)) } else { Ok(at) }
    }

    fn number(&self, start: usize) -> Result<usize, Fault> {
        let mut at = start + usize::from(self.at(start) == b'-');
        at = if self.at(at) == b'0' { at + 1 } else { self.digits(at)? };
        if self.at(at) == b'.' {
            at = self.digits(at + 1)?;
        }
        if matches!(self.at(at), b'e' | b'E') {
            at += 1;
            at += usize::from(matches!(self.at(at), b'+' | b'-'));
            at = self.digits(at)?;
        }
        // "01", "1x" and the like: whatever may follow a number begins with none of these.
        if self.at(at).is_ascii_alphanumeric() { Err(Fault::Syntax(at)) } else { Ok(at) }
    }

    fn array(&mut self, start: usize, depth: usize) -> Result<usize, Fault> {
        if depth > self.limits.depth {
            return Err(Fault::TooDeep(start));
        }
        let mut at = self.blank(start + 1);
        if self.at(at) == b']' {
            return Ok(at + 1);
        }
        loop {
            at = self.value(at, depth)?;
            at = self.blank(at);
            match self.at(at) {
                b',' => at = self.blank(at + 1),
                b']' => return Ok(at + 1),
                _ => return Err(Fault::Syntax(at)),
            }
        }
    }

    fn object(&mut self, start: usize, depth: usize) -> Result<usize, Fault> {
        if depth > self.limits.depth {
            return Err(Fault::TooDeep(start));
        }
        let mut at = self.blank(start + 1);
        if self.at(at) == b'}' {
            return Ok(at + 1);
        }
        let first = self.keys.len();
        let mut many: Option<HashSet<Cow<'a, [u8]>>> = None;
        loop {
            if self.at(at) != b'"' {
                return Err(Fault::Syntax(at));
            }
            let (span, is_escaped) = self.string(at)?;
            let (key_at, key_end) = (at, span.end + 1);
            self.key((span.clone(), is_escaped), key_at, first, &mut many)?;
            at = self.blank(key_end);
            if self.at(at) != b':' {
                return Err(Fault::Syntax(at));
            }
            let value_at = self.blank(at + 1);
            at = self.value(value_at, depth)?;
            if depth <= 2 {
                self.note(OutlineMember { depth, key: span, value: value_at..at });
            }
            at = self.blank(at);
            match self.at(at) {
                b',' => at = self.blank(at + 1),
                b'}' => {
                    self.keys.truncate(first);
                    return Ok(at + 1);
                }
                _ => return Err(Fault::Syntax(at)),
            }
        }
    }

    fn note(&mut self, member: OutlineMember) {
        if let Some(outline) = &mut self.outline {
            if outline.members.len() < OUTLINE {
                outline.members.push(member);
            } else {
                self.outline = None;
            }
        }
    }

    /// Takes in one key of the object whose keys begin at `first`.
    fn key(
        &mut self,
        (span, is_escaped): (Range<usize>, bool),
        at: usize,
        first: usize,
        many: &mut Option<HashSet<Cow<'a, [u8]>>>,
    ) -> Result<(), Fault> {
        let raw = self.text.get(span).unwrap_or_default();
        if raw.len() > self.limits.key {
            return Err(Fault::KeyTooLong(at));
        }
        let key: Cow<'a, [u8]> = if is_escaped {
            Cow::Owned(super::value::unescape(raw).into_bytes())
        } else {
            Cow::Borrowed(raw)
        };
        // One that is not escaped is refused where strings are read.
        if is_escaped && key.contains(&0) {
            return Err(Fault::NulInKey(at));
        }
        if self.is_odd == Some(false) && names::is_odd(&key) {
            self.is_odd = Some(true);
        }
        let siblings = self.keys.get(first..).unwrap_or_default();
        let repeated = match many {
            Some(set) => !set.insert(key.clone()),
            None if siblings.len() >= MANY_KEYS => {
                let mut set: HashSet<_> = siblings.iter().cloned().collect();
                let repeated = !set.insert(key.clone());
                *many = Some(set);
                repeated
            }
            None => siblings.contains(&key),
        };
        if repeated {
            return Err(Fault::DuplicateKey(at));
        }
        if many.is_none() {
            self.keys.push(key);
        }
        Ok(())
    }

    /// Reads the string whose opening quote is at `at`; answers the span between the quotes, and whether an escape stands there.
    fn string(&self, at: usize) -> Result<(Range<usize>, bool), Fault> {
        let start = at + 1;
        let (mut at, mut is_escaped) = (start, false);
        loop {
            at = plain_until(self.text, at);
            match self.text.get(at) {
                Some(b'"') => return Ok((start..at, is_escaped)),
                Some(b'\\') => (at, is_escaped) = (self.escape(at)?, true),
                _ => return Err(Fault::Syntax(at)),
            }
        }
    }

    /// Reads the escape whose backslash is at `at`; answers where it ends.
    fn escape(&self, at: usize) -> Result<usize, Fault> {
        match self.at(at + 1) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
            b'u' => match self.unit(at)? {
                0xdc00..=0xdfff => Err(Fault::LoneSurrogate(at)),
                0xd800..=0xdbff => {
                    let low = at + 6;
                    if self.at(low) == b'\\'
                        && self.at(low + 1) == b'u'
                        && matches!(self.unit(low)?, 0xdc00..=0xdfff)
                    {
                        Ok(low + 6)
                    } else {
                        Err(Fault::LoneSurrogate(at))
                    }
                }
                _ => Ok(at + 6),
            },
            _ => Err(Fault::Syntax(at)),
        }
    }

    fn unit(&self, at: usize) -> Result<u16, Fault> {
        super::value::hex_unit(self.text.get(at + 2..at + 6).unwrap_or_default()).ok_or(Fault::Syntax(at))
    }
}

/// The first byte from `at` on that ends a plain run: a quote, a backslash or a control character.
fn plain_until(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at a time: a byte of `hit` has its high bit set where the byte is below 0x20, `"` or `\`.
    // Borrows can mark bytes above the first true hit, never below it, and only the first is read.
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word;
    while let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let hit = (below(word, 0x20)
            | below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1))
            & HIGHS;
        if hit != 0 {
            return at + (hit.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|&b| b >= 0x20 && b != b'"' && b != b'\\') {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(text: &str) -> Option<Fault> {
        check(text.as_bytes(), Limits::default()).err()
    }

    #[test]
    fn takes_what_rfc_8259_allows() {
        for text in [
            "{}",
            " [ ] ",
            "null",
            "-0",
            "0.5e-10",
            "1E+400",
            "12345678901234567890123",
            r#""\u0000 in a value, \ud83d\ude00 \/ \\ \"""#,
            r#"{"a":{"a":{"a":[1,{"a":2}]}},"b":true}"#,
            "\"eight by\u{7f}te ünïcödé wörds and then some\"",
        ] {
            assert_eq!(fault(text), None, "{text}");
        }
    }

    #[test]
    fn refuses_what_parsers_read_differently() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "01",
            "1.",
            ".5",
            "+1",
            "1x",
            "0x10",
            "NaN",
            "Infinity",
            "nulL",
            "tru",
            "[1 2]",
            "{}{}",
            "{} x",
            "// c\n1",
            "\u{feff}{}",
            "\"\t\"",
            "\"\n\"",
            "\"\\x41\"",
            "\"\\u12g4\"",
            "\"\\u123\"",
            "\"open",
            "\"\\",
            "[\"a\" \"b\"]",
            "{\"a\" 1}",
            "{\"a\":}",
            "\0",
            "{}\0",
        ] {
            assert!(matches!(fault(text), Some(Fault::Syntax(_))), "{text:?}: {:?}", fault(text));
        }
        for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800x""#] {
            assert!(matches!(fault(text), Some(Fault::LoneSurrogate(_))), "{text}");
        }
        assert_eq!(check(b"\"\xc0\x80\"", Limits::default()), Err(Fault::InvalidUtf8(1)));
        assert_eq!(check(b"\"\xed\xa0\x80\"", Limits::default()), Err(Fault::InvalidUtf8(1)));
        assert!(matches!(fault(r#"{"a\u0000b":1}"#), Some(Fault::NulInKey(_))));
    }

    #[test]
    fn refuses_a_repeated_key_at_every_level_however_it_is_spelt() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"method":1,"m\u0065thod":2}"#,
            r#"[{"x":{"k":1,"j":{"k":1},"k":2}}]"#,
            r#"{"\/":1,"/":2}"#,
        ] {
            assert!(matches!(fault(text), Some(Fault::DuplicateKey(_))), "{text}");
        }
        let many: Vec<String> = (0..1000).map(|i| format!("\"k{i}\":{i}")).collect();
        assert_eq!(fault(&format!("{{{}}}", many.join(","))), None);
        assert!(matches!(fault(&format!("{{{},\"k0\":1}}", many.join(","))), Some(Fault::DuplicateKey(_))));
        assert!(matches!(fault(&format!("{{{},\"k999\":1}}", many.join(","))), Some(Fault::DuplicateKey(_))));
    }

    #[test]
    fn bounds_depth_values_and_keys() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(fault(&nested(64)), None);
        assert!(matches!(fault(&nested(65)), Some(Fault::TooDeep(64))));
        assert!(matches!(fault(&nested(100_000)), Some(Fault::TooDeep(64))));
        assert!(matches!(fault(&format!("[{}0]", "0,".repeat(500_000))), Some(Fault::TooManyValues(_))));
        assert!(matches!(fault(&format!("{{\"{}\":1}}", "k".repeat(20_000))), Some(Fault::KeyTooLong(_))));
    }

    proptest! {
        /// Whatever this check takes, serde_json takes, and the reverse, but for what we refuse on purpose.
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"\\a-c0-2\. eE+u-]{0,24}"#) {
            let ours = check(text.as_bytes(), Limits::default());
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            match ours {
                Ok(_) => prop_assert!(theirs.is_ok(), "we took {text:?}"),
                Err(Fault::Syntax(_)) => prop_assert!(theirs.is_err(), "we refused {text:?}"),
                Err(_) => {}
            }
        }

        #[test]
        fn finds_the_end_of_a_plain_run(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let slow = text.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\').unwrap_or(text.len());
            prop_assert_eq!(plain_until(&text, 0), slow);
        }
    }
}
