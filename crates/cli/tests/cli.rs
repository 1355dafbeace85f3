//! The command line as people and scripts meet it: exit code, standard output, standard error.
//!
//! That there is a test here also makes Cargo build `bartizan` before the trials, which run it.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use bartizan_shield::drift::{Definition, LockFile, Locked};

/// A pack of rules that finds one word.
const RULES: &str = r#"
[[rule]]
id = "house.marmalade"
title = "speaks of marmalade"
category = "injection"
source = "house rules"
severity = { result = "high", definition = "high" }
keywords = ["marmalade"]
patterns = ["\\bmarmalade\\b"]
caught = ["the marmalade is a lie", "more marmalade"]
harmless = ["the jam is honest", "no word of it"]
"#;

const GOOD: &str = "[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n";

fn bartizan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .output()
        .expect("the binary starts")
}

/// Puts a secret into the vault, which makes a state folder as the first start of a gate would.
fn begin(folder: &Path) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .args(["secrets", "set", "FIRST"])
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    process.stdin.take().expect("it is piped").write_all(b"marmalade\n").expect("it is read");
    let output = process.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
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

#[test]
fn keys_are_rotated_where_a_gate_has_run_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let output = bartizan(folder.path(), &["keys", "rotate"]);
    let words = said(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("no gate has run here") && !words.contains("destroyed"), "{words}");
    assert!(!folder.path().join(".bartizan").exists(), "no state is made");
}

#[test]
fn the_keys_are_told_to_programs_too() {
    let folder = tempfile::tempdir().unwrap();
    let status = || {
        let output = bartizan(folder.path(), &["keys", "status", "--format", "json"]);
        let told: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output.stderr)));
        (output.status.code(), told)
    };
    let (code, none) = status();
    assert_eq!((code, &none["keys"], &none["provider"]), (Some(0), &"none".into(), &"file".into()), "{none}");
    assert!(none.get("gate_key").is_none() && none.get("error").is_none(), "{none}");
    begin(folder.path());
    let (code, open) = status();
    assert_eq!((code, &open["keys"], &open["older"]), (Some(0), &"open".into(), &0.into()), "{open}");
    for shown in ["root_key", "file", "gate_key", "persons_root"] {
        assert!(open[shown].is_string(), "{shown}: {open}");
    }
    let root = folder.path().join(".bartizan/seal.key");
    let good = fs::read(&root).unwrap();
    let mut other = good.clone();
    other[0] = if good[0] == b'1' { b'2' } else { b'1' };
    fs::write(&root, other).unwrap();
    let (code, shut) = status();
    assert!(code == Some(1) && shut["keys"] == "shut" && shut["error"].is_string(), "{shut}");
    fs::write(&root, good).unwrap();
    fs::rename(folder.path().join(".bartizan/keys.json"), folder.path().join("keys.json")).unwrap();
    let (code, lost) = status();
    assert!(code == Some(1) && lost["keys"] == "lost" && lost["error"].is_string(), "{lost}");
}

/// Commands that show something and decide nothing, where no gate has run: they say so, and leave nothing behind that looks as
/// if one had.
#[test]
fn looking_makes_no_state() {
    let folder = tempfile::tempdir().unwrap();
    let key = said(&bartizan(folder.path(), &["shield", "bundle", "keygen", "--out", "key.pem"]).stdout);
    fs::write(folder.path().join("rules.toml"), RULES).unwrap();
    let make =
        "shield bundle make --name acme --bundle-version 1 --rules rules.toml --key key.pem --out acme.json";
    let made = bartizan(folder.path(), &make.split(' ').collect::<Vec<_>>());
    assert_eq!(made.status.code(), Some(0), "{}", said(&made.stderr));
    let bundle = format!("[shield.bundle]\npath = \"acme.json\"\nkeys = [\"{}\"]\n", key.trim());
    fs::write(folder.path().join("bartizan.toml"), format!("{GOOD}{bundle}")).unwrap();
    fs::write(folder.path().join("text"), "the marmalade is a lie").unwrap();
    let at = ["--config", "bartizan.toml"];
    for (command, code) in [
        ("shield test text", 1),
        ("shield eval --reports", 2),
        ("shield bundle verify acme.json", 0),
        ("tools list", 2),
        ("tools diff", 2),
        ("tools export", 2),
        ("tools quarantine list", 2),
        ("tools approvals list", 2),
        ("secrets list", 2),
        ("keys status", 0),
        ("doctor --offline", 0),
        ("admin list", 0),
        ("respond list", 2),
        ("policy flow show", 2),
        ("policy review list", 2),
        ("policy check", 0),
    ] {
        let arguments: Vec<_> = command.split(' ').chain(at).collect();
        let output = bartizan(folder.path(), &arguments);
        let words = said(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command}: {words}");
        assert!(code != 2 || words.contains("no gate has run here: there is no /"), "{command}: {words}");
        assert!(!folder.path().join(".bartizan").exists(), "{command}");
    }
    let mut wrapped = Command::new(env!("CARGO_BIN_EXE_bartizan"));
    wrapped.args(["tools", "list", "--wrapped"]).env_clear().env("XDG_STATE_HOME", folder.path());
    let output = wrapped.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output.stderr).contains("no `bartizan wrap` has run here"), "{}", said(&output.stderr));
    assert!(!folder.path().join("bartizan").exists());

    // A folder that somebody made with nothing in it is no state either, and stays as it is.
    fs::create_dir(folder.path().join(".bartizan")).unwrap();
    for command in ["tools list", "secrets list", "shield test text", "doctor --offline"] {
        bartizan(folder.path(), &command.split(' ').chain(at).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(folder.path().join(".bartizan")).unwrap().count(), 0, "{command}");
    }
}

