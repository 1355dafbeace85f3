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
use bartizan_model::{Clock, Entropy, Secret, SystemClock};
use bartizan_store::{
    Database, Keeper, OsEntropy, Sealer, Sessions, StoredAdmins, StoredApprovals, StoredBundles, StoredFlows,
    StoredLinks, StoredPins, StoredProviderTokens, StoredQuarantine, StoredResponses, StoredReviews,
    StoredSessions, create_once,
};

use crate::{
    config,
    keys::{self, Keys, LazyKeys},
    reviews::Reviewing,
    say_error,
};

/// The folder a configuration is in.
fn beside(config: Option<&Path>) -> &Path {
    config.and_then(Path::parent).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Something of a state folder that a command wanted to look at, and that no gate has made yet.
#[derive(Debug, thiserror::Error)]
#[error("no {} has run here: there is no {}. {}", .whose.maker(), .missing.display(), .whose.advice())]
pub struct NoState {
    missing: PathBuf,
    whose: Folder,
}

/// A state folder: one that exists, mode 0700, or one that is only looked at.
#[derive(Clone)]
pub struct State {
    folder: PathBuf,
    /// The configuration that says what wraps its keys.
    config: Option<PathBuf>,
    keys: LazyKeys,
    recording: bartizan_audit::Options,
    /// Set where nothing is to be made: whose folder it is, for the words about what is missing.
    looking: Option<Folder>,
}

/// Whose state a folder keeps.
#[derive(Clone, Copy, Debug)]
enum Folder {
    /// A gate's.
    Gate,
    /// The user's own.
    User,
}

impl Folder {
    fn maker(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::User => "`bartizan wrap`",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Gate => {
                "Say this in the folder where `bartizan run` was started, and with the same --config if it had one"
            }
            Self::User => "Say this as the user whose client starts it, and with the same XDG_STATE_HOME",
        }
    }
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
        Self::look(config)?.present()?;
        Self::for_config(config)
    }

    /// The state folder of this configuration as it is, for commands that look and decide nothing: it is not made if there is none,
    /// nor is anything in it. What is asked of it and is not there is the error [`NoState`].
    ///
    /// # Errors
    /// It is no folder, or somebody else's.
    pub fn look(config: Option<&Path>) -> anyhow::Result<Self> {
        let state = Self::as_it_is(beside(config).join(".bartizan"), Folder::Gate)?;
        Ok(Self { config: config.map(Path::to_owned), ..state })
    }

    /// The same for the user's own.
    ///
    /// # Errors
    /// As for [`State::look`].
    pub fn look_for_user() -> anyhow::Result<Self> {
        Self::as_it_is(Self::users()?, Folder::User)
    }

    /// The user's own state folder (XDG Base Directory Specification), which several `wrap`s share.
    pub fn for_user() -> anyhow::Result<Self> {
        Self::at(Self::users()?)
    }

    #[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
    fn users() -> anyhow::Result<PathBuf> {
        let xdg = std::env::var("XDG_STATE_HOME").ok().map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || {
            std::env::var("HOME").ok().filter(|h| !h.is_empty()).map(|h| Path::new(&h).join(".local/state"))
        };
        let base = xdg
            .or_else(home)
            .context("neither XDG_STATE_HOME nor HOME is set: there is no place for state")?;
        Ok(base.join("bartizan"))
    }

    fn as_it_is(folder: PathBuf, whose: Folder) -> anyhow::Result<Self> {
        match fs::symlink_metadata(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            about => ours(&folder, &about.with_context(|| format!("cannot look at {}", folder.display()))?)?,
        }
        Ok(Self::new(folder, Some(whose)))
    }

    fn new(folder: PathBuf, looking: Option<Folder>) -> Self {
        let (keys, recording) = (LazyKeys::default(), bartizan_audit::Options::default());
        Self { folder, config: None, keys, recording, looking }
    }

    /// That there is such a folder.
    ///
    /// # Errors
    /// [`NoState`]: it is only looked at, and there is none.
    pub fn present(&self) -> Result<(), NoState> {
        self.look_at(&self.folder)
    }

    /// Nothing, unless this is only looked at and `path` is not there.
    fn look_at(&self, path: &Path) -> Result<(), NoState> {
        match self.looking {
            Some(whose) if !path.exists() => {
                let missing = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                Err(NoState { missing, whose })
            }
            _ => Ok(()),
        }
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
        ours(&folder, &about)?;
        if about.mode() & 0o077 != 0 {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self::new(folder, None))
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

    /// The keys, opened when they are first asked for; made then if there are none, unless this is only looked at.
    pub async fn keys(&self) -> anyhow::Result<&Keys> {
        self.look_at(&keys::path(&self.folder))?;
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

    /// The database, made when it is first asked for, unless this is only looked at.
    pub async fn database(&self) -> anyhow::Result<Database> {
        let path = self.folder.join("store.db");
        self.look_at(&path)?;
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

    /// What was taken up of bundles so far. `None` where no gate has run, which is said: an older bundle is not known there.
    pub async fn known_bundles(&self) -> anyhow::Result<Option<StoredBundles>> {
        let known = async { self.bundles(self.database().await?).await };
        match known.await {
            Err(nobody) if nobody.is::<NoState>() => {
                say_error(&format!("note: no bundle was taken up before: {nobody}\n"));
                Ok(None)
            }
            known => known.map(Some),
        }
    }

    /// The admin roles in `database`; a file beside it notices when one that was taken back is put in again.
    pub async fn admins(&self, database: Database) -> anyhow::Result<StoredAdmins> {
        Ok(StoredAdmins::new(database, self.sealer().await?, Some(self.ended_roles())))
    }

    /// The file of admin roles that were taken back.
    pub fn ended_roles(&self) -> PathBuf {
        self.folder.join("roles.ended")
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

    /// Gives the legacy sessions of `gate` rows, by the name of its log, which no other process has while it runs; what a
    /// process that died left open by that name is closed first.
    pub async fn keep_sessions(&self, gate: &Gate) -> anyhow::Result<()> {
        let node = gate.recorder().log().origin().to_string();
        let stored = StoredSessions::new(self.database().await?, node);
        let left = stored.begin(SystemClock.now()).await?;
        if left > 0 {
            tracing::info!(left, "sessions of an earlier process of this node are over");
        }
        gate.keep_sessions(Arc::new(stored));
        Ok(())
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

/// That a folder is one, and this user's.
fn ours(folder: &Path, about: &fs::Metadata) -> anyhow::Result<()> {
    if !about.is_dir() {
        bail!("{} is not a folder", folder.display());
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        bail!("{} belongs to somebody else", folder.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_only_looked_at_is_neither_made_nor_changed() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bartizan.toml");
        fs::write(&config, "[[servers]]\nname = \"one\"\ncommand = [\"one\"]\n").unwrap();
        let place = folder.path().join(".bartizan");
        let is_missing = |error: anyhow::Error| error.is::<NoState>();
        let state = State::look(Some(&config)).unwrap();
        assert!(state.present().is_err());
        assert!(is_missing(state.database().await.unwrap_err()));
        assert!(state.keys().await.is_err_and(is_missing));
        assert!(!place.exists());
        // A folder with nothing but a token: a script may have asked for that first.
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o750)).unwrap();
        let state = State::look(Some(&config)).unwrap();
        assert!(state.present().is_ok());
        assert!(is_missing(state.database().await.unwrap_err()));
        assert!(state.keys().await.is_err_and(is_missing));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o750);
        // What a gate has made is opened.
        let made = State::for_config(Some(&config)).unwrap();
        made.database().await.unwrap().close().await;
        made.keys().await.unwrap();
        let state = State::look(Some(&config)).unwrap();
        state.database().await.unwrap().close().await;
        assert_eq!(state.sealer().await.unwrap().mark(&[b"x"]), made.sealer().await.unwrap().mark(&[b"x"]));
    }

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
