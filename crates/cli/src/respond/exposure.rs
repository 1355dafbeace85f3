//! The step `exposure`: whom and what the server saw, as the audit log tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;
use bartizan_audit::{
    Entry, Kind,
    search::{Filter, Term, walk},
};
use bartizan_model::{ServerName, Timestamp};
use bartizan_store::plans::{Standing, Step};
use serde::{Deserialize, Serialize};

use super::compromise::{Done, Run, Scene};

/// The most people who are listed one by one; the rest are counted.
const PEOPLE: usize = 10_000;
/// The most names of one sort that are listed for one person.
const NAMES: usize = 100;

/// What the server saw of one person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Calls that it heard of.
    pub calls: u64,
    /// When the first one was, and the last (RFC 3339).
    pub first: String,
    pub last: String,
    /// What was called: tools, prompts, or methods where there is neither.
    pub tools: BTreeSet<String>,
    /// Through which clients.
    pub clients: BTreeSet<String>,
    /// The flow labels of what was called: `private` data, `untrusted` text, `destructive` acts.
    pub labels: BTreeSet<String>,
    /// Bytes that went to it, and that came from it.
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// Everybody.
#[derive(Debug, Default)]
pub struct Exposed {
    /// By pseudonym.
    pub people: BTreeMap<String, Seen>,
    /// People beyond those.
    pub more: u64,
}

/// Reads every log in `folder`, in memory bounded by how many people and tools there are.
///
/// # Errors
/// The system's.
pub fn of(folder: &Path, server: &ServerName, since: Option<Timestamp>) -> anyhow::Result<Exposed> {
    let mut exposed = Exposed::default();
    let mut beyond = BTreeSet::new();
    let filter = Filter { terms: vec![Term::new("server", server.as_str())], since, until: None };
    walk(folder, &filter, |_, line| {
        let Ok(entry) = serde_json::from_str::<Entry>(line) else { return Ok(true) };
        let Some(person) = entry.person.filter(|_| matches!(entry.kind, Kind::CallOpened | Kind::CallClosed))
        else {
            return Ok(true);
        };
        let person = person.to_string();
        if exposed.people.len() >= PEOPLE && !exposed.people.contains_key(&person) {
            beyond.insert(person);
            return Ok(true);
        }
        exposed.people.entry(person).or_default().add(&entry);
        Ok(true)
    })
    .context("the audit log cannot be read")?;
    // Whoever was only told of by the end of a call that began before.
    exposed.people.retain(|_, seen| seen.calls > 0 || seen.response_bytes > 0);
    exposed.more = beyond.len() as u64;
    Ok(exposed)
}

impl Seen {
    fn add(&mut self, entry: &Entry) {
        let details = &entry.details;
        let time = entry.time.to_string();
        if self.first.is_empty() || time < self.first {
            self.first.clone_from(&time);
        }
        if time > self.last {
            self.last = time;
        }
        if entry.kind == Kind::CallClosed {
            self.response_bytes += details.response_bytes.unwrap_or(0);
            return;
        }
        self.calls += 1;
        self.request_bytes += details.request_bytes.unwrap_or(0);
        let named = details.tool.as_ref().or(details.method.as_ref());
        insert(&mut self.tools, named.map(ToString::to_string));
        insert(&mut self.clients, entry.client.as_ref().map(ToString::to_string));
        for label in &details.labels {
            insert(&mut self.labels, Some(label.to_string()));
        }
    }
}

fn insert(into: &mut BTreeSet<String>, name: Option<String>) {
    if into.len() < NAMES {
        into.extend(name.filter(|name| !name.is_empty()));
    }
}

/// Lists them, each under the pseudonym: whoever is erased later is erased here too.
pub async fn list(scene: &Scene, run: &Run) -> anyhow::Result<Done> {
    let exposed = of(&scene.state.audit_folder(), &scene.server, scene.since)?;
    let (mut calls, mut labels) = (0, BTreeSet::new());
    for (pseudonym, seen) in &exposed.people {
        calls += seen.calls;
        labels.extend(seen.labels.iter().cloned());
        run.settle(Step::Exposure, pseudonym, Standing::Done, &serde_json::to_string(seen)?).await?;
    }
    let people = exposed.people.len() as u64 + exposed.more;
    let since = scene.since.map_or_else(
        || "all that is kept".to_owned(),
        |since| format!("since {}", bartizan_audit::event::rfc3339::text(since)),
    );
    let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
    let words = format!(
        "{people} people, {calls} call(s), {since}{}{}",
        if labels.is_empty() { String::new() } else { format!("; data: {labels}") },
        if exposed.more > 0 {
            format!("; {} more people are not listed", exposed.more)
        } else {
            String::new()
        },
    );
    run.record(Kind::Responded, "exposure", &run.plan().id, &words).await?;
    Ok(Done { standing: Standing::Done, words })
}
