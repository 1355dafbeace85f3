//! One strict reading of every message, before anything is believed (RFC 8259 §4; JSON-RPC 2.0; CVE-2026-27896).

use bartizan_trials::{Gate, Upstream};

use crate::Scene;

/// The members that make a body modern.
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// Sends `body` as a modern call of `echo` and into a legacy session; asserts that both refuse it with 400.
fn assert_refused(scene: &Scene, body: impl AsRef<[u8]>) {
    let body = body.as_ref();
    let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
    let client = scene.gate.client();
    let modern = client
        .post("/mcp/new", body)
        .line("MCP-Protocol-Version", "2026-07-28")
        .line("Mcp-Method", "tools/call")
        .line("Mcp-Name", "echo")
        .send();
    assert_eq!(modern.status, 400, "{shown}\n{}", modern.text());
    assert!(matches!(modern.code(), Some(-32700 | -32600 | -32602)), "{shown}\n{}", modern.text());
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let legacy = session.post(body).send();
    assert_eq!(legacy.status, 400, "{shown}\n{}", legacy.text());
    assert!(matches!(legacy.code(), Some(-32700 | -32600 | -32602)), "{shown}\n{}", legacy.text());
    assert_eq!(scene.executed(), 0, "{shown}");
}

/// A call whose `params` hold `members` and whatever makes it modern.
fn call(members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{members},{META}}}}}"#)
}

