"""FastAPI: declaring as a dependency, who is asking from another dependency, and the OpenAPI document."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Form, Header, Request, WebSocket

from capgate import CapabilityDenied
from capgate.errors import ConfigError
from capgate.fastapi import Gate, Requires
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ANONYMOUS, CompilerTool, Reason, Service, User
from capgate.routes.declare import requires
from capgate.routes.openapi import EXTENSION
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import KINDS, Recording, events, make_checker

SETTINGS = Settings(expose_reasons=True, limits=Limits(deadline=20.0))
RAN: list[str] = []


def application(checker: Any = None, settings: Settings = SETTINGS, **options: Any) -> FastAPI:
    RAN.clear()
    app = FastAPI(**options)
    app.add_middleware(CapabilityMiddleware, settings=settings, checker=checker or make_checker())
    return app


async def get(
    app: FastAPI, path: str, method: str = "GET", body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> Call:
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    return await Call(http_scope(path, method, headers), messages).to(app)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dependency_asks_before_the_endpoint(kind: str) -> None:
    async with make_checker(kind) as checker:
        app = application(checker)

        @app.get("/{name}", dependencies=[Requires("db.read", resource="sql_query:{name}")])
        async def endpoint(name: str) -> str:
            RAN.append(name)
            return name

        assert (await get(app, "/good")).status == 200
        with events() as found:
            call = await get(app, "/bad")
        assert (call.status, call.json["reason"]) == (403, Reason.NOT_IN_ALLOWLIST)
        assert [event["resource_id"] for event in found] == ["bad"]
        assert RAN == ["good"]


@pytest.mark.parametrize(
    ("value", "actor"),
    [
        (User("grace"), User("grace")),
        (Service("billing"), Service("billing")),
        (CompilerTool("codegen"), CompilerTool("codegen")),
        ("grace", User("grace")),
        (None, ANONYMOUS),
        (SimpleNamespace(username="grace"), User("grace")),
        (SimpleNamespace(identity="id-1", username="grace", is_authenticated=True), User("id-1")),
        (SimpleNamespace(username="grace", is_authenticated=False), ANONYMOUS),
    ],
)
async def test_who_is_asking_comes_from_another_dependency(value: Any, actor: Any) -> None:
    checker = Recording()
    app = application(checker)

    def current_user() -> Any:
        return value

    @app.get("/", dependencies=[Requires("db.read", resource="sql_query:good", actor=current_user)])
    async def endpoint() -> str:
        return "x"

    assert (await get(app, "/")).status == 200
    assert [input.actor for input, _ in checker.asked] == [actor]


@pytest.mark.parametrize("value", [5, "", b"grace", {"id": 1}, SimpleNamespace(), SimpleNamespace(username=5)])
async def test_who_is_not_known_for_certain_is_denied(value: Any) -> None:
    app = application()

    @app.get("/", dependencies=[Requires("db.read", resource="sql_query:good", actor=lambda: value)])
    async def endpoint() -> str:
        RAN.append("ran")
        return "x"

    with events() as found:
        call = await get(app, "/")
    assert call.status == 403
    assert [event["reason"] for event in found] == [Reason.INTERNAL_ERROR]
    assert RAN == []


async def test_a_dependency_of_a_dependency_that_refuses_is_not_asked_for() -> None:
    checker = Recording()
    app = application(checker)

    async def current_user(x_user: Annotated[str, Header()]) -> str:
        return x_user

    @app.get("/", dependencies=[Requires("db.read", resource="sql_query:good", actor=current_user)])
    async def endpoint() -> str:
        RAN.append("ran")
        return "x"

    assert (await get(app, "/")).status == 422
    assert checker.asked == []
    assert (await get(app, "/", headers=(("x-user", "grace"),))).status == 200
    assert [input.actor for input, _ in checker.asked] == [User("grace")]
    assert RAN == ["ran"]


async def test_dependencies_of_routers_and_applications() -> None:
    checker = Recording()
    app = application(checker, dependencies=[Requires("db.read", resource="sql_query:good")])
    router = APIRouter(dependencies=[Requires("db.read", resource="sql_query:other")])

    @router.get("/both")
    def both() -> str:
        return "x"

    @router.get("/three")
    @requires("db.read", resource="sql_query:bad")
    def three() -> str:
        RAN.append("three")
        return "x"

    app.include_router(router)
    assert (await get(app, "/both")).status == 200
    assert checker.questions == [("db.read", "good"), ("db.read", "other")]
    checker.asked.clear()
    assert (await get(app, "/three")).status == 403
    assert checker.questions == [("db.read", "bad")]
    assert RAN == []


async def test_as_a_parameter_and_with_the_gate() -> None:
    app = application()

    @app.get("/")
    async def endpoint(gate: Gate, _: Annotated[None, Requires("db.read", resource="sql_query:good")]) -> list[str]:
        return [type(one).__name__ for one in await gate.check_many([("db.read", "sql_query:good"), ("x.y", None)])]

    assert (await get(app, "/")).json == ["Allow", "Deny"]


async def test_the_body_is_hashed_and_still_there() -> None:
    checker = Recording()
    app = application(checker)

    @app.post("/", dependencies=[Requires("db.read", resource="sql_query:good", args_hash="body")])
    async def endpoint(value: dict[str, int], request: Request) -> int:
        assert await request.body() == b'{"a": 1}'
        return value["a"]

    call = await get(app, "/", "POST", b'{"a": 1}', (("content-type", "application/json"),))
    assert call.json == 1
    assert [input.args_hash for input, _ in checker.asked] == [hashlib.sha256(b'{"a": 1}').hexdigest()]


async def test_websockets() -> None:
    app = application()

    @app.websocket("/{name}", dependencies=[Requires("db.read", resource="sql_query:{name}")])
    async def endpoint(websocket: WebSocket, name: str) -> None:
        RAN.append(name)
        await websocket.accept()
        await websocket.close()

    assert [m["type"] for m in (await Call(websocket_scope("/bad")).to(app)).sent] == ["websocket.close"]
    assert [m["type"] for m in (await Call(websocket_scope("/good")).to(app)).sent] == [
        "websocket.accept",
        "websocket.close",
    ]
    assert RAN == ["good"]


@pytest.mark.parametrize("action", ["db.read", "compute.long"])  # of which one needs no resource
async def test_a_parameter_that_the_path_does_not_have_is_denied(action: str) -> None:
    app = application(Recording(make_checker(document={"sql": "any", "compute": "any"})))
    kind = {"db.read": "sql_query", "compute.long": "job"}[action]

    @app.get("/{name}", dependencies=[Requires(action, resource=f"{kind}:{{nam}}")])
    async def endpoint(name: str) -> None:
        RAN.append(name)

    with events() as found:
        call = await get(app, "/good")
    assert (call.status, call.json["reason"]) == (403, Reason.INTERNAL_ERROR)
    assert [event["decision_id"] for event in found] == [call.json["decision_id"]]
    assert RAN == []


HASHED = Requires("db.read", resource="sql_query:good", args_hash="body")
FORM = (("content-type", "application/x-www-form-urlencoded"),)


async def test_what_has_no_body_has_no_hash() -> None:
    checker = Recording()
    app = application(checker)

    @app.websocket("/", dependencies=[HASHED])
    async def endpoint(websocket: WebSocket) -> None:
        RAN.append("ran")

    assert [m["type"] for m in (await Call(websocket_scope("/")).to(app)).sent] == ["websocket.close"]
    assert (RAN, checker.asked) == ([], [])


async def test_a_body_that_was_consumed_has_no_hash() -> None:
    app = application()

    @app.post("/", dependencies=[HASHED])
    async def endpoint(field: Annotated[str, Form()]) -> None:
        RAN.append(field)

    with events() as found:
        call = await get(app, "/", "POST", b"field=x", FORM)
    assert (call.status, [event["reason"] for event in found], RAN) == (403, [Reason.INTERNAL_ERROR], [])


@pytest.mark.parametrize("read_before", [False, True])
async def test_a_body_is_read_up_to_the_limit(read_before: bool) -> None:  # S18
    app = application(settings=Settings(body_bytes=10, expose_reasons=True, limits=Limits(deadline=20.0)))

    @app.post("/before", dependencies=[HASHED])
    async def before(value: Annotated[str, Body()]) -> None:
        RAN.append(value)

    @app.post("/", dependencies=[HASHED])
    async def endpoint(request: Request) -> None:
        RAN.append((await request.body()).decode())

    path = "/before" if read_before else "/"
    chunks = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in (b'"12', b"3456789", b'0"')]
    scope = http_scope(path, "POST", (("content-type", "application/json"),))
    call = Call(scope, [*chunks, {"type": "http.request"}])
    with events() as found:
        await call.to(app)
    assert (call.status, [event["reason"] for event in found], RAN) == (403, [Reason.MALFORMED_INPUT], [])
    assert read_before or call.received == 3  # the rest was not read
    assert (await Call(scope, [chunks[0], {"type": "http.request", "body": b'3456"'}]).to(app)).status == 200
    (ran,) = RAN
    assert ran == ("123456" if read_before else '"123456"')


async def test_a_body_that_does_not_come_is_a_timeout() -> None:
    app = application(settings=Settings(expose_reasons=True, limits=Limits(body_seconds=0.01)))

    @app.post("/", dependencies=[HASHED])
    async def endpoint() -> None:
        RAN.append("ran")

    call = await Call(http_scope("/", "POST"), [], hangs=True).to(app)
    assert (call.status, call.json["reason"], RAN) == (403, Reason.BODY_TIMEOUT, [])


@pytest.mark.parametrize("included", [False, True])
@pytest.mark.parametrize("replace", ["nothing", "what asks", "what is around it", "who is asking"])
async def test_a_route_declares_no_dependency_that_is_replaced(replace: str, included: bool) -> None:
    def user() -> str:
        return "grace"

    asks = Requires("db.read", resource="sql_query:good", actor=user)

    def around(_: Annotated[None, asks]) -> str:
        return "real"

    checker = Recording()
    app = application(checker)
    router: Any = APIRouter() if included else app

    def endpoint(needed: Annotated[str, Depends(around)]) -> str:
        RAN.append("http")
        return needed

    async def socket(websocket: WebSocket, needed: Annotated[str, Depends(around)]) -> None:
        RAN.append("websocket")
        await websocket.accept()
        await websocket.close()

    for function in (around, endpoint, socket):  # whose annotations are text, and of names in here
        function.__annotations__ = get_annotations(function, locals())
    router.get("/")(endpoint)
    router.websocket("/ws")(socket)
    if included:
        app.include_router(router)
    replaced = {"what asks": asks.dependency, "what is around it": around, "who is asking": user}.get(replace)
    if replaced is not None:
        app.dependency_overrides[replaced] = lambda: "ada"
    await get(app, "/")
    await Call(websocket_scope("/ws")).to(app)
    asked = {"nothing": ["grace", "grace"], "who is asking": ["ada", "ada"]}.get(replace, [])
    assert [getattr(input.actor, "id", None) for input, _ in checker.asked] == asked
    assert len(RAN) == len(asked)


def get_annotations(function: Any, names: dict[str, Any]) -> dict[str, Any]:
    return {name: eval(text, {**globals(), **names}) for name, text in function.__annotations__.items()}


async def test_without_the_gate_a_dependency_denies() -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Requires("db.read", resource="sql_query:good")])
    async def endpoint() -> None:
        RAN.append("ran")

    RAN.clear()
    with pytest.raises(CapabilityDenied):
        await get(app, "/")
    assert RAN == []


async def test_a_dependency_elsewhere_opens_nothing_here() -> None:
    app = application()
    dependency = Requires("db.read", resource="sql_query:good")

    @app.get("/declared", dependencies=[dependency])
    async def declared() -> None: ...

    @app.get("/undeclared", dependencies=[Depends(lambda: None)])
    async def undeclared() -> None:
        RAN.append("ran")

    assert (await get(app, "/declared")).status == 200
    assert (await get(app, "/undeclared")).status == 403
    assert RAN == []


def test_mistakes_are_told_when_the_dependency_is_made() -> None:
    for arguments, setting in [
        (("no.such",), "action"),
        (("db.read", "host:x"), "resource"),
        (("db.read", None, "query"), "args_hash"),
        (("db.read", None, None, "grace"), "actor"),
    ]:
        with pytest.raises(ConfigError) as caught:
            Requires(*arguments[:1], **dict(zip(("resource", "args_hash", "actor"), arguments[1:], strict=False)))  # type: ignore[arg-type]
        assert caught.value.setting == setting


# -- OpenAPI


def shop(settings: Settings) -> FastAPI:
    app = application(settings=settings)
    router = APIRouter(prefix="/in")

    @app.put("/users/{name}/{rest:path}", dependencies=[Requires("db.write", resource="sql_query:{name}")])
    async def put(name: str, rest: str) -> None: ...

    @app.get("/declared")
    @requires("db.read", resource="sql_query:{{odd}}", args_hash="body")
    @requires("compute.long")
    async def declared() -> None: ...

    @router.get("/default")
    async def default() -> None: ...

    @app.get("/health")
    async def health() -> None: ...

    requires("db.read", resource="sql_query:good")(router)
    app.include_router(router)
    return app


async def test_the_openapi_document_shows_what_is_asked() -> None:
    app = shop(Settings(public=("/health", "/openapi.json"), limits=Limits(deadline=20.0)))
    for _ in range(2):
        paths = (await get(app, "/openapi.json")).json["paths"]
        assert {
            (path, method): operation.get(EXTENSION)
            for path, found in paths.items()
            for method, operation in found.items()
        } == {
            ("/users/{name}/{rest}", "put"): [{"action": "db.write", "resource": "sql_query:{name}"}],
            ("/declared", "get"): [
                {"action": "compute.long"},
                {"action": "db.read", "resource": "sql_query:{{odd}}", "argsHash": "body"},
            ],
            ("/in/default", "get"): [{"action": "db.read", "resource": "sql_query:good"}],
            ("/health", "get"): None,
        }
        denied = paths["/declared"]["get"]["responses"]["403"]
        assert list(denied["content"]) == ["application/problem+json"]
        assert "403" not in paths["/health"]["get"]["responses"]


async def test_the_openapi_document_says_how_to_log_in_where_clients_are_told() -> None:  # G-10
    public = ("/health", "/openapi.json")
    for challenge in ('Bearer realm="orders"', None):
        app = shop(Settings(public=public, www_authenticate=challenge, limits=Limits(deadline=20.0)))
        paths = (await get(app, "/openapi.json")).json["paths"]
        for path, method in (("/declared", "get"), ("/in/default", "get"), ("/users/{name}/{rest}", "put")):
            responses = paths[path][method]["responses"]
            if challenge is None:
                assert "401" not in responses
                continue
            assert responses["401"]["headers"]["WWW-Authenticate"]["example"] == challenge
            assert responses["401"]["content"] == responses["403"]["content"]
        assert "401" not in paths["/health"]["get"]["responses"]


async def test_what_the_application_says_of_its_401_stays() -> None:
    settings = Settings(public=("/openapi.json",), www_authenticate="Bearer", limits=Limits(deadline=20.0))
    app = application(settings=settings)
    header = {"description": "Ours", "schema": {"type": "string"}}
    said: dict[str, Any] = {"description": "Log in", "headers": {"WWW-Authenticate": header}}
    for path, given in (("/own", said), ("/elsewhere", {"$ref": "#/components/responses/Login"})):

        async def endpoint() -> None: ...

        own: dict[int | str, dict[str, Any]] = {401: given}
        app.get(path, dependencies=[Requires("db.read", resource="sql_query:good")], responses=own)(endpoint)

    paths = (await get(app, "/openapi.json")).json["paths"]
    shown = paths["/own"]["get"]["responses"]["401"]
    assert (shown["description"], shown["headers"]) == ("Log in", {"WWW-Authenticate": header})
    assert list(shown["content"]) == ["application/problem+json"]
    elsewhere = paths["/elsewhere"]["get"]["responses"]["401"]
    assert "$ref" in elsewhere
    assert "content" not in elsewhere


async def test_what_the_application_says_of_its_403_stays() -> None:
    app = application(settings=Settings(public=("/openapi.json",), limits=Limits(deadline=20.0)))
    own: dict[int | str, dict[str, Any]] = {403: {"description": "Not yours", "content": {"text/plain": {}}}}

    @app.get("/", dependencies=[Requires("db.read", resource="sql_query:good")], responses=own)
    async def endpoint() -> None: ...

    denied = (await get(app, "/openapi.json")).json["paths"]["/"]["get"]["responses"]["403"]
    assert (denied["description"], sorted(denied["content"])) == (
        "Not yours",
        ["application/problem+json", "text/plain"],
    )
    assert own == {403: {"description": "Not yours", "content": {"text/plain": {}}}}


async def test_the_openapi_document_is_left_alone_where_settings_say_so() -> None:
    app = shop(Settings(public=("/health", "/openapi.json"), openapi=False, limits=Limits(deadline=20.0)))
    paths = (await get(app, "/openapi.json")).json["paths"]
    assert not any(EXTENSION in operation for found in paths.values() for operation in found.values())


# -- strict


@pytest.mark.parametrize("strict", [False, True])
async def test_strict_refuses_to_start_where_a_route_is_undeclared(strict: bool) -> None:
    def build(*public: str) -> FastAPI:
        return shop(Settings(strict=strict, public=public, limits=Limits(deadline=20.0)))

    docs = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")
    open_one = await get(build("/health", *docs), "/health")
    assert open_one.status == 200
    with events() as found:
        call = await get(build("/health", *docs[:-1]), "/health")
    assert call.status == (403 if strict else 200)
    assert [event["reason"] for event in found] == [Reason.POLICY_UNAVAILABLE] * strict
    lifespan = Call(
        {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}},
        [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}],
    )
    with pytest.raises(ConfigError) if strict else nullcontext():
        await lifespan.to(build("/health"))
    first = lifespan.sent[0]
    assert first["type"] == ("lifespan.startup.failed" if strict else "lifespan.startup.complete")
    if strict:
        assert all(name in first["message"] for name in docs)
