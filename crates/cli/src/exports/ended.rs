//! Logs that no process writes any more: those of commands (`bartizan respond`, `admin` …), and of processes that ended before
//! all was delivered. A running gate delivers them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bartizan_audit::{
    Log, PublicKey,
    export::{Exporter, Step},
    verify::{is_held, logs},
};
use bartizan_model::Clock;
use tokio::task::AbortHandle;

use super::{Setting, settings_of};
use crate::config::Config;

/// How often it is looked for them.
const ROUND: Duration = Duration::from_secs(2);

/// Delivers them by the exporters of a configuration.
pub struct Ended {
    log: Log,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    running: Mutex<Option<AbortHandle>>,
}

impl Ended {
    /// Nothing yet, of the logs in the audit folder `folder` beside `log`.
    pub fn new(log: Log, folder: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { log, folder, clock, running: Mutex::default() }
    }

    /// Delivers by these exporters from now on.
    pub fn apply(&self, config: &Config, base: &Path) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.take() {
            running.abort();
        }
        if config.audit.export.is_empty() {
            return;
        }
        let round = Round {
            log: self.log.clone(),
            folder: self.folder.clone(),
            clock: Arc::clone(&self.clock),
            config: config.clone(),
            base: base.to_owned(),
        };
        *running = Some(tokio::spawn(round.go_on()).abort_handle());
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            running.abort();
        }
    }
}

struct Round {
    log: Log,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    config: Config,
    base: PathBuf,
}

impl Round {
    async fn go_on(self) {
        let mut ticks = tokio::time::interval(ROUND);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = String::new();
        loop {
            ticks.tick().await;
            let trouble = self.once().await.err().map(|error| format!("{error:#}")).unwrap_or_default();
            // Once, not every two seconds.
            if !trouble.is_empty() && trouble != said {
                tracing::warn!(error = trouble, "logs of processes that ended are not delivered now");
            }
            said = trouble;
        }
    }

    async fn once(&self) -> anyhow::Result<()> {
        let path = self.folder.join("audit.pub");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let key: PublicKey = text.parse().with_context(|| format!("{} holds no key", path.display()))?;
        let name = text.split('+').next().unwrap_or_default();
        let mut trouble = Ok(());
        for folder in logs(&self.folder)? {
            // Whoever writes it delivers it.
            if is_held(&folder) {
                continue;
            }
            let node = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let delivered = self.deliver(&folder, &format!("{name}/{node}"), key).await;
            // One log that cannot be read keeps no other back.
            trouble = trouble.and(delivered.with_context(|| node));
        }
        trouble
    }

    /// All of one log to every receiver that takes it now; the rest the next time.
    async fn deliver(&self, folder: &Path, origin: &str, key: PublicKey) -> anyhow::Result<()> {
        let mut trouble = Ok(());
        for setting in settings_of(&self.config, &self.base, origin, &self.clock)? {
            trouble = trouble.and(self.deliver_to(&setting, folder, origin, key).await);
        }
        trouble
    }

    async fn deliver_to(
        &self,
        setting: &Setting,
        folder: &Path,
        origin: &str,
        key: PublicKey,
    ) -> anyhow::Result<()> {
        let (format, transport) = (Arc::clone(&setting.format), Arc::clone(&setting.transport));
        let made =
            Exporter::of_ended(&setting.name, folder, format, transport, Arc::clone(&self.clock), key)?;
        let Some((exporter, _lock)) = made else { return Ok(()) };
        let mut exporter = exporter.with_content(setting.tells_content);
        loop {
            match exporter.step(&self.log).await? {
                Step::Done(_) => {}
                Step::Idle => return Ok(()),
                Step::Wait(_, why) => {
                    tracing::debug!(exporter = %setting.name, log = origin, "not delivered now: {why}");
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bartizan_audit::{AuditFolder, Event, Kind, Options};
    use bartizan_model::{SeededEntropy, SystemClock};

    use super::*;

    #[tokio::test]
    async fn one_log_that_cannot_be_delivered_keeps_no_other_back() {
        let root = tempfile::tempdir().unwrap();
        let (audit, out) = (root.path().join("audit"), root.path().join("out.jsonl"));
        let folder = AuditFolder::open(&audit, Arc::new(SeededEntropy::new(1))).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let start = |name: &str| folder.start(name, Arc::clone(&clock), Options::default()).unwrap();
        for name in ["a-0", "b-0"] {
            let _ = start(name).note(Event::new(Kind::ServerLog)).await.unwrap();
        }
        // Whatever it is that cannot be read there.
        fs::create_dir(audit.join("a-0/export-file.cursor")).unwrap();
        let export = "[[audit.export]]\nname = \"file\"\nkind = \"file\"\npath = \"out.jsonl\"\n";
        let round = Round {
            log: start("gate"),
            folder: audit,
            clock: Arc::clone(&clock),
            config: toml::from_str(export).unwrap(),
            base: root.path().to_owned(),
        };
        let trouble = round.once().await.unwrap_err();
        assert!(format!("{trouble:#}").starts_with("a-0: "), "{trouble:#}");
        let delivered = fs::read_to_string(out).unwrap();
        assert!(delivered.contains("/b-0") && !delivered.contains("/a-0"), "{delivered}");
    }
}
