//! What the gate shows a server is the server's own (MCP security best practices, token passthrough; RFC 9700 §4.11).

use std::fs;

use bartizan_trials::{Gate, Upstream, eventually};

const SECRET: &str = "vaulted-secret-for-up";

/// `credential` for a server whose secret is kept in this file.
fn credential(file: &std::path::Path, more: &str) -> String {
    format!("credential = {{ kind = \"secret\", value = {{ file = {file:?} }}{more} }}")
}

/// A server that answers nobody who does not show `line`.
fn guarded(is_modern: bool, line: &'static str, value: &'static str) -> Upstream {
    let script = move |heard: &bartizan_trials::Heard, pen: &mut bartizan_trials::Pen| {
        let refused = heard.line(line) != Some(value);
        if refused {
            pen.whole(
                "401 Unauthorized",
                "application/json",
                "WWW-Authenticate: Bearer resource_metadata=\"http://127.0.0.1:1/canary\"\r\n",
                r#"{"error":"canary"}"#,
            );
        }
        refused
    };
    if is_modern { Upstream::modern(script) } else { Upstream::legacy(script) }
}

#[test]
fn tp_01_a_server_gets_its_own_secret_and_nothing_of_the_clients() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let bearer = guarded(true, "authorization", "Bearer vaulted-secret-for-up");
    let named = guarded(false, "x-api-key", SECRET);
    let bare = Upstream::modern(|_, _| false);
    let gate = Gate::start(&format!(
        "{}{}{}",
        bearer.config("bearer", &credential(&file, "")),
        named.config("named", &credential(&file, ", header = \"X-Api-Key\"")),
        bare.config("bare", ""),
    ));
    let client = gate.client();
    let ask = |path: &str| {
        client
            .modern(path, "tools/call", r#""name":"echo","arguments":{}"#)
            .line("X-Api-Key", "the-clients-own")
            .line("Cookie", "session=the-clients-own")
            .line("Proxy-Authorization", "Bearer the-clients-own")
            .send()
    };
    assert_eq!(ask("/mcp/bearer").outcome(), 200);
    assert_eq!(ask("/mcp/bare").outcome(), 200);
    let session = client.session("/mcp/named", "2025-11-25", "{}");
    let answer = session.call("1", "echo", "{}").line("X-Api-Key", "the-clients-own").send();
    assert_eq!(answer.said(), "{}");
    session.end();

    for heard in bearer.heard().into_iter().chain(named.heard()).chain(bare.heard()) {
        let lines = heard.lines();
        assert!(!lines.contains("the-clients-own") && !lines.contains(&gate.token()), "{lines}");
        assert!(!heard.body.contains(&gate.token()));
    }
    assert!(bearer.heard().iter().all(|h| h.line("x-api-key").is_none()));
    assert!(named.heard().iter().all(|h| h.line("authorization").is_none()));
    assert!(bare.heard().iter().all(|h| !h.lines().contains(SECRET)), "a secret is one server's");
    assert!(!gate.log().contains(SECRET) && !answer.text().contains(SECRET));
}

/// Also: PH-17.
#[test]
fn tp_01_a_refused_secret_is_read_again_and_its_challenge_stays_inside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "an-old-secret").unwrap();
    let up = guarded(true, "authorization", "Bearer vaulted-secret-for-up");
    let gate = Gate::start(&up.config("up", &credential(&file, "")));
    let refused = gate.client().call("/mcp/up", "echo", "{}");
    assert_eq!(refused.outcome(), -31020, "{}", refused.text());
    for inside in ["canary", "an-old-secret", "resource_metadata"] {
        assert!(!refused.text().contains(inside), "{}", refused.text());
    }
    assert!(refused.line("www-authenticate").is_none(), "the server's challenge is not the gate's");
    assert!(up.heard_of("tools/call").is_empty());

    fs::write(&file, SECRET).unwrap();
    let answer = gate.client().call("/mcp/up", "echo", "{}");
    assert_eq!(answer.outcome(), 200, "a new secret counts at once: {}", answer.text());
    assert!(up.heard().iter().all(|h| h.line("authorization").is_some()), "never without");

    fs::remove_file(&file).unwrap();
    let before = up.heard().len();
    let gone = eventually("a secret that is gone counts no longer", || {
        let answer = gate.client().call("/mcp/up", "echo", "{}");
        (answer.outcome() != 200).then_some(answer)
    });
    assert_eq!(gone.outcome(), -31020, "{}", gone.text());
    assert!(!gone.text().contains(file.to_str().unwrap()), "{}", gone.text());
    assert!(up.heard()[before..].iter().all(|h| h.line("authorization").is_some()));
    for secret in [SECRET, "an-old-secret"] {
        assert!(!gate.log().contains(secret));
    }
}

