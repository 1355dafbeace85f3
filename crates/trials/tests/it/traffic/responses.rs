//! Quarantine and revocation: in force within five seconds, reversible, recorded.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bartizan_trials::{Gate, Upstream, binary, eventually, prober};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::records::{audit, entries, of_kind};

/// What a response may take, and a little for the trial itself.
const SOON: Duration = Duration::from_secs(6);

pub fn respond(gate: &Gate, arguments: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(binary())
        .arg("respond")
        .args(arguments)
        .arg("--config")
        .arg(gate.folder().join("bartizan.toml"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout) + &text(&done.stderr))
}

fn done(gate: &Gate, arguments: &[&str]) {
    let (code, said) = respond(gate, arguments);
    assert_eq!(code, Some(0), "{said}");
}

/// Waits until `is_so`, which must be soon.
pub fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    eventually(what, || is_so().then_some(()));
    assert!(began.elapsed() < SOON, "{what} took {:?}", began.elapsed());
}

pub fn reason(gate: &Gate, path: &str, tool: &str) -> Value {
    reason_for(&gate.client(), path, tool)
}

pub fn reason_for(client: &bartizan_trials::Client, path: &str, tool: &str) -> Value {
    let answer = client.call(path, tool, "{}");
    answer.json().pointer("/error/data/reason").cloned().unwrap_or_default()
}

