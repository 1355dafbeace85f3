//! HTTP itself: where a request ends, how much of it there may be, how slowly it may come (RFC 9112; CWE-400, CWE-409).

use std::io::{Read, Write};

use crate::Scene;

/// A modern call of `tool` as body.
fn body(tool: &str) -> String {
    bartizan_trials::modern_text("1", "tools/call", &format!(r#""name":"{tool}","arguments":{{}}"#), "{}")
}

/// The head of a call of `tool` up to the lines that say how long its body is.
fn head(scene: &Scene, tool: &str) -> String {
    format!(
        "POST /mcp/new HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n",
        scene.gate.client().authority(),
        scene.gate.token(),
    )
}

#[test]
fn ph_06_no_request_hides_in_another() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let (outer, inner) = (body("outer"), body("smuggled"));
    let length = outer.len();
    let hidden = format!("{}Content-Length: {}\r\n\r\n{inner}", head(&scene, "smuggled"), inner.len());
    let chunked = format!("{length:x}\r\n{outer}\r\n0\r\n\r\n");
    let whole = length + hidden.len();
    let ambiguous = [
        (
            "two lengths",
            format!("Content-Length: {length}\r\nContent-Length: {whole}\r\n\r\n{outer}{hidden}"),
        ),
        ("a list of lengths", format!("Content-Length: {length}, {whole}\r\n\r\n{outer}{hidden}")),
        ("a signed length", format!("Content-Length: +{length}\r\n\r\n{outer}{hidden}")),
        ("a negative length", format!("Content-Length: -1\r\n\r\n{outer}{hidden}")),
        ("a hexadecimal length", format!("Content-Length: 0x{length:x}\r\n\r\n{outer}{hidden}")),
        ("a strange coding", format!("Transfer-Encoding: xchunked\r\n\r\n{chunked}{hidden}")),
        (
            "two codings",
            format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n{chunked}{hidden}"),
        ),
        ("a coding before the chunks", format!("Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}{hidden}")),
        ("chunks in chunks", format!("Transfer-Encoding: chunked, chunked\r\n\r\n{chunked}{hidden}")),
        (
            "chunks in two lines",
            format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}{hidden}"),
        ),
        ("a coding after a tab", format!("Transfer-Encoding:\tchunked, identity\r\n\r\n{chunked}{hidden}")),
        (
            "a folded line",
            format!("X-Fold: a\r\n Content-Length: 1\r\nContent-Length: {length}\r\n\r\n{outer}{hidden}"),
        ),
        ("a space before the colon", format!("Content-Length : {length}\r\n\r\n{outer}{hidden}")),
        (
            "a bad chunk size",
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}g\r\n{outer}\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a huge chunk size",
            format!(
                "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff{length:x}\r\n{outer}\r\n0\r\n\r\n{hidden}"
            ),
        ),
        ("a NUL in a line", format!("X-Nul: a\0b\r\nContent-Length: {length}\r\n\r\n{outer}{hidden}")),
        (
            "a bare CR in a line",
            format!("X-Cr: a\rContent-Length: 5\r\nContent-Length: {length}\r\n\r\n{outer}{hidden}"),
        ),
    ];
    for (name, rest) in ambiguous {
        let answer = client.raw(format!("{}{rest}", head(&scene, "outer")));
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        assert_eq!(scene.executed(), 0, "{name}");
    }
    // Both a length and chunks: the chunks count, and the connection ends, so that nothing after them is a request to
    // anybody who went by the length (RFC 9112 §6.1).
    for rest in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}{hidden}",
            chunked.len() + hidden.len()
        ),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n{chunked}{hidden}"),
    ] {
        let answer = client.raw(format!("{}{rest}", head(&scene, "outer")));
        assert_eq!(answer.line("connection"), Some("close"), "{}", answer.text());
        // An honest call on another connection: whatever was hidden would have come before it.
        assert_eq!(client.call("/mcp/new", "echo", "{}").outcome(), 200);
        let tools: Vec<_> = scene.new.heard_of("tools/call").iter().map(|h| h.tool()).collect();
        assert!(!tools.contains(&"smuggled".to_owned()), "{tools:?}");
    }
    let before = scene.executed();
    let old = head(&scene, "outer").replace("HTTP/1.1", "HTTP/1.0");
    let answer = client.raw(format!("{old}Transfer-Encoding: chunked\r\n\r\n{chunked}{hidden}"));
    assert_eq!(answer.status, 400, "a coding in HTTP/1.0: {}", answer.text());
    assert_eq!(scene.executed(), before);

    // Two requests, one after the other, are two requests: nothing is hidden about them.
    let honest = format!("{}Content-Length: {length}\r\n\r\n{outer}{hidden}", head(&scene, "outer"));
    let mut socket = client.connect();
    socket.write_all(honest.as_bytes()).unwrap();
    bartizan_trials::eventually("both were carried out", || (scene.executed() == before + 2).then_some(()));
    let answer = client.raw(format!("{}Transfer-Encoding: chunked\r\n\r\n{chunked}", head(&scene, "outer")));
    assert_eq!(answer.outcome(), 200, "a chunked body is a body");
    assert!(
        scene
            .new
            .heard()
            .iter()
            .all(|h| h.line("transfer-encoding").is_none() && h.line("connection").is_none())
    );
    scene.serves();
}

