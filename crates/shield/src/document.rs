//! The words of documents that travel as bytes: mail, web pages, office files, PDF (attacks.md II-07).
//!
//! Everything here is bounded before it is built: bytes unpacked, parts, levels. What cannot be read is said to be so, and
//! never passes for empty. PDF is read by other people's code, which keeps to no bounds of ours: [`read`] is for a process
//! of its own, which asks nobody for anything ([`wire`] is what is said to it), and [`plain`] for all others.

mod mail;
mod office;
#[cfg(feature = "pdf")]
mod pdf;
pub mod wire;
mod zip;

use std::borrow::Cow;

use crate::{
    finding::{Category, Finding, Place, Severity},
    fragment::Kind,
};

/// How much of a document is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text, all parts together; bytes unpacked are at most eight times as many.
    pub bytes: usize,
    /// Parts: of a mail, of an office file.
    pub parts: usize,
    /// Documents inside documents.
    pub depth: usize,
}

impl Default for Limits {
    /// 4 MiB, 256 parts, four levels.
    fn default() -> Self {
        Self { bytes: 4 << 20, parts: 256, depth: 4 }
    }
}

/// The words of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// Why some of it was not read.
    pub unread: Option<Unread>,
}

impl Words {
    /// Nothing was read, for this reason.
    pub fn unread(why: Unread) -> Self {
        Self { parts: Vec::new(), unread: Some(why) }
    }
}

/// Some words of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where they stand: made of numbers and our words, never of the document's; `/3/subject`.
    pub name: String,
    /// The words.
    pub text: String,
    /// Why a person who looks at the document does not see them.
    pub hidden: Option<Hidden>,
}

/// Why words of a document are not seen by whoever looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hidden {
    /// They are not painted at all, and no picture of them is (ISO 32000-2 §9.3.6, mode 3).
    Unpainted,
    /// They lie under or over a picture that fills the page, as a scanner's software writes them.
    Scanned,
    /// They have the colour of what they stand on, or none.
    Colour,
    /// They are smaller than two points.
    Tiny,
    /// They stand outside the page, or of what of it is shown.
    Outside,
    /// Their layer is switched off.
    Layer,
    /// Something was painted over them.
    Covered,
}

impl Hidden {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Unpainted, Self::Scanned, Self::Colour, Self::Tiny, Self::Outside, Self::Layer, Self::Covered];

    /// As in the names of parts and rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unpainted => "unpainted",
            Self::Scanned => "scanned",
            Self::Colour => "colour",
            Self::Tiny => "tiny",
            Self::Outside => "outside",
            Self::Layer => "layer",
            Self::Covered => "covered",
        }
    }

    /// That the document at `at` in a message of `kind` has such words.
    pub fn finding(self, kind: Kind, at: impl Into<String>) -> Finding {
        let (title, severity) = match self {
            Self::Unpainted => ("a document has text that is not painted", Severity::Medium),
            Self::Scanned => ("a document has text under a picture of a page", Severity::Low),
            Self::Colour => ("a document has text in the colour of what it stands on", Severity::Medium),
            Self::Tiny => ("a document has text too small to be seen", Severity::Medium),
            Self::Outside => ("a document has text outside its pages", Severity::Medium),
            Self::Layer => ("a document has text on a layer that is switched off", Severity::Medium),
            Self::Covered => ("a document has text that something covers", Severity::Medium),
        };
        finding(format!("document.hidden.{}", self.as_str()), title, Category::Hiding, severity, kind, at)
    }
}

fn finding(
    rule: String,
    title: &'static str,
    category: Category,
    severity: Severity,
    kind: Kind,
    at: impl Into<String>,
) -> Finding {
    Finding {
        rule: rule.into(),
        title: title.into(),
        category,
        severity,
        owasp: category.owasp().iter().map(|entry| (*entry).into()).collect(),
        kind,
        places: vec![Place { at: at.into(), range: 0..0, raw: None }],
        continued: false,
        readings: Vec::new(),
        excerpt: String::new(),
        score: None,
    }
}

/// Why a document, or part of one, was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unread {
    /// It is damaged, or says one thing and is another.
    Damaged,
    /// Nobody but its owner can read it.
    Encrypted,
    /// The reader failed on it, or ran out of memory.
    Failed,
    /// We have no reader for it, or for something in it.
    Kind,
    /// It has no answer in time.
    Late,
    /// Some of its letters are pictures: nobody can say which ones they are.
    Letters,
    /// It is larger or deeper than the limits, or one too many.
    TooMuch,
}

impl Unread {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Damaged, Self::Encrypted, Self::Failed, Self::Kind, Self::Late, Self::Letters, Self::TooMuch];

    /// That the document at `at` in a message of `kind` was not read.
    pub fn finding(self, kind: Kind, at: impl Into<String>) -> Finding {
        let (rule, title) = match self {
            Self::Damaged => ("document.damaged", "a document is damaged and was not read"),
            Self::Encrypted => ("document.encrypted", "a document is encrypted and was not read"),
            Self::Failed => ("document.reader-failed", "the reader of a document failed on it"),
            Self::Kind => ("document.unknown", "a document is of a kind that is not read"),
            Self::Late => ("document.too-slow", "a document takes too long to read"),
            Self::Letters => ("document.letters", "a document has letters that are only pictures"),
            Self::TooMuch => ("document.too-large", "a document is more than what is read"),
        };
        finding(rule.to_owned(), title, Category::Unread, Severity::Medium, kind, at)
    }
}

/// What a document is, by its first bytes before anything it says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Pictures, sound and film, which hold no text to be read.
    Media,
    Mail,
    Office,
    Pdf,
    Text,
    Unknown,
}

