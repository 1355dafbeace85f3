//! The rules of docs/detections find what they should, and nothing in an ordinary day.

use std::{collections::BTreeSet, fs, path::PathBuf};

use bartizan_audit::{
    Entry,
    export::{Record, Source, sentinel},
};
use serde_json::{Value, json};

use crate::sigma::Detection;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/detections").join(name)
}

/// Name and text of each file of a kind, by name.
fn files(name: &str, extension: &str) -> Vec<(String, String)> {
    let mut found: Vec<_> = fs::read_dir(folder(name))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    assert!(found.len() > 5);
    found
}

fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn rules() -> Vec<(String, Detection)> {
    files("sigma", "yml").into_iter().map(|(name, text)| (name, Detection::read(&text))).collect()
}

#[test]
fn every_rule_finds_its_own_events_and_nothing_in_an_ordinary_day() {
    let recorded = files("recorded", "jsonl");
    let of =
        |name: &str| events(&recorded.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}")).1);
    let ordinary = of("ordinary");
    assert!(ordinary.len() > 20);
    for (name, rule) in rules() {
        let own = of(&name);
        assert!(rule.finds(&own), "{name} does not find what it is for");
        assert!(!rule.finds(&ordinary), "{name} finds something in an ordinary day");
        // Correlations count: one event fewer is not enough.
        if own.len() > 2 {
            assert!(!rule.finds(&own[1..]), "{name} finds it too soon");
        }
    }
    let names: BTreeSet<_> = rules().into_iter().map(|(name, _)| name).collect();
    let tested: BTreeSet<_> = recorded.iter().map(|(n, _)| n.clone()).filter(|n| n != "ordinary").collect();
    assert_eq!(names, tested);
}

#[test]
fn what_is_counted_over_a_time_is_not_counted_over_a_longer_one() {
    for name in ["impossible_use", "credential_guessing", "crash_loop"] {
        let rule = rules().into_iter().find(|(n, _)| n == name).unwrap().1;
        let recorded = files("recorded", "jsonl").into_iter().find(|(n, _)| n == name).unwrap().1;
        let mut events = events(&recorded);
        for (day, event) in events.iter_mut().enumerate() {
            event["time"] = json!(format!("2026-12-{:02}T00:00:00.000Z", day + 1));
        }
        assert!(!rule.finds(&events), "{name}");
    }
}

#[test]
fn what_was_recorded_is_what_the_log_writes_and_rules_speak_of_nothing_else() {
    for (name, text) in files("recorded", "jsonl") {
        for line in text.lines() {
            let entry: Entry =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
            let mut given: Value = serde_json::from_str(line).unwrap();
            // What a reader adds to an entry.
            for added in ["identity", "network_address"] {
                given.as_object_mut().unwrap().remove(added);
            }
            assert_eq!(serde_json::to_value(&entry).unwrap(), given, "{name}: a field the log does not have");
        }
    }
    let specification = fs::read_to_string(folder("../audit-log.md")).unwrap();
    for (name, rule) in rules() {
        for field in rule.fields() {
            let last = field.rsplit('.').next().unwrap();
            let is_known = specification.contains(&format!("| `{last}` |")) || last == "network_address";
            assert!(is_known, "{name} speaks of `{field}`");
        }
    }
}

/// An entry with every field there is.
fn everything() -> Record {
    let entry = json!({
        "seq": 1, "base": 0, "id": "0".repeat(32), "time": "2026-11-25T01:35:26.570Z", "kind": "call.closed",
        "person": "0".repeat(32), "client": "c", "stranger_address": "192.0.2.1", "call": "0".repeat(32), "server": "s",
        "method": "m", "tool": "t", "resource": "r", "scopes": ["s"], "grant": "g", "redirect_uri": "u", "trace": "0".repeat(32), "decision": "permit", "reason": "r",
        "owasp": ["MCP01"], "policies": ["p"], "labels": ["l"], "request_bytes": 1, "response_bytes": 1, "duration_us": 1,
        "outcome": "ok", "message": "m",
        "findings": [{ "rule": "r", "severity": "high", "place": "p", "action": "block" }],
    });
    Record::new(serde_json::from_value(entry).unwrap(), String::new(), None)
}

#[test]
fn sentinels_queries_and_table_have_the_columns_that_are_sent() {
    let source = Source { host: "h".to_owned(), log: "l".to_owned() };
    let sent = sentinel::row(&everything(), &source);
    let sent: BTreeSet<&str> = sent.as_object().unwrap().keys().map(String::as_str).collect();
    let table = fs::read_to_string(folder("sentinel/columns.json")).unwrap();
    let table: Vec<Value> = serde_json::from_str(&table).unwrap();
    let columns: BTreeSet<&str> = table.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(columns, sent);
    for (name, query) in files("sentinel", "kql") {
        let query = query.split_once('\n').unwrap().1;
        // Names that the query makes itself stand before a `=`.
        let made: BTreeSet<&str> =
            query.split(" = ").filter_map(|before| before.rsplit([' ', ',', '\n']).next()).collect();
        let words = query
            .split('"')
            .step_by(2)
            .flat_map(|part| part.split(|c: char| !(c.is_alphanumeric() || c == '_')));
        let names =
            words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()) && *word != "Bartizan_CL");
        for word in names {
            assert!(columns.contains(word) || made.contains(word), "{name}: there is no column {word}");
        }
        for kind in
            query.split('"').skip(1).step_by(2).filter(|text| text.contains('.') && query.contains("Kind"))
        {
            let is_kind = kind.parse::<bartizan_audit::Kind>().is_ok();
            // Reasons stand beside the kinds.
            assert!(
                is_kind || matches!(kind, "policy.flow" | "shield.approval"),
                "{name}: there is no kind {kind}"
            );
        }
    }
}
