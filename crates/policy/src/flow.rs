//! Information flow: what has entered a caller's window, so that a stranger's text and private data do not go out
//! together.
//!
//! A pure state machine. One [`State`] belongs to one principal at one client; the caller holds it exclusively from
//! [`State::admit`] until it is stored again, so that parallel calls see each other.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    future::Future,
    pin::Pin,
    time::Duration,
};

use bartizan_model::{CallerKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::catalog::FlowLabels;

/// How long what has entered counts, unless configured otherwise.
pub const WINDOW: Duration = Duration::from_secs(8 * 60 * 60);
/// Tools that one label remembers; the latest stay.
const REMEMBERED: usize = 32;

/// Which labels are in the window: what `context.flow` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowContext {
    /// Text that a stranger may have written has been seen.
    pub untrusted: bool,
    /// Private data has been read.
    pub private: bool,
    /// Something may have been changed or destroyed.
    pub destructive: bool,
}

/// A label that stays in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// See [`FlowLabels::destructive`].
    Destructive,
    /// See [`FlowLabels::reads_private`].
    Private,
    /// See [`FlowLabels::sees_untrusted`].
    Untrusted,
}

/// Where a label came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Origin {
    /// The server's name.
    pub server: String,
    /// The tool's name.
    pub tool: String,
}

/// What has entered the window of one principal at one client, when, by which tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// The latest entry of each label by each tool, in seconds since the Unix epoch.
    entered: BTreeMap<Label, Vec<(Origin, u64)>>,
}

/// One line of an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Because {
    /// What entered.
    pub label: Label,
    /// By which tool.
    pub origin: Origin,
    /// When.
    pub at: Timestamp,
}

impl State {
    /// Decides about a call and, if it is admitted, lets its labels enter: one step, so that no other call comes in
    /// between.
    ///
    /// `decide` sees what entered *before* this call: that is what the arguments may have been written under. The
    /// labels enter when the call is admitted, not when it returns.
    ///
    /// # Errors
    /// What `decide` returns; nothing has entered then.
    pub fn admit<T, E>(
        &mut self,
        origin: &Origin,
        labels: FlowLabels,
        now: Timestamp,
        window: Duration,
        decide: impl FnOnce(FlowContext) -> Result<T, E>,
    ) -> Result<T, E> {
        let decided = decide(self.context(now, window))?;
        self.entered.values_mut().for_each(|origins| origins.retain(|(_, at)| is_within(*at, now, window)));
        for (label, enters) in [
            (Label::Destructive, labels.destructive),
            (Label::Private, labels.reads_private),
            (Label::Untrusted, labels.sees_untrusted),
        ] {
            if enters {
                self.enter(label, origin, now);
            }
        }
        Ok(decided)
    }

    fn enter(&mut self, label: Label, origin: &Origin, now: Timestamp) {
        let origins = match self.entered.entry(label) {
            Entry::Vacant(vacant) => vacant.insert(Vec::new()),
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        // A clock that steps back must not take a label out early.
        let latest = origins
            .iter()
            .filter(|(o, _)| o == origin)
            .map(|(_, at)| *at)
            .max()
            .unwrap_or(0)
            .max(now.as_unix());
        origins.retain(|(o, _)| o != origin);
        origins.push((origin.clone(), latest));
        if origins.len() > REMEMBERED {
            // INVARIANT: a label is in the window if and only if its latest entry is, so the oldest may be forgotten.
            origins.sort_by_key(|(_, at)| *at);
            origins.remove(0);
        }
    }

    /// Which labels are in the window that ends `now`.
    pub fn context(&self, now: Timestamp, window: Duration) -> FlowContext {
        let has = |label| {
            self.entered
                .get(&label)
                .is_some_and(|origins| origins.iter().any(|(_, at)| is_within(*at, now, window)))
        };
        FlowContext {
            untrusted: has(Label::Untrusted),
            private: has(Label::Private),
            destructive: has(Label::Destructive),
        }
    }

    /// The tools that brought the labels into the window, latest first.
    pub fn because(&self, now: Timestamp, window: Duration) -> Vec<Because> {
        let entries = self
            .entered
            .iter()
            .flat_map(|(label, origins)| origins.iter().map(move |(o, at)| (*label, o, *at)));
        let mut found: Vec<Because> = entries
            .filter(|(_, _, at)| is_within(*at, now, window))
            .map(|(label, origin, at)| Because {
                label,
                origin: origin.clone(),
                at: Timestamp::from_unix(at),
            })
            .collect();
        found.sort_by(|a, b| (b.at, a.label, &a.origin).cmp(&(a.at, b.label, &b.origin)));
        found
    }
}

/// An entry from the future counts: a clock that was set back washes nothing off.
fn is_within(at: u64, now: Timestamp, window: Duration) -> bool {
    now.since(Timestamp::from_unix(at)) <= window
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.label {
            Label::Destructive => "may have changed something",
            Label::Private => "returned private data",
            Label::Untrusted => "returned untrusted text",
        };
        let minutes = self.at.as_unix() / 60 % (24 * 60);
        write!(
            f,
            "`{}` of `{}` at {:02}:{:02} UTC {what}",
            self.origin.tool,
            self.origin.server,
            minutes / 60,
            minutes % 60
        )
    }
}

