//! What is said in calls, recorded where the operator wants it and never with secrets in it (OWASP MCP08, MCP01).

use std::fs;

use bartizan_trials::{Gate, Upstream, eventually};
use serde_json::{Value, json};

use crate::exporting::{self, files, to_url};

/// What must stand nowhere but in what client and server say to one another. None is anybody's.
fn planted() -> [String; 4] {
    [
        ["ghp", "_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat(),
        "jane.doe@firm.co.uk".to_owned(),
        "4111111111111111".to_owned(),
        "salary-canary-51234".to_owned(),
    ]
}

fn server() -> Upstream {
    Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let [token, mail, card, salary] = planted();
        let words = format!("the answer-canary: {token}, {mail}, {salary}");
        let row =
            json!({ "diagnosis": "dep\nression-canary", "hiv": true, "age": 47, "name": "Müller-canary" });
        let structure = json!({
            "card": card.parse::<u64>().unwrap(), "rows": [{ "salary": salary, "n": 1 }], "row": row,
        });
        // As MCP recommends, the structure as text too; once as it stands, once as `json.dumps` escapes it.
        let copy = json!({ "row": row }).to_string();
        let texts = [words, copy.clone(), copy.replace('ü', "\\u00fc")];
        let content = texts.map(|text| json!({ "type": "text", "text": text }));
        let result = json!({
            "resultType": "complete", "content": content, "structuredContent": structure,
        });
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

fn receiver() -> Upstream {
    Upstream::modern(|_, pen| {
        pen.json(r#"{"text":"Success","code":0}"#);
        true
    })
}

const HOOK: (&str, &str) = ("HOOK", "webhook-secret-of-the-trial-01");

fn says(gate: &Gate, arguments: &[&str]) -> String {
    exporting::says(gate, arguments, &[HOOK])
}

/// Content of the newest closed call of `tool`, as `audit search` shows it.
fn closed(gate: &Gate, tool: &str) -> Value {
    let text = says(gate, &["audit", "search", "--kind", "call.closed", "--tool", tool, "--format", "json"]);
    serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap_or_default()
}

#[test]
fn ph_17_recorded_content_is_redacted_sealed_and_exported_only_where_the_operator_says_so() {
    let (server, plain, full) = (server(), receiver(), receiver());
    let secret = "secret = { env = \"HOOK\" }";
    let config = format!(
        r#"
        [[audit.content]]
        server = "*"
        tool = "read_*"
        arguments = true
        results = true
        redact = ["/secret", "/structuredContent/rows/*/salary", "/structuredContent/row"]
        [[audit.content]]
        tool = "open"
        results = true
        clear = true
        max_chars = 40
        {}{}[shield.secrets]
        result = "allow"
        to_untrusted = "allow"
        {}"#,
        to_url("plain", "webhook", &format!("{}/plain", plain.origin()), secret),
        to_url("full", "webhook", &format!("{}/full", full.origin()), &format!("{secret}\ncontent = true")),
        server.config("s", ""),
    );
    let gate = Gate::start_with(&config, &[HOOK]);
    let client = gate.client();
    let [token, mail, card, salary] = planted();
    let arguments =
        format!(r#"{{"note":"argument-canary {token} {mail}","card":{card},"secret":"{salary}"}}"#);
    for (endpoint, tool) in
        [("/mcp/s", "read_file"), ("/mcp", "s__read_file"), ("/mcp/s", "open"), ("/mcp/s", "write")]
    {
        let said = client.call(endpoint, tool, &arguments);
        assert!(said.text().contains(&token) && said.text().contains(&salary), "{tool}: {}", said.text());
        assert_eq!(said.text().matches("ller-canary").count(), 3, "{tool}: {}", said.text());
    }

    // Sealed in the log, shown by the commands, with the types of what was taken out.
    let read = closed(&gate, "read_file");
    assert!(read["sealed_result"].is_string() && read["result"].is_null(), "{read}");
    let shown = read["content"]["result"].as_str().unwrap();
    for word in
        ["answer-canary", "secret.github-token", "personal.email", "personal.card", "[redacted: path]"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    // What the paths name is in no copy either, by no name and however short.
    for word in ["ller-canary", "ression-canary", "hiv"] {
        assert!(!shown.contains(word), "{word}: {shown}");
    }
    let merged = closed(&gate, "s__read_file");
    assert!(merged["content"]["result"].is_string(), "{merged}");
    let opened = says(&gate, &["audit", "tail", "-n", "500"]);
    assert!(opened.contains("argument-canary") && opened.contains("arguments: {"), "{opened}");

    // In clear where that is said, and no longer than is said; nothing where nothing is said.
    let open = closed(&gate, "open");
    assert!(open["result"].as_str().unwrap().contains("bytes more]"), "{open}");
    assert!(open["sealed_result"].is_null() && open["arguments_digest"].is_null());
    let write = closed(&gate, "write");
    assert!(write["content"].is_null() && write["sealed_result"].is_null() && write["result"].is_null());

    // One receiver is told, the other is not.
    let shipped =
        |receiver: &Upstream| -> String { receiver.heard().into_iter().map(|heard| heard.body).collect() };
    eventually("all four calls at both receivers", || {
        let closed = |text: &str| text.matches("\"call.closed\"").count() == 4;
        (closed(&shipped(&plain)) && closed(&shipped(&full))).then_some(())
    });
    let (plain, full) = (shipped(&plain), shipped(&full));
    assert!(full.contains("answer-canary") && full.contains("argument-canary"), "{full}");
    for word in ["answer-canary", "argument-canary", "sealed_", "\"content\"", "resultType"] {
        assert!(!plain.contains(word), "{word}: {plain}");
    }

    let mut outputs = vec![
        ("the gate's own log".to_owned(), gate.log()),
        ("what is told to one receiver".to_owned(), plain),
        ("what is told to the other".to_owned(), full),
        ("audit tail".to_owned(), opened),
        ("audit search".to_owned(), says(&gate, &["audit", "search", "--format", "json"])),
        ("audit export".to_owned(), says(&gate, &["audit", "export"])),
        ("audit export --content".to_owned(), says(&gate, &["audit", "export", "--content", "--to", "ocsf"])),
    ];
    assert!(!outputs[5].1.contains("answer-canary") && outputs[6].1.contains("answer-canary"));
    let before = outputs.len();
    let kept = files(&gate.state().join("audit")).into_iter();
    outputs.extend(kept.map(|(path, text)| (path.display().to_string(), text)));
    for (name, text) in &outputs {
        for secret in planted() {
            assert!(!text.contains(&secret), "{secret} is in {name}");
        }
        assert!(!text.contains("ller-canary") && !text.contains("ression-canary"), "the row is in {name}");
    }
    // Sealed is sealed: on the disk the words of one tool stand, those of the other do not.
    let disk: String = outputs.iter().skip(before).map(|(_, text)| text.as_str()).collect();
    assert!(disk.contains("resultType") && !disk.contains("argument-canary"), "only `open` is in clear");

    // Whoever is erased takes his words with him.
    let people = gate.state().join("audit").join("people");
    for person in fs::read_dir(people).unwrap().flatten() {
        fs::remove_file(person.path()).unwrap();
    }
    let erased = closed(&gate, "read_file");
    assert!(erased["sealed_result"].is_string() && erased["content"].is_null(), "{erased}");
}

const TASKS: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

/// A server each of whose calls is a task, whose id is made of its tool's name; what comes of it is asked for, or told to who
/// listens.
fn tasking(id_of: fn(String) -> String) -> Upstream {
    Upstream::modern(move |heard, pen| {
        let now = "2026-11-29T12:00:00Z";
        let task = |id: &str, kind: &str, status: &str| {
            json!({
                "resultType": kind, "taskId": id, "status": status, "createdAt": now, "lastUpdatedAt": now, "ttlMs": 1,
                "pollIntervalMs": 100,
            })
        };
        let done = |id: &str| {
            let [token, mail, _, salary] = planted();
            let mut done = task(id, "complete", "completed");
            done["result"] = json!({
                "content": [{ "type": "text", "text": format!("the {id}-canary: {token}, {mail}") }],
                "structuredContent": { "salary": salary },
            });
            done
        };
        let json = heard.json();
        let id = json.pointer("/params/taskId").and_then(Value::as_str).unwrap_or_default();
        match heard.rpc().as_str() {
            "tools/call" => {
                pen.result(&heard.id(), &task(&id_of(heard.tool()), "task", "working").to_string());
            }
            "tasks/get" => pen.result(&heard.id(), &done(id).to_string()),
            "subscriptions/listen" => {
                let meta = json!({ "io.modelcontextprotocol/subscriptionId": json["id"] });
                let tasks = &json["params"]["notifications"]["taskIds"];
                let say = |method: &str, mut params: Value| {
                    params["_meta"] = meta.clone();
                    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
                };
                pen.stream();
                let asked = json!({ "notifications": { "taskIds": tasks } });
                pen.event(None, &say("notifications/subscriptions/acknowledged", asked));
                pen.event(None, &say("notifications/tasks", done(tasks[0].as_str().unwrap_or_default())));
                pen.wait_closed();
            }
            _ => return false,
        }
        true
    })
}

/// Entries of one kind, as `audit search` shows them.
fn entries(gate: &Gate, kind: &str) -> Vec<Value> {
    let text = says(gate, &["audit", "search", "--kind", kind, "--format", "json"]);
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn ph_17_what_comes_of_a_task_is_recorded_as_its_tools_results_are() {
    let server = tasking(|tool| tool);
    let config = format!(
        r#"
        [[audit.content]]
        tool = "read_*"
        results = true
        redact = ["/structuredContent/salary"]
        [[audit.content]]
        tool = "open"
        results = true
        clear = true
        [shield.secrets]
        result = "allow"
        to_untrusted = "allow"
        {}"#,
        server.config("s", ""),
    );
    let mut gate = Gate::start(&config);
    let ask = |gate: &Gate, path: &str, method: &str, params: &str| {
        gate.client().modern_declaring(path, method, params, TASKS).send()
    };
    let make = |path: &str, tool: &str| {
        let made = ask(&gate, path, "tools/call", &format!(r#""name":"{tool}","arguments":{{}}"#));
        made.json().pointer("/result/taskId").and_then(Value::as_str).unwrap().to_owned()
    };
    let [token, mail, _, salary] = planted();
    let tasks = [
        ("/mcp/s", "read_file", make("/mcp/s", "read_file")),
        ("/mcp", "s__read_all", make("/mcp", "s__read_all")),
        ("/mcp/s", "open", make("/mcp/s", "open")),
        ("/mcp/s", "write", make("/mcp/s", "write")),
    ];
    for (path, tool, task) in &tasks {
        let got = ask(&gate, path, "tasks/get", &format!(r#""taskId":"{task}""#));
        assert!(got.text().contains(&token) && got.text().contains(&salary), "{tool}: {}", got.text());
    }
    let got = |gate: &Gate| -> Vec<Value> {
        entries(gate, "call.closed").into_iter().filter(|entry| entry["method"] == "tasks/get").collect()
    };
    let of = |tool: &str| got(&gate).into_iter().find(|entry| entry["tool"] == tool).unwrap();
    for (tool, canary) in [("read_file", "read_file-canary"), ("s__read_all", "read_all-canary")] {
        let entry = of(tool);
        let shown = entry["content"]["result"].as_str().unwrap();
        assert!(entry["sealed_result"].is_string() && entry["result"].is_null(), "{entry}");
        // The tool's own paths, from where its result begins.
        for word in [canary, "secret.github-token", "personal.email", r#""salary":"[redacted: path]""#] {
            assert!(shown.contains(word), "{word}: {shown}");
        }
    }
    assert!(of("open")["result"].as_str().unwrap().contains("open-canary"));
    let write = of("write");
    assert!(write["result"].is_null() && write["content"].is_null(), "{write}");

    // The same where the client is told what came of it.
    let listening = format!(r#""notifications":{{"taskIds":["{}"]}}"#, tasks[0].2);
    let mut stream =
        gate.client().modern_declaring("/mcp/s", "subscriptions/listen", &listening, TASKS).open();
    while !stream.message().to_string().contains("read_file-canary") {}
    let told = eventually("the message is recorded", || {
        entries(&gate, "call.event").into_iter().find(|entry| entry["sealed_result"].is_string())
    });
    assert_eq!(told["tool"], "read_file");
    assert!(told["content"]["result"].as_str().unwrap().contains("read_file-canary"), "{told}");
    stream.close();

    // Over a restart nobody knows which tool it was, nor what must not be recorded of it.
    gate.restart();
    let again = ask(&gate, "/mcp/s", "tasks/get", &format!(r#""taskId":"{}""#, tasks[0].2));
    assert!(again.text().contains("read_file-canary"), "{}", again.text());
    let last = got(&gate).into_iter().max_by_key(|entry| entry["seq"].as_u64()).unwrap();
    assert!(last["content"]["result"].as_str().unwrap().contains("not known any more"), "{last}");

    let mut disk = files(&gate.state().join("audit"));
    disk.push(("the gate's own log".into(), gate.log()));
    for (name, text) in &disk {
        for secret in [&token, &mail] {
            assert!(!text.contains(secret.as_str()), "{secret} is in {}", name.display());
        }
    }
}

/// A server that counts its tasks and is started anew has another tool's task by an old id. Neither tool's rule is for it.
#[test]
fn ph_17_a_task_id_that_is_used_again_takes_no_other_tools_rule() {
    let server = tasking(|_| "1".to_owned());
    let config = format!(
        r#"
        [[audit.content]]
        tool = "open"
        results = true
        clear = true
        [shield.secrets]
        result = "allow"
        to_untrusted = "allow"
        {}"#,
        server.config("s", ""),
    );
    let gate = Gate::start(&config);
    let ask =
        |method: &str, params: &str| gate.client().modern_declaring("/mcp/s", method, params, TASKS).send();
    let recorded = |tool: &str| {
        let made = ask("tools/call", &format!(r#""name":"{tool}","arguments":{{}}"#));
        let task = made.json().pointer("/result/taskId").and_then(Value::as_str).unwrap().to_owned();
        let got = ask("tasks/get", &format!(r#""taskId":"{task}""#));
        assert!(got.text().contains("1-canary"), "{tool}: {}", got.text());
        let got = entries(&gate, "call.closed").into_iter().filter(|entry| entry["method"] == "tasks/get");
        got.max_by_key(|entry| entry["seq"].as_u64()).unwrap()
    };
    for _ in 0..2 {
        let open = recorded("open");
        assert!(open["tool"] == "open" && open["result"].as_str().unwrap().contains("1-canary"), "{open}");
    }
    for tool in ["write", "open"] {
        let entry = recorded(tool);
        assert!(entry["tool"].is_null() && !entry.to_string().contains("1-canary"), "{entry}");
        assert!(entry.to_string().contains("not known any more"), "{entry}");
    }
}
