"""What happens before the first request: a document becomes a module, and the module an instance that answers.

And a module of somebody else's, with much code: processor time from its file to an instance, next to that of the
engine's compiler alone. The child that compiles counts as well.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import wasmtime

from capgate import Limits, build_policy, load_wasm_artifact
from capgate.runtime.engine import Engine, available_engines, load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

from .questions import document
from .report import Case, Row, figure
from .timing import summarize

SIZES = (3, 100, 10_000, 100_000)
TABLE = "From a document to an instance"


async def run(repeats: int, sizes: tuple[int, ...] = SIZES) -> Case:
    """Each step so many times in a row, in one piece: a batch is one call. By turns makes no sense here, since steps
    are compared with nothing."""
    case = Case("loading", "ms", 1e6)
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for name, values in _steps(size, Path(folder), repeats).items():
                case.rows.append(Row(name, TABLE, f"{size:,} entries", summarize(values)))
            if size == sizes[-1]:
                _foreign(case, Path(folder), LARGE if size == SIZES[-1] else SMALL)
    return case


#: Bytes of code of a module that capgate did not build; few in a quick run.
LARGE, SMALL = 1_000_000, 50_000
#: How often each is done, by turns.
_TURNS = 2
_BODY = """(func (param i32 i32) (result i32) (local i32 i64)
  (block $out (loop $next
    (local.set 2 (i32.add (i32.load offset=16 (local.get 0)) (i32.mul (local.get 1) (i32.const 31))))
    (if (i32.gt_u (local.get 2) (i32.const 70000)) (then
      (i32.store offset=8 (local.get 0) (local.get 2)) (local.set 3 (i64.extend_i32_u (local.get 2))))
     (else (local.set 1 (call %d (local.get 2) (local.get 1)))))
    (br_if $out (i32.eqz (local.get 1)))
    (local.set 1 (i32.sub (local.get 1) (i32.const 1))) (br $next)))
  (i32.xor (local.get 2) (i32.wrap_i64 (local.get 3))))"""


def foreign(size: int) -> bytes:
    """A policy module that allows, with about so many bytes of code that is like what compilers make."""
    count = size // 80
    functions = "".join(_BODY % (number % count) for number in range(count))
    return bytes(
        wasmtime.wat2wasm(
            f"""(module {functions} (memory (export "memory") 1) (func (export "cabi_realloc") (param i32 i32 i32 i32)
        (result i32) (i32.const 4096)) (func (export "capgate_one_block"))
        (func (export "capgate:policy/policy@0.1.0#policy-check") (param i32) (result i32) (i32.const 1024)))"""
        )
    )


def _foreign(case: Case, folder: Path, size: int) -> None:
    data, path = foreign(size), folder / "foreign.wasm"
    path.write_bytes(data)
    for name in available_engines():
        engine = load_engine(name)
        steps = {
            "from its file to an instance": lambda: _opened(path, engine),  # noqa: B023
            "the compiler alone, unmetered": lambda: engine.compile(data),  # noqa: B023
        }
        found: dict[str, list[float]] = {row: [] for row in steps}
        for _ in range(_TURNS):
            for row, step in steps.items():
                found[row].append(processor_time(step))
        case.rows += [
            Row(row, f"A module of {len(data):,} bytes of code", name, summarize(values))
            for row, values in found.items()
        ]
        whole, alone = (min(values) for values in found.values())
        case.notes.append(f"{name}: with {len(data):,} bytes of code, {figure(whole / alone)} times its compilation")


def _opened(path: Path, engine: Engine) -> WasmInterpreter:
    return CompiledPolicy(PreparedPolicy(load_wasm_artifact(path), Limits()), engine).instantiate()


def processor_time(step: Callable[[], Any]) -> float:
    """Nanoseconds of processor time that ``step`` takes, children included."""
    before = os.times()
    step()
    after = os.times()
    return sum(after[:4]) * 1e9 - sum(before[:4]) * 1e9


def _steps(size: int, folder: Path, repeats: int) -> dict[str, list[float]]:
    policy, path = document(size), folder / f"{size}.wasm"
    found: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        found[name] = []
        for _ in range(repeats):
            gc.collect()
            gc.disable()
            try:
                start = perf_counter_ns()
                result = step()
                found[name].append(float(perf_counter_ns() - start))
            finally:
                gc.enable()
        return result

    path.write_bytes(timed("build the module", lambda: build_policy(policy)))
    artifact = timed("load the artifact", lambda: load_wasm_artifact(path))
    prepared = timed("verify and meter it", lambda: PreparedPolicy(artifact, Limits()))
    for name in available_engines():
        engine = load_engine(name)
        compiled = timed(f"compile, {name}", partial(CompiledPolicy, prepared, engine))
        timed(f"instantiate, {name}", compiled.instantiate)
    return found
