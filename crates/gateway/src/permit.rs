//! May this caller do this? The policy at work, with what has entered the caller's window (attacks.md EP, II-14).
//!
//! Doubt is Deny: without a bundle that speaks of the tools as they are pinned now, or without the record of flows, nothing is
//! permitted.

pub mod approvals;
pub mod attributes;
pub mod holds;
mod questions;
mod resets;
pub mod shown;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bartizan_mcp::{
    Era, Message, Refusal, code,
    json::{Value, quote},
};
use bartizan_model::{CallerKey, Clock, ServerName, Timestamp};
use bartizan_oauth::{AuthenticationRequired, Error, VerifiedToken};
use bartizan_policy::{
    Action, Bundle, Catalog, Claims, Decision, Denial, FlowLabels, Hints, Obligation, PolicyConfig,
    Principal, Prompt, Query, Reason, Sightings, Source, Sources, Surroundings, Tool, Trust,
    flow::{FlowContext, Label},
};
use bartizan_store::{
    Approvals, DatabaseError, Digest, Flows, Keeper,
    approvals::Approval,
    flows::Flow,
    pins::{Kind, PinSet},
};

pub use questions::Question;

use approvals::Pending;
use holds::Shielded;
use questions::{Listening, leaking};
use resets::Resets;
use url::Url;

use crate::{
    Access, Asker,
    call::answers_to_server,
    catalog,
    inventory::DefinitionKind,
    merged,
    server::{Pinning, Server},
    upstream::stdio::lock,
};

/// For how long a label that this process recorded is not recorded again.
const RECORD_AGAIN: Duration = Duration::from_secs(60);

/// Requests outside tools that carry nothing of the caller's to their server but a handle.
const CARRY_NOTHING: [&str; 5] =
    ["resources/unsubscribe", "tasks/cancel", "tasks/get", "tasks/list", "tasks/result"];

/// The policy and what it is asked with.
pub struct Policy {
    keeper: Arc<Keeper>,
    flows: Arc<dyn Flows>,
    approvals: Arc<dyn Approvals>,
    clock: Arc<dyn Clock>,
    ready: ArcSwapOption<Ready>,
    /// One bundle is made at a time; whoever waits finds it made.
    making: Mutex<Making>,
    recorded: Mutex<HashMap<CallerKey, Recorded>>,
    resets: Resets,
    principals: Mutex<HashMap<CallerKey, Known>>,
    sightings: Sightings,
    /// Where people reach the pages on which they decide, if there are any.
    pages: ArcSwapOption<Url>,
}

/// What the operator wrote, and the servers it is about.
#[derive(Clone, Default)]
pub struct Rules {
    /// `[policy]`
    pub config: PolicyConfig,
    /// The Cedar files.
    pub policies: Vec<Source>,
    /// How far each server is trusted.
    pub servers: BTreeMap<ServerName, Trust>,
    /// What each server may ask its clients for.
    pub may_ask: BTreeMap<ServerName, BTreeSet<Question>>,
}

/// An identity made ready, and the token it was made from.
struct Known {
    token: Option<Weak<VerifiedToken>>,
    principal: Arc<Principal>,
}

/// What of a caller's window this process knows to be on record.
#[derive(Default)]
struct Recorded {
    /// How often windows had been reset before.
    resets: i64,
    labels: BTreeMap<Label, Timestamp>,
}

#[derive(Default)]
struct Making {
    rules: Rules,
    /// Counts changes of `rules`.
    edition: u64,
}

/// A bundle for one state of the pins and one edition of the rules.
struct Ready {
    pins: u64,
    edition: u64,
    bundle: Arc<Bundle>,
    /// The approved tools and prompts it speaks of.
    tools: Digest,
    /// Whether anything can be kept from going out by what has entered.
    minds_flow: bool,
    /// Whether the operator's own policies ask what has entered: every call then asks the store, not this process's memory.
    reads_flow: bool,
    /// Whether the shipped rule holds.
    has_rule: bool,
    trust: BTreeMap<ServerName, Trust>,
    /// Whether the operator wrote any policy of his own; without, the owner sees all there is.
    is_own: bool,
    window: Duration,
    /// Whose holders may release what was withheld.
    release_role: Option<String>,
    /// Whose holders may approve what the shield holds.
    hold_role: Option<String>,
    /// What of whoever asks is recorded.
    relevant: Arc<attributes::Relevant>,
}

