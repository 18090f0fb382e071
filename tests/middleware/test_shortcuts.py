"""Ways to an endpoint that lead past somebody's no: checkers, declarations and routes that look like the usual ones."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from capgate.checker.cached import CachedChecker
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import ConfigError
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.middleware.startup import RequestPoint
from capgate.model import ALLOW, Deny, PolicyInput, PolicyResult
from capgate.policy import RuntimePolicy
from capgate.routes.route_report import report_routes
from capgate.routes.target import Target, find_target
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import KINDS, POLICY, SETTINGS, Ran, Recording, events, example, gated, make_checker, plain, read

NO = Deny("not_today")


class Stricter(LocalPolicyChecker):
    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO


class StricterModule(WasmPolicyChecker):
    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO


class InTwoSteps:
    """Somebody's checker, in which ``evaluate`` is a step on the way to ``check``."""

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return ALLOW

    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO if await self.evaluate(input) is ALLOW else ALLOW


class Around:
    """Somebody's wrapper, which shows everything of what it wraps but ``check``."""

    def __init__(self, inner: LocalPolicyChecker | WasmPolicyChecker) -> None:
        self._inner = inner

    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def patched(kind: str) -> LocalPolicyChecker | WasmPolicyChecker:
    """A checker of a class derived from capgate's, of which one instance has another ``check``."""
    checker = make_checker(kind)
    derived: Any = type("Loose", (type(checker),), {})
    if isinstance(checker, WasmPolicyChecker):
        loose = derived(checker.pool)
    else:
        loose = derived(RuntimePolicy.from_document(POLICY))
    loose.check = Around(checker).check
    return loose  # type: ignore[no-any-return]


def strict_checkers(kind: str) -> list[Any]:
    inner = make_checker(kind)
    if isinstance(inner, WasmPolicyChecker):
        return [StricterModule(inner.pool), Around(inner), patched(kind)]
    return [Stricter(RuntimePolicy.from_document(POLICY)), Around(inner), patched(kind), InTwoSteps()]


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_leads_past_the_check_of_a_checker(kind: str) -> None:  # S21
    for checker in strict_checkers(kind):
        for scope in (http_scope("/good"), websocket_scope("/ws")):
            ran = Ran()
            with events() as found:
                await Call(scope).to(example(ran, checker))
            assert [event["reason"] for event in found] == ["not_today"], checker
            assert ran.names == []


