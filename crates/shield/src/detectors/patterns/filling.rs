//! What stands between the words of a sentence on a page and is none of them: the signs that begin each line of a quotation, a
//! comment or a list, a hyphen where a word goes on, the addresses of links, the ends of lines of one word each.
//!
//! Attack: `> Ignore all` and `> previous instructions` on two lines, words that are links one by one, or a line for every word;
//! whoever reads any of it sees the sentence (attacks.md II-05). Harmless look-alikes: lists, mail that quotes mail, comments.

use std::{borrow::Cow, ops::Range};

use memchr::{memchr, memchr_iter, memmem};

use crate::normalize::{Offsets, Rewriter};

/// An address of a link is no longer than this, in bytes.
const ADDRESS: usize = 256;
/// Signs at the beginning of a line, with the blanks between them.
const SIGNS: usize = 12;

/// A line of one word has no more bytes.
const WORD: usize = 48;
/// Lines of one word each that follow one another and are a sentence.
const WORDS: usize = 4;
/// What stands before the first of such words and behind the last of them is looked at with them, in bytes.
const AROUND: usize = 512;

/// `text` without its filling.
pub(super) struct Bare {
    pub text: String,
    /// Into the text it was made from.
    pub offsets: Offsets,
    /// Where that had filling, in order.
    pub filled: Vec<Range<usize>>,
}

impl Bare {
    /// Whether there is filling in `range` of the text it was made from.
    pub fn fills(&self, range: &Range<usize>) -> bool {
        let next = self.filled.partition_point(|filling| filling.start < range.start);
        self.filled.get(next).is_some_and(|filling| filling.end <= range.end)
    }
}

/// `text` without its filling; none if there is none.
pub(super) fn without_filling(text: &str) -> Option<Bare> {
    let bytes = text.as_bytes();
    let mut filled: Vec<(Range<usize>, &str)> = memchr_iter(b'\n', bytes)
        .filter_map(|end| {
            let goes_on = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_lowercase);
            let line = bytes.get(end + 1..).unwrap_or_default();
            let next = end + 1 + signs(line);
            let blanks = line.iter().take(SIGNS).take_while(|b| matches!(b, b' ' | b'\t')).count();
            let word = next.max(end + 1 + blanks);
            let is_hyphen =
                end >= 2 && bytes.get(end - 1) == Some(&b'-') && goes_on(end - 2) && goes_on(word);
            if is_hyphen {
                return Some((end - 1..word, ""));
            }
            (next > end + 1).then_some((end..next, "\n"))
        })
        .collect();
    for at in memmem::find_iter(bytes, b"](") {
        let rest = bytes.get(at..bytes.len().min(at + ADDRESS)).unwrap_or_default();
        filled.extend(memchr(b')', rest).map(|length| (at..at + length + 1, "")));
        let label = bytes.get(at.saturating_sub(ADDRESS)..at).unwrap_or_default();
        filled.extend(
            memchr::memrchr(b'[', label).map(|from| at - label.len() + from).map(|at| (at..at + 1, "")),
        );
    }
    filled.sort_by_key(|(range, _)| range.start);
    filled.dedup_by(|next, last| next.0.start < last.0.end);
    let mut out = Rewriter::new(text);
    for (range, with) in &filled {
        out.replace(range.clone(), with);
    }
    match out.finish() {
        (Cow::Owned(text), offsets) => {
            Some(Bare { text, offsets, filled: filled.into_iter().map(|(range, _)| range).collect() })
        }
        (Cow::Borrowed(_), _) => None,
    }
}

