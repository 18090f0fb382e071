"""Hot swap under attack: what comes between an answer and its event, between two policies, between start and end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, requires
from capgate.checker import following as follow_module
from capgate.checker.cached import Memory, QuickChecker
from capgate.checker.following import FollowingChecker
from capgate.checker.generation import Generation
from capgate.checker.local import PolicyChecker, WasmPolicyChecker
from capgate.enforcement.current import capabilities_for
from capgate.errors import PolicyUnavailable, StoreError
from capgate.events import DecisionEvent, add_sink, remove_sink
from capgate.limits import Limits
from capgate.model import ALLOW, ANONYMOUS, Deny, PolicyInput, Reason
from capgate.runtime.event_loop import on_loop
from capgate.runtime.pool import WasmPool
from capgate.settings.select import select_checker
from capgate.store import Active, Manifest, VerifiedPolicy, WasmArtifact
from capgate.store.records import make_record

from ..support.asgi import Call, http_scope
from ..support.engines import EXPECTED_ENGINES
from ..support.stores import KEY, SELDOM, Shelf, ask, document, trapping
from ..support.tools import FULL, ROOT

ENGINES = pytest.mark.parametrize("engine", EXPECTED_ENGINES)
NO = Deny(Reason.NOT_IN_ALLOWLIST)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1)
    return shelf


@pytest.fixture
def events() -> Iterator[list[DecisionEvent]]:
    sink = Events()
    add_sink(sink)
    yield sink.seen
    remove_sink(sink)


class Events:
    def __init__(self) -> None:
        self.seen: list[DecisionEvent] = []

    def emit(self, event: DecisionEvent) -> None:
        self.seen.append(event)


def follow(shelf: Shelf, **options: Any) -> FollowingChecker:
    return following(select_checker(shelf.settings(**options)))


def following(checker: PolicyChecker) -> FollowingChecker:
    inner = checker.inner if isinstance(checker, QuickChecker) else checker
    assert isinstance(inner, FollowingChecker)
    return inner


def swap_after_answering(checker: PolicyChecker) -> None:
    """Have the store looked at, once, right after the policy that answers now has answered: on the same thread, before
    anything is done with the answer."""
    follower = following(checker)
    asked = follower.asked
    call = asked._call

    def called(input: PolicyInput) -> Any:
        asked._call = call
        result = call(input)
        assert follower._watcher.look() is True
        return result

    asked._call = called


# -- which policy it was

WAYS = ["check", "check_many", "gate.check", "gate.check_many", "gate.check_now", "gate.check_many_now", "in a thread"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("engine", "cache_size"), [*((engine, 0) for engine in EXPECTED_ENGINES), ("wasmtime", 10)])
async def test_an_event_names_the_policy_that_answered(
    shelf: Shelf, engine: str, way: str, cache_size: int, events: list[DecisionEvent]
) -> None:  # A24
    checker: Any = select_checker(shelf.settings(engine=engine, cache_size=cache_size))
    async with checker:
        before = checker.policy
        shelf.release(2)
        swap_after_answering(checker)
        gate, question = capabilities_for(checker, ANONYMOUS), ("db.read", "sql_query:v2")
        if way == "check":
            assert await checker.check(ask(2)) == NO
        elif way == "check_many":
            assert await checker.check_many([ask(2)]) == [NO]
        elif way == "gate.check":
            assert await gate.check(*question) == NO
        elif way == "gate.check_many":
            assert await gate.check_many([question]) == [NO]
        elif way == "gate.check_now":
            assert gate.check_now(*question) == NO
        elif way == "gate.check_many_now":
            assert gate.check_many_now([question]) == [NO]
        else:
            assert await anyio.to_thread.run_sync(gate.check_now, *question) == NO
        assert checker.policy.version == "2"
        (event,) = events
        assert (event.policy_version, event.policy_sha256) == ("1", before.sha256)
        assert await checker.check(ask(2)) == ALLOW  # nothing of the old one was remembered


@ENGINES
@pytest.mark.parametrize("many", [False, True])
async def test_the_event_of_a_request_names_the_policy_that_answered(
    shelf: Shelf, engine: str, many: bool, events: list[DecisionEvent]
) -> None:  # A24
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("never")

    handler = requires("db.read", resource="sql_query:v2")(endpoint)
    if many:
        handler = requires("db.read", resource="sql_query:v3")(handler)
    checker = select_checker(shelf.settings(engine=engine))
    app = CapabilityMiddleware(Starlette(routes=[Route("/", handler)]), checker=checker)
    assert (await Call(http_scope()).to(app)).status == 403
    shelf.release(2)
    swap_after_answering(checker)
    assert (await Call(http_scope()).to(app)).status == 403
    assert [event.policy_version for event in events] == ["1", "1"]
    assert (await Call(http_scope()).to(app)).status == (403 if many else 200)
    await following(checker).aclose()


@pytest.mark.sampled
@ENGINES
def test_what_is_remembered_is_of_its_policy_whoever_swaps(shelf: Shelf, engine: str) -> None:  # A24, P6
    """Threads ask, through a cache, while policies come and go and come back; each memory is looked at afterwards."""
    shelf.release(2)
    shelf.release(3)
    checker: Any = select_checker(shelf.settings(engine=engine, cache_size=100))
    memories: set[Memory] = set()
    wrong: list[Any] = []
    done = threading.Event()
    every = [ask(version) for version in (1, 2, 3)]

    def work() -> None:
        while not done.is_set():
            answering = checker.answering
            memories.add(answering)
            results = answering.answer_many_now(every)
            if results != [ALLOW if answering.policy.version == str(version) else NO for version in (1, 2, 3)]:
                wrong.append((answering.policy, results))
            alone = [checker.evaluate_now(input) for input in every]
            if {type(one) for one in alone} - {Deny, type(ALLOW)} or [one for one in alone if one not in (ALLOW, NO)]:
                wrong.append(alone)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for turn in range(30 if FULL else 9):
            shelf.store.rollback("orders", turn % 3 + 1)
            checker.inner._watcher.look()
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert wrong == []
    assert len(memories) > 5
    for memory in memories:
        for key, result in memory.known.items():
            assert result == (ALLOW if key[-1] == f"v{memory.policy.version}" else NO)  # type: ignore[index]


async def test_a_batch_is_of_one_policy_though_some_of_it_is_remembered(shelf: Shelf) -> None:  # A24
    checker: Any = select_checker(shelf.settings(cache_size=10))
    async with checker:
        assert await checker.check(ask("always")) == ALLOW
        assert await checker.check(ask(1)) == ALLOW
        shelf.release(2)
        swap_after_answering(checker)
        # One is known, one is not, and the other policy takes over in between.
        assert checker.answer_many_now([ask(1), ask(2), ask(1), ask(2)]) == [ALLOW, NO, ALLOW, NO]
        assert checker.answer_many_now([ask(1), ask(2), ask(1), ask(2)]) == [NO, ALLOW, NO, ALLOW]


# -- expiry


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@ENGINES
def test_a_clock_that_moves_ends_a_policy_and_its_memory(engine: str) -> None:  # A10
    clock = Clock()
    pool = WasmPool(WasmArtifact.from_bytes(document(1)), 1, engine, Limits(deadline=20.0))
    checker = QuickChecker(WasmPolicyChecker(pool, expires=clock.now + 10, clock=clock), size=10)
    assert checker.evaluate_now(ask(1)) == ALLOW
    assert checker.remembered == 1
    clock.now += 10  # set forward, or the machine slept: no second of the process's own clock went by
    gone = Deny(Reason.POLICY_UNAVAILABLE)
    assert checker.evaluate_now(ask(1)) == gone
    assert checker.answer_many_now([ask(1), ask(2)]) == [gone, gone]
    clock.now = float("nan")
    assert checker.evaluate_now(ask(1)) == gone


@ENGINES
async def test_to_expire_is_no_fault(shelf: Shelf, engine: str) -> None:  # A10, A23
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2)
        assert await checker.refresh() is True
        now = checker.asked
        now.expires = time.time()
        for _ in range(50):
            assert await checker.evaluate(ask(2)) == Deny(Reason.POLICY_UNAVAILABLE)
        assert await checker.refresh() is False
        assert checker.status().version == 2
        assert checker.status().problem is not None  # that it denies everything is told
        assert shelf.store.read_active("orders").version == 2
        now.expires = None
        await checker.refresh()
        assert checker.status().problem is None


# -- going back


async def fail(checker: FollowingChecker, times: int = 20) -> None:
    for _ in range(times):
        assert type(await checker.evaluate(ask("always"))) is Deny
        await anyio.lowlevel.checkpoint()  # for the pool, which replaces what trapped


@ENGINES
async def test_nothing_goes_back_to_what_an_operator_left(shelf: Shelf, engine: str) -> None:  # A23
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2, trapping(2))
        shelf.release(3)
        await checker.refresh()
        shelf.store.rollback("orders", note="3 admits too much")
        await checker.refresh()
        await fail(checker, 40)
        await checker.refresh()
        assert (checker.status().version, checker.status().rolled_back) == (2, None)
        assert shelf.store.read_active("orders").sequence == 4


@ENGINES
async def test_a_version_that_nobody_here_saw_is_what_it_goes_back_to(shelf: Shelf, engine: str) -> None:  # A23
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2)
        shelf.release(3, trapping(3))
        await checker.refresh()  # from 1 to 3
        await fail(checker)
        await checker.refresh()
        assert await checker.evaluate(ask(2)) == ALLOW
        assert (checker.status().version, checker.status().rolled_back) == (2, 3)
        assert shelf.store.read_active("orders").action == "rollback"


@ENGINES
@pytest.mark.parametrize(("ago", "goes_back"), [(0, True), (1_000, False)])
async def test_a_process_that_was_started_with_it_goes_back_where_it_is_new(
    tmp_path: Path, engine: str, ago: int, goes_back: bool
) -> None:  # A23
    shelf = Shelf(tmp_path / "store", ago=ago)
    shelf.release(1)
    shelf.release(2, trapping(2))
    shelf.ago = 0
    async with follow(shelf, engine=engine) as checker:
        await fail(checker)
        await checker.refresh()
        assert checker.status().version == (1 if goes_back else 2)
        assert shelf.store.read_active("orders").sequence == (3 if goes_back else 2)


async def test_an_operator_may_be_first(shelf: Shelf) -> None:  # A23
    async with follow(shelf) as checker:
        shelf.release(2, trapping(2))
        await checker.refresh()
        checker._watcher.now._alarm = None  # or somebody looks before the operator has done it
        await fail(checker)
        shelf.release(3)
        await checker.refresh()
        assert await checker.evaluate(ask(3)) == ALLOW
        assert [record.action for record in shelf.store.history("orders")] == ["activate"] * 3
        assert checker.status().problem is None


async def test_several_threads_and_processes_go_back_once(shelf: Shelf) -> None:  # A23
    checkers = [follow(shelf) for _ in range(4)]
    shelf.release(2, trapping(2))
    for checker in checkers:
        checker._watcher.look()
        await fail(checker)
    async with anyio.create_task_group() as tasks:
        for checker in checkers:
            for _ in range(2):
                tasks.start_soon(checker.refresh)
    assert [record.action for record in shelf.store.history("orders")] == ["rollback", "activate", "activate"]
    for checker in checkers:
        await checker.refresh()
        assert (checker.status().sequence, checker.status().problem) == (3, None)
        await checker.aclose()


async def test_the_store_is_told_until_it_knows(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:  # A23
    async with follow(shelf) as checker:
        watcher = checker._watcher
        rollback = watcher._rollback
        assert rollback is not None
        tried: list[int] = []

        def busy(sequence: int) -> None:
            tried.append(sequence)
            raise StoreError("another process is writing", reason="locked", path="x")

        watcher._rollback = busy
        shelf.release(2, trapping(2))
        await checker.refresh()
        await fail(checker)
        for _ in range(3):
            await checker.refresh()
        assert tried == [2]  # less and less often
        assert (checker.status().version, checker.status().rolled_back) == (1, 2)
        assert checker.status().problem is not None
        watcher._telling._not_before = 0.0
        await checker.refresh()
        assert tried == [2, 2]
        watcher._rollback, watcher._telling._not_before = rollback, 0.0
        await checker.refresh()
        await checker.refresh()
        assert shelf.store.read_active("orders").sequence == 3
        assert (checker.status().sequence, checker.status().problem) == (3, None)
        assert sum(record.levelname == "CRITICAL" for record in caplog.records) == 1


async def test_nobody_looks_again_and_again_where_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, trapping(1))
    async with follow(shelf) as checker:
        rung: list[int] = []
        alarm = checker._watcher.alarm
        ring = alarm.event.set

        def count() -> None:
            rung.append(1)
            ring()

        alarm.event.set = count  # type: ignore[method-assign]
        await fail(checker, 100)
        del alarm.event.set
        assert rung == [1]


# -- what the store does meanwhile

DISTURBANCES = (
    *("gone", "a file", "empty", "others may write", "a link in it", "half a record", "another store", "no modules"),
    "a later clock wrote it",
)


def disturb(path: Path, what: str) -> None:
    record = path / "policies" / "orders" / "active.json"
    if what in ("gone", "a file", "empty", "another store"):
        shutil.rmtree(path)
    if what == "a file":
        path.write_text("no store")
    elif what == "empty":
        path.mkdir()
    elif what == "others may write":
        path.chmod(0o777)
    elif what == "a link in it":
        (path / "policies").rename(path / "elsewhere")
        (path / "policies").symlink_to("elsewhere")
    elif what == "half a record":
        record.write_bytes(record.read_bytes()[:-20])
    elif what == "another store":
        Shelf(path).release(1, document(3))
    elif what == "no modules":
        Shelf(path).release(2)
        shutil.rmtree(path / "sha256")
    elif what == "a later clock wrote it":
        Shelf(path, ago=-4_000).release(2)


@pytest.mark.parametrize("what", DISTURBANCES)
async def test_a_store_that_is_disturbed_and_comes_back(shelf: Shelf, what: str, tmp_path: Path) -> None:
    # A1, A10, A15, A16
    shutil.copytree(shelf.path, tmp_path / "kept", symlinks=True)
    async with follow(shelf) as checker:
        disturb(shelf.path, what)
        for _ in range(2):
            assert await checker.refresh() is False
            assert await checker.evaluate(ask(1)) == ALLOW
        status = checker.status()
        assert status.problem is not None
        assert (status.version, status.swaps) == (1, 0)
        if shelf.path.is_dir():
            shelf.path.chmod(0o755)
            shutil.rmtree(shelf.path)
        else:
            shelf.path.unlink(missing_ok=True)
        shutil.copytree(tmp_path / "kept", shelf.path, symlinks=True)
        assert await checker.refresh() is False
        assert checker.status().problem is None
        shelf.release(4)
        assert await checker.refresh() is True
        assert await checker.evaluate(ask(4)) == ALLOW


class Panic(BaseException):
    """As wasmer raises it: no Exception."""


@pytest.mark.parametrize("where", ["make", "read", "loop", "close"])
async def test_a_panic_is_a_problem_and_not_the_end(shelf: Shelf, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*arguments: object) -> Any:
        raise Panic("at the engine")

    async with follow(shelf, store_poll=0.05) as checker:
        watcher = checker._watcher
        thread = checker._thread
        if where == "close":
            shelf.release(2)
            shelf.release(3)
            await checker.refresh()
            watcher._replaced = [(0.0, watcher.now)]
        with monkeypatch.context() as patched:
            if where == "make":
                patched.setattr(watcher, "_make", panic)
            elif where == "read":
                patched.setattr(watcher._source, "read_active", panic)
            elif where == "loop":
                patched.setattr(WasmPool, "fill_some", panic)
            else:
                patched.setattr(watcher, "_close_replaced", panic)
            shelf.release(4)
            with anyio.fail_after(30):
                while checker.status().problem is None:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        assert checker.status().version != 4
        watcher._refused._not_before = 0.0
        with anyio.fail_after(30):
            while checker.status().version != 4:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert checker._thread is thread
        assert thread is not None
        assert thread.is_alive()
        assert checker.status().problem is None
        assert await checker.evaluate(ask(4)) == ALLOW


# -- ending


async def test_what_is_closed_meanwhile_does_not_take_over(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    # P13: closing waits for whoever looks, but not for ever; what is made afterwards has nobody to close it.
    monkeypatch.setattr(follow_module, "JOINING", 0.01)
    made: list[WasmPolicyChecker] = []
    making, closed = threading.Event(), threading.Event()
    checker = follow(shelf, store_poll=0.05)
    make = checker._watcher._make

    def slowly(policy: VerifiedPolicy) -> WasmPolicyChecker:
        making.set()
        closed.wait(30)
        made.append(make(policy))
        return made[-1]

    await checker.start()
    thread = checker._thread
    assert thread is not None
    checker._watcher._make = slowly
    shelf.release(2)
    await anyio.to_thread.run_sync(making.wait, 30)
    await checker.aclose()
    closed.set()
    await anyio.to_thread.run_sync(thread.join, 30)
    assert not thread.is_alive()
    assert checker.status().version == 1
    gone = Deny(Reason.POLICY_UNAVAILABLE)
    assert await checker.evaluate(ask(1)) == gone
    assert [one.evaluate_now(ask(2)) for one in made] == [gone]
    shelf.release(3)
    assert await checker.refresh() is False
    assert await checker.evaluate(ask(3)) == gone
    with pytest.raises(PolicyUnavailable):
        await checker.start()
    assert checker._watcher.loops == []


async def test_closing_that_is_cancelled_closes(shelf: Shelf) -> None:  # P13
    checker = follow(shelf)
    await checker.start()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await checker.aclose()
    assert await checker.evaluate(ask(1)) == Deny(Reason.POLICY_UNAVAILABLE)


def test_a_loop_that_stopped_is_not_waited_for(shelf: Shelf) -> None:  # P12
    checker = follow(shelf)
    stopped, finished = asyncio.new_event_loop(), asyncio.new_event_loop()
    stopped.run_until_complete(checker.start())
    finished.run_until_complete(checker.start())
    finished.close()
    trio.run(checker.start)
    assert len(checker._watcher.loops) == 3
    assert on_loop(stopped, lambda: None, SELDOM) is False  # and does not wait an hour
    shelf.release(2)
    assert checker._watcher.look() is True
    assert checker._watcher.loops == []
    assert checker.evaluate_now(ask(2)) == ALLOW
    stopped.run_until_complete(checker.aclose())
    stopped.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_loop_raises_comes_to_who_waits(backend: str) -> None:
    def panic() -> None:
        raise Panic("on the loop")

    async def main() -> None:
        from capgate.runtime.event_loop import current_loop

        loop = current_loop()
        assert loop is not None
        with pytest.raises(Panic):
            await anyio.to_thread.run_sync(on_loop, loop, panic, 30.0)
        assert await anyio.to_thread.run_sync(on_loop, loop, lambda: None, 30.0) is True

    anyio.run(main, backend=backend)


@pytest.mark.slow
@ENGINES
def test_several_event_loops_follow_one_checker(shelf: Shelf, engine: str) -> None:  # A24, P12
    checker = follow(shelf, engine=engine)
    done, wrong, asked = threading.Event(), [], [0]
    every = [ask(version) for version in range(1, 8)]

    async def main() -> None:
        await checker.start()
        while not done.is_set():
            answering = checker.answering
            for results in (await checker.evaluate_many(every), await answering.evaluate_many(every)):
                asked[0] += 1
                if sum(result == ALLOW for result in results) != 1 or any(one not in (ALLOW, NO) for one in results):
                    wrong.append(results)
            await anyio.lowlevel.checkpoint()

    threads = [
        threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend})
        for backend in ("asyncio", "trio", "asyncio")
    ]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 8):
            shelf.release(version)
            assert checker._watcher.look() is True
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []
    assert asked[0] > 20
    anyio.run(checker.aclose)


# -- a fork


@pytest.mark.skipif("wasmtime" not in EXPECTED_ENGINES, reason="wasmer cannot compile in a forked child")
def test_a_fork_while_somebody_looks(shelf: Shelf) -> None:  # P10
    """The child has neither the thread that looks nor anybody who would give its lock back."""
    checker = follow(shelf, engine="wasmtime")
    anyio.run(checker.start)
    looking, forked = threading.Event(), threading.Event()
    read = checker._watcher._source.read_active

    def slowly(name: str) -> Active:
        looking.set()
        forked.wait(30)
        return read(name)

    checker._watcher._source.read_active = slowly  # type: ignore[method-assign]
    thread = threading.Thread(target=checker._watcher.look)
    thread.start()
    looking.wait(30)
    shelf.release(2)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            checker._watcher._source.read_active = read  # type: ignore[method-assign]
            if checker._watcher.look() and checker.evaluate_now(ask(2)) == ALLOW:
                code = 0
        finally:
            os._exit(code)
    forked.set()
    thread.join(30)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    anyio.run(checker.aclose)


# -- what stays


class Carousel:
    """A source of policies without a disk: at each reading of ``read_active`` after ``turn`` another one."""

    path = "memory"

    def __init__(self, kinds: int = 3) -> None:
        from datetime import datetime, timezone

        self.made = []
        when = datetime.now(timezone.utc).replace(microsecond=0)
        for version in range(1, kinds + 1):
            artifact = WasmArtifact.from_bytes(document(version))
            self.made.append((artifact, Manifest.describing(artifact, version=version, created=when)))
        self.when = when
        self.sequence = 1

    def read_active(self, name: str) -> Active:
        _, manifest = self.made[self.sequence % len(self.made)]
        digest = f"{self.sequence % len(self.made):064x}"
        return make_record(
            "activate", manifest, digest, None, previous=None, highest=9, when=self.when, sequence=self.sequence
        )

    def load(self, active: Active) -> VerifiedPolicy:
        artifact, manifest = self.made[active.sequence % len(self.made)]
        return VerifiedPolicy(artifact, manifest, (), active)

    def load_active(self, name: str) -> VerifiedPolicy:
        return self.load(self.read_active(name))


class Crew:
    """Threads that do what they are given, each of them once, and wait for more."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count + 1)
        self._work: Callable[[], object] | None = None
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while True:
            self._barrier.wait(60)
            if self._work is None:
                return
            self._work()
            self._barrier.wait(60)

    def do(self, work: Callable[[], object]) -> None:
        self._work = work
        self._barrier.wait(60)
        self._barrier.wait(60)

    def dismiss(self) -> None:
        self._work = None
        self._barrier.wait(60)
        for thread in self._threads:
            thread.join(60)


