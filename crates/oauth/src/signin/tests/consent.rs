//! Consent, and nothing before it (spec.md F-26 to F-33, G-01; attacks.md CD).

use http::Method;
use serde_json::json;

use super::scene::{ADMINISTRATION, ALL_SERVERS, Browser, Departure, SERVER, Scene};

#[tokio::test]
async fn cd_04_the_page_comes_before_the_provider_and_says_what_is_at_stake() {
    let scene = Scene::new().await;
    let page = Browser::new(&scene).ask("scope=mcp:read+mcp:own&resource=https://gate.example/mcp").await;
    assert!(page.is_consent_page());
    assert_eq!(page.line("location"), "");
    assert_eq!(scene.asked_of_provider(), 0, "the provider has heard of nothing");
    for words in [
        "Allow <bdi>Notes</bdi> to act for you?",
        "Published by <strong>app.example</strong>",
        "<strong>app.example</strong>",
        "<code>https://app.example/cb</code>",
        "read what is there",
        "<code>mcp:own</code>",
        "files",
        "mail",
        "web",
        "https://gate.example/mcp",
        "idp.example",
    ] {
        assert!(page.body.contains(words), "{words}");
    }
    assert!(!page.body.contains("runs on this computer") && !page.body.contains("not the host"));
    let elsewhere = Browser::new(&scene).ask("redirect_uri=https://app.example.evil.example/cb").await;
    assert!(elsewhere.body.contains("This is not the host that published the application."));
}

#[tokio::test]
async fn a_person_allows_signs_in_and_is_granted() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let departure = browser.allow("").await;
    assert_eq!(departure.0.host_str(), Some("idp.example"));
    scene.vouches(&departure, json!({}), json!({}));
    let done = browser.get(&departure.back("")).await;
    assert_eq!((done.status, done.line("location")), (303, "https://app.example/cb?code=granted"));
    let noted = &done.noted;
    assert_eq!(
        (noted.reason, noted.client.as_deref()),
        ("consent.granted", Some("https://app.example/client"))
    );
    assert_eq!((noted.resource.as_deref(), noted.scopes.join(" ")), (Some(SERVER), "mcp:read".to_owned()));
    assert_eq!(noted.person, Some(("https://idp.example".to_owned(), "ann".to_owned())));
    let granted = scene.desk.granted.lock().unwrap().clone();
    let [(request, person)] = granted.as_slice() else { panic!("granted once") };
    assert_eq!(request.state.as_deref(), Some("client's own"));
    assert_eq!((person.issuer.as_str(), person.subject.as_str()), ("https://idp.example", "ann"));
    assert_eq!(person.name.as_deref(), Some("Ann Example"));
    assert_eq!(
        (person.methods.as_slice(), person.contexts.as_slice()),
        (["otp".into(), "pwd".into()].as_slice(), ["high".into()].as_slice())
    );
    assert!(person.groups.contains("dev") && person.roles.contains("reader"));
    let left: Vec<_> = browser.cookies.keys().map(String::as_str).collect();
    assert_eq!(left, ["__Host-bartizan-form", "__Host-bartizan-session"], "the state's cookie is gone");
}

#[tokio::test]
async fn remembered_consent_goes_to_the_provider_without_a_page() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    let again = browser.ask("").await;
    assert_eq!((again.status, again.reason), (303, "signin.begun"));
    let departure = Departure(again.onward().parse().unwrap());
    scene.vouches(&departure, json!({}), json!({}));
    assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
    // It is this person's, in a browser where they are signed in: others are asked.
    assert!(Browser::new(&scene).ask("").await.is_consent_page());
    let mut bob = scene.signed_in("bob").await;
    bob.cookies.remove("__Host-bartizan-session");
    assert!(bob.ask("").await.is_consent_page());
}

#[tokio::test]
async fn consent_to_what_asks_each_time_is_not_remembered() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    let query = format!("resource={ADMINISTRATION}");
    for _ in 0..2 {
        let departure = browser.allow(&query).await;
        scene.vouches(&departure, json!({}), json!({}));
        assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
        assert!(browser.ask(&query).await.is_consent_page(), "whatever was allowed before");
    }
    assert_eq!(browser.ask("").await.status, 303, "what does not is remembered");
}

