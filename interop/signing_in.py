"""Clients that sign in by themselves: what each needs, and what it must have seen.

Each function takes a `Journey` and says what went wrong, or nothing. Nothing is pasted into any client: it starts from the URL.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import pty
import re
import select
import subprocess
import threading
import time

import harness
from person import Chromium, Person

INSPECTOR = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
CLAUDE = f"@anthropic-ai/claude-code-linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}/claude"
# What Claude Code publishes about itself at its `client_id`, a host that not every machine of a trial can reach.
CLAUDE_ID = "https://claude.ai/oauth/claude-code-client-metadata"
CLAUDE_DOCUMENT = {
    "client_id": CLAUDE_ID,
    "client_name": "Claude Code",
    "client_uri": "https://claude.ai",
    "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}
# One client, seconds.
LIMIT = 90


@dataclasses.dataclass
class Journey:
    """From a client to a tool: `port` is where person.mjs listens, if Chromium is wanted; `login` prints sign-in links."""

    node: pathlib.Path
    scratch: pathlib.Path
    url: str
    tool: str
    arguments: dict
    log: pathlib.Path
    port: int | None = None
    login: list | None = None

    def environment(self, **more):
        person = {"PERSON": self.port} if self.port else {}
        login = {"LOGIN": json.dumps(self.login)} if self.login else {}
        return harness.environment(self.scratch, **person, **login, **more)

    def run(self, command, **more):
        """Runs a client to its end; what it wrote is in the log."""
        command = [str(part) for part in command]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, env=self.environment(**more), cwd=self.scratch
        )
        with open(self.log, "a") as log:
            log.write(f"$ {command} -> {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def person(self):
        if self.port:
            return Chromium(self.port, self.login)
        return Person(self.link if self.login else None)

    def link(self):
        return subprocess.run(self.login, check=True, capture_output=True, text=True).stdout.strip()


def python_client(journey, mode):
    """The official Python client; what it saw."""
    return scripted(journey, [harness.PYTHON, harness.HERE / "pyoauth.py", journey.url, mode])


def typescript_client(journey, mode):
    """The official TypeScript client; what it saw."""
    return scripted(journey, [journey.node, harness.HOME / "tsoauth.mjs", journey.url, mode])


def scripted(journey, command):
    done = journey.run([*command, journey.tool, json.dumps(journey.arguments)])
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-600:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def inspector(journey, mode):
    """The Inspector's command line, which prints the address it would open; the result."""
    command = [journey.node, harness.MODULES / INSPECTOR, "--cli", "--format", "json", journey.url, "--transport", "http", "--protocol-era", mode]
    command += ["--callback-url", f"http://127.0.0.1:{harness.free_port()}/oauth/callback"]
    command += ["--method", "tools/call", "--tool-name", journey.tool, "--tool-args-json", json.dumps(journey.arguments)]
    # Of its own: it keeps tokens, and would not sign in twice.
    home = journey.scratch / f"inspector-{mode}"
    home.mkdir()
    # Without a terminal it asks nobody to sign in, unless it is told that it may open a browser; there is none in this PATH.
    told = {"MCP_AUTO_OPEN_ENABLED": "true", "MCP_INSPECTOR_SECRET_STORE": "memory", "HOME": home, "PATH": "/nonexistent"}
    pipe, env = subprocess.PIPE, journey.environment(**told)
    command = [str(part) for part in command]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=env, cwd=journey.scratch, start_new_session=True)
    timer = threading.Timer(LIMIT, child.kill)
    timer.start()
    person = threading.Thread(target=open_addresses, args=(child.stderr, journey), daemon=True)
    person.start()
    try:
        said = child.stdout.read().decode(errors="replace")
        code = child.wait()
    finally:
        timer.cancel()
        harness.end(child)
    if code:
        raise RuntimeError(f"exit {code}: {said[-300:]}; see {journey.log}")
    return said


def mcp_remote(journey, mode):
    """mcp-remote prints the address it would open; the answer to a call. `mode` is `legacy`, or `auto`: it then speaks the newest
    revision that the server does, whatever its own client speaks."""
    # Of its own: it keeps tokens.
    folder = journey.scratch / f"mcp-remote-{mode}"
    env = harness.environment(journey.scratch, MCP_REMOTE_CONFIG_DIR=folder, PATH="/nonexistent")
    command = [journey.node, harness.MODULES / "mcp-remote/dist/proxy.js", journey.url, str(harness.free_port()), "--allow-http"]
    command += ["--protocol", mode]
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "trial", "version": "1"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": journey.tool, "arguments": journey.arguments}},
    ]
    pipe = subprocess.PIPE
    child = subprocess.Popen([str(c) for c in command], stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True)
    reader = threading.Thread(target=open_addresses, args=(child.stderr, journey), daemon=True)
    reader.start()
    try:
        return harness.converse(child, lines, wanted=2, seconds=LIMIT)
    finally:
        harness.end(child)
        # What it wrote is in the log by then.
        reader.join(10)


def open_addresses(lines, journey):
    """Opens each address that a client sends its person to."""
    person = journey.person()
    with open(journey.log, "ab") as sink:
        for line in lines:
            sink.write(line)
            sink.flush()
            address = line.removeprefix(b"Please navigate to: ")
            if address.startswith(b"http"):
                # What else the client writes is not kept waiting by a page that does not come: some close their port at once.
                threading.Thread(target=travel, args=(person, address.decode().strip()), daemon=True).start()


def travel(person, address):
    """Goes there; a page that never comes is the client's to miss."""
    with contextlib.suppress(OSError):
        person.travel(address)


class Claude:
    """Claude Code's command line in a home of its own. No model is asked anything: it has no account."""

    def __init__(self, journey):
        self.journey = journey
        self.home = journey.scratch / "claude"
        self.home.mkdir(exist_ok=True)
        quiet = {"DISABLE_TELEMETRY": 1, "DISABLE_AUTOUPDATER": 1, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": 1, "DISABLE_ERROR_REPORTING": 1}
        self.env = {"HOME": self.home, **quiet}

    def mcp(self, *arguments):
        """What `claude mcp …` prints."""
        done = self.journey.run([harness.MODULES / CLAUDE, "mcp", *arguments], **self.env)
        return done.stdout + done.stderr

    def login(self, name):
        """`claude mcp login`, at a terminal; opens the address it prints. What it printed."""
        leader, follower = pty.openpty()
        command = [str(harness.MODULES / CLAUDE), "mcp", "login", name, "--no-browser"]
        env = self.journey.environment(TERM="dumb", COLUMNS=4000, **self.env)
        child = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=self.journey.scratch, start_new_session=True
        )
        os.close(follower)
        said, opened, deadline = b"", False, time.monotonic() + LIMIT
        try:
            while time.monotonic() < deadline:
                if select.select([leader], [], [], 1)[0]:
                    try:
                        said += os.read(leader, 65536)
                    except OSError:
                        # Nobody is at the other end any more.
                        break
                elif child.poll() is not None:
                    break
                address = re.search(rb"https?://[^\s\x00-\x1f]+/(?:oauth/authorize|auth)\?[^\s\x00-\x1f]+(?=[\s\x00-\x1f])", said)
                if address and not opened:
                    opened = True
                    self.journey.person().travel(address[0].decode())
        finally:
            harness.end(child)
            os.close(leader)
            with open(self.journey.log, "ab") as log:
                log.write(said)
        return said.decode(errors="replace")
