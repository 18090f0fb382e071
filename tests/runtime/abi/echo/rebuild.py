"""Makes ``echo.wasm`` from ``echo.zig``: ``python -m tests.runtime.abi.echo.rebuild``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from capgate.artifact.guest.rebuild import FEATURES, compiler

HERE: Final = Path(__file__).resolve().parent
COMMITTED: Final = HERE / "echo.wasm"
CHECK: Final = "capgate:policy/policy@0.2.0#policy-check"
_OPTIONS: Final = (
    *("build-exe", "echo.zig", "-target", "wasm32-freestanding", f"-mcpu={FEATURES}", "-O", "ReleaseSmall"),
    *("-fno-entry", "-fstrip", "-fsingle-threaded", "--stack", "16384"),
    *(f"--export={name}" for name in ("cabi_realloc", CHECK, f"cabi_post_{CHECK}")),
    "-femit-bin=echo.wasm",
)


def compile_guest() -> bytes:
    """Compile the source in a folder of its own, so that no path and no cache has a say in it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "echo.zig", folder)
        caches = ("--cache-dir", f"{folder}/cache", "--global-cache-dir", f"{folder}/global")
        subprocess.run([compiler(), *_OPTIONS, *caches], cwd=folder, check=True)
        return Path(folder, "echo.wasm").read_bytes()


if __name__ == "__main__":
    COMMITTED.write_bytes(compile_guest())
