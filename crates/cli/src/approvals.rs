//! The pages on which people decide about held calls, withheld results and what has entered their own windows, and what stands
//! behind them.

mod results;
mod windows;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use bartizan_gateway::{
    Gate,
    permit::{
        approvals::{self, Approver},
        shown::Shown,
    },
};
use bartizan_model::Caller;
use bartizan_oauth::{
    facade::Person,
    signin::{Decisions, Entered, Held, Standing, Undecided, Withheld},
};
use bartizan_policy::Claims;
use bartizan_shield::drift::visible;
use bartizan_store::approvals::{Approval, ApprovalError};

/// Characters of a name that are shown.
const NAME: usize = 200;

/// The requests for approval of a gate.
pub struct Requests(pub Arc<Gate>);

#[async_trait]
impl Decisions for Requests {
    async fn withheld(&self, person: &Person) -> Result<Vec<Withheld>, Undecided> {
        results::waiting(&self.0, &self.approver(person).await?).await
    }

    async fn show_withheld(&self, id: &str, person: &Person) -> Result<Withheld, Undecided> {
        results::show(&self.0, id, &self.approver(person).await?).await
    }

    async fn decide_withheld(&self, id: &str, release: bool, person: &Person) -> Result<Withheld, Undecided> {
        results::decide(&self.0, id, release, &self.approver(person).await?).await
    }

    async fn entered(&self, person: &Person) -> Result<Vec<Entered>, Undecided> {
        windows::entered(&self.0, person).await
    }

    async fn reset_entered(&self, client: &str, person: &Person) -> Result<(), Undecided> {
        // Whoever was cut off does nothing here.
        self.approver(person).await?;
        windows::reset(&self.0, client, person).await
    }

    async fn waiting(&self, person: &Person) -> Result<Vec<Held>, Undecided> {
        let approver = self.approver(person).await?;
        let waiting = self.0.policy().waiting_for(&approver).await.map_err(unavailable)?;
        let decidable =
            waiting.into_iter().filter(|approval| !is_own(&approver, approval) || approval.by_self);
        Ok(decidable.map(|approval| self.held(&approval, true, true)).collect())
    }

    async fn show(&self, id: &str, person: &Person) -> Result<Held, Undecided> {
        let approver = self.approver(person).await?;
        let found = self.0.policy().request(id).await.map_err(unavailable)?;
        let (approval, is_current) = found.ok_or(Undecided::Unknown)?;
        let is_own = is_own(&approver, &approval);
        let is_yours = approver.may_decide(&approval) && (approval.by_self || !is_own);
        if !is_yours && !is_own {
            return Err(Undecided::Role);
        }
        Ok(self.held(&approval, is_current, is_yours))
    }

    async fn decide(&self, id: &str, approve: bool, person: &Person) -> Result<Held, Undecided> {
        let approver = self.approver(person).await?;
        let deciding = self.0.policy().decide(self.0.recorder(), id, approve, &approver);
        let decided = deciding.await.map_err(|error| match error {
            approvals::Undecided::Changed => Undecided::Over,
            approvals::Undecided::Role(_) => Undecided::Role,
            approvals::Undecided::Unrecorded(_) => Undecided::Unavailable(error.to_string()),
            approvals::Undecided::Store(error) => unavailable(error),
        })?;
        Ok(self.held(&decided, true, true))
    }
}

impl Requests {
    /// The person with the roles that the policies in force give him. Nobody who was cut off decides, signed in or not.
    async fn approver(&self, person: &Person) -> Result<Approver, Undecided> {
        let caller = Caller::new(&person.issuer, &person.subject, "");
        match self.0.responses().has_cut_off(&caller).await {
            Ok(false) => {}
            Ok(true) => return Err(Undecided::Role),
            Err(refusal) => return Err(Undecided::Unavailable(refusal.message)),
        }
        Ok(self.0.policy().approver(Claims {
            issuer: person.issuer.clone(),
            subject: person.subject.clone(),
            groups: person.groups.clone(),
            roles: person.roles.clone(),
            amr: person.methods.iter().cloned().collect::<BTreeSet<_>>(),
            acr: person.contexts.first().cloned(),
            auth_time: Some(person.at.as_unix()),
            ..Claims::default()
        }))
    }

    fn held(&self, approval: &Approval, is_current: bool, is_yours: bool) -> Held {
        use bartizan_store::approvals::Standing as Kept;
        let binding = &approval.binding;
        let is_over = approval.expires_at <= self.0.clock().now();
        let standing = match approval.standing {
            Kept::Used => Standing::Used,
            Kept::Denied => Standing::Denied,
            _ if is_over => Standing::Expired,
            _ if !is_current => Standing::Changed,
            Kept::Approved => Standing::Approved,
            Kept::Waiting => Standing::Waiting,
        };
        let shown = Shown::of(approval);
        // What is not as it was written is nobody's to approve.
        let is_yours = is_yours && shown.is_some();
        let shown = shown.unwrap_or_else(|| Shown {
            because: "The record of this call is not as it was written".to_owned(),
            ..Shown::default()
        });
        Held {
            id: approval.id.clone(),
            asker: name(binding.caller.subject()),
            issuer: name(binding.caller.issuer()),
            client: name(binding.caller.client()),
            server: name(binding.server.as_str()),
            tool: name(&binding.tool),
            arguments: visible(&shown.arguments).into_owned(),
            more_bytes: shown.more_bytes,
            labels: shown.labels,
            policies: shown.policies.iter().map(|id| name(id)).collect(),
            found: shown.found.iter().map(|found| name(found)).collect(),
            because: visible(&shown.because).into_owned(),
            role: if approval.by_self { String::new() } else { approval.role.clone() },
            asked_at: approval.asked_at,
            expires_at: approval.expires_at,
            standing,
            is_yours,
        }
    }
}

fn is_own(approver: &Approver, approval: &Approval) -> bool {
    let (asker, he) = (&approval.binding.caller, &approver.identity);
    (asker.issuer(), asker.subject()) == (he.issuer(), he.subject())
}

fn unavailable(error: ApprovalError) -> Undecided {
    match error {
        ApprovalError::NotWaiting => Undecided::Over,
        ApprovalError::Own => Undecided::Own,
        ApprovalError::Unknown => Undecided::Unknown,
        ApprovalError::Database(_) | ApprovalError::TooMany => Undecided::Unavailable(error.to_string()),
    }
}

/// A name as it is shown: one line, no longer than a page, every character visible.
fn name(text: &str) -> String {
    let shown: String = text.chars().take(NAME).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{}{more}", visible(&shown))
}
