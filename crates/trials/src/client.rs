//! A client that writes every byte of its requests itself.

use std::{
    io::{BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Instant,
};

use serde_json::Value;

use crate::{
    PATIENCE,
    wire::{self, Event, Head},
};

/// Somebody in front of a gate.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    token: Option<String>,
}

/// A request that has not been sent.
#[derive(Clone, Debug)]
pub struct Ask {
    client: Client,
    start: String,
    lines: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status; 0 if the connection was closed without an answer.
    pub status: u16,
    head: Head,
    /// The body, chunks put together.
    pub body: Vec<u8>,
}

/// An answer whose body comes bit by bit.
pub struct Stream {
    /// The HTTP status.
    pub status: u16,
    head: Head,
    socket: TcpStream,
    body: BufReader<Box<dyn Read>>,
}

impl Client {
    /// A client that shows `token`, or none.
    pub fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// `host:port`
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// A bare connection.
    pub fn connect(&self) -> TcpStream {
        #[expect(clippy::disallowed_methods, reason = "a trial's client stands outside the gate")]
        let socket = TcpStream::connect(self.address).expect("the gate listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        // Nagle's algorithm would wait for acknowledgements between our writes.
        socket.set_nodelay(true).expect("a socket takes the option");
        socket
    }

    /// Sends `bytes` as they are on a connection of their own, and reads one answer.
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut socket = self.connect();
        // The gate may refuse and close before it has read everything.
        let _ = socket.write_all(bytes.as_ref());
        read_answer(socket)
    }

    /// A request with `Host` and, if there is a token, `Authorization`.
    pub fn request(&self, method: &str, path: &str) -> Ask {
        let ask = Ask {
            client: self.clone(),
            start: format!("{method} {path} HTTP/1.1"),
            lines: vec![("Host".into(), self.authority())],
            body: None,
        };
        match &self.token {
            Some(token) => ask.line("Authorization", &format!("Bearer {token}")),
            None => ask,
        }
    }

    /// A POST of JSON.
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Ask {
        self.request("POST", path)
            .line("Content-Type", "application/json")
            .line("Accept", "application/json, text/event-stream")
            .body(body)
    }

    /// A request of the modern era. `params` are the members of `params` beside `_meta`, as JSON.
    pub fn modern(&self, path: &str, method: &str, params: &str) -> Ask {
        self.modern_declaring(path, method, params, "{}")
    }

    /// The same from a client with these capabilities (JSON).
    pub fn modern_declaring(&self, path: &str, method: &str, params: &str, capabilities: &str) -> Ask {
        let ask = self
            .post(path, modern_text("1", method, params, capabilities))
            .line("MCP-Protocol-Version", "2026-07-28")
            .line("Mcp-Method", method);
        let params: Value = serde_json::from_str(&format!("{{{params}}}")).unwrap_or_default();
        let key = match method {
            "tools/call" | "prompts/get" => "name",
            "resources/read" => "uri",
            "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
            _ => return ask,
        };
        match params.get(key).and_then(Value::as_str) {
            Some(name) => ask.line("Mcp-Name", name),
            None => ask,
        }
    }

    /// Calls `tool` of the server at `path` in the modern era; `arguments` is JSON.
    pub fn call(&self, path: &str, tool: &str, arguments: &str) -> Answer {
        self.modern(path, "tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#)).send()
    }
}

/// The text of a modern request whose id is `id` (JSON).
pub fn modern_text(id: &str, method: &str, params: &str, capabilities: &str) -> String {
    let comma = if params.is_empty() { "" } else { "," };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"trial","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    )
}

impl Ask {
    /// With one more header line.
    #[must_use]
    pub fn line(mut self, name: &str, value: &str) -> Self {
        self.lines.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without any line of that name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.lines.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// With this line in the place of all of that name.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        self.without(name).line(name, value)
    }

