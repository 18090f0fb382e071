"""Resolvers: an application's own function says what a request needs."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Route
from starlette.types import Scope

from capgate.checker.cached import CachedChecker
from capgate.model import Resource
from capgate.routes.declare import Parameter, Requirement
from capgate.routes.seat import PUBLIC

from ..support.asgi import http_scope
from ..support.gates import (
    Ran,
    Recording,
    gated,
    make_checker,
    plain,
    read,
)
from .reasons import reason_for

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


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (Requirement("db.read", Resource("sql_query", "good"), "sql_query", (Parameter("name"),)), "bad"),
        (Requirement("db.read", Resource("sql_query", "good"), "sql_query", (Parameter("name"),), sole="name"), "bad"),
        (Requirement("db.read", Resource("sql_query", "bad"), "sql_query", sole="name"), "bad"),
        (Requirement("db.read", Resource("sql_query", "good"), "sql_query", sole="name"), "good"),
    ],
)
@pytest.mark.parametrize("size", [0, 10])
async def test_what_is_asked_is_the_same_alone_and_together_and_again(made: Any, asked: str, size: int) -> None:
    """Also of a requirement made by hand, which says two things at once."""
    needed: Any = GOOD
    checker = CachedChecker(make_checker(), size=size)
    app = gated([Route("/", plain)], checker, resolver=lambda scope: needed)
    scope = http_scope(path_params={"name": "bad"})
    assert await reason_for(app, dict(scope)) is None  # now it is known
    for said in [made, (made, GOOD), (GOOD, made)] * 2:
        needed = said
        assert await reason_for(app, dict(scope)) == (None if asked == "good" else "not_in_allowlist")


async def test_a_parameter_that_the_route_does_not_have() -> None:
    ran = Ran()
    assert (
        await reason_for(gated([Route("/{nam}", read("{name}")(ran.endpoint("it")))]), http_scope("/x"))
        == "internal_error"
    )
    assert ran.names == []
