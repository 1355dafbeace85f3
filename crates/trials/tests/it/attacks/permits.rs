//! What a caller may do: least privilege by policy, and information that must not flow (attacks.md EP, II-14).

use std::fs;

use bartizan_trials::{Browser, Gate, Upstream, eventually, field};
use serde_json::{Value, json};

const FORBIDDEN: i64 = -31003;

fn tool(name: &str, properties: Value) -> Value {
    json!({ "name": name, "description": format!("The tool {name}."),
            "inputSchema": { "type": "object", "properties": properties } })
}

fn server(tools: Value) -> Upstream {
    Upstream::modern(move |heard, pen| {
        match heard.rpc().as_str() {
            "tools/list" => {
                let result =
                    json!({ "resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private" });
                pen.result(&heard.id(), &result.to_string());
            }
            "tools/call" => {
                let said =
                    json!({ "resultType": "complete", "content": [{ "type": "text", "text": "done" }] });
                pen.result(&heard.id(), &said.to_string());
            }
            _ => return false,
        }
        true
    })
}

fn config(name: &str, server: &Upstream, more: &str) -> String {
    format!("[[servers]]\nname = \"{name}\"\nurl = \"{}\"\ntrust_on_first_use = true\n{more}\n", server.url())
}

fn names(gate: &Gate, path: &str) -> Vec<String> {
    let listed = gate.client().modern(path, "tools/list", "").send();
    let tools = listed.result().unwrap_or_else(|| panic!("{}", listed.text()))["tools"].clone();
    tools.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
}

/// A gate with these policies in its folder `policies`.
fn governed(policies: &str, config: &str) -> Gate {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.cedar"), policies).unwrap();
    let gate = Gate::start(&format!("[policy]\ndir = {:?}\n{config}", folder.path()));
    // The gate has read them.
    drop(folder);
    gate
}

#[test]
fn ep_01_what_a_policy_forbids_is_neither_shown_nor_called() {
    let upstream = server(json!([tool("read", json!({})), tool("delete", json!({}))]));
    let gate = governed(
        r#"@id("no-delete") forbid (principal, action in Action::"call", resource == Tool::"s/delete");"#,
        &config("s", &upstream, ""),
    );
    // Policies on tools that are not pinned yet wait until they are.
    eventually("the policy to hold", || (names(&gate, "/mcp/s") == ["read"]).then_some(()));
    let hidden = gate.client().call("/mcp/s", "delete", "{}");
    let unknown = gate.client().call("/mcp/s", "nothing", "{}");
    assert_eq!((hidden.status, hidden.error()), (unknown.status, unknown.error()), "{}", hidden.text());
    assert!(upstream.heard_of("tools/call").is_empty());
    assert_eq!(gate.client().call("/mcp/s", "read", "{}").said(), "done");
}

#[test]
fn ep_04_a_path_has_one_reading_or_none() {
    let upstream = server(json!([tool("read", json!({ "path": { "type": "string" } }))]));
    let gate = governed(
        r#"@id("docs-only") forbid (principal, action == Action::"call:s.read", resource)
           unless { context.paths has path && context.paths.path.ancestors.contains("/srv/docs") };"#,
        &config("s", &upstream, ""),
    );
    assert_eq!(names(&gate, "/mcp/s"), ["read"]);
    let read = |path: &str| gate.client().call("/mcp/s", "read", &json!({ "path": path }).to_string());
    eventually("the policy to hold", || (read("/etc/passwd").code() == Some(FORBIDDEN)).then_some(()));
    for bad in [
        "/srv/docs/../../etc/passwd",
        "/srv/docs/%2e%2e/secret",
        "/srv/docsx/a",
        "srv/docs/a",
        "/srv/docs\\..\\x",
        "/etc/shadow",
    ] {
        assert_eq!(read(bad).code(), Some(FORBIDDEN), "{bad}: {}", read(bad).text());
    }
    assert!(upstream.heard_of("tools/call").is_empty());
    assert_eq!(read("/srv/docs/a.txt").said(), "done");
}

