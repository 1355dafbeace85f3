//! Requests that the gate makes for itself.

use bartizan_mcp::{era, json::quote, message};

/// A request of our own in the modern era; `cursor` is a JSON text.
pub fn own_modern_request(id: u64, method: &str, cursor: Option<&str>) -> String {
    modern_request_of(&own_info(), id, method, cursor)
}

/// The same of a client whose `Implementation` is `info`, a JSON text.
pub fn modern_request_of(info: &str, id: u64, method: &str, cursor: Option<&str>) -> String {
    let cursor = cursor.map(|c| format!(",\"cursor\":{c}")).unwrap_or_default();
    let params = format!(
        r#"{{"_meta":{{"{}":"2026-07-28","{}":{{}},"{}":{}}}{cursor}}}"#,
        era::META_VERSION,
        era::META_CAPABILITIES,
        era::META_CLIENT,
        info
    );
    message::request(&id.to_string(), method, Some(&params))
}

/// Our question for how the task `task` is, which only a client that knows of tasks may ask (spec.md A-114).
pub fn own_question_of_task(id: u64, task: &str) -> String {
    let params = format!(
        r#"{{"taskId":{},"_meta":{{"{}":"2026-07-28","{}":{{"extensions":{{"{}":{{}}}}}},"{}":{}}}}}"#,
        quote(task),
        era::META_VERSION,
        era::META_CAPABILITIES,
        era::TASKS,
        era::META_CLIENT,
        own_info()
    );
    message::request(&id.to_string(), "tasks/get", Some(&params))
}

/// Our name and version, as an `Implementation` of the schema.
pub fn own_info() -> String {
    format!(r#"{{"name":"bartizan","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}
