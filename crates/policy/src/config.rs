//! `[policy]` in `bartizan.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Catalog, FlowLabels, Grant, Roles, flow::WINDOW};

/// `[policy]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The folder with Cedar files (`*.cedar`), beside the configuration file unless absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Roles, and who has them.
    pub roles: Roles,
    /// Templates given to roles.
    pub grants: Vec<Grant>,
    /// Labels, by server and tool: `[policy.tools.mail.send]`.
    pub tools: BTreeMap<String, BTreeMap<String, ToolLabels>>,
    /// Information flow.
    pub flow: FlowConfig,
}

/// What the operator says of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ToolLabels {
    /// What a call does to the flow of information; without, the server's trust decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<FlowLabels>,
    /// Labels for policies to speak of.
    pub labels: BTreeSet<String>,
}

/// `[policy.flow]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlowConfig {
    /// For how many seconds what has entered counts.
    pub window_s: u64,
    /// Applications whose own conversation ids are believed; each conversation then has a window of its own.
    pub conversations: BTreeSet<String>,
    /// Leave out the rule that keeps a stranger's text and private data from going out together.
    pub dangerous_no_rule: bool,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self { window_s: WINDOW.as_secs(), conversations: BTreeSet::new(), dangerous_no_rule: false }
    }
}

impl FlowConfig {
    /// See `window_s`.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.window_s)
    }
}

impl PolicyConfig {
    /// Puts the operator's labels on the pinned tools. What is not pinned is passed over.
    pub fn label(&self, catalog: &mut Catalog) {
        for (name, server) in &mut catalog.0 {
            for (tool, labels) in self.tools.get(name.as_str()).into_iter().flatten() {
                if let Some(tool) = server.tools.get_mut(tool) {
                    tool.flow = labels.flow.or(tool.flow);
                    tool.labels.extend(labels.labels.iter().cloned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_roles_grants_and_labels_and_refuses_unknown_keys() {
        let text = "dir = \"policies\"\n[roles.reader]\ngroups = [\"g\"]\n[[grants]]\ntemplate = \"reader\"\nrole = \"reader\"\n\
                    [tools.mail.send]\nflow = { sends_out = true, destructive = true }\nlabels = [\"x\"]\n[flow]\nwindow_s = 60\n";
        let config: PolicyConfig = toml::from_str(text).unwrap();
        let mut catalog = crate::scene::catalog();
        config.label(&mut catalog);
        let send = &catalog.0["mail"].tools["send"];
        assert!(send.flow.unwrap().destructive && send.labels.contains("x"));
        assert_eq!(config.flow.window(), Duration::from_secs(60));
        assert_eq!(toml::from_str::<PolicyConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(toml::from_str::<PolicyConfig>("directory = \"x\"").is_err());
    }
}