    /// With this body; its length is added when it is sent.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start).into_bytes();
        for (name, value) in &self.lines {
            text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if let Some(body) = &self.body {
            text.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(self.body.as_deref().unwrap_or_default());
        text
    }

    /// Sends it and reads the whole answer.
    pub fn send(self) -> Answer {
        self.client.raw(self.bytes())
    }

    /// Sends it and reads the answer's head.
    pub fn open(self) -> Stream {
        let mut socket = self.client.connect();
        socket.write_all(&self.bytes()).expect("the gate reads");
        let mut reader = BufReader::new(socket.try_clone().expect("a socket can be shared"));
        let head = Head::read(&mut reader).expect("an answer comes").expect("an answer comes");
        let body = head.body(reader, true);
        Stream { status: status_of(&head), body: BufReader::new(body), head, socket }
    }
}

fn read_answer(socket: TcpStream) -> Answer {
    let mut reader = BufReader::new(socket);
    let mut answer = Answer { status: 0, head: Head::default(), body: Vec::new() };
    if let Ok(Some(head)) = Head::read(&mut reader) {
        answer.status = status_of(&head);
        let has_body = !matches!(answer.status, 202 | 204) || head.line("content-length").is_some();
        if has_body {
            answer.body = read_all(head.body(reader, true));
        }
        answer.head = head;
    }
    answer
}

/// Reads to the end, or as long as a trial may wait: a stream that goes on for ever must fail its trial, not hold it
/// up. A stream that is cut is an answer too; its trial looks at what came.
fn read_all(mut body: impl Read) -> Vec<u8> {
    let began = Instant::now();
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    while began.elapsed() < PATIENCE {
        match body.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(read) => all.extend_from_slice(piece.get(..read).unwrap_or_default()),
        }
    }
    all
}

fn status_of(head: &Head) -> u16 {
    head.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

impl Answer {
    /// A header line.
    pub fn line(&self, name: &str) -> Option<&str> {
        self.head.line(name)
    }

    /// Every header line of this name.
    pub fn lines(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// How it went: the HTTP status or, of an error that came under 200, its code. 200 is an answer to what was asked.
    pub fn outcome(&self) -> i64 {
        self.code().filter(|_| self.status == 200).unwrap_or_else(|| self.status.into())
    }

    /// Every message of the answer, as written: one for JSON, any number for an event stream.
    pub fn messages(&self) -> Vec<String> {
        if self.line("content-type") != Some("text/event-stream") {
            return vec![self.text()];
        }
        let mut reader = BufReader::new(self.body.as_slice());
        let mut found = Vec::new();
        while let Ok(Some(event)) = wire::next_event(&mut reader) {
            if !event.data.is_empty() {
                found.push(event.data);
            }
        }
        found
    }

    /// The last message, as written.
    pub fn message(&self) -> String {
        self.messages().pop().unwrap_or_default()
    }

    /// The last message, read; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.message()).unwrap_or_default()
    }

    /// `result`
    pub fn result(&self) -> Option<Value> {
        self.json().get("result").cloned()
    }

    /// `error.code`
    pub fn code(&self) -> Option<i64> {
        self.json().get("error")?.get("code")?.as_i64()
    }

    /// `error.message`
    pub fn error(&self) -> String {
        let json = self.json();
        json.pointer("/error/message").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The text of a tool's first content block.
    pub fn said(&self) -> String {
        let json = self.json();
        json.pointer("/result/content/0/text").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

impl Stream {
    /// A header line.
    pub fn line(&self, name: &str) -> Option<&str> {
        self.head.line(name)
    }

    /// The next event; `None` when the stream has ended.
    pub fn event(&mut self) -> Option<Event> {
        wire::next_event(&mut self.body).ok().flatten()
    }

    /// The next event with data, read.
    ///
    /// # Panics
    /// If the stream ends before.
    pub fn message(&mut self) -> Value {
        loop {
            let event = self.event().expect("the stream goes on");
            if !event.data.is_empty() {
                return serde_json::from_str(&event.data).expect("events hold messages");
            }
        }
    }

    /// Closes the connection at once.
    pub fn close(self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
