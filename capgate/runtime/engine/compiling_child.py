"""Compiles a module in the child process of :mod:`.child_compilation`, which bounds itself, and says how that went.

The machine code follows the line that says how long it is.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final, TypedDict

from ...errors import RestrictedModule
from .base import Engine
from .registry import load_engine

#: Seconds of processor time after which the kernel ends what the timer did not.
_GRACE: Final = 2
_TEXT: Final = 300

#: Writes a line, and bytes behind it.
Say = Callable[..., None]


class Job(TypedDict):
    """The first line that the child reads. ``path`` and ``package`` are where it imports from.

    ``original`` is the length of the module as it was, which follows.
    """

    path: list[str]
    package: list[str]
    engine: str
    original: int
    seconds: float
    megabytes: int
    stack: int
    secret: str


def run(job: Job) -> None:
    """Compile what follows ``job`` on the standard input, on a thread with as small a stack as it says."""
    say = _speaker(job["secret"])
    try:
        original = sys.stdin.buffer.read(job["original"])
        metered = sys.stdin.buffer.read()
        engine = load_engine(job["engine"])
        threading.stack_size(job["stack"])
        _bound(job["seconds"], job["megabytes"] << 20)
        thread = threading.Thread(target=_compile, args=(engine, original, metered, say))
        say("ready", "")
        thread.start()
        thread.join()
    except MemoryError:
        say("memory", "before the engine began")
    except BaseException as error:
        say("failed", f"{type(error).__name__}: {error}")
    os._exit(0)  # nothing here needs a destructor, and what says how it went has been said


def _compile(engine: Engine, original: bytes, metered: bytes, say: Say) -> None:
    try:
        # Both, because a module that is invalid must not become valid by being rewritten.
        engine.validate(original)
        code = engine.compile(metered).code()
    except MemoryError:
        say("memory", "an allocation failed")
    except RestrictedModule as error:
        say("memory" if "allocate" in error.detail else "rejected", error.detail)
    except BaseException as error:
        say("failed", f"{type(error).__name__}: {error}")
    else:
        say("compiled", str(len(code)), code)


def _speaker(secret: str) -> Say:
    """Return a function that writes one line to what was the standard output, and bytes behind it. What others write
    there goes nowhere."""
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)

    def say(word: str, text: str, code: bytes = b"") -> None:
        line = " ".join(f"{secret} {word} {text[:_TEXT]}".split("\n"))
        rest = memoryview(line.encode("utf-8", "replace") + b"\n" + code)
        while rest:  # a pipe takes as much as it has room for
            rest = rest[os.write(out, rest) :]

    return say


def _lower(wanted: int, present: int) -> int:
    return wanted if present == resource.RLIM_INFINITY else min(wanted, present)


def _bound(seconds: float, size: int) -> None:
    """Bound processor time and writable memory, and allow no files, not even a core file. A lower limit that is there
    already stays.

    The timer counts the time of all threads to the hundredth of a second, the limit in whole ones. Of the limits on
    memory this one counts neither libraries nor what engines and allocators reserve without touching it.
    """
    for number in (signal.SIGPROF, signal.SIGXCPU, signal.SIGABRT):  # whoever started this may have ignored them
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # The first to go, should the machine run out of memory.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    spent = resource.getrusage(resource.RUSAGE_SELF)
    whole = int(spent.ru_utime + spent.ru_stime + seconds) + 1
    for limit, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_DATA, size, size),
        (resource.RLIMIT_CPU, whole, whole + _GRACE),
    ):
        before = resource.getrlimit(limit)
        resource.setrlimit(limit, (_lower(soft, before[0]), _lower(hard, before[1])))
    signal.setitimer(signal.ITIMER_PROF, seconds)
