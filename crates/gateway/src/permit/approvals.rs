//! Calls that a person must say yes to (attacks.md EP-07, EP-08).
//!
//! A policy with `@approval("role")` turns such a call into a request for a decision. The caller repeats the very same call
//! once it is decided; anything that differs in it is another call, and asks anew.

use std::{collections::BTreeSet, time::Duration};

use bartizan_mcp::{Era, Message, Refusal, code, json::quote};
use bartizan_model::{Caller, ServerName, Timestamp};
use bartizan_policy::{Claims, Decision, FlowLabels, Obligation};
use bartizan_shield::Shield;
use bartizan_store::{
    Approvals, DatabaseError, Digest,
    approvals::{Approval, ApprovalError, Binding, Redemption, Request, Standing},
    flows::Flow,
    pins::Kind,
};

use super::{
    Policy, Ready,
    holds::{self, Hold},
    shown::{Shown, forwarded},
    unready,
};
use crate::{Asker, record::Recorder, server::Server};

/// How long a request waits, and its decision is good (attacks.md EP-08).
const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long what expired is kept for whoever looks back.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// The role of `@approval("self")`: whoever calls says himself that he means it.
pub(super) const SELF: &str = "self";

/// Who decides about a request.
#[derive(Clone, Debug)]
pub struct Approver {
    /// Who it is, for the record and so that nobody decides about his own request.
    pub identity: Caller,
    /// The roles he has.
    pub roles: BTreeSet<String>,
    /// Whether he runs this machine: he may decide in every role, and for its owner in person.
    pub is_operator: bool,
}

impl Approver {
    /// Whoever runs commands on this machine with access to its state, known to the system as `name`.
    pub fn operator(name: &str) -> Self {
        let identity = Caller::new("operator", name, "command line");
        Self { identity, roles: BTreeSet::new(), is_operator: true }
    }

    /// Whether he may decide about `approval`.
    pub fn may_decide(&self, approval: &Approval) -> bool {
        let asker = &approval.binding.caller;
        if approval.by_self {
            let is_he =
                (asker.issuer(), asker.subject()) == (self.identity.issuer(), self.identity.subject());
            return is_he || (self.is_operator && *asker == Caller::local_owner());
        }
        self.is_operator || self.roles.contains(&approval.role)
    }

    /// Whether he may decide about `approval` now.
    fn check(&self, approval: &Approval, now: Timestamp) -> Result<(), Undecided> {
        let (asker, he) = (&approval.binding.caller, &self.identity);
        let is_own = (asker.issuer(), asker.subject()) == (he.issuer(), he.subject());
        if !self.may_decide(approval) {
            return Err(Undecided::Role(approval.role.clone()));
        }
        if approval.standing != Standing::Waiting || approval.expires_at <= now {
            return Err(ApprovalError::NotWaiting.into());
        }
        if is_own && !approval.by_self {
            return Err(ApprovalError::Own.into());
        }
        Ok(())
    }
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The tool or the policy is no longer what it was when this was asked.
    #[error("the tool or the policy has changed since this was asked, so an approval would be worth nothing")]
    Changed,
    /// The decision cannot be recorded.
    #[error("it is not decided, for that cannot be recorded: {0}")]
    Unrecorded(String),
    /// The approver may not decide about this.
    #[error("only `{0}` may decide about this request")]
    Role(String),
    /// The store says no.
    #[error(transparent)]
    Store(#[from] ApprovalError),
}

/// Decides about the request `id`, as `by` may, who is kept as `named`. Whoever calls this has recorded it.
///
/// # Errors
/// [`Undecided`]; nothing was decided then.
pub async fn decide(
    approvals: &dyn Approvals,
    id: &str,
    approve: bool,
    (by, named): (&Approver, &str),
    now: Timestamp,
) -> Result<Approval, Undecided> {
    let known = approvals.read(id).await?.ok_or(ApprovalError::Unknown)?;
    if !by.may_decide(&known) {
        return Err(Undecided::Role(known.role));
    }
    Ok(approvals.decide(id, approve, (&by.identity, named), now).await?)
}

/// A call that people have yet to approve.
pub(super) struct Pending<'a> {
    /// The tool, by the server's name for it.
    pub tool: &'a str,
    /// The call.
    pub message: &'a Message,
    /// The roles whose approval policies ask for.
    pub roles: &'a [String],
    /// The policies that ask.
    pub policies: &'a [String],
    /// What the shield holds it for.
    pub hold: Option<&'a Hold>,
    /// What tells credentials, which approvers are not shown.
    pub shield: &'a Shield,
    /// What has entered the caller's window, in words.
    pub because: &'a str,
    /// What the call does to the flow of information.
    pub labels: FlowLabels,
}

