from __future__ import annotations

import asyncio
import copy
import hashlib
import pickle
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
    UnauthenticatedUser,
)
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.checker.local import LocalPolicyChecker
from capgate.enforcement.capabilities import Capabilities
from capgate.errors import PolicyTimeout, ends_task
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, Anonymous, CompilerTool, Deny, Environment, PolicyInput, Reason, Service, User
from capgate.routes.declare import Requirement, requires
from capgate.routes.routing import PUBLIC
from capgate.settings.settings import Settings

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

from ..support.asgi import Call, http_scope, websocket_scope, without
from ..support.gates import (
    KINDS,
    PATIENT,
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

QUIET = Settings(service="web-tests", mode="test")


async def reason_for(app: ASGIApp, scope: Scope, **options: Any) -> str | None:
    """The reason of the one denial event that the request causes; ``None`` where there is none."""
    with events() as found:
        await Call(scope, **options).to(app)
    assert len(found) <= 1
    return found[0]["reason"] if found else None


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
        assert by_name == [200, 200, 403, 403]


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
    if method == "get":  # HTTPEndpoint lowers the name to find the method, and so does the gate; it then answers 405
        status, reason = 405, None
    with events() as found:
        call = await Call(http_scope(method=method)).to(app)
    assert call.status == status
    assert [event["reason"] for event in found] == ([] if reason is None else [reason])


# -- S: the surface, row by row


@pytest.mark.parametrize("extension", [True, False])
async def test_websockets_are_gated_before_they_are_accepted(extension: bool) -> None:  # S1
    ran = Ran()
    app = example(ran)
    extensions: dict[str, Any] = {"websocket.http.response": {}} if extension else {}
    accepted = await Call(websocket_scope("/ws", extensions=extensions)).to(app)
    assert ([message["type"] for message in accepted.sent], ran.names) == (
        ["websocket.accept", "websocket.close"],
        ["ws"],
    )
    denied = await Call(websocket_scope("/ws-bad", extensions=extensions)).to(app)
    assert ran.names == ["ws"]
    if extension:
        assert [message["type"] for message in denied.sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert (denied.status, denied.json["reason"]) == (403, "not_in_allowlist")
    else:
        assert denied.sent == [{"type": "websocket.close", "code": 1008, "reason": "not_in_allowlist"}]


async def test_a_websocket_close_says_nothing_unless_settings_do() -> None:  # S1
    denied = await Call(websocket_scope("/ws-bad")).to(example(Ran(), settings=QUIET))
    assert denied.sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


async def test_http_and_websocket_routes_of_one_path_are_told_apart() -> None:  # S1
    ran = Ran()
    app = example(ran)
    assert await reason_for(app, websocket_scope("/good")) == "undeclared_route"
    assert await reason_for(app, http_scope("/ws")) == "undeclared_route"
    assert ran.names == []


@pytest.mark.parametrize("kind", ["webtransport", "http3", "HTTP", "", None, 5])
async def test_unknown_kinds_of_scope_go_no_further(kind: Any) -> None:  # S3
    called = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope["type"])

    gate = CapabilityMiddleware(app, settings=SETTINGS, checker=make_checker(), resolver=lambda scope: PUBLIC)
    call = Call({**http_scope(), "type": kind})
    with events() as found:
        await call.to(gate)
    assert (called, call.sent, call.received) == ([], [], 0)
    assert found[0]["reason"] == "malformed_input"


async def test_a_scope_without_a_type_goes_no_further() -> None:  # S3
    call = Call(without(http_scope(), "type"))
    assert await reason_for(example(Ran()), {**call.scope, "type": None}) == "malformed_input"
    assert (
        await reason_for(CapabilityMiddleware(plain, settings=SETTINGS, checker=make_checker()), call.scope)
        == "malformed_input"
    )


HOSTS: dict[str, list[tuple[str, str]]] = {
    "normal": [("host", "testserver")],
    "path and query": [("host", "x/good?")],
    "user": [("host", "a@b")],
    "fragment": [("host", "h#")],
    "empty": [("host", "")],
    "missing": [],
    "twice": [("host", "testserver"), ("host", "evil")],
    "long": [("host", "x" * 65_536)],
    "other port": [("host", "testserver:99999")],
}


@pytest.mark.parametrize("headers", HOSTS.values(), ids=HOSTS)
async def test_the_host_header_changes_no_decision(headers: list[tuple[str, str]]) -> None:  # S4
    ran, checker = Ran(), Recording()
    app = example(ran, checker)
    for path in ("/good", "/bad", "/undeclared", "/by-name/good"):
        await Call(http_scope(path, headers=headers)).to(app)
    assert ran.names == ["good", "by-name"]
    assert [id for _, id in checker.questions] == ["good", "bad", "good"]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("path", "raw_path"),
    [("/good", b"/bad"), ("/bad", b"/good"), ("/by-name/bad/x", b"/by-name/good"), ("/by-name/%2e", b"/by-name/%252e")],
)
async def test_the_path_that_the_router_uses_decides(path: str, raw_path: bytes, strict: bool) -> None:  # S5
    ran, checker = Ran(), Recording()
    app = example(ran, checker, Settings(strict_paths=strict))
    await Call(http_scope(path, raw_path=raw_path)).to(app)
    expected = path.removeprefix("/by-name/").removeprefix("/")
    assert [id for _, id in checker.questions] == [expected]
    assert ran.names == (["good"] if path == "/good" else [])


