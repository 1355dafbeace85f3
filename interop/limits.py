#!/usr/bin/env python3
"""Two gates that count together in one Redis: neither lets pass what the other has let pass already.

    interop/limits.py [--redis redis://127.0.0.1:6379] [--gate BIN] [--fixture BIN]

The rates of both gates are in Redis under digests, no names. Then Redis goes away (a relay in front of it closes), and
both gates refuse; it comes back, and they serve. Exit 0 if all of it holds, 1 otherwise.
"""

import argparse
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import harness

LIMITS = 'caller = {{ per_minute = 12, burst = 6 }}\nshared = "redis://127.0.0.1:{port}/{database}"'
DATABASE = 9
REST = 1.2


class Relay:
    """Stands between the gates and Redis, and can be cut."""

    def __init__(self, to):
        self.to = to
        self.port = harness.free_port()
        self.sockets = []
        self.listener = None
        self.open()

    def open(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.to)
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=copy, args=(source, sink), daemon=True).start()

    def cut(self):
        # A thread that waits in accept() keeps the socket alive unless it is shut down first.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sockets = []


def copy(source, sink):
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def redis(to, *words):
    """One command on the trial's own database; the raw answer."""
    with socket.create_connection(to, 5) as line:
        for command in (("SELECT", str(DATABASE)), words):
            line.sendall(f"*{len(command)}\r\n".encode())
            line.sendall(b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in command))
            answer = line.recv(65536)
        return answer.decode()


def rates(to):
    """The names of the gates' keys."""
    lines = redis(to, "KEYS", "{bartizan}:rate:*").split("\r\n")
    return [line for line in lines if line.startswith("{bartizan}:")]


def call(gate):
    """Calls a method by `gate`; the status and the error's data."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    request = urllib.request.Request(
        gate.endpoint("fixture"),
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {gate.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/list",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, {}, None
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["data"], error.headers["Retry-After"]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--redis", default="redis://127.0.0.1:6379")
    options.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan")
    options.add_argument("--fixture", default=harness.ROOT / "target/debug/fixture")
    options = options.parse_args()
    gate, fixture = harness.built(options.gate, "bartizan-cli"), harness.built(options.fixture, "bartizan-trials")
    place = urllib.parse.urlsplit(options.redis)
    to = (place.hostname, place.port or 6379)
    logs = harness.HOME / "logs" / "limits"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    relay = Relay(to)
    limits = "[limits]\n" + LIMITS.format(port=relay.port, database=DATABASE)
    # It may be somebody else's Redis: nothing is written beside what is there, and only our own keys are removed.
    if redis(to, "DBSIZE").split("\r\n")[-2] != ":0":
        raise SystemExit(f"database {DATABASE} of {options.redis} is in use; name a Redis where it is empty")
    try:
        with harness.fixture(fixture, logs / "fixture.log") as port:
            server = {"name": "fixture", "url": f"http://127.0.0.1:{port}/mcp", "era": "modern"}
            with (
                harness.gate(gate, [server], logs / "one.log", more=limits) as one,
                harness.gate(gate, [server], logs / "two.log", more=limits) as two,
            ):
                trial(one, two, relay, to)
    finally:
        for key in rates(to):
            redis(to, "DEL", key)
    print("limits: two gates count as one")
    return 0


def trial(one, two, relay, to):
    statuses = [call(gate)[0] for _ in range(6) for gate in (one, two)]
    assert statuses.count(200) == 6, f"twelve requests at two gates: {statuses}"
    assert set(statuses) == {200, 429}, statuses
    status, data, wait = call(two)
    assert (status, data["reason"], data["scope"]) == (429, "limits.rate", "caller"), data
    assert 1 <= int(wait) <= 5, wait
    keys = rates(to)
    assert [key[:-64] for key in keys] == ["{bartizan}:rate:caller:"], f"a digest and no name: {keys}"
    assert ":-1" not in redis(to, "PTTL", keys[0]), "keys expire"
    time.sleep(int(wait) + 0.2)
    assert [call(one)[0], call(two)[0]] == [200, 429], "one more, whichever gate it comes to"

    relay.cut()
    for gate in (one, two):
        status, data, wait = call(gate)
        assert (status, data["reason"]) == (503, "limits.unavailable"), data
        assert wait is not None
    relay.open()
    time.sleep(5 + REST)
    assert call(one)[0] == 200, "it counts again"


if __name__ == "__main__":
    raise SystemExit(main())
