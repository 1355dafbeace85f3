//! Second opinions: services and models that judge a text too, where the operator asks them to (attacks.md §2.1, II-01,
//! II-10).
//!
//! What a service is sent and how its answer is read stands in one file for each; carrying it is a [`Transport`]'s, given
//! from outside, for this crate opens no connection. A model on this machine (`onnx`) is run by a [`Local`], given from
//! outside too. A text is cut into overlapping pieces, all of which must be judged: an answer that is short, late or odd is
//! no opinion, and a text without one is withheld unless the operator wants it otherwise.

mod config;
mod judge;
mod local;
#[cfg(feature = "onnx")]
pub mod onnx;
mod pieces;
mod prompt_shields;
mod text_analyze;

use std::{
    collections::HashMap,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use bartizan_model::{Clock, Secret, Timestamp};
use futures::future::try_join_all;

use crate::{
    finding::{Category, Finding, Severity},
    fragment::Kind,
};

pub use config::{OpinionKind, SecondOpinion};
pub use local::{
    Judging, Local, MODEL_BYTES, OnnxModel, PinnedFile, SeverityFrom, TOKENIZER_BYTES, Task, Window,
};
pub use pieces::Text;

/// Pieces of one text; a longer text gets no opinion, and is withheld (II-10).
const PIECES: usize = 128;
/// Questions under way at once for one text.
const AT_ONCE: usize = 4;
/// Failures one after another until a service is left alone, and for how long.
const FAILURES: u32 = 5;
const REST: Duration = Duration::from_secs(30);
/// Opinions that are remembered, and for how long.
const REMEMBERED: usize = 4096;
const REMEMBER: Duration = Duration::from_secs(600);
/// Bytes of an answer.
pub const ANSWER_BYTES: usize = 256 * 1024;

/// One question on its way to a service.
pub struct Post<'p> {
    /// What proves that we may ask: a header and its value, the secret last.
    pub authorization: Option<(&'static str, &'static str, &'p Secret)>,
    /// A JSON text.
    pub body: String,
    /// How long the whole exchange may take.
    pub within: Duration,
}

/// What a service answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After` in seconds, if it was one.
    pub retry_after: Option<u64>,
    /// The body, at most [`ANSWER_BYTES`].
    pub body: Vec<u8>,
}

/// An answer on its way.
pub type Replying<'t> = Pin<Box<dyn Future<Output = Result<Reply, String>> + Send + 't>>;

/// Carries questions to the one address of one service.
pub trait Transport: Send + Sync {
    /// POSTs JSON. An error says in words why nothing came back; it repeats no answer.
    fn post<'t>(&'t self, post: Post<'t>) -> Replying<'t>;
}

/// Why there is no opinion on a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOpinion {
    /// It was not its turn in time: others have it.
    #[error("it is busy with other texts")]
    Busy,
    /// Not in time.
    #[error("no answer came in time")]
    Late,
    /// The answer is not what the contract promises.
    #[error("its answer cannot be read: {0}")]
    Malformed(&'static str),
    /// It failed several times, and is left alone for a while.
    #[error("it failed too often and is left alone for now")]
    Resting,
    /// It refused.
    #[error("it answered HTTP {0}")]
    Status(u16),
    /// The text has too many pieces.
    #[error("the text is too long for it")]
    TooLong,
    /// Nothing came back.
    #[error("it could not be asked: {0}")]
    Unreachable(String),
}

/// What a service found in one piece.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    category: Category,
    severity: Severity,
    words: &'static str,
}

/// One service or model, asked about texts.
pub struct Opinion {
    name: String,
    settings: SecondOpinion,
    voice: Voice,
    clock: Arc<dyn Clock>,
    breaker: Mutex<Breaker>,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

/// Whose opinion it is.
enum Voice {
    Service { key: Option<Secret>, transport: Arc<dyn Transport> },
    Model { model: Arc<dyn Local>, from: SeverityFrom },
}

#[derive(Default)]
struct Breaker {
    failures: u32,
    rests_until: Option<Timestamp>,
}

struct Known {
    at: Timestamp,
    findings: Vec<Finding>,
}

impl std::fmt::Debug for Opinion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opinion({})", self.name)
    }
}

