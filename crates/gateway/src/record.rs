//! Evidence before the act: what the audit log is told, and when (spec.md A-39, G-04; attacks.md PH-17).
//!
//! A call is opened in the log before its server hears of it, and closed before its caller is answered; both are durable by
//! then. If either cannot be written, the call is not made, or its answer not given.

pub mod content;
mod faults;
mod identity;
mod voice;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bartizan_audit::{
    Details, Event, Kind, Log, Lost, Opened, Person, Receipt, Text,
    event::{Alteration, Change, Decision, Digest, Finding, Outcome, Reason, Sealed, Severity},
};
use bartizan_mcp::{
    Era, Message, Refusal, code,
    json::{Value, quote},
};
use bartizan_model::{Caller, Clock, ServerName};
use bartizan_shield::{Judged, Verdict};
use bartizan_store::{approvals::Approval, pins, quarantine::Item};

use crate::{
    Asker,
    call::{Call, Trace, answers_to_server},
    permit::Permitted,
    server::Server,
    upstream::Failure,
};

pub use content::{ContentRule, ContentRules, Glob, Pointer, Told, tool_called};
pub use identity::IdentityLedger;
pub use voice::{Answer, Unasked, Voice};

use voice::Cap;

/// Refusals of one kind that are recorded in one second; the rest are counted with the next one. Whoever is turned away
/// must not be able to fill the disk.
const REFUSALS_A_SECOND: u64 = 20;

/// Characters of a name in the program's own log.
const LONGEST_SHOWN: usize = 128;

/// Writes what happens into the audit log.
pub struct Recorder {
    log: Log,
    clock: Arc<dyn Clock>,
    strangers: Cap,
    hurried: Cap,
    stopped: Cap,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// In one word.
    pub outcome: Outcome,
    /// The JSON-RPC error code, if it ended in an error.
    pub code: Option<i64>,
    /// What the shield found in the answer.
    pub findings: Vec<Finding>,
    /// What was changed on the way.
    pub alterations: Vec<Alteration>,
    /// Our trace, as the server was told.
    pub trace: Option<Trace>,
    /// The `traceparent` that the caller sent.
    pub caller_trace: Option<Text>,
}

impl Default for Ending {
    fn default() -> Self {
        let (findings, alterations) = (Vec::new(), Vec::new());
        Self { outcome: Outcome::Ok, code: None, findings, alterations, trace: None, caller_trace: None }
    }
}

/// A request, as it is recorded.
pub struct Asked<'m> {
    /// The era it is of.
    pub era: Era,
    /// What it says.
    pub message: &'m Message,
    /// The tool or prompt that it is about, as its client calls it.
    pub tool: Option<Text>,
}

impl Recorder {
    /// Writes to `log`.
    pub fn new(log: Log, clock: Arc<dyn Clock>) -> Self {
        Self { log, clock, strangers: Cap::default(), hurried: Cap::default(), stopped: Cap::default() }
    }

