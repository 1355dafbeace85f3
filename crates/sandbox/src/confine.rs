//! A sandbox around a server: it reaches the system's programs and libraries, itself, and what its operator names. Nothing else.
//!
//! *Attack.* A stdio server runs as the gate's user: it reads that user's keys, tokens and browser profiles, writes into start-up
//! files, talks to whatever listens on this machine and to everybody outside, and looks into its neighbours (attacks.md PH-07,
//! "local server compromise" of the MCP security practices; spec.md G-35). *Answer.* The kernel refuses: Landlock what is not named
//! of the file system, seccomp the system calls that lead out of any sandbox and, without a network, every socket. Both hold for whatever the
//! child starts in turn, take no privileges to set up, and work inside containers.
//!
//! What it does not do: the child can see that other processes exist (not what they are), can use up memory and
//! processor time, and with [`Network::Open`] reaches every address that the gate does.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;
mod home;
mod places;

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use home::PrivateHome;

/// What a confined child may reach beside the system's own programs and libraries, its own program and a folder that is new and
/// goes when it ends, which is its `HOME` and its `TMPDIR`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Files, and folders with all that is below them, that it may read. Absolute.
    pub read: Vec<PathBuf>,
    /// The same, that it may read and write, but not run. Absolute.
    pub write: Vec<PathBuf>,
    /// Whom it may talk to.
    pub network: Network,
}

/// Whom a confined child may talk to, beside whoever holds its standard streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nobody: it gets no socket of any kind.
    #[default]
    None,
    /// Every address by TCP and UDP, loopback included; no sockets in the file system, where other programs' daemons listen.
    Open,
}

/// What a helper is told of how to confine its child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// What the child reads and may run.
    runs: Vec<PathBuf>,
    /// Its new folder.
    home: PathBuf,
    #[serde(flatten)]
    confinement: Confinement,
}

impl Orders {
    /// Lets the child read `paths` too.
    pub(crate) fn read<'p>(&mut self, paths: impl Iterator<Item = &'p PathBuf>) {
        self.confinement.read.extend(paths.cloned());
    }
}

/// The largest file that a confined child may write, in bytes.
pub const LARGEST_FILE: u64 = 1 << 30;

impl Confinement {
    /// What is said to the helper, for a child that runs `runs` and whose folder is `home`.
    pub(crate) fn orders(&self, runs: Vec<PathBuf>, home: &PrivateHome) -> Orders {
        Orders { runs, home: home.path().to_owned(), confinement: self.clone() }
    }

    /// The first path that is not there.
    pub(crate) fn missing(&self) -> Option<&PathBuf> {
        self.read.iter().chain(&self.write).find(|path| !path.exists())
    }
}

/// Whether this machine can confine children.
///
/// # Errors
/// Why it cannot, and what to do.
pub fn can_confine() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return files::can_restrict();
    #[cfg(not(target_os = "linux"))]
    Err(io::Error::other("servers are confined on Linux alone; run the gate there, or leave `sandbox` out"))
}

/// Confines this process and all that it becomes or starts, for good. Before anything starts a thread.
///
/// # Errors
/// What the system says; the process must end then.
pub(crate) fn confine(orders: &Orders) -> io::Result<()> {
    can_confine()?;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        setrlimit(Resource::Fsize, Rlimit { current: Some(LARGEST_FILE), maximum: Some(LARGEST_FILE) })?;
        files::restrict(orders)?;
        calls::drop_capabilities()?;
        calls::restrict(orders.confinement.network)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = orders;
    Ok(())
}
