//! Whether somebody who signed in is still somebody at an OpenID provider (spec.md F-37, B-51).

use std::sync::Arc;

use bartizan_model::{Secret, SeededEntropy};
use bartizan_store::{ProviderTokens, provider_tokens::SignIn};
use serde_json::json;

use super::scene::{Browser, ISSUER, OIDC, PUBLIC, Scene};
use crate::{
    facade::{Directory, DirectoryUnavailable, Person, Standing},
    outbound::{Assertions, EntraMeans},
    signin::{ProviderConfig, Recheck},
    tests::scene::{NOW, SharedNet},
};

const TOKENS: &str = "https://idp.example/token";
const USERINFO: &str = "https://idp.example/userinfo";

fn config(recheck: &str) -> String {
    format!("{OIDC}\nrecheck = {{ {recheck} }}\n")
}

/// A scene in which Ann has signed in, the person it made of her, and the provider as her directory.
async fn signed_in(recheck: &str) -> (Scene, Person, Recheck) {
    let config = config(recheck);
    let scene = Scene::build_keeping(PUBLIC, Some(&config), None, "s3cret", true).await;
    let scene = scene.map_err(|problems| problems.join("\n")).unwrap();
    let mut browser = Browser::new(&scene);
    let departure = browser.allow("").await;
    let by_refreshing = recheck.contains("refresh-token");
    assert_eq!(departure.of("scope").contains("offline_access"), by_refreshing);
    let asks = by_refreshing && !recheck.contains("prompt_consent = false");
    assert_eq!(departure.find("prompt").as_deref(), asks.then_some("consent"));
    let claims = scene.claims(&departure);
    let token = scene.signer.token(&json!({ "alg": "EdDSA", "kid": "k1", "typ": "JWT" }), &claims);
    scene.net.says(TOKENS, 200, answer("access-1", "refresh-1", Some(&token)));
    assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
    let person = scene.desk.granted.lock().unwrap().last().unwrap().1.clone();
    drop(browser);
    let Ok(ProviderConfig::Oidc(oidc)) = toml::from_str(&config) else { panic!("it is one of OpenID") };
    let means = EntraMeans {
        fetch: Arc::new(SharedNet(Arc::clone(&scene.net))),
        secret: Arc::new(|_| Ok(Secret::new("s3cret".to_owned()))),
        clock: scene.clock.clone(),
        entropy: Arc::new(SeededEntropy::new(2)),
    };
    let assertions = Assertions::new(scene.left.clone(), scene.clock.clone());
    let directory = Recheck::new(&oidc, assertions, means).unwrap();
    (scene, person, directory)
}

fn answer(access: &str, refresh: &str, id_token: Option<&str>) -> serde_json::Value {
    let mut answer = json!({
        "token_type": "Bearer", "access_token": access, "refresh_token": refresh, "expires_in": 600,
    });
    if let Some(token) = id_token {
        answer["id_token"] = token.into();
    }
    answer
}

async fn left(scene: &Scene, person: &Person) -> Option<String> {
    let sign_in = SignIn {
        issuer: person.issuer.clone(),
        subject: person.subject.clone(),
        id: person.sign_in.clone().unwrap(),
    };
    scene.left.of(&sign_in).await.unwrap().map(|kept| kept.content.reveal().to_owned())
}

#[tokio::test]
async fn f_37_a_refresh_token_that_the_provider_refuses_ends_the_sign_in() {
    let (scene, ann, directory) = signed_in("by = \"refresh-token\"").await;
    assert!(left(&scene, &ann).await.unwrap().contains("refresh-1"));
    scene.net.says(TOKENS, 200, answer("access-2", "refresh-2", None));
    assert_eq!(directory.standing(&ann).await, Ok(Standing::Active), "though its access token is good still");
    let sent = scene.net.posted.lock().unwrap().last().unwrap().clone();
    assert!(sent.1.contains("grant_type=refresh_token&refresh_token=refresh-1"), "{}", sent.1);
    assert!(left(&scene, &ann).await.unwrap().contains("refresh-2"), "the newer one is kept");

    let other = Person { issuer: "https://other.example".to_owned(), ..ann.clone() };
    assert_eq!(directory.standing(&other).await, Ok(Standing::Active), "somebody else's people");
    let older = Person { sign_in: None, ..ann.clone() };
    assert_eq!(directory.standing(&older).await, Ok(Standing::SignInOver), "there is nothing to ask by");

    scene.net.says(TOKENS, 503, "");
    assert_eq!(directory.standing(&ann).await, Err(DirectoryUnavailable), "no answer is no word against her");
    assert!(left(&scene, &ann).await.is_some());
    scene.net.says(TOKENS, 400, json!({ "error": "invalid_client" }));
    assert_eq!(directory.standing(&ann).await, Err(DirectoryUnavailable), "it is the gate that is refused");
    scene.net.says(TOKENS, 400, json!({ "error": "invalid_grant" }));
    assert_eq!(directory.standing(&ann).await, Ok(Standing::SignInOver));
    assert_eq!(left(&scene, &ann).await, None);
    scene.net.says(TOKENS, 200, answer("access-3", "refresh-3", None));
    assert_eq!(directory.standing(&ann).await, Ok(Standing::SignInOver), "for good");
}

