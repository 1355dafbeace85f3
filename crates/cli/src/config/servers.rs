//! `[[servers]]`

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use bartizan_gateway::permit::Question;
use bartizan_model::ServerName;
use bartizan_oauth::outbound::CredentialConfig;
use bartizan_sandbox::{Confinement, Network};
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Given;
use crate::identity::EndpointConfig;

/// `[[servers]]`: one MCP server, by `command` or by `url`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its name in paths and merged tool names: 1 to 32 of `a-z`, `0-9` and `-`.
    #[schemars(with = "String", regex(pattern = "^[a-z0-9][a-z0-9-]{0,31}$"))]
    pub name: ServerName,
    /// The program and its arguments, for a stdio server. No shell reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The address, for a Streamable HTTP server.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// Which protocol era to speak with it.
    #[serde(default)]
    pub era: EraPin,
    /// One process for everybody, instead of one for each session or caller.
    #[serde(default)]
    pub shared: bool,
    /// Names of our own environment variables that the process may see, beside PATH, HOME, LANG and TMPDIR.
    #[serde(default)]
    pub env: Vec<String>,
    /// Variables that the process gets: a text, `{ env = "NAME" }`, `{ file = "path" }`, `{ vault = "NAME" }`, …
    #[serde(default)]
    pub set_env: BTreeMap<String, Given>,
    /// The folder the process starts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// Let the process reach nothing but the system's programs and libraries, itself, and what is named here:
    /// `{ read = ["/srv/docs"], write = [], network = "none" }`. Linux; without it, the process may do what your user may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// How far you trust what it says: own code over own data, own code over other people's text, or anybody's.
    #[serde(default)]
    pub trust: bartizan_shield::Trust,
    /// Services that judge what goes to it and comes from it too: names of `[shield.second_opinion.NAME]`.
    #[serde(default)]
    pub second_opinions: Vec<String>,
    /// Let it show apps (`ui://` pages, which the client runs), and let those reach these hosts and no others. Without a
    /// list they are withheld; an empty one lets them reach nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_hosts: Option<Vec<String>>,
    /// Approve what it defines at first sight, unless a scan finds something bad in it. Otherwise nothing of it is shown or
    /// called before `bartizan tools approve`. What changes later waits for a person either way.
    #[serde(default)]
    pub trust_on_first_use: bool,
    /// Pin entries of `resources/list` too, by URI: for servers whose resources are few and described once. One that is described
    /// otherwise than before is left out of the list until a person has looked; what is new waits, or with
    /// `trust_on_first_use` is approved whenever it comes. Without, entries are judged each time and may change.
    #[serde(default)]
    pub pin_resources: bool,
    /// Pin nothing of it: it may define and change what it likes, and nobody is told.
    #[serde(default)]
    pub dangerous_unpinned: bool,
    /// Compare neither arguments nor structured results with the schemas that were approved.
    #[serde(default)]
    pub dangerous_unvalidated: bool,
    /// Let the shield judge nothing that goes to it or comes from it but what it defines.
    #[serde(default)]
    pub dangerous_unshielded: bool,
    /// Start whatever the command runs, though its program, script or package changed since it was approved.
    #[serde(default)]
    pub dangerous_any_program: bool,
    /// Methods and notifications outside the protocol that pass all the same.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// What it may ask clients for, of those that say they can be asked: `elicitation` (forms and https addresses), `roots`,
    /// `sampling` (their model, for 100,000 tokens at most). It stands for Cedar policies; without either it may ask for
    /// nothing.
    #[serde(default)]
    pub may_ask: BTreeSet<MayAsk>,
    /// TLS towards the server: `client_cert` and `key` to show, `ca` to trust instead of the system's.
    #[serde(default)]
    pub tls: UpstreamTls,
    /// What the gate shows the server, for one with a `url`: `kind` is `none`, `secret`, `client-credentials`,
    /// `token-exchange`, `entra-obo` or `user-oauth`. What a client came with is never passed on.
    #[serde(default)]
    pub credential: CredentialConfig,
    /// Plain HTTP to another machine.
    #[serde(default)]
    pub dangerous_plaintext: bool,
    /// What access tokens must be, to be good at this server's endpoint.
    #[serde(flatten)]
    pub endpoint: EndpointConfig,
}

/// `[[servers]] may_ask`
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum MayAsk {
    /// `elicitation/create`
    Elicitation,
    /// `roots/list`
    Roots,
    /// `sampling/createMessage`
    Sampling,
}

impl From<MayAsk> for Question {
    fn from(word: MayAsk) -> Self {
        match word {
            MayAsk::Elicitation => Self::Elicitation,
            MayAsk::Roots => Self::Roots,
            MayAsk::Sampling => Self::Sampling,
        }
    }
}

/// `[[servers]] sandbox`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// Files that it may read, and folders with all that is below them.
    pub read: Vec<PathBuf>,
    /// The same, to read and to write. Nothing there can be run.
    pub write: Vec<PathBuf>,
    /// Whom it may talk to beside the gate.
    pub network: SandboxNetwork,
}

/// `[[servers]] sandbox.network`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SandboxNetwork {
    /// Nobody.
    #[default]
    None,
    /// Every address that your user reaches, this machine's own included.
    Open,
}

