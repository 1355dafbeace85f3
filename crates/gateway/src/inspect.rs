//! The shield on the path: messages become fragments, verdicts become answers (attacks.md II, PO).
//!
//! What a client sends is judged before it is sent and never changed. What a server sends is judged message by message;
//! what is split over several messages of one answer is seen whole. A text that cannot be judged does not pass. What holds
//! characters that act on a terminal is judged as it came, as it goes on and as a terminal shows it, for taking them out can put
//! together what was apart, whoever does it.

mod answer;
mod client;
mod controls;
mod marks;
mod report;

use bartizan_mcp::{Kind as Message_, Message, json::Value};
use bartizan_shield::{
    ControlActions, Fragment, Kind, Role, Scene, Shield, Text, Verdict,
    controls::{Acts, on_screen},
    json,
};

pub use answer::{Known, Passed, answer, released};
pub use client::{call, sent_words};
pub use marks::explanation;

use crate::{catalog::long_work, documents, naming, server::Server, upstream::Failure};

/// The member of `_meta` that says what was found in an answer that passed.
pub const META_FINDINGS: &str = "dev.bartizan/findings";

/// Above this many bytes, judging moves off the threads that carry everybody's messages.
const LONG: usize = 64 * 1024;

/// What a server says in a message, `but` for one member.
fn said<'m>(message: &'m Message, but: Option<&str>) -> Result<(Kind, Vec<Fragment<'m>>), Failure> {
    let kind = kind_of(message);
    let mut fragments = Vec::new();
    // What stands beside is passed on like all else.
    if beside(message, kind, &mut fragments).is_err() {
        return Err(unreadable());
    }
    let Some(body) = body(message) else { return Ok((kind, fragments)) };
    // What a modern server asks stands in its answer, or in what it says of a task, and is a question all the same (26/mrtr).
    let may_ask = message.result().is_some() || message.method() == "notifications/tasks";
    let asks = may_ask && message.field("inputRequests").is_some();
    let read_all = if but.is_none() && !asks {
        read(body.text(), "", body.span_in(message.text()).start, kind, &mut fragments)
    } else {
        message.fields().filter(|m| but.is_none_or(|but| !m.is(but))).try_for_each(|m| {
            let kind = if asks && m.is("inputRequests") { Kind::Question } else { kind };
            let base = m.value.span_in(message.text()).start;
            fragments.push(Fragment { role: Role::Key, ..Fragment::new(kind, "/", m.key()) });
            read(m.value.text(), &m.key(), base, kind, &mut fragments)
        })
    };
    match read_all {
        Ok(()) => Ok((kind, fragments)),
        Err(()) => Err(unreadable()),
    }
}

fn unreadable() -> Failure {
    Failure::Protocol("its answer could not be read for judging".into())
}

/// Adds what a message says in members that JSON-RPC does not know.
fn beside<'m>(message: &'m Message, kind: Kind, to: &mut Vec<Fragment<'m>>) -> Result<(), ()> {
    message.beside().try_for_each(|(key, value)| {
        to.push(Fragment { role: Role::Key, ..Fragment::new(kind, "/", key) });
        read(value.text(), key, value.span_in(message.text()).start, kind, to)
    })
}

/// What the words of a server's message are.
fn kind_of(message: &Message) -> Kind {
    if message.kind() == Message_::Request { Kind::Question } else { Kind::Result }
}

/// `message` as it is read by those it is for: its texts, `but` those of one member, without `acts`, and what people are asked
/// without any. `None` if it is read as it came.
fn as_read(
    message: &Message,
    but: Option<&str>,
    acts: Acts,
    config: ControlActions,
) -> Result<Option<Message>, Failure> {
    let mut now = None;
    if acts.any() {
        let text = controls::without(message, but, acts, config);
        if text != message.text() {
            now = Some(read_again(text)?);
        }
    }
    let asked = naming::plain(now.as_ref().unwrap_or(message));
    if let Some(text) = asked {
        now = Some(read_again(text)?);
    }
    Ok(now)
}

fn body(message: &Message) -> Option<Value<'_>> {
    message.params().or(message.result()).or(message.error())
}

/// What a server says in a message, `but` for one member, and in its `documents`, for others to judge: as it came, and if
/// characters in it act on a terminal, once more as that shows it.
///
/// # Errors
/// [`Failure::Protocol`], if it cannot be read.
pub fn said_words(
    message: &Message,
    but: Option<&str>,
    documents: &documents::Read,
) -> Result<Text, Failure> {
    let (kind, mut fragments) = said(message, but)?;
    // What is not read is found where it is judged.
    let _ = documents.add_to(kind, &mut fragments);
    let text = Text::of(kind, &fragments);
    Ok(match on_screen(&fragments) {
        Some(shown) => text.and(&shown),
        None => text,
    })
}

/// Whether the instructions in a result, if there are any, are a text: what is something else is compared with no pin, and some
/// client reads it all the same.
///
/// # Errors
/// [`Failure::Protocol`], if they are not.
pub fn has_proper_instructions(message: &Message) -> Result<(), Failure> {
    match message.field("instructions") {
        Some(given) if given.as_str().is_none() && !given.is_null() => {
            Err(Failure::Protocol("its `instructions` are no text".into()))
        }
        _ => Ok(()),
    }
}

/// A message that we wrote.
fn read_again(text: String) -> Result<Message, Failure> {
    Message::from_spliced(text).map_err(|fault| Failure::Protocol(fault.to_string()))
}

/// Judges one definition as it was listed, in `scene`; none if it could not be read.
pub fn definition(shield: &Shield, scene: &Scene<'_>, raw: &str) -> Option<Verdict> {
    let mut fragments = Vec::new();
    read(raw, "", 0, Kind::Definition, &mut fragments).ok()?;
    for fragment in &mut fragments {
        // The name by which it is called, not a property's or an argument's.
        if fragment.role == Role::Text && fragment.at == "/name" {
            fragment.role = Role::Name;
        }
    }
    Some(on_any_thread(raw.len(), || shield.inspect(scene, &fragments)))
}

/// Whose words they are.
pub fn scene(server: &Server) -> Scene<'_> {
    Scene { server: server.name().as_str(), trust: server.settings().trust, catalogue: None }
}

/// Adds every string of the JSON text `raw`, which stands at byte `base` of its message and is the member `at` of it.
fn read<'r>(raw: &'r str, at: &str, base: usize, kind: Kind, to: &mut Vec<Fragment<'r>>) -> Result<(), ()> {
    let member = (!at.is_empty()).then_some(at);
    to.extend(json::fragments_in(raw, member, base, kind, json::Limits::default()).map_err(|_| ())?);
    Ok(())
}

/// Runs long work where it holds up nobody else's messages.
pub fn on_any_thread<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LONG { long_work(work) } else { work() }
}