/// The proof that a request was permitted, and by what.
pub struct Permitted {
    policies: Vec<String>,
    approvals: Vec<Approval>,
    labels: Vec<&'static str>,
    attributes: Option<String>,
}

impl Permitted {
    /// The same, with what it was decided by, as JSON.
    #[must_use]
    pub fn with_attributes(self, attributes: Option<String>) -> Self {
        Self { attributes, ..self }
    }

    /// What it was decided by, as JSON, if that is not all in the clear.
    pub fn attributes(&self) -> Option<&str> {
        self.attributes.as_deref()
    }

    /// What the call leaves in its caller's window: `private`, `untrusted`, `destructive`.
    pub fn labels(&self) -> &[&'static str] {
        &self.labels
    }

    /// The policies that decided.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// The approvals that were used up for it.
    pub fn approvals(&self) -> &[Approval] {
        &self.approvals
    }
}

impl Policy {
    /// A policy over `keeper`'s pins that permits nothing until it is given rules.
    pub fn new(
        keeper: Arc<Keeper>,
        flows: Arc<dyn Flows>,
        approvals: Arc<dyn Approvals>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            keeper,
            flows,
            approvals,
            clock,
            ready: ArcSwapOption::empty(),
            making: Mutex::default(),
            recorded: Mutex::default(),
            resets: Resets::default(),
            principals: Mutex::default(),
            sightings: Sightings::default(),
            pages: ArcSwapOption::empty(),
        }
    }

    /// Judges by `rules` from now on. If they cannot be used, the old ones stay.
    ///
    /// # Errors
    /// Every problem, a line each.
    pub fn govern(&self, rules: Rules) -> Result<Vec<String>, String> {
        let mut making = lock(&self.making);
        let edition = making.edition + 1;
        let (ready, warnings) = make(&rules, edition, &self.keeper.approved())?;
        *making = Making { rules, edition };
        self.ready.store(Some(Arc::new(ready)));
        Ok(warnings)
    }

    /// What `rules` would be, for the tools that are approved now: their bundle, and what should be looked at all the same.
    /// Nothing changes.
    ///
    /// # Errors
    /// Every problem, a line each.
    pub fn draft(&self, rules: &Rules) -> Result<(Arc<Bundle>, Vec<String>), String> {
        let (ready, warnings) = catalog::long_work(|| make(rules, 0, &self.keeper.approved()))?;
        Ok((ready.bundle, warnings))
    }

    /// The bundle for the pins as they are now.
    fn ready(&self) -> Option<Arc<Ready>> {
        // One state of the pins for all of this: they may change any time.
        let set = self.keeper.approved();
        let current = |ready: &Arc<Ready>| ready.pins == set.version();
        if let Some(ready) = self.ready.load_full().filter(current) {
            return Some(ready);
        }
        let made = catalog::long_work(|| {
            let making = lock(&self.making);
            let known = self.ready.load_full().filter(|ready| ready.edition == making.edition);
            let fresh = match known {
                Some(ready) if current(&ready) => return Ok(ready),
                // Pins change more often than what policies can speak of.
                Some(ready) if ready.tools == tools_of(&making.rules, &set) => ready.at(set.version()),
                _ => make(&making.rules, making.edition, &set)?.0,
            };
            let fresh = Arc::new(fresh);
            self.ready.store(Some(Arc::clone(&fresh)));
            Ok::<_, String>(fresh)
        });
        match made {
            Ok(ready) => Some(ready),
            Err(problems) => {
                tracing::error!(%problems, "the policies do not fit the approved tools; nothing is permitted");
                None
            }
        }
    }

    /// The policies in force, for the pins as they are now.
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        self.ready().map(|ready| Arc::clone(&ready.bundle))
    }

    /// What has entered whose window.
    pub fn flows(&self) -> &Arc<dyn Flows> {
        &self.flows
    }

    /// Sends people to the approval pages below `base` from now on; without, to the command line.
    pub fn serve_pages(&self, base: Option<Url>) {
        self.pages.store(base.map(Arc::new));
    }

    fn principal(&self, asker: &Asker, bundle: &Bundle) -> Arc<Principal> {
        let mut known = lock(&self.principals);
        if known.len() > 4096 {
            known.clear();
        }
        let token = asker.access.as_ref().map(Access::token);
        // The same person comes with another token after a step-up, and may then do more.
        let is_same = |known: &&Known| match (&known.token, token) {
            (None, None) => true,
            (Some(then), Some(now)) => std::ptr::eq(then.as_ptr(), Arc::as_ptr(now)),
            _ => false,
        };
        if let Some(known) = known.get(&asker.key).filter(is_same) {
            return Arc::clone(&known.principal);
        }
        let principal = Arc::new(bundle.identify(claims_of(asker)));
        let fresh = Known { token: token.map(Arc::downgrade), principal: Arc::clone(&principal) };
        known.insert(asker.key.clone(), fresh);
        principal
    }

    /// Permits a request, and lets what it will bring enter its caller's window. One that the shield holds needs somebody's
    /// approval besides whatever the policies ask for.
    ///
    /// # Errors
    /// The refusal. A tool that may not be seen reads as one that is not there.
    pub async fn authorize(
        &self,
        asker: &Asker,
        server: &Server,
        era: Era,
        is_merged: bool,
        message: &Message,
        shielded: Shielded<'_>,
    ) -> Result<Permitted, Refusal> {
        let Shielded { shield, hold } = shielded;
        let ready = self.ready().ok_or_else(unready)?;
        let method = message.method();
        let asked = Asked::of(&method, is_merged, message);
        // An approval is bound to a tool in its pinned form.
        let can_wait =
            matches!(asked, Asked::Call { .. }) && server.settings().pinning != Pinning::DangerousNone;
        if let Some(hold) = hold.filter(|_| !can_wait) {
            return Err(hold.refusal());
        }
        let principal = self.principal(asker, &ready.bundle);
        let query = |action, flow| Query {
            principal: &principal,
            client: asker.caller.client(),
            server: server.name().as_str(),
            action,
            surroundings: Surroundings {
                address: asker.address,
                now: self.clock.now(),
                era: policy_era(era),
                flow,
            },
            approved: &[],
        };
        if matches!(asked, Asked::List | Asked::SubscribeServer) {
            let decision = ready.bundle.authorize(&query(asked.action(), FlowContext::default()));
            let permitted = permitted(decision, asker, server, era, "")?;
            let listening = Listening { principal: &principal, era, is_merged, message };
            self.check_listening(&ready, asker, server, &listening).await?;
            return Ok(permitted);
        }
        let by_trust = ready.trust.get(server.name()).copied().unwrap_or_default().default_labels();
        let (tool, labels, action) = match &asked {
            // Nothing is known of its tools: whoever may list them may call them.
            Asked::Call { tool, .. } if server.settings().pinning == Pinning::DangerousNone => {
                (tool.clone(), by_trust, Action::List)
            }
            Asked::Call { tool, .. } => {
                let labels = ready.bundle.flow_labels(server.name().as_str(), tool);
                (tool.clone(), labels.unwrap_or(by_trust), asked.action())
            }
            // What is read, completed or got brings and carries as much as a call does (attacks.md II-14).
            _ => {
                let sends_out = by_trust.sends_out && !CARRY_NOTHING.contains(&method.as_ref());
                (method.clone().into_owned(), FlowLabels { sends_out, ..by_trust }, asked.action())
            }
        };
        // What a client answers goes to the server as a whole, whatever the tool does with its arguments.
        let answers = by_trust.sends_out && answers_to_server(message).is_some();
        // The shipped rule, for what Cedar has no labels for.
        let leaks = |flow: FlowContext| {
            let goes_out = answers || (!matches!(action, Action::Call { .. }) && labels.sends_out);
            ready.has_rule && goes_out && flow.untrusted && flow.private
        };
        let asks_store = answers || ready.reads_flow || (labels.sends_out && ready.minds_flow);
        let is_known = self.is_recorded(asker, labels);
        // What is known to be on record is not any more once its owner has reset it (`bartizan policy flow reset`). Read
        // before anything is put there, so that a reset meanwhile is seen the next time.
        let resets = match brought(labels).next() {
            Some(_) if !(ready.reads_flow || asks_store && is_known) => {
                Some(self.resets.count(self.flows.as_ref()).await.map_err(unusable)?)
            }
            _ => None,
        };
        let is_known = is_known && resets.is_none_or(|now| self.resets_before(asker) == now);
        let must_record = asks_store || !is_known;
        let mut given: Vec<Approval> = Vec::new();
        // Of those, what counts for policies: who approved for the shield has said nothing about what they ask.
        let mut approved: Vec<String> = Vec::new();
        loop {
            let judge = |flow| ready.bundle.authorize(&Query { approved: &approved, ..query(action, flow) });
            let waiting = hold.filter(|_| given.is_empty());
            let (decision, leaked, because) = if waiting.is_some() {
                self.consider(asker, &ready, &judge, &leaks).await?
            } else if must_record {
                self.admit(asker, server, (&tool, labels), &ready, &judge, &leaks).await?
            } else {
                (judge(self.remembered(asker, ready.window)), false, String::new())
            };
            if is_hidden(&ready, &query(action, FlowContext::default()), &decision) {
                return Err(unknown(era));
            }
            if leaked {
                return Err(leaking(era, &because));
            }
            if let (Action::Call { .. }, true, Some((roles, policies))) =
                (action, given.is_empty(), approvals::wanted(&decision, waiting))
            {
                let because = if roles.is_empty() { "" } else { &because };
                let (roles, hold) = (&roles, waiting);
                let call = Pending { tool: &tool, message, roles, policies, because, labels, hold, shield };
                given = self.redeem(&ready, asker, server, era, call).await?;
                approved.clone_from(roles);
                continue;
            }
            if let (true, true, Some(resets)) = (must_record, decision.is_permit(), resets) {
                self.remember(asker, labels, resets, self.clock.now());
            }
            let permitted = permitted(decision, asker, server, era, &because)?;
            let labels = brought(labels).map(word).collect();
            return Ok(Permitted { approvals: given, labels, ..permitted });
        }
    }

    /// Decides with what is on record, and puts nothing there: the call is not made yet. Answers as [`Policy::admit`].
    async fn consider(
        &self,
        asker: &Asker,
        ready: &Ready,
        judge: &(dyn Fn(FlowContext) -> Decision + Send + Sync),
        leaks: &(dyn Fn(FlowContext) -> bool + Send + Sync),
    ) -> Result<(Decision, bool, String), Refusal> {
        let since = Timestamp::from_unix(self.clock.now().as_unix().saturating_sub(ready.window.as_secs()));
        let past = self.flows.window(&asker.caller, since).await.map_err(unusable)?;
        let flow = context_of(&past);
        Ok((judge(flow), leaks(flow), because(&past)))
    }

    /// Decides with what is on record, and puts what the call brings on record if it may be made. Answers whether it
    /// `leaks` too, and what it was that had entered.
    async fn admit(
        &self,
        asker: &Asker,
        server: &Server,
        (tool, labels): (&str, FlowLabels),
        ready: &Ready,
        judge: &(dyn Fn(FlowContext) -> Decision + Send + Sync),
        leaks: &(dyn Fn(FlowContext) -> bool + Send + Sync),
    ) -> Result<(Decision, bool, String), Refusal> {
        let now = self.clock.now();
        let entry = Flow {
            at: now,
            server: server.name().clone(),
            tool: tool.to_owned(),
            labels: words(labels),
            call: String::new(),
        };
        let decided = Mutex::new(None);
        let admits = |past: &[Flow]| {
            let flow = context_of(past);
            let decision = judge(flow);
            let goes = decision.is_permit() && !leaks(flow);
            *lock(&decided) = Some((decision, leaks(flow), because(past)));
            goes
        };
        let since = Timestamp::from_unix(now.as_unix().saturating_sub(ready.window.as_secs()));
        self.flows.admit(&asker.caller, since, &entry, &admits).await.map_err(unusable)?;
        lock(&decided).take().ok_or_else(unready)
    }

    /// Whether all that a call brings was put on record a moment ago, if nobody has reset it since.
    fn is_recorded(&self, asker: &Asker, labels: FlowLabels) -> bool {
        let now = self.clock.now();
        let recorded = lock(&self.recorded);
        let mine = recorded.get(&asker.key);
        brought(labels).all(|label| {
            mine.and_then(|m| m.labels.get(&label)).is_some_and(|at| now.since(*at) < RECORD_AGAIN)
        })
    }

    /// How often windows had been reset when something of the caller's was last put on record here.
    fn resets_before(&self, asker: &Asker) -> i64 {
        lock(&self.recorded).get(&asker.key).map_or(0, |mine| mine.resets)
    }

    fn remember(&self, asker: &Asker, labels: FlowLabels, resets: i64, now: Timestamp) {
        let mut recorded = lock(&self.recorded);
        let mine = recorded.entry(asker.key.clone()).or_default();
        if mine.resets != resets {
            *mine = Recorded { resets, labels: BTreeMap::new() };
        }
        mine.labels.extend(brought(labels).map(|label| (label, now)));
    }

    fn remembered(&self, asker: &Asker, window: Duration) -> FlowContext {
        let now = self.clock.now();
        let recorded = lock(&self.recorded);
        let has = |label| {
            recorded
                .get(&asker.key)
                .and_then(|m| m.labels.get(&label))
                .is_some_and(|at| now.since(*at) <= window)
        };
        FlowContext {
            untrusted: has(Label::Untrusted),
            private: has(Label::Private),
            destructive: has(Label::Destructive),
        }
    }

    /// The places of a list's entries that the caller may not see.
    pub fn hidden(
        &self,
        asker: &Asker,
        server: &Server,
        era: Era,
        kind: DefinitionKind,
        list: Value<'_>,
    ) -> Vec<usize> {
        let count = list.elements().count();
        let Some(ready) = self.ready() else { return (0..count).collect() };
        if !ready.is_own || server.settings().pinning == Pinning::DangerousNone {
            return Vec::new();
        }
        let principal = self.principal(asker, &ready.bundle);
        let names: Vec<Option<Cow<'_, str>>> =
            list.elements().map(|entry| entry.get(kind.key())?.as_str()).collect();
        let named = names.iter().enumerate().filter_map(|(at, name)| Some((at, name.as_deref()?)));
        let (places, actions): (Vec<usize>, Vec<Action<'_>>) = named
            .map(|(at, name)| match kind {
                DefinitionKind::Tool => (at, Action::Call { tool: name, arguments: None }),
                DefinitionKind::Prompt => (at, Action::Get { prompt: name, arguments: None }),
                DefinitionKind::Resource => (at, Action::Read { uri: name }),
                DefinitionKind::Template => (at, Action::CompleteResource { uri: name }),
            })
            .unzip();
        let query = Query {
            principal: &principal,
            client: asker.caller.client(),
            server: server.name().as_str(),
            action: Action::List,
            surroundings: Surroundings {
                address: asker.address,
                now: self.clock.now(),
                era: policy_era(era),
                flow: FlowContext::default(),
            },
            approved: &[],
        };
        let seen = self.sightings.of(&ready.bundle, &query, &actions);
        let shown: BTreeSet<usize> =
            places.into_iter().zip(seen.iter()).filter_map(|(at, seen)| seen.then_some(at)).collect();
        (0..count).filter(|at| !shown.contains(at)).collect()
    }

    /// Whether two callers may be shown different lists, so that nothing may be kept for both (spec.md H-05).
    pub fn shows_by_caller(&self) -> bool {
        self.ready().is_none_or(|ready| ready.is_own)
    }
}