    fn second(&self) -> u64 {
        self.clock.now().as_unix()
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Opens a call, of whose arguments `told` is to be recorded: durable when this returns.
    ///
    /// # Errors
    /// The refusal of a call that cannot be recorded, and is therefore not made.
    pub async fn open(
        &self,
        asker: &Asker,
        server: &Server,
        asked: &Asked<'_>,
        permitted: &Permitted,
        told: Option<Told>,
    ) -> Result<Opened, Refusal> {
        // Without one the log cannot record it, and says so.
        let person = self.log.persons().of(&asker.caller).ok();
        let known = person.as_deref();
        let (arguments, sealed_arguments) = self.content(known, told);
        let policies = permitted.policies().iter().map(|id| Text::new(id)).collect();
        let details = Details {
            decision: Some(Decision::Permit),
            policies,
            labels: permitted.labels().iter().map(|label| Text::new(label)).collect(),
            arguments,
            sealed_arguments,
            attributes: permitted
                .attributes()
                .zip(known)
                .and_then(|(json, k)| self.log.seal(k, json.as_bytes())),
            ..self.about(known, server.name(), asked)
        };
        let event = Event::new(Kind::CallOpened).by(&asker.caller).known_as(person);
        let event = event.at(asker.address).with(details);
        let opened = self.log.open(event).await.map_err(|lost| unrecorded(&lost))?;
        // In the stateless era answers to a server's questions come with the call that is made again.
        for (_, answer) in answers_to_server(asked.message).into_iter().flatten() {
            let action = Value::of(answer).get("action").and_then(Value::as_str);
            let answer = Answer { action: action.as_deref(), ..Answer::default() };
            server.voice().answered(asker, Some(opened.id()), &answer, true);
        }
        Ok(opened)
    }

    /// Closes a call of which nothing was sent, and answers the refusal its caller gets: durable when this returns.
    pub async fn unsent(&self, opened: Opened, refusal: Refusal) -> Refusal {
        let details = Details {
            outcome: Some(Outcome::NotSent),
            reason: reason_of(&refusal),
            code: Some(i64::from(refusal.code)),
            message: Some(Text::new(&refusal.message)),
            ..Details::default()
        };
        match self.log.close(opened, details).await {
            Ok(_) => refusal,
            Err(lost) => Refusal { status: refusal.status, ..unrecorded(&lost) },
        }
    }

    /// What a request is about, contents as digests under the person's key.
    fn about(&self, person: Option<&Person>, server: &ServerName, asked: &Asked<'_>) -> Details {
        let Asked { era, message, tool } = asked;
        let text = |name| message.param(name).and_then(Value::as_str);
        let method = message.method();
        let arguments = message.param("arguments");
        Details {
            server: Some(server.clone()),
            method: Some(Text::new(&method)),
            tool: tool.clone(),
            resource: text("uri").map(|uri| Text::new(uri.split('?').next().unwrap_or_default())),
            protocol: Some(Text::new(if *era == Era::Modern { "2026-07-28" } else { "legacy" })),
            request_bytes: Some(message.text().len() as u64),
            arguments_digest: arguments.zip(person).map(|(a, person)| person.digest(a.text().as_bytes())),
            ..Details::default()
        }
    }

    /// What is recorded of what was told in a call of `person`: in clear, or sealed.
    fn content(&self, person: Option<&Person>, told: Option<Told>) -> (Option<Text>, Option<Sealed>) {
        match told {
            Some(Told { words, is_clear: true, .. }) => (Some(words), None),
            Some(told) => (None, person.and_then(|p| self.log.seal(p, told.words.as_str().as_bytes()))),
            None => (None, None),
        }
    }

    /// Records that a caller's request went no further. What was refused does not wait for the disk to be refused.
    pub fn refused(&self, asker: &Asker, server: &Server, asked: &Asked<'_>, refusal: &Refusal) {
        let is_hurried = refusal.code == code::LIMIT && refusal.retry_after_s.is_some();
        let more = if is_hurried { self.hurried.admit(self.second(), REFUSALS_A_SECOND) } else { Some(0) };
        let Some(more) = more else { return };
        let person = self.log.persons().of(&asker.caller).ok();
        let about = self.about(person.as_deref(), server.name(), asked);
        tell_denied(person.as_deref(), &asker.caller, &about, refusal);
        let details = Details {
            decision: Some(Decision::Deny),
            reason: reason_of(refusal),
            policies: policies_of(refusal),
            code: Some(i64::from(refusal.code)),
            message: Some(Text::new(&refusal.message)),
            count: (more > 0).then_some(more),
            ..about
        };
        // A call that waits for a person is not over.
        let waits = details
            .reason
            .as_ref()
            .is_some_and(|r| matches!(r.to_string().as_str(), "policy.approval" | "shield.approval"));
        let kind = if waits { Kind::ApprovalRequested } else { Kind::RequestRefused };
        let event = Event::new(kind).by(&asker.caller).known_as(person).at(asker.address);
        self.log.mention(event.with(details));
    }

    /// Records that a call was made by a person's approval, and whose.
    pub fn redeemed(&self, asker: &Asker, server: &Server, approval: &Approval) {
        let by = approval.decided_by.as_deref().unwrap_or_default();
        self.log.mention(Event::new(Kind::ApprovalGranted).by(&asker.caller).with(Details {
            server: Some(server.name().clone()),
            tool: Some(Text::new(&approval.binding.tool)),
            decision: Some(Decision::Permit),
            message: Some(Text::new(&format!("request {} was approved by {by}", approval.id))),
            ..Details::default()
        }));
    }

    /// Records that `by` decides about a request: before it is done.
    ///
    /// # Errors
    /// [`Lost`]; nothing may be done then.
    pub async fn decides(&self, by: &Caller, approval: &Approval, is_approved: bool) -> Result<(), Lost> {
        let kind = if is_approved { Kind::ApprovalGranted } else { Kind::ApprovalRejected };
        let event = Event::new(kind).by(by).with(Details {
            server: Some(approval.binding.server.clone()),
            tool: Some(Text::new(&approval.binding.tool)),
            decision: Some(if is_approved { Decision::Permit } else { Decision::Deny }),
            message: Some(Text::new(&format!(
                "decided about request {} for `{}`",
                approval.id, approval.role
            ))),
            ..Details::default()
        });
        self.log.note(event).await.map(drop)
    }

    /// Records that `by` releases or discards a withheld result on a page: before it is done.
    ///
    /// # Errors
    /// [`Lost`]; nothing may be done then.
    pub async fn ruled(&self, by: &Caller, item: &Item, is_released: bool) -> Result<(), Lost> {
        let (kind, verb, decision) = match is_released {
            true => (Kind::ApprovalGranted, "released", Decision::Permit),
            false => (Kind::ApprovalRejected, "discarded", Decision::Deny),
        };
        let event = Event::new(kind).by(by).with(Details {
            server: Some(item.binding.server.clone()),
            tool: Some(Text::new(&item.name)),
            method: Some(Text::new(&item.method)),
            decision: Some(decision),
            message: Some(Text::new(&format!("{verb} the withheld result {}: {}", item.id, item.found))),
            ..Details::default()
        });
        self.log.note(event).await.map(drop)
    }

    /// Records that a person forgets what has entered his window at `client`: before it is done.
    ///
    /// # Errors
    /// [`Lost`]; nothing may be done then.
    pub async fn forgot(&self, person: &Caller, labels: &str) -> Result<(), Lost> {
        let event = Event::new(Kind::Responded).by(person).with(Details {
            decision: Some(Decision::Permit),
            change: Some(Change {
                entity: Text::new("flow"),
                name: Text::new(&format!("their own via {}", person.client())),
                from: Some(Text::new(labels)),
                to: Some(Text::new("reset")),
            }),
            message: Some(Text::new("on their account page")),
            ..Details::default()
        });
        self.log.note(event).await.map(drop)
    }

    /// Records that something else than a request was kept from going on: a server's question on its way to the client, or
    /// what a client told a server.
    pub fn stopped(&self, caller: &Caller, server: &ServerName, method: &str, refusal: &Refusal) {
        let Some(more) = self.stopped.admit(self.second(), REFUSALS_A_SECOND) else { return };
        let (server, method) = (Some(server.clone()), Some(Text::new(method)));
        let about = Details { server, method, ..Details::default() };
        tell_denied(self.log.persons().of(caller).ok().as_deref(), caller, &about, refusal);
        self.log.mention(Event::new(Kind::RequestRefused).by(caller).with(Details {
            decision: Some(Decision::Deny),
            reason: reason_of(refusal),
            policies: policies_of(refusal),
            message: Some(Text::new(&refusal.message)),
            count: (more > 0).then_some(more),
            ..about
        }));
    }

    /// Records that somebody unknown was turned away.
    pub fn stranger(&self, refusal: &Refusal, address: Option<IpAddr>) {
        let Some(more) = self.strangers.admit(self.second(), REFUSALS_A_SECOND) else { return };
        let details = Details {
            decision: Some(Decision::Deny),
            reason: reason_of(refusal)
                .filter(|_| refusal.data.is_some())
                .or_else(|| reason("identity.unauthenticated")),
            code: Some(i64::from(refusal.code)),
            count: (more > 0).then_some(more),
            ..Details::default()
        };
        self.log.mention(Event::new(Kind::SignInFailed).at(address).with(details));
    }

    /// Records that somebody whose access is revoked was turned away.
    pub fn turned_away(&self, asker: &Asker, refusal: &Refusal) {
        let Some(more) = self.strangers.admit(self.second(), REFUSALS_A_SECOND) else { return };
        let details = Details {
            decision: Some(Decision::Deny),
            reason: reason_of(refusal),
            code: Some(i64::from(refusal.code)),
            count: (more > 0).then_some(more),
            ..Details::default()
        };
        self.log.mention(Event::new(Kind::RequestRefused).by(&asker.caller).at(asker.address).with(details));
    }

    /// Records news of the pins.
    pub fn pins(&self, key: &pins::Key, news: pins::Event, held: Option<pins::Reason>) {
        use pins::Event as News;
        let kind = match news {
            News::Changed
            | News::Flapping
            | News::Reverted
            | News::Withdrawn
            | News::Tampered
            | News::Returned => Kind::PinDrifted,
            News::Approved | News::Released => Kind::ApprovalGranted,
            News::Rejected => Kind::ApprovalRejected,
            News::RolledBack => Kind::PinRolledBack,
            News::FirstSeen | News::Imported => Kind::PinRecorded,
        };
        let change = Change {
            entity: Text::new(key.kind.as_str()),
            name: Text::new(&key.name),
            from: None,
            to: Some(Text::new(news.as_str())),
        };
        self.log.mention(Event::new(kind).with(Details {
            server: Some(key.server.clone()),
            decision: Some(if held.is_some() { Decision::Hold } else { Decision::Permit }),
            reason: held.and_then(|held| reason(held.code())),
            change: Some(change),
            ..Details::default()
        }));
    }

    /// Records that the configuration was read.
    pub fn configured(&self, by: &Caller, servers: usize) {
        let details = Details { count: Some(servers as u64), ..Details::default() };
        self.log.mention(Event::new(Kind::ConfigChanged).by(by).with(details));
    }

    /// What is known of an answer to a call of `person` that took `took`, of which `told` is to be recorded.
    pub fn answered(
        &self,
        person: Option<&Person>,
        text: &str,
        took: Duration,
        told: Option<Told>,
    ) -> Answered {
        let tool = told.as_ref().and_then(|told| told.tool.clone());
        let (clear, sealed) = self.content(person, told);
        let digest = person.map(|person| person.digest(text.as_bytes()));
        Answered { bytes: text.len() as u64, took, digest, tool, clear, sealed }
    }

    /// Closes a call with the answer its caller will get: durable when this returns.
    ///
    /// # Errors
    /// [`Lost`]: the answer must not be given.
    pub async fn close(log: Log, opened: Opened, ending: Ending, answer: Answered) -> Result<Receipt, Lost> {
        let details = Details {
            outcome: Some(ending.outcome),
            code: ending.code,
            findings: ending.findings,
            alterations: ending.alterations,
            trace: ending.trace.as_ref().map(|trace| Text::new(&trace.id)),
            span: ending.trace.as_ref().map(|trace| Text::new(&trace.span)),
            caller_trace: ending.caller_trace,
            response_bytes: Some(answer.bytes),
            duration_us: u64::try_from(answer.took.as_micros()).ok(),
            result_digest: answer.digest,
            tool: answer.tool,
            result: answer.clear,
            sealed_result: answer.sealed,
            ..Details::default()
        };
        log.close(opened, details).await
    }

    /// Records that a message of `bytes` bytes, of which `told` is to be recorded, was passed on within an open call.
    pub fn passed(&self, opened: &Opened, call: &Call, bytes: usize, told: Option<Told>) {
        let asker = &call.asker;
        let tool = told.as_ref().and_then(|told| told.tool.clone());
        let (result, sealed_result) = self.content(opened.person().map(Arc::as_ref), told);
        let event = Event::new(Kind::CallEvent).by(&asker.caller).known_as(opened.person().cloned());
        self.log.mention(event.at(asker.address).with(Details {
            call: Some(opened.id()),
            server: Some(call.server.name().clone()),
            method: Some(Text::new(&call.method)),
            tool,
            response_bytes: Some(bytes as u64),
            result,
            sealed_result,
            ..Details::default()
        }));
    }
}

/// What is known of an answer when its call is closed.
pub struct Answered {
    bytes: u64,
    took: Duration,
    digest: Option<Digest>,
    /// The tool it is of, where the request does not name it.
    tool: Option<Text>,
    clear: Option<Text>,
    sealed: Option<Sealed>,
}

impl Ending {
    /// A call that got no answer.
    pub fn failed(&mut self, failure: &Failure) {
        self.outcome = match failure {
            Failure::Withheld { .. } | Failure::Question { .. } => Outcome::Withheld,
            Failure::Timeout(_) => Outcome::TimedOut,
            Failure::Unreachable(_) | Failure::Lost(_) | Failure::SessionGone => Outcome::Unreachable,
            Failure::Protocol(_)
            | Failure::Unauthorized(_)
            | Failure::NoCredential
            | Failure::NeedsLinking(_)
            | Failure::NotForCaller(_)
            | Failure::StepUp(_)
            | Failure::Status(_)
            | Failure::Limit(_) => Outcome::Error,
        };
    }

