//! CPU per request for the token: seen before (cached), and seen for the first time, beside one bare signature check.
//!
//! `cargo bench -p bartizan-oauth`. Reach: 10 µs cached; cold at most twice the bare check.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench prints and stops at the first surprise"
)]

use std::{hint::black_box, path::Path, sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{self, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey},
};
use bartizan_model::{ManualClock, Timestamp};
use bartizan_oauth::{
    AuthenticationRequired, DenyList, Document, Fetch, Fetching, MemoryReplays, NamedBy, Presented,
    ResourceServer, ResourceServerConfig, ResourceSettings, Surroundings,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Method, header};
use serde_json::{Value, json};
use url::Url;

const NOW: u64 = 1_800_000_000;
const ROUNDS: usize = 5_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for key in [Key::ed(), Key::rsa()] {
            let server = server(key.jwk());
            let resource = server.resource("/mcp/a").unwrap();
            let requests: Vec<HeaderMap> = (0..ROUNDS).map(|n| request(&key, n)).collect();
            // The key set is fetched once, and not measured.
            verify(&server, resource, &request(&key, ROUNDS)).await;
            let cold = measure_async(&requests, |headers| verify(&server, resource, headers)).await;
            let cached = measure_async(&requests, |_| verify(&server, resource, &requests[ROUNDS - 1])).await;
            let (message, signature) = (b"x".repeat(400), key.sign(&b"x".repeat(400)));
            let bare = measure(ROUNDS, || assert!(key.checks(&message, &signature)));
            println!(
                "{:6} bare signature check {bare:6.1} µs, cold {cold:6.1} µs ({:.2} ×), cached {cached:5.1} µs",
                key.name(),
                cold / bare
            );
        }
    });
}

async fn verify(server: &ResourceServer, resource: &bartizan_oauth::Resource, headers: &HeaderMap) {
    let presented = Presented { method: &Method::POST, headers, certificate: None };
    match server.authenticate(resource, presented).await {
        Ok(token) => drop(black_box(token)),
        Err(error) => panic!("{error}"),
    }
}

async fn measure_async<'a, F: Future<Output = ()>>(
    requests: &'a [HeaderMap],
    each: impl Fn(&'a HeaderMap) -> F,
) -> f64 {
    let start = processor_time();
    for request in requests {
        each(request).await;
    }
    micros(start, requests.len())
}

fn measure(rounds: usize, each: impl Fn()) -> f64 {
    let start = processor_time();
    (0..rounds).for_each(|_| each());
    micros(start, rounds)
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand rounds")]
fn micros(start: Duration, rounds: usize) -> f64 {
    (processor_time() - start).as_secs_f64() * 1e6 / rounds as f64
}

/// CPU time of this process so far: others on the machine do not count.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

enum Key {
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap())
    }

    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap())
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ed(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": b64(key.public_key().as_ref()) })
            }
            // RSAPublicKey (RFC 8017 §A.1.1) of 2048 bits: nine bytes of DER stand before the modulus.
            Self::Rsa(key) => {
                json!({ "kty": "RSA", "kid": "k", "n": b64(&key.public_key().as_ref()[9..265]), "e": "AQAB" })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signed = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signed).unwrap();
                signed
            }
        }
    }

    fn checks(&self, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Self::Ed(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key.public_key()).verify(message, signed)
            }
            Self::Rsa(key) => {
                UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, key.public_key())
                    .verify(message, signed)
            }
        }
        .is_ok()
    }
}

/// A request with a token that no other has.
fn request(key: &Key, number: usize) -> HeaderMap {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": key.name(), "typ": "at+jwt", "kid": "k" });
    let claims = json!({
        "iss": "https://idp.example", "sub": "alice", "aud": "https://mcp.example.com/mcp/a", "client_id": "agent",
        "scope": "mcp:read mcp:write", "jti": format!("token-{number}"), "iat": NOW, "exp": NOW + 300,
        "groups": ["people", "developers"], "auth_time": NOW, "amr": ["pwd", "mfa"],
    });
    let signed = format!("{}.{}", encode(header), encode(claims));
    let token = format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())));
    HeaderMap::from_iter([(header::AUTHORIZATION, token.parse().unwrap())])
}

/// An issuer that has one key.
struct Keys(Value);

impl Fetch for Keys {
    fn get<'a>(&'a self, url: &'a Url, _: NamedBy) -> Fetching<'a> {
        let body = if url.path() == "/keys" {
            json!({ "keys": [self.0] })
        } else {
            json!({ "issuer": "https://idp.example", "jwks_uri": "https://idp.example/keys" })
        };
        Box::pin(async move { Ok(Document { status: 200, body: body.to_string().into_bytes() }) })
    }
}

fn server(jwk: Value) -> ResourceServer {
    let config = r#"{ "issuers": [{ "kind": "oidc", "issuer": "https://idp.example" }] }"#;
    let config: ResourceServerConfig = serde_json::from_str(config).unwrap();
    let resource = ResourceSettings {
        name: "a".into(),
        url: "https://mcp.example.com/mcp/a".parse().unwrap(),
        audience: Vec::new(),
        required_scopes: vec!["mcp:read".into()],
        authentication: AuthenticationRequired::default(),
    };
    let surroundings = Surroundings {
        clock: Arc::new(ManualClock::new(Timestamp::from_unix(NOW))),
        fetch: &|_: Option<&Path>| Arc::new(Keys(jwk.clone())) as Arc<dyn Fetch>,
        secret: &|_| Err("there is none".into()),
        replays: Arc::new(MemoryReplays::new(100)),
        groups: None,
        denied: Arc::new(DenyList::default()),
        subjects: None,
        nonces: None,
        facade: None,
    };
    ResourceServer::new(&config, vec![resource], surroundings).map_err(|p| p.join("\n")).unwrap()
}