fn tools(gate: &Gate, path: &str) -> Vec<String> {
    let listed = gate.client().modern(path, "tools/list", "").send();
    let tools = listed.result().map(|r| r["tools"].clone()).unwrap_or_default();
    tools.as_array().into_iter().flatten().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_server_in_quarantine_is_cut_off_from_everybody_and_comes_back() {
    let (bad, good) = (Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
    let gate = Gate::start(&format!(
        "{}{}{}",
        bad.config("bad", ""),
        good.config("good", ""),
        prober("proc", &[], "")
    ));
    let session = gate.client().session("/mcp/good", "2025-11-25", "{}");
    for path in ["/mcp/bad", "/mcp/proc"] {
        assert_eq!(gate.client().call(path, "echo", "{}").outcome(), 200);
    }
    let pid =
        entries(&gate).into_iter().find(|e| e["kind"] == "child.started").unwrap()["pid"].as_u64().unwrap();

    for server in ["bad", "good", "proc"] {
        done(&gate, &["quarantine", server, "--why", "it poured tea"]);
    }
    soon("the quarantine", || reason(&gate, "/mcp/bad", "echo") == "response.quarantined");
    soon("its processes are gone", || !std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists());
    soon("its sessions are over", || session.call("1", "echo", "{}").send().status == 404);
    let heard = bad.heard().len();
    for tool in ["echo", "other"] {
        assert_eq!(reason(&gate, "/mcp/bad", tool), "response.quarantined");
        assert_eq!(reason(&gate, "/mcp", &format!("bad__{tool}")), "response.quarantined");
    }
    assert_eq!(
        gate.client().modern("/mcp/bad", "tools/list", "").send().outcome(),
        -31003,
        "nothing of it is shown"
    );
    assert!(!tools(&gate, "/mcp").iter().any(|tool| tool.starts_with("bad__")), "nor beside others'");
    let refused = gate.client().initialize("/mcp/good", "2025-11-25", "{}").send();
    assert!(refused.code().is_some(), "no session begins with it: {}", refused.text());
    assert_eq!(bad.heard().len(), heard, "it heard of none of this");
    let (code, said) = respond(&gate, &["list"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("server bad") && said.contains("it poured tea"), "{said}");

    done(&gate, &["release", "bad"]);
    soon("the release", || gate.client().call("/mcp/bad", "echo", "{}").outcome() == 200);
    assert_eq!(respond(&gate, &["release", "bad"]).0, Some(1), "there is nothing to release");
    assert_eq!(reason(&gate, "/mcp/proc", "echo"), "response.quarantined", "the others stay");

    let all = entries(&gate);
    let acted: Vec<_> = of_kind(&all, "response.acted")
        .into_iter()
        .filter(|e| e["server"] == "bad")
        .map(|e| (e["change"]["to"].clone(), e["decision"].clone()))
        .collect();
    for one in [(json!("quarantined"), json!("deny")), (json!("released"), json!("permit"))] {
        assert_eq!(
            acted.iter().filter(|a| **a == one).count(),
            2,
            "by whom it was done, and by the gate: {acted:?}"
        );
    }
    assert_eq!(audit(&gate, &["verify"]).0, Some(0));
}

#[test]
fn a_tool_in_quarantine_is_neither_shown_nor_called_and_the_others_are() {
    let up = Upstream::modern(|heard, pen| {
        heard.rpc() == "tools/list"
            && {
                let tool = |name| json!({ "name": name, "description": "a tool", "inputSchema": { "type": "object" } });
                let result = json!({ "resultType": "complete", "tools": [tool("echo"), tool("shout")], "ttlMs": 0, "cacheScope": "private" });
                pen.result(&heard.id(), &result.to_string());
                true
            }
    });
    let gate = Gate::start(&up.config("up", ""));
    assert_eq!(tools(&gate, "/mcp/up"), ["echo", "shout"]);
    done(&gate, &["quarantine", "up/shout"]);
    soon("the quarantine", || reason(&gate, "/mcp/up", "shout") == "response.quarantined");
    assert_eq!(reason(&gate, "/mcp", "up__shout"), "response.quarantined");
    assert_eq!(tools(&gate, "/mcp/up"), ["echo"]);
    assert_eq!(tools(&gate, "/mcp"), ["up__echo"]);
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    done(&gate, &["release", "up/shout"]);
    soon("the release", || gate.client().call("/mcp/up", "shout", "{}").outcome() == 200);
    assert_eq!(tools(&gate, "/mcp/up"), ["echo", "shout"]);
}

/// A server whose tools make tasks, of which it tells whoever listens `again` and again; but `wait`, which answers when it
/// may.
fn tasking(may_answer: Arc<AtomicBool>) -> Upstream {
    let task = |kind: &str, tool: &str| {
        let now = "2026-11-29T12:00:00Z";
        json!({ "resultType": kind, "taskId": tool, "status": "completed", "createdAt": now, "lastUpdatedAt": now, "ttlMs": 60000,
                "result": { "content": [{ "type": "text", "text": format!("canary of {tool}") }] } })
    };
    Upstream::modern(move |heard, pen| {
        let json = heard.json();
        match (heard.rpc().as_str(), heard.tool().as_str()) {
            ("tools/call", "wait") => {
                eventually("the answer may be given", || may_answer.load(Ordering::Relaxed).then_some(()));
                let text = json!([{ "type": "text", "text": "canary of wait" }]);
                pen.result(&heard.id(), &json!({ "resultType": "complete", "content": text }).to_string());
            }
            ("tools/call", tool) => pen.result(&heard.id(), &task("task", tool).to_string()),
            ("tasks/get" | "tasks/update", _) => {
                let task = task("complete", json["params"]["taskId"].as_str().unwrap());
                pen.result(&heard.id(), &task.to_string());
            }
            ("subscriptions/listen", _) => {
                let meta = json!({ "io.modelcontextprotocol/subscriptionId": json["id"] });
                let say = |method: &str, mut params: Value| {
                    params["_meta"] = meta.clone();
                    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
                };
                pen.stream();
                let tasks = &json["params"]["notifications"]["taskIds"];
                pen.event(
                    None,
                    &say(
                        "notifications/subscriptions/acknowledged",
                        json!({ "notifications": { "taskIds": tasks } }),
                    ),
                );
                for tool in tasks.as_array().unwrap() {
                    pen.event(None, &say("notifications/tasks", task("task", tool.as_str().unwrap())));
                }
                pen.wait_closed();
            }
            _ => return false,
        }
        true
    })
}

const TASKS: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

#[test]
fn a_tool_in_quarantine_says_nothing_more_in_what_was_under_way() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let up = tasking(Arc::clone(&may_answer));
    let mut gate = Gate::start(&up.config("up", ""));
    let ask = |gate: &Gate, method: &str, params: &str| {
        gate.client().modern_declaring("/mcp/up", method, params, TASKS).send()
    };
    let make = |gate: &Gate, tool: &str| {
        let made = ask(gate, "tools/call", &format!(r#""name":"{tool}","arguments":{{}}"#));
        made.result().unwrap_or_else(|| panic!("{}", made.text()))["taskId"].as_str().unwrap().to_owned()
    };
    let get = |gate: &Gate, task: &str| ask(gate, "tasks/get", &format!(r#""taskId":"{task}""#));
    let (bad, good) = (make(&gate, "bad"), make(&gate, "good"));
    assert!(get(&gate, &bad).text().contains("canary of bad"));
    let client = gate.client();
    let waiting = std::thread::spawn(move || client.call("/mcp/up", "wait", "{}"));
    eventually("the call is under way", || {
        up.heard_of("tools/call").iter().any(|heard| heard.tool() == "wait").then_some(())
    });

    done(&gate, &["quarantine", "up/wait"]);
    done(&gate, &["quarantine", "up/bad"]);
    soon("the quarantine", || reason(&gate, "/mcp/up", "bad") == "response.quarantined");
    assert_eq!(reason(&gate, "/mcp/up", "wait"), "response.quarantined");
    let is_withheld = |answer: &bartizan_trials::Answer| {
        let reason = answer.json().pointer("/error/data/reason").cloned();
        assert_eq!(reason, Some(json!("response.quarantined")), "{}", answer.text());
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    };
    is_withheld(&get(&gate, &bad));
    assert!(get(&gate, &good).text().contains("canary of good"), "another tool's task");
    may_answer.store(true, Ordering::Relaxed);
    is_withheld(&waiting.join().unwrap());
    // Nor does it hear what a client answers.
    let update =
        |task: &str| ask(&gate, "tasks/update", &format!(r#""taskId":"{task}","inputResponses":{{}}"#));
    is_withheld(&update(&bad));
    assert!(up.heard_of("tasks/update").is_empty());
    assert_eq!(update(&good).outcome(), 200);
    // Whoever listens goes on hearing of the others.
    let listening = format!(r#""notifications":{{"taskIds":["{bad}","{good}"]}}"#);
    let mut stream =
        gate.client().modern_declaring("/mcp/up", "subscriptions/listen", &listening, TASKS).open();
    loop {
        let message = stream.message().to_string();
        assert!(!message.contains("canary of bad"), "{message}");
        if message.contains("canary of good") {
            break;
        }
    }
    stream.close();

    // After a restart nobody knows whose task is whose.
    gate.restart();
    is_withheld(&get(&gate, &bad));
    is_withheld(&get(&gate, &good));
    for tool in ["up/bad", "up/wait"] {
        done(&gate, &["release", tool]);
    }
    soon("the release", || get(&gate, &bad).text().contains("canary of bad"));
}

#[test]
fn a_task_of_a_tool_in_quarantine_asks_nobody_when_nothing_waits_for_it() {
    let may_ask = Arc::new(AtomicBool::new(false));
    let asks = Arc::clone(&may_ask);
    let up = Upstream::legacy(move |heard, pen| {
        match (heard.method(), heard.rpc().as_str()) {
            ("POST", "tools/call") => {
                let now = "2026-11-29T12:00:00Z";
                let task = json!({ "taskId": heard.tool(), "status": "working", "createdAt": now, "lastUpdatedAt": now, "ttl": 60000 });
                pen.result(&heard.id(), &json!({ "task": task }).to_string());
            }
            ("GET", _) => {
                pen.stream();
                eventually("it may ask", || asks.load(Ordering::Relaxed).then_some(()));
                for tool in ["bad", "good"] {
                    let params = json!({
                        "message": format!("canary of {tool}"),
                        "requestedSchema": { "type": "object", "properties": {} },
                        "_meta": { "io.modelcontextprotocol/related-task": { "taskId": tool } },
                    });
                    let question = json!({ "jsonrpc": "2.0", "id": format!("of-{tool}"), "method": "elicitation/create", "params": params });
                    pen.event(None, &question.to_string());
                }
                pen.wait_closed();
            }
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", r#"may_ask = ["elicitation"]"#));
    let session = gate.client().session("/mcp/up", "2025-11-25", r#"{"elicitation":{}}"#);
    for (id, tool) in [("1", "bad"), ("2", "good")] {
        let made = session.call(id, tool, "{}").send();
        assert!(made.result().is_some(), "{}", made.text());
    }
    done(&gate, &["quarantine", "up/bad"]);
    soon("the quarantine", || {
        let json = session.call("3", "bad", "{}").send().json();
        json.pointer("/error/data/reason") == Some(&json!("response.quarantined"))
    });
    let mut stream = session.stream();
    may_ask.store(true, Ordering::Relaxed);
    let asked = stream.message();
    assert_eq!(asked["method"], "elicitation/create", "{asked}");
    assert!(asked["params"]["message"].as_str().unwrap().contains("canary of good"), "{asked}");
    stream.close();
    let answer = eventually("the server is answered", || {
        up.heard().iter().map(|heard| heard.json()).find(|json| json["id"] == "of-bad")
    });
    assert!(answer["error"].is_object(), "{answer}");
}

#[test]
fn somebody_revoked_is_turned_away_everywhere_and_his_sessions_end() {
    let (new, old) = (Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
    let gate = Gate::start(&format!("{}{}", new.config("new", ""), old.config("old", "")));
    let session = gate.client().session("/mcp/old", "2025-11-25", "{}");
    let mut stream = session.stream();
    done(&gate, &["revoke", "--person", "somebody-else", "--issuer", "local"]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(gate.client().call("/mcp/new", "echo", "{}").outcome(), 200, "another person's revocation");

    done(&gate, &["revoke", "--person", "owner", "--issuer", "local", "--why", "left on the bus"]);
    soon("the revocation", || gate.client().call("/mcp/new", "echo", "{}").status == 403);
    assert_eq!(reason(&gate, "/mcp/new", "echo"), "response.revoked");
    assert_eq!(session.call("1", "echo", "{}").send().status, 403);
    assert_eq!(gate.client().initialize("/mcp/old", "2025-11-25", "{}").send().status, 403);
    assert_eq!(gate.stranger().call("/mcp/new", "echo", "{}").status, 401, "strangers learn nothing new");
    while stream.event().is_some() {}

    done(&gate, &["release", "--person", "owner", "--issuer", "local"]);
    soon("the release", || gate.client().call("/mcp/new", "echo", "{}").outcome() == 200);
    assert_eq!(session.call("1", "echo", "{}").send().status, 404, "the session is over for good");

    // By the client, whoever uses it.
    done(&gate, &["revoke", "--client", "local"]);
    soon("the revocation", || reason(&gate, "/mcp/new", "echo") == "response.revoked");
    done(&gate, &["release", "--client", "local"]);
    soon("the release", || gate.client().call("/mcp/new", "echo", "{}").outcome() == 200);

    let found = entries(&gate);
    let acted = of_kind(&found, "response.acted");
    assert!(acted.iter().any(|e| e["change"]["entity"] == "person" && e["change"]["to"] == "revoked"));
    assert!(
        acted.iter().all(|e| e["change"]["name"] != "owner"),
        "people go by their pseudonyms: {acted:#?}"
    );
    assert!(of_kind(&found, "request.refused").iter().any(|e| e["reason"] == "response.revoked"));
}

#[test]
fn a_response_outlives_the_gate_and_is_in_force_before_it_serves() {
    let up = Upstream::modern(|_, _| false);
    let mut gate = Gate::start(&up.config("up", ""));
    done(&gate, &["quarantine", "up"]);
    gate.signal(Signal::KILL);
    gate.restart();
    assert_eq!(reason(&gate, "/mcp/up", "echo"), "response.quarantined", "the very first request");
    assert!(up.heard_of("tools/call").is_empty());
}
