//! Characters that show nothing.

use std::{borrow::Cow, ops::Range};

use super::{
    offsets::{Offsets, Rewriter},
    tricks::{Trick, Tricks},
};
use crate::{bytes::first, controls};

/// Removes invisible and control characters and terminal escapes, and reads tag characters as the ASCII they stand
/// for. Runs of plain ASCII are passed over many bytes at a step.
pub(super) fn unhide<'t>(text: &'t str, tricks: &mut Tricks) -> (Cow<'t, str>, Offsets) {
    let mut pass = Pass { text, out: Rewriter::new(text), tricks, at: 0, before: '\n' };
    while let Some(start) = pass.next_special() {
        pass.step(start);
    }
    pass.out.finish()
}

struct Pass<'t, 'k> {
    text: &'t str,
    out: Rewriter<'t>,
    tricks: &'k mut Tricks,
    at: usize,
    /// The last visible character before `at`.
    before: char,
}

impl Pass<'_, '_> {
    /// The next character that needs a look.
    fn next_special(&mut self) -> Option<usize> {
        let bytes = self.text.as_bytes().get(self.at..)?;
        let found = self.at + first(bytes, is_special)?;
        if found > self.at {
            self.before = self.text.get(..found).and_then(|t| t.chars().next_back()).unwrap_or('\n');
        }
        Some(found)
    }

    fn step(&mut self, start: usize) {
        let Some(c) = self.peek(start) else {
            self.at = self.text.len();
            return;
        };
        let end = start + c.len_utf8();
        match class(c) {
            Class::Escape => self.escape(start),
            Class::Control => {
                // A lone carriage return goes back to the start of the line and writes over it.
                if c == '\r' && self.peek(end) == Some('\n') {
                    self.keep(c, end);
                } else if matches!(c, '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}') {
                    if c == '\r' && end < self.text.len() {
                        self.tricks.note(Trick::Control, start..end);
                    }
                    self.put(start..end, "\n");
                } else {
                    self.tricks.note(Trick::Control, start..end);
                    self.put(start..end, "");
                }
            }
            Class::Invisible | Class::Bidi | Class::PrivateUse | Class::Selector | Class::Tag => {
                self.at = self.hidden(start);
            }
            Class::Visible => self.keep(c, end),
        }
    }

    fn peek(&self, at: usize) -> Option<char> {
        // ASCII first: it is the common case by far.
        match self.text.as_bytes().get(at) {
            Some(&b) if b < 0x80 => Some(char::from(b)),
            _ => self.text.get(at..)?.chars().next(),
        }
    }

    fn keep(&mut self, c: char, end: usize) {
        self.before = c;
        self.at = end;
    }

    fn put(&mut self, range: Range<usize>, with: &str) {
        self.at = range.end;
        self.before = with.chars().next_back().unwrap_or(self.before);
        self.out.replace(range, with);
    }

    /// A terminal escape: its control bytes go, its words stay, because a model reads them.
    fn escape(&mut self, start: usize) {
        let c = self.peek(start).unwrap_or_default();
        let mut end = start + c.len_utf8();
        self.tricks.note(Trick::Ansi, start..end);
        let introducer = if c == '\u{1b}' { self.peek(end) } else { None };
        let control_sequence = c == '\u{9b}' || introducer == Some('[');
        let mut with = "";
        if introducer.is_some_and(|i| i.is_ascii_punctuation() && i != '<') {
            end += 1;
        }
        if control_sequence {
            // ECMA-48 §5.4: parameter bytes, intermediate bytes, one final byte; 64 bytes are more than any has.
            let rest = self.text.as_bytes().get(end..).unwrap_or_default();
            let parameters = rest.iter().take(64).take_while(|b| (0x20..0x40).contains(*b)).count();
            if let Some(last) = rest.get(parameters).filter(|b| (0x40..0x7f).contains(*b)) {
                end += parameters + 1;
                // What goes on elsewhere stands apart.
                with = if controls::moves(*last) { " " } else { "" };
            }
        }
        self.put(start..end, with);
    }

