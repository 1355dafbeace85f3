//! Errors that have a client show URLs (spec.md B-41, C-66): the gate's own, where a person can lift a refusal on a page; and
//! those of servers, each of whose URLs is a question like any other (attacks.md II-02).

use bartizan_audit::EventId;
use bartizan_mcp::{
    Message, Refusal, Revision, code,
    json::{Kind as Json, Value, quote},
};
use bartizan_model::Entropy;

use super::{Errand, Link, Way, questions::unasked};
use crate::{naming, permit::Question, record::Unasked, upstream::Failure};

/// What an error that has a client show URLs asks by.
const ASKS: &str = "elicitation/create";

impl Errand {
    /// Judges the URLs that the error `message` of the server has the client show. Answers what goes on in its place, with the
    /// server's name where people read it; `None` if it has it show none.
    ///
    /// # Errors
    /// [`Failure::Question`] if one of them may not be shown; nobody sees any of it then.
    pub fn visits(&self, message: &Message, call: Option<EventId>) -> Result<Option<Message>, Failure> {
        if message.error_code() != Some(i64::from(code::URL_ELICITATION_REQUIRED)) {
            return Ok(None);
        }
        let link = &self.link;
        let voice = link.server.voice();
        let visits = naming::visits(message).filter(|visits| visits.kind() == Json::Array);
        let visits: Vec<_> = visits.into_iter().flat_map(Value::elements).collect();
        let judged = match visits.is_empty() {
            true => Err(unasked("it names no address to open")),
            false => visits.iter().try_for_each(|visit| link.may_show(*visit)),
        };
        if let Err(refusal) = judged {
            voice.asked(&link.asker, call, ASKS, Some(Unasked::Policy));
            return Err(Failure::Question { method: ASKS.to_owned(), refusal: Box::new(refusal) });
        }
        let mut splice = message.splice();
        for visit in visits {
            splice.replace(visit, naming::named(link.server.name(), visit));
            voice.asked_by_name(&link.asker, call, ASKS);
        }
        let named = Message::from_spliced(splice.finish());
        named.map(Some).map_err(|_| Failure::Protocol("the addresses it names cannot be read".into()))
    }
}

impl Link {
    /// Whether the server may have the client show the URL that `visit` names, an element of `elicitations`.
    fn may_show(&self, visit: Value<'_>) -> Result<(), Refusal> {
        let gate = self.gate.upgrade().ok_or_else(|| unasked("the gateway is about to stop"))?;
        let is = |name: &str, wanted: &dyn Fn(&str) -> bool| {
            visit.get(name).and_then(Value::as_str).is_some_and(|text| wanted(&text))
        };
        if !is("mode", &|mode| mode == "url") || !is("elicitationId", &|id| !id.is_empty()) {
            return Err(unasked("it does not say which address is to be opened, and for what"));
        }
        self.judge(&gate, Question::Elicitation, Some(visit))
    }

    /// An error of ours in the place of a response. To a client that can show a URL, an account that is not linked is a
    /// URL to show (spec.md B-41, C-66).
    pub(super) fn failed(&self, failure: &Failure) -> Refusal {
        let refusal = Refusal { status: 200, ..failure.refusal(self.server.name().as_str()) };
        let Failure::NeedsLinking(url) = failure else { return refusal };
        self.shown(Refusal { visits: [url.clone()].into(), ..refusal })
    }

    /// The refusal; to a client that can show a URL, the pages where a person can lift it are URLs to show.
    pub(super) fn shown(&self, refusal: Refusal) -> Refusal {
        let revision = match self.way() {
            Way::Wire(wire) => wire.revision,
            Way::Process(_) | Way::Shared(_) => None,
        };
        match self.gate.upgrade() {
            Some(gate) if !refusal.visits.is_empty() && shows_urls(&self.hello, revision) => {
                url_elicitation(refusal, gate.entropy.as_ref())
            }
            _ => refusal,
        }
    }
}

/// Whether a client of this handshake can be told to show a URL (spec.md B-41).
fn shows_urls(hello: &str, revision: Option<Revision>) -> bool {
    let elicitation = Value::of(hello).get("capabilities").and_then(|c| c.get("elicitation"));
    revision == Some(Revision::V2025_11_25) && elicitation.is_some_and(|e| e.get("url").is_some())
}

/// The refusal as the error that has a client show where it can be lifted (25/elic). Each place has an id, which tells this
/// occasion from others.
fn url_elicitation(refusal: Refusal, entropy: &dyn Entropy) -> Refusal {
    let words = quote(&refusal.message);
    let elicitations = refusal.visits.iter().map(|url| {
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let (id, url) = (id.iter().map(|b| format!("{b:02x}")).collect::<String>(), quote(url));
        format!(r#"{{"mode":"url","elicitationId":"{id}","url":{url},"message":{words}}}"#)
    });
    let data = format!(r#"{{"elicitations":[{}]}}"#, elicitations.collect::<Vec<_>>().join(","));
    Refusal { code: code::URL_ELICITATION_REQUIRED, ..refusal }.with_data(data)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_clients_that_said_so_in_the_newest_handshake_are_told_to_show_a_url() {
        let hello = |elicitation: &str| format!(r#"{{"capabilities":{{"elicitation":{elicitation}}}}}"#);
        let newest = Some(Revision::V2025_11_25);
        assert!(shows_urls(&hello(r#"{"url":{}}"#), newest));
        assert!(!shows_urls(&hello(r#"{"url":{}}"#), Some(Revision::V2025_06_18)));
        assert!(!shows_urls(&hello(r#"{"url":{}}"#), None), "a process has no URL to link at");
        for other in ["{}", r#"{"form":{}}"#] {
            assert!(!shows_urls(&hello(other), newest), "{other}");
        }
        assert!(!shows_urls("{}", newest));

        let url = "https://gate.example/connect/up?for=\"x";
        let refusal = Failure::NeedsLinking(url.to_owned()).refusal("up");
        let refusal =
            Refusal { visits: [url.to_owned(), "https://gate.example/2".to_owned()].into(), ..refusal };
        let told = url_elicitation(refusal, &bartizan_model::SeededEntropy::new(1));
        let data = told.data.unwrap();
        assert_eq!(told.code, -32042);
        let one = Value::of(&data).get("elicitations").unwrap().elements().next().unwrap();
        let text = |key| one.get(key).and_then(Value::as_str).unwrap().into_owned();
        assert_eq!((text("mode"), text("url")), ("url".to_owned(), url.to_owned()));
        assert_eq!(text("elicitationId").len(), 32);
        let ids = Value::of(&data)
            .get("elicitations")
            .unwrap()
            .elements()
            .map(|e| e.get("elicitationId").unwrap().text());
        assert_eq!(ids.collect::<BTreeSet<_>>().len(), 2, "each place has its own");
    }
}
