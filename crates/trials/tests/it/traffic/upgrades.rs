//! A server that is exchanged for a newer one while its clients go on.

use std::{os::unix::fs::PermissionsExt, process::Command};

use bartizan_trials::{Answer, Gate, binary, eventually};

use super::records::entries;
use crate::text;

/// A server of both eras, which describes its tool as `%SAID%`, and answers with its process.
const SERVER: &str = r#"#!/bin/sh
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  case "$line" in *modelcontextprotocol/protocolVersion*) more='"resultType":"complete","ttlMs":0,"cacheScope":"private",' ;; *) more= ;; esac
  case "$line" in
    *'"server/discover"'*) result='"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}' ;;
    *'"initialize"'*) result='"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}' ;;
    *'"tools/list"'*) result='"tools":[{"name":"t","description":"%SAID%","inputSchema":{"type":"object"}}]' ;;
    *'"tools/call"'*) result='"content":[{"type":"text","text":"'$$'"}]' ;;
    *'"id"'*) result='"x":1' ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":{%s%s}}\n' "$id" "$more" "$result"
done
"#;

/// What `listed` says of the one tool; nothing if it is not there.
fn described(listed: &Answer) -> String {
    let result = listed.result().unwrap_or_else(|| panic!("{}", listed.text()));
    match result["tools"].as_array().map(Vec::as_slice) {
        Some([tool]) => text(tool, "/description").to_owned(),
        _ => String::new(),
    }
}

/// Processes of before would go on to show the old form, which would be held for it, whatever is approved.
#[test]
fn what_a_person_approves_of_a_new_version_holds_for_clients_of_before_too() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("server.sh");
    let install = |said: &str| {
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, SERVER.replace("%SAID%", said)).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&fresh, &script).unwrap();
    };
    install("Adds one.");
    let gate = Gate::start(&format!(
        "[[servers]]\nname = \"s\"\ncommand = [{:?}]\ntrust_on_first_use = true\n",
        script.display().to_string()
    ));
    let tools = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("tools").args(words).args(["--server", "s", "--config"]);
        command.arg(gate.folder().join("bartizan.toml")).output().unwrap().status.code()
    };
    let session = gate.client().session("/mcp/s", "2025-11-25", "{}");
    let before = || described(&session.request("1", "tools/list", "").send());
    let modern = || described(&gate.client().modern("/mcp/s", "tools/list", "").send());
    assert_eq!((before(), modern()), ("Adds one.".to_owned(), "Adds one.".to_owned()));
    let process = session.call("2", "t", "{}").send().said();

    install("Adds one and notes it.");
    eventually("the new version waits", || (tools(&["diff"]) == Some(1)).then_some(()));
    assert_eq!(tools(&["approve", "--all", "--yes"]), Some(0));
    eventually("its tool waits", || {
        // Whoever asks first is told by the new version.
        (modern().is_empty() && tools(&["diff"]) == Some(1)).then_some(())
    });
    assert_eq!(before(), "");
    assert_eq!(tools(&["approve", "--yes", "t"]), Some(0));
    eventually("everybody is shown the new form", || {
        [before(), modern()].iter().all(|said| said == "Adds one and notes it.").then_some(())
    });
    for _ in 0..3 {
        assert_eq!([before(), modern()], ["Adds one and notes it."; 2], "and it stays");
    }
    assert_ne!(
        session.call("3", "t", "{}").send().said(),
        process,
        "the session of before goes on in a new process"
    );
}

/// A process of everybody's that makes a task of calls of `make`, leaves those of `wait` unanswered, and answers others with its number.
const TASKS: &str = r#"#!/bin/sh
# %VERSION%
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  case "$line" in
    *'"initialize"'*) result='"protocolVersion":"2025-11-25","capabilities":{"tools":{},"tasks":{"requests":{"tools":{"call":{}}}}},"serverInfo":{"name":"s","version":"1"}' ;;
    *'"tools/list"'*) result='"tools":[{"name":"make","inputSchema":{"type":"object"}},{"name":"wait","inputSchema":{"type":"object"}},{"name":"pid","inputSchema":{"type":"object"}}]' ;;
    *'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}\n' "$id"; continue ;;
    *'"name":"make"'*) result='"task":{"taskId":"1","status":"working","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttl":60000}' ;;
    *'"name":"wait"'*) continue ;;
    *'"tools/call"'* | *'"tasks/result"'*) result='"content":[{"type":"text","text":"'$$'"}]' ;;
    *'"id"'*) result='"x":1' ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":{%s}}\n' "$id" "$result"
done
"#;

