"""Says all that a module needs and may not: each import, and each feature with the first place that uses it.

The decoder stops at the first byte that is not admitted. This reads on, and passes over what it does not understand. So
it is for messages alone, and nothing is admitted by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from ..errors import DecodeError, RestrictedModule
from .interruption import check_interrupted
from .leb128 import read_signed, read_unsigned
from .opcodes import FEATURES, OPCODES
from .proposals import (
    ALL_FEATURES,
    EXTENDED,
    GC_IMMEDIATES,
    IMMEDIATES_OF,
    IMPORT_REMEDIES,
    RELAXED,
    REMEDIES,
    SIMD_IMMEDIATES,
    STRINGREF,
    TYPES,
)

#: Imports that are told; of a longer list the message shows :data:`SHOWN`.
MOST_IMPORTS: Final = 1_000
SHOWN: Final = 20
#: Bytes of code, and items outside of it, that are looked at: three seconds at most.
MOST_CODE: Final = 4_194_304
MOST_ITEMS: Final = 500_000
_SHOWN_NAME: Final = 100

_FUNCTION_TYPE, _SUB, _SUB_FINAL, _STRUCT, _ARRAY, _CONTINUATION, _RECURSIVE = 0x60, 0x50, 0x4F, 0x5F, 0x5E, 0x5D, 0x4E
_SHARED, _LONG, _PAGE_SIZE, _WITH_MEMORY = 2, 4, 8, 0x40
_BLOCK_LIKE: Final = frozenset({0x02, 0x03, 0x04, 0x06, 0x1F})
_END, _DELEGATE = 0x0B, 0x18


class Survey(msgspec.Struct, frozen=True):
    """``features`` with the first place of each, ``imports`` as pairs of module and name."""

    features: dict[str, str]
    imports: tuple[tuple[str, str], ...]


def survey(source: bytes) -> Survey:
    """Look at a core module, or what begins like one. Whatever the bytes are, nothing is raised."""
    scan = Scan(source)
    scan.run()
    return Survey(scan.features, tuple(scan.imports))


def refused_for(
    error: DecodeError | RestrictedModule, source: bytes, admitted: Collection[tuple[str, str]] = ()
) -> DecodeError | RestrictedModule:
    """Return ``error`` with all that ``source`` needs and may not, if that is why it was raised; else as it is.

    ``admitted`` are the imports that it may have.
    """
    seen = survey(source)
    refused = tuple(item for item in seen.imports if item not in admitted)
    imports = [f"{module}.{name}" for module, name in refused]
    if isinstance(error, RestrictedModule):
        return explained(error, seen.features, imports) if seen.features or error.rule == "import" else error
    if not seen.features:
        return error
    return explained(RestrictedModule("feature", next(iter(seen.features.values()))), seen.features, imports)


def explained(error: RestrictedModule, features: Mapping[str, str], imports: Sequence[str]) -> RestrictedModule:
    """Return ``error`` with every feature, each with its place, and every import that is refused, and what to do."""
    parts = [error.detail] if error.detail else []
    if features:
        named = ", ".join(f"{name} ({place}; {REMEDIES[name]})" for name, place in features.items())
        parts.append(f"it needs {named}; {ALL_FEATURES}")
    if imports:
        parts.append(about_imports(imports))
    detail = "; ".join(parts)
    return RestrictedModule(error.rule, error.where, detail, features=tuple(features), imports=tuple(imports))


def about_imports(imports: Sequence[str]) -> str:
    """Return what to say of the names that a module imports, which are its own text, and may go to a log."""
    shown = ", ".join(ascii(name)[:_SHOWN_NAME] for name in imports[:SHOWN])
    more = f", and {len(imports) - SHOWN} more" if len(imports) > SHOWN else ""
    remedies = dict.fromkeys(
        next(remedy for beginning, remedy in IMPORT_REMEDIES if name.startswith(beginning)) for name in imports
    )
    return f"it imports {shown}{more}, and a policy imports nothing: {'; '.join(remedies)}"


class Scan:
    """One look at one module. ``place`` is where it is, for people."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.pos = 0
        self.features: dict[str, str] = {}
        self.imports: list[tuple[str, str]] = []
        self.place = "module"
        self.memories = 0
        self.functions = 0
        self.left = MOST_ITEMS
        self.sections: dict[int, Callable[[], None]] = {
            1: lambda: self.vector(self.recursive_type, "type"),
            2: lambda: self.vector(self.import_entry, "import"),
            4: lambda: self.vector(self.table, "table"),
            5: lambda: self.vector(self.memory, "memory"),
            6: lambda: self.vector(self.global_entry, "global"),
            9: lambda: self.vector(self.element, "element segment"),
            10: self.code,
            11: lambda: self.vector(self.data, "data segment"),
            13: lambda: self.note("exceptions", "tag section"),
            14: lambda: self.note("stringref", "string section"),
        }

    def run(self) -> None:
        whole, pos = self.source, 8
        while pos < len(whole):
            section_id = whole[pos]
            try:
                size, start = read_unsigned(whole, pos + 1)
            except (DecodeError, IndexError):
                return
            pos = start + size
            self.source, self.pos = whole[start:pos], 0  # nothing reads on into another section
            read = self.sections.get(section_id)
            if read is not None:
                self.guarded(read)

    def guarded(self, read: Callable[[], None]) -> None:
        """Call ``read``; where it does not understand something, the rest of what it is for is passed over."""
        try:
            read()
        except (DecodeError, IndexError, RecursionError):
            return

    def note(self, feature: str, place: str | None = None) -> None:
        self.features.setdefault(feature, self.place if place is None else place)

    # What everything consists of

    def byte(self) -> int:
        value = self.source[self.pos]
        self.pos += 1
        return value

    def u32(self, bits: int = 32) -> int:
        value, self.pos = read_unsigned(self.source, self.pos, bits)
        return value

    def name(self) -> str:
        size = self.u32()
        if size > len(self.source) - self.pos:
            raise IndexError
        self.pos += size
        return self.source[self.pos - size : self.pos].decode("utf-8", "replace")

    def vector(self, read: Callable[[], None], what: str = "") -> None:
        for number in range(self.u32()):
            if what:
                self.place = f"{what} {number}"
                check_interrupted()
            self.left -= 1
            if self.left < 0:  # nothing of that size is admitted
                raise IndexError
            read()

    # Types

    def value_type(self) -> None:
        byte = self.byte()
        feature = TYPES.get(byte)
        if feature is not None:
            self.note(feature)
        if byte in (0x63, 0x64):
            self.heap_type()
        elif feature is None and not (0x7C <= byte <= 0x7F or byte in (0x6F, 0x70)):
            raise DecodeError(self.pos - 1, "malformed value type")

    def heap_type(self) -> None:
        byte = self.source[self.pos]
        if byte in TYPES:
            self.note(TYPES[byte])
        elif byte not in (0x6F, 0x70):
            self.note("function-references")
        self.pos = read_signed(self.source, self.pos, 33)[1]

    def recursive_type(self) -> None:
        if self.source[self.pos] == _RECURSIVE:
            self.pos += 1
            self.note("gc")
            self.vector(self.sub_type)
        else:
            self.sub_type()

    def sub_type(self) -> None:
        if self.source[self.pos] in (_SUB, _SUB_FINAL):
            self.pos += 1
            self.note("gc")
            self.vector(self.index)
        form = self.byte()
        if form == _FUNCTION_TYPE:
            self.vector(self.value_type)
            self.vector(self.value_type)
        elif form in (_STRUCT, _ARRAY):
            self.note("gc")
            self.vector(self.field) if form == _STRUCT else self.field()
        elif form == _CONTINUATION:
            self.note("stack-switching")
            self.heap_type()
        else:
            raise DecodeError(self.pos - 1, "malformed function type")

    def field(self) -> None:
        self.value_type()
        self.byte()

    def limits(self) -> None:
        flags = self.u32()
        for bit, feature in ((_SHARED, "threads"), (_LONG, "memory64"), (_PAGE_SIZE, "custom-page-sizes")):
            if flags & bit:
                self.note(feature)
        for _ in range(2 if flags & 1 else 1):
            self.u32(64)
        if flags & _PAGE_SIZE:
            self.u32()

    # Sections

    def import_entry(self) -> None:
        module, name, kind = self.name(), self.name(), self.byte()
        if len(self.imports) < MOST_IMPORTS:
            self.imports.append((module, name))
        if kind == 0:
            self.u32()
            self.functions += 1
        elif kind == 1:
            self.table()
        elif kind == 2:
            self.memory()
        elif kind == 3:
            self.field()
        elif kind == 4:
            self.note("exceptions")
            self.byte()
            self.u32()
        else:
            raise DecodeError(self.pos - 1, "malformed import kind")

    def table(self) -> None:
        with_value = self.source[self.pos] == 0x40
        if with_value:
            self.pos += 2
            self.note("function-references")
        self.value_type()
        self.limits()
        if with_value:
            self.expression()

    def memory(self) -> None:
        self.limits()
        self.memories += 1
        if self.memories > 1:
            self.note("multi-memory")

    def global_entry(self) -> None:
        self.field()
        self.expression()

    def element(self) -> None:
        flags = self.u32()
        if not flags & 1:
            if flags & 2:
                self.u32()
            self.expression()
        if flags & 3 and flags & 4:
            self.value_type()
        elif flags & 3:
            self.byte()
        self.vector(self.expression if flags & 4 else self.index)

    def data(self) -> None:
        flags = self.u32()
        if flags == 2 and self.u32():
            self.note("multi-memory")
        if flags != 1:
            self.expression()
        size = self.u32()
        self.pos += size

    def code(self) -> None:
        section = self.source
        for number in range(self.u32()):
            check_interrupted()
            size = self.u32()
            end = self.pos + size
            if end > MOST_CODE:  # nothing of that size is admitted
                return
            self.place = f"function {self.functions + number}"
            self.source, self.pos = section[self.pos : end], 0
            self.guarded(self.body)
            self.source, self.pos = section, end

    def body(self) -> None:
        self.vector(self.local_run)
        self.instructions()

    def local_run(self) -> None:
        self.u32()
        self.value_type()

    def index(self) -> None:
        self.u32()

    # Instructions

    def expression(self) -> None:
        """Read a constant expression."""
        self.instructions(is_constant=True)

    def instructions(self, *, is_constant: bool = False) -> None:
        depth, source = 1, self.source
        while depth:
            opcode = source[self.pos]
            self.pos += 1
            if not is_constant and (quick := _QUICK[opcode]):
                if quick == _NUMBER:
                    while source[self.pos] >= 0x80:
                        self.pos += 1
                    self.pos += 1
                continue
            if opcode in _BLOCK_LIKE:
                depth += 1
            elif opcode in (_END, _DELEGATE):
                depth -= 1
            if is_constant and opcode in EXTENDED:
                self.note("extended-const")
            self.immediates(opcode)

    def immediates(self, opcode: int) -> None:
        """Note the feature of ``opcode``, which was read, and read its immediates."""
        if opcode in (0xFB, 0xFD, 0xFE):
            self.prefixed(opcode, self.u32())
            return
        code = 0xFC00 | self.u32() if opcode == 0xFC else opcode
        row = OPCODES.get(code)
        if row is None:
            raise DecodeError(self.pos - 1, "illegal opcode")
        if row.feature not in FEATURES:
            self.note(row.feature)
            self.skip(IMMEDIATES_OF.get(code, "-"))
        else:
            self.skip(_ADMITTED[row.immediates])

    def prefixed(self, prefix: int, number: int) -> None:
        if prefix == 0xFB:
            self.note("gc" if number < STRINGREF else "stringref")
            self.skip(GC_IMMEDIATES.get(number, "-"))
        elif prefix == 0xFD:
            self.note("simd" if number < RELAXED else "relaxed-simd")
            self.skip(SIMD_IMMEDIATES.get(number, "-"))
        else:
            self.note("threads")
            self.skip("byte" if number == 3 else "memarg")

    def skip(self, immediates: str) -> None:
        for item in immediates.split():
            if item != "-":
                _READERS[item](self)

    def block_type(self) -> None:
        byte = self.source[self.pos]
        if byte == 0x40:
            self.pos += 1
        elif byte & 0xC0 == 0x40:
            self.value_type()
        else:
            self.pos = read_signed(self.source, self.pos, 33)[1]

    def catches(self) -> None:
        self.block_type()
        for _ in range(self.u32()):
            if self.byte() < 2:
                self.u32()
            self.u32()

    def memory_argument(self) -> None:
        align = self.u32()
        if align & _WITH_MEMORY:
            self.note("multi-memory")
            self.u32()
        self.u32(64)

    def memory_index(self) -> None:
        if self.u32():
            self.note("multi-memory")

    def take(self, count: int) -> None:
        self.pos += count

    def signed(self) -> None:
        self.pos = read_signed(self.source, self.pos, 64)[1]

    def labels(self) -> None:
        for _ in range(self.u32() + 1):
            self.u32()


