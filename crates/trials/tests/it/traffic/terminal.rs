//! A gate in somebody's terminal, where it prints what goes into no log: a link that signs in, and the token.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
};

use bartizan_trials::{Client, Upstream, binary, eventually, kill};
use rustix::process::Signal;

#[test]
fn a_gate_in_a_terminal_serves_after_it_has_printed_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bartizan.toml");
    let up = Upstream::modern(|_, _| false);
    let ports = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    fs::write(&config, format!("{ports}{}", up.config("up", ""))).unwrap();
    // A terminal of its own (util-linux).
    let command = format!("{} run --config {}", binary().display(), config.display());
    let mut terminal = Command::new("script")
        .args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut find = |what: &str| {
        let line = lines.find(|line| line.contains(what)).unwrap_or_else(|| panic!("it prints `{what}`"));
        line[line.find(what).unwrap()..].trim().to_owned()
    };
    let address = find("http://").trim_start_matches("http://").parse().unwrap();
    let link = find("/oauth/sign-in?link=");
    let told = find("Authorization: Bearer ");
    let token = told.split('"').next().unwrap().trim_start_matches("Authorization: Bearer ").to_owned();
    thread::spawn(move || lines.for_each(drop));

    let (owner, stranger) = (Client::new(address, Some(token)), Client::new(address, None));
    let page = stranger.request("GET", &link).send();
    assert!(page.status == 200 && page.text().contains("Sign in"), "{}", page.text());
    assert_eq!(owner.call("/mcp/up", "echo", "{}").outcome(), 200);
    kill(terminal.id(), Signal::TERM);
    eventually("the terminal is closed", || terminal.try_wait().unwrap());
}
