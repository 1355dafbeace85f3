//! Decisions of people, each for one exact call.

use std::{sync::Arc, time::Duration};

use bartizan_model::SeededEntropy;
use bartizan_store::{
    Approvals, Database, Digest, StoredApprovals,
    approvals::{ApprovalError, Binding, Redemption, Request, Standing, WAITING_PER_CALLER},
};

use crate::bench::{at, caller, each, sealer, server};

fn binding() -> Binding {
    Binding {
        caller: caller("ann"),
        server: server("mail"),
        tool: "send".to_owned(),
        bytes: Digest::of(b"{\"to\":\"bob\"}"),
        pin: Digest::of(b"definition"),
        policy: "7".to_owned(),
    }
}

fn request(binding: Binding) -> Request {
    Request {
        binding,
        role: "approver".to_owned(),
        by_self: false,
        words: "send mail to bob".to_owned(),
        lifetime: Duration::from_secs(60),
    }
}

fn store(database: Database) -> StoredApprovals {
    StoredApprovals::new(database, sealer(), Arc::new(SeededEntropy::new(1)))
}

#[tokio::test]
async fn an_approval_is_good_for_the_very_call_once_and_for_a_while() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        assert_eq!(approvals.redeem(&binding(), at(0)).await.unwrap(), Redemption::Absent);
        let asked = approvals.ask(&request(binding()), at(0)).await.unwrap();
        assert_eq!(approvals.ask(&request(binding()), at(1)).await.unwrap(), asked, "asked once");
        assert_eq!(approvals.redeem(&binding(), at(1)).await.unwrap(), Redemption::Waiting(asked.clone()));
        assert_eq!(approvals.waiting(at(1)).await.unwrap(), std::slice::from_ref(&asked));
        let decided = approvals.decide(&asked.id, true, &caller("bob"), at(2)).await.unwrap();
        assert_eq!(decided.standing, Standing::Approved);

        for other in [
            Binding { caller: caller("eve"), ..binding() },
            Binding { server: server("mall"), ..binding() },
            Binding { tool: "sent".to_owned(), ..binding() },
            Binding { bytes: Digest::of(b"{\"to\": \"bob\"}"), ..binding() },
            Binding { pin: Digest::of(b"another"), ..binding() },
            Binding { policy: "8".to_owned(), ..binding() },
        ] {
            assert_eq!(approvals.redeem(&other, at(3)).await.unwrap(), Redemption::Absent, "{other:?}");
        }
        let Redemption::Granted(granted) = approvals.redeem(&binding(), at(59)).await.unwrap() else {
            panic!("the call that was approved is granted")
        };
        assert_eq!((granted.id, granted.used_at), (asked.id, Some(at(59))));
        assert_eq!(approvals.redeem(&binding(), at(59)).await.unwrap(), Redemption::Absent);

        let late = approvals.ask(&request(binding()), at(100)).await.unwrap();
        approvals.decide(&late.id, true, &caller("bob"), at(101)).await.unwrap();
        assert_eq!(approvals.redeem(&binding(), at(160)).await.unwrap(), Redemption::Absent, "too late");
        assert_eq!(approvals.forget(at(161)).await.unwrap(), 2);
        assert_eq!(approvals.read(&late.id).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn deciding_is_for_somebody_else_and_is_final() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        let asked = approvals.ask(&request(binding()), at(0)).await.unwrap();
        let own = approvals.decide(&asked.id, true, &caller("ann"), at(1)).await;
        assert!(matches!(own, Err(ApprovalError::Own)));
        approvals.decide(&asked.id, false, &caller("bob"), at(1)).await.unwrap();
        let again = approvals.decide(&asked.id, true, &caller("bob"), at(2)).await;
        assert!(matches!(again, Err(ApprovalError::NotWaiting)));
        assert!(matches!(approvals.redeem(&binding(), at(3)).await.unwrap(), Redemption::Denied(_)));
        assert_eq!(approvals.ask(&request(binding()), at(4)).await.unwrap().standing, Standing::Denied);
        let nobody = approvals.decide("0", true, &caller("bob"), at(5)).await;
        assert!(matches!(nobody, Err(ApprovalError::Unknown)));

        let mine = Request { by_self: true, ..request(Binding { policy: "9".to_owned(), ..binding() }) };
        let mine = approvals.ask(&mine, at(6)).await.unwrap();
        approvals.decide(&mine.id, true, &caller("ann"), at(7)).await.unwrap();
        let late =
            approvals.ask(&request(Binding { policy: "10".to_owned(), ..binding() }), at(8)).await.unwrap();
        let expired = approvals.decide(&late.id, true, &caller("bob"), at(68)).await;
        assert!(matches!(expired, Err(ApprovalError::NotWaiting)));
    })
    .await;
}

