//! Which task a server's question is for, on the question's way to the client and on the answer's way back (25/tasks).

use bartizan_mcp::{
    Message, Splice, era,
    json::{Value, quote},
};

use super::Link;
use crate::call::origins;

impl Link {
    /// Rewrites what is ours in the `_meta` of a server's question, or of its taking one back: the progress token, which becomes
    /// `token`, and the task, which the client knows by another id. A task that is not theirs is not named.
    pub fn meta_down<'m>(&self, message: &'m Message, token: Option<&str>, splice: &mut Splice<'m>) {
        let Some(meta) = message.param("_meta") else { return };
        let token = token.map(|token| ("progressToken", token));
        if origins::meta_down(meta, token, splice, |task| self.shown_task(task)) {
            tracing::debug!(server = %self.server.name(), "another caller's task was not named in a question");
        }
    }

    /// Names the task in the `_meta` of what a client answers as the server calls it. One that is not sealed is the client's own.
    pub fn meta_up<'m>(&self, message: &'m Message, splice: &mut Splice<'m>) {
        let task = message.field("_meta").and_then(|meta| meta.get(era::META_TASK)?.get("taskId"));
        if let Some(task) = task
            && let Some(shown) = task.as_str()
            && let Some(gate) = self.gate.upgrade()
            && let Some(opened) = gate.handles.open_task(&self.asker.key, self.home(), self.is_merged, &shown)
        {
            splice.replace(task, quote(&opened.id));
        }
    }

    /// The id by which the client knows the server's `task`, a JSON text: a call of theirs became it, or it is the client's own.
    fn shown_task(&self, task: Value<'_>) -> Option<String> {
        let id = task.as_str()?;
        if self.client_tasks.has(&id) {
            return Some(task.text().to_owned());
        }
        let gate = self.gate.upgrade()?;
        let (caller, home) = (&self.asker.key, self.home());
        let task = gate.tasks.of(caller, home, &id, gate.clock.now())?;
        Some(quote(&gate.handles.seal_task(caller, home, self.is_merged, &task)))
    }
}
