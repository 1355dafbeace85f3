//! `[shield.second_opinion.NAME]`

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A service that judges texts too. It is asked for servers that name it in `second_opinions`; what it is sent leaves
/// the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecondOpinion {
    /// Which contract it keeps.
    pub kind: OpinionKind,
    /// Where it is. For Azure the resource's endpoint, `https://NAME.cognitiveservices.azure.com`; for a judge the whole
    /// address of its chat completions.
    pub endpoint: String,
    /// Its key: `{ env = "NAME" }` or `{ file = "path" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyRef>,
    /// Instead of a key, tokens of the identity that Azure manages for this machine; it needs the role *Cognitive Services User*.
    #[serde(default)]
    pub managed_identity: bool,
    /// The client id of that identity, for a machine that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_client_id: Option<String>,
    /// The key is an access token (Microsoft Entra ID), not a subscription key.
    #[serde(default)]
    pub bearer: bool,
    /// The model of a judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// From which severity on content is found by `azure-text-analyze`: 2, 4 or 6.
    #[serde(default = "four")]
    pub threshold: u8,
    /// Blocklists that `azure-text-analyze` compares with.
    #[serde(default)]
    pub blocklists: Vec<String>,
    /// How long one question may take, in milliseconds.
    #[serde(default = "one_second")]
    pub timeout_ms: u64,
    /// How long everything about one message may take, in milliseconds.
    #[serde(default = "five_seconds")]
    pub budget_ms: u64,
    /// Let messages pass on which no opinion can be had.
    #[serde(default)]
    pub dangerous_fail_open: bool,
}

/// Which contract a service keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OpinionKind {
    /// Azure AI Content Safety, Prompt Shields.
    AzurePromptShields,
    /// Azure AI Content Safety, `text:analyze`.
    AzureTextAnalyze,
    /// A model behind an OpenAI-compatible chat endpoint.
    OpenaiJudge,
}

/// Where a key is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum KeyRef {
    /// In an environment variable.
    Env {
        /// Its name.
        env: String,
    },
    /// In a file; a line end at its end does not count.
    File {
        /// Its path.
        file: PathBuf,
    },
    /// In the gate's own vault; put there by `bartizan secrets set`.
    Vault {
        /// Its name.
        vault: String,
    },
    /// In Azure Key Vault, see `[vaults.azure]`.
    AzureKv {
        /// `NAME`, or `NAME/VERSION`.
        azure_kv: String,
    },
    /// In HashiCorp Vault's key/value engine (version 2), see `[vaults.hashicorp]`.
    Hashicorp {
        /// `MOUNT/PATH#FIELD`
        hashicorp: String,
    },
}

fn four() -> u8 {
    4
}

fn one_second() -> u64 {
    1000
}

fn five_seconds() -> u64 {
    5000
}

impl SecondOpinion {
    /// The address that questions are posted to (attacks.md §2.1).
    pub fn url(&self) -> String {
        let base = self.endpoint.trim_end_matches('/');
        match self.kind {
            OpinionKind::AzurePromptShields => {
                format!("{base}/contentsafety/text:shieldPrompt?api-version=2024-09-01")
            }
            OpinionKind::AzureTextAnalyze => {
                format!("{base}/contentsafety/text:analyze?api-version=2024-09-01")
            }
            OpinionKind::OpenaiJudge => self.endpoint.clone(),
        }
    }

    /// What no single field shows.
    pub fn problems(&self) -> Vec<&'static str> {
        let is_azure = self.kind != OpinionKind::OpenaiJudge;
        let mut found = Vec::new();
        if is_azure && self.key.is_none() && !self.managed_identity {
            found.push("needs a `key`, or `managed_identity = true`");
        }
        if self.managed_identity && (self.key.is_some() || self.bearer) {
            found.push("`managed_identity` stands in the place of `key` and `bearer`: leave them out");
        }
        if self.managed_identity && !is_azure {
            found.push("`managed_identity` is for Azure's services");
        }
        if self.identity_client_id.is_some() && !self.managed_identity {
            found.push("`identity_client_id` is for `managed_identity = true`");
        }
        if !is_azure && self.model.as_ref().is_none_or(String::is_empty) {
            found.push("needs a `model`");
        }
        if is_azure && self.model.is_some() {
            found.push("has no `model` to choose");
        }
        if !matches!(self.threshold, 2 | 4 | 6) {
            found.push("`threshold` must be 2, 4 or 6");
        }
        if !(10..=60_000).contains(&self.timeout_ms) || !(self.timeout_ms..=120_000).contains(&self.budget_ms)
        {
            found.push("`timeout_ms` must be 10 to 60000, and `budget_ms` from there to 120000");
        }
        found
    }
}