/// What is known of who asks.
fn claims_of(asker: &Asker) -> Claims {
    match asker.access.as_ref().map(Access::token) {
        Some(token) => claims_of_token(token),
        None => Claims::of_caller(&asker.caller),
    }
}

/// What an access token says of whom it speaks for.
pub fn claims_of_token(token: &VerifiedToken) -> Claims {
    Claims {
        app: token.principal() == bartizan_oauth::Principal::Application,
        groups: token.groups().clone(),
        roles: token.roles().clone(),
        scopes: token.scopes().clone(),
        amr: token.authentication_methods().iter().cloned().collect(),
        acr: token.authentication_contexts().first().cloned(),
        auth_time: token.authenticated_at().map(Timestamp::as_unix),
        ..Claims::of_caller(token.caller())
    }
}

/// What a message asks for, in the policy's words.
enum Asked {
    Call { tool: String, arguments: Option<String> },
    CompletePrompt(String),
    CompleteResource(String),
    Get { prompt: String, arguments: Option<String> },
    List,
    Read(String),
    Subscribe(String),
    SubscribeServer,
    Task,
}

impl Asked {
    fn of(method: &str, is_merged: bool, message: &Message) -> Self {
        let text = |value: Option<Value<'_>>| {
            value.and_then(Value::as_str).map(|t| t.into_owned()).unwrap_or_default()
        };
        let name = |value| {
            let name = text(value);
            if is_merged {
                merged::split_name(&name).map_or(String::new(), |(_, bare)| bare.to_owned())
            } else {
                name
            }
        };
        let uri = |value| {
            let uri = text(value);
            if is_merged {
                merged::split_uri(&uri).map_or(String::new(), |(_, bare)| bare.to_owned())
            } else {
                uri
            }
        };
        match method {
            "tools/call" => Self::Call {
                tool: name(message.param("name")),
                arguments: message.param("arguments").map(|a| a.text().to_owned()),
            },
            "prompts/get" => Self::Get {
                prompt: name(message.param("name")),
                arguments: message.param("arguments").map(|a| a.text().to_owned()),
            },
            "resources/read" => Self::Read(uri(message.param("uri"))),
            "resources/subscribe" | "resources/unsubscribe" => Self::Subscribe(uri(message.param("uri"))),
            "subscriptions/listen" => Self::SubscribeServer,
            "completion/complete" => match message.param("ref") {
                // What kind it is decides, not which other members stand beside.
                Some(reference) if text(reference.get("type")) == "ref/resource" => {
                    Self::CompleteResource(uri(reference.get("uri")))
                }
                reference => Self::CompletePrompt(name(reference.and_then(|r| r.get("name")))),
            },
            _ if method.starts_with("tasks/") => Self::Task,
            _ => Self::List,
        }
    }

    fn action(&self) -> Action<'_> {
        match self {
            Self::Call { tool, arguments } => Action::Call { tool, arguments: arguments.as_deref() },
            Self::CompletePrompt(prompt) => Action::CompletePrompt { prompt },
            Self::CompleteResource(uri) => Action::CompleteResource { uri },
            Self::Get { prompt, arguments } => Action::Get { prompt, arguments: arguments.as_deref() },
            Self::List => Action::List,
            Self::Read(uri) => Action::Read { uri },
            Self::Subscribe(uri) => Action::SubscribeResource { uri },
            Self::SubscribeServer => Action::SubscribeServer,
            Self::Task => Action::Task,
        }
    }
}

