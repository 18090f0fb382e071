"""Modules that are made to be slow or large to compile are refused, and nothing else is.  # G16 G17"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path

import anyio.to_thread
import psutil
import pytest

from capgate.artifact.build import build_policy
from capgate.errors import CapgateError, EngineUnavailable, RestrictedModule
from capgate.limits import Limits
from capgate.model import ALLOW, Entrypoint, PolicyInput
from capgate.runtime import interpreter
from capgate.runtime.engine import Engine, child_compilation, compile_in_child, is_small, load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from capgate.runtime.pool import WasmPool
from capgate.wasm import meter

from ...support.guests import artifact, guest, wat
from ...support.opa_guest import opa_guest
from ...support.packing import pack, with_files
from ...support.rego_guests import opa_policy
from ...support.tools import ROOT

pytestmark = pytest.mark.slow

INPUT = PolicyInput("db.read")
PLENTY = Limits(compile_seconds=120.0, compile_megabytes=8_192)
#: What each engine is asked for in vain: little time, little memory.
BOUNDED = {
    "compile_time": Limits(compile_seconds=0.2, compile_megabytes=8_192),
    "compile_memory": Limits(compile_seconds=120.0, compile_megabytes=64),
}


def unused(code: str) -> bytes:
    """A policy that allows, with a function of that code beside, which nobody calls."""
    return guest(extra=f"(func (param i32) (result i32) (local.get 0) {code})")


@lru_cache(maxsize=1)
def bomb() -> bytes:
    """75 kB of code, which take wasmtime some five seconds and a gigabyte, wasmer half a second and 130 MB."""
    return unused("f32.convert_i32_s i32.trunc_f32_s " * 37_500)


@lru_cache(maxsize=1)
def harmless() -> bytes:
    """Five times as large as what needs no child."""
    return unused("i32.const 1 drop " * 15_000)


@pytest.mark.parametrize("rule", BOUNDED)
def test_bombs_are_refused_by_what_they_exceed(engine_name: str, rule: str) -> None:  # G16 G17
    for make in (WasmPool, WasmInterpreter):
        with pytest.raises(RestrictedModule) as caught:
            make(artifact(bomb()), engine=engine_name, limits=BOUNDED[rule])
        assert (caught.value.rule, caught.value.where) == (rule, engine_name)


def test_there_is_no_way_round(engine_name: str) -> None:  # G16
    """Neither by asking again, nor by leaving the pool out."""
    prepared = PreparedPolicy(artifact(bomb()), BOUNDED["compile_time"])
    for _ in range(2):
        with pytest.raises(RestrictedModule) as caught:
            CompiledPolicy(prepared, load_engine(engine_name))
        assert caught.value.rule == "compile_time"


#: Little code that a compiler makes much of: by name, the code, and what else the module has.
WIDE = "(param i32 i32 i32 i32 i32 i32 i32 i32) (result i32 i32 i32 i32 i32 i32 i32 i32)"
SHAPES = {
    "values that blocks hand on": f"(func (param i32) {'(local.get 0)' * 8}"
    f"{f'(if {WIDE} (local.get 0) (then) (else))' * 1_400} {'drop ' * 8})" * 6,
    "indirect calls": "(table 1 funcref) (type $t (func (param i32) (result i32))) (func (param i32) (result i32)"
    f"(local.get 0) {'(call_indirect (type $t) (local.get 0))' * 6_000})",
    "loops and locals": f"(func (param i32) (local {'i64 ' * 1_000}) {'(loop ' * 300}"
    f"{''.join(f'(drop (local.get {i}))' for i in range(1, 1_001))} (br_if 0 (local.get 0)) {')' * 300})",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_grow_faster_than_the_code(engine_name: str, shape: str) -> None:  # G16 G17
    limits = Limits(compile_seconds=0.1, compile_megabytes=64)
    with pytest.raises(RestrictedModule) as caught:
        WasmPool(artifact(guest(extra=SHAPES[shape])), engine=engine_name, limits=limits)
    assert caught.value.rule in ("compile_time", "compile_memory")


def test_a_large_module_that_is_harmless(engine_name: str) -> None:
    assert not is_small(meter(harmless()).data)
    assert WasmInterpreter(artifact(harmless()), engine=engine_name).call_policy_check(INPUT) == ALLOW
    lowest = Limits(compile_megabytes=64)
    assert WasmInterpreter(artifact(harmless()), engine=engine_name, limits=lowest).call_policy_check(INPUT) == ALLOW


def test_what_is_invalid_is_refused_as_such(engine_name: str) -> None:
    """By the child, and of both modules."""
    engine, metered = load_engine(engine_name), meter(harmless()).data
    ill_typed = wat("(module (func (result i64) i64.const 0))").replace(b"\x42\0\x0b", b"\x41\0\x0b")
    for original, rewritten in ((ill_typed, metered), (harmless(), ill_typed)):
        with pytest.raises(RestrictedModule) as caught:
            compile_in_child(engine, original, rewritten, PLENTY)
        assert (caught.value.rule, caught.value.where) == ("invalid_module", engine_name)


# -- when there is a child


async def test_once_for_each_policy_and_engine(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def count(engine: Engine, original: bytes, metered: bytes, limits: Limits) -> None:
        tried.append(engine.name)
        compile_in_child(engine, original, metered, limits)

    monkeypatch.setattr(interpreter, "compile_in_child", count)
    limits = Limits(deadline=20.0)
    async with WasmPool(artifact(harmless()), 4, engine_name, limits) as pool:
        assert tried == [engine_name]
        assert [await pool.wait_and_call(INPUT) for _ in range(10)] == [ALLOW] * 10
        assert await anyio.to_thread.run_sync(pool.call, INPUT) == ALLOW
    assert tried == [engine_name]


@pytest.fixture
def no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever needs a child notices."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")


@pytest.mark.usefixtures("no_interpreter")
def test_small_policies_and_those_built_by_capgate_need_none(engine_name: str) -> None:
    document = {"sql": [f"query-{number}-with-a-name-of-some-length" for number in range(50_000)]}
    for data in (guest(), build_policy({"sql": []}), build_policy(document)):
        WasmInterpreter(artifact(data), engine=engine_name)
    assert not is_small(meter(build_policy(document)).data)


@pytest.mark.usefixtures("no_interpreter")
def test_a_module_of_opas_abi_needs_one_like_any_other(engine_name: str) -> None:  # G16
    """That its state can be restored, so that its instances are used again, says nothing of what compiling it takes."""
    large = opa_policy({"sql": ["a"]})
    for data in (large, pack(with_files(module=large))):
        for make in (WasmPool, WasmInterpreter):
            with pytest.raises(EngineUnavailable):
                make(artifact(data), engine=engine_name, entrypoint=Entrypoint("capgate/decision"))
    WasmInterpreter(artifact(opa_guest()), engine=engine_name)  # a small one


def test_bombs_of_opas_abi_are_refused(engine_name: str) -> None:  # G16 G17
    shape = SHAPES["values that blocks hand on"]
    data = opa_guest(start="", extra=shape)
    limits = Limits(compile_seconds=0.1, compile_megabytes=64)
    with pytest.raises(RestrictedModule) as caught:
        WasmPool(artifact(data), engine=engine_name, limits=limits)
    assert caught.value.rule in ("compile_time", "compile_memory")


@pytest.mark.parametrize("size", ["code", "data", "signature"])
@pytest.mark.usefixtures("no_interpreter")
def test_what_is_larger_in_one_way_needs_one(engine_name: str, size: str) -> None:
    code = f"(func (param i32) (result i32) (local.get 0) {'i32.eqz ' * (child_compilation.SMALL_CODE - 1_000)})"
    data = f'(memory 32) (data (i32.const 0) "{"x" * (child_compilation.SMALL_DATA - 100)}")'
    signature = f"(type (func (param {'i32 ' * (child_compilation.SMALL_SIGNATURE - 1)}) (result i32)))"
    small = {"code": code, "data": data, "signature": signature}[size]
    larger = {
        "code": code.replace("i32.eqz", "i32.eqz " * 1_000, 1),
        "data": data.replace("x", "x" * 200, 1),
        "signature": signature.replace("i32", "i32 i32", 1),
    }[size]
    assert (is_small(meter(wat(f"(module {small})")).data), is_small(meter(wat(f"(module {larger})")).data)) == (
        True,
        False,
    )
    with pytest.raises(EngineUnavailable):
        compile_in_child(
            load_engine(engine_name), wat(f"(module {larger})"), meter(wat(f"(module {larger})")).data, PLENTY
        )


# -- what becomes of the child


def children() -> set[psutil.Process]:
    """Of this process; other tests may have some, too."""
    return set(psutil.Process().children())


def no_program(folder: Path) -> str:
    return ""


def no_file(folder: Path) -> str:
    return str(folder / "nothing")


def a_folder(folder: Path) -> str:
    return str(folder)


def script(text: str, folder: Path) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


#: Programs in the interpreter's place which do not compile anything.
OTHERS: dict[str, Callable[[Path], str]] = {
    "not there": no_file,
    "a folder": a_folder,
    "no name": no_program,
    "content": lambda folder: script("exit 0", folder),
    "says yes": lambda folder: script("echo compiled", folder),
    "repeats": lambda folder: script("cat", folder),
    "fails": lambda folder: script("exit 3", folder),
    "kills itself": lambda folder: script("kill -9 $$", folder),
}


@pytest.mark.parametrize("other", OTHERS)
def test_anything_but_an_interpreter_is_no_success(
    other: str, engine_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C1
    monkeypatch.setattr(sys, "executable", OTHERS[other](tmp_path))
    with pytest.raises(EngineUnavailable) as caught:
        WasmPool(artifact(harmless()), engine=engine_name)
    assert caught.value.engine == engine_name


def test_an_interpreter_that_hangs_is_ended(engine_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = children()
    monkeypatch.setattr(sys, "executable", script("exec sleep 1000", tmp_path))
    monkeypatch.setattr(child_compilation, "STARTING", 0.2)
    with pytest.raises(EngineUnavailable):
        WasmPool(artifact(harmless()), engine=engine_name, limits=Limits(compile_seconds=0.1))
    assert children() <= others


def test_a_child_does_not_start_another(monkeypatch: pytest.MonkeyPatch, engine_name: str) -> None:
    """Nor does a frozen application, whose executable would start the application again."""
    monkeypatch.setenv(child_compilation.MARK, "1")
    with pytest.raises(EngineUnavailable):
        WasmPool(artifact(harmless()), engine=engine_name)
    monkeypatch.delenv(child_compilation.MARK)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(EngineUnavailable):
        WasmPool(artifact(harmless()), engine=engine_name)


def compiling_child(thread: threading.Thread, others: set[psutil.Process]) -> psutil.Process:
    """The child that ``thread`` waits for, once it compiles: that is when it has a second thread."""
    while thread.is_alive():
        with suppress(psutil.NoSuchProcess):
            for child in children() - others:
                if child.num_threads() > 1:
                    return child
        time.sleep(0.005)
    pytest.fail("it ended too soon")


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        (signal.SIGKILL, "compile_memory"),  # what the kernel sends where memory is short
        (signal.SIGSEGV, "compile_crash"),
        (signal.SIGTERM, "compile_crash"),
        (signal.SIGXCPU, "compile_time"),
        pytest.param(signal.SIGSTOP, "compile_time", marks=pytest.mark.slow),  # only the clock notices
    ],
)
def test_a_child_that_is_ended_or_stopped(
    number: int, rule: str, engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P14; of the workers there are, this alone is a process, and it answers nobody
    if number == signal.SIGSTOP:
        monkeypatch.setattr(child_compilation, "STARTING", 6.0)  # it has to compile by then
        monkeypatch.setattr(child_compilation, "PATIENCE", 0.0)
    others = children()
    found: list[CapgateError] = []
    slow = unused("f32.convert_i32_s i32.trunc_f32_s " * 80_000)

    def work() -> None:
        try:
            WasmPool(artifact(slow), engine=engine_name, limits=PLENTY)
        except CapgateError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    compiling_child(thread, others).send_signal(number)
    thread.join()
    [error] = found
    assert isinstance(error, RestrictedModule)
    assert error.rule == rule
    assert children() <= others


# -- where it has to work

PLACES = """
import os, signal, sys, threading
from capgate import Limits, WasmArtifact, WasmPool
from capgate.errors import CapgateError, RestrictedModule

