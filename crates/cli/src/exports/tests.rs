use std::path::Path;

use crate::config;

fn problems(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bartizan.toml");
    std::fs::write(&path, format!("[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n{text}")).unwrap();
    config::load(Some(Path::new(&path))).err().map(|problems| problems.to_string()).unwrap_or_default()
}

#[test]
fn every_kind_of_receiver_can_be_written_down_and_read_back() {
    let text = r#"
        [audit]
        host = "gate-1"
        [[audit.export]]
        name = "file"
        kind = "file"
        path = "audit.jsonl"
        [[audit.export]]
        name = "http"
        kind = "http"
        url = "https://collector.example/in?x=1"
        token = { env = "T" }
        [[audit.export]]
        name = "hook"
        kind = "webhook"
        only = ["alert.raised", "pin.drifted"]
        url = "http://127.0.0.1:1/hook"
        secret = { file = "hook.secret" }
        [[audit.export]]
        name = "syslog"
        kind = "syslog"
        url = "tls://siem.example:6514"
        body = "cef"
        tls = { ca = "ca.pem", client_cert = "c.pem", key = "k.pem" }
        [[audit.export]]
        name = "splunk"
        kind = "splunk-hec"
        url = "https://splunk.example:8088"
        token = { env = "T" }
        [[audit.export]]
        name = "sentinel"
        kind = "sentinel"
        endpoint = "https://x.ingest.monitor.azure.com"
        rule = "dcr-1"
        stream = "Custom-Bartizan_CL"
        tenant = "t"
        client_id = "c"
        client_secret = { env = "T" }
        [[audit.export]]
        name = "otlp"
        kind = "otlp"
        url = "http://[::1]:4318/v1/logs"
        encoding = "json"
    "#;
    assert_eq!(problems(text), "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bartizan.toml");
    std::fs::write(&path, format!("{text}\n[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n")).unwrap();
    let config = config::load(Some(&path)).unwrap().config;
    assert_eq!(config.audit.export.len(), 7);
    let again: config::Config = toml::from_str(&toml::to_string_pretty(&config).unwrap()).unwrap();
    assert_eq!(format!("{:?}", again.audit), format!("{:?}", config.audit));
}

#[test]
fn whatever_is_wrong_with_the_receivers_is_said_at_once() {
    let found = problems(
        r#"
        [[audit.export]]
        name = "Bad Name"
        kind = "http"
        url = "http://collector.example/"
        token = "hunter2-in-the-clear"
        [[audit.export]]
        name = "b"
        kind = "syslog"
        url = "tcp://10.0.0.1:514"
        tls = { client_cert = "c.pem" }
        [[audit.export]]
        name = "b"
        kind = "splunk-hec"
        url = "https://u:p@splunk.example:8088/services"
        token = { env = "T" }
        only = ["no.such"]
        "#,
    );
    for part in [
        "1 to 32",
        "https://",
        "is a secret",
        "tls://",
        "belong together",
        "no user",
        "no path",
        "`no.such`",
        "two [[audit",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
    assert!(!found.contains("hunter2"), "a secret in the wrong place is not repeated: {found}");
    let unknown = "[[audit.export]]\nname = \"a\"\nkind = \"file\"\npath = \"x\"\nfrobnicate = 1\n";
    assert!(problems(unknown).contains("frobnicate"));
    assert!(
        problems("[[audit.export]]\nname = \"a\"\nkind = \"carrier-pigeon\"\n").contains("carrier-pigeon")
    );
}
