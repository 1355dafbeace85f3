//! What of an answer is to be recorded in words (`[[audit.content]]`): a task's result belongs to the tool whose call made it.

use bartizan_audit::Text;
use bartizan_mcp::json::Value;

use super::Call;
use crate::{merged, record::Told};

impl Call {
    /// What is to be recorded of `response`, a JSON-RPC response as the client gets it.
    pub fn told(&self, response: &str) -> Option<Told> {
        if self.content.0.is_empty() {
            return None;
        }
        let response = Value::of(response);
        let said = response.get("result").or_else(|| response.get("error"));
        if let Some(tool) = &self.tool {
            return self.content.of(self.server.name(), tool)?.result(&self.shield, &self.server, said?);
        }
        let task = self.task.as_deref()?;
        // An answer of `tasks/get` is about the task; what came of it stands inside (ext-tasks).
        let said = match response.get("result") {
            Some(about) if self.method == "tasks/get" => about.get("result").or_else(|| about.get("error")),
            _ => said,
        };
        self.told_of_task(task, said?)
    }

    /// What is to be recorded of `text`, a message before the response as the client gets it: the result of a task that it
    /// listens to.
    pub fn told_on_the_way(&self, text: &str) -> Option<Told> {
        if self.content.0.is_empty() {
            return None;
        }
        let message = Value::of(text);
        message.get("method").and_then(Value::as_str).filter(|method| method == "notifications/tasks")?;
        let about = message.get("params")?;
        let said = about.get("result").or_else(|| about.get("error"))?;
        let shown = about.get("taskId").and_then(Value::as_str)?;
        let task = self.opened_task(&shown);
        self.told_of_task(task.as_ref().map_or("", |task| &task.id), said)
    }

    fn told_of_task(&self, task: &str, said: Value<'_>) -> Option<Told> {
        let server = self.server.name();
        let Some(tool) = self.tasks.tool(&self.asker.key, self.home(), task, self.clock.now()) else {
            return self.content.of_no_tool(server);
        };
        let mut told = self.content.of(server, &tool)?.result(&self.shield, &self.server, said)?;
        let shown = if self.is_merged { merged::join_name(server, &tool) } else { tool };
        told.tool = Some(Text::new(&shown));
        Some(told)
    }
}
