"""Facts of a resource: a function of the application's looks them up, and whatever goes wrong denies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from capgate.checker.cached import CachedChecker
from capgate.enforcement.given_facts import THREADS
from capgate.errors import ConfigError
from capgate.fastapi import Requires
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import Allow, Deny, PolicyInput, Resource, User
from capgate.routes.declare import requires
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, Ran, Recording, events, gated, make_checker, read

ORDERS: dict[str, dict[str, Any]] = {"7": {"owner": "ada", "total": 250, "tags": ["eu"], "note": None}}
KNOWN: dict[str, Any] = {"owner": "ada", "total": 250, "tags": ["eu"]}


def load_order(request: Request) -> dict[str, Any]:
    return ORDERS[str(request.path_params["id"])]


async def load_order_later(request: Request) -> Mapping[str, Any]:
    await anyio.lowlevel.checkpoint()
    return MappingProxyType(ORDERS[str(request.path_params["id"])])


class Loader:
    def __call__(self, request: Request) -> dict[str, Any]:
        return load_order(request)


@dataclass
class Unhashable(Loader):
    """A dataclass has no hash."""


class LoaderLater:
    async def __call__(self, request: Request) -> Mapping[str, Any]:
        return await load_order_later(request)


def order(facts: Callable[..., Any], resource: str = "sql_query:{id}") -> Callable[[Any], Any]:
    return requires("db.read", resource=resource, facts=facts)


USUAL = Settings(limits=PATIENT)


def application(checker: Any, facts: Callable[..., Any], settings: Settings = USUAL) -> ASGIApp:
    ran = Ran()
    return gated([Route("/orders/{id}", order(facts)(ran.endpoint("order")))], checker, settings)


DOCUMENT = {"sql": ["7"]}
HOOKS: dict[str, Any] = {
    "sync": load_order,
    "async": load_order_later,
    "an object": Loader(),
    "an object without a hash": Unhashable(),
    "an async object": LoaderLater(),
    "partial": partial(load_order_later),
    "a lambda around a coroutine": lambda request: load_order_later(request),
}


@pytest.mark.parametrize("name", HOOKS)
async def test_what_is_known_of_a_resource_is_in_the_question(name: str) -> None:
    checker = Recording(make_checker("local", DOCUMENT))
    call = await Call(http_scope("/orders/7")).to(application(checker, HOOKS[name]))
    assert call.status == 200
    assert [question.resource for question, _ in checker.asked] == [Resource("sql_query", "7", KNOWN)]


class Owned:
    """A checker of an application: who owns it may."""

    async def check(self, input: PolicyInput) -> Allow | Deny:
        owner = input.resource and input.resource.attributes.get("owner")
        return Allow() if owner == getattr(input.actor, "id", None) else Deny("not yours")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_answer_is_about_the_facts_of_this_request() -> None:
    orders: dict[str, dict[str, Any]] = {"7": {"owner": "ada"}}
    app = application(Owned(), lambda request: orders[request.path_params["id"]])
    statuses = []
    for owner, user in (("ada", "ada"), ("ada", "eve"), ("eve", "ada"), ("eve", "eve")):
        orders["7"] = {"owner": owner}
        statuses.append((await Call(http_scope("/orders/7", user=User(user))).to(app)).status)
    assert statuses == [200, 403, 403, 200]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_facts_are_looked_up_and_checked_each_time_though_an_answer_is_remembered() -> None:
    looked = []

    def load(request: Request) -> dict[str, Any]:
        looked.append(request.path_params["id"])
        return {"owner": "ada"} if len(looked) < 4 else {"Owner": "eve"}

    async with CachedChecker(make_checker("local", DOCUMENT), size=10) as checker:
        app = application(checker, load)
        statuses = [(await Call(http_scope("/orders/7")).to(app)).status for _ in range(4)]
        assert (statuses, checker.remembered) == ([200, 200, 200, 403], 1)
    assert looked == ["7"] * 4


# -- what goes wrong


async def raising(request: Request) -> Any:
    raise ConnectionError("the password is t0p-secret")


async def hanging(request: Request) -> Any:
    await anyio.sleep_forever()


def answering(status: int) -> Callable[[Request], Any]:
    def not_there(request: Request) -> Any:
        raise HTTPException(status)

    return not_there


FAILING: dict[str, tuple[Any, tuple[str, ...]]] = {
    "raises": (raising, ("raising", "ConnectionError")),
    "raises in a thread": (load_order, ("load_order", "KeyError")),
    "an answer of HTTP": (answering(404), ("not_there", "HTTPException")),
    "nothing": (lambda request: None, ("NoneType",)),
    "text": (lambda request: "ada", ("str",)),
    "pairs": (lambda request: [("owner", "ada")], ("list",)),
    "a class": (lambda request: dict, ("type",)),
    "hangs": (hanging, ("hanging", "actor_seconds", "0.05")),
    "an iterator that ends": (lambda request: next(iter(())), ("StopIteration",)),
    "the body": (lambda request: request.body(), ("RuntimeError",)),
}


@pytest.mark.parametrize("name", FAILING)
async def test_whatever_goes_wrong_denies_and_the_log_says_what(name: str) -> None:
    facts, shown = FAILING[name]
    checker = Recording(make_checker("local", {"sql": "any"}))
    limits = Limits(actor_seconds=0.05) if name == "hangs" else PATIENT
    app = application(checker, facts, Settings(limits=limits, expose_reasons=True))
    with events() as written:
        call = await Call(http_scope("/orders/8")).to(app)
    assert (call.status, call.json["reason"]) == (403, "facts_unavailable")
    assert [event["reason"] for event in written] == ["facts_unavailable"]
    if name != "an iterator that ends":  # which each backend tells in its own way
        assert all(text in written[0]["cause"] for text in ("FactsUnavailable", *shown))
    assert "t0p-secret" not in str(written)  # O4
    assert checker.asked == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_thread_that_hangs_holds_nobody() -> None:
    go_on = threading.Event()

    def hang(request: Request) -> dict[str, Any]:
        go_on.wait(20)
        return KNOWN

    app = application(Recording(), hang, Settings(limits=Limits(actor_seconds=0.05), expose_reasons=True))
    try:
        call = await Call(http_scope("/orders/7")).to(app)
        assert (call.status, call.json["reason"], go_on.is_set()) == (403, "facts_unavailable", False)
    finally:
        go_on.set()


async def test_functions_that_hang_hold_up_nobody_else() -> None:
    go_on = threading.Event()

    def hang(request: Request) -> dict[str, Any]:
        go_on.wait(20)
        return KNOWN

    def other_endpoint(request: Request) -> Response:
        return JSONResponse(go_on.is_set())

    own = order(hang)(Ran().endpoint("own"))
    routes: list[BaseRoute] = [Route("/orders/{id}", own), Route("/other", read("7")(other_endpoint))]
    app = gated(routes, make_checker("local", DOCUMENT), USUAL)
    calls = [Call(http_scope("/orders/7")) for _ in range(THREADS + 5)]
    try:
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.to, app)
            await anyio.sleep(0.05)
            other = await Call(http_scope("/other")).to(app)
            assert (other.status, other.json) == (200, False)
            go_on.set()
    finally:
        go_on.set()
    assert [call.status for call in calls] == [200] * len(calls)


@pytest.mark.parametrize(
    "facts", [{"Owner": "ada"}, {"id": "8"}, {"owner": object()}, {"owner": {"name": "ada"}}, {7: "ada"}, {"n": 2**64}]
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_no_fact_is_a_malformed_question(facts: Any) -> None:
    with events() as written:
        call = await Call(http_scope("/orders/7")).to(
            application(make_checker("local", DOCUMENT), lambda request: facts)
        )
    assert (call.status, written[0]["reason"]) == (403, "malformed_input")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_gate_that_only_monitors_does_not_go_on_without_the_facts() -> None:
    app = application(Recording(), raising, Settings(limits=PATIENT, enforce="monitor", expose_reasons=True))
    call = await Call(http_scope("/orders/7")).to(app)
    assert (call.status, call.json["reason"]) == (403, "facts_unavailable")


# -- where it works


def seen_by(seen: list[Any]) -> Callable[[HTTPConnection], dict[str, Any]]:
    def load(connection: HTTPConnection) -> dict[str, Any]:
        seen.append((type(connection), dict(connection.path_params), threading.current_thread()))
        return KNOWN

    return load


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_mounts_defaults_and_several_declarations() -> None:
    seen: list[Any] = []
    load, ran = seen_by(seen), Ran()
    own = order(load, "sql_query:a-{id}")(order(load)(ran.endpoint("own")))
    inside = order(load, "sql_query:b-{tenant}")(
        Router([Route("/own/{id}", own), Route("/default", ran.endpoint("d"))])
    )
    checker = Recording(make_checker("local", {"sql": "any"}))
    app = gated([Mount("/t/{tenant}", inside)], checker, USUAL)
    for path in ("/t/x/own/7", "/t/x/default"):
        assert (await Call(http_scope(path)).to(app)).status == 200
    ids = [question.resource and (question.resource.id, question.resource.attributes) for question, _ in checker.asked]
    assert ids == [("7", KNOWN), ("a-7", KNOWN), ("b-x", KNOWN)]
    params = [params for _, params, _ in seen]
    assert params == [{"tenant": "x", "id": "7"}, {"tenant": "x"}]  # looked up once for all that is asked together
    assert all(thread is not threading.main_thread() for _, _, thread in seen)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_always_asked_where_no_route_is() -> None:
    seen: list[Any] = []
    checker = Recording(make_checker("local", DOCUMENT))
    app = gated([Route("/there", Ran().endpoint("it"))], checker, USUAL)
    args = {"page": "query:page"}
    requires("db.read", resource="sql_query:7", always=True, facts=seen_by(seen), args=args)(app)
    call = await Call(http_scope("/nowhere", query_string=b"page=2")).to(app)
    assert (call.status, [params for _, params, _ in seen]) == (404, [{}])
    (question,) = [question for question, _ in checker.asked]
    assert (question.resource, question.args) == (Resource("sql_query", "7", KNOWN), {"page": "2"})


@pytest.mark.parametrize("id", ["7", "8"])
def test_websockets(id: str) -> None:
    seen: list[Any] = []
    load = seen_by(seen)
    checker = Recording(make_checker("local", DOCUMENT))

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    app = gated([WebSocketRoute("/orders/{id}", order(load)(endpoint))], checker, USUAL)
    client = TestClient(app)
    if id == "7":
        with client.websocket_connect("/orders/7") as session:
            assert session.receive_text() == "hello"
    else:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/orders/8"):
            pass
    assert [resource.attributes for question, _ in checker.asked if (resource := question.resource)] == [KNOWN]
    assert [(given, params) for given, params, _ in seen] == [(HTTPConnection, {"id": id})]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_websocket_is_refused_where_facts_fail() -> None:
    ran = Ran()
    app = gated([WebSocketRoute("/{id}", order(raising)(ran.websocket("it")))], None, USUAL)
    call = await Call(websocket_scope("/7")).to(app)
    assert ([message["type"] for message in call.sent], ran.names) == (["websocket.close"], [])


def test_what_was_looked_up_is_there_for_the_endpoint() -> None:
    async def load(request: Request) -> dict[str, Any]:
        request.state.order = ORDERS["7"]
        return {"user": request.user.id, "tenant": request.headers["x-tenant"], "method": request.method}

    async def endpoint(request: Request) -> Response:
        return JSONResponse({"total": request.state.order["total"], "same": request.scope["path_params"]})

    checker = Recording(make_checker("local", DOCUMENT))
    app = gated([Route("/orders/{id}", order(load)(endpoint), methods=["POST"])], checker, USUAL)

    async def outside(scope: Scope, receive: Any, send: Any) -> None:
        await app({**scope, "user": User("ada")}, receive, send)

    response = TestClient(outside).post("/orders/7", headers={"x-tenant": "acme"}, content=b"untouched")
    assert (response.status_code, response.json()) == (200, {"total": 250, "same": {"id": "7"}})
    resource = checker.asked[0][0].resource
    assert resource is not None
    assert resource.attributes == {"user": "ada", "tenant": "acme", "method": "POST"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nothing_is_looked_up_for_a_resource_of_which_it_is_not_certain_what_it_is() -> None:
    seen: list[Any] = []
    app = gated(
        [Route("/{n}", requires("db.read", resource="sql_query:{other}", facts=seen_by(seen))(Ran().endpoint("it")))]
    )
    assert (await Call(http_scope("/7")).to(app)).status == 403
    assert seen == []


# -- FastAPI


def database() -> dict[str, Any]:
    return ORDERS


def fastapi_application(checker: Any, seen: list[Any]) -> FastAPI:
    app, router = FastAPI(), APIRouter()
    app.add_middleware(CapabilityMiddleware, checker=checker, settings=USUAL)
    load = seen_by(seen)

    @app.get("/declared/{n}")
    @order(load, "sql_query:{n}")
    async def declared(n: int) -> int:
        return n

    @router.get("/{n}")
    @order(load, "sql_query:{n}")
    def included(n: int) -> int:
        return n

    async def facts(n: int, orders: Annotated[dict[str, Any], Depends(database)]) -> dict[str, Any]:
        if str(n) not in orders:
            raise HTTPException(404)
        return orders[str(n)]  # type: ignore[no-any-return]

    def user() -> str:
        return "ada"

    @app.get("/depends/{n}", dependencies=[Requires("db.read", resource="sql_query:{n}", facts=facts, actor=user)])
    async def depends(n: int) -> int:
        return n

    @app.get("/wrong/{n}", dependencies=[Requires("db.read", resource="sql_query:{n}", facts=user)])
    async def wrong(n: int) -> int:
        return n

    app.include_router(router, prefix="/included")
    return app


@pytest.mark.parametrize("way", ["declared", "included", "depends"])
def test_facts_with_fastapi(way: str) -> None:
    seen: list[Any] = []
    checker = Recording(make_checker("local", DOCUMENT))
    client = TestClient(fastapi_application(checker, seen))
    assert client.get(f"/{way}/07").json() == 7
    assert [question.resource for question, _ in checker.asked] == [Resource("sql_query", "7", KNOWN)]
    assert [params for _, params, _ in seen] == ([] if way == "depends" else [{"n": 7}])
    if way == "depends":
        assert checker.asked[0][0].actor == User("ada")
        assert client.get("/depends/8").status_code == 404  # FastAPI's own: nothing was asked, and nothing ran
    assert len(checker.asked) == 1


def test_a_dependency_that_gives_no_facts_is_denied() -> None:
    checker = Recording(make_checker("local", {"sql": "any"}))
    with events() as written:
        assert TestClient(fastapi_application(checker, [])).get("/wrong/7").status_code == 403
    assert ([event["reason"] for event in written], checker.asked) == (["facts_unavailable"], [])


@pytest.mark.parametrize(
    "options",
    [{"resource": "sql_query:a", "facts": "load"}, {"facts": load_order}, {"resource": "sql_query", "facts": 1}],
)
def test_declarations_that_are_none(options: dict[str, Any]) -> None:
    for declare in (requires, Requires):
        with pytest.raises(ConfigError) as caught:
            declare("db.read", **options)
        assert caught.value.setting == "facts"
