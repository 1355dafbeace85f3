//! Tokens that are bound to their sender (attacks.md AA-39; RFC 9449, RFC 8705).

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::scene::{CONFIG, NOW, RESOURCE, Scene, Signer, merge};
use bartizan_store::{Database, Sealer, StoredGrants};

use crate::{DpopNonces, Error, MemoryReplays, SharedReplays, json::Object, key::thumbprint};

fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes))
}

/// A client with a key of its own.
struct Client {
    key: Signer,
    token: String,
}

impl Client {
    fn new(scene: &Scene, key: Signer) -> Self {
        Self::of(scene, key, "alice")
    }

    /// One that speaks for `subject`.
    fn of(scene: &Scene, key: Signer, subject: &str) -> Self {
        let jkt = thumbprint(&Object::parse(key.jwk().to_string().as_bytes()).unwrap()).unwrap();
        let token = scene.token(json!({}), json!({ "sub": subject, "cnf": { "jkt": jkt } }));
        Self { key, token }
    }

    fn proof(&self, header: Value, claims: Value) -> String {
        let good_header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.jwk() });
        let good_claims = json!({
            "htm": "POST", "htu": RESOURCE, "iat": NOW, "jti": "proof-1", "ath": hash(self.token.as_bytes()),
        });
        self.key.token(&merge(good_header, header), &merge(good_claims, claims))
    }

    async fn send(&self, scene: &Scene, proof: &str) -> Result<(), Error> {
        let lines = [("authorization", &*format!("DPoP {}", self.token)), ("dpop", proof)];
        scene.send("/mcp/a", &lines, None).await.map(|token| assert!(token.is_sender_constrained()))
    }
}

#[test]
fn the_thumbprint_is_the_one_of_rfc_7638() {
    // RFC 7638 §3.1.
    let jwk = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
    let thumbprint = thumbprint(&Object::parse(jwk.as_bytes()).unwrap());
    assert_eq!(thumbprint.as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
}

#[tokio::test]
async fn aa_39_a_proof_is_about_this_request_this_token_and_this_key() {
    let scene = Scene::new();
    let client = Client::new(&scene, Signer::ec());
    let wrong_claims = [
        json!({ "htm": "GET" }),
        json!({ "htm": "post" }),
        json!({ "htm": null }),
        json!({ "htu": "https://mcp.example.com/mcp/ab" }),
        json!({ "htu": "http://mcp.example.com/mcp/a" }),
        json!({ "htu": "https://evil.example/mcp/a" }),
        json!({ "htu": "/mcp/a" }),
        json!({ "htu": null }),
        json!({ "htu": "https://mcp.example.com/mcp/a/" }),
        json!({ "htu": "https://x@mcp.example.com/mcp/a" }),
        json!({ "ath": null }),
        json!({ "ath": hash(b"another token") }),
        json!({ "iat": NOW - 600 }),
        json!({ "iat": NOW - 121 }),
        json!({ "iat": NOW + 31 }),
        json!({ "iat": null }),
        json!({ "iat": "now" }),
        json!({ "jti": null }),
        json!({ "jti": "" }),
    ];
    for claims in wrong_claims {
        let error = client.send(&scene, &client.proof(json!({}), claims.clone())).await.unwrap_err();
        assert!(matches!(error, Error::ProofInvalid(_)), "{claims}: {error}");
        assert_eq!((error.verdict().status, error.verdict().error), (401, Some("invalid_dpop_proof")));
    }
    let private = merge(client.key.jwk(), json!({ "d": "AAAA" }));
    let wrong_headers = [
        json!({ "typ": "JWT" }),
        json!({ "typ": null }),
        json!({ "alg": "none" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "ES384" }),
        json!({ "jwk": null }),
        json!({ "jwk": private }),
        json!({ "jwk": { "kty": "oct", "k": "AAAA" } }),
        json!({ "jwk": Signer::ec().jwk() }),
        json!({ "crit": ["x"] }),
    ];
    for header in wrong_headers {
        let error = client.send(&scene, &client.proof(header.clone(), json!({}))).await.unwrap_err();
        assert!(matches!(error, Error::ProofInvalid(_)), "{header}: {error}");
    }
    // A perfect proof by another key.
    let thief = Client { key: Signer::ec(), token: client.token.clone() };
    assert!(matches!(
        thief.send(&scene, &thief.proof(json!({}), json!({}))).await,
        Err(Error::ProofInvalid(_))
    ));
    for good in [
        json!({}),
        json!({ "jti": "2", "htu": "HTTPS://MCP.example.com:443/mcp/a?x=y#z" }),
        json!({ "jti": "3", "iat": NOW - 120 }),
        json!({ "jti": "4", "iat": NOW + 30 }),
    ] {
        assert_eq!(client.send(&scene, &client.proof(json!({}), good.clone())).await, Ok(()), "{good}");
    }
}

#[tokio::test]
async fn aa_39_a_proof_works_once() {
    let scene = Scene::new();
    let client = Client::new(&scene, Signer::ec());
    let proof = client.proof(json!({}), json!({}));
    assert_eq!(client.send(&scene, &proof).await, Ok(()));
    assert_eq!(client.send(&scene, &proof).await, Err(Error::ProofReplayed));
    // The id counts, not the spelling around it.
    assert_eq!(
        client.send(&scene, &client.proof(json!({}), json!({ "iat": NOW - 1 }))).await,
        Err(Error::ProofReplayed)
    );
    scene.clock.advance(Duration::from_secs(120));
    assert_eq!(
        client.send(&scene, &proof).await,
        Err(Error::ProofReplayed),
        "remembered as long as it is fresh"
    );
    scene.clock.advance(Duration::from_secs(1));
    assert!(matches!(client.send(&scene, &proof).await, Err(Error::ProofInvalid(_))));
    let other = Client::new(&scene, Signer::ec());
    let theirs = other.proof(json!({}), json!({ "iat": NOW + 121 }));
    assert_eq!(other.send(&scene, &theirs).await, Ok(()), "another client may use the same id");
}

/// Behind one address, whoever listens on the way to one gate would have a proof for each of the others.
#[tokio::test]
async fn aa_39_a_proof_works_once_at_all_gates_of_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::sqlite(&folder.path().join("store.db")).await.unwrap();
    let sealer = Arc::new(Sealer::new(&[3; 32]).unwrap());
    let grants = Arc::new(StoredGrants::new(database.clone(), sealer));
    let gate = || {
        let mut scene = Scene::new();
        scene.server.replays = Arc::new(SharedReplays::new(MemoryReplays::new(100), grants.clone()));
        scene
    };
    let (one, other) = (gate(), gate());
    let client = Client::new(&one, Signer::ec());
    let proof = client.proof(json!({}), json!({}));
    assert_eq!(client.send(&one, &proof).await, Ok(()));
    assert_eq!(client.send(&one, &proof).await, Err(Error::ProofReplayed));
    // The gates of this scene trust one issuer, whose key is the same.
    assert_eq!(client.send(&other, &proof).await, Err(Error::ProofReplayed));
    let next = client.proof(json!({}), json!({ "jti": "proof-2" }));
    assert_eq!(client.send(&other, &next).await, Ok(()));
    database.close().await;
    let next = client.proof(json!({}), json!({ "jti": "proof-3" }));
    assert_eq!(client.send(&other, &next).await, Err(Error::ProofsUnavailable), "it may have been used");
}