/// Whose window: principal and client, as the caller's key says them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Issuer, subject and client.
    pub caller: CallerKey,
    /// The client's own conversation, only for clients that the operator lists.
    pub conversation: Option<String>,
}

/// A future of a [`Memory`].
pub type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, MemoryLost>> + Send + 'a>>;

/// The windows cannot be read or written, so nothing may be admitted.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the record of information flow cannot be reached: {0}")]
pub struct MemoryLost(pub String);

/// Where windows outlive a process. Replicas share one.
pub trait Memory: Send + Sync {
    /// The window and the revision it is in; an empty one in revision 0 if there is none.
    fn load<'a>(&'a self, window: &'a Window) -> Later<'a, (State, u64)>;
    /// Writes `state` if the window is still in `revision`; false if another writer came first.
    fn store<'a>(&'a self, window: &'a Window, state: &'a State, revision: u64) -> Later<'a, bool>;
    /// Forgets the window, at its owner's wish.
    fn reset<'a>(&'a self, window: &'a Window) -> Later<'a, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_unix(14 * 3600 + 2 * 60);

    fn origin(tool: &str) -> Origin {
        Origin { server: "s".into(), tool: tool.into() }
    }

    fn enter(state: &mut State, tool: &str, labels: FlowLabels, at: Timestamp) -> FlowContext {
        state.admit(&origin(tool), labels, at, WINDOW, Ok::<_, ()>).unwrap()
    }

    fn untrusted() -> FlowLabels {
        FlowLabels { sees_untrusted: true, ..FlowLabels::default() }
    }

    fn private() -> FlowLabels {
        FlowLabels { reads_private: true, ..FlowLabels::default() }
    }

    #[test]
    fn labels_enter_at_admission_and_are_seen_by_the_next_call() {
        let mut state = State::default();
        assert_eq!(enter(&mut state, "fetch", untrusted(), AT), FlowContext::default());
        assert!(enter(&mut state, "mail", private(), AT).untrusted);
        let met = enter(&mut state, "send", FlowLabels::default(), AT);
        assert!(met.untrusted && met.private);
    }

    #[test]
    fn a_refused_call_lets_nothing_enter() {
        let mut state = State::default();
        assert_eq!(state.admit(&origin("fetch"), untrusted(), AT, WINDOW, |_| Err::<(), _>("no")), Err("no"));
        assert_eq!(state, State::default());
    }

    #[test]
    fn the_window_slides_and_a_clock_set_back_washes_nothing_off() {
        let mut state = State::default();
        enter(&mut state, "fetch", untrusted(), AT);
        assert!(state.context(AT.plus(WINDOW), WINDOW).untrusted);
        assert!(!state.context(AT.plus(WINDOW + Duration::from_secs(1)), WINDOW).untrusted);
        assert!(state.context(Timestamp::from_unix(0), WINDOW).untrusted);
        enter(&mut state, "fetch", untrusted(), Timestamp::from_unix(0));
        assert!(state.context(AT.plus(WINDOW), WINDOW).untrusted);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_latest() {
        let mut state = State::default();
        for i in 0..1000 {
            enter(&mut state, &format!("t{i}"), untrusted(), AT.plus(Duration::from_secs(i)));
        }
        let because = state.because(AT.plus(Duration::from_secs(1000)), WINDOW);
        assert_eq!((because.len(), because[0].origin.tool.as_str()), (REMEMBERED, "t999"));
    }

    #[test]
    fn it_explains_itself_and_survives_storage() {
        let mut state = State::default();
        enter(&mut state, "fetch", untrusted(), AT);
        let again: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        let lines: Vec<String> = again.because(AT, WINDOW).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["`fetch` of `s` at 14:02 UTC returned untrusted text"]);
    }
}
