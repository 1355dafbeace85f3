//! Where one value of a message ends and the next one begins.
//!
//! Attack: a word or a phrase cut between two values that are read one behind the other: blocks of a result, resources, events
//! of a log, arguments that a server joins (attacks.md II-13). Caught: `Ignore all prev` and `ious instructions` in two blocks.
//! Harmless look-alikes: lists of words, columns of a table, the keywords of a schema.
//!
//! A message says more than its readers see: between two blocks stand the names of members, types, addresses, and whatever
//! else a server likes to put there. So its values are read once more without all that, each with the one behind it: on
//! lines of their own, where something stood between them, and without a gap, where a word can be cut. Only short stretches
//! on either side of each seam are read, and a finding counts only if it runs over one.

use std::ops::Range;

use crate::{
    finding::{Category, Finding},
    fragment::{Fragment, Role},
    normalize::is_seen,
    passage::Part,
};

/// Bytes on either side of a seam that are read over it.
const SEAM: usize = 160;
/// Bytes that are gathered before they are judged.
const FULL: usize = 128 * 1024;

/// What readers are shown of a message: values that stand in these members, numbers and wrappings left out, follow one another
/// whatever else is said between them. Those of one group are read together.
const SHOWN: [&[&[&str]]; 4] = [
    &[&["content", "text"], &["contents", "text"], &["messages", "content", "text"]],
    &[&["data"]],
    &[&["message"]],
    &[&["statusMessage"], &["task", "statusMessage"]],
];
/// Members that only hold others.
const WRAPPINGS: [&str; 4] = ["error", "params", "resource", "result"];

/// Members whose values are words of a protocol, and these words.
const TERMS: [&str; 6] = ["audience", "format", "level", "role", "status", "type"];
#[rustfmt::skip]
const WORDS: [&str; 34] = [
    "alert", "array", "assistant", "audio", "boolean", "cancelled", "completed", "critical", "date", "date-time", "debug",
    "email", "emergency", "error", "failed", "image", "info", "input_required", "integer", "notice", "null", "number",
    "object", "resource", "resource_link", "string", "system", "text", "tool_result", "tool_use", "uri", "user", "warning",
    "working",
];

/// The ends of values that follow one another, and what was not judged of them yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seams {
    /// All values that are words.
    all: Row,
    /// Those that readers are shown, by group.
    shown: [Row; SHOWN.len()],
    /// Values so far.
    count: u64,
    /// Whether anything stands between the last value and the next one.
    is_apart: bool,
}

impl Seams {
    /// Adds the next string of a message, the one of number `index` in it.
    pub(crate) fn push(&mut self, index: usize, fragment: &Fragment<'_>) {
        if fragment.text.is_empty() {
            return;
        }
        if !is_words(fragment) {
            self.is_apart = true;
            return;
        }
        self.count += 1;
        let (number, is_apart) = (self.count, std::mem::take(&mut self.is_apart));
        let mut is_known = false;
        if let Some(row) = group(&fragment.at).and_then(|group| self.shown.get_mut(group)) {
            // A seam of what readers are shown is not judged twice.
            is_known = row.last.is_some() && row.last == self.all.last;
            row.push(number, index, fragment, true, true);
        }
        self.all.push(number, index, fragment, is_apart, !is_known);
    }

    /// Whether it is time to judge.
    pub(crate) fn is_full(&self) -> bool {
        self.all.text.len() >= FULL
    }

    /// The stretches around all seams that were not read yet.
    pub(crate) fn read(&self) -> impl Iterator<Item = Stretch> {
        self.read_shown().chain(self.all.read())
    }

    /// The same, of what readers are shown alone.
    pub(crate) fn read_shown(&self) -> impl Iterator<Item = Stretch> {
        let shown = self.shown.iter().flat_map(Row::read);
        shown.map(|stretch| Stretch { is_shown: true, ..stretch })
    }

    /// Keeps what the next seam needs: of each row the last bytes.
    pub(crate) fn carry(&mut self) {
        self.all.carry();
        self.shown.iter_mut().for_each(Row::carry);
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all.text.len() + self.shown.iter().map(|row| row.text.len()).sum::<usize>()
    }

    /// The message is over: its fragments have no numbers any more. Where one ends with a credential, which was `found`, the next
    /// message does not go on with it.
    pub(crate) fn end_message(&mut self, fragments: &[Fragment<'_>], found: &[Finding]) {
        let is_private =
            |finding: &&Finding| matches!(finding.category, Category::Secret | Category::PersonalData);
        let private: Vec<_> = found.iter().filter(is_private).flat_map(|finding| &finding.places).collect();
        for row in std::iter::once(&mut self.all).chain(&mut self.shown) {
            let last = row.pieces.last().and_then(|piece| fragments.get(piece.fragment?));
            let is_end = |fragment: &Fragment<'_>| {
                private.iter().any(|place| {
                    let is_there = place.raw == fragment.raw && place.at == fragment.at;
                    is_there && place.range.end >= fragment.text.trim_end().len()
                })
            };
            if last.is_some_and(is_end) {
                *row = Row::default();
            }
            row.pieces.iter_mut().for_each(|piece| piece.fragment = None);
        }
    }
}

