//! A text classifier on this machine, in the place of a service: what it is asked, and what its answers come to.
//!
//! Running it is a processor's work for a long time, so it is done elsewhere than messages are carried, by a [`Local`]
//! that is given from outside.

mod config;

use std::{future::Future, ops::Range, pin::Pin, time::Duration};

use super::{Found, NoOpinion, Text};
use crate::finding::{Category, Finding, Severity};

pub use config::{MODEL_BYTES, OnnxModel, PinnedFile, SeverityFrom, TOKENIZER_BYTES};

/// One text for a classifier.
#[derive(Clone, Debug)]
pub struct Task {
    /// The whole text.
    pub text: String,
    /// Bytes of the text, overlapping, that are to be judged each by itself.
    pub pieces: Vec<Range<usize>>,
    /// How long waiting for a turn may take, and how long one window.
    pub within: Duration,
    /// How long everything may take.
    pub budget: Duration,
}

/// What a classifier makes of one window of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Bytes of the text that it saw.
    pub range: Range<usize>,
    /// How probable it finds an attack: 0 to 1.
    pub attack: f32,
}

/// Windows on their way.
pub type Judging<'t> = Pin<Box<dyn Future<Output = Result<Vec<Window>, NoOpinion>> + Send + 't>>;

/// Has a classifier judge texts, off the threads that carry messages. When the future is dropped, nobody waits any more.
pub trait Local: Send + Sync {
    /// Judges every piece of a text, in order, in one window or several. What could not be judged whole is an error.
    fn judge<'t>(&'t self, task: Task) -> Judging<'t>;
}

/// What is found in the windows of `task`: one finding for each stretch of windows that meet. The worst of them says how
/// grave it is.
///
/// # Errors
/// [`NoOpinion::Malformed`] if a piece has no window, or a window no probability.
pub fn findings(
    name: &str,
    text: &Text,
    pieces: &[Range<usize>],
    windows: &[Window],
    from: &SeverityFrom,
) -> Result<Vec<Finding>, NoOpinion> {
    if !windows.iter().all(|window| (0.0..=1.0).contains(&window.attack)) {
        return Err(NoOpinion::Malformed("it gives no probability"));
    }
    let is_judged = |piece: &Range<usize>| {
        windows.iter().any(|window| piece.start <= window.range.start && window.range.end <= piece.end)
    };
    if !pieces.iter().all(is_judged) {
        return Err(NoOpinion::Malformed("it is short"));
    }
    let mut grave: Vec<Window> = Vec::new();
    for window in windows.iter().filter(|window| from.severity(window.attack).is_some()) {
        match grave.last_mut().filter(|last| window.range.start <= last.range.end) {
            Some(last) => {
                last.range.end = last.range.end.max(window.range.end);
                last.attack = last.attack.max(window.attack);
            }
            None => grave.push(window.clone()),
        }
    }
    let finding = |window: &Window| {
        let found = Found {
            category: Category::Injection,
            severity: from.severity(window.attack).unwrap_or(Severity::High),
            words: "a model on this machine takes it for an attack",
        };
        Finding { score: Some(window.attack), ..text.finding(name, &window.range, &found) }
    };
    Ok(grave.iter().map(finding).collect())
}

#[cfg(test)]
mod tests;
