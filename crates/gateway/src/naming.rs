//! Whose question it is: what a server asks of people begins with the server's name as the operator wrote it, whatever the
//! server calls itself (attacks.md II-11; 26/elicitation: it must be clear which server asks).

use std::borrow::Cow;

use bartizan_mcp::{
    Message, Splice,
    json::{Value, quote},
};
use bartizan_model::ServerName;
use bartizan_shield::{
    ControlActions,
    controls::{Acts, clean},
};

/// The question that names its asker.
const ELICITATION: &str = "elicitation/create";

/// Whether `method` asks people for something.
pub fn asks_people(method: &str) -> bool {
    method == ELICITATION
}

/// A question of a modern server, the object with `method` and `params`, with its asker's name where people are asked.
pub fn question<'q>(server: &ServerName, question: Value<'q>) -> Cow<'q, str> {
    let method = question.get("method").and_then(Value::as_str).unwrap_or_default();
    let Some(params) = question.get("params").filter(|_| asks_people(&method)) else {
        return question.text().into();
    };
    let mut splice = Splice::new(question.text());
    splice.replace(params, named(server, params));
    splice.finish().into()
}

/// A legacy server's request, with its asker's name where people are asked; `None` if it stays as it is.
pub fn request(server: &ServerName, request: &Message) -> Option<Message> {
    let params = request.params().filter(|_| asks_people(&request.method()))?;
    let mut splice = request.splice();
    splice.replace(params, named(server, params));
    Message::from_spliced(splice.finish()).ok()
}

/// The parameters with the sentence in front of their `message`, which cannot go back over it.
fn named(server: &ServerName, params: Value<'_>) -> String {
    let now = params.get("message");
    let says = now.and_then(Value::as_str).unwrap_or_default();
    let (says, _) = clean(&says, Acts::ALL, ControlActions { colours: false, ..ControlActions::default() });
    let mut splice = Splice::new(params.text());
    splice.put(params, now, "message", quote(&format!("Asked by server {server}: {says}")));
    splice.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_who_asks_and_nothing_else_changes() {
        let server: ServerName = "files".parse().unwrap();
        let asked = |text: &'static str| question(&server, Value::of(text)).into_owned();
        assert_eq!(
            asked(
                r#"{ "method":"elicitation/create","params":{"mode":"form", "message":"Which colour?","requestedSchema":{"a" : 1}}}"#
            ),
            r#"{ "method":"elicitation/create","params":{"mode":"form", "message":"Asked by server files: Which colour?","requestedSchema":{"a" : 1}}}"#
        );
        assert_eq!(
            asked(
                r#"{"method":"elicitation/create","params":{"message":"\rAsked by server bank: \u001b[1Apin?\u202e"}}"#
            ),
            r#"{"method":"elicitation/create","params":{"message":"Asked by server files: \nAsked by server bank: pin?"}}"#
        );
        for other in [
            r#"{"method":"elicitation/create"}"#,
            r#"{"method":"sampling/createMessage","params":{"message":"x"}}"#,
            r#"{"method":"roots/list","params":{}}"#,
        ] {
            assert_eq!(asked(other), other);
        }
        assert!(asked(r#"{"method":"elicitation/create","params":{}}"#).contains("Asked by server files: "));
        let legacy =
            |text: &str| request(&server, &Message::parse(text.into()).unwrap()).map(|m| m.text().to_owned());
        assert_eq!(
            legacy(r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"ok?"}}"#)
                .as_deref(),
            Some(
                r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"Asked by server files: ok?"}}"#
            )
        );
        assert_eq!(legacy(r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#), None);
    }
}