/// Text around seams, to be judged as one.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    /// The text.
    pub text: String,
    /// Where its parts came from.
    pub parts: Vec<Part>,
    /// Where the seams are, as ranges of nothing.
    pub seams: Vec<Range<usize>>,
    /// Whether it is what readers are shown, one behind the other.
    pub is_shown: bool,
}

/// Values one behind the other; of a long one the two ends.
#[derive(Clone, Debug, Default)]
struct Row {
    text: String,
    pieces: Vec<Piece>,
    /// The number of the last value.
    last: Option<u64>,
}

/// A value, or an end of one.
#[derive(Clone, Debug)]
struct Piece {
    /// Bytes of the row's text.
    range: Range<usize>,
    role: Role,
    /// Which fragment of the message; none if it came in an earlier one.
    fragment: Option<usize>,
    /// Where it begins in the fragment's text.
    offset: usize,
    /// What is between it and the piece before.
    joint: Joint,
}

#[derive(Clone, Copy, Debug)]
enum Joint {
    /// The rest of the same value.
    Gap,
    /// The seam of two values.
    Seam {
        /// A word can be cut here.
        in_word: bool,
        /// Something stands here that readers do not see.
        is_apart: bool,
        /// It was not judged before.
        is_new: bool,
    },
}

impl Row {
    fn push(&mut self, number: u64, index: usize, fragment: &Fragment<'_>, is_apart: bool, is_new: bool) {
        let text = fragment.text.as_ref();
        let in_word = ends(&self.text).1 && ends(text).0;
        // Nothing is before the first one.
        let is_new = is_new && self.last.is_some();
        self.last = Some(number);
        let (head, tail) =
            (text.floor_char_boundary(SEAM), text.ceil_char_boundary(text.len().saturating_sub(SEAM)));
        let seam = Joint::Seam { in_word, is_apart, is_new };
        if tail <= head {
            self.add(text, index, fragment.role, 0, seam);
        } else {
            self.add(text.get(..head).unwrap_or_default(), index, fragment.role, 0, seam);
            self.add(text.get(tail..).unwrap_or_default(), index, fragment.role, tail, Joint::Gap);
        }
    }

    fn add(&mut self, text: &str, index: usize, role: Role, offset: usize, joint: Joint) {
        let start = self.text.len();
        self.text.push_str(text);
        let range = start..self.text.len();
        self.pieces.push(Piece { range, role, fragment: Some(index), offset, joint });
    }

    /// What was not read yet, with gaps and without.
    fn read(&self) -> impl Iterator<Item = Stretch> {
        [self.joined(false), self.joined(true)].into_iter().flatten()
    }

    /// The stretches around its seams: those in words, where `glues`, without a gap, or those with something between them.
    fn joined(&self, glues: bool) -> Option<Stretch> {
        let is_wanted = |piece: &Piece| match piece.joint {
            Joint::Gap => false,
            Joint::Seam { in_word, is_apart, is_new } => is_new && if glues { in_word } else { is_apart },
        };
        if !self.pieces.iter().skip(1).any(is_wanted) {
            return None;
        }
        let mut whole = Stretch::default();
        for (nth, piece) in self.pieces.iter().enumerate() {
            if nth > 0 {
                whole.text.push_str(match piece.joint {
                    Joint::Gap => "\n\n",
                    Joint::Seam { in_word: true, .. } if glues => "",
                    Joint::Seam { .. } => "\n",
                });
                if is_wanted(piece) {
                    whole.seams.push(whole.text.len()..whole.text.len());
                }
            }
            let start = whole.text.len();
            whole.text.push_str(self.text.get(piece.range.clone()).unwrap_or_default());
            let Piece { role, fragment, offset, .. } = *piece;
            whole.parts.push(Part { range: start..whole.text.len(), role, fragment, offset });
        }
        Some(whole.near())
    }

    fn carry(&mut self) {
        let cut = self.text.ceil_char_boundary(self.text.len().saturating_sub(SEAM));
        self.text.drain(..cut);
        self.pieces.retain(|piece| piece.range.end > cut);
        for piece in &mut self.pieces {
            piece.offset += cut.saturating_sub(piece.range.start);
            piece.range = piece.range.start.saturating_sub(cut)..piece.range.end - cut;
            if let Joint::Seam { is_new, .. } = &mut piece.joint {
                *is_new = false;
            }
        }
    }
}