#[tokio::test]
async fn whoever_writes_to_the_database_approves_nothing() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        approvals.ask(&request(binding()), at(0)).await.unwrap();
        bench.meddle("UPDATE approvals SET state = 'approved', decided_by = 'bob', decided_at = 1").await;
        assert!(matches!(approvals.redeem(&binding(), at(1)).await.unwrap(), Redemption::Denied(_)));

        // A decision that was right cannot be carried to another call, nor be drawn out.
        let other = Binding { bytes: Digest::of(b"other"), ..binding() };
        let asked = approvals.ask(&request(other.clone()), at(0)).await.unwrap();
        approvals.decide(&asked.id, true, &caller("bob"), at(1)).await.unwrap();
        let late = format!("UPDATE approvals SET expires_at = expires_at + 1000 WHERE id = '{}'", asked.id);
        assert_eq!(bench.meddle(&late).await, 1);
        assert!(matches!(approvals.redeem(&other, at(2)).await.unwrap(), Redemption::Denied(_)));
        bench.meddle(&late.replace('+', "-")).await;
        assert!(matches!(approvals.redeem(&other, at(2)).await.unwrap(), Redemption::Granted(_)));
    })
    .await;
}

#[tokio::test]
async fn an_approver_is_not_worn_out() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        let nth = |n: i64| request(Binding { policy: n.to_string(), ..binding() });
        for n in 0..WAITING_PER_CALLER {
            approvals.ask(&nth(n), at(0)).await.unwrap();
        }
        let more = approvals.ask(&nth(WAITING_PER_CALLER), at(1)).await;
        assert!(matches!(more, Err(ApprovalError::TooMany)));
        let other = Binding { caller: caller("bob"), ..binding() };
        approvals.ask(&request(other), at(1)).await.unwrap();
        approvals.ask(&nth(WAITING_PER_CALLER), at(60)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_calls_at_once_one_uses_the_approval() {
    each(async |bench| {
        let processes = [bench.open().await, bench.open().await];
        let asking = (0..8).map(|n| {
            let approvals = StoredApprovals::new(
                processes[n % 2].clone(),
                sealer(),
                Arc::new(SeededEntropy::new(u64::try_from(n).unwrap())),
            );
            tokio::spawn(async move { approvals.ask(&request(binding()), at(0)).await.unwrap().id })
        });
        let mut ids = Vec::new();
        for task in asking.collect::<Vec<_>>() {
            ids.push(task.await.unwrap());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "one request for one call");
        store(processes[0].clone()).decide(&ids[0], true, &caller("bob"), at(1)).await.unwrap();
        let calls = (0..16).map(|n| {
            let approvals = store(processes[n % 2].clone());
            tokio::spawn(async move { approvals.redeem(&binding(), at(2)).await.unwrap() })
        });
        let mut granted = 0;
        for call in calls.collect::<Vec<_>>() {
            granted += usize::from(matches!(call.await.unwrap(), Redemption::Granted(_)));
        }
        assert_eq!(granted, 1);
    })
    .await;
}
