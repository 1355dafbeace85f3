//! The words of documents that travel as bytes: mail, web pages, office files (attacks.md II-07).
//!
//! Everything here is bounded before it is built: bytes unpacked, parts, levels. What cannot be read is said to be so, and
//! never passes for empty.

mod mail;
mod office;
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
    /// Name and text of each part, in order; the name is made of numbers and our words, never of the document's.
    pub parts: Vec<(String, String)>,
    /// Why some of it was not read.
    pub unread: Option<Unread>,
}

/// Why a document, or part of one, was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unread {
    /// It is damaged, or says one thing and is another.
    #[error("a document is damaged and was not read")]
    Damaged,
    /// Nobody but its owner can read it.
    #[error("a document is encrypted and was not read")]
    Encrypted,
    /// We have no reader for it.
    #[error("a document is of a kind that is not read")]
    Kind,
    /// It is larger, or deeper, than the limits.
    #[error("a document is larger than what is read")]
    TooMuch,
}

impl Unread {
    /// That the document at `at` in a message of `kind` was not read.
    pub fn finding(self, kind: Kind, at: impl Into<String>) -> Finding {
        let rule = match self {
            Self::Damaged => "document.damaged",
            Self::Encrypted => "document.encrypted",
            Self::Kind => "document.unknown",
            Self::TooMuch => "document.too-large",
        };
        Finding {
            rule: rule.into(),
            title: self.to_string().into(),
            category: Category::Unread,
            severity: Severity::Medium,
            owasp: Category::Unread.owasp().iter().map(|entry| (*entry).into()).collect(),
            kind,
            places: vec![Place { at: at.into(), range: 0..0, raw: None }],
            continued: false,
            readings: Vec::new(),
            excerpt: String::new(),
            score: None,
        }
    }
}

/// What a document is, by its first bytes before anything it says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Pictures, sound and film, which hold no text to be read.
    Media,
    Mail,
    Office,
    Text,
    Unknown,
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
            Format::Text => match std::str::from_utf8(bytes) {
                Ok(text) => self.text(name, text.into()),
                // One byte a character, as old pages and mails have it.
                Err(_) => self.text(name, bytes.iter().map(|b| char::from(*b)).collect::<String>().into()),
            },
            Format::Unknown => self.unread(Unread::Kind),
        }
    }

    fn text(&mut self, name: &str, text: Cow<'_, str>) {
        if self.left.parts == 0 || self.left.bytes < text.len() {
            return self.unread(Unread::TooMuch);
        }
        self.left.parts -= 1;
        self.left.bytes -= text.len();
        if !text.trim().is_empty() {
            self.words.parts.push((name.to_owned(), text.into_owned()));
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
    if bytes.starts_with(b"%PDF") || bytes.starts_with(b"\xd0\xcf\x11\xe0") || bytes.starts_with(b"{\\rtf") {
        return Format::Unknown;
    }
    let (kind, of) = media_type.split_once('/').unwrap_or_default();
    let is_text = std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
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

#[cfg(test)]
mod tests;
