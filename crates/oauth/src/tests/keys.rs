//! An issuer's keys: good ones, bad ones, old ones, and floods (attacks.md AA-12, AA-18, AA-20, AA-31, AA-34).

use std::time::Duration;

use serde_json::{Value, json};

use super::scene::{CONFIG, HANGS, ISSUER, OTHER_ISSUER, Scene, Signer, merge};
use crate::{Error, NamedBy};

const KEYS: &str = "https://idp.example/keys";
const METADATA: &str = "https://idp.example/.well-known/oauth-authorization-server";

/// A token that no cache has seen.
fn fresh(scene: &Scene, kid: &str, serial: usize) -> String {
    // The clock moves in these scenes, so the token's times do.
    let now = bartizan_model::Clock::now(&*scene.clock).as_unix();
    scene.token(
        json!({ "kid": kid }),
        json!({ "jti": format!("serial-{serial}"), "iat": now, "exp": now + 300 }),
    )
}

fn unavailable() -> Error {
    Error::IssuerUnavailable(ISSUER.into())
}

#[tokio::test]
async fn keys_are_asked_for_once_however_many_wait() {
    let scene = Scene::new();
    let tokens: Vec<_> = (0..20).map(|serial| fresh(&scene, "ed", serial)).collect();
    let shown = tokens.iter().map(|token| scene.show(token));
    for result in futures_join(shown).await {
        assert!(result.is_ok());
    }
    assert_eq!(scene.net.count(KEYS), 1);
}

/// Polls all to their end, in turn.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_done = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(done) => *output = Some(done),
                    std::task::Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn aa_31_made_up_key_ids_cost_one_question_per_cool_down() {
    let scene = Scene::new();
    assert!(scene.show(&fresh(&scene, "ed", 0)).await.is_ok());
    let mut serial = 0;
    for _ in 0..10 {
        for _ in 0..100 {
            serial += 1;
            let error = scene.show(&fresh(&scene, &format!("made-up-{serial}"), serial)).await.unwrap_err();
            assert_eq!(error, Error::KeyUnknown);
        }
        assert!(scene.show(&fresh(&scene, "ed", serial)).await.is_ok(), "good tokens keep working");
        scene.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(scene.net.count(KEYS), 1);
    scene.clock.advance(Duration::from_secs(20));
    for _ in 0..100 {
        serial += 1;
        assert!(scene.show(&fresh(&scene, &format!("made-up-{serial}"), serial)).await.is_err());
    }
    assert_eq!(scene.net.count(KEYS), 2);
}

#[tokio::test]
async fn a_new_key_is_found_after_the_cool_down() {
    let scene = Scene::new();
    assert!(scene.show(&fresh(&scene, "ed", 0)).await.is_ok());
    let keys = json!({ "keys": [scene.signer.jwk_with(json!({ "kid": "new" }))] });
    scene.net.says(KEYS, 200, keys);
    assert_eq!(scene.show(&fresh(&scene, "new", 1)).await.unwrap_err(), Error::KeyUnknown);
    scene.clock.advance(Duration::from_secs(30));
    assert!(scene.show(&fresh(&scene, "new", 2)).await.is_ok());
}

#[tokio::test]
async fn aa_20_a_withdrawn_key_is_refused_within_minutes() {
    let scene = Scene::new();
    assert!(scene.show(&fresh(&scene, "ed", 0)).await.is_ok());
    scene.net.says(KEYS, 200, json!({ "keys": [Signer::ed(5).jwk_with(json!({ "kid": "next" }))] }));
    scene.clock.advance(Duration::from_secs(299));
    assert!(scene.show(&fresh(&scene, "ed", 1)).await.is_ok());
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.show(&fresh(&scene, "ed", 2)).await.unwrap_err(), Error::KeyUnknown);
}