UNCLEAN = ["\0", "\x01", "\t", "\r\n", "\x1b[31m", "\x7f", "\x85", "\x9b", "\ufffd", "\ud800"]


@pytest.mark.parametrize("text", UNCLEAN)
async def test_strict_paths(text: str) -> None:  # S5
    for path in (f"/good{text}", f"/{text}/good", f"/by-name/good{text}"):
        ran, checker = Ran(), Recording()
        assert await reason_for(example(ran, checker), http_scope(path)) == "malformed_input"
        assert (ran.names, checker.asked) == ([], [])


@pytest.mark.parametrize("text", UNCLEAN)
async def test_without_strict_paths_the_policy_is_asked_about_what_is_there(text: str) -> None:  # S5
    ran, checker = Ran(), Recording()
    app = example(ran, checker, Settings(strict_paths=False))
    assert await reason_for(app, http_scope(f"/by-name/good{text}")) in ("not_in_allowlist", "malformed_input")
    # The `$` of the route's expression lets one newline at the end pass, so the endpoint would not see it either.
    assert checker.questions == [("db.read", f"good{text}".removesuffix("\n"))]
    assert ran.names == []


ODD_PATHS = [
    "//good", "/good/", "/good//", "/./good", "/good/.", "/x/../good", "/good;a=b", "/good\\", "\\good", "*", "",
    "http://testserver/good", "/good%00", "/good?x", "/good#x", "good", "/ good", "/good ", "/GOOD", "/g\u043e\u043ed",
    "/\uff47ood", "\uff0fgood",
]  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_nothing_is_normalised(path: str) -> None:  # S6, S7
    ran, checker = Ran(), Recording()
    app = example(ran, checker)
    assert await reason_for(app, http_scope(path)) == "undeclared_route"
    assert (ran.names, checker.asked) == ([], [])


@pytest.mark.parametrize(
    "rest",
    ["", "/", "//good", "../good", "./good", "good/", "good;a=b", "goo\u212a", "GOOD", "good\u200b", "go\u006f\u0301d"],
)
async def test_a_path_parameter_reaches_the_policy_verbatim(rest: str) -> None:  # S6, S7
    ran, checker = Ran(), Recording()
    app = example(ran, checker)
    assert await reason_for(app, http_scope(f"/by-name/{rest}")) in ("not_in_allowlist", "missing_resource")
    assert checker.questions == [("db.read", rest)]
    assert ran.names == []


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("GET", ["good"]), ("HEAD", ["good"]), ("POST", ["good"]), ("OPTIONS", []), ("get", []), ("FOO", []),
        ("CONNECT", []), ("TRACE", []), ("", []), ("M" * 1_000_000, []), ("GET ", []), ("GE\u0422", []),
    ],
    ids=lambda value: value[:9] if isinstance(value, str) else "",
)  # fmt: skip
async def test_methods_are_taken_literally(method: str, expected: list[str]) -> None:  # S11
    ran, checker = Ran(), Recording()
    app = example(ran, checker)
    denied = await reason_for(app, http_scope("/good", method=method))
    assert denied == (None if expected else "undeclared_route")
    assert ran.names == expected == [id for _, id in checker.questions]


