"""What is published: a source distribution with everything that a checkout has, a wheel with the package alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

from ..support.command import environment
from ..support.tools import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAME: Final = f"capgate-{PROJECT['project']['version']}"


def run(arguments: list[str], folder: Path, **changes: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of what builds distributions, in the version that the project asks for."""
    folder = tmp_path_factory.mktemp("backend")
    run(["pip", "install", "--quiet", "--target", str(folder), *PROJECT["build-system"]["requires"]], folder)
    return str(folder)


def build(backend: str, tree: Path, folder: Path) -> tuple[Path, Path]:
    """Build both distributions of ``tree`` into ``folder``: the source distribution, the wheel."""
    run(["hatchling", "build", "-d", str(folder)], tree, PYTHONPATH=backend)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def built(backend: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(backend, ROOT, tmp_path_factory.mktemp("distributions"))


def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_source_distribution_has_what_a_checkout_has(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "docs/conf.py", ".ci/run"} <= packed
    for folder in ("capgate", "docs", "tests", "examples", "benchmarks"):
        for suffix in (".py", ".md", ".svg", ".css", ".wasm", ".wit", ".json"):
            there = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(f"*{suffix}")}
            assert there <= packed, (folder, suffix)
    assert [name for name in packed if "__pycache__" in name or name.startswith(("build/", ".venv/"))] == []


def test_the_wheel_has_the_package_alone(built: tuple[Path, Path]) -> None:
    assert {name.partition("/")[0] for name in files(built[1])} == {"capgate", f"{NAME}.dist-info"}


def test_the_source_distribution_builds_the_same_wheel(built: tuple[Path, Path], backend: str, tmp_path: Path) -> None:
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    assert os.fspath(tree).endswith(NAME)
    (tmp_path / "built").mkdir()
    _, wheel = build(backend, tree, tmp_path / "built")
    assert files(wheel) == files(built[1])


#: What a fresh environment has to be able to do: one question, answered by a module.
ANSWERS: Final = (
    "import asyncio; from capgate import *\n"
    "async def ask():\n"
    "    policy = WasmArtifact.from_bytes(build_policy({'cache': 'any'}))\n"
    "    async with WasmPolicyChecker(WasmPool(policy)) as checker:\n"
    "        return await checker.check(PolicyInput('cache.read', resource=Resource('namespace', 'a')))\n"
    "print(asyncio.run(ask()))\n"
)


@pytest.mark.parametrize(("number", "versions"), [(0, "newest"), (1, "lowest")], ids=["source-newest", "wheel-lowest"])
def test_each_installs_in_a_fresh_environment(
    built: tuple[Path, Path], tmp_path: Path, number: int, versions: str
) -> None:
    pins = tmp_path / "pins.txt"
    lowest = [requirement.replace(">=", "==").split(";") for requirement in PROJECT["project"]["dependencies"]]
    lines = [";".join([pin if "wasmer" in pin else f"{pin.strip()}.*", *marker]) for pin, *marker in lowest]
    pins.write_text("\n".join(lines) if versions == "lowest" else "")
    run(["venv", str(tmp_path / "fresh")], tmp_path)
    python = str(tmp_path / "fresh/bin/python")
    for arguments in (["-m", "pip", "install", "--quiet", "-c", str(pins), str(built[number])], ["-c", ANSWERS]):
        done = subprocess.run(
            [python, *arguments],
            cwd=tmp_path,
            env={name: value for name, value in environment().items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == "Allow()\n"
