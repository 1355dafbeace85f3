//! Logs and a witness, with nothing but a call between them.

use std::{
    io,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bartizan_model::{ManualClock, SeededEntropy};

use super::*;
use crate::{
    AuditFolder, Event, Kind, Log, Options,
    export::Unreachable,
    verify::Verification,
    witness::{Cosigner, KnownLog, Witness},
};

/// Carries what is posted to the witness, unless it is away.
struct Wire {
    witness: Mutex<Witness>,
    is_away: AtomicBool,
    /// Answers this instead.
    says: Mutex<Option<(u16, String)>>,
    asked: Mutex<Vec<String>>,
}

impl Transport for Wire {
    fn carry<'a>(
        &'a self,
        shipment: Shipment,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Unreachable>> + Send + 'a>> {
        Box::pin(async move {
            let Shipment::Post { url, body, .. } = shipment else { panic!("a witness takes posts") };
            assert_eq!(url, "https://witness.example/w/add-checkpoint");
            self.asked.lock().unwrap().push(String::from_utf8(body.clone()).unwrap());
            if self.is_away.load(Ordering::SeqCst) {
                return Err(Unreachable("it is away".to_owned()));
            }
            if let Some((status, body)) = self.says.lock().unwrap().clone() {
                return Ok(Answer { status, body: body.into_bytes(), retry_after: None });
            }
            let reply = self.witness.lock().unwrap().add_checkpoint(&body).unwrap();
            Ok(Answer { status: reply.status, body: reply.body.into_bytes(), retry_after: None })
        })
    }
}

struct Scene {
    root: tempfile::TempDir,
    clock: Arc<ManualClock>,
    wire: Arc<Wire>,
}

const NOW: u64 = 1_800_000_000;

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(NOW)));
        // Makes `audit.pub`.
        let _ = AuditFolder::open(&root.path().join("audit"), Arc::new(SeededEntropy::new(1))).unwrap();
        let witness = Self::witness(root.path(), &clock);
        let wire = Arc::new(Wire {
            witness: Mutex::new(witness),
            is_away: AtomicBool::new(false),
            says: Mutex::default(),
            asked: Mutex::default(),
        });
        Self { root, clock, wire }
    }

    fn witness(root: &Path, clock: &Arc<ManualClock>) -> Witness {
        let known: KnownLog = fs::read_to_string(root.join("audit/audit.pub")).unwrap().parse().unwrap();
        let cosigner = Cosigner::from_seed(&[9; 32], "witness.example/w".parse().unwrap());
        Witness::open(&root.join("witness"), cosigner, vec![known], clock.clone()).unwrap()
    }

    fn start(&self, name: &str) -> Log {
        let folder =
            AuditFolder::open(&self.root.path().join("audit"), Arc::new(SeededEntropy::new(2))).unwrap();
        // Segments of a few entries each.
        let options = Options { segment_bytes: 700, ..Options::default() };
        folder.start(name, self.clock.clone(), options).unwrap()
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join("audit").join(name)
    }

    fn key(&self) -> PublicKey {
        fs::read_to_string(self.root.path().join("audit/audit.pub")).unwrap().parse().unwrap()
    }

    fn client(&self) -> Witnessed {
        let key = self.wire.witness.lock().unwrap().key();
        Witnessed::new("https://witness.example/w/", key, self.key(), self.wire.clone())
    }

    async fn ask(&self, name: &str) -> Result<Cosigned, Refusal> {
        self.client().ask(&self.folder(name)).await
    }
}

async fn grow(log: &Log, by: usize) {
    for _ in 0..by {
        let _ = log.note(Event::new(Kind::ConfigChanged)).await.unwrap();
    }
}

