//! Which tool a task came from, so that what comes of it is compared with what that tool promised (attacks.md PO-17) and
//! recorded as that tool's results are.
//!
//! It is kept in memory, for so many tasks of a caller and for a day. Of a task that nobody remembers (the gate was started
//! anew, another gate made it, or there were too many) the structured result must fit what *some* approved tool of its
//! server promises, if any promises anything: that is the most that can be asked without refusing every honest one.
//! Where calls of two tools became tasks of one id, the first promise must be kept, and neither's contents are recorded by its rule.
//!
//! It is also what makes a task somebody's. A server that sees the gate as one client lists everybody's tasks and tells of them to
//! everybody, and an id sealed for a caller is the right to read and to end that task (attacks.md SH-07): so of a list, and of
//! what is told of tasks, a caller sees those that came of their own calls. One that is not remembered is nobody's there; whoever holds
//! its sealed id from before goes on asking for it by that. A call that becomes a task of another caller's fails: a server that gives
//! one id to two of those whom it cannot tell apart has given the one the other's. A process of everybody's that is started anew may well
//! count its tasks anew: those of the one before are over, and their sealed ids open no more. A server behind a URL does not tell that it
//! was started anew, and its tasks outlive sessions, so there a call that becomes a task of another's of the last day fails.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bartizan_mcp::{Era, Message, json::Value};
use bartizan_model::{CallerKey, ServerName, Timestamp};
use bartizan_shield::schema::Contract;

use super::Call;
use crate::{
    contract,
    handles::Home,
    limits::{TASK_CALLERS, TASKS_OF_CALLER},
    upstream::{Failure, stdio::lock},
};

/// How long a task is remembered. What a server says of its tasks' life does not count: it could have them forgotten.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The tasks of one gate.
#[derive(Default)]
pub struct Tasks(Mutex<HashMap<CallerKey, VecDeque<Known>>>);

/// One task.
struct Known {
    server: ServerName,
    /// The process of everybody's that made it.
    process: Option<u64>,
    /// As the server calls it.
    id: String,
    origin: Origin,
    /// Calls of two tools became it, as they do of a server that counts its tasks and is started anew.
    is_shared: bool,
    until: Timestamp,
}

impl Known {
    fn home(&self) -> Home<'_> {
        Home { server: &self.server, process: self.process }
    }
}

/// What a task came from.
#[derive(Clone, Default)]
struct Origin {
    /// The tool that was called, as the server calls it.
    tool: String,
    /// What it promised then; none if nothing is compared for it.
    promised: Option<Arc<Contract>>,
}

impl Tasks {
    /// Remembers that a call of `caller` became the task `id` of `home`. What was said of it first counts; once there was a call
    /// of another tool, nobody knows whose it is.
    fn remember(&self, caller: &CallerKey, home: Home<'_>, id: &str, origin: Origin, now: Timestamp) {
        let mut callers = lock(&self.0);
        if callers.len() >= TASK_CALLERS && !callers.contains_key(caller) {
            callers.retain(|_, known| {
                known.retain(|task| now < task.until);
                !known.is_empty()
            });
            if callers.len() >= TASK_CALLERS {
                tracing::warn!(
                    "tasks of too many callers are under way; those of another one are not remembered"
                );
                return;
            }
        }
        let known = callers.entry(caller.clone()).or_default();
        known.retain(|task| now < task.until);
        if let Some(task) = known.iter_mut().find(|task| task.id == id && task.home() == home) {
            task.is_shared |= task.origin.tool != origin.tool;
            // A task that is made now is remembered as long as any other.
            task.until = now.plus(KEPT);
            return;
        }
        if known.len() >= TASKS_OF_CALLER {
            known.pop_front();
        }
        let until = now.plus(KEPT);
        let Home { server, process } = home;
        let (server, id) = (server.clone(), id.to_owned());
        known.push_back(Known { server, process, id, origin, is_shared: false, until });
    }

