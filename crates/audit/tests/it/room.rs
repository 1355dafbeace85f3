//! Room ahead: the file is longer than the log while it is written, and nobody takes the room for log or the log for room.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bartizan_audit::{
    Disk, Entry, Event, Kind, Log, OpenError, Problem,
    search::{Filter, search, walk},
};
use proptest::prelude::*;

use crate::{
    double::Double,
    scene::{Scene, block_on, call, entries, files, verify},
};

/// The log of a process that died without a word after `calls` calls: its only segment, with the room in it.
fn died_after(calls: usize) -> (Scene, Vec<u8>) {
    let scene = Scene::new();
    let log = scene.start();
    for n in 0..calls {
        let _ = block_on(call(&log, &format!("tool-{n}"))).unwrap();
    }
    let bytes = fs::read(&files(&scene.log_folder())[0]).unwrap();
    (scene, bytes)
}

/// How much of it is log.
fn log_of(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|byte| *byte != b'\n').unwrap() + 2]
}

/// A folder with this as its only segment.
fn folder_with(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("{:020}.jsonl", 0));
    fs::write(&file, bytes).unwrap();
    (folder, file)
}

fn start_in(folder: &Path, scene: &Scene) -> Result<Log, OpenError> {
    scene.start_on(Disk::take(folder).unwrap())
}

#[test]
fn room_is_there_while_a_log_is_written_and_cut_when_it_is_closed() {
    let scene = Scene::new();
    let file = || fs::read(&files(&scene.log_folder())[0]).unwrap();
    let log = scene.start();
    assert!(file().len() <= 4096, "a log of one entry takes no more than a page");
    for _ in 0..20 {
        let _ = block_on(call(&log, "t")).unwrap();
    }
    let (bytes, report) = (file(), scene.verify());
    let length = log_of(&bytes).len();
    assert!(bytes.len() > length && bytes.len() <= 2 * length + 4096, "{length} in {}", bytes.len());
    assert_eq!((report.problem, report.being_written), (None, false));
    assert_eq!(report.checkpoint.unwrap().0.size, log.durable());
    drop(log);
    assert!(file().ends_with(b"}\n"));
    assert!(file().len() > length, "the last entry is behind the others");
    assert_eq!(scene.verify().problem, None);
}

#[test]
fn what_a_killed_process_left_room_in_is_whole_and_gone_on_with() {
    let (scene, bytes) = died_after(20);
    let (folder, file) = folder_with(&bytes);
    assert_eq!(verify(folder.path(), &[]).problem, None, "before anybody looked after it");
    let log = start_in(folder.path(), &scene).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), bytes.len() as u64, "in the room that was there");
    drop(log);
    let opened = entries(folder.path()).into_iter().rfind(|entry| entry.kind == Kind::LogOpened).unwrap();
    assert_eq!(opened.details.count, None, "nothing is cut");
    assert!(
        !fs::read_dir(folder.path()).unwrap().any(|e| e.unwrap().path().to_string_lossy().contains("cut-"))
    );
    assert!(fs::read(&file).unwrap().starts_with(log_of(&bytes)));
    assert_eq!(verify(folder.path(), &[]).problem, None);
}

#[test]
fn a_segment_that_is_full_is_cut_before_there_is_another() {
    let scene = Scene::with_small_segments();
    let log = scene.start();
    for _ in 0..60 {
        let _ = block_on(call(&log, "t")).unwrap();
        let all = files(&scene.log_folder());
        for closed in &all[..all.len() - 1] {
            assert!(fs::read(closed).unwrap().ends_with(b"}\n"), "{closed:?}");
        }
    }
    assert!(files(&scene.log_folder()).len() > 10);
}

#[test]
fn few_syncs_make_the_file_longer() {
    let scene = Scene::new();
    let disk = Double::default();
    let log = scene.start_on(disk.clone()).unwrap();
    for _ in 0..500 {
        let _ = block_on(call(&log, "t")).unwrap();
    }
    let (syncs, growths) = {
        let state = disk.state();
        (state.syncs, state.growths)
    };
    assert!(syncs > 1000 && growths < 15, "{growths} of {syncs}");
    drop(log);
    disk.dump(&scene.log_folder());
    assert_eq!(scene.verify().problem, None);
}

#[test]
fn a_disk_without_space_for_room_has_the_log_for_as_long_as_that_fits() {
    let scene = Scene::new();
    let (mut written, mut space) = (0, 60_000);
    let disk = Double::default();
    disk.state().space = Some(space);
    let log = scene.start_on(disk.clone()).unwrap();
    while block_on(log.note(Event::new(Kind::ConfigChanged))).is_ok() {
        written += 1;
    }
    space -= log_of(&disk.bytes(0)).len();
    assert!(space < 1000, "{space} bytes were left when an entry was refused, after {written}");
    assert_eq!(log.lost(), 1);
    disk.state().space = None;
    let _ = block_on(call(&log, "after")).unwrap();
    drop(log);
    disk.dump(&scene.log_folder());
    assert_eq!(scene.verify().problem, None);
    let kept = entries(&scene.log_folder()).iter().filter(|e| e.kind == Kind::ConfigChanged).count();
    assert_eq!(kept, written);
}

