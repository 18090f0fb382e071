"""Declares the way of FastAPI: as a dependency, which may take who is asking from another dependency.

::

    @app.put("/users/{name}", dependencies=[Requires("db.write", resource="sql_query:{name}", actor=current_user)])
    async def put_user(name: str, gate: Gate) -> None:
        await gate.require("http.outbound", "host:api.example.com")

The dependency asks the gate of :class:`~capgate.CapabilityMiddleware`, which lets a request reach it unasked if that
is all that its route declares. Dependencies run before the endpoint, in their order, and after FastAPI read a body that
it validates. A denial is answered 403. A route declares none of its dependencies where ``app.dependency_overrides``
replaces one of them, so that it is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from .enforcement.capabilities import Capabilities
from .enforcement.current import current
from .errors import ConfigError, MalformedInput
from .middleware.actors import actor_of
from .middleware.bodies import HashedBody
from .routes.declare import ATTRIBUTE, Requirement, asks_itself
from .routes.typed_parameters import converted, typed_parameters


def get_capabilities(connection: HTTPConnection) -> Capabilities:
    """Return the capabilities of the request. Raises :class:`~capgate.CapabilityDenied` where no gate let it in."""
    capabilities = (connection.scope.get("state") or {}).get("capabilities")
    return capabilities if isinstance(capabilities, Capabilities) else current()


#: The type of a parameter that FastAPI is to fill with the capabilities of the request.
Gate = Annotated[Capabilities, Depends(get_capabilities)]


def Requires(  # it is to FastAPI what Depends is, and is written in the same places
    action: str,
    *,
    resource: str | None = None,
    args_hash: str | None = None,
    actor: Callable[..., Any] | None = None,
) -> Any:
    """Return a dependency that asks a policy for ``action`` on ``resource``.

    The arguments are those of :func:`~capgate.requires`. ``actor`` is a dependency whose value is who is asking, in
    place of the actor of the middleware. The value is an :data:`~capgate.model.Actor`, ``None`` for nobody, the name of
    a user, or a user as :func:`~capgate.middleware.actors.actor_from_user` takes it.

    For ``dependencies=[...]`` of routes, routers and applications, or in ``Annotated[..., Requires(...)]``. Raises
    :class:`~capgate.errors.ConfigError`.

    With ``args_hash="body"`` a form is denied, for FastAPI has consumed it: there, declare the endpoint.
    """
    requirement = Requirement.parse(action, resource=resource, args_hash=args_hash)
    if actor is None:

        async def ask(connection: HTTPConnection) -> None:
            await _require(requirement, connection, get_capabilities(connection))

    elif not callable(actor):
        raise ConfigError("actor", actor, "a dependency: a function whose value is who is asking")
    else:

        async def ask(connection: HTTPConnection, user: Annotated[Any, Depends(actor)]) -> None:  # type: ignore[misc]
            capabilities = get_capabilities(connection)
            try:
                named = actor_of(user)
            except Exception as error:  # who is not known for certain is denied, not taken for nobody
                capabilities.insist_on_asking(error)
                return
            await _require(requirement, connection, capabilities.for_actor(named))

        ask.__annotations__ = {"connection": HTTPConnection, "user": Annotated[Any, Depends(actor)], "return": None}
    setattr(ask, ATTRIBUTE, (requirement,))
    return Depends(asks_itself(ask))


async def _require(requirement: Requirement, connection: HTTPConnection, capabilities: Capabilities) -> None:
    digest = None
    try:
        params: Any = connection.path_params
        typed = typed_parameters(connection.scope.get("route")) if requirement.template else None
        resource = requirement.resource(params if typed is None else converted(params, typed))
        if requirement.args_hash is not None:
            digest = await _hash_body(connection, capabilities)
    except Exception as error:  # what is to be asked is not known for certain
        capabilities.insist_on_asking(error)
        return
    await capabilities.require(requirement.action, resource, args_hash=digest)


async def _hash_body(connection: HTTPConnection, capabilities: Capabilities) -> str:
    """Return the SHA-256 of the body in 64 hex digits.

    The body is kept for whoever asks the request for it. FastAPI has read it already if an endpoint declares one.
    """
    if not isinstance(connection, Request):
        raise MalformedInput("only a request of HTTP has a body")
    body = HashedBody()
    if not hasattr(connection, "_body"):
        async with aclosing(connection.stream()) as stream:
            await body.read(stream, capabilities)
        connection._body = body.data
    else:
        await body.read(_Kept(connection._body), capabilities)
    return body.hexdigest


class _Kept:
    """A body that is there already, as chunks."""

    def __init__(self, body: bytes) -> None:
        self._chunks = [body]

    def __aiter__(self) -> _Kept:
        return self

    async def __anext__(self) -> bytes:
        if not self._chunks:
            raise StopAsyncIteration
        return self._chunks.pop()
