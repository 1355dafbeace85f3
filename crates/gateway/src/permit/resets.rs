//! How often windows were reset, as of now: asked of the store before memory is believed.

use std::sync::atomic::{AtomicU64, Ordering};

use bartizan_store::{DatabaseError, Flows};
use tokio::sync::Mutex;

/// One read of the store answers everybody who asked before it began: with many calls at once the store is asked seldom,
/// and nobody gets an answer that is older than his question.
#[derive(Default)]
pub struct Resets {
    /// Reads that have begun.
    begun: AtomicU64,
    /// The last that ended, and what it found.
    last: Mutex<(u64, i64)>,
}

impl Resets {
    /// How often windows have been reset, at this call or later.
    ///
    /// # Errors
    /// [`DatabaseError`]; it is not known then.
    pub async fn count(&self, flows: &dyn Flows) -> Result<i64, DatabaseError> {
        if let Some(count) = flows.known_resets() {
            return Ok(count);
        }
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.0 > before {
            return Ok(last.1);
        }
        // Whoever is about to ask can still ask with us: once everybody who could go on has gone on, and the network was looked at.
        tokio::task::yield_now().await;
        let this = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let count = flows.resets().await?;
        *last = (this, count);
        Ok(count)
    }
}
