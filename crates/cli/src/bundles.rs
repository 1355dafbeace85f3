//! The shield's bundle in a gate that runs: looked for, put to the test, taken up between two calls.
//!
//! A call keeps the shield it began with; the next one gets the new one. What fails any check changes nothing: the last good
//! bundle stays, at a start its copy in the state folder, and without one the rules and the model of the build.

pub mod command;
mod source;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bartizan_audit::{
    Details, Event, Kind, Text,
    event::{Change, Decision, Finding, Severity},
};
use bartizan_gateway::Gate;
use bartizan_model::{Clock, SystemClock, Timestamp};
use bartizan_shield::{
    Shield,
    bundle::{
        Arms, BUNDLE_BYTES, BundleConfig, Chain, Envelope, KeyId, Manifest, PublicKey, Refusal, Verified,
    },
};
use bartizan_store::{
    Bundles as Stored, DatabaseError, Digest, StoredBundles,
    bundles::{Followed, Taken},
};
use http::HeaderValue;

use crate::{config::Config, opinions, state::State};

pub use source::read;
use source::{Feed, Stamp};

/// The copy of the last good bundle in the state folder.
pub const KEPT: &str = "shield-bundle.json";

/// How often the file, the feed's due time and the age are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How soon a bundle is tried again that was refused for a fault of ours.
const RETRY: Duration = Duration::from_secs(10);

/// Why a bundle is not taken up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It does not pass its checks.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Its feed does not answer as it should.
    #[error("its feed: {0}")]
    Unreachable(String),
    /// It cannot be found out which version was taken up before.
    #[error("which version was used before cannot be found out: {0}")]
    Store(String),
}

impl Unfit {
    /// A stable word for records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Unreadable(_) => "bundle.unreadable",
            Self::Unreachable(_) => "bundle.unreachable",
            Self::Store(_) => "bundle.store",
        }
    }

    /// Whether other keys could make it good.
    fn is_about_keys(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Signature { .. } | Refusal::Keys(_) | Refusal::Retired(_)))
    }

    /// Whether the same bundle may be good in a while: what was wrong is ours, or may be our clock.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreadable(_) | Self::Unreachable(_) | Self::Store(_) => true,
            Self::Refused(refusal) => matches!(refusal, Refusal::Future { .. } | Refusal::Expired { .. }),
        }
    }
}

/// A bundle that passed every check.
#[derive(Clone)]
struct Loaded {
    manifest: Manifest,
    digest: [u8; 32],
    /// The keys of the configuration that led to it.
    root: String,
    /// How many of the keys that counted signed it.
    signatures: usize,
    arms: Arms,
}

/// What is told of the bundle: metrics.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Whether the configuration names one.
    pub is_configured: bool,
    /// The version in use; 0 is what the build has.
    pub version: u64,
    /// When that was made.
    pub created: Option<Timestamp>,
    /// It is older than the configuration allows, or has expired.
    pub is_stale: bool,
    /// Bundles refused since the start.
    pub refused: u64,
}

/// Where the bundle comes from and whose it must be.
struct Settings {
    config: BundleConfig,
    keys: Vec<PublicKey>,
    feed: Option<Feed>,
}

/// A shield that a configuration asks for, and the bundle it judges by.
pub struct Prepared {
    settings: Option<Settings>,
    loaded: Option<Loaded>,
    shield: Shield,
    config: Config,
    /// What was in use when it was prepared.
    was: Option<[u8; 32]>,
}

/// Where bytes come from, and what they are called there.
enum Origin {
    File(Option<Stamp>),
    Feed(Option<HeaderValue>),
}

/// What one look at a time may change.
#[derive(Default)]
struct Watch {
    config: Config,
    settings: Option<Settings>,
    loaded: Option<Loaded>,
    /// What the file was when it was last examined.
    stamp: Option<Stamp>,
    /// When it is examined again even so.
    retry: Option<Timestamp>,
    /// When the feed is asked next.
    due: Option<Timestamp>,
    /// What was refused last, so that it is told once.
    refused: Option<(Option<Digest>, Unfit)>,
}

/// The bundle of a gate.
pub struct Bundles {
    gate: Arc<Gate>,
    base: PathBuf,
    kept: PathBuf,
    store: StoredBundles,
    clock: Arc<dyn Clock>,
    watch: tokio::sync::Mutex<Watch>,
    standing: Mutex<Standing>,
}

