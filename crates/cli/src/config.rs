//! `bartizan.toml`.

pub mod admin;
pub mod alerts;
pub mod audit;
pub mod content;
pub mod keys;
mod part;
mod reading;
pub mod respond;
mod secret;
mod servers;
pub mod witness;

pub use part::{load_audit, load_shield};
pub use secret::Given;
pub use servers::{EraPin, MayAsk, Upstream, UpstreamTls};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bartizan_egress::TlsOptions;
use bartizan_gateway::limits::{HTTP2_IDLE, WRITE_WAIT};
use bartizan_model::ServerName;
use bartizan_oauth::outbound::CredentialConfig;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    endpoints,
    identity::{EndpointConfig, IdentityConfig},
};

/// The configuration of a gate.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where and how to listen.
    pub server: ServerConfig,
    /// Who may come in.
    pub identity: IdentityConfig,
    /// What wraps the keys that seal the store.
    pub keys: keys::KeysConfig,
    /// Where secrets are fetched.
    #[serde(skip_serializing_if = "keys::VaultsConfig::is_empty")]
    pub vaults: keys::VaultsConfig,
    /// How to go out.
    pub egress: EgressConfig,
    /// How much anybody may ask for.
    pub limits: bartizan_policy::limits::LimitsConfig,
    /// Who may do what.
    pub policy: bartizan_policy::PolicyConfig,
    /// What to do about injections, secrets and poisoned definitions.
    pub shield: bartizan_shield::Config,
    /// What is done with the record of what happened.
    pub audit: audit::AuditConfig,
    /// What to raise an alarm about, and what to do at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<alerts::Alert>,
    /// Who may act at the admin listener.
    #[serde(skip_serializing_if = "admin::AdminConfig::is_default")]
    pub admin: admin::AdminConfig,
    /// What `bartizan respond` can do beyond the gate.
    #[serde(skip_serializing_if = "respond::RespondConfig::is_default")]
    pub respond: respond::RespondConfig,
    /// The MCP servers behind the gate.
    pub servers: Vec<Upstream>,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port to listen on. Off loopback it needs `tls` or `trusted_proxies`.
    pub listen: SocketAddr,
    /// Address and port of the admin listener, which serves `/metrics`, and the API of `[admin] url`; 127.0.0.1:8788 by
    /// default. Off loopback it needs `tls`, and whoever reads `/metrics` the local token or a role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<SocketAddr>,
    /// The URL clients use, where it differs from `listen`: `https://mcp.example.com`.
    #[schemars(with = "Option<String>")]
    pub public_url: Option<Url>,
    /// Serve HTTPS with these PEM files; they are read again when they change.
    pub tls: Option<TlsFiles>,
    /// Networks of proxies that end TLS in front of this gate. Nobody else may then connect.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// Believe those proxies about client certificates too (`Client-Cert`, RFC 9440). They must take that header out of what
    /// clients send them.
    pub client_certs_from_proxies: bool,
    /// More values of `Host` this gate answers to: `mcp.example.com`, `gate.internal:8787`.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call: `https://chat.example.com`.
    pub allowed_origins: Vec<String>,
    /// How long a client may take nothing of an answer that waits for it, in seconds, 1 to 3600. Then its connection is closed,
    /// or of HTTP/2 the stream.
    pub write_timeout_s: u64,
    /// How long an HTTP/2 connection may stay on which nothing is under way, in seconds, 1 to 3600.
    pub idle_timeout_s: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8787)),
            admin_listen: None,
            public_url: None,
            tls: None,
            trusted_proxies: Vec::new(),
            client_certs_from_proxies: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            write_timeout_s: WRITE_WAIT.as_secs(),
            idle_timeout_s: HTTP2_IDLE.as_secs(),
        }
    }
}

/// A certificate chain and its key.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The chain, leaf first (PEM).
    pub cert: PathBuf,
    /// The private key (PEM).
    pub key: PathBuf,
    /// Authorities whose client certificates are asked for and verified (PEM): for tokens that are bound to one (RFC 8705).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// `[egress]`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EgressConfig {
    /// Networks that may be connected to whatever the rules say: for trials whose peers live on loopback.
    #[schemars(with = "Vec<String>")]
    pub dangerous_allow: Vec<IpNet>,
    /// An HTTP proxy through which every connection to a server goes.
    #[schemars(with = "Option<String>")]
    pub proxy: Option<Url>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct Problems {
    shown: String,
    found: Vec<String>,
}

