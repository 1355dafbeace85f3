//! Servers over stdio that choose 2024-11-05 whatever they are offered, as many that were published in its time do.

use std::{fs, os::unix::fs::PermissionsExt};

use bartizan_trials::Gate;

const SERVER: &str = r#"#!/bin/sh
say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
while read -r line; do
    id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
    case $line in
    *'"initialize"'*) say '{"protocolVersion":"VERSION","capabilities":{"tools":{}},"serverInfo":{"name":"old","version":"1"}}' ;;
    *'"tools/list"'*) say '{"tools":[{"name":"greet","description":"Says hello.","inputSchema":{"type":"object"}}]}' ;;
    *'"tools/call"'*) say '{"content":[{"type":"text","text":"hello"}]}' ;;
    *'"id"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}\n' "$id" ;;
    esac
done
"#;

fn gate(version: &str) -> (Gate, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("old");
    fs::write(&program, SERVER.replace("VERSION", version)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let gate = Gate::start(&format!(
        "[[servers]]\nname = \"s\"\ncommand = [{:?}]\ntrust_on_first_use = true\n",
        program.display().to_string()
    ));
    (gate, folder)
}

#[test]
fn a_server_of_the_first_revision_is_one_of_the_second_for_its_clients() {
    let (gate, _folder) = gate("2024-11-05");
    for path in ["/mcp/s", "/mcp"] {
        let session = gate.client().session(path, "2025-03-26", "{}");
        assert_eq!(session.version, "2025-03-26", "{path}");
        let name = if path == "/mcp" { "s__greet" } else { "greet" };
        let listed = session.request("1", "tools/list", "").send();
        assert!(listed.text().contains(name), "{path}: {}", listed.text());
        let said = session.call("2", name, "{}").send();
        assert!(said.text().contains("hello"), "{path}: {}", said.text());
    }
    let newest = gate.client().session("/mcp/s", "2025-11-25", "{}");
    assert_eq!(newest.version, "2025-03-26", "what it was offered besides");
}

#[test]
fn a_server_that_chooses_a_revision_of_its_own_is_left_alone() {
    let (gate, _folder) = gate("1999-01-01");
    let refused = gate.client().initialize("/mcp/s", "2025-11-25", "{}").send();
    assert!(refused.text().contains("it chose the protocol version"), "{}", refused.text());
}
