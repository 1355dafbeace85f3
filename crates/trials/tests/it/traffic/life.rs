//! Changes and stops while requests are under way.

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    sync::mpsc,
    thread,
    time::Duration,
};

use bartizan_trials::{Client, Gate, PATIENCE, Upstream, prober};
use rustix::process::Signal;

/// A server whose `slow` waits for a word, which is sent by the second value.
fn waiting() -> (Upstream, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let up = Upstream::modern(move |heard, pen| {
        if heard.tool() != "slow" {
            return false;
        }
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        pen.result(&heard.id(), r#"{"resultType":"complete","content":[{"type":"text","text":"done"}]}"#);
        true
    });
    (up, go)
}

fn slow(client: Client) -> thread::JoinHandle<bartizan_trials::Answer> {
    thread::spawn(move || client.call("/mcp/up", "slow", "{}"))
}

#[test]
fn a_new_configuration_disturbs_no_request_under_way() {
    let ((up, go), other) = (waiting(), Upstream::modern(|_, _| false));
    let gate = Gate::start(&format!("{}{}", up.config("up", ""), prober("kept", &[], "")));
    let kept = gate.client().call("/mcp/kept", "look", "{}").said();
    let under_way = slow(gate.client());
    up.wait_for("tools/call");
    gate.reconfigure(&format!("{}{}", other.config("fresh", ""), prober("kept", &[], "")));
    assert_eq!(gate.client().call("/mcp/fresh", "echo", "{}").outcome(), 200, "the new server is there");
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").status, 404, "the old one is not");
    go.send(()).unwrap();
    let answer = under_way.join().unwrap();
    assert_eq!(answer.said(), "done", "{}", answer.text());
    let pid = |said: &str| serde_json::from_str::<serde_json::Value>(said).unwrap()["pid"].clone();
    assert_eq!(
        pid(&gate.client().call("/mcp/kept", "look", "{}").said()),
        pid(&kept),
        "a server that did not change goes on"
    );
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    let path = gate.folder().join("bartizan.toml");
    std::fs::write(&path, "[server]\nlisten = \"127.0.0.1:0\"\nfrobnicate = 1\n").unwrap();
    gate.wait_for_log("the configuration stays as it was");
    assert!(gate.log().contains("frobnicate"), "it says why: {}", gate.log());
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}

#[test]
fn a_stop_lets_requests_finish_and_takes_no_more() {
    let (up, go) = waiting();
    let mut gate = Gate::start(&format!("{}{}", up.config("up", ""), prober("probe", &[], "")));
    let pid = gate.client().call("/mcp/probe", "look", "{}").said();
    let pid = serde_json::from_str::<serde_json::Value>(&pid).unwrap()["pid"].to_string();
    let mut subscription =
        gate.client().modern("/mcp/up", "subscriptions/listen", r#""notifications":{}"#).open();
    let under_way = slow(gate.client());
    up.wait_for("tools/call");
    gate.signal(Signal::TERM);
    gate.wait_for_log("stopping");
    let address = gate.client().authority().parse().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a trial's client stands outside the gate")]
    let refused = || std::net::TcpStream::connect::<std::net::SocketAddr>(address).is_err().then_some(());
    bartizan_trials::eventually("no more connections", refused);
    assert!(gate.is_up(), "it waits");
    go.send(()).unwrap();
    assert_eq!(under_way.join().unwrap().said(), "done");
    while subscription.event().is_some() {}
    assert_eq!(gate.wait().code(), Some(0));
    bartizan_trials::eventually("its servers are gone", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

/// The same for requests of sessions, which begin to stream, and for one that does not.
#[test]
fn a_new_configuration_and_a_stop_let_requests_of_sessions_finish() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let up = Upstream::legacy(move |heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        if heard.tool() == "stream" {
            pen.stream();
            pen.event(None, r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"begun"}}"#);
        }
        wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let result = r#"{"content":[{"type":"text","text":"done"}]}"#;
        if heard.tool() == "stream" {
            pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, heard.id()));
            pen.end();
        } else {
            pen.result(&heard.id(), result);
        }
        true
    });
    let config = up.config("up", "");
    let mut gate = Gate::start(&config);
    let under_way = |tool: &'static str, nth: usize| {
        let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
        let asking = session.clone();
        let asked = thread::spawn(move || asking.call("1", tool, "{}").send());
        bartizan_trials::eventually("the call has arrived", || {
            (up.heard_of("tools/call").len() == nth).then_some(())
        });
        (session, asked)
    };
    let (session, plain) = under_way("plain", 1);
    let mut general = session.stream();
    let (other, stream) = under_way("stream", 2);
    gate.reconfigure(&up.config("up", "allow_methods = [\"x/other\"]"));
    while general.event().is_some() {}
    for session in [&session, &other] {
        let more = session.call("2", "plain", "{}").send();
        assert_eq!(more.status, 404, "they take no more: {}", more.text());
    }
    (0..2).for_each(|_| go.send(()).unwrap());
    for asked in [plain, stream] {
        let answer = asked.join().unwrap();
        assert_eq!(answer.said(), "done", "{}", answer.text());
    }
    let (_session, plain) = under_way("plain", 3);
    let (_other, stream) = under_way("stream", 4);
    gate.signal(Signal::TERM);
    gate.wait_for_log("stopping");
    thread::sleep(Duration::from_millis(300));
    (0..2).for_each(|_| go.send(()).unwrap());
    for asked in [plain, stream] {
        let answer = asked.join().unwrap();
        assert_eq!(answer.said(), "done", "{}", answer.text());
    }
    assert_eq!(gate.wait().code(), Some(0));
}

