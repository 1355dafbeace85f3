//! What a server hands out and a client hands back: cursors, `requestState`, task ids.
//!
//! A client only ever sees them sealed and bound to itself and the server, so that holding one is worth nothing to
//! anybody else (spec.md, B-44, G-32, G-33), and gets back exactly what it was given.

use std::{borrow::Cow, sync::Arc};

use bartizan_model::{CallerKey, Clock, Entropy, ServerName, Timestamp};
use bartizan_store::Sealer;

use crate::{call::Made, limits::HANDLE_LIFE, merged};

/// What a handle is; one kind never opens as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle<'a> {
    /// A page of the list that `method` names.
    Cursor {
        /// The list's method.
        method: &'a str,
    },
    /// The state of a multi round-trip request, with what the gate refused to ask in it.
    Round {
        /// Method and parameters of the request it belongs to, digested.
        request: &'a [u8],
    },
    /// The state of a multi round-trip request.
    State {
        /// Method and parameters of the request it belongs to, digested.
        request: &'a [u8],
    },
    /// A task.
    Task {
        /// The process of everybody's that made it, if one did: the next one may give its id to another caller's.
        process: Option<u64>,
    },
}

/// Whose task an id is: the same one is another task at another server, and in another process of everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home<'a> {
    /// The server.
    pub server: &'a ServerName,
    /// Its process, if that is everybody's ([`crate::upstream::stdio::Process::everybodys`]).
    pub process: Option<u64>,
}

/// A task, as its server knows it.
#[derive(Clone, Debug)]
pub struct Task {
    /// What it is called by.
    pub id: String,
    /// When it was made, if the server said so: what is made at another time is another task, whatever its id.
    pub made: Option<Made>,
}

/// Seals and opens handles.
#[derive(Clone)]
pub struct Handles {
    sealer: Arc<Sealer>,
    clock: Arc<dyn Clock>,
    /// Tells the processes of this gate from those of another, or of the one before it.
    gate: [u8; 16],
}

impl Handles {
    /// Handles under `sealer`'s key.
    pub fn new(sealer: Arc<Sealer>, clock: Arc<dyn Clock>, entropy: &dyn Entropy) -> Self {
        let mut gate = [0; 16];
        entropy.fill(&mut gate);
        Self { sealer, clock, gate }
    }

    /// `value`, sealed for `caller` and `place`, the server's name or `/` for the merged endpoint. A task's handle is the same each time; the others expire.
    pub fn seal(&self, kind: Handle<'_>, caller: &CallerKey, place: &str, value: &str) -> String {
        let expires = match kind {
            Handle::Task { .. } => Timestamp::from_unix(u64::MAX),
            _ => self.clock.now().plus(HANDLE_LIFE),
        };
        let mut plain = expires.as_unix().to_be_bytes().to_vec();
        plain.extend_from_slice(value.as_bytes());
        let (name, of) = kind.context(&self.gate);
        self.sealer.seal(&[name, &of, caller.as_bytes(), place.as_bytes()], &plain)
    }

    /// The value that was sealed, if it was sealed so and has not expired.
    pub fn open(&self, kind: Handle<'_>, caller: &CallerKey, place: &str, sealed: &str) -> Option<String> {
        let (name, of) = kind.context(&self.gate);
        let plain = self.sealer.open(&[name, &of, caller.as_bytes(), place.as_bytes()], sealed)?;
        let (expires, value) = plain.split_first_chunk::<8>()?;
        if Timestamp::from_unix(u64::from_be_bytes(*expires)) < self.clock.now() {
            return None;
        }
        String::from_utf8(value.to_vec()).ok()
    }

    /// The `task` of `home` as `caller` knows it: at the merged endpoint with the server's name.
    pub fn seal_task(&self, caller: &CallerKey, home: Home<'_>, is_merged: bool, task: &Task) -> String {
        // No time has such a letter.
        let value = format!("{}/{}", task.made.as_ref().map_or("", Made::as_str), task.id);
        let sealed = self.seal(Handle::Task { process: home.process }, caller, home.server.as_str(), &value);
        if is_merged { merged::join_task(home.server, &sealed) } else { sealed }
    }

