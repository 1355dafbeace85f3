//! HTML and Markdown as a reader sees them, and what they hide.

use std::ops::Range;

use memchr::{memchr_iter, memchr2, memchr3_iter};

use super::{
    blanks,
    offsets::{Offsets, Rewriter},
    tricks::Trick,
    views::{Candidate, Reading},
};

/// A tag longer than this is taken for text.
const TAG: usize = 8 * 1024;

/// The text without tags and emphasis, entities decoded, comments laid open, and what tags say in entities; nothing if there is no
/// markup that could come between the letters or words of a phrase.
pub(super) fn shown(text: &str) -> Vec<Candidate> {
    if !has_markup(text) {
        return Vec::new();
    }
    let mut inside = Vec::new();
    let shown = without_markup(text, &mut inside);
    let said = (!inside.is_empty()).then(|| {
        let pieces = inside.iter().map(|(range, said)| (said.len(), range.clone()));
        let offsets = Offsets::pieces(pieces);
        let text = inside.iter().map(|(_, said)| said.as_str()).collect();
        Candidate { reading: Reading::Markup, text, offsets, trick: None, at: Vec::new() }
    });
    shown.into_iter().chain(said).collect()
}

/// Elements that stand for a gap, or for nothing, where they are empty.
const GAPS: [&str; 26] = [
    "a", "b", "br", "center", "div", "em", "font", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "p",
    "pre", "section", "span", "strong", "table", "td", "tr", "ul", "wbr",
];
/// Of these that are shown as no line of their own.
const INLINE: [&str; 8] = ["a", "b", "em", "font", "i", "span", "strong", "wbr"];
/// Lines and blanks between two other elements, on the average, where these say something to programs.
const LINES: usize = 8;
const BLANKS: usize = 64;

/// Whether `markup`, of which nothing but blanks is shown, is there for these: there are more between two of its elements that are no
/// gaps, or on the average of all, than such elements have.
pub(super) fn only_pads(markup: &str) -> bool {
    let (mut others, mut stretch, mut all) = (1, (0, 0), (0, 0));
    for (index, piece) in markup.split('<').enumerate() {
        let (tag, shown) =
            if index == 0 { ("b", piece) } else { piece.split_once('>').unwrap_or((piece, "")) };
        let name = tag
            .trim_start_matches('/')
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default();
        let is_one_of = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        // A comment is a gap as well.
        if tag.starts_with('!') || is_one_of(&GAPS) {
            let is_line = !tag.starts_with('!') && !is_one_of(&INLINE);
            stretch.0 += usize::from(is_line);
            all.0 += usize::from(is_line);
        } else {
            (others, stretch) = (others + 1, (0, 0));
        }
        let lines = memchr_iter(b'\n', shown.as_bytes()).count();
        let blanks = shown.bytes().filter(|b| matches!(b, b' ' | b'\t' | b'\r' | b'&')).count();
        stretch = (stretch.0 + lines, stretch.1 + blanks);
        all = (all.0 + lines, all.1 + blanks);
        if stretch.0 > blanks::LINES || stretch.1 > blanks::BLANKS {
            return true;
        }
    }
    all.0 > LINES * others || all.1 > BLANKS * others
}

