"""The gate: who is let in, what is public, and what a denial looks like to the client and in the log."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from capgate.checker.local import LocalPolicyChecker
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, Deny, Environment, PolicyInput, PolicyResult, Service, User
from capgate.policy import RuntimePolicy
from capgate.routes.declare import requires
from capgate.routes.seat import PUBLIC
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import (
    KINDS,
    PATIENT,
    POLICY,
    SETTINGS,
    Answering,
    Ran,
    Recording,
    events,
    example,
    gated,
    make_checker,
    plain,
    read,
)
from ..support.late import until_cancelled
from .reasons import QUIET, reason_for

# -- allowed and denied


@pytest.mark.parametrize("kind", KINDS)
async def test_an_endpoint_runs_only_if_the_policy_allows(kind: str) -> None:
    ran = Ran()
    async with make_checker(kind) as checker:
        app = example(ran, checker)
        allowed = await Call(http_scope("/good")).to(app)
        assert (allowed.status, allowed.json["ran"], ran.names) == (200, "good", ["good"])
        denied = await Call(http_scope("/bad")).to(app)
        assert (denied.status, denied.json["reason"], ran.names) == (403, "not_in_allowlist", ["good"])
        by_name = [
            (await Call(http_scope(f"/by-name/{name}")).to(app)).status for name in ("good", "other", "bad", "Good")
        ]
        assert by_name == [200, 200, 403, 200]  # one query, however its letters are written


async def test_what_the_policy_is_asked() -> None:
    checker = Recording()
    app = example(Ran(), checker, actor=lambda scope: Service("batch"))
    await Call(http_scope("/by-name/other")).to(app)
    ((question, _),) = checker.asked
    assert (question.action, question.actor, question.args_hash) == ("db.read", Service("batch"), None)
    assert question.resource is not None
    assert (question.resource.kind, question.resource.id) == ("sql_query", "other")
    assert question.env == Environment("web-tests", "test")
    assert question.timestamp > 1_700_000_000_000_000_000


@pytest.mark.parametrize(("first", "second", "asked"), [("good", "bad", 2), ("bad", "good", 1), ("good", "other", 2)])
async def test_stacked_declarations_are_asked_in_order_until_one_is_denied(first: str, second: str, asked: int) -> None:
    ran, checker = Ran(), Recording()
    app = gated([Route("/", read(second)(read(first)(ran.endpoint("both"))))], checker)
    call = await Call(http_scope()).to(app)
    assert [id for _, id in checker.questions] == [first, second][:asked]
    assert (call.status == 200) == (ran.names == ["both"]) == ("bad" not in (first, second))


class View(HTTPEndpoint):
    @read("good")
    async def get(self, request: Request) -> Response:
        return Response("get")

    @requires("db.write", resource="sql_query:secret")
    async def post(self, request: Request) -> Response:
        return Response("post")

    async def delete(self, request: Request) -> Response:
        return Response("delete")


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        ("GET", 200, None),
        ("HEAD", 200, None),
        ("POST", 403, "not_in_allowlist"),
        ("DELETE", 403, "undeclared_route"),
        ("PATCH", 403, "undeclared_route"),
        ("get", 403, None),
    ],
)
async def test_class_based_endpoints(method: str, status: int, reason: str | None) -> None:  # S11
    app = gated([Route("/", View)])
    if (
        method == "get"
    ):  # HTTPEndpoint lowers the name to find the method, and so does the gate; some versions answer 405
        status, reason = (await Call(http_scope(method=method)).to(Starlette(routes=[Route("/", View)]))).status, None
    with events() as found:
        call = await Call(http_scope(method=method)).to(app)
    assert call.status == status
    assert [event["reason"] for event in found] == ([] if reason is None else [reason])


PUBLIC_PATHS = Settings(public=("/health", "/files/{path:path}", "/sub/health", "/items/{id:int}"), expose_reasons=True)


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/health", True), ("/healthz", False), ("/health/", False), ("/Health", False), ("/health/../admin", False),
        ("//health", False), ("/x/health", False), ("/sub/health", True), ("/other/health", False),
        ("/files/a/b", True), ("/files", False), ("/filesystem", False), ("/items/5", True), ("/items/x", False),
    ],
)  # fmt: skip
async def test_public_routes_are_exact(path: str, passes: bool) -> None:  # S22
    ran, checker = Ran(), Recording()

    async def files(scope: Scope, receive: Receive, send: Send) -> None:
        ran.names.append("files")
        await Response()(scope, receive, send)

    routes = [
        Route("/health", ran.endpoint("health")),
        Route("/healthz", ran.endpoint("healthz")),
        Mount("/files", files),
        Route("/filesystem", ran.endpoint("filesystem")),
        Route("/items/{id:int}", ran.endpoint("item")),
        Mount("/sub", routes=[Route("/health", ran.endpoint("sub"))]),
        Mount("/other", routes=[Route("/health", ran.endpoint("other"))]),
    ]
    app = gated(routes, checker, PUBLIC_PATHS)
    assert await reason_for(app, http_scope(path)) == (None if passes else "undeclared_route")
    assert len(ran.names) == passes
    assert checker.asked == []


async def test_nothing_is_public_by_default() -> None:  # S22
    app = gated([Route("/health", Ran().endpoint("health")), Mount("/", plain)])
    for path in ("/health", "/", "/docs", "/openapi.json", "/favicon.ico"):
        assert await reason_for(app, http_scope(path)) == "undeclared_route"


async def test_a_public_route_of_http_is_not_a_websocket() -> None:  # S22
    app = example(Ran(), settings=Settings(public=("/undeclared",)))
    assert await reason_for(app, http_scope("/undeclared")) is None
    assert await reason_for(app, websocket_scope("/undeclared")) == "undeclared_route"


async def test_a_declaration_counts_more_than_public() -> None:  # S22
    assert (
        await reason_for(example(Ran(), settings=Settings(public=("/bad",))), http_scope("/bad")) == "not_in_allowlist"
    )


async def test_requests_do_not_share_anything() -> None:  # S23
    ran, checker = Ran(), Recording()
    app = example(ran, checker)
    calls = [Call(http_scope(f"/by-name/{'good' if number % 3 else 'bad'}")) for number in range(60)]
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call.to, app)
    assert [call.status for call in calls] == [200 if number % 3 else 403 for number in range(60)]
    ids = [call.json["decision_id"] for call in calls if call.status == 403]
    assert len(set(ids)) == len(ids) == 20


@pytest.mark.parametrize("kind", KINDS)
async def test_gates_within_gates_all_have_to_allow(kind: str) -> None:  # S25, P19
    ran = Ran()
    routes = [Route(f"/{name}", read(name)(ran.endpoint(name))) for name in ("both", "outer", "inner", "none")]
    outer, inner = (
        make_checker(kind, {"sql": ["both", "outer"]}, size=1),
        make_checker(kind, {"sql": ["both", "inner"]}, size=1),
    )
    async with outer, inner:
        nested = gated([Mount("/sub", app=gated(list(routes), inner))], outer)
        stacked = gated(list(routes), inner)
        stacked.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=outer)
        for app, prefix in ((nested, "/sub"), (stacked, "")):
            ran.names.clear()
            statuses = [
                (await Call(http_scope(f"{prefix}/{name}")).to(app)).status
                for name in ("both", "outer", "inner", "none")
            ]
            assert statuses == [200, 403, 403, 403]
            assert ran.names == ["both"]


@pytest.mark.parametrize("kind", KINDS)
async def test_two_gates_may_share_a_checker_of_one_instance(kind: str) -> None:  # P19
    async with make_checker(kind, size=1) as checker:
        app = example(Ran(), checker)
        app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker)
        assert (await Call(http_scope("/good")).to(app)).status == 200
        assert (await Call(http_scope("/bad")).to(app)).status == 403


@pytest.mark.parametrize("reason", ["not_in_allowlist", "pool_exhausted", "</script>\r\n\x1b[31m\u202e", "x" * 100_000])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_denial(method: str, reason: str) -> None:  # S26, O9
    call = await Call(http_scope("/good", method)).to(example(Ran(), Answering(Deny(reason)), QUIET))
    other = await Call(http_scope("/undeclared")).to(example(Ran(), settings=QUIET))
    assert call.status == 403
    assert [m["type"] for m in call.sent] == ["http.response.start", "http.response.body"]
    assert call.headers == {**other.headers, "content-length": str(len(other.body))}
    assert call.headers["content-type"] == "application/problem+json"
    assert call.headers["cache-control"] == "no-store"
    assert call.headers["vary"] == "*"
    if method == "HEAD":
        assert call.body == b""
    else:
        assert set(call.json) == {"type", "title", "status", "decision_id"}
        assert {**call.json, "decision_id": other.json["decision_id"]} == other.json


async def test_the_decision_id_leads_from_the_client_to_the_log() -> None:  # S26
    with events() as found:
        call = await Call(http_scope("/bad", "POST")).to(example(Ran()))
    assert found[0]["decision_id"] == call.json["decision_id"]
    assert (found[0]["policy"], found[0]["policy_version"], found[0]["engine"]) == ("web", "7", "local")
    assert (found[0]["method"], found[0]["path"], found[0]["service"]) == ("POST", "/bad", "web-tests")
    assert found[0]["duration_us"] > 0


async def test_a_reason_that_is_exposed_is_printable() -> None:  # S26
    call = await Call(http_scope("/good")).to(example(Ran(), Answering(Deny("a\r\n\u202eb" + "x" * 1_000))))
    assert call.json["reason"].startswith("a\\r\\n\\u202eb")
    assert len(call.body) < 600


async def test_who_may_know_of_overload_is_told_to_try_again() -> None:  # P1
    overloaded = await Call(http_scope("/good")).to(example(Ran(), Answering(Deny("pool_exhausted"))))
    other = await Call(http_scope("/good")).to(example(Ran(), Answering(Deny("policy_timeout"))))
    assert (overloaded.status, overloaded.json["reason"]) == (403, "pool_exhausted")
    assert overloaded.headers["retry-after"] == "1"
    assert "retry-after" not in other.headers


async def test_allows_are_events_if_settings_say_so() -> None:
    for rate, expected in ((1.0, ["allow", "allow", "deny"]), (0.0, ["deny"])):
        app = example(Ran(), settings=Settings(sample_allows=rate))
        with events(logging.INFO) as found:
            for scope in (http_scope("/good"), websocket_scope("/ws"), http_scope("/bad")):
                await Call(scope).to(app)
        assert [event["decision"] for event in found] == expected


async def test_what_becomes_a_denial_after_all_is_no_event_of_an_allow() -> None:  # O1
    """An answer that comes too late, however it was."""

    class Late:
        async def check(self, input: PolicyInput) -> Any:
            await until_cancelled()
            return ALLOW

    ran = Ran()
    app = example(ran, Late(), Settings(sample_allows=1.0, limits=Limits(deadline=0.02)))
    with events(logging.INFO) as found:
        call = await Call(http_scope("/good")).to(app)
    assert (call.status, ran.names) == (403, [])
    assert [(event["decision"], event["reason"]) for event in found] == [("deny", "policy_timeout")]


def test_the_mark_of_public_routes_shows_what_it_is() -> None:
    assert repr(PUBLIC) == "PUBLIC"


# -- the object


def test_a_gate_is_not_copied() -> None:  # P11
    gate = CapabilityMiddleware(plain, settings=SETTINGS, checker=make_checker())
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            copying(gate)
        assert "CapabilityMiddleware" in str(caught.value)


def test_the_checker_type_is_the_real_one() -> None:
    assert type(make_checker()) is LocalPolicyChecker


# -- one question, one answer, one event


class Wavering(RuntimePolicy):
    """A document's policy that denies the first time, and allows whatever it is asked again."""

    def __init__(self, document: Any, sha256: str) -> None:
        super().__init__(document, sha256)
        self.answers: list[PolicyResult] = [Deny("not_today"), ALLOW, ALLOW, ALLOW]
        self.asked = 0

    def evaluate(self, input: PolicyInput) -> PolicyResult:
        self.asked += 1
        return self.answers.pop(0)


