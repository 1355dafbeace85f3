//! May this caller do this? The policy at work, with what has entered the caller's window (attacks.md EP, II-14).
//!
//! Doubt is Deny: without a bundle that speaks of the tools as they are pinned now, or without the record of flows, nothing is
//! permitted.

pub mod approvals;
mod asked;
pub mod attributes;
mod denied;
pub mod holds;
mod identity;
mod places;
mod questions;
mod ready;
mod resets;
pub mod shown;
mod window;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwapOption;
use bartizan_mcp::{Era, Message, Refusal};
use bartizan_model::{CallerKey, Clock};
use bartizan_policy::{
    Action, Decision, Decisions, FlowLabels, Query, Sightings, Surroundings, flow::FlowContext,
};
use bartizan_store::{Approvals, Flows, Keeper, approvals::Approval};

pub use identity::claims_of_token;
pub use questions::{Question, unasked};
pub use ready::{Draft, Rules, catalog_of};

use approvals::Pending;
use asked::{Asked, CARRY_NOTHING};
use denied::{permitted, unknown, unready, unusable};
use holds::Shielded;
use identity::Known;
use places::Places;
use questions::{Listening, leaking};
use ready::{Making, Ready};
use resets::Resets;
use window::{Recorded, because, brought, context_of, word};

