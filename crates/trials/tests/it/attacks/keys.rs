//! The keys that seal the store, and the vault: what is put into it, changed in it and forgotten by it, while a gate runs.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use bartizan_model::{Caller, Clock, Secret, SystemClock};
use bartizan_store::{
    Database, FileRoot, KeyFile, Links, OsEntropy, Sealer, StoredLinks,
    links::{Account, Grant},
};
use bartizan_trials::{Client, Gate, Heard, Pen, Upstream, binary, eventually, refusal_of};

use crate::traffic::records::{entries, of_kind};

/// What somebody's account at a server lets the gate show it.
const OWN: &str = "tokens-of-the-owner";

const PERSONAL: &str = "credential = { kind = \"user-oauth\", scopes = [\"read\"] }";

/// Runs `bartizan` with the gate's configuration and `input`; its exit code and what it said, both ways.
fn bartizan(gate: &Gate, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let mut process = Command::new(binary())
        .args(arguments)
        .arg("--config")
        .arg(gate.folder().join("bartizan.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without reading.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    let done = process.wait_with_output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// A server that lets in whoever shows the owner's own token.
fn personal() -> Upstream {
    Upstream::modern(|heard: &Heard, pen: &mut Pen| {
        let is_refused = heard.line("authorization") != Some("Bearer tokens-of-the-owner");
        if is_refused {
            pen.whole("401 Unauthorized", "application/json", "WWW-Authenticate: Bearer\r\n", "{}");
        }
        is_refused
    })
}

/// Links the owner's account, as the page at `/connect` would.
fn link(gate: &Gate, server: &str) {
    let entropy = Arc::new(OsEntropy);
    let root = Arc::new(FileRoot::new(&gate.state().join("seal.key"), entropy.clone()));
    let file = KeyFile::new(&gate.state().join("keys.json"), root, entropy.clone());
    let owner = Caller::local_owner();
    let account = Account {
        issuer: owner.issuer().to_owned(),
        subject: owner.subject().to_owned(),
        server: server.parse().unwrap(),
    };
    let content = format!(
        r#"{{"access":"{OWN}","refresh":null,"until":99999999999,"since":0,"client_id":"c","resource":"r","asked":[],"wanted":[]}}"#
    );
    let grant = Grant {
        upstream: "https://as.example".to_owned(),
        scopes: vec!["read".to_owned()],
        content: Secret::new(content),
        granted_at: SystemClock.now(),
        revision: 0,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let keys = file.read().await.unwrap();
        let sealer = Arc::new(Sealer::of(&keys, entropy).unwrap());
        let database = Database::sqlite(&gate.state().join("store.db")).await.unwrap();
        StoredLinks::new(database.clone(), sealer).link(&account, &grant).await.unwrap();
        database.close().await;
    });
}

fn works(client: &Client, path: &str) -> bool {
    client.call(path, "echo", "{}").outcome() == 200
}

/// Whether the caller is sent to link an account, and the server hears nothing.
fn must_link(client: &Client, path: &str) -> bool {
    let answer = client.call(path, "echo", "{}");
    answer.code() == Some(-31006) && answer.text().contains("/connect/")
}

/// Copies the database as it lies on the disk, and leaves nothing else of one.
fn copy_database(from: &Path, to: &Path) {
    for end in ["", "-wal", "-shm"] {
        let (from, to) = (from.join(format!("store.db{end}")), to.join(format!("store.db{end}")));
        let _ = fs::remove_file(&to);
        if from.exists() {
            fs::copy(from, to).unwrap();
        }
    }
}

/// A file of the state folder that holds `needle`.
fn holds(gate: &Gate, needle: &str) -> Option<String> {
    let mut stack = vec![gate.state()];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(needle)) {
            return Some(path.display().to_string());
        }
    }
    None
}

