//! A gate that is an authorization server (`mode = "facade"`): a provider behind it, browsers and clients in front.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use url::{Url, form_urlencoded};

use crate::{Answer, Browser, Client, Gate, Idp, Upstream, browser, issuers_of};

/// What browsers and clients know the gate by. A proxy would end its TLS.
pub const PUBLIC: &str = "https://gate.example";
const HOST: &str = "gate.example";
/// The redirect URI of most clients here.
pub const BACK: &str = "https://c.example/cb";
/// RFC 7636, appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// The S256 challenge of [`VERIFIER`].
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// The secret of the clients that have one.
pub const SECRET: &str = "secret-of-a-confidential-client";

/// The clients of most trials: two public ones that share a redirect URI, and a confidential one.
const CLIENTS: &str = r#"
[[identity.clients]]
id = "editor"
name = "The Editor"
redirect_uris = ["https://c.example/cb", "http://127.0.0.1/cb"]

[[identity.clients]]
id = "other"
name = "The Other"
redirect_uris = ["https://c.example/cb", "https://c.example/elsewhere"]

[[identity.clients]]
id = "server"
name = "The Server"
redirect_uris = ["https://s.example/cb"]
secret = { env = "CLIENT_SECRET" }
grants = ["authorization_code", "refresh_token", "client_credentials", "token_exchange", "jwt_bearer"]
introspects = true
"#;

/// The stage: a gate in front of two servers, `a` and `b`.
pub struct Facade {
    /// The gate.
    pub gate: Gate,
    /// Who signs people in.
    pub idp: Idp,
    /// The server at `/mcp/a`.
    pub a: Upstream,
    /// The server at `/mcp/b`.
    pub b: Upstream,
    config: String,
}

impl Facade {
    /// The usual stage.
    pub fn start() -> Self {
        Self::with("", "")
    }

    /// With more keys of `[identity]`, and more tables at the end.
    pub fn with(identity: &str, tables: &str) -> Self {
        Self::on(Idp::start(7), identity, tables, &[])
    }

