//! How fast text is judged. `cargo test -p bartizan-shield --release --test speed -- --ignored --nocapture`

use std::time::Duration;

use bartizan_shield::{
    Config, Fragment, Kind, Scene, Shield, json,
    normalize::{Limits, normalize, views},
};

/// Sentences of many words with a heading and a list now and then, `bytes` of them.
fn prose(bytes: usize) -> String {
    const WORDS: &[&str] = &[
        "the",
        "server",
        "returns",
        "a",
        "list",
        "of",
        "files",
        "that",
        "were",
        "changed",
        "since",
        "last",
        "week",
        "and",
        "their",
        "sizes",
        "in",
        "kilobytes",
        "weather",
        "station",
        "reports",
        "temperature",
        "wind",
        "from",
        "north",
        "customers",
        "order",
        "status",
        "pending",
        "shipped",
        "each",
        "item",
        "has",
        "price",
        "quantity",
        "description",
        "which",
        "may",
        "be",
        "empty",
    ];
    let mut text = String::with_capacity(bytes + 64);
    let mut state = 7_u32;
    while text.len() < bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(WORDS.get(state as usize >> 8 & 31).unwrap_or(&"and"));
        text.push_str(match state >> 24 {
            0..=12 => ". ",
            13..=16 => ",\n\n- ",
            17 => ": 1024, ",
            _ => " ",
        });
    }
    text.truncate(bytes);
    text
}

/// Processor time of this thread, which others on the machine do not change; exact to some milliseconds.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default())
}

/// Processor time of one `run`, averaged over half a second of them.
fn average(mut run: impl FnMut()) -> Duration {
    run();
    let (start, mut rounds) = (processor_time(), 0);
    while processor_time().saturating_sub(start) < Duration::from_millis(500) {
        // Reading the clock must not count.
        for _ in 0..16 {
            run();
        }
        rounds += 16;
    }
    processor_time().saturating_sub(start) / rounds
}

#[test]
#[ignore = "measures time; needs an idle core and --release"]
fn clean_text_is_judged_at_sixty_megabytes_a_second() {
    let start = processor_time();
    let shield = Shield::new(Config::default());
    println!("rules ready in {:?}", processor_time() - start);
    let long = prose(500_000);
    let rate = |took: Duration| 0.5 / took.as_secs_f64();
    let normal = rate(average(|| assert!(normalize(&long).tricks().as_slice().is_empty())));
    let viewed = rate(average(|| assert!(views(&long, Limits::for_text(&long)).others().is_empty())));
    let text = [Fragment::new(Kind::Result, "", long.as_str())];
    let judged = rate(average(|| assert!(shield.inspect(&Scene::default(), &text).findings.is_empty())));
    let whole = Shield::shipped(Config::default());
    let whole_judged = rate(average(|| drop(whole.inspect(&Scene::default(), &text))));
    let each = |shield: &Shield, bytes: usize| {
        let short = prose(bytes);
        let text = [Fragment::new(Kind::Result, "", short.as_str())];
        average(|| {
            shield.inspect(&Scene::default(), &text);
        })
    };
    let (small, medium) = (each(&whole, 200), each(&whole, 2_000));
    let (small_by_rules, medium_by_rules) = (each(&shield, 200), each(&shield, 2_000));
    let object = format!(
        "[{}]",
        vec![format!("{{\"id\":\"a1\",\"note\":\"{}\"}}", prose(80).replace('\n', " ")); 20].join(",")
    );
    let parsed = average(|| {
        let fragments = json::fragments(&object, Kind::Result, json::Limits::default()).unwrap();
        whole.inspect(&Scene::default(), &fragments);
    });
    println!(
        "normal form {normal:.0} MB/s, views {viewed:.0} MB/s, judged by rules {judged:.0} MB/s, and by the model {whole_judged:.0} MB/s"
    );
    println!("by rules 200 B in {small_by_rules:?}, 2 kB in {medium_by_rules:?}");
    println!("and by the model {small:?}, {medium:?}, {} B of JSON in {parsed:?}", object.len());
    assert!(whole_judged >= 60.0);
    assert!(small <= Duration::from_micros(20) && medium <= Duration::from_micros(100));
}

#[test]
#[ignore = "measures time; needs --release"]
fn no_text_takes_long() {
    let shield = Shield::new(Config::default());
    let fill = |unit: &str| unit.repeat(256 * 1024 / unit.len() + 1);
    let rules = bartizan_shield::Patterns::shipped();
    let keywords: Vec<String> = rules.rules().rules().flat_map(|rule| rule.keywords.clone()).collect();
    let caught: Vec<String> = rules.rules().rules().flat_map(|rule| rule.caught.clone()).collect();
    let texts = [
        ("comments that do not end", fill("<!--")),
        ("tags that do not end", fill("<a \"")),
        ("scripts that do not end", fill("<script>")),
        ("entities", fill("&#105;")),
        ("brackets in addresses", fill("a://{{secret[")),
        ("bare addresses", fill("://")),
        ("digits", fill("4111 1111 1111 1112 ")),
        ("Russian", fill("Привет, это обычный текст без подвоха. ")),
        ("Chinese", fill("这是一个普通的文本，没有任何问题。")),
        ("zero-width", fill("a\u{200b}")),
        ("marks", fill("a\u{301}\u{302}\u{303}")),
        ("one keyword", fill("ignore ")),
        ("all keywords", fill(&keywords.join(" "))),
        ("all examples", fill(&caught.join("\n"))),
        ("escapes", fill("%41+\\u0041")),
        ("spaced", fill("a b ")),
        ("leet", fill("1gn0r3 pr3v10us ")),
        ("base64", fill("aWdub3JlIGFsbCBwcmV2aW91cyBpbnN0cnVjdGlvbnM= ")),
    ];
    for (name, text) in &texts {
        for kind in [Kind::Result, Kind::ClientText] {
            let start = processor_time();
            shield.inspect(&Scene::default(), &[Fragment::new(kind, "", text.as_str())]);
            let took = processor_time() - start;
            println!(
                "{name} as {kind:?}: {took:?}, {:.1} MB/s",
                text.len() as f64 / 1e6 / took.as_secs_f64()
            );
            assert!(took < Duration::from_secs(2), "{name}");
        }
    }
}

/// A server can fill a text with a keyword of any rule. The slowest are printed.
#[test]
#[ignore = "measures time; needs an idle core and --release"]
fn no_keyword_makes_a_text_slow() {
    let shield = Shield::new(Config::default());
    let filler = prose(120);
    let mut rates = Vec::new();
    for pack in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/rules")).unwrap() {
        let pack: toml::Table = std::fs::read_to_string(pack.unwrap().path()).unwrap().parse().unwrap();
        for rule in pack["rule"].as_array().unwrap() {
            let words = rule.get("keywords").and_then(|words| words.as_array()).into_iter().flatten();
            let Some(word) = words.filter_map(|word| word.as_str()).max_by_key(|word| word.len()) else {
                continue;
            };
            let text = format!("{word} {filler}\n").repeat(64 * 1024 / (filler.len() + word.len()));
            let text = [Fragment::new(Kind::Result, "", text.as_str())];
            shield.inspect(&Scene::default(), &text);
            let start = processor_time();
            shield.inspect(&Scene::default(), &text);
            let took = processor_time() - start;
            rates.push((
                text[0].text.len() as f64 / took.as_secs_f64() / 1e6,
                rule["id"].to_string(),
                word.to_owned(),
            ));
        }
    }
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (rate, rule, word) in rates.iter().take(15) {
        println!("{rate:.1} MB/s: {rule} by {word:?}");
    }
}
