//! What has entered a person's own windows, and how they forget it on their account page.

use bartizan_audit::event::rfc3339;
use bartizan_gateway::Gate;
use bartizan_model::Caller;
use bartizan_oauth::{
    facade::Person,
    signin::{Entered, Undecided},
};
use bartizan_store::{DatabaseError, flows::Flow};

use super::name;

/// Calls that one window is explained by.
const CALLS: usize = 16;

/// The windows of `person`, whichever the application.
pub async fn entered(gate: &Gate, person: &Person) -> Result<Vec<Entered>, Undecided> {
    let windows = gate.policy().entered(&caller_of(person)).await.map_err(unavailable)?;
    let mut windows: Vec<_> = windows
        .into_iter()
        .map(|(caller, flows)| (flows.last().map(|flow| flow.at), shown(&caller, &flows)))
        .collect();
    windows.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
    Ok(windows.into_iter().map(|(_, entered)| entered).collect())
}

/// Forgets what has entered `person`'s window at `client`; that is on record before it is done.
pub async fn reset(gate: &Gate, client: &str, person: &Person) -> Result<(), Undecided> {
    let windows = gate.policy().entered(&caller_of(person)).await.map_err(unavailable)?;
    let window = windows.into_iter().find(|(caller, _)| caller.client() == client);
    let (caller, flows) = window.ok_or(Undecided::Unknown)?;
    let mut labels: Vec<&str> = flows.iter().flat_map(|flow| &flow.labels).map(String::as_str).collect();
    labels.sort_unstable();
    labels.dedup();
    let recorded = gate.recorder().forgot(&caller, &labels.join(" ")).await;
    recorded.map_err(|lost| Undecided::Unavailable(format!("it cannot be recorded: {lost}")))?;
    let flows = gate.policy().flows();
    flows.reset(&caller, "their own account page", gate.clock().now()).await.map(drop).map_err(unavailable)
}

fn caller_of(person: &Person) -> Caller {
    Caller::new(&person.issuer, &person.subject, "")
}

fn shown(caller: &Caller, flows: &[Flow]) -> Entered {
    let has = |label: &str| flows.iter().any(|flow| flow.labels.iter().any(|one| one == label));
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let mut words = Vec::new();
    for flow in flows.iter().rev() {
        if seen.contains(&(flow.server.as_str(), &flow.tool)) || words.len() >= CALLS {
            continue;
        }
        seen.push((flow.server.as_str(), &flow.tool));
        let at = rfc3339::text(flow.at);
        let what = flow.labels.join(", ");
        words.push(format!("{what}: {} of {} at {at}", name(&flow.tool), flow.server));
    }
    Entered {
        client: caller.client().to_owned(),
        shown_client: name(caller.client()),
        words,
        have_met: has("untrusted") && has("private"),
    }
}

fn unavailable(error: DatabaseError) -> Undecided {
    Undecided::Unavailable(error.to_string())
}
