//! Calls that wait for a person, and all the ways to get past him (attacks.md EP-07, EP-08; CVE-2025-54136).

use std::{fs, process::Command};

use bartizan_trials::{Answer, Gate, Upstream, binary, eventually};
use serde_json::{Value, json};

const FORBIDDEN: i64 = -31003;

/// A modern server whose tool `delete` says of itself that it only reads.
fn server() -> Upstream {
    Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/list" {
            return false;
        }
        let tool = json!({
            "name": "delete", "description": "Deletes a thing.",
            "inputSchema": { "type": "object", "properties": { "thing": { "type": "string" } } },
            "annotations": { "readOnlyHint": true, "destructiveHint": false },
        });
        let result =
            json!({ "resultType": "complete", "tools": [tool], "ttlMs": 0, "cacheScope": "private" });
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

/// A gate before `up`, whose tool `delete` needs an approval by `boss`.
fn gate(up: &Upstream) -> Gate {
    let folder = tempfile::tempdir().unwrap();
    let policy =
        r#"@id("ask") @approval("boss") forbid (principal, action == Action::"call:s.delete", resource);"#;
    fs::write(folder.path().join("a.cedar"), policy).unwrap();
    let gate = Gate::start(&format!(
        "[policy]\ndir = {:?}\n[[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n",
        folder.path(),
        up.url()
    ));
    // Policies on tools that are not pinned yet wait until they are.
    eventually("the tool is pinned", || {
        let listed = gate.client().modern("/mcp/s", "tools/list", "").send();
        listed.text().contains("\"delete\"").then_some(())
    });
    gate
}

fn delete(gate: &Gate, thing: &str) -> Answer {
    gate.client().call("/mcp/s", "delete", &json!({ "thing": thing }).to_string())
}

/// The id of the request that a refused call waits for.
fn waits(answer: &Answer, state: &str) -> String {
    assert_eq!(answer.code(), Some(FORBIDDEN), "{}", answer.text());
    let data = answer.json()["error"]["data"].clone();
    assert_eq!((&data["reason"], &data["approval"]["state"]), (&json!("policy.approval"), &json!(state)));
    let id = data["approval"]["id"].as_str().unwrap().to_owned();
    assert!(answer.error().contains(&id), "the words name it too: {}", answer.error());
    id
}

