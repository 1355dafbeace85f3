//! Many servers behind one gate, and many gates over one store.

use std::{fmt::Write, fs, thread};

use bartizan_trials::{Gate, Wrapped, prober_path};
use rustix::process::Signal;

use crate::text;

/// So many servers as a trial can afford.
const SERVERS: usize = 40;

/// Words of a gate that cannot keep up.
const FAILURES: [&str; 8] = [
    "database is locked",
    "timed out",
    "slow threshold",
    "cannot be kept",
    "cannot be read",
    "could not be pinned",
    "could not be looked at",
    "Too many open files",
];

/// So many pinned servers, each a process for every session.
fn servers(count: usize) -> String {
    let program = prober_path().display().to_string();
    (0..count).fold(String::new(), |mut config, n| {
        let _ = writeln!(
            config,
            "[[servers]]\nname = \"s{n}\"\ncommand = [{program:?}, \"--legacy\", \"{n}\"]\ntrust_on_first_use = true"
        );
        config
    })
}

/// That nothing failed of which the log would tell.
fn kept_up(gate: &Gate) {
    let log = gate.log();
    // What is for whoever works on the gate is no failure.
    let told = log.lines().filter(|line| !line.contains(" DEBUG "));
    let failed: Vec<_> =
        told.filter(|line| FAILURES.iter().any(|words| line.contains(words))).take(5).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// How many file descriptors of a process lead to files whose name ends so.
fn open_files(pid: u32, end: &str) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().ends_with(end)).count()
}

/// Opens `count` sessions of all servers at once; each must have every server.
fn open_sessions(gate: &Gate, count: usize) -> Vec<bartizan_trials::Session> {
    let opened: Vec<_> = thread::scope(|scope| {
        let opening: Vec<_> =
            (0..count).map(|_| scope.spawn(|| gate.client().session("/mcp", "2025-11-25", "{}"))).collect();
        opening.into_iter().map(|opened| opened.join().unwrap()).collect()
    });
    for session in &opened {
        let hello = session.opened.json();
        assert!(!text(&hello, "/result/instructions").contains("Not available"), "{hello}");
    }
    opened
}

#[test]
fn every_one_of_many_servers_begins_and_sessions_of_all_of_them_open_at_once() {
    let mut gate = Gate::start(&servers(SERVERS));
    let sessions = open_sessions(&gate, 4);
    thread::scope(|scope| {
        for session in &sessions {
            scope.spawn(move || {
                let listed = session.request("1", "tools/list", "").send();
                for n in 0..SERVERS {
                    assert!(listed.text().contains(&format!("\"s{n}__echo\"")), "s{n}: {}", listed.text());
                }
                let last = format!("s{}__echo", SERVERS - 1);
                assert_eq!(session.call("2", &last, r#"{"a":1}"#).send().said(), r#"{"a":1}"#);
            });
        }
    });
    kept_up(&gate);
    // One that writes, some that read, and one that is asked about every call.
    let connections = open_files(gate.pid(), "/store.db");
    assert!(connections <= 6, "{connections} connections to the store");
    gate.signal(Signal::TERM);
    assert!(gate.wait().success(), "every process is stopped");
}

/// Most systems begin with 1024, which is as few for a hundred servers as this is here.
#[test]
fn a_gate_that_may_have_more_open_files_than_it_begins_with_takes_them() {
    let gate = Gate::start_by(&["prlimit", "--nofile=160:4096"], &servers(SERVERS));
    let sessions = open_sessions(&gate, 2);
    let looked = sessions[0].call("1", "s0__look", "{}").send().said();
    let status = fs::read_to_string(format!("/proc/{}/limits", gate.pid())).unwrap();
    assert!(
        status.lines().any(|line| line.starts_with("Max open files") && line.contains(" 4096 ")),
        "{status}"
    );
    let pid = serde_json::from_str::<serde_json::Value>(&looked).unwrap()["pid"].clone();
    let of_child = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(
        of_child.lines().any(|line| line.starts_with("Max open files") && line.contains(" 160 ")),
        "{of_child}"
    );
    kept_up(&gate);
}

#[test]
fn more_processes_than_there_is_room_for_are_refused_in_words_and_the_others_go_on() {
    let gate = Gate::start_by(&["prlimit", "--nofile=200:200"], &servers(SERVERS));
    let client = gate.client();
    let first = client.session("/mcp/s0", "2025-11-25", "{}");
    let mut refused = None;
    let mut held = Vec::new();
    for n in 1..SERVERS {
        let answer = client.initialize(&format!("/mcp/s{n}"), "2025-11-25", "{}").send();
        if answer.code().is_some() {
            refused = Some(answer);
            break;
        }
        held.push(answer);
    }
    let refused = refused.expect("there is an end of it");
    assert!(refused.error().contains("open files"), "{}", refused.text());
    assert_eq!(first.call("1", "echo", r#"{"a":1}"#).send().said(), r#"{"a":1}"#);
    assert!(!gate.log().contains("Too many open files"), "there is room for the store and the log");
}

#[test]
fn twenty_wraps_of_one_state_begin_at_once() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    thread::scope(|scope| {
        for n in 0..20 {
            let (home, folder) = (home.path(), folder.path());
            scope.spawn(move || {
                // Each another server, as a desktop client has them.
                let number = n.to_string();
                let mut wrapped = Wrapped::start(home, folder, &["--legacy", &number]);
                wrapped.say(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#);
                assert_eq!(text(&wrapped.message(), "/result/serverInfo/name"), "prober");
                wrapped.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
                wrapped.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
                let listed = wrapped.message();
                assert!(listed.to_string().contains("\"echo\""), "{listed}");
                wrapped.say(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"a":1}}}"#);
                assert_eq!(text(&wrapped.message(), "/result/content/0/text"), r#"{"a":1}"#);
                let ended = wrapped.finish();
                assert!(ended.success(), "{ended}");
            });
        }
    });
}
