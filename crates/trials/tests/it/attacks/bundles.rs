//! Rules and a model from a signed file: whoever may change what the shield looks for need not hide from it (TUF's threats:
//! arbitrary software, rollback, freeze; attacks.md SC-06, SC-12).

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bartizan_model::{Clock, SystemClock, Timestamp};
use bartizan_shield::bundle::{Envelope, SigningKey};
use bartizan_trials::{Gate, Upstream, binary, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;

const WITHHELD: i64 = -31005;
const DAY: u64 = 86_400;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

/// A pack whose one rule withholds what speaks of `word`.
fn pack(word: &str) -> String {
    format!(
        "[[rule]]\nid = \"house.word\"\ntitle = \"speaks of {word}\"\ncategory = \"injection\"\nsource = \"house rules\"\n\
         severity = {{ result = \"high\" }}\nkeywords = [\"{word}\"]\npatterns = ['\\b{word}\\b']\n\
         caught = [\"the {word} is here\", \"a {word} again\"]\nharmless = [\"nothing is here\", \"nor there\"]\n"
    )
}

/// A bundle with `pack`, `age` days old, good for `life` days in all.
fn bundle(signer: &SigningKey, version: u64, pack: &str, age: u64, life: u64) -> String {
    let created = SystemClock.now().as_unix() - age * DAY;
    let files = BTreeMap::from([("rules/house.toml".to_owned(), pack.as_bytes().to_vec())]);
    let expires = Timestamp::from_unix(created + life * DAY);
    let mut envelope =
        Envelope::new("house", version, Timestamp::from_unix(created), expires, files).unwrap();
    envelope.sign(signer);
    envelope.to_json()
}

fn fresh(signer: &SigningKey, version: u64, word: &str) -> String {
    bundle(signer, version, &pack(word), 0, 90)
}

/// In one step, as a careful person does it.
fn put(gate: &Gate, text: &str) {
    let draft = gate.folder().join("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, gate.folder().join("house.json")).unwrap();
}

/// A server that says the word it was asked for, once `may_answer`.
fn parrot(may_answer: Arc<AtomicBool>) -> Upstream {
    Upstream::modern(move |heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        if heard.tool().starts_with("slow") {
            eventually("the slow tool may answer", || may_answer.load(Ordering::SeqCst).then_some(()));
        }
        let word = heard.tool().rsplit('_').next().unwrap_or_default().to_owned();
        let text = format!("the {word} is in the cupboard");
        let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }] });
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

fn config(up: &Upstream, more: &str) -> String {
    format!("[shield.bundle]\nkeys = [\"{}\"]\n{more}\n{}", key(1).public(), up.config("s", ""))
}

/// Whether what speaks of `word` is withheld.
fn catches(gate: &Gate, word: &str) -> bool {
    gate.client().call("/mcp/s", &format!("say_{word}"), "{}").code() == Some(WITHHELD)
}

fn metric(gate: &Gate, name: &str) -> String {
    let page = gate.admin().request("GET", "/metrics").send().text();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(ToOwned::to_owned));
    line.unwrap_or_else(|| panic!("{name} in {page}"))
}

