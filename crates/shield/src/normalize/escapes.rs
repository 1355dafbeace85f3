//! Backslash and percent escapes, read in place.

use memchr::{memchr2, memchr2_iter};

use super::{
    offsets::Rewriter,
    views::{Candidate, Reading},
};

/// The text with `\uXXXX`, `\u{X…}`, `\xXX` and `%XX` as the characters they stand for; nothing if there are none.
pub(super) fn read(text: &str) -> Option<Candidate> {
    let bytes = text.as_bytes();
    let escape_like = |at: usize| match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'%'), Some(b)) => b.is_ascii_hexdigit(),
        (Some(b'\\'), Some(b)) => matches!(b, b'u' | b'x' | b'U' | b'"' | b'n'),
        _ => false,
    };
    if !memchr2_iter(b'%', b'\\', bytes).any(escape_like) {
        return None;
    }
    let mut out = Rewriter::new(text);
    let (mut at, mut read, mut plus_from) = (0, 0_usize, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'%', b'\\', rest)) {
        let start = at + found;
        let (length, decoded) = if bytes.get(start) == Some(&b'%') {
            percent(bytes.get(start..).unwrap_or_default())
        } else {
            backslash(text.get(start..).unwrap_or_default())
        }
        .unwrap_or((1, None));
        if let Some(decoded) = decoded {
            // In a form-encoded word a plus is a blank (URL standard §5.1).
            if bytes.get(start) == Some(&b'%') {
                let word = bytes.get(plus_from..start).unwrap_or_default();
                let from =
                    word.iter().rposition(u8::is_ascii_whitespace).map_or(plus_from, |p| plus_from + p + 1);
                for plus in (from..start).filter(|&p| bytes.get(p) == Some(&b'+')) {
                    out.replace(plus..plus + 1, " ");
                }
            }
            out.replace(start..start + length, &decoded);
            read += 1;
            plus_from = start + length;
        }
        at = start + length;
    }
    let (text, offsets) = out.finish();
    (read > 0).then(|| Candidate { reading: Reading::Escapes, text: text.into_owned(), offsets, trick: None })
}

/// A run of `%XX` that together are UTF-8, and its length; a run that is not counts as one character of its own.
fn percent(rest: &[u8]) -> Option<(usize, Option<String>)> {
    let mut decoded = Vec::new();
    for triple in rest.chunks_exact(3) {
        let [b'%', high, low] = triple else { break };
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { break };
        decoded.push(high << 4 | low);
    }
    if decoded.is_empty() {
        return None;
    }
    let length = decoded.len() * 3;
    Some((length, String::from_utf8(decoded).ok()))
}

fn backslash(rest: &str) -> Option<(usize, Option<String>)> {
    let bytes = rest.as_bytes();
    match bytes.get(1)? {
        b'n' => Some((2, Some("\n".to_owned()))),
        b'"' => Some((2, Some("\"".to_owned()))),
        // A backslash that is itself escaped hides what follows from one reader and not from the next.
        b'\\' => Some((1, None)),
        b'x' => Some((4, Some(char::from(u8::try_from(number(rest.get(2..4)?)?).ok()?).into()))),
        b'u' if bytes.get(2) == Some(&b'{') => {
            let end = bytes.iter().take(10).position(|&b| b == b'}')?;
            Some((end + 1, Some(char::from_u32(number(rest.get(3..end)?)?)?.into())))
        }
        b'U' => Some((10, Some(char::from_u32(number(rest.get(2..10)?)?)?.into()))),
        b'u' => {
            let first = number(rest.get(2..6)?)?;
            if let Some(c) = char::from_u32(first) {
                return Some((6, Some(c.into())));
            }
            // RFC 8259 §7: two escapes for one character outside the basic plane.
            let second = number(rest.get(6..)?.strip_prefix("\\u")?.get(..4)?)?;
            let joined =
                char::decode_utf16([u16::try_from(first).ok()?, u16::try_from(second).ok()?]).next()?;
            Some((12, Some(joined.ok()?.into())))
        }
        _ => None,
    }
}

fn number(digits: &str) -> Option<u32> {
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}
