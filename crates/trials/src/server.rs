//! An MCP server over HTTP whose every byte a trial may choose.

use std::{
    io::{BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{PATIENCE, eventually, wire::Head};

/// A server on loopback. It answers honestly what its script leaves to it.
pub struct Upstream {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    connections: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Heard {
    head: Head,
    /// The body as it came.
    pub body: String,
}

/// Writes an answer.
pub struct Pen {
    socket: TcpStream,
    ends: bool,
    sessions: Arc<AtomicUsize>,
}

/// Which era the honest part speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Honest {
    Modern,
    Legacy,
}

impl Upstream {
    /// A server of 2026-07-28. `script` says whether it has dealt with a request; what it leaves is answered honestly.
    pub fn modern(script: impl Fn(&Heard, &mut Pen) -> bool + Send + Sync + 'static) -> Self {
        Self::start(Honest::Modern, script)
    }

    /// The same of the handshake revisions.
    pub fn legacy(script: impl Fn(&Heard, &mut Pen) -> bool + Send + Sync + 'static) -> Self {
        Self::start(Honest::Legacy, script)
    }

    fn start(honest: Honest, script: impl Fn(&Heard, &mut Pen) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let upstream =
            Self { address, heard: Arc::default(), connections: Arc::default(), is_over: Arc::default() };
        let (heard, connections, is_over) =
            (Arc::clone(&upstream.heard), Arc::clone(&upstream.connections), Arc::clone(&upstream.is_over));
        let (script, sessions) = (Arc::new(script), Arc::<AtomicUsize>::default());
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                connections.fetch_add(1, Ordering::Relaxed);
                let (heard, script, sessions) =
                    (Arc::clone(&heard), Arc::clone(&script), Arc::clone(&sessions));
                thread::spawn(move || serve(socket, honest, &*script, &heard, &sessions));
            }
        });
        upstream
    }

    /// Its MCP endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Its origin, for peers that are no MCP servers.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `[[servers]]` for it, with `more` lines.
    pub fn config(&self, name: &str, more: &str) -> String {
        format!(
            "[[servers]]\nname = \"{name}\"\nurl = \"{}\"\ndangerous_unpinned = true\n{more}\n",
            self.url()
        )
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was heard of one JSON-RPC method.
    pub fn heard_of(&self, method: &str) -> Vec<Heard> {
        self.heard().into_iter().filter(|h| h.rpc() == method).collect()
    }

    /// Waits until a request of this JSON-RPC method has come.
    pub fn wait_for(&self, method: &str) -> Heard {
        eventually(&format!("{method} upstream"), || self.heard_of(method).pop())
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        #[expect(clippy::disallowed_methods, reason = "a trial's server stands outside the gate")]
        drop(TcpStream::connect(self.address));
    }
}

fn serve(
    socket: TcpStream,
    honest: Honest,
    script: &(dyn Fn(&Heard, &mut Pen) -> bool + Send + Sync),
    heard: &Mutex<Vec<Heard>>,
    sessions: &Arc<AtomicUsize>,
) {
    let Ok(writer) = socket.try_clone() else { return };
    let _ = writer.set_write_timeout(Some(PATIENCE));
    let _ = writer.set_nodelay(true);
    let mut pen = Pen { socket: writer, ends: false, sessions: Arc::clone(sessions) };
    let mut reader = BufReader::new(socket);
    while let Ok(Some(head)) = Head::read(&mut reader) {
        let mut body = String::new();
        if head.body(&mut reader, false).read_to_string(&mut body).is_err() {
            break;
        }
        let request = Heard { head, body };
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        if !script(&request, &mut pen) {
            match honest {
                Honest::Modern => answer_modern(&request, &mut pen),
                Honest::Legacy => answer_legacy(&request, &mut pen),
            }
        }
        if pen.ends {
            break;
        }
    }
    let _ = pen.socket.shutdown(Shutdown::Both);
}

impl Heard {
    /// `POST`, `GET` or `DELETE`.
    pub fn method(&self) -> &str {
        self.head.start.split(' ').next().unwrap_or_default()
    }

