//! Evidence before the act; no evidence, no act.

use std::{collections::HashSet, fs, time::Duration};

use bartizan_audit::{
    Details, Disk, DiskError, Event, Kind, Lost, Text,
    event::{Outcome, Reason},
};

use crate::{
    double::Double,
    scene::{Scene, alice, block_on, call, entries, event, verify},
};

#[test]
fn a_call_is_a_pair_of_entries_that_say_who_called_what_and_verify() {
    let scene = Scene::new();
    let log = scene.start();
    let receipt = block_on(async {
        let opened = log.open(event("read_file")).await.unwrap();
        assert_eq!(log.durable(), opened.receipt().seq().unwrap() + 1, "durable when open returns");
        let digest = log.persons().of(&alice()).unwrap().digest(b"{}");
        let closing =
            Details { outcome: Some(Outcome::Ok), result_digest: Some(digest), ..Details::default() };
        log.close(opened, closing).await.unwrap()
    });
    assert_eq!(receipt.seq(), Some(2));
    let checkpoint = log.checkpoint();
    drop(log);
    let entries = entries(&scene.log_folder());
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::LogOpened, Kind::CallOpened, Kind::CallClosed, Kind::LogClosed]);
    let (opened, closed) = (&entries[1], &entries[2]);
    assert_eq!(closed.details.call, Some(opened.id));
    assert_eq!(closed.id, receipt.id());
    assert_eq!((closed.person, &closed.client), (opened.person, &opened.client));
    assert_eq!(closed.details.tool, Some(Text::new("read_file")));
    let on_disk = fs::read_to_string(&crate::scene::files(&scene.log_folder())[0]).unwrap();
    assert!(!on_disk.contains("alice"), "the log holds a pseudonym, never the subject");
    let expected = crate::scene::key().open(&checkpoint).unwrap();
    let report = scene.verify_against(&[expected]);
    assert_eq!((report.problem, report.agreed), (None, 1));
    assert_eq!(report.checkpoint.unwrap().0.size, 4);
}

/// Attack PH-23.
#[test]
fn nothing_an_outsider_says_makes_a_second_line() {
    let scene = Scene::new();
    let log = scene.start();
    let attack = "x\r\n{\"seq\":9,\"base\":9}\n{\"checkpoint\":\"\u{1b}[2J\u{2028}${jndi:ldap://x}\"}\n";
    let details = Details {
        tool: Some(attack.into()),
        message: Some(Text::new(&attack.repeat(1000))),
        reason: Some(Reason::try_from("policy.denied").unwrap()),
        ..Details::default()
    };
    let caller = bartizan_model::Caller::new(attack, attack, attack);
    let _ = block_on(log.note(Event::new(Kind::ServerStderr).by(&caller).with(details))).unwrap();
    drop(log);
    let raw = fs::read_to_string(&crate::scene::files(&scene.log_folder())[0]).unwrap();
    assert_eq!(raw.lines().count(), 1 + 3 + 3, "a start, three entries, three checkpoints");
    assert!(!raw.contains(['\r', '\u{1b}', '\u{2028}']) && !raw.contains("${"));
    assert_eq!(scene.verify().problem, None);
}

#[test]
fn whoever_comes_while_the_disk_is_busy_shares_one_sync() {
    let scene = Scene::new();
    let disk = Double::default();
    disk.state().slow = Duration::from_millis(20);
    let log = scene.start_on(disk.clone()).unwrap();
    let before = disk.state().syncs;
    block_on(async {
        let calls: Vec<_> = (0..64)
            .map(|n| {
                tokio::spawn({
                    let log = log.clone();
                    async move { call(&log, &format!("t{n}")).await }
                })
            })
            .collect();
        for call in calls {
            let _ = call.await.unwrap().unwrap();
        }
    });
    let syncs = disk.state().syncs - before;
    assert!(syncs <= 16, "128 entries took {syncs} syncs");
    let alone = disk.state().syncs;
    let _ = block_on(log.note(Event::new(Kind::ConfigChanged))).unwrap();
    assert_eq!(disk.state().syncs, alone + 1, "one who is alone pays one sync");
    drop(log);
    disk.dump(&scene.log_folder());
    assert_eq!(scene.verify().problem, None);
}

