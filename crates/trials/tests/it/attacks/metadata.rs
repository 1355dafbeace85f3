//! What servers say of their tools: names and headers (MCP tools; SEP-2243).

use bartizan_trials::{Gate, Upstream};
use serde_json::{Value, json};

/// A server that lists these tools, and says its own name where it is called.
fn listing(name: &'static str, tools: &Value) -> Upstream {
    let result =
        json!({ "resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "public" }).to_string();
    Upstream::modern(move |heard, pen| {
        match heard.rpc().as_str() {
            "tools/list" => pen.result(&heard.id(), &result),
            "tools/call" => {
                let said = format!("{name}:{}", heard.tool());
                pen.result(
                    &heard.id(),
                    &json!({ "resultType": "complete", "content": [{ "type": "text", "text": said }] })
                        .to_string(),
                );
            }
            _ => return false,
        }
        true
    })
}

fn names(gate: &Gate, path: &str) -> Vec<String> {
    let listed = gate.client().modern(path, "tools/list", "").send();
    let tools = listed.result().unwrap_or_else(|| panic!("{}", listed.text()))["tools"].clone();
    tools.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn po_05_equal_names_of_two_servers_stay_apart() {
    let plain = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" } });
    let one = listing("one", &json!([plain("search"), plain("two__search"), plain(&"n".repeat(126))]));
    let two = listing("two", &json!([plain("search")]));
    let gate = Gate::start(&format!("{}{}", one.config("one", ""), two.config("two", "")));
    assert_eq!(
        names(&gate, "/mcp"),
        ["one__search", "one__two__search", "two__search"],
        "by the operator's names"
    );
    gate.wait_for_log("would pass 128 characters");
    for (tool, said) in [
        ("one__search", "one:search"),
        ("two__search", "two:search"),
        ("one__two__search", "one:two__search"),
    ] {
        assert_eq!(gate.client().call("/mcp", tool, "{}").said(), said, "{tool}");
    }
    let calls = (one.heard_of("tools/call").len(), two.heard_of("tools/call").len());
    for tool in [
        "search",
        "three__search",
        "ONE__search",
        "one_search",
        "one__",
        "__search",
        "one.search",
        "one/search",
    ] {
        let answer = gate.client().call("/mcp", tool, "{}");
        assert_eq!(answer.code(), Some(-32602), "{tool}: {}", answer.text());
    }
    assert_eq!(calls, (one.heard_of("tools/call").len(), two.heard_of("tools/call").len()));
}

#[test]
fn po_12_a_tool_that_would_write_headers_of_its_own_choice_is_left_out() {
    let tool = |name: &str, property: Value| json!({ "name": name, "inputSchema": { "type": "object", "properties": property } });
    let header = |value: &str| json!({ "a": { "type": "string", "x-mcp-header": value } });
    let up = listing(
        "up",
        &json!([
            tool("honest", header("Region")),
            tool("empty", header("")),
            tool("space", header("A B")),
            tool("split", header("X\r\nY: z")),
            tool("colon", header("A:")),
            tool(
                "twice",
                json!({ "a": { "type": "string", "x-mcp-header": "Same" }, "b": { "type": "string", "x-mcp-header": "same" } })
            ),
            tool("object", json!({ "a": { "type": "object", "x-mcp-header": "Obj" } })),
            tool(
                "inside",
                json!({ "a": { "type": "array", "items": { "type": "string", "x-mcp-header": "In" } } })
            ),
            tool("number", json!({ "a": { "type": "string", "x-mcp-header": 7 } })),
            tool("plain", json!({ "a": { "type": "string" } })),
        ]),
    );
    let gate = Gate::start(&up.config("up", ""));
    assert_eq!(names(&gate, "/mcp/up"), ["honest", "plain"]);
    gate.wait_for_log("left out of the list");
    let call = gate.client().modern("/mcp/up", "tools/call", r#""name":"honest","arguments":{"a":"v"}"#);
    assert_eq!(call.line("Mcp-Param-Region", "v").send().said(), "up:honest");
    // Even `Authorization` only ever becomes `Mcp-Param-Authorization`, which authorizes nothing.
    let odd = listing("odd", &json!([tool("auth", header("Authorization"))]));
    let gate = Gate::start(&odd.config("odd", ""));
    let call = gate.client().modern("/mcp/odd", "tools/call", r#""name":"auth","arguments":{"a":"v"}"#);
    call.line("Mcp-Param-Authorization", "v").send();
    assert!(odd.heard().iter().all(|h| h.line("authorization").is_none()));
}

#[test]
fn po_08_a_definition_that_says_two_things_is_not_passed_on() {
    let up = Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/list" {
            return false;
        }
        pen.result(&heard.id(), r#"{"resultType":"complete","ttlMs":0,"cacheScope":"public","tools":[{"name":"t","description":"shown","description":"hidden","inputSchema":{"type":"object"}}]}"#);
        true
    });
    let good = listing("good", &json!([{ "name": "t", "inputSchema": { "type": "object" } }]));
    let gate = Gate::start(&format!("{}{}", up.config("up", ""), good.config("good", "")));
    let listed = gate.client().modern("/mcp/up", "tools/list", "").send();
    assert_eq!(listed.code(), Some(-31022), "{}", listed.text());
    assert!(!listed.text().contains("shown") && !listed.text().contains("hidden"));
    assert_eq!(names(&gate, "/mcp"), ["good__t"], "nor in the merged list, which goes on without it");
}

/// A client that folds letter case would show what stands under the key that nobody judged.
#[test]
fn po_08_a_definition_has_no_second_reading_in_other_letter_case() {
    let lists = [
        r#""tools":[{"name":"t","description":"shown","inputSchema":{"type":"object"}}],"Tools":[{"name":"t","description":"hidden","inputSchema":{"type":"object"}}]"#,
        r#""tools":[{"name":"t","description":"shown","Description":"hidden","inputSchema":{"type":"object"}}]"#,
        r#""tools":[{"name":"t","description":"shown","inputSchema":{"type":"object"},"inputschema":{"title":"hidden"}}]"#,
        r#""tools":[{"name":"t","description":"shown","inputSchema":{"type":"object"},"annotations":{"ReadOnlyHint":true}}]"#,
    ];
    let good = listing(
        "good",
        &json!([{ "name": "t", "inputSchema": { "type": "object", "properties": { "Name": {}, "name": {} } } }]),
    );
    for list in lists {
        let up = Upstream::modern(move |heard, pen| {
            if heard.rpc() != "tools/list" {
                return false;
            }
            let result = format!(r#"{{"resultType":"complete","ttlMs":0,"cacheScope":"public",{list}}}"#);
            pen.result(&heard.id(), &result);
            true
        });
        let gate = Gate::start(&format!("{}{}", up.config("up", ""), good.config("good", "")));
        let listed = gate.client().modern("/mcp/up", "tools/list", "").send();
        assert_eq!(listed.code(), Some(-31022), "{list}: {}", listed.text());
        assert!(!listed.text().contains("shown") && !listed.text().contains("hidden"));
        assert_eq!(names(&gate, "/mcp"), ["good__t"], "properties may be called as they like");
    }
    let greeting = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "initialize" {
            return false;
        }
        pen.result(&heard.id(), r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"u","version":"1"},"instructions":"shown","Instructions":"hidden"}"#);
        true
    });
    let gate = Gate::start(&greeting.config("up", ""));
    let opened = gate.client().initialize("/mcp/up", "2025-11-25", "{}").send();
    assert!(opened.code().is_some() && !opened.text().contains("hidden"), "{}", opened.text());
}