#[tokio::test]
async fn a_full_memory_refuses_rather_than_forgets() {
    let scene = Scene::new();
    let client = Client::new(&scene, Signer::ec());
    let proof =
        |n: usize, iat: u64| client.proof(json!({}), json!({ "jti": format!("proof-{n}"), "iat": iat }));
    // Of room for a hundred, a sixteenth.
    for n in 0..7 {
        assert_eq!(client.send(&scene, &proof(n, NOW)).await, Ok(()));
    }
    assert_eq!(client.send(&scene, &proof(100, NOW)).await, Err(Error::ProofsFull));
    assert_eq!(client.send(&scene, &proof(0, NOW)).await, Err(Error::ProofReplayed));
    scene.clock.advance(Duration::from_secs(121));
    assert_eq!(client.send(&scene, &proof(101, NOW + 121)).await, Ok(()), "there is room again");
}

/// One key locks out no other, and one caller with many keys no other caller.
#[tokio::test]
async fn aa_39_nobody_uses_up_what_others_need() {
    let scene = Scene::new();
    let ask = async |client: &Client, n: usize| {
        client.send(&scene, &client.proof(json!({}), json!({ "jti": format!("proof-{n}") }))).await
    };
    let (one, other) = (Client::new(&scene, Signer::ec()), Client::new(&scene, Signer::ec()));
    for n in 0..7 {
        assert_eq!(ask(&one, n).await, Ok(()));
    }
    assert_eq!(ask(&one, 7).await, Err(Error::ProofsFull));
    assert_eq!(ask(&other, 0).await, Ok(()), "another key");
    for n in 1..6 {
        assert_eq!(ask(&other, n).await, Ok(()), "{n}");
    }
    let third = Client::new(&scene, Signer::ec());
    assert_eq!(ask(&third, 0).await, Err(Error::ProofsFull), "an eighth is the most for one person");
    let neighbour = Client::of(&scene, Signer::ec(), "bob");
    for n in 0..7 {
        assert_eq!(ask(&neighbour, n).await, Ok(()), "somebody else");
    }
}

