//! Tokens that are exchanged for callers' own on their way to a server (RFC 8693; Microsoft Entra's on-behalf-of flow; MCP
//! security best practices, token passthrough).

use std::fs;

use bartizan_trials::{Client, Gate, Issuer, Pen, Tenant, Upstream};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

const BASE: &str = "https://gate.example";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";

/// A gate that takes tokens, and lets people of the group `people` do what they like.
fn gate(identity: &str, issuer: &str, servers: &str) -> Gate {
    Gate::start(&config(identity, issuer, servers))
}

fn config(identity: &str, issuer: &str, servers: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"resource-server\"\n{identity}\n{issuer}\
         [policy.roles.people]\ngroups = [\"people\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{servers}"
    )
}

/// A member of a form; what these trials send needs no decoding.
fn member<'a>(form: &'a str, name: &str) -> Option<&'a str> {
    form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A claim of a token.
fn claim(token: &str, name: &str) -> String {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap_or_default()).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&payload).unwrap_or_default();
    claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// An MCP server that lets people in by tokens of its own, whose names begin like this.
fn guarded(is_modern: bool) -> Upstream {
    let script = |heard: &bartizan_trials::Heard, pen: &mut Pen| {
        let refused = !heard.line("authorization").is_some_and(|line| line.starts_with("Bearer up-for-"));
        if refused {
            pen.empty("401 Unauthorized");
        }
        refused
    };
    if is_modern { Upstream::modern(script) } else { Upstream::legacy(script) }
}

/// An authorization server that gives everybody but bob what they come for.
fn honest_exchange() -> Upstream {
    Upstream::modern(|heard, pen| {
        let subject = claim(member(&heard.body, "subject_token").unwrap_or_default(), "sub");
        if subject == "bob" {
            pen.whole("400 Bad Request", "application/json", "", r#"{"error":"invalid_grant"}"#);
        } else {
            let answer = json!({
                "access_token": format!("up-for-{subject}"), "issued_token_type": ACCESS, "token_type": "Bearer", "expires_in": 300,
            });
            pen.json(&answer.to_string());
        }
        true
    })
}

struct Scene {
    issuer: Issuer,
    sts: Upstream,
    new: Upstream,
    old: Upstream,
    plain: Upstream,
    gate: Gate,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn start(sts: Upstream) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "vaulted").unwrap();
        let issuer = Issuer::start(1);
        let (new, old, plain) = (guarded(true), guarded(false), Upstream::modern(|_, _| false));
        let credential = format!(
            "credential = {{ kind = \"token-exchange\", client_id = \"gate\", client_secret = {{ file = {file:?} }}, token_url = \
             \"{}/token\", scopes = [\"read\"] }}",
            sts.origin()
        );
        let servers =
            [new.config("new", &credential), old.config("old", &credential), plain.config("plain", "")];
        let gate = gate("", &issuer.config(), &servers.concat());
        Self { issuer, sts, new, old, plain, gate, _folder: folder }
    }

    fn token(&self, subject: &str, path: &str) -> String {
        self.issuer.token(subject, &format!("{BASE}{path}"), json!({}))
    }

    /// Nothing of these tokens is anywhere but where they are exchanged.
    fn kept_inside(&self, tokens: &[&String]) {
        for heard in self.new.heard().into_iter().chain(self.old.heard()).chain(self.plain.heard()) {
            for token in tokens {
                let signature = token.rsplit('.').next().unwrap();
                assert!(
                    !heard.lines().contains(signature) && !heard.body.contains(signature),
                    "{}",
                    heard.lines()
                );
            }
        }
        for token in tokens {
            assert!(!self.gate.log().contains(token.rsplit('.').next().unwrap()));
        }
    }
}

