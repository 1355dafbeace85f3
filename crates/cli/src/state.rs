//! The state folder: our key and the local token, ours alone.

mod missing;

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
    Contents, Database, KEY, Keeper, KeyBytes, OsEntropy, Sealer, Sessions, StoredAdmins, StoredApprovals,
    StoredBundles, StoredFlows, StoredLinks, StoredPins, StoredProviderTokens, StoredQuarantine,
    StoredResponses, StoredReviews, StoredSessions, create_once,
};

pub use missing::{NoState, recorded};

use missing::{Folder, missing};

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

/// The database.
const STORE: &str = "store.db";
/// The file beside the database that notices when an older one is put in its place.
const SEEN: &str = "pins.seen";
/// The folder of the audit logs.
pub const AUDIT: &str = "audit";

/// A state folder: one that exists, mode 0700, or one that is only looked at.
#[derive(Clone)]
pub struct State {
    folder: PathBuf,
    /// The configuration that says what wraps its keys.
    config: Option<PathBuf>,
    keys: LazyKeys,
    /// The store as it was opened first: all that this process keeps there goes over its connections.
    database: Arc<tokio::sync::Mutex<Option<Database>>>,
    recording: bartizan_audit::Options,
    /// Set where nothing is to be made: whose folder it is, for the words about what is missing.
    looking: Option<Folder>,
}

/// The state folder, beside the configuration file.
pub const STATE_FOLDER: &str = ".bartizan";

impl State {
    /// Where the state folder of this configuration is: `.bartizan/` beside the file, or in this folder.
    pub fn folder_for(config: Option<&Path>) -> PathBuf {
        beside(config).join(STATE_FOLDER)
    }

    /// The state folder of this configuration, made if there is none.
    pub fn for_config(config: Option<&Path>) -> anyhow::Result<Self> {
        let state = Self { config: config.map(Path::to_owned), ..Self::at(Self::folder_for(config))? };
        // The folder must not end up in anybody's repository.
        create_once(&state.folder.join(".gitignore"), b"*\n").context("cannot write to the state folder")?;
        Ok(state)
    }

    /// The state folder of a gate that has run with this configuration.
    ///
    /// # Errors
    /// There is none: a new one would be no use, for no gate would know what is in it. Or its store or its keys are gone.
    pub fn of_gate(config: Option<&Path>) -> anyhow::Result<Self> {
        Self::look(config)?.whole()?;
        Self::for_config(config)
    }

    /// The user's own state folder, in which `bartizan wrap` has run.
    ///
    /// # Errors
    /// As for [`State::of_gate`].
    pub fn of_user() -> anyhow::Result<Self> {
        Self::look_for_user()?.whole()?;
        Self::for_user()
    }

    /// The state folder of this configuration as it is, for commands that look and decide nothing: it is not made if there is none,
    /// nor is anything in it. What is asked of it and is not there is the error [`NoState`], or
    /// [`Incomplete`](missing::Incomplete) where a gate has run.
    ///
    /// # Errors
    /// It is no folder, or somebody else's.
    pub fn look(config: Option<&Path>) -> anyhow::Result<Self> {
        let state = Self::as_it_is(Self::folder_for(config), Folder::Gate)?;
        Ok(Self { config: config.map(Path::to_owned), ..state })
    }

    /// The same for the user's own.
    ///
    /// # Errors
    /// As for [`State::look`].
    pub fn look_for_user() -> anyhow::Result<Self> {
        Self::as_it_is(Self::folder_of_user()?, Folder::User)
    }

    /// The user's own state folder (XDG Base Directory Specification), which several `wrap`s share.
    pub fn for_user() -> anyhow::Result<Self> {
        Self::at(Self::folder_of_user()?)
    }

    /// Where the user's own state folder is.
    ///
    /// # Errors
    /// The environment names no place.
    #[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
    pub fn folder_of_user() -> anyhow::Result<PathBuf> {
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
        Self { folder, config: None, keys, database: Arc::default(), recording, looking }
    }

    /// That there is such a folder, whatever is in it.
    ///
    /// # Errors
    /// [`NoState`]: it is only looked at, and there is none.
    pub fn present(&self) -> anyhow::Result<()> {
        self.look_at(&self.folder)
    }

