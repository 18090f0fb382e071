"""CEL's own conformance cases, and what capgate makes of each: the value, an error, or a refusal when it is built."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from capgate.conditions import Declaration
from capgate.conditions.condition_table import read_table, write_table
from capgate.conditions.nodes import Constant, Node
from capgate.conditions.read import read_expression
from capgate.errors import ConfigError

from ..support.tools import ROOT, require_path

FOLDER = ROOT.parent / "shared" / "cel-conformance"
COUNT = 1_136

_TYPES = {"bool": bool, "int": int, "double": float, "string": str}
_DECLARED = {"bool": "bool", "int": "int", "double": "float", "string": "string", "list": "list"}


class Case(NamedTuple):
    """One case. ``expected`` is the typed value, or ``None`` where the suite expects an error."""

    name: str
    text: str
    declaration: Declaration
    facts: dict[str, object]
    expected: dict[str, Any] | None

    def build(self) -> Node | ConfigError:
        """The tree of the expression, or why it is refused."""
        try:
            return read_expression(self.text, self.declaration)
        except ConfigError as refusal:
            return refusal

    @staticmethod
    def spoken(node: Node) -> list[tuple[str, str]]:
        """The facts of a tree, as they are numbered in its table."""
        return list(read_table(write_table([node])).facts)


def cases() -> list[Case]:
    """Every case, in order. Skips visibly where the suite is absent."""
    require_path(FOLDER)
    return [
        _case(f"{path.stem}/{case['section']}/{case['name']}", case)
        for path in sorted(FOLDER.glob("*.json"))
        for case in json.loads(path.read_text())
    ]


def _case(name: str, case: dict[str, Any]) -> Case:
    """A variable of the suite is an argument of that name here: ``x`` is ``args.x``."""
    text, declared, facts = case["expr"], {}, {}
    for variable, value in case.get("bindings", {}).items():
        (type,) = value
        if re.fullmatch("[a-z]+", variable) is None or variable in ("true", "false", "null"):
            continue  # no variable of a condition can be named so
        declared[variable] = _DECLARED.get(type, "list")
        facts[f"args.{variable}"] = _plain(value)
        text = re.sub(rf"\b{variable}\b", f"args.{variable}", text)
    return Case(name, text, Declaration({"args": declared}), facts, None if "error" in case else case["value"])


def _plain(value: dict[str, Any]) -> Any:
    ((type, content),) = value.items()
    if type == "list":
        return [_plain(element) for element in content]
    return _TYPES[type](content) if type in _TYPES else content


def constant(expected: dict[str, Any], type: str) -> Constant:
    """What the suite expects, as a literal of ``type``."""
    value = _plain(expected)
    return Constant(type, tuple(value) if isinstance(value, list) else value)


def is_value(seen: object, expected: dict[str, Any]) -> bool:
    """Whether ``seen`` is the value that the suite expects, of its very type and sign."""
    ((type, content),) = expected.items()
    if type == "list":
        return isinstance(seen, tuple) and len(seen) == len(content) and all(map(is_value, seen, content))
    if type not in _TYPES:
        return False
    plain = _TYPES[type](content)
    return seen.__class__ is plain.__class__ and repr(seen) == repr(plain)
