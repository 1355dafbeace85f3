//! The real gate, as a process of its own.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Client, eventually};

/// A running `bartizan run`.
pub struct Gate {
    process: Child,
    folder: Arc<TempDir>,
    log: File,
    address: SocketAddr,
}

/// The `bartizan` that was built with these trials.
///
/// # Panics
/// If it is not there or older than what it was built of.
pub fn binary() -> PathBuf {
    let path = beside("bartizan");
    let how = "build it first: cargo build -p bartizan-cli (`cargo test --workspace` does)";
    let built = fs::metadata(&path).and_then(|m| m.modified());
    let built = built.unwrap_or_else(|error| gone(&format!("{}: {error}; {how}", path.display())));
    // Cargo writes down what a binary was made of (the makefile beside it).
    let sources = fs::read_to_string(path.with_extension("d")).unwrap_or_default();
    let sources = sources.split_once(": ").map(|(_, list)| list).unwrap_or_default();
    for source in sources.split_whitespace().filter(|s| s.ends_with(".rs")) {
        let changed = fs::metadata(source).and_then(|m| m.modified());
        assert!(changed.map_or(true, |at| at <= built), "{source} changed since `bartizan` was built; {how}");
    }
    path
}

/// The stdio server that misbehaves on demand.
pub fn prober_path() -> PathBuf {
    beside("prober")
}

/// A binary of the same build: tests run from `deps/`, below it.
fn beside(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a process knows its own path");
    let folder = me.ancestors().skip(1).find(|f| f.join(name).is_file());
    folder.unwrap_or_else(|| me.parent().unwrap_or(Path::new("."))).join(name)
}

#[expect(clippy::panic, reason = "a scene that cannot be set fails its trial")]
fn gone(text: &str) -> ! {
    panic!("{text}")
}

/// `[[servers]]` for the prober with these arguments, with `more` lines.
pub fn prober(name: &str, arguments: &[&str], more: &str) -> String {
    let mut command = vec![prober_path().display().to_string()];
    command.extend(arguments.iter().map(|&a| a.to_owned()));
    format!("[[servers]]\nname = \"{name}\"\ncommand = {command:?}\ndangerous_unpinned = true\n{more}\n")
}

/// Ports of the system's choice, for gates that stand side by side.
const OWN_PORTS: &str = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";

/// The line of the log that says where the gate listens.
const LISTENS: &str = "listens on http";

impl Gate {
    /// Starts a gate with this configuration, on a port of the system's choice.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// The same with more variables in its environment.
    pub fn start_with(config: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        write_config(folder.path(), config);
        let (process, log, address) = launch(folder.path(), environment);
        Self { process, folder: Arc::new(folder), log, address }
    }

    /// The same, started by this command, which becomes what it starts.
    pub fn start_by(command: &[&str], config: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        write_config(folder.path(), config);
        let (program, arguments) = command.split_first().expect("a command has a program");
        let mut starter = Command::new(program);
        starter.args(arguments).arg(binary());
        let (process, log, address) = launch_as(starter, folder.path(), &[]);
        Self { process, folder: Arc::new(folder), log, address }
    }

    /// Starts another gate in the same folder: one configuration and one store, on a port of its own.
    pub fn beside(&self) -> Self {
        let (process, log, address) = launch(self.folder.path(), &[]);
        Self { process, folder: Arc::clone(&self.folder), log, address }
    }

