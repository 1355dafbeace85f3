//! The cast: issuers that sign whatever a test wants, and a network that is a table.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair},
};
use bartizan_model::{ManualClock, Secret, Timestamp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use url::Url;

use crate::{
    AuthenticationRequired, DenyList, Document, Error, Fetch, Fetching, GroupSource, MemoryReplays, NamedBy,
    Presented, Probing, ResourceServer, ResourceServerConfig, ResourceSettings, Sent, Surroundings,
    VerifiedToken,
};

/// Now, in every scene that does not move its clock.
pub const NOW: u64 = 1_800_000_000;
pub const ISSUER: &str = "https://idp.example";
pub const OTHER_ISSUER: &str = "https://other.example/tenant";
/// The resource of most tests.
pub const RESOURCE: &str = "https://mcp.example.com/mcp/a";

/// What a test signs with.
pub enum Signer {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(&'static RsaKeyPair, &'static dyn RsaEncoding),
}

pub fn rsa_key() -> &'static RsaKeyPair {
    static KEY: OnceLock<RsaKeyPair> = OnceLock::new();
    KEY.get_or_init(|| RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap())
}

impl Signer {
    pub fn ed(seed: u8) -> Self {
        Self::Ed(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    pub fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn rs256() -> Self {
        Self::Rsa(rsa_key(), &signature::RSA_PKCS1_SHA256)
    }

    pub fn ps256() -> Self {
        Self::Rsa(rsa_key(), &signature::RSA_PSS_SHA256)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Rsa(key, encoding) => {
                let mut signed = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &SystemRandom::new(), message, &mut signed).unwrap();
                signed
            }
        }
    }

    /// The public key, without `kid` and `alg`.
    pub fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..65]) })
            }
            Self::Ed(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().as_ref()) }),
            Self::Rsa(key, _) => {
                // RSAPublicKey (RFC 8017 §A.1.1) of 2048 bits: nine bytes of DER stand before the modulus.
                let der = key.public_key().as_ref();
                json!({ "kty": "RSA", "n": b64(&der[9..265]), "e": "AQAB" })
            }
        }
    }

    pub fn jwk_with(&self, more: Value) -> Value {
        merge(self.jwk(), more)
    }

    pub fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of(&header.to_string(), &claims.to_string())
    }

    pub fn token_of(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// `base` with the members of `more`; `null` takes one out.
pub fn merge(mut base: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object, please") };
    for (name, value) in more {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(&name);
        } else {
            base[name] = value;
        }
    }
    base
}

/// The status of a peer that takes the question and says nothing.
pub const HANGS: u16 = 0;

/// A network that is a table. What is not in it cannot be reached.
#[derive(Default)]
pub struct Net {
    pub answers: Mutex<HashMap<String, (u16, String)>>,
    /// Every address that was asked, in order.
    pub asked: Mutex<Vec<(String, NamedBy)>>,
    /// The challenge of a server, by its address.
    pub challenges: Mutex<HashMap<String, String>>,
    /// The forms that were posted, with their `Authorization`.
    pub posted: Mutex<Vec<(String, String)>>,
}

impl Net {
    pub fn says(&self, url: &str, status: u16, body: impl ToString) {
        self.answers.lock().unwrap().insert(url.to_owned(), (status, body.to_string()));
    }

    pub fn count(&self, url: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == url).count()
    }

    fn answer(&self, url: &Url) -> Fetching<'static> {
        let answer = self.answers.lock().unwrap().get(url.as_str()).cloned();
        Box::pin(async move {
            // Others get their turn, as over a real network.
            tokio::task::yield_now().await;
            let (status, body) = answer.ok_or(bartizan_egress::Error::ConnectTimeout)?;
            if status == HANGS {
                std::future::pending::<()>().await;
            }
            Ok(Document { status, body: body.into_bytes() })
        })
    }
}

pub struct SharedNet(pub Arc<Net>);

impl Fetch for SharedNet {
    fn get<'a>(&'a self, url: &'a Url, named_by: NamedBy) -> Fetching<'a> {
        self.0.asked.lock().unwrap().push((url.to_string(), named_by));
        self.0.answer(url)
    }

    fn get_as<'a>(&'a self, url: &'a Url, authorization: &'a Secret) -> Fetching<'a> {
        self.0.asked.lock().unwrap().push((url.to_string(), NamedBy::Operator));
        self.0.posted.lock().unwrap().push((authorization.reveal().to_owned(), String::new()));
        self.0.answer(url)
    }

    fn post<'a>(&'a self, url: &'a Url, authorization: Option<&'a Secret>, form: Secret) -> Fetching<'a> {
        self.0.asked.lock().unwrap().push((url.to_string(), NamedBy::Operator));
        let line = authorization.map(|secret| secret.reveal().to_owned()).unwrap_or_default();
        self.0.posted.lock().unwrap().push((line, form.reveal().to_owned()));
        self.0.answer(url)
    }

    fn send<'a>(&'a self, url: &'a Url, named_by: NamedBy, sent: Sent) -> Fetching<'a> {
        self.0.asked.lock().unwrap().push((url.to_string(), named_by));
        let authorization = sent.headers.get("authorization").map(|l| l.to_str().unwrap().to_owned());
        let posted = (authorization.unwrap_or_default(), sent.body.reveal().to_owned());
        self.0.posted.lock().unwrap().push(posted);
        self.0.answer(url)
    }

    fn probe<'a>(&'a self, url: &'a Url) -> Probing<'a> {
        let line = self.0.challenges.lock().unwrap().get(url.as_str()).cloned();
        let line = line.map(|l| (http::header::WWW_AUTHENTICATE, HeaderValue::from_str(&l).unwrap()));
        Box::pin(async move { Ok(line.into_iter().collect()) })
    }
}