/// Commands that change something, where no gate has run: nothing would know of the change. A token is no gate.
#[test]
fn nothing_is_changed_where_no_gate_has_run() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join(".bartizan");
    fs::write(folder.path().join("text"), "the marmalade is a lie").unwrap();
    for has_token in [false, true] {
        if has_token {
            assert_eq!(bartizan(folder.path(), &["token"]).status.code(), Some(0));
        }
        for command in [
            "respond quarantine foo",
            "respond release foo",
            "respond revoke --client foo",
            "respond compromise foo",
            "tools approve foo --yes",
            "tools reject foo --yes",
            "tools release foo --yes",
            "secrets rotate FOO",
            "secrets remove FOO",
            "secrets erase --user local owner",
            "policy flow reset --yes",
            "policy review waive foo --until 90d --why foo",
            "keys rotate",
            "admin grant --role responder --person foo --issuer https://issuer.example --for 1h",
            "admin revoke --role responder --person foo --issuer https://issuer.example",
            "shield report --false-positive text",
            "shield report --false-negative foo",
        ] {
            let output = bartizan(folder.path(), &command.split(' ').collect::<Vec<_>>());
            let words = said(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command}: {words}");
            assert!(words.contains("no gate has run here: there is no /"), "{command}: {words}");
            assert_eq!(state.exists(), has_token, "{command}");
            for made in ["store.db", "keys.json", "seal.key", "audit"] {
                assert!(!state.join(made).exists(), "{command}: {made}");
            }
        }
    }
}

/// A gate in a fresh checkout may begin with what was reviewed; but whoever stands in the wrong folder is told before it does.
#[test]
fn a_lock_file_begins_a_state_only_where_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join(".bartizan");
    let run = |words: &str| bartizan(folder.path(), &words.split(' ').collect::<Vec<_>>());
    let definition = Definition::read("tool", r#"{"name":"read","description":"Reads a file"}"#).unwrap();
    let pin = Locked { server: "files".parse().unwrap(), kind: "tool".to_owned(), definition };
    let lock = LockFile::new(vec![pin]).unwrap().to_string();
    fs::write(folder.path().join("bartizan.lock"), &lock).unwrap();
    fs::write(folder.path().join("broken.lock"), lock.replace("Reads", "Sends")).unwrap();
    for (command, code, words) in [
        ("tools import bartizan.lock", 2, "there is no terminal to ask at"),
        ("tools import bartizan.lock --check", 1, "no gate has run here: there is no /"),
        ("tools import broken.lock --check", 3, "not a proper bartizan.lock"),
        ("tools import broken.lock --yes", 3, "not a proper bartizan.lock"),
        ("tools import missing.lock --yes", 3, "cannot read missing.lock"),
    ] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(code), "{command}: {}", said(&output.stderr));
        assert!(said(&output.stderr).contains(words), "{command}: {}", said(&output.stderr));
        assert!(!state.exists(), "{command}");
    }
    assert!(
        said(&run("tools import bartizan.lock --check").stdout).contains("Reads a file"),
        "all of it is new"
    );
    assert_eq!(run("tools import bartizan.lock --check --server other").status.code(), Some(0));
    let output = run("tools import bartizan.lock --yes");
    let words = said(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("no gate has run here: its state would begin in /"), "{words}");
    assert!(words.contains("/.bartizan with 1 definition(s)"), "{words}");
    assert_eq!(said(&run("tools export").stdout), lock);
    let again = run("tools import bartizan.lock --yes");
    assert_eq!(said(&again.stderr), "everything in it is approved already\n", "it is said once");
    let checked = run("tools import bartizan.lock --check");
    assert_eq!((checked.status.code(), said(&checked.stderr).as_str()), (Some(0), ""));
}

