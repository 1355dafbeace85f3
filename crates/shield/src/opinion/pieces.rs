//! A message as one text, and that text in pieces that a service takes.

use std::ops::Range;

use super::Found;
use crate::{
    finding::{Category, Finding, Place, Severity},
    fragment::{Fragment, Kind},
    shield::seams::{Seams, Stretch},
};

/// UTF-16 code units of a piece. The services count characters, and count them differently; 10,000 is their limit.
const UNITS: usize = 9_000;
/// Code units that a piece shares with the one before it.
const OVERLAP: usize = 500;

/// The words of one message, owned, with where they stood.
#[derive(Clone, Debug)]
pub struct Text {
    kind: Kind,
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    /// Bytes of the text.
    range: Range<usize>,
    /// Where it begins in the fragment's text.
    offset: usize,
    at: String,
    raw: Option<Range<usize>>,
}

impl Text {
    /// The words of `fragments`, each on a line of its own; and what readers are shown of them once more where one ends and the
    /// next one begins, for words and phrases that are cut there.
    pub fn of(kind: Kind, fragments: &[Fragment<'_>]) -> Self {
        Self { kind, text: String::new(), parts: Vec::new() }.and(fragments)
    }

    /// With the words of `fragments`, another form of the same message.
    #[must_use]
    pub fn and(mut self, fragments: &[Fragment<'_>]) -> Self {
        let mut seams = Seams::default();
        for (index, fragment) in fragments.iter().enumerate() {
            seams.push(index, fragment);
            if fragment.text.chars().any(char::is_alphabetic) {
                self.add(&fragment.text, [(0..fragment.text.len(), 0, fragment)].into_iter());
            }
        }
        for Stretch { text, parts, .. } in seams.read_shown() {
            let of_part = |part: crate::Part| {
                Some((part.range, part.offset, part.fragment.and_then(|index| fragments.get(index))?))
            };
            self.add(&text, parts.into_iter().filter_map(of_part));
        }
        self
    }

    /// Adds `text` on a line of its own, of which each part came from a fragment.
    fn add<'f>(&mut self, text: &str, parts: impl Iterator<Item = (Range<usize>, usize, &'f Fragment<'f>)>) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let start = self.text.len();
        self.text.push_str(text);
        self.parts.extend(parts.map(|(range, offset, fragment)| Part {
            range: range.start + start..range.end + start,
            offset,
            at: fragment.at.to_string(),
            raw: fragment.raw.clone(),
        }));
    }

    /// Whose words they are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Overlapping pieces that cover it, in order.
    pub(super) fn pieces(&self) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        loop {
            let (mut units, mut end, mut next) = (0, start, start);
            for (at, c) in self.text.get(start..).unwrap_or_default().char_indices() {
                if units + c.len_utf16() > UNITS {
                    break;
                }
                if units <= UNITS - OVERLAP {
                    next = start + at;
                }
                units += c.len_utf16();
                end = start + at + c.len_utf8();
            }
            pieces.push(start..end);
            if end >= self.text.len() || next <= start {
                return pieces;
            }
            start = next;
        }
    }

    /// Where the bytes `piece` stood in the message.
    pub(super) fn places(&self, piece: &Range<usize>) -> Vec<Place> {
        let meets = |part: &&Part| part.range.start < piece.end && part.range.end > piece.start;
        let place = |part: &Part| Place {
            at: part.at.clone(),
            range: piece.start.max(part.range.start) - part.range.start + part.offset
                ..piece.end.min(part.range.end) - part.range.start + part.offset,
            raw: part.raw.clone(),
        };
        self.parts.iter().filter(meets).map(place).collect()
    }

    /// What the service `name` found in the bytes `piece`.
    pub(super) fn finding(&self, name: &str, piece: &Range<usize>, found: &Found) -> Finding {
        Finding {
            rule: format!("opinion.{name}").into(),
            title: found.words.into(),
            category: found.category,
            severity: found.severity,
            owasp: found.category.owasp().iter().map(|entry| (*entry).into()).collect(),
            kind: self.kind,
            places: self.places(piece),
            continued: false,
            readings: Vec::new(),
            excerpt: String::new(),
            score: None,
        }
    }

    /// That the service `name` gave no opinion: the text is withheld.
    pub fn unjudged(&self, name: &str) -> Finding {
        let found = Found {
            category: Category::Unjudged,
            severity: Severity::Critical,
            words: "a second opinion on it could not be had",
        };
        self.finding(name, &(0..self.text.len()), &found)
    }

    /// A finding on the same words, where they stand here: all of them, for it is not known which.
    pub(super) fn placed(&self, finding: &Finding) -> Finding {
        Finding { kind: self.kind, places: self.places(&(0..self.text.len())), ..finding.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(of: &str) -> Text {
        Text::of(Kind::Result, &[Fragment::new(Kind::Result, "/a", of)])
    }

    fn units(text: &Text, piece: &Range<usize>) -> usize {
        text.as_str().get(piece.clone()).unwrap().encode_utf16().count()
    }

    #[test]
    fn a_short_text_is_one_piece_and_a_long_one_overlaps() {
        assert_eq!(text("word").pieces(), std::slice::from_ref(&(0..4)));
        let long = text(&"x".repeat(20_000));
        assert_eq!(long.pieces(), [0..9_000, 8_500..17_500, 17_000..20_000]);
        // Two code units each.
        let wide = text(&format!("a{}", "😀".repeat(9_000)));
        assert!(wide.pieces().iter().all(|p| units(&wide, p) <= UNITS));
    }

    #[test]
    fn a_piece_leads_back_to_where_its_words_stood() {
        let mut second = Fragment::new(Kind::Result, "/b", "second");
        second.raw = Some(40..48);
        let text = Text::of(
            Kind::Result,
            &[Fragment::new(Kind::Result, "/a", "first"), Fragment::new(Kind::Result, "/n", "12"), second],
        );
        assert_eq!(text.as_str(), "first\nsecond");
        let places = text.places(&(3..9));
        assert_eq!(
            places.iter().map(|p| (p.at.as_str(), p.range.clone())).collect::<Vec<_>>(),
            [("/a", 3..5), ("/b", 0..3)]
        );
        assert_eq!(places[1].raw, Some(40..48));
    }

    proptest! {
        #[test]
        fn every_stretch_of_a_text_is_whole_in_some_piece(length in 0usize..30_000, at in 0usize..30_000) {
            let text = text(&"aé😀漢".chars().cycle().take(length).collect::<String>());
            let pieces = text.pieces();
            prop_assert!(pieces.iter().all(|p| units(&text, p) <= UNITS));
            let start = text.as_str().floor_char_boundary(at.min(text.len()));
            let end = text.as_str().floor_char_boundary((start + OVERLAP).min(text.len()));
            prop_assert!(pieces.iter().any(|p| p.start <= start && end <= p.end), "{start}..{end} {pieces:?}");
        }
    }
}
