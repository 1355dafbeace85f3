//! Sending the log to where a SOC already looks.
//!
//! A [`Format`] turns entries into [`Shipment`]s and judges the answers; a [`Transport`], given from outside, carries
//! them; an [`Exporter`] stands between, with the log itself as its buffer and a cursor beside it. This crate opens no
//! connection.

pub mod cef;
mod exporter;
pub mod ocsf;
mod only;
pub mod otlp;
pub mod sentinel;
pub mod splunk;
pub mod syslog;
pub mod webhook;

use std::{future::Future, pin::Pin, time::Duration};

use bartizan_model::{Secret, Timestamp};
use serde::Serialize;
use serde_json::Value;

use crate::{
    event::{Entry, EventId, Sealed, Severity},
    persons::{Identity, Person},
    text::Text,
};

pub use exporter::{ExportError, Exporter, Progress, Step};
pub use only::Only;

/// How many characters of arguments or of a result an entry may hold, at most.
pub const LONGEST_CONTENT: usize = 1 << 16;

/// An entry with what an export may add to it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The entry.
    pub entry: Entry,
    /// Its line in the log: what a proof proves.
    pub line: String,
    /// Who the pseudonym is, unless the person is erased.
    pub identity: Option<Identity>,
    /// The network address the request came from, unless the person is erased.
    pub address: Option<String>,
    /// What was said in the call, where it is recorded and may be told.
    pub content: Content,
}

/// Arguments and result of a call as they were recorded: redacted and shortened, and JSON no longer where something was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Of its `call.opened`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Text>,
    /// Of its `call.closed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Text>,
}

impl Content {
    /// Whether nothing of it is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Record {
    /// An entry and its line, with what is known of the person in it, and without arguments and results: where an entry has
    /// some, they are in no part of the record, and its line is no longer the one that a proof proves.
    pub fn new(entry: Entry, line: String, person: Option<&Person>) -> Self {
        if !entry.details.has_content() {
            return Self::with_content(entry, line, person);
        }
        let entry = Entry { details: Box::new(entry.details.as_ref().clone().without_content()), ..entry };
        // An entry is a plain structure, which always serialises.
        let line = serde_json::to_string(&entry).unwrap_or_default();
        Self::with_content(entry, line, person)
    }

    /// The same with arguments and results, for whoever the operator lets read them.
    pub fn with_content(entry: Entry, line: String, person: Option<&Person>) -> Self {
        let open = |sealed: &Option<Sealed>| {
            let opened = sealed.as_ref().zip(person).and_then(|(sealed, person)| person.open(sealed));
            opened.and_then(|bytes| String::from_utf8(bytes).ok())
        };
        let address =
            open(&entry.address).or_else(|| entry.stranger_address.as_ref().map(ToString::to_string));
        let details = &entry.details;
        let words = |clear: &Option<Text>, sealed: &Option<Sealed>| {
            clear.clone().or_else(|| open(sealed).map(|words| Text::limited(&words, LONGEST_CONTENT)))
        };
        let content = Content {
            arguments: words(&details.arguments, &details.sealed_arguments),
            result: words(&details.result, &details.sealed_result),
        };
        Self { entry, line, identity: person.map(|person| person.identity().clone()), address, content }
    }

    /// The entry as JSON, with who the person is, where he was and what was said, which the log keeps under his key.
    pub fn json(&self) -> Value {
        let mut entry = serde_json::to_value(&self.entry).unwrap_or_default();
        if let Some(fields) = entry.as_object_mut() {
            if let Some(identity) = &self.identity {
                fields.insert("identity".to_owned(), serde_json::to_value(identity).unwrap_or_default());
            }
            if let Some(address) = &self.address {
                fields.insert("network_address".to_owned(), Value::from(address.as_str()));
            }
            if !self.content.is_empty() {
                fields.insert("content".to_owned(), serde_json::to_value(&self.content).unwrap_or_default());
            }
        }
        entry
    }

    /// The person's name for readers: the subject, or the pseudonym of somebody erased.
    pub fn person(&self) -> Option<String> {
        let subject = self.identity.as_ref().map(|identity| Text::new(&identity.subject).to_string());
        subject.or_else(|| self.entry.person.map(|pseudonym| format!("person:{pseudonym}")))
    }

    /// Who vouches for the person, and the subject there: unique.
    pub fn person_id(&self) -> Option<String> {
        let id =
            self.identity.as_ref().map(|i| format!("{}:{}", Text::new(&i.issuer), Text::new(&i.subject)));
        id.or_else(|| self.entry.person.map(|pseudonym| pseudonym.to_string()))
    }

