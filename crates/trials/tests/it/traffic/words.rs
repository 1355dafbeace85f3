//! What servers do and say beside their answers, and calls that came to nothing, in the audit log.

use std::io::Write;

use bartizan_trials::{Gate, Upstream, eventually, prober};
use serde_json::{Value, json};

use super::records::{audit, entries, of_kind};

fn has(gate: &Gate, what: &str, found: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{what} in the log"), || entries(gate).into_iter().find(|e| found(e)))
}

#[test]
fn a_process_its_standard_error_and_its_end_are_in_the_log() {
    let config = prober("probe", &[], "set_env = { KEY = { env = \"KEY\" } }\n");
    let gate = Gate::start_with(&config, &[("KEY", "s3cret-of-the-server")]);
    let client = gate.client();
    let words = r#"{"text":"\u001b[2Jkey is s3cret-of-the-server\r\nforged line"}"#;
    assert_eq!(client.call("/mcp/probe", "blurt", words).said(), "blurted");
    let started = has(&gate, "the start", |e| e["kind"] == "child.started");
    let pid = started["pid"].clone();
    assert_eq!((&started["server"], pid.is_u64()), (&json!("probe"), true));
    let line = has(&gate, "the line", |e| e["kind"] == "server.stderr");
    assert_eq!((&line["server"], &line["pid"]), (&json!("probe"), &pid));
    let message = line["message"].as_str().unwrap();
    assert!(message.contains("key is [redacted]") && !message.contains('\u{1b}'), "{message}");
    assert_eq!(
        of_kind(&entries(&gate), "server.stderr").len(),
        2,
        "a line of its own is an entry of its own"
    );

    // A flood is cut, and what was cut is counted.
    for _ in 0..6 {
        let flood = json!({ "text": (0..60).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n") });
        client.call("/mcp/probe", "blurt", &flood.to_string());
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    client.call("/mcp/probe", "blurt", r#"{"text":"the last word"}"#);
    let last = has(&gate, "the last word", |e| e["message"] == "the last word");
    let heard = of_kind(&entries(&gate), "server.stderr").len() as u64;
    let counted: u64 = entries(&gate)
        .iter()
        .filter(|e| e["kind"] == "server.stderr")
        .filter_map(|e| e["count"].as_u64())
        .sum();
    assert_eq!(heard + counted, 2 + 360 + 1, "{last}");
    assert!(counted > 0);

    let _ = client.call("/mcp/probe", "only", r#"{"line":"no message"}"#);
    let stopped = has(&gate, "the end", |e| e["kind"] == "child.stopped");
    assert_eq!((&stopped["server"], &stopped["pid"]), (&json!("probe"), &pid));
    assert!(stopped["message"].as_str().unwrap().contains("no JSON-RPC message"), "{stopped}");
    assert!(!entries(&gate).iter().any(|e| e.to_string().contains("s3cret")));
}

#[test]
fn a_line_of_standard_error_names_its_call_or_those_it_may_belong_to() {
    let gate = Gate::start(&prober("probe", &[], ""));
    let client = gate.client();
    let of = |field: &'static str, tool: &'static str| {
        move |e: &Value| e["kind"] == "call.opened" && e["tool"] == tool && e[field].is_string()
    };
    let line = |words: &str, field: &str| -> Option<Value> {
        // Apart from what the gate itself asked of the process a moment ago.
        std::thread::sleep(std::time::Duration::from_millis(300));
        client.call("/mcp/probe", "blurt", &json!({ "text": words }).to_string());
        entries(&gate).into_iter().find(|e| e["message"] == words && !e[field].is_null())
    };
    let alone = eventually("a line of one call", || line("alone", "call"));
    assert!(alone["calls"].is_null(), "{alone}");
    let found = entries(&gate);
    let blurts: Vec<_> = found.iter().filter(|e| of("id", "blurt")(e)).map(|e| e["id"].clone()).collect();
    assert!(blurts.contains(&alone["call"]), "{alone}");

    let hanging = client.modern("/mcp/probe", "tools/call", r#""name":"hang","arguments":{}"#).bytes();
    let mut socket = client.connect();
    socket.write_all(&hanging).unwrap();
    let hangs = has(&gate, "the call that hangs", of("id", "hang"))["id"].clone();
    let company = eventually("a line of one of two calls", || line("in company", "calls"));
    assert!(company["call"].is_null(), "{company}");
    let calls = company["calls"].as_array().unwrap();
    assert!(calls.contains(&hangs) && calls.len() == 2, "{company}");
}

#[test]
fn log_notifications_carry_their_call() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.stream();
        pen.event(None, r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","logger":"disk","data":{"free":0}}}"#);
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&up.config("up", "may_ask = [\"elicitation\", \"sampling\", \"roots\"]"));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    assert!(session.call("1", "x", "{}").send().outcome() == 200);
    let logged = has(&gate, "the notification", |e| e["kind"] == "server.log");
    let opened = has(&gate, "the call", |e| e["kind"] == "call.opened");
    assert_eq!((&logged["server"], &logged["call"]), (&json!("up"), &opened["id"]));
    assert_eq!(logged["message"], r#"error disk: {"free":0}"#);
}

#[test]
fn a_servers_questions_and_what_became_of_them_are_in_the_log() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.stream();
        for (id, method) in [("q1", "elicitation/create"), ("q2", "no/such")] {
            pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}","params":{{"message":"sure?","requestedSchema":{{"type":"object","properties":{{}}}}}}}}"#));
        }
        pen.wait_closed();
        true
    });
    let gate = Gate::start(&up.config("up", "may_ask = [\"elicitation\", \"sampling\", \"roots\"]"));
    let session = gate.client().session("/mcp/up", "2025-11-25", r#"{"elicitation":{}}"#);
    let mut stream = session.call("1", "x", "{}").open();
    let question: Value = stream.message();
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"action":"decline"}}}}"#, question["id"]);
    assert_eq!(session.post(answer).send().status, 202);
    let answered = has(&gate, "the answer", |e| e["kind"] == "question.answered");
    assert_eq!(
        (&answered["method"], &answered["reason"], &answered["decision"]),
        (&json!("elicitation/create"), &json!("elicitation.decline"), &json!("permit"))
    );
    let found = entries(&gate);
    let opened = of_kind(&found, "call.opened")[0]["id"].clone();
    let asked: Vec<_> = of_kind(&found, "question.asked")
        .iter()
        .map(|e| (e["method"].clone(), e["decision"].clone(), e["reason"].clone(), e["call"] == opened))
        .collect();
    assert_eq!(
        asked,
        [
            (json!("elicitation/create"), json!("permit"), Value::Null, true),
            (json!("no/such"), json!("deny"), json!("question.unknown_method"), true),
        ]
    );
    assert!(!found.iter().any(|e| e.to_string().contains("sure?")), "what was asked stays out of the log");
}