#[test]
fn an_audit_log_is_looked_for_where_a_gate_has_run() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["tail", "search", "verify", "export", "prove --seq 0"] {
        let arguments: Vec<_> = ["audit"].into_iter().chain(command.split(' ')).collect();
        let output = bartizan(folder.path(), &arguments);
        let words = said(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {words}");
        assert!(words.contains("no gate has run here") && words.contains("--dir"), "{command}: {words}");
        let output = bartizan(folder.path(), &[&arguments[..], &["--dir", "elsewhere"]].concat());
        assert_eq!(output.status.code(), Some(3), "{command}: {}", said(&output.stderr));
    }
    assert!(!folder.path().join(".bartizan").exists());
}

/// A store that has lost a part is not one that nobody has begun, and nothing is made in the place of what is gone.
#[test]
fn what_is_missing_of_a_store_is_named() {
    for (lost, commands) in [
        (
            "store.db",
            &[("doctor --offline", 1), ("tools list", 3), ("respond list", 3), ("keys rotate", 3)][..],
        ),
        (
            "keys.json",
            &[
                ("doctor --offline", 1),
                ("keys status", 1),
                ("tools list", 3),
                ("tools approve foo --yes", 3),
                ("secrets remove FIRST", 3),
                ("admin grant --role responder --person foo --issuer https://issuer.example --for 1h", 3),
                ("shield report --false-negative bartizan.lock", 3),
                ("tools import bartizan.lock --yes", 3),
                ("run", 3),
            ],
        ),
        ("audit", &[("doctor --offline", 1), ("audit tail", 3)]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join(".bartizan");
        begin(folder.path());
        fs::write(folder.path().join("bartizan.lock"), LockFile::new(vec![]).unwrap().to_string()).unwrap();
        let doctor = bartizan(folder.path(), &["doctor", "--offline"]);
        assert_eq!(doctor.status.code(), Some(0), "{}", said(&doctor.stdout));
        for file in [lost.to_owned(), format!("{lost}-wal"), format!("{lost}-shm")] {
            if state.join(&file).exists() {
                fs::rename(state.join(&file), folder.path().join(&file)).unwrap();
            }
        }
        for (command, code) in commands {
            let output = bartizan(folder.path(), &command.split(' ').collect::<Vec<_>>());
            let words = said(&[output.stdout, output.stderr].concat());
            assert_eq!(output.status.code(), Some(*code), "{command}: {words}");
            assert!(words.contains(&format!("{lost} is missing")), "{command}: {words}");
            assert!(
                words.contains("restore it from a backup; do not run the gate before"),
                "{command}: {words}"
            );
            assert!(!words.contains("no gate has run here"), "{command}: {words}");
            assert!(!state.join(lost).exists(), "{command}");
        }
        // With it back, all is as it was.
        fs::rename(folder.path().join(lost), state.join(lost)).unwrap();
        for end in ["-wal", "-shm"] {
            let beside = format!("{lost}{end}");
            if folder.path().join(&beside).exists() {
                fs::rename(folder.path().join(&beside), state.join(&beside)).unwrap();
            }
        }
        let listed = bartizan(folder.path(), &["secrets", "list"]);
        assert!(said(&listed.stdout).starts_with("FIRST  value 1"), "{}", said(&listed.stderr));
    }
}

/// Whoever checks policies before they are in force hears what `run` would say of them.
#[test]
fn a_role_that_nobody_has_is_said_wherever_policies_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[policy]\nrelease_role = \"raeders\"\n{GOOD}");
    fs::write(folder.path().join("bartizan.toml"), config).unwrap();
    for (command, code) in [("policy check", 1), ("config check", 0), ("doctor --offline", 0)] {
        let arguments: Vec<_> = command.split(' ').chain(["--config", "bartizan.toml"]).collect();
        let output = bartizan(folder.path(), &arguments);
        let words = said(&[output.stdout, output.stderr].concat());
        assert_eq!(output.status.code(), Some(code), "{command}: {words}");
        assert!(words.contains("[policy] release_role: nobody has the role `raeders`"), "{command}: {words}");
    }
}

