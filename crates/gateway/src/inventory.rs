//! Everything a server defines, asked for by the gateway itself and never on a user's behalf: what pins are made of.

use std::sync::Arc;

use bartizan_mcp::{
    Era, Message,
    json::{Value, quote},
    message,
};
use bartizan_store::pins::Kind;
use http::{HeaderMap, HeaderValue, header};

use crate::{
    call::{modern_request_of, own_info},
    catalog::faces::Face,
    legacy::{Way, shake_hands},
    limits::{ANSWER_BYTES, CONTROL_WAIT, INVENTORY_WAIT, PAGES},
    server::{ModernLink, NotModern, Server, final_message, modern_headers},
    upstream::{Answer, Failure},
};

/// What kind of thing a definition defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DefinitionKind {
    /// An entry of `prompts/list`.
    Prompt,
    /// An entry of `resources/list`.
    Resource,
    /// An entry of `resources/templates/list`.
    Template,
    /// An entry of `tools/list`.
    Tool,
}

impl DefinitionKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Tool, Self::Prompt, Self::Resource, Self::Template];

    /// The kind that `method` lists.
    pub fn listed_by(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.method() == method)
    }

    /// The method that lists it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Prompt => "prompts/list",
            Self::Resource => "resources/list",
            Self::Template => "resources/templates/list",
            Self::Tool => "tools/list",
        }
    }

    /// The member of the result that holds the list.
    pub fn member(self) -> &'static str {
        match self {
            Self::Prompt => "prompts",
            Self::Resource => "resources",
            Self::Template => "resourceTemplates",
            Self::Tool => "tools",
        }
    }

    /// The member of a definition by which it is called.
    pub fn key(self) -> &'static str {
        match self {
            Self::Prompt | Self::Tool => "name",
            Self::Resource => "uri",
            Self::Template => "uriTemplate",
        }
    }

    /// As what it is pinned.
    pub fn pinned(self) -> Kind {
        match self {
            Self::Prompt => Kind::Prompt,
            Self::Resource => Kind::Resource,
            Self::Template => Kind::Template,
            Self::Tool => Kind::Tool,
        }
    }

    /// The capability that offers it.
    fn capability(self) -> &'static str {
        match self {
            Self::Prompt => "prompts",
            Self::Resource | Self::Template => "resources",
            Self::Tool => "tools",
        }
    }
}

/// Everything a server defines.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Its `instructions`, if it has any.
    pub instructions: Option<String>,
    /// Each definition as written.
    pub definitions: Vec<(DefinitionKind, String)>,
}

/// Asks `server` for everything it defines, in whichever era it speaks.
///
/// # Errors
/// [`Failure`] if it cannot be reached or breaks off; what was found until then is not told.
pub async fn take(server: &Arc<Server>) -> Result<Inventory, Failure> {
    within(async {
        let (line, hello) = Line::open(server, None).await?;
        line.take_and_close(&hello).await
    })
    .await
}

/// The same for a client that shows itself as `face`, and the era if it is not the one the gate asks in itself; `None` if the server
/// speaks one era only and `face` the other.
///
/// # Errors
/// As [`take`].
pub async fn take_as(server: &Arc<Server>, face: Face) -> Result<Option<(Option<Era>, Inventory)>, Failure> {
    within(async {
        if !face.is_legacy {
            let (line, hello) = Line::open(server, Some(face)).await?;
            return Ok(Some((None, line.take_and_close(&hello).await?)));
        }
        // One that the gate asks in the handshake era itself has no other.
        if !matches!(server.modern(None, "{}").await, Ok(ModernLink::Wire(_))) {
            return Ok(None);
        }
        match Line::shake_hands(server, Some(face)).await {
            Ok((line, hello)) => Ok(Some((Some(Era::Legacy), line.take_and_close(&hello).await?))),
            Err(_) => Ok(None),
        }
    })
    .await
}

async fn within<T>(looking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::Timeout(INVENTORY_WAIT.as_secs());
    tokio::time::timeout(INVENTORY_WAIT, looking).await.map_err(late)?
}

/// A conversation of the gateway's own.
struct Line {
    way: Talk,
    face: Option<Face>,
}

enum Talk {
    Modern(ModernLink),
    Legacy(Way),
}

impl Line {
    /// Opens it; answers what the server says of itself too.
    async fn open(server: &Arc<Server>, face: Option<Face>) -> Result<(Self, Message), Failure> {
        match server.modern(None, "{}").await {
            Ok(link) => {
                let line = Self { way: Talk::Modern(link), face };
                let hello = line.ask("server/discover", None).await?;
                Ok((line, hello))
            }
            Err(NotModern::Legacy) => Self::shake_hands(server, face).await,
            Err(NotModern::Failed(failure)) => Err(failure),
        }
    }

    async fn shake_hands(server: &Arc<Server>, face: Option<Face>) -> Result<(Self, Message), Failure> {
        // Some servers offer tools only to clients that can be asked; nobody is asked anything here, but all they have must be
        // seen.
        let hello = format!(
            r#"{{"protocolVersion":"2025-11-25","capabilities":{{"roots":{{}},"sampling":{{"context":{{}},"tools":{{}}}},"elicitation":{{"form":{{}},"url":{{}}}}}},"clientInfo":{}}}"#,
            face.map_or_else(own_info, Face::info)
        );
        let (way, answer) = shake_hands(server, None, &hello).await?;
        if answer.result().is_none() {
            return Err(Failure::Protocol("it refuses the gateway's own handshake".into()));
        }
        let line = Self { way: Talk::Legacy(way), face };
        line.tell(message::notification("notifications/initialized", None)).await?;
        Ok((line, answer))
    }

