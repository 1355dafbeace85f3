//! seccomp: which system calls (seccomp(2)), and Linux capabilities.

use std::{collections::BTreeMap, io};

use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::Network;

/// Calls that lead out of a sandbox, into other processes or into the kernel's rarely tried parts, and that no server needs. Those
/// that watch a folder are here because Landlock does not ask: they work wherever the user's rights reach.
const REFUSED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_inotify_init,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
];

/// Shared memory, semaphores and queues with names that are no files, those of the user's other programs among them. There are
/// kernels without any.
const SHARED: &[i64] = &[
    libc::SYS_mq_getsetattr,
    libc::SYS_mq_notify,
    libc::SYS_mq_open,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_unlink,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
];

/// Calls of kernels that are newer than these lists; the numbers are the same on every machine. Some change attributes of files by name.
const NEWER: std::ops::Range<i64> = 463..512;

/// Calls that change a file's mode and whose it is, by name wherever the user's rights reach: Landlock does not ask. Programs that copy or
/// unpack give up where they fail, so they are told that it was done. What a child makes is its user's alone without them.
const PRETENDED: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

/// Calls that change extended attributes, as little Landlock's business. Not every file system has such.
const WITHOUT_ATTRIBUTES: &[i64] = &[
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_setxattr,
];

/// Calls whose first argument is a process, which may be another of the same user: only with 0, the caller itself.
const OF_ITSELF: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

/// `CLONE_NEW…` (clone(2)): a name space of its own has capabilities in it.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];
/// Device calls that type into a terminal (ioctl_tty(2)).
const TYPING: [u64; 2] = [libc::TIOCSTI, 0x541C];
/// In the number of a system call: the x32 ABI, whose calls have numbers of their own.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Leaves this process the calls that a program needs.
pub fn restrict(network: Network) -> io::Result<()> {
    let here = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filters = [
        (libc::EPERM, refused()?),
        // The flags of `clone3` are behind a pointer, which no filter follows; callers fall back to `clone`.
        (libc::ENOSYS, whole(SHARED.iter().copied().chain(NEWER).chain([libc::SYS_clone3]))),
        (libc::EOPNOTSUPP, whole(WITHOUT_ATTRIBUTES.iter().copied())),
        (0, whole(PRETENDED.iter().copied())),
        (libc::EACCES, sockets(network)?),
    ];
    for (answer, rules) in filters {
        let answer = SeccompAction::Errno(answer.unsigned_abs());
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, answer, here).map_err(io::Error::other)?;
        let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

/// These calls, whatever their arguments; by the numbers of the x32 ABI too.
fn whole(calls: impl Iterator<Item = i64>) -> Rules {
    #[cfg(target_arch = "x86_64")]
    let calls = calls.flat_map(|call| [call, call | X32]);
    calls.map(|call| (call, Vec::new())).collect()
}

fn refused() -> io::Result<Rules> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let is_not = |argument: u8, value: u64| rule([(argument, Length::Dword, Op::Ne, value)]);
    for call in OF_ITSELF {
        rules.insert(*call, vec![is_not(0, 0)?]);
    }
    // The first argument says that the second is a process: PRIO_PROCESS, IOPRIO_WHO_PROCESS.
    rules.insert(libc::SYS_setpriority, vec![is_not(0, 0)?, is_not(1, 0)?]);
    rules.insert(libc::SYS_ioprio_set, vec![is_not(0, 1)?, is_not(1, 0)?]);
    // A lease on a file that may only be read keeps its owner waiting; F_NOTIFY watches.
    let control = |what: u64| rule([(1, Length::Dword, Op::Eq, what)]);
    rules.insert(libc::SYS_fcntl, vec![control(1024)?, control(1026)?]);
    let flags = |flag: &i32| {
        let flag = u64::from(flag.unsigned_abs());
        rule([(0, Length::Qword, Op::MaskedEq(flag), flag)])
    };
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(flags).collect::<io::Result<_>>()?);
    let types = |request: u64| rule([(1, Length::Dword, Op::Eq, request)]);
    rules.insert(libc::SYS_ioctl, TYPING.into_iter().map(types).collect::<io::Result<_>>()?);
    #[cfg(target_arch = "x86_64")]
    {
        // Nothing uses that ABI but to get around filters: of it, all that is named above, and what only it has.
        let others: Vec<i64> = rules.keys().map(|call| call | X32).collect();
        let own = (512..548).map(|call| call | X32);
        rules.extend(others.into_iter().chain(own).map(|call| (call, Vec::new())));
    }
    Ok(rules)
}