impl Bundles {
    /// Those of `gate`, whose state is in `state`. Relative paths start at `base`.
    pub async fn new(gate: Arc<Gate>, state: &State, base: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            gate,
            base: base.to_owned(),
            kept: state.folder().join(KEPT),
            store: state.bundles(state.database().await?).await?,
            clock: Arc::new(SystemClock),
            watch: tokio::sync::Mutex::default(),
            standing: Mutex::default(),
        })
    }

    /// What there is to tell.
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The shield that `config` asks for. A bundle that fails a check is told of and does without; a configuration that
    /// cannot be is an error.
    pub async fn prepare(&self, config: &Config) -> anyhow::Result<Prepared> {
        let settings = match &config.shield.bundle {
            None => None,
            Some(bundle) => Some(self.settings(bundle, config).context("[shield.bundle]")?),
        };
        let mut watch = self.watch.lock().await;
        let loaded = match &settings {
            None => None,
            Some(settings) => self.first(settings, &mut watch).await,
        };
        let arms = loaded.as_ref().map_or_else(Arms::shipped, |loaded| loaded.arms.clone());
        let shield = opinions::shield(config, &self.base, &arms)?;
        let was = watch.loaded.as_ref().map(|loaded| loaded.digest);
        Ok(Prepared { settings, loaded, shield, config: config.clone(), was })
    }

    fn settings(&self, bundle: &BundleConfig, config: &Config) -> anyhow::Result<Settings> {
        let keys = bundle.public_keys().map_err(anyhow::Error::msg)?;
        let feed = match &bundle.url {
            None => None,
            Some(url) => Some(Feed::new(url, bundle.ca.as_ref().map(|ca| self.base.join(ca)), config)?),
        };
        Ok(Settings { config: bundle.clone(), keys, feed })
    }

    /// The bundle to begin with: the configured file, or the one in use, or the copy of the last good one.
    async fn first(&self, settings: &Settings, watch: &mut Watch) -> Option<Loaded> {
        let Some(path) = &settings.config.path else { return self.last_good(settings, watch).await };
        let path = self.base.join(path);
        let stamp = Stamp::of(&path);
        let taken = match read(&path).await {
            Ok(bytes) => self.examine(bytes, settings, watch).await,
            Err(unfit) => Err((None, unfit)),
        };
        // The copy may know a chain of keys that the database has lost.
        let may_pass = |unfit: &Unfit| unfit.may_pass() || matches!(unfit, Unfit::Refused(Refusal::Keys(_)));
        let may_pass = matches!(&taken, Err((_, unfit)) if may_pass(unfit));
        self.examined(watch, settings, Origin::File(stamp), may_pass);
        match taken {
            Ok(Some(loaded)) => Some(loaded),
            Ok(None) => watch.loaded.clone(),
            Err((digest, unfit)) => {
                // Told last, when it is known what judges in its place.
                let instead = self.last_good(settings, watch).await;
                self.refuse(&mut watch.refused, instead.as_ref(), settings, digest, unfit);
                instead
            }
        }
    }

    /// The bundle in use, if it still counts, or the copy of the last good one.
    async fn last_good(&self, settings: &Settings, watch: &Watch) -> Option<Loaded> {
        if let Some(loaded) = watch.loaded.as_ref().filter(|loaded| counts(loaded, settings)) {
            return Some(loaded.clone());
        }
        if !self.kept.exists() {
            return None;
        }
        let kept = match read(&self.kept).await {
            Ok(bytes) => self.examine_kept(bytes, settings, watch).await,
            Err(unfit) => Err(unfit),
        };
        match kept {
            Ok(loaded) => loaded.or_else(|| watch.loaded.clone()),
            Err(unfit) => {
                tracing::warn!("[shield.bundle]: the copy of the last bundle is not used: {unfit}");
                None
            }
        }
    }

    async fn examine_kept(
        &self,
        bytes: Vec<u8>,
        settings: &Settings,
        watch: &Watch,
    ) -> Result<Option<Loaded>, Unfit> {
        let mut examined = self.examine(bytes.clone(), settings, watch).await;
        if matches!(&examined, Err((_, Unfit::Refused(Refusal::Keys(_)))))
            && let Ok(envelope) = Envelope::read(&bytes)
        {
            // The chain it was kept with may begin at keys that another configuration had.
            let bare = envelope.with_chain(Chain::default()).to_json();
            examined = self.examine(bare.into_bytes(), settings, watch).await;
        }
        examined.map_err(|(_, unfit)| unfit)
    }

    /// Puts a prepared shield in force.
    pub async fn adopt(&self, prepared: Prepared) {
        let mut watch = self.watch.lock().await;
        let Prepared { settings, mut loaded, mut shield, config, was } = prepared;
        // Somebody looked in the meantime and found a newer one.
        if let (Some(settings), Some(newer)) = (&settings, &watch.loaded)
            && was != Some(newer.digest)
            && counts(newer, settings)
            && let Ok(rebuilt) = opinions::shield(&config, &self.base, &newer.arms)
        {
            (loaded, shield) = (Some(newer.clone()), rebuilt);
        }
        if let (Some(settings), None) = (&settings, &loaded) {
            let from = settings.config.url.as_deref().unwrap_or("its file");
            tracing::warn!(
                "[shield.bundle]: no good bundle yet (from {from}); the build's own rules and model judge"
            );
        }
        watch.due = settings.as_ref().and_then(|s| s.feed.as_ref()).map(|_| self.clock.now());
        let from = watch.loaded.as_ref().map(version_of);
        let is_new = watch.loaded.as_ref().map(|l| l.digest) != loaded.as_ref().map(|l| l.digest);
        watch.loaded = loaded;
        watch.settings = settings;
        watch.config = config;
        self.gate.arm(shield);
        if is_new {
            self.tell_loaded(&watch, from);
        }
        self.stand(&watch);
    }

    /// Looks for news until it is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut watch = self.watch.lock().await;
            self.look(&mut watch).await;
            self.stand(&watch);
        }
    }

    async fn look(&self, watch: &mut Watch) {
        let Some(settings) = watch.settings.take() else { return };
        let (taken, origin) = match self.news(&settings, watch).await {
            Ok(Some((bytes, origin))) => (self.examine(bytes, &settings, watch).await, Some(origin)),
            Ok(None) => (Ok(None), None),
            Err(unfit) => (Err((None, unfit)), None),
        };
        let mut may_pass = matches!(&taken, Err((_, unfit)) if unfit.may_pass());
        match taken {
            Ok(Some(loaded)) => {
                let shield = opinions::shield(&watch.config, &self.base, &loaded.arms);
                match shield {
                    Ok(shield) => {
                        let from = watch.loaded.as_ref().map(version_of);
                        watch.loaded = Some(loaded);
                        watch.refused = None;
                        self.gate.arm(shield);
                        self.tell_loaded(watch, from);
                    }
                    Err(error) => {
                        may_pass = true;
                        tracing::error!("[shield.bundle]: the shield stays as it was: {error:#}");
                    }
                }
            }
            Ok(None) => {}
            Err((digest, unfit)) => {
                self.refuse(&mut watch.refused, watch.loaded.as_ref(), &settings, digest, unfit);
            }
        }
        if let Some(origin) = origin {
            self.examined(watch, &settings, origin, may_pass);
        }
        watch.settings = Some(settings);
    }

    /// Remembers that what is at `origin` was examined, unless it was refused for what may pass: then it is tried again.
    fn examined(&self, watch: &mut Watch, settings: &Settings, origin: Origin, may_pass: bool) {
        watch.retry = may_pass.then(|| self.clock.now().plus(RETRY));
        match origin {
            Origin::File(stamp) => watch.stamp = stamp,
            Origin::Feed(tag) => {
                if let Some(retry) = watch.retry {
                    watch.due = watch.due.map(|due| due.min(retry));
                } else if let Some(feed) = &settings.feed {
                    feed.examined(tag);
                }
            }
        }
    }

    /// What the file or the feed has, if it may be new, and what that is called there.
    async fn news(&self, settings: &Settings, watch: &mut Watch) -> Result<Option<(Vec<u8>, Origin)>, Unfit> {
        let now = self.clock.now();
        if let Some(path) = &settings.config.path {
            let path = self.base.join(path);
            let stamp = Stamp::of(&path);
            if stamp == watch.stamp && watch.retry.is_none_or(|retry| now < retry) {
                return Ok(None);
            }
            let bytes = read(&path).await?;
            return Ok(Some((bytes, Origin::File(stamp))));
        }
        if let Some(feed) = &settings.feed
            && watch.due.is_some_and(|due| due <= now)
        {
            watch.due = Some(now.plus(settings.config.poll.0));
            let fetched = feed.fetch().await?;
            return Ok(fetched.map(|fetched| {
                let (bytes, tag) = fetched.into_parts();
                (bytes, Origin::Feed(tag))
            }));
        }
        Ok(None)
    }

    /// Checks everything there is to check. `None` is the one in use.
    async fn examine(
        &self,
        bytes: Vec<u8>,
        settings: &Settings,
        watch: &Watch,
    ) -> Result<Option<Loaded>, (Option<Digest>, Unfit)> {
        let whole = Digest::of(&bytes);
        let unfit = |unfit: Unfit| (Some(whole), unfit);
        let checked =
            check(&bytes, settings.config.threshold, &settings.keys, Some(&self.store), self.clock.now())
                .await;
        let Checked { verified, root, chain } = checked.map_err(unfit)?;
        let is_it = |loaded: &Loaded| loaded.digest == verified.digest() && loaded.root == root;
        if watch.loaded.as_ref().is_some_and(is_it) {
            return Ok(None);
        }
        let proving = tokio::task::spawn_blocking(move || verified.prove().map(|arms| (arms, verified)));
        let proven = proving.await.map_err(|error| unfit(Refusal::SelfTest(error.to_string()).into()))?;
        let (arms, verified) = proven.map_err(|refusal| unfit(refusal.into()))?;
        let signers: Vec<KeyId> = verified.signers().iter().cloned().collect();
        let keys = names(&signers);
        let taken = Taken { version: verified.version(), digest: Digest(verified.digest()) };
        let links = chain.to_json();
        let last =
            chain.digest(chain.len()).map(|digest| Taken { version: chain.len(), digest: Digest(digest) });
        let followed = last.map(|last| (root.as_str(), last, links.as_str()));
        let advanced = self.store.advance(&keys, taken, followed, self.clock.now()).await;
        if !advanced.map_err(|error| unfit(Unfit::Store(error.to_string())))? {
            // Another gate was faster, with a newer one.
            let (found, known) = (taken.version, taken.version + 1);
            return Err(unfit(Refusal::Rollback { found, known }.into()));
        }
        if let Err(error) = source::keep(&self.kept, &with_its_chain(bytes, chain)) {
            tracing::warn!(%error, "[shield.bundle]: no copy of the bundle can be kept");
        }
        let (manifest, digest) = (verified.manifest().clone(), verified.digest());
        Ok(Some(Loaded { manifest, digest, root, signatures: signers.len(), arms }))
    }

    /// Tells, once, that a bundle is refused and what judges: `instead`, or what the build has.
    fn refuse(
        &self,
        refused: &mut Option<(Option<Digest>, Unfit)>,
        instead: Option<&Loaded>,
        settings: &Settings,
        digest: Option<Digest>,
        unfit: Unfit,
    ) {
        let news = (digest, unfit);
        if refused.as_ref() == Some(&news) {
            return;
        }
        let (_, unfit) = &news;
        let stays = match instead {
            Some(loaded) => format!("version {} stays", loaded.manifest.version),
            None => "the build's own rules and model judge".to_owned(),
        };
        let from = settings.config.url.clone();
        let from = from.or_else(|| settings.config.path.as_ref().map(|path| path.display().to_string()));
        tracing::error!("[shield.bundle] {}: refused: {unfit}; {stays}", from.unwrap_or_default());
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).refused += 1;
        self.gate.recorder().log().mention(Event::new(Kind::ComponentJudged).with(Details {
            decision: Some(Decision::Deny),
            reason: unfit.code().parse().ok(),
            message: Some(Text::new(&format!("{unfit}; {stays}"))),
            change: Some(change(instead.map(version_of), digest.map(|d| d.to_string()))),
            findings: vec![finding(unfit.code(), Severity::High, "block")],
            ..Details::default()
        }));
        *refused = Some(news);
    }

    fn tell_loaded(&self, watch: &Watch, from: Option<String>) {
        let words = match &watch.loaded {
            Some(loaded) => {
                format!("the shield judges by {} version {}", loaded.manifest.name, loaded.manifest.version)
            }
            None => "the shield judges by the build's own rules and model".to_owned(),
        };
        tracing::info!("[shield.bundle]: {words}");
        self.gate.recorder().log().mention(Event::new(Kind::ComponentJudged).with(Details {
            decision: Some(Decision::Permit),
            reason: "bundle.loaded".parse().ok(),
            message: Some(Text::new(&words)),
            change: Some(change(from, watch.loaded.as_ref().map(version_of))),
            ..Details::default()
        }));
    }

    /// Tells what stands, and raises the alarm when it has become stale.
    fn stand(&self, watch: &Watch) {
        let now = self.clock.now();
        let stale = watch
            .settings
            .as_ref()
            .zip(watch.loaded.as_ref())
            .and_then(|(settings, loaded)| staleness(&loaded.manifest, &settings.config, now));
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = stale.is_some() && !standing.is_stale;
        standing.is_configured = watch.settings.is_some();
        standing.version = watch.loaded.as_ref().map_or(0, |loaded| loaded.manifest.version);
        standing.created = watch.loaded.as_ref().map(|loaded| Timestamp::from_unix(loaded.manifest.created));
        standing.is_stale = stale.is_some();
        drop(standing);
        let Some(words) = stale.filter(|_| is_news) else { return };
        tracing::error!("[shield.bundle]: {words}; it stays in use");
        self.gate.recorder().log().mention(Event::new(Kind::ComponentJudged).with(Details {
            decision: Some(Decision::Permit),
            reason: "bundle.stale".parse().ok(),
            message: Some(Text::new(&words)),
            change: Some(change(None, watch.loaded.as_ref().map(version_of))),
            findings: vec![finding("bundle.stale", Severity::High, "note")],
            ..Details::default()
        }));
    }
}

