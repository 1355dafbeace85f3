//! One token for another (RFC 8693; attacks.md AA-36).

use serde_json::{Value, json};

use super::stage::{A, Answer, B, CONFIG, ISSUER, Stage, change, claims};
use crate::{
    Error,
    tests::scene::{NOW, Signer, merge},
};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const OTHER: &str = "https://other.example";

async fn exchange(stage: &Stage, token: &str, changes: &[(&str, &str)]) -> Answer {
    let form = [("grant_type", GRANT), ("subject_token", token), ("subject_token_type", ACCESS_TOKEN)];
    stage.token_of_server(&change(&form, changes)).await
}

#[tokio::test]
async fn a_token_of_ours_becomes_a_narrower_one() {
    let stage = Stage::new().await;
    let (token, _) = stage.tokens().await;
    stage.advance(400);
    let answer = exchange(&stage, &token, &[("scope", "mcp:read")]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((answer.text("scope"), answer.text("issued_token_type")), ("mcp:read", ACCESS_TOKEN));
    assert_eq!(answer.body["expires_in"], json!(200), "it does not outlive the other");
    assert!(answer.body.get("refresh_token").is_none());
    let narrow = answer.text("access_token").to_owned();
    let verified = stage.show("/mcp/a", &narrow).await.unwrap();
    assert_eq!((verified.caller().subject(), verified.caller().client()), ("ann", "server"));
    // It stands on the same sign-in, and so does what is asked for in its person's name.
    let before = stage.show("/mcp/a", &token).await.unwrap();
    assert_eq!(verified.sign_in().map(|s| s.id), before.sign_in().map(|s| s.id));
    assert_eq!(verified.authenticated_at(), before.authenticated_at());
    stage.facade.revoke_consent("https://idp.example", "ann", "editor").await.unwrap();
    assert_eq!(stage.show("/mcp/a", &narrow).await.unwrap_err(), Error::Denied);
    assert_eq!(exchange(&stage, &token, &[]).await.error(), (400, "invalid_grant"), "revoked");
}

#[tokio::test]
async fn aa_36_an_exchange_never_widens() {
    let stage = Stage::new().await;
    let answer = stage.redeem(&stage.code(&[("scope", "mcp:read")]).await, &[]).await;
    let token = answer.text("access_token");
    for (changes, error) in [
        ([("scope", "mcp:write")], "invalid_scope"),
        ([("scope", "mcp:read mcp:write")], "invalid_scope"),
        ([("resource", B)], "invalid_target"),
        ([("audience", B)], "invalid_target"),
        ([("resource", "https://evil.example")], "invalid_target"),
        ([("actor_token", token)], "invalid_request"),
        ([("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")], "invalid_request"),
        ([("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")], "invalid_request"),
        ([("subject_token", "x.y.z")], "invalid_grant"),
        ([("subject_token", answer.text("refresh_token"))], "invalid_grant"),
    ] {
        assert_eq!(exchange(&stage, token, &changes).await.error(), (400, error), "{changes:?}");
    }
    let itself = stage.token_of_server(&[("grant_type", "client_credentials"), ("resource", A)]).await;
    let itself = itself.text("access_token");
    assert_eq!(exchange(&stage, itself, &[]).await.error(), (400, "invalid_grant"), "it is no person's");
    let form = [("grant_type", GRANT), ("subject_token", token), ("subject_token_type", ACCESS_TOKEN)];
    let public = [form.as_slice(), &[("client_id", "editor")]].concat();
    assert_eq!(stage.token(&public).await.error(), (400, "unauthorized_client"));
    stage.advance(661);
    assert_eq!(exchange(&stage, token, &[]).await.error(), (400, "invalid_grant"), "expired");
}

#[tokio::test]
async fn a_configured_issuers_token_for_us_becomes_ours() {
    let config = format!(
        "[[exchange_issuers]]\naudience = \"{ISSUER}\"\nissuer = {{ kind = \"oidc\", issuer = \"{OTHER}\", \
         jwks_url = \"{OTHER}/keys\" }}\n{CONFIG}"
    );
    let stage = Stage::configured(&config).await;
    let key = Signer::ed(2);
    let jwk = key.jwk_with(json!({ "kid": "other", "alg": "EdDSA" }));
    stage.net.says(&format!("{OTHER}/keys"), 200, json!({ "keys": [jwk] }));
    let sign = |header: Value, changes: Value| {
        let good = json!({
            "iss": OTHER, "sub": "bob", "client_id": "upstream", "aud": ISSUER, "scope": "mcp:read other",
            "iat": NOW, "exp": NOW + 300, "jti": "x", "roles": ["ops"],
        });
        let header = merge(json!({ "alg": "EdDSA", "kid": "other", "typ": "at+jwt" }), header);
        key.token(&header, &merge(good, changes))
    };
    let good = sign(json!({}), json!({}));
    let answer = exchange(&stage, &good, &[("resource", B)]).await;
    assert_eq!((answer.status, answer.text("scope")), (200, "mcp:read"), "{}", answer.body);
    assert_eq!(claims(answer.text("access_token"))["exp"], json!(NOW + 300));
    let verified = stage.show("/mcp/b", answer.text("access_token")).await.unwrap();
    assert_eq!((verified.caller().issuer(), verified.caller().subject()), (OTHER, "bob"));
    assert!(verified.roles().contains("ops"));
    assert_eq!(exchange(&stage, &good, &[]).await.error(), (400, "invalid_target"), "for which of ours?");
    for (header, changes) in [
        (json!({}), json!({ "aud": A })),
        (json!({}), json!({ "aud": [ISSUER, "https://else.example"] })),
        (json!({}), json!({ "exp": NOW - 61 })),
        (json!({}), json!({ "iss": "https://evil.example" })),
        (json!({}), json!({ "sub": "upstream" })),
        (json!({}), json!({ "cnf": { "jkt": "x" } })),
        (json!({}), json!({ "nonce": "an ID token" })),
        (json!({ "typ": "JWT" }), json!({})),
    ] {
        let token = sign(header.clone(), changes.clone());
        let answer = exchange(&stage, &token, &[("resource", B)]).await;
        assert_eq!(answer.error(), (400, "invalid_grant"), "{header} {changes}");
    }
}