    /// Kills it and starts it again in the same folder.
    pub fn restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        (self.process, self.log, self.address) = launch(self.folder.path(), &[]);
    }

    /// Kills it; [`Self::restart`] starts it again.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Somebody who has the token.
    pub fn client(&self) -> Client {
        Client::new(self.address, Some(self.token()))
    }

    /// Somebody who has not.
    pub fn stranger(&self) -> Client {
        Client::new(self.address, None)
    }

    /// Somebody with this access token.
    pub fn bearer(&self, token: String) -> Client {
        Client::new(self.address, Some(token))
    }

    /// Somebody at its admin listener.
    ///
    /// # Panics
    /// If it has none.
    pub fn admin(&self) -> Client {
        let log = self.log();
        let told = log.split_once("Metrics: http://").and_then(|(_, rest)| rest.split('/').next());
        let address =
            told.and_then(|address| address.parse().ok()).expect("the banner names the admin listener");
        Client::new(address, None)
    }

    /// The local token.
    pub fn token(&self) -> String {
        let text = fs::read_to_string(self.state().join("token")).expect("the gate made a token");
        text.trim().to_owned()
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join(".bartizan")
    }

    /// The folder of its configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has written on standard error.
    pub fn log(&self) -> String {
        text_of(&self.log)
    }

    /// Waits until the log holds `text`.
    pub fn wait_for_log(&self, text: &str) {
        eventually(&format!("`{text}` in the log"), || self.log().contains(text).then_some(()));
    }

    /// Writes another configuration and waits until it is taken: twice, because of the signal and because of the file. One reading
    /// more would come to an end in the middle of whatever is next.
    pub fn reconfigure(&self, config: &str) {
        let taken = |log: String| log.matches("the configuration was read again").count();
        let before = taken(self.log());
        write_config(self.folder.path(), config);
        self.signal(Signal::HUP);
        eventually("the configuration is read again", || (taken(self.log()) > before + 1).then_some(()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the gate ends", || self.process.try_wait().ok().flatten())
    }

    /// Whether it still runs.
    pub fn is_up(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }
}

/// Starts the binary in `folder` and waits until it listens.
fn launch(folder: &Path, environment: &[(&str, &str)]) -> (Child, File, SocketAddr) {
    launch_as(Command::new(binary()), folder, environment)
}

fn launch_as(mut command: Command, folder: &Path, environment: &[(&str, &str)]) -> (Child, File, SocketAddr) {
    // Not a pipe: what the gate has said is there for whoever asks next.
    let log = tempfile::tempfile().expect("there is room for a log");
    let mut process = command
        .args(["run", "--config"])
        .arg(folder.join("bartizan.toml"))
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nonexistent"), ("BARTIZAN_LOG", "debug")])
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone().expect("a file can be shared"))
        .spawn()
        .expect("the binary starts");
    let address = eventually("the gate listens", || {
        if let Ok(Some(status)) = process.try_wait() {
            gone(&format!("the gate ended ({status}): {}", text_of(&log)));
        }
        let text = text_of(&log);
        let (_, url) = text.split_once(LISTENS)?;
        url.lines().next()?.rsplit_once('/')?.1.trim().parse().ok()
    });
    (process, log, address)
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            // The trial has failed: here is the other side of the story.
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!(
                    "--- the gate's log\n{}\n---\n",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                )
                .as_bytes(),
            );
        }
    }
}

/// Sends a signal to a process.
pub fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("it is a process id");
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

/// The exit code and the words of a gate that does not start with this configuration.
///
/// # Panics
/// If it starts.
pub fn refusal_of(config: &str) -> (Option<i32>, String) {
    refusal_with(config, &[])
}

/// The same with more variables in its environment.
///
/// # Panics
/// If it starts.
pub fn refusal_with(config: &str, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    write_config(folder.path(), config);
    let mut process = Command::new(binary())
        .args(["run", "--config"])
        .arg(folder.path().join("bartizan.toml"))
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut said = String::new();
    let mut reader = BufReader::new(process.stderr.take().expect("it is piped"));
    while reader.read_line(&mut said).is_ok_and(|read| read > 0) {
        if said.contains(LISTENS) {
            let _ = process.kill();
            gone(&format!("it started with\n{config}"));
        }
    }
    (process.wait().expect("it is our child").code(), said)
}

fn write_config(folder: &Path, config: &str) {
    let listen = if config.contains("[server]") { "" } else { OWN_PORTS };
    // In one step, or a watcher might read half of it.
    let fresh = folder.join("fresh");
    fs::write(&fresh, format!("{listen}{config}")).expect("the folder is ours");
    fs::rename(fresh, folder.join("bartizan.toml")).expect("the folder is ours");
}

/// What was logged so far, in whole lines.
fn text_of(log: &File) -> String {
    let length = log.metadata().expect("it is open").len();
    let mut bytes = vec![0; usize::try_from(length).expect("it fits")];
    log.read_exact_at(&mut bytes, 0).expect("a log only grows");
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    bytes.truncate(whole);
    String::from_utf8_lossy(&bytes).into_owned()
}