fn permitted(
    decision: Decision,
    asker: &Asker,
    server: &Server,
    era: Era,
    because: &str,
) -> Result<Permitted, Refusal> {
    match decision {
        Decision::Permit(permit) => Ok(Permitted {
            policies: permit.policies().to_vec(),
            approvals: Vec::new(),
            labels: Vec::new(),
            attributes: None,
        }),
        Decision::Deny(denial) => {
            tracing::warn!(server = %server.name(), reason = denial.reason.code(), policies = %denial.policies.join(" "), "denied");
            Err(denied(&denial, asker, server, era, because))
        }
    }
}

fn denied(denial: &Denial, asker: &Asker, server: &Server, era: Era, because: &str) -> Refusal {
    let status = |modern| if era == Era::Modern { modern } else { 200 };
    if matches!(denial.reason, Reason::Unknown) {
        return unknown(era);
    }
    let needs: Vec<_> = denial
        .obligations
        .iter()
        .map(|obligation| match obligation {
            Obligation::Approval(role) => format!("an approval by `{role}`"),
            Obligation::MaxAge(seconds) => format!("a sign-in no older than {seconds} seconds"),
            Obligation::Mfa => "a sign-in with a second factor".to_owned(),
            Obligation::StepUp(scope) => format!("the scope `{scope}`"),
        })
        .collect();
    let mut text = format!("the policy does not permit it: {}", denial.reason);
    if !needs.is_empty() {
        text = format!("{text} ({})", needs.join(", "));
    }
    if !because.is_empty() {
        text = format!("{text}, because {because}");
    }
    let refusal = Refusal::new(status(403), code::FORBIDDEN, text).with_data(format!(
        r#"{{"source":"bartizan","reason":"{}","server":{}}}"#,
        denial.reason.code(),
        quote(server.name().as_str())
    ));
    match step_up(&denial.obligations, asker) {
        // The challenge is HTTP's, in either era.
        Some((status, challenges)) => Refusal { status, ..refusal.with_challenges(challenges) },
        None => refusal,
    }
}

