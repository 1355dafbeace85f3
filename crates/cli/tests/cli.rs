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
