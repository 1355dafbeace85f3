//! Rights that nobody uses: the running gate finds them, people decide about them, `doctor` minds the dates.

use std::{fs, process::Command};

use bartizan_trials::{Gate, Issuer, Upstream, binary, eventually};
use serde_json::{Value, json};

use super::records::{entries, of_kind};

const POLICIES: &str = r#"
    @id("mine") permit (principal in Role::"owner", action in Action::"use", resource in Server::"s");
    @id("idle") permit (principal in Role::"nobody", action in Action::"call", resource in Server::"s");"#;

fn bartizan(gate: &Gate, arguments: &[&str]) -> (Option<i32>, String) {
    let config = gate.folder().join("bartizan.toml");
    let done = Command::new(binary()).args(arguments).arg("--config").arg(config).output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

#[test]
fn a_gate_reviews_rights_and_people_decide_about_what_it_finds() {
    let (up, folder) = (Upstream::modern(|_, _| false), tempfile::tempdir().unwrap());
    fs::write(folder.path().join("a.cedar"), POLICIES).unwrap();
    let gate = Gate::start(&format!(
        "[policy]\ndir = {:?}\n[policy.roles.nobody]\ngroups = [\"none\"]\n[policy.review]\nevery = \"1s\"\nsince = \"1d\"\n\
         [[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n",
        folder.path(),
        up.url()
    ));
    assert_eq!(gate.client().modern("/mcp/s", "tools/list", "").send().outcome(), 200);
    assert_eq!(gate.client().call("/mcp/s", "echo", "{}").outcome(), 200);
    let listed = || {
        let (code, out) = bartizan(&gate, &["policy", "review", "list", "--format", "json"]);
        let listed: Value = serde_json::from_str(&out).unwrap_or_default();
        (code, listed.as_array().cloned().unwrap_or_default())
    };
    let (code, found) = eventually("the review finds what is idle", || {
        let (code, found) = listed();
        found.iter().any(|finding| finding["id"] == "unused:idle").then_some((code, found))
    });
    assert_eq!(code, Some(1), "{found:?}");
    assert!(!found.iter().any(|finding| finding["id"] == "unused:mine"), "it was used: {found:?}");

    // The same by hand, with the smaller policy: what was used stays, and what is not recorded.
    let (code, review) = bartizan(&gate, &["policy", "review"]);
    assert_eq!(code, Some(1), "{review}");
    for words in ["- idle", "+ mine", "call:s.echo", "Action::\"list\"", "Action::\"notify\"", " 0 broken"] {
        assert!(review.contains(words), "{words}: {review}");
    }

    for finding in &found {
        let id = finding["id"].as_str().unwrap();
        let past = bartizan(&gate, &["policy", "review", "waive", id, "--until", "2020-01-01", "--why", "x"]);
        assert_ne!(past.0, Some(0), "{}", past.1);
        let done =
            bartizan(&gate, &["policy", "review", "waive", id, "--until", "90d", "--why", "the year's end"]);
        assert_eq!(done.0, Some(0), "{}", done.1);
    }
    let unknown =
        bartizan(&gate, &["policy", "review", "accept", "unused:x", "--until", "90d", "--why", "x"]);
    assert_eq!(unknown.0, Some(1), "{}", unknown.1);
    let (code, after) = listed();
    assert_eq!(
        (code, after.iter().all(|finding| finding["decided"]["verdict"] == "waived")),
        (Some(0), true),
        "{after:?}"
    );
    let (_, doctor) = bartizan(&gate, &["doctor", "--offline", "--format", "json"]);
    let checks: Value = serde_json::from_str(&doctor).unwrap();
    let check =
        checks.as_array().unwrap().iter().find(|check| check["id"] == "policy.review").unwrap().clone();
    assert_eq!(check["verdict"], json!("pass"), "{check}");
    eventually("it is in the audit log", || {
        let done = Command::new(binary())
            .args(["audit", "search", "--kind", "policy.reviewed", "--format", "json", "--dir"])
            .arg(gate.state().join("audit"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&done.stdout).contains("unused:idle").then_some(())
    });
}

#[test]
fn what_was_allowed_by_a_group_is_asked_again_and_the_group_stands_sealed_in_the_log() {
    let (up, folder, issuer) =
        (Upstream::modern(|_, _| false), tempfile::tempdir().unwrap(), Issuer::start(3));
    let policy = r#"@id("mine") permit (principal in Role::"people", action in Action::"use", resource in Server::"s");"#;
    fs::write(folder.path().join("a.cedar"), policy).unwrap();
    let gate = Gate::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\npublic_url = \"https://gate.example\"\n\
         [identity]\nmode = \"resource-server\"\n{}\
         [policy]\ndir = {:?}\n[policy.roles.people]\ngroups = [\"group-canary\"]\nissuers = [\"{}\"]\n\
         [[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n",
        issuer.config(),
        folder.path(),
        issuer.name(),
        up.url()
    ));
    let groups = json!({ "groups": ["group-canary", "group-of-no-policy"] });
    let ann = gate.bearer(issuer.token("ann", "https://gate.example/mcp/s", groups));
    assert_eq!(ann.modern("/mcp/s", "tools/list", "").send().outcome(), 200);
    assert_eq!(ann.call("/mcp/s", "echo", "{}").outcome(), 200);

    let (_, review) = bartizan(&gate, &["policy", "review"]);
    assert!(!review.contains(" 0 distinct queries") && review.contains(" 0 broken"), "{review}");
    assert!(!review.contains("denied today"), "all of it is repeatable: {review}");
    let found = entries(&gate);
    let opened = of_kind(&found, "call.opened");
    assert!(opened.len() >= 2 && opened.iter().all(|entry| entry["attributes"].is_string()), "{opened:#?}");
    assert!(!serde_json::to_string(&found).unwrap().contains("group-"), "sealed");
}
