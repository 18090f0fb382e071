"""Who is asking, by the authentication of the application or a function of its own."""

from __future__ import annotations

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
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from capgate.errors import ActorUnknown
from capgate.limits import Limits
from capgate.middleware.actors import actor_from_user
from capgate.model import Anonymous, CompilerTool, User
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import (
    PATIENT,
    Ran,
    Recording,
    events,
    example,
    gated,
)
from .reasons import reason_for

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
    "empty identity": (Plain(is_authenticated=True, identity="", username="ada"), None),
    "id and mail": (Plain(is_authenticated=True, id=7, email="ada@example.org"), None),
}

#: Of those that are denied, the class, what was looked for, and what is wrong with it.
UNKNOWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "no name": ("Nameless", ("identity", "display_name", "username")),
    "id and mail": ("Plain", ("identity", "display_name", "username")),
    "empty identity": ("Plain", ("identity",)),
    "number for a name": ("Plain", ("identity",)),
    "text": ("str", ("is_authenticated",)),
    "a dict": ("dict", ("is_authenticated",)),
    "authenticated is a method": ("Plain", ("is_authenticated",)),
    "authenticated is a number": ("Plain", ("is_authenticated",)),
    "does not say": ("Plain", ("is_authenticated",)),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_the_log_says_what_was_looked_for_and_what_to_pass(name: str) -> None:  # G-14
    seen, attributes = UNKNOWN[name]
    user = ACTORS[name][0]
    with pytest.raises(ActorUnknown) as caught:
        actor_from_user({"user": user})
    assert (caught.value.seen, caught.value.attributes) == (seen, attributes)
    with events() as found:
        await Call(http_scope("/good", user=user)).to(example(Ran()))
    assert found[0]["reason"] == "internal_error"
    assert all(text in found[0]["cause"] for text in ("ActorUnknown", seen, *attributes, "actor="))
    assert not any(text in found[0]["cause"] for text in ("ada", "example.org"))  # O4


async def nobody_known(scope: Scope) -> Any:
    return "ada-t0p-secret"


@pytest.mark.parametrize("function", [lambda scope: "ada-t0p-secret", nobody_known])
async def test_the_log_says_what_an_actor_function_returned(function: Any) -> None:  # G-14
    async def handler(request: Request) -> Response:
        return PlainTextResponse(type(await request.state.capabilities.check("db.read", "sql_query:good")).__name__)

    public = gated([Route("/open", handler)], settings=Settings(public=("/open",), limits=PATIENT), actor=function)
    with events() as found:
        await Call(http_scope("/good")).to(example(Ran(), actor=function, settings=Settings(limits=PATIENT)))
        assert (await Call(http_scope("/open")).to(public)).body == b"Deny"
    for event in found:
        assert event["cause"].startswith("ActorUnknown: str is what was returned for the actor")
        assert "t0p-secret" not in str(event)
    assert len(found) == 2


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
    (slow_actor, "actor_timeout"),
    (wrong_actor, "internal_error"),
    (lambda scope: "ada", "internal_error"),
    (lambda scope: None, "internal_error"),
    (lambda scope: User, "internal_error"),
]


@pytest.mark.parametrize(("function", "reason"), ACTOR_FUNCTIONS)
async def test_actor_functions(function: Any, reason: str | None) -> None:
    ran = Ran()
    limits = Limits(actor_seconds=0.05) if reason == "actor_timeout" else PATIENT
    app = example(ran, settings=Settings(limits=limits), actor=function)
    with events() as found:
        await Call(http_scope("/good")).to(app)
    assert [event["reason"] for event in found] == ([] if reason is None else [reason])
    assert "t0p-secret" not in str(found)  # O4
    assert ran.names == ([] if reason else ["good"])


async def test_nobody_is_asked_who_it_is_for_an_undeclared_route() -> None:
    assert await reason_for(example(Ran(), actor=raising_at_once), http_scope("/undeclared")) == "undeclared_route"
