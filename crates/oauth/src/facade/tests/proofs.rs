//! DPoP at the token endpoint (RFC 9449 §5; attacks.md AA-39).

use serde_json::{Value, json};

use super::stage::{A, CONFIG, ISSUER, Stage, claims, hash, redemption};
use crate::{
    Error,
    json::Object,
    key::thumbprint,
    tests::scene::{NOW, Signer, merge},
};

fn jkt(key: &Signer) -> String {
    thumbprint(&Object::parse(key.jwk().to_string().as_bytes()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_is_bound_to_the_key_that_was_shown() {
    let stage = Stage::new().await;
    let key = Signer::ec();
    let code = stage.code(&[]).await;
    let proof = stage.proof(&key, "1");
    let answer = stage.post("/oauth/token", &[("dpop", &proof)], &redemption(&code)).await;
    assert_eq!((answer.status, answer.text("token_type")), (200, "DPoP"), "{}", answer.body);
    let token = answer.text("access_token");
    assert_eq!(claims(token)["cnf"], json!({ "jkt": jkt(&key) }));
    assert_eq!(stage.show("/mcp/a", token).await.unwrap_err(), Error::ProofMissing, "it is no bearer token");
    let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": key.jwk() });
    let said = json!({ "htm": "POST", "htu": A, "iat": NOW, "jti": "2", "ath": hash(token) });
    let lines = [("authorization", &*format!("DPoP {token}")), ("dpop", &*key.token(&header, &said))];
    assert!(stage.show_with("/mcp/a", &lines).await.unwrap().is_sender_constrained());
}

#[tokio::test]
async fn aa_39_a_wrong_or_used_proof_gets_no_token() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let key = Signer::ec();
    let sign = |header: Value, change: Value| {
        let good = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": key.jwk() });
        let said = json!({ "htm": "POST", "htu": format!("{ISSUER}/oauth/token"), "iat": NOW, "jti": "1" });
        key.token(&merge(good, header), &merge(said, change))
    };
    let code = stage.code(&[]).await;
    let ask = async |stage: &Stage, proofs: &[&str]| {
        let lines: Vec<_> = proofs.iter().map(|proof| ("dpop", *proof)).collect();
        stage.post("/oauth/token", &lines, &redemption(&code)).await
    };
    for (header, change) in [
        (json!({}), json!({ "htm": "GET" })),
        (json!({}), json!({ "htu": A })),
        (json!({}), json!({ "htu": "http://127.0.0.1:8787/oauth/token" })),
        (json!({}), json!({ "iat": NOW - 600 })),
        (json!({}), json!({ "iat": NOW + 600 })),
        (json!({}), json!({ "jti": null })),
        (json!({ "alg": "none" }), json!({})),
        (json!({ "alg": "HS256" }), json!({})),
        (json!({ "typ": "jwt" }), json!({})),
        (json!({ "jwk": merge(key.jwk(), json!({ "d": "AAAA" })) }), json!({})),
        (json!({ "jwk": Signer::ec().jwk() }), json!({})),
    ] {
        let answer = ask(&stage, &[&sign(header.clone(), change.clone())]).await;
        assert_eq!(answer.error(), (400, "invalid_dpop_proof"), "{header} {change}");
    }
    let (one, two) = (sign(json!({}), json!({})), sign(json!({}), json!({ "jti": "2" })));
    assert_eq!(ask(&stage, &[&one, &two]).await.error(), (400, "invalid_dpop_proof"), "two at once");
    assert_eq!(ask(&stage, &[&one]).await.status, 200);
    let another = stage.code(&[]).await;
    let again = replica.post("/oauth/token", &[("dpop", &one)], &redemption(&another)).await;
    assert_eq!(again.error(), (400, "invalid_dpop_proof"), "used, whichever process is asked");
    let answer = replica.post("/oauth/token", &[("dpop", &two)], &redemption(&another)).await;
    assert_eq!(answer.status, 200, "and the code was not used up by it: {}", answer.body);
}

/// A stranger's proofs leave nothing in the store, where each would be a durable write, and a stranger is not listened to for long.
#[tokio::test]
async fn aa_39_proofs_without_a_grant_leave_nothing_and_are_not_heard_for_long() {
    let stage = Stage::new().await;
    let key = Signer::ec();
    let mut answers = std::collections::BTreeMap::new();
    let proofs: Vec<_> = (0..1000).map(|id| stage.proof(&key, &id.to_string())).collect();
    for proof in &proofs {
        let answer = stage.post("/oauth/token", &[("dpop", proof)], &redemption("no code")).await;
        *answers.entry(answer.status).or_insert(0) += 1;
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert_eq!(answers, std::collections::BTreeMap::from([(400, 120), (429, 880)]));
    for proof in &proofs {
        assert!(!stage.was_noted(proof).await);
    }
    let introspected = stage.post("/oauth/introspect", &[], &[("token", "x")]).await;
    assert_eq!(introspected.status, 429, "one patience for all of them");

    stage.advance(60);
    let code = stage.code(&[]).await;
    let proof = stage.proof(&key, "good");
    let answer = stage.post("/oauth/token", &[("dpop", &proof)], &redemption(&code)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(stage.was_noted(&proof).await);
}

#[tokio::test]
async fn where_proofs_are_demanded_there_is_no_token_without() {
    let stage = Stage::configured(&format!("dpop = \"required\"\n{CONFIG}")).await;
    let code = stage.code(&[]).await;
    assert_eq!(stage.redeem(&code, &[]).await.error(), (400, "invalid_dpop_proof"));
    let proof = stage.proof(&Signer::ec(), "1");
    assert_eq!(stage.post("/oauth/token", &[("dpop", &proof)], &redemption(&code)).await.status, 200);
    let one = Stage::configured(&CONFIG.replace("id = \"editor\"", "id = \"editor\"\n    dpop = true")).await;
    let code = one.code(&[]).await;
    assert_eq!(one.redeem(&code, &[]).await.error(), (400, "invalid_dpop_proof"));
    let code = one.code(&[("client_id", "other")]).await;
    assert_eq!(one.redeem(&code, &[("client_id", "other")]).await.status, 200);
}

/// RFC 9449 §8.
#[tokio::test]
async fn where_nonces_are_given_out_a_proof_holds_one() {
    let stage = Stage::configured(&format!("dpop_nonces = true\n{CONFIG}")).await;
    let key = Signer::ec();
    let sign = |change: Value| {
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": key.jwk() });
        let said = json!({ "htm": "POST", "htu": format!("{ISSUER}/oauth/token"), "iat": NOW, "jti": "1" });
        key.token(&header, &merge(said, change))
    };
    let code = stage.code(&[]).await;
    let ask =
        async |proof: String| stage.post("/oauth/token", &[("dpop", &*proof)], &redemption(&code)).await;
    for change in [json!({}), json!({ "nonce": "made up" })] {
        let refused = ask(sign(change)).await;
        assert_eq!(refused.error(), (400, "use_dpop_nonce"));
        assert!(refused.headers.contains_key("dpop-nonce"));
    }
    let refused = ask(sign(json!({}))).await;
    let nonce = refused.headers["dpop-nonce"].to_str().unwrap();
    // Neither the code nor the proof was used up.
    let answer = ask(sign(json!({ "nonce": nonce }))).await;
    assert_eq!((answer.status, answer.text("token_type")), (200, "DPoP"), "{}", answer.body);
    assert!(answer.headers.contains_key("dpop-nonce"), "the next one comes with the answer");
    let plain = Stage::new().await;
    let code = plain.code(&[]).await;
    let answer = plain.post("/oauth/token", &[("dpop", &plain.proof(&key, "1"))], &redemption(&code)).await;
    assert!(answer.status == 200 && !answer.headers.contains_key("dpop-nonce"));
}
