//! `bartizan.toml`.

pub mod admin;
pub mod alerts;
pub mod audit;
pub mod content;
pub mod keys;
mod mistakes;
mod part;
mod reading;
pub mod respond;
mod secret;
mod servers;
pub mod witness;

pub use part::{load_audit, load_shield};
pub use secret::Given;
pub use servers::{EraPin, MayAsk, Sandbox, SandboxNetwork, Upstream, UpstreamTls};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bartizan_gateway::limits::{HTTP2_IDLE, WRITE_WAIT};
use bartizan_model::ServerName;
use bartizan_oauth::outbound::CredentialConfig;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    identity::{EndpointConfig, IdentityConfig},
    state::STATE_FOLDER,
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
    let mut found = config.problems();
    let base = crate::run::base_of(Some(path));
    for server in &config.servers {
        let sandbox = server
            .sandbox
            .as_ref()
            .map(|sandbox| sandbox.confinement(&base, &base.join(STATE_FOLDER), server.cwd.as_deref()));
        let problem = match sandbox {
            Some(Ok(confinement)) if names(&confinement, path) => Some(format!(
                "sandbox: it would reach this file, `{}`, which says what the gate starts; name other files",
                path.display()
            )),
            Some(Err(problem)) => Some(format!("{problem:#}")),
            _ => None,
        };
        found.extend(problem.map(|problem| format!("server `{}`: {problem}", server.name)));
    }
    if found.is_empty() {
        Ok(Loaded { config, path: Some(path.to_owned()) })
    } else {
        Err(Problems { shown, found })
    }
}

/// Whether a confinement names `file` itself.
fn names(confinement: &bartizan_sandbox::Confinement, file: &Path) -> bool {
    let real = file.canonicalize().ok();
    confinement.read.iter().chain(&confinement.write).any(|path| path.canonicalize().ok() == real)
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
        // Where the kernel can; it is our own program.
        sandbox: bartizan_sandbox::can_confine().is_ok().then(Sandbox::default),
        allow_methods: Vec::new(),
        may_ask: BTreeSet::new(),
        tls: UpstreamTls::default(),
        credential: CredentialConfig::None,
        dangerous_plaintext: false,
        endpoint: EndpointConfig::default(),
    };
    Config { servers: vec![sample], ..Config::default() }
}

#[cfg(test)]
mod tests;
