//! What clients read before they ask, and whose pages may (spec.md F-02 to F-07, H-19).

use std::collections::BTreeMap;

use http::Method;
use serde_json::json;

use super::stage::{CONFIG, ISSUER, SECRET, Stage, basic};

#[tokio::test]
async fn f_02_metadata_is_the_same_document_at_both_places() {
    let stage = Stage::new().await;
    let places = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];
    let mut documents = Vec::new();
    for place in places {
        let answer = stage.ask(Method::GET, place, &[], "").await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.text("issuer"), ISSUER, "F-03: byte for byte");
        assert_eq!(answer.body["code_challenge_methods_supported"], json!(["S256"]), "F-04");
        documents.push(answer.body);
    }
    assert_eq!(documents[0], documents[1]);
    // In the same order whatever else in the tree asks of serde_json.
    let sorted: BTreeMap<_, _> = documents[0].as_object().unwrap().iter().collect();
    insta::assert_snapshot!(serde_json::to_string_pretty(&sorted).unwrap());
    let unknown =
        ["/.well-known/oauth-authorization-server/", "/.well-known/oauth-authorization-server/mcp/a"];
    for path in unknown {
        assert!(stage.ask(Method::GET, path, &[], "").await.is_none(), "{path}");
    }
}

#[tokio::test]
async fn f_06_metadata_says_what_is_on_and_nothing_that_is_off() {
    let read = async |config: &str| {
        let stage = Stage::configured(config).await;
        stage.ask(Method::GET, "/.well-known/oauth-authorization-server", &[], "").await.unwrap().body
    };
    let bare = read("client_documents = { enabled = false }").await;
    assert_eq!(bare["grant_types_supported"], json!(["authorization_code", "refresh_token"]));
    assert_eq!(bare["client_id_metadata_document_supported"], json!(false));
    assert!(bare.get("registration_endpoint").is_none());
    assert!(bare.get("authorization_grant_profiles_supported").is_none());
    assert_eq!(bare["authorization_response_iss_parameter_supported"], json!(true));

    let config =
        format!("registration = \"on\"\n[[assertion_issuers]]\nissuer = \"https://idp.example\"\n{CONFIG}");
    let full = read(&config).await;
    assert_eq!(full["registration_endpoint"], json!(format!("{ISSUER}/oauth/register")));
    assert_eq!(full["grant_types_supported"].as_array().unwrap().len(), 5);
    assert_eq!(
        full["authorization_grant_profiles_supported"],
        json!(["urn:ietf:params:oauth:grant-profile:id-jag"])
    );
}

#[tokio::test]
async fn pages_of_known_origins_may_call_and_others_may_not_read() {
    let stage = Stage::configured(&format!("cors_origins = [\"https://app.example\"]\n{CONFIG}")).await;
    let allowed = async |path: &str, origin: &str, method: Method| {
        let answer = stage.ask(method, path, &[("origin", origin)], "").await.unwrap();
        answer.headers.get("access-control-allow-origin").map(|v| v.to_str().unwrap().to_owned())
    };
    for origin in ["https://app.example", "http://localhost:6274", "http://127.0.0.1:1", "http://[::1]:80808"]
    {
        let expected = (!origin.ends_with("80808")).then(|| origin.to_owned());
        for method in [Method::OPTIONS, Method::POST] {
            assert_eq!(allowed("/oauth/token", origin, method.clone()).await, expected, "{origin}");
            assert_eq!(allowed("/oauth/revoke", origin, method).await, expected, "{origin}");
        }
    }
    for origin in [
        "https://evil.example",
        "https://app.example.evil",
        "https://app.example/",
        "http://app.example",
        "http://localhost.evil",
        "http://localhost:1/",
        "null",
        "",
    ] {
        assert_eq!(allowed("/oauth/token", origin, Method::OPTIONS).await, None, "{origin}");
    }
    assert_eq!(allowed("/oauth/introspect", "https://app.example", Method::OPTIONS).await, None);
    let preflight =
        stage.ask(Method::OPTIONS, "/oauth/token", &[("origin", "https://app.example")], "").await.unwrap();
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.headers["vary"], "Origin");
    assert_eq!(preflight.headers["access-control-allow-methods"], "POST, OPTIONS");
    assert!(preflight.headers["access-control-allow-headers"].to_str().unwrap().contains("DPoP"));
}

#[tokio::test]
async fn endpoints_know_their_methods() {
    let stage = Stage::new().await;
    for path in ["/oauth/token", "/oauth/revoke", "/oauth/introspect"] {
        let answer = stage.ask(Method::GET, path, &[], "").await.unwrap();
        assert_eq!((answer.status, answer.headers["allow"].to_str().unwrap()), (405, "POST, OPTIONS"));
    }
    assert_eq!(stage.ask(Method::POST, "/oauth/jwks", &[], "").await.unwrap().status, 405);
    let head = stage.ask(Method::HEAD, "/oauth/jwks", &[], "").await.unwrap();
    assert_eq!((head.status, head.body), (200, serde_json::Value::Null));
    for path in ["/oauth/register", "/oauth/authorize", "/oauth/", "/oauth/token/", "/", "/mcp/a"] {
        assert!(stage.ask(Method::POST, path, &[], "").await.is_none(), "{path}");
    }
}

