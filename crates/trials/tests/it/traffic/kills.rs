//! A gate that is killed wherever it is, under load, again and again (attacks.md PH-17, evidence before the act).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bartizan_trials::{Gate, Upstream};
use serde_json::{Value, json};

use super::records::{audit, of_kind};

/// How often it is killed.
const KILLS: u64 = 40;
/// Callers at once.
const CALLERS: u64 = 6;

/// What a call is known by, at the server and in the log.
fn mark_of(arguments: &Value) -> Option<String> {
    arguments.get("mark").and_then(Value::as_str).map(str::to_owned)
}

#[test]
fn however_often_a_gate_is_killed_no_call_lacks_its_entry_and_no_answer_its_end() {
    let up = Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let mark = mark_of(&heard.json()["params"]["arguments"]).unwrap_or_default();
        // Some answer at once, some are under way when the end comes.
        thread::sleep(Duration::from_millis(mark.len() as u64 * u64::from(mark.as_bytes()[0] - b'0')));
        let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": mark }] });
        pen.result(&heard.id(), &result.to_string());
        true
    });
    let content = "[[audit.content]]\narguments = true\nclear = true\n";
    let mut gate = Gate::start(&format!("{content}{}", up.config("s", "")));
    let answered = Arc::new(Mutex::new(HashSet::new()));
    for round in 0..KILLS {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (client, answered) = (gate.client(), Arc::clone(&answered));
                thread::spawn(move || {
                    for call in 0.. {
                        let mark = format!("{caller}-{round}-{call}");
                        let answer = client.call("/mcp/s", "work", &json!({ "mark": mark }).to_string());
                        if answer.outcome() != 200 || answer.result().is_none() {
                            return;
                        }
                        answered.lock().unwrap().insert(mark);
                    }
                })
            })
            .collect();
        // From the first requests on to well under way.
        thread::sleep(Duration::from_millis(20 + round * 37 % 150));
        gate.stop();
        for caller in callers {
            // One that came when nobody listened any more has panicked, and has told what it got before.
            let _ = caller.join();
        }
        gate.restart();
    }

    let (code, out, err) =
        audit(&gate, &["search", "--kind", "call.opened", "--limit", "1000000", "--format", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let read =
        |out: &str| -> Vec<Value> { out.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let opened = read(&out);
    let mark = |entry: &Value| mark_of(&serde_json::from_str(entry["arguments"].as_str()?).ok()?);
    let marks: HashSet<String> = opened.iter().filter_map(mark).collect();
    let heard: HashSet<String> =
        up.heard_of("tools/call").iter().filter_map(|h| mark_of(&h.json()["params"]["arguments"])).collect();
    let unrecorded: Vec<_> = heard.difference(&marks).collect();
    assert!(unrecorded.is_empty(), "the server heard of calls that no entry opened: {unrecorded:?}");

    let (_, out, _) =
        audit(&gate, &["search", "--kind", "call.closed", "--limit", "1000000", "--format", "json"]);
    let closed = read(&out);
    let ended = |outcome: &str| -> HashSet<&Value> {
        closed.iter().filter(|e| e["outcome"] == outcome).map(|e| &e["call"]).collect()
    };
    let (well, interrupted) = (ended("ok"), ended("interrupted"));
    let answered = answered.lock().unwrap();
    let lost: Vec<_> = opened
        .iter()
        .filter(|entry| {
            mark(entry).is_some_and(|mark| answered.contains(&mark)) && !well.contains(&entry["id"])
        })
        .collect();
    assert!(lost.is_empty(), "answers whose end is not recorded: {lost:?}");
    assert_eq!(
        of_kind(&opened, "call.opened").len(),
        of_kind(&closed, "call.closed").len(),
        "each is closed once"
    );
    let verified = audit(&gate, &["verify"]);
    assert_eq!(verified.0, Some(0), "{}{}", verified.1, verified.2);
    // It was worth something: calls were answered, and calls were under way when the end came.
    assert!(
        answered.len() > 100 && interrupted.len() > 20,
        "{} answered, {} cut",
        answered.len(),
        interrupted.len()
    );
}
