//! What well-formed tokens say, and when it is not enough (attacks.md AA-04, AA-05, AA-12, AA-14, AA-19, AA-21, AA-32,
//! AA-37, AA-38, TP-04).

use std::time::Duration;

use bartizan_model::Timestamp;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::scene::{CONFIG, ISSUER, NOW, OTHER_ISSUER, RESOURCE, Scene, Signer, merge, resource};
use crate::{AuthenticationRequired, Denied, Error, Principal, StepUp};

#[tokio::test]
async fn a_good_token_says_who_asks_and_what_they_may() {
    let scene = Scene::new();
    let more = json!({
        "roles": ["editor"], "groups": ["dev", "ops"], "amr": ["pwd", "mfa"], "acr": "high", "auth_time": NOW - 60,
    });
    let token = scene.try_claims(more).await.unwrap();
    let caller = token.caller();
    assert_eq!((caller.issuer(), caller.subject(), caller.client()), (ISSUER, "alice", "agent"));
    assert_eq!(token.principal(), Principal::User);
    assert_eq!(token.resource(), RESOURCE);
    assert_eq!(token.audience(), [RESOURCE]);
    assert_eq!(token.token_id(), Some("token-1"));
    assert!(token.scopes().contains("mcp:read") && token.roles().contains("editor"));
    assert_eq!(token.groups().iter().collect::<Vec<_>>(), ["dev", "ops"]);
    assert_eq!(token.authentication_methods(), ["mfa", "pwd"]);
    assert_eq!(token.authentication_contexts(), ["high"]);
    assert_eq!(token.authenticated_at(), Some(Timestamp::from_unix(NOW - 60)));
    assert_eq!(token.expires_at(), Timestamp::from_unix(NOW + 300));
    assert!(!token.is_sender_constrained());
}

#[tokio::test]
async fn every_algorithm_of_the_issuer_works_under_its_own_key() {
    let scene = Scene::new();
    scene.assert_good_token_works().await;
    let header = json!({ "typ": "at+jwt", "alg": "RS256", "kid": "rsa" });
    assert!(scene.show(&Signer::rs256().token(&header, &scene.claims())).await.is_ok());
    let header = json!({ "typ": "application/AT+JWT", "alg": "EdDSA", "kid": "ed" });
    assert!(scene.show(&scene.signer.token(&header, &scene.claims())).await.is_ok());
}

#[tokio::test]
async fn aa_04_other_tokens_of_the_same_issuer_are_no_access_tokens() {
    let scene = Scene::new();
    let kinds = [
        "JWT",
        "id+jwt",
        "logout+jwt",
        "secevent+jwt",
        "dpop+jwt",
        "oauth-id-jag+jwt",
        "client-authentication+jwt",
        "at-jwt",
        "application/jwt",
    ];
    for kind in kinds {
        assert_eq!(
            scene.try_header(json!({ "typ": kind })).await.unwrap_err(),
            Error::TokenTypeWrong,
            "{kind}"
        );
    }
    assert_eq!(scene.try_header(json!({ "typ": null })).await.unwrap_err(), Error::TokenTypeWrong);
    for claim in ["nonce", "at_hash", "c_hash", "s_hash", "htm", "htu", "events"] {
        assert_eq!(
            scene.try_claims(json!({ claim: "x" })).await.unwrap_err(),
            Error::TokenTypeWrong,
            "{claim}"
        );
    }
    // Refresh tokens, codes and sealed blobs are opaque; nobody here can be asked about them.
    for opaque in ["rt_0123456789abcdef", "SplxlOBeZQQYbYS6WxSbIA", "AAAA.BBBB"] {
        assert_eq!(scene.show(opaque).await.unwrap_err(), Error::TokenMalformed);
    }
    scene.assert_good_token_works().await;
}

