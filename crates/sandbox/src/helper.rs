//! The second half of a start: runs as the child, takes things away, becomes the command.

use std::{
    ffi::OsString,
    io::{ErrorKind, Write},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    confine::{self, Orders},
    open_files,
};

/// The first argument that makes our binary the helper.
pub const HELPER_ARGUMENT: &str = "__launch";

/// How a child exits whose program was not found, as shells have it.
pub const EXIT_NO_PROGRAM: u8 = 127;
/// How a child exits whose program cannot be run, or which could not be confined.
pub const EXIT_NOT_RUNNABLE: u8 = 126;

/// In the place of orders: the child is not confined.
pub(crate) const NO_ORDERS: &str = "-";

/// Runs the helper; `arguments` are those after [`HELPER_ARGUMENT`]: the parent's process id and limit of open files, how the child
/// is confined ([`Confinement`](crate::Confinement)), the program, its arguments. Returns only if the program cannot be started, with [`EXIT_NO_PROGRAM`] or [`EXIT_NOT_RUNNABLE`]. Must be
/// called before anything starts a thread.
pub fn helper_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let parent = arguments.next().and_then(|parent| open_files::read(parent.to_str()?));
    let orders = arguments.next().and_then(read_orders);
    let (Some((parent, open_files)), Some(orders), Some(program)) = (parent, orders, arguments.next()) else {
        complain("this command is for the gateway's own use");
        return ExitCode::from(2);
    };
    let confined =
        give_up(parent, open_files).and_then(|()| orders.as_ref().map_or(Ok(()), confine::confine));
    if let Err(error) = confined {
        // Fail closed: a child with more than it should have does not start.
        complain(&format!("the process could not be confined: {error}"));
        return ExitCode::from(EXIT_NOT_RUNNABLE);
    }
    let error = Command::new(&program).args(arguments).exec();
    complain(&format!("cannot start {}: {error}", program.display()));
    ExitCode::from(if error.kind() == ErrorKind::NotFound { EXIT_NO_PROGRAM } else { EXIT_NOT_RUNNABLE })
}

/// Orders that are well written, or that there are none.
fn read_orders(told: OsString) -> Option<Option<Orders>> {
    let told = told.to_str()?;
    if told == NO_ORDERS { Some(None) } else { serde_json::from_str(told).ok().map(Some) }
}

fn give_up(parent: i32, open_files: Option<u64>) -> std::io::Result<()> {
    close_fds::set_fds_cloexec(3, &[]);
    open_files::put_back(open_files)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::set_no_new_privs(true)?;
        // The parent may have died before the signal was arranged.
        if getppid().is_none_or(|p| p.as_raw_nonzero().get() != parent) {
            return Err(std::io::Error::other("the gateway is gone"));
        }
    }
    Ok(())
}

fn complain(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "bartizan: {text}");
}
