//! Access tokens of an external authorization server: good for one person at one endpoint, or not at all (spec.md E;
//! RFC 9068, RFC 8707, RFC 8725).

use bartizan_model::{Clock, SystemClock};
use bartizan_trials::{Client, Facade, Gate, Issuer, Session, Upstream, eventually, issuers_of};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::traffic::responses::respond;

const BASE: &str = "https://gate.example";

/// Two people of one issuer, in front of two servers.
pub struct Scene {
    pub issuer: Issuer,
    new: Upstream,
    old: Upstream,
    pub gate: Gate,
}

impl Scene {
    pub fn start() -> Self {
        Self::with("", "")
    }

    fn with(identity: &str, more: &str) -> Self {
        let issuer = Issuer::start(1);
        let (new, old) = (Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
        let gate = Gate::start(&format!(
            "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n\
             [identity]\nmode = \"resource-server\"\n{identity}\n{}\
             [policy.roles.people]\ngroups = [\"people\"]\n{}[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}{}{more}",
            issuer.config(),
            issuers_of(&format!("{}{more}", issuer.config())),
            new.config("new", ""),
            old.config("old", ""),
        ));
        Self { issuer, new, old, gate }
    }

    pub fn token(&self, subject: &str, path: &str) -> String {
        self.issuer.token(subject, &format!("{BASE}{path}"), json!({}))
    }

    fn client(&self, subject: &str, path: &str) -> Client {
        self.gate.bearer(self.token(subject, path))
    }

    pub fn status(&self, token: String) -> i64 {
        self.gate.bearer(token).call("/mcp/new", "echo", "{}").outcome()
    }

    fn refuses(&self, tokens: impl IntoIterator<Item = (String, String)>) {
        for (what, token) in tokens {
            let answer = self.gate.bearer(token).call("/mcp/new", "echo", "{}");
            assert_eq!(answer.status, 401, "{what}: {}", answer.text());
            assert!(answer.line("www-authenticate").unwrap().contains("resource_metadata="), "{what}");
        }
        assert!(self.new.heard_of("tools/call").is_empty(), "nothing reached the server");
        assert_eq!(self.status(self.token("ann", "/mcp/new")), 200, "the honest neighbour");
    }
}

/// A release lets somebody in again, by what they get from then on: not by what was stolen before, whatever the gate forgot.
#[test]
fn aa_40_what_was_revoked_stays_so_after_a_release_and_a_restart() {
    let mut scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let issued = SystemClock.now().as_unix() - 30;
    let stolen = scene.issuer.token("ann", &audience, json!({ "iat": issued, "exp": issued + 600 }));
    let bobs = scene.issuer.token("bob", &audience, json!({ "iat": issued, "exp": issued + 600 }));
    assert_eq!(scene.status(stolen.clone()), 200);
    let issuer = scene.issuer.name();
    let who = ["--person", "ann", "--issuer", issuer.as_str()];
    assert_eq!(respond(&scene.gate, &[&["revoke"], &who[..]].concat()).0, Some(0));
    eventually("the token is denied", || (scene.status(stolen.clone()) == 401).then_some(()));
    assert_eq!(respond(&scene.gate, &[&["release"], &who[..]].concat()).0, Some(0));
    let fresh = || scene.issuer.token("ann", &audience, json!({}));
    eventually("the release", || (scene.status(fresh()) == 200).then_some(()));
    assert_eq!(scene.status(stolen.clone()), 401, "what was held before");
    scene.gate.restart();
    assert_eq!(scene.status(stolen), 401, "and after a restart");
    assert_eq!(scene.status(scene.issuer.token("ann", &audience, json!({}))), 200);
    assert_eq!(scene.status(bobs), 200, "the honest neighbour");
}

#[test]
fn aa_40_what_was_revoked_and_released_while_no_gate_ran_stays_revoked() {
    let mut scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let issued = SystemClock.now().as_unix() - 30;
    let held = |scene: &Scene, name: &str| {
        scene.issuer.token(name, &audience, json!({ "iat": issued, "exp": issued + 600 }))
    };
    let (stolen, bobs) = (held(&scene, "ann"), held(&scene, "bob"));
    assert_eq!(scene.status(stolen.clone()), 200);
    scene.gate.stop();
    let issuer = scene.issuer.name();
    for verb in ["revoke", "release"] {
        let (code, said) = respond(&scene.gate, &[verb, "--person", "ann", "--issuer", issuer.as_str()]);
        assert_eq!(code, Some(0), "{said}");
    }
    scene.gate.restart();
    assert_eq!(scene.status(stolen), 401, "what was held before");
    let fresh = || scene.issuer.token("ann", &audience, json!({}));
    eventually("what is issued a second later lets them in", || (scene.status(fresh()) == 200).then_some(()));
    assert_eq!(scene.status(bobs), 200, "the honest neighbour");
}

#[test]
fn aa_01_a_stranger_is_told_where_tokens_come_from() {
    let scene = Scene::start();
    for path in ["/mcp/new", "/mcp/old", "/mcp"] {
        let refused = scene.gate.stranger().call(path, "echo", "{}");
        assert_eq!(refused.status, 401);
        let metadata = format!("{BASE}/.well-known/oauth-protected-resource{path}");
        assert_eq!(
            refused.line("www-authenticate").unwrap(),
            format!("Bearer resource_metadata=\"{metadata}\"")
        );
        let place = metadata.strip_prefix(BASE).unwrap();
        let document =
            scene.gate.stranger().request("GET", place).line("Origin", "https://any.example").send();
        assert_eq!(document.outcome(), 200, "{}", document.text());
        assert_eq!(document.line("access-control-allow-origin"), Some("*"));
        let document: Value = serde_json::from_str(&document.text()).unwrap();
        assert_eq!(document["resource"], format!("{BASE}{path}"));
        assert_eq!(document["authorization_servers"], json!([scene.issuer.name()]));
    }
    let nowhere =
        scene.gate.stranger().request("GET", "/.well-known/oauth-protected-resource/mcp/nowhere").send();
    assert_eq!(nowhere.status, 404);
    assert_eq!(
        scene.gate.bearer(scene.gate_token()).call("/mcp/new", "echo", "{}").status,
        401,
        "no local token here"
    );
}

impl Scene {
    /// What a gate in local mode would take.
    fn gate_token(&self) -> String {
        "bz_0000000000000000000000000000000000000000000000000000000000000000".to_owned()
    }
}

#[test]
fn aa_10_a_token_that_nobody_signed_is_none() {
    let scene = Scene::start();
    let good = scene.token("ann", "/mcp/new");
    let mut parts = good.split('.');
    let (header, payload, signature) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let mut bad = vec![
        ("its own header, unsigned".to_owned(), format!("{header}.{payload}.")),
        ("its own header, cut".to_owned(), format!("{header}.{payload}")),
        ("no header".to_owned(), format!(".{payload}.{signature}")),
    ];
    for alg in
        [json!("none"), json!("None"), json!("nOnE"), json!("NONE"), json!(""), json!(null), json!(["none"])]
    {
        for more in
            [json!({ "kid": "key", "typ": "at+jwt" }), json!({ "typ": "at+jwt" }), json!({ "kid": "key" })]
        {
            let mut header = more.clone();
            if !alg.is_null() {
                header["alg"] = alg.clone();
            }
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            for end in [String::new(), ".".to_owned(), format!(".{signature}"), ".AA".to_owned()] {
                bad.push((format!("{alg} {more} `{end}`"), format!("{header}.{payload}{end}")));
            }
        }
    }
    scene.refuses(bad);
}

#[test]
fn aa_03_only_the_issuers_own_algorithm_and_key_sign() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let good = scene.token("ann", "/mcp/new");
    let (head, signature) = good.rsplit_once('.').unwrap();
    let payload = head.split_once('.').unwrap().1;
    let header = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
    let other = Issuer::start(2);
    let claims = json!({ "iss": scene.issuer.name() });
    let mut bad = vec![
        ("another key under the real kid".to_owned(), other.token("ann", &audience, claims)),
        ("no signature".to_owned(), format!("{head}.")),
        ("two parts".to_owned(), head.to_owned()),
        ("a signature of zeros".to_owned(), format!("{head}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
        ("a longer signature".to_owned(), format!("{good}AA")),
        ("padding".to_owned(), format!("{good}==")),
    ];
    for alg in ["none", "None", "nOnE", "NONE", "", "HS256", "RS256", "ES256", "PS256"] {
        let head = header(json!({ "alg": alg, "kid": "key", "typ": "at+jwt" }));
        bad.push((format!("alg {alg}"), format!("{head}.{payload}.{signature}")));
        bad.push((format!("alg {alg} unsigned"), format!("{head}.{payload}.")));
    }
    scene.refuses(bad);
}

#[test]
fn aa_04_only_access_tokens_are_access_tokens() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let of = |header: Value, claims: Value| scene.issuer.token_with(header, "ann", &audience, claims);
    scene.refuses([
        ("an ID token by its type".to_owned(), of(json!({ "typ": "JWT" }), json!({ "nonce": "n" }))),
        ("no type".to_owned(), of(json!({ "typ": null }), json!({}))),
        ("a logout token".to_owned(), of(json!({ "typ": "logout+jwt" }), json!({}))),
        ("an ID-JAG".to_owned(), of(json!({ "typ": "oauth-id-jag+jwt" }), json!({}))),
        ("a DPoP proof".to_owned(), of(json!({ "typ": "dpop+jwt" }), json!({}))),
    ]);
}

/// A good token of the person, for an API that the gate or its servers use: it is not for the gate.
#[test]
fn tp_03_a_token_for_what_is_behind_the_gate_is_not_for_the_gate() {
    let scene = Scene::start();
    let own = [scene.new.url(), scene.new.origin(), scene.issuer.name()];
    let apis = [
        "https://graph.microsoft.com",
        "00000003-0000-0000-c000-000000000000",
        "https://api.github.com",
        "https://vault.azure.net",
        "api://AzureADTokenExchange",
        "account",
    ];
    let audiences = own.iter().map(String::as_str).chain(apis);
    scene.refuses(audiences.map(|aud| (aud.to_owned(), scene.issuer.token("ann", aud, json!({})))));
}

#[test]
fn aa_05_a_token_for_anything_else_is_refused() {
    let scene = Scene::start();
    let right = format!("{BASE}/mcp/new");
    let wrong: Vec<Value> = vec![
        Value::Null,
        json!(""),
        json!([]),
        json!(["https://other.example"]),
        json!(["https://other.example", right]),
        json!(format!("{right}/")),
        json!(format!("{right}.evil.example")),
        json!(format!("{right}er")),
        json!(format!("{BASE}/mcp/NEW")),
        json!(format!("{BASE}/mcp")),
        json!(BASE),
        json!(format!("{BASE}/mcp%2Fnew")),
        json!(format!("{right}#x")),
        json!(7),
        json!({ "aud": right }),
        json!([[right]]),
        json!("*"),
        json!("https://graph.microsoft.com"),
    ];
    scene.refuses(wrong.into_iter().map(|aud| {
        let shown = aud.to_string();
        (shown, scene.issuer.token("ann", &right, json!({ "aud": aud })))
    }));
    let one_of_one = scene.issuer.token("ann", &right, json!({ "aud": [right] }));
    assert_eq!(scene.status(one_of_one), 200);
}

#[test]
fn tp_04_a_token_is_good_at_its_own_endpoint_alone() {
    let scene = Scene::start();
    let paths = ["/mcp/new", "/mcp/old", "/mcp"];
    for issued in paths {
        for used in paths {
            let client = scene.client("ann", issued);
            let status = client.modern(used, "tools/list", "").send().outcome();
            if issued != used {
                assert_eq!(status, 401, "{issued} at {used}");
            } else if used != "/mcp/old" {
                assert_eq!(status, 200, "{issued}");
            }
        }
    }
}

#[test]
fn aa_11_a_token_brings_no_key_of_its_own() {
    let canary = Upstream::modern(|_, _| false);
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let stranger = Issuer::start(2);
    let headers = [
        json!({ "jku": format!("{}/jwks", stranger.name()) }),
        json!({ "x5u": canary.url() }),
        json!({ "jwk": { "kty": "OKP", "crv": "Ed25519", "x": "AAAA" } }),
        json!({ "x5c": ["AAAA"] }),
        json!({ "crit": ["exp"] }),
        json!({ "crit": ["x"], "x": 1 }),
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "crit": [] }),
    ];
    let theirs = json!({ "iss": scene.issuer.name() });
    let mut bad = Vec::new();
    for header in headers {
        bad.push((
            format!("forged {header}"),
            stranger.token_with(header.clone(), "ann", &audience, theirs.clone()),
        ));
        bad.push((format!("signed {header}"), scene.issuer.token_with(header, "ann", &audience, json!({}))));
    }
    scene.refuses(bad);
    assert_eq!((canary.connections(), stranger.fetches()), (0, 0), "nobody was asked for keys");
}

