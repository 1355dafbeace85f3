//! Start a child with nothing it was not given.
//!
//! A child starts in two steps, because what must happen between `fork` and `exec` would need `unsafe` code: our own
//! binary starts again as a helper ([`helper_main`]), which takes away what the child should not have and then becomes
//! the command. So far that is: a clean environment, file descriptors 0 to 2 only, a process group of its own, no new
//! privileges, no core dumps, death with its parent. What the child starts itself does not die with us by force, only by
//! the end of its standard input. One with a [`Confinement`] besides reaches only what that names.

pub mod cell;
mod child;
mod confine;
mod helper;
mod installed;
mod launcher;
mod open_files;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use confine::{Flaw, PrivateHome};

pub use child::{Child, Ladder};
pub use confine::{Confinement, LARGEST_FILE, Network, can_confine};
pub use helper::{EXIT_NO_PROGRAM, EXIT_NOT_RUNNABLE, HELPER_ARGUMENT, helper_main};
pub use installed::{Installed, InstalledPackage, RunFile};
pub use open_files::{raise_open_files, room_for_children};

/// Variables that every child gets, if we have them.
pub const BASIC_VARIABLES: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];

/// How a child starts. There is no shell: `program` is looked up in the child's `PATH`, and arguments arrive as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program, by path or by name.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its folder; ours by default.
    pub folder: Option<PathBuf>,
    /// Its whole environment; see [`clean_environment`]. Of a confined child, `HOME` and where temporary files go are its own.
    pub environment: BTreeMap<OsString, OsString>,
    /// What it may reach, if it is confined.
    pub confinement: Option<Confinement>,
    /// The binary whose `main` calls [`helper_main`]; `/proc/self/exe` is the running one, even after an upgrade.
    pub helper: PathBuf,
}

/// Why a child did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The helper did not start.
    #[error("the launcher {path} did not start: {source}")]
    Helper {
        /// The helper's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such program, as far as the child's `PATH` goes.
    #[error("there is no program `{0}`; check the command and the PATH")]
    NoProgram(String),
    /// A text file that does not say what runs it; `execvp` would hand it to a shell.
    #[error(
        "`{0}` is a script without a first line like `#!/usr/bin/env python3`; no shell is started to guess"
    )]
    NoInterpreter(String),
    /// There is no such folder.
    #[error("there is no folder `{0}` to start in")]
    NoFolder(PathBuf),
    /// Its sandbox names something that is not there.
    #[error("its `sandbox` names `{0}`, which is not there")]
    NoPlace(PathBuf),
    /// What it reaches has something in it, or lies in something, that is closed to it.
    #[error(
        "its `sandbox` would let it reach the gate's own keys and records in {closed}, through `{path}`; name other folders, or move \
         one of the two"
    )]
    Opens {
        /// What it reaches.
        path: PathBuf,
        /// What it must not.
        closed: PathBuf,
    },
    /// It could exchange what is run.
    #[error(
        "its `sandbox` lets it write `{path}`, and `{program}`, which it runs, is in there or around it: what it can write it must not \
         run; let it write a folder of its own"
    )]
    WritesProgram {
        /// What it may write.
        path: PathBuf,
        /// What it runs.
        program: PathBuf,
    },
    /// It is to be confined, and cannot be.
    #[error("it cannot be confined: {0}")]
    Unconfined(io::Error),
}