@pytest.mark.parametrize("path", ["/bad", "/undeclared"])
async def test_headers_and_query_do_not_speak_for_the_request(path: str) -> None:  # S12, S17
    names = ("x-http-method-override", "x-original-url", "x-rewrite-url", "x-forwarded-prefix", "x-forwarded-host")
    headers = [(name, value) for name in names for value in ("/good", "GET")]
    ran = Ran()
    app = example(ran)
    scope = http_scope(path, headers=headers, query_string=b"_method=GET&path=/good;path=/good&\xff")
    assert (await Call(scope).to(app)).status == 403
    assert ran.names == []


@pytest.mark.parametrize("missing", ["path", "method"])
async def test_a_scope_without_what_it_must_have(missing: str) -> None:  # S15
    ran = Ran()
    gate = CapabilityMiddleware(example(ran).router, settings=SETTINGS, checker=make_checker())
    assert await reason_for(gate, without(http_scope("/good"), missing)) == "malformed_input"
    assert await reason_for(gate, {**http_scope("/good"), missing: b"/good"}) == "malformed_input"
    assert ran.names == []


OPTIONAL = (
    "root_path",
    "raw_path",
    "client",
    "server",
    "extensions",
    "state",
    "scheme",
    "http_version",
    "query_string",
    "asgi",
)


@pytest.mark.parametrize("missing", OPTIONAL)
async def test_a_scope_without_what_it_may_lack(missing: str) -> None:  # S15
    ran = Ran()
    gate = CapabilityMiddleware(example(ran).router, settings=SETTINGS, checker=make_checker())
    assert (await Call(without(http_scope("/good"), missing)).to(gate)).status == 200
    assert await reason_for(gate, without(http_scope("/bad"), missing)) == "not_in_allowlist"
    assert ran.names == ["good"]


async def test_headers_as_tuples_and_keys_nobody_knows() -> None:  # S15
    ran = Ran()
    scope = http_scope("/good", headers=[("host", "x")])
    scope["headers"] = tuple(tuple(pair) for pair in scope["headers"])
    assert (await Call({**scope, "x.unknown": object()}).to(example(ran))).status == 200


async def test_the_scope_is_passed_on_as_it_came() -> None:  # S15
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        assert isinstance(scope["state"]["capabilities"], Capabilities)

    gate = CapabilityMiddleware(app, settings=SETTINGS, checker=make_checker(), router=example(Ran()).router)
    scope = http_scope("/by-name/good")
    before = copy.deepcopy(scope)
    await Call(scope).to(gate)
    assert seen[0] is scope
    assert scope == before


async def test_a_denial_reads_nothing_from_the_client() -> None:  # S18
    for scope in (
        http_scope("/bad", "POST", [("expect", "100-continue"), ("content-length", "10000000000")]),
        websocket_scope("/x"),
    ):
        call = await Call(scope).to(example(Ran()))
        assert call.received == 0
        assert call.sent


@pytest.mark.parametrize(
    "scope",
    [http_scope("/bad"), websocket_scope("/ws-bad"), websocket_scope("/x", extensions={"websocket.http.response": {}})],
)
async def test_a_client_that_is_gone(scope: Scope) -> None:  # S19
    call = Call(scope, gone=True)
    with events() as found:
        await call.to(example(Ran()))
    assert len(call.sent) == 1
    assert len(found) == 1


async def test_what_the_application_does_passes_untouched() -> None:  # S20
    @read("good")
    async def stream(request: Request) -> Response:
        async def chunks() -> Any:
            yield b"one"
            yield b"two"

        return StreamingResponse(chunks(), headers={"x-mine": "yes"})

    call = await Call(http_scope()).to(gated([Route("/", stream)]))
    assert (call.status, call.headers["x-mine"], call.body) == (200, "yes", b"onetwo")
    assert [m["body"] for m in call.sent if m["type"] == "http.response.body"] == [b"one", b"two", b""]


async def test_what_the_application_raises_passes_untouched() -> None:  # S20
    class Peculiar(Exception):
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise Peculiar

    gate = CapabilityMiddleware(app, settings=SETTINGS, checker=make_checker(), resolver=lambda scope: PUBLIC)
    call = Call(http_scope())
    with events() as found, pytest.raises(Peculiar):
        await call.to(gate)
    assert len(call.sent) == 1
    assert found == []