    async fn take_and_close(self, hello: &Message) -> Result<Inventory, Failure> {
        let taken = self.take(hello).await;
        self.close().await;
        taken
    }

    /// A modern question, as whoever asks.
    fn modern(&self, id: u64, method: &str, cursor: Option<&str>) -> String {
        modern_request_of(&self.face.map_or_else(own_info, Face::info), id, method, cursor)
    }

    /// `headers` with what else shows who asks.
    fn showing(&self, mut headers: HeaderMap) -> HeaderMap {
        if let Some(face) = self.face {
            headers.insert(header::USER_AGENT, HeaderValue::from_static(face.user_agent));
        }
        headers
    }

    async fn take(&self, hello: &Message) -> Result<Inventory, Failure> {
        let hello = hello.result();
        let instructions = hello.and_then(|r| r.get("instructions")).and_then(Value::as_str);
        let mut found =
            Inventory { instructions: instructions.map(|i| i.into_owned()), definitions: Vec::new() };
        let offers = hello.and_then(|r| r.get("capabilities"));
        for kind in DefinitionKind::ALL {
            if offers.and_then(|o| o.get(kind.capability())).is_some() {
                self.list(kind, &mut found.definitions).await?;
            }
        }
        Ok(found)
    }

    async fn list(
        &self,
        kind: DefinitionKind,
        found: &mut Vec<(DefinitionKind, String)>,
    ) -> Result<(), Failure> {
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES {
            let answer = self.ask(kind.method(), cursor.as_deref()).await?;
            // Offered in general, but not this list: servers without templates answer so.
            let Some(result) = answer.result() else { return Ok(()) };
            let entries = result.get(kind.member()).into_iter().flat_map(Value::elements);
            found.extend(entries.map(|e| (kind, e.text().to_owned())));
            // Nobody has asked for it yet: a list without an end must cost no more than one answer may (attacks.md PH-29).
            if found.iter().map(|(_, text)| text.len()).sum::<usize>() > ANSWER_BYTES {
                return Err(Failure::Protocol("it defines more than one answer may hold".into()));
            }
            cursor = result.get("nextCursor").filter(|c| !c.is_null()).map(|c| c.text().to_owned());
            if cursor.is_none() {
                return Ok(());
            }
        }
        Err(Failure::Protocol(format!("its {} has no end", quote(kind.method()))))
    }

    /// Asks one question; `cursor` is a JSON text.
    async fn ask(&self, method: &str, cursor: Option<&str>) -> Result<Message, Failure> {
        let legacy = |id: u64| {
            let params = cursor.map(|c| format!(r#"{{"cursor":{c}}}"#));
            message::request(&id.to_string(), method, params.as_deref())
        };
        let mut answer = match &self.way {
            Talk::Modern(ModernLink::Wire(wire)) => {
                let headers = self.showing(modern_headers(method, None));
                let sent = wire.clone().post(self.modern(1, method, cursor), headers);
                Answer::sending(async { sent.await.map(|(posted, _)| posted) })
            }
            Talk::Modern(ModernLink::Process(process)) => {
                let id = process.mint();
                Answer::pipe(process.request(id, self.modern(id, method, cursor), None, true).await?)
            }
            Talk::Legacy(Way::Wire(wire)) => {
                let sent = wire.clone().post(legacy(2), self.showing(HeaderMap::new()));
                Answer::sending(async { sent.await.map(|(posted, _)| posted) })
            }
            Talk::Legacy(Way::Process(process) | Way::Shared(process)) => {
                let id = process.mint();
                Answer::pipe(process.request(id, legacy(id), None, false).await?)
            }
        };
        let answered = tokio::time::timeout(CONTROL_WAIT, final_message(&mut answer)).await;
        answered.map_err(|_| Failure::Timeout(CONTROL_WAIT.as_secs()))?
    }

    async fn tell(&self, text: String) -> Result<(), Failure> {
        match &self.way {
            // It was told when it started.
            Talk::Modern(_) | Talk::Legacy(Way::Shared(_)) => Ok(()),
            Talk::Legacy(Way::Process(process)) => process.send(text).await,
            Talk::Legacy(Way::Wire(wire)) => {
                wire.clone().post(text, self.showing(HeaderMap::new())).await.map(|_| ())
            }
        }
    }

    /// A process ends with its last holder; an HTTP session must be told (C-27).
    async fn close(self) {
        if let Talk::Legacy(Way::Wire(wire)) = self.way {
            wire.delete().await;
        }
    }
}

/// The eras in which a server can be inventoried differ only in how it is asked.
#[cfg(test)]
mod tests {
    use bartizan_mcp::{Era, era};

    use super::*;

    #[test]
    fn every_list_is_known_by_its_method() {
        for kind in DefinitionKind::ALL {
            assert_eq!(DefinitionKind::listed_by(kind.method()), Some(kind));
            assert!(era::is_client_request(Era::Modern, kind.method()));
        }
        assert_eq!(DefinitionKind::listed_by("tools/call"), None);
    }
}
