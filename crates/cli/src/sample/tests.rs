//! Transcripts: what a client writes, and what it reads.

use super::*;

/// Serves `lines`; what came back, one message a line.
fn transcript(lines: &[Value]) -> Vec<Value> {
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    raw(input.as_bytes())
}

fn raw(input: &[u8]) -> Vec<Value> {
    let mut output = Vec::new();
    serve(input, &mut output).unwrap();
    let output = String::from_utf8(output).unwrap();
    assert!(output.is_empty() || output.ends_with('\n'));
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn modern_with(id: u64, method: &str, capabilities: Value, mut params: Value) -> Value {
    params["_meta"] = json!({ META_VERSION: MODERN, META_CAPABILITIES: capabilities });
    request(id, method, params)
}

fn modern(id: u64, method: &str, params: Value) -> Value {
    modern_with(id, method, json!({}), params)
}

fn initialize(revision: &str, capabilities: Value) -> Value {
    let client = json!({ "name": "test", "version": "0" });
    request(
        0,
        "initialize",
        json!({ "protocolVersion": revision, "capabilities": capabilities, "clientInfo": client }),
    )
}

fn rates(id: u64) -> Value {
    request(id, "tools/call", json!({ "name": "rates", "arguments": { "currency": "CHF" } }))
}

fn description_of(list: &Value, name: &str) -> String {
    let tools = list["result"]["tools"].as_array().unwrap();
    tools.iter().find(|t| t["name"] == name).unwrap()["description"].as_str().unwrap().to_owned()
}

#[test]
fn a_handshake_settles_the_revision() {
    for (asked, settled) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        // There is no handshake in the newest, and nobody knows the others (spec.md B-02).
        ("2026-07-28", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ] {
        let said = transcript(&[initialize(asked, json!({}))]);
        assert_eq!(said[0]["result"]["protocolVersion"], settled, "{asked}");
        assert_eq!(said[0]["result"]["serverInfo"]["name"], "bartizan-sample");
    }
}

#[test]
fn a_modern_result_says_what_it_is() {
    let said = transcript(&[
        modern(1, "server/discover", json!({})),
        modern(2, "tools/list", json!({})),
        modern(3, "resources/read", json!({ "uri": "sample://about" })),
        modern(4, "tools/call", json!({ "name": "add", "arguments": { "a": 2, "b": 3 } })),
        modern(
            5,
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "greet" }, "argument": { "name": "style", "value": "f" } }),
        ),
    ]);
    for message in &said {
        assert_eq!(message["result"]["resultType"], "complete", "{message}");
        assert_eq!(message["result"]["_meta"][META_SERVER]["name"], "bartizan-sample");
    }
    for cached in &said[..3] {
        assert!(cached["result"]["ttlMs"].is_u64(), "{cached}");
        assert!(cached["result"]["cacheScope"].is_string(), "{cached}");
    }
    assert!(said[0]["result"]["supportedVersions"].as_array().unwrap().contains(&MODERN.into()));
    assert_eq!(said[3]["result"]["content"][0]["text"], "5");
    assert!(said[3]["result"].get("ttlMs").is_none());
    assert_eq!(said[4]["result"]["completion"]["values"], json!(["formal", "friendly"]));
}

#[test]
fn legacy_results_have_nothing_modern() {
    let said = transcript(&[
        initialize("2025-11-25", json!({})),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        request(1, "tools/list", json!({})),
        request(2, "tools/call", json!({ "name": "weather", "arguments": { "city": "oslo" } })),
        request(3, "ping", json!({})),
        request(4, "prompts/get", json!({ "name": "greet", "arguments": { "name": "Ada" } })),
    ]);
    assert_eq!(said.len(), 5);
    for message in &said {
        for key in ["resultType", "ttlMs", "cacheScope", "_meta"] {
            assert!(message["result"].get(key).is_none(), "{key} in {message}");
        }
    }
    assert_eq!(
        said[2]["result"]["structuredContent"],
        json!({ "city": "Oslo", "celsius": 3, "sky": "snow" })
    );
    assert!(said[4]["result"]["messages"][0]["content"]["text"].as_str().unwrap().contains("Ada"));
}

