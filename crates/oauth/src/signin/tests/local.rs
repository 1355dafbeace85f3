//! The owner of the machine signs in by a link (attacks.md CD-02, CD-09, CD-14; SH-14).

use http::Method;

use super::scene::{Browser, Scene};

const QUERY: &str = "redirect_uri=http://127.0.0.1:4711/cb&name=Editor";

/// The link as it is opened: its path and query.
async fn link(scene: &Scene) -> String {
    let link = scene.signin.mint_link().await.unwrap();
    link.reveal().strip_prefix("http://127.0.0.1:8931").expect("on this gate").to_owned()
}

async fn sign_in(scene: &Scene, browser: &mut Browser<'_>) {
    let page = browser.get(&link(scene).await).await;
    assert_eq!((page.status, page.reason), (200, "signin.link-shown"));
    let done = browser.post("/oauth/sign-in", &[("link", &page.field("link"))]).await;
    assert_eq!((done.status, done.reason), (200, "signin.done"));
}

#[tokio::test]
async fn the_owner_signs_in_looks_and_allows() {
    let scene = Scene::local().await;
    let mut browser = Browser::new(&scene);
    let wait = browser.ask(QUERY).await;
    assert_eq!((wait.status, wait.reason), (200, "signin.owner-needed"));
    assert!(wait.body.contains("bartizan login") && wait.body.contains("Editor"));
    assert_eq!(wait.sets(), ["bartizan-8931-form"], "no prefix, and the port in the name");

    let page = browser.get(&link(&scene).await).await;
    let done = browser.post("/oauth/sign-in", &[("link", &page.field("link"))]).await;
    assert!(
        done.body.contains("Editor") && done.body.contains("/oauth/authorize?redirect_uri="),
        "{}",
        done.body
    );
    assert_eq!(done.sets(), ["bartizan-8931-session"]);

    let granted = browser.decide(QUERY, "allow").await;
    assert_eq!((granted.status, granted.reason), (200, "consent.granted"));
    assert_eq!(granted.onward(), "http://127.0.0.1:4711/cb?code=granted");
    let all = scene.desk.granted.lock().unwrap();
    assert_eq!((all[0].1.issuer.as_str(), all[0].1.subject.as_str()), ("local", "owner"));
    assert_eq!(scene.asked_of_provider(), 0);
}

#[tokio::test]
async fn nobody_waits_for_what_a_page_loads_as_a_picture() {
    let scene = Scene::local().await;
    for (mode, waits) in [("no-cors", false), ("cors", false), ("navigate", true)] {
        let mut browser = Browser::new(&scene);
        let address = format!("/oauth/authorize?{QUERY}");
        let answer = browser.send(&Method::GET, &address, &[("sec-fetch-mode", mode)], "").await;
        assert_eq!(answer.status, if waits { 200 } else { 403 }, "{mode}");
        let page = browser.get(&link(&scene).await).await;
        let done = browser.post("/oauth/sign-in", &[("link", &page.field("link"))]).await;
        assert_eq!(done.body.contains("is waiting for your decision"), waits, "{mode}");
    }
}

#[tokio::test]
async fn looking_at_a_link_does_not_use_it_and_sending_it_does() {
    let scene = Scene::local().await;
    let mut browser = Browser::new(&scene);
    let address = link(&scene).await;
    for _ in 0..3 {
        let page = browser.get(&address).await;
        assert_eq!((page.status, page.sets().len()), (200, 0));
        assert_eq!(page.line("referrer-policy"), "no-referrer");
    }
    browser.send(&Method::HEAD, &address, &[], "").await;
    let token = address.split('=').nth(1).unwrap();
    let fields = [("link", token)];
    let cross = browser.post_with("/oauth/sign-in", &fields, &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(cross.reason, "signin.other-site");
    assert_eq!(browser.post("/oauth/sign-in", &fields).await.reason, "signin.done");
    let mut other = Browser::new(&scene);
    assert_eq!(other.get(&address).await.reason, "signin.link-unknown");
    let again = other.post("/oauth/sign-in", &fields).await;
    assert_eq!((again.status, again.reason, again.sets().len()), (400, "signin.link-unknown", 0));
    for nonsense in ["/oauth/sign-in", "/oauth/sign-in?link=", "/oauth/sign-in?link=x"] {
        assert_eq!(other.get(nonsense).await.reason, "signin.link-unknown");
    }
}

#[tokio::test]
async fn a_link_works_for_ten_minutes() {
    let scene = Scene::local().await;
    let mut browser = Browser::new(&scene);
    let (early, late) = (link(&scene).await, link(&scene).await);
    assert_ne!(early, late);
    scene.later(599);
    assert_eq!(browser.get(&early).await.status, 200);
    scene.later(1);
    assert_eq!(browser.get(&late).await.reason, "signin.link-unknown");
    let token = late.split('=').nth(1).unwrap();
    assert_eq!(browser.post("/oauth/sign-in", &[("link", token)]).await.reason, "signin.link-unknown");
}

#[tokio::test]
async fn nobody_grants_anything_without_being_the_owner() {
    let scene = Scene::local().await;
    let mut owner = Browser::new(&scene);
    sign_in(&scene, &mut owner).await;
    let form = owner.ask(QUERY).await.field("form");
    let fields = [("form", form.as_str()), ("decision", "allow")];
    let mut stranger = Browser::new(&scene);
    stranger.ask(QUERY).await;
    assert_eq!(stranger.post("/oauth/consent", &fields).await.reason, "signin.form-foreign");
    owner.cookies.remove("bartizan-8931-session");
    assert_eq!(owner.post("/oauth/consent", &fields).await.reason, "signin.form-foreign");
    assert_eq!(scene.granted(), 0);
}

#[tokio::test]
async fn the_owner_is_asked_each_time_what_comes_back_on_loopback() {
    let scene = Scene::local().await;
    let mut owner = Browser::new(&scene);
    sign_in(&scene, &mut owner).await;
    for _ in 0..2 {
        assert_eq!(owner.decide(QUERY, "allow").await.reason, "consent.granted");
    }
    assert_eq!(scene.granted(), 2);
    let denied = owner.decide(QUERY, "deny").await;
    assert_eq!(denied.onward(), "http://127.0.0.1:4711/cb?error=access_denied");
    // Each start of a program has another port; the list knows it once.
    owner.decide("redirect_uri=http://127.0.0.1:4712/cb&name=Editor", "allow").await;
    assert_eq!(owner.get("/account").await.body.matches("answers to").count(), 1);
}

#[tokio::test]
async fn an_owner_who_signed_in_long_ago_signs_in_again_where_a_client_cares() {
    let scene = Scene::local().await;
    let mut owner = Browser::new(&scene);
    sign_in(&scene, &mut owner).await;
    scene.later(3600);
    assert!(owner.ask(QUERY).await.is_consent_page());
    let query = format!("{QUERY}&max_age=300");
    assert_eq!(owner.ask(&query).await.reason, "signin.owner-needed");
    sign_in(&scene, &mut owner).await;
    assert!(owner.ask(&query).await.is_consent_page());
}

#[tokio::test]
async fn a_browser_of_another_port_of_this_host_is_another() {
    let scene = Scene::local().await;
    let mut browser = Browser::new(&scene);
    sign_in(&scene, &mut browser).await;
    let session = browser.cookies.remove("bartizan-8931-session").unwrap();
    browser.cookies.insert("bartizan-8932-session".into(), session.clone());
    browser.cookies.insert("__Host-bartizan-session".into(), session);
    assert_eq!(browser.ask(QUERY).await.reason, "signin.owner-needed");
}
