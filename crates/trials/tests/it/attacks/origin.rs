//! Pages in a browser: which may call, which may read (MCP transports §Security; Fetch; CVE-2026-33252, CVE-2026-33010).

use crate::Scene;

const ALLOWED: &str =
    "[server]\nlisten = \"127.0.0.1:0\"\nallowed_origins = [\"https://chat.example.com\"]\n";

#[test]
fn ph_08_a_page_of_another_origin_calls_nothing() {
    let scene = Scene::with(ALLOWED);
    let client = scene.gate.client();
    let own = client.authority();
    let call = || client.modern("/mcp/new", "tools/call", r#""name":"echo","arguments":{}"#);
    let origins = [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        format!("http://{own}.evil.example"),
        format!("http://evil{own}"),
        format!("https://{own}"),
        "http://127.0.0.1:1".to_owned(),
        "http://127.0.0.1".to_owned(),
        "http://chat.example.com".to_owned(),
        "https://chat.example.com:8443".to_owned(),
        "https://chat.example.com.evil.example".to_owned(),
        "https://evilchat.example.com".to_owned(),
        String::new(),
    ];
    for origin in &origins {
        assert_eq!(call().line("Origin", origin).send().status, 403, "`{origin}`");
        let hello = client.initialize("/mcp/old", "2025-11-25", "{}").line("Origin", origin).send();
        assert_eq!(hello.status, 403, "`{origin}`");
    }
    let twice = call().line("Origin", &format!("http://{own}")).line("Origin", "https://evil.example").send();
    assert_eq!(twice.status, 403);
    for site in ["cross-site", "same-site"] {
        assert_eq!(call().line("Sec-Fetch-Site", site).send().status, 403, "{site} without an Origin");
    }
    assert_eq!(scene.executed() + scene.old.heard().len(), 0);

    for origin in [format!("http://{own}"), "https://chat.example.com".to_owned()] {
        assert_eq!(call().line("Origin", &origin).send().outcome(), 200, "{origin}");
    }
    scene.serves();
}

#[test]
fn ph_09_a_form_is_no_request() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let call = || client.modern("/mcp/new", "tools/call", r#""name":"echo","arguments":{}"#);
    for kind in [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json;x=text/plain",
        "application/jsonp",
        "text/plain, application/json",
        "",
    ] {
        assert_eq!(call().with("Content-Type", kind).send().status, 415, "`{kind}`");
    }
    assert_eq!(call().without("Content-Type").send().status, 415);
    assert_eq!(call().line("Content-Type", "text/plain").send().status, 415, "two lines");
    assert_eq!(scene.executed(), 0);

    for kind in ["application/json", "Application/JSON; charset=UTF-8"] {
        assert_eq!(call().with("Content-Type", kind).send().outcome(), 200, "`{kind}`");
    }
    scene.serves();
}

#[test]
fn ph_10_only_named_origins_may_read() {
    let scene = Scene::with(ALLOWED);
    let client = scene.gate.client();
    let preflight = |origin: &str| {
        let ask = scene.gate.stranger().request("OPTIONS", "/mcp/new").line("Origin", origin);
        ask.line("Access-Control-Request-Method", "POST").send()
    };
    for origin in ["https://evil.example", "null"] {
        let answers =
            [preflight(origin), client.modern("/mcp/new", "tools/list", "").line("Origin", origin).send()];
        for answer in answers {
            assert_eq!(answer.status, 403);
            assert!(answer.line("access-control-allow-origin").is_none(), "{origin}");
            assert!(answer.line("access-control-allow-credentials").is_none(), "{origin}");
        }
    }

    let asked = preflight("https://chat.example.com");
    assert_eq!(asked.status, 204);
    let listed =
        client.modern("/mcp/new", "tools/list", "").line("Origin", "https://chat.example.com").send();
    assert_eq!(listed.outcome(), 200);
    for answer in [asked, listed] {
        assert_eq!(answer.line("access-control-allow-origin"), Some("https://chat.example.com"));
        assert_eq!(answer.line("access-control-allow-credentials"), None);
        assert_eq!(answer.line("vary"), Some("Origin"));
    }
    // A tool's own header lines (26/http) are asked for by name; nothing else is that is not known.
    let lines = "content-type,mcp-param-region , X-Other,Mcp-Param-Na me,cookie";
    let ask = scene.gate.stranger().request("OPTIONS", "/mcp/new").line("Origin", "https://chat.example.com");
    let asked = ask.line("Access-Control-Request-Headers", lines).send();
    let allowed = asked.line("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
    let may = |name: &str| allowed.split(',').any(|one| one.trim() == name);
    assert!(may("authorization") && may("mcp-name") && may("mcp-param-region"), "{allowed}");
    assert!(!may("x-other") && !may("cookie") && !allowed.contains("na me"), "{allowed}");
    scene.serves();
}
