//! The stdio server of the trials: honest where nobody asks it not to be.
//!
//! `prober [--legacy | --modern] [--record FILE]`: which era it speaks (both by default), and where it writes down what
//! it is sent, line by line as it came. Its tools are how a trial makes it look around or misbehave:
//!
//! * `echo`: the text of its arguments. `look`: what it sees of the machine. `pause {ms}`: answers later.
//! * `hang`: never answers. `say {line}`: writes the line, then answers; `times` over. `only {line}`: writes the line in the place of
//!   its answer. `blurt {text}`: writes on standard error. In lines, `%ID%` stands for the request's id, `%PAD%` for
//!   `pad` bytes.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, Write},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

#[derive(Clone)]
struct Prober {
    is_legacy: bool,
    is_modern: bool,
    record: Option<Arc<Mutex<File>>>,
}

fn main() -> ExitCode {
    let mut prober = Prober { is_legacy: true, is_modern: true, record: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--legacy" => prober.is_modern = false,
            "--modern" => prober.is_legacy = false,
            "--record" => {
                let Some(path) = arguments.next() else { return ExitCode::from(2) };
                let Ok(file) = OpenOptions::new().create(true).append(true).open(path) else {
                    return ExitCode::from(2);
                };
                prober.record = Some(Arc::new(Mutex::new(file)));
            }
            // Whatever else it is given, it shows by `look`.
            _ => {}
        }
    }
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(record) = &prober.record {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(record, "{line}");
        }
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if message.get("id").is_none() || message.get("method").is_none() {
            continue;
        }
        let prober = prober.clone();
        // One thread for each request, so that a slow one holds nobody up.
        thread::spawn(move || prober.answer(&message));
    }
    ExitCode::SUCCESS
}

fn write(line: &str) {
    let mut output = std::io::stdout().lock();
    // Nobody reads any more: the end is near.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

impl Prober {
    fn answer(&self, message: &Value) {
        let id = message.get("id").unwrap_or(&Value::Null);
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let mut result = match text("/method") {
            "server/discover" if self.is_modern => json!({
                "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
                "ttlMs": 0, "cacheScope": "public",
            }),
            "initialize" if self.is_legacy => json!({
                "protocolVersion": message.pointer("/params/protocolVersion"), "capabilities": { "tools": {} },
                "serverInfo": { "name": "prober", "version": "1" },
            }),
            "ping" | "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" => json!({}),
            "tools/list" => json!({ "tools": tools(), "ttlMs": 0, "cacheScope": "public" }),
            "tools/call" => match self.call(id, text("/params/name"), message) {
                Some(said) => json!({ "content": [{ "type": "text", "text": said }] }),
                None => return,
            },
            _ => {
                let error = json!({ "code": -32601, "message": "unknown method" });
                return write(&json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string());
            }
        };
        let is_modern = message.pointer("/params/_meta/io.modelcontextprotocol~1protocolVersion").is_some();
        if let Some(result) = result.as_object_mut().filter(|_| is_modern) {
            result.insert("resultType".into(), json!("complete"));
        }
        write(&json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string());
    }

    /// What the tool says; `None` if it says nothing more.
    fn call(&self, id: &Value, tool: &str, message: &Value) -> Option<String> {
        let arguments = message.pointer("/params/arguments").unwrap_or(&Value::Null);
        let text = |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| arguments.get(key).and_then(Value::as_u64).unwrap_or_default();
        let line = || {
            let pad = "x".repeat(usize::try_from(number("pad")).unwrap_or(0));
            text("line").replace("%ID%", &id.to_string()).replace("%PAD%", &pad)
        };
        match tool {
            "look" => Some(look().to_string()),
            "try" => Some(if dares(text("deed"), text("on")) { "done" } else { "refused" }.into()),
            "pause" => {
                thread::sleep(Duration::from_millis(number("ms")));
                Some("rested".into())
            }
            "hang" => None,
            "say" => {
                let line = line();
                (0..number("times").max(1)).for_each(|_| write(&line));
                Some("said".into())
            }
            "only" => {
                write(&line());
                None
            }
            "blurt" => {
                let mut errors = std::io::stderr().lock();
                let _ = writeln!(errors, "{}", text("text"));
                Some("blurted".into())
            }
            _ => Some(arguments.to_string()),
        }
    }
}

fn tools() -> Vec<Value> {
    ["echo", "look", "try", "pause", "hang", "say", "only", "blurt"]
        .into_iter()
        .map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }))
        .collect()
}

/// Whether this process may read, write or change a file, or connect to an address.
#[expect(clippy::disallowed_methods, reason = "a server that goes its own way out")]
fn dares(deed: &str, on: &str) -> bool {
    match deed {
        "read" => std::fs::read(on).is_ok(),
        "list" => std::fs::read_dir(on).is_ok(),
        "write" => std::fs::write(on, "x").is_ok(),
        "connect" => std::net::TcpStream::connect(on).is_ok(),
        "send" => std::net::UdpSocket::bind("0.0.0.0:0").is_ok_and(|socket| socket.send_to(b"x", on).is_ok()),
        "publish" => {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(on, std::fs::Permissions::from_mode(0o666)).is_ok()
        }
        // Folders in folders, deeper than a stack is.
        "bury" => (0..8_000)
            .try_for_each(|depth| {
                std::env::set_current_dir(if depth == 0 { on } else { "d" })?;
                std::fs::create_dir("d")
            })
            .is_ok(),
        "start" => std::process::Command::new(on).status().is_ok_and(|status| status.success()),
        _ => false,
    }
}

/// What this process sees of the machine: its own environment, arguments, descriptors, folder, and its parent's.
fn look() -> Value {
    let environment: serde_json::Map<_, _> = std::env::vars_os()
        .map(|(k, v)| (k.to_string_lossy().into_owned(), json!(v.to_string_lossy())))
        .collect();
    // The folder that lists the descriptors is open while it is read.
    let descriptors: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| std::fs::read_link(e.path()).is_ok_and(|to| !to.starts_with("/proc")))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let parent = std::os::unix::process::parent_id();
    json!({
        "pid": std::process::id(),
        "environment": environment,
        "arguments": std::env::args().collect::<Vec<_>>(),
        "descriptors": descriptors,
        "folder": std::env::current_dir().ok(),
        "parent_memory": File::open(format!("/proc/{parent}/mem")).is_ok(),
        "parent_environment": std::fs::read_to_string(format!("/proc/{parent}/environ")).ok(),
    })
}
