"""One request at the gate: from its scope to ``Allow`` or ``Deny``.

The way of nearly every request awaits nothing but the checker, and enters no cancel scope. What can wait (an
asynchronous actor, a body, a checker that is not known to bound itself) is together under one deadline.
"""

from __future__ import annotations

import inspect
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import msgspec
from starlette.types import Scope

from ..checker.local import DENIED, Answering
from ..enforcement.actors import ACTORS
from ..enforcement.point import Judge, decisions, denied_for
from ..errors import PolicyUnavailable, ends_task
from ..events import DecisionLog, new_decision_id
from ..model import ALLOW, Allow, Deny, PolicyInput, PolicyResult, Reason
from ..routes.declare import Requirements
from ..routes.framework import Unresolvable
from ..routes.routing import DEFERRED, PUBLIC
from .channels import Channels
from .gate import Gate

_log = logging.getLogger("capgate")

_GATED: Final = frozenset({"http", "websocket"})
#: Characters that no path of a well-meant request has: control characters, undecodable bytes as servers replace them,
#: surrogates.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")


class GatedRequest(Channels, eq=False):
    """One request at one gate, and afterwards the :class:`~capgate.enforcement.capabilities.Capabilities` of its handler."""

    _actor: Any = None
    _input: PolicyInput | None = None  # what was asked last
    _asked: Answering | None = None  # what gave the last answer
    _weighed: Sequence[PolicyInput] = ()  # of which all were allowed, where the first was not asked alone
    _started: int = msgspec.field(default_factory=time.time_ns)
    decision_id: str | None = None  # of the event of a denial

    async def decide(self) -> PolicyResult:
        """``Allow`` only if everything that the endpoint declares was allowed. Raises nothing but what ends the task.

        After a denial, which has been reported, ``decision_id`` is that of its event.
        """
        try:
            scope, gate = self.scope, self._gate
            kind = scope.get("type")
            if kind not in _GATED:
                return self._refused(DENIED[Reason.MALFORMED_INPUT])
            if gate is None:
                self._gate = gate = await self._source.wait(scope)
            path = scope.get("path")
            if type(path) is not str or (kind == "http" and type(scope.get("method")) is not str):
                return self._refused(DENIED[Reason.MALFORMED_INPUT])
            if not (path.isascii() and path.isprintable()) and gate.strict_paths and _UNCLEAN.search(path) is not None:
                return self._refused(DENIED[Reason.MALFORMED_INPUT])
            requirements, params = gate.resolve(scope)
            if type(requirements) is not tuple:
                open = requirements is PUBLIC or requirements is DEFERRED
                return ALLOW if open else self._refused(DENIED[Reason.INTERNAL_ERROR])
            if not requirements:
                return self._refused(DENIED[Reason.UNDECLARED_ROUTE])
            actor: Any = gate.actor(scope)
            first = requirements[0]
            if len(requirements) == 1 and first.args_hash is None and gate.bounds_itself and type(actor) in ACTORS:
                # Nearly every request: nothing is called here that need not be.
                resource = first.resource(params) if first.template else first.fixed
                self._input = input = PolicyInput(first.action, actor, resource, None, gate.env, self._started)
                self._asked = asked = gate.answering if gate.moves else gate
                answer = asked.answer_now(input)
                if answer is ALLOW or type(answer) is Allow:
                    if gate.samples_allows:
                        self._report_allow(gate)
                    return answer
                if answer is not None:
                    return self._refused(answer)
            result = await self._ask_rest(gate, requirements, params, actor)
            if type(result) is not Allow:
                return self._refused(result)
            return result
        except BaseException as error:
            if ends_task(error):
                raise
            return self._refused(_denied_for(error), error)

    def _judge(self) -> Judge:
        if self._gate is None:
            raise PolicyUnavailable("the gate of this request did not start")
        return self._gate

    def _scope(self) -> Scope:
        return self.scope

    def _who(self, judge: Judge) -> Any:
        if self._input is not None:
            return self._input.actor
        return None if self._gate is None else self._gate.actor(self.scope)

    async def _ask_rest(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any
    ) -> PolicyResult:
        """Several questions, or something that may have to be waited for."""
        if not gate.bounds_itself or type(actor) not in ACTORS or _needs_body(requirements):
            result = await self._wait_and_ask(gate, requirements, params, actor)
        else:
            self._actor = actor
            if len(requirements) > 1:  # one alone was asked already, and found nobody idle
                inputs = self._questions(gate, requirements, params, actor, None)
                self._asked = asked = gate.answering
                results = asked.answer_many_now(inputs)
                if results is not None:
                    return self._weigh(gate, inputs, results)
            result = await self._ask_all(gate, requirements, params, actor, None)
        if type(result) is Allow:
            if gate.by_routes:
                self._check_unmoved(gate, requirements, params)
            if gate.samples_allows:  # now, because until here it could still become a denial
                allowed = self._weighed
                for self._input in allowed:
                    self._report_allow(gate)
        return result

    def _check_unmoved(self, gate: Gate, requirements: Requirements, params: Mapping[str, Any]) -> None:
        """What was allowed is still what the request reaches: routes may have been added while something was waited
        for."""
        found, now = gate.resolve(self.scope)
        if found != requirements or any(one.resource(now) != one.resource(params) for one in requirements):
            raise Unresolvable("the route is another one than when its policy was asked")

    async def _ask_all(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any, digest: str | None
    ) -> PolicyResult:
        """The answers to all, waited for. A checker of the application's has no batches, and is asked until it
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
        self._weighed = inputs
        return answers[0]

    def _questions(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any, digest: str | None
    ) -> list[PolicyInput]:
        """One for each of ``requirements``, of which there is at least one."""
        inputs = []
        for one in requirements:
            hashed = digest if one.args_hash else None
            self._input = PolicyInput(one.action, actor, one.resource(params), hashed, gate.env, self._started)
            inputs.append(self._input)
        return inputs

    async def _wait_and_ask(
        self, gate: Gate, requirements: Requirements, params: Mapping[str, Any], actor: Any
    ) -> PolicyResult:
        """The same where more can wait: all of it together under the deadline, and no answer counts after it."""
        with anyio.move_on_after(gate.deadline) as bound:
            if inspect.isawaitable(actor):
                actor = await actor
            self._remember(actor)
            digest = await self._hash_body(gate.body_bytes) if _needs_body(requirements) else None
            result = await self._ask_all(gate, requirements, params, actor, digest)
            if anyio.current_time() < bound.deadline:
                return result
        return DENIED[Reason.POLICY_TIMEOUT]

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


def _needs_body(requirements: Requirements) -> bool:
    return any(requirement.args_hash is not None for requirement in requirements)


def _denied_for(error: BaseException) -> Deny:
    return DENIED[Reason.UNDECLARED_ROUTE] if isinstance(error, Unresolvable) else denied_for(error)