/// A log whose last group has several entries, and where that group begins.
fn with_a_large_group() -> (Scene, Vec<u8>, usize) {
    let (scene, disk) = (Scene::new(), Double::default());
    let log = scene.start_on(disk.clone()).unwrap();
    disk.state().slow = Duration::from_millis(50);
    block_on(async {
        let notes = (0..4).map(|_| {
            let log = log.clone();
            tokio::spawn(async move { log.note(Event::new(Kind::ConfigChanged)).await })
        });
        for note in notes.collect::<Vec<_>>() {
            let _ = note.await.unwrap().unwrap();
        }
    });
    let bytes = disk.bytes(0);
    let lines: Vec<_> = log_of(&bytes).split_inclusive(|byte| *byte == b'\n').collect();
    let (_, before) = lines.split_last().unwrap();
    let first = before.iter().rposition(|line| line.starts_with(b"{\"checkpoint\"")).unwrap() + 1;
    assert!(before.len() - first >= 3, "{} entries", before.len() - first);
    let group = before[..first].iter().map(|line| line.len()).sum();
    (scene, bytes, group)
}

/// Sectors, of which any may have reached the disk.
#[test]
fn whatever_part_of_the_last_group_a_power_cut_left_is_cut_and_all_before_it_is_kept() {
    let (scene, bytes, start) = with_a_large_group();
    let group = start..log_of(&bytes).len();
    let ids = |log: &[u8]| -> HashSet<_> {
        let entries = log.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"seq\""));
        entries.map(|line| serde_json::from_slice::<Entry>(line).unwrap().id).collect()
    };
    let acknowledged = [ids(&bytes[..group.start]), ids(&bytes[..group.end])];
    // Smaller than any disk has them, so that every line is over several.
    let sectors: Vec<_> = (group.start / 96..=(group.end - 1) / 96).map(|n| n * 96..(n + 1) * 96).collect();
    assert!((7..11).contains(&sectors.len()), "{} sectors", sectors.len());
    for kept in 0..1_usize << sectors.len() {
        for fill in [b'\n', 0] {
            let mut torn = bytes.clone();
            torn[group.start..group.end].fill(fill);
            if fill == 0 {
                // The file was being made longer.
                torn[group.end..].chunks_mut(700).step_by(2).for_each(|hole| hole.fill(0));
            }
            for (_, sector) in sectors.iter().enumerate().filter(|(n, _)| kept & 1 << n != 0) {
                let written = sector.start.max(group.start)..sector.end.min(group.end);
                torn[written.clone()].copy_from_slice(&bytes[written]);
            }
            let is_whole = torn[..group.end] == bytes[..group.end];
            let disk = Double::with(0, &torn);
            let opened = scene.start_on(disk.clone());
            drop(opened.unwrap_or_else(|error| panic!("{kept:b} of {fill}: {error}")));
            let log = disk.bytes(0);
            let again = scene.start_on(Double::with(0, &log));
            assert!(again.is_ok() && log.ends_with(b"}\n"), "{kept:b} of {fill}: nothing is left of it");
            let there = ids(&log);
            let expected = &acknowledged[usize::from(is_whole)];
            assert!(expected.is_subset(&there), "{kept:b} of {fill}");
        }
    }
}

/// Its checkpoint is whole, and something of another group is behind it: then it was acknowledged, and no power cut took it.
#[test]
fn damage_in_a_group_that_was_acknowledged_is_not_cut_whatever_is_left_of_the_next() {
    let (scene, bytes) = died_after(3);
    let log = log_of(&bytes);
    let starts: Vec<_> = std::iter::once(0)
        .chain(log.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1))
        .collect();
    let [.., entry, checkpoint, next, _, end] = starts[..] else { panic!() };
    for damage in [entry..entry + 1, entry + 100..entry + 200, entry..checkpoint - 1] {
        for blank in [0, 1, 128, 300, end - next - 3] {
            let mut damaged = bytes.clone();
            damaged[damage.clone()].fill(b'\n');
            damaged[next..next + blank].fill(b'\n');
            let refused = scene.start_on(Double::with(0, &damaged));
            assert!(
                matches!(refused, Err(OpenError::Tampered(Problem::Altered { .. }))),
                "{damage:?}, {blank} bytes of what follows are blank: {refused:?}"
            );
        }
    }
}

