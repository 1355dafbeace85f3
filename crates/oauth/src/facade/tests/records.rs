//! What is on record, and that nobody gets a token that is not: evidence before the act.

use serde_json::json;

use super::stage::{A, BACK, SECRET, Stage, ann, basic};
use crate::{Deed, Report};

fn subject_of(report: &Report) -> &str {
    report.person.as_ref().map_or("", |(_, subject)| subject)
}

#[tokio::test]
async fn what_becomes_of_a_grant_is_told_with_whose_it_is() {
    let stage = Stage::new().await;
    let (access, first) = stage.tokens().await;
    let second = stage.refresh(&first, &[]).await;
    stage.refresh(&first, &[]).await;
    let told = stage.notebook.read();
    let deeds: Vec<_> = told.iter().map(|report| (report.deed, report.reason)).collect();
    assert_eq!(
        deeds,
        [
            (Deed::TokenIssued, "code.redeemed"),
            (Deed::TokenRefreshed, "refresh.rotated"),
            (Deed::TokenReplayed, "refresh.replayed"),
        ]
    );
    for report in &told {
        assert_eq!((subject_of(report), report.client.as_deref()), ("ann", Some("editor")), "{report:?}");
        assert_eq!(report.resource.as_deref(), Some(A), "{report:?}");
        assert_eq!(report.scopes, ["mcp:read", "mcp:write"], "{report:?}");
        assert_eq!(report.address, Some("192.0.2.1".parse().unwrap()), "{report:?}");
        assert_eq!(report.grant, told[0].grant, "one grant");
        assert!(report.grant.is_some());
    }
    let all = format!("{told:?}");
    for secret in [access.as_str(), &first, second.text("access_token"), second.text("refresh_token")] {
        assert!(!all.contains(secret), "{all}");
    }
}

#[tokio::test]
async fn nobody_gets_a_token_that_is_not_on_record() {
    let stage = Stage::new().await;
    let code = stage.code(&[]).await;
    let (_, refresh) = stage.tokens().await;
    stage.notebook.fill(true);
    let unavailable = (503, "temporarily_unavailable");
    let answer = stage.redeem(&code, &[]).await;
    assert_eq!(answer.error(), unavailable);
    assert!(answer.body.get("access_token").is_none() && answer.body.get("refresh_token").is_none());
    assert_eq!(stage.refresh(&refresh, &[]).await.error(), unavailable);
    let own = [("grant_type", "client_credentials"), ("resource", A)];
    assert_eq!(stage.token_of_server(&own).await.error(), unavailable);
    // Once there is room again the honest client goes on with the token it has: nothing was spent.
    stage.notebook.fill(false);
    assert_eq!(stage.refresh(&refresh, &[]).await.status, 200);
    assert_eq!(stage.token_of_server(&own).await.status, 200);
}

#[tokio::test]
async fn refusals_name_what_was_found_out_and_nothing_that_was_only_said() {
    let stage = Stage::new().await;
    let code = stage.code(&[]).await;
    stage.notebook.read();
    // A secret in the place of a name is still a secret.
    stage.token(&[("grant_type", "authorization_code"), ("client_id", SECRET), ("code", &code)]).await;
    stage.redeem(&code, &[("client_id", "other")]).await;
    stage.redeem(&code, &[("code_verifier", &"x".repeat(43))]).await;
    stage.post("/oauth/introspect", &[("authorization", &basic("server", "wrong"))], &[("token", "t")]).await;
    stage.post("/oauth/revoke", &[], &[("token", &code)]).await;
    let told = stage.notebook.read();
    let seen: Vec<_> =
        told.iter().map(|report| (report.reason, report.client.as_deref(), subject_of(report))).collect();
    assert_eq!(
        seen,
        [
            ("client.unproven", None, ""),
            ("code.client", Some("other"), ""),
            ("code.verifier", Some("editor"), "ann"),
            ("client.unproven", Some("server"), ""),
            ("client.unproven", None, ""),
        ]
    );
    assert!(told.iter().all(|report| report.deed == Deed::TokenRefused));
    assert_eq!(told[3].words.as_deref(), Some("/oauth/introspect"));
    let all = format!("{told:?}");
    assert!(!all.contains(SECRET) && !all.contains(&code) && !all.contains("wrong"), "{all}");
}

