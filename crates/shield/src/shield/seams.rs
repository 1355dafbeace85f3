//! Where one value of a message ends and the next one begins.
//!
//! Attack: a word or a phrase cut between two values that are read one behind the other: blocks of a result, resources, events
//! of a log, arguments that a server joins (attacks.md II-13). Caught: `Ignore all prev` and `ious instructions` in two blocks.
//! Harmless look-alikes: lists of words, columns of a table, the keywords of a schema.
//!
//! A message says more than its readers see: between two blocks stand the names of members, types, addresses, and whatever
//! else a server likes to put there. So its values are read once more without all that, each with the one behind it: on
//! lines of their own, where something stood between them, and without a gap, where a word can be cut. Only short stretches
//! on either side of each seam are read, and a finding counts only if it runs over one. How far they reach is counted in what
//! is read: no blanks, colours and characters that nobody sees push words out of reach.

mod words;

use std::ops::Range;

use crate::{
    controls::moves,
    finding::{Category, Finding},
    fragment::{Fragment, Role},
    normalize::is_seen,
    passage::Part,
};

pub(crate) use words::is_frame;

use words::is_words;

/// Bytes on either side of a seam that are read over it.
const SEAM: usize = 160;
/// Bytes that are gathered before they are judged, and bytes of the end of a value in which the last [`SEAM`] are looked for.
const FULL: usize = 128 * 1024;
/// Bytes of blanks that stay as they are: line ends, and an empty line between two paragraphs.
const SHORT: usize = 4;

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
        let ends = Ends::of(&fragment.text);
        let mut is_known = false;
        if let Some(row) = group(&fragment.at).and_then(|group| self.shown.get_mut(group)) {
            // A seam of what readers are shown is not judged twice.
            is_known = row.last.is_some() && row.last == self.all.last;
            row.push(number, index, fragment, &ends, (true, true));
        }
        self.all.push(number, index, fragment, &ends, (is_apart, !is_known));
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

/// Values one behind the other, without what only fills them; of a long one the two ends.
#[derive(Clone, Debug, Default)]
struct Row {
    text: String,
    pieces: Vec<Piece>,
    /// The number of the last value.
    last: Option<u64>,
}

/// A value, or a part of one.
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
    /// Much of the same value.
    Gap,
    /// Nothing that is read.
    Filling,
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
    fn push(
        &mut self,
        number: u64,
        index: usize,
        fragment: &Fragment<'_>,
        of: &Ends,
        (is_apart, is_new): (bool, bool),
    ) {
        let text = fragment.text.as_ref();
        let first = of.head.first().and_then(|range| text.get(range.clone())).unwrap_or_default();
        let in_word = ends(&self.text).1 && ends(first).0;
        // Nothing is before the first one.
        let is_new = is_new && self.last.is_some();
        self.last = Some(number);
        let mut joint = Joint::Seam { in_word, is_apart, is_new };
        for range in &of.head {
            self.add(text, range.clone(), index, fragment.role, joint);
            joint = Joint::Filling;
        }
        if of.is_cut {
            joint = Joint::Gap;
        }
        for range in &of.tail {
            self.add(text, range.clone(), index, fragment.role, joint);
            joint = Joint::Filling;
        }
    }

    fn add(&mut self, text: &str, of: Range<usize>, index: usize, role: Role, joint: Joint) {
        let (start, offset) = (self.text.len(), of.start);
        if let Some(last) = self.pieces.last_mut()
            && matches!(joint, Joint::Filling)
            && last.offset + last.range.end == offset + last.range.start
        {
            // It goes on where the piece before ends.
            self.text.push_str(text.get(of).unwrap_or_default());
            last.range.end = self.text.len();
            return;
        }
        self.text.push_str(text.get(of).unwrap_or_default());
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
            Joint::Gap | Joint::Filling => false,
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
                    Joint::Filling => "",
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

/// The two ends of a value, without what only fills them.
struct Ends {
    head: Vec<Range<usize>>,
    tail: Vec<Range<usize>>,
    /// Whether there is more between them.
    is_cut: bool,
}

impl Ends {
    fn of(text: &str) -> Self {
        let (head, behind) = without_filling(text, 0, SEAM);
        let (tail, is_cut) = last(text, behind);
        Self { head, tail, is_cut }
    }
}

/// What a character of a text, or a terminal sequence in it, is to those who read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Blank,
    Unseen,
    Word,
}

/// What stands at byte `at` of `text`.
fn step(text: &str, at: usize) -> Option<(Range<usize>, Sort)> {
    let rest = text.get(at..)?;
    let c = rest.chars().next()?;
    let (length, sort) = match c {
        '\u{1b}' | '\u{9b}' => sequence(rest),
        // Tags are read as the letters that they stand for.
        '\u{e0020}'..='\u{e007e}' => (c.len_utf8(), Sort::Word),
        c if c.is_whitespace() => (c.len_utf8(), Sort::Blank),
        c if is_seen(c) => (c.len_utf8(), Sort::Word),
        c => (c.len_utf8(), Sort::Unseen),
    };
    Some((at..at + length, sort))
}