@pytest.mark.parametrize("size", [None, 0, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_no_memory_leads_past_the_check_of_a_checker(kind: str, size: int | None) -> None:  # S21
    for checker in strict_checkers(kind):
        with pytest.raises(ConfigError) as caught:
            CachedChecker(checker, size=size)
        assert caught.value.setting == "checker"
    memory = CachedChecker(make_checker(kind), size=size)
    assert CachedChecker(memory).inner is memory


@pytest.mark.parametrize("name", ["check", "answer_now", "evaluate", "current"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_an_instance_can_be_replaced(kind: str, name: str) -> None:
    checker = make_checker(kind)
    with pytest.raises(AttributeError):
        setattr(checker, name, Around(checker).check)


SHORTER = ["answer_many_now", "answer_now", "ask", "ask_now", "current", "evaluate", "evaluate_many", "evaluate_now"]


@pytest.mark.parametrize("name", SHORTER)
@pytest.mark.parametrize("kind", KINDS)
def test_an_override_that_nobody_would_ask_is_an_error(kind: str, name: str) -> None:
    base: type = LocalPolicyChecker if kind == "local" else WasmPolicyChecker
    made = make_checker(kind)
    made.__class__ = type("Sub", (base,), {"__slots__": (), name: lambda self, input: NO})
    with pytest.raises(ConfigError) as caught:
        RequestPoint(SETTINGS, made, lambda scope: None, None, Target((), None, ""))  # type: ignore[arg-type, return-value]
    assert caught.value.setting == "checker"


def test_the_shorter_ways_of_capgates_own_checkers_are_taken() -> None:
    class Renamed(LocalPolicyChecker):
        pass

    for checker in (*map(make_checker, KINDS), Renamed(RuntimePolicy.from_document(POLICY))):
        point = RequestPoint(SETTINGS, checker, lambda scope: None, None, Target((), None, ""))  # type: ignore[arg-type, return-value]
        assert point.checker is point.steady is checker


DELETED: list[str] = []


@read("good")
class Orders(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("orders")

    @read("bad")
    async def delete(self, request: Request) -> Response:
        DELETED.append(request.method)
        return PlainTextResponse("gone")


class Passing:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


ORDERS: dict[str, BaseRoute] = {
    "route": Route("/orders/", Orders),
    "mount": Mount("/orders", app=Orders),
    "partial": Route("/orders/", functools.partial(Orders)),
    "wrapper in a route": Route("/orders/", Passing(Orders)),
    "wrapper in a mount": Mount("/orders", app=Passing(Orders)),
    "partial in a wrapper": Mount("/orders", app=Passing(functools.partial(Orders))),
}


@pytest.mark.parametrize("route", ORDERS.values(), ids=list(ORDERS))
async def test_what_a_method_declares_counts_however_its_class_is_reached(route: BaseRoute) -> None:  # S9, S21
    call = await Call(http_scope("/orders/", "DELETE")).to(gated([route]))
    assert (call.status, DELETED) == (403, [])


def hidden() -> dict[str, tuple[BaseRoute, Scope]]:
    """Declarations where the gate does not come by: what to reach them with, below a router that declares a default."""

    class Socket(WebSocketEndpoint):
        @read("bad")
        async def on_connect(self, websocket: Any) -> None:
            DELETED.append("on_connect")

    class Called:
        @read("bad")
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            DELETED.append("called")

    class Awaited:
        def __init__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

        def __await__(self) -> Any:
            return self.run().__await__()

        @read("bad")
        async def run(self) -> None:
            DELETED.append("run")

    class Chosen:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.run()

        @staticmethod
        @read("bad")
        async def run() -> None:
            DELETED.append("run")

    class Dispatching(HTTPEndpoint):
        @read("bad")
        async def dispatch(self) -> None:
            DELETED.append("dispatch")

    class Asked:
        @read("bad")
        async def __call__(self) -> None:
            DELETED.append("asked")

    return {
        "websocket": (WebSocketRoute("/x", Socket), websocket_scope("/x")),
        "called": (Mount("/x", Called()), http_scope("/x/")),
        "called around another": (Mount("/x", Passing(Called())), http_scope("/x/")),
        "awaited": (Route("/x", Awaited), http_scope("/x")),
        "chosen": (Mount("/x", Chosen()), http_scope("/x/")),
        "dispatch": (Route("/x", Dispatching), http_scope("/x")),
        "of FastAPI": (APIRoute("/x", Asked()), http_scope("/x")),
    }


@pytest.mark.parametrize("name", hidden())
@pytest.mark.parametrize("always", [False, True])
async def test_a_default_does_not_stand_in_for_what_is_declared_out_of_sight(name: str, always: bool) -> None:  # S9
    DELETED.clear()
    route, scope = hidden()[name]
    app = read("good", always=always)(gated([route]))
    call = await Call(scope).to(app)
    assert DELETED == []
    assert [message.get("status", 403) for message in call.sent[:1]] == [403]


def test_a_class_with_a_declaration_cannot_have_a_call_with_another() -> None:
    with pytest.raises(ConfigError) as caught:

        @read("good")
        class Both:
            @read("bad")
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    assert caught.value.seen == "Both.__call__"


async def test_applications_may_have_their_endpoints_as_methods() -> None:
    class App(Starlette):
        def __init__(self) -> None:
            super().__init__(routes=[Route("/good", self.good)])

        @read("good")
        async def good(self, request: Request) -> Response:
            return PlainTextResponse("good")

    app = gated([Mount("/x", App())])
    assert (await Call(http_scope("/x/good")).to(app)).status == 200


async def test_a_class_that_is_the_whole_application() -> None:
    app = CapabilityMiddleware(Orders, settings=SETTINGS, checker=make_checker())
    call = await Call(http_scope("/", "DELETE")).to(app)
    assert (call.status, call.json["reason"], DELETED) == (403, "policy_unavailable", [])


async def test_a_class_reached_by_a_wrapper_that_declares_no_method_is_fine() -> None:
    @read("good")
    class Plain(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("plain")

    assert (await Call(http_scope("/orders/")).to(gated([Mount("/orders", app=Passing(Plain))]))).status == 200


def test_a_class_is_reported_for_each_method_that_needs_something_else() -> None:  # C10
    class Some(HTTPEndpoint):
        @read("{id}")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("got")

        async def post(self, request: Request) -> Response:
            return PlainTextResponse("posted")

    def report(app: Any, *public: str) -> list[Any]:
        found = report_routes(find_target(app), frozenset(public))
        return [
            (one.methods, one.status, [need.id for one in one.requirements if (need := one.fixed)]) for one in found
        ]

    get = ("GET", "HEAD")
    orders = Starlette(routes=[ORDERS["route"]])
    assert report(orders) == [(get, "declared", ["good"]), (("DELETE",), "declared", ["good", "bad"])]
    some = Starlette(routes=[Route("/{id}", Some), Route("/one/{id}", Some, methods=["GET"])])
    only_get: Any = (get, "declared", [])
    assert report(some) == [only_get, (("POST",), "undeclared", []), only_get]
    assert report(some, "/{id}") == [only_get, (("POST",), "public", []), only_get]
    assert report(read("default")(some)) == [only_get, (("POST",), "declared", ["default"]), only_get]


async def test_strict_refuses_a_class_one_of_whose_methods_is_undeclared() -> None:  # C10
    class Some(HTTPEndpoint):
        @read("good")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("got")

        async def post(self, request: Request) -> Response:
            return PlainTextResponse("posted")

    lifespan = Call({"type": "lifespan", "asgi": {"version": "3.0"}})
    with pytest.raises(ConfigError):
        await lifespan.to(gated([Route("/", Some)], settings=Settings(strict=True)))
    assert [message["type"] for message in lifespan.sent] == ["lifespan.startup.failed"]
    assert "POST /" in lifespan.sent[0]["message"]


async def test_strict_refuses_an_application_whose_routes_cannot_be_seen() -> None:
    lifespan = Call({"type": "lifespan", "asgi": {"version": "3.0"}})
    with pytest.raises(ConfigError):
        await lifespan.to(CapabilityMiddleware(plain, settings=Settings(strict=True), checker=make_checker()))
    assert [message["type"] for message in lifespan.sent] == ["lifespan.startup.failed"]


async def test_routes_behind_a_partial_call_count_besides_what_is_declared_around_it() -> None:  # S9
    ran = Ran()
    inner = read("good")(Starlette(routes=[Route("/bad", read("bad")(ran.endpoint("bad")))]))
    call = await Call(http_scope("/in/bad")).to(gated([Mount("/in", app=functools.partial(inner))]))
    assert (call.status, ran.names) == (403, [])


async def test_fastapi_calls_an_endpoint_and_not_the_application_that_it_holds() -> None:  # S9
    names: list[str] = []

    class Report:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self) -> str:
            names.append("report")
            return "report"

    app = FastAPI()
    app.add_api_route("/report", Report(read("good")(PlainTextResponse("other"))))
    assert [route.status for route in report_routes(find_target(app)) if route.template == "/report"] == ["undeclared"]
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    call = await Call(http_scope("/report")).to(app)
    assert (call.status, call.json["reason"], names) == (403, "undeclared_route", [])


@pytest.mark.parametrize("needs", ["bad", "good"])
async def test_a_route_that_appears_while_another_one_is_asked_about(needs: str) -> None:  # C10
    ran = Ran()

    class Adding(Recording):
        async def check(self, input: PolicyInput) -> PolicyResult:
            app.router.routes.insert(0, Route("/orders", read(needs)(ran.endpoint("added"))))
            return await super().check(input)

    checker = Adding()
    app = gated([Route("/orders", read("good")(ran.endpoint("first")))], checker)
    assert (await Call(http_scope("/orders")).to(app)).status == 200
    assert (checker.questions, ran.names) == ([("db.read", "good")], ["first"])
