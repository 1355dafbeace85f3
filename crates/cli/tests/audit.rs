//! `bartizan audit` as a user meets it: what it prints, and its exit code.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail like tests")]

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use bartizan_audit::{
    AuditFolder, Details, Event, Kind, Options,
    event::{Change, Decision, Outcome, Reason},
};
use bartizan_model::{Caller, ManualClock, SeededEntropy, Timestamp};
use serde_json::Value;

/// Standard output, standard error and exit code.
fn run(folder: &Path, arguments: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .arg("audit")
        .args(arguments)
        .env("BARTIZAN_AUDIT_DIR", folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

/// An audit folder in which Alice called a tool and Bob was refused.
fn scene() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    folder
}

fn write(root: &Path) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_unix(1_760_000_000)));
    let seed = fs::read_dir(root).unwrap().count() as u64 + 1;
    let audit = AuditFolder::open(root, Arc::new(SeededEntropy::new(seed))).unwrap();
    let log = audit.start("gate", clock.clone(), Options::default()).unwrap();
    let details = Details {
        server: Some("files".parse().unwrap()),
        method: Some("tools/call".into()),
        tool: Some("read_file".into()),
        ..Details::default()
    };
    let caller = |subject: &str| Caller::new("https://id.example", subject, "ide");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let event = Event::new(Kind::CallOpened).by(&caller("alice")).with(details.clone());
        let opened = log.open(event).await.unwrap();
        clock.advance(Duration::from_secs(2));
        let _ =
            log.close(opened, Details { outcome: Some(Outcome::Ok), ..Details::default() }).await.unwrap();
        let denied = Details {
            decision: Some(Decision::Deny),
            reason: Some(Reason::try_from("policy.denied").unwrap()),
            ..details
        };
        let _ = log.note(Event::new(Kind::Authorized).by(&caller("bob")).with(denied)).await.unwrap();
    });
}

#[test]
fn tail_and_search_show_who_did_what() {
    let scene = scene();
    let (out, err, code) = run(scene.path(), &["tail", "-n", "3"]);
    assert_eq!((err.as_str(), code), ("", 0));
    assert_eq!(
        out,
        "\
TIME                      SEQ  KIND                   WHO    SERVER  WHAT                  RESULT  WHY
2025-10-09T08:53:22.000Z  2    call.closed            alice  files   tools/call read_file  ok
2025-10-09T08:53:22.000Z  3    authorization.decided  bob    files   tools/call read_file  deny    policy.denied
2025-10-09T08:53:22.000Z  4    log.closed
"
    );
    let (out, err, code) = run(scene.path(), &["search", "--subject", "alice", "--format", "json"]);
    assert_eq!((err.as_str(), code), ("2 entries\n", 0));
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&rows[0]["kind"], &rows[1]["kind"]), (&"call.closed".into(), &"call.opened".into()));
    assert_eq!(rows[0]["call"], rows[1]["id"]);
    assert_eq!(rows[0]["identity"]["subject"], "alice");
    for (filter, expected) in [
        (vec!["--decision", "deny", "--reason", "policy.denied"], 1),
        (vec!["--kind", "call.opened", "--tool", "read_file"], 1),
        (vec!["--where", "outcome=ok"], 1),
        (vec!["--since", "2025-10-09T08:53:22Z"], 3),
        (vec!["--until", "2025-10-09T08:53:22Z"], 2),
        (vec!["--server", "other"], 0),
        (vec!["--subject", "mallory"], 0),
    ] {
        let arguments: Vec<_> =
            ["search", "--format", "json"].into_iter().chain(filter.iter().copied()).collect();
        let (out, _, code) = run(scene.path(), &arguments);
        assert_eq!((out.lines().count(), code), (expected, 0), "{filter:?}");
    }
    assert_eq!(run(scene.path(), &["search", "--kind", "nonsense"]).2, 2);
    assert_eq!(run(scene.path(), &["search", "--where", "nonsense"]).2, 2);
    assert_eq!(run(&scene.path().join("nowhere"), &["search"]).2, 3);
}

#[test]
fn a_change_is_shown_with_what_it_was_about() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp::from_unix(1_760_000_000)));
    let audit = AuditFolder::open(folder.path(), Arc::new(SeededEntropy::new(1))).unwrap();
    let log = audit.start("secrets", clock, Options::default()).unwrap();
    let change = |method: Option<&str>| {
        let change = Change { entity: "secret".into(), name: "API_KEY".into(), from: None, to: None };
        let details = Details { change: Some(change), method: method.map(Into::into), ..Details::default() };
        Event::new(Kind::SecretChanged).by(&Caller::local_owner()).with(details)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let _ = log.note(change(None)).await.unwrap();
        let _ = log.note(change(Some("PUT"))).await.unwrap();
    });
    let (out, _, _) = run(folder.path(), &["search", "--kind", "secret.changed"]);
    let cells: Vec<_> = out.lines().filter(|line| line.contains("secret.changed")).collect();
    assert_eq!(cells.len(), 2, "{out}");
    assert_eq!(cells.iter().filter(|line| line.contains("secret API_KEY")).count(), 1, "{out}");
    assert_eq!(cells.iter().filter(|line| line.contains("PUT")).count(), 1, "{out}");
}

#[test]
fn an_erased_person_is_a_pseudonym_and_the_log_still_verifies() {
    let scene = scene();
    let audit = AuditFolder::open(scene.path(), Arc::new(SeededEntropy::new(9))).unwrap();
    assert!(audit.persons().erase(&Caller::new("https://id.example", "alice", "ide")).unwrap());
    let (out, _, _) = run(scene.path(), &["tail"]);
    assert!(!out.contains("alice") && out.contains("person:") && out.contains("bob"), "{out}");
    let (out, err, code) = run(scene.path(), &["search", "--subject", "alice"]);
    assert_eq!((out.as_str(), code), ("", 0));
    assert!(err.contains("never seen, or erased"));
    assert_eq!(run(scene.path(), &["verify"]).2, 0);
}

