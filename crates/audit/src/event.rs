//! What the log records: one [`Entry`] per line, made from an [`Event`]. `docs/audit-log.md` specifies every field and
//! is tested against these types.

mod id;
mod kind;
mod moment;
mod names;

use std::{net::IpAddr, sync::Arc};

use bartizan_model::{Caller, ServerName};
use serde::{Deserialize, Serialize};

use crate::{persons::Person, text::Text};

pub use id::{Digest, EventId, InvalidId, InvalidNote, Note, Pseudonym, Sealed};
pub use kind::{Decision, Kind, Outcome, Owasp, Severity};
pub use moment::{Moment, rfc3339};
pub use names::{InvalidReason, Reason, UnknownName};

/// What happened, as told by whoever saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What kind of thing happened.
    pub kind: Kind,
    /// Who did it or for whom it was done, if that is verified. The log keeps a pseudonym in place of the subject.
    pub caller: Option<Caller>,
    /// The person behind `caller`, where the log was asked already.
    pub person: Option<Arc<Person>>,
    /// The application, where nobody acts through it, or it is known before anybody is.
    pub client: Option<String>,
    /// The network address of whoever asked. The log seals it under the person's key, if there is a person.
    pub address: Option<IpAddr>,
    /// All else that is known. Many fields, and events change hands often.
    pub details: Box<Details>,
}

impl Event {
    /// An event of this kind, with no details.
    pub fn new(kind: Kind) -> Self {
        Self { kind, caller: None, person: None, client: None, address: None, details: Box::default() }
    }

    /// The same, asked for from `address`.
    #[must_use]
    pub fn at(mut self, address: Option<IpAddr>) -> Self {
        self.address = address;
        self
    }

    /// The same, by `caller`.
    #[must_use]
    pub fn by(mut self, caller: &Caller) -> Self {
        self.caller = Some(caller.clone());
        self
    }

    /// The same; `person` is what [`Persons::of`](crate::Persons::of) answered just now for its caller. A call is asked about its caller
    /// several times otherwise, and each time the disk is.
    #[must_use]
    pub fn known_as(mut self, person: Option<Arc<Person>>) -> Self {
        self.person = person;
        self
    }

    /// The same, of the application `client`.
    #[must_use]
    pub fn of_client(mut self, client: Option<&str>) -> Self {
        self.client = client.map(str::to_owned);
        self
    }

    /// The same, with these details.
    #[must_use]
    pub fn with(mut self, details: Details) -> Self {
        *self.details = details;
        self
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Entry {
    /// The number of this entry, from 0; the leaf index in the Merkle tree.
    pub seq: u64,
    /// How many entries the checkpoint before this entry covers: every value that occurs here must have its
    /// checkpoint, so none can be left out unnoticed.
    pub base: u64,
    /// The identity of this event, unique among all logs. Exports may deliver it twice; it tells.
    pub id: EventId,
    /// When it happened, UTC, to the millisecond, by the clock of the machine; order is told by `seq`.
    #[cfg_attr(test, schemars(with = "String"))]
    pub time: Moment,
    /// What kind of thing happened (below).
    pub kind: Kind,
    /// Who did it: a pseudonym, resolved through the folder of people until the person is erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<Pseudonym>,
    /// The application through which the person acted, as its identity provider or registration names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Text>,
    /// The network address the person's request came from, sealed under the person's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Sealed>,
    /// The network address of somebody unknown, whom no key protects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stranger_address: Option<Text>,
    /// The rest.
    #[serde(flatten)]
    pub details: Box<Details>,
}

/// What an event may tell beside its kind and caller. Nothing here is required.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Details {
    /// The call this belongs to: the `id` of its `call.opened`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<EventId>,
    /// Of words of a process that had several calls under way: the newest of them, at most eight, to any of which they may belong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<EventId>,
    /// The server concerned, by the operator's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub server: Option<ServerName>,
    /// The MCP method, as read from the body, never from a header (spec.md A-39).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    /// The tool or prompt, as read from the body; of a task, the tool whose call made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<Text>,
    /// The resource's URI, without its query: of a token, what it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Text>,
    /// What a client asks for, was granted, or may do with a token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Text>,
    /// What a token stands on: all that came of one consent, and ends together, has the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<Text>,
    /// Where a client has its answer sent, without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<Text>,
    /// The protocol revision the caller speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Text>,
    /// The session, digested under the person's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Digest>,
    /// The W3C trace this belongs to: 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Text>,
    /// The call's span in that trace, as the upstream is told: 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<Text>,
    /// The `traceparent` that the caller sent: a trace of his own, which the call's is linked with and no part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_trace: Option<Text>,
    /// What was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Why: a stable code such as `policy.denied`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The risks of the OWASP MCP Top 10 this bears on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owasp: Vec<Owasp>,
    /// The policies that decided; in `policy.changed` those that were added, changed or removed, 200 at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Text>,
    /// The flow labels on the data: what it may be mixed with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Text>,
    /// The attributes that policies read, sealed under the person's key, so that a decision can be replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Sealed>,
    /// HMAC-SHA-256 of the arguments under the person's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments_digest: Option<Digest>,
    /// HMAC-SHA-256 of the result under the person's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_digest: Option<Digest>,
    /// The arguments in clear, redacted by type: only where the operator asks for it, per tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Text>,
    /// The result, or the error in its place, in clear, redacted by type: only where the operator asks for it, per tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Text>,
    /// The arguments, redacted by type and sealed under the person's key: only where the operator asks for it, per tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_arguments: Option<Sealed>,
    /// The result, or the error in its place, redacted by type and sealed under the person's key: only where the operator
    /// asks for it, per tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_result: Option<Sealed>,
    /// Size of the request's body in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Size of the answer's body in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The JSON-RPC error code or HTTP status, if it ended in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// What the shield or a scan found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// What was changed on its way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alterations: Vec<Alteration>,
    /// What a change changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// The child process concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Words: a line of a server's standard error, a log notification, an explanation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Text>,
    /// How many: of entries lost, dropped or recovered, of bytes cut, of policies changed, as the kind says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// In `log.checkpoint`: a signed checkpoint of this log, for `verify --expect` wherever this entry is exported to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Note>,
    /// In `log.rotated`: the calls still open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub open_calls: Vec<EventId>,
}

impl Details {
    /// Whether it holds arguments or a result, in clear or sealed.
    pub(crate) fn has_content(&self) -> bool {
        let Self { arguments, result, sealed_arguments, sealed_result, .. } = self;
        arguments.is_some() || result.is_some() || sealed_arguments.is_some() || sealed_result.is_some()
    }

    /// The same without arguments and result.
    pub(crate) fn without_content(self) -> Self {
        Self { arguments: None, result: None, sealed_arguments: None, sealed_result: None, ..self }
    }
}

/// One thing the shield or a scan found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// The rule that found it.
    pub rule: Text,
    /// How bad it is.
    pub severity: Severity,
    /// Where: `arguments`, `result`, `description` …
    pub place: Text,
    /// What was done: `block`, `redact`, `spotlight`, `note`.
    pub action: Text,
}

/// One kind of change made on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Alteration {
    /// What was done: `redacted`, `neutralised`, `spotlighted`, `named`, `released`.
    pub what: Text,
    /// Where.
    pub place: Text,
    /// How often.
    pub count: u64,
}

/// What a change changed: never contents, only names and digests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change {
    /// What sort of thing: `pin`, `policy`, `config`, `secret` …
    pub entity: Text,
    /// Which one.
    pub name: Text,
    /// Its digest or version before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<Text>,
    /// Its digest or version after.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<Text>,
}

#[cfg(test)]
mod tests;
