"""The same decisions whatever the interpreter's switches and the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ..support.tools import ROOT

#: Nothing here is checked with `assert`, which -OO strips.
PROGRAM = """
import json, logging, sys
import anyio
from capgate.artifact.build import build_policy
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.model import Environment, PolicyInput, Resource, User, canonical
from capgate.policy import RuntimePolicy
from capgate.runtime.pool import WasmPool
from capgate.artifact.load import WasmArtifact
from capgate.limits import Limits
from tests.support.pool_guests import make_pool, order

logging.getLogger("asyncio").setLevel(logging.ERROR)  # which reports slow tasks in development mode
document = {"env": ["TZ"], "egress": ["API.example.com"], "sql": [{"name": "q", "operation": "read"}]}
resources = [None, Resource("env_var", "TZ"), Resource("env_var"), Resource("host", "api.EXAMPLE.com"),
             Resource("host", "ap\\u0131.example.com"), Resource("sql_query", "q"), Resource("sql_query", "\\ud800")]
questions = [PolicyInput(action, User("\\u00e9"), resource, None, Environment(), stamp)
             for action in ("env.read", "http.outbound", "db.read", "db.write", "nothing.known", "")
             for resource in resources for stamp in (0, -1)]
limits = Limits(deadline=30.0)

async def main():
    checkers = [LocalPolicyChecker(RuntimePolicy.from_document(document))]
    guests = []
    for engine in sys.argv[1:]:
        pool = WasmPool(WasmArtifact.from_bytes(build_policy(document)), 2, engine, limits)
        checkers.append(WasmPolicyChecker(pool))
        guests.append(WasmPolicyChecker(make_pool(engine)))
    for checker in checkers:
        async with checker:
            print(json.dumps([canonical(await checker.evaluate(q)).decode() for q in questions]))
    for checker in guests:
        async with checker:
            print(json.dumps([canonical(await checker.evaluate(order(what))).decode() for what in range(11)]))

for backend in ("asyncio", "trio"):
    anyio.run(main, backend=backend)
"""

MODES: dict[str, tuple[list[str], dict[str, str]]] = {
    "optimized": (["-O", "-O"], {}),
    "development": (["-X", "dev", "-W", "error"], {}),
    "hash seed": ([], {"PYTHONHASHSEED": "1"}),
    "locale and time zone": (
        [],
        {"LC_ALL": "tr_TR.ISO-8859-9", "LANG": "C", "TZ": "Asia/Kathmandu", "PYTHONUTF8": "0"},
    ),
}


def decisions(options: list[str], environment: dict[str, str]) -> list[str]:
    engines = ["wasmer", "wasmtime"] if sys.version_info < (3, 11) else ["wasmtime"]
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM, *engines],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    told = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(told) >= 2 * len(engines)  # some guests run out of fuel, of which each of their pools warns
    assert all("CAPGATE_FUEL" in line for line in told)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def expected() -> list[str]:
    lines = decisions([], {"PYTHONHASHSEED": "0"})
    assert len(set(lines)) == 2  # one from every checker of the document, and one from every guest that is told
    reasons = {json.loads(answer).get("reason") for line in set(lines) for answer in json.loads(line)}
    assert reasons >= {None, "unknown_action", "missing_resource", "not_in_allowlist", "malformed_input", "policy_trap"}
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_mode_changes_no_decision(mode: str, expected: list[str]) -> None:  # C12
    assert decisions(*MODES[mode]) == expected
