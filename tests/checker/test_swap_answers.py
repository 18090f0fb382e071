"""Hot swap: an answer, its event and what is remembered are of one policy, whoever swaps meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, requires
from capgate.checker.cached import CachedChecker, Memory
from capgate.checker.wasm import WasmPolicyChecker
from capgate.checker.watcher import Generation
from capgate.enforcement.current import capabilities_for
from capgate.events import DecisionEvent
from capgate.limits import Limits
from capgate.model import ALLOW, ANONYMOUS, Deny, Reason
from capgate.runtime.pool import WasmPool
from capgate.settings.select import select_checker
from capgate.store import WasmArtifact

from ..support.asgi import Call, http_scope
from ..support.engines import EXPECTED_ENGINES
from ..support.stores import KEY, Shelf, ask, document
from ..support.tools import FULL
from .swaps import (
    ENGINES,
    NO,
    follow,
    following,
    swap_after_answering,
)

# -- which policy it was

WAYS = ["check", "check_many", "gate.check", "gate.check_many", "gate.check_now", "gate.check_many_now", "in a thread"]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
            current = checker.current
            memories.add(current)
            results = current.answer_many_now(every)
            if results != [ALLOW if current.policy.version == str(version) else NO for version in (1, 2, 3)]:
                wrong.append((current.policy, results))
            alone = [checker.evaluate_now(input) for input in every]
            if {type(one) for one in alone} - {Deny, type(ALLOW)} or [one for one in alone if one not in (ALLOW, NO)]:
                wrong.append(alone)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for turn in range(15 if FULL else 9):
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
        policy = memory.policy
        assert policy is not None
        for key, result in memory.known.items():
            assert result == (ALLOW if key[-1] == f"v{policy.version}" else NO)  # type: ignore[index]


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
    checker = CachedChecker(WasmPolicyChecker(pool, expires=clock.now + 10, clock=clock), size=10)
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
        now = checker.current.checker
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


def test_a_status_says_who_signed(shelf: Shelf) -> None:
    assert follow(shelf).status().signers == (KEY.public.id,)
    assert isinstance(follow(shelf).current, Generation)
