//! Calls as spans, made from their closing entries (`trace/v1/trace.proto`; attacks.md §2.9): as durable and as complete as the
//! log itself.

use bartizan_model::Timestamp;
use serde_json::{Value, json};

use super::{Encoding, Otlp, attribute, protobuf};
use crate::{
    event::{EventId, Kind, Outcome},
    export::{Answer, Format, Record, Shipment, Verdict},
};

/// An OTLP/HTTP receiver of traces; its `url` ends in `/v1/traces` by default. It wants closed calls and nothing else.
pub struct OtlpTraces(pub Otlp);

/// `SPAN_KIND_SERVER`
pub const SERVER: u8 = 2;

/// One call, before it is written down.
pub struct Span {
    /// 16 bytes.
    pub trace: Vec<u8>,
    /// 8 bytes.
    pub id: Vec<u8>,
    /// What it was called by.
    pub name: String,
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// By the MCP and GenAI conventions.
    pub attributes: Vec<(&'static str, String)>,
    /// The caller's own trace (16 bytes) and span (8) in it.
    pub link: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether it failed.
    pub is_error: bool,
}

impl Span {
    fn of(record: &Record) -> Option<Self> {
        let (entry, details) = (&record.entry, &record.entry.details);
        if entry.kind != Kind::CallClosed {
            return None;
        }
        let bytes = |text: &str, length| hex::decode(text).ok().filter(|bytes| bytes.len() == length);
        // A call that never left has no trace with anybody; its own identity is one.
        let call = details.call.unwrap_or(entry.id).to_string();
        let trace =
            details.trace.as_ref().and_then(|t| bytes(t.as_str(), 16)).or_else(|| bytes(&call, 16))?;
        let own = details.span.as_ref().and_then(|span| bytes(span.as_str(), 8));
        let id = own.or_else(|| Some(bytes(&call, 16)?.split_off(8)))?;
        let link = details.caller_trace.as_ref().and_then(|parent| {
            let mut parts = parent.as_str().split('-').skip(1);
            Some((bytes(parts.next()?, 16)?, bytes(parts.next()?, 8)?))
        });
        let method = details.method.as_ref().map_or("unknown", |method| method.as_str());
        let tool = details.tool.as_ref().map(|tool| format!(" {tool}")).unwrap_or_default();
        let outcome = details.outcome.unwrap_or(Outcome::Ok);
        let error = match (outcome, details.code) {
            (Outcome::Ok, _) => None,
            (_, Some(code)) => Some(code.to_string()),
            (outcome, None) => Some(outcome.to_string()),
        };
        let attributes = [
            ("mcp.method.name", details.method.as_ref().map(ToString::to_string)),
            ("gen_ai.operation.name", (method == "tools/call").then(|| "execute_tool".to_owned())),
            ("gen_ai.tool.name", details.tool.as_ref().map(ToString::to_string)),
            ("gen_ai.tool.call.result", record.content.result.as_ref().map(ToString::to_string)),
            ("mcp.resource.uri", details.resource.as_ref().map(ToString::to_string)),
            ("error.type", error),
            ("rpc.response.status_code", details.code.map(|code| code.to_string())),
            ("bartizan.server", details.server.as_ref().map(ToString::to_string)),
            ("bartizan.call", Some(call)),
        ];
        let end = entry.time.as_unix_millis().saturating_mul(1_000_000);
        let took = details.duration_us.unwrap_or_default().saturating_mul(1000);
        Some(Self {
            trace,
            id,
            name: format!("{method}{tool}"),
            start: end.saturating_sub(took),
            end,
            attributes: attributes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            link,
            is_error: outcome != Outcome::Ok,
        })
    }

    fn json(&self) -> Value {
        let attributes: Vec<_> = self.attributes.iter().map(|(key, value)| attribute(key, value)).collect();
        let links: Vec<_> = self
            .link
            .iter()
            .map(|(trace, span)| json!({ "traceId": hex::encode(trace), "spanId": hex::encode(span) }))
            .collect();
        json!({
            "traceId": hex::encode(&self.trace),
            "spanId": hex::encode(&self.id),
            "name": self.name,
            "kind": SERVER,
            "startTimeUnixNano": self.start.to_string(),
            "endTimeUnixNano": self.end.to_string(),
            "attributes": attributes,
            "links": links,
            "status": if self.is_error { json!({ "code": 2 }) } else { json!({}) },
        })
    }
}

impl Format for OtlpTraces {
    fn max_events(&self) -> usize {
        self.0.max_events()
    }

    fn max_bytes(&self) -> usize {
        self.0.max_bytes()
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        let span = Span::of(record)?;
        match self.0.encoding {
            Encoding::Protobuf => Some(protobuf::span(&span)),
            Encoding::Json => serde_json::to_vec(&span.json()).ok(),
        }
    }

    fn pack(&self, events: &[Vec<u8>], _first: EventId, _now: Timestamp) -> Shipment {
        // The messages around spans have the shape and the numbers of those around log records.
        self.0.ship(events, ["resourceSpans", "scopeSpans", "spans"])
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        self.0.judge_by(answer, "rejectedSpans")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Details, Kind},
        export::tests::{denied, otlp},
    };

    fn closed() -> Record {
        let mut record = denied();
        record.entry.kind = Kind::CallClosed;
        *record.entry.details = Details {
            call: Some(record.entry.id),
            outcome: Some(Outcome::ToolError),
            duration_us: Some(1_500),
            span: Some("b7ad6b7169203331".into()),
            caller_trace: Some("00-11111111111111111111111111111111-2222222222222222-01".into()),
            decision: None,
            reason: None,
            ..record.entry.details.as_ref().clone()
        };
        record
    }

    /// The bytes were read with the official Python types (`opentelemetry.proto.collector.trace.v1`), said what they should,
    /// and were written by them again to the same bytes.
    #[test]
    fn spans_in_protobuf_are_what_the_official_types_write() {
        let traces = OtlpTraces(otlp(Encoding::Protobuf));
        let spans = [traces.encode(&closed()).unwrap()];
        let request = protobuf::request(&traces.0.resource("0.1.0"), "0.1.0", &spans);
        assert_eq!(hex::encode(request), include_str!("span.hex").trim_end());
    }

    #[test]
    fn a_call_is_a_span_of_its_own_trace_and_linked_with_its_callers() {
        let traces = OtlpTraces(otlp(Encoding::Json));
        let span: Value = serde_json::from_slice(&traces.encode(&closed()).unwrap()).unwrap();
        assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            (&span["spanId"], &span["name"]),
            (&json!("b7ad6b7169203331"), &json!("tools/call read_file"))
        );
        assert_eq!(span["links"][0]["traceId"], "1".repeat(32));
        assert_eq!(
            (&span["startTimeUnixNano"], &span["endTimeUnixNano"]),
            (&json!("1760000000040500000"), &json!("1760000000042000000"))
        );
        assert_eq!(span["status"]["code"], 2);
        assert!(traces.encode(&denied()).is_none(), "only closed calls are spans");
        let mut unsent = closed();
        (unsent.entry.details.trace, unsent.entry.details.span) = (None, None);
        let span: Value = serde_json::from_slice(&traces.encode(&unsent).unwrap()).unwrap();
        assert_eq!(span["traceId"], unsent.entry.id.to_string());
        let partial = Answer {
            status: 200,
            body: br#"{"partialSuccess":{"rejectedSpans":"2"}}"#.to_vec(),
            ..Answer::default()
        };
        assert!(matches!(traces.judge(&partial), Verdict::Reject(_)));
    }
}
