//! Having the log witnessed: `[audit.witness]`.
//!
//! Every log of the audit folder is shown, those of commands and of other processes too: whoever rolls one back is found
//! out by the gate that runs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bartizan_audit::{
    Details, Event, Kind, Log, PublicKey, Text,
    verify::logs,
    witness::{Refusal, Standing, Witnessed},
};
use bartizan_model::{Clock, Timestamp};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    config::{Config, witness::WitnessConfig},
    exports,
};

/// By what name the log is held for the witness; no exporter can be called so.
pub const HOLD: &str = "the witness";

/// After how many questions in a row without an answer there is an alarm: one may be lost on the way.
const PATIENCE: u32 = 2;

/// A witness, ready to be asked.
pub struct Setting {
    config: WitnessConfig,
    witnessed: Witnessed,
    fingerprint: String,
}

/// The witness of a configuration, if it has one. Relative paths start at `base`; `folder` is the audit folder.
///
/// # Errors
/// What is wrong with it.
pub fn setting(config: &Config, base: &Path, folder: &Path) -> anyhow::Result<Option<Setting>> {
    let Some(witness) = &config.audit.witness else { return Ok(None) };
    let transport = exports::way(config, base, &witness.url, &witness.tls).context("[audit.witness]")?;
    let path = folder.join("audit.pub");
    let key: PublicKey = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .parse()
        .with_context(|| format!("{} holds no key", path.display()))?;
    let name = witness.key.parse().context("[audit.witness] key")?;
    let witnessed = Witnessed::new(witness.url.as_str(), name, key, transport);
    let fingerprint = format!("{witness:?} {:?}", config.egress);
    Ok(Some(Setting { config: witness.clone(), witnessed, fingerprint }))
}

/// How the witness of a gate is doing.
#[derive(Default)]
pub struct Progress {
    /// How many entries of the gate's own log it signed.
    pub entries: AtomicU64,
    /// When it did last, in Unix seconds; 0 for never.
    pub at: AtomicU64,
    /// Whether the last question failed.
    pub is_failing: AtomicBool,
    /// Whether it holds that some log is not what it was.
    pub refuses: AtomicBool,
}

/// The witness that is asked now.
pub struct Witnessing {
    log: Log,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    running: Mutex<Option<Running>>,
}

struct Running {
    fingerprint: String,
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Witnessing {
    /// Nobody is asked yet about the logs in `folder`, one of which is `log`.
    pub fn new(log: Log, folder: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { log, folder, clock, running: Mutex::default() }
    }

    /// Asks this witness from now on, or none.
    pub fn apply(&self, setting: Option<Setting>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some(setting)) = (&*running, &setting)
            && now.fingerprint == setting.fingerprint
        {
            return;
        }
        if let Some(old) = running.take() {
            old.stop.send_replace(true);
            old.task.abort();
        }
        let Some(setting) = setting else {
            self.log.bar(None);
            self.log.hold(HOLD, u64::MAX);
            return;
        };
        // Nobody knows yet up to where it signed.
        self.log.hold(HOLD, 0);
        // From the first call on: nobody knows yet what the witness thinks.
        self.log.bar(setting.config.required.then_some("the audit log's witness has not signed it yet"));
        let (stop, stopped) = watch::channel(false);
        let progress = Arc::new(Progress::default());
        let fingerprint = setting.fingerprint.clone();
        let asking = Asking {
            setting,
            log: self.log.clone(),
            folder: self.folder.clone(),
            clock: Arc::clone(&self.clock),
            progress: Arc::clone(&progress),
            began: self.clock.now(),
            troubles: BTreeMap::new(),
            signed: None,
            refusal: None,
        };
        let task = tokio::spawn(asking.run(stopped));
        *running = Some(Running { fingerprint, progress, stop, task });
    }

    /// How it is doing; `None` if there is none.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|running| Arc::clone(&running.progress))
    }
}

/// A question every so often.
struct Asking {
    setting: Setting,
    log: Log,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    progress: Arc<Progress>,
    began: Timestamp,
    /// By log: what is wrong, and how often in a row.
    troubles: BTreeMap<String, (Refusal, u32)>,
    /// When the gate's own log was signed last: on a clock that nobody sets, and on the one that goes on while the machine sleeps.
    signed: Option<(Instant, Timestamp)>,
    /// What the last round found to speak against some log.
    refusal: Option<String>,
}