/// The environment of a child: [`BASIC_VARIABLES`] and `allow` from `ours`, then `set`. Unless one of these says otherwise,
/// Python writes no compiled files, which are part of what a server is ([`Installed`]).
pub fn clean_environment(
    ours: impl IntoIterator<Item = (OsString, OsString)>,
    allow: &[String],
    set: &BTreeMap<String, String>,
) -> BTreeMap<OsString, OsString> {
    let wanted = |name: &OsString| {
        name.to_str().is_some_and(|n| BASIC_VARIABLES.contains(&n) || allow.iter().any(|a| a == n))
    };
    let mut clean = BTreeMap::from([(OsString::from("PYTHONDONTWRITEBYTECODE"), OsString::from("1"))]);
    clean.extend(ours.into_iter().filter(|(name, _)| wanted(name)));
    clean.extend(set.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
    clean
}

impl Launch {
    /// Starts the child, its three standard streams piped to us. Must be called within a Tokio runtime, whichever the
    /// thread; the child dies with our process.
    ///
    /// A program that is found and still cannot be run (its interpreter is missing, say) shows as an exit with
    /// [`EXIT_NO_PROGRAM`] or [`EXIT_NOT_RUNNABLE`] after one line on the child's standard error.
    ///
    /// # Errors
    /// [`Error`] if there is nothing to start.
    pub fn start(&self) -> Result<Child, Error> {
        self.check()?;
        let home = self.confinement.as_ref().map(|_| PrivateHome::make());
        let home = home.transpose().map_err(Error::Unconfined)?;
        let mut command = tokio::process::Command::new(&self.helper);
        command
            .arg(HELPER_ARGUMENT)
            .arg(open_files::with_limit(std::process::id()))
            .arg(self.orders(home.as_ref())?)
            .arg(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .envs(home.iter().flat_map(|home| PrivateHome::VARIABLES.map(|name| (name, home.path()))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        launcher::spawn(command)
            .map(|child| Child::new(child, home))
            .map_err(|source| Error::Helper { path: self.helper.clone(), source })
    }

    /// Whether there is something to start.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self) -> Result<(), Error> {
        let shown = || self.program.to_string_lossy().into_owned();
        let found = self.find_program().ok_or_else(|| Error::NoProgram(shown()))?;
        if is_text_without_interpreter(&found) {
            return Err(Error::NoInterpreter(shown()));
        }
        if let Some(folder) = self.folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(Error::NoFolder(folder.clone()));
        }
        let Some(confinement) = &self.confinement else { return Ok(()) };
        can_confine().map_err(Error::Unconfined)?;
        match confinement.flaw(&self.run_paths(), self.folder.as_ref()) {
            None => Ok(()),
            Some(Flaw::Missing(path)) => Err(Error::NoPlace(path)),
            Some(Flaw::Opens(path, closed)) => Err(Error::Opens { path, closed }),
            Some(Flaw::WritesProgram(path, program)) => Err(Error::WritesProgram { path, program }),
        }
    }

    /// What the helper is told of how to confine the child.
    fn orders(&self, home: Option<&PrivateHome>) -> Result<String, Error> {
        let (Some(confinement), Some(home)) = (&self.confinement, home) else {
            return Ok(helper::NO_ORDERS.to_owned());
        };
        let orders = confinement.orders(self.run_paths(), self.folder.as_ref(), home);
        serde_json::to_string(&orders).map_err(|error| Error::Unconfined(error.into()))
    }

    /// A path as the child has it, from the folder it starts in.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        match &self.folder {
            Some(folder) => folder.join(path),
            None => path.as_ref().to_owned(),
        }
    }

    /// Where the program is, as `exec` will find it.
    fn find_program(&self) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let runs = |path: &PathBuf| {
            path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        };
        let program = PathBuf::from(&self.program);
        if program.components().count() > 1 {
            return Some(self.at(&program)).filter(runs);
        }
        let path = self.environment.get(std::ffi::OsStr::new("PATH"))?;
        // A part that is relative, or empty, is looked up where the child starts, not where we are.
        std::env::split_paths(path).map(|folder| self.at(folder.join(&program))).find(runs)
    }
}

/// Whether a file is neither a binary the kernel knows nor a script that names its interpreter. A file we may run but
/// not read is left to the kernel.
fn is_text_without_interpreter(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut head));
    match read {
        Ok(length) => head != *b"\x7fELF" && !head.get(..length).unwrap_or_default().starts_with(b"#!"),
        Err(_) => false,
    }
}

/// Keeps other processes of the same user from reading our memory, and us from leaving it in a core file.
///
/// # Errors
/// What the system says.
pub fn make_non_dumpable() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