#[test]
fn tp_02_an_erased_person_is_nobody_within_seconds_and_in_every_copy() {
    let (up, other) = (personal(), Upstream::modern(|_, _| false));
    let mut gate = Gate::start(&format!("{}{}", up.config("mine", PERSONAL), other.config("any", "")));
    let client = gate.client();
    link(&gate, "mine");
    assert!(works(&client, "/mcp/mine"), "the account is linked");
    assert_eq!(holds(&gate, OWN), None, "the token lies nowhere in the clear");
    // A backup of the database.
    gate.stop();
    copy_database(&gate.state(), gate.folder());
    gate.restart();
    let client = gate.client();
    assert!(works(&client, "/mcp/mine"));

    let (code, said) = bartizan(&gate, &["secrets", "erase", "--user", "local", "owner"], "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 linked account(s)"), "{said}");
    eventually("the account is gone in the running gate", || must_link(&client, "/mcp/mine").then_some(()));
    assert!(works(&client, "/mcp/any"), "whoever has the local token is still let in");
    let (code, said) = bartizan(&gate, &["secrets", "erase", "--user", "local", "nobody"], "");
    assert_eq!((code, said.contains("nothing of this person")), (Some(1), true), "{said}");

    // The backup is put back: it holds the row, and nothing opens it.
    gate.stop();
    copy_database(gate.folder(), &gate.state());
    gate.restart();
    let answer = gate.client().call("/mcp/mine", "echo", "{}");
    assert_ne!(answer.outcome(), 200, "{}", answer.text());
    assert!(!answer.text().contains(OWN));
    let heard = up.heard_of("tools/call").len();
    assert_eq!(gate.client().call("/mcp/any", "echo", "{}").outcome(), 200);
    assert_eq!(up.heard_of("tools/call").len(), heard, "nobody else's credential is shown instead");
}

/// spec.md F-38: keys change, and nobody who calls notices.
#[test]
fn tp_02_all_keys_are_changed_while_people_call() {
    let (up, legacy) = (personal(), Upstream::legacy(|_, _| false));
    let gate = Gate::start(&format!("{}{}", up.config("mine", PERSONAL), legacy.config("old", "")));
    let client = gate.client();
    link(&gate, "mine");
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let (before, root) =
        (fs::read(gate.state().join("keys.json")).unwrap(), fs::read(gate.state().join("seal.key")).unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let called = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (client, over, called) = (gate.client(), Arc::clone(&over), Arc::clone(&called));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let answer = client.call("/mcp/mine", "echo", "{}");
                    assert_eq!(answer.outcome(), 200, "{}", answer.text());
                    called.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually("calls under way", || (called.load(Ordering::Relaxed) > 5).then_some(()));
    let (code, said) = bartizan(&gate, &["keys", "rotate"], "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("linked accounts: 1 sealed again"), "{said}");
    let then = called.load(Ordering::Relaxed);
    eventually("calls after it", || (called.load(Ordering::Relaxed) > then + 5).then_some(()));
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(session.call("1", "echo", "{}").send().outcome(), 200, "a session from before goes on");
    session.end();
    assert_ne!(fs::read(gate.state().join("keys.json")).unwrap(), before);
    assert_ne!(fs::read(gate.state().join("seal.key")).unwrap(), root);
    let (code, said) = bartizan(&gate, &["keys", "status"], "");
    assert_eq!((code, said.contains("opens     yes")), (Some(0), true), "{said}");
    assert!(!said.contains("not finished"), "{said}");
}

#[test]
fn tp_02_a_second_rotation_is_refused_and_has_begun_nothing() {
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    let recorded = || of_kind(&entries(&gate), "key.rotated").len();
    // As another process holds it that is at work.
    let other = fs::File::create(gate.state().join("keys.rotating")).unwrap();
    other.lock().unwrap();
    let (code, said) = bartizan(&gate, &["keys", "rotate"], "");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("another rotation") && !said.contains("not finished"), "{said}");
    assert_eq!(recorded(), 0, "what did not begin is not recorded as begun");
    drop(other);
    let (code, said) = bartizan(&gate, &["keys", "rotate"], "");
    assert_eq!((code, recorded()), (Some(0), 2), "{said}");
}

#[test]
fn ph_31_another_key_opens_nothing_and_says_so() {
    let up = Upstream::modern(|_, _| false);
    let mut gate = Gate::start(&up.config("up", ""));
    assert!(works(&gate.client(), "/mcp/up"));
    gate.stop();
    let path = gate.state().join("seal.key");
    let right = fs::read(&path).unwrap();
    fs::write(&path, [9; 32]).unwrap();
    let (code, said) = bartizan(&gate, &["run"], "");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("seal.key holds another key"), "{said}");
    let (code, said) = bartizan(&gate, &["keys", "status"], "");
    assert_eq!((code, said.contains("opens     no")), (Some(1), true), "{said}");
    let (code, said) = bartizan(&gate, &["secrets", "set", "X"], "value");
    assert_eq!(code, Some(3), "{said}");
    fs::write(&path, right).unwrap();
    gate.restart();
    assert!(works(&gate.client(), "/mcp/up"));
}

