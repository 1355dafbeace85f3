//! `bartizan wrap`, from the side of the client that launched it.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{PATIENCE, eventually, gate};

/// A running `bartizan wrap -- prober`.
pub struct Wrapped {
    process: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Wrapped {
    /// Starts one whose state is in `home` and whose folder is `folder`; `arguments` are the prober's.
    pub fn start(home: &Path, folder: &Path, arguments: &[&str]) -> Self {
        Self::start_with(home, folder, &[], arguments)
    }

    /// The same with more `options` of `wrap`.
    pub fn start_with(home: &Path, folder: &Path, options: &[&str], arguments: &[&str]) -> Self {
        Self::start_command(home, folder, options, &gate::prober_path(), arguments)
    }

    /// The same in front of another program than the prober.
    pub fn start_command(
        home: &Path,
        folder: &Path,
        options: &[&str],
        program: &Path,
        arguments: &[&str],
    ) -> Self {
        let mut process = Command::new(gate::binary())
            .arg("wrap")
            .args(options)
            .arg("--")
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let output = process.stdout.take().expect("it is piped");
        let (to, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Self { input: process.stdin.take(), process, lines }
    }

    /// Writes a line.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        writeln!(input, "{line}").expect("it reads");
    }

    /// The next line it writes.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it answers")
    }

    /// The next line, read.
    pub fn message(&mut self) -> Value {
        serde_json::from_str(&self.line()).expect("it writes messages")
    }

    /// Sends it `signal` while its input is open, and waits for its end.
    pub fn end_by(mut self, signal: Signal) -> ExitStatus {
        gate::kill(self.process.id(), signal);
        eventually("the wrap ends", || self.process.try_wait().ok().flatten())
    }

    /// Closes its input.
    pub fn close(&mut self) {
        drop(self.input.take());
    }

    /// Closes its input and waits for its end.
    pub fn finish(mut self) -> ExitStatus {
        drop(self.input.take());
        eventually("the wrap ends", || self.process.try_wait().ok().flatten())
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