    /// Whether things went as whoever asked for them hoped.
    pub fn succeeded(&self) -> bool {
        use crate::event::{Decision, Kind, Outcome};
        let refused = matches!(
            self.entry.kind,
            Kind::SignInFailed
                | Kind::TokenRefused
                | Kind::ClientRefused
                | Kind::AccountRefused
                | Kind::RequestRefused
                | Kind::TokenReplayed
                | Kind::ConsentDenied
                | Kind::ApprovalRejected
        );
        let denied = matches!(self.entry.details.decision, Some(Decision::Deny | Decision::Hold));
        let failed = self.entry.details.outcome.is_some_and(|outcome| outcome != Outcome::Ok);
        !(refused || denied || failed)
    }

    /// What to call this event in a sentence.
    pub fn title(&self) -> String {
        let details = &self.entry.details;
        let about = [
            details.method.as_ref().map(Text::to_string),
            details.tool.as_ref().map(Text::to_string),
            details.server.as_ref().map(|server| format!("at {server}")),
            details.reason.as_ref().map(|reason| format!("({reason})")),
        ];
        let about: Vec<_> = about.into_iter().flatten().collect();
        if about.is_empty() {
            self.entry.kind.to_string()
        } else {
            format!("{}: {}", self.entry.kind, about.join(" "))
        }
    }
}

/// What is exported is said to come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name of this machine or node.
    pub host: String,
    /// The log's origin.
    pub log: String,
}

/// The product's version, in every format.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One thing to be carried.
pub enum Shipment {
    /// An HTTP POST.
    Post {
        /// Where to, without any secret.
        url: String,
        /// Headers beside the authorization.
        headers: Vec<(&'static str, String)>,
        /// What proves that we may.
        authorization: Authorization,
        /// The body.
        body: Vec<u8>,
    },
    /// Bytes for a stream, such as syslog over TLS (RFC 5425).
    Stream(Vec<u8>),
}

/// What proves to a receiver that we may send.
pub enum Authorization {
    /// Nothing, or something in the headers.
    None,
    /// `Authorization: {scheme} {secret}`.
    Secret {
        /// `Bearer`, `Splunk` …
        scheme: &'static str,
        /// The token.
        secret: Secret,
    },
    /// `Authorization: Bearer …` with an access token for this scope, which the transport obtains.
    AccessToken {
        /// The OAuth scope.
        scope: String,
    },
}

/// What a receiver answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The HTTP status; 200 for a stream that took everything.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// At most the first 64 KiB of the body.
    pub body: Vec<u8>,
}

/// The receiver could not be reached, or broke off: nothing is known of what it took.
#[derive(Debug, thiserror::Error)]
#[error("the receiver cannot be reached: {0}")]
pub struct Unreachable(pub String);

/// Carries shipments: TLS verified off loopback, addresses judged, time limited. That is the giver's promise.
pub trait Transport: Send + Sync {
    /// Carries one shipment and waits for the answer.
    fn carry<'a>(
        &'a self,
        shipment: Shipment,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Unreachable>> + Send + 'a>>;
}

/// What an answer means for the events of a shipment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All are taken.
    Delivered,
    /// None is taken, or nobody knows; the same shipment may work later.
    Retry {
        /// Not before, if the receiver said.
        after: Option<Duration>,
    },
    /// Some event in it is at fault: send them apart. One that is alone is given up.
    Split(String),
    /// The events are not wanted and never will be.
    Reject(String),
    /// Our configuration is wrong: nothing will be taken before somebody mends it. Nothing is given up meanwhile.
    Misconfigured(String),
}

/// How a receiver wants entries.
pub trait Format: Send + Sync {
    /// How many events a shipment may hold.
    fn max_events(&self) -> usize;

    /// How many bytes of events a shipment may hold.
    fn max_bytes(&self) -> usize;

    /// One entry as this receiver wants it; `None` for entries it does not want.
    fn encode(&self, record: &Record) -> Option<Vec<u8>>;

    /// Encoded events as one shipment. `first` identifies it: the same events are always the same shipment.
    fn pack(&self, events: &[Vec<u8>], first: EventId, now: Timestamp) -> Shipment;

    /// What the answer means.
    fn judge(&self, answer: &Answer) -> Verdict;
}

/// What an HTTP status means where the receiver's contract says nothing more particular.
fn judge_status(answer: &Answer) -> Verdict {
    let words = || format!("HTTP {}", answer.status);
    match answer.status {
        200..=299 => Verdict::Delivered,
        408 | 425 | 429 | 500..=599 => Verdict::Retry { after: answer.retry_after },
        401 | 403 | 404 | 405 | 407 => Verdict::Misconfigured(words()),
        400 | 413 | 422 => Verdict::Split(words()),
        _ => Verdict::Misconfigured(words()),
    }
}

/// A severity as a number in a receiver's own scale.
const fn scaled(severity: Severity, scale: [u8; 5]) -> u8 {
    let [info, low, medium, high, critical] = scale;
    match severity {
        Severity::Info => info,
        Severity::Low => low,
        Severity::Medium => medium,
        Severity::High => high,
        Severity::Critical => critical,
    }
}

#[cfg(test)]
mod tests;
