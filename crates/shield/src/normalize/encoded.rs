//! Runs of Base64, Base32 and hexadecimal digits, and of numbers of characters, that hold text.

mod numbers;

use std::{borrow::Cow, io::Read, ops::Range};

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    offsets::Offsets,
    tricks::Trick,
    views::{Candidate, Reading},
};

/// Shorter runs hold too little to be an instruction and are too often something else.
const BASE64: usize = 24;
/// Hexadecimal digits.
const HEX: usize = 32;
/// Bytes that can be read, in a row, of what cannot be read as a whole. By chance there are no so many.
const WORDS: usize = 40;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD_LENIENT: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const URL_LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// From so many runs on they are read together: what there are many of are names more often than texts, and of no number of decoys
/// is one text the last.
const TOGETHER: usize = 8;
/// Between two that are read together. It ends a run, whatever is encoded once more.
const APART: &str = "\n\n";

/// Every run in `text` that decodes to readable text, until there is more than `limit` bytes of it.
pub(super) fn segments(text: &str, limit: usize) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut total = 0;
    let numbered = numbers::runs(text).into_iter().map(|(range, said)| (range, Some(said)));
    for (range, said) in runs(text).into_iter().map(|range| (range, None)).chain(numbered) {
        let run = text.get(range.clone()).unwrap_or_default();
        let decoded = match said {
            Some(said) => Some((Reading::Numbers, said, Some(Trick::Encoded))),
            None => decoded(run, limit),
        };
        let Some((reading, said, trick)) = decoded else { continue };
        total += said.len();
        found.push((reading, said, range, trick));
        if total > limit {
            // More than the caller takes, who says so.
            break;
        }
    }
    found.sort_by_key(|(reading, _, range, _)| (*reading, range.start));
    let mut candidates = Vec::new();
    for same in found.chunk_by(|a, b| a.0 == b.0) {
        if same.len() < TOGETHER {
            candidates.extend(same.iter().map(|(reading, said, range, trick)| Candidate {
                reading: *reading,
                text: said.clone(),
                offsets: Offsets::whole(said.len(), range.clone()),
                trick: *trick,
                at: Vec::new(),
            }));
            continue;
        }
        let pieces = same.iter().map(|(_, said, range, _)| (said.len() + APART.len(), range.clone()));
        candidates.extend(same.first().map(|(reading, ..)| Candidate {
            reading: *reading,
            text: same.iter().flat_map(|(_, said, ..)| [said.as_str(), APART]).collect(),
            offsets: Offsets::pieces(pieces),
            trick: same.iter().filter_map(|(.., trick)| *trick).max(),
            at: Vec::new(),
        }));
    }
    candidates
}

/// What a run of digits says, in which encoding, and whether saying it so is a trick.
fn decoded(run: &str, limit: usize) -> Option<(Reading, String, Option<Trick>)> {
    let (reading, bytes) = if let Some(bytes) = hexadecimal(run) {
        (Reading::Hex, bytes)
    } else if let Some(bytes) = base64(run, limit) {
        (Reading::Base64, bytes)
    } else {
        (Reading::Base32, base32(run)?)
    };
    if let Some((text, is_cut)) = inflate(&bytes, limit / 2) {
        return Some((Reading::Gzip, text, Some(if is_cut { Trick::Packed } else { Trick::Encoded })));
    }
    if let Some(text) = readable(&bytes) {
        return Some((reading, text, Some(Trick::Encoded)));
    }
    if reading == Reading::Base64
        && let Some(bytes) = base32(run)
        && let Some(text) = readable(&bytes)
    {
        return Some((Reading::Base32, text, Some(Trick::Encoded)));
    }
    // Pictures say of themselves what made them.
    Some((reading, words(&bytes)?, None))
}

/// Runs of the characters of either encoding, which may be broken into lines or (hexadecimal) pairs.
fn runs(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    // A run covers one of every BASE64 bytes.
    while let Some(&b) = bytes.get(at + BASE64 - 1) {
        let probe = at + BASE64 - 1;
        if !is_digit(b) {
            at = probe + 1;
            continue;
        }
        let floor = at;
        let back =
            bytes.get(floor..probe).unwrap_or_default().iter().rev().take_while(|b| is_digit(**b)).count();
        let start = probe - back;
        let mut end = probe;
        let mut gap = 0;
        for (ahead, &b) in bytes.get(probe..).unwrap_or_default().iter().enumerate() {
            if is_digit(b) {
                end = probe + ahead + 1;
                gap = 0;
            } else if b == b'\r' && gap == 0 || b == b'\n' && gap < 2 && probe + ahead - start >= 48 {
                // Lines of a wrapped encoding (RFC 2045 §6.8 has 76 characters); an empty line ends it.
                gap = if b == b'\r' { 1 } else { 2 };
            } else {
                break;
            }
        }
        if end - start >= BASE64 {
            found.push(start..end);
        }
        at = end.max(probe + 1);
    }
    found.extend(spaced_pairs(text));
    found
}

