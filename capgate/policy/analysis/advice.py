"""Says why a document answers as it does, and which changes of it would turn the answer round.

:func:`account_for` adds two things to :meth:`RuntimePolicy.explain`. The first is how each rule about the action
matches the question. The second are remedies: edits of the document, as operations of a JSON Patch (RFC 6902). Each of
them was tried and does give the opposite answer.

Where only another question would be answered otherwise, as one with the resource that it lacks, no edit is offered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from ...actions import BUILTIN_ACTIONS, Action, is_action_name
from ...conditions import ConditionPart, Turn, Unknown, explain
from ...errors import ConfigError
from ...model import Allow, PolicyInput, PolicyResult
from ...spelling import SQL, TEMPLATE, is_nameless
from ..document import ANY, BY_RULE, SECTION_KINDS
from ..evaluate import RuntimePolicy
from ..rules import ACTOR_KINDS, ALLOW_EFFECT, DENY_EFFECT, Half, Rule
from ..spelled import is_writable, read_entry
from ..strict import nearest
from ..wellformed import actor_of, mode_of
from ..wildcards import is_covered
from .changed_facts import turns_of_answer
from .patch import Operation, apply, pointer

#: What an answer comes from where no rule was looked at.
UNLOOKED: Final = frozenset({"malformed_input", "unknown_action", "missing_resource", "wrong_kind"})
#: Rules that only just do not match, for which a change is offered.
NEAR: Final = 5

_BUILTIN: Final = {action.name: action for action in BUILTIN_ACTIONS}
_WHEN: Final = "when"
#: The operation that an entry of ``sql`` is offered with: the one that names its class.
_OPERATIONS: Final = ("read", "write", "migrate")


class RuleMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a rule about the action matches the question. ``rule`` counts from 0.

    ``unmet`` are the lists (``actors``, ``modes``, ``resources``) and the condition (``when``) that keep it from
    matching; none do where it matches. With ``monitor`` it denies nothing, and is recorded. ``condition`` is its
    condition with the answer of each part, where it has one.
    """

    rule: int
    effect: str
    unmet: tuple[str, ...]
    monitor: bool = False
    condition: ConditionPart | None = None


class Way(msgspec.Struct, frozen=True):
    """An edit: ``words`` say it to people, ``patch`` has it as operations of a JSON Patch."""

    words: str
    patch: tuple[Operation, ...]


class Obstacle(msgspec.Struct, frozen=True):
    """What stands in the way, and the ways to change it, of which any one will do."""

    words: str
    ways: tuple[Way, ...]


class Account(msgspec.Struct, frozen=True):
    """An answer, what it comes from (as in :class:`~capgate.policy.Explanation`), and what would turn it round.

    ``rules`` are those about its action, in the order of the document; none where the answer came before any rule was
    looked at (:data:`UNLOOKED`). Any one of the ``remedies`` turns the answer round if each of its needs is met.
    ``monitored`` is of an allow the number of the first rule that only monitors, and would deny it. ``nearest`` is the
    action that an unknown one looks like. ``unknown`` says why the condition of the denial is not known that decides
    because of that. Each of the ``turns``, which is a change of one fact of the question, turns the answer round.

    The paths of all patches are those of the document as it is: of several, removals come last, and from the end. An
    application's own action also has to be registered by it, which is not of the document.
    """

    result: PolicyResult
    by: str
    rule: int | None
    section: str | None
    rules: tuple[RuleMatch, ...]
    remedies: tuple[tuple[Obstacle, ...], ...]
    monitored: int | None = None
    nearest: str | None = None
    unknown: Unknown | None = None
    turns: tuple[Turn, ...] = ()


def account_for(document: Mapping[str, Any], input: PolicyInput) -> Account:
    """Return the account of the answer that ``document`` (as JSON would give it) has for ``input``, which is
    well-formed.

    Raises :class:`ConfigError` for a bad document.
    """
    policy = RuntimePolicy.from_document(dict(document))
    explanation = policy.explain(input)
    question = _Question(document, policy, input)
    if isinstance(explanation.result, Allow):
        remedies = [question.proven(needs) for needs in question.to_be_denied()]
    else:
        tried = (question.proven(needs) for needs in question.to_be_allowed(explanation.by))
        remedies = [next(filter(None, tried), ())]  # those that follow are for where the first does not do
    kept = tuple(remedy for remedy in remedies if remedy)
    said, matches = explanation, question.matches
    if said.by in UNLOOKED:
        matches = ()
    near = nearest(input.action, policy.actions) if said.by == "unknown_action" else None
    return Account(
        said.result,
        said.by,
        said.rule,
        said.section,
        matches,
        kept,
        said.monitored,
        near,
        said.unknown,
        turns_of_answer(policy, question.reaching(), input) if matches else (),
    )


