#!/usr/bin/env python3
"""Real clients in front of real servers, directly and through the gate: both must see the same.

    interop/peers.py [--only direct] [--gate BIN] [--jobs N]

Clients: the official TypeScript and Python clients and the MCP Inspector's command line, each in the handshake era, the
stateless era, and left to find out. Servers: five reference servers over stdio. Each cell connects, lists the tools and
calls one; the tools and the result must equal what the same client gets from the same server without the gate. Then the
merged endpoint, `bartizan wrap`, the refusal of a client whose era its server does not speak, and what people read of other
refusals (docs/refusals.md). Exit 0 if nothing differs, 1 otherwise. The report is target/interop/peers.json, the gate's log target/interop/logs/peers.
"""

import argparse
import concurrent.futures
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import harness

CLIENTS = ["ts", "py", "inspector"]
MODES = ["legacy", "auto", "modern"]
MODERN, LEGACY = "2026-07-28", "2025-11-25"
INSPECTOR = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"

# What the protocol lets servers ask of clients.
MAY_ASK = [f"--may-ask={what}" for what in ("elicitation", "roots", "sampling")]

# One process of cells, seconds.
LIMIT = 240


def servers(node, scratch):
    """The servers: how each starts, the eras it speaks, one call whose answer is the same every time, and what it needs of
    this machine beside itself."""

    def npm(name, *arguments):
        return [str(node), str(harness.MODULES / f"@modelcontextprotocol/server-{name}/dist/index.js"), *arguments]

    def pip(name):
        return [str(harness.HOME / "venv/bin" / name)]

    documents, repository = scratch / "documents", scratch / "repository"
    documents.mkdir()
    (documents / "note.txt").write_text("grüße aus der Datei\n")
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", repository], check=True)
    (repository / "new.txt").write_text("not committed\n")
    noon = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    both, handshake = {"legacy", "modern"}, {"legacy"}
    return {
        "everything": (npm("everything"), handshake, ("echo", {"message": 'a "quoted" word, \u2028 and 1e400'}), {}),
        "filesystem": (npm("filesystem", str(documents)), handshake, ("read_text_file", {"path": str(documents / "note.txt")}), {"read": [str(documents)]}),
        "memory": (npm("memory"), handshake, ("create_entities", None), {"write": [str(scratch)]}),
        "time": (pip("mcp-server-time"), both, ("convert_time", noon), {}),
        "git": (pip("mcp-server-git"), both, ("git_status", {"repo_path": str(repository)}), {"read": [str(repository)]}),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan", help="the gate's binary")
    parser.add_argument("--only", choices=["direct"], help="prove the peers alone; nothing is compared")
    parser.add_argument("--jobs", type=int, default=3, help="clients at work at once (default 3)")
    options = parser.parse_args()
    if not options.only:
        options.gate = harness.built(options.gate, "bartizan-cli")
    node = harness.set_up()
    # Node looks for modules next to the file that imports them.
    shutil.copy(harness.HERE / "tspeer.mjs", harness.HOME)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="bartizan-peers-"))
    logs = harness.HOME / "logs" / "peers"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    try:
        trial = Trial(options, node, scratch, logs)
        rows = trial.direct() if options.only else trial.through_gate(trial.direct_cells())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    path = harness.HOME / "peers.json"
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    return show(rows, path, logs)


