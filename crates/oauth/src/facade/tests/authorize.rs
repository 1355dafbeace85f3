//! The authorization request (spec.md F-08 to F-16; attacks.md AA-06, AA-07, AA-17, AA-22, AA-24, AA-33).

use super::stage::{A, ASKED, B, BACK, CHALLENGE, CONFIG, ISSUER, Stage, ann, encode, parameter, redirected};
use crate::facade::{Incomplete, Unanswerable};

fn is_page(refused: &Unanswerable) -> bool {
    matches!(refused, Unanswerable::Page { status: 400, .. })
}

#[tokio::test]
async fn a_good_request_is_read_whole() {
    let stage = Stage::new().await;
    let request = stage
        .authorize(&[
            ("dpop_jkt", CHALLENGE),
            ("max_age", "60"),
            ("acr_values", "phr mfa"),
            ("claims", r#"{"access_token":{}}"#),
            ("scope", "mcp:write offline_access mcp:write"),
        ])
        .await
        .unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&request).unwrap());
}

#[tokio::test]
async fn aa_07_f_12_nobody_is_sent_to_an_address_the_client_does_not_have() {
    let stage = Stage::new().await;
    for uri in [
        "",
        "https://c.example/cb/",
        "https://c.example/cb?x=1",
        "https://c.example/CB",
        "https://c.example/cb/../e",
        "https://c.example/cb%2f..",
        "https://c.example.evil/cb",
        "https://c.example@evil/cb",
        "https://evil\\@c.example/cb",
        "http://c.example/cb",
        "https://c.example:443/cb",
        "https://c.example/cb#f",
        "https://с.example/cb",
        "http://localhost.evil/cb",
        "http://127.0.0.1.nip.io/cb",
        "http://127.0.0.1:80@evil/cb",
        "http://localhost:80/cb",
        "javascript:alert(1)",
    ] {
        let refused = stage.authorize(&[("redirect_uri", uri)]).await.unwrap_err();
        assert!(is_page(&refused), "{uri}: {refused:?}");
    }
    let twice = format!("{}&redirect_uri=https%3A%2F%2Fevil.example", encode(&ASKED));
    assert!(is_page(&stage.begin(&twice).await.unwrap_err()));
    for id in ["", "nobody", "r_00000000000000000000000000000000"] {
        assert!(is_page(&stage.authorize(&[("client_id", id)]).await.unwrap_err()), "{id}");
    }
    let twice = format!("{}&client_id=other", encode(&ASKED));
    assert!(is_page(&stage.begin(&twice).await.unwrap_err()));

    assert!(stage.authorize(&[("redirect_uri", "http://127.0.0.1:49152/cb")]).await.is_ok());
    let strict = Stage::configured(&format!("strict_loopback_port = true\n{CONFIG}")).await;
    assert!(is_page(&strict.authorize(&[("redirect_uri", "http://127.0.0.1:49152/cb")]).await.unwrap_err()));
    assert!(strict.authorize(&[("redirect_uri", "http://127.0.0.1/cb")]).await.is_ok());
}

#[tokio::test]
async fn aa_06_f_08_without_s256_there_is_no_code() {
    let stage = Stage::new().await;
    for changes in [
        [("code_challenge", ""), ("code_challenge_method", "S256")],
        [("code_challenge", CHALLENGE), ("code_challenge_method", "plain")],
        [("code_challenge", CHALLENGE), ("code_challenge_method", "")],
        [("code_challenge", CHALLENGE), ("code_challenge_method", "s256")],
        [("code_challenge", "short"), ("code_challenge_method", "S256")],
        [
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM"),
            ("code_challenge_method", "S256"),
        ],
    ] {
        let refused = stage.authorize(&changes).await.unwrap_err();
        assert_eq!(redirected(&refused), "invalid_request", "{changes:?}");
        let Unanswerable::Redirect { location, words, .. } = &refused else { unreachable!() };
        assert_eq!(parameter(location, "error_description").as_deref(), Some(*words));
        let is_allowed = |c: char| (' '..='~').contains(&c) && !matches!(c, '"' | '\\');
        assert!(words.contains("code_challenge") && words.chars().all(is_allowed), "{words}");
    }
}

#[tokio::test]
async fn aa_24_f_01_only_codes_are_given_and_only_by_query() {
    let stage = Stage::new().await;
    for kind in ["token", "id_token", "code token", "none"] {
        let refused = stage.authorize(&[("response_type", kind)]).await.unwrap_err();
        assert_eq!(redirected(&refused), "unsupported_response_type", "{kind}");
    }
    for (changes, error) in [
        ([("response_type", "")], "invalid_request"),
        ([("response_mode", "fragment")], "invalid_request"),
        ([("response_mode", "form_post")], "invalid_request"),
        ([("request", "x")], "request_not_supported"),
        ([("request_uri", "https://evil.example/")], "request_uri_not_supported"),
        ([("prompt", "none")], "interaction_required"),
        ([("prompt", "later")], "invalid_request"),
        ([("max_age", "-1")], "invalid_request"),
        ([("dpop_jkt", "x")], "invalid_request"),
        ([("claims", "{")], "invalid_request"),
    ] {
        let refused = stage.authorize(&changes).await.unwrap_err();
        assert_eq!(redirected(&refused), error, "{changes:?}");
    }
    let twice = format!("{}&scope=mcp:read", encode(&ASKED));
    assert_eq!(redirected(&stage.begin(&twice).await.unwrap_err()), "invalid_request");
    assert_eq!(stage.authorize(&[("prompt", "login consent")]).await.unwrap().max_age_s, Some(0));
}

