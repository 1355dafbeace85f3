//! What has entered whose conversation.

use std::sync::Arc;

use bartizan_store::{Flows, StoredFlows, flows::Flow};

use crate::bench::{at, caller, each, server};

fn flow(tool: &str, labels: &[&str], seconds: u64) -> Flow {
    Flow {
        at: at(seconds),
        server: server("web"),
        tool: tool.to_owned(),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        call: format!("call-{seconds}"),
    }
}

#[tokio::test]
async fn a_window_shows_one_callers_flows_in_order() {
    each(async |bench| {
        let flows = StoredFlows::new(bench.open().await);
        let (ann, bob) = (caller("ann"), caller("bob"));
        let entered = [
            flow("fetch", &["sees-untrusted"], 1),
            flow("search", &["reads-private", "sees-untrusted"], 2),
            flow("noop", &[], 2),
        ];
        for one in &entered {
            flows.append(&ann, one).await.unwrap();
        }
        flows.append(&bob, &flow("fetch", &["sees-untrusted"], 2)).await.unwrap();
        assert_eq!(*flows.window(&ann, at(0)).await.unwrap(), entered);
        assert_eq!(*flows.window(&ann, at(2)).await.unwrap(), entered[1..]);

        assert_eq!(flows.reset(&ann, "ann", at(3)).await.unwrap(), 3);
        assert_eq!(*flows.window(&ann, at(0)).await.unwrap(), []);
        assert_eq!(flows.window(&bob, at(0)).await.unwrap().len(), 1);
        assert_eq!(flows.forget(at(2)).await.unwrap(), 0);
        assert_eq!(flows.forget(at(3)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_calls_cannot_slip_past_each_other() {
    each(async |bench| {
        let processes = [Arc::new(bench.open().await), Arc::new(bench.open().await)];
        let calls = (0..16).map(|n| {
            let flows = StoredFlows::new((*processes[n % 2]).clone());
            tokio::spawn(async move {
                // Whoever comes second must see the first.
                let judge = |past: &[Flow]| past.is_empty();
                flows.admit(&caller("ann"), at(0), &flow("send", &["sends-out"], 5), &judge).await.unwrap()
            })
        });
        let mut admitted = 0;
        for call in calls.collect::<Vec<_>>() {
            admitted += usize::from(call.await.unwrap());
        }
        assert_eq!(admitted, 1);
        assert_eq!(
            StoredFlows::new((*processes[0]).clone()).window(&caller("ann"), at(0)).await.unwrap().len(),
            1
        );
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_seen_by_whoever_remembers_what_is_on_record() {
    each(async |bench| {
        let (one, other) = (StoredFlows::new(bench.open().await), StoredFlows::new(bench.open().await));
        let ann = caller("ann");
        assert_eq!(one.resets().await.unwrap(), 0);
        one.append(&ann, &flow("fetch", &["untrusted"], 0)).await.unwrap();
        one.append(&caller("bob"), &flow("fetch", &["untrusted"], 5)).await.unwrap();
        assert_eq!(one.resets().await.unwrap(), 0);
        assert_eq!(other.callers(at(0)).await.unwrap(), [ann.clone(), caller("bob")]);
        assert_eq!(other.callers(at(1)).await.unwrap(), [caller("bob")]);
        other.reset(&ann, "ann", at(2)).await.unwrap();
        assert_eq!(one.resets().await.unwrap(), 1, "on every process");
        assert_eq!(one.callers(at(0)).await.unwrap(), [caller("bob")]);
        other.reset(&caller("eve"), "eve", at(2)).await.unwrap();
        assert_eq!(one.resets().await.unwrap(), 2, "even of whom nothing was known");
    })
    .await;
}

#[tokio::test]
async fn what_another_process_commits_is_in_a_window_that_was_read_a_moment_ago() {
    each(async |bench| {
        let (one, other) = (StoredFlows::new(bench.open().await), StoredFlows::new(bench.open().await));
        let ann = caller("ann");
        for n in 1..4 {
            let read = async || one.window(&ann, at(0)).await.unwrap().len();
            assert_eq!((read().await, read().await), (n - 1, n - 1));
            other.append(&ann, &flow("fetch", &["untrusted"], 5)).await.unwrap();
            assert_eq!((read().await, read().await), (n, n));
        }
        assert_eq!(one.window(&ann, at(6)).await.unwrap().len(), 0, "of another time");
        assert_eq!(one.window(&caller("bob"), at(0)).await.unwrap().len(), 0, "of somebody else");
        other.reset(&ann, "ann", at(6)).await.unwrap();
        assert_eq!(one.window(&ann, at(0)).await.unwrap().len(), 0);
        if !bench.is_postgres() {
            assert_eq!(one.known_resets(), None, "something was committed");
            assert_eq!((one.resets().await.unwrap(), one.known_resets()), (1, Some(1)));
        }
    })
    .await;
}

/// A database that takes a question and says nothing holds up nobody for long, and whoever asks next asks anew.
#[tokio::test]
async fn how_often_windows_were_reset_is_answered_within_seconds_or_not_at_all() {
    each(async |bench| {
        if !bench.is_postgres() {
            // Nothing keeps a reader of SQLite waiting: it is a file.
            return;
        }
        let flows = StoredFlows::new(bench.open().await);
        assert_eq!(flows.resets().await.unwrap(), 0);
        let other = sqlx::AnyPool::connect(bench.url()).await.unwrap();
        let mut holding = other.begin().await.unwrap();
        sqlx::query("LOCK TABLE flow_resets IN ACCESS EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
        for which in ["over the connection that was kept", "over a new one"] {
            let began = std::time::Instant::now();
            let late = flows.resets().await.unwrap_err().to_string();
            let waited = began.elapsed().as_secs();
            assert!(
                late.contains("no answer came in time") && (4..=7).contains(&waited),
                "{which}: {waited} s, {late}"
            );
        }
        holding.rollback().await.unwrap();
        other.close().await;
        assert_eq!(flows.resets().await.unwrap(), 0, "it answers again");
    })
    .await;
}