    /// With this provider, and more variables in the gate's environment.
    pub fn on(idp: Idp, identity: &str, tables: &str, environment: &[(&str, &str)]) -> Self {
        let (a, b) = (Upstream::modern(|_, _| false), Upstream::modern(|_, _| false));
        let server = |upstream: &Upstream, name| upstream.config(name, "required_scopes = [\"mcp:read\"]");
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\npublic_url = \"{PUBLIC}\"\n\
             trusted_proxies = [\"127.0.0.1/32\"]\n\
             [identity]\nmode = \"facade\"\n\
             scopes = {{ \"mcp:read\" = \"read\", \"mcp:write\" = \"write\", \"mcp:admin\" = \"rule\" }}\n{identity}\n\
             {}[identity.merged]\nrequired_scopes = [\"mcp:read\"]\n{CLIENTS}\n\
             [policy.roles.people]\ngroups = [\"people\"]\n{}[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n\
             {}{}{tables}\n",
            idp.config(),
            issuers_of(&format!("{}{tables}", idp.config())),
            server(&a, "a"),
            server(&b, "b"),
        );
        let own = [("IDP_SECRET", "the-gates-secret-at-the-provider"), ("CLIENT_SECRET", SECRET)];
        let gate = Gate::start_with(&config, &[&own, environment].concat());
        Self { gate, idp, a, b, config }
    }

    /// The configuration the gate was started with.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// The URL of an endpoint.
    pub fn resource(name: &str) -> String {
        format!("{PUBLIC}/mcp/{name}")
    }

    /// Somebody's browser, without cookies.
    pub fn browser(&self) -> Browser {
        Browser::new(self.gate.stranger(), HOST)
    }

    /// A good authorization request of `editor`'s for `/mcp/a`, with changes; an empty value takes a parameter out.
    pub fn query(changes: &[(&str, &str)]) -> String {
        let resource = Self::resource("a");
        let usual = [
            ("response_type", "code"),
            ("client_id", "editor"),
            ("redirect_uri", BACK),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("resource", resource.as_str()),
            ("scope", "mcp:read mcp:write"),
            ("state", "the clients own"),
        ];
        format!("/oauth/authorize?{}", encode(&change(&usual, changes)))
    }

    /// Asks, and presses a button of the consent page.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn decide(&self, browser: &mut Browser, changes: &[(&str, &str)], decision: &str) -> Answer {
        let page = browser.get(&Self::query(changes));
        assert_eq!(page.status, 200, "{}", page.text());
        let form = browser::field(&page, "form").expect("it is a consent page");
        browser.post("/oauth/consent", &[("form", &form), ("decision", decision)])
    }

    /// Asks and allows; the answer is where the provider would be visited.
    ///
    /// # Panics
    /// If that is not where the browser goes.
    pub fn allow(&self, browser: &mut Browser, changes: &[(&str, &str)]) -> String {
        let gone = self.decide(browser, changes, "allow");
        let address = browser::onward(&gone).expect("it goes on");
        assert!(address.starts_with(&self.idp.name()), "{address}");
        address
    }

    /// `subject` allows a request in this browser and signs in; the answer is where the client gets it.
    ///
    /// # Panics
    /// If nothing is granted.
    pub fn grant(&self, browser: &mut Browser, subject: &str, changes: &[(&str, &str)]) -> String {
        let address = self.allow(browser, changes);
        let done = browser.get(&self.idp.sign_in(&address, subject));
        assert_eq!(done.status, 303, "{}", done.text());
        browser::onward(&done).expect("it goes on")
    }

    /// A code that `subject` granted in a browser of their own.
    ///
    /// # Panics
    /// If there is none.
    pub fn code(&self, subject: &str, changes: &[(&str, &str)]) -> String {
        let location = self.grant(&mut self.browser(), subject, changes);
        parameter(&location, "code").expect("the client gets a code")
    }

    /// Sends a form to an endpoint that clients call, with more header lines.
    pub fn post(&self, path: &str, lines: &[(&str, &str)], form: &[(&str, &str)]) -> Answer {
        let ask = self
            .client()
            .request("POST", path)
            .with("Host", HOST)
            .line("Content-Type", "application/x-www-form-urlencoded")
            .body(encode(form));
        lines.iter().fold(ask, |ask, (name, value)| ask.line(name, value)).send()
    }

    /// Asks for a token.
    pub fn token(&self, form: &[(&str, &str)]) -> Answer {
        self.post("/oauth/token", &[], form)
    }

    /// Asks for a token as the confidential client.
    pub fn token_of_server(&self, form: &[(&str, &str)]) -> Answer {
        self.post("/oauth/token", &[("Authorization", &basic("server", SECRET))], form)
    }

    /// Redeems a code as `editor`, with changes to a good form.
    pub fn redeem(&self, code: &str, changes: &[(&str, &str)]) -> Answer {
        let usual = [
            ("grant_type", "authorization_code"),
            ("client_id", "editor"),
            ("code", code),
            ("redirect_uri", BACK),
            ("code_verifier", VERIFIER),
        ];
        self.token(&change(&usual, changes))
    }

    /// Refreshes as `editor`, with changes to a good form.
    pub fn refresh(&self, token: &str, changes: &[(&str, &str)]) -> Answer {
        let usual = [("grant_type", "refresh_token"), ("client_id", "editor"), ("refresh_token", token)];
        self.token(&change(&usual, changes))
    }

    /// Access and refresh token of `editor`'s for `subject`.
    ///
    /// # Panics
    /// If there are none.
    pub fn tokens(&self, subject: &str) -> (String, String) {
        let answer = self.redeem(&self.code(subject, &[]), &[]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        (member(&answer, "access_token"), member(&answer, "refresh_token"))
    }

    /// The status of a call of the server at `/mcp/{name}` with an access token.
    pub fn shows(&self, name: &str, token: &str) -> i64 {
        let client = self.gate.bearer(token.to_owned());
        let path = format!("/mcp/{name}");
        client
            .modern(&path, "tools/call", r#""name":"echo","arguments":{}"#)
            .with("Host", HOST)
            .send()
            .outcome()
    }

    /// Calls that reached a server.
    pub fn executed(&self) -> usize {
        self.a.heard_of("tools/call").len() + self.b.heard_of("tools/call").len()
    }

    /// Asserts that an honest person is let in by an honest client, and served.
    pub fn serves(&self) {
        let (access, refresh) = self.tokens("honest");
        let before = self.executed();
        assert_eq!(self.shows("a", &access), 200, "the honest client is served");
        assert_eq!(self.executed(), before + 1);
        assert_eq!(self.refresh(&refresh, &[]).status, 200, "and goes on");
    }

    fn client(&self) -> Client {
        self.gate.stranger()
    }
}

fn member(answer: &Answer, name: &str) -> String {
    answer.json().get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Parameters as a form.
pub fn encode(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// `pairs` with those of `changes` in the place of theirs; an empty value takes one out.
pub fn change<'a>(pairs: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = pairs.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes.iter().filter(|(_, value)| !value.is_empty())).copied().collect()
}

/// `Authorization: Basic` (RFC 6749 §2.3.1).
pub fn basic(id: &str, secret: &str) -> String {
    let part = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", part(id), part(secret))))
}

/// A query parameter of an address.
pub fn parameter(address: &str, name: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
