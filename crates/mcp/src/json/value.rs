//! Views of a text that passed the strict check.

use std::{borrow::Cow, ops::Range};

/// A piece of a checked JSON text: one value, exactly as written, no white space around it.
///
/// Made only by `mcp` from texts that passed [`super::check`], so its readers find ends without checking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(&'a str);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[…]`
    Array,
    /// `true` or `false`
    Boolean,
    /// `null`
    Null,
    /// Any number
    Number,
    /// `{…}`
    Object,
    /// `"…"`
    String,
}

/// One member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The key as written, without its quotes.
    raw_key: &'a str,
    /// The value.
    pub value: Value<'a>,
}

impl<'a> Member<'a> {
    /// The key, unescaped.
    pub fn key(&self) -> Cow<'a, str> {
        if self.raw_key.contains('\\') {
            Cow::Owned(unescape(self.raw_key.as_bytes()))
        } else {
            Cow::Borrowed(self.raw_key)
        }
    }

    /// A member whose places are known.
    pub(crate) fn new(raw_key: &'a str, value: Value<'a>) -> Self {
        Self { raw_key, value }
    }

    /// The key as written, quotes not included.
    pub fn raw_key(&self) -> &'a str {
        self.raw_key
    }

    /// Whether the key, unescaped, is `name`.
    pub fn is(&self, name: &str) -> bool {
        self.raw_key == name || (self.raw_key.contains('\\') && self.key() == name)
    }
}

impl<'a> Value<'a> {
    /// A view of a text that [`super::check`] has answered, white space around it cut off. A text it has not seen is
    /// read wrongly, never unsafely.
    pub fn of(text: &'a str) -> Self {
        Self::of_checked(text)
    }

    /// A view of `text`, which must have passed [`super::check`]; white space around it is cut off.
    pub(crate) fn of_checked(text: &'a str) -> Self {
        Self(text.trim_matches([' ', '\t', '\n', '\r']))
    }

    /// The value as written.
    pub fn text(self) -> &'a str {
        self.0
    }

    /// What the value is.
    pub fn kind(self) -> Kind {
        match self.0.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') | None => Kind::Null,
            Some(_) => Kind::Number,
        }
    }

    /// Whether the value is `null`.
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// Whether the value is `true` or `false`, and which.
    pub fn as_bool(self) -> Option<bool> {
        match self.0 {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// The number as a non-negative integer, if it is written as one and fits.
    pub fn as_u64(self) -> Option<u64> {
        if self.kind() == Kind::Number { self.0.parse().ok() } else { None }
    }

    /// The number as an integer, if it is written as one and fits.
    pub fn as_i64(self) -> Option<i64> {
        if self.kind() == Kind::Number { self.0.parse().ok() } else { None }
    }

    /// Whether the value is a number written without fraction and exponent.
    pub fn is_integer(self) -> bool {
        self.kind() == Kind::Number && !self.0.contains(['.', 'e', 'E'])
    }

    /// The string, unescaped.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        let inside = self.0.strip_prefix('"')?.strip_suffix('"')?;
        Some(if inside.contains('\\') {
            Cow::Owned(unescape(inside.as_bytes()))
        } else {
            Cow::Borrowed(inside)
        })
    }

    /// The members of an object in order; none for anything else.
    pub fn members(self) -> Members<'a> {
        Members(Walk::into(self.0, b'{'))
    }

    /// The elements of an array in order; none for anything else.
    pub fn elements(self) -> Elements<'a> {
        Elements(Walk::into(self.0, b'['))
    }

    /// Whether the value is `{}` or `[]`. Looks at its beginning only.
    pub fn is_empty(self) -> bool {
        let inside = self.0.strip_prefix(['{', '[']).unwrap_or_default();
        inside.trim_start_matches([' ', '\t', '\n', '\r']).starts_with(['}', ']'])
    }

    /// The member called `name`, if this is an object that has one.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        self.members().find(|m| m.is(name)).map(|m| m.value)
    }

    /// Where this value lies in `text`, of which it must be a piece.
    pub fn span_in(self, text: &str) -> Range<usize> {
        let start = (self.0.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        debug_assert!(start <= text.len(), "the value is no piece of the text");
        start..start.wrapping_add(self.0.len())
    }
}

/// The members of an object, in order.
#[derive(Clone, Debug)]
pub struct Members<'a>(Walk<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let quoted = self.0.value()?;
        self.0.skip_over(b':');
        let value = self.0.value()?;
        self.0.skip_over(b',');
        let raw_key = quoted.strip_prefix('"').and_then(|k| k.strip_suffix('"')).unwrap_or_default();
        Some(Member { raw_key, value: Value(value) })
    }
}