#[tokio::test]
async fn aa_20_old_keys_serve_while_the_issuer_is_ill_and_not_for_ever() {
    let big = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(100));
    let illnesses: [(u16, String); 6] = [
        (500, String::new()),
        (200, "<html>sign in</html>".into()),
        (200, big),
        (200, r#"{"keys":[{"kty":"oct","k":"AAAA","kid":"ed"}]}"#.into()),
        (302, String::new()),
        (200, r#"{"keys":{}}"#.into()),
    ];
    for (status, body) in illnesses {
        let scene = Scene::new();
        assert!(scene.show(&fresh(&scene, "ed", 0)).await.is_ok());
        scene.net.says(KEYS, status, &body);
        scene.clock.advance(Duration::from_secs(3600));
        assert!(scene.show(&fresh(&scene, "ed", 1)).await.is_ok(), "{status} {body}");
        let asked = scene.net.count(KEYS);
        assert!(scene.show(&fresh(&scene, "ed", 2)).await.is_ok());
        assert_eq!(scene.net.count(KEYS), asked, "an ill issuer is not asked for every request");
        scene.clock.advance(Duration::from_secs(1));
        let error = scene.show(&fresh(&scene, "ed", 3)).await.unwrap_err();
        assert_eq!(error, unavailable());
        assert_eq!(error.verdict().status, 503);
    }
}

#[tokio::test]
async fn an_issuer_that_never_answered_is_asked_again_soon_and_then_works() {
    let scene = Scene::new();
    let answer = scene.net.answers.lock().unwrap().remove(KEYS).unwrap();
    for serial in 0..10 {
        assert_eq!(scene.show(&fresh(&scene, "ed", serial)).await.unwrap_err(), unavailable());
    }
    assert_eq!(scene.net.count(KEYS), 1);
    scene.net.answers.lock().unwrap().insert(KEYS.into(), answer);
    scene.clock.advance(Duration::from_secs(5));
    assert!(scene.show(&fresh(&scene, "ed", 11)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn aa_20_an_issuer_that_hangs_holds_up_nobody_who_has_a_key() {
    let scene = Scene::new();
    assert!(scene.show(&fresh(&scene, "ed", 0)).await.is_ok());
    let (_, keys) = scene.net.answers.lock().unwrap().get(KEYS).cloned().unwrap();
    scene.net.says(KEYS, HANGS, "");
    scene.clock.advance(Duration::from_secs(600));
    let begun = tokio::time::Instant::now();
    for serial in 1..20 {
        assert!(scene.show(&fresh(&scene, "ed", serial)).await.is_ok());
    }
    assert_eq!(begun.elapsed().as_secs(), 1, "one request waited, and not for long");
    assert_eq!(scene.show(&fresh(&scene, "unknown", 20)).await.unwrap_err(), Error::KeyUnknown);
    assert!(begun.elapsed().as_secs() <= 10);
    assert_eq!(scene.net.count(KEYS), 2);
    scene.net.says(KEYS, 200, keys);
    scene.clock.advance(Duration::from_secs(30));
    assert!(scene.show(&fresh(&scene, "ed", 21)).await.is_ok());
    assert_eq!(scene.net.count(KEYS), 3);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cut_off_the_question() {
    let scene = Scene::new();
    let token = fresh(&scene, "ed", 0);
    {
        let mut shown = Box::pin(scene.show(&token));
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(shown.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    assert!(scene.show(&token).await.is_ok());
    assert_eq!(scene.net.count(KEYS), 1);
}

#[tokio::test]
async fn aa_20_keys_that_are_not_for_this_are_left_out() {
    let scene = Scene::new();
    let ed = |more: Value| merge(scene.signer.jwk_with(json!({ "kid": "ed" })), more);
    let small = json!({ "kty": "RSA", "kid": "ed", "e": "AQAB", "n": "v".repeat(171) });
    let unusable = [
        ed(json!({ "use": "enc" })),
        ed(json!({ "key_ops": ["sign"] })),
        ed(json!({ "key_ops": [] })),
        ed(json!({ "key_ops": "verify" })),
        ed(json!({ "alg": "RS256" })),
        ed(json!({ "alg": "HS256" })),
        ed(json!({ "alg": "none" })),
        ed(json!({ "d": "AAAA" })),
        ed(json!({ "crv": "Ed448" })),
        ed(json!({ "crv": "X25519" })),
        ed(json!({ "x": "AAAA" })),
        ed(json!({ "x": null })),
        ed(json!({ "kty": null })),
        small,
        json!({ "kty": "oct", "kid": "ed", "k": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-256", "kid": "ed", "x": "AAAA", "y": "AAAA" }),
        Signer::ec().jwk_with(json!({ "kid": "ed", "alg": "ES384" })),
        Signer::ec().jwk_with(json!({ "kid": "ed", "crv": "secp256k1" })),
    ];
    for jwk in unusable {
        let scene = Scene::new();
        let other = Signer::ed(5).jwk_with(json!({ "kid": "spare" }));
        scene.net.says(KEYS, 200, json!({ "keys": [jwk, other] }));
        assert_eq!(scene.show(&fresh(&scene, "ed", 0)).await.unwrap_err(), Error::KeyUnknown, "{jwk}");
    }
    let scene = Scene::new();
    let same = [
        ed(json!({})),
        Signer::ed(9).jwk_with(json!({ "kid": "ed" })),
        Signer::ed(5).jwk_with(json!({ "kid": "spare" })),
    ];
    scene.net.says(KEYS, 200, json!({ "keys": same }));
    assert_eq!(
        scene.show(&fresh(&scene, "ed", 0)).await.unwrap_err(),
        Error::KeyUnknown,
        "two keys of one name"
    );
    let forged =
        Signer::ed(9).token(&json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "ed" }), &scene.claims());
    assert_eq!(scene.show(&forged).await.unwrap_err(), Error::KeyUnknown);
}

#[tokio::test]
async fn aa_34_metadata_that_speaks_for_another_is_not_asked_further() {
    for issuer in
        ["https://idp.example/", "https://evil.example", "http://idp.example", "HTTPS://idp.example"]
    {
        let scene = Scene::new();
        scene.net.says(METADATA, 200, json!({ "issuer": issuer, "jwks_uri": KEYS }));
        assert_eq!(scene.show(&fresh(&scene, "ed", 0)).await.unwrap_err(), unavailable());
        assert_eq!(scene.net.count(KEYS), 0, "{issuer}");
    }
    for broken in [
        json!({ "issuer": ISSUER }),
        json!({ "issuer": ISSUER, "jwks_uri": "not a url" }),
        json!({ "issuer": [ISSUER], "jwks_uri": KEYS }),
    ] {
        let scene = Scene::new();
        scene.net.says(METADATA, 200, broken);
        assert_eq!(scene.show(&fresh(&scene, "ed", 0)).await.unwrap_err(), unavailable());
    }
}

#[tokio::test]
async fn metadata_is_found_in_each_of_its_places_and_strange_keys_must_be_public() {
    let scene = Scene::new();
    let claims = merge(scene.claims(), json!({ "iss": OTHER_ISSUER }));
    let token = Signer::ed(2).token(&json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "other" }), &claims);
    assert!(scene.show(&token).await.is_ok());
    let asked = scene.net.asked.lock().unwrap().clone();
    let expected = [
        ("https://other.example/.well-known/oauth-authorization-server/tenant", NamedBy::Operator),
        ("https://other.example/tenant/.well-known/openid-configuration", NamedBy::Operator),
        // Another origin than its issuer's.
        ("https://keys.example/other", NamedBy::Issuer),
    ];
    assert_eq!(asked, expected.map(|(url, by)| (url.to_owned(), by)));
    scene.assert_good_token_works().await;
    assert!(scene.net.asked.lock().unwrap().contains(&(KEYS.into(), NamedBy::Operator)));
}

#[tokio::test]
async fn an_issuer_without_metadata_has_its_keys_where_the_operator_says() {
    let config = CONFIG.replacen("[[issuers]]", "[[issuers]]\njwks_url = \"https://10.0.0.1/jwks\"", 1);
    let scene = Scene::configured(&config);
    scene.net.says(
        "https://10.0.0.1/jwks",
        200,
        json!({ "keys": [scene.signer.jwk_with(json!({ "kid": "ed" }))] }),
    );
    scene.assert_good_token_works().await;
    assert_eq!(*scene.net.asked.lock().unwrap(), [("https://10.0.0.1/jwks".to_owned(), NamedBy::Operator)]);
}
