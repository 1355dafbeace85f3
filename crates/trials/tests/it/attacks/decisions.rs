//! Pages on which people decide about held calls, and all the ways to a decision that is nobody's (attacks.md EP-08).

use std::fs;

use bartizan_trials::{Answer, Browser, Client, Gate, Issuer, Upstream, eventually, field, onward};
use serde_json::{Value, json};

const BASE: &str = "https://gate.example";
const FORBIDDEN: i64 = -31003;

/// Held by `boss`; by two roles; by whoever asks.
const POLICIES: &str = r#"
    @id("send") @approval("boss") forbid (principal, action == Action::"call:s.send", resource);
    @id("pay") @approval("boss") forbid (principal, action == Action::"call:s.pay", resource);
    @id("pay-too") @approval("auditor") forbid (principal, action == Action::"call:s.pay", resource);
    @id("mine") @approval("self") forbid (principal, action == Action::"call:s.mine", resource);"#;

fn server() -> Upstream {
    Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/list" {
            return false;
        }
        let tool = |name: &str| json!({ "name": name, "description": "Does something.", "inputSchema": { "type": "object" } });
        let tools: Vec<_> = ["send", "pay", "mine"].into_iter().map(tool).collect();
        let result = json!({ "resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private" });
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

/// An office: people sign in at `issuer`, whose access tokens count too.
struct Office {
    issuer: Issuer,
    up: Upstream,
    gate: Gate,
    policies: tempfile::TempDir,
}

impl Office {
    fn open() -> Self {
        let (issuer, up, policies) = (Issuer::start(1), server(), tempfile::tempdir().unwrap());
        fs::write(policies.path().join("a.cedar"), POLICIES).unwrap();
        let gate = Gate::start_with(&Self::config(&issuer, &up, &policies), &[("PROVIDER_SECRET", "s3cret")]);
        let office = Self { issuer, up, gate, policies };
        // Policies on tools that are not pinned yet wait until they are.
        eventually("the tools are pinned", || {
            let listed = office.caller("ann").modern("/mcp/s", "tools/list", "").send();
            listed.text().contains("\"send\"").then_some(())
        });
        office
    }

    fn config(issuer: &Issuer, up: &Upstream, policies: &tempfile::TempDir) -> String {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"facade\"\n{}{}\
             [policy]\ndir = {:?}\n[policy.roles.people]\ngroups = [\"people\"]\n[policy.roles.boss]\ngroups = [\"bosses\"]\n\
             [policy.roles.auditor]\ngroups = [\"auditors\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n\
             [[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\ntrust = \"trusted\"\n",
            issuer.provider(),
            issuer.config(),
            policies.path(),
            up.url()
        )
    }

    /// `subject` at the endpoint, by an application.
    fn caller(&self, subject: &str) -> Client {
        self.gate.bearer(self.issuer.token(subject, &format!("{BASE}/mcp/s"), json!({})))
    }

    fn send(&self, to: &str) -> Answer {
        self.caller("ann").call("/mcp/s", "send", &json!({ "to": to }).to_string())
    }

    /// `subject`, signed in on the way to the page at `path`.
    fn person(&self, subject: &str, groups: &[&str], path: &str) -> (Browser, Answer) {
        Browser::signed_in(&self.gate, &self.issuer, (subject, groups), path)
    }

    fn calls(&self) -> usize {
        self.up.heard_of("tools/call").len()
    }
}

/// The paths of the pages where a refused call can be decided about, by role.
fn pages(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.code(), Some(FORBIDDEN), "{}", answer.text());
    let data = answer.json()["error"]["data"].clone();
    assert_eq!(data["reason"], "policy.approval");
    let all = data["approvals"].as_array().cloned().unwrap_or_else(|| vec![data["approval"].clone()]);
    let page = |one: &Value| {
        let url = one["url"].as_str().unwrap_or_else(|| panic!("{one}"));
        (one["role"].as_str().unwrap().to_owned(), url.strip_prefix(BASE).unwrap_or(url).to_owned())
    };
    all.iter().map(page).collect()
}