#[test]
fn aa_12_an_issuers_key_speaks_for_that_issuer_alone() {
    let second = Issuer::start(2);
    let scene = Scene::with("", &second.config());
    let audience = format!("{BASE}/mcp/new");
    let iss = |name: String| scene.issuer.token("ann", &audience, json!({ "iss": name }));
    let name = scene.issuer.name();
    scene.refuses([
        ("a slash".to_owned(), iss(format!("{name}/"))),
        ("another scheme".to_owned(), iss(name.replace("http:", "https:"))),
        ("another issuer's name".to_owned(), iss(second.name())),
        ("nobody's".to_owned(), iss("https://login.microsoftonline.com/common/v2.0".to_owned())),
        ("a list".to_owned(), scene.issuer.token("ann", &audience, json!({ "iss": [name] }))),
    ]);
    let at_second = second.token("ann", &audience, json!({}));
    assert_eq!(scene.status(at_second), 200, "each speaks for itself");
}

#[test]
fn aa_18_a_key_id_is_a_name_and_nothing_else() {
    let canary = Upstream::modern(|_, _| false);
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let long = "k".repeat(8192);
    let kids = [
        json!("../../../../dev/null"),
        json!("' UNION SELECT 'k'-- "),
        json!(canary.url()),
        json!("|id"),
        json!("\u{0}"),
        json!(long),
        json!(["key"]),
        json!(7),
    ];
    scene.refuses(kids.into_iter().map(|kid| {
        let shown = kid.to_string().chars().take(40).collect();
        (shown, scene.issuer.token_with(json!({ "kid": kid }), "ann", &audience, json!({})))
    }));
    assert_eq!(canary.connections(), 0);
}

