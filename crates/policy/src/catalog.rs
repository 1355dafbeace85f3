//! What is known of servers and tools: the pinned definitions and the operator's labels, never what a server says
//! today.

use std::collections::{BTreeMap, BTreeSet};

use bartizan_model::ServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far the operator trusts a server.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// The organisation's own, and it holds nothing private: its tools carry no label.
    Trusted,
    /// The organisation's own data: its tools read private data.
    Internal,
    /// A stranger's: its tools return text nobody vouches for, and what they are told leaves the house.
    #[default]
    Untrusted,
}

impl Trust {
    /// The word in configuration and policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Internal => "internal",
            Self::Untrusted => "untrusted",
        }
    }

    /// The labels of a tool that nobody labelled.
    pub fn default_labels(self) -> FlowLabels {
        match self {
            Self::Trusted => FlowLabels::default(),
            Self::Internal => FlowLabels { reads_private: true, ..FlowLabels::default() },
            Self::Untrusted => FlowLabels { sees_untrusted: true, sends_out: true, ..FlowLabels::default() },
        }
    }
}

/// What a call of a tool does to the flow of information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlowLabels {
    /// Its answer may hold text that a stranger wrote.
    pub sees_untrusted: bool,
    /// Its answer may hold private data.
    pub reads_private: bool,
    /// What it is told can reach somebody outside.
    pub sends_out: bool,
    /// It can destroy or change something.
    pub destructive: bool,
}

impl FlowLabels {
    /// What either does.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            sees_untrusted: self.sees_untrusted || other.sees_untrusted,
            reads_private: self.reads_private || other.reads_private,
            sends_out: self.sends_out || other.sends_out,
            destructive: self.destructive || other.destructive,
        }
    }
}

/// What a tool's pinned definition says of itself; a hint, never a reason to permit (attacks.md EP-07).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hints {
    /// `readOnlyHint`, false if absent.
    pub read_only: bool,
    /// `destructiveHint`, false if absent.
    pub destructive: bool,
    /// `idempotentHint`
    pub idempotent: bool,
    /// `openWorldHint`
    pub open_world: bool,
}

/// One pinned tool.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its description, as pinned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its JSON input schema, as pinned.
    #[serde(default)]
    pub input_schema: serde_json::Value,
    /// The operator's flow labels; without, the server's trust decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<FlowLabels>,
    /// The operator's own labels, for policies to speak of.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// The pinned annotations.
    #[serde(default)]
    pub hints: Hints,
}

/// One pinned prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prompt {
    /// The names of its arguments, as pinned; each is a text. True for those that it needs.
    pub arguments: BTreeMap<String, bool>,
}

/// One server as the operator describes it, with its pinned tools and prompts by name.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// How far it is trusted.
    #[serde(default)]
    pub trust: Trust,
    /// The operator's own labels.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// The pinned and approved tools. A tool that is not here cannot be called.
    #[serde(default)]
    pub tools: BTreeMap<String, Tool>,
    /// The pinned and approved prompts. Nothing is known of the arguments of others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, Prompt>,
}

/// Every server of the gate.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Catalog(pub BTreeMap<ServerName, Server>);

impl Catalog {
    /// Every pinned prompt.
    pub(crate) fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.0.values().flat_map(|server| server.prompts.values())
    }

    /// Every pinned tool with its server.
    pub fn tools(&self) -> impl Iterator<Item = (&ServerName, &Server, &str, &Tool)> {
        self.0.iter().flat_map(|(name, server)| {
            server.tools.iter().map(move |(tool, facts)| (name, server, tool.as_str(), facts))
        })
    }
}
