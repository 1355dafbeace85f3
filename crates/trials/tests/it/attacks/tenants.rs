//! One tenant of a provider that has many (Microsoft identity platform, access token claims).

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use bartizan_model::{Clock, SystemClock};
use bartizan_trials::{Gate, Upstream, merge};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";
/// The tenant of all personal Microsoft accounts.
const PERSONAL: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";
const API: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

/// A provider that signs for every tenant with one key, as Entra does.
struct Provider {
    server: Upstream,
    key: RsaKeyPair,
}

impl Provider {
    fn start() -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // RSAPublicKey (RFC 8017 §A.1.1) of 2048 bits: nine bytes of DER stand before the modulus.
        let modulus = URL_SAFE_NO_PAD.encode(&key.public_key().as_ref()[9..265]);
        let keys =
            json!({ "keys": [{ "kty": "RSA", "kid": "k1", "use": "sig", "n": modulus, "e": "AQAB" }] })
                .to_string();
        let server = Upstream::modern(move |heard, pen| {
            let own = format!("http://{}", heard.line("host").unwrap_or_default());
            let path = heard.path();
            if path.ends_with("/keys") {
                pen.json(&keys);
            } else if let Some(tenant) = path.strip_suffix("/v2.0/.well-known/openid-configuration") {
                let base = format!("{own}{tenant}/v2.0");
                pen.json(&json!({ "issuer": base, "jwks_uri": format!("{base}/keys") }).to_string());
            } else {
                pen.empty("404 Not Found");
            }
            true
        });
        Self { server, key }
    }

    fn issuer(&self, tenant: &str) -> String {
        format!("{}/{tenant}/v2.0", self.server.origin())
    }

    /// A token of a member's, but for these claims; `null` takes one out.
    fn token(&self, change: Value) -> String {
        let now = SystemClock.now().as_unix();
        let claims = merge(
            json!({
                "ver": "2.0", "iss": self.issuer(TENANT), "tid": TENANT, "aud": API, "azp": "agent", "oid": "person",
                "sub": "pairwise", "preferred_username": "ann@corp.example", "iat": now, "nbf": now, "exp": now + 300,
                "scp": "mcp:read", "uti": "u1", "groups": ["people"],
            }),
            change,
        );
        let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "k1" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[test]
fn aa_13_only_members_of_the_one_tenant_come_in() {
    let provider = Provider::start();
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://gate.example\"\n\
         [identity]\nmode = \"resource-server\"\n\
         [[identity.issuers]]\nkind = \"entra\"\ntenant = \"{TENANT}\"\nauthority = \"{}\"\n\
         [policy.roles.people]\ngroups = [\"people\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}",
        provider.server.origin(),
        up.config("up", &format!("audience = [\"{API}\"]")),
    ));
    let shows = |change: Value| gate.bearer(provider.token(change)).call("/mcp/up", "echo", "{}").outcome();
    for change in [
        json!({ "tid": OTHER }),
        json!({ "tid": PERSONAL }),
        json!({ "tid": null }),
        json!({ "tid": OTHER, "iss": provider.issuer(OTHER) }),
        json!({ "tid": PERSONAL, "iss": provider.issuer(PERSONAL) }),
        json!({ "iss": provider.issuer(OTHER) }),
        json!({ "iss": provider.issuer("common") }),
        json!({ "iss": provider.issuer("{tenantid}") }),
        json!({ "iss": format!("https://sts.windows.net/{TENANT}/"), "ver": "1.0" }),
        json!({ "oid": null }),
        json!({ "idp": format!("https://sts.windows.net/{OTHER}/") }),
        json!({ "idp": "live.com" }),
        json!({ "acct": 1 }),
        json!({ "aud": "00000003-0000-0000-c000-000000000000" }),
    ] {
        let status = shows(change.clone());
        assert!(matches!(status, 401 | 403), "{change}: {status}");
    }
    assert!(up.heard_of("tools/call").is_empty());
    assert_eq!(shows(json!({})), 200, "a member of the tenant");
    assert_eq!(
        shows(json!({ "preferred_username": "another@corp.example" })),
        200,
        "whatever they are called"
    );
}