/// `text` around words that have lines of their own, with these on one; none if there are no such. `is_apart` says of a gap between two
/// of them that two texts meet there.
pub(super) fn in_one_line(text: &str, is_apart: impl Fn(Range<usize>) -> bool) -> Option<Bare> {
    let bytes = text.as_bytes();
    let mut filled: Vec<Range<usize>> = Vec::new();
    // The gaps of this run, the words in it, and where the last of them ends.
    let (mut first, mut words, mut last) = (0, 0, 0);
    let mut start = 0;
    for end in memchr_iter(b'\n', bytes).chain([bytes.len()]) {
        let line = bytes.get(start..end).unwrap_or_default();
        let from = start;
        start = end + 1;
        let body = if line.len() > WORD + SIGNS { line } else { line.get(signs(line)..).unwrap_or(line) };
        let word = body.trim_ascii();
        if word.is_empty() {
            continue;
        }
        let at = from + line.len() - body.trim_ascii_start().len();
        let is_word = word.len() <= WORD && !word.iter().any(u8::is_ascii_whitespace);
        let goes_on = is_word && words > 0 && !is_apart(last..at);
        if goes_on {
            filled.push(last..at);
        } else {
            if words < WORDS {
                filled.truncate(first);
            }
            (first, words) = (filled.len(), 0);
        }
        words += usize::from(is_word);
        last = at + word.len();
    }
    if words < WORDS {
        filled.truncate(first);
    }
    let (first, last) = (filled.first()?.start, filled.last()?.end);
    let (from, until) = (first.saturating_sub(AROUND), last.saturating_add(AROUND).min(text.len()));
    let mut out = Rewriter::new(text);
    out.replace(0..text.floor_char_boundary(from), "");
    for gap in &filled {
        out.replace(gap.clone(), " ");
    }
    out.replace(text.ceil_char_boundary(until)..text.len(), "");
    let (text, offsets) = out.finish();
    Some(Bare { text: text.into_owned(), offsets, filled })
}

/// Bytes of signs that a line begins with, and the blanks around them.
fn signs(line: &[u8]) -> usize {
    let is_sign = |b: u8| matches!(b, b'>' | b'#' | b'*' | b'/' | b'|' | b'%' | b';' | b'-');
    let is_inside = |b: &&u8| is_sign(**b) || matches!(**b, b' ' | b'\t');
    let start = line.iter().take(SIGNS).take_while(is_inside).count();
    if line.get(..start).unwrap_or_default().iter().any(|b| is_sign(*b)) {
        return start;
    }
    // The number of an item.
    let digits =
        line.get(start..).unwrap_or_default().iter().take(3).take_while(|b| b.is_ascii_digit()).count();
    let is_item = digits > 0 && matches!(line.get(start + digits..), Some([b'.' | b')', b' ', ..]));
    if is_item { start + digits + 2 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_on_lines_of_their_own_are_a_sentence() {
        for (text, expected) in [
            ("one\ntwo\nthree\nfour", "one two three four"),
            ("A list:\none\n\n two \r\nthree\nfour\nand so on", "A list:\none two three four\nand so on"),
            ("> one\n> two\n>\n> three\n> four", "> one two three four"),
            ("- one\n- two\n- three\n- four, five", "- one\n- two\n- three\n- four, five"),
            ("one\ntwo\nthree", "one\ntwo\nthree"),
        ] {
            let flat = in_one_line(text, |_| false);
            assert_eq!(flat.as_ref().map_or(text, |flat| &flat.text), expected);
            if let Some(flat) = flat {
                let at = flat.text.find("two").unwrap();
                assert_eq!(
                    text.get(flat.offsets.source(at..at + 9)).map(|t| t.ends_with("three")),
                    Some(true)
                );
            }
        }
        let apart = |gap: Range<usize>| gap.contains(&7);
        assert!(in_one_line("one\ntwo\nthree\nfour\nfive", apart).is_none(), "two texts");
    }

    #[test]
    fn filling_is_taken_out_and_all_else_stays_where_it_was() {
        for (text, expected) in [
            ("> one\n> two\n>> three", "> one\ntwo\nthree"),
            ("// one\n// two", "// one\ntwo"),
            ("/* one\n * two */", "/* one\ntwo */"),
            ("- one\n- two", "- one\ntwo"),
            ("1. one\n2. two", "1. one\ntwo"),
            ("previ-\nous, in-\n  dent", "previous, indent"),
            ("previ-\n> ous", "previous"),
            ("see [one](https://a.example) and [two](b)", "see one and two"),
        ] {
            let bare = without_filling(text).unwrap();
            assert_eq!(bare.text, expected);
            let last = expected.split([' ', '\n']).next_back().unwrap();
            let at = bare.text.rfind(last).unwrap();
            let source = bare.offsets.source(at..at + last.len());
            assert_eq!(text.get(source).unwrap().chars().next(), last.chars().next());
        }
        for text in ["one\ntwo", "one\n  two", "a [b] (c)", "x -\ny", "2024. was\n2025. is", "10\n20"] {
            assert!(without_filling(text).is_none(), "{text}: {:?}", without_filling(text).unwrap().text);
        }
    }
}