#[test]
fn the_oldest_revision_gets_batches_and_no_structure() {
    let said = transcript(&[
        initialize("2025-03-26", json!({})),
        json!([
            request(1, "tools/list", json!({})),
            request(2, "tools/call", json!({ "name": "weather", "arguments": { "city": "Oslo" } }))
        ]),
    ]);
    assert_eq!(said.len(), 3);
    assert!(said[1]["result"]["tools"][2].get("outputSchema").is_none());
    assert!(said[2]["result"].get("structuredContent").is_none());
    let refused = transcript(&[initialize("2025-06-18", json!({})), json!([request(1, "ping", json!({}))])]);
    assert_eq!(refused[1]["error"]["code"], -32600);
}

#[test]
fn errors_have_the_codes_of_their_era() {
    let legacy =
        |line: Value| transcript(&[initialize("2025-11-25", json!({})), line])[1]["error"]["code"].clone();
    let stateless = |line: Value| transcript(&[line])[0]["error"].clone();
    assert_eq!(legacy(request(1, "resources/read", json!({ "uri": "sample://none" }))), -32002);
    assert_eq!(legacy(request(1, "server/discover", json!({}))), -32601);
    assert_eq!(legacy(request(1, "tools/call", json!({ "name": "none" }))), -32602);
    assert_eq!(stateless(modern(1, "resources/read", json!({ "uri": "sample://none" })))["code"], -32602);
    for removed in ["initialize", "ping", "resources/subscribe", "logging/setLevel"] {
        assert_eq!(stateless(modern(1, removed, json!({})))["code"], -32601, "{removed}");
    }
    assert_eq!(stateless(request(1, "tools/list", json!({})))["code"], -32602);
    let bare = json!({ "_meta": { META_VERSION: MODERN } });
    assert_eq!(stateless(request(1, "tools/list", bare))["code"], -32602);
    let old = json!({ "_meta": { META_VERSION: "1900-01-01", META_CAPABILITIES: {} } });
    let refused = stateless(request(1, "tools/list", old));
    assert_eq!((&refused["code"], &refused["data"]["requested"]), (&json!(-32022), &json!("1900-01-01")));

    let said = raw(b"nonsense\n\n{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}\n\xff\n");
    assert_eq!(said.iter().map(|m| m["error"]["code"].clone()).collect::<Vec<_>>(), [-32700, -32600, -32700]);
    assert!(said.iter().all(|m| m.get("id").is_none()));
}

#[test]
fn a_wrong_argument_is_for_the_model_to_mend() {
    for (name, arguments) in
        [("add", json!({ "a": "x" })), ("weather", json!({})), ("book_table", json!({ "people": 99 }))]
    {
        let said = transcript(&[modern(1, "tools/call", json!({ "name": name, "arguments": arguments }))]);
        assert_eq!(said[0]["result"]["isError"], true, "{name}");
        assert_eq!(said[0]["result"]["resultType"], "complete", "{name}");
    }
}

#[test]
fn rates_changes_after_two_calls_and_says_so_once() {
    let said = transcript(&[
        initialize("2025-11-25", json!({})),
        request(1, "tools/list", json!({})),
        rates(2),
        request(3, "tools/list", json!({})),
        rates(4),
        request(5, "tools/list", json!({})),
        rates(6),
    ]);
    let before = description_of(&said[1], "rates");
    assert!(!before.contains("canary"));
    assert_eq!(description_of(&said[3], "rates"), before, "one call changes nothing");
    assert_eq!(said[4]["id"], 4, "the answer comes before the notice");
    assert_eq!(said[5], json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
    assert!(description_of(&said[6], "rates").contains("canary-drift"));
    assert_eq!(said.len(), 8);
}

#[test]
fn listeners_hear_of_changed_tools_until_they_stop() {
    let call = |id| modern(id, "tools/call", json!({ "name": "rates", "arguments": { "currency": "JPY" } }));
    let listen = |id, filter: Value| modern(id, "subscriptions/listen", json!({ "notifications": filter }));
    let said = transcript(&[
        listen(1, json!({ "toolsListChanged": true, "promptsListChanged": true })),
        listen(2, json!({ "promptsListChanged": true })),
        listen(3, json!({ "toolsListChanged": true })),
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 } }),
        call(4),
        call(5),
    ]);
    assert_eq!(
        said[0]["params"],
        json!({ "notifications": { "toolsListChanged": true }, "_meta": { META_SUBSCRIPTION: 1 } })
    );
    assert_eq!(said[1]["params"]["notifications"], json!({}));
    let notices: Vec<_> = said.iter().filter(|m| m["method"] == "notifications/tools/list_changed").collect();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0]["params"]["_meta"][META_SUBSCRIPTION], 1);
}

