#!/usr/bin/env python3
"""The official conformance suite, directly against the fixture and through the gate: the check lists must be equal.

    interop/conformance.py [--against http|stdio] [--only direct|gate] [--fixture BIN] [--gate BIN]

Four runs: each revision with `--suite all` and with `--requirements`. Exit 0 if every check that passes directly passes
through the gate, no check is missing or new, and none fails directly; 1 otherwise. The report is
target/interop/conformance-*.json; logs of runs that differ stay in target/interop/logs.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import re
import shutil
import subprocess
import sys

import harness

RUNS = {
    "2025-11-25 suite": ["--suite", "all", "--spec-version", "2025-11-25"],
    "2026-07-28 suite": ["--suite", "all", "--spec-version", "2026-07-28"],
    "2025-11-25 requirements": ["--requirements", "2025-11-25"],
    "2026-07-28 requirements": ["--requirements", "2026-07-28"],
}

# The scenario's own transcript: how many lines it has is timing, not conformance.
TRANSCRIPT = {"outgoing-request", "incoming-response", "incoming-sse-event", "stream-closed"}

# What a server over stdio cannot do: it has no connection to hang up, so there is none to resume.
EXCUSED = {
    "http": set(),
    "stdio": {
        ("server-sse-polling", "server-sse-retry-field"),
        ("server-sse-polling", "server-sse-disconnect-resume"),
    },
}

# A whole run, seconds; the longest takes about ten.
LIMIT = 240


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixture", default=harness.ROOT / "target/debug/fixture", help="the fixture's binary")
    parser.add_argument("--gate", default=harness.ROOT / "target/debug/bartizan", help="the gate's binary")
    parser.add_argument("--against", choices=["http", "stdio"], default="http", help="how the gate reaches the fixture")
    parser.add_argument("--only", choices=["direct", "gate"], help="one side alone; nothing is compared")
    parser.add_argument("--jobs", type=int, default=2, help="suite processes at once (default 2)")
    options = parser.parse_args()
    options.fixture = harness.built(options.fixture, "bartizan-trials --bin fixture")
    sides = [options.only] if options.only else ["direct", "gate"]
    if "gate" in sides:
        options.gate = harness.built(options.gate, "bartizan-cli")
    node = harness.set_up()

    logs = harness.HOME / "logs" / f"conformance-{options.against}"
    shutil.rmtree(logs, ignore_errors=True)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = {
            (name, side): pool.submit(run, node, name, side, options, logs / f"{name} {side}".replace(" ", "-"))
            for name in RUNS
            for side in sides
        }
        checks = {job: future.result() for job, future in jobs.items()}

    report = {"against": options.against, "runs": [compare(name, checks, options) for name in RUNS]}
    path = harness.HOME / f"conformance-{options.against}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    for one in report["runs"]:
        for side in sides:
            if not one["problems"]:
                shutil.rmtree(logs / f"{one['run']} {side}".replace(" ", "-"), ignore_errors=True)
    show(report, sides, path, logs)
    return 1 if any(one["problems"] for one in report["runs"]) else 0


def run(node, name, side, options, folder):
    """Runs the suite once; returns [[scenario, check id, status, message], …] in the suite's order, or the error."""
    folder.mkdir(parents=True)
    env = harness.environment(folder)
    try:
        with contextlib.ExitStack() as stack:
            if side == "direct" or options.against == "http":
                port = stack.enter_context(harness.fixture(options.fixture, folder / "fixture.log"))
                url = f"http://localhost:{port}/mcp"
                server = {"name": "fixture", "url": f"http://127.0.0.1:{port}/mcp"}
            else:
                server = {"name": "fixture", "command": [str(options.fixture), "--stdio"]}
            if side == "gate":
                gate = stack.enter_context(harness.gate(options.gate, [server], folder / "gate.log"))
                url = gate.endpoint("fixture")
                env |= {"TRIAL_ORIGIN": gate.origin, "TRIAL_TOKEN": gate.token}
                env["NODE_OPTIONS"] = f"--require={harness.HERE / 'auth-inject.cjs'}"
            suite = harness.MODULES / "@modelcontextprotocol/conformance/dist/index.js"
            command = [node, suite, "server", "--url", url, *RUNS[name], "--output-dir", folder / "results"]
            with open(folder / "suite.log", "wb") as log:
                # Its exit code says only that something failed; the results say what.
                subprocess.run(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=LIMIT)
        return read(folder / "results")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def read(results):
    checks = []
    for path in sorted(results.glob("*/checks.json")):
        scenario = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", path.parent.name).group(1)
        for check in json.loads(path.read_text()):
            if check["id"] not in TRANSCRIPT or check["status"] == "FAILURE":
                checks.append([scenario, check["id"], check["status"], check.get("errorMessage") or ""])
    if not checks:
        raise RuntimeError("the suite left no results")
    return checks


def compare(name, checks, options):
    """One run's counts and everything that is wrong with it."""
    direct, gate = checks.get((name, "direct")), checks.get((name, "gate"))
    problems = [f"{side}: {found}" for side, found in (("direct", direct), ("gate", gate)) if isinstance(found, str)]
    result = {"run": name, "problems": problems}
    for side, found in (("direct", direct), ("gate", gate)):
        if isinstance(found, list):
            result[side] = collections.Counter(status for _, _, status, _ in found)
            result[f"{side}_checks"] = [check[:3] for check in found]
    if problems:
        return result
    alone = direct if gate is None else gate if direct is None else None
    if alone is not None or gate is not None:
        for scenario, check, status, message in alone if alone is not None else direct:
            if status in ("FAILURE", "WARNING"):
                problems.append(f"{status} {'' if alone is not None else 'directly: '}{scenario} {check}: {message}")
    if alone is not None:
        return result
    before, after = numbered(direct), numbered(gate)
    for key in sorted(before.keys() | after.keys()):
        scenario, check, _ = key
        label = f"{scenario} {check}"
        if key not in after:
            problems.append(f"missing through the gate: {label}")
        elif key not in before:
            problems.append(f"only through the gate: {label} ({after[key][0]}) {after[key][1]}")
        elif before[key][0] == "SUCCESS" != after[key][0] or after[key][0] in ("FAILURE", "WARNING"):
            line = f"{label}: {before[key][0]} directly, {after[key][0]} through the gate: {after[key][1]}"
            if (scenario, check) in EXCUSED[options.against]:
                result.setdefault("excused", []).append(line)
            else:
                problems.append(line)
    return result


def numbered(checks):
    """Checks by (scenario, id, how many of that id came before)."""
    seen, table = collections.Counter(), {}
    for scenario, check, status, message in checks:
        table[scenario, check, seen[scenario, check]] = (status, message)
        seen[scenario, check] += 1
    return table


def show(report, sides, path, logs):
    print(f"conformance, {report['against']} upstream")
    for one in report["runs"]:
        cells = []
        for side in sides:
            counts = one.get(side, {})
            passed, total = counts.get("SUCCESS", 0), sum(counts.values())
            rest = ", ".join(f"{count} {status.lower()}" for status, count in sorted(counts.items()) if status != "SUCCESS")
            cells.append(f"{side} {passed}/{total}" + (f" ({rest})" if rest else ""))
        print(f"  {'FAIL' if one['problems'] else 'ok  '}  {one['run']:<24}  {'   '.join(cells)}")
        for problem in one["problems"]:
            print(f"        {problem}")
        for line in one.get("excused", []):
            print(f"        excused: {line}")
    print(f"report: {path.relative_to(harness.ROOT)}")
    if any(one["problems"] for one in report["runs"]):
        print(f"logs: {logs.relative_to(harness.ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