fn page(answer: &Answer) -> String {
    let found = pages(answer);
    assert_eq!(found.len(), 1);
    assert!(answer.error().contains(&found[0].1), "the words have the link too: {}", answer.error());
    found[0].1.clone()
}

fn press(visitor: &mut Browser, path: &str, page: &Answer, button: &str) -> Answer {
    visitor.post(path, &[("form", &field(page, "form").unwrap()), ("decision", button)])
}

/// Whoever was cut off decides nothing, signed in before or after; somebody else of the role does.
#[test]
fn ep_08_whoever_was_cut_off_decides_nothing() {
    let office = Office::open();
    let path = page(&office.send("bob"));
    let (mut boss, shown) = office.person("bea", &["bosses"], &path);
    let revoked = std::process::Command::new(bartizan_trials::binary())
        .args(["respond", "revoke", "--person", "bea", "--issuer", &office.issuer.name(), "--config"])
        .arg(office.gate.folder().join("bartizan.toml"))
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    eventually("the browser is signed out", || field(&boss.get(&path), "form").is_none().then_some(()));
    assert_ne!(press(&mut boss, &path, &shown, "approve").outcome(), 200);
    // The provider still vouches for her, and what the command wrote is known to the gate within seconds.
    eventually("the gate knows", || (office.person("bea", &["bosses"], &path).1.status == 403).then_some(()));
    page(&office.send("bob"));
    assert_eq!(office.calls(), 0);
    let (mut other, shown) = office.person("ben", &["bosses"], &path);
    assert_eq!(press(&mut other, &path, &shown, "approve").outcome(), 200);
    assert_eq!(office.send("bob").outcome(), 200);
}

