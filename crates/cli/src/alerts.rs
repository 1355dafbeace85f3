//! Rules over the events of the audit log, and what they set off: `[[alerts]]`.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use bartizan_audit::{
    Details, Entry, Event, Kind, Observer, Text,
    alert::{Matching, Met, Rule, Watch},
    event::Decision,
};
use bartizan_gateway::Gate;
use bartizan_model::{Caller, Clock, Timestamp};
use bartizan_store::responses::{Response, Target};
use tokio::sync::mpsc;

use crate::{
    config::alerts::{Action, Alert},
    reviews::{at_server, candidates},
};

/// How many entries may wait to be looked at. A flood beyond is told in our own log; thresholds are long met by then.
const WAITING: usize = 8192;

/// The rules of a gate.
pub struct Alerts {
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    /// Where rules keep what they have seen.
    folder: PathBuf,
    rules: Mutex<Vec<Watched>>,
}

struct Watched {
    watch: Watch,
    then: Vec<Action>,
    /// Tells this rule from every other.
    written: String,
}

/// Passes on the entries that some rule looks at. The thread that writes the log asks it, so it must be quick.
struct Sieve {
    wanted: Arc<ArcSwap<Vec<Matching>>>,
    to: mpsc::Sender<Entry>,
}

impl Observer for Sieve {
    fn seen(&self, entry: &Entry) {
        if self.wanted.load().iter().any(|matching| matching.fits(entry))
            && self.to.try_send(entry.clone()).is_err()
        {
            tracing::warn!("an event was not held against the alerts: too many at once");
        }
    }
}

/// Watches the log of a gate by the rules that are applied to it.
pub struct Watching {
    alerts: Arc<Alerts>,
    wanted: Arc<ArcSwap<Vec<Matching>>>,
}

impl Watching {
    /// Begins without rules; what rules have seen is kept in `folder`.
    pub fn begin(gate: Arc<Gate>, folder: PathBuf, clock: Arc<dyn Clock>) -> Self {
        let wanted: Arc<ArcSwap<Vec<Matching>>> = Arc::default();
        let (to, mut entries) = mpsc::channel(WAITING);
        gate.recorder().log().observe(Arc::new(Sieve { wanted: Arc::clone(&wanted), to }));
        let alerts = Arc::new(Alerts { gate, clock, folder, rules: Mutex::default() });
        let me = Arc::clone(&alerts);
        tokio::spawn(async move {
            while let Some(entry) = entries.recv().await {
                me.look_at(&entry).await;
            }
        });
        Self { alerts, wanted }
    }

    /// Watches by these rules from now on.
    ///
    /// # Errors
    /// As for [`Watching::prepare`].
    pub fn apply(&self, config: &[Alert]) -> anyhow::Result<()> {
        self.adopt(self.prepare(config)?);
        Ok(())
    }

    /// Makes rules ready to be adopted. Those that are in force stay as they are.
    ///
    /// # Errors
    /// If the configuration is wrong after all, or what a rule has seen cannot be read or kept.
    pub fn prepare(&self, config: &[Alert]) -> anyhow::Result<Prepared> {
        let mut prepared = Vec::with_capacity(config.len());
        for alert in config {
            let rule = alert.rule().map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
            let (watch, begins) = self.alerts.recall(rule)?;
            let rule = Watched { watch, then: alert.then.clone(), written: format!("{alert:?}") };
            prepared.push((rule, begins));
        }
        Ok(Prepared(prepared))
    }

    /// Watches by these rules from now on. Those that did not change go on counting.
    pub fn adopt(&self, prepared: Prepared) {
        let mut rules = self.alerts.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Vec::with_capacity(prepared.0.len());
        for (rule, begins) in prepared.0 {
            if let Some(known) = rules.iter().position(|known| known.written == rule.written) {
                fresh.push(rules.swap_remove(known));
                continue;
            }
            let name = &rule.watch.rule().name;
            if let Some(at) = begins
                && let Err(error) = append(&self.alerts.file(name), &at.as_unix().to_string())
            {
                tracing::error!(%error, alert = %name, "what was seen first is forgotten at the next start");
            }
            fresh.push(rule);
        }
        let wanted = fresh.iter().map(|rule| rule.watch.rule().matching.clone()).collect();
        *rules = fresh;
        self.wanted.store(Arc::new(wanted));
    }
}

/// Rules that can be adopted, and when those begin to learn that have seen nothing yet.
pub struct Prepared(Vec<(Watched, Option<Timestamp>)>);

impl Alerts {
    async fn look_at(&self, entry: &Entry) {
        let now = self.clock.now();
        let mut met = Vec::new();
        let counted = self.by_its_servers_name(entry);
        {
            let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
            for rule in rules.iter_mut() {
                let (found, new) = rule.watch.see(&counted, now);
                let name = &rule.watch.rule().name;
                if let Some(new) = new
                    && let Err(error) = self.remember(name, &new)
                {
                    tracing::error!(%error, alert = %name, "what was seen first is forgotten at the next start");
                }
                met.extend(found.map(|found| (rule.watch.rule().clone(), rule.then.clone(), found)));
            }
        }
        for (rule, then, found) in met {
            self.raise(&rule, &then, &found, entry, now).await;
        }
    }

