"""The same judgement that the policy guest makes, in Python: :class:`RuntimePolicy`."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Protocol

import msgspec

from ..actions import BUILTIN_ACTIONS, Action
from ..model import (
    ALLOW,
    Anonymous,
    CompilerTool,
    Deny,
    Environment,
    PolicyInput,
    PolicyResult,
    Reason,
    Resource,
    Service,
    User,
)
from .document import EVERY, OPERATION_BITS, Document, Section, ascii_lower, is_unicode, parse_json, read_document

_UNKNOWN_ACTION: Final = Deny(Reason.UNKNOWN_ACTION)
_MISSING_RESOURCE: Final = Deny(Reason.MISSING_RESOURCE)
_NOT_IN_ALLOWLIST: Final = Deny(Reason.NOT_IN_ALLOWLIST)
_MALFORMED: Final = Deny(Reason.MALFORMED_INPUT)
_U64: Final = 2**64


class Rule(msgspec.Struct, frozen=True):
    """How one action is judged: by ``section`` (``None``: the document has none), for ``operations`` (bits)."""

    action: str
    kind: str | None
    required: bool
    section: Section | None
    operations: int

    @property
    def host(self) -> bool:
        """Whether ids are host names, so that A to Z compare as a to z."""
        return self.kind == "host"


class Contract(Protocol):
    """What a policy can be made from; :class:`~capgate.HandlerContract` is one."""

    def policy_document(self) -> dict[str, Any]:
        """A policy document."""


class RuntimePolicy:
    """A policy document, ready to be asked. Immutable, and safe to use from any thread.

    ``name`` and ``version`` come from the document (``"policy"`` and ``"0"`` where it has none); ``sha256`` is of its
    bytes as given, or of its canonical JSON if it was a dict; ``rules`` has one :class:`Rule` for each known action.
    """

    def __init__(self, document: Document, sha256: str) -> None:
        self.name: Final = document.name
        self.version: Final = document.version
        self.sha256: Final = sha256
        self.rules: Final = {rule.action: rule for rule in _rules(document)}

    @classmethod
    def from_document(cls, document: dict[str, Any] | str | bytes) -> RuntimePolicy:
        """A policy from a dict or from JSON. Raises :class:`ConfigError`, whose ``setting`` is the path of the key."""
        if isinstance(document, (str, bytes)):
            checked = read_document(parse_json(document))
            raw = document.encode() if isinstance(document, str) else document
        else:
            checked = read_document(document)
            raw = msgspec.json.encode(document, order="deterministic")
        return cls(checked, hashlib.sha256(raw).hexdigest())

    @classmethod
    def from_contract(cls, contract: Contract) -> RuntimePolicy:
        """A policy that admits what a :class:`~capgate.HandlerContract` lists: exactly that in sections where every
        resource is written down, anything in those with a dynamic one, nothing else. See its ``policy_document``."""
        return cls.from_document(contract.policy_document())

    def evaluate(self, input: PolicyInput) -> PolicyResult:
        """The answer to ``input``, in constant time but for the length of its id. Raises nothing.

        Checkers refuse malformed input before it gets here. Here it is denied, with whichever code comes first.
        """
        result = self._judge(input)
        return _MALFORMED if result is ALLOW and not is_well_formed(input) else result

    def _judge(self, input: PolicyInput) -> PolicyResult:
        if not _is_readable(input):
            return _MALFORMED
        rule = self.rules.get(_exact(input.action))
        if rule is None:
            return _UNKNOWN_ACTION
        resource = input.resource
        id = None if resource is None or resource.id is None else _exact(resource.id)
        if id is None and rule.required:
            return _MISSING_RESOURCE
        if resource is not None and rule.kind is not None and _exact(resource.kind) != rule.kind:
            return _NOT_IN_ALLOWLIST
        if rule.section is None:
            return _NOT_IN_ALLOWLIST
        entries = rule.section.entries
        if entries is None:
            return ALLOW
        if id is None:
            return _NOT_IN_ALLOWLIST
        granted = entries.get(ascii_lower(id) if rule.host else id, 0)
        return ALLOW if granted & rule.operations else _NOT_IN_ALLOWLIST


def _exact(text: str) -> str:
    """``text``, of a subclass of ``str`` the characters: an enumeration, for one, hashes as its name."""
    return text if type(text) is str else str.__str__(text)


def is_well_formed(input: object) -> bool:
    """Whether every field of ``input`` has its type, every text is Unicode, and the timestamp fits in a u64."""
    if not isinstance(input, PolicyInput) or not isinstance(input.env, Environment):
        return False
    texts: list[Any] = [input.action, input.env.service, input.env.mode]
    actor: object = input.actor
    if isinstance(actor, (User, Service, CompilerTool)):
        texts.append(actor.id)
    elif not isinstance(actor, Anonymous):
        return False
    if input.args_hash is not None:
        texts.append(input.args_hash)
    if input.resource is not None and not _add_resource(input.resource, texts):
        return False
    if not isinstance(input.timestamp, int) or not 0 <= input.timestamp < _U64:
        return False
    try:
        return is_unicode("".join(texts))
    except TypeError:
        return False


def _add_resource(resource: object, texts: list[Any]) -> bool:
    if not isinstance(resource, Resource) or not isinstance(resource.attributes, dict):
        return False
    texts.append(resource.kind)
    if resource.id is not None:
        texts.append(resource.id)
    for item in resource.attributes.items():
        texts.extend(item)
    return True


def _is_readable(input: object) -> bool:
    """Whether what :meth:`RuntimePolicy._judge` looks at has the types that it takes for granted."""
    if not isinstance(input, PolicyInput) or not isinstance(input.action, str):
        return False
    resource: object = input.resource
    if resource is None:
        return True
    if not isinstance(resource, Resource) or not isinstance(resource.kind, str):
        return False
    return resource.id is None or isinstance(resource.id, str)


def _rules(document: Document) -> list[Rule]:
    rules = [_builtin(action, document.sections.get(action.section)) for action in BUILTIN_ACTIONS]
    for name, section in document.actions.items():
        rules.append(Rule(name, None, section.entries is not None, section, EVERY))
    return rules


def _builtin(action: Action, section: Section | None) -> Rule:
    operations = EVERY
    if action.operations:
        operations = 0
        for operation in action.operations:
            operations |= OPERATION_BITS[operation]
    return Rule(action.name, action.kind, action.resource_required, section, operations)