#[test]
fn questions_of_the_stateless_era_are_in_the_log_too() {
    let up = Upstream::modern(|heard, pen| {
        let json = heard.json();
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.result(&heard.id(), match json.pointer("/params/inputResponses") {
            Some(_) => r#"{"resultType":"complete","content":[]}"#,
            None => r#"{"resultType":"input_required","requestState":"s","inputRequests":{"q":{"method":"elicitation/create","params":{"mode":"form","message":"sure?","requestedSchema":{"type":"object","properties":{}}}}}}"#,
        });
        true
    });
    let gate = Gate::start(&up.config("up", "may_ask = [\"elicitation\", \"sampling\", \"roots\"]"));
    let ask = |more: &str| {
        let params = format!(r#""name":"x","arguments":{{}}{more}"#);
        gate.client()
            .modern_declaring("/mcp/up", "tools/call", &params, r#"{"elicitation":{"form":{}}}"#)
            .send()
    };
    let first = ask("");
    let state = first.result().unwrap_or_else(|| panic!("{}", first.text()))["requestState"].to_string();
    let second = ask(&format!(
        r#","requestState":{state},"inputResponses":{{"q":{{"action":"accept","content":{{}}}}}}"#
    ));
    assert!(second.result().is_some(), "{}", second.text());
    let answered = has(&gate, "the answer", |e| e["kind"] == "question.answered");
    let found = entries(&gate);
    let opened: Vec<_> = of_kind(&found, "call.opened").iter().map(|e| e["id"].clone()).collect();
    let asked = of_kind(&found, "question.asked");
    assert_eq!((&asked[0]["method"], &asked[0]["call"]), (&json!("elicitation/create"), &opened[0]));
    assert_eq!((&answered["reason"], &answered["call"]), (&json!("elicitation.accept"), &opened[1]));
}

#[test]
fn a_call_of_which_nothing_was_sent_says_so() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::start(&format!(
        "[[servers]]\nname = \"gone\"\nurl = \"http://{gone}/mcp\"\ndangerous_unpinned = true\n\
         [[servers]]\nname = \"dead\"\ncommand = [\"/no/such/program\"]\ndangerous_unpinned = true\n"
    ));
    for server in ["gone", "dead"] {
        let answer = gate.client().call(&format!("/mcp/{server}"), "x", "{}");
        assert_eq!((answer.status, answer.code()), (200, Some(-31020)), "{}", answer.text());
        // Durable before the caller was answered, so it is there now.
        let found = entries(&gate);
        let of_server = |kind| of_kind(&found, kind).into_iter().find(|e| e["server"] == server).cloned();
        let (opened, closed) = (of_server("call.opened").unwrap(), of_server("call.closed").unwrap());
        assert_eq!((&closed["call"], &closed["outcome"]), (&opened["id"], &json!("not_sent")), "{closed}");
        assert!(closed["reason"].is_string(), "{closed}");
    }
}

#[test]
fn where_a_request_came_from_is_kept_under_the_persons_key() {
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    assert_eq!(gate.stranger().call("/mcp/up", "echo", "{}").status, 401);
    let refused = has(&gate, "the stranger", |e| e["kind"] == "sign_in.failed");
    assert_eq!(refused["stranger_address"], "127.0.0.1");
    let opened = has(&gate, "the call", |e| e["kind"] == "call.opened");
    assert_ne!(opened["address"], "127.0.0.1", "sealed");
    assert_eq!(opened["network_address"], "127.0.0.1", "opened for who reads it here");
    let time = opened["time"].as_str().unwrap();
    assert_eq!(time.len(), "2026-11-24T21:55:36.042Z".len(), "{time}");
    assert_eq!(audit(&gate, &["verify"]).0, Some(0));
}

/// Trace Context §3.2; attacks.md §2.9: a caller's trace is linked with, never joined.
#[test]
fn a_call_is_a_trace_of_our_own_that_the_server_is_told_and_the_callers_is_remembered() {
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    let theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let ask = gate.client().modern("/mcp/up", "tools/call", r#""name":"echo","arguments":{}"#);
    let body = String::from_utf8(ask.bytes()).unwrap();
    let body = body.split_once("\r\n\r\n").unwrap().1;
    let body = body.replacen(r#""_meta":{"#, &format!(r#""_meta":{{"traceparent":"{theirs}","#), 1);
    assert_eq!(ask.body(body).send().outcome(), 200);
    let sent = up.wait_for("tools/call").json();
    let told = sent.pointer("/params/_meta/traceparent").and_then(Value::as_str).unwrap().to_owned();
    let closed = has(&gate, "the end", |e| e["kind"] == "call.closed");
    let ours = format!("00-{}-{}-01", closed["trace"].as_str().unwrap(), closed["span"].as_str().unwrap());
    assert_eq!((ours.as_str(), &closed["caller_trace"]), (told.as_str(), &json!(theirs)));
    assert!(!told.contains("0af7651916cd43dd8448eb211c80319c"));
}
