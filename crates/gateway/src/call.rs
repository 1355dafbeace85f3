//! One request under way: what goes up, and what may come back down.

mod rounds;
pub mod tasks;
mod told;

use std::{borrow::Cow, sync::Arc};

use aws_lc_rs::digest;
use bartizan_audit::Text;
use bartizan_mcp::{
    Era, Kind, Message, Refusal, Splice, code, era,
    json::{Kind as Json, Value, quote},
    message,
};
use bartizan_model::{Clock, Entropy};
use bartizan_shield::{Finding, Inspector, Shield, schema::Contract};
use tasks::Tasks;
use tokio::task::JoinHandle;

use crate::{
    Asker, Gate,
    catalog::{Catalog, Withheld, announces_change},
    contract,
    documents::{Read, Readers, Reading},
    handles::{Handle, Handles},
    inspect::{self, Known, Passed},
    inventory::DefinitionKind,
    limits::CACHE_CAP_MS,
    merged, naming, opinions,
    permit::{Policy, Question},
    quarantine::Stay,
    record::{ContentRules, Ending, tool_called},
    responses::Responses,
    server::Server,
    upstream::{Answer, Failure},
};

/// What the keys of the gate's own questions begin with. No server may use them.
const OURS: &str = "bartizan/";
/// The key of the question to link an account.
const CONNECT: &str = "bartizan/connect";
/// The keys of the questions to visit a page where somebody decides begin with this.
const VISIT: &str = "bartizan/visit";

/// Everything about a request that its answer is read by.
pub struct Call {
    /// The server it goes to.
    pub server: Arc<Server>,
    /// Who asks.
    pub asker: Asker,
    /// The era both sides speak.
    pub era: Era,
    /// Whether it came by the merged endpoint, where names and addresses carry the server's name.
    pub is_merged: bool,
    /// `method`.
    pub method: String,
    /// The client's id, as written.
    pub client_id: String,
    /// Our id towards the server; it is the progress token too.
    pub id: u64,
    handles: Handles,
    catalog: Arc<Catalog>,
    policy: Arc<Policy>,
    responses: Arc<Responses>,
    shield: Arc<Shield>,
    entropy: Arc<dyn Entropy>,
    /// Our own trace, which the server is told in the place of the client's.
    trace: Trace,
    inspector: Inspector,
    /// Others are asked about the message that is vetted.
    asking: Option<JoinHandle<Vec<Finding>>>,
    readers: Arc<Readers>,
    /// The documents of the message that is vetted.
    reading: Reading,
    /// Where its answer would wait for a person, if the operator wants that.
    stay: Option<Stay>,
    /// Its answer was judged by a person.
    is_released: bool,
    /// What the tool that is called takes and gives.
    contract: Option<Arc<Contract>>,
    tasks: Arc<Tasks>,
    /// The task it asks about, as its server calls it.
    task: Option<String>,
    clock: Arc<dyn Clock>,
    /// How it ends, for the audit log.
    pub ending: Ending,
    /// What of which calls is recorded in words.
    content: Arc<ContentRules>,
    /// The tool that it calls, as its server calls it.
    tool: Option<String>,
    is_first_page: bool,
    /// The client's progress token, as written.
    token: Option<String>,
    progress: Option<f64>,
    /// Digest of method and parameters, to which `requestState` is bound; zeros where nothing is.
    request: [u8; 32],
    /// What the client declared on this request (modern).
    capabilities: String,
    log_level: Option<u8>,
    interests: Option<Interests>,
    /// What was refused in the rounds before this one.
    round: Option<rounds::Round>,
    /// What of the answer's questions, and of those on the way to it, its client does not see.
    refused: Vec<rounds::Refused>,
}

/// What a `subscriptions/listen` asked to be told (26/sub; spec.md A-82).
#[derive(Default)]
struct Interests {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
    tasks: bool,
}

/// What was found out about a message from the server before it is shown.
#[derive(Default)]
pub struct Vetted {
    /// Entries of the list it is that are not shown.
    withheld: Arc<[Withheld]>,
    /// Entries of it that the caller may not use.
    hidden: Vec<usize>,
    /// Its `instructions` are not shown.
    hides_instructions: bool,
    /// What goes on in its place.
    pub changed: Option<Message>,
    /// It does not go on at all.
    pub drops: bool,
}

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

