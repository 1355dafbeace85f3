//! A cell: a process that reads its standard input, writes its standard output, and can do nothing else.
//!
//! It is for code that reads what strangers made. Our own binary starts again through [`Launch`](crate::Launch) with an
//! empty environment, calls [`enter`] before anything else, and only then reads. Should the reading be led astray, there is
//! no file, no address, no process and no clock to reach: what is left is a wrong answer, which whoever asked must not
//! believe unseen, or death.

use std::{io, time::Duration};

use rustix::process::{Resource, Rlimit, setrlimit};

/// What a cell may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellLimits {
    /// Bytes of address space (`RLIMIT_AS`), the program's own included.
    pub memory: u64,
    /// Processor time of its whole life (`RLIMIT_CPU`), in whole seconds.
    pub processor: Duration,
}

/// What keeps a process in its cell. The kernel decides what it has to offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Landlock: no file, no TCP port, no abstract socket, no signal to others.
    pub files: bool,
    /// seccomp: the system calls that reading and answering take, and no others.
    pub calls: bool,
}

impl Cell {
    /// As one byte, for the first word of a process to whoever started it.
    pub const fn to_byte(self) -> u8 {
        (self.files as u8) | ((self.calls as u8) << 1)
    }

    /// From [`Cell::to_byte`]; none for any other byte.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0..=3 => Some(Self { files: byte & 1 != 0, calls: byte & 2 != 0 }),
            _ => None,
        }
    }
}

/// Locks this process in, for good. Must be called before anything starts a thread, and after everything was opened.
///
/// Limits are always set: memory, processor time, no new files, no new processes, nothing written to disk, no core file.
/// Landlock and seccomp are set where the kernel has them, and the answer says which.
///
/// # Errors
/// What the system says, where a limit cannot be set; the process must end then.
pub fn enter(limits: CellLimits) -> io::Result<Cell> {
    let none = |resource| setrlimit(resource, Rlimit { current: Some(0), maximum: Some(0) });
    let at_most =
        |resource, value| setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    at_most(Resource::As, limits.memory)?;
    at_most(Resource::Cpu, limits.processor.as_secs().max(1))?;
    none(Resource::Core)?;
    none(Resource::Fsize)?;
    none(Resource::Nproc)?;
    #[cfg(target_os = "linux")]
    {
        rustix::thread::set_no_new_privs(true)?;
        let files = linux::close_files();
        // Only now, for Landlock is told by a file descriptor.
        none(Resource::Nofile)?;
        Ok(Cell { files, calls: linux::close_calls() })
    }
    #[cfg(not(target_os = "linux"))]
    {
        none(Resource::Nofile)?;
        Ok(Cell::default())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
    };
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    /// Everything that Landlock can forbid, with no exception; whether it is in force.
    pub fn close_files() -> bool {
        let restrict = || -> Result<RulesetStatus, RulesetError> {
            let rules = Ruleset::default()
                .handle_access(AccessFs::from_all(ABI::V6))?
                .handle_access(AccessNet::from_all(ABI::V6))?
                .scope(Scope::from_all(ABI::V6))?;
            Ok(rules.create()?.restrict_self()?.ruleset)
        };
        // An older kernel forbids less of it, files always.
        restrict().is_ok_and(|status| status != RulesetStatus::NotEnforced)
    }

    /// What an allocator, a mutex, a panic and an end take, besides reading and writing what is open.
    const ALLOWED: [i64; 23] = [
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_sigaltstack,
        libc::SYS_write,
        libc::SYS_writev,
    ];

    /// Memory may be had, but none that can be executed.
    const WITHOUT_EXECUTION: [i64; 2] = [libc::SYS_mmap, libc::SYS_mprotect];
    /// `PROT_EXEC`, in the third argument of both.
    const EXECUTE: u64 = 4;

    /// Every other system call ends the process; whether that is in force.
    pub fn close_calls() -> bool {
        filter().is_some_and(|program| seccompiler::apply_filter(&program).is_ok())
    }

    fn filter() -> Option<BpfProgram> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            ALLOWED.into_iter().map(|call| (call, Vec::new())).collect();
        for call in WITHOUT_EXECUTION {
            let no_execution =
                SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(EXECUTE), 0).ok()?;
            rules.insert(call, vec![SeccompRule::new(vec![no_execution]).ok()?]);
        }
        // An abort signals its own process; other processes are nobody's to signal, whatever Landlock can forbid here.
        let itself = u64::from(std::process::id());
        let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, itself).ok()?;
        rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own]).ok()?]);
        let here = std::env::consts::ARCH.try_into().ok()?;
        let filter =
            SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, here).ok()?;
        filter.try_into().ok()
    }
}
