//! Rules over the stream of events: too many, never before, suddenly more, what must not meet.
//!
//! Pure: entries and the time in, alerts out. What becomes of an alert is its reader's business. Everything here is
//! bounded, so that whoever makes events cannot make memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bartizan_model::Timestamp;

use crate::event::{Decision, Entry, Kind, Outcome, Reason, Severity};

/// The most keys that one rule remembers. More are let go, the one that was silent longest first.
const KEYS: usize = 10_000;

/// The most combinations that a rule of [`When::FirstSeen`] knows. Beyond, nothing is new to it any more.
const KNOWN: usize = 100_000;

/// The most slices that a rule of [`When::Burst`] keeps its past in.
const PAST: u64 = 1000;

/// What makes a rule look at an entry. All that is given must fit; an empty list fits everything.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Reason codes, whole or up to a `.`: `policy` fits `policy.denied`.
    pub reasons: Vec<Reason>,
    /// Outcomes.
    pub outcomes: Vec<Outcome>,
    /// The decision.
    pub decision: Option<Decision>,
    /// At least so severe.
    pub severity: Option<Severity>,
    /// Rules of the shield that found something, whole or up to a `.`: `secret` fits `secret.github-token`.
    pub findings: Vec<String>,
    /// Names of servers.
    pub servers: Vec<String>,
}

/// A field of an entry, by which things are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The person's pseudonym.
    Person,
    /// The client.
    Client,
    /// The server.
    Server,
    /// The tool.
    Tool,
    /// The method.
    Method,
    /// The reason.
    Reason,
}

/// When a rule is met.
#[derive(Clone, Debug)]
pub enum When {
    /// So many within so long.
    Threshold {
        /// How many.
        count: u64,
        /// Within.
        within: Duration,
    },
    /// A combination of the fields that was never seen before.
    FirstSeen {
        /// For so long from its beginning the rule only learns.
        learn: Duration,
    },
    /// More than so many times as many within so long as is usual.
    Burst {
        /// How many times the usual.
        times: u64,
        /// Within.
        within: Duration,
        /// What is usual is the mean over this long before.
        over: Duration,
        /// And at least so many.
        at_least: u64,
    },
    /// Flow labels that must not meet have met.
    Flow {
        /// Which ones.
        meet: Vec<String>,
        /// Within.
        within: Duration,
        /// Only when something would have gone out after that: a refusal of the flow rule, or a finding of exfiltration.
        attempt: bool,
    },
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it is called.
    pub name: String,
    /// What it looks at.
    pub matching: Matching,
    /// By what it counts apart: each combination of these for itself.
    pub by: Vec<Field>,
    /// When it is met.
    pub when: When,
    /// For so long after it was met it is not met again for the same combination.
    pub quiet: Duration,
}

/// A rule that is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// The combination it is met for, in the order of the rule's fields.
    pub key: Vec<String>,
    /// How many were counted.
    pub count: u64,
}

/// A rule and what it remembers.
pub struct Watch {
    rule: Rule,
    began: Timestamp,
    keys: BTreeMap<Vec<String>, Memory>,
    known: BTreeSet<Vec<String>>,
}

#[derive(Default)]
struct Memory {
    /// When, for thresholds: the newest so many.
    times: VecDeque<Timestamp>,
    /// How many in each slice of the past, by its number, for bursts.
    slices: VecDeque<(u64, u64)>,
    /// When each label came last, for flows.
    labels: BTreeMap<String, Timestamp>,
    last: Option<Timestamp>,
    met: Option<Timestamp>,
}

