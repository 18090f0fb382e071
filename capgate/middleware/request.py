"""Decides about one request, from its scope to ``Allow`` or ``Deny``, and passes on what it sends and receives.

The way of nearly every request awaits nothing but the checker, and enters no cancel scope. What can wait (an
asynchronous actor, a body) is together under one deadline.

``send`` notes when a response began, since a denial can be the response only before that. ``receive`` gives the
application a body that was read for its hash.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Mapping, MutableMapping, Sequence
from contextvars import Token
from typing import Any, Final

import anyio
import msgspec
from starlette.types import Message, Receive, Scope, Send

from ..checker.base import DENIED, Checker, decisions, denial_for
from ..enforcement.capabilities import Capabilities
from ..enforcement.current import CURRENT
from ..enforcement.point import denial_in
from ..enforcement.response import refuse
from ..errors import MalformedInput, PolicyUnavailable, ends_task
from ..events import DecisionLog, RequestFacts, new_decision_id
from ..model import ACTORS, ALLOW, Allow, Decision, Deny, PolicyInput, PolicyResult, Reason
from ..routes.declare import Requirements
from ..routes.framework import Unresolvable
from ..routes.routing import DEFERRED, PUBLIC
from .startup import RequestPoint, Startup

_log = logging.getLogger("capgate")

_GATED: Final = frozenset({"http", "websocket"})
#: Characters that no path of a well-meant request has: control characters, undecodable bytes as servers replace them,
#: surrogates.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")
#: What a response begins with; early hints and the like may come before it.
_BEGINNINGS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)
#: Where the capabilities are in the state of a request.
_NAME: Final = "capabilities"

#: What :func:`take_back` undoes: the context variable, and what was under the same name in the state of the request.
Handed = tuple["Token[Capabilities]", MutableMapping[str, Any], Any]


class GatedRequest(msgspec.Struct, eq=False):
    """One request, and the denial that may take the place of its response.

    ``receive`` and ``send`` are what to pass on. A Struct, because it is made in a third of the time that an
    ``__init__`` in Python takes, once for each request.
    """

    _startup: Startup
    scope: Scope
    receive: Receive
    _send: Send
    _point: RequestPoint | None  # none while nothing has started
    _began: bool = False
    _raised: Decision | None = None  # the last denial that a handler was told of
    _replaced: bool = False
    _actor: Any = None
    _input: PolicyInput | None = None  # what was asked last
    _asked: Checker | None = None  # what gave the last answer
    _started: int = msgspec.field(default_factory=time.time_ns)
    decision_id: str | None = None  # of the event of a denial

    # -- deciding

    async def decide(self) -> PolicyResult:
        """Return ``Allow`` only if everything that the endpoint declares was allowed.

        After a denial, which has been reported, ``decision_id`` is that of its event. Raises nothing but what ends the
        task.
        """
        try:
            scope, point = self.scope, self._point
            kind = scope.get("type")
            if kind not in _GATED:
                return self._deny(DENIED[Reason.MALFORMED_INPUT])
            if point is None:
                self._point = point = await self._startup.wait(scope)
            path = scope.get("path")
            if type(path) is not str or (kind == "http" and type(scope.get("method")) is not str):
                return self._deny(DENIED[Reason.MALFORMED_INPUT])
            if not (path.isascii() and path.isprintable()) and point.strict_paths and _UNCLEAN.search(path) is not None:
                return self._deny(DENIED[Reason.MALFORMED_INPUT])
            requirements, params = point.resolve(scope)
            if type(requirements) is not tuple:
                open = requirements is PUBLIC or requirements is DEFERRED
                return ALLOW if open else self._deny(DENIED[Reason.INTERNAL_ERROR])
            if not requirements:
                return self._deny(DENIED[Reason.UNDECLARED_ROUTE])
            actor: Any = point.actor(scope)
            first = requirements[0]
            if len(requirements) == 1 and first.args_hash is None and type(actor) in ACTORS:
                # Nearly every request: nothing is called here that need not be.
                resource = first.resource(params) if first.template else first.fixed
                self._input = input = PolicyInput(first.action, actor, resource, None, point.env, self._started)
                asked = point.steady
                if asked is None:
                    asked = point.checker.current
                self._asked = asked
                answer = asked.answer_now(input)
                if answer is ALLOW or type(answer) is Allow:
                    if point.samples_allows:
                        self._report_allows(point, (input,))
                    return answer
                if answer is not None:  # asked again, it might become another one
                    return self._deny(answer)
            return await self._ask_rest(point, requirements, params, actor)
        except Unresolvable as error:
            return self._deny(DENIED[Reason.UNDECLARED_ROUTE], error)
        except BaseException as error:
            if ends_task(error):
                raise
            return self._deny(denial_for(error), error)

    async def _ask_rest(
        self, point: RequestPoint, requirements: Requirements, params: Mapping[str, Any], actor: Any
    ) -> PolicyResult:
        """Decide where there are several questions, or something may have to be waited for."""
        results: list[PolicyResult] | None = None
        cause, waited = None, True
        if type(actor) in ACTORS and not _needs_body(requirements):
            self._actor = actor
            inputs = self._questions(point, requirements, params, actor, None)
            self._asked = asked = point.checker.current
            results = asked.answer_many_now(inputs)
            if results is not None:
                results, waited = decisions(results, len(inputs)), False
            else:
                results, _, cause = await asked.ask(inputs, until_denied=True)
        else:
            inputs = []
            with anyio.move_on_after(point.deadline) as bound:
                if inspect.isawaitable(actor):
                    actor = await actor
                if type(actor) not in ACTORS:
                    raise TypeError(f"the actor is a {type(actor).__name__}")
                self._actor, digest = actor, None
                if _needs_body(requirements):
                    digest = await self._hash_body(point.body_bytes)
                inputs = self._questions(point, requirements, params, actor, digest)
                self._asked = asked = point.checker.current
                results, _, cause = await asked.ask(inputs, until_denied=True)
                if anyio.current_time() >= bound.deadline:  # no answer counts after it
                    results = None
        if results is None:
            return self._deny(DENIED[Reason.POLICY_TIMEOUT])
        for input, result in zip(inputs, results, strict=False):
            if type(result) is not Allow:
                self._input = input
                return self._deny(result, cause)
        if not len(results) == len(inputs) == len(requirements) > 0:
            return self._deny(DENIED[Reason.MALFORMED_RESULT])
        if waited and point.by_routes:
            self._require_unmoved(point, requirements, params)
        if point.samples_allows:  # now, because until here it could still become a denial
            self._report_allows(point, inputs)
        return results[0]

    def _questions(
        self, point: RequestPoint, requirements: Requirements, params: Mapping[str, Any], actor: Any, digest: str | None
    ) -> list[PolicyInput]:
        """Return one for each of ``requirements``, of which there is at least one."""
        if self._input is not None and len(requirements) == 1:  # to which there was no answer without waiting
            return [self._input]
        inputs = []
        for requirement in requirements:
            hashed = digest if requirement.args_hash else None
            resource = requirement.resource(params)
            self._input = PolicyInput(requirement.action, actor, resource, hashed, point.env, self._started)
            inputs.append(self._input)
        return inputs

    def _require_unmoved(self, point: RequestPoint, requirements: Requirements, params: Mapping[str, Any]) -> None:
        """Raise :class:`Unresolvable` unless the request still reaches what was allowed.

        Routes may have been added while something was waited for.
        """
        needed, now = point.resolve(self.scope)
        if needed != requirements or any(part.resource(now) != part.resource(params) for part in requirements):
            raise Unresolvable("the route is another one than when its policy was asked")

    # -- events

    def _deny(self, result: Any, cause: BaseException | None = None) -> Deny:
        """Return the denial that ``result`` stands for, reported. What is not a decision is a denial too."""
        denial = result if type(result) is Deny and type(result.reason) is str else DENIED[Reason.MALFORMED_RESULT]
        self.decision_id = new_decision_id()
        try:
            point = self._point
            if point is None:
                policy, env, log = None, self._startup.env, DecisionLog()
            else:
                policy, env, log = (self._asked or point.checker).policy, point.env, point.log
            facts = RequestFacts.of(self.scope, duration_us=self._duration_us(), cause=cause, env=env)
            log.denied(Decision(self._input, denial, self.decision_id, policy), facts)
        except Exception as error:  # whatever it was, the denial stands
            _log.error("a denial could not be reported: %s", type(error).__name__)
        return denial

    def _report_allows(self, point: RequestPoint, inputs: Sequence[PolicyInput]) -> None:
        """Report an allow for each of ``inputs``."""
        policy = (self._asked or point.checker).policy
        facts = RequestFacts.of(self.scope, duration_us=self._duration_us())
        for input in inputs:
            point.log.allowed(Decision(input, ALLOW, None, policy), facts)

    def _duration_us(self) -> float:
        return (time.time_ns() - self._started) / 1_000

    # -- after an allow

    def hand_out(self) -> Handed:
        """Make new capabilities those of this request, and the current ones, until :func:`take_back`."""
        point, input, scope = self._point, self._input, self.scope
        if point is None:
            raise PolicyUnavailable("nobody was asked about this request")
        actor = self._actor if input is None else input.actor
        capabilities = Capabilities(point, actor, point.actor, scope, self)
        state = scope["state"] if "state" in scope else None  # noqa: SIM401  # get() takes twice as long, here and below
        if state is None:
            scope["state"] = state = {}
        before = state[_NAME] if _NAME in state else CURRENT  # noqa: SIM401
        state[_NAME] = capabilities
        return CURRENT.set(capabilities), state, before

    def send(self, message: Message) -> Awaitable[None]:
        """Pass ``message`` on. Once a response began, a denial can no longer be it."""
        if self._raised is not None:
            return self._send_after_denial(self._raised, message)
        if not self._began:
            self._began = message["type"] in _BEGINNINGS
        return self._send(message)

    async def refuse(self, result: PolicyResult, decision_id: str | None) -> None:
        """Make the denial the response; of a websocket that was accepted, its end."""
        reason = getattr(result, "reason", None) if self._startup.exposes_reasons else None
        await refuse(self.scope, self._send, decision_id or new_decision_id(), reason, accepted=self._began)
        self._began = True

    async def answers(self, error: Exception) -> bool:
        """Say whether ``error`` is a denial that is now the response, or was already."""
        denial = denial_in(error)
        if denial is None:
            return False
        if self._raised is not None and self._replaced:
            return True
        if self._began and self.scope["type"] == "http":
            return False
        await self.refuse(denial.result, denial.decision_id)
        return True

    def note(self, denial: Decision) -> None:
        """Note that a handler is told of ``denial``."""
        if self._raised is None:
            self._replaced = False
        self._raised = denial

    async def _send_after_denial(self, denial: Decision, message: Message) -> None:
        """Pass ``message`` on, or send the denial in its place.

        A handler was denied. A server error is what frameworks make of an exception that they do not know, and becomes
        the denial; any other response is the handler's own.
        """
        if self._replaced:
            return
        if not self._began and message["type"] == "http.response.start" and message["status"] >= 500:
            self._replaced = True
            await self.refuse(denial.result, denial.decision_id)
            return
        self._began = self._began or message["type"] in _BEGINNINGS
        await self._send(message)

    async def _hash_body(self, limit: int) -> str:
        """Return the SHA-256 of the body in 64 hex digits, and keep the body for the application.

        It has at most ``limit`` bytes. Raises :class:`MalformedInput`, or what ``receive`` raises.
        """
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

    # What a Struct can do and this must not: show the request with all its headers.

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    __repr__ = object.__repr__


def _needs_body(requirements: Requirements) -> bool:
    return any(requirement.args_hash is not None for requirement in requirements)


def take_back(handed: Handed) -> None:
    """Undo :meth:`GatedRequest.hand_out`.

    The state of a request that is over holds nothing that holds the request. So both are gone at once, with body and
    all, and not when garbage is collected.
    """
    token, state, before = handed
    if before is not CURRENT:
        state[_NAME] = before
    elif _NAME in state:  # in place of nothing
        del state[_NAME]
    try:  # noqa: SIM105  # suppress() costs as much as all of this
        CURRENT.reset(token)
    except ValueError:  # a coroutine that is closed by the garbage collector, thus in another context
        pass


def _replay(body: bytes, receive: Receive) -> Receive:
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