class WaveringElsewhere:
    """The same as a checker of an application's."""

    def __init__(self) -> None:
        self.answers: list[PolicyResult] = [Deny("not_today"), ALLOW, ALLOW, ALLOW]
        self.asked = 0

    async def check(self, input: PolicyInput) -> PolicyResult:
        self.asked += 1
        return self.answers.pop(0)


@pytest.mark.parametrize("path", ["/one", "/hashed", "/two", "/handler"])
@pytest.mark.parametrize("actor", [None, "async"])
@pytest.mark.parametrize("own", [True, False])
async def test_one_question_costs_one_call_and_a_denial_stays_one(path: str, actor: Any, own: bool) -> None:
    ran = Ran()

    async def handler(request: Request) -> Response:
        await request.state.capabilities.require("db.read", "sql_query:good")
        ran.names.append("handler")
        return Response()

    policy: Any = Wavering.from_document(POLICY)
    told: Any = policy if own else WaveringElsewhere()
    checker = LocalPolicyChecker(policy, limits=PATIENT) if own else told

    async def who(scope: Scope) -> User:
        await anyio.lowlevel.checkpoint()
        return User("ada")

    routes: list[Any] = [
        Route("/one", read("good")(ran.endpoint("one"))),
        Route("/hashed", read("good", args_hash="body")(ran.endpoint("hashed"))),
        Route("/two", read("good")(read("other")(ran.endpoint("two")))),
        Route("/handler", handler),
    ]
    settings = Settings(public=("/handler",), expose_reasons=True, limits=PATIENT)
    app = gated(routes, checker, settings, actor=who if actor else None)
    with events() as found:
        call = await Call(http_scope(path)).to(app)
    assert (call.status, call.json["reason"], ran.names) == (403, "not_today", [])
    # A batch of capgate's own checkers is answered as a whole; otherwise nothing is asked after a denial.
    assert told.asked == (2 if path == "/two" and own else 1)
    assert [event["reason"] for event in found] == ["not_today"]


@pytest.mark.parametrize("actor", [None, "async"])
@pytest.mark.parametrize("kind", [*KINDS, "an application's"])
async def test_each_declaration_that_was_allowed_is_an_event(kind: str, actor: Any) -> None:
    async def who(scope: Scope) -> User:
        await anyio.lowlevel.checkpoint()
        return User("ada")

    ran = Ran()
    checker: Any = Answering(ALLOW) if kind == "an application's" else make_checker(kind)
    routes: list[Any] = [
        Route("/two", read("good")(read("other")(ran.endpoint("two")))),
        Route("/one", read("good")(ran.endpoint("one"))),
    ]
    settings = Settings(sample_allows=1.0, limits=PATIENT)
    app = gated(routes, checker, settings, actor=who if actor else None)
    expected = {"/one": ["good"], "/two": ["good", "other"]}
    for path, names in expected.items():
        for _ in range(2):  # the first request starts what the second finds started
            with events(logging.INFO) as found:
                assert (await Call(http_scope(path)).to(app)).status == 200
            assert sorted(event["resource_id"] for event in found) == names
            assert {(event["decision"], event["path"]) for event in found} == {("allow", path)}
            assert len({event["decision_id"] for event in found}) == len(names)
