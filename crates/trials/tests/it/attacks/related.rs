//! Servers that see one client where there are several people, and say in one's answers which task of another's they are about
//! (25/tasks; attacks.md SH-07: a sealed id is the right to its task).

use std::sync::{Arc, Mutex};

use bartizan_trials::{Client, Gate, Issuer, Upstream, eventually};
use serde_json::{Value, json};

use crate::text;

const RELATED: &str = "io.modelcontextprotocol/related-task";

/// Where the answer to a call, or a message on the way to it, names a task.
fn named(message: &Value) -> Option<&Value> {
    let said = message.get("result").or_else(|| message.get("params"))?;
    said.get("_meta")?.get(RELATED)
}

fn related(tool: &str) -> Value {
    json!({ "mark": 1, RELATED: { "taskId": format!("task-of-{tool}") } })
}

/// A gate before `up`, for people of `issuer`: Ann and Bob.
fn stage(issuer: &Issuer, up: &Upstream) -> (Gate, Client, Client) {
    let gate = Gate::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://gate.example\"\n\
         [identity]\nmode = \"resource-server\"\n{}[policy.roles.people]\ngroups = [\"people\"]\n\
         [[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}",
        issuer.config(),
        up.config("up", r#"may_ask = ["elicitation"]"#),
    ));
    let person = |name: &str| gate.bearer(issuer.token(name, "https://gate.example/mcp/up", json!({})));
    let (ann, bob) = (person("ann"), person("bob"));
    (gate, ann, bob)
}

/// A legacy server that makes a task of every call but of `ask`, whose caller it asks for a task of hers and one of his.
fn legacy() -> (Upstream, Arc<Mutex<Vec<Value>>>) {
    let answers: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = Arc::clone(&answers);
    let up = Upstream::legacy(move |heard, pen| {
        let json = heard.json();
        if text(&json, "/id").starts_with("of-") {
            kept.lock().unwrap().push(json);
            return false;
        }
        if heard.rpc() != "tools/call" {
            return false;
        }
        if heard.tool() != "ask" {
            let now = "2026-01-01T00:00:00Z";
            let id = format!("task-of-{}", heard.tool());
            let task = json!({ "taskId": id, "status": "working", "createdAt": now, "lastUpdatedAt": now, "ttl": 60000 });
            pen.result(&heard.id(), &json!({ "task": task }).to_string());
            return true;
        }
        pen.stream();
        for tool in ["hers", "his"] {
            let mut meta = related(tool);
            meta["progressToken"] = json!("the servers own");
            let params = json!({
                "message": "sure?", "requestedSchema": { "type": "object", "properties": {} }, "_meta": meta,
            });
            let question = json!({ "jsonrpc": "2.0", "id": format!("of-{tool}"), "method": "elicitation/create", "params": params });
            pen.event(None, &question.to_string());
        }
        eventually("the answers", || (kept.lock().unwrap().len() == 2).then_some(()));
        let result = json!({ "content": [{ "type": "text", "text": "done" }], "_meta": related("his") });
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, heard.id()));
        true
    });
    (up, answers)
}

#[test]
fn sh_07_a_question_names_no_task_of_anothers() {
    let (up, answers) = legacy();
    let issuer = Issuer::start(1);
    let (_gate, ann, bob) = stage(&issuer, &up);
    let open = |client: &Client| client.session("/mcp/up", "2025-11-25", r#"{"elicitation":{}}"#);
    let (ann, bob) = (open(&ann), open(&bob));
    assert!(bob.call("1", "his", "{}").send().result().is_some());
    let hers = text(&ann.call("1", "hers", "{}").send().json(), "/result/task/taskId").to_owned();

    let mut stream = ann.call("2", "ask", "{}").open();
    for tool in ["hers", "his"] {
        let question = stream.message();
        assert_eq!(text(&question, "/method"), "elicitation/create", "{question}");
        assert!(!question.to_string().contains("task-of-"), "{question}");
        let meta = &question["params"]["_meta"];
        assert_eq!((&meta["mark"], &meta["progressToken"]), (&json!(1), &question["id"]), "{question}");
        let mut result = json!({ "action": "decline" });
        if tool == "hers" {
            assert_eq!(named(&question), Some(&json!({ "taskId": hers })), "{question}");
            result["_meta"] = json!({ RELATED: { "taskId": hers } });
        } else {
            assert_eq!(named(&question), None, "{question}");
        }
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        assert_eq!(ann.post(answer.to_string()).send().status, 202);
    }
    let done = stream.message();
    assert_eq!(done["result"]["_meta"], json!({ "mark": 1 }), "{done}");

    // Her answer is for the task that the server asked for.
    let answers = answers.lock().unwrap().clone();
    let of =
        |id: &str| answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("{answers:?}"));
    assert_eq!(named(of("of-hers")), Some(&json!({ "taskId": "task-of-hers" })));
    assert_eq!(named(of("of-his")), None);
}

#[test]
fn sh_07_answers_and_progress_name_no_task_of_anothers() {
    let up = Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        if heard.tool() != "tell" {
            let now = "2026-01-01T00:00:00Z";
            let id = format!("task-of-{}", heard.tool());
            let task = json!({ "resultType": "task", "taskId": id, "status": "working", "createdAt": now,
                               "lastUpdatedAt": now, "ttlMs": 60000 });
            pen.result(&heard.id(), &task.to_string());
            return true;
        }
        pen.stream();
        let token = &heard.json()["params"]["_meta"]["progressToken"];
        for (progress, tool) in [(1, "hers"), (2, "his")] {
            let params = json!({ "progressToken": token, "progress": progress, "_meta": related(tool) });
            let told = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
            pen.event(None, &told.to_string());
        }
        let whose = text(&heard.json(), "/params/arguments/whose").to_owned();
        let result = json!({ "content": [{ "type": "text", "text": "done" }], "resultType": "complete", "_meta": related(&whose) });
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, heard.id()));
        true
    });
    let issuer = Issuer::start(1);
    let (_gate, ann, bob) = stage(&issuer, &up);
    let make = |client: &Client, tool: &str| {
        let tasks = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
        let params = format!(r#""name":"{tool}","arguments":{{}}"#);
        let made = client.modern_declaring("/mcp/up", "tools/call", &params, tasks).send();
        text(&made.json(), "/result/taskId").to_owned()
    };
    let (hers, his) = (make(&ann, "hers"), make(&bob, "his"));
    assert!(!hers.is_empty() && !his.is_empty());
    for whose in ["hers", "his"] {
        let params = format!(r#""name":"tell","arguments":{{"whose":"{whose}"}}"#);
        let call = ann.modern("/mcp/up", "tools/call", &params);
        let bytes = String::from_utf8(call.bytes()).unwrap();
        let (_, body) = bytes.split_once("\r\n\r\n").unwrap();
        let mut stream = call.body(body.replace(r#""_meta":{"#, r#""_meta":{"progressToken":7,"#)).open();
        for of in ["hers", "his", whose] {
            let message = stream.message();
            assert!(!message.to_string().contains("task-of-"), "{message}");
            let own = json!({ "taskId": hers });
            assert_eq!(named(&message), (of == "hers").then_some(&own), "{of}: {message}");
            assert!(message.to_string().contains(r#""mark":1"#), "the rest is as it was: {message}");
        }
    }
}
