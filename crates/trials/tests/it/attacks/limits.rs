//! Clients that ask too much, of one tool or of everything (attacks.md EP-06; MCP tools: servers must rate limit).

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bartizan_trials::{Answer, Gate, Upstream, binary, eventually};
use serde_json::Value;

const LIMIT: i64 = -31029;

/// A gate before `up` with these lines of `[limits]`.
fn limited(limits: &str, up: &Upstream) -> Gate {
    Gate::start(&format!("[limits]\n{limits}\n{}", up.config("up", "")))
}

/// Checks that `answer` says how long to wait, to programs and to HTTP.
fn waits(answer: &Answer, reason: &str) {
    assert_eq!(answer.code(), Some(LIMIT), "{}", answer.text());
    let data = answer.json()["error"]["data"].clone();
    assert_eq!(data["reason"], reason, "{data}");
    let seconds = answer.line("retry-after").and_then(|s| s.parse::<u64>().ok());
    assert!(seconds.is_some_and(|s| s >= 1), "{seconds:?}");
    assert_eq!(data["retry_after_s"].as_u64(), seconds, "{data}");
}

#[test]
fn ep_06_a_caller_who_calls_a_tool_too_often_is_told_when_to_come_back() {
    let up = Upstream::modern(|_, _| false);
    let gate = limited("tool = { per_minute = 6, burst = 2 }", &up);
    let call = |path: &str, tool: &str| gate.client().call(path, tool, "{}");
    assert_eq!(call("/mcp/up", "echo").outcome(), 200);
    assert_eq!(call("/mcp", "up__echo").outcome(), 200, "the same tool by another endpoint");
    for path_and_tool in [("/mcp/up", "echo"), ("/mcp", "up__echo")] {
        let refused = call(path_and_tool.0, path_and_tool.1);
        assert_eq!(refused.status, 429, "{}", refused.text());
        waits(&refused, "limits.rate");
    }
    assert_eq!(up.heard_of("tools/call").len(), 2, "the server heard of no more");
    assert_eq!(
        gate.client().modern("/mcp/up", "tools/list", "").send().status,
        200,
        "what is no call goes on"
    );
    gate.reconfigure(&format!("[limits]\ntool = {{ per_minute = 6000 }}\n{}", up.config("up", "")));
    assert_eq!(call("/mcp/up", "echo").status, 429, "what was counted stays counted");
    eventually("the wait is over", || (call("/mcp/up", "echo").outcome() == 200).then_some(()));
}

#[test]
fn ep_06_a_legacy_caller_is_told_inside_the_conversation() {
    let up = Upstream::legacy(|_, _| false);
    let gate = limited("tool = { per_minute = 1, burst = 1 }", &up);
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    assert_eq!(session.call("1", "echo", "{}").send().outcome(), 200);
    let refused = session.call("2", "echo", "{}").send();
    // Clients of that era read another status as the end of the connection.
    assert_eq!((refused.status, refused.json()["id"].as_u64()), (200, Some(2)), "{}", refused.text());
    waits(&refused, "limits.rate");
    assert_eq!(session.request("3", "ping", "").send().outcome(), 200, "the session lives");
}

#[test]
fn ep_06_no_more_is_under_way_at_once_than_allowed() {
    let goes = Arc::new(AtomicBool::new(false));
    let may = Arc::clone(&goes);
    let up = Upstream::modern(move |heard, _| {
        while heard.rpc() == "tools/call" && !may.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        false
    });
    let gate = limited("caller = { concurrent = 1 }", &up);
    let client = gate.client();
    let slow = thread::spawn(move || client.call("/mcp/up", "echo", "{}"));
    up.wait_for("tools/call");
    let refused = gate.client().call("/mcp/up", "echo", "{}");
    assert_eq!(refused.status, 429, "{}", refused.text());
    waits(&refused, "limits.concurrent");
    goes.store(true, Ordering::Relaxed);
    assert_eq!(slow.join().unwrap().outcome(), 200);
    // Whoever is given up gives his place back too.
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}

