use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use serde_json::Value;

use super::*;

const SPECIFICATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/audit-log.md");

/// The tables of `docs/audit-log.md` are these types and their words. Run with `BARTIZAN_BLESS=1` to write them anew.
#[test]
fn the_specification_says_what_the_types_say() {
    let written = fs::read_to_string(SPECIFICATION).unwrap();
    let (begin, end) = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n");
    let (before, rest) = written.split_once(begin).expect("no place for the tables");
    let (_, after) = rest.split_once(end).unwrap();
    let now = format!("{before}{begin}{}{end}{after}", tables());
    if std::env::var_os("BARTIZAN_BLESS").is_some() {
        fs::write(Path::new(SPECIFICATION), &now).unwrap();
    }
    assert!(written == now, "docs/audit-log.md is out of date: run this test with BARTIZAN_BLESS=1");
}

fn tables() -> String {
    let schema: Value = schemars::schema_for!(Entry).into();
    let mut out = String::new();
    let mut objects = vec![("Entry".to_owned(), schema.clone())];
    let definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in ["Finding", "Alteration", "Change"] {
        objects.push((name.to_owned(), definitions[name].clone()));
    }
    for (name, object) in objects {
        writeln!(out, "\n### `{name}`\n\n| field | type | meaning |\n|---|---|---|").unwrap();
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties: BTreeMap<_, _> = object["properties"].as_object().unwrap().iter().collect();
        for (field, about) in properties {
            let always = if required.contains(&field.as_str()) { ", always" } else { "" };
            let meaning = about["description"].as_str().unwrap_or_default().replace('\n', " ");
            assert!(!meaning.is_empty(), "{field} has no words");
            writeln!(out, "| `{field}` | {}{always} | {meaning} |", kind_of(about)).unwrap();
        }
    }
    let mut list = |title: &str, rows: Vec<(&str, &str)>| {
        writeln!(out, "\n### {title}\n\n| value | meaning |\n|---|---|").unwrap();
        for (value, meaning) in rows {
            writeln!(out, "| `{value}` | {} |", meaning.trim()).unwrap();
        }
    };
    list("`kind`", Kind::ALL.iter().map(|v| (v.as_str(), v.meaning())).collect());
    list("`decision`", Decision::ALL.iter().map(|v| (v.as_str(), v.meaning())).collect());
    list("`outcome`", Outcome::ALL.iter().map(|v| (v.as_str(), v.meaning())).collect());
    list("`severity`", Severity::ALL.iter().map(|v| (v.as_str(), v.meaning())).collect());
    list("`owasp`", Owasp::ALL.iter().map(|v| (v.as_str(), v.meaning())).collect());
    out.push('\n');
    out
}

fn kind_of(about: &Value) -> String {
    let named = |about: &Value| {
        let target = about.get("$ref").or_else(|| about.pointer("/anyOf/0/$ref"));
        target.and_then(Value::as_str).and_then(|path| path.rsplit('/').next()).map(str::to_owned)
    };
    let plain = match about.get("type") {
        Some(Value::Array(types)) => types.first().and_then(Value::as_str).unwrap_or_default(),
        other => other.and_then(Value::as_str).unwrap_or_default(),
    };
    match named(about) {
        Some(name) => name,
        None if plain == "array" => format!("list of {}", kind_of(&about["items"])),
        None => plain.to_owned(),
    }
}

#[test]
fn names_are_stable_and_read_back() {
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse::<Kind>().unwrap(), *kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert!("nonsense".parse::<Kind>().unwrap_err().to_string().contains("call.opened"));
    for bad in ["", "Policy", "a b", "a\n", &"x".repeat(65)] {
        assert!(bad.parse::<Reason>().is_err(), "{bad:?}");
    }
    assert!(serde_json::from_str::<Reason>("\"a\\nb\"").is_err());
}

#[test]
fn an_entry_says_only_what_is_known_and_reads_back() {
    let entry = Entry {
        seq: 7,
        base: 6,
        id: EventId::random(&bartizan_model::SeededEntropy::new(1)),
        time: Moment::from_unix_millis(1_760_000_000_042),
        kind: Kind::Authorized,
        person: None,
        client: None,
        address: None,
        stranger_address: None,
        details: Box::new(Details {
            decision: Some(Decision::Deny),
            reason: Some(Reason::try_from("policy.denied").unwrap()),
            owasp: vec![Owasp::Mcp02],
            ..Details::default()
        }),
    };
    let line = serde_json::to_string(&entry).unwrap();
    let id = entry.id;
    assert_eq!(
        line,
        format!(
            r#"{{"seq":7,"base":6,"id":"{id}","time":"2025-10-09T08:53:20.042Z","kind":"authorization.decided","decision":"deny","reason":"policy.denied","owasp":["MCP02"]}}"#
        )
    );
    assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
    assert_eq!(entry.severity(), Severity::Medium);
}
