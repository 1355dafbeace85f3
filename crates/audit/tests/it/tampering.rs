//! Whoever edits the log is found out, and where.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, MutexGuard},
};

use bartizan_audit::{
    Event, Kind, OpenError, Problem,
    search::{Filter, Term, search},
};
use proptest::prelude::*;

use crate::scene::{Scene, block_on, files, verify};

/// A log of several segments, groups of one and of many, copied once per attack.
struct Victim {
    scene: Scene,
    /// Every line, and which file it is in.
    lines: Vec<(usize, Vec<u8>)>,
}

static VICTIM: LazyLock<Mutex<Victim>> = LazyLock::new(|| {
    let mut scene = Scene::new();
    scene.options.segment_bytes = 1800;
    let log = scene.start();
    block_on(async {
        for round in 0..12_usize {
            let notes = (0..=round % 5).map(|_| {
                let log = log.clone();
                tokio::spawn(async move { log.note(Event::new(Kind::ConfigChanged)).await })
            });
            for note in notes.collect::<Vec<_>>() {
                let _ = note.await.unwrap().unwrap();
            }
        }
    });
    drop(log);
    let files = files(&scene.log_folder());
    assert!(files.len() >= 3);
    let of = |(n, file): (usize, &PathBuf)| {
        lines_of(&fs::read(file).unwrap()).into_iter().map(move |l| (n, l)).collect::<Vec<_>>()
    };
    let lines = files.iter().enumerate().flat_map(of).collect();
    Mutex::new(Victim { scene, lines })
});

fn victim() -> MutexGuard<'static, Victim> {
    VICTIM.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Victim {
    /// The log written anew from these lines.
    fn with(&self, lines: &[(usize, Vec<u8>)]) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for (n, file) in files(&self.scene.log_folder()).iter().enumerate() {
            let of_file = lines.iter().filter(|(of, _)| *of == n).flat_map(|(_, line)| line.clone());
            fs::write(copy.path().join(file.file_name().unwrap()), of_file.collect::<Vec<_>>()).unwrap();
        }
        copy
    }
}

fn lines_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

fn append(path: &Path, bytes: &[u8]) {
    let mut all = fs::read(path).unwrap_or_default();
    all.extend_from_slice(bytes);
    fs::write(path, all).unwrap();
}

fn seq(line: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("seq")?.as_u64()
}

/// The entries that share a signature with the entry `seq`: the smallest range that can be named.
fn group(lines: &[(usize, Vec<u8>)], target: u64) -> (u64, u64) {
    let mut group = Vec::new();
    for (_, line) in lines {
        match seq(line) {
            Some(seq) => group.push(seq),
            None if group.contains(&target) => return (group[0], *group.last().unwrap()),
            None => group.clear(),
        }
    }
    panic!("entry {target} is in no group");
}

