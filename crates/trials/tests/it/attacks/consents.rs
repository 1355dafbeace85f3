//! What a person allows, and that it was they who allowed it (MCP security best practices: confused deputy; RFC 9700 §4.16).

use bartizan_trials::{Answer, BACK, Browser, Facade, field, onward};
use serde_json::{Value, json};

fn is_consent_page(answer: &Answer) -> bool {
    answer.outcome() == 200 && field(answer, "form").is_some()
}

/// A client that registers itself; the answer is its id.
fn register(facade: &Facade, metadata: &Value) -> Answer {
    facade.gate.stranger().post("/oauth/register", metadata.to_string()).with("Host", "gate.example").send()
}

fn registered(facade: &Facade, name: &str, uri: &str) -> String {
    let answer = register(facade, &json!({ "client_name": name, "redirect_uris": [uri] }));
    answer.json()["client_id"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

/// A browser in which `subject` has allowed the usual client the usual thing.
fn acquainted(facade: &Facade, subject: &str) -> Browser {
    let mut browser = facade.browser();
    facade.grant(&mut browser, subject, &[]);
    browser
}

#[test]
fn cd_02_only_the_page_that_was_shown_decides() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    let page = browser.get(&Facade::query(&[]));
    for line in page.lines("set-cookie") {
        assert!(line.starts_with("__Host-bartizan-"), "{line}");
        for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
            assert!(line.contains(attribute), "{line}");
        }
    }
    let form = field(&page, "form").unwrap();
    let foreign = field(&facade.browser().get(&Facade::query(&[])), "form").unwrap();
    // In the middle, where every character counts.
    let (head, tail) = form.split_at(form.len() / 2);
    let other = if tail.starts_with('A') { "B" } else { "A" };
    let tampered = format!("{head}{other}{}", &tail[1..]);
    for (what, form) in
        [("none", ""), ("another browser's", &foreign), ("tampered", &tampered), ("made up", "AAAA")]
    {
        let got = browser.post("/oauth/consent", &[("form", form), ("decision", "allow")]);
        assert!(matches!(got.status, 400 | 403) && onward(&got).is_none(), "{what}: {}", got.text());
    }
    let good = [("form", form.as_str()), ("decision", "allow")];
    let ask = |browser: &Browser| browser.form("/oauth/consent", &good);
    for ask in [
        ask(&browser).with("Sec-Fetch-Site", "cross-site"),
        ask(&browser).with("Sec-Fetch-Site", "same-site"),
        ask(&browser).with("Sec-Fetch-Site", "none"),
        ask(&browser).without("Sec-Fetch-Site"),
        ask(&browser).without("Sec-Fetch-Site").without("Origin"),
        ask(&browser).with("Origin", "https://evil.example"),
        ask(&browser).with("Origin", "https://gate.example.evil.example"),
        ask(&browser).with("Content-Type", "text/plain"),
        ask(&browser).with("Content-Type", "application/json"),
        ask(&browser).without("Content-Type"),
    ] {
        let shown = String::from_utf8_lossy(&ask.bytes()).into_owned();
        let got = browser.send(ask);
        assert!(got.status == 403 && onward(&got).is_none(), "{shown}: {} {}", got.status, got.text());
    }
    let query = bartizan_trials::encode(&good);
    assert_eq!(browser.get(&format!("/oauth/consent?{query}")).status, 405, "not by GET");
    let tunnelled = browser.get(&format!("{}&_method=POST&{query}", Facade::query(&[])));
    assert!(is_consent_page(&tunnelled), "nor by a word for it");
    let mut without = facade.browser();
    assert_eq!(without.post("/oauth/consent", &good).status, 403, "nor without its cookie");
    assert!(facade.idp.heard().iter().all(|heard| heard.path() != "/token"));

    let gone = browser.post("/oauth/consent", &good);
    assert!(onward(&gone).unwrap().starts_with(&facade.idp.name()), "the person's own decision counts");
    assert_eq!(browser.post("/oauth/consent", &good).status, 403, "once");
    facade.serves();
}