impl Problems {
    /// Those of the configuration that is `shown` so.
    pub fn new(shown: impl Into<String>, found: Vec<String>) -> Self {
        Self { shown: shown.into(), found }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used:", self.shown)?;
        self.found.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}

/// A configuration and where it came from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Its file; `None` for the embedded default.
    pub path: Option<PathBuf>,
}

impl Loaded {
    /// The file's name, for people.
    pub fn shown(&self) -> String {
        self.path.as_ref().map_or_else(|| "the embedded default".into(), |p| p.display().to_string())
    }
}

/// Reads and checks a configuration; without a file, the embedded default.
///
/// # Errors
/// [`Problems`], all at once.
pub fn load(path: Option<&Path>) -> Result<Loaded, Problems> {
    let Some(path) = path else {
        let problem = |e: bartizan_model::InvalidServerName| Problems {
            shown: "the embedded default".into(),
            found: vec![e.to_string()],
        };
        return Ok(Loaded { config: embedded("sample".parse().map_err(problem)?), path: None });
    };
    let shown = path.display().to_string();
    let one = |problem: String| Problems { shown: shown.clone(), found: vec![problem] };
    let text = std::fs::read_to_string(path).map_err(|error| one(format!("it cannot be read: {error}")))?;
    let config = reading::read(&text).map_err(|found| Problems::new(&shown, found))?;
    let found = config.problems();
    if found.is_empty() {
        Ok(Loaded { config, path: Some(path.to_owned()) })
    } else {
        Err(Problems { shown, found })
    }
}

/// Where in `text` what is wrong, without what stands there: it may be a secret that belongs elsewhere, and a gate that reads its
/// configuration again says this in its log.
fn misread(mut error: toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map(|before| {
        let (line, column) = before
            .rsplit_once('\n')
            .map_or((1, before), |(lines, rest)| (lines.matches('\n').count() + 2, rest));
        format!("line {line}, column {}: ", column.chars().count() + 1)
    });
    // It would print the line otherwise; without it, it names the field.
    error.set_input(None);
    let words = without_value(&error.to_string());
    format!("{}{}", place.unwrap_or_default(), words.trim_end().replace('\n', "\n    "))
}

/// What serde says, without the text that it found.
fn without_value(words: &str) -> String {
    let hide = |begins: &str| {
        let (head, rest) = words.split_once(begins)?;
        let (_, expected) = rest.rsplit_once("\", expected ")?;
        Some(format!("{head}{}, expected {expected}", begins.trim_end_matches(" \"")))
    };
    ["invalid type: string \"", "invalid value: string \""]
        .into_iter()
        .find_map(hide)
        .unwrap_or_else(|| words.to_owned())
}

/// What `bartizan run` serves without a file: the sample server, on loopback.
fn embedded(name: ServerName) -> Config {
    let sample = Upstream {
        name,
        command: Some(vec![crate::sample::OWN_BINARY.into(), crate::sample::ARGUMENT.into()]),
        url: None,
        era: EraPin::Auto,
        shared: false,
        env: Vec::new(),
        set_env: BTreeMap::new(),
        cwd: None,
        trust: bartizan_shield::Trust::Untrusted,
        second_opinions: Vec::new(),
        app_hosts: None,
        trust_on_first_use: true,
        pin_resources: false,
        dangerous_unpinned: false,
        dangerous_unvalidated: false,
        dangerous_unshielded: false,
        dangerous_any_program: false,
        allow_methods: Vec::new(),
        may_ask: BTreeSet::new(),
        tls: UpstreamTls::default(),
        credential: CredentialConfig::None,
        dangerous_plaintext: false,
        endpoint: EndpointConfig::default(),
    };
    Config { servers: vec![sample], ..Config::default() }
}

