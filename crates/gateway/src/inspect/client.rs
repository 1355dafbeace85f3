//! What a client says to a server: judged before it is sent, and never changed.

use bartizan_mcp::{Message, Refusal, code};
use bartizan_shield::{ClientAction, Decision, Finding, Fragment, Kind, Shield, Text};

use super::{
    beside, on_any_thread, read,
    report::{data, found, rules, titles},
    scene,
};
use crate::{apps, permit::holds::Hold, server::Server};

/// Judges what a client sends to `server`, in which others found `more`. Answers the hold of what may go on only if a person
/// approves it.
///
/// # Errors
/// The refusal, which names the rules and never what they found (attacks.md II-05, EP-04).
pub fn call(
    shield: &Shield,
    server: &Server,
    message: &Message,
    more: &[Finding],
) -> Result<Option<Hold>, Refusal> {
    apps::may_ask(server, message)?;
    if !server.settings().inspects {
        return Ok(None);
    }
    let fragments = sent(message).map_err(|()| unread())?;
    let verdict = on_any_thread(message.text().len(), || shield.inspect(&scene(server), &fragments));
    let verdict = verdict.and(Kind::ClientText, server.settings().trust, shield.config(), more);
    if verdict.decision.passes() {
        return Ok(None);
    }
    let what = "what was sent holds something that must not go to this server";
    let refusal =
        |decides| {
            Refusal::new(403, code::WITHHELD, format!("{what}: {}; {decides}", titles(&verdict)))
                .with_data(data("shield_call", server, &verdict))
        };
    if verdict.decision == Decision::Client(ClientAction::Hold) {
        let refusal = refusal("`[shield]` holds it, and only calls of pinned tools can be approved");
        return Ok(Some(Hold::new(shield, message, &verdict, found(&verdict), refusal)));
    }
    tracing::warn!(server = %server.name(), method = %message.method(), rules = %rules(&verdict), "a call was refused by the shield");
    Err(refusal("`[shield]` decides about it"))
}

/// What a client says in a message.
fn sent(message: &Message) -> Result<Vec<Fragment<'_>>, ()> {
    let texts = message.fields().filter(|m| !NOT_TEXT.contains(&m.key().as_ref()));
    let mut fragments = Vec::new();
    for member in texts {
        let base = member.value.span_in(message.text()).start;
        read(member.value.text(), &member.key(), base, Kind::ClientText, &mut fragments)?;
    }
    if let Some(error) = message.error() {
        let base = error.span_in(message.text()).start;
        read(error.text(), "error", base, Kind::ClientText, &mut fragments)?;
    }
    beside(message, Kind::ClientText, &mut fragments)?;
    Ok(fragments)
}

/// What a client says in a message, for others to judge.
///
/// # Errors
/// The refusal, if it cannot be read.
pub fn sent_words(message: &Message) -> Result<Text, Refusal> {
    sent(message).map(|fragments| Text::of(Kind::ClientText, &fragments)).map_err(|()| unread())
}

/// What of a request's parameters is the client's own text. Names, handles and `_meta` are not: they are checked elsewhere.
const NOT_TEXT: [&str; 5] = ["_meta", "cursor", "name", "requestState", "taskId"];

fn unread() -> Refusal {
    Refusal::new(400, code::INVALID_REQUEST, "the parameters could not be read for judging")
}
