//! The gate as a client of an OpenID provider (spec.md F-32, F-39, G-38, G-41; attacks.md AA-04, AA-10, AA-34, CD-11).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

use super::scene::{Browser, Departure, OIDC, Scene, metadata};
use crate::{
    signin::ProviderConfig,
    tests::scene::{NOW, Signer, merge},
};

const METADATA: &str = "https://idp.example/.well-known/openid-configuration";

#[tokio::test]
async fn the_request_has_what_a_careful_client_sends_and_nothing_of_the_clients() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let query = "max_age=60&acr_values=urn:high&claims=%7B%22id_token%22:%7B%22acr%22:null%7D%7D";
    let departure = browser.allow(query).await;
    assert_eq!(departure.0.path(), "/auth");
    let expected = [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", "gate"),
        ("redirect_uri", "https://gate.example/oauth/callback"),
        ("scope", "openid profile"),
        ("code_challenge_method", "S256"),
        ("max_age", "60"),
        ("acr_values", "urn:high"),
        ("claims", r#"{"id_token":{"acr":null}}"#),
    ];
    for (name, value) in expected {
        assert_eq!(departure.of(name), value, "{name}");
    }
    for name in ["resource", "prompt", "login_hint", "dpop_jkt"] {
        assert_eq!(departure.find(name), None, "{name}");
    }
    let other = browser.allow("scope=mcp:write").await;
    for name in ["state", "nonce", "code_challenge"] {
        assert_eq!(departure.of(name).len(), 43, "{name}");
        assert_ne!(departure.of(name), other.of(name), "{name}");
    }

    scene.vouches(&departure, json!({}), json!({ "auth_time": NOW }));
    assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
    let (authorization, form) = scene.net.posted.lock().unwrap().last().unwrap().clone();
    // gate:s3cret+%26+more
    assert_eq!(authorization, "Basic Z2F0ZTpzM2NyZXQrJTI2K21vcmU=");
    let form: Vec<_> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
    let names: Vec<_> = form.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["grant_type", "code", "redirect_uri", "code_verifier"]);
    let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form[3].1.as_bytes());
    assert_eq!(URL_SAFE_NO_PAD.encode(challenge), departure.of("code_challenge"));
}

#[tokio::test]
async fn an_id_token_that_is_not_for_this_sign_in_vouches_for_nobody() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let bad: [(&str, Value, Value); 21] = [
        ("nonce swapped", json!({}), json!({ "nonce": "another's" })),
        ("no nonce", json!({}), json!({ "nonce": null })),
        ("another audience", json!({}), json!({ "aud": "other" })),
        ("one audience more", json!({}), json!({ "aud": ["gate", "other"] })),
        ("no audience", json!({}), json!({ "aud": null })),
        ("for another party", json!({}), json!({ "azp": "other" })),
        ("another issuer", json!({}), json!({ "iss": "https://idp.example/" })),
        ("expired", json!({}), json!({ "exp": NOW - 61 })),
        ("no expiry", json!({}), json!({ "exp": null })),
        ("from the future", json!({}), json!({ "iat": NOW + 61 })),
        ("not dated", json!({}), json!({ "iat": null })),
        ("from an hour ago", json!({}), json!({ "iat": NOW - 3600 })),
        ("for a week", json!({}), json!({ "exp": NOW + 7 * 86_400 })),
        ("nobody", json!({}), json!({ "sub": null })),
        ("a number", json!({}), json!({ "sub": 7 })),
        ("an access token", json!({ "typ": "at+jwt" }), json!({})),
        ("a logout token", json!({ "typ": "logout+jwt" }), json!({})),
        ("alg none", json!({ "alg": "none" }), json!({})),
        ("alg HS256", json!({ "alg": "HS256" }), json!({})),
        ("another key", json!({ "kid": "k2" }), json!({})),
        ("groups elsewhere", json!({}), json!({ "groups": null, "_claim_names": { "groups": "src1" } })),
    ];
    for (what, header, claims) in bad {
        let departure = browser.allow("").await;
        scene.vouches(&departure, header, claims);
        let got = browser.get(&departure.back("")).await;
        assert!(matches!(got.status, 403 | 502), "{what}: {got:?}");
        assert_eq!(got.line("location"), "", "{what}");
        assert_eq!(got.sets(), Vec::<String>::new(), "{what}");
    }
    let forged = Signer::ed(2);
    let departure = browser.allow("").await;
    scene.answers_token(&forged.token(&json!({ "alg": "EdDSA", "kid": "k1" }), &scene.claims(&departure)));
    assert_eq!(browser.get(&departure.back("")).await.reason, "token.signature");
    assert_eq!(scene.granted(), 0);

    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({ "azp": "gate", "aud": ["gate"] }));
    assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted", "the honest neighbour");
}

