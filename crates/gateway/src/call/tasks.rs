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
//! was started anew, and its tasks outlive sessions: what tells its tasks apart is when it says that it made each ([`Made`]), which is
//! sealed with the id. What was made at another time is another task, and nobody's who holds the id of the one before. Where the server
//! says nothing of when, a call that becomes a task of another's of the last day fails, and the task is neither's.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bartizan_mcp::{Era, Message, Refusal, json::Value};
use bartizan_model::{CallerKey, ServerName, Timestamp};
use bartizan_shield::schema::Contract;

use super::{Call, Made};
use crate::{
    contract,
    handles::{Home, Task},
    limits::{TASK_CALLERS, TASKS_OF_CALLER},
    server::Transport,
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
    task: Task,
    origin: Origin,
    /// Calls of two tools became it, as they do of a server that counts its tasks and is started anew.
    is_shared: bool,
    /// So did another caller's, and nothing tells the two tasks apart.
    is_contested: bool,
    until: Timestamp,
}

impl Known {
    fn is(&self, home: Home<'_>, id: &str, now: Timestamp) -> bool {
        let own = Home { server: &self.server, process: self.process };
        self.task.id == id && own == home && now < self.until
    }
}

/// Whether two tasks of one id are two, as far as their server says when it made them.
fn are_two(one: &Task, other: &Task) -> bool {
    one.made.as_ref().zip(other.made.as_ref()).is_some_and(|(one, other)| !one.is(other))
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
    /// Remembers that a call of `caller` became the `task` of `home`. What was said of it first counts; once there was a call
    /// of another tool, nobody knows whose it is.
    fn remember(&self, caller: &CallerKey, home: Home<'_>, task: Task, origin: Origin, now: Timestamp) {
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
        known.retain(|one| now < one.until && !(one.is(home, &task.id, now) && are_two(&one.task, &task)));
        if let Some(known) = known.iter_mut().find(|one| one.is(home, &task.id, now)) {
            known.is_shared |= known.origin.tool != origin.tool;
            // A task that is made now is remembered as long as any other.
            known.until = now.plus(KEPT);
            return;
        }
        if known.len() >= TASKS_OF_CALLER {
            known.pop_front();
        }
        let until = now.plus(KEPT);
        let Home { server, process } = home;
        let server = server.clone();
        known.push_back(Known {
            server,
            process,
            task,
            origin,
            is_shared: false,
            is_contested: false,
            until,
        });
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

    /// The task `id` of `home`, if a call of `caller` became it, as far as is remembered, and no other's did.
    pub fn of(&self, caller: &CallerKey, home: Home<'_>, id: &str, now: Timestamp) -> Option<Task> {
        self.known(caller, home, id, now, |known| (!known.is_contested).then(|| known.task.clone()))?
    }

    /// Whether a call of `caller` became the task `id` of `home`, and one of another's too.
    fn is_contested(&self, caller: &CallerKey, home: Home<'_>, id: &str, now: Timestamp) -> bool {
        self.known(caller, home, id, now, |known| known.is_contested) == Some(true)
    }

    /// Whether a call of anybody but `caller` became the `task` of `home` before, as far as is remembered. One of the same id that was
    /// made at another time is over, and forgotten; one of which nothing tells when it was made is nobody's from now on.
    fn is_of_another(&self, caller: &CallerKey, home: Home<'_>, task: &Task, now: Timestamp) -> bool {
        let mut is_anothers = false;
        for (_, known) in lock(&self.0).iter_mut().filter(|(other, _)| *other != caller) {
            known.retain(|one| !(one.is(home, &task.id, now) && are_two(&one.task, task)));
            for one in known.iter_mut().filter(|one| one.is(home, &task.id, now)) {
                is_anothers = true;
                one.is_contested |= one.task.made.is_none();
            }
        }
        is_anothers
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
        callers.get(caller)?.iter().find(|one| one.is(home, id, now)).map(of)
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
        let asks = matches!(self.method.as_str(), "tasks/get" | "tasks/result");
        self.named.as_ref().filter(|_| asks).map(|task| task.id.clone())
    }

    /// The task that its client calls `shown`, as its server calls it.
    pub(super) fn opened_task(&self, shown: &str) -> Option<Task> {
        let (caller, home) = (&self.asker.key, self.home());
        let task = self.handles.open_task(caller, home, self.is_merged, shown)?;
        (!self.tasks.is_contested(caller, home, &task.id, self.clock.now())).then_some(task)
    }

    /// The caller's task that its server calls `id`: the one they ask about, one that they listen to, or one that came of their calls.
    pub(super) fn own_task(&self, id: &str) -> Option<Task> {
        let named = self.named.as_ref().filter(|task| task.id == id);
        let listened = || self.interests.as_ref().and_then(|interests| interests.task(id));
        let remembered = || self.tasks.of(&self.asker.key, self.home(), id, self.clock.now());
        named.or_else(listened).cloned().or_else(remembered)
    }

    /// Whether what is told of a task that was made when `created` says is told of `task`. A server that sees one client in each caller
    /// gives nobody another's.
    pub(super) fn is_made(&self, task: &Task, created: Option<Value<'_>>) -> bool {
        let Some(made) = task.made.as_ref().filter(|_| !self.server.tells_callers_apart()) else {
            return true;
        };
        Made::told(created).is_some_and(|told| told.is(made))
    }

    /// The task that the answer `message` made of a call, and where that is named.
    pub(super) fn made_task<'m>(&self, message: &'m Message) -> Option<(Value<'m>, Task)> {
        if self.method != "tools/call" {
            return None;
        }
        let result = message.result()?;
        let task = match self.era {
            Era::Modern => {
                let kind = result.get("resultType").and_then(Value::as_str);
                Some(result).filter(|_| kind.as_deref() == Some("task"))?
            }
            Era::Legacy => result.get("task")?,
        };
        let named = task.get("taskId")?;
        let id = named.as_str()?.into_owned();
        Some((named, Task { id, made: Made::told(task.get("createdAt")) }))
    }

    /// Remembers the task that the answer `message` made of a call.
    ///
    /// # Errors
    /// [`Failure::Protocol`] if it is another caller's already.
    pub(super) fn remember_task(&self, message: &Message) -> Result<(), Failure> {
        let Some((_, task)) = self.made_task(message) else { return Ok(()) };
        let (caller, home, now) = (&self.asker.key, self.home(), self.clock.now());
        if !self.server.tells_callers_apart() && self.tasks.is_of_another(caller, home, &task, now) {
            return Err(Failure::Protocol("it makes a task of it that is another caller's".into()));
        }
        let tool = self.tool.clone().unwrap_or_default();
        let origin = Origin { tool, promised: self.contract.clone() };
        self.tasks.remember(caller, home, task, origin, now);
        Ok(())
    }

    /// Lets an answer through that is about the task that was asked about: whatever else it named would be sealed for its
    /// client, who could read and end it by that.
    ///
    /// # Errors
    /// [`Failure::Protocol`].
    pub(super) fn vet_named_task(&self, message: &Message) -> Result<(), Failure> {
        let told = message.field("taskId").filter(|_| message.result().is_some() && self.is_about_a_task());
        told.map_or(Ok(()), |told| self.is_named(told, message.field("createdAt")))
    }

    /// Whether what a server calls `told`, and made when `created` says, is the task that was asked about.
    fn is_named(&self, told: Value<'_>, created: Option<Value<'_>>) -> Result<(), Failure> {
        let told = told.as_str();
        let Some(task) = self.named.as_ref().filter(|task| told.as_deref() == Some(&*task.id)) else {
            return Err(Failure::Protocol("it answers about another task than it was asked about".into()));
        };
        if self.is_made(task, created) {
            return Ok(());
        }
        let text =
            "the task of that id was made at another time than the one that was asked about, which is over";
        Err(Failure::Protocol(text.into()))
    }

    /// The task that its server is to be asked about before it hears of this request: what it answers does not tell when the task was
    /// made, or comes when it is too late. The tasks of a process are told apart without.
    pub fn uncertain_task(&self) -> Option<&Task> {
        let is_uncertain = matches!(self.method.as_str(), "tasks/cancel" | "tasks/result" | "tasks/update")
            && matches!(self.server.settings().transport, Transport::Url(_))
            && !self.server.tells_callers_apart();
        self.named.as_ref().filter(|task| is_uncertain && task.made.is_some())
    }

    /// Lets the request go to its task, of which `answer` tells, the server's to `tasks/get`.
    ///
    /// # Errors
    /// The refusal if it is over, or another one.
    pub fn is_certain(&self, answer: &Message) -> Result<(), Refusal> {
        let told = answer.field("taskId").filter(|_| answer.result().is_some());
        let told = told.ok_or_else(|| self.unknown("task"))?;
        let named = self.is_named(told, answer.field("createdAt"));
        named.map_err(|failure| failure.refusal(self.server.name().as_str()))
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

    /// A task of this id, made at this second.
    fn task(id: &str, second: Option<u8>) -> Task {
        let made = second.and_then(|second| Made::read(&format!("2026-01-01T00:00:{second:02}Z")));
        Task { id: id.to_owned(), made }
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
        tasks.remember(&ann, of(&one), task("t", None), origin, now);
        tasks.remember(&ann, of(&one), task("t", None), Origin { tool: "first".into(), promised: None }, now);
        assert!(
            tasks.promised(&ann, of(&one), "t", now).unwrap().is_some(),
            "a second call takes nothing back"
        );
        assert_eq!(tasks.tool(&ann, of(&one), "t", now).as_deref(), Some("first"));
        assert!(tasks.promised(&bob, of(&one), "t", now).is_none());
        assert!(tasks.promised(&ann, of(&two), "t", now).is_none());
        assert!(tasks.of(&ann, of(&one), "t", now).is_some(), "it is hers");
        assert!(tasks.of(&bob, of(&one), "t", now).is_none() && tasks.of(&ann, of(&two), "t", now).is_none());
        assert!(tasks.of(&ann, of(&one), "t", now.plus(KEPT)).is_none());
        let is_anothers =
            |caller, server, now| tasks.is_of_another(caller, of(server), &task("t", None), now);
        assert!(!is_anothers(&bob, &two, now) && !is_anothers(&bob, &one, now.plus(KEPT)));
        assert!(is_anothers(&bob, &one, now) && !is_anothers(&ann, &one, now));
        assert!(tasks.promised(&ann, of(&one), "t", now.plus(KEPT)).is_none());
    }

    #[test]
    fn a_task_that_was_made_at_another_time_is_another() {
        let (tasks, now) = (Tasks::default(), Timestamp::from_unix(1_000));
        let server: ServerName = "one".parse().unwrap();
        let (ann, bob) = (caller("ann"), caller("bob"));
        let remember =
            |whose: &CallerKey, one| tasks.remember(whose, of(&server), one, Origin::default(), now);
        let is_anothers = |whose, one| tasks.is_of_another(whose, of(&server), &one, now);
        let made = |whose| {
            let known = tasks.of(whose, of(&server), "1", now)?;
            Some(known.made.map(|made| made.as_str().to_owned()))
        };
        remember(&ann, task("1", Some(1)));
        assert!(is_anothers(&bob, task("1", Some(1))), "the same one");
        assert!(is_anothers(&bob, task("1", None)), "it may be the same one");
        assert!(made(&ann).is_some(), "what is hers is told by when it was made");
        assert!(!is_anothers(&bob, task("1", Some(2))), "the server was started anew");
        assert!(made(&ann).is_none(), "hers is over");
        remember(&bob, task("1", Some(2)));
        assert!(!is_anothers(&ann, task("1", Some(3))));
        remember(&ann, task("1", Some(3)));
        remember(&ann, task("1", Some(4)));
        assert_eq!(made(&ann).unwrap().as_deref(), Some("2026-01-01T00:00:04Z"));

        // Nothing tells these apart.
        remember(&ann, task("2", None));
        assert!(!tasks.is_contested(&ann, of(&server), "2", now));
        assert!(is_anothers(&bob, task("2", Some(1))));
        assert!(tasks.is_contested(&ann, of(&server), "2", now));
        assert!(tasks.of(&ann, of(&server), "2", now).is_none());
    }

    #[test]
    fn a_task_that_calls_of_two_tools_became_is_of_neither() {
        let (tasks, now) = (Tasks::default(), Timestamp::from_unix(1_000));
        let (one, two): (ServerName, ServerName) = ("one".parse().unwrap(), "two".parse().unwrap());
        let ann = caller("ann");
        let origin = |tool: &str| Origin { tool: tool.into(), promised: None };
        tasks.remember(&ann, of(&one), task("1", None), origin("a"), now);
        tasks.remember(&ann, of(&two), task("1", None), origin("a"), now);
        let half = Duration::from_secs(KEPT.as_secs() / 2);
        // The third does not bring the first one's rule back.
        for (tool, later) in [("b", now), ("a", now.plus(half))] {
            tasks.remember(&ann, of(&one), task("1", None), origin(tool), later);
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
        tasks.remember(&ann, of(&one), task("1", None), origin("b"), now.plus(KEPT));
        assert!(tasks.tool(&ann, of(&one), "1", now.plus(KEPT)).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nobody_makes_anothers_be_forgotten() {
        let (tasks, now) = (Tasks::default(), Timestamp::from_unix(1_000));
        let server: ServerName = "one".parse().unwrap();
        let (ann, bob) = (caller("ann"), caller("bob"));
        tasks.remember(&bob, of(&server), task("his", None), Origin::default(), now);
        for number in 0..=TASKS_OF_CALLER {
            tasks.remember(&ann, of(&server), task(&number.to_string(), None), Origin::default(), now);
        }
        assert!(tasks.promised(&ann, of(&server), "0", now).is_none(), "the oldest went");
        assert!(tasks.promised(&ann, of(&server), "1", now).is_some());
        assert!(tasks.promised(&bob, of(&server), "his", now).is_some());
        for number in 0..TASK_CALLERS {
            tasks.remember(
                &caller(&format!("crowd {number}")),
                of(&server),
                task("t", None),
                Origin::default(),
                now,
            );
        }
        assert_eq!(lock(&tasks.0).len(), TASK_CALLERS);
        assert!(tasks.promised(&bob, of(&server), "his", now).is_some());
        tasks.remember(&caller("late"), of(&server), task("t", None), Origin::default(), now.plus(KEPT));
        assert_eq!(lock(&tasks.0).len(), 1, "what has run out makes room");
    }
}