/// The status and challenge by which a client gets a token that meets `obligations`, if a token can (spec.md E-07, E-08;
/// RFC 9470).
fn step_up(obligations: &[Obligation], asker: &Asker) -> Option<(u16, Vec<String>)> {
    let access = asker.access.as_ref()?;
    let mut scopes = Vec::new();
    let mut sign_in = AuthenticationRequired::default();
    for obligation in obligations {
        match obligation {
            // Asked for once the token is good enough.
            Obligation::Approval(_) => {}
            Obligation::MaxAge(seconds) => sign_in.max_age_s = Some(*seconds),
            Obligation::Mfa => sign_in.contexts.push("mfa".to_owned()),
            Obligation::StepUp(scope) => scopes.push(scope.clone()),
        }
    }
    let error = if !scopes.is_empty() {
        Error::ScopeInsufficient { needed: scopes }
    } else if sign_in == AuthenticationRequired::default() {
        return None;
    } else {
        access.token().lacking(&sign_in, sign_in.contexts.is_empty())
    };
    Some((error.verdict().status, access.challenge(&error)))
}

fn policy_era(era: Era) -> bartizan_policy::Era {
    match era {
        Era::Modern => bartizan_policy::Era::Modern,
        Era::Legacy => bartizan_policy::Era::Legacy,
    }
}

