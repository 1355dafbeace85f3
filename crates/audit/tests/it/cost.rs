//! What evidence costs, in syncs of the same disk, measured in the same run.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use crate::scene::{Scene, call};

/// How many of each are measured.
const ROUNDS: usize = 300;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// One `fdatasync` after as many bytes as an entry and its checkpoint have.
fn one_sync(file: &mut File) -> Duration {
    let began = Instant::now();
    file.write_all(&[b'x'; 900]).unwrap();
    file.sync_data().unwrap();
    began.elapsed()
}

/// Needs a disk with nobody else on it: `just durable`.
#[test]
#[ignore = "measures the disk"]
fn a_durable_call_costs_little_more_than_its_two_syncs_and_many_share_them() {
    let scene = Scene::new();
    let mut file = File::create(scene.folder.path().join("bare")).unwrap();
    let log = scene.start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut syncs, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // One after the other, so that whatever else the disk does bears on both.
        syncs.push(one_sync(&mut file));
        let began = Instant::now();
        let _ = runtime.block_on(call(&log, "t")).unwrap();
        calls.push(began.elapsed());
    }
    let (sync, one) = (median(syncs), median(calls));
    let began = Instant::now();
    runtime.block_on(async {
        let clients = (0..64).map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    let _ = call(&log, "t").await.unwrap();
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    });
    let each = began.elapsed() / u32::try_from(64 * ROUNDS).unwrap();
    let ratio = one.as_secs_f64() / sync.as_secs_f64();
    let shared = each.as_secs_f64() / sync.as_secs_f64();
    println!(
        "fdatasync {sync:?}; opened and closed {one:?} ({ratio:.2} syncs); of 64 at once {each:?} each ({shared:.2} syncs)"
    );
    assert!(ratio <= 2.5, "{ratio:.2} syncs a call");
    assert!(shared <= 0.5, "{shared:.2} syncs a call of many");
}
