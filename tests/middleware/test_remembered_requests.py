"""Denials behind an allow that was known without a question: told apart from it, and always events."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.checker.cached import CachedChecker
from capgate.model import ANONYMOUS, Actor, User
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import PATIENT, Ran, events, gated, make_checker, read

LOGIN = Settings(www_authenticate="Bearer", limits=PATIENT)


class Inside:
    """An application of nobody's making, allowed as a whole, which calls another one with what it made of the scope."""

    def __init__(self, app: ASGIApp, **changes: Any) -> None:
        self._inner = app
        self._changes = changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.update(self._changes)
        scope["path_params"].clear()
        await self._inner(scope, receive, send)


def application(ran: Ran, actor: Any) -> ASGIApp:
    inner = Starlette(routes=[Route("/bad", read("bad")(ran.endpoint("bad")))])
    whole = read("{name}")(Inside(inner, user="ada", path="/bad", root_path=""))
    return gated([Mount("/{name}", whole)], CachedChecker(make_checker(), size=10), LOGIN, actor=actor)


async def ada() -> Actor:
    return User("ada")


def waited_for(scope: Scope) -> Any:
    return ada() if "user" in scope else ANONYMOUS


def unknown(scope: Scope) -> Any:
    if "user" in scope:
        raise ValueError("nobody knows")
    return ANONYMOUS


@pytest.mark.parametrize("times", [1, 3])
async def test_a_denial_names_what_was_denied_and_nobody_else_is_to_log_in(times: int) -> None:
    ran = Ran()
    app = application(ran, waited_for)
    for _ in range(times):
        with events() as found:
            call = await Call(http_scope("/good/")).to(app)
        assert (call.status, ran.names) == (403, [])
    told = [(event["reason"], event["resource_id"], event["actor_id"]) for event in found]
    assert told == [("not_in_allowlist", "bad", "ada")]


@pytest.mark.parametrize("times", [1, 3])
async def test_it_is_an_event_whatever_became_of_the_parameters(times: int) -> None:
    ran = Ran()
    app = application(ran, unknown)
    for _ in range(times):
        with events() as found:
            call = await Call(http_scope("/good/")).to(app)
        assert (call.status, ran.names) == (403, [])
        assert [event["reason"] for event in found] == ["internal_error"]