class _Question:
    """A question to a document, taken apart."""

    def __init__(self, document: Mapping[str, Any], policy: RuntimePolicy, input: PolicyInput) -> None:
        self.document = document
        self.policy = policy
        self.input = input
        self.action = input.action
        self.actor: Half = actor_of(input.actor) or (None, None)
        resource = input.resource
        self.resource: Half = (None, None) if resource is None else (resource.kind, resource.id)
        self.id = self.resource[1]
        self.matches = self._matches(policy)

    def _matches(self, policy: RuntimePolicy) -> tuple[RuleMatch, ...]:
        mode = mode_of(self.input.env)
        if mode is None:
            return ()
        facts = policy.facts_of(self.input)
        matches = []
        for number, rule in enumerate(policy.rules):
            if self.action in rule.covers:
                unmet = rule.unmet(mode, self.actor, self.resource)
                answer, part = policy.condition_of(rule, facts), None
                if answer is False or (not rule.denies and answer is not True):
                    unmet += (_WHEN,)
                if policy.conditions is not None and rule.when is not None:
                    part = explain(policy.conditions.nodes[rule.when], facts)
                matches.append(RuleMatch(number, rule.effect, unmet, rule.monitor, part))
        return tuple(matches)

    def reaching(self) -> list[Rule]:
        """Return the rules that count and match, but perhaps for their condition."""
        return [
            self.policy.rules[match.rule]
            for match in self.matches
            if not match.monitor and match.unmet in ((), (_WHEN,))
        ]

    # -- remedies

    def to_be_allowed(self, by: str) -> list[tuple[Obstacle, ...]]:
        if by in ("malformed_input", "wrong_kind") or (by == "missing_resource" and self.action in _BUILTIN):
            return []  # it is the question that would have to change
        if self.input.resource is not None and is_nameless(self.input.resource.kind, self.id):
            return []  # it is the question that would have to change
        if by == "unknown_action" and not is_action_name(self.action):
            return []
        deny = [
            self._rule_need(match.rule)
            for match in (self._once_declared() if by == "unknown_action" else self.matches)
            if match.effect == DENY_EFFECT and not match.unmet and not match.monitor
        ]
        allowing = [match for match in self.matches if match.effect == ALLOW_EFFECT and not match.unmet]
        admitted = Obstacle(self._why_not_admitted(by), tuple(self._admitting(by)))
        if by != "missing_resource" and (allowing or self._section_admits()):
            # The second where nothing but a rule that is taken out makes the action known.
            return [tuple(deny), (*deny, admitted)]
        return [(*deny, admitted)]

    def _once_declared(self) -> tuple[RuleMatch, ...]:
        """Return how rules will match the question once its action is known: a ``*`` covers it then."""
        (way, *_) = self._entering()
        try:
            return self._matches(RuntimePolicy.from_document(apply(self.document, way.patch)))
        except ConfigError:
            return ()

    def to_be_denied(self) -> list[tuple[Obstacle, ...]]:
        rule = self._new_rule(DENY_EFFECT)
        path, value = ("/rules/-", rule) if "rules" in self.document else ("/rules", [rule])
        ways = [
            Way(f"have rules[{match.rule}] count", ({"op": "remove", "path": f"/rules/{match.rule}/monitor"},))
            for match in self.matches
            if match.monitor and not match.unmet
        ]
        ways.append(Way(f"add the rule {_json(rule)}", ({"op": "add", "path": path, "value": value},)))
        needs = [
            self._rule_need(match.rule) for match in self.matches if match.effect == ALLOW_EFFECT and not match.unmet
        ]
        if self._section_admits():
            needs.append(self._section_need())
        return [(Obstacle("no rule denies it", tuple(ways)),), tuple(needs)]

    def proven(self, needs: tuple[Obstacle, ...]) -> tuple[Obstacle, ...]:
        """Return ``needs`` with those ways that do turn the answer round.

        Each of the other needs is met in its first way. The result is empty where some need has no way.
        """
        wanted = not isinstance(self.policy.explain(self.input).result, Allow)
        chosen = [next(iter(need.ways), None) for need in needs]
        kept = []
        for at, need in enumerate(needs):
            ways = []
            for way in need.ways:
                patch = [
                    operation for each in (*chosen[:at], way, *chosen[at + 1 :]) if each for operation in each.patch
                ]
                if self._answers(tuple(patch), allowed=wanted):
                    ways.append(way)
            kept.append(msgspec.structs.replace(need, ways=tuple(ways)))
        return tuple(kept) if all(need.ways for need in kept) else ()

    def _answers(self, patch: tuple[Operation, ...], *, allowed: bool) -> bool:
        try:
            changed = RuntimePolicy.from_document(apply(self.document, patch))
        except ConfigError:
            return False  # for one, because a rule covers no known action any more
        return isinstance(changed.evaluate(self.input), Allow) is allowed

    # -- rules

    def _rule_need(self, number: int) -> Obstacle:
        rule, raw = self.policy.rules[number], self.document["rules"][number]
        whole = Way(f"take out rules[{number}]", ({"op": "remove", "path": f"/rules/{number}"},))
        return Obstacle(
            f"rules[{number}] {'denies' if rule.denies else 'allows'} it", (whole, *self._narrower(number, rule, raw))
        )

    def _narrower(self, number: int, rule: Rule, raw: Mapping[str, Any]) -> Iterator[Way]:
        """Yield ways to take out of a rule's lists what matches, where something stays."""
        for key, matching in self._matching(rule).items():
            if 0 < sum(matching) < len(matching):
                gone = [at for at, matches in enumerate(matching) if matches]
                what = ", ".join(_json(raw[key][at]) for at in gone)
                patch = _removals(("rules", number, key), gone)
                yield Way(f"take {what} out of the {key} of rules[{number}]", patch)

    def _matching(self, rule: Rule) -> dict[str, list[bool]]:
        stars = [name.endswith("*") and self.action.startswith(name[:-1]) for name in rule.actions]
        return {
            "actions": [star or name == self.action for star, name in zip(stars, rule.actions, strict=True)],
            "actors": [pattern.covers(*self.actor) for pattern in rule.actors or ()],
            "modes": [mode == self.input.env.mode for mode in rule.modes or ()],
            "resources": [pattern.covers(*self.resource) for pattern in rule.resources or ()],
        }

    def _new_rule(self, effect: str) -> dict[str, Any]:
        """Return a rule about this question and, as far as text without a star can say it, no other."""
        exact = {key: [text] for key, text in self._as_entries().items() if text is not None}
        return {"effect": effect, "actions": [self.action], **exact}

    def _as_entries(self) -> dict[str, str | None]:
        """Return actor, mode and resource as entries of a rule's lists, where they can be written."""
        mode = self.input.env.mode
        texts = {"actors": _written(*self.actor), "resources": _written(*self.resource)}
        return {**texts, "modes": mode if mode in self.policy.modes else None}

    # -- sections

    def _section(self) -> tuple[tuple[str, ...], Any]:
        """Return the path of the section that admits this action, and what the document has there."""
        builtin = _BUILTIN.get(self.action)
        if builtin is not None:
            return (builtin.section,), self.document.get(builtin.section)
        return ("actions", self.action), self.document.get("actions", {}).get(self.action)

    def _section_admits(self) -> bool:
        entry = self.policy.actions.get(self.action)
        if entry is None or entry.section is None:
            return False
        if entry.section.entries is None or self.id is None:
            return entry.section.entries is None
        return bool(entry.section.granted(self.id) & entry.operations)

    def _section_need(self) -> Obstacle:
        path, raw = self._section()
        name = ".".join(path)
        if raw == ANY:
            words = f"make `{name}` a list of what is to be allowed"
            way = Way(words, ({"op": "replace", "path": pointer(path), "value": []},))
            return Obstacle(f'`{name}` is "any"', (way,))
        gone = [at for at, item in enumerate(raw) if self._is_entry(item)]
        patch = _removals(path, gone)
        what = ", ".join(_json(raw[at]) for at in gone)
        return Obstacle(f"`{name}` has it", (Way(f"take {what} out of `{name}`", patch),))

    def _is_entry(self, item: Any) -> bool:
        """Say whether this entry of the section admits the question."""
        entry = self.policy.actions[self.action]
        name, operation = (item["name"], item.get("operation")) if isinstance(item, dict) else (item, None)
        if operation is not None and operation not in _BUILTIN[self.action].operations:
            return False
        return self._has(entry.kind or "", name)

    def _has(self, kind: str, name: str) -> bool:
        """Say whether a section's entry with this name, whatever its operation, covers the question's resource."""
        match, text = read_entry((), name, kind, name)
        return self.id is not None and is_covered(match, text, self.id)

    def _why_not_admitted(self, by: str) -> str:
        path, raw = self._section()
        if by == "unknown_action" or (raw is None and len(path) > 1):
            return f"nothing admits it: {_json(self.action)} is not in `actions`"
        if raw is None:
            return f"nothing admits it: there is no section `{path[0]}`"
        if raw == BY_RULE:
            return f"no rule allows it, and nothing else admits {_json(self.action)}"
        entries = [item for item in raw if isinstance(item, dict) and "operation" in item] if raw != ANY else []
        others = [item["operation"] for item in entries if self._has(SQL, item["name"])]
        if others:
            return f"nothing admits it: `{path[0]}` has it for {', '.join(others)} only"
        what = "a question without a resource" if self.id is None else _json(self.id)
        return f"nothing admits it: {what} is not in `{'.'.join(path)}`"

    def _admitting(self, by: str) -> Iterator[Way]:
        yield from self._entering()
        if by in ("unknown_action", "missing_resource"):
            return
        texts = self._as_entries()
        near = [match for match in self.matches if match.effect == ALLOW_EFFECT and len(match.unmet) == 1]
        for match in near[:NEAR]:
            (key,) = match.unmet
            if key == _WHEN:
                words = f"take the condition out of rules[{match.rule}]"
                yield Way(words, ({"op": "remove", "path": f"/rules/{match.rule}/{_WHEN}"},))
                continue
            text = texts[key]
            if text is not None:
                patch = {"op": "add", "path": f"/rules/{match.rule}/{key}/-", "value": text}
                yield Way(f"add {_json(text)} to the {key} of rules[{match.rule}]", (patch,))
        if None not in texts.values():
            rule = self._new_rule(ALLOW_EFFECT)
            path, value = ("/rules/-", rule) if "rules" in self.document else ("/rules", [rule])
            yield Way(f"add the rule {_json(rule)}", ({"op": "add", "path": path, "value": value},))

    def _entering(self) -> Iterator[Way]:
        """Yield what the section would have to have."""
        path, raw = self._section()
        name = ".".join(path)
        if raw == ANY:
            return
        if raw == BY_RULE:
            yield Way(f'set `{name}` to "any"', ({"op": "replace", "path": pointer(path), "value": ANY},))
            return
        kind = SECTION_KINDS.get(name, "")
        if not self.id or not is_writable(kind, self.id) or (kind and self.id.startswith(f"{kind}:")):
            patch: Operation = {"op": "add" if raw is None else "replace", "path": pointer(path), "value": ANY}
            yield self._with_parent(f'set `{name}` to "any"', path, patch)
            return
        entry = _entry(_BUILTIN.get(self.action), self.id)
        if raw is None:
            patch = {"op": "add", "path": pointer(path), "value": [entry]}
            yield self._with_parent(f"add `{name}` with {_json(entry)}", path, patch)
        else:
            yield Way(f"add {_json(entry)} to `{name}`", ({"op": "add", "path": f"{pointer(path)}/-", "value": entry},))

    def _with_parent(self, words: str, path: tuple[str, ...], patch: Operation) -> Way:
        """Return the edit with ``patch``, that also makes the section ``actions`` where there is none to add to."""
        if len(path) > 1 and path[0] not in self.document:
            return Way(words, ({"op": "add", "path": f"/{path[0]}", "value": {path[1]: patch["value"]}},))
        return Way(words, (patch,))


def _written(kind: str | None, id: str | None) -> str | None:
    """Return kind and id as an entry of a rule, where it can be written and covers nothing else."""
    if kind == ACTOR_KINDS[0]:
        return kind
    if not kind or not id or "*" in kind or ":" in kind or not is_writable(kind, id):
        return None
    if kind in ACTOR_KINDS and TEMPLATE.fullmatch(id):
        return None
    return f"{kind}:{id}"


def _entry(action: Action | None, id: str) -> str | dict[str, str]:
    operation = next((name for name in _OPERATIONS if action is not None and name in action.operations), None)
    return id if operation is None else {"name": id, "operation": operation}


def _removals(path: tuple[str | int, ...], numbers: list[int]) -> tuple[Operation, ...]:
    """Return the operations that remove these, the last first, so that they may be carried out one by one."""
    return tuple({"op": "remove", "path": pointer((*path, number))} for number in reversed(numbers))


def _json(value: Any) -> str:
    return json.dumps(value)