#[tokio::test]
async fn cd_13_whatever_differs_is_asked_about() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    for changed in [
        "client=https://evil.example/client",
        "redirect_uri=https://app.example/cb2",
        "redirect_uri=https://app.example/cb/",
        "scope=mcp:read+mcp:write",
        "scope=mcp:write",
        "resource=https://gate.example/mcp",
        "metadata=m2",
    ] {
        assert!(browser.ask(changed).await.is_consent_page(), "{changed}");
    }
    let mut forged = scene.signed_in("ann").await;
    let session = forged.cookies.get_mut("__Host-bartizan-session").unwrap();
    let last = if session.pop() == Some('A') { 'B' } else { 'A' };
    session.push(last);
    assert!(forged.ask("").await.is_consent_page(), "a forged session is none");
    assert_eq!(browser.ask("").await.status, 303, "the honest request goes on");
}

#[tokio::test]
async fn cd_14_whoever_listens_on_loopback_is_looked_at_each_time() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    for uri in ["http://127.0.0.1:4711/cb", "http://localhost:4711/cb", "http://[::1]:4711/cb"] {
        let query = format!("redirect_uri={uri}");
        let departure = browser.allow(&query).await;
        scene.vouches(&departure, json!({}), json!({}));
        assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
        let page = browser.ask(&query).await;
        assert!(page.is_consent_page(), "{uri}");
        assert!(page.body.contains("Any program here could call itself"), "{uri}");
    }
}

#[tokio::test]
async fn cd_01_a_sign_in_ends_in_the_browser_where_it_was_allowed() {
    let scene = Scene::new().await;
    let (mut attacker, mut victim) = (Browser::new(&scene), Browser::new(&scene));
    let departure = attacker.allow("client=https://evil.example/client").await;
    scene.vouches(&departure, json!({}), json!({}));
    let refused = victim.get(&departure.back("")).await;
    assert_eq!((refused.status, refused.reason, refused.line("location")), (403, "signin.state-foreign", ""));
    assert_eq!(scene.net.count("https://idp.example/token"), 0, "the code was not even looked at");
    assert!(victim.cookies.is_empty());
    // What the victim's browser showed is not good in the attacker's either.
    assert_eq!(attacker.get(&departure.back("")).await.reason, "signin.state-unknown");

    // A browser with a sign-in of its own under way is another browser still.
    let (theirs, own) = (attacker.allow("").await, victim.allow("").await);
    scene.vouches(&theirs, json!({}), json!({}));
    assert_eq!(victim.get(&theirs.back("")).await.reason, "signin.state-foreign");
    // The attacker knows how the cookie is called, and not what it holds.
    let third = attacker.allow("").await;
    let name = attacker.cookies.keys().find(|name| name.contains("state-")).unwrap().clone();
    victim.cookies.insert(name, "A".repeat(43));
    assert_eq!(victim.get(&third.back("")).await.reason, "signin.state-foreign");
    assert_eq!(scene.granted(), 0);

    scene.vouches(&own, json!({}), json!({}));
    assert_eq!(victim.get(&own.back("")).await.reason, "consent.granted", "the honest neighbour");
}

