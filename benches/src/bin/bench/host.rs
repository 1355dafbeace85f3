//! The processes of a run: where they are, which CPU they get, and that they end with it.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::Error;
use crate::cell::Group;

/// Upstream and load.
const LOAD_CPU: &str = "0";
/// Whatever is measured.
const PROXY_CPU: &str = "1";

/// The binaries and ports of this run.
pub struct Host {
    /// The folder of this program, where its siblings are.
    bin: PathBuf,
    pub gate: Option<PathBuf>,
    upstream_port: u16,
    is_pinned: bool,
}

/// A process that is killed when its owner is done.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Starts `command` and waits until it listens on `address`, where nobody else may.
    fn start(mut command: Command, address: &str) -> Result<Self, Error> {
        let mut process = Self(command.spawn()?);
        for _ in 0..200 {
            if let Some(status) = process.0.try_wait()? {
                return Err(format!("it ended with {status} instead of listening on {address}").into());
            }
            #[expect(clippy::disallowed_methods, reason = "a bench is not the product")]
            if TcpStream::connect(address).is_ok() {
                return Ok(process);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("nothing listens on {address} after 10 s").into())
    }
}

/// Something that a load can be sent to.
pub struct Proxy {
    pub name: &'static str,
    address: String,
    path: String,
    token: Option<PathBuf>,
    process: Option<Process>,
    peer_pid: Option<u32>,
    /// Its state, which goes when it ends. After `process`, so that nobody writes there any more.
    _folder: Option<TempDir>,
}

impl Proxy {
    /// A gateway that somebody else started.
    pub fn peer(url: &str, pid: Option<u32>, token: Option<PathBuf>) -> Result<Self, Error> {
        let rest = url.strip_prefix("http://").ok_or("--peer must begin with http://")?;
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (address, path) = (address.to_owned(), format!("/{path}"));
        Ok(Self { name: "peer", address, path, token, process: None, peer_pid: pid, _folder: None })
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid).or(self.peer_pid)
    }
}

/// How a gate is set up, beside where it listens and what it stands in front of.
pub struct Setting {
    pub name: &'static str,
    /// Which of several gates it is: each has a port of its own.
    pub place: u16,
    /// Where it says it is, if not where it listens.
    pub public_url: Option<String>,
    /// Where its folder is made, if not where such folders are.
    pub folder: Option<&'static str>,
    /// More lines about the one server.
    pub server: String,
    /// More sections of the configuration.
    pub rest: String,
    pub token: Token,
}

/// What the load shows at the door.
pub enum Token {
    /// What `bartizan token` prints.
    Minted,
    Given(String),
    None,
}

impl Default for Setting {
    fn default() -> Self {
        let (server, rest) = (String::new(), String::new());
        Self { name: "gate", place: 0, public_url: None, folder: None, server, rest, token: Token::Minted }
    }
}

/// Where folders are in memory.
pub const IN_MEMORY: &str = "/dev/shm";

impl Setting {
    /// Without a token, pins, rules, model, schemas and a disk. Policy, flows, limits and the audit log cannot be turned off.
    pub fn bare() -> Self {
        Self {
            folder: Some(IN_MEMORY),
            server: "dangerous_unpinned = true\ndangerous_unshielded = true\n".into(),
            rest: "[identity]\ndangerous_open = true\n".into(),
            token: Token::None,
            ..Self::default()
        }
    }
}

