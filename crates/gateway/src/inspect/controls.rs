//! What acts on a terminal in what a server says: found in the texts that people and models read, and taken out of them
//! (attacks.md PO-11). What is for programs (structure, metadata, handles) stays byte for byte.

use bartizan_mcp::{
    Kind as Message_, Message, Splice,
    json::{Kind as Json, Value, quote},
};
use bartizan_shield::{
    ControlActions, Finding, Kind,
    controls::{Acts, acts, clean, may_act},
};

use super::body;

/// Members that hold text for readers.
const TEXTS: [&str; 5] = ["text", "title", "description", "message", "statusMessage"];

/// Members that do not, with all that is in them. What is asked of people has its own rules.
const NO_TEXTS: [&str; 6] =
    ["_meta", "inputRequests", "inputSchema", "outputSchema", "requestState", "structuredContent"];

/// What `message` holds of it, `but` for one member: a finding for each kind, at its first place.
pub fn found(message: &Message, but: Option<&str>, config: ControlActions) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for (at, text) in texts(message, but) {
        let acts = text.as_str().map(|text| acts(&text, config)).unwrap_or_default();
        for (rule, title) in acts.rules() {
            if !found.iter().any(|finding| finding.rule == rule) {
                found.push(Finding::control(rule, title, Kind::Result, at.clone()));
            }
        }
    }
    found
}

/// `message` without `what` of it.
pub fn without(message: &Message, but: Option<&str>, what: Acts, config: ControlActions) -> String {
    let mut splice: Splice<'_> = message.splice();
    for (_, place) in texts(message, but) {
        let Some(text) = place.as_str() else { continue };
        let (left, _) = clean(&text, what, config);
        if left != text {
            splice.replace(place, quote(&left));
        }
    }
    splice.finish()
}

/// Every text for readers that may hold any, with its place.
fn texts<'m>(message: &'m Message, but: Option<&str>) -> Vec<(String, Value<'m>)> {
    let mut found = Vec::new();
    let Some(body) = body(message).filter(|body| may_act(body.text())) else { return found };
    // Whatever a server writes to a log is for readers, and so are words beside an error.
    let is_log = message.kind() == Message_::Notification && message.method() == "notifications/message";
    let is_error = message.error().is_some();
    for member in body.members().filter(|member| but.is_none_or(|but| !member.is(but))) {
        let key = member.key();
        let is_words = is_log || is_error && member.value.kind() == Json::String;
        read(&key, member.value, key == "data" && is_words, String::new(), &mut found);
    }
    found
}

/// Adds the texts of the member `key` and of all below it; `all` says that every string there is one.
fn read<'m>(key: &str, value: Value<'m>, all: bool, mut at: String, to: &mut Vec<(String, Value<'m>)>) {
    if NO_TEXTS.contains(&key) || !may_act(value.text()) {
        return;
    }
    at.push('/');
    at.push_str(key);
    match value.kind() {
        Json::String if all || TEXTS.contains(&key) => to.push((at, value)),
        Json::Object => {
            // The name of a link is for people, unlike other names.
            let is_link = value.get("type").and_then(Value::as_str).as_deref() == Some("resource_link");
            for member in value.members() {
                let key = member.key();
                read(&key, member.value, all || is_link && key == "name", at.clone(), to);
            }
        }
        Json::Array => {
            for (nth, element) in value.elements().enumerate() {
                match element.kind() {
                    Json::String if all => to.push((format!("{at}/{nth}"), element)),
                    _ => read(&nth.to_string(), element, all, at.clone(), to),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(text.into()).unwrap()
    }

    #[test]
    fn texts_are_cleaned_and_all_else_stays_as_written() {
        let text = r#"{"jsonrpc":"2.0","id":1,"result":{ "content":[{"type":"text","text":"a\u001b[2Jb"},{"type":"text","text":"{\"k\":\"\\u009b2J\"}"},{"type":"resource_link","uri":"x:\u0007","name":"n\u0007"},{"type":"resource","resource":{"uri":"x:y","text":"c\u001b]0;t\u0007d","blob":"\u0007"}}], "structuredContent":{"text":"a\u001b[2Jb"},"_meta":{"message":"\u0007"},"nextCursor":"\u0007"}}"#;
        let message = message(text);
        let config = ControlActions::default();
        let rules: Vec<_> =
            found(&message, None, config).into_iter().map(|f| (f.rule, f.places[0].at.clone())).collect();
        assert_eq!(
            rules,
            [
                ("control.sequence".into(), "/content/0/text".into()),
                ("control.character".into(), "/content/2/name".into())
            ]
        );
        let left = without(&message, None, Acts::ALL, config);
        let expected = text
            .replacen(r#""text":"a\u001b[2Jb"}"#, r#""text":"ab"}"#, 1)
            .replace(r#""name":"n\u0007""#, r#""name":"n""#)
            .replace(r#""text":"c\u001b]0;t\u0007d""#, r#""text":"cd""#);
        assert_eq!(left, expected);
        assert!(
            found(&message, Some("content"), config).is_empty(),
            "what was judged elsewhere is not looked at"
        );
    }

    #[test]
    fn logs_and_progress_and_errors_are_texts_too() {
        let config = ControlActions::default();
        for text in [
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"k":["x\u001b[2J"]}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x\u001b[2J"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"message":"x\u001b[2J"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x\u001b[2J"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x","data":"x\u001b[2J"}}"#,
        ] {
            let message = message(text);
            assert_eq!(found(&message, None, config).len(), 1, "{text}");
            let left = without(&message, None, Acts::ALL, config);
            assert_eq!(left, text.replace(r"\u001b[2J", ""), "{text}");
        }
        let structure =
            message(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x","data":{"k":"x\u001b[2J"}}}"#);
        assert_eq!(without(&structure, None, Acts::ALL, config), structure.text());
    }
}
