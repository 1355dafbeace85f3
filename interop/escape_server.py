"""An MCP server over stdio with one tool, `escape`: tries what leads out of a sandbox, and says what came of each try.

It calls the system directly, as an attacker would who runs code of his own in a server. Nothing that it tries does harm where
it succeeds.
"""

import ctypes
import errno
import json
import os
import platform
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "x86_64": {
        "add_key": 248, "bpf": 321, "chroot": 161, "clone3": 435, "fsopen": 430, "init_module": 175, "io_uring_setup": 425,
        "kcmp": 312, "kexec_load": 246, "keyctl": 250, "mount": 165, "move_mount": 429, "name_to_handle_at": 303,
        "open_by_handle_at": 304, "open_tree": 428, "perf_event_open": 298, "personality": 135, "pidfd_getfd": 438,
        "pivot_root": 155, "process_vm_readv": 310, "ptrace": 101, "reboot": 169, "request_key": 249, "setns": 308,
        "swapon": 167, "syslog": 103, "umount2": 166, "unshare": 272, "userfaultfd": 323, "iopl": 172, "modify_ldt": 154,
        "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "mq_unlink": 241, "prlimit64": 302, "sched_setaffinity": 203,
        "setpriority": 141, "ioprio_set": 251, "inotify_init1": 294, "process_mrelease": 448, "setxattrat": 463, "file_setattr": 469,
    },
    "aarch64": {
        "add_key": 217, "bpf": 280, "chroot": 51, "clone3": 435, "fsopen": 430, "init_module": 105, "io_uring_setup": 425,
        "kcmp": 272, "kexec_load": 104, "keyctl": 219, "mount": 40, "move_mount": 429, "name_to_handle_at": 264,
        "open_by_handle_at": 265, "open_tree": 428, "perf_event_open": 241, "personality": 92, "pidfd_getfd": 438,
        "pivot_root": 41, "process_vm_readv": 270, "ptrace": 117, "reboot": 142, "request_key": 218, "setns": 268,
        "swapon": 224, "syslog": 116, "umount2": 39, "unshare": 97, "userfaultfd": 282,
        "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180, "mq_unlink": 181, "prlimit64": 261, "sched_setaffinity": 122,
        "setpriority": 140, "ioprio_set": 30, "inotify_init1": 26, "process_mrelease": 448, "setxattrat": 463, "file_setattr": 469,
    },
}.get(platform.machine())
if NUMBERS is None:
    raise SystemExit(f"the numbers of system calls on {platform.machine()} are not known here")
DAEMON = os.path.join(os.environ["CANARY"], "daemon")
SECRET = os.path.join(os.environ["CANARY"], "secret")
NEW_USER = 0x10000000
PARENT = os.getppid()
ZEROES = ctypes.create_string_buffer(256)
TEXT = ctypes.create_string_buffer(b"/nowhere/at/all")
CALLS = {
    # What asks for nothing real: where a call is open, the kernel finds fault with what it is given, not with who asks.
    "unshare": (NEW_USER,),
    "setns": (-1, 0),
    "ptrace": (16, PARENT, 0, 0),
    "process_vm_readv": (PARENT, 0, 0, 0, 0, 0),
    "kcmp": (PARENT, PARENT, 0, 0, 0),
    "pidfd_getfd": (-1, 0, 0),
    "mount": (TEXT, TEXT, TEXT, 0, 0),
    "umount2": (TEXT, 0),
    "fsopen": (TEXT, 0),
    "open_tree": (-100, TEXT, 0),
    "move_mount": (-1, TEXT, -1, TEXT, 0),
    "pivot_root": (TEXT, TEXT),
    "chroot": (TEXT,),
    "name_to_handle_at": (-100, TEXT, ZEROES, ZEROES, 0),
    "open_by_handle_at": (-1, ZEROES, 0),
    "bpf": (0, ZEROES, 0),
    "perf_event_open": (ZEROES, 0, -1, -1, 0),
    "userfaultfd": (1,),
    "io_uring_setup": (1, ZEROES),
    "keyctl": (0, -3, 0),
    "add_key": (TEXT, TEXT, 0, 0, -3),
    "request_key": (TEXT, TEXT, 0, -3),
    "kexec_load": (0, 0, 0, 0),
    "init_module": (0, 0, TEXT),
    "reboot": (0, 0, 0, 0),
    "swapon": (TEXT, 0),
    "syslog": (10, 0, 0),
    "personality": (0xFFFFFFFF,),
    "clone3": (ZEROES, 64),
    "shmget": (0, 4096, 0o600),
    "semget": (0, 1, 0o600),
    "msgget": (0, 0o600),
    "mq_open": (TEXT, 0, 0, 0),
    "mq_unlink": (TEXT,),
    "prlimit64": (PARENT, 7, 0, ZEROES),
    "sched_setaffinity": (PARENT, 0, ZEROES),
    "setpriority": (0, PARENT, 0),
    "ioprio_set": (1, PARENT, 0),
    "inotify_init1": (0,),
    "process_mrelease": (-1, 0),
    "setxattrat": (-1, TEXT, 0, TEXT, 0, 0),
    "file_setattr": (-1, TEXT, ZEROES, 24, 0),
    "iopl": (0,),
    "modify_ldt": (0, ZEROES, 0),
}