    /// A call that was answered by `message`.
    pub fn answered(&mut self, message: &Message) {
        self.code = message.error_code();
        self.outcome = if self.code.is_some() {
            Outcome::Error
        } else if message.field("isError").and_then(Value::as_bool) == Some(true) {
            Outcome::ToolError
        } else {
            Outcome::Ok
        };
    }

    /// What the shield found, and did about it.
    pub fn found(&mut self, verdict: &Verdict) {
        self.findings.extend(verdict.findings.iter().map(finding));
    }

    /// A structured result was not what its tool promised.
    pub fn broke_promise(&mut self) {
        self.findings.push(Finding {
            rule: Text::new("schema.result"),
            severity: Severity::High,
            place: Text::new("/structuredContent"),
            action: Text::new("block"),
        });
    }

    /// The text of a result is not what its structure says.
    pub fn contradicted_itself(&mut self) {
        self.findings.push(Finding {
            rule: Text::new("schema.copy"),
            severity: Severity::Low,
            place: Text::new("/content"),
            action: Text::new("allow"),
        });
    }

    /// Something was changed on the way.
    pub fn altered(&mut self, what: &str) {
        self.alterations.push(Alteration { what: Text::new(what), place: Text::new("result"), count: 1 });
    }

    /// What is asked of people was given its server's name.
    pub fn named(&mut self) {
        self.alterations.push(named());
    }
}

fn named() -> Alteration {
    Alteration { what: Text::new("named"), place: Text::new("question"), count: 1 }
}

fn finding(judged: &Judged) -> Finding {
    let found = &judged.finding;
    Finding {
        rule: Text::new(&found.rule),
        severity: match found.severity {
            bartizan_shield::Severity::Low => Severity::Low,
            bartizan_shield::Severity::Medium => Severity::Medium,
            bartizan_shield::Severity::High => Severity::High,
            bartizan_shield::Severity::Critical => Severity::Critical,
        },
        place: Text::new(found.places.first().map_or("", |place| place.at.as_str())),
        action: Text::new(match judged.decision {
            bartizan_shield::Decision::Client(action) => action.as_str(),
            bartizan_shield::Decision::Server(action) => action.as_str(),
        }),
    }
}

/// The answer in the place of one that could not be recorded.
pub fn unrecorded(lost: &Lost) -> Refusal {
    tracing::error!(%lost, "the audit log cannot be written");
    Refusal::new(503, code::LIMIT, "the call cannot be recorded, so it is not carried out; try again later")
        .with_data(r#"{"source":"bartizan","reason":"audit.unavailable"}"#)
}

/// Tells the operator who was denied what by which policies. People go by their pseudonyms, for nobody can be erased from a log that
/// others keep, and what was asked with is left out.
fn tell_denied(person: Option<&Person>, caller: &Caller, about: &Details, refusal: &Refusal) {
    let Some(policies) = refusal.policies() else { return };
    // Quoted, so that no name looks like another field.
    let shown = |text: &str| quote(Text::limited(text, LONGEST_SHOWN).as_str());
    tracing::warn!(
        server = about.server.as_ref().map(tracing::field::display),
        method = about.method.as_ref().map(|method| tracing::field::display(shown(method.as_str()))),
        tool = about.tool.as_ref().map(|tool| tracing::field::display(shown(tool.as_str()))),
        person = person.map(|person| tracing::field::display(person.pseudonym())),
        client = %shown(caller.client()),
        reason = reason_of(refusal).map(tracing::field::display),
        policies = %policies.join(" "),
        "denied"
    );
}

fn policies_of(refusal: &Refusal) -> Vec<Text> {
    refusal.policies().unwrap_or_default().iter().map(|id| Text::new(id)).collect()
}

/// The stable word that a refusal carries in its data, or one made of its code.
fn reason_of(refusal: &Refusal) -> Option<Reason> {
    let word = refusal.data.as_deref().map(Value::of).and_then(|d| d.get("reason")).and_then(Value::as_str);
    let word =
        word.map_or_else(|| format!("jsonrpc.{}", refusal.code.unsigned_abs()), |word| word.into_owned());
    reason(&word)
}

fn reason(word: &str) -> Option<Reason> {
    word.parse().ok()
}
