//! Splunk HTTP Event Collector (attacks.md §2.4).

use bartizan_model::{Secret, Timestamp};
use serde_json::{Number, Value, json};

use super::{Answer, Authorization, Format, Record, Shipment, Source, Verdict, judge_status};
use crate::event::{EventId, Moment};

/// A Splunk HEC endpoint.
pub struct Splunk {
    /// `https://host:8088`, without a path.
    pub url: String,
    /// The HEC token.
    pub token: Secret,
    /// The index, if not the token's default.
    pub index: Option<String>,
    /// Where the events are from.
    pub source: Source,
}

impl Format for Splunk {
    fn max_events(&self) -> usize {
        500
    }

    fn max_bytes(&self) -> usize {
        800_000
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        let entry = &record.entry;
        let mut envelope = json!({
            "time": seconds(entry.time),
            "host": self.source.host,
            "source": self.source.log,
            "sourcetype": "mcp:gateway:audit",
            "event": record.json(),
            // Indexed at search time's cheapest: enough to find an event and to drop its repetitions.
            "fields": { "event_id": entry.id, "kind": entry.kind },
        });
        if let (Some(envelope), Some(index)) = (envelope.as_object_mut(), &self.index) {
            envelope.insert("index".to_owned(), json!(index));
        }
        serde_json::to_vec(&envelope).ok()
    }

    fn pack(&self, events: &[Vec<u8>], _first: EventId, _now: Timestamp) -> Shipment {
        Shipment::Post {
            url: format!("{}/services/collector/event", self.url.trim_end_matches('/')),
            headers: vec![("content-type", "application/json".to_owned())],
            authorization: Authorization::Secret { scheme: "Splunk", secret: self.token.clone() },
            // Envelopes one behind the other, no array.
            body: events.concat(),
        }
    }

    /// By the code in the body before the HTTP status.
    fn judge(&self, answer: &Answer) -> Verdict {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let words = |code: u64| format!("Splunk HEC code {code}");
        match body.get("code").and_then(Value::as_u64) {
            Some(0) => Verdict::Delivered,
            Some(8 | 9) => Verdict::Retry { after: answer.retry_after },
            Some(code @ (5 | 6 | 12 | 13 | 15)) => Verdict::Split(words(code)),
            Some(code @ (1..=4 | 7 | 10 | 11 | 14 | 16)) => Verdict::Misconfigured(words(code)),
            // Not HEC's own answer: a proxy's, perhaps. Success is HEC's to tell.
            Some(_) | None => match judge_status(answer) {
                Verdict::Delivered => Verdict::Retry { after: None },
                other => other,
            },
        }
    }
}

/// Seconds with milliseconds, written as they are read: a number of 64 bits is exact to the microsecond until 2255.
fn seconds(at: Moment) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
    let seconds = at.as_unix_millis() as f64 / 1000.0;
    Number::from_f64(seconds).map_or(Value::Null, Value::Number)
}
