"""Answers without a question: what is declared safe, and what was decided before.

Neither turns a fault into an allow. What is remembered is an answer of the policy itself, to an input that differs in
nothing that the policy looks at. What that is, capgate knows of documents and of modules that it built. Of any other
module a manifest says it, and whoever signed that is trusted to have said the truth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from ..actions import VOCABULARY, Vocabulary
from ..errors import ConfigError
from ..events import DecisionLog
from ..facts import has_actor_facts, has_facts, weigh_actor, weigh_facts
from ..model import (
    ALLOW,
    ANONYMOUS,
    DEFAULT_ENVIRONMENT,
    REASONS,
    Actor,
    Allow,
    Anonymous,
    CompilerTool,
    Deny,
    Environment,
    PolicyInfo,
    PolicyInput,
    PolicyResult,
    Reason,
    Resource,
    Service,
    User,
)
from ..policy import MonitoredRule, is_well_formed
from ..runtime.abi.fixed import SLOTS
from ..runtime.pool import PoolStatistics
from ..spelling import SPELLINGS, normal_id
from .base import ChangingChecker, Checker, FollowStatus
from .local import LocalPolicyChecker
from .wasm import WasmPolicyChecker

if TYPE_CHECKING:
    from ..routes.declare import Requirement

#: Most decisions that are remembered.
LARGEST: Final = 1_000_000
#: How many are remembered where nobody says how many: as many different questions as a busy application has in a while.
#: One takes some 300 bytes, and at most 2,200. So these take about one megabyte, and at most nine.
USUAL: Final = 4_096
#: The parts of an input that a key can have. A policy that looks at anything else, as at the time, has no key.
KEYED: Final = frozenset({"action", "actor", "args_hash", "mode", "resource", "service"})
#: Most declarations of which it is known at once that they are allowed. More are looked up part by part.
SETTLED: Final = 1_024
#: Codes of capgate's own, which stand for faults; and an action that is unknown now may be registered later.
_FAULTS: Final = REASONS - {Reason.MISSING_RESOURCE, Reason.NOT_IN_ALLOWLIST}
#: Bytes of a reason that is remembered. Each part of an input fits into its slot, which bounds memory too; and so
#: every input with a known key is within ``limits.input_bytes``, which is not less than all slots together.
_REASON: Final = 256
#: Once all is full, one of so many new answers takes the place of the oldest. So questions that are all different cost
#: little, and do not drive out those that come again.
ADMITTED: Final = 8
#: After so many questions in a row that were new when all was full, nothing seems to come again: then it is looked for
#: one question of :data:`ADMITTED`, until that was asked before.
PATIENCE: Final = 256
_NO_ENVIRONMENT: Final = object()
_RESOURCE_OF: Final = attrgetter("fixed")
_ATTRIBUTES_OF: Final = attrgetter("attributes")
_ACTION, _ACTOR, _RESOURCE = SLOTS["action"], SLOTS["actor"], SLOTS["resource"]
_ENV, _HASH = SLOTS["env"], SLOTS["args_hash"]
_U64: Final = 2**64
_SAFE: Final = "'action' or 'action kind:id', each exactly as it is asked"
_UNKEYED: Final = "0, or nothing, for a policy that does not say which inputs it looks at, or looks at the time"

Operation = tuple[str, Any, Any]
#: Action, kind and id of the resource, and whatever else the policy looks at.
Key = tuple[Any, ...]


class CachedChecker(ChangingChecker):
    """In front of another checker of capgate's own. Owns it.

    ``safe`` are operations that are allowed unasked, exact: ``"action kind:id"``, or ``"action"`` for questions
    without a resource. At most ``size`` decisions are remembered: 0 for none, up to 1,000,000. With ``None`` it is
    :data:`USUAL` where the policy says which inputs it looks at, and else 0. The oldest is forgotten first, and all of
    them once ``inner`` has another policy, or is closed. A fault is never remembered.

    An answer counts for the same action and resource. Where the policy looks at actor, mode, service or hash of
    arguments, these are the same, too. Where it may look at facts, inputs with any are asked about each time. So are
    those with long texts.

    Raises :class:`ConfigError`, also where a number is asked for and the policy does not say which inputs it looks at.
    A class that is derived from one of capgate's answers for what its ``inputs`` say; one with a ``check`` of its own
    is rejected, since nobody here would ask that.
    """

    __slots__ = ("_for_good", "_memory", "_safe", "_size", "inner")

    def __init__(
        self,
        inner: Checker,
        *,
        safe: Sequence[str] = (),
        size: int | None = 0,
        vocabulary: Vocabulary = VOCABULARY,
        events: DecisionLog | None = None,
    ) -> None:
        super().__init__(vocabulary, events)
        if not has_own_check(inner):
            raise ConfigError("checker", inner, "one of capgate's own whose check() nobody has overridden")
        if size is not None and (type(size) is not int or not 0 <= size <= LARGEST):
            raise ConfigError("cache_size", size, f"a whole number from 0 to {LARGEST:,}")
        if size and not is_keyed(inner.current.inputs):
            raise ConfigError("cache_size", size, _UNKEYED)
        self.inner = inner
        self._safe = frozenset(_operation(text, vocabulary) for text in safe)
        self._size = USUAL if size is None else size
        self._memory = Memory(inner.current, self._safe, self._size)
        #: A document and a module have one policy for good; a derived class may have any.
        self._for_good = type(inner) is LocalPolicyChecker or type(inner) is WasmPolicyChecker

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
        memory = self._memory
        if self._for_good:
            return memory
        asked = self.inner.current
        if memory.asked is not asked or memory.policy is not asked.policy:
            # Two threads may each make one. Neither has an answer of another policy in it, whichever stays.
            self._memory = memory = Memory(asked, self._safe, memory.size)
        return memory

    @property
    def steady(self) -> Checker | None:
        return self._memory if self._for_good else None

    @property
    def facts_room(self) -> int:
        return self.inner.facts_room

    @property
    def remembered(self) -> int:
        return len(self.current.known)

    def statistics(self) -> PoolStatistics | None:
        return self.inner.statistics()

    def status(self) -> FollowStatus | None:
        return self.inner.status()

    async def check(self, input: PolicyInput) -> PolicyResult:
        current = self.current
        result = current.answer_now(input)
        if result is ALLOW:
            return result
        if result is None:
            result = await current.evaluate(input)
        if type(result) is Deny:
            self._report(input, result, current)
        return result

    async def start(self) -> None:
        await self.inner.start()
        if self._memory.size != self._size:  # it was closed before
            self._memory.empty(self._size)

    async def aclose(self) -> None:
        self._memory.empty(0)
        await self.inner.aclose()


class Memory(Checker):
    """What one policy answered, and that policy.

    An answer gets in here only from ``asked``. So whoever is late, on whatever thread, puts nothing where another
    policy's answers are. No lock is taken: each step on ``known`` is one that threads cannot interrupt.
    """

    __slots__ = (
        "_count",
        "_env",
        "_guarded",
        "_key",
        "_key_of_parts",
        "_looks_further",
        "_missed",
        "_mortal",
        "_order",
        "_room",
        "_safe",
        "_settled",
        "_turned_away",
        "asked",
        "known",
        "policy",
        "size",
    )

    policy: PolicyInfo | None

    def __init__(self, asked: Checker, safe: frozenset[Operation], size: int) -> None:
        super().__init__()
        self.asked = asked
        self.policy = asked.policy
        self._room = asked.facts_room
        self._key, self._key_of_parts = key_functions(asked.inputs if size else None, self._room)
        #: Whether the policy may look at anything else than action and resource.
        self._looks_further = asked.inputs is None or not asked.inputs <= {"action", "resource"}
        #: The environment that was last known to be short enough.
        self._env: Environment | object = _NO_ENVIRONMENT
        self._safe = safe
        #: What expires: an answer that was an allow is none afterwards.
        self._mortal = None if asked.expires is None else asked
        self._guarded = bool(safe) or self._mortal is not None
        self._count = asked.count_answer
        self.empty(size)

    def empty(self, size: int) -> None:
        """Forget everything, and remember no more than ``size`` from now on."""
        # In this order: an answer that arrives meanwhile is put where nobody looks any more, or nowhere.
        self.size = size
        self.known: dict[Key | None, PolicyResult] = {}  # nothing is ever under None
        #: The keys, the oldest first. Whoever adds one takes one away, so there are as many as ``size`` at most.
        self._order: deque[Key] = deque()
        self._missed = self._turned_away = 0
        #: Declarations that are allowed whoever asks, wherever, by their identity; with the attributes of their first
        #: resource, and of the others, which were none, and are all that can change of them.
        self._settled: dict[int, tuple[Sequence[Requirement], dict[str, str] | None, tuple[dict[str, str], ...]]] = {}

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
    def facts_room(self) -> int:
        return self._room

    @property
    def remembered(self) -> int:
        return len(self.known)

    def statistics(self) -> PoolStatistics | None:
        return self.asked.statistics()

    @property
    def monitors_rules(self) -> bool:
        return self.asked.monitors_rules

    def would_deny(self, input: PolicyInput) -> MonitoredRule | None:
        """Return what :attr:`asked` does, also of an answer that was remembered; ``None`` of what is safe."""
        return None if self._safe and _is_safe(input, self._safe) else self.asked.would_deny(input)

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        if result is None:
            key = self._key(input)
            result = await self.asked.evaluate(input)
            if key is not None:
                self._remember(key, input, result)
        return result

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        return self.asked.evaluate_now(input) if result is None else result

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        results = self.answer_many_now(inputs)
        return await self.asked.evaluate_many(inputs) if results is None else results

    def evaluate_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        results = self.answer_many_now(inputs)
        return self.asked.evaluate_many_now(inputs) if results is None else results

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        keys = [self._key(input) for input in inputs]
        results = [self._recall(key, input) for key, input in zip(keys, inputs, strict=True)]
        unknown = [at for at, result in enumerate(results) if result is None]
        if unknown:
            answers = self.asked.answer_many_now([inputs[at] for at in unknown])
            if answers is None or len(answers) != len(unknown):
                return None
            for at, answer in zip(unknown, answers, strict=True):
                results[at] = answer
                key = keys[at]
                if key is not None:
                    self._remember(key, inputs[at], answer)
        return [result for result in results if result is not None]

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        if self._missed >= PATIENCE and not self._safe:
            self._missed = missed = self._missed + 1
            if missed % ADMITTED:
                return self.asked.answer_now(input)
        key = self._key(input)
        if self._guarded:
            result = self._recall(key, input)
        else:  # as that does it, without its frame: nearly every request takes this way
            result = self.known.get(key)
            if result is not None:
                if self._missed:
                    self._missed = 0
                if self._count is not None:
                    self._count()
        if result is None:
            result = self.asked.answer_now(input)
            if key is not None and result is not None:
                self._remember(key, input, result)
        return result

    def allowed(self, wanted: Sequence[Requirement], params: Mapping[str, Any], actor: Actor, env: Environment) -> bool:
        """Say whether all of ``wanted`` were allowed before, to ``actor`` if the policy looks at that.

        It is for whoever need not make questions then. Where this says no, nothing is known: ask. Raises
        :class:`LookupError` where a parameter is missing.
        """
        settled, known, env_known = self._settled, self.known, env is self._env
        if self._missed >= PATIENCE or (self._mortal is not None and self._mortal.expired):
            return False
        if actor is not ANONYMOUS:
            actor_class = type(actor)
            if actor_class is not User and actor_class is not Service and actor_class is not CompilerTool:
                return False
            name = actor.id  # type: ignore[union-attr]  # these have one
            if type(name) is not str or len(name) > _ACTOR or not name.isascii():
                return False
            if has_actor_facts(actor) and not _fit(weigh_actor, actor, self._room):
                return False
        before = settled.get(id(wanted)) if env_known else None
        if before is None or before[0] is not wanted or before[1] or (before[2] and any(before[2])):
            only_texts, fixed, count = not self._looks_further and env_known, True, 0
            for part in wanted:
                sole, resource = part.sole, part.fixed
                kind: str | None
                if sole is not None and resource is None and part.template:
                    kind, name, fixed = part.kind, params[sole], False
                elif sole is not None or part.template:
                    return False
                elif type(resource) is Resource and not resource.attributes and resource.kind is not None:
                    kind, name = resource.kind, resource.id
                elif resource is None:
                    kind = name = None
                else:
                    return False
                if part.reads:
                    return False
                action = part.action
                if only_texts and type(action) is type(kind) is type(name) is str:
                    key: Key | None = action, kind, name  # as _key_of_parts() makes it
                else:
                    key = self._key_of_parts(action, kind, name, actor, env, None)
                if type(known.get(key)) is not Allow:
                    return False
                count += 1
            if not count == len(wanted) > 0:
                return False
            self._env = env  # which is short, as there was a key
            if fixed and only_texts and len(settled) < SETTLED:
                attributes = tuple(map(_ATTRIBUTES_OF, filter(None, map(_RESOURCE_OF, wanted))))
                settled[id(wanted)] = wanted, attributes[0] if attributes else None, attributes[1:]
        if self._missed:
            self._missed = 0
        if self._count is not None:
            for _ in wanted:
                self._count()
        return True

    def _recall(self, key: Key | None, input: PolicyInput) -> PolicyResult | None:
        """Return what is known about ``input`` without a question. Nothing is known about what is malformed."""
        if self._safe and _is_safe(input, self._safe):
            return ALLOW
        if self._mortal is not None and self._mortal.expired:
            return None
        result = self.known.get(key)
        if result is not None:
            self._missed = 0
            if self._count is not None:
                self._count()
        return result

    def _remember(self, key: Key, input: PolicyInput, result: PolicyResult) -> None:
        known, order = self.known, self._order
        room = self.size - len(order)
        if room <= 0:
            self._missed += 1
            self._turned_away = turn = self._turned_away + 1
            if turn % ADMITTED or not self.size:
                return
        if type(result) is not Allow and not _is_answer(result):
            return
        action, kind, id = key[0], key[1] or "", key[2] or ""
        if not (_fits(action, _ACTION) and _fits(kind + id, _RESOURCE)) or key in known:
            return
        if not self._room and has_facts(input):
            return  # added while the question was asked, and perhaps looked at
        if room <= 0:
            try:  # noqa: SIM105  # suppress() costs as much as all of this
                known.pop(order.popleft(), None)
            except IndexError:  # other threads took the rest away
                pass
        known[key] = result
        order.append(key)


def has_own_check(checker: Checker) -> bool:
    """Say whether ``check`` of ``checker`` is capgate's own. Whoever overrides it wants to be asked by that alone."""
    check = getattr(checker, "check", None)
    return getattr(check, "__self__", None) is checker and getattr(check, "__func__", None) in _CHECKS


