"""Writes decision events: who asked for what, and what was answered, as one structured log record per decision.

Denials are always recorded, at ``WARNING``, also those that do not count (``would_deny``); allows are sampled, at
``INFO``. Records go to the logger ``capgate.decisions``. They have the event as a dict, ``record.capgate``. The message
is the same as one line of JSON in printable ASCII, made when a handler asks for it. The fields are those of
:class:`DecisionEvent` and no others, so no header, token, query or body can get into a log. Facts of a question (roles,
scopes, attributes, arguments, context, for whom somebody acts) are in it where settings list them (``log_facts``). Text
that comes from outside is escaped the way Python escapes it in a literal, and cut to :data:`TEXT_LIMIT` characters.

A sink that raises changes no decision: the event is dropped, and :func:`statistics` counts it. What the handlers of
:mod:`logging` do with an error of their own is theirs (``logging.raiseExceptions``). Handlers that may block get their
records on a thread of their own (:mod:`capgate.log_writer`), so a slow one holds up nobody; :func:`flush` waits for it.
Other sinks run where the decision is made. Events are taken before the response: at most once.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from .errors import ActorTimeout, ActorUnknown, BodyTimeout, FactsUnavailable, StartTimeout
from .facts import INT_HIGHEST, INT_LOWEST
from .log_writer import CLOSING, WRITER, Records, is_enabled
from .logged_facts import FactsReader, facts_reader
from .model import (
    ACTORS,
    ANONYMOUS,
    DEFAULT_ENVIRONMENT,
    Allow,
    Decision,
    Deny,
    Environment,
    PolicyInfo,
    PolicyInput,
    Resource,
)

LOGGER: Final = "capgate.decisions"
#: Characters of one field; of longer text the event says how long it was.
TEXT_LIMIT: Final = 256
#: Texts of a list that is a fact; of a longer one the event says how many it has.
ITEMS_LIMIT: Final = 16
#: Characters of a declaration that is proposed.
FITTING_LIMIT: Final = 1_024


class DecisionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, ready to be written: all text is printable ASCII already; absent facts are ``None``, not left out.

    ``timestamp`` is nanoseconds since the epoch, ``duration_us`` microseconds from the question to the answer.
    ``would_deny`` is the reason of a denial that was recorded and did not count, so that ``decision`` is ``allow``.
    ``would_fit`` is then, of a route that declares nothing, the line that would declare it, as
    :mod:`capgate.routes.fitting` proposes it.
    ``rule`` is the number of the rule in the policy, from 0, where it is one that only monitors.
    ``enforce`` is ``monitor`` where at that time no denial counts, else ``always``.
    ``facts`` are those that ``log_facts`` lists, by their names, with ``None`` for each that the question does not
    have; ``None`` where none is listed, or nothing was asked.
    ``cause`` says for a fault which error it was and where, but not its text, which may hold a secret. Only of an
    :class:`~capgate.errors.ActorUnknown`, a :class:`~capgate.errors.FactsUnavailable` or a
    :class:`~capgate.errors.WaitTimeout`, whose text consists of names in the application's code and of settings, it is
    the text.
    """

    event: str
    decision: str
    decision_id: str
    timestamp: int
    service: str
    mode: str
    action: str | None
    resource_kind: str | None
    resource_id: str | None
    actor_kind: str | None
    actor_id: str | None
    reason: str | None
    would_deny: str | None
    would_fit: str | None
    rule: int | None
    enforce: str
    policy: str | None
    policy_version: str | None
    policy_sha256: str | None
    engine: str | None
    duration_us: float | None
    method: str | None
    path: str | None
    cause: str | None
    facts: dict[str, Any] | None = None


class DecisionSink(Protocol):
    """Where events go. May raise: that is counted, and changes nothing else."""

    def emit(self, event: DecisionEvent) -> None:
        """Take one event. Called on the thread that decided, and holds it up."""


class EventStatistics(msgspec.Struct, frozen=True):
    """Since the start of the process: events given to sinks, and those that a sink failed to take."""

    emitted: int
    dropped: int


class _Line:
    """The text of a record: one line of JSON, made when a handler asks for it, as logging does with all arguments."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        return _encode(self._fields).decode("ascii")

    __repr__ = __str__  # for handlers that show arguments by themselves


_encode: Final = msgspec.json.Encoder().encode


class _Log:
    """Writes to the standard logger :data:`LOGGER`, also where somebody disabled it: only a level silences it."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(LOGGER)
        self._records = Records(self._logger, "%s", __file__, "write")

    def write(self, fields: dict[str, Any]) -> None:
        """Write the event with these ``fields``. May raise, as a sink may."""
        level = logging.INFO if fields["decision"] == "allow" and fields["would_deny"] is None else logging.WARNING
        logger = self._logger
        if logger.isEnabledFor(level) or is_enabled(logger, level):
            record = self._records.make(level, (_Line(fields),), {"capgate": fields})
            WRITER.write(logger, record, _outlet.count_lost)


