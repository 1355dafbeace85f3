//! Clients that prove who they are, and what they are given for other tokens (RFC 6749 §2.3, RFC 7523, RFC 8693).

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bartizan_model::{Clock, SystemClock};
use bartizan_trials::{Answer, Facade, Issuer, PUBLIC, SECRET, basic, change, merge};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_JAG: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

fn now() -> u64 {
    SystemClock.now().as_unix()
}

fn sign(key: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).as_ref()))
}

#[test]
fn aa_35_a_secret_counts_whole_in_one_place_and_is_not_done_without() {
    let facade = Facade::start();
    let resource = Facade::resource("a");
    let form = [("grant_type", "client_credentials"), ("resource", resource.as_str())];
    let post = |more: &[(&'static str, &'static str)]| [form.as_slice(), more].concat();
    let good = basic("server", SECRET);
    let by_header = |line: &str| vec![("Authorization", line.to_owned())];
    type Lines = Vec<(&'static str, String)>;
    let cases: Vec<(Lines, Vec<(&str, &str)>)> = vec![
        (vec![], post(&[])),
        (vec![], post(&[("client_id", "server")])),
        (vec![], post(&[("client_id", "server"), ("client_secret", "")])),
        (vec![], post(&[("client_id", "server"), ("client_secret", "wrong")])),
        (vec![], post(&[("client_id", "editor"), ("client_secret", SECRET)])),
        (vec![], post(&[("client_secret", SECRET)])),
        (by_header(&basic("server", "wrong")), post(&[])),
        (by_header(&basic("server", "")), post(&[])),
        (by_header(&basic("editor", SECRET)), post(&[])),
        (by_header("Basic !!!"), post(&[])),
        (by_header(&format!("Bearer {SECRET}")), post(&[])),
        (by_header(&good), post(&[("client_id", "server"), ("client_secret", SECRET)])),
        (by_header(&good), post(&[("client_id", "other")])),
        (by_header(&good), post(&[("client_assertion_type", JWT_BEARER), ("client_assertion", "a.b.c")])),
        ([by_header(&good), by_header(&good)].concat(), post(&[])),
    ];
    for (lines, form) in cases {
        let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = facade.post("/oauth/token", &lines, &form);
        assert_eq!(error(&answer), (401, "invalid_client".to_owned()), "{lines:?} {form:?}");
    }
    let query = bartizan_trials::encode(&[("client_id", "server"), ("client_secret", SECRET)]);
    let answer = facade.post(&format!("/oauth/token?{query}"), &[], &form);
    assert_eq!(error(&answer), (401, "invalid_client".to_owned()), "a query is no place for it");
    // A code of a confidential client is not given to whoever only names it.
    let back = [("client_id", "server"), ("redirect_uri", "https://s.example/cb")];
    let code = facade.code("ann", &back);
    let changes = [("client_id", "server"), ("redirect_uri", "https://s.example/cb")];
    assert_eq!(error(&facade.redeem(&code, &changes)), (401, "invalid_client".to_owned()));

    let token = facade.token_of_server(&form).json();
    assert_eq!(token["token_type"], "Bearer", "{token}");
    let in_body = post(&[("client_id", "server"), ("client_secret", SECRET)]);
    assert_eq!(facade.token(&in_body).outcome(), 200);
    assert!(!facade.gate.log().contains(SECRET));
}

#[test]
fn aa_35_an_assertion_is_the_clients_own_for_us_now_and_once() {
    let key = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let thief = Ed25519KeyPair::from_seed_unchecked(&[4; 32]).unwrap();
    let robot = format!(
        "[[identity.clients]]\nid = \"robot\"\nname = \"Robot\"\ngrants = [\"client_credentials\"]\n\
         jwks = {{ keys = [{{ kty = \"OKP\", crv = \"Ed25519\", kid = \"k\", x = \"{}\" }}] }}\n",
        URL_SAFE_NO_PAD.encode(key.public_key().as_ref())
    );
    let facade = Facade::with("", &robot);
    let resource = Facade::resource("a");
    let claims = |change: Value| {
        let good = json!({
            "iss": "robot", "sub": "robot", "aud": PUBLIC, "exp": now() + 60, "iat": now(), "jti": "one",
        });
        merge(good, change)
    };
    let header = |change: Value| merge(json!({ "alg": "EdDSA", "kid": "k" }), change);
    let ask = |assertion: &str| {
        facade.token(&[
            ("grant_type", "client_credentials"),
            ("resource", &resource),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", assertion),
        ])
    };
    let mut bad: Vec<(String, String)> = [
        json!({ "iss": "server" }),
        json!({ "sub": "server" }),
        json!({ "sub": "editor", "iss": "editor" }),
        json!({ "aud": "https://evil.example" }),
        json!({ "aud": [PUBLIC, "https://evil.example"] }),
        json!({ "aud": resource }),
        json!({ "aud": null }),
        json!({ "exp": null }),
        json!({ "exp": now() - 120 }),
        json!({ "exp": now() + 3600 }),
        json!({ "exp": (now() + 60).to_string() }),
        json!({ "nbf": now() + 600 }),
        json!({ "jti": null }),
    ]
    .into_iter()
    .map(|change| (change.to_string(), sign(&key, &header(json!({})), &claims(change))))
    .collect();
    for change in [
        json!({ "alg": "none" }),
        json!({ "alg": "HS256" }),
        json!({ "kid": "other" }),
        json!({ "typ": "at+jwt" }),
    ] {
        bad.push((change.to_string(), sign(&key, &header(change), &claims(json!({})))));
    }
    bad.push(("another key".to_owned(), sign(&thief, &header(json!({})), &claims(json!({})))));
    let good = sign(&key, &header(json!({})), &claims(json!({})));
    bad.push(("unsigned".to_owned(), format!("{}.", good.rsplit_once('.').unwrap().0)));
    for (what, assertion) in bad {
        assert_eq!(error(&ask(&assertion)), (401, "invalid_client".to_owned()), "{what}");
    }
    assert_eq!(ask(&good).outcome(), 200, "none of it used up the honest one");
    assert_eq!(error(&ask(&good)), (401, "invalid_client".to_owned()), "once");
    let next = sign(&key, &header(json!({})), &claims(json!({ "jti": "two" })));
    assert_eq!(ask(&next).outcome(), 200);
}

#[test]
fn aa_36_an_exchange_never_widens_and_takes_only_tokens_for_us() {
    let issuer = Issuer::start(11);
    let trusted = format!(
        "[[identity.exchange_issuers]]\naudience = \"{PUBLIC}\"\nissuer = {{ kind = \"oidc\", issuer = \"{}\" }}\n",
        issuer.name()
    );
    let facade = Facade::with("", &trusted);
    let (resource, other) = (Facade::resource("a"), Facade::resource("b"));
    let narrow = facade.redeem(&facade.code("ann", &[("scope", "mcp:read")]), &[]).json();
    let token = narrow["access_token"].as_str().unwrap();
    let exchange = |token: &str, changes: &[(&str, &str)]| {
        let form = [("grant_type", EXCHANGE), ("subject_token", token), ("subject_token_type", ACCESS_TOKEN)];
        facade.token_of_server(&change(&form, changes))
    };
    for (changes, expected) in [
        (vec![("scope", "mcp:write")], "invalid_scope"),
        (vec![("scope", "mcp:read mcp:write")], "invalid_scope"),
        (vec![("resource", other.as_str())], "invalid_target"),
        (vec![("audience", other.as_str())], "invalid_target"),
        (vec![("resource", "https://evil.example")], "invalid_target"),
        (vec![("actor_token", token), ("actor_token_type", ACCESS_TOKEN)], "invalid_request"),
        (vec![("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")], "invalid_request"),
        (vec![("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")], "invalid_request"),
        (vec![("subject_token", "x.y.z")], "invalid_grant"),
        (vec![("subject_token", narrow["refresh_token"].as_str().unwrap())], "invalid_grant"),
    ] {
        assert_eq!(error(&exchange(token, &changes)), (400, expected.to_owned()), "{changes:?}");
    }
    let form = [
        ("grant_type", EXCHANGE),
        ("subject_token", token),
        ("subject_token_type", ACCESS_TOKEN),
        ("client_id", "editor"),
    ];
    assert_eq!(error(&facade.token(&form)), (400, "unauthorized_client".to_owned()), "not for whoever asks");
    let here = [("resource", resource.as_str())];
    let stranger = Issuer::start(12);
    for (what, token) in [
        ("another audience", issuer.token("bob", "https://graph.example", json!({}))),
        ("expired", issuer.token("bob", PUBLIC, json!({ "exp": now() - 120 }))),
        ("an ID token", issuer.token_with(json!({ "typ": "JWT" }), "bob", PUBLIC, json!({ "nonce": "n" }))),
        ("an unknown issuer", stranger.token("bob", PUBLIC, json!({}))),
        ("a stranger's key", stranger.token("bob", PUBLIC, json!({ "iss": issuer.name() }))),
    ] {
        assert_eq!(error(&exchange(&token, &here)), (400, "invalid_grant".to_owned()), "{what}");
    }
    let honest = exchange(token, &[]).json();
    assert_eq!(honest["scope"], "mcp:read", "{honest}");
    assert_eq!(facade.shows("a", honest["access_token"].as_str().unwrap()), 200);
    let theirs = exchange(&issuer.token("bob", PUBLIC, json!({})), &here).json();
    assert_eq!(theirs["scope"], "mcp:read", "{theirs}");
    assert_eq!(facade.shows("a", theirs["access_token"].as_str().unwrap()), 200);
}

#[test]
fn aa_36_an_identity_assertion_is_for_us_for_this_client_and_once() {
    let issuer = Issuer::start(13);
    let trusted = format!("[[identity.assertion_issuers]]\nissuer = \"{}\"\n", issuer.name());
    let facade = Facade::with("", &trusted);
    let assertion = |header: Value, claims: Value| {
        let mut own = json!({
            "client_id": "server", "resource": Facade::resource("a"), "scope": "mcp:read mcp:write rule",
            "exp": now() + 120, "nbf": null,
        });
        let mut own_header = json!({ "typ": "oauth-id-jag+jwt" });
        for (of, changes) in [(&mut own, claims), (&mut own_header, header)] {
            // `null` goes on to whoever signs.
            for (name, value) in changes.as_object().unwrap() {
                of[name.as_str()] = value.clone();
            }
        }
        issuer.token_with(own_header, "ann", PUBLIC, own)
    };
    let ask = |assertion: &str, changes: &[(&str, &str)]| {
        let form = [("grant_type", ID_JAG), ("assertion", assertion)];
        facade.token_of_server(&change(&form, changes))
    };
    for (header, claims) in [
        (json!({ "typ": "JWT" }), json!({})),
        (json!({ "typ": "at+jwt" }), json!({})),
        (json!({ "typ": null }), json!({})),
        (json!({ "alg": "none" }), json!({})),
        (json!({ "kid": "other" }), json!({})),
        (json!({}), json!({ "aud": "https://other.example" })),
        (json!({}), json!({ "aud": format!("{PUBLIC}/") })),
        (json!({}), json!({ "aud": [PUBLIC, "https://other.example"] })),
        (json!({}), json!({ "iss": "https://evil.example" })),
        (json!({}), json!({ "client_id": "editor" })),
        (json!({}), json!({ "client_id": null })),
        (json!({}), json!({ "exp": now() + 600 })),
        (json!({}), json!({ "exp": now() - 120 })),
        (json!({}), json!({ "jti": null })),
        (json!({}), json!({ "resource": [Facade::resource("a"), Facade::resource("b")] })),
    ] {
        let answer = ask(&assertion(header.clone(), claims.clone()), &[]);
        assert_eq!(error(&answer), (400, "invalid_grant".to_owned()), "{header} {claims}");
    }
    let good = assertion(json!({}), json!({ "jti": "good" }));
    assert_eq!(error(&ask(&good, &[("scope", "mcp:admin")])), (400, "invalid_scope".to_owned()));
    let elsewhere = Facade::resource("b");
    assert_eq!(error(&ask(&good, &[("resource", &elsewhere)])), (400, "invalid_target".to_owned()));
    let answer = ask(&good, &[]).json();
    assert_eq!(answer["scope"], "mcp:read mcp:write", "{answer}");
    assert!(answer.get("refresh_token").is_none());
    assert_eq!(error(&ask(&good, &[])), (400, "invalid_grant".to_owned()), "once");
}