/// The text without markup; what tags say in entities is added to `inside`.
fn without_markup(text: &str, inside: &mut Vec<(Range<usize>, String)>) -> Option<Candidate> {
    let bytes = text.as_bytes();
    let mut out = Rewriter::new(text);
    let (mut at, mut changed, mut hidden) = (0, false, Vec::new());
    // Bytes looked at for ends that are not there: what opens and never closes must not cost the square of its length.
    let mut wasted = 0;
    let allowed = text.len().saturating_mul(4).saturating_add(64 * 1024);
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|b| matches!(b, b'<' | b'&' | b'*' | b'`' | b'~')))
    {
        let start = at + found;
        let rest = text.get(start..).unwrap_or_default();
        let (length, with) = match bytes.get(start) {
            Some(b'<') if wasted > allowed => (0, ""),
            Some(b'<') => match tag(rest, &mut wasted) {
                Some(Tag::Comment { length }) => {
                    // The words of a comment stay: a model reads them.
                    out.replace(start..start + 4, " ");
                    out.replace(start + length - 3..start + length, " ");
                    hidden.extend((length > 40).then_some(start..start + length));
                    changed = true;
                    at = start + length;
                    continue;
                }
                Some(Tag::Element { length, block, hides }) => {
                    let tag = start..start + length;
                    let said = text.get(tag.clone()).and_then(decoded);
                    inside.extend(said.map(|said| (tag, said)));
                    // Where what it holds ends is for a parser of whole pages to say.
                    hidden.extend(hides.then_some(start..text.len()));
                    (length, if block { "\n" } else { "" })
                }
                Some(Tag::Unread { length }) => (length, "\n"),
                None => (0, ""),
            },
            Some(b'&') => match entity(rest) {
                Some((length, shown)) => {
                    out.replace(start..start + length, &shown);
                    changed = true;
                    at = start + length;
                    continue;
                }
                None => (0, ""),
            },
            // A home directory, and what may become one.
            Some(b'~') if matches!(bytes.get(start + 1), Some(b'/' | b'&')) => (0, ""),
            _ => (1, ""),
        };
        if length > 0 {
            out.replace(start..start + length, with);
            changed = true;
        }
        at = start + length.max(1);
    }
    let (text, offsets) = out.finish();
    let (trick, at) = match (wasted > allowed, hidden.is_empty()) {
        (true, _) => (Some(Trick::TooMuchEncoded), Vec::new()),
        (false, true) => (None, hidden),
        (false, false) => (Some(Trick::HiddenMarkup), hidden),
    };
    (changed || wasted > allowed).then(|| Candidate {
        reading: Reading::Markup,
        text: text.into_owned(),
        offsets,
        trick,
        at,
    })
}

fn has_markup(text: &str) -> bool {
    let bytes = text.as_bytes();
    let after = |at: usize| bytes.get(at + 1).copied().unwrap_or(0);
    let tags =
        memchr_iter(b'<', bytes).any(|at| matches!(after(at), b'/' | b'!' | b'a'..=b'z' | b'A'..=b'Z'));
    let entities = || {
        memchr_iter(b'&', bytes).any(|at| {
            let is_closed =
                || bytes.get(at..).and_then(|rest| memchr2(b';', b' ', rest)).is_some_and(|end| end <= 32);
            after(at) == b'#' && is_number_sign(bytes.get(at + 2..).unwrap_or_default())
                || after(at).is_ascii_alphabetic() && is_closed()
        })
    };
    let emphasis = || {
        memchr3_iter(b'*', b'`', b'~', bytes).any(|at| {
            let letter = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphabetic() || *b >= 0x80);
            let before = bytes.get(..at).unwrap_or_default().iter().rev().find(|b| !is_emphasis(**b));
            let behind = bytes.get(at..).unwrap_or_default().iter().find(|b| !is_emphasis(**b));
            letter(before) && letter(behind)
        })
    };
    tags || entities() || emphasis()
}

/// Whether a number begins here, in either notation.
fn is_number_sign(rest: &[u8]) -> bool {
    match rest {
        [b'x' | b'X', digit, ..] => digit.is_ascii_hexdigit(),
        [digit, ..] => digit.is_ascii_digit(),
        [] => false,
    }
}

fn is_emphasis(byte: u8) -> bool {
    matches!(byte, b'*' | b'`' | b'~')
}

enum Tag {
    Comment {
        length: usize,
    },
    Element {
        length: usize,
        block: bool,
        hides: bool,
    },
    /// Style sheets and scripts, which are read as text by the plain view.
    Unread {
        length: usize,
    },
}

/// The tag at the start of `rest`; `wasted` grows by what was looked at in vain.
fn tag(rest: &str, wasted: &mut usize) -> Option<Tag> {
    if rest.starts_with("<!--") {
        let end = rest.get(4..)?.find("-->");
        if end.is_none() {
            *wasted += rest.len();
        }
        return Some(Tag::Comment { length: 4 + end? + 3 });
    }
    let bytes = rest.as_bytes();
    if !matches!(bytes.get(1), Some(b'/' | b'!' | b'a'..=b'z' | b'A'..=b'Z')) {
        return None;
    }
    let mut quote = None;
    let mut length = None;
    for (at, &b) in bytes.iter().enumerate().take(TAG) {
        match (quote, b) {
            (None, b'"' | b'\'') => quote = Some(b),
            (Some(open), _) if open == b => quote = None,
            (None, b'>') => {
                length = Some(at + 1);
                break;
            }
            (None, b'<') if at > 0 => break,
            _ => *wasted += 1,
        }
    }
    let length = length?;
    *wasted = wasted.saturating_sub(length);
    let inside = rest.get(1..length - 1)?.to_ascii_lowercase();
    let name: String =
        inside.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
    if matches!(name.as_str(), "script" | "style") && !inside.starts_with('/') {
        let close = format!("</{name}");
        // ASCII only, so the case does not matter to offsets.
        let body = rest.get(length..)?;
        let end = find_ignoring_case(body, &close).map_or(length, |end| length + end);
        if end == length {
            *wasted += body.len();
        }
        return Some(Tag::Unread { length: end });
    }
    let block = matches!(
        name.as_str(),
        "p" | "div"
            | "br"
            | "li"
            | "ul"
            | "ol"
            | "tr"
            | "td"
            | "th"
            | "table"
            | "section"
            | "article"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "pre"
            | "blockquote"
            | "hr"
            | "title"
            | "head"
            | "body"
            | "html"
    );
    Some(Tag::Element { length, block, hides: hides(&inside) })
}