impl Opinion {
    /// The service called `name`, reached over `transport`, which posts to [`SecondOpinion::url`].
    pub fn new(
        name: impl Into<String>,
        settings: SecondOpinion,
        key: Option<Secret>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::of(name.into(), settings, Voice::Service { key, transport }, clock)
    }

    /// The classifier called `name`, which `model` runs.
    pub fn local(
        name: impl Into<String>,
        settings: SecondOpinion,
        model: Arc<dyn Local>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let from = settings.onnx.as_ref().map(|onnx| onnx.severity_from.clone()).unwrap_or_default();
        Self::of(name.into(), settings, Voice::Model { model, from }, clock)
    }

    fn of(name: String, settings: SecondOpinion, voice: Voice, clock: Arc<dyn Clock>) -> Self {
        Self { name, settings, voice, clock, breaker: Mutex::default(), known: Mutex::default() }
    }

    /// The operator's name for it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long everything about one text may take; keeping to it is the caller's.
    pub fn budget(&self) -> Duration {
        Duration::from_millis(self.settings.budget_ms)
    }

    /// Asks what is wrong with `text`. An opinion on the same text is remembered for ten minutes.
    ///
    /// # Errors
    /// [`NoOpinion`]; the caller tells [`Opinion::settle`], which says what becomes of the text.
    pub async fn ask(&self, text: &Text) -> Result<Vec<Finding>, NoOpinion> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.clock.now();
        let digest = digest_of(text);
        if let Some(known) = lock(&self.known).get(&digest).filter(|k| now.since(k.at) < REMEMBER) {
            // Where it stands may differ, and the opinion does not.
            return Ok(known.findings.iter().map(|f| text.placed(f)).collect());
        }
        if lock(&self.breaker).rests_until.is_some_and(|until| now < until) {
            return Err(NoOpinion::Resting);
        }
        let pieces = text.pieces();
        if pieces.len() > PIECES {
            return Err(NoOpinion::TooLong);
        }
        let findings = match &self.voice {
            Voice::Service { key, transport } => {
                self.ask_service(text, &pieces, key.as_ref(), &**transport).await?
            }
            Voice::Model { model, from } => {
                let task = Task {
                    text: text.as_str().to_owned(),
                    pieces: pieces.clone(),
                    within: Duration::from_millis(self.settings.timeout_ms),
                    // That a text is too long is told before its time is up, when nobody listens any more.
                    budget: self.budget() / 10 * 9,
                };
                local::findings(&self.name, text, &pieces, &model.judge(task).await?, from)?
            }
        };
        *lock(&self.breaker) = Breaker::default();
        let mut known = lock(&self.known);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(digest, Known { at: now, findings: findings.clone() });
        Ok(findings)
    }

    /// What becomes of `text` after it was asked about: without an opinion it is withheld, unless the operator wants it
    /// otherwise. Counts failures.
    pub fn settle(&self, text: &Text, asked: Result<Vec<Finding>, NoOpinion>) -> Vec<Finding> {
        let no_opinion = match asked {
            Ok(findings) => return findings,
            Err(no_opinion) => no_opinion,
        };
        if !matches!(no_opinion, NoOpinion::Busy | NoOpinion::Resting | NoOpinion::TooLong) {
            let mut breaker = lock(&self.breaker);
            breaker.failures += 1;
            if breaker.failures >= FAILURES {
                *breaker = Breaker { failures: 0, rests_until: Some(self.clock.now().plus(REST)) };
            }
        }
        if self.settings.dangerous_fail_open {
            return Vec::new();
        }
        vec![text.unjudged(&self.name)]
    }

    async fn ask_service(
        &self,
        text: &Text,
        pieces: &[Range<usize>],
        key: Option<&Secret>,
        transport: &dyn Transport,
    ) -> Result<Vec<Finding>, NoOpinion> {
        let questions = self.questions(text, pieces);
        if questions.is_empty() {
            return Err(NoOpinion::Unreachable("it is no service".into()));
        }
        let mut findings = Vec::new();
        for wave in questions.chunks(AT_ONCE) {
            let putting = wave.iter().map(|question| self.put(question, key, transport));
            let answers = try_join_all(putting).await?;
            for (question, found) in wave.iter().zip(answers) {
                for (piece, found) in question.pieces.iter().zip(found) {
                    findings.extend(found.into_iter().map(|found| text.finding(&self.name, piece, &found)));
                }
            }
        }
        Ok(findings)
    }

    fn questions(&self, text: &Text, pieces: &[Range<usize>]) -> Vec<Question> {
        match self.settings.kind {
            OpinionKind::AzurePromptShields => prompt_shields::questions(text, pieces),
            OpinionKind::AzureTextAnalyze => text_analyze::questions(text, pieces, &self.settings.blocklists),
            OpinionKind::OpenaiJudge => {
                judge::questions(text, pieces, self.settings.model.as_deref().unwrap_or_default())
            }
            OpinionKind::Onnx => Vec::new(),
        }
    }

    /// Puts one question, once more if the service stumbles.
    async fn put(
        &self,
        question: &Question,
        key: Option<&Secret>,
        transport: &dyn Transport,
    ) -> Result<Vec<Vec<Found>>, NoOpinion> {
        let mut reply = self.post(question, key, transport).await;
        if matches!(&reply, Err(NoOpinion::Unreachable(_) | NoOpinion::Status(500..))) {
            reply = self.post(question, key, transport).await;
        }
        let body = reply?;
        let found = match self.settings.kind {
            OpinionKind::AzurePromptShields => prompt_shields::read(question, &body),
            OpinionKind::AzureTextAnalyze => {
                text_analyze::read(&body, self.settings.threshold, !self.settings.blocklists.is_empty())
            }
            OpinionKind::OpenaiJudge => judge::read(&body),
            OpinionKind::Onnx => Err(NoOpinion::Malformed("a model posts nothing")),
        }?;
        // Whatever a service says, every piece has its answer.
        if found.len() == question.pieces.len() {
            Ok(found)
        } else {
            Err(NoOpinion::Malformed("it is short"))
        }
    }

    async fn post(
        &self,
        question: &Question,
        key: Option<&Secret>,
        transport: &dyn Transport,
    ) -> Result<serde_json::Value, NoOpinion> {
        let authorization = key.map(|key| match (self.settings.kind, self.settings.bearer) {
            (OpinionKind::AzurePromptShields | OpinionKind::AzureTextAnalyze, false) => {
                ("ocp-apim-subscription-key", "", key)
            }
            _ => ("authorization", "Bearer ", key),
        });
        let within = Duration::from_millis(self.settings.timeout_ms);
        let post = Post { authorization, body: question.body.clone(), within };
        let reply = transport.post(post).await.map_err(NoOpinion::Unreachable)?;
        if reply.status == 429 {
            let rest = Duration::from_secs(reply.retry_after.unwrap_or(1).clamp(1, 300));
            lock(&self.breaker).rests_until = Some(self.clock.now().plus(rest));
        }
        if reply.status != 200 {
            return Err(NoOpinion::Status(reply.status));
        }
        if reply.body.len() > ANSWER_BYTES {
            return Err(NoOpinion::Malformed("it is too long"));
        }
        serde_json::from_slice(&reply.body).map_err(|_| NoOpinion::Malformed("it is not JSON"))
    }
}

/// What is put to a service at once.
struct Question {
    /// Which bytes of the text it is about, in the order of the answers.
    pieces: Vec<Range<usize>>,
    /// Whether it is about what a client says.
    is_prompt: bool,
    /// A JSON text.
    body: String,
}

fn digest_of(text: &Text) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[u8::from(text.kind() == Kind::ClientText)]);
    context.update(text.as_str().as_bytes());
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
