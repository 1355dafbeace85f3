//! What the merged endpoint says of itself: handshake, discovery, what is honoured of a subscription.

use std::{collections::BTreeMap, sync::Arc};

use bartizan_mcp::{
    Era, Message, Refusal, Revision, code,
    json::{Kind as Json, Value, quote},
    message,
};
use futures::future::join_all;

use super::{in_time, modern_fields};
use crate::{
    Asker, Gate,
    call::own_info,
    flow::Reply,
    legacy::{Hub, Link, NoLink, greeting, refusal_of},
    modern,
    news::List,
    server::Server,
};

/// The union of what servers offer: for each capability, its flags that anybody sets.
#[derive(Default)]
pub(super) struct Offers(BTreeMap<String, BTreeMap<String, String>>);

impl Offers {
    fn add(&mut self, capabilities: Option<Value<'_>>) {
        for offer in capabilities.into_iter().flat_map(Value::members) {
            let flags = self.0.entry(offer.key().into_owned()).or_default();
            if List::ALL.iter().any(|list| offer.is(list.capability())) {
                // The gate tells of it itself.
                flags.insert("listChanged".to_owned(), "true".to_owned());
            }
            for flag in offer.value.members() {
                let is_set = offer.value.kind() == Json::Object && flag.value.as_bool() != Some(false);
                if is_set {
                    flags.entry(flag.key().into_owned()).or_insert_with(|| flag.value.text().to_owned());
                }
            }
        }
    }

    fn text(&self) -> String {
        let offers = self.0.iter().map(|(name, flags)| {
            let flags: Vec<_> = flags.iter().map(|(k, v)| format!("{}:{v}", quote(k))).collect();
            format!("{}:{{{}}}", quote(name), flags.join(","))
        });
        format!("{{{}}}", offers.collect::<Vec<_>>().join(","))
    }
}

/// What a client should know of the servers behind the endpoint; the absent ones are named, with the reason.
fn instructions(present: &[String], absent: &[(String, String)]) -> String {
    let mut text = format!(
        "Servers behind this endpoint: {}. Tools and prompts are named server__name.",
        present.join(", ")
    );
    for (server, reason) in absent {
        text.push_str(&format!(" Not available: {server} ({reason})."));
    }
    text
}

/// Opens a session with every server that speaks the legacy era.
///
/// # Errors
/// The refusal, if no server answers.
pub async fn initialize(
    gate: &Arc<Gate>,
    asker: &Asker,
    servers: &[Arc<Server>],
    hub: &Arc<Hub>,
    hello: &str,
    id: &str,
) -> Result<(Vec<Arc<Link>>, Revision, String), Refusal> {
    let opening = servers.iter().map(|server| greet(gate, asker, server, hub, hello));
    let opened = join_all(opening).await;
    let (mut links, mut offers, mut present, mut absent) =
        (Vec::new(), Offers::default(), Vec::new(), Vec::new());
    for (server, result) in servers.iter().zip(opened) {
        match result {
            Ok((link, answer)) => {
                offers.add(answer.result().and_then(|r| r.get("capabilities")));
                present.push(server.name().to_string());
                links.push(link);
            }
            Err(refusal) => {
                tracing::warn!(server = %server.name(), reason = %refusal.message, "not part of a merged session");
                absent.push((server.name().to_string(), reason(&refusal)));
            }
        }
    }
    if links.is_empty() && !servers.is_empty() {
        let text = instructions(&present, &absent);
        return Err(Refusal::new(502, code::UPSTREAM_UNAVAILABLE, text));
    }
    let hello = Value::of(hello);
    let asked = hello.get("protocolVersion").and_then(Value::as_str).and_then(|v| Revision::named(&v));
    let revision = asked.filter(|r| r.era() == Era::Legacy).unwrap_or(Revision::V2025_11_25);
    let result = format!(
        r#"{{"protocolVersion":"{}","capabilities":{},"serverInfo":{},"instructions":{}}}"#,
        revision.name(),
        offers.text(),
        own_info(),
        quote(&instructions(&present, &absent)),
    );
    Ok((links, revision, message::result(id, &result)))
}