fn approvals(gate: &Gate, arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = Command::new(binary())
        .args(["tools", "approvals"])
        .args(arguments)
        .arg("--config")
        .arg(gate.folder().join("bartizan.toml"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

/// Whoever approves what a policy asks about need not know the credentials in it.
#[test]
fn ep_08_no_approver_is_shown_a_credential() {
    let up = server();
    let token = ["ghp_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat();
    let folder = tempfile::tempdir().unwrap();
    let policy =
        r#"@id("ask") @approval("boss") forbid (principal, action == Action::"call:s.delete", resource);"#;
    fs::write(folder.path().join("a.cedar"), policy).unwrap();
    let gate = Gate::start(&format!(
        "[shield.secrets]\nto_untrusted = \"allow\"\n[policy]\ndir = {:?}\n[[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n",
        folder.path(),
        up.url()
    ));
    eventually("the tool is pinned", || {
        let listed = gate.client().modern("/mcp/s", "tools/list", "").send();
        listed.text().contains("\"delete\"").then_some(())
    });
    let id = waits(&delete(&gate, &format!("the note about {token}")), "waiting");
    for arguments in [&["list"][..], &["list", "--format", "json"]] {
        let (_, listed, _) = approvals(&gate, arguments);
        assert!(!listed.contains(&token), "{listed}");
        assert!(listed.contains("the note about [redacted: secret.github-token]"), "{listed}");
    }
    assert_eq!(approvals(&gate, &["grant", &id, "--yes"]).0, Some(0));
    assert_eq!(delete(&gate, &format!("the note about {token}")).outcome(), 200, "it goes as it was sent");
    assert!(up.heard_of("tools/call").pop().unwrap().body.contains(&token));
}

/// Also: EP-07.
#[test]
fn ep_08_an_approval_is_good_for_the_very_call_once() {
    let up = server();
    let gate = gate(&up);
    let id = waits(&delete(&gate, "a"), "waiting");
    assert_eq!(waits(&delete(&gate, "a"), "waiting"), id, "asked once, however often it is tried");
    assert!(up.heard_of("tools/call").is_empty(), "what a tool says of itself changes nothing");

    let (code, out, _) = approvals(&gate, &["list", "--format", "json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, listed[0]["id"].as_str(), listed[0]["role"].as_str()),
        (Some(1), Some(&*id), Some("boss"))
    );
    assert!(listed[0]["words"].as_str().unwrap().contains(r#"{"thing":"a"}"#), "{out}");
    let (code, _, said) = approvals(&gate, &["grant", &id]);
    assert_ne!(code, Some(0), "nobody was there to be asked: {said}");
    waits(&delete(&gate, "a"), "waiting");

    let (code, _, said) = approvals(&gate, &["grant", &id, "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let other = waits(&delete(&gate, "b"), "waiting");
    assert_ne!(other, id, "other arguments are another call");
    let spaced = gate.client().call("/mcp/s", "delete", r#"{ "thing": "a" }"#);
    assert_ne!(waits(&spaced, "waiting"), id, "and so are other bytes");
    assert!(up.heard_of("tools/call").is_empty());
    assert_eq!(delete(&gate, "a").outcome(), 200);
    let again = waits(&delete(&gate, "a"), "waiting");
    assert_ne!(again, id, "it is used up");
    assert_eq!(up.heard_of("tools/call").len(), 1);
    let (code, _, said) = approvals(&gate, &["grant", &id, "--yes"]);
    assert_eq!(code, Some(1), "what was decided stays so: {said}");
}

#[test]
fn ep_08_a_denied_call_is_not_asked_about_again() {
    let up = server();
    let gate = gate(&up);
    let id = waits(&delete(&gate, "a"), "waiting");
    assert_eq!(approvals(&gate, &["deny", &id, "--yes"]).0, Some(0));
    assert_eq!(waits(&delete(&gate, "a"), "denied"), id);
    assert_eq!(approvals(&gate, &["list"]).0, Some(0), "nothing waits");
    assert_eq!(approvals(&gate, &["grant", &id, "--yes"]).0, Some(1));
    assert_eq!(approvals(&gate, &["grant", "0", "--yes"]).0, Some(2));
    assert!(up.heard_of("tools/call").is_empty());
}

#[test]
fn ep_08_nobody_is_tired_out_by_requests() {
    let up = server();
    let gate = gate(&up);
    for thing in 0..8 {
        waits(&delete(&gate, &thing.to_string()), "waiting");
    }
    let more = delete(&gate, "one more");
    assert_eq!(more.status, 429, "{}", more.text());
    assert_eq!(more.json()["error"]["data"]["reason"], "policy.approvals_waiting");
    assert!(more.line("retry-after").is_some());
}

/// Who approved for one policy has not heard of another that asks the same role later, since more has entered the window.
#[test]
fn ep_08_an_approval_says_nothing_to_a_policy_that_asks_later() {
    let up = Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/list" {
            return false;
        }
        let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object", "properties": { "thing": { "type": "string" } } } });
        let result = json!({
            "resultType": "complete", "tools": [tool("delete"), tool("look")], "ttlMs": 0, "cacheScope": "private",
        });
        pen.result(&heard.id(), &result.to_string());
        true
    });
    let folder = tempfile::tempdir().unwrap();
    let policy = r#"
        @id("ask") @approval("boss") forbid (principal, action == Action::"call:s.delete", resource);
        @id("stranger") @approval("boss") forbid (principal, action == Action::"call:s.delete", resource) when { context.flow.untrusted };"#;
    fs::write(folder.path().join("a.cedar"), policy).unwrap();
    let gate = Gate::start(&format!(
        "[policy]\ndir = {:?}\n[[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n",
        folder.path(),
        up.url()
    ));
    eventually("the tools are pinned", || {
        let listed = gate.client().modern("/mcp/s", "tools/list", "").send();
        listed.text().contains("\"delete\"").then_some(())
    });
    let id = waits(&delete(&gate, "a"), "waiting");
    assert_eq!(approvals(&gate, &["grant", &id, "--yes"]).0, Some(0));
    // A stranger's text enters the window after the boss has looked.
    assert_eq!(gate.client().call("/mcp/s", "look", "{}").outcome(), 200);
    let other = waits(&delete(&gate, "a"), "waiting");
    assert_ne!(other, id, "what the boss was told is not what asks now");
    assert_eq!(up.heard_of("tools/call").len(), 1, "only the look");
    let (_, listed, _) = approvals(&gate, &["list", "--format", "json"]);
    assert!(listed.contains("returned untrusted text"), "the boss is told what has entered: {listed}");
    assert_eq!(approvals(&gate, &["grant", &other, "--yes"]).0, Some(0));
    assert_eq!(delete(&gate, "a").outcome(), 200);
}

/// What a caller wrote cannot pass for the gate's own words on the approver's terminal.
#[test]
fn ep_08_a_request_cannot_dress_up() {
    let up = server();
    let gate = gate(&up);
    waits(&delete(&gate, "\u{1b}[2Jharmless\r\n\u{202e}x"), "waiting");
    let (_, out, _) = approvals(&gate, &["list"]);
    assert!(out.contains("delete") && !out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out:?}");
    assert_eq!(out.lines().count(), 2, "{out}");
}