class Trial:
    def __init__(self, options, node, scratch, logs):
        self.options, self.node, self.scratch, self.logs = options, node, scratch, logs
        self.servers = servers(node, scratch)
        self.pool = concurrent.futures.ThreadPoolExecutor(options.jobs)

    def cell(self, client, mode, name, **target):
        """What one client shall do: key, mode, calls and where to."""
        key = f"{client} {mode} {name}"
        tool, arguments = self.servers[name.split()[-1]][2]
        if arguments is None:
            # One graph serves every cell behind the gate, and answers only with what was new.
            arguments = {"entities": [{"name": key.replace("wrap ", ""), "entityType": "cell", "observations": ["seen"]}]}
        return {"key": key, "mode": mode, "calls": [{"name": tool, "arguments": arguments}], **target}

    def speaks(self, mode, name):
        """The era a client of this mode and this server end up in, or nothing if there is none."""
        eras = self.servers[name][1]
        return {"legacy": "legacy", "modern": "modern" if "modern" in eras else None}.get(
            mode, "modern" if "modern" in eras else "legacy"
        )

    def direct_cells(self):
        """Every client against every server it can speak to, over stdio; by client."""
        cells = {client: [] for client in CLIENTS}
        for client in CLIENTS:
            for mode in MODES:
                for name, (command, *_) in self.servers.items():
                    if self.speaks(mode, name):
                        memory = self.scratch / f"{client}-{mode}-{name}.json"
                        env = harness.environment(self.scratch, MEMORY_FILE_PATH=memory)
                        cells[client].append(self.cell(client, mode, name, command=command, env=env))
        return self.run(cells)

    def direct(self):
        return [
            {"cell": key, "version": seen.get("version"), "tools": len(seen.get("tools", [])), "problems": whole(seen)}
            for key, seen in self.direct_cells().items()
        ]

    def through_gate(self, direct):
        upstreams = [
            {"name": name, "command": command, "sandbox": sandbox} | ({"env": ["MEMORY_FILE_PATH"]} if name == "memory" else {})
            for name, (command, _, _, sandbox) in self.servers.items()
        ]
        memory = self.scratch / "gate-memory.json"
        with harness.gate(self.options.gate, upstreams, self.logs / "gate.log", MEMORY_FILE_PATH=memory) as gate:
            cells = {client: [] for client in CLIENTS}
            for client in CLIENTS:
                for mode in MODES:
                    for name in self.servers:
                        target = {"url": gate.endpoint(name), "token": gate.token}
                        cells[client].append(self.cell(client, mode, name, **target))
                    merged = self.cell(client, mode, "merged time", url=gate.endpoint(), token=gate.token)
                    merged["calls"][0]["name"] = "time__convert_time"
                    cells[client].append(merged)
            cells["wrap"] = [
                self.cell("py", mode, f"wrap {name}", command=[str(self.options.gate), "wrap", *MAY_ASK, "--", *command], env=env)
                for mode in MODES
                for name, (command, *_) in self.servers.items()
                if name in ("time", "everything")
                for env in [harness.environment(self.scratch)]
            ]
            seen = self.run(cells)
            rows = [self.judge(key, found, direct) for key, found in seen.items()]
            rows += self.refused(gate)
            for name, (_, eras, *_) in self.servers.items():
                if "modern" not in eras:
                    rows.append({"cell": f"raw modern {name}", "problems": refusal(gate, name)})
        return rows

    def judge(self, key, found, direct):
        """Compares one cell with the same client's direct one."""
        client, mode, *where = key.split()
        name, place = where[-1], where[0] if len(where) > 1 else "gate"
        row = {"cell": key, "version": found.get("version"), "tools": len(found.get("tools", []))}
        if place != "merged" and self.speaks(mode, name) is None:
            said = found.get("error")
            return row | {"refused": said, "problems": [] if said else ["a client of the other era was served"]}
        if problems := whole(found):
            return row | {"problems": problems}
        expected = direct[f"{client} {mode} {name}"]
        problems = [f"directly: {problem}" for problem in whole(expected)]
        if problems:
            return row | {"problems": problems}
        if place == "merged":
            tools = {}
            for server in self.servers:
                # The merged endpoint speaks both eras itself; servers of the other one are left out.
                if ("legacy" if mode == "legacy" else "modern") in self.servers[server][1]:
                    for tool in direct[f"{client} {mode} {server}"].get("tools", []):
                        tools[f"{server}__{tool['name']}"] = tool | {"name": f"{server}__{tool['name']}"}
            listed = {tool["name"]: tool for tool in found["tools"]}
            if len(listed) != len(found["tools"]):
                problems.append("a name is listed twice")
        else:
            tools, listed = ({"tools": side["tools"]} for side in (expected, found))
        differ(tools, listed, "tools", problems)
        differ([own(result) for result in expected["results"]], [own(result) for result in found["results"]], "result", problems)
        if expected.get("version") != found.get("version"):
            problems.append(f"version: {expected.get('version')} directly, {found.get('version')} here")
        return row | {"problems": problems}

    def refused(self, gate):
        """What clients hand on to people and models when the gate says no: its words, and no error of HTTP."""
        noon = self.servers["time"][2][1]
        cases = {
            "arguments": ("time", "convert_time", noon | {"time": 12}, "the argument `/time` must be of type string"),
            "unknown": ("time", "nothing", {}, "there is no such tool"),
            "secret": ("time", "convert_time", noon | {"time": "ghp_" + "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"}, "must not go to this server"),
        }
        cells = {client: [] for client in ("ts", "py")}
        for client in cells:
            for mode in ("modern", "legacy"):
                for case, (server, tool, arguments, _) in cases.items():
                    calls = [{"name": tool, "arguments": arguments}]
                    target = {"url": gate.endpoint(server), "token": gate.token}
                    cells[client].append({"key": f"{client} {mode} no {case}", "mode": mode, "calls": calls, **target})
        rows = []
        for key, found in self.run(cells).items():
            case = key.split()[-1]
            result = next(iter(found.get("results", [])), {})
            told = result["content"][0]["text"] if result.get("isError") else found.get("error", "")
            is_error = (case == "arguments") == ("error" not in found)
            is_told = cases[case][3] in told and "HTTP" not in told and "POST" not in told and is_error
            rows.append({"cell": key, "refused": told, "problems": [] if is_told else [f"people read: {json.dumps(found)[:300]}"]})
        return rows

    def run(self, cells):
        """Runs all cells, each client's in its own process; returns what each saw, by key."""
        jobs = []
        for client, list_ in cells.items():
            if client == "inspector":
                jobs += [self.pool.submit(self.inspect, cell) for cell in list_]
            else:
                program = [self.node, harness.HOME / "tspeer.mjs"] if client == "ts" else [harness.PYTHON, harness.HERE / "pypeer.py"]
                jobs.append(self.pool.submit(self.peer, program, list_))
        seen = {}
        for job in jobs:
            seen |= job.result()
        return {cell["key"]: seen[cell["key"]] for list_ in cells.values() for cell in list_}

    def peer(self, program, cells):
        """Hands cells to one of our small clients."""
        try:
            done = subprocess.run(
                [str(part) for part in program],
                input=json.dumps(cells).encode(),
                env=harness.environment(self.scratch),
                capture_output=True,
                timeout=LIMIT,
            )
            return json.loads(done.stdout)
        except (ValueError, subprocess.TimeoutExpired) as error:
            return {cell["key"]: {"error": f"the client itself failed: {error}"} for cell in cells}

    def inspect(self, cell):
        """Asks the Inspector's command line twice: for the tools, and for the call."""
        seen = {"results": []}
        for question in ["tools/list", *cell["calls"]]:
            command = [self.node, harness.MODULES / INSPECTOR, "--cli", "--format", "json", "--protocol-era", cell["mode"]]
            if question == "tools/list":
                command += ["--method", question]
            else:
                command += ["--method", "tools/call", "--tool-name", question["name"]]
                command += ["--tool-args-json", json.dumps(question["arguments"])]
            env = cell.get("env") or harness.environment(self.scratch)
            if "url" in cell:
                command += ["--transport", "http", "--header", f"Authorization: Bearer {cell['token']}", "--server-url", cell["url"]]
            else:
                # What it hands on to a server it starts has to be named.
                command += ["-e", f"MEMORY_FILE_PATH={env['MEMORY_FILE_PATH']}", "--", *cell["command"]]
            try:
                done = subprocess.run(
                    [str(part) for part in command],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=60,
                )
                answer = json.loads(done.stdout)["result"]
            except (ValueError, KeyError, subprocess.TimeoutExpired) as error:
                said = getattr(error, "stderr", None) or (done.stderr if "done" in locals() else b"")
                return {cell["key"]: {"error": (said.decode(errors="replace").strip() or str(error))[-600:]}}
            if question == "tools/list":
                seen["tools"] = answer["tools"]
            else:
                seen["results"].append(answer)
        return {cell["key"]: seen}


