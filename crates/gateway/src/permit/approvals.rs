//! Calls that a person must say yes to (attacks.md EP-07, EP-08).
//!
//! A policy with `@approval("role")` turns such a call into a request for a decision. The caller repeats the very same call
//! once it is decided; anything that differs in it is another call, and asks anew.

use std::{collections::BTreeSet, time::Duration};

use bartizan_mcp::{Era, Message, Refusal, code, json::quote};
use bartizan_model::{Caller, Timestamp};
use bartizan_policy::{Decision, Obligation};
use bartizan_store::{
    Approvals, Digest,
    approvals::{Approval, ApprovalError, Binding, Redemption, Request, WAITING_PER_CALLER},
    pins::Kind,
};

use super::{Policy, Ready, unready};
use crate::{Asker, server::Server};

/// How long a request waits, and its decision is good (attacks.md EP-08).
const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long what expired is kept for whoever looks back.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of the arguments that are shown to whoever decides.
const SHOWN: usize = 4000;
/// The role of `@approval("self")`: whoever calls says himself that he means it.
const SELF: &str = "self";

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
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The approver may not decide about this.
    #[error("only `{0}` may decide about this request")]
    Role(String),
    /// The store says no.
    #[error(transparent)]
    Store(#[from] ApprovalError),
}

/// Decides about the request `id`, as `by` may.
///
/// # Errors
/// [`Undecided`]; nothing was decided then.
pub async fn decide(
    approvals: &dyn Approvals,
    id: &str,
    approve: bool,
    by: &Approver,
    now: Timestamp,
) -> Result<Approval, Undecided> {
    let known = approvals.read(id).await?.ok_or(ApprovalError::Unknown)?;
    if !by.may_decide(&known) {
        return Err(Undecided::Role(known.role));
    }
    Ok(approvals.decide(id, approve, &by.identity, now).await?)
}

/// A call that a person has yet to approve.
pub(super) struct Pending<'a> {
    /// The tool, by the server's name for it.
    pub tool: &'a str,
    /// The call.
    pub message: &'a Message,
    /// The role that must approve it.
    pub role: &'a str,
    /// What has entered the caller's window, in words.
    pub because: &'a str,
}

/// The role whose approval alone is lacking.
pub(super) fn lacking(decision: &Decision) -> Option<&str> {
    match decision.denial()?.obligations.as_slice() {
        [Obligation::Approval(role)] => Some(role),
        // What needs several things is asked for by no single request.
        _ => None,
    }
}