/// Policies are checked as the gate judges: with what `may_ask` stands for, and with what makes them say less than they seem to.
#[test]
fn policies_are_checked_with_what_the_configuration_adds_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    let text = "@id(\"g\") permit (principal in Group::\"g\", action, resource);";
    fs::write(policies.join("a.cedar"), text).unwrap();
    let check = |config: &str| {
        let text = format!("{config}[policy]\ndir = \"policies\"\n");
        fs::write(folder.path().join("bartizan.toml"), text).unwrap();
        let output = bartizan(folder.path(), &["policy", "check", "--config", "bartizan.toml"]);
        (output.status.code(), said(&[output.stdout, output.stderr].concat()))
    };
    let (code, words) = check(GOOD);
    assert!(code == Some(0) && words.contains("0 warning"), "{words}");
    let count = |words: &str| -> u32 {
        let line = words.lines().find(|line| line.contains(" policies, ")).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    };
    // As people sort them, by team: a policy that is passed over may be one that forbids.
    fs::create_dir_all(policies.join("teams/a")).unwrap();
    fs::create_dir(policies.join(".git")).unwrap();
    fs::write(policies.join(".git/x.cedar"), "no policy").unwrap();
    fs::write(policies.join("teams/a/b.cedar"), "@id(\"b\") forbid (principal, action, resource);").unwrap();
    let (code, deeper) = check(GOOD);
    assert!(code == Some(1) && count(&deeper) == count(&words) + 1, "what it forbids never counts: {deeper}");
    fs::write(policies.join("teams/a/b.cedar"), "permit (principal").unwrap();
    for command in ["policy check", "config check", "run"] {
        let arguments: Vec<_> = command.split(' ').chain(["--config", "bartizan.toml"]).collect();
        let output = bartizan(folder.path(), &arguments);
        let words = said(&[output.stdout, output.stderr].concat());
        assert!(words.contains("policies/teams/a/b.cedar:1"), "{command}: {words}");
    }
    fs::remove_file(policies.join("teams/a/b.cedar")).unwrap();
    let (code, asking) = check(&format!("{GOOD}may_ask = [\"sampling\"]\n"));
    assert!(code == Some(0) && count(&asking) == count(&words) + 1, "{asking}");
    let (code, words) = check(&format!("{GOOD}dangerous_unpinned = true\n"));
    assert!(code == Some(1) && words.contains("whoever may list there may call there"), "{words}");
    let issuer =
        |name: &str| format!("[[identity.issuers]]\nkind = \"oidc\"\nissuer = \"https://{name}.example\"\n");
    let url = "[server]\npublic_url = \"https://gate.example\"\n[identity]\nmode = \"resource-server\"\n";
    let (code, words) = check(&format!("{url}{}{GOOD}", issuer("a")));
    assert!(code == Some(0), "{words}");
    let (code, words) = check(&format!("{url}{}{}{GOOD}", issuer("a"), issuer("b")));
    assert!(code == Some(1) && words.contains("policy `g`: it goes by groups or roles"), "{words}");
}

/// One person must not be two callers, one of whom approves what the other asks.
#[test]
fn an_issuer_whose_people_are_known_in_two_ways_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tenant = "3f2b6a10-0000-4000-8000-000000000001";
    let check = |provider: &str| {
        let config = format!(
            "{GOOD}[server]\npublic_url = \"https://gate.example\"\n[identity]\nmode = \"facade\"\n{provider}client_id = \"gate\"\n\
             credential = {{ method = \"client_secret_post\", secret = {{ env = \"SECRET\" }} }}\n\
             [[identity.issuers]]\nkind = \"entra\"\ntenant = \"{tenant}\"\nversions = [\"v2\"]\n"
        );
        fs::write(folder.path().join("bartizan.toml"), config).unwrap();
        let output = bartizan(folder.path(), &["config", "check", "--config", "bartizan.toml"]);
        said(&[output.stdout, output.stderr].concat())
    };
    let told = "so that one person is two callers";
    let oidc = format!(
        "[identity.provider]\nkind = \"oidc\"\nissuer = \"https://login.microsoftonline.com/{tenant}/v2.0\"\n"
    );
    assert!(check(&oidc).contains(told), "{}", check(&oidc));
    let entra = format!("[identity.provider]\nkind = \"entra\"\ntenant = \"{tenant}\"\n");
    assert!(!check(&entra).contains(told), "{}", check(&entra));
}

