//! One's own page.

use super::scene::{Browser, Departure, Scene};
use serde_json::json;

async fn act(browser: &mut Browser<'_>, fields: &[(&str, &str)]) -> super::scene::Got {
    let csrf = browser.get("/account").await.field("csrf");
    let mut all = vec![("csrf", csrf.as_str())];
    all.extend(fields);
    browser.post("/account", &all).await
}

#[tokio::test]
async fn one_sees_what_one_allowed_and_takes_it_back() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    let page = browser.get("/account").await;
    for words in ["Ann Example", "Notes", "https://app.example/client", "read what is there", "2027-01-15"] {
        assert!(page.body.contains(words), "{words}");
    }
    let gone = act(&mut browser, &[("action", "revoke"), ("client", "https://app.example/client")]).await;
    assert_eq!((gone.status, gone.line("location"), gone.reason), (303, "/account", "consent.withdrawn"));
    assert!(browser.get("/account").await.body.contains("None."));
    assert!(browser.ask("").await.is_consent_page(), "it is asked about anew");
    let withdrawn = scene.desk.withdrawn.lock().unwrap().clone();
    let expected = ("https://idp.example".into(), "ann".into(), "https://app.example/client".into());
    assert_eq!(withdrawn, [expected], "its grants ended too");
}

#[tokio::test]
async fn only_ones_own_page_acts_and_only_for_oneself() {
    let scene = Scene::new().await;
    let mut ann = scene.signed_in("ann").await;
    let mut bob = scene.signed_in("bob").await;
    let csrf = ann.get("/account").await.field("csrf");
    let revoke = |csrf: &str| {
        vec![
            ("csrf".to_owned(), csrf.to_owned()),
            ("action".to_owned(), "revoke".to_owned()),
            ("client".to_owned(), "https://app.example/client".to_owned()),
        ]
    };
    let sent = |fields: &[(String, String)]| fields.to_vec();
    for bad in ["", "AAAA", csrf.as_str()] {
        let fields = sent(&revoke(bad));
        let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert!(matches!(bob.post("/account", &fields).await.status, 400 | 403), "{bad}");
    }
    let fields = sent(&revoke(&csrf));
    let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let cross = ann.post_with("/account", &fields, &[("sec-fetch-site", "same-site")]).await;
    assert_eq!(cross.reason, "signin.other-site");
    // Bob takes back his; Ann's stays.
    act(&mut bob, &[("action", "revoke"), ("client", "https://app.example/client")]).await;
    assert_eq!(ann.ask("").await.status, 303);
    assert_eq!(act(&mut ann, &[("action", "drop-tables")]).await.status, 400);
}

#[tokio::test]
async fn signing_out_ends_the_session_and_not_only_the_cookie() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    let kept = browser.cookies.clone();
    let out = act(&mut browser, &[("action", "sign-out")]).await;
    assert_eq!((out.status, out.reason), (200, "signin.signed-out"));
    assert!(!browser.cookies.contains_key("__Host-bartizan-session"));
    browser.cookies = kept;
    assert_eq!(browser.get("/account").await.reason, "account.arrive");
    assert!(browser.ask("").await.is_consent_page());

    let (mut here, mut there) = (scene.signed_in("ann").await, scene.signed_in("ann").await);
    let mut bob = scene.signed_in("bob").await;
    act(&mut here, &[("action", "sign-out-everywhere")]).await;
    assert_eq!(there.get("/account").await.reason, "account.arrive");
    assert_eq!(bob.get("/account").await.reason, "account.shown");
}

/// Who signed in where nobody does any more is nobody.
#[tokio::test]
async fn a_session_of_a_provider_that_is_gone_is_none() {
    let mut scene = Scene::new().await;
    let cookies = scene.signed_in("ann").await.cookies.clone();
    let came_back = async |scene: &Scene| {
        let mut browser = Browser::new(scene);
        browser.cookies.clone_from(&cookies);
        browser.get("/account").await.reason
    };
    assert_eq!(came_back(&scene).await, "account.shown");
    scene.signin.way = super::super::Way::Local;
    assert_eq!(came_back(&scene).await, "account.arrive");
}

#[tokio::test]
async fn one_signs_in_from_the_page_itself() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let arrived = browser.get("/account").await;
    assert_eq!(arrived.sets(), ["__Host-bartizan-form"]);
    let left = act(&mut browser, &[("action", "sign-in")]).await;
    let departure = Departure(left.onward().parse().unwrap());
    scene.vouches(&departure, json!({}), json!({}));
    let back = browser.get(&departure.back("")).await;
    assert_eq!((back.status, back.line("location"), back.reason), (303, "/account", "signin.done"));
    assert_eq!(browser.get("/account").await.reason, "account.shown");
    assert_eq!(scene.granted(), 0);
    let csrf = [("csrf", "AAAA"), ("action", "sign-in")];
    assert_eq!(Browser::new(&scene).post("/account", &csrf).await.reason, "signin.form-foreign");
}

#[tokio::test]
async fn a_sign_in_changes_the_session_and_ends_the_old_one() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    let old = browser.cookies.clone();
    let departure = Departure(browser.ask("").await.onward().parse().unwrap());
    scene.vouches(&departure, json!({}), json!({}));
    browser.get(&departure.back("")).await;
    assert_ne!(browser.cookies["__Host-bartizan-session"], old["__Host-bartizan-session"]);
    let mut thief = Browser::new(&scene);
    thief.cookies = old;
    assert_eq!(thief.get("/account").await.reason, "account.arrive");
    // A session somebody planted before the sign-in is nobody's after it.
    let mut victim = Browser::new(&scene);
    victim.cookies.insert("__Host-bartizan-session".into(), "P".repeat(43));
    let departure = victim.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    victim.get(&departure.back("")).await;
    assert_ne!(victim.cookies["__Host-bartizan-session"], "P".repeat(43));
}

#[tokio::test]
async fn a_session_ends_when_nobody_comes_and_in_any_case() {
    let scene = Scene::new().await;
    let mut browser = scene.signed_in("ann").await;
    scene.later(12 * 3600);
    assert_eq!(browser.get("/account").await.reason, "account.arrive");
    let mut visitor = Browser::new(&scene);
    let departure = visitor.allow("").await;
    let now = bartizan_model::Clock::now(&*scene.clock).as_unix();
    scene.vouches(&departure, json!({}), json!({ "iat": now, "exp": now + 300 }));
    visitor.get(&departure.back("")).await;
    for _ in 0..15 {
        assert_eq!(visitor.get("/account").await.reason, "account.shown");
        scene.later(11 * 3600);
    }
    scene.later(4 * 3600);
    assert_eq!(visitor.get("/account").await.reason, "account.arrive", "seven days are over");
    scene.signin.sweep().await.unwrap();
}
