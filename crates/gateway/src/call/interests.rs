//! Which notifications a modern request asked for.

use std::collections::HashMap;

use bartizan_mcp::{Message, era, json::Value};

use crate::{handles::Task, news::List};

/// What a `subscriptions/listen` asked to be told (26/sub; spec.md A-82).
#[derive(Default)]
pub(super) struct Interests {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
    /// The tasks it names, as the server calls them.
    tasks: HashMap<String, Task>,
}

impl Interests {
    pub(super) fn of(request: &Message) -> Self {
        let Some(filter) = request.param("notifications") else { return Self::default() };
        let wants = |key| filter.get(key).and_then(Value::as_bool) == Some(true);
        Self {
            tools: wants("toolsListChanged"),
            prompts: wants("promptsListChanged"),
            resources: wants("resourcesListChanged"),
            uris: filter
                .get("resourceSubscriptions")
                .into_iter()
                .flat_map(Value::elements)
                .filter_map(|u| u.as_str().map(Into::into))
                .collect(),
            // They are sealed here, and named once they are opened.
            tasks: HashMap::new(),
        }
    }

    /// Whether it asked to be told that `list` changes.
    pub(super) fn wants(&self, list: List) -> bool {
        match list {
            List::Prompts => self.prompts,
            List::Resources => self.resources,
            List::Tools => self.tools,
        }
    }

    /// It asked to be told of these tasks, as the server calls them.
    pub(super) fn name_tasks(&mut self, tasks: impl IntoIterator<Item = Task>) {
        self.tasks.extend(tasks.into_iter().map(|task| (task.id.clone(), task)));
    }

    /// The task that it asked to be told of and its server calls `id`.
    pub(super) fn task(&self, id: &str) -> Option<&Task> {
        self.tasks.get(id)
    }

    /// Whether it is to hear `message`. A server that sees one client in everybody tells each listener of all tasks, and an id that
    /// is sealed for its caller is the right to that task: nothing that names another is passed (attacks.md SH-07, SH-10).
    pub(super) fn include(&self, method: &str, message: &Message) -> bool {
        let related = message.field("_meta").and_then(|meta| meta.get(era::META_TASK));
        if related.is_some_and(|task| !self.names(task.get("taskId"))) {
            return false;
        }
        match method {
            "notifications/subscriptions/acknowledged" => {
                let honoured = message.field("notifications").and_then(|n| n.get("taskIds"));
                honoured.into_iter().flat_map(Value::elements).all(|task| self.names(Some(task)))
            }
            "notifications/tools/list_changed" => self.tools,
            "notifications/prompts/list_changed" => self.prompts,
            "notifications/resources/list_changed" => self.resources,
            // The server may tell of a part of what was asked for, so the address need not be equal (26/sub).
            "notifications/resources/updated" => !self.uris.is_empty(),
            _ if method.starts_with("notifications/tasks") => self.names(message.field("taskId")),
            _ => true,
        }
    }

    /// Whether it asked to be told of `task`, as the server calls it.
    pub(super) fn names(&self, task: Option<Value<'_>>) -> bool {
        task.and_then(Value::as_str).is_some_and(|task| self.tasks.contains_key(&*task))
    }
}

const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// How grave a log level is; none if it is none.
pub(super) fn level(value: Value<'_>) -> Option<u8> {
    let name = value.as_str()?;
    LEVELS.iter().position(|l| *l == name).and_then(|at| u8::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(method: &str, params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        Message::from_spliced(text).unwrap()
    }

    #[test]
    fn of_tasks_it_hears_of_those_it_named() {
        let listen = message("subscriptions/listen", r#"{"notifications":{"taskIds":["sealed"]}}"#);
        let mut interests = Interests::of(&listen);
        interests.name_tasks([Task { id: "hers".to_owned(), made: None }]);
        let hears = |method: &str, params: &str| interests.include(method, &message(method, params));
        assert!(hears("notifications/tasks", r#"{"taskId":"hers"}"#));
        for other in [r#"{"taskId":"his"}"#, r#"{"taskId":"sealed"}"#, r#"{"taskId":1}"#, "{}"] {
            assert!(!hears("notifications/tasks", other), "{other}");
        }
        let told = |tasks: &str| {
            let params = format!(r#"{{"notifications":{{"taskIds":{tasks}}}}}"#);
            hears("notifications/subscriptions/acknowledged", &params)
        };
        assert!(told(r#"["hers"]"#) && told("[]") && !told(r#"["hers","his"]"#));
        let related = |id: &str| format!(r#"{{"_meta":{{"{}":{{"taskId":"{id}"}}}}}}"#, era::META_TASK);
        assert!(hears("notifications/other", &related("hers")));
        assert!(!hears("notifications/other", &related("his")));
    }
}
