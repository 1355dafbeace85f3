//! OpenTelemetry logs over OTLP/HTTP, as binary protobuf or JSON (opentelemetry-proto v1, `logs/v1/logs.proto`; OTLP
//! specification, "OTLP/HTTP").

mod protobuf;
mod traces;

pub use traces::OtlpTraces;

use bartizan_model::{Secret, Timestamp};
use serde_json::{Value, json};

use super::{Answer, Authorization, Format, Record, Shipment, Source, VERSION, Verdict, scaled};
use crate::event::EventId;

/// An OTLP/HTTP receiver of logs.
pub struct Otlp {
    /// Where to; ends in `/v1/logs` by default.
    pub url: String,
    /// The bearer token, if the receiver wants one.
    pub token: Option<Secret>,
    /// Which of the two encodings.
    pub encoding: Encoding,
    /// Where the events are from.
    pub source: Source,
}

/// How log records are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`, which every receiver takes.
    Protobuf,
    /// `application/json`.
    Json,
}

/// One entry, before it is written down: by the MCP and GenAI conventions where they have a name (attacks.md §2.9).
struct LogRecord {
    nanos: u64,
    severity: u8,
    severity_text: &'static str,
    event_name: String,
    body: String,
    attributes: Vec<(&'static str, String)>,
    /// 16 bytes.
    trace: Option<Vec<u8>>,
}

impl LogRecord {
    fn of(record: &Record) -> Self {
        let entry = &record.entry;
        let details = &entry.details;
        let optional = [
            ("enduser.id", record.person_id()),
            ("client.address", record.address.clone()),
            ("bartizan.client", entry.client.as_ref().map(ToString::to_string)),
            ("bartizan.server", details.server.as_ref().map(ToString::to_string)),
            ("mcp.method.name", details.method.as_ref().map(ToString::to_string)),
            ("gen_ai.tool.name", details.tool.as_ref().map(ToString::to_string)),
            ("gen_ai.tool.call.arguments", record.content.arguments.as_ref().map(ToString::to_string)),
            ("gen_ai.tool.call.result", record.content.result.as_ref().map(ToString::to_string)),
            ("mcp.resource.uri", details.resource.as_ref().map(ToString::to_string)),
            ("mcp.protocol.version", details.protocol.as_ref().map(ToString::to_string)),
            ("bartizan.decision", details.decision.as_ref().map(ToString::to_string)),
            ("bartizan.reason", details.reason.as_ref().map(ToString::to_string)),
            ("bartizan.outcome", details.outcome.as_ref().map(ToString::to_string)),
            ("bartizan.call", details.call.as_ref().map(ToString::to_string)),
            ("rpc.response.status_code", details.code.as_ref().map(ToString::to_string)),
        ];
        let always = [("bartizan.event.id", entry.id.to_string()), ("bartizan.seq", entry.seq.to_string())];
        let known = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let trace = details.trace.as_ref().and_then(|trace| hex::decode(trace.as_str()).ok());
        Self {
            nanos: entry.time.as_unix_millis().saturating_mul(1_000_000),
            severity: scaled(entry.severity(), [9, 10, 13, 17, 21]),
            severity_text: entry.severity().as_str(),
            event_name: format!("bartizan.{}", entry.kind),
            body: record.title(),
            attributes: always.into_iter().chain(known).collect(),
            trace: trace.filter(|trace| trace.len() == 16),
        }
    }

    fn json(&self) -> Value {
        let attributes: Vec<_> = self.attributes.iter().map(|(key, value)| attribute(key, value)).collect();
        let mut out = json!({
            // 64-bit numbers are strings in protobuf's JSON.
            "timeUnixNano": self.nanos.to_string(),
            "observedTimeUnixNano": self.nanos.to_string(),
            "severityNumber": self.severity,
            "severityText": self.severity_text,
            "eventName": self.event_name,
            "body": { "stringValue": self.body },
            "attributes": attributes,
        });
        if let (Some(trace), Some(fields)) = (&self.trace, out.as_object_mut()) {
            // OTLP's JSON writes ids in hexadecimal, where protobuf's would be Base64.
            fields.insert("traceId".to_owned(), json!(hex::encode(trace)));
        }
        out
    }
}

impl Otlp {
    fn resource(&self, version: &str) -> [(&'static str, String); 4] {
        [
            ("service.name", "bartizan".to_owned()),
            ("service.version", version.to_owned()),
            ("host.name", self.source.host.clone()),
            ("bartizan.log.origin", self.source.log.clone()),
        ]
    }
}

/// What our instrumentation scope is called.
const SCOPE: &str = "bartizan.audit";

impl Format for Otlp {
    fn max_events(&self) -> usize {
        500
    }