class Sudden(BaseException):
    """Like the panics of native extensions."""


NOT_ANSWERS = (None, True, 1, "allow", {"kind": "allow"}, type(ALLOW), Deny)
ERRORS = (ValueError("secret"), KeyError(), RecursionError(), MemoryError(), StopAsyncIteration(), Sudden())
WRONG: list[tuple[str, Any, str]] = [
    *[(f"answers {answer!r}", answer, Reason.MALFORMED_RESULT) for answer in NOT_ANSWERS],
    ("denies with a number", Deny(5), Reason.MALFORMED_RESULT),  # type: ignore[arg-type]
    *[(f"raises {type(error).__name__}", error, Reason.INTERNAL_ERROR) for error in ERRORS],
    ("raises a timeout of its own", TimeoutError(), Reason.INTERNAL_ERROR),
    ("raises a policy error", PolicyTimeout(), Reason.POLICY_TIMEOUT),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reason"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
async def test_a_checker_that_goes_wrong(answer: Any, reason: str) -> None:  # S21
    ran = Ran()
    app = example(ran, Answering(answer))
    for scope in (http_scope("/good"), websocket_scope("/ws")):
        call = Call(scope)
        with events() as found:
            await call.to(app)
        assert [event["reason"] for event in found] == [reason]
        assert b"secret" not in call.body
    assert ran.names == []


async def test_a_checker_that_is_not_async() -> None:  # S21
    class Sync:
        def check(self, input: PolicyInput) -> Any:
            return ALLOW

    ran = Ran()
    assert await reason_for(example(ran, Sync()), http_scope("/good")) == "internal_error"
    assert ran.names == []


async def test_a_checker_whose_policy_cannot_be_told() -> None:  # S21
    class Mute(Answering):
        @property
        def policy(self) -> Any:
            raise RuntimeError

    call = Call(http_scope("/good"))
    with events() as found:
        await call.to(example(Ran(), Mute(Deny("no"))))
    assert (call.status, call.json["reason"]) == (403, "no")
    assert [(event["decision_id"], event["policy"]) for event in found] == [(call.json["decision_id"], None)]


async def test_a_checker_that_never_answers_is_denied_at_the_deadline() -> None:
    class Stuck:
        async def check(self, input: PolicyInput) -> Any:
            await anyio.sleep_forever()

    ran = Ran()
    settings = Settings(limits=Limits(deadline=0.02))
    assert await reason_for(example(ran, Stuck(), settings), http_scope("/good")) == "policy_timeout"
    assert ran.names == []


async def test_an_answer_after_the_deadline_is_a_denial() -> None:  # P15
    class Late:
        async def check(self, input: PolicyInput) -> Any:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            return ALLOW

    ran = Ran()
    settings = Settings(limits=Limits(deadline=0.02))
    assert await reason_for(example(ran, Late(), settings), http_scope("/good")) == "policy_timeout"
    assert ran.names == []


async def test_a_cancelled_request_is_not_answered_and_not_passed_on() -> None:  # P2
    class Stuck:
        async def check(self, input: PolicyInput) -> Any:
            await anyio.sleep_forever()

    ran = Ran()
    call = Call(http_scope("/good"))
    app = example(ran, Stuck(), Settings(limits=PATIENT))
    with anyio.move_on_after(0.02) as scope:
        await call.to(app)
    assert scope.cancelled_caught
    assert (ran.names, call.sent) == ([], [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_process_is_not_held_up(error: type[BaseException]) -> None:
    ran = Ran()
    caught: BaseException | None = None
    gate = CapabilityMiddleware(example(ran).router, settings=SETTINGS, checker=Answering(error()))
    try:  # not pytest.raises, which the runner of trio would not see through
        await gate(http_scope("/good"), Call(http_scope()).receive, Call(http_scope()).send)
    except error as raised:
        caught = raised
    assert type(caught) is error
    assert ran.names == []


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


@pytest.mark.parametrize("reason", ["not_in_allowlist", "</script>\r\n\x1b[31m\u202e", "x" * 100_000])
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


async def test_allows_are_events_if_settings_say_so() -> None:
    import logging

    for rate, expected in ((1.0, ["allow", "allow", "deny"]), (0.0, ["deny"])):
        app = example(Ran(), settings=Settings(sample_allows=rate))
        with events(logging.INFO) as found:
            for scope in (http_scope("/good"), websocket_scope("/ws"), http_scope("/bad")):
                await Call(scope).to(app)
        assert [event["decision"] for event in found] == expected


async def test_what_becomes_a_denial_after_all_is_no_event_of_an_allow() -> None:  # O1
    """An answer that comes too late, however it was, and a route that is another one by the time of the answer."""
    import logging

    class Late:
        async def check(self, input: PolicyInput) -> Any:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            return ALLOW

    class Moving:
        async def check(self, input: PolicyInput) -> Any:
            app.router.routes.insert(0, Route("/good", read("other")(ran.endpoint("other")), methods=["GET"]))
            return ALLOW

    ran = Ran()
    for checker, expected in ((Late(), "policy_timeout"), (Moving(), "undeclared_route")):
        deadline = 0.02 if isinstance(checker, Late) else PATIENT.deadline
        app = example(ran, checker, Settings(sample_allows=1.0, limits=Limits(deadline=deadline)))
        with events(logging.INFO) as found:
            call = await Call(http_scope("/good")).to(app)
        assert (call.status, ran.names) == (403, [])
        assert [(event["decision"], event["reason"]) for event in found] == [("deny", expected)]


def group(*errors: BaseException) -> BaseException:
    made: BaseException = BaseExceptionGroup("several", list(errors))
    return made


def test_what_ends_a_task_without_an_event_loop() -> None:
    for error in (
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        group(KeyboardInterrupt(), ValueError()),
    ):
        assert ends_task(error)
    for error in (Sudden(), ValueError(), TimeoutError(), group(ValueError()), group(Sudden())):
        assert not ends_task(error)


async def test_what_ends_a_task() -> None:  # P3
    cancelled = anyio.get_cancelled_exc_class()
    assert issubclass(cancelled, BaseException)
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(cancelled) as caught:
            await anyio.lowlevel.checkpoint()
    assert ends_task(caught.value)
    assert ends_task(group(ValueError(), caught.value))
    assert ends_task(KeyboardInterrupt())
    assert ends_task(group(Sudden(), group(KeyboardInterrupt())))
    for error in (Sudden(), group(Sudden()), group(Sudden(), group(ValueError()))):
        assert not ends_task(error)


def test_the_mark_of_public_routes_shows_what_it_is() -> None:
    assert repr(PUBLIC) == "PUBLIC"


# -- who is asking


class Tokens(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.headers.get("authorization")
        return (AuthCredentials(), SimpleUser(name)) if name else None


async def test_starlettes_authentication_around_the_gate() -> None:
    checker = Recording()
    app = example(Ran(), checker)
    app.add_middleware(AuthenticationMiddleware, backend=Tokens())
    for headers in ([("authorization", "ada")], []):
        await Call(http_scope("/good", headers=headers)).to(app)
    assert [question.actor for question, _ in checker.asked] == [User("ada"), Anonymous()]


class Nameless(BaseUser):
    @property
    def is_authenticated(self) -> bool:
        return True


class Named(Nameless):
    @property
    def display_name(self) -> str:
        return "Ada"


class Broken(Named):
    @property
    def identity(self) -> str:
        return self.record.id  # type: ignore[attr-defined,no-any-return]


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


ACTORS: dict[str, tuple[Any, Any]] = {
    "no user": (None, Anonymous()),
    "unauthenticated": (UnauthenticatedUser(), Anonymous()),
    "simple": (SimpleUser("ada"), User("ada")),
    "display name": (Named(), User("Ada")),
    "identity first": (Plain(is_authenticated=True, identity="id-1", username="ada"), User("id-1")),
    "username": (Plain(is_authenticated=True, username="ada"), User("ada")),
    "an actor": (CompilerTool("zig"), CompilerTool("zig")),
    "no name": (Nameless(), None),
    "empty name": (SimpleUser(""), None),
    "identity fails, display name must not step in": (Broken(), None),
    "number for a name": (Plain(is_authenticated=True, identity=5), None),
    "text": ("ada", None),
    "a dict": ({"username": "ada"}, None),
    "authenticated is a method": (Plain(is_authenticated=lambda: False, username="ada"), None),
    "authenticated is a number": (Plain(is_authenticated=1, username="ada"), None),
    "does not say": (Plain(username="ada"), None),
}


@pytest.mark.parametrize(("user", "expected"), ACTORS.values(), ids=ACTORS)
async def test_the_actor_of_an_authenticated_user(user: Any, expected: Any) -> None:
    ran, checker = Ran(), Recording()
    denied = await reason_for(example(ran, checker), http_scope("/good", user=user))
    assert denied == (None if expected is not None else "internal_error")
    assert [question.actor for question, _ in checker.asked] == ([] if expected is None else [expected])


async def test_no_user_in_the_scope() -> None:
    checker = Recording()
    await Call(http_scope("/good")).to(example(Ran(), checker))
    assert checker.asked[0][0].actor == Anonymous()


async def async_actor(scope: Scope) -> User:
    await anyio.lowlevel.checkpoint()
    return User(scope["path"])


async def raising_actor(scope: Scope) -> User:
    raise ConnectionError("the token t0p-secret is wrong")


def raising_at_once(scope: Scope) -> User:
    raise ConnectionError("the token t0p-secret is wrong")


async def slow_actor(scope: Scope) -> User:
    await anyio.sleep_forever()
    raise AssertionError


async def wrong_actor(scope: Scope) -> Any:
    return "ada"


ACTOR_FUNCTIONS: list[tuple[Callable[[Scope], Any | Awaitable[Any]], str | None]] = [
    (lambda scope: User("ada"), None),
    (async_actor, None),
    (raising_actor, "internal_error"),
    (raising_at_once, "internal_error"),
    (slow_actor, "policy_timeout"),
    (wrong_actor, "internal_error"),
    (lambda scope: "ada", "internal_error"),
    (lambda scope: None, "internal_error"),
    (lambda scope: User, "internal_error"),
]


@pytest.mark.parametrize(("function", "reason"), ACTOR_FUNCTIONS)
async def test_actor_functions(function: Any, reason: str | None) -> None:
    ran = Ran()
    limits = Limits(deadline=0.05) if reason == "policy_timeout" else PATIENT
    app = example(ran, settings=Settings(limits=limits), actor=function)
    with events() as found:
        await Call(http_scope("/good")).to(app)
    assert [event["reason"] for event in found] == ([] if reason is None else [reason])
    assert "t0p-secret" not in str(found)  # O4
    assert ran.names == ([] if reason else ["good"])


async def test_nobody_is_asked_who_it_is_for_an_undeclared_route() -> None:
    assert await reason_for(example(Ran(), actor=raising_at_once), http_scope("/undeclared")) == "undeclared_route"


# -- resolvers


GOOD = Requirement.parse("db.read", resource="sql_query:good")
BAD = Requirement.parse("db.read", resource="sql_query:bad")


async def async_resolver(scope: Scope) -> Requirement:
    return GOOD


def raising_resolver(scope: Scope) -> Requirement:
    raise LookupError


@pytest.mark.parametrize(
    ("resolver", "reason"),
    [
        (lambda scope: GOOD, None),
        (lambda scope: (GOOD, GOOD), None),
        (lambda scope: [GOOD, BAD], "not_in_allowlist"),
        (lambda scope: PUBLIC, None),
        (lambda scope: None, "undeclared_route"),
        (lambda scope: (), "undeclared_route"),
        (lambda scope: [], "undeclared_route"),
        (lambda scope: True, "internal_error"),
        (lambda scope: "db.read", "internal_error"),
        (lambda scope: ["db.read"], "internal_error"),
        (lambda scope: (PUBLIC,), "internal_error"),
        (raising_resolver, "internal_error"),
        (async_resolver, "internal_error"),
    ],
)
async def test_resolvers(resolver: Any, reason: str | None) -> None:
    ran = Ran()
    app = gated([Route("/", ran.endpoint("it"))], resolver=resolver)
    assert await reason_for(app, http_scope()) == reason
    assert ran.names == ([] if reason else ["it"])


async def test_a_resolver_may_use_path_parameters_of_the_scope() -> None:
    checker = Recording()
    requirement = Requirement.parse("db.read", resource="sql_query:{name}")
    app = gated([Route("/", plain)], checker, resolver=lambda scope: requirement)
    assert await reason_for(app, http_scope(path_params={"name": "good"})) is None
    assert await reason_for(app, http_scope()) == "internal_error"
    assert checker.questions == [("db.read", "good")]


async def test_a_parameter_that_the_route_does_not_have() -> None:
    ran = Ran()
    assert (
        await reason_for(gated([Route("/{nam}", read("{name}")(ran.endpoint("it")))]), http_scope("/x"))
        == "internal_error"
    )
    assert ran.names == []


# -- the body


def body_app(ran: Ran, checker: Any, limit: int = 100) -> Any:
    settings = Settings(body_bytes=limit, limits=PATIENT, expose_reasons=True)
    endpoint = read("good", args_hash="body")(read("other")(ran.endpoint("body")))
    return gated([Route("/", endpoint, methods=["POST"])], checker, settings)


def chunks(*parts: bytes) -> list[dict[str, Any]]:
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts)} for number, part in enumerate(parts, 1)
    ]


@pytest.mark.parametrize(
    "parts", [[b""], [b"hello"], [b"he", b"", b"llo"], [b"x" * 100], [bytes([n]) for n in range(100)]]
)
async def test_a_body_is_hashed_where_declared_and_still_reaches_the_application(parts: list[bytes]) -> None:
    ran, checker = Ran(), Recording()
    call = await Call(http_scope(method="POST"), chunks(*parts)).to(body_app(ran, checker))
    digests = {question.resource.id: question.args_hash for question, _ in checker.asked if question.resource}
    assert digests == {"good": hashlib.sha256(b"".join(parts)).hexdigest(), "other": None}
    assert call.json["body"] == b"".join(parts).decode("latin-1")


async def test_after_the_body_the_application_hears_of_the_disconnect() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    requirement = Requirement.parse("db.read", resource="sql_query:good", args_hash="body")
    gate = CapabilityMiddleware(app, settings=SETTINGS, checker=make_checker(), resolver=lambda scope: requirement)
    await Call(http_scope(method="POST"), chunks(b"a", b"b")).to(gate)
    assert heard == ["http.request", "http.disconnect"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (chunks(b"x" * 101), "malformed_input"),
        (chunks(b"x" * 60, b"x" * 41), "malformed_input"),
        ([{"type": "http.disconnect"}], "malformed_input"),
        ([*chunks(b"x", b"y")[:1], {"type": "http.disconnect"}], "malformed_input"),
        ([{"type": "http.request", "body": None}], "internal_error"),
        ([{}], "internal_error"),
    ],
)
async def test_bodies_that_are_denied(messages: list[dict[str, Any]], reason: str) -> None:
    ran, checker = Ran(), Recording()
    assert await reason_for(body_app(ran, checker), http_scope(method="POST"), messages=messages) == reason
    assert (ran.names, checker.asked) == ([], [])


