//! A started child.

use std::{io, process::ExitStatus, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::confine::PrivateHome;

/// How patiently a child is stopped (25/life; spec.md C-39).
#[derive(Clone, Copy, Debug)]
pub struct Ladder {
    /// After its standard input was closed.
    pub after_close: Duration,
    /// After SIGTERM.
    pub after_term: Duration,
}

impl Default for Ladder {
    /// Two seconds each.
    fn default() -> Self {
        Self { after_close: Duration::from_secs(2), after_term: Duration::from_secs(2) }
    }
}

/// A running child, leader of its process group. Dropping it kills the group.
#[derive(Debug)]
pub struct Child {
    inner: tokio::process::Child,
    group: Option<Pid>,
    has_left_others: bool,
    home: Option<PrivateHome>,
}

impl Child {
    /// `home` goes with it.
    pub(crate) fn new(inner: tokio::process::Child, home: Option<PrivateHome>) -> Self {
        let group = inner.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { inner, group, has_left_others: false, home }
    }

    /// Its process id, until it was waited for.
    pub fn id(&self) -> Option<u32> {
        self.inner.id()
    }

    /// Its standard input; `None` the second time.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.inner.stdin.take()
    }

    /// Its standard output; `None` the second time.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// Its standard error; `None` the second time.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.inner.stderr.take()
    }

    /// Waits for its end, then kills what is left of its group. Closes its standard input if nobody took it.
    ///
    /// # Errors
    /// What the system says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.inner.wait().await?;
        self.end_left();
        Ok(status)
    }

    /// How it ended, if it did; then kills what is left of its group.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.inner.try_wait()?;
        if status.is_some() {
            self.end_left();
        }
        Ok(status)
    }

    /// Whether others of its group outlived it, once it was waited for.
    pub fn has_left_others(&self) -> bool {
        self.has_left_others
    }

    /// Stops it: closes its standard input (whoever took it must have dropped it), waits, sends SIGTERM to its group,
    /// waits, sends SIGKILL. The group is killed even where the leader went by itself.
    pub async fn stop(mut self, ladder: Ladder) {
        if tokio::time::timeout(ladder.after_close, self.inner.wait()).await.is_err() {
            self.signal(Signal::TERM);
            let _ = tokio::time::timeout(ladder.after_term, self.inner.wait()).await;
        }
        self.end_group();
        let _ = self.inner.wait().await;
    }

    /// Ends what its leader, which is gone, left of the group.
    fn end_left(&mut self) {
        self.has_left_others |= self.group.is_some_and(|group| test_kill_process_group(group).is_ok());
        self.end_group();
    }

    /// Kills the group and forgets it: once the leader was waited for, the number may come to mean somebody else.
    fn end_group(&mut self) {
        self.signal(Signal::KILL);
        self.group = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // No such group: everybody is gone.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end_group();
        // What it left there may be much.
        if let (Some(home), Ok(runtime)) = (self.home.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(|| drop(home));
        }
    }
}
