//! The audit log at the receivers of a SOC, whatever they answer (attacks.md §2.4 to §2.9).

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use aws_lc_rs::hmac;
use bartizan_trials::{Gate, Heard, Pen, Upstream, eventually, refusal_of};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::exporting::{to_file, to_sentinel, to_url};

const TOKEN: &str = "c0ffee-token-of-the-collector";
const HOOK: &str = "whsec_c2VjcmV0IG9mIHRoZSBob29rIGZvciB0cmlhbHM=";

fn gate(export: &str) -> (Gate, Upstream) {
    let server = Upstream::modern(|_, _| false);
    let config = format!("[audit]\nhost = \"gate-1\"\n{export}\n{}", server.config("s", ""));
    (Gate::start_with(&config, &[("TOKEN", TOKEN), ("HOOK", HOOK)]), server)
}

fn call(gate: &Gate) {
    assert_eq!(gate.client().call("/mcp/s", "echo", r#"{"word":"w"}"#).outcome(), 200);
}

/// A receiver that answers everything with this status.
fn receiver(status: &'static str) -> Upstream {
    receiver_that(move |_, pen| pen.empty(status))
}

fn receiver_that(answers: impl Fn(&Heard, &mut Pen) + Send + Sync + 'static) -> Upstream {
    Upstream::modern(move |heard, pen| {
        answers(heard, pen);
        true
    })
}

/// The JSON values one behind the other in what a receiver got.
fn values(bodies: &[Heard]) -> Vec<Value> {
    let each = |heard: &Heard| {
        serde_json::Deserializer::from_str(&heard.body)
            .into_iter()
            .map_while(Result::ok)
            .collect::<Vec<Value>>()
    };
    bodies.iter().flat_map(each).collect()
}

/// The numbers of the entries among OCSF events.
fn sequence(events: &[Value]) -> Vec<u64> {
    events.iter().filter_map(|e| e.pointer("/metadata/sequence")?.as_u64()).collect()
}

fn has_closed(events: &[Value]) -> Option<()> {
    events.iter().any(|e| e.pointer("/metadata/event_code") == Some(&json!("call.closed"))).then_some(())
}

/// How many entries are in the log now.
fn entries(gate: &Gate) -> u64 {
    entries_in(&gate.state().join("audit/gate-0"))
}

fn entries_in(folder: &Path) -> u64 {
    let segments = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|f| f.path())
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"));
    let count =
        |path| fs::read_to_string(path).unwrap().lines().filter(|l| l.starts_with("{\"seq\":")).count();
    segments.map(count).sum::<usize>() as u64
}

#[test]
fn every_receiver_gets_the_log_in_its_own_form() {
    let (http, hook, splunk, otlp) = (
        receiver("200 OK"),
        receiver("204 No Content"),
        receiver_that(|_, pen| pen.json(r#"{"text":"Success","code":0}"#)),
        receiver_that(|_, pen| pen.json("{}")),
    );
    let sentinel = receiver_that(|heard, pen| match heard.body.starts_with("grant_type=") {
        true => pen.json(r#"{"access_token":"minted-for-the-rule","expires_in":3600,"token_type":"Bearer"}"#),
        false => pen.empty("204 No Content"),
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let syslog = listener.local_addr().unwrap();
    let messages = Arc::<Mutex<Vec<String>>>::default();
    let taken = Arc::clone(&messages);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(socket);
            let mut length = Vec::new();
            while reader.read_until(b' ', &mut length).is_ok_and(|read| read > 0) {
                let octets: usize =
                    String::from_utf8(std::mem::take(&mut length)).unwrap().trim().parse().unwrap();
                let mut message = vec![0; octets];
                reader.read_exact(&mut message).unwrap();
                taken.lock().unwrap().push(String::from_utf8(message).unwrap());
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let token = "token = { env = \"TOKEN\" }";
    let exporters = [
        to_file(&file),
        to_url("http", "http", &format!("{}/in?key=1", http.origin()), token),
        to_url("hook", "webhook", &format!("{}/hook", hook.origin()), "secret = { env = \"HOOK\" }"),
        to_url("splunk", "splunk-hec", &splunk.origin(), &format!("{token}\nindex = \"sec\"")),
        to_sentinel(&sentinel.origin(), "TOKEN"),
        to_url(
            "otlp",
            "otlp",
            &format!("{}/v1/logs", otlp.origin()),
            &format!("{token}\nencoding = \"json\""),
        ),
        to_url("syslog", "syslog", &format!("tcp://{syslog}"), "body = \"cef\""),
    ];
    let (gate, _server) = gate(&exporters.concat());
    call(&gate);

    eventually("OCSF in the file", || has_closed(&lines(&file)));
    eventually("OCSF by HTTP", || has_closed(&values(&http.heard())));
    let posted = http.heard().remove(0);
    assert_eq!(posted.line("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert!(posted.start().starts_with("POST /in?key=1 "), "{}", posted.start());

    eventually("a signed webhook", || {
        hook.heard().iter().any(|h| h.body.contains("call.closed")).then_some(())
    });
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(HOOK.trim_start_matches("whsec_")).unwrap());
    for heard in hook.heard() {
        let line = |name| heard.line(name).unwrap().to_owned();
        let signed = format!("{}.{}.{}", line("webhook-id"), line("webhook-timestamp"), heard.body);
        let signature = STANDARD.decode(line("webhook-signature").trim_start_matches("v1,")).unwrap();
        hmac::verify(&key, signed.as_bytes(), &signature).expect("the signature is ours");
    }

    eventually("Splunk envelopes", || {
        values(&splunk.heard())
            .iter()
            .any(|e| e["event"]["kind"] == "call.closed" && e["index"] == "sec")
            .then_some(())
    });
    assert!(splunk.heard()[0].start().starts_with("POST /services/collector/event "));
    assert_eq!(splunk.heard()[0].line("authorization"), Some(format!("Splunk {TOKEN}").as_str()));

    eventually("Sentinel rows", || {
        let rows =
            sentinel.heard().into_iter().filter(|h| h.body.contains("call.closed")).collect::<Vec<_>>();
        rows.first().map(|row| {
            assert_eq!(row.line("authorization"), Some("Bearer minted-for-the-rule"));
            assert!(
                row.start().contains("/dataCollectionRules/dcr-0123/streams/Custom-Bartizan_CL?api-version=")
            );
        })
    });
    let asked: Vec<_> = sentinel.heard().into_iter().filter(|h| h.body.starts_with("grant_type=")).collect();
    assert_eq!(asked.len(), 1, "a token is used while it lasts");
    assert!(asked[0].start().starts_with("POST /contoso/oauth2/v2.0/token "));

    eventually("OTLP log records", || {
        otlp.heard().iter().any(|h| h.body.contains("bartizan.call.closed")).then_some(())
    });
    eventually("syslog messages", || {
        let messages = messages.lock().unwrap();
        messages
            .iter()
            .any(|m| {
                m.contains(" gate-1 bartizan ")
                    && m.contains("CEF:0|Bartizan|Bartizan|")
                    && m.contains("|call.closed|")
            })
            .then_some(())
    });
    for secret in [TOKEN, HOOK, "minted-for-the-rule"] {
        assert!(!gate.log().contains(secret), "{secret}");
    }
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_receiver_that_fails_gets_everything_once_it_works() {
    let turn = Mutex::new(0);
    let answers = ["500 Internal Server Error", "429 Too Many Requests", "503 Service Unavailable"];
    let receiver = receiver_that(move |_, pen| {
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        match answers.get(*turn - 1) {
            Some(status) => {
                pen.raw(format!("HTTP/1.1 {status}\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"))
            }
            None => pen.empty("200 OK"),
        }
    });
    let (gate, _server) =
        gate(&format!("[[audit.export]]\nname = \"soc\"\nkind = \"http\"\nurl = \"{}\"\n", receiver.url()));
    call(&gate);
    gate.wait_for_log("the audit log is delivered again");
    eventually("everything", || has_closed(&values(&receiver.heard())));
    let bodies: Vec<_> = receiver.heard().into_iter().map(|h| h.body).collect();
    assert!(bodies[..4].iter().all(|body| *body == bodies[0]), "the same shipment again, until it is taken");
    assert!(!gate.state().join("audit/gate-0/export-soc.dead").exists());
}

#[test]
fn a_wrong_token_loses_nothing_and_is_mended_by_a_reload() {
    let receiver = receiver_that(|heard, pen| match heard.line("authorization") {
        Some("Splunk good-token-of-the-collector") => pen.json(r#"{"text":"Success","code":0}"#),
        _ => pen.whole("403 Forbidden", "application/json", "", r#"{"text":"Invalid token","code":4}"#),
    });
    let (gate, server) = gate("");
    let url = receiver.url().trim_end_matches("/mcp").to_owned();
    let secret = gate.folder().join("hec.token");
    let config = format!(
        "[audit]\nhost = \"gate-1\"\n[[audit.export]]\nname = \"soc\"\nkind = \"splunk-hec\"\nurl = \"{url}\"\n\
         token = {{ file = \"hec.token\" }}\n{}",
        server.config("s", "")
    );
    fs::write(&secret, "bad-token-of-the-collector\n").unwrap();
    gate.reconfigure(&config);
    call(&gate);
    gate.wait_for_log("Splunk HEC code 4");
    fs::write(&secret, "good-token-of-the-collector\n").unwrap();
    gate.reconfigure(&config);
    let taken = || {
        let good: Vec<_> =
            receiver.heard().into_iter().filter(|h| h.lines().contains("good-token")).collect();
        values(&good).iter().filter_map(|e| e["event"]["seq"].as_u64()).collect::<BTreeSet<_>>()
    };
    eventually("everything", || (taken().len() as u64 >= entries(&gate)).then_some(()));
    assert_eq!(taken().first(), Some(&0), "from the first entry on");
    assert!(!gate.state().join("audit/gate-0/export-soc.dead").exists());
}

#[test]
fn a_receiver_of_small_bodies_gets_them_small_and_what_never_fits_is_named() {
    let receiver = receiver_that(|heard, pen| match heard.body.len() {
        // One event in particular is too large for this receiver, and so is any three together.
        _ if heard.body.contains("a-tool-it-will-not-have") => pen.empty("413 Content Too Large"),
        0..=4000 => pen.empty("200 OK"),
        _ => pen.empty("413 Content Too Large"),
    });
    let (gate, _server) =
        gate(&format!("[[audit.export]]\nname = \"soc\"\nkind = \"http\"\nurl = \"{}\"\n", receiver.url()));
    for tool in ["echo", "a-tool-it-will-not-have", "echo", "echo"] {
        assert_eq!(gate.client().call("/mcp/s", tool, "{}").outcome(), 200);
    }
    let dead = gate.state().join("audit/gate-0/export-soc.dead");
    let told = eventually("the dead letters are told to the receiver too", || {
        let taken: Vec<_> = receiver.heard().into_iter().filter(|h| h.body.len() <= 4000).collect();
        let told = values(&taken).into_iter().find(|e| e["metadata"]["event_code"] == "export.failed");
        told.filter(|_| fs::read_to_string(&dead).unwrap_or_default().lines().count() == 2)
    });
    assert!(told["raw_data"].as_str().unwrap().contains("soc: HTTP 413"), "{told}");
    let letters = fs::read_to_string(&dead).unwrap();
    let kinds: Vec<Value> =
        letters.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["kind"].clone()).collect();
    assert_eq!(kinds, ["call.opened", "call.closed"], "{letters}");
}

#[test]
fn a_receiver_that_hangs_holds_up_no_call() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let receiver = receiver_that(move |_, pen| {
        // Whoever is let go is dropped at the end, which lets everybody go.
        let _ = released.lock().unwrap().recv();
        pen.empty("200 OK");
    });
    let (gate, _server) =
        gate(&format!("[[audit.export]]\nname = \"soc\"\nkind = \"http\"\nurl = \"{}\"\n", receiver.url()));
    eventually("a shipment at the receiver", || (!receiver.heard().is_empty()).then_some(()));
    for _ in 0..50 {
        call(&gate);
    }
    assert_eq!(receiver.heard().len(), 1, "fifty calls were answered while the receiver was not");
    drop(release);
    eventually("everything", || {
        let seen: BTreeSet<_> = sequence(&values(&receiver.heard())).into_iter().collect();
        (seen.len() as u64 >= entries(&gate)).then_some(())
    });
}

#[test]
fn what_was_on_its_way_when_the_gate_was_killed_is_sent_again() {
    let (answers, shipments) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Value>>>::default());
    let (may_answer, taken) = (Arc::clone(&answers), Arc::clone(&shipments));
    let receiver = receiver_that(move |heard, pen| {
        if may_answer.load(Ordering::Relaxed) {
            taken.lock().unwrap().extend(values(std::slice::from_ref(heard)));
            pen.empty("200 OK");
        } else {
            // It has read everything, and says nothing.
            pen.wait_closed();
        }
    });
    let server = Upstream::modern(|_, _| false);
    let export = format!("[[audit.export]]\nname = \"soc\"\nkind = \"http\"\nurl = \"{}\"\n", receiver.url());
    let mut gate = Gate::start(&format!("{export}{}", server.config("s", "")));
    for round in 0..3 {
        for _ in 0..5 {
            call(&gate);
        }
        let heard = receiver.heard().len();
        eventually("a shipment at the receiver", || {
            (heard > round).then_some(()).or_else(|| (receiver.heard().len() > round).then_some(()))
        });
        gate.restart();
    }
    call(&gate);
    answers.store(true, Ordering::Relaxed);
    gate.restart();
    eventually("everything", || {
        let seen: BTreeSet<_> = sequence(&shipments.lock().unwrap()).into_iter().collect();
        (seen.len() as u64 >= entries(&gate)).then_some(())
    });
    let seen: Vec<_> = sequence(&shipments.lock().unwrap());
    assert_eq!(seen.first(), Some(&0));
    assert!(seen.windows(2).all(|pair| pair[1] <= pair[0] + 1), "in order, none left out: {seen:?}");
}

#[test]
fn an_exporter_that_cannot_work_is_refused_before_anything_is_served() {
    let (code, said) = refusal_of(
        "[[audit.export]]\nname = \"a\"\nkind = \"syslog\"\nurl = \"tcp://10.1.2.3:514\"\n\
         [[audit.export]]\nname = \"a\"\nkind = \"otlp\"\nurl = \"https://c.example/v1/logs\"\ntoken = \"in-the-clear\"\n\
         [[servers]]\nname = \"s\"\ncommand = [\"true\"]\n",
    );
    assert_eq!(code, Some(2), "{said}");
    for part in ["loopback only", "is a secret", "two [[audit.export]]"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("in-the-clear"), "{said}");
    let (code, said) = refusal_of(
        "[[audit.export]]\nname = \"a\"\nkind = \"http\"\nurl = \"https://c.example/\"\ntoken = { env = \"NOT_SET\" }\n\
         [[audit.export]]\nname = \"b\"\nkind = \"http\"\nurl = \"https://c.example/\"\ntls = { ca = \"/no/such/ca.pem\" }\n\
         [[servers]]\nname = \"s\"\ncommand = [\"true\"]\n",
    );
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("NOT_SET") && said.contains("/no/such/ca.pem"), "both at once: {said}");
}

/// What a command records is in a log of its own, which ends with the command.
#[test]
fn what_commands_record_is_delivered_by_the_gate_that_runs_or_by_the_next_one() {
    let soc = receiver("200 OK");
    let export = format!("[[audit.export]]\nname = \"soc\"\nkind = \"http\"\nurl = \"{}\"", soc.url());
    let (mut gate, _server) = gate(&export);
    let told = |what: &str| {
        let acted = values(&soc.heard()).into_iter().filter(|e| {
            e.pointer("/metadata/event_code") == Some(&json!("response.acted"))
                && e.to_string().contains("respond-")
        });
        acted.filter(|e| e.to_string().contains(what)).count()
    };
    let respond = |gate: &Gate, arguments: &[&str]| {
        assert_eq!(super::responses::respond(gate, arguments).0, Some(0));
    };
    respond(&gate, &["quarantine", "s", "--why", "the-first-word"]);
    eventually("the running gate tells it", || (told("the-first-word") > 0).then_some(()));
    // A gate that is killed before it has noted what was taken tells it twice, which it may.
    eventually("it has noted that", || {
        let folders = fs::read_dir(gate.state().join("audit")).unwrap().flatten().map(|entry| entry.path());
        let mut ended = folders
            .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("respond-")));
        ended
            .all(|folder| {
                let cursor = fs::read_to_string(folder.join("export-soc.cursor")).unwrap_or_default();
                let noted: Value = serde_json::from_str(&cursor).unwrap_or_default();
                noted["next"] == entries_in(&folder)
            })
            .then_some(())
    });
    gate.signal(rustix::process::Signal::KILL);
    gate.wait();
    respond(&gate, &["release", "s", "--why", "the-second-word"]);
    assert_eq!(told("the-second-word"), 0, "nobody is there to tell it");
    gate.restart();
    eventually("the next one tells it", || (told("the-second-word") > 0).then_some(()));
    assert_eq!(told("the-first-word"), 1, "it is told once");
}
