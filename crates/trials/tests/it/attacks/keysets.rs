//! Keys of issuers, and decisions about tokens: believed for what they are (RFC 7517, RFC 8725; RFC 7662 §4).

use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bartizan_trials::{Gate, Issuer, Upstream, issuers_of, merge};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const BASE: &str = "https://gate.example";
const PEOPLE: &str = "[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n[policy.roles.people]\ngroups = [\"people\"]\n";

fn identity(issuers: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"resource-server\"\n{issuers}"
    )
}

#[test]
fn aa_20_a_key_set_that_is_not_exactly_right_lets_nobody_in() {
    let issuer = Issuer::start(1);
    let canary = Upstream::modern(|_, _| false);
    let said: Arc<Mutex<(&'static str, String, String)>> = Arc::default();
    let says = Arc::clone(&said);
    let keys = Upstream::modern(move |_, pen| {
        let (status, lines, body) = says.lock().unwrap().clone();
        pen.whole(status, "application/json", &lines, &body);
        true
    });
    let public = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let key = |more: Value| {
        let good = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "key", "x": URL_SAFE_NO_PAD.encode(public.public_key().as_ref()) });
        merge(good, more)
    };
    let set = |keys: Value| ("200 OK", String::new(), json!({ "keys": keys }).to_string());
    let spare = || merge(key(json!({})), json!({ "kid": "spare" }));
    let good = set(json!([key(json!({}))]));
    let up = Upstream::modern(|_, _| false);
    let config = format!(
        "{}[[identity.issuers]]\nkind = \"oidc\"\nissuer = \"{}\"\njwks_url = \"{}/keys\"\n{PEOPLE}{}",
        identity(""),
        issuer.name(),
        keys.origin(),
        up.config("up", ""),
    );
    let show = |answer: (&'static str, String, String)| {
        *said.lock().unwrap() = answer;
        let gate = Gate::start(&config);
        let token = issuer.token("ann", &format!("{BASE}/mcp/up"), json!({}));
        gate.bearer(token).call("/mcp/up", "echo", "{}").outcome()
    };
    for (what, answer) in [
        ("ill", ("500 Internal Server Error", String::new(), good.2.clone())),
        ("a page", ("200 OK", String::new(), "<html>".to_owned())),
        ("huge", ("200 OK", String::new(), format!("{}{}", good.2, " ".repeat(5 << 20)))),
        ("elsewhere", ("302 Found", format!("Location: {}/keys\r\n", canary.origin()), String::new())),
        ("a secret as a key", set(json!([{ "kty": "oct", "kid": "key", "k": "AAAA" }]))),
        (
            "a weak key",
            set(json!([{ "kty": "RSA", "kid": "key", "e": "AQAB", "n": "v".repeat(171) }, spare()])),
        ),
        ("for encryption", set(json!([key(json!({ "use": "enc" })), spare()]))),
        ("not for verifying", set(json!([key(json!({ "key_ops": ["sign"] })), spare()]))),
        ("of another algorithm", set(json!([key(json!({ "alg": "RS256" })), spare()]))),
        ("a private key", set(json!([key(json!({ "d": "AAAA" })), spare()]))),
        (
            "two of one name",
            set(json!([key(json!({})), merge(key(json!({})), json!({ "x": "A".repeat(43) }))])),
        ),
        ("withdrawn", set(json!([spare()]))),
        ("none", set(json!([]))),
    ] {
        let status = show(answer);
        assert!(matches!(status, 401 | 503), "{what}: {status}");
    }
    assert_eq!(canary.connections(), 0, "no redirect was followed");
    assert!(up.heard_of("tools/call").is_empty());
    assert_eq!(show(good), 200, "the honest neighbour");
}

#[test]
fn aa_37_a_decision_is_about_one_whole_token_at_one_endpoint_under_the_policy_of_now() {
    let (one, two) = (Issuer::start(1), Issuer::start(2));
    let up = Upstream::modern(|_, _| false);
    let other = Upstream::modern(|_, _| false);
    let servers = format!("{}{}", up.config("up", ""), other.config("other", ""));
    let issuers = identity(&format!("{}{}", one.config(), two.config()));
    let gate = Gate::start(&format!("{issuers}{PEOPLE}{}{servers}", issuers_of(&issuers)));
    let shows = |path: &str, token: &str| gate.bearer(token.to_owned()).call(path, "echo", "{}").outcome();
    let here = format!("{BASE}/mcp/up");
    let same = json!({ "jti": "the-same" });
    let good = one.token("ann", &here, same.clone());
    for _ in 0..2 {
        assert_eq!(shows("/mcp/up", &good), 200);
    }
    // The same subject and id from another issuer, or for somebody in no group; the same beginning, another end.
    let nobody = two.token("ann", &here, merge(same.clone(), json!({ "groups": [] })));
    assert_eq!(shows("/mcp/up", &nobody), -31003, "what was decided for one is not another's");
    let powerless = one.token("ann", &here, merge(same.clone(), json!({ "groups": [] })));
    assert_eq!(powerless[..64], good[..64], "they begin alike");
    assert_eq!(shows("/mcp/up", &powerless), -31003);
    let last = if good.ends_with('A') { 'B' } else { 'A' };
    let forged = format!("{}{last}", &good[..good.len() - 1]);
    assert_eq!(shows("/mcp/up", &forged), 401);
    assert_eq!(shows("/mcp/other", &good), 401, "nor at another endpoint");
    assert!(other.heard_of("tools/call").is_empty());
    assert_eq!(shows("/mcp/up", &good), 200, "the honest one is as good as before");
    // A policy that is taken back is taken back for tokens that were seen before.
    gate.reconfigure(&format!("{issuers}{servers}"));
    assert_eq!(shows("/mcp/up", &good), -31003);
    gate.reconfigure(&format!("{issuers}{PEOPLE}{}{servers}", issuers_of(&issuers)));
    assert_eq!(shows("/mcp/up", &good), 200);
}
