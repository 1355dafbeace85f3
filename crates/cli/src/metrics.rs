//! What happens, counted, in Prometheus' text format (version 0.0.4); durations by the OpenTelemetry conventions for MCP.
//!
//! Everything is counted from the entries of the audit log, so a number here and a search there agree. Labels come from
//! lists of ours or the operator's; whatever else comes counts as `other`, and no label holds a person, a tool or a URI.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use bartizan_audit::{Entry, Kind, Observer, event::Outcome};
use bartizan_gateway::Gate;

use crate::{bundles::Bundles, exports::Exporters, witness::Witnessing};

/// The most combinations of labels that one metric has.
const SERIES: usize = 1000;

/// Upper bounds of the buckets of durations, in microseconds, as the conventions propose.
const BUCKETS: [u64; 14] = [
    1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// The methods that have a label of their own.
const METHODS: &[&str] = &[
    "completion/complete",
    "logging/setLevel",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tools/call",
    "tools/list",
];

const OTHER: &str = "other";

/// The counters of a process.
#[derive(Default)]
pub struct Metrics(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    events: Family<u64>,
    outcomes: Family<u64>,
    refusals: Family<u64>,
    findings: Family<u64>,
    detected: Family<u64>,
    verdicts: Family<u64>,
    durations: Family<Histogram>,
}

/// One metric, by its labels' values.
struct Family<T>(BTreeMap<Vec<String>, T>);

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Default> Family<T> {
    fn of(&mut self, labels: &[&str]) -> &mut T {
        let mut key: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        if self.0.len() >= SERIES && !self.0.contains_key(&key) {
            key = vec![OTHER.to_owned(); labels.len()];
        }
        self.0.entry(key).or_default()
    }
}

#[derive(Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum_us: u64,
}

impl Histogram {
    fn add(&mut self, us: u64) {
        for (bucket, bound) in self.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(us <= bound);
        }
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

impl Observer for Metrics {
    fn seen(&self, entry: &Entry) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let details = &entry.details;
        let server = details.server.as_ref().map_or("", |server| server.as_str());
        let method = details.method.as_ref().map_or("", |method| method.as_str());
        let method = METHODS.iter().find(|known| **known == method).copied().unwrap_or(OTHER);
        *counted.events.of(&[entry.kind.as_str()]) += 1;
        for finding in &details.findings {
            // `secret.github-token` is of the family `secret`.
            let family = finding.rule.as_str().split('.').next().unwrap_or_default();
            *counted.findings.of(&[family, finding.severity.as_str(), finding.action.as_str()]) += 1;
            if !server.is_empty() {
                *counted.detected.of(&[server, family, finding.severity.as_str()]) += 1;
            }
        }
        if let Some(verdict) = verdict(entry) {
            *counted.verdicts.of(&[server, verdict]) += 1;
        }
        match entry.kind {
            Kind::CallClosed => {
                let outcome = details.outcome.map_or(OTHER, |outcome| outcome.as_str());
                *counted.outcomes.of(&[server, method, outcome]) += 1;
                if let Some(us) = details.duration_us {
                    counted.durations.of(&[server, method]).add(us);
                }
            }
            Kind::RequestRefused | Kind::SignInFailed => {
                let reason = details.reason.as_ref().map_or(OTHER, |reason| reason.as_str());
                *counted.refusals.of(&[server, reason]) += 1;
            }
            _ => {}
        }
    }
}

/// What the shield's judgement of a call came to: of an answer the gravest that was done about a finding, of what a client
/// sent that it went no further. Calls without a finding are `clean`, so that rates have something to be of.
fn verdict(entry: &Entry) -> Option<&'static str> {
    let details = &entry.details;
    details.server.as_ref()?;
    match entry.kind {
        Kind::CallClosed if details.outcome == Some(Outcome::NotSent) => None,
        Kind::CallClosed => {
            let is_done = |action: &str| details.findings.iter().any(|f| f.action.as_str() == action);
            let gravest = ["block", "quarantine", "redact", "spotlight", "annotate", "allow"];
            Some(gravest.into_iter().find(|action| is_done(action)).unwrap_or("clean"))
        }
        Kind::RequestRefused => {
            let reason = details.reason.as_ref()?;
            reason.as_str().starts_with("shield").then_some("refused")
        }
        _ => None,
    }
}

