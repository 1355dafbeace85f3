use bartizan_model::SeededEntropy;

use super::*;
use crate::event::{Details, EventId, Finding, Pseudonym};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + seconds)
}

fn refused(person: u8, reason: &str) -> Entry {
    Entry {
        seq: 0,
        base: 0,
        id: EventId::random(&SeededEntropy::new(1)),
        time: at(0).into(),
        kind: Kind::RequestRefused,
        person: Some(Pseudonym::from_bytes([person; 16])),
        client: Some("ide".into()),
        address: None,
        stranger_address: None,
        details: Box::new(Details {
            server: Some("files".parse().unwrap()),
            tool: Some("read".into()),
            reason: reason.parse().ok(),
            decision: Some(Decision::Deny),
            ..Details::default()
        }),
    }
}

fn watch(when: When, by: &[Field]) -> Watch {
    let matching = Matching { kinds: vec![Kind::RequestRefused], ..Matching::default() };
    let rule =
        Rule { name: "r".to_owned(), matching, by: by.to_vec(), when, quiet: Duration::from_secs(100) };
    Watch::new(rule, at(0), [])
}

fn counts(watch: &mut Watch, person: u8, times: &[u64]) -> Vec<Option<u64>> {
    times
        .iter()
        .map(|t| watch.see(&refused(person, "policy.denied"), at(*t)).0.map(|met| met.count))
        .collect()
}

#[test]
fn a_threshold_counts_each_person_apart_and_forgets_what_is_old() {
    let when = When::Threshold { count: 3, within: Duration::from_secs(60) };
    let mut watch = watch(when, &[Field::Person]);
    assert_eq!(counts(&mut watch, 1, &[0, 10]), [None, None]);
    assert_eq!(counts(&mut watch, 2, &[11]), [None], "somebody else");
    assert_eq!(counts(&mut watch, 1, &[70, 71]), [None, None], "the first two are too old");
    assert_eq!(counts(&mut watch, 1, &[72]), [Some(3)]);
    assert_eq!(counts(&mut watch, 1, &[73, 74, 75]), [None; 3], "told already");
    assert_eq!(counts(&mut watch, 1, &[171, 171, 172]), [None, None, Some(3)], "told again after the quiet");
}

#[test]
fn a_rule_is_not_silenced_by_a_clock_that_is_set_back() {
    let mut watch = watch(When::Threshold { count: 1, within: Duration::from_secs(1) }, &[Field::Person]);
    assert_eq!(counts(&mut watch, 1, &[86_400, 86_401]), [Some(1), None]);
    let told = counts(&mut watch, 1, &[10, 11]);
    assert!(told[0].is_some() && told[1].is_none(), "{told:?}");
}

#[test]
fn the_first_of_its_kind_is_told_once_and_not_while_the_rule_learns() {
    let when = When::FirstSeen { learn: Duration::from_secs(50) };
    let mut first = watch(when.clone(), &[Field::Person, Field::Tool]);
    let (met, new) = first.see(&refused(1, "x"), at(0));
    assert_eq!((met, new.as_ref().map(Vec::len)), (None, Some(2)), "learnt");
    assert_eq!(first.see(&refused(1, "x"), at(60)), (None, None), "known");
    let (met, new) = first.see(&refused(2, "x"), at(60));
    assert_eq!(met.map(|met| met.key), new.clone());
    assert!(new.is_some());
    // What another process remembers is known to this one.
    let rule = first.rule().clone();
    let mut again = Watch::new(rule, at(0), new);
    assert_eq!(again.see(&refused(2, "x"), at(61)), (None, None));
}

#[test]
fn a_burst_is_more_than_usual_and_not_only_much() {
    let when = When::Burst {
        times: 5,
        within: Duration::from_secs(10),
        over: Duration::from_secs(100),
        at_least: 6,
    };
    let mut busy = watch(when.clone(), &[]);
    // Four in each ten seconds are usual here; so are six now and then.
    for slice in 0..10 {
        assert_eq!(counts(&mut busy, 1, &[slice * 10; 4]), [None; 4]);
    }
    assert_eq!(counts(&mut busy, 1, &[100; 20]), [None; 20]);
    assert!(counts(&mut busy, 1, &[110; 40]).iter().any(Option::is_some), "five times as many are not");
    let mut idle = watch(when, &[]);
    let told = counts(&mut idle, 1, &[200; 7]);
    assert_eq!(told.iter().position(Option::is_some), Some(5), "at least so many");
}

