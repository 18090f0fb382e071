"""Make ``opa.wasm`` from ``opa.zig`` and the evaluator: ``python tests/rego/guest/rebuild.py [--check]``.

As ``capgate/artifact/guest/rebuild.py``, by the same pinned compiler.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from capgate.artifact.guest import rebuild

HERE = Path(__file__).resolve().parent
OPTIONS = (
    "build-exe",
    "opa.zig",
    *(*rebuild.OPTIONS, "--stack", "16384"),
    *("--import-memory", "--initial-memory=65536", "-rdynamic"),
    "-femit-bin=opa.wasm",
)


def compile_guest() -> bytes:
    """The module that the sources give."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "opa.zig", folder)
        for source in rebuild.SOURCES:
            shutil.copy(rebuild.HERE / source, folder)
        caches = ("--cache-dir", f"{folder}/cache", "--global-cache-dir", f"{folder}/global")
        subprocess.run([rebuild.compiler(), *OPTIONS, *caches], cwd=folder, check=True)
        return Path(folder, "opa.wasm").read_bytes()


def main(arguments: list[str]) -> int:
    """As the program."""
    if arguments not in ([], ["--check"]):
        raise SystemExit("usage: rebuild.py [--check]")
    committed, built = HERE / "opa.wasm", compile_guest()
    if not arguments:
        committed.write_bytes(built)
    return 0 if committed.read_bytes() == built else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
