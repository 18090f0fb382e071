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

from collections.abc import Callable, Mapping
from contextlib import aclosing
from inspect import Parameter, Signature
from typing import Annotated, Any

import msgspec
from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from .enforcement.capabilities import Capabilities, Question
from .enforcement.current import current
from .enforcement.given_facts import checked_facts
from .errors import ConfigError, MalformedInput
from .middleware.actors import actor_of
from .middleware.bodies import HashedBody
from .middleware.gathering import document_in_time
from .routes.arguments import needs_document, read_arguments
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
    facts: Callable[..., Any] | None = None,
    args: Mapping[str, str] | None = None,
) -> Any:
    """Return a dependency that asks a policy for ``action`` on ``resource``.

    The arguments are those of :func:`~capgate.requires`. ``actor`` is a dependency whose value is who is asking, in
    place of the actor of the middleware. The value is an :data:`~capgate.model.Actor`, ``None`` for nobody, or the name
    of a user. Or it is a user as :func:`~capgate.middleware.actors.actor_from_user` takes it. ``facts`` is a dependency
    whose value are the attributes of the resource, as a mapping.

    For ``dependencies=[...]`` of routes, routers and applications, or in ``Annotated[..., Requires(...)]``. Raises
    :class:`~capgate.errors.ConfigError`.

    With ``args_hash="body"``, or arguments from JSON, a form is denied, for FastAPI has consumed it: there, declare the
    endpoint.
    """
    requirement = Requirement.parse(action, resource=resource, args_hash=args_hash, facts=facts, args=args)
    if not (actor is None or callable(actor)):
        raise ConfigError("actor", actor, "a dependency: a function whose value is who is asking")

    async def ask(connection: HTTPConnection, user: Any = None, known: Any = None) -> None:
        capabilities = get_capabilities(connection)
        try:
            if actor is not None:  # who is not known for certain is denied, not taken for nobody
                capabilities = capabilities.for_actor(actor_of(user))
            question = await _question(requirement, connection, capabilities, known)
        except Exception as error:  # what is to be asked is not known for certain
            capabilities.insist_on_asking(error)
            return
        await capabilities.require_all((question,))

    parameters = [Parameter("connection", Parameter.KEYWORD_ONLY, annotation=HTTPConnection)]
    for name, dependency in (("user", actor), ("known", facts)):
        if dependency is not None:
            annotation = Annotated[Any, Depends(dependency)]
            parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation))
    ask.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what FastAPI goes by
    setattr(ask, ATTRIBUTE, (requirement,))
    return Depends(asks_itself(ask))


async def _question(
    requirement: Requirement, connection: HTTPConnection, capabilities: Capabilities, known: Any
) -> Question:
    digest, document, params = None, None, connection.path_params
    typed = typed_parameters(connection.scope.get("route")) if requirement.in_path else None
    if typed is not None:
        params = converted(params, typed)
    resource = requirement.resource(params)
    if requirement.facts is not None and resource is not None:
        resource = msgspec.structs.replace(resource, attributes=checked_facts(requirement.facts, known))
    if requirement.args_hash is not None or needs_document(requirement.args):
        body = await _read_body(connection, capabilities)
        digest = None if requirement.args_hash is None else body.hexdigest
        if needs_document(requirement.args):
            document = await document_in_time(body.data, capabilities.body_seconds)
    args = read_arguments(requirement.args, connection.scope, params, document) if requirement.args else None
    return requirement.action, resource, digest, args


async def _read_body(connection: HTTPConnection, capabilities: Capabilities) -> HashedBody:
    """Return the body.

    It is kept for whoever asks the request for it. FastAPI has read it already if an endpoint declares one.
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
    return body


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