/// The words of what takes no reader: plain text and media, and what nobody reads. None of what does.
pub fn plain(bytes: &[u8], media_type: &str, limits: Limits) -> Option<Words> {
    match format(bytes, media_type) {
        Format::Media | Format::Text | Format::Unknown => Some(read(bytes, media_type, limits)),
        Format::Mail | Format::Office | Format::Pdf => None,
    }
}

/// The words of `bytes`, which are said to be of `media_type` (RFC 6838).
pub fn read(bytes: &[u8], media_type: &str, limits: Limits) -> Words {
    let mut reader = Reader { left: limits, words: Words::default() };
    reader.read(bytes, media_type, "", limits.depth);
    reader.words
}

struct Reader {
    left: Limits,
    words: Words,
}

impl Reader {
    fn read(&mut self, bytes: &[u8], media_type: &str, name: &str, depth: usize) {
        if depth == 0 {
            return self.unread(Unread::TooMuch);
        }
        match format(bytes, media_type) {
            Format::Media => {}
            Format::Mail => mail::read(self, bytes, name, depth),
            Format::Office => office::read(self, bytes, name),
            #[cfg(feature = "pdf")]
            Format::Pdf => pdf::read(self, bytes, name),
            #[cfg(not(feature = "pdf"))]
            Format::Pdf => self.unread(Unread::Kind),
            Format::Text => {
                if !is_plain(&mail::parameter(media_type, "charset").unwrap_or_default()) {
                    self.unread(Unread::Kind);
                }
                self.text(name, as_text(bytes));
            }
            Format::Unknown => self.unread(Unread::Kind),
        }
    }

    fn text(&mut self, name: &str, text: Cow<'_, str>) {
        self.add(name, text, None);
    }

    fn add(&mut self, name: &str, text: Cow<'_, str>, hidden: Option<Hidden>) {
        if self.left.parts == 0 || self.left.bytes < text.len() {
            return self.unread(Unread::TooMuch);
        }
        self.left.parts -= 1;
        self.left.bytes -= text.len();
        if !text.trim().is_empty() {
            self.words.parts.push(Part { name: name.to_owned(), text: text.into_owned(), hidden });
        }
    }

    fn unread(&mut self, why: Unread) {
        self.words.unread.get_or_insert(why);
    }
}

fn format(bytes: &[u8], media_type: &str) -> Format {
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return Format::Office;
    }
    // Readers of PDF look for its mark in the first kilobyte.
    let says_so = media_type == "application/pdf" || media_type == "application/x-pdf";
    let mark = memchr::memmem::find(bytes.get(..1024).unwrap_or(bytes), b"%PDF-");
    if bytes.trim_ascii_start().starts_with(b"%PDF-") || (mark.is_some() && (says_so || !is_text(bytes))) {
        return Format::Pdf;
    }
    if says_so {
        return Format::Unknown;
    }
    if bytes.starts_with(b"\xd0\xcf\x11\xe0") || bytes.starts_with(b"{\\rtf") {
        return Format::Unknown;
    }
    let (kind, of) = media_type.split_once('/').unwrap_or_default();
    let is_text = is_text(bytes);
    match (kind, of) {
        ("message", "rfc822" | "global") => Format::Mail,
        // An SVG is a page by another name.
        ("image", "svg+xml") => Format::Text,
        ("image" | "audio" | "video" | "font", _) if !is_text => Format::Media,
        ("text", _) => Format::Text,
        _ if is_text => Format::Text,
        _ => Format::Unknown,
    }
}

/// Whether letters of `charset` that are ASCII are written as there, or in UTF-16: others say what nobody reads here.
fn is_plain(charset: &str) -> bool {
    let charset = charset.to_ascii_lowercase();
    let known = [
        "ascii", "big5", "cp125", "euc", "gb", "iso-8859", "iso8859", "koi8", "latin", "mac", "shift",
        "sjis", "tis", "us-ascii", "utf-16", "utf-8", "utf16", "utf8", "windows-",
    ];
    charset.is_empty() || known.iter().any(|name| charset.starts_with(name))
}

/// Bytes as text: UTF-16 if they begin with its mark, or every second one is zero; UTF-8; or one byte a character, as old pages and
/// mails have it.
fn as_text(bytes: &[u8]) -> Cow<'_, str> {
    let units = |of: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).filter_map(|pair| pair.first_chunk().copied().map(of));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    match wide(bytes) {
        Some(Order::Little) => units(u16::from_le_bytes).into(),
        Some(Order::Big) => units(u16::from_be_bytes).into(),
        None => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => bytes.iter().map(|b| char::from(*b)).collect::<String>().into(),
        },
    }
}

/// Which byte of two comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Big,
    Little,
}

/// Whether `bytes` are UTF-16, by their mark (RFC 2781 §3.2) or by the zeros of plain letters in their first few.
fn wide(bytes: &[u8]) -> Option<Order> {
    match bytes {
        [0xff, 0xfe, ..] => return Some(Order::Little),
        [0xfe, 0xff, ..] => return Some(Order::Big),
        _ => {}
    }
    let pairs = || bytes.chunks_exact(2).take(32);
    let zeros = |of: usize| pairs().filter(|pair| pair.get(of) == Some(&0)).count();
    let mostly =
        |zeros: usize, others: usize| pairs().len() >= 4 && zeros * 2 > pairs().len() && others * 4 < zeros;
    match (zeros(0), zeros(1)) {
        (first, second) if mostly(second, first) => Some(Order::Little),
        (first, second) if mostly(first, second) => Some(Order::Big),
        _ => None,
    }
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests;