    /// Whether the tags from `at` on are a region's code, of three to six letters and digits, and its end: with 🏴 before them they
    /// are a flag (UTS #51 §C.1). Any others are words.
    fn is_region(&self, at: usize) -> bool {
        let tags = self.text.get(at..).unwrap_or_default();
        let is_code =
            |c: &char| tag_as_ascii(*c).is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let code = tags.chars().take(7).take_while(is_code).count();
        (3..=6).contains(&code) && tags.chars().nth(code) == Some(FLAG_END)
    }

    /// A run of characters that show nothing, which ends at the returned offset.
    fn hidden(&mut self, start: usize) -> usize {
        let mut at = start;
        let (mut private, mut selectors, mut supplementary, mut in_word) = (0, 0, 0, false);
        let mut visible_tags = false;
        let mut flag = self.before == '\u{1f3f4}' && self.is_region(start);
        while let Some(c) = self.peek(at) {
            let end = at + c.len_utf8();
            let mut with = "";
            let mut buffer = [0; 4];
            match class(c) {
                Class::Tag => {
                    if flag {
                        flag = c != FLAG_END;
                    } else {
                        self.tricks.note(Trick::Tags, at..end);
                        if let Some(shown) = tag_as_ascii(c) {
                            with = shown.encode_utf8(&mut buffer);
                            visible_tags = true;
                        }
                    }
                }
                Class::Selector => {
                    selectors += 1;
                    supplementary += usize::from(c >= '\u{e0100}');
                }
                Class::PrivateUse => private += 1,
                Class::Bidi => self.tricks.note(Trick::Bidi, at..end),
                Class::Invisible => in_word |= c != '\u{feff}' || at != 0,
                Class::Escape | Class::Control | Class::Visible => break,
            }
            self.out.replace(at..end, with);
            if let Some(shown) = with.chars().next() {
                self.before = shown;
            }
            at = end;
        }
        if private >= 3 {
            self.tricks.note(Trick::PrivateUse, start..at);
        }
        // One selector after an emoji or an ideograph chooses how it looks; a row of them says something else.
        let is_odd = self.before.is_ascii_alphabetic() || supplementary > 0 && !is_ideograph(self.before);
        if selectors >= 2 || (selectors == 1 && is_odd) {
            self.tricks.note(Trick::VariationSelectors, start..at);
        }
        let between_letters =
            self.before.is_ascii_alphabetic() && self.peek(at).is_some_and(|next| next.is_ascii_alphabetic());
        if in_word && !visible_tags && between_letters {
            self.tricks.note(Trick::InvisibleInWord, start..at);
        }
        at
    }
}

/// Whether `c` is of the scripts that have variants by the supplementary selectors (UTS #37).
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// What a byte of a text is worth looking at for: everything but printable ASCII, tab and line feed.
const fn is_special(byte: u8) -> bool {
    (byte < 0x20) & (byte != b'\t') & (byte != b'\n') | (byte > 0x7e)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Bidi,
    Control,
    Escape,
    Invisible,
    PrivateUse,
    Selector,
    Tag,
    Visible,
}

/// What `c` shows.
pub(super) fn class(c: char) -> Class {
    match c {
        '\u{1b}' | '\u{9b}' => Class::Escape,
        '\t' | '\n' | ' '..='~' => Class::Visible,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' => {
            Class::Control
        }
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Class::Bidi,
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2060}'..='\u{2065}'
        | '\u{206a}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}'
        | '\u{fffc}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d159}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0080}'..='\u{e00ff}'
        | '\u{e01f0}'..='\u{e0fff}' => Class::Invisible,
        '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => Class::Selector,
        '\u{e0000}'..='\u{e007f}' => Class::Tag,
        '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{ffffd}' | '\u{100000}'..='\u{10fffd}' => {
            Class::PrivateUse
        }
        _ => Class::Visible,
    }
}

/// The tag that ends a flag's code.
const FLAG_END: char = '\u{e007f}';

/// U+E0020 … U+E007E mirror printable ASCII.
fn tag_as_ascii(c: char) -> Option<char> {
    char::from_u32(u32::from(c).checked_sub(0xe_0000)?).filter(|shown| matches!(shown, ' '..='~'))
}