place, engine, harmless, bomb = sys.argv[1:]

def outcome(path):
    data = open(path, "rb").read()
    try:
        WasmPool(WasmArtifact.from_bytes(data), engine=engine, limits=Limits(compile_seconds=0.2))
    except RestrictedModule as error:
        return error.rule
    return "compiled"

def report():
    print(outcome(harmless), outcome(bomb), flush=True)

if place == "no children":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
elif place == "signals ignored and blocked":
    for number in (signal.SIGPROF, signal.SIGXCPU, signal.SIGABRT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
elif place == "no input":
    os.close(0)
    os.close(2)
elif place == "no environment":
    os.environ.clear()
elif place == "small stacks":
    threading.stack_size(256 * 1024)
elif place == "a folder that is gone":
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
if place in ("a thread", "small stacks"):
    thread = threading.Thread(target=report)
    thread.start()
    thread.join()
elif place == "a fork":
    pid = os.fork()
    if not pid:
        report()
        os._exit(0)
    os.waitpid(pid, 0)
else:
    report()
"""


@pytest.mark.parametrize(
    "place",
    [
        *("the main thread", "a thread", "a fork", "optimised", "no children", "signals ignored and blocked"),
        *("no input", "no environment", "small stacks", "a folder that is gone"),
    ],
)
def test_wherever_an_application_starts(place: str, engine_name: str, tmp_path: Path) -> None:
    (tmp_path / "harmless").write_bytes(harmless())
    (tmp_path / "bomb").write_bytes(bomb())
    options = ["-OO"] if place == "optimised" else []
    done = subprocess.run(
        [
            sys.executable,
            *options,
            "-c",
            PLACES,
            place,
            engine_name,
            str(tmp_path / "harmless"),
            str(tmp_path / "bomb"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    words = done.stdout.split()
    # Where nobody hears how a child ended, the reason is a guess.
    guess = ["compile_crash"] if place == "no children" else []
    assert words[:1] == ["compiled"], done.stderr
    assert words[1:] in ([rule] for rule in ("compile_time", *guess))


def test_the_child_leaves_nothing_behind(engine_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No output, no file here, no child, no signal handler."""
    monkeypatch.chdir(tmp_path)
    others = children()
    handlers = [signal.getsignal(number) for number in (signal.SIGPROF, signal.SIGXCPU, signal.SIGCHLD)]
    for data, limits in ((harmless(), PLENTY), (bomb(), BOUNDED["compile_memory"]), (bomb(), BOUNDED["compile_time"])):
        with pytest.raises(RestrictedModule) if data is bomb() else nullcontext():
            WasmPool(artifact(data), engine=engine_name, limits=limits)
    assert list(tmp_path.iterdir()) == []
    assert children() <= others
    assert handlers == [signal.getsignal(number) for number in (signal.SIGPROF, signal.SIGXCPU, signal.SIGCHLD)]


def test_what_the_child_prints_goes_nowhere(engine_name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RestrictedModule):
        WasmPool(artifact(bomb()), engine=engine_name, limits=BOUNDED["compile_memory"])
    assert capfd.readouterr() == ("", "")
