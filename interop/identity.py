#!/usr/bin/env python3
"""Real clients sign in at a real identity provider and come through the gate.

    interop/identity.py [--gate BIN]

The provider is `oidc-provider`; the clients are the official Python and TypeScript clients, the Inspector's command line,
mcp-remote and Claude Code, in front of mcp-server-time and server-everything. The gate is, one after another, a resource server
for the provider's tokens, the authorization server in front of the provider, and the one of a laptop; where it has pages of its
own, the person is in front of Chromium. Each client starts from nothing but the URL. Exit 0 if all is as it should be, 1
otherwise.
"""

import argparse
import base64
import contextlib
import json
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

import authority
import harness
import signing_in
from person import Person, chromium

NOON = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
LIMIT = signing_in.LIMIT
MODERN, LEGACY = "2026-07-28", "2025-11-25"
# Where the authorization suite waits for its code.
SUITE_PORT = 3999


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan", help="the gate's binary")
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES), help="which gates")
    options = parser.parse_args()
    binary = harness.built(options.gate, "bartizan-cli")
    node = harness.set_up()
    for script in ("oidc-provider.mjs", "tsoauth.mjs", "person.mjs", "chromium.mjs", "strangers.mjs", "published.mjs"):
        # Node looks for modules next to the file that imports them.
        shutil.copy(harness.HERE / script, harness.HOME)
    logs = harness.HOME / "logs" / "identity"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="bartizan-identity-"))
    problems = []
    try:
        with chromium(node, logs / "chromium.log") as port:
            for name in options.only:
                print(f"-- {name}")
                place = scratch / name
                place.mkdir()
                SCENES[name](Scene(binary, node, place, logs, problems, port))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for problem in problems:
        print(f"FAILED {problem}")
    print(f"{len(problems)} problems; logs in {logs}")
    return 1 if problems else 0


