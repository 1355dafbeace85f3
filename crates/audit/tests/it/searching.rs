//! Finding a few entries among very many.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use bartizan_audit::{
    Details, Event, Kind,
    event::{Decision, Finding, Severity},
    search::{Filter, Term, search},
};
use bartizan_model::{Caller, Clock, Timestamp};

use crate::scene::{Scene, files};

/// 200,000 entries, one a second, over several segments.
#[test]
fn two_hundred_thousand_entries_are_searched_by_any_field_and_time() {
    const ENTRIES: u64 = 200_000;
    let mut scene = Scene::new();
    scene.options.segment_bytes = 8 << 20;
    let began = scene.clock.now();
    let log = scene.start();
    let people: Vec<_> = (0..10).map(|n| Caller::new("https://id.example", format!("p{n}"), "ide")).collect();
    for n in 0..ENTRIES {
        let details = Details {
            server: Some(format!("s{}", n % 7).parse().unwrap()),
            decision: Some(if n % 1000 == 0 { Decision::Deny } else { Decision::Permit }),
            findings: if n % 50_000 == 1 {
                vec![Finding {
                    rule: "exfil".into(),
                    severity: Severity::High,
                    place: "result".into(),
                    action: "block".into(),
                }]
            } else {
                Vec::new()
            },
            message: Some("words".into()),
            ..Details::default()
        };
        let event = Event::new(Kind::Authorized)
            .by(&people[usize::try_from(n).unwrap() % people.len()])
            .with(details);
        while n - log.durable().min(n) > 5_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        log.mention(event);
        scene.clock.advance(Duration::from_secs(1));
    }
    let pseudonym = log.persons().of(&people[3]).unwrap().pseudonym().to_string();
    drop(log);
    let folder = scene.log_folder();
    assert!(files(&folder).len() > 5);

    let with = |terms: &[(&str, &str)]| Filter {
        terms: terms.iter().map(|(field, value)| Term::new(*field, *value)).collect(),
        ..Filter::default()
    };
    let count = |filter: &Filter| search(&folder, filter, 5).unwrap().total;
    assert_eq!(count(&with(&[("kind", "authorization.decided")])), ENTRIES);
    assert_eq!(count(&with(&[("decision", "deny")])), ENTRIES / 1000);
    assert_eq!(count(&with(&[("person", &pseudonym)])), ENTRIES / 10);
    assert_eq!(count(&with(&[("person", &pseudonym), ("decision", "deny")])), 0);
    assert_eq!(
        count(&with(&[("server", "s1"), ("decision", "deny")])),
        (0..ENTRIES).filter(|n| n % 1000 == 0 && n % 7 == 1).count() as u64
    );
    assert_eq!(count(&with(&[("findings.rule", "exfil"), ("findings.severity", "high")])), 4);
    assert_eq!(count(&with(&[("server", "nowhere")])), 0);
    assert_eq!(
        count(&with(&[("message", "words"), ("decision", "deny")])),
        ENTRIES / 1000,
        "by a field that is not indexed"
    );

    let hour = Filter {
        since: Some(began.plus(Duration::from_secs(100_000))),
        until: Some(began.plus(Duration::from_secs(103_600))),
        ..with(&[("decision", "deny")])
    };
    let found = search(&folder, &hour, 2).unwrap();
    assert_eq!((found.total, found.lines.len()), (4, 2));
    assert!(found.lines[0].1.contains("2025-10-10T13:30:00.000Z"), "newest first: {}", found.lines[0].1);
    assert!(found.lines[1].1.contains("2025-10-10T13:13:20.000Z"));

    // In a process of its own, for memory is a process's: once while indexes are made, and once by them.
    let bytes: u64 = files(&folder).iter().map(|f| std::fs::metadata(f).unwrap().len()).sum();
    assert!(bytes > 2 * MOST_MEMORY, "{bytes} bytes would fit as they are");
    for made in [false, true] {
        if !made {
            for index in files(&folder).iter().map(|f| f.with_extension("index")).filter(|f| f.exists()) {
                std::fs::remove_file(index).unwrap();
            }
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "searching::searches_and_tells_what_it_took", "--ignored", "--nocapture"])
            .arg("--test-threads=1")
            .env("BARTIZAN_TEST_LOG", &folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success(), "{said}");
        let took = said.lines().find_map(|line| line.strip_prefix("took ")?.parse::<u64>().ok());
        let took = took.unwrap_or_else(|| panic!("{said}"));
        println!("{took} bytes, with indexes there: {made}");
        assert!(took <= MOST_MEMORY, "{took} bytes, with indexes there: {made}");
    }

    // The indexes say nothing that a scan does not, and hold nobody's name.
    for index in files(&folder).iter().map(|f| f.with_extension("index")).filter(|f| f.exists()) {
        std::fs::write(&index, b"bzindex1 but stale").unwrap();
    }
    assert_eq!(count(&with(&[("decision", "deny")])), ENTRIES / 1000, "a stale index is made anew");
    assert_eq!(scene.verify().problem, None);
}

