//! Both eras on one endpoint, upstream and downstream (spec.md A to D).

use bartizan_trials::{Gate, Upstream, prober};
use serde_json::Value;

use crate::{Scene, text};

#[test]
fn every_revision_is_spoken_on_the_same_endpoint() {
    let gate = Gate::start(&prober("probe", &[], ""));
    for version in ["2025-11-25", "2025-06-18", "2025-03-26"] {
        let session = gate.client().session("/mcp/probe", version, "{}");
        assert_eq!(session.version, version);
        assert_eq!(session.call("1", "echo", r#"{"v":1}"#).send().said(), r#"{"v":1}"#);
    }
    let newest = gate.client().session("/mcp/probe", "2031-01-01", "{}");
    assert_eq!(newest.version, "2025-11-25", "an unknown version becomes the newest with a handshake");
    assert_eq!(gate.client().call("/mcp/probe", "echo", r#"{"v":2}"#).said(), r#"{"v":2}"#);
}

#[test]
fn a_client_and_a_server_of_different_eras_are_told_what_each_speaks() {
    let scene = Scene::start();
    let gate =
        Gate::start(&format!("{}{}", prober("new", &["--modern"], ""), prober("old", &["--legacy"], "")));
    for client in [scene.gate.client(), gate.client()] {
        let modern = client.modern("/mcp/old", "tools/list", "").send();
        let legacy = client.initialize("/mcp/new", "2025-11-25", "{}").send();
        for (answer, speaks, asks) in [(&modern, "2025-11-25", "modern"), (&legacy, "2026-07-28", "legacy")] {
            assert_eq!((answer.status, answer.code()), (400, Some(-31010)), "{}", answer.text());
            assert!(!matches!(answer.code(), Some(-32022..=-32020)), "an `auto` client must fall back");
            assert!(
                answer.error().contains("2026-07-28") && answer.error().contains(speaks),
                "{}",
                answer.text()
            );
            assert_eq!(text(&answer.json(), "/error/data/reason"), "era_mismatch");
            assert_eq!(text(&answer.json(), "/error/data/client"), asks);
        }
        assert!(legacy.line("mcp-session-id").is_none());
    }
    let heard: Vec<_> = scene.new.heard().iter().chain(&scene.old.heard()).map(|h| h.rpc()).collect();
    assert!(
        heard.iter().all(|m| matches!(m.as_str(), "server/discover" | "initialize")),
        "the era is never found out by a user's request: {heard:?}"
    );
    scene.serves();
}

#[test]
fn a_pinned_era_is_not_found_out_but_held_to() {
    let up = Upstream::legacy(|_, _| false);
    let gate = Gate::start(&format!("{}{}", up.config("pinned", "era = \"modern\""), up.config("free", "")));
    let answer = gate.client().modern("/mcp/pinned", "tools/list", "").send();
    assert_eq!(
        (answer.status, answer.code()),
        (200, Some(-31022)),
        "a downgrade is no fallback: {}",
        answer.text()
    );
    let hello = gate.client().initialize("/mcp/pinned", "2025-11-25", "{}").send();
    assert_eq!((hello.status, hello.code()), (400, Some(-31010)), "{}", hello.text());
    gate.client().session("/mcp/free", "2025-11-25", "{}");
}

#[test]
fn batches_of_a_2025_03_26_server_are_taken_apart() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let note =
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"first"}}"#;
        pen.json(&format!(r#"[{note},{{"jsonrpc":"2.0","id":{},"result":{{"content":[{{"type":"text","text":"second"}}]}}}}]"#, heard.id()));
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let old = gate.client().session("/mcp/up", "2025-03-26", "{}").call("1", "x", "{}").send();
    assert_eq!(old.messages().len(), 2, "{}", old.text());
    assert!(old.messages()[0].contains("first"));
    assert_eq!(old.said(), "second");
    let newer = gate.client().session("/mcp/up", "2025-11-25", "{}").call("1", "x", "{}").send();
    assert_eq!(newer.code(), Some(-31022), "no other revision has them: {}", newer.text());
}

#[test]
fn a_servers_question_comes_to_its_client_and_the_answer_goes_back() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.stream();
        pen.event(None, r#"{"jsonrpc":"2.0","id":"question-1","method":"elicitation/create","params":{"message":"sure?","requestedSchema":{"type":"object","properties":{}},"x-vendor":1e2}}"#);
        pen.wait_closed();
        true
    });
    let gate = Gate::start(&up.config("up", r#"may_ask = ["elicitation"]"#));
    let client = gate.client();
    let session = client.session("/mcp/up", "2025-11-25", r#"{"elicitation":{}}"#);
    let bystander = client.session("/mcp/up", "2025-11-25", r#"{"elicitation":{}}"#);
    let mut stream = session.call("1", "x", "{}").open();
    let question: Value = stream.message();
    assert_eq!(text(&question, "/method"), "elicitation/create");
    assert_ne!(text(&question, "/id"), "question-1", "under an id of the session's own");
    let answer = |session: &bartizan_trials::Session, word: &str| {
        session
            .post(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"action":"{word}"}}}}"#, question["id"]))
            .send()
            .outcome()
    };
    assert_eq!(answer(&bystander, "stolen"), 202, "it goes nowhere");
    assert_eq!(answer(&session, "accept"), 202);
    assert_eq!(answer(&session, "twice"), 202, "it goes nowhere");
    let replies = bartizan_trials::eventually("the answer arrives", || {
        let found: Vec<_> = up.heard().into_iter().filter(|h| h.body.contains("\"action\"")).collect();
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(replies.len(), 1);
    assert_eq!(
        (replies[0].id().as_str(), text(&replies[0].json(), "/result/action")),
        ("\"question-1\"", "accept")
    );
}

#[test]
fn progress_and_cancellation_find_their_request() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let token = heard.json().pointer("/params/_meta/progressToken").unwrap().to_string();
        assert_eq!(token, heard.id(), "the gate's token is the gate's id");
        pen.stream();
        pen.event(None, &format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":0.5,"total":1}}}}"#));
        pen.wait_closed();
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", "{}");
    let mut stream = session
        .request("\"a\"", "tools/call", r#""name":"x","arguments":{},"_meta":{"progressToken":"mine"}"#)
        .open();
    let progress = stream.message();
    assert_eq!(text(&progress, "/params/progressToken"), "mine");
    assert_eq!(session.tell("notifications/cancelled", r#""requestId":"a","reason":"enough""#).status, 202);
    let told = up.wait_for("notifications/cancelled");
    assert_eq!(told.json()["params"]["requestId"].to_string(), up.heard_of("tools/call")[0].id());
    assert_eq!(text(&told.json(), "/params/reason"), "enough");
    assert!(
        std::iter::from_fn(|| stream.event()).all(|e| e.data.is_empty()),
        "a cancelled request has no answer"
    );
}
