//! Keys that sign access tokens.

use std::sync::Arc;

use bartizan_model::Secret;
use bartizan_store::{DatabaseError, Sealer, SigningKeys, StoredSigningKeys, signing::SigningKey};

use crate::bench::{at, each, sealer};

fn key(id: &str, from: u64, until: u64) -> SigningKey {
    SigningKey {
        id: id.to_owned(),
        private: Secret::new(format!("private half of {id}")),
        public: "{}".to_owned(),
        signs_from: at(from),
        signs_until: at(until),
        verifies_until: at(until + 10),
    }
}

async fn ids(keys: &StoredSigningKeys, seconds: u64) -> Vec<String> {
    keys.all(at(seconds)).await.unwrap().into_iter().map(|key| key.id).collect()
}

#[tokio::test]
async fn keys_follow_each_other_and_outlive_what_they_signed() {
    each(async |bench| {
        let keys = StoredSigningKeys::new(bench.open().await, sealer());
        assert!(keys.add(&key("a", 0, 100)).await.unwrap());
        assert!(!keys.add(&key("b", 50, 150)).await.unwrap(), "one signs then already");
        assert!(keys.add(&key("c", 100, 200)).await.unwrap());
        assert_eq!(ids(&keys, 109).await, ["a", "c"]);
        assert_eq!(keys.all(at(0)).await.unwrap()[0].private.reveal(), "private half of a");
        assert_eq!(ids(&keys, 110).await, ["c"]);
        assert_eq!(keys.forget(at(111)).await.unwrap(), 1);
        assert_eq!(keys.end_all(at(120)).await.unwrap(), 1);
        assert_eq!(ids(&keys, 120).await, [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_replicas_that_start_at_once_one_makes_the_key() {
    each(async |bench| {
        let databases = [bench.open().await, bench.open().await];
        let adding = (0..8).map(|n| {
            let keys = StoredSigningKeys::new(databases[n % 2].clone(), sealer());
            tokio::spawn(async move { keys.add(&key(&format!("k{n}"), 0, 100)).await.unwrap() })
        });
        let mut added = 0;
        for one in adding.collect::<Vec<_>>() {
            added += usize::from(one.await.unwrap());
        }
        assert_eq!(added, 1);
    })
    .await;
}

#[tokio::test]
async fn a_key_opens_under_the_seal_it_was_kept_with_only() {
    each(async |bench| {
        let database = bench.open().await;
        let keys = StoredSigningKeys::new(database.clone(), sealer());
        keys.add(&key("a", 0, 100)).await.unwrap();
        let other = StoredSigningKeys::new(database, Arc::new(Sealer::new(&[8; 32]).unwrap()));
        assert!(matches!(other.all(at(0)).await, Err(DatabaseError::Value("private"))));
        bench.meddle("UPDATE signing_keys SET public = '{\"x\":\"another key\"}'").await;
        assert!(matches!(keys.all(at(0)).await, Err(DatabaseError::Value("private"))));
    })
    .await;
}
