//! Messages: the envelope against `serde_json`, and that a splice changes what it says and nothing else.

use bartizan_mcp::message::{Kind, Message};
use serde_json::{Map, Value as Other, json};

use crate::json::compare;

/// A message that is believed reads the same elsewhere, and survives every change we make to one.
pub fn message(bytes: &[u8]) {
    if let Ok(batch) = Message::parse_batch(bytes.to_vec()) {
        assert!(!batch.is_empty());
        for message in batch {
            let alone = Message::parse(message.text().as_bytes().to_vec()).expect("alone as in a batch");
            assert_eq!(alone.kind(), message.kind());
        }
    }
    let Ok(message) = Message::parse(bytes.to_vec()) else { return };
    let other: Map<String, Other> = serde_json::from_slice(bytes).expect("a message is a JSON object");
    envelope(&message, &other);
    splices(&message, &other);
}

fn envelope(message: &Message, other: &Map<String, Other>) {
    assert_eq!(other["jsonrpc"], "2.0");
    let has = |key: &str| other.contains_key(key);
    let kind = match (has("method"), has("id")) {
        (true, true) => Kind::Request,
        (true, false) => Kind::Notification,
        (false, _) => Kind::Response,
    };
    assert_eq!(message.kind(), kind);
    assert_eq!(message.method(), other.get("method").and_then(Other::as_str).unwrap_or_default());
    let parts = [
        ("id", message.id_value()),
        ("params", message.params()),
        ("result", message.result()),
        ("error", message.error()),
    ];
    for (key, ours) in parts {
        match ours {
            // A response, too, may carry a member called `params`; it means nothing there, but it is read.
            Some(ours) => compare(ours, &other[key], 0, &mut 0),
            None => assert!(other.get(key).is_none_or(Other::is_null), "{key} is overlooked"),
        }
    }
}

fn splices(message: &Message, other: &Map<String, Other>) {
    let mut expected = other.clone();
    expected.insert("id".into(), json!("ours"));
    agree(message.with_id("\"ours\""), &expected);

    let Some(params) = message.params().filter(|_| message.kind() != Kind::Response) else { return };
    let mut expected = expected;
    let mut splice = message.splice();
    splice.set(message.root(), "id", "\"ours\"");
    match params.get("_meta") {
        Some(meta) => {
            splice.retain(meta, |key| key != "baggage" && !key.starts_with('x'));
            expected["params"]["_meta"]
                .as_object_mut()
                .expect("`_meta` is an object")
                .retain(|key, _| key != "baggage" && !key.starts_with('x'));
        }
        None => {
            splice.insert(params, "_meta", r#"{"a":1}"#);
            expected["params"]["_meta"] = json!({ "a": 1 });
        }
    }
    splice.set(params, "na\"me", "[\"\\u0000\"]");
    expected["params"]["na\"me"] = json!(["\0"]);
    agree(splice.finish(), &expected);
}

/// What we wrote means what we meant, and passes our own check.
fn agree(text: String, expected: &Map<String, Other>) {
    let read: Map<String, Other> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(&read, expected, "{text}");
    let strict = bartizan_mcp::json::check(text.as_bytes(), Default::default());
    assert!(strict.is_ok(), "{strict:?}: {text}");
}
