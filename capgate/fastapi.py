"""FastAPI's way to declare: as a dependency, which may take who is asking from another dependency.

::

    @app.put("/users/{name}", dependencies=[Requires("db.write", resource="sql_query:{name}", actor=current_user)])
    async def put_user(name: str, gate: Gate) -> None:
        await gate.require("http.outbound", "host:api.example.com")

The dependency asks the gate of :class:`~capgate.CapabilityMiddleware`, which lets a request reach it unasked if that is
all that its route declares. Dependencies run before the endpoint, in their order; a denial is answered 403. What
``app.dependency_overrides`` replaces is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from .actors import actor_of
from .current import current
from .declare import ATTRIBUTE, Requirement, asks_itself
from .errors import ConfigError
from .handlers import Capabilities
from .model import Resource


def get_capabilities(connection: HTTPConnection) -> Capabilities:
    """The :class:`Capabilities` of the request. Raises :class:`~capgate.CapabilityDenied` where no gate let it in."""
    found = (connection.scope.get("state") or {}).get("capabilities")
    return found if isinstance(found, Capabilities) else current()


#: The type of a parameter that FastAPI is to fill with the capabilities of the request.
Gate = Annotated[Capabilities, Depends(get_capabilities)]


def Requires(  # it is to FastAPI what Depends is, and is written in the same places
    action: str,
    *,
    resource: str | None = None,
    args_hash: str | None = None,
    actor: Callable[..., Any] | None = None,
) -> Any:
    """A dependency that asks a policy for ``action`` on ``resource``; the arguments are those of
    :func:`~capgate.requires`.

    ``actor`` is a dependency whose value is who is asking, in place of the actor of the middleware: an
    :data:`~capgate.model.Actor`, ``None`` for nobody, the name of a user, or a user as
    :func:`~capgate.actors.actor_from_user` takes it. For ``dependencies=[...]`` of routes, routers and applications,
    or in ``Annotated[..., Requires(...)]``. Raises :class:`~capgate.errors.ConfigError`.
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
                capabilities.deny(error)
            await _require(requirement, connection, capabilities.for_actor(named))

        ask.__annotations__ = {"connection": HTTPConnection, "user": Annotated[Any, Depends(actor)], "return": None}
    setattr(ask, ATTRIBUTE, (requirement,))
    return Depends(asks_itself(ask))


async def _require(requirement: Requirement, connection: HTTPConnection, capabilities: Capabilities) -> None:
    try:
        resource = requirement.resource(connection.path_params)
    except (LookupError, TypeError):
        resource = Resource(requirement.kind)  # without an id, which policies deny
    digest = None
    if requirement.args_hash is not None and isinstance(connection, Request):
        digest = sha256(await connection.body()).hexdigest()  # which FastAPI has read already, if anybody wants it
    await capabilities.require(requirement.action, resource, args_hash=digest)
