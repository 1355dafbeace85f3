//! What the operator says of a server.

use std::sync::Arc;

use bartizan_egress::Endpoint;
use bartizan_mcp::Era;
use bartizan_model::ServerName;
use bartizan_oauth::outbound::Credential;
use bartizan_sandbox::Launch;
use bartizan_shield::{Trust, drift::Identity};

use crate::upstream::scrub::Scrub;

/// How a server is reached.
#[expect(clippy::large_enum_variant, reason = "there is one for each server")]
#[derive(Clone, Debug)]
pub enum Transport {
    /// A process of ours, over its standard streams.
    Command {
        /// How it starts.
        launch: Launch,
        /// Values that its log lines must not show.
        secrets: Scrub,
    },
    /// A URL.
    Url(Endpoint),
}

/// A server's configuration.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The operator's name for it.
    pub name: ServerName,
    /// How it is reached.
    pub transport: Transport,
    /// What the gate shows it; only servers behind a URL are shown anything.
    pub credential: Option<Arc<dyn Credential>>,
    /// The era it is held to, if the operator knows better than detection.
    pub era: Option<Era>,
    /// One process for everybody.
    pub shared: bool,
    /// Methods outside the revision that pass all the same.
    pub allow_methods: Vec<String>,
    /// Who it is, for its pins.
    pub identity: Identity,
    /// What its command runs, by content, is part of who it is.
    pub watches_program: bool,
    /// What the first sight of a definition is worth.
    pub pinning: Pinning,
    /// Entries of `resources/list` are pinned too.
    pub pins_resources: bool,
    /// Arguments and structured results are compared with the approved schemas.
    pub validates: bool,
    /// What goes to it and comes from it is judged by the shield.
    pub inspects: bool,
    /// Services that are asked about what goes to it and comes from it, by name.
    pub second_opinions: Vec<String>,
    /// How far the operator trusts what it says.
    pub trust: Trust,
    /// Which hosts its apps may reach; without a list it may show none.
    pub app_hosts: Option<Vec<String>>,
    /// `bartizan wrap` guards it: commands find what is kept of it in the user's own state folder, if they are told so.
    pub is_wrapped: bool,
    /// Everything above as it was written: equal texts mean that nothing changed.
    pub fingerprint: String,
}

impl ServerSettings {
    /// The command that shows what of it waits for a person, as it is typed here.
    pub fn look_command(&self) -> String {
        let place = if self.is_wrapped { " --wrapped" } else { "" };
        format!("bartizan tools diff{place} --server {}", self.name)
    }
}

#[cfg(test)]
impl ServerSettings {
    /// The server `probe` of tests, whose command is `program` and runs `runs`.
    pub(crate) fn probe(program: &str, runs: &[&str], pinning: Pinning) -> Self {
        use bartizan_shield::drift::Run;

        let launch = Launch {
            program: program.into(),
            arguments: Vec::new(),
            folder: None,
            environment: std::collections::BTreeMap::new(),
            confinement: None,
            helper: "/nowhere".into(),
        };
        let runs = runs.iter().map(|path| Run { path: (*path).to_owned(), sha256: [0; 32] }).collect();
        Self {
            name: "probe".parse().unwrap(),
            transport: Transport::Command { launch, secrets: Scrub::default() },
            credential: None,
            era: None,
            shared: false,
            allow_methods: Vec::new(),
            identity: Identity::Command { argv: vec![program.to_owned()], package: None, runs },
            watches_program: false,
            pinning,
            pins_resources: false,
            validates: true,
            inspects: true,
            second_opinions: Vec::new(),
            trust: Trust::Untrusted,
            app_hosts: None,
            fingerprint: String::new(),
            is_wrapped: false,
        }
    }
}

/// What the first sight of a server's definitions is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Nothing: a person approves them.
    ByHand,
    /// They are approved, unless a scan finds something bad.
    FirstUse,
    /// They are not pinned at all, and may change as they like.
    DangerousNone,
}
