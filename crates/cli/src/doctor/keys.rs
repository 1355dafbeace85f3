//! The keys that seal the store, and the secrets that vaults keep.

use std::path::Path;

use bartizan_store::{KeysError, RootError};

use super::Check;
use crate::{
    config::{
        Config,
        keys::{KeysConfig, Provider},
    },
    keys, secrets,
    state::{NoState, State},
};

/// Looks at both. Nobody outside is asked if `offline`.
pub async fn checks(config: &Config, base: &Path, state: &State, offline: bool) -> Vec<Check> {
    let mut found = vec![provider(&config.keys)];
    let is_far = matches!(config.keys.provider, Provider::AzureKeyVault | Provider::HashicorpTransit);
    if offline && is_far {
        found.push(Check::unknown("keys.open", "the provider is not asked", "run it without --offline"));
    } else {
        found.extend(open(config, base, state).await);
    }
    if !offline {
        found.push(fetched(config, base, state).await);
    }
    found
}

fn provider(keys: &KeysConfig) -> Check {
    let id = "keys.provider";
    match keys.provider {
        Provider::File => Check::pass(
            id,
            "the root key is a file of this machine, yours alone; keep keys.json and seal.key apart from copies of the database",
        ),
        Provider::Keyring => Check::pass(id, "the root key is in the desktop's keyring"),
        Provider::Pkcs11 => Check::pass(id, "the root key is on a PKCS#11 token and does not leave it"),
        Provider::AzureKeyVault => {
            Check::pass(id, "the root key is in Azure Key Vault and does not leave it")
        }
        Provider::HashicorpTransit => {
            Check::pass(id, "the root key is in Vault's transit engine and does not leave it")
        }
    }
}

async fn open(config: &Config, base: &Path, state: &State) -> Vec<Check> {
    let id = "keys.open";
    let file = match keys::file(config, base, state.folder()) {
        Ok(file) => file,
        Err(error) => return vec![Check::fail(id, format!("{error:#}"), "see docs/keys.md")],
    };
    match file.read().await {
        Err(KeysError::Missing(_)) => vec![match state.whole() {
            Err(lost) if !lost.is::<NoState>() => Check::fail(id, lost.to_string(), "see docs/keys.md"),
            _ => Check::pass(id, "there are no keys yet; the first start makes them"),
        }],
        Err(error @ KeysError::Root(RootError::Away(_))) => {
            vec![Check::fail(id, error.to_string(), "the gate does not start without its keys")]
        }
        Err(error) => vec![Check::fail(id, error.to_string(), "see `bartizan keys status` and docs/keys.md")],
        Ok(keys) => {
            let mut found = vec![Check::pass(id, format!("{} opens", file.path().display()))];
            if keys.rotating().is_some() {
                found.push(Check::warn(
                    "keys.rotation",
                    "a rotation was begun and not finished",
                    "run `bartizan keys rotate` to finish it",
                ));
            }
            found
        }
    }
}

async fn fetched(config: &Config, base: &Path, state: &State) -> Check {
    let id = "secrets.vaults";
    match secrets::prepare(config, base, state).await {
        Ok(fetched) => {
            fetched.adopt();
            Check::pass(id, "every secret that a vault keeps can be had")
        }
        Err(error) => Check::fail(id, format!("{error:#}"), "the gate does not start without it"),
    }
}
