"""What happens before the first request: a document becomes a module, and the module an instance that answers."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from capgate import Limits, build_policy, load_wasm_artifact
from capgate.runtime.engine import available_engines, load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy

from .questions import document
from .report import Case, Row
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
    return case


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
