//! What is on record of people, and that nobody is let in who is not.

use serde_json::json;

use super::scene::{Browser, SERVER, Scene};
use crate::Deed;

const CLIENT: &str = "https://app.example/client";

#[tokio::test]
async fn what_a_person_decides_is_told_in_order_and_with_what_it_was_about() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    browser.get(&departure.back("")).await;
    let told = scene.notebook.read();
    let seen: Vec<_> = told.iter().map(|report| (report.deed, report.reason)).collect();
    assert_eq!(
        seen,
        [
            (Deed::ConsentAsked, "consent.asked"),
            (Deed::SignedIn, "signin.provider"),
            (Deed::ConsentGranted, "consent.granted"),
        ]
    );
    for report in [&told[0], &told[2]] {
        assert_eq!((report.client.as_deref(), report.resource.as_deref()), (Some(CLIENT), Some(SERVER)));
        assert_eq!(report.redirect_uri.as_deref(), Some("https://app.example/cb"));
        assert_eq!(report.scopes, ["mcp:read"]);
    }
    let ann = Some(("https://idp.example".to_owned(), "ann".to_owned()));
    assert_eq!((&told[0].person, &told[1].person, &told[2].person), (&None, &ann, &ann));
    assert!(told.iter().all(|report| report.address.is_some()));

    // Remembered consent is no new one.
    let again = browser.ask("").await;
    let departure = super::scene::Departure(again.onward().parse().unwrap());
    scene.vouches(&departure, json!({}), json!({}));
    browser.get(&departure.back("")).await;
    assert_eq!(scene.notebook.deeds(), [(Deed::SignedIn, "signin.provider")]);

    browser.decide("scope=mcp:write", "deny").await;
    let told = scene.notebook.read();
    assert_eq!(told[1].deed, Deed::ConsentDenied);
    assert_eq!(told[1].person, ann);
    let page = browser.get("/account").await;
    let csrf = page.field("csrf");
    browser.post("/account", &[("csrf", &csrf), ("action", "revoke"), ("client", CLIENT)]).await;
    browser.post("/account", &[("csrf", &csrf), ("action", "sign-out")]).await;
    let told = scene.notebook.read();
    let seen: Vec<_> = told.iter().map(|report| (report.deed, report.person.clone())).collect();
    assert_eq!(seen, [(Deed::ConsentWithdrawn, ann.clone()), (Deed::SignedOut, ann)]);
    assert_eq!(told[0].client.as_deref(), Some(CLIENT));
}

#[tokio::test]
async fn refusals_of_people_are_told_without_what_they_showed() {
    let scene = Scene::new().await;
    let (mut attacker, mut victim) = (Browser::new(&scene), Browser::new(&scene));
    let departure = attacker.allow("").await;
    scene.notebook.read();
    victim.get(&departure.back("")).await;
    attacker.get(&departure.back("")).await;
    let page = attacker.ask("").await;
    let form = [("form", page.field("form")), ("decision", "allow".to_owned())];
    let form: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    attacker.post_with("/oauth/consent", &form, &[("sec-fetch-site", "cross-site")]).await;
    let departure = attacker.allow("").await;
    scene.vouches(&departure, json!({}), json!({ "nonce": "another" }));
    attacker.get(&departure.back("")).await;
    let told = scene.notebook.read();
    let refused: Vec<_> =
        told.iter().filter(|report| report.deed == Deed::SignInRefused).map(|report| report.reason).collect();
    assert_eq!(
        refused,
        ["signin.state-foreign", "signin.state-unknown", "signin.other-site", "provider.nonce"]
    );
    let all = format!("{told:?}");
    for secret in [departure.of("state"), departure.of("nonce"), page.field("form")] {
        assert!(!all.contains(&secret), "{all}");
    }
    for cookie in attacker.cookies.values() {
        assert!(!all.contains(cookie), "{all}");
    }
}

#[tokio::test]
async fn nobody_is_signed_in_and_nothing_granted_that_is_not_on_record() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    scene.notebook.fill(true);
    let got = browser.get(&departure.back("")).await;
    assert_eq!((got.status, got.reason), (503, "audit.unavailable"));
    assert_eq!(scene.granted(), 0);
    assert!(!browser.cookies.contains_key("__Host-bartizan-session"));
    scene.notebook.fill(false);
    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
}