impl Config {
    /// What no single field shows.
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let listen = self.server.listen;
        if !listen.ip().is_loopback() {
            if self.server.tls.is_none() && self.server.trusted_proxies.is_empty() {
                found.push(format!(
                    "[server] listen = \"{listen}\" is reachable from other machines without TLS: set `tls = {{ cert, key }}`, \
                     or `trusted_proxies` if a proxy in front ends TLS, or listen on 127.0.0.1"
                ));
            }
            if self.identity.dangerous_open {
                found.push(
                    "[identity] dangerous_open is for loopback only: listen on 127.0.0.1, or remove it"
                        .into(),
                );
            }
            if listen.ip().is_unspecified()
                && self.server.public_url.is_none()
                && self.server.allowed_hosts.is_empty()
            {
                found.push("[server] needs `public_url` or `allowed_hosts`: the gate must know by which names it is called".into());
            }
        }
        found.extend(self.identity_problems());
        if let Some(admin) = self.server.admin_listen {
            if !admin.ip().is_loopback() && self.server.tls.is_none() {
                found.push(format!(
                    "[server] admin_listen = \"{admin}\" is reachable from other machines without TLS: set `tls = {{ cert, key }}`, or listen on 127.0.0.1"
                ));
            }
            if admin == listen && admin.port() != 0 {
                found.push(
                    "[server] admin_listen must not be `listen`: what clients reach is no place for it"
                        .into(),
                );
            }
        }
        if self
            .server
            .public_url
            .as_ref()
            .is_some_and(|u| !matches!(u.scheme(), "http" | "https") || u.host_str().is_none())
        {
            found.push("[server] public_url must be an http or https URL".into());
        }
        let (write, idle) = (self.server.write_timeout_s, self.server.idle_timeout_s);
        for (name, seconds) in [("write_timeout_s", write), ("idle_timeout_s", idle)] {
            if !(1..=3600).contains(&seconds) {
                found.push(format!("[server] {name} is 1 to 3600"));
            }
        }
        for origin in &self.server.allowed_origins {
            let is_origin = Url::parse(origin).is_ok_and(|u| u.origin().ascii_serialization() == *origin);
            if !is_origin {
                found.push(format!("[server] allowed_origins: `{origin}` is no origin; write scheme://host[:port] and nothing more"));
            }
        }
        found.extend(keys::problems(&self.keys, &self.vaults));
        found.extend(crate::secrets::address_problems(self));
        found.extend(self.audit.problems());
        found.extend(self.admin.problems(self));
        found.extend(alerts::problems(&self.alerts));
        let limits = &self.limits;
        if let Some(place) = &limits.shared
            && let Err(problem) = bartizan_gateway::quota::Place::parse(place, TlsOptions::default())
        {
            found.push(format!("[limits] shared: {problem}"));
        }
        let needs_shared =
            limits.shared_password_file.is_some() || limits.shared_ca.is_some() || limits.dangerous_fail_open;
        if limits.shared.is_none() && needs_shared {
            found.push(
                "[limits] shared_password_file, shared_ca and dangerous_fail_open are for `shared`".into(),
            );
        }
        if self.servers.is_empty() {
            found.push("there are no [[servers]]: add one with `name` and `command` or `url`".into());
        }
        let mut names = BTreeSet::new();
        for server in &self.servers {
            if !names.insert(&server.name) {
                found.push(format!("two [[servers]] are named `{}`", server.name));
            }
            found.extend(server.problems());
            if server.credential.takes_sign_ins() && endpoints::provider(self).is_none() {
                found.push(format!(
                    "server `{}`: credential: `entra-obo` needs `app`, the gate's registration in the tenant, unless [identity] is of \
                     mode \"facade\" with a provider of kind \"entra\"",
                    server.name
                ));
            }
            if server.credential.takes_subjects() && self.identity.dangerous_open {
                found.push(format!(
                    "server `{}`: credential: it is had in exchange for the caller's access token, and with [identity] \
                     dangerous_open nobody has one",
                    server.name
                ));
            }
            if server.dangerous_unshielded && !server.second_opinions.is_empty() {
                let second = "second_opinions are part of the shield, which dangerous_unshielded leaves out";
                found.push(format!("server `{}`: {second}: remove one of the two", server.name));
            }
            for name in server.second_opinions.iter().filter(|n| !self.shield.second_opinion.contains_key(*n))
            {
                found.push(format!(
                    "server `{}`: second_opinions: there is no [shield.second_opinion.{name}]",
                    server.name
                ));
            }
        }
        found.extend(self.shield_problems());
        found
    }
}