class _Outlet:
    """The sinks of this process, and what became of the events."""

    def __init__(self) -> None:
        self.forget_holder()
        self._log = _Log()
        #: Besides the log.
        self.sinks: tuple[DecisionSink, ...] = ()
        self.emitted = self.dropped = 0

    def forget_holder(self) -> None:
        """Take a lock that nobody holds: in the child of a fork, whoever held this one is not there to release it."""
        self.lock = threading.RLock()  # a destructor may ask in the middle of it

    def emit(self, fields: dict[str, Any]) -> None:
        """Have the log and each sink take the event with these ``fields``."""
        sinks = self.sinks
        # Made for sinks alone, and before the log is written: whoever gets a record may change its fields.
        event = _event(fields) if sinks else None
        try:
            self._log.write(fields)
        except Exception:  # whatever it was, the decision stands; see statistics()
            self._count(False)
        else:
            with self.lock:
                self.emitted += 1
        if event is not None:
            for sink in sinks:
                self._count(_takes(sink, event))

    def _count(self, taken: bool) -> None:
        with self.lock:
            if taken:
                self.emitted += 1
            else:
                self.dropped += 1

    def count_lost(self) -> None:
        """Count an event as dropped that a sink had taken, and could not write."""
        with self.lock:
            self.emitted -= 1
            self.dropped += 1


def _event(fields: dict[str, Any]) -> DecisionEvent:
    facts = fields["facts"]
    return DecisionEvent(**fields) if facts is None else DecisionEvent(**{**fields, "facts": dict(facts)})


def _takes(sink: DecisionSink, event: DecisionEvent) -> bool:
    try:
        sink.emit(event)
    except Exception:
        return False
    return True


_outlet: Final = _Outlet()
os.register_at_fork(after_in_child=_outlet.forget_holder)


def add_sink(sink: DecisionSink) -> None:
    """Have ``sink`` take every later event too."""
    with _outlet.lock:
        _outlet.sinks = (*_outlet.sinks, sink)


def remove_sink(sink: DecisionSink) -> None:
    """Undo :func:`add_sink`. Does nothing where ``sink`` takes no events."""
    with _outlet.lock:
        _outlet.sinks = tuple(other for other in _outlet.sinks if other is not sink)


def statistics() -> EventStatistics:
    """Return a snapshot, over all sinks."""
    with _outlet.lock:
        return EventStatistics(_outlet.emitted, _outlet.dropped)


def flush(seconds: float = CLOSING) -> bool:
    """Wait until the events so far are written, at most so many seconds. Says whether they are."""
    return WRITER.flush(seconds)


#: Decision ids that nobody has yet: the system is asked for many at once, since a call takes longer than what it gives.
_ids: list[str] = []
_IDS: Final = 64


def new_decision_id() -> str:
    """Return 32 hex digits that no other decision has: all random, from the system."""
    ids = _ids  # of this process: a signal's handler that forks now leaves the child another list
    try:
        return ids.pop()
    except IndexError:
        made = os.urandom(16 * _IDS).hex()
        ids.extend([made[at : at + 32] for at in range(32, len(made), 32)])
        return made[:32]


def _forget_ids() -> None:
    """Have none, in the child of a fork: they are its parent's to give."""
    global _ids
    _ids = []


os.register_at_fork(after_in_child=_forget_ids)


class RequestFacts(msgspec.Struct, frozen=True):
    """What is known of a request besides its question.

    ``duration_us`` is in microseconds. ``cause`` is what went wrong, if anything did. ``env`` counts where nothing got
    as far as a question, which has an environment of its own. ``fitting`` is a declaration that would fit,
    ``rule`` the number of the rule that would have denied it.
    """

    method: str | None = None
    path: str | None = None
    duration_us: float | None = None
    cause: BaseException | None = None
    env: Environment = DEFAULT_ENVIRONMENT
    fitting: str | None = None
    rule: int | None = None

    @classmethod
    def of(
        cls,
        scope: Mapping[str, Any],
        *,
        duration_us: float | None = None,
        cause: BaseException | None = None,
        env: Environment = DEFAULT_ENVIRONMENT,
        fitting: str | None = None,
    ) -> RequestFacts:
        """Return the facts of the request of ``scope``, which is empty outside of requests."""
        return cls(scope.get("method", scope.get("type")), scope.get("path"), duration_us, cause, env, fitting)


