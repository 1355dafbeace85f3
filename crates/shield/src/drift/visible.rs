//! Making visible what is not: a person must see every character that was changed.

use std::borrow::Cow;

/// Whether a reader would not see `c`, or would see it as something else: controls, invisible and directional
/// characters, blanks that are not the plain one, fillers, variation selectors, tags and private use
/// (attacks.md II-05, PO-11; Unicode 16, general categories Cc, Cf, Co, Zs, Zl, Zp and Default_Ignorable_Code_Point).
pub fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}'
        | '\u{7f}'..='\u{a0}'
        | '\u{ad}'
        | '\u{34f}'
        | '\u{600}'..='\u{605}'
        | '\u{61c}'
        | '\u{6dd}'
        | '\u{70f}'
        | '\u{890}'..='\u{891}'
        | '\u{8e2}'
        | '\u{115f}'..='\u{1160}'
        | '\u{1680}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2000}'..='\u{200f}'
        | '\u{2028}'..='\u{202f}'
        | '\u{205f}'..='\u{206f}'
        | '\u{2800}'
        | '\u{3000}'
        | '\u{3164}'
        | '\u{e000}'..='\u{f8ff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}'
        | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d159}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}'
        | '\u{f0000}'..)
}

/// `text` on one line, with everything hidden as `⟨U+200B⟩`; line ends as `\n`, tabs as `\t`. Safe to print on a terminal.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        show(&mut out, c);
    }
    Cow::Owned(out)
}

/// The same for a word that changed, where look-alikes count: in Latin surroundings, letters of other scripts and
/// combining marks show what they are.
pub fn distinct(text: &str, is_latin: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        show(&mut out, c);
        if is_latin && !is_hidden(c) && c >= '\u{250}' && (c.is_alphanumeric() || is_mark(c)) {
            out.push_str(&name(c));
        }
    }
    out
}

/// Whether most letters of `text` are Latin.
pub fn is_latin(text: &str) -> bool {
    let (mut latin, mut other) = (0usize, 0usize);
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        *(if c < '\u{250}' { &mut latin } else { &mut other }) += 1;
    }
    latin >= 3 * other
}

fn show(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        c if is_hidden(c) => out.push_str(&name(c)),
        c => out.push(c),
    }
}

fn name(c: char) -> String {
    format!("⟨U+{:04X}⟩", u32::from(c))
}

fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}
