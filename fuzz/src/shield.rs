//! What the shield makes of text: its normal form, its fragments, its marks.

use bartizan_shield::{
    Fragment, Kind, Role, Scene, Shield, Spotlight, document as documents,
    json::{self, Limits},
    normalize::{self, normalize, views},
    spotlight,
};
use serde_json::Value;

/// A text in normal form is in normal form, and every byte of every view leads back into the text.
pub fn normal(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let once = normalize(&text);
    let again = normalize(once.text());
    assert_eq!(once.text(), again.text(), "{text:?}");
    let leads_back = |range: std::ops::Range<usize>| {
        assert!(range.start <= range.end && text.get(range.clone()).is_some(), "{range:?} of {text:?}");
    };
    for (at, c) in once.text().char_indices() {
        leads_back(once.original(at..at + c.len_utf8()));
    }
    let all = views(&text, normalize::Limits::for_text(&text));
    for undone in all.tricks().as_slice() {
        undone.places.iter().cloned().for_each(leads_back);
    }
    for view in all.others() {
        for (at, c) in view.text().char_indices() {
            leads_back(all.original(view, at..at + c.len_utf8()));
        }
    }
}

/// Whatever is read of a JSON text is all of its strings, where they are said to be; what is not read is no JSON.
/// Judging it and cutting out what was found leaves JSON.
pub fn fragments(bytes: &[u8]) {
    let Ok(raw) = std::str::from_utf8(bytes) else { return };
    let limits = Limits { depth: 64, strings: 1000 };
    let found = match json::fragments(raw, Kind::Result, limits) {
        Ok(found) => found,
        Err(json::Fault::Syntax(_)) => {
            assert!(serde_json::from_str::<Value>(raw).is_err(), "refused, and serde_json reads it: {raw:?}");
            return;
        }
        Err(_) => return,
    };
    let other = serde_json::from_str::<Value>(raw);
    for fragment in &found {
        let literal = fragment.raw.clone().and_then(|range| raw.get(range)).expect("it has a literal");
        assert!(literal.starts_with('"') && literal.ends_with('"'), "{literal:?}");
        if let Ok(text) = serde_json::from_str::<String>(literal) {
            assert_eq!(text, fragment.text);
        }
    }
    let Ok(other) = other else { return };
    assert_eq!(found.iter().filter(|f| f.role == Role::Text).count(), strings(&other, raw), "{raw:?}");
    let verdict = Shield::new(bartizan_shield::Config::default()).inspect(&Scene::default(), &found);
    let redacted = json::redact(raw, &verdict);
    assert!(serde_json::from_str::<Value>(&redacted).is_ok(), "{redacted:?}");
}

/// How many strings there are; keys that stand twice hide some from `serde_json`, so those texts do not count.
fn strings(value: &Value, raw: &str) -> usize {
    fn keys(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.iter().map(keys).sum(),
            Value::Object(members) => members.len() + members.values().map(keys).sum::<usize>(),
            _ => 0,
        }
    }
    fn texts(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.iter().map(texts).sum(),
            Value::Object(members) => members.values().map(texts).sum(),
            Value::String(_) => 1,
            _ => 0,
        }
    }
    let found = json::fragments(raw, Kind::Result, Limits::default()).unwrap_or_default();
    let written = found.iter().filter(|f| f.role == Role::Key).count();
    if written == keys(value) { texts(value) } else { found.len() - written }
}

/// A text comes back from its marks, less what was a mark already, and cannot end its delimiters.
pub fn marks(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let marked = spotlight::mark(&text);
    assert_eq!(spotlight::unmark(&marked), spotlight::strip(&text), "{text:?}");
    let entropy = bartizan_model::SeededEntropy::new(7);
    for mode in [Spotlight::Delimit, Spotlight::Mark, Spotlight::Encode] {
        let Some(shown) = spotlight::spotlight(mode, &text, "s", &entropy) else { continue };
        assert_eq!(
            (shown.matches("<<untrusted").count(), shown.matches("<<end").count()),
            (1, 1),
            "{shown:?}"
        );
    }
    // Whatever is asked about goes out in pieces that hold all of it.
    let words = bartizan_shield::Text::of(Kind::Result, &[Fragment::new(Kind::Result, "/a", text)]);
    let _ = words.len();
}

/// Whatever is said to be a document is read within its limits, or is said not to have been.
pub fn document(bytes: &[u8]) {
    let limits = documents::Limits { bytes: 64 * 1024, parts: 16, depth: 3 };
    for media_type in
        ["message/rfc822", "application/octet-stream", "application/pdf", "text/html", "image/png"]
    {
        let words = documents::read(bytes, media_type, limits);
        assert!(words.parts.len() <= limits.parts);
        assert!(words.parts.iter().map(|part| part.text.len()).sum::<usize>() <= limits.bytes);
        // What a reader says of it comes through to whoever asked, whole.
        let mut question = documents::wire::question(bytes, media_type).unwrap_or_default();
        question.extend(bytes);
        let mut said = Vec::new();
        assert!(documents::wire::serve(question.as_slice(), &mut said, limits).is_ok());
        let answer = said.split_first_chunk().and_then(|(head, rest)| {
            (documents::wire::answer_length(*head, limits)? == rest.len()).then_some(rest)
        });
        assert_eq!(answer.and_then(|rest| documents::wire::answer(rest, limits)).as_ref(), Some(&words));
        // And whatever it might say is believed within the limits only.
        if let Some(believed) = documents::wire::answer(bytes, limits) {
            assert!(believed.parts.len() <= limits.parts);
        }
        let is_whole = words.unread.is_none();
        let is_plain =
            std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0') && !text.trim().is_empty());
        if media_type == "text/html" && is_plain && is_whole && bytes.len() <= limits.bytes {
            assert!(!words.parts.is_empty(), "a page without words: {bytes:?}");
        }
    }
}
