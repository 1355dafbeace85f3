//! What an administrator does about policies: what `bartizan policy` does about those of a running gate.

use bartizan_audit::{
    Details, Event, Kind, Text,
    event::{Change, Decision},
};
use bartizan_gateway::permit::{Draft, Rules};
use bartizan_model::{Caller, Clock, SystemClock, Timestamp};
use bartizan_store::{
    Flows, Reviews, StoredFlows, StoredReviews,
    reviews::{Decided, Verdict},
};
use serde_json::{Value, json};

use super::{Admin, Admitted, Api, Refused, acts::unusable};
use crate::{endpoints, governing, policy::review};

/// What `rules` would be, for the tools that are approved now, and what should be looked at all the same.
fn looked_at(rules: Rules, admin: &Admin) -> Result<(Draft, Vec<String>), String> {
    let mut warnings = rules.config.warnings();
    let draft = admin.gate.policy().draft(rules)?;
    warnings.extend_from_slice(draft.warnings());
    Ok((draft, warnings))
}

impl Api {
    /// The policies in force.
    pub(super) fn policy(admin: &Admin) -> Result<Value, Refused> {
        let bundle = admin.gate.policy().bundle().ok_or_else(|| {
            Refused::new(
                503,
                "policy.unusable",
                "the policies do not fit the approved tools; nothing is permitted",
            )
        })?;
        let ids: Vec<_> = bundle.policy_ids().collect();
        Ok(json!({ "version": bundle.version().to_string(), "policies": ids }))
    }

    /// What the policies on the disk would be, for the tools that are approved now.
    pub(super) fn check_policy(&self, admin: &Admin) -> Value {
        let checked = endpoints::rules(&self.config, &self.base).map_err(|error| format!("{error:#}"));
        match checked.and_then(|rules| looked_at(rules, admin)) {
            Ok((draft, warnings)) => {
                let version = draft.bundle().version();
                let now = admin.gate.policy().bundle().map(|bundle| bundle.version());
                json!({ "version": version.to_string(), "warnings": warnings, "in_force": now == Some(version) })
            }
            Err(problems) => json!({ "problems": problems.lines().collect::<Vec<_>>() }),
        }
    }

    /// Puts the policies on the disk in force, if they are still those of `version`: what was looked at.
    pub(super) async fn activate_policy(
        &self,
        version: &str,
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<Value, Refused> {
        let bad = |problems: String| Refused::new(422, "policy.unusable", problems);
        let _turn = governing::turn().await;
        let rules = endpoints::rules(&self.config, &self.base).map_err(|error| bad(format!("{error:#}")))?;
        let (draft, warnings) = looked_at(rules, admin).map_err(bad)?;
        let found = draft.bundle().version();
        if found.to_string() != version {
            let words =
                format!("the policies on the disk are {found}: look at them again with `check-policy`");
            return Err(Refused::new(409, "policy.moved", words));
        }
        let in_force = admin.gate.policy().bundle();
        let before = in_force.as_ref().map(|bundle| bundle.version().to_string());
        let details = governing::changed(in_force.as_deref(), draft.bundle());
        note(Event::new(Kind::PolicyChanged), details, admitted, admin).await?;
        admin.gate.policy().adopt(draft);
        Ok(json!({ "version": version, "was": before, "warnings": warnings }))
    }

    /// What the last review of rights found.
    pub(super) async fn reviews(&self) -> Result<Value, Refused> {
        let (stored, now) = (StoredReviews::new(self.database.clone()), SystemClock.now());
        let findings = stored.findings().await.map_err(unusable)?;
        Ok(json!({ "findings": findings.iter().map(|f| review::as_json(f, now)).collect::<Vec<_>>() }))
    }

    /// Decides about what a review found, until a time.
    pub(super) async fn decide_finding(
        &self,
        id: &str,
        verdict: Verdict,
        (until, why): (Timestamp, &str),
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<Value, Refused> {
        let stored = StoredReviews::new(self.database.clone());
        let findings = stored.findings().await.map_err(unusable)?;
        let unknown = || Refused::new(404, "admin.unknown", "the last review found nothing of this name");
        let finding = findings.iter().find(|finding| finding.id == id).ok_or_else(unknown)?;
        let (by, at) = (self.named(admitted, admin)?, SystemClock.now());
        let decided = Decided { verdict, by, why: why.to_owned(), at, until };
        let event = review::deed(finding, &decided).of(&admitted.caller);
        note(Event::new(event.kind), *event.details, admitted, admin).await?;
        if !stored.decide(id, &decided).await.map_err(unusable)? {
            return Err(unknown());
        }
        Ok(json!({ "id": id, "state": verdict.as_str() }))
    }

    /// Forgets what has entered the windows of a person, at one client or at all.
    pub(super) async fn reset_flow(
        &self,
        (issuer, person, client): (&str, &str, Option<&str>),
        why: &str,
        admitted: &Admitted,
        admin: &Admin,
    ) -> Result<Value, Refused> {
        let stored = StoredFlows::new(self.database.clone());
        let (now, window) = (SystemClock.now(), self.config.policy.flow.window());
        let since = Timestamp::from_unix(now.as_unix().saturating_sub(window.as_secs()));
        let is_meant = |caller: &Caller| {
            caller.issuer() == issuer
                && caller.subject() == person
                && client.is_none_or(|client| caller.client() == client)
        };
        let mut callers = stored.callers(since).await.map_err(unusable)?;
        callers.retain(is_meant);
        let by = self.named(admitted, admin)?;
        for caller in &callers {
            let whose = admin.gate.recorder().log().persons().of(caller).map_err(unusable)?.pseudonym();
            let change = Change {
                entity: Text::new("flow"),
                name: Text::new(&format!("{whose} via {}", caller.client())),
                from: None,
                to: Some(Text::new("reset")),
            };
            let details = Details {
                decision: Some(Decision::Permit),
                change: Some(change),
                message: Some(Text::new(why)),
                ..Details::default()
            };
            note(Event::new(Kind::Responded), details, admitted, admin).await?;
            stored.reset(caller, &by, now).await.map_err(unusable)?;
        }
        Ok(json!({ "windows": callers.len() }))
    }
}

/// Records what is about to be done: durable when this returns.
pub(super) async fn note(
    event: Event,
    details: Details,
    admitted: &Admitted,
    admin: &Admin,
) -> Result<(), Refused> {
    let noted = admin.gate.recorder().log().note(event.by(&admitted.caller).with(details)).await;
    noted.map(drop).map_err(|lost| {
        tracing::error!(%lost, "an administrator's act cannot be recorded");
        Refused::new(503, "audit.lost", "it is not done, for it cannot be recorded")
    })
}
