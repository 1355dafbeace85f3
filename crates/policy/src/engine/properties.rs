//! What must hold for every bundle and every query.

use std::{collections::BTreeMap, sync::LazyLock};

use cedar_policy::{Authorizer, Entities, Entity};
use proptest::{prelude::*, sample::select, strategy::ValueTree};

use super::*;
use crate::{
    Claims, Decisions, Sightings,
    claims::OWNER,
    flow::FlowContext,
    scene::{load, owner, person, query, surroundings},
};

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal is User",
    "principal in Role::\"reader\"",
    "principal in Role::\"writer\"",
    "principal in Group::\"readers\"",
    "principal == User::\"https://idp#ann\"",
    "principal is User in Role::\"writer\"",
];
const ACTIONS: &[&str] = &[
    "action",
    "action in Action::\"use\"",
    "action in Action::\"call\"",
    "action == Action::\"list\"",
    "action in [Action::\"read\", Action::\"call\"]",
    "action == Action::\"call:files.read_file\"",
    "action in [Action::\"call:files.read_file\", Action::\"call:web.fetch\", Action::\"get\"]",
];
const RESOURCES: &[&str] = &[
    "resource",
    "resource is Tool",
    "resource in Server::\"files\"",
    "resource in Fleet::\"all\"",
    "resource is Tool in Server::\"web\"",
    "resource == Tool::\"files/read_file\"",
    "resource == Resource::\"files/file:///data/a\"",
];
const CONDITIONS: &[&str] = &[
    "",
    "",
    "when { principal is User && principal.app }",
    "unless { principal is User && principal.scopes.contains(\"s\") }",
    "when { action in Action::\"call\" && context.args has path && context.args.path like \"*a\" }",
    "when { action == Action::\"call:files.read_file\" && context.paths.path.ancestors.contains(\"/data\") && principal.app }",
    "unless { action == Action::\"call:web.fetch\" && context.urls.url.domains.contains(\"a.test\") }",
    "when { action == Action::\"call:web.fetch\" && context.args has timeout && context.args.timeout * 9223372036854775807 > 0 }",
    "when { action == Action::\"get\" && context.args has topic && context.args.topic like \"a*\" }",
    "unless { action == Action::\"get\" && context.paths has page && context.paths.page.ancestors.contains(\"/data\") }",
    "when { resource is Tool && resource.sends_out }",
    "when { principal is User && context.time > datetime(\"2020-01-01\") }",
    "when { principal is User && context has address && context.address.isInRange(ip(\"192.0.2.0/24\")) }",
    "when { principal is User && context.flow.untrusted }",
    "when { principal is User && context has auth_age_s && context.auth_age_s < 600 }",
    "when { principal is User && context.era == \"legacy\" && context.client == Client::\"agent\" }",
];
const NOTES: &[&str] = &["", "", "", "@step_up(\"s\")", "@approval(\"boss\")"];

fn policy() -> impl Strategy<Value = String> {
    let parts = (
        any::<bool>(),
        select(PRINCIPALS),
        select(ACTIONS),
        select(RESOURCES),
        select(CONDITIONS),
        select(NOTES),
    );
    parts.prop_map(|(permit, principal, action, resource, condition, note)| {
        let (note, effect) = if permit { ("", "permit") } else { (note, "forbid") };
        format!("{note} {effect} ({principal}, {action}, {resource}) {condition};")
    })
}

/// A bundle of policies drawn in any combination; those that fit nothing in the schema are left out.
pub(crate) fn bundle() -> impl Strategy<Value = Bundle> {
    static BASE: LazyLock<Bundle> = LazyLock::new(|| load(""));
    prop::collection::vec(policy(), 0..8).prop_map(|policies| {
        let valid = policies
            .into_iter()
            .filter(|text| BASE.with_changes(&[("p".into(), Some(text.clone()))].into()).is_ok());
        let numbered = valid.enumerate().map(|(i, text)| (format!("p{i}"), Some(text)));
        BASE.with_changes(&numbered.collect()).unwrap_or_else(|p| panic!("{p}")).bundle
    })
}

