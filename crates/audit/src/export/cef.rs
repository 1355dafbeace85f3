//! ArcSight Common Event Format lines, with the keys Microsoft Sentinel's CommonSecurityLog reads (attacks.md §2.7).

use super::{Record, Source, VERSION, scaled};
use crate::event::Decision;

/// One entry as a CEF line, without a line end.
pub fn line(record: &Record, source: &Source) -> String {
    let entry = &record.entry;
    let details = &entry.details;
    let severity = scaled(entry.severity(), [2, 4, 6, 8, 10]);
    let action = match details.decision {
        Some(Decision::Permit) => "allow",
        Some(Decision::Deny) => "deny",
        Some(Decision::Hold) => "hold",
        None if !details.alterations.is_empty() => "redact",
        None => "",
    };
    let labelled = [
        ("cs1", "tool", details.tool.as_ref().map(ToString::to_string)),
        ("cs2", "server", details.server.as_ref().map(ToString::to_string)),
        ("cs3", "client_id", entry.client.as_ref().map(ToString::to_string)),
        ("cs4", "policy", (!details.policies.is_empty()).then(|| join(&details.policies))),
        ("cs5", "trace", details.trace.as_ref().map(ToString::to_string)),
        ("cs6", "owasp", (!details.owasp.is_empty()).then(|| join(&details.owasp))),
        ("flexString1", "scopes", (!details.scopes.is_empty()).then(|| join(&details.scopes))),
        ("flexString2", "grant", details.grant.as_ref().map(ToString::to_string)),
        ("cn1", "latency_ms", details.duration_us.map(|us| (us / 1000).to_string())),
    ];
    let plain = [
        ("rt", Some(entry.time.as_unix_millis().to_string())),
        ("act", Some(action.to_owned()).filter(|action| !action.is_empty())),
        ("outcome", Some(if record.succeeded() { "success" } else { "failure" }.to_owned())),
        ("src", record.address.clone()),
        ("dvchost", Some(source.host.clone())),
        ("dhost", details.server.as_ref().map(ToString::to_string)),
        ("suser", record.person()),
        ("suid", record.person_id()),
        ("requestMethod", details.method.as_ref().map(ToString::to_string)),
        ("request", details.resource.as_ref().map(ToString::to_string)),
        ("reason", details.reason.as_ref().map(ToString::to_string)),
        ("externalId", Some(entry.id.to_string())),
        ("cat", entry.kind.as_str().split('.').next().map(str::to_owned)),
        ("in", details.request_bytes.map(|bytes| bytes.to_string())),
        ("out", details.response_bytes.map(|bytes| bytes.to_string())),
        ("msg", details.message.as_ref().map(ToString::to_string)),
    ];
    let mut extension: Vec<String> = plain
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", escape_extension(&value?))))
        .collect();
    for (key, label, value) in labelled {
        if let Some(value) = value {
            extension.push(format!("{key}Label={label} {key}={}", escape_extension(&value)));
        }
    }
    format!(
        "CEF:0|Bartizan|Bartizan|{VERSION}|{}|{}|{severity}|{}",
        escape_header(entry.kind.as_str()),
        escape_header(&record.title()),
        extension.join(" ")
    )
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `\` and `|` are escaped in the header; a line end cannot be.
fn escape_header(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace(['\r', '\n'], " ")
}

/// `\`, `=` and line ends are escaped in the extension.
fn escape_extension(text: &str) -> String {
    text.replace('\\', "\\\\").replace('=', "\\=").replace('\r', "\\r").replace('\n', "\\n")
}
