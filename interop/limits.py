#!/usr/bin/env python3
"""Two gates that count together in one Redis: neither lets pass what the other has let pass already.

    interop/limits.py [--redis redis://127.0.0.1:6379] [--gate BIN] [--fixture BIN]

The rates of both gates are in Redis under digests, no names. Then Redis goes away (a relay in front of it closes), and
both gates refuse; it comes back, and they serve. What is under way at once is counted together too, and so are listening
streams and legacy sessions: a place is free when its request, stream or session ends, and when the gate that had it died.
Exit 0 if all of it holds, 1 otherwise.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import harness

LIMITS = 'caller = {{ per_minute = 12, burst = 6 }}\nshared = "redis://127.0.0.1:{port}/{database}"'
PLACES = 'server = {{ concurrent = 2 }}\nshared = "redis://127.0.0.1:{port}/{database}"'
GOING_ON = 'streams = 1\nsessions = 2\nshared = "redis://127.0.0.1:{port}/{database}"'
DATABASE = 9
# How long a place counts that nobody renews, and how often it is renewed, seconds.
LEASE, RENEWED = 30, 10
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


def keys_of(to, what="*"):
    """The names of the gates' keys."""
    lines = redis(to, "KEYS", f"{{bartizan}}:{what}:*").split("\r\n")
    return [line for line in lines if line.startswith("{bartizan}:")]


def under_way(to, scope="server"):
    """How many places are taken at the server, by streams or by sessions, by all gates."""
    return sum(int(redis(to, "ZCARD", key).split(":")[-1]) for key in keys_of(to, f"held:{scope}"))


def until(holds, seconds, what):
    """Waits until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.1)


def slow(gate, seconds):
    """A call that takes so long, in a thread of its own; what it answered comes into a list."""
    answers = []

    def ask():
        try:
            answers.append(call(gate, "slow_compute", {"seconds": seconds}, 2 * seconds)[0])
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, answers


def call(gate, tool=None, arguments=None, seconds=10):
    """Calls a tool by `gate`, or asks for the list of them; the status and the error's data."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    method, params = ("tools/call", {"name": tool, "arguments": arguments}) if tool else ("tools/list", {})
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta} | params}
    request = urllib.request.Request(
        gate.endpoint("fixture"),
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {gate.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": method,
        }
        | ({"Mcp-Name": tool} if tool else {}),
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            # It is under way until all of it is there.
            response.read()
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
    limits, places_only, going_on = (
        "[limits]\n" + text.format(port=relay.port, database=DATABASE) for text in (LIMITS, PLACES, GOING_ON)
    )
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
            # What was counted up to another limit.
            for key in keys_of(to):
                redis(to, "DEL", key)
            with (
                harness.gate(gate, [server], logs / "three.log", more=places_only) as one,
                harness.gate(gate, [server], logs / "four.log", more=places_only) as two,
            ):
                places(one, two, to)
            both_eras = {key: value for key, value in server.items() if key != "era"}
            with (
                harness.gate(gate, [both_eras], logs / "five.log", more=going_on) as one,
                harness.gate(gate, [both_eras], logs / "six.log", more=going_on) as two,
            ):
                streams_and_sessions(one, two, relay, to)
    finally:
        for key in keys_of(to):
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
    keys = keys_of(to, "rate")
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


def places(one, two, to):
    calls = [slow(gate, 4) for gate in (one, two)]
    until(lambda: under_way(to) == 2, 10, "both calls are under way")
    for gate in (one, two):
        status, data, wait = call(gate)
        assert (status, data["reason"], data["scope"]) == (429, "limits.concurrent", "server"), data
        assert int(wait) >= 1, wait
    names = keys_of(to, "held")
    scopes = sorted(name[:-64] for name in names)
    assert scopes == ["{bartizan}:held:caller:", "{bartizan}:held:server:"], f"digests and no names: {names}"
    for thread, answers in calls:
        thread.join(20)
        assert answers == [200], answers
    until(lambda: under_way(to) == 0, 10, "places are given back")
    assert [call(one)[0], call(two)[0]] == [200, 200]

    # A gate that dies gives nothing back, and renews nothing; the other goes on with what it has.
    until(lambda: under_way(to) == 0, 10, "places are given back")
    long = slow(one, LEASE + 3 * RENEWED)
    slow(two, 10 * LEASE)
    until(lambda: under_way(to) == 2, 10, "both calls are under way")
    os.killpg(two.child.pid, signal.SIGKILL)
    assert call(one)[0] == 429, "the place of the gate that died is taken for a while"
    until(lambda: call(one)[0] == 200, LEASE + RENEWED, "the place of the gate that died becomes free")
    until(lambda: under_way(to) == 1, 10, "what goes on is renewed")
    long[0].join(2 * LEASE)
    assert long[1] == [200], long[1]
    until(lambda: under_way(to) == 0, 10, "and given back")


def send(gate, body=None, method="POST", **more):
    """A request whose answer goes on: the response, or the error's status and reason, a stream's or a session's."""
    headers = {
        "Authorization": f"Bearer {gate.token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    data = json.dumps(body).encode() if body else None
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    request = urllib.request.Request(gate.endpoint("fixture"), data, headers, method=method)
    try:
        return urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = json.load(error)["error"]["data"]
        return error.code, answer["reason"], answer.get("scope")


def listen(gate):
    """Listens as the newest revision does."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    return send(gate, body, MCP_Protocol_Version="2026-07-28", Mcp_Method="subscriptions/listen")


def session(gate):
    """Opens a session as the revisions before it do: its id, or what was refused."""
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "limits", "version": "1"}}
    answer = send(gate, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client})
    if isinstance(answer, tuple):
        return answer
    with answer:
        answer.read()
        return answer.headers["Mcp-Session-Id"]


def streams_and_sessions(one, two, relay, to):
    first = listen(one)
    assert not isinstance(first, tuple), first
    until(lambda: under_way(to, "stream") == 1, 10, "a stream is counted")
    for gate in (one, two):
        assert listen(gate) == (429, "limits.concurrent", "stream"), "one stream at both gates"

    sessions = [session(gate) for gate in (one, two)]
    assert all(isinstance(one, str) for one in sessions), sessions
    for gate in (one, two):
        assert session(gate) == (429, "limits.concurrent", "session"), "two sessions at both gates"
    scopes = {name[:-64].split(":")[2] for name in keys_of(to, "held")}
    assert {"stream", "session"} <= scopes and all(len(name.split(":")[3]) == 64 for name in keys_of(to, "held")), scopes

    # What has begun goes on without Redis; nothing else begins.
    relay.cut()
    assert listen(two)[:2] == (503, "limits.unavailable")
    assert session(two)[:2] == (503, "limits.unavailable")
    assert first.fp is not None and not first.closed
    relay.open()
    time.sleep(5 + REST)

    first.close()
    until(lambda: under_way(to, "stream") == 0, 2 * LEASE, "the stream's place is given back, or runs out")
    second = listen(two)
    assert not isinstance(second, tuple), second
    second.close()
    with send(one, method="DELETE", Mcp_Session_Id=sessions[0], MCP_Protocol_Version="2025-11-25") as ended:
        assert ended.status == 204, ended.status
    until(lambda: isinstance(session(two), str), 2 * LEASE, "the session's place is given back, or runs out")


if __name__ == "__main__":
    raise SystemExit(main())
