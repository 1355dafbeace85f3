//! Clients described at their address (spec.md F-17 to F-23; attacks.md AA-27, CD-07, CD-14).

use std::sync::Arc;

use bartizan_egress::{Config, Egress};
use serde_json::{Value, json};

use super::stage::{ASKED, CONFIG, ISSUER, Stage, ann, change, encode, redemption};
use crate::{
    facade::{FetchStranger, Incomplete, Unanswerable},
    tests::scene::{Signer, merge},
};

const ID: &str = "https://app.example/client.json";
const JSON: (&str, &str) = ("content-type", "application/json");

fn good() -> Value {
    json!({
        "client_id": ID, "client_name": "An app", "redirect_uris": ["https://c.example/cb", "http://127.0.0.1/cb"],
        "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"],
    })
}

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.strangers.say(ID, 200, &[JSON], good());
    stage
}

fn is_page(refused: &Unanswerable, expected: u16) -> bool {
    matches!(refused, Unanswerable::Page { status, .. } if *status == expected)
}

#[tokio::test]
async fn f_17_a_described_client_completes_the_flow() {
    let stage = stage().await;
    let request = stage.authorize(&[("client_id", ID)]).await.unwrap();
    assert_eq!(request.client.verified_host.as_deref(), Some("app.example"));
    assert_eq!((request.client.name.as_str(), request.client.only_loopback), ("An app", false));
    let code = stage.code(&[("client_id", ID)]).await;
    let answer = stage.redeem(&code, &[("client_id", ID)]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.get("refresh_token").is_some());
    assert_eq!(stage.strangers.count(), 1, "it is fetched once");
}

/// AA-24, F-13: only to whom the operator wrote down a browser goes by itself with an error.
#[tokio::test]
async fn aa_24_whose_mistake_it_is_is_told() {
    let stage = stage().await;
    for (client, expected) in [(ID, Some("An app")), ("editor", None)] {
        let refused =
            stage.authorize(&[("client_id", client), ("response_type", "token")]).await.unwrap_err();
        match refused {
            Unanswerable::Redirect { stranger, .. } => assert_eq!(stranger.as_deref(), expected, "{client}"),
            Unanswerable::Page { words, .. } => panic!("{words}"),
        }
    }
}

