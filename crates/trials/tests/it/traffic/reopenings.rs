//! Conversations that are opened again: who waits for that, what the server may do wrong meanwhile, and what of the old one is in the
//! new one (spec.md C-26, C-29, C-40).

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use bartizan_trials::{Answer, Gate, Heard, Session, Upstream, eventually, kill, prober};
use rustix::process::Signal;
use serde_json::Value;

use super::partings::Latch;

/// Whether it came in the first session that the server gave out.
fn is_lost(heard: &Heard) -> bool {
    heard.line("mcp-session-id") == Some("upstream-session-0")
}

fn calling(session: &Session, id: u8) -> thread::JoinHandle<Answer> {
    let session = session.clone();
    thread::spawn(move || session.call(&id.to_string(), "echo", &format!(r#"{{"n":{id}}}"#)).send())
}

#[test]
fn who_comes_while_a_session_is_opened_again_waits_for_it() {
    let latch = Latch::default();
    let slow = latch.clone();
    let up = Upstream::legacy(move |heard, pen| {
        match heard.rpc().as_str() {
            "tools/call" if is_lost(heard) => pen.empty("404 Not Found"),
            "notifications/initialized" if !is_lost(heard) => {
                slow.wait();
                pen.empty("202 Accepted");
            }
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let first = calling(&session, 1);
    eventually("the second handshake", || {
        (up.heard_of("notifications/initialized").len() == 2).then_some(())
    });
    let others: Vec<_> = (2..6).map(|id| calling(&session, id)).collect();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(up.heard_of("tools/call").len(), 1, "nobody asks before the handshake is over");
    latch.open();
    assert_eq!(first.join().unwrap().code(), Some(-31023), "what was lost is not repeated");
    for (other, id) in others.into_iter().zip(2..) {
        let answer = other.join().unwrap();
        assert_eq!(answer.said(), format!(r#"{{"n":{id}}}"#), "{}", answer.text());
    }
    assert_eq!((up.heard_of("initialize").len(), up.heard_of("tools/call").len()), (2, 5));
}

#[test]
fn who_waits_for_a_session_that_cannot_be_opened_waits_no_longer_than_the_first() {
    let fails = AtomicUsize::new(0);
    let up = Upstream::legacy(move |heard, pen| {
        match heard.rpc().as_str() {
            "tools/call" => pen.empty("404 Not Found"),
            "initialize" if fails.fetch_add(1, Ordering::Relaxed) > 0 => {
                thread::sleep(Duration::from_secs(3));
                pen.empty("503 Service Unavailable");
            }
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let began = Instant::now();
    let all: Vec<_> = (1..7).map(|id| calling(&session, id)).collect();
    for asked in all {
        let answer = asked.join().unwrap();
        assert!(answer.code().is_some(), "{}", answer.text());
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let again = calling(&session, 7).join().unwrap();
    assert!(again.error().contains("503"), "whoever comes later tries again: {}", again.text());
}

#[test]
fn a_server_that_answers_notifications_badly_has_its_session_all_the_same() {
    for badly in ["500 Internal Server Error", "200 OK", "400 Bad Request"] {
        let up = Upstream::legacy(move |heard, pen| {
            match heard.rpc().as_str() {
                "tools/call" if is_lost(heard) => pen.empty("404 Not Found"),
                "notifications/initialized" if !is_lost(heard) => {
                    pen.whole(badly, "application/json", "", "{not JSON");
                }
                _ => return false,
            }
            true
        });
        let gate = Gate::start(&up.config("up", ""));
        let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
        assert_eq!(calling(&session, 1).join().unwrap().code(), Some(-31023), "{badly}");
        let answer = calling(&session, 2).join().unwrap();
        assert_eq!(answer.said(), r#"{"n":2}"#, "{badly}: {}", answer.text());
        assert_eq!(up.heard_of("initialize").len(), 2, "{badly}");
    }
}

#[test]
fn a_session_that_is_lost_before_its_handshake_is_over_is_no_session() {
    let up = Upstream::legacy(move |heard, pen| {
        let is_second = heard.line("mcp-session-id") == Some("upstream-session-1");
        match heard.rpc().as_str() {
            "tools/call" if is_lost(heard) => pen.empty("404 Not Found"),
            "notifications/initialized" if is_second => pen.empty("404 Not Found"),
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let failed = calling(&session, 1).join().unwrap();
    assert!(failed.code().is_some(), "{}", failed.text());
    let ends = |heard: &Heard| {
        heard.method() == "DELETE" && heard.line("mcp-session-id") == Some("upstream-session-1")
    };
    eventually("the half-open one is ended", || up.heard().iter().any(ends).then_some(()));
    let found = calling(&session, 2).join().unwrap();
    assert_eq!(found.code(), Some(-31023), "{}", found.text());
    assert_eq!(calling(&session, 3).join().unwrap().said(), r#"{"n":3}"#);
    assert_eq!(up.heard_of("initialize").len(), 3);
}

#[test]
fn what_a_client_listens_to_is_listened_to_after_a_reconnect_and_nothing_else() {
    let latch = Latch::default();
    let slow = latch.clone();
    let up = Upstream::legacy(move |heard, pen| {
        let uri = heard.json()["params"]["uri"].as_str().unwrap_or_default().to_owned();
        match heard.rpc().as_str() {
            "tools/call" if is_lost(heard) => pen.empty("404 Not Found"),
            "resources/subscribe" if uri == "a:refused" => pen.json(&format!(
                r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32602,"message":"no"}}}}"#,
                heard.id()
            )),
            "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" => {
                if uri == "a:slow" && !is_lost(heard) {
                    slow.wait();
                }
                pen.result(&heard.id(), "{}");
            }
            _ => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let ask = |id: u8, method: &str, params: &str| session.request(&id.to_string(), method, params).send();
    assert!(ask(1, "logging/setLevel", r#""level":"debug""#).result().is_some());
    for (id, uri) in [(2, "a:1"), (3, "a:2"), (4, "a:refused"), (5, "a:slow")] {
        ask(id, "resources/subscribe", &format!(r#""uri":"{uri}""#));
    }
    assert!(ask(6, "resources/unsubscribe", r#""uri":"a:2""#).result().is_some());
    let lost = calling(&session, 7);
    let again: Vec<Value> = eventually("what the client had set is set again", || {
        let anew = up.heard().into_iter().filter(|h| !is_lost(h) && h.line("mcp-session-id").is_some());
        let set = anew.filter(|h| h.rpc().starts_with("resources/") || h.rpc() == "logging/setLevel");
        let set: Vec<_> = set.map(|h| h.json()["params"].clone()).collect();
        (set.len() == 3).then_some(set)
    });
    // One that takes its time holds up nobody but who found the session lost.
    assert_eq!(calling(&session, 8).join().unwrap().said(), r#"{"n":8}"#);
    latch.open();
    assert_eq!(lost.join().unwrap().code(), Some(-31023));
    let again: Vec<_> = again.iter().map(Value::to_string).collect();
    assert_eq!(again, [r#"{"level":"debug"}"#, r#"{"uri":"a:1"}"#, r#"{"uri":"a:slow"}"#]);
}

#[test]
fn a_process_that_died_has_a_successor_that_knows_what_its_client_had_set() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let gate = Gate::start(&prober("up", &["--legacy", "--record", record.to_str().unwrap()], ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let said = |answer: Answer| answer.said();
    let look = said(session.call("1", "look", "{}").send());
    let pid = |look: &str| serde_json::from_str::<Value>(look).ok()?["pid"].as_u64();
    let first = pid(&look).unwrap();
    assert!(session.request("2", "resources/subscribe", r#""uri":"a:1""#).send().result().is_some());
    let before = fs::read_to_string(&record).unwrap().len();
    kill(u32::try_from(first).unwrap(), Signal::KILL);
    let mut id = 2;
    let second = eventually("its successor", || {
        id += 1;
        pid(&said(session.call(&id.to_string(), "look", "{}").send())).filter(|pid| *pid != first)
    });
    assert_ne!(first, second);
    let record = fs::read_to_string(&record).unwrap();
    let methods: Vec<_> = record[before..]
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["method"].as_str().map(str::to_owned))
        .filter(|method| method != "server/discover")
        .collect();
    let place =
        |method: &str| methods.iter().position(|m| m == method).unwrap_or_else(|| panic!("{methods:?}"));
    let order = ["initialize", "notifications/initialized", "resources/subscribe", "tools/call"].map(place);
    assert!(order.is_sorted(), "{methods:?}");
}

/// A server may ping before it hears that the handshake is over, and log (25/life): it is answered, the first time and the next.
#[test]
fn a_process_that_pings_at_once_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (script, record) = (folder.path().join("server.sh"), folder.path().join("record"));
    let server = r#"#!/bin/sh
echo started >> %RECORD%
while read -r line; do
  printf '%s\n' "$line" >> %RECORD%
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  ping=
  case "$line" in
    *'"initialize"'*)
      result='{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}'
      ping='{"jsonrpc":"2.0","id":"early","method":"ping"}
' ;;
    *'"die"'*) exit 3 ;;
    *'"tools/call"'*) result='{"content":[{"type":"text","text":"said"}]}' ;;
    *'"method":"server/discover"'*) result='{}' ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n%s' "$id" "$result" "$ping"
done
"#;
    fs::write(&script, server.replace("%RECORD%", record.to_str().unwrap())).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let gate = Gate::start(&format!(
        "[[servers]]\nname = \"up\"\ncommand = [{script:?}]\nera = \"legacy\"\ndangerous_unpinned = true\n"
    ));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let answers = || {
        let record = fs::read_to_string(&record).unwrap();
        let mut lives = record.split("started\n").skip(1).map(str::to_owned).collect::<Vec<_>>();
        // The gate's own look at the server is no conversation, and answers nothing.
        lives.retain(|life| life.contains("\"trial\""));
        lives.iter().map(|life| life.matches(r#""id":"early""#).count()).collect::<Vec<_>>()
    };
    eventually("its ping is answered", || (answers() == [1]).then_some(()));
    session.call("1", "die", "{}").send();
    let mut id = 1;
    eventually("it has a successor", || {
        id += 1;
        (session.call(&id.to_string(), "other", "{}").send().said() == "said").then_some(())
    });
    eventually("the successor's ping is answered", || (answers() == [1, 1]).then_some(()));
}
