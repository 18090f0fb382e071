"""What a request costs under a real server: processor time of uvicorn, with httptools and uvloop, by turns.

Each application has a process of its own, and one more sends the requests. All of them live at once, and take turns in
an order shuffled each round.
"""

from __future__ import annotations

import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import count as counting
from pathlib import Path

from capgate import build_policy

from .report import Case, Row, ratio
from .served import ASKING, BARE, FRAMEWORKS, GATE, NAMES, POLICY
from .targets import Target
from .timing import Samples, differences, summarize

NEEDED = ("httptools", "uvicorn", "uvloop")
TABLE = "Processor time of the server for one request, uvicorn with httptools and uvloop"
KNOWN, NEW = "questions of before", "every question new"
#: So many names make the paths of the former: as many questions as are remembered with ease.
KNOWN_NAMES = 100
#: Requests of one turn, those before it that are not measured, and the rounds that there is time for.
REQUESTS, WARM_UP, ROUNDS = 2_500, 200, 10
QUICK_REQUESTS = 100
#: What a gated application does of what it does bare is at least so much.
KEPT = {("Starlette", KNOWN): 0.85, ("Starlette", NEW): 0.80, ("FastAPI", KNOWN): 0.92, ("FastAPI", NEW): 0.88}


def processor_ns(pid: int) -> int:
    """Processor time that a process has taken, all of its threads together.

    On Linux by the clock of that process, in nanoseconds; psutil has it in hundredths of a second only.
    """
    if platform.system() == "Linux":
        return time.clock_gettime_ns(~pid << 3 | 2)  # what clock_getcpuclockid() gives
    import psutil

    times = psutil.Process(pid).cpu_times()
    return int((times.user + times.system) * 1e9)


class Child:
    """A process that ends when its input does."""

    def __init__(self, *arguments: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-m", *arguments], stdin=pipe, stdout=pipe, text=True)
        self.pid = self._process.pid
        self._name = " ".join(arguments)

    def read(self) -> str:
        """The next line of its output. Raises ``RuntimeError`` where there is none, as it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait(30)}")
        return line.strip()

    def write(self, line: str) -> None:
        """Write one line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Have it end, and wait for that."""
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


@contextmanager
def running(names: Sequence[str]) -> Iterator[tuple[dict[str, tuple[Child, int]], Child]]:
    """A server for each of ``names``, with its port, and what sends the requests."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        module = folder / "policy.wasm"
        module.write_bytes(build_policy(POLICY))
        children: dict[str, Child] = {}
        for name in names:
            children[name] = Child("benchmarks.served", name, str(module))
            stack.callback(children[name].end)
        sender = Child("benchmarks.sender")
        stack.callback(sender.end)
        yield {name: (child, int(child.read())) for name, child in children.items()}, sender


def missing() -> list[str]:
    """What has to be installed and is not."""
    return [module for module in NEEDED if find_spec(module) is None]


def run(rounds: int, seed: int, requests: int = REQUESTS, names: Sequence[str] = NAMES) -> Case:
    """Every application with questions of before, and all but the pairs with new ones."""
    case = Case("server")
    if missing():
        case.notes += [f"{module} is not installed; the extra 'bench' has it" for module in missing()]
        case.targets += _targets(case)
        return case
    order, numbers = random.Random(seed), counting(KNOWN_NAMES)
    taken: dict[tuple[str, str], dict[int, float]] = {(name, kind): {} for name in names for kind in (KNOWN, NEW)}
    with running(names) as (servers, sender):
        for turn in range(min(rounds, ROUNDS)):
            for name, kind in order.sample(list(taken), len(taken)):
                child, port = servers[name]
                _send(sender, port, min(WARM_UP, requests), kind, numbers)
                before = processor_ns(child.pid)
                _send(sender, port, requests, kind, numbers)
                taken[name, kind][turn] = (processor_ns(child.pid) - before) / requests
    for (name, kind), by_round in taken.items():
        samples = Samples(requests, by_round)
        case.rows.append(Row(name, TABLE, kind, samples.summary()))
        bare = name.split(", ")[0] + f", {BARE}"
        if name != bare:
            base = Samples(requests, taken[bare, kind])
            case.rows.append(Row(name, TABLE, f"{kind}, added", summarize(differences(samples, base), requests)))
    case.targets += _targets(case)
    return case


def _send(sender: Child, port: int, requests: int, kind: str, numbers: Iterator[int]) -> None:
    """Send so many requests to ``port``, and wait for the answers. Numbers of new questions are of nobody else."""
    if kind == KNOWN:
        sender.write(f"{port} {requests} 0 {KNOWN_NAMES}")
    else:
        first = next(numbers)
        for _ in range(requests - 1):
            next(numbers)
        sender.write(f"{port} {requests} {first}")
    float(sender.read())


def _targets(case: Case) -> Iterator[Target]:
    for framework in FRAMEWORKS:
        for kind in (KNOWN, NEW):
            for gate in (GATE, ASKING):
                gated, bare = (case.median(f"{framework}, {which}", TABLE, kind) for which in (gate, BARE))
                name = f"{framework} under uvicorn, {gate}, {kind}, bare to gated"
                yield Target(name, ratio(bare, gated), KEPT[framework, kind], at_least=True)
