//! The built-in sample server: honest tools beside three that misbehave, so that a newcomer sees each defence act.
//!
//! It speaks MCP over stdio in both eras: the handshake revisions (2025-11-25, 2025-06-18, 2025-03-26) and the stateless
//! one (2026-07-28). What attacks there are in it are inert: they ask for a harmless word (`canary-…`), reach no network
//! and name no host but `example.com`. [`catalog`] holds everything it offers.

mod catalog;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};

use serde_json::{Map, Value, json};

use catalog::Drift;

/// The hidden command that runs it.
pub const ARGUMENT: &str = "__sample";
/// Stands for our own binary in the embedded configuration.
pub const OWN_BINARY: &str = "bartizan";

/// The longest line it reads, in bytes.
const LONGEST_LINE: u64 = 4 << 20;

const MODERN: &str = "2026-07-28";
/// The revisions that begin with a handshake, newest first.
const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// What `book_table` hands out between its two rounds. It carries nothing, so the only check it needs is that it comes
/// back as it was (spec.md A-91).
const BOOKING_STATE: &str = "awaiting-confirmation";
/// The key of the question that `book_table` asks.
const BOOKING_QUESTION: &str = "confirmation";

/// Serves one client until `input` ends.
///
/// # Errors
/// When `input` or `output` fails, and when a line is longer than 4 MiB.
pub fn serve(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut server = Server::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LONGEST_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 4 MiB"));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        for message in server.receive(&line) {
            serde_json::to_writer(&mut output, &message)?;
            output.write_all(b"\n")?;
        }
        output.flush()?;
    }
}

/// One conversation.
#[derive(Default)]
struct Server {
    /// The handshake's outcome, once there was one.
    handshake: Option<Handshake>,
    drift: Drift,
    /// Modern listen requests that want to know of changed tools, by id.
    listeners: Vec<Value>,
    /// Legacy questions to the client: our id, and the call that waits for the answer.
    waiting: BTreeMap<String, Value>,
    asked: u64,
}

struct Handshake {
    revision: &'static str,
    can_ask: bool,
}

/// Whose rules one request follows.
#[derive(Clone, Copy)]
struct Terms {
    /// `None` in the modern era.
    legacy: Option<&'static str>,
    /// The client declared form elicitation.
    can_ask: bool,
}

impl Terms {
    /// Structured results, output schemas and titles came with 2025-06-18.
    fn has_structure(self) -> bool {
        self.legacy != Some("2025-03-26")
    }
}

/// A JSON-RPC error.
struct Fault {
    code: i32,
    message: String,
    data: Option<Value>,
}

impl Fault {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    fn params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    fn method(name: &str) -> Self {
        Self::new(-32601, format!("unknown method `{name}`"))
    }
}

/// How a request ends for now.
enum Outcome {
    Result(Map<String, Value>),
    /// Nothing yet: the answer depends on the client's.
    Waits,
}