/// Whether it was taken up by the keys that the configuration has by now.
fn counts(loaded: &Loaded, settings: &Settings) -> bool {
    loaded.root == Chain::root(&settings.keys) && loaded.signatures >= settings.config.threshold.max(1)
}

/// What a gate judges by, and whose it is.
pub struct Active {
    /// Rules and model.
    pub arms: Arms,
    /// The name and version of the bundle they are of. `None` is the build.
    pub bundle: Option<(String, u64)>,
}

impl Active {
    /// What the build has.
    pub fn shipped() -> Self {
        Self { arms: Arms::shipped(), bundle: None }
    }
}

/// What is said of who judged: `{"bundle": NAME, "version": N}`, or `"build"`.
pub fn judged_by(bundle: Option<&(String, u64)>) -> serde_json::Value {
    match bundle {
        Some((name, version)) => serde_json::json!({ "bundle": name, "version": version }),
        None => "build".into(),
    }
}

/// What a gate of `config` with the state folder `state` judges by: the configured file if it is good, or else the copy of the
/// last good bundle, or else the build's own rules and model. Nothing is taken up; `say` hears why something is not used.
pub async fn judging(
    config: &Config,
    base: &Path,
    state: &State,
    say: impl Fn(&str),
) -> anyhow::Result<Active> {
    let Some(settings) = &config.shield.bundle else { return Ok(Active::shipped()) };
    let keys = settings.public_keys().map_err(anyhow::Error::msg).context("[shield.bundle]")?;
    let store = state.known_bundles().await?;
    let kept = state.folder().join(KEPT);
    let paths = settings.path.iter().map(|path| base.join(path)).chain(kept.exists().then_some(kept));
    for path in paths {
        let proven = async {
            let bytes = read(&path).await?;
            let verified =
                check(&bytes, settings.threshold, &keys, store.as_ref(), SystemClock.now()).await?.verified;
            let bundle = Some((verified.manifest().name.clone(), verified.version()));
            let proving = tokio::task::spawn_blocking(move || verified.prove());
            let proven = proving.await.map_err(|error| Refusal::SelfTest(error.to_string()))?;
            Ok::<_, Unfit>(Active { arms: proven?, bundle })
        };
        match proven.await {
            Ok(active) => return Ok(active),
            Err(unfit) => say(&format!("[shield.bundle] {}: refused: {unfit}\n", path.display())),
        }
    }
    say("[shield.bundle]: no good bundle; the build's own rules and model judge\n");
    Ok(Active::shipped())
}