#[test]
fn a_server_that_is_not_there_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let output = bartizan(folder.path(), &["tools", "approve", "--server", "nope", "add", "--yes"]);
    let words = said(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("there is no server `nope`"), "{words}");
    let output = bartizan(folder.path(), &["tools", "approve", "--server", "nope", "--all", "--yes"]);
    let words = said(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("nothing waits: there is no server `nope`"), "{words}");
    let output = bartizan(folder.path(), &["tools", "approve", "add", "--yes"]);
    assert!(said(&output.stderr).contains("nothing is called `add`"), "{}", said(&output.stderr));
}

#[test]
fn examples_stand_on_lines_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    for (command, line) in [
        (&["wrap"][..], "\n  bartizan wrap -- npx -y @modelcontextprotocol/server-filesystem /srv/docs\n"),
        (&["shield", "report"], "\n  bartizan shield report --false-positive ID "),
        (&["tools", "approve"], "\n  bartizan tools approve --server files --all\n"),
        (
            &["shield", "bundle", "make"],
            "\n  bartizan shield bundle make --name acme --bundle-version 7 --rules house.toml \\\n      --key acme.pem",
        ),
        (
            &["shield", "bundle", "rotate"],
            "\n  bartizan shield bundle rotate acme.keys --next ed25519:NEW --key old.pem --key new.pem\n",
        ),
    ] {
        let help = bartizan(folder.path(), &[command, &["--help"]].concat());
        assert!(said(&help.stdout).contains(line), "{}", said(&help.stdout));
    }
}

/// A bundle by a key that was replaced is refused alike, whoever says which keys count, and what to do is said.
#[test]
fn keys_that_do_not_count_are_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &str| bartizan(folder.path(), &words.split(' ').collect::<Vec<_>>());
    let keygen =
        |file: &str| said(&run(&format!("shield bundle keygen --out {file}")).stdout).trim().to_owned();
    let (old, new) = (keygen("old.pem"), keygen("new.pem"));
    fs::write(folder.path().join("rules.toml"), RULES).unwrap();
    run("shield bundle make --name acme --bundle-version 1 --rules rules.toml --key old.pem --out old.json");
    run(&format!("shield bundle rotate acme.keys --next {new} --key old.pem --key new.pem"));
    let made = run(
        "shield bundle make --name acme --bundle-version 2 --rules rules.toml --chain acme.keys --key new.pem --out new.json",
    );
    assert_eq!(made.status.code(), Some(0), "{}", said(&made.stderr));
    // What was made before the chain, put behind it.
    let mut stale: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("old.json")).unwrap()).unwrap();
    let current: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("new.json")).unwrap()).unwrap();
    stale["chain"] = current["chain"].clone();
    fs::write(folder.path().join("stale.json"), stale.to_string()).unwrap();
    let config = format!("[shield.bundle]\npath = \"new.json\"\nkeys = [\"{old}\"]\n{GOOD}");
    fs::write(folder.path().join("bartizan.toml"), config).unwrap();
    for (by, named) in [
        (format!("--public-key {old}"), "note: --public-key must name"),
        ("--config bartizan.toml".to_owned(), "note: [shield.bundle] keys of bartizan.toml must name"),
    ] {
        assert_eq!(run(&format!("shield bundle verify new.json {by}")).status.code(), Some(0), "{by}");
        let refused = run(&format!("shield bundle verify stale.json {by}"));
        let words = said(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{words}");
        assert!(said(&refused.stdout).starts_with("bundle.retired: "), "{}", said(&refused.stdout));
        assert!(words.contains(named) && words.contains("bundle show stale.json"), "{words}");
    }
    let unsaid = run("shield bundle verify new.json");
    let words = said(&unsaid.stderr);
    assert_eq!(unsaid.status.code(), Some(2));
    assert!(words.contains("--public-key") && words.contains("--config"), "{words}");
    fs::write(folder.path().join("plain.toml"), GOOD).unwrap();
    let bare = run("shield bundle verify new.json --config plain.toml");
    assert!(said(&bare.stderr).contains("plain.toml has no [shield.bundle]"), "{}", said(&bare.stderr));
}

#[test]
fn the_shield_is_measured_by_the_configuration_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let row = "{\"text\":\"All is well.\",\"label\":0,\"kind\":\"result\"}\n";
    fs::write(folder.path().join("set.jsonl"), row).unwrap();
    let help = said(&bartizan(folder.path(), &["shield", "eval", "--help"]).stdout);
    assert!(help.contains("Judge as the gate of this configuration would"), "{help}");
    let eval = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bartizan"));
        command.args(["shield", "eval", "set.jsonl"]).args(arguments).current_dir(folder.path());
        command.env_clear().env("BARTIZAN_CONFIG", "missing.toml");
        command.output().expect("the binary starts")
    };
    let output = eval(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    let output = eval(&["--config", "other.toml"]);
    assert!(said(&output.stderr).contains("other.toml"), "{}", said(&output.stderr));
}

