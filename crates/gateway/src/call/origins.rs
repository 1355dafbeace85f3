//! Which tools the tasks came from that a request is about, or a message of its server tells of: what holds for a tool holds
//! for its tasks too, its quarantine and its flow labels.
//!
//! Of a task that nobody remembers (see [`super::tasks`]) it may be any tool of its server.

use bartizan_mcp::{Message, Refusal, era, json::Value};
use bartizan_model::ServerName;

use super::Call;
use crate::{Asker, Gate, handles::Handle, merged, upstream::Failure};

/// The tools of the tasks whose results a request asks `server` for, or which it answers: one for each task, `None` for one
/// that is not known.
pub fn tools_of(
    gate: &Gate,
    asker: &Asker,
    server: &ServerName,
    is_merged: bool,
    request: &Message,
) -> Vec<Option<String>> {
    let (one, several) = match request.method().as_ref() {
        "tasks/get" | "tasks/result" | "tasks/update" => (request.param("taskId"), None),
        "subscriptions/listen" => (None, request.param("notifications").and_then(|n| n.get("taskIds"))),
        _ => (None, None),
    };
    let shown = one.into_iter().chain(several.into_iter().flat_map(Value::elements));
    let now = gate.clock.now();
    // What does not open is refused before anything is sent.
    let opened = shown.filter_map(Value::as_str).filter_map(|shown| {
        let sealed = if is_merged {
            merged::split_task(&shown).filter(|(named, _)| *named == server.as_str())?.1
        } else {
            &shown
        };
        gate.handles.open(Handle::Task, &asker.key, server.as_str(), sealed)
    });
    opened.map(|task| gate.tasks.tool(&asker.key, server, &task, now)).collect()
}

/// Lets what `server` asks of `asker` for a task of theirs be put to them.
///
/// # Errors
/// The refusal if the task's tool is in quarantine.
pub fn may_ask_for_task(
    gate: &Gate,
    asker: &Asker,
    server: &ServerName,
    question: &Message,
) -> Result<(), Refusal> {
    let Some(related) = question.meta(era::META_TASK) else { return Ok(()) };
    // One that is not named as it should be is nobody's, which may be any tool's.
    let task = related.get("taskId").and_then(Value::as_str);
    let tool = task.and_then(|task| gate.tasks.tool(&asker.key, server, &task, gate.clock.now()));
    gate.responses.refusal_of_tool(server, tool.as_deref()).map_or(Ok(()), Err)
}

impl Call {
    /// Lets what came of the call through, or of the task that it asks about.
    ///
    /// # Errors
    /// [`Failure::Withheld`] if its tool is in quarantine by now.
    pub(super) fn pass_tool(&self) -> Result<(), Failure> {
        if let Some(tool) = &self.tool {
            self.responses.pass_tool(self.server.name(), Some(tool))?;
        }
        match &self.task {
            Some(task) => self.responses.pass_tool(self.server.name(), self.tool_of(task).as_deref()),
            None => Ok(()),
        }
    }

    /// Lets what `message` tells of a task through.
    ///
    /// # Errors
    /// [`Failure::Withheld`] if the task's tool is in quarantine by now.
    pub fn pass_task(&self, message: &Message) -> Result<(), Failure> {
        let told = message.field("taskId").filter(|_| message.method().starts_with("notifications/tasks"));
        let related = message.field("_meta").and_then(|meta| meta.get(era::META_TASK)?.get("taskId"));
        let tasks = [told, related].into_iter().flatten().filter_map(Value::as_str);
        for task in tasks {
            self.responses.pass_tool(self.server.name(), self.tool_of(&task).as_deref())?;
        }
        Ok(())
    }

    /// Lets a client's answer to what the task `task` asked out to it.
    ///
    /// # Errors
    /// The refusal if the task's tool is in quarantine.
    pub(super) fn may_update(&self, task: &str) -> Result<(), Refusal> {
        let refusal = self.responses.refusal_of_tool(self.server.name(), self.tool_of(task).as_deref());
        refusal.map_or(Ok(()), Err)
    }

    /// The tool that a task came from, both as the server calls them.
    fn tool_of(&self, task: &str) -> Option<String> {
        self.tasks.tool(&self.asker.key, self.server.name(), task, self.clock.now())
    }
}
