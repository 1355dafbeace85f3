//! Proofs, held against asking every request of a small world.
//!
//! What needs no solver is always tried: the formulas permit whatever the gate permits, so what is proved of them holds of the
//! gate. With `BARTIZAN_TEST_SOLVER` (a program that reads SMT-LIB, such as `tools/cvc5-stdin`) its answers are tried too.

use cedar_policy::{Authorizer, Decision};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::{
    Action, Claims, Query, Surroundings,
    engine::properties::{around, asked_plainly, asking, bundle, claims},
    flow::FlowContext,
    scene::{load, owner, person, query, surroundings},
};

/// Whether the formulas after these approvals permit this request; `None` for arguments that do not fit their schema, of which the formulas
/// say nothing. Where the gate permits such a call, no policy that matters reads them, and one that fits is permitted as well.
fn formulas_permit(bundle: &Bundle, query: &Query<'_>) -> Option<bool> {
    let (request, entities) = asked_plainly(bundle, query)?;
    let (principal, action, resource) = (request.principal()?, request.action()?, request.resource()?);
    let kind = bundle.schema.request_envs().find(|kind| {
        kind.action() == action
            && kind.principal() == principal.type_name()
            && kind.resource() == resource.type_name()
    });
    let facts = fact_policy(bundle, &kind?).unwrap();
    let approved = query.approved.iter().cloned().collect();
    let set = with(bundle, &facts, &approved).unwrap();
    Some(Authorizer::new().is_authorized(&request, &set, &entities).decision() == Decision::Allow)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_the_gate_permits_the_formulas_permit(bundle in bundle(), claims in claims(), all in prop::collection::vec((asking(), around()), 16)) {
        let principal = bundle.identify(claims);
        let approved = ["boss".to_owned(), "self".to_owned()];
        for ((server, action), surroundings) in all {
            let plain = Query { surroundings, ..query(&principal, server, action) };
            if bundle.authorize(&plain).is_permit() {
                prop_assert_ne!(formulas_permit(&bundle, &plain), Some(false), "{:?}", action);
            }
            let approved = Query { approved: &approved, ..plain };
            if bundle.authorize(&approved).is_permit() {
                prop_assert_ne!(formulas_permit(&bundle, &approved), Some(false), "{:?}", action);
            }
        }
    }
}

