//! Rights that hang on names, scopes, addresses and who vouches for whom, and what tries to bend them (attacks.md EP-03, EP-05,
//! EP-09, AA-21, AA-37, SH-10).

use std::fs;

use bartizan_trials::{Answer, Client, Gate, Issuer, Upstream, eventually, issuers_of};
use serde_json::{Value, json};

const BASE: &str = "https://gate.example";
const UNKNOWN: i64 = -32602;
const FORBIDDEN: i64 = -31003;

fn tools() -> Value {
    let tool = |name: &str| json!({ "name": name, "description": "Does something.", "inputSchema": { "type": "object" } });
    ["read", "write", "delete_repo"].into_iter().map(tool).collect()
}

fn modern() -> Upstream {
    Upstream::modern(|heard, pen| {
        let result = match heard.rpc().as_str() {
            "tools/list" => {
                json!({ "resultType": "complete", "tools": tools(), "ttlMs": 60_000, "cacheScope": "public" })
            }
            "resources/read" => {
                json!({ "resultType": "complete", "contents": [{ "uri": "file:///data/a", "text": "text" }] })
            }
            _ => return false,
        };
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

/// A gate that judges by `policies`, with whom `issuers` know, in front of `up`; everybody may use everything else.
fn gate(up: &Upstream, issuers: &[&Issuer], policies: &str) -> (Gate, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.cedar"), policies).unwrap();
    let gate = Gate::start(&config(up, issuers, folder.path(), ""));
    eventually("the tools are pinned", || {
        let lister = client(&gate, issuers[0], json!({ "sub": "pin" }));
        lister.modern("/mcp/s", "tools/list", "").send().text().contains("\"read\"").then_some(())
    });
    (gate, folder)
}

fn config(up: &Upstream, issuers: &[&Issuer], folder: &std::path::Path, more: &str) -> String {
    let issuers: String = issuers.iter().map(|issuer| issuer.config()).collect();
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"resource-server\"\n{issuers}\
         [policy]\ndir = {folder:?}\n[policy.roles.people]\ngroups = [\"people\"]\n{}{more}\
         [[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n\
         [[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\ntrust = \"trusted\"\n",
        issuers_of(&issuers),
        up.url()
    )
}

/// Somebody with a token that says this.
fn client(gate: &Gate, issuer: &Issuer, claims: Value) -> Client {
    gate.bearer(issuer.token("ann", &format!("{BASE}/mcp/s"), claims))
}

#[test]
fn ep_03_a_name_is_that_name_to_the_byte() {
    let up = Upstream::legacy(|heard, pen| {
        if heard.rpc() != "tools/list" {
            return false;
        }
        pen.result(&heard.id(), &json!({ "tools": tools() }).to_string());
        true
    });
    let folder = tempfile::tempdir().unwrap();
    let rule =
        r#"@id("no") forbid (principal, action in Action::"call", resource == Tool::"s/delete_repo");"#;
    fs::write(folder.path().join("a.cedar"), rule).unwrap();
    let gate = Gate::start(&format!(
        "[policy]\ndir = {:?}\n[[servers]]\nname = \"s\"\nurl = \"{}\"\ntrust_on_first_use = true\n",
        folder.path(),
        up.url()
    ));
    let direct = gate.client().session("/mcp/s", "2025-11-25", "{}");
    let merged = gate.client().session("/mcp", "2025-11-25", "{}");
    eventually("the rule holds", || {
        let listed = direct.request("1", "tools/list", "").send().text();
        (listed.contains("\"read\"") && !listed.contains("delete_repo")).then_some(())
    });
    let long = "delete_repo".repeat(1000);
    let names = [
        "delete_repo",
        "Delete_Repo",
        "delete_repo ",
        " delete_repo",
        "delete_repo\\u0000",
        "delete\\u200b_repo",
        "ｄelete_repo",
        "d\u{435}lete_repo",
        "s__delete_repo",
        "s__s__delete_repo",
        "s/../s__delete_repo",
        "%64elete_repo",
        "s/delete_repo",
        "Tool::\\\"s/delete_repo\\\"",
        "",
        long.as_str(),
    ];
    for (at, session) in [(0, &direct), (1, &merged)] {
        for name in names {
            let answer = session.call("2", name, "{}").send();
            assert!(
                answer.result().is_none() && answer.code().is_some(),
                "{at} {name:.40}: {}",
                answer.text()
            );
        }
    }
    assert_eq!(
        direct.call("3", "delete_repo", "{}").send().error(),
        direct.call("3", "nothing", "{}").send().error()
    );
    assert!(up.heard_of("tools/call").is_empty());
    assert_eq!(direct.call("4", "read", "{}").send().said(), "{}");
    assert_eq!(merged.call("5", "s__read", "{}").send().said(), "{}");
}

#[test]
fn ep_04_what_a_prompt_is_given_is_judged_as_what_a_tool_is_given() {
    let up = Upstream::modern(|heard, pen| {
        let result = match heard.rpc().as_str() {
            "tools/list" => {
                json!({ "resultType": "complete", "tools": tools(), "ttlMs": 0, "cacheScope": "private" })
            }
            "server/discover" => {
                json!({ "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0,
                "cacheScope": "public", "capabilities": { "tools": {}, "prompts": {} } })
            }
            "prompts/list" => {
                json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "prompts": [
                { "name": "letter", "arguments": [{ "name": "to", "required": true }, { "name": "template" }] },
                { "name": "other", "arguments": [{ "name": "to" }] },
            ] })
            }
            "prompts/get" => json!({ "resultType": "complete", "messages": [
                { "role": "user", "content": { "type": "text", "text": "write it" } } ] }),
            _ => return false,
        };
        pen.result(&heard.id(), &result.to_string());
        true
    });
    let issuer = Issuer::start(1);
    let rule = r#"@id("templates") forbid (principal, action == Action::"get", resource == Prompt::"s/letter")
        unless { context.paths has template && context.paths.template.ancestors.contains("/srv/letters")
                 && context.args has to && context.args.to like "*@example.com" };"#;
    let (gate, _folder) = gate(&up, &[&issuer], rule);
    let ann = client(&gate, &issuer, json!({}));
    eventually("the prompts are pinned", || {
        let listed = ann.modern("/mcp/s", "prompts/list", "").send();
        (listed.text().contains("letter") && listed.text().contains("other")).then_some(())
    });
    let get = |name: &str, arguments: &str| {
        let params = format!(r#""name":"{name}","arguments":{arguments}"#);
        ann.modern("/mcp/s", "prompts/get", &params).send()
    };
    let honest = r#"{"to":"bob@example.com","template":"/srv/letters/a"}"#;
    eventually("the honest one passes", || (get("letter", honest).outcome() == 200).then_some(()));
    let before = up.heard_of("prompts/get").len();
    for bad in [
        r#"{"to":"bob@evil.example","template":"/srv/letters/a"}"#,
        r#"{"to":"bob@example.com","template":"/etc/passwd"}"#,
        r#"{"to":"bob@example.com","template":"/srv/letters/../../etc/passwd"}"#,
        r#"{"to":"bob@example.com","template":"/srv/letters/a","template":"/etc/passwd"}"#,
        r#"{"to":"bob@example.com","template":["/srv/letters/a"]}"#,
        r#"{"to":"bob@example.com","template":"/srv/letters/a","Template":"/etc/passwd"}"#,
        r#"{"to":"bob@example.com"}"#,
        "{}",
    ] {
        let answer = get("letter", bad);
        assert!(answer.result().is_none(), "{bad}: {}", answer.text());
    }
    assert_eq!(up.heard_of("prompts/get").len(), before, "nothing of it reached the server");
    assert_eq!(get("other", r#"{"to":"bob@evil.example"}"#).outcome(), 200, "the rule is about one prompt");
}

#[test]
fn ep_05_a_policy_says_which_addresses_are_read() {
    let (up, issuer) = (modern(), Issuer::start(1));
    let rule = r#"@id("data") forbid (principal, action in [Action::"read", Action::"subscribe"], resource is Resource)
        unless { resource.scheme == "file" && resource.ancestors.contains("/data") };"#;
    let (gate, _folder) = gate(&up, &[&issuer], rule);
    let ann = client(&gate, &issuer, json!({}));
    let read = |uri: &str| ann.modern("/mcp/s", "resources/read", &format!(r#""uri":"{uri}""#)).send();
    for uri in [
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "file:///data/../etc/passwd",
        "file:///data/%2e%2e/etc/passwd",
        "file:///data%2f..%2fetc/passwd",
        "file:///data/%252e%252e/etc/passwd",
        "file:///data/%C0%AE%C0%AE/etc/passwd",
        "file:///data/a%00.txt",
        "file:///data/%e9",
        "file:///dat%61/a",
        "file:///data%20/a",
        "file:///database/x",
        "http://169.254.169.254/data/",
        "FILE:///etc/passwd",
        "/data/x",
        "",
    ] {
        let answer = read(uri);
        assert!(answer.outcome() != 200 && answer.result().is_none(), "{uri}: {}", answer.text());
    }
    assert!(up.heard_of("resources/read").is_empty());
    for uri in ["file:///data/a", "file:///data/a%20b.txt", "file:///data/gr%C3%BC%C3%9Fe/%28x%29.txt"] {
        assert_eq!(read(uri).outcome(), 200, "{uri}");
        let heard = up.heard_of("resources/read").pop().unwrap();
        assert_eq!(heard.json()["params"]["uri"], uri, "it is forwarded as it was written");
    }

    // SH-10: what may not be read may not be listened for.
    let listen = |uris: &str| {
        let wanted = format!(r#""notifications":{{"resourceSubscriptions":{uris}}}"#);
        ann.modern("/mcp/s", "subscriptions/listen", &wanted)
    };
    for uris in [r#"["file:///etc/passwd"]"#, r#"["file:///data/a","file:///etc/passwd"]"#, "[7]"] {
        let refused = listen(uris).send();
        assert!(refused.outcome() != 200, "{uris}: {}", refused.text());
    }
    assert!(up.heard_of("subscriptions/listen").is_empty(), "the server was not told");
}

/// What has entered the window is no reason why an address has two readings, and whoever is told so looks in the wrong place.
#[test]
fn ep_05_an_address_with_two_readings_is_refused_for_that_alone() {
    let up = modern();
    let gate = Gate::start(&up.config("up", ""));
    assert_eq!(gate.client().call("/mcp/up", "read", "{}").outcome(), 200);
    let read = gate.client().modern("/mcp/up", "resources/read", r#""uri":"file:///data/a%2fb""#).send();
    assert_eq!((read.status, read.code()), (200, Some(FORBIDDEN)), "{}", read.text());
    let words = read.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(words.ends_with("it is percent-encoded"), "{words}");
}

/// Also: EP-09.
#[test]
fn aa_21_a_tool_that_needs_a_scope_needs_that_scope() {
    let (up, issuer) = (modern(), Issuer::start(1));
    let rule = r#"@id("w") @step_up("tickets:write") forbid (principal, action == Action::"call:s.write", resource)
            unless { principal.scopes.contains("tickets:write") };
        @id("x") @step_up("tickets:close") forbid (principal, action == Action::"call:s.write", resource)
            unless { principal.scopes.contains("tickets:close") };"#;
    let (gate, _folder) = gate(&up, &[&issuer], rule);
    let write = |claims: Value| client(&gate, &issuer, claims).call("/mcp/s", "write", "{}");
    eventually("the rule holds", || (write(json!({})).status == 403).then_some(()));
    for scope in [
        json!("tickets:read"),
        json!("xtickets:write xtickets:close"),
        json!("tickets:write\u{a0}tickets:close"),
        json!("tickets:write,tickets:close"),
        json!("tickets:write\ttickets:close"),
        json!("tickets:write\ntickets:close"),
        json!("TICKETS:WRITE TICKETS:CLOSE"),
        json!("tickets:* tickets"),
        json!(["tickets:write", "tickets:close"]),
        json!(null),
        json!("tickets:write"),
    ] {
        let answer = write(json!({ "scope": scope }));
        assert!(matches!(answer.status, 401 | 403), "{scope}: {}", answer.text());
    }
    let both = write(json!({ "scope": "tickets:read", "scp": "tickets:write tickets:close" }));
    assert!(matches!(both.status, 401 | 403), "two claims that disagree: {}", both.text());
    assert!(up.heard_of("tools/call").is_empty());
    let challenged = write(json!({ "scope": "tickets:read" }));
    let line = challenged.line("www-authenticate").unwrap();
    assert!(line.contains("insufficient_scope"), "{line}");
    let named = line.split("scope=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    let named: Vec<_> =
        named.split(' ').filter(|scope| scope.starts_with("tickets:") && *scope != "tickets:read").collect();
    assert_eq!(named.len(), 2, "all that is needed, at once: {line}");
    assert_eq!(write(json!({ "scope": "tickets:write tickets:close" })).outcome(), 200);
    assert_eq!(
        client(&gate, &issuer, json!({})).call("/mcp/s", "read", "{}").status,
        200,
        "and no other tool needs it"
    );

    // EP-09: nobody is offered more than he needs.
    let document = gate.stranger().request("GET", "/.well-known/oauth-protected-resource/mcp/s").send();
    let broad = |text: &str| {
        ["*", "all", "admin", "full-access", "offline_access"]
            .iter()
            .any(|bad| text.split(['"', ' ', ',']).any(|word| word == *bad))
    };
    assert!(document.outcome() == 200 && !broad(&document.text()), "{}", document.text());
    let stranger = gate.stranger().call("/mcp/s", "read", "{}");
    for answer in [&stranger, &challenged] {
        assert!(!broad(answer.line("www-authenticate").unwrap()), "{:?}", answer.line("www-authenticate"));
    }
}

#[test]
fn aa_37_no_decision_is_lent_to_another_token() {
    let (up, one, two) = (modern(), Issuer::start(1), Issuer::start(2));
    let rule = format!(
        r#"@id("ann") forbid (principal, action == Action::"call:s.write", resource)
            unless {{ principal.issuer == "{}" && principal.subject == "ann" && principal.scopes.contains("w") }};"#,
        one.name()
    );
    let (gate, folder) = gate(&up, &[&one, &two], &rule);
    let write = |issuer: &Issuer, claims: Value| client(&gate, issuer, claims).call("/mcp/s", "write", "{}");
    let same_id = |more: Value| {
        let mut claims = json!({ "jti": "one and the same", "scope": "w" });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let is_no = |answer: &Answer| matches!(answer.code(), Some(FORBIDDEN | UNKNOWN));
    eventually("the rule holds", || is_no(&write(&two, same_id(json!({})))).then_some(()));
    // What is remembered of lists is lent to nobody either, neither here nor by whoever keeps answers on the way.
    let list = |issuer: &Issuer, claims: Value| {
        let answer = client(&gate, issuer, claims).modern("/mcp/s", "tools/list", "").send();
        let result = answer.result().unwrap_or_default();
        assert_eq!(result["cacheScope"], "private", "{}", answer.text());
        result["tools"].as_array().unwrap().iter().any(|tool| tool["name"] == "write")
    };
    for _ in 0..2 {
        assert!(list(&one, same_id(json!({}))));
        assert!(!list(&two, same_id(json!({}))), "the same subject of another issuer");
        assert!(!list(&one, same_id(json!({ "sub": "bob" }))), "the same id of a token");
        assert!(!list(&one, same_id(json!({ "scope": "r" }))), "the same person with fewer scopes");
        assert_eq!(write(&one, same_id(json!({}))).outcome(), 200);
        assert!(is_no(&write(&two, same_id(json!({})))), "the same subject of another issuer");
        assert!(is_no(&write(&one, same_id(json!({ "sub": "bob" })))), "the same id of a token");
        assert!(is_no(&write(&one, same_id(json!({ "scope": "r" })))), "the same person with fewer scopes");
        let stranger = write(&one, same_id(json!({ "groups": [] })));
        assert!(is_no(&stranger), "the same person without his groups: {}", stranger.text());
    }
    let calls = up.heard_of("tools/call").len();
    fs::write(
        folder.path().join("a.cedar"),
        r#"@id("no") forbid (principal, action == Action::"call:s.write", resource);"#,
    )
    .unwrap();
    gate.reconfigure(&config(&up, &[&one, &two], folder.path(), ""));
    eventually("the other policy holds", || is_no(&write(&one, same_id(json!({})))).then_some(()));
    assert!(!list(&one, same_id(json!({}))), "a list is remembered for one policy");
    fs::write(folder.path().join("a.cedar"), rule).unwrap();
    let whose = issuers_of(&format!("{}{}", one.config(), two.config()));
    let other = format!("[policy.roles.other]\ngroups = [\"x\"]\n{whose}");
    gate.reconfigure(&config(&up, &[&one, &two], folder.path(), &other));
    eventually("the first policy holds again", || {
        (write(&one, same_id(json!({}))).outcome() == 200).then_some(())
    });
    let revoked = std::process::Command::new(bartizan_trials::binary())
        .args(["respond", "revoke", "--person", "ann", "--issuer", &one.name(), "--config"])
        .arg(gate.folder().join("bartizan.toml"))
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    eventually("the revocation holds", || (write(&one, same_id(json!({}))).status >= 401).then_some(()));
    assert!(up.heard_of("tools/call").len() > calls);
}