#[tokio::test]
async fn aa_04_untyped_tokens_are_taken_only_by_name_and_must_look_like_access_tokens() {
    let untyped = CONFIG.replacen("[[issuers]]", "[[issuers]]\ndangerous_untyped_tokens = true", 1);
    let scene = Scene::configured(&untyped);
    let show = async |header: Value, claims: Value| scene.show(&scene.token(header, claims)).await;
    assert!(show(json!({ "typ": "JWT" }), json!({})).await.is_ok());
    assert!(show(json!({ "typ": null }), json!({ "typ": "Bearer" })).await.is_ok());
    let refused = [
        (json!({ "typ": "JWT" }), json!({ "scope": null })),
        (json!({ "typ": "JWT" }), json!({ "nonce": "n" })),
        (json!({ "typ": "JWT" }), json!({ "typ": "ID" })),
        (json!({ "typ": "JWT" }), json!({ "typ": "Refresh" })),
        (json!({ "typ": "JWT" }), json!({ "typ": 1 })),
        (json!({ "typ": "logout+jwt" }), json!({})),
    ];
    for (header, claims) in refused {
        assert_eq!(show(header, claims.clone()).await.unwrap_err(), Error::TokenTypeWrong, "{claims}");
    }
}

#[tokio::test]
async fn aa_05_only_the_exact_audience_will_do() {
    let scene = Scene::new();
    let slash = format!("{RESOURCE}/");
    let evil = format!("{RESOURCE}.evil.example");
    let fragment = format!("{RESOURCE}#x");
    let wrong = [
        json!("https://api.example"),
        json!("https://graph.microsoft.com"),
        json!(["other"]),
        json!(["other", RESOURCE]),
        json!([RESOURCE, "https://mcp.example.com/mcp/ab"]),
        json!(slash),
        json!(evil),
        json!(fragment),
        json!("https://mcp.example.com/MCP/a"),
        json!("HTTPS://mcp.example.com/mcp/a"),
        json!("https://mcp.example.com/mcp/ab"),
        json!("https://mcp.example.com/mcp"),
        json!("https://mcp.example.com"),
        json!("https://mcp.example.com/mcp/%61"),
        json!("*"),
        json!("agent"),
    ];
    for audience in wrong {
        let error = scene.try_claims(json!({ "aud": audience.clone() })).await.unwrap_err();
        assert_eq!(error, Error::AudienceWrong { resource: RESOURCE.into() }, "{audience}");
    }
    for malformed in
        [json!(""), json!([]), json!(1), json!({}), json!([[RESOURCE]]), json!([RESOURCE, 1]), json!(true)]
    {
        let error = scene.try_claims(json!({ "aud": malformed.clone() })).await.unwrap_err();
        assert_eq!(error, Error::ClaimMalformed("aud"), "{malformed}");
    }
    assert_eq!(scene.try_claims(json!({ "aud": null })).await.unwrap_err(), Error::ClaimMissing("aud"));
    assert!(scene.try_claims(json!({ "aud": [RESOURCE] })).await.is_ok());
}

#[tokio::test]
async fn tp_04_a_token_for_one_server_is_useless_at_every_other() {
    let scene = Scene::new();
    let paths = ["/mcp/a", "/mcp/ab", "/mcp"];
    for at in paths {
        for issued_for in paths {
            let token =
                scene.token(json!({}), json!({ "aud": format!("https://mcp.example.com{issued_for}") }));
            // Twice: the second time the good ones come from the cache.
            for _ in 0..2 {
                assert_eq!(scene.show_at(at, &token).await.is_ok(), at == issued_for, "{issued_for} at {at}");
            }
        }
    }
}

#[tokio::test]
async fn aa_12_the_issuer_is_compared_byte_for_byte_and_signs_with_its_own_keys() {
    let scene = Scene::new();
    let wrong = [
        "https://idp.example/",
        "http://idp.example",
        "https://IDP.example",
        "https://idp.example:443",
        "https://ıdp.example",
        "https://login.microsoftonline.com/common/v2.0",
        "https://login.microsoftonline.com/{tenantid}/v2.0",
        "https://other.example",
        "https://evil.example",
    ];
    for issuer in wrong {
        assert_eq!(
            scene.try_claims(json!({ "iss": issuer })).await.unwrap_err(),
            Error::IssuerUnknown,
            "{issuer}"
        );
    }
    assert_eq!(scene.try_claims(json!({ "iss": null })).await.unwrap_err(), Error::ClaimMissing("iss"));
    assert_eq!(scene.try_claims(json!({ "iss": [ISSUER] })).await.unwrap_err(), Error::ClaimMalformed("iss"));
    // A key of one issuer under the name of the other, with either's key id.
    let claims = merge(scene.claims(), json!({ "iss": OTHER_ISSUER }));
    for (kid, expected) in [("ed", Error::KeyUnknown), ("other", Error::SignatureWrong)] {
        let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": kid });
        assert_eq!(scene.show(&scene.signer.token(&header, &claims)).await.unwrap_err(), expected);
    }
    let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "other" });
    assert!(
        scene.show(&Signer::ed(2).token(&header, &claims)).await.is_ok(),
        "the other issuer's own token is good"
    );
}

