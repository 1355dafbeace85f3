//! Headers that mirror the body: two readings of one request (26/http §Server Validation; SEP-2243).

use bartizan_trials::{Answer, Ask, Gate, Upstream};
use serde_json::Value;

use crate::Scene;

const MISMATCH: Option<i64> = Some(-32020);

fn assert_mismatch(ask: Ask) {
    let shown = String::from_utf8_lossy(&ask.bytes()).into_owned();
    let answer: Answer = ask.send();
    assert_eq!((answer.status, answer.code()), (400, MISMATCH), "{shown}\n{}", answer.text());
}

#[test]
fn ph_02_a_header_that_disagrees_with_the_body_is_refused() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let call = || client.modern("/mcp/new", "tools/call", r#""name":"evil","arguments":{}"#);
    let read = || client.modern("/mcp/new", "resources/read", r#""uri":"file:///evil""#);
    assert_mismatch(call().with("Mcp-Method", "tools/list"));
    assert_mismatch(call().with("Mcp-Method", "Tools/Call"));
    assert_mismatch(call().without("Mcp-Method"));
    assert_mismatch(call().with("Mcp-Name", "safe"));
    assert_mismatch(call().with("Mcp-Name", "EVIL"));
    assert_mismatch(call().without("Mcp-Name"));
    assert_mismatch(read().with("Mcp-Name", "file:///safe"));
    assert_mismatch(call().without("MCP-Protocol-Version"));
    assert_mismatch(call().with("MCP-Protocol-Version", "2026-07-29"));
    assert_eq!(scene.executed(), 0);
    scene.serves();
}

/// A server whose tool mirrors one argument into `Mcp-Param-Region`.
fn mirroring() -> Upstream {
    Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/list" {
            return false;
        }
        let schema = r#"{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}"#;
        pen.result(
            &heard.id(),
            &format!(
                r#"{{"resultType":"complete","ttlMs":0,"cacheScope":"public","tools":[{{"name":"query","inputSchema":{schema}}}]}}"#
            ),
        );
        true
    })
}

