#!/usr/bin/env python3
"""A person with a browser in front of the gate's pages: sign-in, consent, account.

    interop/browser.py [--gate BIN] [--only local|facade|tls …]

The browser is Debian's Chromium; the identity provider is `oidc-provider`. The gate is, at once, the one of a laptop, the one
in front of the provider, and the same over TLS. Decisions are made with the mouse, by keyboard alone, and without scripts;
other sites try to make them too. On every page axe looks for what keeps people out, light and dark, and nothing is wider
than a telephone. Exit 0 if all is as it should be, 1 otherwise. Screenshots are in target/interop/screens, logs in
target/interop/logs/browser.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import harness
from authority import write_certificates

SCRIPTS = ("browser.mjs", "application.mjs", "strangers.mjs", "chromium.mjs", "oidc-provider.mjs")
SCENES = ("local", "facade", "tls")
SCOPES = 'scopes = { "tickets:read" = "read your tickets", "tickets:write" = "change and close them" }\n'
# All of it, seconds; it takes a minute where nothing else runs.
LIMIT = 900


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan", help="the gate's binary")
    parser.add_argument("--only", nargs="+", choices=SCENES, default=SCENES, help="which gates")
    options = parser.parse_args()
    binary = harness.built(options.gate, "bartizan-cli")
    node = harness.set_up()
    for script in SCRIPTS:
        # Node looks for modules next to the file that imports them.
        shutil.copy(harness.HERE / script, harness.HOME)
    logs, screens = harness.HOME / "logs" / "browser", harness.HOME / "screens"
    for folder in (logs, screens):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="bartizan-browser-"))
    try:
        with contextlib.ExitStack() as running:
            cast = Cast(binary, node, scratch, logs, running)
            gates = {name: getattr(cast, name)() for name in options.only}
            plan = {"executable": harness.chromium(), "screens": str(screens), "gates": gates, **cast.certificates()}
            env = harness.environment(scratch, NODE_EXTRA_CA_CERTS=scratch / "ca.pem")
            command = [node, harness.HOME / "browser.mjs"]
            done = subprocess.run(command, input=json.dumps(plan), text=True, env=env, timeout=LIMIT)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"screenshots in {screens}, logs in {logs}")
    return done.returncode


class Cast:
    """The gates and their providers, for as long as `running` is open. Each is a dictionary for browser.mjs."""

    def __init__(self, binary, node, scratch, logs, running):
        self.binary, self.node, self.scratch, self.logs, self.running = binary, node, scratch, logs, running
        hosts = ["gate.example", "app.example", "elsewhere.example", "evil.example"]
        self.tls_files = write_certificates(scratch, hosts)

    def certificates(self):
        """Whom the browser trusts, and what other sites show it."""
        key, certificate = (self.tls_files[name].read_text() for name in ("key", "cert"))
        return {"spki": self.tls_files["spki"], "tls": {"key": key, "cert": certificate}}

    def local(self):
        origin, config = self.gate("local", "")
        return {"origin": origin, "login": [str(self.binary), "login", "--config", str(config)]}

    def facade(self):
        return self.in_front_of_a_provider("facade", 'registration = "loopback"\n', upstream=harness.free_port())

    def tls(self):
        # Published applications are on this machine, which the gate would not ask; a proxy says that they are not.
        proxy = harness.free_port()
        egress = f'[egress]\nproxy = "http://127.0.0.1:{proxy}"\n'
        return self.in_front_of_a_provider("tls", "", egress, "gate.example") | {"proxy": proxy}

    def in_front_of_a_provider(self, name, identity, more="", host=None, upstream=None):
        """With `upstream`, a port, there is a server `work` behind it at which people have accounts of their own."""
        port = harness.free_port()
        origin = f"https://{host}:{port}" if host else f"http://127.0.0.1:{port}"
        us = {
            "client_id": "gate",
            "client_secret": "s3cret-of-the-gate",
            "redirect_uris": [f"{origin}/oauth/callback", f"{origin}/connect/callback"],
            "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token"],
        }
        work = f"http://127.0.0.1:{upstream}/mcp/clock" if upstream else ""
        issuer = self.provider(name, us, work)
        secret = self.scratch / "secret"
        secret.write_text(us["client_secret"])
        people = f'[policy.roles.people]\nsubjects = ["{issuer}#alice"]\n[[policy.grants]]\ntemplate = "operator"\nrole = "people"\n'
        if upstream:
            # Another gate: it takes the tokens of the provider that are issued for its endpoint.
            taken = f'[identity]\nmode = "resource-server"\n[[identity.issuers]]\nkind = "oidc"\nissuer = "{issuer}"\n'
            self.gate("work", taken + people, upstream)
            client = f'issuer = "{issuer}", client_id = "gate", client_secret = {{ file = "{secret}" }}'
            more += f'[[servers]]\nname = "work"\nurl = "{work}"\ntrust_on_first_use = true\n'
            more += f'credential = {{ kind = "user-oauth", {client}, scopes = ["mcp:tools"] }}\n'
        identity = (
            f'[identity]\nmode = "facade"\n{identity}{SCOPES}'
            f'[identity.provider]\nkind = "oidc"\nissuer = "{issuer}"\nclient_id = "gate"\n'
            f'credential = {{ method = "client_secret_basic", secret = {{ file = "{secret}" }} }}\n'
            f"{people}"
        )
        self.gate(name, identity + more, port, origin if host else None)
        return {"origin": origin, "provider": issuer}

    def provider(self, name, client, resources=""):
        """An identity provider that signs everybody in as alice, and issues tokens for `resources`; its issuer."""
        port, log = harness.free_port(), self.logs / f"{name}-provider.log"
        env = harness.environment(self.scratch, PORT=port, CLIENTS=json.dumps([client]), RESOURCES=resources, USER="alice")
        command = [self.node, harness.HOME / "oidc-provider.mjs"]
        child = self.running.enter_context(harness.process(command, log, env=env, cwd=harness.HOME))
        harness.wait_for(lambda: harness.connects(port), child, log)
        return f"http://127.0.0.1:{port}"

    def gate(self, name, more, port=None, public_url=None):
        """A gate in front of two servers; its origin and its configuration file."""
        port, log, folder = port or harness.free_port(), self.logs / f"{name}-gate.log", self.scratch / name
        folder.mkdir()
        config = folder / "bartizan.toml"
        lines = ["[server]", f'listen = "127.0.0.1:{port}"', f'admin_listen = "127.0.0.1:{harness.free_port()}"']
        if public_url:
            pair = f'{{ cert = "{self.tls_files["cert"]}", key = "{self.tls_files["key"]}" }}'
            lines += [f'public_url = "{public_url}"', f"tls = {pair}"]
        command = json.dumps([str(harness.HOME / "venv/bin/mcp-server-time")])
        for server in ("tickets", "clock"):
            more += f'[[servers]]\nname = "{server}"\ncommand = {command}\ntrust_on_first_use = true\n'
        config.write_text("\n".join(lines) + "\n" + more)
        # The authorities that the gate trusts to name the hosts of published applications.
        env = harness.environment(folder, SSL_CERT_FILE=self.tls_files["ca"])
        child = self.running.enter_context(harness.process([self.binary, "run", "--config", config], log, env=env))
        harness.wait_for(lambda: harness.connects(port), child, log)
        return f"http://127.0.0.1:{port}", config


if __name__ == "__main__":
    sys.exit(main())
