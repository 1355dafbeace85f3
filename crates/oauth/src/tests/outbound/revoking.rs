//! Giving back what people granted (RFC 7009).

use bartizan_store::links::Account;

use super::*;
use crate::outbound::Revoked;

const REVOKE: &str = "https://as.example/revoke";

/// A server whose authorization server revokes, with an account of ann's and one of bob's.
async fn scene(revokes: bool) -> Scene {
    let scene = Scene::personal().await;
    let mut server = json!({
        "issuer": AS, "authorization_endpoint": "https://as.example/authorize", "token_endpoint": TOKENS,
        "registration_endpoint": "https://as.example/register", "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true, "scopes_supported": ["read", "write"],
    });
    if revokes {
        server["revocation_endpoint"] = json!(REVOKE);
    }
    scene.net.says(METADATA, 200, server);
    scene.net.says(REVOKE, 200, "");
    for subject in ["ann", "bob"] {
        Browser::of(subject).link(&scene).await;
    }
    scene
}

async fn revoke(scene: &Scene) -> Result<Revoked, String> {
    let Made::Personal(credential) = &scene.made else { panic!("nobody links anything here") };
    credential.revoke("https://id.example", "ann").await
}

async fn is_linked(scene: &Scene, subject: &str) -> bool {
    let account =
        Account { issuer: "https://id.example".to_owned(), subject: subject.to_owned(), server: name() };
    scene.means.links.grant(&account).await.unwrap().is_some()
}

/// The forms that came to the revocation endpoint, with their `Authorization`.
fn revocations(scene: &Scene) -> Vec<(String, String)> {
    let posted = scene.net.posted.lock().unwrap();
    posted.iter().filter(|(_, body)| body.starts_with("token=")).cloned().collect()
}

#[tokio::test]
async fn a_grant_is_revoked_where_it_was_given_and_forgotten_then() {
    let scene = scene(true).await;
    let yes = Revoked::Yes { upstream: AS.to_owned(), left: None };
    assert_eq!(revoke(&scene).await, Ok(yes));
    let sent = revocations(&scene);
    let bodies: Vec<_> = sent.iter().map(|(_, body)| body.as_str()).collect();
    assert_eq!(
        bodies,
        ["token=refresh-1&token_type_hint=refresh_token", "token=access-1&token_type_hint=access_token"],
        "the refresh token first"
    );
    assert!(sent.iter().all(|(line, _)| line.starts_with("Basic ")), "as the client that it was granted to");
    assert!(!is_linked(&scene, "ann").await && is_linked(&scene, "bob").await, "nobody else's");
    assert_eq!(revoke(&scene).await, Ok(Revoked::Nothing), "again, and harmless");
    assert_eq!(revocations(&scene).len(), 2);
}

#[tokio::test]
async fn what_cannot_be_revoked_now_stays_linked_to_be_tried_again() {
    let scene = scene(true).await;
    for (status, body) in [(503, ""), (401, r#"{"error":"invalid_client"}"#), (302, ""), (400, "<html>")] {
        scene.net.says(REVOKE, status, body);
        let why = revoke(&scene).await.unwrap_err();
        assert!(why.contains(&status.to_string()), "{why}");
        assert!(is_linked(&scene, "ann").await, "{status}");
    }
    scene.net.says(REVOKE, 400, r#"{"error":"\u001b[2Jforged line"}"#);
    assert!(!revoke(&scene).await.unwrap_err().contains("forged"));
    // A refresh at the same time would bring a token that nobody revokes.
    scene.net.says(REVOKE, 200, "");
    assert!(matches!(revoke(&scene).await, Ok(Revoked::Yes { .. })));
}

#[tokio::test]
async fn an_authorization_server_that_cannot_revoke_is_not_asked_and_the_account_is_forgotten() {
    let scene = scene(false).await;
    assert_eq!(revoke(&scene).await, Ok(Revoked::NoWay { upstream: AS.to_owned() }));
    assert!(revocations(&scene).is_empty() && !is_linked(&scene, "ann").await);
}

#[tokio::test]
async fn a_kind_of_token_that_is_not_revoked_is_named() {
    let scene = scene(true).await;
    scene.net.says(REVOKE, 400, r#"{"error":"unsupported_token_type"}"#);
    let Ok(Revoked::Yes { left: Some(left), .. }) = revoke(&scene).await else { panic!("it is an answer") };
    assert!(left.contains("access token"), "{left}");
    assert!(!is_linked(&scene, "ann").await);
}

#[tokio::test]
async fn what_a_person_unlinks_is_revoked_and_forgotten_whether_or_not_it_could_be() {
    for (revokes, status, unlinked) in
        [(true, 200, Unlinked::Revoked), (true, 503, Unlinked::Forgotten), (false, 200, Unlinked::Forgotten)]
    {
        let scene = scene(revokes).await;
        scene.net.says(REVOKE, status, "");
        let Made::Personal(credential) = &scene.made else { panic!("nobody links anything here") };
        let linking = Linking::new([credential.clone()], scene.means.clone(), scene.notebook.clone());
        let peer = [192, 0, 2, 1].into();
        assert_eq!(linking.unlink(&person("ann"), &name(), peer).await.unwrap(), unlinked);
        assert_eq!(!revocations(&scene).is_empty(), revokes);
        assert!(!is_linked(&scene, "ann").await && is_linked(&scene, "bob").await, "nobody else's");
        assert_eq!(linking.unlink(&person("ann"), &name(), peer).await.unwrap(), Unlinked::Nothing);
    }
}
