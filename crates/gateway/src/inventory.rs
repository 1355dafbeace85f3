//! Everything a server defines, asked for by the gateway itself and never on a user's behalf: what pins are made of.

use std::sync::Arc;

use bartizan_mcp::{
    Message,
    json::{Value, quote},
    message,
};

use crate::{
    call::{own_info, own_modern_request},
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
    let looking = async {
        let (line, hello) = Line::open(server).await?;
        let taken = line.take(&hello).await;
        line.close().await;
        taken
    };
    let late = |_| Failure::Timeout(INVENTORY_WAIT.as_secs());
    tokio::time::timeout(INVENTORY_WAIT, looking).await.map_err(late)?
}

/// A conversation of the gateway's own.
enum Line {
    Modern(ModernLink),
    Legacy(Way),
}

impl Line {
    /// Opens it; answers what the server says of itself too.
    async fn open(server: &Arc<Server>) -> Result<(Self, Message), Failure> {
        match server.modern(None, "{}").await {
            Ok(link) => {
                let line = Self::Modern(link);
                let hello = line.ask("server/discover", None).await?;
                Ok((line, hello))
            }
            Err(NotModern::Legacy) => {
                // Some servers offer tools only to clients that can be asked; nobody is asked anything here, but all they
                // have must be seen.
                let hello = format!(
                    r#"{{"protocolVersion":"2025-11-25","capabilities":{{"roots":{{}},"sampling":{{}},"elicitation":{{}}}},"clientInfo":{}}}"#,
                    own_info()
                );
                let (way, answer) = shake_hands(server, None, &hello).await?;
                if answer.result().is_none() {
                    return Err(Failure::Protocol("it refuses the gateway's own handshake".into()));
                }
                let line = Self::Legacy(way);
                line.tell(message::notification("notifications/initialized", None)).await?;
                Ok((line, answer))
            }
            Err(NotModern::Failed(failure)) => Err(failure),
        }
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
        let mut answer = match self {
            Self::Modern(ModernLink::Wire(wire)) => {
                let sent =
                    wire.clone().post(own_modern_request(1, method, cursor), modern_headers(method, None));
                Answer::sending(async { sent.await.map(|(posted, _)| posted) })
            }
            Self::Modern(ModernLink::Process(process)) => {
                let id = process.mint();
                Answer::pipe(process.request(id, own_modern_request(id, method, cursor), None, true).await?)
            }
            Self::Legacy(Way::Wire(wire)) => {
                let sent = wire.clone().post(legacy(2), http::HeaderMap::new());
                Answer::sending(async { sent.await.map(|(posted, _)| posted) })
            }
            Self::Legacy(Way::Process(process) | Way::Shared(process)) => {
                let id = process.mint();
                Answer::pipe(process.request(id, legacy(id), None, false).await?)
            }
        };
        let answered = tokio::time::timeout(CONTROL_WAIT, final_message(&mut answer)).await;
        answered.map_err(|_| Failure::Timeout(CONTROL_WAIT.as_secs()))?
    }

    async fn tell(&self, text: String) -> Result<(), Failure> {
        match self {
            // It was told when it started.
            Self::Modern(_) | Self::Legacy(Way::Shared(_)) => Ok(()),
            Self::Legacy(Way::Process(process)) => process.send(text).await,
            Self::Legacy(Way::Wire(wire)) => {
                wire.clone().post(text, http::HeaderMap::new()).await.map(|_| ())
            }
        }
    }

    /// A process ends with its last holder; an HTTP session must be told (C-27).
    async fn close(self) {
        if let Self::Legacy(Way::Wire(wire)) = self {
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
