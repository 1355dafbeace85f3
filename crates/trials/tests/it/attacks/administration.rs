//! The admin plane is for administrators: its own audience, a fresh second factor, a role that ends (attacks.md EP-02; RFC
//! 9470).

use std::{
    io::{Read, Write},
    process::Command,
    time::Duration,
};

use aws_lc_rs::digest;
use bartizan_model::{Clock, SystemClock};
use bartizan_trials::{Answer, Client, Gate, Issuer, Upstream, binary, eventually};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::traffic::{
    records::{entries, of_kind},
    responses::{reason_for, soon},
};

const BASE: &str = "https://gate.example";
const API: &str = "https://gate.example/api";

struct Scene {
    issuer: Issuer,
    up: Upstream,
    gate: Gate,
}

impl Scene {
    fn start() -> Self {
        Self::with("")
    }

    /// With more in `[identity]`.
    fn with(identity: &str) -> Self {
        let issuer = Issuer::start(3);
        let up = Upstream::modern(|_, _| false);
        let name = issuer.name();
        let now = SystemClock.now().as_unix();
        let role = |role: &str, person: &str, until: u64| {
            let until = time::OffsetDateTime::from_unix_timestamp(until.try_into().unwrap()).unwrap();
            let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
            format!(
                "[[admin.roles]]\nrole = \"{role}\"\nissuer = \"{name}\"\nperson = \"{person}\"\nuntil = \"{until}\"\n"
            )
        };
        let gate = Gate::start(&format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n\
             [identity]\nmode = \"resource-server\"\n{identity}{}\
             [policy.roles.people]\ngroups = [\"people\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n\
             [admin]\nurl = \"{API}\"\n{}{}{}{}",
            issuer.config(),
            role("responder", "rita", now + 3600),
            role("viewer", "vera", now + 3600),
            role("responder", "past", now - 1),
            up.config("up", ""),
        ));
        Self { issuer, up, gate }
    }

    /// An administrator's token: for the API, signed in by two factors a minute ago.
    fn token(&self, subject: &str, more: Value) -> String {
        let mut claims = json!({ "amr": ["pwd", "mfa"], "auth_time": SystemClock.now().as_unix() - 60 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.issuer.token(subject, API, claims)
    }

    fn ask(&self, token: Option<String>, body: &Value) -> Answer {
        let client = Client::new(self.gate.admin().authority().parse().unwrap(), token);
        client.request("POST", "/api").line("Content-Type", "application/json").body(body.to_string()).send()
    }

    fn reason(&self) -> Value {
        let token = self.issuer.token("ann", &format!("{BASE}/mcp/up"), json!({}));
        reason_for(&self.gate.bearer(token), "/mcp/up", "echo")
    }
}

/// The token of whoever runs the machine, which nobody asked for yet.
fn local_token(gate: &Gate) -> String {
    let config = gate.folder().join("bartizan.toml");
    let printed = Command::new(binary()).args(["token", "--config"]).arg(config).output().unwrap();
    let token = String::from_utf8(printed.stdout).unwrap();
    assert!(token.starts_with("bz_"), "{token}");
    token.trim().to_owned()
}

fn quarantine() -> Value {
    json!({ "do": "quarantine", "server": "up", "why": "it poured tea" })
}

#[test]
fn ep_02_who_is_no_administrator_does_nothing_at_the_admin_api() {
    let scene = Scene::start();
    let now = SystemClock.now().as_unix();
    let data_plane =
        scene.issuer.token("rita", &format!("{BASE}/mcp/up"), json!({ "amr": ["mfa"], "auth_time": now }));
    let both = scene.token("rita", json!({ "aud": [API, format!("{BASE}/mcp/up")] }));
    let refused: Vec<(&str, Option<String>, u16, &str)> = vec![
        ("no token", None, 401, ""),
        ("the local token", Some(local_token(&scene.gate)), 401, ""),
        ("a data-plane token", Some(data_plane), 401, ""),
        ("a token for both", Some(both), 401, ""),
        (
            "another issuer's",
            Some(Issuer::start(4).token("rita", API, json!({ "amr": ["mfa"], "auth_time": now }))),
            401,
            "",
        ),
        (
            "an old sign-in",
            Some(scene.token("rita", json!({ "auth_time": now - 901 }))),
            401,
            "admin.not_fresh",
        ),
        (
            "a sign-in at no time",
            Some(scene.token("rita", json!({ "auth_time": null }))),
            401,
            "admin.not_fresh",
        ),
        ("one factor", Some(scene.token("rita", json!({ "amr": ["pwd"] }))), 401, "admin.not_fresh"),
        ("nothing of factors", Some(scene.token("rita", json!({ "amr": null }))), 401, "admin.not_fresh"),
        ("no role", Some(scene.token("ann", json!({}))), 403, "admin.role"),
        ("another role", Some(scene.token("vera", json!({}))), 403, "admin.role"),
        ("a role that has ended", Some(scene.token("past", json!({}))), 403, "admin.role"),
        ("a workload", Some(scene.token("app", json!({ "client_id": "app" }))), 403, ""),
    ];
    for (what, token, status, reason) in refused {
        let answer = scene.ask(token, &quarantine());
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let said: Value = serde_json::from_str(&answer.text()).unwrap();
        assert!(reason.is_empty() || said["reason"] == reason, "{what}: {said}");
        if reason == "admin.not_fresh" {
            let line = answer.line("www-authenticate").unwrap();
            assert!(line.contains("insufficient_user_authentication") && line.contains("max_age"), "{line}");
        }
    }
    assert_eq!(scene.reason(), Value::Null, "nothing was done");
    // Nor by the port that clients reach, nor by a web page.
    let rita = || scene.token("rita", json!({}));
    let elsewhere = scene.gate.bearer(rita()).post("/api", quarantine().to_string()).send();
    assert!(matches!(elsewhere.status, 401 | 404), "{}", elsewhere.status);
    let address = scene.gate.admin().authority();
    let page = Client::new(address.parse().unwrap(), Some(rita()))
        .request("POST", "/api")
        .line("Content-Type", "application/json")
        .line("Origin", "https://evil.example")
        .body(quarantine().to_string())
        .send();
    assert_eq!(page.status, 421);
    // No process comes of a body, whatever it says.
    for body in [
        json!({ "do": "run", "command": "sh", "args": ["-c", "id"] }),
        json!({ "do": "quarantine", "server": "../up" }),
        json!({ "do": "quarantine", "server": "up", "command": "sh" }),
        json!({ "do": "quarantine" }),
        json!([]),
    ] {
        let answer = scene.ask(Some(rita()), &body);
        assert!(matches!(answer.status, 400 | 415), "{body}: {}", answer.text());
    }
    assert_eq!(scene.reason(), Value::Null);
    let found = entries(&scene.gate);
    let denied = of_kind(&found, "admin.acted");
    assert!(denied.iter().all(|e| e["decision"] == "deny"), "{denied:#?}");
    for reason in ["admin.not_fresh", "admin.role"] {
        assert!(denied.iter().any(|e| e["reason"] == reason && e["person"].is_string()), "{reason}");
    }
    assert!(!scene.gate.log().contains(&rita()));
}

/// RFC 9449 §9: where proofs need a nonce, an administrator's client is given one too, or it could never come in.
#[test]
fn aa_39_a_proof_without_a_nonce_gets_one_at_the_admin_api() {
    let (scene, key) = (Scene::with("dpop_nonces = true\n"), Issuer::start(9));
    let hash = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes));
    let jwk = key.jwk();
    // RFC 8037, appendix A.3.
    let jkt = hash(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, jwk["x"]).as_bytes());
    let token = scene.token("vera", json!({ "cnf": { "jkt": jkt } }));
    let ask = |id: &str, nonce: Option<&str>| {
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk });
        let mut claims = json!({
            "htm": "GET", "htu": API, "iat": SystemClock.now().as_unix(), "jti": id, "ath": hash(token.as_bytes()),
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let client = Client::new(scene.gate.admin().authority().parse().unwrap(), None);
        client
            .request("GET", "/api")
            .line("Authorization", &format!("DPoP {token}"))
            .line("DPoP", &key.sign(&header.to_string(), &claims.to_string()))
            .send()
    };
    let refused = ask("1", None);
    assert_eq!(refused.status, 401, "{}", refused.text());
    let nonce = refused.line("dpop-nonce").expect("it comes with a nonce").to_owned();
    let answer = ask("1", Some(&nonce));
    assert_eq!(answer.outcome(), 200, "{}", answer.text());
    assert_eq!(ask("1", Some(&nonce)).status, 401, "once");
}

