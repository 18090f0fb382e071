"""The surface of the gate, row by row: what servers put into a scope, and what passes untouched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.enforcement.capabilities import Capabilities
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.seat import PUBLIC
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope, without
from ..support.gates import (
    SETTINGS,
    Ran,
    Recording,
    events,
    example,
    gated,
    make_checker,
    plain,
    read,
)
from .reasons import QUIET, reason_for

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
    ["/", "//good", "../good", "./good", "good/", "good;a=b", "goo\u212a", "good\u200b", "go\u006f\u0301d"],
)
async def test_a_path_parameter_reaches_the_policy_verbatim(rest: str) -> None:  # S6, S7
    ran, checker = Ran(), Recording()
    app = example(ran, checker)
    assert await reason_for(app, http_scope(f"/by-name/{rest}")) in ("not_in_allowlist", "missing_resource")
    assert checker.questions == [("db.read", rest)]
    assert ran.names == []


@pytest.mark.parametrize(("rest", "id", "ran"), [("", None, []), ("GOOD", "good", ["by_name"])])
async def test_a_path_parameter_is_spelled_as_its_kind(rest: str, id: str | None, ran: list[str]) -> None:
    names, checker = Ran(), Recording()
    await Call(http_scope(f"/by-name/{rest}")).to(example(names, checker))
    assert checker.questions == [("db.read", id)]
    assert len(names.names) == len(ran)


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

    class Around:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)
            assert isinstance(scope["state"]["capabilities"], Capabilities)

    gate = CapabilityMiddleware(Around(example(Ran()).router), settings=SETTINGS, checker=make_checker())
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
