use std::fs;

use super::*;

const FILE: &str = r#"{
  "mcpServers": {
    "files": { "command": "npx", "args": ["files"], "env": { "TOKEN": "s3cret" } }
  }
}
"#;

fn file(text: &str) -> File {
    File::read("cursor", "/nowhere/mcp.json".into(), text.to_owned(), USUAL_KEY, ByUrl::Plain).unwrap()
}

fn with(text: &str, splices: Vec<Splice>) -> String {
    let new = spliced(text, splices);
    file(&new);
    new
}

#[test]
fn the_gate_goes_in_and_out_of_any_file() {
    let url = Url::parse("http://localhost:8787/mcp").unwrap();
    for (before, servers) in [
        (FILE, 1),
        ("{}", 0),
        ("{ \"theme\": \"dark\" }", 0),
        ("{\"mcpServers\":{}}", 0),
        ("{ // none yet\n \"mcpServers\": { /* here */ }, }", 0),
        ("{\"mcpServers\":{\"a\":{\"url\":\"https://a.example\"},\"b\":{\"command\":\"b\"},}}", 2),
    ] {
        let inside = with(before, file(before).with_gate(&url));
        let names: Vec<_> = file(&inside).entries().map(|entry| entry.name.clone()).collect();
        assert_eq!((names.len(), names.contains(&GATE.to_owned())), (servers + 1, true), "{inside}");
        assert_eq!(file(&inside).with_gate(&url), [], "once is enough");
        let other = Url::parse("https://gate.example/mcp").unwrap();
        let moved = with(&inside, file(&inside).with_gate(&other));
        assert!(moved.contains("gate.example") && !moved.contains("localhost"), "{moved}");
        let outside = with(&inside, file(&inside).without_gate(&[]));
        assert_eq!(file(&outside).entries().count(), servers, "{outside}");
        if before.contains("mcpServers") {
            assert_eq!(outside, before);
        }
    }
}

#[test]
fn a_file_is_replaced_in_one_step_and_kept_as_it_was() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.json"), folder.path().join("mcp.json"));
    fs::write(&real, FILE).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&real, &link).unwrap();
    let read = || File::named(&link).unwrap();
    read().write(&FILE.replace("npx", "other")).unwrap();
    read().write(&FILE.replace("npx", "third")).unwrap();
    assert!(link.is_symlink() && fs::read_to_string(&real).unwrap().contains("third"));
    let kept = folder.path().join("real.json.before-bartizan");
    assert_eq!(fs::read_to_string(&kept).unwrap(), FILE, "as it was before the first change");
    for path in [&real, &kept] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let stale = read();
    fs::write(&real, "{}").unwrap();
    assert!(stale.write(FILE).is_err(), "somebody else changed it");
    assert_eq!(fs::read_to_string(&real).unwrap(), "{}");
}

#[test]
fn names_become_names_of_the_gate() {
    let mut taken = Vec::new();
    for (name, expected) in [
        ("My Files!", "my-files"),
        ("my_files", "my-files-2"),
        ("…", "server"),
        (&"x".repeat(60), &"x".repeat(28)),
    ] {
        let name = free_name(name, &taken);
        assert_eq!(name, *expected);
        assert!(name.parse::<bartizan_model::ServerName>().is_ok());
        taken.push(Imported { name, command: None, url: None, env: Vec::new() });
    }
}

#[test]
fn what_a_stranger_named_does_nothing_to_a_terminal_and_no_secret_is_shown() {
    let text = FILE
        .replace("files\":", "fi\\u001b[2Jles\":")
        .replace("[\"files\"]", "[\"--key\", \"s3cret-argument\"]");
    let file = file(&text);
    let lines: String = file.entries().map(|entry| Row::of(&file, entry).line()).collect();
    assert!(!lines.contains('\u{1b}') && lines.contains("npx"), "{lines}");
    assert!(!lines.contains("s3cret"), "{lines}");
    let json = serde_json::to_string(&file.entries().map(|entry| Row::of(&file, entry)).collect::<Vec<_>>())
        .unwrap();
    assert!(
        json.contains("TOKEN") && !json.contains("\"s3cret\""),
        "values of variables are nobody's business: {json}"
    );
}
