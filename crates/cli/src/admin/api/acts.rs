//! What an administrator can do: by the same functions that the commands use.

use bartizan_gateway::{
    permit::{
        approvals::{Approver, Undecided},
        claims_of_token,
    },
    responses::event_of,
};
use bartizan_model::{Caller, Clock, ServerName, SystemClock, Timestamp};
use bartizan_store::{
    Approvals, Quarantine,
    approvals::ApprovalError,
    quarantine::QuarantineError,
    responses::{Response, Target},
    reviews::Verdict,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Admin, Admitted, Api, Refused,
    vault::{Fate, NewValue},
};
use crate::{config::admin::Role, policy::review, respond};

/// The body of a `POST`.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Act {
    /// How the gate is, and what is cut off.
    Status,
    /// Calls that wait for a person.
    Approvals,
    /// Results that wait for a person.
    Results,
    /// Decide about a call.
    Decide {
        /// The request's id.
        id: String,
        /// Yes or no.
        approve: bool,
    },
    /// Give a result to the next identical request.
    ReleaseResult {
        /// Its id.
        id: String,
    },
    /// Put a server or a tool in quarantine.
    Quarantine(Subject),
    /// Revoke a person's or a client's access.
    Revoke(Subject),
    /// Take either back.
    Release(Subject),
    /// The policies in force.
    Policy,
    /// The policies on the disk, and what is wrong with them.
    CheckPolicy,
    /// Put the policies on the disk in force.
    ActivatePolicy {
        /// Their version, as `check-policy` told it.
        version: String,
    },
    /// What the last review of rights found.
    Reviews,
    /// Agree with a finding until a date.
    AcceptFinding(OnFinding),
    /// Leave a right as it is until a date.
    WaiveFinding(OnFinding),
    /// Forget what has entered a person's windows.
    ResetFlow {
        /// The person's subject.
        person: String,
        /// Who vouches for it.
        issuer: String,
        /// One application's windows only.
        #[serde(default)]
        client: Option<String>,
        /// Why.
        #[serde(default)]
        why: String,
    },
    /// The vault's secrets, without their values.
    Secrets,
    /// Put a secret into the vault.
    SetSecret(NewValue),
    /// Give a secret another value.
    RotateSecret(NewValue),
    /// Remove a secret.
    RemoveSecret {
        /// Its name.
        name: String,
    },
}

/// A decision about a finding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnFinding {
    id: String,
    /// A date, a time, or a span from now: `90d`.
    until: String,
    why: String,
}

/// Whom or what it is about, and why.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Subject {
    server: Option<ServerName>,
    tool: Option<String>,
    person: Option<String>,
    client: Option<String>,
    issuer: Option<String>,
    why: String,
}

impl Subject {
    fn thing(&self) -> Option<Target> {
        match (&self.server, &self.tool, &self.person, &self.client) {
            (Some(server), None, None, None) => Some(Target::Server(server.clone())),
            (Some(server), Some(tool), None, None) if !tool.is_empty() => {
                Some(Target::Tool { server: server.clone(), tool: tool.clone() })
            }
            _ => None,
        }
    }

    fn somebody(&self) -> Option<Target> {
        match (&self.server, &self.person, &self.client, &self.issuer) {
            (None, Some(subject), None, Some(issuer)) => {
                Some(Target::Person { issuer: issuer.clone(), subject: subject.clone() })
            }
            (None, None, Some(client), issuer) => {
                Some(Target::Client { issuer: issuer.clone().unwrap_or_default(), client: client.clone() })
            }
            _ => None,
        }
    }
}

impl OnFinding {
    /// Until when, if that is to come.
    fn time(&self) -> Option<Timestamp> {
        review::until(&self.until).ok().filter(|until| *until > SystemClock.now())
    }

    fn until_and_why(&self) -> Result<(Timestamp, &str), Refused> {
        Ok((self.time().ok_or_else(|| unclear("`until`, which is to come"))?, &self.why))
    }
}