impl Policy {
    /// Uses up the approval of exactly this call.
    ///
    /// # Errors
    /// The refusal: a person has yet to decide, or said no. It names the request.
    pub(super) async fn redeem(
        &self,
        ready: &Ready,
        asker: &Asker,
        server: &Server,
        era: Era,
        call: Pending<'_>,
    ) -> Result<Approval, Refusal> {
        let Pending { tool, message, role, because } = call;
        let now = self.clock.now();
        let set = self.keeper.approved();
        let pin = set.of(server.name(), Kind::Tool).find(|(name, _)| *name == tool);
        let (_, pinned) = pin.ok_or_else(unready)?;
        let binding = Binding {
            caller: (*asker.caller).clone(),
            server: server.name().clone(),
            tool: tool.to_owned(),
            bytes: bytes_of(message),
            pin: pinned.hash,
            policy: ready.bundle.version().to_string(),
        };
        let unusable = |error: ApprovalError| {
            match error {
            ApprovalError::TooMany => Refusal {
                retry_after_s: Some(60),
                ..Refusal::new(
                    if era == Era::Modern { 429 } else { 200 },
                    code::LIMIT,
                    format!("{WAITING_PER_CALLER} calls wait for a decision already; none is asked about until some are decided"),
                )
                .with_data(r#"{"source":"bartizan","reason":"policy.approvals_waiting"}"#)
            },
            error => {
                tracing::error!(%error, "approvals cannot be read now");
                unready()
            }
        }
        };
        let approval = match self.approvals.redeem(&binding, now).await.map_err(unusable)? {
            Redemption::Granted(approval) => return Ok(approval),
            Redemption::Denied(approval) | Redemption::Waiting(approval) => approval,
            Redemption::Absent => {
                let request = Request {
                    binding,
                    role: role.to_owned(),
                    by_self: role == SELF,
                    words: words_of(server, tool, message),
                    lifetime: LIFETIME,
                };
                self.approvals.ask(&request, now).await.map_err(unusable)?
            }
        };
        Err(unapproved(&approval, era, because))
    }

    /// Forgets requests that nobody can decide or use any more.
    pub async fn tidy(&self) {
        let before = Timestamp::from_unix(self.clock.now().as_unix().saturating_sub(KEPT.as_secs()));
        if let Err(error) = self.approvals.forget(before).await {
            tracing::warn!(%error, "old approvals were not forgotten");
        }
    }
}

/// The digest of what is forwarded: the method and every parameter as written, but `_meta`, which is the gateway's.
fn bytes_of(message: &Message) -> Digest {
    let mut bytes = Vec::new();
    let mut add = |part: &str| {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    };
    add(&message.method());
    for member in message.fields().filter(|member| !member.is("_meta")) {
        add(&member.key());
        add(member.value.text());
    }
    Digest::of(&bytes)
}

/// The call in words, for whoever decides.
fn words_of(server: &Server, tool: &str, message: &Message) -> String {
    let arguments = message.param("arguments").map_or("{}", |a| a.text());
    let shown: String = arguments.chars().take(SHOWN).collect();
    let rest = arguments.len() - shown.len();
    let more = if rest > 0 { format!(" … and {rest} bytes more") } else { String::new() };
    format!("call `{tool}` of `{}` with {shown}{more}", server.name())
}

fn unapproved(approval: &Approval, era: Era, because: &str) -> Refusal {
    let (role, id) = (&approval.role, &approval.id);
    let who = if approval.by_self { "whoever asks".to_owned() } else { format!("`{role}`") };
    let mut text = match approval.standing {
        bartizan_store::approvals::Standing::Denied => format!("{who} did not approve this call ({id})"),
        _ => format!(
            "{who} must approve this call first: `bartizan tools approvals grant {id}`; then make the very same call again"
        ),
    };
    if !because.is_empty() {
        text = format!("{text}. It is asked because {because}");
    }
    let status = if era == Era::Modern { 403 } else { 200 };
    Refusal::new(status, code::FORBIDDEN, text).with_data(format!(
        r#"{{"source":"bartizan","reason":"policy.approval","approval":{{"id":{},"role":{},"state":"{}","expires_at":{}}}}}"#,
        quote(id),
        quote(role),
        approval.standing.as_str(),
        approval.expires_at.as_unix()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(params: &str) -> Digest {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        bytes_of(&Message::parse(text.into_bytes()).unwrap())
    }

    #[test]
    fn another_byte_is_another_call_but_for_meta() {
        let call_a = call(r#"{"name":"t","arguments":{"a":1}}"#);
        assert_eq!(call_a, call(r#"{"name":"t","arguments":{"a":1},"_meta":{"progressToken":7}}"#));
        for other in [
            r#"{"name":"t","arguments":{"a":2}}"#,
            r#"{"name":"t","arguments":{"a": 1}}"#,
            r#"{"name":"u","arguments":{"a":1}}"#,
            r#"{"name":"t","arguments":{"a":1},"more":0}"#,
        ] {
            assert_ne!(call_a, call(other), "{other}");
        }
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
            standing: bartizan_store::approvals::Standing::Waiting,
            asked_at: Timestamp::from_unix(0),
            expires_at: Timestamp::from_unix(300),
            decided_by: None,
            decided_at: None,
            used_at: None,
        }
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
    }
}
