//! What is found in definitions that no gate of ours has seen: those of a lock file. They are judged as the gate would judge
//! them, by its configuration and its bundle, before anybody approves them (attacks.md PO-02).

use std::{collections::BTreeMap, path::Path};

use bartizan_gateway::{catalog, contract};
use bartizan_model::ServerName;
use bartizan_shield::{
    Catalogue, Config, Scene, Shield, Trust,
    drift::{LockFile, Locked},
    schema::Contract,
};
use bartizan_store::{
    Pins,
    pins::{Finding, Kind, PinError},
};

use crate::{bundles::judging, config, run::base_of, say_error, state::State};

/// What judges the definitions of a lock file.
pub(super) struct Scan {
    shield: Shield,
    /// How far servers are trusted, and whose schemas nobody compares with anything.
    servers: BTreeMap<ServerName, (Trust, bool)>,
}

impl Scan {
    /// The build's own rules, model and actions.
    pub(super) fn shipped() -> Self {
        Self { shield: Shield::shipped(Config::default()), servers: BTreeMap::new() }
    }

    /// As the gate with the configuration at `path` judges, whose state is `state`.
    ///
    /// # Errors
    /// The configuration has no proper `[shield]`.
    pub(super) async fn of_gate(path: Option<&Path>, state: &State) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::shipped()) };
        let loaded = config::load_shield(path)?;
        let active = judging(&loaded, &base_of(Some(path)), state, say_error).await?;
        let servers =
            loaded.servers.into_iter().map(|s| (s.name, (s.trust, s.dangerous_unvalidated))).collect();
        Ok(Self { shield: Shield::armed(loaded.shield, &active.arms), servers })
    }

    /// What every server would offer if all of `file` were approved: for look-alikes.
    pub(super) async fn catalogue(pins: &dyn Pins, file: &LockFile) -> Result<Catalogue, PinError> {
        let set = pins.snapshot().await?;
        let approved = set.all(Kind::Tool).map(|(server, name)| (server.as_str(), name));
        let is_tool = |locked: &&Locked| Kind::named(&locked.kind) == Some(Kind::Tool);
        let named = file.pins().iter().filter(is_tool);
        Ok(Catalogue::new(approved.chain(named.map(|l| (l.server.as_str(), l.definition.name())))))
    }

    /// What is found in one definition.
    pub(super) fn findings(&self, catalogue: &Catalogue, locked: &Locked) -> Vec<Finding> {
        let kind = Kind::named(&locked.kind);
        // What a server runs is no text for a model.
        if kind == Some(Kind::Identity) {
            return Vec::new();
        }
        let (trust, is_unvalidated) = self.servers.get(&locked.server).copied().unwrap_or_default();
        let scene = Scene { server: locked.server.as_str(), trust, catalogue: Some(catalogue) };
        let text = locked.definition.text();
        let mut findings = catalog::scan(&self.shield, &scene, text);
        if kind == Some(Kind::Tool) && !is_unvalidated {
            findings.extend(contract::findings(&Contract::read(text)));
        }
        findings
    }
}
