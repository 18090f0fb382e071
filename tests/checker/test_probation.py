"""Probation of a release: what the policy did counts, and never what befell its host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate.checker.following import FollowingChecker
from capgate.checker.watcher import Generation
from capgate.errors import (
    AbiError,
    BuiltinError,
    MalformedInput,
    PolicyTimeout,
    PolicyTrap,
    PolicyUnavailable,
    PoolExhausted,
    is_by_policy,
)
from capgate.limits import Limits
from capgate.model import Deny, PolicyResult, Reason
from capgate.routes.declare import requires
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.engines import EXPECTED_ENGINES
from ..support.gates import gated
from ..support.guests import guest
from ..support.stores import Shelf, ask, document, trapping
from ..support.tools import examples
from .swaps import ENGINES, follow

#: As many questions as there may be at once, each in a thread of its own.
AT_ONCE = 40
ENDLESS = guest("(loop $forever (br $forever)) (unreachable)")
OUT_OF_BOUNDS = guest("(i32.const 0x7ffffff0)")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PolicyTrap("unreachable"), True),
        (PolicyTrap("stack_overflow"), True),
        (PolicyTrap("engine_fault"), False),
        (PolicyTimeout(), True),
        (PolicyTimeout(limit="deadline"), True),
        (AbiError("discriminant"), True),
        (BuiltinError("sprintf", "limit"), True),
        (BuiltinError("sprintf", "internal"), False),
        (PoolExhausted(), False),
        (PolicyUnavailable(), False),
        (MalformedInput(), False),
        (MemoryError(), False),
        (RecursionError(), False),
        (TimeoutError(), False),
    ],
)
def test_whose_doing_an_error_is(error: BaseException, expected: bool) -> None:
    assert is_by_policy(error) is expected


# -- what befalls the host


async def new_release(checker: FollowingChecker, shelf: Shelf, module: bytes | None = None) -> Generation:
    """A second version, which answers and is on probation."""
    shelf.release(2, module)
    assert await checker.refresh() is True
    return checker.current


async def stays(checker: FollowingChecker, shelf: Shelf, version: int = 2) -> None:
    """Nobody went back, here or in the store."""
    await checker.refresh()
    assert (checker.status().version, checker.status().rolled_back) == (version, None)
    assert shelf.store.read_active("orders").version == version


@ENGINES
async def test_waiting_in_vain_for_an_instance_is_no_fault(shelf: Shelf, engine: str) -> None:  # T-3
    async with follow(shelf, engine=engine, pool_size=1, limits=Limits(deadline=0.001)) as checker:
        now = await new_release(checker, shelf)
        async with now.checker.pool.acquire():
            for _ in range(30):
                assert await checker.evaluate(ask(2)) == Deny(Reason.POOL_EXHAUSTED)
        assert (now.asked, now.failed, now.fails()) == (0, 0, False)
        await stays(checker, shelf)


class Panic(BaseException):
    """As engines have it."""


@ENGINES
@pytest.mark.parametrize("error", [Panic(), MemoryError(), RecursionError(), RuntimeError, OSError()], ids=repr)
async def test_a_failure_of_the_engine_or_of_the_host_is_no_fault(
    shelf: Shelf, engine: str, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # T-3
    def fail(*arguments: Any) -> Any:
        raise error

    async with follow(shelf, engine=engine) as checker:
        now = await new_release(checker, shelf)
        with monkeypatch.context() as patched:
            patched.setattr("capgate.runtime.pool.WasmPool._take_slowly", fail)
            now.checker.pool._local.instances.idle.clear()
            for _ in range(30):
                assert type(await checker.evaluate(ask(2))) is Deny
        assert (now.failed, now.fails()) == (0, False)
        await stays(checker, shelf)


@ENGINES
async def test_questions_that_no_policy_was_asked_dilute_no_faults(shelf: Shelf, engine: str) -> None:  # A23
    """Nineteen traps are too few, however much else went wrong; the twentieth is what the release is left for."""
    async with follow(shelf, engine=engine, pool_size=1, limits=Limits(deadline=0.001)) as checker:
        now = await new_release(checker, shelf, trapping(2))
        async with now.checker.pool.acquire():
            for _ in range(30):
                await checker.evaluate(ask("always"))
        for expected in [False] * 19 + [True]:
            assert now.fails() is False
            result: PolicyResult | None = None
            while result != Deny(Reason.POLICY_TRAP):  # there may be no instance yet
                result = await checker.evaluate(ask("always"))
                await anyio.lowlevel.checkpoint()
            assert now.fails() is expected
        await checker.refresh()
        assert (checker.status().version, checker.status().rolled_back) == (1, 2)


@ENGINES
@pytest.mark.parametrize("module", [trapping(2), ENDLESS, OUT_OF_BOUNDS], ids=["traps", "never ends", "breaks the ABI"])
async def test_what_a_policy_does_is_its_fault(shelf: Shelf, engine: str, module: bytes) -> None:  # A23
    async with follow(shelf, engine=engine, limits=Limits(fuel=10_000)) as checker:
        now = await new_release(checker, shelf, module)
        while now.asked < 20:
            await checker.evaluate(ask("always"))
            await anyio.lowlevel.checkpoint()
        await checker.refresh()
        assert (checker.status().version, checker.status().rolled_back) == (1, 2)


# -- while many ask in threads


@contextmanager
def threads(count: int) -> Iterator[None]:
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, count
    try:
        yield
    finally:
        limiter.total_tokens = before


def asking_app(checker: FollowingChecker, meanwhile: Callable[[], object] = lambda: None) -> Any:
    """An application with a ``def`` endpoint that asks, in a thread, what every release admits."""

    def endpoint(request: Request) -> Response:
        meanwhile()
        result = request.state.capabilities.check_now("db.read", "sql_query:always")
        return JSONResponse(getattr(result, "reason", "allow"))

    declared = requires("db.read", resource="sql_query:always")(endpoint)
    return gated([Route("/", declared)], checker, Settings(limits=Limits()))


async def ask_at_once(app: Any, count: int) -> list[Call]:
    calls = [Call(http_scope()) for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(call.to, app)
    return calls


@ENGINES
async def test_a_good_release_stays_while_many_threads_ask_for_the_first_time(shelf: Shelf, engine: str) -> None:  # T-3
    """With the limits of the default. It becomes active while each of them is about to ask."""
    together = threading.Barrier(AT_ONCE + 1)
    async with follow(shelf, engine=engine, limits=Limits(), pool_size=8) as checker:
        app = asking_app(checker, lambda: together.wait(60))
        seen: list[Call] = []

        async def ask_all() -> None:
            seen.extend(await ask_at_once(app, AT_ONCE))

        shelf.publish(2)
        with threads(AT_ONCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask_all)
                look = threading.Thread(target=lambda: (together.wait(60), shelf.store.activate("orders", 2)))
                look.start()
                await anyio.lowlevel.checkpoint()
                while checker.status().version == 1:
                    await checker.refresh()
            with anyio.fail_after(60):
                await anyio.to_thread.run_sync(look.join)
        assert [(call.status, call.json) for call in seen] == [(200, "allow")] * AT_ONCE
        assert checker.current.failed == 0
        await stays(checker, shelf)
        assert [record.action for record in shelf.store.history("orders")] == ["activate"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("engine", EXPECTED_ENGINES)
async def test_of_many_releases_each_bad_one_is_left_and_no_good_one(shelf: Shelf, engine: str) -> None:  # T-3
    """Every third one traps at every question. All the while ten requests ask at once, in threads."""
    done = False
    reasons: set[Any] = set()
    versions = range(2, 2 + examples(200))
    async with follow(shelf, engine=engine, limits=Limits(), pool_size=8) as checker:
        app = asking_app(checker)

        async def load() -> None:
            while not done:
                for call in await ask_at_once(app, 10):
                    reasons.add(call.json if call.status == 200 else call.status)

        with threads(AT_ONCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(load)
                good, left = 1, 0
                for version in versions:
                    is_bad = version % 3 == 0
                    module = trapping(version) if is_bad else document(version)
                    await anyio.to_thread.run_sync(shelf.release, version, module)
                    assert await checker.refresh() is True
                    now = checker.current
                    until = time.monotonic() + 120
                    while now.asked < 25 and not now.fails():
                        await anyio.sleep(0.001)
                        assert time.monotonic() < until
                    await checker.refresh()
                    left = checker.status().sequence if is_bad else left
                    good = good if is_bad else version
                    assert checker.status().version == good
                    assert now.failed == (now.asked if is_bad else 0)
                    assert shelf.store.read_active("orders").version == good
                done = True
        history = shelf.store.history("orders")
        assert sum(record.action == "rollback" for record in history) == sum(version % 3 == 0 for version in versions)
    assert reasons <= {"allow", 403, Reason.POLICY_TRAP, Reason.POLICY_UNAVAILABLE, Reason.POOL_EXHAUSTED}
