//! Where each byte of a rewritten text came from.

use std::{borrow::Cow, ops::Range};

/// Maps ranges of a rewritten text back to the text it was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Sorted, without overlaps; between two edits the texts agree byte for byte.
    edits: Vec<Edit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    /// Where the replacement stands in the rewritten text, and how many bytes it has.
    at: usize,
    length: usize,
    /// What it replaced.
    from: Range<usize>,
}

impl Offsets {
    /// Every byte of the rewritten text, `length` of them, stands for the whole of `from`.
    pub fn whole(length: usize, from: Range<usize>) -> Self {
        Self { edits: vec![Edit { at: 0, length, from }] }
    }

    /// The same of several texts, one behind the other; what they stand for is in order, too.
    pub fn pieces(pieces: impl IntoIterator<Item = (usize, Range<usize>)>) -> Self {
        let mut at = 0;
        let edit = |(length, from)| {
            let start = at;
            at += length;
            Edit { at: start, length, from }
        };
        Self { edits: pieces.into_iter().map(edit).collect() }
    }

    /// The smallest range of the source that made `range`: what was removed at its ends is left out, what was
    /// removed or replaced inside is covered.
    pub fn source(&self, range: Range<usize>) -> Range<usize> {
        let start = match self.last(|edit| edit.at <= range.start) {
            None => range.start,
            Some(edit) if range.start < edit.at + edit.length => edit.from.start,
            Some(edit) => range.start - edit.at - edit.length + edit.from.end,
        };
        if range.is_empty() {
            return start..start;
        }
        let end = match self.last(|edit| edit.at < range.end) {
            None => range.end,
            Some(edit) if range.end <= edit.at + edit.length => edit.from.end,
            Some(edit) => range.end - edit.at - edit.length + edit.from.end,
        };
        start..end.max(start)
    }

    /// The last edit for which `holds`, which must hold for a prefix of them.
    fn last(&self, holds: impl Fn(&Edit) -> bool) -> Option<&Edit> {
        self.edits.partition_point(holds).checked_sub(1).and_then(|i| self.edits.get(i))
    }
}

/// Rewrites a text from left to right, keeping [`Offsets`]. Nothing is copied until something changes.
pub struct Rewriter<'t> {
    text: &'t str,
    out: String,
    /// How much of `text` is dealt with.
    done: usize,
    edits: Vec<Edit>,
}

impl<'t> Rewriter<'t> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'t str) -> Self {
        Self { text, out: String::new(), done: 0, edits: Vec::new() }
    }

    /// Puts `with` in place of the bytes `range`, which begin at or after the end of the last edit and lie on
    /// character boundaries.
    pub fn replace(&mut self, range: Range<usize>, with: &str) {
        debug_assert!(range.start >= self.done && self.text.is_char_boundary(range.start));
        let kept = self.text.get(self.done..range.start).unwrap_or_default();
        if self.edits.is_empty() {
            self.out.reserve(self.text.len());
        }
        self.out.push_str(kept);
        let at = self.out.len();
        self.out.push_str(with);
        self.done = range.end;
        match self.edits.last_mut() {
            // Neighbouring removals are one.
            Some(last)
                if with.is_empty() && last.length == 0 && last.at == at && last.from.end == range.start =>
            {
                last.from.end = range.end;
            }
            _ => self.edits.push(Edit { at, length: with.len(), from: range }),
        }
    }

    /// The rewritten text and where it came from.
    pub fn finish(mut self) -> (Cow<'t, str>, Offsets) {
        if self.edits.is_empty() {
            return (Cow::Borrowed(self.text), Offsets::default());
        }
        self.out.push_str(self.text.get(self.done..).unwrap_or_default());
        (Cow::Owned(self.out), Offsets { edits: self.edits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lead_back_to_what_made_them() {
        let mut rewriter = Rewriter::new("ab--cd=efgh");
        rewriter.replace(2..3, "");
        rewriter.replace(3..4, "");
        rewriter.replace(6..7, "EQUALS");
        let (text, offsets) = rewriter.finish();
        assert_eq!(text, "abcdEQUALSefgh");
        assert_eq!(offsets.source(0..2), 0..2, "what was removed after it stays out");
        assert_eq!(offsets.source(2..4), 4..6, "what was removed before it stays out");
        assert_eq!(offsets.source(1..3), 1..5, "what was removed inside is covered");
        assert_eq!(offsets.source(5..6), 6..7, "a part of a replacement stands for all of it");
        assert_eq!(offsets.source(10..14), 7..11);
        assert_eq!(offsets.source(0..14), 0..11);
        assert_eq!(offsets.source(2..2), 4..4);
    }
}
