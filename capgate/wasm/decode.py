"""Decodes bytes to a :class:`~capgate.wasm.module.Module`.

Whatever arrives, either it decodes or ``DecodeError`` is raised, and nothing else. Bounded by the size of the data,
iterative, without I/O. Decoding is not validation: types are for the engine to check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import DecodeError
from .body import Sequence, read_value_type
from .interruption import check_interrupted
from .leb128 import read_unsigned
from .module import CUSTOM, FUNCREF, KINDS, SECTION_ORDER, Body, Data, Element, Export, Global, Import, Module, Section
from .reader import Reader

MAGIC: Final = b"\0asm"
VERSION: Final = b"\1\0\0\0"

_UNEXPECTED_END: Final = "unexpected end of section or function"
_MAX_LOCALS: Final = 2**32


def decode(data: bytes | bytearray | memoryview, *, bodies: bool = True) -> Module:
    """Decode a binary module. Raises ``DecodeError``; ``TypeError`` for anything that is not bytes.

    With ``bodies=False`` the instructions of functions are not looked at (their spans are), which makes the work
    independent of the amount of code.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a module is bytes, not {type(data).__name__}")
    source = bytes(data)
    try:
        return _Decoder(source, bodies).module()
    except IndexError:
        raise DecodeError(len(source), _UNEXPECTED_END) from None


def check_header(source: bytes, version: bytes = VERSION) -> None:
    """Raise ``DecodeError`` unless ``source`` starts with the magic number and ``version``."""
    if source[:4] != MAGIC:
        raise DecodeError(0, "unexpected end" if len(source) < 4 else "magic header not detected")
    if source[4:8] != version:
        raise DecodeError(4, "unexpected end" if len(source) < 8 else "unknown binary version")