/// Whether `problem` names entry `target`, or no more than its group.
fn names(problem: &Problem, target: u64, lines: &[(usize, Vec<u8>)]) -> bool {
    let (from, to) = group(lines, target);
    match *problem {
        Problem::Altered { first, last, .. } | Problem::Missing { first, last, .. } => {
            first >= from && last <= to && (first..=last).contains(&target)
        }
        Problem::Reordered { expected, .. } => (from..=to).contains(&expected),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_is_found_and_located(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let victim = victim();
        let mut lines = victim.lines.clone();
        let total: usize = lines.iter().map(|(_, line)| line.len()).sum();
        let mut at = place.index(total);
        let hit = lines.iter().position(|(_, line)| {
            let here = at < line.len();
            if !here { at -= line.len(); }
            here
        }).unwrap();
        let (_, line) = &mut lines[hit];
        let number = seq(line).filter(|_| at + 1 < line.len());
        line[at] ^= 1 << bit;
        let copy = victim.with(&lines);
        let problem = verify(copy.path(), &[]).problem;
        prop_assert!(problem.is_some(), "line {hit} byte {at}");
        let problem = problem.unwrap();
        if let Some(number) = number {
            prop_assert!(names(&problem, number, &victim.lines), "{number}: {problem:?}");
        }
    }

    #[test]
    fn whatever_bytes_stand_in_a_segment_are_a_problem_and_no_panic(bytes in any::<Vec<u8>>(), keep in any::<prop::sample::Index>()) {
        let victim = victim();
        let copy = victim.with(&victim.lines);
        let file = files(copy.path()).remove(0);
        let mut honest = fs::read(&file).unwrap();
        honest.truncate(keep.index(honest.len()));
        honest.extend(&bytes);
        fs::write(&file, &honest).unwrap();
        prop_assert!(verify(copy.path(), &[]).problem.is_some());
        let garbage = String::from_utf8_lossy(&bytes).into_owned();
        prop_assert!(bartizan_audit::prove::check_proof(&garbage, &crate::scene::key()).is_err());
    }

    #[test]
    fn whatever_bytes_stand_in_an_index_a_search_neither_panics_nor_fails(bytes in any::<Vec<u8>>(), claim in any::<bool>()) {
        let victim = victim();
        let copy = victim.with(&victim.lines);
        let segment = files(copy.path()).remove(0);
        let mut index = Vec::new();
        if claim {
            index.extend(b"bzindex1");
            index.extend(segment.metadata().unwrap().len().to_le_bytes());
        }
        index.extend(&bytes);
        fs::write(segment.with_extension("index"), index).unwrap();
        let filter = Filter { terms: vec![Term::new("kind", "config.changed")], ..Filter::default() };
        prop_assert!(search(copy.path(), &filter, 100).is_ok());
    }

    #[test]
    fn a_deleted_line_is_found_and_named(place in any::<prop::sample::Index>()) {
        let victim = victim();
        let mut lines = victim.lines.clone();
        let removed = place.index(lines.len());
        let (_, line) = lines.remove(removed);
        let copy = victim.with(&lines);
        let problem = verify(copy.path(), &[]).problem;
        prop_assert!(problem.is_some(), "line {removed}");
        if let Some(number) = seq(&line) {
            let problem = problem.unwrap();
            let named = matches!(problem, Problem::Missing { first, last, .. } if first == number && last == number);
            prop_assert!(named, "{number}: {problem:?}");
        }
    }

    #[test]
    fn two_swapped_entries_are_found_and_named(one in any::<prop::sample::Index>(), two in any::<prop::sample::Index>()) {
        let victim = victim();
        let mut lines = victim.lines.clone();
        let entries: Vec<_> = (0..lines.len()).filter(|i| seq(&lines[*i].1).is_some()).collect();
        let (a, b) = (entries[one.index(entries.len())], entries[two.index(entries.len())]);
        prop_assume!(a != b);
        let (file_a, file_b) = (lines[a].0, lines[b].0);
        lines.swap(a, b);
        (lines[a].0, lines[b].0) = (file_a, file_b);
        let first = seq(&victim.lines[a.min(b)].1).unwrap();
        let copy = victim.with(&lines);
        let problem = verify(copy.path(), &[]).problem.expect("a swap goes unnoticed");
        let named = matches!(problem, Problem::Reordered { expected, .. } if expected == first);
        prop_assert!(named, "{first}: {problem:?}");
    }

    #[test]
    fn a_log_cut_within_a_group_is_found(place in any::<prop::sample::Index>()) {
        let victim = victim();
        let copy = victim.with(&victim.lines);
        let last = files(copy.path()).pop().unwrap();
        let bytes = fs::read(&last).unwrap();
        let cut = place.index(bytes.len());
        fs::write(&last, &bytes[..cut]).unwrap();
        let at_a_checkpoint = {
            let lines = lines_of(&bytes[..cut]);
            lines.last().is_some_and(|l| l.ends_with(b"\n") && l.starts_with(b"{\"checkpoint\"")) || lines.len() == 1 && lines[0].ends_with(b"\n")
        };
        let report = verify(copy.path(), &[]);
        // A cut right behind a checkpoint is a rollback: found with a checkpoint kept elsewhere, below.
        prop_assert_eq!(report.problem.is_some(), !at_a_checkpoint, "cut at {} of {}", cut, bytes.len());
        let whole = verify(&victim.scene.log_folder(), &[]).checkpoint.unwrap().0;
        let expected = verify(copy.path(), std::slice::from_ref(&whole)).problem;
        prop_assert!(expected.is_some(), "a rollback goes unnoticed");
    }
}

#[test]
fn a_missing_segment_is_named_whole() {
    let victim = victim();
    for (n, file) in files(&victim.scene.log_folder()).into_iter().enumerate() {
        let copy = victim.with(&victim.lines);
        let gone = copy.path().join(file.file_name().unwrap());
        let first = seq(&lines_of(&fs::read(&gone).unwrap())[1]).unwrap();
        fs::remove_file(&gone).unwrap();
        let problem = verify(copy.path(), &[]).problem;
        let newest = n + 1 == files(&victim.scene.log_folder()).len();
        match problem {
            Some(Problem::Missing { first: named, .. }) => assert_eq!(named, first),
            None => assert!(newest, "segment {first} is missing and nobody noticed"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_rollback_and_a_rewrite_are_found_with_a_checkpoint_kept_elsewhere_and_only_then() {
    let scene = Scene::new();
    scene.record(3);
    let young = fs::read(&files(&scene.log_folder())[0]).unwrap();
    let early = scene.verify().checkpoint.unwrap().0;
    scene.record(3);
    let late = scene.verify().checkpoint.unwrap().0;
    assert_eq!(scene.verify_against(&[early.clone(), late.clone()]).agreed, 2);

    fs::write(&files(&scene.log_folder())[0], young).unwrap();
    assert_eq!(scene.verify().problem, None, "a clean rollback looks like a young log");
    let found = scene.verify_against(std::slice::from_ref(&late)).problem;
    assert_eq!(found, Some(Problem::RolledBack { expected: late.size, found: early.size }));

    // Grown again to the same length, by whoever holds the key: another history.
    scene.record(3);
    assert_eq!(scene.verify().problem, None);
    assert_eq!(
        scene.verify_against(std::slice::from_ref(&late)).problem,
        Some(Problem::Rewritten { size: late.size })
    );
    assert_eq!(scene.verify_against(&[early]).problem, None);
}

#[test]
fn a_log_that_was_tampered_with_is_not_written_to() {
    let scene = Scene::new();
    scene.record(5);
    let file = files(&scene.log_folder()).remove(0);
    let honest = fs::read(&file).unwrap();
    let at = honest.windows(6).position(|w| w == b"tool-1").unwrap();
    let mut altered = honest.clone();
    altered[at + 5] = b'9';
    fs::write(&file, &altered).unwrap();
    assert!(matches!(scene.try_start(), Err(OpenError::Tampered(Problem::Altered { .. }))));
    assert_eq!(fs::read(&file).unwrap(), altered, "evidence is left as it is");
    // The newest group is refused too: no torn write looks like this.
    let mut altered = honest.clone();
    let at = std::str::from_utf8(&honest).unwrap().rfind("closed").unwrap();
    altered[at..at + 6].copy_from_slice(b"opened");
    fs::write(&file, &altered).unwrap();
    assert!(matches!(scene.try_start(), Err(OpenError::Tampered(Problem::Altered { .. }))));
    // Another key's log is not ours either.
    fs::write(&file, &honest).unwrap();
    let mut setup = scene.setup();
    setup.signer = bartizan_audit::Signer::from_seed(&[9; 32]);
    let disk = bartizan_audit::Disk::take(&scene.log_folder()).unwrap();
    assert!(matches!(bartizan_audit::Log::start(disk, setup), Err(OpenError::Tampered(_))));
    assert!(scene.try_start().is_ok());
}

#[test]
fn a_torn_end_is_cut_kept_aside_and_told() {
    let scene = Scene::new();
    scene.record(2);
    let file = files(&scene.log_folder()).remove(0);
    append(&file, b"{\"seq\":6,\"base\":6,\"id\":\"00");
    assert!(matches!(scene.verify().problem, Some(Problem::Truncated { signed: 6, .. })));
    drop(scene.start());
    assert_eq!(scene.verify().problem, None);
    let entries = crate::scene::entries(&scene.log_folder());
    let opened = entries.iter().rfind(|entry| entry.kind == Kind::LogOpened).unwrap();
    assert_eq!(opened.details.count, Some(26));
    let kept = fs::read_dir(scene.log_folder())
        .unwrap()
        .any(|e| e.unwrap().file_name().to_string_lossy().contains("cut-"));
    assert!(kept);
}

#[test]
fn an_exported_checkpoint_finds_a_rollback() {
    let mut scene = Scene::new();
    scene.options.tell_checkpoint_every = std::time::Duration::from_secs(3);
    scene.record(2);
    let young = fs::read(&files(&scene.log_folder())[0]).unwrap();
    scene.record(20);
    let told: Vec<_> = crate::scene::entries(&scene.log_folder())
        .into_iter()
        .filter_map(|entry| entry.details.checkpoint)
        .map(|note| crate::scene::key().open(note.as_str()).expect("a told checkpoint is signed"))
        .collect();
    assert!(told.len() >= 4, "one every three seconds of twenty");
    let report = scene.verify_against(&told);
    assert_eq!((report.problem, report.agreed), (None, told.len()));
    fs::write(&files(&scene.log_folder())[0], young).unwrap();
    assert!(matches!(scene.verify_against(&told).problem, Some(Problem::RolledBack { .. })));
}
