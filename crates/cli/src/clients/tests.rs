use std::fs;

use super::{
    import::{Imported, add, free_name},
    *,
};

const FILE: &str = r#"{
  "mcpServers": {
    "files": { "command": "npx", "args": ["files"], "env": { "TOKEN": "s3cret" } }
  }
}
"#;

fn file(text: &str) -> File {
    let ours = Ours::default();
    File::read("cursor", "/nowhere/mcp.json".into(), text.to_owned(), USUAL_KEY, ByUrl::Plain, ours).unwrap()
}

fn with_gate(text: &str, url: &Url) -> String {
    let file = file(text);
    file.changed(file.with_gate(url).unwrap()).unwrap().text
}

fn released(text: &str) -> String {
    let file = file(text);
    file.changed(file.released(&[])).unwrap().text
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
        let inside = with_gate(before, &url);
        let names: Vec<_> = file(&inside).entries().map(|entry| entry.name.clone()).collect();
        assert_eq!((names.len(), names.contains(&GATE.to_owned())), (servers + 1, true), "{inside}");
        assert_eq!(file(&inside).with_gate(&url).unwrap().splices, [], "once is enough");
        let other = Url::parse("https://gate.example/mcp").unwrap();
        let moved = with_gate(&inside, &other);
        assert!(moved.contains("gate.example") && !moved.contains("localhost"), "{moved}");
        let outside = released(&inside);
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
    let read = || File::named(&link, &Folders::of_process().unwrap()).unwrap();
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
        let mut server = Imported::default();
        server.name = name;
        taken.push(server);
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

#[test]
fn no_server_and_no_comment_is_lost_with_the_gate() {
    let gate = "\"bartizan\": {\"url\": \"https://gate.example\"}";
    for (before, after) in [
        ("{// mine\nGATE, \"b\": {}}", "{// mine\n \"b\": {}}"),
        ("{GATE /* gate */, \"b\": {}}", "{ /* gate */ \"b\": {}}"),
        ("{GATE // gate, too\n, \"b\": {}}", "{ // gate, too\n \"b\": {}}"),
        ("{\"b\": {} /* , */, // last\n GATE /* end */}", "{\"b\": {} /* , */ // last\n  /* end */}"),
        ("{\"b\": {}, GATE }", "{\"b\": {} }"),
        ("{\"b\": {}, GATE, }", "{\"b\": {}, }"),
        ("{\"a\": {}, GATE, \"b\": {}}", "{\"a\": {}, \"b\": {}}"),
    ] {
        let text = |servers: &str| format!("{{\"mcpServers\": {}}}", servers.replace("GATE", gate));
        assert_eq!(released(&text(before)), text(after));
    }
}

#[test]
fn a_change_that_does_something_else_too_is_none() {
    let file = file(FILE);
    let mut plan = file.guarded(&[], Path::new("/opt/bartizan"), &[]);
    assert!(file.changed(Plan { splices: plan.splices.clone(), servers: plan.servers.clone() }).is_ok());
    plan.splices.push((FILE.find("TOKEN").unwrap()..FILE.find("TOKEN").unwrap() + 5, "OTHER".into()));
    let said = file.changed(plan).err().unwrap().to_string();
    assert!(said.contains("cannot be changed without harm"), "{said}");
    let stranger = file.guarded(&[], Path::new("/opt/other"), &[]);
    assert!(file.changed(stranger).is_err(), "what is not known again would be guarded again and again");
}

#[test]
fn the_gate_is_the_users_own_and_never_doubled() {
    let url = Url::parse("http://localhost:8787/mcp").unwrap();
    let projects = "{ \"projects\": { \"/p\": { \"mcpServers\": { \"a\": { \"command\": \"a\" } } } } }";
    let inside = with_gate(projects, &url);
    assert!(file(&inside).groups[0].is_top && inside.contains("/p\": { \"mcpServers\": { \"a\""), "{inside}");
    let inside = with_gate("{ \"mcpServers\": null }", &url);
    assert_eq!(inside.matches("mcpServers").count(), 1, "{inside}");
    assert!(file("{ \"mcpServers\": [] }").with_gate(&url).is_err());
    assert!(file("{ \"mcpServers\": { \"bartizan\": { \"command\": \"a\" } } }").with_gate(&url).is_err());
    let kept =
        "{ \"mcpServers\": { \"bartizan\": { \"url\": \"https://OLD\", \"headers\": { \"a\": \"b\" } } } }";
    assert_eq!(with_gate(kept, &url), kept.replace("https://OLD", url.as_str()));
}

#[test]
fn a_gate_has_an_address_without_a_user() {
    for (url, is_good) in [
        ("http://localhost:8787/mcp", true),
        ("https://gate.example", true),
        ("ftp://gate.example", false),
        ("file:///mcp", false),
        ("https://me@gate.example", false),
        ("https://:word@gate.example", false),
    ] {
        assert_eq!(gate::check(&Url::parse(url).unwrap()).is_ok(), is_good, "{url}");
    }
}

#[test]
fn a_known_name_says_what_servers_are_called() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".vscode")).unwrap();
    let path = folder.path().join(".vscode/mcp.json");
    fs::write(&path, "{}").unwrap();
    let folders = Folders::of_process().unwrap();
    assert_eq!(File::named(&path, &folders).unwrap().key, "servers");
    assert!(File::named(&folder.path().join("none.json"), &folders).is_err());
}

#[test]
fn what_differs_is_imported_apart() {
    let text = r#"{ "mcpServers": {
        "a": { "command": "a", "env": { "A": "1" }, "headers": {} },
        "same": { "command": "a", "env": { "A": "2" } },
        "b": { "command": "a", "env": { "B": "1" }, "cwd": "/srv" },
        "c": { "command": "bartizan", "args": ["wrap", "--read", "/r", "--network", "open", "--", "a"] }
    } }"#;
    let file = file(text);
    let mut servers = Vec::new();
    for entry in file.entries() {
        add(&mut servers, &entry.name, Imported::of(entry).unwrap());
    }
    let names: Vec<_> = servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let json = serde_json::to_value(&servers).unwrap();
    assert_eq!(json[1]["cwd"], "/srv");
    let sandbox = serde_json::to_value(&servers[2].sandbox).unwrap();
    assert_eq!(sandbox, serde_json::json!({ "read": ["/r"], "network": "open" }));
    assert_eq!(file.entries().next().unwrap().others, ["headers"]);
}

#[test]
fn a_line_has_blanks_between_its_columns() {
    let file = file(&FILE.replace("files\":", "a-name-that-is-longer-than-its-column\":"));
    let line = Row::of(&file, file.entries().next().unwrap()).line();
    assert!(line.contains("column npx  ("), "{line}");
}
