"""Has a child process compile a module first, where it can do no harm: with little time and memory.

A compiler takes as long, and as much memory, as the module makes it. A kilobyte of code can cost 60 milliseconds and 40
megabytes, and the time grows with the square of some things. Nothing can interrupt an engine that compiles in this
process, so a module that is not small has to be compiled by a child first.

The machine code comes back through a pipe that nobody else has, and is loaded here, so that a module is compiled once.
It is what the same engine would have given in this process. Whoever could make the child give something else, could
have made this process do so by the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ...errors import EngineUnavailable, RestrictedModule
from ...limits import Limits
from ...wasm import decode
from ...wasm.interruption import calling_when_unwanted, check_interrupted
from .base import Engine

if TYPE_CHECKING:  # its other imports are for the child alone
    from .compiling_child import Job


#: A module within these three needs no child: bytes of everything but data segments, bytes of data segments, values of
#: one signature. Of a hundred shapes of code made to be slow, the worst take, with eight kilobytes as metered, on one
#: core at about 3 GHz: conversions between floats and integers 0.4 s and 134 MB on wasmtime (49 ms a kilobyte),
#: indirect calls 0.06 s on wasmer, everything else less than 0.1 s. Without the third bound, 64 values handed from
#: block to block would take 905 MB. With sixty kilobytes it is 4 s and 840 MB on wasmtime, and 17 s on wasmer.
SMALL_CODE: Final = 8_192
SMALL_DATA: Final = 1_048_576
SMALL_SIGNATURE: Final = 16

#: Seconds of wall clock for the child besides compiling: a busy machine, its interpreter, the engine's import.
STARTING: Final = 10.0
#: A busy machine may take so many times longer than the processor time that is allowed.
PATIENCE: Final = 2.0
#: Bytes of native stack for the compiler in the child, an eighth of what threads have here: what fits there, fits here.
STACK: Final = 1_048_576

#: Set in the child, so that whatever runs there by mistake starts no child of its own.
MARK: Final = "_CAPGATE_COMPILING_CHILD"

#: The package is there without what it imports for applications, which takes longer than compiling most modules.
_CHILD: Final = (
    "import json, sys, types\n"
    "job = json.loads(sys.stdin.buffer.readline())\n"
    "sys.path[:] = job['path']\n"
    "sys.modules['capgate'] = types.ModuleType('capgate')\n"
    "sys.modules['capgate'].__path__ = job['package']\n"
    "from capgate.runtime.engine.compiling_child import run\n"
    "run(job)\n"
)
_PACKAGE: Final = __name__.partition(".")[0]
_ENDED_BY: Final[dict[int, str]] = {
    signal.SIGPROF: "compile_time",
    signal.SIGXCPU: "compile_time",
    signal.SIGABRT: "compile_memory",  # how engines end when an allocation fails
    signal.SIGKILL: "compile_memory",  # the kernel's choice when there is none left
}


def is_small(metered: bytes) -> bool:
    """Say whether a module compiles within a second, whatever is in it."""
    if len(metered) > SMALL_CODE + SMALL_DATA:
        return False
    module = decode(metered, bodies=False)
    data = sum(len(section.payload) for section in module.sections if section.id == 11)
    widest = max((len(signature.params) + len(signature.results) for signature in module.types), default=0)
    return len(metered) - data <= SMALL_CODE and data <= SMALL_DATA and widest <= SMALL_SIGNATURE


def compile_in_child(engine: Engine, original: bytes, metered: bytes, limits: Limits) -> bytes:
    """Have a child validate ``original`` and compile ``metered`` with ``engine``. Returns the machine code, for
    ``engine.load``.

    Blocks for up to ``limits.compile_seconds`` of processor time, twice that by the clock, and :data:`STARTING`.
    Raises :class:`RestrictedModule`: ``compile_time`` and ``compile_memory`` by the limits' names, ``compile_crash``
    where the compiler ended the child otherwise, ``invalid_module`` where it rejected the module. Raises
    :class:`EngineUnavailable` where no child can be started here, or it cannot do its work.
    """
    secret = secrets.token_hex(16)
    wall = PATIENCE * limits.compile_seconds + STARTING
    try:
        done = _run(_job(engine.name, original, limits, secret) + original + metered, wall)
    except subprocess.TimeoutExpired as late:
        started = f"{secret} ready".encode() in (late.stdout or b"")
        if not started:
            raise _unable(engine, f"it was not ready within {wall:g} s") from None
        raise _rejected("compile_time", engine, f"not done after {wall:g} s, {_allowed(limits)}") from None
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
        raise _unable(engine, f"it did not start: {error}") from error
    said, code = _read(done.stdout, secret)
    _check(engine, said, done.returncode, limits)
    if str(len(code)) != said["compiled"]:
        raise _unable(engine, f"it gave {len(code)} bytes of machine code, and not {said['compiled']}")
    return code


def _check(engine: Engine, said: dict[str, str], status: int, limits: Limits) -> None:
    """Raise why the module is not to be compiled here, unless the child ``said`` that it compiled it."""
    if "compiled" in said:
        return
    if "rejected" in said:
        raise RestrictedModule("invalid_module", engine.name, said["rejected"])
    if "memory" in said:
        raise _rejected("compile_memory", engine, f"{said['memory']}; {_allowed(limits)}")
    if "failed" in said or "ready" not in said:
        raise _unable(engine, said.get("failed") or f"it ended with status {status} and did not say why")
    # It began, and did not come to an end. Where somebody else collects this process's children, the status is 0.
    raise _rejected(_ENDED_BY.get(-status, "compile_crash"), engine, f"ended with status {status}; {_allowed(limits)}")


def _run(data: bytes, wall: float) -> subprocess.CompletedProcess[bytes]:
    if not sys.executable:
        raise ValueError("sys.executable is empty")
    if getattr(sys, "frozen", False):
        raise ValueError("this is a frozen application, whose executable is not a Python interpreter")
    if MARK in os.environ:
        raise ValueError(f"this is such a child ({MARK} is set)")
    environment = {"RAYON_NUM_THREADS": "1", MARK: "1"}  # or wasmer would use every core, and their time would add up
    if "LD_LIBRARY_PATH" in os.environ:  # where the interpreter's own library may be
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    command = [sys.executable, "-I", "-B", "-c", _CHILD]
    with subprocess.Popen(  # noqa: S603 - this interpreter, with a program that is written above
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        start_new_session=True,  # a Ctrl-C at the terminal is for this process to act on
    ) as child:
        try:
            with calling_when_unwanted(child.kill):
                output, _ = child.communicate(data, timeout=wall)
            check_interrupted()
        except BaseException:
            child.kill()
            raise
        return subprocess.CompletedProcess(command, child.returncode, output)


def _job(engine: str, original: bytes, limits: Limits, secret: str) -> bytes:
    """Return the first line that the child reads; the two modules follow."""
    job: Job = {
        "path": _absolute(sys.path),
        "package": _absolute(sys.modules[_PACKAGE].__path__),
        "engine": engine,
        "original": len(original),
        "seconds": limits.compile_seconds,
        "megabytes": limits.compile_megabytes,
        "stack": min(threading.stack_size() or STACK, STACK),
        "secret": secret,
    }
    return json.dumps(job).encode() + b"\n"


def _absolute(path: Iterable[str]) -> list[str]:
    """Return where this process imports from, as seen from another folder."""
    folders = []
    for item in path:
        with contextlib.suppress(OSError):  # relative to a folder that is gone: nothing is imported from there
            if isinstance(item, str):
                folders.append(os.path.abspath(item))
    return folders


def _read(output: bytes, secret: str) -> tuple[dict[str, str], bytes]:
    """Return what the child said, by its first word: ``ready``, then ``compiled``, ``rejected``, ``memory`` or
    ``failed``; and what follows ``compiled``. Lines that are not its own count for nothing."""
    marked = f"{secret} compiled ".encode()
    before, mark, behind = output.partition(marked)
    size, _, code = behind.partition(b"\n")
    text = (before + mark + size).decode("utf-8", "replace")
    lines = [line.split(" ", 2) for line in text.split("\n")]
    return {line[1]: "".join(line[2:]) for line in lines if line[0] == secret and len(line) > 1}, code


def _allowed(limits: Limits) -> str:
    return f"compile_seconds is {limits.compile_seconds:g}, compile_megabytes {limits.compile_megabytes}"


def _rejected(rule: str, engine: Engine, detail: str) -> RestrictedModule:
    return RestrictedModule(rule, engine.name, f"the module was not compiled: {detail}")


def _unable(engine: Engine, why: str) -> EngineUnavailable:
    return EngineUnavailable(
        engine.name,
        f"a module of this size is compiled by a child process first ({sys.executable!r} -I), so that one which takes "
        f"too long can be stopped; {why}",
    )
