"""Takes checkers in at the door: capgate's own as they are, an application's so that nothing but ``check`` is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio.from_thread

from ..errors import ConfigError, PolicyTimeout, ends_task
from ..limits import Limits
from ..model import Allow, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..runtime.bounded_wait import BoundedWait
from ..runtime.pool import PoolStatistics
from .base import DENIED, BatchResult, Checker, FollowStatus, PolicyChecker, decision, denial_for
from .cached import CachedChecker
from .following import FollowingChecker
from .local import LocalPolicyChecker
from .wasm import WasmPolicyChecker

#: The checkers that keep the deadline themselves, and answer in shorter ways as ``check`` does.
OWN: Final = (LocalPolicyChecker, WasmPolicyChecker, CachedChecker, FollowingChecker)
#: Their ways to an answer. Whoever overrides only one of the shorter ways would not be asked by ``check``.
_SHORTER: Final = (
    "answer_many_now",
    "answer_now",
    "ask",
    "ask_now",
    "current",
    "evaluate",
    "evaluate_many",
    "evaluate_many_now",
    "evaluate_now",
    "steady",
)


def as_checker(given: PolicyChecker, deadline: float = Limits().deadline) -> Checker:
    """Return ``given`` where it is capgate's own, else a :class:`ForeignChecker` that asks it. The only door.

    Own is what is exactly of a class of capgate's, or of a subclass that changes no way to an answer. ``deadline``, in
    seconds, is for the others.

    Raises :class:`ConfigError` for what has no ``check``, and for a subclass that overrides only a shorter way.
    """
    if isinstance(given, Checker) and _is_one_of(type(given), (*OWN, ForeignChecker)):
        return given
    if not callable(getattr(given, "check", None)):
        raise ConfigError("checker", given, "an object with an async check(input)")
    base = _base_of(given)
    if isinstance(given, Checker) and base is not None:
        replaced = [name for name in ("check", *_SHORTER) if _replaces(given, base, name)]
        if not replaced:
            return given
        if "check" not in replaced:
            raise ConfigError("checker", given, f"a checker that overrides check, and not only {', '.join(replaced)}")
    return ForeignChecker(given, deadline)


def _base_of(given: object) -> type | None:
    """Return the class of :data:`OWN` that the class of ``given`` is derived from, if any."""
    return next((cls for cls in type(given).__mro__ if _is_one_of(cls, OWN)), None)


def _is_one_of(cls: type, classes: tuple[type, ...]) -> bool:
    """Say whether ``cls`` is one of ``classes``: by identity, whatever a metaclass says of equality."""
    return any(cls is own for own in classes)


def _replaces(checker: Checker, base: type, name: str) -> bool:
    """Say whether ``name`` is something else in ``checker``, or in its class, than it is in ``base``."""
    way = getattr(base, name)
    if isinstance(way, property):  # which no attribute of an instance hides
        return getattr(type(checker), name) is not way
    bound = getattr(checker, name)
    return getattr(bound, "__func__", None) is not way or getattr(bound, "__self__", None) is not checker


class ForeignChecker(Checker):
    """An application's own checker, of which nothing but ``check`` is asked. Its owner closes it.

    Every question, and every batch of them, has one ``deadline``, in seconds. What is raised, what comes too late and
    what is no decision is a denial.
    """

    __slots__ = ("_deadline", "_given", "_known")

    def __init__(self, given: PolicyChecker, deadline: float) -> None:
        super().__init__()
        self._given = given
        self._deadline = deadline
        #: The same where its class is derived from one of capgate's: it answers differently, but has the same figures.
        self._known = given if isinstance(given, Checker) and _base_of(given) is not None else None

    @property
    def policy(self) -> PolicyInfo | None:
        """What the checker says of its policy, if it says anything."""
        try:
            info = getattr(self._given, "policy", None)
        except BaseException as error:  # it may raise anything; the event is written without
            if ends_task(error):
                raise
            return None
        return info if type(info) is PolicyInfo else None

    @property
    def knows_policy(self) -> bool:
        return self._known is not None

    @property
    def remembered(self) -> int | None:
        return None if self._known is None else self._known.remembered

    def statistics(self) -> PoolStatistics | None:
        return None if self._known is None else self._known.statistics()

    def status(self) -> FollowStatus | None:
        return None if self._known is None else self._known.status()

    # -- asking

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        """Return ``None``: there is no answer without waiting."""
        return None

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        """Return ``None``: there is no answer without waiting."""
        return None

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return (await self.ask((input,))).results[0]

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return (await self.ask(inputs)).results

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        return self.ask_now((input,)).results[0]

    def evaluate_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return self.ask_now(inputs).results

    async def ask(self, inputs: Sequence[PolicyInput], *, until_denied: bool = False) -> BatchResult:
        results: list[PolicyResult] = []
        try:
            with BoundedWait(self._deadline) as bound:
                for input in inputs:
                    results.append(decision(await self._given.check(input)))
                    if until_denied and type(results[-1]) is not Allow:
                        break
            if not bound.expired:
                return BatchResult(results, self.policy, None)
            late = PolicyTimeout(f"the checker did not answer within {self._deadline:g} s", limit="deadline")
            return BatchResult(_denials(denial_for(late), results, len(inputs), until_denied), self.policy, late)
        except BaseException as error:
            if ends_task(error):
                raise
            return BatchResult(_denials(denial_for(error), results, len(inputs), until_denied), self.policy, error)

    def ask_now(self, inputs: Sequence[PolicyInput]) -> BatchResult:
        """Answer as :meth:`ask` does, on the event loop of which this is a worker thread (``anyio.to_thread``).

        Elsewhere there is nobody to ask, and the answer is ``policy_unavailable``.
        """
        try:
            return anyio.from_thread.run(self.ask, inputs)
        except BaseException as error:
            if ends_task(error):
                raise
            return BatchResult([DENIED[Reason.POLICY_UNAVAILABLE]] * len(inputs), self.policy, error)

    async def start(self) -> None:
        """Start the checker, if it can be started."""
        start = getattr(self._given, "start", None)
        if start is not None:
            await start()


def _denials(denial: Deny, results: list[PolicyResult], count: int, until_denied: bool) -> list[PolicyResult]:
    """Return what becomes of ``count`` questions, of which ``results`` are the answers before something went wrong.

    All are denied. ``until_denied``, those that were allowed stay so, and the last one asked is denied: all but one of
    ``count`` at most, so that together they allow nothing.
    """
    if not until_denied:
        return [denial] * count
    allowed = [result for result in results if type(result) is Allow]
    return [*allowed[: count - 1], denial]