/// A bundle that is rightly signed, and how that was found out.
#[derive(Debug)]
pub struct Checked {
    /// The bundle.
    pub verified: Verified,
    /// The keys of the configuration, as chains that begin there are known by.
    pub root: String,
    /// The chain of keys from there to those that signed it.
    pub chain: Chain,
}

/// Reads, verifies and dates a bundle that `threshold` of `keys` must stand behind; what is left is its own tests. Without a
/// `store` none was taken up before.
pub async fn check(
    bytes: &[u8],
    threshold: usize,
    keys: &[PublicKey],
    store: Option<&StoredBundles>,
    now: Timestamp,
) -> Result<Checked, Unfit> {
    let unknown = |error: DatabaseError| Unfit::Store(error.to_string());
    let envelope = Envelope::read(bytes)?;
    let root = Chain::root(keys);
    let followed = match store {
        Some(store) => store.followed(&root).await.map_err(unknown)?,
        None => None,
    };
    let chain = longest(&envelope, followed.as_ref(), keys, threshold)?;
    let current = chain.follow(keys, threshold)?;
    // Of all keys there ever were, not of its signers alone: whoever leaves a signature out goes back no further, nor does
    // whoever has a key that was replaced.
    let all: Vec<PublicKey> = keys.iter().chain(chain.keys()).copied().collect();
    let former: Vec<PublicKey> = all.iter().filter(|key| !current.contains(key)).copied().collect();
    let retired = envelope.signed_by(&former).next().map(PublicKey::id);
    let verified = envelope.verify(&current, threshold).map_err(|refusal| match (refusal, retired) {
        (Refusal::Signature { .. }, Some(retired)) => Refusal::Retired(retired),
        (refusal, _) => refusal,
    })?;
    let ids: Vec<KeyId> = all.iter().map(PublicKey::id).collect();
    let known = match store {
        Some(store) => store.newest(&names(&ids)).await.map_err(unknown)?,
        None => None,
    };
    let found = verified.version();
    match known {
        Some(known) if found < known.version => {
            return Err(Refusal::Rollback { found, known: known.version }.into());
        }
        Some(known) if found == known.version && known.digest.0 != verified.digest() => {
            return Err(Refusal::Equivocal(found).into());
        }
        // It was good when it was taken up; letting go of it would leave less.
        Some(known) if found == known.version => {}
        _ => verified.current(now)?,
    }
    Ok(Checked { verified, root, chain })
}

