//! Where secrets are read: environment, files, our own vault, other people's.
//!
//! What has to be fetched is fetched before it is needed ([`prepare`], [`Prepared::adopt`]) and again from time to time ([`watch`]);
//! whoever needs a secret reads it here at once, and never waits for a vault.

mod command;
mod erase;
mod fetch;
mod typed;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use bartizan_model::{Secret, SecretRef};
use bartizan_oauth::{outbound::Secrets, signin::ReadSecret};

pub use command::{SecretsCommand, secrets, versions};
pub use fetch::{Prepared, address_problems, prepare, watch};

use crate::config;

/// A secret that is kept by a vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Remote {
    /// `{ vault = "NAME" }`
    Vault(String),
    /// `{ azure_kv = "NAME" }`
    Azure(String),
    /// `{ hashicorp = "MOUNT/PATH#FIELD" }`
    Hashicorp(String),
    /// `method = "managed_identity"`, with the identity's client id
    Identity(Option<String>),
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vault(name) => write!(f, "the vault's secret {name}"),
            Self::Azure(name) => write!(f, "the secret {name} of Azure Key Vault"),
            Self::Hashicorp(address) => write!(f, "the secret {address} of HashiCorp Vault"),
            Self::Identity(None) => f.write_str("the managed identity of this machine"),
            Self::Identity(Some(client)) => write!(f, "the managed identity {client} of this machine"),
        }
    }
}

/// What was fetched, or why it was not. A process has one configuration, and so one of these.
static FETCHED: LazyLock<Mutex<HashMap<Remote, Result<Secret, String>>>> = LazyLock::new(Mutex::default);

fn fetched() -> MutexGuard<'static, HashMap<Remote, Result<Secret, String>>> {
    FETCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Secrets of every kind. Relative paths start at `base`.
pub struct LocalSecrets {
    /// The folder of the configuration file.
    pub base: PathBuf,
}

#[async_trait]
impl Secrets for LocalSecrets {
    async fn read(&self, from: &SecretRef) -> Result<Secret, String> {
        read(from, &self.base).map_err(|error| format!("{error:#}"))
    }
}

/// Reads secrets at once, each time they are needed. Relative paths start at `base`.
pub fn reader(base: &Path) -> ReadSecret {
    let base = base.to_owned();
    Arc::new(move |from: &SecretRef| read(from, &base).map_err(|error| format!("cannot be had: {error:#}")))
}

/// The secret that `from` names. Relative paths start at `base`.
///
/// # Errors
/// Why it cannot be read.
#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
pub fn read(from: &SecretRef, base: &Path) -> anyhow::Result<Secret> {
    let remote = match from {
        SecretRef::Env { env } => {
            let text =
                std::env::var(env).with_context(|| format!("the environment variable {env} is not set"))?;
            return Ok(Secret::new(text));
        }
        SecretRef::File { file } => {
            let path = base.join(file);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            return Ok(Secret::new(text.trim_end_matches(['\n', '\r']).to_owned()));
        }
        SecretRef::Vault { vault } => Remote::Vault(vault.clone()),
        SecretRef::AzureKv { azure_kv } => Remote::Azure(azure_kv.clone()),
        SecretRef::Hashicorp { hashicorp } => Remote::Hashicorp(hashicorp.clone()),
        SecretRef::ManagedIdentity { client_id } => Remote::Identity(client_id.clone()),
    };
    if let Some(secret) = fetch::tried(&remote) {
        return Ok(secret);
    }
    match fetched().get(&remote) {
        Some(Ok(secret)) => Ok(secret.clone()),
        Some(Err(error)) => Err(anyhow!("{error}")),
        None => Err(anyhow!("{remote} was not fetched")),
    }
}

impl config::Given {
    /// The value.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(&self, base: &Path) -> anyhow::Result<Secret> {
        match self {
            Self::Text(text) => Ok(Secret::new(text.clone())),
            Self::Kept(place) => read(place, base),
        }
    }
}
