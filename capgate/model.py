"""Defines the question and the answer, :class:`PolicyInput` and :data:`PolicyResult`, with the stable reason codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn, Union

import msgspec

from .spelling import normal_id

#: What a fact can be: a number has 64 bits, and a list (a tuple is one, too) has text only.
Attribute = Union[bool, int, float, str, list[str]]


class Anonymous(msgspec.Struct, frozen=True, tag_field="kind", tag="anonymous", forbid_unknown_fields=True, gc=False):
    """Nobody is known to be asking."""


class NamedActor(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True, gc=False):
    """What every actor has who is known, by the identifier that the application's authentication gave.

    ``roles``, ``scopes``  in any order, none twice
    ``attributes``         facts of the application's own, by names of ``a`` to ``z``, ``0`` to ``9`` and ``_``
    ``on_behalf_of``       whom they act for, up to 4 deep
    """

    id: str
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = {}
    on_behalf_of: Actor | None = None

    def __hash__(self) -> int:
        return hash((type(self), self.id))  # attributes have no hash


class User(NamedActor, frozen=True, tag="user", gc=False):
    """A person."""


class Service(NamedActor, frozen=True, tag="service", gc=False):
    """Another program."""


class CompilerTool(NamedActor, frozen=True, tag="compiler_tool", gc=False):
    """A hosted tool, acting for a compiler or an agent."""


Actor = Union[Anonymous, User, Service, CompilerTool]


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the effect touches, and what is known of it.

    ``attributes`` do not reach policies of the WIT interface 0.1.0.

    Whatever it is made with, ``id`` is in the normal form of its kind: ``Resource("host", "0x7f.1").id`` is
    ``"127.0.0.1"``. It is ``None`` where that is not certain, so that the question is denied. See
    ``docs/resource_kinds.md``.
    """

    kind: str
    id: str | None = None
    attributes: Mapping[str, Attribute] = {}

    def __post_init__(self) -> None:
        kind, id = self.kind, self.id
        if type(kind) is not str or type(id) is not str:
            if not isinstance(kind, str) or not isinstance(id, str):
                return  # none was given; or it is malformed, and denied as such
            kind, id = str.__str__(kind), str.__str__(id)
        normal = normal_id(kind, id)
        if normal is not id and (normal != id or type(self.id) is not str):
            msgspec.structs.force_setattr(self, "id", normal)


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Where the question is asked: the service and its mode (``dev``, ``test``, ``prod`` or an operator's own)."""

    service: str = "capgate"
    mode: str = "prod"


ACTORS: Final = frozenset({Anonymous, User, Service, CompilerTool})
ANONYMOUS: Final = Anonymous()
DEFAULT_ENVIRONMENT: Final = Environment()


class PolicyInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question: is this effect admissible in this context? Everything that a policy may know is in here.

    ``args_hash`` stands for big arguments (64 hex digits by convention); ``timestamp`` is nanoseconds since the epoch.
    ``args`` are arguments of the effect, and ``context`` is what else is known of the moment. Names and sizes of facts
    are bounded, see :mod:`capgate.facts`.
    """

    action: str
    actor: Actor = ANONYMOUS
    resource: Resource | None = None
    args_hash: str | None = None
    env: Environment = DEFAULT_ENVIRONMENT
    timestamp: int = 0
    args: Mapping[str, Attribute] = {}
    context: Mapping[str, Attribute] = {}


class Allow(msgspec.Struct, frozen=True, tag_field="kind", tag="allow", forbid_unknown_fields=True, gc=False):
    """The effect is admissible. Has no truth value: compare by type, so that a deny can never be read as a yes."""

    def __bool__(self) -> NoReturn:
        raise TypeError("a decision has no truth value; use isinstance(result, Allow)")


class Deny(msgspec.Struct, frozen=True, tag_field="kind", tag="deny", forbid_unknown_fields=True, gc=False):
    """The effect is not admissible. ``reason`` is one of :class:`Reason`, or the policy's own text."""

    reason: str

    def __bool__(self) -> NoReturn:
        raise TypeError("a decision has no truth value; use isinstance(result, Allow)")


PolicyResult = Union[Allow, Deny]

ALLOW: Final = Allow()


class PolicyInfo(msgspec.Struct, frozen=True, gc=False):
    """Which policy answered, for events and statistics. ``sha256`` is of the artifact (document or module) as read."""

    name: str
    version: str
    sha256: str
    engine: str = "local"

    @property
    def is_wasm(self) -> bool:
        """Whether the artifact is a WebAssembly module, and no document."""
        return self.engine != "local"


class Entrypoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Which question a module that OPA compiled is asked, and what its answers mean. Other modules have but one.

    ``name``    as in ``opa build -e``, such as ``orders/allow``; ``None`` for the module's only one
    ``result``  ``decision``: a boolean, or ``{"allow": bool, "reason"?: str}``; ``denials``: a set or array of reasons,
                of which any denies, and none allows
    """

    name: str | None = None
    result: Literal["decision", "denials"] = "decision"


ONLY_ENTRYPOINT: Final = Entrypoint()


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What was asked and answered.

    ``decision_id`` is that of the event of a denial, ``None`` for an allow. ``input`` is ``None`` where nothing got as
    far as a question.
    """

    input: PolicyInput | None
    result: PolicyResult
    decision_id: str | None = None
    policy: PolicyInfo | None = None


class Reason:
    """The reason codes. Stable: they appear in logs, metrics and alerts, so a code is added but never reworded."""

    # From a policy:
    UNKNOWN_ACTION: Final = "unknown_action"
    MISSING_RESOURCE: Final = "missing_resource"
    NOT_IN_ALLOWLIST: Final = "not_in_allowlist"
    MISSING_FACT: Final = "missing_fact"
    # From capgate itself:
    POLICY_UNAVAILABLE: Final = "policy_unavailable"
    POLICY_TIMEOUT: Final = "policy_timeout"
    POLICY_TRAP: Final = "policy_trap"
    POOL_EXHAUSTED: Final = "pool_exhausted"
    ACTOR_TIMEOUT: Final = "actor_timeout"
    BODY_TIMEOUT: Final = "body_timeout"
    START_TIMEOUT: Final = "start_timeout"
    FACTS_UNAVAILABLE: Final = "facts_unavailable"
    MALFORMED_INPUT: Final = "malformed_input"
    MALFORMED_RESULT: Final = "malformed_result"
    UNDECLARED_ROUTE: Final = "undeclared_route"
    UNASKED_RESPONSE: Final = "unasked_response"
    REQUEST_ENDED: Final = "request_ended"
    INTERNAL_ERROR: Final = "internal_error"


REASONS: Final[frozenset[str]] = frozenset(v for k, v in vars(Reason).items() if k.isupper())

_encoder = msgspec.json.Encoder(order="deterministic")


def canonical(value: Any) -> bytes:
    """Return ``value`` (a result or an input) as canonical JSON: no white space, fields in declared order, UTF-8."""
    return _encoder.encode(value)
