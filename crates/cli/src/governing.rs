//! The policies on the disk put in force, and what the audit log says of it.

use std::path::Path;

use anyhow::Context;
use bartizan_audit::{
    Details, Event, Kind, Text,
    event::{Change, Decision},
};
use bartizan_gateway::{Gate, permit::Draft};
use bartizan_model::Caller;
use bartizan_policy::{Bundle, Problems};
use tokio::sync::{Mutex, MutexGuard};

use crate::{config::Config, endpoints};

/// How many policies are named in one entry; `count` says how many there are.
const NAMED: usize = 200;

/// Held from when policies are read until they are in force. A process has one gate, and so one of these.
static TURN: Mutex<()> = Mutex::const_new(());

/// Whose turn it is to change the policies. A reload and an administrator who act at once would otherwise each read and record, and
/// what was read first could come into force last, against what the log says.
pub async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Puts the policies in force at the start.
///
/// # Errors
/// What is wrong with them.
pub fn begin(gate: &Gate, config: &Config, base: &Path) -> anyhow::Result<()> {
    let rules = endpoints::rules(config, base)?;
    put(gate, gate.policy().draft(rules).map_err(as_problems)?);
    if let Some(bundle) = gate.policy().bundle() {
        let message = Some(Text::new("in force from the start on"));
        let details = Details { message, ..Details::default() };
        note_of(gate, Details { change: change(None, Some(&bundle)), ..details });
    }
    Ok(())
}

/// Puts the policies in force that are on the disk now, once it is durable that they change; problems leave the old ones, and
/// that is recorded too.
///
/// # Errors
/// What is wrong with them, or that they cannot be recorded.
pub async fn renew(gate: &Gate, config: &Config, base: &Path) -> anyhow::Result<()> {
    let _turn = turn().await;
    let read =
        endpoints::rules(config, base).and_then(|rules| gate.policy().draft(rules).map_err(as_problems));
    let before = gate.policy().bundle();
    let draft = match read {
        Ok(draft) => draft,
        Err(error) => {
            note_of(
                gate,
                Details {
                    decision: Some(Decision::Deny),
                    reason: "policy.unusable".parse().ok(),
                    change: change(before.as_deref(), None),
                    message: Some(Text::new(&format!("those that were in force stay: {error:#}"))),
                    ..Details::default()
                },
            );
            return Err(error);
        }
    };
    let after = draft.bundle();
    if before.as_ref().is_none_or(|before| before.version() != after.version()) {
        let event = Event::new(Kind::PolicyChanged).by(&Caller::local_owner());
        let noting = gate.recorder().log().note(event.with(changed(before.as_deref(), after)));
        let _ = noting.await.context("the policies stay as they are, for their change cannot be recorded")?;
    }
    put(gate, draft);
    Ok(())
}

/// What is recorded of policies that are to be in force in the place of others: versions, and the ids of those that were
/// added, changed or removed.
pub fn changed(before: Option<&Bundle>, after: &Bundle) -> Details {
    let changes = before.map(|before| after.changes_since(before));
    let ids: Vec<_> = match &changes {
        Some(changes) => changes.ids().collect(),
        None => after.policy_ids().collect(),
    };
    Details {
        decision: Some(Decision::Permit),
        policies: ids.iter().take(NAMED).map(|id| Text::new(id)).collect(),
        count: (!ids.is_empty()).then_some(ids.len() as u64),
        change: change(before, Some(after)),
        message: changes.map(|changes| Text::new(&changes.to_string())),
        ..Details::default()
    }
}

fn change(from: Option<&Bundle>, to: Option<&Bundle>) -> Option<Change> {
    let version = |bundle: &Bundle| Text::new(&bundle.version().to_string());
    let (entity, name) = (Text::new("policy"), Text::new("bundle"));
    Some(Change { entity, name, from: from.map(version), to: to.map(version) })
}

fn note_of(gate: &Gate, details: Details) {
    let event = Event::new(Kind::PolicyChanged).by(&Caller::local_owner());
    gate.recorder().log().mention(event.with(details));
}

fn put(gate: &Gate, draft: Draft) {
    for warning in draft.warnings() {
        tracing::warn!("[policy]: {warning}");
    }
    gate.policy().adopt(draft);
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn as_problems(problems: String) -> anyhow::Error {
    Problems(problems.lines().map(|line| format!("[policy]: {line}")).collect()).into()
}
