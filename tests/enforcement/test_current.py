"""Whose capabilities are in force where, and that nothing of a request is left over."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from capgate.checker.local import LocalPolicyChecker
from capgate.enforcement.capabilities import Capabilities
from capgate.enforcement.current import _warn_once, capabilities_for, current, using
from capgate.errors import CapabilityDenied, ConfigError
from capgate.fastapi import Requires
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, ANONYMOUS, Deny, Environment, Reason, Service, User
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import KINDS, Recording, events, gated, make_checker, read
from .application import GOOD, PATIENT, answer, at

# -- whose they are


async def test_outside_of_requests_there_is_nobody_to_ask_for() -> None:
    with events() as found, pytest.raises(CapabilityDenied) as caught:
        current()
    assert caught.value.decision.result == Deny(Reason.POLICY_UNAVAILABLE)
    assert found[0]["decision_id"] == caught.value.decision.decision_id


async def test_the_log_says_once_that_there_may_be_no_gate(caplog: pytest.LogCaptureFixture) -> None:  # G-16
    _warn_once.cache_clear()
    app = FastAPI()

    @app.get("/", dependencies=[Requires(*GOOD[:1], resource=GOOD[1])])
    async def endpoint() -> None:
        raise AssertionError("not reached")

    with caplog.at_level(logging.WARNING, "capgate"):
        for _ in range(2):
            with pytest.raises(CapabilityDenied):
                await Call(http_scope("/")).to(app)
    (warning,) = [record for record in caplog.records if record.name == "capgate"]
    assert "CapabilityMiddleware" in warning.getMessage()


async def test_jobs_say_for_whom_they_act() -> None:
    checker = Recording()
    env = Environment("nightly", "batch")
    with using(capabilities_for(checker, Service("nightly"), env, deadline=20.0)) as gate:
        assert current() is gate
        await current().require(*GOOD)
        with using(gate.for_actor(User("grace"))):
            await current().require(*GOOD)
        await anyio.to_thread.run_sync(lambda: current().require_now(*GOOD))
    assert [(input.actor, input.env) for input, _ in checker.asked] == [
        (Service("nightly"), env),
        (User("grace"), env),
        (Service("nightly"), env),
    ]
    with pytest.raises(CapabilityDenied):
        current()


@pytest.mark.parametrize("actor", [None, "grace", {"kind": "user"}, User])
async def test_actors_are_actors(actor: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        capabilities_for(make_checker(), actor)
    assert caught.value.setting == "actor"
    with pytest.raises(ConfigError):
        capabilities_for(make_checker(), ANONYMOUS).for_actor(actor)
    with pytest.raises(ConfigError):
        capabilities_for(object(), ANONYMOUS)  # type: ignore[arg-type]


async def test_nothing_is_left_over_after_a_request() -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse(current() is request.state.capabilities)

    async def failing(request: Request) -> Response:
        raise ValueError

    assert await answer(at(handler)) is True
    with pytest.raises(CapabilityDenied):
        current()
    with pytest.raises(ValueError):  # noqa: PT011
        await Call(http_scope("/")).to(at(failing))
    with pytest.raises(CapabilityDenied):
        current()


async def test_requests_at_the_same_time_have_their_own() -> None:  # P19
    met: list[bool] = []
    both = anyio.Event()
    waiting: list[Capabilities] = []

    async def handler(request: Request) -> Response:
        waiting.append(request.state.capabilities)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        met.append(current() is request.state.capabilities)
        return JSONResponse("x")

    app = at(handler, settings=Settings(limits=Limits(deadline=20.0)))
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(answer, app)
    assert met == [True, True]
    assert waiting[0] is not waiting[1]


async def test_an_inner_gate_hands_out_its_own_and_the_outer_one_is_back_afterwards() -> None:  # P19
    seen: list[Any] = []

    async def endpoint(request: Request) -> Response:
        seen.append(current())
        return JSONResponse("x")

    class Around:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                seen.append(current())
            await self.app(scope, receive, send)
            if scope["type"] == "http":
                seen.append(current())

    inner = gated([Route("/", read("good")(endpoint))], None, PATIENT)
    app = CapabilityMiddleware(Around(inner), settings=PATIENT, checker=make_checker())
    assert await answer(app) == "x"
    assert seen[0] is seen[2]
    assert seen[1] is not seen[0]


async def test_the_state_of_a_request_is_left_as_it_was_found() -> None:  # P19
    seen: list[Any] = []

    async def endpoint(request: Request) -> Response:
        seen.append(request.state.capabilities)
        return JSONResponse("x")

    class Around:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["state"]["capabilities"])
            await self.app(scope, receive, send)
            seen.append(scope["state"]["capabilities"])

    inner = gated([Route("/", read("good")(endpoint))], None, PATIENT)
    app = CapabilityMiddleware(Around(inner), settings=PATIENT, checker=make_checker())
    for state in ({}, {"capabilities": "of the application's lifespan"}):
        scope = http_scope("/", state=dict(state))
        await answer(app, scope)
        assert scope["state"] == state
    assert [one is seen[0] for one in seen[:3]] == [True, False, True]


@pytest.mark.slow
async def test_a_request_that_is_over_is_gone_without_a_garbage_collection() -> None:  # P17
    async def handler(request: Request) -> Response:
        return JSONResponse(len(await request.body()))

    app = gated([Route("/", read("good", args_hash="body")(handler), methods=["POST"])], None, PATIENT)
    await Call(http_scope("/", "POST")).to(app)
    gc.collect()
    gc.disable()
    try:
        await Call(http_scope("/", "POST")).to(app)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("capgate")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


async def test_after_the_gate_was_closed_nothing_is_allowed() -> None:
    kept: list[Capabilities] = []

    async def handler(request: Request) -> Response:
        kept.append(request.state.capabilities)
        return JSONResponse("x")

    async with make_checker(KINDS[-1]) as checker:
        await answer(at(handler, checker))
        assert await kept[0].check(*GOOD) == ALLOW
    assert await kept[0].check(*GOOD) == Deny(Reason.POLICY_UNAVAILABLE)


def test_capabilities_are_not_copied() -> None:
    gate = capabilities_for(LocalPolicyChecker(make_checker()._policy), ANONYMOUS)  # type: ignore[union-attr]
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copied(gate)


async def test_those_of_a_request_are_not_copied_and_show_nothing_of_it() -> None:  # M14

    async def handler(request: Request) -> Response:
        gate = request.state.capabilities
        for copied in (copy.copy, copy.deepcopy, pickle.dumps, gate.__class__.__replace__):
            with pytest.raises(TypeError):
                copied(gate)
        return JSONResponse([repr(gate), str(gate), [*gate.__rich_repr__()], gate == gate, len({gate})])

    scope = http_scope("/", headers=[("authorization", "secret")])
    *texts, rich, same, different = await answer(at(handler), scope)
    assert not [text for text in texts if "secret" in text or "headers" in text]
    assert (rich, same, different) == ([], True, 1)