/// The roles whose approvals alone the policies lack, and the policies that ask for them; none of either if only `hold` asks for
/// somebody. `None` if nobody need be asked, or nobody's approval would do.
pub(super) fn wanted<'d>(decision: &'d Decision, hold: Option<&Hold>) -> Option<(Vec<String>, &'d [String])> {
    if decision.is_permit() { hold.map(|_| (Vec::new(), &[][..])) } else { lacking(decision) }
}

/// The roles whose approvals alone are lacking, and the policies that ask for them.
fn lacking(decision: &Decision) -> Option<(Vec<String>, &[String])> {
    let denial = decision.denial()?;
    let role = |obligation: &Obligation| match obligation {
        Obligation::Approval(role) => Some(role.clone()),
        // What a better token would give is asked for first.
        Obligation::MaxAge(_) | Obligation::Mfa | Obligation::StepUp(_) => None,
    };
    let roles = denial.obligations.iter().map(role).collect::<Option<Vec<_>>>()?;
    (!roles.is_empty()).then_some((roles, denial.policies.as_slice()))
}

impl Policy {
    /// Uses up the approvals of exactly this call.
    ///
    /// # Errors
    /// The refusal: somebody has yet to decide, or said no. It names the requests.
    pub(super) async fn redeem(
        &self,
        ready: &Ready,
        asker: &Asker,
        server: &Server,
        era: Era,
        call: Pending<'_>,
    ) -> Result<Vec<Approval>, Refusal> {
        let now = self.clock.now();
        let pinned = self.pin_of(server.name(), call.tool).ok_or_else(unready)?;
        let mut roles = call.roles.to_vec();
        // Who has that role for a policy, too, decides once: the request says both.
        if let Some(role) = call.hold.map(|_| holds::role(ready, asker))
            && !roles.contains(&role)
        {
            roles.push(role);
        }
        let binding = Binding {
            caller: (*asker.caller).clone(),
            server: server.name().clone(),
            tool: call.tool.to_owned(),
            bytes: bytes_of(call.message),
            pin: pinned,
            policy: holds::asked_by(&ready.bundle.version().to_string(), call.hold, call.policies),
        };
        let unusable = |error: ApprovalError| match error {
            ApprovalError::TooMany => too_many(era),
            error => {
                tracing::error!(%error, "approvals cannot be read now");
                unready()
            }
        };
        let found = match self.approvals.redeem(&binding, &roles, now).await.map_err(unusable)? {
            Redemption::Granted(approvals) => return Ok(approvals),
            Redemption::Open(found) => found,
        };
        let mut words: Option<String> = None;
        let mut open = Vec::new();
        for (role, known) in roles.iter().zip(found) {
            let approval = match known {
                Some(approval) => approval,
                None => {
                    let request = Request {
                        binding: binding.clone(),
                        role: role.clone(),
                        by_self: role == SELF,
                        words: words.get_or_insert_with(|| Shown::of_call(&call).written()).clone(),
                        lifetime: LIFETIME,
                    };
                    self.approvals.ask(&request, now).await.map_err(unusable)?
                }
            };
            open.push(approval);
        }
        Err(self.unapproved(&open, era, &call))
    }

    /// The hash of a tool's approved definition.
    fn pin_of(&self, server: &ServerName, tool: &str) -> Option<Digest> {
        let set = self.keeper.approved();
        set.of(server, Kind::Tool).find(|(name, _)| *name == tool).map(|(_, pinned)| pinned.hash)
    }

