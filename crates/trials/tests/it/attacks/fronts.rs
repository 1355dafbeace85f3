//! Other gateways in front of this one and behind it: what an API gateway such as Azure API Management adds and takes away
//! (RFC 9110 §7.6; RFC 9440).

use std::fs;

use aws_lc_rs::digest;
use bartizan_trials::{Client, Gate, Issuer, Upstream};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

const BASE: &str = "https://apim.example";
const KEY: &str = "the-subscription-key-of-a-client";

fn gate(issuer: &Issuer, up: &Upstream, server: &str) -> Gate {
    Gate::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n{server}\n[identity]\nmode = \"resource-server\"\n{}\
         [policy.roles.people]\ngroups = [\"people\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}",
        issuer.config(),
        up.config("up", ""),
    ))
}

/// What API Management makes of a request on its way to a backend: the backend's `Host`, who asked, the key of the client's
/// subscription as the client sent it, and the client's certificate by the operator's policy.
fn through(ask: bartizan_trials::Ask, certificate: &str) -> bartizan_trials::Ask {
    ask.line("X-Forwarded-For", "203.0.113.7")
        .line("X-Forwarded-Host", "apim.example")
        .line("X-Forwarded-Proto", "https")
        .line("Ocp-Apim-Subscription-Key", KEY)
        .line("Ocp-Apim-Trace", "true")
        .line("X-ARR-ClientCert", "MIIforged")
        .line("Client-Cert", certificate)
}

fn call(client: &Client, certificate: &str) -> bartizan_trials::Answer {
    let ask = client.modern("/mcp/up", "tools/call", r#""name":"echo","arguments":{}"#);
    through(ask, certificate).send()
}

/// Also: AA-01, TP-01.
#[test]
fn aa_28_behind_an_api_gateway_only_its_word_counts_and_nothing_of_it_goes_on() {
    let certificate = b"the certificate of a client";
    let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, certificate));
    let line = format!(":{}:", STANDARD.encode(certificate));
    let forged = format!(":{}:", STANDARD.encode(b"another certificate"));
    let (issuer, up) = (Issuer::start(1), Upstream::modern(|_, _| false));
    let trusting =
        gate(&issuer, &up, "trusted_proxies = [\"127.0.0.0/8\"]\nclient_certs_from_proxies = true");
    let wary = gate(&issuer, &up, "trusted_proxies = [\"10.0.0.0/8\"]\nclient_certs_from_proxies = true");

    // Challenges and metadata name the address that clients know, though the gate is asked at another one.
    let refused = call(&trusting.stranger(), &line);
    let metadata = format!("{BASE}/.well-known/oauth-protected-resource/mcp/up");
    assert_eq!(
        (refused.status, refused.line("www-authenticate").unwrap()),
        (401, &*format!("Bearer resource_metadata=\"{metadata}\""))
    );
    let place = metadata.strip_prefix(BASE).unwrap();
    let document = through(trusting.stranger().request("GET", place), &line).send();
    let document: Value = serde_json::from_str(&document.text()).unwrap();
    assert_eq!(document["resource"], format!("{BASE}/mcp/up"));

    // What a client wrote spoils nothing of what a proxy says; who does not say whom it forwards for is not taken for them.
    let forwarded = |by: &Gate, line: &str| {
        let ask = by.stranger().modern("/mcp/up", "tools/list", "").line("X-Forwarded-For", line);
        ask.send()
    };
    for (by, line, status) in [
        (&trusting, "\u{e9}, 203.0.113.7", 401),
        (&trusting, "203.0.113.7, \u{e9}", 400),
        (&wary, "\u{e9}", 401),
    ] {
        let answer = forwarded(by, line);
        assert_eq!(answer.status, status, "{line}");
        assert_eq!(answer.text().contains("X-Forwarded-For"), status == 400, "{}", answer.text());
    }

    // The token is judged here, whatever was judged before: its issuer, its audience, the certificate it is bound to.
    let audience = format!("{BASE}/mcp/up");
    let plain = issuer.token("ann", &audience, json!({}));
    let bound = issuer.token("ann", &audience, json!({ "cnf": { "x5t#S256": thumbprint } }));
    let elsewhere = issuer.token("ann", &format!("{BASE}/mcp/other"), json!({}));
    assert_eq!(call(&trusting.bearer(elsewhere), &line).status, 401);
    assert_eq!(call(&trusting.bearer(bound.clone()), &forged).status, 401, "another's certificate");
    assert_eq!(call(&wary.bearer(bound.clone()), &line).status, 401, "anybody can write a header");
    assert_eq!(call(&trusting.bearer(bound), &line).outcome(), 200);
    for gate in [&trusting, &wary] {
        assert_eq!(call(&gate.bearer(plain.clone()), &line).outcome(), 200);
    }

    for heard in up.heard() {
        let lines = heard.lines().to_ascii_lowercase();
        for word in [KEY, "ocp-apim", "x-forwarded", "x-arr", "client-cert", "203.0.113.7", "authorization"] {
            assert!(!lines.contains(word), "{word}: {lines}");
        }
    }
    assert!(!trusting.log().contains(KEY) && !wary.log().contains(KEY));
}