impl Metrics {
    /// Everything there is to tell of `gate`, `exporters`, `witnessing` and `bundles` now.
    pub fn render(
        &self,
        gate: &Gate,
        exporters: &Exporters,
        witnessing: &Witnessing,
        bundles: &Bundles,
    ) -> String {
        let mut page = Page::default();
        page.head("bartizan_build_info", "gauge", "The version that runs.");
        page.line("bartizan_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.counted(&mut page);
        page.head("bartizan_sessions", "gauge", "Open sessions of the handshake era.");
        page.line("bartizan_sessions", &[], gate.sessions().count() as u64);
        page.head("bartizan_server_processes", "gauge", "Running processes of a server.");
        for server in gate.all_servers() {
            let running = server.processes().load(Ordering::Relaxed) as u64;
            page.line("bartizan_server_processes", &[("server", server.name().as_str())], running);
        }
        bundle(bundles, &mut page);
        let log = gate.recorder().log();
        page.head("bartizan_audit_entries_total", "counter", "Durable entries of the audit log.");
        page.line("bartizan_audit_entries_total", &[], log.durable());
        page.head("bartizan_audit_lost_total", "counter", "Events that could not be recorded.");
        page.line("bartizan_audit_lost_total", &[], log.lost());
        let exporters = exporters.progress();
        let mut each =
            |name: &str, kind: &str, help: &str, value: &dyn Fn(&bartizan_audit::export::Progress) -> u64| {
                page.head(name, kind, help);
                for (exporter, progress) in &exporters {
                    page.line(name, &[("exporter", exporter)], value(progress));
                }
            };
        each("bartizan_export_lag_entries", "gauge", "Entries an exporter has yet to deliver.", &|p| {
            log.durable().saturating_sub(p.next())
        });
        each("bartizan_export_failing", "gauge", "1 while an exporter's last attempt failed.", &|p| {
            u64::from(p.trouble().is_some())
        });
        each("bartizan_export_delivered_total", "counter", "Events a receiver took.", &|p| p.delivered());
        each("bartizan_export_given_up_total", "counter", "Events a receiver will never take.", &|p| {
            p.given_up()
        });
        if let Some(witness) = witnessing.progress() {
            let mut gauge = |name: &str, help: &str, value: u64| {
                page.head(name, "gauge", help);
                page.line(name, &[], value);
            };
            let (entries, at) = (witness.entries.load(Ordering::Relaxed), witness.at.load(Ordering::Relaxed));
            gauge("bartizan_witness_entries", "Entries of this log that its witness signed.", entries);
            gauge("bartizan_witness_timestamp_seconds", "When it signed last; 0 for never.", at);
            let is_failing = u64::from(witness.is_failing.load(Ordering::Relaxed));
            gauge(
                "bartizan_witness_failing",
                "1 while a log is not witnessed, for whatever reason.",
                is_failing,
            );
            let refuses = u64::from(witness.refuses.load(Ordering::Relaxed));
            gauge(
                "bartizan_witness_refuses",
                "1 while the witness holds that a log is not what it was.",
                refuses,
            );
        }
        page.0
    }

    fn counted(&self, page: &mut Page) {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.family(
            "bartizan_events_total",
            "Entries of the audit log, by kind.",
            &["kind"],
            &counted.events,
        );
        page.family(
            "bartizan_calls_total",
            "Calls that ended, by how.",
            &["server", "mcp_method_name", "outcome"],
            &counted.outcomes,
        );
        page.family(
            "bartizan_refusals_total",
            "Requests refused before there was a call, by reason.",
            &["server", "reason"],
            &counted.refusals,
        );
        page.family(
            "bartizan_findings_total",
            "What the shield found in calls, by family of rules.",
            &["family", "severity", "action"],
            &counted.findings,
        );
        page.family(
            "bartizan_server_findings_total",
            "What the shield found in a server's calls, by family of rules.",
            &["server", "family", "severity"],
            &counted.detected,
        );
        page.family(
            "bartizan_server_verdicts_total",
            "Calls of a server by what the shield's judgement came to.",
            &["server", "verdict"],
            &counted.verdicts,
        );
        let name = "mcp_server_operation_duration_seconds";
        page.head(name, "histogram", "How long a call took, from its opening to its end.");
        for (labels, histogram) in &counted.durations.0 {
            let labels: Vec<_> =
                ["server", "mcp_method_name"].into_iter().zip(labels.iter().map(String::as_str)).collect();
            let bucket = format!("{name}_bucket");
            let bounds = BUCKETS.iter().map(|us| decimal(*us)).chain(["+Inf".to_owned()]);
            let counts = histogram.buckets.iter().chain([&histogram.count]);
            for (bound, count) in bounds.zip(counts) {
                let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
                page.line(&bucket, &labels, *count);
            }
            page.line(&format!("{name}_sum"), &labels, decimal(histogram.sum_us));
            page.line(&format!("{name}_count"), &labels, histogram.count);
        }
    }
}

/// The shield's bundle.
fn bundle(bundles: &Bundles, page: &mut Page) {
    let standing = bundles.standing();
    page.head(
        "bartizan_shield_bundle_version",
        "gauge",
        "The bundle the shield judges by; 0 is what the build has.",
    );
    page.line("bartizan_shield_bundle_version", &[], standing.version);
    page.head("bartizan_shield_bundle_age_seconds", "gauge", "How long ago that bundle was made.");
    let age = standing.created.map_or(0, |created| bundles.now().since(created).as_secs());
    page.line("bartizan_shield_bundle_age_seconds", &[], age);
    page.head(
        "bartizan_shield_bundle_stale",
        "gauge",
        "1 if it is older than allowed, expired, or wanted and not there.",
    );
    let is_missing = standing.is_configured && standing.version == 0;
    page.line("bartizan_shield_bundle_stale", &[], u8::from(standing.is_stale || is_missing));
    page.head("bartizan_shield_bundle_refused_total", "counter", "Bundles that failed a check.");
    page.line("bartizan_shield_bundle_refused_total", &[], standing.refused);
}

/// Microseconds as seconds, exactly.
fn decimal(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A page of metrics.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{name}=\"{value}\"")
            })
            .collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn family(&mut self, name: &str, help: &str, labels: &[&str], family: &Family<u64>) {
        self.head(name, "counter", help);
        for (values, count) in &family.0 {
            let labels: Vec<_> = labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            self.line(name, &labels, count);
        }
    }
}

