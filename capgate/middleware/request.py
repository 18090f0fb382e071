"""Decides about one request, wherever a router of the application reaches a route: see :mod:`capgate.routes.dispatch`.

The way of nearly every request awaits nothing but the checker, and enters no cancel scope. What can wait (an
asynchronous actor, a body) has a limit of its own each, and a checker keeps its own.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Mapping, Sequence
from contextvars import Token
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope

from ..checker.base import DENIED as DENIAL
from ..checker.base import Checker, decisions, denial_for
from ..checker.cached import Memory
from ..enforcement.capabilities import Capabilities
from ..enforcement.given_facts import context_in_time
from ..enforcement.point import actor_in_time
from ..enforcement.response import LOGIN_STATUS, asks_for_login
from ..errors import ActorUnknown, ends_task
from ..events import DecisionLog, RequestFacts, new_decision_id
from ..log_writer import BackgroundLogger
from ..model import ACTORS, ANONYMOUS, Actor, Allow, Decision, Deny, PolicyInput, PolicyResult, Reason
from ..routes.declare import Requirements
from ..routes.dispatch import INSIDE
from ..routes.fitting import fitting_for
from ..routes.framework import Unresolvable
from ..routes.precedence import Needed, RouterPlace
from ..routes.seat import SEAT, UNDECIDED, Asked, Seat, SeatedRequest
from .actors import actor_from_user
from .gathering import Particulars, gather
from .request_state import RequestState
from .seal import ASKING, CLOSED, DENIED, OPEN, UNROUTED, Seal
from .startup import ContextOf, RequestPoint, Startup

_log = BackgroundLogger("capgate")

_GATED: Final = frozenset({"http", "websocket"})
#: Characters that no path of a well-meant request has: control characters, undecodable bytes as servers replace them,
#: surrogates.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")

#: What :meth:`GatedRequest.leave` undoes: the seat and the state that were in the scope, and a context variable.
Entered = tuple["Seat | None", RequestState, "Token[SeatedRequest | None]"]


class GatedRequest(Seal, eq=False):
    """One request at one gate. A :class:`~capgate.routes.seat.SeatedRequest`."""

    _startup: Startup = msgspec.field(default=None)  # type: ignore[assignment]  # given always, after what has defaults
    _point: RequestPoint | None = None  # none while nothing has started
    _capabilities: Capabilities | None = None  # once somebody looks at them
    _path: str = ""  # the path that was looked at last, and is well-formed
    _actor: Any = None  # who asks, or an awaitable of it
    _context: Any = None  # what else is known of the moment, once that is known
    _admitted: Actor | None = None  # who was allowed something last
    _recalled: tuple[Requirements, Any, Actor] | None = None  # what was allowed last, if without a question
    _inputs: Sequence[PolicyInput] = ()  # what is asked, where the answer has to be waited for
    _input: PolicyInput | None = None  # what was asked last, see _question
    _asked: Checker | None = None  # what gave the last answer
    _resolved: Any = None  # what a resolver was asked about last
    by_resolver: bool = False
    undeclared: tuple[Any, str] | None = None
    replay: Receive | None = None
    _started: int = 0  # when a question was made, in nanoseconds since the epoch

    # -- at the gate

    def enter_now(self) -> Entered | None:
        """Let the request in as far as the routers of the application, until :meth:`leave`.

        Returns ``None`` where it is not that simple, so that :meth:`enter` has to say.
        """
        scope, point = self.scope, self._point
        if point is None:
            return None
        path, place = scope.get("path"), point.begin
        usual = type(path) is str and path.isascii() and path.isprintable() and type(scope.get("method")) is str
        if not usual or place is None or scope.get("type") != "http":
            return None
        self._path = path  # type: ignore[assignment]  # it is text, see above
        if point.by_resolver:
            self.by_resolver = True
        # As _let_in() does, without its frame.
        outer, shared = scope.get(SEAT), scope.get("state")
        scope[SEAT] = Seat(self, place, False, outer)
        scope["state"] = state = RequestState({} if shared is None else shared, self)
        return outer, state, UNDECIDED.set(self)

    async def enter(self, receive: Receive) -> Entered | None:
        """Let the request in as far as the routers of the application, until :meth:`leave`; ``None`` if it is denied.

        Where no router can be seen, it is decided here about all of the application.
        """
        scope = self.scope
        try:
            if scope.get("type") not in _GATED:
                self._deny(scope, DENIAL[Reason.MALFORMED_INPUT])
                return None
            point = self._point
            if point is None:
                self._point = point = await self._startup.wait(scope)
            if not self._is_well_formed(scope, point):
                return None
            self.by_resolver = point.by_resolver
            place, outer = point.place, scope.get(SEAT)
            if isinstance(place, RouterPlace):
                return self._let_in(Seat(self, place, False, outer), outer)
            if isinstance(place, Exception):
                raise place
            params = scope.get("path_params", {})
            status, requirements = self.resolve(scope)[0] if point.by_resolver else place
            asked: Asked = "delegated" if status == "deferred" else status
            admitted = self.admit_now(scope, receive, asked, requirements, params)
            if admitted is None:
                admitted = await self.admit(scope, receive, asked, requirements, params)
            if admitted is not True:
                return None
            return self._let_in(Seat(self, INSIDE, True, outer), outer)
        except BaseException as error:
            if ends_task(error):
                raise
            self.deny(scope, error)
            return None

    def _let_in(self, seat: Seat, outer: Seat | None) -> Entered:
        scope = self.scope
        shared = scope.get("state")
        scope[SEAT] = seat
        scope["state"] = state = RequestState({} if shared is None else shared, self)
        return outer, state, UNDECIDED.set(self)

    @property
    def capabilities(self) -> Capabilities | None:
        """What the application asks with; ``None`` while nothing has started."""
        capabilities, point = self._capabilities, self._point
        if capabilities is None and point is not None:
            context = {} if point.context is None else self._context
            self._capabilities = capabilities = Capabilities(
                point, self._admitted, point.actor, self.scope, self, context, point.context
            )
        return capabilities

    def leave(self, entered: Entered) -> None:
        """Undo :meth:`enter`.

        The scope of a request that is over holds nothing that holds the request. So both are gone at once, with body
        and all, and not when garbage is collected.
        """
        outer, state, undecided = entered
        scope = self.scope
        if outer is None:
            scope.pop(SEAT, None)
        else:
            scope[SEAT] = outer
        if scope.get("state") is state:
            scope["state"] = state.shared
        if self._capabilities is not None:
            self._capabilities = None  # which have the request
        if self._startup.ends_capabilities:
            self.ended = True
        try:  # noqa: SIM105  # suppress() costs as much as all of this
            UNDECIDED.reset(undecided)
        except ValueError:  # a coroutine that is closed by the garbage collector, thus in another context
            pass

    # -- at a router

    @property
    def public(self) -> frozenset[str]:
        """The names of the routes that are open by configuration."""
        point = self._point
        return frozenset() if point is None else point.public

    def resolve(self, scope: Scope) -> tuple[Needed, Any]:
        """Return what the application's own resolver says that ``scope`` needs, and the path parameters.

        It is asked again only where what it was asked about has changed on the way.
        """
        point = self._point
        if point is None or point.resolver is None:
            raise Unresolvable("there is no resolver")
        params = scope.get("path_params", {})
        asked = tuple(map(scope.get, ("type", "method", "path", "root_path", "query_string")))
        if asked == self._resolved and self._state == OPEN:
            return ("public", ()), params
        needed = point.resolver(scope)
        self._resolved = asked
        return needed, params

    def admit_now(
        self, scope: Scope, receive: Receive, status: Asked, requirements: Requirements, params: Any
    ) -> bool | None:
        """Say whether the request may pass, or ``None`` where that has to be waited for. Once denied, it may not."""
        point = self._point
        if self._state == DENIED or point is None:
            return False
        path = scope["path"]
        if path is not self._path and not self._is_well_formed(scope, point):
            return False
        if status != "declared":
            return self._admit_unasked(scope, point, status)
        find = point.actor
        actor: Any = ANONYMOUS if find is actor_from_user and "user" not in scope else find(scope)
        self._actor = actor
        if type(actor) not in ACTORS or point.context is not None:
            return None
        asked = point.steady
        if asked is None:
            asked = point.checker.current
        self._asked = asked
        if (
            type(asked) is Memory
            and not (point.looks_at_allows and point.may_report_allow(asked))
            and asked.allowed(requirements, params, actor, point.env)
        ):
            # Nearly every request. No question is made, unless somebody wants to know what it would have been.
            self._recalled = requirements, params, actor
            self._state = OPEN
            self._admitted = actor
            if self._capabilities is not None:
                self._capabilities.actor = actor
            return True
        return self._ask_now(scope, point, asked, requirements, params)

    def _ask_now(
        self, scope: Scope, point: RequestPoint, asked: Checker, requirements: Requirements, params: Any
    ) -> bool | None:
        """Say whether ``asked`` allows each of ``requirements``, or ``None`` where that has to be waited for."""
        self._recalled = None
        self._started = time.time_ns()
        if len(requirements) == 1:
            first = requirements[0]
            if not first.reads:
                resource = first.resource(params) if first.template else first.fixed
                actor = self._actor
                self._input = input = PolicyInput(first.action, actor, resource, None, point.env, self._started)
                answer = asked.answer_now(input)
                if type(answer) is Allow:
                    self._state = OPEN
                    self._admitted = actor
                    if self._capabilities is not None:
                        self._capabilities.actor = actor
                    if point.looks_at_allows:
                        self._report_allows(scope, point, (input,))
                    return True
                if answer is not None:  # asked again, it might become another one
                    return self._settle(scope, answer) and self._open(scope, point, (), actor)
                self._inputs = (input,)
        elif not _reads(requirements):
            inputs = self._questions(point, requirements, params)
            results = asked.answer_many_now(inputs)
            if results is not None:
                return self._conclude(scope, point, inputs, decisions(results, len(inputs)), None)
            self._inputs = inputs
        return None

    async def admit(
        self, scope: Scope, receive: Receive, status: Asked, requirements: Requirements, params: Any
    ) -> bool:
        """Say whether the request may pass, where :meth:`admit_now` could not."""
        point = self._point
        if self._state == DENIED or point is None:
            return False
        inputs, self._inputs, self._recalled = self._inputs, (), None
        if inputs:
            asked = self._asked or point.checker.current
            results, _, cause = await asked.ask(inputs, until_denied=not point.only_monitors)
        else:
            self._started = time.time_ns()
            actor = self._actor
            if inspect.isawaitable(actor):
                self._actor = None
                self._actor = actor = await actor_in_time(actor, point.actor_seconds)
            if type(actor) not in ACTORS:
                raise ActorUnknown(actor, "is what was returned for the actor")
            if point.context is not None:
                await self._find_context(scope, point, point.context)
            particulars = None
            if _reads(requirements):
                particulars, body = await gather(requirements, scope, receive, params, point)
                if body is not None:
                    self.replay = body.again(receive)
            inputs = self._questions(point, requirements, params, particulars)
            self._asked = asked = point.checker.current
            results, _, cause = await asked.ask(inputs, until_denied=not point.only_monitors)
        if len(inputs) != len(requirements):
            self._deny(scope, DENIAL[Reason.INTERNAL_ERROR])
            return False
        return self._conclude(scope, point, inputs, results, cause)

    def _conclude(
        self,
        scope: Scope,
        point: RequestPoint,
        inputs: Sequence[PolicyInput],
        results: Sequence[PolicyResult],
        cause: BaseException | None,
    ) -> bool:
        """Say whether there is an allow for each of ``inputs``, of which there is at least one."""
        allowed = []
        for input, result in zip(inputs, results, strict=False):
            if type(result) is Allow:
                allowed.append(input)
                continue
            self._input = input
            if not self._settle(scope, result, cause):
                return False
        if not len(results) == len(inputs) > 0:
            self._deny(scope, DENIAL[Reason.MALFORMED_RESULT], cause)
            return False
        return self._open(scope, point, allowed, inputs[0].actor)

    def _open(self, scope: Scope, point: RequestPoint, allowed: Sequence[PolicyInput], actor: Actor) -> bool:
        """Let the request pass, unless it was denied elsewhere meanwhile. What was ``allowed`` becomes known now."""
        if self._state == DENIED:
            return False
        self._state = OPEN
        self._admitted = actor
        if self._capabilities is not None:
            self._capabilities.actor = actor
        if point.looks_at_allows:  # now, because until here it could still become a denial
            self._report_allows(scope, point, allowed)
        return True

    def _admit_unasked(self, scope: Scope, point: RequestPoint, status: Asked) -> bool:
        if status in ("public", "delegated"):
            self._state = OPEN
        elif status == "deferred":
            self._state = ASKING
        elif status == "unrouted" and point.passes_unknown_routes:
            if self._state == CLOSED:
                self._state = UNROUTED
        else:
            unresolved = status not in ("undeclared", "unrouted")
            reason = Reason.INTERNAL_ERROR if unresolved else Reason.UNDECLARED_ROUTE
            if not self._settle(scope, DENIAL[reason]):
                return False
            self._state = OPEN
        return True

    async def _find_context(self, scope: Scope, point: RequestPoint, find: ContextOf) -> None:
        self._context = await context_in_time(find, scope, point.actor_seconds)
        if self._capabilities is not None:
            self._capabilities.context = self._context

    def _questions(
        self,
        point: RequestPoint,
        requirements: Requirements,
        params: Mapping[str, Any],
        particulars: Sequence[Particulars] | None = None,
    ) -> list[PolicyInput]:
        """Return one for each of ``requirements``, of which there is at least one."""
        inputs = []
        actor, env, started = self._actor, point.env, self._started
        context: Mapping[str, Any] = {} if point.context is None else self._context
        for number, requirement in enumerate(requirements):
            asked = Particulars(requirement.resource(params)) if particulars is None else particulars[number]
            self._input = PolicyInput(
                requirement.action, actor, asked.resource, asked.digest, env, started, asked.args, context
            )
            inputs.append(self._input)
        return inputs

    def _is_well_formed(self, scope: Scope, point: RequestPoint) -> bool:
        """Say whether path and method are such that a router can be asked about them; else the request is denied."""
        path: Any = scope.get("path")
        if type(path) is str and (scope["type"] != "http" or type(scope.get("method")) is str):
            clean = (path.isascii() and path.isprintable()) or _UNCLEAN.search(path) is None
            if clean or not point.strict_paths:
                self._path = path
                return True
        self._deny(scope, DENIAL[Reason.MALFORMED_INPUT])
        return False

    # -- denials and events

    def deny(self, scope: Scope, cause: BaseException) -> None:
        """Deny the request, because of what went wrong on the way to the question."""
        unresolved = isinstance(cause, Unresolvable)
        self._deny(scope, DENIAL[Reason.UNDECLARED_ROUTE] if unresolved else denial_for(cause), cause)

    @property
    def _shown_reason(self) -> str | None:
        return self._reason if self._startup.exposes_reasons else None

    def _challenge_for(self, input: PolicyInput | None, result: object) -> str | None:
        challenge = self._startup.challenge
        return challenge if challenge is not None and asks_for_login(input, result) else None

    def settle_response(self) -> bool:
        """Deny the request, because it was answered and nothing was asked. Say whether it goes on all the same."""
        return self._settle(self.scope, DENIAL[Reason.UNASKED_RESPONSE])

    def _settle(self, scope: Scope, result: Any, cause: BaseException | None = None) -> bool:
        """Say whether the request goes on in spite of a denial, because its gate only monitors; else deny it.

        It never goes on after a denial that counted, nor where the event of this one could not be made.
        """
        point = self._point
        if point is None or point.always_enforces or not point.only_monitors or self._state == DENIED:
            self._deny(scope, result, cause)
            return False
        denial = result if type(result) is Deny and type(result.reason) is str else DENIAL[Reason.MALFORMED_RESULT]
        try:
            duration, fitting = self._duration_us(), self._fitting(scope, denial)
            facts = RequestFacts.of(scope, duration_us=duration, cause=cause, env=point.env, fitting=fitting)
            policy = (self._asked or point.checker).policy
            settled = point.settle_denial(Decision(self._question(), denial, new_decision_id(), policy), facts)
        except Exception as error:
            self._deny(scope, denial, error)
            return False
        if type(settled.result) is Allow:
            return True
        self._deny(scope, denial, cause)  # the time of monitoring ended a moment ago; then this is told twice
        return False

    def _fitting(self, scope: Scope, denial: Deny) -> str | None:
        """Return the line that would declare the route, where it was the want of one that would have been denied."""
        if denial.reason != Reason.UNDECLARED_ROUTE or self.undeclared is None:
            return None
        return fitting_for(*self.undeclared, scope.get("method"))

    def _deny(self, scope: Scope, result: Any, cause: BaseException | None = None) -> None:
        """Deny the request for good, and report it. What is not a decision is a denial too."""
        if self._state == DENIED:
            return
        self._state = DENIED
        self.denied = True
        denial = result if type(result) is Deny and type(result.reason) is str else DENIAL[Reason.MALFORMED_RESULT]
        self._reason = denial.reason
        if self._startup.challenge is not None:
            self._challenge = self._challenge_for(self._question(), denial)
            if self._challenge is not None and scope.get("type") == "http":
                self._status = LOGIN_STATUS
        self._denial_id = new_decision_id()
        try:
            point = self._point
            method = scope.get("method", scope.get("type"))
            if point is None:
                policy, env, log = None, self._startup.env, DecisionLog()
            else:
                policy, env, log = (self._asked or point.checker).policy, point.env, point.log
            facts = RequestFacts(method, scope.get("path"), self._duration_us(), cause, env)
            input = self._input if self._recalled is None else self._question()
            log.denied(Decision(input, denial, self._denial_id, policy), facts)
        except Exception as error:  # whatever it was, the denial stands
            _log.error("a denial could not be reported: %s", type(error).__name__)

    def _report_allows(self, scope: Scope, point: RequestPoint, inputs: Sequence[PolicyInput]) -> None:
        """Report an allow for each of ``inputs``."""
        asked = self._asked or point.checker.current
        for input in inputs:
            point.report_allow(asked, input, lambda: RequestFacts.of(scope, duration_us=self._duration_us()))

    def _question(self) -> PolicyInput | None:
        """Return what was asked last, or would have been had the answer not been known; ``None`` for nothing."""
        recalled, point = self._recalled, self._point
        if recalled is not None and point is not None:
            requirements, params, actor = recalled
            last = requirements[-1]
            self._recalled = self._input = None
            try:
                resource = last.resource(params)
            except Exception:  # somebody inside has changed the parameters since
                return None
            self._input = PolicyInput(last.action, actor, resource, None, point.env, time.time_ns())
        return self._input

    def _duration_us(self) -> float:
        return (time.time_ns() - self._started) / 1_000 if self._started else 0.0


def _reads(requirements: Requirements) -> bool:
    return any(requirement.reads for requirement in requirements)
