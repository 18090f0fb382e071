"""Puts outcomes into words and JUnit XML, for the command line and for pytest.

Fixtures and modules may come from anywhere, so whatever is shown on a terminal or written as XML is printable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from xml.etree import ElementTree

import msgspec

from ...model import PolicyInput, PolicyResult, Resource, canonical
from ...policy import Explanation, Pattern, Rule, RuntimePolicy
from ...store.release_fixtures import Fixture
from .coverage import Coverage, DocumentPart
from .policy_under_test import PolicyUnderTest
from .run import DISAGREEMENT, Outcome

#: Characters of one text of an input or an answer that are shown.
SHOWN: Final = 200

_BEFORE_RULES: Final = {
    "unknown_action": "the policy does not know the action",
    "missing_resource": "the action needs a resource with an id",
    "wrong_kind": "the action does not act on resources of that kind",
    "malformed_input": "the input is malformed",
    "default": "no rule and no section admits it",
}


def printable(text: str) -> str:
    """Return ``text`` with what does not print, lone surrogates and control characters among it, as escapes of JSON."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def short(text: str) -> str:
    """Return the beginning of ``text``, printable."""
    return printable(text) if len(text) <= SHOWN else f"{printable(text[:SHOWN])}… ({len(text)} characters)"


def answer(result: PolicyResult) -> str:
    """Return a result as its canonical JSON, printable."""
    return short(canonical(result).decode())


def question(input: PolicyInput) -> str:
    """Return an input in one line: ``db.write on sql_query:audit by user:alice in mode prod``."""
    id: str | None = getattr(input.actor, "id", None)
    kind = str(input.actor.__struct_config__.tag)
    parts = [short(input.action)]
    if input.resource is not None:
        parts += ["on", _resource(input.resource)]
    parts += ["by", kind if id is None else f"{kind}:{short(id)}", "in mode", short(input.env.mode)]
    if input.env.service != "capgate":
        parts += ["of", short(input.env.service)]
    if input.args_hash is not None:
        parts += ["with", short(input.args_hash)]
    if input.timestamp:
        parts += ["at", str(input.timestamp)]
    return " ".join(parts)


def _resource(resource: Resource) -> str:
    return short(resource.kind) + ("" if resource.id is None else f":{short(resource.id)}")


def describe_rule(rule: Rule) -> str:
    """Return a rule in short, such as ``deny db.* for user:alice in mode dev``."""
    parts = ["monitored " * rule.monitor + rule.effect, ", ".join(rule.actions)]
    if rule.resources is not None:
        parts += ["on", ", ".join(map(_pattern, rule.resources))]
    if rule.actors is not None:
        parts += ["for", ", ".join(map(_pattern, rule.actors))]
    if rule.modes is not None:
        parts += ["in mode", ", ".join(rule.modes)]
    if rule.when_text is not None:
        parts += ["when", rule.when_text]
    return short(" ".join(parts))


def _pattern(pattern: Pattern) -> str:
    return pattern.kind if pattern.text is None else f"{pattern.kind}:{pattern.written}"


def decided_by(explanation: Explanation, policy: RuntimePolicy) -> str:
    """Say where a document's answer comes from."""
    if explanation.rule is not None:
        return f"rules[{explanation.rule}]: {describe_rule(policy.rules[explanation.rule])}"
    if explanation.section is not None:
        return f"the section {explanation.section}"
    return _BEFORE_RULES.get(explanation.by, explanation.by)


def describe_part(part: DocumentPart, policy: RuntimePolicy) -> str:
    """Return a part of a document in words."""
    if part.path.startswith("rules["):
        number, _, when = part.path[len("rules[") :].partition("]")
        rule = policy.rules[int(number)]
        return f"{part.path}: {f'{short(str(rule.when_text))} is {part.entry}' if when else describe_rule(rule)}"
    entry = "any" if part.entry is None else f"{short(part.entry)!r}"
    return f"{part.path}: {entry}" + (f" ({part.operation})" if part.operation else "")