#[tokio::test]
async fn f_38_keys_are_published_before_they_sign_and_after() {
    let stage = Stage::new().await;
    let published = async || {
        let answer = stage.ask(Method::GET, "/oauth/jwks", &[], "").await.unwrap();
        answer.body["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect::<Vec<_>>()
    };
    let first = published().await;
    assert_eq!(first.len(), 1);
    let answer = stage.ask(Method::GET, "/oauth/jwks", &[], "").await.unwrap();
    let key = &answer.body["keys"][0];
    assert_eq!((&key["kty"], &key["alg"], &key["use"]), (&json!("EC"), &json!("ES256"), &json!("sig")));
    assert!(key.get("d").is_none());

    let give = async || {
        let form = [("grant_type", "client_credentials"), ("resource", super::stage::A)];
        let lines = [("authorization", &*basic("server", SECRET))];
        stage.post("/oauth/token", &lines, &form).await.text("access_token").to_owned()
    };
    let day = 24 * 3600;
    stage.advance(29 * day);
    stage.facade.catch_up().await.unwrap();
    let both = published().await;
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    assert_eq!(super::stage::header(&give().await)["kid"], first[0], "the next one does not sign yet");
    stage.advance(day - 1);
    let last = give().await;
    stage.advance(1);
    stage.facade.catch_up().await.unwrap();
    assert_eq!(published().await.len(), 2);
    let next = give().await;
    assert_eq!(super::stage::header(&next)["kid"], both[1]);
    assert!(stage.show("/mcp/a", &last).await.is_ok(), "what the old key signed is still good");
    assert!(stage.show("/mcp/a", &next).await.is_ok());
    stage.advance(3600);
    stage.facade.catch_up().await.unwrap();
    assert_eq!(published().await, [both[1].clone()]);
}

#[tokio::test]
async fn the_gate_sends_clients_to_the_facade() {
    let stage = Stage::new().await;
    let document = stage.gate.metadata("/.well-known/oauth-protected-resource/mcp/a").unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["authorization_servers"], json!([ISSUER]));
    assert_eq!(document["resource"], json!(super::stage::A));
}

#[tokio::test]
async fn no_other_issuer_has_our_name() {
    let stage = Stage::new().await;
    let rules = format!("issuers = [{{ kind = \"oidc\", issuer = \"{ISSUER}\" }}]");
    let rules: crate::ResourceServerConfig = toml::from_str(&rules).unwrap();
    let problems = rules.problems_beside(Some(stage.facade.issuer()), &[]);
    assert_eq!(problems, [format!("two [[identity.issuers]] are `{ISSUER}`")]);
}

#[tokio::test]
async fn replicas_sign_with_the_same_key() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let (token, _) = stage.tokens().await;
    assert!(replica.show("/mcp/a", &token).await.is_ok());
    let keys = async |stage: &Stage| stage.ask(Method::GET, "/oauth/jwks", &[], "").await.unwrap().body;
    assert_eq!(keys(&stage).await, keys(&replica).await);
}

#[tokio::test]
async fn without_keys_there_are_no_tokens() {
    let stage = Stage::new().await;
    // The store was out of reach for so long that no key is left.
    stage.advance(40 * 24 * 3600);
    let form = [("grant_type", "client_credentials"), ("resource", super::stage::A)];
    assert_eq!(stage.token_of_server(&form).await.error(), (503, "temporarily_unavailable"));
    let answer = stage.ask(Method::GET, "/oauth/jwks", &[], "").await.unwrap();
    assert_eq!(answer.body, json!({ "keys": [] }));
}

#[test]
fn everything_wrong_with_a_configuration_is_said_at_once() {
    let config: crate::FacadeConfig = toml::from_str(
        r#"
        access_token_s = 3600
        refresh_retry_s = 120
        cors_origins = ["https://app.example/"]
        [[clients]]
        id = "a b"
        name = ""
        redirect_uris = ["http://example.com/cb"]
        grants = ["client_credentials"]
        [[clients]]
        id = "twice"
        name = "x"
        redirect_uris = ["https://c.example/cb"]
        [[clients]]
        id = "twice"
        name = "x"
        [[assertion_issuers]]
        issuer = "http://idp.example"
        [[exchange_issuers]]
        audience = ""
        issuer = { kind = "oidc", issuer = "https://other.example" }
        "#,
    )
    .unwrap();
    let mut resource = super::stage::resource("https://elsewhere.example/mcp/a");
    resource.default_scopes = vec!["no such".to_owned()];
    let problems = config.problems(&"http://mcp.example.com/path".parse().unwrap(), &[resource]);
    insta::assert_snapshot!(problems.join("\n"));
}
