"""Applications that are put together wrongly, each in one way, as people did; and one in which nothing is wrong.

Each is a function that makes the application, in a folder of its own with :data:`FILES`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.routing import APIRoute as Framework
from fastapi.staticfiles import StaticFiles
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate import CapabilityMiddleware, LocalPolicyChecker, RuntimePolicy, Settings, User, build_policy, requires
from capgate.artifact.load import WasmArtifact
from capgate.store import Manifest
from capgate.store.signing import format_signatures

from ..support.keys import KEYS

POLICY: Final = """
name = "orders"
sql = [{ name = "list_orders", operation = "select" }]
tools = "any"

[[rules]]
effect = "allow"
actions = ["db.write"]
actors = ["user:ada"]
resources = ["sql_query:delete_orders"]
"""
#: What is in the folder of each.
FILES: Final[dict[str, bytes]] = {
    "policy.toml": POLICY.encode(),
    "section.toml": b'name = "orders"\nsqll = ["list_orders"]\n',
    "action.toml": POLICY.replace("db.write", "db.wriet").encode(),
    "host.toml": b'[[rules]]\neffect = "deny"\nactions = ["http.outbound"]\nresources = ["host:https://x"]\n',
    "policy.wasm": build_policy({"name": "orders", "sql": ["list_orders"]}),
    "component.wasm": b"\0asm\x0d\0\x01\0",
}

SETTINGS: Final[dict[str, Any]] = {"policy": "policy.toml"}


def application(*, gate: bool = True, **settings: Any) -> FastAPI:
    """Make the application in which nothing is wrong, but for what a case adds."""
    app = FastAPI(openapi_url=None)
    if gate:
        app.add_middleware(CapabilityMiddleware, settings=Settings(**{**SETTINGS, **settings}))

    @app.get("/orders")
    @requires("db.read", resource="sql_query:list_orders")
    async def list_orders() -> list[str]:
        return ["tea"]

    @app.delete("/orders")
    @requires("db.write", resource="sql_query:delete_orders")
    async def delete_orders() -> None: ...

    @app.get("/tools/{number}")
    @requires("tool.inspect", resource="tool:{number}")
    async def inspect(number: int) -> int:
        return number

    return app


def healthy() -> FastAPI:
    """Everything that a case gets wrong, done rightly."""
    app = FastAPI(redoc_url=None)
    pages = ("/docs", "/docs/oauth2-redirect", "/openapi.json", "/healthz", "/static")
    app.add_middleware(CapabilityMiddleware, settings=Settings(policy="policy.toml", public=pages))
    app.add_middleware(AuthenticationMiddleware, backend=backend(Named))
    app.add_middleware(GZipMiddleware)
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])
    app.mount("/static", StaticFiles(directory="."))
    app.include_router(application(gate=False).router)

    @app.get("/healthz")
    async def health() -> str:
        return "ok"

    @app.websocket("/live")
    @requires("db.read", resource="sql_query:list_orders")
    async def live(socket: WebSocket) -> None: ...

    return app


# -- who asks


class Named(BaseUser):
    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def identity(self) -> str:
        return self.name


class Nameless:  # G-14
    is_authenticated = True

    def __init__(self, id: str) -> None:
        self.id = id
        self.email = f"{id}@shop.example"


class Unsaid(BaseUser):
    """Has a name, and does not say whether somebody is logged in."""

    @property
    def display_name(self) -> str:
        return "ada"


def backend(user: Callable[[str], Any]) -> AuthenticationBackend:
    class Said(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> Any:
            return AuthCredentials(), user("ada")

    Said.authenticate.__annotations__["return"] = tuple[AuthCredentials, user]  # type: ignore[valid-type]
    return Said()


class Refusing(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Named]:
        raise AuthenticationError("not logged in")


def users_without_a_name() -> FastAPI:
    app = application()
    app.add_middleware(AuthenticationMiddleware, backend=backend(Nameless))
    return app


class ByCode(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection):  # type: ignore[no-untyped-def]
        return AuthCredentials(), Nameless("ada")


def users_without_a_name_in_unannotated_code() -> FastAPI:
    app = application()
    app.add_middleware(AuthenticationMiddleware, backend=ByCode())
    return app


class ByUnsaid(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Unsaid]:
        return AuthCredentials(), Unsaid()


def users_that_do_not_say_whether_they_are_logged_in() -> FastAPI:
    app = application()
    app.add_middleware(AuthenticationMiddleware, backend=ByUnsaid())
    return app


def actor_as_text(scope: Scope) -> str:
    return "ada"


def an_actor_that_is_text() -> FastAPI:
    app = application(gate=False)
    app.add_middleware(CapabilityMiddleware, settings=Settings(**SETTINGS), actor=actor_as_text)  # type: ignore[arg-type]
    return app


# -- order


def cors_inside() -> FastAPI:  # G-9
    app = application(gate=False)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(CapabilityMiddleware, settings=Settings(**SETTINGS))
    return app


def authentication_inside() -> FastAPI:  # G-9
    app = application(gate=False)
    app.add_middleware(AuthenticationMiddleware, backend=Refusing())
    app.add_middleware(CapabilityMiddleware, settings=Settings(**SETTINGS))
    return app


class Layer:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class MethodOverride(Layer):
    """Changes the method."""


class ResponseCache(Layer):
    """Keeps answers."""


def method_override_inside() -> FastAPI:  # G-1
    app = application(gate=False)
    app.add_middleware(MethodOverride)
    app.add_middleware(CapabilityMiddleware, settings=Settings(**SETTINGS))
    return app


def middleware_inside_of_a_mount() -> FastAPI:  # G-1
    app = application()
    inner = application(gate=False)
    inner.add_middleware(MethodOverride)
    app.mount("/v1", inner)
    return app


def a_cache_outside() -> FastAPI:  # G-3
    app = application()
    app.add_middleware(ResponseCache)
    return app


def a_function_outside() -> FastAPI:
    """Nothing is wrong, though what is outermost does not show what it is around."""

    def around(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

        return call

    app = application()
    app.add_middleware(around)
    return app


def no_gate() -> FastAPI:  # G-16
    return application(gate=False)


def a_gate_in_a_mount_alone() -> FastAPI:  # G-16
    app = application(gate=False)
    app.mount("/v1", application())
    return app


def a_middleware_that_cannot_be_made() -> FastAPI:
    app = application(gate=False)
    app.add_middleware(CapabilityMiddleware, public=["/healthz"])  # type: ignore[call-arg]
    return app


# -- settings and policies


def no_policy() -> FastAPI:
    return application(policy=None)


def a_missing_policy() -> FastAPI:  # G-7
    return application(policy="absent.toml")


def a_mistyped_section() -> FastAPI:  # G-7
    return application(policy="section.toml")


def a_misspelt_action_in_the_policy() -> FastAPI:  # P-4
    return application(policy="action.toml")


def a_resource_that_is_never_asked() -> FastAPI:  # P-5
    return application(policy="host.toml")


def a_component() -> FastAPI:  # P-14
    return application(policy=None, artifact="component.wasm")


def another_module_than_the_pinned() -> FastAPI:
    return application(policy=None, artifact="policy.wasm", artifact_sha256="0" * 64)


def an_unpinned_module() -> FastAPI:  # S-11
    return application(policy=None, artifact="policy.wasm")


def an_expired_policy() -> FastAPI:  # S-1
    now = datetime.now(timezone.utc).replace(microsecond=0)
    data = FILES["policy.wasm"]
    times: dict[str, Any] = {"created": now - timedelta(days=2), "expires": now - timedelta(days=1)}
    manifest = Manifest.describing(
        WasmArtifact.from_bytes(data), version=1, name="orders", label="", **times
    ).to_bytes()
    Path("policy.wasm.manifest.json").write_bytes(manifest)
    Path("policy.wasm.signature.json").write_bytes(format_signatures([KEYS[0].sign(manifest)]))
    return application(policy=None, artifact="policy.wasm", trusted_keys=(KEYS[0].public.line,))


def an_unsigned_policy() -> FastAPI:
    return application(policy=None, artifact="policy.wasm", trusted_keys=(KEYS[0].public.line,))


def two_policies() -> FastAPI:  # G-16
    app = application(gate=False)
    checker = LocalPolicyChecker(RuntimePolicy.from_document({"sql": "any"}))
    app.add_middleware(CapabilityMiddleware, settings=Settings(**SETTINGS), checker=checker)
    return app


def an_unknown_variable() -> FastAPI:  # P-18; CAPGATE_POLCY is set
    app = application(gate=False)
    app.add_middleware(CapabilityMiddleware)
    return app


def only_monitored() -> FastAPI:
    return application(enforce="monitor")


def a_contract_that_is_not_there() -> FastAPI:
    return application(contract="contract.json")


# -- routes


def strict_with_an_undeclared_route() -> FastAPI:  # G-7
    app = application(strict=True)
    app.add_api_route("/reports/{name}", endpoint())
    return app


def endpoint() -> Callable[[], Any]:
    """Make an endpoint that declares nothing."""

    async def answer() -> str:
        return "ran"

    return answer


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("")


def docs_pages() -> FastAPI:
    app = FastAPI(redoc_url=None, docs_url=None)
    app.add_middleware(CapabilityMiddleware, settings=Settings(**SETTINGS))
    app.include_router(application(gate=False).router)
    return app


def a_health_check() -> FastAPI:
    app = application()
    app.add_api_route("/internal/healthz", endpoint())
    return app


def a_websocket() -> FastAPI:  # G-15
    app = application()

    @app.websocket("/live/{room}")
    async def live(room: str, socket: WebSocket) -> None: ...

    return app


def a_parameter_that_is_not_in_the_path() -> FastAPI:  # G-17
    app = application()

    @app.get("/items/{item_id}")
    @requires("tool.inspect", resource="tool:{id}")
    async def read_item(item_id: str) -> None: ...

    return app


def a_parameter_without_a_text() -> FastAPI:  # P-3
    app = application()

    @app.get("/items/{item}")
    @requires("tool.inspect", resource="tool:{item}")
    async def read_item(item: complex) -> None: ...

    return app


class APIRoute(Framework):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope)


def a_route_that_matches_in_its_own_way() -> FastAPI:
    app = application()
    router = APIRouter(route_class=APIRoute)
    router.add_api_route("/own", requires("tool.inspect", resource="tool:x")(endpoint()))
    app.include_router(router)
    return app


def a_misspelt_action() -> FastAPI:
    app = application()
    app.add_api_route("/x", requires("db.raed", resource="sql_query:x")(endpoint()))
    return app


def a_misspelt_resource() -> FastAPI:  # P-5
    app = application()
    app.add_api_route("/x", requires("http.outbound", resource="host:https://shop.example")(endpoint()))
    return app


def a_query_that_the_policy_does_not_know() -> FastAPI:
    app = application()
    app.add_api_route("/x", requires("db.read", resource="sql_query:list_order")(endpoint()))
    return app


# -- public


def a_misspelt_public_route() -> FastAPI:  # P-17
    app = application(public=["/helthz"])
    app.add_api_route("/healthz", endpoint())
    return app


def a_public_route_that_declares() -> FastAPI:
    return application(public=["/orders"])


def a_public_mount_of_routes() -> Starlette:  # P-17
    app = Starlette(routes=[Mount("/static", routes=[Route("/a", plain)])])
    app.add_middleware(CapabilityMiddleware, settings=Settings(policy="policy.toml", public=("/static",)))
    return app


def a_public_route_with_its_method() -> FastAPI:  # P-17
    return application(public=["GET /healthz"])


def user_of(scope: Scope) -> User:
    return User("ada")


def an_actor_by_a_function() -> FastAPI:
    """Nothing is wrong."""
    app = application(gate=False)
    app.add_middleware(CapabilityMiddleware, settings=Settings(**SETTINGS), actor=user_of)
    return app
