//! Ciphers a model reads at sight: ROT13, right to left, leet, marks on letters, a gap after every letter.
//!
//! Any text can be read in these ways, so each needs a sign first: two different words that instructions to a model
//! are made of, or a run of single letters.

use std::{ops::Range, sync::LazyLock};

use aho_corasick::{AhoCorasick, packed};
use unicode_normalization::UnicodeNormalization;

use super::{
    offsets::{Offsets, Rewriter},
    tricks::Trick,
    views::{Candidate, Reading},
};
use crate::bytes::{STRETCH, first};

/// Words that show a reading to be the right one.
const SIGNS: &[&str] = &[
    "access",
    "agent",
    "assistant",
    "before",
    "content",
    "conversation",
    "credential",
    "delete",
    "disregard",
    "execute",
    "forget",
    "ignore",
    "important",
    "instruction",
    "mention",
    "message",
    "override",
    "password",
    "please",
    "previous",
    "prompt",
    "restrict",
    "reveal",
    "secret",
    "system",
    "the user",
    "transfer",
    "without",
];

/// How much text around the signs is read, in bytes.
const AROUND: usize = 1_000;

/// The readings that have their sign.
pub(super) fn read(text: &str) -> Vec<Candidate> {
    let mut found = Vec::new();
    let (mut rotated, mut reversed) = (Hits::default(), Hits::default());
    if may_be_ciphered(text) {
        for hit in CIPHERED.find_iter(text) {
            let word = hit.pattern().as_usize();
            if word < SIGNS.len() {
                rotated.note(word, hit.range())
            } else {
                reversed.note(word, hit.range())
            }
        }
    }
    if let Some(range) = rotated.around(text) {
        let plain: String = text.get(range.clone()).unwrap_or_default().chars().map(rot13).collect();
        found.push(candidate(Reading::Rot13, plain, range));
    }
    if let Some(range) = reversed.around(text) {
        let plain: String = text.get(range.clone()).unwrap_or_default().chars().rev().collect();
        found.push(candidate(Reading::Reversed, plain, range));
    }
    found.extend(leet(text));
    found.extend(unmarked(text));
    found.extend(spaced(text));
    found
}

fn candidate(reading: Reading, text: String, range: Range<usize>) -> Candidate {
    let offsets = Offsets::whole(text.len(), range);
    let trick = match reading {
        Reading::Plain => None,
        Reading::Spaced => Some(Trick::SpacedLetters),
        _ => Some(Trick::Encoded),
    };
    Candidate { reading, text, offsets, trick, at: Vec::new() }
}

/// Whether any sign stands in `text` in a cipher. Nearly every text is done with this, many bytes at a step; an automaton takes
/// one at a time.
fn may_be_ciphered(text: &str) -> bool {
    let Some(searcher) = &*QUICK else { return true };
    searcher.find(text.to_ascii_lowercase()).is_some()
}

/// [`SIGNS`] in ROT13, then from right to left.
fn ciphered() -> impl Iterator<Item = String> {
    let rotated = SIGNS.iter().map(|word| word.chars().map(rot13).collect());
    rotated.chain(SIGNS.iter().map(|word| word.chars().rev().collect()))
}

/// For lower case; none on a machine without the instructions for it.
static QUICK: LazyLock<Option<packed::Searcher>> = LazyLock::new(|| packed::Searcher::new(ciphered()));

#[expect(clippy::expect_used, reason = "the words are constants")]
static CIPHERED: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        // Their first and rare letters are common ones.
        .prefilter(false)
        .build(ciphered())
        .expect("some short words make an automaton")
});

#[expect(clippy::expect_used, reason = "the words are constants")]
static PLAIN: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(SIGNS)
        .expect("some short words make an automaton")
});

#[derive(Default)]
struct Hits {
    words: u32,
    range: Option<Range<usize>>,
}

impl Hits {
    fn note(&mut self, word: usize, at: Range<usize>) {
        self.words |= 1 << (word % SIGNS.len());
        self.range = Some(self.range.take().map_or(at.clone(), |range| range.start..at.end));
    }

    /// The text around the hits, if two different words were seen.
    fn around(&self, text: &str) -> Option<Range<usize>> {
        if self.words.count_ones() < 2 {
            return None;
        }
        let range = self.range.clone()?;
        let start = text.floor_char_boundary(range.start.saturating_sub(AROUND));
        let end = text.ceil_char_boundary((range.end + AROUND).min(text.len()));
        Some(start..end)
    }
}

