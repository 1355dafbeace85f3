//! What goes up: the request as its server gets it.

use aws_lc_rs::digest;
use bartizan_mcp::{
    Message, Refusal, Splice, code, era,
    json::{Value, quote},
};

use super::{Call, Trace, visits::is_ours};
use crate::{
    handles::{Handle, Task},
    merged,
};

impl Call {
    /// The request as the server gets it: our id and token, our trace, its own handles; all else as it came.
    ///
    /// # Errors
    /// -32602 for a handle that was never this caller's.
    pub fn outgoing(&mut self, request: &Message) -> Result<String, Refusal> {
        let resumed = self.resumed(request)?;
        let request = resumed.as_ref().unwrap_or(request);
        let mut splice = request.splice();
        splice.put(request.root(), request.id_value(), "id", self.id.to_string());
        self.parameters_up(request, &mut splice)?;
        Ok(splice.finish())
    }

    fn parameters_up<'a>(&self, request: &'a Message, splice: &mut Splice<'a>) -> Result<(), Refusal> {
        let Some(params) = request.params() else { return Ok(()) };
        if let Some(meta) = params.get("_meta") {
            meta_up(meta, Some(self.id), splice, &self.trace, |task| {
                let text = task.as_str().unwrap_or_default();
                self.open_task(&text, "task id").map(|t| quote(&t.id))
            })?;
        }
        if let Some(cursor) = params.get("cursor") {
            let kind = Handle::Cursor { method: &self.method };
            let opened = self.open(kind, &cursor.as_str().unwrap_or_default(), "cursor")?;
            splice.replace(cursor, quote(&opened));
        }
        // One that belongs to a refusal of ours is the server's own again already.
        if let Some(state) = params.get("requestState").filter(|_| self.round.is_none()) {
            let text = state
                .as_str()
                .ok_or_else(|| Refusal::new(400, code::INVALID_PARAMS, "`requestState` must be a string"))?;
            let opened = self.open(Handle::State { request: &self.request }, &text, "`requestState`")?;
            splice.replace(state, quote(&opened));
        }
        // The answer to a question of ours is not the server's to see.
        if let Some(answers) = params.get("inputResponses")
            && answers.members().any(|answer| is_ours(&answer.key()))
        {
            splice.retain(answers, |key| !is_ours(key));
        }
        if self.method.starts_with("tasks/")
            && let Some(task) = params.get("taskId")
        {
            let text = task.as_str().unwrap_or_default();
            let opened = self.open_task(&text, "task")?;
            if self.method == "tasks/update" {
                self.may_update(&opened.id)?;
            }
            splice.replace(task, quote(&opened.id));
        }
        if let Some(tasks) = params.get("notifications").and_then(|n| n.get("taskIds")) {
            let opened: Vec<_> = tasks
                .elements()
                .filter_map(|t| t.as_str())
                .filter(|t| {
                    !self.is_merged
                        || merged::split_task(t).is_some_and(|(s, _)| s == self.server.name().as_str())
                })
                .map(|t| self.open_task(&t, "task").map(|t| quote(&t.id)))
                .collect::<Result<_, _>>()?;
            splice.replace(tasks, format!("[{}]", opened.join(",")));
        }
        if self.is_merged {
            merged::parameters_up(&self.method, params, self.server.name(), splice);
        }
        Ok(())
    }

    /// The task that its client calls `shown`, as its server calls it; `what` it is to whoever reads the refusal.
    fn open_task(&self, shown: &str, what: &str) -> Result<Task, Refusal> {
        self.opened_task(shown).ok_or_else(|| self.unknown(what))
    }
}

/// Method and parameters without what differs between the rounds of one request.
pub(super) fn digest_of(request: &Message) -> [u8; 32] {
    let mut bytes = request.method().into_owned().into_bytes();
    let mut members: Vec<_> = request
        .params()
        .into_iter()
        .flat_map(Value::members)
        .map(|m| (m.key().into_owned(), m.value))
        .filter(|(key, _)| !matches!(key.as_str(), "_meta" | "requestState" | "inputResponses"))
        .collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, value) in members {
        bytes.push(0);
        bytes.extend_from_slice(key.as_bytes());
        bytes.push(0);
        era::canonical(value, &mut bytes);
    }
    let digest = digest::digest(&digest::SHA256, &bytes);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// Rewrites what is ours in a `_meta` on its way up: our progress token, our trace (whether the client told one or not), no
/// baggage (attacks.md TP-01).
///
/// # Errors
/// What `open_task` says of a task id.
pub fn meta_up<'a>(
    meta: Value<'a>,
    token: Option<u64>,
    splice: &mut Splice<'a>,
    trace: &Trace,
    open_task: impl Fn(Value<'a>) -> Result<String, Refusal>,
) -> Result<(), Refusal> {
    let mut drops = false;
    for member in meta.members() {
        match member.key().as_ref() {
            "progressToken" | "traceparent" | era::META_TASK => {}
            "baggage" | "tracestate" => drops = true,
            _ => continue,
        }
        let is_trace = member.is("traceparent");
        drops |= is_trace && !member.value.as_str().is_some_and(|t| era::is_traceparent(&t));
    }
    let replaced = |key: &str, value: Value<'a>| -> Result<Option<String>, Refusal> {
        Ok(match key {
            "progressToken" => token.map(|t| t.to_string()),
            "traceparent" => Some(quote(&trace.parent())),
            era::META_TASK => match value.get("taskId") {
                Some(task) => {
                    let mut inner = Splice::new(value.text());
                    inner.replace(task, open_task(task)?);
                    Some(inner.finish())
                }
                None => None,
            },
            _ => None,
        })
    };
    // Notifications have no token, and no span of their own.
    let adds = token.is_some();
    if !drops {
        for member in meta.members() {
            if let Some(text) = replaced(&member.key(), member.value)? {
                splice.replace(member.value, text);
            }
        }
        if adds && meta.get("traceparent").is_none() {
            splice.insert(meta, "traceparent", &quote(&trace.parent()));
        }
        return Ok(());
    }
    let mut kept = Vec::new();
    for member in meta.members() {
        let key = member.key();
        let malformed =
            key == "traceparent" && !member.value.as_str().is_some_and(|t| era::is_traceparent(&t));
        if malformed || matches!(key.as_ref(), "baggage" | "tracestate") {
            continue;
        }
        let value = replaced(&key, member.value)?;
        kept.push(format!("\"{}\":{}", member.raw_key(), value.as_deref().unwrap_or(member.value.text())));
    }
    let has_trace = |text: &String| text.starts_with("\"traceparent\":");
    if adds && !kept.iter().any(has_trace) {
        kept.push(format!("\"traceparent\":{}", quote(&trace.parent())));
    }
    splice.replace(meta, format!("{{{}}}", kept.join(",")));
    Ok(())
}