impl Server {
    /// The messages that one line brings about, in order.
    fn receive(&mut self, line: &[u8]) -> Vec<Value> {
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            return vec![error(&Value::Null, &Fault::new(-32700, "the line is not JSON"))];
        };
        let batches = self.handshake.as_ref().is_some_and(|h| h.revision == "2025-03-26");
        match message {
            Value::Array(messages) if batches && !messages.is_empty() => {
                messages.into_iter().flat_map(|message| self.one(&message)).collect()
            }
            message => self.one(&message),
        }
    }

    fn one(&mut self, message: &Value) -> Vec<Value> {
        let (id, method) = (message.get("id"), message.get("method").and_then(Value::as_str));
        let mut out = Vec::new();
        match (id, method) {
            (Some(id), Some(method)) if id.is_string() || id.is_i64() || id.is_u64() => {
                let params = message.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
                match self.request(id, method, &params, &mut out) {
                    Ok(Outcome::Result(result)) => out.push(response(id, result)),
                    Ok(Outcome::Waits) => {}
                    Err(fault) => out.push(error(id, &fault)),
                }
                self.announce_drift(&mut out);
            }
            (None, Some("notifications/cancelled")) => self.cancel(message.pointer("/params/requestId")),
            (None, Some(_)) => {}
            (Some(id), None) if message.get("result").is_some() || message.get("error").is_some() => {
                out.extend(self.answered(id, message));
            }
            _ => out.push(error(&Value::Null, &Fault::new(-32600, "neither a request nor a notification"))),
        }
        out
    }

    fn request(
        &mut self,
        id: &Value,
        method: &str,
        params: &Map<String, Value>,
        out: &mut Vec<Value>,
    ) -> Result<Outcome, Fault> {
        let meta = params.get("_meta");
        if let Some(version) = meta.and_then(|m| m.get(META_VERSION)) {
            if version != MODERN {
                let data = json!({ "supported": [MODERN], "requested": version });
                return Err(Fault {
                    data: Some(data),
                    ..Fault::new(-32022, "this protocol version is not spoken here")
                });
            }
            let capabilities = meta.and_then(|m| m.get(META_CAPABILITIES)).and_then(Value::as_object);
            let capabilities =
                capabilities.ok_or_else(|| Fault::params(format!("`_meta` lacks `{META_CAPABILITIES}`")))?;
            let terms = Terms { legacy: None, can_ask: has_form(capabilities.get("elicitation")) };
            return self.modern(id, method, params, terms, out);
        }
        match (&self.handshake, method) {
            (_, "initialize") => Ok(Outcome::Result(self.initialize(params))),
            (_, "ping") => Ok(Outcome::Result(Map::new())),
            (Some(handshake), _) => {
                let terms = Terms { legacy: Some(handshake.revision), can_ask: handshake.can_ask };
                self.feature(id, method, params, terms, out)
            }
            (None, _) => {
                Err(Fault::params(format!("`_meta` lacks `{META_VERSION}`, and there was no `initialize`")))
            }
        }
    }

    fn modern(
        &mut self,
        id: &Value,
        method: &str,
        params: &Map<String, Value>,
        terms: Terms,
        out: &mut Vec<Value>,
    ) -> Result<Outcome, Fault> {
        let outcome = match method {
            "server/discover" => {
                let versions: Vec<_> = [MODERN].into_iter().chain(LEGACY).collect();
                Outcome::Result(object(json!({
                    "supportedVersions": versions,
                    "capabilities": catalog::capabilities(),
                    "instructions": catalog::INSTRUCTIONS,
                })))
            }
            "subscriptions/listen" => {
                let wants =
                    params.get("notifications").ok_or_else(|| Fault::params("`notifications` is missing"))?;
                let tools = wants.get("toolsListChanged") == Some(&Value::Bool(true));
                // Only what is honoured is named (spec.md A-82): nothing but the tools ever changes here.
                let honoured = if tools { json!({ "toolsListChanged": true }) } else { json!({}) };
                let meta = json!({ META_SUBSCRIPTION: id });
                out.push(notification(
                    "notifications/subscriptions/acknowledged",
                    json!({ "notifications": honoured, "_meta": meta }),
                ));
                if tools {
                    self.listeners.push(id.clone());
                }
                Outcome::Waits
            }
            _ => self.feature(id, method, params, terms, out)?,
        };
        let Outcome::Result(mut result) = outcome else { return Ok(outcome) };
        if !result.contains_key("resultType") {
            result.insert("resultType".into(), "complete".into());
            if let Some((milliseconds, scope)) = caching(method) {
                result.insert("ttlMs".into(), milliseconds.into());
                result.insert("cacheScope".into(), scope.into());
            }
        }
        result.insert("_meta".into(), json!({ META_SERVER: catalog::server_info() }));
        Ok(Outcome::Result(result))
    }

    /// What both eras have.
    fn feature(
        &mut self,
        id: &Value,
        method: &str,
        params: &Map<String, Value>,
        terms: Terms,
        out: &mut Vec<Value>,
    ) -> Result<Outcome, Fault> {
        let result = match method {
            "tools/list" => json!({ "tools": catalog::tools(self.drift, terms.has_structure()) }),
            "tools/call" => return self.call(id, params, terms, out),
            "prompts/list" => json!({ "prompts": [catalog::prompt()] }),
            "prompts/get" => catalog::render_prompt(text(params, "name")?, params.get("arguments"))
                .map_err(Fault::params)?,
            "resources/list" => json!({ "resources": catalog::resources() }),
            "resources/templates/list" => json!({ "resourceTemplates": [] }),
            "resources/read" => {
                let uri = text(params, "uri")?;
                // The code moved with the era (spec.md A-49, B-39).
                let code = if terms.legacy.is_some() { -32002 } else { -32602 };
                catalog::read(uri).ok_or_else(|| Fault {
                    data: Some(json!({ "uri": uri })),
                    ..Fault::new(code, "no such resource")
                })?
            }
            "completion/complete" => {
                let typed = params.get("argument").and_then(|a| a.get("value")).and_then(Value::as_str);
                let argument = params.get("argument").and_then(|a| a.get("name")).and_then(Value::as_str);
                let prompt = params.get("ref").and_then(|r| r.get("name")).and_then(Value::as_str);
                let values = catalog::complete(prompt, argument, typed).map_err(Fault::params)?;
                json!({ "completion": { "total": values.len(), "values": values, "hasMore": false } })
            }
            _ => return Err(Fault::method(method)),
        };
        Ok(Outcome::Result(object(result)))
    }

    fn initialize(&mut self, params: &Map<String, Value>) -> Map<String, Value> {
        let asked = params.get("protocolVersion").and_then(Value::as_str);
        let [newest, ..] = LEGACY;
        let revision = LEGACY.into_iter().find(|r| Some(*r) == asked).unwrap_or(newest);
        let can_ask = has_form(params.get("capabilities").and_then(|c| c.get("elicitation")));
        // Elicitation came with 2025-06-18.
        self.handshake = Some(Handshake { revision, can_ask: can_ask && revision != "2025-03-26" });
        object(json!({
            "protocolVersion": revision,
            "capabilities": catalog::capabilities(),
            "serverInfo": catalog::server_info(),
            "instructions": catalog::INSTRUCTIONS,
        }))
    }

    fn call(
        &mut self,
        id: &Value,
        params: &Map<String, Value>,
        terms: Terms,
        out: &mut Vec<Value>,
    ) -> Result<Outcome, Fault> {
        let name = text(params, "name")?;
        let nothing = Map::new();
        let arguments = match params.get("arguments") {
            None => &nothing,
            Some(arguments) => {
                arguments.as_object().ok_or_else(|| Fault::params("`arguments` is not an object"))?
            }
        };
        if name == "book_table" {
            return self.book_table(id, params, arguments, terms, out);
        }
        let mut result = object(catalog::call(name, arguments).ok_or_else(|| unknown_tool(name))?);
        if !terms.has_structure() {
            result.remove("structuredContent");
        }
        if name == "rates" {
            self.drift.called();
        }
        Ok(Outcome::Result(result))
    }

    /// Asks the person before it books: by a request of its own in the old era, by a second round in the new one.
    fn book_table(
        &mut self,
        id: &Value,
        params: &Map<String, Value>,
        arguments: &Map<String, Value>,
        terms: Terms,
        out: &mut Vec<Value>,
    ) -> Result<Outcome, Fault> {
        let question = match catalog::booking_question(arguments) {
            Ok(question) => question,
            Err(result) => return Ok(Outcome::Result(object(result))),
        };
        if terms.legacy.is_none() {
            if params.get("requestState").is_some_and(|state| state != BOOKING_STATE) {
                return Err(Fault::params("`requestState` is not what this server handed out"));
            }
            if let Some(answer) = params.get("inputResponses").and_then(|r| r.get(BOOKING_QUESTION)) {
                return Ok(Outcome::Result(object(catalog::booked(answer))));
            }
            if !terms.can_ask {
                let data = json!({ "requiredCapabilities": { "elicitation": { "form": {} } } });
                return Err(Fault {
                    data: Some(data),
                    ..Fault::new(-32021, "`book_table` has to ask the person first")
                });
            }
            let request = json!({ "method": "elicitation/create", "params": question });
            return Ok(Outcome::Result(object(json!({
                "resultType": "input_required",
                "inputRequests": { BOOKING_QUESTION: request },
                "requestState": BOOKING_STATE,
            }))));
        }
        if !terms.can_ask {
            return Ok(Outcome::Result(object(catalog::failed(
                "this client cannot ask the person; nothing was booked",
            ))));
        }
        self.asked += 1;
        let question_id = format!("sample-{}", self.asked);
        // Only the newest handshake revision names the mode.
        let mut question = question;
        if terms.legacy != Some("2025-11-25") {
            question.remove("mode");
        }
        out.push(json!({ "jsonrpc": "2.0", "id": question_id, "method": "elicitation/create", "params": question }));
        self.waiting.insert(question_id, id.clone());
        Ok(Outcome::Waits)
    }

    /// The client's answer to a question of ours ends the call that waits for it; others are ignored (spec.md B-40).
    fn answered(&mut self, id: &Value, message: &Value) -> Option<Value> {
        let call = self.waiting.remove(id.as_str()?)?;
        let result = message
            .get("result")
            .map_or_else(|| catalog::failed("the client could not ask"), catalog::booked);
        Some(response(&call, object(result)))
    }

    fn cancel(&mut self, id: Option<&Value>) {
        self.listeners.retain(|listener| Some(listener) != id);
        self.waiting.retain(|_, call| Some(&*call) != id);
    }

    /// Says once that the tools changed, to those who may hear it.
    fn announce_drift(&mut self, out: &mut Vec<Value>) {
        const CHANGED: &str = "notifications/tools/list_changed";
        if !self.drift.is_news() {
            return;
        }
        if self.handshake.is_some() {
            out.push(json!({ "jsonrpc": "2.0", "method": CHANGED }));
        }
        out.extend(
            self.listeners
                .iter()
                .map(|id| notification(CHANGED, json!({ "_meta": { META_SUBSCRIPTION: id } }))),
        );
    }
}

