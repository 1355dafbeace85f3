//! `bartizan doctor`: what it says of a gate that runs.

use std::{collections::BTreeMap, process::Command};

use bartizan_trials::{Gate, Issuer, Upstream, binary};
use serde_json::Value;

/// The exit code, and each check's verdict by its name.
fn doctor(gate: &Gate) -> (Option<i32>, BTreeMap<String, String>) {
    let config = gate.folder().join("bartizan.toml");
    let done =
        Command::new(binary()).args(["doctor", "--format", "json", "--config"]).arg(config).output().unwrap();
    let checks: Vec<Value> = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&done.stderr)));
    let word = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    (done.status.code(), checks.iter().map(|c| (word(c, "id"), word(c, "verdict"))).collect())
}

#[test]
fn doctor_asks_issuers_and_servers_and_looks_at_what_is_kept() {
    let (issuer, open) = (Issuer::start(1), Upstream::legacy(|_, _| false));
    let closed = Upstream::modern(|_, pen| {
        pen.empty("401 Unauthorized");
        true
    });
    let config = |issuer: &str| {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://gate.example\"\n[identity]\nmode = \"resource-server\"\n{issuer}\
             [[policy.grants]]\ntemplate = \"reader\"\nrole = \"people\"\n[policy.roles.people]\ngroups = [\"people\"]\n{}{}",
            open.config("open", ""),
            closed.config("closed", ""),
        )
    };
    let gate = Gate::start(&config(&issuer.config()));
    let (code, checks) = doctor(&gate);
    assert_eq!(code, Some(0), "{checks:?}");
    assert_eq!(checks["identity.mode"], "pass");
    assert_eq!(checks[&format!("issuer {}", issuer.name())], "pass");
    assert_eq!(checks["server closed"], "pass", "it turns strangers away");
    assert_eq!(checks["server open"], "warn", "whoever is on this machine can go round the gate");
    assert_eq!(checks["state.permissions"], "pass");
    assert_eq!(checks["audit.verify"], "pass");
    // The kernel decides whether all of it is in force; that a reader starts is ours.
    assert!(["pass", "warn"].contains(&checks["documents.reader"].as_str()), "{checks:?}");

    let gone = issuer.config().replace(&issuer.name(), "http://127.0.0.1:9");
    gate.reconfigure(&config(&gone));
    let (code, checks) = doctor(&gate);
    assert_eq!((code, checks["issuer http://127.0.0.1:9"].as_str()), (Some(1), "fail"));
}