#[tokio::test]
async fn what_is_given_back_is_told_once_and_only_if_something_was() {
    let stage = Stage::new().await;
    let (access, refresh) = stage.tokens().await;
    stage.notebook.read();
    let give_back = |client: &'static str, token: String| {
        let stage = &stage;
        async move {
            let form = [("client_id", client), ("token", token.as_str())];
            assert_eq!(stage.post("/oauth/revoke", &[], &form).await.status, 200);
            stage.notebook.deeds()
        }
    };
    assert_eq!(give_back("editor", "nothing".to_owned()).await, []);
    assert_eq!(give_back("other", refresh.clone()).await, []);
    assert_eq!(give_back("editor", access).await, [(Deed::TokenRevoked, "token.revoked")]);
    assert_eq!(give_back("editor", refresh).await, [(Deed::TokenRevoked, "refresh.revoked")]);
}

#[tokio::test]
async fn clients_are_told_of_as_they_come_and_change() {
    let stage = Stage::configured("registration = \"on\"").await;
    let id = "https://app.example/client.json";
    let document = |uri: &str| json!({ "client_id": id, "client_name": "An app", "redirect_uris": [uri] });
    let json = [("content-type", "application/json")];
    stage.strangers.say(id, 200, &json, document(BACK));
    let asked = [("client_id", id), ("redirect_uri", BACK)];
    stage.authorize(&asked).await.unwrap();
    stage.advance(301);
    stage.strangers.say(id, 200, &json, document("https://c.example/other"));
    stage.authorize(&asked).await.unwrap_err();
    stage.advance(301);
    stage.strangers.say(id, 404, &json, "");
    stage.authorize(&asked).await.unwrap_err();
    let told = stage.notebook.read();
    let seen: Vec<_> = told.iter().map(|report| (report.deed, report.reason)).collect();
    assert_eq!(
        seen,
        [
            (Deed::ClientFetched, "document.first"),
            (Deed::ClientFetched, "document.changed"),
            (Deed::ClientRefused, "client.redirect-uri"),
            (Deed::ClientRefused, "client.document"),
        ]
    );
    let (first, changed) = (told[0].metadata.clone().unwrap(), told[1].metadata.clone().unwrap());
    assert_eq!((first.0, changed.0), (None, Some(first.1)));

    let text = json!({ "client_name": "Mine", "redirect_uris": [BACK] }).to_string();
    let answer =
        stage.ask(http::Method::POST, "/oauth/register", &json, &text).await.expect("registration is on");
    assert_eq!(answer.status, 201, "{}", answer.body);
    let told = stage.notebook.read();
    assert_eq!(told[0].client.as_deref(), Some(answer.text("client_id")));
    assert_eq!(told[0].deed, Deed::ClientRegistered);
    let text = json!({ "client_name": "Mine", "redirect_uris": ["javascript:x"] }).to_string();
    stage.ask(http::Method::POST, "/oauth/register", &json, &text).await.unwrap();
    assert_eq!(stage.notebook.deeds(), [(Deed::ClientRefused, "registration.redirect-uri")]);
    // And what cannot be recorded is not registered.
    stage.notebook.fill(true);
    let text = json!({ "client_name": "Mine", "redirect_uris": [BACK] }).to_string();
    let answer = stage.ask(http::Method::POST, "/oauth/register", &json, &text).await.unwrap();
    assert_eq!(answer.error(), (503, "temporarily_unavailable"));
}

#[tokio::test]
async fn a_consent_that_leads_nowhere_is_told() {
    let stage = Stage::new().await;
    let mut request = stage.authorize(&[]).await.unwrap();
    request.client.metadata = "another".to_owned();
    stage.facade.complete(request, &ann()).await.unwrap_err();
    assert_eq!(stage.notebook.deeds(), [(Deed::TokenRefused, "client.changed")]);
}