    /// The task of `home` that `caller` knows as `shown`, as the server calls it.
    pub fn open_task(
        &self,
        caller: &CallerKey,
        home: Home<'_>,
        is_merged: bool,
        shown: &str,
    ) -> Option<Task> {
        let sealed = if is_merged {
            merged::split_task(shown).filter(|(named, _)| *named == home.server.as_str())?.1
        } else {
            shown
        };
        let value =
            self.open(Handle::Task { process: home.process }, caller, home.server.as_str(), sealed)?;
        let (made, id) = value.split_once('/')?;
        Some(Task { id: id.to_owned(), made: Made::read(made) })
    }
}

impl<'a> Handle<'a> {
    fn context(self, gate: &[u8; 16]) -> (&'static [u8], Cow<'a, [u8]>) {
        match self {
            Self::Cursor { method } => (b"cursor", method.as_bytes().into()),
            Self::Round { request } => (b"round", request.into()),
            Self::State { request } => (b"state", request.into()),
            Self::Task { process: None } => (b"task", Cow::default()),
            Self::Task { process: Some(number) } => {
                (b"task", [&gate[..], &number.to_be_bytes()].concat().into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::{Caller, ManualClock, SeededEntropy};

    use super::*;

    #[test]
    fn a_handle_is_good_for_one_caller_one_server_one_purpose_and_a_while() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(1000)));
        let sealer = Arc::new(Sealer::new(&[1; 32]).unwrap());
        let entropy = SeededEntropy::new(1);
        let handles = Handles::new(Arc::clone(&sealer), clock.clone(), &entropy);
        let (alice, bob) = (Caller::new("i", "alice", "c").key(), Caller::new("i", "bob", "c").key());
        let (files, git) = ("files", "git");
        let tools = Handle::Cursor { method: "tools/list" };
        let sealed = handles.seal(tools, &alice, files, "page 2");
        assert_eq!(handles.open(tools, &alice, files, &sealed).as_deref(), Some("page 2"));
        assert_eq!(handles.open(tools, &bob, files, &sealed), None);
        assert_eq!(handles.open(tools, &alice, git, &sealed), None);
        assert_eq!(handles.open(Handle::Cursor { method: "prompts/list" }, &alice, files, &sealed), None);
        let of = |process| Handle::Task { process };
        assert_eq!(handles.open(of(None), &alice, files, &sealed), None);
        let name: ServerName = files.parse().unwrap();
        let home = Home { server: &name, process: None };
        for (id, made) in [("t/1", Some("2026-01-01T00:00:00Z")), ("", None)] {
            let dated = Task { id: id.to_owned(), made: made.and_then(Made::read) };
            let shown = handles.seal_task(&alice, home, true, &dated);
            assert!(handles.open_task(&bob, home, true, &shown).is_none());
            let opened = handles.open_task(&alice, home, true, &shown).unwrap();
            assert_eq!((opened.id.as_str(), opened.made.as_ref().map(Made::as_str)), (id, made));
        }
        let task = handles.seal(of(None), &alice, files, "t1");
        let other = handles.seal(of(Some(1)), &alice, files, "t1");
        clock.advance(HANDLE_LIFE * 2);
        assert_eq!(handles.open(tools, &alice, files, &sealed), None, "cursors expire");
        assert_eq!(handles.seal(of(None), &alice, files, "t1"), task, "a task keeps its id");
        let next = Handles::new(sealer, clock, &entropy);
        assert!(next.open(of(None), &alice, files, &task).is_some(), "past its gate's end, too");
        // The task of a process of everybody's ends with it.
        assert_eq!(handles.open(of(Some(1)), &alice, files, &other).as_deref(), Some("t1"));
        for process in [None, Some(2)] {
            assert_eq!(handles.open(of(process), &alice, files, &other), None, "{process:?}");
        }
        assert_eq!(next.open(of(Some(1)), &alice, files, &other), None, "another gate's first process");
    }
}