#[tokio::test]
async fn f_18_f_19_aa_27_a_document_that_is_not_exactly_right_is_none() {
    let stage = Stage::new().await;
    let private = merge(Signer::ec().jwk(), json!({ "d": "AAAA" }));
    let bad: Vec<(u16, (&str, &str), String)> = vec![
        (404, JSON, good().to_string()),
        (302, JSON, good().to_string()),
        (201, JSON, good().to_string()),
        (200, ("content-type", "text/html"), good().to_string()),
        (200, JSON, "<html>".to_owned()),
        (200, JSON, "[]".to_owned()),
        (200, JSON, format!("{}{}", good(), " ".repeat(5 * 1024))),
        (200, JSON, r#"{"client_id":"x","client_id":"y"}"#.to_owned()),
    ];
    let changed = [
        json!({ "client_id": null }),
        json!({ "client_id": "https://APP.example/client.json" }),
        json!({ "client_id": "https://app.example:443/client.json" }),
        json!({ "client_id": "https://app.example/client.json/" }),
        json!({ "client_name": null }),
        json!({ "client_name": "" }),
        json!({ "redirect_uris": null }),
        json!({ "redirect_uris": [] }),
        json!({ "redirect_uris": ["http://c.example/cb"] }),
        json!({ "redirect_uris": ["https://c.example/cb", "javascript:x"] }),
        json!({ "client_secret": "x" }),
        json!({ "token_endpoint_auth_method": "client_secret_basic" }),
        json!({ "token_endpoint_auth_method": "client_secret_jwt" }),
        json!({ "token_endpoint_auth_method": "private_key_jwt" }),
        json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": [private] } }),
        json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://app.example/keys" }),
        json!({ "grant_types": ["client_credentials"] }),
    ];
    let changed = changed.map(|change| (200, JSON, merge(good(), change).to_string()));
    for (n, (status, kind, body)) in bad.into_iter().chain(changed).enumerate() {
        stage.strangers.say(ID, status, &[kind, ("cache-control", "max-age=3600")], &body);
        let before = stage.strangers.count();
        let refused = stage.authorize(&[("client_id", ID)]).await.unwrap_err();
        assert!(is_page(&refused, 400), "{n}: {status} {body}: {refused:?}");
        assert_eq!(stage.strangers.count() - before, 1, "one question");
        stage.advance(60);
    }
    stage.strangers.say(ID, 200, &[("content-type", "application/cimd+json; charset=utf-8")], good());
    assert!(stage.authorize(&[("client_id", ID)]).await.is_ok(), "nothing bad was kept");
    let absent = stage.authorize(&[("client_id", ID), ("redirect_uri", "https://c.example/else")]).await;
    assert!(is_page(&absent.unwrap_err(), 400), "a redirect URI that is not in it");
}

#[tokio::test]
async fn aa_27_an_id_that_is_no_address_of_a_document_is_not_asked_for() {
    let stage = stage().await;
    for id in [
        "http://app.example/client.json",
        "https://app.example",
        "https://app.example/",
        "https://u@app.example/client.json",
        "https://app.example/x/../client.json",
        "https://app.example/client.json#x",
        "HTTPS://app.example/client.json",
    ] {
        assert!(is_page(&stage.authorize(&[("client_id", id)]).await.unwrap_err(), 400), "{id}");
    }
    assert_eq!(stage.strangers.count(), 0);
}

#[tokio::test]
async fn f_20_a_changed_document_is_seen_when_its_time_is_up_and_needs_new_consent() {
    let stage = Stage::new().await;
    stage.strangers.say(ID, 200, &[JSON, ("cache-control", "max-age=120")], good());
    let request = stage.authorize(&[("client_id", ID)]).await.unwrap();
    let moved = json!({ "redirect_uris": ["https://c.example/new"] });
    stage.strangers.say(ID, 200, &[JSON], merge(good(), moved));
    stage.advance(119);
    assert!(stage.authorize(&[("client_id", ID)]).await.is_ok());
    stage.advance(1);
    assert!(is_page(&stage.authorize(&[("client_id", ID)]).await.unwrap_err(), 400), "the old one is gone");
    let changes = [("client_id", ID), ("redirect_uri", "https://c.example/new")];
    let changed = stage.authorize(&changes).await.unwrap();
    assert_ne!(changed.client.metadata, request.client.metadata);
    assert_eq!(stage.facade.complete(request, &ann()).await, Err(Incomplete::ClientChanged));
    for change in [
        json!({ "client_name": "Another" }),
        json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": [Signer::ec().jwk()] } }),
        json!({ "redirect_uris": ["https://c.example/new", "http://localhost/"] }),
    ] {
        stage.advance(3600);
        stage.strangers.say(
            ID,
            200,
            &[JSON],
            merge(merge(good(), json!({ "redirect_uris": ["https://c.example/new"] })), change),
        );
        assert_ne!(stage.authorize(&changes).await.unwrap().client.metadata, changed.client.metadata);
    }
}

#[tokio::test]
async fn a_document_that_is_out_of_reach_does_not_end_what_its_client_was_granted() {
    let stage = stage().await;
    let code = stage.code(&[("client_id", ID)]).await;
    let first = stage.redeem(&code, &[("client_id", ID)]).await;
    let refresh = first.text("refresh_token");
    stage.advance(301);
    stage.strangers.say(ID, 500, &[JSON], "");
    let answer = stage.refresh(refresh, &[("client_id", ID)]).await;
    assert_eq!(answer.error(), (503, "temporarily_unavailable"));
    let nowhere = "https://nowhere.example/client.json";
    let unreachable = stage.refresh(refresh, &[("client_id", nowhere)]).await;
    assert_eq!((unreachable.error(), &unreachable.body), (answer.error(), &answer.body), "no oracle");
    stage.strangers.say(ID, 200, &[JSON], good());
    assert_eq!(stage.refresh(refresh, &[("client_id", ID)]).await.status, 200);
}

#[tokio::test]
async fn f_21_a_flood_of_ids_is_no_flood_of_fetches() {
    let stage = stage().await;
    for n in 0..1000 {
        let (id, peer) = (format!("https://random-{n}.example/c"), format!("203.0.113.{}", n % 2));
        let query = encode(&change(&ASKED, &[("client_id", &id)]));
        assert!(stage.begin_from(&peer, &query).await.is_err());
    }
    assert_eq!(stage.strangers.count(), 20, "ten for each address");
    let query = encode(&change(&ASKED, &[("client_id", ID)]));
    assert!(is_page(&stage.begin_from("203.0.113.1", &query).await.unwrap_err(), 429));
    assert!(stage.begin_from("198.51.100.1", &query).await.is_ok(), "the honest neighbour");
    assert!(stage.begin_from("203.0.113.1", &query).await.is_ok(), "what is known needs no fetch");
    for n in 0..1000 {
        let (id, peer) = (format!("https://more-{n}.example/c"), format!("10.{}.{}.1", n / 250, n % 250));
        let query = encode(&change(&ASKED, &[("client_id", &id)]));
        assert!(stage.begin_from(&peer, &query).await.is_err());
    }
    assert_eq!(stage.strangers.count(), 120, "and so many for all together");
}

#[tokio::test]
async fn strangers_cannot_use_up_what_known_clients_need() {
    let stage = Stage::new().await;
    stage.strangers.say(ID, 200, &[JSON, ("cache-control", "max-age=60")], good());
    assert!(stage.authorize(&[("client_id", ID)]).await.is_ok());
    stage.advance(60);
    let query = |id: &str| encode(&change(&ASKED, &[("client_id", id)]));
    for n in 0..200 {
        let id = format!("https://random-{n}.example/c");
        assert!(stage.begin_from(&format!("203.0.113.{n}"), &query(&id)).await.is_err());
    }
    let fresh = stage.begin_from("198.51.100.1", &query("https://new.example/c")).await;
    assert!(is_page(&fresh.unwrap_err(), 429));
    assert!(stage.begin_from("198.51.100.1", &query(ID)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_ask_for_one_document_at_once_are_one_fetch() {
    let stage = Arc::new(stage().await);
    let asking = (0..50).map(|_| {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move { stage.authorize(&[("client_id", ID)]).await.is_ok() })
    });
    let asking: Vec<_> = asking.collect();
    for one in asking {
        assert!(one.await.unwrap());
    }
    assert!(stage.strangers.count() <= 2, "{}", stage.strangers.count());
}

#[tokio::test]
async fn f_23_only_listed_hosts_count_where_there_is_a_list() {
    let stage =
        Stage::configured(&format!("client_documents = {{ hosts = [\"trusted.example\"] }}\n{CONFIG}")).await;
    stage.strangers.say(ID, 200, &[JSON], good());
    let trusted = "https://trusted.example/client.json";
    stage.strangers.say(trusted, 200, &[JSON], merge(good(), json!({ "client_id": trusted })));
    assert!(is_page(&stage.authorize(&[("client_id", ID)]).await.unwrap_err(), 400));
    assert_eq!(stage.strangers.count(), 0, "it was not even asked");
    assert!(stage.authorize(&[("client_id", trusted)]).await.is_ok());
    let off = Stage::configured("client_documents = { enabled = false }").await;
    off.strangers.say(ID, 200, &[JSON], good());
    assert!(is_page(&off.authorize(&[("client_id", ID)]).await.unwrap_err(), 400));
}

#[tokio::test]
async fn a_described_client_proves_itself_by_the_keys_it_names() {
    let stage = Stage::new().await;
    let (key, thief) = (Signer::ec(), Signer::ec());
    let keys = "https://app.example/keys";
    let named = json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": keys });
    stage.strangers.say(ID, 200, &[JSON], merge(good(), named));
    stage.strangers.say(keys, 200, &[JSON], json!({ "keys": [key.jwk_with(json!({ "kid": "k" }))] }));
    let code = stage.code(&[("client_id", ID)]).await;
    let assertion = |key: &Signer, id: &str| {
        let claims = json!({ "iss": ID, "sub": ID, "aud": ISSUER, "exp": stage.now() + 60, "jti": id });
        key.token(&json!({ "alg": "ES256", "kid": "k" }), &claims)
    };
    let redeem = async |assertion: &str| {
        let proof = [
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ];
        let form: Vec<_> =
            redemption(&code).into_iter().filter(|(name, _)| *name != "client_id").chain(proof).collect();
        stage.token(&form).await
    };
    assert_eq!(stage.redeem(&code, &[("client_id", ID)]).await.error(), (401, "invalid_client"));
    assert_eq!(redeem(&assertion(&thief, "1")).await.error(), (401, "invalid_client"));
    assert_eq!(redeem(&assertion(&key, "2")).await.status, 200);
}

/// The guard is the egress one: no connection is made, and no answer tells open, closed and filtered ports apart.
#[tokio::test]
async fn cd_07_f_22_no_id_reaches_an_internal_address() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let egress = Egress::new(Config::default());
    for host in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "[::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "localhost",
        "2130706433",
        "0x7f.1",
        "017700000001",
    ] {
        let url = format!("https://{host}:{port}/client.json").parse().unwrap();
        let refused = FetchStranger::fetch(&egress, &url, 5 * 1024).await.unwrap_err();
        assert!(matches!(refused, bartizan_egress::Error::ForbiddenAddress), "{host}: {refused}");
    }
    let reached = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(reached.is_err(), "somebody connected");
}
