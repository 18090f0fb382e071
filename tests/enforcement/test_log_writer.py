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

import anyio
import pytest

from capgate import events as module
from capgate.events import LOGGER, DecisionLog, flush, statistics
from capgate.log_writer import LogWriter, Records, never_blocks
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


def noted(message: str = "%s is %d", *arguments: object) -> tuple[logging.LogRecord, logging.LogRecord]:
    """Return a record that is made here, and the same as logging makes it."""
    logger = logging.getLogger("capgate.noted")
    made = Records(logger, message, __file__, "noted").make(logging.WARNING, arguments, {"more": 1})
    of_logging = logger.makeRecord(
        logger.name, logging.WARNING, __file__, 0, message, arguments, None, "noted", {"more": 1}
    )
    return made, of_logging


#: What differs between two records that are made one after the other.
TIMES = {"created", "msecs", "relativeCreated"}


def same(made: logging.LogRecord, of_logging: logging.LogRecord) -> bool:
    assert type(made) is type(of_logging)
    facts, expected = vars(made), vars(of_logging)
    assert {name: facts[name] for name in facts.keys() - TIMES} == {
        name: expected[name] for name in expected.keys() - TIMES
    }
    assert facts.keys() == expected.keys()
    assert {name: type(facts[name]) for name in TIMES} == {name: type(expected[name]) for name in TIMES}
    assert 0 <= expected["created"] - facts["created"] < 60
    assert abs(expected["relativeCreated"] - facts["relativeCreated"]) < 60_000
    assert abs(facts["created"] % 1 * 1_000 - facts["msecs"]) < 1.01
    assert facts["msecs"] == int(facts["msecs"])
    return made.getMessage() == of_logging.getMessage()


async def test_records_are_what_logging_makes(anyio_backend_name: str) -> None:
    assert same(*noted("%s is %d", "this", 5))
    assert same(*await anyio.to_thread.run_sync(noted, "in a thread"))
    if sys.version_info >= (3, 12):
        assert (noted("x")[0].taskName is None) is (anyio_backend_name == "trio")


def test_records_are_made_as_the_application_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(logging.LogRecord):
        pass

    logging.setLogRecordFactory(Own)
    try:
        assert same(*noted("by a factory"))
        assert type(noted()[0]) is Own
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    logging.addLevelName(logging.WARNING, "careful")
    try:
        assert noted()[0].levelname == "careful"
    finally:
        logging.addLevelName(logging.WARNING, "WARNING")
    for fact, left_out in (
        ("thread", "logThreads"),
        ("process", "logProcesses"),
        ("processName", "logMultiprocessing"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(logging, left_out, False)
            assert vars(noted()[0])[fact] is None
            assert same(*noted("without it"))
    for patched_at in (logging.Logger, logging.getLogger("capgate.noted")):
        with monkeypatch.context() as patch:
            patch.setattr(patched_at, "makeRecord", lambda *given: Own(*given[-9:-1], **given[-1]))
            assert type(noted()[0]) is Own
        assert type(noted()[0]) is logging.LogRecord


class Wrapper:
    """Wraps a function and shows its attributes, bound or not, as tracers that wrap ``makeRecord`` do."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def __get__(self, instance: object, owner: type) -> Any:
        return Wrapper(self.wrapped.__get__(instance, owner))

    def __call__(self, *given: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.wrapped(*given)
        record.trace = "of the tracer"
        return record


def test_records_have_what_a_wrapper_of_their_making_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.Logger, "makeRecord", Wrapper(logging.Logger.makeRecord))
    made, of_logging = noted()
    assert vars(of_logging)["trace"] == vars(made)["trace"] == "of the tracer"


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


def test_a_child_of_a_fork_has_decision_ids_of_its_own() -> None:  # P10
    """They are made ahead, and those of the parent are not the child's to give."""
    ran = run("""
import os
from capgate.events import new_decision_id
new_decision_id()
if os.fork():
    os.wait()
print(*[new_decision_id() for _ in range(100)], flush=True)
""")
    assert len(set(ran.stdout.split())) == 200


def test_a_fork_in_the_middle_of_counting_an_event() -> None:  # P10
    """Whoever counts is not there in the child, which counts all the same."""
    ran = run(f"""
import os, signal, threading
from capgate import events
{DENYING}
counting, go = threading.Event(), threading.Event()
class Count(int):
    def __add__(self, other):
        counting.set()
        go.wait()
        return int(self) + other
events._outlet.emitted = Count()
thread = threading.Thread(target=deny, args=["parent"])
thread.start()
counting.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)
    events._outlet.emitted = 0
    deny("child")
    os._exit(7 if events.statistics().emitted == 1 else 8)
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
