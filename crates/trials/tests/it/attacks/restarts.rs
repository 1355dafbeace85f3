//! A server behind a URL that is started anew and counts its tasks anew (25/tasks; SEP-2663 §Security: task ids of other requestors).

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bartizan_trials::{Answer, Gate, Issuer, Upstream};
use serde_json::{Value, json};

use super::sharing::{for_people, person};
use crate::text;

const TASKS: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

/// A server that makes a task of every call, whose result is the word it was called with. It counts them, from 1 in each of its lives,
/// and says in which it made them, if it `dates` them.
fn counting(is_modern: bool, dates: bool, life: &Arc<AtomicUsize>) -> Upstream {
    let (life, made) = (Arc::clone(life), Mutex::new((0, Vec::<String>::new())));
    let script = move |heard: &bartizan_trials::Heard, pen: &mut bartizan_trials::Pen| {
        let (json, now) = (heard.json(), life.load(Ordering::SeqCst));
        let mut made = made.lock().unwrap();
        if made.0 != now {
            *made = (now, Vec::new());
        }
        let method = heard.rpc();
        if method == "tools/call" {
            made.1.push(text(&json, "/params/arguments/word").to_owned());
        } else if !method.starts_with("tasks/") {
            return false;
        }
        let id = match method.as_str() {
            "tools/call" => made.1.len().to_string(),
            _ => text(&json, "/params/taskId").to_owned(),
        };
        let word = id.parse::<usize>().ok().and_then(|id| made.1.get(id.checked_sub(1)?));
        let Some(word) = word else {
            let error = json!({ "code": -32602, "message": "no such task" });
            pen.json(&json!({ "jsonrpc": "2.0", "id": json["id"], "error": error }).to_string());
            return true;
        };
        let said = json!({ "content": [{ "type": "text", "text": word }] });
        let mut task = json!({ "taskId": id, "status": "completed" });
        if dates {
            task["createdAt"] = json!(format!("2026-01-01T00:0{now}:00Z"));
        }
        let kind = if method == "tools/call" { "task" } else { "complete" };
        let result = match (method.as_str(), is_modern) {
            ("tools/call" | "tasks/get", true) => {
                task["resultType"] = json!(kind);
                if method == "tasks/get" {
                    task["result"] = said;
                }
                task
            }
            ("tools/call", false) => json!({ "task": task }),
            ("tasks/result", _) => said,
            (_, true) => json!({ "resultType": "complete" }),
            _ => task,
        };
        pen.result(&heard.id(), &result.to_string());
        true
    };
    if is_modern { Upstream::modern(script) } else { Upstream::legacy(script) }
}

/// Somebody who asks a server of either era.
fn asker(gate: &Gate, issuer: &Issuer, is_modern: bool, name: &str) -> impl Fn(&str, &str) -> Answer + use<> {
    let client = person(gate, issuer, name);
    let session = (!is_modern).then(|| client.session("/mcp/up", "2025-11-25", "{}"));
    let number = AtomicUsize::new(0);
    move |method, params| match &session {
        Some(session) => {
            let id = number.fetch_add(1, Ordering::SeqCst).to_string();
            session.request(&id, method, params).send()
        }
        None => client.modern_declaring("/mcp/up", method, params, TASKS).send(),
    }
}

