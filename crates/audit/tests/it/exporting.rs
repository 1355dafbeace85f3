//! Receivers that are slow, dead, choosy or misconfigured.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bartizan_audit::{
    Details, Event, Kind, Log,
    export::{Answer, Exporter, Shipment, Source, Step, Transport, Unreachable, splunk::Splunk},
};
use bartizan_model::{Clock, Secret, Timestamp};
use serde_json::Value;

use crate::scene::{Scene, alice, block_on, call, entries};

/// A Splunk that answers as told, then with success, and refuses whatever says `poison`.
#[derive(Default)]
struct Receiver {
    script: Mutex<VecDeque<Option<(u16, &'static str)>>>,
    shipments: Mutex<Vec<Vec<Value>>>,
    taken: Mutex<Vec<Value>>,
}

impl Transport for Receiver {
    fn carry<'a>(
        &'a self,
        shipment: Shipment,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Unreachable>> + Send + 'a>> {
        Box::pin(async move {
            let Shipment::Post { body, .. } = shipment else { panic!("not a post") };
            let events: Vec<Value> =
                serde_json::Deserializer::from_slice(&body).into_iter().collect::<Result<_, _>>().unwrap();
            let ids: Vec<_> = events.iter().map(|event| event["event"]["id"].clone()).collect();
            self.shipments.lock().unwrap().push(ids);
            let poisoned = String::from_utf8_lossy(&body).contains("poison");
            let (status, body) = match self.script.lock().unwrap().pop_front() {
                Some(None) => return Err(Unreachable("connection refused".to_owned())),
                Some(Some(answer)) => answer,
                None if poisoned => (400, r#"{"text":"Invalid data format","code":6}"#),
                None => (200, r#"{"text":"Success","code":0}"#),
            };
            if status == 200 {
                self.taken.lock().unwrap().extend(events);
            }
            Ok(Answer { status, retry_after: None, body: body.as_bytes().to_vec() })
        })
    }
}

fn format() -> Arc<Splunk> {
    let source = Source { host: "gate-1".to_owned(), log: "gate.example/test".to_owned() };
    let (url, token) = ("https://splunk.example:8088".to_owned(), Secret::new("t".to_owned()));
    Arc::new(Splunk { url, token, index: None, source })
}

fn exporter(scene: &Scene, receiver: &Arc<Receiver>) -> Exporter {
    let transport = Arc::clone(receiver) as Arc<dyn Transport>;
    Exporter::new("siem", &scene.log_folder(), format(), transport, scene.clock.clone()).unwrap()
}

/// Steps until all is delivered; the pauses it asked for.
async fn deliver(exporter: &mut Exporter, log: &Log) -> Vec<Duration> {
    let mut pauses = Vec::new();
    for _ in 0..10_000 {
        match exporter.step(log).await.unwrap() {
            Step::Idle => return pauses,
            Step::Done(_) => {}
            Step::Wait(pause, _) => pauses.push(pause),
        }
    }
    panic!("never done");
}

fn sequence(receiver: &Receiver) -> Vec<u64> {
    receiver.taken.lock().unwrap().iter().map(|event| event["event"]["seq"].as_u64().unwrap()).collect()
}

#[test]
fn everything_arrives_once_in_order_over_segments_and_restarts() {
    let scene = Scene::with_small_segments();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        for _ in 0..3 {
            let mut exporter = exporter(&scene, &receiver);
            for _ in 0..30 {
                let _ = call(&log, "t").await.unwrap();
                let _ = exporter.step(&log).await.unwrap();
            }
            deliver(&mut exporter, &log).await;
            assert_eq!(exporter.next(), log.durable());
        }
    });
    assert_eq!(sequence(&receiver), (0..log.durable()).collect::<Vec<_>>());
    assert_eq!(receiver.taken.lock().unwrap()[1]["event"]["identity"]["subject"], "alice");
}

