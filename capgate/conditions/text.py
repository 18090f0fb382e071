"""Writes a condition, or a part of one, as text that says the same."""

from __future__ import annotations

from typing import Final

from .declaration import DURATION, ELEMENT, FLOAT, STRING, TIMESTAMP
from .instants import SECOND, utc
from .nodes import Choice, Constant, Fact, Has, Junction, Loop, LoopElement, Node, Operation, Plain

_INFIX: Final = {
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "in": "in"},
    **{"add": "+", "sub": "-", "mul": "*"},
}
_BINDS: Final = {**dict.fromkeys(("add", "sub"), 4), "mul": 5}
_METHODS: Final = {"starts": "startsWith", "ends": "endsWith", "contains": "contains"}
_ESCAPES: Final = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
#: How tightly things bind: a choice 0, || 1, && 2, comparisons 3, sums 4, products 5, signs 6, all else 7.
_COMPARES, _SIGN, _WHOLE = 3, 6, 7


def text_of(node: Node) -> str:
    """Return CEL that :func:`~capgate.conditions.read.read_expression` reads as ``node``, with as few parentheses."""
    return _text(node)[0]


def _text(node: Node) -> tuple[str, int]:
    """Return the text, and how tightly it binds."""
    if isinstance(node, Constant):
        text = _literal(node.type, node.value)
        return text, _SIGN if text.startswith("-") else _WHOLE
    if isinstance(node, Fact):
        return node.name, _WHOLE
    if isinstance(node, Has):
        return f"has({node.name})", _WHOLE
    if isinstance(node, LoopElement):
        return _variable(node.loop), _WHOLE
    if isinstance(node, Junction):
        binds = 2 if node.name == "and" else 1
        return (" && " if binds == 2 else " || ").join(_in(part, binds + 1) for part in node.parts), binds
    if isinstance(node, Choice):
        return f"{_in(node.test, 1)} ? {_in(node.then, 1)} : {_in(node.otherwise, 0)}", 0
    if isinstance(node, Loop):
        return f"{_in(node.over, _WHOLE)}.{node.name}({_variable(node.loop)}, {_in(node.body, 0)})", _WHOLE
    return _operation(node)


def _operation(node: Operation) -> tuple[str, int]:
    first = node.operands[0]
    if node.name == "neg" and isinstance(first, Constant):
        return f"-({_text(first)[0]})", _SIGN  # -1 is a literal
    if node.name in ("not", "neg"):
        return ("!" if node.name == "not" else "-") + _in(first, _WHOLE), _SIGN
    if len(node.operands) == 1:
        return f"{node.name}({_in(first, 0)})", _WHOLE
    second = node.operands[1]
    if node.name in _METHODS:
        return f"{_in(first, _WHOLE)}.{_METHODS[node.name]}({_in(second, 0)})", _WHOLE
    binds = _BINDS.get(node.name, _COMPARES)
    return f"{_in(first, binds)} {_INFIX[node.name]} {_in(second, binds + 1)}", binds


def _in(node: Node, least: int) -> str:
    text, binds = _text(node)
    return text if binds >= least else f"({text})"


def _variable(loop: int) -> str:
    return "xy"[loop]


def _literal(type: str, value: Plain) -> str:
    if isinstance(value, tuple):
        element = ELEMENT[type] or STRING
        return f"[{', '.join(_literal(element, item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{''.join(map(_character, value))}'"
    if type == TIMESTAMP:
        seconds, rest = divmod(int(value), SECOND)
        return f"timestamp('{utc(seconds)}{f'.{rest:09}'.rstrip('0') if rest else ''}Z')"
    if type == DURATION:
        whole, rest = divmod(int(value), SECOND)
        return f"duration('{value}ns')" if rest else f"duration('{whole}s')"
    if type == FLOAT:
        text = repr(value)
        return text if "." in text or "e" in text else f"{text}.0"
    return str(value)


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else f"\\U{ord(character):08x}"
