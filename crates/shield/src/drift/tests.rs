use std::fmt::Write;

use proptest::prelude::*;

use super::{json::Node, *};

fn tool(raw: &str) -> Definition {
    Definition::read("tool", raw).unwrap()
}

/// The difference between two tools, as people see it.
fn shown(old: &str, new: &str) -> Vec<String> {
    tool(old).changes(&tool(new)).iter().map(Change::to_string).collect()
}

const READ: &str = r#"{
    "name": "read", "title": "Read", "description": "Reads a file and returns it.",
    "inputSchema": {"type": "object", "required": ["path"], "properties": {
        "path": {"type": "string", "default": "README", "x-mcp-header": "Path"},
        "mode": {"enum": ["text", "binary"], "default": 1}}},
    "outputSchema": {"type": "string"}, "annotations": {"readOnlyHint": true},
    "icons": [{"src": "https://example.com/i.png"}], "_meta": {"v": 1}}"#;

/// attacks.md PO-01: one byte in each class of field.
#[test]
fn a_change_anywhere_in_a_tool_is_another_hash_and_its_path_is_told() {
    for (from, to, path) in [
        ("returns it", "Returns it", "/description"),
        (r#""README""#, r#""README ""#, "/inputSchema/properties/path/default"),
        (r#"["text", "binary"]"#, r#"["binary", "text"]"#, "/inputSchema/properties/mode/enum/"),
        (
            r#""outputSchema": {"type": "string"}"#,
            r#""outputSchema": {"type": "String"}"#,
            "/outputSchema/type",
        ),
        ("true", "false", "/annotations/readOnlyHint"),
        (r#""Path""#, r#""Pbth""#, "/inputSchema/properties/path/x-mcp-header"),
        ("i.png", "j.png", "/icons/0/src"),
        (r#"{"v": 1}"#, r#"{"v": 1.0}"#, "/_meta/v"),
        (r#""default": 1"#, r#""default": "1""#, "/inputSchema/properties/mode/default"),
        (r#""title": "Read", "#, "", "/title"),
        (r#"["path"]"#, "[]", "/inputSchema/required/0"),
    ] {
        let changed = READ.replacen(from, to, 1);
        assert_ne!(changed, READ, "{from} is not there");
        assert_ne!(tool(&changed).hash(), tool(READ).hash(), "{from}");
        let changes = tool(READ).changes(&tool(&changed));
        assert!(!changes.is_empty() && changes.iter().all(|c| c.path.starts_with(path)), "{changes:?}");
    }
}

#[test]
fn what_means_the_same_has_one_hash_and_what_looks_the_same_has_not() {
    let hash = |raw: &str| tool(raw).hash();
    let plain = hash(r#"{"name":"t","description":"café","n":[1,2]}"#);
    assert_eq!(hash(r#" { "n" : [1, 2] ,"description":"caf\u00e9" , "\u006eame": "t" } "#), plain);
    // The accent as a letter of its own, another number text, a trailing zero-width space.
    for other in [
        r#"{"name":"t","description":"cafe\u0301","n":[1,2]}"#,
        r#"{"name":"t","description":"café","n":[1.0,2]}"#,
        r#"{"name":"t","description":"café","n":[1,2e0]}"#,
        "{\"name\":\"t\",\"description\":\"café\u{200b}\",\"n\":[1,2]}",
    ] {
        assert_ne!(hash(other), plain, "{other}");
    }
    // RFC 8785 §3.2.3: members go by UTF-16 units, so the emoji comes before the Hebrew letter.
    let keys = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
    assert_eq!(
        Node::parse(keys).unwrap().canonical(),
        "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}"
    );
    // RFC 8785 §3.2.2.2: only what must be escaped is, and in the shortest way.
    let text = r#""\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/\b\f\t\r\u007f""#;
    assert_eq!(
        Node::parse(text).unwrap().canonical(),
        "\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\\b\\f\\t\\r\u{7f}\""
    );
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let fault = |raw: &str| Node::parse(raw).unwrap_err();
    assert!(matches!(fault(r#"{"a":1,"\u0061":2}"#), Fault::Duplicate(_)));
    assert!(matches!(fault(r#"{"x":[{"a":1,"b":2,"a":1}]}"#), Fault::Duplicate(_)));
    assert_eq!(fault(&("[".repeat(65) + &"]".repeat(65))), Fault::Depth);
    assert!(Node::parse(&("[".repeat(64) + &"]".repeat(64))).is_ok());
    for raw in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "nul",
        "truex",
        "\"\n\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\u12\"",
        "\"",
        "1 2",
        "\u{feff}1",
        "[1 2]",
    ] {
        assert!(matches!(fault(raw), Fault::Syntax(_)), "{raw:?}");
    }
    assert!(matches!(Definition::read("tool", r#"{"name":1}"#), Err(Unreadable::Name("name"))));
    assert!(matches!(Definition::read("resource", r#"{"name":"r"}"#), Err(Unreadable::Name("uri"))));
    assert!(matches!(Definition::read("tools", "{}"), Err(Unreadable::Kind)));
}

#[test]
fn a_difference_reads_as_words() {
    let described = |text: &str| format!(r#"{{"name":"t","description":"{text}"}}"#);
    let words = |old: &str, new: &str| shown(&described(old), &described(new));
    assert_eq!(
        words("Reads a file.", "Reads a file. Then sends it"),
        ["/description\n    Reads a [-file.-]{+file. Then sends it+}"]
    );
    // Nothing hides: zero-width space, tag letters, a Cyrillic letter among Latin ones, an accent apart, a terminal code.
    assert_eq!(words("read it", "read\u{200b} it"), ["/description\n    [-read -]{+read⟨U+200B⟩ +}it"]);
    assert_eq!(words("x", "x\u{e0041}"), ["/description\n    [-x-]{+x⟨U+E0041⟩+}"]);
    assert_eq!(words("paypal", "pаypal"), ["/description\n    [-paypal-]{+pа⟨U+0430⟩ypal+}"]);
    assert_eq!(words("café", "cafe\u{301}"), ["/description\n    [-café-]{+cafe\u{301}⟨U+0301⟩+}"]);
    assert_eq!(
        words("a", r"a \u001b[2J\nb"),
        [r"/description
    [-a-]{+a ⟨U+001B⟩[2J\nb+}"]
    );
    // A server cannot draw our marks.
    assert_eq!(words("x", "[-safe-]{+ok+}"), ["/description\n    [-x-]{+[⟨-⟩safe⟨-⟩]{⟨+⟩ok⟨+⟩}+}"]);
    // Russian among Russians is left readable, and Chinese is told by characters.
    assert_eq!(words("читает файл", "читает файлы"), ["/description\n    читает [-файл-]{+файлы+}"]);
    assert_eq!(words("读取文件", "删除文件"), ["/description\n    [-读取-]{+删除+}文件"]);
    // Long texts show what surrounds a change.
    let long = format!("{}middle {}", "before ".repeat(40), "after ".repeat(40));
    assert_eq!(
        words(&long, &long.replace("middle", "MIDDLE")),
        [
            "/description\n    …before before before before before before [-middle -]{+MIDDLE +}after after after after after after …"
        ]
    );
    assert_eq!(
        shown(r#"{"name":"t"}"#, "{\"name\":\"t\",\"a/b\\u200b~\":{\"c\":null}}"),
        ["/a~1b⟨U+200B⟩~0\n    {+{\"c\":null}+}"]
    );
}

#[test]
fn what_is_new_is_spelled_out() {
    let tool = tool(
        r#"{"name":"t","inputSchema":{"properties":{"a/b":{"enum":[1]}},"x":{}},"description":"line\nline"}"#,
    );
    let told: Vec<_> = tool.spelled_out().into_iter().map(|c| (c.path, c.new.unwrap())).collect();
    let expected = [
        ("/description", "line\nline"),
        ("/inputSchema/properties/a~1b/enum", "[1]"),
        ("/inputSchema/x", "{}"),
        ("/name", "t"),
    ];
    assert_eq!(told, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
    let instructions = Definition::read("instructions", r#""Be kind""#).unwrap();
    assert_eq!(instructions.spelled_out()[0].new.as_deref(), Some("Be kind"));
}

#[test]
fn a_difference_of_huge_texts_and_lists_is_quick_and_whole() {
    let list = |seed: u64| {
        let numbers: Vec<_> = (0..50_000u64).map(|n| (n * seed).to_string()).collect();
        format!(r#"{{"name":"t","enum":[{}],"description":"{}"}}"#, numbers.join(","), numbers.join(" "))
    };
    let changes = tool(&list(7)).changes(&tool(&list(11)));
    assert_eq!(changes.len(), 1 + 49_999, "the two lists share their first element only");
    let text = changes.first().unwrap();
    assert_eq!(text.path, "/description");
    assert_eq!(text.words().len(), 3, "an equal word, then all that is gone, then all that is new");
}

#[test]
fn every_kind_of_drift_is_recognised() {
    let form = |text: &str| tool(&format!(r#"{{"name":"t","description":"{text}"}}"#));
    let (a, b) = (form("a"), form("b"));
    let (ha, hb) = (Some(a.hash()), Some(b.hash()));
    let changes = a.changes(&b);
    let known = Known { approved: Some(&a), ..Known::default() };

    assert_eq!(compare(&Known { past: &[ha], ..known }, Some(&a)), Drift::Unchanged);
    assert_eq!(compare(&Known { past: &[ha], ..known }, Some(&b)), Drift::Changed(changes.clone()));
    assert_eq!(compare(&known, None), Drift::Removed);
    assert_eq!(compare(&Known::default(), None), Drift::Unchanged);
    assert_eq!(compare(&Known { past: &[ha, None], ..known }, Some(&a)), Drift::Returned(vec![]));
    assert_eq!(compare(&Known { past: &[ha, None], ..known }, Some(&b)), Drift::Returned(changes.clone()));
    assert_eq!(compare(&Known::default(), Some(&a)), Drift::New);

    // A bow to a rename: the body is the same, the name is not, and the old one is gone.
    let renamed = tool(r#"{"description":"a","name":"u"}"#);
    let gone = [a.clone()];
    let orphan = Known { gone: &gone, ..Known::default() };
    assert_eq!(compare(&orphan, Some(&renamed)), Drift::Renamed { from: "t".to_owned() });
    assert_eq!(compare(&orphan, Some(&tool(r#"{"description":"c","name":"u"}"#))), Drift::New);

    // Once there and back is a return, twice is a habit.
    let once = compare(&Known { past: &[ha, ha, hb], ..known }, Some(&a));
    assert_eq!(once, Drift::Unchanged);
    let twice = compare(&Known { past: &[ha, hb, ha], ..known }, Some(&b));
    assert_eq!(twice, Drift::Flapping { turns: 2, changes: changes.clone() });
    let there_and_gone = compare(&Known { past: &[ha, None, ha, None], ..known }, Some(&a));
    assert_eq!(there_and_gone, Drift::Flapping { turns: 3, changes: vec![] });

    // Callers who are shown the same are no news, callers who are not are the worst of it.
    assert_eq!(compare(&Known { elsewhere: &[a.hash(); 3], ..known }, Some(&a)), Drift::Unchanged);
    let split = compare(&Known { elsewhere: &[a.hash()], ..known }, Some(&b));
    assert_eq!(split, Drift::Split { forms: 2, changes });
}

#[test]
fn an_identity_is_its_command_or_its_address() {
    let command = |argv: &[&str], integrity: Option<&str>| Identity::Command {
        argv: argv.iter().map(|part| (*part).to_owned()).collect(),
        package: Some(Package {
            name: "pkg:npm/server".to_owned(),
            version: "1.0.0".to_owned(),
            integrity: integrity.map(str::to_owned),
            content: None,
            dependencies: None,
        }),
        runs: Vec::new(),
    };
    let running = |argv: &[&str], content: Option<[u8; 32]>, sha256: [u8; 32]| {
        let Identity::Command { argv, package, .. } = command(argv, None) else { unreachable!() };
        let package = package.map(|package| Package { content, ..package });
        Identity::Command { argv, package, runs: vec![Run { path: "/usr/bin/node".to_owned(), sha256 }] }
    };
    let url = |key| Identity::Url { origin: "https://mcp.example.com".to_owned(), authority: None, key };
    let all = [
        command(&["npx", "server@1.0.0"], None),
        command(&["npx", "server@1.0.0"], Some("sha512-AAAA")),
        command(&["npx", "server@1.0.0"], Some("sha512-BBBB")),
        command(&["npx server@1.0.0"], None),
        running(&["npx", "server@1.0.0"], None, [1; 32]),
        running(&["npx", "server@1.0.0"], None, [2; 32]),
        running(&["npx", "server@1.0.0"], Some([1; 32]), [1; 32]),
        url(None),
        url(Some([1; 32])),
        Identity::Url { origin: "https://mcp.example.com".to_owned(), authority: Some([1; 32]), key: None },
    ];
    let mut hashes: Vec<_> = all.iter().map(|identity| identity.definition().hash()).collect();
    for identity in &all {
        let definition = identity.definition();
        let read = Definition::read("server-identity", definition.text()).unwrap();
        assert_eq!(read, definition, "it is canonical as it is made");
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), all.len());
    assert_eq!(
        all[0].definition().changes(&all[3].definition()).len(),
        2,
        "one argument is another, and one is gone"
    );
    // What says more of the same is told from what says something else.
    let bare = Identity::Command {
        argv: vec!["npx".to_owned(), "server@1.0.0".to_owned()],
        package: None,
        runs: vec![],
    };
    assert!(all[4].briefer().contains(&bare.definition()));
    assert!(
        !all[4].briefer().contains(&all[5].definition()) && !all[5].briefer().contains(&all[4].definition())
    );
    assert!(!all[3].briefer().contains(&bare.definition()), "another command");
    assert!(bare.briefer().is_empty() && all[7].briefer().is_empty());
}

#[test]
fn a_lock_file_is_for_reading_and_reads_back() {
    let locked = |server: &str, kind: &str, raw: &str| Locked {
        server: server.parse().unwrap(),
        kind: kind.to_owned(),
        definition: Definition::read(kind, raw).unwrap(),
    };
    let lock = LockFile::new(vec![
        locked("web", "tool", "{\"name\":\"fetch\",\"description\":\"Gets\u{200b} a page\",\"n\":1.50}"),
        locked("files", "instructions", r#""Be kind""#),
        locked("files", "resource", r#"{"uri":"file:///a","list":[],"none":{}}"#),
    ])
    .unwrap();
    let text = lock.to_string();
    assert_eq!(
        text,
        r#"{
  "version": 1,
  "pins": [
    {
      "server": "files",
      "kind": "instructions",
      "name": "instructions",
      "sha256": "INSTRUCTIONS",
      "definition": "Be kind"
    },
    {
      "server": "files",
      "kind": "resource",
      "name": "file:///a",
      "sha256": "RES",
      "definition": {
        "list": [],
        "none": {},
        "uri": "file:///a"
      }
    },
    {
      "server": "web",
      "kind": "tool",
      "name": "fetch",
      "sha256": "TOOL",
      "definition": {
        "description": "Gets\u200b a page",
        "n": 1.50,
        "name": "fetch"
      }
    }
  ]
}
"#
        .replace("INSTRUCTIONS", &hash_at(&lock, 0))
        .replace("RES", &hash_at(&lock, 1))
        .replace("TOOL", &hash_at(&lock, 2))
    );
    assert_eq!(text.parse::<LockFile>().unwrap(), lock);
    assert_eq!(LockFile::default().to_string().parse::<LockFile>().unwrap(), LockFile::default());

    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1).parse::<LockFile>().unwrap_err()
    };
    assert!(matches!(refused("Gets", "Sends"), LockError::Forged(3, "sha256")));
    assert!(matches!(
        refused("\"name\": \"fetch\",\n      \"sha", "\"name\": \"f\",\n      \"sha"),
        LockError::Forged(3, "name")
    ));
    assert!(matches!(refused("\"version\": 1", "\"version\": 2"), LockError::Version));
    assert!(matches!(refused("\"server\": \"web\"", "\"server\": \"WEB\""), LockError::Shape { .. }));
    assert!(matches!(
        refused("\"server\": \"web\"", "\"server\": \"web\", \"trust\": 1"),
        LockError::Shape { .. }
    ));
    assert!(matches!(refused("\"kind\": \"tool\"", "\"kind\": \"toy\""), LockError::Unreadable(3, _)));
    assert!(matches!(refused("{", "[{"), LockError::Json(_)));
    let twice = LockFile::new(vec![
        locked("a", "tool", r#"{"name":"t"}"#),
        locked("a", "tool", r#"{"name":"t","n":1}"#),
    ]);
    assert!(matches!(twice, Err(LockError::Duplicate(2))));
}

fn hash_at(lock: &LockFile, at: usize) -> String {
    hex::encode(lock.pins()[at].definition.hash())
}

/// Any tree, with keys and strings that need every care.
fn tree() -> impl Strategy<Value = Node> {
    let text = prop_oneof![
        any::<String>(),
        "[a-c]{0,3}",
        prop::sample::select(vec![
            "\u{0}",
            "\u{7f}",
            "é",
            "e\u{301}",
            "\u{ffff}",
            "😀",
            "\u{e0041}",
            "\"\\/"
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Node::Null),
        any::<bool>().prop_map(Node::Boolean),
        r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?".prop_map(Node::Number),
        text.clone().prop_map(Node::Text),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Node::Array),
            prop::collection::btree_map(text.clone(), inner, 0..6).prop_map(|members| {
                let mut members: Vec<_> = members.into_iter().collect();
                members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
                Node::Object(members)
            }),
        ]
    })
}

/// The same value as somebody else might write it.
fn scrawl(node: &Node, dice: &mut impl FnMut(usize) -> usize) -> String {
    let blank = |dice: &mut dyn FnMut(usize) -> usize| [" ", "", "\n\t", "\r\n"][dice(4)];
    let mut quoted = |text: &str| {
        let mut out = String::from("\"");
        for c in text.chars() {
            let must = c < ' ' || c == '"' || c == '\\';
            if must || dice(3) == 0 {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    if dice(2) == 0 { write!(out, "\\u{unit:04x}") } else { write!(out, "\\u{unit:04X}") }
                        .unwrap();
                }
            } else {
                out.push(c);
            }
        }
        out + "\""
    };
    let body = match node {
        Node::Text(text) => quoted(text),
        Node::Array(elements) => {
            let parts: Vec<_> = elements.iter().map(|element| scrawl(element, dice)).collect();
            format!("[{}]", parts.join(","))
        }
        Node::Object(members) => {
            let mut parts: Vec<_> = Vec::new();
            for (key, value) in members {
                let key = quoted_with(key, dice);
                let value = scrawl(value, dice);
                parts.insert(dice(parts.len() + 1), format!("{key}{}:{value}", blank(dice)));
            }
            format!("{{{}}}", parts.join(","))
        }
        plain => plain.canonical(),
    };
    format!("{}{body}{}", blank(dice), blank(dice))
}

fn quoted_with(text: &str, dice: &mut impl FnMut(usize) -> usize) -> String {
    scrawl(&Node::Text(text.to_owned()), dice).trim_matches([' ', '\n', '\t', '\r']).to_owned()
}

proptest! {
    #[test]
    fn order_blanks_and_escapes_never_change_the_hash(node in tree(), seed in any::<u64>()) {
        let mut state = seed;
        let mut dice = |sides: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % sides
        };
        let scrawled = scrawl(&node, &mut dice);
        let read = Definition::read("instructions", &scrawled).unwrap();
        let plain = Definition::read("instructions", &node.canonical()).unwrap();
        prop_assert_eq!(read.hash(), plain.hash());
        prop_assert_eq!(plain.text(), node.canonical());
        prop_assert!(plain.changes(&read).is_empty());
        prop_assert_eq!(Node::parse(&node.pretty(2)).unwrap(), node);
    }

    #[test]
    fn any_change_of_meaning_changes_the_hash_and_is_told(a in tree(), b in tree()) {
        let [da, db] = [&a, &b].map(|node| Definition::read("instructions", &node.canonical()).unwrap());
        prop_assert_eq!(da.hash() == db.hash(), a == b);
        prop_assert_eq!(da.changes(&db).is_empty(), a == b);
        for change in da.changes(&db) {
            prop_assert!(change.old != change.new);
            let words = change.words();
            let side = |skip: fn(&Word) -> bool| words.iter().filter(|word| !skip(word)).map(|word| match word {
                Word::Gone(text) | Word::New(text) | Word::Same(text) => text.as_str(),
            }).collect::<String>();
            prop_assert_eq!(side(|w| matches!(w, Word::New(_))), change.old.clone().unwrap_or_default());
            prop_assert_eq!(side(|w| matches!(w, Word::Gone(_))), change.new.clone().unwrap_or_default());
            prop_assert!(!change.to_string().replacen("\n    ", "", 1).contains(is_hidden));
        }
    }

    #[test]
    fn one_leaf_that_changes_is_the_one_change_told(node in tree(), at in any::<prop::sample::Index>()) {
        let mut changed = node.clone();
        let mut leaves = Vec::new();
        fn collect<'a>(node: &'a mut Node, leaves: &mut Vec<&'a mut Node>) {
            match node {
                Node::Array(elements) => elements.iter_mut().for_each(|n| collect(n, leaves)),
                Node::Object(members) => members.iter_mut().for_each(|(_, n)| collect(n, leaves)),
                leaf => leaves.push(leaf),
            }
        }
        collect(&mut changed, &mut leaves);
        prop_assume!(!leaves.is_empty());
        let place = at.index(leaves.len());
        *leaves[place] = match &*leaves[place] {
            Node::Text(text) => Node::Text(format!("{text}\u{200b}")),
            Node::Number(text) => Node::Text(text.clone()),
            Node::Boolean(value) => Node::Boolean(!value),
            _ => Node::Text("null".to_owned()),
        };
        let [old, new] = [&node, &changed].map(|n| Definition::read("instructions", &n.canonical()).unwrap());
        prop_assert_ne!(old.hash(), new.hash());
        prop_assert!(!old.changes(&new).is_empty());
    }

    /// Whatever serde_json takes we take, and the reverse, but for what we refuse on purpose.
    #[test]
    fn reads_what_serde_json_reads(text in r#"[\[\]{}:,"\\a-c0-2\. eEu+-]{0,24}"#) {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match Node::parse(&text) {
            Ok(_) => prop_assert!(theirs.is_ok() || theirs.unwrap_err().to_string().contains("number out of range"), "we took {text:?}"),
            Err(Fault::Syntax(_)) => prop_assert!(theirs.is_err(), "we refused {text:?}"),
            Err(_) => {}
        }
    }
}
