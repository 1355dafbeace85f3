//! A line that somebody types and nobody sees.

use std::io::{Stdin, stdin};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use zeroize::Zeroizing;

use crate::say_error;

/// A signal of this number ended the question.
#[derive(Debug, thiserror::Error)]
#[error("nothing was typed")]
pub struct Stopped(pub u8);

/// Asks for a line on the terminal that is standard input, and shows nothing of it. The terminal is as it was afterwards, also where a
/// signal ends this.
///
/// # Errors
/// [`Stopped`]; what the terminal says.
pub async fn line(question: &str) -> anyhow::Result<Zeroizing<String>> {
    // They are ours before the terminal is.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let hidden = Hidden::new().context("the terminal")?;
    say_error(question);
    let (read, answer) = oneshot::channel();
    // A thread of its own, which ends with the process: nothing wakes one that reads.
    std::thread::spawn(move || {
        let mut text = Zeroizing::new(String::new());
        let text = stdin().read_line(&mut text).map(|_| text);
        // After a signal nobody waits any more.
        let _ = read.send(text);
    });
    let text = tokio::select! {
        text = answer => text.context("the terminal")?.context("the terminal"),
        _ = interrupt.recv() => Err(Stopped(2).into()),
        _ = quit.recv() => Err(Stopped(3).into()),
        _ = terminate.recv() => Err(Stopped(15).into()),
    };
    drop(hidden);
    say_error("\n");
    text
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden {
    terminal: Stdin,
    before: Termios,
}

impl Hidden {
    fn new() -> rustix::io::Result<Self> {
        let terminal = stdin();
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // There is nobody else to tell.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}
