//! Office files (ECMA-376): the words in the XML of a DOCX, XLSX or PPTX, comments, notes and hidden sheets with them.
//!
//! Which part is the document is said by relations and types that a file may choose as it likes, and so are names. So every part
//! is read that is XML, wherever it stands.

use super::{Reader, Unread, as_text, zip};

/// How many times the text's limit may be unpacked: XML is mostly tags.
const UNPACKED: usize = 8;
/// Bytes of a part by which it is told what it is.
const SIGN: usize = 64;

pub fn read(reader: &mut Reader, bytes: &[u8], name: &str) {
    let entries = match zip::entries(bytes, 4 * reader.left.parts) {
        Ok(entries) => entries,
        Err(why) => return reader.unread(why),
    };
    let Some(types) = entries.iter().position(|entry| entry.name == TYPES) else {
        return reader.unread(Unread::Kind);
    };
    let mut left = reader.left.bytes.saturating_mul(UNPACKED);
    for (number, entry) in entries.iter().enumerate() {
        // What cannot be unpacked is looked at as a whole, which says why.
        let sign = entry.begin(SIGN).unwrap_or_else(|_| b"<".to_vec());
        let text = match sort(&sign) {
            Sort::Picture => continue,
            // What a file carries inside it is not opened.
            Sort::Document => Err(Unread::Kind),
            Sort::Markup | Sort::Text => entry.unpack(left),
        };
        let bytes = match text {
            Ok(bytes) => bytes,
            Err(why) => {
                reader.unread(why);
                continue;
            }
        };
        left -= bytes.len();
        let text = as_text(&bytes);
        if number == types && ["binary", "vbaProject", "oleObject"].iter().any(|kind| text.contains(kind)) {
            // Programs, and sheets that are no XML.
            reader.unread(Unread::Kind);
        }
        if text.contains("<!ENTITY") {
            // Words of its own for what is not there have no business here (ECMA-376-2 §8.2.1.1).
            reader.unread(Unread::Damaged);
        }
        let text = if sort(&sign) == Sort::Markup { words(&text).into() } else { text };
        reader.text(&format!("{name}/{number}"), text);
    }
    if entries.iter().any(|e| e.name.contains("/embeddings/") || e.name.ends_with("vbaProject.bin")) {
        reader.unread(Unread::Kind);
    }
}

/// The part that says what the others are.
const TYPES: &str = "[Content_Types].xml";

/// What a part is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// An archive, a PDF, an old office file, RTF.
    Document,
    /// XML or HTML.
    Markup,
    /// Pictures, fonts, settings of printers.
    Picture,
    Text,
}

/// What a part is that begins so.
fn sort(sign: &[u8]) -> Sort {
    let is = |marks: &[&[u8]]| marks.iter().any(|mark| sign.starts_with(mark));
    if is(&[b"PK\x03\x04", b"%PDF-", b"\xd0\xcf\x11\xe0", b"{\\rtf"]) {
        return Sort::Document;
    }
    let text = as_text(sign);
    if text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').starts_with('<') {
        return Sort::Markup;
    }
    let is_readable = text.chars().all(|c| !c.is_control() || c.is_whitespace());
    let is_utf8 = std::str::from_utf8(sign).map_or_else(|fault| fault.error_len().is_none(), |_| true);
    if is_readable && is_utf8 { Sort::Text } else { Sort::Picture }
}

/// The text of an XML document: what stands between tags, attributes that are shown, a line for every paragraph, row and
/// cell.
fn words(xml: &str) -> String {
    let mut out = String::with_capacity(xml.len() / 4);
    let mut rest = xml;
    let mut root = None;
    while let Some(start) = rest.find('<') {
        push(&mut out, rest.get(..start).unwrap_or_default());
        let tag = rest.get(start..).unwrap_or_default();
        if let Some(data) = tag.strip_prefix("<![CDATA[") {
            let end = data.find("]]>").unwrap_or(data.len());
            out.push_str(data.get(..end).unwrap_or_default());
            rest = data.get(end..).unwrap_or_default().strip_prefix("]]>").unwrap_or_default();
            continue;
        }
        let length = length(tag);
        let inside = tag.get(..length).unwrap_or_default();
        let name = inside.trim_start_matches(['<', '/']).split([' ', '/', '>', '\n', '\r', '\t']).next();
        let name = name.unwrap_or_default().rsplit(':').next().unwrap_or_default();
        if root.is_none() && name.starts_with(|c: char| c.is_alphabetic()) {
            root = Some(name);
        }
        match name {
            "p" | "br" | "tr" | "row" | "si" | "c" | "cr" | "v" | "is" | "comment" | "sheet" => {
                out.push('\n')
            }
            "tab" | "tc" => out.push('\t'),
            _ => {}
        }
        // Alternative texts, names of sheets, prompts and captions are words too.
        let speaks = root.is_none_or(|root| !DULL.contains(&root));
        for (key, value) in attributes(inside).filter(|_| speaks) {
            let count = value.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count();
            let is_link = key == "Target" && value.contains("://");
            if is_link || count > if NAMED.contains(&key) { 1 } else { 2 } {
                out.push('\n');
                push(&mut out, value);
                out.push('\n');
            }
        }
        rest = tag.get(length..).unwrap_or_default();
    }
    push(&mut out, rest);
    out
}

/// Bytes of the tag, comment or instruction that `rest` begins with: a `>` between quotes ends nothing.
fn length(rest: &str) -> usize {
    let until = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    if rest.starts_with("<!--") {
        return until("-->");
    }
    if rest.starts_with("<?") {
        return until("?>");
    }
    let mut quote = None;
    let end = rest.bytes().position(|b| match (quote, b) {
        (None, b'"' | b'\'') => {
            quote = Some(b);
            false
        }
        (Some(open), _) => {
            quote = (open != b).then_some(open);
            false
        }
        (None, _) => b == b'>',
    });
    end.map_or_else(|| until(">"), |at| at + 1)
}

/// Documents in whose attributes are names of fonts and styles. Nobody takes one for a text.
const DULL: [&str; 5] = ["fonts", "numbering", "settings", "styles", "theme"];

/// Attributes that name something for people.
const NAMED: [&str; 4] = ["descr", "name", "title", "tooltip"];

/// The attributes of a tag, without their prefixes.
fn attributes(tag: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = tag;
    std::iter::from_fn(move || {
        let (before, behind) = rest.split_once('=')?;
        let quote = behind.trim_start().chars().next().filter(|c| matches!(c, '"' | '\''));
        let Some(quote) = quote else {
            rest = behind;
            return Some(("", ""));
        };
        let value = behind.trim_start().get(1..).unwrap_or_default();
        let (value, behind) = value.split_once(quote).unwrap_or((value, ""));
        rest = behind;
        let key = before.trim_end().rsplit(|c: char| c.is_whitespace() || c == ':').next();
        Some((key.unwrap_or_default(), value))
    })
}

/// Adds text with its entities read.
fn push(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(rest.get(..at).unwrap_or_default());
        let behind = rest.get(at + 1..).unwrap_or_default();
        let entity = behind.split(';').next().filter(|name| name.len() <= 8 && name.len() < behind.len());
        let c = entity.and_then(|name| match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => {
                let digits = name.strip_prefix('#')?;
                let number = match digits.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => digits.parse().ok()?,
                };
                char::from_u32(number)
            }
        });
        match (c, entity) {
            (Some(c), Some(name)) => {
                out.push(c);
                rest = behind.get(name.len() + 1..).unwrap_or_default();
            }
            _ => {
                out.push('&');
                rest = behind;
            }
        }
    }
    out.push_str(rest);
}