impl Config {
    /// What works and is still not as it should be.
    pub fn warnings(&self) -> Vec<String> {
        let mut uses: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for server in &self.servers {
            let shown = server.credential.secrets().into_iter();
            let set = server.set_env.values().filter_map(Given::kept);
            for place in shown.chain(set) {
                uses.entry(place.place()).or_default().insert(server.name.as_str());
            }
        }
        let shared = uses.into_iter().filter(|(_, servers)| servers.len() > 1);
        let shared = shared.map(|(place, servers)| {
            let names = servers.into_iter().collect::<Vec<_>>().join("`, `");
            format!(
                "the servers `{names}` get one secret, from {place}: each can act as the gate at the other; give each its \
                 own"
            )
        });
        let of_parts = self.audit.warnings(&self.servers).into_iter().chain(self.policy.warnings());
        shared.chain(of_parts).chain(self.review_warning()).collect()
    }

    /// That reviews of rights look further back than the log is kept, if they do.
    fn review_warning(&self) -> Option<String> {
        let (review, keeps) = self.policy.review.as_ref().zip(self.audit.keeps())?;
        (review.since.0 > keeps).then(|| {
            format!(
                "[policy.review] looks {} back, and [audit] keep_days keeps less: rights that were used before that look \
                 unused; set `since` to no more than `keep_days`",
                review.since
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bartizan.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path)).err().map(|p| p.found).unwrap_or_default()
    }

    const GOOD: &str = "[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n";

    #[test]
    fn reports_every_problem_at_once() {
        assert_eq!(problems(GOOD), Vec::<String>::new());
        let found = problems(
            "[server]\nlisten = \"0.0.0.0:8787\"\nallowed_origins = [\"https://a/b\"]\n[identity]\ndangerous_open = true\n\
             [[servers]]\nname = \"a\"\n[[servers]]\nname = \"a\"\ncommand = []\n[[servers]]\nname = \"b\"\nurl = \"http://h/\"\nshared = true\n",
        );
        assert_eq!(found.len(), 8, "{found:#?}");
    }

    #[test]
    fn limits_are_shared_on_this_machine_or_by_tls() {
        let found = |limits: &str| problems(&format!("[limits]\n{limits}\n{GOOD}"));
        assert_eq!(found("shared = \"redis://127.0.0.1\"\ntool = { per_minute = 60 }"), Vec::<String>::new());
        assert!(found("shared = \"redis://redis.example\"")[0].contains("rediss://"));
        assert!(found("dangerous_fail_open = true")[0].contains("are for `shared`"));
        assert!(found("tool = { per_minute = 0 }")[0].contains("nonzero"));
    }

    #[test]
    fn the_log_is_kept_as_long_as_is_said() {
        let found = problems(&format!("[audit]\nkeep_days = 0\n{GOOD}"));
        assert!(found[0].contains("nonzero"), "{found:?}");
        let of = |audit: &str| toml::from_str::<Config>(&format!("{audit}{GOOD}")).unwrap();
        let options = of("").audit.options();
        assert_eq!((options.keep_for, options.keep_bytes), (None, None));

        let config = of("[audit]\nkeep_days = 30\nkeep_mib = 512\n\
             [[audit.export]]\nname = \"siem\"\nkind = \"file\"\npath = \"out.jsonl\"\n\
             [policy.review]\nevery = \"30d\"\n");
        let options = config.audit.options();
        assert_eq!(options.keep_for, Some(std::time::Duration::from_secs(30 * 86_400)));
        assert_eq!(options.keep_bytes, Some(512 * 1024 * 1024));
        assert_eq!(options.needed_by, ["siem"]);
        let warnings = config.warnings();
        assert!(warnings.iter().any(|warning| warning.contains("look unused")), "{warnings:?}");
    }

    /// Whoever writes a secret where it does not belong is told so, and does not find it in a log.
    #[test]
    fn what_is_wrong_is_told_by_its_place_and_not_by_what_stands_there() {
        let opinion = "[shield.second_opinion.azure]\nkind = \"azure-prompt-shields\"\nendpoint = \"https://x.example\"\n";
        let server = "[[servers]]\nname = \"a\"\nurl = \"http://127.0.0.1:1/\"\n";
        for (text, said) in [
            (format!("{opinion}key = \"hunter2\"\n{GOOD}"), "a secret does not stand here"),
            (
                format!("{server}credential = {{ kind = \"secret\", value = \"hunter2\" }}\n"),
                "a secret does not stand here",
            ),
            (format!("{GOOD}\u{fc} = \"hunter2\n"), "line 4, column"),
            (format!("{GOOD}password = \"hunter2\"\n"), "password"),
            (format!("{GOOD}shared = \"hunter2"), "line 4, column"),
        ] {
            let found = problems(&text);
            assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
            assert!(!found[0].contains("hunter2"), "{found:?}");
        }
    }

    #[test]
    fn unknown_keys_and_bad_names_are_errors() {
        assert!(problems(&format!("{GOOD}frobnicate = 1\n"))[0].contains("frobnicate"));
        assert!(problems("[[servers]]\nname = \"Big\"\ncommand = [\"x\"]\n")[0].contains("1 to 32"));
        assert!(problems("[serve]\n")[0].contains("serve"));
        for name in ["write_timeout_s", "idle_timeout_s"] {
            assert!(problems(&format!("[server]\n{name} = 0\n{GOOD}"))[0].contains(name));
            assert!(problems(&format!("[server]\n{name} = 4000\n{GOOD}"))[0].contains(name));
        }
    }

    #[test]
    fn one_secret_for_two_servers_is_worth_a_warning() {
        let server = |name: &str, secret: &str| {
            format!(
                "[[servers]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:1/\"\ncredential = {{ kind = \"secret\", value = \
                 {{ file = \"{secret}\" }} }}\n"
            )
        };
        let warnings = |text: &str| toml::from_str::<Config>(text).unwrap().warnings();
        assert_eq!(warnings(&format!("{}{}", server("a", "one"), server("b", "two"))), Vec::<String>::new());
        let found = warnings(&format!("{}{}", server("a", "one"), server("b", "one")));
        assert!(found.len() == 1 && found[0].contains("`a`, `b`"), "{found:?}");
        let command =
            "[[servers]]\nname = \"c\"\ncommand = [\"x\"]\nset_env = { KEY = { file = \"one\" } }\n";
        assert_eq!(warnings(&format!("{}{command}", server("a", "one"))).len(), 1);
    }

    #[test]
    fn a_role_that_nobody_has_releases_nothing_and_is_worth_a_warning() {
        let warnings = |field: &str, role: &str| {
            let text = format!(
                "[policy]\n{field} = \"{role}\"\n[policy.roles.readers]\ngroups = [\"readers\"]\n{GOOD}"
            );
            toml::from_str::<Config>(&text).unwrap().warnings()
        };
        for field in ["release_role", "hold_role"] {
            assert_eq!(warnings(field, "readers"), Vec::<String>::new());
            let found = warnings(field, "raeders");
            let words = format!("[policy] {field}: nobody has");
            assert!(found.len() == 1 && found[0].starts_with(&words), "{found:?}");
        }
    }

    #[test]
    fn sign_in_is_checked_before_the_gate_starts() {
        let facade = "[server]\npublic_url = \"https://mcp.example\"\n[identity]\nmode = \"facade\"\n";
        let provider = "[identity.provider]\nkind = \"oidc\"\nissuer = \"https://id.example\"\nclient_id = \"gate\"\n\
                        credential = { method = \"client_secret_basic\", secret = { env = \"S\" } }\n";
        let good = format!("{facade}{provider}");
        assert_eq!(problems(&format!("{good}{GOOD}")), Vec::<String>::new());
        let only = |text: &str, word: &str| {
            let found = problems(&format!("{text}{GOOD}"));
            assert!(found.len() == 1 && found[0].contains(word), "`{word}` once: {found:#?}");
        };
        only(&format!("{good}recheck = {{ by = \"userinfo\", grace_s = 100000 }}\n"), "recheck.grace_s");
        only(&good.replace("\"gate\"", "\"\""), "client_id");
        only(facade, "needs [identity.provider]");
        let browsers = |line: &str| format!("[identity.browsers]\n{line}\n");
        // Without [identity], the mode is `local`.
        for mode in [good.as_str(), ""] {
            only(&format!("{mode}{}", browsers("decision_max_age_s = 0")), "decision_max_age_s");
            only(&format!("{mode}{}", browsers("idle_timeout_s = 0")), "idle_timeout_s");
        }
        for name in ["decision_methods", "decision_contexts"] {
            let values = |values: &str| browsers(&format!("{name} = {values}"));
            assert_eq!(problems(&format!("{good}{}{GOOD}", values("[\"mfa\"]"))), Vec::<String>::new());
            only(&format!("{good}{}", values("[\"mfa\", \"\"]")), &format!("{name} holds an empty value"));
            only(&values("[\"mfa\"]"), "need an identity provider");
            only(&format!("{facade}{}", values("[\"mfa\"]")), "needs [identity.provider]");
        }
    }

    #[test]
    fn a_credential_is_for_urls_and_in_a_header_of_its_own() {
        let problems = |more: &str, credential: &str| {
            problems(&format!("[[servers]]\nname = \"a\"\n{more}\ncredential = {credential}\n"))
        };
        let url = "url = \"http://127.0.0.1:1/\"";
        let secret = |more: &str| format!("{{ kind = \"secret\", value = {{ env = \"X\" }}{more} }}");
        assert_eq!(problems(url, &secret(", header = \"X-Api-Key\"")), Vec::<String>::new());
        assert_eq!(problems(url, "{ kind = \"none\" }"), Vec::<String>::new());
        assert_eq!(problems("command = [\"x\"]", &secret("")).len(), 1);
        for header in ["Host", "mcp-session-id", "Transfer-Encoding", "a b", "x\\r\\ny"] {
            assert_eq!(problems(url, &secret(&format!(", header = \"{header}\""))).len(), 1, "{header}");
        }
        assert_eq!(problems(url, &secret(", scheme = \"two words\"")).len(), 1);
        assert!(!problems(url, &secret(", value_text = \"s\"")).is_empty(), "unknown keys are errors");
    }

    #[test]
    fn a_second_opinion_is_named_whole_and_its_key_is_a_reference() {
        let opinion = "[shield.second_opinion.azure]\nkind = \"azure-prompt-shields\"\nendpoint = \"https://x.example\"\n";
        let key = "key = { env = \"K\" }\n";
        let server = format!("{GOOD}second_opinions = [\"azure\"]\n");
        assert_eq!(problems(&format!("{opinion}{key}{server}")), Vec::<String>::new());
        assert!(problems(&server)[0].contains("there is no [shield.second_opinion.azure]"));
        assert!(problems(&format!("{opinion}{server}"))[0].contains("needs a `key`"));
        assert!(!problems(&format!("{opinion}key = \"in the clear\"\n{server}")).is_empty());
        let nowhere = opinion.replace("https://x.example", "nowhere");
        assert!(problems(&format!("{nowhere}{key}{server}"))[0].contains("no URL"));
    }

    #[test]
    fn a_key_pin_is_whole_and_for_https() {
        let found = |url: &str, pin: &str| {
            problems(&format!("[[servers]]\nname = \"a\"\nurl = \"{url}\"\ntls = {{ pin = [\"{pin}\"] }}\n"))
        };
        let good = format!("sha256//{}", STANDARD.encode([7; 32]));
        assert_eq!(found("https://mcp.example", &good), Vec::<String>::new());
        assert!(found("http://127.0.0.1:1", &good)[0].contains("https"));
        for bad in ["", "sha256//AAAA", good.trim_start_matches("sha256//"), &good.replace("256", "512")] {
            assert!(found("https://mcp.example", bad)[0].contains("tls.pin"), "{bad}");
        }
    }

    #[test]
    fn the_embedded_default_is_good_and_reads_back() {
        let config = load(None).unwrap().config;
        assert_eq!(config.problems(), Vec::<String>::new());
        let again: Config = toml::from_str(&toml::to_string_pretty(&config).unwrap()).unwrap();
        assert_eq!(again.servers.len(), config.servers.len());
    }
}
