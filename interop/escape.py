#!/usr/bin/env python3
"""A server that wants out of its sandbox, by whatever the system offers: nothing of it may succeed.

    interop/escape.py [--gate BIN]

`bartizan wrap` guards interop/escape_server.py three times: without a sandbox, where some of what it tries must succeed, or the
trial shows nothing; in the tightest; and in one with a network. Exit 0 if all of it holds, 1 otherwise.
"""

import argparse
import json
import pathlib
import platform
import socket
import subprocess
import sys
import tempfile

import harness

# What any process may do, and the gate's user with it.
FREE = ["socket tcp", "socket udp", "socket unix", "signal to the gate", "file of the user", "datagram to a daemon", "mode of a file of the user"]
FREE += ["call shmget", "call semget", "call msgget", "call prlimit64", "call inotify_init1"]
# What a network is for.
NETWORK = ["socket tcp", "socket tcp 6", "socket udp"]
# What some machines have none of, sandbox or not.
OPTIONAL = ["socket tcp 6"]
# Whose system calls interop/escape_server.py knows by number.
MACHINES = ["x86_64", "aarch64"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan")
    options = parser.parse_args()
    if platform.machine() not in MACHINES:
        raise SystemExit(f"this trial knows the system calls of {' and '.join(MACHINES)}, and this machine is {platform.machine()}")
    harness.set_up()
    gate = harness.built(options.gate, "bartizan-cli")
    problems = []
    with tempfile.TemporaryDirectory(prefix="bartizan-escape-") as scratch:
        scratch = pathlib.Path(scratch)
        canary = scratch / "canary"
        canary.mkdir()
        (canary / "secret").write_text("secret")
        (canary / "secret").chmod(0o600)
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        daemon.bind(str(canary / "daemon"))
        free = attempts(gate, scratch, canary)
        (canary / "secret").chmod(0o600)
        problems += [f"without a sandbox: {name}: {free[name]}" for name in FREE if free[name]]
        absent = [name for name in OPTIONAL if free[name]]
        for name in absent:
            print(f"{name}: skipped, for this machine has none even without a sandbox ({free[name]})")
        network = [name for name in NETWORK if name not in absent]
        for flags, allowed in ((["--sandbox"], []), (["--network", "open"], network)):
            found = attempts(gate, scratch, canary, *flags)
            where = " ".join(flags)
            problems += [f"{where}: {name} succeeded" for name, why in found.items() if not why and name not in allowed]
            problems += [f"{where}: {name} did not: {found[name]}" for name in allowed if found[name]]
            # Refused as such, and not for want of something.
            wrong = {name: why for name, why in found.items() if name.startswith(("call ", "x32 ")) and why not in ("EPERM", "ENOSYS", None)}
            problems += [f"{where}: {name} got as far as {why}" for name, why in wrong.items()]
            print(f"{where}: {sum(1 for why in found.values() if why)} of {len(found)} tries were refused")
    for problem in problems:
        print(f"  FAIL {problem}")
    return 1 if problems else 0


def attempts(gate, scratch, canary, *flags):
    """What came of each try, by name: why not, or nothing."""
    server = harness.HERE / "escape_server.py"
    read = ["--read", str(server)] if flags else []
    command = [gate, "wrap", "--env", "CANARY", *flags, *read, "--", sys.executable, server]
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "escape", "version": "1"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "escape", "arguments": {}}},
    ]
    log = scratch / "log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with harness.process(command, log, cwd=scratch, env=harness.environment(scratch, CANARY=canary), **pipes) as child:
        answer = harness.converse(child, lines, 2, 60)
    if not answer or "result" not in answer:
        raise SystemExit(f"{' '.join(flags) or 'no sandbox'}: {answer}; its log:\n{log.read_text(errors='replace')[-2000:]}")
    return json.loads(answer["result"]["content"][0]["text"])


sys.exit(main())
