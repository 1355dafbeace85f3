//! Characters written as their numbers: `105 103 110 …`, `01101001 01100111 …`.

use std::ops::Range;

use super::super::ciphers::has_signs;

/// Numbers in a row, at least.
const ROW: usize = 16;
/// A row is longer than this, in bytes.
const LONG: usize = 40;
/// Bytes around one of every [`LONG`] that show whether a row may go through it.
const AROUND: usize = 4;

/// Rows of numbers that are letters, and what they say.
pub(super) fn runs(text: &str) -> Vec<(Range<usize>, String)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    // A row covers one of every LONG bytes and those around it, so most bytes are never looked at.
    while let Some(around) = bytes.get(at + LONG - AROUND..at + LONG) {
        let digits = around.iter().filter(|b| b.is_ascii_digit()).count();
        if digits < 2 || !around.iter().all(|b| is_inside(*b)) {
            at += LONG - AROUND;
            continue;
        }
        let probe = at + LONG - AROUND;
        let back =
            bytes.get(at..probe).unwrap_or_default().iter().rev().take_while(|b| is_inside(**b)).count();
        let start = probe - back;
        let length = bytes.get(start..).unwrap_or_default().iter().take_while(|b| is_inside(**b)).count();
        rows(text, start..start + length, &mut found);
        at = start + length;
    }
    found
}

const fn is_inside(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b' ' | b',' | b';' | b'\n' | b'\r')
}

/// Adds the rows within `region`, which has nothing but digits and what stands between them.
fn rows(text: &str, region: Range<usize>, found: &mut Vec<(Range<usize>, String)>) {
    let mut row = (region.start..region.start, String::new());
    let mut start = region.start;
    for piece in text.get(region).unwrap_or_default().split_inclusive(|c: char| !c.is_ascii_digit()) {
        let number = piece.trim_end_matches(|c: char| !c.is_ascii_digit());
        let from = start;
        start += piece.len();
        match character(number) {
            _ if number.is_empty() => {}
            Some(c) => {
                if row.1.is_empty() {
                    row.0.start = from;
                }
                row.0.end = from + number.len();
                row.1.push(c);
            }
            None => take(&mut row, found),
        }
    }
    take(&mut row, found);
}

fn take(row: &mut (Range<usize>, String), found: &mut Vec<(Range<usize>, String)>) {
    let (range, said) = (row.0.clone(), std::mem::take(&mut row.1));
    if said.len() >= ROW && is_prose(&said) {
        found.push((range, said));
    }
}

/// The character of printable ASCII that `number` is the number of.
fn character(number: &str) -> Option<char> {
    let code = match number.len() {
        2 | 3 => number.parse().ok()?,
        8 => u8::from_str_radix(number, 2).ok()?,
        _ => return None,
    };
    Some(char::from(code)).filter(|c| matches!(c, ' '..='~'))
}

/// Whether most of `said` are letters and blanks, and not only large ones without a sign of words: measurements seldom are.
fn is_prose(said: &str) -> bool {
    let letters = said.bytes().filter(|b| b.is_ascii_alphabetic() || *b == b' ').count();
    let is_measured = !said.bytes().any(|b| b == b' ' || b.is_ascii_lowercase());
    letters * 3 >= said.len() * 2 && (!is_measured || has_signs(said))
}