class _Decoder:
    def __init__(self, source: bytes, bodies: bool) -> None:
        self.source = source
        self.bodies = bodies
        self.reader = Reader(source, 8)
        self.out = Module(source, [])
        self.body_count = 0
        self.fields: dict[int, Callable[[], None]] = {
            1: self.type_section,
            2: self.import_section,
            3: self.function_section,
            4: self.table_section,
            5: self.memory_section,
            6: self.global_section,
            7: self.export_section,
            8: self.start_section,
            9: self.element_section,
            10: self.code_section,
            11: self.data_section,
            12: self.data_count_section,
        }

    def module(self) -> Module:
        check_header(self.source)
        rank = -1
        while self.reader.pos < len(self.source):
            section_id = self.source[self.reader.pos]
            if section_id == CUSTOM:
                self.custom_section()
                continue
            if section_id not in SECTION_ORDER:
                raise DecodeError(self.reader.pos, "malformed section id")
            if SECTION_ORDER[section_id] <= rank:
                raise DecodeError(self.reader.pos, "unexpected content after last section")
            rank = SECTION_ORDER[section_id]
            self.known_section(section_id)
        self.check_counts()
        return self.out

    def check_counts(self) -> None:
        end = len(self.source)
        if len(self.out.functions) != len(self.out.code):
            raise DecodeError(end, "function and code section have inconsistent lengths")
        if self.out.data_count is None:
            if self.reader.uses_data:
                raise DecodeError(end, "data count section required")
        elif self.out.data_count != len(self.out.data):
            raise DecodeError(end, "data count and data section have inconsistent lengths")

    def section_start(self) -> tuple[int, int]:
        """Read id and size: where the header starts, and where the section ends."""
        start = self.reader.pos
        self.reader.pos += 1
        size = self.reader.length()
        return start, self.reader.pos + size

    def add_section(self, start: int, payload: int, end: int, name: str | None = None) -> None:
        section = Section(self.source[start], self.source[payload:end], name, self.source[start:payload], payload)
        self.out.sections.append(section)

    def custom_section(self) -> None:
        start, end = self.section_start()
        payload = self.reader.pos
        name = self.reader.name()
        if self.reader.pos > end:
            raise DecodeError(end, "unexpected end")
        self.reader.pos = end
        self.add_section(start, payload, end, name)

    def known_section(self, section_id: int) -> None:
        start, end = self.section_start()
        payload = self.reader.pos
        self.fields[section_id]()
        if self.reader.pos != end:
            raise DecodeError(payload, "section size mismatch")
        self.add_section(start, payload, end)

    def type_section(self) -> None:
        self.out.types = self.reader.vector(self.reader.function_type)

    def import_section(self) -> None:
        self.out.imports = self.reader.vector(self.import_entry)

    def import_entry(self) -> Import:
        read = self.reader
        module, name = read.name(), read.name()
        kind = self.kind("malformed import kind")
        if kind == "function":
            return Import(module, name, kind, read.u32())
        if kind == "table":
            return Import(module, name, kind, read.table_type())
        return Import(module, name, kind, read.memory_type() if kind == "memory" else read.global_type())

    def kind(self, reason: str) -> str:
        start = self.reader.pos
        value = self.reader.byte()
        if value >= len(KINDS):
            raise DecodeError(start, reason)
        return KINDS[value]

    def function_section(self) -> None:
        self.out.functions = self.reader.vector(self.reader.u32)

    def table_section(self) -> None:
        self.out.tables = self.reader.vector(self.reader.table_type)

    def memory_section(self) -> None:
        self.out.memories = self.reader.vector(self.reader.memory_type)

    def global_section(self) -> None:
        self.out.globals = self.reader.vector(lambda: Global(self.reader.global_type(), self.reader.expression()))

    def export_section(self) -> None:
        self.out.exports = self.reader.vector(
            lambda: Export(self.reader.name(), self.kind("malformed export kind"), self.reader.u32())
        )

    def start_section(self) -> None:
        self.out.start = self.reader.u32()

    def data_count_section(self) -> None:
        self.out.data_count = self.reader.u32()

    def element_section(self) -> None:
        self.out.elements = self.reader.vector(self.element_entry)

    def element_entry(self) -> Element:
        """Read an element segment. Its flags: bit 0 passive or declarative, bit 1 explicit table or declarative, bit 2
        expressions, not indices."""
        read = self.reader
        start = read.pos
        flags = read.u32()
        if flags > 7:
            raise DecodeError(start, "malformed elements segment kind")
        mode = ("declarative" if flags & 2 else "passive") if flags & 1 else "active"
        table = read.u32() if mode == "active" and flags & 2 else 0
        offset = read.expression() if mode == "active" else None
        if flags & 4:
            element_type = read.reference_type() if flags & 3 else FUNCREF
            return Element(mode, table, offset, element_type, None, tuple(read.vector(read.expression)))
        if flags & 3:
            self.element_kind()
        return Element(mode, table, offset, FUNCREF, tuple(read.vector(read.u32)), ())

    def element_kind(self) -> None:
        start = self.reader.pos
        if self.reader.byte():
            raise DecodeError(start, "malformed element kind")

    def data_section(self) -> None:
        self.out.data = self.reader.vector(self.data_entry)

    def data_entry(self) -> Data:
        read = self.reader
        start = read.pos
        flags = read.u32()
        if flags > 2:
            raise DecodeError(start, "malformed data segment kind")
        memory = read.u32() if flags == 2 else 0
        offset = None if flags == 1 else read.expression()
        size = read.u32()
        content = read.pos
        if size > len(self.source) - content:
            raise IndexError
        read.pos += size
        return Data("passive" if flags == 1 else "active", memory, offset, content, read.pos, self.source)

    def code_section(self) -> None:
        self.out.code = self.reader.vector(self.code_entry)

    def code_entry(self) -> Body:
        check_interrupted()
        read = self.reader
        start = read.pos
        size = read.u32()
        entry = read.pos
        runs = read.vector(self.local_run)
        if sum(count for count, _ in runs) >= _MAX_LOCALS:
            raise DecodeError(entry, "too many locals")
        code = read.pos
        seen = read.sequence() if self.bodies else Sequence(max(code, entry + size))
        read.pos = seen.end
        if read.pos != entry + size:
            raise DecodeError(start, "section size mismatch")
        return Body(tuple(runs), entry, code, read.pos, seen.nesting, seen.branch_targets, seen.leaves_state)

    def local_run(self) -> tuple[int, int]:
        count = self.reader.u32()
        value_type, self.reader.pos = read_value_type(self.source, self.reader.pos)
        return count, value_type


def read_size(data: bytes, pos: int) -> tuple[int, int]:
    """Read a size in bytes that fits what is left of ``data``: ``(size, position after it)``."""
    size, after = read_unsigned(data, pos)
    if size > len(data) - after:
        raise DecodeError(pos, "length out of bounds")
    return size, after
