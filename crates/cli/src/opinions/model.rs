//! Models on this machine: their files, and turns on its processors.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    num::NonZero,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::Context;
use bartizan_shield::opinion::{
    Judging, Local, MODEL_BYTES, NoOpinion, OnnxModel, TOKENIZER_BYTES, Task, Window,
    onnx::{Classifier, Lane},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use tokio::sync::Semaphore;

use super::Unusable;

/// What a model is by: whoever asks for the same again need not load it again.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    files: [Option<[u8; 32]>; 2],
    labels: [Vec<String>; 2],
    max_tokens: u16,
}

impl Key {
    fn of(settings: &OnnxModel) -> Self {
        Self {
            files: [settings.model.digest(), settings.tokenizer.digest()],
            labels: [settings.labels.clone(), settings.attack_labels.clone()],
            max_tokens: settings.max_tokens,
        }
    }
}

/// Models in use. A configuration or a bundle that is read again makes a new shield, not a second copy of the weights.
static LOADED: LazyLock<Mutex<HashMap<Key, Weak<Classifier>>>> = LazyLock::new(Mutex::default);

/// The one model of these settings: the one in use, or loaded. Relative paths start at `base`.
pub async fn load(settings: &OnnxModel, base: &Path) -> anyhow::Result<Arc<dyn Local>> {
    let key = Key::of(settings);
    let known = loaded().get(&key).and_then(Weak::upgrade);
    let classifier = match known {
        Some(classifier) => classifier,
        None => {
            let classifier = Arc::new(fresh(settings, base).await?);
            let mut loaded = loaded();
            loaded.retain(|_, classifier| classifier.strong_count() > 0);
            loaded.insert(key, Arc::downgrade(&classifier));
            classifier
        }
    };
    Ok(Arc::new(Runner(classifier)))
}

fn loaded() -> std::sync::MutexGuard<'static, HashMap<Key, Weak<Classifier>>> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads and tries a model, whether it is in use or not.
pub async fn fresh(settings: &OnnxModel, base: &Path) -> anyhow::Result<Classifier> {
    let (settings, base) = (settings.clone(), base.to_owned());
    let loading = tokio::task::spawn_blocking(move || {
        let model = read("model", base.join(&settings.model.file), MODEL_BYTES)?;
        let tokenizer = read("tokenizer", base.join(&settings.tokenizer.file), TOKENIZER_BYTES)?;
        let classifier = Classifier::load(&settings, model, &tokenizer, &Lane::default());
        classifier.map_err(|unfit| Unusable(format!("onnx.{unfit}")))
    });
    Ok(loading.await.context("onnx: the engine broke off while it loaded the model")??)
}

/// How long a model takes for the longest window.
pub async fn longest_window(classifier: Classifier, settings: &OnnxModel) -> anyhow::Result<Duration> {
    let text = "word ".repeat(usize::from(settings.max_tokens));
    let far = Duration::from_secs(60);
    let task = Task { pieces: std::iter::once(0..text.len()).collect(), text, within: far, budget: far };
    let judging = tokio::task::spawn_blocking(move || {
        let lane = Lane::default();
        let began = Instant::now();
        let windows = classifier.judge(&task, &(0..task.text.len()), &lane, &|| Some(began.elapsed()))?;
        let count = u32::try_from(windows.len()).unwrap_or(u32::MAX);
        Ok::<_, NoOpinion>(began.elapsed() / count.max(1))
    });
    Ok(judging.await??)
}

/// A file's bytes; the file itself, no link, no pipe, and not longer than `limit`.
fn read(field: &str, path: PathBuf, limit: u64) -> Result<Vec<u8>, Unusable> {
    let shown = path.display();
    let unusable = |words: String| Unusable(format!("onnx.{field}.file: {shown} {words}"));
    // A pipe must not keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP => unusable("is a link, which may lead elsewhere tomorrow: name the file itself".into()),
        error => unusable(format!("cannot be read: {}", std::io::Error::from(error))),
    });
    let file = File::from(opened?);
    let about = file.metadata().map_err(|error| unusable(format!("cannot be read: {error}")))?;
    if !about.is_file() {
        return Err(unusable("is no file".into()));
    }
    let too_long = || unusable(format!("is larger than {} MiB", limit >> 20));
    if about.len() > limit {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).map_err(|_| too_long())?);
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unusable(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > limit {
        return Err(too_long());
    }
    Ok(bytes)
}

/// Turns of all models of this process: whoever carries messages keeps half of the processors.
struct Turns {
    free: Arc<Semaphore>,
    lanes: Mutex<Vec<Lane>>,
}

static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let count = available_parallelism().map_or(1, NonZero::get).div_ceil(2);
    Turns {
        free: Arc::new(Semaphore::new(count)),
        lanes: Mutex::new(std::iter::repeat_with(Lane::default).take(count).collect()),
    }
});

impl Turns {
    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a model where nobody waits for the thread.
struct Runner(Arc<Classifier>);

impl Local for Runner {
    fn judge<'t>(&'t self, task: Task) -> Judging<'t> {
        Box::pin(async move {
            let (task, waiting) = (Arc::new(task), Waiting::default());
            let mut windows = Vec::new();
            // A turn for each piece: a long text does not keep a short one waiting for all of it.
            for piece in &task.pieces {
                windows.extend(self.judge_piece(&task, piece.clone(), &waiting).await?);
            }
            Ok(windows)
        })
    }
}

impl Runner {
    async fn judge_piece(
        &self,
        task: &Arc<Task>,
        piece: Range<usize>,
        waiting: &Waiting,
    ) -> Result<Vec<Window>, NoOpinion> {
        let turn = tokio::time::timeout(task.within, Arc::clone(&TURNS.free).acquire_owned()).await;
        let turn = turn.map_err(|_| NoOpinion::Busy)?;
        let turn = turn.map_err(|_| NoOpinion::Unreachable("no turn is to be had".into()))?;
        let (classifier, task) = (Arc::clone(&self.0), Arc::clone(task));
        let (began, is_over) = (waiting.began, Arc::clone(&waiting.is_over));
        let judging = tokio::task::spawn_blocking(move || {
            // As many as there are turns; one is lost if a model panics, and made anew.
            let lane = TURNS.lanes().pop().unwrap_or_default();
            let elapsed = || (!is_over.load(Ordering::Relaxed)).then(|| began.elapsed());
            let judged = classifier.judge(&task, &piece, &lane, &elapsed);
            TURNS.lanes().push(lane);
            // The work holds the turn, whether anybody waits for it or not.
            drop(turn);
            judged
        });
        judging.await.map_err(|_| NoOpinion::Unreachable("the model broke off".into()))?
    }
}

/// Somebody who waits, and since when; when they go away, the work ends with the window it is at.
struct Waiting {
    began: Instant,
    is_over: Arc<AtomicBool>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { began: Instant::now(), is_over: Arc::default() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
