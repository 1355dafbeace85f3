//! Evidence of who came in and how: sign-ins, tokens, consents, clients.

use std::fs;

use bartizan_trials::{BACK, Facade, SECRET, basic, eventually, field, parameter};
use serde_json::{Value, json};

use super::records::{audit, entries, of_kind};

/// Kinds and reasons of the entries about identity, in order.
fn story(entries: &[Value]) -> Vec<(String, String)> {
    let families = ["sign_in.", "token.", "consent.", "account.", "client."];
    let word = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let ours = entries.iter().filter(|e| families.iter().any(|f| word(e, "kind").starts_with(f)));
    ours.map(|entry| (word(entry, "kind"), word(entry, "reason"))).collect()
}

fn member(answer: &bartizan_trials::Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

#[test]
fn the_whole_life_of_a_grant_is_on_record_with_whose_it_was_and_no_secret() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    let address = facade.allow(&mut browser, &[]);
    let back = facade.idp.sign_in(&address, "ann");
    let location = browser.get(&back).line("location").unwrap().to_owned();
    let code = parameter(&location, "code").unwrap();
    let tokens = facade.redeem(&code, &[]);
    let (access, first) = (member(&tokens, "access_token"), member(&tokens, "refresh_token"));
    let next = facade.refresh(&first, &[]);
    let second = member(&next, "refresh_token");
    assert_eq!(facade.refresh(&first, &[]).status, 400, "stolen");
    let page = browser.get("/account");
    let csrf = field(&page, "csrf").unwrap();
    browser.post("/account", &[("csrf", &csrf), ("action", "revoke"), ("client", "editor")]);
    browser.post("/account", &[("csrf", &csrf), ("action", "sign-out")]);
    let found = eventually("the end of the story", || {
        let found = entries(&facade.gate);
        (!of_kind(&found, "sign_in.ended").is_empty()).then_some(found)
    });
    let expected = [
        ("consent.asked", "consent.asked"),
        ("sign_in.succeeded", "signin.provider"),
        ("consent.granted", "consent.granted"),
        ("token.issued", "code.redeemed"),
        ("token.refreshed", "refresh.rotated"),
        ("token.replayed", "refresh.replayed"),
        ("consent.withdrawn", "consent.withdrawn"),
        ("sign_in.ended", "signin.signed-out"),
    ];
    assert_eq!(story(&found), expected.map(|(kind, reason)| (kind.to_owned(), reason.to_owned())));

    let of = |kind: &str| of_kind(&found, kind)[0].clone();
    let (granted, issued, replayed) = (of("consent.granted"), of("token.issued"), of("token.replayed"));
    for entry in [&granted, &issued, &of("token.refreshed"), &replayed] {
        assert_eq!(entry["identity"], json!({ "issuer": facade.idp.name(), "subject": "ann" }), "{entry}");
        assert_eq!((&entry["client"], &entry["server"]), (&json!("editor"), &json!("a")), "{entry}");
        assert_eq!(entry["resource"], Facade::resource("a"), "{entry}");
        assert_eq!(entry["scopes"], json!(["mcp:read", "mcp:write"]), "{entry}");
        assert_eq!(entry["network_address"], "127.0.0.1", "{entry}");
    }
    assert_eq!(granted["redirect_uri"], BACK);
    assert_eq!((&granted["decision"], &replayed["decision"]), (&json!("permit"), &json!("deny")));
    assert_eq!(replayed["owasp"], json!(["MCP01", "MCP07"]));
    assert!(issued["grant"].is_string() && issued["grant"] == replayed["grant"], "one grant");

    let raw: String = fs::read_dir(facade.gate.state().join("audit"))
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_dir(entry.path()).ok())
        .flat_map(|folder| folder.flatten())
        .filter_map(|file| fs::read_to_string(file.path()).ok())
        .filter(|text| text.contains("token.issued"))
        .collect();
    assert!(raw.contains("refresh.replayed"));
    let state = parameter(&address, "state").unwrap();
    for secret in
        [code.as_str(), &access, &first, &second, SECRET, &state, "planted-provider-token", "\"ann\""]
    {
        assert!(!raw.contains(secret), "{secret}");
    }
    assert!(browser.cookies.values().all(|cookie| !raw.contains(cookie)));

    // And it can be asked for.
    let grant = issued["grant"].as_str().unwrap();
    let (code, out, err) = audit(&facade.gate, &["search", "--grant", grant, "--format", "json"]);
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}{err}");
    let arguments = [
        "search",
        "--kind",
        "consent.granted",
        "--scope",
        "mcp:write",
        "--subject",
        "ann",
        "--format",
        "json",
    ];
    let (code, out, err) = audit(&facade.gate, &arguments);
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{out}{err}");
    assert_eq!(audit(&facade.gate, &["verify"]).0, Some(0));
}

