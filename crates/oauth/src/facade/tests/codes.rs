//! Codes and the tokens they become (spec.md F-34, F-35, F-38 to F-40; attacks.md AA-04, AA-06, AA-15, AA-16, TP-04).

use serde_json::json;

use super::stage::{A, B, BACK, ISSUER, Stage, VERIFIER, ann, claims, header, redemption};
use crate::{
    Error, Principal,
    tests::scene::{NOW, Signer},
};

#[tokio::test]
async fn a_code_becomes_a_token_that_the_gate_takes_as_the_person() {
    let stage = Stage::new().await;
    let answer = stage.redeem(&stage.code(&[]).await, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!((answer.text("token_type"), &answer.body["expires_in"]), ("Bearer", &json!(600)));
    assert_eq!(answer.text("scope"), "mcp:read mcp:write");
    let token = answer.text("access_token");
    assert_eq!((&header(token)["typ"], &header(token)["alg"]), (&json!("at+jwt"), &json!("ES256")));
    let said = claims(token);
    for (name, value) in [
        ("iss", json!(ISSUER)),
        ("aud", json!(A)),
        ("client_id", json!("editor")),
        ("scope", json!("mcp:read mcp:write")),
        ("iat", json!(NOW)),
        ("exp", json!(NOW + 600)),
        ("auth_time", json!(NOW - 30)),
        ("amr", json!(["pwd", "otp"])),
        ("acr", json!("mfa")),
        ("acrs", json!(["c1"])),
        ("idp", json!("https://idp.example")),
        ("idp_sub", json!("ann")),
        ("roles", json!(["developer"])),
        ("groups", json!(["team-1"])),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
    assert!(!said.to_string().contains("Ann"), "nothing for pages");
    assert_ne!(said["sub"], json!("ann"), "the identity provider's own subject is not ours");

    let verified = stage.show("/mcp/a", token).await.unwrap();
    let caller = verified.caller();
    assert_eq!(
        (caller.issuer(), caller.subject(), caller.client()),
        ("https://idp.example", "ann", "editor"),
        "the person is one caller whichever way they come in"
    );
    assert_eq!(verified.principal(), Principal::User);
    assert_eq!(verified.authentication_contexts(), ["mfa", "c1"]);
    assert_eq!(verified.authenticated_at().unwrap().as_unix(), NOW - 30);
    assert!(verified.roles().contains("developer") && verified.groups().contains("team-1"));
    assert_eq!(
        stage.show("/mcp/b", token).await.unwrap_err(),
        Error::AudienceWrong { resource: B.to_owned() }
    );
    stage.advance(660);
    assert_eq!(stage.show("/mcp/a", token).await.unwrap_err(), Error::Expired);
}

#[tokio::test]
async fn groups_that_are_too_many_for_a_token_are_all_known_all_the_same() {
    let stage = Stage::new().await;
    let groups: std::collections::BTreeSet<_> = (0..5000).map(|n| format!("group-{n:032}")).collect();
    let person = crate::facade::Person { groups: groups.clone(), ..ann() };
    let request = stage.authorize(&[]).await.unwrap();
    let location = stage.facade.complete(request, &person).await.unwrap();
    let answer = stage.redeem(&super::stage::parameter(&location, "code").unwrap(), &[]).await;
    let token = answer.text("access_token");
    assert!(token.len() < 2048, "{}", token.len());
    let replica = stage.replica().await;
    let verified = replica.show("/mcp/a", token).await.unwrap();
    assert_eq!(verified.groups(), &groups);
    assert!(verified.roles().contains("developer"));
    // A token whose grant is gone lets nobody in without groups.
    stage.facade.revoke_consent("https://idp.example", "ann", "editor").await.unwrap();
    assert!(stage.show("/mcp/a", token).await.is_err());
}

#[tokio::test]
async fn a_token_says_which_sign_in_it_goes_back_to_and_no_other() {
    let stage = Stage::new().await;
    for sign_in in [None, Some("first".to_owned()), Some("second".to_owned())] {
        let person = crate::facade::Person { sign_in: sign_in.clone(), ..ann() };
        let request = stage.authorize(&[]).await.unwrap();
        let location = stage.facade.complete(request, &person).await.unwrap();
        let answer = stage.redeem(&super::stage::parameter(&location, "code").unwrap(), &[]).await;
        let refreshed = stage.refresh(answer.text("refresh_token"), &[]).await;
        for token in [answer.text("access_token"), refreshed.text("access_token")] {
            let found = stage.show("/mcp/a", token).await.unwrap().sign_in();
            assert_eq!(found.map(|sign_in| sign_in.id), sign_in);
        }
    }
}

#[tokio::test]
async fn the_subject_is_one_for_a_person_and_differs_between_people() {
    let stage = Stage::new().await;
    let elsewhere = stage.behind("https://other.example").await;
    let sub_at = async |stage: &Stage, client: &str, person| {
        let request = stage.authorize(&[("client_id", client)]).await.unwrap();
        let location = stage.facade.complete(request, &person).await.unwrap();
        let code = super::stage::parameter(&location, "code").unwrap();
        let answer = stage.redeem(&code, &[("client_id", client)]).await;
        claims(answer.text("access_token"))["sub"].clone()
    };
    let sub = async |client: &str, person| sub_at(&stage, client, person).await;
    let bob = crate::facade::Person { subject: "bob".into(), ..ann() };
    let other_ann = crate::facade::Person { issuer: "https://other.example".into(), ..ann() };
    let of_ann = sub("editor", ann()).await;
    assert_eq!(of_ann, sub("other", ann()).await);
    assert_ne!(of_ann, sub("editor", bob).await);
    assert_ne!(of_ann, sub_at(&elsewhere, "editor", other_ann).await);
}

#[tokio::test]
async fn aa_15_f_34_a_code_used_twice_takes_its_tokens_with_it() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let code = stage.code(&[]).await;
    let first = stage.redeem(&code, &[]).await;
    let (access, refresh) = (first.text("access_token"), first.text("refresh_token"));
    assert!(replica.show("/mcp/a", access).await.is_ok());
    assert_eq!(stage.redeem(&code, &[]).await.error(), (400, "invalid_grant"));
    assert_eq!(stage.show("/mcp/a", access).await.unwrap_err(), Error::Denied);
    assert_eq!(stage.refresh(refresh, &[]).await.error(), (400, "invalid_grant"));
    replica.facade.catch_up().await.unwrap();
    assert_eq!(replica.show("/mcp/a", access).await.unwrap_err(), Error::Denied, "in other processes too");
    // The honest neighbour.
    let (other, _) = stage.tokens().await;
    assert!(stage.show("/mcp/a", &other).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aa_15_of_fifty_redemptions_at_once_one_succeeds() {
    let stage = std::sync::Arc::new(Stage::new().await);
    let code = stage.code(&[]).await;
    let redeeming = (0..50).map(|_| {
        let (stage, code) = (std::sync::Arc::clone(&stage), code.clone());
        tokio::spawn(async move { stage.redeem(&code, &[]).await.status })
    });
    let mut good = 0;
    for one in redeeming.collect::<Vec<_>>() {
        good += usize::from(one.await.unwrap() == 200);
    }
    assert_eq!(good, 1);
}

#[tokio::test]
async fn aa_15_a_code_is_good_for_a_minute() {
    let stage = Stage::new().await;
    let (in_time, late) = (stage.code(&[]).await, stage.code(&[]).await);
    stage.advance(60);
    assert_eq!(stage.redeem(&in_time, &[]).await.status, 200);
    stage.advance(1);
    assert_eq!(stage.redeem(&late, &[]).await.error(), (400, "invalid_grant"));
}

#[tokio::test]
async fn aa_16_a_code_is_bound_to_everything_it_was_asked_with() {
    let stage = Stage::new().await;
    let key = Signer::ec();
    let jkt = crate::key::thumbprint(&crate::json::Object::parse(key.jwk().to_string().as_bytes()).unwrap())
        .unwrap();
    let code = stage.code(&[("dpop_jkt", &jkt)]).await;
    for (changes, error) in [
        ([("client_id", "other")], "invalid_grant"),
        ([("redirect_uri", "http://127.0.0.1/cb")], "invalid_grant"),
        ([("redirect_uri", "https://c.example/cb/")], "invalid_grant"),
        ([("resource", B)], "invalid_target"),
        ([("resource", "https://evil.example")], "invalid_target"),
        ([("scope", "mcp:read admin")], "invalid_scope"),
        ([("code", "of the identity provider")], "invalid_grant"),
        ([("resource", A)], "invalid_grant"),
    ] {
        assert_eq!(stage.redeem(&code, &changes).await.error(), (400, error), "{changes:?}");
    }
    let other = stage.proof(&Signer::ec(), "1");
    let answer = stage.post("/oauth/token", &[("dpop", &other)], &redemption(&code)).await;
    assert_eq!(answer.error(), (400, "invalid_grant"), "another key");
    let proof = stage.proof(&key, "2");
    let answer = stage.post("/oauth/token", &[("dpop", &proof)], &redemption(&code)).await;
    assert_eq!((answer.status, answer.text("token_type")), (200, "DPoP"), "{}", answer.body);
}

#[tokio::test]
async fn aa_06_f_08_a_code_needs_the_verifier_of_its_challenge() {
    let stage = Stage::new().await;
    let code = stage.code(&[]).await;
    let long = "a".repeat(129);
    for verifier in
        ["", "wrong", VERIFIER.get(..42).unwrap(), &long, &VERIFIER.to_uppercase(), super::stage::CHALLENGE]
    {
        let answer = stage.redeem(&code, &[("code_verifier", verifier)]).await;
        assert_eq!(answer.error(), (400, "invalid_grant"), "{verifier}");
    }
    assert_eq!(stage.redeem(&code, &[]).await.status, 200);
}

#[tokio::test]
async fn f_40_the_token_endpoint_says_what_is_wrong_in_the_words_of_the_rfc() {
    let stage = Stage::new().await;
    let code = stage.code(&[]).await;
    for (changes, expected) in [
        ([("grant_type", "")], (400, "invalid_request")),
        ([("grant_type", "password")], (400, "unsupported_grant_type")),
        ([("grant_type", "implicit")], (400, "unsupported_grant_type")),
        ([("grant_type", "client_credentials")], (400, "unauthorized_client")),
        ([("client_id", "")], (401, "invalid_client")),
        ([("client_id", "nobody")], (401, "invalid_client")),
        ([("code", "")], (400, "invalid_request")),
    ] {
        let answer = stage.redeem(&code, &changes).await;
        assert_eq!(answer.error(), expected, "{changes:?}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    let twice = [redemption(&code).as_slice(), &[("code_verifier", "x")]].concat();
    assert_eq!(stage.token(&twice).await.error(), (400, "invalid_request"));
    let two = [redemption(&code).as_slice(), &[("resource", A), ("resource", B)]].concat();
    assert_eq!(stage.token(&two).await.error(), (400, "invalid_target"));
    let json =
        stage.ask(http::Method::POST, "/oauth/token", &[("content-type", "application/json")], "{}").await;
    assert_eq!(json.unwrap().error(), (400, "invalid_request"));
    assert_eq!(stage.redeem(&code, &[]).await.status, 200, "none of that used it up");
}

#[tokio::test]
async fn aa_04_nothing_but_an_access_token_opens_the_gate() {
    let stage = Stage::new().await;
    let code = stage.code(&[]).await;
    assert!(stage.show("/mcp/a", &code).await.is_err());
    let (access, refresh) = stage.tokens().await;
    assert!(stage.show("/mcp/a", &refresh).await.is_err());
    assert!(stage.show("/mcp/a", &access).await.is_ok());
}

#[tokio::test]
async fn f_39_nothing_a_client_gets_holds_what_is_ours() {
    let stage = Stage::new().await;
    let request = stage.authorize(&[]).await.unwrap();
    let location = stage.facade.complete(request, &ann()).await.unwrap();
    assert!(!location.contains("ann") && !location.contains("idp.example"), "{location}");
    let (access, refresh) = stage.tokens().await;
    assert_eq!(refresh.len(), 43);
    // A token without its code's client, bought with somebody else's.
    assert!(stage.refresh(&refresh, &[("client_id", "other")]).await.status == 400);
    assert!(!claims(&access).to_string().contains(BACK));
}
