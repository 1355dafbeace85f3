//! Taking back, and asking what a token means (RFC 7009, RFC 7662; attacks.md AA-40).

use http::Method;
use serde_json::json;

use super::stage::{A, CONFIG, SECRET, Stage, ann, basic};
use crate::Error;

async fn introspect(stage: &Stage, client: &str, token: &str) -> super::stage::Answer {
    let lines = [("authorization", &*basic(client, SECRET))];
    stage.post("/oauth/introspect", &lines, &[("token", token)]).await
}

const WITH_RESOURCE_SERVER: &str = "[[clients]]\nid = \"rs\"\nname = \"A resource server\"\nsecret = { env = \"X\" }\n\
                                    grants = []\nintrospects = true\n";

#[tokio::test]
async fn aa_40_a_client_takes_back_its_own_tokens_only() {
    let stage = Stage::new().await;
    let (access, refresh) = stage.tokens().await;
    let revoke = async |client: &str, token: &str| {
        stage.post("/oauth/revoke", &[], &[("client_id", client), ("token", token)]).await.status
    };
    assert_eq!(revoke("other", &access).await, 200);
    assert_eq!(revoke("other", &refresh).await, 200);
    assert_eq!(revoke("editor", "unknown").await, 200);
    assert_eq!(revoke("nobody", &access).await, 401);
    assert!(stage.show("/mcp/a", &access).await.is_ok(), "another client's word has no effect");

    assert_eq!(revoke("editor", &access).await, 200);
    assert_eq!(stage.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
    let next = stage.refresh(&refresh, &[]).await;
    assert!(stage.show("/mcp/a", next.text("access_token")).await.is_ok(), "the sign-in lives on");
    assert_eq!(revoke("editor", next.text("refresh_token")).await, 200);
    assert_eq!(stage.show("/mcp/a", next.text("access_token")).await.unwrap_err(), Error::Denied);
    assert_eq!(stage.refresh(next.text("refresh_token"), &[]).await.error(), (400, "invalid_grant"));
}

/// A key that this process cannot read keeps nothing from it that others have revoked.
#[tokio::test]
async fn aa_40_what_others_revoke_is_read_before_keys() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let (access, _) = stage.tokens().await;
    replica.facade.catch_up().await.unwrap();
    assert!(replica.show("/mcp/a", &access).await.is_ok());
    replica.keys.are_unreadable.store(true, std::sync::atomic::Ordering::SeqCst);
    stage.facade.revoke_person(&ann().issuer, &ann().subject).await.unwrap();
    assert!(replica.facade.catch_up().await.is_err(), "the operator hears of it");
    assert_eq!(replica.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
}

#[tokio::test]
async fn aa_40_only_clients_that_prove_who_they_are_learn_what_a_token_means() {
    let stage = Stage::configured(&format!("{WITH_RESOURCE_SERVER}{CONFIG}")).await;
    let (access, refresh) = stage.tokens().await;
    let bare = stage.post("/oauth/introspect", &[], &[("token", &access)]).await;
    assert_eq!(bare.error(), (401, "invalid_client"));
    let public = stage.post("/oauth/introspect", &[], &[("token", &access), ("client_id", "editor")]).await;
    assert_eq!(public.error(), (401, "invalid_client"));
    assert_eq!(stage.ask(Method::GET, "/oauth/introspect", &[], "").await.unwrap().status, 405);

    let answer = introspect(&stage, "rs", &access).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(
        (&answer.body["active"], answer.text("client_id"), answer.text("aud")),
        (&json!(true), "editor", A)
    );
    assert_eq!(introspect(&stage, "rs", &refresh).await.body["active"], json!(true));
    let inactive = json!({ "active": false });
    assert_eq!(introspect(&stage, "server", &access).await.body, inactive, "not its own");
    assert_eq!(introspect(&stage, "server", &refresh).await.body, inactive);
    for token in ["unknown", "a.b.c", &format!("{access}x")] {
        assert_eq!(introspect(&stage, "rs", token).await.body, inactive);
    }
    stage.facade.revoke_person("https://idp.example", "ann").await.unwrap();
    assert_eq!(introspect(&stage, "rs", &access).await.body, inactive);
    assert_eq!(introspect(&stage, "rs", &refresh).await.body, inactive);
    stage.advance(1);
    let (access, _) = stage.tokens().await;
    assert_eq!(introspect(&stage, "rs", &access).await.body["active"], json!(true));
    stage.advance(600);
    assert_eq!(introspect(&stage, "rs", &access).await.body, inactive, "it is over");
}

#[tokio::test]
async fn operators_and_people_take_back_everything_here_at_once_and_elsewhere_soon() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let form = [("grant_type", "client_credentials"), ("resource", A)];
    let given = stage.facade.granted_by("https://idp.example", "ann").await.unwrap();
    assert!(given.is_empty());

    let (access, refresh) = stage.tokens().await;
    let given = stage.facade.granted_by("https://idp.example", "ann").await.unwrap();
    assert_eq!((given.len(), given[0].client.as_str(), given[0].resource.as_str()), (1, "editor", A));
    assert!(replica.show("/mcp/a", &access).await.is_ok());
    stage.facade.revoke_person("https://idp.example", "ann").await.unwrap();
    assert_eq!(stage.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
    replica.facade.catch_up().await.unwrap();
    assert_eq!(replica.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
    assert_eq!(stage.refresh(&refresh, &[]).await.error(), (400, "invalid_grant"));
    assert!(stage.facade.granted_by("https://idp.example", "ann").await.unwrap().is_empty());

    stage.advance(1);
    let (access, _) = stage.tokens().await;
    assert!(replica.show("/mcp/a", &access).await.is_ok(), "a new sign-in counts");
    let of_server = stage.token_of_server(&form).await.text("access_token").to_owned();
    assert!(replica.show("/mcp/a", &of_server).await.is_ok());
    stage.facade.revoke_client("server").await.unwrap();
    replica.facade.catch_up().await.unwrap();
    for stage in [&stage, &replica] {
        assert_eq!(stage.show("/mcp/a", &of_server).await.unwrap_err(), Error::Denied);
        assert!(stage.show("/mcp/a", &access).await.is_ok(), "the other client's token lives");
    }
    stage.facade.revoke_consent("https://idp.example", "bob", "editor").await.unwrap();
    assert!(stage.show("/mcp/a", &access).await.is_ok());
    stage.facade.revoke_consent("https://idp.example", &ann().subject, "editor").await.unwrap();
    assert_eq!(stage.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
}

#[tokio::test]
async fn other_processes_keep_up_by_themselves() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let keeping = tokio::spawn(std::sync::Arc::clone(&replica.facade).keep_up());
    let (access, _) = stage.tokens().await;
    assert!(replica.show("/mcp/a", &access).await.is_ok());
    stage.facade.revoke_person("https://idp.example", "ann").await.unwrap();
    let soon = async {
        while replica.show("/mcp/a", &access).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), soon).await.unwrap();
    keeping.abort();
}

#[tokio::test]
async fn keys_that_got_out_are_replaced() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let (old, refresh) = stage.tokens().await;
    stage.facade.replace_keys().await.unwrap();
    replica.facade.catch_up().await.unwrap();
    for stage in [&stage, &replica] {
        assert_eq!(stage.show("/mcp/a", &old).await.unwrap_err(), Error::KeyUnknown);
    }
    let answer = stage.refresh(&refresh, &[]).await;
    assert!(replica.show("/mcp/a", answer.text("access_token")).await.is_ok());
}

#[tokio::test]
async fn a_code_that_waits_is_taken_back_too() {
    let stage = Stage::new().await;
    let code = stage.code(&[]).await;
    stage.facade.revoke_consent("https://idp.example", "ann", "editor").await.unwrap();
    assert_eq!(stage.redeem(&code, &[]).await.error(), (400, "invalid_grant"));
}

#[tokio::test]
async fn a_process_that_starts_later_knows_what_was_revoked() {
    let stage = Stage::new().await;
    let (access, _) = stage.tokens().await;
    stage.facade.revoke_consent("https://idp.example", "ann", "editor").await.unwrap();
    let later = stage.replica().await;
    assert_eq!(later.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
}