impl Matching {
    /// Whether a rule looks at `entry`. Alerts never make alerts.
    pub fn fits(&self, entry: &Entry) -> bool {
        let details = &entry.details;
        let prefix = |whole: &str, part: &str| {
            whole.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let any = |parts: &[String], whole: &str| parts.iter().any(|part| prefix(whole, part));
        entry.kind != Kind::AlertRaised
            && (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
            && (self.reasons.is_empty()
                || details.reason.as_ref().is_some_and(|reason| {
                    self.reasons.iter().any(|part| prefix(reason.as_str(), part.as_str()))
                }))
            && (self.outcomes.is_empty() || details.outcome.is_some_and(|o| self.outcomes.contains(&o)))
            && self.decision.is_none_or(|decision| details.decision == Some(decision))
            && self.severity.is_none_or(|severity| entry.severity() >= severity)
            && (self.findings.is_empty()
                || details.findings.iter().any(|found| any(&self.findings, found.rule.as_str())))
            && (self.servers.is_empty()
                || details
                    .server
                    .as_ref()
                    .is_some_and(|s| self.servers.iter().any(|name| name == s.as_str())))
    }
}

impl Field {
    fn of(self, entry: &Entry) -> String {
        let details = &entry.details;
        match self {
            Self::Person => entry.person.map(|person| person.to_string()),
            Self::Client => entry.client.as_ref().map(ToString::to_string),
            Self::Server => details.server.as_ref().map(ToString::to_string),
            Self::Tool => details.tool.as_ref().map(ToString::to_string),
            Self::Method => details.method.as_ref().map(ToString::to_string),
            Self::Reason => details.reason.as_ref().map(ToString::to_string),
        }
        .unwrap_or_default()
    }
}

impl Watch {
    /// A rule that begins to watch at `now`, or began earlier and knows these combinations from then.
    pub fn new(rule: Rule, began: Timestamp, known: impl IntoIterator<Item = Vec<String>>) -> Self {
        let known = known.into_iter().take(KNOWN).collect();
        Self { rule, began, keys: BTreeMap::new(), known }
    }

    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Takes an entry in. Whether the rule is met by it; and for [`When::FirstSeen`], whether the combination was new
    /// and is to be remembered by whoever keeps it.
    pub fn see(&mut self, entry: &Entry, now: Timestamp) -> (Option<Met>, Option<Vec<String>>) {
        if !self.rule.matching.fits(entry) {
            return (None, None);
        }
        let key: Vec<String> = self.rule.by.iter().map(|field| field.of(entry)).collect();
        if let When::FirstSeen { learn } = self.rule.when {
            if self.known.len() >= KNOWN || !self.known.insert(key.clone()) {
                return (None, None);
            }
            let met = (now.since(self.began) >= learn).then(|| Met { key: key.clone(), count: 1 });
            return (met, Some(key));
        }
        self.make_room(&key);
        let rule = &self.rule;
        let memory = self.keys.entry(key.clone()).or_default();
        memory.last = Some(now);
        let count = match &rule.when {
            When::Threshold { count, within } => memory.count_within(*count, *within, now),
            When::Burst { times, within, over, at_least } => {
                memory.burst(*times, *within, *over, *at_least, now)
            }
            When::FirstSeen { .. } => None,
            When::Flow { meet, within, attempt } => memory.flow(meet, *within, *attempt, entry, now),
        };
        // Not until a clock that was set back has caught up.
        let is_quiet = memory.met.is_some_and(|met| met <= now && now.since(met) < rule.quiet);
        match count {
            Some(count) if !is_quiet => {
                memory.met = Some(now);
                (Some(Met { key, count }), None)
            }
            _ => (None, None),
        }
    }

    fn make_room(&mut self, key: &[String]) {
        if self.keys.len() < KEYS || self.keys.contains_key(key) {
            return;
        }
        // A tenth at once, so that a flood of keys does not look for the oldest at every entry.
        let mut ages: Vec<_> = self.keys.values().map(|memory| memory.last).collect();
        let at = ages.len() / 10;
        let (_, oldest, _) = ages.select_nth_unstable(at);
        let oldest = *oldest;
        self.keys.retain(|_, memory| memory.last > oldest);
    }
}

impl Memory {
    /// How many there were within `within` until `now`, if those are `count` or more.
    fn count_within(&mut self, count: u64, within: Duration, now: Timestamp) -> Option<u64> {
        self.times.push_back(now);
        // No more than are counted need be kept.
        while self.times.len() as u64 > count.max(1) {
            self.times.pop_front();
        }
        while self.times.front().is_some_and(|first| now.since(*first) >= within) {
            self.times.pop_front();
        }
        let found = self.times.len() as u64;
        (found >= count).then_some(found)
    }

    /// How many labels have met within `within` until `now`, if all of `meet` have, and if this entry says so.
    fn flow(
        &mut self,
        meet: &[String],
        within: Duration,
        attempt: bool,
        entry: &Entry,
        now: Timestamp,
    ) -> Option<u64> {
        let brings: Vec<_> = meet
            .iter()
            .filter(|label| entry.details.labels.iter().any(|l| l.as_str() == label.as_str()))
            .collect();
        for label in &brings {
            self.labels.insert((*label).clone(), now);
        }
        let is_it = if attempt { goes_out(entry) } else { !brings.is_empty() };
        let have_met =
            meet.iter().all(|label| self.labels.get(label).is_some_and(|at| now.since(*at) < within));
        (is_it && have_met).then_some(meet.len() as u64)
    }

    /// How many there were within `within` until `now`, if those are a burst.
    fn burst(
        &mut self,
        times: u64,
        within: Duration,
        over: Duration,
        at_least: u64,
        now: Timestamp,
    ) -> Option<u64> {
        let width = within.as_secs().max(1);
        let slice = now.as_unix() / width;
        match self.slices.back_mut() {
            Some((last, count)) if *last == slice => *count += 1,
            _ => self.slices.push_back((slice, 1)),
        }
        let past = (over.as_secs() / width).clamp(1, PAST);
        while self.slices.front().is_some_and(|(first, _)| *first + past < slice) {
            self.slices.pop_front();
        }
        let (_, current) = *self.slices.back()?;
        let before: u64 = self.slices.iter().filter(|(n, _)| *n < slice).map(|(_, count)| count).sum();
        // Compared as products: a mean of whole numbers would round a quiet past to nothing.
        let is_burst = current >= at_least && current * past > times * before.max(1);
        is_burst.then_some(current)
    }
}

/// Whether something would have gone out that must not.
fn goes_out(entry: &Entry) -> bool {
    let details = &entry.details;
    let refused = details.reason.as_ref().is_some_and(|reason| reason.as_str() == "policy.flow");
    let found =
        |finding: &crate::event::Finding| finding.rule.as_str().split('.').next() == Some("exfiltration");
    refused || details.findings.iter().any(found)
}

#[cfg(test)]
mod tests;
