//! Which notifications a modern request asked for.

use bartizan_mcp::{Message, json::Value};

/// What a `subscriptions/listen` asked to be told (26/sub; spec.md A-82).
#[derive(Default)]
pub(super) struct Interests {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
    tasks: bool,
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
            tasks: filter.get("taskIds").is_some_and(|t| t.elements().next().is_some()),
        }
    }

    pub(super) fn include(&self, method: &str, _message: &Message) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools,
            "notifications/prompts/list_changed" => self.prompts,
            "notifications/resources/list_changed" => self.resources,
            // The server may tell of a part of what was asked for, so the address need not be equal (26/sub).
            "notifications/resources/updated" => !self.uris.is_empty(),
            "notifications/tasks" => self.tasks,
            _ => true,
        }
    }
}

const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// How grave a log level is; none if it is none.
pub(super) fn level(value: Value<'_>) -> Option<u8> {
    let name = value.as_str()?;
    LEVELS.iter().position(|l| *l == name).and_then(|at| u8::try_from(at).ok())
}
