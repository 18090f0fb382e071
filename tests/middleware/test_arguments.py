"""Arguments of a question: where a declaration finds them in a request, and what is denied since it is not certain."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from capgate.errors import ConfigError, MalformedInput
from capgate.fastapi import Requires
from capgate.limits import Limits
from capgate.middleware.gathering import AT_ONCE
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import Resource
from capgate.routes.arguments import parse_arguments, read_arguments, read_document
from capgate.routes.declare import requires
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, Ran, Recording, events, gated, make_checker, read
from ..support.tools import examples

USUAL = Settings(limits=PATIENT, expose_reasons=True)
ARGS = {
    **{
        "amount": "json:/amount",
        "first": "json:/items/0",
        "tags": "json:/tags",
        "odd": "json:/a~1b/~0c",
        "same": "json:/",
    },
    **{"page": "query:page", "id": "path:id", "tenant": "header:X-Tenant"},
}


def post(body: bytes = b"", path: str = "/7", query: bytes = b"", **headers: str) -> Call:
    given_headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
    scope = http_scope(path, "POST", given_headers, query_string=query)
    halves = (body[: len(body) // 2], body[len(body) // 2 :])
    messages = [{"type": "http.request", "body": half, "more_body": half is halves[0]} for half in halves]
    return Call(scope, [{**messages[0], "more_body": True}, {**messages[1], "more_body": False}])


def application(checker: Any, args: dict[str, str] = ARGS, settings: Settings = USUAL, **options: Any) -> Any:
    endpoint = read("good", args=args, **options)(Ran().endpoint("it"))
    return gated([Route("/{id}", endpoint, methods=["POST"])], checker, settings)


async def args_of(call: Call, args: dict[str, str] = ARGS) -> Any:
    """The arguments that were asked about; the reason where nothing was."""
    checker = Recording()
    await call.to(application(checker, args))
    if call.status == 200:
        (question,) = [question for question, _ in checker.asked]
        assert (question.args_hash, question.context) == (None, {})
        return question.args
    assert checker.asked == []
    return call.json["reason"]


BODY = {"amount": 250, "items": ["tea", 2], "tags": ["eu", "b2b"], "a/b": {"~c": 1.5}, "": True, "more": None}


async def test_each_place_and_the_body_is_there_for_the_endpoint() -> None:
    body = json.dumps(BODY).encode()
    checker = Recording()
    call = await post(body, query=b"page=2&other=1", x_tenant="acme").to(application(checker))
    assert (call.status, call.json["body"]) == (200, body.decode())
    assert checker.asked[0][0].args == {
        **{"amount": 250, "first": "tea", "tags": ["eu", "b2b"], "odd": 1.5, "same": True},
        **{"page": "2", "id": "7", "tenant": "acme"},
    }


@pytest.mark.parametrize(
    ("body", "pointer", "value"),
    [
        (b"250", "", 250),
        (b'"text"', "", "text"),
        (b'{"a": 1.0}', "/a", 1.0),
        (b'{"a": 1e3}', "/a", 1000.0),
        (b'{"a": -0}', "/a", 0),
        (b'{"a": false}', "/a", False),
        (b'{"a": []}', "/a", []),
        (b'{"a": {"b": {"c": 3}}}', "/a/b/c", 3),
        (b"[[1, 2], [3, 4]]", "/1/0", 3),
        (b'{"0": "zero"}', "/0", "zero"),
        (b'{"a%20b": 1, "a b": 2}', "/a b", 2),
        (b'{"~1": 1, "/": 2}', "/~01", 1),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_pointers(body: bytes, pointer: str, value: Any) -> None:
    """RFC 6901, sections 4 and 5."""
    args = await args_of(post(body), {"it": f"json:{pointer}"})
    assert (args, type(args["it"])) == ({"it": value}, type(value))


ABSENT: dict[str, tuple[bytes, str]] = {
    "no body": (b"", "/a"),
    "no JSON": (b"a=1", "/a"),
    "JSON that breaks off": (b'{"a": 1', "/a"),
    "no member": (b'{"b": 1}', "/a"),
    "null": (b'{"a": null}', "/a"),
    "below null": (b'{"a": null}', "/a/b"),
    "below text": (b'{"a": "b"}', "/a/0"),
    "beyond the end": (b"[1]", "/1"),
    "after the end": (b"[1]", "/-"),
    "a leading zero": (b"[1, 2]", "/01"),
    "a sign": (b"[1, 2]", "/+1"),
    "another digit": (b"[1, 2]", "/\u0661"),
    "a name in a list": (b"[1]", "/a"),
    "a huge number": (b"[1]", "/99999999999999999999"),
}


@pytest.mark.parametrize("name", ABSENT)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_not_there_is_absent(name: str) -> None:
    body, pointer = ABSENT[name]
    assert await args_of(post(body), {"it": f"json:{pointer}"}) == {}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_else_is_not_there() -> None:
    assert await args_of(post()) == {"id": "7"}
    assert await args_of(post(query=b"page="), {"it": "query:page"}) == {"it": ""}
    assert await args_of(post(query=b"page=%C3%A9+b"), {"it": "query:page"}) == {"it": "\u00e9 b"}


UNCERTAIN: dict[str, Call] = {
    "a key twice": post(b'{"amount": 1, "amount": 1000}'),
    "a key twice elsewhere": post(b'{"amount": 1, "b": {"c": 1, "c": 2}}'),
    "NaN": post(b'{"amount": NaN}'),
    "beyond a double": post(b'{"amount": 1e999}'),
    "another encoding": post('{"amount": 1}'.encode("utf-16")),
    "a byte order mark": post(b'\xef\xbb\xbf{"amount": 1}'),
    "no UTF-8": post(b'{"amount": 1, "b": "\xed\xa0\x80"}'),
    "nested too deep": post(b'{"amount": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a parameter twice": post(query=b"page=1&page=2"),
    "a parameter twice, the same": post(query=b"page=1&p%61ge=1"),
    "a header twice": Call(http_scope("/7", "POST", [("x-tenant", "acme"), ("X-Tenant", "evil")])),
}


@pytest.mark.parametrize("name", UNCERTAIN)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_readers_could_read_differently_is_denied(name: str) -> None:
    assert await args_of(UNCERTAIN[name]) == "malformed_input"


@pytest.mark.parametrize("value", [b"{}", b'{"b": 1}', b"[1]", b'["a", null]', b"18446744073709551616", b'"\\ud800"'])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_value_that_is_no_fact_is_a_malformed_question(value: bytes) -> None:
    app = application(make_checker())
    call = await post(b'{"amount": %s}' % value).to(app)
    assert (call.status, call.json["reason"]) == (403, "malformed_input")


# -- bounds


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_bounds_of_a_body_hold() -> None:
    long = application(Recording(), settings=Settings(limits=PATIENT, body_bytes=100, expose_reasons=True))
    call = await post(b'{"amount": 1, "b": "%s"}' % (b"x" * 100)).to(long)
    assert (call.status, call.json["reason"]) == (403, "malformed_input")
    slow = application(Recording(), settings=Settings(limits=Limits(body_idle_seconds=0.05), expose_reasons=True))
    call = await Call(http_scope("/7", "POST"), [{"type": "http.request", "more_body": True}], hangs=True).to(slow)
    assert (call.status, call.json["reason"]) == (403, "body_timeout")


async def test_much_json_is_read_beside_the_event_loop() -> None:
    padding = ["x" * 100] * 2 * (AT_ONCE // 100)
    assert await args_of(post(json.dumps({"amount": 7, "more": padding}).encode()), {"it": "json:/amount"}) == {"it": 7}
    assert await args_of(post(json.dumps(padding)[:-1].encode()), {"it": "json:/amount"}) == {}
    twice = b'{"amount": 1, "b": "%s", "amount": 2}' % (b"x" * 2 * AT_ONCE)
    assert await args_of(post(twice), {"it": "json:/amount"}) == "malformed_input"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_body_is_read_where_none_is_asked_about() -> None:
    checker = Recording()
    app = gated([Mount("/{id}", read("good", args={"id": "path:id"})(PlainTextResponse("it")))], checker, USUAL)
    call = await Call(http_scope("/7/", "POST"), []).to(app)
    assert (call.status, call.received, checker.asked[0][0].args) == (200, 0, {"id": "7"})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_hash_facts_and_arguments_together() -> None:
    async def load(request: Any) -> dict[str, Any]:
        await anyio.sleep(0.001)
        return {"owner": "ada"}

    checker = Recording()
    call = await post(b'{"amount": 3}').to(application(checker, args_hash="body", facts=load))
    question = checker.asked[0][0]
    assert (call.status, question.args, question.resource) == (
        *(200, {"amount": 3, "id": "7"}),
        Resource("sql_query", "good", {"owner": "ada"}),
    )
    assert question.args_hash is not None
    assert len(question.args_hash) == 64


# -- where else


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_mounts_and_websockets() -> None:
    checker = Recording()
    rest = read("good", args={"path": "path:path", "t": "path:t"})(Mount("/files/{t}", PlainTextResponse("it")))
    socket = read("good", args={"page": "query:page", "id": "path:id"})(Ran().websocket("ws"))
    body = read("good", args={"page": "json:/page"})(Ran().websocket("ws"))
    app = gated([rest, WebSocketRoute("/ws/{id}", socket), WebSocketRoute("/body", body)], checker, USUAL)
    await Call(http_scope("/files/x/a/b")).to(app)
    await Call(websocket_scope("/ws/7", query_string=b"page=2")).to(app)
    assert [question.args for question, _ in checker.asked] == [{"path": "a/b", "t": "x"}, {"page": "2", "id": "7"}]
    with events() as written:
        await Call(websocket_scope("/body")).to(app)
    assert [event["reason"] for event in written] == ["malformed_input"]


class Amount(BaseModel):
    amount: int


def fastapi_application(checker: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, checker=checker, settings=USUAL)
    args = {"n": "path:n", "amount": "json:/amount", "page": "query:page"}

    @app.post("/declared/{n}")
    @read("good", args=args)
    async def declared(n: int, amount: Amount, page: int = 0) -> list[int]:
        return [n, amount.amount, page]

    @app.post("/depends/{n}", dependencies=[Requires("db.read", resource="sql_query:good", args=args)])
    async def depends(n: int, amount: Amount, page: int = 0) -> list[int]:
        return [n, amount.amount, page]

    @app.get("/typed/{flag}/{id}/{x}")
    @read("{id}", args={"flag": "path:flag", "id": "path:id", "x": "path:x"})
    async def typed(flag: bool, id: UUID, x: float) -> str:
        return str(id)

    return app


@pytest.mark.parametrize("way", ["declared", "depends"])
def test_fastapi(way: str) -> None:
    checker = Recording()
    client = TestClient(fastapi_application(checker))
    assert client.post(f"/{way}/07?page=3", json={"amount": 250}).json() == [7, 250, 3]
    assert [question.args for question, _ in checker.asked] == [{"n": 7, "amount": 250, "page": "3"}]
    twice = client.post(
        f"/{way}/07", content=b'{"amount": 1, "amount": 2}', headers={"content-type": "application/json"}
    )
    assert (twice.status_code, twice.json()["reason"], len(checker.asked)) == (403, "malformed_input", 1)


def test_path_parameters_as_fastapi_converts_them() -> None:
    number = "0b8f6f0c-5e5e-4f43-9d0e-5b0a3c2b1a00"
    checker = Recording(make_checker("local", {"sql": [number]}))
    app = fastapi_application(checker)
    assert TestClient(app).get(f"/typed/yes/{number.upper()}/1e1").json() == number
    (question,) = [question for question, _ in checker.asked]
    assert (question.args, question.resource) == (
        {"flag": True, "id": number, "x": 10.0},
        Resource("sql_query", number),
    )


def test_the_openapi_document_shows_arguments() -> None:
    app = fastapi_application(Recording())
    with TestClient(app):
        paths = app.openapi()["paths"]
    for way in ("declared", "depends"):
        (shown,) = paths[f"/{way}/{{n}}"]["post"]["x-capabilities"]
        assert shown["args"] == {"n": "path:n", "amount": "json:/amount", "page": "query:page"}


# -- what is none


@pytest.mark.parametrize(
    ("setting", "args"),
    [
        ("args", ["amount"]),
        ("args", {"Amount": "json:/amount"}),
        ("args", {7: "json:/amount"}),
        ("args", dict.fromkeys((f"a{number}" for number in range(129)), "query:a")),
        ("args.amount", {"amount": "amount"}),
        ("args.amount", {"amount": "json:amount"}),
        ("args.amount", {"amount": "json:/a~2"}),
        ("args.amount", {"amount": "json:/a~"}),
        ("args.amount", {"amount": "query:"}),
        ("args.amount", {"amount": "path:a.b"}),
        ("args.amount", {"amount": "header:a b"}),
        ("args.amount", {"amount": "form:amount"}),
        ("args.amount", {"amount": 7}),
    ],
)
def test_declarations_that_are_none(setting: str, args: Any) -> None:
    declare: Callable[..., Any]
    for declare in (requires, Requires):
        with pytest.raises(ConfigError) as caught:
            declare("db.read", resource="sql_query:a", args=args)
        assert caught.value.setting == setting


def test_a_parameter_that_the_path_has_not_is_told_at_start_up(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = read("good", args={"n": "path:n"})(Ran().endpoint("it"))
    with TestClient(gated([Route("/{id}", endpoint)], None, USUAL)):
        pass
    assert any("'GET|HEAD /{id}'" in text and " n" in text for text in caplog.messages)
    with pytest.raises(ConfigError), TestClient(gated([Route("/{id}", endpoint)], None, Settings(strict=True))):
        pass


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


def pointers(value: Any, before: str = "") -> dict[str, Any]:
    """All that is in a document, by the pointers to it."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    out = {before: value}
    for name, inner in members:
        out |= pointers(inner, f"{before}/{str(name).replace('~', '~0').replace('/', '~1')}")
    return out


@pytest.mark.sampled
@settings(max_examples=examples(300), deadline=None)
@given(VALUES)
def test_each_value_of_a_document_is_found(document: Any) -> None:
    body = json.dumps(document).encode()
    for pointer, value in pointers(document).items():
        try:
            read_back = read_arguments(parse_arguments({"it": f"json:{pointer}"}), {}, {}, read_document(body))
        except MalformedInput:
            raise AssertionError(pointer) from None
        assert read_back == ({} if value is None else {"it": value})
        assert [type(given_value) for given_value in read_back.values()] == [type(value)] * len(read_back)