#[test]
fn ep_06_sessions_and_streams_are_counted_by_caller() {
    let up = Upstream::legacy(|_, _| false);
    let gate = limited("sessions = 2\nstreams = 1", &up);
    let open = || gate.client().initialize("/mcp/up", "2025-11-25", "{}").send();
    let first = gate.client().session("/mcp/up", "2025-11-25", "{}");
    assert_eq!(open().outcome(), 200);
    let refused = open();
    assert_eq!(refused.status, 429, "{}", refused.text());
    waits(&refused, "limits.concurrent");
    let stream = first.stream();
    assert_eq!(stream.status, 200);
    let second = first.listen(None).send();
    assert_eq!(second.status, 429, "{}", second.text());
    stream.close();
    eventually("the place is free again", || {
        let again = first.listen(None).open();
        let status = again.status;
        again.close();
        (status == 200).then_some(())
    });
    assert_eq!(first.end().status, 204);
    assert_eq!(open().outcome(), 200, "an ended session makes room");
}

#[test]
fn ep_06_requests_and_answers_have_a_size() {
    let up = Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.stream();
        let note =
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#;
        for _ in 0..100 {
            pen.event(None, note);
        }
        let result = r#"{"resultType":"complete","content":[]}"#;
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, heard.id()));
        true
    });
    let gate = limited("request_bytes = 2000\nanswer_bytes = 4000", &up);
    let big = gate.client().call("/mcp/up", "echo", &format!(r#"{{"a":"{}"}}"#, "x".repeat(2000)));
    assert_eq!((big.status, big.code()), (413, Some(LIMIT)), "{}", big.text());
    let long = gate.client().call("/mcp/up", "echo", "{}");
    assert_eq!(long.code(), Some(LIMIT), "{}", long.text());
    gate.reconfigure(&format!("[limits]\nanswer_bytes = 100000\n{}", up.config("up", "")));
    let whole = gate.client().call("/mcp/up", "echo", "{}");
    assert!(whole.result().is_some(), "{}", whole.text());
}

/// The audit log says of how many it was, not each of them: whoever is turned away must not fill the disk.
#[test]
fn ep_06_a_flood_is_counted_not_written_down() {
    let up = Upstream::modern(|_, _| false);
    let gate = limited("caller = { per_minute = 1, burst = 2 }", &up);
    let began = Instant::now();
    for _ in 0..600 {
        gate.client().call("/mcp/up", "echo", "{}");
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    thread::sleep(Duration::from_millis(1100));
    gate.client().call("/mcp/up", "echo", "{}");
    assert!(up.heard_of("tools/call").len() <= 2);
    let refused = || -> Vec<Value> {
        let log = Command::new(binary())
            .args(["audit", "tail", "-n", "2000", "--format", "json", "--dir"])
            .arg(gate.state().join("audit"))
            .output()
            .unwrap();
        let lines = String::from_utf8(log.stdout).unwrap();
        let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|entry| entry.to_string().contains("limits.rate")).collect()
    };
    let entries = eventually("the last refusal is written", || {
        let found = refused();
        found.last().is_some_and(|last| last.to_string().contains("\"count\":")).then_some(found)
    });
    assert!(entries.len() <= 20 * (seconds + 3), "{} in {seconds} s", entries.len());
    assert!(entries.len() < 500, "{}", entries.len());
}

/// Without the common count nothing passes, unless the operator said so.
#[test]
fn ep_06_a_count_that_is_away_lets_nothing_pass() {
    let up = Upstream::modern(|_, _| false);
    // Nobody answers there.
    let away = "shared = \"redis://127.0.0.1:1\"\ntool = { per_minute = 60, burst = 1 }";
    let gate = limited(away, &up);
    let refused = gate.client().call("/mcp/up", "echo", "{}");
    assert_eq!(refused.status, 503, "{}", refused.text());
    waits_without_data(&refused);
    assert!(up.heard_of("tools/call").is_empty());
    let gate = limited(&format!("{away}\ndangerous_fail_open = true"), &up);
    assert!(gate.log().contains("WARNING") && gate.log().contains("dangerous_fail_open"), "{}", gate.log());
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").status, 429, "its own count holds");
}

fn waits_without_data(answer: &Answer) {
    assert_eq!(answer.code(), Some(LIMIT), "{}", answer.text());
    assert_eq!(answer.json()["error"]["data"]["reason"], "limits.unavailable");
    assert!(answer.line("retry-after").is_some());
}
