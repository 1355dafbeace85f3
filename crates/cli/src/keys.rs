//! `[keys]`: the root key, and the file of keys it wraps; `bartizan keys`.

mod azure;
mod command;
#[cfg(feature = "keyring")]
mod keyring;
mod pkcs11;
mod wire;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use bartizan_egress::TlsOptions;
use bartizan_model::{Clock, SystemClock};
use bartizan_store::{
    FileRoot, KEY, KeyBytes, KeyFile, KeysError, OsEntropy, RootError, RootKey, Sealer,
    root::{
        azure::{Algorithm, AzureKey, AzureRoot},
        transit::{TransitKey, TransitRoot},
    },
};
use tokio::sync::OnceCell;
use url::Url;

pub use azure::tokens as azure_tokens;
pub use command::{KeysCommand, keys};
pub use wire::EgressWire;

use crate::{
    config::{
        Config,
        keys::{Provider, WrapAlgorithm},
    },
    endpoints,
};

/// How often a running gate looks whether the key file has changed.
pub const LOOK: Duration = Duration::from_secs(2);

/// The root key's name where none is set.
const NAME: &str = "bartizan";

/// The keys of a state folder.
pub struct Keys {
    /// Their file.
    pub file: KeyFile,
    /// What seals by them.
    pub sealer: Arc<Sealer>,
}

/// Keys that are opened when they are first asked for.
pub type LazyKeys = Arc<OnceCell<Keys>>;

impl Keys {
    /// The keys of the state folder `folder`, as `config` wraps them; made if there are none.
    pub async fn open(config: &Config, base: &Path, folder: &Path) -> anyhow::Result<Self> {
        let file = file(config, base, folder)?;
        let contents = file.open(earlier(folder, file.path())?).await?;
        let sealer = Arc::new(Sealer::of(&contents, Arc::new(OsEntropy))?);
        Ok(Self { file, sealer })
    }
}

/// Where the key file of the state folder `folder` is.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("keys.json")
}

/// The key file of the state folder `folder`, as `config` wraps it.
pub fn file(config: &Config, base: &Path, folder: &Path) -> anyhow::Result<KeyFile> {
    let root = root(config, base, folder).context("[keys]")?;
    Ok(KeyFile::new(&path(folder), root, Arc::new(OsEntropy)))
}

/// The key of versions without a key file, which sealed with `seal.key` itself.
fn earlier(folder: &Path, file: &Path) -> anyhow::Result<Option<KeyBytes>> {
    let path = folder.join("seal.key");
    if file.exists() || !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let key: Option<[u8; KEY]> = bytes.try_into().ok();
    Ok(key.map(KeyBytes::new))
}

/// The root key that `config` names.
fn root(config: &Config, base: &Path, folder: &Path) -> anyhow::Result<Arc<dyn RootKey>> {
    let keys = &config.keys;
    let name = keys.key.clone().unwrap_or_else(|| NAME.to_owned());
    Ok(match keys.provider {
        Provider::File => Arc::new(FileRoot::new(&folder.join("seal.key"), Arc::new(OsEntropy))),
        #[cfg(feature = "keyring")]
        Provider::Keyring => Arc::new(keyring::KeyringRoot::new(folder, &name)?),
        #[cfg(not(feature = "keyring"))]
        Provider::Keyring => anyhow::bail!(
            "this build knows no keyring: build it with its default features, or choose another provider"
        ),
        Provider::Pkcs11 => {
            let settings = keys.pkcs11.as_ref().context("`pkcs11` is missing")?;
            let pin = settings.pin.read(base).context("pkcs11.pin")?;
            Arc::new(pkcs11::Pkcs11Root::new(base.join(&settings.module), settings.token.clone(), name, pin))
        }
        Provider::AzureKeyVault => {
            let azure = config.vaults.azure.as_ref().context("[vaults.azure] is missing")?;
            let algorithm = match keys.algorithm {
                WrapAlgorithm::RsaOaep256 => Algorithm::RsaOaep256,
                WrapAlgorithm::A256Kw => Algorithm::A256Kw,
            };
            let key = AzureKey { vault: trimmed(&azure.url), key: name, algorithm };
            let wire = Arc::new(EgressWire::new(endpoints::egress(config), tls(base, azure.ca.as_deref())));
            Arc::new(AzureRoot::new(key, azure_tokens(config, base)?, wire))
        }
        Provider::HashicorpTransit => {
            let vault = config.vaults.hashicorp.as_ref().context("[vaults.hashicorp] is missing")?;
            let key = TransitKey {
                address: trimmed(&vault.url),
                mount: keys.mount.clone().unwrap_or_else(|| "transit".to_owned()),
                key: name,
                namespace: vault.namespace.clone(),
            };
            let (token, base_of_token) = (vault.token.clone(), base.to_owned());
            let token = Arc::new(move || {
                token.read(&base_of_token).map_err(|error| format!("[vaults.hashicorp] token: {error:#}"))
            });
            let wire = Arc::new(EgressWire::new(endpoints::egress(config), tls(base, vault.ca.as_deref())));
            Arc::new(TransitRoot::new(key, token, wire))
        }
    })
}

/// A URL without a slash at its end.
pub fn trimmed(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// TLS that trusts `ca` instead of the system's authorities.
pub fn tls(base: &Path, ca: Option<&Path>) -> TlsOptions {
    TlsOptions { ca: ca.map(|ca| base.join(ca)), ..TlsOptions::default() }
}

/// Keeps a running gate's keys as the file and the provider have them, for as long as the future lives: what another process
/// changed is adopted within seconds, and without the provider's consent nothing opens.
pub async fn watch(keys: &Keys, recheck: Duration, away: Duration) {
    let mut ticks = tokio::time::interval(LOOK);
    // What was read before this began may be older than the file is by now.
    let mut stamp = None;
    let mut good = Instant::now();
    let mut checked = Instant::now();
    loop {
        ticks.tick().await;
        let now = keys.file.stamp();
        if now == stamp && checked.elapsed() < recheck && !keys.sealer.is_locked() {
            continue;
        }
        checked = Instant::now();
        let read = match keys.file.read().await {
            Ok(contents) if contents.has_expired(SystemClock.now()) => {
                keys.file.change(SystemClock.now(), |_, _| {}).await
            }
            other => other,
        };
        match read.map_err(Trouble::from).and_then(|contents| {
            keys.sealer.adopt(&contents).map_err(|error| Trouble::Refused(error.to_string()))
        }) {
            Ok(()) => {
                if stamp.is_some() && now != stamp {
                    tracing::info!("the keys have changed");
                }
                // Of before it was read: a change since then is seen the next time.
                (stamp, good) = (now, Instant::now());
            }
            Err(Trouble::Away(error)) if good.elapsed() < away => {
                tracing::warn!(error, "the key provider is away; going on with the keys in memory");
            }
            Err(Trouble::Away(error) | Trouble::Refused(error)) => {
                if !keys.sealer.is_locked() {
                    tracing::error!(error, "the keys may not be used any more: nothing opens until they may");
                }
                keys.sealer.lock();
            }
        }
    }
}

/// Why the keys are not at hand.
enum Trouble {
    Away(String),
    Refused(String),
}

impl From<KeysError> for Trouble {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Root(RootError::Away(_)) => Self::Away(error.to_string()),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// Runs something that blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RootError> + Send + 'static,
) -> Result<T, RootError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RootError::Away(anyhow!(error).to_string()))?
}
