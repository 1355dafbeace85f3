//! What was done to a text to hide what it says.

use std::ops::Range;

/// A way of hiding text that normalising undid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trick {
    /// Escape sequences of terminals (attacks.md PO-11).
    Ansi,
    /// Embeddings, overrides and isolates of text direction (Trojan Source, CVE-2021-42574).
    Bidi,
    /// More than 200 blanks or 40 blank lines in a row, which push text out of sight.
    BlankPadding,
    /// Control characters, carriage returns that overwrite a line, and non-characters.
    Control,
    /// Text in an encoding (Base64, hexadecimal, percent or backslash escapes, ROT13 …) that reads as text.
    Encoded,
    /// Text inside HTML that is not shown: comments, `display:none`, zero size.
    HiddenMarkup,
    /// An invisible character inside a word of ASCII letters.
    InvisibleInWord,
    /// A word of Latin letters and look-alikes from another script (UTS #39).
    MixedScript,
    /// A compressed text that holds more than is unpacked of it.
    Packed,
    /// Three or more private-use characters in a row, whose meaning is whatever a reader agreed on.
    PrivateUse,
    /// Words written with a gap after every letter.
    SpacedLetters,
    /// Combining marks that belong to no letter of any language, stacked.
    StackedMarks,
    /// Tag characters (U+E0000 …) outside an emoji flag.
    Tags,
    /// More encodings inside one another, or more decoded text, than is looked into.
    TooMuchEncoded,
    /// Variation selectors in a row, which can carry bytes.
    VariationSelectors,
}

/// One kind of trick in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// What was undone.
    pub trick: Trick,
    /// How often.
    pub count: usize,
    /// Where, in bytes of the original, as they were noted: the first [`PLACES`]; the last of these reaches over all further ones.
    pub places: Vec<Range<usize>>,
}

/// Places of one kind of trick in a text.
const PLACES: usize = 1024;

impl Undone {
    /// The first occurrence.
    pub fn first(&self) -> Range<usize> {
        self.places.first().cloned().unwrap_or_default()
    }

    /// Whether any of it is within `range`.
    pub fn touches(&self, range: &Range<usize>) -> bool {
        self.places.iter().any(|place| place.start < range.end && place.end > range.start)
    }
}

/// The tricks of one text, one entry a kind: bounded whatever the text holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tricks(Vec<Undone>);

impl Tricks {
    /// Notes one occurrence.
    pub fn note(&mut self, trick: Trick, at: Range<usize>) {
        let Some(known) = self.0.iter_mut().find(|known| known.trick == trick) else {
            self.0.push(Undone { trick, count: 1, places: vec![at] });
            return;
        };
        known.count += 1;
        let is_full = known.places.len() >= PLACES;
        match known.places.last_mut() {
            // What goes on without a gap is one place.
            Some(last) if last.end == at.start => last.end = at.end,
            Some(last) if is_full => *last = last.start.min(at.start)..last.end.max(at.end),
            _ => known.places.push(at),
        }
    }

    /// Notes what was `undone` in a text of which `original` leads to this one.
    pub(super) fn take_over(&mut self, undone: &Undone, original: impl Fn(Range<usize>) -> Range<usize>) {
        for place in &undone.places {
            self.note(undone.trick, original(place.clone()));
        }
        if let Some(known) = self.0.iter_mut().find(|known| known.trick == undone.trick) {
            known.count += undone.count.saturating_sub(undone.places.len());
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Undone] {
        &self.0
    }

    /// Whether `trick` was seen.
    pub fn has(&self, trick: Trick) -> bool {
        self.0.iter().any(|known| known.trick == trick)
    }
}
