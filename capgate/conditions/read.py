"""Reads a condition into a typed tree: ``cel-python`` parses it, and all that is not in the subset is refused by name.

The library is needed where policies are built, and nowhere else: it is the extra ``conditions``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import ConfigError
from .declaration import BOOL, ELEMENT, FLOAT, INT, LIST_OF, ON_BEHALF_OF, ROOTS, STRING, Declaration, nearest
from .instants import parse_duration, parse_timestamp, timestamp_of
from .literals import read_float, read_int, read_string
from .nodes import (
    DEPTH_LIMIT,
    LOOP_LIMIT,
    Choice,
    Constant,
    Fact,
    Has,
    Junction,
    Loop,
    LoopElement,
    Node,
    Operation,
    common_type,
    type_of,
)
from .scan import check_text, mistake
from .slips import ACTOR_KINDS, meant_function, meant_index, meant_name, meant_operation, meant_sign, no_kind

#: Rules of the grammar that only pass on the one thing that they have.
_PASSING: Final = frozenset(
    ["expr", "conditionalor", "conditionaland", "relation", "addition", "multiplication", "unary", "member", "primary"]
)
_RELATIONS: Final = {f"relation_{name}": name for name in ("lt", "le", "gt", "ge", "eq", "ne", "in")}
_ARITHMETIC: Final = {"addition_add": "add", "addition_sub": "sub", "multiplication_mul": "mul"}
_SIGNS: Final = {
    **{"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "in": "in", "not": "!", "neg": "-"},
    **{"add": "+", "sub": "-", "mul": "*", "starts": "startsWith", "ends": "endsWith"},
}
#: What operations take, for people.
_TAKES: Final = {
    **dict.fromkeys(("eq", "ne"), "two values of one type, or two numbers"),
    **dict.fromkeys(("lt", "le", "gt", "ge"), "two numbers, strings, bools, timestamps or durations"),
    **dict.fromkeys(("starts", "ends", "contains"), "two strings"),
    "in": "a value, and a list of such values",
    "not": "a bool; it binds tighter than == and in, so these need parentheses",
    "neg": "an int",
    "add": "two ints, or a timestamp and a duration, or two durations",
    "sub": "two ints, timestamps or durations, or a timestamp and a duration",
    "mul": "two ints",
    "size": "a string or a list",
    "timestamp": "a string or an int",
}
_GLOBALS: Final = ("has", "size", "timestamp", "duration")
_METHODS: Final = {"startsWith": "starts", "endsWith": "ends", "contains": "contains"}
_LOOPS: Final = {"exists": "exists", "all": "all"}
_RECEIVED: Final = (*_METHODS, "size", *_LOOPS)
#: What there is in CEL and not here, by rule of the grammar, and by kind of literal.
_OUTSIDE: Final = {
    "member_index": "an index, [...]",
    "member_object": "a message, Name{...}",
    "map_lit": "a map, {...}",
    "dot_ident": "a name with a dot before it",
    "dot_ident_arg": "a function with a dot before it",
    "multiplication_div": "a division, /",
    "multiplication_mod": "a remainder, %",
    "UINT_LIT": "a uint",
    "BYTES_LIT": "bytes",
    "NULL_LIT": "null",
}
_SUBSET: Final = (
    "literals, fields, has(), == != < <= > >=, in, && || !, ? :, + - * on ints, startsWith, endsWith, contains, size, "
    "timestamp, duration, exists and all"
)
#: Facts that are told where a name is none of them.
_TOLD: Final = 12
_RESERVED: Final = frozenset(
    [
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"),
        *("namespace", "null", "package", "return", "true", "var", "void", "while"),
    ]
)


def read_condition(text: str, declaration: Declaration) -> Node:
    """Return the typed tree of a condition, which gives a bool.

    Raises :class:`ConfigError` for all else, with line, column and the nearest valid name.
    """
    node = read_expression(text, declaration)
    if node.type != BOOL:
        raise mistake(text, 0, f"a value of type {node.type}", "a condition, which gives a bool")
    return node


def read_expression(text: str, declaration: Declaration) -> Node:
    """Return the typed tree of an expression of whatever type. Raises :class:`ConfigError` as for a condition."""
    parse, error = _parser()
    check_text(text)
    try:
        tree = parse(text)
    except error as problem:
        raise _syntax(text, problem) from None
    return _TreeReader(text, declaration).read(tree)


def _parser() -> tuple[Callable[[str], Any], type[Exception]]:
    try:
        from celpy.celparser import CELParseError, CELParser  # needed by those who build
    except ImportError:
        raise ConfigError("when", "no module celpy", "pip install 'capgate[conditions]'") from None
    return CELParser().parse, CELParseError


def _syntax(text: str, problem: Any) -> ConfigError:
    line, column = problem.line, problem.column
    at = len(text)
    if isinstance(line, int) and isinstance(column, int) and line > 0:
        at = min(len(text), sum(map(len, text.split("\n")[: line - 1])) + line - 1 + column - 1)
    meant = meant_sign(text, at)
    if meant is not None:
        return mistake(text, meant[0], meant[1], "a sign that CEL has, as && || ! == != <= >= in", meant[2])
    seen = text[at : at + 20] or "the end"
    return mistake(text, at, seen, "an expression of CEL, whose grammar does not go on so")


class _TreeReader:
    """Makes typed nodes of the parser's tree, and follows what has only one thing in it."""

    def __init__(self, text: str, declaration: Declaration) -> None:
        self._text = text
        self._declaration = declaration
        #: Variables of the loops around, the outermost first, with the types of their elements.
        self._variables: list[tuple[str, str]] = []

    def read(self, tree: Any, depth: int = 0) -> Node:
        while tree.data == "paren_expr" or (tree.data in _PASSING and len(tree.children) == 1):
            tree = tree.children[0]
        if depth >= DEPTH_LIMIT:
            raise self._mistake(tree, f"more than {DEPTH_LIMIT} operations in one another", f"{DEPTH_LIMIT} at most")
        maker: Callable[[Any, int], Node] | None = getattr(self, f"_{tree.data}", None)
        if maker is None:
            raise self._outside(tree, tree.data)
        return maker(tree, depth + 1)

    # -- operators

    def _expr(self, tree: Any, depth: int) -> Node:
        test, then, otherwise = (self.read(child, depth) for child in tree.children)
        if test.type != BOOL:
            raise self._mistake(tree.children[0], f"a {test.type} before ?", "a bool")
        type = common_type(then.type, otherwise.type)
        if type is None:
            raise self._mistake(tree, f"{then.type} : {otherwise.type}", "two values of one type on both sides of :")
        return Choice(type, test, then, otherwise)

    def _conditionalor(self, tree: Any, depth: int) -> Node:
        return self._junction(tree, depth, "or")

    def _conditionaland(self, tree: Any, depth: int) -> Node:
        return self._junction(tree, depth, "and")

    def _junction(self, tree: Any, depth: int, name: str) -> Node:
        rule = tree.data
        operands: list[Any] = []
        while True:  # a && b && c stands as (a && b) && c, however long, with parentheses or without
            inner = _unwrapped(tree)
            if inner.data != rule or len(inner.children) != 2:
                break
            operands.append(inner.children[1])
            tree = inner.children[0]
        parts: list[Node] = []
        for operand in (tree, *reversed(operands)):
            part = self.read(operand, depth)
            if part.type != BOOL:
                sign = "&&" if name == "and" else "||"
                raise self._mistake(operand, f"a value of type {part.type} beside {sign}", "a bool")
            parts += part.parts if isinstance(part, Junction) and part.name == name else (part,)
        return Junction(name, tuple(parts))

    def _relation(self, tree: Any, depth: int) -> Node:
        operator, right = tree.children
        name = _RELATIONS[operator.data]
        if name == "in":
            self._check_in(operator, right)
        return self._operation(tree, name, (operator.children[0], right), depth)

    def _addition(self, tree: Any, depth: int) -> Node:
        operator, right = tree.children
        if operator.data not in _ARITHMETIC:
            raise self._outside(tree, operator.data)
        return self._operation(tree, _ARITHMETIC[operator.data], (operator.children[0], right), depth)

    _multiplication = _addition

    def _unary(self, tree: Any, depth: int) -> Node:
        name = "not" if tree.children[0].data == "unary_not" else "neg"
        return self._operation(tree, name, tree.children[1:], depth)

    def _operation(self, tree: Any, name: str, operands: Sequence[Any], depth: int) -> Node:
        return self._applied(tree, name, tuple(self.read(operand, depth) for operand in operands))

    def _applied(self, tree: Any, name: str, nodes: tuple[Node, ...]) -> Node:
        types = tuple(node.type for node in nodes)
        type = type_of(name, types)
        if type is None:
            near = meant_operation(name, nodes)
            raise self._mistake(tree, f"{_SIGNS.get(name, name)} of {' and '.join(types)}", _TAKES[name], near)
        operation = Operation(type, name, nodes)
        if (other := no_kind(operation)) is not None:
            valid = f"a kind of actor: {', '.join(ACTOR_KINDS)}"
            raise self._mistake(tree, other, valid, nearest(other.lower(), ACTOR_KINDS))
        return operation

    def _check_in(self, operator: Any, right: Any) -> None:
        """Refuse ``inactor``: the parser takes the word apart, where CEL does not."""
        end = getattr(operator.meta, "end_pos", None)
        if end is None or end != getattr(right.meta, "start_pos", None) or self._text[end : end + 1] in "\"'([":
            return
        raise self._mistake(right, self._text[end - 2 : end + 18], "a space behind 'in'")

    # -- literals

    def _literal(self, tree: Any, depth: int) -> Node:
        token = tree.children[0]
        text = str(token)
        if token.type == "BOOL_LIT":
            return Constant(BOOL, text == "true")
        if token.type == "INT_LIT":
            number = read_int(text)
            if number is None:
                raise self._mistake(tree, text, "an int of 64 bits, from -2**63 to 2**63 - 1")
            return Constant(INT, number)
        if token.type == "FLOAT_LIT":
            value = read_float(text)
            if value is None:
                raise self._mistake(tree, text, "a finite number, with digits behind its point")
            return Constant(FLOAT, value)
        if token.type in ("STRING_LIT", "MLSTRING_LIT"):
            string = read_string(text)
            if string is None:
                valid = "the escapes of CEL: \\n and the like, \\x41, \\101, \\u0041, \\U00000041; no surrogates"
                raise self._mistake(tree, text[:40], valid)
            return Constant(STRING, string)
        raise self._outside(tree, token.type)

    def _list_lit(self, tree: Any, depth: int) -> Node:
        elements = [self.read(child, depth) for child in (tree.children[0].children if tree.children else ())]
        values: list[bool | int | float | str] = []
        types = {element.type for element in elements}
        for element in elements:
            if not isinstance(element, Constant) or isinstance(element.value, tuple) or element.type not in LIST_OF:
                raise self._mistake(tree, "a list with something else in it", "a list of literals")
            values.append(element.value)
        if len(types) > 1:
            raise self._mistake(tree, f"a list of {' and '.join(sorted(types))}", "a list of one type")
        return Constant(LIST_OF[next(iter(types), None)], tuple(values))

    # -- names

    def _ident(self, tree: Any, depth: int) -> Node:
        return self._named(tree, str(tree.children[0]))

    def _member_dot(self, tree: Any, depth: int) -> Node:
        return self._named(tree, self._path(tree))

    def _path(self, tree: Any) -> str:
        """Return the dotted name that ``tree`` is. Fields of anything else are refused."""
        fields: list[str] = []
        whole = tree
        while (tree := _unwrapped(tree)).data == "member_dot":
            fields.append(str(tree.children[1]))
            tree = tree.children[0]
        if tree.data != "ident":
            raise self._mistake(whole, f".{fields[-1]} of a value", f"a field of {', '.join(ROOTS[:5])}")
        root = str(tree.children[0])
        if fields and any(root == name for name, _ in self._variables):
            raise self._mistake(whole, f"{root}.{fields[-1]}", "an element without fields")
        return ".".join((root, *reversed(fields)))

    def _named(self, tree: Any, name: str) -> Node:
        for loop, (variable, type) in enumerate(self._variables):
            if name == variable:
                return LoopElement(type, loop)
        fact = self._declaration.type_of(name)
        if fact is None:
            raise self._unknown(tree, name)
        return Fact(fact, name)

    def _unknown(self, tree: Any, name: str) -> ConfigError:
        if name.rpartition(".")[2] == ON_BEHALF_OF and self._declaration.type_of(f"{name}.id") is not None:
            return self._mistake(tree, name, f"a field of it, as {name}.id, or has({name})")
        if name in ROOTS:
            return self._mistake(tree, name, f"a field of it, as {name}.NAME")
        variables = [variable for variable, _ in self._variables]
        near = nearest(name, variables) or meant_name(name, self._declaration)
        root = name.partition(".")[0]
        valid = f"one of {', '.join(ROOTS)}"
        if root in ROOTS:
            known = [fact for fact in sorted(self._declaration.types) if fact.startswith(f"{root}.")]
            valid = f"a fact of {root} that is built in, or in [attributes]: {', '.join(known[:_TOLD])}"
            valid += ", and others" * (len(known) > _TOLD)
        return self._mistake(tree, name, valid, near)

    # -- functions

    def _ident_arg(self, tree: Any, depth: int) -> Node:
        name, arguments = str(tree.children[0]), _arguments(tree, 1)
        if name not in _GLOBALS:
            raise self._no_function(tree, name, _GLOBALS)
        if len(arguments) != 1:
            raise self._mistake(tree, f"{name} of {len(arguments)} values", f"{name} of one")
        if name == "has":
            return self._has(tree, arguments[0])
        if name == "duration":
            return self._duration(tree, self.read(arguments[0], depth))
        if name == "timestamp":
            return self._timestamp(tree, self.read(arguments[0], depth))
        return self._operation(tree, name, arguments, depth)

    def _has(self, tree: Any, argument: Any) -> Node:
        if _unwrapped(argument).data != "member_dot":
            raise self._mistake(tree, "has() of something else", "has() of a field")
        name = self._path(argument)
        delegated = f"{name}.kind"
        if name.rpartition(".")[2] == ON_BEHALF_OF and self._declaration.type_of(delegated) is not None:
            return Has(delegated)  # every actor has a kind
        if self._declaration.type_of(name) is None:
            raise self._unknown(tree, name)
        return Has(name)

    def _duration(self, tree: Any, node: Node) -> Node:
        if node.type == "duration":
            return node
        value = parse_duration(node.value) if isinstance(node, Constant) and isinstance(node.value, str) else None
        if value is None:
            seen = repr(node.value)[:60] if isinstance(node, Constant) else f"duration of {node.type}"
            raise self._mistake(tree, seen, "a literal of whole nanoseconds within 64 bits: duration('1h30m')")
        return Constant("duration", value)

    def _timestamp(self, tree: Any, node: Node) -> Node:
        if node.type == "timestamp":
            return node
        if not isinstance(node, Constant) or node.type not in (STRING, INT):
            return self._applied(tree, "timestamp", (node,))
        time = parse_timestamp(node.value) if isinstance(node.value, str) else timestamp_of(_int(node.value))
        if time is None:
            raise self._mistake(
                tree, repr(node.value)[:60], "a time of years 1 to 9999: timestamp('2027-01-01T00:00:00Z')"
            )
        return Constant("timestamp", time)

    def _member_dot_arg(self, tree: Any, depth: int) -> Node:
        receiver, name, arguments = tree.children[0], str(tree.children[1]), _arguments(tree, 2)
        if name not in _RECEIVED:
            raise self._no_function(tree, name, _RECEIVED)
        wanted = {"size": 0, **dict.fromkeys(_LOOPS, 2)}.get(name, 1)
        if len(arguments) != wanted:
            raise self._mistake(tree, f"{name} with {len(arguments)} values", f"{name} with {wanted}")
        if name in _LOOPS:
            return self._loop(tree, name, receiver, arguments, depth)
        return self._operation(tree, _METHODS.get(name, name), (receiver, *arguments), depth)

    def _loop(self, tree: Any, name: str, receiver: Any, arguments: Sequence[Any], depth: int) -> Node:
        over = self.read(receiver, depth)
        if over.type not in ELEMENT:
            raise self._mistake(receiver, f"{name} over a {over.type}", "a list")
        named = _unwrapped(arguments[0])
        variable = str(named.children[0]) if named.data == "ident" else None
        taken = (*ROOTS, *(name for name, _ in self._variables))
        if variable is None or variable in _RESERVED or variable in taken:
            raise self._mistake(arguments[0], variable or "something else", "a name for the element that is not taken")
        loop = len(self._variables)
        if loop >= LOOP_LIMIT:
            raise self._mistake(tree, f"more than {LOOP_LIMIT} loops in one another", f"{LOOP_LIMIT} at most")
        self._variables.append((variable, ELEMENT[over.type] or STRING))  # of an empty list no element is looked at
        try:
            body = self.read(arguments[1], depth)
        finally:
            self._variables.pop()
        if body.type != BOOL:
            raise self._mistake(arguments[1], f"a {body.type} for each element", "a bool")
        return Loop(name, over, loop, body)

    # -- refusals

    def _no_function(self, tree: Any, name: str, valid: Sequence[str]) -> ConfigError:
        near = name if name in ROOTS else meant_function(name, valid)
        return self._mistake(tree, f"{name}()", f"one of {', '.join(valid)}", near)

    def _outside(self, tree: Any, rule: str) -> ConfigError:
        near = "!has(...)" if rule == "NULL_LIT" else None
        if rule == "member_index":
            near = meant_index(self._text, _place(tree) or 0)
        return self._mistake(tree, _OUTSIDE.get(rule, rule), f"what conditions may have: {_SUBSET}", near)

    def _mistake(self, tree: Any, seen: object, valid: str, near: str | None = None) -> ConfigError:
        return mistake(self._text, _place(tree) or 0, seen, valid, near)


def _place(tree: Any) -> int | None:
    """Return where the first part begins of which the parser says it, as it does not of ``true`` and ``false``."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        at: int | None = getattr(getattr(part, "meta", part), "start_pos", None)
        if at is not None:
            return at
        waiting += reversed(getattr(part, "children", ()))
    return None


def _unwrapped(tree: Any) -> Any:
    while tree.data == "paren_expr" or (tree.data in _PASSING and len(tree.children) == 1):
        tree = tree.children[0]
    return tree


def _arguments(tree: Any, place: int) -> list[Any]:
    return list(tree.children[place].children) if len(tree.children) > place else []


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