/// Everybody and everything of a small world.
fn small_world(mut each: impl FnMut(&Claims, &str, Action<'_>, Surroundings)) {
    let people =
        [owner(), person("ann", &["readers"]), person("bob", &["readers", "writers"]), person("eve", &[])];
    let path = |tool| Action::Call { tool, arguments: Some(r#"{"path":"/data/a"}"#) };
    let fetch = Action::Call { tool: "fetch", arguments: Some(r#"{"url":"https://a.test/"}"#) };
    let asking = [
        ("files", path("read_file")),
        ("files", path("delete_file")),
        ("web", fetch),
        ("mail", Action::Call { tool: "search", arguments: None }),
        ("files", Action::List),
        ("web", Action::Get { prompt: "p", arguments: None }),
        ("files", Action::Read { uri: "file:///data/a" }),
    ];
    for claims in people {
        for (app, scope) in [(false, false), (false, true), (true, false), (true, true)] {
            let scopes = scope.then(|| "s".to_owned()).into_iter().collect();
            let claims = Claims { app, scopes, ..claims.clone() };
            for (server, action) in asking {
                for untrusted in [false, true] {
                    let flow = FlowContext { untrusted, private: untrusted, destructive: false };
                    each(&claims, server, action, Surroundings { flow, ..surroundings() });
                }
            }
        }
    }
}

/// Whether anything that `fits` is permitted, if need be by an approval.
fn is_ever_permitted(bundle: &Bundle, fits: impl Fn(&Claims, &str, Action<'_>) -> bool) -> bool {
    let approved = ["boss".to_owned(), "self".to_owned()];
    let mut is_permitted = false;
    small_world(|claims, server, action, surroundings| {
        let principal = bundle.identify(claims.clone());
        let query = Query { surroundings, approved: &approved, ..query(&principal, server, action) };
        is_permitted |= fits(claims, server, action) && bundle.authorize(&query).is_permit();
    });
    is_permitted
}

/// Whether two bundles permit the same, whoever of those whom the drawn policies ask has approved it.
fn agree(one: &Bundle, other: &Bundle) -> bool {
    let mut agree = true;
    for approved in [&[][..], &["boss"], &["self"], &["boss", "self"]] {
        let approved: Vec<String> = approved.iter().map(|role| (*role).to_owned()).collect();
        small_world(|claims, server, action, surroundings| {
            let (ours, theirs) = (one.identify(claims.clone()), other.identify(claims.clone()));
            let permits = |bundle: &Bundle, principal| {
                let plain = query(principal, server, action);
                bundle.authorize(&Query { surroundings, approved: &approved, ..plain }).is_permit()
            };
            agree &= permits(one, &ours) == permits(other, &theirs);
        });
    }
    agree
}

/// Who may lift a forbid is part of what policies permit: a claim about two bundles is judged under approvals that tell them
/// apart.
#[test]
fn what_only_an_approval_makes_different_is_judged_too() {
    let asking = |annotation: &str| {
        load(&format!(
            "permit (principal in Role::\"reader\", action in Action::\"call\", resource);
             {annotation} forbid (principal, action in Action::\"call\", resource in Server::\"web\");",
        ))
    };
    let hard = asking("");
    let (boss, intern) = (asking("@approval(\"boss\")"), asking("@approval(\"intern\")"));
    let both = load(
        "permit (principal in Role::\"reader\", action in Action::\"call\", resource);
         @approval(\"boss\") forbid (principal, action in Action::\"call\", resource in Server::\"web\");
         @approval(\"intern\") forbid (principal, action in Action::\"call\", resource in Server::\"web\");",
    );
    let is_told_apart = |one: &Bundle, other: &Bundle| {
        approvals(one, &Claim::Equivalent(other)).into_iter().any(|approved| {
            let approved: Vec<String> = approved.into_iter().collect();
            let mut differ = false;
            small_world(|claims, server, action, surroundings| {
                let principal = one.identify(claims.clone());
                let plain = query(&principal, server, action);
                let asked = Query { surroundings, approved: &approved, ..plain };
                differ |= formulas_permit(one, &asked) != formulas_permit(other, &asked);
            });
            differ
        })
    };
    let all = [&hard, &boss, &intern, &both];
    for (nth, one) in all.iter().enumerate() {
        assert!(!is_told_apart(one, one));
        for other in all.iter().skip(nth + 1) {
            assert!(is_told_apart(one, other) && is_told_apart(other, one), "{one:?} {other:?}");
        }
    }
    let never = approvals(&both, &Claim::Never("principal"));
    let everybody: BTreeSet<String> = ["boss", "intern", "self"].map(str::to_owned).into();
    assert_eq!(never, [everybody], "whoever is asked may say yes");
}

/// The property above is about something: most of the small world has formulas, and they tell permits from denials.
#[test]
fn the_formulas_speak_of_the_small_world() {
    let bundle = load(
        "permit (principal in Role::\"reader\", action in Action::\"call\", resource in Server::\"mail\");",
    );
    let (mut permitted, mut denied) = (0, 0);
    small_world(|claims, server, action, surroundings| {
        let principal = bundle.identify(claims.clone());
        let query = Query { surroundings, ..query(&principal, server, action) };
        match formulas_permit(&bundle, &query).unwrap() {
            true => permitted += 1,
            false => denied += 1,
        }
    });
    assert!(permitted > 20 && denied > 20, "{permitted} {denied}");
}

/// A slip of the pen in a claim proves nothing.
#[test]
fn a_claim_about_what_there_is_not_is_none() {
    let bundle = load("permit (principal, action, resource);");
    for (scope, why) in [
        ("principal, action in Action::\"call\", resource in Server::\"wbe\"", "there is no server `wbe`"),
        (
            "principal, action in Action::\"call\", resource == Tool::\"web/fech\"",
            "the tool `web/fech` is not pinned",
        ),
        (
            "principal in Role::\"raeder\", action, resource",
            "nobody has the role `raeder`; it is not configured",
        ),
    ] {
        match region(&bundle, scope) {
            Err(ProveError::Claim { reason, .. }) => assert_eq!(reason, why),
            other => panic!("{other:?}"),
        }
    }
    let impossible =
        "principal, action == Action::\"call:web.fetch\", resource when { context.args has ulr }";
    let refused = region(&bundle, impossible);
    assert!(
        matches!(&refused, Err(ProveError::Claim { reason, .. }) if reason.contains("impossible")),
        "{refused:?}"
    );
    assert!(region(&bundle, &impossible.replace("ulr", "url")).is_ok());
    assert!(region(&bundle, "principal in Role::\"reader\", action, resource in Server::\"web\"").is_ok());
}

#[test]
fn the_small_world_tells_bundles_apart() {
    let (wide, narrow) = (
        load("permit (principal in Role::\"reader\", action in Action::\"call\", resource);"),
        load(
            "permit (principal in Role::\"reader\", action in Action::\"call\", resource in Server::\"mail\");",
        ),
    );
    let at_web = |claims: &Claims, server: &str, _: Action<'_>| server == "web" && claims.issuer != "local";
    assert!(is_ever_permitted(&wide, at_web) && !is_ever_permitted(&narrow, at_web));
    assert!(agree(&wide, &wide) && !agree(&wide, &narrow));
}

/// A solver's word against asking everybody.
#[test]
fn a_solver_says_nothing_that_the_small_world_knows_better() {
    #[expect(clippy::disallowed_methods, reason = "a test reads where its solver is")]
    let Ok(program) = std::env::var("BARTIZAN_TEST_SOLVER") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let judge = |bundle: &Bundle, claim: &Claim<'_>| {
        runtime.block_on(async {
            let mut command = tokio::process::Command::new(&program);
            command.args(["--lang", "smt", "--tlimit-per=60000"]).kill_on_drop(true);
            prove(bundle, claim, solver::LocalSolver::from_command(&mut command).unwrap()).await.unwrap()
        })
    };
    let mut runner = TestRunner::new(Config::default());
    let draw = |runner: &mut TestRunner| bundle().new_tree(runner).unwrap().current();
    let mut proved = 0;
    for _ in 0..6 {
        let (one, other) = (draw(&mut runner), draw(&mut runner));
        let never = "principal is User, action in Action::\"call\", resource in Server::\"web\"";
        let is_call = |action: Action<'_>| matches!(action, Action::Call { .. });
        let happens = is_ever_permitted(&one, |_, server, action| server == "web" && is_call(action));
        match judge(&one, &Claim::Never(never)) {
            Verdict::Proved { .. } => assert!(!happens, "it happens, and was proved never to"),
            Verdict::Refuted(_) | Verdict::Unknown(_) => {}
        }
        if let Verdict::Proved { .. } = judge(&one, &Claim::Equivalent(&other)) {
            assert!(agree(&one, &other), "they differ, and were proved equivalent");
        }
        let same = judge(&one, &Claim::Equivalent(&one));
        assert!(!matches!(same, Verdict::Refuted(_)), "a bundle is itself: {same:?}");
        proved += usize::from(matches!(same, Verdict::Proved { .. }));
    }
    assert!(proved > 0, "a solver that knows nothing proves nothing");
}
