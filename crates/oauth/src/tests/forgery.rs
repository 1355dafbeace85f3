//! Tokens whose form somebody tampered with (attacks.md AA-03, AA-10, AA-11, AA-18, AA-30).

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::scene::{NOW, OTHER_ISSUER, RESOURCE, Scene, Signer, merge};
use crate::Error;

fn is_401(error: &Error) -> bool {
    let verdict = error.verdict();
    verdict.status == 401 && verdict.error == Some("invalid_token")
}

#[tokio::test]
async fn aa_03_a_public_key_is_no_shared_secret_and_no_key_has_two_algorithms() {
    let scene = Scene::new();
    scene.assert_good_token_works().await;
    let jwk = Signer::rs256().jwk();
    let n = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for algorithm in ["HS256", "HS384", "HS512"] {
        for secret in [jwk.to_string().as_bytes(), &n, jwk["n"].as_str().unwrap().as_bytes(), b""] {
            let token = scene.token(json!({ "alg": algorithm, "kid": "rsa" }), json!({}));
            let (signed, _) = token.rsplit_once('.').unwrap();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(scene.show(&token).await.unwrap_err(), Error::AlgorithmRefused);
        }
    }
    let forge = |signer: &Signer, algorithm: &str, kid: &str| {
        signer.token(&json!({ "typ": "at+jwt", "alg": algorithm, "kid": kid }), &scene.claims())
    };
    // The attacker's own key under the real id.
    assert_eq!(scene.show(&forge(&Signer::ed(9), "EdDSA", "ed")).await.unwrap_err(), Error::SignatureWrong);
    assert_eq!(scene.show(&forge(&Signer::ec(), "ES256", "ed")).await.unwrap_err(), Error::AlgorithmRefused);
    // The issuer's own key under another algorithm than the key's.
    assert_eq!(
        scene.show(&forge(&Signer::ps256(), "PS256", "rsa")).await.unwrap_err(),
        Error::AlgorithmRefused
    );
    assert_eq!(
        scene.show(&forge(&Signer::rs256(), "RS256", "ed")).await.unwrap_err(),
        Error::AlgorithmRefused
    );
    // RS512 is good in general, and this issuer may not use it.
    assert_eq!(
        scene.show(&forge(&Signer::rs256(), "RS512", "rsa")).await.unwrap_err(),
        Error::AlgorithmRefused
    );
}

#[tokio::test]
async fn aa_03_a_signature_of_zeros_is_none() {
    let scene = Scene::new();
    let ec = Signer::ec();
    let keys = json!({ "keys": [ec.jwk_with(json!({ "kid": "ec" }))] });
    scene.net.says("https://idp.example/keys", 200, keys);
    let token = ec.token(&json!({ "typ": "at+jwt", "alg": "ES256", "kid": "ec" }), &scene.claims());
    let (signed, _) = token.rsplit_once('.').unwrap();
    for zeros in [64, 0, 32, 128] {
        let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(vec![0; zeros]));
        assert_eq!(scene.show(&forged).await.unwrap_err(), Error::SignatureWrong, "{zeros}");
    }
    assert!(scene.show(&token).await.is_ok());
}

#[tokio::test]
async fn aa_10_an_unsigned_token_is_none() {
    let scene = Scene::new();
    for algorithm in [json!("none"), json!("None"), json!("nOnE"), json!("NONE"), json!("")] {
        let token = scene.token(json!({ "alg": algorithm }), json!({}));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        for forged in [format!("{signed}."), format!("{signed}.{signature}")] {
            assert!(is_401(&scene.show(&forged).await.unwrap_err()), "{algorithm}");
        }
        assert_eq!(scene.show(signed).await.unwrap_err(), Error::TokenMalformed);
    }
    assert_eq!(scene.try_header(json!({ "alg": null })).await.unwrap_err(), Error::AlgorithmRefused);
    assert_eq!(
        scene.try_header(json!({ "alg": ["EdDSA"] })).await.unwrap_err(),
        Error::ClaimMalformed("alg")
    );
}

