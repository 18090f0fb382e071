"""Describes a module as decoded: plain records, in the words of the core specification.

Value types are small ints, the bytes of the binary format: :data:`I32`, :data:`I64`, :data:`F32`, :data:`F64`,
:data:`FUNCREF`, :data:`EXTERNREF`. Offsets and spans count bytes from the start of ``Module.source``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .leb128 import read_unsigned

I32: Final = 0x7F
I64: Final = 0x7E
F32: Final = 0x7D
F64: Final = 0x7C
FUNCREF: Final = 0x70
EXTERNREF: Final = 0x6F
VALUE_TYPES: Final[dict[int, str]] = {
    I32: "i32",
    I64: "i64",
    F32: "f32",
    F64: "f64",
    FUNCREF: "funcref",
    EXTERNREF: "externref",
}

#: Kinds of imports and exports, by the byte of the binary format.
KINDS: Final = ("function", "table", "memory", "global")

#: Section ids by name, in the order in which the format requires them. Custom sections (0) may stand anywhere.
CUSTOM: Final = 0
SECTION_NAMES: Final[dict[int, str]] = {
    1: "type",
    2: "import",
    3: "function",
    4: "table",
    5: "memory",
    6: "global",
    7: "export",
    8: "start",
    9: "element",
    12: "data count",
    10: "code",
    11: "data",
}
SECTION_ORDER: Final[dict[int, int]] = {section: rank for rank, section in enumerate(SECTION_NAMES)}


class Section(msgspec.Struct, frozen=True, gc=False):
    """One section. ``header`` is its id and size as they stand in the file (empty for a section made here).

    ``payload`` is everything after the size, for a custom section the name too; ``offset`` is where the payload starts.
    """

    id: int
    payload: bytes
    name: str | None = None
    header: bytes = b""
    offset: int = 0


class FuncType(msgspec.Struct, frozen=True, gc=False):
    """Parameter and result types."""

    params: tuple[int, ...]
    results: tuple[int, ...]


class TableType(msgspec.Struct, frozen=True, gc=False):
    """Element type, and minimum and maximum number of elements."""

    type: int
    minimum: int
    maximum: int | None


class MemoryType(msgspec.Struct, frozen=True, gc=False):
    """Minimum and maximum, in pages of 64 KiB."""

    minimum: int
    maximum: int | None


class GlobalType(msgspec.Struct, frozen=True, gc=False):
    """Value type, and whether it can be set."""

    type: int
    mutable: bool


class Global(msgspec.Struct, frozen=True, gc=False):
    """A global defined here; ``init`` is its constant expression, ``end`` included."""

    type: GlobalType
    init: bytes


class Import(msgspec.Struct, frozen=True):
    """``kind`` is one of :data:`KINDS`; ``type`` is a type index for a function, else the type itself."""

    module: str
    name: str
    kind: str
    type: int | TableType | MemoryType | GlobalType


class Export(msgspec.Struct, frozen=True, gc=False):
    """``kind`` is one of :data:`KINDS`, ``index`` is in that kind's index space."""

    name: str
    kind: str
    index: int


class Element(msgspec.Struct, frozen=True):
    """An element segment. ``mode`` is active, passive or declarative; an active one has an ``offset`` expression.

    ``functions`` holds function indices, or ``None`` where the items are ``expressions``.
    """

    mode: str
    table: int
    offset: bytes | None
    type: int
    functions: tuple[int, ...] | None
    expressions: tuple[bytes, ...]

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.expressions if self.functions is None else self.functions)


class Data(msgspec.Struct, frozen=True, gc=False):
    """A data segment: ``mode`` is active or passive, ``start`` and ``end`` its bytes' span in ``source``."""

    mode: str
    memory: int
    offset: bytes | None
    start: int
    end: int
    source: bytes

    @property
    def data(self) -> bytes:
        """The bytes themselves, copied when asked for."""
        return self.source[self.start : self.end]


class Body(msgspec.Struct, frozen=True, gc=False):
    """A function body. ``locals`` are runs of (count, value type).

    ``entry`` is where the declarations of the locals start; ``start`` to ``end`` is the code, its ``end`` included.
    ``nesting`` is how deep its blocks go, ``branch_targets`` the length of its longest br_table, ``leaves_state``
    whether it changes a table or drops a segment; 0 and false where the module was decoded without looking into bodies.
    """

    locals: tuple[tuple[int, int], ...]
    entry: int
    start: int
    end: int
    nesting: int = 0
    branch_targets: int = 0
    leaves_state: bool = False

    @property
    def local_count(self) -> int:
        """Declared locals, parameters not included."""
        return sum(count for count, _ in self.locals)


class Module(msgspec.Struct):
    """A decoded module. ``sections`` alone decide what :func:`capgate.wasm.encode` writes; the rest describes them.

    Changed copies come from the functions of :mod:`capgate.wasm.edit`; nothing is changed in place.
    """

    source: bytes
    sections: list[Section]
    types: list[FuncType] = []
    imports: list[Import] = []
    functions: list[int] = []
    tables: list[TableType] = []
    memories: list[MemoryType] = []
    globals: list[Global] = []
    exports: list[Export] = []
    start: int | None = None
    elements: list[Element] = []
    data_count: int | None = None
    code: list[Body] = []
    data: list[Data] = []

    def imported(self, kind: str) -> list[Import]:
        """Return the imports of one kind, in the order of that kind's index space, which they open."""
        return [item for item in self.imports if item.kind == kind]

    def all_memories(self) -> list[MemoryType]:
        """Return the memory index space: imported ones, then those defined here."""
        return [item.type for item in self.imports if isinstance(item.type, MemoryType)] + self.memories

    def all_tables(self) -> list[TableType]:
        """Return the table index space: imported ones, then those defined here."""
        return [item.type for item in self.imports if isinstance(item.type, TableType)] + self.tables

    def function_types(self) -> list[int]:
        """Return the type index of each function, imported ones first."""
        return [item.type for item in self.imports if isinstance(item.type, int)] + self.functions

    def export(self, name: str) -> Export | None:
        """Return the export of that name."""
        return next((item for item in self.exports if item.name == name), None)

    def function_type(self, index: int) -> FuncType:
        """Return the type of a function, imported ones included. ``IndexError`` where a valid module has none."""
        indices = self.function_types()
        if not 0 <= index < len(indices):
            raise IndexError(f"function {index!r} of {len(indices)}")
        return self.types[indices[index]]

    def section(self, section_id: int) -> Section | None:
        """Return the section of that id; not for custom sections."""
        return next((item for item in self.sections if item.id == section_id), None)

    def custom(self, name: str) -> bytes | None:
        """Return the contents of the first custom section of that name, without the name."""
        for item in self.sections:
            if item.id == CUSTOM and item.name == name:
                return custom_content(item)
        return None


def custom_content(section: Section) -> bytes:
    """Return the contents of a custom section, after its name."""
    length, start = read_unsigned(section.payload, 0)
    return section.payload[start + length :]
