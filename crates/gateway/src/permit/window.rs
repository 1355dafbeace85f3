//! What has entered a caller's window, and what a call brings into it (attacks.md II-14).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::Duration,
};

use bartizan_mcp::Refusal;
use bartizan_model::{CallerKey, Timestamp};
use bartizan_policy::{
    Decision, FlowLabels,
    flow::{FlowContext, Label},
};
use bartizan_store::flows::Flow;

use super::{Policy, Ready, unready, unusable};
use crate::{Asker, server::Server, upstream::stdio::lock};

/// For how long a label that this process recorded is not recorded again.
const RECORD_AGAIN: Duration = Duration::from_secs(60);

/// Callers of whom something is known to be on record. Who signs in through one application after the other is another caller
/// each time.
const KNOWN: usize = 4096;

/// What of a caller's window this process knows to be on record.
#[derive(Default)]
pub(super) struct Recorded {
    /// How often windows had been reset before.
    resets: i64,
    labels: BTreeMap<Label, Timestamp>,
}

impl Policy {
    /// Decides with what is on record, and puts nothing there: the call is not made yet. Answers as [`Policy::admit`].
    pub(super) async fn consider(
        &self,
        asker: &Asker,
        ready: &Ready,
        judge: &(dyn Fn(FlowContext) -> Decision + Send + Sync),
        leaks: &(dyn Fn(FlowContext) -> bool + Send + Sync),
    ) -> Result<(Decision, bool, String), Refusal> {
        let since = Timestamp::from_unix(self.clock.now().as_unix().saturating_sub(ready.window.as_secs()));
        let past = self.flows.window(&asker.caller, since).await.map_err(unusable)?;
        let flow = context_of(&past);
        Ok((judge(flow), leaks(flow), because(&past)))
    }

    /// Decides with what is on record, and puts what the call brings on record if it may be made. Answers whether it
    /// `leaks` too, and what it was that had entered.
    pub(super) async fn admit(
        &self,
        asker: &Asker,
        server: &Server,
        (tool, labels): (&str, FlowLabels),
        ready: &Ready,
        judge: &(dyn Fn(FlowContext) -> Decision + Send + Sync),
        leaks: &(dyn Fn(FlowContext) -> bool + Send + Sync),
    ) -> Result<(Decision, bool, String), Refusal> {
        let now = self.clock.now();
        let entry = Flow {
            at: now,
            server: server.name().clone(),
            tool: tool.to_owned(),
            labels: words(labels),
            call: String::new(),
        };
        let decided = Mutex::new(None);
        let admits = |past: &[Flow]| {
            let flow = context_of(past);
            let decision = judge(flow);
            let goes = decision.is_permit() && !leaks(flow);
            *lock(&decided) = Some((decision, leaks(flow), because(past)));
            goes
        };
        let since = Timestamp::from_unix(now.as_unix().saturating_sub(ready.window.as_secs()));
        self.flows.admit(&asker.caller, since, &entry, &admits).await.map_err(unusable)?;
        lock(&decided).take().ok_or_else(unready)
    }

    /// Whether all that a call brings was put on record a moment ago and is in the `window`, if nobody has reset it since.
    pub(super) fn is_recorded(&self, asker: &Asker, labels: FlowLabels, window: Duration) -> bool {
        let (now, again) = (self.clock.now(), RECORD_AGAIN.min(window));
        let recorded = lock(&self.recorded);
        let mine = recorded.get(&asker.key);
        brought(labels)
            .all(|label| mine.and_then(|m| m.labels.get(&label)).is_some_and(|at| now.since(*at) < again))
    }

    /// How often windows had been reset when something of the caller's was last put on record here.
    pub(super) fn resets_before(&self, asker: &Asker) -> i64 {
        lock(&self.recorded).get(&asker.key).map_or(0, |mine| mine.resets)
    }

    pub(super) fn remember(&self, asker: &Asker, labels: FlowLabels, resets: i64, now: Timestamp) {
        let mut recorded = lock(&self.recorded);
        make_room(&mut recorded, &asker.key);
        let mine = recorded.entry(asker.key.clone()).or_default();
        if mine.resets != resets {
            *mine = Recorded { resets, labels: BTreeMap::new() };
        }
        mine.labels.extend(brought(labels).map(|label| (label, now)));
    }

    pub(super) fn remembered(&self, asker: &Asker, window: Duration) -> FlowContext {
        let now = self.clock.now();
        let recorded = lock(&self.recorded);
        let has = |label| {
            recorded
                .get(&asker.key)
                .and_then(|m| m.labels.get(&label))
                .is_some_and(|at| now.since(*at) <= window)
        };
        FlowContext {
            untrusted: has(Label::Untrusted),
            private: has(Label::Private),
            destructive: has(Label::Destructive),
        }
    }
}

/// Forgets everybody where there is no room for one more: what is known of nobody is asked of the store again.
fn make_room(recorded: &mut HashMap<CallerKey, Recorded>, newcomer: &CallerKey) {
    if recorded.len() >= KNOWN && !recorded.contains_key(newcomer) {
        recorded.clear();
    }
}

/// The labels that a call leaves in the window.
pub(super) fn brought(labels: FlowLabels) -> impl Iterator<Item = Label> {
    [
        (Label::Destructive, labels.destructive),
        (Label::Private, labels.reads_private),
        (Label::Untrusted, labels.sees_untrusted),
    ]
    .into_iter()
    .filter_map(|(label, enters)| enters.then_some(label))
}

pub(super) fn word(label: Label) -> &'static str {
    match label {
        Label::Destructive => "destructive",
        Label::Private => "private",
        Label::Untrusted => "untrusted",
    }
}

fn words(labels: FlowLabels) -> Vec<String> {
    brought(labels).map(|label| word(label).to_owned()).collect()
}

pub(super) fn context_of(past: &[Flow]) -> FlowContext {
    let has = |label| past.iter().any(|flow| flow.labels.iter().any(|l| l == word(label)));
    FlowContext {
        untrusted: has(Label::Untrusted),
        private: has(Label::Private),
        destructive: has(Label::Destructive),
    }
}

/// The latest call that brought each of the two labels that must not meet, for a person to read.
pub(super) fn because(past: &[Flow]) -> String {
    let latest = |label: Label, what: &str| {
        let flow = past.iter().rev().find(|f| f.labels.iter().any(|l| l == word(label)))?;
        let minutes = flow.at.as_unix() / 60 % (24 * 60);
        Some(format!(
            "`{}` of `{}` at {:02}:{:02} UTC {what}",
            flow.tool,
            flow.server,
            minutes / 60,
            minutes % 60
        ))
    };
    let found = [
        latest(Label::Untrusted, "returned untrusted text"),
        latest(Label::Private, "returned private data"),
    ];
    found.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use bartizan_model::Caller;

    use super::*;

    #[test]
    fn however_many_applications_somebody_comes_by_little_is_remembered() {
        let mut recorded = HashMap::new();
        for nth in 0..3 * KNOWN {
            let key = Caller::new("https://idp", "ann", format!("https://a.example/{nth}")).key();
            make_room(&mut recorded, &key);
            recorded.entry(key).or_default();
        }
        assert!(recorded.len() <= KNOWN, "{}", recorded.len());
        let known = recorded.keys().next().unwrap().clone();
        let before = recorded.len();
        make_room(&mut recorded, &known);
        assert_eq!(recorded.len(), before, "who is known needs no room");
    }
}
