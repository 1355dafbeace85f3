use super::*;
use crate::{
    Decision, Era,
    scene::{load, person, reader},
};

const NOW: u64 = 1_790_000_000;

fn asked(claims: Claims, server: &str, tool: &str, arguments: Option<&str>, time: u64) -> RecordedQuery {
    RecordedQuery {
        claims,
        client: "agent".into(),
        server: server.into(),
        action: RecordedAction::Call { tool: tool.into(), arguments: arguments.map(str::to_owned) },
        address: None,
        time,
        era: Era::Modern,
        flow: Default::default(),
        approved: Vec::new(),
    }
}

/// The use that `bundle` makes of a query it permits.
fn used(bundle: &Bundle, query: RecordedQuery) -> Use {
    let Decision::Permit(permit) = query.ask(bundle) else { panic!("denied: {query:?}") };
    Use { policies: permit.policies().to_vec(), query, credential_scopes: BTreeSet::new() }
}

fn options() -> Options {
    Options {
        since: NOW - 90 * 86_400,
        most_queries: 1000,
        people: BTreeSet::new(),
        credentials: BTreeMap::new(),
        unrecorded: BTreeSet::new(),
    }
}

const POLICIES: &str = "
    @id(\"readers\") permit (principal in Role::\"reader\", action in Action::\"call\", resource) when { context.era == \"modern\" };
    @id(\"writers\") permit (principal in Role::\"writer\", action in Action::\"use\", resource);
    @id(\"exact\") permit (principal in Role::\"reader\", action == Action::\"call:mail.search\", resource);
    @id(\"server\") permit (principal == Server::\"files\", action == Action::\"roots\", resource);";

#[test]
fn proposes_the_smaller_policy_and_breaks_nothing_that_was_used() {
    let bundle = load(POLICIES);
    let mut reviewer =
        Reviewer::new(&bundle, Options { people: ["https://idp#gone".to_owned()].into(), ..options() });
    for i in 0..100 {
        let arguments = format!("{{\"path\":\"/data/{i}\"}}");
        reviewer.observe(&used(&bundle, asked(reader(), "files", "read_file", Some(&arguments), NOW + i)));
    }
    reviewer.observe(&used(&bundle, asked(reader(), "mail", "search", Some("{}"), NOW)));
    // Too long ago to count.
    reviewer.observe(&used(&bundle, asked(person("will", &["writers"]), "web", "fetch", Some("{}"), 1)));
    let review = reviewer.finish().unwrap();
    let verdicts: BTreeMap<&str, Verdict> =
        review.rights.iter().map(|r| (r.policy.as_str(), r.verdict)).collect();
    assert_eq!(
        verdicts,
        BTreeMap::from([
            ("exact", Verdict::Fits),
            ("owner", Verdict::Fits),
            ("readers", Verdict::OverBroad),
            ("server", Verdict::Fits),
            ("writers", Verdict::Unused),
        ])
    );
    let findings: Vec<_> = review.findings().into_iter().map(|finding| finding.id).collect();
    assert_eq!(findings, ["over-broad:readers", "unused:writers"]);
    assert_eq!(review.patch["writers"], None);
    let smaller = review.patch["readers"].clone().unwrap();
    assert!(
        smaller.contains("call:files.read_file")
            && smaller.contains("call:mail.search")
            && smaller.contains("era"),
        "{smaller}"
    );
    assert_eq!((review.replay.asked, review.replay.broken.len()), (101, 0));
    assert_eq!(review.people["https://idp#gone"].tally.uses, 0);
    assert_eq!(
        (review.people["https://idp#rita"].tally.uses, review.people["https://idp#rita"].tally.last),
        (101, NOW + 99)
    );
    assert_eq!(review.roles["reader"]["readers"].uses, 101);
    let after = bundle.with_changes(&review.patch).unwrap_or_else(|p| panic!("{p}")).bundle;
    assert!(!asked(reader(), "web", "fetch", Some("{}"), NOW).ask(&after).is_permit());
    let text = review.to_string();
    assert!(text.contains("never used") && text.contains("0 broken"), "{text}");
}

#[test]
fn a_patch_that_would_break_a_use_is_caught_by_the_replay() {
    let bundle = load(POLICIES);
    let mut reviewer = Reviewer::new(&bundle, options());
    let query = asked(reader(), "files", "read_file", Some("{\"path\":\"/a\"}"), NOW);
    // The record claims that another policy decided: the review would drop the right one.
    reviewer.observe(&Use {
        policies: vec!["exact".into()],
        query: query.clone(),
        credential_scopes: BTreeSet::new(),
    });
    let review = reviewer.finish().unwrap();
    assert_eq!(review.replay.broken, [RecordedQuery { time: 0, ..query }]);
}

#[test]
fn says_what_was_not_recorded_instead_of_guessing() {
    let bundle = load(
        "@id(\"data\") permit (principal in Role::\"reader\", action == Action::\"call:files.read_file\", resource)
            when { context.paths.path.ancestors.contains(\"/data\") };",
    );
    let granted = BTreeMap::from([
        ("files".to_owned(), BTreeSet::from(["a".to_owned(), "b".to_owned()])),
        ("mail".to_owned(), BTreeSet::from(["m".to_owned()])),
    ]);
    let mut reviewer = Reviewer::new(&bundle, Options { credentials: granted, ..options() });
    let query = asked(reader(), "files", "read_file", None, NOW);
    reviewer.observe(&Use {
        policies: vec!["data".into()],
        query,
        credential_scopes: ["a".to_owned()].into(),
    });
    let review = reviewer.finish().unwrap();
    assert_eq!((review.replay.asked, review.replay.not_repeatable), (0, 1));
    assert_eq!(
        (review.credentials["files"].scopes["a"].uses, review.credentials["files"].scopes["b"].uses),
        (1, 0)
    );
    assert!(review.credentials["mail"].not_recorded);
    assert!(review.arguments.is_empty());
}

#[test]
fn memory_does_not_grow_with_uses() {
    let bundle = load(POLICIES);
    let mut reviewer = Reviewer::new(&bundle, Options { most_queries: 10, ..options() });
    for i in 0..1000 {
        let arguments = format!("{{\"path\":\"/data/{i}\",\"n\":{i},\"made up {i}\":true}}");
        reviewer.observe(&used(&bundle, asked(reader(), "files", "read_file", Some(&arguments), NOW)));
    }
    assert_eq!((reviewer.queries.len(), reviewer.not_kept), (10, 990));
    let ranges = &reviewer.arguments["call:files.read_file"];
    assert_eq!((ranges.len(), ranges["n"].numbers), (256, Some((0.0, 999.0))));
    assert!(ranges["path"].more && ranges["path"].texts.len() == TEXTS);
}

#[test]
fn narrows_nothing_on_what_is_not_recorded() {
    let policy = "@id(\"all\") permit (principal in Role::\"reader\", action in Action::\"use\", resource);";
    let bundle = load(policy);
    let unrecorded = BTreeSet::from(["notify".to_owned()]);
    let mut reviewer = Reviewer::new(&bundle, Options { unrecorded, ..options() });
    reviewer.observe(&used(&bundle, asked(reader(), "files", "read_file", Some("{\"path\":\"/a\"}"), NOW)));
    let smaller = reviewer.finish().unwrap().patch["all"].clone().unwrap();
    assert!(smaller.contains("\"notify\"") && !smaller.contains("\"task\""), "{smaller}");
}
