"""What requests are judged with: the routes, who is asking, and whom to ask. Made at start-up."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, Union

from starlette.types import Scope

from ..checker.local import PolicyChecker
from ..enforcement.point import Judge
from ..model import Actor, Environment
from ..routes.declare import Requirement
from ..routes.routing import NOTHING, PUBLIC, Resolution, resolver_for
from ..routes.target import Target
from ..settings.settings import Settings

ActorOf = Callable[[Scope], Union[Actor, Awaitable[Actor]]]
Resolver = Callable[[Scope], Any]


class Gate(Judge):
    """What requests are judged with. Made once, at start-up, and never changed."""

    def __init__(
        self, settings: Settings, checker: PolicyChecker, actor: ActorOf, resolver: Resolver | None, target: Target
    ) -> None:
        super().__init__(
            checker,
            settings.environment,
            deadline=settings.limits.deadline,
            sample_allows=settings.sample_allows,
        )
        self.actor = actor
        self.public = frozenset(settings.public)
        self.strict_paths = settings.strict_paths
        self.body_bytes = settings.body_bytes
        self.by_routes = resolver is None
        #: What a request needs. Raises :class:`Unresolvable`, or whatever routes and resolvers raise.
        self.resolve: Callable[[Scope], Resolution] = (
            resolver_for(target, self.public) if resolver is None else functools.partial(_resolved, resolver)
        )


class GateSource(Protocol):
    """Where the gate comes from. ``env`` is for events while there is none."""

    gate: Gate | None

    @property
    def env(self) -> Environment: ...

    @property
    def exposes_reasons(self) -> bool: ...

    async def wait(self, scope: Scope) -> Gate:
        """The gate, started if need be. Raises :class:`PolicyUnavailable`."""


def _resolved(resolver: Resolver, scope: Scope) -> Resolution:
    """What the application's resolver says: a requirement, several, ``PUBLIC``, or ``None``."""
    found = resolver(scope)
    if found is None:
        return NOTHING
    params = scope.get("path_params", {})
    if found is PUBLIC:
        return PUBLIC, params
    requirements = (found,) if type(found) is Requirement else found
    if type(requirements) not in (tuple, list) or any(type(one) is not Requirement for one in requirements):
        if inspect.iscoroutine(found):
            found.close()
        raise TypeError(f"the resolver returned a {type(found).__name__}")
    return tuple(requirements), params
