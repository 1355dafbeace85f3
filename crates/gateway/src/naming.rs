//! Whose question it is: what a server asks of people begins with the server's name as the operator wrote it, whatever the
//! server calls itself (attacks.md II-11; 26/elicitation: it must be clear which server asks).
//!
//! People read a question without the characters that act on a screen. The shield judges it in that form, too: what [`plain`]
//! and [`sentences`] say is what [`question`] and [`request`] put.

use std::borrow::Cow;

use bartizan_mcp::{
    Kind, Message, Splice, code,
    json::{Value, quote},
};
use bartizan_model::ServerName;
use bartizan_shield::{
    ControlActions,
    controls::{Acts, clean},
};

/// The question that names its asker.
pub const ELICITATION: &str = "elicitation/create";

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

/// The parameters of a question to people with the sentence in front of their `message`, which cannot go back over it.
pub fn named(server: &ServerName, params: Value<'_>) -> String {
    let now = params.get("message");
    let says = now.and_then(Value::as_str).unwrap_or_default();
    let mut splice = Splice::new(params.text());
    splice.put(params, now, "message", quote(&sentence(server, &says)));
    splice.finish()
}

/// The places that the error `message` has people visit, as its server wrote them.
pub fn visits(message: &Message) -> Option<Value<'_>> {
    let is_visit = message.error_code() == Some(i64::from(code::URL_ELICITATION_REQUIRED));
    message.error().filter(|_| is_visit)?.get("data")?.get("elicitations")
}

/// What people read when they are asked what `says` says.
fn sentence(server: &ServerName, says: &str) -> String {
    format!("Asked by server {server}: {}", cleaned(says))
}

/// `says` without anything that acts on a screen, colours included.
fn cleaned(says: &str) -> Cow<'_, str> {
    clean(says, Acts::ALL, ControlActions { colours: false, ..ControlActions::default() }).0
}

/// `message` with what it asks people as they read it, but for the name; `None` if that is how its server wrote it.
pub fn plain(message: &Message) -> Option<String> {
    let mut splice = message.splice();
    for (_, place) in asked(message) {
        let Some(says) = place.as_str() else { continue };
        let plain = cleaned(&says);
        if plain != says {
            splice.replace(place, quote(&plain));
        }
    }
    (!splice.is_empty()).then(|| splice.finish())
}

/// What people read of the questions in `message`, each with its place.
pub fn sentences(server: &ServerName, message: &Message) -> Vec<(String, String)> {
    let asked = asked(message).into_iter();
    asked.filter_map(|(at, place)| Some((at, sentence(server, &place.as_str()?)))).collect()
}

/// The texts of the questions to people that `message` holds, each with its place.
fn asked(message: &Message) -> Vec<(String, Value<'_>)> {
    if message.kind() == Kind::Request {
        let params = message.params().filter(|_| asks_people(&message.method()));
        let says = params.and_then(|params| params.get("message"));
        return says.map(|says| ("/message".to_owned(), says)).into_iter().collect();
    }
    let mut found = Vec::new();
    // In the error that has a client show addresses (spec.md B-41).
    for (nth, visit) in visits(message).into_iter().flat_map(Value::elements).enumerate() {
        found.extend(visit.get("message").map(|says| (format!("/data/elicitations/{nth}/message"), says)));
    }
    // In an answer, or on the way to it in what is told of a task.
    let questions = message.field("inputRequests");
    for question in questions.into_iter().flat_map(Value::members) {
        let method = question.value.get("method").and_then(Value::as_str).unwrap_or_default();
        let says = question.value.get("params").and_then(|params| params.get("message"));
        if let Some(says) = says.filter(|_| asks_people(&method)) {
            // As in a JSON pointer (RFC 6901).
            let key = question.key().replace('~', "~0").replace('/', "~1");
            found.push((format!("/inputRequests/{key}/params/message"), says));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_judged_of_a_question_is_what_people_read() {
        let server: ServerName = "files".parse().unwrap();
        let message = |text: &str| Message::parse(text.into()).unwrap();
        let asked = message(
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"a/b":{"method":"elicitation/create","params":{"message":"Which \u001b]0;x\u0007co\u001b[1mlour?"}},"c":{"method":"sampling/createMessage","params":{"message":"\u0007"}}}}}"#,
        );
        let plain_text = plain(&asked).unwrap();
        assert_eq!(
            plain_text,
            asked.text().replace(r"Which \u001b]0;x\u0007co\u001b[1mlour?", "Which colour?")
        );
        assert_eq!(plain(&message(&plain_text)), None);
        let read = (
            "/inputRequests/a~1b/params/message".to_owned(),
            "Asked by server files: Which colour?".to_owned(),
        );
        assert_eq!(sentences(&server, &asked), [read]);
        let legacy = message(
            r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"o\u0007k?"}}"#,
        );
        assert_eq!(
            sentences(&server, &legacy),
            [("/message".to_owned(), "Asked by server files: ok?".to_owned())]
        );
        let visit = |code: i32| {
            let data = r#"{"elicitations":[{"mode":"url","message":"Sign\u0007 in"}]}"#;
            message(&format!(
                r#"{{"jsonrpc":"2.0","id":7,"error":{{"code":{code},"message":"m","data":{data}}}}}"#
            ))
        };
        assert_eq!(
            sentences(&server, &visit(-32042)),
            [("/data/elicitations/0/message".to_owned(), "Asked by server files: Sign in".to_owned())]
        );
        assert!(sentences(&server, &visit(-32041)).is_empty());
        let other =
            message(r#"{"jsonrpc":"2.0","id":7,"method":"roots/list","params":{"message":"\u0007"}}"#);
        assert!(plain(&other).is_none() && sentences(&server, &other).is_empty());
    }

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
