//! The shield's bundle in a gate that runs: looked for, put to the test, taken up between two calls.
//!
//! A call keeps the shield it began with; the next one gets the new one. What fails any check changes nothing: the last good
//! bundle stays, at a start its copy in the state folder, and without one the rules and the model of the build.

mod check;
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
    bundle::{Arms, BundleConfig, Chain, Envelope, KeyId, Manifest, PublicKey, Refusal},
};
use bartizan_store::{Bundles as Stored, Digest, StoredBundles, bundles::Taken};
use http::HeaderValue;

use crate::{config::Config, opinions, state::State};

pub use check::{Active, Unfit, check, judged_by, judging, staleness};
use check::{Checked, names, with_its_chain};
pub use source::read;
use source::{Feed, Stamp};

/// The copy of the last good bundle in the state folder.
pub const KEPT: &str = "shield-bundle.json";

/// How often the file, the feed's due time and the age are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How soon a bundle is tried again that was refused for a fault of ours.
const RETRY: Duration = Duration::from_secs(10);

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
        let shield = opinions::shield(config, &self.base, &arms).await?;
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
            && let Ok(rebuilt) = opinions::shield(&config, &self.base, &newer.arms).await
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
                let shield = opinions::shield(&watch.config, &self.base, &loaded.arms).await;
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
