//! A server that is exchanged for a newer one while its clients go on.

use std::{os::unix::fs::PermissionsExt, process::Command};

use bartizan_trials::{Answer, Gate, binary, eventually};

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