async def test_a_body_that_never_comes_is_denied_at_the_deadline() -> None:
    app = gated(
        [Route("/", read("good", args_hash="body")(Ran().endpoint("body")))],
        None,
        Settings(limits=Limits(deadline=0.03)),
    )
    assert await reason_for(app, http_scope(), messages=[], hangs=True) == "policy_timeout"


async def test_a_websocket_has_no_body() -> None:
    from starlette.routing import WebSocketRoute

    ran = Ran()
    app = gated([WebSocketRoute("/", read("good", args_hash="body")(ran.websocket("ws")))])
    assert await reason_for(app, websocket_scope("/")) == "malformed_input"
    assert ran.names == []


async def test_a_body_is_not_read_unless_declared() -> None:
    received = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(receive)

    gate = CapabilityMiddleware(app, settings=SETTINGS, checker=make_checker(), resolver=lambda scope: GOOD)
    call = Call(http_scope(method="POST"))
    await call.to(gate)
    assert call.received == 0
    assert received == [call.receive]


# -- the object


def test_a_gate_is_not_copied() -> None:  # P11
    gate = CapabilityMiddleware(plain, settings=SETTINGS, checker=make_checker())
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            copying(gate)
        assert "CapabilityMiddleware" in str(caught.value)


def test_the_checker_type_is_the_real_one() -> None:
    assert type(make_checker()) is LocalPolicyChecker
