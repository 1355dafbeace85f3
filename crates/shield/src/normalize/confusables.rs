//! Words written with letters of another script that look like Latin ones.

use std::{borrow::Cow, ops::Range, sync::LazyLock};

use unicode_security::confusable_detection::skeleton;

use super::{
    offsets::{Offsets, Rewriter},
    tricks::{Trick, Tricks},
};

/// Rewrites look-alike letters (UTS #39 §4) as ASCII ones, in words that also have Latin letters and, on lines that
/// are mostly Latin, in words that are nothing but look-alikes. Russian or Greek text stays as it is, and so does a
/// unit such as `μs`. Small capitals are Latin letters, and so are look-alikes of scripts that next to nobody writes: whole
/// lines are written in them to be read as Latin.
pub(super) fn fold<'t>(
    text: &'t str,
    original: impl Fn(Range<usize>) -> Range<usize>,
    tricks: &mut Tricks,
) -> (Cow<'t, str>, Offsets) {
    let mut out = Rewriter::new(text);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if !line.is_ascii() {
            let latin = is_mostly_latin(line);
            for word in words(line) {
                let at = start + word.start;
                let word = line.get(word).unwrap_or_default();
                fold_word(word, at, latin, &original, &mut out, tricks);
            }
        }
        start += line.len();
    }
    out.finish()
}

