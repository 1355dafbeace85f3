//! A value, or where it is kept.

use bartizan_model::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value, or where it is kept.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Given {
    /// The value itself; not for secrets.
    Text(String),
    /// It is somewhere else.
    Kept(SecretRef),
}

impl Given {
    /// Where it is kept; `None` for a text that stands in the configuration itself.
    pub fn kept(&self) -> Option<&SecretRef> {
        match self {
            Self::Text(_) => None,
            Self::Kept(place) => Some(place),
        }
    }
}