#[test]
fn everything_that_is_given_must_fit() {
    let mut entry = refused(1, "policy.denied");
    entry.details.findings = vec![Finding {
        rule: "secret.github-token".into(),
        severity: Severity::High,
        place: "x".into(),
        action: "block".into(),
    }];
    let fits = |matching: Matching| matching.fits(&entry);
    let reason = |text: &str| Matching { reasons: vec![text.parse().unwrap()], ..Matching::default() };
    assert!(fits(Matching::default()));
    assert!(fits(reason("policy")) && fits(reason("policy.denied")));
    assert!(!fits(reason("pol")) && !fits(reason("policy.denied.more")));
    let finding = |text: &str| Matching { findings: vec![text.to_owned()], ..Matching::default() };
    assert!(fits(finding("secret")) && !fits(finding("secr")) && !fits(finding("injection")));
    assert!(fits(Matching { severity: Some(Severity::High), ..Matching::default() }));
    assert!(!fits(Matching { severity: Some(Severity::Critical), ..Matching::default() }));
    assert!(!fits(Matching { decision: Some(Decision::Permit), ..reason("policy") }));
    assert!(!fits(Matching { servers: vec!["web".to_owned()], ..Matching::default() }));
    entry.kind = Kind::AlertRaised;
    assert!(!Matching::default().fits(&entry), "alerts make no alerts");
}

#[test]
fn a_flood_of_keys_takes_no_more_than_its_room() {
    let when = When::Threshold { count: 2, within: Duration::from_secs(1_000_000) };
    let mut watch = watch(when, &[Field::Tool]);
    for n in 0..3 * KEYS as u64 {
        let mut entry = refused(1, "x");
        entry.details.tool = Some(format!("t{n}").as_str().into());
        watch.see(&entry, at(n));
    }
    assert!(watch.keys.len() <= KEYS);
    let mut newest = refused(1, "x");
    newest.details.tool = Some(format!("t{}", 3 * KEYS - 1).as_str().into());
    assert!(watch.see(&newest, at(3 * KEYS as u64)).0.is_some(), "the newest is remembered");
}

/// An entry of a call that brings these labels.
fn brings(person: u8, labels: &[&str]) -> Entry {
    let mut entry = refused(person, "policy.denied");
    entry.kind = Kind::CallOpened;
    entry.details.reason = None;
    entry.details.decision = Some(Decision::Permit);
    entry.details.labels = labels.iter().map(|label| (*label).into()).collect();
    entry
}

#[test]
fn labels_that_must_not_meet_are_told_when_they_have_in_one_persons_window() {
    let rule = |attempt| Rule {
        name: "r".to_owned(),
        matching: Matching::default(),
        by: vec![Field::Person],
        when: When::Flow {
            meet: vec!["private".to_owned(), "untrusted".to_owned()],
            within: Duration::from_secs(60),
            attempt,
        },
        quiet: Duration::from_secs(10),
    };
    let mut met = Watch::new(rule(false), at(0), []);
    let mut see = |entry: &Entry, t| met.see(entry, at(t)).0.is_some();
    assert!(!see(&brings(1, &["untrusted"]), 0));
    assert!(!see(&brings(2, &["private"]), 1), "somebody else's window");
    assert!(!see(&brings(1, &["destructive"]), 2));
    assert!(see(&brings(1, &["private"]), 3));
    assert!(!see(&brings(1, &["private"]), 4), "told already");
    assert!(!see(&brings(1, &["private"]), 70), "the untrusted text is too old");
    assert!(see(&brings(1, &["untrusted", "private"]), 71), "both at once");

    let mut tried = Watch::new(rule(true), at(0), []);
    let mut see = |entry: &Entry, t| tried.see(entry, at(t)).0.is_some();
    let flow = |person| refused(person, "policy.flow");
    assert!(!see(&flow(1), 0), "nothing has met");
    assert!(!see(&brings(1, &["untrusted", "private"]), 1), "nothing would have gone out");
    assert!(!see(&flow(2), 2));
    assert!(see(&flow(1), 3));
    let mut found = brings(1, &[]);
    found.details.findings.push(Finding {
        rule: "exfiltration.link".into(),
        severity: Severity::High,
        place: "result".into(),
        action: "block".into(),
    });
    assert!(see(&found, 20), "found by the shield");
    assert!(!see(&flow(1), 62), "the window is over");
}
