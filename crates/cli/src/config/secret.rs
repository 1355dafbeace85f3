//! Where a secret is kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value, or where it is kept.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum SecretRef {
    /// The value itself; not for secrets.
    Text(String),
    /// In one of our environment variables.
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

impl SecretRef {
    /// Where a secret is kept, in words; `None` for a text that stands in the configuration itself.
    pub fn place(&self) -> Option<String> {
        match self {
            Self::Text(_) => None,
            Self::Env { env } => Some(format!("the environment variable {env}")),
            Self::File { file } => Some(format!("the file {}", file.display())),
            Self::Vault { vault } => Some(format!("the vault's secret {vault}")),
            Self::AzureKv { azure_kv } => Some(format!("the secret {azure_kv} of Azure Key Vault")),
            Self::Hashicorp { hashicorp } => Some(format!("the secret {hashicorp} of HashiCorp Vault")),
        }
    }
}

impl From<&bartizan_shield::opinion::KeyRef> for SecretRef {
    fn from(key: &bartizan_shield::opinion::KeyRef) -> Self {
        match key.clone() {
            bartizan_shield::opinion::KeyRef::Env { env } => Self::Env { env },
            bartizan_shield::opinion::KeyRef::File { file } => Self::File { file },
            bartizan_shield::opinion::KeyRef::Vault { vault } => Self::Vault { vault },
            bartizan_shield::opinion::KeyRef::AzureKv { azure_kv } => Self::AzureKv { azure_kv },
            bartizan_shield::opinion::KeyRef::Hashicorp { hashicorp } => Self::Hashicorp { hashicorp },
        }
    }
}