#[test]
fn verify_is_plain_about_what_it_finds_and_what_it_cannot_tell() {
    let scene = scene();
    let kept = tempfile::tempdir().unwrap();
    let kept_path = kept.path().to_str().unwrap();
    let (out, err, code) = run(scene.path(), &["verify", "--save", kept_path]);
    assert_eq!((out.as_str(), code), ("gate: good, entries 0 to 4\n", 0));
    assert!(err.contains("--expect") && err.contains("--key"), "{err}");

    let key = scene.path().join("audit.pub");
    let arguments = ["verify", "--key", key.to_str().unwrap(), "--expect", kept_path, "--format", "json"];
    let (out, err, code) = run(scene.path(), &arguments);
    assert_eq!((err.as_str(), code), ("", 0));
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&verdict["agreed"], &verdict["size"], &verdict["problem"]),
        (&1.into(), &5.into(), &Value::Null)
    );

    // Altered.
    let file = scene.path().join("gate/00000000000000000000.jsonl");
    let honest = fs::read_to_string(&file).unwrap();
    fs::write(&file, honest.replace("policy.denied", "policy.permit")).unwrap();
    let (out, _, code) = run(scene.path(), &arguments[..3]);
    assert_eq!(code, 1);
    assert!(
        out.starts_with("gate: BAD: entries 3 to 3 (line 8 of segment 0) are not what was signed\n"),
        "{out}"
    );

    // Rolled back.
    let cut: Vec<_> = honest.lines().take(3).collect();
    fs::write(&file, cut.join("\n") + "\n").unwrap();
    assert_eq!(run(scene.path(), &["verify"]).2, 0, "not without a checkpoint kept elsewhere");
    let (out, _, code) = run(scene.path(), &["verify", "--expect", kept_path]);
    assert_eq!(code, 1);
    assert!(out.contains("rolled back: it had 5 entries once and has 1 now"), "{out}");

    // Gone.
    fs::rename(scene.path().join("gate"), scene.path().join("gone")).unwrap();
    fs::remove_dir_all(scene.path().join("gone")).unwrap();
    assert_eq!(run(scene.path(), &["verify", "--expect", kept_path]).2, 3, "nothing to verify is no success");
}

#[test]
fn a_proof_convinces_whoever_has_the_key_and_nobody_with_another() {
    let scene = scene();
    let (found, _, _) = run(scene.path(), &["search", "--kind", "authorization.decided", "--format", "json"]);
    let id = serde_json::from_str::<Value>(&found).unwrap()["id"].as_str().unwrap().to_owned();
    let (proof, _, code) = run(scene.path(), &["prove", "--id", &id]);
    assert_eq!(code, 0);
    assert!(proof.starts_with("c2sp.org/tlog-proof@v1\nextra "));
    assert_eq!(run(scene.path(), &["prove", "--seq", "3"]).0, proof);
    let file = scene.path().join("entry.tlog-proof");
    fs::write(&file, &proof).unwrap();
    let (out, err, code) = run(scene.path(), &["prove", "--check", file.to_str().unwrap()]);
    assert_eq!((code, out.contains(&id)), (0, true));
    assert!(err.contains("this is entry 3"), "{err}");
    fs::write(&file, proof.replace("index 3", "index 2")).unwrap();
    assert_eq!(run(scene.path(), &["prove", "--check", file.to_str().unwrap()]).2, 1);
    let other = tempfile::tempdir().unwrap();
    AuditFolder::open(other.path(), Arc::new(SeededEntropy::new(77))).unwrap();
    fs::write(&file, &proof).unwrap();
    let key = other.path().join("audit.pub");
    let arguments = ["prove", "--check", file.to_str().unwrap(), "--key", key.to_str().unwrap()];
    assert_eq!(run(scene.path(), &arguments).2, 1);
    assert_eq!(run(scene.path(), &["prove"]).2, 2);
}

#[test]
fn export_prints_every_format_oldest_first() {
    let scene = scene();
    for (format, who) in [
        ("jsonl", "/identity/subject"),
        ("ocsf", "/actor/user/name"),
        ("otlp", "/attributes/2/value/stringValue"),
        ("sentinel", "/Person"),
    ] {
        let (out, err, code) = run(scene.path(), &["export", "--to", format]);
        assert_eq!((err.as_str(), code), ("", 0), "{format}");
        let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.len(), 5);
        assert!(
            events[1].pointer(who).and_then(Value::as_str).is_some_and(|w| w.ends_with("alice")),
            "{}",
            events[1]
        );
    }
    assert!(run(scene.path(), &["export", "--to", "cef"]).0.starts_with("CEF:0|Bartizan|"));
    assert!(
        run(scene.path(), &["export", "--to", "syslog"])
            .0
            .starts_with("<110>1 2025-10-09T08:53:20.000Z localhost ")
    );
}

#[test]
fn help_teaches() {
    let folder = tempfile::tempdir().unwrap();
    for (command, words) in [
        ("verify", "\n  bartizan audit verify --key /media/safe/audit.pub --save /media/safe/checkpoints\n"),
        ("search", "\n  bartizan audit search --subject alice --decision deny --since 7d\n"),
        ("prove", "\n  bartizan audit prove --check entry.tlog-proof --key audit.pub\n"),
    ] {
        let (out, _, code) = run(folder.path(), &[command, "--help"]);
        assert_eq!(code, 0);
        assert!(out.contains(words), "{out}");
    }
}