#: The functions that answer what :meth:`Checker.evaluate` does, with an event.
_CHECKS: Final = frozenset({Checker.check, WasmPolicyChecker.check, CachedChecker.check})


# -- what an answer depends on


def is_keyed(inputs: frozenset[str] | None) -> bool:
    """Say whether answers of a policy that looks at ``inputs`` can be remembered."""
    return inputs is not None and inputs <= KEYED


def key_function(inputs: frozenset[str] | None, room: int = 0) -> Callable[[PolicyInput], Key | None]:
    """Return the function of an input of :func:`key_functions`."""
    return key_functions(inputs, room)[0]


def key_functions(
    inputs: frozenset[str] | None, room: int = 0
) -> tuple[Callable[[PolicyInput], Key | None], Callable[[Any, Any, Any, Any, Any, Any], Key | None]]:
    """Return a function of an input that gives all that a policy which looks at ``inputs`` may tell inputs apart by.

    And one of its parts: action, kind and id of the resource, actor, environment and hash. It gives the same for an
    input with these parts, with no facts or such that were looked at, and with the time of now.

    Facts are no part of a key. Where the policy certainly looks at none, ``room`` is what they may weigh, and they are
    looked at each time. Where it may, that is 0, and an input with any has no key.

    Either gives ``None`` for what is not to be remembered, and raises nothing. What is not in the key is looked at each
    time: if one input with a key is well-formed, and no longer than it may be, so is every other. Action and resource
    are in every key, because checkers look at them whatever a policy does.

    Texts are ``str`` itself, because a derived class may equal anything. What has several parts is immutable, so it is
    told by its identity that it was looked at before.
    """
    if inputs is None or not inputs <= KEYED:
        return _no_key, _no_key
    looks_at_actor, looks_at_hash = "actor" in inputs, "args_hash" in inputs
    looks_at_mode, looks_at_service = "mode" in inputs, "service" in inputs
    looks_further = not inputs <= {"action", "resource"}
    known_env = DEFAULT_ENVIRONMENT

    def key(input: PolicyInput) -> Key | None:
        if type(input) is not PolicyInput:
            return None
        timestamp, resource = input.timestamp, input.resource
        if type(timestamp) is not int or not 0 <= timestamp < _U64:
            return None
        kind = id = None
        facts: Any = input.args or input.context
        if resource is not None:
            if type(resource) is not Resource or type(resource.attributes) is not dict:
                return None
            kind, id, facts = resource.kind, resource.id, facts or resource.attributes
            if type(kind) is not str:
                return None
        actor: Any = input.actor
        if actor is not ANONYMOUS and not facts:
            actor_class = type(actor)
            if actor_class is User or actor_class is Service or actor_class is CompilerTool:
                facts = actor.roles or actor.scopes or actor.attributes or actor.on_behalf_of is not None
        if facts and not _fit(weigh_facts, input, room):
            return None
        return key_of_parts(input.action, kind, id, actor, input.env, input.args_hash)

    def key_of_parts(action: Any, kind: str | None, id: Any, actor: Any, env: Any, digest: Any) -> Key | None:
        nonlocal known_env
        who = None
        if actor is not ANONYMOUS:
            actor_class = type(actor)
            if actor_class is User or actor_class is Service or actor_class is CompilerTool:
                who = actor.id
                if type(who) is not str or len(who) > _ACTOR or not (who.isascii() or _fits(who, _ACTOR)):
                    return None
            elif actor_class is not Anonymous:
                return None
        if env is not known_env:
            if not _is_short_env(env):
                return None
            known_env = env
        if digest is not None and (type(digest) is not str or not _fits(digest, _HASH)):
            return None
        if type(action) is not str or (type(id) is not str and id is not None):
            return None
        if type(kind) is not str and (kind is not None or id is not None):
            return None
        if not looks_further:
            return action, kind, id
        return (
            action,
            kind,
            id,
            type(actor) if looks_at_actor else None,
            who if looks_at_actor else None,
            env.mode if looks_at_mode else None,
            env.service if looks_at_service else None,
            digest if looks_at_hash else None,
        )

    return key, key_of_parts