#[test]
fn a_full_disk_stops_calls_until_there_is_room_and_the_gap_is_told() {
    let scene = Scene::new();
    let disk = Double::default();
    let log = scene.start_on(disk.clone()).unwrap();
    let _ = block_on(call(&log, "before")).unwrap();
    disk.state().space = Some(100);
    // The room that is there already is used up first.
    let within = (0..).take_while(|_| block_on(log.note(Event::new(Kind::ConfigChanged))).is_ok()).count();
    assert!(within < 10, "{within}");
    for _ in 0..3 {
        assert!(matches!(block_on(log.open(event("during"))), Err(Lost::Storage(_))));
    }
    assert_eq!(log.lost(), 4);
    disk.state().space = None;
    let _ = block_on(call(&log, "after")).unwrap();
    drop(log);
    disk.dump(&scene.log_folder());
    assert_eq!(scene.verify().problem, None);
    let entries = entries(&scene.log_folder());
    assert!(!entries.iter().any(|entry| entry.details.tool == Some(Text::new("during"))));
    let lost: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::LogLost).collect();
    assert_eq!((lost.len(), lost[0].details.count), (1, Some(4)));
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_leaves_no_second_history() {
    for truncate_fails in [false, true] {
        let scene = Scene::new();
        let disk = Double::default();
        let log = scene.start_on(disk.clone()).unwrap();
        let _ = block_on(call(&log, "before")).unwrap();
        {
            let mut state = disk.state();
            (state.syncs_left, state.truncate_fails) = (Some(0), truncate_fails);
        }
        assert!(matches!(block_on(log.open(event("during"))), Err(Lost::Storage(_))));
        assert!(matches!(block_on(log.open(event("during"))), Err(Lost::Storage(_))));
        {
            let mut state = disk.state();
            (state.syncs_left, state.truncate_fails) = (None, false);
        }
        let _ = block_on(call(&log, "after")).unwrap();
        drop(log);
        disk.dump(&scene.log_folder());
        assert_eq!(scene.verify().problem, None);
        let entries = entries(&scene.log_folder());
        assert!(!entries.iter().any(|entry| entry.details.tool == Some(Text::new("during"))));
    }
}

#[test]
fn best_effort_lets_calls_go_on_unrecorded_and_tells_how_many() {
    let mut scene = Scene::new();
    scene.options.dangerous_best_effort = true;
    let disk = Double::default();
    let log = scene.start_on(disk.clone()).unwrap();
    disk.state().space = Some(0);
    while block_on(log.note(Event::new(Kind::ConfigChanged))).unwrap().seq().is_some() {}
    let receipt = block_on(call(&log, "during")).unwrap();
    assert_eq!(receipt.seq(), None);
    assert_eq!(log.lost(), 3);
    disk.state().space = None;
    assert!(block_on(call(&log, "after")).unwrap().seq().is_some());
    drop(log);
    disk.dump(&scene.log_folder());
    let lost = entries(&scene.log_folder()).into_iter().find(|entry| entry.kind == Kind::LogLost).unwrap();
    assert_eq!(lost.details.count, Some(3));
}

#[test]
fn a_person_who_cannot_be_recorded_stops_the_call() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let log = scene.start();
    let _ = block_on(call(&log, "before")).unwrap();
    for entry in fs::read_dir(scene.folder.path().join("people")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "person") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    assert!(matches!(block_on(log.open(event("during"))), Err(Lost::Person(_))));
    assert_eq!(log.lost(), 1);
}

