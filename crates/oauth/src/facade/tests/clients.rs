//! Clients that prove who they are, and act for themselves (spec.md F-25, F-41 to F-44; attacks.md AA-35).

use serde_json::{Value, json};

use super::stage::{A, CONFIG, ISSUER, SECRET, Stage, basic, claims};
use crate::{
    Error, Principal,
    tests::scene::{NOW, Signer, merge},
};

const FORM: [(&str, &str); 2] = [("grant_type", "client_credentials"), ("resource", A)];
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[tokio::test]
async fn f_44_a_client_that_acts_for_itself_is_no_person() {
    let stage = Stage::new().await;
    let answer = stage.token_of_server(&FORM).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.get("refresh_token").is_none());
    let token = answer.text("access_token");
    let said = claims(token);
    assert_eq!((&said["sub"], &said["aud"], said.get("idp")), (&json!("server"), &json!(A), None));
    let verified = stage.show("/mcp/a", token).await.unwrap();
    assert_eq!(verified.principal(), Principal::Application);
    let caller = verified.caller();
    assert_eq!((caller.issuer(), caller.subject(), caller.client()), (ISSUER, "server", "server"));
    assert!(matches!(stage.show("/mcp/b", token).await, Err(Error::AudienceWrong { .. })));
    for (changes, error) in [
        ([("resource", "")], "invalid_target"),
        ([("resource", "https://evil.example")], "invalid_target"),
        ([("scope", "admin")], "invalid_scope"),
    ] {
        let form = super::stage::change(&FORM, &changes);
        assert_eq!(stage.token_of_server(&form).await.error(), (400, error));
    }
}

