//! Credentials of the gate's own.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

use super::*;

const SECRET: &str = "kind = \"secret\"\nvalue = { env = \"X\" }\n";
const CREDENTIALS: &str = "kind = \"client-credentials\"\nclient_id = \"gate:1\"\nclient_secret = { env = \"X\" }\n\
                           issuer = \"https://as.example\"\nscopes = [\"read\"]\n";

#[tokio::test]
async fn a_secret_is_read_again_after_a_second_or_a_refusal_and_gone_when_it_is_gone() {
    let scene = Scene::new(SECRET).await;
    for _ in 0..5 {
        assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer vaulted");
    }
    assert_eq!(scene.secrets.1.load(Ordering::SeqCst), 1);
    assert_eq!(scene.refused(&ann(), 401, "Bearer").await, Ok(Retry::No), "it is still the same");
    *scene.secrets.0.lock().unwrap() = Some("rotated".to_owned());
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer vaulted", "a second has not passed");
    assert_eq!(scene.refused(&ann(), 401, "Bearer").await, Ok(Retry::Once));
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer rotated");
    *scene.secrets.0.lock().unwrap() = None;
    scene.clock.advance(Duration::from_secs(1));
    assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::Failed(_))));
    for bad in ["", "two\r\nX-Evil: 1", "\0"] {
        *scene.secrets.0.lock().unwrap() = Some(bad.to_owned());
        assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::Failed(_))), "{bad:?}");
    }
    assert!(!format!("{:?}", scene.made).contains("vaulted"));
}

#[tokio::test]
async fn one_token_does_for_everybody_until_shortly_before_its_end() {
    let scene = Scene::new(CREDENTIALS).await;
    let many = (0..16)
        .map(|_| scene.credential())
        .map(|c| async move { c.headers(Some(&ann().into())).await.unwrap() });
    let mut running = tokio::task::JoinSet::new();
    many.for_each(|one| {
        running.spawn(one);
    });
    while let Some(done) = running.join_next().await {
        assert_eq!(done.unwrap()[header::AUTHORIZATION], "Bearer access-1");
    }
    assert_eq!(
        scene.forms(),
        ["grant_type=client_credentials&resource=https%3A%2F%2Fup.example%2Fmcp&scope=read"]
    );
    let (authorization, _) = scene.net.posted.lock().unwrap()[0].clone();
    assert_eq!(authorization, format!("Basic {}", STANDARD.encode("gate%3A1:vaulted")), "RFC 6749 §2.3.1");

    scene.clock.advance(Duration::from_secs(3600 - 31));
    scene.line(&ann()).await.unwrap();
    assert_eq!(scene.forms().len(), 1);
    scene.clock.advance(Duration::from_secs(1));
    scene.net.says(TOKENS, 200, tokens("access-2", json!({})));
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-2");

    assert_eq!(
        scene.refused(&ann(), 401, "Bearer").await,
        Ok(Retry::No),
        "it is too young to be worth a question"
    );
    scene.clock.advance(Duration::from_secs(11));
    scene.net.says(TOKENS, 200, tokens("access-3", json!({})));
    assert_eq!(scene.refused(&ann(), 401, "Bearer").await, Ok(Retry::Once));
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-3");
    assert_eq!(scene.refused(&ann(), 403, "Bearer scope=\"everything\"").await, Ok(Retry::No));
    assert_eq!(scene.forms().len(), 3);
}

#[tokio::test]
async fn an_authorization_server_that_fails_is_left_alone_for_a_while() {
    let scene = Scene::new(CREDENTIALS).await;
    scene.net.says(TOKENS, 500, "<html>");
    for _ in 0..5 {
        assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::Failed(_))));
    }
    assert_eq!(scene.forms().len(), 1);
    scene.net.says(TOKENS, 200, tokens("access-1", json!({})));
    scene.clock.advance(Duration::from_secs(5));
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-1");
}

/// The gate's secret goes to the authorization server the operator named, whatever the server says (spec.md C-58).
#[tokio::test]
async fn a_server_does_not_choose_who_sees_the_gates_secret() {
    let scene = Scene::new(CREDENTIALS).await;
    let evil = json!({ "resource": UP, "authorization_servers": ["https://evil.example"] });
    scene.net.says(RESOURCE_METADATA, 200, evil);
    assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::Failed(_))));
    scene.net.says(RESOURCE_METADATA, 404, "");
    scene.net.says("https://up.example/.well-known/oauth-protected-resource", 404, "");
    scene.net.says(
        METADATA,
        200,
        json!({ "issuer": "https://evil.example", "token_endpoint": "https://evil.example/t" }),
    );
    scene.clock.advance(Duration::from_secs(5));
    assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::Failed(_))), "metadata of another");
    assert!(scene.net.posted.lock().unwrap().is_empty());
    let config = CREDENTIALS.replace("issuer = \"https://as.example\"\n", "");
    let config: outbound::CredentialConfig = toml::from_str(&config).unwrap();
    assert_eq!(config.problems().len(), 1);
}

#[tokio::test]
async fn a_private_key_signs_for_one_authorization_server_only() {
    let config = CREDENTIALS.replace("client_secret", "private_key");
    let scene = Scene::new(&config).await;
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &aws_lc_rs::rand::SystemRandom::new());
    let key = STANDARD.encode(document.unwrap());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    *scene.secrets.0.lock().unwrap() = Some(pem);
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-1");
    let form = scene.forms().pop().unwrap();
    let assertion = form.split('&').find_map(|p| p.strip_prefix("client_assertion=")).unwrap();
    let part = |n: usize| {
        let bytes = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(n).unwrap()).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
    };
    assert_eq!(part(0), json!({ "alg": "ES256", "typ": "JWT" }));
    let claims = part(1);
    assert_eq!(
        (claims["aud"].as_str(), claims["iss"].as_str(), claims["sub"].as_str()),
        (Some(AS), Some("gate:1"), Some("gate:1"))
    );
    assert_eq!(claims["exp"].as_u64(), Some(now_at(&scene) + 60));
    *scene.secrets.0.lock().unwrap() = Some("-----BEGIN EC PRIVATE KEY-----".to_owned());
    scene.clock.advance(Duration::from_secs(3600));
    assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::Failed(why)) if why.contains("PKCS #8")));
}