/// A tool that may not be seen is answered for as one that is not there.
fn unknown(era: Era) -> Refusal {
    let status = if era == Era::Modern { 400 } else { 200 };
    Refusal::new(status, code::INVALID_PARAMS, "there is no such tool")
}

fn unusable(error: DatabaseError) -> Refusal {
    tracing::error!(%error, "the record of information flow cannot be used");
    unready()
}

fn unready() -> Refusal {
    Refusal::new(503, code::LIMIT, "the policy cannot be asked now; try again later")
        .with_data(r#"{"source":"bartizan","reason":"policy.unavailable"}"#)
}

fn make(rules: &Rules, edition: u64, set: &PinSet) -> Result<(Ready, Vec<String>), String> {
    let catalog = catalog_of(rules, set);
    let asking = questions::as_policies(rules.may_ask.iter());
    let sources = Sources {
        policies: rules.policies.iter().cloned().chain(asking).collect(),
        grants: rules.config.grants.clone(),
        dangerous_without_flow_rule: rules.config.flow.dangerous_no_rule,
    };
    let loaded =
        Bundle::load(&sources, &catalog, &rules.config.roles).map_err(|problems| problems.0.join("\n"))?;
    let has_private = catalog
        .tools()
        .any(|(_, server, _, tool)| tool.flow.unwrap_or_else(|| server.trust.default_labels()).reads_private);
    let speaks_of_flow = rules.policies.iter().any(|source| source.text.contains("flow"));
    let ready = Ready {
        pins: set.version(),
        edition,
        bundle: Arc::new(loaded.bundle),
        tools: tools_of(rules, set),
        minds_flow: has_private || speaks_of_flow || rules.servers.values().any(|t| *t == Trust::Internal),
        reads_flow: speaks_of_flow,
        has_rule: !rules.config.flow.dangerous_no_rule,
        trust: rules.servers.clone(),
        is_own: !rules.policies.is_empty() || !rules.config.grants.is_empty(),
        window: rules.config.flow.window(),
        release_role: rules.config.release_role.clone(),
        hold_role: rules.config.hold_role.clone(),
        relevant: Arc::new(attributes::Relevant::of(&rules.config, &rules.policies)),
    };
    Ok((ready, loaded.warnings))
}

/// What policies are about: the servers of `rules` with the tools that are approved in `set`, labelled by the operator.
pub fn catalog_of(rules: &Rules, set: &PinSet) -> Catalog {
    let servers = rules.servers.iter().map(|(name, trust)| {
        let pinned = set.of(name, Kind::Tool);
        let tools = pinned.map(|(tool, pinned)| (tool.to_owned(), facts(&pinned.text))).collect();
        let pinned = set.of(name, Kind::Prompt);
        let prompts = pinned.map(|(prompt, pinned)| (prompt.to_owned(), prompt_of(&pinned.text))).collect();
        (name.clone(), bartizan_policy::Server { trust: *trust, tools, prompts, ..Default::default() })
    });
    let mut catalog = Catalog(servers.collect());
    rules.config.label(&mut catalog);
    catalog
}

/// Every approved tool and prompt of the servers that `rules` are about.
fn tools_of(rules: &Rules, set: &PinSet) -> Digest {
    let mut all: Vec<String> = Vec::new();
    for (server, kind) in rules.servers.keys().flat_map(|s| [(s, Kind::Tool), (s, Kind::Prompt)]) {
        let pinned = set.of(server, kind);
        all.extend(
            pinned.map(|(name, pinned)| format!("{server}\0{}\0{name}\0{}", kind.as_str(), pinned.hash)),
        );
    }
    all.sort_unstable();
    Digest::of(all.join("\0").as_bytes())
}

/// Whether a call was denied for what may not even be seen.
fn is_hidden(ready: &Ready, query: &Query<'_>, decision: &Decision) -> bool {
    matches!(query.action, Action::Call { .. }) && !decision.is_permit() && !ready.bundle.may_see(query)
}

impl Ready {
    /// The same at another version of the pins.
    fn at(&self, pins: u64) -> Self {
        Self {
            pins,
            bundle: Arc::clone(&self.bundle),
            trust: self.trust.clone(),
            release_role: self.release_role.clone(),
            hold_role: self.hold_role.clone(),
            relevant: Arc::clone(&self.relevant),
            ..*self
        }
    }
}

/// What a pinned definition says of a tool.
fn facts(text: &str) -> Tool {
    let definition: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let hint = |name: &str| {
        definition
            .pointer(&format!("/annotations/{name}"))
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false)
    };
    Tool {
        description: definition.get("description").and_then(|d| d.as_str()).unwrap_or_default().to_owned(),
        input_schema: definition.get("inputSchema").cloned().unwrap_or_default(),
        hints: Hints {
            read_only: hint("readOnlyHint"),
            destructive: hint("destructiveHint"),
            idempotent: hint("idempotentHint"),
            open_world: hint("openWorldHint"),
        },
        ..Tool::default()
    }
}

