"""Reads and looks up what a declaration asks about besides the path: facts of the resource, arguments, the body's hash.

All of it comes before the question, and nothing of it can allow anything: what goes wrong is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import anyio.to_thread
import msgspec
from starlette.types import Receive, Scope

from ..enforcement.given_facts import facts_in_time, shown_request
from ..errors import BodyTimeout
from ..model import Attribute, Resource
from ..routes.arguments import needs_document, read_arguments, read_document
from ..routes.declare import Requirements
from ..routes.typed_parameters import as_seen
from ..runtime.bounded_wait import BoundedWait
from .bodies import BodyBounds, Chunks, HashedBody

#: Bytes of JSON that are read at once; more of them are read in a worker thread, with other tasks in between.
AT_ONCE: Final = 8_192


class GatherBounds(BodyBounds, Protocol):
    """How much is read, and for how long each thing is waited for, in seconds."""

    @property
    def actor_seconds(self) -> float: ...


class Particulars(msgspec.Struct, frozen=True):
    """What one requirement asks about, besides action, actor and environment."""

    resource: Resource | None
    digest: str | None = None
    args: Mapping[str, Attribute] = {}


async def gather(
    requirements: Requirements, scope: Scope, receive: Receive, params: Any, bounds: GatherBounds
) -> tuple[list[Particulars], HashedBody | None]:
    """Return what each of ``requirements`` asks about, and the body, if it was read.

    Raises :class:`~capgate.errors.FactsUnavailable`, what reading a body raises, and what the resource of a requirement
    raises.
    """
    looked_up: dict[int, dict[str, Attribute]] = {}  # by the identity of a function, which may have no hash
    resources = []
    for requirement in requirements:
        resource, find = requirement.resource(params), requirement.facts
        if find is not None and resource is not None:
            facts = looked_up.get(id(find))
            if facts is None:
                shown = shown_request(scope, as_seen(params))
                facts = looked_up[id(find)] = await facts_in_time(find, shown, bounds.actor_seconds)
            resource = msgspec.structs.replace(resource, attributes=facts)
        resources.append(resource)
    body, document = None, None
    if any(requirement.args_hash is not None or needs_document(requirement.args) for requirement in requirements):
        body = HashedBody()
        await body.read(Chunks(receive), bounds)
        if any(needs_document(requirement.args) for requirement in requirements):
            document = await document_in_time(body.data, bounds.body_seconds)
    return [
        Particulars(
            resource,
            body.hexdigest if body is not None and requirement.args_hash is not None else None,
            read_arguments(requirement.args, scope, params, document) if requirement.args else {},
        )
        for requirement, resource in zip(requirements, resources, strict=True)
    ], body


async def document_in_time(body: bytes, seconds: float) -> object:
    """Return what :func:`~capgate.routes.arguments.read_document` does, and raise what that raises.

    Raises :class:`~capgate.errors.BodyTimeout` where no worker thread has read it after ``seconds``.
    """
    if len(body) <= AT_ONCE:
        return read_document(body)
    document: object = None
    with BoundedWait(seconds) as bound:
        document = await anyio.to_thread.run_sync(read_document, body, abandon_on_cancel=True)
    if bound.expired:
        raise BodyTimeout("body_seconds", seconds)
    return document