@contextmanager
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was replaced is closed at the next look."""
    with monkeypatch.context() as patched:
        patched.setattr("capgate.checker.watcher._when_answered", lambda generation: 0.0)
        yield


def live() -> dict[str, int]:
    """Instances and policies that anything still refers to."""
    gc.collect()
    names = {"WasmerInstance", "WasmtimeInstance", "Generation", "WasmPool", "PreparedPolicy"}
    return dict(Counter(name for item in gc.get_objects() if (name := type(item).__name__) in names))


@pytest.mark.sampled
@ENGINES
def test_many_swaps_leave_nothing(engine: str, capsys: pytest.CaptureFixture[str]) -> None:  # P17
    swaps = 250 if FULL else 30
    command = [sys.executable, "-m", "tests.checker.swapping", engine, str(swaps)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    half, end = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{swaps} swaps on {engine}: at half time {half}, at the end {end}")
    slack = 2  # whoever is about to drop one; what each swap leaves behind would be half as many as swaps
    assert {name: count for name, count in end["live"].items() if count > half["live"].get(name, 0) + slack} == {}
    assert end["descriptors"] <= half["descriptors"] + slack
    assert end["threads"] <= half["threads"] + slack
    if FULL:
        assert end["memory"] - half["memory"] < 4 * 1_048_576


@ENGINES
async def test_instances_of_a_policy_that_is_gone_end_on_their_thread(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P5
    """A worker thread lives on, while the last reference to a pool goes on the thread that looks."""
    from capgate.runtime.thread_instances import ThreadInstances

    ended: list[bool] = []
    owners: dict[int, int] = {}
    keep: list[ThreadInstances] = []
    start, close = ThreadInstances.__init__, ThreadInstances.close

    def started(self: ThreadInstances, *arguments: Any) -> None:
        start(self, *arguments)
        keep.append(self)  # so that no id is given twice
        owners[id(self)] = threading.get_ident()

    def closed(self: ThreadInstances) -> None:
        if id(self) in owners:  # and not of another test, whose thread ends now
            ended.append(owners[id(self)] == threading.get_ident())
        close(self)

    monkeypatch.setattr(ThreadInstances, "__init__", started)
    monkeypatch.setattr(ThreadInstances, "close", closed)
    source, crew = Carousel(), Crew(2)

    def make(policy: VerifiedPolicy) -> WasmPolicyChecker:
        return WasmPolicyChecker(WasmPool(policy.artifact, 1, engine, Limits(deadline=20.0)))

    with at_once(monkeypatch):
        checker = FollowingChecker(source, "orders", make, poll=SELDOM)
        async with checker:
            for _ in range(8):
                source.sequence += 1
                await checker.refresh()
                await anyio.to_thread.run_sync(crew.do, lambda: checker.answer_many_now([ask("always")]))
        await anyio.to_thread.run_sync(crew.dismiss)
    assert len(ended) >= 16
    assert all(ended)
    workers = [instances for instances in keep if not instances.idle and instances._size == 0]
    assert len(workers) >= 16  # and none of them has an instance any more


def test_a_status_says_who_signed(shelf: Shelf) -> None:
    assert follow(shelf).status().signers == (KEY.public.id,)
    assert isinstance(follow(shelf).answering, Generation)
