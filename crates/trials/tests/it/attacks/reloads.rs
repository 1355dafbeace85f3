//! What a configuration that is read again may change, and who is cut off for good.

use std::fs;

use bartizan_trials::{Gate, Upstream, eventually};
use rustix::process::Signal;

use super::tokens::Scene;

/// The gate keeps out a stranger, whatever its configuration file says by now.
fn refuses_strangers(gate: &Gate) {
    assert_eq!(gate.stranger().call("/mcp/up", "echo", "{}").status, 401);
}

fn refuses_to_read(gate: &Gate, config: &str) {
    let refused = |log: String| log.matches("the configuration stays as it was").count();
    let before = refused(gate.log());
    fs::write(gate.folder().join("bartizan.toml"), config).unwrap();
    gate.signal(Signal::HUP);
    eventually("the refusal", || (refused(gate.log()) > before).then_some(()));
}

#[test]
fn ph_27_a_configuration_that_is_refused_lets_nobody_in() {
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    refuses_strangers(&gate);
    let policies = gate.folder().join("policies");
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("bad.cedar"), "permit (").unwrap();
    let open = "[identity]\ndangerous_open = true\n";
    let here = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    refuses_to_read(&gate, &format!("{here}{open}[policy]\ndir = \"policies\"\n{}", up.config("up", "")));
    refuses_strangers(&gate);
    // What is safe at another address is not safe at this one.
    let elsewhere = here.replace("listen = \"127.0.0.1:0\"\nadmin", "listen = \"127.0.0.1:1\"\nadmin");
    refuses_to_read(&gate, &format!("{elsewhere}{open}{}", up.config("up", "")));
    refuses_strangers(&gate);
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").status, 200);
}

#[test]
fn aa_29_who_is_cut_off_and_let_in_again_needs_a_new_token() {
    let scene = Scene::start();
    let token = scene.token("ann", "/mcp/new");
    assert_eq!(scene.status(token.clone()), 200);
    let respond = |arguments: &[&str]| {
        let config = scene.gate.folder().join("bartizan.toml");
        let done = std::process::Command::new(bartizan_trials::binary())
            .args(["respond"])
            .args(arguments)
            .arg("--config")
            .arg(config)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let issuer = scene.issuer.name();
    let ann = ["--person", "ann", "--issuer", &issuer];
    respond(&[&["revoke"][..], &ann].concat());
    eventually("the revocation", || (scene.status(token.clone()) == 401).then_some(()));
    respond(&[&["release"][..], &ann].concat());
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(scene.status(token), 401, "what was held before is worth nothing");
    let bob = scene.token("bob", "/mcp/new");
    assert_eq!(scene.status(bob), 200, "nobody else was meant");
}
