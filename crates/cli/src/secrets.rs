//! Where secrets are read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use async_trait::async_trait;
use bartizan_model::Secret;
use bartizan_oauth::{SecretRef, outbound::Secrets, signin::ReadSecret};

use crate::config;

/// Secrets in files and in our environment. Relative paths start at `base`.
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
    let text = match from {
        SecretRef::Env { env } => {
            std::env::var(env).with_context(|| format!("the environment variable {env} is not set"))?
        }
        SecretRef::File { file } => {
            let path = base.join(file);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
    };
    Ok(Secret::new(text))
}

impl config::SecretRef {
    /// The value.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(&self, base: &Path) -> anyhow::Result<Secret> {
        let from = match self {
            Self::Text(text) => return Ok(Secret::new(text.clone())),
            Self::Env { env } => SecretRef::Env { env: env.clone() },
            Self::File { file } => SecretRef::File { file: file.clone() },
        };
        read(&from, base)
    }
}
