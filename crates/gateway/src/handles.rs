//! What a server hands out and a client hands back: cursors, `requestState`, task ids.
//!
//! A client only ever sees them sealed and bound to itself and the server, so that holding one is worth nothing to
//! anybody else (spec.md, B-44, G-32, G-33), and gets back exactly what it was given.

use std::sync::Arc;

use bartizan_model::{CallerKey, Clock, ServerName, Timestamp};
use bartizan_store::Sealer;

use crate::{limits::HANDLE_LIFE, merged};

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
    Task,
}

/// Seals and opens handles.
#[derive(Clone)]
pub struct Handles {
    sealer: Arc<Sealer>,
    clock: Arc<dyn Clock>,
}

impl Handles {
    /// Handles under `sealer`'s key.
    pub fn new(sealer: Arc<Sealer>, clock: Arc<dyn Clock>) -> Self {
        Self { sealer, clock }
    }

    /// `value`, sealed for `caller` and `place`, the server's name or `/` for the merged endpoint. A task's handle is the same each time; the others expire.
    pub fn seal(&self, kind: Handle<'_>, caller: &CallerKey, place: &str, value: &str) -> String {
        let expires = match kind {
            Handle::Task => Timestamp::from_unix(u64::MAX),
            _ => self.clock.now().plus(HANDLE_LIFE),
        };
        let mut plain = expires.as_unix().to_be_bytes().to_vec();
        plain.extend_from_slice(value.as_bytes());
        let (name, of) = kind.context();
        self.sealer.seal(&[name, of, caller.as_bytes(), place.as_bytes()], &plain)
    }

    /// The value that was sealed, if it was sealed so and has not expired.
    pub fn open(&self, kind: Handle<'_>, caller: &CallerKey, place: &str, sealed: &str) -> Option<String> {
        let (name, of) = kind.context();
        let plain = self.sealer.open(&[name, of, caller.as_bytes(), place.as_bytes()], sealed)?;
        let (expires, value) = plain.split_first_chunk::<8>()?;
        if Timestamp::from_unix(u64::from_be_bytes(*expires)) < self.clock.now() {
            return None;
        }
        String::from_utf8(value.to_vec()).ok()
    }

    /// The task `id` of `server` as `caller` knows it: at the merged endpoint with the server's name.
    pub fn seal_task(&self, caller: &CallerKey, server: &ServerName, is_merged: bool, id: &str) -> String {
        let sealed = self.seal(Handle::Task, caller, server.as_str(), id);
        if is_merged { merged::join_task(server, &sealed) } else { sealed }
    }

    /// The task of `server` that `caller` knows as `shown`, as the server calls it.
    pub fn open_task(
        &self,
        caller: &CallerKey,
        server: &ServerName,
        is_merged: bool,
        shown: &str,
    ) -> Option<String> {
        let sealed = if is_merged {
            merged::split_task(shown).filter(|(named, _)| *named == server.as_str())?.1
        } else {
            shown
        };
        self.open(Handle::Task, caller, server.as_str(), sealed)
    }
}

impl Handle<'_> {
    fn context(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Cursor { method } => (b"cursor", method.as_bytes()),
            Self::Round { request } => (b"round", request),
            Self::State { request } => (b"state", request),
            Self::Task => (b"task", b""),
        }
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::{Caller, ManualClock};

    use super::*;

    #[test]
    fn a_handle_is_good_for_one_caller_one_server_one_purpose_and_a_while() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(1000)));
        let handles = Handles::new(Arc::new(Sealer::new(&[1; 32]).unwrap()), clock.clone());
        let (alice, bob) = (Caller::new("i", "alice", "c").key(), Caller::new("i", "bob", "c").key());
        let (files, git) = ("files", "git");
        let tools = Handle::Cursor { method: "tools/list" };
        let sealed = handles.seal(tools, &alice, files, "page 2");
        assert_eq!(handles.open(tools, &alice, files, &sealed).as_deref(), Some("page 2"));
        assert_eq!(handles.open(tools, &bob, files, &sealed), None);
        assert_eq!(handles.open(tools, &alice, git, &sealed), None);
        assert_eq!(handles.open(Handle::Cursor { method: "prompts/list" }, &alice, files, &sealed), None);
        assert_eq!(handles.open(Handle::Task, &alice, files, &sealed), None);
        let task = handles.seal(Handle::Task, &alice, files, "t1");
        clock.advance(HANDLE_LIFE * 2);
        assert_eq!(handles.open(tools, &alice, files, &sealed), None, "cursors expire");
        assert_eq!(handles.seal(Handle::Task, &alice, files, "t1"), task, "a task keeps its id");
        assert!(handles.open(Handle::Task, &alice, files, &task).is_some());
    }
}
