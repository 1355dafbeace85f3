//! JSON as a tree that keeps every number as it was written.
//!
//! A reader of its own, because a hash must not depend on how some parser rounds, and must cover exactly what stands there:
//! duplicate keys, lone surrogates and nesting over [`DEPTH`] are refused rather than read in one of two ways
//! (attacks.md PO-07, PO-08).

use std::fmt::Write;

use super::visible::is_hidden;

/// How deep a definition may be nested.
const DEPTH: usize = 64;

/// A JSON value. Numbers are kept as text, members in the order of RFC 8785 §3.2.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Array(Vec<Self>),
    Boolean(bool),
    Null,
    Number(String),
    Object(Vec<(String, Self)>),
    Text(String),
}

/// Why a text is no definition. It never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nested too deep.
    #[error("it is nested deeper than {DEPTH}")]
    Depth,
    /// An object has a key twice.
    #[error("an object has the same key twice, before byte {0}")]
    Duplicate(usize),
    /// Not JSON (RFC 8259).
    #[error("it is not JSON at byte {0}")]
    Syntax(usize),
}

impl Node {
    /// Reads one JSON text.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut reader = Reader { text, at: 0 };
        reader.blank();
        let node = reader.value(0)?;
        reader.blank();
        if reader.at == text.len() { Ok(node) } else { Err(Fault::Syntax(reader.at)) }
    }

    /// The member called `name`.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The text of a string.
    pub fn as_text(&self) -> Option<&str> {
        let Self::Text(text) = self else { return None };
        Some(text)
    }

    /// The canonical form: no white space, members by the UTF-16 units of their keys, the shortest escapes (RFC 8785
    /// §3.2), numbers as written.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, None, &|_| false);
        out
    }

    /// The same for people: one member a line, and characters nobody can see as escapes. It reads back to the same tree.
    pub fn pretty(&self, indent: usize) -> String {
        let mut out = String::new();
        self.write(&mut out, Some(indent), &is_hidden);
        out
    }

    fn write(&self, out: &mut String, indent: Option<usize>, is_escaped: &dyn Fn(char) -> bool) {
        let line = |out: &mut String, indent: Option<usize>| {
            if let Some(indent) = indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
            }
        };
        let deeper = indent.map(|indent| indent + 2);
        match self {
            Self::Null => out.push_str("null"),
            Self::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(text) => out.push_str(text),
            Self::Text(text) => quote(out, text, is_escaped),
            Self::Array(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    line(out, deeper);
                    element.write(out, deeper, is_escaped);
                }
                if !elements.is_empty() {
                    line(out, indent);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (key, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    line(out, deeper);
                    quote(out, key, is_escaped);
                    out.push_str(if indent.is_some() { ": " } else { ":" });
                    value.write(out, deeper, is_escaped);
                }
                if !members.is_empty() {
                    line(out, indent);
                }
                out.push('}');
            }
        }
    }
}

/// A string with the escapes of RFC 8785 §3.2.2.2, and those of the characters that `is_escaped` names.
pub fn quote(out: &mut String, text: &str, is_escaped: &dyn Fn(char) -> bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' || is_escaped(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn wrong<T>(&self) -> Result<T, Fault> {
        Err(Fault::Syntax(self.at))
    }

    fn take(&mut self, literal: &str) -> bool {
        let found = self.text.get(self.at..).is_some_and(|rest| rest.starts_with(literal));
        if found {
            self.at += literal.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        match self.byte() {
            Some(b'{' | b'[') if depth >= DEPTH => Err(Fault::Depth),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => Ok(Node::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.take("true") => Ok(Node::Boolean(true)),
            _ if self.take("false") => Ok(Node::Boolean(false)),
            _ if self.take("null") => Ok(Node::Null),
            _ => self.wrong(),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node, Fault> {
        self.at += 1;
        self.blank();
        let mut elements = Vec::new();
        if self.take("]") {
            return Ok(Node::Array(elements));
        }
        loop {
            self.blank();
            elements.push(self.value(depth)?);
            self.blank();
            if self.take("]") {
                return Ok(Node::Array(elements));
            }
            if !self.take(",") {
                return self.wrong();
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node, Fault> {
        self.at += 1;
        self.blank();
        let mut members = Vec::new();
        if self.take("}") {
            return Ok(Node::Object(members));
        }
        loop {
            self.blank();
            if self.byte() != Some(b'"') {
                return self.wrong();
            }
            let key = self.string()?;
            self.blank();
            if !self.take(":") {
                return self.wrong();
            }
            self.blank();
            members.push((key, self.value(depth)?));
            self.blank();
            if self.take("}") {
                break;
            }
            if !self.take(",") {
                return self.wrong();
            }
        }
        members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        if members.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
            return Err(Fault::Duplicate(self.at));
        }
        Ok(Node::Object(members))
    }

    fn number(&mut self) -> Result<Node, Fault> {
        let start = self.at;
        let digits = |reader: &mut Self| {
            let from = reader.at;
            while matches!(reader.byte(), Some(b'0'..=b'9')) {
                reader.at += 1;
            }
            reader.at > from
        };
        self.take("-");
        if !self.take("0") && !digits(self) {
            return self.wrong();
        }
        if self.take(".") && !digits(self) {
            return self.wrong();
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !digits(self) {
                return self.wrong();
            }
        }
        Ok(Node::Number(self.text.get(start..self.at).unwrap_or_default().to_owned()))
    }

    fn string(&mut self) -> Result<String, Fault> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.byte(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            out.push_str(self.text.get(start..self.at).unwrap_or_default());
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                _ => return self.wrong(),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        self.at += 1;
        let c = match self.byte() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let mut code = self.unit()?;
                if (0xd800..0xdc00).contains(&code) {
                    if !self.take("\\u") {
                        return self.wrong();
                    }
                    let low = self.unit()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return self.wrong();
                    }
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                // A lone low surrogate is no character.
                return char::from_u32(code).ok_or(Fault::Syntax(self.at));
            }
            _ => return self.wrong(),
        };
        self.at += 1;
        Ok(c)
    }

    fn unit(&mut self) -> Result<u32, Fault> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        let mut code = 0;
        for digit in digits {
            let value = char::from(*digit).to_digit(16).ok_or(Fault::Syntax(self.at))?;
            code = code * 16 + value;
        }
        if digits.len() != 4 {
            return self.wrong();
        }
        self.at += 4;
        Ok(code)
    }
}