_NO_FACTS: Final = RequestFacts()


class MonitorPeriod:
    """The time in which a gate records denials that do not count: from now on, until a moment that may be set.

    ``until`` is in seconds since the epoch by ``clock``; ``None`` for no end. What ended does not begin again, whatever
    becomes of the clock.
    """

    __slots__ = ("__weakref__", "_clock", "_over", "_until")

    def __init__(self, until: float | None, clock: Callable[[], float] = time.time) -> None:
        self._until = until
        self._clock = clock
        self._over = False

    @property
    def lasts(self) -> bool:
        """Whether it has not ended."""
        if not self._over and self._until is not None and not self._clock() < self._until:
            self._over = True
        return not self._over

    def begin(self) -> None:
        """Have :func:`monitoring` count it, until :meth:`leave` or as long as it is in use."""
        _periods.add(self)

    def leave(self) -> None:
        """Have :func:`monitoring` count it no more, because its gate is closed. What is under way goes on as it was."""
        _periods.discard(self)


_periods: Final[weakref.WeakSet[MonitorPeriod]] = weakref.WeakSet()


def monitoring() -> int:
    """Return how many gates of this process record denials that do not count."""
    return sum(period.lasts for period in list(_periods))


class DecisionLog:
    """What an enforcement point reports to. ``sample_allows`` (0 to 1) is the fraction of allows that become events.

    ``period`` is the time in which its denials do not count, if there is one. It is only written down here.
    ``facts`` are the names of those that events tell. Raises ``ValueError`` for one that is no fact.
    """

    def __init__(
        self, sample_allows: float = 0.0, period: MonitorPeriod | None = None, facts: Sequence[str] = ()
    ) -> None:
        self._read = facts_reader(facts)
        self._sample_allows = sample_allows
        self._period = period

    def allowed(self, decision: Decision, facts: RequestFacts = _NO_FACTS) -> None:
        """Take an allow, which becomes an event if it is sampled. Never raises."""
        if self._sample_allows and random.random() < self._sample_allows:  # noqa: S311  # sampling is no secret
            _emit(decision, facts, self._enforce, self._read)

    def denied(self, decision: Decision, facts: RequestFacts = _NO_FACTS) -> None:
        """Write the event of a denial. Never raises."""
        _emit(decision, facts, _ALWAYS if self._period is None else self._enforce, self._read)

    def would_deny(self, denial: Decision, facts: RequestFacts = _NO_FACTS) -> None:
        """Write the event of a denial that does not count: of an allow, with the reason. Never raises."""
        _emit(denial, facts, self._enforce, self._read, counts=False)

    @property
    def _enforce(self) -> str:
        return _ALWAYS if self._period is None or not self._period.lasts else _MONITOR


_ALWAYS: Final = "always"
_MONITOR: Final = "monitor"


def _emit(
    decision: Decision, facts: RequestFacts, enforce: str, read: FactsReader | None, *, counts: bool = True
) -> None:
    input, result, policy = decision.input, decision.result, decision.policy
    # Looked up by name where it may be anything: an input that is denied because it is malformed has to be written too.
    action: Any
    resource: Any
    actor: Any
    if type(input) is PolicyInput:
        action, resource, actor, env = input.action, input.resource, input.actor, input.env
    else:
        action, resource, actor = (getattr(input, name, None) for name in ("action", "resource", "actor"))
        env = getattr(input, "env", facts.env)
    if resource is None:
        kind = id = None
    elif type(resource) is Resource:
        kind, id = resource.kind, resource.id
    else:
        kind, id = getattr(resource, "kind", None), getattr(resource, "id", None)
    reason = result.reason if type(result) is Deny else getattr(result, "reason", None)
    fields = _steady_fields(policy, env)
    fields["decision"] = "allow" if type(result) is Allow or not counts else "deny"
    fields["decision_id"] = decision.decision_id or new_decision_id()
    fields["timestamp"] = time.time_ns()
    fields["enforce"] = enforce
    fields["actor_kind"] = _ACTOR_KINDS.get(type(actor)) or _actor_kind(actor)
    (
        fields["action"],
        fields["resource_kind"],
        fields["resource_id"],
        fields["actor_id"],
        reason,
        fields["method"],
        fields["path"],
    ) = _all_printable(
        (action, kind, id, None if actor is ANONYMOUS else getattr(actor, "id", None), reason, facts.method, facts.path)
    )
    if read is not None and input is not None:
        fields["facts"] = {name: _shown_or_named(value) for name, value in read(input).items()}
    if facts.duration_us is not None:
        fields["duration_us"] = round(facts.duration_us * 10) / 10  # in half the time of round(..., 1)
    if facts.cause is not None:
        fields["cause"] = describe(facts.cause)
    if counts:
        fields["reason"] = reason
    else:
        fields["would_deny"] = reason or ""
        fields["rule"] = facts.rule
        if facts.fitting is not None:
            fields["would_fit"] = printable(facts.fitting, FITTING_LIMIT)
    _outlet.emit(fields)


