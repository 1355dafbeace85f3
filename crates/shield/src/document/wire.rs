//! What is said between a gate and the process that reads documents for it, over two pipes.
//!
//! Numbers are big-endian. A question is `BZQ1`, the length of the media type (one byte), the length of the document (four),
//! then both. An answer is `BZA1`, the length of what follows (four bytes), why something was not read (one byte, 0 for
//! nothing), the number of parts (two), and for each part why it is hidden (one byte), the lengths of its name (two) and its
//! text (four), and both. One answer follows each question.
//!
//! A reader may have been led astray by what it read, so [`answer`] believes nothing: every length is compared with what is
//! there and with the limits, names are made of few characters, texts are UTF-8, and nothing is left over.

use std::{
    io::{self, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{Hidden, Limits, Part, Unread, Words, read};

const QUESTION: &[u8; 4] = b"BZQ1";
const ANSWER: &[u8; 4] = b"BZA1";
/// Bytes before the two texts of a question.
const QUESTION_HEAD: usize = 9;
/// Bytes of an answer that say how long the rest is.
pub const ANSWER_HEAD: usize = 8;
/// Bytes of a part before its two texts.
const PART_HEAD: usize = 7;
/// Bytes of a document.
pub const DOCUMENT: usize = 16 << 20;
/// Bytes of a part's name.
const NAME: usize = 128;

/// The question about `document`, less the document itself, which follows it; a media type that is too long is as good as
/// none.
pub fn question(document: &[u8], media_type: &str) -> Option<Vec<u8>> {
    let length = u32::try_from(document.len()).ok().filter(|_| document.len() <= DOCUMENT)?;
    let (media_type, short) = match u8::try_from(media_type.len()) {
        Ok(short) => (media_type, short),
        Err(_) => ("", 0),
    };
    let mut head = Vec::with_capacity(QUESTION_HEAD + media_type.len());
    head.extend(QUESTION);
    head.push(short);
    head.extend(length.to_be_bytes());
    head.extend(media_type.as_bytes());
    Some(head)
}

/// How many bytes follow the `head` of an answer, if it is one.
pub fn answer_length(head: [u8; ANSWER_HEAD], limits: Limits) -> Option<usize> {
    let (mark, length) = head.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length.first_chunk()?)).ok()?;
    let most = 3 + limits.bytes + limits.parts * (PART_HEAD + NAME);
    (mark == ANSWER && length <= most).then_some(length)
}

/// The words in the rest of an answer; none if it is not one, or breaks a limit.
pub fn answer(rest: &[u8], limits: Limits) -> Option<Words> {
    let mut bytes = Bytes(rest);
    let unread = reason(bytes.byte()?, &Unread::ALL)?;
    let count = usize::from(u16::from_be_bytes(bytes.array()?));
    if count > limits.parts {
        return None;
    }
    let mut left = limits.bytes;
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let hidden = reason(bytes.byte()?, &Hidden::ALL)?;
        let name = usize::from(u16::from_be_bytes(bytes.array()?));
        let text = usize::try_from(u32::from_be_bytes(bytes.array()?)).ok()?;
        left = left.checked_sub(text)?;
        let name = std::str::from_utf8(bytes.take(name)?).ok().filter(|name| is_name(name))?;
        let text = std::str::from_utf8(bytes.take(text)?).ok()?;
        parts.push(Part { name: name.to_owned(), text: text.to_owned(), hidden });
    }
    bytes.0.is_empty().then_some(Words { parts, unread })
}

/// Answers every question of `input` on `output`, until there is no more. A reader that panics has failed on that document
/// only.
///
/// # Errors
/// What the pipes say, or that a question is none.
pub fn serve(mut input: impl Read, mut output: impl Write, limits: Limits) -> io::Result<()> {
    let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    loop {
        let mut head = [0; QUESTION_HEAD];
        match input.read(&mut head)? {
            0 => return Ok(()),
            some => input.read_exact(head.get_mut(some..).unwrap_or_default())?,
        }
        let mut bytes = Bytes(&head);
        let parsed = || -> Option<(bool, usize, usize)> {
            let is_question = bytes.array::<4>()? == *QUESTION;
            let media_type = usize::from(bytes.byte()?);
            Some((is_question, media_type, usize::try_from(u32::from_be_bytes(bytes.array()?)).ok()?))
        };
        let Some((true, media_type, length)) = { parsed }() else { return Err(bad("no question")) };
        if length > DOCUMENT {
            return Err(bad("a document that is too long"));
        }
        let mut text = vec![0; media_type];
        input.read_exact(&mut text)?;
        let mut document = vec![0; length];
        input.read_exact(&mut document)?;
        let media_type = String::from_utf8(text).unwrap_or_default();
        let words = catch_unwind(AssertUnwindSafe(|| read(&document, &media_type, limits)));
        output.write_all(&encoded(&words.unwrap_or_else(|_| Words::unread(Unread::Failed))))?;
        output.flush()?;
    }
}