/// The elements of an array, in order.
#[derive(Clone, Debug)]
pub struct Elements<'a>(Walk<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let value = self.0.value()?;
        self.0.skip_over(b',');
        Some(Value(value))
    }
}

/// A position inside a container of a checked text.
#[derive(Clone, Debug)]
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn into(text: &'a str, open: u8) -> Self {
        let is_open = text.as_bytes().first() == Some(&open);
        // Without its closing bracket the container is a list of values up to the end of the text.
        let inside = if is_open { text.get(..text.len() - 1).unwrap_or_default() } else { "" };
        Self { text: inside, at: 1 }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn skip_blank(&mut self) {
        while matches!(self.byte(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn skip_over(&mut self, mark: u8) {
        self.skip_blank();
        if self.byte(self.at) == Some(mark) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<&'a str> {
        self.skip_blank();
        let start = self.at;
        self.at = match self.byte(start)? {
            b'"' => self.string_end(start),
            b'{' | b'[' => self.container_end(start),
            _ => {
                let rest = self.text.as_bytes().get(start..)?;
                let length = rest
                    .iter()
                    .position(|b| matches!(b, b',' | b':' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'));
                start + length.unwrap_or(rest.len())
            }
        };
        self.text.get(start..self.at)
    }

    fn string_end(&self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = start + 1;
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            at += found;
            if bytes.get(at) == Some(&b'"') {
                return at + 1;
            }
            at += 2;
        }
        bytes.len()
    }

    fn container_end(&self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (start, 0usize);
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    at = self.string_end(at);
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return at + 1;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        bytes.len()
    }
}

/// Four hexadecimal digits as a UTF-16 unit.
pub(super) fn hex_unit(digits: &[u8]) -> Option<u16> {
    if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The text that the inside of a checked JSON string stands for.
pub(super) fn unescape(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        let unit = |at: usize| hex_unit(rest.get(at + 2..at + 6).unwrap_or_default()).unwrap_or(0xfffd);
        let used = match rest.get(at + 1).copied().unwrap_or_default() {
            b'u' => {
                let (high, mut used) = (unit(at), 6);
                let mut code = u32::from(high);
                if (0xd800..0xdc00).contains(&high) {
                    code = 0x10000
                        + ((code - 0xd800) << 10)
                        + (u32::from(unit(at + 6)).saturating_sub(0xdc00) & 0x3ff);
                    used = 12;
                }
                let mut utf8 = [0; 4];
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
                used
            }
            plain => {
                out.push(match plain {
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => other,
                });
                2
            }
        };
        rest = rest.get(at + used..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    String::from_utf8_lossy(&out).into_owned()
}

/// `text` as a JSON string, quotes included.
pub fn quote(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // U+2028 and U+2029 end lines in some readers of event streams and logs.
            c if c < ' ' || matches!(c, '\u{7f}' | '\u{2028}' | '\u{2029}') => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_objects_and_arrays_as_written() {
        let text = r#" { "a" : [1, "x]}\"", {"b":null} ] ,"c\u0064":-1.50e3, "e" : "A\ud83d\ude00\n" , "n":12345678901234567890123} "#;
        let value = Value::of_checked(text);
        let keys: Vec<_> = value.members().map(|m| m.key().into_owned()).collect();
        assert_eq!(keys, ["a", "cd", "e", "n"]);
        let elements: Vec<_> = value.get("a").unwrap().elements().map(Value::text).collect();
        assert_eq!(elements, ["1", r#""x]}\"""#, r#"{"b":null}"#]);
        assert_eq!(value.get("cd").unwrap().text(), "-1.50e3");
        assert_eq!(value.get("e").unwrap().as_str().unwrap(), "A😀\n");
        assert_eq!(value.get("n").unwrap().text(), "12345678901234567890123");
        let e = value.get("e").unwrap();
        assert_eq!(text.get(e.span_in(text)), Some(e.text()));
        assert!(Value::of_checked("{ }").members().next().is_none());
        assert!(Value::of_checked("[]").elements().next().is_none());
        assert!(Value::of_checked("7").members().next().is_none());
    }

    #[test]
    fn quoted_text_reads_back() {
        for text in ["", "a\"b\\c\n\r\t\u{1}\u{7f}", "é😀\u{2028}"] {
            let quoted = quote(text);
            assert_eq!(Value::of_checked(&quoted).as_str().unwrap(), text);
            assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
    }
}
