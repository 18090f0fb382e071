"""What handlers ask: request.state.capabilities, its forms, and what becomes of a denial that is raised."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.enforcement.capabilities import BATCH, Capabilities
from capgate.enforcement.current import capabilities_for, current, using
from capgate.errors import CapabilityDenied, ConfigError
from capgate.limits import RANGES, Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, ANONYMOUS, Allow, CompilerTool, Deny, Environment, Reason, Resource, Service, User
from capgate.runtime.pool import WasmPool
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import KINDS, POLICY, Answering, Recording, events, gated, make_checker, read

GOOD, BAD = ("db.read", "sql_query:good"), ("db.read", "sql_query:bad")
PATIENT = Settings(service="web-tests", mode="test", expose_reasons=True, limits=Limits(deadline=20.0))


def at(handler: Callable[[Request], Any], checker: Any = None, settings: Settings = PATIENT, **options: Any) -> Any:
    """An application with ``handler`` at ``/``, where everybody may read ``good``."""
    return gated([Route("/", read("good")(handler), methods=["GET", "POST"])], checker, settings, **options)


async def answer(app: Any, scope: Scope | None = None) -> Any:
    call = await Call(scope or http_scope("/")).to(app)
    assert call.status == 200, call.body
    return call.json


def names(results: list[Any]) -> list[str]:
    return [type(result).__name__ for result in results]


# -- asking


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_asks(kind: str) -> None:
    async def handler(request: Request) -> Response:
        gate: Capabilities = request.state.capabilities
        assert current() is gate
        assert await gate.check(*GOOD) == ALLOW
        assert await gate.check("db.read", Resource("sql_query", "good")) == ALLOW
        assert await gate.check(*BAD) == Deny(Reason.NOT_IN_ALLOWLIST)
        assert await gate.check("db.read") == Deny(Reason.MISSING_RESOURCE)
        assert await gate.check("db.read", "sql_query") == Deny(Reason.MISSING_RESOURCE)
        assert await gate.check("no.such") == Deny(Reason.UNKNOWN_ACTION)
        assert names(await gate.check_many([GOOD, BAD, (*GOOD, "0" * 64), ("db.write", None)])) == [
            "Allow",
            "Deny",
            "Allow",
            "Deny",
        ]
        await gate.require(*GOOD)
        await gate.require_all([GOOD, GOOD])
        return JSONResponse("asked")

    checker = make_checker(kind)
    async with checker:
        assert await answer(at(handler, checker)) == "asked"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_in_a_worker_thread_asks(kind: str) -> None:
    def handler(request: Request) -> Response:
        gate: Capabilities = request.state.capabilities
        assert current() is gate
        assert gate.check_now(*GOOD) == ALLOW
        assert gate.check_now(*BAD) == Deny(Reason.NOT_IN_ALLOWLIST)
        assert names(gate.check_many_now([GOOD, BAD])) == ["Allow", "Deny"]
        gate.require_now(*GOOD)
        gate.require_all_now([GOOD])
        with pytest.raises(CapabilityDenied):
            gate.require_all_now([GOOD, BAD])
        return JSONResponse("asked")

    async with make_checker(kind) as checker:
        assert await answer(at(handler, checker)) == "asked"


async def test_a_checker_of_the_applications_is_asked_from_worker_threads_too() -> None:
    def handler(request: Request) -> Response:
        gate: Capabilities = request.state.capabilities
        return JSONResponse(names(gate.check_many_now([GOOD, BAD])))

    checker = Recording()
    assert await answer(at(handler, checker)) == ["Allow", "Deny"]
    assert checker.questions == [("db.read", "good"), ("db.read", "good"), ("db.read", "bad")]


async def test_where_nothing_can_be_awaited_a_checker_of_the_applications_cannot_be_asked() -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse(request.state.capabilities.check_now(*GOOD).reason)  # on the event loop itself

    assert await answer(at(handler, Recording())) == Reason.POLICY_UNAVAILABLE


async def test_background_tasks_ask_after_the_response() -> None:
    asked: list[Any] = []

    async def later() -> None:
        asked.append(await current().check(*GOOD))
        asked.append(await anyio.to_thread.run_sync(lambda: current().check_now(*BAD)))

    def sync_later() -> None:
        asked.append(current().check_now(*GOOD))

    async def handler(request: Request) -> Response:
        return PlainTextResponse("x", background=BackgroundTask(later))

    def sync_handler(request: Request) -> Response:
        return PlainTextResponse("x", background=BackgroundTask(sync_later))

    for endpoint in (handler, sync_handler):
        assert (await Call(http_scope("/")).to(at(endpoint))).status == 200
    assert names(asked) == ["Allow", "Deny", "Allow"]


async def test_who_asks_is_the_actor_of_the_request() -> None:
    async def slow(scope: Scope) -> User:
        await anyio.lowlevel.checkpoint()
        return User("grace")

    for actor in (lambda scope: User("grace"), slow):

        async def handler(request: Request) -> Response:
            await request.state.capabilities.check(*GOOD)
            await request.state.capabilities.for_actor(CompilerTool("codegen")).check(*GOOD)
            return JSONResponse("x")

        checker = Recording()
        await answer(at(handler, checker, actor=actor))
        assert [input.actor for input, _ in checker.asked] == [User("grace"), User("grace"), CompilerTool("codegen")]
        assert {(input.env.service, input.env.mode) for input, _ in checker.asked} == {("web-tests", "test")}


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_on_a_public_route_the_actor_is_found_when_somebody_asks(sync: bool, asynchronous: bool) -> None:
    found: list[Scope] = []

    def actor(scope: Scope) -> Any:
        found.append(scope)
        return slow() if asynchronous else User("grace")

    async def slow() -> User:
        await anyio.lowlevel.checkpoint()
        return User("grace")

    def ask(request: Request) -> Response:
        return JSONResponse(names([request.state.capabilities.check_now(*GOOD)]))

    async def handler(request: Request) -> Response:
        await request.state.capabilities.check(*GOOD)
        return JSONResponse(names([await request.state.capabilities.check(*GOOD)]))

    settings = Settings(public=("/",), limits=Limits(deadline=20.0))
    checker = Recording()
    app = gated([Route("/", ask if sync else handler)], checker, settings, actor=actor)
    assert await answer(app) == ["Allow"]
    assert {input.actor for input, _ in checker.asked} == {User("grace")}
    assert len(found) == 1 + (sync and asynchronous)  # once more on the loop, where it can be awaited


@pytest.mark.parametrize("actor", [lambda scope: None, lambda scope: "grace", lambda scope: 1 / 0])
async def test_without_an_actor_nothing_is_allowed(actor: Any) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse((await request.state.capabilities.check(*GOOD)).reason)

    settings = Settings(public=("/",), limits=Limits(deadline=20.0))
    assert await answer(gated([Route("/", handler)], None, settings, actor=actor)) == Reason.INTERNAL_ERROR


async def test_an_actor_that_takes_too_long_is_a_timeout() -> None:
    async def never(scope: Scope) -> User:
        await anyio.sleep_forever()
        return User("x")

    async def handler(request: Request) -> Response:
        return JSONResponse((await request.state.capabilities.check(*GOOD)).reason)

    settings = Settings(public=("/",), limits=Limits(deadline=0.01))
    assert await answer(gated([Route("/", handler)], None, settings, actor=never)) == Reason.POLICY_TIMEOUT


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        ([("db.read", "no colon: at all")], Reason.MALFORMED_INPUT),
        ([("db.read", "sql_query:")], Reason.MALFORMED_INPUT),
        ([("db.read", ":good")], Reason.MALFORMED_INPUT),
        ([("db.read", 5)], Reason.MALFORMED_INPUT),
        ([(5, "sql_query:good")], Reason.MALFORMED_INPUT),
        ([("db.read", "sql_query:good", 5)], Reason.MALFORMED_INPUT),
        ([("db.read", "sql_query:good", "0" * 64, "and more")], Reason.MALFORMED_INPUT),
        ([("db.read",)], Reason.INTERNAL_ERROR),
        ([5], Reason.INTERNAL_ERROR),
        ([GOOD] * (BATCH + 1), Reason.MALFORMED_INPUT),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_asked_is_denied(kind: str, questions: Any, reason: str) -> None:
    async with make_checker(kind) as checker:
        gate = capabilities_for(checker, ANONYMOUS, deadline=20.0)
        assert await gate.check_many(questions) == [Deny(reason)] * len(questions)
        assert gate.check_many_now(questions) == [Deny(reason)] * len(questions)
        assert await gate.check_many([GOOD] * BATCH) == [ALLOW] * BATCH


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_a_batch_is_under_one_deadline_whichever_way_it_is_asked(kind: str) -> None:
    artifact = WasmArtifact.from_bytes(build_policy(POLICY))
    pool = WasmPool(artifact, 1, kind, Limits(deadline=RANGES["deadline"][0]))  # a microsecond for each question
    async with WasmPolicyChecker(pool) as checker:
        gate = capabilities_for(checker, ANONYMOUS)
        assert set(gate.check_many_now([GOOD] * BATCH)) == {Deny(Reason.POLICY_TIMEOUT)}
        assert set(await gate.check_many([GOOD] * BATCH)) == {Deny(Reason.POLICY_TIMEOUT)}


async def test_nothing_required_is_nothing_allowed() -> None:
    gate = capabilities_for(make_checker(), ANONYMOUS)
    assert await gate.check_many([]) == []
    with pytest.raises(CapabilityDenied):
        await gate.require_all([])
    with pytest.raises(CapabilityDenied):
        gate.require_all_now([])


@pytest.mark.parametrize("reply", [RuntimeError(), None, True, "allow", {"kind": "allow"}, [Allow()], Deny(5)])  # type: ignore[arg-type]
async def test_a_checker_that_is_no_checker_allows_nothing(reply: Any) -> None:
    gate = capabilities_for(Answering(reply), ANONYMOUS, deadline=20.0)
    expected = Reason.INTERNAL_ERROR if isinstance(reply, RuntimeError) else Reason.MALFORMED_RESULT
    assert await gate.check(*GOOD) == Deny(expected)
    assert await anyio.to_thread.run_sync(lambda: gate.check_now(*GOOD)) == Deny(expected)


async def test_a_checker_that_does_not_answer_is_a_timeout() -> None:
    class Silent:
        async def check(self, input: Any) -> Any:
            await anyio.sleep_forever()

    assert await capabilities_for(Silent(), ANONYMOUS, deadline=0.01).check(*GOOD) == Deny(Reason.POLICY_TIMEOUT)


@pytest.mark.parametrize("kind", KINDS)
async def test_checkers_answer_batches(kind: str) -> None:
    from capgate.model import PolicyInput

    inputs = [PolicyInput("db.read", resource=Resource("sql_query", id)) for id in ("good", "bad", "other")]
    async with make_checker(kind) as checker:
        with events() as found:
            assert names(await checker.check_many(inputs)) == ["Allow", "Deny", "Allow"]
        assert [event["resource_id"] for event in found] == ["bad"]
        assert names(await checker.evaluate_many(inputs)) == names(checker.answer_many_now(inputs) or [])
        assert await checker.check_many([]) == []


async def test_cancellation_is_not_an_answer() -> None:
    class Silent:
        async def check(self, input: Any) -> Any:
            await anyio.sleep_forever()

    after: list[Any] = []
    with anyio.move_on_after(0.01):
        after.append(await capabilities_for(Silent(), ANONYMOUS, deadline=20.0).check(*GOOD))
    assert after == []


# -- denials that are raised


async def require_bad(request: Request) -> Response:
    await request.state.capabilities.require(*BAD)
    raise AssertionError("not reached")


def require_bad_now(request: Request) -> Response:
    request.state.capabilities.require_now(*BAD)
    raise AssertionError("not reached")


async def require_bad_as_a_tool(request: Request) -> Response:
    await request.state.capabilities.for_actor(CompilerTool("x")).require(*BAD)
    raise AssertionError("not reached")


async def require_bad_in_a_group(request: Request) -> Response:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request.state.capabilities.require, *BAD)
    raise AssertionError("not reached")


HANDLERS = [require_bad, require_bad_now, require_bad_as_a_tool, require_bad_in_a_group]


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def inside_out(handler: Any) -> Any:
    routes: list[BaseRoute] = [Route("/", read("good")(handler))]
    return CapabilityMiddleware(Starlette(routes=routes), settings=PATIENT, checker=make_checker())


def mounted(handler: Any) -> Any:
    return gated([Mount("/", Starlette(routes=[Route("/", read("good")(handler))]))], None, PATIENT)


def debugging(handler: Any) -> Any:
    app = at(handler)
    app.debug = True
    return app


def behind_middleware(handler: Any) -> Any:
    app = Starlette(routes=[Route("/", read("good")(handler))], middleware=[Middleware(Passing)])
    app.add_middleware(CapabilityMiddleware, settings=PATIENT, checker=make_checker())
    return app


def with_a_page_for_errors(handler: Any) -> Any:
    async def page(request: Request, error: Exception) -> Response:
        return PlainTextResponse("something went wrong", 500)

    routes: list[BaseRoute] = [Route("/", read("good")(handler))]
    app = Starlette(routes=[Mount("/", Starlette(routes=routes, exception_handlers={Exception: page}))])
    app.add_middleware(CapabilityMiddleware, settings=PATIENT, checker=make_checker())
    return app


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.__name__)
@pytest.mark.parametrize(
    "build", [at, inside_out, mounted, debugging, behind_middleware, with_a_page_for_errors], ids=lambda f: f.__name__
)
async def test_a_denial_that_is_raised_is_the_same_403(build: Any, handler: Any) -> None:
    app = build(handler)
    with events() as found:
        call = await Call(http_scope("/")).to(app)
    assert (call.status, call.headers["content-type"]) == (403, "application/problem+json")
    (event,) = found
    assert (event["action"], event["resource_id"], event["reason"]) == ("db.read", "bad", "not_in_allowlist")
    assert (event["method"], event["path"]) == ("GET", "/")
    assert call.json["decision_id"] == event["decision_id"]
    assert call.json["reason"] == "not_in_allowlist"


async def test_the_reason_is_told_only_where_settings_say_so() -> None:
    call = await Call(http_scope("/")).to(at(require_bad, settings=Settings(limits=Limits(deadline=20.0))))
    assert call.status == 403
    assert "reason" not in call.json


async def test_a_handler_may_answer_a_denial_itself() -> None:
    async def handler(request: Request) -> Response:
        try:
            await request.state.capabilities.require(*BAD)
        except CapabilityDenied as error:
            return JSONResponse({"denied": error.decision.input.resource.id}, 402)
        raise AssertionError("not reached")

    async def convert(request: Request, error: Exception) -> Response:
        assert isinstance(error, CapabilityDenied)
        return JSONResponse({"denied": error.decision.input.resource.id}, 402)

    by_handler = at(require_bad)
    by_handler.add_exception_handler(CapabilityDenied, convert)
    for app in (at(handler), by_handler):
        call = await Call(http_scope("/")).to(app)
        assert (call.status, call.json) == (402, {"denied": "bad"})


async def test_what_goes_wrong_after_a_denial_was_answered_otherwise_is_the_applications() -> None:
    async def handler(request: Request) -> Response:
        assert type(await request.state.capabilities.check(*BAD)) is Deny
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await Call(http_scope("/")).to(at(handler))


async def test_a_response_that_began_is_not_replaced() -> None:
    async def handler(request: Request) -> Response:
        async def body() -> Any:
            yield b"first"
            await request.state.capabilities.require(*BAD)
            yield b"never"

        return StreamingResponse(body())

    app = CapabilityMiddleware(
        Route("/", read("good")(handler)), settings=PATIENT, checker=make_checker(), router=at(handler).router
    )
    call = Call(http_scope("/"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await call.to(app)
    error: Any = caught.value
    while not isinstance(error, CapabilityDenied):
        (error,) = error.exceptions
    assert call.status == 200
    assert call.body == b"first"


@pytest.mark.parametrize("kind", ["http.response.early_hint", "http.response.debug", "http.response.push"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("outside", [False, True])
async def test_what_is_sent_before_a_response_does_not_begin_it(kind: str, after: bool, outside: bool) -> None:  # S20
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not after:
                await send({"type": kind})
            await scope["state"]["capabilities"].require(*BAD)
        finally:
            if after:
                await send({"type": kind})

    mount = Mount("/", read("good")(endpoint))
    app = CapabilityMiddleware(mount, settings=PATIENT, checker=make_checker(), router=Starlette(routes=[mount]))
    call = await Call(http_scope("/")).to(app if outside else gated([mount], None, PATIENT))
    assert (call.sent[0]["type"], call.status, call.headers["content-type"]) == (kind, 403, "application/problem+json")


async def test_a_mixed_group_of_errors_is_the_applications() -> None:
    class Mixed(Exception):
        pass

    async def handler(request: Request) -> Response:
        async def fail() -> None:
            raise Mixed

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request.state.capabilities.require, *BAD)
            tasks.start_soon(fail)
        raise AssertionError("not reached")

    call = Call(http_scope("/"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await call.to(at(handler))
    assert any(isinstance(error, Mixed) for error in getattr(caught.value, "exceptions", ()))


@pytest.mark.parametrize("accept", [False, True])
async def test_websockets_are_closed(accept: bool) -> None:
    async def endpoint(websocket: WebSocket) -> None:
        if accept:
            await websocket.accept()
        await websocket.state.capabilities.require(*BAD)
        raise AssertionError("not reached")

    app = gated([WebSocketRoute("/ws", read("good")(endpoint))], None, PATIENT)
    call = await Call(websocket_scope("/ws")).to(app)
    kinds = [message["type"] for message in call.sent]
    assert kinds == (["websocket.accept"] if accept else []) + ["websocket.close"]
    assert call.sent[-1]["code"] == 1008


# -- whose they are


async def test_outside_of_requests_there_is_nobody_to_ask_for() -> None:
    with events() as found, pytest.raises(CapabilityDenied) as caught:
        current()
    assert caught.value.decision.result == Deny(Reason.POLICY_UNAVAILABLE)
    assert found[0]["decision_id"] == caught.value.decision.decision_id


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
    app = CapabilityMiddleware(Around(inner), settings=PATIENT, checker=make_checker(), router=inner.router)
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
    app = CapabilityMiddleware(Around(inner), settings=PATIENT, checker=make_checker(), router=inner.router)
    for state in ({}, {"capabilities": "of the application's lifespan"}):
        scope = http_scope("/", state=dict(state))
        await answer(app, scope)
        assert scope["state"] == state
    assert [one is seen[0] for one in seen[:3]] == [True, False, True]


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


async def test_allows_are_sampled_and_denials_are_not() -> None:
    import logging

    async def handler(request: Request) -> Response:
        await request.state.capabilities.check(*GOOD)
        await request.state.capabilities.check(*BAD)
        return JSONResponse("x")

    settings = Settings(sample_allows=1.0, limits=Limits(deadline=20.0))
    with events(logging.INFO) as found:
        await answer(at(handler, settings=settings))
    assert [(event["decision"], event["resource_id"]) for event in found] == [
        ("allow", "good"),
        ("allow", "good"),
        ("deny", "bad"),
    ]