fn encoded(words: &Words) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(ANSWER);
    out.extend([0; 4]);
    out.push(number(words.unread, &Unread::ALL));
    // There are no more than 256, and no text is longer than four gigabytes.
    let sixteen = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let thirty_two = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend(sixteen(words.parts.len()));
    for part in &words.parts {
        out.push(number(part.hidden, &Hidden::ALL));
        out.extend(sixteen(part.name.len()));
        out.extend(thirty_two(part.text.len()));
        out.extend(part.name.as_bytes());
        out.extend(part.text.as_bytes());
    }
    let length = thirty_two(out.len() - ANSWER_HEAD);
    if let Some(place) = out.get_mut(4..ANSWER_HEAD) {
        place.copy_from_slice(&length);
    }
    out
}

/// A reason's number: its place in `all`, from 1; 0 is none.
fn number<T: PartialEq>(reason: Option<T>, all: &[T]) -> u8 {
    let at = reason.and_then(|reason| all.iter().position(|one| *one == reason));
    at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
}

fn reason<T: Copy>(number: u8, all: &[T]) -> Option<Option<T>> {
    match usize::from(number).checked_sub(1) {
        None => Some(None),
        Some(at) => all.get(at).copied().map(Some),
    }
}

/// Whether `name` is one that [`read`] gives.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'/' | b'-');
    name.len() <= NAME && (name.is_empty() || name.starts_with('/')) && name.bytes().all(plain)
}

struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(questions: &[(&[u8], &str)]) -> Vec<u8> {
        let mut input = Vec::new();
        for (document, media_type) in questions {
            input.extend(question(document, media_type).unwrap());
            input.extend(*document);
        }
        let mut output = Vec::new();
        serve(input.as_slice(), &mut output, Limits::default()).unwrap();
        output
    }

    fn rest(output: &[u8]) -> (&[u8], &[u8]) {
        let (head, rest) = output.split_first_chunk().unwrap();
        rest.split_at(answer_length(*head, Limits::default()).unwrap())
    }

    #[test]
    fn questions_are_answered_in_order() {
        let mail = b"Subject: rain\n\nat noon".as_slice();
        let output = asked(&[(mail, "message/rfc822"), (b"", ""), (b"\0\xff", &"x".repeat(300))]);
        let (first, output) = rest(&output);
        assert_eq!(answer(first, Limits::default()), Some(read(mail, "message/rfc822", Limits::default())));
        let (second, output) = rest(output);
        assert_eq!(answer(second, Limits::default()), Some(Words::default()));
        let (third, output) = rest(output);
        assert_eq!(answer(third, Limits::default()), Some(Words::unread(Unread::Kind)));
        assert!(output.is_empty());
    }

    #[test]
    fn every_reason_has_its_number() {
        for unread in Unread::ALL {
            for hidden in Hidden::ALL {
                let part = Part { name: "/1/a-b".into(), text: "é".into(), hidden: Some(hidden) };
                let words = Words { parts: vec![part], unread: Some(unread) };
                assert_eq!(answer(&encoded(&words)[ANSWER_HEAD..], Limits::default()), Some(words));
            }
        }
    }

    #[test]
    fn an_answer_that_lies_is_none() {
        let part = |name: &str, text: &str| Part { name: name.into(), text: text.into(), hidden: None };
        let words = Words { parts: vec![part("/0", "words"), part("/1", "more")], unread: None };
        let whole = encoded(&words);
        let good = &whole[ANSWER_HEAD..];
        let small = |bytes, parts| Limits { bytes, parts, depth: 1 };
        assert_eq!(answer(good, small(9, 2)), Some(words));
        assert_eq!(answer(good, small(8, 2)), None, "more text than is allowed");
        assert_eq!(answer(good, small(9, 1)), None, "more parts than are allowed");
        for at in 0..good.len() {
            assert_eq!(answer(&good[..at], Limits::default()), None, "cut off at {at}");
            for byte in [0, 1, 0x80, 0xff] {
                let mut bent = good.to_vec();
                bent[at] = byte;
                // Whatever it says, it keeps to the limits.
                if let Some(words) = answer(&bent, Limits::default()) {
                    assert!(words.parts.len() <= 2 && words.parts.iter().all(|p| is_name(&p.name)));
                }
            }
        }
        let longer = [good, b"x"].concat();
        assert_eq!(answer(&longer, Limits::default()), None, "something is left over");
        for name in ["x", "/X", "/\u{1b}[2J", "/a b", &"/a".repeat(65)] {
            let words = Words { parts: vec![part(name, "t")], unread: None };
            assert_eq!(answer(&encoded(&words)[ANSWER_HEAD..], Limits::default()), None, "{name}");
        }
        assert_eq!(answer_length(*b"BZA1\x7f\xff\xff\xff", Limits::default()), None);
        assert_eq!(answer_length(*b"BZA2\0\0\0\x01", Limits::default()), None);
    }

    #[test]
    fn what_is_no_question_ends_the_service() {
        for input in [b"BZQ2\0\0\0\0\0".as_slice(), b"BZQ1\0\xff\0\0\0", b"BZQ1\0", b"BZQ1\0\0\0\0\x05abc"] {
            assert!(serve(input, Vec::new(), Limits::default()).is_err());
        }
        assert!(question(&vec![0; DOCUMENT + 1], "").is_none());
    }
}
