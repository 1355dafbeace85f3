//! Opaque tokens, which mean what their issuer says for as long as it says so (RFC 7662; RFC 7009).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bartizan_model::{Clock, SystemClock};
use bartizan_trials::{Ask, Gate, Upstream, eventually, issuers_of, parameter};
use serde_json::{Value, json};

const BASE: &str = "https://gate.example";

/// An authorization server whose tokens are opaque, and a gate in front of a server of each era.
struct Scene {
    issuer: Upstream,
    /// What is changed of what the issuer says about a token.
    changed: Arc<Mutex<BTreeMap<String, Value>>>,
    new: Upstream,
    gate: Gate,
    old: Upstream,
}

impl Scene {
    fn start() -> Self {
        let changed = Arc::<Mutex<BTreeMap<String, Value>>>::default();
        let known = Arc::clone(&changed);
        let issuer = Upstream::modern(move |heard, pen| {
            let form = format!("http://x/?{}", heard.body);
            let token = parameter(&form, "token").unwrap_or_default();
            // `PERSON-at-SERVER`
            let Some((person, server)) = token.split_once("-at-").filter(|_| heard.path() == "/introspect")
            else {
                pen.json(r#"{"active":false}"#);
                return true;
            };
            if person == "busy" {
                std::thread::sleep(Duration::from_secs(1));
            }
            let good = json!({
                "active": true, "sub": person, "client_id": "agent", "aud": format!("{BASE}/mcp/{server}"),
                "scope": "mcp:read", "exp": SystemClock.now().as_unix() + 3000, "groups": ["people"],
            });
            let change = known.lock().unwrap().get(&token).cloned().unwrap_or_else(|| json!({}));
            pen.json(&bartizan_trials::merge(good, change).to_string());
            true
        });
        let new = Upstream::modern(|heard, pen| match heard.rpc().as_str() {
            "subscriptions/listen" => {
                pen.stream();
                let params = json!({
                    "notifications": { "toolsListChanged": true },
                    "_meta": { "io.modelcontextprotocol/subscriptionId": heard.json()["id"] },
                });
                let told = json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params });
                pen.event(None, &told.to_string());
                pen.wait_closed();
                true
            }
            "tools/call" if heard.tool() == "slow" => {
                pen.stream();
                pen.wait_closed();
                true
            }
            _ => false,
        });
        let old = Upstream::legacy(|heard, pen| {
            if heard.rpc() != "tools/call" || heard.tool() != "chatty" {
                return false;
            }
            // It never pauses for as long as the gate lets pass between its questions.
            pen.stream();
            for _ in 0..40 {
                pen.event(
                    None,
                    r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"tick"}}"#,
                );
                std::thread::sleep(Duration::from_secs(1));
            }
            true
        });
        let origin = issuer.origin();
        let issuers = format!(
            "[[identity.issuers]]\nkind = \"oidc\"\nissuer = \"{origin}\"\n\
             introspection = {{ url = \"{origin}/introspect\", client_id = \"gate\", client_secret = {{ env = \"SECRET\" }} }}\n"
        );
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"resource-server\"\n{issuers}\
             [policy.roles.people]\ngroups = [\"people\"]\n{}[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}{}",
            issuers_of(&issuers),
            new.config("new", ""),
            old.config("old", ""),
        );
        let gate = Gate::start_with(&config, &[("SECRET", "the-gates-own")]);
        Self { issuer, changed, new, gate, old }
    }

    fn change(&self, token: &str, change: Value) {
        self.changed.lock().unwrap().insert(token.to_owned(), change);
    }

    /// Listens as `token` lets it.
    fn listens(&self, token: &str) -> Ask {
        let client = self.gate.bearer(token.to_owned());
        client.modern("/mcp/new", "subscriptions/listen", r#""notifications":{"toolsListChanged":true}"#)
    }
}

/// Reads the answer to its end, in a thread of its own; the answer is when that was.
fn end_of(ask: Ask) -> JoinHandle<Instant> {
    std::thread::spawn(move || {
        let mut stream = ask.open();
        while stream.event().is_some() {}
        Instant::now()
    })
}

/// The issuer alone knows that a token is worth nothing any more. It is asked while something goes on under one.
#[test]
fn aa_29_what_goes_on_under_a_token_ends_when_its_issuer_takes_it_back() {
    let scene = Scene::start();
    let (ann, bob, old) = ("ann-at-new", "bob-at-new", "ann-at-old");
    let stream = end_of(scene.listens(ann));
    let session = scene.gate.bearer(old.to_owned()).session("/mcp/old", "2025-11-25", "{}");
    let legacy = end_of(session.listen(None));
    let chatty = end_of(session.call("1", "chatty", "{}"));
    let slow =
        scene.gate.bearer(ann.to_owned()).modern("/mcp/new", "tools/call", r#""name":"slow","arguments":{}"#);
    let slow = end_of(slow);
    let honest = end_of(scene.listens(bob));
    eventually("all of it", || {
        let heard = |method| scene.new.heard_of(method).len();
        let is_chatting = scene.old.heard_of("tools/call").len() == 1;
        (is_chatting && heard("tools/call") == 1 && heard("subscriptions/listen") == 2).then_some(())
    });
    // A while later all of it goes on.
    std::thread::sleep(Duration::from_secs(6));
    for going_on in [&stream, &legacy, &chatty, &slow, &honest] {
        assert!(!going_on.is_finished());
    }
    let taken_back = Instant::now();
    for token in [ann, old] {
        scene.change(token, json!({ "active": false }));
    }
    for (what, ended) in [
        ("a stream", stream),
        ("a session's stream", legacy),
        ("a call that says something every second", chatty),
        ("a call", slow),
    ] {
        let after = ended.join().unwrap().duration_since(taken_back);
        assert!(after < Duration::from_secs(15), "{what} ended after {after:?}");
    }
    assert_eq!(scene.gate.bearer(ann.to_owned()).call("/mcp/new", "echo", "{}").status, 401);
    assert!(!honest.is_finished(), "the honest neighbour's goes on");
    assert_eq!(scene.gate.bearer(bob.to_owned()).call("/mcp/new", "echo", "{}").outcome(), 200);
    // Three tokens, in some twenty seconds: no flood.
    let asked = scene.issuer.heard().len();
    assert!(asked < 40, "{asked}");
    for heard in scene.new.heard() {
        assert!(!heard.lines().contains("-at-new"), "{}", heard.lines());
    }
    assert!(!scene.gate.log().contains("-at-new"));
}

/// A client whose requests come all at once asks its issuer once when the last answer has grown old, not once for each.
#[test]
fn of_many_requests_with_one_token_one_asks_its_issuer() {
    let scene = Scene::start();
    let call = || scene.gate.bearer("busy-at-new".to_owned()).call("/mcp/new", "echo", "{}").outcome();
    for asked in 1..=2 {
        std::thread::scope(|threads| {
            let calls: Vec<_> = (0..12).map(|_| threads.spawn(call)).collect();
            for call in calls {
                assert_eq!(call.join().unwrap(), 200);
            }
        });
        let heard = scene.issuer.heard();
        assert_eq!(heard.iter().filter(|heard| heard.path() == "/introspect").count(), asked);
        std::thread::sleep(Duration::from_secs(6));
    }
    scene.change("busy-at-new", json!({ "active": false }));
    assert_eq!(call(), 401);
}
