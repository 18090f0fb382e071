"""Writes typed conditions as the bytes that Python and the guest both answer from, and reads such bytes back.

One table has the conditions of a document. The same conditions give the same bytes, and no others are read: whatever
:func:`read_table` takes, :func:`write_table` gives back. Numbers are little-endian. Offsets count from the first byte::

    header     0 "CGW1"    4 size    8 number of facts    12 of constants    16 of conditions
    fact      12 bytes: offset and length of its dotted name, its type. In the order of their bytes, each once
    constant  16 bytes: type, n (u32), a (u64). In the order of type and value, each once
    condition  8 bytes: offset and length of its code
    elements  16 bytes each, as constants are: those of lists
    texts     UTF-8, each once, then the codes, each once

    type       value                        type         value
    1 bool     a is 0 or 1                  5 list       n elements (strings), at offset a
    2 int      a, signed                    6 timestamp  a seconds since 1970, signed, and n nanoseconds
    3 float    a, the bits of IEEE 754      7 duration   a nanoseconds, signed
    4 string   n bytes at offset a          8 9 10 11    lists of bool, int, float, and the empty list

Code is postfix, for a machine with a stack of values, each of which may be an error. Operands follow their instruction.
A jump is the offset in the code at which to go on::

    01 u32  the constant          30 && u16   if the top is false, jump; it stays
    02 u32  the fact, or an error 31          && of the two on top
    03 u32  whether it is there   32 || u16   if the top is true, jump; it stays
    04 u8   the loop's element    33          || of the two on top
    10 and up: operations, in     34 u16 u16  pop; if false jump to the first, if an error, which stays, to the second
            the order of ARITIES  35 u16      jump
    36 u16  exists over the list on top; jump to where its 38 ends if it has no elements, or is an error
    37 u16  all, alike            38          pop; next element, or the result
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, cast

from ..errors import ConfigError
from .declaration import BOOL, DURATION, ELEMENT, FLOAT, INT, LIST, LIST_OF, STRING, TIMESTAMP, is_fact
from .instants import SECOND, is_duration, is_timestamp
from .literals import is_int
from .nodes import (
    ARITIES,
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
    Plain,
    common_type,
    type_of,
)

MAGIC: Final = b"CGW1"
#: Most conditions of one table, most facts that they speak of, and most bytes of one code and of all.
CONDITIONS_LIMIT: Final = 100_000
#: The guest notes where each is. All that can be declared, of five actors, are some fewer.
FACTS_LIMIT: Final = 5_100
CODE_LIMIT: Final = 2**16 - 1
SIZE_LIMIT: Final = 2**28

#: The number of each type.
TYPES: Final[Mapping[str, int]] = {
    **{BOOL: 1, INT: 2, FLOAT: 3, STRING: 4, LIST: 5, TIMESTAMP: 6, DURATION: 7},
    **{LIST_OF[BOOL]: 8, LIST_OF[INT]: 9, LIST_OF[FLOAT]: 10, LIST_OF[None]: 11},
}
_NAMES: Final = {number: type for type, number in TYPES.items()}

CONSTANT, FACT, HAS, ELEMENT_OF = 0x01, 0x02, 0x03, 0x04
#: The instruction of each operation.
OPERATIONS: Final[Mapping[str, int]] = {name: 0x10 + number for number, name in enumerate(ARITIES)}
_OPERATION_NAMES: Final = {code: name for name, code in OPERATIONS.items()}
SKIP_AND, AND, SKIP_OR, OR, CHOOSE, JUMP, EXISTS, ALL, NEXT = range(0x30, 0x39)
_JUNCTIONS: Final = {"and": (SKIP_AND, AND), "or": (SKIP_OR, OR)}
_SKIPS: Final = {SKIP_AND: ("and", AND), SKIP_OR: ("or", OR)}
_LOOPS: Final = {"exists": EXISTS, "all": ALL}
_LOOP_NAMES: Final = {code: name for name, code in _LOOPS.items()}

_HEADER: Final = struct.Struct("<4s4I")
_FACT: Final = struct.Struct("<3I")
VALUE: Final = struct.Struct("<IIQ")
_CONDITION: Final = struct.Struct("<2I")
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_DOUBLE: Final = struct.Struct("<d")
_U64: Final = struct.Struct("<Q")
_MASK: Final = 2**64 - 1


class ConditionTable(NamedTuple):
    """The facts that conditions speak of, as name and type, in the order of their numbers, and the conditions."""

    facts: tuple[tuple[str, str], ...]
    conditions: tuple[Node, ...]


# -- writing


def write_table(conditions: Sequence[Node]) -> bytes:
    """Return the bytes of ``conditions``, each found again at its place.

    Raises :class:`ConfigError` above one of the limits of this module.
    """
    if len(conditions) > CONDITIONS_LIMIT:
        raise ConfigError("when", f"{len(conditions)} conditions", f"{CONDITIONS_LIMIT} at most")
    facts: dict[str, str] = {}
    constants: dict[tuple[int, bytes], Constant] = {}
    keyed: dict[int, tuple[int, bytes]] = {}  # the keys of constants by identity, which ``conditions`` keep
    distinct = {id(condition): condition for condition in conditions}
    for condition in distinct.values():
        for node in walk(condition):
            if isinstance(node, Constant):
                if id(node) not in keyed:  # one that is read may be spoken of often, and be long
                    keyed[id(node)] = _key(node)
                constants[keyed[id(node)]] = node
            elif isinstance(node, Fact):
                facts[node.name] = node.type
            elif isinstance(node, Has):
                facts.setdefault(node.name, "")  # of whatever type, unless it is also spoken of
    if len(facts) > FACTS_LIMIT:
        raise ConfigError("when", f"{len(facts)} facts", f"{FACTS_LIMIT} at most")
    names = sorted(facts, key=str.encode)
    keys = sorted(constants)
    places = {key: at for at, key in enumerate(keys)}
    writer = _Writer(
        {name: number for number, name in enumerate(names)}, {id: places[key] for id, key in keyed.items()}
    )
    written = {key: writer.code(condition) for key, condition in distinct.items()}
    codes = [written[id(condition)] for condition in conditions]
    lists = [constants[key].value for key in keys if isinstance(constants[key].value, tuple)]
    first = _HEADER.size + _FACT.size * len(names) + VALUE.size * len(keys) + _CONDITION.size * len(codes)
    texts = _Texts(first + VALUE.size * sum(len(value) for value in lists if isinstance(value, tuple)))
    parts = [
        *(_FACT.pack(*texts.add(name.encode()), TYPES.get(facts[name], 0)) for name in names),
        *_constants([constants[key] for key in keys], first, texts),
    ]
    elements, parts = parts[len(names) + len(keys) :], parts[: len(names) + len(keys)]
    parts += [_CONDITION.pack(*texts.add(code)) for code in codes]
    content = b"".join((*parts, *elements, *texts.parts))
    size = _HEADER.size + len(content)
    if size > SIZE_LIMIT:
        raise ConfigError("when", f"{size} bytes of conditions", f"{SIZE_LIMIT} at most")
    return _HEADER.pack(MAGIC, size, len(names), len(keys), len(codes)) + content


def code_size(node: Node) -> int:
    """Return how many bytes of code a node is."""
    size = sum(map(code_size, children(node)))
    if isinstance(node, Junction):
        return size + 4 * (len(node.parts) - 1)
    if isinstance(node, Loop):
        return size + 4
    if isinstance(node, Choice):
        return size + 8
    return size + {Operation: 1, LoopElement: 2}.get(type(node), 5)


def walk(node: Node) -> Iterable[Node]:
    """Yield ``node`` and every node in it, in their order."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(children(node))


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes right below ``node``."""
    if isinstance(node, Operation):
        return node.operands
    if isinstance(node, Junction):
        return node.parts
    if isinstance(node, Choice):
        return (node.test, node.then, node.otherwise)
    return (node.over, node.body) if isinstance(node, Loop) else ()


def _depth(node: Node) -> int:
    deepest, level = 0, [node]
    while level:
        deepest, level = deepest + 1, [child for node in level for child in children(node)]
    return deepest


class _Texts:
    """Texts and codes, each once, with the offset at which it lies."""

    def __init__(self, start: int) -> None:
        self.parts: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._end = start

    def add(self, content: bytes) -> tuple[int, int]:
        place = self._places.get(content)
        if place is None:
            place = self._places[content] = self._end
            self.parts.append(content)
            self._end += len(content)
        return place, len(content)


def _constants(constants: Sequence[Constant], first: int, texts: _Texts) -> list[bytes]:
    """Return the records of ``constants``, and behind them those of the elements of lists, which begin at ``first``."""
    records: list[bytes] = []
    elements: list[bytes] = []
    for constant in constants:
        value = constant.value
        if isinstance(value, tuple):
            at = first + VALUE.size * len(elements)
            records.append(VALUE.pack(TYPES[constant.type], len(value), at))
            element = ELEMENT[constant.type] or STRING
            elements += [_record(element, item, texts) for item in value]
        else:
            records.append(_record(constant.type, value, texts))
    return records + elements


def _record(type: str, value: Plain, texts: _Texts) -> bytes:
    number = TYPES[type]
    if isinstance(value, str):
        place, length = texts.add(value.encode())
        return VALUE.pack(number, length, place)
    if isinstance(value, float):
        return VALUE.pack(number, 0, _U64.unpack(_DOUBLE.pack(value))[0])
    whole = cast("int", value)
    if type == TIMESTAMP:
        return VALUE.pack(number, whole % SECOND, whole // SECOND & _MASK)
    return VALUE.pack(number, 0, whole & _MASK)


def _key(constant: Constant) -> tuple[int, bytes]:
    """Return what sorts constants, and tells those apart that Python takes for equal, as 1 and 1.0 or 0.0 and -0.0."""
    value = constant.value
    if isinstance(value, tuple):
        element = ELEMENT[constant.type] or STRING
        keys = [_key(Constant(element, item))[1] for item in value]
        return TYPES[constant.type], b"".join(_U32.pack(len(key)) + key for key in keys)
    if isinstance(value, str):
        return TYPES[constant.type], value.encode()
    if isinstance(value, float):
        return TYPES[constant.type], _DOUBLE.pack(value)
    return TYPES[constant.type], int(value).to_bytes(16, "little", signed=True)


class _Writer:
    """Makes the code of one condition after the other, whose facts and constants, by identity, have these numbers."""

    def __init__(self, facts: Mapping[str, int], constants: Mapping[int, int]) -> None:
        self._facts = facts
        self._constants = constants
        self._code = bytearray()

    def code(self, node: Node) -> bytes:
        self._code = bytearray()
        self._write(node)
        if len(self._code) > CODE_LIMIT:
            raise ConfigError("when", f"{len(self._code)} bytes of code", f"a condition of {CODE_LIMIT} at most")
        return bytes(self._code)

    def _write(self, node: Node) -> None:
        code = self._code
        if isinstance(node, Constant):
            code += bytes([CONSTANT]) + _U32.pack(self._constants[id(node)])
        elif isinstance(node, Fact):
            code += bytes([FACT]) + _U32.pack(self._facts[node.name])
        elif isinstance(node, Has):
            code += bytes([HAS]) + _U32.pack(self._facts[node.name])
        elif isinstance(node, LoopElement):
            code += bytes([ELEMENT_OF, node.loop])
        elif isinstance(node, Operation):
            for operand in node.operands:
                self._write(operand)
            code.append(OPERATIONS[node.name])
        elif isinstance(node, Junction):
            self._junction(node)
        elif isinstance(node, Choice):
            self._choice(node)
        else:
            self._write(node.over)
            code.append(_LOOPS[node.name])
            end = self._hole()
            self._write(node.body)
            code.append(NEXT)
            self._fill(end)

    def _junction(self, node: Junction) -> None:
        skip, join = _JUNCTIONS[node.name]
        self._write(node.parts[0])
        holes = []
        for part in node.parts[1:]:
            self._code.append(skip)
            holes.append(self._hole())
            self._write(part)
            self._code.append(join)
        for hole in holes:
            self._fill(hole)

    def _choice(self, node: Choice) -> None:
        self._write(node.test)
        self._code.append(CHOOSE)
        otherwise, end = self._hole(), self._hole()
        self._write(node.then)
        self._code.append(JUMP)
        after = self._hole()
        self._fill(otherwise)
        self._write(node.otherwise)
        self._fill(end)
        self._fill(after)

    def _hole(self) -> int:
        self._code += b"\0\0"
        return len(self._code) - 2

    def _fill(self, hole: int) -> None:
        _U16.pack_into(self._code, hole, min(len(self._code), CODE_LIMIT))


# -- reading


def read_table(data: bytes) -> ConditionTable:
    """Return what ``data`` has. Raises :class:`ConfigError` for bytes that :func:`write_table` does not give."""
    try:
        table = _read(data)
        if write_table(table.conditions) == data:
            return table
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, _Nonsense):
        pass
    raise ConfigError("when", f"{len(data)} bytes", "conditions as they are compiled, byte for byte")


class _Nonsense(Exception):
    """The bytes say something that is never written."""


def _require(holds: bool) -> None:
    if not holds:
        raise _Nonsense


def _read(data: bytes) -> ConditionTable:
    magic, size, facts, constants, conditions = _HEADER.unpack_from(data)
    _require((magic, size) == (MAGIC, len(data)) and size <= SIZE_LIMIT)
    _require(facts <= FACTS_LIMIT and conditions <= CONDITIONS_LIMIT)
    first = _HEADER.size + _FACT.size * facts
    last = first + VALUE.size * constants
    _require(last + _CONDITION.size * conditions <= size)
    pieces = _Pieces(data)
    named = [pieces.fact(_HEADER.size + _FACT.size * number) for number in range(facts)]
    values = [pieces.constant(first + VALUE.size * number) for number in range(constants)]
    read: dict[tuple[int, int], Node] = {}
    nodes = []
    for number in range(conditions):
        place = _CONDITION.unpack_from(data, last + _CONDITION.size * number)
        if place not in read:
            read[place] = _Code(pieces.bytes(*place), named, values).read()
        nodes.append(read[place])
    return ConditionTable(tuple(named), tuple(nodes))


class _Pieces:
    """What lies at offsets of a table. No piece is read twice, so that all together are no more than the table."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = len(data)
        self._texts: dict[tuple[int, int], str] = {}

    def bytes(self, offset: int, length: int) -> bytes:
        self._left -= length
        _require(offset + length <= len(self._data) and self._left >= 0)
        return self._data[offset : offset + length]

    def text(self, offset: int, length: int) -> str:
        place = offset, length
        if place not in self._texts:
            self._texts[place] = self.bytes(*place).decode()
        return self._texts[place]

    def fact(self, at: int) -> tuple[str, str]:
        offset, length, number = _FACT.unpack_from(self._data, at)
        name, type = self.text(offset, length), "" if number == 0 else _NAMES[number]
        _require(is_fact(name, type or None))
        return name, type

    def constant(self, at: int) -> Constant:
        number, length, bits = VALUE.unpack_from(self._data, at)
        type = _NAMES[number]
        if type not in ELEMENT:
            return Constant(type, self._value(type, length, bits))
        self._left -= VALUE.size * length
        _require(bits + VALUE.size * length <= len(self._data) and self._left >= 0)
        element = ELEMENT[type] or STRING
        values = []
        for place in range(bits, bits + VALUE.size * length, VALUE.size):
            of, n, a = VALUE.unpack_from(self._data, place)
            _require(of == TYPES[element])
            values.append(self._value(element, n, a))
        return Constant(type, tuple(values))

    def _value(self, type: str, n: int, a: int) -> bool | int | float | str:
        if type == STRING:
            return self.text(a, n)
        if type == FLOAT:
            return float(_DOUBLE.unpack(_U64.pack(a))[0])
        if type == BOOL:
            _require(a <= 1)
            return a == 1
        signed = a - 2**64 if a >= 2**63 else a
        value = signed * SECOND + n if type == TIMESTAMP else signed
        _require({TIMESTAMP: is_timestamp, DURATION: is_duration}.get(type, is_int)(value))
        return value


