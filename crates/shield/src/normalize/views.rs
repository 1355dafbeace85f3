//! What else a text says: markup as shown, escapes and encodings as read.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::LazyLock,
};

use super::{
    Normalized, ciphers, encoded, escapes, markup, normalize,
    offsets::Offsets,
    tricks::{Trick, Tricks, Undone},
};

/// How far decoding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encodings inside one another.
    pub depth: usize,
    /// Views of one text, the plain one not counted.
    pub views: usize,
    /// Bytes of decoded text, all views together.
    pub bytes: usize,
}

impl Limits {
    /// Two encodings inside one another, 64 views, twice the text and 256 KiB.
    pub fn for_text(text: &str) -> Self {
        Self { depth: 2, views: 64, bytes: text.len().saturating_mul(2).saturating_add(256 * 1024) }
    }
}

/// By what a view was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reading {
    /// Base32.
    Base32,
    /// Base64, either alphabet.
    Base64,
    /// Backslash and percent escapes.
    Escapes,
    /// Compressed with gzip or zlib, inside another encoding.
    Gzip,
    /// Pairs of hexadecimal digits.
    Hex,
    /// Digits and signs that stand for letters.
    Leet,
    /// HTML and Markdown as they are shown, hidden parts included.
    Markup,
    /// Numbers of characters: decimal, or eight binary digits each.
    Numbers,
    /// Letters with marks on them, as letters.
    Plain,
    /// From right to left.
    Reversed,
    /// Every letter moved by 13.
    Rot13,
    /// Bytes carried by variation selectors.
    Selectors,
    /// A gap after every letter.
    Spaced,
}

/// One more way to read a text, in normal form.
#[derive(Clone, Debug)]
pub struct View {
    readings: Vec<Reading>,
    text: String,
    /// From the last pass to the first; the plain view's own passes come after them.
    passes: Vec<Offsets>,
}

impl View {
    /// The text, normalised.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What was decoded, outermost first.
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }
}

/// Something that may be a view.
pub(super) struct Candidate {
    pub reading: Reading,
    pub text: String,
    /// Into the text it was found in.
    pub offsets: Offsets,
    /// A reader would not see what it says.
    pub trick: Option<Trick>,
    /// Where, in the text it was found in; everywhere, if empty.
    pub at: Vec<Range<usize>>,
}

/// A text and all that it says.
#[derive(Clone, Debug)]
pub struct Views<'t> {
    plain: Normalized<'t>,
    others: Vec<View>,
    tricks: Tricks,
}

/// Finds the views of `text` within `limits`; what lies beyond them is [`Trick::TooMuchEncoded`].
pub fn views(text: &str, limits: Limits) -> Views<'_> {
    let plain = normalize(text);
    let mut search = Search {
        limits,
        spent: 0,
        seen: HashSet::new(),
        seen_at: HashSet::new(),
        found: Vec::new(),
        open: VecDeque::new(),
        tricks: plain.tricks().clone(),
    };
    let original = |range| plain.original(range);
    if plain.tricks().has(Trick::VariationSelectors) {
        // The plain view has lost the selectors, so these are looked for in the original.
        for candidate in encoded::selectors(text) {
            search.take(candidate, text, &[], &[], &|range| range);
        }
    }
    search.look_into(plain.text(), &[], &[], &original);
    while let Some(index) = search.open.pop_front() {
        let Some(view) = search.found.get(index).cloned() else { break };
        let original = |range| view.passes.iter().fold(range, |range, pass| pass.source(range));
        let from_original = view.readings.first() == Some(&Reading::Selectors);
        let original: &dyn Fn(Range<usize>) -> Range<usize> =
            if from_original { &original } else { &|range| plain.original(original(range)) };
        search.look_into(&view.text, &view.readings, &view.passes, original);
    }
    let Search { found, tricks, .. } = search;
    Views { plain, others: found, tricks }
}