/// Opens a session with one of the servers. Answers what it said of itself, judged, for its capabilities are told to the client.
///
/// # Errors
/// The refusal, in our words: they become part of the instructions.
async fn greet(
    gate: &Arc<Gate>,
    asker: &Asker,
    server: &Arc<Server>,
    hub: &Arc<Hub>,
    hello: &str,
) -> Result<(Arc<Link>, Message), Refusal> {
    match Link::open(gate, server, asker.clone(), true, Arc::clone(hub), hello.to_owned()).await {
        Ok((link, answer)) => match greeting(gate, server, &answer) {
            Ok(changed) => Ok((link, changed.unwrap_or(answer))),
            Err(refusal) => {
                link.end();
                Err(Refusal::new(502, code::UPSTREAM_UNAVAILABLE, refusal.message))
            }
        },
        // Code and words are its own.
        Err(NoLink::Refused(_)) => {
            Err(Refusal::new(502, code::UPSTREAM_UNAVAILABLE, "it refuses the handshake"))
        }
        Err(why) => Err(refusal_of(why, server.name().as_str())),
    }
}

fn reason(refusal: &Refusal) -> String {
    match refusal.code {
        code::ERA_MISMATCH => "it speaks the other protocol era".into(),
        code::NEEDS_LINKING => refusal.message.clone(),
        _ => "it cannot be reached now".into(),
    }
}

/// `server/discover` for all servers of the modern era.
pub async fn discover(gate: &Arc<Gate>, asker: &Asker, servers: &[Arc<Server>], message: &Message) -> Reply {
    let asking = servers.iter().map(|server| {
        let asked = async move {
            match modern::open(gate, asker, server, false, message, None).await {
                Ok(flow) => flow.last().await.map(Ok),
                Err(refusal) => Some(Err(refusal)),
            }
        };
        in_time(server, asked)
    });
    let answers = join_all(asking).await;
    let (mut offers, mut present, mut absent) = (Offers::default(), Vec::new(), Vec::new());
    for (server, answer) in servers.iter().zip(answers) {
        match answer {
            Some(Ok(answer)) if answer.result().is_some() => {
                offers.add(answer.result().and_then(|r| r.get("capabilities")));
                present.push(server.name().to_string());
            }
            Some(Ok(_)) | None => {
                absent.push((server.name().to_string(), "it cannot be reached now".into()));
            }
            Some(Err(refusal)) => absent.push((server.name().to_string(), reason(&refusal))),
        }
    }
    let result = format!(
        r#"{{"supportedVersions":["2026-07-28","2025-11-25","2025-06-18","2025-03-26"],"capabilities":{},"instructions":{}{}}}"#,
        offers.text(),
        quote(&instructions(&present, &absent)),
        modern_fields(),
    );
    let id = message.id_value().map(Value::text).unwrap_or("null");
    Reply::Message { status: 200, text: message::result(id, &result) }
}

impl Offers {
    /// Takes in what one server honours of a subscription.
    pub(super) fn add_filter(&mut self, filter: Option<Value<'_>>) {
        let wishes = filter.into_iter().flat_map(Value::members);
        for wish in wishes.filter(|wish| wish.value.as_bool() != Some(false)) {
            let entry = self.0.entry(wish.key().into_owned()).or_default();
            for element in wish.value.elements() {
                entry.insert(element.text().to_owned(), String::new());
            }
        }
    }

    /// Whether anybody honours `wish`.
    pub(super) fn has(&self, wish: &str) -> bool {
        self.0.contains_key(wish)
    }

    /// What anybody honours of the filter `asked`.
    pub(super) fn filter(&self, asked: &str) -> String {
        let honoured = Value::of(asked).members().filter_map(|wish| {
            let found = self.0.get(wish.key().as_ref())?;
            let text = match wish.value.kind() {
                Json::Array => format!("[{}]", found.keys().cloned().collect::<Vec<_>>().join(",")),
                _ => "true".into(),
            };
            Some(format!("\"{}\":{text}", wish.raw_key()))
        });
        format!("{{{}}}", honoured.collect::<Vec<_>>().join(","))
    }
}