/// The reasons that the audit log gives for what it says of bundles.
fn judged(gate: &Gate) -> Vec<String> {
    let done = Command::new(binary())
        .args(["audit", "tail", "-n", "1000", "--format", "json", "--dir"])
        .arg(gate.state().join("audit"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_bundles = entries.filter(|entry| entry["kind"] == "component.judged");
    of_bundles.map(|entry| entry["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Also: SC-12.
#[test]
fn sc_06_a_bundle_that_is_altered_anothers_older_or_broken_changes_nothing_and_a_good_one_does() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let up = parrot(Arc::clone(&may_answer));
    let gate = Gate::start(&config(&up, "path = \"house.json\""));
    gate.wait_for_log("the build's own rules and model judge");
    assert!(!catches(&gate, "marmalade"), "there is no bundle yet");

    put(&gate, &fresh(&key(1), 5, "marmalade"));
    eventually("the first bundle", || catches(&gate, "marmalade").then_some(()));
    assert_eq!(metric(&gate, "bartizan_shield_bundle_version"), "5");

    let mut altered: serde_json::Value = serde_json::from_str(&fresh(&key(1), 6, "marmalade")).unwrap();
    altered["files"]["rules/house.toml"] = serde_json::from_str::<serde_json::Value>(&fresh(
        &key(1),
        7,
        "quince",
    ))
    .unwrap()["files"]["rules/house.toml"]
        .clone();
    let misses = pack("quince").replace("a quince again", "no such word");
    for (bad, why) in [
        (altered.to_string(), "is not the one that was signed"),
        (fresh(&key(2), 6, "quince"), "signatures needed"),
        (fresh(&key(1), 4, "quince"), "is older than 5"),
        (fresh(&key(1), 5, "quince"), "used before with other content"),
        (bundle(&key(1), 6, &misses, 0, 90), "self-test: rule house.word misses"),
        (bundle(&key(1), 6, &pack("quince"), 20, 10), "it expired"),
        ("no bundle".to_owned(), "it is no bundle"),
    ] {
        put(&gate, &bad);
        gate.wait_for_log(why);
        assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"), "{why}");
    }
    assert_eq!(metric(&gate, "bartizan_shield_bundle_version"), "5");
    assert_eq!(metric(&gate, "bartizan_shield_bundle_refused_total"), "8", "the first one was not there");

    // A call that is under way ends as it began.
    let slow = {
        let client = gate.client();
        thread::spawn(move || client.call("/mcp/s", "slow_quince", "{}").said())
    };
    up.wait_for("tools/call");
    eventually("the slow call", || {
        up.heard().iter().any(|heard| heard.tool() == "slow_quince").then_some(())
    });
    put(&gate, &fresh(&key(1), 6, "quince"));
    eventually("the second bundle", || catches(&gate, "quince").then_some(()));
    assert!(!catches(&gate, "marmalade"), "the pack was replaced");
    may_answer.store(true, Ordering::SeqCst);
    assert_eq!(slow.join().unwrap(), "the quince is in the cupboard");

    let told = judged(&gate);
    for reason in [
        "bundle.loaded",
        "bundle.tampered",
        "bundle.signature",
        "bundle.rollback",
        "bundle.equivocal",
        "bundle.self_test",
        "bundle.expired",
        "bundle.format",
    ] {
        assert!(told.iter().any(|known| known == reason), "{reason}: {told:?}");
    }
}

/// The last good one is kept: neither a broken file nor an old one takes the rules away over a restart.
#[test]
fn sc_06_over_a_restart_the_last_good_bundle_stays() {
    let up = parrot(Arc::default());
    let mut gate = Gate::start(&config(&up, "path = \"house.json\""));
    put(&gate, &fresh(&key(1), 5, "marmalade"));
    eventually("the bundle", || catches(&gate, "marmalade").then_some(()));
    for bad in [fresh(&key(1), 4, "quince"), String::new()] {
        put(&gate, &bad);
        gate.restart();
        assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"));
    }
    // Nor does the copy count for a key that does not count any more.
    gate.reconfigure(
        &config(&up, "path = \"house.json\"")
            .replace(&key(1).public().to_string(), &key(3).public().to_string()),
    );
    assert!(!catches(&gate, "marmalade"));
}

#[test]
fn sc_06_a_stale_bundle_stays_in_use_and_raises_the_alarm() {
    let up = parrot(Arc::default());
    let gate = Gate::start(&config(&up, "path = \"house.json\"\nmax_age = \"30d\""));
    put(&gate, &bundle(&key(1), 5, &pack("marmalade"), 40, 90));
    gate.wait_for_log("version 5 is 40 days old, more than 30d");
    assert!(catches(&gate, "marmalade"));
    assert_eq!(metric(&gate, "bartizan_shield_bundle_stale"), "1");
    assert!(metric(&gate, "bartizan_shield_bundle_age_seconds").parse::<u64>().unwrap() >= 40 * DAY);
    eventually("the alarm", || judged(&gate).contains(&"bundle.stale".to_owned()).then_some(()));
    put(&gate, &fresh(&key(1), 6, "marmalade"));
    eventually("the end of it", || (metric(&gate, "bartizan_shield_bundle_stale") == "0").then_some(()));
}

/// A feed over TLS that serves `text` with an `ETag`; answers its port and the `If-None-Match` of every request.
fn feed(folder: &Path, text: Arc<Mutex<(u32, String)>>) -> (u16, Arc<Mutex<Vec<Option<String>>>>) {
    let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let leaf = CertificateDer::from_pem_slice(leaf.pem().as_bytes()).unwrap();
    let own = PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(tls.with_no_client_auth().with_single_cert(vec![leaf], own).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), socket);
            let mut stream = BufReader::new(stream);
            let mut tag = None;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).is_err() || line.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("if-none-match")
                {
                    tag = Some(value.trim().to_owned());
                }
            }
            let (number, body) = text.lock().unwrap().clone();
            let now = format!("\"{number}\"");
            let answer = if tag.as_ref() == Some(&now) {
                "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned()
            } else {
                format!(
                    "HTTP/1.1 200 OK\r\nETag: {now}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
            };
            heard.lock().unwrap().push(tag);
            let stream = stream.get_mut();
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (port, asked)
}

#[test]
fn sc_06_a_feed_is_believed_no_further_than_its_signatures() {
    let (up, folder) = (parrot(Arc::default()), tempfile::tempdir().unwrap());
    let served = Arc::new(Mutex::new((1, fresh(&key(1), 5, "marmalade"))));
    let (port, asked) = feed(folder.path(), Arc::clone(&served));
    let ca = folder.path().join("ca.pem");
    let gate = Gate::start(&config(
        &up,
        &format!(
            "url = \"https://localhost:{port}/house.json\"\nca = {:?}\npoll = \"10s\"",
            ca.display().to_string()
        ),
    ));
    eventually("the feed's bundle", || catches(&gate, "marmalade").then_some(()));
    let conditional = || asked.lock().unwrap().iter().filter(|tag| tag.as_deref() == Some("\"1\"")).count();
    eventually("a conditional request", || (conditional() > 0).then_some(()));
    *served.lock().unwrap() = (2, fresh(&key(2), 9, "quince"));
    gate.wait_for_log("signatures needed");
    assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"));
    *served.lock().unwrap() = (3, fresh(&key(1), 6, "quince"));
    eventually("the feed's next bundle", || catches(&gate, "quince").then_some(()));
}

/// What an operator makes himself.
#[test]
fn a_bundle_is_made_signed_shown_and_checked_by_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let done = Command::new(binary())
            .args(["shield", "bundle"])
            .args(arguments)
            .current_dir(folder.path())
            .output();
        let done = done.unwrap();
        let text = [done.stdout.clone(), done.stderr].concat();
        (
            done.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
            String::from_utf8(done.stdout).unwrap(),
        )
    };
    let (code, said, public) = run(&["keygen", "--out", "acme.pem"]);
    assert_eq!(code, Some(0), "{said}");
    let public = public.trim();
    assert_eq!(run(&["keygen", "--out", "acme.pem"]).0, Some(3), "a key is not overwritten");
    fs::write(folder.path().join("house.toml"), pack("marmalade")).unwrap();
    let make =
        ["make", "--name", "acme", "--bundle-version", "7", "--rules", "house.toml", "--out", "acme.json"];
    let (code, said, _) = run(&make);
    assert_eq!(code, Some(0), "{said}");
    let verify = ["verify", "acme.json", "--public-key", public];
    let (code, said, _) = run(&verify);
    assert_eq!(code, Some(1), "nobody signed it yet: {said}");
    assert!(said.contains("bundle.signature"), "{said}");
    assert_eq!(run(&["sign", "acme.json", "--key", "acme.pem"]).0, Some(0));
    let (code, said, _) = run(&verify);
    assert_eq!((code, said.contains("good: acme version 7")), (Some(0), true), "{said}");
    let (_, said, _) = run(&["show", "acme.json"]);
    assert!(said.contains("rules added: house.word") && said.contains("rules/house.toml"), "{said}");
    // What no gate would take is not made.
    fs::write(folder.path().join("house.toml"), pack("marmalade").replace("nor there", "marmalade there"))
        .unwrap();
    let (code, said, _) = run(&make);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("trips"), "{said}");
}