#[tokio::test]
async fn aa_17_f_14_a_request_is_for_exactly_one_resource_of_ours() {
    let stage = Stage::new().await;
    for resource in [
        "",
        "https://evil.example",
        "https://mcp.example.com",
        "https://mcp.example.com/mcp/a/",
        "https://mcp.example.com/mcp/a#x",
        "https://mcp.example.com/mcp/A",
        "/mcp/a",
    ] {
        let refused = stage.authorize(&[("resource", resource)]).await.unwrap_err();
        assert_eq!(redirected(&refused), "invalid_target", "{resource}");
    }
    let two = format!("{}&{}", encode(&ASKED), encode(&[("resource", B)]));
    assert_eq!(redirected(&stage.begin(&two).await.unwrap_err()), "invalid_target");
    assert_eq!(stage.authorize(&[("resource", B)]).await.unwrap().resource, B);
    let single = Stage::with(CONFIG, &[A]).await;
    assert_eq!(single.authorize(&[("resource", "")]).await.unwrap().resource, A, "there is but one");
}

#[tokio::test]
async fn aa_22_only_scopes_of_the_resource_and_the_client_are_granted() {
    let config = CONFIG.replace(
        "[[clients]]\n    id = \"other\"",
        "[[clients]]\n    scopes = [\"mcp:read\"]\n    id = \"other\"",
    );
    let stage = Stage::configured(&config).await;
    for scope in ["admin", "mcp:read admin", "mcp:read,mcp:write", "*", "openid", "mcp:read\tmcp:write", "\""]
    {
        let refused = stage.authorize(&[("scope", scope)]).await.unwrap_err();
        assert_eq!(redirected(&refused), "invalid_scope", "{scope}");
    }
    assert_eq!(stage.authorize(&[("scope", "")]).await.unwrap().scopes, ["mcp:read"]);
    assert_eq!(stage.authorize(&[("scope", "offline_access")]).await.unwrap().scopes, ["mcp:read"]);
    let other = [("client_id", "other"), ("scope", "mcp:read mcp:write")];
    assert_eq!(redirected(&stage.authorize(&other).await.unwrap_err()), "invalid_scope");
}

#[tokio::test]
async fn f_15_f_16_aa_33_answers_name_their_issuer_and_carry_the_state_unchanged() {
    let stage = Stage::new().await;
    let state: String = "a=b&c d+e%20/?#\u{e4}\u{1f980}\"<>".chars().cycle().take(600).collect();
    let request = stage.authorize(&[("state", &state)]).await.unwrap();
    let location = stage.facade.complete(request.clone(), &ann()).await.unwrap();
    assert!(location.starts_with("https://c.example/cb?code="));
    assert_eq!(parameter(&location, "state").as_ref(), Some(&state));
    assert_eq!(parameter(&location, "iss").as_deref(), Some(ISSUER));
    let denied = stage.facade.deny(&request, "access_denied");
    assert_eq!(parameter(&denied, "error").as_deref(), Some("access_denied"));
    assert_eq!(parameter(&denied, "state").as_ref(), Some(&state));
    assert_eq!(parameter(&denied, "iss").as_deref(), Some(ISSUER));
    assert!(is_page(&stage.authorize(&[("state", &"x".repeat(2049))]).await.unwrap_err()));
    let without = stage.authorize(&[("state", "")]).await.unwrap();
    assert_eq!(parameter(&stage.facade.deny(&without, "access_denied"), "state"), None);
}

#[tokio::test]
async fn a_redirect_uri_keeps_its_own_query() {
    let stage = Stage::configured(&CONFIG.replace(BACK, "https://c.example/cb?a=b")).await;
    let request = stage.authorize(&[("redirect_uri", "https://c.example/cb?a=b")]).await.unwrap();
    let location = stage.facade.complete(request, &ann()).await.unwrap();
    assert!(location.starts_with("https://c.example/cb?a=b&code="), "{location}");
}

#[tokio::test]
async fn what_was_consented_to_is_checked_again_at_the_end() {
    let stage = Stage::new().await;
    let request = stage.authorize(&[]).await.unwrap();
    let mut other = request.clone();
    other.client.metadata = "another".to_owned();
    assert_eq!(stage.facade.complete(other, &ann()).await, Err(Incomplete::ClientChanged));
    let mut other = request.clone();
    other.redirect_uri = "https://evil.example/".to_owned();
    assert_eq!(stage.facade.complete(other, &ann()).await, Err(Incomplete::ClientChanged));
    let mut other = request.clone();
    other.resource = "https://mcp.example.com/mcp/gone".to_owned();
    assert_eq!(stage.facade.complete(other, &ann()).await, Err(Incomplete::ClientChanged));
    assert!(stage.facade.complete(request, &ann()).await.is_ok());
}