/// `config check` and `doctor` hear of what `run` would not start with, also where it stands in another file.
#[test]
fn what_keeps_a_gate_from_starting_is_found_before_it_is_started() {
    for (config, words) in [
        (
            "[policy]\ndir = \"nowhere\"\n[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n",
            "[policy] dir: ./nowhere",
        ),
        (
            "[policy]\ndir = \"policies\"\n[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n",
            "policies/a.cedar:1",
        ),
        (
            "[server]\ntls = { cert = \"no.pem\", key = \"no.key\" }\n[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n",
            "[server] tls.cert: ./no.pem",
        ),
        ("[[servers]]\nname = \"a\"\nurl = \"http://a.example.com/mcp\"\n", "server `a`: plain http://"),
        (
            "[[servers]]\nname = \"a\"\nurl = \"https://a.example.com/mcp\"\ntls = { ca = \"no.pem\" }\n",
            "no.pem",
        ),
        (
            "[[policy.grants]]\ntemplate = \"raeder\"\nrole = \"all\"\nserver = \"a\"\n[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n",
            "there is no template `raeder`",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        fs::write(folder.path().join("policies/a.cedar"), "permit (principal").unwrap();
        fs::write(folder.path().join("bartizan.toml"), config).unwrap();
        for (command, code) in [("config check", 2), ("doctor --offline", 1)] {
            let arguments: Vec<_> = command.split(' ').chain(["--config", "bartizan.toml"]).collect();
            let output = bartizan(folder.path(), &arguments);
            let said = said(&[output.stdout, output.stderr].concat());
            assert_eq!(output.status.code(), Some(code), "{command}: {said}");
            assert!(said.contains(words) && !said.contains("is good"), "{command}: {said}");
        }
        assert!(!folder.path().join(".bartizan").exists(), "nothing is made");
    }
}

/// Secrets and programs may be where the gate runs, and not where its configuration is checked.
#[test]
fn what_is_not_on_this_machine_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let servers = "[[servers]]\nname = \"a\"\ncommand = [\"/no/such/program\"]\n\
                   [[servers]]\nname = \"b\"\ncommand = [\"true\"]\nset_env = { KEY = { env = \"NO_SUCH_KEY\" } }\n\
                   [[servers]]\nname = \"c\"\nurl = \"https://c.example.com/mcp\"\n\
                   credential = { kind = \"secret\", value = { file = \"c.key\" } }\n\
                   [[servers]]\nname = \"d\"\ncommand = [\"true\"]\nset_env = { KEY = { vault = \"KEPT\" } }\n";
    fs::write(folder.path().join("bartizan.toml"), servers).unwrap();
    for command in ["config check", "doctor --offline"] {
        let arguments: Vec<_> = command.split(' ').chain(["--config", "bartizan.toml"]).collect();
        let output = bartizan(folder.path(), &arguments);
        let words = said(&[output.stdout, output.stderr].concat());
        assert_eq!(output.status.code(), Some(0), "{command}: {words}");
        for word in [
            "server `a`: there is no program `/no/such/program`",
            "server `b`: the environment variable NO_SUCH_KEY is not set",
            "without it the gate does not start",
            "server `c`: cannot read ./c.key",
            "without it its calls fail",
        ] {
            assert!(words.contains(word), "{command}: `{word}`: {words}");
        }
        assert!(!words.contains("server `d`"), "{command}: a vault is not asked: {words}");
    }
}

/// The policy commands know the gate of this folder without being told its configuration, as all others do.
#[test]
fn a_catalogue_is_that_of_the_gate_that_runs_here() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(said(&bartizan(folder.path(), &["policy", "catalog"]).stdout), "{}\n");
    begin(folder.path());
    let output = bartizan(folder.path(), &["policy", "catalog"]);
    assert!(said(&output.stdout).contains("\"sample\""), "{}", said(&output.stderr));
}

