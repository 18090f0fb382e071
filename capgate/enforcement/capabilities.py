"""Asks for an endpoint, and for what acts for it, once the request was let in: :class:`Capabilities`.

The middleware hands one to each request, as ``request.state.capabilities``. Gated capabilities
(:mod:`capgate.capabilities`) ask the current one, so that code which uses them need not know of it
(:mod:`capgate.enforcement.current`).
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol, Union

import anyio.from_thread
import msgspec

from ..checker.base import BatchResult, Checker, denial_for
from ..errors import ActorUnknown, CapabilityDenied, ConfigError, MalformedInput, RequestEnded, ends_task
from ..events import RequestFacts, new_decision_id
from ..model import ACTORS, Actor, Allow, Attribute, Decision, Environment, PolicyInput, PolicyResult, Resource
from .given_facts import context_in_time, context_now, given_facts
from .point import EnforcementPoint, actor_in_time, deny_unasked, settle_unasked

#: What is asked for: ``"kind:id"``, ``"kind"``, a resource, or nothing.
ResourceLike = Union[str, Resource, None]
#: Arguments, by their names; ``None`` stands for one that is absent.
Arguments = Mapping[str, Union[Attribute, None]]
#: One question: ``(action, resource)``, or with the SHA-256 of the arguments as third, and arguments as fourth.
Question = Union[
    tuple[str, ResourceLike],
    tuple[str, ResourceLike, Union[str, None]],
    tuple[str, ResourceLike, Union[str, None], Union[Arguments, None]],
]

#: Questions in one batch. More are denied: a batch is answered without a pause for other tasks.
BATCH: Final = 1_000
_KIND: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


class DenialListener(Protocol):
    """Whoever is told of a denial that code behind an enforcement point is told of: the request."""

    #: Whether the request is over, and what it was handed denies everything.
    ended: bool

    def note(self, denial: Decision) -> None:
        """Note ``denial``, which is about to be raised."""

    def note_allow(self) -> None:
        """Note that something was asked, and allowed."""


class Capabilities(msgspec.Struct, eq=False):
    """The gate in the hands of a handler: asks the policy for one actor, in the environment of its gate.

    ``check`` gives the decision. ``require`` raises :class:`~capgate.errors.CapabilityDenied` unless it is an allow,
    which the middleware answers with 403. A denial is an event either way. Where an application only monitors
    (``Settings(enforce="monitor")``), that event is all, and both give an allow. The methods that end in ``_now`` are
    for code that cannot await, such as a ``def`` endpoint. They wait for nothing but, in a worker thread, for a checker
    or an actor of the application's that has to be awaited. Nothing else is ever raised but what ends the task, or what
    going through ``questions`` raises: an error is a denial.

    Where settings say so (``capabilities_end_with_request``), those of a request that is over deny ``request_ended``.

    Made by the middleware for each request, and by :func:`~capgate.enforcement.current.capabilities_for`. A Struct,
    because it is made in a third of the time that an ``__init__`` in Python takes.
    """

    _point: EnforcementPoint
    #: Who asks; ``None`` until that is known.
    actor: Any = None
    #: Gives the actor, or an awaitable of it, for the scope of the request.
    _find: Callable[[Any], Any] | None = None
    #: The scope that events are written for; empty outside of requests.
    _scope: Mapping[str, Any] = {}
    _listener: DenialListener | None = None
    #: What else is known of the moment; ``None`` until that is known.
    context: Any = {}
    #: Gives that, or an awaitable of it, for the scope of the request.
    _find_context: Callable[[Any], Any] | None = None

    # -- asking

    async def check(
        self,
        action: str,
        resource: ResourceLike = None,
        *,
        args_hash: str | None = None,
        args: Arguments | None = None,
    ) -> PolicyResult:
        """Return the answer of the policy to ``action`` on ``resource``: ``"kind:id"``, or a :class:`Resource`.

        ``args`` are arguments of the effect that the policy may look at: flags, numbers, text, lists of text.
        """
        return (await self._ask(((action, resource, args_hash, args),)))[0].result

    def check_now(
        self,
        action: str,
        resource: ResourceLike = None,
        *,
        args_hash: str | None = None,
        args: Arguments | None = None,
    ) -> PolicyResult:
        """Answer as :meth:`check` does, for code that cannot await."""
        return self._ask_now(((action, resource, args_hash, args),))[0].result

    async def require(
        self,
        action: str,
        resource: ResourceLike = None,
        *,
        args_hash: str | None = None,
        args: Arguments | None = None,
    ) -> None:
        """Raise :class:`CapabilityDenied` unless the policy allows ``action`` on ``resource``."""
        self._insist(await self._ask(((action, resource, args_hash, args),)))

    def require_now(
        self,
        action: str,
        resource: ResourceLike = None,
        *,
        args_hash: str | None = None,
        args: Arguments | None = None,
    ) -> None:
        """Require as :meth:`require` does, for code that cannot await."""
        self._insist(self._ask_now(((action, resource, args_hash, args),)))

    async def check_many(self, questions: Iterable[Question]) -> list[PolicyResult]:
        """Answer each of ``questions``, up to :data:`BATCH`: by one policy, together under one deadline."""
        return [decision.result for decision in await self._ask(tuple(questions))]

    def check_many_now(self, questions: Iterable[Question]) -> list[PolicyResult]:
        """Answer as :meth:`check_many` does, for code that cannot await."""
        return [decision.result for decision in self._ask_now(tuple(questions))]

    async def require_all(self, questions: Iterable[Question]) -> None:
        """Raise :class:`CapabilityDenied`, with the first denial, unless all of ``questions`` are allowed.

        Asked nothing, it allows nothing.
        """
        self._insist(await self._ask(tuple(questions) or ((None, None),)))

    def require_all_now(self, questions: Iterable[Question]) -> None:
        """Require as :meth:`require_all` does, for code that cannot await."""
        self._insist(self._ask_now(tuple(questions) or ((None, None),)))

    def deny(self, cause: BaseException, action: str | None = None, resource: Resource | None = None) -> NoReturn:
        """Raise :class:`CapabilityDenied`, as an event too, because ``cause`` left nothing that could be asked.

        It does so also where an application only monitors, since whoever calls this could not go on. The reason is the
        code of ``cause`` where it is a :class:`~capgate.errors.PolicyError`, else ``internal_error``. ``action`` and
        ``resource`` say what it was about, where that is known.
        """
        point = self._point
        if action is None:
            denial = deny_unasked(cause, point, self._scope)
        else:
            input = PolicyInput(action, self.actor, resource, None, point.env, time.time_ns())
            denial = Decision(input, denial_for(cause), new_decision_id(), point.checker.policy)
            point.log.denied(denial, RequestFacts.of(self._scope, cause=cause))
        self._tell(denial)
        raise CapabilityDenied(denial) from cause

    def insist_on_asking(self, cause: BaseException) -> None:
        """Raise :class:`CapabilityDenied`, because ``cause`` left nothing that could be asked about the request.

        An application that only monitors goes on instead, unasked, with an event that says so.
        """
        decision = self._settled(settle_unasked(cause, self._point, self._scope))
        if type(decision.result) is not Allow:
            self._tell(decision)
            raise CapabilityDenied(decision) from cause

    # -- for whom, and how

    def for_actor(self, actor: Actor) -> Capabilities:
        """Return the same gate asked for somebody else, as when a tool acts for the user of a request."""
        require_actor(actor)
        return Capabilities(self._point, actor, None, self._scope, self._listener, self.context, self._find_context)

    def for_actor_in(self, scope: Mapping[str, Any], find: Callable[[Any], Any]) -> Capabilities:
        """Return the same gate asked for whoever ``find`` says is acting in ``scope``.

        ``find`` gives the actor, or an awaitable of it. Events are written for ``scope`` where these capabilities
        belong to no request.
        """
        return Capabilities(
            self._point,
            None,
            lambda _: find(scope),
            self._scope or scope,
            self._listener,
            self.context,
            self._find_context,
        )

    @property
    def body_seconds(self) -> float:
        """Seconds in which a body has to be there that is read for its hash."""
        return self._point.body_seconds

    @property
    def body_idle_seconds(self) -> float:
        """Seconds without a piece of that body."""
        return self._point.body_idle_seconds

    @property
    def body_bytes(self) -> int:
        """How much of a body is read for its hash."""
        return self._point.body_bytes

    # -- asking, in steps

    async def _ask(self, questions: Sequence[Any]) -> list[Decision]:
        point = self._point
        try:
            listener, actor = self._listener, self.actor
            if listener is not None and listener.ended:
                raise RequestEnded("the request that this was handed to is over")
            if actor is None:
                actor = await self._find_actor()
            if self.context is None:
                await self._look_for_context()
            inputs = _inputs_of(questions, actor, point.env, self.context)
        except BaseException as error:
            if ends_task(error):
                raise
            return self._deny_all(questions, error)
        asked = point.checker.current
        return self._conclude(inputs, await asked.ask(inputs), asked)

    def _ask_now(self, questions: Sequence[Any]) -> list[Decision]:
        point = self._point
        try:
            listener, actor = self._listener, self.actor
            if listener is not None and listener.ended:
                raise RequestEnded("the request that this was handed to is over")
            if actor is None:
                actor = self._find_actor_now()
            if self.context is None:
                self._look_for_context_now()
            inputs = _inputs_of(questions, actor, point.env, self.context)
        except BaseException as error:
            if ends_task(error):
                raise
            return self._deny_all(questions, error)
        asked = point.checker.current
        return self._conclude(inputs, asked.ask_now(inputs), asked)

    async def _find_actor(self) -> Any:
        actor = None if self._find is None else self._find(self._scope)
        if inspect.isawaitable(actor):
            actor = await actor_in_time(actor, self._point.actor_seconds)
        return self._remember(actor)

    def _find_actor_now(self) -> Any:
        actor = None if self._find is None else self._find(self._scope)
        if inspect.isawaitable(actor):
            if inspect.iscoroutine(actor):
                actor.close()
            return anyio.from_thread.run(self._find_actor)
        return self._remember(actor)

    async def _look_for_context(self) -> None:
        find = self._find_context
        self.context = {} if find is None else await context_in_time(find, self._scope, self._point.actor_seconds)

    def _look_for_context_now(self) -> None:
        context = {} if self._find_context is None else context_now(self._find_context, self._scope)
        if isinstance(context, dict):
            self.context = context
            return
        if inspect.iscoroutine(context):
            context.close()
        anyio.from_thread.run(self._look_for_context)

    def _remember(self, actor: Any) -> Any:
        if type(actor) not in ACTORS:
            raise ActorUnknown(actor, "is what was returned for the actor")
        self.actor = actor
        return actor

    def _conclude(self, inputs: list[PolicyInput], answers: BatchResult, asked: Checker) -> list[Decision]:
        """Return a decision for each of ``inputs``, and write the events."""
        results, policy, cause = answers
        point, facts, decisions = self._point, None, []
        for input, result in zip(inputs, results, strict=True):
            if type(result) is not Allow:
                facts = facts or RequestFacts.of(self._scope, cause=cause)
                decision = self._settled(point.settle_denial(Decision(input, result, new_decision_id(), policy), facts))
            else:
                decision = self._settled(Decision(input, result, None, policy))
                if point.looks_at_allows:
                    point.report_allow(asked, input, lambda: RequestFacts.of(self._scope, cause=cause))
            decisions.append(decision)
        return decisions

    def _deny_all(self, questions: Sequence[Any], cause: BaseException) -> list[Decision]:
        """Deny ``questions``, which nobody could be asked, with one event."""
        return [self._settled(settle_unasked(cause, self._point, self._scope))] * len(questions)

    def _settled(self, decision: Decision) -> Decision:
        """Return ``decision``, of which the listener is told where it is an allow."""
        if self._listener is not None and type(decision.result) is Allow:
            self._listener.note_allow()
        return decision

    def _insist(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if type(decision.result) is not Allow:
                self._tell(decision)
                raise CapabilityDenied(decision)

    def _tell(self, denial: Decision) -> None:
        if self._listener is not None:
            self._listener.note(denial)

    # What a Struct can do and this must not: be copied, or show the request with all its headers.

    def __reduce__(self) -> NoReturn:
        raise TypeError("capabilities belong to a request of this process; they are not copied or pickled")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __replace__(self, **changes: Any) -> NoReturn:
        self.__reduce__()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    __repr__ = object.__repr__


def require_actor(actor: object) -> None:
    """Raise :class:`ConfigError` unless ``actor`` is one."""
    if type(actor) not in ACTORS:
        raise ConfigError("actor", actor, "Anonymous, User, Service or CompilerTool")


def _inputs_of(
    questions: Sequence[Any], actor: Any, env: Environment, context: Mapping[str, Attribute]
) -> list[PolicyInput]:
    """Return one input for each of ``questions``.

    Raises :class:`MalformedInput`, or what unpacking something else raises.
    """
    if len(questions) > BATCH:
        raise MalformedInput(f"{len(questions)} questions at once, the limit is {BATCH}")
    now = time.time_ns()
    return [
        PolicyInput(action, actor, _resource(resource), rest[0] if rest else None, env, now, _args(rest), context)
        for action, resource, *rest in questions
    ]


def _args(rest: list[Any]) -> Mapping[str, Attribute]:
    """Return the arguments among what comes after the resource: a hash, then arguments, and nothing else, since
    whatever else was meant would not have been asked."""
    if len(rest) > 2:
        raise MalformedInput(f"a question has {len(rest) + 2} parts, at most 4")
    return {} if len(rest) < 2 or rest[1] is None else given_facts(rest[1])


def _resource(given: ResourceLike) -> Resource | None:
    if given is None or type(given) is Resource:
        return given
    if not isinstance(given, str):
        raise MalformedInput(f"a resource is 'kind:id' or a Resource, not a {type(given).__name__}")
    kind, colon, id = given.partition(":")
    if not _KIND.fullmatch(kind) or bool(colon) != bool(id):
        raise MalformedInput(f"{given[:100]!r} is not 'kind:id'")
    return Resource(kind, id or None)
