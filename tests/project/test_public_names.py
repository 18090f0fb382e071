"""The names that users import: all are there, each in a fresh interpreter, and ``import capgate`` needs no extra."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
from typing import Final

import pytest

import capgate

from ..support.command import environment

#: By module, what documentation and users' programs import. A name may be added, none may go.
PROMISED: Final[dict[str, tuple[str, ...]]] = {
    "capgate": (
        *("Allow", "Anonymous", "BuiltinAction", "Capabilities", "CapabilityDenied", "CapabilityMiddleware"),
        *("CompilerTool", "Deny"),
        *("Entrypoint", "Environment", "HandlerContract", "Limits", "LocalPolicyChecker", "PolicyChecker"),
        *("PolicyInput", "PolicyResult", "Resource", "RuntimePolicy", "Service", "Settings", "User", "WasmArtifact"),
        *(
            "WasmInterpreter",
            "WasmPolicyChecker",
            "WasmPool",
            "actor_from_claims",
            "build_policy",
            "load_wasm_artifact",
            "requires",
        ),
        "TypedRequires",
        "select_checker",
    ),
    "capgate.capabilities": ("Capabilities", "CapabilityDenied", "capabilities_for", "current", "using"),
    "capgate.capabilities.cache": ("AsyncGatedConnection", "GatedConnection", "gate_redis"),
    "capgate.capabilities.compute": ("GatedLimiter",),
    "capgate.capabilities.environ": ("GatedEnviron",),
    "capgate.capabilities.files": ("GatedFiles",),
    "capgate.capabilities.http": ("AsyncGatedTransport", "GatedTransport", "gated_async_client", "gated_client"),
    "capgate.capabilities.mcp": ("GatedMCP",),
    "capgate.capabilities.sql": ("gate_engine", "named", "query_name"),
    "capgate.capabilities.tools": ("canonical_hash", "gated_tool"),
    "capgate.checker": ("DENIED", "LocalPolicyChecker", "PolicyChecker", "WasmPolicyChecker"),
    "capgate.fastapi": ("Gate", "Requires", "get_capabilities"),
    "capgate.metrics": ("Metrics",),
    "capgate.middleware": ("CapabilityMiddleware", "actor_from_claims", "actor_from_user", "on_behalf_of_header"),
    "capgate.settings": ("PREFIX", "VARIABLES", "Settings", "select_checker"),
    "capgate.testing": (*("Asked", "RecordedGate", "check_fixtures", "make_checker", "read_fixtures", "run_fixtures"),),
    "capgate.testing.golden": (
        *("Fixture", "Outcome", "PolicyUnderTest", "check_fixtures", "check_release", "coverage_of", "read_fixtures"),
        *("release_file", "run_fixtures"),
    ),
    "capgate.testing.plugin": ("capgate_checker", "capgate_gate", "pytest_addoption", "pytest_collect_file"),
    "capgate.wasm": ("decode", "encode", "meter"),
}

#: The packages of each distribution of the extras that is imported by another name.
IMPORTED: Final = {
    "google-re2": "re2",
    "prometheus-client": "prometheus_client",
    "pyjwt": "jwt",
    "pyyaml": "yaml",
}
#: Extras for those who work on capgate itself.
OWN: Final = frozenset({"bench", "dev", "docs", "guest", "test"})


def extras() -> set[str]:
    """What the extras for users install, by the names that are imported."""
    packages = set()
    for requirement in importlib.metadata.requires("capgate") or ():
        extra = re.search(r"extra == '(\w+)'", requirement)
        if extra is not None and extra[1] not in OWN:
            name = re.split(r"[^A-Za-z0-9-]", requirement)[0].lower()
            packages.add(IMPORTED.get(name, name))
    return packages


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), code
    return done.stdout


def test_the_list_of_all_names_is_complete_and_sorted() -> None:
    public = {name for name, value in vars(capgate).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(capgate.__all__) == public - {"annotations"}
    assert list(capgate.__all__) == sorted(capgate.__all__)
    assert set(capgate.__all__) == set(PROMISED["capgate"])


@pytest.mark.slow
@pytest.mark.parametrize("module", PROMISED)
def test_each_name_imports_in_a_fresh_interpreter(module: str) -> None:
    names = PROMISED[module]
    assert run(f"from {module} import {', '.join(names)}; print('imported')") == "imported\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", capgate.__all__)
def test_each_name_of_the_package_imports_alone(name: str) -> None:
    assert run(f"from capgate import {name}; print({name} is not None)") == "True\n"


def test_the_package_alone_imports_nothing_of_the_extras() -> None:
    there = set(json.loads(run("import sys, json, capgate; print(json.dumps(sorted(sys.modules)))")))
    packages = extras()
    assert {"cryptography", "httpx", "redis", "sqlalchemy", "typer", "prometheus_client", "re2", "yaml"} <= packages
    assert packages & there == set()
    # Nor the rooms that need them, or are for others than applications.
    rooms = {"cli", "fastapi", "metrics", "testing"}
    assert {f"capgate.{room}" for room in rooms} & there == set()