#[tokio::test]
async fn g_41_an_answer_of_another_issuers_goes_nowhere() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    for issuer in ["&iss=https%3A%2F%2Fevil.example", "&iss=https%3A%2F%2Fidp.example%2F", ""] {
        let departure = browser.allow("").await;
        scene.vouches(&departure, json!({}), json!({}));
        let got =
            browser.get(&format!("/oauth/callback?state={}{issuer}&code=c", departure.of("state"))).await;
        assert_eq!((got.status, got.reason), (400, "provider.mixed-up"), "{issuer}");
    }
    assert_eq!(scene.net.count("https://idp.example/token"), 0, "no code was sent");

    // A provider that does not name itself needs not, and must not lie.
    scene.net.says(
        METADATA,
        200,
        merge(metadata(), json!({ "authorization_response_iss_parameter_supported": null })),
    );
    scene.later(16 * 60);
    let departure = browser.allow("").await;
    let times = json!({ "iat": NOW + 960, "exp": NOW + 1200 });
    scene.vouches(&departure, json!({}), times.clone());
    let back = format!("/oauth/callback?state={}&code=c", departure.of("state"));
    assert_eq!(browser.get(&back).await.reason, "consent.granted");
    let departure = browser.allow("scope=mcp:write").await;
    scene.vouches(&departure, json!({}), times);
    let back = format!("/oauth/callback?state={}&code=c&iss=https://evil.example", departure.of("state"));
    assert_eq!(browser.get(&back).await.reason, "provider.mixed-up");
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_not_read() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let long = format!("&code={}", "c".repeat(8 * 1024 + 1));
    for (more, status) in
        [("&code=x&code=y", 400), ("&error=access_denied&code=x", 400), ("", 400), (long.as_str(), 400)]
    {
        let departure = browser.allow("").await;
        let iss = "iss=https%3A%2F%2Fidp.example";
        let got = browser.get(&format!("/oauth/callback?state={}&{iss}{more}", departure.of("state"))).await;
        assert_eq!((got.status, got.line("location")), (status, ""), "{more}");
    }
    let posted = browser.send(&Method::POST, "/oauth/callback", &[], "").await;
    assert_eq!((posted.status, posted.line("allow")), (405, "GET"));
}

#[tokio::test]
async fn the_client_hears_what_the_provider_refuses_in_words_of_the_standard() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    for (said, heard) in [
        ("access_denied", "access_denied"),
        ("login_required", "login_required"),
        ("interaction_required", "interaction_required"),
        ("AADSTS65001", "server_error"),
        ("invalid_scope", "server_error"),
        ("x%22%3E", "server_error"),
    ] {
        let departure = browser.allow("").await;
        let back = format!(
            "/oauth/callback?state={}&iss=https%3A%2F%2Fidp.example&error={said}&error_description=x",
            departure.of("state")
        );
        let got = browser.get(&back).await;
        assert_eq!(got.line("location"), format!("https://app.example/cb?error={heard}"), "{said}");
    }
    assert_eq!(scene.net.count("https://idp.example/token"), 0);
}

#[tokio::test]
async fn a_code_that_is_not_confirmed_signs_nobody_in() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let answers = [
        (400, json!({ "error": "invalid_grant", "error_description": "<b>secret</b>" }).to_string()),
        (401, "internal banner".to_owned()),
        (500, String::new()),
        (200, "{}".to_owned()),
        (200, "nonsense".to_owned()),
        (200, json!({ "id_token": "a.b" }).to_string()),
        (200, r#"{"id_token":"x","id_token":"y"}"#.to_owned()),
    ];
    for (status, body) in answers {
        let departure = browser.allow("").await;
        scene.net.says("https://idp.example/token", status, &body);
        let got = browser.get(&departure.back("")).await;
        assert_eq!((got.status, got.line("location")), (502, ""), "{status} {body}");
        assert!(!got.body.contains("banner") && !got.body.contains("secret"), "G-26: {}", got.body);
    }
    assert_eq!(scene.granted(), 0);
}

#[tokio::test]
async fn max_age_is_kept_by_the_provider_or_not_at_all() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    for (auth_time, is_recent) in
        [(json!(NOW - 30), true), (json!(NOW - 119), true), (json!(NOW - 121), false), (Value::Null, false)]
    {
        let departure = browser.allow("max_age=60&redirect_uri=http://127.0.0.1:1/cb").await;
        scene.vouches(&departure, json!({}), json!({ "auth_time": auth_time }));
        let got = browser.get(&departure.back("")).await;
        assert_eq!(got.status == 303, is_recent, "{auth_time}");
        assert_eq!(got.reason == "provider.not-recent", !is_recent, "{auth_time}");
    }
    // Who does not say when is believed to have signed in long ago.
    let departure = browser.allow("scope=mcp:write").await;
    scene.vouches(&departure, json!({}), json!({ "auth_time": null }));
    browser.get(&departure.back("")).await;
    let granted = scene.desk.granted.lock().unwrap();
    assert_eq!(granted.last().unwrap().1.at.as_unix(), 0);
}

#[tokio::test]
async fn f_39_nothing_of_the_providers_tokens_leaves() {
    let scene = Scene::new().await;
    let mut browser = Browser::new(&scene);
    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    let done = browser.get(&departure.back("")).await;
    let account = browser.get("/account").await;
    let (_, form) = scene.net.posted.lock().unwrap().last().unwrap().clone();
    let verifier = form.split("code_verifier=").nth(1).unwrap().to_owned();
    let all =
        format!("{:?} {:?} {:?} {:?}", done, account, browser.cookies, scene.desk.granted.lock().unwrap());
    for planted in ["planted-secret", "eyJ", "s3cret", verifier.as_str()] {
        assert!(!all.contains(planted), "{planted}");
    }
}

