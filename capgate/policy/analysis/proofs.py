"""Proves what a document asserts of itself, or refutes it with a question.

An assertion is put into the document as its first denial, with a reason that no other has. Then it is violated by
those questions that get this reason in place of an allow (``never``), or of another denial (``always``). Those are a
difference between two documents, which is exact (:mod:`.difference`). What was denied before any rule was looked at,
as a question without the resource that it needs, violates nothing.

A proof is of questions with whatever facts, of which no condition has to look at too many elements of lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from ...conditions import Conditions
from ...errors import ConfigError
from ...model import Allow, Deny, PolicyInput
from ..assertions import ALWAYS, Assertion
from ..document import Document
from ..evaluate import RuntimePolicy
from .branching import FactRegion
from .difference import LIMIT, AnswerChange, answer_changes

#: The reason of the denial that an assertion is put in as. No document can have it, since it is not printable.
_ASSERTED: Final = "asserted\n"


class Proof(msgspec.Struct, frozen=True):
    """What became of an assertion, the number of which counts from 0.

    It is ``proven``, ``refuted`` by the question ``example``, or ``undecided``: then ``why`` says what keeps it from
    being decided. The violations are about facts in one of the regions ``facts``, if they depend on facts.
    """

    assertion: int
    outcome: Literal["proven", "refuted", "undecided"]
    example: PolicyInput | None = None
    facts: tuple[FactRegion, ...] = ()
    why: str | None = None


def prove(document: Document) -> Iterator[Proof]:
    """Yield a proof of each assertion of ``document``."""
    if not document.assertions:
        return
    policy = RuntimePolicy(document, "")
    for number, assertion in enumerate(document.assertions):
        try:
            changes = answer_changes(policy, _with_denial(document, assertion), LIMIT, assertion.rule.covers)
        except ConfigError as error:
            yield Proof(number, "undecided", why=f"{error.seen}")
            continue
        yield _proof(number, [change for change in changes if _violates(assertion, change)])


def _proof(number: int, violations: list[AnswerChange]) -> Proof:
    if not violations:
        return Proof(number, "proven")
    shown = [change for change in violations if change.example is not None]
    if shown:
        return Proof(number, "refuted", shown[0].example, shown[0].facts)
    why = "whether there are facts that violate it was not decided in bounded time"
    return Proof(number, "undecided", facts=violations[0].facts, why=why)


def _violates(assertion: Assertion, change: AnswerChange) -> bool:
    if change.after != Deny(_ASSERTED):
        return False  # where it is not known whether the assertion is about the question
    return isinstance(change.before, Allow) is (assertion.effect != ALWAYS)


def _with_denial(document: Document, assertion: Assertion) -> RuntimePolicy:
    """Return the policy that ``document`` would be with the assertion as its first denial."""
    nodes = () if document.conditions is None else document.conditions.nodes
    conditions, when = document.conditions, None
    if assertion.condition is not None:
        conditions, when = Conditions.of([*nodes, assertion.condition]), len(nodes)
    denial = msgspec.structs.replace(assertion.rule, reason=_ASSERTED, when=when)
    return RuntimePolicy(msgspec.structs.replace(document, rules=(denial, *document.rules), conditions=conditions), "")