/// The log is found as everything else is: beside the configuration, or where `wrap` keeps it.
#[test]
fn an_audit_log_is_found_by_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("gate")).unwrap();
    fs::write(folder.path().join("gate/bartizan.toml"), GOOD).unwrap();
    begin(&folder.path().join("gate"));
    let output = bartizan(folder.path(), &["audit", "tail", "--config", "gate/bartizan.toml"]);
    let words = said(&output.stdout);
    assert!(words.contains("secret.changed"), "{words}{}", said(&output.stderr));
    let output = Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .args(["audit", "verify"])
        .current_dir(folder.path())
        .env_clear()
        .env("BARTIZAN_CONFIG", "gate/bartizan.toml")
        .output()
        .unwrap();
    assert!(said(&output.stdout).contains("good"), "{}", said(&output.stderr));
    let output = Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .args(["audit", "tail", "--wrapped"])
        .current_dir(folder.path())
        .env_clear()
        .env("XDG_STATE_HOME", folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output.stderr).contains("no `bartizan wrap` has run here"), "{}", said(&output.stderr));
}

/// What is wrong on the command line is told before anything is looked at, with the usage.
#[test]
fn whom_to_cut_off_is_said_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["respond", "revoke"][..], "<--person <SUBJECT>|--client <ID>>"),
        (&["respond", "revoke", "--person", "foo"], "--issuer <ISSUER>"),
        (&["respond", "quarantine", "Files"], "a server name is"),
        (&["respond", "quarantine", "files/"], "names no tool"),
        (&["respond", "release"], "required"),
        (&["respond", "release", "Files"], "a server name is"),
    ] {
        let output = bartizan(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output.stderr));
        assert!(said(&output.stderr).contains(words), "{arguments:?}: {}", said(&output.stderr));
    }
}

/// Whoever closes the pipe is told nothing; but what was cut short is not said to be well.
#[test]
fn a_pipe_that_is_closed_is_no_error_and_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .args(["config", "schema"])
        .current_dir(folder.path())
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().unwrap();
    assert_eq!((output.status.code(), said(&output.stderr).as_str()), (Some(141), ""));
}

#[test]
fn a_server_nobody_has_heard_of_is_cut_off_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    for (command, note) in [
        ("respond quarantine sampel", Some("this configuration has no server `sampel`, only sample")),
        ("respond quarantine sample/raets", Some("no tool raets of the server `sample` was seen here")),
        ("respond quarantine sample", None),
        (
            "respond compromise sampel --dry-run",
            Some("this configuration has no server `sampel`, only sample"),
        ),
        ("respond revoke --client anybody", None),
    ] {
        let output = bartizan(folder.path(), &command.split(' ').collect::<Vec<_>>());
        let words = said(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command}: {words}");
        assert_eq!(words.contains("note: "), note.is_some(), "{command}: {words}");
        assert!(words.contains(note.unwrap_or_default()), "{command}: {words}");
    }
    let listed = said(&bartizan(folder.path(), &["respond", "list"]).stdout);
    assert_eq!(listed.lines().count(), 4, "it is in force all the same: {listed}");
}

/// A secret without a value is none, and leaves nothing behind that looks as if a gate had run.
#[test]
fn a_secret_without_a_value_begins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bartizan"))
        .args(["secrets", "set", "EMPTY"])
        .current_dir(folder.path())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output.stderr));
    assert!(!folder.path().join(".bartizan").exists());
}

/// Programs read lists, too: an array, also where it is empty.
#[test]
fn lists_are_json_for_programs() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let list = |command: &str| -> serde_json::Value {
        let output = bartizan(folder.path(), &[command, "list", "--format", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output.stderr)))
    };
    assert_eq!(list("secrets")[0]["name"], "FIRST");
    assert_eq!([list("respond"), list("admin")], [serde_json::json!([]), serde_json::json!([])]);
    bartizan(folder.path(), &["respond", "quarantine", "sample/rates", "--why", "it changes"]);
    let grant = "admin grant --role viewer --person foo --issuer https://issuer.example --for 1h";
    bartizan(folder.path(), &grant.split(' ').collect::<Vec<_>>());
    let cut = &list("respond")[0];
    let fields =
        ["target", "kind", "server", "tool", "why"].map(|field| cut[field].as_str().unwrap_or_default());
    assert_eq!(fields, ["tool sample/rates", "tool", "sample", "rates", "it changes"]);
    assert_eq!(list("admin")[0]["role"], "viewer");
}

#[test]
fn every_shell_gets_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = bartizan(folder.path(), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}: {}", said(&output.stderr));
        assert!(said(&output.stdout).contains("quarantine"), "{shell}");
    }
    assert_eq!(bartizan(folder.path(), &["completions", "csh"]).status.code(), Some(2));
}