#[tokio::test]
async fn an_id_token_about_somebody_else_vouches_for_nobody() {
    let (scene, ann, directory) = signed_in("by = \"refresh-token\", prompt_consent = false").await;
    let claims =
        |subject: &str| json!({ "iss": ISSUER, "aud": "gate", "sub": subject, "iat": NOW, "exp": NOW + 60 });
    let header = json!({ "alg": "EdDSA", "kid": "k1" });
    for (token, standing) in [
        (scene.signer.token(&header, &claims("bob")), Err(DirectoryUnavailable)),
        ("not.a.token".to_owned(), Err(DirectoryUnavailable)),
        (scene.signer.token(&header, &claims("ann")), Ok(Standing::Active)),
    ] {
        scene.net.says(TOKENS, 200, answer("access-2", "refresh-2", Some(&token)));
        assert_eq!(directory.standing(&ann).await, standing, "{token}");
    }
}

#[tokio::test]
async fn silence_is_borne_with_for_as_long_as_the_operator_says() {
    let (scene, ann, directory) = signed_in("by = \"refresh-token\", grace_s = 300").await;
    scene.net.says(TOKENS, 503, "");
    scene.later(300);
    assert_eq!(directory.standing(&ann).await, Ok(Standing::Active));
    scene.later(1);
    assert_eq!(directory.standing(&ann).await, Err(DirectoryUnavailable));
    scene.net.says(TOKENS, 200, answer("access-2", "refresh-2", None));
    assert_eq!(directory.standing(&ann).await, Ok(Standing::Active));
    scene.net.says(TOKENS, 503, "");
    scene.later(300);
    assert_eq!(directory.standing(&ann).await, Ok(Standing::Active), "from when it stood by her last");
    scene.net.says(TOKENS, 400, json!({ "error": "invalid_grant" }));
    assert_eq!(directory.standing(&ann).await, Ok(Standing::SignInOver), "a no is a no at once");
}

#[tokio::test]
async fn the_userinfo_endpoint_says_it_by_the_access_token() {
    let (scene, ann, directory) = signed_in("by = \"userinfo\"").await;
    assert_eq!(directory.standing(&ann).await, Err(DirectoryUnavailable), "it has none");
    scene.later(24 * 3600);
    let mut metadata: serde_json::Value = super::scene::metadata();
    metadata["userinfo_endpoint"] = "https://elsewhere.example/userinfo".into();
    scene.net.says("https://idp.example/.well-known/openid-configuration", 200, metadata.clone());
    assert_eq!(
        directory.standing(&ann).await,
        Err(DirectoryUnavailable),
        "a token is sent to no other origin"
    );
    scene.later(24 * 3600);
    metadata["userinfo_endpoint"] = USERINFO.into();
    scene.net.says("https://idp.example/.well-known/openid-configuration", 200, metadata);
    for (status, body, standing) in [
        (200, json!({ "sub": "ann" }), Ok(Standing::Active)),
        (200, json!({ "sub": "bob" }), Err(DirectoryUnavailable)),
        (200, json!({}), Err(DirectoryUnavailable)),
        (500, json!({}), Err(DirectoryUnavailable)),
        (401, json!({ "error": "invalid_token" }), Ok(Standing::SignInOver)),
    ] {
        scene.net.says(USERINFO, status, body.clone());
        assert_eq!(directory.standing(&ann).await, standing, "{status} {body}");
    }
    let shown = scene.net.posted.lock().unwrap().last().unwrap().0.clone();
    assert_eq!(shown, "Bearer access-1");
    assert_eq!(left(&scene, &ann).await, None);
}
