//! What is said of findings: to whoever gets the answer, and in the log.

use bartizan_mcp::{Message, Splice, json::quote};
use bartizan_shield::{Judged, Verdict};

use super::META_FINDINGS;
use crate::server::Server;

pub(super) fn annotate<'a>(message: &'a Message, verdict: &Verdict, splice: &mut Splice<'a>) {
    let Some(result) = message.result() else { return };
    let found = found(verdict);
    match message.field("_meta") {
        Some(meta) => splice.set(meta, META_FINDINGS, found),
        None => splice.insert(result, "_meta", &format!("{{{}:{found}}}", quote(META_FINDINGS))),
    }
}

/// What was found, as a JSON list.
pub(super) fn found(verdict: &Verdict) -> String {
    let found: Vec<_> = verdict.findings.iter().map(as_json).collect();
    format!("[{}]", found.join(","))
}

fn as_json(judged: &Judged) -> String {
    let finding = &judged.finding;
    let places: Vec<_> = finding.places.iter().map(|p| quote(&p.at)).collect();
    format!(
        r#"{{"rule":{},"severity":"{}","at":[{}]}}"#,
        quote(&finding.rule),
        finding.severity.as_str(),
        places.join(",")
    )
}

pub(super) fn data(reason: &str, server: &Server, verdict: &Verdict) -> String {
    format!(
        r#"{{"source":"bartizan","reason":"{reason}","server":{},"findings":{}}}"#,
        quote(server.name().as_str()),
        found(verdict)
    )
}

pub(super) fn rules(verdict: &Verdict) -> String {
    verdict.findings.iter().map(|j| j.finding.rule.as_ref()).collect::<Vec<_>>().join(" ")
}

/// What was found, in the rules' own words; those that do not pass only.
pub(super) fn titles(verdict: &Verdict) -> String {
    let mut titles: Vec<_> =
        verdict.findings.iter().filter(|j| !j.decision.passes()).map(|j| j.finding.title.as_ref()).collect();
    if titles.is_empty() {
        titles = verdict.findings.iter().map(|j| j.finding.title.as_ref()).collect();
    }
    titles.dedup();
    titles.truncate(3);
    titles.join("; ")
}
