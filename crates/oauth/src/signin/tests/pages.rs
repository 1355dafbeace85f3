//! Every page with sample contents, kept as a snapshot, and written out to be looked at.

use std::fs;

use askama::Template;
use proptest::prelude::*;
use serde_json::json;

use super::scene::{Browser, OIDC, PUBLIC, Scene, described};
use crate::{
    facade::{Application, AuthorizationRequest, Person},
    signin::{
        Held,
        pages::{Consent, Decision, Onward},
    },
};

/// Every page there is, by name.
async fn all() -> Vec<(&'static str, String)> {
    let scene = Scene::with(PUBLIC, Some(OIDC), None).await;
    let mut browser = Browser::new(&scene);
    let mut pages = vec![("consent", browser.ask("scope=mcp:read+mcp:write").await.body)];
    let strange = "name=Editor&host=&scope=mcp:read+files:own&resource=https://gate.example/mcp\
                   &redirect_uri=http://127.0.0.1:49152/oauth/callback&client=reg-1";
    pages.push(("consent-loopback", browser.ask(strange).await.body));
    pages.push((
        "onward",
        browser.decide("", "allow").await.body.replace("http-equiv=\"refresh\"", "name=\"onward\""),
    ));
    pages.push(("arrive", browser.get("/account").await.body));
    pages.push(("over", browser.get("/oauth/callback?state=x").await.body));
    pages.push(("unknown-client", browser.ask("client=unknown").await.body));
    for query in [
        "scope=mcp:read+mcp:write",
        "resource=https://gate.example/mcp",
        "client=https://other.example/a&name=Other+editor",
    ] {
        let departure = browser.allow(query).await;
        scene.vouches(&departure, json!({}), json!({}));
        browser.get(&departure.back("")).await;
    }
    pages.push(("account", browser.get("/account").await.body));
    let held = scene.held.hold("bob", &["ann"]);
    pages.push(("decision", browser.get(&held).await.body));
    pages.push(("release", browser.get(&scene.held.withhold(&["ann"])).await.body));
    pages.push(("withheld", browser.get("/quarantine").await.body));
    scene.held.2.lock().unwrap().push("agent".to_owned());
    pages.push(("account-windows", browser.get("/account").await.body));
    pages.push(("waiting", browser.get("/approvals").await.body));
    pages.push(("account-waiting", browser.get("/account").await.body));
    pages.push(("decision-own", browser.get(&scene.held.hold("ann", &[])).await.body));
    pages.push(("arrive-to-decide", Browser::new(&scene).get(&held).await.body));
    pages.push(("consent-signed-in", browser.ask("scope=mcp:own").await.body));
    let local = Scene::local().await;
    let mut owner = Browser::new(&local);
    pages.push(("wait", owner.ask(strange).await.body));
    pages.push(("arrive-local", owner.get("/account").await.body));
    let link = local.signin.mint_link().await.unwrap();
    let link = owner.get(link.reveal().trim_start_matches("http://127.0.0.1:8931")).await;
    let done = owner.post("/oauth/sign-in", &[("link", &link.field("link"))]).await;
    pages.push(("link", link.body));
    pages.push(("signed-in", done.body));
    pages.push(("account-local", owner.get("/account").await.body));
    pages
}

#[tokio::test]
async fn every_page_says_where_it_is_and_can_be_walked_by_ear() {
    for (name, page) in all().await {
        assert_eq!(page.matches("<h1>").count(), 1, "{name}: one heading leads");
        assert_eq!(page.matches("<main>").count(), 1, "{name}");
        assert!(page.contains("<html lang=\"en\">") && page.contains("name=\"viewport\""), "{name}");
        let title = page.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap();
        assert!(title.ends_with(" · Bartizan") && title.len() > " · Bartizan".len(), "{name}: {title}");
        for id in page.split("aria-labelledby=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(page.contains(&format!("id=\"{id}\"")), "{name}: {id} labels something");
        }
    }
}

#[tokio::test]
async fn the_pages_are_as_they_were_looked_at() {
    for name in ["consent", "consent-loopback", "account", "wait", "decision"] {
        let page = all().await.into_iter().find(|(named, _)| *named == name).unwrap().1;
        // What is sealed differs from key to key, and says nothing here.
        let shown: Vec<_> = page
            .lines()
            .filter(|line| !line.contains("type=\"hidden\"") && !line.trim().is_empty())
            .collect();
        insta::assert_snapshot!(name, shown.join("\n"));
    }
}

/// The consent page for a client that says this of itself.
fn consent(id: &str, name: &str, redirect_uri: &str, scope: &str, resource: &str) -> String {
    let request = AuthorizationRequest {
        client: Application {
            id: id.to_owned(),
            name: name.to_owned(),
            verified_host: None,
            is_preregistered: false,
            metadata: String::new(),
            only_loopback: true,
        },
        redirect_uri: redirect_uri.to_owned(),
        scopes: vec![scope.to_owned()],
        resource: resource.to_owned(),
        state: None,
        code_challenge: String::new(),
        dpop_jkt: None,
        max_age_s: None,
        contexts: Vec::new(),
        claims: None,
    };
    Consent::new(&request, described().first(), None, None, "sealed".to_owned()).render().unwrap()
}

fn ann() -> Person {
    Person { subject: "ann".to_owned(), ..crate::signin::owner(bartizan_model::Timestamp::from_unix(0)) }
}

fn held() -> Held {
    let calls = super::scene::HeldCalls::default();
    calls.hold("bob", &["ann"]);
    calls.0.into_inner().unwrap().remove(0).0
}

proptest! {
    #[test]
    fn cd_05_no_client_adds_a_tag_an_attribute_or_a_hidden_letter(
        id in ".*", name in ".*", redirect_uri in ".*", scope in ".*", resource in ".*",
    ) {
        let plain = consent("id", "name", "uri", "scope", "resource");
        let page = consent(&id, &name, &redirect_uri, &scope, &resource);
        for mark in ['<', '>', '"'] {
            prop_assert_eq!(page.matches(mark).count(), plain.matches(mark).count(), "{}", mark);
        }
        prop_assert!(!page.contains(['\u{202e}', '\u{200b}', '\u{2066}', '\0', '\r']), "{}", page);
        let decision = |text: &str| {
            // Nothing at all is shown otherwise.
            let text = format!("x{text}");
            let text = text.as_str();
            let held = Held { asker: text.into(), tool: text.into(), arguments: text.into(), because: text.into(),
                policies: vec![text.into()], found: vec![text.into()], ..held() };
            Decision::new(&held, &ann(), held.asked_at, "sealed").render().unwrap()
        };
        for mark in ['<', '>', '"'] {
            prop_assert_eq!(decision(&name).matches(mark).count(), decision("x").matches(mark).count(), "{}", mark);
        }
        let onward = Onward::new(&redirect_uri, "a").render().unwrap();
        let plain = Onward::new("uri", "a").render().unwrap();
        prop_assert_eq!(onward.matches('"').count(), plain.matches('"').count());
    }
}

/// Writes the pages and their stylesheet to `target/pages`, to be looked at in a browser.
#[tokio::test]
#[ignore = "for eyes"]
async fn write_the_pages_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/pages");
    fs::create_dir_all(folder).unwrap();
    fs::write(format!("{folder}/style.css"), crate::signin::pages::STYLE).unwrap();
    for (name, page) in all().await {
        fs::write(format!("{folder}/{name}.html"), page.replace("/oauth/style.css", "style.css")).unwrap();
    }
}
