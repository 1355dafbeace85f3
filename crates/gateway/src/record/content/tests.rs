use bartizan_shield::{Config, Trust};

use super::*;

/// A GitHub token that is nobody's, put together so that it stands in no file.
fn token() -> String {
    ["ghp", "_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat()
}

fn cleaned(text: &str) -> Option<String> {
    let shield = Shield::new(Config::default());
    clean(
        &shield,
        &Scene { server: "s", trust: Trust::Trusted, catalogue: None },
        Kind::Result,
        hidden(text, &[]),
    )
}

fn without(text: &str, paths: &[&str]) -> String {
    hidden(text, &paths.iter().map(|path| path.parse().unwrap()).collect::<Vec<_>>())
}

#[test]
fn a_star_stands_for_any_run_of_characters() {
    for (pattern, name, fits) in [
        ("*", "", true),
        ("*", "read_file", true),
        ("read_*", "read_file", true),
        ("read_*", "read_", true),
        ("read_*", "spread_file", false),
        ("*_file", "read_file", true),
        ("*_file", "read_files", false),
        ("r*d*e", "read_file", true),
        ("r*e*e", "re", false),
        ("a*a", "a", false),
        ("*a*a*", "xaxax", true),
        ("", "x", false),
        ("read_file", "read_file", true),
        ("read_file", "Read_file", false),
    ] {
        assert_eq!(Glob::new(pattern).fits(name), fits, "`{pattern}` and `{name}`");
    }
}

#[test]
fn secrets_and_personal_data_are_named_and_gone() {
    let token = token();
    let text = format!(
        r#"{{"log":"key {token} used","to":["jane.doe@firm.co.uk"],"card":4111111111111111,"id":"DE89 3704 0044 0532 0130 00","n":7}}"#
    );
    let found = cleaned(&text).unwrap();
    for secret in [token.as_str(), "jane.doe", "4111111111111111", "DE89"] {
        assert!(!found.contains(secret), "{secret}: {found}");
    }
    for rule in ["secret.github-token", "personal.email", "personal.card", "personal.iban"] {
        assert!(found.contains(&format!("[redacted: {rule}]")), "{rule}: {found}");
    }
    assert!(found.contains(r#""n":7"#) && found.contains("used"), "{found}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&found).unwrap()["n"], 7);
}

#[test]
fn more_secrets_than_one_reading_finds_are_all_gone() {
    let list: Vec<_> =
        (0..300).map(|n| format!("\"{}\"", token().replace("a8Kd03", &format!("a8{n:03}d")))).collect();
    let found = cleaned(&format!("[{}]", list.join(","))).unwrap_or_default();
    assert!(!found.contains("ghp_"), "{found}");
}

#[test]
fn a_name_of_a_property_that_is_a_secret_is_gone_too() {
    let found = cleaned(&format!(r#"{{"{}":1}}"#, token())).unwrap();
    assert_eq!(found, r#"{"[redacted: secret.github-token]":1}"#);
}

#[test]
fn what_cannot_be_judged_is_not_recorded() {
    let shield = Shield::new(Config::default()).with_budget(1);
    let scene = Scene { server: "s", trust: Trust::Trusted, catalogue: None };
    assert_eq!(clean(&shield, &scene, Kind::Result, r#"{"a":"some words"}"#.into()), None);
}

#[test]
fn values_at_the_operators_paths_go_with_their_copies() {
    let text = r#"{"salary":51234,"people":[{"name":"Ann Smith","age":40},{"name":"Bob","age":41}],"text":"Ann Smith earns 51234, Bob less"}"#;
    assert_eq!(
        without(text, &["/salary", "/people/*/name"]),
        r#"{"salary":"[redacted: path]","people":[{"name":"[redacted: path]","age":40},{"name":"[redacted: path]","age":41}],"text":"[redacted: path] earns [redacted: path], Bob less"}"#
    );
    assert_eq!(without(r#"{"a/b":{"c":[1,2]}}"#, &["/a~1b/c/1"]), r#"{"a/b":{"c":[1,"[redacted: path]"]}}"#);
    assert_eq!(
        without(r#"{"a":{"b":"deep down"},"c":"deep down"}"#, &["/a"]),
        r#"{"a":"[redacted: path]","c":"[redacted: path]"}"#
    );
    let kept = r#"{"a":[true,null,"x"]}"#;
    assert_eq!(without(kept, &["/b", "/a/7", "/a/b"]), kept);
}

#[test]
fn what_the_paths_take_out_is_not_left_in_the_text_that_copies_it() {
    let row = r#"{"diagnosis":"dep\nression","hiv":true,"age":47,"name":"Müller-canary"}"#;
    let copies = [
        // As it stands, and as `json.dumps` escapes it.
        r#"{"row":{"diagnosis":"dep\nression","hiv":true,"age":47,"name":"Müller-canary"}}"#,
        r#"{"row": {"diagnosis": "dep\nression", "hiv": true, "age": 47, "name": "M\u00fcller-canary"}}"#,
        "{\n  \"row\": {\n    \"hiv\": true,\n    \"name\": \"M\\u00fcller-canary\"\n  }\n}",
        // A level deeper, in one string and in another's text.
        r#""{\"row\":{\"hiv\":true,\"name\":\"M\\u00fcller-canary\"}}""#,
        r#"{"result":"{\"hiv\":true,\"name\":\"M\\u00fcller-canary\"}"}"#,
        // Not quite JSON.
        r#" [true, 47, NaN, "M\u00fcller-canary"]"#,
        r"{'row': {'hiv': True, 'name': 'M\xfcller-canary'}}",
        r#"{"row":{"hiv":true,"name":"M\u00fcller-can"#,
        // Among words.
        r#"the row: { "hiv": true, "name": "M\u00fcller-canary" }"#,
        "```json\n[\n  \"M\\u00fcller-canary\"\n]\n```",
    ];
    for copy in copies {
        let text = format!(
            r#"{{"content":[{{"text":{}}},{{"text":"two [rows] {{1}}"}}],"structuredContent":{{"row":{row}}}}}"#,
            quote(copy)
        );
        assert_eq!(
            without(&text, &["/structuredContent/row"]),
            r#"{"content":[{"text":"[redacted: path]"},{"text":"two [rows] {1}"}],"structuredContent":{"row":"[redacted: path]"}}"#,
            "{copy}"
        );
        assert_eq!(without(&text, &["/structuredContent/rows"]), text, "nothing is there to be taken out");
    }
    assert_eq!(
        without(r#"{"text":"{\"hiv\":true}","row":{"hiv":true}}"#, &["/row/hiv"]),
        r#"{"text":"[redacted: path]","row":{"hiv":"[redacted: path]"}}"#,
        "what is too short to be looked for is taken out too"
    );
}
