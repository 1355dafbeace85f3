//! Evidence: what the audit log holds of what happened, and that nobody edits it quietly.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use bartizan_trials::{Gate, Upstream, binary, eventually, kill};
use rustix::process::Signal;
use serde_json::{Value, json};

pub fn audit(gate: &Gate, arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = Command::new(binary())
        .arg("audit")
        .args(arguments)
        .arg("--dir")
        .arg(gate.state().join("audit"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

/// Every entry, in order.
pub fn entries(gate: &Gate) -> Vec<Value> {
    let (code, out, err) = audit(gate, &["tail", "-n", "1000", "--format", "json"]);
    assert_eq!(code, Some(0), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn of_kind<'e>(entries: &'e [Value], kind: &str) -> Vec<&'e Value> {
    entries.iter().filter(|e| e["kind"] == kind).collect()
}

fn segments(gate: &Gate) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![gate.state().join("audit")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.file_name().is_some_and(|n| n != "people") => open.push(path),
                false if fs::read(&path).unwrap().windows(11).any(|w| w == b"call.opened") => {
                    found.push(path)
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn a_call_is_in_the_log_before_and_after_and_its_contents_are_not() {
    let upstream = Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let text =
            json!({ "resultType": "complete", "content": [{ "type": "text", "text": "a quiet answer" }] });
        pen.result(&heard.id(), &text.to_string());
        true
    });
    let gate = Gate::start(&upstream.config("s", ""));
    let client = gate.client();
    assert_eq!(client.call("/mcp/s", "peek", r#"{"word":"marmalade"}"#).said(), "a quiet answer");
    assert_eq!(gate.stranger().call("/mcp/s", "peek", "{}").status, 401);

    let found = entries(&gate);
    let opened = of_kind(&found, "call.opened");
    let closed = of_kind(&found, "call.closed");
    assert_eq!((opened.len(), closed.len()), (1, 1), "{found:#?}");
    assert_eq!(
        (&opened[0]["server"], &opened[0]["tool"], &opened[0]["method"]),
        (&json!("s"), &json!("peek"), &json!("tools/call"))
    );
    assert_eq!((&closed[0]["call"], &closed[0]["outcome"]), (&opened[0]["id"], &json!("ok")));
    assert!(opened[0]["seq"].as_u64() < closed[0]["seq"].as_u64());
    assert!(opened[0]["arguments_digest"].is_string() && closed[0]["result_digest"].is_string());
    assert_eq!(of_kind(&found, "sign_in.failed").len(), 1);
    let raw: String = segments(&gate).iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    for secret in ["marmalade", "a quiet answer", &gate.token(), "subject"] {
        assert!(!raw.contains(secret), "{secret}");
    }
    let (code, out, err) = audit(&gate, &["verify"]);
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn what_the_gate_refused_and_why_is_in_the_log() {
    let upstream = Upstream::modern(|_, _| false);
    let gate = Gate::start(&upstream.config("s", ""));
    let secret = ["ghp_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat();
    assert_eq!(gate.client().call("/mcp/s", "post", &json!({ "k": secret }).to_string()).outcome(), -31005);
    let refused = eventually("the refusal in the log", || {
        of_kind(&entries(&gate), "request.refused").first().map(|e| (*e).clone())
    });
    assert_eq!(
        (&refused["decision"], &refused["reason"]),
        (&json!("deny"), &json!("shield_call")),
        "{refused}"
    );
    assert!(!refused.to_string().contains(&secret));
}

#[test]
fn a_changed_byte_is_found_and_named() {
    let upstream = Upstream::modern(|heard, pen| {
        heard.rpc() == "tools/call" && {
            pen.result(&heard.id(), r#"{"resultType":"complete","content":[]}"#);
            true
        }
    });
    let gate = Gate::start(&upstream.config("s", ""));
    for _ in 0..5 {
        assert_eq!(gate.client().call("/mcp/s", "peek", "{}").outcome(), 200);
    }
    assert_eq!(audit(&gate, &["verify"]).0, Some(0));
    let segment = segments(&gate).pop().unwrap();
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replacen("\"peek\"", "\"poke\"", 1)).unwrap();
    let (code, out, err) = audit(&gate, &["verify"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(format!("{out}{err}").contains("not what was signed"), "{out}{err}");
}

#[test]
fn a_call_that_the_gate_did_not_live_to_answer_is_closed_as_interrupted() {
    let upstream = Upstream::modern(|heard, _| {
        if heard.tool() == "hang" {
            thread::sleep(Duration::from_secs(5));
        }
        heard.tool() == "hang"
    });
    let mut gate = Gate::start(&upstream.config("s", ""));
    let client = gate.client();
    let hanging = thread::spawn(move || {
        client.modern("/mcp/s", "tools/call", r#""name":"hang","arguments":{}"#).send()
    });
    upstream.wait_for("tools/call");
    assert_eq!(of_kind(&entries(&gate), "call.opened").len(), 1, "durable before the server heard of it");
    kill(gate.pid(), Signal::KILL);
    drop(hanging);
    gate.restart();
    let found = entries(&gate);
    let opened = of_kind(&found, "call.opened")[0].clone();
    let closed = of_kind(&found, "call.closed");
    assert_eq!(
        (&closed[0]["call"], &closed[0]["outcome"]),
        (&opened["id"], &json!("interrupted")),
        "{found:#?}"
    );
    assert_eq!(audit(&gate, &["verify"]).0, Some(0));
}