#[tokio::test]
async fn aa_39_a_bound_token_is_no_bearer_token() {
    let scene = Scene::new();
    let client = Client::new(&scene, Signer::ec());
    assert_eq!(scene.show(&client.token).await.unwrap_err(), Error::ProofMissing);
    let beside = [
        ("authorization", &*format!("Bearer {}", client.token)),
        ("dpop", &*client.proof(json!({}), json!({}))),
    ];
    assert_eq!(scene.send("/mcp/a", &beside, None).await.unwrap_err(), Error::ProofMissing);
    // And an unbound token proves nothing by a proof.
    let unbound = Client { token: scene.token(json!({}), json!({})), key: Signer::ec() };
    assert!(matches!(
        unbound.send(&scene, &unbound.proof(json!({}), json!({}))).await,
        Err(Error::BindingMissing(_))
    ));
}

#[tokio::test]
async fn a_binding_that_cannot_be_checked_is_not_ignored() {
    let scene = Scene::new();
    for confirmation in
        [json!({}), json!({ "kid": "x" }), json!({ "jwk": {} }), json!({ "jkt": "x", "kid": "y" })]
    {
        assert_eq!(
            scene.try_claims(json!({ "cnf": confirmation })).await.unwrap_err(),
            Error::BindingUnknown
        );
    }
    for malformed in [json!("x"), json!([]), json!(1)] {
        assert_eq!(
            scene.try_claims(json!({ "cnf": malformed })).await.unwrap_err(),
            Error::ClaimMalformed("cnf")
        );
    }
    assert_eq!(
        scene.try_claims(json!({ "cnf": { "jkt": 1 } })).await.unwrap_err(),
        Error::ClaimMalformed("jkt")
    );
}

#[tokio::test]
async fn a_certificate_bound_token_needs_its_certificate() {
    let scene = Scene::new();
    let token = scene.token(json!({}), json!({ "cnf": { "x5t#S256": hash(b"certificate") } }));
    let authorization = format!("Bearer {token}");
    let send =
        async |certificate| scene.send("/mcp/a", &[("authorization", &authorization)], certificate).await;
    assert!(send(Some(b"certificate".as_slice())).await.is_ok());
    assert_eq!(send(Some(b"another")).await.unwrap_err(), Error::CertificateWrong);
    assert_eq!(send(None).await.unwrap_err(), Error::CertificateWrong);
}

#[tokio::test]
async fn where_binding_is_required_bearer_tokens_are_refused() {
    let dpop = Scene::configured(&format!("dpop = \"required\"\n{CONFIG}"));
    assert_eq!(dpop.try_claims(json!({})).await.unwrap_err(), Error::BindingMissing("dpop"));
    let client = Client::new(&dpop, Signer::ec());
    assert_eq!(client.send(&dpop, &client.proof(json!({}), json!({}))).await, Ok(()));
    let mtls = Scene::configured(&format!("mtls = \"required\"\n{CONFIG}"));
    assert_eq!(mtls.try_claims(json!({})).await.unwrap_err(), Error::BindingMissing("mtls"));
    let client = Client::new(&mtls, Signer::ec());
    assert_eq!(
        client.send(&mtls, &client.proof(json!({}), json!({}))).await,
        Err(Error::BindingMissing("mtls"))
    );
}

/// RFC 9449 §9.
#[tokio::test]
async fn a_proof_holds_a_nonce_of_ours_where_they_are_given_out() {
    let mut scene = Scene::new();
    let nonces = DpopNonces::new(Arc::new(Sealer::new(&[3; 32]).unwrap()), scene.clock.clone());
    scene.server.nonces = Some(nonces.clone());
    let client = Client::new(&scene, Signer::ec());
    let ask = async |claims: Value| client.send(&scene, &client.proof(json!({}), claims)).await;
    let stranger = DpopNonces::new(Arc::new(Sealer::new(&[4; 32]).unwrap()), scene.clock.clone());
    for nonce in [json!(null), json!(""), json!(1), json!(stranger.fresh())] {
        assert_eq!(ask(json!({ "nonce": nonce })).await, Err(Error::NonceNeeded), "{nonce}");
    }
    let resource = scene.server.resource("/mcp/a").unwrap();
    let lines = scene.server.challenge(resource, &Error::NonceNeeded);
    assert!(lines[0].starts_with("DPoP ") && lines[0].contains("error=\"use_dpop_nonce\""), "{lines:?}");
    let nonce = scene.server.nonce(&Error::NonceNeeded).unwrap();
    assert_eq!(scene.server.nonce(&Error::Expired), None, "it is nobody's business otherwise");
    // What was refused for its nonce was not used up.
    assert_eq!(ask(json!({ "nonce": nonce })).await, Ok(()));
    assert_eq!(ask(json!({ "nonce": nonce })).await, Err(Error::ProofReplayed));
    assert_eq!(
        ask(json!({ "nonce": nonce, "jti": "proof-2" })).await,
        Ok(()),
        "a nonce does for several proofs"
    );
    scene.clock.advance(Duration::from_secs(301));
    let late = json!({ "nonce": nonce, "jti": "proof-3", "iat": NOW + 301 });
    assert!(matches!(ask(late).await, Err(Error::NonceNeeded | Error::Expired)));
}
