//! `provider = "keyring"`: the root key in the desktop's keyring, by the Secret Service (GNOME Keyring, KWallet, KeePassXC).
//!
//! The keyring keeps the key itself, 32 bytes for each, the newest first, and gives it to programs of whoever is signed in: it
//! is as private as the session.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use async_trait::async_trait;
use bartizan_model::Entropy;
use bartizan_store::{
    KEY, KeyBytes, OsEntropy, RootError, RootKey,
    root::{Wrapped, unwrap_by, wrap_by},
};
use keyring_core::{Entry, Error, api::CredentialStoreApi};
use zbus_secret_service_keyring_store::Store;
use zeroize::Zeroizing;

use super::blocking;

/// What our entries are listed under.
const SERVICE: &str = "bartizan";

/// The root key in the keyring, one for each state folder.
#[derive(Clone)]
pub struct KeyringRoot {
    account: Arc<str>,
}

impl KeyringRoot {
    /// The key `name` of the state folder `folder`.
    pub fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let folder = fs::canonicalize(folder).with_context(|| format!("{}", folder.display()))?;
        Ok(Self { account: format!("{name} of {}", folder.display()).into() })
    }

    fn entry(&self) -> Result<Entry, RootError> {
        let store = Store::new().map_err(failed)?;
        store.build(SERVICE, &self.account, None).map_err(failed)
    }

    /// The keys, the newest first; one is made if there is none and `make` says so.
    fn keys(&self, make: bool) -> Result<Vec<KeyBytes>, RootError> {
        let entry = self.entry()?;
        let bytes = match entry.get_secret() {
            Err(Error::NoEntry) if make => {
                let mut fresh = Zeroizing::new(vec![0; KEY]);
                OsEntropy.fill(&mut fresh);
                entry.set_secret(&fresh).map_err(failed)?;
                fresh
            }
            other => Zeroizing::new(other.map_err(failed)?),
        };
        let (keys, rest) = bytes.as_chunks::<KEY>();
        if keys.is_empty() || !rest.is_empty() {
            return Err(RootError::Wrong(format!(
                "the keyring's entry `{}` holds no key of ours",
                self.account
            )));
        }
        Ok(keys.iter().map(|key| KeyBytes::new(*key)).collect())
    }

    fn set(&self, keys: &[KeyBytes]) -> Result<(), RootError> {
        let content = Zeroizing::new(keys.iter().flat_map(|key| **key).collect::<Vec<u8>>());
        self.entry()?.set_secret(&content).map_err(failed)
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, RootError> + Send + 'static,
    ) -> Result<T, RootError> {
        let own = self.clone();
        blocking(move || work(&own)).await
    }
}

fn failed(error: Error) -> RootError {
    match error {
        Error::NoEntry => RootError::Refused("the keyring has no key of ours for this state folder".into()),
        Error::PlatformFailure(error) | Error::NoStorageAccess(error) => RootError::Away(format!(
            "no keyring answers ({error}): is this a desktop session, and the keyring unlocked? On a server use another \
             [keys] provider"
        )),
        other => RootError::Wrong(format!("the keyring: {other}")),
    }
}

#[async_trait]
impl RootKey for KeyringRoot {
    fn provider(&self) -> &'static str {
        "keyring"
    }

    async fn wrap(&self, key: &[u8; KEY]) -> Result<Wrapped, RootError> {
        let key = KeyBytes::new(*key);
        self.with(move |own| {
            let keys = own.keys(true)?;
            let newest = keys.first().ok_or_else(|| RootError::Wrong("there is no key".into()))?;
            wrap_by(newest, &key, &OsEntropy)
        })
        .await
    }

    async fn unwrap(&self, wrapped: &Wrapped) -> Result<KeyBytes, RootError> {
        let wrapped = wrapped.clone();
        self.with(move |own| unwrap_by(&own.keys(false)?, &wrapped, "the keyring")).await
    }

    async fn renew(&self) -> Result<(), RootError> {
        self.with(|own| {
            let mut keys = own.keys(true)?;
            let mut fresh = KeyBytes::new([0; KEY]);
            OsEntropy.fill(fresh.as_mut());
            keys.insert(0, fresh);
            own.set(&keys)
        })
        .await
    }

    async fn forget_older(&self) -> Result<(), RootError> {
        self.with(|own| own.set(own.keys(false)?.get(..1).unwrap_or_default())).await
    }
}
