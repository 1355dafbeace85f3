//! The state folder: our key and the local token, ours alone.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use bartizan_audit::AuditFolder;
use bartizan_gateway::{Gate, Kept, quarantine::Ward};
use bartizan_model::{Entropy, Secret, SystemClock};
use bartizan_store::{
    Database, Keeper, OsEntropy, Sealer, StoredApprovals, StoredBundles, StoredFlows, StoredLinks,
    StoredPins, StoredProviderTokens, StoredQuarantine, StoredResponses, StoredReviews, create_once,
};

use crate::{
    config,
    keys::{Keys, LazyKeys},
    reviews::Reviewing,
};

/// The folder a configuration is in.
fn beside(config: Option<&Path>) -> &Path {
    config.and_then(Path::parent).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A state folder that exists, mode 0700.
#[derive(Clone)]
pub struct State {
    folder: PathBuf,
    /// The configuration that says what wraps its keys.
    config: Option<PathBuf>,
    keys: LazyKeys,
    recording: bartizan_audit::Options,
}

impl State {
    /// `.bartizan/` beside the configuration file, or in this folder.
    pub fn for_config(config: Option<&Path>) -> anyhow::Result<Self> {
        let state =
            Self { config: config.map(Path::to_owned), ..Self::at(beside(config).join(".bartizan"))? };
        // The folder must not end up in anybody's repository.
        create_once(&state.folder.join(".gitignore"), b"*\n").context("cannot write to the state folder")?;
        Ok(state)
    }

    /// The state folder of a gate that has run with this configuration.
    ///
    /// # Errors
    /// There is none: a new one would be no use, for no gate would know what is in it.
    pub fn of_gate(config: Option<&Path>) -> anyhow::Result<Self> {
        let folder = beside(config).join(".bartizan");
        if !folder.is_dir() {
            bail!(
                "no gate has run here: there is no {}. Say this in the folder where `bartizan run` was started, and with the same \
                 --config if it had one",
                std::path::absolute(&folder).unwrap_or(folder).display()
            );
        }
        Self::for_config(config)
    }

    /// The user's own state folder (XDG Base Directory Specification), which several `wrap`s share.
    #[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
    pub fn for_user() -> anyhow::Result<Self> {
        let xdg = std::env::var("XDG_STATE_HOME").ok().map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || {
            std::env::var("HOME").ok().filter(|h| !h.is_empty()).map(|h| Path::new(&h).join(".local/state"))
        };
        let base = xdg
            .or_else(home)
            .context("neither XDG_STATE_HOME nor HOME is set: there is no place for state")?;
        Self::at(base.join("bartizan"))
    }

    fn at(folder: PathBuf) -> anyhow::Result<Self> {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot create {}", folder.display()));
            }
            _ => {}
        }
        let about = fs::symlink_metadata(&folder)?;
        if !about.is_dir() {
            bail!("{} is not a folder", folder.display());
        }
        if about.uid() != rustix::process::geteuid().as_raw() {
            bail!("{} belongs to somebody else", folder.display());
        }
        if about.mode() & 0o077 != 0 {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        }
        let recording = bartizan_audit::Options::default();
        Ok(Self { folder, config: None, keys: LazyKeys::default(), recording })
    }

    /// The same, whose gate keeps its log in this way.
    #[must_use]
    pub fn recording(mut self, options: bartizan_audit::Options) -> Self {
        self.recording = options;
        self
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The keys, opened when they are first asked for.
    pub async fn keys(&self) -> anyhow::Result<&Keys> {
        let open = async || {
            let path = self.config.as_deref();
            let loaded = config::load(path)?;
            Keys::open(&loaded.config, &crate::run::base_of(path), &self.folder).await
        };
        self.keys.get_or_try_init(open).await.context("the keys that seal the store")
    }

    /// What handles and columns are sealed with.
    pub async fn sealer(&self) -> anyhow::Result<Arc<Sealer>> {
        Ok(Arc::clone(&self.keys().await?.sealer))
    }

    /// An audit log of this process's own, for what a command does.
    pub fn log(&self, name: &str) -> anyhow::Result<bartizan_audit::Log> {
        let folder = self.audit(Arc::new(OsEntropy))?;
        Ok(folder.start_any(name, Arc::new(SystemClock), bartizan_audit::Options::default())?.0)
    }

    /// The database, made when it is first asked for.
    pub async fn database(&self) -> anyhow::Result<Database> {
        let path = self.folder.join("store.db");
        Database::sqlite(&path).await.with_context(|| format!("cannot use {}", path.display()))
    }

    /// The pins in `database`; a file beside it notices when an older one is put in its place.
    pub async fn pins(&self, database: Database) -> anyhow::Result<StoredPins> {
        Ok(StoredPins::new(database, self.sealer().await?, Some(self.folder.join("pins.seen"))))
    }

    /// What was taken up of the shield's bundles, in `database`; a file beside it notices when an older one is put in its
    /// place.
    pub async fn bundles(&self, database: Database) -> anyhow::Result<StoredBundles> {
        Ok(StoredBundles::new(database, self.sealer().await?, Some(self.folder.join("bundles.seen"))))
    }

    /// The results in `database` that wait for a person.
    pub async fn quarantine(&self, database: Database) -> anyhow::Result<StoredQuarantine> {
        Ok(StoredQuarantine::new(database, self.sealer().await?, Arc::new(OsEntropy)))
    }

    /// Accounts that people linked, in the database.
    pub async fn links(&self) -> anyhow::Result<StoredLinks> {
        Ok(StoredLinks::new(self.database().await?, self.sealer().await?))
    }

    /// What sign-ins at the identity provider left, in the database.
    pub async fn provider_tokens(&self) -> anyhow::Result<StoredProviderTokens> {
        Ok(StoredProviderTokens::new(self.database().await?, self.sealer().await?))
    }

    /// The calls in `database` that wait for a person; what is decided there is marked with this folder's key.
    pub async fn approvals(&self, database: Database) -> anyhow::Result<StoredApprovals> {
        Ok(StoredApprovals::new(database, self.sealer().await?, Arc::new(OsEntropy)))
    }

    /// A gate without servers, over what this folder keeps.
    ///
    /// Its audit log is the first of `{log}-0`, `{log}-1` … that nobody writes: processes share the folder, never a log.
    pub async fn gate(&self, log: &str) -> anyhow::Result<Arc<Gate>> {
        let clock = Arc::new(SystemClock);
        let database = self.database().await?;
        let flows = Arc::new(StoredFlows::new(database.clone()));
        let responses = Arc::new(StoredResponses::new(database.clone()));
        let quarantine = Arc::new(self.quarantine(database.clone()).await?);
        let approvals = Arc::new(self.approvals(database.clone()).await?);
        let pins = Arc::new(self.pins(database).await?);
        let keeper = Keeper::new(pins, clock.clone()).await?;
        let audit = self.audit(Arc::new(OsEntropy))?;
        let (log, _) = audit.start_any(log, clock.clone(), self.recording.clone())?;
        let kept = Kept { keeper, flows, approvals, responses };
        let gate = Gate::new(self.sealer().await?, kept, log, clock.clone(), Arc::new(OsEntropy));
        gate.open_ward(Ward::new(quarantine, clock));
        gate.read_by(crate::reader::readers()?);
        Ok(gate)
    }

    /// The audit folder.
    pub fn audit(&self, entropy: Arc<dyn Entropy>) -> anyhow::Result<AuditFolder> {
        Ok(AuditFolder::open(&self.folder.join("audit"), entropy)?)
    }

    /// Where the audit logs are.
    pub fn audit_folder(&self) -> PathBuf {
        self.folder.join("audit")
    }

    /// The reviews of the rights that `gate`'s policies give.
    pub async fn reviewing(&self, gate: &Arc<Gate>) -> anyhow::Result<Reviewing> {
        let stored = StoredReviews::new(self.database().await?);
        Ok(Reviewing::new(Arc::clone(gate), stored, self.audit_folder()))
    }

    /// Where the alerts keep what they have seen.
    pub fn alerts_folder(&self) -> PathBuf {
        self.folder.join("alerts")
    }

    /// Where the files of an audit log of this folder are.
    pub fn log_folder(&self, log: &bartizan_audit::Log) -> PathBuf {
        let node = log.origin().as_str().rsplit('/').next().unwrap_or_default();
        self.folder.join("audit").join(node)
    }

    /// The local token: 256 random bits, made when it is first asked for.
    pub fn token(&self) -> anyhow::Result<Secret> {
        let path = self.folder.join("token");
        let mut bytes = [0; 32];
        OsEntropy.fill(&mut bytes);
        let fresh: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        create_once(&path, format!("bz_{fresh}\n").as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let about = fs::symlink_metadata(&path)?;
        if !about.is_file() || about.mode() & 0o077 != 0 || about.uid() != rustix::process::geteuid().as_raw()
        {
            bail!(
                "{} must be your own file, readable by you alone; run `chmod 600` on it, or remove it for a new token",
                path.display()
            );
        }
        let text = fs::read_to_string(&path)?;
        let token = text.trim();
        if token.len() < 32 {
            bail!("{} holds no token; remove it for a new one", path.display());
        }
        Ok(Secret::new(token.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_gate_is_said_to_be_none_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bartizan.toml");
        let Err(error) = State::of_gate(Some(&config)) else { panic!("there is no gate") };
        assert!(error.to_string().contains("no gate has run here"), "{error}");
        assert!(!folder.path().join(".bartizan").exists());
        State::for_config(Some(&config)).unwrap();
        assert!(State::of_gate(Some(&config)).is_ok());
    }

    #[test]
    fn is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bartizan.toml");
        let first = State::for_config(Some(&config)).unwrap().token().unwrap();
        let state = State::for_config(Some(&config)).unwrap();
        assert!(state.token().unwrap().matches(first.reveal().as_bytes()));
        let mode =
            |name: &str| fs::metadata(folder.path().join(".bartizan").join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode(""), mode("token")), (0o700, 0o600));
        assert_eq!(fs::read_to_string(folder.path().join(".bartizan/.gitignore")).unwrap(), "*\n");
        fs::set_permissions(folder.path().join(".bartizan/token"), fs::Permissions::from_mode(0o644))
            .unwrap();
        assert!(state.token().is_err(), "a token others could read is not used");
    }
}