/// A session that stays in the process of before, for that is busy, asks there for its tasks, which are of their tools there.
#[test]
fn a_task_in_a_process_that_others_have_left_is_its_tools() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("server.sh");
    let install = |version: &str| {
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, TASKS.replace("%VERSION%", version)).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&fresh, &script).unwrap();
    };
    install("1");
    let gate = Gate::start(&format!(
        "[[servers]]\nname = \"s\"\ncommand = [{:?}]\nshared = true\ntrust_on_first_use = true\n",
        script.display().to_string()
    ));
    let tools = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("tools").args(words).args(["--server", "s", "--config"]);
        command.arg(gate.folder().join("bartizan.toml")).output().unwrap().status.code()
    };
    let open = || gate.client().session("/mcp/s", "2025-11-25", "{}");
    let before = open();
    let made = before.call("1", "make", "{}").send();
    let task = text(&made.json(), "/result/task/taskId").to_owned();
    assert!(!task.is_empty(), "{}", made.text());
    let process = before.call("2", "pid", "{}").send().said();
    let waiting = before.call("3", "wait", "{}").open();

    install("2");
    eventually("the new version waits", || (tools(&["diff"]) == Some(1)).then_some(()));
    assert_eq!(tools(&["approve", "--all", "--yes"]), Some(0));
    eventually("others are in a new process", || {
        let said = open().call("1", "pid", "{}").send();
        (said.result().is_some() && said.said() != process).then_some(())
    });
    let result = before.request("4", "tasks/result", &format!(r#""taskId":"{task}""#)).send();
    assert_eq!(result.said(), process, "{}", result.text());
    let asked =
        entries(&gate).into_iter().find(|e| e["kind"] == "call.opened" && e["method"] == "tasks/result");
    assert_eq!(asked.unwrap()["tool"], "make");
    drop(waiting);
}

/// A process that asks a question after it has answered, and notes what it is answered.
const ASKING: &str = r#"#!/bin/sh
# %VERSION%
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  case "$line" in
    *'"id":"q1"'*) printf '%VERSION% %s\n' "$line" >> %RECORD%; continue ;;
    *'"initialize"'*) result='"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}' ;;
    *'"tools/list"'*) result='"tools":[{"name":"ask","inputSchema":{"type":"object"}},{"name":"pid","inputSchema":{"type":"object"}}]' ;;
    *'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}\n' "$id"; continue ;;
    *'"tools/call"'*) result='"content":[{"type":"text","text":"'$$'"}]' ;;
    *'"id"'*) result='"x":1' ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":{%s}}\n' "$id" "$result"
  case "$line" in *'"name":"ask"'*)
    printf '{"jsonrpc":"2.0","id":"q1","method":"elicitation/create","params":{"message":"Which town?","requestedSchema":{"type":"object","properties":{}}}}\n' ;;
  esac
done
"#;

/// Nobody is left with a question whose answer would go nowhere, nor waiting for one.
#[test]
fn a_question_of_a_process_that_is_left_is_withdrawn_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (script, record) = (folder.path().join("server.sh"), folder.path().join("record"));
    let install = |version: &str| {
        let fresh = folder.path().join("fresh");
        let server = ASKING.replace("%VERSION%", version).replace("%RECORD%", record.to_str().unwrap());
        std::fs::write(&fresh, server).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&fresh, &script).unwrap();
    };
    install("old");
    let gate = Gate::start(&format!(
        "[[servers]]\nname = \"s\"\ncommand = [{:?}]\nmay_ask = [\"elicitation\"]\ntrust_on_first_use = true\n",
        script.display().to_string()
    ));
    let tools = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("tools").args(words).args(["--server", "s", "--config"]);
        command.arg(gate.folder().join("bartizan.toml")).output().unwrap().status.code()
    };
    let session = gate.client().session("/mcp/s", "2025-11-25", r#"{"elicitation":{}}"#);
    let mut stream = session.stream();
    let process = session.call("1", "ask", "{}").send().said();
    let question = stream.message();
    assert_eq!(text(&question, "/method"), "elicitation/create", "{question}");

    install("new");
    eventually("the new version waits", || (tools(&["diff"]) == Some(1)).then_some(()));
    assert_eq!(tools(&["approve", "--all", "--yes"]), Some(0));
    let mut number = 1;
    eventually("the session goes on in a new process", || {
        number += 1;
        let said = session.call(&number.to_string(), "pid", "{}").send();
        (said.result().is_some() && said.said() != process).then_some(())
    });
    let withdrawn = stream.message();
    assert_eq!(text(&withdrawn, "/method"), "notifications/cancelled", "{withdrawn}");
    assert_eq!(withdrawn["params"]["requestId"], question["id"]);
    let heard = || std::fs::read_to_string(&record).unwrap_or_default();
    eventually("who asked has an answer", || heard().contains("old ").then_some(()));
    assert!(heard().contains("error"), "{}", heard());

    // An answer that comes late goes nowhere.
    let late = format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{{"action":"accept","content":{{"town":"late"}}}}}}"#,
        question["id"]
    );
    assert_eq!(session.post(late).send().status, 202);
    assert!(session.call("100", "pid", "{}").send().result().is_some());
    assert!(!heard().contains("late") && !heard().contains("new "), "{}", heard());
}