#[tokio::test]
async fn aa_35_a_secret_is_shown_whole_in_one_place() {
    let stage = Stage::new().await;
    let post = |extra: &[(&'static str, &'static str)]| [FORM.as_slice(), extra].concat();
    let good = basic("server", SECRET);
    let header = |line: &str| vec![("authorization", line.to_owned())];
    type Lines = Vec<(&'static str, String)>;
    let cases: Vec<(Lines, Vec<(&str, &str)>)> = vec![
        (vec![], post(&[])),
        (vec![], post(&[("client_id", "server")])),
        (vec![], post(&[("client_id", "server"), ("client_secret", "")])),
        (vec![], post(&[("client_id", "server"), ("client_secret", "wrong")])),
        (vec![], post(&[("client_id", "editor"), ("client_secret", SECRET)])),
        (vec![], post(&[("client_secret", SECRET)])),
        (header(&basic("server", "wrong")), post(&[])),
        (header(&basic("server", "")), post(&[])),
        (header(&basic("editor", SECRET)), post(&[])),
        (header("Basic !!!"), post(&[])),
        (header("Bearer x"), post(&[])),
        (header(&good), post(&[("client_id", "server"), ("client_secret", SECRET)])),
        (header(&good), post(&[("client_id", "other")])),
        (header(&good), post(&[("client_assertion_type", ASSERTION), ("client_assertion", "a.b.c")])),
        (header(&good).into_iter().chain(header(&good)).collect(), post(&[])),
        (vec![], post(&[("client_id", "server"), ("client_assertion", "a.b.c")])),
    ];
    for (lines, form) in cases {
        let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = stage.post("/oauth/token", &lines, &form).await;
        assert_eq!(answer.error(), (401, "invalid_client"), "{lines:?} {form:?}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), !lines.is_empty(), "RFC 6749 §5.2");
    }
    let in_body = post(&[("client_id", "server"), ("client_secret", SECRET)]);
    assert_eq!(stage.token(&in_body).await.status, 200);
    let both_names = post(&[("client_id", "server")]);
    assert_eq!(stage.post("/oauth/token", &[("authorization", &good)], &both_names).await.status, 200);
}

#[tokio::test]
async fn f_43_aa_35_an_assertion_is_the_clients_own_for_us_now_and_once() {
    let (key, thief) = (Signer::ec(), Signer::ec());
    let jwks = json!({ "keys": [key.jwk_with(json!({ "kid": "k" }))] });
    let config = format!(
        "[[clients]]\nid = \"robot\"\nname = \"Robot\"\ngrants = [\"client_credentials\"]\n\
         jwks = {{ keys = [{{ kty = \"EC\", crv = \"P-256\", kid = \"k\", x = {}, y = {} }}] }}\n{CONFIG}",
        jwks["keys"][0]["x"], jwks["keys"][0]["y"]
    );
    let stage = Stage::configured(&config).await;
    let sign = |key: &Signer, header: Value, change: Value| {
        let good = json!({
            "iss": "robot", "sub": "robot", "aud": ISSUER, "exp": NOW + 60, "iat": NOW, "jti": "one",
        });
        key.token(&merge(json!({ "alg": "ES256", "kid": "k" }), header), &merge(good, change))
    };
    let ask = async |assertion: &str, extra: &[(&str, &str)]| {
        let proof = [("client_assertion_type", ASSERTION), ("client_assertion", assertion)];
        stage.token(&[FORM.as_slice(), &proof, extra].concat()).await
    };
    for change in [
        json!({ "iss": "server" }),
        json!({ "sub": "server" }),
        json!({ "sub": "editor", "iss": "editor" }),
        json!({ "aud": "https://evil.example" }),
        json!({ "aud": [ISSUER, "https://evil.example"] }),
        json!({ "aud": A }),
        json!({ "aud": null }),
        json!({ "exp": null }),
        json!({ "exp": NOW - 61 }),
        json!({ "exp": NOW + 3600 }),
        json!({ "exp": (NOW + 60).to_string() }),
        json!({ "nbf": NOW + 61 }),
        json!({ "iat": NOW + 61 }),
        json!({ "jti": null }),
    ] {
        let answer = ask(&sign(&key, json!({}), change.clone()), &[]).await;
        assert_eq!(answer.error(), (401, "invalid_client"), "{change}");
    }
    for header in [
        json!({ "alg": "none" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "RS256" }),
        json!({ "kid": "foreign" }),
        json!({ "typ": "at+jwt" }),
        json!({ "typ": "dpop+jwt" }),
        json!({ "jwk": thief.jwk() }),
        json!({ "jku": "https://evil.example/keys" }),
        json!({ "crit": ["exp"] }),
    ] {
        let answer = ask(&sign(&key, header.clone(), json!({})), &[]).await;
        assert_eq!(answer.error(), (401, "invalid_client"), "{header}");
    }
    assert_eq!(ask(&sign(&thief, json!({}), json!({})), &[]).await.error(), (401, "invalid_client"));
    let good = sign(&key, json!({}), json!({}));
    assert_eq!(ask(&good, &[("client_id", "server")]).await.error(), (401, "invalid_client"));
    // What was refused has used nothing up.
    assert_eq!(ask(&good, &[]).await.status, 200);
    assert_eq!(ask(&good, &[]).await.error(), (401, "invalid_client"), "replayed");
    let endpoint = json!({ "aud": format!("{ISSUER}/oauth/token"), "jti": "two" });
    assert_eq!(ask(&sign(&key, json!({}), endpoint), &[("client_id", "robot")]).await.status, 200);
    let replica = stage.replica().await;
    let proof = [("client_assertion_type", ASSERTION), ("client_assertion", &*good)];
    let elsewhere = replica.token(&[FORM.as_slice(), &proof].concat()).await;
    assert_eq!(elsewhere.error(), (401, "invalid_client"), "replayed at another process");
}

#[tokio::test]
async fn f_25_a_configured_clients_keys_may_be_where_the_operator_says() {
    let config = "[[clients]]\nid = \"robot\"\nname = \"Robot\"\ngrants = [\"client_credentials\"]\n\
                  jwks_url = \"https://robot.internal/keys\"\n";
    let stage = Stage::configured(config).await;
    let key = Signer::ec();
    stage.net.says(
        "https://robot.internal/keys",
        200,
        json!({ "keys": [key.jwk_with(json!({ "kid": "k" }))] }),
    );
    let said = json!({ "iss": "robot", "sub": "robot", "aud": ISSUER, "exp": NOW + 60, "jti": "one" });
    let assertion = key.token(&json!({ "alg": "ES256", "kid": "k" }), &said);
    let proof = [("client_assertion_type", ASSERTION), ("client_assertion", &*assertion)];
    let answer = stage.token(&[FORM.as_slice(), &proof].concat()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(claims(answer.text("access_token"))["sub"], json!("robot"));
    assert_eq!(stage.strangers.count(), 0, "the operator named the address: it may be private");
}

#[tokio::test]
async fn a_client_is_asked_for_what_it_may() {
    let stage = Stage::new().await;
    assert_eq!(
        stage.token(&[FORM.as_slice(), &[("client_id", "editor")]].concat()).await.error(),
        (400, "unauthorized_client"),
        "a public client acts for nobody but people"
    );
}
