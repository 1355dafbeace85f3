//! `[respond]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[respond]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RespondConfig {
    /// A program and its first arguments that rotates one secret: `bartizan respond compromise` starts it for each secret that
    /// a compromised server held, with the server's name and the secret's place (`env:NAME`, `file:PATH`) as two more
    /// arguments. No shell reads it. It must put the new value in its place and end with 0.
    pub rotate: Vec<String>,
}

impl RespondConfig {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
