"""Makes ``conditions_guest.wasm`` from its source: ``python -m tests.artifact.guest.rebuild_conditions``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from capgate.artifact.guest import rebuild

HERE: Final = Path(__file__).resolve().parent
COMMITTED: Final = HERE / "conditions_guest.wasm"
_SOURCES: Final = (rebuild.HERE / "conditions.zig", HERE / "conditions_guest.zig")
_OPTIONS: Final = (
    *("build-exe", "conditions_guest.zig", *rebuild.OPTIONS, "--stack", str(rebuild.FACTS_STACK)),
    *("--initial-memory=8388608", "--max-memory=8388608", "--export=answer", "-femit-bin=conditions_guest.wasm"),
)


def compile_guest() -> bytes:
    """The module that the source gives, compiled in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for source in _SOURCES:
            shutil.copy(source, folder)
        caches = ("--cache-dir", f"{folder}/cache", "--global-cache-dir", f"{folder}/global")
        subprocess.run([rebuild.compiler(), *_OPTIONS, *caches], cwd=folder, check=True)
        return Path(folder, "conditions_guest.wasm").read_bytes()


if __name__ == "__main__":
    COMMITTED.write_bytes(compile_guest())
