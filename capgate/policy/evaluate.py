"""Answers questions by a policy document in Python, as the policy guest does: :class:`RuntimePolicy`."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from ..actions import BUILTIN_ACTIONS
from ..conditions import Answer, Conditions, Facts, Node, Unknown
from ..errors import ConfigError
from ..model import ALLOW, Deny, PolicyInput, PolicyResult, Reason
from ..spelling import is_nameless
from .asked_facts import FactReader
from .document import ACTION_BITS, EVERY, Document, PolicySection, read_document
from .index import NO_RULE, Indexer, Matching, ModeIndex
from .monitored import monitored_rules
from .rules import Rule
from .strict import JSON, is_unicode, locate, mistake, parse
from .wellformed import actor_of, exact, is_readable, is_well_formed, mode_of

#: What a policy may look at, as :attr:`RuntimePolicy.inputs` names it, and what every policy does look at.
INPUTS: Final = ("action", "actor", "facts", "mode", "resource")
ALWAYS: Final = frozenset({"action", "resource"})


class Explanation(msgspec.Struct, frozen=True):
    """An answer, and what it comes from.

    ``by`` is ``"rule"`` (``rule`` is its number in the document, from 0), ``"section"`` (``section`` is its path, such
    as ``"sql"`` or ``"actions.invoice.send"``), ``"default"`` where nothing admits the question, or what ends the
    judgement before that: ``"unknown_action"``, ``"missing_resource"``, ``"wrong_kind"``, ``"malformed_input"``.
    ``monitored`` is of an allow the number of the first rule that only monitors, and would deny it. ``unknown`` says
    why the condition of the rule is neither true nor false, where a denial matched because of that.
    """

    result: PolicyResult
    by: str
    rule: int | None = None
    section: str | None = None
    monitored: int | None = None
    unknown: Unknown | None = None


_MALFORMED: Final = Explanation(Deny(Reason.MALFORMED_INPUT), "malformed_input")
_UNKNOWN_ACTION: Final = Explanation(Deny(Reason.UNKNOWN_ACTION), "unknown_action")
_MISSING_RESOURCE: Final = Explanation(Deny(Reason.MISSING_RESOURCE), "missing_resource")
_WRONG_KIND: Final = Explanation(Deny(Reason.NOT_IN_ALLOWLIST), "wrong_kind")
_MISSING_FACT: Final = Deny(Reason.MISSING_FACT)
_DEFAULT: Final = Explanation(Deny(Reason.NOT_IN_ALLOWLIST), "default")


class ActionEntry(msgspec.Struct, frozen=True):
    """How one action is judged: by ``rules``, where there are some about it, then by ``section``.

    ``section`` is ``None`` where the document has none; it admits for ``operations`` (bits). ``admitted`` is the answer
    where it does.
    """

    action: str
    kind: str | None
    required: bool
    section: PolicySection | None
    operations: int
    rules: ModeIndex | None
    admitted: Explanation


class Branches(NamedTuple):
    """How the answer to a question depends on conditions, which are looked at in this order.

    A denial decides with its answer where its condition is true, and denies where it is not known. An allow decides
    where it is true. Where nothing decides, there is an answer ``otherwise``.
    """

    denials: tuple[tuple[Node, PolicyResult], ...]
    allows: tuple[Node, ...]
    otherwise: PolicyResult


class Contract(Protocol):
    """What a policy can be made from; :class:`~capgate.HandlerContract` is one."""

    def policy_document(self) -> dict[str, Any]:
        """Return a policy document."""


class RuntimePolicy:
    """A policy document, ready to be asked. Immutable, and safe to use from any thread.

    ``name`` and ``version`` come from the document (``"policy"`` and ``"0"`` where it has none). ``sha256`` is of its
    bytes as given, or of its canonical JSON if it was a dict. There are the document's ``rules``, the ``modes`` that
    they may name, and in ``actions`` one :class:`ActionEntry` for each known action. ``conditions`` are those of rules,
    ``None`` where there are none, and ``declaration`` is what they may speak of. No answer depends on the rules that
    only monitor, which are ``monitored`` if there are any.

    ``inputs`` names the fields of a question that answers may depend on, of :data:`INPUTS`. All well-formed questions
    that agree in these have one answer. ``facts`` is whatever conditions may speak of, the actor and the time included.
    """

    def __init__(self, document: Document, sha256: str) -> None:
        self.name: Final = document.name
        self.version: Final = document.version
        self.sha256: Final = sha256
        self.rules: Final = document.rules
        self.modes: Final = document.modes
        self.conditions: Final = document.conditions
        self.declaration: Final = document.declaration
        self.monitored: Final = monitored_rules(document.rules, document.conditions)
        self._document = document
        counting = [rule for rule in document.rules if not rule.monitor]
        self.actions: Final = {entry.action: entry for entry in _entries(document)}
        self.inputs: Final = ALWAYS.union(
            {"actor"} if any(rule.actors is not None for rule in counting) else (),
            {"mode"} if any(rule.modes is not None for rule in counting) else (),
            {"facts"} if any(rule.when is not None for rule in counting) else (),
        )
        self._facts: Final = FactReader(() if self.conditions is None else [name for name, _ in self.conditions.facts])
        self._when: Final = {number: rule.when for number, rule in enumerate(self.rules) if rule.when is not None}
        self._by_rule: Final = tuple(
            Explanation(Deny(rule.reason) if rule.denies else ALLOW, "rule", rule=number)
            for number, rule in enumerate(document.rules)
        )

    @classmethod
    def from_document(
        cls, document: dict[str, Any] | str | bytes, *, format: str = JSON, path: str | None = None
    ) -> RuntimePolicy:
        """Return a policy from a dict, or from text.

        ``format`` is ``"json"`` or ``"toml"``, ``path`` the file it came from. Raises :class:`ConfigError`, whose
        ``setting`` is the path of the key; of text it also has the file, the line and the column.
        """
        if not isinstance(document, (str, bytes)):
            checked = read_document(document)
            return cls(checked, hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest())
        parsed = parse(document, format, path)
        try:
            checked = read_document(parsed)
            if isinstance(document, str) and not is_unicode(document):  # left over is a comment, in TOML
                raise mistake((), "a lone surrogate", "text that has an encoding in UTF-8")
            data = document.encode() if isinstance(document, str) else document
            return cls(checked, hashlib.sha256(data).hexdigest())
        except ConfigError as error:
            locate(error, document, format, path)
            raise

    @classmethod
    def from_contract(cls, contract: Contract) -> RuntimePolicy:
        """Return a policy that admits what a :class:`~capgate.HandlerContract` lists, and nothing else.

        Sections where every resource is written down admit exactly those; one with a dynamic resource admits anything.
        See the contract's ``policy_document``.
        """
        return cls.from_document(contract.policy_document())

    def evaluate(self, input: PolicyInput) -> PolicyResult:
        """Return the answer to ``input``, in time that does not grow with entries, and hardly with rules. Raises
        nothing.

        Checkers deny malformed input before it gets here. Here it is denied as well, with whichever code comes first.
        """
        result = self._explain(input).result
        return _MALFORMED.result if result is ALLOW and not is_well_formed(input) else result

    def explain(self, input: PolicyInput) -> Explanation:
        """Return the answer to ``input`` as :meth:`evaluate` gives it, and which rule or section it comes from."""
        explanation = self._explain(input)
        if explanation.result is not ALLOW:
            return explanation
        if not is_well_formed(input):
            return _MALFORMED
        monitored = None if self.monitored is None else self.monitored.first(input)
        return explanation if monitored is None else msgspec.structs.replace(explanation, monitored=monitored.number)

    def facts_of(self, input: PolicyInput) -> Facts:
        """Return the facts of ``input`` that conditions speak of, by their dotted names."""
        return self._facts.facts_of(input)

    def condition_of(self, rule: Rule, facts: Facts) -> Answer:
        """Return what the condition of ``rule``, which is of this policy, says of ``facts``: true without one."""
        return True if self.conditions is None or rule.when is None else self.conditions.answer(rule.when, facts)

    def branches(self, input: PolicyInput) -> Branches:
        """Return how the answer to ``input``, which is well-formed, depends on conditions, whatever its facts are."""
        open_: list[Matching] = []
        otherwise = self._explain(input, open_).result
        if not open_ or self.conditions is None:
            return Branches((), (), otherwise)
        (matching,), nodes = open_, self.conditions.nodes
        denials = tuple((nodes[self._when[number]], self._by_rule[number].result) for number in matching.denials)
        return Branches(denials, tuple(nodes[self._when[number]] for number in matching.allows), otherwise)

    def counting_all(self) -> RuntimePolicy:
        """Return the policy that this would be if rules that only monitor counted, with the same digest."""
        rules = tuple(msgspec.structs.replace(rule, monitor=False) for rule in self.rules)
        return RuntimePolicy(msgspec.structs.replace(self._document, rules=rules), self.sha256)

    def _explain(self, input: PolicyInput, open_: list[Matching] | None = None) -> Explanation:
        """Return the answer; with ``open_`` that where no condition decides, and add what has some to it."""
        if not is_readable(input):
            return _MALFORMED
        entry = self.actions.get(exact(input.action))
        if entry is None:
            return _UNKNOWN_ACTION
        resource = input.resource
        id = None if resource is None or resource.id is None else exact(resource.id)
        if id is None and entry.required:
            return _MISSING_RESOURCE
        kind = None if resource is None else exact(resource.kind)
        if kind is not None and entry.kind is not None and kind != entry.kind:
            return _WRONG_KIND
        if kind is not None and is_nameless(kind, id):
            return _MISSING_RESOURCE
        if entry.rules is not None:
            ruled = self._answer_of_rules(entry.rules, input, kind, id, open_)
            if ruled is not None:
                return ruled
        if entry.section is None:
            return _DEFAULT
        if entry.section.entries is None:
            return entry.admitted
        if id is None:
            return _DEFAULT
        return entry.admitted if entry.section.granted(id) & entry.operations else _DEFAULT

    def _answer_of_rules(
        self, rules: ModeIndex, input: PolicyInput, kind: str | None, id: str | None, open_: list[Matching] | None
    ) -> Explanation | None:
        """Return the answer of the first rule that denies, or else of the first that allows, or else ``None``."""
        actor, mode = actor_of(input.actor), mode_of(input.env)
        if actor is None or mode is None:
            return _MALFORMED
        matching = rules.find(mode, actor, kind, id)
        if self.conditions is not None and (matching.denials or matching.allows):
            if open_ is None:
                return self._answer_of_conditions(self.conditions, matching, self.facts_of(input))
            open_.append(matching)
        number = matching.allow if matching.deny == NO_RULE else matching.deny
        return None if number == NO_RULE else self._by_rule[number]

    def _answer_of_conditions(self, conditions: Conditions, matching: Matching, facts: Facts) -> Explanation | None:
        """Return the same of rules some of which match only if their conditions do, which are looked at in order."""
        for number in matching.denials:
            answer = conditions.answer(self._when[number], facts)
            if answer is not False:
                said = self._by_rule[number]
                return said if answer is True else Explanation(_MISSING_FACT, "rule", rule=number, unknown=answer)
        if matching.deny != NO_RULE:
            return self._by_rule[matching.deny]
        for number in matching.allows:
            if conditions.answer(self._when[number], facts) is True:
                return self._by_rule[number]
        return None if matching.allow == NO_RULE else self._by_rule[matching.allow]


def _entries(document: Document) -> list[ActionEntry]:
    index = Indexer(document.rules).index()
    entries = []
    for action in BUILTIN_ACTIONS:
        name, section = action.name, document.sections.get(action.section)
        operations = ACTION_BITS[action.section][name]
        required, admitted = action.resource_required, Explanation(ALLOW, "section", section=action.section)
        entries.append(ActionEntry(name, action.kind, required, section, operations, index.pop(name, None), admitted))
    for name, section in document.actions.items():
        required = section is not None and section.entries is not None
        admitted = Explanation(ALLOW, "section", section=f"actions.{name}")
        entries.append(ActionEntry(name, None, required, section, EVERY, index.pop(name, None), admitted))
    return entries