    /// What the tool of a task promised, if that tool is known.
    fn promised(
        &self,
        caller: &CallerKey,
        home: Home<'_>,
        id: &str,
        now: Timestamp,
    ) -> Option<Option<Arc<Contract>>> {
        self.known(caller, home, id, now, |known| known.origin.promised.clone())
    }

    /// The tool of a task, as its server calls it, if it is known.
    pub(super) fn tool(
        &self,
        caller: &CallerKey,
        home: Home<'_>,
        id: &str,
        now: Timestamp,
    ) -> Option<String> {
        let tool = |known: &Known| (!known.is_shared).then(|| known.origin.tool.clone());
        self.known(caller, home, id, now, tool).flatten()
    }

    /// Whether a call of `caller` became the task `id` of `home`, as far as is remembered.
    pub fn is_of(&self, caller: &CallerKey, home: Home<'_>, id: &str, now: Timestamp) -> bool {
        self.known(caller, home, id, now, |_| ()).is_some()
    }

    /// Whether a call of anybody but `caller` became the task `id` of `home`, as far as is remembered.
    fn is_of_another(&self, caller: &CallerKey, home: Home<'_>, id: &str, now: Timestamp) -> bool {
        let callers = lock(&self.0);
        let is_it = |task: &Known| task.id == id && task.home() == home && now < task.until;
        callers.iter().any(|(other, known)| other != caller && known.iter().any(is_it))
    }

    fn known<T>(
        &self,
        caller: &CallerKey,
        home: Home<'_>,
        id: &str,
        now: Timestamp,
        of: impl Fn(&Known) -> T,
    ) -> Option<T> {
        let callers = lock(&self.0);
        let is_it = |task: &&Known| task.id == id && task.home() == home && now < task.until;
        callers.get(caller)?.iter().find(is_it).map(of)
    }
}