class _Code:
    """The code of one condition, from which its tree is made again, with types that hold."""

    def __init__(self, code: bytes, facts: Sequence[tuple[str, str]], constants: Sequence[Constant]) -> None:
        self._code = code
        self._facts = facts
        self._constants = constants
        self._at = 0
        #: Types of the elements of the loops around.
        self._loops: list[str] = []

    def read(self) -> Node:
        node = self._nodes(0, None, len(self._code))
        _require(self._at == len(self._code) and _depth(node) <= DEPTH_LIMIT)
        return node

    def _nodes(self, depth: int, last: int | None, stop: int) -> Node:
        """Return the one value that is there when instruction ``last`` is read, or ``stop`` is reached."""
        _require(depth <= DEPTH_LIMIT)
        stack: list[Node] = []
        while last is not None or self._at < stop:
            instruction = self._code[self._at]
            self._at += 1
            if instruction == last:
                break
            self._push(instruction, stack, depth)
        _require(len(stack) == 1)
        return stack[0]

    def _push(self, instruction: int, stack: list[Node], depth: int) -> None:
        if instruction == CONSTANT:
            stack.append(self._constants[self._number(_U32)])
        elif instruction == FACT:
            name, type = self._facts[self._number(_U32)]
            _require(type != "")
            stack.append(Fact(type, name))
        elif instruction == HAS:
            stack.append(Has(self._facts[self._number(_U32)][0]))
        elif instruction == ELEMENT_OF:
            loop = self._code[self._at]
            self._at += 1
            stack.append(LoopElement(self._loops[loop], loop))
        elif instruction in _OPERATION_NAMES:
            self._operation(_OPERATION_NAMES[instruction], stack)
        elif instruction in _SKIPS:
            self._junction(instruction, stack, depth)
        elif instruction == CHOOSE:
            self._choice(stack, depth)
        else:
            self._loop(_LOOP_NAMES[instruction], stack, depth)

    def _operation(self, name: str, stack: list[Node]) -> None:
        arity = ARITIES[name]
        _require(len(stack) >= arity)
        operands = tuple(stack[-arity:])
        del stack[-arity:]
        type = type_of(name, tuple(node.type for node in operands))
        _require(type is not None)
        stack.append(Operation(type or "", name, operands))

    def _junction(self, skip: int, stack: list[Node], depth: int) -> None:
        name, join = _SKIPS[skip]
        parts = [stack.pop()]
        end = self._number(_U16)
        while True:
            parts.append(self._nodes(depth + 1, join, end))
            if self._at == end:
                break
            _require(self._code[self._at] == skip)
            self._at += 1
            _require(self._number(_U16) == end)
        _require(all(part.type == BOOL for part in parts))
        stack.append(Junction(name, tuple(parts)))

    def _choice(self, stack: list[Node], depth: int) -> None:
        test = stack.pop()
        otherwise, end = self._number(_U16), self._number(_U16)
        then = self._nodes(depth + 1, JUMP, end)
        _require(self._number(_U16) == end and self._at == otherwise and end <= len(self._code))
        other = self._nodes(depth + 1, None, end)
        type = common_type(then.type, other.type)
        _require(self._at == end and test.type == BOOL and type is not None)
        stack.append(Choice(type or "", test, then, other))

    def _loop(self, name: str, stack: list[Node], depth: int) -> None:
        over = stack.pop()
        end = self._number(_U16)
        _require(over.type in ELEMENT and len(self._loops) < LOOP_LIMIT)
        self._loops.append(ELEMENT[over.type] or STRING)
        body = self._nodes(depth + 1, NEXT, end)
        self._loops.pop()
        _require(self._at == end and body.type == BOOL)
        stack.append(Loop(name, over, len(self._loops), body))

    def _number(self, form: struct.Struct) -> int:
        (number,) = form.unpack_from(self._code, self._at)
        self._at += form.size
        return int(number)
