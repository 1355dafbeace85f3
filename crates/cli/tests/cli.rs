//! The command line as people and scripts meet it: exit code, standard output, standard error.
//!
//! That there is a test here also makes Cargo build `bartizan` before the trials, which run it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const GOOD: &str = "[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n";

fn bartizan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .output()
        .expect("the binary starts")
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_bad_configuration_is_named_field_by_field_on_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "[server]\nlisten = \"0.0.0.0:8787\"\n[[servers]]\nname = \"a\"\n[[servers]]\nname = \"b\"\ncommand = []\n";
    fs::write(folder.path().join("bad.toml"), bad).unwrap();
    fs::write(folder.path().join("odd.toml"), format!("{GOOD}frobnicate = 1\n")).unwrap();
    let output = bartizan(folder.path(), &["config", "check", "--config", "bad.toml"]);
    let words = said(&output.stderr);
    assert_eq!((output.status.code(), said(&output.stdout).as_str()), (Some(2), ""), "{words}");
    for word in ["bad.toml", "listen", "tls", "server `a`: set `command`", "server `b`: `command` is empty"] {
        assert!(words.contains(word), "`{word}`: {words}");
    }
    let output = bartizan(folder.path(), &["config", "check", "--config", "odd.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output.stderr).contains("frobnicate"), "{}", said(&output.stderr));
    let output = bartizan(folder.path(), &["config", "check", "--config", "missing.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output.stderr).contains("missing.toml"), "{}", said(&output.stderr));
    assert_eq!(bartizan(folder.path(), &["frobnicate"]).status.code(), Some(2));
}

#[test]
fn data_is_on_standard_output_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good.toml"), GOOD).unwrap();
    let at = ["--config", "good.toml"];
    let check = bartizan(folder.path(), &[&["config", "check"], &at[..]].concat());
    assert_eq!((check.status.code(), said(&check.stdout).as_str()), (Some(0), ""), "{}", said(&check.stderr));
    let shown = bartizan(folder.path(), &[&["config", "show"], &at[..]].concat());
    fs::write(folder.path().join("shown.toml"), &shown.stdout).unwrap();
    let again = bartizan(folder.path(), &["config", "show", "--config", "shown.toml"]);
    assert_eq!(again.stdout, shown.stdout, "what is shown is a configuration");
    let schema = bartizan(folder.path(), &["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema["properties"]["servers"].is_object());
}

#[test]
fn the_token_is_printed_for_scripts_and_stays_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let token = |arguments: &[&str]| said(&bartizan(folder.path(), arguments).stdout);
    let first = token(&["token"]);
    assert!(first.starts_with("bz_") && first.trim_end().len() >= 64 + 3, "256 bits: {}", first.len());
    assert_eq!(token(&["token"]), first);
    assert_eq!(fs::read_to_string(folder.path().join(".bartizan/token")).unwrap(), first);
}

#[test]
fn keys_are_rotated_where_a_gate_has_run_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let output = bartizan(folder.path(), &["keys", "rotate"]);
    let words = said(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("no gate has run here") && !words.contains("destroyed"), "{words}");
    assert!(!folder.path().join(".bartizan").exists(), "no state is made");
}

#[test]
fn a_server_that_is_not_there_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let output = bartizan(folder.path(), &["tools", "approve", "--server", "nope", "add", "--yes"]);
    let words = said(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("there is no server `nope`"), "{words}");
    let output = bartizan(folder.path(), &["tools", "approve", "--server", "nope", "--all", "--yes"]);
    let words = said(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("nothing waits: there is no server `nope`"), "{words}");
    let output = bartizan(folder.path(), &["tools", "approve", "add", "--yes"]);
    assert!(said(&output.stderr).contains("nothing is called `add`"), "{}", said(&output.stderr));
}

#[test]
fn examples_stand_on_lines_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    for (command, line) in [
        (&["wrap"][..], "\n  bartizan wrap -- npx -y @modelcontextprotocol/server-filesystem /srv/docs\n"),
        (&["shield", "report"], "\n  bartizan shield report --false-positive ID "),
        (&["tools", "approve"], "\n  bartizan tools approve --server files --all\n"),
    ] {
        let help = bartizan(folder.path(), &[command, &["--help"]].concat());
        assert!(said(&help.stdout).contains(line), "{}", said(&help.stdout));
    }
}

#[test]
fn the_shield_is_measured_by_the_configuration_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let row = "{\"text\":\"All is well.\",\"label\":0,\"kind\":\"result\"}\n";
    fs::write(folder.path().join("set.jsonl"), row).unwrap();
    let help = said(&bartizan(folder.path(), &["shield", "eval", "--help"]).stdout);
    assert!(help.contains("Judge as the gate of this configuration would"), "{help}");
    let eval = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bartizan"));
        command.args(["shield", "eval", "set.jsonl"]).args(arguments).current_dir(folder.path());
        command.env_clear().env("BARTIZAN_CONFIG", "missing.toml");
        command.output().expect("the binary starts")
    };
    let output = eval(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    let output = eval(&["--config", "other.toml"]);
    assert!(said(&output.stderr).contains("other.toml"), "{}", said(&output.stderr));
}