fn rot13(c: char) -> char {
    let turned = |base: u8, c: char| u8::try_from(c).map_or(c, |b| char::from(base + (b - base + 13) % 26));
    match c {
        'a'..='z' => turned(b'a', c),
        'A'..='Z' => turned(b'A', c),
        _ => c,
    }
}

/// Whether two different words stand in `text` that instructions to a model are made of.
pub(super) fn has_signs(text: &str) -> bool {
    let mut hits = Hits::default();
    PLAIN.find_iter(text).for_each(|hit| hits.note(hit.pattern().as_usize(), hit.range()));
    hits.words.count_ones() >= 2
}

/// Words with digits between their letters, read as letters, if that gives two of the signs that were not there.
fn leet(text: &str) -> Option<Candidate> {
    let bytes = text.as_bytes();
    let is_figure = |b: u8| b.is_ascii_digit() | (b == b'!') | (b == b'$') | (b == b'@');
    let mut from = 0;
    let figures = std::iter::from_fn(|| {
        let at = from + first(bytes.get(from..)?, is_figure)?;
        from = at + 1;
        Some(at)
    });
    let is_letter = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphabetic);
    let odd = figures.filter(|&at| {
        bytes.get(at).is_some_and(|b| leet_letter(*b).is_some())
            && is_letter(at.checked_sub(1))
            && bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric)
    });
    if odd.take(3).count() < 3 {
        return None;
    }
    let mut out = Rewriter::new(text);
    let mut start = 0;
    for word in bytes.split(|b| b.is_ascii_whitespace()) {
        // A word of digits alone is a number.
        if word.iter().any(u8::is_ascii_alphabetic) && word.len() <= 24 {
            for (at, letter) in
                word.iter().enumerate().filter_map(|(i, b)| Some((start + i, leet_letter(*b)?)))
            {
                out.replace(at..at + 1, letter);
            }
        }
        start += word.len() + 1;
    }
    let (read, _) = out.finish();
    // Every replacement is one byte for one byte, so the ranges agree.
    let range = newly_read(text, &read, false).around(&read)?;
    Some(candidate(Reading::Leet, read.get(range.clone())?.to_owned(), range))
}

/// The signs that `read` has more often than `text` has. That a text has a word anyway does not keep it from being a sign in
/// another place. If they must be `whole` words, part of a longer one is none.
fn newly_read(text: &str, read: &str, whole: bool) -> Hits {
    let mut counts = [0_i64; SIGNS.len()];
    let is_letter = |text: &str, at: Option<usize>| {
        at.and_then(|at| text.as_bytes().get(at)).is_some_and(|b| b.is_ascii_alphanumeric() || *b >= 0x80)
    };
    let is_sign = |text: &str, at: &Range<usize>| {
        let plural = usize::from(text.as_bytes().get(at.end) == Some(&b's'));
        !whole || !is_letter(text, at.start.checked_sub(1)) && !is_letter(text, Some(at.end + plural))
    };
    for hit in PLAIN.find_iter(read).filter(|hit| is_sign(read, &hit.range())) {
        counts.get_mut(hit.pattern().as_usize()).into_iter().for_each(|count| *count += 1);
    }
    for hit in PLAIN.find_iter(text).filter(|hit| is_sign(text, &hit.range())) {
        counts.get_mut(hit.pattern().as_usize()).into_iter().for_each(|count| *count -= 1);
    }
    let mut hits = Hits::default();
    for hit in PLAIN.find_iter(read).filter(|hit| is_sign(read, &hit.range())) {
        let word = hit.pattern().as_usize();
        if counts.get(word).is_some_and(|more| *more > 0) {
            hits.note(word, hit.range());
        }
    }
    hits
}

/// Latin letters without the marks on them, if that gives two of the signs that were not there: `ìgnóré`. Words of other languages
/// that become English ones are few.
fn unmarked(text: &str) -> Option<Candidate> {
    // Of these letters none begins with another byte.
    let is_lead = |b: u8| matches!(b, 0xc3..=0xc9 | 0xe1);
    let mut from = 0;
    let marked = std::iter::from_fn(|| {
        let at = from + first(text.as_bytes().get(from..)?, is_lead)?;
        let c = text.get(at..)?.chars().next()?;
        from = at + c.len_utf8();
        Some(bare(c).is_some())
    });
    if marked.filter(|is_marked| *is_marked).take(3).count() < 3 {
        return None;
    }
    let mut out = Rewriter::new(text);
    for (at, c) in text.char_indices().filter(|(_, c)| !c.is_ascii()) {
        if let Some(letter) = bare(c) {
            out.replace(at..at + c.len_utf8(), letter.encode_utf8(&mut [0; 4]));
        }
    }
    let (read, offsets) = out.finish();
    newly_read(text, &read, true).around(&read)?;
    Some(Candidate { reading: Reading::Plain, text: read.into_owned(), offsets, trick: None, at: Vec::new() })
}

