//! Servers that have people open addresses by an error instead of a question (attacks.md II-02).

use bartizan_trials::{Answer, Gate, Session, Upstream, eventually};
use serde_json::{Value, json};

use crate::traffic::records::{entries, of_kind};

const FORBIDDEN: i64 = -31003;
const VISIT: i64 = -32042;
const SHOWS_URLS: &str = r#"{"elicitation":{"url":{}}}"#;
const MAY_ASK: &str = r#"may_ask = ["elicitation"]"#;
const GOOD: &str = "https://login.example.com/connect?state=abc";

/// A legacy server that answers a call by the error whose `elicitations` are in its arguments.
fn sending_away() -> Upstream {
    Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let elicitations = heard.json().pointer("/params/arguments/elicitations").cloned();
        let error = json!({ "code": VISIT, "message": "open it", "data": { "elicitations": elicitations } });
        pen.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, heard.id()));
        true
    })
}

fn visit(url: &str) -> Value {
    json!({ "mode": "url", "elicitationId": "e", "url": url, "message": "Sign in" })
}

fn send_away(session: &Session, elicitations: &Value) -> Answer {
    session.call("1", "go", &json!({ "elicitations": elicitations }).to_string()).send()
}

fn is_refused(answer: &Answer) {
    assert_eq!(answer.code(), Some(FORBIDDEN), "{}", answer.text());
    assert_eq!(answer.json()["error"]["data"]["reason"], "policy.question", "{}", answer.text());
    for word in ["elicitations", "login.example.com", "10.0.0.1", "Sign in"] {
        assert!(!answer.text().contains(word), "{word}: {}", answer.text());
    }
}

/// Also: II-11.
#[test]
fn ii_02_an_error_sends_people_nowhere_a_question_may_not() {
    let up = sending_away();
    let gate = Gate::start(&up.config("up", MAY_ASK));
    let session = gate.client().session("/mcp/up", "2025-11-25", SHOWS_URLS);
    let answer = send_away(&session, &json!([visit(GOOD), visit(GOOD)]));
    assert_eq!(answer.code(), Some(VISIT), "{}", answer.text());
    for shown in answer.json()["error"]["data"]["elicitations"].as_array().unwrap() {
        assert_eq!(
            shown,
            &json!({ "mode": "url", "elicitationId": "e", "url": GOOD, "message": "Asked by server up: Sign in" })
        );
    }
    let with = |key: &str, value: Value| {
        let mut one = visit(GOOD);
        one[key] = value;
        one
    };
    let mut no_mode = visit(GOOD);
    no_mode.as_object_mut().unwrap().remove("mode");
    for bad in [
        json!([visit("http://10.0.0.1/")]),
        json!([visit("javascript:alert('10.0.0.1')")]),
        json!([visit(GOOD), visit("https://10.0.0.1/")]),
        json!([no_mode]),
        json!([with("mode", json!("form"))]),
        json!([with("url", Value::Null)]),
        json!([with("elicitationId", Value::Null)]),
        json!(["https://login.example.com/"]),
        json!({ "0": visit(GOOD) }),
        json!([]),
        Value::Null,
    ] {
        is_refused(&send_away(&session, &bad));
    }
    // By the merged endpoint, too; to no client that did not say so, nor to one of another revision.
    let merged = gate.client().session("/mcp", "2025-11-25", SHOWS_URLS);
    let call = |session: &Session| {
        session.call("1", "up__go", &json!({ "elicitations": [visit(GOOD)] }).to_string()).send()
    };
    assert_eq!(call(&merged).code(), Some(VISIT));
    is_refused(&call(&gate.client().session("/mcp", "2025-06-18", SHOWS_URLS)));
    for (version, capabilities) in
        [("2025-06-18", SHOWS_URLS), ("2025-11-25", "{}"), ("2025-11-25", r#"{"elicitation":{}}"#)]
    {
        let session = gate.client().session("/mcp/up", version, capabilities);
        is_refused(&send_away(&session, &json!([visit(GOOD)])));
    }
    eventually("both are on record", || {
        let all = entries(&gate);
        let asked: Vec<_> = of_kind(&all, "question.asked").iter().map(|e| e["decision"].clone()).collect();
        (asked.contains(&json!("permit")) && asked.contains(&json!("deny"))).then_some(())
    });
}

/// Nor without a word of the operator's, nor before it has said who it is.
#[test]
fn ii_02_an_error_sends_nobody_anywhere_unless_the_server_may_ask() {
    let up = sending_away();
    let gate = Gate::start(&up.config("up", ""));
    let session = gate.client().session("/mcp/up", "2025-11-25", SHOWS_URLS);
    is_refused(&send_away(&session, &json!([visit(GOOD)])));
    assert_eq!(send_away(&session, &json!([visit("http://10.0.0.1/")])).code(), Some(FORBIDDEN));

    let greeting = Upstream::legacy(|heard, pen| {
        let data = json!({ "elicitations": [visit(GOOD)] });
        let error = json!({ "code": VISIT, "message": "Sign in", "data": data });
        pen.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&greeting.config("up", MAY_ASK));
    let refused = gate.client().initialize("/mcp/up", "2025-11-25", SHOWS_URLS).send();
    assert!(refused.code().is_some_and(|code| code != VISIT), "{}", refused.text());
    assert!(!refused.text().contains("login.example.com"), "{}", refused.text());
}

/// Where servers ask for addresses to be opened by a question, an error that names some is an error and no more.
#[test]
fn ii_02_an_error_of_todays_servers_names_no_addresses() {
    let up = Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let data = json!({ "elicitations": [visit(GOOD)], "url": "https://10.0.0.1/" });
        let data = if heard.tool() == "bare" { Value::Null } else { data };
        let code = if heard.tool() == "honest" { -32602 } else { VISIT };
        let error = json!({ "code": code, "message": "open it", "data": data });
        pen.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&up.config("up", MAY_ASK));
    let call = |path: &str, tool: &str| {
        let params = format!(r#""name":"{tool}","arguments":{{}}"#);
        gate.client().modern_declaring(path, "tools/call", &params, SHOWS_URLS).send()
    };
    for (path, tool) in [("/mcp/up", "go"), ("/mcp", "up__go"), ("/mcp/up", "bare")] {
        let error = call(path, tool).json()["error"].clone();
        assert_eq!(error, json!({ "code": -32603, "message": "open it" }), "{path}");
    }
    assert_eq!(
        call("/mcp/up", "honest").json()["error"]["data"]["url"],
        "https://10.0.0.1/",
        "data of its own"
    );
    eventually("it is on record", || {
        let all = entries(&gate);
        let refused = of_kind(&all, "request.refused");
        refused.iter().any(|entry| entry["method"] == "elicitation/create").then_some(())
    });
}
