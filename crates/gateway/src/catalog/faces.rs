//! The gate as somebody else: a server that describes a tool in one way to the gate and in another way to the client it is
//! after is found out before that client comes (attacks.md PO-14).
//!
//! Now and then, in the background, the gate asks for the definitions under a well-known client's name, and a server that speaks
//! both eras in the other one. A body that is not the approved one is one more form of the definition, and held like one that
//! another caller was offered. Which definitions there are may differ in all honesty; whoever sees more has it pinned then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bartizan_mcp::{
    Era,
    json::{Kind as Json, Member, Value, quote},
};
use bartizan_model::{Caller, CallerKey, ServerName};
use bartizan_shield::drift::Definition;
use bartizan_store::{
    Digest,
    pins::{Extent, Kind, Pinned},
};
use tokio::time::Instant;

use super::{Catalog, LookError, is_pinned, lasting, pinned_kind};
use crate::{
    inventory::{self, DefinitionKind},
    server::{Server, Transport},
};

/// How long after such a look at a server the next one may come, whatever the server announces.
const REST: Duration = Duration::from_secs(300);

/// Of the looks at a server, how many of 256 are followed by one with another face.
const SHARE: u8 = 64;

/// Whom the gate shows itself as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    /// `clientInfo.name`
    pub name: &'static str,
    /// `clientInfo.version`
    pub version: &'static str,
    /// `User-Agent`, which the gate otherwise sends none of.
    pub user_agent: &'static str,
    /// In the handshake era, at a server that speaks both.
    pub is_legacy: bool,
}

/// Names that servers know. What is told to these and not to the gate is told on purpose.
const FACES: [Face; 4] = [
    Face { name: "claude-ai", version: "0.1.0", user_agent: "claude-ai/0.1.0", is_legacy: false },
    Face { name: "Visual Studio Code", version: "1.107.0", user_agent: "node", is_legacy: true },
    Face { name: "cursor-vscode", version: "1.0.0", user_agent: "Cursor/1.0.0", is_legacy: false },
    Face { name: "openai-mcp", version: "1.0.0", user_agent: "openai-mcp/1.0.0", is_legacy: true },
];

impl Face {
    /// As an `Implementation` of the schema.
    pub fn info(self) -> String {
        format!(r#"{{"name":{},"version":{}}}"#, quote(self.name), quote(self.version))
    }

    /// The caller whose offers these are, for the pins.
    fn key(self) -> CallerKey {
        Caller::new("gate", "another face", self.name).key()
    }
}

/// Whose turn it is.
#[derive(Default)]
pub struct Faces(HashMap<ServerName, Turn>);

#[derive(Default)]
struct Turn {
    looks: u64,
    shown: usize,
    last: Option<Instant>,
}

impl Faces {
    /// The faces to show `server` after a look at it that begins `now`, if any: one in either era after the second look, and
    /// then one at a time by `chance`, so that no server knows when.
    pub fn after_look(&mut self, server: &ServerName, now: Instant, chance: u8) -> &'static [Face] {
        let turn = self.0.entry(server.clone()).or_default();
        turn.looks += 1;
        let is_due = match turn.last {
            None => turn.looks > 1,
            Some(last) => chance < SHARE && now.saturating_duration_since(last) >= REST,
        };
        if !is_due {
            return &[];
        }
        let first = turn.shown % FACES.len();
        let many = if turn.last.is_none() { 2 } else { 1 };
        turn.last = Some(now);
        turn.shown += many;
        FACES.get(first..first + many).unwrap_or_default()
    }
}

impl Catalog {
    /// Looks at what `server` defines as `face`, and holds what is not what was approved.
    ///
    /// # Errors
    /// [`LookError`]; nothing was found out then.
    pub async fn look_as(&self, server: &Arc<Server>, face: Face) -> Result<(), LookError> {
        if !is_pinned(server) || server.is_personal() {
            return Ok(());
        }
        let is_url = matches!(server.settings().transport, Transport::Url(_));
        // A process is one program with one face more seldom than it is dear to start, and an era that is pinned is the one there
        // is.
        let is_legacy = face.is_legacy && is_url && server.settings().era.is_none();
        let face = Face { is_legacy, ..face };
        let Some((era, found)) = inventory::take_as(server, face).await? else { return Ok(()) };
        for kind in DefinitionKind::ALL {
            let Some(pinned) = pinned_kind(server, kind) else { continue };
            let entries = found.definitions.iter().filter(|(k, _)| *k == kind).map(|(_, raw)| raw.as_str());
            let differing: Vec<_> = entries.filter(|raw| self.differs(server, pinned, raw, era)).collect();
            if differing.is_empty() {
                continue;
            }
            tracing::warn!(server = %server.name(), kind = pinned.as_str(), count = differing.len(), client = face.name, ?era,
                "definitions are described otherwise to another client");
            self.look(server, &face.key(), pinned, &differing, Extent::Part).await?;
        }
        Ok(())
    }

