//! Plans about compromised servers.

use bartizan_store::{
    Plans, StoredPlans,
    plans::{Item, Plan, SecretMark, Standing, Step},
};

use crate::bench::{at, each, server};

fn plan(id: &str, name: &str, seconds: u64) -> Plan {
    Plan {
        id: id.to_owned(),
        server: server(name),
        since: Some(at(0)),
        why: "it's \u{1F375}".to_owned(),
        by: "ada".to_owned(),
        begun_at: at(seconds),
        ended_at: None,
    }
}

fn item(step: Step, name: &str, standing: Standing) -> Item {
    Item { step, name: name.to_owned(), standing, words: "so it is".to_owned(), at: Some(at(9)) }
}

#[tokio::test]
async fn one_plan_for_a_server_is_under_way_and_any_process_goes_on_with_it() {
    each(async |bench| {
        let (here, there) = (StoredPlans::new(bench.open().await), StoredPlans::new(bench.open().await));
        assert_eq!(here.latest(&server("files")).await.unwrap(), None);
        let first = plan("one", "files", 1);
        assert_eq!(here.begin(&first).await.unwrap(), first);
        assert_eq!(there.begin(&plan("two", "files", 2)).await.unwrap(), first, "that one goes on");
        assert_eq!(
            there.begin(&plan("mail", "mail", 2)).await.unwrap().id,
            "mail",
            "another server's is another"
        );
        let steps = there.items("one").await.unwrap();
        assert_eq!(steps.iter().map(|i| i.step).collect::<Vec<_>>(), Step::ALL);
        assert!(steps.iter().all(|i| i.standing == Standing::Waiting && i.name.is_empty() && i.at.is_none()));

        for done in [
            item(Step::Grants, "b", Standing::Failed),
            item(Step::Grants, "a'", Standing::Done),
            item(Step::Quarantine, "", Standing::Done),
            item(Step::Grants, "b", Standing::Done),
        ] {
            here.settle("one", &done).await.unwrap();
        }
        let items = there.items("one").await.unwrap();
        assert_eq!(items[0], item(Step::Quarantine, "", Standing::Done));
        assert_eq!(items[1].name, "", "the step before its pieces");
        assert_eq!(
            items[2..4],
            [item(Step::Grants, "a'", Standing::Done), item(Step::Grants, "b", Standing::Done)]
        );
        assert_eq!(here.items("mail").await.unwrap().len(), Step::ALL.len());

        here.end("one", at(5)).await.unwrap();
        here.end("one", at(6)).await.unwrap();
        let ended = Plan { ended_at: Some(at(5)), ..first };
        assert_eq!(there.latest(&server("files")).await.unwrap(), Some(ended));
        let third = plan("three", "files", 3);
        assert_eq!(there.begin(&third).await.unwrap(), third, "a new one after that");
        assert_eq!(here.latest(&server("files")).await.unwrap(), Some(third));
    })
    .await;
}

#[tokio::test]
async fn a_marked_secret_stays_marked_until_it_is_another() {
    each(async |bench| {
        let plans = StoredPlans::new(bench.open().await);
        let mark = |plan: &str, fingerprint: &str, seconds| SecretMark {
            server: server("files"),
            place: "env:TOKEN".to_owned(),
            plan: plan.to_owned(),
            fingerprint: fingerprint.to_owned(),
            marked_at: at(seconds),
            rotated_at: None,
        };
        plans.mark(&mark("one", "a", 1)).await.unwrap();
        plans.mark(&mark("two", "b", 2)).await.unwrap();
        assert_eq!(
            plans.marks(&server("files")).await.unwrap(),
            [mark("one", "a", 1)],
            "the first value is the one"
        );
        assert!(!plans.rotated(&server("mail"), "env:TOKEN", at(3)).await.unwrap());
        assert!(plans.rotated(&server("files"), "env:TOKEN", at(3)).await.unwrap());
        assert!(!plans.rotated(&server("files"), "env:TOKEN", at(4)).await.unwrap());
        let marks = plans.marks(&server("files")).await.unwrap();
        assert_eq!(marks[0].rotated_at, Some(at(3)));
        plans.mark(&mark("three", "c", 5)).await.unwrap();
        assert_eq!(plans.marks(&server("files")).await.unwrap(), [mark("three", "c", 5)]);
    })
    .await;
}
