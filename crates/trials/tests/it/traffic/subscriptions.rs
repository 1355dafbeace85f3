//! Subscriptions of the modern era, which have no end of their own: what ends them, and what they outlive (26/sub).

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use bartizan_trials::{Gate, Stream, Upstream, eventually, prober};
use serde_json::Value;

use super::{
    records::entries,
    responses::{respond, soon},
};

const ALL: &str = r#""notifications":{"toolsListChanged":true,"resourceSubscriptions":["r:a"]}"#;
const MERGED: &str =
    r#""notifications":{"toolsListChanged":true,"resourceSubscriptions":["bartizan-a+r:a"]}"#;

/// A notification to the listener whose subscription `id` (JSON) is; `params` are its members beside `_meta`.
fn note(id: &str, method: &str, params: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{{params}"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
    )
}

fn acknowledged(id: &str, filter: &str) -> String {
    note(id, "subscriptions/acknowledged", &format!(r#""notifications":{filter},"#))
}

/// A server that tells its listener what the trial says, whose `None` ends the stream.
fn telling(filter: &'static str) -> (Upstream, mpsc::Sender<Option<&'static str>>) {
    let (say, said) = mpsc::channel::<Option<&'static str>>();
    let said = Mutex::new(said);
    let up = Upstream::modern(move |heard, pen| {
        if heard.rpc() != "subscriptions/listen" {
            return false;
        }
        pen.stream();
        pen.event(None, &acknowledged(&heard.id(), filter));
        while let Ok(Some(method)) = said.lock().unwrap().recv() {
            pen.event(None, &note(&heard.id(), method, ""));
        }
        true
    });
    (up, say)
}

/// A server that tells nothing, and counts who hangs up.
fn silent() -> (Upstream, Arc<AtomicUsize>) {
    let gone = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&gone);
    let up = Upstream::modern(move |heard, pen| {
        if heard.rpc() != "subscriptions/listen" {
            return false;
        }
        pen.stream();
        pen.event(None, &acknowledged(&heard.id(), r#"{"toolsListChanged":true}"#));
        pen.wait_closed();
        count.fetch_add(1, Ordering::Relaxed);
        true
    });
    (up, gone)
}

fn listen(gate: &Gate, path: &str, filter: &str) -> Stream {
    let mut stream = gate.client().modern(path, "subscriptions/listen", filter).open();
    assert_eq!(method(&stream.message()), "notifications/subscriptions/acknowledged");
    stream
}

fn method(message: &Value) -> String {
    message["method"].as_str().unwrap_or_default().to_owned()
}

/// Checks that the next thing on the stream is its end, which says so.
fn is_over(mut stream: Stream) {
    let last = stream.message();
    assert_eq!(last["result"]["resultType"], "complete", "{last}");
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{last}");
    assert!(stream.event().is_none());
}

#[test]
fn a_subscription_ends_with_its_server_and_no_other_does() {
    let ((old, gone), (other, say)) = (silent(), telling(r#"{"toolsListChanged":true}"#));
    let gate = Gate::start(&format!("{}{}", old.config("old", ""), other.config("other", "")));
    let (listening, mut neighbour) = (listen(&gate, "/mcp/old", ALL), listen(&gate, "/mcp/other", ALL));
    gate.reconfigure(&other.config("other", ""));
    is_over(listening);
    eventually("the server is hung up on", || (gone.load(Ordering::Relaxed) == 1).then_some(()));
    say.send(Some("tools/list_changed")).unwrap();
    assert_eq!(method(&neighbour.message()), "notifications/tools/list_changed");
}

#[test]
fn a_quarantine_ends_subscriptions_and_calls_that_are_under_way() {
    let (bad, gone) = silent();
    let gate = Gate::start(&format!("{}{}", bad.config("bad", ""), prober("proc", &[], "")));
    let listening = listen(&gate, "/mcp/bad", ALL);
    let client = gate.client();
    let hanging = thread::spawn(move || client.call("/mcp/proc", "hang", "{}"));
    let pid = eventually("the process is there", || {
        entries(&gate).into_iter().find(|e| e["kind"] == "child.started")?["pid"].as_u64()
    });
    eventually("it is called", || {
        let begun = |e: &Value| e["kind"] == "call.opened" && e["tool"] == "hang";
        entries(&gate).iter().any(begun).then_some(())
    });
    for server in ["bad", "proc"] {
        assert_eq!(respond(&gate, &["quarantine", server]).0, Some(0));
    }
    soon("its process is gone", || !Path::new(&format!("/proc/{pid}/fd/0")).exists());
    let answer = hanging.join().unwrap();
    assert!(answer.code().is_some(), "{}", answer.text());
    is_over(listening);
    eventually("the server is hung up on", || (gone.load(Ordering::Relaxed) == 1).then_some(()));
    assert_eq!(respond(&gate, &["release", "proc"]).0, Some(0));
    eventually("it comes back", || {
        (gate.client().call("/mcp/proc", "echo", "{}").outcome() == 200).then_some(())
    });
}

#[test]
fn a_merged_subscription_hears_of_a_quarantine_and_of_its_end() {
    let ((bad, gone), (good, say)) = (silent(), telling(r#"{"toolsListChanged":true}"#));
    let gate = Gate::start(&format!("{}{}", bad.config("bad", ""), good.config("good", "")));
    let mut listening = listen(&gate, "/mcp", r#""notifications":{"toolsListChanged":true}"#);
    let listeners = |up: &Upstream| up.heard_of("subscriptions/listen").len();
    assert_eq!(respond(&gate, &["quarantine", "bad"]).0, Some(0));
    eventually("the server is hung up on", || (gone.load(Ordering::Relaxed) == 1).then_some(()));
    assert_eq!(method(&listening.message()), "notifications/tools/list_changed", "its tools are gone");
    say.send(Some("tools/list_changed")).unwrap();
    assert_eq!(method(&listening.message()), "notifications/tools/list_changed", "the others go on");
    assert_eq!((listeners(&bad), listeners(&good)), (1, 1));
    assert_eq!(respond(&gate, &["release", "bad"]).0, Some(0));
    assert_eq!(method(&listening.message()), "notifications/tools/list_changed", "they are back");
    eventually("it is listened to again", || (listeners(&bad) == 2).then_some(()));
}

#[test]
fn a_merged_subscription_outlives_the_end_of_a_part_and_takes_in_servers_that_come_later() {
    let (a, say_a) = telling(r#"{"toolsListChanged":true,"resourceSubscriptions":["r:a"]}"#);
    let (b, say_b) = telling(r#"{"toolsListChanged":false}"#);
    let config = format!("{}{}", a.config("a", ""), b.config("b", ""));
    let gate = Gate::start(&config);
    let mut stream = gate.client().modern("/mcp", "subscriptions/listen", MERGED).open();
    let ack = stream.message();
    assert_eq!(ack["params"]["notifications"]["toolsListChanged"], true, "one honours it: {ack}");
    assert_eq!(ack["params"]["notifications"]["resourceSubscriptions"][0], "bartizan-a+r:a", "{ack}");
    say_a.send(Some("tools/list_changed")).unwrap();
    assert_eq!(method(&stream.message()), "notifications/tools/list_changed");

    // What it would have told while nobody listened is told in its place.
    say_a.send(None).unwrap();
    let [lists, resource] = [stream.message(), stream.message()];
    assert_eq!(method(&lists), "notifications/tools/list_changed");
    assert_eq!(method(&resource), "notifications/resources/updated");
    assert_eq!(resource["params"]["uri"], "bartizan-a+r:a");
    assert_eq!(resource["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{resource}");
    assert_eq!(a.heard_of("subscriptions/listen").len(), 2, "it is listened to again");
    say_a.send(Some("tools/list_changed")).unwrap();
    assert_eq!(method(&stream.message()), "notifications/tools/list_changed");

    let (c, say_c) = telling(r#"{"toolsListChanged":true}"#);
    gate.reconfigure(&format!("{config}{}", c.config("c", "")));
    assert_eq!(method(&stream.message()), "notifications/tools/list_changed", "there are more tools now");
    c.wait_for("subscriptions/listen");
    say_c.send(Some("tools/list_changed")).unwrap();
    assert_eq!(method(&stream.message()), "notifications/tools/list_changed");
    assert_eq!(b.heard_of("subscriptions/listen").len(), 1, "who did not end is not asked again");

    gate.signal(rustix::process::Signal::TERM);
    is_over(stream);
    for say in [say_a, say_b, say_c] {
        let _ = say.send(None);
    }
}

#[test]
fn who_came_in_by_another_mode_is_shown_out() {
    let (up, gone) = silent();
    let legacy = Upstream::legacy(|_, _| false);
    let servers = format!("{}{}", up.config("up", ""), legacy.config("old", ""));
    let gate = Gate::start(&format!("[identity]\ndangerous_open = true\n{servers}"));
    let stranger = gate.stranger();
    let mut stream = stranger.modern("/mcp/up", "subscriptions/listen", ALL).open();
    assert_eq!(method(&stream.message()), "notifications/subscriptions/acknowledged");
    let session = stranger.session("/mcp/old", "2025-11-25", "{}");
    assert_eq!(session.call("1", "echo", "{}").send().status, 200);
    // What changes something else shows nobody out.
    gate.reconfigure(&format!("[identity]\ndangerous_open = true\n[limits]\nstreams = 7\n{servers}"));
    assert_eq!(session.call("2", "echo", "{}").send().status, 200);
    assert_eq!(gone.load(Ordering::Relaxed), 0);
    gate.reconfigure(&servers);
    is_over(stream);
    assert_eq!(session.call("3", "echo", "{}").send().status, 401);
    eventually("the server is hung up on", || (gone.load(Ordering::Relaxed) == 1).then_some(()));
    eventually("its session is over, too", || {
        legacy.heard().iter().any(|heard| heard.method() == "DELETE").then_some(())
    });
}
