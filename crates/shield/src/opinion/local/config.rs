//! `[shield.second_opinion.NAME.onnx]`

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::Severity;

/// Bytes of a model.
pub const MODEL_BYTES: u64 = 1 << 30;
/// Bytes of a tokenizer.
pub const TOKENIZER_BYTES: u64 = 64 << 20;
/// Labels of a model.
const LABELS: usize = 64;

/// A text classifier that runs on this machine: a BERT-like model with the inputs `input_ids`, `attention_mask` and perhaps
/// `token_type_ids`, and one output of a number for each label. What it judges leaves the machine for nowhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnnxModel {
    /// The model, an ONNX file that holds its weights: 1 GiB at most.
    pub model: PinnedFile,
    /// Its `tokenizer.json`, as Hugging Face's tokenizers read it: 64 MiB at most.
    pub tokenizer: PinnedFile,
    /// What its outputs mean, in their order, as `id2label` of the model's `config.json` has them. A model of several labels
    /// chooses one (softmax); of one alone it says whether that is so (sigmoid).
    pub labels: Vec<String>,
    /// Which of them are attacks: their probabilities are added up.
    pub attack_labels: Vec<String>,
    /// From which probability of an attack on a text is found, and how grave; by default `{ high = 0.5 }`.
    #[serde(default)]
    pub severity_from: SeverityFrom,
    /// Tokens of one window, those included that stand around every text: 16 to 4096, and no more than the model takes.
    #[serde(default = "window")]
    pub max_tokens: u16,
}

/// A file, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Its path: a file itself, no link to one.
    pub file: PathBuf,
    /// The SHA-256 of its bytes, as 64 hexadecimal digits; other bytes are not loaded.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub sha256: String,
}

/// From which probability on a find is how grave. What is left out is not used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeverityFrom {
    /// Annotated, unless `[shield]` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<f32>,
    /// Withheld, unless `[shield]` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f32>,
    /// Withheld from the most trusted servers too, unless `[shield]` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<f32>,
}

impl Default for SeverityFrom {
    fn default() -> Self {
        Self { medium: None, high: Some(0.5), critical: None }
    }
}

impl SeverityFrom {
    /// How grave an attack of this probability is; `None` if it is no find.
    pub fn severity(&self, attack: f32) -> Option<Severity> {
        [(self.critical, Severity::Critical), (self.high, Severity::High), (self.medium, Severity::Medium)]
            .into_iter()
            .find_map(|(from, severity)| from.filter(|from| attack >= *from).map(|_| severity))
    }
}

fn window() -> u16 {
    512
}

impl OnnxModel {
    /// What is wrong with it, as far as the configuration shows.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(kind_problem("onnx.model", &self.model.file, "onnx", "an ONNX model"));
        found.extend(kind_problem("onnx.tokenizer", &self.tokenizer.file, "json", "a tokenizer.json"));
        for (field, pinned) in [("model", &self.model), ("tokenizer", &self.tokenizer)] {
            if pinned.digest().is_none() {
                found.push(format!(
                    "`onnx.{field}.sha256` is not 64 hexadecimal digits: `sha256sum FILE` prints them"
                ));
            }
        }
        let labels: BTreeSet<&String> = self.labels.iter().collect();
        if self.labels.is_empty() || self.labels.len() > LABELS || labels.len() < self.labels.len() {
            found.push(format!("`onnx.labels` must name each output of the model once, {LABELS} at most"));
        }
        if self.attack_labels.is_empty() {
            found.push("`onnx.attack_labels` must name the labels that are attacks".into());
        }
        for label in self.attack_labels.iter().filter(|label| !labels.contains(label)) {
            found.push(format!("`onnx.attack_labels`: `{label}` is none of `onnx.labels`"));
        }
        let attacks: BTreeSet<&String> = self.attack_labels.iter().collect();
        if attacks.len() < self.attack_labels.len() {
            found.push("`onnx.attack_labels` names one twice: its probability would count twice".into());
        }
        if self.labels.len() > 1 && attacks.len() == self.labels.len() {
            found.push("`onnx.attack_labels` names every label: everything would be an attack".into());
        }
        let from = &self.severity_from;
        let steps: Vec<f32> = [from.medium, from.high, from.critical].into_iter().flatten().collect();
        if steps.is_empty() || !steps.is_sorted() || !steps.iter().all(|step| *step > 0.0 && *step <= 1.0) {
            found.push(
                "`onnx.severity_from` needs probabilities above 0, up to 1, that rise from `medium` over `high` to `critical`".into(),
            );
        }
        if !(16..=4096).contains(&self.max_tokens) {
            found.push("`onnx.max_tokens` must be 16 to 4096".into());
        }
        found
    }
}

impl PinnedFile {
    /// The digest that is asked for; `None` if it is none.
    pub fn digest(&self) -> Option<[u8; 32]> {
        hex::decode(&self.sha256).ok()?.try_into().ok()
    }
}

/// What is wrong with a file of this name: a name promises a format, and some formats are programs.
fn kind_problem(field: &str, file: &Path, wanted: &str, words: &str) -> Option<String> {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    if extension == wanted {
        return None;
    }
    let shown = file.display();
    Some(match extension.as_str() {
        "bin" | "ckpt" | "dill" | "joblib" | "npy" | "npz" | "pickle" | "pkl" | "pt" | "pt2" | "pth"
        | "tar" => format!(
            "`{field}.file` is `{shown}`: pickles and archives can run code when they are opened, and are never loaded; export \
             the model to ONNX"
        ),
        _ => format!("`{field}.file` is `{shown}`, and {words} ends in `.{wanted}`"),
    })
}