/// A copy of a log that is being written, with room, in which some bytes are blank.
fn blanked(bytes: &[u8], from: usize, to: usize) -> (tempfile::TempDir, Vec<u8>) {
    let mut blanked = bytes.to_vec();
    blanked[from..to].fill(b'\n');
    let (folder, _) = folder_with(&blanked);
    (folder, blanked)
}

static DIED: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| died_after(8).1);

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_blanked_in_the_middle_is_found_and_located(one in any::<prop::sample::Index>(), two in any::<prop::sample::Index>()) {
        let log = log_of(&DIED);
        let (one, two) = (one.index(log.len() - 1), two.index(log.len() - 1));
        let (from, to) = (one.min(two), one.max(two) + 1);
        // The bytes before a newline are somebody's; a newline alone is blank already.
        prop_assume!(log[from..to].iter().any(|byte| *byte != b'\n') && to < log.len() - 1);
        let (folder, _) = blanked(&DIED, from, to);
        let problem = verify(folder.path(), &[]).problem;
        // The entries before the first byte that is blank now.
        let first = from + log[from..].iter().position(|byte| *byte != b'\n').unwrap();
        let lines = log[..first].split(|byte| *byte == b'\n');
        let before = lines.clone().take(lines.count() - 1).filter(|line| line.starts_with(b"{\"seq\"")).count() as u64;
        let line = log[..first].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let located = match problem {
            Some(Problem::Altered { first, last, line: at, .. }) => (first..=last).contains(&before) && at == line,
            Some(Problem::CheckpointAltered { after, line: at, .. }) => after == before && at == line,
            Some(Problem::StartAltered { .. }) => line == 1,
            _ => false,
        };
        prop_assert!(located, "{from}..{to} in line {line}, entry {before}: {problem:?}");
    }

    #[test]
    fn a_log_whose_end_is_blanked_is_a_log_that_was_cut_off(place in any::<prop::sample::Index>()) {
        let log = log_of(&DIED);
        let cut = place.index(log.len());
        let (folder, _) = blanked(&DIED, cut, DIED.len());
        let (shorter, _) = folder_with(&log[..cut]);
        let (found, expected) = (verify(folder.path(), &[]), verify(shorter.path(), &[]));
        let ends_a_line = log[cut] == b'\n';
        if ends_a_line {
            // Its newline is blank as well.
            let (with, _) = folder_with(&log[..=cut]);
            prop_assert_eq!(found.problem, verify(with.path(), &[]).problem);
        } else {
            prop_assert_eq!(&found.problem, &expected.problem);
            prop_assert_eq!(found.checkpoint, expected.checkpoint);
        }
        // Which only a checkpoint kept elsewhere tells from a young log, as before.
        let whole = verify(folder_with(log).0.path(), &[]).checkpoint.unwrap().0;
        prop_assert!(cut + 1 >= log.len() || verify(folder.path(), &[whole]).problem.is_some());
    }
}

/// Readers on other threads, as other processes would be, while the log is filled into its room.
#[test]
fn whoever_reads_while_it_is_written_reads_the_beginning_of_the_log_and_no_damage() {
    let mut scene = Scene::new();
    // Longer than its room ever is, and rotated now and then.
    scene.options.segment_bytes = 1 << 20;
    let (log, folder, done) = (scene.start(), scene.log_folder(), AtomicBool::new(false));
    let counts = std::thread::scope(|threads| {
        let verifier = threads.spawn(|| {
            let (mut count, mut seen) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let before = log.durable();
                let report = verify(&folder, &[]);
                assert_eq!(report.problem, None);
                seen = report.checkpoint.unwrap().0.size;
                assert!(seen >= before, "{before} entries were durable, and {seen} are verified");
                count += 1;
            }
            assert!(seen > 0);
            count
        });
        let reader = threads.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let (before, mut next) = (log.durable(), 0);
                walk(&folder, &Filter::default(), |_, line| {
                    let seq = serde_json::from_str::<serde_json::Value>(line)?["seq"].as_u64().unwrap();
                    assert_eq!(seq, next, "none is missed");
                    next += 1;
                    Ok(true)
                })
                .unwrap();
                assert!(next >= before);
                let newest = search(&folder, &Filter::default(), 1).unwrap();
                assert!(newest.total >= next);
                count += 1;
            }
            count
        });
        block_on(async {
            let began = tokio::time::Instant::now();
            while began.elapsed() < Duration::from_secs(4) {
                let calls = (0..8).map(|n| {
                    let log = log.clone();
                    tokio::spawn(async move { call(&log, &"x".repeat(n * 100)).await })
                });
                for call in calls.collect::<Vec<_>>() {
                    let _ = call.await.unwrap().unwrap();
                }
            }
        });
        done.store(true, Ordering::Relaxed);
        (verifier.join().unwrap(), reader.join().unwrap())
    });
    assert!(counts.0 > 5 && counts.1 > 5, "{counts:?}");
    drop(log);
    assert_eq!(scene.verify().problem, None);
}