/// The bundle with the chain of keys by which it was found good: its copy counts though the database loses that chain.
fn with_its_chain(bytes: Vec<u8>, chain: Chain) -> Vec<u8> {
    match Envelope::read(&bytes) {
        Ok(envelope) if envelope.chain().len() < chain.len() => {
            let text = envelope.with_chain(chain).to_json();
            if text.len() <= BUNDLE_BYTES { text.into_bytes() } else { bytes }
        }
        _ => bytes,
    }
}

/// The chain of keys to go by: the longer one of the bundle's and the one that was followed before, which it must not leave.
/// Whoever writes to the database has no say: links there that cannot be followed from `keys` to where they led are none.
fn longest(
    envelope: &Envelope,
    followed: Option<&Followed>,
    keys: &[PublicKey],
    threshold: usize,
) -> Result<Chain, Refusal> {
    let own = envelope.chain();
    let Some(followed) = followed else { return Ok(own.clone()) };
    let last = followed.last;
    let leads_on = |chain: &Chain| {
        chain.digest(last.version) == Some(last.digest.0) && chain.follow(keys, threshold).is_ok()
    };
    let stored = followed.links.as_ref().and_then(|links| Chain::read(links.as_bytes()).ok());
    if let Some(stored) = stored.filter(leads_on)
        && (stored.len() > own.len() || (stored.len() == own.len() && !leads_on(own)))
    {
        return Ok(stored);
    }
    match own.digest(last.version) {
        Some(digest) if digest == last.digest.0 => Ok(own.clone()),
        Some(_) => Err(Refusal::Keys(format!(
            "link {} of its chain of keys is another than the one that was followed before",
            last.version
        ))),
        None => Err(Refusal::Keys(format!(
            "its chain of keys has {} links, and {} were followed before",
            own.len(),
            last.version
        ))),
    }
}