/// The cursor is not worth a sync for each shipment, so a crash may leave any beginning of it.
#[test]
fn a_cursor_that_a_crash_tore_stops_no_delivery() {
    let scene = Scene::new();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        let _ = call(&log, "t").await.unwrap();
        for torn in ["", "{\"ne", "\0\0\0\0", "{}"] {
            deliver(&mut exporter(&scene, &receiver), &log).await;
            std::fs::write(scene.log_folder().join("export-siem.cursor"), torn).unwrap();
            receiver.taken.lock().unwrap().clear();
            deliver(&mut exporter(&scene, &receiver), &log).await;
            assert_eq!(sequence(&receiver), [0, 1, 2], "{torn:?}");
        }
    });
}

/// Whoever moves the files away while the gate runs gets an error, not a processor that turns for ever.
#[test]
fn a_log_whose_files_are_gone_is_an_error() {
    let scene = Scene::new();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        let _ = call(&log, "t").await.unwrap();
        for file in crate::scene::files(&scene.log_folder()) {
            std::fs::remove_file(file).unwrap();
        }
        assert!(exporter(&scene, &receiver).step(&log).await.is_err());
    });
}

/// A clock that can be set back.
struct Settable(AtomicU64);

impl Clock for Settable {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.0.load(Ordering::SeqCst))
    }
}

/// Whoever was erased is not named until a clock that was set back has caught up.
#[test]
fn what_is_known_of_people_is_not_believed_for_longer_after_the_clock_was_set_back() {
    let scene = Scene::new();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    let clock = Arc::new(Settable(2_000_000_000.into()));
    let transport = Arc::clone(&receiver) as Arc<dyn Transport>;
    let mut exporter =
        Exporter::new("siem", &scene.log_folder(), format(), transport, clock.clone()).unwrap();
    block_on(async {
        let _ = call(&log, "t").await.unwrap();
        deliver(&mut exporter, &log).await;
        assert_eq!(receiver.taken.lock().unwrap()[1]["event"]["identity"]["subject"], "alice");
        receiver.taken.lock().unwrap().clear();
        assert!(log.erase(&alice(), &alice()).await.unwrap());
        clock.0.store(1_900_000_000, Ordering::SeqCst);
        deliver(&mut exporter, &log).await;
    });
    let taken = receiver.taken.lock().unwrap();
    assert!(!taken.is_empty());
    assert!(taken.iter().all(|event| event["event"].get("identity").is_none()), "{taken:?}");
}

#[test]
fn a_receiver_that_is_dead_or_busy_is_waited_for_and_gets_the_same_shipment_again() {
    let scene = Scene::new();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        let _ = call(&log, "t").await.unwrap();
        *receiver.script.lock().unwrap() = VecDeque::from([
            None,
            None,
            Some((503, r#"{"text":"Server is busy","code":9}"#)),
            Some((403, r#"{"text":"Invalid token","code":4}"#)),
        ]);
        let mut exporter = exporter(&scene, &receiver);
        let pauses = deliver(&mut exporter, &log).await;
        assert_eq!(
            pauses,
            [1, 2, 4, 60].map(Duration::from_secs),
            "longer each time; a wrong token is no event's fault"
        );
    });
    let shipments = receiver.shipments.lock().unwrap();
    assert_eq!(shipments.len(), 5);
    assert!(shipments.iter().all(|ids| *ids == shipments[0]));
    assert_eq!(sequence(&receiver), [0, 1, 2]);
}

#[test]
fn one_bad_event_is_told_apart_and_the_others_arrive() {
    let scene = Scene::new();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        for n in 0..40 {
            let message = if n == 23 { "poison" } else { "fine" };
            let details = Details { message: Some(message.into()), ..Details::default() };
            let _ = log.note(Event::new(Kind::ServerLog).with(details)).await.unwrap();
        }
        let mut exporter = exporter(&scene, &receiver);
        deliver(&mut exporter, &log).await;
        while log.durable() == 41 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        deliver(&mut exporter, &log).await;
    });
    let expected: Vec<u64> = (0..log.durable()).filter(|seq| *seq != 24).collect();
    assert_eq!(sequence(&receiver), expected);
    let dead = std::fs::read_to_string(scene.log_folder().join("export-siem.dead")).unwrap();
    assert_eq!(dead.lines().count(), 1);
    let letter: Value = serde_json::from_str(&dead).unwrap();
    assert_eq!((letter["seq"].as_u64(), letter["reason"].as_str()), (Some(24), Some("Splunk HEC code 6")));
    drop(log);
    let told: Vec<_> =
        entries(&scene.log_folder()).into_iter().filter(|e| e.kind == Kind::ExportFailed).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(scene.verify().problem, None);
}

