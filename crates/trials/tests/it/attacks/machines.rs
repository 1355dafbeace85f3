//! The identity that Azure manages for the gate's machine: what it stands for, whom it is shown to, and that no request has a say
//! in where it is asked for (Azure's "How to use managed identities for App Service"; Microsoft identity platform, federated
//! credentials).

use std::sync::{Arc, Mutex};

use bartizan_trials::{
    BACK, Browser, Facade, Fault, Gate, Platform, Tenant, Upstream, VERIFIER, encode, field, onward,
    parameter, refusal_with,
};
use serde_json::{Value, json};

const HOST: &str = "gate.example";
const PEOPLE: &str = "bbbbbbbb-0000-0000-0000-000000000001";
const ANN: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const FEDERATION: &str = "api://AzureADTokenExchange";
const IDENTITY: &str = "{ method = \"managed_identity\", identity_client_id = \"ours\" }";

/// A gate that signs people of an Entra tenant in and asks Graph about them, without any secret of its own.
struct Scene {
    tenant: Tenant,
    platform: Platform,
    up: Upstream,
    gate: Gate,
    /// The ID token that the next code is good for.
    id_token: Arc<Mutex<String>>,
}

/// The tenant's token endpoint and its Graph. Only the machine's own assertion is good for a token.
fn tenant() -> (Tenant, Arc<Mutex<String>>) {
    let id_token = Arc::<Mutex<String>>::default();
    let good = Arc::clone(&id_token);
    let tenant = Tenant::start(move |heard, pen| {
        if heard.path() == "/v1.0/$batch" {
            assert_eq!(heard.line("authorization"), Some("Bearer for-graph"));
            let answers = heard.json()["requests"].as_array().cloned().unwrap_or_default();
            let answers = answers.iter().map(|asked| {
                let groups = asked["url"].as_str().is_some_and(|url| url.contains("getMemberObjects"));
                let body = if groups {
                    json!({ "value": [PEOPLE] })
                } else {
                    json!({ "id": ANN, "accountEnabled": true })
                };
                json!({ "id": asked["id"], "status": 200, "body": body })
            });
            return pen.json(&json!({ "responses": answers.collect::<Vec<_>>() }).to_string());
        }
        let form = format!("http://x/?{}", heard.body);
        let of = |name: &str| parameter(&form, name).unwrap_or_default();
        let is_ours = of("client_id") == "gate"
            && of("client_assertion") == Platform::token(FEDERATION)
            && of("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            && !heard.body.contains("client_secret");
        let refused = r#"{"error":"invalid_client"}"#;
        match of("grant_type").as_str() {
            _ if !is_ours => pen.whole("401 Unauthorized", "application/json", "", refused),
            "client_credentials" => {
                pen.json(r#"{"access_token":"for-graph","token_type":"Bearer","expires_in":3599}"#);
            }
            _ => pen.json(&json!({ "token_type": "Bearer", "id_token": *good.lock().unwrap() }).to_string()),
        }
    });
    (tenant, id_token)
}

fn config(tenant: &Tenant, up: &Upstream) -> String {
    let app = tenant.app_with(IDENTITY);
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\npublic_url = \"https://{HOST}\"\n\
         trusted_proxies = [\"127.0.0.1/32\"]\n[identity]\nmode = \"facade\"\nscopes = {{ \"mcp:read\" = \"read\" }}\n\
         [identity.provider]\nkind = \"entra\"\n{}credential = {IDENTITY}\n\
         [identity.graph]\nendpoint = \"{}\"\napp = {app}\n\
         [[identity.clients]]\nid = \"editor\"\nname = \"The Editor\"\nredirect_uris = [\"{BACK}\"]\n\
         [policy.roles.people]\nissuers = [\"{}\"]\ngroups = [\"{PEOPLE}\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \
         \"people\"\n{}",
        tenant.provider(),
        tenant.origin(),
        tenant.issuer(),
        up.config("a", "required_scopes = [\"mcp:read\"]"),
    )
}

impl Scene {
    fn start() -> Self {
        let ((tenant, id_token), platform) = (tenant(), Platform::start());
        let up = Upstream::modern(|_, _| false);
        let environment = platform.environment();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let gate = Gate::start_with(&config(&tenant, &up), &environment);
        Self { tenant, platform, up, gate, id_token }
    }

    fn browser(&self) -> Browser {
        Browser::new(self.gate.stranger(), HOST)
    }

    /// The consent page of a good request, with changes.
    fn query(changes: &[(&str, &str)]) -> String {
        Facade::query(&[&[("scope", "mcp:read")], changes].concat())
    }

    /// An access token of `editor`'s for somebody whose groups do not fit into a token.
    fn token(&self) -> String {
        let mut browser = self.browser();
        let page = browser.get(&Self::query(&[]));
        assert_eq!(page.outcome(), 200, "{}", page.text());
        let form = field(&page, "form").unwrap();
        let away = browser.post("/oauth/consent", &[("form", &form), ("decision", "allow")]);
        let address = onward(&away).unwrap();
        assert!(address.starts_with(&self.tenant.origin()), "{address}");
        let overage = json!({
            "groups": null, "scp": null, "azp": null, "nonce": parameter(&address, "nonce"), "_claim_names": { "groups": "src1" },
            "_claim_sources": { "src1": { "endpoint": format!("{}/msi/token", self.platform.origin()) } },
        });
        *self.id_token.lock().unwrap() = self.tenant.token(ANN, "gate", overage);
        let state = parameter(&address, "state").unwrap();
        let done = browser.get(&format!("/oauth/callback?{}", encode(&[("state", &state), ("code", "c")])));
        assert_eq!(done.status, 303, "{}", done.text());
        let code = parameter(&onward(&done).unwrap(), "code").unwrap();
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", "editor"),
            ("code", &code),
            ("redirect_uri", BACK),
            ("code_verifier", VERIFIER),
        ];
        let ask = self.gate.stranger().request("POST", "/oauth/token").with("Host", HOST);
        let ask = ask.line("Content-Type", "application/x-www-form-urlencoded").body(encode(&form));
        let answer = ask.send();
        assert_eq!(answer.outcome(), 200, "{}", answer.text());
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    fn shows(&self, token: &str) -> i64 {
        let client = self.gate.bearer(token.to_owned());
        let params = r#""name":"echo","arguments":{}"#;
        client.modern("/mcp/a", "tools/call", params).with("Host", HOST).send().outcome()
    }
}

/// Whoever is signed in is vouched for to the gate as the machine, and so is the question which groups they are in.
#[test]
fn tp_01_people_are_signed_in_and_looked_up_as_the_machine_which_is_shown_to_the_tenant_alone() {
    let scene = Scene::start();
    let token = scene.token();
    assert_eq!(scene.shows(&token), 200, "with the groups that Graph has");
    let forms = scene.tenant.forms();
    let of = |grant: &str| forms.iter().filter(|form| form.contains(&format!("grant_type={grant}"))).count();
    assert_eq!((of("authorization_code"), of("client_credentials")), (1, 1), "{forms:?}");
    assert_eq!(scene.platform.given(), [FEDERATION], "one token does for its life");
    for heard in scene.up.heard() {
        assert!(!Platform::is_told(&heard.lines()) && !Platform::is_told(&heard.body));
    }
    assert!(!Platform::is_told(&scene.gate.log()));
}

/// The exemption is for one address that the environment names: whatever a request names, the platform hears nothing of it.
#[test]
fn cd_03_no_request_has_a_say_in_where_the_machines_identity_is_asked_for() {
    let scene = Scene::start();
    let (connections, heard) = (scene.platform.connections(), scene.platform.heard().len());
    let port = scene.platform.origin().rsplit(':').next().unwrap().to_owned();
    let query = "msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net";
    for place in [
        format!("http://127.0.0.1:{port}"),
        format!("https://127.0.0.1:{port}"),
        format!("https://localhost:{port}"),
        format!("https://[::ffff:127.0.0.1]:{port}"),
        format!("https://2130706433:{port}"),
        "http://169.254.169.254".to_owned(),
        "https://169.254.169.254".to_owned(),
        "https://[::ffff:169.254.169.254]".to_owned(),
        "https://168.63.129.16".to_owned(),
    ] {
        let id = format!("{place}/{query}");
        let answer = scene.browser().get(&Scene::query(&[("client_id", &id)]));
        assert!(answer.status == 400 && onward(&answer).is_none(), "{id}: {}", answer.text());
        assert!(!Platform::is_told(&answer.text()), "{}", answer.text());
        let resource = scene.browser().get(&Scene::query(&[("resource", &id)]));
        assert!(!Platform::is_told(&resource.text()), "{}", resource.text());
    }
    assert_eq!(scene.platform.connections(), connections, "nobody came");
    assert_eq!(scene.platform.heard().len(), heard);
    // The honest neighbour, whose ID token says that their groups are to be had from the platform: nobody asks there.
    assert_eq!(scene.shows(&scene.token()), 200);
    assert_eq!(scene.platform.heard().len(), heard);
}

/// What is no token of the platform's, in whatever way, leaves the gate without an identity: it does not start, says so, and
/// repeats nothing of what it got.
#[test]
fn tp_01_a_platform_that_gives_no_token_leaves_the_gate_shut() {
    let ((tenant, _), up, canary) =
        (tenant(), Upstream::modern(|_, _| false), Upstream::modern(|_, _| false));
    let config = config(&tenant, &up);
    let body = |of: Value| of.to_string();
    let answer = |status: &'static str, body: String| Fault::Answer(status, String::new(), body);
    let token = body(json!({ "access_token": Platform::token("leaked"), "expires_on": "4102444800" }));
    let to_canary = format!("Location: {}/msi/token\r\n", canary.origin());
    for (what, fault) in [
        ("not found", answer("404 Not Found", token.clone())),
        ("too many", answer("429 Too Many Requests", token.clone())),
        ("broken", answer("500 Internal Server Error", token.clone())),
        ("elsewhere", Fault::Answer("302 Found", to_canary, token.clone())),
        ("no JSON", answer("200 OK", "<html>machine-token-for-html</html>".to_owned())),
        ("nothing", answer("200 OK", body(json!({ "token_type": "Bearer" })))),
        ("empty", answer("200 OK", body(json!({ "access_token": "", "expires_on": "4102444800" })))),
        ("endless", answer("200 OK", body(json!({ "access_token": "x".repeat(100_000) })))),
        ("silent", Fault::Silence),
    ] {
        let platform = Platform::faulty(fault);
        let environment = platform.environment();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (code, said) = refusal_with(&config, &environment);
        assert!(code.is_some_and(|code| code != 0), "{what}: {said}");
        assert!(said.contains("managed identity"), "{what}: {said}");
        assert!(!Platform::is_told(&said), "{what}: {said}");
        assert!(!platform.heard().is_empty(), "{what}");
    }
    assert_eq!(canary.connections(), 0, "no redirect is followed");
    // Another mark, another identity: the platform knows nobody like that.
    let platform = Platform::start();
    let place = platform.environment()[0].1.clone();
    let (_, said) = refusal_with(&config, &[("IDENTITY_ENDPOINT", &place), ("IDENTITY_HEADER", "guessed")]);
    assert!(said.contains("managed identity") && said.contains("401") && !said.contains("guessed"), "{said}");
    let environment = platform.environment();
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (_, said) = refusal_with(&config.replace("\"ours\"", "\"theirs\""), &environment);
    assert!(said.contains("managed identity") && said.contains("400"), "{said}");
    // The environment may name this machine or what is beside it, nothing else.
    for place in
        ["http://10.0.0.1/msi/token", "https://127.0.0.1/msi/token", "http://u:p@127.0.0.1/msi/token", "x"]
    {
        let (code, said) =
            refusal_with(&config, &[("IDENTITY_ENDPOINT", place), ("IDENTITY_HEADER", "mark")]);
        assert!(code.is_some_and(|code| code != 0) && !said.contains("u:p@"), "{place}: {said}");
    }
    assert!(platform.given().is_empty());
    assert!(tenant.forms().is_empty(), "nobody was asked for anything without an identity");
}
