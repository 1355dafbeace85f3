//! The gate as a client of authorization servers that it has no reason to trust (RFC 9728 §3.3, RFC 8414 §3.3; CVE-2025-6514).

use std::sync::{Arc, Mutex};

use bartizan_trials::{Answer, Browser, Facade, Upstream, encode, field, merge, onward, parameter};
use serde_json::{Value, json};

type Shared = Arc<Mutex<Value>>;

/// A server, `up`, at which people have accounts, and the authorization server that grants access to it.
struct Scene {
    facade: Facade,
    up: Upstream,
    server: Upstream,
    /// What is changed of the server's protected resource metadata.
    resource: Shared,
    /// What is changed of the authorization server's metadata.
    metadata: Shared,
}

impl Scene {
    /// `names_issuer`: whether the operator says who grants access.
    fn start(names_issuer: bool) -> Self {
        let (resource, metadata) = (Shared::default(), Shared::default());
        *resource.lock().unwrap() = json!({});
        *metadata.lock().unwrap() = json!({});
        let changed = Arc::clone(&metadata);
        let server = Upstream::modern(move |heard, pen| {
            let own = format!("http://{}", heard.line("host").unwrap_or_default());
            match heard.path() {
                "/.well-known/oauth-authorization-server" => {
                    let good = json!({
                        "issuer": own, "authorization_endpoint": format!("{own}/authorize"),
                        "token_endpoint": format!("{own}/token"), "registration_endpoint": format!("{own}/register"),
                        "code_challenge_methods_supported": ["S256"],
                        "authorization_response_iss_parameter_supported": true,
                    });
                    pen.json(&merge(good, changed.lock().unwrap().clone()).to_string());
                }
                "/register" => {
                    pen.whole("201 Created", "application/json", "", r#"{"client_id":"gate-there"}"#)
                }
                "/token" => {
                    // The account is whoever's code it is.
                    let form = format!("http://x/?{}", heard.body);
                    let code = parameter(&form, "code").unwrap_or_default();
                    let body = json!({ "access_token": format!("token-of-{code}"), "token_type": "Bearer", "expires_in": 3600 });
                    pen.json(&body.to_string());
                }
                _ => pen.empty("404 Not Found"),
            }
            true
        });
        let (changed, issuer) = (Arc::clone(&resource), server.origin());
        let up = Upstream::modern(move |heard, pen| {
            let own = format!("http://{}", heard.line("host").unwrap_or_default());
            if heard.path() == "/.well-known/oauth-protected-resource/mcp" {
                let good = json!({ "resource": format!("{own}/mcp"), "authorization_servers": [issuer] });
                pen.json(&merge(good, changed.lock().unwrap().clone()).to_string());
                return true;
            }
            let is_refused =
                heard.line("authorization").is_none_or(|line| !line.starts_with("Bearer token-of-"));
            if is_refused {
                let line = format!(
                    "WWW-Authenticate: Bearer resource_metadata=\"{own}/.well-known/oauth-protected-resource/mcp\"\r\n"
                );
                pen.whole("401 Unauthorized", "application/json", &line, "{}");
            }
            is_refused
        });
        let issuer = if names_issuer { format!("issuer = \"{}\", ", server.origin()) } else { String::new() };
        let more = format!(
            "required_scopes = [\"mcp:read\"]\ncredential = {{ kind = \"user-oauth\", {issuer}scopes = [\"read\"] }}"
        );
        let facade = Facade::with("", &up.config("up", &more));
        Self { facade, up, server, resource, metadata }
    }

    /// A browser in which `subject` is signed in at the gate.
    fn person(&self, subject: &str) -> Browser {
        let mut browser = self.facade.browser();
        let csrf = field(&browser.get("/account"), "csrf").unwrap();
        let away = browser.post("/account", &[("csrf", &csrf), ("action", "sign-in")]);
        let back = self.facade.idp.sign_in(&onward(&away).unwrap(), subject);
        assert_eq!(browser.get(&back).status, 303);
        browser
    }

    /// Presses the button.
    fn press(&self, browser: &mut Browser) -> Answer {
        let page = browser.get("/connect/up");
        assert_eq!(page.outcome(), 200, "{}", page.text());
        let csrf = field(&page, "csrf").unwrap();
        browser.post("/connect/up", &[("csrf", &csrf), ("do", "link")])
    }

    /// Presses the button; the answer is where the person is sent.
    fn leave(&self, browser: &mut Browser) -> String {
        let sent = self.press(browser);
        assert_eq!(sent.status, 303, "{}", sent.text());
        onward(&sent).unwrap()
    }

    /// Where the authorization server sends the person back to, with a code of this account of theirs.
    fn back(&self, away: &str, account: &str) -> String {
        let (state, issuer) = (parameter(away, "state").unwrap(), self.server.origin());
        format!("/connect/callback?{}", encode(&[("state", &state), ("code", account), ("iss", &issuer)]))
    }

    /// How often a code was redeemed.
    fn redemptions(&self) -> usize {
        self.server.heard().iter().filter(|heard| heard.path() == "/token").count()
    }

    /// What the server is shown for a call of `subject`'s; `None` if it is not called.
    fn shown_for(&self, subject: &str) -> Option<String> {
        let resource = Facade::resource("up");
        let code = self.facade.code(subject, &[("resource", &resource), ("scope", "mcp:read")]);
        let token = self.facade.redeem(&code, &[]).json()["access_token"].as_str().unwrap().to_owned();
        let before = self.up.heard_of("tools/call").len();
        self.facade.shows("up", &token);
        let heard = self.up.heard_of("tools/call");
        heard.get(before..)?.last()?.line("authorization").map(str::to_owned)
    }
}

#[test]
fn cd_08_an_account_is_linked_by_whoever_began_it_in_the_same_browser_once() {
    let scene = Scene::start(true);
    let (mut ann, mut bob) = (scene.person("ann"), scene.person("bob"));
    let page = ann.get("/connect/up");
    for words in ["ann", "up", "127.0.0.1"] {
        assert!(page.text().contains(words), "both sides of it are shown: {words}: {}", page.text());
    }
    assert!(page.lines("set-cookie").is_empty(), "CD-09: nothing before the button");

    // Ann begins, and Bob is brought to finish it with her account; then the other way round.
    let away = scene.leave(&mut ann);
    assert_eq!(bob.get(&scene.back(&away, "anns-account")).status, 403);
    assert_eq!(ann.get(&scene.back(&away, "anns-account")).status, 400, "it is used up");
    let away = scene.leave(&mut bob);
    assert_eq!(ann.get(&scene.back(&away, "mallorys-account")).status, 403);
    // The same person in another browser, and somebody who is not signed in at all.
    let away = scene.leave(&mut ann);
    assert_eq!(scene.person("ann").get(&scene.back(&away, "mallorys-account")).status, 403);
    let away = scene.leave(&mut ann);
    let stranger = scene.facade.browser().get(&scene.back(&away, "mallorys-account"));
    assert_eq!(onward(&stranger).as_deref(), Some("/account"), "{}", stranger.text());
    for query in ["", "?code=c", "?state=x&code=c", "?state=&code=c"] {
        assert_eq!(ann.get(&format!("/connect/callback{query}")).status, 400, "{query}");
    }
    // A button that another page presses, or another person's.
    let csrf = field(&bob.get("/connect/up"), "csrf").unwrap();
    let own = field(&ann.get("/connect/up"), "csrf").unwrap();
    for ask in [
        ann.form("/connect/up", &[("csrf", &csrf), ("do", "link")]),
        ann.form("/connect/up", &[("do", "link")]),
        ann.form("/connect/up", &[("csrf", &own), ("do", "link")]).with("Sec-Fetch-Site", "cross-site"),
    ] {
        let refused = ask.send();
        assert!(refused.status == 403 && onward(&refused).is_none(), "{}", refused.text());
    }
    assert_eq!(scene.redemptions(), 0, "no code was ever redeemed");
    assert_eq!(scene.shown_for("ann"), None, "nothing is linked");

    let away = scene.leave(&mut ann);
    let back = scene.back(&away, "anns-account");
    assert_eq!(ann.get(&back).outcome(), 200);
    assert_eq!(ann.get(&back).status, 400, "once");
    assert_eq!(scene.shown_for("ann").as_deref(), Some("Bearer token-of-anns-account"));
    assert_eq!(scene.shown_for("bob"), None, "TP-02: and nobody else's");

    // Somebody who was cut off signs in anew, for the provider still vouches for them, and links nothing.
    let revoked = std::process::Command::new(bartizan_trials::binary())
        .args(["respond", "revoke", "--person", "bob", "--issuer", &scene.facade.idp.name(), "--config"])
        .arg(scene.facade.gate.folder().join("bartizan.toml"))
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    assert_eq!(scene.person("bob").get("/connect/up").status, 403);
    assert_eq!(scene.person("cai").get("/connect/up").outcome(), 200, "the honest neighbour");
}

/// Also: AA-33.
#[test]
fn aa_34_metadata_that_speaks_for_another_leads_nowhere() {
    let scene = Scene::start(true);
    let mut ann = scene.person("ann");
    let own = scene.server.origin();
    let evil = "https://evil.example";
    for (place, change) in [
        (&scene.resource, json!({ "resource": "https://evil.example/mcp" })),
        (&scene.resource, json!({ "resource": format!("{}/else", scene.up.url()) })),
        (&scene.resource, json!({ "resource": null })),
        (&scene.resource, json!({ "authorization_servers": [] })),
        (&scene.resource, json!({ "authorization_servers": [evil] })),
        (&scene.metadata, json!({ "issuer": evil })),
        (&scene.metadata, json!({ "issuer": format!("{own}/") })),
        (&scene.metadata, json!({ "issuer": null })),
    ] {
        *place.lock().unwrap() = change.clone();
        let answer = scene.press(&mut ann);
        assert!(
            answer.status == 502 && onward(&answer).is_none(),
            "{change}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(!answer.text().contains("evil.example"), "{}", answer.text());
        *place.lock().unwrap() = json!({});
    }
    let asked = scene.server.heard();
    assert!(
        asked.iter().all(|heard| heard.method() == "GET"),
        "nobody registered, and no token was asked for"
    );

    // What comes back must say that it comes from there (RFC 9207).
    for iss in [evil.to_owned(), format!("{own}/"), own.to_uppercase(), String::new()] {
        let away = scene.leave(&mut ann);
        let state = parameter(&away, "state").unwrap();
        let query =
            encode(&[("state", &state), ("code", "c"), ("iss", &iss), ("error_description", "canary-text")]);
        let answer = ann.get(&format!("/connect/callback?{query}"));
        assert!(answer.status == 400 && !answer.text().contains("canary-text"), "`{iss}`: {}", answer.text());
    }
    let away = scene.leave(&mut ann);
    let without = format!("/connect/callback?state={}&code=c", parameter(&away, "state").unwrap());
    assert_eq!(ann.get(&without).status, 400, "it promised to say it");
    assert_eq!(scene.redemptions(), 0);

    // Our own is what the endpoint is called, byte for byte.
    let document = scene.facade.browser().get("/.well-known/oauth-protected-resource/mcp/up").json();
    assert_eq!(document["resource"], Facade::resource("up"));
    let away = scene.leave(&mut ann);
    assert_eq!(ann.get(&scene.back(&away, "account")).outcome(), 200, "the honest one is followed");
    assert_eq!(scene.shown_for("ann").as_deref(), Some("Bearer token-of-account"));
}

#[test]
fn cd_06_an_address_that_a_server_names_is_not_an_inside_one() {
    let canary = Upstream::modern(|_, _| false);
    let port = canary.origin().rsplit(':').next().unwrap().to_owned();
    let scene = Scene::start(false);
    let mut ann = scene.person("ann");
    let places = [
        canary.origin(),
        format!("https://127.0.0.1:{port}"),
        format!("https://localhost:{port}"),
        format!("http://[::1]:{port}"),
        format!("https://[::ffff:127.0.0.1]:{port}"),
        "http://169.254.169.254".to_owned(),
        "https://169.254.169.254".to_owned(),
        "https://[::ffff:169.254.169.254]".to_owned(),
        "https://10.0.0.1".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1:1".to_owned(),
    ];
    let mut said = Vec::new();
    for place in &places {
        *scene.resource.lock().unwrap() = json!({ "authorization_servers": [place] });
        let answer = scene.press(&mut ann);
        assert!(
            answer.status == 502 && onward(&answer).is_none(),
            "{place}: {} {}",
            answer.status,
            answer.text()
        );
        said.push(answer.text().lines().filter(|line| !line.contains("nonce")).collect::<String>());
    }
    said.dedup();
    assert_eq!(said.len(), 1, "one answer for all of them: {said:#?}");
    assert_eq!(canary.connections(), 0);
    drop(scene);

    // An authorization server that the operator trusts may not send the gate inside either.
    let scene = Scene::start(true);
    let mut ann = scene.person("ann");
    for place in &places {
        *scene.metadata.lock().unwrap() = json!({ "registration_endpoint": format!("{place}/x") });
        let answer = scene.press(&mut ann);
        assert!(
            answer.status == 502 && onward(&answer).is_none(),
            "{place}: {} {}",
            answer.status,
            answer.text()
        );
    }
    for place in &places {
        *scene.metadata.lock().unwrap() = json!({ "token_endpoint": format!("{place}/x") });
        let answer = scene.press(&mut ann);
        if let Some(away) = onward(&answer) {
            // It signs people in; only its token endpoint leads inside.
            let answer = ann.get(&scene.back(&away, "account"));
            assert_eq!(answer.status, 502, "{place}: {}", answer.text());
            assert!(!answer.text().contains("token-of"), "{}", answer.text());
        }
    }
    assert_eq!(canary.connections(), 0);
    *scene.metadata.lock().unwrap() = json!({});
    let away = scene.leave(&mut ann);
    assert_eq!(ann.get(&scene.back(&away, "account")).outcome(), 200, "the honest one is followed");
}

#[test]
fn cd_11_nobody_is_sent_where_something_would_run() {
    let scene = Scene::start(true);
    let mut ann = scene.person("ann");
    for change in [
        json!({ "authorization_endpoint": "javascript:alert(1)" }),
        json!({ "authorization_endpoint": "file:///etc/passwd" }),
        json!({ "authorization_endpoint": "a:$(calc)" }),
        json!({ "authorization_endpoint": "--flag" }),
        json!({ "authorization_endpoint": "http://as.example/authorize" }),
        json!({ "authorization_endpoint": "https://u:p@as.example/authorize" }),
        json!({ "authorization_endpoint": null }),
        json!({ "authorization_endpoint": 7 }),
        json!({ "token_endpoint": "file:///etc/passwd" }),
        json!({ "token_endpoint": "http://as.example/token" }),
        json!({ "code_challenge_methods_supported": ["plain"] }),
        json!({ "code_challenge_methods_supported": null }),
        json!({ "more": "x".repeat(1 << 20) }),
    ] {
        *scene.metadata.lock().unwrap() = change.clone();
        let answer = scene.press(&mut ann);
        let change: String = change.to_string().chars().take(80).collect();
        assert!(
            answer.status == 502 && onward(&answer).is_none(),
            "{change}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(answer.lines("set-cookie").is_empty(), "{change}");
    }
    *scene.metadata.lock().unwrap() = json!({});
    let away = scene.leave(&mut ann);
    assert!(away.starts_with(&format!("{}/authorize?", scene.server.origin())), "{away}");
    assert_eq!(ann.get(&scene.back(&away, "account")).outcome(), 200);
}
