//! Refresh tokens (spec.md F-36, F-37; attacks.md AA-22, AA-25).

use std::sync::{Arc, atomic::Ordering};

use super::stage::{B, CONFIG, SECRET, Stage, basic, change, redemption};
use crate::{Error, tests::scene::Signer};

#[tokio::test]
async fn a_refresh_token_becomes_the_next() {
    let stage = Stage::new().await;
    let (_, refresh) = stage.tokens().await;
    stage.advance(500);
    let answer = stage.refresh(&refresh, &[]).await;
    assert_eq!((answer.status, answer.text("scope")), (200, "mcp:read mcp:write"), "{}", answer.body);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(stage.show("/mcp/a", answer.text("access_token")).await.is_ok());
    let next = answer.text("refresh_token");
    assert_ne!(next, refresh);
    assert_eq!(stage.refresh(next, &[]).await.status, 200);
}

#[tokio::test]
async fn aa_25_a_second_use_ends_everything_that_came_of_the_sign_in() {
    let stage = Stage::new().await;
    let replica = stage.replica().await;
    let (access, first) = stage.tokens().await;
    let second = stage.refresh(&first, &[]).await;
    let (other_access, second) = (second.text("access_token"), second.text("refresh_token"));
    assert_eq!(
        stage.refresh(&first, &[]).await.error(),
        (400, "invalid_grant"),
        "at once, not a second later"
    );
    assert_eq!(stage.refresh(second, &[]).await.error(), (400, "invalid_grant"));
    for token in [&access, other_access] {
        assert_eq!(stage.show("/mcp/a", token).await.unwrap_err(), Error::Denied);
        let _ = replica.show("/mcp/a", token).await;
    }
    replica.facade.catch_up().await.unwrap();
    assert_eq!(replica.show("/mcp/a", other_access).await.unwrap_err(), Error::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aa_25_of_twenty_refreshes_at_once_one_succeeds() {
    let stage = Arc::new(Stage::new().await);
    let (_, refresh) = stage.tokens().await;
    let asking = (0..20).map(|_| {
        let (stage, refresh) = (Arc::clone(&stage), refresh.clone());
        tokio::spawn(async move { stage.refresh(&refresh, &[]).await.status })
    });
    let mut good = 0;
    for one in asking.collect::<Vec<_>>() {
        good += usize::from(one.await.unwrap() == 200);
    }
    assert_eq!(good, 1);
}

/// Refresh token and form of the confidential client `server`.
async fn of_server(stage: &Stage) -> String {
    let back = [("client_id", "server"), ("redirect_uri", "https://s.example/cb")];
    let code = stage.code(&back).await;
    let form = change(&redemption(&code), &[("client_id", ""), ("redirect_uri", "https://s.example/cb")])
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect::<Vec<_>>();
    let form: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = stage.token_of_server(&form).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.text("refresh_token").to_owned()
}

#[tokio::test]
async fn a_client_that_proves_itself_may_ask_again_for_an_answer_that_was_lost() {
    let stage = Stage::new().await;
    let first = of_server(&stage).await;
    let ask = async |token: &str| {
        stage.token_of_server(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    };
    let second = ask(&first).await.text("refresh_token").to_owned();
    stage.advance(10);
    assert_eq!(ask(&first).await.text("refresh_token"), second, "the very same");
    let third = ask(&second).await.text("refresh_token").to_owned();
    assert_eq!(ask(&first).await.error(), (400, "invalid_grant"), "the answer had arrived");
    assert_eq!(ask(&third).await.error(), (400, "invalid_grant"), "and it was a second use");

    let first = of_server(&stage).await;
    assert_eq!(ask(&first).await.status, 200);
    stage.advance(11);
    assert_eq!(ask(&first).await.error(), (400, "invalid_grant"), "too late");

    let never = Stage::configured(&format!("refresh_retry_s = 0\n{CONFIG}")).await;
    let first = of_server(&never).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", &*first)];
    assert_eq!(never.token_of_server(&form).await.status, 200);
    assert_eq!(never.token_of_server(&form).await.error(), (400, "invalid_grant"));
}

#[tokio::test]
async fn a_public_clients_refresh_token_is_bound_to_its_dpop_key() {
    let stage = Stage::new().await;
    let (key, thief) = (Signer::ec(), Signer::ec());
    let code = stage.code(&[]).await;
    let proof = stage.proof(&key, "1");
    let answer = stage.post("/oauth/token", &[("dpop", &proof)], &redemption(&code)).await;
    let refresh = answer.text("refresh_token").to_owned();
    let ask = async |proof: Option<String>| {
        let form = [("grant_type", "refresh_token"), ("client_id", "editor"), ("refresh_token", &*refresh)];
        let lines: Vec<_> = proof.iter().map(|proof| ("dpop", proof.as_str())).collect();
        stage.post("/oauth/token", &lines, &form).await
    };
    assert_eq!(ask(None).await.error(), (400, "invalid_grant"));
    assert_eq!(ask(Some(stage.proof(&thief, "2"))).await.error(), (400, "invalid_grant"));
    let answer = ask(Some(stage.proof(&key, "3"))).await;
    assert_eq!((answer.status, answer.text("token_type")), (200, "DPoP"));
    // The key proves that it is the same client, so a lost answer may be asked for again.
    let again = ask(Some(stage.proof(&key, "4"))).await;
    assert_eq!(again.text("refresh_token"), answer.text("refresh_token"));
    assert_eq!(ask(Some(stage.proof(&thief, "5"))).await.error(), (400, "invalid_grant"));
}

#[tokio::test]
async fn aa_22_a_refresh_never_widens() {
    let stage = Stage::new().await;
    let answer = stage.redeem(&stage.code(&[("scope", "mcp:read")]).await, &[]).await;
    let refresh = answer.text("refresh_token");
    for (changes, error) in [
        ([("scope", "mcp:read mcp:write")], "invalid_scope"),
        ([("scope", "admin")], "invalid_scope"),
        ([("resource", B)], "invalid_target"),
        ([("client_id", "other")], "invalid_grant"),
        ([("refresh_token", "unknown")], "invalid_grant"),
    ] {
        assert_eq!(stage.refresh(refresh, &changes).await.error(), (400, error), "{changes:?}");
    }
    assert_eq!(stage.refresh(refresh, &[("scope", "mcp:read")]).await.status, 200, "it was not used up");

    let (_, refresh) = stage.tokens().await;
    let narrow = stage.refresh(&refresh, &[("scope", "mcp:read")]).await;
    assert_eq!(narrow.text("scope"), "mcp:read");
    let wide = stage.refresh(narrow.text("refresh_token"), &[]).await;
    assert_eq!(wide.text("scope"), "mcp:read mcp:write", "the grant stays what it was");
}

#[tokio::test]
async fn a_refresh_token_and_its_grant_have_an_end() {
    let stage = Stage::configured(&format!("refresh_token_s = 1000\ngrant_s = 2500\n{CONFIG}")).await;
    let (_, idle) = stage.tokens().await;
    let (_, mut used) = stage.tokens().await;
    for _ in 0..2 {
        stage.advance(999);
        let answer = stage.refresh(&used, &[]).await;
        assert_eq!(answer.status, 200);
        used = answer.text("refresh_token").to_owned();
    }
    assert_eq!(stage.refresh(&idle, &[]).await.error(), (400, "invalid_grant"), "not used in time");
    stage.advance(500);
    let answer = stage.refresh(&used, &[]).await;
    assert_eq!(answer.body["expires_in"], serde_json::json!(2), "no token outlives its grant");
    stage.advance(2);
    assert_eq!(stage.refresh(answer.text("refresh_token"), &[]).await.error(), (400, "invalid_grant"));
}

#[tokio::test]
async fn f_37_somebody_who_is_gone_from_the_directory_is_spoken_for_no_longer() {
    let stage = Stage::new().await;
    let (access, refresh) = stage.tokens().await;
    stage.directory.is_down.store(true, Ordering::SeqCst);
    assert_eq!(stage.refresh(&refresh, &[]).await.error(), (503, "temporarily_unavailable"));
    stage.directory.is_down.store(false, Ordering::SeqCst);
    let refresh = stage.refresh(&refresh, &[]).await.text("refresh_token").to_owned();
    stage.directory.gone.lock().unwrap().insert("ann".to_owned());
    assert_eq!(stage.refresh(&refresh, &[]).await.error(), (400, "invalid_grant"));
    assert_eq!(stage.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
    stage.directory.gone.lock().unwrap().clear();
    assert_eq!(stage.refresh(&refresh, &[]).await.error(), (400, "invalid_grant"), "it has ended");
}

#[tokio::test]
async fn aa_25_a_second_use_is_noticed_while_the_directory_is_away() {
    let stage = Stage::new().await;
    let (access, first) = stage.tokens().await;
    let second = stage.refresh(&first, &[]).await.text("refresh_token").to_owned();
    stage.directory.is_down.store(true, Ordering::SeqCst);
    assert_eq!(
        stage.refresh(&first, &[]).await.error(),
        (400, "invalid_grant"),
        "nobody is asked about a thief"
    );
    assert_eq!(
        stage.show("/mcp/a", &access).await.unwrap_err(),
        Error::Denied,
        "and what he took ends at once"
    );
    stage.directory.is_down.store(false, Ordering::SeqCst);
    assert_eq!(stage.refresh(&second, &[]).await.error(), (400, "invalid_grant"));
}

#[tokio::test]
async fn a_sign_in_that_is_over_ends_what_came_of_it_and_nothing_else() {
    let stage = Stage::new().await;
    let (access, refresh) = stage.tokens().await;
    let (other_access, other) = stage.tokens().await;
    stage.directory.signed_out.lock().unwrap().insert("ann".to_owned());
    assert_eq!(stage.refresh(&refresh, &[]).await.error(), (400, "invalid_grant"));
    assert_eq!(stage.show("/mcp/a", &access).await.unwrap_err(), Error::Denied);
    stage.directory.signed_out.lock().unwrap().clear();
    assert_eq!(stage.refresh(&refresh, &[]).await.error(), (400, "invalid_grant"), "it has ended");
    assert!(stage.show("/mcp/a", &other_access).await.is_ok());
    assert_eq!(stage.refresh(&other, &[]).await.status, 200, "another sign-in of the same person");
}

/// Whoever an identity provider vouched for that is none of ours any more is vouched for by nobody.
#[tokio::test]
async fn people_of_a_provider_that_is_gone_come_in_no_more() {
    let stage = Stage::new().await;
    let (_, refresh) = stage.tokens().await;
    let code = stage.code(&[]).await;
    let moved = stage.behind("https://new.example").await;
    assert_eq!(moved.refresh(&refresh, &[]).await.error(), (400, "invalid_grant"));
    assert_eq!(moved.redeem(&code, &[]).await.error(), (400, "invalid_grant"));
    let laptop = stage.behind("local").await;
    assert_eq!(laptop.refresh(&refresh, &[]).await.error(), (400, "invalid_grant"));
    // It was not used up: where the provider is the same, it goes on.
    assert_eq!(stage.refresh(&refresh, &[]).await.status, 200);
    assert_eq!(stage.redeem(&code, &[]).await.status, 200);
}

#[tokio::test]
async fn a_scope_that_is_gone_is_not_refreshed() {
    let stage = Stage::new().await;
    let (_, refresh) = stage.tokens().await;
    let narrowed = stage
        .reconfigured(&CONFIG.replace("id = \"editor\"", "id = \"editor\"\n    scopes = [\"mcp:read\"]"))
        .await;
    let answer = narrowed.refresh(&refresh, &[("scope", "mcp:read mcp:write")]).await;
    assert_eq!(answer.error(), (400, "invalid_scope"));
    let answer = narrowed.refresh(&refresh, &[]).await;
    assert_eq!((answer.status, answer.text("scope")), (200, "mcp:read"));
    let none =
        stage.reconfigured(&CONFIG.replace("id = \"editor\"", "id = \"editor\"\n    scopes = [\"x\"]")).await;
    assert_eq!(none.refresh(answer.text("refresh_token"), &[]).await.error(), (400, "invalid_grant"));
}

#[tokio::test]
async fn a_client_without_the_grant_gets_no_refresh_token() {
    let config = CONFIG.replace("id = \"other\"", "grants = [\"authorization_code\"]\n    id = \"other\"");
    let stage = Stage::configured(&config).await;
    let code = stage.code(&[("client_id", "other"), ("scope", "mcp:read offline_access")]).await;
    let answer = stage.redeem(&code, &[("client_id", "other")]).await;
    assert_eq!((answer.status, answer.body.get("refresh_token")), (200, None));
    let lines = [("authorization", &*basic("server", SECRET))];
    let form = [("grant_type", "refresh_token"), ("refresh_token", "x"), ("client_id", "server")];
    assert_eq!(stage.post("/oauth/token", &lines, &form).await.error(), (400, "invalid_grant"));
}
