//! Power cuts and `kill -9`, many times, under load.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use bartizan_audit::{Disk, Kind, Log, event::Outcome};

use crate::{
    double::Double,
    scene::{Scene, block_on, call, entries, event},
};

/// A small source of chance (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// Runs 8 callers until the log refuses; the ids of what was acknowledged.
fn load(log: &Log, rounds: usize) -> (HashSet<String>, HashSet<String>) {
    block_on(async {
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let log = log.clone();
                tokio::spawn(async move {
                    let (mut opened, mut closed) = (Vec::new(), Vec::new());
                    for _ in 0..rounds {
                        let Ok(call) = log.open(event(&format!("t{n}"))).await else { break };
                        opened.push(call.id().to_string());
                        let details =
                            bartizan_audit::Details { outcome: Some(Outcome::Ok), ..Default::default() };
                        let Ok(receipt) = log.close(call, details).await else { break };
                        closed.push(receipt.id().to_string());
                    }
                    (opened, closed)
                })
            })
            .collect();
        let mut all = (HashSet::new(), HashSet::new());
        for task in tasks {
            let (opened, closed) = task.await.unwrap();
            all.0.extend(opened);
            all.1.extend(closed);
        }
        all
    })
}

#[test]
fn two_hundred_power_cuts_lose_nothing_that_was_acknowledged() {
    let mut chance = Chance(42);
    let mut scene = Scene::new();
    let (mut cuts, mut interrupted) = (0, 0);
    for round in 0..20 {
        // A log that lives through ten cuts.
        scene.options.segment_bytes = 3000 + chance.below(8000) as u64;
        let disk = Double::default();
        let mut acknowledged = HashSet::new();
        for _ in 0..10 {
            disk.state().power = Some(2 + chance.below(40));
            if let Ok(log) = scene.start_on(disk.clone()) {
                let (opened, closed) = load(&log, 20);
                acknowledged.extend(opened);
                acknowledged.extend(closed);
            }
            disk.reboot(|n| chance.below(n));
            cuts += 1;
        }
        drop(scene.start_on(disk.clone()).unwrap());
        let folder = scene.folder.path().join(format!("round-{round}"));
        disk.dump(&folder);
        let report = crate::scene::verify(&folder, &[]);
        assert_eq!(report.problem, None, "round {round}");
        let entries = entries(&folder);
        let written: HashSet<_> = entries.iter().map(|entry| entry.id.to_string()).collect();
        let lost: Vec<_> = acknowledged.difference(&written).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        let opened: HashSet<_> =
            entries.iter().filter(|e| e.kind == Kind::CallOpened).map(|e| e.id).collect();
        let closed: Vec<_> = entries.iter().filter(|e| e.kind == Kind::CallClosed).collect();
        assert_eq!(closed.len(), opened.len(), "every call is closed exactly once");
        assert!(closed.iter().all(|e| opened.contains(&e.details.call.unwrap())));
        interrupted += closed.iter().filter(|e| e.details.outcome == Some(Outcome::Interrupted)).count();
    }
    assert_eq!(cuts, 200);
    assert!(interrupted > 20, "the cuts came in the middle of calls");
}

#[test]
fn two_hundred_kills_lose_nothing_that_was_acknowledged() {
    let scene = Scene::new();
    let mut chance = Chance(7);
    let mut acknowledged = HashSet::new();
    let mut largest = 0;
    for round in 0..200 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::appends_until_killed", "--ignored", "--nocapture", "--test-threads=1"])
            .env("BARTIZAN_TEST_LOG", scene.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (first, first_seen) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let written = lines.lines().map_while(Result::ok).inspect(|_| {
                // Nobody listens any more once the kill is on its way.
                let _ = first.send(());
            });
            // The last line may be cut by the kill; a whole id is 32 digits.
            written
                .filter_map(|line| Some(line.strip_prefix("ack ")?.to_owned()))
                .filter(|id| id.len() == 32)
                .collect::<Vec<_>>()
        });
        if round % 2 == 0 {
            // Under load; the other half dies wherever it is, at start-up too.
            for _ in 0..3 + chance.below(20) {
                let _ = first_seen.recv_timeout(Duration::from_secs(10));
            }
        }
        std::thread::sleep(Duration::from_millis(chance.below(40) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        let acks = reader.join().unwrap();
        largest = largest.max(acks.len());
        acknowledged.extend(acks);
    }
    assert!(acknowledged.len() > 500, "only {} acknowledged", acknowledged.len());
    assert!(largest > 10);
    drop(scene.start());
    let report = scene.verify();
    assert_eq!(report.problem, None);
    let written: HashSet<_> = entries(&scene.log_folder()).iter().map(|entry| entry.id.to_string()).collect();
    let lost: Vec<_> = acknowledged.difference(&written).collect();
    assert!(lost.is_empty(), "lost {} of {}", lost.len(), acknowledged.len());
}

/// The child of the test above: not a test of its own.
#[test]
#[ignore = "run by the kill test"]
fn appends_until_killed() {
    use std::io::Write;
    let Some(folder) = std::env::var_os("BARTIZAN_TEST_LOG") else { return };
    let folder = std::path::PathBuf::from(folder);
    let entropy =
        std::sync::Arc::new(bartizan_model::SeededEntropy::new(u64::from(std::process::id()) << 20));
    let setup = bartizan_audit::Setup {
        origin: "gate.example/test".parse().unwrap(),
        signer: crate::scene::signer(),
        persons: std::sync::Arc::new(
            bartizan_audit::Persons::open(&folder.join("people"), entropy.clone()).unwrap(),
        ),
        clock: std::sync::Arc::new(bartizan_model::SystemClock),
        entropy,
        options: bartizan_audit::Options { segment_bytes: 20_000, ..Default::default() },
    };
    let log = Log::start(Disk::take(&folder.join("log")).unwrap(), setup).unwrap();
    println!();
    block_on(async {
        for n in 0..8 {
            let log = log.clone();
            tokio::spawn(async move {
                loop {
                    let receipt = call(&log, &format!("t{n}")).await.unwrap();
                    let line = format!("ack {}\n", receipt.id());
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
    });
}