#[tokio::test]
async fn aa_14_what_looks_like_a_name_never_makes_two_people_one() {
    let scene = Scene::new();
    let named = |subject: &str| json!({ "sub": subject, "email": "ceo@example.com", "upn": "ceo", "preferred_username": "ceo" });
    let first = scene.try_claims(named("1")).await.unwrap();
    let second = scene.try_claims(named("2")).await.unwrap();
    assert_ne!(first.caller().key(), second.caller().key());
    let claims = merge(scene.claims(), merge(named("1"), json!({ "iss": OTHER_ISSUER })));
    let header = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "other" });
    let elsewhere = scene.show(&Signer::ed(2).token(&header, &claims)).await.unwrap();
    assert_ne!(first.caller().key(), elsewhere.caller().key(), "one subject at two issuers is two people");
}

#[tokio::test]
async fn aa_19_times_are_whole_numbers_or_the_token_is_bad() {
    let scene = Scene::new();
    let raw = async |claim: &str, value: &str| scene.show(&scene.token_with_raw(claim, value)).await;
    for claim in ["exp", "nbf", "iat", "auth_time"] {
        for value in [
            r#""9999999999""#,
            "-1",
            "true",
            "null",
            "[1800000000]",
            "1800000000.5",
            "1.8e9",
            "{}",
            r#""future""#,
        ] {
            assert!(matches!(raw(claim, value).await, Err(Error::ClaimMalformed(_))), "{claim}: {value}");
        }
        assert_eq!(raw(claim, "1e400").await.unwrap_err(), Error::TokenMalformed);
    }
    assert_eq!(raw("exp", "0").await.unwrap_err(), Error::Expired);
    assert_eq!(raw("exp", "9223372036854775808").await.unwrap_err(), Error::LifetimeTooLong);
    assert_eq!(raw("exp", "18446744073709551615").await.unwrap_err(), Error::LifetimeTooLong);
    assert_eq!(scene.try_claims(json!({ "exp": null })).await.unwrap_err(), Error::ClaimMissing("exp"));
    assert_eq!(scene.try_claims(json!({ "iat": null })).await.unwrap_err(), Error::ClaimMissing("iat"));
    assert!(scene.try_claims(json!({ "nbf": NOW })).await.is_ok());
    let strict = Scene::configured(&CONFIG.replacen("[[issuers]]", "[[issuers]]\nrequire_nbf = true", 1));
    assert_eq!(strict.try_claims(json!({})).await.unwrap_err(), Error::ClaimMissing("nbf"));
    assert!(strict.try_claims(json!({ "nbf": NOW })).await.is_ok());
}

#[tokio::test]
async fn aa_21_scopes_are_exact_words() {
    let scene = Scene::new();
    let lacking = Error::ScopeInsufficient { needed: vec!["mcp:read".into()] };
    let wrong = [
        json!("xmcp:read"),
        json!("mcp:read\u{a0}"),
        json!("mcp:read,mcp:write"),
        json!("mcp:write\tmcp:read"),
        json!("mcp:write\nmcp:read"),
        json!(["mcp:read"]),
        json!("MCP:READ"),
        json!(""),
        json!("mcp:*"),
        json!({}),
    ];
    for scope in wrong {
        let error = scene.try_claims(json!({ "scope": scope.clone() })).await.unwrap_err();
        assert_eq!(error, lacking, "{scope}");
        assert_eq!((error.verdict().status, error.verdict().error), (403, Some("insufficient_scope")));
    }
    let disagreeing = json!({ "scope": "mcp:read", "scp": "mcp:write" });
    assert_eq!(scene.try_claims(disagreeing).await.unwrap_err(), lacking);
    assert!(scene.try_claims(json!({ "scope": "mcp:read x", "scp": ["mcp:read"] })).await.is_ok());
}

