//! One form for every text, before any detector looks.
//!
//! Hiding a text from a scanner while a model still reads it is the cheapest attack on one (attacks.md II-05, II-13),
//! and undoing it the largest measured gain. [`normalize`] undoes what is done to single characters; [`views`] adds
//! what is said in markup, escapes and encodings. Both are for looking only: what is forwarded stays as it came.
//! Findings lead back to bytes of the original, and [`Tricks`] keeps what was undone, which in a tool's definition
//! is a finding of its own.

mod blanks;
mod characters;
mod ciphers;
mod compose;
mod confusables;
mod encoded;
mod escapes;
mod markup;
mod offsets;
mod tricks;
mod views;

use std::{borrow::Cow, ops::Range};

pub use offsets::{Offsets, Rewriter};
pub use tricks::{Trick, Tricks, Undone};
pub use views::{Limits, Reading, View, Views, views};

/// A text in normal form.
///
/// Without invisible characters, terminal escapes and padding, in NFKC, with look-alike letters as ASCII. Normalising
/// it again changes nothing.
#[derive(Clone, Debug)]
pub struct Normalized<'t> {
    text: Cow<'t, str>,
    /// From the last pass of the first round to its first.
    passes: [Offsets; 4],
    /// The same of the rounds after it.
    again: Vec<[Offsets; 4]>,
    tricks: Tricks,
}

/// Whether `c` shows, by itself.
pub(crate) fn is_seen(c: char) -> bool {
    characters::class(c) == characters::Class::Visible
}

/// Rounds that are made again at most: what one pass leaves can be another's business, and seldom more than once.
const ROUNDS: usize = 4;

/// Brings `text` to normal form in one pass over it, two more if it is not plain ASCII, and all of them again for as long
/// as they change something. Plain text is not copied.
pub fn normalize(text: &str) -> Normalized<'_> {
    let mut tricks = Tricks::default();
    let (text, passes) = round(text, &|range| range, &mut tricks);
    let mut normalized = Normalized { text, passes, again: Vec::new(), tricks };
    while normalized.again.len() < ROUNDS && matches!(normalized.text, Cow::Owned(_)) {
        let mut tricks = std::mem::take(&mut normalized.tricks);
        let (next, passes) = round(&normalized.text, &|range| normalized.original(range), &mut tricks);
        let changed = match next {
            Cow::Owned(changed) => Some(changed),
            Cow::Borrowed(_) => None,
        };
        normalized.tricks = tricks;
        let Some(changed) = changed else { break };
        normalized.text = Cow::Owned(changed);
        normalized.again.push(passes);
    }
    normalized
}

/// One round of passes; `earlier` leads from `text` to what the user sent.
fn round<'t>(
    text: &'t str,
    earlier: &dyn Fn(Range<usize>) -> Range<usize>,
    tricks: &mut Tricks,
) -> (Cow<'t, str>, [Offsets; 4]) {
    let (text, first) = characters::unhide(text, tricks);
    let foreign = !text.is_ascii();
    let (text, second) = when(foreign, text, |t| compose::compose(t, |r| earlier(first.source(r)), tricks));
    let original = |range| earlier(first.source(second.source(range)));
    let (text, third) = when(true, text, |t| blanks::shorten(t, original, tricks));
    let original = |range| earlier(first.source(second.source(third.source(range))));
    let (text, fourth) = when(foreign, text, |t| confusables::fold(t, original, tricks));
    (text, [fourth, third, second, first])
}

impl<'t> Normalized<'t> {
    /// The text in normal form.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes of the original that made `range` of [`text`](Self::text).
    pub fn original(&self, range: Range<usize>) -> Range<usize> {
        let rounds = self.again.iter().rev().chain([&self.passes]);
        rounds.flatten().fold(range, |range, pass| pass.source(range))
    }

    /// The passes of all rounds, from the last one to the first.
    fn passes(&self) -> Vec<Offsets> {
        self.again.iter().rev().chain([&self.passes]).flatten().cloned().collect()
    }

    /// What was undone.
    pub fn tricks(&self) -> &Tricks {
        &self.tricks
    }
}

/// One pass after another, borrowing for as long as nothing changes.
fn when<'t>(
    needed: bool,
    text: Cow<'t, str>,
    pass: impl FnOnce(&str) -> (Cow<'_, str>, Offsets),
) -> (Cow<'t, str>, Offsets) {
    if !needed {
        return (text, Offsets::default());
    }
    let (next, offsets) = match &text {
        Cow::Borrowed(text) => return pass(text),
        Cow::Owned(text) => pass(text),
    };
    match next {
        Cow::Owned(changed) => (Cow::Owned(changed), offsets),
        Cow::Borrowed(_) => (text, offsets),
    }
}

#[cfg(test)]
pub(crate) mod disguise;
#[cfg(test)]
mod tests;
