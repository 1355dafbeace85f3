//! Decisions of people, each for one exact call.

use std::{sync::Arc, time::Duration};

use bartizan_model::SeededEntropy;
use bartizan_store::{
    Approvals, Database, Digest, StoredApprovals,
    approvals::{
        ApprovalError, Binding, DENIED_PER_CALLER, PERIOD, Redemption, Request, Standing, WAITING_PER_CALLER,
    },
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

/// What a call for which `approver` must say yes gets.
async fn redeem(approvals: &StoredApprovals, binding: &Binding, now: u64) -> Redemption {
    approvals.redeem(binding, &["approver".to_owned()], at(now)).await.unwrap()
}

/// What that call waits for; what it used up, if it was granted after all.
async fn open(
    approvals: &StoredApprovals,
    binding: &Binding,
    now: u64,
) -> Option<bartizan_store::approvals::Approval> {
    match redeem(approvals, binding, now).await {
        Redemption::Open(mut open) => open.pop().unwrap(),
        Redemption::Granted(granted) => granted.into_iter().next(),
    }
}

async fn is_denied(approvals: &StoredApprovals, binding: &Binding, now: u64) -> bool {
    open(approvals, binding, now).await.is_some_and(|known| known.standing == Standing::Denied)
}

#[tokio::test]
async fn an_approval_is_good_for_the_very_call_once_and_for_a_while() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        assert_eq!(open(&approvals, &binding(), 0).await, None);
        let asked = approvals.ask(&request(binding()), at(0)).await.unwrap();
        assert_eq!(approvals.ask(&request(binding()), at(1)).await.unwrap(), asked, "asked once");
        assert_eq!(open(&approvals, &binding(), 1).await, Some(asked.clone()));
        assert_eq!(approvals.waiting(at(1)).await.unwrap(), std::slice::from_ref(&asked));
        let decided = approvals.decide(&asked.id, true, (&caller("bob"), "bob"), at(2)).await.unwrap();
        assert_eq!((decided.standing, decided.decided_by.as_deref()), (Standing::Approved, Some("bob")));

        for other in [
            Binding { caller: caller("eve"), ..binding() },
            Binding { server: server("mall"), ..binding() },
            Binding { tool: "sent".to_owned(), ..binding() },
            Binding { bytes: Digest::of(b"{\"to\": \"bob\"}"), ..binding() },
            Binding { pin: Digest::of(b"another"), ..binding() },
            Binding { policy: "8".to_owned(), ..binding() },
        ] {
            assert_eq!(open(&approvals, &other, 3).await, None, "{other:?}");
        }
        let Redemption::Granted(granted) = redeem(&approvals, &binding(), 59).await else {
            panic!("the call that was approved is granted")
        };
        assert_eq!((&granted[0].id, granted[0].used_at), (&asked.id, Some(at(59))));
        assert_eq!(open(&approvals, &binding(), 59).await, None);

        let late = approvals.ask(&request(binding()), at(100)).await.unwrap();
        approvals.decide(&late.id, true, (&caller("bob"), "bob"), at(101)).await.unwrap();
        assert_eq!(open(&approvals, &binding(), 160).await, None, "too late");
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
        let own = approvals.decide(&asked.id, true, (&caller("ann"), "ann"), at(1)).await;
        assert!(matches!(own, Err(ApprovalError::Own)));
        approvals.decide(&asked.id, false, (&caller("bob"), "bob"), at(1)).await.unwrap();
        let again = approvals.decide(&asked.id, true, (&caller("bob"), "bob"), at(2)).await;
        assert!(matches!(again, Err(ApprovalError::NotWaiting)));
        assert!(is_denied(&approvals, &binding(), 3).await);
        assert_eq!(approvals.ask(&request(binding()), at(4)).await.unwrap().standing, Standing::Denied);
        let nobody = approvals.decide("0", true, (&caller("bob"), "bob"), at(5)).await;
        assert!(matches!(nobody, Err(ApprovalError::Unknown)));

        let mine = Request { by_self: true, ..request(Binding { policy: "9".to_owned(), ..binding() }) };
        let mine = approvals.ask(&mine, at(6)).await.unwrap();
        approvals.decide(&mine.id, true, (&caller("ann"), "ann"), at(7)).await.unwrap();
        let late =
            approvals.ask(&request(Binding { policy: "10".to_owned(), ..binding() }), at(8)).await.unwrap();
        let expired = approvals.decide(&late.id, true, (&caller("bob"), "bob"), at(68)).await;
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
        assert!(is_denied(&approvals, &binding(), 1).await);

        // A decision that was right cannot be carried to another call, nor be drawn out.
        let other = Binding { bytes: Digest::of(b"other"), ..binding() };
        let asked = approvals.ask(&request(other.clone()), at(0)).await.unwrap();
        approvals.decide(&asked.id, true, (&caller("bob"), "bob"), at(1)).await.unwrap();
        let late = format!("UPDATE approvals SET expires_at = expires_at + 1000 WHERE id = '{}'", asked.id);
        assert_eq!(bench.meddle(&late).await, 1);
        assert!(is_denied(&approvals, &other, 2).await);
        bench.meddle(&late.replace('+', "-")).await;
        assert!(matches!(redeem(&approvals, &other, 2).await, Redemption::Granted(_)));
        // Nor counts it twice, nor may somebody else decide about what waits, nor about another call than the one shown.
        bench.meddle("UPDATE approvals SET state = 'approved'").await;
        assert!(is_denied(&approvals, &other, 2).await);
        for (number, change) in ["by_self = 1", "role = 'mine'", "bytes = pin"].into_iter().enumerate() {
            let nth = Binding { policy: format!("changed {number}"), ..binding() };
            let asked = approvals.ask(&request(nth), at(0)).await.unwrap();
            bench.meddle(&format!("UPDATE approvals SET {change} WHERE id = '{}'", asked.id)).await;
            let decided = approvals.decide(&asked.id, true, (&caller("bob"), "bob"), at(1)).await;
            assert!(matches!(decided, Err(ApprovalError::NotWaiting)), "{change}: {decided:?}");
        }
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
        store(processes[0].clone()).decide(&ids[0], true, (&caller("bob"), "bob"), at(1)).await.unwrap();
        let calls = (0..16).map(|n| {
            let approvals = store(processes[n % 2].clone());
            tokio::spawn(async move { redeem(&approvals, &binding(), 2).await })
        });
        let mut granted = 0;
        for call in calls.collect::<Vec<_>>() {
            granted += usize::from(matches!(call.await.unwrap(), Redemption::Granted(_)));
        }
        assert_eq!(granted, 1);
    })
    .await;
}

