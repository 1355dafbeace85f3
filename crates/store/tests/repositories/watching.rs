//! Many eyes on one server, and what a gate has in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{ManualClock, ServerName, Timestamp};
use bartizan_store::{
    Keeper, PinSet, Pins, StoredPins,
    pins::{Decision, Event, Key, Kind, Look, Observation, Pin, PinError, Record, Ruling},
};

use crate::bench::{approve, at, decisions, each, look, look_of, news, sealer, server, tool};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_observers_one_tells_the_news() {
    each(async |bench| {
        let pins: Vec<Arc<dyn Pins>> = {
            let mut pins: Vec<Arc<dyn Pins>> = Vec::new();
            for _ in 0..4 {
                pins.push(Arc::new(bench.pins().await));
            }
            pins
        };
        let old: Vec<_> = (0..5).map(|n| tool(&format!("t{n}"), "Works")).collect();
        let new: Vec<_> = (0..5).map(|n| tool(&format!("t{n}"), "Works otherwise")).collect();
        for (offered, expected, time) in [(&old, Event::FirstSeen, 0), (&new, Event::Changed, 10)] {
            let looks = (0..16).map(|n| {
                let (pins, look) = (Arc::clone(&pins[n % 4]), look_of(&format!("c{n}"), offered));
                tokio::spawn(async move { pins.observe(&look, at(time)).await.unwrap() })
            });
            let mut told = vec![0; offered.len()];
            for task in looks.collect::<Vec<_>>() {
                let seen = task.await.unwrap();
                assert!(decisions(&seen).iter().all(|d| matches!(d, Decision::Withhold(_))));
                for (told, news) in told.iter_mut().zip(news(&seen)) {
                    assert!(news.is_none_or(|news| news == expected));
                    *told += usize::from(news.is_some());
                }
            }
            assert_eq!(told, [1; 5]);
            if expected == Event::FirstSeen {
                for offered in offered {
                    approve(&*pins[0], offered, time + 1).await;
                }
            }
        }
        let record = pins[0].read(&crate::bench::key("t0")).await.unwrap().unwrap();
        assert_eq!(record.forms.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_approval_and_a_change_at_once_end_in_a_hold() {
    each(async |bench| {
        let (pins, other) = (bench.pins().await, bench.pins().await);
        for turn in 0..10 {
            let name = format!("t{turn}");
            let (old, new) = (tool(&name, "Works"), tool(&name, "Works otherwise"));
            pins.observe(&look(std::slice::from_ref(&old)), at(0)).await.unwrap();
            let ruling = Ruling::Approve { key: crate::bench::key(&name), hash: old.hash };
            let changed = look(std::slice::from_ref(&new));
            let rulings = [ruling];
            let (_, seen) = tokio::join!(pins.decide(&rulings, "ada", at(1)), other.observe(&changed, at(1)));
            assert!(matches!(decisions(&seen.unwrap())[..], [Decision::Withhold(_)]));
            assert!(pins.snapshot().await.unwrap().get(&server("files"), Kind::Tool, &name).is_none());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_that_rises_meanwhile_is_no_older_database() {
    each(async |bench| {
        let folder = tempfile::tempdir().unwrap();
        let open = async || {
            Arc::new(StoredPins::new(bench.open().await, sealer(), Some(folder.path().join("pins.seen"))))
        };
        let (pins, other) = (open().await, open().await);
        let read = tool("read", "Reads");
        pins.observe(&look(std::slice::from_ref(&read)), at(0)).await.unwrap();
        let deciding = tokio::spawn(async move {
            for _ in 0..40 {
                approve(&*pins, &read, 1).await;
            }
        });
        let mut version = 0;
        while !deciding.is_finished() {
            let seen = other.snapshot().await.unwrap().version().max(other.version().await.unwrap());
            assert!(seen >= version);
            version = seen;
        }
        deciding.await.unwrap();
        assert_eq!(other.version().await.unwrap(), 41);
    })
    .await;
}

/// Counts the looks that go through, and fails when told to.
struct Counting<P> {
    inner: P,
    looks: AtomicUsize,
    is_lost: std::sync::atomic::AtomicBool,
}

impl<P> Counting<P> {
    fn check(&self) -> Result<(), PinError> {
        if self.is_lost.load(Ordering::SeqCst) { Err(sqlx::Error::PoolTimedOut.into()) } else { Ok(()) }
    }
}

#[async_trait]
impl<P: Pins> Pins for Counting<P> {
    async fn observe(&self, look: &Look, now: Timestamp) -> Result<Observation, PinError> {
        self.check()?;
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.inner.observe(look, now).await
    }
    async fn decide(&self, rulings: &[Ruling], by: &str, now: Timestamp) -> Result<u64, PinError> {
        self.inner.decide(rulings, by, now).await
    }
    async fn list(&self, server: Option<&ServerName>) -> Result<Vec<Pin>, PinError> {
        self.inner.list(server).await
    }
    async fn read(&self, key: &Key) -> Result<Option<Record>, PinError> {
        self.inner.read(key).await
    }
    async fn snapshot(&self) -> Result<PinSet, PinError> {
        self.check()?;
        self.inner.snapshot().await
    }
    async fn version(&self) -> Result<u64, PinError> {
        self.check()?;
        self.inner.version().await
    }
}

#[tokio::test]
async fn a_keeper_answers_calls_from_memory_and_hears_of_decisions_made_elsewhere() {
    each(async |bench| {
        let clock = Arc::new(ManualClock::new(at(0)));
        let pins = Arc::new(Counting {
            inner: bench.pins().await,
            looks: AtomicUsize::new(0),
            is_lost: false.into(),
        });
        let keeper = Keeper::new(pins.clone(), clock.clone()).await.unwrap();
        let mut changes = keeper.changes();
        let (files, read) = (server("files"), tool("read", "Reads"));
        let first = keeper.observe(&look(std::slice::from_ref(&read))).await.unwrap();
        assert_eq!(news(&first), [Some(Event::FirstSeen)]);
        assert!(!keeper.is_approved(&files, Kind::Tool, "read"));

        // Another process approves; the next refresh brings it.
        approve(&bench.pins().await, &read, 1).await;
        assert!(!keeper.is_approved(&files, Kind::Tool, "read"));
        changes.mark_unchanged();
        assert!(keeper.refresh().await.unwrap());
        assert!(keeper.is_approved(&files, Kind::Tool, "read"));
        assert!(changes.has_changed().unwrap());
        assert!(!keeper.refresh().await.unwrap(), "nothing is new");

        // Equal looks cost the store nothing for a minute; another form, caller or minute goes through.
        let before = pins.looks.load(Ordering::SeqCst);
        for _ in 0..10 {
            let seen = keeper.observe(&look(std::slice::from_ref(&read))).await.unwrap();
            assert_eq!((decisions(&seen), news(&seen)), (vec![Decision::Show], vec![None]));
        }
        assert_eq!(pins.looks.load(Ordering::SeqCst), before + 1);
        clock.advance(Duration::from_secs(61));
        keeper.observe(&look(std::slice::from_ref(&read))).await.unwrap();
        keeper.observe(&look_of("ann", std::slice::from_ref(&read))).await.unwrap();
        assert_eq!(pins.looks.load(Ordering::SeqCst), before + 3);
        let changed = keeper.observe(&look(&[tool("read", "Reads and sends")])).await.unwrap();
        assert_eq!(news(&changed), [Some(Event::Changed)]);
        assert!(!keeper.is_approved(&files, Kind::Tool, "read"), "calls are held with the list that tells");
    })
    .await;
}

#[tokio::test]
async fn a_keeper_without_its_store_approves_nothing_and_recovers() {
    each(async |bench| {
        let clock = Arc::new(ManualClock::new(at(0)));
        let pins = Arc::new(Counting {
            inner: bench.pins().await,
            looks: AtomicUsize::new(0),
            is_lost: false.into(),
        });
        let read = tool("read", "Reads");
        pins.observe(&look(std::slice::from_ref(&read)), at(0)).await.unwrap();
        approve(&*pins, &read, 0).await;
        let keeper = Keeper::new(pins.clone(), clock).await.unwrap();
        assert!(keeper.is_approved(&server("files"), Kind::Tool, "read"));
        pins.is_lost.store(true, Ordering::SeqCst);
        assert!(keeper.refresh().await.is_err());
        assert!(!keeper.is_approved(&server("files"), Kind::Tool, "read"));
        assert!(keeper.observe(&look(std::slice::from_ref(&read))).await.is_err());
        pins.is_lost.store(false, Ordering::SeqCst);
        assert!(keeper.refresh().await.unwrap());
        assert!(keeper.is_approved(&server("files"), Kind::Tool, "read"));
    })
    .await;
}