impl Stretch {
    /// Without what is far from every seam.
    fn near(self) -> Self {
        let mut kept: Vec<Range<usize>> = Vec::new();
        for seam in &self.seams {
            let start = self.text.ceil_char_boundary(seam.start.saturating_sub(SEAM));
            let end = self.text.floor_char_boundary(self.text.len().min(seam.end + SEAM));
            match kept.last_mut() {
                Some(last) if last.end >= start => last.end = end,
                _ => kept.push(start..end),
            }
        }
        if kept.first().is_some_and(|range| *range == (0..self.text.len())) {
            return self;
        }
        let mut near = Self::default();
        let (mut parts, mut seams) = (self.parts.into_iter().peekable(), self.seams.into_iter().peekable());
        for range in kept {
            if !near.text.is_empty() {
                near.text.push_str("\n\n");
            }
            let to = near.text.len();
            near.text.push_str(self.text.get(range.clone()).unwrap_or_default());
            while let Some(seam) = seams.next_if(|seam| seam.start < range.end) {
                let at = seam.start - range.start + to;
                near.seams.push(at..at);
            }
            while parts.next_if(|part| part.range.end <= range.start).is_some() {}
            while let Some(part) = parts.peek().filter(|part| part.range.start < range.end) {
                let (start, end) = (part.range.start.max(range.start), part.range.end.min(range.end));
                near.parts.push(Part {
                    range: start - range.start + to..end - range.start + to,
                    offset: part.offset + start - part.range.start,
                    ..part.clone()
                });
                if part.range.end > range.end {
                    // The rest of it may be near another seam.
                    break;
                }
                parts.next();
            }
        }
        near
    }
}

/// Whether a reader takes this string for words that were said, and not for a part of the form in which they travel.
fn is_words(fragment: &Fragment<'_>) -> bool {
    let text = fragment.text.as_ref();
    let is_value = matches!(fragment.role, Role::Text | Role::Hidden);
    if !is_value || !text.chars().any(char::is_alphabetic) {
        return false;
    }
    let beginning = text.get(..text.floor_char_boundary(SEAM)).unwrap_or_default();
    if beginning.contains(char::is_whitespace) {
        return true;
    }
    let is_number = |step: &&str| step.bytes().all(|byte| byte.is_ascii_digit());
    let name = fragment.at.rsplit('/').find(|step| !is_number(step)).unwrap_or_default();
    match name {
        "blob" => return false,
        // A picture, or a sound.
        "data" if text.len() > SEAM => return false,
        name if TERMS.contains(&name) && WORDS.binary_search(&text).is_ok() => return false,
        _ => {}
    }
    !is_address(beginning) && !is_media_type(beginning) && !is_date(beginning)
}

fn is_address(text: &str) -> bool {
    text.contains("://") || ["data:", "mailto:", "urn:"].iter().any(|scheme| text.starts_with(scheme))
}

fn is_media_type(text: &str) -> bool {
    let trees = ["application", "audio", "font", "image", "message", "model", "multipart", "text", "video"];
    text.split_once('/').is_some_and(|(tree, rest)| trees.contains(&tree) && !rest.is_empty())
}

/// `2026-07-28`, and what may follow it.
fn is_date(text: &str) -> bool {
    let shape = text.bytes().take(10).map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    shape.eq(*b"0000-00-00")
}

/// Which group of [`SHOWN`] a place belongs to.
fn group(at: &str) -> Option<usize> {
    let is_member = |step: &&str| {
        !step.is_empty() && !WRAPPINGS.contains(step) && !step.bytes().all(|byte| byte.is_ascii_digit())
    };
    // Most places are told by their last step.
    let last = at.rsplit('/').find(is_member)?;
    let ends_so = |shape: &[&str]| shape.last() == Some(&last);
    let is_so = |shape: &[&str]| ends_so(shape) && at.split('/').filter(is_member).eq(shape.iter().copied());
    SHOWN.iter().position(|shapes| shapes.iter().any(|shape| is_so(shape)))
}

/// Whether `text` can begin, and whether it can end, in the middle of a word: blanks and the marks of a sentence are between
/// words, but markup, escapes and what nobody sees need not be.
fn ends(text: &str) -> (bool, bool) {
    let joins = |c: char| {
        let is_between = c.is_whitespace()
            || matches!(
                c,
                '!' | '"' | '\'' | '(' | ')' | ',' | '.' | ':' | '?' | '[' | ']' | '{' | '|' | '}'
            );
        !is_seen(c) || !is_between
    };
    (text.chars().next().is_some_and(joins), text.chars().next_back().is_some_and(joins))
}
