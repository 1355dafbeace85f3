//! Landlock: which files and folders (landlock(7)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{
    Network, Orders,
    home::{self, Identity},
    overlap,
    places::{DEVICES, PROGRAMS, SETTINGS},
};

/// What must be in force: without the rights of this one, files elsewhere could be cut to nothing (`truncate(2)`), Linux 6.2.
const LEAST: ABI = ABI::V3;
/// What is in force besides where the kernel has it: device calls, abstract sockets and signals to others (Linux 6.12).
const BEST: ABI = ABI::V6;

fn refused(error: &RulesetError) -> io::Error {
    io::Error::other(format!(
        "Landlock of Linux 6.2 or newer is needed for a `sandbox`, and this kernel does not offer it ({error}); see \
         /sys/kernel/security/lsm, or leave `sandbox` out"
    ))
}

/// The rules before anything is allowed.
fn none(network: Network) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(BEST))?
        .scope(Scope::from_all(BEST))?;
    if network == Network::None {
        // seccomp gives it no socket to begin with.
        rules = rules.handle_access(AccessNet::from_all(BEST))?;
    }
    rules.create()
}

/// Whether the kernel can do what must be done.
pub fn can_restrict() -> io::Result<()> {
    none(Network::None).map(drop).map_err(|error| refused(&error))
}

/// Leaves this process what `orders` and [`places`](super::places) name.
pub fn restrict(orders: &Orders) -> io::Result<()> {
    let status = rules(orders)?.restrict_self().map_err(|error| refused(&error))?;
    if status.ruleset == RulesetStatus::NotEnforced || !status.no_new_privs {
        return Err(io::Error::other("Landlock is not in force"));
    }
    Ok(())
}

/// What the rules are made of.
struct Rules<'o> {
    /// What none of them may open.
    closed: &'o [PathBuf],
    made: Vec<PathBeneath<PathFd>>,
}

impl Rules<'_> {
    /// A rule for `path`; whether somebody can look there at all.
    fn allow(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<bool> {
        let Ok(opened) = PathFd::new(path) else { return Ok(false) };
        self.add(opened, path, access)?;
        Ok(true)
    }

    /// A rule for the child's home at `path`, if that still is the folder that was made: who may write around it could have put
    /// anything in its place.
    fn allow_home(&mut self, path: &Path, made: Identity, access: BitFlags<AccessFs>) -> io::Result<()> {
        let opened = PathFd::new(path).map_err(|_| cannot_be_opened(path))?;
        if home::identity(opened.as_fd())? != made {
            let path = path.display();
            return Err(io::Error::other(format!("its home `{path}` was exchanged for something else")));
        }
        self.add(opened, path, access)
    }

    /// A rule for what was `opened` by the name of `path`.
    fn add(&mut self, opened: PathFd, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        // What was opened, not what the name leads to by now.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd()))?;
        if let Some(closed) = self.closed.iter().find(|closed| overlap(closed, &real)) {
            let (path, closed) = (path.display(), closed.display());
            return Err(io::Error::other(format!("`{path}` of its sandbox would open {closed}")));
        }
        let access = if real.is_dir() { access } else { access & AccessFs::from_file(BEST) };
        self.made.push(PathBeneath::new(opened, access));
        Ok(())
    }
}

fn cannot_be_opened(path: &Path) -> io::Error {
    io::Error::other(format!("`{}` of its sandbox cannot be opened", path.display()))
}

fn rules(orders: &Orders) -> io::Result<RulesetCreated> {
    let Orders { runs, home, home_identity, confinement } = orders;
    let looks = AccessFs::ReadFile | AccessFs::ReadDir;
    let runs_too = looks | AccessFs::Execute;
    // No device files, no sockets: those are other programs' doors.
    let writes = looks
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let mut rules = Rules { closed: &confinement.closed, made: Vec::new() };
    for path in PROGRAMS.iter().map(Path::new).chain(runs.iter().map(PathBuf::as_path)) {
        rules.allow(path, runs_too)?;
    }
    for path in SETTINGS {
        rules.allow(path.as_ref(), looks)?;
    }
    for path in DEVICES {
        rules.allow(path.as_ref(), AccessFs::ReadFile | AccessFs::WriteFile)?;
    }
    let named = confinement.read.iter().map(|path| (path, looks));
    for (path, access) in named.chain(confinement.write.iter().map(|path| (path, writes))) {
        if !rules.allow(path, access)? {
            return Err(cannot_be_opened(path));
        }
    }
    rules.allow_home(home, *home_identity, writes)?;
    let allowed = rules.made.into_iter().map(Ok::<_, RulesetError>);
    none(confinement.network).and_then(|rules| rules.add_rules(allowed)).map_err(|error| refused(&error))
}