/// What a pinned definition says of a prompt (26/prompts).
fn prompt_of(text: &str) -> Prompt {
    let definition: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let named = |argument: &serde_json::Value| {
        let name = argument.get("name")?.as_str()?.to_owned();
        let required = argument.get("required").and_then(serde_json::Value::as_bool);
        Some((name, required.unwrap_or(false)))
    };
    let arguments = definition.get("arguments").and_then(serde_json::Value::as_array);
    Prompt { arguments: arguments.into_iter().flatten().filter_map(named).collect() }
}

/// The labels that a call leaves in the window.
fn brought(labels: FlowLabels) -> impl Iterator<Item = Label> {
    [
        (Label::Destructive, labels.destructive),
        (Label::Private, labels.reads_private),
        (Label::Untrusted, labels.sees_untrusted),
    ]
    .into_iter()
    .filter_map(|(label, enters)| enters.then_some(label))
}

fn word(label: Label) -> &'static str {
    match label {
        Label::Destructive => "destructive",
        Label::Private => "private",
        Label::Untrusted => "untrusted",
    }
}

fn words(labels: FlowLabels) -> Vec<String> {
    brought(labels).map(|label| word(label).to_owned()).collect()
}

fn context_of(past: &[Flow]) -> FlowContext {
    let has = |label| past.iter().any(|flow| flow.labels.iter().any(|l| l == word(label)));
    FlowContext {
        untrusted: has(Label::Untrusted),
        private: has(Label::Private),
        destructive: has(Label::Destructive),
    }
}

/// The latest call that brought each of the two labels that must not meet, for a person to read.
fn because(past: &[Flow]) -> String {
    let latest = |label: Label, what: &str| {
        let flow = past.iter().rev().find(|f| f.labels.iter().any(|l| l == word(label)))?;
        let minutes = flow.at.as_unix() / 60 % (24 * 60);
        Some(format!(
            "`{}` of `{}` at {:02}:{:02} UTC {what}",
            flow.tool,
            flow.server,
            minutes / 60,
            minutes % 60
        ))
    };
    let found = [
        latest(Label::Untrusted, "returned untrusted text"),
        latest(Label::Private, "returned private data"),
    ];
    found.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}
