#!/usr/bin/env python3
"""Real clients sign in at a real identity provider and come through the gate.

    interop/identity.py [--gate BIN]

The provider is `oidc-provider`; the clients are the official Python client and mcp-remote, in front of mcp-server-time and
server-everything. The gate is, one after another, a resource server for the provider's tokens, the authorization server in
front of the provider, and the one of a laptop. Each client starts from nothing but the URL. Exit 0 if all is as it should be,
1 otherwise.
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request

import harness
from person import Person

NOON = json.dumps({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"})
LIMIT = 120
# Where the authorization suite waits for its code.
SUITE_PORT = 3999


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan", help="the gate's binary")
    options = parser.parse_args()
    binary = harness.built(options.gate, "bartizan-cli")
    node = harness.set_up()
    for script in ("oidc-provider.mjs",):
        # Node looks for modules next to the file that imports them.
        shutil.copy(harness.HERE / script, harness.HOME)
    logs = harness.HOME / "logs" / "identity"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="bartizan-identity-"))
    problems = []
    try:
        for scene in (resource_server, facade, local):
            print(f"-- {scene.__name__}")
            place = scratch / scene.__name__
            place.mkdir()
            scene(Scene(binary, node, place, logs, problems))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for problem in problems:
        print(f"FAILED {problem}")
    print(f"{len(problems)} problems; logs in {logs}")
    return 1 if problems else 0


class Scene:
    """What every scene needs."""

    def __init__(self, binary, node, scratch, logs, problems):
        self.binary, self.node, self.scratch, self.logs, self.problems = binary, node, scratch, logs, problems
        self.port = harness.free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.endpoints = {name: f"{self.origin}/mcp/{name}" for name in ("time", "everything")}
        self.config = scratch / "bartizan.toml"

    def log(self, what):
        return self.logs / f"{self.scratch.name}-{what}.log"

    @contextlib.contextmanager
    def provider(self, clients=()):
        """The identity provider; yields its issuer."""
        port = harness.free_port()
        resources = ",".join(self.endpoints.values())
        env = harness.environment(self.scratch, PORT=port, RESOURCES=resources, CLIENTS=json.dumps(clients), USER="alice")
        log = self.log("provider")
        with harness.process([self.node, harness.HOME / "oidc-provider.mjs"], log, env=env, cwd=harness.HOME) as provider:
            harness.wait_for(lambda: harness.connects(port), provider, log)
            yield f"http://127.0.0.1:{port}"

    @contextlib.contextmanager
    def gate(self, identity):
        """The gate with this `[identity]` and what follows it."""
        time = json.dumps([str(harness.HOME / "venv/bin/mcp-server-time")])
        everything = json.dumps([str(self.node), str(harness.MODULES / "@modelcontextprotocol/server-everything/dist/index.js")])
        server = f'[server]\nlisten = "127.0.0.1:{self.port}"\nadmin_listen = "127.0.0.1:{harness.free_port()}"\n'
        servers = "".join(
            f'[[servers]]\nname = "{name}"\ncommand = {command}\ntrust_on_first_use = true\n'
            for name, command in (("time", time), ("everything", everything))
        )
        self.config.write_text(server + identity + servers)
        command = [self.binary, "run", "--config", self.config]
        log = self.log("gate")
        with harness.process(command, log, env=harness.environment(self.scratch)) as gate:
            harness.wait_for(lambda: harness.connects(self.port), gate, log)
            yield gate

    def people(self, subject):
        """One person who may do everything."""
        return (
            f'[policy.roles.people]\nsubjects = ["{subject}"]\n'
            '[[policy.grants]]\ntemplate = "operator"\nrole = "people"\n'
        )

    def login(self):
        """The command that prints a sign-in link."""
        return [str(self.binary), "login", "--config", str(self.config)]

    def clients(self, login=None):
        """Every client signs in and calls a tool; the last token for the endpoint `time`."""
        seen = None
        for mode in ("legacy", "auto", "2026-07-28"):
            got = python_client(self.endpoints["time"], mode, "convert_time", NOON, f"python {mode}", self.problems, login)
            if got and "21:00" not in got["result"][0]:
                self.problems.append(f"python {mode}: {got['result']}")
            seen = got or seen
        hello = json.dumps({"message": "hi"})
        python_client(self.endpoints["everything"], "legacy", "echo", hello, "python everything", self.problems, login)
        if seen:
            check_token(seen["token"], self.endpoints, self.problems)
        mcp_remote(self.node, self.endpoints["everything"], self.scratch, self.log("mcp-remote"), self.problems, login)
        return seen


def resource_server(scene):
    """The provider issues tokens for the gate's endpoints; the gate verifies them."""
    with scene.provider() as issuer:
        identity = (
            '[identity]\nmode = "resource-server"\n'
            f'[[identity.issuers]]\nkind = "oidc"\nissuer = "{issuer}"\n' + scene.people(f"{issuer}#alice")
        )
        with scene.gate(identity):
            scene.clients()


def facade(scene):
    """The gate issues tokens; the provider signs people in, and its tokens go no further."""
    redirect = f"{scene.origin}/oauth/callback"
    us = {"client_id": "gate", "client_secret": "s3cret-of-the-gate", "redirect_uris": [redirect], "response_types": ["code"],
          "grant_types": ["authorization_code"]}
    with scene.provider([us]) as issuer:
        secret = scene.scratch / "secret"
        secret.write_text(us["client_secret"])
        identity = (
            '[identity]\nmode = "facade"\nregistration = "loopback"\n'
            f'[identity.provider]\nkind = "oidc"\nissuer = "{issuer}"\nclient_id = "gate"\n'
            f'credential = {{ method = "client_secret_basic", secret = {{ file = "{secret}" }} }}\n' + scene.people(f"{issuer}#alice")
            + f'[[identity.clients]]\nid = "suite"\nname = "The suite"\nredirect_uris = ["http://127.0.0.1:{SUITE_PORT}/callback"]\n'
        )
        with scene.gate(identity):
            seen = scene.clients()
            if seen:
                refresh_twice(scene, seen)
            authorization_suite(scene)


