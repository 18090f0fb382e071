"""What an endpoint, and what acts for it, may ask once the request was let in: :class:`Capabilities`.

The middleware hands one to each request, as ``request.state.capabilities``. Gated capabilities
(:mod:`capgate.capabilities`) ask the current one, so that code which uses them need not know of it
(:mod:`capgate.enforcement.current`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import anyio
import anyio.from_thread

from ..errors import CapabilityDenied, ConfigError, PolicyTimeout, PolicyUnavailable, ends_task
from ..events import new_decision_id
from ..model import Actor, Allow, Decision, Deny, PolicyInput, PolicyResult
from .actors import ACTORS
from .denials import refusal
from .point import Answers, Judge
from .questions import BATCH, Question, ResourceLike, inputs_of

__all__ = ["BATCH", "Capabilities", "Held", "Question", "ResourceLike"]


class Capabilities:
    """The gate in the hands of a handler: asks the policy for one actor, in the environment of its gate.

    ``check`` gives the decision, ``require`` raises :class:`~capgate.errors.CapabilityDenied` unless it is an allow,
    which the middleware answers with 403; a denial is an event either way. The methods that end in ``_now`` are for
    code that cannot await, such as a ``def`` endpoint; they wait for nothing but, in a worker thread, for a checker or
    an actor of the application's that has to be awaited. Nothing else is ever raised but what ends the task, or what
    going through ``questions`` raises: an error is a denial.
    """

    __slots__ = ()

    #: Who asks; ``None`` until that is known.
    _actor: Any

    # -- asking

    async def check(self, action: str, resource: ResourceLike = None, *, args_hash: str | None = None) -> PolicyResult:
        """The answer of the policy to ``action`` on ``resource``: ``"kind:id"``, or a :class:`Resource`."""
        return (await self._ask(((action, resource, args_hash),)))[0].result

    def check_now(self, action: str, resource: ResourceLike = None, *, args_hash: str | None = None) -> PolicyResult:
        """:meth:`check` for code that cannot await."""
        return self._ask_now(((action, resource, args_hash),))[0].result

    async def require(self, action: str, resource: ResourceLike = None, *, args_hash: str | None = None) -> None:
        """Raises :class:`CapabilityDenied` unless the policy allows ``action`` on ``resource``."""
        self._insist(await self._ask(((action, resource, args_hash),)))

    def require_now(self, action: str, resource: ResourceLike = None, *, args_hash: str | None = None) -> None:
        """:meth:`require` for code that cannot await."""
        self._insist(self._ask_now(((action, resource, args_hash),)))

    async def check_many(self, questions: Iterable[Question]) -> list[PolicyResult]:
        """One answer for each of ``questions``, up to :data:`BATCH`: by one policy, together under one deadline."""
        return [decision.result for decision in await self._ask(tuple(questions))]

    def check_many_now(self, questions: Iterable[Question]) -> list[PolicyResult]:
        """:meth:`check_many` for code that cannot await."""
        return [decision.result for decision in self._ask_now(tuple(questions))]

    async def require_all(self, questions: Iterable[Question]) -> None:
        """Raises :class:`CapabilityDenied`, with the first denial, unless all of ``questions`` are allowed. Asked
        nothing, it allows nothing."""
        self._insist(await self._ask(tuple(questions) or ((None, None),)))

    def require_all_now(self, questions: Iterable[Question]) -> None:
        """:meth:`require_all` for code that cannot await."""
        self._insist(self._ask_now(tuple(questions) or ((None, None),)))

    def deny(self, cause: BaseException) -> NoReturn:
        """Raise :class:`CapabilityDenied`, as an event too, because ``cause`` left nothing that could be asked: with
        its code where it is a :class:`~capgate.errors.PolicyError`, else ``internal_error``."""
        try:
            judge: Judge | None = self._judge()
        except PolicyUnavailable:
            judge = None
        (denial,) = self._denied(judge, 1, cause)
        self._note(denial)
        raise CapabilityDenied(denial) from cause

    def for_actor(self, actor: Actor) -> Capabilities:
        """The same gate asked for somebody else, as when a tool acts for the user of a request."""
        if type(actor) not in ACTORS:
            raise ConfigError("actor", actor, "Anonymous, User, Service or CompilerTool")
        return Held(self._judge(), actor, self)

    # -- what a request and a job differ in

    def _judge(self) -> Judge:
        raise NotImplementedError

    def _scope(self) -> Mapping[str, Any]:
        """The scope that events are written for; empty outside of requests."""
        raise NotImplementedError

    def _who(self, judge: Judge) -> Any:
        """The actor where ``_actor`` is ``None``, or an awaitable of it."""
        return None

    def _note(self, denial: Decision) -> None:
        """``denial`` is about to be raised."""

    # -- how

    def _insist(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if type(decision.result) is not Allow:
                self._note(decision)
                raise CapabilityDenied(decision)

    async def _ask(self, questions: Sequence[Any]) -> list[Decision]:
        judge, inputs = None, []
        try:
            judge = self._judge()
            actor = self._actor
            if actor is None:
                actor = await self._find_actor(judge)
            inputs = inputs_of(questions, actor, judge.env)
        except BaseException as error:
            if ends_task(error):
                raise
            return self._denied(judge, len(questions), error)
        return self._concluded(judge, inputs, await judge.ask(inputs))

    def _ask_now(self, questions: Sequence[Any]) -> list[Decision]:
        judge, inputs = None, []
        try:
            judge = self._judge()
            actor = self._actor
            if actor is None:
                actor = self._find_actor_now(judge)
            inputs = inputs_of(questions, actor, judge.env)
        except BaseException as error:
            if ends_task(error):
                raise
            return self._denied(judge, len(questions), error)
        return self._concluded(judge, inputs, judge.ask_now(inputs))

    async def _find_actor(self, judge: Judge) -> Any:
        found = self._who(judge)
        if inspect.isawaitable(found):
            with anyio.move_on_after(judge.deadline) as bound:
                found = await found
            if bound.cancelled_caught:
                raise PolicyTimeout("the actor was not known within the deadline")
        return self._remember(found)

    def _find_actor_now(self, judge: Judge) -> Any:
        found = self._who(judge)
        if inspect.isawaitable(found):
            if inspect.iscoroutine(found):
                found.close()
            return anyio.from_thread.run(self._find_actor, judge)
        return self._remember(found)

    def _remember(self, actor: Any) -> Any:
        if type(actor) not in ACTORS:
            raise TypeError(f"the actor is a {type(actor).__name__}")
        self._actor = actor
        return actor

    def _concluded(self, judge: Judge, inputs: list[PolicyInput], answers: Answers) -> list[Decision]:
        results, policy, cause = answers
        scope = self._scope()
        method, path = scope.get("method", scope.get("type")), scope.get("path")
        found = []
        for input, result in zip(inputs, results, strict=True):
            if type(result) is Deny:
                one = Decision(input, result, new_decision_id(), policy)
                judge.log.denied(
                    input, result, policy, decision_id=one.decision_id, method=method, path=path, cause=cause
                )
            else:
                one = Decision(input, result, None, policy)
                if judge.samples_allows:
                    judge.log.allowed(input, policy, method=method, path=path)
            found.append(one)
        return found

    def _denied(self, judge: Judge | None, count: int, cause: BaseException) -> list[Decision]:
        """Denials for questions that nobody could be asked."""
        return [refusal(judge, self._scope(), cause)] * count

    def __reduce__(self) -> NoReturn:
        raise TypeError("capabilities belong to a request of this process; they are not copied or pickled")


class Held(Capabilities):
    """Capabilities that belong to no request, or to another actor than the request's."""

    __slots__ = ("_actor", "_by", "_request")

    def __init__(self, judge: Judge, actor: Actor, request: Capabilities | None) -> None:
        self._actor = actor
        self._by = judge
        self._request = request

    def _judge(self) -> Judge:
        return self._by

    def _scope(self) -> Mapping[str, Any]:
        return {} if self._request is None else self._request._scope()

    def _note(self, denial: Decision) -> None:
        if self._request is not None:
            self._request._note(denial)