/// Clocks may differ by a minute and no more, and nobody is let in for years.
#[test]
fn aa_38_a_token_is_good_in_its_time_and_its_time_is_short() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let now = SystemClock.now().as_unix();
    let token = |more: Value| scene.issuer.token("ann", &audience, more);
    let bad = [
        json!({ "iat": now - 400, "exp": now - 61 }),
        json!({ "nbf": now + 75 }),
        json!({ "iat": now + 75 }),
        json!({ "iat": now + 600 }),
        json!({ "iat": now + 600, "exp": now + 900 }),
        json!({ "iat": now - 300, "nbf": now - 300, "exp": now - 300 }),
        json!({ "exp": now + 10 * 365 * 24 * 3600 }),
        json!({ "iat": now - 2 * 24 * 3600, "nbf": now - 2 * 24 * 3600 }),
    ];
    scene.refuses(bad.into_iter().map(|more| (more.to_string(), token(more))));
    for more in
        [json!({ "nbf": now + 30 }), json!({ "iat": now + 30 }), json!({ "iat": now - 300, "exp": now - 10 })]
    {
        assert_eq!(scene.status(token(more.clone())), 200, "a clock that is a little off: {more}");
    }
    let facade = Facade::start();
    let minted = facade.redeem(&facade.code("ann", &[]), &[]).json();
    assert!(minted["expires_in"].as_u64().is_some_and(|seconds| seconds <= 600), "{minted}");
}