/// What `bartizan token` prints for the gate of this configuration.
fn minted(program: &Path, config: &Path, folder: &Path) -> Result<Vec<u8>, Error> {
    let output =
        Command::new(program).args(["token", "--config"]).arg(config).current_dir(folder).output()?;
    if !output.status.success() {
        return Err(format!("`bartizan token`: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(output.stdout)
}

impl Host {
    pub fn new(gate: Option<PathBuf>, upstream_port: u16) -> Result<Self, Error> {
        let program = std::env::current_exe()?;
        let bin = program.parent().ok_or("this program has no folder")?.to_owned();
        for name in ["mcpload", "upstream", "floor"] {
            if !bin.join(name).exists() {
                return Err(format!(
                    "no `{name}` beside `bench`: build with `cargo build --release -p bartizan-benches`"
                )
                .into());
            }
        }
        if let Some(gate) = gate.as_ref().filter(|gate| !gate.exists()) {
            return Err(format!("--gate {}: no such file", gate.display()).into());
        }
        let gate = gate.map(std::fs::canonicalize).transpose()?;
        let gate = gate.or_else(|| Some(bin.join("bartizan")).filter(|path| path.exists()));
        let is_pinned =
            Command::new("taskset").args(["-c", PROXY_CPU, "true"]).status().is_ok_and(|s| s.success());
        Ok(Self { bin, gate, upstream_port, is_pinned })
    }

    /// A program on one CPU, where the machine has two.
    fn on_cpu(&self, cpu: &str, program: &Path) -> Command {
        if !self.is_pinned {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", cpu]).arg(program);
        command
    }

    pub fn upstream(&self, group: &Group) -> Result<Process, Error> {
        let mut command = self.on_cpu(LOAD_CPU, &self.bin.join("upstream"));
        command.arg(self.upstream_address()).args([
            "--era",
            group.era,
            "--tools",
            &group.tools().to_string(),
        ]);
        if group.era == "legacy" {
            command.arg("--session");
        }
        if group.kind == crate::cell::Kind::Stream {
            command.arg("--sse");
        }
        Process::start(command, &self.upstream_address())
    }

    pub fn direct(&self) -> Proxy {
        let (address, path) = (self.upstream_address(), "/mcp".to_owned());
        Proxy { name: "direct", address, path, token: None, process: None, peer_pid: None, _folder: None }
    }

    pub fn floor(&self) -> Result<Proxy, Error> {
        let address = format!("127.0.0.1:{}", self.upstream_port + 1);
        let mut command = self.on_cpu(PROXY_CPU, &self.bin.join("floor"));
        command.arg(&address).arg(self.upstream_address());
        let process = Some(Process::start(command, &address)?);
        let path = "/mcp".to_owned();
        Ok(Proxy { name: "floor", address, path, token: None, process, peer_pid: None, _folder: None })
    }

    /// The gate in front of the upstream, in a fresh folder; `None` if there is no binary.
    pub fn gate(&self) -> Result<Option<Proxy>, Error> {
        self.gate_with(&Setting::default())
    }

    /// The same, set up as `setting` says.
    pub fn gate_with(&self, setting: &Setting) -> Result<Option<Proxy>, Error> {
        let Some(program) = &self.gate else { return Ok(None) };
        let folder = match setting.folder {
            Some(parent) => TempDir::with_prefix_in("bartizan-bench-", parent)?,
            None => TempDir::with_prefix("bartizan-bench-")?,
        };
        let address = self.gate_address(setting.place);
        let config = folder.path().join("bartizan.toml");
        let public =
            setting.public_url.as_ref().map_or(String::new(), |url| format!("public_url = \"{url}\"\n"));
        std::fs::write(
            &config,
            format!(
                "[server]\nlisten = \"{address}\"\n{public}\n[[servers]]\nname = \"bench\"\nurl = \"http://{}/mcp\"\ntrust_on_first_use = true\n{}\n{}",
                self.upstream_address(),
                setting.server,
                setting.rest,
            ),
        )?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = self.on_cpu(PROXY_CPU, program);
        command.args(["run", "--config"]).arg(&config).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let said = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let process = Process::start(command, &address).map_err(|e| format!("the gate: {e}\n{}", said()))?;
        let process = Some(process);

        let secret = match &setting.token {
            Token::Minted => Some(minted(program, &config, folder.path())?),
            Token::Given(token) => Some(token.clone().into_bytes()),
            Token::None => None,
        };
        let token = secret.map(|secret| -> Result<PathBuf, Error> {
            let token = folder.path().join("token");
            std::fs::write(&token, secret)?;
            Ok(token)
        });
        let (token, path) = (token.transpose()?, "/mcp/bench".to_owned());
        let (name, folder) = (setting.name, Some(folder));
        Ok(Some(Proxy { name, address, path, token, process, peer_pid: None, _folder: folder }))
    }

    /// Where the gate listens that has this place among others.
    pub fn gate_address(&self, place: u16) -> String {
        format!("127.0.0.1:{}", self.upstream_port + 2 + place)
    }

    /// The load generator, aimed at `proxy`.
    pub fn mcpload(&self, command: &str, proxy: &Proxy) -> Command {
        let mut load = self.on_cpu(LOAD_CPU, &self.bin.join("mcpload"));
        load.args([command, &proxy.address, &proxy.path]);
        if let Some(token) = &proxy.token {
            load.arg("--token").arg(token);
        }
        load
    }

    /// Runs `command`; the JSON it prints.
    pub fn json_line(mut command: Command) -> Result<Value, Error> {
        let output = command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("the load generator failed: {command:?}").into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn upstream_address(&self) -> String {
        format!("127.0.0.1:{}", self.upstream_port)
    }
}
