"""``python -m benchmarks.load``: what a gate does under more load than it can bear, and while a policy burns its fuel.

A real server, uvicorn with httptools and uvloop, in a process of its own on loopback. Nothing here lasts longer than
``--seconds`` for each step, with :data:`CONNECTIONS` at most.

*Capacity* is what :data:`KEEN` connections get that send the next request as soon as the last was answered. Then
requests arrive at a rate of half that, once, twice and four times that, at random moments, whether the last ones were
answered or not. Besides, an innocent route is asked every few milliseconds. *Goodput* is what was answered 200 within a
second, of each second and of each second of the server's processor time: on a busy machine only the latter says
something. *Attack*: the same innocent route, and honest questions to the same policy, alone and then with 64
connections that ask a policy that burns its fuel, which begin again as soon as they are refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from capgate.runtime.engine import available_engines

from . import machine
from .report import figure

CONNECTIONS = 256
#: Connections that find out what the capacity is, and those of an attack.
KEEN, ATTACKERS, HONEST = 16, 64, 2
RATES = (0.5, 1.0, 2.0, 4.0)
POLICIES = ("own", "foreign")
#: Seconds after which an answer is worth nothing, and between two requests for the innocent route.
LATE, BEAT = 1.0, 0.004
#: What a route is asked for, and how many names there are.
HONEST_PATH, BURNING_PATH, INNOCENT = "/asked/honest{}", "/asked/burn{}", "/innocent"
NAMES = 1_000


@dataclass
class Answers:
    """What came back: seconds that a good answer took, and why others were refused."""

    seconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def take(self, status: int, body: bytes, seconds: float) -> None:
        """Count one answer."""
        if status == 200 and seconds <= LATE:
            self.seconds.append(seconds)
        elif status == 200:
            self.refused["late"] += 1
        else:
            self.refused[json.loads(body).get("reason", str(status))] += 1

    def quantile(self, share: float) -> float:
        """Milliseconds that so many of the good answers took at most; NaN where there are none."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else float("nan")