    /// Whether a definition is another one than the approved one of its name. Across the eras words and inputs count, for older
    /// revisions do not have all members.
    fn differs(&self, server: &Server, kind: Kind, raw: &str, era: Option<Era>) -> bool {
        let Ok(offered) = Definition::read(kind.as_str(), &lasting(kind, raw)) else { return false };
        let set = self.keeper.approved();
        let Some(approved) = set.get(server.name(), kind, offered.name()) else { return false };
        if Digest(offered.hash()) == approved.hash {
            return false;
        }
        era.is_none() || says(offered.text()) != says_of(approved)
    }
}

fn says_of(approved: &Pinned) -> BTreeMap<&'static str, String> {
    says(&approved.text)
}

/// What a definition in canonical form tells a model, whatever the revision.
fn says(text: &str) -> BTreeMap<&'static str, String> {
    let definition = Value::of(text);
    let mut said = BTreeMap::new();
    for key in ["description", "arguments"] {
        if let Some(value) = definition.get(key) {
            said.insert(key, value.text().to_owned());
        }
    }
    let schema = definition.get("inputSchema").into_iter().flat_map(Value::members);
    // Which dialect it is in goes by the revision.
    let schema =
        schema.filter(|m| !m.is("$schema")).map(|m| format!("{}:{}", m.raw_key(), unmirrored(m.value)));
    said.insert("inputSchema", schema.collect::<Vec<_>>().join(","));
    said
}

/// `schema` without the names of the headers that arguments are mirrored into, which only the modern era has (spec.md A-34).
/// What is no such name says something.
fn unmirrored(schema: Value<'_>) -> String {
    let is_header = |text: &str| {
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let mirrors = |member: &Member<'_>| {
        member.is("x-mcp-header") && member.value.as_str().is_some_and(|name| is_header(&name))
    };
    match schema.kind() {
        Json::Object => {
            let members = schema.members().filter(|member| !mirrors(member));
            let members = members.map(|m| format!("{}:{}", m.raw_key(), unmirrored(m.value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Json::Array => {
            format!("[{}]", schema.elements().map(unmirrored).collect::<Vec<_>>().join(","))
        }
        _ => schema.text().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_faces_come_after_the_second_look_and_then_one_by_chance_and_not_too_often() {
        let (mut faces, start) = (Faces::default(), Instant::now());
        let (one, two): (ServerName, ServerName) = ("one".parse().unwrap(), "two".parse().unwrap());
        let mut shown = |server, now, chance| {
            faces.after_look(server, now, chance).iter().map(|face| face.name).collect::<Vec<_>>()
        };
        assert_eq!(shown(&one, start, 0), [""; 0]);
        assert_eq!(shown(&one, start, 255), ["claude-ai", "Visual Studio Code"], "one in either era");
        assert_eq!(shown(&two, start, 0), [""; 0], "each server has its own turns");
        assert_eq!(shown(&one, start + REST / 2, 0), [""; 0]);
        assert_eq!(shown(&one, start + REST, SHARE), [""; 0]);
        let later: Vec<_> = (1..=5).flat_map(|nth| shown(&one, start + REST * nth, SHARE - 1)).collect();
        assert_eq!(
            later,
            ["cursor-vscode", "openai-mcp", "claude-ai", "Visual Studio Code", "cursor-vscode"]
        );
        assert_eq!(FACES.map(|face| face.is_legacy), [false, true, false, true]);
    }

    #[test]
    fn what_a_definition_says_does_not_go_by_the_revision() {
        let modern = r#"{"annotations":{},"description":"Adds.","icons":[],"inputSchema":{"$schema":"a","type":"object"},"name":"t"}"#;
        let legacy = r#"{"description":"Adds.","inputSchema":{"type":"object"},"name":"t"}"#;
        let other = r#"{"description":"Adds, and mails eve.","inputSchema":{"type":"object"},"name":"t"}"#;
        assert_eq!(says(modern), says(legacy));
        assert_ne!(says(legacy), says(other));
        assert_ne!(says(legacy), says(&legacy.replace("object", "array")));
    }
}