/// Counters that count every entry of `gate`'s log from now on.
pub fn metrics_of(gate: &Gate) -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::default());
    gate.recorder().log().observe(Arc::clone(&metrics) as Arc<dyn Observer>);
    metrics
}

#[cfg(test)]
mod tests {
    use bartizan_audit::{
        Details, EventId,
        event::{Finding, Moment, Severity},
    };
    use bartizan_model::SeededEntropy;

    use super::*;

    fn closed(method: &str, us: u64) -> Entry {
        let finding = Finding {
            rule: "secret.github-token".into(),
            severity: Severity::High,
            place: "result".into(),
            action: "redact".into(),
        };
        Entry {
            seq: 0,
            base: 0,
            id: EventId::random(&SeededEntropy::new(1)),
            time: Moment::from_unix_millis(0),
            kind: Kind::CallClosed,
            person: None,
            client: None,
            address: None,
            stranger_address: None,
            details: Box::new(Details {
                server: Some("files".parse().unwrap()),
                method: Some(method.into()),
                tool: Some("a-tool-of-the-client's-choice".into()),
                outcome: Some(Outcome::Ok),
                duration_us: Some(us),
                findings: vec![finding],
                ..Details::default()
            }),
        }
    }

    fn page(metrics: &Metrics) -> String {
        let mut page = Page::default();
        metrics.counted(&mut page);
        page.0
    }

    #[test]
    fn calls_are_counted_and_timed() {
        let metrics = Metrics::default();
        for us in [900, 1_000, 1_001, 70_000_000] {
            metrics.seen(&closed("tools/call", us));
        }
        let page = page(&metrics);
        for line in [
            r#"bartizan_events_total{kind="call.closed"} 4"#,
            r#"bartizan_calls_total{server="files",mcp_method_name="tools/call",outcome="ok"} 4"#,
            r#"bartizan_findings_total{family="secret",severity="high",action="redact"} 4"#,
            r#"bartizan_server_findings_total{server="files",family="secret",severity="high"} 4"#,
            r#"bartizan_server_verdicts_total{server="files",verdict="redact"} 4"#,
            r#"mcp_server_operation_duration_seconds_bucket{server="files",mcp_method_name="tools/call",le="0.001"} 2"#,
            r#"mcp_server_operation_duration_seconds_bucket{server="files",mcp_method_name="tools/call",le="60"} 3"#,
            r#"mcp_server_operation_duration_seconds_bucket{server="files",mcp_method_name="tools/call",le="+Inf"} 4"#,
            r#"mcp_server_operation_duration_seconds_sum{server="files",mcp_method_name="tools/call"} 70.002901"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        assert!(!page.contains("choice"), "{page}");
    }

    #[test]
    fn nobody_can_make_more_series_than_there_is_room_for() {
        let metrics = Metrics::default();
        for n in 0..50 {
            metrics.seen(&closed(&format!("x/method-{n}"), 1));
        }
        assert_eq!(page(&metrics).matches("bartizan_calls_total{").count(), 1, "unknown methods are `other`");
        let mut family = Family::<u64>::default();
        for n in 0..2 * SERIES {
            *family.of(&[&n.to_string()]) += 1;
        }
        assert_eq!(family.0.len(), SERIES + 1);
        assert_eq!(family.0[&vec![OTHER.to_owned()]], SERIES as u64);
        let mut page = Page::default();
        page.line("x", &[("l", "a\"b\\c\nd")], 1);
        assert_eq!(page.0, "x{l=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