/// What searching may take at most, in bytes, however long the log is: enough for the index of one segment.
const MOST_MEMORY: u64 = 12 << 20;

/// The child of the test above: not a test of its own.
#[test]
#[ignore = "run by the search test"]
fn searches_and_tells_what_it_took() {
    let Some(folder) = std::env::var_os("BARTIZAN_TEST_LOG") else { return };
    let folder = std::path::PathBuf::from(folder);
    let before = peak();
    // By an index, by time, everything there is, and by reading all of it.
    for (terms, since) in [
        (vec![Term::new("decision", "deny")], None),
        (vec![Term::new("kind", "authorization.decided"), Term::new("server", "s3")], None),
        (Vec::new(), Some(Timestamp::from_unix(1_760_100_000))),
        (vec![Term::new("message", "words")], None),
    ] {
        let found = search(&folder, &Filter { terms, since, until: None }, 100).unwrap();
        assert!(found.total > 100 && found.lines.len() == 100);
    }
    println!("\ntook {}", peak() - before);
}

/// The most memory that this process has had, in bytes (proc(5), `VmHWM`).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

/// Takes minutes and gigabytes: `just search-scale`. `BARTIZAN_TEST_ENTRIES` makes it smaller.
#[test]
#[ignore = "ten million entries"]
fn ten_million_entries_are_searched_in_two_seconds() {
    let wanted = std::env::var_os("BARTIZAN_TEST_ENTRIES");
    let entries: u64 = wanted.map_or(10_000_000, |n| n.to_str().unwrap().parse().unwrap());
    let scene = Scene::new();
    let log = scene.start();
    let people: Vec<_> =
        (0..100).map(|n| Caller::new("https://id.example", format!("p{n}"), "ide")).collect();
    for n in 0..entries {
        let details = Details {
            server: Some(format!("s{}", n % 7).parse().unwrap()),
            decision: Some(if n % 1000 == 0 { Decision::Deny } else { Decision::Permit }),
            ..Details::default()
        };
        let by = &people[usize::try_from(n % 97).unwrap()];
        while n - log.durable().min(n) > 5_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        log.mention(Event::new(Kind::Authorized).by(by).with(details));
        scene.clock.advance(Duration::from_secs(1));
    }
    let person = log.persons().of(&people[3]).unwrap().pseudonym().to_string();
    drop(log);
    let folder = scene.log_folder();
    // Whatever was not indexed while it was written.
    let everything = Filter { terms: vec![Term::new("kind", "log.opened")], ..Filter::default() };
    assert_eq!(search(&folder, &everything, 1).unwrap().total, 1);
    for terms in [
        vec![Term::new("decision", "deny")],
        vec![Term::new("person", person.as_str()), Term::new("decision", "deny")],
        vec![Term::new("kind", "authorization.decided"), Term::new("server", "s3")],
    ] {
        let began = Instant::now();
        let found = search(&folder, &Filter { terms: terms.clone(), ..Filter::default() }, 100).unwrap();
        let took = began.elapsed();
        println!("{terms:?}: {} of {entries} in {took:?}", found.total);
        assert!(found.total > 0);
        assert!(took < Duration::from_secs(2), "{terms:?} took {took:?}");
    }
}
