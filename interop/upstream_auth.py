#!/usr/bin/env python3
"""The official conformance suite's client scenarios `auth/*`, against the gate as the OAuth client of a server behind it.

    interop/upstream_auth.py [--driver BIN] [--scenario NAME …]

Each scenario is an MCP server and an authorization server of the suite's; `upstream` (crates/gateway/examples) plays the
person in front of the gate. Exit 0 if every check of every scenario passes; 1 otherwise. Logs of scenarios that fail stay
in target/interop/logs/upstream-auth.
"""

import argparse
import concurrent.futures
import json
import re
import shutil
import subprocess
import sys

import harness

# Both revisions' scenarios, and the extensions the gate speaks. Those of 2025-03-26 are left out on purpose: a server
# without metadata is not guessed at, its operator says where its authorization server is.
#
# The measure is the official Rust SDK's client. Of the other extensions, version 3.11.0 of it (`rmcp`, feature `auth`) signs no
# DPoP proofs and asks for no token by a workload's assertion, so it passes none of `dpop`, `dpop-nonce` and `wif-jwt-bearer`
# either. `enterprise-managed-authorization` is on its conformance run's list of expected failures, although `rmcp` has the
# exchanges themselves (`auth-enterprise-managed`); the gate takes such assertions from its clients and makes none.
SCENARIOS = {
    "2025-11-25": [
        "metadata-default",
        "metadata-var1",
        "metadata-var2",
        "metadata-var3",
        "basic-cimd",
        "scope-from-www-authenticate",
        "scope-from-scopes-supported",
        "scope-omitted-when-undefined",
        "scope-step-up",
        "scope-retry-limit",
        "token-endpoint-auth-basic",
        "token-endpoint-auth-post",
        "token-endpoint-auth-none",
        "pre-registration",
    ],
    "2026-07-28": [
        "resource-mismatch",
        "offline-access-scope",
        "offline-access-not-supported",
        "authorization-server-migration",
        "iss-supported",
        "iss-not-advertised",
        "iss-supported-missing",
        "iss-wrong-issuer",
        "iss-unexpected",
        "iss-normalized",
        "metadata-issuer-mismatch",
    ],
    None: ["client-credentials-jwt", "client-credentials-basic"],
}
SCENARIOS["2026-07-28"] = SCENARIOS["2025-11-25"] + SCENARIOS["2026-07-28"]

# One scenario, seconds.
LIMIT = 60


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", default=harness.ROOT / "target/debug/examples/upstream", help="the person's binary")
    parser.add_argument("--scenario", nargs="*", help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at once (default 2)")
    options = parser.parse_args()
    driver = harness.built(options.driver, "bartizan-gateway --example upstream")
    node = harness.set_up()
    logs = harness.HOME / "logs" / "upstream-auth"
    shutil.rmtree(logs, ignore_errors=True)
    jobs = [(v, s) for v, names in SCENARIOS.items() for s in names if not options.scenario or s in options.scenario]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda job: run(node, driver, *job, logs), jobs)
        failed = 0
        for (version, scenario), (passed, problems) in zip(jobs, results):
            print(f"  {'FAIL' if problems else 'ok  '}  {version or 'extension':<10}  {scenario:<32} {passed} checks")
            for problem in problems:
                print(f"        {problem}")
            failed += bool(problems)
    print(f"upstream auth: {len(jobs) - failed} of {len(jobs)} scenarios passed")
    if failed:
        print(f"logs: {logs.relative_to(harness.ROOT)}")
    return 1 if failed else 0


def run(node, driver, version, scenario, logs):
    """Runs one scenario; returns how many checks passed, and what is wrong."""
    folder = logs / f"{version or 'extension'}-{scenario}"
    folder.mkdir(parents=True)
    suite = harness.MODULES / "@modelcontextprotocol/conformance/dist/index.js"
    command = [node, suite, "client", "--command", str(driver), "--scenario", f"auth/{scenario}"]
    command += ["--spec-version", version] if version else []
    command += ["--output-dir", folder / "results", "--verbose"]
    env = harness.environment(folder) | {"NODE_OPTIONS": f"--require={harness.HERE / 'bind-local.cjs'}"}
    try:
        with open(folder / "suite.log", "wb") as log:
            subprocess.run(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=LIMIT)
        checks = read(folder / "results")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return 0, [f"{type(error).__name__}: {error}"]
    problems = [
        f"{check['status']} {check['id']}: {check.get('errorMessage') or check.get('description')}"
        for check in checks
        if check["status"] in ("FAILURE", "WARNING")
    ]
    if not problems:
        shutil.rmtree(folder, ignore_errors=True)
    return sum(check["status"] == "SUCCESS" for check in checks), problems


def read(results):
    paths = sorted(results.glob("**/checks.json"))
    checks = [check for path in paths for check in json.loads(path.read_text())]
    if not any(re.search(r"\S", check["id"]) and check["status"] == "SUCCESS" for check in checks):
        raise RuntimeError("no check passed: the suite's log says why")
    return checks


if __name__ == "__main__":
    sys.exit(main())
