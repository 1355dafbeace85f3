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
use bartizan_shield::bundle::{Chain, Envelope, PublicKey, SigningKey};
use bartizan_store::Database;
use bartizan_trials::{Gate, Upstream, Wrapped, binary, eventually, modern_text};
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
         severity = {{ result = \"high\", code = \"high\" }}\nkeywords = [\"{word}\"]\npatterns = ['\\b{word}\\b']\n\
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

/// The same bundle that nobody has signed.
fn stripped(bundle: &str) -> String {
    let mut written: serde_json::Value = serde_json::from_str(bundle).unwrap();
    written["signatures"] = json!([]);
    written.to_string()
}

/// In one step, as a careful person does it.
fn put(gate: &Gate, text: &str) {
    let draft = gate.folder().join("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, gate.folder().join("house.json")).unwrap();
}

/// Puts what is refused.
fn put_in_vain(gate: &Gate, text: &str) {
    let refused = || -> u32 { metric(gate, "bartizan_shield_bundle_refused_total").parse().unwrap() };
    let before = refused();
    put(gate, text);
    eventually("the refusal", || (refused() > before).then_some(()));
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
    recorded(gate, "reason")
}

/// A member of what the audit log says of bundles.
fn recorded(gate: &Gate, member: &str) -> Vec<String> {
    let done = Command::new(binary())
        .args(["audit", "tail", "-n", "1000", "--format", "json", "--dir"])
        .arg(gate.state().join("audit"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_bundles = entries.filter(|entry| entry["kind"] == "component.judged");
    of_bundles.map(|entry| entry[member].as_str().unwrap_or_default().to_owned()).collect()
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
        (fresh(&key(2), 6, "quince"), "0 of the 1 signatures needed"),
        (stripped(&fresh(&key(1), 6, "quince")), "0 of the 1 signatures needed"),
        (fresh(&key(1), 4, "quince"), "is older than 5"),
        (fresh(&key(1), 5, "quince"), "used before with other content"),
        (bundle(&key(1), 6, &misses, 0, 90), "self-test: rule house.word misses"),
        (bundle(&key(1), 6, &pack("quince"), 20, 10), "it expired"),
        ("no bundle".to_owned(), "it is no bundle"),
    ] {
        put_in_vain(&gate, &bad);
        gate.wait_for_log(why);
        assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"), "{why}");
    }
    assert_eq!(metric(&gate, "bartizan_shield_bundle_version"), "5");

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
    let told = |gate: &Gate, words: &[&str]| {
        let told = recorded(gate, "message");
        told.iter().filter(|told| words.iter().all(|word| told.contains(word))).count()
    };
    eventually("the record of it", || (told(&gate, &["judges by house version 5"]) == 1).then_some(()));
    let before = told(&gate, &["the build's own rules"]);
    for bad in [Some(fresh(&key(1), 4, "quince")), Some(String::new()), None] {
        match bad {
            Some(bad) => put(&gate, &bad),
            None => fs::remove_file(gate.folder().join("house.json")).unwrap(),
        }
        gate.restart();
        assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"));
        // What is told is what judges.
        gate.wait_for_log("version 5 stays");
        assert!(!gate.log().contains("the build's own rules"));
    }
    let gone = ["cannot be read", "version 5 stays"];
    eventually("the record", || (told(&gate, &gone) > 0).then_some(()));
    assert_eq!(told(&gate, &["the build's own rules"]), before, "the record says what judges");
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

/// Two must sign: one signature of two is none, whoever takes the other one away.
#[test]
fn sc_06_a_bundle_with_fewer_signatures_than_it_takes_is_none() {
    let up = parrot(Arc::default());
    let two = format!("keys = [\"{}\", \"{}\"]\nthreshold = 2", key(1).public(), key(2).public());
    let one = format!("keys = [\"{}\"]", key(1).public());
    let gate = Gate::start(&config(&up, "path = \"house.json\"").replace(&one, &two));
    let signed_by_two = |version, word| {
        let mut both = Envelope::read(fresh(&key(1), version, word).as_bytes()).unwrap();
        both.sign(&key(2));
        both.to_json()
    };
    put(&gate, &signed_by_two(5, "marmalade"));
    eventually("the first bundle", || catches(&gate, "marmalade").then_some(()));
    let mut written: serde_json::Value = serde_json::from_str(&signed_by_two(6, "quince")).unwrap();
    written["signatures"].as_array_mut().unwrap().pop();
    put_in_vain(&gate, &written.to_string());
    gate.wait_for_log("1 of the 2 signatures needed");
    let first = written["signatures"][0].clone();
    written["signatures"].as_array_mut().unwrap().push(first);
    put_in_vain(&gate, &written.to_string());
    assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"), "one key twice is one key");
    put(&gate, &signed_by_two(7, "quince"));
    eventually("the next bundle", || catches(&gate, "quince").then_some(()));
}

/// A fault of ours is no property of the bundle: it is asked for again, though neither its file nor the feed's `ETag` changed.
#[test]
fn sc_06_what_was_refused_for_a_fault_of_ours_is_tried_again() {
    let (up, folder) = (parrot(Arc::default()), tempfile::tempdir().unwrap());
    let served = Arc::new(Mutex::new((1, fresh(&key(1), 5, "marmalade"))));
    let (port, asked) = feed(folder.path(), Arc::clone(&served));
    let ca = folder.path().join("ca.pem").display().to_string();
    let feed = format!("url = \"https://localhost:{port}/house.json\"\nca = {ca:?}\npoll = \"10s\"");
    let mut of_feed = Gate::start(&config(&up, &feed));
    eventually("the first bundle", || catches(&of_feed, "marmalade").then_some(()));
    let mut of_file = Gate::start(&config(&up, "path = \"house.json\""));
    put(&of_file, &fresh(&key(1), 5, "marmalade"));
    eventually("the first bundle", || catches(&of_file, "marmalade").then_some(()));
    for gate in [&mut of_feed, &mut of_file] {
        gate.stop();
        fs::write(gate.state().join("bundles.seen"), "as nobody wrote it").unwrap();
    }
    *served.lock().unwrap() = (2, fresh(&key(1), 6, "quince"));
    put(&of_file, &fresh(&key(1), 6, "quince"));
    for gate in [&mut of_feed, &mut of_file] {
        gate.restart();
    }
    let had = |tag: &str| asked.lock().unwrap().iter().filter(|asked| asked.as_deref() == Some(tag)).count();
    for gate in [&of_feed, &of_file] {
        gate.wait_for_log("which version was used before cannot be found out");
        assert!(!catches(gate, "quince"), "what cannot be compared is not taken up");
        fs::remove_file(gate.state().join("bundles.seen")).unwrap();
    }
    for gate in [&of_feed, &of_file] {
        eventually("the bundle that was there all along", || catches(gate, "quince").then_some(()));
    }
    // Once it was examined, the feed need not send it again.
    eventually("a conditional request", || (had("\"2\"") > 0).then_some(()));
}

/// Whoever writes to the database takes a row out of it; the file beside it remembers the same.
#[test]
fn sc_06_without_its_rows_in_the_database_an_older_bundle_is_still_older() {
    let up = parrot(Arc::default());
    let mut gate = Gate::start(&config(&up, "path = \"house.json\""));
    put(&gate, &fresh(&key(1), 5, "marmalade"));
    eventually("the first bundle", || catches(&gate, "marmalade").then_some(()));
    gate.stop();
    // All of it goes, as if there had never been anything.
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(gate.state().join(format!("store.db{end}")));
    }
    let _ = fs::remove_file(gate.state().join("pins.seen"));
    put(&gate, &fresh(&key(1), 4, "quince"));
    gate.restart();
    gate.wait_for_log("is older than 5");
    assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"));
    put(&gate, &fresh(&key(1), 6, "quince"));
    eventually("a newer one", || catches(&gate, "quince").then_some(()));
}

/// Spoils the links of every chain of keys in the database of a gate that is stopped.
fn spoil_links(gate: &Gate) {
    let file = gate.state().join("store.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // What the log before the database holds comes to lie in its file.
    runtime.block_on(async { Database::sqlite(&file).await.unwrap().close().await });
    let (good, bad) = (b"bartizan-shield-bundle-keys/1", b"bartizan-shield-bundle-keys/x");
    let mut bytes = fs::read(&file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - good.len()).filter(|at| bytes[*at..].starts_with(good)).collect();
    assert!(!places.is_empty(), "the database has a chain of keys");
    for at in places {
        bytes[at..at + bad.len()].copy_from_slice(bad);
    }
    fs::write(&file, bytes).unwrap();
}

/// Whoever writes to the database takes the chain of keys out of it: the bundle's own one counts, and the copy of a bundle
/// that brought none knows it still. Where the chain led to is remembered beside the database.
#[test]
fn sc_06_without_its_chain_of_keys_in_the_database_the_bundle_still_judges() {
    let up = parrot(Arc::default());
    let mut gate = Gate::start(&config(&up, "path = \"house.json\""));
    put(&gate, &chained(2, 6, "quince", &[(2, &[1, 2])]));
    eventually("the bundle of the next key", || catches(&gate, "quince").then_some(()));
    gate.stop();
    spoil_links(&gate);
    gate.restart();
    gate.wait_for_log("is not as it was written");
    assert!(catches(&gate, "quince"), "the bundle has the chain too");
    put_in_vain(&gate, &fresh(&key(1), 7, "marmalade"));
    put(&gate, &fresh(&key(2), 7, "medlar"));
    eventually("a bundle without the chain", || catches(&gate, "medlar").then_some(()));
    gate.stop();
    spoil_links(&gate);
    put(&gate, &fresh(&key(1), 8, "marmalade"));
    gate.restart();
    gate.wait_for_log("and 1 were followed before");
    assert!(catches(&gate, "medlar") && !catches(&gate, "marmalade"), "the copy has the chain");
    put(&gate, &fresh(&key(2), 8, "damson"));
    eventually("the next bundle without the chain", || catches(&gate, "damson").then_some(()));
}

fn public(seeds: &[u8]) -> Vec<PublicKey> {
    seeds.iter().map(|seed| key(*seed).public()).collect()
}

/// A chain whose links name the first key, each signed by the second ones.
fn chain(links: &[(u8, &[u8])]) -> Chain {
    let mut chain = Chain::default();
    for (to, by) in links {
        // The same link each time, as a publisher keeps it.
        chain.add(&public(&[*to]), Timestamp::from_unix(1_800_000_000)).unwrap();
        by.iter().for_each(|seed| chain.sign(&key(*seed)));
    }
    chain
}

fn chained(signer: u8, version: u64, word: &str, links: &[(u8, &[u8])]) -> String {
    let bundle = Envelope::read(fresh(&key(signer), version, word).as_bytes()).unwrap();
    bundle.with_chain(chain(links)).to_json()
}

/// A publisher changes keys, and no gate its configuration. The old key signs nothing any more, nor does one that it names
/// later, and versions go on.
#[test]
fn sc_06_gates_follow_a_chain_of_keys_and_never_back() {
    let up = parrot(Arc::default());
    let mut gate = Gate::start(&config(&up, "path = \"house.json\""));
    put(&gate, &fresh(&key(1), 5, "marmalade"));
    eventually("the first bundle", || catches(&gate, "marmalade").then_some(()));
    for (bad, why) in [
        (chained(2, 6, "quince", &[(2, &[2])]), "signed by 0 of the keys before it"),
        (chained(2, 6, "quince", &[(2, &[1])]), "signed by 0 of its own keys"),
        (chained(2, 4, "quince", &[(2, &[1, 2])]), "is older than 5"),
    ] {
        put_in_vain(&gate, &bad);
        gate.wait_for_log(why);
        assert!(catches(&gate, "marmalade") && !catches(&gate, "quince"), "{why}");
    }
    put(&gate, &chained(2, 6, "quince", &[(2, &[1, 2])]));
    eventually("the bundle of the next key", || catches(&gate, "quince").then_some(()));
    let attacks = [
        (fresh(&key(1), 7, "marmalade"), "has been replaced"),
        (chained(1, 7, "marmalade", &[(2, &[1, 2])]), "has been replaced"),
        (chained(9, 7, "marmalade", &[(9, &[1, 9])]), "signatures needed"),
        (chained(9, 7, "marmalade", &[(9, &[1, 9]), (9, &[9])]), "is another than the one"),
    ];
    for again in [false, true] {
        for (bad, why) in &attacks {
            if again {
                put(&gate, bad);
                gate.restart();
            } else {
                put_in_vain(&gate, bad);
            }
            gate.wait_for_log(why);
            assert!(!catches(&gate, "marmalade") && catches(&gate, "quince"), "{why}, restarted: {again}");
        }
    }
    // The chain is remembered; a longer one leads on, for a gate that has seen nothing of it too.
    put(&gate, &fresh(&key(2), 8, "medlar"));
    eventually("a bundle without the chain", || catches(&gate, "medlar").then_some(()));
    let on = chained(3, 9, "damson", &[(2, &[1, 2]), (3, &[2, 3])]);
    put(&gate, &on);
    eventually("the third key", || catches(&gate, "damson").then_some(()));
    let other = Gate::start(&config(&up, "path = \"house.json\""));
    put(&other, &on);
    eventually("the third key, from the first", || catches(&other, "damson").then_some(()));
}

/// A client that launches its server itself, and whoever tries a text out, get the rules of the bundle as a gate does, and no
/// others' rules.
#[test]
fn sc_06_wrap_and_shield_test_judge_by_the_bundle_that_counts() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = format!(
        "[shield.bundle]\nkeys = [\"{}\"]\npath = \"house.json\"\n\
         [[servers]]\nname = \"s\"\ncommand = [\"server\"]\n",
        key(1).public()
    );
    fs::write(folder.path().join("shield.toml"), config).unwrap();
    let put = |bundle: &str| fs::write(folder.path().join("house.json"), bundle).unwrap();
    let withheld = |word: &str| {
        let options = ["--shield-config", "shield.toml"];
        let mut wrapped = Wrapped::start_with(home.path(), folder.path(), &options, &[]);
        let call = format!(r#""name":"echo","arguments":{{"say":"the {word} is here"}}"#);
        wrapped.say(&modern_text("1", "tools/call", &call, "{}"));
        let answer = wrapped.message();
        wrapped.finish();
        answer["error"]["code"] == WITHHELD
    };
    let tested = |word: &str, options: &[&str]| {
        let text = folder.path().join("text");
        fs::write(&text, format!("the {word} is here")).unwrap();
        let run = Command::new(binary())
            .args(["shield", "test"])
            .args(options)
            .arg(&text)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(matches!(run.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&run.stderr));
        run.status.code() == Some(1)
    };
    let judged_by = |options: &[&str]| {
        fs::write(folder.path().join("text"), "the marmalade is here").unwrap();
        let run = Command::new(binary())
            .args(["shield", "test", "--format", "json", "text"])
            .args(options)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        said["judged_by"].clone()
    };
    let with = ["--config", "shield.toml"];
    assert!(!withheld("marmalade") && !tested("marmalade", &with), "there is no bundle yet");
    assert_eq!(judged_by(&with), "build");
    put(&fresh(&key(1), 5, "marmalade"));
    assert!(withheld("marmalade") && tested("marmalade", &with));
    assert!(!withheld("quince") && !tested("quince", &with));
    assert!(!tested("marmalade", &[]), "without a configuration the build's own rules judge");
    assert_eq!(judged_by(&with), json!({ "bundle": "house", "version": 5 }));
    assert_eq!(judged_by(&[]), "build");
    for bad in [fresh(&key(2), 6, "quince"), stripped(&fresh(&key(1), 6, "quince"))] {
        put(&bad);
        assert!(!withheld("quince") && !tested("quince", &with), "it is no bundle of ours");
    }
    put(&fresh(&key(1), 4, "quince"));
    assert!(withheld("marmalade") && !withheld("quince"), "the last good one stays");
    put(&fresh(&key(1), 6, "quince"));
    assert_eq!(judged_by(&with)["version"], 6);
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
    // Another key signs from now on, and whoever knows the first one follows.
    let (_, _, next) = run(&["keygen", "--out", "next.pem"]);
    let next = next.trim();
    let rotate = ["rotate", "acme.keys", "--next", next, "--key", "acme.pem"];
    let (code, said, _) = run(&rotate);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no gate follows link 1 yet: none of the keys that it names signed it"), "{said}");
    let make = [&make[..], &["--chain", "acme.keys", "--key", "next.pem"]].concat();
    assert_eq!(run(&make).0, Some(0));
    let (code, said, _) = run(&verify);
    assert_eq!(code, Some(1), "the new key has not signed the chain: {said}");
    assert!(said.contains("bundle.keys"), "{said}");
    let further = ["rotate", "acme.keys", "--next", public, "--key", "next.pem"];
    let (code, said, _) = run(&further);
    assert_eq!(code, Some(3), "a link upon one that no gate follows: {said}");
    assert!(said.contains("before you add another"), "{said}");
    let (code, said, _) = run(&["sign", "acme.keys", "--key", "next.pem"]);
    assert_eq!((code, said.contains("no gate follows")), (Some(0), false), "{said}");
    assert_eq!(run(&make).0, Some(0));
    let (code, said, _) = run(&verify);
    assert_eq!((code, said.contains("good: acme version 7")), (Some(0), true), "{said}");
    let (_, said, _) = run(&["show", "acme.json"]);
    assert!(said.contains("link 1") && said.contains(next), "{said}");
    // A key that was replaced signs nothing, the same keys are no next ones, and one file is not taken for another.
    let with_old =
        ["make", "--name", "acme", "--bundle-version", "8", "--rules", "house.toml", "--out", "old.json"];
    for (arguments, why) in [
        (&[&with_old[..], &["--chain", "acme.keys", "--key", "acme.pem"]].concat()[..], "does not name"),
        (&["sign", "acme.json", "--key", "acme.pem"], "does not name"),
        (&["rotate", "acme.keys", "--next", next, "--key", "next.pem"], "names these keys already"),
        (
            &[&with_old[..], &["--chain", "acme.json", "--key", "next.pem"]].concat()[..],
            "a chain of keys is wanted",
        ),
        (&["rotate", "acme.json", "--next", public, "--key", "next.pem"], "a chain of keys is wanted"),
        (&["verify", "acme.keys", "--public-key", public], "a bundle is wanted"),
    ] {
        let (code, said, _) = run(arguments);
        assert_eq!(code, Some(3), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    assert!(!folder.path().join("old.json").exists());
    // A link that nobody before it signed is made, for another machine to sign; it is said that no gate follows it.
    fs::copy(folder.path().join("acme.keys"), folder.path().join("on.keys")).unwrap();
    let (code, said, _) = run(&["rotate", "on.keys", "--next", public, "--key", "acme.pem"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no gate follows link 2 yet: none of the keys before it signed it"), "{said}");
    let (code, said, _) = run(&["sign", "on.keys", "--key", "next.pem"]);
    assert_eq!((code, said.contains("no gate follows")), (Some(0), false), "{said}");
    // What no gate would take is not made.
    fs::write(folder.path().join("house.toml"), pack("marmalade").replace("nor there", "marmalade there"))
        .unwrap();
    let (code, said, _) = run(&make);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("trips"), "{said}");
}
