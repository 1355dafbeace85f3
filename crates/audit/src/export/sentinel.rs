//! Microsoft Sentinel through the Azure Monitor Logs Ingestion API (attacks.md §2.5).

use bartizan_model::Timestamp;
use serde_json::{Value, json};

use super::{Answer, Authorization, Format, Record, Shipment, Source, Verdict, judge_status};
use crate::event::{EventId, rfc3339};

/// A data collection rule's stream.
pub struct Sentinel {
    /// The logs ingestion endpoint of the rule or of its data collection endpoint, without a path.
    pub endpoint: String,
    /// The rule's immutable id, `dcr-…`.
    pub rule: String,
    /// The stream, `Custom-…`.
    pub stream: String,
    /// The OAuth scope; `https://monitor.azure.com/.default` in the public cloud.
    pub scope: String,
    /// Where the events are from.
    pub source: Source,
}

/// A field may hold 64 KiB; what is longer would be cut there without a word.
const MAX_FIELD: usize = 60_000;

impl Format for Sentinel {
    fn max_events(&self) -> usize {
        1000
    }

    /// A call may be 1 MB, compressed or not; brackets and commas want room.
    fn max_bytes(&self) -> usize {
        1_000_000 - 2048
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        serde_json::to_vec(&row(record, &self.source)).ok()
    }

    fn pack(&self, events: &[Vec<u8>], first: EventId, _now: Timestamp) -> Shipment {
        let mut body = b"[".to_vec();
        body.extend(events.join(&b','));
        body.push(b']');
        Shipment::Post {
            url: format!(
                "{}/dataCollectionRules/{}/streams/{}?api-version=2023-01-01",
                self.endpoint.trim_end_matches('/'),
                self.rule,
                self.stream
            ),
            headers: vec![
                ("content-type", "application/json".to_owned()),
                ("x-ms-client-request-id", first.to_string()),
            ],
            authorization: Authorization::AccessToken { scope: self.scope.clone() },
            body,
        }
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        judge_status(answer)
    }
}

/// One entry as a row of a custom table: columns of letters only, none of the reserved names.
pub fn row(record: &Record, source: &Source) -> Value {
    let entry = &record.entry;
    let details = &entry.details;
    let list = |items: Vec<String>| Some(items.join(",")).filter(|list| !list.is_empty());
    let mut row = json!({
        "TimeGenerated": rfc3339::text(entry.time),
        "EventId": entry.id,
        "Sequence": entry.seq,
        "LogOrigin": source.log,
        "Computer": source.host,
        "Kind": entry.kind,
        "Severity": entry.severity(),
        "Success": record.succeeded(),
        "Person": record.person(),
        "PersonId": record.person_id(),
        "Client": entry.client,
        "SourceAddress": record.address,
        "Server": details.server,
        "Method": details.method,
        "Tool": details.tool,
        "Resource": details.resource,
        "Scopes": list(details.scopes.iter().map(ToString::to_string).collect()),
        "Grant": details.grant,
        "RedirectUri": details.redirect_uri,
        "Decision": details.decision,
        "Reason": details.reason,
        "Outcome": details.outcome,
        "CallId": details.call,
        "TraceId": details.trace,
        "Owasp": list(details.owasp.iter().map(ToString::to_string).collect()),
        "Policies": list(details.policies.iter().map(ToString::to_string).collect()),
        "Labels": list(details.labels.iter().map(ToString::to_string).collect()),
        "Findings": details.findings,
        "DurationMs": details.duration_us.map(|us| us / 1000),
        "RequestBytes": details.request_bytes,
        "ResponseBytes": details.response_bytes,
        "Message": details.message,
    });
    if let Some(fields) = row.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        let whole = if record.content.is_empty() { record.line.clone() } else { record.json().to_string() };
        let line: String = whole.chars().take(MAX_FIELD / 4).collect();
        fields.insert("Entry".to_owned(), json!(line));
    }
    row
}