#[test]
fn tp_05_a_secret_follows_no_redirect() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, SECRET).unwrap();
    let canary = Upstream::modern(|_, _| false);
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let to = canary.url();
        let up = Upstream::modern(move |_, pen| {
            pen.whole(status, "text/plain", &format!("Location: {to}\r\n"), "");
            true
        });
        let gate = Gate::start(&up.config("up", &credential(&file, ", header = \"X-Api-Key\"")));
        assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), -31020, "{status}");
        assert!(up.heard().iter().all(|h| h.line("x-api-key") == Some(SECRET)));
    }
    assert_eq!(canary.heard().len(), 0);
}

#[test]
fn tp_01_a_token_of_the_gates_own_is_asked_for_once_and_never_with_the_clients() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, SECRET).unwrap();
    let issuer = Upstream::modern(|heard, pen| {
        assert!(heard.body.starts_with("grant_type=client_credentials&"));
        pen.json(r#"{"access_token":"own-token","token_type":"Bearer","expires_in":600}"#);
        true
    });
    let up = guarded(true, "authorization", "Bearer own-token");
    let gate = Gate::start(&up.config(
        "up",
        &format!(
            "credential = {{ kind = \"client-credentials\", client_id = \"gate\", client_secret = {{ file = {file:?} }}, \
             token_url = \"{}\", scopes = [\"read\"] }}",
            issuer.url()
        ),
    ));
    for _ in 0..3 {
        assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    }
    assert_eq!(issuer.heard().len(), 1, "one token does for everybody");
    let resource = up.url().replace(':', "%3A").replace('/', "%2F");
    assert!(issuer.heard()[0].body.contains(&format!("resource={resource}&scope=read")));
    for heard in up.heard().into_iter().chain(issuer.heard()) {
        assert!(!heard.lines().contains(&gate.token()) && !heard.body.contains(&gate.token()));
    }
    assert!(up.heard().iter().all(|h| !h.lines().contains(SECRET)), "the secret is the issuer's to see");
    assert!(!gate.log().contains("own-token") && !gate.log().contains(SECRET));
}

#[test]
fn tp_02_without_an_account_of_ones_own_there_is_an_address_and_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, SECRET).unwrap();
    let (new, old) = (Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
    let honest = guarded(true, "authorization", "Bearer vaulted-secret-for-up");
    let personal = "credential = { kind = \"user-oauth\", scopes = [\"read\"] }";
    let gate = Gate::start(&format!(
        "{}{}{}",
        new.config("new", personal),
        old.config("old", personal),
        honest.config("honest", &credential(&file, "")),
    ));
    let client = gate.client();
    let connect = |name: &str| format!("http://{}/connect/{name}?for=", client.authority());
    for ask in [
        client.modern("/mcp/new", "tools/list", ""),
        client.modern("/mcp/new", "tools/call", r#""name":"echo","arguments":{}"#),
    ] {
        let refused = ask.send();
        assert_eq!((refused.status, refused.code()), (200, Some(-31006)), "{}", refused.text());
        assert!(refused.text().contains(&connect("new")), "{}", refused.text());
        assert!(refused.line("www-authenticate").is_none(), "the gate knows who is asking");
    }
    // A-90, A-97: whoever can show a URL is asked to, and what they answer is the gate's.
    let shows = |params: &str| {
        client.modern_declaring("/mcp/new", "tools/call", params, r#"{"elicitation":{"url":{}}}"#).send()
    };
    let answered =
        r#""name":"echo","arguments":{},"inputResponses":{"bartizan/connect":{"action":"accept"}}"#;
    for params in [r#""name":"echo","arguments":{}"#, answered] {
        let asked = shows(params).result().unwrap();
        assert_eq!(asked["resultType"], "input_required");
        let question = &asked["inputRequests"]["bartizan/connect"];
        assert_eq!(
            (&question["method"], &question["params"]["mode"]),
            (&"elicitation/create".into(), &"url".into())
        );
        let url = question["params"]["url"].as_str().unwrap();
        assert!(url.starts_with(&connect("new")) && !url.contains("owner"), "{url}");
    }
    let honest_answer = client.modern("/mcp/honest", "tools/call", answered).send();
    assert_eq!(honest_answer.outcome(), 200, "{}", honest_answer.text());
    assert!(!honest.wait_for("tools/call").body.contains("bartizan/connect"));

    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{"url":{}}},"clientInfo":{"name":"c","version":"1"}}}"#;
    let refused = client.post("/mcp/old", hello).send();
    assert_eq!(refused.code(), Some(-31006), "{}", refused.text());
    assert!(refused.text().contains(&connect("old")), "{}", refused.text());

    assert!(
        new.heard().is_empty() && old.heard().is_empty(),
        "nothing is sent, least of all with another credential"
    );
    assert_eq!(client.call("/mcp/honest", "echo", "{}").outcome(), 200);
    let merged = client.modern("/mcp", "server/discover", "").send();
    assert!(merged.outcome() == 200 && merged.text().contains("/connect/new"), "{}", merged.text());
}
