//! A sandbox around a server: it reaches the system's programs and libraries, itself, and what its operator names. Nothing else.
//!
//! *Attack.* A stdio server runs as the gate's user: it reads that user's keys, tokens and browser profiles, writes into start-up
//! files, talks to whatever listens on this machine and to everybody outside, and looks into its neighbours (attacks.md PH-07,
//! "local server compromise" of the MCP security practices; spec.md G-35). *Answer.* The kernel refuses: Landlock what is not named
//! of the file system, seccomp the system calls that lead out of any sandbox and, without a network, every socket. Both hold for whatever the
//! child starts in turn, take no privileges to set up, and work inside containers.
//!
//! What it does not do: the child can see that other processes and files exist (not what they are), can set the times of its
//! user's files, can use up memory, disk and processor time, and with [`Network::Open`] reaches every address that the gate does.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;
mod home;
mod places;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use home::Identity;
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
    /// What it must not reach, whatever else is said, and where nothing that it reaches lies around either. Absolute, links followed.
    pub closed: Vec<PathBuf>,
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
    /// What must be found there.
    home_identity: Identity,
    #[serde(flatten)]
    confinement: Confinement,
}

/// The largest file that a confined child may write, in bytes.
pub const LARGEST_FILE: u64 = 1 << 30;

/// Why a confinement is none.
pub(crate) enum Flaw {
    /// This is not there.
    Missing(PathBuf),
    /// The first would open the second, which is closed.
    Opens(PathBuf, PathBuf),
    /// The first is written, and is, holds or lies in the second, which is run.
    WritesProgram(PathBuf, PathBuf),
}

impl Confinement {
    /// What is said to the helper, for a child that runs `runs`, starts in `folder` and whose own is `home`.
    pub(crate) fn orders(&self, runs: Vec<PathBuf>, folder: Option<&PathBuf>, home: &PrivateHome) -> Orders {
        let mut confinement = self.clone();
        confinement.read.extend(folder.cloned());
        // What it can write it could exchange for a link to elsewhere, and is open as it is.
        let written: Vec<_> = self.write.iter().map(|path| real(path)).collect();
        let is_inside =
            |path: &PathBuf| written.iter().any(|over| *over != place(path) && place(path).starts_with(over));
        confinement.read.retain(|path| !is_inside(path));
        confinement.write.retain(|path| !is_inside(path));
        Orders {
            runs: places::of_programs(&runs),
            home: home.path().to_owned(),
            home_identity: home.identity(),
            confinement,
        }
    }

    /// The first thing that is wrong with it, for a child that runs `runs` and starts in `folder`.
    pub(crate) fn flaw(&self, runs: &[PathBuf], folder: Option<&PathBuf>) -> Option<Flaw> {
        let named = || self.read.iter().chain(&self.write);
        if let Some(path) = named().find(|path| !path.exists()) {
            return Some(Flaw::Missing(path.clone()));
        }
        let own = || places::of_programs(runs).into_iter().filter(|path| path.exists());
        let system = |paths: &'static [&'static str]| paths.iter().map(PathBuf::from);
        let programs: Vec<_> =
            system(places::PROGRAMS).chain(own()).map(|path| (real(&path), path)).collect();
        let others = named().chain(folder).cloned().chain(system(places::SETTINGS));
        let others: Vec<_> = others.map(|path| (real(&path), path)).collect();
        for (found, path) in programs.iter().chain(&others) {
            if let Some(closed) = self.closed.iter().find(|closed| overlap(closed, found)) {
                return Some(Flaw::Opens(path.clone(), closed.clone()));
            }
        }
        let written = || self.write.iter().map(|path| (real(path), path));
        programs.iter().find_map(|(program, path)| {
            let (_, write) = written().find(|(write, _)| overlap(program, write))?;
            Some(Flaw::WritesProgram(write.clone(), path.clone()))
        })
    }
}

/// Whether one lies in the other, or is it.
pub(crate) fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Where a path leads, links followed; as it is where it leads nowhere.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Where a path lies, whatever it is: of links only those on the way there are followed.
fn place(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => real(path),
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