#[test]
fn a_call_nobody_closes_is_recorded_as_abandoned_or_interrupted() {
    let scene = Scene::new();
    let log = scene.start();
    let dropped = block_on(log.open(event("dropped"))).unwrap();
    let id = dropped.id();
    drop(dropped);
    let forgotten = block_on(log.open(event("forgotten"))).unwrap();
    let forgotten_id = forgotten.id();
    // As a crash would: neither closed nor dropped, and the log with it.
    let copy = scene.folder.path().join("copy");
    let _ = block_on(log.note(Event::new(Kind::ConfigChanged))).unwrap();
    fs::create_dir(&copy).unwrap();
    for file in crate::scene::files(&scene.log_folder()) {
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    let restarted = scene.start_on(Disk::take(&copy).unwrap()).unwrap();
    drop(restarted);
    assert_eq!(verify(&copy, &[]).problem, None);
    let ends: Vec<_> = entries(&copy)
        .into_iter()
        .filter(|entry| entry.kind == Kind::CallClosed)
        .map(|entry| (entry.details.call.unwrap(), entry.details.outcome.unwrap()))
        .collect();
    assert_eq!(ends, [(id, Outcome::Abandoned), (forgotten_id, Outcome::Interrupted)]);
}

#[test]
fn calls_that_stay_open_over_a_rotation_are_still_closed_after_a_crash() {
    let scene = Scene::with_small_segments();
    let log = scene.start();
    let long = block_on(log.open(event("long"))).unwrap();
    let id = long.id();
    block_on(async {
        for _ in 0..60 {
            let _ = call(&log, "short").await.unwrap();
        }
    });
    assert!(crate::scene::files(&scene.log_folder()).len() > 3);
    let copy = scene.folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in crate::scene::files(&scene.log_folder()) {
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    drop(scene.start_on(Disk::take(&copy).unwrap()).unwrap());
    let interrupted: Vec<_> =
        entries(&copy).into_iter().filter(|e| e.details.outcome == Some(Outcome::Interrupted)).collect();
    assert_eq!(interrupted.len(), 1);
    assert_eq!(interrupted[0].details.call, Some(id));
}

#[test]
fn two_processes_never_share_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let first = Disk::take(folder.path()).unwrap();
    assert!(matches!(Disk::take(folder.path()), Err(DiskError::Held(_))));
    drop(first);
    drop(Disk::take(folder.path()).unwrap());
    let (held, name) = Disk::take_any(folder.path(), "wrap").unwrap();
    let (_other, other) = Disk::take_any(folder.path(), "wrap").unwrap();
    assert_eq!((name.as_str(), other.as_str()), ("wrap-0", "wrap-1"));
    drop(held);
    assert_eq!(Disk::take_any(folder.path(), "wrap").unwrap().1, "wrap-0", "a free one is used again");
}

#[test]
fn old_segments_go_when_their_time_is_up_and_the_rest_verifies() {
    let mut scene = Scene::with_small_segments();
    scene.options.keep_for = Some(Duration::from_secs(60));
    scene.record(200);
    let kept = crate::scene::files(&scene.log_folder());
    let report = scene.verify();
    assert_eq!(report.problem, None);
    assert!(report.first > 0, "something was dropped");
    assert!((3..20).contains(&kept.len()), "{} segments are kept", kept.len());
    let ids: HashSet<_> = entries(&scene.log_folder()).iter().map(|entry| entry.id).collect();
    assert!(ids.len() >= 60, "a minute of one call a second is kept");

    let proof =
        bartizan_audit::prove::prove(&scene.log_folder(), &crate::scene::key(), report.first + 5).unwrap();
    let proved = bartizan_audit::prove::check_proof(&proof, &crate::scene::key()).unwrap();
    assert_eq!(proved.seq, report.first + 5);
    assert!(
        bartizan_audit::prove::prove(&scene.log_folder(), &crate::scene::key(), report.first - 1).is_err()
    );
    assert!(
        bartizan_audit::prove::check_proof(&proof.replace("index ", "index 1"), &crate::scene::key())
            .is_err()
    );
    assert!(
        bartizan_audit::prove::check_proof(&proof.replacen("extra e", "extra f", 1), &crate::scene::key())
            .is_err()
    );
}

#[test]
fn what_an_exporter_has_not_delivered_is_kept_unless_the_disk_would_overflow() {
    let mut scene = Scene::with_small_segments();
    scene.options.keep_for = Some(Duration::from_secs(5));
    let log = scene.start();
    log.hold("siem", 0);
    let run = |log: &bartizan_audit::Log| {
        block_on(async {
            for _ in 0..60 {
                let _ = call(log, "t").await.unwrap();
                scene.clock.advance(Duration::from_secs(1));
            }
        });
    };
    run(&log);
    assert_eq!(scene.verify().first, 0);
    log.hold("siem", u64::MAX);
    run(&log);
    assert!(scene.verify().first > 0);
    drop(log);
    scene.options.keep_for = None;
    scene.options.keep_bytes = Some(20_000);
    let log = scene.start();
    log.hold("siem", 0);
    run(&log);
    drop(log);
    let bytes: u64 =
        crate::scene::files(&scene.log_folder()).iter().map(|f| f.metadata().unwrap().len()).sum();
    assert!(bytes < 30_000, "{bytes}");
    assert_eq!(scene.verify().problem, None);
}

/// Opening a log writes to it, and so may already close a segment and take what is too old.
#[test]
fn what_an_exporter_needs_is_kept_from_the_moment_the_log_is_opened() {
    let mut scene = Scene::with_small_segments();
    scene.record(60);
    scene.clock.advance(Duration::from_secs(1000));
    scene.options.keep_for = Some(Duration::from_secs(60));
    scene.options.needed_by = vec!["siem".to_owned()];
    scene.record(20);
    assert_eq!(scene.verify().first, 0);

    let log = scene.start();
    log.hold("siem", u64::MAX);
    block_on(async {
        for _ in 0..20 {
            let _ = call(&log, "t").await.unwrap();
        }
    });
    drop(log);
    assert!(scene.verify().first > 0);
}

/// Whatever damaged it wants it gone.
#[test]
fn no_retention_takes_a_segment_whose_age_somebody_made_unreadable() {
    let mut scene = Scene::with_small_segments();
    scene.record(60);
    let damaged = crate::scene::files(&scene.log_folder()).remove(1);
    let text = fs::read_to_string(&damaged).unwrap();
    fs::write(&damaged, text.replacen("\n{\"seq\"", "\n[\"seq\"", 1)).unwrap();
    scene.options.keep_for = Some(Duration::from_secs(3600));
    scene.record(60);
    assert!(damaged.exists());
    let first = crate::scene::files(&scene.log_folder()).remove(0);
    assert!(first.ends_with(format!("{:020}.jsonl", 0)), "{}", first.display());
}

#[test]
fn a_caller_who_gives_up_while_his_call_is_opened_leaves_no_open_call() {
    let scene = Scene::new();
    let disk = Double::default();
    let log = scene.start_on(disk.clone()).unwrap();
    disk.state().slow = Duration::from_millis(50);
    block_on(async {
        let given_up = tokio::time::timeout(Duration::from_millis(10), log.open(event("slow"))).await;
        assert!(given_up.is_err());
        disk.state().slow = Duration::ZERO;
        let _ = log.note(Event::new(Kind::ConfigChanged)).await.unwrap();
    });
    drop(log);
    disk.dump(&scene.log_folder());
    let entries = entries(&scene.log_folder());
    let opened = entries.iter().find(|entry| entry.kind == Kind::CallOpened).unwrap();
    let closed = entries.iter().find(|entry| entry.kind == Kind::CallClosed).unwrap();
    assert_eq!((closed.details.call, closed.details.outcome), (Some(opened.id), Some(Outcome::Abandoned)));
}

#[test]
fn an_entry_that_is_too_long_is_written_short() {
    let scene = Scene::new();
    let log = scene.start();
    let details = Details {
        reason: Some(Reason::try_from("policy.denied").unwrap()),
        result: Some(Text::limited(&"x".repeat(2 << 20), 4 << 20)),
        ..Details::default()
    };
    let _ = block_on(log.note(Event::new(Kind::RequestRefused).with(details))).unwrap();
    drop(log);
    let entries = entries(&scene.log_folder());
    assert_eq!(entries[1].details.reason.as_ref().unwrap().as_str(), "policy.denied");
    assert!(entries[1].details.result.is_none());
    assert!(entries[1].details.message.as_ref().unwrap().as_str().contains("left out"));
    assert_eq!(scene.verify().problem, None);
}

/// Attack PH-24: a server floods the log with its words; calls still get theirs in.
#[test]
fn a_flood_of_words_nobody_waits_for_does_not_stop_calls() {
    let scene = Scene::new();
    let disk = Double::default();
    let log = scene.start_on(disk.clone()).unwrap();
    disk.state().slow = Duration::from_millis(100);
    for _ in 0..20_000 {
        log.mention(Event::new(Kind::ServerStderr));
    }
    let dropped = log.lost();
    assert!(dropped > 5_000, "only {dropped} were dropped");
    let _ = block_on(call(&log, "t")).unwrap();
    drop(log);
    disk.dump(&scene.log_folder());
    let told: u64 = entries(&scene.log_folder())
        .iter()
        .filter(|entry| entry.kind == Kind::LogLost)
        .filter_map(|entry| entry.details.count)
        .sum();
    assert_eq!(told, dropped, "and the log tells how many were dropped");
}

#[test]
fn erasing_a_person_is_recorded_and_leaves_only_a_pseudonym() {
    let scene = Scene::new();
    let log = scene.start();
    let admin = bartizan_model::Caller::new("https://id.example", "root", "console");
    block_on(async {
        let _ = call(&log, "t").await.unwrap();
        assert!(log.erase(&alice(), &admin).await.unwrap());
        assert!(!log.erase(&alice(), &admin).await.unwrap(), "there is nobody left to erase");
    });
    assert!(log.persons().find(&alice()).is_none());
    drop(log);
    let entries = entries(&scene.log_folder());
    let erased: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::PersonErased).collect();
    assert_eq!(erased.len(), 1);
    let called = entries.iter().find(|entry| entry.kind == Kind::CallOpened).unwrap().person.unwrap();
    assert_eq!(erased[0].details.change.as_ref().unwrap().name.as_str(), called.to_string());
    assert_ne!(erased[0].person, Some(called));
    assert_eq!(scene.verify().problem, None);
}