use crate::{
    Asker,
    call::answers_to_server,
    inventory::DefinitionKind,
    server::{Pinning, Server},
};

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
    decisions: Decisions,
    places: Places,
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
            decisions: Decisions::default(),
            places: Places::default(),
        }
    }

    /// What has entered whose window.
    pub fn flows(&self) -> &Arc<dyn Flows> {
        &self.flows
    }

    /// Permits a request, and lets what it will bring enter its caller's window. One that the shield holds needs somebody's
    /// approval besides whatever the policies ask for. `tasks` are the tools of the tasks that it is about.
    ///
    /// # Errors
    /// The refusal. A tool that may not be seen reads as one that is not there.
    pub async fn authorize(
        &self,
        asker: &Asker,
        server: &Server,
        era: Era,
        is_merged: bool,
        (message, tasks): (&Message, &[Option<String>]),
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
        let (mut asked, mut listens_by) = (&asked, Vec::new());
        if matches!(asked, Asked::List | Asked::SubscribeServer) {
            let decision = ready.bundle.authorize(&query(asked.action(), FlowContext::default()));
            let permitted = permitted(decision, asker, server, era, "")?;
            let listening = Listening { principal: &principal, era, is_merged, message };
            self.check_listening(&ready, asker, server, &listening).await?;
            if tasks.is_empty() {
                return Ok(permitted);
            }
            // What it is told of them is what `tasks/get` would answer.
            (asked, listens_by) = (&Asked::Task, permitted.policies);
        }
        let by_trust = ready.trust.get(server.name()).copied().unwrap_or_default().default_labels();
        let (tool, labels) = flows_of(&ready, server, &method, asked, (by_trust, tasks));
        let action = match asked {
            // Nothing is known of its tools: whoever may list them may call them.
            Asked::Call { .. } if server.settings().pinning == Pinning::DangerousNone => Action::List,
            _ => asked.action(),
        };
        // What a client answers goes to the server as a whole, whatever the tool does with its arguments.
        let answers = by_trust.sends_out && answers_to_server(message).is_some();
        // The shipped rule, for what Cedar has no labels for.
        let leaks = |flow: FlowContext| {
            let goes_out = answers || (!matches!(action, Action::Call { .. }) && labels.sends_out);
            ready.has_rule && goes_out && flow.untrusted && flow.private
        };
        // Whatever servers there are today: what one brought that is gone is in the window all the same.
        let asks_store = answers || ready.reads_flow || (labels.sends_out && ready.has_rule);
        // What is known to be on record is not any more once its owner has reset it (`bartizan policy flow reset`). Read
        // before anything is put there, so that a reset meanwhile is seen the next time.
        let resets = match brought(labels).next() {
            Some(_) => Some(self.resets.count(self.flows.as_ref()).await.map_err(unusable)?),
            None => None,
        };
        let is_known = self.is_recorded(asker, labels, ready.window)
            && resets.is_none_or(|now| self.resets_before(asker) == now);
        let mut given: Vec<Approval> = Vec::new();
        // Of those, what counts for policies: who approved for the shield has said nothing about what they ask.
        let mut approved: Vec<String> = Vec::new();
        loop {
            let judge = |flow| {
                let query = Query { approved: &approved, ..query(action, flow) };
                self.decisions.authorize(&ready.bundle, &query)
            };
            let waiting = hold.filter(|_| given.is_empty());
            // Where all is on record that it brings, looking is enough: it makes no difference to any other call.
            let (decision, leaked, because) = if waiting.is_some() || (is_known && asks_store) {
                self.consider(asker, &ready, &judge, &leaks).await?
            } else if !is_known {
                self.admit(asker, server, (&tool, labels), &ready, &judge, &leaks).await?
            } else {
                (judge(self.remembered(asker, ready.window)), false, String::new())
            };
            if is_hidden(&ready, &query(action, FlowContext::default()), &decision) {
                let policies = decision.denial().map(|denial| denial.policies.as_slice());
                return Err(unknown().with_policies(policies.unwrap_or_default()));
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
            if let (false, true, Some(resets)) = (is_known, decision.is_permit(), resets) {
                self.remember(asker, labels, resets, self.clock.now());
            }
            let permitted = permitted(decision, asker, server, era, &because)?;
            let labels = brought(labels).map(word).collect();
            let policies = [listens_by, permitted.policies].concat();
            return Ok(Permitted { policies, approvals: given, labels, ..permitted });
        }
    }

    /// The places of a list's entries that the caller may not see, by what they are called.
    pub fn hidden(
        &self,
        asker: &Asker,
        server: &Server,
        era: Era,
        kind: DefinitionKind,
        names: &[Option<String>],
    ) -> Vec<usize> {
        let count = names.len();
        let Some(ready) = self.ready() else { return (0..count).collect() };
        if !ready.is_own || server.settings().pinning == Pinning::DangerousNone {
            return Vec::new();
        }
        let principal = self.principal(asker, &ready.bundle);
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

/// What the record of flows calls a request, and what it brings and carries. `tasks` are the tools of the tasks that it is about.
fn flows_of(
    ready: &Ready,
    server: &Server,
    method: &str,
    asked: &Asked,
    (by_trust, tasks): (FlowLabels, &[Option<String>]),
) -> (String, FlowLabels) {
    let name = server.name().as_str();
    match asked {
        Asked::Call { tool, .. } if server.settings().pinning == Pinning::DangerousNone => {
            (tool.clone(), by_trust)
        }
        Asked::Call { tool, .. } => (tool.clone(), ready.bundle.flow_labels(name, tool).unwrap_or(by_trust)),
        // What is read, completed or got brings and carries as much as a call does (attacks.md II-14); what comes of a task, as
        // the call that it was made by, and of one that nobody knows any more, as any.
        _ => {
            let of_task = |tool: &Option<String>| match tool {
                Some(tool) => ready.bundle.flow_labels(name, tool).unwrap_or_default(),
                None => ready.bundle.flow_labels_of_any(name),
            };
            let labels = tasks.iter().map(of_task).fold(by_trust, FlowLabels::or);
            let sends_out = labels.sends_out && !CARRY_NOTHING.contains(&method);
            (method.to_owned(), FlowLabels { sends_out, ..labels })
        }
    }
}

fn policy_era(era: Era) -> bartizan_policy::Era {
    match era {
        Era::Modern => bartizan_policy::Era::Modern,
        Era::Legacy => bartizan_policy::Era::Legacy,
    }
}

/// Whether a call was denied for what may not even be seen.
fn is_hidden(ready: &Ready, query: &Query<'_>, decision: &Decision) -> bool {
    matches!(query.action, Action::Call { .. }) && !decision.is_permit() && !ready.bundle.may_see(query)
}