    /// That the store and its keys are there. A folder in which no gate has run may hold a token: a script may have asked for that
    /// first.
    ///
    /// # Errors
    /// [`NoState`] where no gate has run, [`Incomplete`](missing::Incomplete) where one has, and one of the two is gone. Nothing of
    /// a folder that is not only looked at.
    pub fn whole(&self) -> anyhow::Result<()> {
        // Of two processes that begin at once, either makes the keys before the store: the store is looked for first.
        let store = self.look_at(&self.store());
        if !self.is_of_earlier_version() {
            self.look_at(&keys::path(&self.folder))?;
        }
        store
    }

    /// Nothing, unless this is only looked at and `path` is not there.
    fn look_at(&self, path: &Path) -> anyhow::Result<()> {
        match self.looking {
            Some(whose) if !path.exists() => Err(missing(&self.folder, path, whose)),
            _ => Ok(()),
        }
    }

    /// Whether the store is one of a version without a key file, which sealed with `seal.key` itself: what is kept beside the database
    /// has that key's mark. Elsewhere `seal.key` only wraps the key file, and in the place of one that is lost it opens nothing.
    fn is_of_earlier_version(&self) -> bool {
        if keys::path(&self.folder).exists() {
            return false;
        }
        let is_marked = || {
            let key: [u8; KEY] = fs::read(self.folder.join("seal.key")).ok()?.try_into().ok()?;
            let contents = Contents::new(Some(KeyBytes::new(key)), &OsEntropy);
            let sealer = Sealer::of(&contents, Arc::new(OsEntropy)).ok()?;
            let seen = fs::read_to_string(self.folder.join(SEEN)).ok()?;
            let (version, mark) = seen.trim_end().split_once(' ')?;
            let version: u64 = version.parse().ok()?;
            Some(sealer.is_marked(&[SEEN.as_bytes(), &version.to_be_bytes()], mark))
        };
        is_marked().unwrap_or(false)
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
        let file = keys::path(&self.folder);
        if let (Some(whose), true) = (self.looking, self.is_of_earlier_version()) {
            // Nothing is lost: the next start of the gate makes the file.
            return Err(NoState { missing: file, whose }.into());
        }
        self.look_at(&file)?;
        let open = async || {
            // Asked before the keys are looked for: of two processes that begin at once, either makes them before the store.
            let has_store = self.store().exists();
            if has_store && !file.exists() && !self.is_of_earlier_version() {
                // New ones would open nothing of it.
                return Err(missing(&self.folder, &file, self.looking.unwrap_or(Folder::Gate)));
            }
            let path = self.config.as_deref();
            let loaded = config::load(path)?;
            let opened = Keys::open(&loaded.config, &crate::run::base_of(path), &self.folder).await?;
            if !has_store && !self.folder.join(SEEN).exists() {
                // Where there are keys and no store, one was lost: so neither is ever made alone.
                self.open_store().await?.close().await;
            }
            Ok(opened)
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
    ///
    /// # Errors
    /// It cannot be opened; or it is gone, and [`Incomplete`](missing::Incomplete) says so.
    pub async fn database(&self) -> anyhow::Result<Database> {
        let path = self.store();
        self.look_at(&path)?;
        // Asked before the store is looked for: whoever makes both makes the store first.
        let was_used = self.folder.join(SEEN).exists();
        if !path.exists() {
            if was_used {
                return Err(missing(&self.folder, &path, self.looking.unwrap_or(Folder::Gate)));
            }
            // The keys come first: a start that fails for want of them leaves no store that would seem to have lost its own.
            self.keys().await?;
        }
        let mut database = self.database.lock().await;
        match &*database {
            Some(opened) if !opened.is_closed() => Ok(opened.clone()),
            _ => Ok(database.insert(self.open_store().await?).clone()),
        }
    }

    /// Where the database is.
    fn store(&self) -> PathBuf {
        self.folder.join(STORE)
    }

    async fn open_store(&self) -> anyhow::Result<Database> {
        let path = self.store();
        Database::sqlite(&path).await.with_context(|| format!("cannot use {}", path.display()))
    }

    /// The pins in `database`; a file beside it notices when an older one is put in its place.
    pub async fn pins(&self, database: Database) -> anyhow::Result<StoredPins> {
        Ok(StoredPins::new(database, self.sealer().await?, Some(self.folder.join(SEEN))))
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
        Ok(AuditFolder::open(&self.audit_folder(), entropy)?)
    }

    /// Where the audit logs are.
    pub fn audit_folder(&self) -> PathBuf {
        self.folder.join(AUDIT)
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
        self.audit_folder().join(node)
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
mod tests;