#[tokio::test]
async fn cd_02_only_the_page_that_was_shown_decides() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let form = browser.ask("").await.field("form");
    let foreign = Browser::new(&scene).ask("").await.field("form");
    let tampered = format!("{}A", form.get(..form.len() - 1).unwrap());
    let with =
        |form: &str| [("form".to_owned(), form.to_owned()), ("decision".to_owned(), "allow".to_owned())];
    let sent =
        |fields: &[(String, String)]| fields.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>();
    let bad_forms =
        [("missing", ""), ("another browser's", &foreign), ("tampered", &tampered), ("made up", "AAAA")];
    for (what, form) in bad_forms {
        let fields = sent(&with(form));
        let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let got = browser.post("/oauth/consent", &fields).await;
        assert!(matches!(got.status, 400 | 403), "{what}: {got:?}");
        assert_eq!(got.line("set-cookie"), "", "{what}");
    }
    let good = [("form", form.as_str()), ("decision", "allow")];
    let bad_lines: [&[(&str, &str)]; 11] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "")],
        &[("sec-fetch-site", ""), ("origin", "")],
        &[("sec-fetch-site", ""), ("origin", "https://evil.example")],
        &[("origin", "https://evil.example")],
        &[("origin", "https://gate.example.evil.example")],
        &[("content-type", "text/plain")],
        &[("content-type", "multipart/form-data; boundary=x")],
        &[("content-type", "")],
    ];
    for lines in bad_lines {
        let got = browser.post_with("/oauth/consent", &good, lines).await;
        assert_eq!((got.status, got.reason), (403, "signin.other-site"), "{lines:?}");
    }
    let by_get =
        browser.send(&Method::GET, &format!("/oauth/consent?form={form}&decision=allow"), &[], "").await;
    assert_eq!((by_get.status, by_get.line("allow")), (405, "POST"));
    let tunnelled = browser.get(&format!("/oauth/authorize?_method=POST&form={form}&decision=allow")).await;
    assert!(tunnelled.is_consent_page());
    let twice = [("form", form.as_str()), ("decision", "deny"), ("decision", "allow")];
    assert_eq!(browser.post("/oauth/consent", &twice).await.status, 400);
    let mut without = Browser::new(&scene);
    assert_eq!(without.post("/oauth/consent", &good).await.reason, "signin.form-foreign", "no cookie");

    assert_eq!(scene.asked_of_provider(), 0);
    assert_eq!(browser.post("/oauth/consent", &good).await.reason, "signin.begun", "the honest neighbour");
    assert_eq!(browser.post("/oauth/consent", &good).await.reason, "signin.form-spent", "once");
}

#[tokio::test]
async fn cd_02_a_form_is_good_for_its_session_and_its_ten_minutes() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let anonymous = browser.ask("scope=mcp:write").await.field("form");
    let signed_in = scene.signed_in("ann").await;
    let session = signed_in.cookies["__Host-bartizan-session"].clone();
    browser.cookies.insert("__Host-bartizan-session".into(), session);
    let late = [("form", anonymous.as_str()), ("decision", "allow")];
    assert_eq!(browser.post("/oauth/consent", &late).await.reason, "signin.form-foreign");

    let form = browser.ask("scope=mcp:write").await.field("form");
    scene.later(600);
    let late = [("form", form.as_str()), ("decision", "allow")];
    assert_eq!(browser.post("/oauth/consent", &late).await.reason, "signin.form-foreign");
}

#[tokio::test]
async fn cd_09_there_is_no_state_before_consent_and_one_use_of_it_after() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let page = browser.ask("").await;
    assert_eq!(page.sets(), ["__Host-bartizan-form"]);
    for state in ["", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let got = browser.get(&format!("/oauth/callback?code=good&state={state}")).await;
        assert_eq!((got.status, got.line("location")), (400, ""));
    }

    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    assert_eq!(browser.get(&departure.back("")).await.status, 303);
    assert_eq!(browser.get(&departure.back("")).await.reason, "signin.state-unknown", "replayed");

    let departure = browser.decide("scope=mcp:write", "allow").await.onward();
    let departure = Departure(departure.parse().unwrap());
    scene.later(11 * 60);
    scene.vouches(&departure, json!({}), json!({}));
    assert_eq!(browser.get(&departure.back("")).await.reason, "signin.state-unknown", "late");
    assert_eq!(scene.granted(), 1);
}

#[tokio::test]
async fn what_is_revoked_during_a_silent_sign_in_is_asked_about() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    let departure = Departure(browser.ask("").await.onward().parse().unwrap());
    let csrf = browser.get("/account").await.field("csrf");
    let revoke = [("csrf", csrf.as_str()), ("action", "revoke"), ("client", "https://app.example/client")];
    assert_eq!(browser.post("/account", &revoke).await.reason, "consent.withdrawn");
    scene.vouches(&departure, json!({}), json!({}));
    assert!(browser.get(&departure.back("")).await.is_consent_page());
    assert_eq!(scene.granted(), 0);
    assert!(browser.get("/account").await.body.contains("None."), "nothing came back by itself");
}

#[tokio::test]
async fn two_sign_ins_in_one_browser_do_not_disturb_each_other() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let (one, two) = (browser.allow("").await, browser.allow("scope=mcp:write").await);
    for departure in [one, two] {
        // A look at the head of the answer is no use of it.
        let head = browser.send(&Method::HEAD, &departure.back(""), &[], "").await;
        assert_eq!(head.status, 405);
        scene.vouches(&departure, json!({}), json!({}));
        assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
    }
    assert_eq!(scene.granted(), 2);
}