impl Act {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Approvals => "approvals",
            Self::Results => "results",
            Self::Decide { .. } => "decide",
            Self::ReleaseResult { .. } => "release-result",
            Self::Quarantine(_) => "quarantine",
            Self::Revoke(_) => "revoke",
            Self::Release(_) => "release",
            Self::Policy => "policy",
            Self::CheckPolicy => "check-policy",
            Self::ActivatePolicy { .. } => "activate-policy",
            Self::Reviews => "reviews",
            Self::AcceptFinding(_) => "accept-finding",
            Self::WaiveFinding(_) => "waive-finding",
            Self::ResetFlow { .. } => "reset-flow",
            Self::Secrets => "secrets",
            Self::SetSecret(_) => "set-secret",
            Self::RotateSecret(_) => "rotate-secret",
            Self::RemoveSecret { .. } => "remove-secret",
        }
    }

    /// The same, if it names what it is about: what cannot be done is not recorded as if it were.
    ///
    /// # Errors
    /// What to name.
    pub(super) fn whole(self) -> Result<Self, Refused> {
        let needed = match &self {
            Self::Quarantine(subject) if subject.thing().is_none() => "`server`, or `server` and `tool`",
            Self::Revoke(subject) if subject.somebody().is_none() => "`person` and `issuer`, or `client`",
            Self::Release(subject) if subject.thing().or_else(|| subject.somebody()).is_none() => {
                "what was cut off, as it was named then"
            }
            Self::AcceptFinding(on) | Self::WaiveFinding(on) if on.time().is_none() => {
                "`until`, a date in the future such as 2027-01-31, or a span such as 90d"
            }
            Self::SetSecret(new) | Self::RotateSecret(new) if new.value.reveal().is_empty() => {
                "`value`, which is not empty"
            }
            _ => return Ok(self),
        };
        Err(unclear(needed))
    }

    /// Who may.
    pub fn role(&self) -> Role {
        match self {
            Self::Status => Role::Viewer,
            Self::Approvals | Self::Results | Self::Decide { .. } | Self::ReleaseResult { .. } => {
                Role::Approver
            }
            Self::Quarantine(_) | Self::Revoke(_) | Self::Release(_) => Role::Responder,
            Self::Policy
            | Self::CheckPolicy
            | Self::ActivatePolicy { .. }
            | Self::Reviews
            | Self::AcceptFinding(_)
            | Self::WaiveFinding(_)
            | Self::ResetFlow { .. }
            | Self::Secrets
            | Self::SetSecret(_)
            | Self::RotateSecret(_)
            | Self::RemoveSecret { .. } => Role::Operator,
        }
    }

    /// Whether anything is another way afterwards.
    pub fn changes_something(&self) -> bool {
        !matches!(
            self,
            Self::Status
                | Self::Approvals
                | Self::Results
                | Self::Policy
                | Self::CheckPolicy
                | Self::Reviews
                | Self::Secrets
        )
    }

    /// What it is about, for the log. A person is named by the act's own entry, by the pseudonym.
    pub fn about(&self) -> String {
        match self {
            Self::Status
            | Self::Approvals
            | Self::Results
            | Self::Policy
            | Self::CheckPolicy
            | Self::Reviews
            | Self::Secrets => String::new(),
            Self::ActivatePolicy { version } => version.clone(),
            Self::AcceptFinding(on) | Self::WaiveFinding(on) => on.id.clone(),
            Self::ResetFlow { .. } => "a person".to_owned(),
            Self::SetSecret(new) | Self::RotateSecret(new) => new.name.clone(),
            Self::RemoveSecret { name } => name.clone(),
            Self::Decide { id, approve } => format!("{id}: {}", if *approve { "approved" } else { "denied" }),
            Self::ReleaseResult { id } => id.clone(),
            Self::Quarantine(subject) | Self::Revoke(subject) | Self::Release(subject) => {
                match (&subject.server, &subject.tool, &subject.client) {
                    (Some(server), Some(tool), _) => format!("tool {server}/{tool}"),
                    (Some(server), None, _) => format!("server {server}"),
                    (None, _, Some(client)) => format!("client {client}"),
                    _ => "a person".to_owned(),
                }
            }
        }
    }

    /// The server it is about.
    pub fn server(&self) -> Option<ServerName> {
        match self {
            Self::Quarantine(subject) | Self::Revoke(subject) | Self::Release(subject) => {
                subject.server.clone()
            }
            _ => None,
        }
    }
}

pub(super) fn unusable(error: impl std::fmt::Display) -> Refused {
    tracing::error!(%error, "the store cannot be used");
    Refused::new(503, "admin.unreadable", "the store cannot be used; try again later")
}