    /// The path and query.
    pub fn target(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The path, without a query.
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// The whole first line.
    pub fn start(&self) -> &str {
        &self.head.start
    }

    /// A header line.
    pub fn line(&self, name: &str) -> Option<&str> {
        self.head.line(name)
    }

    /// All header lines as one text.
    pub fn lines(&self) -> String {
        self.head.lines.iter().map(|(n, v)| format!("{n}: {v}\n")).collect()
    }

    /// The body, read.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The JSON-RPC method; empty for a response.
    pub fn rpc(&self) -> String {
        self.json().get("method").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The JSON-RPC id as JSON.
    pub fn id(&self) -> String {
        self.json().get("id").unwrap_or(&Value::Null).to_string()
    }

    /// The tool that is called.
    pub fn tool(&self) -> String {
        let json = self.json();
        json.pointer("/params/name").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

impl Pen {
    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        // The gate may have hung up; a trial that minds looks at what it heard.
        let _ = self.socket.write_all(bytes.as_ref()).and_then(|()| self.socket.flush());
    }

    /// Closes the connection after this request.
    pub fn end(&mut self) {
        self.ends = true;
    }

    /// A whole answer, with more header lines (each ended by CR LF).
    pub fn whole(&mut self, status: &str, kind: &str, lines: &str, body: &str) {
        self.raw(format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }

    /// 200 with a JSON body.
    pub fn json(&mut self, body: &str) {
        self.whole("200 OK", "application/json", "", body);
    }

    /// 200 with a result for the request `id` (JSON).
    pub fn result(&mut self, id: &str, result: &str) {
        self.json(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#));
    }

    /// A status without anything.
    pub fn empty(&mut self, status: &str) {
        self.raw(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    }

    /// The head of an event stream, which lasts until the connection ends after this request.
    pub fn stream(&mut self) {
        self.ends = true;
        self.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
    }

    /// One event with data and an id.
    pub fn event(&mut self, id: Option<&str>, data: &str) {
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        self.raw(format!("{id}data: {data}\n\n"));
    }

    /// Waits until the gate hangs up.
    pub fn wait_closed(&mut self) {
        let _ = self.socket.set_read_timeout(Some(PATIENCE));
        let mut rest = [0; 64];
        while matches!(self.socket.read(&mut rest), Ok(1..)) {}
        self.ends = true;
    }
}

fn tools() -> Value {
    json!([{ "name": "echo", "description": "says what it is told", "inputSchema": { "type": "object" } }])
}

/// What the honest server says to a call: its arguments, as written.
fn echo(heard: &Heard) -> Value {
    let arguments = heard.json().pointer("/params/arguments").cloned().unwrap_or_default();
    json!([{ "type": "text", "text": arguments.to_string() }])
}

fn answer_modern(heard: &Heard, pen: &mut Pen) {
    let result = match heard.rpc().as_str() {
        "server/discover" => json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"],
            "capabilities": { "tools": {}, "resources": {} }, "ttlMs": 0, "cacheScope": "public",
        }),
        "tools/list" => {
            json!({ "resultType": "complete", "tools": tools(), "ttlMs": 1000, "cacheScope": "public" })
        }
        "tools/call" => json!({ "resultType": "complete", "content": echo(heard) }),
        "" => return pen.empty("202 Accepted"),
        _ => {
            let body = json!({
                "jsonrpc": "2.0", "id": heard.json().get("id"),
                "error": { "code": -32601, "message": "unknown method" },
            });
            return pen.whole("404 Not Found", "application/json", "", &body.to_string());
        }
    };
    pen.result(&heard.id(), &result.to_string());
}

fn answer_legacy(heard: &Heard, pen: &mut Pen) {
    let result = match (heard.method(), heard.rpc().as_str()) {
        ("POST", "initialize") => {
            let version = heard.json().pointer("/params/protocolVersion").cloned();
            let result = json!({
                "protocolVersion": version, "capabilities": { "tools": {}, "resources": {} },
                "serverInfo": { "name": "upstream", "version": "1" },
            });
            let number = pen.sessions.fetch_add(1, Ordering::Relaxed);
            let body = json!({ "jsonrpc": "2.0", "id": heard.json().get("id"), "result": result });
            let line = format!("Mcp-Session-Id: upstream-session-{number}\r\n");
            return pen.whole("200 OK", "application/json", &line, &body.to_string());
        }
        ("POST", "tools/list") => json!({ "tools": tools() }),
        ("POST", "tools/call") => json!({ "content": echo(heard) }),
        ("POST", "ping") => json!({}),
        ("POST", method) if method.is_empty() || method.starts_with("notifications/") => {
            return pen.empty("202 Accepted");
        }
        ("DELETE", _) => return pen.empty("200 OK"),
        ("POST", _) => {
            let body = json!({
                "jsonrpc": "2.0", "id": heard.json().get("id"),
                "error": { "code": -32601, "message": "unknown method" },
            });
            return pen.json(&body.to_string());
        }
        _ => return pen.empty("405 Method Not Allowed"),
    };
    pen.result(&heard.id(), &result.to_string());
}
