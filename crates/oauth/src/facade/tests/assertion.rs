//! Enterprise-managed authorization (spec.md F-46 to F-50; attacks.md AA-36).

use serde_json::{Value, json};

use super::stage::{A, ASKING, Answer, B, CONFIG, ISSUER, SECRET, Stage, basic, change, claims};
use crate::{
    Principal,
    tests::scene::{NOW, Signer, merge},
};

const IDP: &str = "https://idp.example";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

struct Enterprise {
    stage: Stage,
    key: Signer,
}

impl Enterprise {
    async fn new() -> Self {
        let config = format!(
            "[[assertion_issuers]]\nissuer = \"{IDP}\"\njwks_url = \"https://idp.example/keys\"\n{CONFIG}"
        );
        let (stage, key) = (Stage::with(&config, &[A, B, ASKING]).await, Signer::ed(1));
        let jwk = key.jwk_with(json!({ "kid": "idp", "alg": "EdDSA" }));
        stage.net.says("https://idp.example/keys", 200, json!({ "keys": [jwk] }));
        Self { stage, key }
    }

    fn sign(&self, header: Value, changes: Value) -> String {
        let good = json!({
            "iss": IDP, "sub": "ann", "aud": ISSUER, "resource": A, "client_id": "server", "jti": "one",
            "exp": NOW + 300, "iat": NOW, "scope": "mcp:read mcp:write admin", "email": "ann@example.com",
        });
        let header = merge(json!({ "alg": "EdDSA", "kid": "idp", "typ": "oauth-id-jag+jwt" }), header);
        self.key.token(&header, &merge(good, changes))
    }

    async fn ask(&self, assertion: &str, changes: &[(&str, &str)]) -> Answer {
        let form = [("grant_type", GRANT), ("assertion", assertion)];
        let lines = [("authorization", &*basic("server", SECRET))];
        self.stage.post("/oauth/token", &lines, &change(&form, changes)).await
    }
}

#[tokio::test]
async fn f_49_an_assertion_becomes_a_token_without_a_page() {
    let enterprise = Enterprise::new().await;
    let answer = enterprise.ask(&enterprise.sign(json!({}), json!({})), &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(answer.body.get("refresh_token").is_none());
    assert_eq!(answer.text("scope"), "mcp:read mcp:write", "what the resource knows of what was allowed");
    let said = claims(answer.text("access_token"));
    assert_eq!((&said["aud"], &said["client_id"]), (&json!(A), &json!("server")));
    assert!(!said.to_string().contains("example.com\",\"email") && said.get("email").is_none());
    let verified = enterprise.stage.show("/mcp/a", answer.text("access_token")).await.unwrap();
    assert_eq!(verified.principal(), Principal::User);
    assert_eq!((verified.caller().issuer(), verified.caller().subject()), (IDP, "ann"));
    let narrow = enterprise.sign(json!({}), json!({ "jti": "two" }));
    assert_eq!(enterprise.ask(&narrow, &[("scope", "mcp:read")]).await.text("scope"), "mcp:read");
}

#[tokio::test]
async fn aa_36_an_assertion_is_no_sign_in_of_now_and_no_consent() {
    let enterprise = Enterprise::new().await;
    let at = async |changes| {
        let answer = enterprise.ask(&enterprise.sign(json!({}), changes), &[]).await;
        claims(answer.text("access_token"))["auth_time"].clone()
    };
    assert_eq!(at(json!({ "amr": ["mfa"] })).await, 0, "nobody knows when");
    assert_eq!(at(json!({ "jti": "two", "auth_time": NOW - 60 })).await, NOW - 60);
    let asked = enterprise.sign(json!({}), json!({ "jti": "three", "resource": ASKING }));
    assert_eq!(enterprise.ask(&asked, &[]).await.error(), (400, "invalid_target"));
    let itself = [("grant_type", "client_credentials"), ("resource", ASKING), ("scope", "mcp:read")];
    assert_eq!(enterprise.stage.token_of_server(&itself).await.error(), (400, "invalid_target"));
    let itself = change(&itself, &[("resource", B)]);
    assert_eq!(enterprise.stage.token_of_server(&itself).await.status, 200, "to others it goes alone");
}

#[tokio::test]
async fn f_47_f_48_aa_36_an_assertion_that_is_not_exactly_right_is_none() {
    let enterprise = Enterprise::new().await;
    for changes in [
        json!({ "iss": null }),
        json!({ "iss": "https://evil.example" }),
        json!({ "iss": "https://idp.example/" }),
        json!({ "sub": null }),
        json!({ "aud": null }),
        json!({ "aud": "https://other.example" }),
        json!({ "aud": format!("{ISSUER}/") }),
        json!({ "aud": format!("{ISSUER}/oauth/token") }),
        json!({ "aud": [ISSUER, "https://other.example"] }),
        json!({ "resource": null }),
        json!({ "resource": [A, B] }),
        json!({ "client_id": null }),
        json!({ "client_id": "editor" }),
        json!({ "jti": null }),
        json!({ "exp": null }),
        json!({ "exp": NOW - 61 }),
        json!({ "exp": NOW + 361 }),
        json!({ "iat": null }),
        json!({ "iat": NOW + 61 }),
        json!({ "cnf": { "jkt": "x" } }),
    ] {
        let answer = enterprise.ask(&enterprise.sign(json!({}), changes.clone()), &[]).await;
        assert_eq!(answer.error(), (400, "invalid_grant"), "{changes}");
    }
    for header in [
        json!({ "typ": "JWT" }),
        json!({ "typ": "at+jwt" }),
        json!({ "typ": null }),
        json!({ "alg": "none" }),
        json!({ "alg": "HS256" }),
        json!({ "kid": "other" }),
    ] {
        let answer = enterprise.ask(&enterprise.sign(header.clone(), json!({})), &[]).await;
        assert_eq!(answer.error(), (400, "invalid_grant"), "{header}");
    }
    let foreign = enterprise.sign(json!({}), json!({ "resource": "https://gateway.example/mcp" }));
    assert_eq!(enterprise.ask(&foreign, &[]).await.error(), (400, "invalid_target"));
    let good = enterprise.sign(json!({}), json!({}));
    assert_eq!(enterprise.ask(&good, &[("resource", B)]).await.error(), (400, "invalid_target"));
    assert_eq!(enterprise.ask(&good, &[("scope", "mcp:read other")]).await.error(), (400, "invalid_scope"));
    assert_eq!(enterprise.ask(&good, &[]).await.status, 200, "none of that used it up");
    assert_eq!(enterprise.ask(&good, &[]).await.error(), (400, "invalid_grant"), "replayed");
}

#[tokio::test]
async fn f_46_the_client_proves_who_it_is() {
    let enterprise = Enterprise::new().await;
    let good = enterprise.sign(json!({}), json!({}));
    let form = [("grant_type", GRANT), ("assertion", &*good), ("client_id", "server")];
    assert_eq!(enterprise.stage.token(&form).await.error(), (401, "invalid_client"));
    let public = change(&form, &[("client_id", "editor")]);
    assert_eq!(enterprise.stage.token(&public).await.error(), (400, "unauthorized_client"));
    assert_eq!(enterprise.ask(&good, &[("assertion", "")]).await.error(), (400, "invalid_request"));
    let none = Stage::new().await;
    assert_eq!(none.token_of_server(&form[..2]).await.error(), (400, "unsupported_grant_type"));
}