def _fit(weigh: Callable[[Any], int], whose: Any, room: int) -> bool:
    """Say whether the facts of ``whose`` are facts, and weigh no more than ``room``."""
    if not room:
        return False
    try:
        return weigh(whose) <= room
    except Exception:  # of what is no fact, which is malformed
        return False


def _no_key(*parts: Any) -> None:
    """Return ``None``: nothing is remembered."""


def _is_short_env(env: object) -> bool:
    if type(env) is not Environment or type(env.service) is not str or type(env.mode) is not str:
        return False
    return _fits(env.service + env.mode, _ENV)


def _fits(text: str, room: int) -> bool:
    """Say whether ``text`` is Unicode, and takes at most ``room`` bytes, in UTF-8 and also in Python's memory.

    Beyond ASCII a character counts as the four bytes that it may take.
    """
    if text.isascii():
        return len(text) <= room
    if 4 * len(text) > room:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_answer(result: object) -> bool:
    """Say whether ``result`` is a denial by the policy, and no fault."""
    if type(result) is not Deny or type(result.reason) is not str:
        return False
    return result.reason not in _FAULTS and _fits(result.reason, _REASON)


# -- safe operations


def _operation(text: str, vocabulary: Vocabulary) -> Operation:
    action, space, resource = text.partition(" ") if isinstance(text, str) else ("", "", "")
    kind, colon, id = resource.partition(":")
    known = vocabulary.get(action)
    if known is None or bool(space) != bool(kind and colon and id) or (space and known.kind not in (None, kind)):
        raise ConfigError("safe", text, f"{_SAFE}, with an action that is registered and its kind of resource")
    if not space:
        return action, None, None
    normal = normal_id(kind, id)
    if normal is None:
        raise ConfigError("safe", text, f"{_SAFE}, of which the id is {SPELLINGS[kind].valid}")
    return action, kind, normal


def _is_safe(input: PolicyInput, safe: frozenset[Operation]) -> bool:
    try:
        resource = input.resource
        operation = (input.action, None, None) if resource is None else (input.action, resource.kind, resource.id)
        return operation in safe and is_well_formed(input)
    except Exception:  # of an input that is none: the checker behind says what is wrong with it
        return False
