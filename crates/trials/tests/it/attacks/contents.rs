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