#[test]
fn ph_02_a_mirrored_argument_that_disagrees_is_refused() {
    let up = mirroring();
    let gate = Gate::start(&up.config("up", ""));
    let call =
        || gate.client().modern("/mcp/up", "tools/call", r#""name":"query","arguments":{"region":"eu"}"#);
    assert_mismatch(call());
    assert_mismatch(call().line("Mcp-Param-Region", "us"));
    assert_mismatch(call().line("Mcp-Param-Region", "eu").line("Mcp-Param-Region", "us"));
    assert!(up.heard_of("tools/call").is_empty());

    assert_eq!(call().line("Mcp-Param-Region", "eu").send().outcome(), 200);
    assert_eq!(up.heard_of("tools/call")[0].line("mcp-param-region"), Some("eu"));
}

/// Also: PO-12.
#[test]
fn tp_06_an_argument_never_becomes_a_header_line_of_its_own() {
    let up = mirroring();
    let gate = Gate::start(&up.config("up", ""));
    let region = "eu\\r\\nX-Evil: 1";
    let encoded = "=?base64?ZXUNClgtRXZpbDogMQ==?=";
    let call = gate
        .client()
        .modern("/mcp/up", "tools/call", &format!(r#""name":"query","arguments":{{"region":"{region}"}}"#))
        .line("Mcp-Param-Region", encoded)
        .line("X-Upstream-Authorization", "Bearer marker-1")
        .line("Mcp-Param-Other", "marker-2")
        .send();
    assert_eq!(call.outcome(), 200, "{}", call.text());
    let heard = &up.heard_of("tools/call")[0];
    assert_eq!(heard.line("mcp-param-region"), Some(encoded), "it stays one value");
    assert!(heard.line("x-evil").is_none());
    for name in ["x-upstream-authorization", "mcp-param-other", "authorization"] {
        assert!(heard.line(name).is_none(), "{name} is no client's to set");
    }
    assert!(!heard.lines().contains("marker"));

    let honest =
        gate.client().modern("/mcp/up", "tools/call", r#""name":"query","arguments":{"region":"us"}"#);
    assert_eq!(honest.line("Mcp-Param-Region", "us").send().outcome(), 200);
}

#[test]
fn ph_11_a_header_has_one_value_and_one_decoding() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let call = |name: &str| {
        client
            .modern("/mcp/new", "tools/call", &format!(r#""name":"{name}","arguments":{{}}"#))
            .without("Mcp-Name")
    };
    for header in [
        "echo, echo",
        "=?base64?!!?=",
        "=?BASE64?ZWNobw==?=",
        "=?base64?ZWNobw?=",
        "=?base64?ZWNobw=?=",
        "=?base64?ZWNobw==",
        "=?base64?b3RoZXI=?=",
        "=?base64?_-_-?=",
        "=?base64?/w==?=",
        "ZWNobw==",
        "caf\u{e9}",
    ] {
        assert_mismatch(call("echo").line("Mcp-Name", header));
    }
    assert_mismatch(call("echo").line("Mcp-Name", "echo").line("Mcp-Name", "echo"));
    assert_mismatch(call("echo").line("Mcp-Name", "echo").line("mcp-name", "other"));
    assert_mismatch(call("=?base64?ZWNobw==?=").line("Mcp-Name", "=?base64?ZWNobw==?="));
    assert_mismatch(call("echo").line("Mcp-Name", &"e".repeat(20 * 1024)));
    let huge = call("echo").line("Mcp-Name", &"e".repeat(70 * 1024)).send();
    assert_eq!(huge.status, 431);
    // Bytes outside ASCII, as no HTTP library would send them.
    let mut raw = call("echo").bytes();
    let at = raw.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    raw.splice(at..at, b"\r\nMcp-Name: ech\xff".iter().copied());
    let obsolete = client.raw(raw);
    assert_eq!((obsolete.status, obsolete.code()), (400, MISMATCH), "{}", obsolete.text());
    assert_eq!(scene.executed(), 0);

    assert_eq!(
        call("echo").line("Mcp-Name", "  echo\t").send().status,
        200,
        "white space around is none of it"
    );
    assert_eq!(call("caf\u{e9}").line("Mcp-Name", "=?base64?Y2Fmw6k=?=").send().outcome(), 200);
    let named: Vec<_> = scene.new.heard_of("tools/call").iter().map(|h| h.tool()).collect();
    assert_eq!(named, ["echo", "caf\u{e9}"]);
    assert_eq!(scene.new.heard_of("tools/call")[1].line("mcp-name"), Some("=?base64?Y2Fmw6k=?="));
    scene.serves();
}

#[test]
fn ph_16_no_version_header_makes_a_request_skip_a_check() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let call = || client.modern("/mcp/new", "tools/call", r#""name":"evil","arguments":{}"#);
    // A modern body under an older name is still judged as what it is.
    for version in ["2025-11-25", "2025-06-18", "2024-11-05", "1999-01-01", "latest"] {
        assert_mismatch(call().with("MCP-Protocol-Version", version));
        assert_mismatch(call().with("MCP-Protocol-Version", version).with("Mcp-Name", "safe"));
    }
    let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"evil","arguments":{}}}"#;
    let dressed = |version: &str| {
        let ask = client.post("/mcp/new", plain).line("MCP-Protocol-Version", version);
        ask.line("Mcp-Method", "tools/call").line("Mcp-Name", "evil").send()
    };
    let bare = dressed("2026-07-28");
    assert_eq!((bare.status, bare.code()), (400, Some(-32602)), "`_meta` is missing: {}", bare.text());
    let sessionless = dressed("2025-11-25");
    assert_eq!(sessionless.status, 400, "{}", sessionless.text());
    let future = client
        .post(
            "/mcp/new",
            String::from_utf8(call().bytes())
                .unwrap()
                .split("\r\n\r\n")
                .nth(1)
                .unwrap()
                .replace("2026-07-28", "2027-01-01"),
        )
        .line("MCP-Protocol-Version", "2027-01-01")
        .line("Mcp-Method", "tools/call")
        .line("Mcp-Name", "evil")
        .send();
    assert_eq!((future.status, future.code()), (400, Some(-32022)), "{}", future.text());
    assert_eq!(future.json().pointer("/error/data/supported"), Some(&Value::from(vec!["2026-07-28"])));
    for path in ["/sse", "/messages", "/message", "/mcp/new/sse"] {
        assert_eq!(client.post(path, plain).send().status, 404, "{path}: 2024-11-05 is not served");
    }
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let other = session.call("1", "echo", "{}").with("MCP-Protocol-Version", "2025-03-26").send();
    assert_eq!(other.status, 400, "a session keeps its version");
    assert_eq!(scene.executed(), 0);
    scene.serves();
}