/// An injected page cannot make an honest client send a private file out, though each call alone is allowed.
#[test]
fn ii_14_untrusted_text_and_private_data_do_not_go_out_together() {
    let (web, files, mail) = (
        server(json!([tool("fetch", json!({}))])),
        server(json!([tool("open", json!({}))])),
        server(json!([tool("send", json!({}))])),
    );
    let labels = "[policy.tools.web.fetch]\nflow = { sees_untrusted = true }\n\
                  [policy.tools.mail.send]\nflow = { sends_out = true }\n";
    let gate = Gate::start(&format!(
        "{labels}{}{}{}",
        config("web", &web, ""),
        config("files", &files, "trust = \"internal\""),
        config("mail", &mail, ""),
    ));
    for server in ["web", "files", "mail"] {
        assert_eq!(names(&gate, &format!("/mcp/{server}")).len(), 1);
    }
    let call = |server: &str, tool: &str| gate.client().call(&format!("/mcp/{server}"), tool, "{}");
    assert_eq!(call("mail", "send").said(), "done", "before anything entered");
    assert_eq!(call("web", "fetch").said(), "done");
    assert_eq!(call("mail", "send").said(), "done", "untrusted text alone");
    assert_eq!(call("files", "open").said(), "done");
    let sent = mail.heard_of("tools/call").len();
    let blocked = call("mail", "send");
    assert_eq!((blocked.status, blocked.code()), (200, Some(FORBIDDEN)), "{}", blocked.text());
    assert!(
        blocked.error().contains("`fetch` of `web`") && blocked.error().contains("`open` of `files`"),
        "{}",
        blocked.error()
    );
    let merged = gate.client().call("/mcp", "mail__send", "{}");
    assert_eq!(merged.code(), Some(FORBIDDEN), "nor by the merged endpoint: {}", merged.text());
    assert_eq!(mail.heard_of("tools/call").len(), sent, "nothing went out");
    for (method, parameters) in [
        ("resources/read", r#""uri":"https://mail.example/?q=private""#),
        (
            "completion/complete",
            r#""ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"private"}"#,
        ),
    ] {
        // `web` is untrusted as a whole: whatever is asked of it goes out.
        let refused = gate.client().modern("/mcp/web", method, parameters).send();
        assert_eq!(refused.code(), Some(FORBIDDEN), "{method}: {}", refused.text());
        assert!(web.heard_of(method).is_empty(), "{method}");
    }
    assert_eq!(call("web", "fetch").said(), "done", "what sends nothing goes on");
    // The caller may say himself that he means it: that one call, once.
    let id = blocked.json()["error"]["data"]["approval"]["id"].as_str().unwrap().to_owned();
    let granted = std::process::Command::new(bartizan_trials::binary())
        .args(["tools", "approvals", "grant", &id, "--yes", "--config"])
        .arg(gate.folder().join("bartizan.toml"))
        .output()
        .unwrap();
    assert!(granted.status.success(), "{granted:?}");
    assert_eq!(call("mail", "send").said(), "done");
    assert_eq!(call("mail", "send").code(), Some(FORBIDDEN));
}

/// What entered from a server that is there no more is in the window all the same.
#[test]
fn ii_14_what_a_server_brought_that_is_gone_does_not_go_out() {
    let (web, files, mail) = (
        server(json!([tool("fetch", json!({}))])),
        server(json!([tool("open", json!({}))])),
        server(json!([tool("send", json!({}))])),
    );
    let labels = "[policy.tools.web.fetch]\nflow = { sees_untrusted = true }\n\
                  [policy.tools.mail.send]\nflow = { sends_out = true }\n";
    let (web_and_mail, all) = (
        format!("{labels}{}{}", config("web", &web, ""), config("mail", &mail, "")),
        config("files", &files, "trust = \"internal\""),
    );
    let gate = Gate::start(&format!("{web_and_mail}{all}"));
    for server in ["web", "files", "mail"] {
        assert_eq!(names(&gate, &format!("/mcp/{server}")).len(), 1);
    }
    let call = |server: &str, tool: &str| gate.client().call(&format!("/mcp/{server}"), tool, "{}");
    assert_eq!(call("web", "fetch").said(), "done");
    assert_eq!(call("files", "open").said(), "done");
    gate.reconfigure(&web_and_mail);
    assert_eq!(call("files", "open").status, 404, "it is gone");
    let blocked = call("mail", "send");
    assert_eq!((blocked.status, blocked.code()), (200, Some(FORBIDDEN)), "{}", blocked.text());
    assert_eq!(call("web", "fetch").said(), "done", "what sends nothing goes on");
    assert!(mail.heard_of("tools/call").is_empty());
}

/// What comes of a task is what its tool brings, whoever asks for it and however; and whoever may not ask about tasks does not
/// hear of them by listening.
#[test]
fn ii_14_what_comes_of_a_task_enters_the_window_as_its_tools_results_do() {
    let up = Upstream::modern(|heard, pen| {
        let json = heard.json();
        let task = |kind: &str| {
            let now = "2026-11-29T12:00:00Z";
            json!({ "resultType": kind, "taskId": "t", "status": "completed", "createdAt": now, "lastUpdatedAt": now,
                    "ttlMs": 60000, "result": { "content": [] } })
        };
        match heard.rpc().as_str() {
            "tools/list" => {
                let result = json!({ "resultType": "complete", "tools": [tool("open", json!({}))], "ttlMs": 0, "cacheScope": "private" });
                pen.result(&heard.id(), &result.to_string());
            }
            "tools/call" => pen.result(&heard.id(), &task("task").to_string()),
            "tasks/get" => pen.result(&heard.id(), &task("complete").to_string()),
            "subscriptions/listen" => {
                let meta = json!({ "io.modelcontextprotocol/subscriptionId": json["id"] });
                let params = json!({ "_meta": meta, "notifications": json["params"]["notifications"] });
                let method = "notifications/subscriptions/acknowledged";
                pen.stream();
                pen.event(None, &json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string());
                pen.wait_closed();
            }
            _ => return false,
        }
        true
    });
    let declared = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let ask = |gate: &Gate, method: &str, params: &str| {
        gate.client().modern_declaring("/mcp/s", method, params, declared)
    };
    let make = |gate: &Gate| {
        assert_eq!(names(gate, "/mcp/s"), ["open"]);
        let made = ask(gate, "tools/call", r#""name":"open","arguments":{}"#).send();
        made.result().unwrap_or_else(|| panic!("{}", made.text()))["taskId"].as_str().unwrap().to_owned()
    };
    let listening = |task: &str| format!(r#""notifications":{{"taskIds":["{task}"]}}"#);
    let flow = |gate: &Gate, arguments: &[&str]| {
        let done = std::process::Command::new(bartizan_trials::binary())
            .args(["policy", "flow"])
            .args(arguments)
            .arg("--config")
            .arg(gate.folder().join("bartizan.toml"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
    };
    let mut gate = Gate::start(&format!(
        "[policy.tools.s.open]\nflow = {{ reads_private = true }}\n{}",
        config("s", &up, "trust = \"trusted\"")
    ));
    let task = make(&gate);
    let forget = |gate: &Gate| {
        flow(gate, &["reset", "--yes"]);
        assert!(!flow(gate, &["show"]).contains("private"));
    };
    for is_remembered in [true, false] {
        if !is_remembered {
            gate.restart();
        }
        forget(&gate);
        assert_eq!(ask(&gate, "tasks/get", &format!(r#""taskId":"{task}""#)).send().outcome(), 200);
        assert!(flow(&gate, &["show"]).contains("private"), "{is_remembered}: {}", flow(&gate, &["show"]));
        forget(&gate);
        let mut stream = ask(&gate, "subscriptions/listen", &listening(&task)).open();
        stream.message();
        assert!(flow(&gate, &["show"]).contains("private"), "{is_remembered}: {}", flow(&gate, &["show"]));
        stream.close();
    }

    let gate = governed(
        r#"@id("no-tasks") forbid (principal, action == Action::"task", resource);"#,
        &config("s", &up, "trust = \"trusted\""),
    );
    let task = make(&gate);
    for (method, params) in
        [("tasks/get", format!(r#""taskId":"{task}""#)), ("subscriptions/listen", listening(&task))]
    {
        let refused = ask(&gate, method, &params).send();
        assert_eq!(refused.code(), Some(FORBIDDEN), "{method}: {}", refused.text());
    }
    let mut stream =
        ask(&gate, "subscriptions/listen", r#""notifications":{"toolsListChanged":true}"#).open();
    assert_eq!(stream.message()["method"], "notifications/subscriptions/acknowledged");
    stream.close();
}

/// What is written down is checked against what is approved, and a gate with bad policies does not start.
#[test]
fn ep_04_policies_are_checked_against_the_tools_that_are_approved() {
    let upstream = server(json!([tool("read", json!({ "path": { "type": "string" } }))]));
    let gate = Gate::start(&format!(
        "[policy.tools.s.read]\nflow = {{ reads_private = true }}\n{}",
        config("s", &upstream, "")
    ));
    assert_eq!(names(&gate, "/mcp/s"), ["read"]);
    let file = gate.folder().join("bartizan.toml");
    let policy = |arguments: &[&str]| {
        let done = std::process::Command::new(bartizan_trials::binary())
            .arg("policy")
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    let (code, out) = policy(&["catalog"]);
    let catalog: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &catalog["s"]["tools"]["read"]["flow"]["reads_private"]),
        (Some(0), &json!(true)),
        "{out}"
    );
    assert!(policy(&["schema"]).1.contains("call:s.read"), "a policy may speak of it");

    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("a.cedar"),
        "permit (principal, action, resource) when { context.nothing };",
    )
    .unwrap();
    let (code, said) = bartizan_trials::refusal_of(&format!(
        "[policy]\ndir = {:?}\n{}",
        folder.path(),
        config("s", &upstream, "")
    ));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("[policy]"), "{said}");
}

/// What entered is shown and can be forgotten, and what enters again afterwards is on record again.
#[test]
fn ii_14_a_window_is_shown_and_reset_and_nothing_is_lost() {
    let (web, files, mail) = (
        server(json!([tool("fetch", json!({}))])),
        server(json!([tool("open", json!({}))])),
        server(json!([tool("send", json!({}))])),
    );
    let labels = "[policy.tools.web.fetch]\nflow = { sees_untrusted = true }\n\
                  [policy.tools.mail.send]\nflow = { sends_out = true }\n";
    let gate = Gate::start(&format!(
        "{labels}{}{}{}",
        config("web", &web, ""),
        config("files", &files, "trust = \"internal\""),
        config("mail", &mail, ""),
    ));
    for server in ["web", "files", "mail"] {
        assert_eq!(names(&gate, &format!("/mcp/{server}")).len(), 1);
    }
    let call = |server: &str, tool: &str| gate.client().call(&format!("/mcp/{server}"), tool, "{}");
    let flow = |arguments: &[&str]| {
        let done = std::process::Command::new(bartizan_trials::binary())
            .args(["policy", "flow"])
            .args(arguments)
            .arg("--config")
            .arg(gate.folder().join("bartizan.toml"))
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    assert_eq!(flow(&["show"]).0, Some(0), "nothing yet");
    for round in 0..3 {
        assert_eq!(call("web", "fetch").said(), "done");
        assert_eq!(call("files", "open").said(), "done");
        assert_eq!(call("mail", "send").code(), Some(FORBIDDEN), "round {round}");
        let (code, shown) = flow(&["show"]);
        assert_eq!(code, Some(1), "{shown}");
        for words in ["`fetch` of `web`", "`open` of `files`", "untrusted", "private", "owner"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        let (code, said) = flow(&["reset"]);
        assert_ne!(code, Some(0), "nobody was there to be asked: {said}");
        assert_eq!(call("mail", "send").code(), Some(FORBIDDEN));
        let other = flow(&["reset", "--person", "ann", "--issuer", "local", "--yes"]);
        assert_eq!(other.0, Some(0), "{}", other.1);
        assert_eq!(call("mail", "send").code(), Some(FORBIDDEN), "that was somebody else's");
        let (code, said) = flow(&["reset", "--yes", "--by", "ada", "--why", "a new conversation"]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(call("mail", "send").said(), "done", "at once");
    }
    // The same by their own page: by nobody who is not signed in, by no other page, at once, and on record.
    assert_eq!(call("web", "fetch").said(), "done");
    assert_eq!(call("files", "open").said(), "done");
    assert_eq!(call("mail", "send").code(), Some(FORBIDDEN));
    let mut owner = Browser::owner(&gate);
    let page = owner.get("/account");
    assert!(page.text().contains("fetch of web") && page.text().contains("They have met"), "{}", page.text());
    let csrf = field(&page, "csrf").unwrap();
    let fields = [("csrf", csrf.as_str()), ("action", "reset-flow"), ("client", "local")];
    assert_ne!(Browser::at(&gate).post("/account", &fields).status, 303);
    let evil = [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")];
    let foreign = owner.form_with("/account", &fields, &evil);
    assert_eq!(owner.send(foreign).status, 403);
    assert_eq!(call("mail", "send").code(), Some(FORBIDDEN));
    assert_eq!(owner.post("/account", &fields).status, 303);
    assert_eq!(call("mail", "send").said(), "done", "at once");
    let audit = std::process::Command::new(bartizan_trials::binary())
        .args(["audit", "search", "--kind", "response.acted", "--format", "json", "--dir"])
        .arg(gate.state().join("audit"))
        .output()
        .unwrap();
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(audit.contains("on their account page"), "{audit}");
    let told = |line: &&str| line.contains("\"ada (uid ") && line.contains("): a new conversation\"");
    assert_eq!(audit.lines().filter(told).count(), 3, "{audit}");
}
