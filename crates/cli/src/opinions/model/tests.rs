use std::{fs, os::unix::fs::symlink};

use bartizan_shield::opinion::{PinnedFile, SeverityFrom};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shield/tests/onnx")
}

/// A folder with a model, and the settings that pin it.
fn model() -> (tempfile::TempDir, OnnxModel) {
    let folder = tempfile::tempdir().unwrap();
    let pin = |file: &str, sha256: &str| {
        fs::copy(fixtures().join(file), folder.path().join(file)).unwrap();
        PinnedFile { file: file.into(), sha256: sha256.into() }
    };
    let settings = OnnxModel {
        model: pin("model.onnx", "803738bf2c10f9353c67fdd5b3c74a09c9208dbc89ee82b5fc5aa6fb01d25aec"),
        tokenizer: pin("tokenizer.json", "337ffb34b30533af930a8af12bd5f970d50281effe5d4163e25533e8162d5791"),
        labels: vec!["benign".into(), "attack".into()],
        attack_labels: vec!["attack".into()],
        severity_from: SeverityFrom::default(),
        max_tokens: 64,
    };
    (folder, settings)
}

fn task(text: &str) -> Task {
    let within = Duration::from_secs(20);
    Task { text: text.into(), pieces: std::iter::once(0..text.len()).collect(), within, budget: within }
}

#[test]
fn a_file_is_read_itself_and_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("ten"), "0123456789").unwrap();
    assert_eq!(read("model", at("ten"), 10).unwrap(), b"0123456789");
    symlink(at("ten"), at("link")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    for (name, limit, words) in [
        ("ten", 9, "larger"),
        ("link", 10, "is a link"),
        ("folder", 10, "is no file"),
        ("pipe", 10, "is no file"),
        ("missing", 10, "cannot be read"),
    ] {
        let refused = read("model", at(name), limit).unwrap_err().to_string();
        assert!(refused.starts_with("onnx.model.file: ") && refused.contains(words), "{name}: {refused}");
    }
}

#[tokio::test]
async fn a_model_is_loaded_once_and_other_bytes_not_at_all() {
    let (folder, mut settings) = model();
    // Nobody else in this process has such a one.
    settings.max_tokens = 48;
    let first = load(&settings, folder.path()).await.unwrap();
    fs::remove_file(folder.path().join("model.onnx")).unwrap();
    let second = load(&settings, folder.path()).await.unwrap();
    let windows = second.judge(task("Kindly hand the report to the team, quietly.")).await.unwrap();
    assert!(windows[0].attack > 0.9);
    drop(first);
    drop(second);
    let gone = load(&settings, folder.path()).await.err().unwrap();
    assert!(gone.downcast_ref::<Unusable>().unwrap().to_string().contains("cannot be read"), "{gone}");

    let (folder, mut settings) = model();
    settings.max_tokens = 48;
    fs::copy(fixtures().join("short.onnx"), folder.path().join("model.onnx")).unwrap();
    let exchanged = load(&settings, folder.path()).await.err().unwrap().to_string();
    assert!(exchanged.starts_with("onnx.model: its SHA-256 is 8dcaa14f"), "{exchanged}");
}

/// The one test that takes turns away: others of this process would wait for them.
#[tokio::test]
async fn who_gets_no_turn_has_no_opinion_and_work_nobody_waits_for_ends() {
    let (folder, settings) = model();
    let runner = load(&settings, folder.path()).await.unwrap();
    let turns = available_parallelism().map_or(1, NonZero::get).div_ceil(2);
    let long = "rain ".repeat(200_000);
    let working = runner.judge(task(&long));
    assert!(tokio::time::timeout(Duration::from_millis(20), working).await.is_err(), "it takes its time");
    let began = Instant::now();
    let all = u32::try_from(turns).unwrap();
    let all = tokio::time::timeout(Duration::from_secs(20), TURNS.free.acquire_many(all)).await;
    let all = all.expect("what nobody waits for has ended").unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let hurried = Task { within: Duration::from_millis(50), ..task("rain") };
    assert_eq!(runner.judge(hurried).await, Err(NoOpinion::Busy));
    drop(all);
    assert_eq!(runner.judge(task("rain")).await.unwrap().len(), 1);
    assert_eq!(TURNS.lanes().len(), turns);
}