/// Attack: an administrator hangs up in the middle of what he asked for, and the record says that it was done.
#[test]
fn ep_02_what_is_on_record_is_done_though_nobody_waits_for_the_answer() {
    let scene = Scene::start();
    let rita = scene.token("rita", json!({}));
    let admin = scene.gate.admin();
    for n in 0..30 {
        let body =
            json!({ "do": "revoke", "client": format!("client-{n}"), "why": "it got out" }).to_string();
        let mut socket = admin.connect();
        let (host, length) = (admin.authority(), body.len());
        write!(
            socket,
            "POST /api HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {rita}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        // Some before anything is read, some in the middle.
        std::thread::sleep(Duration::from_millis(n % 6));
    }
    eventually("as much in force as is on record", || {
        let status = scene.ask(Some(rita.clone()), &json!({ "do": "status" })).text();
        let status: Value = serde_json::from_str(&status).unwrap();
        let found = entries(&scene.gate);
        let acted = of_kind(&found, "admin.acted").into_iter().filter(|e| e["change"]["name"] == "revoke");
        let acted = acted.count();
        (acted > 0 && status["in_force"].as_array().unwrap().len() == acted).then_some(())
    });
}

#[test]
fn ep_02_an_administrator_with_a_fresh_second_factor_and_a_role_acts_and_is_recorded() {
    let scene = Scene::start();
    let rita = || Some(scene.token("rita", json!({})));
    let done = scene.ask(rita(), &quarantine());
    assert_eq!(done.outcome(), 200, "{}", done.text());
    assert_eq!(scene.reason(), "response.quarantined", "at once");
    let status: Value = serde_json::from_str(&scene.ask(rita(), &json!({ "do": "status" })).text()).unwrap();
    assert_eq!(status["in_force"][0]["target"], "server up");
    let by = status["in_force"][0]["by"].as_str().unwrap();
    assert!(by.starts_with("admin ") && !by.contains("rita"), "by the pseudonym: {by}");
    // To look, no second factor is needed, and any role will do.
    let looking = scene.ask(
        Some(scene.token("vera", json!({ "amr": null, "auth_time": null }))),
        &json!({ "do": "status" }),
    );
    assert_eq!(looking.outcome(), 200);
    assert_eq!(scene.ask(Some(scene.token("vera", json!({}))), &json!({ "do": "approvals" })).status, 403);
    let released = scene.ask(rita(), &json!({ "do": "release", "server": "up" }));
    assert_eq!(released.outcome(), 200, "{}", released.text());
    assert_eq!(scene.reason(), Value::Null);
    assert_eq!(scene.ask(rita(), &json!({ "do": "release", "server": "up" })).status, 404);
    let name = scene.issuer.name();
    let revoked = json!({ "do": "revoke", "person": "ann", "issuer": name, "why": "left on the bus" });
    assert_eq!(scene.ask(rita(), &revoked).outcome(), 200);
    soon("the revocation", || scene.reason() == "response.revoked");
    // Whoever is revoked administers nothing either.
    let herself = json!({ "do": "revoke", "person": "rita", "issuer": name });
    assert_eq!(scene.ask(rita(), &herself).outcome(), 200);
    assert!(matches!(scene.ask(rita(), &json!({ "do": "status" })).status, 401 | 403));

    let found = entries(&scene.gate);
    let acted = of_kind(&found, "admin.acted");
    let permitted: Vec<_> = acted.iter().filter(|e| e["decision"] == "permit").collect();
    assert!(permitted.iter().any(|e| e["change"]["name"] == "quarantine" && e["server"] == "up"));
    let rita = permitted.iter().find(|e| e["change"]["name"] == "quarantine").unwrap()["person"].clone();
    let responses = of_kind(&found, "response.acted");
    assert!(responses.iter().any(|e| e["person"] == rita && e["change"]["to"] == "quarantined"));
    assert!(scene.up.heard_of("tools/call").iter().all(|h| h.line("authorization").is_none()));
}

/// A request is judged when it is there, not when it began: who was let in and sends the rest later acts by what he may then.
#[test]
fn ep_02_a_role_that_is_taken_back_while_a_body_is_on_its_way_does_nothing() {
    let scene = Scene::start();
    let config = scene.gate.folder().join("bartizan.toml");
    let name = scene.issuer.name();
    let admin = |words: &[&str]| {
        let whose = ["--role", "responder", "--person", "ann", "--issuer", name.as_str()];
        let done = Command::new(binary())
            .arg("admin")
            .args(words)
            .args(whose)
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    admin(&["grant", "--for", "1h"]);
    let (body, token) = (quarantine().to_string(), scene.token("ann", json!({})));
    let address = scene.gate.admin().authority().to_string();
    let mut stream = Client::new(address.parse().unwrap(), None).connect();
    write!(
        stream,
        "POST /api HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .unwrap();
    // She is let in, and the body is waited for.
    std::thread::sleep(Duration::from_millis(500));
    admin(&["revoke"]);
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("admin.role"), "{answer}");
    assert_eq!(scene.reason(), Value::Null, "nothing was done");
}

#[test]
fn ep_02_a_role_granted_by_command_counts_at_once_and_ends() {
    let scene = Scene::start();
    let config = scene.gate.folder().join("bartizan.toml");
    let name = scene.issuer.name();
    let admin = |arguments: &[&str]| {
        let done = Command::new(binary())
            .arg("admin")
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.code(), said)
    };
    let whose = ["--role", "responder", "--person", "ann", "--issuer", name.as_str()];
    let ann = || Some(scene.token("ann", json!({})));
    assert_eq!(scene.ask(ann(), &quarantine()).status, 403);
    let (code, said) = admin(&[&["grant"], &whose[..], &["--for", "13h"]].concat());
    assert!(code == Some(3) && said.contains("max_grant_h"), "{said}");
    assert_eq!(admin(&[&["grant"], &whose[..], &["--for", "4h"]].concat()).0, Some(0));
    let (_, listed) = admin(&["list"]);
    assert!(
        listed.contains("responder  ann of") && listed.contains("rita") && !listed.contains("past"),
        "{listed}"
    );
    assert_eq!(scene.ask(ann(), &quarantine()).outcome(), 200);
    assert_eq!(admin(&[&["revoke"], &whose[..]].concat()).0, Some(0));
    assert_eq!(scene.ask(ann(), &json!({ "do": "release", "server": "up" })).status, 403);
    assert_eq!(admin(&[&["revoke"], &whose[..]].concat()).0, Some(1));
    let found = entries(&scene.gate);
    let acts: Vec<_> = of_kind(&found, "admin.acted")
        .into_iter()
        .filter(|e| e["change"]["entity"] == "role responder")
        .map(|e| e["change"]["to"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        acts.iter().any(|to| to.starts_with("granted until")) && acts.contains(&"taken back".to_owned()),
        "{acts:?}"
    );
}
