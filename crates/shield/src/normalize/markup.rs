//! HTML and Markdown as a reader sees them, and what they hide.

use memchr::{memchr_iter, memchr2, memchr3_iter};

use super::{
    offsets::Rewriter,
    tricks::Trick,
    views::{Candidate, Reading},
};

/// A tag longer than this is taken for text.
const TAG: usize = 8 * 1024;

/// The text without tags and emphasis, entities decoded, comments laid open; nothing if there is no markup that
/// could come between the letters or words of a phrase.
pub(super) fn shown(text: &str) -> Option<Candidate> {
    if !has_markup(text) {
        return None;
    }
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
    // What is a twentieth or less of something is nothing.
    let is_nothing = |of: &str| {
        packed.match_indices(of).any(|(at, _)| {
            let value = packed.get(at + of.len()..).unwrap_or_default();
            let digits = value.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
            let (number, unit) = value.split_at_checked(digits).unwrap_or_default();
            let number = number.parse::<f32>().unwrap_or(1.0);
            number <= if unit.starts_with("px") || unit.starts_with("pt") { 1.0 } else { 0.05 }
        })
    };
    is_nothing("opacity:")
        || is_nothing("font-size:")
        || [
            "display:none",
            "visibility:hidden",
            "visibility:collapse",
            "clip:rect(0",
            "clip-path:inset(100%",
            "clip-path:inset(50%",
            "transform:scale(0)",
            "text-indent:-9",
            "left:-9999",
            "color:transparent",
            "width:0;",
            "height:0;",
        ]
        .iter()
        .any(|style| packed.contains(style))
        || inside.split_ascii_whitespace().skip(1).any(|word| word == "hidden" || word.starts_with("hidden="))
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
