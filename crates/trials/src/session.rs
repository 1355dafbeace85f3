//! A legacy session from the client's side.

use crate::{Answer, Ask, Client, Stream};

/// An open session.
#[derive(Clone, Debug)]
pub struct Session {
    client: Client,
    path: String,
    /// `Mcp-Session-Id`
    pub id: String,
    /// The negotiated version.
    pub version: String,
    /// The answer to `initialize`.
    pub opened: Answer,
}

impl Client {
    /// The handshake's first message. `capabilities` is JSON.
    pub fn initialize(&self, path: &str, version: &str, capabilities: &str) -> Ask {
        self.post(
            path,
            format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{{"name":"trial","version":"1"}}}}}}"#
            ),
        )
    }

    /// Opens a session of revision `version` as a client with these capabilities (JSON).
    ///
    /// # Panics
    /// If the handshake is refused.
    pub fn session(&self, path: &str, version: &str, capabilities: &str) -> Session {
        let opened = self.initialize(path, version, capabilities).send();
        assert_eq!(opened.status, 200, "{}", opened.text());
        let id = opened.line("mcp-session-id").expect("a session has an id").to_owned();
        let json = opened.json();
        let version = json.pointer("/result/protocolVersion").and_then(|v| v.as_str()).unwrap_or_default();
        let session =
            Session { client: self.clone(), path: path.to_owned(), id, version: version.to_owned(), opened };
        let told = session.tell("notifications/initialized", "");
        assert_eq!(told.status, 202, "{}", told.text());
        session
    }
}

impl Session {
    /// What this client says if it names the session `id` instead.
    #[must_use]
    pub fn naming(&self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self.clone() }
    }

    /// A POST of this session, whatever its body.
    pub fn post(&self, body: impl AsRef<[u8]>) -> Ask {
        self.dress(self.client.post(&self.path, body))
    }

    fn dress(&self, ask: Ask) -> Ask {
        let ask = ask.line("Mcp-Session-Id", &self.id);
        // 2025-03-26 does not know this line.
        if self.version == "2025-03-26" { ask } else { ask.line("MCP-Protocol-Version", &self.version) }
    }

    /// A request; `id` is JSON, `params` its members.
    pub fn request(&self, id: &str, method: &str, params: &str) -> Ask {
        self.post(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#))
    }

    /// Calls `tool`; `arguments` is JSON.
    pub fn call(&self, id: &str, tool: &str, arguments: &str) -> Ask {
        self.request(id, "tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#))
    }

    /// Sends a notification.
    pub fn tell(&self, method: &str, params: &str) -> Answer {
        self.post(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{params}}}}}"#)).send()
    }

    /// The stream of what answers no request, or a broken one after `last_event`.
    pub fn listen(&self, last_event: Option<&str>) -> Ask {
        let ask = self.dress(self.client.request("GET", &self.path).line("Accept", "text/event-stream"));
        match last_event {
            Some(id) => ask.line("Last-Event-ID", id),
            None => ask,
        }
    }

    /// The stream, open.
    pub fn stream(&self) -> Stream {
        self.listen(None).open()
    }

    /// Ends the session.
    pub fn end(&self) -> Answer {
        self.dress(self.client.request("DELETE", &self.path)).send()
    }
}
