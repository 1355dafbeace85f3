//! What a server does and says beside its answers: its processes, their standard error, its log notifications, its questions.
//!
//! None of it waits for the disk, and a server that floods can neither fill the disk nor crowd others out of the log.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bartizan_audit::{
    Details, Event, EventId, Kind, Text,
    event::{Decision, Finding, Outcome, Severity},
};
use bartizan_mcp::{Message, json::Value};
use bartizan_model::ServerName;

use tokio::time::Instant;

use super::{
    Recorder,
    faults::{Fault, Faults, MANY},
    named, reason,
};
use crate::{Asker, naming, upstream::Within};

/// Words of one server that are recorded in one second; the rest are counted with the next one.
const WORDS_A_SECOND: u64 = 50;

/// How many events may be recorded in one second.
#[derive(Default)]
pub struct Cap {
    second: AtomicU64,
    seen: AtomicU64,
    unrecorded: AtomicU64,
}

impl Cap {
    /// Whether one more may be recorded in the second `now`: how many before it were not, or `None` if it may not.
    pub fn admit(&self, now: u64, most: u64) -> Option<u64> {
        if self.second.swap(now, Ordering::Relaxed) != now {
            self.seen.store(0, Ordering::Relaxed);
        }
        if self.seen.fetch_add(1, Ordering::Relaxed) >= most {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.unrecorded.swap(0, Ordering::Relaxed))
    }
}

/// One server's voice.
pub struct Voice {
    recorder: Arc<Recorder>,
    server: ServerName,
    words: Cap,
    faults: Faults,
}

/// Why a question is not put to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// Its process belongs to nobody in particular.
    Shared,
    /// The protocol knows no such question.
    UnknownMethod,
    /// The policy does not let it be put, or the client did not say that it can be asked.
    Policy,
    /// The shield does not let it pass.
    Shield,
    /// Too many wait already.
    Limit,
    /// Servers of the stateless era send no requests (spec.md A-69, C-37).
    Stateless,
}

impl Unasked {
    const fn code(self) -> &'static str {
        match self {
            Self::Shared => "question.shared_process",
            Self::UnknownMethod => "question.unknown_method",
            Self::Policy => "policy.question",
            Self::Shield => "shield_question",
            Self::Limit => "limit",
            Self::Stateless => "question.stateless_era",
        }
    }
}

impl Voice {
    /// What the server `server` says goes to `recorder`.
    pub fn new(recorder: Arc<Recorder>, server: ServerName) -> Self {
        Self { recorder, server, words: Cap::default(), faults: Faults::default() }
    }

    fn mention(&self, kind: Kind, asker: Option<&Asker>, details: Details) {
        let details = Details { server: Some(self.server.clone()), ..details };
        let mut event = Event::new(kind).with(details);
        if let Some(asker) = asker {
            event = event.by(&asker.caller).at(asker.address);
        }
        self.recorder.log.mention(event);
    }

    /// A process of its was started.
    pub fn started(&self, pid: Option<u32>) {
        self.mention(Kind::ChildStarted, None, Details { pid, ..Details::default() });
    }

    /// A process of its ended, for this reason.
    pub fn stopped(&self, pid: Option<u32>, why: &str) {
        self.mention(
            Kind::ChildStopped,
            None,
            Details { pid, message: Some(Text::new(why)), ..Details::default() },
        );
    }

    /// A process of its wrote this line to its standard error, `within` these calls. Secrets are out of it already. Whether it is
    /// recorded: of a flood only so much a second is.
    pub fn stderr(&self, pid: Option<u32>, within: Within, line: &str) -> bool {
        let Within { call, calls } = within;
        let message = Some(Text::new(line));
        self.word(Kind::ServerStderr, None, Details { pid, call, calls, message, ..Details::default() })
    }