#[tokio::test]
async fn where_two_roles_must_agree_both_do_or_nothing_is_used() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        let roles = ["approver".to_owned(), "auditor".to_owned()];
        let both = async |now| approvals.redeem(&binding(), &roles, at(now)).await.unwrap();
        let first = approvals.ask(&request(binding()), at(0)).await.unwrap();
        assert_eq!(both(1).await, Redemption::Open(vec![Some(first.clone()), None]));
        let second = Request { role: "auditor".to_owned(), ..request(binding()) };
        let second = approvals.ask(&second, at(1)).await.unwrap();
        assert_ne!(first.id, second.id, "each role is asked");
        approvals.decide(&first.id, true, (&caller("bob"), "bob"), at(2)).await.unwrap();
        let Redemption::Open(open) = both(3).await else { panic!("one of two is not enough") };
        let standings: Vec<_> = open.iter().flatten().map(|known| known.standing).collect();
        assert_eq!(standings, [Standing::Approved, Standing::Waiting]);
        approvals.decide(&second.id, true, (&caller("eve"), "eve"), at(4)).await.unwrap();
        let Redemption::Granted(granted) = both(5).await else { panic!("both said yes") };
        assert_eq!(granted.len(), 2);
        assert_eq!(both(6).await, Redemption::Open(vec![None, None]), "both are used up");
        assert_eq!(approvals.redeem(&binding(), &[], at(6)).await.unwrap(), Redemption::Open(Vec::new()));
    })
    .await;
}

#[tokio::test]
async fn who_is_denied_again_and_again_asks_nobody_for_a_while() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        let nth = |n: i64| request(Binding { policy: n.to_string(), ..binding() });
        for n in 0..DENIED_PER_CALLER {
            let asked = approvals.ask(&nth(n), at(0)).await.unwrap();
            approvals.decide(&asked.id, false, (&caller("bob"), "bob"), at(1)).await.unwrap();
        }
        let client =
            bartizan_model::Caller::new(caller("ann").issuer(), caller("ann").subject(), "another client");
        let other = Binding { caller: client, ..binding() };
        for one_more in [nth(99), request(other)] {
            let refused = approvals.ask(&one_more, at(2)).await;
            assert!(matches!(refused, Err(ApprovalError::TooMany)), "a client more is the same person");
        }
        approvals.ask(&request(Binding { caller: caller("bob"), ..binding() }), at(2)).await.unwrap();
        approvals.ask(&nth(99), at(PERIOD.as_secs())).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_is_shown_to_approvers_is_sealed() {
    each(async |bench| {
        let approvals = store(bench.open().await);
        let asked = approvals.ask(&request(binding()), at(0)).await.unwrap();
        assert_eq!(approvals.read(&asked.id).await.unwrap().unwrap().words, "send mail to bob");
        assert_eq!(bench.meddle("UPDATE approvals SET words = 'delete nothing'").await, 1);
        assert_eq!(approvals.read(&asked.id).await.unwrap().unwrap().words, "", "no words but ours");
    })
    .await;
}