/// A gate, two issuers and a client.
pub struct Scene {
    pub server: ResourceServer,
    pub net: Arc<Net>,
    pub clock: Arc<ManualClock>,
    /// Signs for [`ISSUER`] under the id `ed`.
    pub signer: Signer,
}

pub fn resource(name: &str, url: &str) -> ResourceSettings {
    ResourceSettings {
        name: name.to_owned(),
        url: url.parse().unwrap(),
        audience: Vec::new(),
        required_scopes: vec!["mcp:read".to_owned()],
        authentication: AuthenticationRequired::default(),
    }
}

pub fn resources() -> Vec<ResourceSettings> {
    vec![
        resource("a", RESOURCE),
        resource("ab", "https://mcp.example.com/mcp/ab"),
        resource("all servers", "https://mcp.example.com/mcp"),
    ]
}

/// The issuers of most tests.
pub const CONFIG: &str = r#"
    [[issuers]]
    kind = "oidc"
    issuer = "https://idp.example"
    [[issuers]]
    kind = "oidc"
    issuer = "https://other.example/tenant"
"#;

impl Scene {
    pub fn new() -> Self {
        Self::with(CONFIG, resources(), None)
    }

    pub fn configured(config: &str) -> Self {
        Self::with(config, resources(), None)
    }

    pub fn with(
        config: &str,
        resources: Vec<ResourceSettings>,
        groups: Option<Arc<dyn GroupSource>>,
    ) -> Self {
        let config: ResourceServerConfig = toml::from_str(config).unwrap();
        let net = Arc::new(Net::default());
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(NOW)));
        let signer = Signer::ed(1);
        let keys = json!({ "keys": [
            signer.jwk_with(json!({ "kid": "ed", "alg": "EdDSA", "use": "sig" })),
            Signer::rs256().jwk_with(json!({ "kid": "rsa", "alg": "RS256", "use": "sig" })),
        ]});
        net.says(
            "https://idp.example/.well-known/oauth-authorization-server",
            200,
            json!({ "issuer": ISSUER, "jwks_uri": "https://idp.example/keys" }),
        );
        net.says("https://idp.example/keys", 200, keys);
        net.says("https://other.example/.well-known/oauth-authorization-server/tenant", 404, "");
        net.says(
            "https://other.example/tenant/.well-known/openid-configuration",
            200,
            json!({ "issuer": OTHER_ISSUER, "jwks_uri": "https://keys.example/other" }),
        );
        let other = Signer::ed(2).jwk_with(json!({ "kid": "other" }));
        net.says("https://keys.example/other", 200, json!({ "keys": [other] }));
        let fetch_net = Arc::clone(&net);
        let server = ResourceServer::new(
            &config,
            resources,
            Surroundings {
                clock: clock.clone(),
                fetch: &move |_: Option<&Path>| Arc::new(SharedNet(Arc::clone(&fetch_net))) as Arc<dyn Fetch>,
                secret: &|_| Ok(Secret::new("s3cret & more".to_owned())),
                replays: Arc::new(MemoryReplays::new(100)),
                groups,
                denied: Arc::new(DenyList::default()),
                subjects: None,
                nonces: None,
                facade: None,
            },
        );
        Self { server: server.map_err(|problems| problems.join("\n")).unwrap(), net, clock, signer }
    }

    /// The claims of a good token.
    pub fn claims(&self) -> Value {
        json!({
            "iss": ISSUER, "sub": "alice", "client_id": "agent", "aud": RESOURCE, "scope": "mcp:read",
            "iat": NOW, "exp": NOW + 300, "jti": "token-1",
        })
    }

    /// A token whose claims and header differ from a good one's.
    pub fn token(&self, header: Value, claims: Value) -> String {
        let good = json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "ed" });
        self.signer.token(&merge(good, header), &merge(self.claims(), claims))
    }

    /// A token in whose claims `name` has the value that this text is, JSON or not.
    pub fn token_with_raw(&self, name: &str, value: &str) -> String {
        let others = merge(self.claims(), json!({ name: null })).to_string();
        let claims = others.replacen('{', &format!("{{\"{name}\":{value},"), 1);
        self.signer.token_of(r#"{"typ":"at+jwt","alg":"EdDSA","kid":"ed"}"#, &claims)
    }

    /// Shows a token at the first resource.
    pub async fn show(&self, token: &str) -> Result<Arc<VerifiedToken>, Error> {
        self.show_at("/mcp/a", token).await
    }

    pub async fn show_at(&self, path: &str, token: &str) -> Result<Arc<VerifiedToken>, Error> {
        self.send(path, &[("authorization", &format!("Bearer {token}"))], None).await
    }

    pub async fn send(
        &self,
        path: &str,
        lines: &[(&str, &str)],
        certificate: Option<&[u8]>,
    ) -> Result<Arc<VerifiedToken>, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let resource = self.server.resource(path).unwrap();
        let presented = Presented { method: &Method::POST, headers: &headers, certificate };
        self.server.authenticate(resource, presented).await
    }

    /// Shows a token that differs from a good one by these claims.
    pub async fn try_claims(&self, claims: Value) -> Result<Arc<VerifiedToken>, Error> {
        self.show(&self.token(json!({}), claims)).await
    }

    /// Shows a token that differs from a good one by these header parameters.
    pub async fn try_header(&self, header: Value) -> Result<Arc<VerifiedToken>, Error> {
        self.show(&self.token(header, json!({}))).await
    }

    /// The honest neighbour: whatever was refused before, a good token still works.
    pub async fn assert_good_token_works(&self) {
        assert!(self.try_claims(json!({})).await.is_ok());
    }
}
