//! Which tools the tasks came from that a request is about, or a message of its server tells of: what holds for a tool holds
//! for its tasks too, its quarantine and its flow labels. And which of them a caller is told of.
//!
//! Of a task that nobody remembers (see [`super::tasks`]) it may be any tool of its server.

use bartizan_mcp::{Message, Refusal, Splice, era, json::Value};
use bartizan_model::ServerName;

use super::Call;
use crate::{Asker, Gate, handles::Home, merged, upstream::Failure};

/// The tools of the tasks whose results a request asks the server of `home` for, or which it answers: one for each task, `None` for
/// one that is not known.
pub fn tools_of(
    gate: &Gate,
    asker: &Asker,
    home: Home<'_>,
    is_merged: bool,
    request: &Message,
) -> Vec<Option<String>> {
    let (one, several) = match request.method().as_ref() {
        "tasks/get" | "tasks/result" | "tasks/update" => (request.param("taskId"), None),
        "subscriptions/listen" => (None, request.param("notifications").and_then(|n| n.get("taskIds"))),
        _ => (None, None),
    };
    let now = gate.clock.now();
    named(one, several, is_merged.then_some(home.server), |shown| {
        let task = gate.handles.open_task(&asker.key, home, is_merged, shown)?;
        gate.tasks.tool(&asker.key, home, &task.id, now)
    })
}

/// What `tool` says of each task that a request names; at the merged endpoint of those among `several` that are `merged`'s own.
///
/// One whose id does not open counts too: it is refused where it is sent, unless it opens there, in a process that took the place of
/// the one that is known of here, or in which the request's session still is.
fn named(
    one: Option<Value<'_>>,
    several: Option<Value<'_>>,
    merged: Option<&ServerName>,
    tool: impl Fn(&str) -> Option<String>,
) -> Vec<Option<String>> {
    let is_here = |shown: &Value<'_>| {
        merged.is_none_or(|server| {
            let shown = shown.as_str();
            shown.is_some_and(|s| merged::split_task(&s).is_some_and(|(named, _)| named == server.as_str()))
        })
    };
    let several = several.into_iter().flat_map(Value::elements).filter(is_here);
    one.into_iter().chain(several).map(|shown| tool(&shown.as_str()?)).collect()
}

/// The tool that the task came from whose result `request` asks a server for, as its client calls it, if it is known.
pub fn tool_of_result(
    gate: &Gate,
    asker: &Asker,
    home: Home<'_>,
    is_merged: bool,
    request: &Message,
) -> Option<String> {
    if !matches!(request.method().as_ref(), "tasks/get" | "tasks/result") {
        return None;
    }
    let tool = tools_of(gate, asker, home, is_merged, request).into_iter().next()??;
    Some(if is_merged { merged::join_name(home.server, &tool) } else { tool })
}

/// Lets what the server of `home` asks of `asker` for a task of theirs be put to them.
///
/// # Errors
/// The refusal if the task's tool is in quarantine.
pub fn may_ask_for_task(
    gate: &Gate,
    asker: &Asker,
    home: Home<'_>,
    question: &Message,
) -> Result<(), Refusal> {
    let Some(related) = question.meta(era::META_TASK) else { return Ok(()) };
    // One that is not named as it should be is nobody's, which may be any tool's.
    let task = related.get("taskId").and_then(Value::as_str);
    let tool = task.and_then(|task| gate.tasks.tool(&asker.key, home, &task, gate.clock.now()));
    gate.responses.refusal_of_tool(home.server, tool.as_deref()).map_or(Ok(()), Err)
}

/// Rewrites what is ours in a `_meta` on its way down: the member that `ours` names, if it is there, which gets that JSON text; and
/// the task that the message is for. `shown` answers its id as the client knows it, a JSON text, or `None` if it is not theirs to know:
/// then `_meta` names no task, for a sealed id is the right to that task (attacks.md SH-07). The answer is whether that was so.
pub fn meta_down<'a>(
    meta: Value<'a>,
    ours: Option<(&str, &str)>,
    splice: &mut Splice<'a>,
    shown: impl FnOnce(Value<'a>) -> Option<String>,
) -> bool {
    let related = meta.get(era::META_TASK);
    let task = related.and_then(|related| related.get("taskId")).and_then(|id| Some((id, shown(id)?)));
    if related.is_some() && task.is_none() {
        let kept = meta.members().filter(|member| !member.is(era::META_TASK)).map(|member| {
            let value =
                ours.filter(|(key, _)| member.is(key)).map_or(member.value.text(), |(_, value)| value);
            format!("\"{}\":{value}", member.raw_key())
        });
        splice.replace(meta, format!("{{{}}}", kept.collect::<Vec<_>>().join(",")));
        return true;
    }
    if let Some((id, shown)) = task {
        splice.replace(id, shown);
    }
    if let Some((key, value)) = ours
        && let Some(now) = meta.get(key)
    {
        splice.replace(now, value.to_owned());
    }
    false
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
        self.tasks.tool(&self.asker.key, self.home(), task, self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may bring anything has the labels of any tool: with none at all, it would bring nothing into the caller's window.
    #[test]
    fn a_task_that_does_not_open_may_be_any_tools() {
        let ours: ServerName = "files".parse().unwrap();
        let tool = |shown: &str| shown.ends_with("known").then(|| "read".to_owned());
        let of = |one: &str, several: &str, merged| {
            let [one, several] =
                [one, several].map(|text| Some(Value::of(text)).filter(|v| !v.text().is_empty()));
            named(one, several, merged, tool)
        };
        let read = || Some("read".to_owned());
        assert_eq!(of("\"known\"", "", None), [read()]);
        for other in ["\"of another process\"", "7", "null"] {
            assert_eq!(of(other, "", None), [None], "{other}");
            assert_eq!(of(other, "", Some(&ours)), [None], "{other}");
        }
        assert_eq!(of("", r#"["known","other",7]"#, None), [read(), None, None]);
        let (here, there) =
            (merged::join_task(&ours, "known"), merged::join_task(&"git".parse().unwrap(), "known"));
        let all = format!(r#"["{here}","{there}","{here}x","known"]"#);
        assert_eq!(of("", &all, Some(&ours)), [read(), None], "of others it is asked there");
        assert!(of("", "", None).is_empty());
    }

    #[test]
    fn a_task_that_is_not_the_clients_to_know_is_not_named() {
        let down = |meta: &str, own: &str| {
            let mut splice = Splice::new(meta);
            let hides = meta_down(Value::of(meta), Some(("progressToken", "7")), &mut splice, |id| {
                (id.as_str()? == own).then(|| "\"sealed\"".to_owned())
            });
            (splice.finish(), hides)
        };
        let meta = r#"{"x" : 1,"io.modelcontextprotocol/related-task":{"taskId":"t"},"progressToken":"a"}"#;
        let sealed =
            r#"{"x" : 1,"io.modelcontextprotocol/related-task":{"taskId":"sealed"},"progressToken":7}"#;
        assert_eq!(down(meta, "t"), (sealed.to_owned(), false));
        assert_eq!(down(meta, "u"), (r#"{"x":1,"progressToken":7}"#.to_owned(), true));
        for unnamed in ["7", "{}", r#"{"taskId":1}"#, "null"] {
            let meta = format!(r#"{{"io.modelcontextprotocol/related-t\u0061sk":{unnamed}}}"#);
            assert_eq!(down(&meta, "t"), ("{}".to_owned(), true), "{unnamed}");
        }
        for none in ["{}", "1", r#"{"progress":1}"#] {
            assert_eq!(down(none, "t"), (none.to_owned(), false));
        }
    }
}
