//! Syslog: RFC 5424 messages, framed by octet counting for TLS (RFC 5425 §4.3; RFC 6587 §3.4.1). Attacks.md §2.7.

use bartizan_model::Timestamp;

use super::{Answer, Format, Record, Shipment, Source, Verdict, cef, ocsf, scaled};
use crate::event::{EventId, rfc3339};

/// What stands in the message part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The entry as it stands in the log, with the person's name added.
    Json,
    /// A CEF line.
    Cef,
    /// An OCSF event.
    Ocsf,
}

/// Syslog over a stream; the transport gives TLS with client certificates.
pub struct Syslog {
    /// Where the events are from.
    pub source: Source,
    /// What stands in the message part.
    pub body: Body,
    /// The private enterprise number under which our structured data is named; 32473 is the one for examples.
    pub enterprise: u32,
    /// Our process, in each message.
    pub process: u32,
}

/// Facility 13: log audit (RFC 5424 §6.2.1).
const FACILITY: u8 = 13;

/// One entry as an RFC 5424 message.
pub fn message(record: &Record, syslog: &Syslog) -> String {
    let entry = &record.entry;
    let details = &entry.details;
    let priority = FACILITY * 8 + scaled(entry.severity(), [6, 5, 4, 3, 2]);
    let parameters = [
        ("id", Some(entry.id.to_string())),
        ("seq", Some(entry.seq.to_string())),
        ("log", Some(syslog.source.log.clone())),
        ("person", record.person()),
        ("src", record.address.clone()),
        ("client", entry.client.as_ref().map(ToString::to_string)),
        ("server", details.server.as_ref().map(ToString::to_string)),
        ("method", details.method.as_ref().map(ToString::to_string)),
        ("tool", details.tool.as_ref().map(ToString::to_string)),
        ("decision", details.decision.as_ref().map(ToString::to_string)),
        ("reason", details.reason.as_ref().map(ToString::to_string)),
        ("outcome", details.outcome.as_ref().map(ToString::to_string)),
        ("call", details.call.as_ref().map(ToString::to_string)),
    ];
    let data: String = parameters
        .into_iter()
        .filter_map(|(name, value)| Some(format!(" {name}=\"{}\"", escape_value(&value?))))
        .collect();
    let body = match syslog.body {
        Body::Cef => cef::line(record, &syslog.source),
        Body::Json => record.json().to_string(),
        Body::Ocsf => ocsf::event(record, &syslog.source).to_string(),
    };
    format!(
        "<{priority}>1 {} {} bartizan {} {} [mcp@{}{data}] \u{feff}{body}",
        rfc3339::text(entry.time),
        header_field(&syslog.source.host, 255),
        syslog.process,
        header_field(entry.kind.as_str(), 32),
        syslog.enterprise,
    )
}

/// `MSG-LEN SP SYSLOG-MSG` (RFC 5425 §4.3).
pub fn frame(message: &str) -> Vec<u8> {
    format!("{} {message}", message.len()).into_bytes()
}

/// Visible ASCII only, so long and no longer; `-` for nothing (RFC 5424 §6.2).
fn header_field(text: &str, limit: usize) -> String {
    let field: String =
        text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).take(limit).collect();
    if field.is_empty() { "-".to_owned() } else { field }
}

/// `"`, `\` and `]` are escaped (RFC 5424 §6.3.3).
fn escape_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]")
}

impl Format for Syslog {
    fn max_events(&self) -> usize {
        100
    }

    fn max_bytes(&self) -> usize {
        256 << 10
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        Some(frame(&message(record, self)))
    }

    fn pack(&self, events: &[Vec<u8>], _first: EventId, _now: Timestamp) -> Shipment {
        Shipment::Stream(events.concat())
    }

    /// Syslog answers nothing: a stream that took the bytes is all there is to know (RFC 5424 has no
    /// acknowledgement), so what was in flight when a connection broke is sent again.
    fn judge(&self, _answer: &Answer) -> Verdict {
        Verdict::Delivered
    }
}
