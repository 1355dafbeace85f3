//! What comes back down: a message from the server as the client gets it.

use bartizan_mcp::{
    Era, Kind, Message, Splice, code, era,
    json::{Kind as Json, Value, quote},
    message,
};

use super::{Call, Vetted, announce, interests::level, origins::meta_down, rounds};
use crate::{
    catalog::announces_change, handles::Handle, limits::CACHE_CAP_MS, merged, naming, upstream::Failure,
};

/// What becomes of a message from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Down {
    /// Nothing the client may or need see.
    Drop,
    /// A notification for the client.
    Pass(String),
    /// The response.
    Final(String),
}

impl Call {
    /// What the client sees of `message`.
    ///
    /// # Errors
    /// [`Failure::Protocol`] for a response the protocol does not allow.
    pub fn incoming(&mut self, message: &Message, vetted: &Vetted) -> Result<Down, Failure> {
        match message.kind() {
            Kind::Response => {
                let (text, refused) = self.response(message, vetted)?;
                self.refused = refused;
                let asked = message.field("inputRequests").filter(|_| self.era == Era::Modern);
                let methods = asked
                    .into_iter()
                    .flat_map(Value::members)
                    .filter_map(|q| q.value.get("method")?.as_str());
                if methods.into_iter().any(|method| naming::asks_people(&method)) {
                    self.ending.named();
                }
                Ok(Down::Final(text))
            }
            Kind::Notification => Ok(self.notification(message)),
            // Legacy requests are their session's business; modern servers have none to send (A-69, C-37).
            Kind::Request => {
                tracing::warn!(server = %self.server.name(), "a request from a modern server was dropped");
                Ok(Down::Drop)
            }
        }
    }

    /// Whether nobody is shown `message`, whatever it says: it is no part of what its client reads.
    pub(super) fn drops(&self, message: &Message) -> bool {
        match message.kind() {
            // To a request that is not ours.
            Kind::Response => message.id_value().is_some_and(|id| id.as_u64() != Some(self.id)),
            Kind::Request => self.era == Era::Modern,
            Kind::Notification => {
                let method = message.method();
                self.is_unknown(&method)
                    || self.is_unwanted(message, &method)
                    || self.tells_of_others(message)
                    || method == "notifications/tasks"
                        && self.task_questions(message, &mut message.splice()).is_err()
            }
        }
    }

    /// Whether the protocol knows no such notification, and its server may not send one of its own.
    fn is_unknown(&self, method: &str) -> bool {
        !era::is_server_notification(self.era, method) && !self.server.allows(method)
    }

    /// Whether the client did not ask for this notification.
    fn is_unwanted(&self, message: &Message, method: &str) -> bool {
        match method {
            // Strictly increasing, and only for this request's token (A-76).
            "notifications/progress" => {
                self.token.is_none()
                    || message.param("progressToken").and_then(Value::as_u64) != Some(self.id)
                    || progress(message).is_none_or(|now| self.progress.is_some_and(|last| now <= last))
            }
            "notifications/message" if self.era == Era::Modern => {
                let at = message.param("level").and_then(level);
                self.interests.is_some()
                    || self.log_level.is_none_or(|wanted| at.is_none_or(|at| at < wanted))
            }
            "notifications/cancelled" if self.era == Era::Modern => true,
            _ if self.era == Era::Modern => {
                self.interests.as_ref().is_none_or(|interests| !interests.include(method, message))
                    || !self.tells_of_own_tasks(message)
            }
            _ => false,
        }
    }

    /// Whether it is about a task of somebody else.
    fn tells_of_others(&self, message: &Message) -> bool {
        self.era == Era::Legacy && !self.tells_of_own_tasks(message)
    }

    fn notification(&mut self, message: &Message) -> Down {
        let method = message.method();
        if self.is_unknown(&method) {
            tracing::warn!(server = %self.server.name(), method = %quote(&method), "an unknown notification was dropped");
            return Down::Drop;
        }
        if self.is_unwanted(message, &method) {
            return Down::Drop;
        }
        let mut splice = message.splice();
        if method == "notifications/progress" {
            self.progress = progress(message);
            if let (Some(ours), Some(token)) = (message.param("progressToken"), &self.token) {
                splice.replace(ours, token.clone());
            }
        }
        if self.tells_of_others(message) {
            tracing::debug!(server = %self.server.name(), "what was told of another caller's task was dropped");
            return Down::Drop;
        }
        if method == "notifications/tasks"
            && let Err(failure) = self.task_questions(message, &mut splice)
        {
            // Nobody waits for a notification: whoever asks for the task is told why it goes no further.
            tracing::warn!(server = %self.server.name(), %failure, "a task's questions on the way were dropped");
            if let Failure::Question { method, refusal } = failure {
                self.refused.push(rounds::Refused { method, refusal: *refusal });
            }
            return Down::Drop;
        }
        self.common(message, &mut splice);
        if method == "notifications/subscriptions/acknowledged" {
            self.acknowledge(message, &mut splice);
        }
        if self.is_merged {
            merged::notification_down(message, self.server.name(), &mut splice);
        }
        if announces_change(&self.server, &method) {
            self.server.note_change();
        }
        Down::Pass(splice.finish())
    }

