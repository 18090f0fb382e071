"""The package as it is published: its names, its version, its files, its layers."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path
from typing import Final

import pytest

import capgate

from ..support.tools import ROOT, require_module

SOURCES: Final = sorted((ROOT / "capgate").rglob("*.py"))
TEMPLATES: Final = sorted((ROOT / "capgate").rglob("*.template"))


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## \[([^]]+)]", changelog, re.MULTILINE)
    assert found is not None
    assert found[1] == version("capgate") == capgate.__version__
    headings = re.findall(r"^### (.+)$", changelog.split("\n## ")[1], re.MULTILINE)
    assert headings[0] == "Security"


def test_every_dependency_is_explained() -> None:
    stated = {re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in requires("capgate") or ()} - {"capgate"}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert {"wasmtime", "hypothesis", "ruff"} <= stated
    assert {name for name in stated if f"`{name}`" not in changelog} == set()


def test_every_module_and_every_public_name_has_a_docstring() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
    for name in capgate.__all__:
        value = getattr(capgate, name)
        assert not (inspect.isclass(value) or inspect.isfunction(value)) or inspect.getdoc(value), name


# C12: python -O drops assertions.
def test_nothing_guards_with_an_assertion() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), f"{path.name}:{node.lineno}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_has_what_the_package_needs_at_run_time(wheel: zipfile.ZipFile) -> None:
    packed = set(wheel.namelist())
    assert len(TEMPLATES) >= 6
    needed = {"capgate/py.typed", "capgate/runtime/abi/policy.wit", "capgate/artifact/guest/evaluator.wasm"}
    needed |= {"capgate/runtime/abi/policy-0.2.0.wit"}
    needed |= {str(path.relative_to(ROOT)) for path in SOURCES}
    needed |= {str(path.relative_to(ROOT)) for path in TEMPLATES}
    assert needed - packed == set()
    assert not any(name.startswith(("tests/", "fixtures/", "examples/")) for name in packed)
    assert any(name.endswith("/LICENSE") for name in packed)


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import capgate; from capgate import *;"
        "policy = WasmInterpreter(WasmArtifact.from_bytes(build_policy({'cache': 'any'})));"
        "question = PolicyInput('cache.read', resource=Resource('namespace', 'sessions'));"
        "print(capgate.__file__, policy.call_policy_check(question))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path}/capgate/__init__.py Allow()\n", "")


@pytest.mark.slow  # the linter is the developers'
def test_imports_go_one_way() -> None:
    require_module("importlinter")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
