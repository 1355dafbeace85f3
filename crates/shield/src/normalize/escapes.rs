//! Backslash and percent escapes, and those of mail, read in place.

use memchr::{memchr_iter, memchr2, memchr2_iter};

use super::{
    offsets::Rewriter,
    views::{Candidate, Reading},
};

/// The text with `\uXXXX`, `\u{X…}`, `\xXX`, `\OOO` and `%XX` as the characters they stand for; nothing if there are none.
pub(super) fn read(text: &str) -> Option<Candidate> {
    let bytes = text.as_bytes();
    let escape_like = |at: usize| match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'%'), Some(b)) => b.is_ascii_hexdigit(),
        (Some(b'\\'), Some(b)) => matches!(b, b'u' | b'x' | b'U' | b'"' | b'n' | b'0'..=b'3'),
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
    candidate(out, read)
}

/// What a run of `%XX` says, and its length; one that has no character of UTF-8 counts as one of its own.
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
    let is_text = decoded.utf8_chunks().any(|chunk| !chunk.valid().is_empty());
    Some((decoded.len() * 3, is_text.then(|| said(&decoded))))
}

/// Escaped bytes as text: UTF-8, and what is none as one byte a character, for one such byte takes no reader's eye off the others.
fn said(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| char::from(*byte)));
    }
    text
}

fn backslash(rest: &str) -> Option<(usize, Option<String>)> {
    let bytes = rest.as_bytes();
    match bytes.get(1)? {
        b'n' => Some((2, Some("\n".to_owned()))),
        b'"' => Some((2, Some("\"".to_owned()))),
        // A backslash that is itself escaped hides what follows from one reader and not from the next.
        b'\\' => Some((1, None)),
        // Three octal digits, as C has them; what they say in plain ASCII, for colours and paths are written so too. What else stands
        // before such a one only parts it from the others.
        b'0'..=b'3' => {
            let byte = octal(rest)?;
            let is_plain = |byte: u8| matches!(byte, b' '..=b'~');
            let parts = || byte >= 0x80 && rest.get(4..).and_then(octal).is_some_and(is_plain);
            (is_plain(byte) || parts()).then(|| (4, Some(char::from(byte).into())))
        }
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

/// The byte that a backslash and three octal digits at the start of `rest` stand for.
fn octal(rest: &str) -> Option<u8> {
    let digits = rest.strip_prefix('\\')?.get(..3)?;
    u8::from_str_radix(digits, 8).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The text as mail that is quoted-printable says it (RFC 2045 §6.7): `=XX` as bytes, and without the line ends behind a `=`; nothing
/// if too little shows that it is that.
pub(super) fn quoted_printable(text: &str) -> Option<Candidate> {
    let bytes = text.as_bytes();
    let pair = |at: usize| match bytes.get(at + 1..at + 3) {
        Some([high, low]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
        _ => None,
    };
    // A line that goes on: a word behind its end, or one blank and a word, for code that goes on is indented by more. Blanks before
    // the end were added on the way.
    let soft = |at: usize, is_mail: bool| {
        let rest = bytes.get(at + 1..)?;
        let blanks = rest.iter().take(PADDING).take_while(|b| matches!(b, b' ' | b'\t')).count();
        let length = match rest.get(blanks..) {
            Some([b'\n', ..]) => blanks + 2,
            Some([b'\r', b'\n', ..]) => blanks + 3,
            _ => return None,
        };
        let before = at.checked_sub(1).and_then(|at| bytes.get(at)).copied().unwrap_or(b'=');
        let is_word = |at: usize| {
            bytes.get(at).is_some_and(|b| {
                b.is_ascii_alphanumeric() || *b >= 0x80 || *b == b'=' || is_mail && b.is_ascii_graphic()
            })
        };
        let next = at + length;
        let goes_on = is_word(next) || bytes.get(next) == Some(&b' ') && is_word(next + 1);
        (goes_on && before != b'=').then_some(length)
    };
    let letters = memchr_iter(b'=', bytes)
        .filter(|at| pair(*at).is_some_and(|b| b.is_ascii_alphabetic()) && bytes.get(at + 3) == Some(&b'='));
    let is_it = memchr_iter(b'=', bytes).any(|at| soft(at, false).is_some())
        || letters.take(LETTERS).count() == LETTERS;
    if !is_it {
        return None;
    }
    let mut out = Rewriter::new(text);
    let (mut done, mut read) = (0, 0_usize);
    for start in memchr_iter(b'=', bytes) {
        if start < done {
            continue;
        }
        if let Some(length) = soft(start, true) {
            out.replace(start..start + length, "");
            (done, read) = (start + length, read + 1);
            continue;
        }
        let run: Vec<u8> = (0..)
            .map_while(|nth| pair(start + nth * 3).filter(|_| bytes.get(start + nth * 3) == Some(&b'=')))
            .collect();
        if !run.is_empty() {
            out.replace(start..start + run.len() * 3, &said(&run));
            read += 1;
        }
        done = start + (run.len() * 3).max(1);
    }
    candidate(out, read)
}

/// The text in which `read` escapes were read; nothing if none was.
fn candidate(out: Rewriter<'_>, read: usize) -> Option<Candidate> {
    let (text, offsets) = out.finish();
    (read > 0).then(|| Candidate {
        reading: Reading::Escapes,
        text: text.into_owned(),
        offsets,
        trick: None,
        at: Vec::new(),
    })
}

/// Blanks behind a `=` that may stand before its line end.
const PADDING: usize = 8;

/// So many letters are written as `=XX` only by those who hide them.
const LETTERS: usize = 6;

fn number(digits: &str) -> Option<u32> {
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}
