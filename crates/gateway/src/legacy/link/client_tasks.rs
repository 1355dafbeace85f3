//! Tasks that a client makes of its servers' questions (25/tasks): each is the business of the server that asked. What it holds
//! is a person's answer to that one, so no other server of the session may look at it (attacks.md II-12).

use std::{collections::VecDeque, sync::Mutex};

use bartizan_mcp::{Message, json::Value};

use super::Link;
use crate::{limits::CLIENT_TASKS, permit::Question, upstream::stdio::lock};

/// The client's tasks that belong to one conversation, by the client's ids, the oldest first.
#[derive(Default)]
pub(super) struct ClientTasks(Mutex<VecDeque<String>>);

impl ClientTasks {
    /// Remembers one; of too many the oldest is forgotten, and with it the right to ask about it.
    fn add(&self, id: &str) {
        let mut tasks = lock(&self.0);
        if tasks.iter().any(|known| known == id) {
            return;
        }
        if tasks.len() >= CLIENT_TASKS {
            tasks.pop_front();
        }
        tasks.push_back(id.to_owned());
    }

    /// Whether it is remembered.
    pub(super) fn has(&self, id: &str) -> bool {
        lock(&self.0).iter().any(|known| known == id)
    }
}

impl Link {
    /// Remembers the task that the client's `answer` makes of what this server asked by `method`.
    pub fn note_client_task(&self, method: &str, answer: &Message) {
        let made = answer.field("task").and_then(|task| task.get("taskId")).and_then(Value::as_str);
        if let (Some(id), Some(Question::Elicitation | Question::Sampling)) = (made, Question::of(method)) {
            self.client_tasks.add(&id);
        }
    }

    /// Whether `message` names a task that the client made of a question of this server.
    pub fn has_client_task(&self, message: &Message) -> bool {
        message.param("taskId").and_then(Value::as_str).is_some_and(|id| self.client_tasks.has(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let tasks = ClientTasks::default();
        for number in 0..=CLIENT_TASKS {
            tasks.add(&number.to_string());
            tasks.add(&number.to_string());
        }
        assert!(!tasks.has("0") && tasks.has("1") && tasks.has(&CLIENT_TASKS.to_string()));
        assert_eq!(lock(&tasks.0).len(), CLIENT_TASKS);
    }
}