#[tokio::test]
async fn metadata_of_somebody_elses_or_with_bad_addresses_is_not_used() {
    let bad = [
        ("another issuer", json!({ "issuer": "https://idp.example/" })),
        ("script", json!({ "authorization_endpoint": "javascript:alert(1)" })),
        ("file", json!({ "authorization_endpoint": "file:///etc/passwd" })),
        ("plain text", json!({ "authorization_endpoint": "http://idp.example/auth" })),
        ("user", json!({ "authorization_endpoint": "https://user@idp.example/auth" })),
        ("fragment", json!({ "authorization_endpoint": "https://idp.example/auth#x" })),
        ("no address", json!({ "authorization_endpoint": null })),
        ("no token endpoint", json!({ "token_endpoint": null })),
        ("token endpoint elsewhere", json!({ "token_endpoint": "https://10.0.0.1/token" })),
        ("token endpoint in plain text", json!({ "token_endpoint": "http://idp.example/token" })),
        ("odd promise", json!({ "authorization_response_iss_parameter_supported": "yes" })),
    ];
    for (what, change) in bad {
        let scene = Scene::new().await;
        scene.net.says(METADATA, 200, merge(metadata(), change));
        let mut browser = Browser::new(&scene);
        let got = browser.decide("", "allow").await;
        assert_eq!((got.status, got.reason), (502, "provider.unavailable"), "{what}");
        assert_eq!(got.sets(), Vec::<String>::new(), "{what}: no state");
    }
    let elsewhere = format!("{OIDC}\ntoken_endpoint = \"https://tokens.example/token\"");
    let scene = Scene::configured(&elsewhere).await;
    let departure = Browser::new(&scene).allow("").await;
    assert_eq!(departure.0.host_str(), Some("idp.example"), "where the operator says so, it is used");
}

#[tokio::test]
async fn a_provider_that_fails_is_asked_again_and_not_too_often() {
    let scene = Scene::new().await;
    scene.net.says(METADATA, 503, "");
    let mut browser = Browser::new(&scene);
    assert_eq!(browser.decide("", "allow").await.status, 502);
    assert_eq!(browser.decide("", "allow").await.status, 502);
    assert_eq!(scene.net.count(METADATA), 1);
    scene.net.says(METADATA, 200, metadata());
    scene.later(5);
    let _: Departure = browser.allow("").await;
    assert_eq!(scene.net.count(METADATA), 2);
    // What was read once does for a day.
    scene.net.says(METADATA, 503, "");
    scene.later(60 * 60);
    let _: Departure = browser.allow("").await;
    scene.later(24 * 60 * 60);
    assert_eq!(browser.decide("", "allow").await.status, 502);
}

#[tokio::test]
async fn every_problem_of_a_configuration_is_reported_at_once() {
    let config = r#"
        kind = "oidc"
        issuer = "http://idp.example?x"
        metadata_url = "ftp://idp.example"
        token_endpoint = "http://idp.example/token"
        client_id = ""
        scopes = ["a b", "offline_access"]
        algorithms = []
        roles_claim = []
        credential = { method = "private_key_jwt", key = { file = "key.pem" } }
    "#;
    let Err(problems) = Scene::build("http://gate.example/path", Some(config), None).await else {
        panic!("it has problems")
    };
    insta::assert_snapshot!(problems.join("\n"));
    for tenant in ["common", "9188040d-6c67-4c5b-b112-36a304b66dad"] {
        let entra = format!(
            "kind = \"entra\"\ntenant = \"{tenant}\"\nclient_id = \"gate\"\n\
             credential = {{ method = \"client_secret_post\", secret = {{ env = \"X\" }} }}"
        );
        assert!(Scene::build("https://gate.example", Some(&entra), None).await.is_err(), "{tenant}");
    }
    let with = |credential: &str, more: &str| {
        let text = format!(
            "kind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"gate\"\ncredential = {{ {credential} }}\n{more}"
        );
        toml::from_str::<ProviderConfig>(&text)
    };
    let good = [
        r#"method = "client_secret_basic", secret = { env = "X" }"#,
        r#"method = "private_key_jwt", key = { file = "k" }"#,
        r#"method = "federated_assertion", assertion = { file = "/var/run/token" }"#,
    ];
    for credential in good {
        assert!(with(credential, "").is_ok(), "{credential}");
        assert!(
            with(&format!("{credential}, other = 1"), "").is_err(),
            "{credential} and a key nobody knows"
        );
        assert!(with(credential, "other = 1").is_err());
    }
    for bad in [r#"method = "none""#, r#"method = "client_secret_post", secret = "inline""#] {
        assert!(with(bad, "").is_err(), "{bad}");
    }
    assert!(toml::from_str::<ProviderConfig>("kind = \"saml\"").is_err());
}
