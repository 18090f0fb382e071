"""Capabilities that end with the request that they were handed to, where settings say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from capgate.enforcement.capabilities import Capabilities
from capgate.enforcement.current import capabilities_for, current, using
from capgate.errors import CapabilityDenied
from capgate.model import ALLOW, Deny, Reason, Service, User

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import Recording, events, gated, make_checker, read
from .application import GOOD, PATIENT, at

ENDING = msgspec.structs.replace(PATIENT, capabilities_end_with_request=True)
ENDED = Deny(Reason.REQUEST_ENDED)

#: Ways to what a request was handed, each kept beyond the end of it.
WAYS: dict[str, Callable[[Request], Capabilities]] = {
    "the state": lambda request: request.state.capabilities,
    "the current ones": lambda request: current(),
    "for another actor": lambda request: request.state.capabilities.for_actor(User("ada")),
    "for the actor of a scope": lambda request: current().for_actor_in({}, lambda scope: Service("x")),
}


async def kept(way: str, settings: Any, checker: Any = None) -> Capabilities:
    handed: list[Capabilities] = []

    async def handler(request: Request) -> Response:
        handed.append(WAYS[way](request))
        assert await handed[0].check(*GOOD) is ALLOW
        return Response()

    assert (await Call(http_scope("/")).to(at(handler, checker, settings))).status == 200
    return handed[0]


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_handed_to_a_request_ends_with_it(way: str) -> None:  # G-18
    checker = Recording()
    capabilities = await kept(way, ENDING, checker)
    asked = len(checker.asked)
    with events() as found:
        assert await capabilities.check(*GOOD) == ENDED
        assert capabilities.check_now(*GOOD) == ENDED
        assert await capabilities.check_many([GOOD, GOOD]) == [ENDED, ENDED]
        assert await anyio.to_thread.run_sync(lambda: capabilities.check_now(*GOOD)) == ENDED
        for ask in (capabilities.require, capabilities.for_actor(User("grace")).require):
            with pytest.raises(CapabilityDenied) as caught:
                await ask(*GOOD)
            assert caught.value.decision.result == ENDED
    assert len(checker.asked) == asked
    assert [event["reason"] for event in found] == ["request_ended"] * 6


@pytest.mark.parametrize("way", WAYS)
async def test_by_default_it_goes_on(way: str) -> None:  # G-18
    capabilities = await kept(way, PATIENT)
    assert await capabilities.check(*GOOD) is ALLOW
    assert capabilities.check_now(*GOOD) is ALLOW


async def test_a_task_that_outlives_the_request_is_denied() -> None:  # G-18
    over, answers = anyio.Event(), []

    async def outlive() -> None:
        await over.wait()
        answers.append(await current().check(*GOOD))

    async with anyio.create_task_group() as group:

        async def handler(request: Request) -> Response:
            group.start_soon(outlive)
            await anyio.lowlevel.checkpoint()
            return Response()

        await Call(http_scope("/")).to(at(handler, settings=ENDING))
        over.set()
    assert answers == [ENDED]


async def test_background_tasks_are_of_the_request() -> None:
    answers = []

    async def handler(request: Request) -> Response:
        async def background() -> None:
            answers.append(await current().check(*GOOD))

        return Response(background=BackgroundTask(background))

    await Call(http_scope("/")).to(at(handler, settings=ENDING))
    assert answers == [ALLOW]


@pytest.mark.parametrize("error", [None, ValueError("its own")])
async def test_a_websocket_ends_and_so_does_what_raised(error: Exception | None) -> None:
    handed: list[Capabilities] = []

    async def endpoint(websocket: WebSocket) -> None:
        handed.append(websocket.state.capabilities)
        await websocket.accept()
        if error is not None:
            raise error

    app: Starlette = gated([WebSocketRoute("/", read("good")(endpoint))], settings=ENDING)
    call = Call(websocket_scope("/"))
    if error is None:
        await call.to(app)
    else:
        with pytest.raises(ValueError, match="its own"):
            await call.to(app)
    assert await handed[0].check(*GOOD) == ENDED


async def test_one_request_ends_and_another_goes_on() -> None:
    handed: list[Capabilities] = []

    async def handler(request: Request) -> Response:
        handed.append(request.state.capabilities)
        if len(handed) == 1:
            await Call(http_scope("/")).to(app)
            assert await handed[1].check(*GOOD) == ENDED
        assert await request.state.capabilities.check(*GOOD) is ALLOW
        return Response()

    app = at(handler, settings=ENDING)
    await Call(http_scope("/")).to(app)
    assert [await capabilities.check(*GOOD) for capabilities in handed] == [ENDED, ENDED]


async def test_a_job_of_its_own_does_not_end_with_the_request_that_starts_it() -> None:
    jobs: list[Capabilities] = []

    async def handler(request: Request) -> Response:
        with using(capabilities_for(make_checker(), Service("job"), deadline=20.0)) as job:
            jobs.append(job)
        return Response()

    await Call(http_scope("/")).to(at(handler, settings=ENDING))
    assert await jobs[0].check(*GOOD) is ALLOW