impl Api {
    /// Does it. Whoever asks may.
    pub(super) async fn act(&self, act: &Act, admitted: &Admitted, admin: &Admin) -> Result<Value, Refused> {
        let now = SystemClock.now();
        match act {
            Act::Status => self.status(admin).await,
            Act::Approvals => {
                let waiting = self.approvals().await?.waiting(now).await.map_err(unusable)?;
                Ok(
                    json!({ "approvals": waiting.iter().map(crate::tools::approval_json).collect::<Vec<_>>() }),
                )
            }
            Act::Results => {
                let kept = self.quarantine().await?.list(now).await.map_err(unusable)?;
                Ok(json!({ "results": kept.iter().map(crate::tools::result_json).collect::<Vec<_>>() }))
            }
            Act::Decide { id, approve } => {
                // By the roles that the policies in force give him, as at every other place where somebody decides.
                let policy = admin.gate.policy();
                let by = policy.approver(claims_of_token(&admitted.token));
                // On record with the application that he came by.
                let by = Approver { identity: admitted.caller.clone(), ..by };
                match policy.decide(admin.gate.recorder(), id, *approve, &by).await {
                    Ok(decided) => Ok(json!({ "id": id, "state": decided.standing.as_str() })),
                    Err(lost @ Undecided::Unrecorded(_)) => {
                        Err(Refused::new(503, "audit.lost", lost.to_string()))
                    }
                    Err(Undecided::Store(ApprovalError::Database(error))) => Err(unusable(error)),
                    Err(Undecided::Store(ApprovalError::Unknown)) => {
                        Err(Refused::new(404, "admin.unknown", "there is no such request"))
                    }
                    Err(refused) => Err(Refused::new(403, "admin.undecided", refused.to_string())),
                }
            }
            Act::ReleaseResult { id } => {
                let by = self.named(admitted, admin)?;
                let kept = self.quarantine().await?;
                let item = match kept.read(id, now).await {
                    Ok((item, _)) => item,
                    Err(QuarantineError::Unknown(_)) => {
                        return Err(Refused::new(404, "admin.unknown", "there is no such result"));
                    }
                    Err(error) => return Err(unusable(error)),
                };
                let (from, who) = (&item.binding.caller, &admitted.caller);
                let is_own = (from.issuer(), from.subject()) == (who.issuer(), who.subject());
                let owner = Caller::local_owner();
                if is_own && (who.issuer(), who.subject()) != (owner.issuer(), owner.subject()) {
                    return Err(Refused::new(
                        403,
                        "admin.own-result",
                        "somebody else releases what was withheld from you",
                    ));
                }
                match kept.release(id, &by, now).await {
                    Ok(_) => Ok(json!({ "id": id, "state": "released" })),
                    Err(QuarantineError::Unknown(_)) => {
                        Err(Refused::new(404, "admin.unknown", "there is no such result"))
                    }
                    Err(error) => Err(unusable(error)),
                }
            }
            Act::Quarantine(subject) => {
                let target = subject.thing().ok_or_else(|| unclear("`server`, or `server` and `tool`"))?;
                self.enforce(target, subject, admitted, admin).await
            }
            Act::Revoke(subject) => {
                let target =
                    subject.somebody().ok_or_else(|| unclear("`person` and `issuer`, or `client`"))?;
                self.enforce(target, subject, admitted, admin).await
            }
            Act::Release(subject) => {
                let target = subject.thing().or_else(|| subject.somebody());
                let target = target.ok_or_else(|| unclear("what was cut off, as it was named then"))?;
                self.release(target, subject, admitted, admin).await
            }
            Act::Policy => Self::policy(admin),
            Act::CheckPolicy => Ok(self.check_policy(admin)),
            Act::ActivatePolicy { version } => self.activate_policy(version, admitted, admin).await,
            Act::Reviews => self.reviews().await,
            Act::AcceptFinding(on) => {
                self.decide_finding(&on.id, Verdict::Accepted, on.until_and_why()?, admitted, admin).await
            }
            Act::WaiveFinding(on) => {
                self.decide_finding(&on.id, Verdict::Waived, on.until_and_why()?, admitted, admin).await
            }
            Act::ResetFlow { person, issuer, client, why } => {
                self.reset_flow((issuer, person, client.as_deref()), why, admitted, admin).await
            }
            Act::Secrets => self.secrets().await,
            Act::SetSecret(new) => {
                self.change_secret(&new.name, Some(&new.value), Fate::Set, admitted, admin).await
            }
            Act::RotateSecret(new) => {
                self.change_secret(&new.name, Some(&new.value), Fate::Rotated, admitted, admin).await
            }
            Act::RemoveSecret { name } => {
                self.change_secret(name, None, Fate::Removed, admitted, admin).await
            }
        }
    }

