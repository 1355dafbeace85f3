//! Who is asking: only the bearer token says so (RFC 6750 §2.1; MCP authorization; CVE-2026-32211).

use crate::Scene;

const METHODS: [&str; 11] = [
    "server/discover",
    "ping",
    "tools/list",
    "tools/call",
    "resources/read",
    "prompts/get",
    "completion/complete",
    "subscriptions/listen",
    "tasks/get",
    "initialize",
    "x/exec",
];

#[test]
fn aa_01_without_a_token_no_method_on_any_route_does_anything() {
    let scene = Scene::start();
    let stranger = scene.gate.stranger();
    let params = r#""name":"echo","arguments":{},"uri":"file:///x","taskId":"t","protocolVersion":"2025-11-25","capabilities":{}"#;
    for path in ["/mcp/new", "/mcp/old", "/mcp", "/mcp/nowhere"] {
        for method in METHODS {
            let legacy = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#);
            let asks = [stranger.modern(path, method, params), stranger.post(path, legacy)];
            for answer in asks.map(|ask| ask.send()) {
                assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text());
                assert!(answer.line("www-authenticate").unwrap().starts_with("Bearer"), "{method} {path}");
                assert!(!answer.line("www-authenticate").unwrap().contains("error="), "RFC 6750 §3.1");
                assert!(answer.result().is_none() && !answer.text().contains("echo"), "{}", answer.text());
            }
        }
        let get = stranger.request("GET", path).line("Accept", "text/event-stream").send();
        let delete = stranger.request("DELETE", path).line("Mcp-Session-Id", "x").send();
        assert_eq!((get.status, delete.status), (401, 401), "{path}");
    }
    assert_eq!(scene.new.heard().len() + scene.old.heard().len(), 0, "servers were not even asked");

    assert_eq!(stranger.request("GET", "/healthz").send().outcome(), 200);
    scene.serves();
}

#[test]
fn aa_23_a_token_counts_once_and_only_in_its_header() {
    let scene = Scene::start();
    let (stranger, token) = (scene.gate.stranger(), scene.gate.token());
    let good = format!("Bearer {token}");
    let ask = |path: &str| stranger.modern(path, "tools/call", r#""name":"echo","arguments":{}"#);
    let here = "/mcp/new";
    let refused = [
        ask(&format!("{here}?access_token={token}")),
        ask(&format!("{here}?token={token}&bearer={token}")),
        ask(here).line("Cookie", &format!("access_token={token}; token={token}")),
        ask(here).line("X-Access-Token", &token),
        ask(here).line("Proxy-Authorization", &good),
        ask(here).line("Authorization", &good).line("Authorization", "Bearer bad"),
        ask(here).line("Authorization", "Bearer bad").line("Authorization", &good),
        ask(here).line("Authorization", &good).line("Authorization", &good),
        ask(here).line("Authorization", &format!("{good}, Bearer bad")),
        ask(here).line("Authorization", &format!("Bearer\t{token}")),
        ask(here).line("Authorization", &format!("Bearer  {token}")),
        ask(here).line("Authorization", &format!("{good} trailing")),
        ask(here).line("Authorization", &format!("Basic {token}")),
        ask(here).line("Authorization", &token),
        ask(here).line("Authorization", &format!("Bearer {}", token.to_uppercase())),
        ask(here).line("Authorization", &format!("Bearer {}", &token[..token.len() - 1])),
    ];
    for ask in refused {
        let shown = String::from_utf8_lossy(&ask.bytes()).into_owned();
        // RFC 6750 §3.1: what cannot be read is 400, what is read and not good 401.
        let status = ask.send().status;
        assert!(matches!(status, 400 | 401), "{status}: {shown}");
    }
    let form = stranger
        .post(here, format!("access_token={token}"))
        .with("Content-Type", "application/x-www-form-urlencoded")
        .send();
    assert!(matches!(form.status, 401 | 415), "{}", form.status);
    assert_eq!(scene.executed(), 0);
    assert!(!scene.gate.log().contains(&token), "not even a query is logged");

    for scheme in ["Bearer", "bearer", "bEARER"] {
        let answer = ask(here).line("Authorization", &format!("{scheme} {token}")).send();
        assert_eq!(answer.outcome(), 200, "the scheme's case does not matter (RFC 9110 §11.1)");
    }
    scene.serves();
}

#[test]
fn aa_28_nothing_else_in_a_request_says_who_sent_it() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let lines = [
        ("X-Forwarded-User", "admin"),
        ("X-Forwarded-Email", "admin@corp.example"),
        ("X-Forwarded-Groups", "admins"),
        ("X-MS-CLIENT-PRINCIPAL", "YWRtaW4="),
        ("X-Auth-Request-User", "admin"),
        ("X-Forwarded-For", "10.9.8.7"),
        ("Forwarded", "for=10.9.8.7;host=admin"),
        ("X-Tenant-Id", "other"),
        ("X-Real-IP", "10.9.8.7"),
    ];
    // Whoever claims to be somebody else without a token is nobody, and with one is still its owner.
    let dress =
        |ask: bartizan_trials::Ask| lines.iter().fold(ask, |ask, (name, value)| ask.line(name, value));
    let claimed = r#""name":"echo","arguments":{"user_id":"B"}"#;
    let stranger = dress(scene.gate.stranger().modern("/mcp/new", "tools/call", claimed)).send();
    assert_eq!(stranger.status, 401);

    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let owner = dress(session.call("1", "echo", r#"{"user_id":"B"}"#)).send();
    assert_eq!(
        owner.said(),
        r#"{"user_id":"B"}"#,
        "the session is still its owner's; arguments are only data"
    );
    assert_eq!(dress(client.modern("/mcp/new", "tools/call", claimed)).send().outcome(), 200);
    for heard in scene.new.heard().into_iter().chain(scene.old.heard()) {
        for (name, value) in lines {
            assert!(heard.line(name).is_none(), "{name} went up");
            assert!(!heard.lines().contains(value), "{value} went up");
        }
    }
    scene.serves();
}

#[test]
fn sh_05_a_session_id_is_no_credential() {
    let scene = Scene::start();
    let session = scene.gate.client().session("/mcp/old", "2025-11-25", "{}");
    let stranger = scene.gate.stranger();
    let before = scene.executed();
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;
    let asks = [
        stranger.post("/mcp/old", call),
        stranger.post("/mcp/old", call).line("Authorization", "Bearer expired"),
        stranger.post("/mcp/old", call).line("Authorization", &format!("Bearer {}", session.id)),
        stranger.request("GET", "/mcp/old").line("Accept", "text/event-stream"),
        stranger.request("DELETE", "/mcp/old"),
    ];
    for ask in asks {
        assert_eq!(ask.line("Mcp-Session-Id", &session.id).send().status, 401);
    }
    assert_eq!(scene.executed(), before);

    assert_eq!(session.call("2", "echo", "{}").send().outcome(), 200, "its owner's session goes on");
    scene.serves();
}