impl Sandbox {
    /// What the process may reach, relative paths seen from `base`, with the gate's own folder at `state` and the process's at `cwd`.
    ///
    /// # Errors
    /// What it may not.
    pub fn confinement(&self, base: &Path, state: &Path, cwd: Option<&Path>) -> anyhow::Result<Confinement> {
        let at = |paths: &[PathBuf]| -> anyhow::Result<Vec<PathBuf>> {
            paths.iter().map(|path| Ok(std::path::absolute(base.join(path))?)).collect()
        };
        let (read, write) = (at(&self.read)?, at(&self.write)?);
        let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
        // The folder may be a link, and not have been made yet. That of the user's wrapped servers is as good a find.
        let place = match (state.parent(), state.file_name()) {
            (Some(beside), Some(name)) => real(beside)?.join(name),
            _ => real(state)?,
        };
        let wrapped = crate::state::State::folder_of_user().ok().filter(|folder| folder.exists());
        let mut closed = vec![real(&place)?, place];
        closed.extend(wrapped.map(|folder| real(&folder)).transpose()?);
        closed.dedup();
        // It reads what it starts in.
        let cwd = cwd.map(|cwd| std::path::absolute(base.join(cwd))).transpose()?;
        for path in read.iter().chain(&write).chain(&cwd) {
            let named = real(path)?;
            let opened = closed.iter().find(|closed| closed.starts_with(&named) || named.starts_with(closed));
            if let Some(opened) = opened {
                anyhow::bail!(
                    "sandbox: `{}` would let it reach the gate's own keys and records in {}; name other folders, or some that are below",
                    path.display(),
                    opened.display()
                );
            }
        }
        // Servers that start later have their homes there, and would find in them what this one put.
        let homes = real(&std::env::temp_dir())?;
        for path in &write {
            if homes.starts_with(real(path)?) {
                anyhow::bail!(
                    "sandbox: `{}` would let it write {}, where the gate makes the homes of servers and keeps temporary files; name a \
                     folder in there, or start the gate with another TMPDIR",
                    path.display(),
                    homes.display()
                );
            }
        }
        let network = match self.network {
            SandboxNetwork::None => Network::None,
            SandboxNetwork::Open => Network::Open,
        };
        Ok(Confinement { read, write, network, closed })
    }
}

/// `[[servers]] era`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EraPin {
    /// Find out.
    #[default]
    Auto,
    /// 2026-07-28
    Modern,
    /// 2025-11-25 and older
    Legacy,
}

/// `[[servers]] tls`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// Our certificate chain (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// Our private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The authorities to trust (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Public keys one of which it must have, beside a good certificate: `sha256//` and the Base64 of the SHA-256 of its
    /// SubjectPublicKeyInfo, as curl's `--pinnedpubkey` takes it. Name the next key too, before it is put in use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pin: Vec<String>,
}

impl Upstream {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let name = &self.name;
        match (&self.command, &self.url) {
            (Some(command), None) if command.first().is_none_or(String::is_empty) => {
                found.push(format!("server `{name}`: `command` is empty"));
            }
            (Some(_), None) => {
                let has_tls = self.tls.client_cert.is_some()
                    || self.tls.key.is_some()
                    || self.tls.ca.is_some()
                    || !self.tls.pin.is_empty();
                if has_tls || self.dangerous_plaintext || !matches!(self.credential, CredentialConfig::None) {
                    found.push(format!(
                        "server `{name}`: `tls`, `credential` and `dangerous_plaintext` are for servers with a `url`; a command \
                         gets secrets by `set_env`"
                    ));
                }
            }
            (None, Some(_)) => {
                let has_process = self.shared || self.cwd.is_some() || self.sandbox.is_some();
                if has_process || !self.env.is_empty() || !self.set_env.is_empty() {
                    found.push(format!(
                        "server `{name}`: `shared`, `env`, `set_env`, `cwd` and `sandbox` are for servers with a `command`"
                    ));
                }
            }
            (Some(_), Some(_)) => found.push(format!("server `{name}`: set `command` or `url`, not both")),
            (None, None) => {
                found.push(format!("server `{name}`: set `command` (stdio) or `url` (Streamable HTTP)"))
            }
        }
        found.extend(self.tls.problems().into_iter().map(|problem| format!("server `{name}`: {problem}")));
        if !self.tls.pin.is_empty() && self.url.as_ref().is_some_and(|url| url.scheme() == "http") {
            found.push(format!("server `{name}`: tls.pin is for https; over http there is no key to see"));
        }
        for problem in self.credential.problems() {
            found.push(format!("server `{name}`: credential: {problem}"));
        }
        let is_variable = |n: &&String| n.is_empty() || n.contains(['=', '\0']);
        for bad in self.env.iter().chain(self.set_env.keys()).filter(is_variable) {
            found.push(format!("server `{name}`: `{bad}` is no name of an environment variable"));
        }
        found
    }
}

impl UpstreamTls {
    /// The pins that are well written; `problems` tells of the others.
    pub fn pins(&self) -> Vec<[u8; 32]> {
        self.pin.iter().filter_map(|text| pin(text)).collect()
    }

    /// What is wrong with them.
    fn problems(&self) -> Vec<String> {
        let bad = self.pin.iter().filter(|text| pin(text).is_none());
        bad.map(|text| format!("tls.pin: `{text}` is not `sha256//` and the Base64 of 32 bytes")).collect()
    }
}

/// A pin as it is written.
fn pin(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text.strip_prefix("sha256//")?).ok()?.try_into().ok()
}