fn is_digit(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_' | b'=')
}

/// `69 67 6e 6f …`: sixteen pairs or more with a blank, colon or comma between them.
fn spaced_pairs(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let is_pair = |at: usize| matches!(bytes.get(at..at + 2), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    // A pair between two separators of one kind begins at one of any three bytes of a run.
    let is_inside = |at: usize| {
        let separator = bytes.get(at).copied().unwrap_or(0);
        matches!(separator, b' ' | b':' | b',') && is_pair(at + 1) && bytes.get(at + 3) == Some(&separator)
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at + 24 <= bytes.len() {
        let Some(inside) = (at + 18..at + 21).find(|at| is_inside(*at)) else {
            at += 18;
            continue;
        };
        let separator = bytes.get(inside).copied().unwrap_or(0);
        let mut start = inside + 1;
        while start >= at + 3 && bytes.get(start - 1) == Some(&separator) && is_pair(start - 3) {
            start -= 3;
        }
        let mut end = inside;
        while bytes.get(end) == Some(&separator) && is_pair(end + 1) {
            end += 3;
        }
        if end - start >= 3 * HEX / 2 - 1 {
            found.push(start..end);
        }
        at = end;
    }
    found
}

fn hexadecimal(run: &str) -> Option<Vec<u8>> {
    let run = run.strip_prefix("0x").unwrap_or(run);
    let is_between = |b: &u8| matches!(b, b' ' | b':' | b',' | b'\n' | b'\r');
    // Nearly every run ends here.
    if !run.bytes().all(|b| b.is_ascii_hexdigit() || is_between(&b)) {
        return None;
    }
    let digits: Vec<u8> = run.bytes().filter(|b| !is_between(b)).collect();
    if digits.len() < HEX || !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn base64(run: &str, limit: usize) -> Option<Vec<u8>> {
    let is_break = |b: &u8| matches!(b, b'\n' | b'\r');
    let digits: Cow<'_, [u8]> = if run.bytes().any(|b| is_break(&b)) {
        run.bytes().filter(|b| !is_break(b)).collect()
    } else {
        run.as_bytes().into()
    };
    let engine =
        if digits.iter().any(|b| matches!(b, b'-' | b'_')) { &URL_LENIENT } else { &STANDARD_LENIENT };
    // Text around a run may look like digits (`data=…`, a word behind the padding): the longest part counts.
    let digits = digits.split(|b| *b == b'=').max_by_key(|part| part.len())?;
    if digits.len() < BASE64 {
        return None;
    }
    // One digit too many holds no byte.
    let usable = |digits: &'_ [u8]| digits.len() - usize::from(digits.len() % 4 == 1);
    let whole = digits.get(..digits.len().min(limit / 3 * 4 + 4))?;
    engine.decode(whole.get(..usable(whole))?).ok()
}

/// Digits of Base32 (RFC 4648 §6), as bytes.
fn base32(run: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(run.len() * 5 / 8);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for digit in run.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'2'..=b'7' => digit - b'2' + 26,
            b'\r' | b'\n' => continue,
            _ => return None,
        };
        held = held << 5 & 0xfff | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// What can be read of bytes that are no text as a whole: whoever decodes it by eye finds it behind whatever noise.
fn words(bytes: &[u8]) -> Option<String> {
    let is_plain = |b: &&u8| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    let mut found = String::new();
    let mut at = 0;
    // A long row covers one of every WORDS bytes, so most bytes are never looked at.
    while let Some(probe) = bytes.get(at + WORDS - 1) {
        if !is_plain(&probe) {
            at += WORDS;
            continue;
        }
        let back =
            bytes.get(at..at + WORDS - 1).unwrap_or_default().iter().rev().take_while(is_plain).count();
        let start = at + WORDS - 1 - back;
        let length = bytes.get(start..).unwrap_or_default().iter().take_while(is_plain).count();
        if length >= WORDS {
            found.extend(bytes.get(start..start + length).unwrap_or_default().iter().map(|b| char::from(*b)));
            found.push_str(APART);
        }
        at = start + length;
    }
    (!found.is_empty()).then_some(found)
}

/// The decoded bytes as text, if that is what they are.
fn readable(bytes: &[u8]) -> Option<String> {
    readable_start(bytes)?;
    // UTF-16 is what PowerShell's -EncodedCommand has; of anything else at least the beginning is readable.
    Some(utf16(bytes).unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned()))
}

/// Whether `bytes`, possibly cut off, begin as text: nearly all printable, most of it letters, digits and blanks.
fn readable_start(bytes: &[u8]) -> Option<()> {
    if utf16(bytes).is_some() {
        return Some(());
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // A character cut in two by the sample's end is no fault.
        Err(e) if e.error_len().is_none() || e.valid_up_to() >= 48 => {
            std::str::from_utf8(bytes.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let characters = text.chars().count();
    let odd = text.chars().filter(|c| c.is_control() && !c.is_whitespace()).count();
    let letters = text.chars().filter(|c| c.is_alphanumeric() || *c == ' ').count();
    (characters >= 8 && odd * 20 <= characters && letters * 5 >= characters * 3).then_some(())
}

/// UTF-16 of mostly ASCII, in either order.
fn utf16(bytes: &[u8]) -> Option<String> {
    let pairs = bytes.chunks_exact(2);
    let is_zero = |of: fn(&[u8]) -> Option<&u8>| pairs.clone().all(|pair| of(pair) == Some(&0));
    if pairs.len() < 12 {
        return None;
    }
    let letter: fn(&[u8]) -> Option<&u8> = match (is_zero(<[u8]>::last), is_zero(<[u8]>::first)) {
        (true, false) => <[u8]>::first,
        (false, true) => <[u8]>::last,
        _ => return None,
    };
    let text: String = pairs.filter_map(|pair| letter(pair).map(|b| char::from(*b))).collect();
    text.is_ascii().then_some(text)
}

/// Whether this may be gzip (RFC 1952 §2.3.1) or zlib (RFC 1950 §2.2).
fn is_compressed(bytes: &[u8]) -> bool {
    match bytes {
        [0x1f, 0x8b, ..] => true,
        [method, flags, ..] => {
            method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31)
        }
        _ => false,
    }
}

/// What a compressed body says in its first `limit` bytes, and whether it has more of them (a small body can hold gigabytes).
fn inflate(bytes: &[u8], limit: usize) -> Option<(String, bool)> {
    if !is_compressed(bytes) {
        return None;
    }
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut out = Vec::new();
    let read = if bytes.first() == Some(&0x1f) {
        // Of several bodies in a row every reader shows all.
        flate2::read::MultiGzDecoder::new(bytes).take(most).read_to_end(&mut out)
    } else {
        flate2::read::ZlibDecoder::new(bytes).take(most).read_to_end(&mut out)
    };
    // What came before a fault was still said.
    let _ = read;
    let is_cut = out.len() > limit;
    out.truncate(limit);
    match readable(&out).or_else(|| words(&out)) {
        // Something stands for what nobody read.
        None if is_cut => Some((" ".to_owned(), true)),
        said => said.map(|said| (said, is_cut)),
    }
}

/// Bytes that variation selectors carry: U+FE00 … U+FE0F are 0 to 15, U+E0100 … U+E01EF are 16 to 255.
pub(super) fn selectors(text: &str) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut bytes = Vec::new();
    let mut run = 0..0;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let byte = match c {
            '\u{fe00}'..='\u{fe0f}' => u8::try_from(u32::from(c) - 0xfe00).ok(),
            '\u{e0100}'..='\u{e01ef}' => u8::try_from(u32::from(c) - 0xe_0100 + 16).ok(),
            _ => None,
        };
        if let Some(byte) = byte {
            if bytes.is_empty() {
                run.start = at;
            }
            run.end = at + c.len_utf8();
            bytes.push(byte);
        } else if !bytes.is_empty() {
            if bytes.len() >= 8
                && let Some(text) = readable(&bytes)
            {
                let offsets = Offsets::whole(text.len(), run.clone());
                let trick = Some(Trick::VariationSelectors);
                found.push(Candidate { reading: Reading::Selectors, text, offsets, trick, at: Vec::new() });
            }
            bytes.clear();
        }
    }
    found
}
