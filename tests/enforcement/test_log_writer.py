"""Handlers that block, or are lost, hold up nobody: records are written on a thread of their own."""

from __future__ import annotations

import contextvars
import io
import logging
import logging.config
import logging.handlers
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from capgate import events as module
from capgate.events import LOGGER, DecisionLog, flush, statistics
from capgate.log_writer import LogWriter, never_blocks
from capgate.model import Decision, Deny, PolicyInput, User

from ..support.command import environment
from ..support.gates import events

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


def deny(reason: str) -> None:
    DecisionLog().denied(Decision(PolicyInput("db.write", User("ada")), Deny(reason)))


class Slow(logging.Handler):
    """Blocks until it is let go, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.began = threading.Event(), threading.Event()
        self.reasons: list[str] = []
        self.who: list[str] = []
        self.threads: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.began.set()
        self.go.wait()
        self.reasons.append(record.capgate["reason"])  # type: ignore[attr-defined]
        self.who.append(WHO.get())
        self.threads.add(threading.get_ident())


@contextmanager
def handled_by(handler: logging.Handler, name: str = LOGGER) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def test_a_handler_that_blocks_holds_up_no_decision() -> None:  # T-6, O2
    slow = Slow()
    with handled_by(slow), events() as at_once:
        for number in range(100):
            WHO.set(str(number))
            deny(str(number))
        assert [event["reason"] for event in at_once] == [str(number) for number in range(100)]
        assert slow.reasons == []
        assert not flush(0)
        slow.go.set()
        assert flush(60)
    assert slow.reasons == slow.who == [str(number) for number in range(100)]
    assert threading.get_ident() not in slow.threads
    assert len(slow.threads) == 1


def test_what_is_too_much_is_lost_counted_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # T-6, O2
    writer, slow, before = LogWriter(10), Slow(), statistics()
    monkeypatch.setattr(module, "WRITER", writer)
    with handled_by(slow):
        deny("first")
        slow.began.wait()
        for number in range(30):
            deny(str(number))
        assert statistics().dropped - before.dropped == 20
        assert statistics().emitted - before.emitted == 11
        slow.go.set()
        assert writer.flush(60)
        deny("last")
        assert writer.flush(60)
    assert slow.reasons == ["first", *map(str, range(10)), "last"]
    (line,) = [record for record in caplog.records if record.name == "capgate"]
    assert line.args == (20, 10)


def test_a_handler_that_cannot_be_looked_at_ends_no_writing(monkeypatch: pytest.MonkeyPatch) -> None:  # T-6, O2
    class Odd(logging.Handler):
        @property
        def never_blocks(self) -> bool:
            raise OSError

    writer, slow, before = LogWriter(4), Slow(), statistics()
    monkeypatch.setattr(module, "WRITER", writer)
    with handled_by(slow):
        deny("first")
        slow.began.wait()
        for number in range(6):
            deny(str(number))
        with handled_by(Odd(), "capgate"):  # which is to get the line about what was lost
            deny("to nobody")
            slow.go.set()
            assert writer.flush(10)
        deny("last")
        assert writer.flush(10)
    assert slow.reasons == ["first", *map(str, range(4)), "last"]
    assert statistics().dropped - before.dropped == 3


def test_who_is_added_later_gets_what_comes_later() -> None:
    first, second = Slow(), Slow()
    first.go.set()
    second.go.set()
    with handled_by(first):
        deny("a")
        with handled_by(second):
            deny("b")
        deny("c")
        assert flush(60)
    assert (first.reasons, second.reasons) == (["a", "b", "c"], ["b"])


def test_a_handler_that_raises_is_counted_and_the_next_one_writes() -> None:  # O2
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit

    slow, before = Slow(), statistics()
    slow.go.set()
    with handled_by(Raising()), handled_by(slow):
        deny("a")
        assert flush(60)
    assert slow.reasons == ["a"]
    assert statistics().dropped == before.dropped + 1
    assert statistics().emitted == before.emitted


def test_levels_and_filters_count_as_ever() -> None:
    slow, logger = Slow(), logging.getLogger(LOGGER)
    slow.go.set()
    slow.setLevel(logging.ERROR)
    with handled_by(slow):
        deny("below the level of the handler")
        slow.setLevel(logging.WARNING)
        logger.addFilter(reject := lambda record: record.capgate["reason"] != "filtered")
        deny("filtered")
        logger.removeFilter(reject)
        logging.disable(logging.ERROR)
        deny("disabled for all")
        logging.disable(logging.NOTSET)
        deny("written")
        assert flush(60)
    assert slow.reasons == ["written"]


def test_which_handlers_never_block(tmp_path: Path) -> None:
    class Says(logging.Handler):
        never_blocks = True

    class Waits(logging.handlers.QueueHandler):
        def enqueue(self, record: logging.LogRecord) -> None:
            self.queue.put(record)  # type: ignore[attr-defined]  # a queue has it

    assert never_blocks(logging.NullHandler())
    assert never_blocks(logging.StreamHandler(io.StringIO()))
    assert never_blocks(Says())
    assert never_blocks(logging.handlers.QueueHandler(queue.Queue()))
    assert not never_blocks(Waits(queue.Queue()))
    file = logging.FileHandler(tmp_path / "log")
    assert not never_blocks(file)
    assert not never_blocks(logging.StreamHandler())
    assert not never_blocks(logging.Handler())
    file.close()


@pytest.mark.parametrize("how", ["dictConfig", "fileConfig"])
def test_a_configuration_that_names_other_loggers_silences_no_denial(how: str, tmp_path: Path) -> None:  # S-5
    """As ``env.py`` of alembic does it, in a process of its own: the configuration is the whole process's."""
    lines = [
        "[loggers]\nkeys = root\n[handlers]\nkeys = all\n[formatters]\nkeys = bare\n[logger_root]\nlevel = WARNING",
        "handlers = all\n[handler_all]\nclass = StreamHandler\nargs = (sys.stdout,)\nformatter = bare",
        "[formatter_bare]\nformat = %(name)s %(message)s",
    ]
    (tmp_path / "log.ini").write_text("\n".join(lines))
    configure = {
        "fileConfig": f"logging.config.fileConfig({str(tmp_path / 'log.ini')!r})",
        "dictConfig": """logging.config.dictConfig({
    "version": 1, "formatters": {"bare": {"format": "%(name)s %(message)s"}},
    "handlers": {"all": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "bare"}},
    "root": {"level": "WARNING", "handlers": ["all"]}})""",
    }[how]
    ran = run(f"""
import logging.config, sys
{DENYING}
{configure}
assert logging.getLogger("capgate.decisions").disabled
deny("a")
logging.getLogger("capgate.decisions").setLevel(logging.ERROR)
deny("b")
""")
    (line,) = ran.stdout.splitlines()
    assert line.startswith("capgate.decisions {")
    assert '"reason":"a"' in line


