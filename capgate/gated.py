"""One request at the gate: from its scope to ``Allow`` or ``Deny``.

The way of nearly every request awaits nothing but the checker, and enters no cancel scope. What can wait (an
asynchronous actor, a body, a checker that is not known to bound itself) is together under one deadline.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Final

import anyio
from starlette.types import Message, Receive, Scope, Send

from .actors import ACTORS
from .checker import DENIED, Answering
from .declare import Requirement, Requirements
from .errors import MalformedInput, PolicyUnavailable
from .events import DecisionLog, new_decision_id
from .gate import Gate, GateSource
from .handlers import Capabilities, denial_in
from .judge import Judge, decisions, denied_for, ends_task
from .model import ALLOW, Allow, Decision, Deny, PolicyInput, PolicyResult, Reason
from .refusal import refuse
from .routing import DEFERRED, PUBLIC, Unresolvable

_log = logging.getLogger("capgate")

_GATED: Final = frozenset({"http", "websocket"})
#: What a response begins with; early hints and the like may come before it.
_BEGINNINGS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)
#: Characters that no path of a well-meant request has: control characters, undecodable bytes as servers replace them,
#: surrogates.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")


class GatedRequest(Capabilities):
    """One request at one gate, and afterwards the :class:`Capabilities` of its handler. ``receive`` and ``send`` are
    what to pass on: the one replays what was read, the other notes that a response began."""

    __slots__ = (
        "_asked",
        "_began",
        "_gate",
        "_input",
        "_raised",
        "_replaced",
        "_send",
        "_source",
        "_started",
        "decision_id",
        "receive",
        "scope",
    )

    def __init__(self, source: GateSource, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self._began = False
        self._source = source
        self._gate = source.gate
        self._asked: Answering | None = None  # what gave the last answer
        self._actor = None
        self._input: PolicyInput | None = None
        self._raised: Decision | None = None
        self._replaced: bool  # once something was raised
        self._started = time.time_ns()

    async def decide(self) -> PolicyResult:
        """``Allow`` only if everything that the endpoint declares was allowed. Raises nothing but what ends the task.

        After a denial, which has been reported, ``decision_id`` is that of its event.
        """
        try:
            scope = self.scope
            if scope.get("type") not in _GATED:
                return self._refused(DENIED[Reason.MALFORMED_INPUT])
            gate = self._gate or await self._start()
            if _is_malformed(scope, gate.strict_paths):
                return self._refused(DENIED[Reason.MALFORMED_INPUT])
            requirements, params = gate.resolve(scope)
            if type(requirements) is not tuple:
                open = requirements is PUBLIC or requirements is DEFERRED
                return ALLOW if open else self._refused(DENIED[Reason.INTERNAL_ERROR])
            if not requirements:
                return self._refused(DENIED[Reason.UNDECLARED_ROUTE])
            actor: Any = gate.actor(scope)
            first = requirements[0]
            if not gate.bounds_itself or type(actor) not in ACTORS or _needs_body(requirements):
                result = await self._wait_and_ask(gate, requirements, params, actor)
            else:
                self._actor = actor
                self._asked = asked = gate.answering if gate.moves else gate
                if len(requirements) == 1:  # nearly every request: nothing is called here that need not be
                    resource = first.resource(params) if first.template else first.fixed
                    self._input = input = PolicyInput(first.action, actor, resource, None, gate.env, self._started)
                    answer = asked.answer_now(input)
                else:
                    answer = self._ask_batch(gate, asked, requirements, params, actor)
                if answer is not None:
                    if type(answer) is not Allow:
                        return self._refused(answer)
                    if gate.samples_allows and len(requirements) == 1:
                        self._report_allow(gate)
                    return answer
                result = await self._ask_all(gate, requirements, params, actor, None)
            if type(result) is not Allow:
                return self._refused(result)
            if gate.by_routes:
                self._check_unmoved(gate, requirements, params)
            return result
        except BaseException as error:
            if ends_task(error):
                raise
            return self._refused(_denied_for(error), error)

    def send(self, message: Message) -> Awaitable[None]:
        """Pass ``message`` on. Once a response began, a denial can no longer be it."""
        if self._raised is not None:
            return self._send_after_denial(self._raised, message)
        if not self._began:
            self._began = message["type"] in _BEGINNINGS
        return self._send(message)

    async def refuse(self, result: PolicyResult, decision_id: str | None) -> None:
        """Make the denial the response; of a websocket that was accepted, its end."""
        reason = getattr(result, "reason", None) if self._source.exposes_reasons else None
        await refuse(self.scope, self._send, decision_id or new_decision_id(), reason, accepted=self._began)
        self._began = True

    async def answers(self, error: Exception) -> bool:
        """Whether ``error`` is a denial that is now the response, or was already."""
        denial = denial_in(error)
        if denial is None:
            return False
        if self._raised is not None and self._replaced:
            return True
        if self._began and self.scope["type"] == "http":
            return False
        await self.refuse(denial.result, denial.decision_id)
        return True

    async def _send_after_denial(self, denial: Decision, message: Message) -> None:
        """A handler was denied, and something is sent. A server error is what frameworks make of an exception that
        they do not know, and becomes the denial; any other response is the handler's own."""
        if self._replaced:
            return
        if not self._began and message["type"] == "http.response.start" and message["status"] >= 500:
            self._replaced = True
            await self.refuse(denial.result, denial.decision_id)
            return
        self._began = self._began or message["type"] in _BEGINNINGS
        await self._send(message)

    async def _start(self) -> Gate:
        self._gate = gate = await self._source.wait(self.scope)
        return gate

    def _judge(self) -> Judge:
        if self._gate is None:
            raise PolicyUnavailable("the gate of this request did not start")
        return self._gate

    def _scope(self) -> Scope:
        return self.scope

    def _note(self, denial: Decision) -> None:
        if self._raised is None:
            self._replaced = False
        self._raised = denial

    def _who(self, judge: Judge) -> Any:
        return None if self._gate is None else self._gate.actor(self.scope)

    def _ask_batch(
        self, gate: Gate, asked: Answering, requirements: Requirements, params: Mapping[str, Any], actor: Any
    ) -> PolicyResult | None:
        """The decision where nothing has to be waited for, else ``None``."""
        inputs = self._questions(gate, requirements, params, actor, None)
        results = asked.answer_many_now(inputs)
        return None if results is None else self._weigh(gate, inputs, results)

    def _check_unmoved(self, gate: Gate, requirements: Requirements, params: Mapping[str, Any]) -> None:
        """What was allowed is still what the request reaches: routes may have been added while something was waited
        for."""
        found, now = gate.resolve(self.scope)
        if found != requirements or any(one.resource(now) != one.resource(params) for one in requirements):
            raise Unresolvable("the route is another one than when its policy was asked")

    async def _ask_all(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any, digest: str | None
    ) -> PolicyResult:
        """The same, waiting for the answers. A checker of the application's has no batches, and is asked until it
        denies."""
        inputs = self._questions(gate, requirements, params, actor, digest)
        if gate.bounds_itself:
            self._asked = asked = gate.answering
            return self._weigh(gate, inputs, await asked.evaluate_many(inputs))
        results: list[PolicyResult] = []
        while len(results) < len(inputs) and all(type(result) is Allow for result in results):
            self._input = inputs[len(results)]
            results.append(await gate.evaluate(self._input))
        return self._weigh(gate, inputs[: len(results)], results)

    def _weigh(self, gate: Gate, inputs: list[PolicyInput], results: object) -> PolicyResult:
        """The first answer that is not an allow, else an allow."""
        answers = decisions(results, len(inputs))
        for self._input, result in zip(inputs, answers, strict=True):
            if type(result) is not Allow:
                return result
        if gate.samples_allows:
            for self._input in inputs:
                self._report_allow(gate)
        return answers[0]

    def _questions(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any, digest: str | None
    ) -> list[PolicyInput]:
        """One for each of ``requirements``, of which there is at least one."""
        return [self._question(gate, requirement, params, actor, digest) for requirement in requirements]

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
            self._remember(actor)
            digest = await self._hash_body(gate.body_bytes) if _needs_body(requirements) else None
            result = await self._ask_all(gate, requirements, params, actor, digest)
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

    def _refused(self, result: Any, cause: BaseException | None = None) -> Deny:
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
            None if gate is None else (self._asked or gate).policy,
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
        gate.log.allowed(
            self._input, (self._asked or gate).policy, duration_us=duration_us, method=method, path=self.scope["path"]
        )

    def _duration_us(self) -> float:
        return (time.time_ns() - self._started) / 1_000


def _is_malformed(scope: Scope, strict: bool) -> bool:
    """Whether the scope lacks what it must have, or its path has what strict paths have not."""
    path = scope.get("path")
    if type(path) is not str or (type(scope.get("method")) is not str and scope["type"] == "http"):
        return True
    return not (path.isascii() and path.isprintable()) and strict and _UNCLEAN.search(path) is not None


def _needs_body(requirements: Requirements) -> bool:
    if len(requirements) == 1:
        return requirements[0].args_hash is not None
    for requirement in requirements:  # noqa: SIM110  # a generator would cost as much as the rest of this
        if requirement.args_hash is not None:
            return True
    return False


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
    return DENIED[Reason.UNDECLARED_ROUTE] if isinstance(error, Unresolvable) else denied_for(error)