/// Sockets that may not be had: all of them, or those that are neither TCP nor UDP.
fn sockets(network: Network) -> io::Result<Rules> {
    let wanted = match network {
        Network::None => Vec::new(),
        Network::Open => not_of_the_internet()?,
    };
    // Pairs connect a child with what it starts. One for datagrams could send them to daemons in the file system, too.
    let datagrams = [libc::SOCK_DGRAM, libc::SOCK_RAW].map(kind);
    let mut pairs = vec![rule([(0, Length::Dword, Op::Ne, number(libc::AF_UNIX))])?];
    pairs.extend(datagrams.map(|kind| rule([kind])).into_iter().collect::<io::Result<Vec<_>>>()?);
    let mut rules = Rules::from([(libc::SYS_socket, wanted), (libc::SYS_socketpair, pairs)]);
    if network == Network::None {
        // Nothing is left that has an address.
        rules.extend([libc::SYS_bind, libc::SYS_connect, libc::SYS_listen].map(|call| (call, Vec::new())));
    }
    #[cfg(target_arch = "x86_64")]
    rules.extend([libc::SYS_socket, libc::SYS_socketpair].map(|call| (call | X32, Vec::new())));
    Ok(rules)
}

fn not_of_the_internet() -> io::Result<Vec<SeccompRule>> {
    let family = |op: Op, family: i32| (0, Length::Dword, op, number(family));
    let protocol = |protocol: i32| (2, Length::Dword, Op::Ne, number(protocol));
    // What interfaces there are is asked by netlink's first protocol, NETLINK_ROUTE, which is 0.
    let is_inet = family(Op::Ne, libc::AF_NETLINK);
    let mut rules = vec![
        rule([is_inet.clone(), family(Op::Ne, libc::AF_INET), family(Op::Ne, libc::AF_INET6)])?,
        rule([family(Op::Eq, libc::AF_NETLINK), protocol(0)])?,
        // The default of the type, TCP and UDP; others are parts of the kernel that few have tried.
        rule([is_inet.clone(), protocol(0), protocol(libc::IPPROTO_TCP), protocol(libc::IPPROTO_UDP)])?,
    ];
    for other in (0..16).filter(|kind| ![libc::SOCK_STREAM, libc::SOCK_DGRAM].contains(kind)) {
        rules.push(rule([is_inet.clone(), kind(other)])?);
    }
    Ok(rules)
}

/// That the second argument is this type of socket; its upper bits are flags.
fn kind(kind: i32) -> Condition {
    (1, Length::Dword, Op::MaskedEq(0xF), number(kind))
}

fn number(constant: i32) -> u64 {
    u64::from(constant.unsigned_abs())
}

/// Number of the argument, its length, how it compares, with what.
type Condition = (u8, Length, Op, u64);

/// A call with all of these.
fn rule<const N: usize>(conditions: [Condition; N]) -> io::Result<SeccompRule> {
    let condition = |(argument, length, op, value)| SeccompCondition::new(argument, length, op, value);
    let conditions: Result<Vec<_>, _> = conditions.into_iter().map(condition).collect();
    conditions.and_then(SeccompRule::new).map_err(io::Error::other)
}

/// Gives up what root may do beyond its own files, and what programs could give back.
pub fn drop_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all() {
        // Who is not root has none to give up; a kernel that does not know one has none of it.
        let _ = remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}
