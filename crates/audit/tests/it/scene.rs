//! The cast: a log in a folder, and short ways to use it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bartizan_audit::{
    Checkpoint, Details, Disk, Entry, Event, Kind, Log, Lost, OpenError, Options, Persons, PublicKey,
    Receipt, Setup, Signer, Storage,
    event::Outcome,
    verify::{Report, Verification},
};
use bartizan_model::{Caller, Clock, ManualClock, SeededEntropy, Timestamp};

/// A folder with a log and the people in it.
pub struct Scene {
    pub folder: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub options: Options,
    seeds: std::cell::Cell<u64>,
}

impl Scene {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(Timestamp::from_unix(1_760_000_000))),
            options: Options::default(),
            seeds: 1.into(),
        }
    }

    /// With segments that are closed after a few entries.
    pub fn with_small_segments() -> Self {
        let mut scene = Self::new();
        scene.options.segment_bytes = 4000;
        scene
    }

    pub fn log_folder(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn setup(&self) -> Setup {
        let seed = self.seeds.replace(self.seeds.get() + 1);
        let entropy = Arc::new(SeededEntropy::new(seed * 1_000_003));
        Setup {
            origin: "gate.example/test".parse().unwrap(),
            signer: signer(),
            persons: Arc::new(Persons::open(&self.folder.path().join("people"), entropy.clone()).unwrap()),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            entropy,
            options: self.options.clone(),
        }
    }

    pub fn start(&self) -> Log {
        self.try_start().unwrap()
    }

    pub fn try_start(&self) -> Result<Log, OpenError> {
        self.start_on(Disk::take(&self.log_folder()).unwrap())
    }

    pub fn start_on(&self, storage: impl Storage + 'static) -> Result<Log, OpenError> {
        Log::start(storage, self.setup())
    }

    pub fn verify(&self) -> Report {
        self.verify_against(&[])
    }

    pub fn verify_against(&self, expected: &[Checkpoint]) -> Report {
        verify(&self.log_folder(), expected)
    }

    /// A log of `calls` calls, each opened and closed, closed in good order.
    pub fn record(&self, calls: usize) {
        let log = self.start();
        block_on(async {
            for n in 0..calls {
                let _ = call(&log, &format!("tool-{n}")).await.unwrap();
                self.clock.advance(Duration::from_secs(1));
            }
        });
    }
}

pub fn verify(folder: &Path, expected: &[Checkpoint]) -> Report {
    Verification { key: &key(), expected }.one(folder).unwrap()
}

pub fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

pub fn key() -> PublicKey {
    signer().public_key()
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn alice() -> Caller {
    Caller::new("https://id.example", "alice", "ide")
}

pub fn event(tool: &str) -> Event {
    let details = Details {
        server: Some("files".parse().unwrap()),
        method: Some("tools/call".into()),
        tool: Some(tool.into()),
        ..Details::default()
    };
    Event::new(Kind::CallOpened).by(&alice()).with(details)
}

/// Opens and closes a call.
pub async fn call(log: &Log, tool: &str) -> Result<Receipt, Lost> {
    let opened = log.open(event(tool)).await?;
    log.close(opened, Details { outcome: Some(Outcome::Ok), ..Details::default() }).await
}

/// The segments' files, in order.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    files
}

/// Every entry of the log, in order.
pub fn entries(folder: &Path) -> Vec<Entry> {
    let text: String = files(folder).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let entries = text.lines().filter(|line| line.starts_with("{\"seq\""));
    entries.map(|line| serde_json::from_str(line).unwrap()).collect()
}