    /// It sent the log notification `message`, `within` these calls. The shield has judged it.
    pub fn logged(&self, asker: Option<&Asker>, within: Within, message: &Message) {
        let Within { call, calls } = within;
        let text = |name| message.param(name).and_then(Value::as_str).unwrap_or_default();
        let data = message.param("data").map_or("", Value::text);
        let words = format!("{} {}: {data}", text("level"), text("logger"));
        let message = Some(Text::new(words.trim_start()));
        let details = Details { call, calls, message, ..Details::default() };
        self.word(Kind::ServerLog, asker, details);
    }

    fn word(&self, kind: Kind, asker: Option<&Asker>, details: Details) -> bool {
        let now = self.recorder.clock.now().as_unix();
        let Some(before) = self.words.admit(now, WORDS_A_SECOND) else { return false };
        self.mention(kind, asker, Details { count: (before > 0).then_some(before), ..details });
        true
    }

    /// It asks the client `method`, within `call` if that is known; `refused` if the client does not hear of it.
    pub fn asked(&self, asker: &Asker, call: Option<EventId>, method: &str, refused: Option<Unasked>) {
        let details = Details {
            call,
            method: Some(Text::new(method)),
            decision: Some(if refused.is_some() { Decision::Deny } else { Decision::Permit }),
            reason: refused.and_then(|refused| reason(refused.code())),
            ..Details::default()
        };
        self.mention(Kind::QuestionAsked, Some(asker), details);
    }

    /// A question of a legacy server was put to people, with its server's name.
    pub fn asked_by_name(&self, asker: &Asker, call: Option<EventId>, method: &str) {
        let details = Details {
            call,
            method: Some(Text::new(method)),
            decision: Some(Decision::Permit),
            alterations: if naming::asks_people(method) { vec![named()] } else { Vec::new() },
            ..Details::default()
        };
        self.mention(Kind::QuestionAsked, Some(asker), details);
    }

    /// It answered what it was not asked, or asked what it may not. Answers whether it is faulty now: what is under way there
    /// should end (attacks.md SH-11).
    pub fn faulted(&self, asker: Option<&Asker>) -> bool {
        let Fault::Faulty { is_known } = self.faults.note(Instant::now()) else { return false };
        tracing::warn!(server = %self.server, "the server is faulty: it answers or asks what it may not");
        if !is_known {
            let found = Finding {
                rule: Text::new("protocol.unasked"),
                severity: Severity::High,
                place: Text::new(""),
                action: Text::new("block"),
            };
            let details = Details {
                decision: Some(Decision::Deny),
                reason: reason("server.faulty"),
                count: Some(MANY as u64),
                findings: vec![found],
                message: Some(Text::new("it answered what nobody had asked, or asked what it may not")),
                ..Details::default()
            };
            self.mention(Kind::ShieldFound, asker, details);
        }
        true
    }

    /// The client answered a question. `answer` is the answer itself; `may_pass` whether the server gets it.
    pub fn answered(&self, asker: &Asker, call: Option<EventId>, answer: &Answer<'_>, may_pass: bool) {
        let action = answer.action.filter(|action| matches!(*action, "accept" | "decline" | "cancel"));
        let details = Details {
            call,
            method: answer.method.map(Text::new),
            decision: Some(if may_pass { Decision::Permit } else { Decision::Deny }),
            outcome: Some(if answer.code.is_some() { Outcome::Error } else { Outcome::Ok }),
            reason: action.and_then(|action| reason(&format!("elicitation.{action}"))),
            code: answer.code,
            ..Details::default()
        };
        self.mention(Kind::QuestionAnswered, Some(asker), details);
    }
}

/// What is recorded of an answer to a question: never what it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// What was asked, if that is known.
    pub method: Option<&'a str>,
    /// `action` of an elicitation.
    pub action: Option<&'a str>,
    /// The error code, if the client refused.
    pub code: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_cap_is_counted_with_the_next_that_is_not() {
        let cap = Cap::default();
        assert_eq!(
            [cap.admit(7, 2), cap.admit(7, 2), cap.admit(7, 2), cap.admit(7, 2)],
            [Some(0), Some(0), None, None]
        );
        assert_eq!([cap.admit(8, 2), cap.admit(8, 2)], [Some(2), Some(0)]);
    }
}
