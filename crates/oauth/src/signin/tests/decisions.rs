//! Calls that wait for a person's decision (attacks.md EP-08).

use bartizan_store::PendingKind;
use http::Method;
use serde_json::{Value, json};

use super::scene::{Browser, Departure, Got, OIDC, PUBLIC, Scene};
use crate::{signin::Standing, tests::scene::NOW};

/// A page of anywhere has a browser fetch these, and leaves nothing.
#[tokio::test]
async fn ep_08_only_a_visit_is_written_down() {
    let scene = Scene::local().await;
    let mut browser = Browser::new(&scene);
    browser.get("/account").await;
    let name = browser.cookies.keys().find(|name| name.ends_with("form")).unwrap().clone();
    let waits = async |browser: &Browser<'_>| {
        let id = crate::signin::local::waiting_id(&browser.cookies[&name]);
        let now = bartizan_model::Clock::now(&*scene.clock);
        scene.signin.pending.peek(PendingKind::Waiting, &id, now).await.unwrap().is_some()
    };
    let call = scene.held.hold("ann", &["bob"]);
    let result = "/quarantine/00000000000000000000000000000000";
    for path in [call.as_str(), result, "/quarantine", "/approvals"] {
        for mode in ["no-cors", "cors", "websocket"] {
            let got = browser.send(&Method::GET, path, &[("sec-fetch-mode", mode)], "").await;
            assert_eq!(
                (got.status, got.reason, got.sets().len()),
                (403, "signin.other-site", 0),
                "{path} {mode}"
            );
        }
    }
    assert!(!waits(&browser).await);
    let got = browser.send(&Method::GET, &call, &[("sec-fetch-mode", "navigate")], "").await;
    assert_eq!((got.status, got.reason), (200, "approval.arrive"));
    assert!(waits(&browser).await, "a person is remembered");
}

/// Opens the page of a held call, and presses a button.
async fn press(browser: &mut Browser<'_>, path: &str, button: &str) -> Got {
    let form = browser.get(path).await.field("form");
    browser.post(path, &[("form", &form), ("decision", button)]).await
}