#[test]
fn aa_19_times_are_whole_numbers_and_now() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let claims = [
        json!({ "exp": null }),
        json!({ "exp": "9999999999" }),
        json!({ "exp": -1 }),
        json!({ "exp": 0 }),
        json!({ "exp": true }),
        json!({ "exp": [4_102_444_800_u64] }),
        json!({ "exp": 1.5 }),
        json!({ "exp": 9_223_372_036_854_775_808_u64 }),
        json!({ "nbf": "future" }),
        json!({ "nbf": 4_102_444_800_u64 }),
        json!({ "iat": {} }),
        json!({ "iat": 4_102_444_800_u64 }),
        json!({ "exp": 4_102_444_800_u64 }),
        json!({ "iat": 1_000_000_000, "exp": 1_000_000_300 }),
    ];
    scene.refuses(
        claims.into_iter().map(|more| (more.to_string(), scene.issuer.token("ann", &audience, more))),
    );
    let big = scene.issuer.sign(
        r#"{"alg":"EdDSA","kid":"key","typ":"at+jwt"}"#,
        &format!(
            r#"{{"iss":"{}","sub":"ann","aud":"{audience}","client_id":"app","iat":1,"exp":1e400}}"#,
            scene.issuer.name()
        ),
    );
    assert_eq!(scene.status(big), 401);
}