/// Vault with a transit key and a key/value engine, as its HTTP API has them. It keeps what it encrypted, so that nothing of it
/// is in what it answers.
fn vault(state: &Arc<Mutex<&'static str>>, value: &Arc<Mutex<&'static str>>) -> Upstream {
    let (state, value) = (Arc::clone(state), Arc::clone(value));
    let kept: Mutex<Vec<String>> = Mutex::default();
    Upstream::modern(move |heard: &Heard, pen: &mut Pen| {
        let json = "application/json";
        match *state.lock().unwrap() {
            "sealed" => pen.whole("503 Service Unavailable", json, "", r#"{"errors":["Vault is sealed"]}"#),
            "forbidden" => pen.whole("403 Forbidden", json, "", r#"{"errors":["permission denied"]}"#),
            _ if heard.line("x-vault-token") != Some("s.token") => {
                pen.whole("403 Forbidden", json, "", r#"{"errors":["permission denied"]}"#);
            }
            _ => {
                let mut kept = kept.lock().unwrap();
                let field = |name: &str| heard.json()[name].as_str().unwrap_or_default().to_owned();
                match heard.path() {
                    "/v1/transit/encrypt/bartizan" => {
                        kept.push(field("plaintext"));
                        let text = format!("vault:v1:{}", kept.len() - 1);
                        pen.json(&format!(r#"{{"data":{{"ciphertext":"{text}","key_version":1}}}}"#));
                    }
                    "/v1/transit/decrypt/bartizan" => {
                        let text = field("ciphertext");
                        let number: Option<usize> =
                            text.strip_prefix("vault:v1:").and_then(|n| n.parse().ok());
                        match number.and_then(|number| kept.get(number)) {
                            Some(plain) => pen.json(&format!(r#"{{"data":{{"plaintext":"{plain}"}}}}"#)),
                            None => pen.whole(
                                "400 Bad Request",
                                json,
                                "",
                                r#"{"errors":["cipher: message authentication failed"]}"#,
                            ),
                        }
                    }
                    "/v1/kv/data/team/up" => {
                        let value = *value.lock().unwrap();
                        pen.json(&format!(
                            r#"{{"data":{{"data":{{"key":"{value}"}},"metadata":{{"version":1}}}}}}"#
                        ));
                    }
                    _ => pen.whole("404 Not Found", json, "", r#"{"errors":[]}"#),
                }
            }
        }
        true
    })
}

#[test]
fn tp_02_without_the_key_provider_nothing_opens() {
    let (state, value) = (Arc::new(Mutex::new("up")), Arc::new(Mutex::new("one")));
    let vault = vault(&state, &value);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s.token\n").unwrap();
    let keys = |origin: &str| {
        format!(
            "[keys]\nprovider = \"hashicorp-transit\"\nrecheck_s = 1\naway_s = 1\n\
             [vaults.hashicorp]\nurl = \"{origin}\"\ntoken = {{ file = {token:?} }}\n"
        )
    };
    let old = Upstream::legacy(|_, _| false);
    let config = |origin: &str| format!("{}{}", keys(origin), old.config("old", ""));
    let gate = Gate::start(&config(&vault.origin()));
    assert!(!gate.state().join("seal.key").exists(), "the root key is Vault's alone");
    let client = gate.client();
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let goes_on = || session.call("1", "echo", "{}").send().outcome() == 200;
    assert!(goes_on());
    for trouble in ["forbidden", "sealed"] {
        *state.lock().unwrap() = trouble;
        eventually(trouble, || (!goes_on()).then_some(()));
        *state.lock().unwrap() = "up";
        eventually("it goes on when Vault does", || goes_on().then_some(()));
    }
    session.end();

    // A gate does not start without it, and makes no key of its own instead.
    let (code, said) = refusal_of(&config("http://127.0.0.1:9"));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the key provider does not answer"), "{said}");
}

#[test]
fn tp_02_the_root_key_moves_to_another_provider() {
    let (state, value) = (Arc::new(Mutex::new("up")), Arc::new(Mutex::new("")));
    let vault = vault(&state, &value);
    let up = Upstream::modern(|_, _| false);
    let mut gate = Gate::start(&up.config("up", ""));
    assert_eq!(bartizan(&gate, &["secrets", "set", "KEPT"], "canary").0, Some(0));
    gate.stop();
    let (now, old) = (gate.folder().join("bartizan.toml"), gate.folder().join("old.toml"));
    fs::copy(&now, &old).unwrap();
    let token = gate.folder().join("vault-token");
    fs::write(&token, "s.token").unwrap();
    let more = format!(
        "[keys]\nprovider = \"hashicorp-transit\"\n[vaults.hashicorp]\nurl = \"{}\"\ntoken = {{ file = {token:?} }}\n",
        vault.origin()
    );
    fs::write(&now, format!("{}{more}", fs::read_to_string(&old).unwrap())).unwrap();
    let (code, said) = bartizan(&gate, &["secrets", "list"], "");
    assert!(code == Some(3) && said.contains("keys rotate --from"), "{said}");
    *state.lock().unwrap() = "sealed";
    let old = old.to_str().unwrap();
    let (code, said) = bartizan(&gate, &["keys", "rotate", "--from", old], "");
    assert!(code == Some(3) && said.contains("stay wrapped as they were"), "{said}");
    *state.lock().unwrap() = "up";
    let (code, said) = bartizan(&gate, &["keys", "rotate", "--from", old], "");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = bartizan(&gate, &["secrets", "list"], "");
    assert!(code == Some(0) && said.contains("KEPT"), "{said}");
    assert!(!gate.state().join("seal.key").exists(), "the old root key is destroyed");
    gate.restart();
    assert!(works(&gate.client(), "/mcp/up"));
}

#[test]
fn tp_01_a_secret_of_the_vault_is_shown_to_its_server_and_changes_while_the_gate_runs() {
    let own = Upstream::modern(|_, _| false);
    let (state, value) = (Arc::new(Mutex::new("up")), Arc::new(Mutex::new("theirs-one")));
    let vault = vault(&state, &value);
    let theirs = Upstream::modern(|_, _| false);
    let base = Upstream::modern(|_, _| false);
    let gate = Gate::start_with(&base.config("base", ""), &[("VAULT_TOKEN", "s.token")]);
    let client = gate.client();
    let (code, said) = bartizan(&gate, &["secrets", "set", "OWN_KEY"], "own-canary-one\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("{ vault = \"OWN_KEY\" }") && !said.contains("canary"), "{said}");
    let (code, said) = bartizan(&gate, &["secrets", "set", "OWN_KEY"], "other");
    assert!(code == Some(3) && said.contains("secrets rotate"), "{said}");
    assert_eq!(bartizan(&gate, &["secrets", "set", "EMPTY"], "\n").0, Some(3));
    gate.reconfigure(&format!(
        "[vaults]\nttl_s = 1\n[vaults.hashicorp]\nurl = \"{}\"\ntoken = {{ env = \"VAULT_TOKEN\" }}\n{}{}{}",
        vault.origin(),
        base.config("base", ""),
        own.config("own", "credential = { kind = \"secret\", value = { vault = \"OWN_KEY\" } }"),
        theirs.config(
            "theirs",
            "credential = { kind = \"secret\", value = { hashicorp = \"kv/team/up#key\" } }"
        ),
    ));
    let shown = |up: &Upstream, path: &str| {
        let answer = client.call(path, "echo", "{}");
        (answer.outcome() == 200).then(|| up.wait_for("tools/call").line("authorization").unwrap().to_owned())
    };
    assert_eq!(shown(&own, "/mcp/own").as_deref(), Some("Bearer own-canary-one"));
    assert_eq!(shown(&theirs, "/mcp/theirs").as_deref(), Some("Bearer theirs-one"));

    let (code, said) = bartizan(&gate, &["secrets", "rotate", "OWN_KEY"], "own-canary-two");
    assert_eq!(code, Some(0), "{said}");
    *value.lock().unwrap() = "theirs-two";
    eventually("the new values are shown", || {
        let both = (shown(&own, "/mcp/own")?, shown(&theirs, "/mcp/theirs")?);
        (both == ("Bearer own-canary-two".to_owned(), "Bearer theirs-two".to_owned())).then_some(())
    });
    let (_, listed) = bartizan(&gate, &["secrets", "list"], "");
    assert!(listed.contains("OWN_KEY  value 2") && !listed.contains("canary"), "{listed}");
    assert_eq!(holds(&gate, "own-canary"), None, "it lies nowhere in the clear");
    assert!(!gate.log().contains("own-canary") && !gate.log().contains("theirs-"));
    assert!(works(&client, "/mcp/base"));

    assert_eq!(bartizan(&gate, &["secrets", "remove", "OWN_KEY"], "").0, Some(0));
    eventually("a removed secret counts no more", || (!works(&client, "/mcp/own")).then_some(()));
    assert!(works(&client, "/mcp/theirs") && works(&client, "/mcp/base"));
}