/// A browser that has been signed in for long decides nothing, with whatever roles it had then.
#[test]
fn ep_08_whoever_signed_in_long_ago_signs_in_again_with_the_roles_of_now() {
    let office = Office::open();
    let path = page(&office.send("bob"));
    let mut bea = Browser::at(&office.gate);
    let long_ago = json!({ "auth_time": 1 });
    let arrived = bea.get("/account");
    let fields = [("csrf", field(&arrived, "csrf").unwrap()), ("action", "sign-in".to_owned())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let departure = onward(&bea.post("/account", &fields)).unwrap();
    let back = |departure: &str| {
        let query = departure.split_once('?').unwrap().1;
        let state = query.split('&').find_map(|pair| pair.strip_prefix("state=")).unwrap();
        format!("/oauth/callback?state={state}&code=good")
    };
    office.issuer.signs_in_with(&departure, "bea", &["bosses"], long_ago.clone());
    assert_eq!(bea.get(&back(&departure)).line("location"), Some("/account"));
    let shown = bea.get(&path);
    assert!(shown.text().contains("too long ago") && !shown.text().contains("bob"), "{}", shown.text());
    let again = |bea: &mut Browser, shown: &Answer| {
        let departure = onward(&bea.post(&path, &[("csrf", &field(shown, "csrf").unwrap())])).unwrap();
        assert!(departure.contains("prompt=login") && departure.contains("max_age=900"), "{departure}");
        departure
    };
    // A provider that does not ask her again is not believed.
    let departure = again(&mut bea, &shown);
    office.issuer.signs_in_with(&departure, "bea", &["bosses"], long_ago);
    assert_eq!(bea.get(&back(&departure)).status, 403);
    // She is no boss any more.
    let departure = again(&mut bea, &shown);
    office.issuer.signs_in(&departure, "bea", &["people"]);
    assert_eq!(bea.get(&back(&departure)).line("location"), Some(path.as_str()));
    assert_eq!(bea.get(&path).status, 403);
    assert_eq!(office.calls(), 0);
    let (mut ben, shown) = office.person("ben", &["bosses"], &path);
    assert_eq!(press(&mut ben, &path, &shown, "approve").outcome(), 200);
    assert_eq!(office.send("bob").outcome(), 200);
}

/// The approver sees the call, approves it, and it passes once.
#[test]
fn ep_08_somebody_who_holds_the_role_decides_on_a_page() {
    let office = Office::open();
    let path = page(&office.send("bob\u{202e}"));
    assert_eq!(page(&office.send("bob\u{202e}")), path, "asked once, however often it is tried");
    let (mut boss, shown) = office.person("bea", &["bosses"], &path);
    for words in ["ann", "send", "boss", "⟨U+202E⟩", "<pre"] {
        assert!(shown.text().contains(words), "{words}: {}", shown.text());
    }
    assert!(shown.line("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let fields = [("form", field(&shown, "form").unwrap()), ("decision", "approve".to_owned())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // A page of somebody else's, and one that says nothing of itself.
    for lines in [
        &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")][..],
        &[("Origin", "null"), ("Sec-Fetch-Site", "same-site")],
        &[],
    ] {
        let form = boss.form_with(&path, &fields, lines);
        assert_eq!(boss.send(form).status, 403, "{lines:?}");
    }
    assert_eq!(Browser::at(&office.gate).post(&path, &fields).status, 403, "another browser");
    page(&office.send("bob\u{202e}"));
    assert_eq!(office.calls(), 0);

    let done = boss.post(&path, &fields);
    assert_eq!(done.outcome(), 200, "{}", done.text());
    assert_eq!(boss.post(&path, &fields).status, 403, "a form works once");
    assert_ne!(page(&office.send("eve")), path, "other bytes are another call");
    let other = office.caller("adam").call("/mcp/s", "send", &json!({ "to": "bob\u{202e}" }).to_string());
    assert_ne!(page(&other), path, "and so is another caller");
    assert_eq!(office.send("bob\u{202e}").outcome(), 200);
    assert_ne!(page(&office.send("bob\u{202e}")), path, "it is used up");
    assert_eq!(office.calls(), 1);
    let log = eventually("both are in the audit log", || {
        let log = audit(&office.gate);
        (log.contains("was approved by") && log.contains("decided about request")).then_some(log)
    });
    // By the same pseudonym: whoever approved goes by nothing else, wherever that is kept.
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let words = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
    let decided = entries.iter().find(|entry| words(entry).starts_with("decided about")).unwrap();
    let used = entries.iter().find(|entry| words(entry).contains("was approved by")).unwrap();
    let by = words(used).rsplit(' ').next().unwrap().to_owned();
    assert_eq!(decided["person"].as_str(), Some(by.as_str()), "{log}");
    for entry in fs::read_dir(office.gate.state().join("audit")).unwrap().flatten() {
        let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        for file in files.filter(|file| file.path().extension().is_none_or(|kind| kind != "person")) {
            let bytes = fs::read(file.path()).unwrap();
            assert!(!bytes.windows(4).any(|part| part == b"/bea"), "{:?}", file.path());
        }
    }
}

fn audit(gate: &Gate) -> String {
    let done = std::process::Command::new(bartizan_trials::binary())
        .args(["audit", "search", "--kind", "approval.granted", "--format", "json", "--dir"])
        .arg(gate.state().join("audit"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Neither who asked nor who has another role, nor the application that asks.
#[test]
fn ep_08_nobody_else_decides() {
    let office = Office::open();
    let path = page(&office.send("bob"));
    let (_, own) = office.person("ann", &["people", "bosses"], &path);
    assert_eq!(own.outcome(), 200, "who asked sees how it stands");
    assert!(!own.text().contains("name=\"form\""), "and does not decide, whatever roles: {}", own.text());
    let (_, foreign) = office.person("eve", &["people", "auditors"], &path);
    assert_eq!(foreign.status, 403);
    assert!(!foreign.text().contains("bob"), "and is told nothing of it: {}", foreign.text());
    let (mut boss, shown) = office.person("bea", &["bosses"], &path);
    // What is signed in somewhere else does not count with this form.
    let (mut eve, _) = office.person("eve", &["auditors"], "/approvals/00000000000000000000000000000000");
    let stolen = field(&shown, "form").unwrap();
    assert_eq!(eve.post(&path, &[("form", &stolen), ("decision", "approve")]).status, 403);

    // A client that can show addresses is asked to, and what it answers is no decision.
    let ask = |params: &str| {
        let params = format!(r#""name":"send","arguments":{{"to":"bob"}}{params}"#);
        office
            .caller("ann")
            .modern_declaring("/mcp/s", "tools/call", &params, r#"{"elicitation":{"url":{}}}"#)
            .send()
    };
    let asked = ask("");
    let question =
        asked.result().unwrap_or_else(|| panic!("{}", asked.text()))["inputRequests"]["bartizan/visit-1"]
            .clone();
    assert_eq!(
        (&question["method"], &question["params"]["mode"]),
        (&json!("elicitation/create"), &json!("url"))
    );
    let visit = question["params"]["url"].as_str().unwrap().strip_prefix(BASE).unwrap().to_owned();
    assert_ne!(visit, path, "what a client declares goes to the server too, so this is another call");
    let claimed =
        ask(r#","inputResponses":{"bartizan/visit-1":{"action":"accept","content":{"approved":true}}}"#);
    assert_eq!(page(&claimed), visit);
    let form_only = office.caller("ann").modern_declaring(
        "/mcp/s",
        "tools/call",
        r#""name":"send","arguments":{"to":"bob"}"#,
        r#"{"elicitation":{}}"#,
    );
    page(&form_only.send());
    assert_eq!(office.calls(), 0);

    let shown = boss.get(&visit);
    assert_eq!(press(&mut boss, &visit, &shown, "approve").outcome(), 200);
    let done = ask(r#","inputResponses":{"bartizan/visit-1":{"action":"accept"}}"#);
    assert_eq!(done.outcome(), 200, "{}", done.text());
    let sent = office.up.heard_of("tools/call").pop().unwrap();
    assert!(!sent.body.contains("bartizan/visit"), "what is said to the gate goes no further: {}", sent.body);
}

/// What goes to the server beside the arguments is shown, and bound like them.
#[test]
fn ep_08_what_is_approved_is_what_was_shown() {
    let office = Office::open();
    let send = |meta: &str, root: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call"{root},"params":{{"name":"send","arguments":{{"to":"bob"}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"test","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{{}}{meta}}}}}}}"#
        );
        let ask = office.caller("ann").post("/mcp/s", body).line("MCP-Protocol-Version", "2026-07-28");
        ask.line("Mcp-Method", "tools/call").line("Mcp-Name", "send").send()
    };
    let (vendor, trace) =
        (r#","com.example/cc":"carol","progressToken":1"#, r#","com.example/cc":"carol","progressToken":2"#);
    let path = page(&send(vendor, ""));
    assert_eq!(page(&send(trace, "")), path, "what the gate writes anew is no other call");
    let (mut boss, shown) = office.person("bea", &["bosses"], &path);
    assert!(shown.text().contains("com.example/cc") && shown.text().contains("carol"), "{}", shown.text());
    assert_eq!(press(&mut boss, &path, &shown, "approve").outcome(), 200);
    for (meta, root) in [
        (r#","com.example/cc":"mallory""#, ""),
        ("", ""),
        (vendor, r#","com.example/bcc":"mallory""#),
        (r#","com.example/cc":"carol","com.example/bcc":"mallory""#, ""),
    ] {
        let other = send(meta, root);
        if other.code() == Some(FORBIDDEN) {
            assert_ne!(page(&other), path, "{meta}{root}");
        }
        assert!(other.result().is_none(), "{meta}{root}: {}", other.text());
    }
    assert_eq!(office.calls(), 0);
    assert_eq!(send(trace, "").outcome(), 200);
    assert!(office.up.heard_of("tools/call").pop().unwrap().body.contains("carol"));
}

/// An approval is for the tool and the policy that were looked at.
#[test]
fn ep_08_a_changed_policy_makes_a_request_void() {
    let office = Office::open();
    let path = page(&office.send("bob"));
    let (mut boss, shown) = office.person("bea", &["bosses"], &path);
    let more =
        format!("{POLICIES}\n@id(\"more\") forbid (principal, action == Action::\"call:s.mine\", resource);");
    fs::write(office.policies.path().join("a.cedar"), more).unwrap();
    office.gate.reconfigure(&Office::config(&office.issuer, &office.up, &office.policies));
    let late = press(&mut boss, &path, &shown, "approve");
    assert_eq!(late.status, 409, "{}", late.text());
    let now = page(&office.send("bob"));
    assert_ne!(now, path, "it is asked anew");
    let shown = boss.get(&now);
    assert_eq!(press(&mut boss, &now, &shown, "deny").outcome(), 200);
    let denied = office.send("bob");
    assert_eq!(denied.json()["error"]["data"]["approval"]["state"], "denied", "{}", denied.text());
    assert_eq!(office.calls(), 0);
}

/// Two roles: one of them is not enough.
#[test]
fn ep_08_where_two_roles_must_agree_both_do() {
    let office = Office::open();
    let pay = || office.caller("ann").call("/mcp/s", "pay", "{}");
    let asked = pages(&pay());
    assert_eq!(asked.iter().map(|(role, _)| role.as_str()).collect::<Vec<_>>(), ["auditor", "boss"]);
    let (auditor, boss) = (&asked[0].1, &asked[1].1);
    let (mut bea, shown) = office.person("bea", &["bosses"], boss);
    assert_eq!(press(&mut bea, boss, &shown, "approve").outcome(), 200);
    assert_eq!(bea.get(auditor).status, 403, "a boss is no auditor");
    assert_eq!(pages(&pay()), [asked[0].clone()], "the other one is still asked");
    let (mut otto, shown) = office.person("otto", &["auditors"], auditor);
    assert_eq!(press(&mut otto, auditor, &shown, "approve").outcome(), 200);
    assert_eq!(pay().outcome(), 200);
    assert_eq!(pages(&pay()).len(), 2, "both are used up");
    assert_eq!(office.calls(), 1);
}

/// On a laptop: the owner's own word counts where it is asked for, and nowhere else.
#[test]
fn ep_08_the_owner_says_that_he_means_it() {
    let (up, policies) = (server(), tempfile::tempdir().unwrap());
    fs::write(policies.path().join("a.cedar"), POLICIES).unwrap();
    let gate = Gate::start(&format!(
        "[policy]\ndir = {:?}\n[[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\ntrust = \"trusted\"\n",
        policies.path(),
        up.url()
    ));
    let call = |tool: &str| gate.client().call("/mcp/s", tool, "{}");
    eventually("the tools are pinned", || {
        let listed = gate.client().modern("/mcp/s", "tools/list", "").send();
        listed.text().contains("\"mine\"").then_some(())
    });
    let path = |answer: &Answer| {
        let (_, url) = pages(answer).remove(0);
        url.split_once("/approvals/").map(|(_, id)| format!("/approvals/{id}")).unwrap()
    };
    let (mine, boss) = (path(&call("mine")), path(&call("send")));
    let stranger = Browser::at(&gate).get(&mine);
    assert!(stranger.text().contains("bartizan login") && !stranger.text().contains("Does something"));
    let mut owner = Browser::owner(&gate);
    let shown = owner.get(&boss);
    assert!(!shown.text().contains("name=\"form\""), "another's role: {}", shown.text());
    let shown = owner.get(&mine);
    assert_eq!(press(&mut owner, &mine, &shown, "approve").outcome(), 200);
    assert_eq!(call("mine").outcome(), 200);
    assert_eq!(call("mine").code(), Some(FORBIDDEN));
    assert_eq!(call("send").code(), Some(FORBIDDEN));
    assert_eq!(up.heard_of("tools/call").len(), 1);
}