pub(crate) fn claims() -> impl Strategy<Value = Claims> {
    let name = select(&["ann", "bob"][..]);
    let groups = prop::sample::subsequence(vec!["readers", "writers", "others"], 0..=3);
    (name, groups, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(name, groups, app, has_scope, is_owner)| {
            let claims = if is_owner { owner() } else { person(name, &groups) };
            Claims { app, scopes: has_scope.then(|| "s".to_owned()).into_iter().collect(), ..claims }
        },
    )
}

pub(crate) type Asking = (&'static str, Action<'static>);

const PATHS: &[&str] =
    &[r#"{"path":"/data/a"}"#, r#"{"path":"/etc/b"}"#, r#"{"path":"/data/../a"}"#, r#"{"path":7}"#, "{}"];
const URLS: &[&str] = &[
    r#"{"url":"https://a.test/"}"#,
    r#"{"url":"https://b.test/","timeout":2}"#,
    r#"{"url":"https://b.test/","timeout":1}"#,
    r#"{"url":"::"}"#,
    r#"{"url":"https://a.test/","weird":1}"#,
];

const PROMPTS: &[Option<&str>] = &[
    None,
    Some(r#"{"topic":"animals","page":"/data/a"}"#),
    Some(r#"{"topic":"birds","page":"/etc/b"}"#),
    Some(r#"{"page":"/data/../a"}"#),
    Some(r#"{"topic":7}"#),
    Some(r#"{"other":"a"}"#),
];

pub(crate) fn asking() -> impl Strategy<Value = Asking> {
    prop_oneof![
        select(PATHS).prop_map(|a| ("files", Action::Call { tool: "read_file", arguments: Some(a) })),
        select(PATHS).prop_map(|a| ("files", Action::Call { tool: "delete_file", arguments: Some(a) })),
        select(URLS).prop_map(|a| ("web", Action::Call { tool: "fetch", arguments: Some(a) })),
        Just(("mail", Action::Call { tool: "search", arguments: None })),
        Just(("files", Action::List)),
        select(PROMPTS).prop_map(|arguments| ("web", Action::Get { prompt: "p", arguments })),
        Just(("web", Action::Get { prompt: "not pinned", arguments: None })),
        select(&["file:///data/a", "file:///etc/b"][..]).prop_map(|uri| ("files", Action::Read { uri })),
    ]
}

pub(crate) fn around() -> impl Strategy<Value = Surroundings> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(untrusted, private, remote)| Surroundings {
        flow: FlowContext { untrusted, private, destructive: false },
        address: remote.then_some([192, 0, 2, 7].into()),
        ..surroundings()
    })
}

/// Where, when and through which application: few of each, so that much of it comes again.
fn situation() -> impl Strategy<Value = (Surroundings, &'static str)> {
    let now = select(&[0, 300, 900][..]);
    (around(), now, any::<bool>(), select(&["agent", "other"][..])).prop_map(
        |(around, later, old, client)| {
            let now = Timestamp::from_unix(surroundings().now.as_unix() + later);
            let era = if old { crate::Era::Legacy } else { crate::Era::Modern };
            (Surroundings { now, era, ..around }, client)
        },
    )
}

/// A few lists, some of which are parts of others or the same in another order.
fn listing() -> impl Strategy<Value = (&'static str, Vec<Action<'static>>)> {
    let call = |tool| Action::Call { tool, arguments: None };
    select(vec![
        ("files", vec![call("read_file"), call("delete_file"), call("nothing")]),
        ("files", vec![call("delete_file"), call("read_file")]),
        ("files", vec![Action::Read { uri: "file:///data/a" }, Action::Read { uri: "file:///etc/b" }]),
        ("web", vec![call("fetch"), call("read_file")]),
        ("web", vec![Action::Get { prompt: "p", arguments: None }]),
        ("mail", vec![call("search"), call("send")]),
    ])
}

/// The question with every entity there is, as Cedar's own authorizer takes it, or `None` if it cannot be asked since the
/// arguments have no reading.
pub(crate) fn asked_plainly(bundle: &Bundle, query: &Query<'_>) -> Option<(Request, Entities)> {
    let subject = bundle.subject(query.server, query.action).ok()?;
    let mut reads = Reads { address: true, time: true, ..Reads::default() };
    bundle.policies.values().for_each(|p| reads.join(&p.reads));
    let asked = bundle.ask_for_caller(query, query.principal, &subject, &reads).ok()?;
    let tools = bundle.servers.values().flat_map(|s| s.tools.values());
    let all =
        tools.flat_map(|t| [&t.entity, &t.action.entity]).chain(bundle.servers.values().map(|s| &s.entity));
    let all = all.map(Known::to_public).chain(asked.public_entities());
    let distinct: BTreeMap<String, Entity> = all.map(|e| (e.uid().to_string(), e)).collect();
    let entities = Entities::from_entities(distinct.into_values(), None).unwrap();
    Some((asked.request, entities))
}

/// What Cedar's own authorizer says when it is given every policy and every entity.
fn plainly(bundle: &Bundle, query: &Query<'_>) -> Option<(bool, bool)> {
    let (request, entities) = asked_plainly(bundle, query)?;
    let response = Authorizer::new().is_authorized(&request, &bundle.policy_set().unwrap(), &entities);
    Some((
        response.decision() == cedar_policy::Decision::Allow,
        response.diagnostics().errors().next().is_some(),
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_index_changes_no_decision(bundle in bundle(), claims in claims(), all in prop::collection::vec((asking(), around()), 16)) {
        let principal = bundle.identify(claims);
        for ((server, action), surroundings) in all {
            let query = Query { surroundings, ..query(&principal, server, action) };
            let Some((allowed, failed)) = plainly(&bundle, &query) else { continue };
            let decision = bundle.authorize(&query);
            prop_assert_eq!(decision.is_permit(), allowed && !failed, "{:?} {:?}", action, decision);
        }
    }

    #[test]
    fn what_a_list_hides_no_call_can_use(bundle in bundle(), claims in claims(), all in prop::collection::vec((asking(), around()), 16)) {
        let principal = bundle.identify(claims);
        let approved = ["boss".to_owned(), "self".to_owned()];
        for ((server, action), surroundings) in all {
            let query = Query { surroundings, approved: &approved, ..query(&principal, server, action) };
            if bundle.authorize(&query).is_permit() {
                prop_assert!(bundle.may_see(&query), "{:?} is permitted but hidden", action);
            }
        }
    }

    #[test]
    fn what_a_list_shows_can_be_called_where_no_argument_matters(bundle in bundle(), claims in claims(), all in prop::collection::vec((asking(), around()), 16)) {
        prop_assume!(bundle.policies.values().all(|p| !p.reads.arguments && p.obligations.iter().all(|o| matches!(o, Obligation::Approval(_)))));
        let principal = bundle.identify(claims);
        let approved = ["boss".to_owned(), "self".to_owned()];
        for ((server, action), surroundings) in all {
            let query = Query { surroundings, approved: &approved, ..query(&principal, server, action) };
            prop_assert_eq!(bundle.authorize(&query).is_permit(), bundle.may_see(&query));
        }
    }

    #[test]
    fn what_is_remembered_of_a_list_is_what_would_be_decided(
        bundles in prop::collection::vec(bundle(), 1..3),
        who in prop::collection::vec((claims(), prop::option::of(0..1000_u64)), 2),
        asked in prop::collection::vec((any::<(prop::sample::Index, prop::sample::Index)>(), situation(), listing()), 32),
    ) {
        let memory = Sightings::default();
        for ((of_bundle, of_person), (surroundings, client), (server, list)) in asked {
            let bundle = &bundles[of_bundle.index(bundles.len())];
            let (claims, signed_in) = who[of_person.index(who.len())].clone();
            let auth_time = signed_in.map(|ago| crate::scene::surroundings().now.as_unix() - ago);
            let principal = bundle.identify(Claims { auth_time, ..claims });
            let asked = Query { surroundings, client, ..query(&principal, server, Action::List) };
            let plain: Vec<bool> = list.iter().map(|action| bundle.may_see(&Query { action: *action, ..asked })).collect();
            prop_assert_eq!(&*memory.of(bundle, &asked, &list), &*plain);
        }
    }

    #[test]
    fn what_is_remembered_of_a_call_is_what_would_be_decided(
        bundles in prop::collection::vec(bundle(), 1..3),
        who in prop::collection::vec((claims(), prop::option::of(0..1000_u64)), 2),
        asked in prop::collection::vec((any::<(prop::sample::Index, prop::sample::Index)>(), situation(), asking()), 64),
    ) {
        let memory = Decisions::default();
        for ((of_bundle, of_person), (surroundings, client), (server, action)) in asked {
            let bundle = &bundles[of_bundle.index(bundles.len())];
            let (claims, signed_in) = who[of_person.index(who.len())].clone();
            let auth_time = signed_in.map(|ago| crate::scene::surroundings().now.as_unix() - ago);
            let principal = bundle.identify(Claims { auth_time, ..claims });
            let asked = Query { surroundings, client, ..query(&principal, server, action) };
            let (plain, remembered) = (bundle.authorize(&asked), memory.authorize(bundle, &asked));
            prop_assert_eq!(format!("{plain:?}"), format!("{remembered:?}"));
        }
    }

    #[test]
    fn removing_a_permit_never_grants_more(bundle in bundle(), claims in claims(), all in prop::collection::vec((asking(), around()), 16), which in any::<prop::sample::Index>()) {
        let permits: Vec<String> = bundle.policies.values()
            .filter(|p| p.policy.effect() == cedar_policy::Effect::Permit).map(|p| p.id().to_owned()).collect();
        let gone = permits[which.index(permits.len())].clone();
        let fewer = bundle.with_changes(&[(gone, None)].into()).unwrap_or_else(|p| panic!("{p}")).bundle;
        let principal = fewer.identify(claims);
        for ((server, action), surroundings) in all {
            let query = Query { surroundings, ..query(&principal, server, action) };
            // A permit that is in doubt denies; without it there is nothing in doubt.
            let in_doubt = |r: &Reason| matches!(r, Reason::Arguments(_) | Reason::Evaluation | Reason::Unmapped);
            let before = bundle.authorize(&query);
            if fewer.authorize(&query).is_permit() && !before.denial().is_some_and(|d| in_doubt(&d.reason)) {
                prop_assert!(before.is_permit());
            }
        }
    }

    #[test]
    fn every_question_fits_the_published_schema(claims in claims(), (server, action) in conforming(), surroundings in around()) {
        let bundle = load("");
        let principal = bundle.identify(claims);
        let query = Query { surroundings, ..query(&principal, server, action) };
        let subject = bundle.subject(server, action).unwrap();
        // No text is a path and a URL at once, so only one reading can be asked for.
        let reads = Reads { urls: crate::reads::Names::None, ..Reads::everything() };
        let asked = bundle.ask_for_caller(&query, &principal, &subject, &reads);
        let asked = asked.unwrap_or_else(|reason| panic!("{reason}"));
        let (p, a, r) = (asked.request.principal().unwrap(), asked.request.action().unwrap(), asked.request.resource().unwrap());
        prop_assert!(cedar_policy::validate_scope_variables(p, a, r, &bundle.schema).is_ok());
        let context = asked.request.context().unwrap();
        prop_assert!(context.validate(&bundle.schema, a).is_ok(), "{:?}", context.validate(&bundle.schema, a));
        let entities = Entities::from_entities(asked.public_entities().into_iter().filter(|e| e.uid() != *a), Some(&bundle.schema));
        prop_assert!(entities.is_ok(), "{:?}", entities.err());
    }
}

/// Questions whose texts are all paths, or that hold none.
fn conforming() -> impl Strategy<Value = Asking> {
    let call = |tool, arguments| Action::Call { tool, arguments: Some(arguments) };
    select(vec![
        ("files", Action::List),
        ("files", Action::Task),
        ("web", Action::Get { prompt: "p", arguments: None }),
        ("web", Action::Get { prompt: "p", arguments: Some(r#"{"topic":"/a","page":"/b"}"#) }),
        ("web", Action::CompletePrompt { prompt: "p" }),
        ("files", Action::Read { uri: "file:///data/a" }),
        ("web", Action::SubscribeResource { uri: "https://a.test/x" }),
        ("files", call("read_many", r#"{"paths":["/a","/b"]}"#)),
        ("files", call("read_many", "{}")),
        ("mail", call("search", "{}")),
        ("mail", call("count", r#"{"n":-1,"price":1.5,"flag":true,"deep":{"few":[1,2]}}"#)),
    ])
}

#[test]
fn the_drawn_bundles_are_not_all_trivial() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let sizes: Vec<usize> =
        (0..32).map(|_| bundle().new_tree(&mut runner).unwrap().current().policies.len()).collect();
    assert!(sizes.iter().any(|n| *n >= 6), "{sizes:?}");
    assert!(load("").roles.of(&owner()).contains(OWNER));
}