fn find_ignoring_case(text: &str, needle: &str) -> Option<usize> {
    memchr_iter(b'<', text.as_bytes()).find(|&at| {
        text.as_bytes().get(at..at + needle.len()).is_some_and(|b| b.eq_ignore_ascii_case(needle.as_bytes()))
    })
}

/// Whether an element's attributes say not to show it.
fn hides(inside: &str) -> bool {
    let packed: String = inside.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if packed.contains(':') && hides_by_size(&packed) {
        return true;
    }
    [
        "display:none",
        "visibility:hidden",
        "visibility:collapse",
        "clip:rect(0",
        "clip-path:inset(100%",
        "clip-path:inset(50%",
        "text-indent:-9",
        "left:-9999",
        "color:transparent",
    ]
    .iter()
    .any(|style| packed.contains(style))
        || inside.split_ascii_whitespace().skip(1).any(|word| word == "hidden" || word.starts_with("hidden="))
}

/// Whether a style, without blanks, makes what it is for too small or too faint for a person.
fn hides_by_size(packed: &str) -> bool {
    // Number and unit of each value of a property that is called so, or has a name that ends so.
    let values = |name: &str, is: fn(f32, &str) -> bool| {
        packed.match_indices(name).any(|(at, _)| {
            let (before, value) = packed.split_at_checked(at).unwrap_or_default();
            let is_other = before.ends_with('-') && !before.ends_with("max-");
            let value = value.get(name.len()..).unwrap_or_default();
            !is_other && number_and_unit(value).is_some_and(|(number, unit)| is(number, unit))
        })
    };
    values("font-size:", is_tiny)
        || values("font:", is_tiny)
        || values("opacity:", is_faint)
        || values("scale(", is_faint)
        || values("width:", is_zero)
        || values("height:", is_zero)
}

/// Of a tenth of its ink nobody sees words.
fn is_faint(number: f32, unit: &str) -> bool {
    number <= if unit.starts_with('%') { 10.0 } else { 0.1 }
}

/// Smaller than two points, as in documents; text is 16 pixels high unless somebody says otherwise.
fn is_tiny(number: f32, unit: &str) -> bool {
    // Of other units there is nothing so small.
    let known = [("px", 0.75), ("pt", 1.0), ("%", 0.12), ("em", 12.0), ("rem", 12.0)];
    let points = known.iter().find(|(name, _)| unit.starts_with(name)).map_or(10.0, |(_, points)| *points);
    number * points < 2.0
}

fn is_zero(number: f32, unit: &str) -> bool {
    number <= 0.0 && !unit.starts_with(|c: char| c.is_ascii_digit())
}

/// The number at the start of a value in a style, and what follows it.
fn number_and_unit(value: &str) -> Option<(f32, &str)> {
    // The longest that is one: `1e-3` is, `1e` of `1em` is none.
    let starts = (1..=value.len().min(12)).rev().filter_map(|length| value.split_at_checked(length));
    let is_number =
        |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
    starts
        .filter(|(number, _)| is_number(number))
        .find_map(|(number, unit)| Some((number.parse().ok()?, unit)))
}

/// What a character reference at the start of `rest` shows (HTML §13.5), and its length. A number needs no semicolon behind it:
/// readers show it all the same.
fn entity(rest: &str) -> Option<(usize, String)> {
    if let Some(number) = rest.strip_prefix("&#") {
        let (radix, digits) = match number.strip_prefix(['x', 'X']) {
            Some(digits) => (16, digits),
            None => (10, number),
        };
        let length = digits.bytes().take(32).take_while(|b| char::from(*b).is_digit(radix)).count();
        let code = u32::from_str_radix(digits.get(..length)?, radix).ok()?;
        let close = usize::from(digits.as_bytes().get(length) == Some(&b';'));
        let before = rest.len() - digits.len();
        return Some((before + length + close, char::from_u32(code)?.to_string()));
    }
    let end = rest.as_bytes().iter().take(32).position(|&b| b == b';')?;
    let name = rest.get(1..end)?;
    let shown = match NAMED.iter().find(|(known, _)| *known == name) {
        Some((_, c)) => c.to_string(),
        None => letter(name)?,
    };
    Some((end + 1, shown))
}

