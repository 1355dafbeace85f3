//! One request under way: what goes up, and what may come back down.

mod decided;
mod down;
mod interests;
mod lists;
mod made;
pub mod origins;
mod own;
mod rounds;
pub mod tasks;
mod told;
mod trace;
mod up;
mod vet;
mod visits;

use std::sync::Arc;

use bartizan_audit::Text;
use bartizan_mcp::{
    Era, Message, Refusal, code, era,
    json::{Value, quote},
};
use bartizan_model::{Clock, Entropy};
use bartizan_shield::{Finding, Inspector, Shield, schema::Contract};
use tokio::task::JoinHandle;

pub use decided::announce;
pub use down::Down;
pub use made::Made;
pub use own::{modern_request_of, own_info, own_modern_request, own_question_of_task};
pub use trace::Trace;
pub use up::meta_up;
pub use vet::Vetted;
pub use visits::{answers_to_server, asked_to_visit};

use interests::{Interests, level};
use tasks::Tasks;
use up::digest_of;
use visits::is_ours;

use crate::{
    Asker, Gate,
    catalog::Catalog,
    documents::{Readers, Reading},
    handles::{Handle, Handles, Task},
    permit::Policy,
    quarantine::Stay,
    record::{ContentRules, Ending, tool_called},
    responses::Responses,
    server::Server,
};

/// Where a request goes.
#[derive(Clone, Copy, Default)]
pub struct Line {
    /// Our id for it.
    pub id: u64,
    /// The process, if that is everybody's.
    pub process: Option<u64>,
}

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
    /// The process of everybody's that it goes to.
    process: Option<u64>,
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
    /// The task whose result it asks for, as its server calls it.
    task: Option<String>,
    /// The task that it names, whatever it asks.
    named: Option<Task>,
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

impl Call {
    /// A request on its way to `server` on `line`.
    pub fn new(
        gate: &Gate,
        server: Arc<Server>,
        asker: Asker,
        era: Era,
        is_merged: bool,
        line: Line,
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
            id: line.id,
            process: line.process,
            handles: gate.handles.clone(),
            asking: None,
            readers: gate.readers(),
            reading: Reading::Fresh,
            stay,
            is_released: false,
            contract,
            tasks: Arc::clone(&gate.tasks),
            task: None,
            named: None,
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
        let opened = self.handles.open(kind, &self.asker.key, self.server.name().as_str(), sealed);
        opened.ok_or_else(|| self.unknown(what))
    }

    fn unknown(&self, what: &str) -> Refusal {
        let status = if self.era == Era::Modern { 400 } else { 200 };
        Refusal::new(status, code::INVALID_PARAMS, format!("the {what} is unknown or expired"))
    }

    fn seal(&self, kind: Handle<'_>, value: Value<'_>) -> Option<String> {
        let sealed = self.handles.seal(kind, &self.asker.key, self.server.name().as_str(), &value.as_str()?);
        Some(quote(&sealed))
    }

    /// The id by which its client knows `task`, a JSON text.
    fn seal_task(&self, task: &Task) -> String {
        quote(&self.handles.seal_task(&self.asker.key, self.home(), self.is_merged, task))
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
}