#[tokio::test]
async fn a_callback_that_names_somebody_else_asks_them() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    let departure = Departure(browser.ask("").await.onward().parse().unwrap());
    scene.vouches(&departure, json!({}), json!({ "sub": "bob", "name": "Bob" }));
    let asked = browser.get(&departure.back("")).await;
    assert!(asked.is_consent_page(), "{asked:?}");
    assert!(asked.body.contains("Bob") && !asked.body.contains("Ann"));
    assert_eq!(scene.granted(), 0);

    // What Bob allows is Bob's.
    let fields = [("form", asked.field("form")), ("decision", "allow".to_owned())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let departure = Departure(browser.post("/oauth/consent", &fields).await.onward().parse().unwrap());
    scene.vouches(&departure, json!({}), json!({ "sub": "bob" }));
    assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
    assert_eq!(scene.desk.granted.lock().unwrap()[0].1.subject, "bob");
}

#[tokio::test]
async fn what_a_person_denies_the_client_hears_and_nobody_else() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let denied = browser.decide("", "deny").await;
    assert_eq!((denied.status, denied.reason), (200, "consent.denied"));
    assert_eq!(denied.onward(), "https://app.example/cb?error=access_denied");
    assert_eq!(scene.asked_of_provider(), 0);
    assert_eq!(denied.sets(), Vec::<String>::new());
    let page = browser.ask("").await;
    let strange = [("form", page.field("form")), ("decision", "perhaps".to_owned())];
    let strange: Vec<_> = strange.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(browser.post("/oauth/consent", &strange).await.status, 400);
}

#[tokio::test]
async fn a_request_that_cannot_be_answered_gets_a_page_or_the_error_it_deserves() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let page = browser.ask("client=unknown").await;
    assert_eq!((page.status, page.line("location")), (400, ""));
    assert!(page.body.contains("Nobody knows &#60;this&#62; client."), "{}", page.body);
    let redirected = browser.ask("client=confused").await;
    assert_eq!(
        (redirected.status, redirected.line("location")),
        (303, "https://app.example/cb?error=invalid_scope&state=%22%3E")
    );
}

/// AA-24, F-13: a client that anybody can make sends people nowhere by asking for what it cannot get. They may go.
#[tokio::test]
async fn aa_24_a_strangers_mistake_sends_nobody_to_the_stranger() {
    let scene = Scene::new().await;
    let page = Browser::new(&scene).ask("client=confused+stranger").await;
    assert_eq!((page.status, page.line("location"), page.line("refresh")), (400, "", ""));
    assert!(!page.body.contains("http-equiv"), "{}", page.body);
    assert!(
        page.body.contains("href=\"https://app.example/cb?error=invalid_scope&#38;state=%22%3E\""),
        "{}",
        page.body
    );
    assert!(page.body.contains("&#60;b&#62;Notes&#60;/b&#62;") && page.body.contains("Go to app.example"));
    assert!(page.body.contains("for whoever wrote it: no such"), "{}", page.body);
}

#[tokio::test]
async fn cd_10_every_answer_is_framed_by_nobody_and_kept_by_nobody() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let mut all = vec![
        browser.ask("").await,
        browser.ask("client=unknown").await,
        browser.get("/oauth/callback?state=x").await,
        browser.get("/oauth/consent").await,
        browser.post("/oauth/consent", &[]).await,
        browser.get("/account").await,
        browser.decide("", "deny").await,
        browser.decide("", "allow").await,
    ];
    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    all.push(browser.get(&departure.back("")).await);
    all.push(browser.get("/account").await);
    for got in &all {
        let policy = got.line("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{got:?}"
        );
        assert!(!policy.contains("script") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(got.line("x-frame-options"), "DENY");
        assert_eq!(got.line("cache-control"), "no-store");
        assert_eq!(got.line("referrer-policy"), "no-referrer");
        assert_eq!(got.line("x-content-type-options"), "nosniff");
        let is_handler = |word: &str| word.starts_with("on") && word.contains('=');
        let has_code = got.body.contains("<script") || got.body.contains("javascript:");
        assert!(!has_code && !got.body.split_ascii_whitespace().any(is_handler), "{}", got.body);
        assert!(!got.body.contains(" style="), "the policy would drop it: {}", got.body);
        for line in got.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            assert!(line.starts_with("__Host-bartizan-"), "{line}");
            for attribute in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Max-Age="] {
                assert!(line.contains(attribute), "{line}");
            }
            assert!(!line.contains("Domain"), "{line}");
        }
    }
    let style = browser.get("/oauth/style.css").await;
    assert_eq!((style.status, style.line("content-type")), (200, "text/css; charset=utf-8"));
}