/// Also: TP-02.
#[test]
fn tp_01_a_callers_token_is_exchanged_for_the_server_and_goes_no_further() {
    let scene = Scene::start(honest_exchange());
    let (ann, legacy) = (scene.token("ann", "/mcp/new"), scene.token("ann", "/mcp/old"));
    for _ in 0..3 {
        let answer = scene.gate.bearer(ann.clone()).call("/mcp/new", "echo", r#"{"a":1}"#);
        assert_eq!((answer.status, &*answer.said()), (200, r#"{"a":1}"#), "{}", answer.text());
    }
    assert_eq!(scene.sts.heard().len(), 1, "one exchange for one token");
    let asked = scene.sts.heard().remove(0);
    assert_eq!(member(&asked.body, "subject_token"), Some(&*ann));
    assert_eq!(
        member(&asked.body, "grant_type"),
        Some("urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange")
    );
    assert_eq!(member(&asked.body, "scope"), Some("read"));
    assert!(member(&asked.body, "resource").unwrap().ends_with("%2Fmcp"), "{}", asked.body);
    assert!(asked.line("authorization").unwrap().starts_with("Basic "), "the gate proves who it is");

    let client = scene.gate.bearer(legacy.clone());
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    assert_eq!(session.call("1", "echo", "{}").send().said(), "{}");
    session.end();
    assert!(scene.new.heard().iter().all(|h| h.line("authorization") == Some("Bearer up-for-ann")));
    assert!(scene.old.heard().iter().all(|h| h.line("authorization") == Some("Bearer up-for-ann")));

    // Somebody who gets nothing gets nothing of ann's, and a server that needs nothing is shown nothing.
    let bob = scene.token("bob", "/mcp/new");
    let before = scene.new.heard().len();
    let refused = scene.gate.bearer(bob.clone()).call("/mcp/new", "echo", "{}");
    assert_eq!(refused.outcome(), -31020, "{}", refused.text());
    assert_eq!(scene.new.heard().len(), before, "no call, least of all with another credential");
    let plain = scene.token("ann", "/mcp/plain");
    assert_eq!(scene.gate.bearer(plain.clone()).call("/mcp/plain", "echo", "{}").outcome(), 200);
    assert!(scene.plain.heard().iter().all(|h| h.line("authorization").is_none()));
    assert!(scene.sts.heard().iter().all(|h| !h.body.contains(&*plain)), "nor is its token exchanged");
    assert!(!refused.text().contains("invalid_grant"));
    scene.kept_inside(&[&ann, &legacy, &bob, &plain]);
    for inside in ["up-for-ann", "vaulted"] {
        assert!(!scene.gate.log().contains(inside), "{inside} is in the log");
    }
}

#[test]
fn tp_01_an_endpoint_that_misbehaves_makes_no_passthrough_of_the_gate() {
    type Script = fn(&str, &mut Pen, &str);
    let canary = Upstream::modern(|_, _| false);
    let scripts: [(&str, Script); 8] = [
        ("the question for an answer", |token, pen, _| {
            let answer =
                json!({ "access_token": token, "issued_token_type": ACCESS, "token_type": "Bearer" });
            pen.json(&answer.to_string());
        }),
        ("the question inside the answer", |token, pen, _| {
            let access = format!("up-for-ann.{token}");
            pen.json(
                &json!({ "access_token": access, "issued_token_type": ACCESS, "token_type": "Bearer" })
                    .to_string(),
            );
        }),
        ("an ID token", |_, pen, _| {
            pen.json(r#"{"access_token":"up-for-ann","issued_token_type":"urn:ietf:params:oauth:token-type:id_token","token_type":"N_A"}"#);
        }),
        ("a token of a kind it does not name", |_, pen, _| {
            pen.json(r#"{"access_token":"up-for-ann","token_type":"Bearer"}"#);
        }),
        ("a token with a header line", |_, pen, _| {
            let answer = json!({
                "access_token": "up-for-ann\r\nX-Evil: 1", "issued_token_type": ACCESS, "token_type": "Bearer",
            });
            pen.json(&answer.to_string());
        }),
        ("a page", |_, pen, _| pen.whole("200 OK", "text/html", "", "<html>up-for-ann</html>")),
        ("a redirect", |_, pen, to| {
            pen.whole("307 Temporary Redirect", "text/plain", &format!("Location: {to}\r\n"), "");
        }),
        ("nothing", |_, pen, _| pen.end()),
    ];
    for (what, script) in scripts {
        let to = canary.url();
        let scene = Scene::start(Upstream::modern(move |heard, pen| {
            script(member(&heard.body, "subject_token").unwrap_or_default(), pen, &to);
            true
        }));
        let ann = scene.token("ann", "/mcp/new");
        let refused = scene.gate.bearer(ann.clone()).call("/mcp/new", "echo", "{}");
        assert_eq!(refused.outcome(), -31020, "{what}: {}", refused.text());
        assert!(scene.new.heard().is_empty(), "{what}");
        assert!(!scene.sts.heard().is_empty(), "{what}");
        scene.kept_inside(&[&ann]);
    }
    assert!(canary.heard().is_empty(), "TP-05: a token follows no redirect");
}

/// A tenant that lets the gate act for people, unless they are to sign in again or nobody has consented.
fn tenant() -> Tenant {
    Tenant::start(|heard, pen| {
        let assertion = member(&heard.body, "assertion").unwrap_or_default();
        match claim(assertion, "oid").as_str() {
            "stepper" => {
                let answer =
                    json!({ "error": "interaction_required", "error_codes": [50076], "claims": CLAIMS });
                pen.whole("400 Bad Request", "application/json", "", &answer.to_string());
            }
            "unconsented" => {
                let answer =
                    r#"{"error":"invalid_grant","suberror":"consent_required","error_codes":[65001]}"#;
                pen.whole("400 Bad Request", "application/json", "", answer);
            }
            oid => {
                let answer = json!({
                    "token_type": "Bearer", "scope": "api://up/read", "expires_in": 3599, "ext_expires_in": 3599,
                    "access_token": format!("up-for-{oid}"),
                });
                pen.json(&answer.to_string());
            }
        }
    })
}

const CLAIMS: &str = r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#;

/// Also: AA-32, TP-02.
#[test]
fn tp_01_the_gate_acts_for_people_of_the_tenant_and_relays_its_challenges() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "vaulted").unwrap();
    let (tenant, new, old) = (tenant(), guarded(true), guarded(false));
    let more = format!(
        "audience = [\"api-of-SERVER\"]\ncredential = {{ kind = \"entra-obo\", scopes = [\"api://up/.default\"], app = {} }}",
        tenant.app(&file)
    );
    let gate = gate(
        "allow_applications = true",
        &tenant.config(),
        &[
            new.config("new", &more.replace("SERVER", "new")),
            old.config("old", &more.replace("SERVER", "old")),
        ]
        .concat(),
    );
    let token = |oid: &str, api: &str| tenant.token(oid, api, json!({}));
    let (ann, bob) = (token("ann", "api-of-new"), token("bob", "api-of-new"));
    for _ in 0..2 {
        let answer = gate.bearer(ann.clone()).call("/mcp/new", "echo", "{}");
        assert_eq!(answer.outcome(), 200, "{}", answer.text());
    }
    assert_eq!(gate.bearer(bob.clone()).call("/mcp/new", "echo", "{}").outcome(), 200);
    let forms = tenant.forms();
    assert_eq!(forms.len(), 2, "one for each of them");
    for (name, value) in [
        ("grant_type", "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"),
        ("requested_token_use", "on_behalf_of"),
        ("assertion", &*ann),
        ("scope", "api%3A%2F%2Fup%2F.default"),
        ("client_id", "gate"),
        ("client_secret", "vaulted"),
    ] {
        assert_eq!(member(&forms[0], name), Some(value), "{name}");
    }
    let called = new.heard_of("tools/call");
    let shown: Vec<_> = called.iter().filter_map(|heard| heard.line("authorization")).collect();
    assert_eq!(shown, ["Bearer up-for-ann", "Bearer up-for-ann", "Bearer up-for-bob"]);

    // Somebody who has to sign in again is told how, by HTTP, before the server hears of anything; in both eras.
    let before = new.heard().len();
    let expected = STANDARD.encode(CLAIMS);
    let stepper = gate.bearer(token("stepper", "api-of-new"));
    let challenged = |answer: &bartizan_trials::Answer| {
        assert_eq!(answer.status, 401, "{}", answer.text());
        let line = answer.line("www-authenticate").unwrap();
        for part in [
            "Bearer ",
            "error=\"insufficient_claims\"",
            &expected,
            "resource_metadata=\"https://gate.example/",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(answer.text().contains("\"reason\":\"step_up\""), "{}", answer.text());
    };
    challenged(&stepper.call("/mcp/new", "echo", "{}"));
    challenged(&stepper.modern("/mcp/new", "tools/list", "").send());
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
    challenged(&gate.bearer(token("stepper", "api-of-old")).post("/mcp/old", hello).send());
    assert!(new.heard().len() == before && old.heard().is_empty());

    // AA-32: a workload is nobody's deputy. It comes in, and gets no further; the tenant is not asked.
    let asked = tenant.forms().len();
    let workload =
        json!({ "scp": null, "idtyp": "app", "sub": "daemon", "roles": ["mcp:read"], "groups": ["people"] });
    let workload = gate.bearer(tenant.token("daemon", "api-of-new", workload));
    let refused = workload.call("/mcp/new", "echo", "{}");
    assert_eq!(refused.outcome(), -31003, "{}", refused.text());
    assert!(refused.text().contains("upstream_not_for_caller"), "{}", refused.text());
    assert_eq!(tenant.forms().len(), asked);
    let unconsented = gate.bearer(token("unconsented", "api-of-new")).call("/mcp/new", "echo", "{}");
    assert_eq!(unconsented.outcome(), -31003, "{}", unconsented.text());
    assert_eq!(new.heard().len(), before);

    for heard in new.heard() {
        for token in [&ann, &bob] {
            let signature = token.rsplit('.').next().unwrap();
            assert!(!heard.lines().contains(signature) && !heard.body.contains(signature));
        }
    }
    assert!(!gate.log().contains("vaulted") && !gate.log().contains("up-for-ann"));
    assert_eq!(gate.bearer(ann).call("/mcp/new", "echo", "{}").outcome(), 200, "the honest neighbour");
}

#[test]
fn aa_13_only_members_of_the_one_tenant_come_in() {
    let (tenant, up) = (Tenant::start(|_, pen| pen.empty("404 Not Found")), Upstream::modern(|_, _| false));
    let gate = gate("", &tenant.config(), &up.config("up", "audience = [\"api\"]"));
    let status =
        |more: Value| gate.bearer(tenant.token("ann", "api", more)).call("/mcp/up", "echo", "{}").outcome();
    for (what, more, expected) in [
        ("another tenant's", json!({ "tid": "99999999-2222-3333-4444-555555555555" }), 401),
        ("of all personal accounts", json!({ "tid": "9188040d-6c67-4c5b-b112-36a304b66dad" }), 401),
        ("of another issuer", json!({ "iss": "https://login.microsoftonline.com/common/v2.0" }), 401),
        ("a guest", json!({ "idp": "https://sts.windows.net/99999999-2222-3333-4444-555555555555/" }), 403),
        ("a guest by mark", json!({ "acct": 1 }), 403),
        ("neither delegated nor a role", json!({ "scp": null }), 401),
        ("an ID token", json!({ "nonce": "n" }), 401),
    ] {
        assert_eq!(status(more), expected, "{what}");
    }
    assert!(up.heard_of("tools/call").is_empty());
    let renamed = json!({ "preferred_username": "root@corp.example", "email": "root@corp.example" });
    assert_eq!(status(renamed), 200, "the honest neighbour, whatever they call themselves");
}

/// A tenant's Graph that says this of everybody's groups.
fn graph(status: u16, body: Value) -> Tenant {
    Tenant::start(move |heard, pen| {
        if heard.path() != "/v1.0/$batch" {
            return pen.json(r#"{"access_token":"for-graph","token_type":"Bearer","expires_in":3599}"#);
        }
        assert_eq!(heard.line("authorization"), Some("Bearer for-graph"));
        let answer = json!({ "responses": [{ "id": "1", "status": status, "body": body }] });
        pen.json(&answer.to_string());
    })
}

/// Microsoft Entra ID leaves groups out of tokens when they are many; "none" would be the wrong reading of that.
#[test]
fn aa_13_groups_that_a_token_leaves_out_are_looked_up_or_their_person_is_refused() {
    const PEOPLE: &str = "bbbbbbbb-0000-0000-0000-000000000001";
    const ANN: &str = "aaaaaaaa-0000-0000-0000-000000000001";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, "vaulted").unwrap();
    let status = |tenant: &Tenant, graph: &str| {
        let up = Upstream::modern(|_, _| false);
        let gate = Gate::start(&format!(
            "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"resource-server\"\n{}{graph}\
             [policy.roles.people]\nissuers = [\"{}\"]\ngroups = [\"{PEOPLE}\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \
             \"people\"\n{}",
            tenant.config(),
            tenant.issuer(),
            up.config("up", "audience = [\"api\"]"),
        ));
        let client = |more: Value| -> Client { gate.bearer(tenant.token(ANN, "api", more)) };
        let overage = json!({
            "groups": null, "_claim_names": { "groups": "src1" },
            "_claim_sources": { "src1": { "endpoint": "https://graph.example/users/me/getMemberObjects" } },
        });
        let honest = client(json!({ "groups": [PEOPLE] })).call("/mcp/up", "echo", "{}");
        assert_eq!(honest.outcome(), 200, "the honest neighbour: {}", honest.text());
        client(overage).call("/mcp/up", "echo", "{}").outcome()
    };
    let whole = graph(200, json!({ "value": [PEOPLE, "cccccccc-0000-0000-0000-000000000001"] }));
    let asking = |tenant: &Tenant| {
        format!("[identity.graph]\nendpoint = \"{}\"\napp = {}\n", tenant.origin(), tenant.app(&file))
    };
    assert_eq!(status(&whole, ""), 403, "nobody looks");
    assert_eq!(status(&whole, &asking(&whole)), 200);
    for (code, body) in [
        (200, json!({ "value": [PEOPLE], "@odata.nextLink": "https://graph.example/next" })),
        (403, json!({ "error": { "code": "Authorization_RequestDenied" } })),
        (200, json!({ "value": "everybody" })),
    ] {
        let tenant = graph(code, body.clone());
        assert_eq!(status(&tenant, &asking(&tenant)), 403, "{body}");
    }
}

/// A platform that manages an identity for the gate's machine (App Service's contract).
fn platform() -> Upstream {
    Upstream::modern(|heard, pen| {
        let resource = match heard.target() {
            target if target.contains("resource=api%3A%2F%2FAzureADTokenExchange") => "federation",
            target if target.contains("resource=https%3A%2F%2Fvault.azure.net") => "vault",
            _ => "",
        };
        let is_ours =
            heard.line("x-identity-header") == Some("platform-secret") && heard.path() == "/msi/token";
        if is_ours && !resource.is_empty() && heard.target().contains("client_id=ours") {
            pen.json(
                &json!({ "access_token": format!("machine-for-{resource}"), "expires_on": "4102444800" })
                    .to_string(),
            );
        } else {
            pen.empty("403 Forbidden");
        }
        true
    })
}

/// No secret lies anywhere: the machine's identity is the gate's credential at the tenant and at the vault, and goes nowhere else.
#[test]
fn tp_01_the_machines_identity_stands_for_the_gates_secrets_and_is_shown_to_nobody_else() {
    let (tenant, platform) = (tenant(), platform());
    let vault = Upstream::modern(|heard, pen| {
        if heard.line("authorization") == Some("Bearer machine-for-vault") && heard.path() == "/secrets/KEY" {
            pen.json(r#"{"value":"from-the-vault"}"#);
        } else {
            pen.empty("403 Forbidden");
        }
        true
    });
    let (new, plain) = (guarded(true), Upstream::modern(|_, _| false));
    let identity = "{ method = \"managed_identity\", identity_client_id = \"ours\" }";
    let app = tenant.app_with(identity);
    let tables = [
        new.config(
            "new",
            &format!(
                "audience = [\"api-of-new\"]\ncredential = {{ kind = \"entra-obo\", scopes = [\"api://up/.default\"], app = {app} }}"
            ),
        ),
        plain.config(
            "plain",
            "audience = [\"api-of-plain\"]\ncredential = { kind = \"secret\", value = { azure_kv = \"KEY\" } }",
        ),
        format!("[vaults.azure]\nurl = \"{}\"\nmanaged_identity = true\nclient_id = \"ours\"\n", vault.origin()),
    ]
    .concat();
    let config = config("allow_applications = true", &tenant.config(), &tables);
    let place = format!("{}/msi/token", platform.origin());
    let environment = [("IDENTITY_ENDPOINT", &*place), ("IDENTITY_HEADER", "platform-secret")];
    let gate = Gate::start_with(&config, &environment);

    let ann = tenant.token("ann", "api-of-new", json!({}));
    let answer = gate.bearer(ann).call("/mcp/new", "echo", "{}");
    assert_eq!(answer.outcome(), 200, "{}", answer.text());
    let form = tenant.forms().pop().unwrap();
    assert_eq!(member(&form, "client_assertion"), Some("machine-for-federation"));
    assert_eq!(
        member(&form, "client_assertion_type"),
        Some("urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer")
    );
    assert_eq!(member(&form, "client_secret"), None);
    let bob = tenant.token("bob", "api-of-plain", json!({}));
    assert_eq!(gate.bearer(bob).call("/mcp/plain", "echo", "{}").outcome(), 200);
    let called = plain.heard_of("tools/call");
    assert_eq!(called[0].line("authorization"), Some("Bearer from-the-vault"));
    for heard in new.heard().iter().chain(&plain.heard()) {
        assert!(!heard.lines().contains("machine-for") && !heard.body.contains("machine-for"));
    }
    assert!(!gate.log().contains("machine-for") && !gate.log().contains("platform-secret"));
}
