//! What is written down, and what errors give away (OWASP MCP01; CWE-209, CWE-532; CWE-117).

use std::fs;

use bartizan_trials::{Gate, Upstream, prober};

use crate::Scene;

/// Also: SH-14.
#[test]
fn ph_17_logs_hold_neither_tokens_nor_session_ids_nor_what_was_said() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    session.call("1", "echo", r#"{"note":"argument-canary"}"#).send();
    session.listen(Some("1-0")).send();
    client.call("/mcp/new", "echo", r#"{"note":"argument-canary"}"#);
    client.post("/mcp/new?access_token=query-canary", "{broken").send();
    let wrong = client.post("/mcp/new", "{}").with("Authorization", "Bearer wrong-token-canary").send();
    assert_eq!(wrong.status, 401);
    for path in ["/mcp/new", "/mcp/old"] {
        client.post(path, r#"{"jsonrpc":"2.0","id":1,"method":"x/body-canary"}"#).send();
    }
    session.end();
    let upstream_id = "upstream-session-0";
    let log = scene.gate.log();
    assert!(log.contains("refused"), "the log is there, at its most talkative: {log}");
    for secret in [
        &scene.gate.token(),
        &session.id,
        upstream_id,
        "argument-canary",
        "query-canary",
        "wrong-token-canary",
    ] {
        assert!(!log.contains(secret), "`{secret}` is in the log:\n{log}");
    }
    let key = fs::read(scene.gate.state().join("seal.key")).unwrap();
    assert!(!log.contains(String::from_utf8_lossy(&key).trim()), "the key is in the log");
    scene.serves();
}

#[test]
fn ph_31_errors_say_what_to_do_and_nothing_of_the_inside() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let gone = Upstream::modern(|_, _| false);
    let (gone_url, config) =
        (gone.url(), format!("{}{}", gone.config("gone", ""), scene.new.config("new", "")));
    drop(gone);
    let gate = Gate::start(&config);
    let answers = [
        client.post("/mcp/new", "{\"jsonrpc\": broken'; DROP TABLE--").send(),
        client.post("/mcp/new", r#"{"jsonrpc":"2.0","id":{"marker":1},"method":"tools/call"}"#).send(),
        client.post("/mcp/new", "{}").with("Authorization", "Bearer marker").send(),
        client.modern("/mcp/nowhere", "tools/list", "").send(),
        client.session("/mcp/old", "2025-11-25", "{}").call("1", "echo", "[\"marker\"]").send(),
        gate.client().call("/mcp/gone", "echo", "{}"),
    ];
    let inside = [
        "marker",
        env!("CARGO_MANIFEST_DIR"),
        "/root",
        "/home",
        ".rs:",
        "panicked",
        "stack",
        "rustc",
        "hyper",
        &scene.gate.token(),
    ];
    for answer in &answers {
        assert!((400..503).contains(&answer.status) || answer.code().is_some(), "{}", answer.text());
        assert!(!answer.error().is_empty(), "it says what is wrong: {}", answer.text());
        for word in inside {
            assert!(!answer.text().contains(word), "`{word}`: {}", answer.text());
        }
        assert!(answer.line("server").is_none() && answer.line("x-powered-by").is_none());
        assert!(!answer.text().contains(gone_url.trim_start_matches("http://")), "{}", answer.text());
    }
    assert_eq!(gate.client().call("/mcp/new", "echo", "{}").outcome(), 200, "others go on");
    scene.serves();
}

#[test]
fn ph_23_what_a_server_writes_forges_no_log_line() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "vaulted-secret-1\n").unwrap();
    let gate = Gate::start(&prober("probe", &[], &format!("set_env = {{ API_KEY = {{ file = {key:?} }} }}")));
    let blurt = |text: &str| {
        let answer = gate.client().call("/mcp/probe", "blurt", &format!(r#"{{"text":"{text}"}}"#));
        assert_eq!(answer.outcome(), 200, "{}", answer.text());
    };
    blurt(r"\u001b[2J\u001b]52;c;Y2FuYXJ5\u0007 ERROR forged\rINFO overwritten");
    blurt(r"\u2028ERROR forged \u202egnp.exe ${jndi:ldap://x}");
    blurt(r"my key is vaulted-secret-1 indeed");
    blurt(&"long ".repeat(4000));
    blurt("the last line");
    gate.wait_for_log("the last line");
    let log = gate.log();
    for bad in ['\u{1b}', '\u{7}', '\r', '\u{2028}', '\u{202e}'] {
        assert!(!log.contains(bad), "{bad:?} is in the log as it is");
    }
    assert!(log.contains("\\u{1b}[2J") && log.contains("my key is [redacted] indeed"), "{log}");
    assert!(log.lines().all(|l| l.len() < 8 * 1024), "one line is as long as a book");
    assert!(!log.lines().any(|l| l.trim_start().starts_with("ERROR forged")), "{log}");
    // Methods and tool names come from clients and servers too.
    let odd = gate
        .client()
        .post("/mcp/probe", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\\u2028ERROR forged\\u202e\"}")
        .send();
    assert!(!odd.text().contains('\u{202e}') || odd.status == 400, "{}", odd.text());
    assert!(!gate.log().contains('\u{202e}'));
}
