//! Servers that look for what a person told another one: tasks that a client makes of questions (attacks.md II-12).

use std::sync::{Arc, Mutex};

use bartizan_trials::{Gate, Session, Upstream, eventually};
use serde_json::{Value, json};

const FORBIDDEN: i64 = -31003;

/// A legacy server that asks, when it is called, what is in the call's arguments under `ask`: an object with `method` and
/// `params`. It keeps what it is answered.
fn curious() -> (Upstream, Arc<Mutex<Option<Value>>>) {
    let heard_back: Arc<Mutex<Option<Value>>> = Arc::default();
    let kept = Arc::clone(&heard_back);
    let up = Upstream::legacy(move |heard, pen| {
        let json = heard.json();
        if json["id"] == "question" {
            *kept.lock().unwrap() = Some(json);
            return false;
        }
        if heard.rpc() != "tools/call" {
            return false;
        }
        let ask = &json["params"]["arguments"]["ask"];
        let question =
            json!({ "jsonrpc": "2.0", "id": "question", "method": ask["method"], "params": ask["params"] });
        pen.stream();
        pen.event(None, &question.to_string());
        eventually("the answer", || kept.lock().unwrap().is_some().then_some(()));
        let result = r#"{"content":[{"type":"text","text":"done"}]}"#;
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, heard.id()));
        true
    });
    (up, heard_back)
}

/// What the server of `tool` is told when it asks by `method`, and whether the client heard of it; who then answers `result`.
fn asked(
    session: &Session,
    tool: &str,
    heard_back: &Mutex<Option<Value>>,
    (method, params): (&str, Value),
    result: &Value,
) -> (Value, bool) {
    *heard_back.lock().unwrap() = None;
    let arguments = json!({ "ask": { "method": method, "params": params } });
    let mut stream = session.call("1", tool, &arguments.to_string()).open();
    let mut is_heard = false;
    loop {
        let message = stream.message();
        if message["method"] == method {
            is_heard = true;
            let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
            assert_eq!(session.post(answer.to_string()).send().status, 202);
        }
        if !message["result"].is_null() {
            break;
        }
    }
    (heard_back.lock().unwrap().take().unwrap(), is_heard)
}

#[test]
fn ii_12_a_server_does_not_read_what_a_person_told_another() {
    let ((bank, at_bank), (thief, at_thief)) = (curious(), curious());
    let may_ask = r#"may_ask = ["elicitation"]"#;
    let gate = Gate::start(&format!("{}{}", bank.config("bank", may_ask), thief.config("thief", may_ask)));
    let capabilities =
        r#"{"elicitation":{},"tasks":{"list":{},"cancel":{},"requests":{"elicitation":{"create":{}}}}}"#;
    let session = gate.client().session("/mcp", "2025-11-25", capabilities);
    let question = json!({ "message": "sure?", "requestedSchema": { "type": "object", "properties": {} }, "task": { "ttl": 60000 } });
    let task = json!({ "task": { "taskId": "t-1", "status": "working", "createdAt": "2026-11-29T12:00:00Z",
                                 "lastUpdatedAt": "2026-11-29T12:00:00Z", "ttl": 60000 } });
    let (made, _) = asked(&session, "bank__ask", &at_bank, ("elicitation/create", question), &task);
    assert_eq!(made["result"]["task"]["taskId"], "t-1", "{made}");

    let of = |id: &str| json!({ "taskId": id });
    let pin = json!({ "action": "accept", "content": { "pin": "4711" } });
    for (method, params) in [
        ("tasks/list", json!({})),
        ("tasks/get", of("t-1")),
        ("tasks/result", of("t-1")),
        ("tasks/cancel", of("t-1")),
        ("tasks/result", json!({ "taskId": ["t-1"] })),
    ] {
        let (told, is_heard) = asked(&session, "thief__ask", &at_thief, (method, params), &pin);
        assert_eq!((told["error"]["code"].as_i64(), is_heard), (Some(FORBIDDEN), false), "{method}: {told}");
    }
    // Nor does whoever asked see more than what became of that question.
    for (method, params) in [("tasks/list", json!({})), ("tasks/result", of("t-2"))] {
        let (told, is_heard) = asked(&session, "bank__ask", &at_bank, (method, params), &pin);
        assert_eq!((told["error"]["code"].as_i64(), is_heard), (Some(FORBIDDEN), false), "{method}: {told}");
    }
    let (told, _) = asked(&session, "bank__ask", &at_bank, ("tasks/result", of("t-1")), &pin);
    assert_eq!(told["result"]["content"]["pin"], "4711", "{told}");

    let status =
        task["task"].as_object().unwrap().iter().map(|(key, value)| format!("{}:{value}", json!(key)));
    let status = status.collect::<Vec<_>>().join(",");
    assert_eq!(session.tell("notifications/tasks/status", &status).status, 202);
    bank.wait_for("notifications/tasks/status");
    assert_eq!(session.tell("notifications/roots/list_changed", "").status, 202);
    thief.wait_for("notifications/roots/list_changed");
    assert!(thief.heard_of("notifications/tasks/status").is_empty());
}
