"""From a file to an instance each thing is done once: decoding, metering, compiling (T-12)."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import capgate
from capgate.artifact.load import load_wasm_artifact
from capgate.cli.policy.questions import Asker
from capgate.errors import EngineUnavailable, RestrictedModule
from capgate.limits import Limits
from capgate.model import ALLOW
from capgate.runtime import engine as engines
from capgate.runtime import interpreter
from capgate.runtime.engine import child_compilation, load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy
from capgate.runtime.pool import WasmPool
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings
from capgate.store.release_fixtures import Fixture
from capgate.testing.golden import PolicyUnderTest, Runner

from ...support.guests import artifact, guest
from ...support.stores import Shelf, ask

PATIENT: Final = Limits(deadline=20.0)
#: Too large to be compiled without a child.
LARGE: Final = guest(extra=f"(func (param i32) (result i32) (local.get 0) {'i32.eqz ' * 20_000})")


@pytest.fixture
def done(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each is done to a large module."""
    counts: Counter[str] = Counter()
    decoder: Any = importlib.import_module("capgate.wasm.decode")._Decoder
    metering: Any = importlib.import_module("capgate.wasm.metering.rewrite").Rewriter
    engine = type(load_engine(engine_name))

    def counted(owner: Any, name: str, what: Callable[[Any], str]) -> None:
        original = getattr(owner, name)

        def call(self: Any, *arguments: Any) -> Any:
            counts[what(self)] += 1
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, call)

    counted(decoder, "code_section", lambda self: "decode" if self.bodies and len(self.source) > 20_000 else "glance")
    counted(metering, "guest_bodies", lambda self: "meter")
    counted(engine, "compile", lambda self: "compile")
    counted(engine, "load", lambda self: "load")
    child = engines.compile_in_child

    def compile_in_child(*arguments: Any) -> bytes:
        counts["child"] += 1
        return child(*arguments)

    monkeypatch.setattr(interpreter, "compile_in_child", compile_in_child)
    return counts


def once(done: Counter[str]) -> None:
    del done["glance"]
    assert done == {"decode": 1, "meter": 1, "child": 1, "load": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "policy.wasm").write_bytes(LARGE)
    return tmp_path / "policy.wasm"


async def test_a_pool(engine_name: str, path: Path, done: Counter[str]) -> None:
    async with WasmPool(load_wasm_artifact(path), 3, engine_name, PATIENT) as pool:
        assert pool.call(ask(1)) == ALLOW
    once(done)


async def test_settings_that_name_a_file(engine_name: str, path: Path, done: Counter[str]) -> None:
    settings = Settings(artifact=path, engine=engine_name, limits=PATIENT, pool_size=2)
    async with select_checker(settings) as checker:
        assert await checker.check(ask(1)) == ALLOW
    once(done)


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_store(engine_name: str, tmp_path: Path, done: Counter[str], pinned: bool) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, LARGE)
    pin = {"artifact_sha256": artifact(LARGE).sha256, "trusted_keys": None, "require_signature": False}
    done.clear()
    async with select_checker(shelf.settings(engine=engine_name, **(pin if pinned else {}))) as checker:
        assert await checker.check(ask(1)) == ALLOW
    once(done)


def test_commands_that_ask(engine_name: str, path: Path, done: Counter[str]) -> None:
    assert Asker(load_wasm_artifact(path), engine_name, PATIENT).ask(ask(1)) == ALLOW
    once(done)


def test_golden_fixtures(engine_name: str, path: Path, done: Counter[str]) -> None:
    runner = Runner(PolicyUnderTest.load(path, PATIENT), [engine_name])
    assert runner.judge(Fixture(ask(1), ALLOW)).passed
    once(done)


def test_another_policy_of_the_same_artifact(done: Counter[str]) -> None:
    """What was decoded is let go of, so that it takes no memory while the policy runs."""
    loaded = artifact(LARGE)
    for decoded in (1, 2):
        assert PreparedPolicy(loaded, Limits()).metered.data
        assert (done["decode"], done["meter"]) == (decoded, decoded)


def test_machine_code_of_something_else_is_not_loaded(engine_name: str) -> None:
    prepared = PreparedPolicy(artifact(guest()), Limits())
    compiled = CompiledPolicy(prepared, load_engine(engine_name))
    engine, code = compiled.engine, compiled.module.code()
    assert engine.load(code).instantiate().memory_size() == 65_536
    with pytest.raises(RestrictedModule) as caught:
        engine.load(prepared.original)
    assert caught.value.rule == "invalid_code"


def test_what_the_child_gives_back() -> None:
    """Lines of others count for nothing, be it in front, and machine code may look like lines."""
    code = b"\0\n\nsecret failed x\n\xff"
    output = b"noise\nother compiled 3\nsecret ready \nsecret compiled " + str(len(code)).encode() + b"\n" + code
    assert child_compilation._read(output, "secret") == ({"ready": "", "compiled": str(len(code))}, code)
    assert child_compilation._read(b"secret ready \nsecret failed why\n", "secret") == (
        {"ready": "", "failed": "why"},
        b"",
    )


@pytest.mark.parametrize("cut", [1, 1_000])
def test_machine_code_that_did_not_come_whole(engine_name: str, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = child_compilation._run

    def cut_short(data: bytes, wall: float) -> subprocess.CompletedProcess[bytes]:
        done = run(data, wall)
        done.stdout = done.stdout[:-cut]
        return done

    monkeypatch.setattr(child_compilation, "_run", cut_short)
    with pytest.raises(EngineUnavailable):
        WasmPool(artifact(LARGE), engine=engine_name)


def test_the_child_imports_nothing_that_only_applications_need(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[str] = []
    popen = subprocess.Popen

    def opened(command: list[str], **options: Any) -> Any:
        programs.append(command[-1])
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", opened)
    prepared = PreparedPolicy(artifact(LARGE), PATIENT)
    assert child_compilation.compile_in_child(load_engine(engine_name), LARGE, prepared.metered.data, PATIENT)
    monkeypatch.undo()
    program = programs[0].replace("run(job)", "print(*sys.modules)")
    assert program != programs[0]
    job = json.dumps({"path": sys.path, "package": list(capgate.__path__)})
    command = [sys.executable, "-I", "-c", program]
    listed = subprocess.run(command, input=job, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert "capgate.runtime.engine.compiling_child" in listed
    assert not {"starlette", "anyio", "capgate.middleware", "capgate.checker"} & set(listed)