#[tokio::test]
async fn ep_08_a_person_sees_the_call_to_the_letter_and_decides_once() {
    let scene = Scene::new().await;
    let (first, second) = (scene.held.hold("ann", &["bob"]), scene.held.hold("ann", &["bob"]));
    let mut bob = scene.signed_in("bob").await;
    let page = bob.get(&first).await;
    assert_eq!((page.status, page.reason), (200, "approval.shown"));
    for words in [
        "ann",
        "https://app.example/client",
        "send",
        "mail",
        "boss",
        "leave the house",
        "`fetch` of `web`",
        "⟨U+202E⟩",
    ] {
        assert!(page.body.contains(words), "{words}");
    }
    assert!(!page.body.contains("<b>eve"), "what the caller wrote is no markup");
    for (name, value) in
        [("cache-control", "no-store"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
    {
        assert_eq!(page.line(name), value);
    }
    assert!(page.line("content-security-policy").starts_with("default-src 'none'"));
    assert!(!page.body.contains("<script"));
    let form = page.field("form");
    let fields = [("form", form.as_str()), ("decision", "approve")];
    let done = bob.post(&first, &fields).await;
    assert_eq!((done.status, done.reason), (200, "approval.granted"), "{}", done.body);
    assert_eq!(scene.held.standing(&first), Standing::Approved);
    assert_eq!(bob.post(&first, &fields).await.reason, "signin.form-spent");
    assert_eq!(press(&mut bob, &second, "deny").await.reason, "approval.denied");
    assert_eq!(scene.held.standing(&second), Standing::Denied);
    assert_eq!(press(&mut bob, &scene.held.hold("ann", &["bob"]), "maybe").await.reason, "signin.malformed");
}

#[tokio::test]
async fn ep_08_neither_who_asked_nor_somebody_else_decides() {
    let scene = Scene::new().await;
    let path = scene.held.hold("ann", &["bob"]);
    let mut ann = scene.signed_in("ann").await;
    let mut eve = scene.signed_in("eve").await;
    let mut bob = scene.signed_in("bob").await;
    let own = ann.get(&path).await;
    assert_eq!(own.status, 200, "who asked may see how it stands");
    assert!(
        !own.body.contains("name=\"form\"") && own.body.contains("somebody else of the role boss"),
        "{}",
        own.body
    );
    let foreign = eve.get(&path).await;
    assert_eq!((foreign.status, foreign.reason), (403, "approval.role"));
    assert!(
        !foreign.body.contains("send") && !foreign.body.contains("ann"),
        "nothing of it is told: {}",
        foreign.body
    );
    // Not even with the form of somebody who may.
    let form = bob.get(&path).await.field("form");
    for browser in [&mut ann, &mut eve] {
        browser.get("/account").await;
        let got = browser.post(&path, &[("form", &form), ("decision", "approve")]).await;
        assert_eq!((got.status, got.reason), (403, "signin.form-foreign"));
    }
    assert_eq!(scene.held.standing(&path), Standing::Waiting);
    assert_eq!(bob.get("/approvals/00000000000000000000000000000000").await.reason, "approval.unknown");
    assert_eq!(press(&mut bob, &path, "approve").await.status, 200, "and the one who may still can");
}

#[tokio::test]
async fn ep_08_no_other_page_and_no_other_request_gets_a_decision() {
    let scene = Scene::new().await;
    let (path, other) = (scene.held.hold("ann", &["bob"]), scene.held.hold("ann", &["bob"]));
    let mut bob = scene.signed_in("bob").await;
    let form = bob.get(&path).await.field("form");
    let fields = [("form", form.as_str()), ("decision", "approve")];
    for lines in [
        [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
        [("sec-fetch-site", "same-site"), ("origin", "null")],
        [("sec-fetch-site", ""), ("origin", "https://evil.example")],
        [("sec-fetch-site", "same-origin"), ("content-type", "text/plain")],
    ] {
        let got = bob.post_with(&path, &fields, &lines).await;
        assert_eq!((got.status, got.reason), (403, "signin.other-site"), "{lines:?}");
    }
    assert_eq!(bob.post(&other, &fields).await.reason, "signin.form-foreign", "the form of another request");
    for bad in ["", "AAAA"] {
        assert!(matches!(bob.post(&path, &[("form", bad), ("decision", "approve")]).await.status, 400 | 403));
    }
    // Consent given somewhere is no approval.
    let consent = bob.ask("scope=mcp:write").await.field("form");
    let got = bob.post(&path, &[("form", &consent), ("decision", "approve")]).await;
    assert_eq!(got.reason, "signin.form-foreign");
    assert_eq!(bob.send(&Method::PUT, &path, &[], "").await.status, 405);
    let again = bob.get(&path).await.field("form");
    scene.later(600);
    let late = bob.post(&path, &[("form", &again), ("decision", "approve")]).await;
    assert_eq!(late.reason, "signin.form-foreign", "shown too long ago");
    assert_eq!(
        (scene.held.standing(&path), scene.held.standing(&other)),
        (Standing::Waiting, Standing::Waiting)
    );
}

#[tokio::test]
async fn a_browser_without_a_session_signs_in_and_comes_back() {
    let scene = Scene::new().await;
    let path = scene.held.hold("ann", &["bob"]);
    let mut browser = Browser::new(&scene);
    let arrived = browser.get(&path).await;
    assert_eq!((arrived.status, arrived.reason), (200, "approval.arrive"));
    assert!(!arrived.body.contains("send"), "nothing of it is told");
    let csrf = arrived.field("csrf");
    assert_eq!(browser.post(&path, &[("csrf", "AAAA")]).await.reason, "signin.form-foreign");
    let gone = browser.post(&path, &[("csrf", &csrf)]).await;
    let departure = Departure(gone.onward().parse().unwrap());
    scene.vouches(&departure, json!({}), json!({ "sub": "bob" }));
    let back = browser.get(&departure.back("")).await;
    assert_eq!((back.status, back.line("location")), (303, path.as_str()));
    assert_eq!(press(&mut browser, &path, "approve").await.reason, "approval.granted");
    assert_eq!(Browser::new(&scene).get("/approvals").await.line("location"), "/account");
}

/// Whoever comes to decide signs in anew, and a provider that is asked by refresh tokens asks for consent: both in one parameter,
/// which must not come twice (RFC 6749 §3.1).
#[tokio::test]
async fn what_the_provider_shall_ask_for_is_one_parameter() {
    for (recheck, expected) in [
        ("", "login"),
        ("recheck = { by = \"refresh-token\" }", "login consent"),
        ("recheck = { by = \"refresh-token\", prompt_consent = false }", "login"),
    ] {
        let config = format!("{OIDC}\n{recheck}\n");
        let scene = Scene::build_keeping(PUBLIC, Some(&config), None, "s3cret", true).await;
        let scene = scene.map_err(|problems| problems.join("\n")).unwrap();
        let path = scene.held.hold("ann", &["bob"]);
        let mut browser = Browser::new(&scene);
        let csrf = browser.get(&path).await.field("csrf");
        let gone = browser.post(&path, &[("csrf", &csrf)]).await;
        let departure = Departure(gone.onward().parse().unwrap());
        let pairs = departure.0.query_pairs();
        let prompts: Vec<_> = pairs.filter(|(name, _)| name == "prompt").map(|(_, value)| value).collect();
        assert_eq!(prompts, [expected], "{recheck}");
    }
}

/// Signs `subject` in from the page that says to, with a sign-in that says this.
async fn sign_in_again(
    browser: &mut Browser<'_>,
    scene: &Scene,
    page: &Got,
    path: &str,
    claims: Value,
) -> Got {
    let gone = browser.post(path, &[("csrf", &page.field("csrf"))]).await;
    let departure = Departure(gone.onward().parse().unwrap());
    assert_eq!((departure.of("prompt"), departure.of("max_age")), ("login".to_owned(), "900".to_owned()));
    scene.vouches(&departure, json!({}), claims);
    browser.get(&departure.back("")).await
}

#[tokio::test]
async fn ep_08_who_decides_signed_in_a_short_while_ago() {
    let scene = Scene::new().await;
    let path = scene.held.hold("ann", &["bob"]);
    let mut bob = scene.signed_in("bob").await;
    scene.later(900);
    let form = bob.get(&path).await.field("form");
    scene.later(300);
    let late = bob.post(&path, &[("form", &form), ("decision", "approve")]).await;
    assert_eq!((late.status, late.reason), (200, "approval.arrive-again"));
    assert_eq!(scene.held.standing(&path), Standing::Waiting);
    let page = bob.get(&path).await;
    assert_eq!(page.reason, "approval.arrive-again");
    assert!(page.body.contains("too long ago") && !page.body.contains("send"), "{}", page.body);
    let now = NOW + 1200;
    let at = |auth_time: Value| json!({ "sub": "bob", "iat": now, "exp": now + 300, "auth_time": auth_time });
    // A provider that does not ask again, or does not say when it did, is not believed.
    for claims in [at(json!(NOW)), at(Value::Null)] {
        let refused = sign_in_again(&mut bob, &scene, &page, &path, claims).await;
        assert_eq!((refused.status, refused.reason), (403, "provider.not-recent"));
    }
    let back = sign_in_again(&mut bob, &scene, &page, &path, at(json!(now))).await;
    assert_eq!((back.status, back.line("location")), (303, path.as_str()));
    assert_eq!(press(&mut bob, &path, "approve").await.reason, "approval.granted");
}

#[tokio::test]
async fn ep_08_decisions_show_a_second_factor_where_the_operator_wants_one() {
    let mut scene = Scene::new().await;
    scene.signin.session.decision_methods = vec!["hwk".to_owned(), "mfa".to_owned()];
    scene.signin.session.decision_contexts = vec!["strong".to_owned()];
    let path = scene.held.hold("ann", &["bob"]);
    let mut bob = scene.signed_in("bob").await;
    let page = bob.get(&path).await;
    assert!(page.body.contains("second factor") && !page.body.contains("send"), "{}", page.body);
    let gone = bob.post(&path, &[("csrf", &page.field("csrf"))]).await;
    assert_eq!(Departure(gone.onward().parse().unwrap()).of("acr_values"), "strong");
    let weak = json!({ "sub": "bob", "amr": ["pwd"], "acr": "weak" });
    sign_in_again(&mut bob, &scene, &page, &path, weak).await;
    let page = bob.get(&path).await;
    assert_eq!(page.reason, "approval.arrive-again");
    for strong in [json!({ "sub": "bob", "amr": ["pwd", "mfa"] }), json!({ "sub": "bob", "acr": "strong" })] {
        let path = scene.held.hold("ann", &["bob"]);
        let mut bob = scene.signed_in("bob").await;
        let page = bob.get(&path).await;
        sign_in_again(&mut bob, &scene, &page, &path, strong).await;
        assert_eq!(press(&mut bob, &path, "approve").await.reason, "approval.granted");
    }
    assert_eq!(scene.held.standing(&path), Standing::Waiting);
}

#[tokio::test]
async fn ii_03_a_withheld_result_is_released_or_discarded_by_whoever_may() {
    let scene = Scene::new().await;
    let (first, second) = (scene.held.withhold(&["bob"]), scene.held.withhold(&["bob"]));
    let mut bob = scene.signed_in("bob").await;
    assert!(bob.get("/account").await.body.contains("2 withheld results wait"));
    let listed = bob.get("/quarantine").await;
    assert_eq!((listed.status, listed.reason), (200, "quarantine.listed"));
    assert!(listed.body.contains(&first) && listed.body.contains(&second), "{}", listed.body);
    let page = bob.get(&first).await;
    for words in ["ann", "fetch", "web", "injection.override", "⟨U+202E⟩", "77 bytes more"] {
        assert!(page.body.contains(words), "{words}");
    }
    assert!(!page.body.contains("<img"), "what the server sent is no markup");
    assert!(page.line("content-security-policy").starts_with("default-src 'none'"));
    // Neither another browser, nor the form of another result, nor one of a call, nor twice.
    let (form, other) = (page.field("form"), bob.get(&second).await.field("form"));
    let mut eve = scene.signed_in("eve").await;
    assert_eq!(eve.get(&first).await.reason, "approval.role");
    assert_eq!(
        eve.post(&first, &[("form", &form), ("decision", "release")]).await.reason,
        "signin.form-foreign"
    );
    let call = scene.held.hold("ann", &["bob"]);
    let of_call = bob.get(&call).await.field("form");
    for (path, form) in [(&first, &other), (&first, &of_call), (&call, &form)] {
        for button in ["release", "approve"] {
            let got = bob.post(path, &[("form", form), ("decision", button)]).await;
            assert_eq!(got.reason, "signin.form-foreign");
        }
    }
    let fields = [("form", form.as_str()), ("decision", "release")];
    let foreign = bob.post_with(&first, &fields, &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(foreign.reason, "signin.other-site");
    assert!(scene.held.1.lock().unwrap().iter().all(|(one, _)| !one.is_released));
    assert_eq!(bob.post(&first, &fields).await.reason, "quarantine.released");
    assert_eq!(bob.post(&first, &fields).await.reason, "signin.form-spent");
    assert_eq!(press(&mut bob, &second, "discard").await.reason, "quarantine.discarded");
    assert_eq!(bob.get(&second).await.reason, "approval.unknown");
    assert_eq!(bob.send(&Method::PUT, &first, &[], "").await.status, 405);
}

#[tokio::test]
async fn ii_03_who_releases_signed_in_a_short_while_ago() {
    let scene = Scene::new().await;
    let path = scene.held.withhold(&["bob"]);
    let mut bob = scene.signed_in("bob").await;
    scene.later(1200);
    for path in [path.as_str(), "/quarantine"] {
        let page = bob.get(path).await;
        assert_eq!(page.reason, "approval.arrive-again");
        assert!(!page.body.contains("fetch"), "{}", page.body);
    }
    let now = NOW + 1200;
    let claims = json!({ "sub": "bob", "iat": now, "exp": now + 300, "auth_time": now });
    let page = bob.get("/quarantine").await;
    let back = sign_in_again(&mut bob, &scene, &page, "/quarantine", claims).await;
    assert_eq!((back.status, back.line("location")), (303, "/quarantine"));
    assert_eq!(press(&mut bob, &path, "release").await.reason, "quarantine.released");
}

#[tokio::test]
async fn who_owns_a_window_forgets_what_has_entered_it() {
    let scene = Scene::new().await;
    let mut ann = scene.signed_in("ann").await;
    assert!(!ann.get("/account").await.body.contains("reset-flow"));
    scene.held.2.lock().unwrap().extend(["agent".to_owned(), "other".to_owned()]);
    let page = ann.get("/account").await;
    assert!(page.body.contains("untrusted: fetch of web") && page.body.contains("They have met"));
    let csrf = page.field("csrf");
    let fields = [("csrf", csrf.as_str()), ("action", "reset-flow"), ("client", "agent")];
    let foreign = ann.post_with("/account", &fields, &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(foreign.reason, "signin.other-site");
    assert_eq!(ann.post("/account", &fields).await.reason, "account.flow-reset");
    assert_eq!(*scene.held.2.lock().unwrap(), ["other"]);
    assert_eq!(ann.post("/account", &fields).await.reason, "approval.unknown");
    // Later the one who is there signs in first.
    scene.later(1200);
    let fields = [("csrf", csrf.as_str()), ("action", "reset-flow"), ("client", "other")];
    let gone = ann.post("/account", &fields).await;
    let departure = Departure(gone.onward().parse().unwrap());
    assert_eq!(departure.of("prompt"), "login");
    assert_eq!(*scene.held.2.lock().unwrap(), ["other"]);
}

#[tokio::test]
async fn what_waits_is_listed_and_said_on_ones_own_page() {
    let scene = Scene::new().await;
    let mut bob = scene.signed_in("bob").await;
    assert!(bob.get("/approvals").await.body.contains("None."));
    assert!(!bob.get("/account").await.body.contains("/approvals"));
    let path = scene.held.hold("ann", &["bob"]);
    scene.held.hold("ann", &["carol"]);
    let listed = bob.get("/approvals").await;
    assert_eq!(listed.body.matches("/approvals/").count(), 1, "{}", listed.body);
    assert!(listed.body.contains(&path));
    assert!(bob.get("/account").await.body.contains("1 call waits"));
}

#[tokio::test]
async fn on_a_laptop_the_owner_signs_in_by_the_link_and_goes_on() {
    let scene = Scene::local().await;
    let path = scene.held.hold("owner", &["owner"]);
    let mut owner = Browser::new(&scene);
    assert!(owner.get(&path).await.body.contains("bartizan login"));
    assert_eq!(owner.post(&path, &[("csrf", "x")]).await.reason, "signin.not-signed-in");
    let link = scene.signin.mint_link().await.unwrap();
    let link = owner.get(link.reveal().trim_start_matches("http://127.0.0.1:8931")).await;
    let done = owner.post("/oauth/sign-in", &[("link", &link.field("link"))]).await;
    assert!(done.body.contains(&path), "{}", done.body);
    assert_eq!(press(&mut owner, &path, "approve").await.reason, "approval.granted");
}
