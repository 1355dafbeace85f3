//! Withheld results, as the pages show them to whoever may release them.

use bartizan_gateway::{Gate, permit::approvals::Approver};
use bartizan_model::Caller;
use bartizan_oauth::signin::{Undecided, Withheld};
use bartizan_shield::drift::visible;
use bartizan_store::quarantine::{Item, Quarantine, QuarantineError};

use super::name;

/// Characters of a result that are shown; the command shows all of it.
const EXCERPT: usize = 4096;

/// What `approver` may decide about, without what it says.
pub async fn waiting(gate: &Gate, approver: &Approver) -> Result<Vec<Withheld>, Undecided> {
    let Some(ward) = gate.ward() else { return Ok(Vec::new()) };
    let items = ward.kept().list(gate.clock().now()).await.map_err(unavailable)?;
    let his = items.iter().filter(|item| gate.policy().may_release(approver, &item.binding.caller));
    Ok(his.map(|item| shown(item, "")).collect())
}

/// One result, if it is for `approver` to decide about.
pub async fn show(gate: &Gate, id: &str, approver: &Approver) -> Result<Withheld, Undecided> {
    let (item, text) = read(gate, id, approver).await?;
    Ok(shown(&item, &text))
}

/// Releases or discards a result; that is on record before it is done.
pub async fn decide(
    gate: &Gate,
    id: &str,
    release: bool,
    approver: &Approver,
) -> Result<Withheld, Undecided> {
    let (item, _) = read(gate, id, approver).await?;
    if release && item.is_released {
        return Err(Undecided::Over);
    }
    let by = pseudonym(gate, &approver.identity)?;
    let recorded = gate.recorder().ruled(&approver.identity, &item, release).await;
    recorded.map_err(|lost| Undecided::Unavailable(format!("it cannot be recorded: {lost}")))?;
    let (kept, now) = (kept(gate)?, gate.clock().now());
    let done = match release {
        true => kept.release(id, &format!("page {by}"), now).await,
        false => kept.discard(id, now).await,
    };
    done.map(|item| shown(&item, "")).map_err(unavailable)
}

fn kept(gate: &Gate) -> Result<&dyn Quarantine, Undecided> {
    gate.ward().map(|ward| ward.kept()).ok_or(Undecided::Unknown)
}

async fn read(gate: &Gate, id: &str, approver: &Approver) -> Result<(Item, String), Undecided> {
    let found = kept(gate)?.read(id, gate.clock().now()).await.map_err(unavailable)?;
    if !gate.policy().may_release(approver, &found.0.binding.caller) {
        return Err(Undecided::Role);
    }
    Ok(found)
}

/// By which he is kept beside what he released, so that it goes when he is erased.
fn pseudonym(gate: &Gate, who: &Caller) -> Result<String, Undecided> {
    let person = gate.recorder().log().persons().of(who);
    person
        .map(|person| person.pseudonym().to_string())
        .map_err(|error| Undecided::Unavailable(error.to_string()))
}

fn shown(item: &Item, text: &str) -> Withheld {
    let excerpt: String = text.chars().take(EXCERPT).collect();
    let caller = &item.binding.caller;
    Withheld {
        id: item.id.clone(),
        asker: name(caller.subject()),
        issuer: name(caller.issuer()),
        client: name(caller.client()),
        server: name(item.binding.server.as_str()),
        method: name(&item.method),
        name: name(&item.name),
        found: item.found.split_whitespace().map(name).collect(),
        more_bytes: text.len() - excerpt.len(),
        excerpt: visible(&excerpt).into_owned(),
        kept_at: item.kept_at,
        expires_at: item.expires_at,
        is_released: item.is_released,
    }
}

fn unavailable(error: QuarantineError) -> Undecided {
    match error {
        QuarantineError::Unknown(_) => Undecided::Unknown,
        QuarantineError::Database(_)
        | QuarantineError::Forged(_)
        | QuarantineError::Full
        | QuarantineError::TooLong => Undecided::Unavailable(error.to_string()),
    }
}
