"""Encodes modules to bytes, and the pieces that payloads are made of."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from .decode import MAGIC, VERSION
from .leb128 import signed, unsigned
from .module import KINDS, Export, FuncType, GlobalType, Import, MemoryType, Module, Section, TableType


def encode(module: Module) -> bytes:
    """Return the bytes of ``module``: its sections in their order, those of a file exactly as they stood there."""
    parts = [MAGIC, VERSION]
    for item in module.sections:
        parts.append(item.header or section_header(item))
        parts.append(item.payload)
    return b"".join(parts)


def encoded_size(module: Module) -> int:
    """Return how many bytes :func:`encode` would give."""
    return 8 + sum(len(item.header or section_header(item)) + len(item.payload) for item in module.sections)


def section_header(section: Section) -> bytes:
    """Encode id and size of a section."""
    return bytes([section.id]) + unsigned(len(section.payload))


def vector(items: Iterable[bytes]) -> bytes:
    """Encode a counted sequence."""
    parts = list(items)
    return unsigned(len(parts)) + b"".join(parts)


def name(text: str) -> bytes:
    """Encode a name: its length in UTF-8 bytes, and those."""
    content = text.encode("utf-8")
    return unsigned(len(content)) + content


def func_type(value: FuncType) -> bytes:
    return (
        b"\x60"
        + unsigned(len(value.params))
        + bytes(value.params)
        + unsigned(len(value.results))
        + bytes(value.results)
    )


def limits(minimum: int, maximum: int | None) -> bytes:
    return b"\0" + unsigned(minimum) if maximum is None else b"\1" + unsigned(minimum) + unsigned(maximum)


def memory_type(value: MemoryType) -> bytes:
    return limits(value.minimum, value.maximum)


def table_type(value: TableType) -> bytes:
    return bytes([value.type]) + limits(value.minimum, value.maximum)


def import_entry(item: Import) -> bytes:
    code = KINDS.index(item.kind)
    if isinstance(item.type, TableType):
        described = table_type(item.type)
    elif isinstance(item.type, MemoryType):
        described = memory_type(item.type)
    elif isinstance(item.type, GlobalType):
        described = bytes([item.type.type, item.type.mutable])
    else:
        described = unsigned(item.type)
    return name(item.module) + name(item.name) + bytes([code]) + described


def export_entry(item: Export) -> bytes:
    return name(item.name) + bytes([KINDS.index(item.kind)]) + unsigned(item.index)


@lru_cache(4_096)
def i32_const(value: int) -> bytes:
    return b"\x41" + signed(value)


@lru_cache(4_096)
def i64_const(value: int) -> bytes:
    return b"\x42" + signed(value)