#: The fields of an event, in their order, while nothing is known.
_NOTHING_KNOWN: Final = {**dict.fromkeys(DecisionEvent.__struct_fields__), "event": "capgate.decision"}
#: The policy and the environment of an event before, and all fields, in which only what these say is known. Nearly
#: always they are those of the next event too. They cannot change, so they are told by their identity.
_steady: tuple[object, object, dict[str, Any]] = (None, None, {})


def _steady_fields(policy: object, env: object) -> dict[str, Any]:
    """Return all fields of an event, in which what ``policy`` and ``env`` say is known."""
    global _steady
    known_policy, known_env, fields = _steady
    if policy is known_policy and env is known_env and fields:
        return fields.copy()
    texts = [getattr(policy, name, None) for name in ("name", "version", "sha256", "engine")]
    texts += [getattr(env, name, None) for name in ("service", "mode")]
    name, version, sha256, engine, service, mode = map(printable, texts)
    fields = {**_NOTHING_KNOWN, "service": service or "", "mode": mode or ""}
    fields |= {"policy": name, "policy_version": version, "policy_sha256": sha256, "engine": engine}
    if type(env) is Environment and (policy is None or type(policy) is PolicyInfo):
        _steady = policy, env, fields  # at once, because threads ask
    return fields.copy()


_TEXTS: Final = frozenset({str, type(None)})


def _all_printable(texts: Sequence[Any]) -> Sequence[str | None]:
    """Return :func:`printable` of each of ``texts``. Nearly always that is what they are."""
    if {*map(type, texts)} <= _TEXTS:
        joined = "".join(filter(None, texts))
        if len(joined) <= TEXT_LIMIT and joined.isascii() and joined.isprintable() and "\\" not in joined:
            return texts
    return [printable(text) for text in texts]


def _shown_or_named(fact: Any) -> Any:
    """Return :func:`_shown`, and of what cannot be shown its class: whatever was denied has its event."""
    try:
        return _shown(fact)
    except Exception:
        return f"<{type(fact).__name__}>"


def _shown(fact: Any) -> Any:
    """Return a fact as the event has it: numbers and truths as they are, text as :func:`printable` has it."""
    seen = type(fact)
    if seen is bool or fact is None or (seen is int and INT_LOWEST <= fact <= INT_HIGHEST):
        return fact
    if seen is float and fact - fact == 0.0:
        return fact
    if seen is list or seen is tuple:
        shown = tuple(map(printable, fact[:ITEMS_LIMIT]))
        return shown if len(fact) <= ITEMS_LIMIT else (*shown, f"...({len(fact)} texts)")
    return printable(fact)


def printable(text: object, limit: int = TEXT_LIMIT) -> str | None:
    """Return ``text`` in printable ASCII, of at most ``limit`` characters of it; reversible (``unicode_escape``)."""
    if text is None:
        return None
    if not isinstance(text, str):
        return f"<{type(text).__name__}>"  # its repr may be anything
    if len(text) <= limit and text.isascii() and text.isprintable() and "\\" not in text:
        return text
    escaped = text[:limit].encode("unicode_escape").decode("ascii").replace("\x7f", "\\x7f")
    return escaped if len(text) <= limit else f"{escaped}...({len(text)} characters)"


#: Errors whose text is made of names in code and of settings alone.
_SPOKEN: Final = frozenset({ActorUnknown, ActorTimeout, BodyTimeout, FactsUnavailable, StartTimeout})


def describe(error: BaseException) -> str:
    """Say which error it is, and where it was raised; not what it says, since that may quote a secret.

    An :class:`ActorUnknown`, a :class:`FactsUnavailable` and a :class:`WaitTimeout` quote none: of these, what they
    say.
    """
    if type(error) in _SPOKEN:
        return printable(f"{type(error).__name__}: {error}") or ""
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
    module = "" if trace is None else f" of {trace.tb_frame.f_globals.get('__name__', '?')}"
    return printable(name + where + module) or ""


#: What :func:`_actor_kind` returns of nearly every actor.
_ACTOR_KINDS: Final[dict[type, str]] = {kind: str(kind.__struct_config__.tag) for kind in ACTORS}


def _actor_kind(actor: object) -> str | None:
    tag = getattr(getattr(actor, "__struct_config__", None), "tag", None)
    return tag if isinstance(tag, str) else printable(actor)
