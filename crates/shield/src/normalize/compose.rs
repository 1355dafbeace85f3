//! Characters that have several forms.

use std::{borrow::Cow, ops::Range};

use unicode_normalization::{
    IsNormalized, UnicodeNormalization,
    char::{canonical_combining_class, is_combining_mark},
    is_nfkc_quick,
};

use super::{
    characters::{Class, class},
    offsets::{Offsets, Rewriter},
    tricks::{Trick, Tricks},
};

/// Brings `text` to NFKC (UAX #15), one letter with its marks at a time, and drops marks that compose with nothing:
/// those are decoration. `original` leads from `text` to what the user sent.
pub(super) fn compose<'t>(
    text: &'t str,
    original: impl Fn(Range<usize>) -> Range<usize>,
    tricks: &mut Tricks,
) -> (Cow<'t, str>, Offsets) {
    let mut out = Rewriter::new(text);
    let mut chars = text.char_indices().peekable();
    while let Some((start, base)) = chars.next() {
        let mut end = start + base.len_utf8();
        let mut marks = 0;
        // Marks of another script belong to no Latin letter or sign.
        let is_latin = base.is_ascii_graphic();
        let joins = |next: char| extends(next) || is_latin && next >= '\u{300}' && is_combining_mark(next);
        while let Some((at, mark)) = chars.next_if(|(_, next)| joins(*next)) {
            marks += usize::from(is_stacking(mark));
            end = at + mark.len_utf8();
        }
        let alone = end == start + base.len_utf8();
        if alone && (base.is_ascii() || is_settled(base)) {
            continue;
        }
        let cluster = text.get(start..end).unwrap_or_default();
        if marks >= 3 {
            // No language needs so many; which of them would compose does not matter.
            tricks.note(Trick::StackedMarks, original(start..end));
            let bare: String = std::iter::once(base)
                .nfkd()
                .filter(|&c| !joins(c) && class(c) == Class::Visible)
                .nfkc()
                .collect();
            out.replace(start..end, &bare);
            continue;
        }
        if alone && !is_stacking(base) && is_nfkc_quick(std::iter::once(base)) == IsNormalized::Yes {
            continue;
        }
        // A mark that is dropped may have stood between two that compose.
        let is_kept =
            |&c: &char| !is_stacking(c) && class(c) == Class::Visible && !(is_latin && is_combining_mark(c));
        let composed: String = cluster.nfkc().filter(is_kept).nfkc().collect();
        if composed != cluster {
            out.replace(start..end, &composed);
        }
    }
    out.finish()
}

/// Whether `c` joins the character in front of it.
fn extends(c: char) -> bool {
    // Below U+0300 nothing does; vowels and final consonants of conjoining Hangul do without being marks.
    c >= '\u{300}' && (('\u{1161}'..='\u{11ff}').contains(&c) || canonical_combining_class(c) != 0)
}

/// A mark that writing puts on a letter only in forms that compose; left over, it is decoration.
fn is_stacking(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{488}' | '\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{a670}'..='\u{a672}' | '\u{fe20}'..='\u{fe2f}')
}

/// Letters of the large scripts that are their own NFKC form.
fn is_settled(c: char) -> bool {
    matches!(c, '\u{c0}'..='\u{131}' | '\u{391}'..='\u{3a1}' | '\u{3a3}'..='\u{3ce}' | '\u{400}'..='\u{482}' | '\u{48a}'..='\u{52f}'
        | '\u{621}'..='\u{64a}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}