/// The ASCII letter under the marks of `c`.
fn bare(c: char) -> Option<char> {
    if !matches!(c, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}') {
        return None;
    }
    match c {
        'Ø' => Some('O'),
        'ø' => Some('o'),
        'Ł' => Some('L'),
        'ł' => Some('l'),
        'Đ' => Some('D'),
        'đ' => Some('d'),
        'Ħ' => Some('H'),
        'ħ' => Some('h'),
        'Ŧ' => Some('T'),
        'ŧ' => Some('t'),
        'Ɨ' => Some('I'),
        'Ǥ' => Some('G'),
        'ǥ' => Some('g'),
        _ => c.nfd().next().filter(char::is_ascii_alphabetic),
    }
}

fn leet_letter(byte: u8) -> Option<&'static str> {
    Some(match byte {
        b'0' => "o",
        b'1' | b'!' => "i",
        b'3' => "e",
        b'4' | b'@' => "a",
        b'5' | b'$' => "s",
        b'7' => "t",
        _ => return None,
    })
}

/// Runs of eight or more single letters with the same separator between them; two separators are a word's end.
fn spaced(text: &str) -> Vec<Candidate> {
    let bytes = text.as_bytes();
    let at_letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphabetic);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = lone_letter(bytes, at).filter(|at| at + 15 <= bytes.len()) {
        at = start;
        let separator = bytes.get(at + 1).copied().unwrap_or(0);
        // Between blanks anything may stand alone: a comma, a figure.
        let alone = |at: usize| {
            let byte = bytes.get(at).copied().unwrap_or(0);
            let next = bytes.get(at + 1).copied().unwrap_or(b' ');
            let counts = byte.is_ascii_alphanumeric() || separator == b' ' && byte.is_ascii_graphic();
            counts && (next == separator || next.is_ascii_whitespace())
        };
        let (mut end, mut letters, mut read) = (at, 0, String::new());
        while alone(end) {
            read.push(char::from(bytes.get(end).copied().unwrap_or(b' ')));
            letters += usize::from(at_letter(end));
            end += 1;
            let gap =
                bytes.get(end..).unwrap_or_default().iter().take(8).take_while(|b| **b == separator).count();
            let other = bytes.get(end + gap).is_some_and(|b| *b == b' ' && separator != b' ');
            if gap > 1 || other {
                read.push(' ');
            }
            let next = end + gap + usize::from(other);
            if !alone(next) {
                break;
            }
            end = next;
        }
        if letters >= 8 {
            found.push(candidate(Reading::Spaced, read.trim_end().to_owned(), at..end));
        }
        at = end.max(at + 1);
    }
    found
}

#[inline]
const fn is_gap(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b' ' | b'*'..=b'/' | b'_' | b'|')
}

/// The next letter from `from` on that has no letter before it and a gap behind it.
fn lone_letter(bytes: &[u8], from: usize) -> Option<usize> {
    let is_it = |before: u8, letter: u8, gap: u8| {
        !before.is_ascii_alphabetic() & letter.is_ascii_alphabetic() & is_gap(gap)
    };
    let first = (bytes.get(from).copied().unwrap_or(0), bytes.get(from + 1).copied().unwrap_or(0));
    if from == 0 && is_it(0, first.0, first.1) {
        return Some(0);
    }
    let mut start = from.max(1);
    while let (Some(before), Some(letters), Some(gaps)) =
        (bytes.get(start - 1..), bytes.get(start..), bytes.get(start + 1..).filter(|gaps| !gaps.is_empty()))
    {
        let triples = || before.iter().zip(letters).zip(gaps).take(STRETCH);
        // Without a way out in the middle, this is done many bytes at a step.
        let any = triples().fold(false, |any, ((before, letter), gap)| any | is_it(*before, *letter, *gap));
        if any {
            let at = triples().position(|((before, letter), gap)| is_it(*before, *letter, *gap))?;
            return Some(start + at);
        }
        start += STRETCH;
    }
    None
}