#[tokio::test]
async fn cd_05_what_a_client_says_of_itself_stays_text() {
    let scene = Scene::new().await;
    let name = "%3Cimg+src%3Dx+onerror%3Dalert(1)%3E%E2%80%AE%22%27%0A";
    let query = format!(
        "name={name}&host=&scope=%3Cb%3Ex&redirect_uri=https://app.example/%22%3E%3Cscript%3E&client=%22%3E%3Csvg&resource={ALL_SERVERS}"
    );
    let mut browser = Browser::new(&scene);
    let page = browser.ask(&query).await;
    for raw in ["<img", "<script", "<svg src", "<b>x", "\u{202e}"] {
        assert!(!page.body.contains(raw), "{raw}");
    }
    assert!(page.body.contains("&#60;img src=x onerror=alert(1)&#62;"));
    assert!(page.body.contains("Not verified"));
    let denied = browser.decide(&query, "deny").await;
    assert_eq!(denied.onward(), "https://app.example/\"><script>?error=access_denied");
    assert!(!denied.body.contains("<script"));
}

#[tokio::test]
async fn g_38_no_browser_is_sent_where_it_would_run_something() {
    let scene = Scene::new().await;
    for uri in ["javascript:alert(1)//", "data:text/html,x", "//evil.example/", "file:///etc/passwd", "cb"] {
        let got = Browser::new(&scene).decide(&format!("redirect_uri={uri}"), "deny").await;
        assert_eq!((got.status, got.line("location")), (500, ""), "{uri}");
        assert!(!got.body.contains("refresh"), "{uri}");
    }
}

#[tokio::test]
async fn a_session_cookie_that_is_there_twice_is_none() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("ann").await;
    let session = browser.cookies["__Host-bartizan-session"].clone();
    let mut tossed = Browser::new(&scene);
    let line = format!("__Host-bartizan-session={session}; __Host-bartizan-session={}", "A".repeat(43));
    let got = tossed.send(&Method::GET, "/oauth/authorize", &[("cookie", &line)], "").await;
    assert!(got.is_consent_page());
    assert!(!got.body.contains("Ann Example"));
}

#[tokio::test]
async fn a_flood_of_requests_from_one_address_is_turned_away_for_a_while() {
    let scene = Scene::new().await;
    let mut flood = Browser::new(&scene);
    for _ in 0..2400 {
        assert_eq!(flood.ask("").await.reason, "consent.asked");
    }
    scene.later(60);
    // What a page of elsewhere has a browser fetch counts for nobody.
    let picture = flood.send(&Method::GET, "/oauth/authorize", &[("sec-fetch-mode", "no-cors")], "").await;
    assert_eq!((picture.status, picture.reason), (403, "signin.other-site"));
    let refused = flood.ask("").await;
    assert_eq!((refused.status, refused.reason), (429, "signin.crowded"));
    assert_eq!(refused.line("retry-after"), "540");
    assert!(refused.body.contains("Wait ten minutes") && refused.sets().is_empty());
    scene.later(540);
    assert_eq!(flood.ask("").await.reason, "consent.asked");
}

#[tokio::test]
async fn other_paths_are_other_peoples() {
    let scene = Scene::new().await;
    for path in ["/oauth/token", "/oauth/authorize/", "/oauth/sign-in", "/account/", "/"] {
        let headers = http::HeaderMap::new();
        let asked = crate::facade::Asked {
            method: &Method::GET,
            path,
            query: None,
            headers: &headers,
            body: &[],
            peer: [127, 0, 0, 1].into(),
            is_tls: true,
        };
        assert!(scene.signin.answer(&asked).await.is_none(), "{path}");
    }
}