const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl Call {
    /// A request on its way to `server` under our id `id`.
    pub fn new(
        gate: &Gate,
        server: Arc<Server>,
        asker: Asker,
        era: Era,
        is_merged: bool,
        id: u64,
        request: &Message,
    ) -> Self {
        let method = request.method().into_owned();
        let bound = era == Era::Modern && era::may_need_input(&method);
        let contract = gate.catalog.contract(&server, is_merged, request);
        let shield = gate.shield.load_full();
        let ward = gate.ward.get().filter(|_| shield.config().quarantines());
        let digest = if bound || ward.is_some() { digest_of(request) } else { [0; 32] };
        let stay = ward.map(|ward| ward.stay(&asker, &server, request, digest));
        let trace = Trace::fresh(gate.entropy.as_ref());
        let told = request.meta("traceparent").and_then(Value::as_str).filter(|t| era::is_traceparent(t));
        let ending = Ending {
            trace: Some(trace.clone()),
            caller_trace: told.map(|told| Text::new(&told)),
            ..Ending::default()
        };
        let mut call = Self {
            server,
            asker,
            era,
            is_merged,
            client_id: request.id_value().map(|v| v.text().to_owned()).unwrap_or_default(),
            id,
            handles: gate.handles.clone(),
            asking: None,
            readers: gate.readers(),
            reading: Reading::Fresh,
            stay,
            is_released: false,
            contract,
            tasks: Arc::clone(&gate.tasks),
            task: None,
            clock: Arc::clone(&gate.clock),
            catalog: Arc::clone(&gate.catalog),
            policy: Arc::clone(&gate.policy),
            responses: Arc::clone(&gate.responses),
            shield,
            entropy: Arc::clone(&gate.entropy),
            trace,
            inspector: Inspector::default(),
            ending,
            content: gate.content.load_full(),
            tool: tool_called(is_merged, request),
            is_first_page: request.param("cursor").is_none(),
            token: request.meta("progressToken").map(|t| t.text().to_owned()),
            progress: None,
            request: digest,
            capabilities: request
                .meta(era::META_CAPABILITIES)
                .map(|c| c.text().to_owned())
                .unwrap_or_default(),
            log_level: request.meta("io.modelcontextprotocol/logLevel").and_then(level),
            interests: (method == "subscriptions/listen").then(|| Interests::of(request)),
            round: None,
            refused: Vec::new(),
            method,
        };
        call.task = call.task_of(request);
        call
    }

    fn open(&self, kind: Handle<'_>, sealed: &str, what: &str) -> Result<String, Refusal> {
        self.handles.open(kind, &self.asker.key, self.server.name().as_str(), sealed).ok_or_else(|| {
            Refusal::new(
                if self.era == Era::Modern { 400 } else { 200 },
                code::INVALID_PARAMS,
                format!("the {what} is unknown or expired"),
            )
        })
    }

    fn seal(&self, kind: Handle<'_>, value: Value<'_>) -> Option<String> {
        let sealed = self.handles.seal(kind, &self.asker.key, self.server.name().as_str(), &value.as_str()?);
        let shown = if self.is_merged && kind == Handle::Task {
            merged::join_task(self.server.name(), &sealed)
        } else {
            sealed
        };
        Some(quote(&shown))
    }

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
                self.open(Handle::Task, self.bare_task(&text), "task id").map(|t| quote(&t))
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
            splice.replace(task, quote(&self.open(Handle::Task, self.bare_task(&text), "task")?));
        }
        if let Some(tasks) = params.get("notifications").and_then(|n| n.get("taskIds")) {
            let opened: Vec<_> = tasks
                .elements()
                .filter_map(|t| t.as_str())
                .filter(|t| {
                    !self.is_merged
                        || merged::split_task(t).is_some_and(|(s, _)| s == self.server.name().as_str())
                })
                .map(|t| self.open(Handle::Task, self.bare_task(&t), "task").map(|t| quote(&t)))
                .collect::<Result<_, _>>()?;
            splice.replace(tasks, format!("[{}]", opened.join(",")));
        }
        if self.is_merged {
            merged::parameters_up(&self.method, params, self.server.name(), splice);
        }
        Ok(())
    }

    fn bare_task<'t>(&self, task: &'t str) -> &'t str {
        if self.is_merged { merged::split_task(task).map_or(task, |(_, sealed)| sealed) } else { task }
    }

    /// The answer that a person released for this very request; it is given once.
    pub async fn released(&mut self) -> Option<Answer> {
        let message = self.stay.as_ref()?.released(self.id).await?;
        self.is_released = true;
        self.ending.altered("released");
        Some(Answer::given(message))
    }

    /// Finds out what of `message` may be shown at all.
    ///
    /// # Errors
    /// [`Failure::Limit`] if it cannot be found out; nothing of it may be shown then.
    pub async fn vet(&mut self, message: &Message) -> Result<Vetted, Failure> {
        self.responses.pass(self.server.name(), &self.asker.caller)?;
        let mut vetted = Vetted::default();
        let mut judged = None;
        if message.result().is_some()
            && let Some(kind) = DefinitionKind::listed_by(&self.method)
            && let Some(list) = message.field(kind.member())
        {
            if list.kind() != Json::Array {
                return Err(Failure::Protocol(format!("its `{}` is no list", kind.member())));
            }
            let is_whole = self.is_first_page && message.field("nextCursor").is_none_or(Value::is_null);
            let withheld = self.catalog.judge(&self.server, &self.asker.key, kind, list, is_whole).await;
            vetted.withheld = withheld.map_err(|error| {
                tracing::error!(server = %self.server.name(), %error, "a list was withheld");
                Failure::Limit("the approvals of its definitions cannot be read now".into())
            })?;
            vetted.hidden = self.policy.hidden(&self.asker, &self.server, self.era, kind, list);
            if kind == DefinitionKind::Tool {
                let names = list.elements().map(|tool| Some(tool.get("name")?.as_str()?.into_owned()));
                vetted.hidden.extend(self.responses.hidden(self.server.name(), names));
            }
            judged = Some(kind.member());
        }
        if message.result().is_some() && self.method == "server/discover" {
            // A definition, judged with the pins below.
            judged = Some("instructions");
        }
        if self.is_released {
            let cleaned = inspect::released(&self.shield, &self.server, message, &mut self.ending)?;
            if let Passed::Changed(cleaned) = cleaned {
                vetted.changed = Some(*cleaned);
            }
        } else {
            let documents = if self.server.settings().inspects {
                self.reading.of(self.server.name(), message, &self.readers).await?
            } else {
                Arc::default()
            };
            let found = self.second_opinions(message, judged, &documents).await?;
            self.reading = Reading::Fresh;
            let inspected = inspect::answer(
                &self.shield,
                &mut self.inspector,
                &self.server,
                message,
                Known {
                    judged,
                    found: &found,
                    documents: Some(&documents),
                    is_compared: self.contract.is_some(),
                },
                self.entropy.as_ref(),
                &mut self.ending,
            );
            match (inspected, &self.stay) {
                (Ok(Passed::AsItIs), _) => {}
                (Ok(Passed::Changed(changed)), _) => vetted.changed = Some(*changed),
                (Ok(Passed::Dropped), _) => vetted.drops = true,
                (Err(failure), Some(stay)) => {
                    return Err(stay.keep(message, failure, &self.policy).await);
                }
                (Err(failure), None) => return Err(failure),
            }
        }
        if let Some(contract) = &self.contract {
            let shown = vetted.changed.as_ref().unwrap_or(message);
            if let Err(failure) = contract::result(contract, &self.server, shown) {
                self.ending.broke_promise();
                return Err(failure);
            }
            if contract::contradicts(shown) {
                self.ending.contradicted_itself();
            }
        }
        if let Err(failure) = self.vet_task(vetted.changed.as_ref().unwrap_or(message)) {
            self.ending.broke_promise();
            return Err(failure);
        }
        self.remember_task(message);
        if self.method == "server/discover"
            && let Some(text) = message.field("instructions").and_then(Value::as_str)
        {
            vetted.hides_instructions =
                !self.catalog.shows_instructions(&self.server, &self.asker.key, &text).await;
        }
        Ok(vetted)
    }

    /// What others find in `message`, `but` for one member. Dropping the future loses nothing: they go on being asked.
    async fn second_opinions(
        &mut self,
        message: &Message,
        but: Option<&str>,
        documents: &Read,
    ) -> Result<Vec<Finding>, Failure> {
        if self.server.settings().second_opinions.is_empty() {
            return Ok(Vec::new());
        }
        let asking = match &mut self.asking {
            Some(asking) => asking,
            None => {
                let text = inspect::said_words(message, but, documents)?;
                let (shield, server) = (Arc::clone(&self.shield), Arc::clone(&self.server));
                self.asking.insert(tokio::spawn(async move {
                    opinions::ask(&shield, &server.settings().second_opinions, &text).await
                }))
            }
        };
        let found = asking.await;
        self.asking = None;
        found.map_err(|_| Failure::Limit("the second opinions on its answer were lost".into()))
    }

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

    fn notification(&mut self, message: &Message) -> Down {
        let method = message.method();
        if !era::is_server_notification(self.era, &method) && !self.server.allows(&method) {
            tracing::warn!(server = %self.server.name(), method = %quote(&method), "an unknown notification was dropped");
            return Down::Drop;
        }
        let mut splice = message.splice();
        match method.as_ref() {
            "notifications/progress" => {
                let Some(token) = &self.token else { return Down::Drop };
                let now = message.param("progress").and_then(|p| p.text().parse::<f64>().ok());
                // Strictly increasing, and only for this request's token (A-76).
                if message.param("progressToken").and_then(Value::as_u64) != Some(self.id)
                    || now.is_none_or(|now| self.progress.is_some_and(|last| now <= last))
                {
                    return Down::Drop;
                }
                self.progress = now;
                if let Some(ours) = message.param("progressToken") {
                    splice.replace(ours, token.clone());
                }
            }
            "notifications/message" if self.era == Era::Modern => {
                let at = message.param("level").and_then(level);
                if self.interests.is_some()
                    || self.log_level.is_none_or(|wanted| at.is_none_or(|at| at < wanted))
                {
                    return Down::Drop;
                }
            }
            "notifications/cancelled" if self.era == Era::Modern => return Down::Drop,
            _ if self.era == Era::Modern => {
                let Some(interests) = &self.interests else { return Down::Drop };
                if !interests.include(&method, message) {
                    return Down::Drop;
                }
            }
            _ => {}
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
        let meta = message.field("_meta");
        if let Some(listen) = meta.and_then(|m| m.get(era::META_SUBSCRIPTION)) {
            splice.replace(listen, self.client_id.clone());
        }
        let tasks = [
            message.field("taskId").filter(|_| self.speaks_of_tasks(message)),
            message.field("task").filter(|_| self.era == Era::Legacy).and_then(|t| t.get("taskId")),
            meta.and_then(|m| m.get(era::META_TASK)).and_then(|t| t.get("taskId")),
        ];
        let listed = message.field("notifications").and_then(|n| n.get("taskIds"));
        let listed = listed.into_iter().flat_map(Value::elements);
        let legacy_list = message.field("tasks").filter(|_| self.method == "tasks/list");
        let legacy_list = legacy_list.into_iter().flat_map(Value::elements).filter_map(|t| t.get("taskId"));
        for task in tasks.into_iter().flatten().chain(listed).chain(legacy_list) {
            if let Some(sealed) = self.seal(Handle::Task, task) {
                splice.replace(task, sealed);
            }
        }
    }

    /// A tool's own result may have a member that happens to be called `taskId`.
    fn speaks_of_tasks(&self, message: &Message) -> bool {
        let kind = message.field("resultType").and_then(Value::as_str);
        let is_task = message.result().is_some() && kind.as_deref() == Some("task");
        is_task || self.method.starts_with("tasks/") || message.method().starts_with("notifications/tasks")
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
        splice.put(message.root(), message.id_value(), "id", self.client_id.clone());
        let Some(result) = message.result() else {
            self.error_down(message, &mut splice);
            return Ok((splice.finish(), Vec::new()));
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

    fn error_down<'a>(&self, message: &'a Message, splice: &mut Splice<'a>) {
        if self.era == Era::Legacy {
            return;
        }
        // Codes that mean something else, or nothing, to modern clients (A-44, A-45, C-19).
        let replacement = match message.error_code() {
            Some(-32002) => Some(code::INVALID_PARAMS),
            Some(-32099..=-32023) => Some(code::INTERNAL_ERROR),
            _ => None,
        };
        if let (Some(code), Some(place)) = (replacement, message.error().and_then(|e| e.get("code"))) {
            splice.replace(place, code.to_string());
        }
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

    /// What the client declared on this request.
    fn declared(&self) -> Value<'_> {
        // The text came out of a checked message.
        let checked =
            bartizan_mcp::json::check(self.capabilities.as_bytes(), bartizan_mcp::json::Limits::default());
        Value::of(checked.unwrap_or("{}"))
    }

    fn declares(&self, path: &[&str]) -> bool {
        let found = path.iter().try_fold(self.declared(), |at, key| at.get(key));
        found.is_some_and(|value| !value.is_null() && value.as_bool() != Some(false))
    }

    /// Leaves out of a list what may not be shown.
    fn shown_list<'a>(&self, message: &'a Message, vetted: &Vetted, splice: &mut Splice<'a>) {
        let Some(kind) = DefinitionKind::listed_by(&self.method) else { return };
        let Some(list) = message.field(kind.member()) else { return };
        let mut hidden: Vec<usize> = vetted.withheld.iter().map(|w| w.at).collect();
        hidden.extend(&vetted.hidden);
        if kind == DefinitionKind::Tool {
            hidden.extend(self.learn_tools(message, list));
        }
        let explanation =
            inspect::explanation(&self.shield, &self.server).filter(|_| kind == DefinitionKind::Tool);
        if hidden.is_empty() && explanation.is_none() {
            return;
        }
        hidden.sort_unstable();
        let shown = list
            .elements()
            .enumerate()
            .filter(|(at, _)| hidden.binary_search(at).is_err())
            .map(|(_, e)| explanation.map_or_else(|| e.text().into(), |why| explained(e, why)))
            .collect::<Vec<Cow<'_, str>>>();
        // Nothing else is changed inside a list: merged lists are put together from calls that are not merged.
        splice.replace(list, format!("[{}]", shown.join(",")));
    }

    /// Remembers which headers mirror which parameters. Answers the places of tools whose annotations cannot be followed
    /// (C-07); in the legacy era there are no such headers.
    fn learn_tools(&self, message: &Message, tools: Value<'_>) -> Vec<usize> {
        if self.era == Era::Legacy {
            return Vec::new();
        }
        let is_whole = message.field("nextCursor").is_none();
        if !message.text().contains("x-mcp-header") && !message.text().contains("\\u") {
            self.server.tools().learn_plain(is_whole);
            return Vec::new();
        }
        self.server.tools().learn(tools, is_whole, self.server.name())
    }

    /// The response that ends a subscription when the gate stops (A-84).
    pub fn subscription_ended(&self) -> String {
        let meta = format!(r#"{{"{}":{}}}"#, era::META_SUBSCRIPTION, self.client_id);
        message::result(&self.client_id, &format!(r#"{{"resultType":"complete","_meta":{meta}}}"#))
    }

    /// Whether the client said on this request that it can show a URL, where it may be asked to.
    fn shows_urls(&self) -> bool {
        self.era == Era::Modern && era::may_need_input(&self.method) && self.declares(&["elicitation", "url"])
    }

    /// An error of ours in the place of the response.
    ///
    /// To a client that can show a URL, an account that is not linked is a URL to show before it asks again (spec.md C-66,
    /// A-90).
    pub fn failed(&self, failure: &Failure) -> (u16, String) {
        let refusal = failure.refusal(self.server.name().as_str());
        if let Failure::NeedsLinking(url) = failure
            && self.shows_urls()
        {
            return (
                200,
                to_be_shown(&self.client_id, [(CONNECT.to_owned(), url.as_str())], &refusal.message),
            );
        }
        // Legacy clients take other statuses for the end of the session (spec.md B-28).
        let status = if self.era == Era::Legacy { 200 } else { refusal.status };
        (status, refusal.to_text(Some(&self.client_id)))
    }
}

/// Whether the key of a question says that the gate asks it itself.
fn is_ours(key: &str) -> bool {
    key.starts_with(OURS)
}

/// What a client answers to a server's questions in a modern request: not what it answers to ours. `None` if there is nothing.
pub fn answers_to_server(request: &Message) -> Option<Vec<(String, &str)>> {
    let answers = request.param("inputResponses")?;
    if answers.kind() != Json::Object {
        // Whatever it is, the server gets it.
        return Some(vec![(String::new(), answers.text())]);
    }
    let answers = answers.members().filter(|answer| !is_ours(&answer.key()));
    let answers: Vec<_> = answers.map(|answer| (answer.key().into_owned(), answer.value.text())).collect();
    (!answers.is_empty()).then_some(answers)
}

/// The refusal of a modern request in the words of its client: one that can show a URL is asked to show the pages where
/// somebody can lift it (26/elicitation). What the client answers means nothing; that it asks again does. It is asked once: a
/// client that comes back from there too early gets the error.
pub fn asked_to_visit(request: &Message, refusal: &Refusal) -> Option<String> {
    let url_mode = Value::of(r#"{"mode":"url"}"#);
    let declared = request.meta(era::META_CAPABILITIES)?;
    let has_been = request
        .param("inputResponses")
        .is_some_and(|answers| answers.members().any(|answer| answer.key().starts_with(VISIT)));
    if refusal.visits.is_empty()
        || has_been
        || !era::may_need_input(&request.method())
        || !Question::Elicitation.is_declared(declared, Some(url_mode))
    {
        return None;
    }
    let places = (1..).zip(&refusal.visits).map(|(nth, url)| (format!("{VISIT}-{nth}"), url.as_str()));
    Some(to_be_shown(request.id_value()?.text(), places, &refusal.message))
}

/// The answer to the request `id` that has its client show these URLs, each under its key.
fn to_be_shown<'u>(id: &str, places: impl IntoIterator<Item = (String, &'u str)>, words: &str) -> String {
    let words = quote(words);
    let questions = places.into_iter().map(|(key, url)| {
        let url = quote(url);
        format!(
            r#"{}:{{"method":"elicitation/create","params":{{"mode":"url","url":{url},"message":{words}}}}}"#,
            quote(&key)
        )
    });
    let questions = questions.collect::<Vec<_>>().join(",");
    message::result(id, &format!(r#"{{"resultType":"input_required","inputRequests":{{{questions}}}}}"#))
}

impl Interests {
    fn of(request: &Message) -> Self {
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

    fn include(&self, method: &str, _message: &Message) -> bool {
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

/// A tool whose description also says what our marks in its results mean: after its pin was compared, never part of it.
fn explained<'a>(tool: Value<'a>, why: &str) -> Cow<'a, str> {
    let now = tool.get("description");
    let text = now.and_then(Value::as_str).unwrap_or_default();
    let mut splice = Splice::new(tool.text());
    let text = if text.is_empty() { why.to_owned() } else { format!("{text}\n\n{why}") };
    splice.put(tool, now, "description", quote(&text));
    splice.finish().into()
}

fn level(value: Value<'_>) -> Option<u8> {
    let name = value.as_str()?;
    LEVELS.iter().position(|l| *l == name).and_then(|at| u8::try_from(at).ok())
}

/// Method and parameters without what differs between the rounds of one request.
fn digest_of(request: &Message) -> [u8; 32] {
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
/// baggage (issue 2 item 8; attacks.md TP-01).
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

/// A trace of our own: the client's ids stay this side (Trace Context §3.2).
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Of our span in it: 16 hexadecimal digits.
    pub span: String,
}

impl Trace {
    fn fresh(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 24];
        entropy.fill(&mut bytes);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let (id, span) = hex.split_at_checked(32).unwrap_or_default();
        Self { id: id.to_owned(), span: span.to_owned() }
    }

    /// As `traceparent`.
    fn parent(&self) -> String {
        format!("00-{}-{}-01", self.id, self.span)
    }
}

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

/// Our name and version, as an `Implementation` of the schema.
pub fn own_info() -> String {
    format!(r#"{{"name":"bartizan","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}
