//! What commands change, in the audit log before it counts: who did it, what it was, and what it became.
//!
//! Each command has a log of its own process; a running gate exports it once the process has ended. What cannot be recorded is not
//! done.

use anyhow::Context;
use async_trait::async_trait;
use bartizan_audit::{
    Details, Event, Kind, Text,
    event::{Change, Decision},
};
use bartizan_model::{Caller, ServerName};

use crate::state::State;

/// One change, before it is made.
pub struct Deed {
    event: Event,
    by: String,
    why: String,
}

impl Deed {
    /// `by`, on the person's own word, makes `name`, which is a `entity`, of `from` into `to`: names, digests and versions,
    /// never contents.
    pub fn new(kind: Kind, by: &str, entity: &str, name: &str, from: Option<&str>, to: Option<&str>) -> Self {
        let change = Change {
            entity: Text::new(entity),
            name: Text::new(name),
            from: from.map(Text::new),
            to: to.map(Text::new),
        };
        let details = Details { change: Some(change), ..Details::default() };
        let event = Event::new(kind).by(&Caller::local_owner()).with(details);
        Self { event, by: by.to_owned(), why: String::new() }
    }

    /// The same, about this server.
    #[must_use]
    pub fn at(mut self, server: &ServerName) -> Self {
        self.event.details.server = Some(server.clone());
        self
    }

    /// The same, about this tool of the server.
    #[must_use]
    pub fn of_tool(mut self, tool: &str) -> Self {
        self.event.details.tool = Some(Text::new(tool));
        self
    }

    /// The same, which decides so.
    #[must_use]
    pub fn deciding(mut self, decision: Decision) -> Self {
        self.event.details.decision = Some(decision);
        self
    }

    /// The same, for this reason.
    #[must_use]
    pub fn because(mut self, why: &str) -> Self {
        why.clone_into(&mut self.why);
        self
    }

    /// As it is recorded of an administrator, whom the gate knows.
    pub fn of(self, caller: &Caller) -> Event {
        let Self { event, why, .. } = self;
        let mut event = event.by(caller);
        event.details.message = Some(why).filter(|why| !why.is_empty()).map(|why| Text::new(&why));
        event
    }

    /// As it is recorded: the system's word for who it is stands beside the person's own, where that is another.
    pub fn event(self) -> Event {
        let Self { mut event, by, why } = self;
        let uid = uid();
        let who = if by == uid { uid } else { format!("{by} ({uid})") };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        event.details.message = Some(Text::new(&format!("{who}{why}")));
        event
    }
}

/// The system's word for who runs this process.
pub fn uid() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

/// Where deeds are recorded.
#[async_trait]
pub trait Journal: Sync {
    /// Records them all: durable when this returns.
    ///
    /// # Errors
    /// None of them may be done.
    async fn note(&self, deeds: Vec<Deed>) -> anyhow::Result<()>;
}

/// The log of a command's own process.
pub struct OwnLog<'s> {
    /// Beside what.
    pub state: &'s State,
    /// What the log is called.
    pub name: &'static str,
}

#[async_trait]
impl Journal for OwnLog<'_> {
    async fn note(&self, deeds: Vec<Deed>) -> anyhow::Result<()> {
        let words = "it is not done, for it cannot be recorded";
        let log = self.state.log(self.name).context(words)?;
        for deed in deeds {
            let _ = log.note(deed.event()).await.context(words)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps what is noted, or refuses to.
    #[derive(Default)]
    pub struct Kept {
        /// What was noted.
        pub events: Mutex<Vec<Event>>,
        /// Whether it can be written.
        pub is_full: bool,
    }

    #[async_trait]
    impl Journal for Kept {
        async fn note(&self, deeds: Vec<Deed>) -> anyhow::Result<()> {
            anyhow::ensure!(!self.is_full, "the disk is full");
            self.events.lock().unwrap().extend(deeds.into_iter().map(Deed::event));
            Ok(())
        }
    }

    #[test]
    fn a_deed_names_the_user_of_the_system_beside_the_persons_own_word() {
        let deed = Deed::new(Kind::SecretChanged, "ada", "secret", "KEY", Some("value 1"), Some("value 2"));
        let event = deed.because("it got out").event();
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(event.details.message.unwrap().as_str(), format!("ada (uid {uid}): it got out"));
        let change = event.details.change.unwrap();
        assert_eq!((change.from.unwrap().as_str(), change.to.unwrap().as_str()), ("value 1", "value 2"));
        assert_eq!(event.caller, Some(Caller::local_owner()));
        let said = |by: &str| {
            let event = Deed::new(Kind::SecretChanged, by, "secret", "KEY", None, None).event();
            event.details.message.unwrap().to_string()
        };
        assert_eq!(said(&format!("uid {uid}")), format!("uid {uid}"), "once is enough");
        let other = format!("uid {}", uid + 1);
        assert_eq!(said(&other), format!("{other} (uid {uid})"), "nobody passes for another");
    }
}