/// The letters, digits and marks of plain English that stand at byte `at` of `text`, `most` of them, as one step: [`step`] takes
/// each for a word too.
fn letters(text: &str, at: usize, most: usize) -> Option<(Range<usize>, Sort)> {
    let rest = text.as_bytes().get(at..)?;
    let length = rest.iter().take(most).take_while(|byte| byte.is_ascii_graphic()).count();
    (length > 0).then_some((at..at + length, Sort::Word))
}

/// The length of the terminal sequence with which `rest` begins, without words that may stand in it, and what it is; as normal
/// form has it.
fn sequence(rest: &str) -> (usize, Sort) {
    let mut chars = rest.chars();
    let introducer = chars.next();
    let mut end = introducer.map_or(0, char::len_utf8);
    let next = if introducer == Some('\u{1b}') { chars.next() } else { None };
    if next.is_some_and(|c| c.is_ascii_punctuation() && c != '<') {
        end += 1;
    }
    if introducer == Some('\u{9b}') || next == Some('[') {
        let body = rest.as_bytes().get(end..).unwrap_or_default();
        let parameters = body.iter().take(64).take_while(|b| (0x20..0x40).contains(*b)).count();
        if let Some(final_byte) = body.get(parameters).filter(|b| (0x40..0x7f).contains(*b)) {
            end += parameters + 1;
            if moves(*final_byte) {
                return (end, Sort::Blank);
            }
        }
    }
    (end, Sort::Unseen)
}

/// A run of blanks and of what nobody sees.
#[derive(Clone, Debug)]
struct Filling {
    /// All of it.
    range: Range<usize>,
    /// The first of it.
    first: Range<usize>,
    /// The first line end in it, or else the first blank.
    blank: Option<Range<usize>>,
    /// Whether it is blanks and nothing else.
    is_blank: bool,
}

impl Filling {
    fn of(item: Range<usize>) -> Self {
        Self { range: item.start..item.start, first: item, blank: None, is_blank: true }
    }

    fn add(&mut self, text: &str, item: Range<usize>, is_blank: bool) {
        self.range.end = item.end;
        self.is_blank &= is_blank;
        let is_line = |range: &Range<usize>| text.get(range.clone()) == Some("\n");
        if is_blank && self.blank.as_ref().is_none_or(|blank| is_line(&item) && !is_line(blank)) {
            self.blank = Some(item);
        }
    }

    /// What of it says all that it says: a blank, if there is one. At an end of the value, what is not seen there is kept too, for
    /// it may stand in a word, which is no accident.
    fn kept(self, is_end: bool) -> Option<Range<usize>> {
        if self.is_blank && self.range.len() <= SHORT {
            return Some(self.range);
        }
        self.blank.or_else(|| Some(self.first).filter(|first| is_end && first.len() <= SHORT))
    }
}

/// The bytes of `text` from `from` on without what only fills it, until there are `enough`, and where what is behind them begins.
fn without_filling(text: &str, from: usize, enough: usize) -> (Vec<Range<usize>>, usize) {
    let (mut kept, mut length, mut at) = (Vec::<Range<usize>>::new(), 0, from);
    let mut keep = |range: Range<usize>| {
        length += range.len();
        match kept.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => kept.push(range),
        }
        length
    };
    let mut filling: Option<Filling> = None;
    let mut so_far = 0;
    while so_far < enough
        && let Some((item, sort)) = letters(text, at, enough - so_far).or_else(|| step(text, at))
    {
        at = item.end;
        if sort != Sort::Word {
            let filling = filling.get_or_insert_with(|| Filling::of(item.clone()));
            filling.add(text, item, sort == Sort::Blank);
            continue;
        }
        if let Some(filling) = filling.take() {
            let is_end = filling.range.start == 0;
            if let Some(range) = filling.kept(is_end) {
                keep(range);
            }
        }
        so_far = keep(item);
    }
    if let Some(range) = filling.and_then(|filling| filling.kept(true)) {
        keep(range);
    }
    (kept, at)
}

/// The last [`SEAM`] bytes of `text` from `from` on without what only fills it, and whether there are more of them before these.
fn last(text: &str, from: usize) -> (Vec<Range<usize>>, bool) {
    let mut window = 2 * SEAM;
    loop {
        let start = text.ceil_char_boundary(text.len().saturating_sub(window)).max(from);
        let (kept, _) = without_filling(text, start, usize::MAX);
        let length: usize = kept.iter().map(|range| range.end - range.start).sum();
        // Twice as much each time: all in all it is no more than a few times what is read at last.
        if length < SEAM && start > from && window < FULL {
            window *= 2;
            continue;
        }
        let mut left_over = length.saturating_sub(SEAM);
        let is_cut = start > from || left_over > 0;
        let mut tail = Vec::new();
        for range in kept {
            let cut = text.ceil_char_boundary(range.start + left_over.min(range.len()));
            left_over = left_over.saturating_sub(range.len());
            if cut < range.end {
                tail.push(cut..range.end);
            }
        }
        return (tail, is_cut);
    }
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