    fn max_bytes(&self) -> usize {
        1 << 20
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        let record = LogRecord::of(record);
        match self.encoding {
            Encoding::Protobuf => Some(protobuf::log_record(&record)),
            Encoding::Json => serde_json::to_vec(&record.json()).ok(),
        }
    }

    fn pack(&self, events: &[Vec<u8>], _first: EventId, _now: Timestamp) -> Shipment {
        self.ship(events, ["resourceLogs", "scopeLogs", "logRecords"])
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        self.judge_by(answer, "rejectedLogRecords")
    }
}

impl Otlp {
    /// `members` are what JSON calls the messages around `events`; protobuf numbers them alike for every signal.
    fn ship(&self, events: &[Vec<u8>], members: [&str; 3]) -> Shipment {
        let (kind, body) = match self.encoding {
            Encoding::Protobuf => {
                ("application/x-protobuf", protobuf::request(&self.resource(VERSION), VERSION, events))
            }
            Encoding::Json => ("application/json", self.json_request(events, members)),
        };
        let authorization = match &self.token {
            Some(secret) => Authorization::Secret { scheme: "Bearer", secret: secret.clone() },
            None => Authorization::None,
        };
        let headers = vec![("content-type", kind.to_owned())];
        Shipment::Post { url: self.url.clone(), headers, authorization, body }
    }

    /// Only 429, 502, 503 and 504 may be retried; a partial success must not be.
    fn judge_by(&self, answer: &Answer, rejected: &str) -> Verdict {
        match answer.status {
            200..=299 => {
                let rejected = match self.encoding {
                    Encoding::Protobuf => protobuf::rejected(&answer.body),
                    Encoding::Json => rejected_in_json(&answer.body, rejected),
                };
                if rejected == 0 {
                    Verdict::Delivered
                } else {
                    Verdict::Reject(format!("OTLP partial success: {rejected} rejected"))
                }
            }
            429 | 502 | 503 | 504 => Verdict::Retry { after: answer.retry_after },
            400 | 413 => Verdict::Split(format!("HTTP {}", answer.status)),
            status => Verdict::Misconfigured(format!("HTTP {status}")),
        }
    }

    fn json_request(&self, events: &[Vec<u8>], [resources, scopes, items]: [&str; 3]) -> Vec<u8> {
        let attributes: Vec<_> =
            self.resource(VERSION).iter().map(|(key, value)| attribute(key, value)).collect();
        let resource = json!({ "attributes": attributes });
        let scope = json!({ "name": SCOPE, "version": VERSION });
        let head =
            format!(r#"{{"{resources}":[{{"resource":{resource},"{scopes}":[{{"scope":{scope},"{items}":["#);
        let mut body = head.into_bytes();
        body.extend(events.join(&b','));
        body.extend_from_slice(b"]}]}]}");
        body
    }
}

/// One entry as a `LogRecord` in JSON.
pub fn log_record(record: &Record) -> Value {
    LogRecord::of(record).json()
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// How many records a JSON answer says were rejected; some writers use a number where protobuf's JSON has a string.
fn rejected_in_json(body: &[u8], rejected: &str) -> u64 {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let rejected = body.get("partialSuccess").and_then(|partial| partial.get(rejected));
    rejected.and_then(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::tests::{denied, otlp};

    /// The bytes were read with the official Python types (`opentelemetry.proto.collector.logs.v1`), said what they
    /// should, and were written by them again to the same bytes.
    #[test]
    fn log_records_in_protobuf_are_what_the_official_types_write() {
        let otlp = otlp(Encoding::Protobuf);
        let records = [otlp.encode(&denied()).unwrap()];
        let request = protobuf::request(&otlp.resource("0.1.0"), "0.1.0", &records);
        assert_eq!(hex::encode(request), include_str!("otlp/denied.hex").trim_end());
    }
}
