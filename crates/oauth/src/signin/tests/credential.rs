//! How the gate proves who it is at the token endpoint (RFC 7523).

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::scene::{Browser, PUBLIC, Scene};
use crate::{
    json::Object,
    jws::{KeyFrom, Unverified},
    key::Key,
    tests::scene::NOW,
};

fn config(credential: &str) -> String {
    format!(
        "kind = \"oidc\"\nissuer = \"https://idp.example\"\nclient_id = \"gate\"\ncredential = {{ {credential} }}"
    )
}

/// What the gate posts for a code.
async fn posted(scene: &Scene) -> (String, Vec<(String, String)>) {
    let mut browser = Browser::new(scene);
    let departure = browser.allow("").await;
    scene.vouches(&departure, json!({}), json!({}));
    assert_eq!(browser.get(&departure.back("")).await.reason, "consent.granted");
    let (authorization, form) = scene.net.posted.lock().unwrap().last().unwrap().clone();
    (authorization, url::form_urlencoded::parse(form.as_bytes()).into_owned().collect())
}

fn of<'a>(form: &'a [(String, String)], name: &str) -> &'a str {
    form.iter().find(|(named, _)| named == name).map(|(_, value)| value.as_str()).unwrap_or_default()
}

/// A P-256 key in PEM, and its public JWK.
fn key() -> (String, Value) {
    let document =
        EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .unwrap();
    let key =
        EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
    let point = key.public_key().as_ref();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..65]) });
    (pem("PRIVATE KEY", document.as_ref()), jwk)
}

fn pem(kind: &str, der: &[u8]) -> String {
    let lines: Vec<_> =
        STANDARD.encode(der).as_bytes().chunks(64).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

#[tokio::test]
async fn an_assertion_is_signed_dated_and_used_once() {
    let (pem, jwk) = key();
    let text = config(r#"method = "private_key_jwt", key = { file = "key.pem" }, key_id = "gate-1""#);
    // The secret is read at once, so there must be one from the start.
    let Err(problems) = Scene::build(PUBLIC, Some(&text), None).await else { panic!("no key in there") };
    assert!(problems.join("").contains("`key` is no PKCS #8 private key in PEM"), "{problems:?}");

    let scene = with_secret(&text, &pem).await;
    let (authorization, form) = posted(&scene).await;
    assert_eq!(authorization, "");
    assert_eq!(of(&form, "client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert_eq!((of(&form, "client_id"), of(&form, "client_secret")), ("gate", ""));
    let first = of(&form, "client_assertion").to_owned();
    let unverified = Unverified::parse(&first, KeyFrom::Issuer).unwrap();
    assert_eq!(unverified.kid.as_deref(), Some("gate-1"));
    let public = Key::from_jwk(&Object::parse(jwk.to_string().as_bytes()).unwrap()).unwrap();
    let signed = unverified.verify(&public).unwrap();
    let claims = signed.claims();
    for (name, value) in [("iss", "gate"), ("sub", "gate"), ("aud", "https://idp.example/token")] {
        assert_eq!(claims.text(name), Ok(Some(value)), "{name}");
    }
    assert_eq!(claims.time("exp").unwrap().unwrap().as_unix(), NOW + 120);
    let (_, form) = posted(&scene).await;
    assert_ne!(of(&form, "client_assertion"), first, "each has a `jti` of its own");

    let audience =
        config(r#"method = "private_key_jwt", key = { file = "k" }, audience = "https://idp.example""#);
    let (_, form) = posted(&with_secret(&audience, &pem).await).await;
    let payload = of(&form, "client_assertion").split('.').nth(1).unwrap().to_owned();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(payload["aud"], "https://idp.example");

    let wrong = config(r#"method = "private_key_jwt", key = { file = "k" }, algorithm = "RS256""#);
    let Err(problems) = build_with_secret(&wrong, &pem).await else { panic!("not with that key") };
    assert!(problems.join("").contains("`algorithm` is not the key's"), "{problems:?}");
}

#[tokio::test]
async fn a_certificate_is_named_by_its_thumbprint() {
    let (key, _) = key();
    // One file may hold both; the certificate's bytes are only digested here.
    let both = format!("{key}{}", pem("CERTIFICATE", b"a certificate"));
    let text = config(r#"method = "private_key_jwt", key = { file = "k" }, certificate = { file = "k" }"#);
    let (_, form) = posted(&with_secret(&text, &both).await).await;
    let header = of(&form, "client_assertion").split('.').next().unwrap().to_owned();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let thumbprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"a certificate");
    assert_eq!(
        header,
        json!({ "typ": "JWT", "alg": "ES256", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint) })
    );
}

#[tokio::test]
async fn what_is_rotated_is_picked_up() {
    let scene =
        Scene::configured(&config(r#"method = "federated_assertion", assertion = { file = "token" }"#)).await;
    for token in ["eyJ.first.x\n", "eyJ.second.y"] {
        *scene.secret.lock().unwrap() = token.to_owned();
        let (_, form) = posted(&scene).await;
        assert_eq!(of(&form, "client_assertion"), token.trim());
    }
    *scene.secret.lock().unwrap() = String::new();
    let mut browser = Browser::new(&scene);
    let departure = browser.allow("scope=mcp:write").await;
    scene.vouches(&departure, json!({}), json!({}));
    assert_eq!(browser.get(&departure.back("")).await.reason, "provider.credential");
}

async fn with_secret(config: &str, secret: &str) -> Scene {
    build_with_secret(config, secret).await.map_err(|problems| problems.join("\n")).unwrap()
}

async fn build_with_secret(config: &str, secret: &str) -> Result<Scene, Vec<String>> {
    Scene::build_with_secret(PUBLIC, Some(config), None, secret).await
}
