//! How many processes of servers begin at a time, and how many there may be.
//!
//! A hundred that begin at once keep each other from saying anything for so long that all seem dead; a few at a time are soon there,
//! one after the other. Whoever is slow for another reason than ours keeps nobody waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    limits::{START_TURN, STARTS_PER_CORE},
    upstream::Failure,
};

/// The places for processes that begin, and for looks of the gate's own.
pub struct Starts {
    places: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
    most: usize,
}

/// A place, until this is dropped or [`START_TURN`] is over.
pub struct Turn(#[expect(dead_code, reason = "its end is what counts")] oneshot::Sender<()>);

/// One of the processes that run.
pub struct Running(Arc<AtomicUsize>);

impl Default for Starts {
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, usize::from), bartizan_sandbox::room_for_children())
    }
}

impl Starts {
    fn new(cores: usize, most: usize) -> Self {
        let places = (cores * STARTS_PER_CORE).max(2);
        Self {
            places: Arc::new(Semaphore::new(places)),
            // Clients wait for processes; looks leave them half of the places.
            looks: Arc::new(Semaphore::new(places / 2)),
            running: Arc::default(),
            most,
        }
    }

    /// Waits for a place to begin in.
    pub async fn begin(&self) -> Turn {
        turn_in(&self.places).await
    }

    /// Waits for a place to look at a server in, for which nobody waits.
    pub async fn look(&self) -> Turn {
        turn_in(&self.looks).await
    }

    /// Counts a process in.
    ///
    /// # Errors
    /// [`Failure::Limit`]: more would leave no file descriptors for connections, the store and the log.
    pub fn count(&self) -> Result<Running, Failure> {
        let running = Running(Arc::clone(&self.running));
        if self.running.fetch_add(1, Ordering::Relaxed) < self.most {
            return Ok(running);
        }
        Err(Failure::Limit(format!(
            "{} processes of servers are running, as many as the gate's limit of open files has room for; raise it \
             (ulimit -n, LimitNOFILE), or let sessions share processes (`shared = true`)",
            self.most
        )))
    }
}

async fn turn_in(places: &Arc<Semaphore>) -> Turn {
    // Never closed; without a place nobody would be waited for either.
    let place: Option<OwnedSemaphorePermit> = Arc::clone(places).acquire_owned().await.ok();
    let (turn, over) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = tokio::time::timeout(START_TURN, over).await;
        drop(place);
    });
    Turn(turn)
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_is_slow_keeps_nobody_waiting_and_whoever_is_done_makes_room_at_once() {
        let starts = Starts::new(1, 8);
        let slow: Vec<_> =
            [starts.begin().await, starts.begin().await, starts.begin().await, starts.begin().await].into();
        let began = tokio::time::Instant::now();
        drop(starts.begin().await);
        assert_eq!(began.elapsed(), START_TURN, "the slow ones have had their turn");
        let again = tokio::time::Instant::now();
        for _ in 0..100 {
            drop(starts.begin().await);
        }
        assert!(again.elapsed() < START_TURN);
        drop(slow);
    }

    #[test]
    fn processes_are_counted_until_they_are_gone() {
        let starts = Starts::new(1, 2);
        let (one, _two) = (starts.count().unwrap(), starts.count().unwrap());
        assert!(matches!(starts.count(), Err(Failure::Limit(_))));
        drop(one);
        assert!(starts.count().is_ok());
    }
}