#[test]
fn ph_14_too_much_is_refused_before_it_is_kept() {
    let mut scene = Scene::start();
    let client = scene.gate.client();
    let ask = |lines: &str| client.raw(format!("{}{lines}", head(&scene, "echo"))).status;
    assert_eq!(ask("Content-Length: 1073741824\r\n\r\n{"), 413, "by its announcement");
    assert_eq!(
        client.call("/mcp/new", "echo", &format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20))).status,
        413
    );

    // A body without an end: the gate stops reading soon after its limit.
    let mut socket = client.connect();
    socket
        .write_all(format!("{}Transfer-Encoding: chunked\r\n\r\n", head(&scene, "echo")).as_bytes())
        .unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16));
    let sent = (0..4096).take_while(|_| socket.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 1024, "{sent} chunks of 64 KiB were taken");

    for coding in ["gzip", "br", "zstd", "deflate", "identity"] {
        assert_eq!(
            ask(&format!("Content-Encoding: {coding}\r\nContent-Length: 2\r\n\r\n{{}}")),
            415,
            "{coding}"
        );
    }
    let many: String = (0..500).map(|n| format!("X-{n}: v\r\n")).collect();
    assert_eq!(ask(&format!("{many}Content-Length: 2\r\n\r\n{{}}")), 431, "500 lines");
    assert_eq!(ask(&format!("X-Long: {}\r\nContent-Length: 2\r\n\r\n{{}}", "v".repeat(80 << 10))), 431);
    let long = client.modern(&format!("/mcp/new?{}", "q".repeat(80 << 10)), "tools/list", "").send();
    assert!(matches!(long.status, 414 | 431), "{}", long.status);
    assert_eq!(scene.executed(), 0);

    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.gate.pid())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 256 * 1024, "{peak} kB at most");
    assert!(scene.gate.is_up());
    scene.serves();
}

#[test]
fn ph_20_who_is_slow_holds_up_nobody_else() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let mut slow: Vec<_> = (0..50).map(|_| client.connect()).collect();
    for socket in &mut slow {
        socket.write_all(b"POST /mcp/new HTTP/1.1\r\nHost: ").unwrap();
    }
    // Some who never read: what the gate says to them must not pile up.
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let mut socket = client.connect();
            socket
                .write_all(
                    &client.modern("/mcp/new", "subscriptions/listen", r#""notifications":{}"#).bytes(),
                )
                .unwrap();
            socket
        })
        .collect();
    let began = std::time::Instant::now();
    scene.serves();
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "others were held up");
    // A head has ten seconds.
    let mut rest = Vec::new();
    slow[0].set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    slow[0].read_to_end(&mut rest).expect("the gate hangs up in time");
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "), "{}", String::from_utf8_lossy(&rest));
    drop(deaf);
    scene.serves();
}

#[test]
fn ph_30_no_other_method_and_no_upgrade() {
    let scene = Scene::start();
    let client = scene.gate.client();
    for method in ["PUT", "PATCH", "HEAD", "TRACE", "OPTIONS", "POSTX", "post"] {
        let answer = client.request(method, "/mcp/new").send();
        assert!(matches!(answer.status, 400 | 405), "{method}: {}", answer.status);
        if answer.status == 405 {
            assert_eq!(answer.line("allow"), Some("POST, GET, DELETE"), "{method}");
        }
    }
    let tunnel = client.raw(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", client.authority()));
    assert!(matches!(tunnel.status, 400 | 404 | 405), "{}", tunnel.status);
    let overridden = client
        .request("GET", "/mcp/new")
        .line("X-HTTP-Method-Override", "POST")
        .line("Accept", "text/event-stream")
        .send();
    assert_ne!(overridden.outcome(), 200);
    for protocol in ["websocket", "h2c"] {
        let ask = client
            .request("GET", "/mcp/new")
            .line("Accept", "text/event-stream")
            .line("Connection", "Upgrade");
        let answer = ask
            .line("Upgrade", protocol)
            .line("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .line("Sec-WebSocket-Version", "13")
            .send();
        assert_ne!(answer.status, 101, "{protocol}");
    }
    let list = || client.modern("/mcp/new", "tools/list", "");
    assert_eq!(list().with("Accept", "text/html").send().status, 406);
    assert_eq!(list().with("Accept", "application/json;q=0, text/event-stream;q=0").send().status, 406);
    assert_eq!(client.request("GET", "/mcp/old").line("Accept", "application/json").send().status, 406);
    assert_eq!(scene.executed(), 0);

    assert_eq!(list().with("Accept", "*/*").send().outcome(), 200);
    assert_eq!(list().without("Accept").send().outcome(), 200);
    scene.serves();
}
