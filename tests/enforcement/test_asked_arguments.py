"""Arguments of what a handler asks, and the context, which all questions of a request have."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient
from starlette.types import Scope

from capgate.capabilities import capabilities_for, current, using
from capgate.errors import ConfigError
from capgate.fastapi import Gate
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import Allow, Deny, Resource, Service, User
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import PATIENT, Ran, Recording, events, gated, make_checker, read

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

USUAL = Settings(limits=PATIENT, expose_reasons=True, public=("/open",))
GOOD = ("db.read", "sql_query:good")


async def test_each_way_to_ask_takes_arguments() -> None:
    checker = Recording()
    gate = capabilities_for(checker, Service("job"), context={"ip": "10.0.0.7"})
    args: dict[str, Any] = {"amount": 250, "tags": ["eu"], "none": None}
    assert type(await gate.check(*GOOD, args=args)) is Allow
    await gate.require(*GOOD, args=args)
    await gate.check_many([(*GOOD, None, args), (*GOOD, "00", None), GOOD])
    await gate.require_all([(*GOOD, None, args)])

    def in_a_thread() -> None:
        gate.check_now(*GOOD, args=args)
        gate.require_now(*GOOD, args=args)
        gate.check_many_now([(*GOOD, None, args)])
        gate.require_all_now([(*GOOD, None, args)])

    await anyio.to_thread.run_sync(in_a_thread)
    asked = [(question.args, question.args_hash) for question, _ in checker.asked]
    known = ({"amount": 250, "tags": ["eu"]}, None)
    assert asked == [known] * 3 + [({}, "00"), ({}, None)] + [known] * 5
    assert all(question.context == {"ip": "10.0.0.7"} for question, _ in checker.asked)
    args["tags"].append("us")
    assert checker.asked[0][0].args["tags"] == ["eu"]


WRONG: list[Any] = [["amount"], "amount", 7, {"Amount": 1}, {"amount": object()}, {"amount": {"of": 1}}, {7: 1}]


@pytest.mark.parametrize("args", WRONG, ids=range(len(WRONG)))
async def test_what_are_no_arguments_is_denied(args: Any) -> None:
    gate = capabilities_for(make_checker(), Service("job"))
    assert await gate.check(*GOOD, args=args) == Deny("malformed_input")
    assert gate.check_now(*GOOD, args=args) == Deny("malformed_input")
    assert await gate.check_many([(*GOOD, None, args)]) == [Deny("malformed_input")]
    assert await gate.check_many([(*GOOD, None, {}, {})]) == [Deny("malformed_input")]  # type: ignore[list-item]


async def test_a_resource_has_its_attributes() -> None:
    checker = Recording()
    await capabilities_for(checker, Service("job")).require("db.read", Resource("sql_query", "good", {"owner": "ada"}))
    assert checker.asked[0][0].resource == Resource("sql_query", "good", {"owner": "ada"})


# -- the context


async def later(scope: Scope) -> dict[str, Any]:
    await anyio.sleep(0.001)
    return {"ip": scope["client"][0], "none": None}


def at_once(scope: Scope) -> dict[str, Any]:
    return {"ip": scope["client"][0], "none": None}


def application(checker: Any, settings: Settings = USUAL, **options: Any) -> Any:
    async def asks(request: Request) -> Response:
        gate = request.state.capabilities
        result = await gate.check(*GOOD, args={"n": 1})
        await gate.for_actor(User("eve")).check(*GOOD)
        with using(gate.for_actor_in(request.scope, lambda scope: User("ada"))):
            await current().check(*GOOD)
        return JSONResponse({"reason": getattr(result, "reason", None)})

    def asks_now(request: Request) -> Response:
        result = request.state.capabilities.check_now(*GOOD)
        return JSONResponse({"reason": getattr(result, "reason", None)})

    async def spoils(request: Request) -> Response:
        inside = await request.state.capabilities.check(*GOOD)
        return JSONResponse({"reason": getattr(inside, "reason", None)})

    routes: list[BaseRoute] = [
        Route("/declared", read("good")(asks)),
        Route("/twice", read("good", args={"page": "query:page"})(read("other")(Ran().endpoint("it")))),
        Route("/open", spoils),
        Route("/now", read("good")(asks_now)),
    ]
    return gated(routes, checker, settings, **options)


@pytest.mark.parametrize("context", [at_once, later])
async def test_all_questions_of_a_request_have_its_context(context: Any) -> None:
    checker = Recording()
    app = application(checker, context=context)
    for path, asked in (("/declared", 4), ("/twice", 2), ("/open", 1), ("/now", 2)):
        checker.asked.clear()
        assert (await Call(http_scope(path, query_string=b"page=2")).to(app)).status == 200
        assert [question.context for question, _ in checker.asked] == [{"ip": "127.0.0.1"}] * asked
    checker.asked.clear()
    await Call(http_scope("/twice", query_string=b"page=2")).to(app)
    assert [question.args for question, _ in checker.asked] == [{}, {"page": "2"}]


async def test_without_one_there_is_none() -> None:
    checker = Recording()
    await Call(http_scope("/declared")).to(application(checker))
    assert [question.context for question, _ in checker.asked] == [{}] * 4


async def hanging(scope: Scope) -> Any:
    await anyio.sleep_forever()


def raising(scope: Scope) -> Any:
    raise ConnectionError("t0p-secret")


FAILING: dict[str, Any] = {
    "raises": raising,
    "hangs": hanging,
    "nothing": lambda scope: None,
    "text": lambda scope: "10.0.0.7",
}


@pytest.mark.parametrize("path", ["/declared", "/open"])
@pytest.mark.parametrize("name", FAILING)
async def test_a_context_that_fails_denies(name: str, path: str) -> None:
    checker = Recording()
    limits = Limits(actor_seconds=0.05) if name == "hangs" else PATIENT
    settings = Settings(limits=limits, expose_reasons=True, public=("/open",))
    with events() as written:
        call = await Call(http_scope(path)).to(application(checker, settings, context=FAILING[name]))
    assert (call.status, call.json["reason"]) == ((403 if path == "/declared" else 200), "facts_unavailable")
    assert [event["reason"] for event in written] == ["facts_unavailable"]
    assert (checker.asked, "t0p-secret" in str(written)) == ([], False)


async def test_what_is_no_context_is_told_at_the_start() -> None:
    with pytest.raises(ConfigError) as caught, TestClient(application(Recording(), context={"ip": "10.0.0.7"})):
        pass
    assert caught.value.setting == "context"
    with pytest.raises(ConfigError) as caught:
        capabilities_for(Recording(), Service("job"), context=["ip"])  # type: ignore[arg-type]
    assert caught.value.setting == "context"


def test_fastapi(anyio_backend: str) -> None:
    app, checker = FastAPI(), Recording()
    app.add_middleware(CapabilityMiddleware, checker=checker, settings=USUAL, context=at_once)

    @app.post("/{amount}")
    @read("good")
    def refund(amount: int, gate: Gate) -> int:
        gate.require_now(*GOOD, args={"amount": amount})
        return amount

    assert TestClient(app).post("/07").json() == 7
    assert [question.args for question, _ in checker.asked] == [{}, {"amount": 7}]
    assert [question.context for question, _ in checker.asked] == [{"ip": "testclient"}] * 2
