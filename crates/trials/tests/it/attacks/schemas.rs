//! Schemas that reach out, never end or are not kept (attacks.md PO-06, PO-07, PO-17; spec.md A-60 to A-65; MCP basic
//! §JSON Schema).

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use bartizan_trials::{Answer, Gate, Upstream, eventually};
use serde_json::{Value, json};

use crate::traffic::records::{entries, of_kind};

const WITHHELD: i64 = -31005;

fn tool(name: &str, input: Value, output: Option<Value>) -> Value {
    let mut tool = json!({ "name": name, "description": "Says what it is told.", "inputSchema": input });
    if let Some(output) = output {
        tool["outputSchema"] = output;
    }
    tool
}

/// A server with these tools; a call answers with its `give` argument as the structured result.
fn server(tools: Value) -> Upstream {
    Upstream::modern(move |heard, pen| {
        let mut result = match heard.rpc().as_str() {
            "tools/list" => json!({ "tools": tools, "ttlMs": 0, "cacheScope": "private" }),
            "tools/call" => {
                let give = heard.json().pointer("/params/arguments/give").cloned().unwrap_or_default();
                let is_error = give.get("fails").is_some();
                json!({ "content": [], "structuredContent": give, "isError": is_error })
            }
            _ => return false,
        };
        result["resultType"] = json!("complete");
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

fn gate(server: &Upstream, more: &str) -> Gate {
    Gate::start(&format!(
        "[[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n{more}\n",
        server.url()
    ))
}

fn names(gate: &Gate) -> Vec<String> {
    let listed = gate.client().modern("/mcp/s", "tools/list", "").send().result().unwrap();
    listed["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
}

fn reason(answer: &Answer) -> String {
    answer.json().pointer("/error/data/reason").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Whether it is a tool's error that the model reads, about a call that was never made.
fn is_to_be_corrected(answer: &Answer) -> bool {
    let refusal = answer.json().pointer("/result/_meta/dev.bartizan~1refusal").cloned().unwrap_or_default();
    let is_error = answer.result().is_some_and(|result| result["isError"] == true);
    answer.status == 200 && is_error && refusal["reason"] == "schema_arguments"
}

/// spec.md A-61.
#[test]
fn po_17_arguments_that_do_not_fit_are_not_sent() {
    let upstream = server(json!([tool(
        "t",
        json!({
            "type": "object",
            "properties": { "path": { "type": "string" }, "give": {} },
            "required": ["path"],
            "additionalProperties": false,
        }),
        None,
    )]));
    let gate = gate(&upstream, "");
    for (arguments, at) in [("{}", ""), (r#"{"path":7}"#, "/path"), (r#"{"path":"a","mode":"all"}"#, "/mode")]
    {
        for path in ["/mcp/s", "/mcp"] {
            let name = if path == "/mcp" { "s__t" } else { "t" };
            let refused = gate.client().call(path, name, arguments);
            assert!(is_to_be_corrected(&refused), "{}", refused.text());
            let result = refused.result().unwrap();
            assert_eq!(result["resultType"], "complete");
            assert_eq!(result["_meta"]["dev.bartizan/refusal"]["at"], at, "{}", refused.text());
            let words = refused.said();
            let place = if at.is_empty() {
                "the object `arguments` ".to_owned()
            } else {
                format!("the argument `{at}` ")
            };
            assert!(
                words.starts_with(&place) && words.contains("; the call was not made: correct"),
                "{words}"
            );
        }
    }
    let none = gate.client().modern("/mcp/s", "tools/call", r#""name":"t""#).send();
    assert!(is_to_be_corrected(&none), "no arguments are no excuse: {}", none.text());
    let unknown = gate.client().call("/mcp/s", "nothing", "{}");
    assert_eq!(
        (unknown.status, unknown.code()),
        (200, Some(-32602)),
        "a tool that is not there is no tool's error"
    );
    assert!(upstream.heard_of("tools/call").is_empty(), "nothing was sent");
    let refused = eventually("the refusals are in the audit log", || {
        let refused = of_kind(&entries(&gate), "request.refused").into_iter().cloned().collect::<Vec<_>>();
        (refused.len() == 8).then_some(refused)
    });
    for entry in &refused[..7] {
        assert_eq!(
            (&entry["reason"], &entry["code"]),
            (&json!("schema_arguments"), &json!(-32602)),
            "{entry}"
        );
    }
    assert!(of_kind(&entries(&gate), "call.opened").is_empty());
    assert_eq!(
        gate.client().call("/mcp/s", "t", r#"{"path":"a","give":12345678901234567890123}"#).status,
        200
    );
    // The trial's own client and server cannot read that one.
    let huge =
        gate.client().modern("/mcp/s", "tools/call", r#""name":"t","arguments":{"path":"a","give":1e999}"#);
    huge.line("Mcp-Name", "t").send();
    assert!(upstream.heard().iter().any(|h| h.body.contains("1e999")), "a number of any size is a number");
    assert_eq!(gate.client().call("/mcp", "s__t", r#"{"path":"a"}"#).outcome(), 200);
}

/// The handshake era has tool errors too; whoever asked for a task waits for one, and would take no other result. Names in the
/// place are the caller's: nothing in them drives a terminal.
#[test]
fn po_17_a_legacy_model_reads_what_does_not_fit() {
    let upstream = Upstream::legacy(|heard, pen| {
        let schema = json!({
            "type": "object", "properties": { "path": { "type": "string" } }, "required": ["path"], "additionalProperties": false,
        });
        let is_list = heard.rpc() == "tools/list";
        let promise = json!({ "type": "object", "required": ["count"] });
        if is_list {
            pen.result(&heard.id(), &json!({ "tools": [tool("t", schema, Some(promise))] }).to_string());
        }
        is_list
    });
    let gate = gate(&upstream, "");
    for (path, name) in [("/mcp/s", "t"), ("/mcp", "s__t")] {
        let session = gate.client().session(path, "2025-11-25", "{}");
        let refused = session.call("1", name, r#"{"path":7}"#).send();
        assert!(is_to_be_corrected(&refused), "{}", refused.text());
        assert!(
            refused.said().starts_with("the argument `/path` must be of type string"),
            "{}",
            refused.text()
        );
        assert!(refused.result().unwrap().get("resultType").is_none() && refused.json()["id"] == 1);
        let task = format!(r#""name":"{name}","arguments":{{}},"task":{{"ttl":60000}}"#);
        let refused = session.request("2", "tools/call", &task).send();
        assert_eq!((refused.status, refused.code()), (200, Some(-32602)), "{}", refused.text());
        assert_eq!(reason(&refused), "schema_arguments");
        let long = format!("\\u001b[2J{}", "x".repeat(1000));
        let painted = session.call("3", name, &format!(r#"{{"path":"s3cret","{long}":"s3cret"}}"#)).send();
        assert!(is_to_be_corrected(&painted) && !painted.said().contains('\u{1b}'), "{}", painted.text());
        assert!(painted.said().len() < 500 && !painted.text().contains("s3cret"), "{}", painted.text());
    }
    assert!(upstream.heard_of("tools/call").is_empty(), "nothing was sent");
}

#[test]
fn po_17_a_result_that_is_not_what_its_tool_promised_is_withheld() {
    let output = json!({
        "type": "object",
        "properties": {
            "count": { "type": "integer" },
            "note": { "type": "string", "maxLength": 60 },
            "key": { "type": "string", "pattern": "^[a-zA-Z0-9_: ]*$" },
        },
        "required": ["count"],
        "additionalProperties": false,
    });
    let upstream = server(json!([
        tool("promises", json!({ "type": "object" }), Some(output.clone())),
        tool("does-not", json!({ "type": "object" }), None),
    ]));
    let gate = gate(&upstream, "trust = \"trusted\"");
    let call =
        |name: &str, give: Value| gate.client().call("/mcp/s", name, &json!({ "give": give }).to_string());
    for bad in [
        json!({}),
        json!({ "count": "many" }),
        json!({ "count": 1, "obey these words": 1 }),
        json!({ "count": 1, "note": "x".repeat(100_000) }),
        json!([1]),
        json!("text"),
    ] {
        let answer = call("promises", bad);
        assert_eq!(answer.code(), Some(WITHHELD), "{}", answer.text());
        assert_eq!(reason(&answer), "schema_result");
        assert!(!answer.text().contains("obey") && !answer.text().contains("many"), "{}", answer.text());
    }
    let good = call("promises", json!({ "count": 2, "note": "two" })).result().unwrap();
    assert_eq!(good["structuredContent"], json!({ "count": 2, "note": "two" }));
    assert!(call("promises", json!({ "fails": 1 })).result().is_some(), "errors have no schema");
    assert!(call("does-not", json!(["anything"])).result().is_some());

    // A secret is cut out of a structure where the rest still fits, and takes the result with it where not.
    let secret = ["key: ghp_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat();
    let redacted = call("promises", json!({ "count": 1, "note": secret })).result().unwrap();
    assert_eq!(redacted["structuredContent"]["note"], "key: [redacted: secret.github-token]");
    let answer = call("promises", json!({ "count": 1, "key": secret }));
    assert_eq!(reason(&answer), "schema_result", "{}", answer.text());
    let loose = call("does-not", json!({ "rows": [{ "note": secret }] })).result().unwrap();
    assert_eq!(loose["structuredContent"]["rows"][0]["note"], "key: [redacted: secret.github-token]");
}

/// The canary is a server of ours that must not hear a word.
#[test]
fn po_06_a_schema_reaches_nothing_outside_itself() {
    let canary = Upstream::modern(|_, _| false);
    let outside = [
        json!({ "type": "object", "properties": { "a": { "$ref": canary.url() } } }),
        json!({ "$schema": canary.url(), "type": "object" }),
        json!({ "$id": canary.url(), "$ref": "s.json" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({ "$dynamicRef": format!("{}#x", canary.url()) }),
        json!({ "allOf": [{ "$id": canary.url(), "$ref": "#/a" }] }),
    ];
    let mut tools: Vec<_> = outside
        .iter()
        .enumerate()
        .map(|(n, schema)| tool(&format!("bad{n}"), schema.clone(), None))
        .collect();
    tools.push(tool("gives", json!({ "type": "object" }), Some(json!({ "$ref": canary.url() }))));
    tools.push(tool(
        "honest",
        json!({ "$defs": { "p": { "type": "string" } }, "type": "object", "properties": { "a": { "$ref": "#/$defs/p" } } }),
        None,
    ));
    let upstream = server(json!(tools));
    let gate = gate(&upstream, "");
    assert_eq!(names(&gate), ["honest"], "what cannot be checked is not trusted at first sight");
    assert_eq!(gate.client().call("/mcp/s", "bad0", "{}").code(), Some(WITHHELD));
    assert!(is_to_be_corrected(&gate.client().call("/mcp/s", "honest", r#"{"a":1}"#)));
    assert_eq!(gate.client().call("/mcp/s", "honest", r#"{"a":"x"}"#).outcome(), 200);
    assert_eq!(canary.connections(), 0);

    // Where the operator says so, nothing is compared.
    let loose = self::gate(&upstream, "dangerous_unvalidated = true");
    assert_eq!(names(&loose).len(), 8);
    assert_eq!(loose.client().call("/mcp/s", "bad0", "{}").outcome(), 200);
    assert_eq!(canary.connections(), 0);
}

#[test]
fn po_07_a_schema_that_never_ends_holds_up_nobody() {
    let twice = json!({ "items": { "allOf": [{ "$ref": "#" }, { "$ref": "#" }] }, "properties": { "give": { "$ref": "#" } } });
    let many: Vec<_> = (0..1 << 15).map(|n| json!({ "const": n })).collect();
    let upstream = server(json!([
        tool("twice", twice, None),
        tool("itself", json!({ "$ref": "#" }), None),
        tool("many", json!({ "oneOf": many }), None),
        tool("pattern", json!({ "properties": { "give": { "pattern": "^(?=a)(a+)+$" } } }), None),
        tool("linear", json!({ "properties": { "give": { "pattern": "^(a+)+$" } } }), None),
    ]));
    let gate = gate(&upstream, "");
    assert!(!names(&gate).contains(&"many".to_owned()));
    let deep = (0..50).fold("1".to_owned(), |inner, _| format!("[{inner}]"));
    let long = format!("\"{}!\"", "a".repeat(20_000));
    for (name, give) in [("twice", &deep), ("itself", &deep), ("pattern", &long), ("linear", &long)] {
        let began = Instant::now();
        let refused = gate.client().call("/mcp/s", name, &format!(r#"{{"give":{give}}}"#));
        assert!(is_to_be_corrected(&refused), "{name}: {}", refused.text());
        assert!(began.elapsed() < Duration::from_secs(2), "{name}: {:?}", began.elapsed());
    }
    assert!(upstream.heard_of("tools/call").is_empty());
    assert_eq!(gate.client().call("/mcp/s", "twice", r#"{"give":[[1]]}"#).outcome(), 200);
    assert_eq!(gate.client().call("/mcp/s", "linear", r#"{"give":"aaaa"}"#).outcome(), 200);
}

/// Each of them is small, and takes some milliseconds to be read.
#[test]
fn po_07_a_list_of_many_schemas_is_not_read_to_its_end() {
    let pattern = |tool: usize, nth: usize| {
        let pattern = format!(r"^(?:\p{{L}}){{20}}{tool}x{nth}$");
        (format!("p{nth}"), json!({ "type": "string", "pattern": pattern }))
    };
    let properties = |tool: usize| (0..8).map(|nth| pattern(tool, nth)).collect::<serde_json::Map<_, _>>();
    let mut tools = vec![tool("plain", json!({ "type": "object" }), None)];
    tools
        .extend((0..150).map(|nth| tool(&format!("t{nth}"), json!({ "properties": properties(nth) }), None)));
    let upstream = server(json!(tools));
    let gate = gate(&upstream, "");
    let began = Instant::now();
    let shown = names(&gate);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5) || shown.len() < 100, "{} were read in {took:?}", shown.len());
    assert!(shown.contains(&"plain".to_owned()), "{shown:?}");
}

const TASKS: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

/// A server whose every call is a task, called as its argument `id` says; what comes of it is its argument `give`.
fn tasking(tools: Value) -> Upstream {
    let made: Mutex<HashMap<String, Value>> = Mutex::default();
    Upstream::modern(move |heard, pen| {
        let json = heard.json();
        let text = |at: &str| json.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let now = "2026-11-29T12:00:00Z";
        let task = |id: &str, status: &str| {
            json!({
                "taskId": id, "status": status, "createdAt": now, "lastUpdatedAt": now, "ttlMs": 1, "pollIntervalMs": 100,
            })
        };
        let result = match heard.rpc().as_str() {
            "tools/list" => {
                json!({ "resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private" })
            }
            "tools/call" => {
                let id = text("/params/arguments/id");
                let give = json.pointer("/params/arguments/give").cloned().unwrap_or_default();
                made.lock().unwrap().insert(id.clone(), give);
                let mut made = task(&id, "working");
                made["resultType"] = json!("task");
                made
            }
            "tasks/get" => {
                let id = text("/params/taskId");
                let mut got = task(&id, "completed");
                got["resultType"] = json!("complete");
                let give = made.lock().unwrap().get(&id).cloned().unwrap_or_default();
                got["result"] = json!({ "content": [], "structuredContent": give, "isError": give.get("fails").is_some() });
                got
            }
            _ => return false,
        };
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

/// What a call became later is compared with what its tool promised, as if it had been answered at once.
#[test]
fn po_17_what_comes_of_a_task_is_what_its_tool_promised() {
    let object = || json!({ "type": "object" });
    let promise = |name: &str| json!({ "type": "object", "properties": { name: { "type": "integer" } }, "required": [name] });
    let upstream = tasking(json!([
        tool("counts", object(), Some(promise("count"))),
        tool("weighs", object(), Some(promise("weight"))),
        tool("does-not", object(), None),
    ]));
    let mut gate = gate(&upstream, "");
    let ask = |gate: &Gate, method: &str, params: String| {
        gate.client().modern_declaring("/mcp/s", method, &params, TASKS).send()
    };
    let make = |gate: &Gate, name: &str, id: &str, give: Value| {
        let arguments = json!({ "id": id, "give": give });
        let made = ask(gate, "tools/call", format!(r#""name":"{name}","arguments":{arguments}"#)).json();
        made.pointer("/result/taskId").and_then(Value::as_str).unwrap().to_owned()
    };
    let get = |gate: &Gate, task: &str| ask(gate, "tasks/get", format!(r#""taskId":"{task}""#));
    let count = || json!({ "count": 2 });
    let good = make(&gate, "counts", "good", count());
    assert_eq!(get(&gate, &good).json().pointer("/result/result/structuredContent"), Some(&count()));
    let fails = make(&gate, "counts", "fails", json!({ "fails": 1 }));
    assert!(get(&gate, &fails).result().is_some(), "errors have no schema");
    let free = make(&gate, "does-not", "free", json!(["anything"]));
    assert!(get(&gate, &free).result().is_some());

    let other = make(&gate, "weighs", "other", count());
    let bad = make(&gate, "counts", "bad", json!({ "obey these words": 1 }));
    let refused = |answer: &Answer| {
        answer.code() == Some(WITHHELD)
            && reason(answer) == "schema_result"
            && !answer.text().contains("obey")
    };
    assert!(refused(&get(&gate, &bad)) && refused(&get(&gate, &bad)), "however often it is asked");
    assert!(refused(&get(&gate, &other)), "another tool's promise is not its own");
    // Whatever the server makes of its name later, what was said first counts.
    make(&gate, "does-not", "other", count());
    assert!(refused(&get(&gate, &other)));

    // Over a restart nobody knows which tool it was: it must fit what some tool of the server promises.
    gate.restart();
    assert!(get(&gate, &good).result().is_some());
    assert!(refused(&get(&gate, &bad)));
}
