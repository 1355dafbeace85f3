//! What a configuration that is read again may change, and who is cut off for good.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use bartizan_trials::{Gate, Upstream, eventually};
use rustix::process::Signal;
use serde_json::Value;

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

/// What is withheld until a person has looked.
const WITHHELD: i64 = -31005;

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
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
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

/// Entries of `policy.changed`, as `audit search` shows them, oldest first.
fn policy_changes(gate: &Gate) -> Vec<Value> {
    let done = std::process::Command::new(bartizan_trials::binary())
        .args(["audit", "search", "--kind", "policy.changed", "--format", "json"])
        .current_dir(gate.folder())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut entries: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    entries.sort_by_key(|entry| entry["seq"].as_u64());
    entries
}

/// What watches the gate is part of its configuration: where it cannot be, none of the rest comes into force either.
#[test]
fn ph_27_alerts_that_cannot_be_leave_the_policies_and_the_alerts_as_they_were() {
    let up = Upstream::modern(|_, _| false);
    let alert = |name: &str, when: &str| {
        format!(
            "[[alerts]]\nname = \"{name}\"\nmatch = {{ kinds = [\"call.closed\"] }}\nquiet_s = 0\n{when}\n"
        )
    };
    let here = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    let counts = alert("watched", "");
    let gate = Gate::start(&format!("{}{counts}", up.config("up", "")));
    let raised = || gate.log().matches("an alert was raised").count();
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    eventually("an alert", || (raised() > 0).then_some(()));
    let policies = gate.folder().join("policies");
    fs::create_dir(&policies).unwrap();
    let forbid = r#"@id("stop") forbid (principal, action, resource == Tool::"up/echo");"#;
    fs::write(policies.join("stop.cedar"), forbid).unwrap();
    // There is no place for what the new rule sees.
    fs::write(gate.state().join("alerts"), "").unwrap();
    let learns = alert("new", "by = [\"tool\"]\nwhen = { kind = \"first-seen\", learn_s = 60 }");
    refuses_to_read(
        &gate,
        &format!("{here}[policy]\ndir = \"policies\"\n{}{counts}{learns}", up.config("up", "")),
    );
    assert_eq!(policy_changes(&gate).len(), 1, "the policies are those from the start");
    let before = raised();
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    eventually("the alert that was there before", || (raised() > before).then_some(()));
}

#[test]
fn ph_24_policies_from_the_disk_are_recorded_with_what_they_change_also_when_they_are_refused() {
    let up = Upstream::modern(|_, _| false);
    let policies = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(policies.path().join(name), text).unwrap();
    let permit = |id: &str, tool: &str| {
        format!(r#"@id("{id}") permit (principal, action, resource == Tool::"up/{tool}");"#)
    };
    let forbid = r#"@id("stop") forbid (principal in Role::"nobody", action, resource);"#;
    write("kept.cedar", &permit("kept", "a"));
    write("turned.cedar", &permit("turned", "b"));
    write("gone.cedar", &permit("gone", "c"));
    let gate = Gate::start(&format!("[policy]\ndir = {:?}\n{}", policies.path(), up.config("up", "")));
    let reload = |times: usize| {
        gate.signal(Signal::HUP);
        eventually("an entry", || Some(policy_changes(&gate)).filter(|entries| entries.len() == times))
    };
    let first = policy_changes(&gate);
    assert_eq!(first.len(), 1, "what is in force from the start on");
    assert!(first[0]["change"]["to"].is_string() && first[0]["change"]["from"].is_null(), "{}", first[0]);

    write("turned.cedar", &permit("turned", "d"));
    write("new.cedar", forbid);
    fs::remove_file(policies.path().join("gone.cedar")).unwrap();
    let changed = reload(2).pop().unwrap();
    assert_eq!(changed["decision"], "permit", "{changed}");
    let mut ids: Vec<_> = changed["policies"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    ids.sort_unstable();
    assert_eq!((ids, &changed["count"]), (vec!["gone", "stop", "turned"], &3.into()));
    assert_eq!(changed["message"], "added `stop`; changed `turned`; removed `gone`");
    let (from, to) = (&changed["change"]["from"], &changed["change"]["to"]);
    assert!(from.is_string() && to.is_string() && from != to, "{changed}");

    // A bad bundle leaves the old one, and says so.
    write("bad.cedar", "forbid (principal");
    let refused = reload(3).pop().unwrap();
    assert_eq!((&refused["decision"], &refused["reason"]), (&"deny".into(), &"policy.unusable".into()));
    assert_eq!((&refused["change"]["from"], &refused["change"]["to"]), (to, &Value::Null), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("bad.cedar"), "{refused}");

    // The same policies again are no change.
    fs::remove_file(policies.path().join("bad.cedar")).unwrap();
    let again = gate.log().matches("the configuration was read again").count();
    gate.signal(Signal::HUP);
    eventually("another look", || {
        (gate.log().matches("the configuration was read again").count() > again).then_some(())
    });
    assert_eq!(policy_changes(&gate).len(), 3);
}

/// The server of another address is another server, from the first moment.
#[test]
fn sc_01_what_was_approved_of_one_address_is_called_at_no_other() {
    let serving = || {
        Upstream::modern(|heard, pen| match heard.rpc().as_str() {
            "tools/list" => {
                let tools = r#"[{"name":"add","description":"Adds.","inputSchema":{"type":"object"}}]"#;
                let list = format!(
                    r#"{{"resultType":"complete","tools":{tools},"ttlMs":0,"cacheScope":"private"}}"#
                );
                pen.result(&heard.id(), &list);
                true
            }
            _ => false,
        })
    };
    let (one, other) = (serving(), serving());
    let at = |up: &Upstream| {
        format!("[[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n", up.url())
    };
    let gate = Gate::start(&at(&one));
    assert_eq!(gate.client().call("/mcp/s", "add", "{}").outcome(), 200);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_done.load(Ordering::SeqCst) {
                    gate.client().call("/mcp/s", "add", "{}");
                }
            });
        }
        // Whatever comes of this: the others go on until then.
        let _done = Done(&is_done);
        gate.reconfigure(&at(&other));
        let held = || gate.client().call("/mcp/s", "add", "{}").code() == Some(WITHHELD);
        eventually("it is held", || held().then_some(()));
    });
    assert!(other.heard_of("tools/call").is_empty(), "nobody has approved that");
    assert!(!one.heard_of("tools/call").is_empty());
    // Back where it was, it waits for a person like everything that came back.
    gate.reconfigure(&at(&one));
    let before = one.heard_of("tools/call").len();
    assert_eq!(gate.client().call("/mcp/s", "add", "{}").code(), Some(WITHHELD));
    assert_eq!(one.heard_of("tools/call").len(), before);
}

/// Says at its end that it is done.
struct Done<'d>(&'d AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