/// Why a bundle is stale, if it is.
pub fn staleness(manifest: &Manifest, config: &BundleConfig, now: Timestamp) -> Option<String> {
    let days = |seconds: u64| format!("{} days", seconds / 86_400);
    let age = now.since(Timestamp::from_unix(manifest.created));
    if now.as_unix() >= manifest.expires {
        return Some(format!(
            "version {} expired {} ago",
            manifest.version,
            days(now.as_unix() - manifest.expires)
        ));
    }
    let is_old = age > config.max_age.0;
    is_old.then(|| {
        format!("version {} is {} old, more than {}", manifest.version, days(age.as_secs()), config.max_age)
    })
}

fn names(keys: &[KeyId]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn version_of(loaded: &Loaded) -> String {
    format!("{} {} {}", loaded.manifest.name, loaded.manifest.version, Digest(loaded.digest))
}

fn change(from: Option<String>, to: Option<String>) -> Change {
    let text = |words: Option<String>| words.map(|words| Text::new(&words));
    Change { entity: Text::new("bundle"), name: Text::new("shield"), from: text(from), to: text(to) }
}

fn finding(rule: &str, severity: Severity, action: &str) -> Finding {
    Finding { rule: Text::new(rule), severity, place: Text::new("bundle"), action: Text::new(action) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bartizan_shield::bundle::SigningKey;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    /// A chain whose links name the first key, each signed by the second ones.
    fn chain(links: &[(u8, &[u8])]) -> Chain {
        let mut chain = Chain::default();
        for (to, by) in links {
            chain.add(&[key(*to).public()], Timestamp::from_unix(1)).unwrap();
            by.iter().for_each(|seed| chain.sign(&key(*seed)));
        }
        chain
    }

    fn chosen(own: &Chain, last: &Chain, links: Option<&str>) -> Result<u64, Refusal> {
        let (from, until) = (Timestamp::from_unix(1), Timestamp::from_unix(2));
        let files = BTreeMap::from([("rules/house.toml".to_owned(), Vec::new())]);
        let bundle = Envelope::new("house", 1, from, until, files).unwrap().with_chain(own.clone());
        let digest = Digest(last.digest(last.len()).unwrap());
        let last = Taken { version: last.len(), digest };
        let followed = Followed { last, links: links.map(ToOwned::to_owned) };
        let chosen = longest(&bundle, Some(&followed), &[key(1).public()], 1)?;
        assert!(chosen.follow(&[key(1).public()], 1).is_ok(), "what is chosen can be followed");
        Ok(chosen.len())
    }

    #[test]
    fn links_of_the_database_that_lead_nowhere_are_none_and_the_bundles_own_count() {
        let one = chain(&[(2, &[1, 2])]);
        let two = chain(&[(2, &[1, 2]), (3, &[2, 3])]);
        let none = Chain::default();
        let forged = chain(&[(2, &[1, 2]), (9, &[9])]).to_json();
        let unsigned = chain(&[(2, &[]), (3, &[2, 3])]).to_json();
        let fork = chain(&[(9, &[1, 9]), (8, &[9, 8])]).to_json();
        for bad in [None, Some("x"), Some(""), Some(&*forged), Some(&*unsigned), Some(&*fork)] {
            assert_eq!(chosen(&one, &one, bad), Ok(1), "{bad:?}");
            assert_eq!(chosen(&two, &one, bad), Ok(2), "{bad:?}");
            // How far it was followed counts all the same.
            assert!(matches!(chosen(&none, &one, bad), Err(Refusal::Keys(_))), "{bad:?}");
            assert!(matches!(chosen(&one, &two, bad), Err(Refusal::Keys(_))), "{bad:?}");
        }
        // Good ones lead a bundle that brings none, fewer, or others of the same number.
        assert_eq!(chosen(&none, &one, Some(&one.to_json())), Ok(1));
        assert_eq!(chosen(&one, &two, Some(&two.to_json())), Ok(2));
        assert_eq!(chosen(&chain(&[(9, &[1, 9])]), &one, Some(&one.to_json())), Ok(1));
        assert_eq!(chosen(&chain(&[(2, &[])]), &one, Some(&one.to_json())), Ok(1));
        let longer = chain(&[(9, &[1, 9]), (8, &[9, 8])]);
        assert!(matches!(chosen(&longer, &one, Some(&one.to_json())), Err(Refusal::Keys(_))));
    }
}
