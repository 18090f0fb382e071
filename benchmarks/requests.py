"""What a gate adds to a request: a Starlette application called as raw ASGI, without a server or a client."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
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
from starlette.types import Scope

from capgate import CapabilityMiddleware, Settings, requires
from capgate.checker import CachedChecker

from .asgi import ADDED, BARE, HeaderBackend, Nothing, added_rows, contender, http_scope, require_status
from .checks import Checker, checkers
from .questions import ACTION, KIND, entry
from .report import Case, ratio
from .targets import Target

HEADER_PAIR, CONSTANT_PAIR = "Starlette's pair, user from a header", "Starlette's pair, constant user"
NOOP = "middleware that does nothing"
#: Middleware and check together add at most so many times what Starlette's AuthenticationMiddleware with requires adds,
#: where its user is a constant.
CONSTANT = 2.0
#: The name of a checker with decisions remembered in front of it, as settings make it by default.
REMEMBERING = "{}, remembering"
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
    #: At most so many times what the pair adds with a user from a header.
    header: float

    def scope(self, number: int) -> Scope:
        """The scope of one request."""
        return http_scope(self.path.replace("{name}", entry(number % SIZE)), "POST", self.user)


#: The least that a gate has to do, and the most of what is usual.
VARIANTS = (
    Variant("fixed resource, nobody known", "/queries", f"{KIND}:{entry(1)}", None, 1.3),
    Variant("path parameter, known user", "/queries/{name}", KIND + ":{name}", SimpleUser("user_000001"), 1.6),
)


class _Constant(AuthenticationBackend):
    """The least that a backend can be: it looks at nothing."""

    found = AuthCredentials(["authenticated"]), SimpleUser("user_000001")

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        return self.found


def _endpoint() -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(b"ok")

    return endpoint


async def run(rounds: int, seed: int) -> Case:
    """Each variant in one interleaving; what a middleware adds is its batch minus the bare one of the same round."""
    case = Case("requests")
    async with AsyncExitStack() as stack:
        own: dict[str, Checker | CachedChecker] = {}
        for name, checker in (await stack.enter_async_context(checkers(SIZE))).items():
            own[name] = checker
            own[REMEMBERING.format(name)] = CachedChecker(checker, size=None)
        for variant in VARIANTS:
            apps = _others(variant)
            for name, asked in own.items():
                endpoint = requires(ACTION, resource=variant.resource)(_endpoint())
                gate = Middleware(CapabilityMiddleware, settings=Settings(service="bench"), checker=asked)
                apps[_gated(name)] = _application(variant, endpoint, gate)
            for name, app in apps.items():
                await require_status(f"{name}, {variant.name}", app, variant.scope(0), (200,))
            contenders = [contender(name, app, variant.scope) for name, app in apps.items()]
            case.rows += await added_rows(f"One request, {variant.name}", contenders, rounds, seed)
            case.targets += _targets(case, variant, own)
    return case


def _gated(checker: str) -> str:
    return f"CapabilityMiddleware, {checker}"


def _others(variant: Variant) -> dict[str, Starlette]:
    apps = {
        BARE: _application(variant, _endpoint()),
        NOOP: _application(variant, _endpoint(), Middleware(Nothing)),
    }
    for name, backend in ((HEADER_PAIR, HeaderBackend()), (CONSTANT_PAIR, _Constant())):
        guarded = starlette_requires("authenticated")(_endpoint())
        apps[name] = _application(variant, guarded, Middleware(AuthenticationMiddleware, backend=backend))
    return apps


def _application(variant: Variant, endpoint: Endpoint, *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route(variant.path, endpoint, methods=["POST"])], middleware=middleware)


def _targets(case: Case, variant: Variant, checkers: Iterable[str]) -> Iterator[Target]:
    def added(name: str) -> float | None:
        return case.median(name, f"One request, {variant.name}", ADDED)

    for pair in (HEADER_PAIR, CONSTANT_PAIR):
        for checker in checkers:
            value = ratio(added(_gated(checker)), added(pair))
            limit = variant.header if pair == HEADER_PAIR else CONSTANT
            yield Target(f"CapabilityMiddleware, {checker}, {variant.name}, to {pair}", value, limit)