fn make(ask: &impl Fn(&str, &str) -> Answer, word: &str) -> Result<String, Answer> {
    let answer = ask("tools/call", &format!(r#""name":"make","arguments":{{"word":"{word}"}}"#));
    let json = answer.json();
    let id = json.pointer("/result/task/taskId").or(json.pointer("/result/taskId"));
    id.and_then(Value::as_str).map(str::to_owned).ok_or(answer)
}

fn named(task: &str) -> String {
    format!(r#""taskId":"{task}""#)
}

/// What may be asked of a task, beside how it is.
fn acts(is_modern: bool) -> &'static [&'static str] {
    if is_modern { &["tasks/cancel", "tasks/update"] } else { &["tasks/cancel", "tasks/result"] }
}

/// What `ask` learns of the word of `task`.
fn word(ask: &impl Fn(&str, &str) -> Answer, is_modern: bool, task: &str) -> String {
    ask(if is_modern { "tasks/get" } else { "tasks/result" }, &named(task)).text()
}

#[test]
fn sh_07_a_task_of_before_a_restart_opens_no_other_of_its_id() {
    for is_modern in [true, false] {
        let life = Arc::new(AtomicUsize::new(1));
        let (issuer, up) = (Issuer::start(1), counting(is_modern, true, &life));
        let mut gate = for_people(&issuer, &up.config("up", ""));
        let (ann_1, bob_1);
        {
            let (ann, bob) =
                (asker(&gate, &issuer, is_modern, "ann"), asker(&gate, &issuer, is_modern, "bob"));
            ann_1 = make(&ann, "hers").unwrap_or_else(|answer| panic!("{}", answer.text()));
            assert!(word(&ann, is_modern, &ann_1).contains("hers"));
            life.store(2, Ordering::SeqCst);
            // Until there is another of that id, it is one that its server does not know.
            assert_eq!(ann("tasks/get", &named(&ann_1)).code(), Some(-32602));
            bob_1 = make(&bob, "his").unwrap_or_else(|answer| panic!("{}", answer.text()));
            assert!(word(&bob, is_modern, &bob_1).contains("his"));
        }
        // Whether or not the gate remembers any of it.
        for _ in 0..2 {
            let (ann, bob) =
                (asker(&gate, &issuer, is_modern, "ann"), asker(&gate, &issuer, is_modern, "bob"));
            let heard = |method: &str| up.heard_of(method).len();
            let got = ann("tasks/get", &named(&ann_1));
            assert!(got.result().is_none() && !got.text().contains("his"), "{}", got.text());
            for method in acts(is_modern) {
                let before = heard(method);
                let answer = ann(method, &named(&ann_1));
                assert!(answer.result().is_none() && !answer.text().contains("his"), "{}", answer.text());
                assert_eq!(heard(method), before, "{method} would be about his");
            }
            assert!(bob("tasks/get", &named(&bob_1)).result().is_some());
            for method in acts(is_modern) {
                let answer = bob(method, &named(&bob_1));
                assert!(answer.result().is_some(), "{method}: {}", answer.text());
            }
            assert!(word(&bob, is_modern, &bob_1).contains("his"));
            gate.restart();
        }
        let ann = asker(&gate, &issuer, is_modern, "ann");
        let ann_2 = make(&ann, "hers again").unwrap_or_else(|answer| panic!("{}", answer.text()));
        assert!(word(&ann, is_modern, &ann_2).contains("hers again"));
    }
}

/// Nothing tells the tasks of such a server apart: of two of one id neither is anybody's.
#[test]
fn sh_07_a_server_that_does_not_say_when_gives_one_id_to_nobody_twice() {
    for is_modern in [true, false] {
        let life = Arc::new(AtomicUsize::new(1));
        let (issuer, up) = (Issuer::start(1), counting(is_modern, false, &life));
        let gate = for_people(&issuer, &up.config("up", ""));
        let (ann, bob) = (asker(&gate, &issuer, is_modern, "ann"), asker(&gate, &issuer, is_modern, "bob"));
        let hers = make(&ann, "hers").unwrap_or_else(|answer| panic!("{}", answer.text()));
        assert!(word(&ann, is_modern, &hers).contains("hers"));
        life.store(2, Ordering::SeqCst);
        let refused = make(&bob, "his").unwrap_err();
        assert!(refused.text().contains("another caller's"), "{}", refused.text());
        for method in acts(is_modern).iter().chain(&["tasks/get"]) {
            let before = up.heard_of(method).len();
            let answer = ann(method, &named(&hers));
            assert_eq!(
                (answer.code(), up.heard_of(method).len()),
                (Some(-32602), before),
                "{}",
                answer.text()
            );
        }
        let other = make(&ann, "another").unwrap_or_else(|answer| panic!("{}", answer.text()));
        assert!(word(&ann, is_modern, &other).contains("another"));
    }
}
