//! The processes of a server: how many may run, which are shared, and when they stop.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bartizan_mcp::{Era, Message, json::Value};
use bartizan_sandbox::Launch;
use tokio::time::Instant;

use super::{Server, Transport};
use crate::{
    call::own_info,
    legacy::{Link, greet},
    limits::{CRASH_REST, CRASHES, PROCESS_IDLE, PROCESSES},
    program,
    upstream::{
        Failure,
        scrub::Scrub,
        stdio::{Process, lock},
    },
};

pub(super) struct Pooled {
    pub(super) process: Arc<Process>,
    pub(super) used: Instant,
}

impl Server {
    /// Starts a process, if the caps allow it.
    ///
    /// # Errors
    /// [`Failure::Limit`] at the cap, or while a server that keeps crashing rests.
    pub async fn start(&self, launch: &Launch, secrets: &Scrub, era: Era) -> Result<Arc<Process>, Failure> {
        if let Some(keeper) = &self.keeper {
            program::clear(&self.settings, keeper).await?;
        }
        let crashes = {
            let mut crashes = lock(&self.crashes);
            crashes.retain(|at| at.elapsed() < CRASH_REST);
            u32::try_from(crashes.len()).unwrap_or(u32::MAX)
        };
        if crashes >= CRASHES {
            let rest = CRASH_REST.as_secs();
            return Err(Failure::Limit(format!(
                "its process ended {crashes} times in the last {rest} seconds; it is left alone for that long"
            )));
        }
        if crashes > 0 {
            tokio::time::sleep(Duration::from_millis(100u64 << crashes.min(6))).await;
        }
        let slot = Slot::take(&self.processes).ok_or_else(|| {
            Failure::Limit(format!("{PROCESSES} of its processes are running, which is the most"))
        })?;
        let voice = Arc::clone(&self.voice);
        Process::start(self.name(), launch, era, secrets.clone(), slot, voice)
            .inspect_err(|_| self.note_crash())
    }

    /// Counts a process that ended by itself or never answered.
    pub fn note_crash(&self) {
        lock(&self.crashes).push(Instant::now());
    }

    /// The process that all legacy sessions share, and its answer to our handshake: no client's own capabilities
    /// are true of all of them, so it is told of none. `hello` says which version to ask for.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn shared_process(&self, hello: &str) -> Result<(Arc<Process>, Message), Failure> {
        let Transport::Command { launch, secrets } = &self.settings.transport else {
            return Err(Failure::Limit("only commands can be shared".into()));
        };
        let mut common = self.common.lock().await;
        if let Some((process, answer)) = &*common
            && process.ended().is_none()
        {
            return Ok((Arc::clone(process), answer.clone()));
        }
        if common.take().is_some() {
            self.note_crash();
        }
        let process = self.start(launch, secrets, Era::Legacy).await?;
        process.set_shared();
        let listeners = Arc::clone(&self.listeners);
        process.set_sink(Arc::new(move |message| {
            let all: Vec<_> = lock(&listeners).iter().filter_map(Weak::upgrade).collect();
            all.iter().for_each(|link| link.unasked(&message));
        }));
        let version = Value::of(hello).get("protocolVersion").map_or("\"2025-11-25\"", Value::text);
        let ours =
            format!(r#"{{"protocolVersion":{version},"capabilities":{{}},"clientInfo":{}}}"#, own_info());
        let answer = greet(&process, &ours).await.inspect_err(|_| self.note_crash())?;
        if answer.result().is_some() {
            process.send(bartizan_mcp::message::notification("notifications/initialized", None)).await?;
            *common = Some((Arc::clone(&process), answer.clone()));
        }
        Ok((process, answer))
    }

    /// Has `link` told what the shared process says to everybody.
    pub fn attach_shared(&self, link: &Arc<Link>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|l| l.strong_count() > 0 && l.as_ptr() != Arc::as_ptr(link));
        listeners.push(Arc::downgrade(link));
    }

    /// Stops every process that is not a session's own; those end with their sessions.
    pub async fn stop_all(&self) {
        self.pool.lock().await.clear();
        self.common.lock().await.take();
    }

    /// Stops processes that nobody used for a while.
    pub async fn stop_idle(&self) {
        let mut pool = self.pool.lock().await;
        pool.retain(|_, pooled| {
            let idle = pooled.used.elapsed() > PROCESS_IDLE && pooled.process.busy() == 0;
            !idle && pooled.process.ended().is_none()
        });
    }
}

/// One of a server's processes, counted while it runs.
pub struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = count.fetch_add(1, Ordering::Relaxed) < PROCESSES;
        let slot = Self(Arc::clone(count));
        taken.then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
