//! Broken conversations: resumed where nothing is lost, reported where something may have happened (spec.md C-14, C-26,
//! C-28; B-22).

use std::sync::atomic::{AtomicUsize, Ordering};

use bartizan_trials::{Gate, Upstream};

#[test]
fn a_lost_session_is_opened_again_and_no_call_is_made_twice() {
    let lost = AtomicUsize::new(0);
    let up = Upstream::legacy(move |heard, pen| {
        let forgets = matches!(heard.rpc().as_str(), "tools/call" | "tools/list")
            && heard.line("mcp-session-id") == Some("upstream-session-0");
        if forgets {
            lost.fetch_add(1, Ordering::Relaxed);
            pen.empty("404 Not Found");
        }
        forgets
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let call = session.call("1", "transfer", r#"{"amount":1}"#).send();
    assert_eq!(
        (call.status, call.code()),
        (200, Some(-31023)),
        "the client decides whether to repeat it: {}",
        call.text()
    );
    assert_eq!(up.heard_of("tools/call").len(), 1, "it was not repeated");
    assert_eq!(up.heard_of("initialize").len(), 2, "the conversation was opened anew");
    assert_eq!(session.call("2", "echo", r#"{"a":1}"#).send().said(), r#"{"a":1}"#);

    let other = gate.client().session("/mcp/up", "2025-11-25", "{}");
    assert_eq!(other.request("1", "tools/list", "").send().outcome(), 200);
}

#[test]
fn a_list_that_hit_a_lost_session_is_asked_again() {
    let up = Upstream::legacy(|heard, pen| {
        let forgets =
            heard.rpc() == "tools/list" && heard.line("mcp-session-id") == Some("upstream-session-0");
        if forgets {
            pen.empty("404 Not Found");
        }
        forgets
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let listed = session.request("1", "tools/list", "").send();
    assert!(listed.text().contains("echo"), "it changes nothing: {}", listed.text());
    assert_eq!(up.heard_of("tools/list").len(), 2);
}

#[test]
fn a_call_whose_answer_was_lost_is_reported_and_not_repeated() {
    let up = Upstream::modern(|heard, pen| {
        match heard.tool().as_str() {
            "cut" => pen.end(),
            "cut-stream" => {
                pen.stream();
                pen.raw(": almost\n\n");
            }
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    // A connection that was used before is where clients are tempted to repeat.
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    for tool in ["cut", "cut-stream"] {
        let answer = gate.client().call("/mcp/up", tool, "{}");
        assert_eq!((answer.status, answer.code()), (200, Some(-31020)), "{tool}: {}", answer.text());
        assert!(answer.error().contains("went away before it answered"), "{tool}: {}", answer.text());
        assert_eq!(up.heard_of("tools/call").iter().filter(|h| h.tool() == tool).count(), 1, "{tool}");
    }
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}

#[test]
fn a_broken_upstream_stream_is_resumed_where_it_broke() {
    let up = Upstream::legacy(|heard, pen| {
        let note = |n: u8| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":{n}}}}}"#
            )
        };
        match (heard.method(), heard.rpc().as_str(), heard.line("last-event-id")) {
            ("POST", "tools/call", _) => {
                pen.stream();
                pen.raw("retry: 60\n");
                pen.event(Some("e-1"), &note(1));
                pen.event(Some(&format!("e-{}", heard.id())), &note(2));
            }
            ("GET", _, Some(last)) => {
                let id = last.trim_start_matches("e-").to_owned();
                pen.stream();
                pen.event(Some("e-3"), &note(3));
                pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"whole"}}]}}}}"#));
            }
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let mut seen = String::new();
    let mut stream = session.call("1", "x", "{}").open();
    let mut last = None;
    // The client is sent away and comes back, as the server asked of the gate.
    for _ in 0..5 {
        while let Some(event) = stream.event() {
            last = event.id.or(last);
            seen.push_str(&event.data);
        }
        if seen.contains("whole") {
            break;
        }
        stream = session.listen(last.as_deref()).open();
        assert_eq!(stream.status, 200);
    }
    for (piece, times) in [("\"data\":1", 1), ("\"data\":2", 1), ("\"data\":3", 1), ("whole", 1)] {
        assert_eq!(seen.matches(piece).count(), times, "{piece}: {seen}");
    }
    assert_eq!(up.heard_of("tools/call").len(), 1, "resuming repeats nothing");
}

#[test]
fn a_client_comes_back_for_what_it_missed_and_gets_it_once() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let up = Upstream::legacy(move |heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let note = |n: u8| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":"n{n}"}}}}"#
            )
        };
        pen.stream();
        pen.event(None, &note(1));
        wait.lock().unwrap().recv().unwrap();
        for n in 2..=5 {
            pen.event(None, &note(n));
        }
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let mut stream = session.call("1", "x", "{}").open();
    let last = loop {
        let event = stream.event().unwrap();
        if event.data.contains("n1") {
            break event.id.unwrap();
        }
    };
    stream.close();
    go.send(()).unwrap();
    let mut back = session.listen(Some(&last)).open();
    assert_eq!(back.status, 200);
    let data: Vec<_> =
        std::iter::from_fn(|| back.event()).map(|e| e.data).filter(|d| !d.is_empty()).collect();
    assert_eq!(data.len(), 5, "{data:?}");
    for (at, n) in (2..=5).enumerate() {
        assert!(data[at].contains(&format!("n{n}")), "{data:?}");
    }
    assert!(data[4].contains("\"id\":1,") || data[4].contains("\"id\":1}"), "{data:?}");
    assert_eq!(up.heard_of("tools/call").len(), 1);
}

#[test]
fn a_modern_client_that_hangs_up_cancels() {
    let (told, closed) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let up = Upstream::modern(move |heard, pen| {
        if heard.tool() != "slow" {
            return false;
        }
        pen.wait_closed();
        told.lock().unwrap().send(()).unwrap();
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let client = gate.client();
    let mut socket = client.connect();
    let ask = client.modern("/mcp/up", "tools/call", r#""name":"slow","arguments":{}"#);
    std::io::Write::write_all(&mut socket, &ask.bytes()).unwrap();
    up.wait_for("tools/call");
    drop(socket);
    closed.recv_timeout(bartizan_trials::PATIENCE).expect("the server is told");
    assert_eq!(client.call("/mcp/up", "echo", "{}").outcome(), 200);
}