#[tokio::test]
async fn one_refusal_names_every_scope_an_operation_needs() {
    let scene = Scene::new();
    let token = scene.try_claims(json!({})).await.unwrap();
    let baseline = ["mcp:read".to_owned()];
    assert_eq!(token.require_scopes(&baseline, &[]), Ok(()));
    let needed = ["files:write".to_owned(), "files:read".to_owned(), "mcp:read".to_owned()];
    let expected = ["mcp:read", "files:write", "files:read"].map(str::to_owned).to_vec();
    assert_eq!(token.require_scopes(&baseline, &needed), Err(Error::ScopeInsufficient { needed: expected }));
}

#[tokio::test]
async fn a_scope_holds_what_the_operator_says_it_holds() {
    let scene = Scene::configured(&format!("[scope_implies]\n\"mcp:admin\" = [\"mcp:read\"]\n{CONFIG}"));
    assert!(scene.try_claims(json!({ "scope": "mcp:admin" })).await.is_ok());
    assert!(Scene::new().try_claims(json!({ "scope": "mcp:admin" })).await.is_err());
}

#[tokio::test]
async fn aa_32_an_application_is_never_a_person() {
    let scene = Scene::new();
    let workloads = [
        json!({ "sub": "agent" }),
        json!({ "sub": "agent@clients" }),
        json!({ "gty": "client-credentials" }),
        json!({ "preferred_username": "service-account-agent" }),
    ];
    for workload in &workloads {
        let error = scene.try_claims(workload.clone()).await.unwrap_err();
        assert_eq!(error, Error::ApplicationRefused);
        assert_eq!(error.verdict().status, 403);
    }
    let open = Scene::configured(&format!("allow_applications = true\n{CONFIG}"));
    for workload in workloads {
        assert_eq!(open.try_claims(workload).await.unwrap().principal(), Principal::Application);
    }
    assert_eq!(open.try_claims(json!({})).await.unwrap().principal(), Principal::User);
}

#[tokio::test]
async fn aa_37_decisions_are_kept_for_one_whole_token_and_one_resource() {
    let scene = Scene::new();
    // The same subject, id and beginning; different scopes.
    let read = scene.token(json!({}), json!({}));
    let none = scene.token(json!({}), json!({ "scope": "x" }));
    assert_eq!(read.get(..64), none.get(..64));
    for _ in 0..2 {
        assert!(scene.show(&read).await.is_ok());
        assert!(matches!(scene.show(&none).await, Err(Error::ScopeInsufficient { .. })));
        assert!(matches!(scene.show_at("/mcp/ab", &read).await, Err(Error::AudienceWrong { .. })));
    }
    // A forged signature on what the cache knows.
    let (signed, _) = read.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode([7; 64]));
    assert_eq!(scene.show(&forged).await.unwrap_err(), Error::SignatureWrong);
}

#[tokio::test]
async fn a_kept_decision_does_not_outlive_the_token() {
    let scene = Scene::new();
    let token = scene.token(json!({}), json!({ "exp": NOW + 10 }));
    assert!(scene.show(&token).await.is_ok());
    scene.clock.advance(Duration::from_secs(69));
    assert!(scene.show(&token).await.is_ok(), "within the skew, verified anew");
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.show(&token).await.unwrap_err(), Error::Expired);
}

#[tokio::test]
async fn a_revocation_does_not_wait_for_the_cache() {
    let scene = Scene::new();
    let token = scene.token(json!({}), json!({}));
    let now = Timestamp::from_unix(NOW);
    let until = now.plus(Duration::from_secs(86_400));
    let issuer = ISSUER.to_owned();
    let entries = [
        Denied::Token { issuer: issuer.clone(), token_id: "token-1".into() },
        Denied::Subject { issuer: issuer.clone(), subject: "alice".into() },
        Denied::Client { issuer, client: "agent".into() },
        Denied::Client { issuer: String::new(), client: "agent".into() },
    ];
    for entry in entries {
        assert!(scene.show(&token).await.is_ok());
        scene.server.denied().deny(entry.clone(), now, until, now);
        assert_eq!(scene.show(&token).await.unwrap_err(), Error::Denied, "{entry:?}");
        let later = scene.token(json!({}), json!({ "iat": NOW + 1, "jti": "token-2" }));
        assert!(scene.show(&later).await.is_ok(), "a later grant is another: {entry:?}");
        let bystander = scene.token(json!({}), json!({ "sub": "bob", "client_id": "b", "jti": "token-3" }));
        assert!(scene.show(&bystander).await.is_ok());
        scene.server.denied().allow(&entry);
    }
}

