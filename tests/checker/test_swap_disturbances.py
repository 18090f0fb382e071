"""Hot swap under attack: a store that is disturbed, panics, loops that stop, ends and forks in between."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from capgate.checker import following as follow_module
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import PolicyUnavailable
from capgate.model import ALLOW, Deny, Reason
from capgate.runtime.event_loop import on_loop
from capgate.runtime.pool import WasmPool
from capgate.store import Active, VerifiedPolicy
from capgate.wasm.interruption import Interrupted

from ..support.engines import EXPECTED_ENGINES
from ..support.stores import SELDOM, Shelf, ask, document
from .swaps import (
    ENGINES,
    NO,
    follow,
)

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


@pytest.mark.slow
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


@pytest.mark.slow
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
        watcher._rejected._not_before = 0.0
        with anyio.fail_after(30):
            while checker.status().version != 4:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert checker._thread is thread
        assert thread is not None
        assert thread.is_alive()
        assert checker.status().problem is None
        assert await checker.evaluate(ask(4)) == ALLOW


@pytest.mark.parametrize("error", [Panic, GeneratorExit, asyncio.CancelledError])
async def test_what_ends_a_task_does_not_end_the_looking(
    shelf: Shelf, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks is nobody's task: a store, or a loop, from which such a thing comes is no end of it."""

    def end(*arguments: object) -> Any:
        raise error("from somewhere else")

    async with follow(shelf, store_poll=SELDOM) as checker:
        shelf.release(4)
        with monkeypatch.context() as patched:
            patched.setattr(checker._watcher._source, "read_active", end)
            assert await anyio.to_thread.run_sync(checker._watcher.look) is False
        assert checker.status().problem is not None
        assert await anyio.to_thread.run_sync(checker._watcher.look) is True
        assert checker.status().problem is None


# -- ending


async def test_what_is_closed_meanwhile_does_not_take_over(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    # P13: closing waits for whoever looks, but not for ever; what is made afterwards has nobody to close it.
    monkeypatch.setattr(follow_module, "JOINING", 0.01)
    made: list[WasmPolicyChecker] = []
    making, closed = threading.Event(), threading.Event()
    checker = follow(shelf, store_poll=0.05)
    make = checker._watcher._make

    def slowly(policy: VerifiedPolicy) -> WasmPolicyChecker:
        made.append(make(policy))
        making.set()
        closed.wait(30)
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


async def test_closing_interrupts_the_work_on_a_module(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:  # T-7
    ended: list[BaseException] = []
    making, closing = threading.Event(), threading.Event()
    checker = follow(shelf, store_poll=0.05)
    make, end = checker._watcher._make, checker._watcher.end

    def noting(policy: VerifiedPolicy) -> WasmPolicyChecker:
        making.set()
        closing.wait()
        try:
            return make(policy)
        except BaseException as error:
            ended.append(error)
            raise

    def ending() -> None:
        end()
        closing.set()

    await checker.start()
    checker._watcher._make = noting
    checker._watcher.end = ending  # type: ignore[method-assign]
    shelf.release(2)
    await anyio.to_thread.run_sync(making.wait)
    thread = checker._thread
    assert thread is not None
    await checker.aclose()
    await anyio.to_thread.run_sync(thread.join)
    assert [type(error) for error in ended] == [Interrupted]
    assert (checker.status().problem, caplog.records) == (None, [])


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


@ENGINES
async def test_a_loop_that_stands_still_keeps_its_policy(
    shelf: Shelf, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # T-2
    """Its first question would have to wait for a compilation."""
    monkeypatch.setattr("capgate.checker.watcher.WARMING", 0.1)
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2)
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(checker._watcher.look).result(60) is False  # the loop waits for it
        assert await checker.evaluate(ask(1)) == ALLOW
        problem = checker.status().problem
        assert problem is not None
        assert "TimeoutError" in problem
        checker._watcher._rejected._not_before = 0.0
        assert await checker.refresh() is True
        assert await checker.evaluate(ask(2)) == ALLOW


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
            current = checker.current
            for results in (await checker.evaluate_many(every), await current.evaluate_many(every)):
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
