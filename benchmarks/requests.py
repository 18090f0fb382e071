"""What a gate adds to a request: a Starlette application called as raw ASGI, without a server or a client."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.authentication import requires as starlette_requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capgate import CapabilityMiddleware, Settings, requires

from .checks import checkers
from .questions import ACTION, KIND, entry
from .report import Case, Row, ratio
from .targets import Target
from .timing import Contender, differences, interleave, summarize

#: Middleware and check together add at most so many times what Starlette's AuthenticationMiddleware with requires adds.
STARLETTE = 2.0
HEADER_PAIR, CONSTANT_PAIR = "Starlette's pair, user from a header", "Starlette's pair, constant user"
BARE, NOOP = "bare application", "middleware that does nothing"
#: Entries of the policy document.
SIZE = 100

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Variant:
    """One kind of route: its path, what is declared on it, and who is asking as the scope says."""

    name: str
    path: str
    resource: str
    user: SimpleUser | None

    def scope(self, number: int) -> Scope:
        """The scope of one request, new in every part that an application may write to."""
        path = self.path.replace("{name}", entry(number % SIZE))
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"user-agent", b"bench"), (b"x-user", b"user_000001")],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8_000),
            "state": {},
        }
        if self.user is not None:
            scope["user"] = self.user
        return scope


#: The least that a gate has to do, and the most of what is usual.
VARIANTS = (
    Variant("fixed resource, nobody known", "/queries", f"{KIND}:{entry(1)}", None),
    Variant("path parameter, known user", "/queries/{name}", KIND + ":{name}", SimpleUser("user_000001")),
)


class _Nothing:
    """The least that a middleware can be."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Constant(AuthenticationBackend):
    """The least that a backend can be: it looks at nothing."""

    found = AuthCredentials(["authenticated"]), SimpleUser("user_000001")

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        return self.found


class _Header(AuthenticationBackend):
    """The least that a backend can be of use with: the user is who a header says."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        user = conn.headers.get("x-user")
        return None if user is None else (AuthCredentials(["authenticated"]), SimpleUser(user))


def _endpoint() -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(b"ok")

    return endpoint


async def run(rounds: int, seed: int) -> Case:
    """Each variant in one interleaving; what a middleware adds is its batch minus the bare one of the same round."""
    case = Case("requests")
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(checkers(SIZE))
        for variant in VARIANTS:
            apps = _others(variant)
            for name, checker in own.items():
                endpoint = requires(ACTION, resource=variant.resource)(_endpoint())
                gate = Middleware(CapabilityMiddleware, settings=Settings(service="bench"), checker=checker)
                apps[_gated(name)] = _application(variant, endpoint, gate)
            for name, app in apps.items():
                await _require_status(name, app, variant, 200)
            case.rows += await _time(variant, apps, rounds, seed)
            case.targets += _targets(case, variant, own)
    return case


def _gated(checker: str) -> str:
    return f"CapabilityMiddleware, {checker}"


def _others(variant: Variant) -> dict[str, Starlette]:
    apps = {
        BARE: _application(variant, _endpoint()),
        NOOP: _application(variant, _endpoint(), Middleware(_Nothing)),
    }
    for name, backend in ((HEADER_PAIR, _Header()), (CONSTANT_PAIR, _Constant())):
        guarded = starlette_requires("authenticated")(_endpoint())
        apps[name] = _application(variant, guarded, Middleware(AuthenticationMiddleware, backend=backend))
    return apps


def _application(variant: Variant, endpoint: Endpoint, *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route(variant.path, endpoint, methods=["POST"])], middleware=middleware)


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    pass


async def _require_status(name: str, app: ASGIApp, variant: Variant, expected: int) -> None:
    """Send one request, which also starts what starts at the first one."""
    statuses = []

    async def record(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(variant.scope(0), receive, record)
    if statuses != [expected]:
        raise RuntimeError(f"{name} answers {statuses} to {variant.name}, expected was {expected}")


async def _time(variant: Variant, apps: dict[str, Starlette], rounds: int, seed: int) -> list[Row]:
    contenders = [_contender(name, app, variant) for name, app in apps.items()]
    found = await interleave(contenders, rounds=rounds, seed=seed)
    table, rows = f"One request, {variant.name}", []
    for name, samples in found.items():
        rows.append(Row(name, table, "in all", samples.summary()))
        if name != BARE:
            added = summarize(differences(samples, found[BARE]), samples.calls)
            rows.append(Row(name, table, "added to bare", added))
    return rows


def _contender(name: str, app: Starlette, variant: Variant) -> Contender:
    def scopes(n: int) -> Sequence[Scope]:
        return [variant.scope(number) for number in range(n)]

    return Contender(name, lambda scope: app(scope, receive, send), scopes, awaits=True)


def _targets(case: Case, variant: Variant, checkers: Iterable[str]) -> Iterator[Target]:
    def added(name: str) -> float | None:
        return case.median(name, f"One request, {variant.name}", "added to bare")

    for pair in (HEADER_PAIR, CONSTANT_PAIR):
        for checker in checkers:
            value = ratio(added(_gated(checker)), added(pair))
            yield Target(f"CapabilityMiddleware, {checker}, {variant.name}, to {pair}", value, STARLETTE)