#[tokio::test]
async fn aa_11_a_token_never_brings_its_key_or_its_rules() {
    let scene = Scene::new();
    scene.assert_good_token_works().await;
    let asked = scene.net.asked.lock().unwrap().len();
    let forger = Signer::ed(9);
    let headers = [
        ("jku", json!("https://canary.example/jwks")),
        ("x5u", json!("https://canary.example/cert")),
        ("jwk", forger.jwk()),
        ("x5c", json!(["MIIB"])),
        ("crit", json!(["exp"])),
        ("crit", json!(["x"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("cty", json!("JWT")),
    ];
    for (name, value) in headers {
        let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "ed", name: value });
        for signer in [&forger, &scene.signer] {
            let error = scene.show(&signer.token(&header, &scene.claims())).await.unwrap_err();
            assert_eq!(error, Error::HeaderRefused(name));
        }
    }
    assert_eq!(scene.net.asked.lock().unwrap().len(), asked, "nothing was fetched");
}

#[tokio::test]
async fn aa_18_a_key_id_is_a_name_and_nothing_else() {
    let scene = Scene::new();
    scene.assert_good_token_works().await;
    let unknown =
        ["../../../../dev/null", "' UNION SELECT 'k'-- ", "https://canary.example/k", "|id", "ED", "other"];
    for kid in unknown {
        assert_eq!(scene.try_header(json!({ "kid": kid })).await.unwrap_err(), Error::KeyUnknown, "{kid}");
    }
    for malformed in [json!("\u{0}"), json!("k".repeat(8192)), json!(["ed"]), json!(1), json!("")] {
        let error = scene.try_header(json!({ "kid": malformed })).await.unwrap_err();
        assert_eq!(error, Error::ClaimMalformed("kid"));
    }
    assert_eq!(
        scene.try_header(json!({ "kid": null })).await.unwrap_err(),
        Error::KeyUnknown,
        "there are two keys"
    );
    assert!(scene.net.asked.lock().unwrap().iter().all(|(url, _)| !url.contains("canary")));
    let claims = merge(scene.claims(), json!({ "iss": OTHER_ISSUER }));
    let nameless = json!({ "typ": "at+jwt", "alg": "EdDSA" });
    assert!(scene.show(&Signer::ed(2).token(&nameless, &claims)).await.is_ok(), "the only key needs no name");
}

#[tokio::test]
async fn aa_30_a_token_has_one_spelling() {
    let scene = Scene::new();
    let good = scene.token(json!({}), json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    // The last character of a 64-byte signature carries 2 bits that no canonical spelling sets.
    let last = signature.chars().last().unwrap();
    let twin = char::from_u32(last as u32 + 1).unwrap();
    let signature_twin = format!("{}{twin}", signature.strip_suffix(last).unwrap());
    let malformed = [
        format!("{signed}.{signature}="),
        format!("{signed}.{signature_twin}"),
        signed.to_owned(),
        format!("{signed}.{signature}.x"),
        format!("{signed}.{signature}.{payload}.{header}"),
        format!(".{payload}.{signature}"),
        format!("{header}..{signature}"),
        format!("{header}=.{payload}.{signature}"),
    ];
    for token in malformed {
        let error = scene.show(&token).await.unwrap_err();
        assert!(matches!(error, Error::TokenMalformed | Error::CredentialsMalformed), "{token}: {error}");
    }
    for token in [
        format!("{signed}.{}", signature.get(..80).unwrap()),
        format!("{signed}.{signature}AAAA"),
        format!("{signed}."),
    ] {
        assert_eq!(scene.show(&token).await.unwrap_err(), Error::SignatureWrong);
    }
    let sign = |claims: &str| scene.signer.token_of(r#"{"typ":"at+jwt","alg":"EdDSA","kid":"ed"}"#, claims);
    let twice = scene.claims().to_string().replacen('{', r#"{"aud":"https://evil.example","#, 1);
    assert_eq!(scene.show(&sign(&twice)).await.unwrap_err(), Error::TokenMalformed);
    let header_twice = scene
        .signer
        .token_of(r#"{"typ":"at+jwt","alg":"none","alg":"EdDSA","kid":"ed"}"#, &scene.claims().to_string());
    assert_eq!(scene.show(&header_twice).await.unwrap_err(), Error::TokenMalformed);
    for text in ["[]", "null", "\"x\"", "{", ""] {
        assert_eq!(scene.show(&sign(text)).await.unwrap_err(), Error::TokenMalformed, "{text}");
    }
    let long = scene.token(json!({}), json!({ "x": "x".repeat(64 * 1024) }));
    assert_eq!(scene.show(&long).await.unwrap_err(), Error::TokenTooLong);
    assert!(scene.show(&good).await.is_ok());
}

#[tokio::test]
async fn aa_30_no_single_byte_of_a_token_can_be_changed() {
    let scene = Scene::new();
    let good = scene.token(json!({}), json!({}));
    assert!(scene.show(&good).await.is_ok());
    for at in 0..good.len() {
        for other in [b'A', b'_', b'.', b'=', b'0'] {
            let mut changed = good.clone().into_bytes();
            if changed[at] == other {
                continue;
            }
            changed[at] = other;
            let changed = String::from_utf8(changed).unwrap();
            assert!(scene.show(&changed).await.is_err(), "byte {at} became {}", other as char);
        }
        let shorter = [good.get(..at).unwrap(), good.get(at + 1..).unwrap()].concat();
        assert!(scene.show(&shorter).await.is_err(), "byte {at} is gone");
    }
}

proptest! {
    /// The issuer's own signature over whatever claims: a refusal or a token, never a panic, and never a token whose
    /// audience or times are not exactly right.
    #[test]
    fn strange_claims_are_refused_or_right(
        name in "(aud|exp|nbf|iat|sub|scope|cnf|amr|acr|groups|roles|jti|_claim_names|auth_time)",
        value in strange_json(),
    ) {
        let scene = Scene::new();
        let token = scene.token_with_raw(&name, &value);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        if let Ok(token) = runtime.block_on(scene.show(&token)) {
            prop_assert_eq!(token.audience(), [RESOURCE]);
            prop_assert!((NOW - 60..=NOW + 86_460).contains(&token.expires_at().as_unix()));
            prop_assert!(token.scopes().contains("mcp:read"));
        }
    }
}

fn strange_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        (NOW - 100..NOW + 100).prop_map(|n| n.to_string()),
        Just(json!(RESOURCE).to_string()),
        Just("\"mcp:read\"".to_owned()),
        ".{0,8}".prop_map(|text| json!(text).to_string()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            ("[a-z]{1,3}", inner).prop_map(|(key, value)| format!("{{\"{key}\":{value}}}")),
        ]
    })
}
