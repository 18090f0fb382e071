"""The gate for tests of applications: what it notes, what it answers, and that it takes the place of another."""

from __future__ import annotations

import threading
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, Settings, requires
from capgate.actions import VOCABULARY, Vocabulary
from capgate.capabilities import capabilities_for, current, using
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import CapabilityDenied, ConfigError
from capgate.fastapi import Gate
from capgate.model import ALLOW, Deny, PolicyInput, Resource, Service, User, canonical
from capgate.testing import Asked, RecordedGate, make_checker

from ..support.engines import EXPECTED_ENGINES

pytestmark = pytest.mark.slow

DOCUMENT: Final[dict[str, Any]] = {"sql": ["audit"], "actions": {"invoice.send": ["i"]}}


@pytest.fixture(autouse=True)
def own_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions that these tests register are gone afterwards."""
    fresh = Vocabulary(VOCABULARY)
    monkeypatch.setattr(VOCABULARY, "_actions", fresh._actions)
    monkeypatch.setattr(VOCABULARY, "names", fresh.names)


def ask(action: str, kind: str | None = None, id: str | None = None) -> PolicyInput:
    return PolicyInput(action, resource=None if kind is None else Resource(kind, id))


WRITE: Final = ask("db.write", "sql_query", "audit")


async def test_it_allows_what_any_policy_could() -> None:
    gate = RecordedGate()
    VOCABULARY.register("invoice.send")
    for allowed in (WRITE, ask("fs.read", "path", "x"), ask("compute.long"), ask("invoice.send", "i", "1")):
        assert await gate.check(allowed) == ALLOW
    VOCABULARY.register("report.print", resource_required=False)
    assert await gate.check(ask("report.print")) == ALLOW
    # And denies what none would allow, so that a test does not pass by a slip of the pen.
    assert await gate.check(ask("db.wirte", "sql_query", "audit")) == Deny("unknown_action")
    assert await gate.check(ask("db.write")) == Deny("missing_resource")
    assert await gate.check(ask("invoice.send")) == Deny("missing_resource")
    assert await gate.check(ask("db.write", "host", "x")) == Deny("not_in_allowlist")
    assert await gate.check(ask("db.write", "sql_query", "\ud800")) == Deny("malformed_input")
    wrong: Any = "db.write"
    assert await gate.check(wrong) == Deny("malformed_input")


async def test_it_notes_what_is_asked() -> None:
    gate = RecordedGate()
    gate.deny("db.write", "sql_query:audit", reason="closed")
    questions = [WRITE, ask("compute.long"), ask("db.read"), ask("no.such", "k", "i")]
    answers = [await gate.check(question) for question in questions]
    assert answers == [Deny("closed"), ALLOW, Deny("missing_resource"), Deny("unknown_action")]
    assert gate.asked == [Asked(question, answer) for question, answer in zip(questions, answers, strict=True)]
    assert gate.questions == ["db.write sql_query:audit", "compute.long", "db.read", "no.such k:i"]
    assert gate.denied == ["db.write sql_query:audit", "db.read", "no.such k:i"]
    gate.forget()
    assert (gate.asked, gate.questions, gate.denied) == ([], [], [])
    assert await gate.check(WRITE) == Deny("closed")


async def test_it_notes_facts_as_they_were() -> None:
    gate, args, tags = RecordedGate(), {"amount": 5}, ["eu"]
    actor = Service("agent", ("bot",), on_behalf_of=User("ada", ("editor",)))
    question = PolicyInput("db.write", actor, Resource("sql_query", "audit", {"tags": tags}), args=args)
    before = canonical(question)
    assert await gate.check(question) == ALLOW
    args["amount"] = 6
    tags.append("us")
    assert [canonical(asked.input) for asked in gate.asked] == [before]


async def test_what_is_told_last_counts() -> None:
    gate = RecordedGate()
    gate.deny()
    assert await gate.check(WRITE) == Deny("not_in_allowlist")
    gate.allow("db.write", "sql_query")
    gate.deny("db.write", "sql_query:other", reason="other")
    assert await gate.check(WRITE) == ALLOW
    assert await gate.check(ask("db.write", "sql_query", "other")) == Deny("other")
    assert await gate.check(ask("db.read", "sql_query", "audit")) == Deny("not_in_allowlist")
    gate.allow()
    assert await gate.check(ask("db.write", "sql_query", "other")) == ALLOW
    # No telling makes anything of a question that is none.
    assert await gate.check(ask("db.write")) == Deny("missing_resource")
    assert await gate.check(ask("no.such")) == Deny("unknown_action")


async def test_with_a_document() -> None:
    gate = RecordedGate(DOCUMENT)
    assert await gate.check(WRITE) == ALLOW
    assert await gate.check(ask("db.write", "sql_query", "x")) == Deny("not_in_allowlist")
    assert await gate.check(ask("invoice.send", "i", "i")) == ALLOW
    gate.allow("db.write", "sql_query:x")
    gate.deny("db.write", "sql_query:audit")
    assert await gate.check(WRITE) == Deny("not_in_allowlist")
    assert await gate.check(ask("db.write", "sql_query", "x")) == ALLOW
    assert len(gate.asked) == 5
    with pytest.raises(ConfigError):
        RecordedGate({"sqll": []})


@pytest.mark.parametrize(
    ("action", "resource", "setting"),
    [
        ("db.wirte", None, "action"),
        ("db.*", None, "action"),
        ("", None, "action"),
        ("db.write", "", "resource"),
        ("db.write", ":x", "resource"),
        ("db.write", "sql:audit", "resource"),
        ("db.write", "path", "resource"),
        ("*", ":x", "resource"),
        ("db.write", 5, "resource"),
    ],
)
def test_what_could_never_match_is_refused(action: str, resource: Any, setting: str) -> None:
    gate = RecordedGate()
    for tell in (gate.deny, gate.allow):
        with pytest.raises(ConfigError) as caught:
            tell(action, resource)
        assert caught.value.setting == setting


# -- in an application


def make_app(framework: type, **options: Any) -> Any:
    """An application with its own policy, that of production."""
    options = {"checker": make_checker({"cache": ["orders"]}), **options}
    app: Any
    if framework is FastAPI:
        app = fast = FastAPI()

        @fast.get("/read")
        @requires("cache.read", resource="namespace:orders")
        def read(gate: Gate) -> str:
            gate.require_now("http.outbound", "host:api.example.com")
            return "read"

        @fast.get("/write")
        @requires("cache.write", resource="namespace:other")
        async def write() -> str:
            await current().require("db.write", "sql_query:audit")
            return "written"

    else:

        @requires("cache.read", resource="namespace:orders")
        def read_sync(request: Request) -> Response:
            request.state.capabilities.require_now("http.outbound", "host:api.example.com")
            return PlainTextResponse("read")

        @requires("cache.write", resource="namespace:other")
        async def write_async(request: Request) -> Response:
            await current().require("db.write", "sql_query:audit")
            return PlainTextResponse("written")

        app = Starlette(routes=[Route("/read", read_sync), Route("/write", write_async)])
    app.add_middleware(CapabilityMiddleware, **options)
    return app


async def get(app: Any, path: str) -> int:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        return (await client.get(path)).status_code


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
@pytest.mark.parametrize("options", [{}, {"settings": Settings(mode="test", contract="absent.json")}], ids=["", "set"])
async def test_in_place_of_an_application_s_policy(framework: type, options: dict[str, Any]) -> None:
    contract = bool(options)
    app = make_app(framework, **options)
    if not contract:
        assert [await get(app, path) for path in ("/read", "/write")] == [403, 403]
    gate = RecordedGate()
    with gate.replacing(app) as same:
        assert same is gate
        assert [await get(app, path) for path in ("/read", "/write")] == [200, 200]
        assert gate.questions == [
            *("cache.read namespace:orders", "http.outbound host:api.example.com"),
            *("cache.write namespace:other", "db.write sql_query:audit"),
        ]
        assert {one.input.env.mode for one in gate.asked} == {"test" if contract else "prod"}
        gate.deny("http.outbound", "host:api.example.com")
        assert [await get(app, path) for path in ("/read", "/write")] == [403, 200]
    asked = len(gate.asked)
    assert [await get(app, path) for path in ("/read", "/write")] == [403, 403]
    assert len(gate.asked) == asked


def test_afterwards_the_application_is_as_it_was() -> None:
    app = make_app(Starlette)
    before, stack = list(app.user_middleware), app.build_middleware_stack()
    app.middleware_stack = stack
    gate = RecordedGate()

    def fail() -> None:
        with gate.replacing(app):
            assert app.middleware_stack is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (list(app.user_middleware), app.middleware_stack) == (before, stack)


@pytest.mark.parametrize("app", [Starlette(), FastAPI(), object(), None])
def test_an_application_without_a_gate(app: Any) -> None:
    with pytest.raises(ConfigError), RecordedGate().replacing(app):
        pytest.fail("nothing was replaced")


# -- outside of any


async def test_for_jobs() -> None:
    gate = RecordedGate()
    gate.deny("fs.write")
    with using(capabilities_for(gate, Service("nightly"))):
        await current().require("fs.read", "path:a")
        with pytest.raises(CapabilityDenied):
            await current().require("fs.write", "path:a")
    assert [(one.question, one.input.actor) for one in gate.asked] == [
        ("fs.read path:a", Service("nightly")),
        ("fs.write path:a", Service("nightly")),
    ]


def test_for_code_that_cannot_await() -> None:
    """Without an event loop, and from several threads."""
    gate = RecordedGate()
    gate.deny("fs.write")
    held = capabilities_for(gate, Service("nightly"))

    def work() -> None:
        for _ in range(100):
            held.require_now("fs.read", "path:a")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(CapabilityDenied) as caught:
        held.require_now("fs.write", "path:a")
    assert caught.value.decision.result == Deny("not_in_allowlist")
    assert (len(gate.asked), gate.denied) == (401, ["fs.write path:a"])


@pytest.mark.parametrize("kind", ["local", "auto", *EXPECTED_ENGINES])
async def test_checkers_of_documents(kind: str) -> None:
    async with make_checker({"sql": ["audit"]}, kind) as checker:
        assert isinstance(checker, LocalPolicyChecker if kind == "local" else WasmPolicyChecker)
        assert await checker.check(WRITE) == ALLOW
        assert await checker.check(ask("db.write", "sql_query", "x")) == Deny("not_in_allowlist")
    with pytest.raises(ConfigError):
        make_checker({"sqll": []}, kind)


def test_a_checker_on_an_engine_that_is_none() -> None:
    with pytest.raises(ConfigError):
        make_checker({}, "v8")
