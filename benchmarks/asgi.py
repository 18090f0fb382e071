"""Calls applications as raw ASGI, without a server or a client, and makes rows of how long they took."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .report import Row
from .timing import Contender, differences, interleave, summarize

BARE = "bare application"
IN_ALL, ADDED = "in all", "added to bare"


def http_scope(path: str, method: str = "GET", user: SimpleUser | None = None) -> Scope:
    """The scope of one request, new in every part that an application may write to."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
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
    if user is not None:
        scope["user"] = user
    return scope


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    pass


class HeaderBackend(AuthenticationBackend):
    """The least that a backend can be of use with: the user is who a header says."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        user = conn.headers.get("x-user")
        return None if user is None else (AuthCredentials(["authenticated"]), SimpleUser(user))


class Nothing:
    """The least that a middleware can be."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def require_status(name: str, app: ASGIApp, scope: Scope, expected: Collection[int]) -> None:
    """Send one request, which also starts what starts at the first one. Raises ``RuntimeError`` for another answer."""
    statuses = []

    async def record(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, record)
    if len(statuses) != 1 or statuses[0] not in expected:
        raise RuntimeError(f"{name} answers {statuses} to {scope['path']}, expected was one of {sorted(expected)}")


def contender(name: str, app: ASGIApp, scope: Callable[[int], Scope]) -> Contender:
    """``app``, called with ``scope(number)`` for each request of a batch; scopes are made before it."""

    def scopes(n: int) -> Sequence[Scope]:
        return [scope(number) for number in range(n)]

    return Contender(name, lambda scope: app(scope, receive, send), scopes, awaits=True)


async def added_rows(
    table: str, contenders: Sequence[Contender], rounds: int, seed: int, base: str = BARE, column: str = ""
) -> list[Row]:
    """Time ``contenders`` by turns. What each adds to ``base`` is its batch minus that of the same round.

    Columns are :data:`IN_ALL` and :data:`ADDED`, with ``column`` before them where there is one.
    """
    taken = await interleave(contenders, rounds=rounds, seed=seed)
    prefix, rows = f"{column}, " if column else "", []
    for name, samples in taken.items():
        rows.append(Row(name, table, prefix + IN_ALL, samples.summary()))
        if name != base:
            added = summarize(differences(samples, taken[base]), samples.calls)
            rows.append(Row(name, table, prefix + ADDED, added))
    return rows