impl Call {
    /// Whose the tasks are that it and its answers name.
    pub(super) fn home(&self) -> Home<'_> {
        Home { server: self.server.name(), process: self.process }
    }

    /// The task whose result `request` asks for, as its server calls it. What it names otherwise, or wants to be told of, is noted.
    pub(super) fn task_of(&mut self, request: &Message) -> Option<String> {
        if self.interests.is_some() {
            let shown = request.param("notifications").and_then(|n| n.get("taskIds"));
            let shown = shown.into_iter().flat_map(Value::elements).filter_map(Value::as_str);
            let named: Vec<_> = shown.filter_map(|shown| self.opened_task(&shown)).collect();
            if let Some(interests) = &mut self.interests {
                interests.name_tasks(named);
            }
            return None;
        }
        if !self.method.starts_with("tasks/") {
            return None;
        }
        let shown = request.param("taskId").and_then(Value::as_str)?;
        self.named = self.opened_task(&shown);
        self.named.clone().filter(|_| matches!(self.method.as_str(), "tasks/get" | "tasks/result"))
    }

    /// The task that its client calls `shown`, as its server calls it.
    pub(super) fn opened_task(&self, shown: &str) -> Option<String> {
        self.handles.open_task(&self.asker.key, self.home(), self.is_merged, shown)
    }

    /// Whether the task that its server calls `id` is the caller's: the one they ask about, one that they listen to, or one that came
    /// of their calls.
    pub(super) fn is_own_task(&self, task: Value<'_>) -> bool {
        let Some(id) = task.as_str() else { return false };
        self.named.as_deref() == Some(&*id)
            || self.interests.as_ref().is_some_and(|interests| interests.names(Some(task)))
            || self.tasks.is_of(&self.asker.key, self.home(), &id, self.clock.now())
    }

    /// The task that the answer `message` made of a call.
    pub(super) fn made_task<'m>(&self, message: &'m Message) -> Option<Value<'m>> {
        if self.method != "tools/call" {
            return None;
        }
        let result = message.result()?;
        match self.era {
            Era::Modern => {
                let kind = result.get("resultType").and_then(Value::as_str);
                result.get("taskId").filter(|_| kind.as_deref() == Some("task"))
            }
            Era::Legacy => result.get("task")?.get("taskId"),
        }
    }

    /// Remembers the task that the answer `message` made of a call.
    ///
    /// # Errors
    /// [`Failure::Protocol`] if it is another caller's already.
    pub(super) fn remember_task(&self, message: &Message) -> Result<(), Failure> {
        let Some(id) = self.made_task(message).and_then(Value::as_str) else { return Ok(()) };
        let (caller, home, now) = (&self.asker.key, self.home(), self.clock.now());
        if !self.server.tells_callers_apart() && self.tasks.is_of_another(caller, home, &id, now) {
            return Err(Failure::Protocol("it makes a task of it that is another caller's".into()));
        }
        let tool = self.tool.clone().unwrap_or_default();
        let origin = Origin { tool, promised: self.contract.clone() };
        self.tasks.remember(caller, home, &id, origin, now);
        Ok(())
    }

    /// Lets an answer through that is about the task that was asked about: whatever else it named would be sealed for its
    /// client, who could read and end it by that.
    ///
    /// # Errors
    /// [`Failure::Protocol`].
    pub(super) fn vet_named_task(&self, message: &Message) -> Result<(), Failure> {
        let told = message.field("taskId").filter(|_| message.result().is_some() && self.is_about_a_task());
        let is_it = |told: Value<'_>| told.as_str().is_some_and(|id| self.named.as_deref() == Some(&*id));
        if told.is_none_or(is_it) {
            return Ok(());
        }
        Err(Failure::Protocol("it answers about another task than it was asked about".into()))
    }

    /// Whether the answer says how a task is. That of `tasks/result` is its tool's own.
    pub(super) fn is_about_a_task(&self) -> bool {
        self.method.starts_with("tasks/") && !matches!(self.method.as_str(), "tasks/result" | "tasks/list")
    }

    /// Compares the result of a task with what its tool promised: an answer of `tasks/result` is one, in one of `tasks/get`
    /// and in a notification of its status it stands as `result` (ext-tasks).
    ///
    /// # Errors
    /// [`Failure::Withheld`].
    pub(super) fn vet_task(&self, message: &Message) -> Result<(), Failure> {
        let (id, result) = if let Some(id) = &self.task {
            let result = message.result();
            let inside =
                if self.method == "tasks/get" { result.and_then(|r| r.get("result")) } else { result };
            (id.clone(), inside)
        } else if message.method() == "notifications/tasks" {
            let id = message.field("taskId").and_then(Value::as_str).unwrap_or_default();
            (id.into_owned(), message.field("result"))
        } else {
            return Ok(());
        };
        let Some(result) = result.filter(|_| self.server.settings().validates) else { return Ok(()) };
        match self.tasks.promised(&self.asker.key, self.home(), &id, self.clock.now()) {
            Some(None) => Ok(()),
            Some(Some(promised)) => contract::fits(&promised, &self.server, result),
            None => contract::fits_some(&self.catalog.contracts(&self.server), &self.server, result),
        }
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::Caller;

    use super::*;

    fn of(server: &ServerName) -> Home<'_> {
        Home { server, process: None }
    }

    fn caller(name: &str) -> CallerKey {
        Caller::new("https://id.example", name, "editor").key()
    }

    #[test]
    fn a_task_is_its_callers_and_its_servers_and_what_was_said_first_counts() {
        let (tasks, now) = (Tasks::default(), Timestamp::from_unix(1_000));
        let (one, two): (ServerName, ServerName) = ("one".parse().unwrap(), "two".parse().unwrap());
        let contract = Arc::new(Contract::read("{}"));
        let (ann, bob) = (caller("ann"), caller("bob"));
        let origin = Origin { tool: "first".into(), promised: Some(contract) };
        tasks.remember(&ann, of(&one), "t", origin, now);
        tasks.remember(&ann, of(&one), "t", Origin { tool: "first".into(), promised: None }, now);
        assert!(
            tasks.promised(&ann, of(&one), "t", now).unwrap().is_some(),
            "a second call takes nothing back"
        );
        assert_eq!(tasks.tool(&ann, of(&one), "t", now).as_deref(), Some("first"));
        assert!(tasks.promised(&bob, of(&one), "t", now).is_none());
        assert!(tasks.promised(&ann, of(&two), "t", now).is_none());
        assert!(tasks.is_of(&ann, of(&one), "t", now), "it is hers");
        assert!(!tasks.is_of(&bob, of(&one), "t", now) && !tasks.is_of(&ann, of(&two), "t", now));
        assert!(!tasks.is_of(&ann, of(&one), "t", now.plus(KEPT)));
        assert!(
            tasks.is_of_another(&bob, of(&one), "t", now) && !tasks.is_of_another(&ann, of(&one), "t", now)
        );
        assert!(!tasks.is_of_another(&bob, of(&two), "t", now));
        assert!(!tasks.is_of_another(&bob, of(&one), "t", now.plus(KEPT)));
        assert!(tasks.promised(&ann, of(&one), "t", now.plus(KEPT)).is_none());
    }

    #[test]
    fn a_task_that_calls_of_two_tools_became_is_of_neither() {
        let (tasks, now) = (Tasks::default(), Timestamp::from_unix(1_000));
        let (one, two): (ServerName, ServerName) = ("one".parse().unwrap(), "two".parse().unwrap());
        let ann = caller("ann");
        let origin = |tool: &str| Origin { tool: tool.into(), promised: None };
        tasks.remember(&ann, of(&one), "1", origin("a"), now);
        tasks.remember(&ann, of(&two), "1", origin("a"), now);
        let half = Duration::from_secs(KEPT.as_secs() / 2);
        // The third does not bring the first one's rule back.
        for (tool, later) in [("b", now), ("a", now.plus(half))] {
            tasks.remember(&ann, of(&one), "1", origin(tool), later);
            assert!(tasks.tool(&ann, of(&one), "1", later).is_none());
            assert!(
                tasks.promised(&ann, of(&one), "1", later).is_some(),
                "what was promised first must be kept"
            );
        }
        assert_eq!(
            tasks.tool(&ann, of(&two), "1", now).as_deref(),
            Some("a"),
            "another server's is another task"
        );
        // It is remembered as long as the last of them.
        tasks.remember(&ann, of(&one), "1", origin("b"), now.plus(KEPT));
        assert!(tasks.tool(&ann, of(&one), "1", now.plus(KEPT)).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nobody_makes_anothers_be_forgotten() {
        let (tasks, now) = (Tasks::default(), Timestamp::from_unix(1_000));
        let server: ServerName = "one".parse().unwrap();
        let (ann, bob) = (caller("ann"), caller("bob"));
        tasks.remember(&bob, of(&server), "his", Origin::default(), now);
        for number in 0..=TASKS_OF_CALLER {
            tasks.remember(&ann, of(&server), &number.to_string(), Origin::default(), now);
        }
        assert!(tasks.promised(&ann, of(&server), "0", now).is_none(), "the oldest went");
        assert!(tasks.promised(&ann, of(&server), "1", now).is_some());
        assert!(tasks.promised(&bob, of(&server), "his", now).is_some());
        for number in 0..TASK_CALLERS {
            tasks.remember(&caller(&format!("crowd {number}")), of(&server), "t", Origin::default(), now);
        }
        assert_eq!(lock(&tasks.0).len(), TASK_CALLERS);
        assert!(tasks.promised(&bob, of(&server), "his", now).is_some());
        tasks.remember(&caller("late"), of(&server), "t", Origin::default(), now.plus(KEPT));
        assert_eq!(lock(&tasks.0).len(), 1, "what has run out makes room");
    }
}