DENYING = """
from capgate.events import DecisionLog, statistics
from capgate.model import Decision, Deny, PolicyInput
def deny(reason):
    DecisionLog().denied(Decision(PolicyInput("db.write"), Deny(reason)))
"""


def run(code: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # Python warns of forks where there are threads, on standard error
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        **more,
    )


def reasons(text: str) -> list[str]:
    return [line.partition('"reason":"')[2].partition('"')[0] for line in text.splitlines()]


def test_what_waits_is_written_at_exit_in_order() -> None:
    ran = run(f"""
import atexit
{DENYING}
atexit.register(deny, "after")  # runs first
class Late:
    def __del__(self, deny=deny):
        deny("destroyed")
late = Late()
for number in range(500):
    deny(str(number))
""")
    assert reasons(ran.stderr)[:501] == [*map(str, range(500)), "after"]
    assert reasons(ran.stderr)[501:] in ([], ["destroyed"])  # what the interpreter destroys at its end


def test_a_log_that_nobody_reads_keeps_no_process_from_ending() -> None:  # T-6
    """The pipe is full, and a thread is stuck in its write, with the locks of handler and stream."""
    code = f"""
import logging
{DENYING}
logging.basicConfig()
for number in range(1000):
    deny(str(number))
print(statistics().emitted, flush=True)
"""
    reads, writes = os.pipe()
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, stderr=writes, check=False
        )
    finally:
        os.close(writes)
        os.close(reads)
    assert (ran.returncode, ran.stdout) == (0, b"1000\n")


def test_a_child_of_a_fork_writes_what_is_its_own() -> None:  # P10
    ran = run(f"""
import logging, os, threading
{DENYING}
go = threading.Event()
class Handler(logging.StreamHandler):
    def emit(self, record):
        if os.getpid() == parent:
            go.wait()
        super().emit(record)
parent = os.getpid()
logging.getLogger("capgate.decisions").addHandler(Handler())
logging.getLogger("capgate.decisions").propagate = False
deny("parent")
if os.fork() == 0:
    deny("child")
else:
    assert os.wait()[1] == 0
    go.set()
""")
    assert reasons(ran.stderr) == ["child", "parent"]


def test_a_fork_in_the_middle_of_counting_an_event() -> None:  # P10
    """Whoever counts is not there in the child, which counts all the same."""
    ran = run(f"""
import os, signal, threading
from capgate import events
{DENYING}
counting, go = threading.Event(), threading.Event()
class Count(int):
    def __radd__(self, other):
        counting.set()
        go.wait()
        return other + 1
events._takes = lambda sink, event, taken=events._takes: Count() if event.reason == "parent" else taken(sink, event)
thread = threading.Thread(target=deny, args=["parent"])
thread.start()
counting.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)
    deny("child")
    os._exit(7)
go.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert ran.stdout == "7\n"


def test_a_fork_waits_for_the_handler_that_writes() -> None:  # P10
    """Else a lock that the writing thread held would be held in the child for ever."""
    ran = run(f"""
import logging, os
{DENYING}
logging.basicConfig()
children = []
for number in range(50):
    for _ in range(10):
        deny("parent")
    child = os.fork()
    if child == 0:
        deny("child")
        break
    children.append(child)
else:
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 50
""")
    assert sorted(reasons(ran.stderr)) == ["child"] * 50 + ["parent"] * 500