    async fn approvals(&self) -> Result<bartizan_store::StoredApprovals, Refused> {
        self.state.approvals(self.database.clone()).await.map_err(unusable)
    }

    async fn quarantine(&self) -> Result<bartizan_store::StoredQuarantine, Refused> {
        self.state.quarantine(self.database.clone()).await.map_err(unusable)
    }

    /// Who did it, where that is kept: by the pseudonym, so that it goes when he is erased.
    pub(super) fn named(&self, admitted: &Admitted, admin: &Admin) -> Result<String, Refused> {
        let person = admin.gate.recorder().log().persons().of(&admitted.caller).map_err(unusable)?;
        Ok(format!("admin {}", person.pseudonym()))
    }

    async fn enforce(
        &self,
        target: Target,
        subject: &Subject,
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<Value, Refused> {
        let response = self.response(target, subject, admitted, admin)?;
        self.record(&response, true, admitted, admin).await?;
        let is_new = admin.gate.responses().stored().enforce(&response).await.map_err(unusable)?;
        self.take_effect(admin).await?;
        Ok(json!({ "target": response.target.to_string(), "in_force": true, "was_before": !is_new }))
    }

    async fn release(
        &self,
        target: Target,
        subject: &Subject,
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<Value, Refused> {
        let stored = admin.gate.responses().stored();
        if !stored.all().await.map_err(unusable)?.iter().any(|response| response.target == target) {
            return Err(Refused::new(404, "admin.unknown", "nothing of it is in force"));
        }
        if let Target::Server(server) = &target {
            let left = respond::unrotated(
                &self.state,
                &self.database,
                self.config.clone(),
                self.base.clone(),
                server,
            );
            let left = left.await.map_err(unusable)?;
            if !left.is_empty() {
                let words = format!("it held secrets that are still the same: {}", left.join(", "));
                return Err(Refused::new(409, "response.unrotated", words));
            }
        }
        let response = self.response(target, subject, admitted, admin)?;
        self.record(&response, false, admitted, admin).await?;
        stored.lift(&response.target).await.map_err(unusable)?;
        self.take_effect(admin).await?;
        Ok(json!({ "target": response.target.to_string(), "in_force": false }))
    }

    fn response(
        &self,
        target: Target,
        subject: &Subject,
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<Response, Refused> {
        let by = self.named(admitted, admin)?;
        Ok(Response { target, why: subject.why.clone(), by, at: SystemClock.now() })
    }

    async fn record(
        &self,
        response: &Response,
        begins: bool,
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<(), Refused> {
        let log = admin.gate.recorder().log();
        let event = event_of(log.persons(), response, begins).by(&admitted.caller);
        log.note(event).await.map(drop).map_err(|lost| {
            tracing::error!(%lost, "a response cannot be recorded");
            Refused::new(503, "audit.lost", "it is not done, for it cannot be recorded")
        })
    }

    /// At once here; the other gates of the database see it within five seconds.
    async fn take_effect(&self, admin: &Admin) -> Result<(), Refused> {
        admin.gate.responses().refresh().await.map_err(unusable)?;
        admin.gate.cut_off().await;
        Ok(())
    }

    async fn status(&self, admin: &Admin) -> Result<Value, Refused> {
        let gate = &admin.gate;
        let in_force = gate.responses().stored().all().await.map_err(unusable)?;
        let log = gate.recorder().log();
        let exporters: Vec<_> = admin
            .exporters
            .progress()
            .into_iter()
            .map(|(name, p)| {
                json!({ "name": name, "behind": log.durable().saturating_sub(p.next()), "trouble": p.trouble() })
            })
            .collect();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "servers": gate.all_servers().iter().map(|s| s.name().to_string()).collect::<Vec<_>>(),
            "sessions": gate.sessions().count(),
            "in_force": in_force.iter().map(|r| json!({
                "target": r.target.to_string(), "why": r.why, "by": r.by,
                "since": bartizan_audit::event::rfc3339::text(r.at),
            })).collect::<Vec<_>>(),
            "audit": { "entries": log.durable(), "lost": log.lost() },
            "exporters": exporters,
        }))
    }
}

fn unclear(needed: &str) -> Refused {
    Refused::new(400, "admin.body", format!("name {needed}"))
}
