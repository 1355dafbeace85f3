//! What a session asked its server to tell, and what of a process of everybody's it therefore hears.
//!
//! Such a process knows one client, the gate. What it tells of addresses goes to those who subscribed to them; what belongs to a
//! single client, it cannot say whose, goes to none (attacks.md SH-10, SH-12).

use std::{collections::BTreeMap, sync::Arc};

use bartizan_mcp::{
    Kind, Message, Refusal, code,
    json::{Value, quote},
    message,
};

use super::{Errand, Link, Way};
use crate::{
    limits::{SUBSCRIBED_BYTES, SUBSCRIPTIONS},
    merged,
    upstream::{Answer, stdio::lock},
};

/// What a server must be told again after its session was lost (C-26).
#[derive(Default)]
pub(super) struct Memory {
    /// The level of its log, a JSON text.
    level: Option<String>,
    /// Addresses, and whether the server has agreed to tell of them.
    subscribed: BTreeMap<String, bool>,
}

impl Memory {
    /// The requests that bring a fresh session to where the lost one was.
    pub(super) fn requests(&self) -> Vec<(&'static str, String)> {
        let level = self.level.iter().map(|l| ("logging/setLevel", format!(r#"{{"level":{l}}}"#)));
        let uris = self.subscribed.keys();
        let uris = uris.map(|uri| ("resources/subscribe", format!(r#"{{"uri":{}}}"#, quote(uri))));
        level.chain(uris).collect()
    }

    /// Notes an address; answers whether it is a new one.
    fn subscribe(&mut self, uri: &str) -> Result<bool, Refusal> {
        if self.subscribed.contains_key(uri) {
            return Ok(false);
        }
        let bytes: usize = self.subscribed.keys().map(String::len).sum();
        if self.subscribed.len() >= SUBSCRIPTIONS || bytes + uri.len() > SUBSCRIBED_BYTES {
            let text = "this session listens to as many resources as it may; unsubscribe from some";
            return Err(Refusal::new(200, code::LIMIT, text));
        }
        self.subscribed.insert(uri.to_owned(), false);
        Ok(true)
    }

    /// Whether it is told that `uri` changed: it asked for that one, or the server agreed to one above it (25/res).
    fn hears_of(&self, uri: &str) -> bool {
        let is_above = |above: &str| {
            let rest = uri.strip_prefix(above);
            rest.is_some_and(|rest| above.ends_with('/') || rest.starts_with(['/', '?', '#']))
        };
        self.subscribed.contains_key(uri)
            || self.subscribed.iter().any(|(above, is_agreed)| *is_agreed && is_above(above))
    }
}

impl Link {
    /// Notes what `request` asks to be told. Answers the address in it that is new.
    ///
    /// # Errors
    /// The refusal of one too many.
    pub(super) fn remember(&self, request: &Message) -> Result<Option<String>, Refusal> {
        match request.method().as_ref() {
            "logging/setLevel" => {
                lock(&self.memory).level = request.param("level").map(|level| level.text().to_owned());
            }
            "resources/subscribe" => {
                if let Some(uri) = self.uri_of(request) {
                    let is_new = lock(&self.memory).subscribe(&uri)?;
                    return Ok(is_new.then_some(uri));
                }
            }
            "resources/unsubscribe" => {
                if let Some(uri) = self.uri_of(request) {
                    lock(&self.memory).subscribed.remove(&uri);
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// The address in `request`, as the server knows it.
    fn uri_of(&self, request: &Message) -> Option<String> {
        let uri = request.param("uri").and_then(Value::as_str)?;
        let bare = merged::split_uri(&uri).filter(|_| self.is_merged).map(|(_, bare)| bare);
        Some(bare.unwrap_or(&uri).to_owned())
    }

    /// Whether its session is one that is told `message`, which answers no request.
    pub(super) fn hears(&self, message: &Message) -> bool {
        let Way::Shared(_) = self.way() else { return true };
        match message.method().as_ref() {
            "notifications/resources/updated" => {
                let uri = message.param("uri").and_then(Value::as_str);
                uri.is_some_and(|uri| lock(&self.memory).hears_of(&uri))
            }
            // Nobody was asked anything.
            "notifications/elicitation/complete" | "notifications/cancelled" => false,
            _ => true,
        }
    }

    /// Whether its session subscribed to `uri`.
    pub fn listens_to(&self, uri: &str) -> bool {
        lock(&self.memory).subscribed.contains_key(uri)
    }

    /// The answer to what a process of everybody's is not told, for it would hold for everybody: how much it logs, and that an
    /// address is of no interest any more to which others listen.
    pub(super) fn settled_here(&self, request: &Message, id: u64) -> Option<Answer> {
        let Way::Shared(_) = self.way() else { return None };
        let is_settled = match request.method().as_ref() {
            "logging/setLevel" => true,
            "resources/unsubscribe" => {
                self.uri_of(request).is_some_and(|uri| self.server.is_listened_to(&uri))
            }
            _ => false,
        };
        let answer = is_settled.then(|| message::result(&id.to_string(), "{}"))?;
        Message::from_spliced(answer).ok().map(Answer::given)
    }
}

impl Errand {
    /// Told when the request has its answer: a subscription that was refused is none.
    pub fn answered(&self, response: &Message) {
        let Some(uri) = &self.subscribes else { return };
        let mut memory = lock(&self.link.memory);
        if response.error().is_some() {
            memory.subscribed.remove(uri);
        } else if let Some(is_agreed) = memory.subscribed.get_mut(uri) {
            *is_agreed = true;
        }
    }
}

/// Who of `links`, of a shared process, takes `message`. What is every client's is everybody's; what the process asks is refused
/// once; what it logs, which may be about anybody, is recorded once.
pub fn audience(links: Vec<Arc<Link>>, message: &Message) -> Vec<Arc<Link>> {
    let is_for_one = message.kind() == Kind::Request || message.method() == "notifications/message";
    let most = if is_for_one { 1 } else { usize::MAX };
    links.into_iter().filter(|link| link.hears(message)).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_hears_of_what_it_asked_for_and_of_what_is_below_what_was_agreed() {
        let mut memory = Memory::default();
        assert!(memory.subscribe("file:///ann").unwrap());
        assert!(!memory.subscribe("file:///ann").unwrap(), "once");
        assert!(memory.hears_of("file:///ann"), "an answer may be on its way still");
        assert!(!memory.hears_of("file:///ann/a"), "nobody has agreed to that");
        *memory.subscribed.get_mut("file:///ann").unwrap() = true;
        assert!(memory.hears_of("file:///ann/a") && memory.hears_of("file:///ann?a"));
        for other in ["file:///anna", "file:///", "file:///bob", ""] {
            assert!(!memory.hears_of(other), "{other}");
        }
        assert_eq!(memory.requests(), [("resources/subscribe", r#"{"uri":"file:///ann"}"#.to_owned())]);
    }

    #[test]
    fn what_a_session_listens_to_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..SUBSCRIPTIONS {
            assert!(memory.subscribe(&format!("a:{number}")).unwrap());
        }
        assert_eq!(memory.subscribe("a:more").unwrap_err().code, code::LIMIT);
        assert!(!memory.subscribe("a:1").unwrap(), "what it listens to already is not refused");
        let mut memory = Memory::default();
        assert!(memory.subscribe(&"x".repeat(SUBSCRIBED_BYTES)).unwrap());
        assert!(memory.subscribe("y").is_err());
    }
}