/// A tag with its entities read, if they stand for letters, figures, blanks or what is not seen; other signs are written so in
/// all honesty.
fn decoded(tag: &str) -> Option<String> {
    let mut marks = memchr_iter(b'&', tag.as_bytes()).peekable();
    marks.peek()?;
    let mut out = Rewriter::new(tag);
    let (mut done, mut is_odd) = (0, false);
    for (start, (length, shown)) in marks.filter_map(|at| Some((at, entity(tag.get(at..)?)?))) {
        if start >= done {
            is_odd |= shown.chars().any(|c| c.is_alphanumeric() || c.is_whitespace() || !c.is_ascii());
            out.replace(start..start + length, &shown);
            done = start + length;
        }
    }
    is_odd.then(|| out.finish().0.into_owned() + "\n\n")
}

/// The letter that `eacute`, `iscr` and their like name.
fn letter(name: &str) -> Option<String> {
    let base = name.chars().next().filter(char::is_ascii_alphabetic)?;
    let style = name.get(1..)?;
    if matches!(style, "fr" | "opf" | "scr") {
        return Some(base.into());
    }
    let (_, mark) = MARKS.iter().find(|(known, _)| *known == style)?;
    Some([base, *mark].iter().collect())
}

/// Marks on letters, as combining characters.
const MARKS: &[(&str, char)] = &[
    ("acute", '\u{301}'),
    ("breve", '\u{306}'),
    ("caron", '\u{30c}'),
    ("cedil", '\u{327}'),
    ("circ", '\u{302}'),
    ("dot", '\u{307}'),
    ("grave", '\u{300}'),
    ("macr", '\u{304}'),
    ("ogon", '\u{328}'),
    ("ring", '\u{30a}'),
    ("tilde", '\u{303}'),
    ("uml", '\u{308}'),
];

const NAMED: &[(&str, char)] = &[
    ("ApplyFunction", '\u{2061}'),
    ("InvisibleComma", '\u{2063}'),
    ("InvisibleTimes", '\u{2062}'),
    ("NegativeMediumSpace", '\u{200b}'),
    ("NegativeThickSpace", '\u{200b}'),
    ("NegativeThinSpace", '\u{200b}'),
    ("NegativeVeryThinSpace", '\u{200b}'),
    ("NewLine", '\n'),
    ("NoBreak", '\u{2060}'),
    ("NonBreakingSpace", ' '),
    ("Tab", '\t'),
    ("ZeroWidthSpace", '\u{200b}'),
    ("af", '\u{2061}'),
    ("amp", '&'),
    ("apos", '\''),
    ("ast", '*'),
    ("bsol", '\\'),
    ("colon", ':'),
    ("comma", ','),
    ("commat", '@'),
    ("dollar", '$'),
    ("emsp", ' '),
    ("ensp", ' '),
    ("equals", '='),
    ("excl", '!'),
    ("gt", '>'),
    ("hairsp", ' '),
    ("hyphen", '-'),
    ("ic", '\u{2063}'),
    ("imath", 'i'),
    ("it", '\u{2062}'),
    ("lbrace", '{'),
    ("lbrack", '['),
    ("lowbar", '_'),
    ("lpar", '('),
    ("lrm", '\u{200e}'),
    ("lt", '<'),
    ("mdash", '—'),
    ("nbsp", ' '),
    ("ndash", '–'),
    ("num", '#'),
    ("numsp", ' '),
    ("percnt", '%'),
    ("period", '.'),
    ("plus", '+'),
    ("puncsp", ' '),
    ("quest", '?'),
    ("quot", '"'),
    ("rbrace", '}'),
    ("rbrack", ']'),
    ("rlm", '\u{200f}'),
    ("rpar", ')'),
    ("semi", ';'),
    ("shy", '\u{ad}'),
    ("sol", '/'),
    ("thinsp", ' '),
    ("verbar", '|'),
    ("zwj", '\u{200d}'),
    ("zwnj", '\u{200c}'),
];