#[test]
fn cd_04_an_unknown_client_is_shown_to_the_person_before_the_provider_hears_of_it() {
    let facade = Facade::with("registration = \"on\"", "");
    // The person is signed in here and at the provider, and has allowed another client.
    let mut victim = acquainted(&facade, "victim");
    let evil = registered(&facade, "Evil", "https://evil.example/cb");
    let changes = [("client_id", evil.as_str()), ("redirect_uri", "https://evil.example/cb")];
    let before = facade.idp.heard().len();
    let page = victim.get(&Facade::query(&changes));
    assert!(is_consent_page(&page), "{}", page.text());
    for words in ["Evil", "https://evil.example/cb", "Not verified", "mcp:write"] {
        assert!(page.text().contains(words), "{words}: {}", page.text());
    }
    assert_eq!(facade.idp.heard().len(), before, "the provider heard of nothing");
    assert!(onward(&page).is_none());
    // Without the button there is no way on; with "deny" the client learns that, and no code.
    let denied = facade.decide(&mut victim, &changes, "deny");
    let location = onward(&denied).unwrap();
    assert!(location.starts_with("https://evil.example/cb?error=access_denied"), "{location}");

    let known = victim.get(&Facade::query(&[]));
    assert_eq!(known.status, 303, "the client that was allowed needs no page: {}", known.text());
    assert!(onward(&known).unwrap().starts_with(&facade.idp.name()));
    facade.serves();
}

#[test]
fn cd_05_what_a_client_says_of_itself_stays_text() {
    let facade = Facade::with("registration = \"on\"", "");
    for name in ["Claude\u{202e}", "Claude\u{200b}", "line\nbreak", &"x".repeat(4096)] {
        let answer = register(&facade, &json!({ "client_name": name, "redirect_uris": [BACK] }));
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
    }
    let answer = register(
        &facade,
        &json!({
            "client_name": "<img src=x onerror=alert(1)>", "redirect_uris": [BACK],
            "client_uri": "javascript:alert(2)", "tos_uri": "javascript:alert(3)", "policy_uri": "javascript:alert(4)",
            "logo_uri": "https://evil.example/logo.svg",
        }),
    );
    let id = answer.json()["client_id"].as_str().unwrap().to_owned();
    let page = facade.browser().get(&Facade::query(&[("client_id", &id)]));
    assert!(is_consent_page(&page), "{}", page.text());
    for raw in ["<img", "<script", "javascript:", "evil.example", "alert(2)"] {
        assert!(!page.text().contains(raw), "{raw}: {}", page.text());
    }
    assert!(page.text().contains("&#60;img src=x onerror=alert(1)&#62;"), "{}", page.text());
    let policy = page.line("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("script") && !policy.contains("unsafe")
    );

    let posing = registered(&facade, "Microsoft", BACK);
    let page = facade.browser().get(&Facade::query(&[("client_id", &posing)]));
    assert!(page.text().contains("Microsoft") && page.text().contains("Not verified"), "{}", page.text());
    assert!(page.text().contains("c.example"), "where the answer goes is shown");
    facade.serves();
}

#[test]
fn cd_10_no_page_can_be_framed() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    let mut answers = vec![
        browser.get(&Facade::query(&[])),
        browser.get(&Facade::query(&[("client_id", "nobody")])),
        browser.get("/oauth/callback?state=x"),
        browser.get("/oauth/consent"),
        browser.post("/oauth/consent", &[]),
        browser.get("/account"),
        facade.decide(&mut browser, &[], "deny"),
        facade.decide(&mut browser, &[], "allow"),
    ];
    let mut person = acquainted(&facade, "ann");
    answers.push(person.get("/account"));
    answers.push(person.get(&Facade::query(&[])));
    for answer in answers {
        let policy = answer.line("content-security-policy").unwrap_or_default();
        assert!(policy.contains("frame-ancestors 'none'"), "{}: {policy}", answer.status);
        assert_eq!(answer.line("x-frame-options"), Some("DENY"));
        assert_eq!(answer.line("cache-control"), Some("no-store"));
        assert_eq!(answer.line("referrer-policy"), Some("no-referrer"));
    }
    facade.serves();
}

