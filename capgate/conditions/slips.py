"""Says what was probably meant by what no condition has: words and signs of other languages, and names of others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .declaration import (
    ACTOR,
    BOOL,
    HOLDERS,
    INT,
    LIST,
    OTHER_HOLDERS,
    STRING,
    TIMESTAMP,
    Declaration,
    nearest,
)
from .instants import parse_timestamp
from .nodes import COMPARISONS, Constant, Fact, Loop, LoopElement, Node, Operation
from .text import text_of

_FIELDS: Final = {
    **dict.fromkeys(("groups", "group", "role"), "roles"),
    **dict.fromkeys(("permissions", "permission", "scope"), "scopes"),
    **dict.fromkeys(("type", "class"), "kind"),
    **dict.fromkeys(("name", "sub", "user_id", "username", "uid"), "id"),
    **dict.fromkeys(("delegator", "delegated_by", "for", "behalf_of"), "on_behalf_of"),
    **dict.fromkeys(("environment", "stage"), "mode"),
}
_WORDS: Final = {
    **{"True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "time": "now", "today": "now"},
    **{"None": "!has(...)", "nil": "!has(...)", "method": "action", "operation": "action"},
}
_FUNCTIONS: Final = {
    **dict.fromkeys(("len", "length", "count", "strlen"), "size"),
    **dict.fromkeys(("any", "some", "exists_one", "anyOf"), "exists"),
    **dict.fromkeys(("every", "forall", "for_all", "allOf"), "all"),
    **dict.fromkeys(("includes", "include", "matches", "indexOf"), "contains"),
    **dict.fromkeys(("date", "datetime", "time", "parse_time"), "timestamp"),
    **dict.fromkeys(("interval", "timedelta", "days", "hours"), "duration"),
    **dict.fromkeys(("defined", "is_set", "present", "exists"), "has"),
    **dict.fromkeys(("hasPrefix", "beginsWith", "prefix"), "startsWith"),
    **dict.fromkeys(("hasSuffix", "suffix"), "endsWith"),
}
_SIGNS: Final = {
    **{"=": "==", "===": "==", "!==": "!=", "<>": "!=", "=>": ">=", "=<": "<=", "&": "&&", "|": "||", "^": "!="},
    **{
        "and": "&&",
        "or": "||",
        "not": "!",
        "not in": "!(... in ...)",
        "is": "==",
        "eq": "==",
        "then": "?",
        "else": ":",
    },
    **{"AND": "&&", "OR": "||", "NOT": "!", "if": "... ? ... : ...", "has": "in", "contains": "in", "IN": "in"},
}
_SIGN: Final = re.compile(r"[=<>!&|^]+|not\s+in\b|[A-Za-z]+")
_BEFORE: Final = re.compile(r"([=<>!&|^]+|\b(?:not|NOT|if)\s+)\Z")
_INDEX: Final = re.compile(r"([a-z_]+(?:\.[a-z0-9_]+)*)\[(['\"])([a-z][a-z0-9_]*)\2\]", re.ASCII)

#: What ``actor.kind`` can be.
ACTOR_KINDS: Final = ("anonymous", "user", "service", "compiler_tool")


def meant_sign(text: str, at: int) -> tuple[int, str, str] | None:
    """Return where the sign begins that no grammar has, of which a part is at ``at``; it, and what was meant."""
    before = _BEFORE.search(text, 0, at)
    for start in (at if before is None else before.start(), at):
        sign = _SIGN.match(text, start)
        seen = "" if sign is None else " ".join(sign[0].split())
        if seen in _SIGNS:
            return start, seen, _SIGNS[seen]
    return None


def meant_name(name: str, declaration: Declaration) -> str | None:
    """Return the fact that was probably meant by ``name``."""
    if name in _WORDS:
        return _WORDS[name]
    root, *fields = name.split(".")
    mapped = [
        OTHER_HOLDERS.get(root.lower(), root.lower()),
        *(_FIELDS.get(field.lower(), field.lower()) for field in fields),
    ]
    for guess in (".".join((mapped[0], *fields)), ".".join(mapped)):
        if declaration.type_of(guess) is not None:
            return guess
    near = declaration.near(name) or declaration.near(".".join((mapped[0], *fields)))
    if near is not None or len(fields) > 1:
        return near
    same = [known for known in declaration.types if known.rpartition(".")[2] == (fields or [root])[-1]]
    return same[0] if len(same) == 1 and root not in (*HOLDERS, "env") else None


def meant_function(name: str, valid: Sequence[str]) -> str | None:
    """Return the function of ``valid`` that was probably meant."""
    other = _FUNCTIONS.get(name)
    return other if other in valid else nearest(name, valid)


def meant_index(text: str, at: int) -> str | None:
    """Return the fact that is looked up at ``at`` as in a map."""
    index = _INDEX.match(text, at)
    return None if index is None else f"{index[1]}.{index[3]}"


def meant_operation(name: str, operands: tuple[Node, ...]) -> str | None:
    """Return text of the operation that was probably meant by one on operands of these types."""
    if len(operands) != 2:
        return None
    left, right = operands
    if {left.type, right.type} == {STRING, LIST} and name in ("eq", "ne", "contains", "in"):
        element, over = (left, right) if left.type == STRING else (right, left)
        holds = Operation(BOOL, "in", (element, over))
        return text_of(Operation(BOOL, "not", (holds,)) if name == "ne" else holds)
    if name == "in" and left.type == right.type == LIST:
        return text_of(Loop("exists", left, 0, Operation(BOOL, "in", (LoopElement(STRING, 0), right))))
    if name in COMPARISONS:
        for at, (literal, other) in enumerate(((left, right), (right, left))):
            if isinstance(literal, Constant) and (meant := _meant_literal(literal, other.type)) is not None:
                return text_of(Operation(BOOL, name, (meant, other) if at == 0 else (other, meant)))
    return None


def _meant_literal(literal: Constant, wanted: str) -> Constant | None:
    value = literal.value
    if not isinstance(value, str):
        return Constant(STRING, str(value)) if wanted == STRING and type(value) is int else None
    if wanted == TIMESTAMP:
        time = parse_timestamp(value) or parse_timestamp(f"{value}T00:00:00Z")
        return None if time is None else Constant(TIMESTAMP, time)
    if wanted == BOOL and value.lower() in ("true", "false"):
        return Constant(BOOL, value.lower() == "true")
    if wanted == INT and value.isascii() and value.isdecimal() and len(value) < 19:
        return Constant(INT, int(value))
    return None


def no_kind(operation: Operation) -> str | None:
    """Return what ``actor.kind`` is compared with and no actor is, if there is any."""
    facts = [node for node in operation.operands if isinstance(node, Fact) and node.name.startswith(f"{ACTOR}.")]
    if operation.name not in ("eq", "ne", "in") or not any(node.name.endswith(".kind") for node in facts):
        return None
    for literal in operation.operands:
        if isinstance(literal, Constant):
            values = literal.value if isinstance(literal.value, tuple) else (literal.value,)
            for value in values:
                if isinstance(value, str) and value not in ACTOR_KINDS:
                    return value
    return None