    /// What any message downwards may hold that is ours: the listen id and the task it is about.
    fn common<'a>(&self, message: &'a Message, splice: &mut Splice<'a>) {
        if let Some(meta) = message.field("_meta") {
            // What answers nothing has no id.
            let listen = (era::META_SUBSCRIPTION, self.client_id.as_str());
            let listen = Some(listen).filter(|(_, id)| !id.is_empty());
            let own = |id: Value<'_>| self.own_task(&id.as_str()?).map(|task| self.seal_task(&task));
            if meta_down(meta, listen, splice, own) {
                tracing::debug!(server = %self.server.name(), "another caller's task was not named");
            }
        }
        if let Some((id, task)) = self.made_task(message) {
            splice.replace(id, self.seal_task(&task));
        }
        let about = message.field("taskId").filter(|_| self.tells_of_task(message));
        let listed = message.field("notifications").and_then(|n| n.get("taskIds"));
        for told in about.into_iter().chain(listed.into_iter().flat_map(Value::elements)) {
            if let Some(id) = told.as_str() {
                // Nothing that names another comes this far.
                let own = self.own_task(&id).map(|task| self.seal_task(&task));
                splice.replace(told, own.unwrap_or_else(|| "\"\"".to_owned()));
            }
        }
        if let Some(list) = message.field("tasks").filter(|_| self.method == "tasks/list") {
            let own = list.elements().filter_map(|task| self.listed_task(task)).collect::<Vec<_>>();
            splice.replace(list, format!("[{}]", own.join(",")));
        }
    }

    /// A listed task under its sealed id; `None` of one that did not come of a call of this caller's (attacks.md SH-07).
    fn listed_task(&self, listed: Value<'_>) -> Option<String> {
        let id = listed.get("taskId")?;
        let task = self.own_task(&id.as_str()?).filter(|task| self.is_made(task, listed.get("createdAt")))?;
        let mut splice = Splice::new(listed.text());
        splice.replace(id, self.seal_task(&task));
        Some(splice.finish())
    }

    /// Whether every task that a notification is about is the caller's.
    fn tells_of_own_tasks(&self, message: &Message) -> bool {
        let related = message.field("_meta").and_then(|m| m.get(era::META_TASK));
        let related = related.map(|task| task.get("taskId"));
        let own = |id: Option<Value<'_>>| self.own_task(&id?.as_str()?);
        let is_status = message.method().starts_with("notifications/tasks");
        let status = || own(message.field("taskId"));
        related.is_none_or(|id| own(id).is_some())
            && (!is_status || status().is_some_and(|task| self.is_made(&task, message.field("createdAt"))))
    }

    /// Whether `taskId` is a task's: a tool's own result may have a member that happens to be called so.
    fn tells_of_task(&self, message: &Message) -> bool {
        message.result().is_some() && self.is_about_a_task()
            || message.method().starts_with("notifications/tasks")
    }

    /// Questions that were left out of the answer or on the way to it. They are told once.
    pub fn refused(&mut self) -> Vec<rounds::Refused> {
        std::mem::take(&mut self.refused)
    }

    fn response(
        &self,
        message: &Message,
        vetted: &Vetted,
    ) -> Result<(String, Vec<rounds::Refused>), Failure> {
        let mut splice = message.splice();
        match message.id_value() {
            Some(id) => splice.replace(id, self.client_id.clone()),
            // An error of a request that its server could not read has none, or null (JSON-RPC 2.0 §5.1).
            None => splice.set(message.root(), "id", self.client_id.clone()),
        }
        let Some(result) = message.result() else {
            let refused = self.error_down(message, &mut splice);
            return Ok((splice.finish(), refused));
        };
        if result.kind() != Json::Object {
            return Err(Failure::Protocol("its result is no object".into()));
        }
        if let Some(cursor) = message.field("nextCursor")
            && let Some(sealed) = self.seal(Handle::Cursor { method: &self.method }, cursor)
        {
            splice.replace(cursor, sealed);
        }
        self.common(message, &mut splice);
        if self.method == "server/discover" {
            announce(result.get("capabilities"), &mut splice);
        }
        let refused = match self.era {
            Era::Modern => self.modern_result(message, result, &mut splice)?,
            Era::Legacy => Vec::new(),
        };
        self.shown_list(message, vetted, &mut splice);
        if vetted.hides_instructions
            && let Some(instructions) = message.field("instructions")
        {
            splice.replace(instructions, "\"\"");
        }
        if self.is_merged {
            merged::result_down(message, self.server.name(), &mut splice);
        }
        Ok((splice.finish(), refused))
    }

    /// An error in its client's era. The answer is what its client does not see of it.
    fn error_down<'a>(&self, message: &'a Message, splice: &mut Splice<'a>) -> Vec<rounds::Refused> {
        if self.era == Era::Legacy {
            return Vec::new();
        }
        // Codes that mean something else, or nothing, to modern clients (A-44, A-45, C-19).
        let replacement = match message.error_code() {
            Some(-32002) => code::INVALID_PARAMS,
            Some(-32099..=-32023) => code::INTERNAL_ERROR,
            _ => return Vec::new(),
        };
        let Some(error) = message.error() else { return Vec::new() };
        let is_visit = message.error_code() == Some(i64::from(code::URL_ELICITATION_REQUIRED));
        if is_visit && error.get("data").is_some() {
            // Addresses to open, which are asked for by a question here. As data nobody would have judged them (attacks.md II-02).
            let words = error.get("message").map_or("\"\"", Value::text);
            splice.replace(error, format!(r#"{{"code":{replacement},"message":{words}}}"#));
            return vec![rounds::Refused::unasked(
                "clients of this era open no addresses that an error names",
            )];
        }
        if let Some(place) = error.get("code") {
            splice.replace(place, replacement.to_string());
        }
        Vec::new()
    }

    fn modern_result<'a>(
        &self,
        message: &'a Message,
        result: Value<'a>,
        splice: &mut Splice<'a>,
    ) -> Result<Vec<rounds::Refused>, Failure> {
        let protocol = |text: &str| Failure::Protocol(text.to_owned());
        let kind = match message.field("resultType") {
            None => {
                splice.insert(result, "resultType", "\"complete\"");
                "complete".into()
            }
            Some(kind) => kind.as_str().ok_or_else(|| protocol("its `resultType` is no string"))?,
        };
        match kind.as_ref() {
            "complete" => {
                if era::is_cacheable(&self.method) {
                    self.cache_fields(message, result, splice);
                }
                if self.method.starts_with("tasks/") {
                    self.task_questions(message, splice)?;
                }
                Ok(Vec::new())
            }
            "input_required" => self.input_required(message, splice),
            // Only as the answer to a call whose client asked for it (A-110, C-10).
            "task" if self.method == "tools/call" && self.declares(&["extensions", era::TASKS]) => {
                Ok(Vec::new())
            }
            "task" => Err(protocol("it made a task of a request that did not ask for one")),
            _ => Err(protocol("its `resultType` is unknown")),
        }
    }

    /// Integers of at least 0 and one of two words, whatever the server said (A-56, H-05, H-08).
    fn cache_fields<'a>(&self, message: &'a Message, result: Value<'a>, splice: &mut Splice<'a>) {
        let ttl = message.field("ttlMs");
        let wanted = ttl.and_then(|t| t.text().parse::<f64>().ok()).filter(|t| t.is_finite()).unwrap_or(0.0);
        #[expect(clippy::cast_precision_loss, reason = "a day in milliseconds is exact")]
        let wanted = format!("{:.0}", wanted.clamp(0.0, CACHE_CAP_MS as f64).floor());
        if ttl.is_none_or(|t| t.text() != wanted) {
            splice.put(result, ttl, "ttlMs", wanted);
        }
        let now = message.field("cacheScope");
        let scope = now.and_then(Value::as_str);
        if !matches!(scope.as_deref(), Some("public" | "private"))
            || (scope.as_deref() == Some("public") && (self.is_merged || self.policy.shows_by_caller()))
        {
            splice.put(result, now, "cacheScope", "\"private\"");
        }
    }

    /// The response that ends a subscription of which the gate says that it is over (A-84).
    pub fn subscription_ended(&self) -> String {
        let meta = format!(r#"{{"{}":{}}}"#, era::META_SUBSCRIPTION, self.client_id);
        message::result(&self.client_id, &format!(r#"{{"resultType":"complete","_meta":{meta}}}"#))
    }
}

/// How far a notification says that its request is.
fn progress(message: &Message) -> Option<f64> {
    message.param("progress").and_then(|now| now.text().parse().ok())
}
