//! A stdio server that does more than serve (attacks.md PH-07; spec.md G-35).

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use bartizan_trials::{Client, Gate, binary, prober, prober_path, refusal_of, refusal_with};

/// What comes of a deed that the server is asked for.
fn asked(client: &Client, deed: &str, on: impl AsRef<Path>) -> String {
    let arguments = serde_json::json!({ "deed": deed, "on": on.as_ref() });
    client.call("/mcp/probe", "try", &arguments.to_string()).said()
}

#[test]
fn ph_07_a_server_in_a_sandbox_reaches_what_was_named_and_nothing_else() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("id_ed25519");
    fs::write(&secret, "a private key").unwrap();
    let documents = tempfile::tempdir().unwrap();
    let document = documents.path().join("document");
    fs::write(&document, "words").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let probe = |more: &str| prober("probe", &[], more);

    let free = Gate::start(&probe(""));
    let client = free.client();
    for (deed, on) in [("read", secret.as_path()), ("connect", Path::new(&address)), ("list", Path::new("/"))]
    {
        assert_eq!(asked(&client, deed, on), "done", "without a sandbox it may what its user may: {deed}");
    }

    let sandbox = format!("sandbox = {{ read = [{:?}] }}", documents.path());
    let gate = Gate::start(&probe(&sandbox));
    let client = gate.client();
    assert_eq!(client.call("/mcp/probe", "echo", r#"{"a":1}"#).said(), r#"{"a":1}"#, "it serves");
    assert_eq!(asked(&client, "read", &document), "done");
    assert_eq!(asked(&client, "start", "/bin/true"), "done");
    let state = gate.folder().join(".bartizan");
    let kept: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(kept.iter().any(|path| path.is_file()));
    for file in kept.iter().map(|path| path.as_path()).chain([
        secret.as_path(),
        Path::new("/etc/shadow"),
        &gate.folder().join("bartizan.toml"),
        Path::new(&format!("/proc/{}/environ", gate.pid())),
    ]) {
        assert_eq!(asked(&client, "read", file), "refused", "{}", file.display());
        assert_eq!(asked(&client, "list", file), "refused", "{}", file.display());
    }
    for folder in [documents.path(), outside.path(), Path::new("/tmp"), Path::new("/")] {
        assert_eq!(
            asked(&client, "write", folder.join("bartizan-was-here")),
            "refused",
            "{}",
            folder.display()
        );
    }
    for deed in ["connect", "send"] {
        for on in [address.as_str(), "169.254.169.254:80", "127.0.0.53:53", &gate.address().to_string()] {
            assert_eq!(asked(&client, deed, on), "refused", "{deed} {on}");
        }
    }
    let look: serde_json::Value =
        serde_json::from_str(&client.call("/mcp/probe", "look", "{}").said()).unwrap();
    let home = look["environment"]["HOME"].as_str().unwrap();
    assert_eq!(asked(&client, "write", Path::new(home).join("note")), "done");
    assert_eq!((&look["parent_memory"], &look["parent_environment"]), (&false.into(), &().into()), "{look}");
    // What became of it counts, not what the server was told.
    let mode = || fs::metadata(&secret).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    asked(&client, "publish", &secret);
    assert_eq!(mode(), 0o600, "nobody else reads it either");
    drop(gate);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "a private key");
}

/// Its home is removed by the gate, which must not follow where the server has dug.
#[test]
fn ph_07_a_home_without_a_bottom_ends_no_gate() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().to_str().unwrap();
    let gate = Gate::start_with(&prober("probe", &[], "sandbox = {}"), &[("TMPDIR", folder)]);
    let client = gate.client();
    let homes = || fs::read_dir(temporary.path()).unwrap().count();
    let look: serde_json::Value =
        serde_json::from_str(&client.call("/mcp/probe", "look", "{}").said()).unwrap();
    let home = look["environment"]["HOME"].as_str().unwrap();
    assert_eq!(asked(&client, "bury", home), "done");
    Command::new("kill").args(["-9", &look["pid"].to_string()]).status().unwrap();
    for _ in 0..1200 {
        if !Path::new(home).exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!Path::new(home).exists(), "{} homes are left", homes());
    let again: serde_json::Value =
        serde_json::from_str(&gate.client().call("/mcp/probe", "look", "{}").said()).unwrap();
    assert_ne!(again["environment"]["HOME"], look["environment"]["HOME"], "the gate goes on");
}

#[test]
fn ph_07_with_a_network_a_server_still_reads_nothing_else() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Gate::start(&prober("probe", &[], r#"sandbox = { network = "open" }"#));
    let client = gate.client();
    assert_eq!(asked(&client, "connect", listener.local_addr().unwrap().to_string()), "done");
    assert_eq!(asked(&client, "read", outside.path()), "refused");
}

/// The sandbox is the operator's word: one that opens the gate's own folder is a mistake, and one that names nothing leaves the
/// server down.
#[test]
fn ph_07_no_sandbox_holds_the_gates_own_folder() {
    for folder in [".", "/", ".bartizan", ".bartizan/audit"] {
        let (code, said) =
            refusal_of(&prober("probe", &[], &format!("sandbox = {{ write = [{folder:?}] }}")));
        assert_eq!(code, Some(2), "{folder}: {said}");
        assert!(
            said.contains("probe") && said.contains("the gate's own keys") && said.contains(folder),
            "{said}"
        );
    }
    let (code, said) = refusal_of(&prober("probe", &[], r#"sandbox = { write = ["bartizan.toml"] }"#));
    assert!(code == Some(2) && said.contains("what the gate starts"), "{said}");
    // Who writes where homes are made could put links in the place of other servers'.
    let temporary = tempfile::tempdir().unwrap();
    let homes = temporary.path().join("homes");
    fs::create_dir(&homes).unwrap();
    for folder in [homes.as_path(), temporary.path()] {
        let probe = prober("probe", &[], &format!("sandbox = {{ write = [{folder:?}] }}"));
        let (code, said) = refusal_with(&probe, &[("TMPDIR", &homes.to_string_lossy())]);
        assert!(code == Some(2) && said.contains("homes of servers"), "{said}");
    }
    // A server reads the folder that it starts in.
    let (code, said) = refusal_of(&prober("probe", &[], "cwd = \".\"\nsandbox = {}"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the gate's own keys"), "{said}");
    let gate = Gate::start(&prober("probe", &[], r#"sandbox = { read = ["/nowhere/at/all"] }"#));
    let answer = gate.client().call("/mcp/probe", "echo", "{}");
    assert!(answer.error().contains("/nowhere/at/all"), "{}", answer.text());
}

/// What is wrong on the command line is a mistake of whoever wrote it, as it is in a file.
#[test]
fn ph_07_no_sandbox_of_a_wrap_holds_the_gates_own_folder() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (option, path) in [("--read", home.path()), ("--write", home.path()), ("--read", Path::new("/"))] {
        let wrap = Command::new(binary())
            .args(["wrap", option])
            .arg(path)
            .arg("--")
            .arg(prober_path())
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.path())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&wrap.stderr);
        assert_eq!(wrap.status.code(), Some(2), "{option} {}: {said}", path.display());
        assert!(said.contains("the gate's own keys"), "{said}");
    }
}
