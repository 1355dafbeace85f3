//! What of a message is words that were said, and what is the form in which they travel.

use super::{SEAM, Sort, step};
use crate::fragment::{Fragment, Kind, Role};

/// Members whose values are words of a protocol, and these words.
const TERMS: [&str; 7] = ["audience", "format", "level", "resultType", "role", "status", "type"];
#[rustfmt::skip]
const WORDS: [&str; 35] = [
    "alert", "array", "assistant", "audio", "boolean", "cancelled", "complete", "completed", "critical", "date", "date-time", "debug",
    "email", "emergency", "error", "failed", "image", "info", "input_required", "integer", "notice", "null", "number",
    "object", "resource", "resource_link", "string", "system", "text", "tool_result", "tool_use", "uri", "user", "warning",
    "working",
];

/// Members that results have by the protocol, and no readers see.
#[rustfmt::skip]
const FRAME: [&str; 8] = ["_meta", "content", "isError", "mimeType", "resultType", "structuredContent", "text", "type"];

/// Whether a reader takes this string for words that were said, and not for a part of the form in which they travel.
pub(super) fn is_words(fragment: &Fragment<'_>) -> bool {
    let text = fragment.text.as_ref();
    let is_value = matches!(fragment.role, Role::Text | Role::Hidden);
    if !is_value || !text.chars().any(char::is_alphabetic) || !says_anything(text) {
        return false;
    }
    // Whatever it begins like: what is no words has no blanks at all.
    if text.contains(char::is_whitespace) {
        return true;
    }
    let is_number = |step: &&str| step.bytes().all(|byte| byte.is_ascii_digit());
    let name = fragment.at.rsplit('/').find(|step| !is_number(step)).unwrap_or_default();
    match name {
        "blob" => return false,
        // A picture, or a sound.
        "data" if text.len() > SEAM && is_encoded(text) => return false,
        name if TERMS.contains(&name) && WORDS.binary_search(&text).is_ok() => return false,
        _ => {}
    }
    // None of these holds markup, or letters of languages that do without blanks.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'<');
    !(is_plain && (is_address(text) || is_media_type(text) || is_date(text)))
}

/// Whether this string of a result is one that the protocol puts into results, and says nothing: the name of a member, or what a
/// block is.
pub(crate) fn is_frame(fragment: &Fragment<'_>) -> bool {
    let text = fragment.text.as_ref();
    match fragment.role {
        _ if fragment.kind != Kind::Result => false,
        Role::Key => FRAME.binary_search(&text).is_ok(),
        Role::Text => matches!(
            (fragment.at.rsplit('/').next().unwrap_or_default(), text),
            ("resultType", "complete") | ("type", "audio" | "image" | "resource" | "resource_link" | "text")
        ),
        Role::Hidden | Role::Name => false,
    }
}

/// Whether anything in it is read: the letters of a terminal sequence are not.
fn says_anything(text: &str) -> bool {
    let mut at = 0;
    while let Some((item, sort)) = step(text, at) {
        if sort == Sort::Word {
            return true;
        }
        at = item.end;
    }
    false
}

/// Whether `text` can be Base64 of either alphabet: a ruler of `=` in a log is none.
fn is_encoded(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'/' | b'_');
    text.trim_end_matches('=').bytes().all(is_digit)
}

fn is_address(text: &str) -> bool {
    text.contains("://") || ["data:", "mailto:", "urn:"].iter().any(|scheme| text.starts_with(scheme))
}

/// `text/plain`, and parameters: longer ones than a stretch are none.
fn is_media_type(text: &str) -> bool {
    let trees = ["application", "audio", "font", "image", "message", "model", "multipart", "text", "video"];
    let is_type = text.split_once('/').is_some_and(|(tree, rest)| trees.contains(&tree) && !rest.is_empty());
    is_type && text.len() <= SEAM
}

/// `2026-07-28`, and the time that may follow it.
fn is_date(text: &str) -> bool {
    let shape = text.bytes().take(10).map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    text.len() <= SEAM && shape.eq(*b"0000-00-00")
}
