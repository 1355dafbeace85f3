//! seccomp: which system calls (seccomp(2)), and Linux capabilities.

use std::{collections::BTreeMap, io};

use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::Network;

/// Calls that lead out of a sandbox, into other processes or into the kernel's rarely tried parts, and that no server needs.
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
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
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
        // Its flags are behind a pointer, which no filter follows; callers fall back to `clone`.
        (libc::ENOSYS, Rules::from([(libc::SYS_clone3, Vec::new())])),
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

fn refused() -> io::Result<Rules> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
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

/// Sockets that may not be had: all of them, or those that are not of the internet. Pairs connect a child with what it starts.
fn sockets(network: Network) -> io::Result<Rules> {
    let family = |op: Op, family: i32| (0, Length::Dword, op, u64::from(family.unsigned_abs()));
    let wanted = match network {
        Network::None => Vec::new(),
        // What interfaces there are is asked by netlink's first protocol, NETLINK_ROUTE, which is 0.
        Network::Open => vec![
            rule([
                family(Op::Ne, libc::AF_INET),
                family(Op::Ne, libc::AF_INET6),
                family(Op::Ne, libc::AF_NETLINK),
            ])?,
            rule([family(Op::Eq, libc::AF_NETLINK), (2, Length::Dword, Op::Ne, 0)])?,
            raw([family(Op::Ne, libc::AF_NETLINK)])?,
        ],
    };
    let pairs = vec![rule([family(Op::Ne, libc::AF_UNIX)])?];
    let mut rules = Rules::from([(libc::SYS_socket, wanted), (libc::SYS_socketpair, pairs)]);
    #[cfg(target_arch = "x86_64")]
    rules.extend([libc::SYS_socket, libc::SYS_socketpair].map(|call| (call | X32, Vec::new())));
    Ok(rules)
}

/// Sockets that write their own headers; the type's upper bits are flags.
fn raw(more: [(u8, Length, Op, u64); 1]) -> io::Result<SeccompRule> {
    let [more] = more;
    rule([more, (1, Length::Dword, Op::MaskedEq(0xF), u64::from(libc::SOCK_RAW.unsigned_abs()))])
}

/// A call with all of these: number of the argument, its length, how it compares, with what.
fn rule<const N: usize>(conditions: [(u8, Length, Op, u64); N]) -> io::Result<SeccompRule> {
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