/// How long and by whom a result may be kept (spec.md A-56). Tools may change at any call, so they are not.
fn caching(method: &str) -> Option<(u64, &'static str)> {
    match method {
        "tools/list" => Some((0, "private")),
        "server/discover"
        | "prompts/list"
        | "resources/list"
        | "resources/templates/list"
        | "resources/read" => Some((3_600_000, "public")),
        _ => None,
    }
}

/// Whether an elicitation capability includes forms: `{}` means forms only (spec.md A-90).
fn has_form(capability: Option<&Value>) -> bool {
    capability.and_then(Value::as_object).is_some_and(|modes| modes.is_empty() || modes.contains_key("form"))
}

fn unknown_tool(name: &str) -> Fault {
    Fault::params(format!("unknown tool `{name}`"))
}

fn text<'a>(params: &'a Map<String, Value>, key: &str) -> Result<&'a str, Fault> {
    params.get(key).and_then(Value::as_str).ok_or_else(|| Fault::params(format!("`{key}` must be a string")))
}

fn response(id: &Value, result: Map<String, Value>) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

fn notification(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

/// An error; one whose request could not be read has no id to answer (spec.md A-08).
fn error(id: &Value, fault: &Fault) -> Value {
    let mut error = object(json!({ "code": fault.code, "message": fault.message }));
    if let Some(data) = &fault.data {
        error.insert("data".into(), data.clone());
    }
    let mut message = object(json!({ "jsonrpc": "2.0", "error": error }));
    if !id.is_null() {
        message.insert("id".into(), id.clone());
    }
    message.into()
}

/// The members of a `json!` object.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