#[test]
fn ph_03_a_key_that_stands_twice_is_refused_at_every_level() {
    let scene = Scene::start();
    for body in [
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{{"name":"echo",{META}}}}}"#
        ),
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{{"name":"echo",{META}}}}}"#
        ),
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{}},"params":{{"name":"echo",{META}}}}}"#
        ),
        call(r#""name":"safe","name":"echo""#),
        call(r#""name":"echo","na\u006de":"evil""#),
        call(r#""name":"echo","arguments":{"path":"/ok","path":"/etc"}"#),
        call(r#""name":"echo","arguments":{"a":[{"b":{"c":1,"c":2}}]}"#),
        call(&format!(r#""name":"echo",{META}"#)),
        call(r#""name":"echo","arguments":{"\u00e9":1,"é":2}"#),
    ] {
        assert_refused(&scene, body);
    }
    scene.serves();
}

#[test]
fn ph_03_a_server_that_says_two_things_at_once_says_nothing() {
    let up = Upstream::modern(|heard, pen| {
        if heard.tool() != "twice" {
            return false;
        }
        pen.result(
            &heard.id(),
            r#"{"resultType":"complete","content":[{"type":"text","text":"shown","text":"hidden"}]}"#,
        );
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let answer = gate.client().call("/mcp/up", "twice", "{}");
    assert_eq!((answer.status, answer.code()), (200, Some(-31022)), "{}", answer.text());
    assert!(!answer.text().contains("shown") && !answer.text().contains("hidden"), "{}", answer.text());
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}

#[test]
fn ph_05_a_call_without_an_id_is_not_carried_out() {
    let scene = Scene::start();
    let inside = format!(r#""params":{{"name":"echo","arguments":{{}},{META}}}"#);
    for body in [
        format!(r#"{{"jsonrpc":"2.0","method":"tools/call",{inside}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":null,"method":"tools/call",{inside}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","result":{{}},{inside}}}"#),
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","error":{{"code":1,"message":"m"}},{inside}}}"#
        ),
        format!(r#"{{"jsonrpc":"2.0","id":1,{inside}}}"#),
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","result":{}}"#.to_owned(),
    ] {
        assert_refused(&scene, body);
    }
    // A response alone: nobody asked. Modern clients have none to send, legacy ones may be late.
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
    let client = scene.gate.client();
    let modern = client.post("/mcp/new", response).line("MCP-Protocol-Version", "2026-07-28").send();
    assert_eq!(modern.status, 400, "{}", modern.text());
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let before = scene.old.heard().len();
    assert_eq!(session.post(response).send().status, 202);
    assert_eq!(scene.old.heard().len(), before, "it goes nowhere");
    assert_eq!(scene.executed(), 0);
    scene.serves();
}

/// The error of a request that its server could not read has `"id":null` (JSON-RPC 2.0 §5.1).
#[test]
fn ph_03_an_error_without_an_id_gets_one_and_no_second() {
    let up = Upstream::modern(|heard, pen| {
        let id = match heard.tool().as_str() {
            "null" => r#""id":null,"#,
            "none" => "",
            _ => return false,
        };
        pen.json(&format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-32700,"message":"unread"}}}}"#));
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    for tool in ["null", "none"] {
        let answer = gate.client().call("/mcp/up", tool, "{}");
        assert_eq!(answer.code(), Some(-32700), "{}", answer.text());
        assert_eq!(answer.text().matches("\"id\"").count(), 1, "{}", answer.text());
        assert_eq!(answer.json()["id"], 1, "{}", answer.text());
    }
}

#[test]
fn ph_12_what_two_parsers_could_read_differently_is_refused() {
    let scene = Scene::start();
    let with_id = |id: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo",{META}}}}}"#)
    };
    let argument = |text: &str| call(&format!(r#""name":"echo","arguments":{{"a":{text}}}"#));
    let good = argument("1");
    let mut bodies: Vec<Vec<u8>> = [
        format!(r#"{{"jsonrpc":"2.0","id":1,"Method":"tools/call","params":{{"name":"echo",{META}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","PARAMS":{{}},"params":{{"name":"echo",{META}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","param\u017f":{{}},"params":{{"name":"echo",{META}}}}}"#),
        call(r#""name":"echo","Name":"evil""#),
        call(r#""name":"echo","tas\u212aid":"x""#),
        call(r#""name":"echo","Arguments":{"path":"/etc"}"#),
        call(r#""name":"echo","Uri":"file:///etc""#),
        call(r#""name":"echo","Ref":{"type":"ref/prompt","name":"x"}"#),
        call(r#""name":"echo","ref":{"type":"ref/prompt","name":"x","Name":"y"}"#),
        call(r#""name":"echo","Notifications":{}"#),
        call(r#""name":"echo","notifications":{"resourcesubscriptions":["x"]}"#),
        call(r#""name":"echo","RequestId":7"#),
        call(r#""name":"echo","inputResponses":{"q":{"action":"decline","Action":"accept"}}"#),
        call(r#""name":"echo","arguments":{"a\u0000b":1}"#),
        call(r#""name":"echo\u0000evil""#),
        call(r#""name":"echo","uri":"a\u0000b""#),
        format!("\u{feff}{good}"),
        format!("{good} trailing"),
        format!("{good}{good}"),
        format!("/* comment */{good}"),
        argument("NaN"),
        argument("Infinity"),
        argument("01"),
        argument("+1"),
        argument(".5"),
        argument("1."),
        argument("0x10"),
        argument("'single'"),
        argument("[1,]"),
        argument(r#""\ud800""#),
        argument(r#""\udc00\ud800""#),
        argument(r#""\x41""#),
        argument("\"raw\ttab\""),
        argument("\"raw\nline\""),
        argument("tru"),
        with_id("1.5"),
        with_id("1e0"),
        with_id("true"),
        with_id("[1]"),
        with_id("{}"),
        with_id("\"\"").replace("\"jsonrpc\":\"2.0\"", "\"jsonrpc\":\"1.0\""),
        with_id(&format!("\"{}\"", "i".repeat(1 << 20))),
        with_id("1").replace("\"jsonrpc\":\"2.0\",", ""),
        with_id("1").replace("\"jsonrpc\":\"2.0\"", "\"jsonrpc\":2.0"),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["echo"]}"#.into(),
        r#"{"jsonrpc":"2.0","id":1,"method":["tools/call"]}"#.into(),
        "\"tools/call\"".into(),
        String::new(),
        "null".into(),
    ]
    .map(String::into_bytes)
    .into();
    let spliced = |bytes: &[u8]| {
        let (before, after) = good.split_once("\"arguments\":{\"a\":1}").unwrap();
        [before.as_bytes(), b"\"arguments\":{\"a\":\"", bytes, b"\"}", after.as_bytes()].concat()
    };
    bodies.extend([&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"].map(spliced));
    bodies.push(good.encode_utf16().flat_map(u16::to_le_bytes).collect());
    for body in bodies {
        assert_refused(&scene, body);
    }

    // Numbers of any size and every legal escape are data, and arrive as they were written (the deviation of
    // docs/attacks.md: nothing is serialised again).
    let odd = r#"{"n":12345678901234567890123,"z":-0,"e":1E+2,"u":"\u0041\/\u0000\ud83d\ude00","Name":1,"name":2,"METHOD":3}"#;
    let answer = scene.gate.client().call("/mcp/new", "echo", odd);
    assert_eq!(answer.outcome(), 200, "{}", answer.text());
    assert!(scene.new.heard_of("tools/call")[0].body.contains(odd), "it went up as it was");
}

/// Clients whose reader folds letter case (Go's `encoding/json`, .NET's web defaults) take the last of two such keys.
#[test]
fn ph_12_a_server_says_nothing_twice_in_other_letter_case() {
    let answers = [
        r#""content":[{"type":"text","text":"shown"}],"Content":[{"type":"text","text":"hidden"}]"#,
        r#""content":[{"type":"text","text":"shown","Text":"hidden"}]"#,
        r#""content":[{"type":"resource","resource":{"uri":"a:1","text":"shown","tex\u0054":"hidden"}}]"#,
        r#""content":[],"structuredContent":{"a":"shown"},"structuredcontent":{"a":"hidden"}"#,
        r#""content":[],"i\u017fError":true"#,
        r#""content":[],"InputRequests":{"q":{"method":"elicitation/create","params":{"message":"hidden"}}}"#,
        r#""content":[],"_Meta":{"hidden":1}"#,
    ];
    let up = Upstream::modern(move |heard, pen| {
        let at: Option<usize> = heard.tool().parse().ok();
        let answer = match (heard.rpc().as_str(), at.and_then(|at| answers.get(at))) {
            ("tools/call", Some(answer)) => answer,
            ("tools/call", None) if heard.tool() == "data" => {
                r#""content":[{"type":"text","text":"{}"}],"structuredContent":{"Name":"a","name":"b","Content":[{"Text":1}]}"#
            }
            ("resources/read", _) => {
                r#""contents":[{"uri":"a:1","text":"shown"}],"Contents":[{"uri":"a:1","text":"hidden"}],"ttlMs":0,"cacheScope":"private""#
            }
            _ => return false,
        };
        pen.result(&heard.id(), &format!(r#"{{"resultType":"complete",{answer}}}"#));
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let client = gate.client();
    for at in 0..answers.len() {
        let answer = client.call("/mcp/up", &at.to_string(), "{}");
        assert_eq!((answer.status, answer.code()), (200, Some(-31022)), "{at}: {}", answer.text());
        assert!(!answer.text().contains("shown") && !answer.text().contains("hidden"), "{}", answer.text());
    }
    let read = client.modern("/mcp/up", "resources/read", r#""uri":"a:1""#).send();
    assert_eq!(read.code(), Some(-31022), "{}", read.text());
    let data = client.call("/mcp/up", "data", "{}");
    assert_eq!(data.outcome(), 200, "data are spelt as they like: {}", data.text());
    assert!(data.text().contains(r#"{"Name":"a","name":"b","Content":[{"Text":1}]}"#), "{}", data.text());
}

#[test]
fn ph_13_an_array_of_requests_runs_none_of_them() {
    let scene = Scene::start();
    let one = call(r#""name":"echo","arguments":{}"#);
    let many = vec![one.as_str(); 1000].join(",");
    let bodies = [
        "[]".to_owned(),
        format!("[{one}]"),
        format!("[{many}]"),
        format!("[[{one}]]"),
        format!(" \n[{one}]"),
    ];
    let client = scene.gate.client();
    for body in &bodies {
        assert_refused(&scene, body);
        for version in ["2025-03-26", "2025-11-25", "2026-07-28"] {
            let answer = client.post("/mcp/old", body).line("MCP-Protocol-Version", version).send();
            assert_eq!((answer.status, answer.code()), (400, Some(-32600)), "{version}: {}", answer.text());
        }
    }
    let hello = r#"[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}]"#;
    assert_eq!(client.post("/mcp/old", hello).send().status, 400, "a batch opens no session");
    assert_eq!(scene.executed(), 0);

    // The one revision that has batches gets them, inside its session (the deviation of docs/attacks.md).
    let session = client.session("/mcp/old", "2025-03-26", "{}");
    let plain = |id: u8| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"n":{id}}}}}}}"#
        )
    };
    let answer = session.post(format!("[{},{}]", plain(1), plain(2))).send();
    assert_eq!(answer.outcome(), 200, "{}", answer.text());
    assert!(
        answer.text().contains(r#"{\"n\":1}"#) && answer.text().contains(r#"{\"n\":2}"#),
        "{}",
        answer.text()
    );
    assert_eq!(scene.executed(), 2);
    assert_eq!(session.post("[]").send().status, 400, "but not empty ones");
    let hello = hello.trim_matches(['[', ']']);
    assert_eq!(session.post(format!("[{},{hello}]", plain(3))).send().status, 400, "nor a handshake");
    assert_eq!(scene.executed(), 2, "and nothing beside one is done");
    let refused = r#"{"jsonrpc":"2.0","method":"notifications/unheard-of"}"#;
    let answer = session.post(format!(r#"[{refused},{{"jsonrpc":"2.0","id":7,"method":"ping"}}]"#)).send();
    assert_eq!(answer.messages().len(), 1, "a notification is never answered: {}", answer.text());
    let pings = vec![r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#; 1025].join(",");
    let answer = session.post(format!("[{pings}]")).send();
    assert_eq!(
        (answer.status, answer.code()),
        (413, Some(-31029)),
        "nor ones without measure: {}",
        answer.text()
    );
    assert_eq!(session.post(format!("[[{}]]", plain(3))).send().status, 400, "nor nested ones");
}

#[test]
fn ph_15_depth_and_number_are_bounded_before_anything_is_built() {
    let scene = Scene::start();
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        call(&format!(r#""name":"echo","arguments":{{"a":{open}{close}}}"#))
    };
    // The message, `params` and `arguments` are three levels.
    for depth in [62, 127, 128, 1000, 100_000] {
        assert_refused(&scene, nested(depth));
    }
    let objects = format!("{}1{}", r#"{"a":"#.repeat(1000), "}".repeat(1000));
    assert_refused(&scene, call(&format!(r#""name":"echo","arguments":{objects}"#)));
    assert_refused(
        &scene,
        call(&format!(r#""name":"echo","arguments":{{"a":[{}1]}}"#, "1,".repeat(1_000_000))),
    );
    assert_refused(&scene, call(&format!(r#""name":"echo","arguments":{{"{}":1}}"#, "k".repeat(1 << 20))));

    let client = scene.gate.client();
    let deepest = format!(r#"{{"a":{}{}}}"#, "[".repeat(61), "]".repeat(61));
    assert_eq!(client.call("/mcp/new", "echo", &deepest).outcome(), 200, "64 levels in all");
    let keys: Vec<_> = (0..100_000).map(|n| format!("\"k{n}\":0")).collect();
    let wide = client.call("/mcp/new", "echo", &format!("{{{}}}", keys.join(",")));
    assert_eq!(wide.outcome(), 200, "many keys cost no more than their bytes: {}", wide.error());
    scene.serves();
}

#[test]
fn ep_05_a_method_nobody_knows_goes_nowhere() {
    let (new, old) = (Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
    let allowed = "allow_methods = [\"x/hello\"]";
    let gate = Gate::start(&format!(
        "{}{}{}",
        new.config("new", ""),
        old.config("old", ""),
        new.config("open", allowed)
    ));
    let client = gate.client();
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    for method in [
        "x/exec",
        "Tools/call",
        "tools/call ",
        "tools//call",
        "rpc.discover",
        "sampling/createMessage",
        "roots/list",
    ] {
        let modern = client
            .modern("/mcp/new", method, r#""name":"echo""#)
            .with("Mcp-Method", method.trim_end())
            .send();
        assert!(matches!(modern.status, 400 | 404), "{method}: {}", modern.text());
        assert!(modern.result().is_none(), "{method}");
        let legacy = session.request("1", method, r#""name":"echo""#).send();
        assert_eq!(
            (legacy.status, legacy.code()),
            (200, Some(-32601)),
            "{method}: 404 would end the session"
        );
    }
    let unknown = client.modern("/mcp/new", "x/exec", "").send();
    assert_eq!((unknown.status, unknown.code()), (404, Some(-32601)));
    let told = session.tell("notifications/x", "");
    assert_eq!(told.status, 400, "unknown notifications too: {}", told.text());
    // A known method that is malformed is that method's error, never an unknown method.
    let malformed =
        client.modern("/mcp/new", "tools/call", r#""arguments":{}"#).line("Mcp-Name", "echo").send();
    assert!(matches!(malformed.code(), Some(-32602 | -32020)), "{}", malformed.text());
    let malformed = session.request("2", "tools/call", r#""arguments":{}"#).send();
    assert_eq!(malformed.code(), Some(-32602), "{}", malformed.text());
    let heard = new.heard().into_iter().chain(old.heard());
    assert!(
        heard.into_iter().all(|h| matches!(
            h.rpc().as_str(),
            "server/discover" | "initialize" | "notifications/initialized"
        ))
    );

    client.modern("/mcp/open", "x/hello", r#""word":1"#).send();
    assert_eq!(new.heard_of("x/hello").len(), 1, "the operator may name more");
    assert_eq!(client.modern("/mcp/open", "x/exec", "").send().status, 404);
}

#[test]
fn ph_28_no_message_however_odd_breaks_what_comes_after() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let values = ["null", "true", "0", "-1", "1e9", "\"\"", "\"x\"", "[]", "{}", "[null]", "{\"a\":{}}"];
    let methods = [
        "tools/call",
        "tools/list",
        "resources/read",
        "completion/complete",
        "logging/setLevel",
        "initialize",
        "notifications/cancelled",
        "notifications/progress",
        "tasks/get",
    ];
    for method in methods {
        for value in values {
            let params = format!(
                r#""name":{value},"arguments":{value},"uri":{value},"cursor":{value},"requestId":{value},"progressToken":{value},"ref":{value},"level":{value},"taskId":{value},"progress":{value}"#
            );
            let meta = format!(
                r#""_meta":{{"progressToken":{value},"traceparent":{value},"io.modelcontextprotocol/related-task":{value}}}"#
            );
            for (id, params) in [("7", params.as_str()), ("\"7\"", meta.as_str()), ("8", "")] {
                for answer in [
                    session.request(id, method, params).send(),
                    client
                        .post(
                            "/mcp/new",
                            format!(
                                r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#
                            ),
                        )
                        .line("MCP-Protocol-Version", "2026-07-28")
                        .send(),
                    session.tell(method, params),
                ] {
                    assert!(
                        (200..500).contains(&answer.status),
                        "{method} {params}: {} {}",
                        answer.status,
                        answer.text()
                    );
                }
            }
        }
    }
    assert_eq!(session.call("\"after\"", "echo", r#"{"still":"here"}"#).send().said(), r#"{"still":"here"}"#);
    scene.serves();
}