#[test]
fn what_a_gate_keeps_is_its_own() {
    let gate = Gate::start(&prober("probe", &[], ""));
    let mode = |name: &str| std::fs::metadata(gate.state().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("token"), mode("seal.key")), (0o700, 0o600, 0o600));
    assert!(gate.token().len() >= 64, "256 bits");
    assert!(!gate.log().contains(&gate.token()), "a log is no place for it");
    assert_eq!(std::fs::read_to_string(gate.state().join(".gitignore")).unwrap(), "*\n");
}

/// Clients send a request's head and its body one after the other, and use the connection again (RFC 9112 §9.6).
#[test]
fn a_refusal_before_the_body_came_costs_no_connection() {
    let gate = Gate::start(&prober("new", &[], ""));
    let client = gate.client();
    let stranger = client.modern("/mcp/new", "tools/list", "").without("Authorization");
    let next = client.modern("/mcp/new", "tools/list", "").line("Connection", "close").bytes();
    let refused = [
        ("a stranger", stranger.bytes(), "401"),
        ("a wrong path", client.post("/nothing", "{}").bytes(), "404"),
        (
            "a wrong type",
            client.modern("/mcp/new", "tools/list", "").with("Content-Type", "text/x").bytes(),
            "415",
        ),
        ("too long for a page", client.post("/nothing", vec![b' '; 70_000]).bytes(), "4"),
    ];
    for (name, bytes, status) in refused {
        let mut socket = client.connect();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        socket.write_all(&bytes[..end]).unwrap();
        thread::sleep(Duration::from_millis(100));
        socket.write_all(&bytes[end..]).unwrap();
        thread::sleep(Duration::from_millis(100));
        let _ = socket.write_all(&next);
        let mut said = String::new();
        let _ = socket.read_to_string(&mut said);
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {said}");
        assert!(said.contains("HTTP/1.1 200"), "{name}: {said}");
    }
    // Whoever asks before it sends a body is told at once, and that nothing comes after.
    let asking = stranger.line("Expect", "100-continue").bytes();
    let end = asking.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut socket = client.connect();
    socket.write_all(&asking[..end]).unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 401") && said.contains("connection: close"), "{said}");
}