/// Stopped after the file was overwritten and before it was removed, as by a crash; or made readable by others, whom it would tell who
/// is in the log.
#[test]
fn an_erasure_that_was_cut_short_is_finished_by_asking_again() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let scene = Scene::new();
    let log = scene.start();
    let admin = bartizan_model::Caller::new("local", "owner", "");
    block_on(async {
        for is_torn in [true, false] {
            let _ = call(&log, "t").await.unwrap();
            let before = log.persons().of(&alice()).unwrap().pseudonym();
            let people = fs::read_dir(scene.folder.path().join("people")).unwrap();
            let holds_alice = |path: &std::path::PathBuf| {
                let text = fs::read_to_string(path).unwrap_or_default();
                path.extension().is_some_and(|e| e == "person") && text.contains("alice")
            };
            let file = people.map(|entry| entry.unwrap().path()).find(holds_alice).unwrap();
            if is_torn {
                fs::write(&file, vec![0; fs::read(&file).unwrap().len()]).unwrap();
            } else {
                fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            }
            let refused = log.open(event("t")).await;
            assert!(matches!(refused, Err(Lost::Person(_))), "rather not recorded than as nobody's");
            assert!(log.erase(&alice(), &admin).await.unwrap());
            assert!(!file.exists() && !log.erase(&alice(), &admin).await.unwrap());
            let _ = call(&log, "t").await.unwrap();
            assert_ne!(log.persons().of(&alice()).unwrap().pseudonym(), before, "a stranger again");
        }
    });
    drop(log);
    let entries = entries(&scene.log_folder());
    assert_eq!(entries.iter().filter(|entry| entry.kind == Kind::PersonErased).count(), 2);
    assert_eq!(scene.verify().problem, None);
}