#[test]
fn clients_are_guarded_and_released_and_their_servers_imported() {
    let home = tempfile::tempdir().unwrap();
    let (cursor, project) = (home.path().join(".cursor/mcp.json"), home.path().join("project"));
    fs::create_dir_all(cursor.parent().unwrap()).unwrap();
    fs::create_dir(&project).unwrap();
    let mine = "{\n  // mine\n  \"mcpServers\": {\n    \"files\": { \"command\": \"npx\", \"args\": [\"files\"], \"env\": { \"TOKEN\": \"s3cret\" } }\n  }\n}\n";
    let shared = r#"{"servers":{"far":{"type":"http","url":"https://far.example/mcp?key=s3cret"}}}"#;
    fs::write(&cursor, mine).unwrap();
    fs::create_dir(project.join(".vscode")).unwrap();
    fs::write(project.join(".vscode/mcp.json"), shared).unwrap();
    let clients = |arguments: &[&str]| {
        let all = [&["clients"], arguments].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bartizan"));
        let output =
            command.args(all).current_dir(&project).env_clear().env("HOME", home.path()).output().unwrap();
        (output.status.code(), said(&output.stdout), said(&output.stderr))
    };
    let states = || {
        let (code, listed, _) = clients(&["list", "--format", "json"]);
        assert_eq!(code, Some(0));
        let rows: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| format!("{} {} {}", row["client"], row["server"], row["state"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    assert_eq!(states(), ["cursor files open", "vscode far remote"]);
    let (code, listed, hint) = clients(&["list"]);
    assert_eq!(code, Some(0));
    assert!(
        listed.contains("far.example") && !listed.contains("s3cret") && hint.contains("clients add"),
        "{listed}{hint}"
    );

    let (code, _, said) = clients(&["add", "--dry-run"]);
    assert!(code == Some(0) && said.contains("would change"), "{said}");
    assert_eq!(fs::read_to_string(&cursor).unwrap(), mine);
    assert_eq!(clients(&["add", "--sandbox", "--read", "docs"]).0, Some(2), "no such folder");
    fs::create_dir(project.join("docs")).unwrap();
    let (code, _, said) = clients(&["add", "--sandbox", "--read", "docs"]);
    if bartizan_sandbox::can_confine().is_err() {
        assert!(code == Some(2) && said.contains("sandbox"), "{said}");
        return;
    }
    assert!(code == Some(0) && said.contains("docs/sandbox.md"), "{said}");
    let guarded = fs::read_to_string(&cursor).unwrap();
    assert!(guarded.contains("// mine") && guarded.contains(env!("CARGO_BIN_EXE_bartizan")), "{guarded}");
    let read = project.canonicalize().unwrap().join("docs");
    for part in [
        "\"wrap\", \"--sandbox\", \"--read\"",
        &read.display().to_string(),
        "\"--env\", \"TOKEN\", \"--\", \"npx\", \"files\"",
    ] {
        assert!(guarded.contains(part), "{part}: {guarded}");
    }
    assert_eq!(states(), ["cursor files sandboxed", "vscode far remote"]);
    let (code, _, said) = clients(&["add"]);
    assert!(code == Some(0) && said.contains("guarded already"), "{said}");
    let (code, _, said) = clients(&["add", "--network", "open"]);
    assert!(code == Some(1) && said.contains("bartizan clients remove --server files"), "{said}");
    for arguments in [
        &["add", "--server", "nobody"][..],
        &["add", "--gate", "ftp://gate.example"],
        &["list", "--file", "none.json"],
    ] {
        let (code, _, said) = clients(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }

    let (code, imported, _) = clients(&["import"]);
    assert_eq!(code, Some(0));
    assert!(
        imported.contains("command = [\"npx\", \"files\"]")
            && imported.contains("env = [\"TOKEN\"]")
            && imported.contains("sandbox = { read = ["),
        "{imported}"
    );
    fs::write(project.join("bartizan.toml"), &imported).unwrap();
    let checked = bartizan(&project, &["config", "check", "--config", "bartizan.toml"]);
    assert_eq!(checked.status.code(), Some(0), "{}{imported}", said_of(&checked));

    assert_eq!(clients(&["remove"]).0, Some(0));
    assert_eq!(fs::read_to_string(&cursor).unwrap(), mine, "to the byte");
    assert_eq!(clients(&["list", "--client", "nobody"]).0, Some(2));
    fs::write(&cursor, "{ \"mcpServers\": ").unwrap();
    let (code, listed, _) = clients(&["list"]);
    assert!(code == Some(2) && listed.contains("far.example"), "the others are listed: {listed}");
    let (code, _, said) = clients(&["add"]);
    assert!(
        code == Some(2) && said.contains("mcp.json") && said.contains("nothing was changed"),
        "{code:?} {said}"
    );
}

fn said_of(output: &Output) -> String {
    said(&output.stderr)
}