#[test]
fn somebody_erased_leaves_under_his_pseudonym() {
    let scene = Scene::new();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        let _ = call(&log, "t").await.unwrap();
        log.persons().erase(&alice()).unwrap();
        deliver(&mut exporter(&scene, &receiver), &log).await;
    });
    let taken = receiver.taken.lock().unwrap();
    assert!(taken[1]["event"].get("identity").is_none());
    assert!(taken[1]["event"]["person"].is_string());
    assert!(!serde_json::to_string(&*taken).unwrap().contains("alice"));
}

#[test]
fn what_retention_took_before_it_was_delivered_is_told() {
    let mut scene = Scene::with_small_segments();
    scene.options.keep_bytes = Some(10_000);
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        let mut late = exporter(&scene, &receiver);
        for _ in 0..100 {
            let _ = call(&log, "t").await.unwrap();
        }
        deliver(&mut late, &log).await;
    });
    let delivered = sequence(&receiver);
    assert!(delivered[0] > 0);
    drop(log);
    let told = entries(&scene.log_folder()).into_iter().find(|e| e.kind == Kind::ExportFailed).unwrap();
    assert_eq!(told.details.count, Some(delivered[0]));
}

#[test]
fn a_running_exporter_follows_the_log_and_stops_when_told() {
    let scene = Scene::new();
    let receiver = Arc::new(Receiver::default());
    let log = scene.start();
    block_on(async {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        *receiver.script.lock().unwrap() = VecDeque::from([None]);
        let running = exporter(&scene, &receiver);
        let progress = running.progress();
        let (told, mut steps) = tokio::sync::mpsc::unbounded_channel();
        let tell = move |step: &Step| drop(told.send(step.clone()));
        let task = tokio::spawn(running.run(log.clone(), tell, async { drop(stopped.await) }));
        assert!(matches!(steps.recv().await, Some(Step::Wait(..))));
        assert!(progress.trouble().unwrap().contains("connection refused"));
        let receipt = call(&log, "t").await.unwrap();
        while !sequence(&receiver).contains(&receipt.seq().unwrap()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        assert_eq!((progress.next(), progress.delivered(), progress.trouble()), (log.durable(), 3, None));
    });
}

/// The room behind a log that nobody writes any more is longer than the end that is looked at first.
#[test]
fn what_a_killed_process_recorded_is_delivered_to_the_last_entry_before_its_room() {
    let scene = Scene::new();
    let log = scene.start();
    let file = || crate::scene::files(&scene.log_folder()).remove(0);
    let room = || std::fs::read(file()).unwrap().iter().rev().take_while(|byte| **byte == b'\n').count();
    while room() < 70 << 10 {
        let _ = block_on(call(&log, "t")).unwrap();
    }
    let killed = scene.folder.path().join("killed");
    std::fs::create_dir(&killed).unwrap();
    std::fs::copy(file(), killed.join(file().file_name().unwrap())).unwrap();
    let receiver = Arc::new(Receiver::default());
    let (format, transport) = (format(), Arc::clone(&receiver) as Arc<dyn Transport>);
    let (mut exporter, _lock) =
        Exporter::of_ended("siem", &killed, format, transport, scene.clock.clone(), crate::scene::key())
            .unwrap()
            .unwrap();
    block_on(deliver(&mut exporter, &log));
    assert_eq!(sequence(&receiver), (0..log.durable()).collect::<Vec<_>>());
}