def refusal(call, *arguments):
    """Why the system would not, by name; nothing if it would."""
    ctypes.set_errno(0)
    # A process that is asked to clone itself must not go on twice.
    if LIBC.syscall(call, *arguments) >= 0:
        return None
    return errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))


def attempt(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return None


def tries():
    found = {f"call {name}": refusal(NUMBERS[name], *CALLS[name]) for name in CALLS if name in NUMBERS}
    if platform.machine() == "x86_64":
        # The same by the numbers of the x32 ABI.
        found |= {f"x32 {name}": refusal(NUMBERS[name] | 0x40000000, *CALLS[name]) for name in ("unshare", "keyctl", "bpf", "clone3", "shmget", "prlimit64")}
    found["call clone with a user name space"] = refusal(*clone(NEW_USER | 17))
    for name, (family, kind, protocol) in {
        "socket unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        "socket tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
        "socket tcp 6": (socket.AF_INET6, socket.SOCK_STREAM, 0),
        "socket udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
        "socket raw": (socket.AF_INET, socket.SOCK_RAW, 1),
        "socket packet": (socket.AF_PACKET, socket.SOCK_RAW, 0),
        "socket netlink audit": (socket.AF_NETLINK, socket.SOCK_RAW, 9),
        "socket alg": (38, socket.SOCK_SEQPACKET, 0),
        "socket vsock": (40, socket.SOCK_STREAM, 0),
        "socket bluetooth": (31, socket.SOCK_RAW, 0),
        "socket sctp": (socket.AF_INET, socket.SOCK_STREAM, 132),
        "socket mptcp": (socket.AF_INET, socket.SOCK_STREAM, 262),
        "socket icmp": (socket.AF_INET, socket.SOCK_DGRAM, 1),
    }.items():
        found[name] = attempt(lambda: socket.socket(family, kind, protocol).close())
    found["datagram to a daemon"] = attempt(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", DAEMON))
    found["mode of a file of the user"] = attempt(lambda: expose(SECRET))
    found["attribute of a file of the user"] = attempt(lambda: os.setxattr(SECRET, "user.escape", b"1"))
    found["memory of the gate"] = attempt(lambda: open(f"/proc/{PARENT}/mem", "rb").close())
    found["signal to the gate"] = attempt(lambda: os.kill(PARENT, 0))
    found["device of the disk"] = attempt(lambda: os.listdir("/dev"))
    found["file of the user"] = attempt(lambda: os.listdir(os.environ["CANARY"]))
    return found


def expose(path):
    """Lets everybody read a file; what the system says of it may not be true."""
    os.chmod(path, 0o644)
    if os.stat(path).st_mode & 0o777 != 0o644:
        raise PermissionError(errno.EPERM, "nothing was done")


def clone(flags):
    number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    return number, flags, 0, 0, 0, 0


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        result = {
            "initialize": lambda: {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "escape", "version": "1"},
            },
            "tools/list": lambda: {"tools": [{"name": "escape", "inputSchema": {"type": "object"}}]},
            "tools/call": lambda: {"content": [{"type": "text", "text": json.dumps(tries())}]},
        }.get(message["method"])
        answer = {"result": result()} if result else {"error": {"code": -32601, "message": "unknown method"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)


main()