impl Asking {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let every = Duration::from_secs(self.setting.config.every_s);
        while !*stopped.borrow() {
            self.ask_all().await;
            let _ = tokio::time::timeout(every, stopped.wait_for(|stop| *stop)).await;
        }
    }

    async fn ask_all(&mut self) {
        let own = self.folder.join(node(&self.log));
        let mut all = match logs(&self.folder) {
            Ok(all) => all,
            Err(error) => {
                tracing::error!(%error, "the audit folder cannot be read");
                self.progress.is_failing.store(true, Ordering::Relaxed);
                // Nothing is shown to anybody, and what was signed last grows old all the same.
                self.judge();
                return;
            }
        };
        // The one that calls wait for comes first.
        all.sort_by_key(|folder| *folder != own);
        let mut refusal = None;
        for folder in all {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match self.setting.witnessed.ask(&folder).await {
                Ok(cosigned) => {
                    if self.troubles.remove(&name).is_some() {
                        tracing::info!(log = %name, "the audit log is witnessed again");
                    }
                    if folder == own {
                        // What a proof begins with must not be dropped before the next one.
                        self.log.hold(HOLD, cosigned.checkpoint.size);
                        self.progress.entries.store(cosigned.checkpoint.size, Ordering::Relaxed);
                        let now = self.clock.now();
                        self.signed = Some((Instant::now(), now));
                        self.progress.at.store(now.as_unix(), Ordering::Relaxed);
                    }
                }
                Err(refused) => {
                    self.trouble(&name, &refused).await;
                    if refused.against() == Standing::Log {
                        refusal = Some(format!("{name}: {refused}"));
                        self.refusal.clone_from(&refusal);
                    } else if folder == own {
                        // Whoever does not answer for one will not for the others.
                        break;
                    }
                }
            }
            // A round over many logs can take long. What is wrong already counts at once; that all is well, when all were asked.
            if let Some(why) = self.why_not() {
                self.bar(Some(&why));
            }
        }
        self.progress.is_failing.store(!self.troubles.is_empty(), Ordering::Relaxed);
        let refuses = self.troubles.values().any(|(refusal, _)| refusal.against() == Standing::Log);
        self.progress.refuses.store(refuses, Ordering::Relaxed);
        self.refusal = refusal;
        self.judge();
    }

    /// Whether calls may be made.
    fn judge(&self) {
        self.bar(self.why_not().as_deref());
    }

    fn bar(&self, why: Option<&str>) {
        if self.setting.config.required {
            self.log.bar(why);
        }
    }

    /// Why calls may not be made, if a witness is required.
    fn why_not(&self) -> Option<String> {
        if let Some(refusal) = &self.refusal {
            return Some(format!("the audit log's witness refuses: {refusal}"));
        }
        let Some((at, clock)) = self.signed else {
            return Some("the audit log's witness has not signed it yet".to_owned());
        };
        // A clock that was set back makes nothing younger.
        let age = at.elapsed().max(self.clock.now().since(clock));
        let max_age = Duration::from_secs(self.setting.config.max_age_s);
        (age > max_age)
            .then(|| format!("the audit log's witness has not signed it for {} s", max_age.as_secs()))
    }

    /// Raises an alarm when something begins to be wrong, or is wrong in another way; not at every question.
    async fn trouble(&mut self, name: &str, refused: &Refusal) {
        let before = self.troubles.get(name).filter(|(refusal, _)| refusal.code() == refused.code());
        let times = before.map_or(1, |(_, times)| times.saturating_add(1));
        self.troubles.insert(name.to_owned(), (refused.clone(), times));
        let is_news = match refused.against() {
            Standing::Log => times == 1,
            Standing::Witness => times == PATIENCE,
        };
        if !is_news {
            tracing::debug!(log = %name, error = %refused, "the audit log is not witnessed");
            return;
        }
        tracing::error!(log = %name, error = %refused, "the audit log is not witnessed");
        let since = self.clock.now().since(self.began).as_secs();
        let event = Event::new(Kind::AlertRaised).with(Details {
            reason: refused.code().parse().ok(),
            message: Some(Text::new(&format!("{name}: {refused} ({since} s after the start)"))),
            ..Details::default()
        });
        if let Err(lost) = self.log.note(event).await {
            tracing::error!(%lost, "this could not be recorded");
        }
    }
}

/// The folder of a log, below the audit folder.
fn node(log: &Log) -> &str {
    log.origin().as_str().rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
