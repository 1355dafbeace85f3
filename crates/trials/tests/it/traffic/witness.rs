//! A second machine's memory of the log: what grows is signed, what is rolled back or forked is not.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bartizan_trials::{Gate, Upstream, binary, eventually};
use rustix::process::Signal;

use super::records::{audit, entries, of_kind};

/// `bartizan audit witness` for the logs of one gate.
struct Witness {
    process: Child,
    url: String,
    key: String,
}

impl Witness {
    fn start(state: &Path, public_key: &Path) -> Self {
        let mut process = Command::new(binary())
            .args(["audit", "witness", "--listen", "127.0.0.1:0", "--name", "witness.example/1", "--state"])
            .arg(state)
            .arg("--log")
            .arg(public_key)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (mut url, mut key) = (String::new(), String::new());
        let value = |line: &str| line.split('"').nth(1).unwrap().to_owned();
        for line in lines.map_while(Result::ok) {
            if line.starts_with("url = ") {
                url = value(&line);
            }
            if line.starts_with("key = ") {
                key = value(&line);
                break;
            }
        }
        assert!(!key.is_empty(), "it says who it is");
        Self { process, url, key }
    }

    fn config(&self, more: &str) -> String {
        format!("[audit.witness]\nurl = \"{}\"\nkey = \"{}\"\nevery_s = 1\n{more}\n", self.url, self.key)
    }

    fn stop(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A number of `/metrics`.
fn metric(gate: &Gate, name: &str) -> Option<u64> {
    let page = gate.admin().request("GET", "/metrics").send().text();
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn witnessed(gate: &Gate) -> u64 {
    metric(gate, "bartizan_witness_entries").unwrap_or(0)
}

fn public_key(gate: &Gate) -> PathBuf {
    gate.state().join("audit/audit.pub")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_log_that_grows_is_signed_and_one_that_is_rolled_back_with_all_its_keys_is_refused() {
    let up = Upstream::modern(|_, _| false);
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("witness");
    let mut gate = Gate::start(&up.config("up", ""));
    let witness = Witness::start(&memory, &public_key(&gate));
    let config = format!("{}{}", witness.config(""), up.config("up", ""));
    gate.reconfigure(&config);
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    let first = eventually("it is signed", || Some(witnessed(&gate)).filter(|n| *n > 0));
    assert_eq!(metric(&gate, "bartizan_witness_failing"), Some(0));

    // The state as it is now, whole: log, keys, people and what the witness signed.
    gate.signal(Signal::KILL);
    gate.wait();
    let (log, kept) = (gate.state().join("audit/gate-0"), folder.path().join("kept"));
    copy(&log, &kept);
    gate.restart();
    for _ in 0..5 {
        assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    }
    let grown = eventually("its growth is signed", || Some(witnessed(&gate)).filter(|n| *n > first + 10));
    let (code, out, err) = audit(&gate, &["verify", "--witness-key", &witness.key]);
    assert!(code == Some(0) && out.contains("witnessed up to entry"), "{out}{err}");
    let memory = memory.to_str().unwrap();
    assert_eq!(audit(&gate, &["verify", "--expect", memory]).0, Some(0), "its memory agrees");
    let stranger = "witness.example/1+00000000+BAAA";
    assert_eq!(audit(&gate, &["verify", "--witness-key", stranger]).0, Some(3), "that is nobody's key");

    gate.signal(Signal::KILL);
    gate.wait();
    fs::remove_dir_all(&log).unwrap();
    copy(&kept, &log);
    gate.restart();
    eventually("it is refused", || (metric(&gate, "bartizan_witness_refuses") == Some(1)).then_some(()));
    let alarm = eventually("there is an alarm", || {
        let all = entries(&gate);
        let alarms = of_kind(&all, "alert.raised");
        alarms.into_iter().find(|e| e["reason"].as_str().is_some_and(|r| r.starts_with("witness."))).cloned()
    });
    assert!(
        ["witness.rolled_back", "witness.forked"].contains(&alarm["reason"].as_str().unwrap()),
        "{alarm}"
    );
    let (code, out, _) = audit(&gate, &["verify", "--expect", memory]);
    assert!(code == Some(1) && (out.contains("rolled back") || out.contains("rewritten")), "{out}");
    assert_eq!(audit(&gate, &["verify"]).0, Some(0), "nothing but the witness tells it from a young log");
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200, "an alarm is no stop");
    assert!(grown > first);

    // … unless it is required: then nothing goes on until a person has looked.
    let required = format!("{}{}", witness.config("required = true"), up.config("up", ""));
    gate.reconfigure(&required);
    let heard = up.heard_of("tools/call").len();
    let refused = gate.client().call("/mcp/up", "echo", "{}");
    assert_ne!(refused.outcome(), 200, "{}", refused.text());
    assert_eq!(up.heard_of("tools/call").len(), heard, "it heard of nothing");
    let origin = fs::read_to_string(public_key(&gate)).unwrap();
    let origin = format!("{}/gate-0", origin.split('+').next().unwrap());
    witness.stop();
    let forgotten = Command::new(binary())
        .args(["audit", "witness", "--state", memory, "--name", "witness.example/1", "--forget", &origin])
        .output()
        .unwrap();
    assert!(forgotten.status.success(), "{}", String::from_utf8_lossy(&forgotten.stderr));
    let again = Witness::start(Path::new(memory), &public_key(&gate));
    // What is kept beside the log tells of the history that is gone.
    fs::remove_file(log.join("witness-witness-example-1.checkpoint")).unwrap();
    gate.reconfigure(&format!("{}{}", again.config("required = true"), up.config("up", "")));
    eventually("it is signed again", || {
        (gate.client().call("/mcp/up", "echo", "{}").outcome() == 200).then_some(())
    });
}

#[test]
fn a_witness_that_is_away_is_an_alarm_and_a_stop_only_where_it_is_required() {
    let up = Upstream::modern(|_, _| false);
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::start(&up.config("up", ""));
    let witness = Witness::start(folder.path(), &public_key(&gate));
    gate.reconfigure(&format!("{}{}", witness.config(""), up.config("up", "")));
    eventually("it is signed", || (witnessed(&gate) > 0).then_some(()));
    let (config, required) = (witness.config(""), witness.config("required = true\nmax_age_s = 1"));
    witness.stop();
    eventually("it is missed", || (metric(&gate, "bartizan_witness_failing") == Some(1)).then_some(()));
    eventually("there is an alarm", || {
        let all = entries(&gate);
        of_kind(&all, "alert.raised").iter().any(|e| e["reason"] == "witness.unreachable").then_some(())
    });
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200, "an alarm is no stop");
    assert!(config != required);

    gate.reconfigure(&format!("{required}{}", up.config("up", "")));
    let heard = up.heard_of("tools/call").len();
    let refused = gate.client().call("/mcp/up", "echo", "{}");
    assert_ne!(refused.outcome(), 200, "{}", refused.text());
    assert_eq!(up.heard_of("tools/call").len(), heard);
    let back = Witness::start(folder.path(), &public_key(&gate));
    let config = back.config("required = true\nmax_age_s = 600");
    gate.reconfigure(&format!("{config}{}", up.config("up", "")));
    eventually("it goes on", || (gate.client().call("/mcp/up", "echo", "{}").outcome() == 200).then_some(()));
    let other = Witness::start(&folder.path().join("other"), &public_key(&gate));
    assert_ne!(other.key, back.key, "another memory is another witness");
}