struct Search {
    limits: Limits,
    spent: usize,
    seen: HashSet<u64>,
    /// The same with its place: what is said twice is found twice, so that all of it can be cut out.
    seen_at: HashSet<(u64, Range<usize>)>,
    found: Vec<View>,
    /// Indices into `found` that were not looked into.
    open: VecDeque<usize>,
    tricks: Tricks,
}

impl Search {
    fn look_into(
        &mut self,
        text: &str,
        readings: &[Reading],
        passes: &[Offsets],
        original: &dyn Fn(Range<usize>) -> Range<usize>,
    ) {
        let deepest = readings.len() >= self.limits.depth;
        let mut candidates = encoded::segments(text, self.limits.bytes);
        if !deepest {
            candidates.extend(markup::shown(text));
            candidates.extend(escapes::read(text));
            candidates.extend(escapes::quoted_printable(text));
            candidates.extend(ciphers::read(text));
        }
        for candidate in candidates {
            if deepest {
                // What was read elsewhere, fewer layers down, was judged there.
                if self.seen.contains(&said(&candidate.text)) {
                    continue;
                }
                let whole = candidate.offsets.source(0..candidate.text.len());
                self.tricks.note(Trick::TooMuchEncoded, original(whole));
                return;
            }
            self.take(candidate, text, readings, passes, original);
        }
    }

    /// `source` is what the candidate was found in.
    fn take(
        &mut self,
        candidate: Candidate,
        source: &str,
        readings: &[Reading],
        passes: &[Offsets],
        original: &dyn Fn(Range<usize>) -> Range<usize>,
    ) {
        let whole = || original(candidate.offsets.source(0..candidate.text.len()));
        let said = said(&candidate.text);
        if !self.seen_at.insert((said, whole())) {
            return;
        }
        self.seen.insert(said);
        self.spent = self.spent.saturating_add(candidate.text.len());
        if self.found.len() >= self.limits.views || self.spent > self.limits.bytes {
            self.tricks.note(Trick::TooMuchEncoded, whole());
            return;
        }
        if let Some(trick) = candidate.trick {
            if candidate.at.is_empty() {
                self.tricks.note(trick, whole());
            }
            for place in &candidate.at {
                self.tricks.note(trick, original(place.clone()));
            }
        }
        let normal = normalize(&candidate.text);
        // What is left of an element that says something to programs, such as a shape of a diagram, pushes nothing out of sight.
        let pads = |place: &Range<usize>| {
            source.get(candidate.offsets.source(place.clone())).is_none_or(markup::only_pads)
        };
        let is_left_over = |undone: &&Undone| {
            undone.trick == Trick::BlankPadding
                && candidate.reading == Reading::Markup
                && !undone.places.iter().any(pads)
        };
        for undone in normal.tricks().as_slice().iter().filter(|undone| !is_left_over(undone)) {
            self.tricks.take_over(undone, |place| original(candidate.offsets.source(place)));
        }
        let mut all = normal.passes();
        let text = normal.text.into_owned();
        all.push(candidate.offsets);
        all.extend_from_slice(passes);
        let readings = readings.iter().copied().chain([candidate.reading]).collect();
        self.open.push_back(self.found.len());
        self.found.push(View { readings, text, passes: all });
    }
}

/// What two texts have in common that say the same, and no others: nobody can reckon it beforehand, or a text could pass for another
/// one.
fn said(text: &str) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(text)
}

impl Views<'_> {
    /// The text itself, in normal form.
    pub fn plain(&self) -> &Normalized<'_> {
        &self.plain
    }

    /// The further views.
    pub fn others(&self) -> &[View] {
        &self.others
    }

    /// The bytes of the original that made `range` of `view`.
    pub fn original(&self, view: &View, range: Range<usize>) -> Range<usize> {
        let range = view.passes.iter().fold(range, |range, pass| pass.source(range));
        if view.readings.first() == Some(&Reading::Selectors) { range } else { self.plain.original(range) }
    }

    /// What was undone, in all views.
    pub fn tricks(&self) -> &Tricks {
        &self.tricks
    }
}
