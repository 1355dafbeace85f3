//! Clients that go away, or take back what they asked, in the middle of something; servers that lose a session meanwhile
//! (spec.md B-17, C-26, C-27, D-19).

use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bartizan_trials::{Ask, Client, Gate, Upstream, eventually};

const NOTE: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"begun"}}"#;

/// What a server waits for until the trial lets it go on.
#[derive(Clone, Default)]
pub(super) struct Latch(Arc<AtomicBool>);

impl Latch {
    pub(super) fn open(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn wait(&self) {
        eventually("the trial lets it go on", || self.0.load(Ordering::Relaxed).then_some(()));
    }
}

/// Asks, and does not wait for the answer.
fn begin(client: &Client, ask: &Ask) -> TcpStream {
    let mut socket = client.connect();
    socket.write_all(&ask.bytes()).unwrap();
    socket
}

/// Hangs up, and gives the gate the time to notice.
fn hang_up(socket: TcpStream) {
    drop(socket);
    thread::sleep(Duration::from_millis(300));
}

#[test]
fn what_is_cancelled_before_it_is_judged_is_never_sent() {
    let latch = Latch::default();
    let looked = latch.clone();
    let up = Upstream::legacy(move |heard, _| {
        if heard.rpc() == "tools/list" {
            looked.wait();
        }
        false
    });
    let config = format!("[[servers]]\nname = \"up\"\nurl = \"{}\"\ntrust_on_first_use = true\n", up.url());
    let gate = Gate::start(&config);
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let asking = session.clone();
    let asked = thread::spawn(move || asking.call("1", "echo", r#"{"a":1}"#).send());
    up.wait_for("tools/list");
    // It waits for the gate's own look at what the server defines.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(session.tell("notifications/cancelled", r#""requestId":1"#).status, 202);
    latch.open();
    let answer = asked.join().unwrap();
    assert!(answer.messages().is_empty(), "{}", answer.text());
    assert!(up.heard_of("tools/call").is_empty(), "it was taken back before it was sent");
    assert_eq!(session.call("2", "echo", r#"{"a":2}"#).send().said(), r#"{"a":2}"#);
}

#[test]
fn who_cancels_and_hangs_up_has_cancelled() {
    let latch = Latch::default();
    let slow = latch.clone();
    let up = Upstream::legacy(move |heard, pen| {
        match heard.rpc().as_str() {
            "tools/call" => {
                pen.stream();
                pen.event(None, NOTE);
                slow.wait();
            }
            "notifications/cancelled" => {
                slow.wait();
                pen.empty("202 Accepted");
            }
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let mut call = session.call("1", "slow", "{}").open();
    call.message();
    let cancel =
        session.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    let socket = begin(&gate.client(), &cancel);
    up.wait_for("notifications/cancelled");
    // The server takes its time to hear of it, and the client does not wait for that.
    hang_up(socket);
    let began = Instant::now();
    while call.event().is_some() {}
    assert!(began.elapsed() < Duration::from_secs(10), "it goes on after {:?}", began.elapsed());
    latch.open();
}

#[test]
fn who_goes_away_while_a_session_is_opened_again_leaves_it_whole() {
    let latch = Latch::default();
    let slow = latch.clone();
    let up = Upstream::legacy(move |heard, pen| {
        let is_lost = heard.line("mcp-session-id") == Some("upstream-session-0");
        match heard.rpc().as_str() {
            "tools/call" if is_lost => pen.empty("404 Not Found"),
            "notifications/initialized" if !is_lost => {
                slow.wait();
                pen.empty("202 Accepted");
            }
            "resources/subscribe" => pen.result(&heard.id(), "{}"),
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let subscribed = session.request("1", "resources/subscribe", r#""uri":"a:1""#).send();
    assert!(subscribed.result().is_some(), "{}", subscribed.text());
    let socket = begin(&gate.client(), &session.call("2", "echo", "{}"));
    eventually("the second session", || (up.heard_of("notifications/initialized").len() == 2).then_some(()));
    hang_up(socket);
    latch.open();
    let again = session.call("3", "echo", r#"{"a":1}"#).send();
    assert_eq!(again.said(), r#"{"a":1}"#, "{}", again.text());
    assert_eq!(up.heard_of("initialize").len(), 2, "it was opened again once");
    eventually("what the client had set is set again", || {
        (up.heard_of("resources/subscribe").len() == 2).then_some(())
    });
}

#[test]
fn what_a_server_says_unasked_is_heard_in_the_session_that_is_opened_again() {
    let up = Upstream::legacy(move |heard, pen| {
        let is_lost = heard.line("mcp-session-id") == Some("upstream-session-0");
        match (heard.method(), heard.rpc().as_str()) {
            ("GET", _) => {
                pen.stream();
                if !is_lost {
                    pen.event(None, r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
                }
                pen.wait_closed();
            }
            (_, "tools/call") if is_lost => pen.empty("404 Not Found"),
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let mut general = session.stream();
    let listens = |number: usize| {
        let id = format!("upstream-session-{number}");
        up.heard().iter().any(|h| h.method() == "GET" && h.line("mcp-session-id") == Some(&id)).then_some(())
    };
    eventually("the gate listens", || listens(0));
    let lost = session.call("1", "echo", "{}").send();
    assert_eq!(lost.code(), Some(-31023), "{}", lost.text());
    eventually("the gate listens again", || listens(1));
    assert_eq!(general.message()["method"], "notifications/tools/list_changed");
}

#[test]
fn who_goes_away_during_the_handshake_leaves_no_session_at_the_server() {
    let latch = Latch::default();
    let slow = latch.clone();
    let up = Upstream::legacy(move |heard, pen| {
        let is_clients = heard.json().pointer("/params/clientInfo/name").is_some_and(|name| name == "trial");
        if heard.rpc() != "initialize" || !is_clients {
            return false;
        }
        slow.wait();
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"up","version":"1"}}}}}}"#,
            heard.id()
        );
        pen.whole("200 OK", "application/json", "Mcp-Session-Id: abandoned\r\n", &body);
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let client = gate.client();
    let socket = begin(&client, &client.initialize("/mcp/up", "2025-11-25", "{}"));
    up.wait_for("initialize");
    hang_up(socket);
    latch.open();
    eventually("the session is ended", || {
        let ended = |h: &bartizan_trials::Heard| {
            h.method() == "DELETE" && h.line("mcp-session-id") == Some("abandoned")
        };
        up.heard().iter().any(ended).then_some(())
    });
}

#[test]
fn questions_that_nobody_answered_in_time_leave_room_for_others() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.stream();
        pen.event(None, r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"sure?","requestedSchema":{"type":"object","properties":{}}}}"#);
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&up.config("up", r#"may_ask = ["elicitation"]"#));
    let session = gate.client().session("/mcp/up", "2025-11-25", r#"{"elicitation":{}}"#);
    for number in 1..=70 {
        let answer = session.call(&number.to_string(), "ask", "{}").send();
        assert!(answer.text().contains("elicitation/create"), "the {number}th: {}", answer.text());
    }
}

#[test]
fn who_waits_for_a_silent_server_waits_no_longer_than_the_first() {
    let latch = Latch::default();
    let silent = latch.clone();
    let up = Upstream::modern(move |heard, _| {
        if heard.rpc() == "server/discover" {
            silent.wait();
        }
        false
    });
    let gate = Gate::start(&up.config("up", ""));
    let began = Instant::now();
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let client = gate.client();
            thread::spawn(move || client.call("/mcp/up", "echo", "{}"))
        })
        .collect();
    for asked in asking {
        let answer = asked.join().unwrap();
        assert_eq!(answer.outcome(), -31021, "{}", answer.text());
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    latch.open();
}

#[test]
fn a_server_that_hangs_up_on_listeners_is_asked_less_and_less_often() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.method() == "GET" {
            pen.stream();
        }
        heard.method() == "GET"
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let _general = session.stream();
    thread::sleep(Duration::from_secs(6));
    let asked = up.heard().iter().filter(|heard| heard.method() == "GET").count();
    assert!((2..=6).contains(&asked), "{asked} times");
}

#[test]
fn one_silent_server_does_not_hold_up_what_all_are_asked() {
    let (latch, is_silent) = (Latch::default(), Latch::default());
    let (lasting, silent) = (latch.clone(), is_silent.clone());
    let slow = Upstream::modern(move |heard, _| {
        if heard.rpc() == "server/discover" && silent.0.load(Ordering::Relaxed) {
            lasting.wait();
        }
        false
    });
    let quick = Upstream::modern(|_, _| false);
    let gate = Gate::start(&format!("{}{}", slow.config("slow", ""), quick.config("quick", "")));
    for server in ["slow", "quick"] {
        assert_eq!(gate.client().call(&format!("/mcp/{server}"), "echo", "{}").outcome(), 200);
    }
    is_silent.open();
    let began = Instant::now();
    let found = gate.client().modern("/mcp", "server/discover", "").send();
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let instructions = found.messages().join("");
    assert!(instructions.contains("Not available: slow"), "{instructions}");
    latch.open();
}

#[test]
fn a_batch_whose_answers_could_not_arrive_does_nothing() {
    let up = Upstream::legacy(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-03-26", "{}");
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}]"#;
    let refused = session.post(batch).with("Accept", "application/json").send();
    assert_eq!(refused.status, 406, "{}", refused.text());
    assert!(up.heard_of("tools/call").is_empty());
    let answered = session.post(batch).send();
    assert!(answered.text().contains("result"), "{}", answered.text());
}
