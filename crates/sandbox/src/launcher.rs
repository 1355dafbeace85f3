//! The thread that starts children.
//!
//! Linux ends a child when the *thread* that started it ends (`PR_SET_PDEATHSIG`, prctl(2)), and the threads of a
//! runtime come and go: those of its blocking pool always, its workers where `block_in_place` is used. So one thread,
//! which lasts as long as the process, starts them all.

use std::{
    io,
    sync::{OnceLock, mpsc},
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
};

struct Job {
    command: Command,
    runtime: Handle,
    answer: mpsc::SyncSender<io::Result<Child>>,
}

/// Spawns `command` for the runtime we are in, and waits until it did.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    let runtime = Handle::try_current().map_err(io::Error::other)?;
    let (answer, answered) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the launching thread is gone");
    thread()?.send(Job { command, runtime, answer }).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

fn thread() -> io::Result<&'static mpsc::Sender<Job>> {
    static THREAD: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    if let Some(thread) = THREAD.get() {
        return Ok(thread);
    }
    let (jobs, taken) = mpsc::channel::<Job>();
    let work = move || {
        for mut job in taken {
            let _entered = job.runtime.enter();
            // Whoever asked waits; a child that nobody takes dies by being dropped.
            let _ = job.answer.send(job.command.spawn());
        }
    };
    thread::Builder::new().name("launcher".into()).stack_size(256 * 1024).spawn(work)?;
    // Of two at once, the second sender is dropped here, and its thread ends without having started anything.
    Ok(THREAD.get_or_init(|| jobs))
}