#[test]
fn refusals_say_what_was_wrong_and_nothing_that_was_shown() {
    let facade = Facade::with("registration = \"on\"", "");
    facade.browser().get(&Facade::query(&[("redirect_uri", "https://evil.example/")]));
    facade.browser().get(&Facade::query(&[("scope", "mcp:root")]));
    facade.browser().get("/oauth/callback?state=planted-state&code=planted-code");
    facade.redeem("planted-code", &[]);
    facade.post(
        "/oauth/introspect",
        &[("Authorization", &basic("server", "planted-secret"))],
        &[("token", "planted-token")],
    );
    let register = |metadata: Value| {
        facade
            .gate
            .stranger()
            .post("/oauth/register", metadata.to_string())
            .with("Host", "gate.example")
            .send()
    };
    register(json!({ "client_name": "x", "redirect_uris": ["javascript:x"] }));
    let id = member(&register(json!({ "client_name": "Mine", "redirect_uris": [BACK] })), "client_id");
    let found = eventually("all of it", || {
        let found = entries(&facade.gate);
        (!of_kind(&found, "client.changed").is_empty()).then_some(found)
    });
    let expected = [
        ("client.refused", "client.redirect-uri"),
        ("client.refused", "request.scope"),
        ("sign_in.failed", "signin.state-unknown"),
        ("token.refused", "code.unknown"),
        ("token.refused", "client.unproven"),
        ("client.refused", "registration.redirect-uri"),
        ("client.changed", "registration.made"),
    ];
    assert_eq!(story(&found), expected.map(|(kind, reason)| (kind.to_owned(), reason.to_owned())));
    for entry in found.iter().filter(|entry| entry["decision"] == "deny") {
        assert_eq!(entry["stranger_address"], "127.0.0.1", "{entry}");
        assert!(entry["owasp"].is_array(), "{entry}");
    }
    assert_eq!(of_kind(&found, "client.changed")[0]["client"], id.as_str());
    assert_eq!(of_kind(&found, "client.refused")[0]["client"], "editor");
    let all = json!(found).to_string();
    for secret in ["planted-state", "planted-code", "planted-secret", "planted-token"] {
        assert!(!all.contains(secret), "{secret}");
    }
}

/// What cannot be recorded is not done: here, because nobody can be given a pseudonym.
#[test]
fn nobody_is_let_in_who_cannot_be_recorded() {
    let facade = Facade::start();
    let (_, refresh) = facade.tokens("known");
    let people = facade.gate.state().join("audit/people");
    let aside = facade.gate.state().join("audit/aside");
    fs::rename(&people, &aside).unwrap();
    fs::write(&people, "in the way").unwrap();
    let mut browser = facade.browser();
    let address = facade.allow(&mut browser, &[]);
    let answer = browser.get(&facade.idp.sign_in(&address, "unknown"));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.line("location").is_none());
    assert!(!browser.cookies.keys().any(|name| name.ends_with("-session")));
    let own = [("grant_type", "client_credentials"), ("resource", &*Facade::resource("a"))];
    let answer = facade.token_of_server(&own);
    assert_eq!((answer.status, &answer.json()["error"]), (503, &json!("temporarily_unavailable")));
    assert!(answer.json().get("access_token").is_none());
    assert_eq!(facade.refresh(&refresh, &[]).status, 503);

    fs::remove_file(&people).unwrap();
    fs::rename(&aside, &people).unwrap();
    assert_eq!(facade.refresh(&refresh, &[]).outcome(), 200, "the honest client's token was not spent");
    facade.serves();

    let facade = Facade::with("", "[audit]\ndangerous_audit_best_effort = true\n");
    let people = facade.gate.state().join("audit/people");
    fs::remove_dir_all(&people).unwrap();
    fs::write(&people, "in the way").unwrap();
    assert_eq!(
        facade.token_of_server(&own).outcome(),
        200,
        "the operator would rather have it so, and said it"
    );
    facade.serves();
}

#[test]
fn a_stolen_refresh_token_raises_an_alert_that_cuts_its_person_off() {
    let alert = "[[alerts]]\nname = \"theft\"\nmatch = { kinds = [\"token.replayed\"] }\nby = [\"person\"]\n\
                 when = { kind = \"threshold\", count = 1, within_s = 60 }\nthen = [\"revoke-person\"]\n";
    let facade = Facade::with("", alert);
    let (other_access, _) = facade.tokens("ann");
    let (_, first) = facade.tokens("ann");
    let (bystander, _) = facade.tokens("bob");
    assert_eq!(facade.shows("a", &other_access), 200);
    assert_eq!(facade.refresh(&first, &[]).outcome(), 200);
    assert_eq!(facade.refresh(&first, &[]).status, 400);
    eventually("everything of hers ends", || (facade.shows("a", &other_access) != 200).then_some(()));
    assert_eq!(facade.shows("a", &bystander), 200, "and nothing of anybody else's");
    let found = entries(&facade.gate);
    let raised = of_kind(&found, "alert.raised");
    assert_eq!((raised.len(), &raised[0]["reason"]), (1, &json!("alert.theft")), "{raised:?}");
    assert_eq!(raised[0]["identity"]["subject"], "ann");
    assert_eq!(of_kind(&found, "response.acted").len(), 1);
}