class Scene:
    """What every scene needs."""

    def __init__(self, binary, node, scratch, logs, problems, chromium):
        self.binary, self.node, self.scratch, self.logs, self.problems = binary, node, scratch, logs, problems
        self.chromium = chromium
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
    def published(self):
        """The documents of applications at hosts that may be out of reach; yields what the gate needs to read them: more
        configuration, and the authority to trust."""
        files = authority.write_certificates(self.scratch, [urllib.parse.urlsplit(signing_in.CLAUDE_ID).hostname])
        documents = self.scratch / "documents.json"
        documents.write_text(json.dumps({signing_in.CLAUDE_ID: signing_in.CLAUDE_DOCUMENT}))
        port, log = harness.free_port(), self.log("published")
        command = [self.node, harness.HOME / "published.mjs", port, files["key"], files["cert"]]
        with open(documents, "rb") as given, harness.process(command, log, stdin=given) as child:
            harness.wait_for(lambda: harness.connects(port), child, log)
            yield f'[egress]\nproxy = "http://127.0.0.1:{port}"\n', files["ca"]

    @contextlib.contextmanager
    def gate(self, identity, authorities=None, more=""):
        """The gate with this `[identity]` and what follows it, and `more` of each server. `authorities`, a file, are trusted instead
        of the system's."""
        time = json.dumps([str(harness.HOME / "venv/bin/mcp-server-time")])
        everything = json.dumps([str(self.node), str(harness.MODULES / "@modelcontextprotocol/server-everything/dist/index.js")])
        server = f'[server]\nlisten = "127.0.0.1:{self.port}"\nadmin_listen = "127.0.0.1:{harness.free_port()}"\n'
        servers = "".join(
            f'[[servers]]\nname = "{name}"\ncommand = {command}\ntrust_on_first_use = true\n{more}'
            for name, command in (("time", time), ("everything", everything))
        )
        self.config.write_text(server + identity + servers)
        command = [self.binary, "run", "--config", self.config]
        log = self.log("gate")
        trusted = {"SSL_CERT_FILE": authorities} if authorities else {}
        with harness.process(command, log, env=harness.environment(self.scratch, **trusted)) as gate:
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

    def journey(self, server, what, chromium=None, login=None):
        """From a client to a tool of `server`."""
        tool, arguments = {"time": ("convert_time", NOON), "everything": ("echo", {"message": "through"})}[server]
        return signing_in.Journey(
            self.node, self.scratch, self.endpoints[server], tool, arguments, self.log(what.replace(" ", "-")), chromium, login
        )

    @contextlib.contextmanager
    def attempt(self, what):
        """What fails in here is a problem, and no reason to stop."""
        try:
            yield
            print(f"ok {what}")
        except (AssertionError, RuntimeError, subprocess.TimeoutExpired, OSError) as error:
            self.problems.append(f"{self.scratch.name}, {what}: {str(error)[:800]}; see {self.logs}")

    def clients(self, chromium=None, login=None):
        """Every client signs in and calls a tool; the last of what the Python client saw."""
        seen = None
        for name, client in (("python", signing_in.python_client), ("typescript", signing_in.typescript_client)):
            if client is signing_in.typescript_client and not chromium:
                continue
            for mode, era in (("legacy", LEGACY), ("auto", MODERN), (MODERN if name == "python" else "modern", MODERN)):
                with self.attempt(f"{name} {mode}"):
                    got = client(self.journey("time", f"{name} {mode}", chromium, login), mode)
                    assert got["version"] == era and "21:00" in got["result"][0], got
                    seen = got if name == "python" else seen
        with self.attempt("python everything"):
            got = signing_in.python_client(self.journey("everything", "python everything", chromium, login), "legacy")
            assert "through" in got["result"][0], got
        if seen:
            check_token(seen["token"], self.endpoints, self.problems)
        for mode, server, wanted in (("legacy", "everything", "through"), ("auto", "time", "21:00")):
            with self.attempt(f"mcp-remote {mode}"):
                journey = self.journey(server, f"mcp-remote {mode}", chromium, login)
                said = signing_in.mcp_remote(journey, mode)
                assert said and wanted in json.dumps(said), said
                is_modern = f"speaks MCP {MODERN}" in journey.log.read_text()
                assert is_modern == (mode == "auto"), f"the wrong era; see {journey.log}"
        return seen

    def command_lines(self, chromium, login=None):
        """The clients that people start themselves: the Inspector's command line and Claude Code."""
        for mode in ("legacy", "auto", "modern"):
            with self.attempt(f"inspector {mode}"):
                said = signing_in.inspector(self.journey("time", f"inspector {mode}", chromium, login), mode)
                assert "21:00" in said, said
        with self.attempt("claude mcp add, list, login, logout"):
            claude = signing_in.Claude(self.journey("time", "claude", chromium, login))
            claude.mcp("add", "--transport", "http", "time", self.endpoints["time"])
            before = claude.mcp("list")
            assert "Needs authentication" in before, before
            said = claude.login("time")
            after = claude.mcp("list")
            assert "Connected" in after and "Needs authentication" not in after, f"{said[-600:]}\n{after}"
            claude.mcp("logout", "time")
            gone = claude.mcp("list")
            assert "Needs authentication" in gone, gone


def resource_server(scene):
    """The provider issues tokens for the gate's endpoints; the gate verifies them."""
    with scene.provider() as issuer:
        identity = (
            '[identity]\nmode = "resource-server"\n'
            f'[[identity.issuers]]\nkind = "oidc"\nissuer = "{issuer}"\n' + scene.people(f"{issuer}#alice")
        )
        # The Inspector registers with the scopes that a server asks for, and this provider takes no empty list of them.
        with scene.gate(identity, more='required_scopes = ["mcp:tools"]\n'):
            # Nobody looks at a page: the provider signs everybody in and sends them back.
            scene.clients(scene.chromium)
            scene.command_lines(scene.chromium)


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
        with scene.published() as (egress, authorities), scene.gate(identity + egress, authorities):
            seen = scene.clients(scene.chromium)
            scene.command_lines(scene.chromium)
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
    """A laptop: the owner signs in by a link that `bartizan login` prints. Clients register themselves."""
    with scene.gate("[identity.client_documents]\nenabled = false\n"):
        seen = scene.clients(scene.chromium, scene.login())
        scene.command_lines(scene.chromium, scene.login())
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


SCENES = {"resource-server": resource_server, "facade": facade, "local": local}


if __name__ == "__main__":
    sys.exit(main())