def difference(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the lines of a diff, each with its sign.

    ``-`` is what was expected, ``+`` what came instead and from whom, a blank a runtime that answered as expected.
    """
    fixture, by_answer = outcome.fixture, dict[tuple[bytes, str], list[str]]()
    for given in outcome.answers:
        by_answer.setdefault((canonical(given.result), _recorded(fixture, given.would_deny)), []).append(given.runtime)
    expected = fixture.answer, _recorded(fixture, fixture.would_deny)
    lines = [("-", f"{answer(fixture.expected)}{expected[1]}  expected")]
    for actual, runtimes in by_answer.items():
        told = f"{short(actual[0].decode())}{actual[1]}  {', '.join(runtimes)}"
        lines.append((" " if actual == expected else "+", told))
    return lines


def _recorded(fixture: Fixture, reason: str | None) -> str:
    """Return what rules that only monitor recorded, in words, where ``fixture`` looks at it."""
    if fixture.would_deny is None:
        return ""
    return " recorded as nothing" if reason is None else f" recorded as {short(reason)!r}"


def details(outcome: Outcome, policy: RuntimePolicy | None) -> list[tuple[str, str]]:
    """Return lines about an outcome besides its name, each with a sign as in :func:`difference`, or a blank."""
    fixture = outcome.fixture
    lines = [(" ", printable(fixture.description))] if fixture.description else []
    lines += [(" ", question(fixture.input)), *difference(outcome)]
    if outcome.explanation is not None and policy is not None:
        lines.append((" ", f"decided by {decided_by(outcome.explanation, policy)}"))
    if outcome.kind == DISAGREEMENT:
        lines.append(
            (" ", "the runtimes disagree, which is a fault of capgate or of an engine, or of a module with state")
        )
    return lines


def title(fixture: Fixture) -> str:
    """Return the name of a fixture, and where it is."""
    return printable(f"{fixture.name} ({fixture.where})" if fixture.where else fixture.name)


# -- as data


def as_data(
    policy: PolicyUnderTest | None, runtimes: Sequence[str], outcomes: Sequence[Outcome], coverage: Coverage | None
) -> dict[str, Any]:
    """Return everything, as JSON would have it. Strings may have lone surrogates: encode it with ``json``, in ASCII."""
    counts = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in ("passed", "failed", DISAGREEMENT)}
    about = None
    if policy is not None:
        kind = "module" if policy.document is None else "document"
        about = {"name": policy.name, "version": policy.version, "sha256": policy.sha256, "kind": kind}
    return {
        "policy": about,
        "runtimes": list(runtimes),
        "total": len(outcomes),
        **counts,
        "coverage": None if coverage is None else _coverage_data(coverage),
        "outcomes": [outcome_data(outcome) for outcome in outcomes],
    }


def _coverage_data(coverage: Coverage) -> dict[str, object]:
    missing = msgspec.to_builtins(coverage.missing)
    return {"percent": coverage.percent, "covered": coverage.covered, "total": len(coverage.parts), "missing": missing}


def outcome_data(outcome: Outcome) -> dict[str, object]:
    """Return one of them, as :func:`as_data` has it."""
    fixture = outcome.fixture
    data = {
        "name": fixture.name,
        "path": fixture.path,
        "line": fixture.line,
        "description": fixture.description,
        "outcome": outcome.kind,
        "input": fixture.input,
        "expected": fixture.expected,
        "answers": {given.runtime: given.result for given in outcome.answers},
        "would_deny": {given.runtime: given.would_deny for given in outcome.answers},
        "explanation": outcome.explanation,
    }
    if outcome.costs:
        data["costs"] = {spent.runtime: {"fuel": spent.fuel, "seconds": spent.seconds} for spent in outcome.costs}
    return dict(msgspec.to_builtins(data))


def junit(
    policy: PolicyUnderTest | None, runtimes: Sequence[str], outcomes: Sequence[Outcome], seconds: float
) -> bytes:
    """Return JUnit's XML, as continuous integration reads it: a suite for each runtime, a case for each fixture in it.

    A case fails where that runtime's answer is not the expected one. ``policy`` is ``None`` where each fixture brought
    its own.
    """
    suite = "fixtures" if policy is None else policy.name or "policy"
    document = None if policy is None else policy.document
    root = ElementTree.Element("testsuites", name="capgate test", time=f"{seconds:.3f}")
    failed_in_all = 0
    for runtime in runtimes:
        element = ElementTree.SubElement(root, "testsuite", name=printable(f"{suite}[{runtime}]"))
        failed = sum(_add_case(element, suite, runtime, outcome, document) for outcome in outcomes)
        element.attrib |= {"tests": str(len(outcomes)), "failures": str(failed), "errors": "0", "skipped": "0"}
        failed_in_all += failed
    root.attrib |= {"tests": str(len(outcomes) * len(runtimes)), "failures": str(failed_in_all), "errors": "0"}
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _add_case(
    suite: ElementTree.Element, classname: str, runtime: str, outcome: Outcome, document: RuntimePolicy | None
) -> bool:
    fixture = outcome.fixture
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=printable(f"{classname}.{runtime}"),
        name=printable(fixture.name),
        file=printable(fixture.path),
        line=str(fixture.line),
    )
    given = next(given for given in outcome.answers if given.runtime == runtime)
    if canonical(given.result) == fixture.answer and fixture.would_deny in (None, given.would_deny):
        return False
    wanted, actual = (_recorded(fixture, reason) for reason in (fixture.would_deny, given.would_deny))
    message = f"expected {answer(fixture.expected)}{wanted}, {runtime} answers {answer(given.result)}{actual}"
    failure = ElementTree.SubElement(case, "failure", type=outcome.kind, message=message)
    failure.text = "\n".join(f"{sign} {text}".rstrip() for sign, text in details(outcome, document))
    return True