#[test]
fn aa_30_a_token_has_one_reading() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let claims = format!(
        r#"{{"iss":"{}","sub":"ann","aud":"https://other.example","aud":"{audience}","client_id":"app","iat":1,"exp":4102444800}}"#,
        scene.issuer.name()
    );
    let header = r#"{"alg":"EdDSA","kid":"key","typ":"at+jwt"}"#;
    let good = scene.token("ann", "/mcp/new");
    scene.refuses([
        ("two audiences".to_owned(), scene.issuer.sign(header, &claims)),
        ("two algorithms".to_owned(), scene.issuer.sign(&header.replace('{', r#"{"alg":"none","#), &claims)),
        ("four parts".to_owned(), format!("{good}.AAAA")),
        ("five parts".to_owned(), format!("{good}.AAAA.AAAA")),
        ("cut".to_owned(), good[..good.len() - 2].to_owned()),
    ]);
    let endless = scene.gate.bearer("e".repeat(30_000)).call("/mcp/new", "echo", "{}");
    assert!(matches!(endless.status, 401 | 431), "{}", endless.status);
}

#[test]
fn aa_31_unknown_keys_are_asked_for_once_in_a_while() {
    let scene = Scene::start();
    assert_eq!(scene.status(scene.token("ann", "/mcp/new")), 200);
    let before = scene.issuer.fetches();
    for n in 0..200 {
        let header = json!({ "kid": format!("random-{n}") });
        let token = scene.issuer.token_with(header, "ann", &format!("{BASE}/mcp/new"), json!({}));
        assert_eq!(scene.status(token), 401);
    }
    assert!(scene.issuer.fetches() - before <= 1, "{} fetches", scene.issuer.fetches() - before);
    assert_eq!(scene.status(scene.token("ann", "/mcp/new")), 200);
}

#[test]
fn aa_32_a_workload_is_not_a_person() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    // RFC 9068 §2.2: without a person, the subject is the client.
    let app = scene.issuer.token("app", &audience, json!({}));
    let refused = scene.gate.bearer(app).call("/mcp/new", "echo", "{}");
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(scene.status(scene.token("ann", "/mcp/new")), 200);
}

#[test]
fn aa_21_scopes_are_compared_whole_and_asked_for_together() {
    let scene = Scene::with("", "required_scopes = [\"mcp:write\", \"mcp:tools\"]\n");
    let at = |path: &str, more: Value| scene.issuer.token("ann", &format!("{BASE}{path}"), more);
    let session = |more: Value| {
        scene.gate.bearer(at("/mcp/old", more)).initialize("/mcp/old", "2025-11-25", "{}").send()
    };
    let refused = session(json!({}));
    assert_eq!(refused.status, 403, "{}", refused.text());
    let challenge = refused.line("www-authenticate").unwrap();
    assert!(
        challenge.contains("error=\"insufficient_scope\"")
            && challenge.contains("scope=\"mcp:write mcp:tools\""),
        "{challenge}"
    );
    for scope in [
        "xmcp:write mcp:tools",
        "mcp:write\u{a0}mcp:tools",
        "mcp:write,mcp:tools",
        "MCP:WRITE MCP:TOOLS",
        "mcp:write\tmcp:tools",
    ] {
        let status = session(json!({ "scope": scope })).outcome();
        assert!(matches!(status, 401 | 403), "{scope:?}: {status}");
    }
    assert!(scene.old.heard_of("initialize").is_empty());
    assert_eq!(session(json!({ "scope": "mcp:write mcp:tools" })).outcome(), 200);
    assert_eq!(scene.status(at("/mcp/new", json!({}))), 200, "the other endpoint needs none");
}

#[test]
fn aa_28_forwarded_words_change_nobody() {
    let scene = Scene::with("", "");
    let client = scene.client("ann", "/mcp/new");
    let ask = |params: &str| {
        let mut ask = client.modern("/mcp/new", "tools/call", params);
        for (name, value) in [
            ("X-Forwarded-User", "root"),
            ("X-MS-CLIENT-PRINCIPAL", "cm9vdA=="),
            ("X-Auth-Request-Email", "root@example.com"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Forwarded", "for=10.0.0.1"),
            ("Client-Cert", ":AAAA:"),
        ] {
            ask = ask.line(name, value);
        }
        ask.send()
    };
    let answer = ask(r#""name":"echo","arguments":{"user_id":"root"}"#);
    assert_eq!(answer.outcome(), 200);
    let heard = scene.new.heard_of("tools/call").pop().unwrap().lines().to_lowercase();
    for word in ["x-forwarded", "x-ms-client", "x-auth-request", "client-cert", "authorization"] {
        assert!(!heard.contains(word), "{heard}");
    }
}

#[test]
fn aa_14_a_person_is_issuer_and_subject_whatever_their_name() {
    let second = Issuer::start(2);
    let up = Upstream::modern(super::handles::stateful);
    let scene = Scene::with("", &format!("{}{}", up.config("up", ""), second.config()));
    let audience = format!("{BASE}/mcp/up");
    let names = json!({ "email": "ann@example.com", "upn": "ann@example.com", "preferred_username": "ann", "unique_name": "ann" });
    let people = [
        scene.issuer.token("ann", &audience, names.clone()),
        scene.issuer.token("bob", &audience, names.clone()),
        second.token("ann", &audience, names),
    ];
    let ask = |token: &str, method: &str, params: &str| {
        let client = scene.gate.bearer(token.to_owned());
        client.modern_declaring("/mcp/up", method, params, super::handles::CAN_ELICIT).send()
    };
    let made = ask(&people[0], "tools/call", r#""name":"long","arguments":{}"#).json();
    let task = made.pointer("/result/taskId").and_then(Value::as_str).unwrap().to_owned();
    let get = |token: &str| ask(token, "tasks/get", &format!(r#""taskId":"{task}""#)).status;
    assert_eq!(people.each_ref().map(|token| get(token)), [200, 400, 400], "one name, three people");
}

/// Nobody may do anything until a role says so.
#[test]
fn ep_01_whoever_has_no_role_sees_and_does_nothing() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/new");
    let nobody = scene.gate.bearer(scene.issuer.token("bob", &audience, json!({ "groups": [] })));
    let refused = nobody.call("/mcp/new", "echo", "{}");
    assert!(refused.result().is_none(), "{}", refused.text());
    assert!(scene.new.heard_of("tools/call").is_empty());
    assert_eq!(scene.client("ann", "/mcp/new").call("/mcp/new", "echo", "{}").outcome(), 200);
}

#[test]
fn ep_02_a_users_token_administers_nothing() {
    let scene = Scene::start();
    let canary = scene.gate.folder().join("canary");
    let body = json!({ "command": "sh", "args": ["-c", format!("touch {}", canary.display())] }).to_string();
    let client = scene.client("ann", "/mcp");
    for path in [
        "/admin",
        "/admin/servers",
        "/api/v1/servers",
        "/mcp-rest/test/connection",
        "/servers/new",
        "/console",
        "/metrics",
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let ask = client.request(method, path).line("Content-Type", "application/json").body(&body);
            let status = ask.send().status;
            assert!(matches!(status, 404 | 405), "{method} {path}: {status}");
        }
    }
    assert!(!canary.exists());
    let named = client.modern("/mcp/new", "tools/list", "").send().outcome();
    assert_eq!(named, 401, "a token for all servers together is none for one");
    assert_eq!(scene.client("ann", "/mcp/new").call("/mcp/new", "echo", "{}").outcome(), 200);
}

fn tries(session: &Session) -> Vec<(u16, String)> {
    let tries = [session.call("1", "echo", "{}").send(), session.listen(None).send(), session.end()];
    tries.iter().map(|a| (a.status, a.text())).collect()
}

/// Also: SH-06, SH-12.
#[test]
fn sh_04_anothers_session_is_an_unknown_one() {
    let scene = Scene::start();
    let (ann, bob) = (scene.client("ann", "/mcp/old"), scene.client("bob", "/mcp/old"));
    let mine = ann.session("/mcp/old", "2025-11-25", "{}");
    let theirs = bob.session("/mcp/old", "2025-11-25", "{}");
    let unknown = tries(&theirs.naming("no-such-session"));
    assert!(unknown.iter().all(|(status, _)| *status == 404), "{unknown:?}");
    assert_eq!(tries(&theirs.naming(&mine.id)), unknown, "existence does not show");
    let resumed = theirs.naming(&mine.id).listen(Some("1-1")).send();
    assert_eq!(resumed.status, 404);
    // Another client of the same person is another caller.
    let audience = format!("{BASE}/mcp/old");
    let elsewhere = scene.gate.bearer(scene.issuer.token("ann", &audience, json!({ "client_id": "other" })));
    let elsewhere = elsewhere.session("/mcp/old", "2025-11-25", "{}");
    assert_eq!(tries(&elsewhere.naming(&mine.id)), unknown);

    // A token refreshed is still Ann.
    let fresh = scene.issuer.token("ann", &audience, json!({ "jti": "refreshed" }));
    let refreshed = scene.gate.bearer(fresh).session("/mcp/old", "2025-11-25", "{}").naming(&mine.id);
    assert_eq!(refreshed.call("7", "echo", r#"{"still":"here"}"#).send().said(), r#"{"still":"here"}"#);
    let stranger = scene.gate.stranger().post("/mcp/old", "{}").line("Mcp-Session-Id", &mine.id).send();
    assert_eq!(stranger.status, 401, "an id is no credential");
}

/// Also: SH-01, SH-12, SH-13.
#[test]
fn sh_07_what_one_person_was_handed_is_unknown_from_another() {
    let up = Upstream::modern(super::handles::stateful);
    let scene = Scene::with("", &up.config("up", super::handles::MAY_ASK));
    let ask = |client: &Client, method: &str, params: &str| {
        client.modern_declaring("/mcp/up", method, params, super::handles::CAN_ELICIT).send()
    };
    let (ann, bob) = (scene.client("ann", "/mcp/up"), scene.client("bob", "/mcp/up"));
    let long = ask(&ann, "tools/call", r#""name":"long","arguments":{}"#).json();
    let booked = ask(&ann, "tools/call", r#""name":"book","arguments":{}"#).json();
    let listed = ask(&ann, "tools/list", "").json();
    let handle = |json: &Value, place: &str| json.pointer(place).and_then(Value::as_str).unwrap().to_owned();
    let (task, state, cursor) = (
        handle(&long, "/result/taskId"),
        handle(&booked, "/result/requestState"),
        handle(&listed, "/result/nextCursor"),
    );
    let uses = [
        ("tasks/get", format!(r#""taskId":"{task}""#)),
        ("tasks/cancel", format!(r#""taskId":"{task}""#)),
        ("tasks/update", format!(r#""taskId":"{task}","inputResponses":{{}}"#)),
        ("tools/call", format!(r#""name":"book","arguments":{{}},"requestState":"{state}""#)),
        ("tools/list", format!(r#""cursor":"{cursor}""#)),
    ];
    let heard = up.heard().len();
    for (method, params) in &uses {
        let theirs = ask(&bob, method, params);
        assert_eq!((theirs.status, theirs.code()), (400, Some(-32602)), "{method}: {}", theirs.text());
    }
    assert_eq!(up.heard().len(), heard, "the server heard nothing of it");
    for (method, params) in &uses {
        let mine = ask(&ann, method, params);
        assert_eq!(mine.outcome(), 200, "{method}: {}", mine.text());
    }
}

#[test]
fn aa_29_a_stream_ends_with_its_token() {
    let scene = Scene::start();
    let audience = format!("{BASE}/mcp/old");
    let now = SystemClock.now().as_unix();
    let short = scene.issuer.token("ann", &audience, json!({ "exp": now + 4 }));
    let session = scene.gate.bearer(short).session("/mcp/old", "2025-11-25", "{}");
    let mut stream = session.listen(None).open();
    // A stream that ends has no further event; one that lives would keep the reader waiting.
    while stream.event().is_some() {}
    let after = SystemClock.now().as_unix();
    assert!((now + 4..now + 64).contains(&after), "{after} of {now}");
    // The allowance for clocks that differ is a minute.
    let expired =
        scene.issuer.token("ann", &audience, json!({ "iat": now - 400, "nbf": now - 400, "exp": now - 100 }));
    let refused = scene.gate.bearer(expired).initialize("/mcp/old", "2025-11-25", "{}").send();
    assert_eq!(refused.status, 401);
}