def authorization_suite(scene):
    """The official suite for authorization servers; we are the person it asks to open an address."""
    suite = harness.MODULES / "@modelcontextprotocol/conformance/dist/index.js"
    out = scene.scratch / "suite"
    command = [scene.node, suite, "authorization", "--url", scene.origin, "--client-id", "suite", "--resource", scene.endpoints["time"],
               "-p", str(SUITE_PORT), "-o", out]
    env = harness.environment(scene.scratch)
    with open(scene.log("suite"), "wb") as log:
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True)
        timer = threading.Timer(LIMIT, child.kill)
        timer.start()
        try:
            for line in child.stdout:
                log.write(line)
                log.flush()
                address = re.search(rb"https?://\S+/oauth/authorize\S*", line)
                if address:
                    Person().travel(address[0].decode())
            code = child.wait(10)
        finally:
            timer.cancel()
            harness.end(child)
    checks = [check for found in out.rglob("checks.json") for check in json.loads(found.read_text())]
    failed = [check for check in checks if check["status"] not in ("SUCCESS", "INFO", "SKIPPED")]
    skipped = [check["id"] for check in checks if check["status"] == "SKIPPED"]
    if code or failed or not checks:
        scene.problems.append(f"authorization suite: exit {code}, {len(checks)} checks, failed {failed}; see {scene.log('suite')}")
    else:
        print(f"ok the authorization suite: {len(checks)} checks, skipped {skipped or 'none'}")


def local(scene):
    """A laptop: the owner signs in by a link that `bartizan login` prints."""
    with scene.gate(""):
        seen = scene.clients(scene.login())
        if seen:
            refresh_twice(scene, seen)


def refresh_twice(scene, seen):
    """A refresh token works once; its second use ends everything that came of the sign-in (attacks.md AA-25)."""
    def refresh():
        form = {"grant_type": "refresh_token", "refresh_token": seen["refresh"], "client_id": seen["client"]}
        request = urllib.request.Request(f"{scene.origin}/oauth/token", urllib.parse.urlencode(form).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    if not seen["refresh"]:
        scene.problems.append("there is no refresh token")
        return
    status, fresh = refresh()
    good = ask(scene.endpoints["time"], fresh.get("access_token"))
    again, _ = refresh()
    ended = ask(scene.endpoints["time"], fresh.get("access_token"))
    if (status, good, again, ended) != (200, 200, 400, 401):
        scene.problems.append(f"refreshing: {status}, then {good}; again: {again}, then {ended}")
    else:
        print("ok a refresh token works once, and its theft ends the family")


def python_client(url, mode, tool, arguments, what, problems, login=None):
    """What the Python client saw, or nothing, which is a problem."""
    command = [harness.PYTHON, harness.HERE / "pyoauth.py", url, mode, tool, arguments]
    env = os.environ | ({"LOGIN": json.dumps(login)} if login else {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=env)
    if done.returncode:
        problems.append(f"{what}: {done.stderr.strip()[-600:]}")
        return None
    print(f"ok {what}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_token(token, endpoints, problems):
    """A token of the real provider is good at its own endpoint alone, and nothing of it may be changed."""
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    if claims["aud"] != endpoints["time"]:
        problems.append(f"the token is for {claims['aud']}")
    head, payload, signature = token.split(".")
    claims["sub"] = "root"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    tries = {
        "its own endpoint": (endpoints["time"], token, 200),
        "another endpoint": (endpoints["everything"], token, 401),
        "another subject": (endpoints["time"], f"{head}.{forged}.{signature}", 401),
        "no token": (endpoints["time"], None, 401),
    }
    for what, (url, shown, wanted) in tries.items():
        status = ask(url, shown)
        if status != wanted:
            problems.append(f"{what}: {status}, not {wanted}")
        else:
            print(f"ok {what}: {status}")


def ask(url, token):
    """The status of one modern request."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
    for name, value in {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/list",
    }.items():
        request.add_header(name, value)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def mcp_remote(node, url, scratch, log, problems, login=None):
    """mcp-remote signs in by itself; we are the person who opens the address it prints, with a browser that keeps cookies."""
    env = harness.environment(scratch, MCP_REMOTE_CONFIG_DIR=scratch / "mcp-remote", PATH="/nonexistent")
    command = [node, harness.MODULES / "mcp-remote/dist/proxy.js", url, str(harness.free_port()), "--allow-http"]
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize",
         "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "trial", "version": "1"}}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo", "arguments": {"message": "through"}}},
    ]
    pipe = subprocess.PIPE
    child = subprocess.Popen([str(c) for c in command], stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True)
    person = threading.Thread(target=open_addresses, args=(child.stderr, log, login), daemon=True)
    person.start()
    try:
        said = harness.converse(child, lines, wanted=2, seconds=LIMIT)
    finally:
        harness.end(child)
    if said is None or "through" not in json.dumps(said):
        problems.append(f"mcp-remote: {said}; see {log}")
    else:
        print("ok mcp-remote")


def open_addresses(lines, log, login):
    """Opens each address that stands on a line of its own."""
    def link():
        return subprocess.run(login, check=True, capture_output=True, text=True).stdout.strip()

    person = Person(link if login else None)
    with open(log, "wb") as sink:
        for line in lines:
            sink.write(line)
            sink.flush()
            if line.startswith(b"http"):
                person.travel(line.decode().strip())


if __name__ == "__main__":
    sys.exit(main())