    /// Records that a rule is met, then does what it wants done: what is not recorded is not done.
    async fn raise(&self, rule: &Rule, then: &[Action], met: &Met, entry: &Entry, now: Timestamp) {
        let details = &entry.details;
        let key = met.key.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>();
        let words = format!("{}: {} ({})", rule.name, entry.kind, key.join(", "));
        tracing::warn!(alert = %rule.name, kind = %entry.kind, count = met.count, "an alert was raised");
        let caller = self.caller(entry);
        let event = Event {
            caller: caller.clone(),
            ..Event::new(Kind::AlertRaised).with(Details {
                call: details.call,
                server: details.server.clone(),
                method: details.method.clone(),
                tool: details.tool.clone(),
                trace: details.trace.clone(),
                reason: format!("alert.{}", rule.name).parse().ok(),
                decision: (!then.is_empty()).then_some(Decision::Deny),
                findings: details.findings.clone(),
                owasp: details.owasp.clone(),
                count: Some(met.count),
                message: Some(Text::new(&words)),
                ..Details::default()
            })
        };
        if let Err(lost) = self.gate.recorder().log().note(event).await {
            tracing::error!(alert = %rule.name, %lost, "an alert could not be recorded, and nothing was done about it");
            return;
        }
        for action in then {
            let targets = self.targets(*action, entry, caller.as_ref());
            if targets.is_empty() {
                tracing::warn!(alert = %rule.name, ?action, "the event names nothing to do this to");
            }
            for target in targets {
                self.respond(rule, target, &words, now).await;
            }
        }
    }

    async fn respond(&self, rule: &Rule, target: Target, words: &str, now: Timestamp) {
        let by = format!("alert {}", rule.name);
        let response = Response { target, why: words.to_owned(), by, at: now };
        let responses = self.gate.responses();
        if let Err(error) = responses.stored().enforce(&response).await {
            tracing::error!(alert = %rule.name, %error, target = %response.target, "the response is not in force");
            return;
        }
        match responses.refresh().await {
            Ok(_) => self.gate.cut_off().await,
            Err(error) => tracing::error!(%error, "the responses in force cannot be read"),
        }
    }

    /// The entry with its tool as its server calls it, so that calls through the merged endpoint count with the others.
    fn by_its_servers_name(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        let bundle = self.gate.policy().bundle();
        if let (Some(tool), Some(server), Some(bundle)) = (&entry.details.tool, &entry.details.server, bundle)
        {
            entry.details.tool = Some(Text::new(&at_server(tool.as_str(), server.as_str(), &bundle)));
        }
        entry
    }

    /// What an action is done to. What else than a tool the log names where tools stand is none.
    fn targets(&self, action: Action, entry: &Entry, caller: Option<&Caller>) -> Vec<Target> {
        let details = &entry.details;
        let is_call = names_tool(entry);
        let of_person = |target: fn(&Caller) -> Target| caller.map(target).into_iter().collect();
        match (action, &details.server, &details.tool) {
            (Action::QuarantineServer, Some(server), _) => vec![Target::Server(server.clone())],
            (Action::QuarantineTool, Some(server), Some(tool)) if is_call => {
                let bundle = self.gate.policy().bundle();
                let tools = candidates(tool.as_str(), server.as_str(), bundle.as_deref());
                tools.into_iter().map(|tool| Target::Tool { server: server.clone(), tool }).collect()
            }
            (Action::QuarantineServer | Action::QuarantineTool, ..) => Vec::new(),
            (Action::RevokePerson, ..) => of_person(|caller| Target::Person {
                issuer: caller.issuer().to_owned(),
                subject: caller.subject().to_owned(),
            }),
            (Action::RevokeClient, ..) => of_person(|caller| Target::Client {
                issuer: caller.issuer().to_owned(),
                client: caller.client().to_owned(),
            }),
        }
    }

    /// Who the event is about, unless he is erased.
    fn caller(&self, entry: &Entry) -> Option<Caller> {
        let person = entry.person?;
        let people = self.gate.recorder().log().persons().everybody().ok()?;
        let identity = people.get(&person)?.identity();
        let client = entry.client.as_ref().map_or("", |client| client.as_str());
        Some(Caller::new(&identity.issuer, &identity.subject, client))
    }

    fn file(&self, rule: &str) -> PathBuf {
        self.folder.join(format!("{rule}.seen"))
    }

    /// A rule with what it has seen before: a line that says when it began, and one for each combination. Besides it, when it begins,
    /// if that is not on record: only a rule that comes into force begins to learn.
    fn recall(&self, rule: Rule) -> anyhow::Result<(Watch, Option<Timestamp>)> {
        let now = self.clock.now();
        if !matches!(rule.when, bartizan_audit::alert::When::FirstSeen { .. }) {
            return Ok((Watch::new(rule, now, []), None));
        }
        let file = self.file(&rule.name);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // What is learned must be kept somewhere.
                fs::create_dir_all(&self.folder)
                    .and_then(|()| tempfile::tempfile_in(&self.folder))
                    .with_context(|| format!("cannot write to {}", self.folder.display()))?;
                return Ok((Watch::new(rule, now, []), Some(now)));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let mut lines = text.lines();
        let began = lines.next().and_then(|line| line.parse().ok()).map_or(now, Timestamp::from_unix);
        // A line that a crash tore is a combination that will be new once more.
        let known = lines.filter_map(|line| serde_json::from_str::<Vec<String>>(line).ok());
        Ok((Watch::new(rule, began, known), None))
    }

    fn remember(&self, rule: &str, key: &[String]) -> std::io::Result<()> {
        append(&self.file(rule), &serde_json::to_string(key)?)
    }
}

/// Whether the tool that an entry names is one. Of a task, and of what is told on the way, the gate itself says whose it is; in other
/// requests it is what the client named, such as a prompt.
fn names_tool(entry: &Entry) -> bool {
    let method = entry.details.method.as_ref().map_or("", |method| method.as_str());
    matches!(method, "tools/call" | "tasks/get" | "tasks/result") || entry.kind == Kind::CallEvent
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}