/// Removes a log, in which an index may still be on its way.
fn remove(folder: &Path) {
    while let Err(error) = fs::remove_dir_all(folder) {
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty, "{error}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        match fs::copy(entry.path(), to.join(entry.file_name())) {
            // An index that was being written has its own name by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

#[tokio::test]
async fn a_log_that_grows_is_cosigned_at_every_size() {
    let scene = Scene::new();
    let log = scene.start("gate");
    for by in 1..40 {
        grow(&log, by % 5).await;
        let signed = scene.ask("gate").await.unwrap();
        assert_eq!((signed.checkpoint.size, signed.at.as_unix()), (log.durable(), NOW));
        assert_eq!(scene.client().key().last(&scene.folder("gate"), &scene.key()), Some(signed));
    }
    assert!(segments(&scene.folder("gate")).unwrap().len() > 3, "over several segments");
    assert!(scene.wire.asked.lock().unwrap().iter().all(|body| body.matches('\n').count() < 80));
    // What it signed is kept as a note that verifies, and what the witness remembers is one too.
    let note = fs::read_to_string(scene.client().key().file(&scene.folder("gate"))).unwrap();
    assert_eq!(scene.key().open(&note).unwrap().size, log.durable());
    let expected: Vec<_> = fs::read_dir(scene.root.path().join("witness"))
        .unwrap()
        .flatten()
        .filter_map(|entry| scene.key().open(&fs::read_to_string(entry.path()).ok()?))
        .collect();
    assert_eq!(expected.len(), 1);
    let (reports, missing) = Verification { key: &scene.key(), expected: &expected }
        .all(&scene.root.path().join("audit"))
        .unwrap();
    assert!(missing.is_empty() && reports[0].problem.is_none() && reports[0].agreed == 1);
    // Several logs of one key are several.
    let other = scene.start("respond-0");
    grow(&other, 3).await;
    assert_eq!(scene.ask("respond-0").await.unwrap().checkpoint.size, other.durable());
}

/// The whole log, what is kept of the witness beside it included, put back to an older state.
#[tokio::test]
async fn a_log_that_is_rolled_back_is_refused() {
    let scene = Scene::new();
    let (gate, kept) = (scene.folder("gate"), scene.root.path().join("kept"));
    let log = scene.start("gate");
    grow(&log, 4).await;
    scene.ask("gate").await.unwrap();
    drop(log);
    copy(&gate, &kept);
    let log = scene.start("gate");
    grow(&log, 30).await;
    let seen = scene.ask("gate").await.unwrap().checkpoint.size;
    drop(log);

    remove(&gate);
    copy(&kept, &gate);
    let refused = scene.ask("gate").await.unwrap_err();
    assert!(
        matches!(refused, Refusal::RolledBack { witnessed, found } if witnessed == seen && found < seen),
        "{refused}"
    );
    assert_eq!(refused.against(), Standing::Log);
    // Grown past what was seen, it is another history: time has passed.
    scene.clock.advance(std::time::Duration::from_secs(1));
    let log = scene.start("gate");
    while log.durable() < seen + 3 {
        grow(&log, 1).await;
    }
    assert_eq!(scene.ask("gate").await, Err(Refusal::Forked { witnessed: seen }));
    // And so is one of exactly that length, whatever is kept beside it.
    fs::remove_file(scene.client().key().file(&gate)).unwrap();
    assert_eq!(scene.ask("gate").await, Err(Refusal::Forked { witnessed: seen }));
}

#[tokio::test]
async fn a_log_of_the_same_length_and_another_content_is_refused() {
    let scene = Scene::new();
    let log = scene.start("gate");
    grow(&log, 5).await;
    drop(log);
    let seen = scene.ask("gate").await.unwrap().checkpoint.size;
    let gate = scene.folder("gate");
    remove(&gate);
    scene.clock.advance(std::time::Duration::from_secs(1));
    let log = scene.start("gate");
    grow(&log, 5).await;
    drop(log);
    assert_eq!(scene.ask("gate").await, Err(Refusal::Forked { witnessed: seen }));
}

#[tokio::test]
async fn a_witness_that_is_away_or_no_witness_is_told_apart_from_a_log_that_is_wrong() {
    let scene = Scene::new();
    let log = scene.start("gate");
    grow(&log, 2).await;
    scene.wire.is_away.store(true, Ordering::SeqCst);
    let away = scene.ask("gate").await.unwrap_err();
    assert_eq!((away.code(), away.against()), ("witness.unreachable", Standing::Witness));
    scene.wire.is_away.store(false, Ordering::SeqCst);
    let says = |status, body: &str| *scene.wire.says.lock().unwrap() = Some((status, body.to_owned()));
    for (status, body, expected) in [
        (404, "", Refusal::Unexpected(404)),
        (403, "", Refusal::Unexpected(403)),
        (500, "", Refusal::Unexpected(500)),
        (409, "no number", Refusal::Unexpected(409)),
        (200, "", Refusal::Unsigned),
        (200, "— witness.example/w AAAA\n", Refusal::Unsigned),
    ] {
        says(status, body);
        assert_eq!(scene.ask("gate").await, Err(expected));
    }
    // Another witness's signature does not count for this one's.
    let (_, note) = {
        let found = newest_checkpoint(&scene.folder("gate"), &scene.key()).unwrap().unwrap();
        (found.1, found.0)
    };
    let other = Cosigner::from_seed(&[8; 32], "witness.example/w".parse().unwrap());
    says(200, &other.cosign(cosign::parts(&note).unwrap().0, Timestamp::from_unix(NOW)));
    assert_eq!(scene.ask("gate").await, Err(Refusal::Unsigned));
    *scene.wire.says.lock().unwrap() = None;
    assert!(scene.ask("gate").await.is_ok());
    // A crash between its signature and our file: it says where it is, and we go on from there.
    grow(&log, 7).await;
    fs::remove_file(scene.client().key().file(&scene.folder("gate"))).unwrap();
    assert_eq!(scene.ask("gate").await.unwrap().checkpoint.size, log.durable());
    grow(&log, 3).await;
    assert_eq!(scene.ask("gate").await.unwrap().checkpoint.size, log.durable());
}

#[tokio::test]
async fn a_witness_answers_as_its_protocol_says() {
    let scene = Scene::new();
    let log = scene.start("gate");
    grow(&log, 5).await;
    let witness = scene.wire.witness.lock().unwrap();
    let ask = |body: &str| witness.add_checkpoint(body.as_bytes()).unwrap();
    let (note, _) = newest_checkpoint(&scene.folder("gate"), &scene.key()).unwrap().unwrap();
    let first = format!("old 0\n\n{note}");
    assert_eq!(ask("").status, 400);
    assert_eq!(ask(&first.replace("old 0", "old 99")).status, 400, "older than it is long");
    assert_eq!(ask(&first.replace("bartizan-", "stranger-")).status, 404);
    assert_eq!(ask(&first.replace("/gate\n", "/gate2\n")).status, 403, "its signature is another's");
    let signature = note.split_once("\n\n").unwrap().1;
    assert_eq!(ask(&first.replace(signature, "— nobody AAAA\n")).status, 403);
    assert_eq!(ask(&first.replace("old 0\n", &format!("old 0\n{}\n", Hash::leaf(b"x")))).status, 422);
    let conflict = ask(&first.replace("old 0", "old 3"));
    assert_eq!((conflict.status, conflict.kind, conflict.body.as_str()), (409, "text/x.tlog.size", "0\n"));
    let signed = ask(&first);
    assert_eq!(signed.status, 200);
    assert!(signed.body.starts_with("— witness.example/w ") && signed.body.ends_with('\n'));
    assert_eq!(witness.key().cosigned(&format!("{note}{}", signed.body)), Some(Timestamp::from_unix(NOW)));
    assert_eq!(ask(&first).status, 409, "it remembers");
    let size = log.durable();
    assert_eq!(ask(&first.replace("old 0", &format!("old {size}"))).status, 200, "the same once more");
    let wrong = format!("old {size}\n{}\n\n{note}", Hash::leaf(b"x"));
    assert_eq!(ask(&wrong).status, 422);
    drop(witness);
    // It remembers after its end, and two are never one.
    let held = Witness::open(
        &scene.root.path().join("witness"),
        Cosigner::from_seed(&[9; 32], "witness.example/w".parse().unwrap()),
        Vec::new(),
        scene.clock.clone(),
    );
    assert!(matches!(held, Err(super::super::WitnessError::Held(_))));
}
