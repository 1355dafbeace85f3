//! Answers from hostile servers: endless, huge, looping (MCP pagination, cancellation; rmcp#970).

use std::{
    io::Write,
    sync::{Mutex, mpsc},
};

use bartizan_trials::{Gate, PATIENCE, Upstream};

#[test]
fn ph_29_no_answer_is_longer_than_the_gate_can_bear() {
    let up = Upstream::modern(|heard, pen| {
        match heard.tool().as_str() {
            "announced" => pen.raw(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n{",
            ),
            "endless" => {
                pen.raw(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
                );
                for _ in 0..40 {
                    pen.raw(format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20)));
                }
                pen.end();
            }
            "packed" => pen.whole("200 OK", "application/json", "Content-Encoding: gzip\r\n", "\u{1f}\u{8b}"),
            "page" => pen.whole("500 Internal Server Error", "text/html", "", "<html>secret-canary</html>"),
            "kind" => pen.whole("200 OK", "text/html", "", "<html>secret-canary</html>"),
            "nothing" => pen.end(),
            "half" => {
                pen.raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"jsonrpc\"");
                pen.end();
            }
            "garbage" => {
                pen.raw("\0\0\0 what is this\r\n\r\n");
                pen.end();
            }
            "array" => pen.json("[]"),
            "result" => pen.result(&heard.id(), "[1]"),
            "kindless" => pen.result(&heard.id(), r#"{"resultType":"party"}"#),
            "unasked" => pen.result(&heard.id(), r#"{"resultType":"task","taskId":"t","status":"working"}"#),
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let tools = [
        "announced",
        "endless",
        "packed",
        "page",
        "kind",
        "nothing",
        "half",
        "garbage",
        "array",
        "result",
        "kindless",
        "unasked",
    ];
    for tool in tools {
        let answer = gate.client().call("/mcp/up", tool, "{}");
        assert!(matches!(answer.outcome(), -31020 | -31022), "{tool}: {}", answer.text());
        assert!(matches!(answer.code(), Some(-31022 | -31020)), "{tool}: {}", answer.text());
        assert!(answer.error().contains("`up`"), "{tool}: it names the server: {}", answer.text());
        assert!(!answer.text().contains("secret-canary"), "{tool}: {}", answer.text());
    }
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}

/// A path of a megabyte over thousands of strings, each of which has its place: what is kept of them is no more than was sent.
#[test]
fn ph_29_long_keys_over_many_strings_cost_no_memory_that_was_not_sent() {
    let key = "k".repeat(16_000);
    let down: String = (0..50).map(|_| format!("{{\"{key}\":")).collect();
    let texts = vec!["\"an honest text\""; 8_000].join(",");
    let deep = format!("{down}[{texts}]{}", "}".repeat(50));
    let answer = deep.clone();
    let up = Upstream::modern(move |heard, pen| {
        if heard.tool() != "deep" {
            return false;
        }
        pen.result(
            &heard.id(),
            &format!(r#"{{"resultType":"complete","content":[],"structuredContent":{answer}}}"#),
        );
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let arguments = format!(r#"{{"{key}":{deep}}}"#);
    assert_eq!(gate.client().call("/mcp/up", "echo", &arguments).outcome(), 200);
    let answered = gate.client().call("/mcp/up", "deep", "{}");
    assert_eq!(answered.outcome(), 200, "{}", answered.error());
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(most < 1_500_000, "{most} KiB for two megabytes");
}

#[test]
fn ph_29_a_list_without_an_end_is_given_up() {
    let page = |next: &str, pad: usize| {
        let pad = "x".repeat(pad);
        format!(
            r#"{{"resultType":"complete","tools":[{{"name":"again","description":"{pad}","inputSchema":{{"type":"object"}}}}],"nextCursor":"{next}","ttlMs":0,"cacheScope":"public"}}"#
        )
    };
    let listing = move |next: fn(&str) -> String, pad: usize| {
        Upstream::modern(move |heard, pen| {
            if heard.rpc() != "tools/list" {
                return false;
            }
            let cursor = heard.json().pointer("/params/cursor").map(|c| c.as_str().unwrap().to_owned());
            pen.result(&heard.id(), &page(&next(&cursor.unwrap_or_default()), pad));
            true
        })
    };
    let counting = |cursor: &str| (cursor.parse().unwrap_or(0) + 1).to_string();
    let (same, ever) = (listing(|_| String::new(), 0), listing(counting, 0));
    let huge = listing(counting, 2 << 20);
    let good = Upstream::modern(|_, _| false);
    let servers = [("same", &same), ("ever", &ever), ("huge", &huge), ("good", &good)];
    let gate = Gate::start(&servers.map(|(name, up)| up.config(name, "")).concat());
    // Before its first call a server's tools are listed, for the headers they mirror.
    for name in ["same", "ever"] {
        for _ in 0..3 {
            assert_eq!(gate.client().call(&format!("/mcp/{name}"), "echo", "{}").said(), "{}", "{name}");
        }
    }
    assert!(same.heard_of("tools/list").len() <= 2, "{} pages", same.heard_of("tools/list").len());
    assert!(ever.heard_of("tools/list").len() <= 1000, "{} pages", ever.heard_of("tools/list").len());

    let listed = gate.client().modern("/mcp", "tools/list", "").send();
    assert_eq!(listed.outcome(), 200, "{}", listed.error());
    for (up, name, most) in [(&same, "same", 1002), (&ever, "ever", 2000), (&huge, "huge", 10)] {
        assert!(up.heard_of("tools/list").len() <= most, "{name}: {}", up.heard_of("tools/list").len());
    }
    assert_eq!(gate.client().call("/mcp/good", "echo", "{}").said(), "{}");
}

#[test]
fn ph_29_a_silent_server_holds_up_nobody_and_hears_of_those_who_leave() {
    let (told, closed) = mpsc::channel();
    let told = Mutex::new(told);
    let up = Upstream::modern(move |heard, pen| {
        if heard.tool() != "hang" {
            return false;
        }
        pen.wait_closed();
        told.lock().unwrap().send(()).unwrap();
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let client = gate.client();
    let ask = client.modern("/mcp/up", "tools/call", r#""name":"hang","arguments":{}"#);
    let hanging: Vec<_> = (0..20)
        .map(|_| {
            let mut socket = client.connect();
            socket.write_all(&ask.bytes()).unwrap();
            socket
        })
        .collect();
    bartizan_trials::eventually("all hang", || (up.heard_of("tools/call").len() == 20).then_some(()));
    assert_eq!(client.call("/mcp/up", "echo", "{}").said(), "{}");
    // Closing the stream is how a modern client cancels (26/http).
    drop(hanging);
    for _ in 0..20 {
        closed.recv_timeout(PATIENCE).expect("each is told");
    }
    assert_eq!(client.call("/mcp/up", "echo", "{}").said(), "{}");
}