#[tokio::test]
async fn aa_38_clocks_may_differ_by_a_minute_and_no_token_lives_long() {
    let scene = Scene::new();
    let outside = [
        (json!({ "iat": NOW - 400, "exp": NOW - 60 }), Error::Expired),
        (json!({ "iat": NOW - 400, "exp": NOW - 61 }), Error::Expired),
        (json!({ "nbf": NOW + 61 }), Error::NotYetValid),
        (json!({ "iat": NOW + 600, "exp": NOW + 900 }), Error::NotYetValid),
        (json!({ "exp": NOW + 10 * 365 * 86_400 }), Error::LifetimeTooLong),
        (json!({ "exp": NOW + 86_401 }), Error::LifetimeTooLong),
        (json!({ "iat": NOW - 90_000 }), Error::LifetimeTooLong),
    ];
    for (claims, expected) in outside {
        assert_eq!(scene.try_claims(claims.clone()).await.unwrap_err(), expected, "{claims}");
    }
    for within in [
        json!({ "iat": NOW - 400, "exp": NOW - 59 }),
        json!({ "nbf": NOW + 60, "iat": NOW + 60 }),
        json!({ "exp": NOW + 86_400 }),
    ] {
        assert!(scene.try_claims(within.clone()).await.is_ok(), "{within}");
    }
}

#[tokio::test]
async fn a_resource_can_ask_for_a_stronger_or_fresher_sign_in() {
    let mut strict = resource("a", RESOURCE);
    strict.authentication =
        AuthenticationRequired { contexts: vec!["phr".into(), "mfa".into()], max_age_s: Some(300) };
    let scene = Scene::with(CONFIG, vec![strict.clone()], None);
    let good = json!({ "acr": "mfa", "auth_time": NOW - 300 });
    assert!(scene.try_claims(good.clone()).await.is_ok());
    for more in [
        json!({ "acr": null }),
        json!({ "acr": "pwd" }),
        json!({ "auth_time": null }),
        json!({ "auth_time": NOW - 301 }),
    ] {
        let error = scene.try_claims(merge(good.clone(), more)).await.unwrap_err();
        let step_up =
            StepUp::Rfc9470 { contexts: strict.authentication.contexts.clone(), max_age_s: Some(300) };
        assert_eq!(error, Error::AuthenticationInsufficient(step_up));
    }
}

#[tokio::test]
async fn subjects_and_clients_are_plain_text_and_present() {
    let scene = Scene::new();
    for claim in ["sub", "client_id"] {
        assert_eq!(scene.try_claims(json!({ claim: null })).await.unwrap_err(), Error::ClaimMissing(claim));
        for bad in [json!(""), json!("a\nb"), json!("a\u{0}"), json!(7), json!(["alice"])] {
            assert_eq!(
                scene.try_claims(json!({ claim: bad })).await.unwrap_err(),
                Error::ClaimMalformed(claim)
            );
        }
    }
}

#[tokio::test]
async fn keycloaks_and_oktas_claims_are_read_where_they_are() {
    let keycloak = CONFIG.replacen(
        "[[issuers]]",
        "[[issuers]]\nroles_claim = [\"realm_access\", \"roles\"]\nscope_claim = \"scp\"",
        1,
    );
    let scene = Scene::configured(&keycloak);
    let claims = json!({ "scope": null, "scp": ["mcp:read"], "client_id": null, "cid": "okta-app", "realm_access": { "roles": ["admin"] } });
    let token = scene.try_claims(claims).await.unwrap();
    assert!(token.roles().contains("admin"));
    assert_eq!(token.caller().client(), "okta-app");
    assert_eq!(
        scene
            .try_claims(json!({ "realm_access": { "roles": "admin" }, "scp": "mcp:read" }))
            .await
            .unwrap_err(),
        Error::ClaimMalformed("roles")
    );
}
