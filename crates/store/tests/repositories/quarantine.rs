//! Results that wait for a person.

use std::sync::Arc;

use bartizan_model::SeededEntropy;
use bartizan_store::{
    Digest, Quarantine, StoredQuarantine,
    quarantine::{Binding, LIFETIME, PER_SERVER, QuarantineError, Suspect},
};

use crate::bench::{Bench, at, caller, each, sealer, server};

async fn quarantine(bench: &Bench, seed: u64) -> StoredQuarantine {
    StoredQuarantine::new(bench.open().await, sealer(), Arc::new(SeededEntropy::new(seed)))
}

fn binding(who: &str, request: &str) -> Binding {
    Binding { caller: caller(who), server: server("web"), request: Digest::of(request.as_bytes()) }
}

fn suspect<'s>(who: &str, request: &str, result: &'s str) -> Suspect<'s> {
    Suspect {
        binding: binding(who, request),
        method: "tools/call",
        name: "fetch",
        found: "injection.override",
        result,
    }
}

#[tokio::test]
async fn a_released_result_is_given_once_to_whoever_asked() {
    each(async |bench| {
        let quarantine = quarantine(bench, 1).await;
        let item = quarantine.keep(&suspect("ann", "a", r#"{"said":"obey"}"#), at(0)).await.unwrap();
        assert_eq!(quarantine.list(at(1)).await.unwrap(), std::slice::from_ref(&item));
        assert_eq!(quarantine.read(&item.id, at(1)).await.unwrap().1, r#"{"said":"obey"}"#);
        assert!(
            quarantine.redeem(&binding("ann", "a"), at(1)).await.unwrap().is_none(),
            "nobody released it"
        );

        let released = quarantine.release(&item.id, "ada", at(2)).await.unwrap();
        assert!(released.is_released && released.decided_by == "ada");
        assert_eq!(quarantine.release(&item.id, "bob", at(2)).await.unwrap().decided_by, "ada");
        for other in [binding("bob", "a"), binding("ann", "b")] {
            assert!(quarantine.redeem(&other, at(3)).await.unwrap().is_none());
        }
        let (_, text) = quarantine.redeem(&binding("ann", "a"), at(3)).await.unwrap().unwrap();
        assert_eq!(text, r#"{"said":"obey"}"#);
        assert!(quarantine.redeem(&binding("ann", "a"), at(3)).await.unwrap().is_none(), "once");
        assert!(quarantine.list(at(3)).await.unwrap().is_empty());
        assert!(matches!(quarantine.read(&item.id, at(3)).await, Err(QuarantineError::Unknown(_))));
    })
    .await;
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_expires() {
    each(async |bench| {
        let quarantine = quarantine(bench, 2).await;
        let first = quarantine.keep(&suspect("ann", "a", "1"), at(0)).await.unwrap();
        let second = quarantine.keep(&suspect("ann", "a", "2"), at(1)).await.unwrap();
        assert_eq!(
            quarantine.list(at(1)).await.unwrap(),
            std::slice::from_ref(&second),
            "the same request is kept once"
        );
        assert!(matches!(quarantine.discard(&first.id, at(1)).await, Err(QuarantineError::Unknown(_))));
        quarantine.discard(&second.id, at(1)).await.unwrap();
        for n in 0..PER_SERVER {
            quarantine.keep(&suspect("ann", &n.to_string(), "x"), at(2)).await.unwrap();
        }
        assert!(matches!(
            quarantine.keep(&suspect("ann", "more", "x"), at(2)).await,
            Err(QuarantineError::Full)
        ));
        let other = Binding { server: server("files"), ..binding("ann", "more") };
        let of_another = Suspect { binding: other, ..suspect("ann", "more", "x") };
        quarantine.keep(&of_another, at(2)).await.unwrap();
        let long = "x".repeat((1 << 20) + 1);
        let too_long = quarantine.keep(&suspect("bob", "a", &long), at(2)).await;
        assert!(matches!(too_long, Err(QuarantineError::TooLong)));
        let late = LIFETIME.as_secs() + 3;
        assert!(quarantine.list(at(late)).await.unwrap().is_empty());
        quarantine.keep(&suspect("ann", "more", "x"), at(late)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn whoever_can_write_to_the_database_can_neither_read_nor_release() {
    each(async |bench| {
        let quarantine = quarantine(bench, 3).await;
        let item = quarantine.keep(&suspect("ann", "a", "hidden words"), at(0)).await.unwrap();
        assert_eq!(bench.meddle("DELETE FROM quarantine WHERE sealed LIKE '%hidden%'").await, 0);
        bench.meddle("UPDATE quarantine SET state = 'released', decided_by = 'eve'").await;
        assert!(quarantine.redeem(&binding("ann", "a"), at(1)).await.unwrap().is_none());
        assert!(matches!(quarantine.read(&item.id, at(1)).await, Err(QuarantineError::Forged(_))));
        assert!(matches!(quarantine.release(&item.id, "ada", at(1)).await, Err(QuarantineError::Forged(_))));
        quarantine.discard(&item.id, at(1)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_requests_at_once_one_gets_it() {
    each(async |bench| {
        let quarantine = Arc::new(quarantine(bench, 4).await);
        let item = quarantine.keep(&suspect("ann", "a", "1"), at(0)).await.unwrap();
        quarantine.release(&item.id, "ada", at(0)).await.unwrap();
        let takers: Vec<_> = (0..8)
            .map(|_| {
                let quarantine = Arc::clone(&quarantine);
                tokio::spawn(async move {
                    quarantine.redeem(&binding("ann", "a"), at(1)).await.unwrap().is_some()
                })
            })
            .collect();
        let mut given = 0;
        for taker in takers {
            given += usize::from(taker.await.unwrap());
        }
        assert_eq!(given, 1);
    })
    .await;
}