class Connection(asyncio.Protocol):
    """One connection that is kept, for one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length and not self._answer.done():
            self._received = b""
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body of the answer to a GET."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return await self._answer

    def close(self) -> None:
        """End it."""
        self._transport.close()


class Client:
    """Asks the server at ``port``."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def connect(self) -> Connection:
        """Open another connection."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        return connection

    async def facts(self) -> dict[str, float]:
        """Return what the server says of itself since it was asked last."""
        connection = await self.connect()
        _, body = await connection.ask("/facts")
        connection.close()
        facts: dict[str, float] = json.loads(body)
        return facts

    async def keep_asking(
        self, path: str, until: float, answers: Answers, pause: float = 0.0, names: int = NAMES
    ) -> None:
        """Ask again and again on one connection, about so many names in turn."""
        connection, number = await self.connect(), random.randrange(NAMES)
        while (started := perf_counter()) < until:
            number += 1
            status, body = await connection.ask(path.format(number % names))
            answers.take(status, body, perf_counter() - started)
            if pause:
                await asyncio.sleep(pause)
        connection.close()

    async def keep_asking_many(
        self, path: str, until: float, answers: Answers, connections: int, names: int = NAMES
    ) -> None:
        """Do so on several connections at once."""
        await asyncio.gather(*[self.keep_asking(path, until, answers, names=names) for _ in range(connections)])

    async def arrive(self, path: str, until: float, answers: Answers, rate: float, draw: random.Random) -> None:
        """Ask ``rate`` times a second, whatever becomes of the answers. What finds no connection is ``not sent``."""
        idle: list[Connection] = []
        opened, under_way = 0, set[asyncio.Task[None]]()

        async def ask(number: int) -> None:
            nonlocal opened
            started = perf_counter()
            connection = idle.pop() if idle else await self.connect()
            status, body = await connection.ask(path.format(number % NAMES))
            answers.take(status, body, perf_counter() - started)
            idle.append(connection)

        due = perf_counter()
        while (now := perf_counter()) < until:
            while due <= now:
                due += draw.expovariate(rate)
                if len(under_way) >= CONNECTIONS:
                    answers.refused["not sent"] += 1
                    continue
                task = asyncio.ensure_future(ask(draw.randrange(NAMES)))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(max(due - perf_counter(), 0.0005))
        await asyncio.gather(*under_way)
        for connection in idle:
            connection.close()


@dataclass
class Step:
    """One row: what was sent, and what came of it. Times are in milliseconds."""

    engine: str
    policy: str
    load: str
    seconds: float
    answered: int
    refused: dict[str, int]
    goodput: float
    goodput_of_cpu: float
    median: float
    innocent_median: float
    innocent_p99: float
    longest_gap: float
    longest_gap_of_thread: float
    attack: dict[str, int] = field(default_factory=dict)


async def measure(
    client: Client, names: tuple[str, str, str], seconds: float, send: Callable[[float, Answers], Any]
) -> Step:
    """Have ``send(until, answers)`` ask for some ``seconds``, and the innocent route be asked meanwhile."""
    before, answers, innocent = await client.facts(), Answers(), Answers()
    started = perf_counter()
    until = started + seconds
    await asyncio.gather(client.keep_asking(INNOCENT, until, innocent, BEAT), send(until, answers))
    taken, after = perf_counter() - started, await client.facts()
    good = len(answers.seconds)
    return Step(
        *names,
        seconds=taken,
        answered=good,
        refused=dict(answers.refused),
        goodput=good / taken,
        goodput_of_cpu=good / (after["cpu"] - before["cpu"]),
        median=answers.quantile(0.5),
        innocent_median=innocent.quantile(0.5),
        innocent_p99=innocent.quantile(0.99),
        longest_gap=after["clock"] * 1e3,
        longest_gap_of_thread=after["thread"] * 1e3,
    )


async def sweep(client: Client, engine: str, policy: str, seconds: float, draw: random.Random) -> list[Step]:
    """From half of the capacity to four times that."""

    async def at_capacity(until: float, answers: Answers) -> None:
        await client.keep_asking_many(HONEST_PATH, until, answers, KEEN)

    await measure(client, ("", "", ""), seconds / 4, at_capacity)  # so that everything is warm
    full = await measure(client, (engine, policy, "capacity"), seconds, at_capacity)
    steps = [full]
    for share in RATES:
        rate = full.goodput * share

        async def arriving(until: float, answers: Answers, rate: float = rate) -> None:
            await client.arrive(HONEST_PATH, until, answers, rate, draw)

        steps.append(await measure(client, (engine, policy, f"{share:g} x"), seconds, arriving))
    return steps


async def attack(client: Client, engine: str, seconds: float) -> list[Step]:
    """Honest questions alone, and while :data:`ATTACKERS` ask for what burns its fuel.

    At last as many ask the innocent route, and nobody any policy: how long a turn of the loop is with so many clients.
    """
    burnt = Answers()

    async def honest(until: float, answers: Answers) -> None:
        beats = [client.keep_asking(HONEST_PATH, until, answers, BEAT) for _ in range(HONEST)]
        await asyncio.gather(*beats)

    alone = await measure(client, (engine, "foreign", "honest, alone"), seconds, honest)
    until = perf_counter() + 3.25 * seconds  # from long before the measurement until after it
    attacking = client.keep_asking_many(BURNING_PATH, until, burnt, ATTACKERS, ATTACKERS)
    attack_task = asyncio.ensure_future(attacking)
    await asyncio.sleep(seconds)
    attacked = await measure(client, (engine, "foreign", f"honest, {ATTACKERS} attack"), 2 * seconds, honest)
    attacked.attack = dict(burnt.refused)
    await attack_task

    async def as_many(until: float, answers: Answers) -> None:
        await client.keep_asking_many(INNOCENT, until, answers, ATTACKERS)

    return [alone, attacked, await measure(client, (engine, "foreign", f"innocent, {ATTACKERS}"), seconds, as_many)]


@contextmanager
def serving(engine: str, policy: str, tree: Path) -> Iterator[Client]:
    """A server whose capgate is that of ``tree``."""
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("loaded.py")), engine, policy],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(tree)},
        text=True,
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {child.wait(30)}")
        yield Client(int(line))
    finally:
        try:
            child.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def run(engines: Sequence[str], policies: Sequence[str], seconds: float, seed: int, tree: Path) -> Iterator[Step]:
    """Each step, as it was measured."""
    draw = random.Random(seed)
    for engine in engines:
        for policy in policies:
            with serving(engine, policy, tree) as client:
                yield from asyncio.run(sweep(client, engine, policy, seconds, draw))
        with serving(engine, "foreign", tree) as client:
            yield from asyncio.run(attack(client, engine, seconds))


_COLUMNS = (
    "engine",
    "policy",
    "load",
    "good/s",
    "good/cpu s",
    "median",
    "innocent",
    "p99",
    "gap",
    "gap cpu",
    "refused",
)


def table(steps: Sequence[Step]) -> Iterator[str]:
    """The lines of a table."""
    yield "  " + "".join(f"{name:>{_width(name)}}" for name in _COLUMNS)
    for step in steps:
        figures = (step.goodput, step.goodput_of_cpu, step.median, step.innocent_median, step.innocent_p99)
        cells = (step.engine, step.policy, step.load, *map(figure, figures))
        gaps = (figure(step.longest_gap), figure(step.longest_gap_of_thread))
        refused = ", ".join(f"{count:,} {reason}" for reason, count in sorted(step.refused.items())) or "none"
        row = zip(_COLUMNS, (*cells, *gaps), strict=False)
        yield "  " + "".join(f"{cell:>{_width(name)}}" for name, cell in row) + f"  {refused}"


def _width(name: str) -> int:
    return {"load": 20, "policy": 9, "good/cpu s": 12, "refused": 9}.get(name, 10)


def plot(steps: Sequence[Step], path: Path) -> None:
    """Write what the ending of ``path`` says, SVG or PNG. Raises ``ModuleNotFoundError`` without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(1, 3, figsize=(16, 5), layout="constrained")
    titles = {
        "goodput_of_cpu": "good answers for a second of the server's processor time",
        "innocent_p99": "innocent route, p99, ms",
    }
    for chart, (name, title) in zip(axes, titles.items(), strict=False):
        for key in dict.fromkeys((step.engine, step.policy) for step in steps):
            points = [step for step in steps if (step.engine, step.policy) == key and step.load.endswith(" x")]
            rates = [float(step.load.split()[0]) for step in points]
            chart.plot(rates, [getattr(step, name) for step in points], marker="o", label=", ".join(key))
        chart.set_xscale("log", base=2)
        chart.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        chart.set(title=title, xlabel="asked, in multiples of the capacity", ylim=(0, None))
    attacked = [step for step in steps if step.load.startswith("honest")]
    bars = {"innocent, median": "innocent_median", "innocent, p99": "innocent_p99", "longest turn": "longest_gap"}
    width = 0.8 / max(len(attacked), 1)
    for number, step in enumerate(attacked):
        places = [place + (number - (len(attacked) - 1) / 2) * width for place in range(len(bars))]
        heights = [getattr(step, name) for name in bars.values()]
        axes[2].bar(places, heights, width, label=f"{step.engine}, {step.load}")
    axes[2].set_xticks(range(len(bars)), list(bars))
    axes[2].set(yscale="log", title="under attack, ms")
    for chart in axes:
        chart.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    drawing.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what ``arguments`` say, and print a table."""
    options = _parser().parse_args(arguments)
    seconds = 0.3 if options.quick else options.seconds
    for name, fact in {**machine.describe(), "tree": str(options.tree), "seed": str(options.seed)}.items():
        print(f"{name + ':':13}{fact}")
    engines, policies = options.engine or available_engines(), options.policy or POLICIES
    steps = list(run(engines, policies, seconds, options.seed, options.tree))
    print("\n".join(table(steps)))
    print(f"load average after: {machine.load_average()}")
    if options.json:
        options.json.write_text(json.dumps([asdict(step) for step in steps], indent=1) + "\n")
    if options.plot:
        plot(steps, options.plot)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="0.3 seconds for each step; shows that it runs")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each step (default: 1)")
    parser.add_argument("--engine", choices=available_engines(), action="append", help="this engine only")
    parser.add_argument("--policy", choices=POLICIES, action="append", help="this policy only")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which requests arrive (default: 1)")
    parser.add_argument(
        "--tree", type=Path, default=Path(__file__).parents[1], help="the capgate to measure (default: this one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg|FILE.png", help="write charts, with matplotlib")
    return parser


if __name__ == "__main__":
    sys.exit(main())
