//! Registration (RFC 7591; spec.md F-24, F-42; attacks.md AA-26).

use http::Method;
use serde_json::{Value, json};

use super::stage::{A, Answer, CONFIG, Stage, basic, redemption};
use crate::tests::scene::{Signer, merge};

const ON: &str = "registration = \"on\"\n";

async fn register(stage: &Stage, body: &Value) -> Answer {
    let lines = [("content-type", "application/json")];
    stage.ask(Method::POST, "/oauth/register", &lines, &body.to_string()).await.unwrap()
}

fn good() -> Value {
    json!({
        "client_name": "A client", "redirect_uris": ["https://c.example/cb"], "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
    })
}

#[tokio::test]
async fn a_registered_client_completes_the_flow() {
    let stage = Stage::configured(ON).await;
    let answer = register(&stage, &good()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let id = answer.text("client_id").to_owned();
    assert!(answer.body.get("client_secret").is_none());
    let request = stage.authorize(&[("client_id", &id)]).await.unwrap();
    assert_eq!((request.client.verified_host.as_deref(), request.client.only_loopback), (None, false));
    let code = stage.code(&[("client_id", &id)]).await;
    assert_eq!(stage.redeem(&code, &[("client_id", &id)]).await.status, 200);
}

#[tokio::test]
async fn a_client_that_asks_for_no_scope_in_particular_may_say_so() {
    let stage = Stage::configured(ON).await;
    let answer = register(&stage, &merge(good(), json!({ "scope": "" }))).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let silent = register(&stage, &good()).await;
    assert_eq!(answer.body.get("scope"), silent.body.get("scope"), "as if it had said nothing");
    for bad in [json!(" "), json!(["a"]), json!("a\u{0}b")] {
        assert_eq!(register(&stage, &merge(good(), json!({ "scope": bad }))).await.status, 400);
    }
}

#[tokio::test]
async fn a_registered_secret_is_the_only_way_in() {
    let stage = Stage::configured(ON).await;
    let answer =
        register(&stage, &merge(good(), json!({ "token_endpoint_auth_method": "client_secret_basic" })))
            .await;
    let (id, secret) = (answer.text("client_id").to_owned(), answer.text("client_secret").to_owned());
    assert_eq!(answer.body["client_secret_expires_at"], json!(0));
    let code = stage.code(&[("client_id", &id)]).await;
    assert_eq!(stage.redeem(&code, &[("client_id", &id)]).await.error(), (401, "invalid_client"));
    let form = redemption(&code).into_iter().filter(|(name, _)| *name != "client_id").collect::<Vec<_>>();
    let wrong = [("authorization", &*basic(&id, "wrong"))];
    assert_eq!(stage.post("/oauth/token", &wrong, &form).await.error(), (401, "invalid_client"));
    let right = [("authorization", &*basic(&id, &secret))];
    let tokens = stage.post("/oauth/token", &right, &form).await;
    assert_eq!(tokens.status, 200, "{}", tokens.body);
    // It is good for as long as its client is used: the hour is of registrations that nobody lets in.
    stage.advance(13 * 24 * 3600);
    stage.facade.catch_up().await.unwrap();
    let form = [("grant_type", "refresh_token"), ("refresh_token", tokens.text("refresh_token"))];
    let refreshed = stage.post("/oauth/token", &right, &form).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
}

#[tokio::test]
async fn aa_26_what_could_harm_is_not_registered() {
    let stage = Stage::configured(ON).await;
    for uri in [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "http://c.example/cb",
        "https://c.example/cb#f",
        "https://*.example/cb",
        "https://u@c.example/cb",
        "myapp://cb",
    ] {
        let answer = register(&stage, &merge(good(), json!({ "redirect_uris": [uri] }))).await;
        assert_eq!(answer.error(), (400, "invalid_redirect_uri"), "{uri}");
        stage.advance(60);
    }
    let private = merge(Signer::ec().jwk(), json!({ "d": "AAAA" }));
    for bad in [
        json!({ "redirect_uris": null }),
        json!({ "redirect_uris": [] }),
        json!({ "redirect_uris": "https://c.example/cb" }),
        json!({ "redirect_uris": ["http://127.0.0.1/"], "application_type": "web" }),
        json!({ "grant_types": ["password"] }),
        json!({ "grant_types": ["implicit"] }),
        json!({ "grant_types": ["client_credentials", "authorization_code"] }),
        json!({ "response_types": ["token"] }),
        json!({ "scope": "*" }),
        json!({ "jwks": { "keys": [private] }, "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "jwks_uri": "http://169.254.169.254/", "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "token_endpoint_auth_method": "tls_client_auth" }),
        json!({ "client_id": "https://known.example/client.json" }),
        json!({ "client_secret": "mine" }),
        json!({ "client_name": "line\nbreak" }),
        json!({ "client_name": "Claude\u{202e}" }),
        json!({ "client_name": "Microsoft\u{200b}" }),
        json!({ "client_name": "x".repeat(4096) }),
        json!({ "application_type": "service" }),
    ] {
        let answer = register(&stage, &merge(good(), bad.clone())).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
        assert!(matches!(answer.text("error"), "invalid_redirect_uri" | "invalid_client_metadata"), "{bad}");
        stage.advance(60);
    }
    let lines = [("content-type", "application/json")];
    for body in ["", "[]", r#"{"redirect_uris":[],"redirect_uris":[]}"#, &"x".repeat(20_000)] {
        let answer = stage.ask(Method::POST, "/oauth/register", &lines, body).await.unwrap();
        assert_eq!(answer.error(), (400, "invalid_client_metadata"));
        stage.advance(60);
    }
    let put = stage.ask(Method::PUT, "/oauth/register", &lines, "{}").await.unwrap();
    assert_eq!(put.status, 405);
    assert_eq!(register(&stage, &good()).await.status, 201, "the honest neighbour");
}

#[tokio::test]
async fn aa_26_registrations_are_bounded_for_each_address() {
    let stage = Stage::configured(ON).await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(register(&stage, &good()).await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 10);
    let refused = register(&stage, &good()).await;
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    stage.advance(60);
    assert_eq!(register(&stage, &good()).await.status, 201);
}

#[tokio::test]
async fn a_mode_for_loopback_lets_nobody_else_in() {
    let stage = Stage::configured("registration = \"loopback\"").await;
    assert_eq!(register(&stage, &good()).await.error(), (400, "invalid_redirect_uri"));
    let both = json!({ "redirect_uris": ["http://127.0.0.1/cb", "https://c.example/cb"] });
    assert_eq!(register(&stage, &merge(good(), both)).await.error(), (400, "invalid_redirect_uri"));
    let local = json!({ "redirect_uris": ["http://127.0.0.1/cb", "http://localhost:3000/cb"] });
    let answer = register(&stage, &merge(good(), local)).await;
    assert_eq!(answer.status, 201);
    let changes = [("client_id", answer.text("client_id")), ("redirect_uri", "http://127.0.0.1:5/cb")];
    let request = stage.authorize(&changes).await.unwrap();
    assert!(request.client.only_loopback);
}

#[tokio::test]
async fn f_42_a_client_that_registered_itself_acts_for_nobody_but_people() {
    let stage = Stage::configured(&format!("{ON}{CONFIG}")).await;
    let answer =
        register(&stage, &merge(good(), json!({ "token_endpoint_auth_method": "client_secret_post" }))).await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", answer.text("client_id")),
        ("client_secret", answer.text("client_secret")),
        ("resource", A),
    ];
    assert_eq!(stage.token(&form).await.error(), (400, "unauthorized_client"));
}

#[tokio::test]
async fn a_registration_that_is_not_used_ends() {
    let stage = Stage::configured(ON).await;
    let (used, unused) = (register(&stage, &good()).await, register(&stage, &good()).await);
    let (used, unused) = (used.text("client_id"), unused.text("client_id"));
    let day = 24 * 3600;
    let code = stage.code(&[("client_id", used)]).await;
    let tokens = stage.redeem(&code, &[("client_id", used)]).await;
    assert_eq!(tokens.status, 200, "{}", tokens.body);
    stage.advance(60 * day);
    stage.facade.catch_up().await.unwrap();
    assert!(stage.authorize(&[("client_id", used)]).await.is_ok());
    assert!(stage.authorize(&[("client_id", unused)]).await.is_err());
    let code = stage.code(&[("client_id", used)]).await;
    let tokens = stage.redeem(&code, &[("client_id", used)]).await;
    assert_eq!(tokens.status, 200, "{}", tokens.body);
    stage.advance(13 * day);
    stage.facade.catch_up().await.unwrap();
    let refreshed = stage.refresh(tokens.text("refresh_token"), &[("client_id", used)]).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
    stage.advance(80 * day);
    assert!(stage.authorize(&[("client_id", used)]).await.is_ok(), "refreshing is use");
    stage.facade.revoke_client(used).await.unwrap();
    assert!(stage.authorize(&[("client_id", used)]).await.is_err());
}

/// Registrations that nobody let in are gone in an hour, whoever names them meanwhile, and leave room for others.
#[tokio::test]
async fn aa_26_what_nobody_uses_takes_nobodys_place() {
    let stage = Stage::configured(ON).await;
    let mut made = Vec::new();
    for minute in 0..6 {
        for _ in 0..10 {
            let answer = register(&stage, &good()).await;
            assert_eq!(answer.status, 201, "{minute}: {}", answer.body);
            made.push(answer.text("client_id").to_owned());
        }
        stage.advance(60);
    }
    assert_eq!(stage.registered().await, 60);
    stage.advance(3000);
    for id in &made {
        let named = stage.authorize(&[("client_id", id)]).await;
        let form = [("grant_type", "refresh_token"), ("client_id", id), ("refresh_token", "x")];
        assert_eq!((named.is_ok(), stage.token(&form).await.error()), (true, (400, "invalid_grant")));
    }
    stage.advance(7200 - 3000);
    assert_eq!(stage.registered().await, 0, "naming one keeps it not");
    assert!(stage.authorize(&[("client_id", &made[0])]).await.is_err());
    assert_eq!(register(&stage, &good()).await.status, 201);
}

#[tokio::test]
async fn scopes_that_no_resource_knows_are_left_out() {
    let stage = Stage::configured(ON).await;
    let answer = register(&stage, &merge(good(), json!({ "scope": "mcp:read admin" }))).await;
    assert_eq!((answer.status, answer.text("scope")), (201, "mcp:read"));
    let id = answer.text("client_id");
    assert!(stage.authorize(&[("client_id", id), ("scope", "mcp:write")]).await.is_err());
}

#[tokio::test]
async fn aa_22_a_client_that_names_unknown_scopes_alone_is_not_one_that_may_have_any() {
    let stage = Stage::configured(ON).await;
    for scope in ["admin", "admin offline_access", "openid profile email"] {
        let answer = register(&stage, &merge(good(), json!({ "scope": scope }))).await;
        assert_eq!(answer.error(), (400, "invalid_client_metadata"), "{scope}: {}", answer.body);
    }
    assert_eq!(stage.registered().await, 0);
    // A refresh token is no scope of a resource: who asks for that alone asks for nothing in particular.
    let answer = register(&stage, &merge(good(), json!({ "scope": "offline_access" }))).await;
    assert_eq!((answer.status, answer.body.get("scope")), (201, None));
    let id = answer.text("client_id");
    assert!(stage.authorize(&[("client_id", id), ("scope", "mcp:write offline_access")]).await.is_ok());
}

#[tokio::test]
async fn where_no_resource_has_scopes_a_client_that_names_some_gets_none_later_either() {
    let stage = Stage::configured(ON).await.without_scopes().await;
    let answer = register(&stage, &merge(good(), json!({ "scope": "openid profile" }))).await;
    assert_eq!((answer.status, answer.body.get("scope")), (201, None), "{}", answer.body);
    let named = [("client_id", answer.text("client_id")), ("scope", "")];
    assert!(stage.authorize(&named).await.unwrap().scopes.is_empty(), "the MCP Inspector and others do");
    let stage = stage.with_scopes().await;
    assert!(stage.authorize(&[named[0], ("scope", "mcp:write")]).await.is_err());
}
