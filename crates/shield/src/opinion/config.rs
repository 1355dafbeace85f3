//! `[shield.second_opinion.NAME]`

use bartizan_model::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::local::OnnxModel;

/// A service or model that judges texts too. It is asked for servers that name it in `second_opinions`; what a service is
/// sent leaves the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecondOpinion {
    /// Which contract it keeps.
    pub kind: OpinionKind,
    /// Where it is. For Azure the resource's endpoint, `https://NAME.cognitiveservices.azure.com`; for a judge the whole
    /// address of its chat completions. `onnx` has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Its key: `{ env = "NAME" }` or `{ file = "path" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretRef>,
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
    /// The classifier of `onnx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<OnnxModel>,
    /// How long one question may take, in milliseconds; for `onnx` one window of a text, and the wait for a turn.
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
    /// A text classifier that runs on this machine.
    Onnx,
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
    /// The address that questions are posted to (attacks.md §2.1); a model on this machine has none.
    pub fn url(&self) -> Option<String> {
        let base = self.endpoint.trim_end_matches('/');
        match self.kind {
            OpinionKind::AzurePromptShields => {
                Some(format!("{base}/contentsafety/text:shieldPrompt?api-version=2024-09-01"))
            }
            OpinionKind::AzureTextAnalyze => {
                Some(format!("{base}/contentsafety/text:analyze?api-version=2024-09-01"))
            }
            OpinionKind::OpenaiJudge => Some(self.endpoint.clone()),
            OpinionKind::Onnx => None,
        }
    }

    /// What no single field shows, and a `kind` that this build cannot run.
    pub fn problems(&self) -> Vec<String> {
        self.problems_in(cfg!(feature = "onnx"))
    }

    fn problems_in(&self, has_onnx: bool) -> Vec<String> {
        let mut found = Vec::new();
        let mut problem = |words: &str| found.push(words.to_owned());
        let is_azure = matches!(self.kind, OpinionKind::AzurePromptShields | OpinionKind::AzureTextAnalyze);
        if is_azure && self.key.is_none() && !self.managed_identity {
            problem("needs a `key`, or `managed_identity = true`");
        }
        if self.managed_identity && (self.key.is_some() || self.bearer) {
            problem("`managed_identity` stands in the place of `key` and `bearer`: leave them out");
        }
        if self.managed_identity && !is_azure {
            problem("`managed_identity` is for Azure's services");
        }
        if self.identity_client_id.is_some() && !self.managed_identity {
            problem("`identity_client_id` is for `managed_identity = true`");
        }
        if self.kind == OpinionKind::OpenaiJudge && self.model.as_ref().is_none_or(String::is_empty) {
            problem("needs a `model`");
        }
        if is_azure && self.model.is_some() {
            problem("has no `model` to choose");
        }
        if !matches!(self.threshold, 2 | 4 | 6) {
            problem("`threshold` must be 2, 4 or 6");
        }
        if !(10..=60_000).contains(&self.timeout_ms) || !(self.timeout_ms..=120_000).contains(&self.budget_ms)
        {
            problem("`timeout_ms` must be 10 to 60000, and `budget_ms` from there to 120000");
        }
        if self.kind != OpinionKind::Onnx {
            if self.endpoint.is_empty() {
                problem("needs an `endpoint`");
            }
            if self.onnx.is_some() {
                problem("`onnx` is for `kind = \"onnx\"`");
            }
            return found;
        }
        if !has_onnx {
            problem("`kind = \"onnx\"`: this build has no ONNX; build with --features onnx");
        }
        let asks_a_service = !self.endpoint.is_empty()
            || self.key.is_some()
            || self.bearer
            || self.model.is_some()
            || !self.blocklists.is_empty();
        if asks_a_service {
            problem(
                "`endpoint`, `key`, `bearer`, `model` and `blocklists` are for services; a model has `onnx`",
            );
        }
        match &self.onnx {
            Some(onnx) => found.extend(onnx.problems()),
            None => problem("needs `onnx = { model, tokenizer, labels, attack_labels }`"),
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_an_engine_refuses_models_and_nothing_else() {
        let read = |text: &str| toml::from_str::<SecondOpinion>(text).unwrap();
        let digest = "0".repeat(64);
        let model = read(&format!(
            "kind = 'onnx'\nonnx = {{ model = {{ file = 'm.onnx', sha256 = '{digest}' }}, tokenizer = {{ file = 't.json', sha256 = '{digest}' }}, \
             labels = ['a', 'b'], attack_labels = ['b'] }}"
        ));
        assert_eq!(model.problems_in(true), Vec::<String>::new());
        assert_eq!(
            model.problems_in(false),
            ["`kind = \"onnx\"`: this build has no ONNX; build with --features onnx"]
        );
        assert_eq!(model.problems(), model.problems_in(cfg!(feature = "onnx")));
        let judge = read("kind = 'openai-judge'\nendpoint = 'https://x'\nmodel = 'm'");
        assert_eq!(judge.problems_in(false), Vec::<String>::new());
    }
}
