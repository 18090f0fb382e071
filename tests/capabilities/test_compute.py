"""The gate of long work: asked before a slot is taken, and slots that come back."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.background import BackgroundTasks
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate.capabilities import CapabilityDenied, current
from capgate.capabilities.compute import GatedLimiter, LimiterStatistics
from capgate.errors import ConfigError
from capgate.model import Reason
from capgate.routes.declare import requires

from ..support.gates import events, gated, make_checker
from .kinds import KINDS
from .listening import Listening, allowing, reason

REPORTS = {"compute": ["report"]}
IDLE = LimiterStatistics(2, 0, 0)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  # what is waited for is a number of somebody else's
        await anyio.sleep(0.001)


async def test_work_runs_in_a_worker_thread_under_its_own_capabilities() -> None:
    limiter = GatedLimiter(2, job="report")
    with allowing(REPORTS) as listening:

        def work(*args: int, more: int) -> tuple[int, bool, bool]:
            return sum(args) + more, threading.current_thread() is here, current() is listening

        here = threading.current_thread()
        assert await limiter.run(work, 1, 2, more=3) == (6, False, True)
        async with limiter.slot(), limiter.slot():
            assert limiter.statistics() == LimiterStatistics(2, 2, 0)
    assert listening.asked == [("compute.long", "report")] * 3
    assert limiter.statistics() == IDLE


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_denied_takes_no_slot(kind: str) -> None:
    ran: list[int] = []
    with allowing(REPORTS, kind) as listening:
        free, taken = GatedLimiter(2, job="mining"), GatedLimiter(1, job="report", waiting=0)
        for limiter in (free, GatedLimiter(1)):
            with pytest.raises(CapabilityDenied) as caught:
                await limiter.run(ran.append, 1)
            assert reason(caught.value) == Reason.NOT_IN_ALLOWLIST
            with pytest.raises(CapabilityDenied):
                async with limiter.slot():
                    ran.append(2)
            with pytest.raises(CapabilityDenied):
                await limiter.task(ran.append, 3)()
        assert free.statistics() == IDLE
        async with taken.slot():
            before = len(listening.asked)
            with pytest.raises(CapabilityDenied) as caught:
                await taken.run(ran.append, 4)
            assert reason(caught.value) == Reason.POOL_EXHAUSTED
            assert len(listening.asked) == before + 1
    assert ran == []
    assert taken.statistics() == LimiterStatistics(1, 0, 0)


async def test_a_limiter_without_a_job_asks_without_a_resource() -> None:
    with allowing({"compute": "any"}) as listening:
        assert await GatedLimiter(1).run(int, "7") == 7
    assert listening.asked == [("compute.long", None)]


async def test_capabilities_of_its_own() -> None:
    mine = Listening.to(REPORTS)
    with allowing({}) as others:
        assert await GatedLimiter(1, job="report", capabilities=mine).run(int, "7") == 7
    assert (len(mine.asked), len(others.asked)) == (1, 0)


async def test_so_many_wait_and_the_next_one_is_denied() -> None:
    limiter = GatedLimiter(1, job="report", waiting=2)
    ran: list[str] = []

    async def work(name: str) -> None:
        async with limiter.slot():
            ran.append(name)

    with allowing(REPORTS), events() as seen:
        async with anyio.create_task_group() as tasks, limiter.slot():
            tasks.start_soon(work, "first")
            await until(lambda: limiter.statistics().waiting == 1)
            tasks.start_soon(work, "second")
            await until(lambda: limiter.statistics().waiting == 2)
            with pytest.raises(CapabilityDenied) as caught:
                await work("third")
            assert limiter.statistics() == LimiterStatistics(1, 1, 2)
    assert ran == ["first", "second"]
    assert reason(caught.value) == Reason.POOL_EXHAUSTED
    assert caught.value.decision.input.resource.id == "report"
    assert [(one["action"], one["resource_id"], one["reason"]) for one in seen] == [
        ("compute.long", "report", Reason.POOL_EXHAUSTED)
    ]
    assert seen[0]["decision_id"] == caught.value.decision.decision_id
    assert seen[0]["actor_id"] == "tests"
    assert limiter.statistics() == LimiterStatistics(1, 0, 0)


async def test_never_more_at_once_than_there_are_slots() -> None:
    limiter = GatedLimiter(3, job="report")
    lock, end, running, most = threading.Lock(), threading.Event(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        end.wait()
        with lock:
            running -= 1

    with allowing(REPORTS):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(limiter.run, work)
            await until(lambda: running + limiter.statistics().waiting == 20)
            end.set()
    assert most == 3
    assert limiter.statistics() == LimiterStatistics(3, 0, 0)


async def test_cancelled_work_gives_its_slot_back() -> None:
    limiter = GatedLimiter(1, job="report")
    with allowing(REPORTS):
        for waits in (False, True):  # cancelled while it works, and while it waits
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_hold, limiter)
                await until(lambda: limiter.statistics().running == 1)
                if waits:
                    tasks.start_soon(_hold, limiter)
                    await until(lambda: limiter.statistics().waiting == 1)
                tasks.cancel_scope.cancel()
            assert limiter.statistics() == LimiterStatistics(1, 0, 0)
        with pytest.raises(ZeroDivisionError):
            await limiter.run(lambda: 1 / 0)
        with anyio.move_on_after(0):
            await limiter.run(int)
        assert await limiter.run(int, "7") == 7
    assert limiter.statistics() == LimiterStatistics(1, 0, 0)


async def test_a_thread_keeps_its_slot_until_it_ends() -> None:
    limiter, begun, end = GatedLimiter(1, job="report"), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait()

    with allowing(REPORTS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limiter.run, work)
            await until(begun.is_set)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
                assert limiter.statistics() == LimiterStatistics(1, 1, 0)
            end.set()
    assert limiter.statistics() == LimiterStatistics(1, 0, 0)


async def _hold(limiter: GatedLimiter) -> None:
    async with limiter.slot():
        await anyio.sleep_forever()


@pytest.mark.parametrize("kind", KINDS)
async def test_background_tasks_of_a_handler_without_a_policy_call(kind: str) -> None:
    ran: list[str] = []
    limiters = {name: GatedLimiter(1, job=name) for name in ("report", "mining")}

    async def later(name: str) -> None:
        ran.append(f"{name} {current() is not None}")

    class Later:
        async def __call__(self, name: str) -> None:
            ran.append(name)

    @requires("db.read", resource="sql_query:orders")
    async def endpoint(request: Request) -> Response:
        limiter = limiters[request.query_params["job"]]
        tasks = BackgroundTasks([limiter.task(work, "x") for work in (later, functools.partial(later), Later())])
        tasks.tasks.append(limiter.task(ran.append, "thread"))
        return JSONResponse("begun", background=tasks)

    checker = make_checker(kind, {"sql": ["orders"], **REPORTS})
    app = gated([Route("/", endpoint)], checker)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/", params={"job": "report"})).json() == "begun"
        assert ran == ["x True", "x True", "x", "thread"]
        with events() as seen, pytest.raises(CapabilityDenied):  # the response is gone; what is left is an error
            await client.get("/", params={"job": "mining"})
    assert [(one["action"], one["resource_id"]) for one in seen] == [("compute.long", "mining")]
    assert len(ran) == 4
    await checker.aclose()


def test_it_may_be_made_before_there_is_an_event_loop(anyio_backend: str) -> None:
    limiter = GatedLimiter(1, job="report")
    assert limiter.statistics() == LimiterStatistics(1, 0, 0)
    with allowing(REPORTS):
        assert anyio.run(limiter.run, int, "7", backend=anyio_backend) == 7


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        *[({"capacity": wrong}, "capacity") for wrong in (0, -1, 1.5, True, "2", 10_000_000)],
        *[({"capacity": 1, "waiting": wrong}, "waiting") for wrong in (-1, None, 0.5)],
        *[({"capacity": 1, "job": wrong}, "job") for wrong in ("", 7, b"x")],
    ],
)
def test_what_cannot_be_configured(options: dict[str, object], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GatedLimiter(**options)  # type: ignore[arg-type]
    assert caught.value.setting == setting
