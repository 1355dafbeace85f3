//! What every request passes before its server hears of it, in either era, on every endpoint, in this order.
//!
//! [`Opened`] is the proof: only [`enter`] makes one, and [`crate::flow::Flow`] takes no request without it.

use std::sync::Arc;

use bartizan_audit::Text;
use bartizan_mcp::{Era, Message, Refusal, json::Value};
use tracing::Instrument;

use crate::{
    Asker, Gate, badge,
    call::origins::{tool_of_result, tools_of},
    contract,
    handles::Home,
    opinions,
    permit::holds::Shielded,
    quota::Taken,
    record::{self, tool_called},
    server::Server,
};

/// A request that may be sent: it is within its limits, approved, fits its tool, is judged and permitted, and its beginning is
/// durable in the audit log.
pub struct Opened {
    call: bartizan_audit::Opened,
    /// Its place among the requests under way.
    slot: Taken,
}

impl Opened {
    /// The call in the log.
    pub fn call(&self) -> &bartizan_audit::Opened {
        &self.call
    }

    /// Closes the call, of which nothing was sent, and answers the refusal its caller gets.
    pub async fn unsent(self, gate: &Gate, refusal: Refusal) -> Refusal {
        gate.recorder.unsent(self.call, refusal).await
    }

    /// Gives the call up to be closed; its place is free when the slot is dropped.
    pub fn into_parts(self) -> (bartizan_audit::Opened, Taken) {
        (self.call, self.slot)
    }
}

/// Lets a request through to its server. `home` is whose the tasks are that it names: where it will be sent, as far as that is known.
///
/// # Errors
/// The refusal, which is recorded.
pub async fn enter(
    gate: &Arc<Gate>,
    asker: &Asker,
    (server, home): (&Arc<Server>, Home<'_>),
    era: Era,
    is_merged: bool,
    message: &Message,
) -> Result<Opened, Refusal> {
    let judged = async {
        let slot = gate.quotas.enter(asker, Some(server), is_merged, message).await?;
        // Before anything is asked of a server that may be in quarantine.
        gate.responses.check(asker, server, is_merged, message).await?;
        let admitting = gate.catalog.admit(asker, server, era, is_merged, message);
        admitting.instrument(tracing::debug_span!("catalog.admit")).await?;
        if let Some(contract) = gate.catalog.contract(server, is_merged, message) {
            contract::arguments(&contract, server, era, message)?;
        }
        let inspecting = opinions::call(gate, server, message);
        let hold = inspecting.instrument(tracing::debug_span!("shield.inspect_call")).await?;
        let shield = gate.shield.load_full();
        let shielded = Shielded { shield: &shield, hold: hold.as_ref() };
        // Last, for what it permits enters the caller's window; and nobody is asked about what may not be done anyway.
        let tasks = tools_of(gate, asker, home, is_merged, message);
        let asked = (message, tasks.as_slice());
        let authorizing = gate.policy.authorize(asker, server, era, is_merged, asked, shielded);
        let permitted = authorizing.instrument(tracing::debug_span!("policy.authorize")).await?;
        // Nobody's token is exchanged for what they may not do.
        badge::check(asker, server, era).await?;
        Ok((slot, permitted))
    };
    let judged = judged.await;
    // A task is of the tool whose call made it, whatever its client calls that.
    let tool = match message.method().starts_with("tasks/") {
        true => tool_of_result(gate, asker, home, is_merged, message),
        false => message.param("name").and_then(Value::as_str).map(|name| name.into_owned()),
    };
    let recorded = record::Asked { era, message, tool: tool.map(|tool| Text::new(&tool)) };
    match judged {
        Ok((slot, permitted)) => {
            for approval in permitted.approvals() {
                gate.recorder.redeemed(asker, server, approval);
            }
            let attributes = gate.policy.attributes(asker, &permitted);
            let permitted = permitted.with_attributes(attributes);
            let rules = gate.content.load();
            let tool = tool_called(is_merged, message).filter(|_| !rules.0.is_empty());
            let rule = tool.and_then(|tool| rules.of(server.name(), &tool));
            let told = rule.and_then(|rule| rule.arguments(&gate.shield.load(), server, message));
            let opening = gate.recorder.open(asker, server, &recorded, &permitted, told);
            let call = opening.instrument(tracing::debug_span!("audit.open")).await?;
            Ok(Opened { call, slot })
        }
        Err(refusal) => {
            gate.recorder.refused(asker, server, &recorded, &refusal);
            Err(refusal)
        }
    }
}