/// Ranges of the words in `line` that are not pure ASCII.
fn words(line: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    line.split(|c: char| !c.is_alphanumeric() && !is_alike(c)).filter_map(move |word| {
        let start = at;
        // The separator is one character; its length is whatever follows the word.
        let end = start + word.len();
        at = end + line.get(end..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        (!word.is_ascii()).then_some(start..end)
    })
}

/// Whether the letters that can only be Latin are at least as many as those that cannot be Latin.
fn is_mostly_latin(line: &str) -> bool {
    let mut latin = 0_usize;
    let mut other = 0_usize;
    for word in line.split(|c: char| !c.is_alphanumeric() && !is_alike(c)) {
        let mut mixed = word.bytes().any(|b| b.is_ascii_alphabetic());
        let mut alike = 0;
        let mut foreign = 0;
        for c in word.chars().filter(|c| !c.is_ascii()) {
            // As many as it will be written with, so that the count stays what it is.
            match alike_letters(c) {
                Some(letters) => {
                    alike += letters.1;
                    mixed |= !is_much_written(c);
                }
                None => foreign += 1,
            }
        }
        let ascii = word.bytes().filter(u8::is_ascii_alphabetic).count();
        if mixed {
            latin += ascii + alike;
            other += foreign;
        } else if foreign > 0 {
            other += foreign + alike;
        }
    }
    latin > 0 && latin >= other
}

fn fold_word(
    word: &str,
    start: usize,
    latin_line: bool,
    original: &impl Fn(Range<usize>) -> Range<usize>,
    out: &mut Rewriter<'_>,
    tricks: &mut Tricks,
) {
    let has_ascii = word.bytes().any(|b| b.is_ascii_alphabetic());
    let is_latin = |c: char| !c.is_ascii() && !is_much_written(c) && alike_letters(c).is_some();
    let has_latin = has_ascii || word.chars().any(is_latin);
    let all_alike = || word.chars().all(|c| c.is_ascii() || alike_letters(c).is_some());
    if !(has_latin || (latin_line && all_alike())) {
        return;
    }
    if has_ascii && is_disguise(word) {
        tricks.note(Trick::MixedScript, original(start..start + word.len()));
    }
    for (at, c) in word.char_indices() {
        if let Some(letters) = alike_letters(c) {
            out.replace(start + at..start + at + c.len_utf8(), letters.as_str());
        }
    }
}

/// Whether a mixed word can only be meant to deceive: letters of it are Cyrillic, Greek, Armenian or Cherokee and
/// look exactly like Latin ones. `TNFα`, `μs` and `Δt` do not, and a single Greek letter is a symbol.
fn is_disguise(word: &str) -> bool {
    let greek = word.chars().filter(|c| GREEK_TWINS.contains(*c)).count();
    let other = word.chars().filter(|c| FOREIGN_TWINS.contains(*c)).count();
    let foreign = word.chars().filter(|c| !c.is_ascii() && is_other_alphabet(*c)).count();
    let ascii = word.bytes().filter(u8::is_ascii_alphabetic).count();
    // With letters that are plainly foreign besides, it is a foreign name with a native ending.
    foreign == greek + other && ((other > 0 && ascii + other >= 3) || (greek >= 1 && ascii >= 3))
}

/// Greek letters that print like Latin ones.
const GREEK_TWINS: &str = "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοϲϳ";
/// Letters of other scripts that print like Latin ones.
const FOREIGN_TWINS: &str = "асеорхуіјѕһԁԛԝӏАВСЕНІЈКМОРЅТХУԌԚԜᎪᏴᏟᎠᎬᏀᎻᏆᎫᏦᏞᎷᏢᎡᏚᎢᏙᎳᏃօսոհցքյՏՍՕ";

fn is_other_alphabet(c: char) -> bool {
    matches!(c, '\u{370}'..='\u{3ff}' | '\u{400}'..='\u{52f}' | '\u{530}'..='\u{58f}' | '\u{13a0}'..='\u{13ff}')
}

/// Whether `c` is Greek, Cyrillic or Armenian, in which people write of all things.
fn is_much_written(c: char) -> bool {
    matches!(c, '\u{370}'..='\u{58f}')
}

/// Symbols that stand for letters without being alphanumeric to Unicode.
fn is_alike(c: char) -> bool {
    !c.is_ascii() && !c.is_alphanumeric() && is_candidate(c) && alike_letters(c).is_some()
}

/// Blocks that have look-alikes at all.
fn is_candidate(c: char) -> bool {
    matches!(c, '\u{131}' | '\u{180}'..='\u{2af}' | '\u{370}'..='\u{58f}' | '\u{13a0}'..='\u{13ff}' | '\u{1400}'..='\u{167f}' | '\u{1d00}'..='\u{1dbf}'
        | '\u{1e00}'..='\u{1eff}' | '\u{2c60}'..='\u{2cff}' | '\u{a4d0}'..='\u{a4ff}' | '\u{a640}'..='\u{a69f}' | '\u{a720}'..='\u{a7ff}'
        | '\u{ab30}'..='\u{abbf}' | '\u{10280}'..='\u{1032f}' | '\u{10400}'..='\u{1044f}' | '\u{118a0}'..='\u{118df}' | '\u{1f130}'..='\u{1f189}')
}

/// One or two ASCII letters.
#[derive(Clone, Copy)]
struct Letters([u8; 2], usize);

impl Letters {
    fn as_str(&self) -> &str {
        self.0.get(..self.1).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn one(byte: u8) -> Self {
        Self([byte, 0], 1)
    }
}

/// Greek, Cyrillic and Armenian, by code point: whole pages are written in them.
static COMMON: LazyLock<Vec<Option<Letters>>> =
    LazyLock::new(|| ('\u{370}'..='\u{58f}').map(look_up).collect());

fn alike_letters(c: char) -> Option<Letters> {
    match u32::from(c).checked_sub(0x370).and_then(|index| COMMON.get(usize::try_from(index).ok()?)) {
        Some(known) => *known,
        None => look_up(c),
    }
}

/// The ASCII letters `c` looks like. Digits and punctuation are not meant: nobody reads `З` as a 3 inside a word.
fn look_up(c: char) -> Option<Letters> {
    if c.is_ascii() || !is_candidate(c) {
        return None;
    }
    // Look-alikes at a glance that UTS #39 leaves to themselves: small capitals and lower-case Cyrillic capitals.
    if let Some(&(_, byte)) = AT_A_GLANCE.iter().find(|(alike, _)| *alike == c) {
        return Some(Letters::one(byte));
    }
    let boxed = u32::from(c).wrapping_sub(0x1f130);
    if boxed < 26 || (0x20..0x3a).contains(&boxed) || (0x40..0x5a).contains(&boxed) {
        return Some(Letters::one(b'A' + u8::try_from(boxed % 32).ok()?));
    }
    let mut buffer = [0; 4];
    let mut found = Letters([0; 2], 0);
    for proto in skeleton(c.encode_utf8(&mut buffer)) {
        let byte = u8::try_from(proto).ok().filter(u8::is_ascii_alphabetic)?;
        *found.0.get_mut(found.1)? = byte;
        found.1 += 1;
    }
    // UTS #39 takes capital I, digit 1 and l for one shape and picks l; so does a capital of another script.
    // Lisu has no others.
    if found.as_str() == "l" && (c.is_uppercase() || matches!(c, '\u{a4d0}'..='\u{a4ff}')) {
        return Some(Letters::one(b'I'));
    }
    (found.1 > 0).then_some(found)
}

const AT_A_GLANCE: &[(char, u8)] = &[
    ('к', b'k'),
    ('м', b'm'),
    ('т', b't'),
    ('н', b'h'),
    ('в', b'b'),
    ('і', b'i'),
    ('ӏ', b'l'),
    ('κ', b'k'),
    ('τ', b't'),
    ('ν', b'v'),
    ('ε', b'e'),
    ('ı', b'i'),
    ('ᴀ', b'a'),
    ('ʙ', b'b'),
    ('ᴄ', b'c'),
    ('ᴅ', b'd'),
    ('ᴇ', b'e'),
    ('ꜰ', b'f'),
    ('ɢ', b'g'),
    ('ʜ', b'h'),
    ('ɪ', b'i'),
    ('ᴊ', b'j'),
    ('ᴋ', b'k'),
    ('ʟ', b'l'),
    ('ᴍ', b'm'),
    ('ɴ', b'n'),
    ('ᴏ', b'o'),
    ('ᴘ', b'p'),
    ('ʀ', b'r'),
    ('ꜱ', b's'),
    ('ᴛ', b't'),
    ('ᴜ', b'u'),
    ('ᴠ', b'v'),
    ('ᴡ', b'w'),
    ('ʏ', b'y'),
    ('ᴢ', b'z'),
];
