"""Finds all mistakes of a document, and what in it is correct and has no effect: :func:`find_mistakes`.

Reading a document stops at its first mistake. Here what is wrong is taken out, and the rest is read again, until
nothing is wrong any more. A mistake that only follows from another one may thereby not be told until that is mended.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

import msgspec

from ..actions import is_action_name
from ..errors import ConfigError
from ..model import PolicyInput
from .analysis.proofs import prove
from .assertions import NEVER
from .document import BUILTIN_SECTIONS, BY_RULE, Document, read_document
from .effect import without_effect
from .evaluate import RuntimePolicy
from .places import Key
from .rules import DENY_EFFECT
from .strict import parse, place_in, shown

#: Mistakes and warnings that are told of one document, each.
MOST: Final = 100
#: What a rule has to have, in place of what is wrong, so that the rest of it is looked at.
_RIGHT: Final[dict[str, object]] = {"effect": DENY_EFFECT, "actions": ("*",)}


class Finding(msgspec.Struct, frozen=True):
    """A mistake, or a warning (``is_error`` false), and where it stands: line and column count from 1.

    ``setting`` is the way to it as people read it; ``nearest`` is what was probably meant, if anything was. ``example``
    is a question that refutes an assertion.
    """

    is_error: bool
    code: str
    setting: str
    message: str
    line: int | None = None
    column: int | None = None
    nearest: str | None = None
    example: PolicyInput | None = None


def find_mistakes(text: str | bytes, format: str, path: str | None = None) -> list[Finding]:
    """Return the mistakes of a document in ``format``, in the order of the text, at most :data:`MOST`.

    Where there are none, return the assertions that are not proven, as mistakes, and the warnings.
    """
    try:
        raw = parse(text, format, path)
    except ConfigError as error:
        message = f"{error.seen!r} is not usable; valid: {error.valid}"
        return [Finding(True, "syntax", error.setting, message, error.line, error.column)]
    decoded = text if isinstance(text, str) else text.decode()
    copy = _Copy(raw)
    findings: list[Finding] = []
    while len(findings) < MOST:
        document = _read(copy.value)
        if not isinstance(document, ConfigError):
            if not findings:
                warnings = islice(without_effect(document, copy.value), MOST)
                findings = _unproven(document, decoded, format)
                findings += [
                    Finding(False, code, _name(key), message, *place_in(decoded, format, key))
                    for key, code, message in warnings
                ]
            break
        key = copy.original(document.key or ())
        if key[-1:] == ("when",) and copy.is_gone(document.seen):
            copy.take_out(document.key or ())  # it speaks of what was told already
            continue
        place = place_in(decoded, format, key, document.within) if key else (1, 1)
        findings.append(Finding(True, "mistake", _name(key), _message(document), *place, document.nearest))
        if not copy.take_out(document.key or (), document.nearest):
            break
    return sorted(findings, key=lambda finding: (finding.line or 0, finding.column or 0))


def _read(raw: object) -> Document | ConfigError:
    """Return what ``raw`` stands for, or its first mistake. Rules that are too many together are one, too."""
    try:
        document = read_document(raw)
        RuntimePolicy(document, "")
        return document
    except ConfigError as error:
        return error


def _unproven(document: Document, text: str, format: str) -> list[Finding]:
    """Return the assertions that are not proven."""
    findings = []
    for proof in prove(document):
        assertion, key = document.assertions[proof.assertion], ("assert", proof.assertion)
        message = f"it is not decided whether that is so: {proof.why}"
        if proof.outcome == "refuted":
            seen, wanted = ("allowed", "never") if assertion.effect == NEVER else ("denied", "always")
            message = f"a question is {seen} that is to be allowed {wanted}"
        if proof.outcome != "proven":
            line, column = place_in(text, format, key)
            findings.append(Finding(True, proof.outcome, _name(key), message, line, column, example=proof.example))
    return findings


def _message(error: ConfigError) -> str:
    seen = ascii(error.seen)
    return f"{seen if len(seen) <= 100 else seen[:100] + '...'} is not usable; valid: {error.valid}"


def _name(key: Key) -> str:
    return shown(key) if key else "document"


class _Copy:
    """A copy of a document, of which parts are taken out, that knows where the others were."""

    def __init__(self, raw: object) -> None:
        self._numbers: dict[int, list[int]] = {}
        self._gone: set[str] = set()
        self.value: Any = self._copied(raw)

    def _copied(self, value: object) -> object:
        if isinstance(value, dict):
            return {key: self._copied(member) for key, member in value.items()}
        if isinstance(value, list):
            made = [self._copied(member) for member in value]
            self._numbers[id(made)] = list(range(len(made)))
            return made
        return value

    def original(self, key: Key) -> Key:
        """Return the way to what is at ``key`` now in the document as it was."""
        value, way = self.value, list[Any]()
        for step in key:
            numbers = self._numbers.get(id(value))
            is_there = numbers is not None and isinstance(step, int) and step < len(numbers)
            way.append(numbers[step] if numbers is not None and is_there and isinstance(step, int) else step)
            value = _member(value, step)
        return tuple(way)

    def is_gone(self, seen: object) -> bool:
        """Say whether ``seen`` is a fact whose declaration was wrong, and is taken out."""
        name = str(seen)
        return any(gone in ("", name) or name.startswith(f"{gone}.") for gone in self._gone)

    def take_out(self, key: Key, meant: str | None = None) -> bool:
        """Take out what is at ``key``, or put in its place what is right, as ``meant`` of attributes.

        Say whether anything was there.
        """
        if key[:1] == ("sql",):
            key = key[:2]  # the whole entry, which may lack something then
        if key[:1] == ("assert",) and key[2:3] != ("when",):
            key = key[:2]  # the whole, which would lack something then
        if key[:1] == ("attributes",):
            if meant is not None and self._declared(key, meant):
                return True
            self._gone.add(".".join(map(str, key[1:])))
        if len(key) > 2 and key[0] == "rules" and key[2] in _RIGHT and not self._has_others(key):
            rule = _member(self.value["rules"], key[1])
            if isinstance(rule, dict):
                rule[str(key[2])] = _RIGHT[str(key[2])]
                return True
        while key:
            around = self.value
            for step in key[:-1]:
                around = _member(around, step)
            last = key[-1]
            if isinstance(around, list) and isinstance(last, int) and last < len(around):
                del around[last], self._numbers[id(around)][last]
                if around or key[0] != "rules" or len(key) < 3:
                    return True
            elif isinstance(around, dict) and last in around:
                if key[0] == "actions" and len(key) == 2 and is_action_name(last) and last not in BUILTIN_SECTIONS:
                    around[last] = BY_RULE  # it is declared, whatever is wrong with what it has
                else:
                    del around[last]
                return True
            key = key[:-1]  # what is missing there makes the whole wrong, and so does a list that has nothing left
        return False

    def _declared(self, key: Key, meant: str) -> bool:
        """Put the holder or the type that was meant in place of another one, so that conditions are looked at."""
        around = _member(self.value, "attributes") if len(key) == 2 else _member(self.value["attributes"], key[1])
        if not isinstance(around, dict) or key[-1] not in around or meant in around:
            return False
        around[meant if len(key) == 2 else str(key[-1])] = around.pop(key[-1]) if len(key) == 2 else meant
        return True

    def _has_others(self, key: Key) -> bool:
        """Say whether the list of a rule, of which ``key`` is an element, has others."""
        entries = _member(_member(self.value["rules"], key[1]), key[2])
        return len(key) == 4 and isinstance(entries, list) and len(entries) > 1


def _member(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step)
    return value[step] if isinstance(value, list) and isinstance(step, int) and step < len(value) else None
