"""One request at the gate: from its scope to ``Allow`` or ``Deny``.

The way of nearly every request awaits nothing but the checker, and enters no cancel scope. What can wait (an
asynchronous actor, a body, a checker that is not known to bound itself) is together under one deadline.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, Union

import anyio
from starlette.types import Message, Receive, Scope

from .actors import ACTORS
from .checker import DENIED, LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from .declare import Requirement, Requirements
from .errors import ConfigError, MalformedInput, PolicyError
from .events import DecisionLog, new_decision_id
from .model import ALLOW, Actor, Allow, Deny, Environment, PolicyInfo, PolicyInput, PolicyResult, Reason
from .routing import NOTHING, PUBLIC, Resolution, Target, Unresolvable, resolver_for
from .settings import Settings

_log = logging.getLogger("capgate")

ActorOf = Callable[[Scope], Union[Actor, Awaitable[Actor]]]
Resolver = Callable[[Scope], Any]

#: What capgate's own checkers offer besides ``check``, with the same answers.
_SHORTER: Final = ("evaluate", "evaluate_now", "answer_now")
_GATED: Final = frozenset({"http", "websocket"})
#: Characters that no path of a well-meant request has: control characters, undecodable bytes as servers replace them,
#: surrogates.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")


class Gate:
    """What requests are judged with. Made once, at start-up, and never changed."""

    def __init__(
        self, settings: Settings, checker: PolicyChecker, actor: ActorOf, resolver: Resolver | None, target: Target
    ) -> None:
        self.checker = checker
        self.actor = actor
        self.env = settings.environment
        self.public = frozenset(settings.public)
        self.log = DecisionLog(settings.sample_allows)
        self.samples_allows = settings.sample_allows > 0
        self.strict_paths = settings.strict_paths
        self.body_bytes = settings.body_bytes
        self.deadline = settings.limits.deadline
        #: capgate's own checkers keep the deadline themselves. A cancel scope costs more than ten checks.
        self.bounds_itself = False
        self.evaluate: Callable[[PolicyInput], Awaitable[PolicyResult]] = checker.check
        #: The answer where nothing has to be waited for, else ``None``: without a coroutine for each question.
        self.answer_now: Callable[[PolicyInput], PolicyResult | None] = _nothing_now
        if isinstance(checker, (LocalPolicyChecker, WasmPolicyChecker)) and not _overrides(checker):
            self.bounds_itself, self.evaluate, self.answer_now = True, checker.evaluate, checker.answer_now
        self.by_routes = resolver is None
        #: What a request needs. Raises :class:`Unresolvable`, or whatever routes and resolvers raise.
        self.resolve: Callable[[Scope], Resolution] = (
            resolver_for(target, self.public) if resolver is None else functools.partial(_resolved, resolver)
        )

    @property
    def policy(self) -> PolicyInfo | None:
        """Which policy answers, where the checker says so."""
        try:
            info = getattr(self.checker, "policy", None)
        except Exception:  # a checker of the application's may raise anything; the event is written without
            return None
        return info if type(info) is PolicyInfo else None


class GateSource(Protocol):
    """Where the gate comes from. ``env`` is for events while there is none."""

    gate: Gate | None

    @property
    def env(self) -> Environment: ...

    async def wait(self, scope: Scope) -> Gate:
        """The gate, started if need be. Raises :class:`PolicyUnavailable`."""


class GatedRequest:
    """The state of one request at one gate. ``receive`` is what to pass on: it replays what was read."""

    __slots__ = ("_gate", "_input", "_source", "_started", "decision_id", "receive", "scope")

    def __init__(self, source: GateSource, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self._source = source
        self._gate = source.gate
        self._input: PolicyInput | None = None
        self._started = time.time_ns()

    async def decide(self) -> PolicyResult:
        """``Allow`` only if everything that the endpoint declares was allowed. Raises nothing but what ends the task.

        After a denial, which has been reported, ``decision_id`` is that of its event.
        """
        try:
            scope = self.scope
            if scope.get("type") not in _GATED:
                return self._denied(DENIED[Reason.MALFORMED_INPUT])
            gate = self._gate or await self._start()
            if _is_malformed(scope, gate.strict_paths):
                return self._denied(DENIED[Reason.MALFORMED_INPUT])
            requirements, params = gate.resolve(scope)
            if type(requirements) is not tuple:
                return ALLOW if requirements is PUBLIC else self._denied(DENIED[Reason.INTERNAL_ERROR])
            if not requirements:
                return self._denied(DENIED[Reason.UNDECLARED_ROUTE])
            actor = gate.actor(scope)
            if gate.bounds_itself and type(actor) in ACTORS and not _needs_body(requirements):
                result = self._ask_now(gate, requirements, params, actor)
                if result is not None:
                    return result if type(result) is Allow else self._denied(result)
                result = await self._ask(gate, requirements, params, actor, None)
            else:
                result = await self._wait_and_ask(gate, requirements, params, actor)
            if type(result) is not Allow:
                return self._denied(result)
            if gate.by_routes:
                self._check_unmoved(gate, requirements, params)
            return result
        except BaseException as error:
            if ends_task(error):
                raise
            return self._denied(_denied_for(error), error)

    async def _start(self) -> Gate:
        self._gate = gate = await self._source.wait(self.scope)
        return gate

    def _ask_now(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any
    ) -> PolicyResult | None:
        """The first answer that is not an allow, else the last one; ``None`` where an answer has to be waited for."""
        result: PolicyResult | None = DENIED[Reason.UNDECLARED_ROUTE]
        for requirement in requirements:
            result = gate.answer_now(self._question(gate, requirement, params, actor, None))
            if type(result) is not Allow:
                return result
            if gate.samples_allows:
                self._report_allow(gate)
        return result

    def _check_unmoved(self, gate: Gate, requirements: Requirements, params: Mapping[str, Any]) -> None:
        """What was allowed is still what the request reaches: routes may have been added while something was waited
        for."""
        found, now = gate.resolve(self.scope)
        if found != requirements or any(one.resource(now) != one.resource(params) for one in requirements):
            raise Unresolvable("the route is another one than when its policy was asked")

    async def _ask(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any, digest: str | None
    ) -> PolicyResult:
        """The same, waiting for each answer."""
        result: PolicyResult = DENIED[Reason.UNDECLARED_ROUTE]
        for requirement in requirements:
            result = await gate.evaluate(self._question(gate, requirement, params, actor, digest))
            if type(result) is not Allow:
                return result
            if gate.samples_allows:
                self._report_allow(gate)
        return result

    def _question(
        self, gate: Gate, requirement: Requirement, params: Mapping[str, Any], actor: Any, digest: str | None
    ) -> PolicyInput:
        resource = requirement.resource(params) if requirement.template else requirement.fixed
        hashed = digest if requirement.args_hash else None
        self._input = input = PolicyInput(requirement.action, actor, resource, hashed, gate.env, self._started)
        return input

    async def _wait_and_ask(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any
    ) -> PolicyResult:
        """The same where something can wait: all of it together under the deadline, and no answer counts after it."""
        with anyio.move_on_after(gate.deadline) as bound:
            if inspect.isawaitable(actor):
                actor = await actor
            if type(actor) not in ACTORS:
                raise TypeError(f"the actor is a {type(actor).__name__}")
            digest = await self._hash_body(gate.body_bytes) if _needs_body(requirements) else None
            result = await self._ask(gate, requirements, params, actor, digest)
            if anyio.current_time() < bound.deadline:
                return result
        return DENIED[Reason.POLICY_TIMEOUT]

    async def _hash_body(self, limit: int) -> str:
        """SHA-256 of the body in 64 hex digits; the body, of at most ``limit`` bytes, is kept for the application."""
        chunks, size, more = [], 0, True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise MalformedInput(f"{message['type']} where a body was declared")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise MalformedInput(f"the body has more than {limit} bytes")
            if chunk:
                chunks.append(chunk)
            more = message.get("more_body", False)
        body = b"".join(chunks)
        self.receive = _replay(body, self.receive)
        return hashlib.sha256(body).hexdigest()

    def _denied(self, result: Any, cause: BaseException | None = None) -> Deny:
        """The denial that ``result`` stands for, reported. What is not a decision is a denial too."""
        denial = result if type(result) is Deny and type(result.reason) is str else DENIED[Reason.MALFORMED_RESULT]
        self.decision_id = new_decision_id()
        try:
            self._report(denial, cause)
        except Exception as error:  # a checker of the application's, asked for its policy, may raise anything
            _log.error("a denial could not be reported: %s", type(error).__name__)
        return denial

    def _report(self, result: Deny, cause: BaseException | None) -> None:
        gate = self._gate
        (DecisionLog() if gate is None else gate.log).denied(
            self._input,
            result,
            None if gate is None else gate.policy,
            decision_id=self.decision_id,
            env=self._source.env,
            duration_us=self._duration_us(),
            method=self.scope.get("method", self.scope.get("type")),
            path=self.scope.get("path"),
            cause=cause,
        )

    def _report_allow(self, gate: Gate) -> None:
        method = self.scope.get("method", self.scope["type"])
        duration_us = self._duration_us()
        gate.log.allowed(self._input, gate.policy, duration_us=duration_us, method=method, path=self.scope["path"])

    def _duration_us(self) -> float:
        return (time.time_ns() - self._started) / 1_000


def _is_malformed(scope: Scope, strict: bool) -> bool:
    """Whether the scope lacks what it must have, or its path has what strict paths have not."""
    path = scope.get("path")
    if type(path) is not str or (type(scope.get("method")) is not str and scope["type"] == "http"):
        return True
    return not (path.isascii() and path.isprintable()) and strict and _UNCLEAN.search(path) is not None


def _needs_body(requirements: Requirements) -> bool:
    for requirement in requirements:  # noqa: SIM110  # a generator would cost as much as the rest of this
        if requirement.args_hash is not None:
            return True
    return False


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


def _overrides(checker: LocalPolicyChecker | WasmPolicyChecker) -> bool:
    """Whether ``check`` of a capgate checker is somebody else's, so that its shorter ways would lead past it.

    Raises :class:`ConfigError` where a shorter way was replaced and ``check`` was not: nobody would ask it.
    """
    base = LocalPolicyChecker if isinstance(checker, LocalPolicyChecker) else WasmPolicyChecker
    replaced = [
        name
        for name in ("check", *_SHORTER)
        if name in getattr(checker, "__dict__", {}) or getattr(type(checker), name) is not getattr(base, name)
    ]
    if replaced and "check" not in replaced:
        raise ConfigError("checker", checker, f"a checker that overrides check, and not only {', '.join(replaced)}")
    return bool(replaced)


def _nothing_now(input: PolicyInput) -> None:
    """For checkers that have no ``answer_now``."""


def _replay(body: bytes, receive: Receive) -> Receive:
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _denied_for(error: BaseException) -> Deny:
    if isinstance(error, PolicyError):
        return DENIED[error.code]
    return DENIED[Reason.UNDECLARED_ROUTE if isinstance(error, Unresolvable) else Reason.INTERNAL_ERROR]


def ends_task(error: BaseException) -> bool:
    """Whether ``error`` ends the task or the process, so that there is nobody left to answer."""
    if isinstance(error, Exception):
        return False
    inner = getattr(error, "exceptions", None)
    if inner is not None:  # an exception group that is not an Exception
        return any(ends_task(one) for one in inner)
    try:
        cancelled: type[BaseException] = anyio.get_cancelled_exc_class()
    except Exception:  # no event loop that anyio knows
        return True
    return isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, cancelled))
