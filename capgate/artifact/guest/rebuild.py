"""Makes the guests from their sources: ``python capgate/artifact/guest/rebuild.py [--check]``.

``evaluator.wasm`` answers the policies that look at no facts, ``facts_evaluator.wasm`` the others. The compiler comes
from PyPI: ``pip install ziglang==0.17.1``, the ``guest`` extra. With ``--check`` nothing is written: the committed
bytes are compared with what the sources give, and the exit status is 1 if they differ.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "0.17.1"
HERE = Path(__file__).resolve().parent
INTERFACE = "capgate:policy/policy@0.1.0#policy-check"
EXPORTS = ("cabi_realloc", INTERFACE, f"cabi_post_{INTERFACE}", "capgate_one_block")
SOURCES = ("evaluator.zig", "facts_evaluator.zig", "conditions.zig")
#: Bytes of the stack on which a guest notes where the facts of a question are.
FACTS_STACK = 32_768
#: What each guest has besides, and how large its stack is.
GUESTS = {"evaluator": ((), 4_096), "facts_evaluator": (("capgate_check_with_facts",), FACTS_STACK)}
#: Nothing newer than bulk memory: the oldest engine that runs the guest has a compiler of 2021.
FEATURES = "mvp+sign_ext+bulk_memory+mutable_globals"
OPTIONS = (
    *("-target", "wasm32-freestanding", f"-mcpu={FEATURES}", "-O", "ReleaseFast"),
    *("-fno-entry", "-fstrip", "-fsingle-threaded"),
)


def compiler() -> str:
    """Return the path of the pinned compiler.

    ``SystemExit`` says what to install where it is missing or another version.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise SystemExit(f"ziglang is not installed; pip install ziglang=={VERSION}")
    path = str(Path(spec.origin).with_name("zig"))
    version = subprocess.run([path, "version"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    if version != VERSION:
        raise SystemExit(f"ziglang is {version}; pip install ziglang=={VERSION}")
    return path


def compile_guest(name: str) -> bytes:
    """Compile a guest in a folder of its own, so that no path and no cache has a say in it; return the module."""
    exports, stack = GUESTS[name]
    options = (
        *("build-exe", f"{name}.zig", *OPTIONS, "--stack", str(stack)),
        *("--initial-memory=65536", "--max-memory=65536", f"-femit-bin={name}.wasm"),
        *(f"--export={export}" for export in (*EXPORTS, *exports)),
    )
    with tempfile.TemporaryDirectory() as folder:
        for source in SOURCES:
            shutil.copy(HERE / source, folder)
        caches = ("--cache-dir", f"{folder}/cache", "--global-cache-dir", f"{folder}/global")
        subprocess.run([compiler(), *options, *caches], cwd=folder, check=True)  # noqa: S603
        return Path(folder, f"{name}.wasm").read_bytes()


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        raise SystemExit("usage: rebuild.py [--check]")
    differ = False
    for name in GUESTS:
        committed = HERE / f"{name}.wasm"
        built = compile_guest(name)
        if not arguments:
            committed.write_bytes(built)
        shipped = committed.read_bytes()
        sys.stdout.write(f"{name}: source gives {hashlib.sha256(built).hexdigest()} ({len(built)} bytes)\n")
        sys.stdout.write(f"{name}: committed is {hashlib.sha256(shipped).hexdigest()} ({len(shipped)} bytes)\n")
        differ = differ or shipped != built
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
