//! Where a secret is kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a secret is kept. It never stands in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a secret does not stand here: write { env = \"NAME\" }, { file = \"PATH\" } or { vault = \"NAME\" }"
)]
pub enum SecretRef {
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
    /// An assertion of the identity that Azure manages for this machine. It stands in no configuration: it is what
    /// `method = "managed_identity"` reads.
    #[serde(skip)]
    ManagedIdentity {
        /// Which identity, where the machine has several.
        client_id: Option<String>,
    },
}

impl SecretRef {
    /// Where it is kept, in words.
    pub fn place(&self) -> String {
        match self {
            Self::Env { env } => format!("the environment variable {env}"),
            Self::File { file } => format!("the file {}", file.display()),
            Self::Vault { vault } => format!("the vault's secret {vault}"),
            Self::AzureKv { azure_kv } => format!("the secret {azure_kv} of Azure Key Vault"),
            Self::Hashicorp { hashicorp } => format!("the secret {hashicorp} of HashiCorp Vault"),
            Self::ManagedIdentity { .. } => "the managed identity of this machine".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_exactly_one_place() {
        let read = |text: &str| serde_json::from_str::<SecretRef>(text);
        assert_eq!(read(r#"{"env":"KEY"}"#).unwrap(), SecretRef::Env { env: "KEY".to_owned() });
        assert_eq!(read(r#"{"file":"a/b"}"#).unwrap().place(), "the file a/b");
        for bad in
            [r#""s3cret""#, r#"{"env":"KEY","file":"a"}"#, r#"{"client_id":null}"#, "{}", r#"{"key":"x"}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