    /// Whoever `claims` speak of, with the roles he has by the policies in force.
    ///
    /// Without policies that can be asked he has none.
    pub fn approver(&self, claims: Claims) -> Approver {
        let identity = Caller::new(&*claims.issuer, &*claims.subject, "browser");
        let roles = self.ready().map(|ready| ready.bundle.identify(claims).roles().clone());
        Approver { identity, roles: roles.unwrap_or_default(), is_operator: false }
    }

    /// Whether `by` may release or discard what was withheld from `from`: who has the role that the operator named, and asked
    /// not himself. On a laptop the owner may, who could by the command.
    pub fn may_release(&self, by: &Approver, from: &Caller) -> bool {
        let is =
            |one: &Caller| (one.issuer(), one.subject()) == (by.identity.issuer(), by.identity.subject());
        if is(&Caller::local_owner()) {
            return true;
        }
        let role = self.ready().and_then(|ready| ready.release_role.clone());
        !is(from) && role.is_some_and(|role| by.roles.contains(&role))
    }

    /// What has entered the windows of `person`, whichever the application, the oldest first.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn entered(&self, person: &Caller) -> Result<Vec<(Caller, Vec<Flow>)>, DatabaseError> {
        let window = self.ready().map(|ready| ready.window).unwrap_or_default();
        let since = Timestamp::from_unix(self.clock.now().as_unix().saturating_sub(window.as_secs()));
        let mut found = Vec::new();
        for caller in self.flows.callers(since).await? {
            if (caller.issuer(), caller.subject()) != (person.issuer(), person.subject()) {
                continue;
            }
            let mut flows = self.flows.window(&caller, since).await?.to_vec();
            flows.retain(|flow| !flow.labels.is_empty());
            if !flows.is_empty() {
                found.push((caller, flows));
            }
        }
        Ok(found)
    }

    /// One request, and whether the tool and the policy are still those it was asked under: its approval is worth nothing
    /// otherwise.
    ///
    /// # Errors
    /// [`ApprovalError::Database`].
    pub async fn request(&self, id: &str) -> Result<Option<(Approval, bool)>, ApprovalError> {
        let Some(approval) = self.approvals.read(id).await? else { return Ok(None) };
        let binding = &approval.binding;
        let is_same_policy = self
            .ready()
            .is_some_and(|ready| holds::is_under(&binding.policy, &ready.bundle.version().to_string()));
        let is_same_tool = self.pin_of(&binding.server, &binding.tool) == Some(binding.pin);
        Ok(Some((approval, is_same_policy && is_same_tool)))
    }

    /// Requests that wait for `by`, the oldest first.
    ///
    /// # Errors
    /// [`ApprovalError::Database`].
    pub async fn waiting_for(&self, by: &Approver) -> Result<Vec<Approval>, ApprovalError> {
        let mut waiting = self.approvals.waiting(self.clock.now()).await?;
        waiting.retain(|approval| by.may_decide(approval));
        Ok(waiting)
    }

    /// Decides about the request `id`, as `by` may; that is on record in `recorder` before it is done, and wherever it is kept
    /// he goes by his pseudonym, so that he goes when he is erased.
    ///
    /// # Errors
    /// [`Undecided`]; nothing was decided then.
    pub async fn decide(
        &self,
        recorder: &Recorder,
        id: &str,
        approve: bool,
        by: &Approver,
    ) -> Result<Approval, Undecided> {
        let (known, is_current) = self.request(id).await?.ok_or(ApprovalError::Unknown)?;
        if approve && !is_current {
            return Err(Undecided::Changed);
        }
        // What cannot be decided is not on record as decided.
        by.check(&known, self.clock.now())?;
        let person = recorder.log().persons().of(&by.identity);
        let named = person.map_err(|error| Undecided::Unrecorded(error.to_string()))?.pseudonym().to_string();
        let recorded = recorder.decides(&by.identity, &known, approve).await;
        recorded.map_err(|lost| Undecided::Unrecorded(lost.to_string()))?;
        decide(self.approvals.as_ref(), id, approve, (by, &named), self.clock.now()).await
    }

    fn unapproved(&self, open: &[Approval], era: Era, call: &Pending<'_>) -> Refusal {
        let mut says = Vec::new();
        let mut visits = Vec::new();
        let mut listed = Vec::new();
        for approval in open.iter().filter(|approval| approval.standing != Standing::Approved) {
            let (role, id) = (&approval.role, &approval.id);
            let who = if approval.by_self { "whoever asks".to_owned() } else { format!("`{role}`") };
            let page = self.page(&format!("/approvals/{id}"));
            let state = approval.standing.as_str();
            let until = approval.expires_at.as_unix();
            let url = page.as_ref().map_or(String::new(), |page| format!(r#","url":{}"#, quote(page)));
            listed.push(format!(
                r#"{{"id":{},"role":{},"state":"{state}","expires_at":{until}{url}}}"#,
                quote(id),
                quote(role),
            ));
            if approval.standing == Standing::Denied {
                // With one no, nobody else need be asked.
                says = vec![format!("{who} did not approve this call ({id})")];
                visits.clear();
                listed.rotate_right(1);
                break;
            }
            let either = page.as_ref().map_or(String::new(), |page| format!("{page} or "));
            let command = self.command("approvals grant", id);
            says.push(format!("{who} must approve this call first: {either}{command}"));
            visits.extend(page);
        }
        let mut text = says.join("; ");
        if listed.iter().all(|one| one.contains(r#""state":"waiting""#)) {
            text.push_str("; then make the very same call again");
        }
        if let Some(hold) = call.hold {
            text = format!("{text}. The shield holds it: {}", hold.found().join("; "));
        }
        if !call.because.is_empty() {
            text = format!("{text}. It is asked because {}", call.because);
        }
        let status = if era == Era::Modern { 403 } else { 200 };
        let first = listed.first().cloned().unwrap_or_default();
        let all =
            if listed.len() > 1 { format!(r#","approvals":[{}]"#, listed.join(",")) } else { String::new() };
        let (reason, findings) = match call.hold {
            Some(hold) => ("shield.approval", format!(r#","findings":{}"#, hold.findings())),
            None => ("policy.approval", String::new()),
        };
        let data =
            format!(r#"{{"source":"bartizan","reason":"{reason}","approval":{first}{all}{findings}}}"#);
        Refusal { visits: visits.into(), ..Refusal::new(status, code::FORBIDDEN, text).with_data(data) }
    }

    /// Forgets requests that nobody can decide or use any more.
    pub async fn tidy(&self) {
        let before = Timestamp::from_unix(self.clock.now().as_unix().saturating_sub(KEPT.as_secs()));
        if let Err(error) = self.approvals.forget(before).await {
            tracing::warn!(%error, "old approvals were not forgotten");
        }
    }
}

/// The digest of what is forwarded: the method, and everything of the message as written that the gate does not write anew
/// for each attempt (see [`forwarded`]).
fn bytes_of(message: &Message) -> Digest {
    let mut bytes = Vec::new();
    let mut add = |part: &str| {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    };
    add(&message.method());
    for (place, key, text) in forwarded(message) {
        add(place.as_str());
        add(&key);
        add(text);
    }
    Digest::of(&bytes)
}

fn too_many(era: Era) -> Refusal {
    Refusal {
        retry_after_s: Some(60),
        ..Refusal::new(
            if era == Era::Modern { 429 } else { 200 },
            code::LIMIT,
            "too many of your calls wait for a decision, were asked about or denied lately; nobody is asked about another for a while",
        )
        .with_data(r#"{"source":"bartizan","reason":"policy.approvals_waiting"}"#)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bartizan_audit::{AuditFolder, Options};
    use bartizan_model::{ManualClock, SeededEntropy};
    use bartizan_store::{Database, Keeper, Sealer, StoredApprovals, StoredFlows, StoredPins};

    use super::*;

    fn call(params: &str) -> Digest {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        bytes_of(&Message::parse(text.into_bytes()).unwrap())
    }

    #[test]
    fn another_byte_is_another_call_but_for_what_the_gate_writes() {
        let call_a = call(r#"{"name":"t","arguments":{"a":1}}"#);
        let ours = r#"{"progressToken":7,"traceparent":"00-1","tracestate":"a=b","baggage":"c=d"}"#;
        assert_eq!(call_a, call(&format!(r#"{{"name":"t","arguments":{{"a":1}},"_meta":{ours}}}"#)));
        for other in [
            r#"{"name":"t","arguments":{"a":2}}"#,
            r#"{"name":"t","arguments":{"a": 1}}"#,
            r#"{"name":"u","arguments":{"a":1}}"#,
            r#"{"name":"t","arguments":{"a":1},"more":0}"#,
            r#"{"name":"t","arguments":{"a":1},"_meta":{"com.example/to":"mallory"}}"#,
            r#"{"name":"t","arguments":{"a":1},"_meta":{"progressToken":7,"com.example/to":"mallory"}}"#,
            r#"{"name":"t","arguments":{"a":1},"inputResponses":{"q":{"action":"accept"}}}"#,
            r#"{"name":"t","arguments":{"a":1},"inputResponses":["bartizan/visit-1"]}"#,
            r#"{"name":"t","arguments":{"a":1},"inputResponses":{"bartizan/visit-1":{},"q":1}}"#,
        ] {
            assert_ne!(call_a, call(other), "{other}");
        }
        let of_root = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","to":"mallory","params":{"name":"t","arguments":{"a":1}}}"#;
        assert_ne!(call_a, bytes_of(&Message::parse(of_root.into()).unwrap()));
        let of_meta = [r#"{"name":"t","_meta":{"x":1}}"#, r#"{"name":"t","x":1}"#].map(call);
        assert_ne!(of_meta[0], of_meta[1], "each in its place");
        let shown =
            r#"{"name":"t","arguments":{"a":1},"inputResponses":{"bartizan/visit-1":{"action":"accept"}}}"#;
        assert_eq!(call_a, call(shown), "what is said to the gate is not forwarded");
    }

    #[test]
    fn whatever_is_bound_is_shown() {
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","beside":"root","params":{"name":"t","arguments":{"a":1},
            "_meta":{"progressToken":77,"com.example/cc":"eve"},"vendor":{"to":"mallory"},"inputResponses":{"amount":{"content":9000},"bartizan/visit-1":{}}}}"#;
        let message = Message::parse(text.into()).unwrap();
        let call = Pending {
            tool: "t",
            message: &message,
            roles: &[],
            policies: &[],
            hold: None,
            shield: &Shield::new(bartizan_shield::Config::default()),
            because: "",
            labels: FlowLabels::default(),
        };
        let shown = Shown::of_call(&call).arguments;
        assert!(shown.starts_with(r#"{"a":1}"#), "{shown}");
        for part in ["mallory", "amount", "9000", "com.example/cc", "eve", "beside", "root"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("77"), "what the gate writes anew is nobody's to approve: {shown}");
        assert!(!shown.contains("bartizan/visit-1"), "what is said to the gate is not forwarded: {shown}");
    }

    fn asked(caller: Caller, role: &str) -> Approval {
        Approval {
            id: "1".into(),
            binding: Binding {
                caller,
                server: "s".parse().unwrap(),
                tool: "t".into(),
                bytes: Digest([0; 32]),
                pin: Digest([0; 32]),
                policy: String::new(),
            },
            role: role.into(),
            by_self: role == SELF,
            words: String::new(),
            standing: Standing::Waiting,
            asked_at: Timestamp::from_unix(0),
            expires_at: Timestamp::from_unix(300),
            decided_by: None,
            decided_at: None,
            used_at: None,
        }
    }

    /// What cannot be recorded is not decided; and whoever decides is kept by his pseudonym.
    #[tokio::test]
    async fn a_decision_is_on_record_before_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(100)));
        let database = Database::sqlite(&folder.path().join("store.db")).await.unwrap();
        let sealer = Arc::new(Sealer::new(&[1; 32]).unwrap());
        let entropy = Arc::new(SeededEntropy::new(1));
        let pins = Arc::new(StoredPins::new(database.clone(), Arc::clone(&sealer), None));
        let keeper = Keeper::new(pins, clock.clone()).await.unwrap();
        let approvals = Arc::new(StoredApprovals::new(database.clone(), sealer, entropy.clone()));
        let flows = Arc::new(StoredFlows::new(database.clone()));
        let policy = Policy::new(keeper, flows, approvals.clone(), clock.clone());
        let audit = AuditFolder::open(&folder.path().join("audit"), entropy).unwrap();
        let log = audit.start("gate", clock.clone(), Options::default()).unwrap();
        let recorder = Recorder::new(log.clone(), clock);
        let Approval { binding, .. } = asked(Caller::new("https://issuer.example", "ann", "agent"), "boss");
        let request = Request {
            binding,
            role: "boss".into(),
            by_self: false,
            words: String::new(),
            lifetime: LIFETIME,
        };
        let id = approvals.ask(&request, Timestamp::from_unix(100)).await.unwrap().id;
        let bea = Approver {
            identity: Caller::new("https://issuer.example", "bea", "console"),
            roles: BTreeSet::from(["boss".to_owned()]),
            is_operator: false,
        };
        // There is no room for her in the log.
        let people = folder.path().join("audit/people");
        let aside = folder.path().join("aside");
        std::fs::rename(&people, &aside).unwrap();
        std::fs::write(&people, "").unwrap();
        let refused = policy.decide(&recorder, &id, false, &bea).await;
        assert!(matches!(refused, Err(Undecided::Unrecorded(_))), "{refused:?}");
        assert_eq!(approvals.read(&id).await.unwrap().unwrap().standing, Standing::Waiting);
        std::fs::remove_file(&people).unwrap();
        std::fs::rename(&aside, &people).unwrap();
        let before = log.durable();
        let decided = policy.decide(&recorder, &id, false, &bea).await.unwrap();
        assert_eq!((decided.standing, log.durable()), (Standing::Denied, before + 1));
        let pseudonym = log.persons().of(&bea.identity).unwrap().pseudonym().to_string();
        assert_eq!(decided.decided_by, Some(pseudonym));
        // Nothing is on record of what cannot be decided any more.
        let again = policy.decide(&recorder, &id, false, &bea).await;
        assert!(matches!(again, Err(Undecided::Store(ApprovalError::NotWaiting))), "{again:?}");
        assert_eq!(log.durable(), before + 1);
        database.close().await;
    }

    #[test]
    fn who_has_the_role_decides_and_for_oneself_only_oneself() {
        let person = |name: &str, role: &str| Approver {
            identity: Caller::new("https://issuer.example", name, "console"),
            roles: BTreeSet::from([role.to_owned()]),
            is_operator: false,
        };
        let ann = Caller::new("https://issuer.example", "ann", "agent");
        let operator = Approver::operator("root");
        assert!(person("bob", "boss").may_decide(&asked(ann.clone(), "boss")));
        assert!(!person("bob", "clerk").may_decide(&asked(ann.clone(), "boss")));
        assert!(person("ann", "clerk").may_decide(&asked(ann.clone(), SELF)));
        assert!(!person("bob", SELF).may_decide(&asked(ann.clone(), SELF)), "a role called `self` is none");
        assert!(operator.may_decide(&asked(ann.clone(), "boss")));
        assert!(!operator.may_decide(&asked(ann, SELF)), "nobody says for another what he means");
        assert!(operator.may_decide(&asked(Caller::local_owner(), SELF)));

        // What can still be decided, before that is on record.
        let (bob, of_ann) =
            (person("bob", "boss"), asked(Caller::new("https://issuer.example", "ann", "agent"), "boss"));
        let at = Timestamp::from_unix;
        assert!(bob.check(&of_ann, at(299)).is_ok());
        assert!(matches!(bob.check(&of_ann, at(300)), Err(Undecided::Store(ApprovalError::NotWaiting))));
        let denied = Approval { standing: Standing::Denied, ..of_ann.clone() };
        assert!(matches!(bob.check(&denied, at(1)), Err(Undecided::Store(ApprovalError::NotWaiting))));
        assert!(matches!(person("bob", "clerk").check(&of_ann, at(1)), Err(Undecided::Role(_))));
        let herself = person("ann", "boss").check(&of_ann, at(1));
        assert!(matches!(herself, Err(Undecided::Store(ApprovalError::Own))));
    }
}