#[test]
fn tp_06_a_server_behind_an_api_gateway_gets_the_gates_subscription_key_and_no_clients() {
    const OURS: &str = "the-subscription-key-of-the-gate";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, OURS).unwrap();
    // As API Management answers: its own errors are JSON that is no JSON-RPC.
    let front = Upstream::modern(|heard, pen| {
        if heard.line("ocp-apim-subscription-key") != Some(OURS) {
            let body =
                r#"{ "statusCode": 401, "message": "Access denied due to missing subscription key." }"#;
            pen.whole(
                "401 Access Denied",
                "application/json",
                "WWW-Authenticate: AzureApiManagementKey realm=\"https://apim.example/mcp\",name=\"Ocp-Apim-Subscription-Key\",type=\"header\"\r\n",
                body,
            );
            return true;
        }
        if heard.body.contains("too-often") {
            let body =
                r#"{ "statusCode": 429, "message": "Rate limit is exceeded. Try again in 30 seconds." }"#;
            pen.whole("429 Too Many Requests", "application/json", "Retry-After: 30\r\n", body);
            return true;
        }
        false
    });
    let gate = Gate::start(&front.config(
        "up",
        &format!(
            "credential = {{ kind = \"secret\", value = {{ file = {file:?} }}, header = \"Ocp-Apim-Subscription-Key\" }}"
        ),
    ));
    let client = gate.client();
    let ask = |arguments: &str| {
        let ask =
            client.modern("/mcp/up", "tools/call", &format!(r#""name":"echo","arguments":{arguments}"#));
        ask.line("Ocp-Apim-Subscription-Key", KEY).send()
    };
    assert_eq!(ask("{}").said(), "{}");
    let limited = ask(r#"{"x":"too-often"}"#);
    assert_eq!(limited.outcome(), -31020, "{}", limited.text());
    assert!(
        limited.text().contains("HTTP 429") && !limited.text().contains("Rate limit"),
        "{}",
        limited.text()
    );
    for heard in front.heard() {
        assert_eq!(heard.line("ocp-apim-subscription-key"), Some(OURS));
        assert!(!heard.lines().contains(KEY) && heard.line("authorization").is_none());
    }
    fs::write(&file, "a-key-that-was-withdrawn").unwrap();
    let refused = bartizan_trials::eventually("the key is read again", || {
        let refused = ask("{}");
        (refused.outcome() != 200).then_some(refused)
    });
    assert_eq!(refused.outcome(), -31020, "{}", refused.text());
    assert!(refused.line("www-authenticate").is_none() && !refused.text().contains("subscription"));
    fs::write(&file, OURS).unwrap();
    assert_eq!(ask("{}").outcome(), 200, "and once more, at once");
}

/// RFC 9449 §9: a proof that was made in store is worth nothing.
#[test]
fn aa_39_where_nonces_are_given_out_a_proof_without_one_gets_one_and_no_answer() {
    let (issuer, key, up) = (Issuer::start(1), Issuer::start(9), Upstream::modern(|_, _| false));
    let gate = Gate::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"resource-server\"\ndpop_nonces = true\n{}\
         [policy.roles.people]\ngroups = [\"people\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}",
        issuer.config(),
        up.config("up", ""),
    ));
    let hash = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes));
    let jwk = key.jwk();
    // RFC 8037, appendix A.3.
    let jkt = hash(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, jwk["x"]).as_bytes());
    let audience = format!("{BASE}/mcp/up");
    let token = issuer.token("ann", &audience, json!({ "cnf": { "jkt": jkt } }));
    let issued: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let ask = |id: &str, nonce: Option<&str>| {
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk });
        let claims = json!({
            "htm": "POST", "htu": audience, "iat": issued["iat"], "jti": id, "ath": hash(token.as_bytes()), "nonce": nonce,
        });
        let claims = if nonce.is_some() { claims } else { without_nonce(claims) };
        let proof = key.sign(&header.to_string(), &claims.to_string());
        gate.stranger()
            .modern("/mcp/up", "tools/call", r#""name":"echo","arguments":{}"#)
            .line("Authorization", &format!("DPoP {token}"))
            .line("DPoP", &proof)
            .send()
    };
    for nonce in [None, Some("1800000000.made-up")] {
        let refused = ask("1", nonce);
        assert_eq!(refused.status, 401, "{}", refused.text());
        assert!(
            refused.line("www-authenticate").unwrap().contains("use_dpop_nonce"),
            "DPoP's line comes first"
        );
    }
    let refused = ask("1", None);
    let nonce = refused.line("dpop-nonce").expect("it comes with a nonce").to_owned();
    assert_eq!(ask("1", Some(&nonce)).outcome(), 200);
    assert_eq!(ask("1", Some(&nonce)).status, 401, "once");
    assert_eq!(ask("2", Some(&nonce)).outcome(), 200);
    assert_eq!(up.heard_of("tools/call").len(), 2);
}

fn without_nonce(mut claims: Value) -> Value {
    if let Some(claims) = claims.as_object_mut() {
        claims.remove("nonce");
    }
    claims
}
