//! White space that pushes text out of sight, or out of a window.

use std::{borrow::Cow, ops::Range};

use super::{
    offsets::{Offsets, Rewriter},
    tricks::{Trick, Tricks},
};

/// Runs longer than this become one blank or one line end.
const LONG: usize = 32;
/// More blanks than this in a row are a trick, as the table of detection.md has it.
pub(super) const BLANKS: usize = 200;
/// More line ends than this in a row are one.
pub(super) const LINES: usize = 40;

/// Shortens long runs of white space; `original` leads from `text` to what the user sent.
pub(super) fn shorten<'t>(
    text: &'t str,
    original: impl Fn(Range<usize>) -> Range<usize>,
    tricks: &mut Tricks,
) -> (Cow<'t, str>, Offsets) {
    let bytes = text.as_bytes();
    let mut out = Rewriter::new(text);
    let mut at = 0;
    // A run longer than LONG covers one of every LONG bytes, so most bytes are never looked at.
    while let Some(&byte) = bytes.get(at + LONG) {
        if !is_blank(byte) {
            at += LONG + 1;
            continue;
        }
        let back =
            bytes.get(..at + LONG).unwrap_or_default().iter().rev().take_while(|b| is_blank(**b)).count();
        let start = at + LONG - back;
        let run = bytes.get(start..).unwrap_or_default().iter().take_while(|b| is_blank(**b));
        let (mut length, mut lines) = (0, 0);
        for &b in run {
            length += 1;
            lines += usize::from(b == b'\n');
        }
        let range = start..start + length;
        if length > LONG {
            if lines > LINES || length - lines > BLANKS {
                tricks.note(Trick::BlankPadding, original(range.clone()));
            }
            out.replace(range.clone(), if lines > 0 { "\n" } else { " " });
        }
        at = range.end;
    }
    out.finish()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
