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
    let (mut at, mut changed, mut hidden) = (0, false, false);
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
                    hidden |= length > 40;
                    changed = true;
                    at = start + length;
                    continue;
                }
                Some(Tag::Element { length, block, hides }) => {
                    hidden |= hides;
                    (length, if block { "\n" } else { "" })
                }
                Some(Tag::Unread { length }) => (length, "\n"),
                None => (0, ""),
            },
            Some(b'&') => match entity(rest) {
                Some((length, c)) => {
                    let mut buffer = [0; 4];
                    out.replace(start..start + length, c.encode_utf8(&mut buffer));
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
    let trick =
        if wasted > allowed { Some(Trick::TooMuchEncoded) } else { hidden.then_some(Trick::HiddenMarkup) };
    (changed || wasted > allowed).then(|| Candidate {
        reading: Reading::Markup,
        text: text.into_owned(),
        offsets,
        trick,
    })
}

fn has_markup(text: &str) -> bool {
    let bytes = text.as_bytes();
    let after = |at: usize| bytes.get(at + 1).copied().unwrap_or(0);
    let tags =
        memchr_iter(b'<', bytes).any(|at| matches!(after(at), b'/' | b'!' | b'a'..=b'z' | b'A'..=b'Z'));
    let entities = || {
        memchr_iter(b'&', bytes).any(|at| {
            (after(at) == b'#' || after(at).is_ascii_alphabetic())
                && bytes.get(at..).and_then(|rest| memchr2(b';', b' ', rest)).is_some_and(|end| end <= 32)
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
    [
        "display:none",
        "visibility:hidden",
        "font-size:0",
        "font-size:1px",
        "opacity:0;",
        "opacity:0\"",
        "opacity:0'",
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

/// A character reference at the start of `rest` (HTML §13.5) and its length.
fn entity(rest: &str) -> Option<(usize, char)> {
    let end = rest.as_bytes().iter().take(32).position(|&b| b == b';')?;
    let name = rest.get(1..end)?;
    let c = if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        char::from_u32(code)?
    } else {
        NAMED.iter().find(|(known, _)| *known == name)?.1
    };
    Some((end + 1, c))
}

const NAMED: &[(&str, char)] = &[
    ("NewLine", '\n'),
    ("Tab", '\t'),
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
    ("hyphen", '-'),
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
    ("percnt", '%'),
    ("period", '.'),
    ("plus", '+'),
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
