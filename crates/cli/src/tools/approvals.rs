//! `bartizan tools approvals`: calls that wait for a person.

use bartizan_audit::{Kind, event::Decision};
use bartizan_gateway::permit::{
    approvals::{Approver, Undecided, decide},
    shown::Shown,
};
use bartizan_model::Timestamp;
use bartizan_store::{
    Approvals,
    approvals::{Approval, ApprovalError, Standing},
};
use clap::Subcommand;

use super::{Consent, End, Format, Output, Place, ask, who};
use crate::{
    journal::{Deed, Journal},
    print, say_error,
};

/// Characters of a call's arguments that a terminal shows.
const MOST: usize = 4000;

/// `bartizan tools approvals …`
#[derive(Subcommand)]
pub enum ApprovalsCommand {
    /// List the calls that wait for a decision. Exit code 1 if there are any.
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Approve one call, after showing it. It is good for that very call, once, for as long as the request lives.
    Grant(Deciding),
    /// Deny one call. The same call is not asked about again while the request lives.
    Deny(Deciding),
}

/// A decision about one call.
#[derive(clap::Args)]
pub struct Deciding {
    /// The request's id, as the refusal or `list` names it.
    id: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    consent: Consent,
}

impl ApprovalsCommand {
    /// Whose calls.
    pub fn place(&self) -> &Place {
        match self {
            Self::List { place, .. } => place,
            Self::Grant(deciding) | Self::Deny(deciding) => &deciding.place,
        }
    }
}

/// Runs one of them.
pub async fn run(
    command: ApprovalsCommand,
    approvals: &dyn Approvals,
    journal: &dyn Journal,
    now: Timestamp,
) -> anyhow::Result<End> {
    match command {
        ApprovalsCommand::List { output, .. } => list(approvals, output.format, now).await,
        ApprovalsCommand::Grant(deciding) => conclude(approvals, journal, deciding, true, now).await,
        ApprovalsCommand::Deny(deciding) => conclude(approvals, journal, deciding, false, now).await,
    }
}

async fn list(approvals: &dyn Approvals, format: Format, now: Timestamp) -> anyhow::Result<End> {
    let waiting = approvals.waiting(now).await?;
    let text: String = match format {
        Format::Text => waiting.iter().map(|approval| in_words(approval, now)).collect(),
        Format::Json => {
            let all: Vec<_> = waiting.iter().map(as_json).collect();
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
    };
    print(&text)?;
    Ok(if waiting.is_empty() { End::Clean } else { End::Findings })
}

async fn conclude(
    approvals: &dyn Approvals,
    journal: &dyn Journal,
    deciding: Deciding,
    approve: bool,
    now: Timestamp,
) -> anyhow::Result<End> {
    let Some(known) = approvals.read(&deciding.id).await? else {
        say_error("error: there is no such request\n");
        return Ok(End::Usage);
    };
    say_error(&in_words(&known, now));
    let verb = if approve { "Approve" } else { "Deny" };
    if !deciding.consent.yes && !ask(&format!("{verb} it?"))? {
        return Ok(End::Findings);
    }
    let by = Approver::operator(&deciding.consent.by.clone().unwrap_or_else(who));
    // What cannot be decided is not on record as decided.
    if let Some(refused) = undecidable(&by, &known, now) {
        say_error(&format!("error: {refused}\n"));
        return Ok(End::Findings);
    }
    journal.note(vec![deed(&known, approve, by.identity.subject())]).await?;
    let named = by.identity.to_string();
    match decide(approvals, &deciding.id, approve, (&by, &named), now).await {
        Ok(decided) => {
            say_error(&format!("{}, by {}\n", decided.standing.as_str(), by.identity.subject()));
            Ok(End::Clean)
        }
        Err(Undecided::Store(ApprovalError::Database(error))) => Err(error.into()),
        Err(refused) => {
            say_error(&format!("error: {refused}\n"));
            Ok(End::Findings)
        }
    }
}

/// Why `by` may not decide about `approval` now, if so.
fn undecidable(by: &Approver, approval: &Approval, now: Timestamp) -> Option<Undecided> {
    if !by.may_decide(approval) {
        return Some(Undecided::Role(approval.role.clone()));
    }
    let is_waiting = approval.standing == Standing::Waiting && now < approval.expires_at;
    (!is_waiting).then(|| ApprovalError::NotWaiting.into())
}

/// A decision about a call, for the record.
fn deed(approval: &Approval, approve: bool, by: &str) -> Deed {
    let (kind, decision, to) = if approve {
        (Kind::ApprovalGranted, Decision::Permit, Standing::Approved)
    } else {
        (Kind::ApprovalRejected, Decision::Deny, Standing::Denied)
    };
    let (from, to) = (approval.standing.as_str(), to.as_str());
    Deed::new(kind, by, "call", &approval.id, Some(from), Some(to))
        .at(&approval.binding.server)
        .of_tool(&approval.binding.tool)
        .deciding(decision)
        .because(&format!("for `{}`", approval.role))
}

/// A request for people: what the caller chose is escaped, so that it cannot pass for ours.
fn in_words(approval: &Approval, now: Timestamp) -> String {
    let caller = &approval.binding.caller;
    let shown =
        |text: &str| text.chars().flat_map(char::escape_debug).collect::<String>().replace("\\\"", "\"");
    let left = approval.expires_at.since(now).as_secs();
    let found = found(approval);
    let found = if found.is_empty() {
        String::new()
    } else {
        format!("  the shield found: {}\n", shown(&found.join("; ")))
    };
    format!(
        "{}  {}, for `{}`, {left} s left\n  {} ({}) by {} wants to {}\n{found}",
        approval.id,
        approval.standing.as_str(),
        shown(&approval.role),
        shown(caller.subject()),
        shown(caller.issuer()),
        shown(caller.client()),
        shown(&words(approval))
    )
}

/// The call in a sentence.
fn words(approval: &Approval) -> String {
    let not_ours = || "make a call whose record is not as it was written: deny it".to_owned();
    Shown::of(approval).map_or_else(not_ours, |shown| shown.sentence(approval, MOST))
}

/// What the shield holds it for, a line each.
fn found(approval: &Approval) -> Vec<String> {
    Shown::of(approval).map(|shown| shown.found).unwrap_or_default()
}

/// A request for programs.
pub fn as_json(approval: &Approval) -> serde_json::Value {
    let binding = &approval.binding;
    serde_json::json!({
        "id": approval.id,
        "state": approval.standing.as_str(),
        "role": approval.role,
        "issuer": binding.caller.issuer(),
        "subject": binding.caller.subject(),
        "client": binding.caller.client(),
        "server": binding.server.as_str(),
        "tool": binding.tool,
        "words": words(approval),
        "why": Shown::of(approval).map(|shown| shown.because),
        "found": found(approval),
        "asked_at": approval.asked_at.as_unix(),
        "expires_at": approval.expires_at.as_unix(),
    })
}
