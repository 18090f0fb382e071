"""Answers without a question: what is declared safe, and what was decided before.

Both are off unless settings ask for them, and neither turns a fault into an allow. What is remembered is an answer of
the policy itself, to an input that differs in nothing that the policy looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from ..actions import VOCABULARY, Vocabulary
from ..errors import ConfigError
from ..events import DecisionLog
from ..model import ALLOW, REASONS, Allow, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason, Resource
from ..policy import is_well_formed
from ..runtime.pool import PoolStatistics
from .base import ChangingChecker, Checker, FollowStatus

#: Most decisions that are remembered.
LARGEST: Final = 1_000_000
#: Codes of capgate's own, which stand for faults; and an action that is unknown now may be registered later.
_FAULTS: Final = REASONS - {Reason.MISSING_RESOURCE, Reason.NOT_IN_ALLOWLIST}
#: Characters of one text of an input that is remembered, so that the cache is bounded in bytes too.
_TEXT: Final = 256
_U64: Final = 2**64
_SAFE: Final = "'action' or 'action kind:id', each exactly as it is asked"

Operation = tuple[str, Any, Any]


class CachedChecker(ChangingChecker):
    """In front of another checker of capgate's own. Owns it.

    ``safe`` are operations that are allowed unasked, exact: ``"action kind:id"``, or ``"action"`` for questions
    without a resource. So many decisions as ``size`` says (0 for none, up to 1,000,000) are remembered. The oldest is
    forgotten first, and all of them once ``inner`` has another policy. An error or a timeout is never remembered.
    Raises :class:`ConfigError`, also where ``size`` is asked for and the policy does not say which inputs it looks at.
    """

    __slots__ = ("_memory", "_safe", "_size", "inner")

    def __init__(
        self,
        inner: Checker,
        *,
        safe: Sequence[str] = (),
        size: int = 0,
        vocabulary: Vocabulary = VOCABULARY,
        events: DecisionLog | None = None,
    ) -> None:
        super().__init__(vocabulary, events)
        if type(size) is not int or not 0 <= size <= LARGEST:
            raise ConfigError("cache_size", size, f"a whole number from 0 to {LARGEST:,}")
        self.inner = inner
        self._safe = frozenset(_operation(text, vocabulary) for text in safe)
        self._size = size
        self._memory = Memory(inner.current, self._safe, size)
        if size and not self._memory.usable:
            valid = "0 for a policy that does not say which inputs it looks at, or looks at the time"
            raise ConfigError("cache_size", size, valid)

    @property
    def policy(self) -> PolicyInfo | None:
        return self.inner.policy

    @property
    def inputs(self) -> frozenset[str] | None:
        return self.inner.inputs

    @property
    def expires(self) -> float | None:
        return self.inner.expires

    @property
    def expired(self) -> bool:
        return self.inner.expired

    @property
    def current(self) -> Memory:
        asked, memory = self.inner.current, self._memory
        if memory.asked is not asked or memory.policy is not asked.policy:
            # Two threads may each make one. Neither has an answer of another policy in it, whichever stays.
            self._memory = memory = Memory(asked, self._safe, self._size)
        return memory

    @property
    def remembered(self) -> int:
        return len(self.current.known)

    def statistics(self) -> PoolStatistics | None:
        return self.inner.statistics()

    def status(self) -> FollowStatus | None:
        return self.inner.status()

    async def start(self) -> None:
        await self.inner.start()

    async def aclose(self) -> None:
        self._memory = Memory(self.inner.current, self._safe, 0)
        await self.inner.aclose()


class Memory(Checker):
    """What one policy answered, and that policy.

    An answer gets in here only from ``asked``. So whoever is late, on whatever thread, puts nothing where another
    policy's answers are.
    """

    __slots__ = ("_looks_at_hash", "_mortal", "_safe", "_size", "asked", "known", "policy", "usable")

    policy: PolicyInfo | None

    def __init__(self, asked: Checker, safe: frozenset[Operation], size: int) -> None:
        super().__init__()
        inputs = asked.inputs
        self.asked = asked
        self.policy = asked.policy
        self.usable = inputs is not None and "timestamp" not in inputs
        self.known: dict[object, PolicyResult] = {}
        self._looks_at_hash = inputs is None or "args_hash" in inputs
        self._safe = safe
        self._size = size
        #: What expires: an answer that was an allow is none afterwards.
        self._mortal = None if asked.expires is None else asked

    @property
    def inputs(self) -> frozenset[str] | None:
        return self.asked.inputs

    @property
    def expires(self) -> float | None:
        return self.asked.expires

    @property
    def expired(self) -> bool:
        return self.asked.expired

    @property
    def remembered(self) -> int:
        return len(self.known)

    def statistics(self) -> PoolStatistics | None:
        return self.asked.statistics()

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        if result is None:
            result = await self.asked.evaluate(input)
            self._remember(input, result)
        return result

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        return self.asked.evaluate_now(input) if result is None else result

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        results = self.answer_many_now(inputs)
        return await self.asked.evaluate_many(inputs) if results is None else results

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        results = [self._look_up(input) for input in inputs]
        unknown = [input for input, result in zip(inputs, results, strict=True) if result is None]
        if not unknown:
            return [result for result in results if result is not None]
        answers = self.asked.answer_many_now(unknown)
        if answers is None or len(answers) != len(unknown):
            return None
        for input, answer in zip(unknown, answers, strict=True):
            self._remember(input, answer)
        fresh = iter(answers)
        return [next(fresh) if result is None else result for result in results]

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        result = self._look_up(input)
        if result is None:
            result = self.asked.answer_now(input)
            if result is not None:
                self._remember(input, result)
        return result

    def _look_up(self, input: PolicyInput) -> PolicyResult | None:
        """Return what is known about ``input`` without a question. Nothing is known about what is malformed."""
        try:
            if self._safe and _operation_of(input) in self._safe and is_well_formed(input):
                return ALLOW
            if not self._size or (self._mortal is not None and self._mortal.expired):
                return None
            key = self._key(input)
            return self.known.get(key) if key is not None and self.usable else None
        except Exception:  # of an input that is none: the checker behind says what is wrong with it
            return None

    def _remember(self, input: PolicyInput, result: PolicyResult) -> None:
        if not self._size or (type(result) is not Allow and not _is_answer(result)):
            return
        key = self._key(input)
        known = self.known
        if key is None or not self.usable:
            return
        if len(known) >= self._size:
            with suppress(RuntimeError, StopIteration):  # another thread forgot something at the same time
                known.pop(next(iter(known)), None)
        if len(known) < self._size:
            known[key] = result

    def _key(self, input: PolicyInput) -> object | None:
        """Return everything that the policy may look at, or ``None`` for what is not remembered.

        Two inputs with one key are both well-formed or neither is.
        """
        resource, timestamp, digest = input.resource, input.timestamp, input.args_hash
        if type(input) is not PolicyInput or type(timestamp) is not int or not 0 <= timestamp < _U64:
            return None
        if digest is not None and not (type(digest) is str and len(digest) <= _TEXT and digest.isascii()):
            return None
        # Where the policy does not look at it, its length still counts towards the limit of an input.
        kept = digest if digest is None or self._looks_at_hash else len(digest)
        if resource is None:
            return input.action, input.actor, input.env, kept
        if type(resource) is not Resource or type(resource.attributes) is not dict or resource.attributes:
            return None
        id = resource.id
        if id is not None and len(id) > _TEXT:
            return None
        if len(getattr(input.actor, "id", "")) > _TEXT:
            return None
        return input.action, input.actor, input.env, kept, resource.kind, id


def _is_answer(result: object) -> bool:
    return type(result) is Deny and type(result.reason) is str and result.reason not in _FAULTS


def _operation(text: str, vocabulary: Vocabulary) -> Operation:
    action, space, resource = text.partition(" ") if isinstance(text, str) else ("", "", "")
    kind, colon, id = resource.partition(":")
    known = vocabulary.get(action)
    if known is None or bool(space) != bool(kind and colon and id) or (space and known.kind not in (None, kind)):
        raise ConfigError("safe", text, f"{_SAFE}, with an action that is registered and its kind of resource")
    return (action, kind, id) if space else (action, None, None)


def _operation_of(input: PolicyInput) -> Operation:
    resource = input.resource
    return (input.action, None, None) if resource is None else (input.action, resource.kind, resource.id)
