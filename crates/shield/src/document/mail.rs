//! A mail (RFC 5322) and its parts (RFC 2045 to 2047): subject, names, texts and attachments.

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{Reader, Unread, as_text};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes of header lines of one part.
const HEADERS: usize = 64 * 1024;

pub fn read(reader: &mut Reader, bytes: &[u8], name: &str, depth: usize) {
    part(reader, bytes, name, depth, true);
}

fn part(reader: &mut Reader, bytes: &[u8], name: &str, depth: usize, is_mail: bool) {
    if depth == 0 {
        return reader.unread(Unread::TooMuch);
    }
    let Some((headers, body)) = split(bytes) else { return reader.unread(Unread::TooMuch) };
    if is_mail {
        for header in ["subject", "from", "to", "reply-to"] {
            if let Some(value) = headers.get(header) {
                reader.text(&format!("{name}/{header}"), words(value).into());
            }
        }
    }
    let said = headers.get("content-type").unwrap_or("text/plain");
    let (media_type, parameters) = said.split_once(';').unwrap_or((said, ""));
    let media_type = media_type.trim().to_ascii_lowercase();
    if let Some(file) = parameter(headers.get("content-disposition").unwrap_or_default(), "filename") {
        reader.text(&format!("{name}/filename"), words(&file).into());
    }
    if media_type.starts_with("multipart/") {
        return match parameter(parameters, "boundary").filter(|b| !b.is_empty()) {
            Some(boundary) => {
                let inside = parts(body, boundary.as_bytes());
                if inside.is_empty() {
                    // Other readers may see parts all the same.
                    reader.unread(Unread::Damaged);
                    reader.read(body, "text/plain", name, depth - 1);
                }
                for (number, inner) in inside.into_iter().enumerate() {
                    if reader.left.parts == 0 {
                        return reader.unread(Unread::TooMuch);
                    }
                    part(reader, inner, &format!("{name}/{number}"), depth - 1, false);
                }
            }
            None => reader.unread(Unread::Damaged),
        };
    }
    let coding = headers.get("content-transfer-encoding").unwrap_or_default().trim().to_ascii_lowercase();
    let decoded = match coding.as_str() {
        "base64" => {
            let text: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            match BASE64.decode(text) {
                Ok(decoded) => decoded,
                Err(_) => return reader.unread(Unread::Damaged),
            }
        }
        "quoted-printable" => quoted_printable(body, false),
        _ => body.to_vec(),
    };
    reader.read(&decoded, said, name, depth - 1);
}

/// Header lines by name, unfolded.
struct Headers(Vec<(String, String)>);

impl Headers {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Header lines and body; none if the header lines have no end within the limit.
fn split(bytes: &[u8]) -> Option<(Headers, &[u8])> {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Some((Headers(headers), rest));
        }
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned();
        at += end;
        if at > HEADERS {
            return None;
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Some((Headers(headers), bytes.get(at..).unwrap_or_default()));
        }
        match (line.starts_with([' ', '\t']), headers.last_mut(), line.split_once(':')) {
            (true, Some((_, value)), _) => value.push_str(line),
            (_, _, Some((name, value))) => {
                headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            // It is no header, so everything was body from the start.
            _ => return Some((Headers(headers), bytes.get(at - end..).unwrap_or_default())),
        }
    }
}

/// A parameter of a header's value, quotes taken off (RFC 2045 §5.1).
pub(super) fn parameter(value: &str, name: &str) -> Option<String> {
    let (mut is_quoted, mut before) = (false, ' ');
    let ends = |c: char| {
        is_quoted ^= c == '"' && before != '\\';
        before = if before == '\\' { ' ' } else { c };
        c == ';' && !is_quoted
    };
    value.split(ends).find_map(|parameter| {
        let (key, text) = parameter.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case(name);
        let text = text.trim();
        is_it.then(|| match text.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => text.to_owned(),
        })
    })
}

/// What stands between quotes, of which the first was taken off: a backslash goes before a character that stands for itself.
fn unquoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next().filter(|c| *c != '"') {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// What stands between lines of `boundary` (RFC 2046 §5.1).
fn parts<'b>(body: &'b [u8], boundary: &[u8]) -> Vec<&'b [u8]> {
    let mut parts = Vec::new();
    let (mut at, mut start) = (0, None);
    while at < body.len() {
        let rest = body.get(at..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = rest.get(..end).unwrap_or_default().trim_ascii_end();
        if let Some(mark) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary))
            && (mark.is_empty() || mark == b"--")
        {
            if let Some(start) = start {
                parts.push(body.get(start..at).unwrap_or_default());
            }
            start = mark.is_empty().then_some(at + end);
        }
        at += end;
    }
    // A mail that was cut off is read as far as it goes.
    if let Some(start) = start {
        parts.push(body.get(start..).unwrap_or_default());
    }
    parts
}

fn quoted_printable(body: &[u8], is_word: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    while let Some(byte) = body.get(at) {
        let digits = body.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (byte, digits.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'=', Some(decoded)) => {
                out.push(decoded);
                at += 3;
            }
            (b'=', None) => {
                // A soft line end, or a sign that means itself.
                let rest = body.get(at + 1..).unwrap_or_default();
                let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r')).count();
                if rest.get(blanks) == Some(&b'\n') {
                    at += blanks + 2;
                } else {
                    out.push(b'=');
                    at += 1;
                }
            }
            (b'_', _) if is_word => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// A header's value with its encoded words read (RFC 2047).
fn words(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(start) = rest.find("=?") {
        let (before, word) = rest.split_at_checked(start).unwrap_or((rest, ""));
        let pieces: Vec<&str> = word.get(2..).unwrap_or_default().splitn(4, '?').collect();
        let decoded = match pieces.as_slice() {
            [_, coding, text, behind] if behind.starts_with('=') => {
                let bytes = match *coding {
                    "B" | "b" => BASE64.decode(text).ok(),
                    "Q" | "q" => Some(quoted_printable(text.as_bytes(), true)),
                    _ => None,
                };
                bytes.map(|bytes| (bytes, behind.get(1..).unwrap_or_default()))
            }
            _ => None,
        };
        match decoded {
            Some((bytes, behind)) => {
                // Blanks between two encoded words are none.
                if !before.trim().is_empty() || out.is_empty() {
                    out.push_str(before);
                }
                out.push_str(&as_text(&bytes));
                rest = behind;
            }
            None => {
                out.push_str(before);
                out.push_str("=?");
                rest = word.get(2..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}
