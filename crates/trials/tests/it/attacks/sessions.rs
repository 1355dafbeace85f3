//! Legacy sessions: bound to whom they were given, and nobody's credential (CVE-2026-52869, CVE-2025-6515,
//! GHSA-qvqr-5cv7-wh35).

use std::{collections::BTreeSet, fs, io::Write, thread};

use bartizan_trials::{Answer, Gate, Session, Upstream, prober};

use crate::Scene;

/// What a client can tell of an answer.
fn shown(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text())
}

/// POST, GET and DELETE of a session, as `session` says it.
fn tries(session: &Session) -> [Answer; 3] {
    [session.call("1", "echo", "{}").send(), session.listen(None).send(), session.end()]
}

/// Also: SH-12.
#[test]
fn sh_04_a_foreign_session_is_an_unknown_one() {
    let scene = Scene::with("");
    let elsewhere = Scene::start();
    let client = scene.gate.client();
    let mine = client.session("/mcp/old", "2025-11-25", "{}");
    let merged = client.session("/mcp", "2025-11-25", "{}");
    let foreign = elsewhere.gate.client().session("/mcp/old", "2025-11-25", "{}");
    let before = (scene.executed(), scene.old.heard_of("tools/call").len());

    let mut flipped = mine.id.clone();
    let last = if flipped.pop() == Some('A') { 'B' } else { 'A' };
    flipped.push(last);
    let reference = tries(&mine.naming("no-such-session")).map(|a| shown(&a));
    assert!(reference.iter().all(|(status, _)| *status == 404), "{reference:?}");
    let ids = [
        &foreign.id,
        &merged.id,
        &flipped,
        &mine.id[1..],
        &format!("{}A", mine.id),
        "upstream-session-0",
        "../x",
        "0",
    ]
    .map(str::to_owned);
    for id in &ids {
        let answers = tries(&mine.naming(id)).map(|a| shown(&a));
        assert_eq!(answers, reference, "{id}: existence does not show");
    }
    assert_eq!((scene.executed(), scene.old.heard_of("tools/call").len()), before);

    for session in [&mine, &foreign] {
        assert_eq!(session.call("2", "echo", r#"{"still":"here"}"#).send().said(), r#"{"still":"here"}"#);
    }
    assert_eq!(mine.end().status, 204);
    assert_eq!(tries(&mine).map(|a| shown(&a)), reference, "an ended session is an unknown one");
}

#[test]
fn sh_02_equal_ids_of_two_clients_never_meet() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let up = Upstream::modern(|_, _| false);
    let probe = prober("probe", &["--legacy", "--record", record.to_str().unwrap()], "shared = true");
    let gate = Gate::start(&format!("{}{probe}", up.config("up", "")));
    let client = gate.client();
    let ids = ["0", "1", "\"1\"", "\"a\"", "9007199254740993"];
    thread::scope(|scope| {
        for worker in 0..10 {
            let client = client.clone();
            scope.spawn(move || {
                let session = client.session("/mcp/probe", "2025-11-25", "{}");
                for (round, id) in ids.iter().enumerate() {
                    let canary = format!(r#"{{"canary":"{worker}-{round}"}}"#);
                    let legacy = session.call(id, "echo", &canary).send();
                    let body = bartizan_trials::modern_text(
                        id,
                        "tools/call",
                        &format!(r#""name":"echo","arguments":{canary}"#),
                        "{}",
                    );
                    let modern = client.modern("/mcp/up", "tools/call", r#""name":"echo""#).body(body).send();
                    for answer in [legacy, modern] {
                        assert_eq!(answer.said(), canary);
                        assert!(answer.message().contains(&format!("\"id\":{id}")), "{}", answer.message());
                    }
                }
            });
        }
    });
    let sent: Vec<_> = up.heard_of("tools/call").iter().map(|h| h.id()).collect();
    assert_eq!(sent.len(), 50);
    assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), 50, "ids towards the server are the gate's own");

    // One session cannot have two requests of one id under way, so no answer is ever ambiguous.
    let session = client.session("/mcp/probe", "2025-11-25", "{}");
    let mut socket = client.connect();
    socket.write_all(&session.call("7", "hang", "{}").bytes()).unwrap();
    bartizan_trials::eventually("the first is under way", || {
        fs::read_to_string(&record).unwrap().contains("\"hang\"").then_some(())
    });
    let again = session.call("7", "echo", "{}").send();
    assert_eq!((again.status, again.code()), (200, Some(-32600)), "{}", again.text());
    assert_eq!(session.call("\"7\"", "echo", "{}").send().said(), "{}", "\"7\" is another id than 7");
}

#[test]
fn sh_06_a_stream_is_read_by_its_own_session_only() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let secret = heard.json().pointer("/params/arguments/secret").cloned().unwrap_or_default();
        pen.stream();
        for _ in 0..3 {
            pen.event(None, &format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":{secret}}}}}"#));
        }
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let client = gate.client();
    let (a, b) =
        (client.session("/mcp/up", "2025-11-25", "{}"), client.session("/mcp/up", "2025-11-25", "{}"));
    let own = |session: &Session, secret: &str| {
        let mut stream = session.call("1", "x", &format!(r#"{{"secret":"{secret}"}}"#)).open();
        std::iter::from_fn(|| stream.event()).filter_map(|e| e.id).collect::<Vec<_>>()
    };
    let (ids_a, ids_b) = (own(&a, "alpha-canary"), own(&b, "beta-canary"));
    assert!(ids_a.len() >= 4 && ids_b.len() >= 4, "{ids_a:?} {ids_b:?}");
    let wild = ["-1", "0-0", "99-1", "1-1000000000000000000", "1--1", "1", "a-b", "1-1-1", "", "\u{fe}"];
    for id in ids_a.iter().map(String::as_str).chain(wild) {
        let answer = b.listen(Some(id)).open();
        assert!(matches!(answer.status, 200 | 400), "`{id}`: {}", answer.status);
        if answer.status == 200 {
            let mut stream = answer;
            let heard: Vec<_> = std::iter::from_fn(|| stream.event()).take(4).map(|e| e.data).collect();
            assert!(
                !heard.concat().contains("alpha-canary"),
                "`{id}` showed another session's events: {heard:?}"
            );
        }
    }
    let mut back = a.listen(Some(&ids_a[1])).open();
    assert_eq!(back.status, 200);
    let rest: Vec<_> = std::iter::from_fn(|| back.event()).collect();
    assert_eq!(
        rest.iter().filter_map(|e| e.id.clone()).collect::<Vec<_>>(),
        ids_a[2..],
        "its own events come again, once"
    );
    assert!(rest[0].data.contains("alpha-canary"));
}

#[test]
fn sh_08_session_ids_cannot_be_guessed() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let ids: Vec<_> = (0..200)
        .map(|_| {
            client
                .initialize("/mcp/old", "2025-11-25", "{}")
                .send()
                .line("mcp-session-id")
                .unwrap()
                .to_owned()
        })
        .collect();
    assert!(
        ids.iter().all(|id| id.bytes().all(|b| (0x21..0x7f).contains(&b))),
        "visible ASCII (spec.md B-25)"
    );
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "none comes twice");
    let length = ids[0].len();
    assert!(ids.iter().all(|id| id.len() == length));
    // What varies from id to id, as bits: counters, clocks and addresses would leave most places alone.
    let bits: f64 = (0..length)
        .map(|at| ids.iter().map(|id| id.as_bytes()[at]).collect::<BTreeSet<_>>().len())
        .map(|different| f64::from(u32::try_from(different).unwrap()).log2())
        .sum();
    assert!(bits >= 122.0, "{bits:.0} bits vary in {}", ids[0]);
    for pair in ids.windows(2) {
        let same = pair[0].bytes().zip(pair[1].bytes()).filter(|(a, b)| a == b).count();
        assert!(same < length / 2, "neighbours are alike: {} {}", pair[0], pair[1]);
    }

    let modern = client.modern("/mcp/new", "tools/list", "").line("Mcp-Session-Id", &ids[0]).send();
    assert_eq!((modern.status, modern.line("mcp-session-id")), (200, None), "the modern era has none");
    scene.serves();
}

#[test]
fn sh_09_nobody_chooses_a_session_id_for_another() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let chosen = "chosen-by-the-attacker-0123456789";
    let fixed = client.initialize("/mcp/old", "2025-11-25", "{}").line("Mcp-Session-Id", chosen).send();
    assert_ne!(fixed.line("mcp-session-id"), Some(chosen));
    let call = client.post("/mcp/old", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert_eq!(call.clone().line("Mcp-Session-Id", chosen).send().status, 404, "unknown");
    assert_eq!(call.clone().send().status, 400, "missing");
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let twice = call.line("Mcp-Session-Id", &session.id).line("Mcp-Session-Id", chosen).send();
    assert_eq!(twice.status, 400, "two");
    let modern = client.modern("/mcp/new", "tools/list", "").line("Mcp-Session-Id", chosen).send();
    assert_eq!((modern.status, modern.line("mcp-session-id")), (200, None), "ignored, never echoed");
    scene.serves();
}

#[test]
fn sh_12_a_cancellation_reaches_only_ones_own_request() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let gate = Gate::start(&prober("probe", &["--record", record.to_str().unwrap()], "shared = true"));
    let client = gate.client();
    let (a, b) =
        (client.session("/mcp/probe", "2025-11-25", "{}"), client.session("/mcp/probe", "2025-11-25", "{}"));
    let mut slow = a.call("41", "pause", r#"{"ms":4000}"#).open();
    for id in ["41", "\"41\"", "1", "2", "3", "4"] {
        assert_eq!(b.tell("notifications/cancelled", &format!(r#""requestId":{id}"#)).status, 202, "{id}");
    }
    assert_eq!(b.end().status, 204, "nor does the end of another session touch it");
    assert_eq!(slow.message().pointer("/result/content/0/text").unwrap(), "rested", "A's call is answered");
    let heard = fs::read_to_string(&record).unwrap();
    assert!(!heard.contains("notifications/cancelled"), "{heard}");

    let slow = a.call("42", "hang", "{}").open();
    assert_eq!(a.tell("notifications/cancelled", r#""requestId":42"#).status, 202);
    bartizan_trials::eventually("the server hears of its own cancellation", || {
        fs::read_to_string(&record).unwrap().contains("notifications/cancelled").then_some(())
    });
    drop(slow);
}