#[test]
fn a_legacy_booking_asks_and_waits() {
    let book = request(7, "tools/call", json!({ "name": "book_table", "arguments": { "people": 2 } }));
    let yes = json!({ "action": "accept", "content": { "confirm": true, "name": "Ada" } });
    let asked = [initialize("2025-11-25", json!({ "elicitation": {} })), book.clone()];
    let said = transcript(&asked);
    assert_eq!(said[1]["method"], "elicitation/create");
    assert_eq!(said.len(), 2, "no answer before the person's");

    let answer = |id: &str| json!({ "jsonrpc": "2.0", "id": id, "result": yes });
    let said = transcript(&[&asked[..], &[answer("other"), answer("sample-1"), answer("sample-1")]].concat());
    assert_eq!(said.len(), 3, "strangers' answers and second ones are ignored");
    assert_eq!(said[2]["id"], 7);
    assert_eq!(said[2]["result"]["content"][0]["text"], "The table is booked for Ada.");

    let cancelled =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 } });
    assert_eq!(transcript(&[&asked[..], &[cancelled, answer("sample-1")]].concat()).len(), 2);

    for (revision, capabilities) in [
        ("2025-11-25", json!({})),
        ("2025-11-25", json!({ "elicitation": { "url": {} } })),
        ("2025-03-26", json!({ "elicitation": {} })),
    ] {
        let said = transcript(&[initialize(revision, capabilities), book.clone()]);
        assert_eq!(said[1]["result"]["isError"], true, "{revision}");
    }
}

#[test]
fn a_modern_booking_takes_two_rounds() {
    let elicits = json!({ "elicitation": {} });
    let arguments = json!({ "people": 2 });
    let first = modern_with(
        1,
        "tools/call",
        elicits.clone(),
        json!({ "name": "book_table", "arguments": arguments }),
    );
    let said = transcript(&[first]);
    let result = &said[0]["result"];
    assert_eq!(result["resultType"], "input_required");
    assert_eq!(result["inputRequests"][BOOKING_QUESTION]["method"], "elicitation/create");
    assert!(result.get("ttlMs").is_none());

    let again = |state: &str, responses: Value| {
        let params = json!({ "name": "book_table", "arguments": arguments, "requestState": state, "inputResponses": responses });
        transcript(&[modern_with(2, "tools/call", elicits.clone(), params)])[0].clone()
    };
    let state = result["requestState"].as_str().unwrap();
    let yes = json!({ BOOKING_QUESTION: { "action": "accept", "content": { "confirm": true } } });
    assert_eq!(again(state, yes.clone())["result"]["content"][0]["text"], "The table is booked for guest.");
    assert_eq!(
        again(state, json!({ BOOKING_QUESTION: { "action": "decline" } }))["result"]["content"][0]["text"],
        "Nothing was booked."
    );
    assert_eq!(again(state, json!({ "other": {} }))["result"]["resultType"], "input_required", "asked again");
    assert_eq!(again("forged", yes)["error"]["code"], -32602);

    let undeclared = modern(1, "tools/call", json!({ "name": "book_table", "arguments": arguments }));
    let refused = transcript(&[undeclared])[0]["error"].clone();
    assert_eq!(refused["code"], -32021);
    assert_eq!(refused["data"]["requiredCapabilities"], json!({ "elicitation": { "form": {} } }));
}

#[test]
fn the_attacks_are_inert() {
    let said = transcript(&[
        initialize("2025-11-25", json!({})),
        request(1, "tools/list", json!({})),
        request(2, "tools/call", json!({ "name": "read_inbox" })),
    ]);
    assert!(description_of(&said[1], "daily_quote").contains("canary-poison"));
    assert!(said[2].to_string().contains("canary-inbox"));
    // No address that could be reached.
    assert!(said.iter().all(|m| !m.to_string().contains("://")
        || m.to_string().matches("://").count() == m.to_string().matches("sample://").count()));
}

#[test]
fn a_line_without_end_ends_the_service() {
    let endless = io::Cursor::new(vec![b' '; 5 << 20]);
    assert_eq!(serve(endless, io::sink()).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