_READERS: Final[dict[str, Callable[[Scan], object]]] = {
    "u32": Scan.u32,
    "byte": Scan.byte,
    "heap": Scan.heap_type,
    "block": Scan.block_type,
    "catches": Scan.catches,
    "memarg": Scan.memory_argument,
    "memory": Scan.memory_index,
    "signed": Scan.signed,
    "labels": Scan.labels,
    "types": lambda scan: scan.vector(scan.value_type),
    "bytes4": lambda scan: scan.take(4),
    "bytes8": lambda scan: scan.take(8),
    "bytes16": lambda scan: scan.take(16),
}
#: Immediates of :data:`~capgate.wasm.opcodes.IMMEDIATES` -> how they are read here: with memories by number.
_ADMITTED: Final[dict[str, str]] = {
    "-": "-",
    "block": "block",
    **dict.fromkeys(("label", "func", "local", "global", "table", "data", "elem"), "u32"),
    **dict.fromkeys(("indirect", "eleminit", "tables"), "u32 u32"),
    "labels": "labels",
    "types": "types",
    "memarg": "memarg",
    "zero": "memory",
    "zeros": "memory memory",
    "init": "u32 memory",
    **dict.fromkeys(("i32", "i64"), "signed"),
    "f32": "bytes4",
    "f64": "bytes8",
    "ref": "heap",
}


def _quick() -> bytes:
    """Return, for each byte, whether it is an instruction that is admitted and has no immediates, or one number."""
    table = bytearray(256)
    for code, row in OPCODES.items():
        if code < 0x100 and row.feature in FEATURES and code not in (*_BLOCK_LIKE, _END):
            immediates = _ADMITTED.get(row.immediates)
            table[code] = _NOTHING if immediates == "-" else _NUMBER if immediates in ("u32", "signed") else 0
    return bytes(table)


_NOTHING, _NUMBER = 1, 2
_QUICK: Final = _quick()
