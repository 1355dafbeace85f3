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

/// How many places of a finding are named; a text may hold thousands.
const PLACES: usize = 16;

fn as_json(judged: &Judged) -> String {
    let finding = &judged.finding;
    let places: Vec<_> = finding.places.iter().take(PLACES).map(|p| quote(&p.at)).collect();
    let more = match finding.places.len().saturating_sub(PLACES) {
        0 => String::new(),
        more => format!(r#","more":{more}"#),
    };
    format!(
        r#"{{"rule":{},"severity":"{}","at":[{}]{more}}}"#,
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

#[cfg(test)]
mod tests {
    use bartizan_shield::{Action, Decision, Finding, Kind, Place};

    use super::*;

    #[test]
    fn of_many_places_some_are_named_and_the_rest_is_counted() {
        let mut finding = Finding::unjudged("r", "t", Kind::Result, "/0");
        let place = finding.places[0].clone();
        let named = |finding: &Finding| {
            let judged = Judged { finding: finding.clone(), decision: Decision::Server(Action::Annotate) };
            serde_json::from_str::<serde_json::Value>(&as_json(&judged)).unwrap()
        };
        assert_eq!(named(&finding), serde_json::json!({ "rule": "r", "severity": "critical", "at": ["/0"] }));
        finding.places.extend((1..3000).map(|n| Place { at: format!("/{n}"), ..place.clone() }));
        let many = named(&finding);
        assert_eq!(many["at"].as_array().map(Vec::len), Some(PLACES));
        assert_eq!((&many["at"][15], &many["more"]), (&"/15".into(), &2984.into()));
    }
}