#[test]
fn cd_13_remembered_consent_is_for_exactly_what_was_allowed() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    facade.grant(&mut browser, "ann", &[("client_id", "other"), ("scope", "mcp:read")]);
    let same = [("client_id", "other"), ("scope", "mcp:read")];
    let resource = Facade::resource("b");
    for change in [
        ("redirect_uri", "https://c.example/elsewhere"),
        ("scope", "mcp:read mcp:write"),
        ("scope", "mcp:write"),
        ("resource", resource.as_str()),
        ("client_id", "editor"),
    ] {
        let changes: Vec<_> =
            same.iter().filter(|(name, _)| *name != change.0).copied().chain([change]).collect();
        let page = browser.get(&Facade::query(&changes));
        assert!(is_consent_page(&page), "{change:?}: {} {}", page.status, page.text());
    }
    assert_eq!(browser.get(&Facade::query(&same)).status, 303, "the same again needs no page");

    // A session that was tampered with is none, and another person is asked.
    let mut forged = facade.browser();
    let session = &browser.cookies["__Host-bartizan-session"];
    let last = if session.ends_with('A') { 'B' } else { 'A' };
    let tampered = format!("{}{last}", &session[..session.len() - 1]);
    forged.cookies.insert("__Host-bartizan-session".into(), tampered);
    assert!(is_consent_page(&forged.get(&Facade::query(&same))));
    // The provider says that it is somebody else who came back: they are asked, though Ann allowed it.
    let away = onward(&browser.get(&Facade::query(&same))).unwrap();
    let answer = browser.get(&facade.idp.sign_in(&away, "bob"));
    assert!(is_consent_page(&answer), "{} {}", answer.status, answer.text());
    facade.serves();
}

#[test]
fn cd_14_whoever_listens_on_loopback_is_looked_at_each_time() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    for _ in 0..2 {
        let changes = [("redirect_uri", "http://127.0.0.1:4711/cb")];
        let page = browser.get(&Facade::query(&changes));
        assert!(is_consent_page(&page), "{} {}", page.status, page.text());
        assert!(page.text().contains("Any program here could call itself"), "{}", page.text());
        assert!(page.text().contains("http://127.0.0.1:4711/cb"));
        let location = facade.grant(&mut browser, "ann", &changes);
        assert!(location.starts_with("http://127.0.0.1:4711/cb?code="), "{location}");
    }
    // What comes back to a host of its own is remembered.
    facade.grant(&mut browser, "ann", &[]);
    assert_eq!(browser.get(&Facade::query(&[])).status, 303);
}

#[test]
fn cd_12_an_argument_never_becomes_part_of_an_address() {
    let facade = Facade::start();
    let (token, _) = facade.tokens("ann");
    let client = facade.gate.bearer(token);
    let mut calls = 0;
    for text in [
        "../admin",
        "..%2fadmin",
        "x?y=1#",
        "//evil.example",
        "@evil.example/",
        "%0d%0aHost: evil",
        ";/..",
        "http://evil.example/",
    ] {
        let arguments = json!({ "path": text, "id": text }).to_string();
        let call =
            client.modern("/mcp/a", "tools/call", &format!(r#""name":"echo","arguments":{arguments}"#));
        let answer = call.with("Host", "gate.example").send();
        assert_eq!(answer.outcome(), 200, "{text}: {}", answer.text());
        calls += 1;
        let read = client.modern("/mcp/a", "resources/read", &format!(r#""uri":{}"#, json!(text)));
        read.with("Host", "gate.example").send();
    }
    let heard = facade.a.heard();
    assert_eq!(
        facade.a.heard_of("tools/call").len(),
        calls,
        "the honest call passes, whatever its arguments say"
    );
    assert!(heard.iter().all(|heard| heard.target() == "/mcp"), "one address, whatever was asked");
    let host = facade.a.origin().replace("http://", "");
    assert!(heard.iter().all(|heard| heard.line("host") == Some(host.as_str())), "and one host");
}
