//! What goes up to a server: the client's message, and nothing that was meant for us (MCP-SBP Token passthrough).

use std::fs;

use bartizan_trials::{Gate, Upstream, prober};
use serde_json::Value;

use crate::text;

/// A word that must not be seen behind the gate.
const MARKER: &str = "marker-6f1e";

/// Sends a call full of markers, in either era.
fn marked(gate: &Gate, path: &str, tool: &str) {
    let dress = |ask: bartizan_trials::Ask| {
        ask.line("Cookie", &format!("session={MARKER}"))
            .line("Proxy-Authorization", &format!("Basic {MARKER}"))
            .line("X-Api-Key", MARKER)
            .line("baggage", &format!("user={MARKER}"))
            .line("tracestate", &format!("vendor={MARKER}"))
            .line("User-Agent", MARKER)
    };
    let meta = format!(
        r#""baggage":"user={MARKER}","tracestate":"vendor={MARKER}","traceparent":"00-{}-{}-01""#,
        "a".repeat(32),
        "b".repeat(16)
    );
    let modern = gate.client().modern(
        path,
        "tools/call",
        &format!(r#""name":"{tool}","arguments":{{"honest":"word"}}"#),
    );
    let body = String::from_utf8(modern.bytes()).unwrap();
    let body = body.split_once("\r\n\r\n").unwrap().1.replace("\"_meta\":{", &format!("\"_meta\":{{{meta},"));
    let answer = dress(modern.body(body)).send();
    assert_eq!(answer.outcome(), 200, "{}", answer.text());
}

#[test]
fn tp_01_the_clients_credentials_end_at_the_gate() {
    let up = Upstream::modern(|_, _| false);
    let old = Upstream::legacy(|_, _| false);
    let gate = Gate::start(&format!("{}{}", up.config("up", ""), old.config("old", "")));
    marked(&gate, "/mcp/up", "echo");
    let session = gate.client().session("/mcp/old", "2025-11-25", "{}");
    let call = session.call("1", "echo", "{}").line("Cookie", MARKER).line("X-Api-Key", MARKER);
    assert_eq!(call.send().outcome(), 200);

    let heard: Vec<_> = up.heard().into_iter().chain(old.heard()).collect();
    assert!(heard.len() >= 5);
    for heard in &heard {
        let all = format!("{}{}", heard.lines(), heard.body);
        assert!(!all.contains(MARKER), "{all}");
        assert!(!all.contains(&gate.token()), "{all}");
        for name in ["authorization", "cookie", "proxy-authorization", "x-api-key", "user-agent"] {
            assert!(heard.line(name).is_none(), "{name} went up");
        }
        assert_ne!(
            heard.line("mcp-session-id"),
            Some(session.id.as_str()),
            "our session id is not the server's"
        );
    }
    let call = &up.heard_of("tools/call")[0].json();
    let trace = text(call, "/params/_meta/traceparent");
    assert!(trace.starts_with("00-") && !trace.contains("aaaa"), "the trace is ours: {trace}");
    assert_eq!(text(call, "/params/arguments/honest"), "word", "the message itself arrives");
}

#[test]
fn tp_01_a_process_sees_no_more_than_a_url_does() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let gate = Gate::start(&prober("probe", &["--record", record.to_str().unwrap()], ""));
    marked(&gate, "/mcp/probe", "echo");
    let looked = gate.client().call("/mcp/probe", "look", "{}");
    let heard = fs::read_to_string(&record).unwrap();
    for seen in [&heard, &looked.text()] {
        assert!(!seen.contains(MARKER), "{seen}");
        assert!(!seen.contains(&gate.token()), "{seen}");
    }
    let call: Value = heard
        .lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .find(|m: &Value| text(m, "/params/name") == "echo")
        .unwrap();
    assert_eq!(text(&call, "/params/arguments/honest"), "word");
}

#[test]
fn tp_05_a_redirect_takes_nothing_along() {
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let canary = Upstream::modern(|_, _| false);
        let to = canary.url();
        let up = Upstream::modern(move |heard, pen| {
            if heard.tool() == "echo" {
                return false;
            }
            if heard.rpc() != "tools/call" {
                return false;
            }
            pen.whole(status, "text/plain", &format!("Location: {to}\r\n"), "over there");
            true
        });
        let gate = Gate::start(&up.config("up", ""));
        let answer = gate.client().call("/mcp/up", "away", "{}");
        assert_eq!(answer.outcome(), -31020, "{status}: {}", answer.text());
        assert_eq!(canary.connections(), 0, "{status} was followed");
        assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    }
}