def whole(seen):
    """What is wrong with a cell on its own."""
    if "error" in seen:
        return [seen["error"]]
    if not seen["tools"]:
        return ["no tools were listed"]
    return [f"the call failed: {json.dumps(result)[:300]}" for result in seen["results"] if result.get("isError")]


def own(result):
    """A result without what a gate may say for itself: who serves it."""
    meta = {key: value for key, value in (result.get("_meta") or {}).items() if key != "io.modelcontextprotocol/serverInfo"}
    rest = {key: value for key, value in result.items() if key != "_meta"}
    return rest | {"_meta": meta} if meta else rest


def differ(before, after, where, problems):
    """Adds the first place where two JSON values differ, and every name that only one of them has."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() - after.keys():
            problems.append(f"{where}.{name} is missing here")
        for name in after.keys() - before.keys():
            problems.append(f"{where}.{name} is only here")
        for name in before.keys() & after.keys():
            differ(before[name], after[name], f"{where}.{name}", problems)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after)):
            differ(*pair, f"{where}[{index}]", problems)
    elif before != after or type(before) is not type(after):
        problems.append(f"{where}: {json.dumps(before)[:200]} directly, {json.dumps(after)[:200]} here")


def refusal(gate, name):
    """What is wrong with how a stateless request to a handshake-only server is refused."""
    problems = []
    meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    for method in ("server/discover", "tools/list"):
        request = urllib.request.Request(
            gate.endpoint(name),
            data=json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": {"_meta": meta}}).encode(),
            headers={
                "Authorization": f"Bearer {gate.token}",
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": method,
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        text = body.decode(errors="replace")
        if status != 400:
            problems.append(f"{method}: status {status}, wanted 400: {text[:200]}")
            continue
        answer = json.loads(text)
        error = answer.get("error", {})
        if answer.get("id") != 7 or not isinstance(error.get("code"), int) or -32022 <= error["code"] <= -32020:
            problems.append(f"{method}: an `auto` client would not fall back on {text[:300]}")
        if MODERN not in json.dumps(error) or LEGACY not in json.dumps(error):
            problems.append(f"{method}: the error does not name both eras: {text[:300]}")
    return problems


def show(rows, path, logs):
    failed = [row for row in rows if row["problems"]]
    for row in rows:
        refused = "refused, as it must be" if row.get("refused") else ""
        print(f"  {'FAIL' if row['problems'] else 'ok  '}  {row['cell']:<30} {row.get('version') or '':<11} {row.get('tools') or '':>3} {refused}")
        for problem in row["problems"][:8]:
            print(f"        {problem[:600]}")
        if len(row["problems"]) > 8:
            print(f"        and {len(row['problems']) - 8} more")
    print(f"{len(rows) - len(failed)} of {len(rows)} cells agree; report: {path.relative_to(harness.ROOT)}")
    if failed:
        print(f"logs: {logs.relative_to(harness.ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
